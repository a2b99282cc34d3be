//! What CLIENT says about connections and asks of them: the line of CLIENT LIST, and the arguments of
//! its subcommands with the errors Redis gives.

use std::fmt;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::command::Spec;
use crate::limits::CLIENT_NAME_BYTES_MAX;
use crate::number::parse_i64;
use crate::pubsub::Counts;
use crate::reply::{Reply, ReplyError};
use crate::request::{Args, Wire};

/// The only user there is.
pub const DEFAULT_USER: &str = "default";

/// One end of a connection, written as Redis writes it: `127.0.0.1:7001`, `[::1]:7001`, `/path:0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// The path of our socket: a Unix client has no address of its own.
    Unix(Arc<str>),
}

impl Address {
    /// The host alone, as [`super::cluster::cluster_reply`] wants it; a v4 client of a v6 listener is a v4
    /// client. A Unix client has none: it can only reach other nodes on the loopback address.
    pub fn host(&self) -> String {
        match self {
            Address::Tcp(address) => address.ip().to_canonical().to_string(),
            Address::Unix(_) => "127.0.0.1".to_owned(),
        }
    }
}

impl Address {
    /// As MONITOR shows it.
    pub fn for_monitors(&self) -> String {
        match self {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix:{path}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "{path}:0"),
        }
    }
}

/// States of a connection that CLIENT LIST shows as letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFlags {
    /// READONLY was sent.
    pub readonly: bool,
    pub close_after_reply: bool,
    /// CLIENT NO-EVICT ON.
    pub no_evict: bool,
    /// CLIENT NO-TOUCH ON.
    pub no_touch: bool,
    /// MONITOR.
    pub monitors: bool,
    /// It waits in a command that blocks.
    pub blocked: bool,
}

/// One connection as CLIENT shows it.
#[derive(Clone, Debug)]
pub struct ClientRecord {
    /// Unique over all cores, growing with the time of connection.
    pub id: u64,
    pub core: u32,
    pub address: Address,
    pub local_address: Address,
    pub fd: i32,
    /// The name of its token.
    pub user: Arc<str>,
    pub name: String,
    pub library_name: String,
    pub library_version: String,
    /// `uptime_us` of the accept.
    pub created_us: u64,
    pub activity: Activity,
    pub flags: ClientFlags,
    /// The one that SELECT chose.
    pub database: u8,
    /// What it listens to.
    pub subscriptions: Counts,
    /// If it tracks: whom it redirects to, whether it is told of prefixes, whether the former is gone.
    pub tracking: Option<(u64, bool, bool)>,
    /// Commands since MULTI.
    pub queued: Option<u32>,
    pub wire: Wire,
    /// Received and not yet carried out, and the room left in that buffer.
    pub query_bytes: usize,
    pub query_bytes_free: usize,
    /// Replies not yet sent.
    pub output_bytes: usize,
}

/// What changes with every command. The connection keeps it within reach; its record has a copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activity {
    /// `uptime_us` of the last command.
    pub last_used_us: u64,
    pub last_command: Option<&'static Spec>,
    pub commands: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
}

impl ClientRecord {
    /// The line of CLIENT LIST and CLIENT INFO, without its newline, at `uptime_us`.
    ///
    /// The fields and their order are those of Redis 7.2, then `core`, `proto` and (named as Redis 8 names
    /// them) the totals. What this server does not have is shown as unused.
    pub fn line(&self, uptime_us: u64) -> String {
        let mut line = String::with_capacity(512);
        self.write_line(&mut line, uptime_us).expect("writing to a String");
        line
    }

    fn write_line(&self, line: &mut String, uptime_us: u64) -> fmt::Result {
        let seconds_since = |then_us: u64| uptime_us.saturating_sub(then_us) / 1_000_000;
        write!(line, "id={} addr={} laddr={} fd={}", self.id, self.address, self.local_address, self.fd)?;
        write!(line, " name={} age={}", self.name, seconds_since(self.created_us))?;
        write!(
            line,
            " idle={} flags={} db={}",
            seconds_since(self.activity.last_used_us),
            self.flag_letters(),
            self.database
        )?;
        let Counts { channels, patterns, shards } = self.subscriptions;
        write!(line, " sub={channels} psub={patterns} ssub={shards} multi={}", self.queued.map_or(-1, i64::from))?;
        write!(line, " qbuf={} qbuf-free={} argv-mem=0 multi-mem=0", self.query_bytes, self.query_bytes_free)?;
        // All output is in one buffer, which Redis calls the list (`oll`, `omem`); there is no fixed one.
        let buffers = (self.output_bytes > 0) as u8;
        write!(line, " rbs=0 rbp=0 obl=0 oll={buffers} omem={}", self.output_bytes)?;
        write!(line, " tot-mem={} events={}", self.memory_bytes(), if buffers > 0 { "rw" } else { "r" })?;
        write!(
            line,
            " cmd={} user={} redir={}",
            self.activity.last_command.map_or("NULL", |spec| spec.name),
            self.user,
            self.tracking.map_or(-1, |(redirect, ..)| redirect as i64)
        )?;
        write!(line, " resp={}", if self.wire == Wire::Resp3 { 3 } else { 2 })?;
        write!(line, " lib-name={} lib-ver={}", self.library_name, self.library_version)?;
        let protocol = match self.wire {
            Wire::Resp2 => "resp2",
            Wire::Resp3 => "resp3",
            Wire::Binary => "binary",
            Wire::Json => "json",
        };
        write!(line, " core={} proto={protocol}", self.core)?;
        let activity = &self.activity;
        write!(
            line,
            " tot-net-in={} tot-net-out={} tot-cmds={}",
            activity.bytes_received, activity.bytes_sent, activity.commands
        )
    }

    fn memory_bytes(&self) -> usize {
        let texts = self.name.len() + self.library_name.len() + self.library_version.len();
        size_of::<ClientRecord>() + texts + self.query_bytes + self.query_bytes_free + self.output_bytes
    }

    fn flag_letters(&self) -> String {
        let flags = [
            (self.flags.monitors, 'O'),
            (!self.subscriptions.is_zero(), 'P'),
            (self.queued.is_some(), 'x'),
            (self.flags.blocked, 'b'),
            (self.flags.close_after_reply, 'c'),
            (self.tracking.is_some(), 't'),
            (self.tracking.is_some_and(|(_, _, is_broken)| is_broken), 'R'),
            (self.tracking.is_some_and(|(_, broadcast, _)| broadcast), 'B'),
            (matches!(self.address, Address::Unix(_)), 'U'),
            (self.flags.readonly, 'r'),
            (self.flags.no_evict, 'e'),
            (self.flags.no_touch, 'T'),
        ];
        let letters: String = flags.into_iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
        if letters.is_empty() { "N".to_owned() } else { letters }
    }
}

/// Joins what the cores answered to CLIENT LIST, each a line per client, into one list in the order of
/// connection.
pub fn merge_lists(parts: &[&str]) -> String {
    let mut lines: Vec<(u64, &str)> =
        parts.iter().flat_map(|part| part.lines()).map(|line| (line_id(line), line)).collect();
    lines.sort_by_key(|(id, _)| *id);
    lines.iter().fold(String::with_capacity(parts.iter().map(|part| part.len()).sum()), |mut list, (_, line)| {
        list.push_str(line);
        list.push('\n');
        list
    })
}

fn line_id(line: &str) -> u64 {
    let id = line.strip_prefix("id=").and_then(|rest| rest.split(' ').next());
    id.and_then(|id| id.parse().ok()).unwrap_or(u64::MAX)
}

/// The kinds of client Redis tells apart. There are no masters and replicas here; they match nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientType {
    Normal,
    Master,
    Replica,
    PubSub,
}

impl ClientType {
    fn of(client: &ClientRecord) -> ClientType {
        if client.subscriptions.is_zero() { ClientType::Normal } else { ClientType::PubSub }
    }

    fn parse(arg: &[u8]) -> Result<ClientType, ReplyError<'static>> {
        Ok(match arg.to_ascii_lowercase().as_slice() {
            b"normal" => ClientType::Normal,
            b"master" => ClientType::Master,
            b"replica" | b"slave" => ClientType::Replica,
            b"pubsub" => ClientType::PubSub,
            _ => return Err(ReplyError::Other(format!("ERR Unknown client type '{}'", printable(arg)).into())),
        })
    }
}

/// The arguments of CLIENT LIST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListFilter {
    Everybody,
    OfType(ClientType),
    /// Sorted, so that a long list costs little per client.
    WithIds(Vec<u64>),
}

impl ListFilter {
    pub fn parse(args: Args<'_>) -> Result<ListFilter, ReplyError<'static>> {
        if args.is_empty() {
            return Ok(ListFilter::Everybody);
        }
        let option = args.get(0);
        if args.len() == 2 && option.eq_ignore_ascii_case(b"type") {
            Ok(ListFilter::OfType(ClientType::parse(args.get(1))?))
        } else if args.len() >= 2 && option.eq_ignore_ascii_case(b"id") {
            let ids = args.from(1).iter().map(|arg| {
                let id = parse_i64(arg).ok_or(ReplyError::Other("ERR Invalid client ID".into()))?;
                // No client has an id of zero, so this stands for any that cannot exist.
                Ok(u64::try_from(id).unwrap_or(0))
            });
            let mut ids = ids.collect::<Result<Vec<u64>, ReplyError<'static>>>()?;
            ids.sort_unstable();
            Ok(ListFilter::WithIds(ids))
        } else {
            Err(ReplyError::Syntax)
        }
    }

    pub fn matches(&self, client: &ClientRecord) -> bool {
        match self {
            ListFilter::Everybody => true,
            ListFilter::OfType(wanted) => *wanted == ClientType::of(client),
            ListFilter::WithIds(ids) => ids.binary_search(&client.id).is_ok(),
        }
    }
}

/// The arguments of CLIENT KILL: `addr:port` alone (the old form), or options that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillFilter {
    old_form: bool,
    id: Option<u64>,
    client_type: Option<ClientType>,
    address: Option<String>,
    local_address: Option<String>,
    user: Option<String>,
    age_seconds_min: Option<u64>,
    skip_me: bool,
}

impl KillFilter {
    /// Arity leaves at least one argument.
    ///
    /// Whether there is a user of that name, `is_user` says.
    pub fn parse(args: Args<'_>, is_user: impl Fn(&[u8]) -> bool) -> Result<KillFilter, ReplyError<'static>> {
        let mut filter = KillFilter {
            old_form: args.len() == 1,
            id: None,
            client_type: None,
            address: None,
            local_address: None,
            user: None,
            age_seconds_min: None,
            skip_me: args.len() > 1,
        };
        if filter.old_form {
            filter.address = Some(address_text(args.get(0)));
            return Ok(filter);
        }
        let error = |text: &'static str| ReplyError::Other(text.into());
        for index in (0..args.len()).step_by(2) {
            if index + 1 == args.len() {
                return Err(ReplyError::Syntax);
            }
            let value = args.get(index + 1);
            match args.get(index).to_ascii_lowercase().as_slice() {
                b"id" => {
                    let id = parse_i64(value).filter(|id| *id > 0);
                    filter.id = Some(id.ok_or_else(|| error("ERR client-id should be greater than 0"))? as u64);
                }
                b"maxage" => {
                    let age = parse_i64(value).ok_or_else(|| error("ERR maxage is not an integer or out of range"))?;
                    if age <= 0 {
                        return Err(error("ERR maxage should be greater than 0"));
                    }
                    filter.age_seconds_min = Some(age as u64);
                }
                b"type" => filter.client_type = Some(ClientType::parse(value)?),
                b"addr" => filter.address = Some(address_text(value)),
                b"laddr" => filter.local_address = Some(address_text(value)),
                b"user" if is_user(value) => filter.user = Some(address_text(value)),
                b"user" => {
                    return Err(ReplyError::Other(format!("ERR No such user '{}'", printable(value)).into()));
                }
                b"skipme" => match value.to_ascii_lowercase().as_slice() {
                    b"yes" => filter.skip_me = true,
                    b"no" => filter.skip_me = false,
                    _ => return Err(ReplyError::Syntax),
                },
                _ => return Err(ReplyError::Syntax),
            }
        }
        Ok(filter)
    }

    /// Whether `client` is to be closed, when the client `self_id` asks for it at `uptime_us`.
    pub fn matches(&self, client: &ClientRecord, self_id: u64, uptime_us: u64) -> bool {
        let age_seconds = uptime_us.saturating_sub(client.created_us) / 1_000_000;
        !(self.skip_me && client.id == self_id)
            && self.id.is_none_or(|id| id == client.id)
            && self.client_type.is_none_or(|wanted| wanted == ClientType::of(client))
            && self.user.as_ref().is_none_or(|user| **user == *client.user)
            && self.age_seconds_min.is_none_or(|least| age_seconds >= least)
            && self.address.as_ref().is_none_or(|address| *address == client.address.to_string())
            && self.local_address.as_ref().is_none_or(|address| *address == client.local_address.to_string())
    }

    /// The answer when `killed` clients of all cores were closed.
    pub fn reply(&self, killed: u64) -> Reply<'static> {
        match (self.old_form, killed) {
            (false, _) => Reply::Int(killed.try_into().unwrap_or(i64::MAX)),
            (true, 0) => Reply::error("ERR No such client"),
            (true, _) => Reply::Ok,
        }
    }
}

/// Addresses are ASCII; what is not can only fail to match.
fn address_text(arg: &[u8]) -> String {
    String::from_utf8_lossy(arg).into_owned()
}

/// CLIENT SETNAME and HELLO … SETNAME: the name, which may be empty to take it away.
pub fn validate_client_name(name: &[u8]) -> Result<&str, ReplyError<'static>> {
    if name.len() > CLIENT_NAME_BYTES_MAX {
        return Err(ReplyError::Other(
            format!("ERR Client names cannot be longer than {CLIENT_NAME_BYTES_MAX} bytes.").into(),
        ));
    }
    visible(name)
        .ok_or(ReplyError::Other("ERR Client names cannot contain spaces, newlines or special characters.".into()))
}

/// CLIENT SETINFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LibraryInfo<'a> {
    Name(&'a str),
    Version(&'a str),
}

impl<'a> LibraryInfo<'a> {
    pub fn parse(args: Args<'a>) -> Result<LibraryInfo<'a>, ReplyError<'static>> {
        let (option, value) = (args.get(0), args.get(1));
        let make = match option.to_ascii_lowercase().as_slice() {
            b"lib-name" => LibraryInfo::Name,
            b"lib-ver" => LibraryInfo::Version,
            _ => {
                return Err(ReplyError::Other(format!("ERR Unrecognized option '{}'", printable(option)).into()));
            }
        };
        if value.len() > CLIENT_NAME_BYTES_MAX {
            let option = printable(option);
            let error = format!("ERR {option} cannot be longer than {CLIENT_NAME_BYTES_MAX} bytes.");
            return Err(ReplyError::Other(error.into()));
        }
        visible(value).map(make).ok_or_else(|| {
            let option = printable(option);
            ReplyError::Other(format!("ERR {option} cannot contain spaces, newlines or special characters.").into())
        })
    }
}

/// The `ON` or `OFF` of CLIENT NO-EVICT and CLIENT NO-TOUCH.
pub fn parse_on_off(arg: &[u8]) -> Result<bool, ReplyError<'static>> {
    match arg.to_ascii_lowercase().as_slice() {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(ReplyError::Syntax),
    }
}

/// CLIENT REPLY. `On` is the only one that is answered itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    On,
    Off,
    /// The next command is not answered either.
    Skip,
}

impl ReplyMode {
    pub fn parse(arg: &[u8]) -> Result<ReplyMode, ReplyError<'static>> {
        match arg.to_ascii_lowercase().as_slice() {
            b"on" => Ok(ReplyMode::On),
            b"off" => Ok(ReplyMode::Off),
            b"skip" => Ok(ReplyMode::Skip),
            _ => Err(ReplyError::Syntax),
        }
    }
}

/// Text of printable ASCII without spaces: anything else would break the line of CLIENT LIST.
fn visible(text: &[u8]) -> Option<&str> {
    text.iter().all(u8::is_ascii_graphic).then(|| str::from_utf8(text).expect("ASCII is UTF-8"))
}

/// What a client sent, fit for a line of text: bounded, and without line ends, escape sequences and other signs
/// that would steer a terminal.
pub(super) fn printable(text: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 128;
    let shown = &text[..text.len().min(SHOWN_BYTES_MAX)];
    String::from_utf8_lossy(shown).replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use crate::request::ArgRange;

    fn client(id: u64) -> ClientRecord {
        ClientRecord {
            id,
            core: 1,
            address: Address::Tcp("127.0.0.1:54516".parse().unwrap()),
            local_address: Address::Tcp("127.0.0.1:7001".parse().unwrap()),
            fd: 12,
            user: DEFAULT_USER.into(),
            name: String::new(),
            library_name: String::new(),
            library_version: String::new(),
            created_us: 5_000_000,
            activity: Activity {
                last_used_us: 12_000_000,
                last_command: None,
                commands: 2,
                bytes_received: 26,
                bytes_sent: 5,
            },
            flags: ClientFlags::default(),
            database: 0,
            subscriptions: Counts::default(),
            tracking: None,
            queued: None,
            wire: Wire::Resp2,
            query_bytes: 0,
            query_bytes_free: 0,
            output_bytes: 0,
        }
    }

    /// Calls `parse` with the words of `line` as arguments.
    fn with_args<R>(line: &str, parse: impl FnOnce(Args<'_>) -> R) -> R {
        let ranges: Vec<ArgRange> = line
            .split_ascii_whitespace()
            .map(|word| ArgRange::inline(word.as_ptr() as usize - line.as_ptr() as usize, word.len()))
            .collect();
        parse(Args::new(line.as_bytes(), &ranges, &[]))
    }

    fn list(line: &str) -> Result<ListFilter, String> {
        with_args(line, |args| ListFilter::parse(args).map_err(|error| error.text().into_owned()))
    }

    fn kill(line: &str) -> Result<KillFilter, String> {
        with_args(line, |args| {
            KillFilter::parse(args, |name| name == b"default").map_err(|error| error.text().into_owned())
        })
    }

    #[test]
    fn a_line_has_the_fields_of_redis_in_their_order() {
        let mut client = client(3);
        client.name = "worker".into();
        client.wire = Wire::Resp3;
        client.activity.last_command = command::lookup_subcommand(command::lookup(b"client").unwrap(), b"list");
        client.library_name = "redis-py".into();
        client.library_version = "5.0.1".into();
        (client.query_bytes, client.query_bytes_free, client.output_bytes) = (26, 38, 100);
        let memory = size_of::<ClientRecord>() + 6 + 8 + 5 + 26 + 38 + 100;
        assert_eq!(
            client.line(15_999_999),
            format!(
                "id=3 addr=127.0.0.1:54516 laddr=127.0.0.1:7001 fd=12 name=worker age=10 idle=3 flags=N db=0 sub=0 \
                 psub=0 ssub=0 multi=-1 qbuf=26 qbuf-free=38 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=1 omem=100 \
                 tot-mem={memory} events=rw cmd=client|list user=default redir=-1 resp=3 lib-name=redis-py \
                 lib-ver=5.0.1 core=1 proto=resp3 tot-net-in=26 tot-net-out=5 tot-cmds=2"
            )
        );
    }

    #[test]
    fn a_silent_client_has_a_line_too() {
        let line = client(1).line(0);
        assert!(line.contains(" name= age=0 idle=0 flags=N "), "{line}");
        assert!(line.contains(" oll=0 omem=0 ") && line.contains(" events=r cmd=NULL "), "{line}");
        assert!(line.contains(" resp=2 lib-name= lib-ver= "), "{line}");
        assert!(line.split(' ').all(|field| field.contains('=')));
    }

    #[test]
    fn flags_and_addresses() {
        let mut client = client(1);
        client.address = Address::Unix("/run/cache.sock".into());
        client.flags = ClientFlags {
            readonly: true,
            close_after_reply: true,
            no_evict: true,
            no_touch: true,
            monitors: true,
            blocked: false,
        };
        let line = client.line(0);
        assert!(line.contains("addr=/run/cache.sock:0 ") && line.contains(" flags=OcUreT "), "{line}");
        assert_eq!(client.address.host(), "127.0.0.1");
        let v6 = Address::Tcp("[::1]:7001".parse().unwrap());
        assert_eq!((v6.to_string().as_str(), v6.host().as_str()), ("[::1]:7001", "::1"));
        assert_eq!(Address::Tcp("[::ffff:192.0.2.7]:7001".parse().unwrap()).host(), "192.0.2.7");
    }

    #[test]
    fn lists_of_cores_are_merged_by_id() {
        let one = format!("{}\n{}\n", client(12).line(0), client(3).line(0));
        let two = format!("{}\n", client(7).line(0));
        let merged = merge_lists(&[&one, &two, ""]);
        let ids: Vec<u64> = merged.lines().map(line_id).collect();
        assert_eq!(ids, [3, 7, 12]);
        assert_eq!(merged.len(), one.len() + two.len());
        assert_eq!(merge_lists(&[]), "");
    }

    #[test]
    fn list_filters() {
        let (three, four) = (client(3), client(4));
        assert!(list("").unwrap().matches(&three));
        let listening = ClientRecord { subscriptions: Counts { patterns: 1, ..Counts::default() }, ..client(5) };
        assert!(list("type pubsub").unwrap().matches(&listening) && !list("type normal").unwrap().matches(&listening));
        assert!(listening.line(0).contains(" flags=P db=0 sub=0 psub=1 ssub=0 "));
        assert!(list("TYPE Normal").unwrap().matches(&three));
        for absent in ["type master", "type replica", "type slave", "TYPE PUBSUB"] {
            assert!(!list(absent).unwrap().matches(&three), "{absent}");
        }
        let ids = list("ID 9 3 -7 0").unwrap();
        assert!(ids.matches(&three) && !ids.matches(&four));
    }

    #[test]
    fn list_errors_are_those_of_redis() {
        assert_eq!(list("type foo").unwrap_err(), "ERR Unknown client type 'foo'");
        assert_eq!(list("id a").unwrap_err(), "ERR Invalid client ID");
        assert_eq!(list("id 5 type normal").unwrap_err(), "ERR Invalid client ID");
        for line in ["type", "type normal x", "id", "foo", "foo bar"] {
            assert_eq!(list(line).unwrap_err(), "ERR syntax error", "{line}");
        }
    }

    #[test]
    fn the_old_kill_form_names_an_address_and_may_hit_the_caller() {
        let filter = kill("127.0.0.1:54516").unwrap();
        assert!(filter.matches(&client(3), 3, 0));
        assert!(!kill("127.0.0.1:1").unwrap().matches(&client(3), 3, 0));
        assert_eq!(filter.reply(1), Reply::Ok);
        assert_eq!(filter.reply(0), Reply::error("ERR No such client"));
        // A lone option name is an address nobody has, as in Redis.
        assert_eq!(kill("id").unwrap().reply(0), Reply::error("ERR No such client"));
    }

    #[test]
    fn kill_options_must_all_hold() {
        let me = 9;
        let hits = |line: &str, id| kill(line).unwrap().matches(&client(id), me, 65_000_000);
        assert!(hits("ID 3", 3) && !hits("ID 3", 4));
        assert!(hits("id 999 ID 3", 3), "the last one counts");
        assert!(hits("type normal", 3) && !hits("type normal", me));
        assert!(hits("type normal skipme NO", me) && !hits("id 9 skipme yes", me));
        assert!(!hits("type pubsub", 3));
        assert!(hits("user default", 3));
        assert!(hits("addr 127.0.0.1:54516 laddr 127.0.0.1:7001", 3));
        assert!(!hits("addr 127.0.0.1:54516 laddr 127.0.0.1:7002", 3));
        assert!(hits("maxage 60", 3) && !hits("maxage 61", 3), "the clients are a minute old");
        assert_eq!(kill("id 3").unwrap().reply(0), Reply::Int(0));
        assert_eq!(kill("type normal").unwrap().reply(17), Reply::Int(17));
    }

    #[test]
    fn kill_errors_are_those_of_redis() {
        for line in ["id foo", "id 0", "id -1"] {
            assert_eq!(kill(line).unwrap_err(), "ERR client-id should be greater than 0", "{line}");
        }
        for line in ["foo bar", "id 1 foo", "skipme maybe", "id 1 skipme"] {
            assert_eq!(kill(line).unwrap_err(), "ERR syntax error", "{line}");
        }
        assert_eq!(kill("type foo").unwrap_err(), "ERR Unknown client type 'foo'");
        assert_eq!(kill("user nosuch").unwrap_err(), "ERR No such user 'nosuch'");
        assert_eq!(kill("maxage x").unwrap_err(), "ERR maxage is not an integer or out of range");
        assert_eq!(kill("maxage 0").unwrap_err(), "ERR maxage should be greater than 0");
    }

    #[test]
    fn names_are_visible_ascii() {
        assert_eq!(validate_client_name(b"worker-1"), Ok("worker-1"));
        assert_eq!(validate_client_name(b""), Ok(""));
        assert_eq!(validate_client_name(&[b'n'; 1024]).map(str::len), Ok(1024));
        let long = validate_client_name(&[b'n'; 1025]).unwrap_err();
        assert_eq!(long.text(), "ERR Client names cannot be longer than 1024 bytes.");
        for bad in [&b"a b"[..], b"a\n", b"\x7f", b"\xc3\xa9", b"\0"] {
            assert_eq!(
                validate_client_name(bad).unwrap_err().text(),
                "ERR Client names cannot contain spaces, newlines or special characters."
            );
        }
    }

    #[test]
    fn library_info() {
        let parse = |option: &str, value: &str| {
            let ranges = [ArgRange::inline(0, option.len()), ArgRange::inline(option.len(), value.len())];
            let bytes = [option, value].concat();
            match LibraryInfo::parse(Args::new(bytes.as_bytes(), &ranges, &[])) {
                Ok(info) => format!("{info:?}"),
                Err(error) => error.text().into_owned(),
            }
        };
        assert_eq!(parse("LIB-NAME", "redis-py"), "Name(\"redis-py\")");
        assert_eq!(parse("lib-ver", ""), "Version(\"\")");
        assert_eq!(parse("lib-foo", "x"), "ERR Unrecognized option 'lib-foo'");
        assert_eq!(parse("a\r\nb", "x"), "ERR Unrecognized option 'a  b'", "no reply may be split in two");
        assert_eq!(
            parse("LIB-NAME", "two words"),
            "ERR LIB-NAME cannot contain spaces, newlines or special characters."
        );
    }

    #[test]
    fn switches() {
        assert_eq!((parse_on_off(b"ON"), parse_on_off(b"off")), (Ok(true), Ok(false)));
        assert_eq!(parse_on_off(b"maybe"), Err(ReplyError::Syntax));
        assert_eq!(ReplyMode::parse(b"ON"), Ok(ReplyMode::On));
        assert_eq!(ReplyMode::parse(b"Off"), Ok(ReplyMode::Off));
        assert_eq!(ReplyMode::parse(b"skip"), Ok(ReplyMode::Skip));
        assert_eq!(ReplyMode::parse(b""), Err(ReplyError::Syntax));
    }

    #[test]
    fn what_clients_sent_is_bounded_in_error_texts() {
        assert_eq!(printable(&[b'x'; 1000]).len(), 128);
        assert!(!printable(b"a\r\n-b\0").contains(['\r', '\n', '\0']));
    }
}
