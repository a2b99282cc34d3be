//! DEBUG: what test suites of clients need of a server, for whom `enable-debug-command` lets. Nothing here stops a core,
//! ends the process or shows memory.

use bytes::Bytes;

use super::batch::Job;
use super::clients::{Address, printable};
use super::gather::{Ask, Kind};
use super::{Engine, Outcome};
use crate::command::{Op, Spec, spec_of};
use crate::reply::{Reply, ReplyError};
use crate::request::{Args, Call};

/// Who may use DEBUG.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DebugAccess {
    #[default]
    Nobody,
    /// Clients on this machine.
    Local,
    Everybody,
}

const REFUSED: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run \
     it from a local connection, otherwise you need to set this option in the configuration file, and then restart the \
     server.";

const HELP: [&str; 17] = [
    "DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CHANGE-REPL-ID",
    "    Does nothing: there are no replicas.",
    "ERROR <string>",
    "    Return a Redis protocol error with <string> as message.",
    "LOG <message>",
    "    Does nothing.",
    "OBJECT <key>",
    "    Show low level info about `key` and associated value.",
    "PROTOCOL <type>",
    "    Reply with a test value of the specified type.",
    "SET-ACTIVE-EXPIRE <0|1>",
    "    Setting it to 0 disables expiring keys in background when they are not accessed.",
    "SLEEP <seconds>",
    "    Answer after <seconds>. Decimals allowed. Other clients are served meanwhile.",
    "HELP",
    "    Prints this help.",
];

const TYPES: &str = "ERR Wrong protocol type name. Please use one of the following: \
     string|integer|double|null|array|set|map|push|verbatim|true|false";

/// More is certainly a mistake.
const SLEEP_SECONDS_MAX: f64 = 86_400.0;

impl Engine {
    pub(super) fn debug(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if !self.may_debug(index) {
            return self.answer(index, spec, &Reply::error(REFUSED));
        }
        let rest = args.from(1);
        let reply = match (args.get(0).to_ascii_uppercase().as_slice(), rest.len()) {
            (b"HELP", 0) => Reply::Array(HELP.iter().map(|line| Reply::Status(line)).collect()),
            (b"SLEEP", 1) => {
                // What is no number is 0, as in Redis.
                let seconds = std::str::from_utf8(rest.get(0)).ok().and_then(|text| text.parse::<f64>().ok());
                let seconds = seconds.filter(|seconds| *seconds > 0.0).unwrap_or(0.0).min(SLEEP_SECONDS_MAX);
                if seconds > 0.0 && self.draft.is_none() {
                    let due_us = self.now.uptime_us + (seconds * 1e6) as u64;
                    return self.sleep_until(index, spec, due_us, Reply::Ok, false);
                }
                Reply::Ok
            }
            (b"ERROR", 1) => {
                let text = String::from_utf8_lossy(rest.get(0)).replace(['\r', '\n'], " ");
                Reply::error(text)
            }
            (b"LOG", 1) | (b"CHANGE-REPL-ID", 0) => Reply::Ok,
            (b"SET-ACTIVE-EXPIRE", 1) => {
                let cores = self.config.cores;
                return self.gather(index, spec, Kind::AllOk, |this, gather| {
                    (0..cores).for_each(|core| this.ask_args(gather, core, core, Job::Command, spec, args));
                    cores
                });
            }
            (b"OBJECT", 1) => {
                let core = self.owner_of(rest.get(0));
                let args = args.iter().map(Bytes::copy_from_slice).collect();
                return self.gather(index, spec, Kind::First, |this, gather| {
                    this.ask(gather, Ask { core, part: 0, job: Job::Command, spec, args });
                    1
                });
            }
            (b"PROTOCOL", 1) => protocol_sample(rest.get(0)),
            _ => Reply::error(format!(
                "ERR unknown subcommand or wrong number of arguments for '{}'. Try DEBUG HELP.",
                printable(args.get(0))
            )),
        };
        self.answer(index, spec, &reply)
    }

    fn may_debug(&self, index: u32) -> bool {
        let Some(connection) = self.connections[index as usize].as_deref() else { return false };
        match self.config.debug_access {
            DebugAccess::Nobody => false,
            DebugAccess::Everybody => true,
            DebugAccess::Local => match &connection.record.address {
                Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
                Address::Unix(_) => true,
            },
        }
    }

    /// This core's part: it owns the key, or it is one of all.
    pub(super) fn debug_share(&mut self, args: Args<'_>) -> Reply<'static> {
        if args.get(0).eq_ignore_ascii_case(b"SET-ACTIVE-EXPIRE") {
            self.shard.set_active_expiry(args.get(1) != b"0");
            return Reply::Ok;
        }
        let (now, key) = (self.now, args.from(1));
        let hash = self.config.hasher.hash(key.get(0));
        if !with_effects!(self, effects => self.shard.contains(key.get(0), now, effects)) {
            return ReplyError::NoSuchKey.into();
        }
        let mut ask = |op: Op| -> Reply<'static> {
            let call = Call { spec: spec_of(op), args: key, hash };
            with_effects!(self, effects => self.shard.apply(&call, now, effects)).into_owned()
        };
        let encoding = match ask(Op::ObjectEncoding) {
            Reply::Status(text) => text.to_owned(),
            Reply::Text(text) => text.into_owned(),
            Reply::Owned(text) => String::from_utf8_lossy(&text).into_owned(),
            _ => "raw".to_owned(),
        };
        let int = |reply| if let Reply::Int(number) = reply { number } else { 0 };
        let (bytes, idle_seconds) = (int(ask(Op::StrLen)), int(ask(Op::ObjectIdleTime)));
        Reply::text(format!(
            "Value at:0x0 refcount:1 encoding:{encoding} serializedlength:{bytes} lru:0 lru_seconds_idle:{idle_seconds}"
        ))
    }
}

/// DEBUG PROTOCOL: a reply of each kind.
fn protocol_sample(kind: &[u8]) -> Reply<'static> {
    let ints = || (0..3).map(Reply::Int).collect();
    match kind.to_ascii_lowercase().as_slice() {
        b"string" => Reply::text("Hello World"),
        b"integer" => Reply::Int(12345),
        // Not π: the digits that Redis answers.
        b"double" => Reply::Double(3141.0 / 1000.0),
        b"null" => Reply::Nil,
        b"array" => Reply::Array(ints()),
        b"set" => Reply::Set(ints()),
        b"map" => Reply::Map((0..3).map(|number| (Reply::Int(number), Reply::Bool(number == 1))).collect()),
        b"push" => Reply::Push(vec![Reply::text("server-cpu-usage"), Reply::Int(42)]),
        b"verbatim" => Reply::Verbatim("This is a verbatim\nstring".into()),
        b"true" => Reply::Bool(true),
        b"false" => Reply::Bool(false),
        _ => Reply::error(TYPES),
    }
}
