//! The results of a comparison: a line per cell while it runs, then Markdown and JSON.

use std::fmt::Write;
use std::fs;

use serde_json::{Value, json};

use super::options::{Cell, Checked};
use super::round::Round;
use super::statistics::{Ratio, median};
use super::{CellResult, Pairs};
use crate::failure::Failure;

/// A generator busier than this limits the throughput of both.
const GENERATOR_LIMIT: f64 = 0.95;

pub fn progress(checked: &Checked, cell: &Cell, pairs: &Pairs, noise: Option<&Pairs>) {
    let cpu = |rounds: &[Round]| median_of(rounds, Round::cpu_us);
    eprintln!(
        "#   {cell}: CPU/op {} {:.3} µs, {} {:.3} µs, ratio {} (A/A {}); throughput ratio {}",
        checked.a.name,
        cpu(&pairs.a),
        checked.b.name,
        cpu(&pairs.b),
        text(pairs.ratio(Round::cpu_us)),
        text(noise.and_then(|noise| noise.ratio(Round::cpu_us))),
        text(pairs.ratio(Round::throughput)),
    );
}

pub fn write(checked: &Checked, results: &[CellResult]) -> Result<(), Failure> {
    let table = markdown(checked, results);
    println!("{table}");
    let save = |path: &Option<std::path::PathBuf>, content: String| match path {
        Some(path) => {
            fs::write(path, content).map_err(|error| Failure::system(format!("cannot write {}", path.display()), error))
        }
        None => Ok(()),
    };
    save(&checked.markdown, table)?;
    save(&checked.json, format!("{:#}\n", as_json(checked, results)))
}

fn markdown(checked: &Checked, results: &[CellResult]) -> String {
    let (a, b) = (&checked.a.name, &checked.b.name);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "A = {a}, B = {b}. CPU/op is user + system time of the server process in µs; ratios are B / A, medians of pairs with a 95 % interval."
    );
    let _ = writeln!(out);
    let _ = writeln!(
        out,
        "| load | CPU/op A | CPU/op B | CPU ratio | A/A | ops/s A | ops/s B | throughput ratio | p50 ms A / B | p99 ms A / B | RSS MiB A / B | rounds (discarded) | notes |"
    );
    let _ = writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|");
    for result in results {
        let Pairs { a, b, discarded } = &result.pairs;
        let pair = |value: fn(&Round) -> f64, digits: usize| {
            format!("{:.digits$} / {:.digits$}", median_of(a, value), median_of(b, value))
        };
        let _ = writeln!(
            out,
            "| {} | {:.3} | {:.3} | {} | {} | {:.0} | {:.0} | {} | {} | {} | {} | {} ({}) | {} |",
            result.cell,
            median_of(a, Round::cpu_us),
            median_of(b, Round::cpu_us),
            text(result.pairs.ratio(Round::cpu_us)),
            text(result.noise.as_ref().and_then(|noise| noise.ratio(Round::cpu_us))),
            median_of(a, Round::throughput),
            median_of(b, Round::throughput),
            text(result.pairs.ratio(Round::throughput)),
            pair(|round| round.p50_ms, 3),
            pair(|round| round.p99_ms, 3),
            pair(|round| round.resident_bytes as f64 / (1 << 20) as f64, 0),
            a.len(),
            discarded.len(),
            notes(&result.pairs),
        );
    }
    out
}

/// What limits the reading of a row.
fn notes(pairs: &Pairs) -> String {
    if pairs.a.is_empty() {
        return format!("no undisturbed round: {}", pairs.discarded.last().map_or("", String::as_str));
    }
    let saturated = |rounds: &[Round]| median_of(rounds, Round::generator_busy) > GENERATOR_LIMIT;
    match (saturated(&pairs.a), saturated(&pairs.b)) {
        (false, false) => String::new(),
        (true, true) => "generator saturated: throughput is its limit".into(),
        (true, false) => "generator saturated on A".into(),
        (false, true) => "generator saturated on B".into(),
    }
}

fn text(ratio: Option<Ratio>) -> String {
    match ratio {
        None => "–".into(),
        Some(Ratio { median, low, high }) => format!("{median:.3} [{low:.3}, {high:.3}]"),
    }
}

fn median_of(rounds: &[Round], value: impl Fn(&Round) -> f64) -> f64 {
    median(&rounds.iter().map(value).collect::<Vec<_>>())
}

fn as_json(checked: &Checked, results: &[CellResult]) -> Value {
    json!({
        "a": { "name": checked.a.name, "command": checked.a.words, "protocol": checked.a.protocol.to_string() },
        "b": { "name": checked.b.name, "command": checked.b.words, "protocol": checked.b.protocol.to_string() },
        "server_cpus": checked.server_cpus,
        "generator_cpus": checked.generator_cpus,
        "seconds": checked.measured.as_secs_f64(),
        "warm_up_seconds": checked.warm_up.as_secs_f64(),
        "cells": results.iter().map(cell_json).collect::<Vec<_>>(),
    })
}

fn cell_json(result: &CellResult) -> Value {
    let cell = &result.cell;
    json!({
        "mix": cell.mix_name(),
        "pipeline": cell.pipeline,
        "connections": cell.connections,
        "value_bytes": cell.sizes.to_string(),
        "keys": cell.keys,
        "distribution": cell.distribution.to_string(),
        "cpu_ratio": ratio_json(result.pairs.ratio(Round::cpu_us)),
        "throughput_ratio": ratio_json(result.pairs.ratio(Round::throughput)),
        "p50_ratio": ratio_json(result.pairs.ratio(|round| round.p50_ms)),
        "p99_ratio": ratio_json(result.pairs.ratio(|round| round.p99_ms)),
        "noise_cpu_ratio": ratio_json(result.noise.as_ref().and_then(|noise| noise.ratio(Round::cpu_us))),
        "noise_throughput_ratio": ratio_json(result.noise.as_ref().and_then(|noise| noise.ratio(Round::throughput))),
        "discarded": result.pairs.discarded,
        "rounds_a": result.pairs.a.iter().map(round_json).collect::<Vec<_>>(),
        "rounds_b": result.pairs.b.iter().map(round_json).collect::<Vec<_>>(),
    })
}

fn ratio_json(ratio: Option<Ratio>) -> Value {
    match ratio {
        None => Value::Null,
        Some(Ratio { median, low, high }) => json!({ "median": median, "low": low, "high": high }),
    }
}

fn round_json(round: &Round) -> Value {
    json!({
        "operations": round.operations,
        "seconds": round.seconds,
        "ops_per_second": round.throughput(),
        "server_cpu_us_per_op": round.cpu_us(),
        "server_busy": round.server_busy(),
        "generator_busy": round.generator_busy(),
        "p50_ms": round.p50_ms,
        "p99_ms": round.p99_ms,
        "p999_ms": round.p999_ms,
        "max_ms": round.max_ms,
        "resident_bytes": round.resident_bytes,
        "hits": round.hits,
        "misses": round.misses,
        "foreign_cpu": round.foreign,
    })
}
