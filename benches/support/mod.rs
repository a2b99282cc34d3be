//! What several benches need: keys drawn at random, a shard of the usual kind, and what this process weighs.

#![allow(dead_code, reason = "each bench uses its own part")]

use crabcache::hash::KeyHasher;
use crabcache::limits::VALUE_BYTES_MAX_DEFAULT;
use crabcache::store::{Eviction, SEGMENT_BYTES, ShardConfig};

/// So much memory that nothing is ever evicted.
pub const UNBOUNDED: u64 = 64 << 30;

/// Xorshift: the same numbers in every run.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        Random(0x9E37_79B9_7F4A_7C15)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// The same hashes in every run.
pub fn hasher() -> KeyHasher {
    KeyHasher::with_seed([11, 22, 33, 44])
}

pub fn shard_config(hasher: &KeyHasher, memory_bytes_max: u64, eviction: Eviction) -> ShardConfig {
    ShardConfig {
        hasher: hasher.clone(),
        value_bytes_max: VALUE_BYTES_MAX_DEFAULT,
        random_seed: 1,
        memory_bytes_max,
        eviction,
        segment_bytes: SEGMENT_BYTES,
    }
}

pub fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}
