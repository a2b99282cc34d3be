//! Namespaces keep their books whatever happens to their keys.

use std::collections::BTreeMap;

use super::random::{Random, Replica};
use super::*;
use crate::namespace::{LimitedNamespaces, NamespaceLimits, View, name_of};

/// All keys of a view go, a few buckets at a time.
fn sweep(shard: &mut Shard, view: &View, replica: &mut Replica) {
    let mut cursor = shard.sweep_step(0, 3, view, replica);
    while cursor != 0 {
        cursor = shard.sweep_step(cursor, 3, view, replica);
    }
}

#[test]
fn what_namespaces_hold_is_counted_through_everything() {
    for seed in 1..=2u64 {
        let mut random = Random(seed * 0x9E37_79B9);
        let bounded = seed % 2 == 0;
        let mut shard = Shard::new(ShardConfig {
            hasher: KeyHasher::with_seed([5, 6, 7, 8]),
            value_bytes_max: VALUE_BYTES_MAX_DEFAULT,
            random_seed: seed,
            memory_bytes_max: if bounded { 12 << 20 } else { u64::MAX },
            eviction: Eviction::TinyLfu,
            segment_bytes: SEGMENT_BYTES,
        });
        let mut replica = Replica::default();
        let mut now_ms = 1_700_000_000_000;
        for turn in 0..4_000 {
            now_ms += random.below(3);
            let now = Now::at_ms(now_ms);
            let name = ["", "a^", "b^", "ab^", "^"][random.below(5) as usize];
            let key = format!("{name}key:{}", random.below(if bounded { 2_000 } else { 300 }));
            let key = key.as_bytes();
            let bytes_max = [20, 300, 3_000, 80_000][random.below(4) as usize];
            let value = vec![b'v'; random.below(bytes_max) as usize];
            match random.below(14) {
                0..=5 => drop(run(&mut shard, &[b"SET", key, &value], now, &mut replica)),
                6 => drop(run(&mut shard, &[b"SET", key, &value, b"PX", b"300"], now, &mut replica)),
                7 => drop(run(&mut shard, &[b"APPEND", key, &value], now, &mut replica)),
                8 => drop(run(&mut shard, &[b"DEL", key], now, &mut replica)),
                9 => drop(run(&mut shard, &[b"RENAME", key, b"b^renamed"], now, &mut replica)),
                10 => drop(run(&mut shard, &[b"PEXPIRE", key, b"200"], now, &mut replica)),
                11 if turn % 20 == 0 => sweep(&mut shard, &View::Global, &mut replica),
                12 => drop(shard.tick(now, 200, &mut replica)),
                _ => drop(run(&mut shard, &[b"GET", key], now, &mut replica)),
            }
            if turn % 1_000 == 0 {
                shard.validate();
            }
        }
        shard.validate();
        let counted = shard.namespaces().map(|(_, counters)| counters.hits + counters.misses).sum::<u64>();
        assert!(counted > 200, "seed {seed}: {counted} look-ups");
        let evicted = shard.namespaces().map(|(_, counters)| counters.evicted).sum::<u64>();
        assert_eq!(evicted > 0, bounded, "seed {seed}");
        // One of them goes, and nothing else does.
        let now = Now::at_ms(now_ms);
        let held = |shard: &Shard| {
            let mut keys = BTreeMap::<Vec<u8>, u64>::new();
            let mut cursor = 0;
            loop {
                cursor = shard.scan_step(cursor, 64, now, |key| {
                    *keys.entry(name_of(key).unwrap_or_default().to_vec()).or_default() += 1;
                });
                if cursor == 0 {
                    return keys;
                }
            }
        };
        let mut expected = held(&shard);
        assert!(expected.remove(&b"a"[..]).is_some_and(|count| count > 20));
        sweep(&mut shard, &View::Of(b"a^".to_vec()), &mut replica);
        assert_eq!(held(&shard), expected, "seed {seed}");
        shard.validate();
    }
}

fn limited(limits: &[(&str, NamespaceLimits)], eviction: Eviction) -> Shard {
    let mut shard = Shard::new(ShardConfig {
        hasher: KeyHasher::with_seed([5, 6, 7, 8]),
        value_bytes_max: VALUE_BYTES_MAX_DEFAULT,
        random_seed: 1,
        memory_bytes_max: 64 << 20,
        eviction,
        segment_bytes: SEGMENT_BYTES,
    });
    let all: LimitedNamespaces = limits.iter().map(|(name, limits)| ((*name).to_owned(), *limits)).collect();
    shard.limit_namespaces(&all, 1);
    shard
}

fn held(shard: &Shard, name: &str) -> (u64, u64) {
    let found = shard.namespaces().find(|(other, _)| *other == name.as_bytes());
    found.map_or((0, 0), |(_, counters)| (counters.items, counters.bytes))
}

#[test]
fn a_limited_namespace_never_holds_more_and_takes_from_nobody_else() {
    for seed in 1..=3u64 {
        let mut random = Random(seed * 0x9E37_79B9);
        let small = NamespaceLimits { items_max: 50, ..NamespaceLimits::default() };
        let light = NamespaceLimits { bytes_max: 20_000, ..NamespaceLimits::default() };
        let mut shard = limited(&[("small", small), ("light", light)], Eviction::TinyLfu);
        let now = Now::at_ms(1_700_000_000_000);
        let mut others = 0;
        for turn in 0..20_000u64 {
            let name = ["small^", "light^", "other^", ""][random.below(4) as usize];
            let key = format!("{name}key:{}", random.below(2_000));
            let value = vec![b'v'; random.below(600) as usize];
            match random.below(6) {
                0 => drop(run(&mut shard, &[b"DEL", key.as_bytes()], now, &mut ())),
                1 => drop(run(&mut shard, &[b"GET", key.as_bytes()], now, &mut ())),
                2 => drop(run(&mut shard, &[b"APPEND", key.as_bytes(), &value[..value.len() / 10]], now, &mut ())),
                3 if turn % 50 == 0 => drop(shard.tick(now, 200, &mut ())),
                _ => drop(run(&mut shard, &[b"SET", key.as_bytes(), &value], now, &mut ())),
            }
            assert!(held(&shard, "small").0 <= 50 && held(&shard, "light").1 <= 20_000, "turn {turn}, seed {seed}");
            others = others.max(held(&shard, "other").0);
        }
        shard.validate();
        assert!(held(&shard, "small").0 > 25 && held(&shard, "light").1 > 10_000, "they are used, too");
        assert!(others > 500, "nobody else loses anything");
        let evicted: u64 = shard.namespaces().filter(|(name, _)| *name == b"other").map(|(_, it)| it.evicted).sum();
        assert_eq!(evicted, 0);
    }
}

#[test]
fn keys_that_are_asked_for_outlive_those_that_are_not() {
    let limits = NamespaceLimits { items_max: 100, ..NamespaceLimits::default() };
    let mut shard = limited(&[("ns", limits)], Eviction::TinyLfu);
    let now = Now::at_ms(1_700_000_000_000);
    for number in 0..20_000u64 {
        run(&mut shard, &[b"SET", format!("ns^new:{number}").as_bytes(), b"v"], now, &mut ());
        let friend = format!("ns^friend:{}", number % 20);
        if run(&mut shard, &[b"GET", friend.as_bytes()], now, &mut ()) == Reply::Nil {
            assert!(number < 100, "{friend} is gone at {number}");
            run(&mut shard, &[b"SET", friend.as_bytes(), b"v"], now, &mut ());
        }
    }
}

#[test]
fn a_limit_that_comes_later_is_reached_with_ticks_and_goes_with_the_flush_of_all() {
    let mut shard = limited(&[], Eviction::TinyLfu);
    let now = Now::at_ms(1_700_000_000_000);
    for number in 0..20_000u64 {
        run(&mut shard, &[b"SET", format!("ns^{number}").as_bytes(), b"v"], now, &mut ());
        run(&mut shard, &[b"SET", format!("{number}").as_bytes(), b"v"], now, &mut ());
    }
    let limits = NamespaceLimits { items_max: 10, ..NamespaceLimits::default() };
    shard.limit_namespaces(&[("ns".to_owned(), limits)].into_iter().collect(), 1);
    let mut ticks = 0;
    while held(&shard, "ns").0 > 10 {
        shard.tick(now, 1000, &mut ());
        ticks += 1;
        assert!(ticks < 10_000);
    }
    shard.validate();
    assert_eq!(shard.len(), 20_010);
    run(&mut shard, &[b"FLUSHALL"], now, &mut ());
    for number in 0..1_000u64 {
        run(&mut shard, &[b"SET", format!("ns^{number}").as_bytes(), b"v"], now, &mut ());
    }
    assert_eq!(held(&shard, "ns").0, 10);
    shard.limit_namespaces(&LimitedNamespaces::new(), 1);
    for number in 0..1_000u64 {
        run(&mut shard, &[b"SET", format!("ns^{number}").as_bytes(), b"v"], now, &mut ());
    }
    assert_eq!(held(&shard, "ns").0, 1_000);
    shard.validate();
}

#[test]
fn without_eviction_a_full_namespace_takes_nothing_new() {
    let limits = NamespaceLimits { items_max: 2, bytes_max: 100, ..NamespaceLimits::default() };
    let mut shard = limited(&[("ns", limits)], Eviction::None);
    let now = Now::at_ms(1_700_000_000_000);
    let is_oom = |reply: Reply<'static>| matches!(reply, Reply::Error(error) if error.text().starts_with("OOM "));
    let mut set = |key: &str, bytes: usize| {
        run(&mut shard, &[b"SET", key.as_bytes(), &vec![b'v'; bytes]], now, &mut ()).into_owned()
    };
    assert_eq!([set("ns^a", 10), set("ns^b", 10)], [Reply::Ok, Reply::Ok]);
    assert!(is_oom(set("ns^c", 1)) && is_oom(set("ns^a", 90)) && is_oom(set("ns^a", 101)));
    assert_eq!([set("ns^a", 70), set("other^c", 1), set("c", 1_000)], [Reply::Ok, Reply::Ok, Reply::Ok]);
}

#[test]
fn expiries_are_given_and_bounded() {
    let limits = NamespaceLimits { ttl_ms: 1_000, ttl_max_ms: 10_000, ..NamespaceLimits::default() };
    let mut shard = limited(&[("ns", limits)], Eviction::TinyLfu);
    let now = Now::at_ms(1_700_000_000_000);
    let mut after = |command: &[&[u8]]| {
        run(&mut shard, command, now, &mut ());
        run(&mut shard, &[b"PTTL", b"ns^k"], now, &mut ()).into_owned()
    };
    assert_eq!(after(&[b"SET", b"ns^k", b"1"]), Reply::Int(1_000));
    assert_eq!(after(&[b"SET", b"ns^k", b"1", b"PX", b"5000"]), Reply::Int(5_000));
    assert_eq!(after(&[b"INCR", b"ns^k"]), Reply::Int(5_000));
    assert_eq!(after(&[b"SET", b"ns^k", b"1", b"EX", b"5000"]), Reply::Int(10_000));
    assert_eq!(after(&[b"PEXPIRE", b"ns^k", b"99999"]), Reply::Int(10_000));
    assert_eq!(after(&[b"PERSIST", b"ns^k"]), Reply::Int(10_000));
    assert_eq!(after(&[b"RENAME", b"ns^k", b"k"]), Reply::Int(-2));
    assert_eq!(after(&[b"SET", b"k", b"1"]), Reply::Int(-2));
    assert_eq!(run(&mut shard, &[b"PTTL", b"k"], now, &mut ()), Reply::Int(-1));
}
