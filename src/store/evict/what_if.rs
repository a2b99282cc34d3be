//! What the hit ratio would be with less memory, or more: four caches without contents, of half, the same, two and
//! four times the capacity, to which a sample of the keys is shown.
//!
//! Keys are sampled by their hash, so that a sample of one key in `n` asks of a cache of an `n`th of the size what
//! all keys ask of the whole (Waldspurger et al.: "Efficient MRC Construction with SHARDS", 2015). Whether one of
//! the few keys that are asked for all the time is in the sample is a matter of luck: the look-ups that the sample
//! has too few, or too many, are counted as hits, which those keys would have had at any size.
//!
//! A shard of another size would remember other frequencies, for longer or not as long, and would choose another
//! window. So every cache has a sketch of its own, of the size that belongs to it, and those of other sizes choose
//! their windows as the shard does. With the shard's sketch and window for all, the estimates of one trace were up
//! to 4.4 points off.

use super::miniature::{Access, Miniature};
use super::sketch::{BYTES_PER_ITEM_MAX, Sketch};
use super::windows::{WINDOWS, Windows};

/// The capacities tried, in halves of the real one.
pub const HALVES: [u64; 4] = [1, 2, 4, 8];
/// Which of them is that of the shard itself.
const REAL: usize = 1;
/// Entries of the largest cache, at most, and at least.
const ENTRIES_MAX: usize = 8192;
const ENTRIES_MIN: usize = 64;
/// After so many sampled look-ups all counts are halved: what was long ago matters less and less.
const SAMPLED_MAX: u64 = 1 << 18;
/// So much of a shard's memory may be used, in parts of 1024.
const MEMORY_PARTS: u64 = 4;
/// What one entry takes with its places in the table.
const ENTRY_BYTES: u64 = 24;
/// Of the keys that a cache is shown, one in so many helps to choose its window.
const CHOOSING_ONE_IN: usize = 4;
/// What an entry of a cache costs in all.
const COST_BYTES: u64 = ENTRY_BYTES + BYTES_PER_ITEM_MAX + ENTRY_BYTES * (WINDOWS.len() / CHOOSING_ONE_IN + 1) as u64;

/// Bits of the hash that say which of the sampled keys are too many for little memory …
const THINNING_SHIFT: u32 = 50;
/// … and which of the others choose windows.
const CHOOSING_SHIFT: u32 = 24;
/// Everything is window: the policy is LRU, and there is nothing to choose.
const LRU_PERCENT: usize = 100;

/// The policy at one capacity.
struct Size {
    cache: Miniature,
    sketch: Sketch,
    /// The shard chooses for its own size.
    windows: Option<Windows>,
}

pub struct WhatIf {
    sizes: Vec<Size>,
    /// Of the keys that are shown, those with none of these bits are taken.
    thinning_mask: u64,
    /// Of all look-ups one in so many is expected to be of a key in the sample.
    sampled_one_in: u64,
    counts: Counts,
    /// Look-ups there were, of all keys, when they were counted last.
    look_ups_seen: u64,
}

impl Size {
    /// `None` when there is no memory.
    fn new(entries_max: usize, is_real: bool) -> Option<Size> {
        Some(Size {
            cache: Miniature::new(entries_max, 2, WINDOWS[0]),
            sketch: Sketch::for_items(1, BYTES_PER_ITEM_MAX)?,
            windows: (!is_real).then(|| Windows::new(entries_max / CHOOSING_ONE_IN)),
        })
    }

    fn resize(&mut self, capacity: usize, window_percent: usize, sketch_bytes_per_item: u64) {
        let window_percent = match &mut self.windows {
            Some(windows) if window_percent < LRU_PERCENT => {
                windows.resize(capacity / CHOOSING_ONE_IN);
                windows.percent()
            }
            _ => window_percent,
        };
        self.cache.resize(capacity, window_percent);
        self.sketch.set_bytes_per_item(sketch_bytes_per_item);
    }

    /// Whether the key is there. It is now.
    fn access(&mut self, hash: u64) -> bool {
        let access = self.cache.access(hash, |hash| self.sketch.estimate(hash));
        match access {
            Access::Miss => {
                self.sketch.count(hash);
                self.sketch.fit(self.cache.len() as u64);
            }
            Access::FirstHit => self.sketch.count(hash),
            Access::Hit => {}
        }
        if let Some(windows) = &mut self.windows
            && hash >> CHOOSING_SHIFT & (CHOOSING_ONE_IN as u64 - 1) == 0
        {
            windows.play(hash, |hash| self.sketch.estimate(hash));
        }
        access != Access::Miss
    }

    fn bytes(&self) -> usize {
        self.cache.bytes() + self.sketch.bytes() + self.windows.as_ref().map_or(0, Windows::bytes)
    }
}

#[derive(Clone, Copy, Default)]
struct Counts {
    /// Of all keys.
    look_ups: u64,
    sampled: u64,
    hits: [u64; HALVES.len()],
}

/// Estimates for one shard; they add up over shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    pub look_ups: u64,
    /// By capacity, as in [`HALVES`].
    pub hits: [u64; HALVES.len()],
}

impl WhatIf {
    /// For a shard that may take `bytes_max`; `look_ups` is how many there were so far. `None` when there is no memory.
    pub fn new(bytes_max: u64, look_ups: u64) -> Option<WhatIf> {
        let cost: u64 = HALVES.iter().sum::<u64>() * COST_BYTES;
        let affordable = bytes_max / 1024 * MEMORY_PARTS * HALVES[3] / cost;
        let largest = affordable.clamp(ENTRIES_MIN as u64, ENTRIES_MAX as u64);
        let largest = 1u64 << largest.ilog2();
        let size = |(number, halves)| Size::new((largest * halves / HALVES[3]) as usize, number == REAL);
        let sizes = HALVES.into_iter().enumerate().map(size).collect::<Option<Vec<Size>>>()?;
        Some(WhatIf { sizes, thinning_mask: 0, sampled_one_in: 1, counts: Counts::default(), look_ups_seen: look_ups })
    }

    /// From now on the shard has room for about `capacity` items, its window is `window_percent` of them, its sketch has
    /// so many bytes for each, and one key in `shown_one_in` is shown.
    pub fn fit(&mut self, capacity: u64, window_percent: usize, sketch_bytes_per_item: u64, shown_one_in: u64) {
        let entries_max = self.sizes[REAL].cache.entries_max() as u64;
        let wanted = capacity.div_ceil(entries_max);
        let thinning = wanted.div_ceil(shown_one_in).next_power_of_two();
        self.thinning_mask = (thinning - 1) << THINNING_SHIFT;
        if self.sampled_one_in != shown_one_in * thinning {
            self.sampled_one_in = shown_one_in * thinning;
            self.forget();
        }
        for (size, halves) in self.sizes.iter_mut().zip(HALVES) {
            let capacity = (capacity * halves / HALVES[REAL] / self.sampled_one_in) as usize;
            size.resize(capacity, window_percent, sketch_bytes_per_item);
        }
    }

    /// Starts counting anew.
    pub fn forget(&mut self) {
        self.counts = Counts::default();
    }

    /// One of the keys that are shown was looked up, or stored. A function of its own, so that profiles show what it takes.
    #[inline(never)]
    pub fn show(&mut self, hash: u64, is_look_up: bool) {
        if hash & self.thinning_mask != 0 {
            return;
        }
        self.counts.sampled += is_look_up as u64;
        for (size, hits) in self.sizes.iter_mut().zip(&mut self.counts.hits) {
            *hits += (size.access(hash) && is_look_up) as u64;
        }
    }

    /// There were so many look-ups so far; to be said now and then.
    pub fn count(&mut self, look_ups: u64) {
        match look_ups.checked_sub(self.look_ups_seen) {
            Some(more) => self.counts.look_ups += more,
            // Somebody has set the counters back.
            None => self.forget(),
        }
        self.look_ups_seen = look_ups;
        if self.counts.sampled > SAMPLED_MAX {
            let Counts { look_ups, sampled, hits } = self.counts;
            self.counts = Counts { look_ups: look_ups / 2, sampled: sampled / 2, hits: hits.map(|hits| hits / 2) };
        }
    }

    pub fn estimate(&self) -> Estimate {
        let Counts { look_ups, sampled, hits } = self.counts;
        let expected = (look_ups / self.sampled_one_in) as i64;
        if expected == 0 {
            return Estimate::default();
        }
        let luck = expected - sampled as i64;
        let hits = hits.map(|hits| {
            let hits = (hits as i64 + luck).clamp(0, expected) as u64;
            (hits as u128 * look_ups as u128 / expected as u128) as u64
        });
        Estimate { look_ups, hits }
    }

    pub fn bytes(&self) -> usize {
        size_of::<WhatIf>() + self.sizes.iter().map(Size::bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, hash_of};

    #[test]
    fn it_takes_no_more_memory_than_it_may() {
        for mib in [16u64, 64, 300, 2048, 16 << 10] {
            let what_if = WhatIf::new(mib << 20, 0).unwrap();
            assert!(what_if.bytes() as u64 * 200 <= mib << 20, "{mib} MiB: {}", what_if.bytes());
        }
    }

    #[test]
    fn uniform_keys_are_found_in_proportion_to_the_capacity() {
        let mut what_if = WhatIf::new(1 << 30, 0).unwrap();
        let (capacity, keys, shown_one_in) = (100_000u64, 400_000, 16);
        what_if.fit(capacity, 100, 7, shown_one_in);
        let mut random = Random::new(11);
        let mut look_ups = 0;
        for turn in 0..6_000_000u64 {
            if turn == 3_000_000 {
                what_if.forget();
            }
            let hash = hash_of(random.below(keys) as u64);
            look_ups += 1;
            if hash & (shown_one_in - 1) == 0 {
                what_if.show(hash, true);
            }
            if turn % 1_000 == 999 {
                what_if.count(look_ups);
            }
        }
        let Estimate { look_ups, hits } = what_if.estimate();
        for (hits, expected) in hits.into_iter().zip([12.5, 25.0, 50.0, 100.0]) {
            let percent = hits as f64 * 100.0 / look_ups as f64;
            assert!((percent - expected).abs() < 2.0, "{percent} instead of {expected}");
        }
    }

    #[test]
    fn setting_the_counters_back_begins_anew() {
        let mut what_if = WhatIf::new(1 << 30, 50).unwrap();
        what_if.fit(1_000, 10, 7, 1);
        what_if.show(1, true);
        what_if.count(51);
        assert_eq!(what_if.estimate(), Estimate { look_ups: 1, hits: [0; 4] });
        what_if.count(0);
        assert_eq!(what_if.estimate(), Estimate::default());
    }
}
