//! What becomes of the effects of commands: they are logged, if there is a log, and say which replies have to wait
//! until they are durable.
//!
//! A reply waits for a group of the log if its command has written something that is to be durable first, or if
//! what it says of a key may still be taken back by a crash. Groups become durable on the core that has them; all
//! cores see how far each has come in [`Durable`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::Now;
use crate::hash::KeyHasher;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::request::Durability;
use crate::store::{Effects, Removal, Shard, ValueRef};
use crate::wal::compact::{self, Pace};
use crate::wal::record::Content;
use crate::wal::writer::Writer;

/// A group of one core's log that a reply waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    pub core: u32,
    pub group: u64,
}

/// How far the log of each core has come.
pub struct Durable(Box<[Progress]>);

/// Written by its core alone.
#[repr(align(64))]
#[derive(Default)]
struct Progress {
    group: AtomicU64,
    has_failed: AtomicBool,
}

impl Durable {
    pub fn new(cores: usize) -> Durable {
        Durable((0..cores).map(|_| Progress::default()).collect())
    }

    #[inline]
    pub fn group_of(&self, core: u32) -> u64 {
        self.0[core as usize].group.load(Ordering::Acquire)
    }

    #[inline]
    pub fn has_passed(&self, gate: Gate) -> bool {
        self.group_of(gate.core) >= gate.group
    }

    /// Whether the core's log has ended for good: what it has not made durable by now never will be.
    pub fn has_failed(&self, core: u32) -> bool {
        self.0[core as usize].has_failed.load(Ordering::Acquire)
    }

    pub fn publish(&self, core: u32, group: u64, has_failed: bool) {
        self.0[core as usize].group.store(group, Ordering::Release);
        if has_failed {
            self.0[core as usize].has_failed.store(true, Ordering::Release);
        }
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
}

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
