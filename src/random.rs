//! Randomness for tests: the same seed draws the same numbers everywhere.

use crate::hash::split_mix;

/// The hash of the key with this number, where a test simulates keys.
pub fn hash_of(key: u64) -> u64 {
    let hash = key.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let hash = (hash ^ hash >> 31).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ hash >> 29
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        split_mix(&mut self.0)
    }

    /// 0 up to but not including `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).map(|_| self.next().to_le_bytes());
        let mut bytes = words.collect::<Vec<_>>().concat();
        bytes.truncate(len);
        bytes
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Says which seed a failing test was using.
pub struct Announced(pub u64);

impl Drop for Announced {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.0);
        }
    }
}
