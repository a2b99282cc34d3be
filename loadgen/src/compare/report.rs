//! The results of a comparison: a line per cell while it runs, then Markdown, JSON and charts.

use std::fmt::Write;
use std::fs;

use serde_json::{Value, json};

use super::fill::{FillResult, Filling};
use super::options::{Cell, Checked, Fill, Leg, Sweep};
use super::round::Round;
use super::server::ServerOptions;
use super::statistics::{Ratio, median};
use super::{CellResult, LegResult, Pairs};
use crate::failure::Failure;
use crate::report::svg::{self, Bar, Bars, Lines, Scale, Series};
use crate::report::{Percentiles, say};

/// A generator busier than this limits the throughput of both.
const GENERATOR_LIMIT: f64 = 0.95;
/// Groups of bars that fit beside each other.
const BARS_PER_CHART: usize = 6;

pub fn progress(leg: &Leg, pairs: &Pairs, noise: Option<&Pairs>) {
    let cpu = |rounds: &[Round]| median_of(rounds, Round::cpu_us);
    say::tell(format_args!(
        "#   CPU/op {} {:.3} µs, {} {:.3} µs, ratio {} (A/A {}); throughput ratio {}",
        leg.a.name,
        cpu(&pairs.a),
        leg.b.name,
        cpu(&pairs.b),
        text(pairs.ratio(Round::cpu_us)),
        text(noise.and_then(|noise| noise.ratio(Round::cpu_us))),
        text(pairs.ratio(Round::throughput)),
    ));
}

pub fn write(checked: &Checked, results: &[LegResult]) -> Result<(), Failure> {
    let mut tables: Vec<String> = results.iter().map(markdown).collect();
    tables.extend(side_by_side(results));
    let value = json!({
        "machine": machine(),
        "command": command(),
        "generator_cpus": checked.generator_cpus,
        "seconds": checked.measured.as_secs_f64(),
        "warm_up_seconds": checked.warm_up.as_secs_f64(),
        "legs": results.iter().map(leg_json).collect::<Vec<_>>(),
    });
    save(checked, &tables, &value, &charts(checked, results))
}

pub fn write_fills(checked: &Checked, fill: &Fill, results: &[FillResult]) -> Result<(), Failure> {
    let tables: Vec<String> = results.iter().map(|result| fill_markdown(fill, result)).collect();
    let value = json!({
        "machine": machine(),
        "command": command(),
        "keys": fill.keys,
        "requests_per_second": fill.requests_per_second,
        "connections": fill.connections,
        "pipeline": fill.pipeline,
        "value_bytes": fill.sizes.to_string(),
        "legs": results.iter().map(fill_json).collect::<Vec<_>>(),
    });
    save(checked, &tables, &value, &results.iter().flat_map(fill_charts).collect::<Vec<_>>())
}

pub fn save(checked: &Checked, tables: &[String], value: &Value, charts: &[String]) -> Result<(), Failure> {
    let table = format!("{}\n\n{}", provenance(), tables.join("\n"));
    let write = |path: &Option<std::path::PathBuf>, content: String| match path {
        Some(path) => {
            fs::write(path, content).map_err(|error| Failure::system(format!("cannot write {}", path.display()), error))
        }
        None => Ok(()),
    };
    write(&checked.markdown, table.clone())?;
    write(&checked.json, format!("{value:#}\n"))?;
    write(&checked.svg, svg::document(charts))?;
    say::out(&table)
}

/// The command and the machine that a table comes from.
fn provenance() -> String {
    format!("`{}`\n\n{}", command(), machine())
}

/// What to type to get the same again.
pub fn command() -> String {
    // Where files lie on this machine is of no use on another.
    let brief = |word: String| match word.rsplit_once('/') {
        Some((_, name)) if word.starts_with('/') && !word.contains(' ') => name.to_owned(),
        _ => word,
    };
    let words: Vec<String> = std::iter::once("loadgen".to_owned()).chain(std::env::args().skip(1).map(brief)).collect();
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

/// Processor, number of CPUs, kernel.
pub fn machine() -> String {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = cpu_info.lines().filter(|line| line.starts_with("processor")).count();
    format!("Machine: {model}, {cpus} CPUs, Linux {}.", kernel.trim())
}

fn described(server: &ServerOptions, version: &Option<String>) -> String {
    let version = version.as_ref().map_or(String::new(), |version| format!(" {version}"));
    let mut words: Vec<&str> = server.words.iter().map(|word| if word.is_empty() { "''" } else { word }).collect();
    // Where the program lies tells nothing about it.
    words[0] = words[0].rsplit('/').next().unwrap_or_default();
    let cpus: Vec<String> = server.cpus.iter().map(ToString::to_string).collect();
    format!("{}{version} (`{}`, {}, CPU {})", server.name, words.join(" "), server.protocol, cpus.join(" and "))
}

/// Which properties all cells share, in the order of [`Cell::properties`].
fn shared_properties(cells: &[CellResult]) -> [bool; 6] {
    let first = cells.first().map(|result| result.cell.properties()).unwrap_or_default();
    std::array::from_fn(|index| {
        cells.len() > 1 && cells.iter().all(|result| result.cell.properties()[index] == first[index])
    })
}

fn chosen(cell: &Cell, wanted: impl Fn(usize) -> bool) -> String {
    let properties = cell.properties().into_iter().enumerate();
    properties.filter(|(index, _)| wanted(*index)).map(|(_, text)| text).collect::<Vec<_>>().join(", ")
}

/// Several servers that were compared with one and the same: one row per load.
fn side_by_side(results: &[LegResult]) -> Option<String> {
    let [first, others @ ..] = results else { return None };
    let loads = |result: &LegResult| result.cells.iter().map(|result| result.cell.clone()).collect::<Vec<_>>();
    let alike = |other: &LegResult| other.leg.a.name == first.leg.a.name && loads(other) == loads(first);
    if others.is_empty() || !others.iter().all(alike) {
        return None;
    }
    let shared = shared_properties(&first.cells);
    let mut out = format!("Server CPU per operation in µs, and its ratio to that of {}.\n\n", first.leg.a.name);
    let names: Vec<&str> = results.iter().map(|result| result.leg.b.name.as_str()).collect();
    let _ = writeln!(
        out,
        "| load | {} | {} | {} |",
        first.leg.a.name,
        names.join(" | "),
        names.iter().map(|name| format!("ratio of {name}")).collect::<Vec<_>>().join(" | ")
    );
    let _ = writeln!(out, "|---|--:|{}", "--:|".repeat(2 * results.len()));
    for (index, cell) in first.cells.iter().enumerate() {
        let pairs = || results.iter().map(|result| &result.cells[index].pairs);
        let base: Vec<f64> = pairs().flat_map(|pairs| pairs.a.iter().map(Round::cpu_us)).collect();
        let costs: Vec<String> = pairs().map(|pairs| format!("{:.3}", median_of(&pairs.b, Round::cpu_us))).collect();
        let ratios: Vec<String> = pairs().map(|pairs| text(pairs.ratio(Round::cpu_us))).collect();
        let load = chosen(&cell.cell, |property| !shared[property]);
        let _ = writeln!(out, "| {load} | {:.3} | {} | {} |", median(&base), costs.join(" | "), ratios.join(" | "));
    }
    Some(out)
}

fn markdown(result: &LegResult) -> String {
    let LegResult { leg, versions, cells } = result;
    let mut out = format!("A = {}\nB = {}\n", described(&leg.a, &versions[0]), described(&leg.b, &versions[1]));
    let shared = shared_properties(cells);
    if let Some(result) = cells.first().filter(|_| shared.contains(&true)) {
        let _ = writeln!(out, "All loads: {}.", chosen(&result.cell, |index| shared[index]));
    }
    if leg.b.load.is_some() {
        out += "Each core of a server has a generating thread and that many connections of its own.\n";
    }
    if leg.b.shares_cpus() {
        out += "For want of CPUs the threads run on those of the servers, of A as of B: throughput and latency are not theirs alone.\n";
    }
    out += "CPU/op is user and system time of the server in µs; ratios are B / A, medians of pairs with a 95 % interval.\n\n";
    out += "| load | CPU/op A | CPU/op B | CPU ratio | A/A | ops/s A | ops/s B | throughput ratio | p50 ms A / B \
            | p99 ms A / B | p99.9 ms A / B | RSS MiB A / B | pairs (discarded) | notes |\n";
    out += "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n";
    for result in cells {
        let Pairs { a, b, discarded } = &result.pairs;
        let pair = |value: fn(&Round) -> f64, digits: usize| {
            format!("{:.digits$} / {:.digits$}", median_of(a, value), median_of(b, value))
        };
        let _ = writeln!(
            out,
            "| {} | {:.3} | {:.3} | {} | {} | {:.0} | {:.0} | {} | {} | {} | {} | {} | {} ({}) | {} |",
            chosen(&result.cell, |index| !shared[index]),
            median_of(a, Round::cpu_us),
            median_of(b, Round::cpu_us),
            text(result.pairs.ratio(Round::cpu_us)),
            text(result.noise.as_ref().and_then(|noise| noise.ratio(Round::cpu_us))),
            median_of(a, Round::throughput),
            median_of(b, Round::throughput),
            text(result.pairs.ratio(Round::throughput)),
            pair(|round| round.p50_ms, 3),
            pair(|round| round.p99_ms, 3),
            pair(|round| round.p999_ms, 3),
            pair(|round| round.resident_bytes as f64 / (1 << 20) as f64, 0),
            a.len(),
            discarded.len(),
            notes(leg, &result.pairs),
        );
    }
    if let Some(noise) = noise_line(cells) {
        let _ = writeln!(out, "\n{noise}");
    }
    out
}

/// How far A strays from itself.
fn noise_line(cells: &[CellResult]) -> Option<String> {
    let range = |value: fn(&Round) -> f64| {
        let ratios = cells.iter().filter_map(|cell| Some(cell.noise.as_ref()?.ratio(value)?.median));
        ratios.fold(None, |range, ratio| {
            let (low, high) = range.unwrap_or((ratio, ratio));
            Some((ratio.min(low), ratio.max(high)))
        })
    };
    let ((cpu_low, cpu_high), (ops_low, ops_high)) = (range(Round::cpu_us)?, range(Round::throughput)?);
    Some(format!(
        "Noise (A against a second A): CPU/op ratios of {cpu_low:.3} to {cpu_high:.3}, throughput of {ops_low:.3} to {ops_high:.3}."
    ))
}

/// What limits the reading of a row.
fn notes(leg: &Leg, pairs: &Pairs) -> String {
    if pairs.a.is_empty() {
        return format!("no undisturbed pair: {}", pairs.discarded.last().map_or("", String::as_str));
    }
    if leg.b.shares_cpus() {
        return String::new();
    }
    let limits = limits_of(pairs);
    let found = |rounds: &[Round]| median_of(rounds, |round| round.hits as f64 / (round.hits + round.misses) as f64);
    match pairs.a.iter().chain(&pairs.b).any(|round| round.misses > 0) {
        false => limits.into(),
        true => {
            let found = format!("found {:.1} / {:.1} %", found(&pairs.a) * 100.0, found(&pairs.b) * 100.0);
            [found.as_str(), limits].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
        }
    }
}

/// Whether the generator was at its end.
fn limits_of(pairs: &Pairs) -> &'static str {
    let saturated = |rounds: &[Round]| median_of(rounds, Round::generator_busy) > GENERATOR_LIMIT;
    match (saturated(&pairs.a), saturated(&pairs.b)) {
        (false, false) => "",
        (true, true) => "generator saturated: throughput is its limit",
        (true, false) => "generator saturated on A",
        (false, true) => "generator saturated on B",
    }
}

fn text(ratio: Option<Ratio>) -> String {
    match ratio {
        None => "–".into(),
        Some(Ratio { median, low, high }) if low == high => format!("{median:.3}"),
        Some(Ratio { median, low, high }) => format!("{median:.3} [{low:.3}, {high:.3}]"),
    }
}

fn median_of(rounds: &[Round], value: impl Fn(&Round) -> f64) -> f64 {
    median(&rounds.iter().map(value).collect::<Vec<_>>())
}

fn charts(checked: &Checked, results: &[LegResult]) -> Vec<String> {
    let mut charts = Vec::new();
    for result in results {
        charts.extend(checked.sweeps.iter().map(|sweep| sweep_chart(sweep, result)));
        if checked.sweeps.is_empty() {
            let count = result.cells.len().div_ceil(BARS_PER_CHART).max(1);
            let chunks = result.cells.chunks(result.cells.len().div_ceil(count).max(1));
            charts.extend(chunks.flat_map(|cells| bar_charts(&result.leg, cells)));
        }
    }
    charts
}

/// The ratio with its interval, then what it is the ratio of.
fn bar_charts(leg: &Leg, cells: &[CellResult]) -> [String; 3] {
    let draw = |title: String, y_label, series: Vec<String>, bars: &dyn Fn(&CellResult) -> Vec<Bar>| {
        let groups = cells.iter().map(|result| (label(result), bars(result))).collect();
        Bars { title, y_label, series, groups }.draw()
    };
    let both = |value: fn(&Round) -> f64| {
        move |result: &CellResult| {
            let sides = [&result.pairs.a, &result.pairs.b];
            sides.map(|rounds| Bar { value: median_of(rounds, value), interval: None }).to_vec()
        }
    };
    let ratio = |ratio: Option<Ratio>| match ratio {
        None => Bar { value: f64::NAN, interval: None },
        Some(Ratio { median, low, high }) => Bar { value: median, interval: Some((low, high)) },
    };
    let ratios = |result: &CellResult| {
        let noise = result.noise.as_ref().and_then(|noise| noise.ratio(Round::cpu_us));
        vec![ratio(result.pairs.ratio(Round::cpu_us)), ratio(noise)]
    };
    let (a, b) = (&leg.a.name, &leg.b.name);
    let names = vec![a.clone(), b.clone()];
    [
        draw(
            format!("Server CPU per operation: {b} / {a}"),
            "ratio",
            vec![format!("{b} / {a}"), format!("{a} / itself")],
            &ratios,
        ),
        draw("Server CPU per operation".into(), "µs", names.clone(), &both(Round::cpu_us)),
        draw("Throughput".into(), "operations per second", names, &both(Round::throughput)),
    ]
}

fn label(result: &CellResult) -> String {
    let Cell { sizes, pipeline, connections, distribution, .. } = &result.cell;
    format!("{} {sizes} B\nP {pipeline}, {connections} conns\n{distribution}", result.cell.mix_name())
}

/// Cost per operation of both servers as one thing grows.
fn sweep_chart(sweep: &Sweep, result: &LegResult) -> String {
    let series = |name: &str, rounds: fn(&Pairs) -> &Vec<Round>| {
        let measured = sweep.points.iter().filter_map(|(cell, x)| Some((*x, result.cells.get(*cell)?)));
        let points = measured.map(|(x, cell)| (x, median_of(rounds(&cell.pairs), Round::cpu_us)));
        Series { name: name.to_owned(), points: points.filter(|(_, y)| y.is_finite()).collect() }
    };
    let lines = Lines {
        title: format!("Server CPU per operation {}", sweep.title),
        x_label: sweep.x_label,
        y_label: "µs",
        x_scale: Scale::Log,
        y_scale: Scale::Log,
        series: vec![series(&result.leg.a.name, |pairs| &pairs.a), series(&result.leg.b.name, |pairs| &pairs.b)],
    };
    lines.draw()
}

fn server_json(server: &ServerOptions) -> Value {
    json!({
        "name": server.name,
        "command": server.words,
        "protocol": server.protocol.to_string(),
        "cpus": server.cpus,
        "cluster": server.cluster,
    })
}

fn leg_json(result: &LegResult) -> Value {
    let mut value = json!({ "a": server_json(&result.leg.a), "b": server_json(&result.leg.b) });
    value["a"]["version"] = json!(result.versions[0]);
    value["b"]["version"] = json!(result.versions[1]);
    value["cells"] = result.cells.iter().map(cell_json).collect();
    value
}

fn cell_json(result: &CellResult) -> Value {
    let cell = &result.cell;
    let noise = |value: fn(&Round) -> f64| ratio_json(result.noise.as_ref().and_then(|noise| noise.ratio(value)));
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
        "noise_cpu_ratio": noise(Round::cpu_us),
        "noise_throughput_ratio": noise(Round::throughput),
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

impl Filling {
    fn latency(&self) -> Percentiles {
        Percentiles::of(&self.finished.record.total().latency_ns)
    }
}

fn fill_markdown(fill: &Fill, result: &FillResult) -> String {
    let mut out = format!(
        "SET of {} keys in sequence, {} B, {} connections, at {:.0} requests per second in pipelines of {} (open loop, timed \
         from when each was due).\n\n",
        fill.keys, fill.sizes, fill.connections, fill.requests_per_second, fill.pipeline
    );
    out += "| server | p50 ms | p99 ms | p99.9 ms | p99.99 ms | max ms | CPU/op µs | RSS MiB | others' CPU |\n";
    out += "|---|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for (server, fillings) in [(&result.leg.a, &result.a), (&result.leg.b, &result.b)] {
        for filling in fillings {
            let latency = filling.latency();
            let _ = writeln!(
                out,
                "| {} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {:.0} | {:.1} % |",
                server.name,
                latency.p50,
                latency.p99,
                latency.p999,
                latency.p9999,
                latency.max,
                filling.server_cpu_ns as f64 / 1e3 / filling.finished.record.replies().max(1) as f64,
                filling.resident_bytes as f64 / (1 << 20) as f64,
                filling.foreign * 100.0
            );
        }
    }
    let p999 =
        |fillings: &[Filling]| median(&fillings.iter().map(|filling| filling.latency().p999).collect::<Vec<_>>());
    let _ = writeln!(
        out,
        "\np99.9 of {} is {:.3} ms above that of {}.",
        result.leg.b.name,
        p999(&result.b) - p999(&result.a),
        result.leg.a.name
    );
    out
}

fn fill_json(result: &FillResult) -> Value {
    let fillings = |fillings: &[Filling]| {
        let one = |filling: &Filling| {
            let mut value = crate::report::json::test(&filling.finished);
            value["resident_bytes"] = json!(filling.resident_bytes);
            value["server_cpu_ns"] = json!(filling.server_cpu_ns);
            value["foreign_cpu"] = json!(filling.foreign);
            value
        };
        fillings.iter().map(one).collect::<Vec<_>>()
    };
    json!({
        "a": server_json(&result.leg.a),
        "b": server_json(&result.leg.b),
        "fillings_a": fillings(&result.a),
        "fillings_b": fillings(&result.b),
    })
}

fn fill_charts(result: &FillResult) -> Vec<String> {
    let over_time = |title: &str, value: fn(&Percentiles) -> f64| {
        let series = |(server, fillings): (&ServerOptions, &Vec<Filling>)| {
            let intervals = fillings.last().map_or(&[][..], |filling| &filling.finished.intervals);
            let points = intervals.iter().map(|interval| (interval.end_seconds, value(&interval.latency_ms)));
            Series { name: server.name.clone(), points: points.collect() }
        };
        Lines {
            title: title.to_owned(),
            x_label: "seconds",
            y_label: "ms",
            x_scale: Scale::Linear,
            y_scale: Scale::Log,
            series: [(&result.leg.a, &result.a), (&result.leg.b, &result.b)].into_iter().map(series).collect(),
        }
        .draw()
    };
    vec![
        over_time("p99.9 of each second while filling", |latency| latency.p999),
        over_time("Longest of each second while filling", |latency| latency.max),
    ]
}
