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
