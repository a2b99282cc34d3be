//! What clients may hold and how long they may take: the memory of all together, of which whoever holds most goes first,
//! and the times of silence, of a request on its way, and of a client that has not said who it is.

use super::Engine;
use crate::connection::{Closing, Connection, Modes};
use crate::limits::{BEFORE_AUTH_MS_MAX, CLIENT_MEMORY_SCANS_PER_SECOND, IDLE_SWEEPS_PER_SECOND};

/// Looks for whoever holds most only when so much of the bound has moved since the last look.
const SCAN_SHARE: u64 = 64;

/// What the clients of one core hold.
#[derive(Default)]
pub(super) struct Kept {
    bytes: u64,
    /// When somebody looked for the largest, and what all held then.
    scanned_us: u64,
    bytes_at_scan: u64,
    /// The next connection that is looked at for silence, and when the last look was.
    sweep_at: usize,
    swept_us: u64,
}

impl Engine {
    /// Takes note of what the connection holds now.
    #[inline]
    pub(super) fn account(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let mut bytes = connection.held_bytes();
        if connection.modes.any() {
            bytes += self.transactions_bytes(index);
        }
        self.note_held(index, bytes);
    }

    /// What somebody is in the middle of queuing, the names it listens to, and the prefixes, which every core remembers.
    #[cold]
    fn transactions_bytes(&self, index: u32) -> usize {
        let prefixes = self.trackers.get(&index).map_or(0, |tracker| tracker.prefix_bytes());
        self.open_transactions.get(&index).map_or(0, |open| open.held_bytes())
            + self.subscriptions.bytes_of(index)
            + prefixes * self.config.cores as usize
    }

    #[inline]
    fn note_held(&mut self, index: u32, bytes: usize) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let before = std::mem::replace(&mut connection.bytes_accounted, bytes);
        self.kept.bytes = self.kept.bytes + bytes as u64 - before as u64;
    }

    pub(super) fn forget_held(&mut self, connection: &Connection) {
        self.kept.bytes -= connection.bytes_accounted as u64;
    }

    /// What the clients of this core hold, as far as it has been taken note of.
    pub fn held_by_clients(&self) -> u64 {
        self.kept.bytes
    }

    /// Closes whoever holds most, while all clients of all cores together hold more than they may.
    pub(super) fn bound_clients(&mut self) {
        let (commons, core) = (self.config.commons.clone(), self.config.core as usize);
        commons.held.publish(core, self.kept.bytes);
        let bytes_max = commons.held.bytes_max();
        if bytes_max == u64::MAX {
            return;
        }
        let now_us = self.now.uptime_us;
        let has_moved = self.kept.bytes.abs_diff(self.kept.bytes_at_scan) > bytes_max / SCAN_SHARE;
        let is_due = now_us.saturating_sub(self.kept.scanned_us) >= 1_000_000 / CLIENT_MEMORY_SCANS_PER_SECOND;
        if !has_moved && commons.held.excess() == 0 || !is_due {
            return;
        }
        (self.kept.scanned_us, self.kept.bytes_at_scan) = (now_us, self.kept.bytes);
        let mut clients: Vec<(usize, u32)> = Vec::new();
        for (index, connection) in self.connections.iter().enumerate() {
            if let Some(connection) = connection
                && connection.closing != Closing::Now
                && !connection.is_trusted
                && !connection.record.flags.no_evict
            {
                clients.push((connection.bytes_accounted, index as u32));
            }
        }
        clients.sort_unstable();
        let (mut excess, mut freed) = (commons.held.excess(), 0);
        while let Some(&(bytes, index)) = clients.last()
            && excess > 0
            && bytes > 0
            && bytes as u64 >= commons.held.largest_elsewhere(core)
        {
            clients.pop();
            excess = excess.saturating_sub(bytes as u64);
            freed += bytes as u64;
            if let Some(connection) = self.connections[index as usize].as_deref_mut() {
                connection.closing = Closing::Now;
            }
            self.counters.connections_closed_by_memory += 1;
            self.mark_dirty(index);
        }
        // Others must not close anybody for what is as good as gone.
        commons.held.publish(core, self.kept.bytes.saturating_sub(freed));
        commons.held.publish_largest(core, clients.last().map_or(0, |(bytes, _)| *bytes as u64));
    }

    /// Closes, a few connections at a time, those that are silent for too long, those whose request does not come to its
    /// end, and those that do not say who they are.
    pub(super) fn sweep(&mut self) {
        let count = self.connections.len();
        let elapsed_us = self.now.uptime_us.saturating_sub(self.kept.swept_us);
        // So many that all are looked at in a second.
        let due = (count as u64 * elapsed_us * IDLE_SWEEPS_PER_SECOND).div_ceil(1_000_000).min(count as u64);
        if elapsed_us < 10_000 || due == 0 {
            return;
        }
        self.kept.swept_us = self.now.uptime_us;
        for _ in 0..due {
            self.kept.sweep_at = (self.kept.sweep_at + 1) % count;
            self.look_at(self.kept.sweep_at as u32);
        }
    }

    fn look_at(&mut self, index: u32) {
        let (now_us, live) = (self.now.uptime_us, self.gatekeeper.live().clone());
        let must_authenticate = self.must_authenticate(index);
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.closing != Closing::No || connection.is_trusted {
            return;
        }
        let longer_than = |then_us: u64, ms: u64| ms > 0 && now_us.saturating_sub(then_us) > ms * 1000;
        let is_idle = longer_than(connection.activity.last_used_us, live.idle_timeout_ms)
            && !connection.modes.has(Modes::SUBSCRIBED)
            && connection.pending_len() == 0;
        let is_unknown = must_authenticate && longer_than(connection.record.created_us, BEFORE_AUTH_MS_MAX);
        let is_late = live.request_timeout_ms > 0 && connection.is_late(now_us, live.request_timeout_ms);
        if is_idle || is_unknown {
            self.counters.connections_closed_by_silence += 1;
        } else if is_late {
            self.counters.connections_closed_by_deadline += 1;
        } else {
            return;
        }
        connection.closing = Closing::Now;
        self.mark_dirty(index);
    }
}
