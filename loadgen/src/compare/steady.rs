//! A steady load that is there before something disturbs its server, and after: an open loop, timed from when each
//! request was due.

use std::fmt::Write as _;
use std::time::Duration;

use super::options::{Cell, Checked};
use super::round;
use super::server::Server;
use crate::failure::Failure;
use crate::generator::Load;
use crate::keys::Distribution;
use crate::plan::{Arrivals, Pace, Plan, Until};
use crate::report::Percentiles;
use crate::workload::{Action, Sizes};

pub const KEYS: u64 = 100_000;
pub const CONNECTIONS: usize = 50;
pub const VALUE_BYTES: usize = 32;
/// Connections are new, caches cold: not looked at.
pub const SETTLING: Duration = Duration::from_secs(1);
/// It is stopped before: this only says that it does not stop by itself.
const LONGEST: Duration = Duration::from_secs(600);

fn cell() -> Cell {
    Cell {
        mix: vec![(Action::Get, 1)],
        pipeline: 1,
        connections: CONNECTIONS,
        sizes: Sizes::Fixed(VALUE_BYTES),
        keys: KEYS,
        distribution: Distribution::Uniform,
    }
}

/// Puts the keys there that will be asked for.
pub fn load_keys(server: &Server, checked: &Checked) -> Result<(), Failure> {
    round::load_keys(server, &cell(), checked)
}

/// The load under way, settled, and nothing of it recorded yet.
pub fn begin(server: &Server, requests_per_second: f64, checked: &Checked) -> Result<Load, Failure> {
    let cell = cell();
    let mut load = Load::connect(Plan {
        target: server.target(),
        workload: round::workload(cell.mix, cell.sizes, cell.keys, cell.distribution),
        threads: checked.threads,
        cpus: checked.generator_cpus.clone(),
        connections: cell.connections,
        pipeline: cell.pipeline,
        keep_alive: true,
        pace: Pace::Open { requests_per_second, arrivals: Arrivals::Poisson },
        until: Until::Time(LONGEST),
        seed: round::SEED,
        cluster: false,
        verifier: None,
    })?;
    load.go();
    super::sleep(SETTLING)?;
    load.cut()?;
    Ok(load)
}

/// What its clients have seen since the last look.
pub fn look(load: &mut Load) -> Result<Percentiles, Failure> {
    Ok(Percentiles::of(&load.cut()?.total().latency_ns))
}

/// A row of the table: who, when, the percentiles, and what else the table has.
pub fn push_row(table: &mut String, server: &str, when: &str, latency: &Percentiles, rest: &str) {
    let Percentiles { p50, p99, p999, max, .. } = latency;
    writeln!(table, "| {server} | {when} | {p50:.3} | {p99:.3} | {p999:.3} | {max:.3} | {rest} |")
        .expect("a string grows");
}
