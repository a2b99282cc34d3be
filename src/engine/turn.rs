//! A turn's commands: from received bytes, over routing and prefetching, to the shard, the outbox of another
//! core or whoever else answers.

use super::batch::{Batch, Job, Token};
use super::journal::Gate;
use super::{Engine, Outcome, cluster};
use crate::command::{Op, Route, Spec};
use crate::connection::{Closing, Decoded, Deferred, LargeIn, Modes, Received, Refusal, Source, TurnBatch, What};
use crate::limits;
use crate::metrics::ErrorCode;
use crate::reply::Reply;
use crate::request::{Args, Call};
use crate::slot;

impl Engine {
    /// Bytes have arrived for a connection in receive buffer `buffer`. Commands are applied whenever a
    /// batch is full, and the rest by [`Engine::run`]; until then the buffer must not be reused.
    pub fn receive(&mut self, index: u32, buffer: u16, received: &impl Received) {
        let input = received.bytes(buffer);
        self.counters.bytes_received += input.len() as u64;
        if let Some(connection) = self.connection(index) {
            connection.activity.bytes_received += input.len() as u64;
        }
        self.take_input(index, input, Source::Buffer(buffer), received);
        self.account(index);
        // Who has put aside all it may has to be told to receive no more.
        if self.connection(index).is_some_and(|connection| !connection.wants_input()) {
            self.mark_dirty(index);
        }
    }

    /// The same for bytes that somebody has made of what was received.
    pub fn receive_owned(&mut self, index: u32, input: Vec<u8>, received: &impl Received) {
        self.counters.bytes_received += input.len() as u64;
        let Some(connection) = self.connection(index) else { return };
        connection.activity.bytes_received += input.len() as u64;
        if connection.is_held() {
            connection.put_aside(&input);
        } else {
            self.take_stash(index, input, 0, received);
        }
        self.account(index);
        if self.connection(index).is_some_and(|connection| !connection.wants_input()) {
            self.mark_dirty(index);
        }
    }

    pub(super) fn take_input(&mut self, index: u32, input: &[u8], source: Source, received: &impl Received) {
        let mut from = 0;
        loop {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
            let limits = if connection.modes.any() { self.limits_of(index) } else { self.limits };
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
            from = connection.receive(index, input, from, source, &mut self.turn, &limits);
            if from >= input.len() {
                break;
            }
            // The batch is full, or a barrier ends it; many a barrier is lifted by being carried out.
            self.run(received);
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
            if connection.is_held() {
                connection.put_aside(&input[from..]);
                break;
            }
        }
        if self.turn.is_full() {
            self.run(received);
        }
    }

    /// Decodes what paused connections have been holding, as far as they are free to go on.
    pub fn resume(&mut self, received: &impl Received) {
        if self.mesh_relieved {
            self.resume_mesh_paused();
        }
        // Whoever has to be resumed again meanwhile waits for the next turn, so that nobody starves.
        let mut due = std::mem::replace(&mut self.resumable, std::mem::take(&mut self.resumable_spare));
        for index in due.drain(..) {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
            connection.resuming = false;
            self.carry_out_deferred(index);
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
            if connection.pause.any() || connection.defers() {
                continue;
            }
            let (stash, from) = connection.take_stash();
            if from < stash.len() {
                self.take_stash(index, stash, from, received);
            } else {
                // The end of a large value may have made a command whole meanwhile.
                self.take_input(index, &[], Source::Scratch, received);
            }
            self.mark_dirty(index);
        }
        self.resumable_spare = due;
    }

    /// Carries out what was decoded before the connection had to wait for its output to drain.
    pub(super) fn carry_out_deferred(&mut self, index: u32) {
        while let Some(connection) = self.connections[index as usize].as_deref_mut()
            && let Some(deferred) = connection.next_deferred()
        {
            match deferred {
                Deferred::Refusal(refusal) => self.refuse(index, refusal),
                Deferred::Call(call) => {
                    let command = call.commands[0];
                    let args = call.args_of(&command);
                    let owner = match command.spec.route {
                        Route::Key => self.owner_of(args.get(command.spec.key_arg())),
                        _ => self.config.core,
                    };
                    self.carry_out(index, owner, &Call { spec: command.spec, args, hash: command.hash });
                    self.end_running();
                }
            }
        }
    }

    /// The stash becomes an input of its own: commands in it are decoded in place.
    pub(super) fn take_stash(&mut self, index: u32, mut stash: Vec<u8>, mut from: usize, received: &impl Received) {
        loop {
            let piece = self.turn.assembled.len();
            self.turn.assembled.push(Vec::new());
            let source = Source::Assembled(piece as u32);
            let limits = self.limits_of(index);
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
            from = connection.receive(index, &stash, from, source, &mut self.turn, &limits);
            self.turn.assembled[piece] = stash;
            if from >= self.turn.assembled[piece].len() {
                break;
            }
            self.turn.keep = Some(piece);
            self.run(received);
            stash = self.turn.kept.take().unwrap_or_default();
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
            if connection.is_held() {
                return connection.restore_stash(stash, from);
            }
        }
        if self.turn.is_full() {
            self.run(received);
        }
    }

    /// Whether there are connections that [`Engine::resume`] would go on with.
    pub fn has_resumable(&self) -> bool {
        !self.resumable.is_empty() || self.mesh_relieved
    }

    /// Applies everything decoded so far: buckets are prefetched for the whole batch, then items, so
    /// that by the time a command is applied its memory has arrived.
    pub fn run(&mut self, received: &impl Received) {
        if self.turn.commands.is_empty() {
            self.turn.clear();
            return;
        }
        let spare = self.turn_spare.take().unwrap_or_default();
        let mut turn = std::mem::replace(&mut self.turn, spare);
        let mut commands = std::mem::take(&mut turn.commands);
        for command in &mut commands {
            if let What::Command(spec) = command.what
                && spec.route == Route::Key
            {
                let key = turn.args_of(command, received).get(spec.key_arg());
                command.hash = self.config.hasher.hash(key);
                command.owner =
                    if self.config.cores == 1 { 0 } else { slot::owner_of_slot(slot::slot_of(key), self.config.cores) };
                if command.owner == self.config.core {
                    self.shard.prefetch_bucket(command.hash);
                }
            }
        }
        if commands.len() > 2 {
            for command in &commands {
                if let What::Command(spec) = command.what
                    && spec.route == Route::Key
                    && command.owner == self.config.core
                {
                    self.shard.prefetch_item(command.hash);
                }
            }
        }
        for command in &commands {
            self.apply(command, &mut turn, received);
        }
        self.end_running();
        commands.clear();
        turn.commands = commands;
        turn.clear();
        self.turn_spare = Some(std::mem::replace(&mut self.turn, turn));
    }

    pub(super) fn apply(&mut self, command: &Decoded, turn: &mut TurnBatch, received: &impl Received) {
        let index = command.connection;
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.closing != Closing::No {
            return;
        }
        let defers = connection.defers();
        match command.what {
            What::Command(spec) => {
                let args = turn.args_of(command, received);
                if defers {
                    let mut call = Box::<Batch>::default();
                    let token = Token::Gather { index: 0, part: 0 };
                    call.push(token, Job::Command, connection.wire, spec, command.hash, args);
                    connection.defer(Deferred::Call(call));
                } else {
                    self.carry_out(index, command.owner, &Call { spec, args, hash: command.hash });
                }
            }
            What::Refused(refusal) => {
                let nothing = Refusal { reply: Reply::None, close: false, spec: None };
                let refusal = std::mem::replace(&mut turn.refusals[refusal as usize], nothing);
                if defers {
                    connection.defer(Deferred::Refusal(refusal));
                } else {
                    self.refuse(index, refusal);
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, index: u32, refusal: Refusal) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if let Reply::Error(error) = &refusal.reply {
            match refusal.spec {
                Some(spec) => self.counters.count_rejected(spec.op, error),
                None => self.counters.count_error(ErrorCode::of(error)),
            }
        }
        if refusal.close {
            self.counters.protocol_errors += 1;
            match refusal.reply {
                // Whoever is closed without an answer has nothing to read.
                Reply::None => connection.closing = Closing::AfterReplies,
                _ => connection.close_after_error(),
            }
        }
        connection.reply(&refusal.reply, &mut self.outs);
        if connection.modes.any() {
            self.fail_transaction(index);
        }
        self.mark_dirty(index);
        self.bound_output(index);
    }

    /// Borrows the call, because to read a fresh copy of it stalls until all its parts are written.
    pub(super) fn carry_out(&mut self, index: u32, owner: u32, call: &Call<'_>) {
        let spec = call.spec;
        let Some(mut connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.modes.any() || self.waits.restricts || call.args.may_be_large() {
            if self.is_refused(index, owner, call) {
                return;
            }
            let Some(same) = self.connections[index as usize].as_deref_mut() else { return };
            connection = same;
        }
        self.counters.count_call(spec.op);
        connection.activity.last_command = Some(spec);
        connection.activity.last_used_us = self.now.uptime_us;
        connection.activity.commands += 1;
        if spec.route == Route::Key {
            if owner == self.config.core {
                if self.is_watchful {
                    return self.carry_out_watchfully(index, spec, call.hash, call.args);
                }
                let reply = self.shard.apply(call, self.now, &mut self.journal);
                if let Reply::Error(error) = &reply {
                    self.counters.count_failed(spec.op, error);
                }
                if let Some(log) = &mut self.journal.0 {
                    let group = log.gate_of_keys(std::iter::once(call.hash));
                    if group > log.writer.settled() {
                        self.waits.hold(connection, index, Gate { core: self.config.core, group });
                        connection.reply_held(&reply, &mut self.outs);
                    } else {
                        connection.reply(&reply, &mut self.outs);
                    }
                } else {
                    connection.reply(&reply, &mut self.outs);
                }
                if !connection.dirty {
                    connection.dirty = true;
                    self.dirty.push(index);
                }
                if connection.unsent() > limits::OUTPUT_PORTION_BYTES.min(self.config.output_soft_bytes) {
                    self.bound_portion(index);
                }
                self.latency.answered(spec.op);
                return;
            }
            if connection.own_port && self.config.topology.enabled {
                let key = call.args.get(spec.key_arg());
                let reply = self.moved(index, slot::slot_of(key));
                self.redirect(index, spec, &reply);
            } else {
                let token =
                    Token::Connection { index, generation: connection.generation, sequence: connection.await_reply() };
                let outbox = &mut self.outboxes[owner as usize];
                outbox.open().push(token, Job::Command, connection.wire, spec, call.hash, call.args);
                self.counters.commands_forwarded_out += 1;
                if outbox.is_congested() || connection.awaits_enough() {
                    self.pause_for_mesh(index);
                }
                return;
            }
        } else {
            let timing = self.slow.measures(spec, call.args.len()).then(|| self.begin_timing(index));
            match self.apply_other(index, spec, call.args) {
                Outcome::Answered => {
                    self.latency.answered(spec.op);
                    self.lift_barrier(index, spec);
                }
                Outcome::Awaited => {
                    let values = if spec.op == Op::MGet { call.args.len() } else { 0 };
                    self.pause_if_congested(index, values);
                }
            }
            if let Some(timing) = timing {
                self.end_timing(index, spec, call.args, timing);
            }
        }
        self.mark_dirty(index);
        self.bound_output(index);
    }

    /// Whether commands have been answered whose time is not recorded.
    #[inline]
    pub fn has_answered(&self) -> bool {
        self.latency.has_answered()
    }

    /// What was answered since the last call took so long.
    pub fn record_latency(&mut self, elapsed_ns: u64) {
        self.note_events(elapsed_ns);
        self.latency.end_of_batch(elapsed_ns);
    }

    /// Whether the command may not be carried out now; then it has been answered, or waits.
    #[inline(never)]
    fn is_refused(&mut self, index: u32, owner: u32, call: &Call<'_>) -> bool {
        let spec = call.spec;
        if self.client_pause.is_some() && self.waits_for_pause(index, call) {
            return true;
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return true };
        if connection.modes.any() && !self.admits(index, spec, call.args) {
            return true;
        }
        let mut is_held_back = false;
        if self.waits.restricts {
            // Whoever is turned away is not counted after all, and so has to be counted first.
            self.counters.count_call(spec.op);
            is_held_back = self.is_held_back(index, spec, call.hash, owner, call.args);
            if !is_held_back {
                self.counters.uncount_call(spec.op);
            }
        }
        if !is_held_back {
            if call.args.may_be_large() && owner == self.config.core {
                self.reserve_memory(&call.args);
            }
            // Of a transaction its commands are shown first, when they are carried out.
            if self.is_monitored && spec.op != Op::Exec {
                self.show_to_monitors(index, spec, call.args);
            }
            if self.connections[index as usize].as_deref().is_some_and(|it| it.modes.has(Modes::TRACKING)) {
                self.track_command(index, owner, spec, call.args);
            }
            self.begin_running(index, call);
        }
        is_held_back
    }

    /// Commands that are not about exactly one key.
    pub(super) fn apply_other(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        match spec.route {
            Route::Key => unreachable!("handled by apply"),
            Route::Local => self.local(index, spec, args),
            Route::Split => self.split(index, spec, args),
            Route::Pair => self.pair(index, spec, args),
            Route::Every => self.every(index, spec, args),
            Route::Addressed => self.addressed(index, spec, args),
        }
    }

    /// More of a large value has arrived where it belongs.
    pub fn large_received(&mut self, index: u32, large: LargeIn, received: &impl Received) {
        self.counters.bytes_received += large.arrived() as u64;
        if let Some(connection) = self.connection(index) {
            connection.activity.bytes_received += large.arrived() as u64;
            connection.put_large_in(large);
            self.take_input(index, &[], Source::Scratch, received);
            self.account(index);
        }
    }

    /// Answers the command being applied.
    pub(super) fn answer(&mut self, index: u32, spec: &Spec, reply: &Reply<'_>) -> Outcome {
        if let Reply::Error(error) = reply {
            self.counters.count_failed(spec.op, error);
        }
        self.write_reply(index, reply)
    }

    /// Tells the client that another node carries the command out.
    pub(super) fn redirect(&mut self, index: u32, spec: &Spec, reply: &Reply<'_>) -> Outcome {
        if let Reply::Error(error) = reply {
            self.counters.count_redirected(spec.op, error);
        }
        self.write_reply(index, reply)
    }

    pub(super) fn write_reply(&mut self, index: u32, reply: &Reply<'_>) -> Outcome {
        if let Some(draft) = &mut self.draft {
            draft.reply = Some(reply.clone().into_owned());
        } else if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.reply(reply, &mut self.outs);
        }
        Outcome::Answered
    }

    pub(super) fn moved(&self, index: u32, slot: u16) -> Reply<'static> {
        let host = self.connections[index as usize].as_deref().map(|connection| connection.record.local_address.host());
        Reply::Error(cluster::moved(slot, &self.config.topology, &host.unwrap_or_default()))
    }
}
