//! Token buckets: so much per second, and a burst on top. Reads no clock; callers pass `now_us`.
//!
//! What several cores draw on is one bucket in the [`Ledger`]. A core leases a hundredth of a second's worth from it when
//! it has none left, so that whoever wants more gets more, wherever his connections are: a client on one core has all of
//! its rate there, and clients on several share it as they ask.
//!
//! ```text
//!   Ledger: bucket of a token, of an address ─┬─ Lease of core 0 ── its connections
//!                                             └─ Lease of core 1 ── its connections
//!   Connection: a bucket of its own
//! ```

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::limits::RATE_HOLDERS_MAX;

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

    pub fn rate(&self) -> Rate {
        self.rate
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

    /// Whether there is one left, without taking it; or in how many milliseconds there is.
    pub fn check(&mut self, now_us: u64) -> Result<(), u64> {
        if self.rate.is_unlimited() {
            return Ok(());
        }
        self.fill(now_us);
        let missing = (MILLION as i64).saturating_sub(self.level_millionths);
        if missing <= 0 {
            return Ok(());
        }
        Err((missing as u64).div_ceil(self.rate.per_second).div_ceil(1000).max(1))
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

impl Bucket {
    /// Takes up to `most`, at least one, while it leaves one for each of those `ahead`; or says in how many milliseconds it
    /// is worth to ask again.
    fn lease_behind(&mut self, ahead: u64, most: u64, now_us: u64) -> Result<u64, u64> {
        self.fill(now_us);
        let level = self.level_millionths;
        let needed = ((ahead + 1) * MILLION) as i64;
        if level < needed {
            let missing = needed.saturating_sub(level) as u64;
            return Err(missing.div_ceil(self.rate.per_second).div_ceil(1000).max(1));
        }
        let granted = most.min(level as u64 / MILLION - ahead);
        self.level_millionths -= (granted * MILLION) as i64;
        Ok(granted)
    }
}

/// What is limited beside single connections and commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub connection_commands: Rate,
    pub connection_bytes: Rate,
    pub address_commands: Rate,
    pub address_bytes: Rate,
    pub address_connects: Rate,
    /// Whoever goes too far waits, instead of being refused.
    pub delays: bool,
    /// Connections of one address that have not said who they are; 0 is no bound.
    pub newcomers_max: u32,
}

impl Limits {
    /// Whether commands have to be looked at.
    pub fn concern_commands(&self) -> bool {
        let rates = [self.connection_commands, self.connection_bytes, self.address_commands, self.address_bytes];
        rates.iter().any(|rate| !rate.is_unlimited())
    }
}

/// Whose rate it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    Token(Arc<str>),
    /// As [`source_of`] gives it.
    Source(IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Commands,
    Bytes,
    Connects,
}

/// The buckets that cores have in common.
#[derive(Debug)]
pub struct Ledger {
    buckets: HashMap<(Holder, Kind), SharedBucket, ahash::RandomState>,
    tidied_us: u64,
}

/// A bucket, and the cores that were told to wait for it, until when they are expected: whoever was told so first is
/// served first, or cores that ask more often would leave nothing for the others.
#[derive(Debug)]
struct SharedBucket {
    bucket: Bucket,
    line: VecDeque<(u32, u64)>,
}

impl SharedBucket {
    fn lease(&mut self, core: u32, most: u64, now_us: u64) -> Result<u64, u64> {
        self.line.retain(|&(_, expected_until_us)| now_us <= expected_until_us);
        let place = self.line.iter().position(|&(other, _)| other == core);
        let ahead = place.unwrap_or(self.line.len()) as u64;
        match self.bucket.lease_behind(ahead, most, now_us) {
            Ok(granted) => {
                place.map(|place| self.line.remove(place));
                Ok(granted)
            }
            Err(wait_ms) => {
                let entry = (core, now_us + wait_ms * 1000 + PATIENCE_US);
                match place {
                    Some(place) => self.line[place] = entry,
                    None => self.line.push_back(entry),
                }
                Err(wait_ms)
            }
        }
    }
}

/// How long a core that was told to wait keeps its place in the line beyond that.
const PATIENCE_US: u64 = 20_000;

/// How often full buckets are thrown away when there are too many.
const TIDY_US: u64 = 1_000_000;
/// A lease is this part of what a second gives.
const LEASES_PER_SECOND: u64 = 100;

impl Ledger {
    pub fn with_hasher(hasher: ahash::RandomState) -> Ledger {
        Ledger { buckets: HashMap::with_hasher(hasher), tidied_us: 0 }
    }

    /// Core `core` has used `owed` beyond earlier leases. What it may use now, or in how many milliseconds it is worth to ask again.
    pub fn lease(
        &mut self,
        core: u32,
        holder: &Holder,
        kind: Kind,
        rate: Rate,
        owed: u64,
        now_us: u64,
    ) -> Result<u64, u64> {
        let shared = self.bucket(holder, kind, rate, now_us);
        shared.bucket.charge(owed, now_us);
        shared.lease(core, (rate.per_second / LEASES_PER_SECOND).max(1), now_us)
    }

    /// One, for what is too rare to be leased.
    pub fn take(&mut self, holder: &Holder, kind: Kind, rate: Rate, now_us: u64) -> Result<(), u64> {
        self.bucket(holder, kind, rate, now_us).bucket.take(1, now_us)
    }

    /// `count` have been used by somebody who leases nothing. Whether there is anything left, or in how many milliseconds
    /// there is.
    pub fn charge(&mut self, holder: &Holder, kind: Kind, rate: Rate, count: u64, now_us: u64) -> Result<(), u64> {
        let bucket = &mut self.bucket(holder, kind, rate, now_us).bucket;
        bucket.charge(count, now_us);
        bucket.check(now_us)
    }

    fn bucket(&mut self, holder: &Holder, kind: Kind, rate: Rate, now_us: u64) -> &mut SharedBucket {
        let key = (holder.clone(), kind);
        if self.buckets.len() >= RATE_HOLDERS_MAX && !self.buckets.contains_key(&key) {
            self.make_room(now_us);
        }
        let new = || SharedBucket { bucket: Bucket::new(rate, now_us), line: VecDeque::new() };
        let shared = self.buckets.entry(key).or_insert_with(new);
        if shared.bucket.rate != rate {
            *shared = new();
        }
        shared
    }

    /// A full bucket is as good as none; if there is no such, somebody begins anew.
    fn make_room(&mut self, now_us: u64) {
        if now_us.saturating_sub(self.tidied_us) >= TIDY_US {
            self.tidied_us = now_us;
            self.buckets.retain(|_, shared| !shared.bucket.is_full(now_us));
        }
        if self.buckets.len() >= RATE_HOLDERS_MAX
            && let Some(any) = self.buckets.keys().next().cloned()
        {
            self.buckets.remove(&any);
        }
    }
}

/// What one core may give out of a bucket in the ledger.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// Negative: used beyond what was leased.
    left: i64,
    waits_until_us: u64,
}

impl Lease {
    /// `count` has been used, whether there was enough or not.
    pub fn charge(&mut self, count: u64) {
        self.left = self.left.saturating_sub_unsigned(count);
    }

    /// Whether there is one left, asking `more` (see [`Ledger::lease`]) when there is none; or how long to wait.
    pub fn check(&mut self, now_us: u64, more: impl FnOnce(u64) -> Result<u64, u64>) -> Result<(), u64> {
        if now_us < self.waits_until_us {
            return Err((self.waits_until_us - now_us).div_ceil(1000));
        }
        if self.left > 0 {
            return Ok(());
        }
        match more(self.left.unsigned_abs()) {
            Ok(granted) => {
                self.left = granted as i64;
                Ok(())
            }
            Err(wait_ms) => {
                self.left = 0;
                self.waits_until_us = now_us + wait_ms * 1000;
                Err(wait_ms)
            }
        }
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
    }

    fn ledger() -> Ledger {
        Ledger::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4))
    }

    /// Cores that ask for one command after the other; how many each of them gets in a second.
    fn given(demands_us: &[u64], rate: Rate) -> Vec<u64> {
        let mut ledger = ledger();
        let holder = Holder::Token("shop".into());
        let mut leases = vec![Lease::default(); demands_us.len()];
        let mut given = vec![0; demands_us.len()];
        for now_us in 0..1_000_000 {
            for (core, every_us) in demands_us.iter().enumerate() {
                let more = |owed| ledger.lease(core as u32, &holder, Kind::Commands, rate, owed, now_us);
                if *every_us > 0 && now_us % every_us == 0 && leases[core].check(now_us, more).is_ok() {
                    leases[core].charge(1);
                    given[core] += 1;
                }
            }
        }
        given
    }

    #[test]
    fn a_rate_goes_where_it_is_asked_for() {
        let rate = Rate { per_second: 1000, burst: 100 };
        let all = 1100;
        let alone = given(&[50, 0, 0, 0], rate);
        assert!((all - 15..=all).contains(&alone[0]), "a client on one core has all of it: {alone:?}");
        let both = given(&[50, 50], rate);
        assert!((all - 30..=all).contains(&both.iter().sum::<u64>()), "{both:?}");
        assert!(both.iter().all(|count| (350..750).contains(count)), "as they ask: {both:?}");
        let modest = given(&[50, 10_000], rate);
        assert!(modest[1] >= 60, "who asks for little is not starved: {modest:?}");
        assert!(modest.iter().sum::<u64>() <= all, "{modest:?}");
        let slow = given(&[500, 500, 500], Rate { per_second: 2, burst: 3 });
        assert!((4..=5).contains(&slow.iter().sum::<u64>()), "{slow:?}");
    }

    #[test]
    fn what_was_used_beyond_a_lease_is_paid_back() {
        let mut ledger = ledger();
        let (holder, rate) = (Holder::Source("192.0.2.1".parse().unwrap()), Rate { per_second: 1000, burst: 1000 });
        let mut lease = Lease::default();
        let mut check = |lease: &mut Lease, now_us| {
            lease.check(now_us, |owed| ledger.lease(0, &holder, Kind::Bytes, rate, owed, now_us))
        };
        assert_eq!(check(&mut lease, 0), Ok(()));
        lease.charge(3000);
        let wait_ms = check(&mut lease, 0).unwrap_err();
        assert!((1985..=2005).contains(&wait_ms), "{wait_ms}");
        assert_eq!(check(&mut lease, 1_000_000), Err(wait_ms - 1000));
        assert_eq!(check(&mut lease, wait_ms * 1000), Ok(()));
        // Another holder and another kind have buckets of their own.
        let other = Holder::Source("192.0.2.2".parse().unwrap());
        assert!(ledger.lease(0, &other, Kind::Bytes, rate, 0, 0).is_ok());
        assert!(ledger.lease(0, &holder, Kind::Commands, rate, 0, 0).is_ok());
    }

    #[test]
    fn the_ledger_has_a_bound() {
        let mut ledger = ledger();
        let rate = Rate { per_second: 1, burst: 10 };
        for host in 0..2 * RATE_HOLDERS_MAX as u32 {
            let holder = Holder::Source(IpAddr::from(host.to_be_bytes()));
            assert!(ledger.lease(0, &holder, Kind::Connects, rate, 0, 0).is_ok());
        }
        assert!(ledger.buckets.len() <= RATE_HOLDERS_MAX);
        // All are full again by now.
        ledger.lease(0, &Holder::Token("a".into()), Kind::Commands, rate, 0, 60_000_000).unwrap();
        assert_eq!(ledger.buckets.len(), 1);
    }
}
