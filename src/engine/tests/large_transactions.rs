//! What transactions may take of a core, however much they are about: keys that are held, replies that are kept.

use super::lab::Lab;
use super::transactions::keys;
use super::world::Bounds;
use crate::engine::transaction::REPLIES_TOO_LARGE;
use crate::limits::HELD_KEYS_MAX;
use crate::proto::client::resp;
use crate::random::{Announced, Random};

/// MSET of a million keys, or a transaction about as many, held every single one of them: hundreds of bytes of memory and
/// a microsecond for each, on every core, before anything was done.
#[test]
fn very_many_keys_are_held_as_the_whole_core() {
    let keys_count = 3 * HELD_KEYS_MAX;
    for (seed, is_bare) in [(1, true), (2, false), (3, true), (4, false)] {
        let _announced = Announced(seed);
        let bounds = Bounds { cores: 2, output_soft_bytes: 1 << 20, ..Bounds::default() };
        let mut lab = Lab::new(Random::new(seed), &bounds);
        let (writer, reader) = (lab.connect(0), lab.connect(1));
        let words: Vec<String> = (0..keys_count).flat_map(|key| [format!("k{key}"), "1".into()]).collect();
        let mut bytes = Vec::new();
        if !is_bare {
            bytes.extend_from_slice(b"MULTI\r\n");
        }
        let mset: Vec<&[u8]> =
            std::iter::once("MSET").chain(words.iter().map(String::as_str)).map(str::as_bytes).collect();
        resp(&mset, &mut bytes);
        if !is_bare {
            bytes.extend_from_slice(b"SET k1 2\r\nSET k2 2\r\nEXEC\r\n");
        }
        lab.send(writer, &bytes);
        let last = if is_bare { "+OK\r\n" } else { "*3\r\n+OK\r\n+OK\r\n+OK\r\n" };
        let asking = format!("MULTI\r\nMGET k1 k2 k{} k{}\r\nEXEC\r\n", keys_count - 2, keys_count - 1);
        lab.send(reader, asking.as_bytes());
        let mut most = 0;
        let mut seen = Vec::new();
        for round in 0.. {
            if lab.clients[writer].received.ends_with(last.as_bytes()) {
                break;
            }
            assert!(round < 100_000, "it never ends");
            if lab.clients[reader].received.ends_with(b"\r\n1\r\n")
                || lab.clients[reader].received.ends_with(b"$-1\r\n")
            {
                seen.extend(lab.heard(reader));
                lab.send(reader, asking.as_bytes());
            }
            for _ in 0..20 {
                lab.step();
                most = most.max(lab.engines.iter().map(|engine| engine.keys_in_line()).max().unwrap());
            }
        }
        lab.settle();
        lab.send(reader, asking.as_bytes());
        lab.settle();
        seen.extend(lab.heard(reader));
        assert!(most <= HELD_KEYS_MAX, "{most} keys are held one by one");
        let seen = String::from_utf8(seen).unwrap().replace("+OK\r\n+QUEUED\r\n*1\r\n", "");
        let nothing = "*4\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n";
        let all = format!("*4\r\n$1\r\n{0}\r\n$1\r\n{0}\r\n$1\r\n1\r\n$1\r\n1\r\n", if is_bare { 1 } else { 2 });
        assert_eq!(seen.replace(nothing, "").replace(&all, ""), "", "nobody sees half of it");
        assert!(seen.contains(&all));
        assert!(lab.engines.iter().all(|engine| engine.held_keys() == 0 && engine.is_quiet()));
    }
}

/// Each command of a transaction asks for a value of some kilobytes, and the replies were all kept before they were found
/// to be too much: two gigabytes for a request of one megabyte.
#[test]
fn a_transaction_keeps_no_more_of_its_replies_than_may_be_sent() {
    const VALUE_BYTES: usize = 10_000;
    for cores in [1, 2] {
        let bounds = Bounds { cores, output_hard_bytes: 100_000, value_bytes_max: 20_000, ..Bounds::default() };
        let mut lab = Lab::new(Random::new(5), &bounds);
        let keys = keys(cores);
        let client = lab.connect(0);
        for key in &keys[..2] {
            assert_eq!(lab.call(client, &format!("SET {key} {}", "v".repeat(VALUE_BYTES))), "+OK\r\n");
        }
        lab.call(client, "MULTI");
        for number in 0..100 {
            lab.call(client, &format!("GET {}", keys[number % 2]));
        }
        lab.send(client, b"EXEC\r\n");
        let mut most = 0;
        while lab.step() {
            most = most.max(lab.engines.iter().map(|engine| engine.kept_reply_bytes()).sum());
        }
        assert!(most <= bounds.output_hard_bytes + bounds.value_bytes_max, "{most}");
        assert!(cores == 1 || most > VALUE_BYTES, "it was looked at while it was under way");
        assert_eq!(String::from_utf8(lab.heard(client)).unwrap(), format!("-{REPLIES_TOO_LARGE}\r\n"));
        // What is made of small parts takes as much.
        lab.call(client, "MULTI");
        for _ in 0..20 {
            lab.call(client, "COMMAND DOCS");
        }
        lab.send(client, b"EXEC\r\n");
        lab.settle();
        assert_eq!(String::from_utf8(lab.heard(client)).unwrap(), format!("-{REPLIES_TOO_LARGE}\r\n"));
        lab.call(client, "MULTI");
        lab.call(client, &format!("GET {}", keys[0]));
        assert!(lab.call(client, "EXEC").starts_with("*1\r\n$10000\r\nvvv"));
    }
}

/// A pipeline that counts one thing ten thousand times is about one key.
#[test]
fn the_same_key_many_times_does_not_hold_the_whole_core() {
    let mut lab = Lab::new(Random::new(9), &Bounds { cores: 2, output_soft_bytes: 1 << 20, ..Bounds::default() });
    let keys = keys(2);
    let (client, other) = (lab.connect(0), lab.connect(0));
    lab.call(client, "MULTI");
    for _ in 0..2 * HELD_KEYS_MAX {
        lab.call(client, "INCR counter");
    }
    // Something on each core, so that it takes several turns.
    keys[..2].iter().for_each(|key| drop(lab.call(client, &format!("SET {key} 1"))));
    lab.send(client, b"EXEC\r\n");
    let mut answered_meanwhile = 0;
    while lab.clients[client].received.is_empty() {
        lab.send(other, b"GET elsewhere\r\nGET nowhere\r\nGET anywhere\r\n");
        if !lab.step() {
            break;
        }
        assert!(lab.engines.iter().all(|engine| engine.keys_in_line() <= 8 && !engine.holds_all()));
        answered_meanwhile += lab.heard(other).len();
    }
    lab.settle();
    assert!(lab.heard(client).ends_with(b"+OK\r\n+OK\r\n"));
    assert!(answered_meanwhile > 0);
}
