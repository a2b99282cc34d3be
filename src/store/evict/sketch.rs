//! How often keys were asked for lately: a count-min sketch of 4-bit counters (Einziger, Friedman, Manes:
//! "TinyLFU", 2017). All four counters of a key lie in one cache line.
//!
//! ```text
//!   block, 64 bytes   │ row 0: 32 counters │ row 1 │ row 2 │ row 3 │     a key has one counter in each row
//!   blocks            0 … split │ split … 2^level │ 2^level … 2^level + split      as the index grows
//! ```
//!
//! Counters halve after a while, a block at a time: one with every few counts, so that nobody waits for the
//! whole. Only the smallest counters of a key are raised, which keeps keys that share one from raising each
//! other. The hash is keyed (see `hash`): nobody outside can choose keys that share counters.

use super::super::chunk::Row;

const ROWS: usize = 4;
const COUNTER_MAX: u64 = 15;
/// With every item there are so many bytes of counters, two counters in each. The fewest cost 0.3 points of hit
/// ratio on the reference traces, more than the most gain nothing.
pub const BYTES_PER_ITEM_MIN: u64 = 4;
pub const BYTES_PER_ITEM_MAX: u64 = 7;
/// Every block is halved once in this many counts for each item.
const COUNTS_PER_ITEM: u64 = 10;
const BLOCKS_MIN: u32 = 16;
const BLOCKS_MAX: u32 = 1 << 30;

/// A cache line: chunks begin at one.
type Block = [u64; 8];

pub struct Sketch {
    row: Row<Block>,
    blocks: u32,
    bytes_per_item: u64,
    /// The next block to halve, and how many counts it still waits for.
    aged: u32,
    counts_left: u32,
}

/// Where a key's counters are.
#[derive(Clone, Copy)]
struct Place {
    block: u32,
    shifts: [(usize, u32); ROWS],
}

impl Sketch {
    /// `None` when there is no memory.
    pub fn for_items(items: u64, bytes_per_item: u64) -> Option<Sketch> {
        let bytes_per_item = bytes_per_item.clamp(BYTES_PER_ITEM_MIN, BYTES_PER_ITEM_MAX);
        let mut sketch = Sketch { row: Row::new(), blocks: BLOCKS_MIN, bytes_per_item, aged: 0, counts_left: 0 };
        sketch.blocks = sketch.blocks_for(items);
        sketch.counts_left = sketch.pace();
        sketch.row.reach(sketch.blocks as usize).then_some(sketch)
    }

    fn blocks_for(&self, items: u64) -> u32 {
        let blocks = items.saturating_mul(self.bytes_per_item).div_ceil(size_of::<Block>() as u64);
        blocks.clamp(BLOCKS_MIN as u64, BLOCKS_MAX as u64) as u32
    }

    /// Counts between halving one block and the next: all of them take `COUNTS_PER_ITEM` per item.
    fn pace(&self) -> u32 {
        (COUNTS_PER_ITEM * size_of::<Block>() as u64 / self.bytes_per_item) as u32
    }

    /// Larger items leave more room for counters; the next calls of [`fit`](Self::fit) follow.
    pub fn set_bytes_per_item(&mut self, bytes: u64) {
        self.bytes_per_item = bytes.clamp(BYTES_PER_ITEM_MIN, BYTES_PER_ITEM_MAX);
    }

    pub fn bytes(&self) -> usize {
        self.row.bytes()
    }

    #[inline]
    fn block(&self, number: u32) -> &Block {
        self.row.get(number as usize)
    }

    #[inline]
    fn block_mut(&mut self, number: u32) -> &mut Block {
        self.row.get_mut(number as usize)
    }

    /// Mixed again: the index uses the same hash for other ends.
    #[inline]
    fn mixed(hash: u64) -> u64 {
        let mixed = (hash ^ hash >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ mixed >> 29
    }

    #[inline]
    fn number_of(&self, mixed: u64) -> u32 {
        let high = (mixed >> 32) as u32;
        let low = (1u32 << self.blocks.ilog2()) - 1;
        let deep = high & (low << 1 | 1);
        if deep < self.blocks { deep } else { high & low }
    }

    #[inline]
    fn place(&self, hash: u64) -> Place {
        let mixed = Self::mixed(hash);
        let shifts = std::array::from_fn(|row| {
            let counter = mixed >> (5 * row) & 31;
            (2 * row + (counter >> 4) as usize, (counter & 15) as u32 * 4)
        });
        Place { block: self.number_of(mixed), shifts }
    }

    /// How often the key was counted lately: rather too much than too little, up to 15.
    #[inline]
    pub fn estimate(&self, hash: u64) -> u32 {
        let Place { block, shifts } = self.place(hash);
        let words = self.block(block);
        shifts.iter().map(|&(word, shift)| (words[word] >> shift & COUNTER_MAX) as u32).min().expect("there are rows")
    }

    /// Counts the key once.
    #[inline]
    pub fn count(&mut self, hash: u64) {
        let Place { block, shifts } = self.place(hash);
        let words = self.block_mut(block);
        let counters = shifts.map(|(word, shift)| words[word] >> shift & COUNTER_MAX);
        let least = counters.into_iter().min().expect("there are rows");
        if least < COUNTER_MAX {
            for (&(word, shift), counter) in shifts.iter().zip(counters) {
                words[word] += ((counter == least) as u64) << shift;
            }
        }
        self.counts_left -= 1;
        if self.counts_left == 0 {
            self.age();
        }
    }

    #[inline(never)]
    fn age(&mut self) {
        self.counts_left = self.pace();
        let number = self.aged;
        for word in self.block_mut(number) {
            *word = *word >> 1 & 0x7777_7777_7777_7777;
        }
        self.aged = (number + 1) % self.blocks;
    }

    /// Grows or shrinks by a few blocks towards what `items` items need; to be called for every item that
    /// comes, and now and then.
    #[inline]
    pub fn fit(&mut self, items: u64) {
        const STEPS: u32 = 2;
        let wanted = self.blocks_for(items);
        if wanted > self.blocks {
            self.grow(wanted.min(self.blocks + STEPS));
        } else if (wanted as u64) * 2 < self.blocks as u64 {
            self.shrink(wanted.max(self.blocks - STEPS));
        }
    }

    fn grow(&mut self, blocks: u32) {
        while self.blocks < blocks {
            let number = self.blocks;
            // Without memory the keys share the counters there are.
            if !self.row.reach(number as usize + 1) {
                return;
            }
            // Keys of the block that splits keep their counts in both halves; aging forgets the others.
            let parent = number - (1 << number.ilog2());
            *self.block_mut(number) = *self.block(parent);
            self.blocks += 1;
        }
    }

    fn shrink(&mut self, blocks: u32) {
        self.blocks = blocks;
        self.aged %= blocks;
        self.row.shrink(blocks as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Announced, Random};

    #[test]
    fn estimates_are_never_too_low_before_anything_ages() {
        for seed in 0..20 {
            let _announced = Announced(seed);
            let mut random = Random::new(seed);
            let mut sketch = Sketch::for_items(1_000, 7).unwrap();
            let keys: Vec<u64> = (0..60).map(|_| random.next()).collect();
            let mut counts = vec![0u32; keys.len()];
            // Fewer counts than the first aging waits for.
            for _ in 0..sketch.pace() - 1 {
                let key = random.below(keys.len());
                sketch.count(keys[key]);
                counts[key] += 1;
                assert!(sketch.estimate(keys[key]) >= counts[key].min(15));
            }
            let exact = keys.iter().zip(&counts).filter(|&(&key, &count)| sketch.estimate(key) == count.min(15));
            assert!(exact.count() > 55, "hardly any of 60 keys share all four counters");
        }
    }

    #[test]
    fn what_is_not_asked_for_any_more_is_forgotten() {
        let mut sketch = Sketch::for_items(1_000, 7).unwrap();
        for _ in 0..15 {
            sketch.count(7);
        }
        assert_eq!(sketch.estimate(7), 15);
        let mut random = Random::new(1);
        for _ in 0..5 * COUNTS_PER_ITEM * 1_000 {
            sketch.count(random.below(200) as u64 + 1_000_000);
        }
        assert!(sketch.estimate(7) <= 2, "{}", sketch.estimate(7));
    }

    #[test]
    fn counts_survive_growing_and_shrinking() {
        let mut random = Random::new(3);
        let keys: Vec<u64> = (0..300).map(|_| random.next()).collect();
        let mut sketch = Sketch::for_items(2_000, 7).unwrap();
        for &key in &keys {
            (0..3).for_each(|_| sketch.count(key));
        }
        let before: Vec<u32> = keys.iter().map(|&key| sketch.estimate(key)).collect();
        while sketch.blocks < sketch.blocks_for(1_000_000) {
            sketch.fit(1_000_000);
        }
        let after: Vec<u32> = keys.iter().map(|&key| sketch.estimate(key)).collect();
        assert_eq!(before, after);
        assert!(sketch.bytes() > 6_000_000);
        for _ in 0..1_000_000 {
            sketch.fit(2_000);
        }
        assert!(sketch.blocks <= 2 * sketch.blocks_for(2_000) && sketch.bytes() <= 4 << 20);
        assert_eq!(before, keys.iter().map(|&key| sketch.estimate(key)).collect::<Vec<_>>());
    }
}
