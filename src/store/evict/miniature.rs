//! Caches without contents: the policy of this shard, played with a sample of its keys. Which keys are in the
//! sample is decided by their hash, so that a sample of one key in `n` sees what a cache of an `n`th of the
//! size would see (Waldspurger et al.: "Cache Modeling and Optimization using Miniature Simulations", 2017).

/// Entries of a miniature that tries a window, at most.
pub const ENTRIES_MAX: usize = 2048;
/// Places of the table for each entry.
const SPARSENESS: usize = 4;
const NONE: u16 = u16::MAX;

/// What part of the admitted items is protected, in percent.
pub const PROTECTED_PERCENT: usize = 60;
/// Items that are given another round one after another before one has to go all the same.
pub const SECOND_CHANCES: usize = 64;

const _: () = assert!(ENTRIES_MAX.is_power_of_two() && SPARSENESS.is_power_of_two());

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    /// The next younger one of its queue, or the next free one.
    younger: u16,
    is_visited: bool,
}

#[derive(Clone, Copy)]
struct Queue {
    oldest: u16,
    youngest: u16,
    len: u16,
}

impl Queue {
    const EMPTY: Queue = Queue { oldest: NONE, youngest: NONE, len: 0 };

    fn push(&mut self, entries: &mut [Entry], index: u16) {
        entries[index as usize].younger = NONE;
        match self.youngest {
            NONE => self.oldest = index,
            youngest => entries[youngest as usize].younger = index,
        }
        self.youngest = index;
        self.len += 1;
    }

    fn pop(&mut self, entries: &[Entry]) -> Option<u16> {
        let index = self.oldest;
        if index == NONE {
            return None;
        }
        self.oldest = entries[index as usize].younger;
        if self.oldest == NONE {
            self.youngest = NONE;
        }
        self.len -= 1;
        Some(index)
    }
}

/// What a cache had of a key that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Miss,
    /// The first time since the entry was judged: uses that are counted.
    FirstHit,
    Hit,
}

pub struct Miniature {
    capacity: usize,
    window_max: usize,
    entries: Box<[Entry]>,
    free: u16,
    /// Open addressing by hash; indices of `entries`.
    table: Box<[u16]>,
    window: Queue,
    probation: Queue,
    protected: Queue,
}

impl Miniature {
    /// Has room for `entries_max`, which is a power of two, and uses `capacity` of it.
    pub fn new(entries_max: usize, capacity: usize, window_percent: usize) -> Miniature {
        assert!(entries_max.is_power_of_two() && entries_max * SPARSENESS < NONE as usize);
        let unused = Entry { hash: 0, younger: NONE, is_visited: false };
        let mut entries: Box<[Entry]> = vec![unused; entries_max + 1].into();
        for (index, entry) in entries.iter_mut().enumerate().take(entries_max) {
            entry.younger = index as u16 + 1;
        }
        let mut miniature = Miniature {
            capacity: 0,
            window_max: 0,
            entries,
            free: 0,
            table: vec![NONE; entries_max * SPARSENESS].into(),
            window: Queue::EMPTY,
            probation: Queue::EMPTY,
            protected: Queue::EMPTY,
        };
        miniature.resize(capacity, window_percent);
        miniature
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.table)
    }

    pub fn entries_max(&self) -> usize {
        self.entries.len() - 1
    }

    /// What no longer fits goes with the next keys that come.
    pub fn resize(&mut self, capacity: usize, window_percent: usize) {
        self.capacity = capacity.clamp(2, self.entries.len() - 1);
        self.window_max = (self.capacity * window_percent / 100).clamp(1, self.capacity - 1);
    }

    pub fn len(&self) -> usize {
        (self.window.len + self.probation.len + self.protected.len) as usize
    }

    fn slot_of(&self, hash: u64) -> usize {
        (hash.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as usize & (self.table.len() - 1)
    }

    /// Where `hash` is in the table, or would be.
    fn find(&self, hash: u64) -> (usize, bool) {
        let mut slot = self.slot_of(hash);
        loop {
            match self.table[slot] {
                NONE => return (slot, false),
                index if self.entries[index as usize].hash == hash => return (slot, true),
                _ => slot = (slot + 1) & (self.table.len() - 1),
            }
        }
    }

    /// The key was asked for; whether it was there. It is now.
    pub fn access(&mut self, hash: u64, frequency: impl Fn(u64) -> u32) -> Access {
        let (slot, is_there) = self.find(hash);
        if is_there {
            let entry = &mut self.entries[self.table[slot] as usize];
            let was_visited = std::mem::replace(&mut entry.is_visited, true);
            return if was_visited { Access::Hit } else { Access::FirstHit };
        }
        let index = self.free;
        self.free = self.entries[index as usize].younger;
        self.entries[index as usize] = Entry { hash, younger: NONE, is_visited: false };
        self.table[slot] = index;
        self.window.push(&mut self.entries, index);
        while self.len() > self.capacity {
            self.evict(&frequency);
        }
        while self.len() < self.capacity && self.window.len as usize > self.window_max {
            let index = self.window.pop(&self.entries).expect("it is not empty");
            self.probation.push(&mut self.entries, index);
        }
        Access::Miss
    }

    fn evict(&mut self, frequency: impl Fn(u64) -> u32) {
        while self.window.len as usize > self.window_max + 1 {
            let index = self.window.pop(&self.entries).expect("it is not empty");
            self.probation.push(&mut self.entries, index);
        }
        if (self.window.len as usize) <= self.window_max && self.probation.len + self.protected.len > 0 {
            let victim = self.take_victim().expect("there are admitted ones");
            return self.drop_entry(victim);
        }
        let mut chances = SECOND_CHANCES;
        let candidate = loop {
            let index = self.window.pop(&self.entries).expect("otherwise the capacity is not passed");
            if !self.entries[index as usize].is_visited || chances == 0 {
                break index;
            }
            chances -= 1;
            self.entries[index as usize].is_visited = false;
            self.window.push(&mut self.entries, index);
        };
        let Some(victim) = self.take_victim() else {
            return self.drop_entry(candidate);
        };
        let frequency = |index: u16| frequency(self.entries[index as usize].hash);
        let (winner, loser) =
            if frequency(candidate) > frequency(victim) { (candidate, victim) } else { (victim, candidate) };
        self.entries[winner as usize].is_visited = false;
        self.probation.push(&mut self.entries, winner);
        self.drop_entry(loser);
    }

    /// The admitted one that would go next, out of its queue.
    fn take_victim(&mut self) -> Option<u16> {
        let protected_max = (self.capacity - self.window_max) * PROTECTED_PERCENT / 100;
        let mut chances = SECOND_CHANCES;
        while self.protected.len as usize > protected_max.max(1) {
            let index = self.protected.pop(&self.entries).expect("it is not empty");
            let was_visited = std::mem::replace(&mut self.entries[index as usize].is_visited, false);
            if was_visited && chances > 0 {
                chances -= 1;
                self.protected.push(&mut self.entries, index);
            } else {
                self.probation.push(&mut self.entries, index);
            }
        }
        loop {
            let Some(index) = self.probation.pop(&self.entries) else {
                let index = self.protected.pop(&self.entries)?;
                self.entries[index as usize].is_visited = false;
                return Some(index);
            };
            if !std::mem::replace(&mut self.entries[index as usize].is_visited, false) {
                return Some(index);
            }
            self.protected.push(&mut self.entries, index);
        }
    }

    /// Forgets an entry that is in no queue.
    fn drop_entry(&mut self, index: u16) {
        let (mut gap, is_there) = self.find(self.entries[index as usize].hash);
        debug_assert!(is_there);
        let mask = self.table.len() - 1;
        // What was pushed on by a full slot moves back into the gap.
        let mut slot = (gap + 1) & (self.table.len() - 1);
        while self.table[slot] != NONE {
            let home = self.slot_of(self.entries[self.table[slot] as usize].hash);
            if slot.wrapping_sub(home) & mask >= slot.wrapping_sub(gap) & mask {
                self.table[gap] = self.table[slot];
                gap = slot;
            }
            slot = (slot + 1) & (self.table.len() - 1);
        }
        self.table[gap] = NONE;
        self.entries[index as usize].younger = self.free;
        self.free = index;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::sketch::Sketch;
    use super::*;
    use crate::random::{Announced, Random};

    /// The same policy, with queues that are searched.
    #[derive(Default)]
    struct Naive {
        window: VecDeque<(u64, bool)>,
        probation: VecDeque<(u64, bool)>,
        protected: VecDeque<(u64, bool)>,
    }

    impl Naive {
        fn access(&mut self, hash: u64, capacity: usize, window_max: usize, sketch: &Sketch) -> Access {
            for queue in [&mut self.window, &mut self.probation, &mut self.protected] {
                if let Some(entry) = queue.iter_mut().find(|entry| entry.0 == hash) {
                    let was_visited = std::mem::replace(&mut entry.1, true);
                    return if was_visited { Access::Hit } else { Access::FirstHit };
                }
            }
            self.window.push_back((hash, false));
            let len = self.window.len() + self.probation.len() + self.protected.len();
            if len > capacity {
                while self.window.len() > window_max + 1 {
                    self.probation.extend(self.window.pop_front());
                }
                if self.window.len() <= window_max && self.probation.len() + self.protected.len() > 0 {
                    self.victim(capacity, window_max);
                    return Access::Miss;
                }
                let mut chances = SECOND_CHANCES;
                let candidate = loop {
                    let (hash, is_visited) = self.window.pop_front().unwrap();
                    if !is_visited || chances == 0 {
                        break hash;
                    }
                    chances -= 1;
                    self.window.push_back((hash, false));
                };
                if let Some(victim) = self.victim(capacity, window_max) {
                    let wins = sketch.estimate(candidate) > sketch.estimate(victim);
                    self.probation.push_back((if wins { candidate } else { victim }, false));
                }
            } else {
                while len < capacity && self.window.len() > window_max {
                    self.probation.extend(self.window.pop_front());
                }
            }
            Access::Miss
        }

        fn victim(&mut self, capacity: usize, window_max: usize) -> Option<u64> {
            let mut chances = SECOND_CHANCES;
            while self.protected.len() > ((capacity - window_max) * PROTECTED_PERCENT / 100).max(1) {
                let (hash, is_visited) = self.protected.pop_front().unwrap();
                if is_visited && chances > 0 {
                    chances -= 1;
                    self.protected.push_back((hash, false));
                } else {
                    self.probation.push_back((hash, false));
                }
            }
            while let Some((hash, is_visited)) = self.probation.pop_front() {
                if !is_visited {
                    return Some(hash);
                }
                self.protected.push_back((hash, false));
            }
            self.protected.pop_front().map(|entry| entry.0)
        }
    }

    #[test]
    fn a_miniature_holds_what_the_naive_one_holds() {
        for seed in 0..40 {
            let _announced = Announced(seed);
            let mut random = Random::new(seed);
            let capacity = 2 + random.below(ENTRIES_MAX - 1);
            let mut percent = 1 + random.below(90);
            let mut sketch = Sketch::for_items(capacity as u64, 7).unwrap();
            let mut miniature = Miniature::new(ENTRIES_MAX, capacity, percent);
            let mut naive = Naive::default();
            let keys = 1 + random.below(capacity * 4);
            for turn in 0..8_000 {
                if random.below(1_000) == 0 {
                    percent = 1 + random.below(90);
                    miniature.resize(capacity, percent);
                }
                let spread = if random.chance(50) { keys } else { keys / 10 + 1 };
                let hash = (random.below(spread) as u64).wrapping_mul(0x2545_F491_4F6C_DD1D);
                sketch.count(hash);
                let expected = naive.access(hash, capacity, miniature.window_max, &sketch);
                assert_eq!(miniature.access(hash, |hash| sketch.estimate(hash)), expected, "turn {turn}");
                assert_eq!(miniature.len(), naive.window.len() + naive.probation.len() + naive.protected.len());
                assert!(miniature.len() <= capacity);
            }
        }
    }

    #[test]
    fn a_smaller_capacity_takes_effect_with_the_next_key() {
        let sketch = Sketch::for_items(1_000, 7).unwrap();
        let mut miniature = Miniature::new(ENTRIES_MAX, ENTRIES_MAX, 20);
        for hash in 0..5_000u64 {
            miniature.access(hash << 20, |hash| sketch.estimate(hash));
        }
        assert_eq!(miniature.len(), ENTRIES_MAX);
        miniature.resize(10, 20);
        miniature.access(u64::MAX, |hash| sketch.estimate(hash));
        assert_eq!(miniature.len(), 10);
    }
}
