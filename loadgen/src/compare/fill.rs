//! Filling an empty server at a fixed pace: does it ever stall? Latency counts from when a request was
//! due, so a stall of a second shows in every request of that second.

use super::accounting::Census;
use super::options::{Checked, Fill, Leg};
use super::round::{self, ours, wait_for_quiet};
use super::server::{Server, ServerOptions};
use super::turns::in_turn;
use crate::failure::Failure;
use crate::keys::Distribution;
use crate::plan::{Arrivals, Pace, Plan, Until};
use crate::report::live::LiveLine;
use crate::report::say;
use crate::run::{self, Finished};
use crate::workload::Action;

/// One filling of one server.
pub struct Filling {
    pub finished: Finished,
    pub resident_bytes: u64,
    pub server_cpu_ns: u64,
    pub foreign: f64,
}

/// The fillings of A and of B.
pub struct FillResult {
    pub leg: Leg,
    pub a: Vec<Filling>,
    pub b: Vec<Filling>,
}

/// In turns, each time a server that was just started.
pub fn measure(leg: &Leg, fill: &Fill, checked: &Checked) -> Result<FillResult, Failure> {
    let mut result = FillResult { leg: leg.clone(), a: Vec::new(), b: Vec::new() };
    for round in 0..checked.pairs {
        for (server, fillings) in in_turn(round, [(&leg.a, &mut result.a), (&leg.b, &mut result.b)]) {
            fillings.push(fill_one(server, fill, checked)?);
        }
    }
    Ok(result)
}

fn fill_one(options: &ServerOptions, fill: &Fill, checked: &Checked) -> Result<Filling, Failure> {
    let server = Server::start(options)?;
    wait_for_quiet(&[&server], checked)?;
    let plan = plan(&server, fill, checked);
    let (census, cpu_ns) = (Census::take(), server.cpu_ns());
    let finished = run::run(&plan, None, &mut LiveLine::new(true))?;
    let foreign = Census::take().foreign_share(&census, &ours(&[&server]));
    if crate::signals::interrupted() {
        return Err(Failure::Interrupted);
    }
    if let Some(error) = &finished.first_error {
        return Err(Failure::Denied {
            endpoint: server.name().to_owned(),
            request: "a SET while it was filled",
            reply: error.reply.clone(),
        });
    }
    let total = run_percentiles(&finished);
    say::tell(format_args!("#   {}: {total}", server.name()));
    Ok(Filling { finished, resident_bytes: server.resident_bytes(), server_cpu_ns: server.cpu_ns() - cpu_ns, foreign })
}

fn run_percentiles(finished: &Finished) -> String {
    let latency = crate::report::Percentiles::of(&finished.record.total().latency_ns);
    format!("p50 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3} ms", latency.p50, latency.p99, latency.p999, latency.max)
}

fn plan(server: &Server, fill: &Fill, checked: &Checked) -> Plan {
    let mut workload = round::workload(vec![(Action::Set, 1)], fill.sizes, fill.keys, Distribution::Sequential);
    workload.name = format!("{}: {} keys at {}/s", server.name(), fill.keys, fill.requests_per_second);
    Plan {
        target: server.target(),
        workload,
        threads: checked.threads,
        cpus: checked.generator_cpus.clone(),
        connections: fill.connections,
        pipeline: fill.pipeline,
        keep_alive: true,
        pace: Pace::Open { requests_per_second: fill.requests_per_second, arrivals: Arrivals::Burst },
        until: Until::Requests(fill.keys),
        seed: round::SEED,
        cluster: false,
        verifier: None,
    }
}
