//! How long commands take, from the moment their bytes were taken up to the moment their replies stand ready to leave:
//! HDR histograms per command and core, merged when somebody asks.
//!
//! A clock per command would cost more than many a command. So commands that are answered in one go are counted, and when
//! their batch ends its time is recorded for all of them at once: what the last of them took, and no less than what any
//! of them did.
//!
//! ```text
//!   answered(op) … answered(op), end_of_batch(elapsed) ─▶ slot of 20 s ─ turn() ─▶ total since the start
//!                                                           └─ the newest three slots: the last minute
//! ```

use hdrhistogram::Histogram;

use super::counters::OP_COUNT;
use crate::command::{Flags, Op, Route, Spec, TABLE};

/// What histograms tell apart: from a tenth of a microsecond to a minute, within one per cent.
const NS_MIN: u64 = 100;
const NS_MAX: u64 = 60_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 2;

const SLOTS: usize = 3;
const SLOT_US: u64 = 20_000_000;

/// The percentiles that are shown, with the names they have in STATS.
pub const PERCENTILES: [(&str, f64); 4] = [("p50_us", 50.0), ("p95_us", 95.0), ("p99_us", 99.0), ("p999_us", 99.9)];

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(NS_MIN, NS_MAX, SIGNIFICANT_DIGITS).expect("bounds that a histogram may have")
}

/// Commands that are alike in what they have to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Reads of one key.
    Read,
    /// Writes of one key.
    Write,
    /// Several keys at once.
    Several,
    /// Every core, or many keys.
    Whole,
    /// No keys at all.
    Other,
}

impl Family {
    pub const ALL: [Family; 5] = [Family::Read, Family::Write, Family::Several, Family::Whole, Family::Other];

    pub fn of(spec: &Spec) -> Family {
        match spec.route {
            Route::Key if spec.flags.has(Flags::WRITE) => Family::Write,
            Route::Key => Family::Read,
            Route::Split | Route::Pair => Family::Several,
            Route::Every | Route::Addressed => Family::Whole,
            Route::Local => Family::Other,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Family::Read => "read",
            Family::Write => "write",
            Family::Several => "several",
            Family::Whole => "whole",
            Family::Other => "other",
        }
    }
}

/// How times are spread.
pub type Times = Histogram<u64>;

/// The histograms of one command.
struct Measured {
    total: Histogram<u64>,
    slots: [Histogram<u64>; SLOTS],
    sum_ns: u64,
}

/// What one core measures.
pub struct Latency {
    times: Vec<Option<Box<Measured>>>,
    /// Commands answered since the last batch ended, by operation, and which operations those are.
    answered: [u32; OP_COUNT],
    touched: Vec<Op>,
    slot: usize,
    slot_began_us: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency {
            times: (0..OP_COUNT).map(|_| None).collect(),
            answered: [0; OP_COUNT],
            touched: Vec::with_capacity(8),
            slot: 0,
            slot_began_us: 0,
        }
    }
}

impl Latency {
    /// A command of the batch under way has been answered.
    #[inline]
    pub fn answered(&mut self, op: Op) {
        if cfg!(crabcache_unmeasured) {
            return;
        }
        let answered = &mut self.answered[op as usize];
        if *answered == 0 {
            self.touched.push(op);
        }
        *answered += 1;
    }

    /// Whether [`Latency::end_of_batch`] has something to record.
    #[inline]
    pub fn has_answered(&self) -> bool {
        !self.touched.is_empty()
    }

    /// The operations answered since the last batch ended.
    pub fn touched(&self) -> &[Op] {
        &self.touched
    }

    /// The batch took `elapsed_ns`, and so did each of its commands.
    pub fn end_of_batch(&mut self, elapsed_ns: u64) {
        while let Some(op) = self.touched.pop() {
            let count = std::mem::take(&mut self.answered[op as usize]);
            self.record(op, elapsed_ns, count.into());
        }
    }

    /// `count` commands took `elapsed_ns` each.
    pub fn record(&mut self, op: Op, elapsed_ns: u64, count: u64) {
        let slot = self.slot;
        let times = self.times[op as usize].get_or_insert_with(|| {
            Box::new(Measured { total: histogram(), slots: std::array::from_fn(|_| histogram()), sum_ns: 0 })
        });
        times.slots[slot].saturating_record_n(elapsed_ns.max(1), count);
        times.sum_ns = times.sum_ns.saturating_add(elapsed_ns.saturating_mul(count));
    }

    /// Begins another slot when it is time to.
    pub fn turn(&mut self, uptime_us: u64) {
        let slots_passed = uptime_us.saturating_sub(self.slot_began_us) / SLOT_US;
        if slots_passed == 0 {
            return;
        }
        self.slot_began_us += slots_passed * SLOT_US;
        for _ in 0..slots_passed.min(SLOTS as u64) {
            self.slot = (self.slot + 1) % SLOTS;
            for times in self.times.iter_mut().flatten() {
                let oldest = &mut times.slots[self.slot];
                times.total.add(&*oldest).expect("the same bounds");
                oldest.reset();
            }
        }
    }

    pub fn reset(&mut self) {
        *self = Latency { slot_began_us: self.slot_began_us, ..Latency::default() };
    }

    pub fn snapshot(&self) -> LatencySnapshot {
        let mut snapshot = LatencySnapshot::default();
        for (spec, times) in TABLE.iter().filter_map(|spec| Some((spec, self.times[spec.op as usize].as_deref()?))) {
            let mut minute = histogram();
            for slot in &times.slots {
                minute.add(slot).expect("the same bounds");
            }
            let mut total = times.total.clone();
            total.add(&minute).expect("the same bounds");
            snapshot.commands.push(CommandLatency { op: spec.op, sum_ns: times.sum_ns, total, minute });
        }
        snapshot
    }
}

/// One command's times.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandLatency {
    pub op: Op,
    pub sum_ns: u64,
    /// Since the start, or CONFIG RESETSTAT.
    pub total: Histogram<u64>,
    /// The last forty to sixty seconds.
    pub minute: Histogram<u64>,
}

/// What one core measured, or several together; in the order of the operations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatencySnapshot {
    pub commands: Vec<CommandLatency>,
}

impl LatencySnapshot {
    pub fn of(&self, op: Op) -> Option<&CommandLatency> {
        self.commands.iter().find(|command| command.op == op)
    }

    /// Adds what another core measured.
    pub fn add(&mut self, other: &LatencySnapshot) {
        for theirs in &other.commands {
            match self.commands.iter_mut().find(|ours| ours.op == theirs.op) {
                Some(ours) => {
                    ours.sum_ns = ours.sum_ns.saturating_add(theirs.sum_ns);
                    ours.total.add(&theirs.total).expect("the same bounds");
                    ours.minute.add(&theirs.minute).expect("the same bounds");
                }
                None => {
                    let at = self.commands.partition_point(|ours| (ours.op as usize) < theirs.op as usize);
                    self.commands.insert(at, theirs.clone());
                }
            }
        }
    }

    /// All commands together: since the start, and over the last minute.
    pub fn all(&self) -> [Histogram<u64>; 2] {
        let mut all = [histogram(), histogram()];
        for command in &self.commands {
            for (all, one) in all.iter_mut().zip([&command.total, &command.minute]) {
                all.add(one).expect("the same bounds");
            }
        }
        all
    }

    /// The commands of a family together: how many nanoseconds, and how they are spread.
    pub fn family(&self, family: Family) -> (u64, Histogram<u64>) {
        let mut sum_ns = 0u64;
        let mut total = histogram();
        for command in &self.commands {
            if Family::of(crate::command::spec_of(command.op)) == family {
                sum_ns = sum_ns.saturating_add(command.sum_ns);
                total.add(&command.total).expect("the same bounds");
            }
        }
        (sum_ns, total)
    }

    /// ```text
    ///   commands | op, sum, values of total, values of minute, (value, count) …, (value, count) … | …
    /// ```
    pub(super) fn put(&self, words: &mut Vec<u64>) {
        words.push(self.commands.len() as u64);
        for command in &self.commands {
            words.extend([command.op as u64, command.sum_ns]);
            let at = words.len();
            words.extend([0, 0]);
            for (index, histogram) in [&command.total, &command.minute].into_iter().enumerate() {
                for value in histogram.iter_recorded() {
                    words.extend([value.value_iterated_to(), value.count_at_value()]);
                    words[at + index] += 1;
                }
            }
        }
    }

    /// None when the words are not what [`LatencySnapshot::put`] gives, to the last one.
    pub(super) fn take(words: &mut impl Iterator<Item = u64>) -> Option<LatencySnapshot> {
        let mut snapshot = LatencySnapshot::default();
        for _ in 0..words.next()? {
            let op = words.next()?;
            let op = TABLE.iter().find(|spec| spec.op as u64 == op)?.op;
            let sum_ns = words.next()?;
            let counts = [words.next()?, words.next()?];
            let mut histograms = [histogram(), histogram()];
            for (histogram, count) in histograms.iter_mut().zip(counts) {
                for _ in 0..count {
                    let (value, count) = (words.next()?, words.next()?);
                    histogram.saturating_record_n(value, count);
                }
            }
            let [total, minute] = histograms;
            snapshot.commands.push(CommandLatency { op, sum_ns, total, minute });
        }
        Some(snapshot)
    }
}

/// Microseconds at a percentile, with the decimals that the histogram can tell.
pub fn percentile_us(histogram: &Histogram<u64>, percentile: f64) -> f64 {
    us(histogram.value_at_percentile(percentile))
}

pub fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn about(actual: u64, expected: u64) -> bool {
        actual.abs_diff(expected) * 100 <= 2 * expected
    }

    #[test]
    fn a_batch_is_recorded_for_all_its_commands() {
        let mut latency = Latency::default();
        for _ in 0..3 {
            latency.answered(Op::Get);
        }
        latency.answered(Op::Set);
        assert!(latency.has_answered());
        latency.end_of_batch(5_000);
        assert!(!latency.has_answered());
        latency.end_of_batch(9 * MS);
        let snapshot = latency.snapshot();
        let get = snapshot.of(Op::Get).unwrap();
        assert_eq!((get.total.len(), get.sum_ns), (3, 15_000));
        assert!(about(get.minute.max(), 5_000));
        assert_eq!(snapshot.of(Op::Set).unwrap().total.len(), 1);
        assert!(snapshot.of(Op::Del).is_none());
        assert_eq!(snapshot.family(Family::Read).1.len(), 3);
        assert_eq!(snapshot.all().map(|all| all.len()), [4, 4]);
        assert_eq!(snapshot.family(Family::Write).0, 5_000);
    }

    #[test]
    fn the_last_minute_forgets_and_the_total_does_not() {
        let mut latency = Latency::default();
        latency.record(Op::Get, 800 * MS, 1);
        for second in 1..=59 {
            latency.turn(second * 1_000_000);
        }
        assert!(about(latency.snapshot().of(Op::Get).unwrap().minute.max(), 800 * MS));
        latency.record(Op::Get, 2 * MS, 1);
        latency.turn(60_000_000);
        let snapshot = latency.snapshot();
        let get = snapshot.of(Op::Get).unwrap();
        assert!(about(get.minute.max(), 2 * MS) && about(get.total.max(), 800 * MS));
        assert_eq!((get.minute.len(), get.total.len()), (1, 2));
        // After a long silence nothing of the last minute is left.
        latency.turn(1_000_000_000);
        assert_eq!(latency.snapshot().of(Op::Get).unwrap().minute.len(), 0);
        latency.reset();
        assert_eq!(latency.snapshot(), LatencySnapshot::default());
    }

    #[test]
    fn what_is_out_of_bounds_counts_at_the_bound() {
        let mut latency = Latency::default();
        latency.record(Op::Get, 0, 1);
        latency.record(Op::Get, u64::MAX, 1);
        let snapshot = latency.snapshot();
        let get = snapshot.of(Op::Get).unwrap();
        assert_eq!(get.total.len(), 2);
        assert!(get.total.max() >= NS_MAX);
    }

    #[test]
    fn snapshots_of_cores_add_up_and_survive_the_mesh() {
        let (mut one, mut two) = (Latency::default(), Latency::default());
        for value in 1..1_000 {
            one.record(Op::Get, value * 1_000, 1);
            two.record(Op::Get, value * 2_000, 2);
            two.record(Op::Ping, value * 100, 1);
        }
        let (one, two) = (one.snapshot(), two.snapshot());
        let mut words = Vec::new();
        two.put(&mut words);
        let mut reader = words.iter().copied();
        assert_eq!(LatencySnapshot::take(&mut reader).as_ref(), Some(&two));
        assert!(reader.next().is_none());
        for len in 0..words.len() {
            assert_eq!(LatencySnapshot::take(&mut words[..len].iter().copied()), None, "{len} words");
        }
        let mut sum = one.clone();
        sum.add(&two);
        assert_eq!(sum.of(Op::Get).unwrap().total.len(), 999 * 3);
        assert_eq!(sum.of(Op::Get).unwrap().sum_ns, one.of(Op::Get).unwrap().sum_ns + two.of(Op::Get).unwrap().sum_ns);
        assert_eq!(sum.of(Op::Ping), two.of(Op::Ping));
        let p50 = percentile_us(&one.of(Op::Get).unwrap().total, 50.0);
        assert!((495.0..=505.0).contains(&p50), "{p50}");
    }
}
