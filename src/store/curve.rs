//! What the hit ratio of one namespace would be if it might hold half as much, or twice or four times as much.
//!
//! ```text
//!   asked for ─▶ sampled by its hash? ─▶ how many sampled keys were used since it was? ─▶ would have been found by
//!                                        those sizes that hold more than that
//! ```
//!
//! That distance is the whole simulation of a cache that evicts what was not used for longest, of every size at once
//! (Mattson et al., 1970), on a sample as in [`super::evict::what_if`]. A namespace with a quota lets those go that were
//! not asked for between two looks at them, which finds a little less or more than that. Keys that are removed, or expire,
//! are not taken out.

use std::collections::VecDeque;

use super::evict::what_if::{Estimate, HALVES};

/// Sampled keys that are remembered, at most.
const KEYS_MAX: u64 = 256;
/// What a curve takes.
pub const CURVE_BYTES: u64 = KEYS_MAX * size_of::<u64>() as u64 + size_of::<Curve>() as u64;
/// Bits of the hash that say which keys are sampled.
const THINNING_SHIFT: u32 = 40;
/// After so many sampled look-ups all counts are halved: what was long ago matters less and less.
const SAMPLED_MAX: u64 = 1 << 16;
const LARGEST: usize = HALVES.len() - 1;

#[derive(Default)]
pub struct Curve {
    /// Hashes of sampled keys, the one that was used last at the end.
    used: VecDeque<u64>,
    /// One key in so many is sampled, a power of two; 0 before the first.
    sampled_one_in: u64,
    look_ups: u64,
    sampled: u64,
    hits: [u64; HALVES.len()],
}

impl Curve {
    /// A key is looked up, or written, while there is room for `capacity` items.
    pub fn show(&mut self, hash: u64, is_look_up: bool, capacity: u64) {
        let capacity = capacity.max(1);
        self.fit(capacity);
        self.look_ups += is_look_up as u64;
        if hash >> THINNING_SHIFT & (self.sampled_one_in - 1) != 0 {
            return;
        }
        self.sampled += is_look_up as u64;
        let room = |halves: u64| (capacity * halves / HALVES[1]).div_ceil(self.sampled_one_in).max(1);
        if let Some(place) = self.used.iter().rposition(|used| *used == hash) {
            let since = (self.used.len() - 1 - place) as u64;
            for (hits, halves) in self.hits.iter_mut().zip(HALVES) {
                *hits += (is_look_up && since < room(halves)) as u64;
            }
            self.used.remove(place);
        } else if self.used.len() as u64 >= room(HALVES[LARGEST]).min(KEYS_MAX) {
            self.used.pop_front();
        }
        if self.used.capacity() == 0 {
            self.used.reserve_exact(KEYS_MAX as usize);
        }
        self.used.push_back(hash);
        if self.sampled > SAMPLED_MAX {
            (self.look_ups, self.sampled) = (self.look_ups / 2, self.sampled / 2);
            self.hits = self.hits.map(|hits| hits / 2);
        }
    }

    /// As many keys are sampled as the largest size can remember. Of what is known one half is a sample of the other, so
    /// that a namespace may grow.
    fn fit(&mut self, capacity: u64) {
        let wanted = (capacity * HALVES[LARGEST] / HALVES[1]).div_ceil(KEYS_MAX).next_power_of_two();
        // Not back and forth with every key.
        if wanted > self.sampled_one_in || wanted * 4 <= self.sampled_one_in {
            self.sampled_one_in = wanted;
            self.used.retain(|hash| hash >> THINNING_SHIFT & (wanted - 1) == 0);
            self.forget();
        }
    }

    /// Starts counting anew.
    pub fn forget(&mut self) {
        (self.look_ups, self.sampled, self.hits) = (0, 0, [0; HALVES.len()]);
    }

    /// All keys are gone.
    pub fn flushed(&mut self) {
        self.used.clear();
    }

    pub fn estimate(&self) -> Estimate {
        if self.sampled == 0 {
            return Estimate::default();
        }
        let of_all = |hits: u64| (u128::from(hits) * u128::from(self.look_ups) / u128::from(self.sampled)) as u64;
        Estimate { look_ups: self.look_ups, hits: self.hits.map(of_all) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, hash_of};

    fn percents(curve: &Curve) -> [f64; 4] {
        let Estimate { look_ups, hits } = curve.estimate();
        hits.map(|hits| hits as f64 * 100.0 / look_ups.max(1) as f64)
    }

    #[test]
    fn uniform_keys_are_found_in_proportion_to_the_room() {
        for (capacity, keys) in [(32u64, 128), (10_000, 40_000)] {
            let mut curve = Curve::default();
            let mut random = Random::new(7);
            for turn in 0..2_000_000u64 {
                if turn == 1_000_000 {
                    curve.forget();
                }
                curve.show(hash_of(random.below(keys) as u64), true, capacity);
            }
            for (percent, expected) in percents(&curve).into_iter().zip([12.5, 25.0, 50.0, 100.0]) {
                assert!((percent - expected).abs() < 3.0, "{percent} instead of {expected} of {keys}");
            }
        }
    }

    #[test]
    fn a_loop_over_more_keys_than_there_is_room_for_finds_nothing_and_with_room_everything() {
        let mut curve = Curve::default();
        for turn in 0..30_000u64 {
            curve.show(hash_of(turn % 60), true, 40);
        }
        let [half, same, double, quadruple] = percents(&curve);
        assert_eq!((half, same), (0.0, 0.0));
        assert!(double > 99.0 && quadruple > 99.0, "{double} {quadruple}");
    }

    #[test]
    fn writes_make_keys_known_and_count_for_nothing() {
        let mut curve = Curve::default();
        curve.show(1, false, 10);
        assert_eq!(curve.estimate(), Estimate::default());
        curve.show(1, true, 10);
        assert_eq!(curve.estimate(), Estimate { look_ups: 1, hits: [1; 4] });
        curve.flushed();
        curve.show(1, true, 10);
        assert_eq!(curve.estimate(), Estimate { look_ups: 2, hits: [1; 4] });
        (0..1_000_000).for_each(|key| curve.show(hash_of(key), true, key / 3));
        assert!(curve.used.len() as u64 <= KEYS_MAX && curve.used.capacity() as u64 <= KEYS_MAX);
    }
}
