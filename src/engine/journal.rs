//! What becomes of the effects of commands: they are logged, if there is a log, and say which replies have to wait
//! until they are durable.
//!
//! A reply waits for a group of the log if its command has written something that is to be durable first, or if
//! what it says of a key may still be taken back by a crash. Groups become durable on the core that has them; all
//! cores see how far each has come in [`Durable`].

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::Now;
use crate::hash::KeyHasher;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::request::Durability;
use crate::store::{Effects, Removal, Shard, ValueRef};
use crate::wal::compact::{self, Pace};
use crate::wal::ledger::Ledger;
use crate::wal::record::{Content, TransactionId};
use crate::wal::writer::Writer;

/// A group of one core's log that a reply waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    pub core: u32,
    pub group: u64,
}

/// How far the log of each core has come, and which transactions over several cores may still be taken back.
pub struct Durable {
    cores: Box<[Progress]>,
    /// Asked only by cores with parts of such transactions, when they begin, end, and are synced.
    ledger: Mutex<Ledger>,
}

/// Written by its core; `group` also by those that complete a transaction of which the core has a part.
#[repr(align(64))]
struct Progress {
    /// What is in groups up to this one cannot be taken back any more.
    group: AtomicU64,
    has_failed: AtomicBool,
    /// The first group with a part of a transaction of which this core's log does not say yet that it is whole.
    unstated: AtomicU64,
}

impl Durable {
    pub fn new(cores: usize) -> Durable {
        let progress = || Progress {
            group: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            unstated: AtomicU64::new(u64::MAX),
        };
        Durable { cores: (0..cores).map(|_| progress()).collect(), ledger: Mutex::new(Ledger::new(cores)) }
    }

    #[inline]
    pub fn group_of(&self, core: u32) -> u64 {
        self.cores[core as usize].group.load(Ordering::Acquire)
    }

    #[inline]
    pub fn has_passed(&self, gate: Gate) -> bool {
        self.group_of(gate.core) >= gate.group
    }

    /// Whether the core's log has ended for good: what it has not made durable by now never will be.
    pub fn has_failed(&self, core: u32) -> bool {
        self.cores[core as usize].has_failed.load(Ordering::Acquire)
    }

    fn publish(&self, core: u32, group: u64) {
        self.cores[core as usize].group.fetch_max(group, Ordering::AcqRel);
    }

    /// The log of `core` has ended for good.
    pub fn fail(&self, core: u32) {
        self.ledger().fail(core);
        self.cores[core as usize].has_failed.store(true, Ordering::Release);
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        // A panic ends the process.
        self.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn begin(&self, id: TransactionId, cores: usize, core: u32, group: u64) {
        self.ledger().begin(id, cores, core, group);
    }

    fn finish(&self, id: TransactionId, core: u32, group: u64) {
        self.ledger().finish(id, core, group);
    }

    /// The groups of `core`, which has parts of transactions, are synced up to this one. Other cores that have come
    /// further by that are added to `moved`.
    fn synced(&self, core: u32, group: u64, moved: &mut Vec<u32>) {
        let mut ledger = self.ledger();
        for (other, &settled) in ledger.synced(core, group).iter().enumerate() {
            if self.cores[other].group.fetch_max(settled, Ordering::AcqRel) < settled && other as u32 != core {
                moved.push(other as u32);
            }
        }
    }

    /// What is settled now on all cores.
    fn settled(&self) -> Vec<u64> {
        let _ledger = self.ledger();
        self.cores.iter().map(|progress| progress.group.load(Ordering::Acquire)).collect()
    }

    /// Whether every log says of its parts in groups up to these that their transactions are whole.
    fn have_stated(&self, groups: &[u64]) -> bool {
        self.cores.iter().zip(groups).all(|(progress, &group)| progress.unstated.load(Ordering::Acquire) > group)
    }
}

/// A log, or none.
#[derive(Default)]
pub struct Journal(pub Option<Box<Log>>);

pub struct Log {
    pub writer: Writer,
    /// Where it is, for errors.
    pub path: String,
    default: Durability,
    async_us: u64,
    hasher: KeyHasher,
    now: Now,
    /// What the command being applied asked for.
    promised: Option<Durability>,
    /// What its reply waits for.
    waits_for: u64,
    /// Runs that have begun and not ended.
    runs: u32,
    pub pace: Pace,
    /// The groups of this log in which parts of transactions begin of which it does not say durably that they are
    /// whole, and of those the ones that the ledger knows.
    unstated: VecDeque<u64>,
    unsettled: VecDeque<u64>,
    /// The last group that the ledger knows to be synced.
    reported: u64,
    /// To be confirmed once all logs say that what was settled then is whole: a group of this log, and those of all.
    confirming: Option<(u64, Vec<u64>)>,
}

/// How long a log that has nothing else to say may leave unsaid that transactions are whole.
const STATE_AFTER_US: u64 = 500_000;

impl Log {
    pub fn new(writer: Writer, path: String, default: Durability, async_us: u64, hasher: KeyHasher) -> Log {
        Log {
            writer,
            path,
            default,
            async_us,
            hasher,
            now: Now::default(),
            promised: None,
            waits_for: 0,
            runs: 0,
            pace: Pace::default(),
            unstated: VecDeque::new(),
            unsettled: VecDeque::new(),
            reported: 0,
            confirming: None,
        }
    }

    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    pub fn default_durability(&self) -> Durability {
        self.default
    }

    /// The change just logged was that of `key`, or of all keys.
    fn changed(&mut self, key: Option<&[u8]>, is_own: bool) {
        match self.promised.unwrap_or(self.default) {
            Durability::None => {}
            Durability::Async => self.writer.want_sync_by(self.now.uptime_us + self.async_us),
            Durability::Sync => {
                let group = match is_own {
                    true => self.writer.want_sync(),
                    false => self.writer.open_number(),
                };
                match key {
                    Some(key) => self.writer.dirty.insert(self.hasher.hash(key), group),
                    None => self.writer.dirty.insert_all(group),
                }
                if is_own {
                    self.waits_for = group;
                }
            }
        }
    }

    // ---- transactions over several cores --------------------------------------------------------

    /// This core's part of a transaction begins; these cores have parts (four bytes each).
    pub fn begin_part(&mut self, durable: &Durable, core: u32, id: TransactionId, cores: &[u8]) {
        let group = self.writer.begin_part(id, cores, self.now);
        if self.unstated.is_empty() {
            durable.cores[core as usize].unstated.store(group, Ordering::Release);
        }
        self.unstated.push_back(group);
        self.unsettled.push_back(group);
        durable.begin(id, cores.len() / 4, core, group);
    }

    /// It is over. It has to be durable before long whatever is promised, because what others promise behind the
    /// other parts depends on it.
    pub fn finish_part(&mut self, durable: &Durable, core: u32, id: TransactionId) {
        let group = self.writer.finish_part(id, self.now);
        match self.default {
            Durability::Sync => {
                self.writer.want_sync();
            }
            _ => self.writer.want_sync_by(self.now.uptime_us + self.async_us),
        }
        durable.finish(id, core, group);
    }

    /// To be called every turn: lets be known how far this log has come, and learns how far it is settled. Other cores
    /// that have come further by that are added to `moved`.
    pub fn settle(&mut self, durable: &Durable, core: u32, moved: &mut Vec<u32>, is_loading: bool) {
        let synced = self.writer.durable();
        if self.unsettled.is_empty() {
            // Nobody else has a say in it.
            if synced > self.writer.settled() {
                durable.publish(core, synced);
            }
        } else if synced != self.reported {
            self.reported = synced;
            durable.synced(core, synced, moved);
        }
        let settled = durable.group_of(core);
        if settled > self.writer.settled() {
            self.writer.settle(settled);
            drop_up_to(&mut self.unsettled, settled);
        }
        self.state(durable, core);
        // Before all cores have said so nothing that recovery has found is confirmed.
        if !is_loading {
            self.confirm(durable);
        }
    }

    /// Says in the log of the transactions that are settled that they are whole.
    fn state(&mut self, durable: &Durable, core: u32) {
        if self.unstated.is_empty() {
            return;
        }
        let stated = self.writer.stated_durably();
        if drop_up_to(&mut self.unstated, stated) {
            let first = self.unstated.front().copied().unwrap_or(u64::MAX);
            durable.cores[core as usize].unstated.store(first, Ordering::Release);
        }
        if !self.unstated.is_empty() {
            self.writer.state_by(self.now.uptime_us + STATE_AFTER_US, self.now);
        }
    }

    fn confirm(&mut self, durable: &Durable) {
        if self.confirming.is_none()
            && let Some(group) = self.writer.to_be_confirmed()
        {
            self.confirming = Some((group, durable.settled()));
        }
        if let Some((group, _)) = self.confirming.take_if(|(_, groups)| durable.have_stated(groups)) {
            self.writer.confirm(group, self.now);
        }
    }

    /// Why this log has to end although its disk is sound, if so.
    pub fn is_dragged_down(&self, durable: &Durable, core: u32) -> Option<String> {
        if self.unsettled.is_empty() || !durable.cores.iter().any(|other| other.has_failed.load(Ordering::Acquire)) {
            return None;
        }
        let other = durable.ledger().is_dragged_down(core)?;
        Some(format!("the log of core {other} has failed in the middle of a transaction that this one has a part of"))
    }

    /// The reply of the command being applied waits for this group.
    pub fn wait_for(&mut self, group: u64) {
        self.waits_for = group;
    }

    /// What the reply of the command just applied waits for, 0 for nothing: what it wrote, or what it may have
    /// seen of the keys with these hashes.
    #[inline]
    pub fn gate_of_keys(&mut self, hashes: impl Iterator<Item = u64>) -> u64 {
        self.promised = None;
        let mut group = std::mem::take(&mut self.waits_for);
        if !self.writer.dirty.is_empty() {
            group = hashes.map(|hash| self.writer.dirty.group_of(hash)).fold(group, u64::max);
            if group > 0 {
                self.writer.want_sync_of(group);
            }
        }
        group
    }

    /// The same for a command that may have seen any key.
    pub fn gate_of_all(&mut self) -> u64 {
        self.promised = None;
        let group = std::mem::take(&mut self.waits_for).max(self.writer.dirty.newest());
        if group > 0 {
            self.writer.want_sync_of(group);
        }
        group
    }

    /// Logs again what was logged long ago, a bounded part of it, as far as the log is too long.
    pub fn copy(&mut self, shard: &Shard) {
        let counters = shard.counters();
        let payload = counters.key_bytes + counters.value_bytes;
        let live = compact::live_bytes(counters.keys, counters.keys_with_expiry, payload);
        let due = self.pace.due(&self.writer, live);
        self.copy_bytes(shard, due);
    }

    pub fn copy_bytes(&mut self, shard: &Shard, due: u64) {
        let mut copied = 0;
        while copied < due && !self.writer.is_overfull() && self.writer.failure().is_none() {
            let from = self.writer.progress();
            let cursor = (from as u32).reverse_bits() as u64;
            let (writer, now) = (&mut self.writer, self.now);
            let next = shard.visit_bucket(cursor, |key, value, expires_at_ms| {
                let large = match value {
                    ValueRef::Large(value) => Some(value),
                    ValueRef::Small(_) => None,
                };
                writer.copy(key, value.bytes(), large, expires_at_ms, now);
                copied += (key.len() + value.bytes().len()) as u64;
            });
            // Empty buckets are work, too.
            copied += 16;
            let next = (next as u32).reverse_bits() as u64;
            let round = from & !(u32::MAX as u64);
            let to = if next == 0 { round + (1 << 32) } else { round + next };
            self.writer.copied_to(to, now);
        }
        self.pace.copied(copied);
    }
}

/// Whether there were any.
fn drop_up_to(groups: &mut VecDeque<u64>, group: u64) -> bool {
    let before = groups.len();
    while groups.front().is_some_and(|first| *first <= group) {
        groups.pop_front();
    }
    groups.len() < before
}

impl Journal {
    #[inline]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What is logged until [`end_run`](Self::end_run) takes effect together after a crash, or not at all.
    /// Runs within a run belong to it.
    pub fn begin_run(&mut self) {
        if let Some(log) = &mut self.0 {
            if log.runs == 0 {
                log.writer.begin_run();
            }
            log.runs += 1;
        }
    }

    pub fn end_run(&mut self) {
        if let Some(log) = &mut self.0 {
            log.runs -= 1;
            if log.runs == 0 {
                log.writer.end_run();
            }
        }
    }
}

impl Effects for Journal {
    #[inline]
    fn set(&mut self, key: &[u8], value: ValueRef<'_>, expires_at_ms: Option<u64>) {
        if let Some(log) = &mut self.0 {
            let large = match value {
                ValueRef::Large(value) => Some(value),
                ValueRef::Small(_) => None,
            };
            log.writer.set(key, value.bytes(), large, expires_at_ms, log.now);
            log.changed(Some(key), true);
        }
    }

    fn append(&mut self, key: &[u8], tail: &[u8], value: ValueRef<'_>, expires_at_ms: Option<u64>) {
        if tail.len() >= LARGE_VALUE_BYTES_MIN {
            return self.set(key, value, expires_at_ms);
        }
        if let Some(log) = &mut self.0 {
            log.writer.change(Content::Append { key, tail }, log.now);
            log.changed(Some(key), true);
        }
    }

    fn promise(&mut self, durability: Durability) -> bool {
        match &mut self.0 {
            Some(log) => {
                log.promised = Some(durability);
                true
            }
            None => durability == Durability::None,
        }
    }

    fn remove(&mut self, key: &[u8], reason: Removal) {
        if let Some(log) = &mut self.0
            // Expired keys are known by their expiry when the log is read.
            && reason != Removal::Expired
        {
            log.writer.change(Content::Remove { key }, log.now);
            // Nobody waits for an eviction, but for what is said of the key afterwards.
            log.changed(Some(key), reason == Removal::Deleted);
        }
    }

    fn expire(&mut self, key: &[u8], expires_at_ms: Option<u64>) {
        if let Some(log) = &mut self.0 {
            log.writer.change(Content::Expire { key, expires_at_ms }, log.now);
            log.changed(Some(key), true);
        }
    }

    fn flush(&mut self) {
        if let Some(log) = &mut self.0 {
            log.writer.change(Content::Flush, log.now);
            log.changed(None, true);
        }
    }
}
