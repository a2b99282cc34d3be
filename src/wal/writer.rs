//! The machine that writes the log of one core. It does nothing itself: it hands out operations, at most a few
//! at a time, and is told how each of them ended.
//!
//! ```text
//!   effects ─▶ open group ─┐ due                       ┌─ synced ─▶ durable
//!   copies  ─▶             └▶ flight: sealed, written ─┤
//!                                                      └─ (async, none) more groups, then synced together
//!
//!   segments, oldest first:  free │ closed … closed │ current │ spare
//!                             └─ used again as spare, or removed
//! ```
//!
//! What is queued while a group is on its way is the next group: one flush serves all connections of the core.
//!
//! A failed sync is never repeated, because nobody knows what the kernel has dropped since: the machine stops for
//! good. A full disk is waited out; meanwhile it says that it [takes no more](Writer::refuses).

mod logging;
mod sealing;
mod segments;
mod settling;

use std::collections::VecDeque;

use bytes::Bytes;

use super::BLOCK_BYTES;
use super::dirty::DirtyKeys;
use super::record::Content;
use crate::clock::Now;

#[derive(Clone, Debug)]
pub struct WriterConfig {
    pub layout: u32,
    pub core: u32,
    pub cores: u32,
    /// A multiple of [`BLOCK_BYTES`].
    pub segment_bytes: u64,
    /// One operation writes no more than this.
    pub write_bytes_max: usize,
    /// How long a group may grow that nobody waits for.
    pub write_delay_us: u64,
    /// What is written without anybody waiting is durable after so long; never on its own account if None.
    pub sync_interval_us: Option<u64>,
    /// With more than this under way or waiting, no more should come.
    pub backlog_bytes_max: usize,
    /// How long a full disk is left alone.
    pub retry_us: u64,
}

/// Where an earlier life of the log ended.
#[derive(Clone, Debug, Default)]
pub struct Resumed {
    /// All records before this one are durable.
    pub next_sequence: u64,
    pub next_number: u64,
    /// Files that hold needed records, oldest first, and their last sequence numbers.
    pub closed: Vec<(u32, u64)>,
    /// Files that hold nothing needed.
    pub free: Vec<u32>,
    /// File numbers from here on are not in use.
    pub next_file: u32,
    /// Earlier records are not needed by this log alone. But those behind `confirmed` may still tell the logs of other
    /// cores that their transactions are whole: the files that hold them are given up like those of a running server.
    pub horizon: u64,
    /// All cores' logs say that transactions are whole that begin up to here.
    pub confirmed: u64,
}

/// Something to be done to the files. Operations that are out at the same time may be done in any order.
#[derive(Debug)]
pub struct Operation {
    pub id: u64,
    pub work: Work,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The file gets this first block. If `create`, it is made before: as long as said in the header, with
    /// zeros all through, and its name durable. Done when the block is durable.
    Prepare { file: u32, create: bool, header: Vec<u8> },
    /// If `durable`, these bytes are durable when it is done; others that were written before may not be.
    Write { file: u32, offset: u64, bytes: Vec<u8>, durable: bool },
    /// Everything written to the file becomes durable.
    Sync { file: u32 },
    /// Done when the name is gone for good.
    Remove { file: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Worth another try when somebody has made room.
    NoSpace,
    /// Nobody can say what is on disk now.
    Broken(String),
}

/// What the machine has done so far, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterCounters {
    pub records: u64,
    pub groups: u64,
    pub syncs: u64,
    /// Records for clients, as they lie on disk without padding.
    pub bytes_logged: u64,
    /// The same for copies.
    pub bytes_copied: u64,
    /// With padding.
    pub bytes_written: u64,
    pub segments_used_again: u64,
    pub no_space: u64,
    pub last_sync_unix_ms: u64,
}

#[derive(Default)]
struct Group {
    /// Drafted records; the parts of large values are made of `large` when they are written.
    bytes: Vec<u8>,
    /// Behind which byte of `bytes` the parts go, the value, and whether its run goes on.
    large: VecDeque<(usize, Bytes, bool)>,
    large_bytes: usize,
    /// Somebody waits for it to be durable.
    wants_sync: bool,
    /// It has to be durable soon, although nobody waits.
    sync_at_us: Option<u64>,
    opened_us: u64,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn len(&self) -> usize {
        self.bytes.len() + self.large_bytes
    }
}

/// A group on its way to the disk.
struct Flight {
    number: u64,
    group: Group,
    /// How much of `group.bytes` has been taken, and of the first of `group.large`.
    at: usize,
    large_at: usize,
    /// Sealed, and not yet a whole block.
    carry: Vec<u8>,
    /// Sealed into the current segment in this flight.
    begun: bool,
    taken: bool,
    /// Writes of it that are out or have to be repeated.
    writes: usize,
    /// It is one write, and durable when that is done.
    durable: bool,
}

struct Current {
    file: u32,
    seed: u32,
    /// Where the next write goes; at most the length of the segment.
    offset: u64,
}

struct Closed {
    file: u32,
    last_sequence: u64,
    /// Where the copying was when it was closed, or a little later.
    progress: u64,
    is_dead: bool,
}

struct Syncing {
    /// What is durable when it is done.
    group: u64,
    sequence: u64,
    /// What its groups say of transactions: up to which group of this start they are whole.
    states: u64,
    since_us: u64,
    files_left: Vec<u32>,
}

/// Which effect of a run came last.
enum Last {
    Record(usize),
    Large,
}

enum Step {
    Prepare { file: u32, create: bool, seed: u32, oldest_needed: u64 },
    Write,
    Sync,
    Remove { file: u32 },
}

/// Copying has gone once round when it has made so much progress.
pub const ROUND: u64 = 1 << 32;
/// Writes out at a time.
const WRITES_MAX: usize = 4;
pub struct Writer {
    config: WriterConfig,
    open: Group,
    open_number: u64,
    run: Option<Option<Last>>,
    flight: Option<Flight>,
    /// Everything up to this group is written.
    written: u64,
    durable: u64,
    next_sequence: u64,
    durable_sequence: u64,
    /// Syncs whose groups may not be settled, or not confirmed: group, sequence.
    unsettled: VecDeque<(u64, u64)>,
    unconfirmed: VecDeque<(u64, u64)>,
    /// The last of each that are: group, sequence.
    settled: (u64, u64),
    confirmed: (u64, u64),
    /// Groups up to this are settled, if not all the records of a sync.
    settled_group: u64,
    /// What the last group written says is settled, and what a durable one says.
    stated: u64,
    stated_durably: u64,
    /// Files with writes that no sync has covered, with the last group written to each, and since when.
    unsynced: Vec<(u32, u64)>,
    unsynced_since_us: u64,
    sync_wanted: bool,
    sync_at_us: Option<u64>,
    syncing: Option<Syncing>,
    current: Option<Current>,
    spare: Option<(u32, u32)>,
    is_preparing: bool,
    is_removing: bool,
    closed: VecDeque<Closed>,
    free: VecDeque<u32>,
    next_file: u32,
    next_number: u64,
    /// Earlier records are not needed, once the group with that record is durable.
    horizon: u64,
    /// The same as the newest header says it: no file is removed before.
    headed: u64,
    announced: Option<(u64, u64)>,
    progress: u64,
    steps: Vec<(u64, Step)>,
    next_id: u64,
    /// Writes that found no space.
    again: VecDeque<(u32, u64, Vec<u8>)>,
    retry_at_us: Option<u64>,
    /// There was no space for another segment when it was tried last.
    is_full: bool,
    failed: Option<String>,
    pub dirty: DirtyKeys,
    pub counters: WriterCounters,
}

impl Writer {
    pub fn new(config: WriterConfig, resumed: Resumed) -> Writer {
        assert!(
            config.segment_bytes.is_multiple_of(BLOCK_BYTES as u64) && config.segment_bytes >= 4 * BLOCK_BYTES as u64
        );
        assert!(config.write_bytes_max >= BLOCK_BYTES);
        let next_sequence = resumed.next_sequence.max(1);
        let closed = resumed.closed.into_iter();
        Writer {
            open: Group::default(),
            open_number: 1,
            run: None,
            flight: None,
            written: 0,
            durable: 0,
            next_sequence,
            durable_sequence: next_sequence - 1,
            unsettled: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            // What recovery has kept is whole.
            settled: (0, next_sequence - 1),
            confirmed: (0, resumed.confirmed),
            settled_group: 0,
            stated: 0,
            stated_durably: 0,
            unsynced: Vec::new(),
            unsynced_since_us: 0,
            sync_wanted: false,
            sync_at_us: None,
            syncing: None,
            current: None,
            spare: None,
            is_preparing: false,
            is_removing: false,
            closed: closed
                .map(|(file, last_sequence)| Closed {
                    file,
                    last_sequence,
                    progress: 0,
                    is_dead: last_sequence < resumed.horizon,
                })
                .collect(),
            free: resumed.free.into(),
            next_file: resumed.next_file,
            next_number: resumed.next_number.max(1),
            // What recovery gave up at once, its files are free.
            horizon: resumed.horizon.min(resumed.confirmed + 1),
            headed: 0,
            announced: None,
            progress: 0,
            steps: Vec::new(),
            next_id: 0,
            again: VecDeque::new(),
            retry_at_us: None,
            is_full: false,
            failed: None,
            dirty: DirtyKeys::default(),
            counters: WriterCounters::default(),
            config,
        }
    }

    /// The group that is being filled.
    #[inline]
    pub fn open_number(&self) -> u64 {
        self.open_number
    }

    #[inline]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether it has somewhere to write to.
    pub fn is_ready(&self) -> bool {
        self.current.is_some()
    }

    /// Bytes that are not written yet.
    pub fn backlog_bytes(&self) -> usize {
        self.open.len() + self.flight.as_ref().map_or(0, |flight| flight.group.len() - flight.at)
    }

    #[inline]
    pub fn is_overfull(&self) -> bool {
        self.open.len() > self.config.backlog_bytes_max || self.backlog_bytes() > self.config.backlog_bytes_max
    }

    /// Why it has stopped for good.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whether no more may be logged for now: the disk is full, and what is left of the current segment is
    /// for what was taken before.
    pub fn refuses(&self) -> bool {
        if self.failed.is_some() || !self.again.is_empty() {
            return true;
        }
        let left = self.current.as_ref().map_or(0, |current| self.config.segment_bytes - current.offset);
        let margin = self.config.segment_bytes / 8;
        self.is_full && self.spare.is_none() && left < self.backlog_bytes() as u64 + margin
    }

    pub fn progress(&self) -> u64 {
        self.progress
    }

    /// Whether anything is out or waits to be.
    pub fn is_idle(&self) -> bool {
        self.failed.is_some()
            || self.steps.is_empty() && self.flight.is_none() && self.open.is_empty() && !self.sync_wanted
    }

    /// Whether operations are out.
    pub fn is_busy(&self) -> bool {
        !self.steps.is_empty()
    }

    /// When [`poll`](Self::poll) has to be asked again although nothing happens, by `Now::uptime_us`.
    pub fn due_us(&self) -> Option<u64> {
        if self.failed.is_some() {
            return None;
        }
        let group = (!self.open.is_empty() && self.flight.is_none())
            .then(|| if self.open.wants_sync { 0 } else { self.open.opened_us + self.config.write_delay_us });
        let sync = (!self.unsynced.is_empty() && self.syncing.is_none())
            .then(|| self.config.sync_interval_us.map(|interval| self.unsynced_since_us + interval))
            .flatten();
        let asked = self.sync_at_us.filter(|_| self.syncing.is_none());
        [group, sync, asked, self.retry_at_us].into_iter().flatten().min()
    }

    /// The next thing to do, if there is one now.
    pub fn poll(&mut self, now: Now) -> Option<Operation> {
        if self.failed.is_some() {
            return None;
        }
        if self.retry_at_us.is_some_and(|at| now.uptime_us >= at) {
            self.retry_at_us = None;
        }
        if self.announced.is_none() && self.closed.front().is_some_and(|closed| closed.is_dead) {
            self.announce(now);
        }
        // What is written and waited for is synced before more is written.
        let (step, work) = self
            .poll_write(now)
            .or_else(|| self.poll_sync(now))
            .or_else(|| self.begin_flight(now).then(|| self.poll_write(now)).flatten())
            .or_else(|| self.poll_prepare(now))
            .or_else(|| self.poll_remove())?;
        let id = self.next_id;
        self.next_id += 1;
        self.steps.push((id, step));
        Some(Operation { id, work })
    }

    fn poll_write(&mut self, now: Now) -> Option<(Step, Work)> {
        if self.retry_at_us.is_none()
            && let Some((file, offset, bytes)) = self.again.pop_front()
        {
            return Some((Step::Write, Work::Write { file, offset, bytes, durable: false }));
        }
        let flight = self.flight.as_ref()?;
        if flight.taken || flight.writes >= WRITES_MAX || !self.again.is_empty() {
            return None;
        }
        let (file, offset, bytes) = self.fill(now)?;
        self.counters.bytes_written += bytes.len() as u64;
        let flight = self.flight.as_mut().expect("it was filled from");
        flight.writes += 1;
        // One write that is durable when it is done saves the sync behind it, if that would make nothing else durable.
        flight.durable = flight.taken && flight.writes == 1 && self.sync_wanted && self.unsynced.is_empty();
        let durable = flight.durable;
        if !durable {
            self.note_unsynced(file, now);
        }
        Some((Step::Write, Work::Write { file, offset, bytes, durable }))
    }

    /// The flight writes to this file what only a sync makes durable.
    fn note_unsynced(&mut self, file: u32, now: Now) {
        let number = self.flight.as_ref().expect("it writes").number;
        if self.unsynced.is_empty() {
            self.unsynced_since_us = now.uptime_us;
        }
        match self.unsynced.iter_mut().find(|(other, _)| *other == file) {
            Some((_, group)) => *group = number,
            None => self.unsynced.push((file, number)),
        }
    }

    fn poll_sync(&mut self, now: Now) -> Option<(Step, Work)> {
        if let Some(syncing) = &mut self.syncing {
            return syncing.files_left.pop().map(|file| (Step::Sync, Work::Sync { file }));
        }
        // In the middle of a group a sync would be of no use to anybody.
        if self.flight.is_some() {
            return None;
        }
        if self.unsynced.is_empty() {
            self.sync_wanted = false;
            self.sync_at_us = None;
            return None;
        }
        let interval = self.config.sync_interval_us.map(|interval| self.unsynced_since_us + interval);
        let due_us = [interval, self.sync_at_us].into_iter().flatten().min();
        if !self.sync_wanted && due_us.is_none_or(|due_us| now.uptime_us < due_us) {
            return None;
        }
        self.sync_wanted = false;
        self.sync_at_us = None;
        self.syncing = Some(Syncing {
            group: self.written,
            sequence: self.next_sequence - 1,
            states: self.stated,
            since_us: now.uptime_us,
            files_left: self.unsynced.iter().map(|&(file, _)| file).collect(),
        });
        self.poll_sync(now)
    }

    /// Operation `id` has ended; a write gives its bytes back.
    pub fn completed(&mut self, id: u64, work: Work, result: Result<(), Failure>, now: Now) {
        let at = self.steps.iter().position(|(other, _)| *other == id).expect("it was handed out");
        let (_, step) = self.steps.swap_remove(at);
        if self.failed.is_some() {
            // Of two files that had to be durable together, the other one says nothing.
            return;
        }
        match (step, result) {
            (_, Err(Failure::Broken(why))) => {
                self.failed.get_or_insert(why);
            }
            (Step::Sync, Err(Failure::NoSpace)) => {
                self.failed.get_or_insert("no space while data became durable".into());
            }
            (Step::Write, Err(Failure::NoSpace)) => {
                let Work::Write { file, offset, bytes, .. } = work else { unreachable!("the step is a write") };
                self.again.push_back((file, offset, bytes));
                if self.flight.as_mut().is_some_and(|flight| std::mem::take(&mut flight.durable)) {
                    // It is written anew, and then synced as any other: nobody can say how far it had come.
                    self.note_unsynced(file, now);
                    self.sync_wanted = true;
                }
                self.rest(now);
            }
            (Step::Write, Ok(())) => self.write_done(now),
            (Step::Sync, Ok(())) => self.file_synced(now),
            (Step::Prepare { file, create, seed, oldest_needed }, result) => {
                self.is_preparing = false;
                self.is_full = result.is_err();
                if result.is_ok() {
                    self.headed = oldest_needed;
                }
                match result {
                    Ok(()) if self.current.is_none() => {
                        self.current = Some(Current { file, seed, offset: BLOCK_BYTES as u64 });
                    }
                    Ok(()) => self.spare = Some((file, seed)),
                    Err(_) if create => {
                        // It is made anew, whatever is there of it.
                        self.next_file -= 1;
                        self.rest(now);
                    }
                    Err(_) => {
                        self.free.push_front(file);
                        self.rest(now);
                    }
                }
            }
            (Step::Remove { .. }, Ok(())) => self.is_removing = false,
            (Step::Remove { file }, Err(Failure::NoSpace)) => {
                self.is_removing = false;
                self.free.push_front(file);
                self.rest(now);
            }
        }
    }

    fn rest(&mut self, now: Now) {
        self.counters.no_space += 1;
        self.retry_at_us = Some(now.uptime_us + self.config.retry_us);
    }

    fn file_synced(&mut self, now: Now) {
        let is_out = self.steps.iter().any(|(_, step)| matches!(step, Step::Sync));
        let Some(syncing) = self.syncing.take_if(|syncing| !is_out && syncing.files_left.is_empty()) else { return };
        self.made_durable(syncing.group, syncing.sequence, syncing.states, now);
        // Groups that nobody waits for may have been written meanwhile.
        self.unsynced.retain(|&(_, group)| group > syncing.group);
        self.unsynced_since_us = syncing.since_us;
    }

    /// All groups up to this one are durable, and with them all records up to `sequence`.
    fn made_durable(&mut self, group: u64, sequence: u64, states: u64, now: Now) {
        self.counters.syncs += 1;
        self.counters.last_sync_unix_ms = now.unix_ms;
        self.durable = group;
        self.durable_sequence = sequence;
        self.stated_durably = states;
        self.unsettled.push_back((group, sequence));
    }

    /// Nothing is written any more.
    pub fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
    }
}

fn group_at(now: Now) -> Content<'static> {
    Content::Group { durable: 0, unix_ms: now.unix_ms, settled: 0, confirmed: 0 }
}
