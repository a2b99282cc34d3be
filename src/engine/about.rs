//! COMMAND: what the command table says about itself, in the shapes clients parse.
//!
//! Everything is derived from [`command::TABLE`]; only what the table has no column for (what is done to
//! a key, hints for routing clients) stands here, by operation.

mod docs;
mod help;

use std::borrow::Cow;

use super::settings::matches_ignoring_case;
use crate::command::{self, Flags, Op, Route, Spec, TABLE};
use crate::reply::{Reply, ReplyError};
use crate::request::Args;

/// COMMAND and its subcommands.
pub fn command_reply(op: Op, args: Args<'_>) -> Reply<'static> {
    match op {
        Op::Command => Reply::Array(top_level().map(info).collect()),
        Op::CommandCount => Reply::Int(top_level().count() as i64),
        Op::CommandDocs if args.is_empty() => Reply::Map(top_level().map(docs::docs).collect()),
        Op::CommandDocs => Reply::Map(args.iter().filter_map(lookup_full_name).map(docs::docs).collect()),
        Op::CommandHelp => help(op),
        Op::CommandGetKeys => get_keys(args).map_or_else(Reply::Error, Reply::Array),
        Op::CommandInfo if args.is_empty() => Reply::Array(top_level().map(info).collect()),
        Op::CommandInfo => {
            Reply::Array(args.iter().map(|name| lookup_full_name(name).map_or(Reply::Nil, info)).collect())
        }
        Op::CommandList => list(args).map_or_else(Reply::Error, Reply::Array),
        _ => unreachable!("{op:?} is not a question about commands"),
    }
}

pub use help::help;

fn top_level() -> impl Iterator<Item = &'static Spec> {
    TABLE.iter().filter(|spec| !spec.is_subcommand())
}

fn subcommands(container: &Spec) -> impl Iterator<Item = &'static Spec> {
    TABLE.iter().filter(|spec| spec.name.strip_prefix(container.name).is_some_and(|rest| rest.starts_with('|')))
}

/// `get`, or `client|list` for a subcommand, in any case.
fn lookup_full_name(name: &[u8]) -> Option<&'static Spec> {
    TABLE.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
}

/// The ten elements of COMMAND INFO.
fn info(spec: &'static Spec) -> Reply<'static> {
    let statuses = |words: Vec<&'static str>| Reply::Set(words.into_iter().map(Reply::Status).collect());
    Reply::Array(vec![
        Reply::text(spec.name),
        Reply::Int(spec.arity.into()),
        statuses(flags(spec)),
        Reply::Int(spec.keys.first.into()),
        Reply::Int(spec.keys.last.into()),
        Reply::Int(spec.keys.step.into()),
        statuses(categories(spec)),
        Reply::Set(tips(spec.op).iter().copied().map(Reply::text).collect()),
        Reply::Set(key_specs(spec)),
        Reply::Set(subcommands(spec).map(info).collect()),
    ])
}

fn flags(spec: &Spec) -> Vec<&'static str> {
    const NAMES: [(Flags, &str); 9] = [
        (Flags::WRITE, "write"),
        (Flags::READONLY, "readonly"),
        (Flags::DENYOOM, "denyoom"),
        (Flags::ADMIN, "admin"),
        (Flags::PUBSUB, "pubsub"),
        (Flags::LOADING, "loading"),
        (Flags::STALE, "stale"),
        (Flags::FAST, "fast"),
        (Flags::NO_AUTH, "no_auth"),
    ];
    NAMES.iter().filter(|(flag, _)| spec.flags.has(*flag)).map(|(_, name)| *name).collect()
}

/// The ACL categories Redis gives the command, in the order Redis lists them.
fn categories(spec: &Spec) -> Vec<&'static str> {
    let container = spec.flags.has(Flags::CONTAINER);
    let about_keyspace =
        spec.group == "generic" || matches!(spec.op, Op::DbSize | Op::FlushAll | Op::FlushDb | Op::SwapDb);
    let about_connection = spec.group == "connection"
        || spec.name.starts_with("command")
        || matches!(spec.op, Op::Asking | Op::ReadOnly | Op::ReadWrite);
    let dangerous = spec.flags.has(Flags::DANGEROUS)
        || matches!(spec.op, Op::Keys | Op::FlushAll | Op::FlushDb | Op::SwapDb | Op::Info | Op::Stats);
    let all = [
        (about_keyspace, "@keyspace"),
        (spec.flags.has(Flags::READONLY), "@read"),
        (spec.flags.has(Flags::WRITE), "@write"),
        (spec.group == "string", "@string"),
        (spec.flags.has(Flags::ADMIN), "@admin"),
        (spec.flags.has(Flags::PUBSUB), "@pubsub"),
        (spec.group == "transactions", "@transaction"),
        (spec.flags.has(Flags::FAST), "@fast"),
        (!spec.flags.has(Flags::FAST), "@slow"),
        (dangerous, "@dangerous"),
        (about_connection && !container, "@connection"),
    ];
    all.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect()
}

/// What a client that routes by slot does with the command and with the answers of several nodes.
fn tips(op: Op) -> &'static [&'static str] {
    match op {
        Op::MGet => &["request_policy:multi_shard"],
        Op::MSet => &["request_policy:multi_shard", "response_policy:all_succeeded"],
        Op::MSetNx => &["request_policy:multi_shard", "response_policy:agg_min"],
        Op::Del | Op::Exists | Op::Touch | Op::Unlink => &["request_policy:multi_shard", "response_policy:agg_sum"],
        Op::Keys => &["request_policy:all_shards", "nondeterministic_output_order"],
        Op::RandomKey => &["request_policy:all_shards", "nondeterministic_output"],
        Op::Scan => &["nondeterministic_output", "request_policy:special"],
        Op::DbSize => &["request_policy:all_shards", "response_policy:agg_sum"],
        Op::FlushAll | Op::FlushDb | Op::Ping => &["request_policy:all_shards", "response_policy:all_succeeded"],
        Op::HotKeys | Op::Info | Op::MemoryDoctor | Op::MemoryStats | Op::Stats => {
            &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]
        }
        Op::Command | Op::CommandDocs | Op::CommandInfo | Op::CommandList => &["nondeterministic_output_order"],
        Op::ObjectEncoding
        | Op::ObjectFreq
        | Op::ObjectIdleTime
        | Op::ObjectRefCount
        | Op::Ttl
        | Op::PTtl
        | Op::Time
        | Op::ClientInfo
        | Op::ClientList
        | Op::ClusterGetKeysInSlot
        | Op::ClusterInfo
        | Op::ClusterNodes
        | Op::ClusterShards
        | Op::ClusterSlots => &["nondeterministic_output"],
        _ => &[],
    }
}

/// What the command does to its keys: the first of a [`Route::Pair`], or all of them.
fn key_access(spec: &Spec) -> &'static [&'static str] {
    match spec.op {
        Op::Set => &["RW", "access", "update", "variable_flags"],
        Op::Append => &["RW", "insert"],
        Op::SetRange | Op::Expire | Op::ExpireAt | Op::PExpire | Op::PExpireAt | Op::Persist => &["RW", "update"],
        Op::GetDel | Op::Rename | Op::RenameNx => &["RW", "access", "delete"],
        Op::Del | Op::Unlink => &["RM", "delete"],
        Op::MSetNx | Op::SetNx => &["OW", "insert"],
        Op::MSet | Op::PSetEx | Op::Put | Op::SetEx => &["OW", "update"],
        Op::Exists | Op::StrLen | Op::Touch | Op::Type | Op::Watch => &["RO"],
        Op::MemoryUsage | Op::ObjectEncoding | Op::ObjectFreq | Op::ObjectIdleTime | Op::ObjectRefCount => &["RO"],
        Op::Copy => &["RO", "access"],
        // No keys at all, but found and routed like them.
        Op::SPublish | Op::SSubscribe | Op::SUnsubscribe => &["not_key"],
        _ if spec.flags.has(Flags::READONLY) => &["RO", "access"],
        _ => &["RW", "access", "update"],
    }
}

/// What a [`Route::Pair`] does to its second key.
fn destination_access(op: Op) -> &'static [&'static str] {
    if op == Op::RenameNx { &["OW", "insert"] } else { &["OW", "update"] }
}

/// Key specifications of Redis 7: where the keys stand and what is done to them.
fn key_specs(spec: &Spec) -> Vec<Reply<'static>> {
    let keys = spec.keys;
    if keys.first == 0 {
        return Vec::new();
    }
    if spec.route == Route::Pair {
        return vec![
            key_spec(key_access(spec), None, keys.first, 0, 1),
            key_spec(destination_access(spec.op), None, keys.last, 0, 1),
        ];
    }
    let notes = match spec.op {
        Op::Set => Some("RW and ACCESS due to the optional `GET` argument"),
        Op::GetEx => Some("RW and UPDATE because it changes the TTL"),
        _ => None,
    };
    // Counted from the first key, unless from the end.
    let last = if keys.last < 0 { keys.last } else { keys.last - keys.first };
    vec![key_spec(key_access(spec), notes, keys.first, last, keys.step)]
}

fn key_spec(
    access: &'static [&'static str],
    notes: Option<&'static str>,
    first: i8,
    last: i8,
    step: i8,
) -> Reply<'static> {
    let number = |name, value: i8| (Reply::text(name), Reply::Int(value.into()));
    let part = |kind, spec| Reply::Map(vec![(Reply::text("type"), Reply::text(kind)), (Reply::text("spec"), spec)]);
    let begin = part("index", Reply::Map(vec![number("index", first)]));
    let find = part("range", Reply::Map(vec![number("lastkey", last), number("keystep", step), number("limit", 0)]));
    let mut fields = Vec::with_capacity(4);
    fields.extend(notes.map(|notes| (Reply::text("notes"), Reply::text(notes))));
    fields.extend([
        (Reply::text("flags"), Reply::Set(access.iter().copied().map(Reply::Status).collect())),
        (Reply::text("begin_search"), begin),
        (Reply::text("find_keys"), find),
    ]);
    Reply::Map(fields)
}

/// COMMAND GETKEYS: the keys of the command that stands in the arguments.
fn get_keys(args: Args<'_>) -> Result<Vec<Reply<'static>>, ReplyError<'static>> {
    let error = |text: &'static str| Err(ReplyError::Other(Cow::Borrowed(text)));
    let Some(mut spec) = command::lookup(args.get(0)) else { return error("ERR Invalid command specified") };
    if command::has_subcommands(spec) && args.len() > 1 {
        match command::lookup_subcommand(spec, args.get(1)) {
            Some(subcommand) => spec = subcommand,
            None => return error("ERR Invalid command specified"),
        }
    }
    if spec.keys.first == 0 {
        return error("ERR The command has no key arguments");
    }
    let args = args.from(spec.words());
    if !spec.accepts(args.len()) {
        return error("ERR Invalid number of arguments specified for command");
    }
    Ok(spec.key_args(args.len()).map(|key| Reply::owned(args.get(key))).collect())
}

/// COMMAND LIST: full names, also of subcommands.
fn list(args: Args<'_>) -> Result<Vec<Reply<'static>>, ReplyError<'static>> {
    let names = |keep: &dyn Fn(&Spec) -> bool| {
        TABLE.iter().filter(|spec| keep(spec)).map(|spec| Reply::text(spec.name)).collect()
    };
    if args.is_empty() {
        return Ok(names(&|_| true));
    }
    if args.len() != 3 || !args.get(0).eq_ignore_ascii_case(b"filterby") {
        return Err(ReplyError::Syntax);
    }
    let wanted = args.get(2);
    match args.get(1).to_ascii_lowercase().as_slice() {
        // There are no modules, so none has commands.
        b"module" => Ok(Vec::new()),
        b"aclcat" => Ok(names(&|spec| {
            categories(spec).iter().any(|category| category.as_bytes()[1..].eq_ignore_ascii_case(wanted))
        })),
        b"pattern" => Ok(names(&|spec| matches_ignoring_case(wanted, spec.name))),
        _ => Err(ReplyError::Syntax),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;
    use crate::reply::Out;
    use crate::request::{Wire, joined};

    fn ask(op: Op, words: &[&str]) -> Reply<'static> {
        let (bytes, ranges) = joined(words);
        command_reply(op, Args::new(&bytes, &ranges, &[]))
    }

    fn array(reply: Reply<'static>) -> Vec<Reply<'static>> {
        match reply {
            Reply::Array(items) | Reply::Set(items) => items,
            other => panic!("not an array: {other:?}"),
        }
    }

    /// A reply in a few characters: sets in `~()`, maps in `{}`, statuses with a `+`.
    fn short(reply: &Reply<'_>) -> String {
        let all = |items: &[Reply<'_>]| items.iter().map(short).collect::<Vec<_>>().join(" ");
        match reply {
            Reply::Text(text) => text.to_string(),
            Reply::Owned(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Reply::Status(text) => format!("+{text}"),
            Reply::Int(number) => number.to_string(),
            Reply::Nil => "nil".into(),
            Reply::Array(items) => format!("[{}]", all(items)),
            Reply::Set(items) => format!("~({})", all(items)),
            Reply::Map(pairs) => {
                let pairs: Vec<_> =
                    pairs.iter().map(|(key, value)| format!("{}:{}", short(key), short(value))).collect();
                format!("{{{}}}", pairs.join(" "))
            }
            Reply::Error(error) => format!("-{}", error.text()),
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn info_of_a_command_is_what_redis_says() {
        assert_eq!(
            short(&ask(Op::CommandInfo, &["GeT", "nothing", "set"])),
            "[[get 2 ~(+readonly +fast) 1 1 1 ~(+@read +@string +@fast) ~() \
             ~({flags:~(+RO +access) begin_search:{type:index spec:{index:1}} \
             find_keys:{type:range spec:{lastkey:0 keystep:1 limit:0}}}) ~()] \
             nil \
             [set -3 ~(+write +denyoom) 1 1 1 ~(+@write +@string +@slow) ~() \
             ~({notes:RW and ACCESS due to the optional `GET` argument \
             flags:~(+RW +access +update +variable_flags) begin_search:{type:index spec:{index:1}} \
             find_keys:{type:range spec:{lastkey:0 keystep:1 limit:0}}}) ~()]]"
        );
        assert_eq!(
            short(&ask(Op::CommandInfo, &["mset"])),
            "[[mset -3 ~(+write +denyoom) 1 -1 2 ~(+@write +@string +@slow) \
             ~(request_policy:multi_shard response_policy:all_succeeded) \
             ~({flags:~(+OW +update) begin_search:{type:index spec:{index:1}} \
             find_keys:{type:range spec:{lastkey:-1 keystep:2 limit:0}}}) ~()]]"
        );
    }

    #[test]
    fn two_keys_that_are_treated_differently_have_two_specifications() {
        let info = short(&ask(Op::CommandInfo, &["renamenx"]));
        let specs = "~({flags:~(+RW +access +delete) begin_search:{type:index spec:{index:1}} \
                     find_keys:{type:range spec:{lastkey:0 keystep:1 limit:0}}} \
                     {flags:~(+OW +insert) begin_search:{type:index spec:{index:2}} \
                     find_keys:{type:range spec:{lastkey:0 keystep:1 limit:0}}})";
        assert!(info.contains(specs), "{info}");
    }

    #[test]
    fn containers_list_their_subcommands() {
        let infos = array(ask(Op::CommandInfo, &["config", "config|get"]));
        let sub = "[config|get -3 ~(+admin +loading +stale) 0 0 0 ~(+@admin +@slow +@dangerous) ~() ~() ~()]";
        assert_eq!(short(&infos[1]), sub);
        let container = short(&infos[0]);
        assert!(container.starts_with("[config -2 ~() 0 0 0 ~(+@slow) ~() ~() ~(["), "{container}");
        assert!(container.contains(sub));
    }

    #[test]
    fn all_commands_are_counted_and_described_once() {
        let Reply::Int(count) = ask(Op::CommandCount, &[]) else { panic!("not a number") };
        let all = array(ask(Op::Command, &[]));
        assert_eq!(all.len() as i64, count);
        assert_eq!(ask(Op::CommandInfo, &[]), Reply::Array(all.clone()));
        let mut described = 0;
        for entry in all {
            let entry = array(entry);
            assert_eq!(entry.len(), 10);
            described += 1 + array(entry[9].clone()).len();
        }
        assert_eq!(described, TABLE.len());
        assert_eq!(array(ask(Op::CommandList, &[])).len(), TABLE.len());
    }

    #[test]
    fn every_key_specification_agrees_with_the_table() {
        for spec in TABLE {
            let specs = key_specs(spec);
            assert_eq!(specs.is_empty(), spec.keys.first == 0, "{}", spec.name);
            let access = key_access(spec);
            if !specs.is_empty() {
                let reads_only = spec.flags.has(Flags::READONLY);
                assert_eq!(access[0] == "RO", reads_only || matches!(spec.op, Op::Copy | Op::Watch), "{}", spec.name);
            }
        }
    }

    #[test]
    fn lists_can_be_filtered() {
        let list = |words: &[&str]| short(&ask(Op::CommandList, words));
        assert_eq!(list(&["filterby", "pattern", "CLIENT|I*"]), "[client|id client|info]");
        assert_eq!(list(&["FILTERBY", "PATTERN", "incrb?"]), "[incrby]");
        assert_eq!(list(&["FILTERBY", "ACLCAT", "Admin"]), {
            let admin: Vec<_> =
                TABLE.iter().filter(|spec| spec.flags.has(Flags::ADMIN)).map(|spec| spec.name).collect();
            format!("[{}]", admin.join(" "))
        });
        for nothing in [["filterby", "module", "json"], ["filterby", "aclcat", "@string"], ["filterby", "aclcat", ""]] {
            assert_eq!(list(&nothing), "[]");
        }
        for wrong in
            [&["filterby", "foo", "x"][..], &["a"], &["filterby", "module"], &["filterby", "pattern", "a", "b"]]
        {
            assert_eq!(list(wrong), "-ERR syntax error", "{wrong:?}");
        }
    }

    #[test]
    fn keys_are_found_in_a_command() {
        let keys = |words: &[&str]| short(&ask(Op::CommandGetKeys, words));
        assert_eq!(keys(&["get", "a"]), "[a]");
        assert_eq!(keys(&["MSET", "a", "1", "b", "2"]), "[a b]");
        assert_eq!(keys(&["mset", "a", "b", "c"]), "[a c]");
        assert_eq!(keys(&["copy", "a", "b", "REPLACE"]), "[a b]");
        assert_eq!(keys(&["nosuch", "a"]), "-ERR Invalid command specified");
        assert_eq!(keys(&["client", "foo"]), "-ERR Invalid command specified");
        assert_eq!(keys(&["client", "list"]), "-ERR The command has no key arguments");
        assert_eq!(keys(&["ping", "a"]), "-ERR The command has no key arguments");
        for wrong in [&["set", "a"][..], &["get", "a", "b"], &["rename", "a"]] {
            assert_eq!(keys(wrong), "-ERR Invalid number of arguments specified for command");
        }
    }

    #[test]
    fn documents_are_found_by_full_name() {
        assert_eq!(ask(Op::CommandDocs, &["nosuch"]), Reply::Map(vec![]));
        let Reply::Map(all) = ask(Op::CommandDocs, &[]) else { panic!("not a map") };
        assert_eq!(all.len(), top_level().count());
        let Reply::Map(some) = ask(Op::CommandDocs, &["Client|ID", "nosuch", "GET"]) else { panic!("not a map") };
        let names: Vec<String> = some.iter().map(|(name, _)| short(name)).collect();
        assert_eq!(names, ["client|id", "get"]);
    }

    /// What redis-server 7.0 sent, byte for byte.
    #[test]
    fn info_on_the_wire() {
        let reply = ask(Op::CommandInfo, &["get", "nosuch"]);
        let lines = |wire| {
            let mut out = Out::default();
            proto::encode(wire, &reply, &mut out);
            String::from_utf8(out.to_vec()).unwrap().replace("\r\n", " ")
        };
        assert_eq!(
            lines(Wire::Resp2),
            "*2 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *3 +@read +@string +@fast *0 \
             *1 *6 $5 flags *2 +RO +access $12 begin_search *4 $4 type $5 index $4 spec *2 $5 index :1 \
             $9 find_keys *4 $4 type $5 range $4 spec *6 $7 lastkey :0 $7 keystep :1 $5 limit :0 *0 $-1 "
        );
        assert_eq!(
            lines(Wire::Resp3),
            "*2 *10 $3 get :2 ~2 +readonly +fast :1 :1 :1 ~3 +@read +@string +@fast ~0 \
             ~1 %3 $5 flags ~2 +RO +access $12 begin_search %2 $4 type $5 index $4 spec %1 $5 index :1 \
             $9 find_keys %2 $4 type $5 range $4 spec %3 $7 lastkey :0 $7 keystep :1 $5 limit :0 ~0 _ "
        );
    }
}
