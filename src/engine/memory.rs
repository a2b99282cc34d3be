//! The memory of all cores under one ceiling. Every core starts with an even share and lends what it does
//! not use: a core that holds most of the bytes does not evict while others have room. When all want more,
//! those above an even share give back until the shares are even.
//!
//! Each core settles its share at its ticks; between them it owns what it was granted. This is the only thing
//! besides batches that cores have in common: a few words that are read once per tick.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

use crate::store::Eviction;

/// Shares change in steps of this part of an even share, at least one mebibyte.
const STEPS_PER_SHARE: u64 = 64;
const STEP_BYTES_MIN: u64 = 1 << 20;
/// What a core has in hand before it is granted more, in steps: what it may take between two ticks.
const IN_HAND: u64 = 4;
/// What it keeps of what it does not use, in steps.
const KEPT: u64 = 8;

pub struct MemoryPool {
    /// The ceiling; `u64::MAX` for none.
    bytes_max: AtomicU64,
    eviction: AtomicU8,
    ttl_jitter_percent: AtomicU8,
    /// Granted to nobody; negative when the ceiling has become lower than what was granted.
    free: AtomicI64,
    shares: Box<[Share]>,
}

/// Written by its core alone.
#[repr(align(64))]
#[derive(Default)]
struct Share {
    granted: AtomicU64,
    /// It could use more than it gets, and has less than an even share.
    is_hungry: AtomicBool,
}

fn eviction_of(code: u8) -> Eviction {
    match code {
        0 => Eviction::TinyLfu,
        1 => Eviction::Lru,
        _ => Eviction::None,
    }
}

fn code_of(eviction: Eviction) -> u8 {
    match eviction {
        Eviction::TinyLfu => 0,
        Eviction::Lru => 1,
        Eviction::None => 2,
    }
}

impl MemoryPool {
    pub fn new(bytes_max: u64, eviction: Eviction, cores: usize) -> MemoryPool {
        let shares = (0..cores).map(|_| Share::default()).collect::<Box<[Share]>>();
        let pool = MemoryPool {
            bytes_max: AtomicU64::new(bytes_max),
            eviction: AtomicU8::new(code_of(eviction)),
            ttl_jitter_percent: AtomicU8::new(0),
            free: AtomicI64::new(0),
            shares,
        };
        if bytes_max != u64::MAX {
            let even = bytes_max / cores as u64;
            pool.shares.iter().for_each(|share| share.granted.store(even, Ordering::Relaxed));
            pool.free.store((bytes_max - even * cores as u64) as i64, Ordering::Relaxed);
        }
        pool
    }

    /// No ceiling.
    pub fn unbounded(cores: usize) -> MemoryPool {
        MemoryPool::new(u64::MAX, Eviction::TinyLfu, cores)
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed)
    }

    pub fn eviction(&self) -> Eviction {
        eviction_of(self.eviction.load(Ordering::Relaxed))
    }

    pub fn set_eviction(&self, eviction: Eviction) {
        self.eviction.store(code_of(eviction), Ordering::Relaxed);
    }

    /// How much sooner than asked for keys may expire, for every core.
    pub fn ttl_jitter_percent(&self) -> u8 {
        self.ttl_jitter_percent.load(Ordering::Relaxed)
    }

    pub fn set_ttl_jitter_percent(&self, percent: u8) {
        self.ttl_jitter_percent.store(percent, Ordering::Relaxed);
    }

    /// Sets another ceiling; every core follows at its next ticks.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        let before = self.bytes_max.swap(bytes_max, Ordering::Relaxed);
        match (before, bytes_max) {
            (u64::MAX, u64::MAX) => {}
            (_, u64::MAX) => {}
            (u64::MAX, _) => {
                // What was granted before there was no ceiling counts for nothing.
                let granted: u64 = self.shares.iter().map(|share| share.granted.load(Ordering::Relaxed)).sum();
                self.free.store(bytes_max as i64 - granted as i64, Ordering::Relaxed);
            }
            _ => {
                self.free.fetch_add(bytes_max as i64 - before as i64, Ordering::Relaxed);
            }
        }
    }

    /// What core `core` is granted at the start.
    pub fn granted(&self, core: usize) -> u64 {
        match self.bytes_max() {
            u64::MAX => u64::MAX,
            _ => self.shares[core].granted.load(Ordering::Relaxed),
        }
    }

    /// Core `core` uses `used` bytes. What it may use from now on.
    pub fn settle(&self, core: usize, used: u64) -> u64 {
        let bytes_max = self.bytes_max();
        if bytes_max == u64::MAX {
            return u64::MAX;
        }
        let (even, step) = (self.even(), self.step());
        let share = &self.shares[core];
        let granted = share.granted.load(Ordering::Relaxed);
        let free = self.free.load(Ordering::Relaxed);
        let in_hand = granted.saturating_sub(used);
        let mut now = granted;
        if free < 0 && (granted > even || in_hand > KEPT * step) {
            // The ceiling has become lower.
            now = granted - step.max(granted.saturating_sub(even) / 8).min(-free as u64).min(granted);
        } else if in_hand < IN_HAND * step {
            let wanted = IN_HAND * step - in_hand;
            now += self.take(wanted);
            let is_hungry = now - granted < wanted && now < even;
            share.is_hungry.store(is_hungry, Ordering::Relaxed);
            let others_hunger = || {
                let others = self.shares.iter().enumerate().filter(|&(other, _)| other != core);
                others.into_iter().any(|(_, share)| share.is_hungry.load(Ordering::Relaxed))
            };
            if now == granted && granted > even && others_hunger() {
                now = granted - step.min(granted - even);
            }
        } else {
            share.is_hungry.store(false, Ordering::Relaxed);
            if in_hand > KEPT * step && self.shares.len() > 1 {
                now = granted - (in_hand - KEPT * step);
            }
        }
        if now < granted {
            self.free.fetch_add((granted - now) as i64, Ordering::Relaxed);
        }
        share.granted.store(now, Ordering::Relaxed);
        now
    }

    /// Core `core` uses `used` bytes and is about to store `bytes` at once, which may be more than it has in hand.
    /// What it may use now, as far as others do not need it.
    pub fn reserve(&self, core: usize, used: u64, bytes: u64) -> u64 {
        let bytes_max = self.bytes_max();
        if bytes_max == u64::MAX {
            return u64::MAX;
        }
        let share = &self.shares[core];
        let granted = share.granted.load(Ordering::Relaxed);
        let wanted = used.saturating_add(bytes).saturating_add(IN_HAND * self.step());
        let now = granted + self.take(wanted.saturating_sub(granted));
        share.granted.store(now, Ordering::Relaxed);
        now
    }

    fn even(&self) -> u64 {
        self.bytes_max() / self.shares.len() as u64
    }

    fn step(&self) -> u64 {
        (self.even() / STEPS_PER_SHARE).max(STEP_BYTES_MIN)
    }

    /// Takes up to `bytes` of what is granted to nobody.
    fn take(&self, bytes: u64) -> u64 {
        let mut taken = 0;
        let _ = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
            taken = (bytes as i64).min(free).max(0);
            (taken > 0).then(|| free - taken)
        });
        taken.max(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Announced, Random};

    const MIB: u64 = 1 << 20;

    fn sum(pool: &MemoryPool) -> i64 {
        let granted: u64 = pool.shares.iter().map(|share| share.granted.load(Ordering::Relaxed)).sum();
        granted as i64 + pool.free.load(Ordering::Relaxed)
    }

    #[test]
    fn one_core_gets_what_the_others_do_not_use() {
        let pool = MemoryPool::new(1024 * MIB, Eviction::TinyLfu, 4);
        let mut used = [0, 0, 0, 0];
        for _ in 0..2_000 {
            for (core, used) in used.iter_mut().enumerate() {
                let limit = pool.settle(core, *used);
                *used = if core == 2 { limit } else { MIB };
            }
            assert_eq!(sum(&pool), 1024 * MIB as i64);
        }
        assert!(used[2] > 850 * MIB, "{used:?}");
        // When all want more, all get the same.
        for _ in 0..5_000 {
            for (core, used) in used.iter_mut().enumerate() {
                *used = pool.settle(core, *used);
            }
            assert_eq!(sum(&pool), 1024 * MIB as i64);
        }
        assert!(used.iter().all(|used| used.abs_diff(256 * MIB) <= 8 * MIB), "{used:?}");
    }

    #[test]
    fn the_sum_of_the_shares_is_the_ceiling_whatever_happens() {
        for seed in 0..30 {
            let _announced = Announced(seed);
            let mut random = Random::new(seed);
            let cores = 1 + random.below(6);
            let mut bytes_max = (64 + random.below(2_000)) as u64 * MIB;
            let pool = MemoryPool::new(bytes_max, Eviction::Lru, cores);
            let mut used = vec![0u64; cores];
            let mut appetite = vec![0u64; cores];
            for _ in 0..4_000 {
                let core = random.below(cores);
                if random.below(200) == 0 {
                    appetite[core] = random.below(3_000) as u64 * MIB;
                }
                if random.below(1_000) == 0 {
                    bytes_max = (64 + random.below(2_000)) as u64 * MIB;
                    pool.set_bytes_max(bytes_max);
                }
                let limit = pool.settle(core, used[core]);
                used[core] = appetite[core].min(limit).min(used[core] + 16 * MIB);
                assert_eq!(sum(&pool), bytes_max as i64);
            }
            // Once all have settled, nobody uses more than there is.
            for _ in 0..2_000 {
                for (core, used) in used.iter_mut().enumerate() {
                    *used = (*used).min(pool.settle(core, *used));
                }
            }
            assert!(used.iter().sum::<u64>() <= bytes_max, "{used:?} of {bytes_max}");
        }
    }

    #[test]
    fn one_large_value_gets_the_room_that_others_leave() {
        let pool = MemoryPool::new(256 * MIB, Eviction::TinyLfu, 4);
        for _ in 0..100 {
            (0..4).for_each(|core| assert!(pool.settle(core, 2 * MIB) > 0));
        }
        assert!(pool.granted(1) < 20 * MIB);
        assert!(pool.reserve(1, 2 * MIB, 150 * MIB) >= 152 * MIB);
        assert_eq!(sum(&pool), 256 * MIB as i64);
        // No more than there is, and what was not used goes back.
        assert!(pool.reserve(2, 2 * MIB, 400 * MIB) < 256 * MIB);
        assert_eq!(sum(&pool), 256 * MIB as i64);
        for _ in 0..100 {
            (0..4).for_each(|core| assert!(pool.settle(core, 2 * MIB) > 0));
        }
        assert!(pool.granted(1) < 20 * MIB);
    }

    #[test]
    fn without_a_ceiling_everybody_may_take_all() {
        let pool = MemoryPool::unbounded(2);
        assert_eq!((pool.granted(1), pool.settle(0, 1 << 40)), (u64::MAX, u64::MAX));
        pool.set_bytes_max(100 * MIB);
        pool.set_eviction(Eviction::None);
        for _ in 0..1_000 {
            pool.settle(0, 10 * MIB);
            pool.settle(1, 10 * MIB);
        }
        assert!(pool.granted(0) > 10 * MIB && pool.granted(0) + pool.granted(1) <= 100 * MIB);
        assert_eq!(pool.eviction(), Eviction::None);
    }
}
