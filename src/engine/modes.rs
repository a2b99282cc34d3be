//! Connections on which a command is not simply carried out: those that listen to channels, and those between MULTI
//! and EXEC.

use super::access::Refused;
use super::clients::{ClientFlags, ReplyMode};
use super::{Engine, Outcome};
use crate::command::{Op, Spec};
use crate::connection::{Connection, Modes, is_barrier};
use crate::reply::{Reply, ReplyError};
use crate::request::{Args, Wire};

impl Engine {
    /// Whether a command may be carried out now. If not, it has been answered.
    #[cold]
    pub(super) fn admits(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> bool {
        let Some(connection) = self.connections[index as usize].as_deref() else { return false };
        if connection.modes.has(Modes::SUBSCRIBED) && connection.wire == Wire::Resp2 && !is_for_listeners(spec.op) {
            let error = format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
                 this context",
                spec.name
            );
            self.reject(index, spec, ReplyError::Other(error.into()));
            return false;
        }
        let modes = connection.modes;
        if modes.has(Modes::RESTRICTED)
            && let Some(refused) = self.refusal_of(index, spec, args)
        {
            match refused {
                Refused::Answered(error) => self.reject(index, spec, error),
                Refused::Delayed { wait_ms } => self.delay(index, spec, args, wait_ms),
            }
            return false;
        }
        if modes.has(Modes::QUEUING) && spec.op.changes_namespace() {
            // What was queued before and what comes after would be in different ones.
            let error = format!("ERR {} cannot be part of a transaction", spec.name.replace('|', " ").to_uppercase());
            self.reject(index, spec, ReplyError::Other(error.into()));
            return false;
        }
        if modes.has(Modes::QUEUING) && spec.op == Op::GetFill {
            // Nobody waits within a transaction.
            let is_fill = args.len() != 3 && args.len() != 5 || args.get(1).eq_ignore_ascii_case(b"FILL");
            let error = match is_fill {
                true => ReplyError::Other("ERR GET with FILL cannot be part of a transaction".into()),
                false => ReplyError::WrongArity { command: "get".into() },
            };
            self.reject(index, spec, error);
            return false;
        }
        let ends_queue = matches!(spec.op, Op::Exec | Op::Discard | Op::Multi | Op::Watch | Op::Quit | Op::Reset);
        if modes.has(Modes::QUEUING) && !ends_queue {
            self.queue(index, spec, args);
            self.after_rejection(index, spec);
            return false;
        }
        true
    }

    /// Answers a command that is not carried out.
    fn reject(&mut self, index: u32, spec: &'static Spec, error: ReplyError<'static>) {
        self.counters.count_rejected(spec.op, &error);
        self.fail_transaction(index);
        self.write_reply(index, &Reply::Error(error));
        self.after_rejection(index, spec);
    }

    /// A command has been answered without being carried out.
    fn after_rejection(&mut self, index: u32, spec: &'static Spec) {
        if is_barrier(spec) {
            self.lift_barrier(index, spec);
        }
        self.mark_dirty(index);
        self.bound_output(index);
    }

    /// RESET: the connection is as it was when it came.
    pub(super) fn reset(&mut self, index: u32) -> Outcome {
        self.end_subscriptions(index);
        self.abandon_transaction(index);
        self.end_monitoring(index);
        self.end_tracking(index);
        if let Some(id) = self.connections[index as usize].as_deref().map(|connection| connection.record.id) {
            self.forget_filler(index, id);
        }
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            if connection.wire == Wire::Resp3 {
                connection.wire = Wire::Resp2;
            }
            connection.set_reply_mode(ReplyMode::On);
            connection.record.name.clear();
            connection.record.flags = ClientFlags::default();
        }
        self.enter_database(index, 0);
        let is_trusted = self.connections[index as usize].as_deref().is_some_and(|connection| connection.is_trusted);
        self.begin_access(index, is_trusted);
        self.write_reply(index, &Reply::Status("RESET"))
    }

    /// The connection is gone: what it was in the middle of ends.
    #[cold]
    pub(super) fn leave_modes(&mut self, index: u32, connection: &Connection) {
        if connection.modes.has(Modes::SUBSCRIBED) {
            self.end_subscriptions(index);
        }
        if connection.modes.has(Modes::MONITORING) {
            self.end_monitoring(index);
        }
        if connection.modes.has(Modes::TRACKING) {
            self.end_tracking(index);
        }
        if connection.modes.has(Modes::QUEUING) || connection.modes.has(Modes::WATCHING) {
            self.abandon_transaction(index);
        }
    }
}

/// What a RESP2 connection may still send while messages come to it: their answers are arrays as well.
fn is_for_listeners(op: Op) -> bool {
    op.changes_subscriptions() || matches!(op, Op::Ping | Op::Quit | Op::Reset)
}
