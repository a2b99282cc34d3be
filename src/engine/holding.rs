//! Commands that meet held keys: they stand in line for them, and are answered when it is their turn.
//!
//! A box of the mesh never waits for keys: what has to wait in it is taken out, its box goes home without that
//! reply, and the reply follows in a box of this core ([`Job::Late`]). So whoever holds keys can always be reached.

use bytes::Bytes;

use super::Engine;
use super::batch::{Batch, Job, Remote, Token};
use super::durability::gate_of_command;
use super::journal::Gate;
use crate::command::{Op, Route, Spec, spec_of};
use crate::limits;
use crate::metrics::ErrorCode;
use crate::proto;
use crate::reply::{Out, Reply};
use crate::request::{ArgRange, Args, Call, Wire};
use crate::txn::Ticket;
use crate::wal::record::TransactionId;

/// A command or the request for a hold, while others come first.
pub(super) struct HeldUp {
    /// Which core is to be answered.
    pub(super) origin: u32,
    /// A batch of one.
    pub(super) call: Box<Batch>,
}

impl Engine {
    /// A command for a key of this core, while keys are held or somebody listens to what becomes of them.
    #[cold]
    pub(super) fn carry_out_watchfully(&mut self, index: u32, spec: &'static Spec, hash: u64, args: Args<'_>) {
        if self.holds.block(std::iter::once(args.get(spec.key_arg()))) {
            self.stand_in_line_here(index, spec, hash, args);
            self.pause_if_congested(index, 0);
        } else {
            self.begin_effects_of(index, spec, args);
            let call = Call { spec, args, hash };
            let reply = with_effects!(self, effects => self.shard.apply(&call, self.now, effects));
            if let Reply::Error(error) = &reply {
                self.counters.count_failed(spec.op, error);
            }
            let group = gate_of_command(&mut self.journal, &self.config.hasher, spec, args);
            if let Some(connection) = self.connections[index as usize].as_deref_mut() {
                if group > 0 {
                    self.waits.hold(connection, index, Gate { core: self.config.core, group });
                    connection.reply_held(&reply, &mut self.outs);
                } else {
                    connection.reply(&reply, &mut self.outs);
                }
            }
            self.latency.answered(spec.op);
            self.spread_news();
        }
        self.mark_dirty(index);
        self.bound_output(index);
    }

    /// Whether keys of a command for this core alone are held by somebody.
    #[inline]
    pub(super) fn is_held_up(&self, spec: &Spec, args: Args<'_>) -> bool {
        self.is_watchful
            && matches!(spec.route, Route::Key | Route::Split | Route::Pair)
            && self.holds.block(spec.key_args(args.len()).map(|arg| args.get(arg)))
    }

    /// A client's command waits for keys of this core.
    pub(super) fn stand_in_line_here(&mut self, index: u32, spec: &'static Spec, hash: u64, args: Args<'_>) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let token = Token::Connection { index, generation: connection.generation, sequence: connection.await_reply() };
        let mut call = Box::<Batch>::default();
        call.push(token, Job::Command, connection.wire, spec, hash, args);
        self.wait_for_keys(self.config.core, call);
    }

    /// A command of another core, or of a gather here, waits for keys of this core.
    pub(super) fn stand_in_line(&mut self, origin: u32, token: Token, wire: Wire, spec: &'static Spec, args: Args<'_>) {
        let hash = match spec.route {
            Route::Key => self.config.hasher.hash(args.get(spec.key_arg())),
            _ => 0,
        };
        let mut call = Box::<Batch>::default();
        call.push(token, Job::Command, wire, spec, hash, args);
        self.wait_for_keys(origin, call);
    }

    pub(super) fn wait_for_keys(&mut self, origin: u32, call: Box<Batch>) {
        self.counters.commands_held_up += 1;
        let command = call.commands[0];
        let args = call.args_of(&command);
        let count = if command.job == Job::Fill { 1 } else { args.len() };
        let keys = command.spec.key_args(count);
        let (ticket, granted) = match keys.len() > limits::HELD_KEYS_MAX {
            true => self.holds.claim_whole(HeldUp { origin, call }),
            false => {
                let keys = keys.map(|arg| args.to_bytes(arg)).collect();
                self.holds.claim(keys, HeldUp { origin, call })
            }
        };
        self.go_on_with(granted.map(|held_up| (ticket, held_up)));
    }

    /// A step of a flush waits for whoever holds keys of this core, and is carried out while nobody does: however many
    /// transactions there are, its turn comes.
    pub(super) fn wait_for_core(&mut self, origin: u32, token: Token, spec: &'static Spec, args: Args<'_>) {
        let mut call = Box::<Batch>::default();
        call.push(token, Job::Sweep, Wire::Resp3, spec, 0, args);
        let (ticket, granted) = self.holds.claim_whole(HeldUp { origin, call });
        self.go_on_with(granted.map(|held_up| (ticket, held_up)));
    }

    /// Whether a command that another core sent has to wait; if so, its box goes home without its reply.
    pub(super) fn is_put_off(&mut self, origin: u32, command: &Remote, args: Args<'_>) -> bool {
        match command.job {
            Job::Hold => !self.claim(origin, command, args),
            Job::Command if self.is_held_up(command.spec, args) => {
                self.stand_in_line(origin, command.token, command.wire, command.spec, args);
                true
            }
            Job::Sweep if !self.holds.is_empty() => {
                self.wait_for_core(origin, command.token, command.spec, args);
                true
            }
            Job::Fill if self.is_held_up(command.spec, args.slice(0, 1)) => {
                let mut call = Box::<Batch>::default();
                call.push(command.token, Job::Fill, command.wire, command.spec, 0, args);
                self.wait_for_keys(origin, call);
                true
            }
            _ => false,
        }
    }

    // ---- holds ----------------------------------------------------------------------------------

    /// A transaction asks for keys: whether it has them now. If not, it is answered when it does.
    pub(super) fn claim(&mut self, origin: u32, command: &Remote, args: Args<'_>) -> bool {
        let hold = Hold::parse(args);
        let mut call = Box::<Batch>::default();
        call.push(command.token, Job::Hold, command.wire, command.spec, 0, args);
        let held_up = HeldUp { origin, call };
        let (ticket, granted) = match hold.is_whole {
            true => self.holds.claim_whole(held_up),
            false => self.holds.claim(hold.keys().map(|arg| args.to_bytes(arg)).collect(), held_up),
        };
        self.note_watchfulness();
        if granted.is_some() {
            self.held.insert(hold.id, ticket);
        }
        granted.is_some()
    }

    /// Whether what the transaction watches on this core is what it was. Its keys are held.
    pub(super) fn hold_share(&mut self, args: Args<'_>) -> Reply<'static> {
        let hold = Hold::parse(args);
        // Before anything of it is done anywhere: what is half refused would be half done.
        if hold.writes
            && let Some(refusal) = self.waits.refusal_of_writes(&self.journal)
        {
            return refusal;
        }
        let mut is_unchanged = true;
        for watched in 0..hold.watched {
            let (key, version) = (args.get(3 + 2 * watched), number(args.get(4 + 2 * watched)));
            // Notices that its time has come.
            self.exists(key);
            is_unchanged &= self.listeners.watches.is_unchanged(key, version);
        }
        Reply::Int(is_unchanged as i64)
    }

    /// All holds of a transaction are granted: what it does to this core's keys now is its part in the log.
    pub(super) fn begin_part(&mut self, args: Args<'_>) {
        if let Some(log) = &mut self.journal.0 {
            let id = TransactionId { origin: number(args.get(1)), number: number(args.get(2)) };
            log.begin_part(&self.config.durable, self.config.core, id, args.get(3));
            self.parts.insert(number(args.get(0)), id);
        }
    }

    /// A transaction is done with this core.
    pub(super) fn release_hold(&mut self, id: u64) {
        if let (Some(part), Some(log)) = (self.parts.remove(&id), &mut self.journal.0) {
            log.finish_part(&self.config.durable, self.config.core, part);
        }
        if let Some(ticket) = self.held.remove(&id) {
            self.release(ticket);
        }
    }

    fn release(&mut self, ticket: Ticket) {
        let mut granted = Vec::new();
        self.holds.release(ticket, &mut granted);
        if !self.late_reads.is_empty() {
            self.enter_late_reads();
        }
        self.note_watchfulness();
        self.go_on_with(granted);
    }

    /// Those whose turn it is. One after the other, however many wait for one another.
    fn go_on_with(&mut self, granted: impl IntoIterator<Item = (Ticket, HeldUp)>) {
        self.granted.extend(granted);
        if std::mem::replace(&mut self.grants, true) {
            return;
        }
        while let Some((ticket, held_up)) = self.granted.pop_front() {
            self.go_on(ticket, held_up);
        }
        self.grants = false;
    }

    fn go_on(&mut self, ticket: Ticket, held_up: HeldUp) {
        let HeldUp { origin, call } = held_up;
        let command = call.commands[0];
        let args = call.args_of(&command);
        self.listeners.begin(command.spec, &args, 0);
        let mut written = self.outs.take();
        match command.job {
            Job::Hold => {
                self.held.insert(Hold::parse(args).id, ticket);
                let reply = self.hold_share(args);
                proto::encode(command.wire, &reply, &mut written);
            }
            Job::Fill => {
                if !self.fill_for(origin, &command, args, &mut written) {
                    self.outs.give_back(written);
                    self.release(ticket);
                    return self.spread_news();
                }
            }
            _ => {
                let reply = self.share(command.job, command.spec, args);
                let failed = match &reply {
                    Reply::Error(error) => Some(ErrorCode::of(error)),
                    _ => None,
                };
                proto::encode(command.wire, &reply, &mut written);
                if let (Some(code), Token::Connection { .. }) = (failed, command.token) {
                    self.counters.ops[command.spec.op].failed += 1;
                    self.counters.count_error(code);
                }
            }
        }
        self.spread_news();
        let group = self.gate_of(command.job, command.spec, args);
        self.answer_late(origin, command.token, &written, group);
        self.outs.give_back(written);
        if command.job != Job::Hold {
            self.release(ticket);
        }
    }

    // ---- late replies ---------------------------------------------------------------------------

    /// Answers a command that had to wait, wherever it came from.
    pub(super) fn answer_late(&mut self, origin: u32, token: Token, written: &Out, group: u64) {
        if origin == self.config.core {
            let gate = (group > 0).then_some(Gate { core: origin, group });
            return self.late_reply(token, written, gate);
        }
        if group > 0 {
            self.waits.gave(origin, group);
        }
        self.send_late(origin, token, written, group);
    }

    /// `token`, `core` and `group` of the log that it waits for, then the reply in pieces.
    fn send_late(&mut self, origin: u32, token: Token, written: &Out, group: u64) {
        let mut ranges = Vec::new();
        let mut bytes = Vec::new();
        for part in [&token.to_bytes()[..], &u64::from(self.config.core).to_le_bytes(), &group.to_le_bytes()] {
            ranges.push(ArgRange::inline(bytes.len(), part.len()));
            bytes.extend_from_slice(part);
        }
        let mut large: Vec<Bytes> = Vec::new();
        let mut from = 0;
        let mut piece = |end: usize, bytes: &mut Vec<u8>, ranges: &mut Vec<ArgRange>| {
            ranges.push(ArgRange::inline(bytes.len(), end - from));
            bytes.extend_from_slice(&written.bytes[from..end]);
            from = end;
        };
        for (offset, value) in &written.large {
            piece(*offset, &mut bytes, &mut ranges);
            ranges.push(ArgRange::large(large.len()));
            large.push(value.clone());
        }
        piece(written.bytes.len(), &mut bytes, &mut ranges);
        let args = Args::new(&bytes, &ranges, &large);
        let outbox = self.outboxes[origin as usize].open();
        outbox.push(Token::Nobody, Job::Late, Wire::Resp3, spec_of(Op::Exec), 0, args);
        self.counters.commands_forwarded_out += 1;
    }

    /// The reply of a command of this core that had to wait on another.
    pub(super) fn late_share(&mut self, args: Args<'_>) {
        let mut written = self.outs.take();
        for piece in 3..args.len() {
            match args.large(piece) {
                Some(value) => written.push_large(value.clone()),
                None => written.bytes.extend_from_slice(args.get(piece)),
            }
        }
        let gate = Gate { core: number(args.get(1)) as u32, group: number(args.get(2)) };
        let is_open = gate.group == 0 || self.config.durable.has_passed(gate);
        self.late_reply(Token::from_bytes(args.get(0)), &written, (!is_open).then_some(gate));
        self.outs.give_back(written);
    }

    fn late_reply(&mut self, token: Token, written: &Out, gate: Option<Gate>) {
        let range = 0..written.bytes.len();
        match token {
            Token::Nobody => {}
            Token::Connection { index, generation, sequence } => {
                let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
                if connection.generation != generation {
                    return;
                }
                let gates = gate.into_iter().collect();
                connection.complete_with_range(sequence, written, range, 0, gates, &mut self.outs);
                if self.awaits_measured() {
                    self.end_awaited(index, generation, sequence);
                }
                if let Some(gate) = gate {
                    self.waits.wait(gate, index, generation);
                }
                self.reply_arrived(index);
            }
            Token::Gather { index, part } => {
                let reply = match proto::reply::parse_written(written, range, 0) {
                    Ok(Some(reply)) => reply,
                    _ => Reply::error("ERR internal: unreadable answer from another core"),
                };
                self.gathered(index, part, reply, gate);
            }
        }
    }

    // ---- watching -------------------------------------------------------------------------------

    /// Whether `key` is there; if its time has come, it goes now.
    pub(super) fn exists(&mut self, key: &[u8]) -> bool {
        with_effects!(self, effects => self.shard.contains(key, self.now, effects))
    }

    /// Somebody watches a key of this core: its version.
    pub(super) fn watch_share(&mut self, args: Args<'_>) -> Reply<'static> {
        let key = args.get(0);
        let exists = self.exists(key);
        let version = self.listeners.watches.watch(key, exists);
        self.note_watchfulness();
        Reply::Int(version as i64)
    }

    /// Somebody watches these keys of this core no more.
    pub(super) fn unwatch_share(&mut self, args: Args<'_>) {
        for key in args.iter() {
            self.listeners.watches.unwatch(key);
        }
        self.note_watchfulness();
    }
}

#[cfg(test)]
impl Engine {
    pub fn held_keys(&self) -> usize {
        self.held.len() + !self.holds.is_empty() as usize
    }

    /// Whether a ticket for the whole core is there.
    pub fn holds_all(&self) -> bool {
        self.holds.block(std::iter::empty())
    }

    /// Those that are held, or waited for, one by one.
    pub fn keys_in_line(&self) -> usize {
        self.holds.keys()
    }

    pub fn watched_keys(&self) -> usize {
        self.listeners.watches.len()
    }
}

/// Of the arguments of [`Job::Hold`].
pub(super) const HOLD_WHOLE: u64 = 1;
pub(super) const HOLD_WRITES: u64 = 2;

/// The arguments of [`Job::Hold`]: who asks, whether for the whole core and to write, how many keys it watches, each
/// with its version, and the other keys.
struct Hold {
    id: u64,
    is_whole: bool,
    writes: bool,
    watched: usize,
    args: usize,
}

impl Hold {
    fn parse(args: Args<'_>) -> Hold {
        let (flags, watched) = (number(args.get(1)), number(args.get(2)) as usize);
        let (is_whole, writes) = (flags & HOLD_WHOLE != 0, flags & HOLD_WRITES != 0);
        Hold { id: number(args.get(0)), is_whole, writes, watched, args: args.len() }
    }

    /// Where its keys stand: those that are watched are held as well.
    fn keys(&self) -> impl Iterator<Item = usize> {
        let others = 3 + 2 * self.watched;
        (3..others).step_by(2).chain(others..self.args)
    }
}

pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}
