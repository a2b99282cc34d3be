//! What a core does before it serves: reads what it owns out of the old log, has its own log ready, and waits for
//! the others. The files are read by a task, segment after segment and one ahead; the records are applied by the
//! core's turn, a bounded number at a time, so that clients are answered meanwhile.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};

use glommio::io::DmaFile;

use super::super::background::Background;
use super::Plan;
use super::directory::{self, FileSystem, file_name};
use super::driver::into_io;
use crate::engine::Engine;
use crate::engine::journal::Log;
use crate::hash::KeyHasher;
use crate::slot::{owner_of_slot, slot_of};
use crate::store::Displaced;
use crate::wal::reader::{Damage, Found, Item, Place, SegmentFile, Walker};
use crate::wal::replay::Replay;
use crate::wal::survey::{self, Survey};
use crate::wal::writer::{Resumed, Writer};

/// Records applied in one turn.
const RECORDS_PER_TURN: usize = 2_000;
/// Records looked at in one turn before.
const SURVEYED_PER_TURN: usize = 10_000;
/// Keys copied in one turn of a rewrite, in bytes.
const REWRITTEN_PER_TURN: u64 = 512 * 1024;
/// Keys looked at in one turn for whether they have expired.
const EXPIRED_PER_TURN: usize = 20_000;
/// One read.
const READ_BYTES: usize = 1024 * 1024;
/// Segments read ahead of the one that is applied.
const READ_AHEAD: usize = 2;

/// Segments on their way from disk.
#[derive(Default)]
struct Shelf {
    wanted: VecDeque<(u32, u32, u64)>,
    ready: VecDeque<(u32, u32, Rc<Vec<u8>>)>,
    failed: Option<String>,
    waker: Option<Waker>,
    ended: bool,
}

enum State {
    /// The ends of some old logs are looked through for transactions.
    Surveying,
    /// So they are on the other cores.
    Comparing,
    Reading,
    Expiring,
    /// All own keys are there; the log they go to is being made ready.
    Opening,
    /// All keys are written to a new layout.
    Rewriting {
        to: u64,
    },
    /// What was written has to be durable.
    Settling {
        group: u64,
    },
    /// The other cores are waited for.
    Waiting,
    Done,
}

pub struct Recovery {
    plan: Arc<Plan>,
    core: u32,
    hasher: KeyHasher,
    shelf: Rc<RefCell<Shelf>>,
    state: State,
    /// The old cores whose logs have keys of ours, the one being read first.
    logs: VecDeque<u32>,
    walker: Option<Walker>,
    current: Option<(u32, u32, Rc<Vec<u8>>)>,
    replay: Replay,
    displaced: Displaced,
    resumed: Resumed,
    found: Vec<(u32, Found)>,
    /// The old logs that this core looks through, the one being looked through first.
    surveyed: VecDeque<u32>,
    survey: Survey,
    /// Where old logs end because transactions are not whole behind there, by old core.
    cuts: BTreeMap<u32, (u64, usize)>,
}

impl Recovery {
    pub fn begin(plan: Arc<Plan>, core: u32, hasher: KeyHasher, background: &Background) -> Recovery {
        let shelf = Rc::new(RefCell::new(Shelf::default()));
        let logs: VecDeque<u32> = match &plan.old {
            None => VecDeque::new(),
            Some(old) => (0..old.cores).filter(|&from| overlaps(from, old.cores, core, plan.cores)).collect(),
        };
        // Each log is looked through by one core; only those of several cores have to agree.
        let surveyed: VecDeque<u32> = match &plan.old {
            Some(old) if old.cores > 1 => (0..old.cores).filter(|from| from % plan.cores == core).collect(),
            _ => VecDeque::new(),
        };
        let mut recovery = Recovery {
            core,
            hasher,
            shelf,
            state: if surveyed.is_empty() { State::Comparing } else { State::Surveying },
            walker: None,
            current: None,
            replay: Replay::default(),
            displaced: Displaced::default(),
            resumed: Resumed::default(),
            found: Vec::new(),
            surveyed,
            survey: Survey::default(),
            cuts: BTreeMap::new(),
            logs,
            plan,
        };
        if recovery.surveyed.is_empty() {
            recovery.plan.progress.surveyed.fetch_add(1, Ordering::AcqRel);
        }
        recovery.begin_survey();
        if let Some(old) = &recovery.plan.old {
            let path = old.path.clone();
            let shelf = recovery.shelf.clone();
            let under_way = background.begin();
            glommio::spawn_local(async move {
                read_segments(&path, &shelf).await;
                drop(under_way);
            })
            .detach();
        }
        recovery
    }

    fn begin_survey(&mut self) {
        let Some(&from) = self.surveyed.front() else { return };
        self.survey = Survey::default();
        let walker = self.walker(from).at_the_end();
        self.begin_walk(from, walker, false);
    }

    fn begin_log(&mut self) {
        let Some(&from) = self.logs.front() else {
            self.shelf.borrow_mut().end();
            return;
        };
        let walker = self.walker(from).until(self.cuts.get(&from).map(|&(cut, _)| cut));
        self.replay = Replay::default();
        self.begin_walk(from, walker, true);
    }

    fn walker(&self, from: u32) -> Walker {
        let old = self.plan.old.as_ref().expect("there are logs to read");
        Walker::new(old.segments.get(&from).cloned().unwrap_or_default(), self.plan.salvage)
    }

    fn begin_walk(&mut self, from: u32, walker: Walker, counts: bool) {
        let mut shelf = self.shelf.borrow_mut();
        shelf.ready.clear();
        shelf.wanted.clear();
        // Those without a record, too: their first one may be what is damaged.
        let skipped = walker.wanted().unwrap_or(0);
        for segment in &walker.segments()[skipped..] {
            let bytes = segment.header.segment_bytes;
            if counts {
                self.plan.progress.bytes_total.fetch_add(bytes, Ordering::Relaxed);
            }
            shelf.wanted.push_back((from, segment.file, bytes));
        }
        shelf.wake();
        drop(shelf);
        self.walker = Some(walker);
        self.current = None;
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether a turn has something to do now, other than wait.
    pub fn is_busy(&self) -> bool {
        match self.state {
            State::Surveying => self.current.is_some() || !self.shelf.borrow().ready.is_empty(),
            State::Reading => self.current.is_some() || !self.shelf.borrow().ready.is_empty() || self.logs.is_empty(),
            State::Expiring | State::Rewriting { .. } => true,
            _ => false,
        }
    }

    /// One turn's part.
    pub fn step(&mut self, engine: &mut Engine) -> Result<(), String> {
        match self.state {
            State::Surveying => self.survey_some()?,
            State::Comparing if self.plan.progress.all(&self.plan.progress.surveyed, self.plan.cores) => {
                self.compare();
                self.state = State::Reading;
                self.begin_log();
            }
            State::Comparing if self.plan.progress.failed.load(Ordering::Acquire) > 0 => {
                return Err("another core cannot recover".into());
            }
            State::Comparing => {}
            State::Reading if self.logs.is_empty() => self.state = State::Expiring,
            // What has expired meanwhile is not shown to anybody, not even counted.
            State::Expiring if engine.tick(EXPIRED_PER_TURN) >= EXPIRED_PER_TURN => {}
            State::Expiring => {
                self.plan.progress.read.fetch_add(1, Ordering::AcqRel);
                self.open_log(engine);
            }
            State::Reading => self.read_some(engine)?,
            State::Opening => {
                let all_read = self.plan.progress.all(&self.plan.progress.read, self.plan.cores);
                let Some(log) = engine.log_mut() else { return Ok(()) };
                if let Some(why) = log.writer.failure() {
                    return Err(why.to_owned());
                }
                if !log.writer.is_ready() || !all_read {
                    return Ok(());
                }
                if self.plan.rewrites || self.displaced.keys.len() > DISPLACED_MAX {
                    let to = log.writer.progress() + crate::wal::writer::ROUND;
                    self.state = State::Rewriting { to };
                } else {
                    engine.log_displaced(&self.displaced);
                    self.settle(engine);
                }
            }
            State::Rewriting { to } => {
                engine.log_all_keys(REWRITTEN_PER_TURN);
                let Some(log) = engine.log() else { return Ok(()) };
                if let Some(why) = log.writer.failure() {
                    return Err(why.to_owned());
                }
                if log.writer.refuses() {
                    return Err(format!("no space to divide the log in {} anew", log.path));
                }
                if log.writer.progress() >= to {
                    self.settle(engine);
                }
            }
            State::Settling { group } => {
                let Some(log) = engine.log() else { return Ok(()) };
                if let Some(why) = log.writer.failure() {
                    return Err(why.to_owned());
                }
                if log.writer.durable() >= group {
                    let written = self.plan.progress.written.fetch_add(1, Ordering::AcqRel) + 1;
                    // The last one makes it count.
                    if written == self.plan.cores as usize {
                        self.finish_directory()?;
                        self.plan.progress.ready.fetch_add(1, Ordering::AcqRel);
                    }
                    self.state = State::Waiting;
                }
            }
            State::Waiting if self.plan.progress.ready.load(Ordering::Acquire) > 0 => {
                self.displaced.keys = Vec::new();
                self.state = State::Done;
            }
            State::Waiting if self.plan.progress.failed.load(Ordering::Acquire) > 0 => {
                return Err("another core cannot recover".into());
            }
            State::Waiting | State::Done => {}
        }
        Ok(())
    }

    /// The bytes of the segment that the walk is in, if they are here.
    fn current_segment(&mut self, from: u32) -> Result<Option<Rc<Vec<u8>>>, String> {
        let Some(walker) = &self.walker else { return Ok(None) };
        let Some(wanted) = walker.wanted() else { return Ok(None) };
        let segment = &walker.segments()[wanted];
        loop {
            if let Some(current) = self.current.as_ref().filter(|it| it.0 == from && it.1 == segment.file) {
                return Ok(Some(current.2.clone()));
            }
            let mut shelf = self.shelf.borrow_mut();
            if let Some(why) = shelf.failed.take() {
                return Err(why);
            }
            // Segments come in the order of their numbers; those that the walk skips are passed over.
            let is_resting = shelf.waker.is_some();
            self.current = shelf.ready.pop_front();
            shelf.wake();
            match &self.current {
                None => {
                    // Going back is for salvage alone: what is wanted is read again.
                    if shelf.wanted.is_empty() && is_resting {
                        shelf.wanted.push_back((from, segment.file, segment.header.segment_bytes));
                        shelf.wake();
                    }
                    return Ok(None);
                }
                Some(current) if matches!(self.state, State::Reading) => {
                    self.plan.progress.bytes.fetch_add(current.2.len() as u64, Ordering::Relaxed);
                }
                Some(_) => {}
            }
        }
    }

    fn survey_some(&mut self) -> Result<(), String> {
        let from = self.surveyed[0];
        if let Some(bytes) = self.current_segment(from)? {
            let (walker, survey) = (self.walker.as_mut().expect("it wants a segment"), &mut self.survey);
            let step = walker.step(&bytes, SURVEYED_PER_TURN, &mut |item| match item {
                Item::Gap => survey.has_gaps = true,
                Item::Record(record, _) => survey.record(&record),
            });
            step.map_err(|damage| describe(&damage, &self.plan, from))?;
        }
        if self.walker.as_ref().is_some_and(|walker| walker.wanted().is_some()) {
            return Ok(());
        }
        let survey = std::mem::take(&mut self.survey);
        self.plan.surveys.lock().unwrap_or_else(PoisonError::into_inner).insert(from, survey);
        self.surveyed.pop_front();
        if self.surveyed.is_empty() {
            self.state = State::Comparing;
            self.plan.progress.surveyed.fetch_add(1, Ordering::AcqRel);
        }
        self.begin_survey();
        Ok(())
    }

    /// Every core comes to the same result.
    fn compare(&mut self) {
        let surveys = self.plan.surveys.lock().unwrap_or_else(PoisonError::into_inner);
        let cuts = survey::cuts(&surveys);
        if self.plan.salvage && surveys.values().any(|survey| survey.has_gaps) {
            if self.core == 0 && !cuts.is_empty() {
                tracing::warn!("transactions over several cores are kept in part where the rest of them is damaged");
            }
            return;
        }
        if self.core == 0 {
            for (from, (cut, transactions)) in &cuts {
                tracing::info!(
                    "core {from}: the log ends before record {cut}: {transactions} transactions over several cores are \
                     dropped that were not whole or came behind such"
                );
            }
        }
        self.cuts = cuts;
    }

    fn read_some(&mut self, engine: &mut Engine) -> Result<(), String> {
        let from = self.logs[0];
        let old_cores = self.plan.old.as_ref().map_or(1, |old| old.cores);
        let (core, cores) = (self.core, self.plan.cores);
        let mut left = RECORDS_PER_TURN;
        while self.walker.as_ref().is_some_and(|walker| walker.wanted().is_some()) {
            let Some(bytes) = self.current_segment(from)? else { return Ok(()) };
            let walker = self.walker.as_mut().expect("it wants a segment");
            let mut failure = None;
            let (replay, displaced) = (&mut self.replay, &mut self.displaced);
            let mut records = 0;
            let mut changes = 0;
            let is_ours = |key: &[u8]| cores == old_cores || owner_of_slot(slot_of(key), cores) == core;
            let is_theirs = |key: &[u8]| cores == old_cores || owner_of_slot(slot_of(key), old_cores) == from;
            let step = walker.step(&bytes, left, &mut |item| match item {
                Item::Gap => replay.gap(),
                Item::Record(record, _) => {
                    records += 1;
                    let unix_ms = replay.unix_ms();
                    replay.record(&record, &mut |change| {
                        changes += 1;
                        if engine.restore(change, unix_ms, displaced, is_ours, is_theirs).is_err() {
                            failure = Some(());
                        }
                    });
                }
            });
            self.plan.progress.records.fetch_add(records as u64, Ordering::Relaxed);
            self.plan.progress.changes.fetch_add(changes, Ordering::Relaxed);
            if failure.is_some() {
                return Err("the keys in the log need more memory than --max-memory allows and --eviction none keeps \
                            them all: raise it, or choose an eviction"
                    .into());
            }
            step.map_err(|damage| describe(&damage, &self.plan, from))?;
            left = left.saturating_sub(records.max(1));
            if left == 0 {
                return Ok(());
            }
        }
        self.end_log(from)
    }

    fn end_log(&mut self, from: u32) -> Result<(), String> {
        let Some(walker) = self.walker.take() else { return Ok(()) };
        let segments = walker.segments().to_vec();
        let found = walker.finish().map_err(|damage| describe(&damage, &self.plan, from))?;
        report(&found, &self.plan, from);
        if !self.plan.is_new() {
            self.resumed = resume(&segments, &found, self.plan.old.as_ref().and_then(|old| old.blank.get(&from)));
            self.sync_tail(&found)?;
        }
        self.found.push((from, found));
        self.logs.pop_front();
        self.begin_log();
        Ok(())
    }

    /// What a killed process had written need not be durable yet, and what follows builds on it.
    fn sync_tail(&self, found: &Found) -> Result<(), String> {
        let Some(old) = &self.plan.old else { return Ok(()) };
        for &(file, _) in found.chain.iter().rev().take(SYNCED_AT_START) {
            let path = old.path.join(file_name(self.core, file));
            let synced = std::fs::File::open(&path).and_then(|file| file.sync_data());
            synced.map_err(|error| format!("{} cannot be made durable: {error}", path.display()))?;
        }
        Ok(())
    }

    fn open_log(&mut self, engine: &mut Engine) {
        let plan = &self.plan;
        let writer = Writer::new(plan.writer_config(self.core), std::mem::take(&mut self.resumed));
        let path = plan.directory.display().to_string();
        let log = Log::new(writer, path, plan.durability, plan.async_ms * 1000, self.hasher.clone());
        engine.attach_log(Box::new(log));
        self.state = State::Opening;
    }

    fn settle(&mut self, engine: &mut Engine) {
        let now = engine.now();
        // From now on nothing has to be compared of what was found: every log says so itself.
        let states = !self.plan.is_new() && self.plan.cores > 1;
        let group = engine.log_mut().map_or(0, |log| match states {
            true => log.writer.state(now),
            false => log.writer.sync_all(),
        });
        self.state = State::Settling { group };
    }

    fn finish_directory(&self) -> Result<(), String> {
        let plan = &self.plan;
        let valid = match plan.is_new() {
            true => directory::make_valid(&mut FileSystem, &plan.directory, plan.layout()),
            false => Ok(()),
        };
        let cleaned = valid.and_then(|()| match &plan.old {
            Some(old) => directory::clean(&mut FileSystem, &plan.directory, old, plan.rewrites, plan.salvage),
            None => Ok(()),
        });
        cleaned.map_err(|error| format!("--data-dir {}: {error}", plan.directory.display()))
    }
}

/// More keys than this that had to go for others are not named one by one: the log is written anew.
const DISPLACED_MAX: usize = 1_000_000;
/// Segments that may have been written without a sync.
const SYNCED_AT_START: usize = 3;

fn overlaps(from: u32, old_cores: u32, core: u32, cores: u32) -> bool {
    if old_cores == cores {
        return from == core;
    }
    (0..crate::slot::SLOT_COUNT as u16)
        .any(|slot| owner_of_slot(slot, old_cores) == from && owner_of_slot(slot, cores) == core)
}

fn resume(segments: &[SegmentFile], found: &Found, blank: Option<&Vec<u32>>) -> Resumed {
    let blank = blank.cloned().unwrap_or_default();
    let in_chain = |file: u32| found.dropped.contains(&file) || found.chain.iter().any(|&(other, _)| other == file);
    let dropped = found.dropped.iter().map(|&file| (file, found.next_sequence - 1));
    let needed = |&&(_, last): &&(u32, u64)| last >= found.horizon.min(found.confirmed + 1);
    let mut free: Vec<u32> = found.chain.iter().filter(|link| !needed(link)).map(|&(file, _)| file).collect();
    free.extend(segments.iter().map(|segment| segment.file).filter(|&file| !in_chain(file)));
    let files = segments.iter().map(|segment| segment.file).chain(blank);
    Resumed {
        next_sequence: found.next_sequence,
        next_number: segments.iter().map(|segment| segment.header.number + 1).max().unwrap_or(1),
        // What was dropped goes when what follows it cannot be taken back any more.
        closed: found.chain.iter().filter(needed).copied().chain(dropped).collect(),
        horizon: found.horizon,
        confirmed: found.confirmed,
        free,
        next_file: files.map(|file| file + 1).max().unwrap_or(0),
    }
}

fn report(found: &Found, plan: &Plan, from: u32) {
    if let Some((place, groups)) = found.end
        && groups > 0
    {
        tracing::info!(
            "core {from}: the log ends at byte {} of {}; {groups} unfinished groups behind it are dropped",
            place.offset,
            shown(plan, from, place)
        );
    }
    for lost in &found.lost {
        let (first, next) = lost.sequences;
        tracing::warn!(
            "core {from}: {} records are lost: {} bytes {} to {} of {}",
            next - first,
            shown(plan, from, lost.from),
            lost.from.offset,
            lost.to.offset,
            shown(plan, from, lost.to),
        );
    }
}

fn shown(plan: &Plan, core: u32, place: Place) -> String {
    let path = plan.old.as_ref().map(|old| old.path.join(file_name(core, place.file)));
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn describe(damage: &Damage, plan: &Plan, core: u32) -> String {
    const SALVAGE: &str = "--wal-recover salvage keeps what can be read and sets the damaged files aside";
    match damage {
        Damage::Lost(lost) => format!(
            "{} is damaged at byte {}: records {} to {} were durable and cannot be read; {SALVAGE}",
            shown(plan, core, lost.from),
            lost.from.offset,
            lost.sequences.0,
            lost.sequences.1 - 1
        ),
        Damage::Beginning { place, needed, first: Some(first) } => format!(
            "the log of core {core} begins too late: {} starts with record {first}, and record {needed} is needed; \
             {SALVAGE}",
            shown(plan, core, *place)
        ),
        Damage::Beginning { needed, first: None, .. } => format!(
            "nothing can be read of the log of core {core}, and its records from {needed} on were durable; {SALVAGE}"
        ),
        Damage::Foreign { place, code } => format!(
            "{} has a record of type {code} at byte {}: it was written by a newer program, use that",
            shown(plan, core, *place),
            place.offset
        ),
    }
}

impl Shelf {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.wake();
    }
}

/// Reads the segments that are wanted, a few ahead of what is used.
async fn read_segments(directory: &Path, shelf: &RefCell<Shelf>) {
    loop {
        let next = poll_fn(|context| {
            let mut shelf = shelf.borrow_mut();
            if shelf.ended || shelf.failed.is_some() {
                return Poll::Ready(None);
            }
            if shelf.ready.len() < READ_AHEAD
                && let Some(next) = shelf.wanted.pop_front()
            {
                return Poll::Ready(Some(next));
            }
            shelf.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        let Some((core, file, bytes)) = next else { return };
        let path = directory.join(file_name(core, file));
        let read = read_whole(&path, bytes).await;
        let mut shelf = shelf.borrow_mut();
        match read {
            Ok(bytes) => shelf.ready.push_back((core, file, Rc::new(bytes))),
            Err(error) => shelf.failed = Some(format!("{} cannot be read: {error}", path.display())),
        }
    }
}

async fn read_whole(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let file = DmaFile::open(path).await.map_err(into_io)?;
    // What the header says is the length of a file that was made whole; memory follows what is there.
    let bytes = bytes.min(file.file_size().await.map_err(into_io)?);
    let mut whole = Vec::new();
    while (whole.len() as u64) < bytes {
        let read = file.read_at_aligned(whole.len() as u64, READ_BYTES).await.map_err(into_io)?;
        if read.is_empty() {
            break;
        }
        whole.extend_from_slice(&read);
    }
    file.close().await.map_err(into_io)?;
    Ok(whole)
}
