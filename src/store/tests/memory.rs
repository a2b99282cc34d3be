//! The ceiling: whatever is stored, shards stay below it and keep their books.

use std::collections::BTreeMap;

use super::random::{Random, Replica};
use super::*;

const MIB: u64 = 1 << 20;

fn bounded(bytes_max: u64, eviction: Eviction) -> Shard {
    Shard::new(ShardConfig {
        hasher: KeyHasher::with_seed([5, 6, 7, 8]),
        value_bytes_max: VALUE_BYTES_MAX_DEFAULT,
        random_seed: 9,
        memory_bytes_max: bytes_max,
        eviction,
        segment_bytes: SEGMENT_BYTES,
    })
}

fn set(shard: &mut Shard, key: u64, value: &[u8], now: Now, effects: &mut impl Effects) -> String {
    shown(run(shard, &[b"SET", format!("key:{key}").as_bytes(), value], now, effects))
}

fn get(shard: &mut Shard, key: u64, now: Now) -> bool {
    !matches!(run(shard, &[b"GET", format!("key:{key}").as_bytes()], now, &mut ()), Reply::Nil)
}

/// What a shard may be above its ceiling for a moment: index and history grow by chunks, and what they take is made
/// up for bit by bit.
const SLACK: u64 = 4 * MIB;

#[test]
fn random_sizes_times_and_ceilings_never_pass_the_ceiling() {
    let mut evicted = 0;
    for seed in 1..=6u64 {
        let mut random = Random(seed * 0x9E37_79B9);
        let mut bytes_max = (10 + random.below(8)) * MIB;
        let eviction = [Eviction::TinyLfu, Eviction::TinyLfu, Eviction::Lru][seed as usize % 3];
        let mut shard = bounded(bytes_max, eviction);
        let mut replica = Replica::default();
        let mut now_ms = 1_700_000_000_000;
        let mut value_max = 200;
        for turn in 0..40_000 {
            now_ms += random.below(3);
            let now = Now::at_ms(now_ms);
            if random.below(6_000) == 0 {
                value_max = [30, 200, 3_000, 20_000, 80_000][random.below(5) as usize];
            }
            if random.below(10_000) == 0 {
                bytes_max = (10 + random.below(8)) * MIB;
                shard.set_memory(bytes_max, eviction);
            }
            let key = random.below(30_000).min(random.below(30_000));
            let name = format!("key:{key}");
            let name = name.as_bytes();
            let value = vec![b'x'; random.below(value_max) as usize];
            match random.below(10) {
                0..=3 => drop(set(&mut shard, key, &value, now, &mut replica)),
                4 => drop(run(&mut shard, &[b"SET", name, &value, b"PX", b"500"], now, &mut replica)),
                5 => drop(run(&mut shard, &[b"APPEND", name, &value[..value.len() / 8]], now, &mut replica)),
                6 => drop(run(&mut shard, &[b"DEL", name], now, &mut replica)),
                7 => drop(run(&mut shard, &[b"EXPIRE", name, b"1"], now, &mut replica)),
                _ => match run(&mut shard, &[b"GET", name], now, &mut replica) {
                    Reply::Nil => {}
                    reply => {
                        let seen = match &reply {
                            Reply::Bulk(value) => value,
                            Reply::Large(value) => &value[..],
                            other => panic!("seed {seed}, turn {turn}: {other:?}"),
                        };
                        assert!(seen == replica.entries[name].0, "seed {seed}, turn {turn}: another value");
                    }
                },
            }
            let counters = shard.counters();
            assert!(counters.memory_bytes <= bytes_max + 8 * MIB, "seed {seed}, turn {turn}: {counters:?}");
            replica.check_counts(&counters, format_args!("seed {seed}, turn {turn}"));
            if turn % 16 == 0 {
                shard.tick(now, 64, &mut replica);
            }
            if turn % 4_000 == 0 {
                shard.validate();
                while shard.tick(now, 256, &mut replica) > 0 {}
                let counters = shard.counters();
                assert!(counters.memory_bytes <= bytes_max + SLACK, "seed {seed}, turn {turn}: {counters:?}");
            }
        }
        shard.validate();
        let counters = shard.counters();
        evicted += counters.evicted;
        for (key, (value, _)) in &replica.entries {
            match run(&mut shard, &[b"GET", key], Now::at_ms(0), &mut ()) {
                Reply::Bulk(seen) => assert!(seen == value),
                Reply::Large(seen) => assert!(seen == value),
                other => panic!("seed {seed}: {other:?}"),
            }
        }
    }
    assert!(evicted > 10_000, "{evicted}");
}

/// Values of `size` under new keys, until so many bytes were written as fill the shard twice; then the part of
/// the ceiling that is keys and values, in percent.
fn payload_after_churn(
    shard: &mut Shard,
    bytes_max: u64,
    key: &mut u64,
    random: &mut Random,
    size: fn(&mut Random) -> u64,
) -> u64 {
    let now = Now::at_ms(1_000);
    let mut written = 0;
    while written < 2 * bytes_max {
        let value = vec![b'v'; size(random) as usize];
        written += value.len() as u64 + 16;
        *key += 1;
        let name = format!("key:{key:012}");
        assert_eq!(shown(run(shard, &[b"SET", name.as_bytes(), &value], now, &mut ())), "OK");
        assert!(shard.counters().memory_bytes <= bytes_max + SLACK, "{:?}", shard.counters());
    }
    shard.validate();
    while shard.tick(now, 256, &mut ()) > 0 {}
    let counters = shard.counters();
    (counters.key_bytes + counters.value_bytes) * 100 / bytes_max
}

/// No command does more because the table is large, however it came to be so: a bucket splits or merges, of a few
/// items, and that is all.
#[test]
fn growing_and_shrinking_move_one_bucket_at_a_time() {
    const KEYS: u64 = 120_000;
    const MOVED_MAX: u64 = 64;
    let mut shard = bounded(u64::MAX, Eviction::TinyLfu);
    let now = Now::at_ms(1_700_000_000_000);
    let mut most = 0;
    let mut check = |shard: &Shard, before: (u64, u32)| {
        let moved = shard.keyspace.table.moved - before.0;
        assert!(moved <= MOVED_MAX, "{moved} items were moved by one command");
        assert!(shard.keyspace.buckets().abs_diff(before.1) <= 1);
        assert_eq!(shard.keyspace.worked, 0, "nothing is moved where there is room");
        most = most.max(moved);
    };
    for key in 0..KEYS {
        let before = (shard.keyspace.table.moved, shard.keyspace.buckets());
        set(&mut shard, key, b"value", now, &mut ());
        check(&shard, before);
    }
    assert!(shard.keyspace.buckets() as u64 > KEYS / 12);
    for key in 0..KEYS {
        let before = (shard.keyspace.table.moved, shard.keyspace.buckets());
        run(&mut shard, &[b"DEL", format!("key:{key}").as_bytes()], now, &mut ());
        check(&shard, before);
    }
    assert!(most > 8 && shard.keyspace.buckets() < 100, "{most} moved at once");
}

/// At the ceiling every write makes room for what it brings: what it looks at and moves for that is bounded, also when
/// the sizes shift under it.
#[test]
fn making_room_is_bounded_work_for_every_write() {
    // A segment of the smallest items may be moved together; a millisecond moves several times as many.
    const WORK_MAX: u64 = 6_000;
    for eviction in [Eviction::TinyLfu, Eviction::Lru] {
        let mut shard = bounded(12 * MIB, eviction);
        let now = Now::at_ms(1_700_000_000_000);
        let mut random = Random(77);
        let mut total = 0;
        for turn in 0..220_000u64 {
            let value_max = [30, 100, 4_000, 600][turn as usize / 30_000 % 4];
            let key = random.below(400_000).min(random.below(400_000));
            if random.below(3) == 0 {
                get(&mut shard, key, now);
            }
            let (moved, worked) = (shard.keyspace.table.moved, shard.keyspace.worked);
            set(&mut shard, key, &vec![b'x'; random.below(value_max) as usize], now, &mut ());
            let work = shard.keyspace.worked - worked;
            assert!(work <= WORK_MAX, "{eviction:?}, turn {turn}: {work} items for one write");
            assert!(shard.keyspace.table.moved - moved <= 64 + 16 * work);
            total += work;
        }
        assert!(total > 100_000, "{total} items in all: nothing was evicted");
        shard.validate();
    }
}

/// What users saw: after one large value among many tiny ones, writes were refused until enough of the others had gone,
/// and each of them took milliseconds.
#[test]
fn a_large_value_among_tiny_ones_stalls_nobody_and_nobody_is_refused() {
    // As above, and what is judged for the large value itself.
    const WORK_MAX: u64 = 20_000;
    for eviction in [Eviction::TinyLfu, Eviction::Lru] {
        let bytes_max = 20 * MIB;
        let mut shard = bounded(bytes_max, eviction);
        let now = Now::at_ms(1_700_000_000_000);
        for key in 0..900_000 {
            set(&mut shard, key, b"tiny", now, &mut ());
        }
        assert!(shard.counters().evicted > 10_000, "{:?}", shard.counters());
        let mut worked = shard.keyspace.worked;
        assert_eq!(set(&mut shard, u64::MAX, &vec![b'v'; 9 << 20], now, &mut ()), "OK");
        for key in 0..20_000 {
            assert!(
                shard.keyspace.worked - worked <= WORK_MAX,
                "{eviction:?}, {key}: {}",
                shard.keyspace.worked - worked
            );
            worked = shard.keyspace.worked;
            assert_eq!(set(&mut shard, 1 << 40 | key, b"tiny", now, &mut ()), "OK", "{eviction:?}, {key}");
        }
        // Even without ticks it is made up for.
        assert!(shard.counters().memory_bytes <= bytes_max + SLACK, "{:?}", shard.counters());
        while shard.tick(now, 256, &mut ()) > 0 {}
        assert!(shard.counters().memory_bytes <= bytes_max, "{:?}", shard.counters());
        shard.validate();
    }
}

#[test]
fn most_of_the_ceiling_is_payload_whatever_the_sizes_and_however_they_shift() {
    let bytes_max = 64 * MIB;
    type Size = fn(&mut Random) -> u64;
    // The smaller the shard, the more it is to keep a few segments in hand.
    let sizes: [(&str, Size, u64, u64); 6] = [
        ("100 B", |_| 100, 85, 87),
        ("4 KiB", |_| 4096, 84, 88),
        ("16 B to 32 KiB", |random| 16 << random.below(11), 82, 82),
        ("100 B to 1 KiB", |random| 100 + random.below(900), 82, 88),
        ("4 to 8 KiB", |random| 4_000 + random.below(4_000), 82, 85),
        ("100 B again", |_| 100, 82, 86),
    ];
    for eviction in [Eviction::TinyLfu, Eviction::Lru] {
        let mut shard = bounded(bytes_max, eviction);
        let mut random = Random(77);
        let mut key = 0;
        for (what, size, least, least_lru) in sizes {
            let percent = payload_after_churn(&mut shard, bytes_max, &mut key, &mut random, size);
            let least = if eviction == Eviction::Lru { least_lru } else { least };
            assert!(percent >= least, "{eviction:?}, {what}: {percent} %: {:?}", shard.counters());
        }
        run(&mut shard, &[b"FLUSHALL"], Now::at_ms(1_000), &mut ());
        while shard.tick(Now::at_ms(1_000), 256, &mut ()) > 0 {}
        assert!(shard.counters().memory_bytes < MIB, "{:?}", shard.counters());
    }
}

#[test]
fn overwriting_and_deleting_leave_few_gaps() {
    let now = Now::at_ms(1_000);
    let bytes_max = 64 * MIB;
    let mut shard = bounded(bytes_max, Eviction::TinyLfu);
    let mut random = Random(78);
    let mut written = 0;
    while written < 3 * bytes_max {
        let name = format!("key:{:012}", random.below(200_000));
        if random.below(4) == 0 {
            run(&mut shard, &[b"DEL", name.as_bytes()], now, &mut ());
            continue;
        }
        let value = vec![b'v'; 100 + random.below(900) as usize];
        written += value.len() as u64;
        run(&mut shard, &[b"SET", name.as_bytes(), &value], now, &mut ());
    }
    let counters = shard.counters();
    let payload = counters.key_bytes + counters.value_bytes;
    assert!(payload * 100 >= bytes_max * 83, "{} %: {counters:?}", payload * 100 / bytes_max);
    shard.validate();
}

#[test]
fn without_eviction_writes_are_refused_and_everything_else_goes_on() {
    let now = Now::at_ms(1_000);
    let mut shard = bounded(12 * MIB, Eviction::None);
    let mut stored = 0;
    let refusal = loop {
        match set(&mut shard, stored, &[b'v'; 1_000], now, &mut ()).as_str() {
            "OK" => stored += 1,
            other => break other.to_owned(),
        }
    };
    assert_eq!(refusal, "OOM command not allowed when used memory > 'maxmemory'.");
    assert!(stored > 6_000, "{stored}");
    assert!((0..stored).all(|key| get(&mut shard, key, now)));
    assert!(set(&mut shard, u64::MAX, &vec![b'v'; 1 << 20], now, &mut ()).starts_with("OOM"));
    // What is there can be changed in place, and deleting makes room.
    assert_eq!(set(&mut shard, 1, &[b'w'; 1_000], now, &mut ()), "OK");
    for key in (0..stored).step_by(2) {
        run(&mut shard, &[b"DEL", format!("key:{key}").as_bytes()], now, &mut ());
    }
    while shard.tick(now, 256, &mut ()) > 0 {}
    for key in 0..stored / 4 {
        assert_eq!(set(&mut shard, 1 << 40 | key, &[b'v'; 1_000], now, &mut ()), "OK");
    }
    shard.validate();
    let counters = shard.counters();
    assert_eq!((counters.evicted, counters.memory_bytes <= 12 * MIB), (0, true));
    // With another setting nothing is refused any more.
    shard.set_memory(12 * MIB, Eviction::TinyLfu);
    for key in 0..stored {
        assert_eq!(set(&mut shard, 1 << 41 | key, &[b'v'; 1_000], now, &mut ()), "OK");
    }
    assert!(shard.counters().evicted > 0);
}

#[test]
fn a_lower_ceiling_is_reached_in_steps() {
    let now = Now::at_ms(1_000);
    let mut shard = bounded(40 * MIB, Eviction::TinyLfu);
    for key in 0..60_000 {
        set(&mut shard, key, &[b'v'; 400], now, &mut ());
    }
    assert!(shard.counters().memory_bytes > 25 * MIB);
    shard.set_memory(10 * MIB, Eviction::TinyLfu);
    assert!(shard.counters().memory_bytes > 25 * MIB, "nothing happens at once");
    let mut ticks = 0;
    while shard.tick(now, 256, &mut ()) > 0 {
        ticks += 1;
    }
    assert!(ticks > 50, "{ticks}");
    assert!(shard.counters().memory_bytes <= 10 * MIB, "{:?}", shard.counters());
    shard.validate();
    shard.set_memory(40 * MIB, Eviction::TinyLfu);
    for key in 0..60_000 {
        set(&mut shard, key, &[b'v'; 400], now, &mut ());
    }
    assert!(shard.counters().memory_bytes > 25 * MIB);
    shard.validate();
}

#[test]
fn what_has_expired_makes_room_before_anything_is_evicted() {
    let mut shard = bounded(20 * MIB, Eviction::TinyLfu);
    let now = Now::at_ms(1_000);
    for key in 0..10_000 {
        set(&mut shard, key, &[b'v'; 400], now, &mut ());
    }
    for key in 10_000..24_000 {
        let name = format!("key:{key}");
        run(&mut shard, &[b"SET", name.as_bytes(), &[b'v'; 400], b"PX", b"10"], now, &mut ());
    }
    let later = Now::at_ms(2_000);
    while shard.tick(later, 256, &mut ()) > 0 {}
    for key in 24_000..38_000 {
        set(&mut shard, key, &[b'v'; 400], later, &mut ());
    }
    assert_eq!(shard.counters().evicted, 0, "{:?}", shard.counters());
    assert!((0..10_000).chain(24_000..38_000).all(|key| get(&mut shard, key, later)));
    shard.validate();
}

#[test]
fn keys_in_use_survive_a_scan() {
    for eviction in [Eviction::TinyLfu, Eviction::Lru] {
        let now = Now::at_ms(1_000);
        let mut shard = bounded(12 * MIB, eviction);
        let mut random = Random(5);
        let mut hits = 0u32;
        for turn in 0..200_000u64 {
            let key = random.below(3_000);
            if get(&mut shard, key, now) {
                hits += (turn > 100_000) as u32;
            } else {
                set(&mut shard, key, &[b'v'; 500], now, &mut ());
            }
            let scanned = 1_000_000 + turn;
            get(&mut shard, scanned, now);
            set(&mut shard, scanned, &[b'v'; 500], now, &mut ());
        }
        assert!(hits > 95_000, "{eviction:?}: {hits} hits of 100000");
        assert!(shard.counters().evicted > 100_000);
        shard.validate();
    }
}

#[test]
fn values_of_their_own_count_as_what_they_take() {
    let now = Now::at_ms(1_000);
    let mut shard = bounded(32 * MIB, Eviction::TinyLfu);
    let mut sizes = BTreeMap::new();
    for key in 0..200 {
        let value = vec![b'v'; 100_000 + key as usize * 10_000];
        sizes.insert(key, value.len());
        assert_eq!(set(&mut shard, key, &value, now, &mut ()), "OK");
        assert!(shard.counters().memory_bytes <= 32 * MIB + SLACK, "{:?}", shard.counters());
    }
    let counters = shard.counters();
    assert!(counters.large_value_bytes > 20 * MIB && counters.evicted > 100, "{counters:?}");
    // A value that would need all others to go is refused.
    assert!(set(&mut shard, 1_000, &vec![b'v'; 17 << 20], now, &mut ()).starts_with("OOM"));
    assert_eq!(shard.counters().refused, 1);
    shard.validate();
}
