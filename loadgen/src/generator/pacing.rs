//! When requests of an open loop are due.

use crate::plan::Arrivals;
use crate::random::Random;

/// The times at which the requests of one thread are due, one after another, whatever the server does.
pub struct Schedule {
    next_ns: f64,
    interval_ns: f64,
    /// Requests that are due together, and how many of those are left.
    burst: u64,
    burst_left: u64,
    arrivals: Arrivals,
    random: Random,
}

impl Schedule {
    /// `index` of `threads` threads that make `requests_per_second` together, their requests interleaved.
    /// `pipeline`: how many make a burst, if bursts are what is wanted.
    pub fn new(
        start_ns: u64,
        requests_per_second: f64,
        (index, threads): (usize, usize),
        arrivals: Arrivals,
        pipeline: usize,
        random: Random,
    ) -> Schedule {
        let burst = if arrivals == Arrivals::Burst { pipeline as u64 } else { 1 };
        let interval_ns = 1e9 * threads as f64 * burst as f64 / requests_per_second;
        let offset_ns = interval_ns * index as f64 / threads as f64;
        Schedule { next_ns: start_ns as f64 + offset_ns, interval_ns, burst, burst_left: burst, arrivals, random }
    }

    /// The next request belongs to the last one: the same moment, the same connection.
    #[inline]
    pub fn is_in_burst(&self) -> bool {
        self.burst_left < self.burst
    }

    #[inline]
    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// How many more requests are due until `end_ns` (on average, for Poisson); none if that is never.
    pub fn due_until(&self, end_ns: u64) -> u64 {
        if end_ns == u64::MAX {
            0
        } else {
            ((end_ns as f64 - self.next_ns) / self.interval_ns * self.burst as f64).max(0.0) as u64
        }
    }

    #[inline]
    pub fn advance(&mut self) {
        self.burst_left -= 1;
        if self.burst_left > 0 {
            return;
        }
        self.burst_left = self.burst;
        self.next_ns += match self.arrivals {
            Arrivals::Even | Arrivals::Burst => self.interval_ns,
            Arrivals::Poisson => -self.interval_ns * (1.0 - self.random.unit()).ln(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_threads_interleave() {
        let due = |index| {
            let mut schedule = Schedule::new(100, 1e9, (index, 2), Arrivals::Even, 16, Random::new(0));
            (0..3).map(|_| (schedule.next_ns(), schedule.advance()).0).collect::<Vec<_>>()
        };
        assert_eq!(due(0), [100, 102, 104]);
        assert_eq!(due(1), [101, 103, 105]);
    }

    #[test]
    fn bursts_are_due_at_once_and_keep_the_rate() {
        let mut schedule = Schedule::new(0, 1e6, (0, 1), Arrivals::Burst, 4, Random::new(0));
        let due: Vec<_> = (0..9).map(|_| (schedule.next_ns(), schedule.is_in_burst(), schedule.advance())).collect();
        let due: Vec<_> = due.into_iter().map(|(due_ns, within, ())| (due_ns, within)).collect();
        assert_eq!(due[..5], [(0, false), (0, true), (0, true), (0, true), (4_000, false)]);
        assert_eq!(due[8], (8_000, false));
    }

    #[test]
    fn poisson_keeps_the_rate_and_varies() {
        let mut schedule = Schedule::new(0, 1e6, (0, 1), Arrivals::Poisson, 16, Random::new(9));
        let mut gaps = Vec::new();
        let mut before = 0;
        for _ in 0..100_000 {
            schedule.advance();
            gaps.push((schedule.next_ns() - before) as f64);
            before = schedule.next_ns();
        }
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        // Exponential gaps: mean and deviation are both the interval, 1000 ns.
        assert!((980.0..1020.0).contains(&mean) && (970.0..1030.0).contains(&deviation), "{mean} {deviation}");
    }
}
