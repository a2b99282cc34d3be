//! COMMAND DOCS: what redis-cli shows as help and hints. The arguments of each command are written here
//! as a manual writes them, and parsed into the maps that clients expect.
//!
//! ```text
//!   word                  a value of that name          WORD        a token
//!   WORD word             a value behind its token      (a|b)       one of them
//!   [item]                optional                      (a b)       several as one
//!   item...               once or more
//! ```

use super::subcommands;
use crate::command::{Op, Spec};
use crate::reply::Reply;

/// The name of a command and the map of what there is to say about it.
pub(super) fn docs(spec: &'static Spec) -> (Reply<'static>, Reply<'static>) {
    let mut fields = vec![
        (Reply::text("summary"), Reply::text(spec.summary)),
        (Reply::text("since"), Reply::text(spec.since)),
        (Reply::text("group"), Reply::text(spec.group)),
    ];
    let arguments = Parser::new(syntax(spec.op)).sequence();
    if !arguments.is_empty() {
        let has_keys = spec.keys.first > 0;
        let arguments = arguments.into_iter().map(|argument| argument.reply(has_keys)).collect();
        fields.push((Reply::text("arguments"), Reply::Array(arguments)));
    }
    let subcommands: Vec<_> = subcommands(spec).map(docs).collect();
    if !subcommands.is_empty() {
        fields.push((Reply::text("subcommands"), Reply::Map(subcommands)));
    }
    (Reply::text(spec.name), Reply::Map(fields))
}

pub(super) fn syntax(op: Op) -> &'static str {
    match op {
        Op::Append | Op::GetSet | Op::SetNx => "key value",
        Op::Decr | Op::Incr | Op::Get | Op::GetDel | Op::StrLen => "key",
        Op::ObjectEncoding | Op::ObjectFreq | Op::ObjectIdleTime | Op::ObjectRefCount => "key",
        Op::MemoryUsage => "key [SAMPLES count]",
        Op::HotKeys => "[count]",
        Op::ExpireTime | Op::PExpireTime | Op::Ttl | Op::PTtl | Op::Persist | Op::Type => "key",
        Op::DecrBy => "key decrement",
        Op::IncrBy | Op::IncrByFloat => "key increment",
        Op::GetEx => "key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|PERSIST]",
        Op::GetFill => "key [FILL] milliseconds [STALE milliseconds]",
        Op::GetRange | Op::SubStr => "key start end",
        Op::MGet | Op::Del | Op::Exists | Op::Touch | Op::Unlink => "key...",
        Op::MSet | Op::MSetNx => "(key value)...",
        Op::PSetEx => "key milliseconds value",
        Op::Put => "key value [seconds]",
        Op::Set => {
            "key value [NX|XX|IFEQ comparison-value|FILL token] [GET] \
             [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]"
        }
        Op::SetEx => "key seconds value",
        Op::SetRange => "key offset value",
        Op::Copy => "source destination [DB destination-db] [REPLACE]",
        Op::Expire => "key seconds [NX|XX|GT|LT]...",
        Op::PExpire => "key milliseconds [NX|XX|GT|LT]...",
        Op::ExpireAt => "key unix-time-seconds [NX|XX|GT|LT]...",
        Op::PExpireAt => "key unix-time-milliseconds [NX|XX|GT|LT]...",
        Op::Keys => "pattern",
        Op::Move => "key db",
        Op::NamespaceUse => "[namespace]",
        Op::NamespaceDel | Op::NamespaceInfo | Op::NamespaceFlush => "namespace",
        Op::NamespaceSet => "namespace (MAX-ITEMS items|MAX-BYTES bytes|TTL milliseconds|MAX-TTL milliseconds)...",
        Op::Rename | Op::RenameNx => "key newkey",
        Op::Scan => "cursor [MATCH pattern] [COUNT count] [TYPE type]",
        Op::CommandDocs | Op::CommandInfo => "[command-name]...",
        Op::CommandGetKeys => "command [arg]...",
        Op::CommandList => "[FILTERBY (MODULE module-name|ACLCAT category|PATTERN pattern)]",
        Op::AclCat => "[category]",
        Op::AclLog => "[count|RESET]",
        Op::ConfigGet => "parameter...",
        Op::ConfigSet => "(parameter value)...",
        Op::FlushAll | Op::FlushDb => "[ASYNC|SYNC]",
        Op::Shutdown => "[NOSAVE|SAVE] [NOW] [FORCE] [ABORT]",
        Op::Wait => "numreplicas timeout",
        Op::Debug => "subcommand [argument]",
        Op::LatencyGraph | Op::LatencyHistory => "event",
        Op::LatencyHistogram => "[command]...",
        Op::LatencyReset => "[event]...",
        Op::SlowLogGet => "[count]",
        Op::ClientPause => "timeout [WRITE|ALL]",
        Op::ClientCaching => "(YES|NO)",
        Op::ClientTracking => "(ON|OFF) [REDIRECT client-id] [PREFIX prefix]... [BCAST] [OPTIN] [OPTOUT] [NOLOOP]",
        Op::ClientUnblock => "client-id [TIMEOUT|ERROR]",
        Op::WaitAof => "numlocal numreplicas timeout",
        Op::Info => "[section]...",
        Op::Watch => "key...",
        Op::Subscribe => "channel...",
        Op::Unsubscribe => "[channel]...",
        Op::PSubscribe => "pattern...",
        Op::PUnsubscribe => "[pattern]...",
        Op::SSubscribe => "shardchannel...",
        Op::SUnsubscribe => "[shardchannel]...",
        Op::Publish => "channel message",
        Op::SPublish => "shardchannel message",
        Op::PubSubChannels | Op::PubSubShardChannels => "[pattern]",
        Op::PubSubNumSub => "[channel]...",
        Op::PubSubShardNumSub => "[shardchannel]...",
        Op::Stats => "[JSON|PROMETHEUS|ANONYMOUS|EXPORTER]",
        Op::Auth => "[username] password",
        Op::ClientKill => {
            "(ip:port|([ID client-id] [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [USER username] [ADDR ip:port] \
             [LADDR ip:port] [SKIPME (YES|NO)] [MAXAGE seconds]))"
        }
        Op::ClientList => "[TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID client-id...]",
        Op::ClientNoEvict | Op::ClientNoTouch => "(ON|OFF)",
        Op::ClientReply => "(ON|OFF|SKIP)",
        Op::ClientSetInfo => "(LIB-NAME libname|LIB-VER libver)",
        Op::ClientSetName => "connection-name",
        Op::Echo => "message",
        Op::Hello => "[protover [AUTH username password] [SETNAME clientname]]",
        Op::Ping => "[message]",
        Op::Select => "index",
        Op::SwapDb => "index1 index2",
        Op::ClusterCountKeysInSlot => "slot",
        Op::ClusterGetKeysInSlot => "slot count",
        Op::ClusterKeySlot => "key",
        _ => "",
    }
}

#[derive(Debug, PartialEq)]
enum Kind {
    Value,
    PureToken,
    OneOf(Vec<Argument>),
    Block(Vec<Argument>),
}

#[derive(Debug, PartialEq)]
struct Argument {
    kind: Kind,
    /// Of a value; lower case.
    name: String,
    token: Option<&'static str>,
    optional: bool,
    multiple: bool,
}

impl Argument {
    fn reply(self, of_keyed_command: bool) -> Reply<'static> {
        let (kind, key_index) = match &self.kind {
            Kind::OneOf(_) => ("oneof", None),
            Kind::Block(_) => ("block", None),
            Kind::PureToken => ("pure-token", None),
            Kind::Value => value_kind(&self.name, of_keyed_command),
        };
        let mut fields =
            vec![(Reply::text("name"), Reply::text(self.name.clone())), (Reply::text("type"), Reply::text(kind))];
        if matches!(self.kind, Kind::Value | Kind::PureToken) {
            fields.push((Reply::text("display_text"), Reply::text(self.name)));
        }
        fields.extend(key_index.map(|index| (Reply::text("key_spec_index"), Reply::Int(index))));
        fields.extend(self.token.map(|token| (Reply::text("token"), Reply::text(token))));
        let flags = [(self.optional, "optional"), (self.multiple, "multiple")];
        let flags: Vec<_> = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| Reply::Status(flag)).collect();
        if !flags.is_empty() {
            fields.push((Reply::text("flags"), Reply::Set(flags)));
        }
        if let Kind::OneOf(arguments) | Kind::Block(arguments) = self.kind {
            let arguments = arguments.into_iter().map(|argument| argument.reply(of_keyed_command)).collect();
            fields.push((Reply::text("arguments"), Reply::Array(arguments)));
        }
        Reply::Map(fields)
    }
}

/// The type of a value, and for a key which of the command's key specifications it belongs to.
fn value_kind(name: &str, of_keyed_command: bool) -> (&'static str, Option<i64>) {
    match name {
        "key" | "source" if of_keyed_command => ("key", Some(0)),
        "destination" | "newkey" => ("key", Some(1)),
        "pattern" => ("pattern", None),
        "unix-time-seconds" | "unix-time-milliseconds" => ("unix-time", None),
        "client-id" | "count" | "cursor" | "decrement" | "destination-db" | "end" | "increment" | "index"
        | "milliseconds" | "offset" | "protover" | "seconds" | "slot" | "start" => ("integer", None),
        _ => ("string", None),
    }
}

/// Reads what [`syntax`] holds; a mistake there is ours and found by the tests.
struct Parser {
    rest: &'static str,
}

impl Parser {
    fn new(syntax: &'static str) -> Parser {
        Parser { rest: syntax }
    }

    /// Items up to the end or to what ends an alternative.
    fn sequence(&mut self) -> Vec<Argument> {
        let mut items: Vec<Argument> = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.is_empty() || self.rest.starts_with([']', ')', '|']) {
                return items;
            }
            items.push(self.item());
        }
    }

    fn item(&mut self) -> Argument {
        let mut item = if self.takes("[") {
            let inner = self.alternatives("]");
            Argument { optional: true, ..inner }
        } else if self.takes("(") {
            self.alternatives(")")
        } else {
            self.word()
        };
        item.multiple |= self.takes("...");
        item
    }

    fn alternatives(&mut self, end: &str) -> Argument {
        let mut all = vec![one_of_sequence(self.sequence())];
        while self.takes("|") {
            all.push(one_of_sequence(self.sequence()));
        }
        assert!(self.takes(end), "{end} is missing before {:?}", self.rest);
        if all.len() == 1 {
            return all.remove(0);
        }
        let name = all.iter().map(|argument| argument.name.as_str()).collect::<Vec<_>>().join("_");
        Argument { kind: Kind::OneOf(all), name, token: None, optional: false, multiple: false }
    }

    fn word(&mut self) -> Argument {
        let end = self.rest.find([' ', '[', ']', '(', ')', '|', '.']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        assert!(!word.is_empty(), "a word is missing before {:?}", self.rest);
        self.rest = rest;
        let token = word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-').then_some(word);
        let kind = if token.is_some() { Kind::PureToken } else { Kind::Value };
        Argument { kind, name: word.to_ascii_lowercase(), token, optional: false, multiple: false }
    }

    fn takes(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

/// Several items as one: a token belongs to the only item behind it, everything else makes a block.
fn one_of_sequence(mut items: Vec<Argument>) -> Argument {
    if items.len() == 1 {
        return items.remove(0);
    }
    let mut token = None;
    if items[0].kind == Kind::PureToken {
        let first = items.remove(0);
        if items.len() == 1 && items[0].token.is_none() {
            let only = items.remove(0);
            return Argument { token: first.token, ..only };
        }
        token = Some(first);
    }
    let name = token.as_ref().unwrap_or(&items[0]).name.clone();
    let token = token.and_then(|argument| argument.token);
    Argument { kind: Kind::Block(items), name, token, optional: false, multiple: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{TABLE, spec_of};

    /// An argument written down again as [`syntax`] has it, to see that nothing was lost.
    fn written(argument: &Argument) -> String {
        let all = |arguments: &[Argument], between| arguments.iter().map(written).collect::<Vec<_>>().join(between);
        let mut text = match &argument.kind {
            Kind::Value => argument.name.clone(),
            Kind::PureToken => argument.name.to_ascii_uppercase(),
            Kind::OneOf(arguments) => all(arguments, "|"),
            Kind::Block(arguments) => all(arguments, " "),
        };
        if let (Some(token), false) = (argument.token, argument.kind == Kind::PureToken) {
            let bare = matches!(argument.kind, Kind::Value | Kind::Block(_));
            text = if bare { format!("{token} {text}") } else { format!("{token} ({text})") };
        }
        let nested = matches!(argument.kind, Kind::OneOf(_) | Kind::Block(_)) && argument.token.is_none();
        match (argument.optional, nested) {
            (true, _) => text = format!("[{text}]"),
            (false, true) => text = format!("({text})"),
            (false, false) => {}
        }
        if argument.multiple { text + "..." } else { text }
    }

    #[test]
    fn every_syntax_is_understood_completely() {
        for spec in TABLE {
            let mut parser = Parser::new(syntax(spec.op));
            let arguments = parser.sequence();
            assert_eq!(parser.rest, "", "{}", spec.name);
            let again = arguments.iter().map(written).collect::<Vec<_>>().join(" ");
            // `[ID x...]` repeats the value behind its token, which the parsed form cannot tell from
            // repeating both; redis-cli shows the former.
            let expected = syntax(spec.op).replace("client-id...]", "client-id]...");
            assert_eq!(again.replace("client-id...]", "client-id]..."), expected, "{}", spec.name);
        }
    }

    #[test]
    fn commands_that_need_arguments_have_a_syntax_and_keys_stand_in_it() {
        for spec in TABLE {
            let arguments = Parser::new(syntax(spec.op)).sequence();
            let needed = arguments.iter().filter(|argument| !argument.optional).count();
            let container = !super::super::subcommands(spec).collect::<Vec<_>>().is_empty();
            if !container {
                assert_eq!(needed > 0, spec.arity.unsigned_abs() as usize > spec.words(), "{}", spec.name);
            }
            let text = format!("{:?}", docs(spec).1);
            // Shard channels are routed like keys, but are none.
            let is_keyed = spec.keys.first > 0 && spec.group != "pubsub";
            let has_keys = is_keyed || super::super::subcommands(spec).any(|sub| sub.keys.first > 0);
            assert_eq!(text.contains("key_spec_index"), has_keys, "{}", spec.name);
        }
    }

    fn field<'a>(reply: &'a Reply<'static>, name: &str) -> Option<&'a Reply<'static>> {
        let Reply::Map(fields) = reply else { panic!("not a map: {reply:?}") };
        fields.iter().find(|(key, _)| *key == Reply::text(name.to_owned())).map(|(_, value)| value)
    }

    #[test]
    fn documents_have_the_fields_of_redis_in_their_order() {
        let (name, get) = docs(spec_of(Op::Get));
        assert_eq!(name, Reply::text("get"));
        let key = Reply::Map(vec![
            (Reply::text("name"), Reply::text("key")),
            (Reply::text("type"), Reply::text("key")),
            (Reply::text("display_text"), Reply::text("key")),
            (Reply::text("key_spec_index"), Reply::Int(0)),
        ]);
        assert_eq!(
            get,
            Reply::Map(vec![
                (Reply::text("summary"), Reply::text("Returns the string value of a key.")),
                (Reply::text("since"), Reply::text("1.0.0")),
                (Reply::text("group"), Reply::text("string")),
                (Reply::text("arguments"), Reply::Array(vec![key])),
            ])
        );
    }

    #[test]
    fn options_of_set_are_told_apart() {
        let (_, set) = docs(spec_of(Op::Set));
        let Some(Reply::Array(arguments)) = field(&set, "arguments") else { panic!("no arguments") };
        assert_eq!(arguments.len(), 5);
        assert_eq!(field(&arguments[2], "type"), Some(&Reply::text("oneof")));
        assert_eq!(field(&arguments[2], "flags"), Some(&Reply::Set(vec![Reply::Status("optional")])));
        let Some(Reply::Array(conditions)) = field(&arguments[2], "arguments") else { panic!("no conditions") };
        assert_eq!(field(&conditions[0], "type"), Some(&Reply::text("pure-token")));
        assert_eq!(field(&conditions[0], "token"), Some(&Reply::text("NX")));
        assert_eq!(field(&conditions[2], "name"), Some(&Reply::text("comparison-value")));
        assert_eq!(field(&conditions[2], "token"), Some(&Reply::text("IFEQ")));
        let Some(Reply::Array(expiry)) = field(&arguments[4], "arguments") else { panic!("no expiry") };
        assert_eq!(field(&expiry[2], "type"), Some(&Reply::text("unix-time")));
    }

    #[test]
    fn containers_hold_the_documents_of_their_subcommands() {
        let (_, config) = docs(spec_of(Op::Config));
        let Some(Reply::Map(subs)) = field(&config, "subcommands") else { panic!("no subcommands") };
        assert_eq!(subs[0].0, Reply::text("config|get"));
        assert_eq!(field(&subs[0].1, "group"), Some(&Reply::text("server")));
        let (_, hello) = docs(spec_of(Op::Hello));
        let text = format!("{hello:?}");
        assert!(text.contains("block") && text.contains("AUTH") && text.contains("protover"), "{text}");
    }
}
