//! What one command costs a shard, without network and protocol: `cargo bench --bench apply [-- keys … [words of the rows to print]]`.
//!
//! Commands come in batches of 64 as a core decodes them: their bytes in a warm buffer, their keys drawn
//! uniformly, with and without the two prefetch passes. Each batch is timed alone and the median taken, so
//! that whoever interrupts a batch disturbs nothing but the last column, the 99th percentile.

mod support;

use std::hint::black_box;
use std::time::Instant;

use crabcache::clock::Now;
use crabcache::command::{Spec, lookup};
use crabcache::hash::KeyHasher;
use crabcache::reply::Reply;
use crabcache::request::{ArgRange, Args, Call};
use crabcache::store::{Eviction, Shard};

use support::{Random, UNBOUNDED, resident_bytes};

const BATCH: usize = 64;
const BATCHES: usize = 1 << 14;
const KEY_BYTES: usize = 16;
const NOW_MS: u64 = 1_700_000_000_000;

/// Commands ready to be applied, as the engine holds them: bytes, ranges, hashes.
struct Batch<'a> {
    hasher: &'a KeyHasher,
    spec: &'static Spec,
    args: &'a [&'a [u8]],
    bytes: Vec<u8>,
    ranges: Vec<ArgRange>,
    hashes: Vec<u64>,
}

impl<'a> Batch<'a> {
    fn of(hasher: &'a KeyHasher, name: &str, args: &'a [&'a [u8]]) -> Batch<'a> {
        let spec = lookup(name.as_bytes()).expect("a command");
        Batch { hasher, spec, args, bytes: Vec::new(), ranges: Vec::new(), hashes: Vec::new() }
    }

    fn fill(&mut self, keys: impl Iterator<Item = u64>) {
        self.bytes.clear();
        self.ranges.clear();
        self.hashes.clear();
        for mut key in keys {
            let start = self.bytes.len();
            let mut text = *b"key:000000000000";
            for digit in text[4..].iter_mut().rev() {
                *digit += (key % 10) as u8;
                key /= 10;
            }
            self.bytes.extend_from_slice(&text);
            self.hashes.push(self.hasher.hash(&text));
            self.ranges.push(ArgRange::inline(start, KEY_BYTES));
            for arg in self.args {
                self.ranges.push(ArgRange::inline(self.bytes.len(), arg.len()));
                self.bytes.extend_from_slice(arg);
            }
        }
    }

    /// Nanoseconds per command.
    fn apply(&self, shard: &mut Shard, prefetch: bool) -> f64 {
        let now = Now::at_ms(NOW_MS);
        let started = Instant::now();
        if prefetch {
            self.hashes.iter().for_each(|&hash| shard.prefetch_bucket(hash));
            self.hashes.iter().for_each(|&hash| shard.prefetch_item(hash));
        }
        for (&hash, ranges) in self.hashes.iter().zip(self.ranges.chunks(1 + self.args.len())) {
            let args = Args::new(&self.bytes, ranges, &[]);
            match shard.apply(&Call { spec: self.spec, args, hash }, now, &mut ()) {
                // The encoder will read it all.
                Reply::Bulk(value) => drop(black_box(value.iter().step_by(32).fold(0, |sum, byte| sum ^ byte))),
                reply => drop(black_box(reply)),
            }
        }
        started.elapsed().as_nanos() as f64 / self.hashes.len() as f64
    }
}

fn report(what: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    println!("  {what:<34} {:>7.1} ns   {:.1}", times[times.len() / 2], times[times.len() * 99 / 100]);
}

fn bench(keys: u64, only: &str) {
    println!("{keys} keys of {KEY_BYTES} bytes, values of 64 bytes; median, 99th percentile of batches");
    let hasher = support::hasher();
    let value = [b'v'; 64];
    let value = &value[..];
    let before = resident_bytes();
    let mut shard = Shard::new(support::shard_config(&hasher, UNBOUNDED, Eviction::TinyLfu));
    let mut times = Vec::new();
    let args = [value];
    let mut insert = Batch::of(&hasher, "set", &args);
    for first in (0..keys).step_by(BATCH) {
        insert.fill(first..(first + BATCH as u64).min(keys));
        times.push(insert.apply(&mut shard, true));
    }
    report("SET of a new key, prefetched", &mut times);
    let beyond = |bytes: u64| bytes as f64 / keys as f64 - (KEY_BYTES + value.len()) as f64;
    let counters = shard.counters();
    println!(
        "  bytes per item beyond key and value: resident {:.1}; index {:.1}, slots {:.1}",
        beyond(resident_bytes() - before),
        counters.index_bytes as f64 / keys as f64,
        beyond(counters.item_bytes),
    );

    let mut random = Random::new();
    let mut measure = |shard: &mut Shard, what: &str, name: &str, args: &[&[u8]], absent: bool| {
        for prefetch in [true, false] {
            let what = format!("{what}{}", if prefetch { ", prefetched" } else { "" });
            if !what.contains(only) {
                continue;
            }
            let mut batch = Batch::of(&hasher, name, args);
            let mut times = Vec::new();
            for _ in 0..BATCHES {
                batch.fill((0..BATCH).map(|_| random.below(keys) + keys * absent as u64));
                times.push(batch.apply(shard, prefetch));
                if name == "del" {
                    insert.fill(std::iter::empty());
                    insert.hashes.clone_from(&batch.hashes);
                    for range in &batch.ranges {
                        let (start, _) = range.span().expect("inline");
                        insert.ranges.push(ArgRange::inline(insert.bytes.len(), KEY_BYTES));
                        insert.bytes.extend_from_slice(&batch.bytes[start..start + KEY_BYTES]);
                        insert.ranges.push(ArgRange::inline(insert.bytes.len(), value.len()));
                        insert.bytes.extend_from_slice(value);
                    }
                    insert.apply(shard, true);
                }
            }
            report(&what, &mut times);
        }
    };
    measure(&mut shard, "GET", "get", &[], false);
    measure(&mut shard, "SET", "set", &[value], false);
    measure(&mut shard, "GET of an absent key", "get", &[], true);
    measure(&mut shard, "DEL", "del", &[], false);
    measure(&mut shard, "SET EX", "set", &[value, b"EX", b"1000"], false);
    let args: [&[u8]; 1] = [b"1000000"];
    let mut reset = Batch::of(&hasher, "set", &args);
    for first in (0..keys).step_by(BATCH) {
        reset.fill(first..(first + BATCH as u64).min(keys));
        reset.apply(&mut shard, true);
    }
    measure(&mut shard, "INCR", "incr", &[], false);

    // All keys expire in the same millisecond.
    let args: [&[u8]; 2] = [b"1", value];
    let mut expiring = Batch::of(&hasher, "psetex", &args);
    for first in (0..keys).step_by(BATCH) {
        expiring.fill(first..(first + BATCH as u64).min(keys));
        expiring.apply(&mut shard, true);
    }
    let mut times = Vec::new();
    let (mut total, mut now_ms) = (0.0, NOW_MS + 1_000);
    while !shard.is_empty() {
        let started = Instant::now();
        let used = shard.tick(Now::at_ms(now_ms), 256, &mut ());
        let time = started.elapsed().as_nanos() as f64;
        total += time;
        times.push(time);
        now_ms += (used < 256) as u64 * 100;
    }
    println!("  {:<34} {:>7.1} ns", "expiry of a key, all at once", total / keys as f64);
    report("tick of 256 meanwhile", &mut times);

    let mut insert = Batch::of(&hasher, "set", &args[1..]);
    for first in (0..keys).step_by(BATCH) {
        insert.fill(first..(first + BATCH as u64).min(keys));
        insert.apply(&mut shard, true);
    }
    let flush = lookup(b"flushall").expect("a command");
    let started = Instant::now();
    let call = Call { spec: flush, args: Args::new(&[], &[], &[]), hash: 0 };
    black_box(shard.apply(&call, Now::at_ms(NOW_MS), &mut ()));
    println!("  {:<34} {:>7.3} ms", "FLUSHALL", started.elapsed().as_secs_f64() * 1e3);
    let mut times = Vec::new();
    loop {
        let started = Instant::now();
        let visited = shard.tick(Now::at_ms(NOW_MS), 64, &mut ());
        times.push(started.elapsed().as_secs_f64() * 1e9);
        if visited == 0 {
            break;
        }
    }
    report("tick after it", &mut times);
}

fn main() {
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    // `cargo test` runs benches too: only to see that they run.
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let only = words.iter().find(|word| word.starts_with(|first: char| first.is_ascii_uppercase()));
    let only = only.map_or("", |word| word);
    match (&sizes[..], is_bench) {
        ([], false) => bench(10_000, only),
        ([], true) => [1_000_000, 5_000_000].into_iter().for_each(|keys| bench(keys, only)),
        (sizes, _) => sizes.iter().for_each(|&keys| bench(keys, only)),
    }
}
