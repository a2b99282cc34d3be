//! One core's logic, without I/O: its connections, its shard, and the batches to and from other cores.
//!
//! ```text
//!   receive ─▶ decode ─▶ turn batch ─▶ run: route, prefetch ─┬─ own keys ──▶ Shard::apply ─▶ Connection::out
//!                                                            ├─ others' ───▶ outbox ─▶ ship
//!                                                            ├─ several ───▶ gather (asks itself and others)
//!                                                            └─ no keys ───▶ local
//!   serve: a batch from another core ─▶ Shard::apply ─▶ its replies      absorb: a batch that came back
//! ```
//!
//! The runtime calls these in the order of a turn (see `runtime::core`), and tests call them without
//! any runtime at all.

use std::sync::Arc;

use crate::clock::Now;
use crate::command::{Route, Spec};
use crate::connection::{
    Closing, Connection, Decoded, Deferred, LargeIn, OutPool, Pause, Received, Refusal, Source, TurnBatch, What,
    is_barrier,
};
use crate::hash::KeyHasher;
use crate::limits;
use crate::metrics::{CoreCounters, ErrorCode, Rates, ServerFacts};
use crate::proto::{self, DecodeLimits};
use crate::reply::{Out, Reply};
use crate::request::{ArgRange, Args, Call, Wire};
use crate::slot;
use crate::store::{Eviction, SEGMENT_BYTES, Shard, ShardConfig};

pub mod about;
pub mod batch;
pub mod clients;
pub mod cluster;
mod fanout;
pub mod gather;
mod local;
pub mod memory;
pub mod settings;
#[cfg(test)]
mod tests;

use batch::{Batch, Job, Outbox, Token};
use clients::{Activity, Address, ClientFlags, ClientRecord};
use cluster::Topology;
use gather::Gather;
use memory::MemoryPool;
use settings::SettingsView;

/// Everything an engine has to know before it starts. Tests make the bounds tiny.
#[derive(Clone)]
pub struct EngineConfig {
    pub core: u32,
    pub cores: u32,
    pub hasher: KeyHasher,
    pub random_seed: u64,
    pub value_bytes_max: usize,
    /// What this core may take is settled here with the others.
    pub memory: Arc<MemoryPool>,
    pub output_soft_bytes: usize,
    pub output_hard_bytes: usize,
    pub mesh_in_flight_max: usize,
    pub mesh_waiting_max: usize,
    pub topology: Arc<Topology>,
    pub settings: Arc<SettingsView>,
    /// What the machine says of the process, asked when INFO or STATS is.
    pub facts: Arc<dyn Fn(Now) -> ServerFacts + Send + Sync>,
}

/// What is known of a client when it connects.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: Address,
    pub local_address: Address,
    pub descriptor: i32,
    /// It came in by the core's own port.
    pub own_port: bool,
}

pub struct Engine {
    config: EngineConfig,
    limits: DecodeLimits,
    shard: Shard,
    connections: Vec<Option<Box<Connection>>>,
    turn: Box<TurnBatch>,
    /// Takes the place of `turn` while that is carried out: only pointers are swapped.
    turn_spare: Option<Box<TurnBatch>>,
    outboxes: Vec<Outbox>,
    gathers: Vec<Option<GatherEntry>>,
    gathers_free: Vec<u32>,
    outs: OutPool,
    /// Connections with something to send or to close.
    dirty: Vec<u32>,
    /// Connections whose stash may be decoded again.
    resumable: Vec<u32>,
    /// The list that is gone through while `resumable` is filled.
    resumable_spare: Vec<u32>,
    /// Connections paused because another core does not keep up.
    mesh_paused: Vec<u32>,
    ranges: Vec<ArgRange>,
    now: Now,
    next_client_id: u64,
    next_generation: u32,
    /// Answers this core gave to questions of its own gathers, not yet handed to them.
    own_asks: Vec<(u32, u32, Reply<'static>)>,
    /// The next steps of scans of this core's own shard: one each per turn.
    postponed: Vec<(u32, gather::Ask)>,
    rates: Rates,
    /// What the shard was told last that it may take, and what to do then.
    memory_limit: (u64, Eviction),
    pub counters: CoreCounters,
}

/// A gather and the reply it is for.
struct GatherEntry {
    gather: Gather,
    spec: &'static Spec,
    connection: u32,
    generation: u32,
    sequence: u32,
    wire: Wire,
}

/// Whether a command has been answered or its reply is awaited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    Awaited,
}

impl Engine {
    pub fn new(config: EngineConfig) -> Engine {
        let shard = Shard::new(ShardConfig {
            hasher: config.hasher.clone(),
            value_bytes_max: config.value_bytes_max,
            random_seed: config.random_seed,
            memory_bytes_max: config.memory.granted(config.core as usize),
            eviction: config.memory.eviction(),
            segment_bytes: SEGMENT_BYTES,
        });
        let outboxes = (0..config.cores)
            .map(|_| Outbox::new(config.core, config.mesh_in_flight_max, config.mesh_waiting_max))
            .collect();
        Engine {
            limits: DecodeLimits::new(config.value_bytes_max),
            shard,
            connections: Vec::new(),
            turn: Box::default(),
            turn_spare: None,
            outboxes,
            gathers: Vec::new(),
            gathers_free: Vec::new(),
            outs: OutPool::default(),
            dirty: Vec::new(),
            resumable: Vec::new(),
            resumable_spare: Vec::new(),
            mesh_paused: Vec::new(),
            ranges: Vec::new(),
            now: Now::default(),
            next_client_id: config.core as u64 + 1,
            next_generation: 0,
            own_asks: Vec::new(),
            postponed: Vec::new(),
            rates: Rates::default(),
            memory_limit: (config.memory.granted(config.core as usize), config.memory.eviction()),
            counters: CoreCounters::default(),
            config,
        }
    }

    /// The time of everything that happens until it is set again.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    // ---- connections ----------------------------------------------------------------------------

    /// A client has connected; `index` is free.
    pub fn open(&mut self, index: u32, peer: Peer) {
        if self.connections.len() <= index as usize {
            self.connections.resize_with(index as usize + 1, || None);
        }
        debug_assert!(self.connections[index as usize].is_none());
        self.next_generation = self.next_generation.wrapping_add(1);
        let id = self.next_client_id;
        self.next_client_id += self.config.cores as u64;
        self.counters.connections_accepted += 1;
        self.counters.connections_current += 1;
        let record = Box::new(ClientRecord {
            id,
            core: self.config.core,
            address: peer.address,
            local_address: peer.local_address,
            fd: peer.descriptor,
            name: String::new(),
            library_name: String::new(),
            library_version: String::new(),
            created_us: self.now.uptime_us,
            activity: Activity::default(),
            flags: ClientFlags::default(),
            wire: Wire::default(),
            query_bytes: 0,
            query_bytes_free: 0,
            output_bytes: 0,
        });
        let mut connection = Connection::new(self.next_generation, peer.own_port, record);
        connection.activity.last_used_us = self.now.uptime_us;
        self.connections[index as usize] = Some(Box::new(connection));
    }

    /// The connection is gone: what it still awaits will be dropped when it comes.
    pub fn close(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].take() {
            // Its place may be taken before the next run.
            self.turn.commands.retain(|command| command.connection != index);
            self.counters.connections_closed += 1;
            self.counters.connections_current -= 1;
            connection.dismantle(&mut self.outs);
        }
    }

    pub fn connection(&mut self, index: u32) -> Option<&mut Connection> {
        self.connections.get_mut(index as usize)?.as_deref_mut()
    }

    /// The client has shut down its sending side.
    pub fn end_of_input(&mut self, index: u32) {
        if let Some(connection) = self.connection(index) {
            connection.input_ended = true;
            self.mark_dirty(index);
        }
    }

    #[inline]
    fn mark_dirty(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut()
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Connections with something to send or to close, each once.
    pub fn next_dirty(&mut self) -> Option<u32> {
        let index = self.dirty.pop()?;
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.dirty = false;
        }
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

    fn resume_later(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut()
            && connection.can_resume()
            && !connection.resuming
        {
            connection.resuming = true;
            self.resumable.push(index);
        }
    }

    /// Closes what is unsent beyond the hard bound, and pauses what is beyond the soft one.
    #[inline]
    fn bound_output(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let unsent = connection.unsent();
        if unsent <= self.config.output_soft_bytes
            || connection.pause.has(Pause::OUTPUT) && unsent <= self.config.output_hard_bytes
        {
            return;
        }
        if unsent > self.config.output_hard_bytes {
            if connection.closing != Closing::Now {
                connection.closing = Closing::Now;
                self.counters.connections_closed_by_output_bound += 1;
            }
        } else {
            connection.pause.add(Pause::OUTPUT);
            self.counters.slow_reader_pauses += 1;
        }
    }

    // ---- a turn's commands ----------------------------------------------------------------------

    /// Bytes have arrived for a connection in receive buffer `buffer`. Commands are applied whenever a
    /// batch is full, and the rest by [`Engine::run`]; until then the buffer must not be reused.
    pub fn receive(&mut self, index: u32, buffer: u16, received: &impl Received) {
        let input = received.bytes(buffer);
        self.counters.bytes_received += input.len() as u64;
        if let Some(connection) = self.connection(index) {
            connection.activity.bytes_received += input.len() as u64;
        }
        self.take_input(index, input, Source::Buffer(buffer), received);
        // Who has put aside all it may has to be told to receive no more.
        if self.connection(index).is_some_and(|connection| !connection.wants_input()) {
            self.mark_dirty(index);
        }
    }

    fn take_input(&mut self, index: u32, input: &[u8], source: Source, received: &impl Received) {
        let mut from = 0;
        loop {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
            from = connection.receive(index, input, from, source, &mut self.turn, &self.limits);
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
    fn carry_out_deferred(&mut self, index: u32) {
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
                    self.carry_out(index, command.spec, command.hash, owner, args);
                }
            }
        }
    }

    /// The stash becomes an input of its own: commands in it are decoded in place.
    fn take_stash(&mut self, index: u32, mut stash: Vec<u8>, mut from: usize, received: &impl Received) {
        loop {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
            let piece = self.turn.assembled.len();
            self.turn.assembled.push(Vec::new());
            let source = Source::Assembled(piece as u32);
            from = connection.receive(index, &stash, from, source, &mut self.turn, &self.limits);
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
        !self.resumable.is_empty()
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
        commands.clear();
        turn.commands = commands;
        turn.clear();
        self.turn_spare = Some(std::mem::replace(&mut self.turn, turn));
    }

    fn apply(&mut self, command: &Decoded, turn: &mut TurnBatch, received: &impl Received) {
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
                    self.carry_out(index, spec, command.hash, command.owner, args);
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

    fn refuse(&mut self, index: u32, refusal: Refusal) {
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
        self.mark_dirty(index);
        self.bound_output(index);
    }

    fn carry_out(&mut self, index: u32, spec: &'static Spec, hash: u64, owner: u32, args: Args<'_>) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        self.counters.count_call(spec.op);
        connection.activity.last_command = Some(spec);
        connection.activity.last_used_us = self.now.uptime_us;
        connection.activity.commands += 1;
        if spec.route == Route::Key {
            if owner == self.config.core {
                let reply = self.shard.apply(&Call { spec, args, hash }, self.now, &mut ());
                if let Reply::Error(error) = &reply {
                    self.counters.count_failed(spec.op, error);
                }
                connection.reply(&reply, &mut self.outs);
                if !connection.dirty {
                    connection.dirty = true;
                    self.dirty.push(index);
                }
                if connection.unsent() > self.config.output_soft_bytes {
                    self.bound_output(index);
                }
                return;
            }
            if connection.own_port && self.config.topology.enabled {
                let key = args.get(spec.key_arg());
                let reply = self.moved(index, slot::slot_of(key));
                self.redirect(index, spec, &reply);
            } else {
                let token =
                    Token::Connection { index, generation: connection.generation, sequence: connection.await_reply() };
                let outbox = &mut self.outboxes[owner as usize];
                outbox.open().push(token, Job::Command, connection.wire, spec, hash, args);
                self.counters.commands_forwarded_out += 1;
                if outbox.is_congested() || connection.pending_len() > limits::PENDING_REPLIES_MAX {
                    self.pause_for_mesh(index);
                }
                return;
            }
        } else {
            match self.apply_other(index, spec, args) {
                Outcome::Answered => self.lift_barrier(index, spec),
                Outcome::Awaited => self.pause_if_congested(index),
            }
        }
        self.mark_dirty(index);
        self.bound_output(index);
    }

    /// Commands that are not about exactly one key.
    fn apply_other(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        match spec.route {
            Route::Key => unreachable!("handled by apply"),
            Route::Local => self.local(index, spec, args),
            Route::Split => self.split(index, spec, args),
            Route::Pair => self.pair(index, spec, args),
            Route::Every => self.every(index, spec, args),
            Route::Addressed => self.addressed(index, spec, args),
        }
    }

    /// After a command for several cores, or for one that is not known here.
    fn pause_if_congested(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref() else { return };
        let waits_for_many = connection.pending_len() > limits::PENDING_REPLIES_MAX;
        if waits_for_many || self.outboxes.iter().any(Outbox::is_congested) {
            self.pause_for_mesh(index);
        }
    }

    fn pause_for_mesh(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut()
            && !connection.pause.has(Pause::MESH)
        {
            connection.pause.add(Pause::MESH);
            self.mesh_paused.push(index);
            self.mark_dirty(index);
            self.counters.outbox_full_pauses += 1;
        }
    }

    /// The command is done; if later ones of its connection were held back, they may go on.
    fn lift_barrier(&mut self, index: u32, spec: &'static Spec) {
        if is_barrier(spec)
            && let Some(connection) = self.connections[index as usize].as_deref_mut()
        {
            connection.pause.remove(Pause::BARRIER);
            self.resume_later(index);
            self.mark_dirty(index);
        }
    }

    /// Answers the command being applied.
    fn answer(&mut self, index: u32, spec: &Spec, reply: &Reply<'_>) -> Outcome {
        if let Reply::Error(error) = reply {
            self.counters.count_failed(spec.op, error);
        }
        self.write_reply(index, reply)
    }

    /// Tells the client that another node carries the command out.
    fn redirect(&mut self, index: u32, spec: &Spec, reply: &Reply<'_>) -> Outcome {
        if let Reply::Error(error) = reply {
            self.counters.count_redirected(spec.op, error);
        }
        self.write_reply(index, reply)
    }

    fn write_reply(&mut self, index: u32, reply: &Reply<'_>) -> Outcome {
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.reply(reply, &mut self.outs);
        }
        Outcome::Answered
    }

    fn moved(&self, index: u32, slot: u16) -> Reply<'static> {
        let host = self.connections[index as usize].as_deref().map(|connection| connection.record.local_address.host());
        Reply::Error(cluster::moved(slot, &self.config.topology, &host.unwrap_or_default()))
    }

    // ---- other cores ----------------------------------------------------------------------------

    /// The next batch for core `core`, if there is one and the way is free.
    pub fn ship(&mut self, core: u32) -> Option<Box<Batch>> {
        let batch = self.outboxes[core as usize].ship()?;
        self.counters.batches_out += 1;
        Some(batch)
    }

    /// Carries out what another core asks, and writes the replies into its batch.
    pub fn serve(&mut self, batch: &mut Batch) {
        self.counters.batches_in += 1;
        self.counters.commands_forwarded_in += batch.commands.len() as u64;
        for command in &batch.commands {
            if command.job == Job::Command && command.spec.route == Route::Key {
                self.shard.prefetch_bucket(command.hash);
            }
        }
        if batch.commands.len() > 2 {
            for command in &batch.commands {
                if command.job == Job::Command && command.spec.route == Route::Key {
                    self.shard.prefetch_item(command.hash);
                }
            }
        }
        let mut replies = std::mem::take(&mut batch.replies);
        let mut ends = std::mem::take(&mut batch.reply_ends);
        for command in &batch.commands {
            let args = batch.args_of(command);
            if command.job == Job::Command && command.spec.route == Route::Key {
                let call = Call { spec: command.spec, args, hash: command.hash };
                let reply = self.shard.apply(&call, self.now, &mut ());
                if let Reply::Error(error) = &reply {
                    self.counters.count_failed(command.spec.op, error);
                }
                proto::encode(command.wire, &reply, &mut replies);
            } else {
                let reply = self.share(command.job, command.spec, args);
                // What is gathered is counted once, by who gathers it.
                let failed = match (&reply, command.token) {
                    (Reply::Error(error), Token::Connection { .. }) => Some(ErrorCode::of(error)),
                    _ => None,
                };
                proto::encode(command.wire, &reply, &mut replies);
                if let Some(code) = failed {
                    self.counters.ops[command.spec.op].failed += 1;
                    self.counters.count_error(code);
                }
            }
            ends.push(replies.bytes.len() as u32);
        }
        batch.replies = replies;
        batch.reply_ends = ends;
    }

    /// A batch of ours has come back: every reply goes to where it is awaited.
    pub fn absorb(&mut self, core: u32, batch: Box<Batch>) {
        let mut start = 0;
        let mut large = 0;
        for (command, &end) in batch.commands.iter().zip(&batch.reply_ends) {
            let range = start..end as usize;
            start = end as usize;
            let first_large = large;
            while batch.replies.large.get(large).is_some_and(|(offset, _)| *offset <= range.end) {
                large += 1;
            }
            match command.token {
                Token::Connection { index, generation, sequence } => {
                    let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
                    if connection.generation != generation {
                        continue;
                    }
                    connection.complete_with_range(sequence, &batch.replies, range, first_large, &mut self.outs);
                    self.mark_dirty(index);
                    self.bound_output(index);
                }
                Token::Gather { index, part } => {
                    let reply = match proto::reply::parse_written(&batch.replies, range, first_large) {
                        Ok(Some(reply)) => reply,
                        _ => Reply::error("ERR internal: unreadable answer from another core"),
                    };
                    self.gathered(index, part, reply);
                }
            }
        }
        let outbox = &mut self.outboxes[core as usize];
        outbox.returned(batch);
        if !self.mesh_paused.is_empty() && self.outboxes.iter().all(|outbox| !outbox.is_congested()) {
            self.resume_mesh_paused();
        }
    }

    fn resume_mesh_paused(&mut self) {
        let mut paused = std::mem::take(&mut self.mesh_paused);
        paused.retain(|&index| {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { return false };
            if !connection.pause.has(Pause::MESH) {
                return false;
            }
            if connection.pending_len() > limits::PENDING_REPLIES_MAX / 2 {
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

    /// Whether anything is owed to or by another core.
    pub fn is_quiet(&self) -> bool {
        self.outboxes.iter().all(Outbox::is_idle)
            && self.postponed.is_empty()
            && self.resumable.is_empty()
            && self.dirty.is_empty()
    }

    /// Background work that is due: expiry, and whatever else has to happen without a command.
    pub fn tick(&mut self, budget: usize) -> usize {
        self.rates.record(self.now.uptime_us, &self.counters);
        self.settle_memory();
        self.shard.tick(self.now, budget, &mut ())
    }

    /// Agrees with the other cores on what this one may take.
    fn settle_memory(&mut self) {
        let memory = &self.config.memory;
        let granted = memory.settle(self.config.core as usize, self.shard.memory_bytes());
        let limit = (granted, memory.eviction());
        if limit != self.memory_limit {
            self.memory_limit = limit;
            self.shard.set_memory(limit.0, limit.1);
        }
    }

    /// Whether keys will expire even when no client says anything.
    pub fn has_housekeeping(&self) -> bool {
        self.shard.has_housekeeping()
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

    /// More of a large value has arrived where it belongs.
    pub fn large_received(&mut self, index: u32, large: LargeIn, received: &impl Received) {
        self.counters.bytes_received += large.arrived() as u64;
        if let Some(connection) = self.connection(index) {
            connection.activity.bytes_received += large.arrived() as u64;
            connection.put_large_in(large);
            self.take_input(index, &[], Source::Scratch, received);
        }
    }
}
