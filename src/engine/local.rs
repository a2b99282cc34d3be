//! Commands that need no shard: the connection's own state, and what the server says about itself.

use super::clients::{LibraryInfo, ReplyMode};
use super::{Engine, Outcome, about, clients, cluster, settings};
use crate::command::{Op, Spec};
use crate::connection::{Closing, Connection, Modes};
use crate::metrics::{CRABCACHE_VERSION, REDIS_VERSION};
use crate::number::parse_i64;
use crate::reply::{Reply, ReplyError};
use crate::request::{Args, Wire};

impl Engine {
    pub(super) fn local(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if let Some(reply) = self.local_of_access(index, spec.op, args) {
            return self.answer(index, spec, &reply);
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return Outcome::Answered };
        let reply = match spec.op {
            Op::Ping if connection.modes.has(Modes::SUBSCRIBED) && connection.wire == Wire::Resp2 => match args.len() {
                // Everything is an array in this mode, so that clients can tell messages from answers.
                0 | 1 => Reply::Array(vec![Reply::Bulk(b"pong"), Reply::Bulk(args.iter().next().unwrap_or_default())]),
                _ => wrong_arity(spec),
            },
            Op::Ping => match args.len() {
                0 => Reply::Pong,
                1 => Reply::Bulk(args.get(0)),
                _ => wrong_arity(spec),
            },
            Op::Echo => Reply::Bulk(args.get(0)),
            Op::LastSave => {
                let seconds = self.last_save();
                return self.answer(index, spec, &Reply::Int(seconds));
            }
            Op::Shutdown => {
                let known = |word: &[u8]| {
                    [&b"NOSAVE"[..], b"SAVE", b"NOW", b"FORCE"].iter().any(|known| word.eq_ignore_ascii_case(known))
                };
                if args.iter().any(|word| word.eq_ignore_ascii_case(b"ABORT")) {
                    return self.answer(index, spec, &Reply::error("ERR No shutdown in progress."));
                }
                if !args.iter().all(known) {
                    return self.answer(index, spec, &ReplyError::Syntax.into());
                }
                // No reply: the connection ends with the server.
                self.ask_for_shutdown();
                return Outcome::Answered;
            }
            Op::Time => Reply::Array(vec![
                Reply::owned((self.now.unix_ms / 1000).to_string()),
                Reply::owned(self.now.unix_us_part.to_string()),
            ]),
            Op::Quit => {
                connection.closing = Closing::AfterReplies;
                Reply::Ok
            }
            Op::Select => return self.select(index, spec, args),
            Op::NamespaceUse => return self.use_namespace(index, spec, args),
            Op::Subscribe | Op::PSubscribe | Op::SSubscribe => return self.subscribe(index, spec, args),
            Op::Unsubscribe | Op::PUnsubscribe | Op::SUnsubscribe => return self.unsubscribe(index, spec, args),
            Op::Publish | Op::SPublish => return self.publish(index, spec, args),
            Op::Multi => return self.multi(index, spec),
            Op::Exec => return self.exec(index, spec, args),
            Op::Discard => return self.discard(index, spec, args),
            Op::Watch => return self.watch(index, spec, args),
            Op::ClientTracking => return self.client_tracking(index, spec, args),
            Op::ClientCaching | Op::ClientGetRedir | Op::ClientTrackingInfo => {
                let reply = self.about_tracking(index, spec.op, args);
                return self.answer(index, spec, &reply);
            }
            Op::Wait => return self.wait_for_replicas(index, spec, args),
            Op::Debug => return self.debug(index, spec, args),
            Op::Unwatch => return self.unwatch_all(index, spec, args),
            Op::Reset => return self.reset(index),
            Op::Asking | Op::ReadOnly | Op::ReadWrite => match cluster::require_enabled(&self.config.topology) {
                Ok(()) => {
                    if spec.op != Op::Asking {
                        connection.record.flags.readonly = spec.op == Op::ReadOnly;
                    }
                    Reply::Ok
                }
                Err(error) => error.into(),
            },
            Op::Command
            | Op::CommandCount
            | Op::CommandDocs
            | Op::CommandGetKeys
            | Op::CommandHelp
            | Op::CommandInfo
            | Op::CommandList => about::command_reply(spec.op, args),
            Op::ClusterHelp => match cluster::require_enabled(&self.config.topology) {
                Ok(()) => about::help(spec.op),
                Err(error) => error.into(),
            },
            Op::ConfigGet => settings::config_get(args, &*self.config.settings),
            Op::ConfigRewrite => settings::config_rewrite(&*self.config.settings),
            Op::Cluster
            | Op::ClusterInfo
            | Op::ClusterKeySlot
            | Op::ClusterMyId
            | Op::ClusterNodes
            | Op::ClusterShards
            | Op::ClusterSlots => {
                cluster::cluster_reply(spec.op, args, &self.config.topology, &connection.record.local_address.host())
            }
            Op::ClientId => Reply::Int(connection.record.id as i64),
            Op::ClientGetName => match connection.record.name.as_str() {
                "" => Reply::Nil,
                name => Reply::text(name.to_owned()),
            },
            Op::ClientSetName => match clients::validate_client_name(args.get(0)) {
                Ok(name) => {
                    connection.record.name = name.to_owned();
                    Reply::Ok
                }
                Err(error) => error.into(),
            },
            Op::ClientSetInfo => match clients::LibraryInfo::parse(args) {
                Ok(info) => {
                    match info {
                        LibraryInfo::Name(name) => connection.record.library_name = name.to_owned(),
                        LibraryInfo::Version(version) => connection.record.library_version = version.to_owned(),
                    }
                    Reply::Ok
                }
                Err(error) => error.into(),
            },
            Op::ClientInfo => {
                let line = connection.client_line(self.now);
                Reply::Verbatim((line + "\n").into())
            }
            Op::ClientNoEvict => match clients::parse_on_off(args.get(0)) {
                Ok(on) => {
                    connection.record.flags.no_evict = on;
                    Reply::Ok
                }
                Err(error) => error.into(),
            },
            Op::ClientNoTouch => match clients::parse_on_off(args.get(0)) {
                Ok(on) => {
                    connection.record.flags.no_touch = on;
                    Reply::Ok
                }
                Err(error) => error.into(),
            },
            Op::ClientReply => match ReplyMode::parse(args.get(0)) {
                Ok(mode) => {
                    if !connection.set_reply_mode(mode) {
                        return Outcome::Answered;
                    }
                    Reply::Ok
                }
                Err(error) => error.into(),
            },
            help if spec.name.ends_with("|help") => about::help(help),
            other => unreachable!("{other:?} is not local, or a container, which the decoder answers"),
        };
        if let Reply::Error(error) = &reply {
            self.counters.count_failed(spec.op, error);
        }
        self.write_reply(index, &reply)
    }
}

fn wrong_arity(spec: &'static Spec) -> Reply<'static> {
    Reply::Error(ReplyError::WrongArity { command: spec.name.into() })
}

/// `HELLO [protover [AUTH username password] [SETNAME clientname]]`
struct Hello {
    wire: Option<Wire>,
    name: Option<String>,
    /// Where name and secret stand.
    auth_at: Option<usize>,
}

fn parse_hello(args: Args<'_>) -> Result<Hello, Reply<'static>> {
    let mut hello = Hello { wire: None, name: None, auth_at: None };
    if args.is_empty() {
        return Ok(hello);
    }
    hello.wire = match parse_i64(args.get(0)) {
        Some(2) => Some(Wire::Resp2),
        Some(3) => Some(Wire::Resp3),
        Some(_) => return Err(Reply::error("NOPROTO unsupported protocol version")),
        None => return Err(Reply::error("ERR Protocol version is not an integer or out of range")),
    };
    let mut at = 1;
    while at < args.len() {
        let option = args.get(at);
        let left = args.len() - at - 1;
        if option.eq_ignore_ascii_case(b"auth") && left >= 2 {
            hello.auth_at = Some(at + 1);
            at += 3;
        } else if option.eq_ignore_ascii_case(b"setname") && left >= 1 {
            match clients::validate_client_name(args.get(at + 1)) {
                Ok(valid) => hello.name = Some(valid.to_owned()),
                Err(error) => return Err(error.into()),
            }
            at += 2;
        } else {
            let option = clients::printable(option);
            return Err(Reply::error(format!("ERR Syntax error in HELLO option '{option}'")));
        }
    }
    Ok(hello)
}

impl Engine {
    /// AUTH, HELLO and ACL; None is another command.
    fn local_of_access(&mut self, index: u32, op: Op, args: Args<'_>) -> Option<Reply<'static>> {
        match op {
            Op::Auth => Some(match self.authenticate(index, args) {
                Ok(()) => Reply::Ok,
                Err(error) => error,
            }),
            Op::Hello => Some(self.hello(index, args).unwrap_or_else(|error| error)),
            Op::AclCat | Op::AclList | Op::AclLog | Op::AclUsers | Op::AclWhoAmI => Some(self.acl(index, op, args)),
            _ => None,
        }
    }

    /// Nothing changes unless all of it is right.
    fn hello(&mut self, index: u32, args: Args<'_>) -> Result<Reply<'static>, Reply<'static>> {
        let hello = parse_hello(args)?;
        if let Some(at) = hello.auth_at {
            self.authenticate(index, args.slice(at, 2))?;
        } else if self.must_authenticate(index) {
            return Err(Reply::error(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                 the same time",
            ));
        }
        let cluster = self.config.topology.enabled;
        let Some(connection) = self.connection(index) else { return Ok(Reply::None) };
        Ok(greet(connection, hello, cluster))
    }
}

/// The connection is what HELLO asked for.
fn greet(connection: &mut Connection, hello: Hello, cluster: bool) -> Reply<'static> {
    let wire = hello.wire.unwrap_or(connection.wire);
    if connection.wire != Wire::Binary {
        connection.wire = wire;
    }
    if let Some(name) = hello.name {
        connection.record.name = name;
    }
    let field = |name: &'static str, value| (Reply::Bulk(name.as_bytes()), value);
    Reply::Map(vec![
        field("server", Reply::Bulk(b"redis")),
        field("version", Reply::Bulk(REDIS_VERSION.as_bytes())),
        field("proto", Reply::Int(if wire == Wire::Resp3 { 3 } else { 2 })),
        field("id", Reply::Int(connection.record.id as i64)),
        field("mode", Reply::Bulk(if cluster && connection.own_port { b"cluster" } else { b"standalone" })),
        field("role", Reply::Bulk(b"master")),
        field("modules", Reply::Array(vec![])),
        field("crabcache", Reply::Bulk(CRABCACHE_VERSION.as_bytes())),
    ])
}
