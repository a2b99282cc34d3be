//! A small seeded generator (SplitMix64), so that a failure can be repeated from the seed it prints.

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The seed from the environment variable `CRABCACHE_TEST_SEED`, or a fresh one; printed either way,
    /// and shown by the test runner when the test fails.
    pub fn announced(test: &str) -> Random {
        let seed = match std::env::var("CRABCACHE_TEST_SEED") {
            Ok(seed) => seed.parse().expect("CRABCACHE_TEST_SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos() as u64,
        };
        println!("{test}: repeat with CRABCACHE_TEST_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// Ascending offsets within `len` bytes at which a stream is cut; sometimes none, sometimes many.
    pub fn cuts(&mut self, len: usize) -> Vec<usize> {
        let count = match self.below(4) {
            0 => 0,
            1 => 1,
            2 => self.below(8),
            _ => self.below(200),
        };
        let mut cuts: Vec<usize> = (0..count.min(len)).map(|_| self.below(len)).collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }
}
