//! Whether to look for work for a while before sleeping. To look costs CPU, to sleep costs the next request
//! a wake-up; a core looks only where looking has lately been worth it.

use std::time::Duration;

/// With more active sockets than this a sleep is short and shared by several of them: to look would only cost.
const ACTIVE_SOCKETS_MAX: u32 = 4;
/// Times in one period that the thread may be made to give way before it is taken for one that shares its CPU,
/// and periods without a look after that: what we look for may be waiting for our CPU.
const PREEMPTIONS_MAX: u64 = 4;
const SHARED_PERIODS: u32 = 32;
/// Looks that found something count one, others take two: looking goes on while two of three succeed.
const SCORE_MAX: u32 = 12;
const FAILURE_COST: u32 = 2;
/// Waits without a look after the first failure that ended looking, and at most.
const REST_MIN: u32 = 16;
const REST_MAX: u32 = 1024;

/// One core's memory of what looking was good for.
pub struct Spin {
    bound: Duration,
    score: u32,
    /// Waits to go until the next look, and how many they were the last time.
    resting: u32,
    rest: u32,
    /// How often the thread had to give way, all in all.
    preemptions: u64,
    /// Periods to go without a look.
    shared: u32,
}

impl Spin {
    /// `bound` is the longest look; zero never looks.
    pub fn new(bound: Duration) -> Spin {
        Spin { bound, score: 0, resting: 0, rest: REST_MIN, preemptions: 0, shared: 0 }
    }

    /// How long to look before the wait that begins now, with so many sockets heard lately.
    #[inline]
    pub fn begin(&mut self, active_sockets: u32) -> Option<Duration> {
        if self.bound.is_zero() || active_sockets > ACTIVE_SOCKETS_MAX || self.shared > 0 {
            return None;
        }
        if self.resting > 0 {
            self.resting -= 1;
            return None;
        }
        Some(self.bound)
    }

    pub fn is_on(&self) -> bool {
        !self.bound.is_zero()
    }

    /// A period of some milliseconds has passed; the thread has had to give way `preemptions` times since it
    /// began to run.
    pub fn begin_period(&mut self, preemptions: u64) {
        let before = std::mem::replace(&mut self.preemptions, preemptions);
        if preemptions.saturating_sub(before) > PREEMPTIONS_MAX {
            self.shared = SHARED_PERIODS;
        } else {
            self.shared = self.shared.saturating_sub(1);
        }
    }

    /// What came of the look.
    #[inline]
    pub fn end(&mut self, found: bool) {
        if found {
            self.score = (self.score + 1).min(SCORE_MAX);
            self.rest = REST_MIN;
            return;
        }
        self.score = self.score.saturating_sub(FAILURE_COST);
        if self.score == 0 {
            self.resting = self.rest;
            self.rest = (self.rest * 2).min(REST_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Looks during `waits` waits of which `percent` end in time, drawn from `random`.
    fn looks(spin: &mut Spin, random: &mut Random, waits: usize, percent: usize) -> usize {
        let mut looks = 0;
        for _ in 0..waits {
            let in_time = random.chance(percent);
            if spin.begin(1).is_some() {
                looks += 1;
                spin.end(in_time);
            }
        }
        looks
    }

    #[test]
    fn a_bound_of_zero_never_looks() {
        let mut spin = Spin::new(Duration::ZERO);
        assert!((0..10_000).all(|_| spin.begin(1).is_none()));
    }

    #[test]
    fn many_active_sockets_keep_a_core_from_looking() {
        let mut spin = Spin::new(Duration::from_micros(20));
        assert!(spin.begin(ACTIVE_SOCKETS_MAX).is_some());
        assert!(spin.begin(ACTIVE_SOCKETS_MAX + 1).is_none());
    }

    #[test]
    fn looking_goes_on_while_it_finds_work_and_rests_while_it_does_not() {
        let mut random = Random::new(7);
        let mut spin = Spin::new(Duration::from_micros(20));
        let worth_it = looks(&mut spin, &mut random, 10_000, 90);
        assert!(worth_it > 9_000, "{worth_it} looks of 10,000");
        let in_vain = looks(&mut spin, &mut random, 100_000, 0);
        assert!(in_vain < 120, "{in_vain} looks in vain of 100,000");
        let now_and_then = looks(&mut spin, &mut random, 100_000, 30);
        assert!(now_and_then < 10_000, "{now_and_then} looks of 100,000 where 30 % find something");
        let again = looks(&mut spin, &mut random, 10_000, 100);
        assert!(again > 10_000 - REST_MAX as usize - 1, "{again} looks of 10,000");
    }

    #[test]
    fn a_shared_cpu_is_left_to_the_others_for_a_while() {
        let mut spin = Spin::new(Duration::from_micros(20));
        spin.begin_period(PREEMPTIONS_MAX);
        assert!(spin.begin(1).is_some());
        spin.begin_period(2 * PREEMPTIONS_MAX + 1);
        for _ in 0..SHARED_PERIODS {
            assert!(spin.begin(1).is_none());
            spin.begin_period(2 * PREEMPTIONS_MAX + 1);
        }
        assert!(spin.begin(1).is_some());
    }

    #[test]
    fn one_failure_among_successes_changes_nothing() {
        let mut spin = Spin::new(Duration::from_micros(20));
        for _ in 0..SCORE_MAX {
            assert!(spin.begin(1).is_some());
            spin.end(true);
        }
        spin.end(false);
        assert!(spin.begin(1).is_some());
    }
}
