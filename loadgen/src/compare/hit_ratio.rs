//! `loadgen compare hit-ratio`: recorded accesses replayed through real servers of equal memory, as a cache in front of
//! something slower is used: GET, and on a miss SET.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::Findings;
use super::options::Checked;
use super::presets::HIT_RATIO_CEILING;
use super::round;
use super::server::{Server, ServerOptions};
use crate::failure::Failure;
use crate::keys::Distribution;
use crate::plan::{Pace, Plan, Until};
use crate::report::live::LiveLine;
use crate::report::say;
use crate::report::svg::{Bar, Bars};
use crate::run;
use crate::signals;
use crate::trace::Trace;
use crate::workload::{Action, Sizes};

/// What is left of the ceiling for keys and values, roughly, in any of the servers.
const PAYLOAD_SHARE: f64 = 0.85;
const KEY_BYTES: f64 = 16.0;
/// So few that the order of the trace is nearly kept.
const CONNECTIONS: usize = 4;

/// Replays each trace through each server, just started, with values of such a size that the share of the trace's keys
/// that is wanted fits into its memory.
pub fn measure(traces: &[PathBuf], shares: &[f64], checked: &Checked) -> Result<(), Failure> {
    let mut servers: Vec<&ServerOptions> = Vec::new();
    for server in checked.legs.iter().flat_map(|leg| [&leg.a, &leg.b]) {
        if servers.iter().all(|other| other.name != server.name) {
            servers.push(server);
        }
    }
    let mut table = format!(
        "Share of GETs that were hits, in percent; each server has {} MiB of memory, values are as large as makes about \
         {:.0} % of it hold so many. {CONNECTIONS} connections, no pipeline.\n\n| trace | entries | value, B |",
        HIT_RATIO_CEILING >> 20,
        PAYLOAD_SHARE * 100.0
    );
    servers.iter().for_each(|server| write!(table, " {} |", server.name).expect("a string grows"));
    table.push_str("\n|---|--:|--:|");
    servers.iter().for_each(|_| table.push_str("--:|"));
    table.push('\n');
    let mut rows = Vec::new();
    let mut groups = Vec::new();
    for path in traces {
        let trace = Trace::load(path).map_err(|error| Failure::system("cannot read the trace", error))?;
        if trace.sized {
            return Err(Failure::system(path.display().to_string(), "its values have sizes of their own"));
        }
        let trace = Arc::new(trace);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.split('.').next().unwrap_or_default();
        for share in shares {
            let entries = (trace.unique as f64 * share).round().max(1.0);
            let value_bytes = (HIT_RATIO_CEILING as f64 * PAYLOAD_SHARE / entries - KEY_BYTES).max(1.0) as usize;
            write!(table, "| {name} | {entries} | {value_bytes} |").expect("a string grows");
            let mut bars = Vec::new();
            for options in &servers {
                let ratio = replay(options, &trace, value_bytes, checked)? * 100.0;
                say::tell(format_args!("# {name}, {entries} entries, {}: {ratio:.2} %", options.name));
                write!(table, " {ratio:.2} |").expect("a string grows");
                rows.push(json!({
                    "trace": name,
                    "entries": entries,
                    "value_bytes": value_bytes,
                    "server": options.name,
                    "hit_percent": ratio,
                }));
                bars.push(Bar { value: ratio, interval: None });
            }
            groups.push((format!("{name}\n{entries} entries"), bars));
            table.push('\n');
        }
    }
    let series = servers.iter().map(|server| server.name.clone()).collect();
    let title = "Share of GETs that were hits".into();
    Findings { table, rows, chart: Bars { title, y_label: "percent", series, groups } }.publish(checked)
}

fn replay(options: &ServerOptions, trace: &Arc<Trace>, value_bytes: usize, checked: &Checked) -> Result<f64, Failure> {
    let server = Server::start(options)?;
    let mut workload =
        round::workload(vec![(Action::Get, 1)], Sizes::Fixed(value_bytes), trace.unique, Distribution::Sequential);
    workload.name = server.name().to_owned();
    (workload.fill, workload.trace) = (true, Some(trace.clone()));
    let plan = Plan {
        target: server.target(),
        workload,
        threads: 1,
        cpus: checked.generator_cpus.clone(),
        connections: CONNECTIONS,
        pipeline: 1,
        keep_alive: true,
        pace: Pace::Closed,
        until: Until::Requests(trace.len()),
        seed: round::SEED,
        cluster: false,
        verifier: None,
    };
    let finished = run::run(&plan, None, &mut LiveLine::new(true))?;
    if signals::interrupted() {
        return Err(Failure::Interrupted);
    }
    if let Some(error) = &finished.first_error {
        return Err(Failure::Denied {
            endpoint: server.name().to_owned(),
            request: "a request of the trace",
            reply: error.reply.clone(),
        });
    }
    let (hits, misses) = (finished.record.hits(), finished.record.misses());
    Ok(hits as f64 / (hits + misses).max(1) as f64)
}
