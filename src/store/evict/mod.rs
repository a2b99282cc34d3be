//! Which items are worth their memory: W-TinyLFU (Einziger, Eytan, Friedman, Manes: "Adaptive Software
//! Cache Management", 2018), with queues instead of lists.
//!
//! ```text
//!   new ─▶ window ─┬─ asked for again: another round
//!                  └─▶ contest: who was asked for more often? ─┬─ candidate ─▶ probation, the victim goes
//!                             ▲                                └─ victim: to the back of probation,
//!                             │                                           the candidate goes
//!   probation ─┬─ asked for ─▶ protected ── the oldest, while protected is too large ─▶ to the back of probation
//!              └─ not: the victim
//! ```
//!
//! A hit sets a bit in the item, and the first hit since the item was last judged is counted in the
//! sketch; misses always are. Nothing moves before the end of a queue is reached, where the bit decides.
//!
//! How large the window should be depends on who uses the cache: from 1 % for scans to most of it for streams
//! of news. Seven miniature caches with different windows play with a sample of the keys, and the live one
//! takes over the size of the best (see `windows`).

pub mod miniature;
pub mod sketch;
pub mod what_if;
pub mod windows;

use miniature::ENTRIES_MAX;
use sketch::Sketch;
use windows::Windows;

/// One key in so many drives the miniatures, at least.
const SAMPLE_MIN: u64 = 16;

/// What is done when there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// W-TinyLFU: whoever is asked for often stays.
    #[default]
    TinyLfu,
    /// Whoever was asked for lately stays.
    Lru,
    /// Everybody stays; writes are refused.
    None,
}

/// What is remembered of the keys that were asked for, whether they are here or not.
pub struct History {
    pub sketch: Sketch,
    windows: Windows,
    /// Keys whose hash has none of these bits drive the miniatures.
    sample_mask: u64,
    sampled_capacity: usize,
}

/// Counters take a 24th of the items' memory where that is neither too few nor too many: for small items the
/// memory is better spent on more of them.
const SKETCH_PART: u64 = 24;

pub fn sketch_bytes_per_item(items: u64, item_bytes: u64) -> u64 {
    item_bytes / items.max(1) / SKETCH_PART
}

/// Bits of the hash that neither the index nor its tags use much.
const SAMPLE_SHIFT: u32 = 32;

/// With room for so many items, one key in so many is sampled: at least half of a miniature's entries are used, and
/// never more than there are.
pub fn sampled_one_in(capacity: u64) -> u64 {
    let sample = (capacity / (ENTRIES_MAX as u64 / 2)).max(SAMPLE_MIN);
    if sample == SAMPLE_MIN { sample } else { 1 << sample.ilog2() }
}

/// Keys whose hash has none of these bits are in the sample.
pub fn sample_mask(sampled_one_in: u64) -> u64 {
    (sampled_one_in - 1) << SAMPLE_SHIFT
}

impl History {
    /// `items` are there, of so many bytes together, and about `capacity` will be. `None` when there is no memory.
    pub fn new(items: u64, item_bytes: u64, capacity: u64) -> Option<History> {
        let mut history = History {
            sketch: Sketch::for_items(items, sketch_bytes_per_item(items, item_bytes))?,
            windows: Windows::new(ENTRIES_MAX),
            sample_mask: u64::MAX,
            sampled_capacity: 0,
        };
        history.fit(items, item_bytes, capacity);
        Some(history)
    }

    /// Now `items` are there, of so many bytes together, and about `capacity` would fit.
    pub fn fit(&mut self, items: u64, item_bytes: u64, capacity: u64) {
        self.sketch.set_bytes_per_item(sketch_bytes_per_item(items, item_bytes));
        self.sketch.fit(items);
        let sample = sampled_one_in(capacity);
        let mask = sample_mask(sample);
        let entries = ((capacity / sample) as usize).clamp(2, ENTRIES_MAX);
        let is_near = entries.abs_diff(self.sampled_capacity) * 16 <= self.sampled_capacity;
        if mask == self.sample_mask && is_near {
            return;
        }
        self.windows.resize(entries);
        self.sample_mask = mask;
        self.sampled_capacity = entries;
    }

    pub fn window_percent(&self) -> usize {
        self.windows.percent()
    }

    pub fn bytes(&self) -> usize {
        self.sketch.bytes() + self.windows.bytes()
    }

    /// A sampled key was asked for.
    #[inline(never)]
    pub fn play(&mut self, hash: u64) {
        self.windows.play(hash, |hash| self.sketch.estimate(hash));
    }
}

/// How two items compare: frequency per size, where size counts less than it weighs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worth {
    frequency: u32,
    bytes: usize,
}

/// What size is raised to: 0 would ignore it, 1 would count hits per byte. Chosen by replays of sized traces.
const SIZE_EXPONENT: f32 = 0.75;

impl Worth {
    pub fn new(frequency: u32, bytes: usize) -> Worth {
        Worth { frequency, bytes }
    }

    /// Comparable between items; `credit` keeps those that were never counted apart by their size.
    fn score(self, credit: f32) -> f32 {
        (self.frequency as f32 + credit) / (self.bytes.max(1) as f32).powf(SIZE_EXPONENT)
    }

    /// Whether `self` deserves the place of `victim`. Of two of one size it is the one that was counted
    /// more often; equals stay where they are.
    pub fn beats(self, victim: Worth) -> bool {
        if slot_of_size(self.bytes) == slot_of_size(victim.bytes) {
            return self.frequency > victim.frequency;
        }
        self.score(0.5) > victim.score(0.5)
    }

    /// Whether `self` should go before `other`.
    pub fn goes_before(self, other: Worth) -> bool {
        self.score(0.5) < other.score(0.5)
    }
}

fn slot_of_size(bytes: usize) -> u32 {
    bytes.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, hash_of};

    fn window_after(keys: impl Iterator<Item = u64>) -> usize {
        let mut history = History::new(4_000, 1_000_000, 4_000).unwrap();
        for key in keys {
            let hash = hash_of(key);
            history.sketch.count(hash);
            if hash & history.sample_mask == 0 {
                history.play(hash);
            }
        }
        history.window_percent()
    }

    #[test]
    fn news_get_a_large_window_and_old_friends_a_small_one() {
        // Each key twice, 1000 new keys apart: only those who keep everything new for long see it again.
        let news = (0..400_000u64).map(|turn| if turn % 2 == 0 { turn / 2 } else { (turn / 2).saturating_sub(1_000) });
        assert!(window_after(news) >= 60);
        // Some keys again and again, between a stream of keys that never come back.
        let mut random = Random::new(5);
        let friends =
            (0..400_000u64).map(|turn| if turn % 4 == 0 { random.below(3_500) as u64 } else { 1_000_000 + turn });
        assert!(window_after(friends) <= 20);
    }

    #[test]
    fn a_loop_that_is_a_little_too_long_keeps_a_small_window() {
        assert!(window_after((0..400_000u64).map(|turn| turn % 5_000)) <= 20);
    }

    #[test]
    fn worth_weighs_frequency_against_size() {
        assert!(Worth::new(3, 100).beats(Worth::new(2, 100)));
        assert!(!Worth::new(2, 100).beats(Worth::new(2, 100)));
        assert!(Worth::new(2, 100).beats(Worth::new(2, 10_000)));
        assert!(!Worth::new(2, 10_000).beats(Worth::new(2, 100)));
        assert!(Worth::new(0, 10_000).goes_before(Worth::new(0, 100)));
        assert!(Worth::new(1, 100).goes_before(Worth::new(3, 100)));
    }

    #[test]
    fn the_sample_follows_the_capacity() {
        let mut history = History::new(1, 100, 1_000).unwrap();
        assert_eq!(history.sample_mask >> SAMPLE_SHIFT, 15);
        for capacity in [40_000u64, 100_000, 1_000_000, 50_000_000] {
            history.fit(capacity, 100 * capacity, capacity);
            let entries = capacity / ((history.sample_mask >> SAMPLE_SHIFT) + 1);
            assert!((ENTRIES_MAX as u64 / 2..=ENTRIES_MAX as u64).contains(&entries), "{capacity}: {entries}");
        }
    }
}
