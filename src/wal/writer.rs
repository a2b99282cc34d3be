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

use std::collections::VecDeque;

use bytes::Bytes;

use super::BLOCK_BYTES;
use super::dirty::DirtyKeys;
use super::record::{self, Content, GROUP_BYTES, PART_BYTES, RECORD_HEADER_BYTES, TransactionId};
use super::segment::{Header, VERSION};
use crate::clock::Now;
use crate::limits::LARGE_VALUE_BYTES_MIN;

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
    Prepare {
        file: u32,
        create: bool,
        header: Vec<u8>,
    },
    Write {
        file: u32,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Everything written to the file becomes durable.
    Sync {
        file: u32,
    },
    /// Done when the name is gone for good.
    Remove {
        file: u32,
    },
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
    Prepare { file: u32, create: bool, seed: u32 },
    Write,
    Sync,
    Remove { file: u32 },
}

/// Copying has gone once round when it has made so much progress.
pub const ROUND: u64 = 1 << 32;
/// Writes out at a time.
const WRITES_MAX: usize = 4;
/// The next segment is made ready when so much of the current one is used: early if there is a file to use
/// again, later if one has to be made, because copying may free one by then.
const REUSE_AT_PERCENT: u64 = 50;
const CREATE_AT_PERCENT: u64 = 65;

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
                .map(|(file, last_sequence)| Closed { file, last_sequence, progress: 0, is_dead: false })
                .collect(),
            free: resumed.free.into(),
            next_file: resumed.next_file,
            next_number: resumed.next_number.max(1),
            horizon: 0,
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

    // ---- what happened --------------------------------------------------------------------------

    /// `key` has this value now.
    #[inline]
    pub fn set(&mut self, key: &[u8], value: &[u8], large: Option<&Bytes>, expires_at_ms: Option<u64>, now: Now) {
        if self.failed.is_some() {
            return;
        }
        let before = self.open.len();
        self.put(key, value, large, expires_at_ms, now);
        self.counters.bytes_logged += (self.open.len() - before) as u64;
    }

    /// The same, said again because it was said long ago.
    pub fn copy(&mut self, key: &[u8], value: &[u8], large: Option<&Bytes>, expires_at_ms: Option<u64>, now: Now) {
        if self.failed.is_some() {
            return;
        }
        let before = self.open.len();
        self.put(key, value, large, expires_at_ms, now);
        self.counters.bytes_copied += (self.open.len() - before) as u64;
    }

    #[inline]
    fn put(&mut self, key: &[u8], value: &[u8], large: Option<&Bytes>, expires_at_ms: Option<u64>, now: Now) {
        if value.len() < LARGE_VALUE_BYTES_MIN {
            return self.push(Content::Set { key, value, expires_at_ms }, now);
        }
        self.push(Content::SetLarge { key, expires_at_ms, value_bytes: value.len() as u64 }, now);
        let at = self.open.bytes.len() - RECORD_HEADER_BYTES - key.len() - 16;
        record::mark_more(&mut self.open.bytes[at..]);
        let value = large.cloned().unwrap_or_else(|| Bytes::copy_from_slice(value));
        self.open.large_bytes += value.len();
        self.open.large.push_back((self.open.bytes.len(), value, false));
        if let Some(last) = &mut self.run {
            *last = Some(Last::Large);
        }
    }

    pub fn change(&mut self, content: Content<'_>, now: Now) {
        if self.failed.is_some() {
            return;
        }
        let before = self.open.len();
        self.push(content, now);
        self.counters.bytes_logged += (self.open.len() - before) as u64;
    }

    #[inline]
    fn push(&mut self, content: Content<'_>, now: Now) {
        self.open_group(now);
        let at = self.open.bytes.len();
        record::draft(&mut self.open.bytes, content);
        if self.run.is_some() {
            self.link(at);
        }
    }

    fn open_group(&mut self, now: Now) {
        if self.open.is_empty() {
            self.open.opened_us = now.uptime_us;
            // Its time is that of its first record: never later than what follows.
            record::draft(&mut self.open.bytes, group_at(now));
        }
    }

    fn link(&mut self, at: usize) {
        match self.run.replace(Some(Last::Record(at))).flatten() {
            Some(Last::Record(last)) => record::mark_more(&mut self.open.bytes[last..]),
            Some(Last::Large) => self.open.large.back_mut().expect("it was the last of the run").2 = true,
            None => {}
        }
    }

    /// What follows until [`end_run`](Self::end_run) takes effect together after a crash, or not at all.
    pub fn begin_run(&mut self) {
        self.run = Some(None);
    }

    pub fn end_run(&mut self) {
        self.run = None;
    }

    /// The open group has to be durable as soon as can be. The group to wait for.
    #[inline]
    pub fn want_sync(&mut self) -> u64 {
        self.open.wants_sync = true;
        self.open_number
    }

    /// The open group has to be durable by then.
    #[inline]
    pub fn want_sync_by(&mut self, at_us: u64) {
        self.open.sync_at_us.get_or_insert(at_us);
    }

    /// Somebody waits for this group, which may have been written long ago.
    pub fn want_sync_of(&mut self, group: u64) {
        if group == self.open_number {
            self.open.wants_sync = true;
        } else if group > self.durable {
            self.sync_wanted = true;
        }
    }

    /// The group to wait for until everything so far is durable.
    pub fn sync_all(&mut self) -> u64 {
        if !self.open.is_empty() {
            return self.want_sync();
        }
        self.sync_wanted = true;
        self.open_number - 1
    }

    /// The server ends: nothing follows. The group to wait for.
    pub fn finish(&mut self, now: Now) -> u64 {
        self.push(Content::End, now);
        self.want_sync()
    }

    // ---- what is asked --------------------------------------------------------------------------

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

    /// Files of this log, as bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        let files = self.closed.len()
            + self.free.len()
            + self.current.is_some() as usize
            + self.spare.is_some() as usize
            + self.is_preparing as usize;
        files as u64 * self.config.segment_bytes
    }

    /// Closed segments that hold needed records, as bytes on disk.
    pub fn closed_bytes(&self) -> u64 {
        let dead = self.closed.iter().take_while(|closed| closed.is_dead).count();
        (self.closed.len() - dead) as u64 * self.config.segment_bytes
    }

    /// Bytes in the log that recovery would have to read.
    pub fn log_bytes(&self) -> u64 {
        self.closed_bytes() + self.current.as_ref().map_or(0, |current| current.offset)
    }

    pub fn segment_bytes(&self) -> u64 {
        self.config.segment_bytes
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

    // ---- copying --------------------------------------------------------------------------------

    /// Everything before `progress` on the way round has been copied into the open group or an earlier one.
    pub fn copied_to(&mut self, progress: u64, now: Now) {
        debug_assert!(progress >= self.progress);
        self.progress = progress;
        self.announce(now);
    }

    /// Says in the log which segments are not needed any more.
    fn announce(&mut self, now: Now) {
        let mut horizon = self.horizon;
        for closed in &mut self.closed {
            if !closed.is_dead && closed.progress + ROUND > self.progress {
                break;
            }
            closed.is_dead = true;
            horizon = closed.last_sequence + 1;
        }
        if horizon > self.horizon && self.announced.is_none() && self.failed.is_none() {
            let run = self.run.take();
            self.push(Content::Horizon { sequence: horizon }, now);
            self.run = run;
            let group = self.want_sync();
            self.announced = Some((horizon, group));
        }
    }

    // ---- operations -----------------------------------------------------------------------------

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
            return Some((Step::Write, Work::Write { file, offset, bytes }));
        }
        let flight = self.flight.as_ref()?;
        if flight.taken || flight.writes >= WRITES_MAX || !self.again.is_empty() {
            return None;
        }
        let (file, offset, bytes) = self.fill(now)?;
        self.counters.bytes_written += bytes.len() as u64;
        let flight = self.flight.as_mut().expect("it was filled from");
        flight.writes += 1;
        if self.unsynced.is_empty() {
            self.unsynced_since_us = now.uptime_us;
        }
        match self.unsynced.iter_mut().find(|(other, _)| *other == file) {
            Some((_, group)) => *group = flight.number,
            None => self.unsynced.push((file, flight.number)),
        }
        Some((Step::Write, Work::Write { file, offset, bytes }))
    }

    /// The open group goes on its way, if it is time.
    fn begin_flight(&mut self, now: Now) -> bool {
        if self.flight.is_some() || !self.is_due(now) {
            return false;
        }
        let group = std::mem::take(&mut self.open);
        self.sync_wanted |= group.wants_sync;
        self.sync_at_us = [self.sync_at_us, group.sync_at_us].into_iter().flatten().min();
        self.flight = Some(Flight {
            number: self.open_number,
            group,
            at: 0,
            large_at: 0,
            carry: Vec::new(),
            begun: false,
            taken: false,
            writes: 0,
        });
        self.open_number += 1;
        self.counters.groups += 1;
        true
    }

    fn is_due(&self, now: Now) -> bool {
        // A group that is waited for begins when the one before is durable; the longer it waits the more
        // it carries.
        !self.open.is_empty()
            && self.current.is_some()
            && self.run.is_none()
            && if self.open.wants_sync {
                self.syncing.is_none()
            } else {
                self.open.len() >= self.config.write_bytes_max
                    || now.uptime_us >= self.open.opened_us + self.config.write_delay_us
            }
    }

    /// Seals the next records of the flight, as many as one write takes. None if there is no segment for them.
    fn fill(&mut self, now: Now) -> Option<(u32, u64, Vec<u8>)> {
        let words = [self.durable_sequence, self.settled.1, self.confirmed.1];
        let settled = self.settled.0;
        let Writer { flight, current, next_sequence, stated, counters, config, .. } = self;
        let flight = flight.as_mut()?;
        let current = current.as_mut()?;
        let mut out = std::mem::take(&mut flight.carry);
        let mut is_full = false;
        let mut part = Vec::new();
        while out.len() < config.write_bytes_max {
            let large = flight.group.large.front().filter(|large| large.0 == flight.at);
            // A record, or the next part of a large value, as a draft.
            let draft: &[u8] = match large {
                Some((_, value, goes_on)) => {
                    let end = (flight.large_at + PART_BYTES).min(value.len());
                    part.clear();
                    record::draft(&mut part, Content::Part(&value[flight.large_at..end]));
                    if end < value.len() || *goes_on {
                        record::mark_more(&mut part);
                    }
                    &part
                }
                None if flight.at == flight.group.bytes.len() => break,
                None => {
                    let rest = &flight.group.bytes[flight.at..];
                    &rest[..record::record_bytes(rest)]
                }
            };
            // Every segment and every flight begins with a group record.
            let is_group = flight.at == 0;
            let begins = !flight.begun && !is_group;
            let room = config.segment_bytes - current.offset;
            if (out.len() + draft.len() + begins as usize * GROUP_BYTES) as u64 > room {
                is_full = true;
                break;
            }
            let mut put = |draft: &[u8], out: &mut Vec<u8>| {
                let at = out.len();
                out.extend_from_slice(draft);
                if draft[16] == record::Kind::Group as u8 {
                    let body = &mut out[at + RECORD_HEADER_BYTES..];
                    for (place, word) in [0, 16, 24].into_iter().zip(words) {
                        body[place..][..8].copy_from_slice(&word.to_le_bytes());
                    }
                    *stated = settled;
                }
                record::seal(&mut out[at..], *next_sequence, current.seed);
                *next_sequence += 1;
                counters.records += 1;
            };
            if begins {
                let mut group = Vec::with_capacity(GROUP_BYTES);
                record::draft(&mut group, group_at(now));
                record::mark_more(&mut group);
                put(&group, &mut out);
            }
            put(draft, &mut out);
            flight.begun = true;
            match large {
                Some((_, value, _)) => {
                    flight.large_at = (flight.large_at + PART_BYTES).min(value.len());
                    if flight.large_at == value.len() {
                        flight.group.large.pop_front();
                        flight.large_at = 0;
                    }
                }
                None => {
                    let is_flush = draft[16] == record::Kind::Flush as u8;
                    flight.at += draft.len();
                    if is_flush {
                        // Nothing before it is needed any more.
                        self.closed.iter_mut().for_each(|closed| closed.is_dead = true);
                    }
                }
            }
        }
        flight.taken |= flight.at == flight.group.bytes.len() && flight.group.large.is_empty();
        if is_full && out.is_empty() {
            self.close_current();
            return self.fill_next(now);
        }
        // Unless the flight or the segment ends here, what is not a whole block waits for the next write.
        if flight.taken || is_full {
            out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
        } else {
            flight.carry = out.split_off(out.len() / BLOCK_BYTES * BLOCK_BYTES);
        }
        let offset = current.offset;
        current.offset += out.len() as u64;
        let file = current.file;
        if is_full {
            self.close_current();
        }
        Some((file, offset, out))
    }

    /// The current segment takes no more.
    fn close_current(&mut self) {
        if let Some(current) = self.current.take() {
            self.closed.push_back(Closed {
                file: current.file,
                last_sequence: self.next_sequence - 1,
                progress: self.progress,
                is_dead: false,
            });
            // A closed segment is durable before much is written behind it.
            self.sync_wanted = true;
        }
        if let Some(flight) = &mut self.flight {
            flight.begun = false;
        }
        self.current = self.spare.take().map(|(file, seed)| Current { file, seed, offset: BLOCK_BYTES as u64 });
    }

    fn fill_next(&mut self, now: Now) -> Option<(u32, u64, Vec<u8>)> {
        self.current.as_ref()?;
        self.fill(now)
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

    fn poll_prepare(&mut self, now: Now) -> Option<(Step, Work)> {
        if self.is_preparing || self.spare.is_some() || self.is_removing || self.retry_at_us.is_some() {
            return None;
        }
        let percent = match self.free.is_empty() {
            false => REUSE_AT_PERCENT,
            // One is about to be free.
            true if self.announced.is_some() => 100,
            true => CREATE_AT_PERCENT,
        };
        let current = self.current.as_ref();
        let is_wanted = current.is_none_or(|current| current.offset >= self.config.segment_bytes / 100 * percent);
        if !is_wanted {
            return None;
        }
        let (file, create) = match self.free.pop_front() {
            Some(file) => (file, false),
            None => {
                self.next_file += 1;
                (self.next_file - 1, true)
            }
        };
        let header = Header {
            version: VERSION,
            segment_bytes: self.config.segment_bytes,
            number: self.next_number,
            oldest_needed: self.horizon,
            created_ms: now.unix_ms,
            layout: self.config.layout,
            core: self.config.core,
            cores: self.config.cores,
        };
        self.next_number += 1;
        self.is_preparing = true;
        self.counters.segments_used_again += !create as u64;
        let step = Step::Prepare { file, create, seed: header.seed() };
        Some((step, Work::Prepare { file, create, header: header.to_block() }))
    }

    /// One file is kept for the next segment.
    fn poll_remove(&mut self) -> Option<(Step, Work)> {
        // Oldest first, and each gone for good before the next, so that what is left is the end of the log.
        if self.is_removing || self.is_preparing || self.free.len() < 2 {
            return None;
        }
        let file = self.free.pop_front()?;
        self.is_removing = true;
        Some((Step::Remove { file }, Work::Remove { file }))
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
                let Work::Write { file, offset, bytes } = work else { unreachable!("the step is a write") };
                self.again.push_back((file, offset, bytes));
                self.rest(now);
            }
            (Step::Write, Ok(())) => self.write_done(),
            (Step::Sync, Ok(())) => self.file_synced(now),
            (Step::Prepare { file, create, seed }, result) => {
                self.is_preparing = false;
                self.is_full = result.is_err();
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

    fn write_done(&mut self) {
        let flight = self.flight.as_mut().expect("writes are those of the flight");
        flight.writes -= 1;
        if flight.taken && flight.writes == 0 {
            self.written = flight.number;
            let mut group = self.flight.take().expect("just seen").group;
            // The next group takes its memory, unless it was a huge one.
            if self.open.is_empty() && group.bytes.capacity() <= 4 * self.config.write_bytes_max {
                group.bytes.clear();
                self.open.bytes = group.bytes;
            }
        }
    }

    fn file_synced(&mut self, now: Now) {
        let is_out = self.steps.iter().any(|(_, step)| matches!(step, Step::Sync));
        let Some(syncing) = self.syncing.take_if(|syncing| !is_out && syncing.files_left.is_empty()) else { return };
        self.counters.syncs += 1;
        self.counters.last_sync_unix_ms = now.unix_ms;
        self.durable = syncing.group;
        self.durable_sequence = syncing.sequence;
        self.stated_durably = syncing.states;
        self.unsettled.push_back((syncing.group, syncing.sequence));
        // Groups that nobody waits for may have been written meanwhile.
        self.unsynced.retain(|&(_, group)| group > syncing.group);
        self.unsynced_since_us = syncing.since_us;
    }

    // ---- transactions over several cores --------------------------------------------------------

    /// The part of a transaction begins, of which these cores' logs have parts (four bytes each). Its group.
    pub fn begin_part(&mut self, id: TransactionId, cores: &[u8], now: Now) -> u64 {
        self.outside_runs(Content::Begin { id, cores }, now)
    }

    pub fn finish_part(&mut self, id: TransactionId, now: Now) -> u64 {
        self.outside_runs(Content::Finish { id }, now)
    }

    fn outside_runs(&mut self, content: Content<'_>, now: Now) -> u64 {
        let run = self.run.take();
        self.change(content, now);
        self.run = run;
        self.open_number
    }

    /// Groups up to this one cannot be taken back any more: they are durable, and so is all of every transaction that
    /// has a part in them.
    pub fn settle(&mut self, group: u64) {
        self.settled_group = group.min(self.durable).max(self.settled_group);
        self.dirty.durable(self.settled_group);
        while let Some(&point) = self.unsettled.front().filter(|point| point.0 <= self.settled_group) {
            self.unsettled.pop_front();
            self.settled = point;
            self.unconfirmed.push_back(point);
        }
    }

    pub fn settled(&self) -> u64 {
        self.settled_group
    }

    /// Up to which group the log itself says, durably, that all is settled.
    pub fn stated_durably(&self) -> u64 {
        self.stated_durably
    }

    /// What is settled and not confirmed: up to which group.
    pub fn to_be_confirmed(&self) -> Option<u64> {
        self.unconfirmed.back().map(|point| point.0)
    }

    /// The logs of all cores say of the transactions that begin in groups up to this one that they are whole. Only
    /// then are segments given up in which they are.
    pub fn confirm(&mut self, group: u64, now: Now) {
        while let Some(&point) = self.unconfirmed.front().filter(|point| point.0 <= group) {
            self.unconfirmed.pop_front();
            self.confirmed = point;
        }
        if let Some((horizon, group)) = self.announced
            && self.confirmed.0 >= group
        {
            self.announced = None;
            self.horizon = horizon;
            while self.closed.front().is_some_and(|closed| closed.last_sequence < horizon) {
                self.free.extend(self.closed.pop_front().map(|closed| closed.file));
            }
            self.announce(now);
        }
    }

    /// The next group says what recovery has found to be settled, although there is nothing else to say. The group to
    /// wait for.
    pub fn state(&mut self, now: Now) -> u64 {
        self.open_group(now);
        self.want_sync()
    }

    /// The log says by then, durably, what is settled now: if nothing else is to be written, in a group without
    /// changes.
    pub fn state_by(&mut self, at_us: u64, now: Now) {
        if self.flight.is_some() || self.failed.is_some() {
            return;
        }
        if self.stated < self.settled.0 {
            self.open_group(now);
            self.want_sync_by(at_us);
        } else if self.stated_durably < self.stated && !self.unsynced.is_empty() {
            self.sync_at_us.get_or_insert(at_us);
        }
    }

    /// Nothing is written any more.
    pub fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
    }
}

fn group_at(now: Now) -> Content<'static> {
    Content::Group { durable: 0, unix_ms: now.unix_ms, settled: 0, confirmed: 0 }
}
