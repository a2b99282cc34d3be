//! What every core may know of the others' subscriptions, before it sends them anything.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Kind;

/// Cells of one core. Two names in the same cell cost a needless message now and then, never a lost one.
const CELLS: usize = 4096;

/// Per core, how many of the names that its clients listen to fall into each cell. Each core writes its own
/// cells alone, when somebody is the first or the last to listen to a name; all read.
///
/// A SUBSCRIBE is answered after its cell has been counted up: whoever publishes because of that answer finds
/// it. Acquire and release make that so, whichever cores are involved.
pub struct Interest {
    cores: Box<[Cells]>,
}

#[repr(align(64))]
struct Cells {
    patterns: AtomicU32,
    channels: Box<[AtomicU32]>,
}

impl Interest {
    pub fn new(cores: usize) -> Interest {
        let cells = || Cells { patterns: AtomicU32::new(0), channels: (0..CELLS).map(|_| AtomicU32::new(0)).collect() };
        Interest { cores: (0..cores).map(|_| cells()).collect() }
    }

    fn counter(&self, core: u32, kind: Kind, hash: u64) -> &AtomicU32 {
        let cells = &self.cores[core as usize];
        // Shard channels are names of their own: the same text of the other kind falls elsewhere.
        match kind {
            Kind::Pattern => &cells.patterns,
            Kind::Channel => &cells.channels[hash as usize % CELLS],
            Kind::Shard => &cells.channels[(hash >> 32) as usize % CELLS],
        }
    }

    /// Somebody on `core` listens to a name that nobody there listened to. `hash` is the name's.
    pub fn add(&self, core: u32, kind: Kind, hash: u64) {
        self.counter(core, kind, hash).fetch_add(1, Ordering::Release);
    }

    /// Nobody on `core` listens to it any more.
    pub fn remove(&self, core: u32, kind: Kind, hash: u64) {
        let before = self.counter(core, kind, hash).fetch_sub(1, Ordering::Release);
        debug_assert!(before > 0, "more names were given up than taken");
    }

    /// Whether a message may find a listener on `core`.
    pub fn may_have_listeners(&self, core: u32, kind: Kind, hash: u64) -> bool {
        let listens = |kind| self.counter(core, kind, hash).load(Ordering::Acquire) > 0;
        listens(kind) || kind == Kind::Channel && listens(Kind::Pattern)
    }
}
