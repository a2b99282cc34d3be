//! Flushes that have to tell keys apart: in steps, with others in between, whoever holds keys meanwhile.

use super::lab::Lab;
use super::transactions::keys;
use super::world::Bounds;
use crate::random::{Announced, Random};
use crate::slot;

const GLOBAL_KEYS: usize = 6_000;

/// Global keys and some in namespaces, on all cores.
fn filled(random: Random, cores: usize) -> Lab {
    let bounds = Bounds { cores, output_soft_bytes: 1 << 20, ..Bounds::default() };
    let mut lab = Lab::new(random, &bounds);
    let client = lab.connect(0);
    for first in (0..GLOBAL_KEYS).step_by(100) {
        let pairs: Vec<String> = (first..first + 100).map(|key| format!("g{key} 1")).collect();
        assert_eq!(lab.call(client, &format!("MSET {}", pairs.join(" "))), "+OK\r\n");
    }
    for key in 0..20 {
        assert_eq!(lab.call(client, &format!("MSET shop^k{key} 1 db4^k{key} 1")), "+OK\r\n");
    }
    lab
}

fn items(lab: &Lab) -> u64 {
    lab.engines.iter().map(|engine| engine.shard.len()).sum()
}

/// Within a transaction a core went through all of its keys at once, and nobody on it was answered meanwhile.
#[test]
fn a_flush_within_a_transaction_goes_in_steps_and_is_seen_whole() {
    for (seed, cores) in [(1, 1), (2, 2), (3, 3)] {
        let _announced = Announced(seed);
        for (flush, left) in [("FLUSHDB", 40), ("NAMESPACE FLUSH shop", GLOBAL_KEYS as u64 + 20)] {
            let mut lab = filled(Random::new(seed), cores);
            let (client, reader, other) = (lab.connect(0), lab.connect(cores - 1), lab.connect(cores - 1));
            lab.call(client, "MULTI");
            lab.call(client, "SET g1 2");
            lab.call(client, flush);
            lab.call(client, "SET behind 1");
            lab.send(client, b"EXEC\r\n");
            let mut held = items(&lab);
            let (mut most_at_once, mut steps, mut pongs, mut seen) = (0, 0, 0, Vec::new());
            for round in 0.. {
                assert!(round < 10_000, "it never ends");
                lab.send(reader, b"MULTI\r\nMGET g1 g5999 behind shop^k3\r\nEXEC\r\n");
                for _ in 0..3 {
                    lab.send(other, b"PING\r\n");
                    if !lab.step() {
                        break;
                    }
                    let now = items(&lab);
                    most_at_once = most_at_once.max(held.saturating_sub(now));
                    steps += (now < held) as usize;
                    held = now;
                }
                pongs += lab.heard(other).len() / "+PONG\r\n".len();
                seen.extend(lab.heard(reader));
                if !lab.clients[client].received.is_empty() {
                    break;
                }
            }
            lab.settle();
            assert_eq!(String::from_utf8_lossy(&lab.heard(client)), "*3\r\n+OK\r\n+OK\r\n+OK\r\n");
            assert_eq!(items(&lab), left + 1, "{flush}: what is left, and what was written behind it");
            assert!(most_at_once < GLOBAL_KEYS as u64 / 4, "{flush}: {most_at_once} keys at once");
            if flush == "FLUSHDB" {
                assert!(steps > 4 && pongs > 4, "{steps} steps, {pongs} answers to others");
            }
            // All as before or all as behind, and never again as before.
            seen.extend(lab.heard(reader));
            let seen = String::from_utf8(seen).unwrap().replace("+OK\r\n+QUEUED\r\n*1\r\n", "");
            let before = "*4\r\n$1\r\n1\r\n$1\r\n1\r\n$-1\r\n$1\r\n1\r\n";
            let behind = match flush {
                "FLUSHDB" => "*4\r\n$-1\r\n$-1\r\n$1\r\n1\r\n$1\r\n1\r\n",
                _ => "*4\r\n$1\r\n2\r\n$1\r\n1\r\n$1\r\n1\r\n$-1\r\n",
            };
            let rest = seen.replace(before, "");
            assert!(seen.starts_with(&before.repeat((seen.len() - rest.len()) / before.len())), "{seen}");
            assert_eq!(rest, behind.repeat(rest.len() / behind.len()));
            assert!(lab.engines.iter().all(|engine| engine.held_keys() == 0 && engine.is_quiet()));
            lab.engines.iter().for_each(|engine| engine.shard.validate());
        }
    }
}

/// As long as somebody held any key of a core, a flush there waited: under transactions that never paused, forever.
#[test]
fn transactions_without_end_do_not_keep_a_flush_waiting() {
    for seed in 0..6 {
        let _announced = Announced(seed);
        let cores = 2 + seed as usize % 2;
        let mut lab = filled(Random::new(seed), cores);
        let names = keys(cores);
        let flusher = lab.connect(0);
        let clients: Vec<usize> = (0..6).map(|at| lab.connect(at % cores)).collect();
        lab.send(flusher, b"FLUSHDB\r\n");
        let mut under_way = vec![0; clients.len()];
        let (mut done, mut steps) = (0, 0);
        while lab.clients[flusher].received.is_empty() {
            for (at, &client) in clients.iter().enumerate() {
                // Always more under way than has been answered.
                let answers = lab.heard(client).len() / "+OK\r\n".len();
                done += answers;
                under_way[at] -= answers;
                let (a, b) = (&names[at % names.len()], &names[(at + 1) % names.len()]);
                while under_way[at] < 4 {
                    lab.send(client, format!("MSET ns^{{{a}}} 1 ns^{{{b}}} 1\r\n").as_bytes());
                    under_way[at] += 1;
                }
            }
            for _ in 0..20 {
                lab.step();
            }
            steps += 1;
            assert!(steps < 20_000, "the flush never comes to its end; {done} transactions meanwhile");
        }
        assert_eq!(lab.heard(flusher), b"+OK\r\n");
        lab.settle();
        let gone = (0..GLOBAL_KEYS).all(|key| {
            let key = format!("g{key}");
            let owner = slot::owner_of_slot(slot::slot_of(key.as_bytes()), cores as u32);
            !lab.engines[owner as usize].exists(key.as_bytes())
        });
        assert!(gone, "keys are left");
    }
}

/// By then another client may have its place. A flush that began to ask who its client is only when its turn came emptied
/// whatever that one saw, or all that is in no namespace.
#[test]
fn a_flush_whose_client_is_gone_is_about_what_that_one_saw() {
    let mut flushed_behind = 0;
    for seed in 0..24 {
        let _announced = Announced(seed);
        let cores = 1 + seed as usize % 3;
        let mut lab = filled(Random::new(seed), cores);
        let before = items(&lab);
        let client = lab.connect(0);
        assert_eq!(lab.call(client, "SELECT 4"), "+OK\r\n");
        lab.send(client, b"MULTI\r\nKEYS *\r\nFLUSHDB\r\nEXEC\r\n");
        for _ in 0..seed / 3 {
            lab.step();
        }
        let had_all = items(&lab) == before;
        lab.disconnect(client);
        let next = lab.connect(0);
        lab.send(next, b"NAMESPACE USE shop\r\n");
        lab.settle();
        let gone = before - items(&lab);
        assert!(gone == 0 || gone == 20, "{gone} keys are gone");
        lab.heard(next);
        assert_eq!(lab.call(next, "DBSIZE"), ":20\r\n");
        flushed_behind += (had_all && gone == 20) as usize;
    }
    assert!(flushed_behind > 0, "none was carried out after its client had gone");
}

/// On one core a flush of everything by somebody else fell between the steps of a transaction.
#[test]
fn nothing_falls_between_the_steps_of_a_transaction_on_one_core() {
    for seed in 0..10 {
        let _announced = Announced(seed);
        let mut lab = filled(Random::new(seed), 1);
        let (client, other) = (lab.connect(0), lab.connect(0));
        lab.send(client, b"MULTI\r\nSET other 1\r\nNAMESPACE FLUSH shop\r\nSET b 1\r\nEXEC\r\n");
        for _ in 0..seed {
            lab.step();
        }
        lab.send(other, b"FLUSHALL\r\n");
        lab.settle();
        lab.heard(other);
        let left = lab.call(other, "EXISTS other b");
        assert!(left == ":0\r\n" || left == ":2\r\n", "{left}: all of it comes before or behind");
    }
}
