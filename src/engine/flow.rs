//! What holds connections up and lets them go on: who has something to send, who has sent too much or too
//! little, who waits for another core.

use super::Engine;
use super::batch::Outbox;
use crate::command::Spec;
use crate::connection::{Closing, Modes, Pause, is_barrier};
use crate::limits;
use crate::reply::Out;

impl Engine {
    #[inline]
    pub(super) fn mark_dirty(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut()
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Has a connection looked at when replies are sent.
    pub fn touch(&mut self, index: u32) {
        self.mark_dirty(index);
    }

    /// Connections with something to send or to close, each once.
    pub fn next_dirty(&mut self) -> Option<u32> {
        let index = self.dirty.pop()?;
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.dirty = false;
        }
        self.account(index);
        Some(index)
    }

    /// Whether [`Engine::next_dirty`] has something.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Takes what a connection has ready to be sent.
    pub fn take_out(&mut self, index: u32) -> Option<Out> {
        let connection = self.connections[index as usize].as_deref_mut()?;
        if connection.out.is_empty() {
            // A buffer taken for a reply that the client did not want.
            self.outs.give_back(std::mem::take(&mut connection.out));
            return None;
        }
        Some(connection.take_out())
    }

    /// What a connection withholds is to leave now.
    pub fn stop_withholding(&mut self, index: u32, generation: u32) {
        if let Some(connection) = self.connection(index)
            && connection.generation == generation
            && connection.stop_withholding()
        {
            self.mark_dirty(index);
        }
    }

    /// The ring has sent all of what was taken.
    pub fn sent(&mut self, index: u32, out: Out) {
        self.counters.bytes_sent += out.len() as u64;
        self.send_ended(index, out);
    }

    /// The ring is done with what was taken, however much of it was sent.
    pub fn send_ended(&mut self, index: u32, out: Out) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.activity.bytes_sent += std::mem::take(&mut connection.in_flight) as u64;
            let more = !connection.out.is_empty() || connection.closing != Closing::No || connection.input_ended;
            if connection.pause.has(Pause::OUTPUT) && connection.unsent() <= self.config.output_soft_bytes / 2 {
                connection.pause.remove(Pause::OUTPUT);
                self.resume_later(index);
            }
            if more {
                self.mark_dirty(index);
            }
        }
        self.outs.give_back(out);
    }

    /// Pauses whoever has more unsent than the soft bound. Above the hard one subscribers are closed, others watched.
    #[inline]
    pub(super) fn bound_output(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let unsent = connection.unsent();
        let is_subscriber = connection.modes.has(Modes::SUBSCRIBED) || connection.modes.has(Modes::MONITORING);
        let hard_bytes = if is_subscriber { self.config.subscriber_hard_bytes } else { self.config.output_hard_bytes };
        if unsent > hard_bytes {
            if is_subscriber {
                self.close_overdue(index);
            } else if connection.overdue.is_none() {
                connection.overdue = Some((self.now.uptime_us, connection.taken()));
                self.overdue.push((index, connection.generation));
            }
        }
        if unsent > self.config.output_soft_bytes {
            self.pause_output(index);
        }
    }

    /// What is ready is enough for a send: nothing waits for other cores, so the rest of the pipeline can.
    #[inline(never)]
    pub(super) fn bound_portion(&mut self, index: u32) {
        match self.connections[index as usize].as_deref_mut() {
            Some(connection) if connection.pending_len() == 0 => self.pause_output(index),
            _ => self.bound_output(index),
        }
    }

    fn pause_output(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut()
            && !connection.pause.has(Pause::OUTPUT)
            && connection.closing != Closing::Now
        {
            connection.pause.add(Pause::OUTPUT);
            connection.output_paused_us = Some(self.now.uptime_us);
            self.output_paused.push((index, connection.generation));
        }
    }

    /// Whose replies left at once has only got them in portions; whoever is still paused reads slowly.
    pub(super) fn count_slow_readers(&mut self) {
        let mut paused = std::mem::take(&mut self.output_paused);
        let now_us = self.now.uptime_us;
        paused.retain(|&(index, generation)| {
            let Some(connection) = self.connection(index).filter(|it| it.generation == generation) else {
                return false;
            };
            let Some(since_us) = connection.output_paused_us else { return false };
            if !connection.pause.has(Pause::OUTPUT) {
                return false;
            }
            if now_us.saturating_sub(since_us) < limits::SLOW_READER_MS_MIN * 1000 {
                return true;
            }
            connection.output_paused_us = None;
            self.counters.slow_reader_pauses += 1;
            false
        });
        self.output_paused.append(&mut paused);
    }

    fn close_overdue(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut()
            && connection.closing != Closing::Now
        {
            let is_subscriber = connection.modes.has(Modes::SUBSCRIBED) || connection.modes.has(Modes::MONITORING);
            connection.closing = Closing::Now;
            self.counters.connections_closed_by_output_bound += 1;
            self.counters.subscribers_dropped += is_subscriber as u64;
            self.mark_dirty(index);
        }
    }

    /// Connections whose output is above the hard bound: index, generation.
    pub fn overdue(&self) -> &[(u32, u32)] {
        &self.overdue
    }

    /// So much of the send that is under way has been taken.
    pub fn note_taken(&mut self, index: u32, taken_of_send: u64) {
        if let Some(connection) = self.connection(index) {
            connection.taken_of_send = taken_of_send;
        }
    }

    /// Closes those whose output is above the hard bound and who take nothing of it.
    pub(super) fn close_stalled(&mut self) {
        let mut overdue = std::mem::take(&mut self.overdue);
        let (hard_bytes, now_us) = (self.config.output_hard_bytes, self.now.uptime_us);
        overdue.retain(|&(index, generation)| {
            let Some(connection) = self.connection(index).filter(|it| it.generation == generation) else {
                return false;
            };
            let Some((since_us, taken)) = connection.overdue else { return false };
            let taken_now = connection.taken();
            if connection.unsent() <= hard_bytes || connection.closing == Closing::Now {
                connection.overdue = None;
                return false;
            }
            if taken_now != taken {
                connection.overdue = Some((now_us, taken_now));
            } else if now_us.saturating_sub(since_us) >= limits::OUTPUT_STALL_MS_MAX * 1000 {
                self.close_overdue(index);
            }
            true
        });
        self.overdue.append(&mut overdue);
    }

    /// An awaited reply has come to a connection: who waited for the last of them goes on.
    #[inline]
    pub(super) fn reply_arrived(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            self.mesh_relieved |= connection.pause.has(Pause::MESH) && connection.awaits_little();
            if connection.lift_fence() {
                self.resume_later(index);
            }
        }
        self.mark_dirty(index);
        self.bound_output(index);
    }

    pub(super) fn resume_later(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut()
            && connection.can_resume()
            && !connection.resuming
        {
            connection.resuming = true;
            self.resumable.push(index);
        }
    }

    /// After a command for several cores, or for one that is not known here.
    pub(super) fn pause_if_congested(&mut self, index: u32, values: usize) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        connection.expect_of_last(values * limits::VALUE_BYTES_EXPECTED);
        if connection.awaits_enough() || self.outboxes.iter().any(Outbox::is_congested) {
            self.pause_for_mesh(index);
        }
    }

    pub(super) fn pause_for_mesh(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut()
            && !connection.pause.has(Pause::MESH)
        {
            connection.pause.add(Pause::MESH);
            self.mesh_paused.push(index);
            self.mark_dirty(index);
            self.counters.outbox_full_pauses += 1;
        }
    }

    /// Lets those go on that await little by now, unless the ways to other cores are full.
    pub(super) fn resume_mesh_paused(&mut self) {
        self.mesh_relieved = false;
        if self.mesh_paused.is_empty() || self.outboxes.iter().any(Outbox::is_congested) {
            return;
        }
        let mut paused = std::mem::take(&mut self.mesh_paused);
        paused.retain(|&index| {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { return false };
            if !connection.pause.has(Pause::MESH) {
                return false;
            }
            if !connection.awaits_little() {
                return true;
            }
            connection.pause.remove(Pause::MESH);
            if connection.can_resume() && !connection.resuming {
                connection.resuming = true;
                self.resumable.push(index);
            }
            false
        });
        self.mesh_paused.append(&mut paused);
    }

    /// The command is done; if later ones of its connection were held back, they may go on.
    pub(super) fn lift_barrier(&mut self, index: u32, spec: &'static Spec) {
        if is_barrier(spec)
            && let Some(connection) = self.connections[index as usize].as_deref_mut()
        {
            connection.pause.remove(Pause::BARRIER);
            self.resume_later(index);
            self.mark_dirty(index);
        }
    }

    /// The client has shut down its sending side.
    pub fn end_of_input(&mut self, index: u32) {
        if let Some(connection) = self.connection(index) {
            connection.input_ended = true;
            self.mark_dirty(index);
            // Perhaps it is gone for good: nobody is kept for a wait that may not end.
            if !self.sleepers.is_empty() {
                self.wake_for_the_end(index);
            }
        }
    }

    /// Answers what a connection has sent so far, then closes it.
    pub fn finish(&mut self, index: u32) {
        if let Some(connection) = self.connection(index)
            && connection.closing != Closing::Now
        {
            connection.closing = Closing::AfterReplies;
            connection.stop_lingering();
            self.mark_dirty(index);
        }
    }
}
