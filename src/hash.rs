//! The keyed hash of the index. The seed is drawn once per process by the runtime, so that nobody
//! outside can craft keys that collide, and is shared by all cores, so that a hash computed where a
//! command arrived holds on the core that owns the key.

#[derive(Clone, Debug)]
pub struct KeyHasher(ahash::RandomState);

impl KeyHasher {
    pub fn with_seed(seed: [u64; 4]) -> KeyHasher {
        KeyHasher(ahash::RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]))
    }

    /// For maps whose keys come from outside.
    pub fn state(&self) -> ahash::RandomState {
        self.0.clone()
    }

    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash_one(key)
    }
}

/// The next word of SplitMix64, for choices that need not be secret: `state` goes on by a fixed step, and its bits are mixed.
#[inline]
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever knew the seed could make all his keys fall into one bucket; with another seed they are any keys.
    #[test]
    fn keys_chosen_to_collide_under_one_seed_spread_under_another() {
        const BUCKETS: u64 = 1 << 12;
        let (known, drawn) = (KeyHasher::with_seed([1, 2, 3, 4]), KeyHasher::with_seed([1, 2, 3, 5]));
        let keys = (0..400_000u32).map(|number| format!("key:{number}").into_bytes());
        let chosen: Vec<Vec<u8>> = keys.filter(|key| known.hash(key) % BUCKETS == 7).collect();
        assert!(chosen.len() > 60, "{}", chosen.len());
        let mut buckets: Vec<u64> = chosen.iter().map(|key| drawn.hash(key) % BUCKETS).collect();
        buckets.sort_unstable();
        buckets.dedup();
        assert!(buckets.len() * 10 > chosen.len() * 9, "{} keys in {} buckets", chosen.len(), buckets.len());
    }
}
