//! Runs one plan to its end, second by second.

use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::generator::{FirstError, Load};
use crate::plan::Plan;
use crate::record::Record;
use crate::report::Percentiles;
use crate::report::hdr::IntervalLog;
use crate::report::live::LiveLine;

/// How often the live line is drawn and the end looked for.
const STEP: Duration = Duration::from_millis(100);
const INTERVAL: Duration = Duration::from_secs(1);

/// A second of a load.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Its end, from the beginning of the load.
    pub end_seconds: f64,
    pub replies_per_second: f64,
    pub latency_ms: Percentiles,
    pub errors: u64,
}

pub struct Finished {
    pub plan: Plan,
    pub record: Record,
    pub intervals: Vec<Interval>,
    pub first_error: Option<FirstError>,
}

pub fn run(plan: &Plan, mut log: Option<IntervalLog>, live: &mut LiveLine) -> Result<Finished, Failure> {
    let mut load = Load::connect(plan.clone())?;
    load.go();
    let started = Instant::now();
    let mut total = Record::new(plan.record_commands());
    let mut intervals = Vec::new();
    let mut next_cut = INTERVAL;
    live.begin(plan);
    // A load of a few milliseconds shall not wait for the end of a step.
    let mut step = Duration::from_millis(1);
    while !load.is_over() {
        std::thread::sleep(step);
        step = (step * 2).min(STEP);
        if crate::signals::interrupted() {
            load.stop();
        }
        live.draw(started.elapsed(), load.replies(), intervals.last());
        if started.elapsed() >= next_cut && !load.is_over() {
            next_cut += INTERVAL;
            let record = load.cut()?;
            take(&record, load.elapsed(), &mut total, &mut intervals, &mut log)?;
        }
    }
    let last = load.finish();
    live.clear();
    take(&last?, load.elapsed(), &mut total, &mut intervals, &mut log)?;
    Ok(Finished { plan: plan.clone(), record: total, intervals, first_error: load.first_error() })
}

/// Adds a second to the whole.
fn take(
    record: &Record,
    elapsed: Duration,
    total: &mut Record,
    intervals: &mut Vec<Interval>,
    log: &mut Option<IntervalLog>,
) -> Result<(), Failure> {
    let all = record.total();
    if let Some(log) = log {
        log.add(total.elapsed, record.elapsed, &all.latency_ns)?;
    }
    total.merge_following(record);
    total.elapsed = elapsed;
    if record.replies() > 0 || !record.elapsed.is_zero() {
        intervals.push(Interval {
            end_seconds: elapsed.as_secs_f64(),
            replies_per_second: record.replies_per_second(),
            latency_ms: Percentiles::of(&all.latency_ns),
            errors: record.errors(),
        });
    }
    Ok(())
}
