//! Namespaces keep their books whatever happens to their keys.

use std::collections::BTreeMap;

use super::random::{Random, Replica};
use super::*;
use crate::namespace::{View, name_of};

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
                11 if turn % 20 == 0 => drop(run(&mut shard, &[b"FLUSHDB"], now, &mut replica)),
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
        let mut cursor = 0;
        loop {
            cursor = shard.sweep_step(cursor, 3, &View::Of(b"a^".to_vec()), &mut replica);
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(held(&shard), expected, "seed {seed}");
        shard.validate();
    }
}
