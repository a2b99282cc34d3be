//! Whether anything grew: the last quarter of the time against the quarter after the warm-up.
//!
//! ```text
//!   0 %      20 %        45 %                     75 %       100 %   after it
//!   │ warm-up │   early   │                         │   late   │ everybody gone
//! ```

use crate::compare::statistics::median;

/// The server at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    pub seconds: f64,
    pub resident_bytes: u64,
    pub descriptors: u64,
    pub replies_per_second: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    /// CPU that others used, as a share of one CPU.
    pub foreign: f64,
}

/// The server before anybody came, and after all have gone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rest {
    pub descriptors: u64,
    pub clients: u64,
    pub resident_bytes: u64,
}

const EARLY: (f64, f64) = (0.20, 0.45);
const LATE: (f64, f64) = (0.75, 1.0);
/// What an allocator may take its time for.
const RESIDENT_GROWTH_MAX: f64 = 0.02;
/// The moment of a sample may fall into a burst of connections.
const DESCRIPTORS_GROWTH_MAX: f64 = 8.0;
const LATENCY_GROWTH_MAX: f64 = 0.5;

/// Latency of a second in which others used more of a CPU than this is theirs as well, and is not judged.
const FOREIGN_MAX: f64 = 0.25;
/// Fewer seconds than these have no typical latency.
const SECONDS_JUDGED_MIN: usize = 4;

/// One thing that was to stay as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub what: &'static str,
    pub before: f64,
    pub after: f64,
    pub allowed: f64,
    pub unit: &'static str,
    /// Others disturbed it too much to say anything.
    pub is_disturbed: bool,
}

impl Finding {
    pub fn is_flat(&self) -> bool {
        self.is_disturbed || self.after <= self.allowed
    }
}

/// What the machine itself, and a run of seconds, may add.
#[derive(Clone, Copy, Debug)]
pub struct Slack {
    pub latency_ms: f64,
    pub resident_mib: f64,
}

pub fn judge(samples: &[Sample], before: Rest, after: Rest, slack: Slack) -> Vec<Finding> {
    let end = samples.last().map_or(0.0, |sample| sample.seconds);
    let of = |(from, to): (f64, f64), value: fn(&Sample) -> f64, foreign_max: f64| {
        let within = |sample: &&Sample| (from * end..=to * end).contains(&sample.seconds);
        let judged = samples.iter().filter(within).filter(|sample| sample.foreign <= foreign_max);
        judged.map(value).collect::<Vec<_>>()
    };
    let over_time = |what, unit, value: fn(&Sample) -> f64, growth: f64, more: f64| {
        let before = median(&of(EARLY, value, f64::INFINITY));
        let after = median(&of(LATE, value, f64::INFINITY));
        Finding { what, before, after, allowed: before * (1.0 + growth) + more, unit, is_disturbed: false }
    };
    let latency = |(from, to)| of((from, to), |sample| sample.p999_ms, FOREIGN_MAX);
    let (early, late) = (latency(EARLY), latency(LATE));
    let p999 = Finding {
        what: "p99.9 of undisturbed seconds",
        before: median(&early),
        after: median(&late),
        allowed: median(&early) * (1.0 + LATENCY_GROWTH_MAX) + slack.latency_ms,
        unit: "ms",
        is_disturbed: !samples.is_empty() && early.len().min(late.len()) < SECONDS_JUDGED_MIN,
    };
    const MIB: f64 = (1 << 20) as f64;
    vec![
        over_time(
            "resident memory",
            "MiB",
            |sample| sample.resident_bytes as f64 / MIB,
            RESIDENT_GROWTH_MAX,
            slack.resident_mib,
        ),
        over_time("descriptors", "", |sample| sample.descriptors as f64, 0.0, DESCRIPTORS_GROWTH_MAX),
        p999,
        Finding {
            what: "descriptors when all have gone",
            before: before.descriptors as f64,
            after: after.descriptors as f64,
            allowed: before.descriptors as f64,
            unit: "",
            is_disturbed: false,
        },
        Finding {
            what: "clients when all have gone",
            before: before.clients as f64,
            after: after.clients as f64,
            allowed: before.clients as f64,
            unit: "",
            is_disturbed: false,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: Slack = Slack { latency_ms: 1.0, resident_mib: 4.0 };
    const REST: Rest = Rest { descriptors: 15, clients: 1, resident_bytes: 20 << 20 };

    fn samples(change: impl Fn(usize, &mut Sample)) -> Vec<Sample> {
        let sample = |second: usize| {
            let mut sample = Sample {
                seconds: second as f64,
                resident_bytes: (100 << 20) + (second as u64 * 7919 % (1 << 20)),
                descriptors: 70 + second as u64 % 5,
                replies_per_second: 1e4,
                p99_ms: 0.5,
                p999_ms: 1.0 + (second % 3) as f64 * 0.2,
                max_ms: 5.0,
                foreign: 0.01,
            };
            change(second, &mut sample);
            sample
        };
        (1..=100).map(sample).collect()
    }

    fn grown(samples: &[Sample], after: Rest) -> Vec<&'static str> {
        judge(samples, REST, after, SLACK)
            .iter()
            .filter(|finding| !finding.is_flat())
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn what_is_flat_is_flat() {
        assert_eq!(grown(&samples(|_, _| {}), REST), Vec::<&str>::new());
        // A warm-up is allowed, a spike is no trend.
        let uneven = samples(|second, sample| {
            sample.resident_bytes -= if second < 15 { 60 << 20 } else { 0 };
            sample.p999_ms += if second == 90 { 300.0 } else { 0.0 };
        });
        assert_eq!(grown(&uneven, REST), Vec::<&str>::new());
    }

    #[test]
    fn each_leak_is_found() {
        let memory = samples(|second, sample| sample.resident_bytes += (second as u64) << 17);
        assert_eq!(grown(&memory, REST), ["resident memory"]);
        let descriptors = samples(|second, sample| sample.descriptors += second as u64 / 4);
        assert_eq!(grown(&descriptors, REST), ["descriptors"]);
        let latency = samples(|second, sample| sample.p999_ms += second as f64 * 0.05);
        assert_eq!(grown(&latency, REST), ["p99.9 of undisturbed seconds"]);
        let left_open = Rest { descriptors: 16, clients: 2, ..REST };
        assert_eq!(
            grown(&samples(|_, _| {}), left_open),
            ["descriptors when all have gone", "clients when all have gone"]
        );
    }

    #[test]
    fn what_others_do_is_not_held_against_it() {
        let neighbours = |second: usize| if second > 80 { 1.5 } else { 0.0 };
        let latency = samples(|second, sample| {
            sample.foreign = neighbours(second);
            sample.p999_ms += 20.0 * neighbours(second);
            sample.resident_bytes += (second as u64) << 17;
        });
        assert_eq!(grown(&latency, REST), ["resident memory"]);
        let always = samples(|_, sample| sample.foreign = 1.0);
        let findings = judge(&always, REST, REST, SLACK);
        assert!(findings.iter().any(|finding| finding.is_disturbed) && findings.iter().all(Finding::is_flat));
    }

    /// Nothing was sampled: nothing can be called flat.
    #[test]
    fn without_samples_nothing_is_flat() {
        assert!(grown(&[], REST).contains(&"resident memory"));
    }
}
