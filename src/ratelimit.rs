//! Token buckets: so much per second, and a burst on top. Reads no clock; callers pass `now_us`.

use std::net::{IpAddr, Ipv6Addr};

/// Who is behind an address: a v4 address, or the /64 of a v6 one, which is what one household gets.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// How much per second, and how much at once; 0 per second is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u64,
    pub burst: u64,
}

impl Rate {
    pub fn is_unlimited(&self) -> bool {
        self.per_second == 0
    }

    /// What one of `cores` cores may give out, so that all together keep to the rate; at least one per second.
    pub fn share(&self, cores: u64) -> Rate {
        if self.is_unlimited() {
            return *self;
        }
        Rate { per_second: (self.per_second / cores).max(1), burst: (self.burst / cores).max(1) }
    }
}

/// What is left of a rate. Counts in millionths, so that slow rates fill evenly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    rate: Rate,
    /// Never above the burst. Negative when something larger than a burst was let through: it is paid back first.
    level_millionths: i64,
    filled_us: u64,
}

const MILLION: u64 = 1_000_000;

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now_us: u64) -> Bucket {
        Bucket { rate, level_millionths: Self::full(&rate), filled_us: now_us }
    }

    fn full(rate: &Rate) -> i64 {
        i64::try_from(rate.burst.max(1).saturating_mul(MILLION)).unwrap_or(i64::MAX)
    }

    fn fill(&mut self, now_us: u64) {
        let elapsed_us = now_us.saturating_sub(self.filled_us);
        self.filled_us = self.filled_us.max(now_us);
        let gained = i64::try_from(elapsed_us.saturating_mul(self.rate.per_second)).unwrap_or(i64::MAX);
        self.level_millionths = self.level_millionths.saturating_add(gained).min(Self::full(&self.rate));
    }

    /// Takes `count`, or says in how many milliseconds it is worth to ask again. What is more than a whole burst is let
    /// through when the bucket is full, and paid back.
    pub fn take(&mut self, count: u64, now_us: u64) -> Result<(), u64> {
        if self.rate.is_unlimited() || count == 0 {
            return Ok(());
        }
        self.fill(now_us);
        let wanted = i64::try_from(count.saturating_mul(MILLION)).unwrap_or(i64::MAX);
        let missing = wanted.min(Self::full(&self.rate)) - self.level_millionths;
        if missing > 0 {
            let wait_us = (missing as u64).div_ceil(self.rate.per_second);
            return Err(wait_us.div_ceil(1000).max(1));
        }
        self.level_millionths = self.level_millionths.saturating_sub(wanted);
        Ok(())
    }

    /// Charges for what has happened already.
    pub fn charge(&mut self, count: u64, now_us: u64) {
        if !self.rate.is_unlimited() {
            self.fill(now_us);
            let charged = i64::try_from(count.saturating_mul(MILLION)).unwrap_or(i64::MAX);
            // No debt beyond a minute's worth: a mistake must not lock somebody out for a day.
            let floor = -i64::try_from(self.rate.per_second.saturating_mul(60 * MILLION)).unwrap_or(i64::MAX);
            self.level_millionths = self.level_millionths.saturating_sub(charged).max(floor);
        }
    }

    /// Whether it holds as much as it can: forgetting it changes nothing.
    pub fn is_full(&mut self, now_us: u64) -> bool {
        self.fill(now_us);
        self.level_millionths == Self::full(&self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Announced, Random};

    fn bucket(per_second: u64, burst: u64) -> Bucket {
        Bucket::new(Rate { per_second, burst }, 0)
    }

    #[test]
    fn a_household_is_one_source() {
        let source = |text: &str| source_of(text.parse().unwrap()).to_string();
        assert_eq!(source("192.0.2.7"), "192.0.2.7");
        assert_eq!(source("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_ne!(source("2001:db8:1:3::1"), source("2001:db8:1:2::1"));
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut bucket = bucket(10, 3);
        for _ in 0..3 {
            assert_eq!(bucket.take(1, 0), Ok(()));
        }
        assert_eq!(bucket.take(1, 0), Err(100));
        assert_eq!(bucket.take(1, 99_000), Err(1));
        assert_eq!(bucket.take(1, 100_000), Ok(()));
        assert_eq!(bucket.take(1, 100_000), Err(100));
        assert!(bucket.is_full(10_000_000));
        assert_eq!(bucket.take(3, 10_000_000), Ok(()));
        assert_eq!(bucket.take(1, 10_000_000), Err(100));
    }

    #[test]
    fn what_is_larger_than_a_burst_is_paid_back() {
        let mut bucket = bucket(10, 2);
        assert_eq!(bucket.take(20, 0), Ok(()));
        assert_eq!(bucket.take(1, 1_000_000), Err(900));
        assert_eq!(bucket.take(1, 1_900_000), Ok(()));
    }

    #[test]
    fn who_asks_when_told_to_is_let_through_and_nobody_gets_more_than_the_rate() {
        for seed in 0..50 {
            let _announced = Announced(seed);
            let mut random = Random::new(seed);
            let rate = Rate { per_second: 1 + random.below(10_000) as u64, burst: 1 + random.below(1_000) as u64 };
            let mut bucket = Bucket::new(rate, 0);
            let (mut now_us, mut taken) = (0u64, 0u64);
            for _ in 0..2_000 {
                now_us += random.below(5_000) as u64;
                let count = 1 + random.below(rate.burst as usize) as u64;
                match bucket.take(count, now_us) {
                    Ok(()) => taken += count,
                    Err(wait_ms) => {
                        now_us += wait_ms * 1000;
                        assert_eq!(bucket.take(count, now_us), Ok(()), "{rate:?}");
                        taken += count;
                    }
                }
                assert!(taken <= rate.burst + now_us * rate.per_second / MILLION + 1, "{rate:?}");
            }
        }
    }

    #[test]
    fn debts_have_an_end_and_no_limit_is_none() {
        let mut bucket = bucket(1, 1);
        bucket.charge(u64::MAX, 0);
        assert_eq!(bucket.take(1, 61_000_000), Ok(()));
        let mut free = Bucket::new(Rate::default(), 0);
        free.charge(1 << 40, 0);
        assert_eq!(free.take(u64::MAX, 0), Ok(()));
        assert_eq!(Rate { per_second: 10, burst: 1 }.share(4), Rate { per_second: 2, burst: 1 });
        assert!(Rate::default().share(4).is_unlimited());
    }
}
