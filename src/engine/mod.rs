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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Now;
use crate::command::Spec;
use crate::connection::{Connection, OutPool, TurnBatch};
use crate::filling::FillBounds;
use crate::hash::KeyHasher;
use crate::metrics::{CoreCounters, Latency, Rates, ServerFacts};
use crate::namespace::Databases;
use crate::proto::DecodeLimits;
use crate::pubsub::{Counts, Interest, Subscriptions};
use crate::reply::Reply;
use crate::request::{ArgRange, Args, Wire};
use crate::store::{Eviction, SEGMENT_BYTES, Shard, ShardConfig};
use crate::txn::{Holds, Ticket};
use crate::wal::record::TransactionId;

#[macro_use]
mod effects;

pub mod about;
pub mod access;
pub mod access_log;
pub mod batch;
mod bounds;
pub mod clients;
pub mod cluster;
mod collecting;
pub mod commons;
pub mod debug;
pub mod durability;
mod exchange;
mod fanout;
mod filling;
mod flow;
pub mod gather;
mod holding;
pub mod journal;
mod local;
pub mod memory;
mod merge;
mod modes;
mod monitor;
mod namespaces;
pub mod notices;
mod portions;
mod pubsub;
mod rates;
pub mod serving;
pub mod settings;
mod share;
mod slow;
mod snapshots;
mod swap;
#[cfg(test)]
mod tests;
mod tracking;
pub mod transaction;
mod turn;
mod waiting;
mod written;

use batch::Outbox;
use clients::{Activity, Address, ClientFlags, ClientRecord};
use cluster::Topology;
use commons::Commons;
use debug::DebugAccess;
use durability::Waits;
use effects::Listeners;
use gather::Gather;
use holding::HeldUp;
use journal::{Durable, Gate, Journal};
use memory::MemoryPool;
use settings::Settings;
use slow::Slow;
use tracking::Tracker;
use transaction::{Draft, Open};
use waiting::{ClientPause, Sleeper};

/// Tracked keys that a tick looks at for what clients that are gone have left.
const TRACKING_SWEEP_KEYS: usize = 256;

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
    /// What may be unsent to a subscriber, at all and for long.
    pub subscriber_hard_bytes: usize,
    pub subscriber_soft_bytes: usize,
    pub mesh_in_flight_max: usize,
    pub mesh_waiting_max: usize,
    /// Replies beyond which a batch goes home in parts.
    pub mesh_part_bytes: usize,
    /// How many keys may be filled in at once, and how many clients wait for that.
    pub fills: FillBounds,
    /// Which cores have subscribers for what.
    pub interest: Arc<Interest>,
    /// What cores know of clients together.
    pub commons: Arc<Commons>,
    pub topology: Arc<Topology>,
    pub settings: Arc<dyn Settings>,
    /// How far the logs of all cores have come.
    pub durable: Arc<Durable>,
    /// What the machine says of the process, asked when INFO or STATS is.
    pub facts: Arc<dyn Fn(Now) -> ServerFacts + Send + Sync>,
    /// Microseconds that pass while commands are carried out, as `Now::uptime_us` counts them.
    pub stopwatch: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub debug_access: DebugAccess,
}

/// What is known of a client when it connects.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: Address,
    pub local_address: Address,
    pub descriptor: i32,
    /// It came in by the core's own port.
    pub own_port: bool,
    /// A client of this process itself.
    pub is_trusted: bool,
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
    /// Some of them await so little now that they may go on.
    mesh_relieved: bool,
    /// Connections whose output is above the hard bound: index, generation.
    overdue: Vec<(u32, u32)>,
    /// Connections whose commands wait for their output to leave, or did so a moment ago: index, generation.
    output_paused: Vec<(u32, u32)>,
    ranges: Vec<ArgRange>,
    now: Now,
    next_client_id: u64,
    next_generation: u32,
    /// Answers this core gave to questions of its own gathers, not yet handed to them.
    own_asks: Vec<(u32, u32, Reply<'static>, u64)>,
    /// The next steps of scans of this core's own shard: one each per turn.
    postponed: Vec<(u32, gather::Ask)>,
    subscriptions: Subscriptions,
    /// Subscribers that may soon have left too much lying for too long: index and generation.
    lagging: Vec<(u32, u32)>,
    /// Subscribers for whom the message at hand was too much.
    overfull: Vec<u32>,
    /// What clients have said since MULTI, and what they watch: by connection.
    open_transactions: BTreeMap<u32, Open>,
    /// Takes what a command of a transaction asks and answers, while it is carried out.
    draft: Option<Draft>,
    holds: Holds<HeldUp>,
    /// By the transaction's number: what it holds here.
    held: BTreeMap<u64, Ticket>,
    /// By the transaction's number: its part in this core's log that is not over.
    parts: BTreeMap<u64, TransactionId>,
    transactions_begun: u64,
    /// Those whose turn it is, while that of another is being carried out.
    granted: VecDeque<(Ticket, HeldUp)>,
    grants: bool,
    listeners: Listeners,
    /// What each database shows.
    databases: Databases,
    /// Whether keys are held, or somebody wants to know what becomes of keys.
    is_watchful: bool,
    rates: Rates,
    latency: Box<Latency>,
    gatekeeper: access::Gatekeeper,
    notices: notices::Notices,
    kept: bounds::Kept,
    shares: rates::Shares,
    /// What the shard was told last that it may take, and what to do then.
    memory_limit: (u64, Eviction),
    journal: Journal,
    waits: Waits,
    slow: Slow,
    /// Clients that are answered later.
    sleepers: Vec<Sleeper>,
    /// By connection: the cores that may have told it to fill in keys.
    fillers: BTreeMap<u32, Vec<u32>>,
    client_pause: Option<ClientPause>,
    /// Connections that wait for its end.
    paused_clients: Vec<u32>,
    /// Clients that are shown every command.
    monitors: Vec<u32>,
    /// Whether any core has such clients.
    is_monitored: bool,
    /// Clients of this core that track, by connection; and their sessions.
    trackers: BTreeMap<u32, Tracker>,
    sessions: BTreeMap<u64, u32>,
    next_session: u64,
    /// How many of them do not want to be told of what they write themselves.
    no_loops: usize,
    /// Clients of this core that are told instead of others: connection, and for how many.
    targets: BTreeMap<u64, (u32, u32)>,
    /// Reads that are waiting for keys that are held.
    late_reads: Vec<(Bytes, u64)>,
    /// Cores that were not told of keys because too much was on its way there.
    all_invalid_at: BTreeSet<u32>,
    /// By core: whose command comes next, if that is of a client that does not want to be told; 0 if not.
    signed: Vec<u64>,
    is_signed: bool,
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
    /// What its reply waits for once it is there.
    gates: Vec<Gate>,
    began_us: u64,
    /// How long it waits for them at most, 0 for any time.
    timeout_ms: u64,
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
        let mut engine = Engine {
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
            mesh_relieved: false,
            overdue: Vec::new(),
            output_paused: Vec::new(),
            ranges: Vec::new(),
            now: Now::default(),
            next_client_id: config.core as u64 + 1,
            next_generation: 0,
            own_asks: Vec::new(),
            postponed: Vec::new(),
            subscriptions: Subscriptions::default(),
            lagging: Vec::new(),
            overfull: Vec::new(),
            open_transactions: BTreeMap::new(),
            draft: None,
            holds: Holds::default(),
            held: BTreeMap::new(),
            parts: BTreeMap::new(),
            transactions_begun: 0,
            granted: VecDeque::new(),
            grants: false,
            listeners: Listeners::new(config.random_seed, config.fills),
            databases: Databases::default(),
            is_watchful: false,
            rates: Rates::default(),
            latency: Box::default(),
            notices: notices::Notices::default(),
            gatekeeper: access::Gatekeeper::new(config.settings.version(), config.settings.live()),
            kept: bounds::Kept::default(),
            shares: rates::Shares::new(&config.hasher),
            memory_limit: (config.memory.granted(config.core as usize), config.memory.eviction()),
            journal: Journal::default(),
            waits: Waits::new(config.cores),
            slow: Slow::default(),
            sleepers: Vec::new(),
            fillers: BTreeMap::new(),
            client_pause: None,
            paused_clients: Vec::new(),
            monitors: Vec::new(),
            is_monitored: false,
            trackers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_session: config.core as u64 + 1,
            no_loops: 0,
            targets: BTreeMap::new(),
            late_reads: Vec::new(),
            all_invalid_at: BTreeSet::new(),
            signed: vec![0; config.cores as usize],
            is_signed: false,
            counters: CoreCounters::default(),
            config,
        };
        engine.follow_live();
        engine.shares.follow(engine.gatekeeper.tokens());
        engine
    }

    /// The time of everything that happens until it is set again.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
        self.listeners.now_us = now.uptime_us;
        if let Some(log) = &mut self.journal.0 {
            log.set_now(now);
        }
    }

    pub fn now(&self) -> Now {
        self.now
    }

    pub fn shard(&self) -> &Shard {
        &self.shard
    }

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
            user: clients::DEFAULT_USER.into(),
            name: String::new(),
            library_name: String::new(),
            library_version: String::new(),
            created_us: self.now.uptime_us,
            activity: Activity::default(),
            flags: ClientFlags::default(),
            database: 0,
            subscriptions: Counts::default(),
            tracking: None,
            queued: None,
            wire: Wire::default(),
            query_bytes: 0,
            query_bytes_free: 0,
            output_bytes: 0,
        });
        let mut connection = Connection::new(self.next_generation, peer.own_port, record);
        connection.activity.last_used_us = self.now.uptime_us;
        connection.databases = self.databases;
        connection.enter_namespace(&self.databases.namespace_of(0));
        self.connections[index as usize] = Some(Box::new(connection));
        self.begin_access(index, peer.is_trusted);
    }

    /// The connection is gone: what it still awaits will be dropped when it comes.
    pub fn close(&mut self, index: u32) {
        if let Some(mut connection) = self.connections[index as usize].take() {
            self.is_newcomer_no_more(&mut connection);
            // Its place may be taken before the next run.
            self.turn.commands.retain(|command| command.connection != index);
            self.forget_held(&connection);
            self.counters.connections_closed += 1;
            self.counters.connections_current -= 1;
            if !self.sleepers.is_empty() {
                self.forget_sleeper(index);
            }
            if self.awaits_measured() {
                self.forget_awaited(index);
            }
            if !self.fillers.is_empty() {
                self.forget_filler(index, connection.record.id);
            }
            if connection.modes.any() {
                self.leave_modes(index, &connection);
            }
            connection.dismantle(&mut self.outs);
        }
    }

    pub fn connection(&mut self, index: u32) -> Option<&mut Connection> {
        self.connections.get_mut(index as usize)?.as_deref_mut()
    }

    /// Background work that is due: expiry, and whatever else has to happen without a command.
    pub fn tick(&mut self, budget: usize) -> usize {
        self.rates.record(self.now.uptime_us, &self.counters);
        self.latency.turn(self.now.uptime_us);
        self.follow_settings();
        self.sweep();
        if self.has_delays() {
            self.end_delays();
        }
        self.config.commons.publish_keys(self.config.core, self.shard.len(), self.shard.namespaced());
        self.bound_clients();
        if !self.output_paused.is_empty() {
            self.count_slow_readers();
        }
        if !self.overdue.is_empty() {
            self.close_stalled();
        }
        self.settle_memory();
        if !self.waits.deadlines.is_empty() {
            self.end_waits();
        }
        if !self.lagging.is_empty() {
            self.drop_laggards();
        }
        if !self.all_invalid_at.is_empty() {
            self.tell_of_all();
        }
        if self.databases != Databases::default() {
            self.remember_databases();
        }
        if self.has_waiting() {
            self.wake_due();
        }
        if self.is_watchful {
            self.listeners.tracking.sweep(TRACKING_SWEEP_KEYS);
            self.note_watchfulness();
        }
        if !self.slow.events.is_on() {
            return self.keep_house(budget);
        }
        let began_us = (self.config.stopwatch)();
        let used = self.keep_house(budget);
        self.note_house_keeping(began_us);
        used
    }

    /// Expired keys and flushed memory alone, for turns between ticks.
    pub fn keep_house(&mut self, budget: usize) -> usize {
        self.listeners.begin_nothing();
        let used = with_effects!(self, effects => self.shard.tick(self.now, budget, effects));
        self.spread_news();
        used
    }

    /// Agrees with the other cores on what this one may take.
    fn settle_memory(&mut self) {
        let granted = self.config.memory.settle(self.config.core as usize, self.shard.memory_bytes());
        self.limit_memory(granted);
        self.shard.set_ttl_jitter(self.config.memory.ttl_jitter_percent());
    }

    /// Asks for the memory of the large values that a command brings, which may be more than a core has in hand
    /// between two ticks.
    #[inline(never)]
    fn reserve_memory(&mut self, args: &Args<'_>) {
        // A shard that evicts takes values of up to half of what it has.
        let bytes = 2 * args.large_bytes() as u64;
        let granted = self.config.memory.reserve(self.config.core as usize, self.shard.memory_bytes(), bytes);
        self.limit_memory(granted);
    }

    fn limit_memory(&mut self, granted: u64) {
        let limit = (granted, self.config.memory.eviction());
        if limit != self.memory_limit {
            self.memory_limit = limit;
            self.shard.set_memory(limit.0, limit.1);
        }
    }

    /// Whether keys will expire even when no client says anything.
    pub fn has_housekeeping(&self) -> bool {
        self.shard.has_housekeeping()
    }
}
