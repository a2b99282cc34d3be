//! One round: one load on one server, measured between two instants.

use std::time::{Duration, Instant};

use super::accounting::Census;
use super::options::{Cell, Checked};
use super::server::Server;
use super::sleep;
use crate::failure::Failure;
use crate::generator::Load;
use crate::keys::Distribution;
use crate::options::preload_of;
use crate::plan::{Pace, Plan, Until};
use crate::report::{ms, say};
use crate::signals;
use crate::system::Pid;
use crate::workload::{Action, KeyNames, Sizes, Workload};

/// Longer than any round; it is ended from here.
const ENDLESS: Duration = Duration::from_secs(86_400);

#[derive(Clone, Debug)]
pub struct Round {
    pub operations: u64,
    pub seconds: f64,
    pub server_cpu_ns: u64,
    pub generator_cpu_ns: u64,
    pub generator_threads: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    pub resident_bytes: u64,
    pub errors: u64,
    pub hits: u64,
    pub misses: u64,
    /// CPU that others used, as a share of one CPU.
    pub foreign: f64,
}

pub enum Verdict {
    Good,
    Discard(String),
}

impl Round {
    /// Microseconds of server CPU per operation.
    pub fn cpu_us(&self) -> f64 {
        self.server_cpu_ns as f64 / 1e3 / self.operations as f64
    }

    pub fn throughput(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    pub fn server_busy(&self) -> f64 {
        self.server_cpu_ns as f64 / 1e9 / self.seconds
    }

    pub fn generator_busy(&self) -> f64 {
        self.generator_cpu_ns as f64 / 1e9 / self.seconds / self.generator_threads as f64
    }

    pub fn verdict(&self, checked: &Checked) -> Verdict {
        if self.operations == 0 {
            Verdict::Discard("no replies".into())
        } else if self.errors > 0 {
            Verdict::Discard(format!("{} error replies", self.errors))
        } else if self.foreign > checked.foreign_max {
            Verdict::Discard(format!("other processes used {:.0} % of a CPU", self.foreign * 100.0))
        } else {
            Verdict::Good
        }
    }
}

pub const SEED: u64 = 12345;
/// What EXPIRE gives.
const EXPIRE_SECONDS: u32 = 60;
/// Where SET gives a life, it lasts longer than the comparison.
const LIFE_SECONDS: u32 = 3600;

pub fn workload(mix: Vec<(Action, u32)>, sizes: Sizes, keys: u64, distribution: Distribution) -> Workload {
    Workload {
        name: String::new(),
        mix,
        keys,
        distribution,
        distribution_of_reads: None,
        names: KeyNames { prefix: "key:".into(), digits: 12 },
        sizes,
        expire_seconds: EXPIRE_SECONDS,
        set_expires: false,
        fill: false,
        trace: None,
    }
}

fn plan(server: &Server, cell: &Cell, checked: &Checked) -> Plan {
    let (threads, cpus, factor) = match server.own_load() {
        Some(load) => (load.generator_cpus.len(), load.generator_cpus.clone(), load.connections_factor),
        None => (checked.threads, checked.generator_cpus.clone(), 1),
    };
    Plan {
        target: server.target(),
        workload: Workload {
            set_expires: server.sets_expire(),
            expire_seconds: if server.sets_expire() { LIFE_SECONDS } else { EXPIRE_SECONDS },
            ..workload(cell.mix.clone(), cell.sizes, cell.keys, cell.distribution)
        },
        threads,
        cpus,
        connections: cell.connections * factor,
        pipeline: cell.pipeline,
        keep_alive: true,
        pace: Pace::Closed,
        until: Until::Time(ENDLESS),
        seed: SEED,
        cluster: server.is_cluster(),
        verifier: None,
    }
}

/// Sets every key once.
pub fn load_keys(server: &Server, cell: &Cell, checked: &Checked) -> Result<(), Failure> {
    let mut load = Load::connect(preload_of(&plan(server, cell, checked)))?;
    load.go();
    load.finish()?;
    match load.first_error() {
        None => Ok(()),
        Some(error) => Err(Failure::Denied {
            endpoint: server.name().to_owned(),
            request: "a SET while the keys were loaded",
            reply: error.reply,
        }),
    }
}

pub fn run(server: &Server, cell: &Cell, everyone: &[&Server], checked: &Checked) -> Result<Round, Failure> {
    let plan = plan(server, cell, checked);
    let generator_threads = plan.threads;
    let mut load = Load::connect(plan)?;
    load.go();
    sleep(checked.warm_up)?;
    load.cut()?;
    let census = Census::take();
    let (replies, cpu_ns, started) = (load.replies(), server.cpu_ns(), Instant::now());
    sleep(checked.measured)?;
    let (operations, server_cpu_ns, elapsed) = (load.replies() - replies, server.cpu_ns() - cpu_ns, started.elapsed());
    let foreign = Census::take().foreign_share(&census, &ours(everyone));
    let record = load.cut()?;
    let resident_bytes = server.resident_bytes();
    load.stop();
    load.finish()?;
    if let Some(error) = load.first_error() {
        say::tell(format_args!(
            "#   {}: error reply to {}: {}",
            server.name(),
            error.command,
            crate::wire::printable(&error.reply)
        ));
    }
    let latency = record.total().latency_ns;
    let at = |quantile| ms(latency.value_at_quantile(quantile));
    // The cuts of the record lie a little off the instants above; shares of time do not mind.
    let scale = elapsed.as_secs_f64() / record.elapsed.as_secs_f64().max(1e-9);
    Ok(Round {
        operations,
        seconds: elapsed.as_secs_f64(),
        server_cpu_ns,
        generator_cpu_ns: (record.cpu.as_nanos() as f64 * scale) as u64,
        generator_threads,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: ms(latency.max()),
        resident_bytes,
        errors: record.errors(),
        hits: record.hits(),
        misses: record.misses(),
        foreign,
    })
}

/// Waits until others leave the CPUs alone, but not for ever: the round itself is judged as well.
pub fn wait_for_quiet(everyone: &[&Server], checked: &Checked) -> Result<(), Failure> {
    const SAMPLE: Duration = Duration::from_millis(250);
    let started = Instant::now();
    loop {
        let before = Census::take();
        sleep(SAMPLE)?;
        let quiet = Census::take().foreign_share(&before, &ours(everyone)) <= checked.foreign_max;
        if quiet || started.elapsed() > checked.quiet_wait || signals::interrupted() {
            return Ok(());
        }
    }
}

pub fn ours(everyone: &[&Server]) -> Vec<Pid> {
    let mut ours: Vec<Pid> = everyone.iter().flat_map(|server| server.pids()).collect();
    ours.push(std::process::id() as Pid);
    ours
}
