//! Which keys are asked for most: one look-up in so many is noted, and the keys noted most often are kept
//! (Metwally, Agrawal, El Abbadi: "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005).

/// One look-up in so many is noted.
pub const NOTED_ONE_IN: u64 = 128;
/// Keys that are kept; the first few dozen of them are trustworthy.
const KEYS_MAX: usize = 128;
/// After so many notes all counts are halved: what was hot an hour ago matters less and less.
const NOTES: u32 = 1 << 14;
/// Of longer keys only the beginning is kept.
const KEY_BYTES_MAX: usize = 512;

#[derive(Default)]
pub struct HotKeys {
    hashes: Vec<u64>,
    counts: Vec<u32>,
    keys: Vec<Vec<u8>>,
    notes: u32,
}

impl HotKeys {
    /// A key that was drawn from all look-ups.
    #[inline(never)]
    pub fn note(&mut self, hash: u64, key: &[u8]) {
        self.notes += 1;
        if self.notes == NOTES {
            self.notes = 0;
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
        if let Some(at) = self.hashes.iter().position(|&other| other == hash) {
            self.counts[at] += 1;
            return;
        }
        let key = &key[..key.len().min(KEY_BYTES_MAX)];
        if self.keys.len() < KEYS_MAX {
            self.hashes.push(hash);
            self.counts.push(1);
            self.keys.push(key.to_vec());
            return;
        }
        // Whoever was noted least makes room and leaves its count: a key that comes late is not overlooked.
        let least = self.counts.iter().enumerate().min_by_key(|&(_, count)| count).map_or(0, |(at, _)| at);
        self.hashes[least] = hash;
        self.counts[least] += 1;
        self.keys[least].clear();
        self.keys[least].extend_from_slice(key);
    }

    /// The `count` keys asked for most, and about how often lately.
    pub fn top(&self, count: usize) -> Vec<(&[u8], u64)> {
        let all = self.keys.iter().zip(&self.counts).filter(|&(_, &count)| count > 0);
        let mut all: Vec<(&[u8], u64)> = all.map(|(key, &count)| (&key[..], count as u64 * NOTED_ONE_IN)).collect();
        all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        all.truncate(count);
        all
    }

    pub fn clear(&mut self) {
        *self = HotKeys::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_keys_asked_for_most_are_found_among_many() {
        let mut random = Random::new(4);
        let mut hot = HotKeys::default();
        for _ in 0..60_000 {
            // Eight keys get 2 % each, the rest is spread over a million.
            let key = if random.chance(16) { random.below(8) } else { 8 + random.below(1_000_000) };
            hot.note((key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15), format!("key:{key}").as_bytes());
        }
        let mut top: Vec<String> =
            hot.top(8).iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
        top.sort();
        assert_eq!(top, (0..8).map(|key| format!("key:{key}")).collect::<Vec<_>>());
        let counts: Vec<u64> = hot.top(100).iter().map(|&(_, count)| count).collect();
        assert!(counts.is_sorted_by(|a, b| a >= b));
        hot.clear();
        assert!(hot.top(1).is_empty());
    }
}
