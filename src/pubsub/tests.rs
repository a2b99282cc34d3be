//! The two-sided table against a plain list of pairs, and the summary against the tables it sums up.

use std::collections::BTreeSet;

use super::*;
use crate::hash::KeyHasher;
use crate::random::{Announced, Random};

fn name(random: &mut Random, kind: Kind) -> Vec<u8> {
    let names: &[&[u8]] = match kind {
        Kind::Pattern => &[b"*", b"n*", b"news.?", b"[ab]", b"", b"news.1"],
        _ => &[b"news.1", b"news.2", b"a", b"b", b"c", b""],
    };
    random.pick(names).to_vec()
}

#[test]
fn subscriptions_are_pairs_of_client_and_name() {
    for seed in 0..200 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let mut subscriptions = Subscriptions::default();
        let mut pairs: BTreeSet<(u32, usize, Vec<u8>)> = BTreeSet::new();
        let interest = Interest::new(1);
        let hasher = KeyHasher::with_seed([seed, 2, 3, 4]);
        for _ in 0..300 {
            let client = random.below(5) as u32;
            let kind = random.pick(&KINDS);
            let name = name(&mut random, kind);
            let others = |pairs: &BTreeSet<(u32, usize, Vec<u8>)>| {
                pairs.iter().any(|(_, of, listened)| *of == kind as usize && *listened == name)
            };
            match random.below(8) {
                0 => {
                    subscriptions.forget(client, |kind, name| interest.remove(0, kind, hasher.hash(name)));
                    pairs.retain(|(who, ..)| *who != client);
                }
                1..4 => {
                    let had = pairs.remove(&(client, kind as usize, name.clone()));
                    let is_last = subscriptions.unsubscribe(client, kind, &name);
                    assert_eq!(is_last, had && !others(&pairs));
                    if is_last {
                        interest.remove(0, kind, hasher.hash(&name));
                    }
                }
                _ => {
                    let is_new = !others(&pairs);
                    pairs.insert((client, kind as usize, name.clone()));
                    assert_eq!(subscriptions.subscribe(client, kind, &name), Ok(is_new));
                    if is_new {
                        interest.add(0, kind, hasher.hash(&name));
                    }
                }
            }
            subscriptions.validate();
            let of = |kind: Kind| pairs.iter().filter(move |(who, of, _)| *who == client && *of == kind as usize);
            let counts = subscriptions.counts(client);
            assert_eq!(
                (counts.channels as usize, counts.patterns as usize, counts.shards as usize),
                (of(Kind::Channel).count(), of(Kind::Pattern).count(), of(Kind::Shard).count())
            );
            for kind in KINDS {
                let names: Vec<&[u8]> = of(kind).map(|(_, _, name)| name.as_slice()).collect();
                assert_eq!(subscriptions.names_of(client, kind), names);
            }
            // Whoever has to hear of a channel does, and the summary never says otherwise.
            let channel = random.pick(&[&b"news.1"[..], b"a", b"zzz", b""]);
            let listen = |of: Kind, described: &dyn Fn(&[u8]) -> bool| -> Vec<u32> {
                let pairs = pairs.iter().filter(|(_, kind, name)| *kind == of as usize && described(name));
                pairs.map(|(who, ..)| *who).collect()
            };
            let direct: Vec<u32> = subscriptions.listeners(Kind::Channel, channel).collect();
            assert_eq!(direct, listen(Kind::Channel, &|name| name == channel));
            assert_eq!(subscriptions.listener_count(Kind::Channel, channel), direct.len());
            let mut matched: Vec<u32> = subscriptions.matching(channel).flat_map(|(_, clients)| clients).collect();
            matched.sort_unstable();
            assert_eq!(matched, listen(Kind::Pattern, &|pattern| glob::matches(pattern, channel)));
            if !direct.is_empty() || !matched.is_empty() {
                assert!(interest.may_have_listeners(0, Kind::Channel, hasher.hash(channel)));
            }
            if subscriptions.is_empty() {
                assert!(pairs.is_empty());
                assert!(!interest.may_have_listeners(0, Kind::Channel, hasher.hash(channel)), "nothing stays behind");
                assert!(!interest.may_have_listeners(0, Kind::Shard, hasher.hash(channel)));
            }
        }
    }
}

/// A client that subscribed without end took all memory with it.
#[test]
fn what_one_client_listens_to_is_bounded() {
    let mut subscriptions = Subscriptions::default();
    let mut count = 0u32;
    while subscriptions.subscribe(1, Kind::Channel, &[&[b'x'; 4096][..], &count.to_le_bytes()].concat()).is_ok() {
        count += 1;
    }
    assert!((count as usize) * 4096 <= limits::SUBSCRIPTION_BYTES_MAX);
    assert!((count as usize + 1) * (4100 + SUBSCRIPTION_BYTES) > limits::SUBSCRIPTION_BYTES_MAX);
    subscriptions.validate();
    assert_eq!(subscriptions.subscribe(2, Kind::Channel, &vec![b'y'; limits::SUBSCRIPTION_BYTES_MAX]), Err(TooMany));
    assert_eq!(subscriptions.clients(), 1, "who was refused leaves nothing behind");
    assert_eq!(subscriptions.subscribe(2, Kind::Channel, b"y"), Ok(true), "others are not concerned");
    subscriptions.unsubscribe(1, Kind::Channel, &[&[b'x'; 4096][..], &0u32.to_le_bytes()].concat());
    assert_eq!(subscriptions.subscribe(1, Kind::Pattern, b"y"), Ok(true));
}
