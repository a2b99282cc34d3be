//! `loadgen soak`: a long, paced, verified load with everything beside it that wears a server down, and the
//! question whether anything grew meanwhile.
//!
//! ```text
//!   start ─▶ at rest ─▶ load keys ─▶ ┌ paced load, verified ┐ ─▶ all hang up ─▶ at rest ─▶ verdict
//!                                    │ expiry storms        │
//!                                    │ churn                │  a sample of the server per second
//!                                    │ slow readers         │
//!                                    └ INFO and STATS       ┘
//! ```

mod disturbances;
mod options;
mod report;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use options::SoakOptions;

use crate::compare::accounting::Census;
use crate::compare::server::Server;
use crate::compare::{round, sleep};
use crate::failure::Failure;
use crate::generator::Load;
use crate::keys::Distribution;
use crate::options::preload_of;
use crate::plan::{Arrivals, Pace, Plan, Until};
use crate::random::mix;
use crate::record::Record;
use crate::report::{Percentiles, check_writable};
use crate::session::Session;
use crate::verify::Verifier;
use crate::workload::Action;
use disturbances::Disturbances;
use options::Checked;
use verdict::{Finding, Rest, Sample};

const EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY: usize = 10;
/// How long closed connections may take to be noticed.
const HANG_UP_WAIT: Duration = Duration::from_secs(10);
const PIPELINE: usize = 16;

/// What a soak came to.
struct Soaked {
    samples: Vec<Sample>,
    record: Record,
    findings: Vec<Finding>,
    before: Rest,
    after: Rest,
    /// What was wrong beside what grew.
    faults: Vec<String>,
}

/// Whether all was flat and right.
pub fn run(options: &SoakOptions) -> Result<Result<bool, Failure>, String> {
    let checked = options.check()?;
    Ok(soak(&checked))
}

fn soak(checked: &Checked) -> Result<bool, Failure> {
    check_writable([&checked.json, &checked.svg].into_iter().flatten().map(|path| path.as_path()))?;
    let server = Server::start(&checked.server)?;
    let plan = plan(&server, checked);
    let before = at_rest(&server, Duration::ZERO, |_| true)?;
    let mut loading = Load::connect(preload_of(&plan))?;
    loading.go();
    loading.finish()?;

    let disturbances = Disturbances::new(server.target());
    let mut samples = Vec::new();
    let record = disturbances.run(|| watch(&server, &plan, &disturbances, &mut samples))?;
    if crate::signals::interrupted() {
        return Err(Failure::Interrupted);
    }
    let gone = |rest: &Rest| rest.descriptors <= before.descriptors && rest.clients <= before.clients;
    let after = at_rest(&server, HANG_UP_WAIT, gone)?;
    let findings = verdict::judge(&samples, before, after, checked.slack);
    let faults = faults(&server, &plan, &record, &disturbances)?;
    let soaked = Soaked { samples, record, findings, before, after, faults };
    report::write(checked, &soaked, &disturbances)?;
    Ok(soaked.faults.is_empty() && soaked.findings.iter().all(Finding::is_flat))
}

fn plan(server: &Server, checked: &Checked) -> Plan {
    let mix_of = [
        (Action::Set, 8),
        (Action::Get, 16),
        (Action::MGet(5), 1),
        (Action::MSet(5), 1),
        (Action::Incr, 2),
        (Action::Del, 1),
        (Action::Expire, 1),
    ];
    let mut workload = round::workload(mix_of.to_vec(), checked.sizes, checked.keys, Distribution::Uniform);
    workload.name = "soak".into();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let verifier = Verifier::new(mix(now.as_nanos() as u64) as u32, checked.keys, checked.connections);
    Plan {
        target: server.target(),
        workload,
        threads: 1,
        cpus: Vec::new(),
        connections: checked.connections,
        pipeline: PIPELINE,
        keep_alive: true,
        pace: Pace::Open { requests_per_second: checked.requests_per_second, arrivals: Arrivals::Poisson },
        until: Until::Time(checked.time),
        seed: round::SEED,
        cluster: false,
        verifier: Some(Arc::new(verifier)),
    }
}

/// The load, and a sample of the server per second.
fn watch(
    server: &Server,
    plan: &Plan,
    disturbances: &Disturbances,
    samples: &mut Vec<Sample>,
) -> Result<Record, Failure> {
    let mut load = Load::connect(plan.clone())?;
    load.go();
    let mut total = Record::new(plan.record_commands());
    let mut census = Census::take();
    while !load.is_over() {
        // An interrupt is the end of the load, not of what has been measured.
        if sleep(EVERY).is_err() {
            load.stop();
        }
        if let Some(failure) = disturbances.failure() {
            return Err(failure);
        }
        if load.is_over() {
            break;
        }
        let record = load.cut()?;
        total.merge_following(&record);
        let latency = Percentiles::of(&record.total().latency_ns);
        let before = std::mem::replace(&mut census, Census::take());
        samples.push(Sample {
            seconds: load.elapsed().as_secs_f64(),
            resident_bytes: server.resident_bytes(),
            descriptors: server.descriptors(),
            replies_per_second: record.replies_per_second(),
            p99_ms: latency.p99,
            p999_ms: latency.p999,
            max_ms: latency.max,
            foreign: census.foreign_share(&before, &round::ours(&[server])),
        });
        if samples.len().is_multiple_of(TELL_EVERY) {
            report::progress(samples.last().expect("just pushed"), disturbances);
        }
    }
    total.merge_following(&load.finish()?);
    Ok(total)
}

/// The server as nobody's but ours, once `settled` says so or `patience` is over.
fn at_rest(server: &Server, patience: Duration, settled: impl Fn(&Rest) -> bool) -> Result<Rest, Failure> {
    let started = Instant::now();
    loop {
        let info = Session::open(&server.target())?.ask("INFO", &["INFO", "clients"])?;
        let rest = Rest {
            descriptors: server.descriptors(),
            clients: field(&info, "connected_clients:").unwrap_or(0),
            resident_bytes: server.resident_bytes(),
        };
        if settled(&rest) || started.elapsed() >= patience {
            return Ok(rest);
        }
        sleep(Duration::from_millis(100))?;
    }
}

/// A number of INFO.
fn field(info: &[u8], name: &str) -> Option<u64> {
    let text = String::from_utf8_lossy(info);
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn faults(server: &Server, plan: &Plan, record: &Record, disturbances: &Disturbances) -> Result<Vec<String>, Failure> {
    let mut faults = Vec::new();
    if record.errors() > 0 {
        faults.push(format!("{} error replies", record.errors()));
    }
    if let Some(verifier) = plan.verifier.as_ref().filter(|verifier| verifier.faults() > 0) {
        faults.extend(verifier.report());
    }
    // The last storm may still be going on.
    let must_be_gone = disturbances.keys_stormed() / 2;
    let expired = Session::open(&server.target())?.ask("INFO", &["INFO", "stats"])?;
    match field(&expired, "expired_keys:") {
        Some(expired) if expired >= must_be_gone => {}
        Some(expired) => faults.push(format!("only {expired} keys have expired, of {must_be_gone} at least")),
        None => faults.push("INFO stats has no expired_keys".into()),
    }
    Ok(faults)
}
