//! The texts of redis-benchmark: long, `-q` and `--csv`.

use std::fmt::Write;
use std::time::Duration;

use super::{Percentiles, ms};
use crate::plan::Pace;
use crate::record::Record;
use crate::run::Finished;

/// CPU share of a generating thread above which the results tell more about it than about the server.
const BOTTLENECK: f64 = 0.95;

pub fn long(finished: &Finished) -> String {
    let Finished { plan, record, .. } = finished;
    let total = record.total();
    let mut text = String::new();
    let _ = writeln!(text, "====== {} ======", plan.workload.name);
    let _ = writeln!(text, "  {} requests completed in {:.2} seconds", total.replies(), record.elapsed.as_secs_f64());
    let _ = writeln!(text, "  {} parallel clients", plan.connections);
    if plan.workload.mix.iter().any(|(action, _)| action.writes_values()) {
        let _ = writeln!(text, "  {} bytes payload", plan.workload.sizes);
    }
    let _ = writeln!(text, "  keep alive: {}", u8::from(plan.keep_alive));
    let _ = writeln!(text, "  pipeline: {}", plan.pipeline);
    let _ = writeln!(text, "  keys: {} of {}", plan.workload.distributions(), plan.workload.keys);
    let _ = writeln!(text, "  threads: {}", plan.threads);
    if let Pace::Open { requests_per_second, .. } = plan.pace {
        let _ = writeln!(text, "  open loop: {requests_per_second} requests per second, timed from when they were due");
    }
    let _ = writeln!(text, "\nLatency by percentile distribution:");
    for step in total.latency_ns.iter_quantiles(1) {
        let (percent, value, count) =
            (step.quantile() * 100.0, step.value_iterated_to(), step.count_since_last_iteration());
        if count > 0 || percent == 0.0 {
            let _ = writeln!(
                text,
                "{percent:.3}% <= {:.3} milliseconds (cumulative count {})",
                ms(value),
                total.latency_ns.count_between(0, value)
            );
        }
    }
    let _ = writeln!(text, "\nSummary:");
    let _ = writeln!(text, "  throughput summary: {:.2} requests per second", record.replies_per_second());
    let _ = writeln!(text, "  latency summary (msec):");
    let _ = writeln!(text, "{}", row(&["avg", "min", "p50", "p95", "p99", "p99.9", "max"].map(String::from)));
    let all = Percentiles::of(&total.latency_ns);
    let values = [all.average, all.min, all.p50, all.p95, all.p99, all.p999, all.max];
    let _ = writeln!(text, "{}", row(&values.map(|value| format!("{value:.3}"))));
    if record.commands.len() > 1 {
        let _ = write!(text, "{}", by_command(finished));
    }
    for line in notes(finished) {
        let _ = writeln!(text, "  {line}");
    }
    text
}

fn row(cells: &[String]) -> String {
    cells.iter().map(|cell| format!("{cell:>10}")).collect()
}

fn by_command(finished: &Finished) -> String {
    let mut text = String::from("  by command:\n");
    let heads = ["requests", "per sec", "avg", "p50", "p99", "p99.9", "max", "errors"];
    let _ = writeln!(text, "  {:<16}{}", "", row(&heads.map(String::from)));
    for (index, command) in finished.record.commands.iter().enumerate() {
        let name = finished.plan.workload.mix.get(index).map_or("SET (fill)".into(), |(action, _)| action.name());
        let Percentiles { average, p50, p99, p999, max, .. } = Percentiles::of(&command.latency_ns);
        let rate = command.replies() as f64 / finished.record.elapsed.as_secs_f64().max(1e-9);
        let mut cells = vec![command.replies().to_string(), format!("{rate:.0}")];
        cells.extend([average, p50, p99, p999, max].map(|value| format!("{value:.3}")));
        cells.push(command.errors.to_string());
        let _ = writeln!(text, "  {name:<16}{}", row(&cells));
    }
    text
}

/// What else a reader must know to judge the numbers.
pub fn notes(finished: &Finished) -> Vec<String> {
    let Finished { plan, record, .. } = finished;
    let mut notes = Vec::new();
    let reads = record.hits() + record.misses();
    if reads > 0 {
        let ratio = record.hits() as f64 / reads as f64 * 100.0;
        notes.push(format!("hits: {} of {reads} keys read ({ratio:.2} %)", record.hits()));
    }
    if record.fills > 0 {
        notes.push(format!("fills after misses: {}", record.fills));
    }
    if record.errors() > 0 {
        notes.push(format!("error replies: {}", record.errors()));
    }
    if record.never_sent > 0 {
        notes.push(never_sent(record));
    }
    if let Some(verifier) = &plan.verifier {
        notes.extend(verifier.report());
    }
    notes.push(generator(record, plan.threads));
    notes.extend(bottleneck(record, plan.threads).map(String::from));
    notes
}

/// What of [`notes`] must not be missed where only numbers are shown.
pub fn warnings(finished: &Finished, with_csv: bool) -> Vec<String> {
    let Finished { plan, record, .. } = finished;
    let mut warnings = Vec::new();
    if with_csv && record.errors() > 0 {
        warnings.push(format!("error replies: {}", record.errors()));
    }
    if with_csv && record.never_sent > 0 {
        warnings.push(never_sent(record));
    }
    if let Some(verifier) = plan.verifier.as_ref().filter(|verifier| verifier.faults() > 0) {
        warnings.extend(verifier.report());
    }
    if with_csv {
        warnings.extend(bottleneck(record, plan.threads).map(String::from));
    }
    warnings
}

fn never_sent(record: &Record) -> String {
    format!(
        "the server did not keep up: {} requests that were due were never sent and are missing above",
        record.never_sent
    )
}

/// What the generator itself has used.
fn generator(record: &Record, threads: usize) -> String {
    let work = record.cpu.saturating_sub(record.spun);
    let [spun, starved] =
        [record.spun, record.starved].map(|time| share(time, record, threads) * 100.0).map(f64::round);
    let mut text = format!(
        "generator: {:.0} % of {threads} CPU{}, {:.3} µs per request",
        generator_busy(record, threads) * 100.0,
        if threads == 1 { "" } else { "s" },
        work.as_secs_f64() * 1e6 / record.replies().max(1) as f64
    );
    if spun > 0.0 {
        let _ = write!(text, "; {spun:.0} % more to be in time for requests that were not due yet");
    }
    if starved > 0.0 {
        let _ = write!(text, "; {starved:.0} % of the time it had to wait for a CPU");
    }
    text
}

/// Says so when the numbers are those of the generator.
pub fn bottleneck(record: &Record, threads: usize) -> Option<&'static str> {
    let busy = generator_busy(record, threads);
    if busy > BOTTLENECK {
        return Some(
            "the generator is the bottleneck: throughput is its limit, not the server's (more --threads help)",
        );
    }
    let wanted = busy + share(record.starved, record, threads);
    (wanted > BOTTLENECK).then_some("the generator is the bottleneck: others have the CPUs that it needs (see --cpus)")
}

/// The share of its threads' time that the generator spent computing; looking whether a request is due is none.
pub fn generator_busy(record: &Record, threads: usize) -> f64 {
    share(record.cpu.saturating_sub(record.spun), record, threads)
}

fn share(time: Duration, record: &Record, threads: usize) -> f64 {
    time.as_secs_f64() / (record.elapsed.as_secs_f64() * threads as f64).max(1e-9)
}

pub fn quiet(finished: &Finished) -> String {
    let total = finished.record.total();
    let errors = match total.errors {
        0 => String::new(),
        errors => format!(", {errors} errors"),
    };
    let never_sent = match finished.record.never_sent {
        0 => String::new(),
        count => format!(", {count} requests due and never sent"),
    };
    let (hits, misses) = (finished.record.hits(), finished.record.misses());
    // Where misses are filled in, their share is what is asked for.
    let found = match finished.plan.workload.fill {
        true => format!(", hits {:.2} %", hits as f64 / (hits + misses).max(1) as f64 * 100.0),
        false => String::new(),
    };
    let limited = match bottleneck(&finished.record, finished.plan.threads) {
        Some(_) => ", the generator is the bottleneck",
        None => "",
    };
    format!(
        "{}: {:.2} requests per second, p50={:.3} msec{found}{errors}{never_sent}{limited}",
        finished.plan.workload.name,
        finished.record.replies_per_second(),
        ms(total.latency_ns.value_at_quantile(0.5))
    )
}

pub const CSV_HEAD: &str = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"";

pub fn csv(finished: &Finished) -> String {
    let Percentiles { average, min, p50, p95, p99, max, .. } = Percentiles::of(&finished.record.total().latency_ns);
    let name = finished.plan.workload.name.replace('"', "\"\"");
    let rate = finished.record.replies_per_second();
    format!(
        "\"{name}\",\"{rate:.2}\",\"{average:.3}\",\"{min:.3}\",\"{p50:.3}\",\"{p95:.3}\",\"{p99:.3}\",\"{max:.3}\""
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cpu_ms: u64, spun_ms: u64, starved_ms: u64) -> Record {
        let of = Duration::from_millis;
        Record { elapsed: of(1000), cpu: of(cpu_ms), spun: of(spun_ms), starved: of(starved_ms), ..Record::new(1) }
    }

    /// An open loop that was in time for everything was told that its generator was the bottleneck, because it looks
    /// all the time; and one that had half a CPU was told nothing.
    #[test]
    fn the_generator_is_the_bottleneck_when_it_has_no_time_left() {
        let says = |record: Record| bottleneck(&record, 1).unwrap_or_default().to_owned();
        assert!(says(record(980, 0, 0)).contains("more --threads"));
        assert!(says(record(980, 700, 0)).is_empty());
        assert!(says(record(500, 0, 480)).contains("others have the CPUs"));
        assert!(says(record(500, 0, 0)).is_empty());
        assert!(
            generator(&record(980, 700, 30), 1).contains("28 % of 1 CPU")
                && bottleneck(&record(980, 0, 0), 2).is_none()
        );
    }
}
