//! A core's log between its turns: what the engine's writer wants done goes to the driver, what is done comes back;
//! before that, recovery; at the end, the last flush.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Plan;
use super::directory::layout_path;
use super::driver::{self, Driver};
use super::recovery::Recovery;
use crate::engine::Engine;
use crate::hash::KeyHasher;
use crate::runtime::background::{Background, UnderWay};
use crate::runtime::ring::NetRing;
use crate::wal::writer::{Operation, Work};

/// How often progress is logged, and drawn on a terminal.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const DRAW_EVERY: Duration = Duration::from_millis(100);
const BAR_WIDTH: u64 = 30;

pub struct CoreLog {
    plan: Arc<Plan>,
    core: u32,
    driver: Driver,
    /// What the ring is doing: place there, operation.
    on_ring: Vec<(u32, Operation)>,
    recovery: Option<Box<Recovery>>,
    /// As long as recovery is under way the executor has to be let in.
    under_way: Option<UnderWay>,
    started: Instant,
    reported: Instant,
    drawn: Instant,
    ending: Ending,
    /// What was said last about writes that cannot be logged.
    trouble: Trouble,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    NoSpace,
    Failed,
}

/// The last things of a log.
enum Ending {
    No,
    /// All that was logged has to be durable …
    Flushing(u64),
    /// … before the record that says so is.
    Closing(u64),
    Done,
}

impl CoreLog {
    pub async fn start(plan: Arc<Plan>, core: u32, hasher: KeyHasher, background: &Background) -> io::Result<CoreLog> {
        let [valid, unfinished] = [false, true].map(|new| layout_path(&plan.directory, plan.layout(), new));
        let driver = Driver::start(valid, unfinished, core, background.clone()).await?;
        let recovery = Recovery::begin(plan.clone(), core, hasher, background);
        let now = Instant::now();
        Ok(CoreLog {
            plan,
            core,
            driver,
            on_ring: Vec::new(),
            recovery: Some(Box::new(recovery)),
            under_way: Some(background.begin()),
            started: now,
            reported: now,
            drawn: now,
            ending: Ending::No,
            trouble: Trouble::None,
        })
    }

    pub fn is_loading(&self) -> bool {
        self.recovery.is_some()
    }

    /// The operation that the ring has given this place has ended.
    pub fn file_done(&mut self, place: u32, result: i32, engine: &mut Engine) {
        let Some(at) = self.on_ring.iter().position(|&(other, _)| other == place) else { return };
        let (_, Operation { id, work }) = self.on_ring.swap_remove(at);
        let outcome = driver::outcome(&work, result);
        engine.operation_done(id, work, outcome);
    }

    /// The turn's part. True when recovery has just ended.
    pub fn turn(&mut self, engine: &mut Engine, ring: &mut NetRing) -> io::Result<bool> {
        while let Some((id, work, result)) = self.driver.done() {
            engine.operation_done(id, work, result);
        }
        let mut has_loaded = false;
        if let Some(recovery) = &mut self.recovery {
            if let Err(why) = recovery.step(engine) {
                self.plan.progress.failed.fetch_add(1, Ordering::AcqRel);
                self.draw_end();
                return Err(io::Error::other(why));
            }
            if recovery.is_done() {
                self.recovery = None;
                self.under_way = None;
                engine.set_loading(false);
                has_loaded = true;
            }
            self.report(has_loaded);
        }
        engine.tend_log();
        self.tell_of_trouble(engine);
        let out = self.on_ring.len();
        while let Some(operation) = engine.next_operation() {
            self.submit(operation, ring);
        }
        if self.on_ring.len() > out {
            ring.begin_files()?;
        }
        Ok(has_loaded)
    }

    fn submit(&mut self, operation: Operation, ring: &mut NetRing) {
        let place = match &operation.work {
            Work::Prepare { .. } | Work::Remove { .. } => return self.driver.submit(operation),
            Work::Write { file, offset, bytes, durable } => {
                let file = self.driver.file(*file);
                let buffer = driver::buffer_of(&file, bytes);
                ring.write_file(file, buffer, *offset, *durable)
            }
            Work::Sync { file } => ring.sync_file(self.driver.file(*file)),
        };
        self.on_ring.push((place, operation));
    }

    fn tell_of_trouble(&mut self, engine: &Engine) {
        let Some(log) = engine.log() else { return };
        let trouble = match (log.writer.failure(), log.writer.refuses()) {
            (Some(_), _) => Trouble::Failed,
            (None, true) => Trouble::NoSpace,
            (None, false) => Trouble::None,
        };
        // While the next segment is being made nothing is known.
        if trouble == std::mem::replace(&mut self.trouble, trouble) {
            return;
        }
        let (core, path) = (self.core, &log.path);
        match trouble {
            Trouble::Failed => tracing::error!(
                "core {core}: the log in {path} has failed ({}): writes are refused until the server is restarted, \
                 reads go on",
                log.writer.failure().unwrap_or_default()
            ),
            Trouble::NoSpace if log.writer.is_ready() => {
                tracing::error!("core {core}: no space left for the log in {path}: writes are refused until there is");
            }
            Trouble::NoSpace => {}
            Trouble::None => tracing::info!("core {core}: there is space for the log in {path} again"),
        }
    }

    /// Whether the turn goes on without waiting for anybody.
    pub fn has_work(&self) -> bool {
        self.driver.has_done() || self.recovery.as_ref().is_some_and(|recovery| recovery.is_busy())
    }

    /// Whether the executor has to be let in even when the core is busy.
    pub fn needs_executor(&self) -> bool {
        self.driver.is_busy() || self.recovery.is_some()
    }

    pub async fn wait(&self) {
        self.driver.wait_done().await;
    }

    /// Brings the log to its end. True when it is there.
    pub fn end(&mut self, engine: &mut Engine) -> bool {
        let now = engine.now();
        let Some(log) = engine.log_mut() else { return true };
        if log.writer.failure().is_some() || self.recovery.is_some() || !log.writer.is_ready() {
            return true;
        }
        match self.ending {
            Ending::No => self.ending = Ending::Flushing(log.writer.sync_all()),
            Ending::Flushing(group) if log.writer.durable() >= group => {
                self.ending = Ending::Closing(log.writer.finish(now));
            }
            Ending::Closing(group) if log.writer.durable() >= group => self.ending = Ending::Done,
            _ => {}
        }
        matches!(self.ending, Ending::Done) && !self.driver.is_busy() && self.on_ring.is_empty()
    }

    /// Tells how far loading is; one core does it for all.
    fn report(&mut self, has_loaded: bool) {
        if self.core != 0 {
            return;
        }
        let progress = &self.plan.progress;
        let (bytes, total) = (progress.bytes.load(Ordering::Relaxed), progress.bytes_total.load(Ordering::Relaxed));
        let records = progress.records.load(Ordering::Relaxed);
        let elapsed = self.started.elapsed();
        let per_second = records as f64 / elapsed.as_secs_f64().max(0.001);
        if has_loaded {
            self.draw_end();
            if total > 0 {
                tracing::info!(
                    "recovered {} changes from {records} records, {} MiB, in {} ms ({per_second:.0} records/s)",
                    progress.changes.load(Ordering::Relaxed),
                    bytes >> 20,
                    elapsed.as_millis()
                );
            }
            return;
        }
        let loading = Loading { bytes, total, records, elapsed };
        if self.drawn.elapsed() >= DRAW_EVERY && io::stderr().is_terminal() {
            self.drawn = Instant::now();
            let _ = write!(io::stderr(), "\r{} ", loading.bar());
        }
        if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            tracing::info!("{}", loading.line());
        }
    }

    fn draw_end(&self) {
        if self.core == 0 && self.drawn != self.started && io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// How far loading is.
struct Loading {
    bytes: u64,
    total: u64,
    records: u64,
    elapsed: Duration,
}

impl Loading {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64().max(0.001)
    }

    /// If it goes on as it went.
    fn seconds_left(&self) -> f64 {
        self.total.saturating_sub(self.bytes) as f64 / self.per_second(self.bytes.max(1))
    }

    fn line(&self) -> String {
        format!(
            "loading: {} of {} MiB, {} records, {:.0} records/s, about {:.0} s left",
            self.bytes >> 20,
            self.total >> 20,
            self.records,
            self.per_second(self.records),
            self.seconds_left()
        )
    }

    fn bar(&self) -> String {
        let done = (BAR_WIDTH * self.bytes / self.total.max(1)).min(BAR_WIDTH) as usize;
        let bar = "#".repeat(done) + &".".repeat(BAR_WIDTH as usize - done);
        format!("loading [{bar}] {} records, {:.0} s left", self.records, self.seconds_left())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_the_rate_and_what_is_left() {
        let quarter = Loading { bytes: 25 << 20, total: 100 << 20, records: 500_000, elapsed: Duration::from_secs(2) };
        assert_eq!(quarter.line(), "loading: 25 of 100 MiB, 500000 records, 250000 records/s, about 6 s left");
        let bar = format!("loading [{}{}] 500000 records, 6 s left", "#".repeat(7), ".".repeat(23));
        assert_eq!(quarter.bar(), bar);
        let begun = Loading { bytes: 0, total: 0, records: 0, elapsed: Duration::ZERO };
        assert!(begun.line().ends_with("about 0 s left") && begun.bar().contains(&".".repeat(30)));
        let done = Loading { bytes: 100 << 20, ..quarter };
        assert!(done.bar().starts_with(&format!("loading [{}]", "#".repeat(30))) && done.bar().ends_with("0 s left"));
    }
}
