//! How often the same message may be written: some at once, then one per second. What is held back is counted, and the last
//! of it is written when it may.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::limits::{LOG_BURST, LOG_PER_SECOND};

/// `S` says which message it is, `M` is what it says.
pub struct Limiter<S, M> {
    buckets: BTreeMap<S, Bucket<M>>,
}

struct Bucket<M> {
    left: u32,
    /// When the next one is added to `left`.
    filled: Instant,
    held: u64,
    last: Option<M>,
}

const FILL_EVERY: Duration = Duration::from_millis(1000 / LOG_PER_SECOND);

impl<S: Ord + Clone + Hash, M> Limiter<S, M> {
    pub const fn new() -> Limiter<S, M> {
        Limiter { buckets: BTreeMap::new() }
    }

    /// The message, if it may be written now, and how many like it were held back before.
    pub fn admit(&mut self, site: S, said: M, now: Instant) -> Option<(M, u64)> {
        let bucket = self.buckets.entry(site).or_insert(Bucket { left: LOG_BURST, filled: now, held: 0, last: None });
        bucket.fill(now);
        if bucket.left == 0 {
            bucket.held += 1;
            bucket.last = Some(said);
            return None;
        }
        bucket.left -= 1;
        bucket.last = None;
        Some((said, std::mem::take(&mut bucket.held)))
    }

    /// What was held back and may be written now: the last of each kind, with how many there were beside it.
    pub fn due(&mut self, now: Instant) -> Vec<(M, u64)> {
        let mut due = Vec::new();
        for bucket in self.buckets.values_mut().filter(|bucket| bucket.last.is_some()) {
            bucket.fill(now);
            if bucket.left > 0
                && let Some(last) = bucket.last.take()
            {
                bucket.left -= 1;
                due.push((last, std::mem::take(&mut bucket.held) - 1));
            }
        }
        due
    }
}

impl<M> Bucket<M> {
    fn fill(&mut self, now: Instant) {
        let steps = now.saturating_duration_since(self.filled).as_millis() / FILL_EVERY.as_millis();
        self.filled += FILL_EVERY * steps.min(u128::from(u32::MAX)) as u32;
        self.left = self.left.saturating_add(steps.min(u128::from(LOG_BURST)) as u32).min(LOG_BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_back_and_counted_and_others_are_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut limiter = Limiter::new();
        let written = (0..1000).filter(|step| limiter.admit(1, *step, at(0)).is_some()).count();
        assert_eq!(written as u32, LOG_BURST);
        assert_eq!(limiter.admit(2, 0, at(0)), Some((0, 0)));
        assert_eq!(limiter.due(at(900)), []);
        let held = 1000 - u64::from(LOG_BURST);
        assert_eq!(limiter.due(at(1000)), [(999, held - 1)]);
        assert_eq!(limiter.due(at(5000)), [], "nothing was held back since");
        // The next one tells of those before it.
        for step in 0..10 {
            limiter.admit(1, step, at(5000));
        }
        assert_eq!(limiter.admit(1, 77, at(6000)), Some((77, 6)));
        // After a long silence there is a burst again, and no more than that.
        let written = (0..1000).filter(|step| limiter.admit(1, *step, at(10_000_000)).is_some()).count();
        assert_eq!(written as u32, LOG_BURST);
    }
}
