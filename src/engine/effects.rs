//! Who on a core wants to know what commands did to keys: the journal, and beside it whoever depends on keys.
//! While nobody does, the shard tells the journal alone.

use super::Engine;
use super::journal::Journal;
use crate::request::Durability;
use crate::store::{Effects, Removal, ValueRef};
use crate::txn::Watches;

#[derive(Default)]
pub(super) struct Listeners {
    /// Keys that transactions depend on.
    pub watches: Watches,
}

impl Listeners {
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.watches.is_empty()
    }
}

/// The journal and the listeners.
pub(super) struct All<'a> {
    pub journal: &'a mut Journal,
    pub listeners: &'a mut Listeners,
}

impl Effects for All<'_> {
    fn set(&mut self, key: &[u8], value: ValueRef<'_>, expires_at_ms: Option<u64>) {
        self.listeners.watches.written(key, true);
        self.journal.set(key, value, expires_at_ms);
    }

    fn append(&mut self, key: &[u8], tail: &[u8], value: ValueRef<'_>, expires_at_ms: Option<u64>) {
        self.listeners.watches.written(key, true);
        self.journal.append(key, tail, value, expires_at_ms);
    }

    fn promise(&mut self, durability: Durability) -> bool {
        self.journal.promise(durability)
    }

    fn remove(&mut self, key: &[u8], reason: Removal) {
        self.listeners.watches.written(key, false);
        self.journal.remove(key, reason);
    }

    fn expire(&mut self, key: &[u8], expires_at_ms: Option<u64>) {
        self.listeners.watches.written(key, true);
        self.journal.expire(key, expires_at_ms);
    }

    fn flush(&mut self) {
        self.listeners.watches.flushed();
        self.journal.flush();
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
}
