//! MONITOR: clients that are shown every command of every core.
//!
//! While nobody monitors, no command is looked at for it. What is shown is bounded as messages are: a client that does
//! not take it is closed, and a core that does not keep up with the others is spared some of it.

use super::batch::{Job, Token};
use super::{Engine, Outcome};
use crate::command::{Flags, Op, Spec, spec_of};
use crate::connection::{Closing, Modes};
use crate::metrics::slow_log::push_quoted;
use crate::reply::{Out, Reply};
use crate::request::{ArgRange, Args, Wire};

impl Engine {
    /// MONITOR: the client is one from now on, and is told so when all cores know.
    pub(super) fn begin_monitoring(&mut self, index: u32, spec: &'static Spec) -> Option<Outcome> {
        let connection = self.connections[index as usize].as_deref_mut()?;
        if connection.wire == Wire::Binary {
            let error = Reply::error("ERR commands cannot be shown in binary frames: monitor with RESP");
            return Some(self.answer(index, spec, &error));
        }
        if !connection.modes.has(Modes::MONITORING) {
            connection.modes.set(Modes::MONITORING, true);
            connection.record.flags.monitors = true;
            self.monitors.push(index);
            self.config.commons.set_monitors(self.config.core, self.monitors.len());
        }
        None
    }

    /// The client monitors no more: RESET, or it is gone.
    pub(super) fn end_monitoring(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.modes.set(Modes::MONITORING, false);
            connection.record.flags.monitors = false;
        }
        let before = self.monitors.len();
        self.monitors.retain(|&monitor| monitor != index);
        if self.monitors.len() == before {
            return;
        }
        self.config.commons.set_monitors(self.config.core, self.monitors.len());
        self.note_closeness();
        let spec = spec_of(Op::Monitor);
        for core in (0..self.config.cores).filter(|&core| core != self.config.core) {
            self.outboxes[core as usize].open().push(
                Token::Nobody,
                Job::Command,
                Wire::Resp3,
                spec,
                0,
                Args::new(&[], &[], &[]),
            );
            self.counters.commands_forwarded_out += 1;
        }
    }

    /// Looks anew at whether commands have to be looked at one by one.
    pub(super) fn note_closeness(&mut self) {
        self.is_monitored = self.config.commons.is_monitored();
        let is_close = self.is_monitored || self.slow.log.is_fine() || self.client_pause.is_some();
        self.waits.look_closely(is_close);
    }

    /// A command is carried out.
    #[cold]
    pub(super) fn show_to_monitors(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) {
        if spec.flags.has(Flags::ADMIN) {
            return;
        }
        let Some(connection) = self.connections[index as usize].as_deref() else { return };
        let mut line = format!(
            "+{}.{:06} [0 {}]",
            self.now.unix_ms / 1000,
            self.now.unix_us_part,
            connection.record.address.for_monitors()
        )
        .into_bytes();
        push_quoted(&mut line, spec, &args);
        line.extend(b"\r\n");
        self.show_line(&line);
        for core in 0..self.config.cores {
            if core == self.config.core || !self.config.commons.has_monitors(core) {
                continue;
            }
            let outbox = &mut self.outboxes[core as usize];
            if outbox.is_congested() {
                self.counters.monitor_lines_skipped += 1;
                continue;
            }
            let ranges = [ArgRange::inline(0, line.len())];
            let args = Args::new(&line, &ranges, &[]);
            outbox.open().push(Token::Nobody, Job::Shown, Wire::Resp3, spec_of(Op::Monitor), 0, args);
            self.counters.commands_forwarded_out += 1;
        }
    }

    /// Hands a line to the clients of this core that monitor.
    pub(super) fn show_line(&mut self, line: &[u8]) {
        if self.monitors.is_empty() {
            return;
        }
        let mut message = Out::default();
        message.bytes.extend_from_slice(line);
        let soft_bytes = self.config.output_soft_bytes.min(self.config.subscriber_soft_bytes);
        for place in 0..self.monitors.len() {
            let index = self.monitors[place];
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
            if connection.closing != Closing::No {
                continue;
            }
            connection.push_message(&message, &mut self.outs);
            self.counters.monitor_lines += 1;
            if connection.unsent() > soft_bytes {
                self.overfull.push(index);
            }
            self.mark_dirty(index);
        }
        self.bound_subscribers();
    }
}
