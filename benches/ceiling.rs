//! What a ceiling of memory holds: `cargo bench --bench ceiling [-- MiB …]`.
//!
//! One shard is kept at its ceiling while the sizes of the values shift, each for three times what it can hold,
//! and then while keys are overwritten with other sizes and deleted. After each: what part of the ceiling is
//! keys and values, where the rest is, resident memory, and what a write cost.

mod support;

use std::time::Instant;

use crabcache::clock::Now;
use crabcache::command::{Spec, lookup};
use crabcache::hash::KeyHasher;
use crabcache::limits::LARGE_VALUE_BYTES_MIN;
use crabcache::request::{ArgRange, Args, Call};
use crabcache::store::{Eviction, Shard};

use support::{Random, resident_bytes};

const MIB: u64 = 1 << 20;
const NOW_MS: u64 = 1_700_000_000_000;
const KEY_BYTES: usize = 16;
/// Ticks come once in so many writes, as on a busy core.
const WRITES_PER_TICK: u64 = 512;
const TICK_BUDGET: usize = 256;

struct Driver {
    hasher: KeyHasher,
    shard: Shard,
    zeroes: bytes::Bytes,
    writes: u64,
    ns_max: u64,
}

impl Driver {
    fn run(&mut self, spec: &'static Spec, key: u64, value_bytes: Option<usize>) {
        let mut bytes = format!("key:{key:012}").into_bytes();
        let hash = self.hasher.hash(&bytes);
        let mut ranges = vec![ArgRange::inline(0, KEY_BYTES)];
        let mut large = Vec::new();
        match value_bytes {
            None => {}
            Some(value_bytes) if value_bytes < LARGE_VALUE_BYTES_MIN => {
                ranges.push(ArgRange::inline(KEY_BYTES, value_bytes));
                bytes.resize(KEY_BYTES + value_bytes, b'v');
            }
            Some(value_bytes) => {
                ranges.push(ArgRange::large(0));
                large.push(bytes::Bytes::copy_from_slice(&self.zeroes[..value_bytes]));
            }
        }
        let now = Now::at_ms(NOW_MS);
        let started = Instant::now();
        self.shard.apply(&Call { spec, args: Args::new(&bytes, &ranges, &large), hash }, now, &mut ());
        self.writes += 1;
        if self.writes.is_multiple_of(WRITES_PER_TICK) {
            self.shard.tick(now, TICK_BUDGET, &mut ());
        }
        self.ns_max = self.ns_max.max(started.elapsed().as_nanos() as u64);
    }
}

fn bench(bytes_max: u64, eviction: Eviction) {
    let hasher = support::hasher();
    let shard = Shard::new(support::shard_config(&hasher, bytes_max, eviction));
    let zeroes = bytes::Bytes::from(vec![b'v'; 1 << 20]);
    let mut driver = Driver { hasher, shard, zeroes, writes: 0, ns_max: 0 };
    let set = lookup(b"SET").expect("a command");
    let del = lookup(b"DEL").expect("a command");
    let mut random = Random::new();
    let mut next_key = 0;
    type Size = fn(&mut Random) -> u64;
    let mixed: Size = |random| {
        let octave = 16u64 << random.below(12);
        octave + random.below(octave)
    };
    // What is written, and over how many keys: 0 for new ones only.
    let phases: [(&str, Size, bool, u64); 9] = [
        ("100 B", |_| 100, false, 0),
        ("4 KiB", |_| 4096, false, 0),
        ("16 B to 64 KiB", mixed, false, 0),
        ("100 B to 1 KiB", |random| 100 + random.below(900), false, 0),
        ("16 to 31 KiB", |random| 16_000 + random.below(15_000), false, 0),
        ("40 to 80 KiB", |random| 40_000 + random.below(40_000), false, 0),
        ("100 B again", |_| 100, false, 0),
        ("overwritten, 100 B to 1 KiB", |random| 100 + random.below(900), true, 0),
        ("a third deleted, 100 B to 1 KiB", |random| 100 + random.below(900), true, 3),
    ];
    for (what, size, is_overwrite, delete_one_in) in phases {
        let (mut written, mut writes, mut spent) = (0, 0u64, 0.0);
        driver.ns_max = 0;
        let first_key = next_key;
        let keys = bytes_max / 600;
        while written < 3 * bytes_max {
            let started = Instant::now();
            for _ in 0..64 {
                let key = if is_overwrite { first_key + random.below(keys) } else { next_key };
                next_key += !is_overwrite as u64;
                if delete_one_in > 0 && random.below(delete_one_in) == 0 {
                    driver.run(del, key, None);
                    continue;
                }
                let bytes = size(&mut random);
                written += bytes + KEY_BYTES as u64;
                driver.run(set, key, Some(bytes as usize));
            }
            writes += 64;
            spent += started.elapsed().as_secs_f64();
        }
        next_key += keys * is_overwrite as u64;
        let counters = driver.shard.counters();
        let of_ceiling = |bytes: u64| bytes as f64 * 100.0 / bytes_max as f64;
        let payload = counters.key_bytes + counters.value_bytes;
        let apart = counters.memory_bytes
            - counters.arena_bytes.min(counters.memory_bytes)
            - counters.index_bytes
            - counters.history_bytes;
        println!(
            "| {} | {eviction:?} | {what} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {:.1} | {} |",
            bytes_max / MIB,
            of_ceiling(payload),
            of_ceiling((counters.item_bytes + counters.large_value_bytes).saturating_sub(payload)),
            of_ceiling(counters.index_bytes),
            of_ceiling(counters.history_bytes),
            of_ceiling(counters.dead_bytes),
            of_ceiling(counters.free_bytes),
            of_ceiling(counters.arena_bytes - counters.item_bytes - counters.dead_bytes - counters.free_bytes),
            of_ceiling(apart.saturating_sub(counters.large_value_bytes)),
            of_ceiling(counters.memory_bytes),
            spent * 1e9 / writes as f64,
            driver.ns_max as f64 / 1e6,
            resident_bytes() / MIB,
        );
    }
}

fn main() {
    println!(
        "| MiB | eviction | values | payload % | headers, rounding | index | history | gaps | free | ends | large | sum | ns per write | worst ms | resident MiB |"
    );
    println!("|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    // `cargo test` runs benches too: only to see that they run.
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    match (&sizes[..], is_bench) {
        ([], false) => bench(4 * MIB, Eviction::TinyLfu),
        (sizes, _) => {
            for &mib in if sizes.is_empty() { &[32, 256, 2048][..] } else { sizes } {
                bench(mib * MIB, Eviction::TinyLfu);
                bench(mib * MIB, Eviction::Lru);
            }
        }
    }
}
