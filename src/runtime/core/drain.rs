//! The end: no new connections, and those there are take their last replies.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::warn;

use super::Core;
use crate::limits;

const DRAIN_STALL: Duration = Duration::from_millis(limits::DRAIN_STALL_MS_MAX);
const DRAIN: Duration = Duration::from_millis(limits::DRAIN_MS_MAX);

/// The end: connections take their last replies.
pub(super) struct Drain {
    since: Instant,
    /// When the last of it was taken, and how much had been sent by then.
    moved: Instant,
    bytes_sent: u64,
}

impl Core {
    /// No new connections; those there are get the replies they are owed and are closed.
    pub(super) fn begin_drain(&mut self, now: Instant) {
        self.draining = Some(Drain { since: now, moved: now, bytes_sent: self.ring.stats.bytes_sent });
        self.ring.stop_accepting();
        self.resting.clear();
        self.arrivals.clear();
        let open: Vec<u32> = self.ring.open_indexes().collect();
        for index in open {
            self.engine.finish(index);
        }
    }

    fn end_without_replies(&mut self) {
        let open: Vec<u32> = self.ring.open_indexes().collect();
        match open.len() {
            0 => {}
            1 => warn!("1 client has not taken its replies, and is closed without them"),
            count => warn!("{count} clients have not taken their replies, and are closed without them"),
        }
        for index in open {
            self.drop_connection(index);
        }
    }

    /// Whether every core has drained. Until then this one serves what others forward.
    pub(super) fn is_drained(&mut self, now: Instant) -> bool {
        let Some(drain) = &mut self.draining else { return false };
        if !self.ring.is_accepting() {
            // Who comes now is refused by the kernel.
            self.listeners.clear();
        }
        if self.ring.stats.bytes_sent != drain.bytes_sent {
            drain.bytes_sent = self.ring.stats.bytes_sent;
            drain.moved = now;
        }
        if now - drain.moved >= DRAIN_STALL || now - drain.since >= DRAIN {
            self.end_without_replies();
        }
        let own = !self.ring.is_accepting() && self.ring.open_sockets() == 0 && self.engine.is_quiet();
        if own && !self.drained {
            self.drained = true;
            self.shared.drained.fetch_add(1, Ordering::AcqRel);
        }
        self.shared.drained.load(Ordering::Acquire) == self.mesh.cores()
    }
}
