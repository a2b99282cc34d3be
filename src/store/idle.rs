//! When items were used last, in one byte each. Does not read the clock; whoever ticks says how late it is.
//!
//! ```text
//!   0 … 231     the unit of 16.4 s in which the item was used, counted round and round: 63 minutes
//!   232 … 255   not used for so long: 32 minutes, one hour, two, four …
//! ```
//!
//! Numbers that come round would make old friends out of strangers. So a sweep passes over all items every 32 minutes
//! and writes down of each that was not used since how long that is: twice as long with every second, fourth, eighth
//! sweep. What is idle for half an hour is known to a unit, what is idle for longer to a factor of two or so.
//!
//! Each unit has its part of the index to sweep, and the next one does not begin before that is done: then every item
//! is seen in time, whatever happens. Where ticks are too few for so many items, time goes slower here.

/// A unit, in powers of two of milliseconds.
const UNIT_SHIFT: u32 = 14;
/// Units that are told apart.
const ROUND: u64 = 232;
/// Units of a sweep. Two sweeps make a round: an item that the first found a little too young is seen by the second
/// before its number comes round.
const SWEEP: u64 = ROUND / 2;
/// A table that changes its size is swept a little earlier or later here and there.
const SWEEP_NEARLY: u64 = SWEEP - 8;
const SWEEP_AND_A_HALF: u64 = SWEEP + SWEEP / 2;
const CLASS_FIRST: u8 = ROUND as u8;
const CLASS_MAX: u8 = u8::MAX - CLASS_FIRST;

/// Places in the order of a scan: hashes with their bits reversed.
const PLACES: u64 = 1 << 32;

#[derive(Default)]
pub struct Idle {
    /// When counting began.
    origin_ms: Option<u64>,
    /// The unit it is now.
    unit: u64,
    /// Where the sweep goes on, as a cursor of [`Table::scan`](super::table::Table::scan).
    cursor: u64,
    /// The part of this unit has been swept.
    is_swept: bool,
}

impl Idle {
    /// What items say that are used now.
    pub fn now(&self) -> u8 {
        (self.unit % ROUND) as u8
    }

    /// Moves on if it is later and nothing is left to sweep. Returns where to sweep next; none when it is done for now.
    pub fn next(&mut self, now_ms: u64) -> Option<u64> {
        let origin_ms = *self.origin_ms.get_or_insert(now_ms);
        while self.is_swept {
            if self.unit >= now_ms.saturating_sub(origin_ms) >> UNIT_SHIFT {
                return None;
            }
            self.unit += 1;
            let end = self.part_end();
            // Perhaps the last bucket reached as far.
            let begins = self.unit.is_multiple_of(SWEEP);
            self.is_swept = !begins && self.place() >= end;
            if begins {
                self.cursor = 0;
            }
        }
        Some(self.cursor)
    }

    /// The bucket at the cursor was swept, and `cursor` is the next one; 0 after the last.
    pub fn swept(&mut self, cursor: u64) {
        self.cursor = cursor;
        self.is_swept = cursor == 0 || self.place() >= self.part_end();
        if cursor == 0 {
            // There is nothing more until the next sweep begins.
            self.cursor = u32::MAX as u64;
        }
    }

    fn place(&self) -> u64 {
        (self.cursor as u32).reverse_bits() as u64
    }

    fn part_end(&self) -> u64 {
        match self.unit % SWEEP + 1 {
            SWEEP => PLACES,
            part => PLACES * part / SWEEP,
        }
    }

    /// What an item that says `used` is to say after this sweep has seen it.
    pub fn aged(&self, used: u8) -> u8 {
        if used < CLASS_FIRST {
            return match self.units_since(used) {
                ..SWEEP_NEARLY => used,
                SWEEP_NEARLY..SWEEP_AND_A_HALF => CLASS_FIRST,
                _ => CLASS_FIRST + 1,
            };
        }
        let class = used - CLASS_FIRST;
        let sweep = self.unit / SWEEP;
        let is_due = class < CLASS_MAX && sweep.is_multiple_of(1 << class);
        used + is_due as u8
    }

    fn units_since(&self, used: u8) -> u64 {
        (self.unit % ROUND + ROUND - used as u64) % ROUND
    }

    /// How long an item that says `used` has not been used.
    pub fn idle_ms(&self, used: u8) -> u64 {
        let units = match used.checked_sub(CLASS_FIRST) {
            None => self.units_since(used),
            Some(class) => SWEEP << class,
        };
        units << UNIT_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT_MS: u64 = 1 << UNIT_SHIFT;
    const START_MS: u64 = 1_000;

    /// Items all over the table: by their place, what they say and when they were used.
    struct Items {
        idle: Idle,
        items: Vec<(u8, u64)>,
        bits: u32,
    }

    impl Items {
        fn new(bits: u32) -> Items {
            Items { idle: Idle::default(), items: vec![(0, START_MS); 1 << bits], bits }
        }

        /// Sweeps all there is to sweep, in buckets of one item.
        fn tick(&mut self, now_ms: u64) {
            while let Some(cursor) = self.idle.next(now_ms) {
                let place = ((cursor as u32).reverse_bits() >> (32 - self.bits)) as usize;
                self.items[place].0 = self.idle.aged(self.items[place].0);
                let next = (place as u64 + 1) << (32 - self.bits);
                self.idle.swept((next as u32).reverse_bits() as u64);
            }
        }

        fn check(&self, now_ms: u64) {
            for &(used, used_ms) in &self.items {
                let (said, real) = (self.idle.idle_ms(used), now_ms - used_ms);
                if used < CLASS_FIRST {
                    assert!(said <= real + UNIT_MS && real <= said + UNIT_MS, "{said} instead of {real}");
                } else {
                    assert!(said <= 2 * real + UNIT_MS && 2 * real <= 5 * said, "{said} instead of {real}");
                }
            }
        }
    }

    #[test]
    fn idle_times_hold_for_items_that_are_used_and_those_that_are_not() {
        for bits in [6, 9] {
            let mut all = Items::new(bits);
            let mut now_ms = START_MS;
            for turn in 0..6_000u64 {
                now_ms += UNIT_MS / 2;
                all.tick(now_ms);
                // Items of the first half are used at intervals of all lengths, the others never.
                let count = all.items.len() as u64 / 2;
                let item = (turn * turn % count) as usize;
                if turn % 3 == 0 && (item as u64) * 10_000 / count < turn {
                    all.items[item] = (all.idle.now(), now_ms);
                }
                all.check(now_ms);
            }
        }
    }

    #[test]
    fn a_clock_that_jumps_loses_nothing() {
        let mut all = Items::new(7);
        all.tick(START_MS);
        for now_ms in [START_MS + 1, START_MS + 40 * SWEEP * UNIT_MS, START_MS, START_MS + 41 * SWEEP * UNIT_MS] {
            all.tick(now_ms);
        }
        all.check(START_MS + 41 * SWEEP * UNIT_MS);
    }

    #[test]
    fn time_does_not_go_on_before_its_part_is_swept() {
        let mut idle = Idle::default();
        let cursor = idle.next(START_MS);
        assert_eq!(cursor, Some(0));
        assert_eq!((idle.next(START_MS + 100 * UNIT_MS), idle.now()), (cursor, 0));
        idle.swept((1u32 << 28).reverse_bits() as u64);
        assert!(idle.next(START_MS + 100 * UNIT_MS).is_some());
        assert!(idle.now() > 0);
    }
}
