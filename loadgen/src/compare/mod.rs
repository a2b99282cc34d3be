//! `loadgen compare`: two servers, one generator, the same loads in turns, and what the kernel charged
//! each server for them.
//!
//! ```text
//!   start A, A', B ─▶ noise: A A' A' A … ─▶ for each cell of the matrix: load keys, A B B A …
//!                                            └─ round: connect ─ warm up ─│ measured │─ stop
//! ```
//!
//! Throughput says little when the generator is the slower one. So each round reads the CPU clock of
//! the server process at both ends of the measured time and divides by the replies in between.

pub mod accounting;
mod crowd;
mod fill;
mod hit_ratio;
mod memory;
mod options;
pub mod presets;
mod reconnects;
mod recovery;
mod report;
pub mod round;
pub mod server;
pub mod statistics;
mod steady;
mod storm;
mod turns;

use std::path::PathBuf;
use std::time::Duration;

pub use options::CompareOptions;

use crate::failure::Failure;
use crate::report::svg::Bars;
use crate::report::{check_writable, say};
use crate::signals;
use crate::system;
use options::{Cell, Checked, Leg, Subject};
use round::{Round, Verdict};
use server::Server;
use statistics::Ratio;
use turns::in_turn;

/// How often a disturbed pair of rounds is repeated, per pair wanted.
const ATTEMPTS_PER_PAIR: usize = 3;

/// Connecting, waiting for quiet, pausing; only to tell how long it will all take.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(250);

/// Rounds of both servers, in pairs that ran next to each other.
#[derive(Default)]
pub struct Pairs {
    pub a: Vec<Round>,
    pub b: Vec<Round>,
    /// Why pairs were thrown away.
    pub discarded: Vec<String>,
}

pub struct CellResult {
    pub cell: Cell,
    pub pairs: Pairs,
    /// A against A', if asked for.
    pub noise: Option<Pairs>,
}

pub struct LegResult {
    pub leg: Leg,
    /// What A and B say they are.
    pub versions: [Option<String>; 2],
    pub cells: Vec<CellResult>,
}

impl Pairs {
    pub fn ratio(&self, value: impl Fn(&Round) -> f64) -> Option<Ratio> {
        let ratios: Vec<f64> = self.a.iter().zip(&self.b).map(|(a, b)| value(b) / value(a)).collect();
        Ratio::of(&ratios)
    }
}

pub fn run(options: &CompareOptions) -> Result<(), CompareError> {
    let checked = options.check().map_err(CompareError::Usage)?;
    measure_all(&checked).map_err(CompareError::Failed)
}

pub enum CompareError {
    Usage(String),
    Failed(Failure),
}

fn measure_all(checked: &Checked) -> Result<(), Failure> {
    // This thread wakes up now and then; it shall not do so beside the server.
    system::pin_this_thread(&checked.generator_cpus)
        .map_err(|error| Failure::system(format!("cannot run on CPUs {:?}", checked.generator_cpus), error))?;
    check_writable([&checked.json, &checked.markdown, &checked.svg].into_iter().flatten().map(PathBuf::as_path))?;
    match &checked.subject {
        Subject::Cells => measure_cells(checked),
        Subject::Memory { keys } => memory::measure(*keys, checked),
        Subject::Recovery { keyspaces } => recovery::measure(keyspaces, checked),
        Subject::Storm { keys, requests_per_second } => storm::measure(*keys, *requests_per_second, checked),
        Subject::Crowd { subscribers } => crowd::measure(*subscribers, checked),
        Subject::Reconnects { per_second, requests_per_second } => {
            reconnects::measure(*per_second, *requests_per_second, checked)
        }
        Subject::HitRatio { traces, shares } => hit_ratio::measure(traces, shares, checked),
        Subject::Fill(fill) => {
            let results: Result<Vec<_>, _> = checked.legs.iter().map(|leg| fill::measure(leg, fill, checked)).collect();
            report::write_fills(checked, fill, &results?)
        }
    }
}

fn measure_cells(checked: &Checked) -> Result<(), Failure> {
    let rounds = checked.legs.len() * checked.cells.len() * 2 * (checked.pairs + checked.noise_pairs);
    let seconds = rounds as f64 * (checked.warm_up + checked.measured + BETWEEN_ROUNDS).as_secs_f64();
    say::tell(format_args!(
        "# {} cells, {rounds} rounds: about {:.1} minutes, and what loading takes",
        checked.cells.len(),
        seconds / 60.0
    ));
    let mut results = Vec::new();
    let outcome = checked.legs.iter().try_for_each(|leg| measure(leg, checked, &mut results));
    // What was measured before something went wrong is worth having.
    if results.iter().any(|result: &LegResult| !result.cells.is_empty()) {
        report::write(checked, &results)?;
    }
    outcome?;
    let empty = |result: &CellResult| result.pairs.a.is_empty();
    match results.iter().flat_map(|result| &result.cells).filter(|cell| empty(cell)).count() {
        0 => Ok(()),
        count => Err(Failure::system("not measured", format!("{count} cells without any undisturbed pair of rounds"))),
    }
}

fn measure(leg: &Leg, checked: &Checked, results: &mut Vec<LegResult>) -> Result<(), Failure> {
    let a = Server::start(&leg.a)?;
    let twin = match checked.noise_pairs {
        0 => None,
        _ => Some(Server::start(&leg.a)?),
    };
    let b = Server::start(&leg.b)?;
    let everyone: Vec<&Server> = [Some(&a), twin.as_ref(), Some(&b)].into_iter().flatten().collect();
    results.push(LegResult { leg: leg.clone(), versions: [a.version(), b.version()], cells: Vec::new() });
    let cells = &mut results.last_mut().expect("just pushed").cells;
    everyone.iter().try_for_each(|server| server.pause())?;

    let mut loaded = None;
    for cell in &checked.cells {
        let data = (cell.keys, cell.sizes.to_string());
        if loaded.as_ref() != Some(&data) {
            for server in &everyone {
                say::tell(format_args!("# {}: loading {} keys of {} bytes", server.name(), cell.keys, cell.sizes));
                server.resume()?;
                server.empty()?;
                round::load_keys(server, cell, checked)?;
                server.pause()?;
            }
            loaded = Some(data);
        }
        say::tell(format_args!("# {cell}"));
        let noise = match &twin {
            Some(twin) => Some(pairs_of(&a, twin, cell, checked.noise_pairs, &everyone, checked)?),
            None => None,
        };
        let pairs = pairs_of(&a, &b, cell, checked.pairs, &everyone, checked)?;
        report::progress(leg, &pairs, noise.as_ref());
        cells.push(CellResult { cell: cell.clone(), pairs, noise });
    }
    Ok(())
}

/// As many undisturbed pairs of rounds as are wanted.
fn pairs_of(
    a: &Server,
    b: &Server,
    cell: &Cell,
    wanted: usize,
    everyone: &[&Server],
    checked: &Checked,
) -> Result<Pairs, Failure> {
    let mut pairs = Pairs::default();
    for attempt in 0..wanted * ATTEMPTS_PER_PAIR {
        if pairs.a.len() == wanted {
            break;
        }
        round::wait_for_quiet(everyone, checked)?;
        let mut rounds = Vec::with_capacity(2);
        for server in in_turn(attempt, [a, b]) {
            server.resume()?;
            rounds.push(round::run(server, cell, everyone, checked)?);
            server.pause()?;
        }
        let [of_a, of_b] = in_turn(attempt, <[Round; 2]>::try_from(rounds).expect("two rounds were run"));
        match (of_a.verdict(checked), of_b.verdict(checked)) {
            (Verdict::Good, Verdict::Good) => {
                pairs.a.push(of_a);
                pairs.b.push(of_b);
            }
            (Verdict::Discard(why), _) | (_, Verdict::Discard(why)) => {
                say::tell(format_args!("#   discarded: {why}"));
                pairs.discarded.push(why);
            }
        }
    }
    Ok(pairs)
}

/// What a subject of its own has found: a table, the same for machines, and a chart.
struct Findings {
    table: String,
    rows: Vec<serde_json::Value>,
    chart: Bars,
}

impl Findings {
    /// To the terminal and to the files that were asked for.
    fn publish(&self, checked: &Checked) -> Result<(), Failure> {
        let value = serde_json::json!({
            "machine": report::machine(),
            "command": report::command(),
            "rows": self.rows,
        });
        report::save(checked, std::slice::from_ref(&self.table), &value, &[self.chart.draw()])
    }
}

/// Sleeps in small steps, so that an interrupt is noticed.
pub fn sleep(time: Duration) -> Result<(), Failure> {
    const STEP: Duration = Duration::from_millis(20);
    let started = std::time::Instant::now();
    loop {
        if signals::interrupted() {
            return Err(Failure::Interrupted);
        }
        match time.checked_sub(started.elapsed()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(STEP)),
            _ => return Ok(()),
        }
    }
}
