//! Who on a core wants to know what commands did to keys: the journal, and beside it whoever depends on keys.
//! While nobody does, the shard tells the journal alone.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Engine;
use super::filling::removed_keys;
use super::holding::HeldUp;
use super::journal::Journal;
use crate::command::{Op, Spec};
use crate::filling::{FillBounds, Flights};
use crate::pubsub::KeyspaceEvents;
use crate::request::{Args, Durability};
use crate::store::{Effects, Removal, ValueRef};
use crate::tracking::Tracking;
use crate::txn::Watches;

/// Something that has happened to a key and is to be published.
pub(super) struct KeyEvent {
    pub name: &'static str,
    pub key: Bytes,
}

pub(super) struct Listeners {
    /// Keys that transactions depend on.
    pub watches: Watches,
    /// What clients of all cores have read here.
    pub tracking: Tracking,
    /// Clients of this core that track: they are told when all keys are gone.
    pub trackers: usize,
    /// Keys of this core that clients fill in, and who waits for that.
    pub flights: Flights<HeldUp>,
    pub now_us: u64,
    /// What is published of keys.
    pub events_on: KeyspaceEvents,
    /// The command at hand: what it does to a key is called after it.
    op: Option<Op>,
    /// SET … KEEPTTL
    keeps_expiry: bool,
    /// The key that goes next has expired, whatever else is said of it.
    is_in_vain: bool,
    /// The session that writes and does not want to be told of it, 0 for none.
    writer: u64,
    // What is to be told when the command is done.
    pub events: Vec<KeyEvent>,
    pub invalid: Vec<(Bytes, Vec<u64>)>,
    pub all_invalid: bool,
}

impl Listeners {
    pub fn new(seed: u64, bounds: FillBounds) -> Listeners {
        Listeners {
            watches: Watches::default(),
            tracking: Tracking::default(),
            trackers: 0,
            flights: Flights::new(seed, bounds),
            now_us: 0,
            events_on: KeyspaceEvents::default(),
            op: None,
            keeps_expiry: false,
            is_in_vain: false,
            writer: 0,
            events: Vec::new(),
            invalid: Vec::new(),
            all_invalid: false,
        }
    }

    #[inline]
    pub fn is_idle(&self) -> bool {
        self.watches.is_empty()
            && self.tracking.is_empty()
            && self.trackers == 0
            && self.flights.is_empty()
            && !self.events_on.is_on()
    }

    /// A command is carried out, for this session.
    pub fn begin(&mut self, spec: &Spec, args: &Args<'_>, writer: u64) {
        self.op = Some(spec.op);
        self.keeps_expiry =
            spec.op == Op::Set && args.from(2).iter().any(|option| option.eq_ignore_ascii_case(b"keepttl"));
        self.writer = writer;
        if !self.flights.is_empty()
            && let Some(keys) = removed_keys(spec, args)
        {
            keys.for_each(|key| self.flights.void(key, self.now_us));
        }
    }

    /// Nobody's command: keys expire, or are evicted.
    pub fn begin_nothing(&mut self) {
        (self.op, self.writer) = (None, 0);
    }

    pub fn has_news(&self) -> bool {
        !self.events.is_empty() || !self.invalid.is_empty() || self.all_invalid || self.flights.has_woken()
    }

    /// Nothing that clients have read is what it was.
    pub fn forget_read(&mut self) {
        self.tracking.flushed();
        self.all_invalid = self.trackers > 0;
    }

    fn event(&mut self, class: KeyspaceEvents, name: &'static str, key: &[u8]) {
        if !self.events_on.has(class) {
            return;
        }
        let event = KeyEvent { name, key: Bytes::copy_from_slice(key) };
        match self.events.last() {
            // The new place of a key is taken before the old one is given up; told in the order of Redis.
            Some(last) if matches!((name, last.name), ("rename_from", "rename_to") | ("move_from", "move_to")) => {
                self.events.insert(self.events.len() - 1, event);
            }
            _ => self.events.push(event),
        }
    }

    /// Whether the command gives a key the value of another.
    fn moves(&self) -> bool {
        matches!(self.op, Some(Op::Rename | Op::RenameNx | Op::Copy | Op::Move))
    }

    fn changed(&mut self, key: &[u8], exists: bool) {
        self.watches.written(key, exists);
        if !self.tracking.is_empty() {
            let told = self.tracking.written(key, self.writer);
            if !told.is_empty() {
                self.invalid.push((Bytes::copy_from_slice(key), told));
            }
        }
    }

    fn set(&mut self, key: &[u8], expires_at_ms: Option<u64>) {
        self.changed(key, true);
        if !self.events_on.is_on() {
            return;
        }
        let (class, name) = match self.op {
            Some(Op::Append) => (KeyspaceEvents::STRING, "append"),
            Some(Op::SetRange) => (KeyspaceEvents::STRING, "setrange"),
            Some(Op::Incr | Op::Decr | Op::IncrBy | Op::DecrBy) => (KeyspaceEvents::STRING, "incrby"),
            Some(Op::IncrByFloat) => (KeyspaceEvents::STRING, "incrbyfloat"),
            Some(Op::Rename | Op::RenameNx) => (KeyspaceEvents::GENERIC, "rename_to"),
            Some(Op::Copy) => (KeyspaceEvents::GENERIC, "copy_to"),
            Some(Op::Move) => (KeyspaceEvents::GENERIC, "move_to"),
            _ => (KeyspaceEvents::STRING, "set"),
        };
        // Whatever had the name before, the key that gets it is new, as in Redis.
        if self.moves() {
            self.event(KeyspaceEvents::NEW, "new", key);
        }
        self.event(class, name, key);
        if name == "set" && expires_at_ms.is_some() && !self.keeps_expiry {
            self.event(KeyspaceEvents::GENERIC, "expire", key);
        }
    }
}

/// The journal and the listeners.
pub(super) struct All<'a> {
    pub journal: &'a mut Journal,
    pub listeners: &'a mut Listeners,
}

impl Effects for All<'_> {
    fn set(&mut self, key: &[u8], value: ValueRef<'_>, expires_at_ms: Option<u64>) {
        self.listeners.set(key, expires_at_ms);
        self.listeners.flights.written(key);
        self.journal.set(key, value, expires_at_ms);
    }

    fn append(&mut self, key: &[u8], tail: &[u8], value: ValueRef<'_>, expires_at_ms: Option<u64>) {
        self.listeners.set(key, expires_at_ms);
        self.listeners.flights.written(key);
        self.journal.append(key, tail, value, expires_at_ms);
    }

    fn promise(&mut self, durability: Durability) -> bool {
        self.journal.promise(durability)
    }

    fn fills(&mut self, key: &[u8], token: &[u8]) -> bool {
        self.listeners.flights.accepts(key, token)
    }

    fn remove(&mut self, key: &[u8], reason: Removal) {
        self.listeners.changed(key, false);
        let is_in_vain = std::mem::take(&mut self.listeners.is_in_vain);
        let (class, name) = match (reason, self.listeners.op) {
            _ if is_in_vain => (KeyspaceEvents::EXPIRED, "expired"),
            (Removal::Expired, _) => (KeyspaceEvents::EXPIRED, "expired"),
            (Removal::Evicted, _) => (KeyspaceEvents::EVICTED, "evicted"),
            (Removal::Deleted, Some(Op::Rename | Op::RenameNx)) => (KeyspaceEvents::GENERIC, "rename_from"),
            (Removal::Deleted, Some(Op::Move)) => (KeyspaceEvents::GENERIC, "move_from"),
            (Removal::Deleted, _) => (KeyspaceEvents::GENERIC, "del"),
        };
        // Who empties a database is not told of key by key.
        let is_flush = matches!(self.listeners.op, Some(Op::FlushDb | Op::NamespaceDel | Op::NamespaceFlush));
        if reason != Removal::Deleted || !is_flush {
            self.listeners.event(class, name, key);
        }
        if reason == Removal::Deleted {
            self.listeners.flights.void(key, self.listeners.now_us);
        }
        self.journal.remove(key, reason);
    }

    fn expire(&mut self, key: &[u8], expires_at_ms: Option<u64>) {
        self.listeners.changed(key, true);
        let name = if expires_at_ms.is_some() { "expire" } else { "persist" };
        self.listeners.event(KeyspaceEvents::GENERIC, name, key);
        self.journal.expire(key, expires_at_ms);
    }

    fn flush(&mut self) {
        self.listeners.watches.flushed();
        self.listeners.forget_read();
        self.listeners.flights.void_all(self.listeners.now_us);
        self.journal.flush();
    }

    fn create(&mut self, key: &[u8]) {
        if !self.listeners.moves() {
            self.listeners.event(KeyspaceEvents::NEW, "new", key);
        }
    }

    /// Told as if it had been there for a moment.
    fn set_in_vain(&mut self, key: &[u8], is_new: bool) {
        if is_new {
            self.listeners.event(KeyspaceEvents::NEW, "new", key);
        }
        self.listeners.event(KeyspaceEvents::STRING, "set", key);
        self.listeners.event(KeyspaceEvents::GENERIC, "expire", key);
        if is_new {
            self.listeners.event(KeyspaceEvents::EXPIRED, "expired", key);
        }
        self.listeners.is_in_vain = !is_new;
        self.listeners.flights.written(key);
    }

    fn miss(&mut self, key: &[u8]) {
        self.listeners.event(KeyspaceEvents::MISSED, "keymiss", key);
    }
}

/// Evaluates an expression in which `effects` are those that anybody on this core wants to know of. The shard is
/// compiled twice, so that the journal alone costs nothing more.
macro_rules! with_effects {
    ($engine:ident, $effects:ident => $apply:expr) => {
        if $engine.listeners.is_idle() {
            let $effects = &mut $engine.journal;
            $apply
        } else {
            let $effects =
                &mut $crate::engine::effects::All { journal: &mut $engine.journal, listeners: &mut $engine.listeners };
            $apply
        }
    };
}

impl Engine {
    /// Has to be called whenever somebody begins or ends to listen, or keys are held or let go.
    pub(super) fn note_watchfulness(&mut self) {
        self.is_watchful = !self.listeners.is_idle() || !self.holds.is_empty();
    }

    /// Has to be called when a command has been carried out, or anything else has changed keys.
    #[inline]
    pub(super) fn spread_news(&mut self) {
        if self.is_watchful && self.listeners.has_news() {
            self.spread_all_news();
        }
    }

    #[cold]
    fn spread_all_news(&mut self) {
        if self.listeners.flights.has_woken() {
            self.wake_fillers();
        }
        if std::mem::take(&mut self.listeners.all_invalid) {
            let sessions: BTreeSet<u64> = self.trackers.values().map(|tracker| tracker.session).collect();
            sessions.into_iter().for_each(|session| self.invalidate(session, None));
        }
        for (key, sessions) in std::mem::take(&mut self.listeners.invalid) {
            self.tell_sessions(&key, &sessions);
        }
        for KeyEvent { name, key } in std::mem::take(&mut self.listeners.events) {
            self.counters.keyspace_events += 1;
            let (database, key) = self.databases.within(&key);
            if self.listeners.events_on.has(KeyspaceEvents::KEYSPACE) {
                let channel = [format!("__keyspace@{database}__:").as_bytes(), key].concat();
                self.publish_event(&channel, name.as_bytes());
            }
            if self.listeners.events_on.has(KeyspaceEvents::KEYEVENT) {
                self.publish_event(format!("__keyevent@{database}__:{name}").as_bytes(), key);
            }
        }
    }
}
