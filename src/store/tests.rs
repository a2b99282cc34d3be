//! The shard against a naive model and against itself.

mod memory;
mod model;
mod namespaces;
mod random;
mod time;

use bytes::Bytes;

use super::*;
use crate::command::lookup;
use crate::limits::{LARGE_VALUE_BYTES_MIN, VALUE_BYTES_MAX_DEFAULT};
use crate::request::{ArgRange, Args};

pub(super) fn shard() -> Shard {
    Shard::new(ShardConfig {
        hasher: KeyHasher::with_seed([1, 2, 3, 4]),
        value_bytes_max: VALUE_BYTES_MAX_DEFAULT,
        random_seed: 7,
        memory_bytes_max: u64::MAX,
        eviction: Eviction::TinyLfu,
        segment_bytes: SEGMENT_BYTES,
    })
}

/// Carries out a command given as words, large values travelling as they do.
pub(super) fn run<'s, E: Effects>(shard: &'s mut Shard, words: &[&[u8]], now: Now, effects: &mut E) -> Reply<'s> {
    let spec = lookup(words[0]).expect("a known command");
    assert!(spec.accepts(words.len() - 1), "arity of {}", spec.name);
    let mut bytes = Vec::new();
    let mut ranges = Vec::new();
    let mut large = Vec::new();
    for word in &words[1..] {
        if word.len() >= LARGE_VALUE_BYTES_MIN {
            ranges.push(ArgRange::large(large.len()));
            large.push(Bytes::copy_from_slice(word));
        } else {
            ranges.push(ArgRange::inline(bytes.len(), word.len()));
            bytes.extend_from_slice(word);
        }
    }
    let args = Args::new(&bytes, &ranges, &large);
    let hash = match spec.route {
        Route::Key => shard.keyspace.hasher.hash(args.get(spec.key_arg())),
        _ => 0,
    };
    shard.apply(&Call { spec, args, hash }, now, effects)
}

/// The reply as a person would write it down.
pub(super) fn shown(reply: Reply<'_>) -> String {
    match reply {
        Reply::Ok => "OK".into(),
        Reply::Nil => "nil".into(),
        Reply::Int(value) => format!("({value})"),
        Reply::Bulk(value) => format!("{:?}", String::from_utf8_lossy(value)),
        Reply::Owned(value) => format!("{:?}", String::from_utf8_lossy(&value)),
        Reply::Text(value) => format!("{value:?}"),
        Reply::Large(value) => format!("large {} {:02x}..{:02x}", value.len(), value[0], value[value.len() - 1]),
        Reply::Status(text) => text.into(),
        Reply::Error(error) => error.text().into_owned(),
        Reply::Array(replies) => format!("[{}]", replies.into_iter().map(shown).collect::<Vec<_>>().join(" ")),
        other => format!("{other:?}"),
    }
}

/// Lines of `time command -> reply`; words are separated by spaces, `''` is the empty one.
fn converse(lines: &str) {
    let mut shard = shard();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (command, expected) = line.split_once(" -> ").expect(line);
        let (at_ms, command) = command.split_once(' ').expect(line);
        let words: Vec<&[u8]> =
            command.split(' ').map(|word| if word == "''" { &b""[..] } else { word.as_bytes() }).collect();
        let now = Now::at_ms(at_ms.parse().expect(line));
        assert_eq!(shown(run(&mut shard, &words, now, &mut ())), expected, "{line}");
        shard.validate();
    }
}

#[test]
fn set_and_get_with_all_options() {
    converse(
        "1000 SET k v -> OK
         1000 GET k -> \"v\"
         1000 GET nothing -> nil
         1000 SET k w NX -> nil
         1000 SET k w XX -> OK
         1000 SET n 1 XX -> nil
         1000 SET k x GET -> \"w\"
         1000 SET k y NX GET -> \"x\"
         1000 SET n y NX GET -> nil
         1000 GET n -> \"y\"
         1000 SET k z IFEQ q -> nil
         1000 SET k z IFEQ x -> OK
         1000 SET k a IFEQ q GET -> \"z\"
         1000 SET none a IFEQ q -> nil
         1000 SET k v EX 10 -> OK
         1000 PTTL k -> (10000)
         1000 SET k v KEEPTTL -> OK
         1000 PTTL k -> (10000)
         1000 SET k v -> OK
         1000 PTTL k -> (-1)
         1000 SET k v PXAT 1500 -> OK
         1500 GET k -> \"v\"
         1501 GET k -> nil
         1501 SET k v NX XX -> ERR syntax error
         1501 SET k v NX IFEQ v -> ERR syntax error
         1501 SET k v EX 10 PX 10 -> ERR syntax error
         1501 SET k v EX 10 KEEPTTL -> ERR syntax error
         1501 SET k v EX -> ERR syntax error
         1501 SET k v EX 0 -> ERR invalid expire time in 'set' command
         1501 SET k v EX 9223372036854776 -> ERR invalid expire time in 'set' command
         1501 SET k v PX 9223372036854775807 -> ERR invalid expire time in 'set' command
         1501 SET k v EX ten -> ERR value is not an integer or out of range
         1501 SET k v PERSIST -> ERR syntax error
         1501 SET k v -> OK
         1501 SET k v EXAT 1 GET -> \"v\"
         1501 EXISTS k -> (0)
         1501 SETEX k 2 v -> OK
         1501 SETEX k 0 v -> ERR invalid expire time in 'setex' command
         1501 PSETEX k -1 v -> ERR invalid expire time in 'psetex' command
         1501 TTL k -> (2)
         1501 SETNX k w -> (0)
         1501 SETNX m w -> (1)
         1501 PUT k v 5 -> OK
         1501 PTTL k -> (5000)
         1501 PUT k v -> OK
         1501 TTL k -> (-1)
         1501 PUT k v 1 2 -> ERR wrong number of arguments for 'put' command
         1501 GETSET k new -> \"v\"
         1501 GETSET fresh new -> nil
         1501 GETDEL k -> \"new\"
         1501 GETDEL k -> nil",
    );
}

#[test]
fn getex_changes_the_expiry_only_as_told() {
    converse(
        "1000 GETEX k EX -1 -> nil
         1000 SET k v -> OK
         1000 GETEX k -> \"v\"
         1000 GETEX k EX -1 -> ERR invalid expire time in 'getex' command
         1000 GETEX k EX 5 PERSIST -> ERR syntax error
         1000 GETEX k KEEPTTL -> ERR syntax error
         1000 GETEX k PX 70 -> \"v\"
         1000 PTTL k -> (70)
         1000 GETEX k -> \"v\"
         1000 PTTL k -> (70)
         1000 GETEX k PERSIST -> \"v\"
         1000 PTTL k -> (-1)
         1000 GETEX k PXAT 1000 -> \"v\"
         1000 GET k -> nil",
    );
}

#[test]
fn counting_follows_redis() {
    converse(
        "1 INCR n -> (1)
         1 INCRBY n 41 -> (42)
         1 DECR n -> (41)
         1 DECRBY n 1 -> (40)
         1 GET n -> \"40\"
         1 EXPIRE n 10 -> (1)
         1 INCR n -> (41)
         1 PTTL n -> (10000)
         1 SET n 9223372036854775807 -> OK
         1 INCR n -> ERR increment or decrement would overflow
         1 DECRBY n -9223372036854775808 -> ERR decrement would overflow
         1 INCRBY n 1x -> ERR value is not an integer or out of range
         1 SET n 01 -> OK
         1 INCR n -> ERR value is not an integer or out of range
         1 SET f 10.50 -> OK
         1 INCRBYFLOAT f 0.1 -> \"10.6\"
         1 INCRBYFLOAT f -5 -> \"5.6\"
         1 INCRBYFLOAT f x -> ERR value is not a valid float
         1 SET f 5.0e3 -> OK
         1 INCRBYFLOAT f 2.0e2 -> \"5200\"",
    );
}

#[test]
fn parts_of_values() {
    converse(
        "1 APPEND k Hello -> (5)
         1 APPEND k '' -> (5)
         1 APPEND k World -> (10)
         1 GETRANGE k 0 3 -> \"Hell\"
         1 GETRANGE k -3 -1 -> \"rld\"
         1 GETRANGE k -1 -3 -> \"\"
         1 GETRANGE k 5 100 -> \"World\"
         1 GETRANGE k 100 200 -> \"\"
         1 GETRANGE k -100 0 -> \"H\"
         1 GETRANGE none 0 -1 -> \"\"
         1 SUBSTR k 0 0 -> \"H\"
         1 GETRANGE k a 1 -> ERR value is not an integer or out of range
         1 SETRANGE k 5 123 -> (10)
         1 GET k -> \"Hello123ld\"
         1 SETRANGE k -1 x -> ERR offset is out of range
         1 SETRANGE none 5 '' -> (0)
         1 EXISTS none -> (0)
         1 SETRANGE z 2 ab -> (4)
         1 GET z -> \"\\0\\0ab\"
         1 SETRANGE z 67108864 a -> ERR string exceeds maximum allowed size (proto-max-bulk-len)
         1 SETRANGE z 9223372036854775807 a -> ERR string exceeds maximum allowed size (proto-max-bulk-len)
         1 STRLEN z -> (4)
         1 STRLEN none -> (0)",
    );
}

#[test]
fn expiry_commands_and_their_conflicts() {
    converse(
        "1000 EXPIRE k 10 -> (0)
         1000 SET k v -> OK
         1000 EXPIRE k 10 XX -> (0)
         1000 EXPIRE k 10 GT -> (0)
         1000 EXPIRE k 10 LT -> (1)
         1000 EXPIRE k 20 NX -> (0)
         1000 EXPIRE k 5 GT -> (0)
         1000 EXPIRE k 20 GT -> (1)
         1000 EXPIRE k 20 LT -> (0)
         1000 EXPIRE k 19 LT -> (1)
         1000 TTL k -> (19)
         1000 EXPIRE k 1 NX GT -> ERR NX and XX, GT or LT options at the same time are not compatible
         1000 EXPIRE k 1 GT LT -> ERR GT and LT options at the same time are not compatible
         1000 EXPIRE k 1 XX GT -> (0)
         1000 EXPIRE k 1 AB -> ERR Unsupported option AB
         1000 EXPIRE k 9223372036854776 -> ERR invalid expire time in 'expire' command
         1000 PEXPIRE k 9223372036854775807 -> ERR invalid expire time in 'pexpire' command
         1000 EXPIRE k ten -> ERR value is not an integer or out of range
         1000 PEXPIREAT k 9223372036854775807 -> (1)
         1000 PEXPIRETIME k -> (9223372036854775807)
         1000 EXPIREAT k 2 -> (1)
         1000 EXPIRETIME k -> (2)
         1000 PEXPIRETIME k -> (2000)
         1499 TTL k -> (1)
         1501 TTL k -> (0)
         1501 PERSIST k -> (1)
         1501 PERSIST k -> (0)
         1501 TTL k -> (-1)
         1501 EXPIRETIME k -> (-1)
         1501 EXPIRE k -1 -> (1)
         1501 TTL k -> (-2)
         1501 PERSIST k -> (0)
         1501 PEXPIRETIME k -> (-2)",
    );
}

#[test]
fn many_keys_and_moving_them() {
    converse(
        "1 MSET a 1 b 2 a 3 -> OK
         1 MSET a 1 b -> ERR wrong number of arguments for 'mset' command
         1 MGET a none b -> [\"3\" nil \"2\"]
         1 MSETNX c 1 a 2 -> (0)
         1 MSETNX c 1 d 2 -> (1)
         1 EXISTS a a none -> (2)
         1 TOUCH a none -> (1)
         1 TYPE a -> string
         1 TYPE none -> none
         1 DBSIZE -> (4)
         1 DEL a a none -> (1)
         1 UNLINK b c -> (2)
         1 RENAME none x -> ERR no such key
         1 RENAME d e -> OK
         1 GET e -> \"2\"
         1 RENAME e e -> OK
         1 RENAMENX e e -> (0)
         1 PEXPIRE e 100 -> (1)
         1 RENAMENX e f -> (1)
         1 PTTL f -> (100)
         1 SET g v -> OK
         1 RENAMENX f g -> (0)
         1 COPY f g -> (0)
         1 COPY f g REPLACE -> (1)
         1 PTTL g -> (100)
         1 COPY f f -> ERR source and destination objects are the same
         1 COPY none g -> (0)
         1 COPY f h DB 0 -> (1)
         1 COPY f h DB 1 -> ERR DB index is out of range
         1 COPY f h DB x -> ERR value is not an integer or out of range
         1 COPY f h AGAIN -> ERR syntax error
         1 DEL f g -> (2)
         1 RANDOMKEY -> \"h\"
         1 FLUSHALL NOW -> ERR syntax error
         1 FLUSHALL SYNC -> OK
         1 RANDOMKEY -> nil
         1 SET x y -> OK
         1 FLUSHDB -> OK
         1 DBSIZE -> (0)",
    );
}

#[test]
fn looking_at_keys_does_not_use_them() {
    let mut shard = shard();
    let now = Now::at_ms(1);
    let mut ask = |words: &[&str]| {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let (container, rest) = (lookup(words[0]).expect("a command"), &words[1..]);
        let (spec, rest) = match crate::command::lookup_subcommand(container, rest[0]) {
            Some(spec) => (spec, &rest[1..]),
            None => (container, rest),
        };
        let mut bytes = Vec::new();
        let mut ranges = Vec::new();
        for word in rest {
            ranges.push(ArgRange::inline(bytes.len(), word.len()));
            bytes.extend_from_slice(word);
        }
        let args = Args::new(&bytes, &ranges, &[]);
        let hash = shard.keyspace.hasher.hash(args.get(spec.key_arg()));
        shown(shard.apply(&Call { spec, args, hash }, now, &mut ()))
    };
    ask(&["SET", "n", "12345"]);
    ask(&["SET", "short", "value"]);
    ask(&["SET", "long", &"x".repeat(45)]);
    for (words, expected) in [
        (&["OBJECT", "ENCODING", "n"][..], "\"int\""),
        (&["OBJECT", "ENCODING", "short"], "\"embstr\""),
        (&["OBJECT", "encoding", "long"], "\"raw\""),
        (&["OBJECT", "ENCODING", "none"], "nil"),
        (&["OBJECT", "REFCOUNT", "n"], "(1)"),
        (&["OBJECT", "IDLETIME", "none"], "nil"),
        (&["OBJECT", "FREQ", "n"], "(0)"),
        (&["GET", "n"], "\"12345\""),
        (&["OBJECT", "FREQ", "n"], "(1)"),
        (&["OBJECT", "FREQ", "short"], "(0)"),
        (&["MEMORY", "USAGE", "short"], "(24)"),
        (&["MEMORY", "USAGE", "short", "SAMPLES", "5"], "(24)"),
        (&["MEMORY", "USAGE", "short", "SAMPLES", "-1"], "ERR syntax error"),
        (&["MEMORY", "USAGE", "none"], "nil"),
    ] {
        assert_eq!(ask(words), expected, "{words:?}");
    }
}

#[test]
fn keys_that_are_too_long_are_refused() {
    let mut shard = shard();
    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    for words in [vec![&b"GET"[..], &long], vec![b"MGET", b"a", &long], vec![b"MSET", b"a", b"1", &long, b"2"]] {
        let reply = shown(run(&mut shard, &words, Now::at_ms(1), &mut ()));
        assert_eq!(reply, "ERR key exceeds maximum allowed size (65535 bytes)");
    }
    assert!(shard.is_empty());
    assert_eq!(shown(run(&mut shard, &[b"SET", &long[1..], b"v"], Now::at_ms(1), &mut ())), "OK");
    shard.validate();
}

#[test]
fn keys_set_together_expire_apart_when_they_are_told_to() {
    let mut shard = shard();
    shard.set_ttl_jitter(20);
    let now = Now::at_ms(1_000_000);
    let mut spans = Vec::new();
    for key in 0..300 {
        let name = format!("k:{key}");
        let words: [&[u8]; 5] = [b"SET", name.as_bytes(), b"v", b"EX", b"100"];
        match key % 3 {
            0 => drop(run(&mut shard, &words, now, &mut ())),
            1 => drop(run(&mut shard, &[b"SETEX", name.as_bytes(), b"100", b"v"], now, &mut ())),
            _ => {
                run(&mut shard, &[b"SET", name.as_bytes(), b"v"], now, &mut ());
                run(&mut shard, &[b"EXPIRE", name.as_bytes(), b"100"], now, &mut ());
            }
        }
        let Reply::Int(left) = run(&mut shard, &[b"PTTL", name.as_bytes()], now, &mut ()) else { panic!("no number") };
        spans.push(left);
    }
    assert!(spans.iter().all(|span| (80_000..=100_000).contains(span)), "{spans:?}");
    spans.sort_unstable();
    spans.dedup();
    assert!(spans.len() > 280, "{}", spans.len());
    // A point in time is meant as it is given.
    run(&mut shard, &[b"SET", b"k", b"v", b"PXAT", b"1500000"], now, &mut ());
    assert_eq!(shown(run(&mut shard, &[b"PEXPIRETIME", b"k"], now, &mut ())), "(1500000)");
}
