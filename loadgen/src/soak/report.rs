//! What a soak came to: lines while it runs, then the verdict, JSON and charts.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::Soaked;
use super::disturbances::Disturbances;
use super::options::Checked;
use super::verdict::{Finding, Rest, Sample};
use crate::failure::Failure;
use crate::report::svg::{self, Lines, Scale, Series};
use crate::report::{Percentiles, say};

const MIB: f64 = (1 << 20) as f64;

pub fn progress(sample: &Sample, disturbances: &Disturbances) {
    let counts = &disturbances.counts;
    say::tell(format_args!(
        "# {:.0} s: {:.0}/s, p99.9 {:.3} ms, max {:.3} ms; {:.1} MiB, {} descriptors; {} storms, {} rude connections",
        sample.seconds,
        sample.replies_per_second,
        sample.p999_ms,
        sample.max_ms,
        sample.resident_bytes as f64 / MIB,
        sample.descriptors,
        counts.storms.load(Ordering::Relaxed),
        counts.connections.load(Ordering::Relaxed),
    ));
}

pub fn write(checked: &Checked, soaked: &Soaked, disturbances: &Disturbances) -> Result<(), Failure> {
    let write = |path: &Option<PathBuf>, content: String| match path {
        Some(path) => {
            fs::write(path, content).map_err(|error| Failure::system(format!("cannot write {}", path.display()), error))
        }
        None => Ok(()),
    };
    write(&checked.json, format!("{:#}\n", document(checked, soaked)))?;
    write(&checked.svg, svg::document(&charts(&soaked.samples)))?;
    say::out(markdown(checked, soaked, disturbances).trim_end())
}

fn markdown(checked: &Checked, soaked: &Soaked, disturbances: &Disturbances) -> String {
    let counts = &disturbances.counts;
    let latency = Percentiles::of(&soaked.record.total().latency_ns);
    let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let mut out = format!(
        "{:.1} minutes of {} on CPUs {:?}: {} requests at {:.0} per second over {} connections, {} keys of {} B; \
         beside them {} storms of expiring keys, {} rude connections, {} slow reads, {} polls.\n\n",
        checked.time.as_secs_f64() / 60.0,
        checked.server.name,
        checked.server.cpus,
        soaked.record.replies(),
        checked.requests_per_second,
        checked.connections,
        checked.keys,
        checked.sizes,
        load(&counts.storms),
        load(&counts.connections),
        load(&counts.slow_reads),
        load(&counts.polls),
    );
    let _ = writeln!(
        out,
        "Latency of the whole: p50 {:.3}, p99 {:.3}, p99.9 {:.3}, p99.99 {:.3}, max {:.3} ms; {} requests never sent.\n",
        latency.p50, latency.p99, latency.p999, latency.p9999, latency.max, soaked.record.never_sent
    );
    out += "| | early | late | allowed | |\n|---|--:|--:|--:|---|\n";
    for finding in &soaked.findings {
        let Finding { what, before, after, allowed, unit, is_disturbed } = finding;
        let verdict = match finding.is_flat() {
            _ if *is_disturbed => "not judged: others were busy",
            true => "flat",
            false => "GREW",
        };
        let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
        let [before, after, allowed] = [before, after, allowed].map(|value| match value.is_finite() {
            true => format!("{value:.2}"),
            false => "–".into(),
        });
        let _ = writeln!(out, "| {what}{unit} | {before} | {after} | {allowed} | {verdict} |");
    }
    for fault in &soaked.faults {
        let _ = writeln!(out, "\nWRONG: {fault}");
    }
    out
}

fn document(checked: &Checked, soaked: &Soaked) -> serde_json::Value {
    let rest = |rest: &Rest| {
        json!({
            "descriptors": rest.descriptors,
            "clients": rest.clients,
            "resident_bytes": rest.resident_bytes,
        })
    };
    json!({
        "server": checked.server.name,
        "seconds": checked.time.as_secs_f64(),
        "requests_per_second": checked.requests_per_second,
        "requests": soaked.record.replies(),
        "errors": soaked.record.errors(),
        "never_sent": soaked.record.never_sent,
        "faults": soaked.faults,
        "findings": soaked.findings.iter().map(|finding| json!({
            "what": finding.what,
            "early": finding.before,
            "late": finding.after,
            "allowed": finding.allowed,
            "flat": finding.is_flat(),
            "disturbed": finding.is_disturbed,
        })).collect::<Vec<_>>(),
        "at_rest_before": rest(&soaked.before),
        "at_rest_after": rest(&soaked.after),
        "samples": soaked.samples.iter().map(|sample| json!({
            "seconds": sample.seconds,
            "resident_bytes": sample.resident_bytes,
            "descriptors": sample.descriptors,
            "requests_per_second": sample.replies_per_second,
            "p99_ms": sample.p99_ms,
            "p99.9_ms": sample.p999_ms,
            "max_ms": sample.max_ms,
            "foreign_cpu": sample.foreign,
        })).collect::<Vec<_>>(),
    })
}

fn charts(samples: &[Sample]) -> Vec<String> {
    let series = |name: &str, value: fn(&Sample) -> f64| Series {
        name: name.to_owned(),
        points: samples.iter().map(|sample| (sample.seconds, value(sample))).collect(),
    };
    let chart = |title: &str, y_label, y_scale, series| {
        let (title, x_label, x_scale) = (title.to_owned(), "seconds", Scale::Linear);
        Lines { title, x_label, y_label, x_scale, y_scale, series }.draw()
    };
    vec![
        chart(
            "Latency of each second",
            "ms",
            Scale::Log,
            vec![
                series("p99", |sample| sample.p99_ms),
                series("p99.9", |sample| sample.p999_ms),
                series("max", |sample| sample.max_ms),
            ],
        ),
        chart(
            "Resident memory",
            "MiB",
            Scale::Linear,
            vec![series("RSS", |sample| sample.resident_bytes as f64 / MIB)],
        ),
        chart("Open descriptors", "", Scale::Linear, vec![series("descriptors", |sample| sample.descriptors as f64)]),
    ]
}
