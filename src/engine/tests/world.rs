//! Several engines and their clients without a runtime: what the ring, the mesh and the turn do around an
//! engine, in an order drawn from a seed. A client's bytes arrive in pieces of any size, boxes wait on
//! their way, sends end late, receives are stopped and started, connections break.

mod bounds;
mod clients;
mod sockets;
mod turns;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

pub use self::bounds::{Bounds, engine_config};
pub use self::clients::{Client, Farewell, Terms};
use self::sockets::{Buffers, Receiving, Socket};
use super::talk::Talk;
use crate::clock::Now;
use crate::connection::{Closing, Pause};
use crate::engine::batch::Batch;
use crate::engine::clients::Address;
use crate::engine::serving::Serving;
use crate::engine::{Engine, EngineConfig, Peer};
use crate::limits;
use crate::pubsub::Interest;
use crate::random::Random;
use crate::slot;

pub const UNIX_MS: u64 = 1_700_000_000_000;

pub struct Core {
    pub engine: Engine,
    /// Held until their commands have been applied.
    buffers: Buffers,
    sockets: Vec<Socket>,
    free: Vec<u32>,
    exhausted: Vec<u32>,
    /// Connections whose clients are given time to read why they are closed.
    lingering: Vec<u32>,
    serving: Serving,
}

pub struct World {
    pub random: Random,
    pub bounds: Bounds,
    pub cores: Vec<Core>,
    pub clients: Vec<Client>,
    now: Now,
    /// `forward[a][b]`: boxes of `a` on their way to `b`; `back[a][b]`: boxes of `a` on their way home from `b`.
    forward: Vec<Vec<VecDeque<Box<Batch>>>>,
    back: Vec<Vec<VecDeque<Box<Batch>>>>,
    /// Counts everything that happens.
    events: u64,
    /// Parts of batches that went home before the rest, and what the largest held.
    pub parts: u64,
    pub part_bytes_max: usize,
}

impl World {
    pub fn new(random: Random, bounds: Bounds) -> World {
        let commons = engine_config(&bounds, 0).commons;
        let interest = Arc::new(Interest::new(bounds.cores));
        let core = |core| Core {
            engine: Engine::new(EngineConfig {
                interest: interest.clone(),
                commons: commons.clone(),
                ..engine_config(&bounds, core)
            }),
            buffers: Buffers::default(),
            sockets: Vec::new(),
            free: Vec::new(),
            exhausted: Vec::new(),
            lingering: Vec::new(),
            serving: Serving::new(bounds.cores),
        };
        let ways = || (0..bounds.cores).map(|_| (0..bounds.cores).map(|_| VecDeque::new()).collect()).collect();
        let mut world = World {
            random,
            cores: (0..bounds.cores).map(core).collect(),
            clients: Vec::new(),
            now: Now::at_ms(UNIX_MS),
            forward: ways(),
            back: ways(),
            events: 0,
            parts: 0,
            part_bytes_max: 0,
            bounds,
        };
        world.pass_time(0);
        world
    }

    /// Moves the monotonic clock on; the wall clock stands still, so that nothing expires.
    fn pass_time(&mut self, us: u64) {
        self.now.uptime_us += us;
        for core in &mut self.cores {
            core.engine.set_now(self.now);
        }
    }

    /// Moves both clocks on.
    pub fn pass_ms(&mut self, ms: u64) {
        self.now.unix_ms += ms;
        self.pass_time(ms * 1000);
    }

    pub fn connect(&mut self, talk: impl Talk + 'static, terms: Terms) -> usize {
        let client = self.clients.len();
        let core = &mut self.cores[terms.core];
        let socket = Socket { client: Some(client), receiving: Receiving::Armed, large: None, sending: None };
        let place = match core.free.pop() {
            Some(place) => {
                core.sockets[place as usize] = socket;
                place
            }
            None => {
                core.sockets.push(socket);
                core.sockets.len() as u32 - 1
            }
        };
        let address = |port| Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        let peer = Peer {
            address: address(10_000 + client as u16),
            local_address: address(7001),
            descriptor: place as i32,
            own_port: terms.own_port,
            is_trusted: false,
        };
        core.engine.open(place, peer);
        self.clients.push(Client {
            talk: Box::new(talk),
            core: terms.core,
            place: Some(place),
            written: Vec::new(),
            delivered: 0,
            deliverable: usize::MAX,
            awaited: VecDeque::new(),
            received: Vec::new(),
            window: terms.window,
            farewell: terms.farewell,
            has_said_all: false,
            has_shut_down: false,
            reads: true,
            breaks_after: terms.breaks_after,
            is_closed: false,
        });
        self.let_speak(client);
        client
    }

    // ---- what has to hold -----------------------------------------------------------------------

    /// What holds between any two steps.
    fn check(&self, core: usize) {
        let at = &self.cores[core];
        let engine = &at.engine;
        for (place, connection) in engine.connections.iter().enumerate() {
            let Some(connection) = connection.as_deref() else { continue };
            let place = place as u32;
            if connection.closing == Closing::No {
                let waits = connection.pause.any() || connection.resuming;
                assert!(connection.stash_len() == 0 || waits, "bytes put aside that nobody goes on with");
                let barrier = connection.pause.has(Pause::BARRIER);
                let under_way = connection.pending_len() > 0
                    || connection.defers()
                    || engine.turn.commands.iter().any(|command| command.connection == place);
                assert!(!barrier || under_way, "held up by a command that is not under way");
            }
            assert!(!connection.resuming || engine.resumable.contains(&place));
            assert!(!connection.dirty || engine.dirty.contains(&place));
            assert!(!connection.pause.has(Pause::MESH) || engine.mesh_paused.contains(&place));
            let portion = limits::OUTPUT_PORTION_BYTES.min(self.bounds.output_soft_bytes);
            let is_slow = connection.unsent() > portion / 2;
            assert!(!connection.pause.has(Pause::OUTPUT) || is_slow, "paused for its output without any");
        }
        for outbox in &engine.outboxes {
            assert!(outbox.in_flight <= self.bounds.mesh_in_flight_max);
            assert!(outbox.spare.len() <= self.bounds.mesh_in_flight_max);
        }
        let live = engine.gathers.iter().flatten().count();
        assert_eq!(live + engine.gathers_free.len(), engine.gathers.len());
        assert!(engine.own_asks.is_empty());
    }

    /// Closes everything and looks for what is left behind.
    pub fn end(mut self) {
        for client in 0..self.clients.len() {
            self.reset(client);
        }
        self.settle(0);
        for core in 0..self.bounds.cores {
            // Stale entries of closed connections are dropped as they are come across.
            self.turn(core);
        }
        for core in &mut self.cores {
            let engine = &mut core.engine;
            assert!(engine.is_quiet());
            assert_eq!(engine.counters.connections_current, 0);
            assert!(engine.connections.iter().all(Option::is_none));
            assert!(engine.gathers.iter().all(Option::is_none), "gathers are left");
            assert!(engine.outboxes.iter().all(|outbox| outbox.is_idle()), "boxes are left");
            assert!(engine.postponed.is_empty() && engine.own_asks.is_empty());
            assert!(engine.resumable.is_empty() && engine.dirty.is_empty());
            assert!(engine.mesh_paused.is_empty(), "paused connections are left");
            assert!(engine.turn.commands.is_empty());
            engine.shard.validate();
        }
    }

    pub fn owner_of(&self, key: &[u8]) -> usize {
        slot::owner_of_slot(slot::slot_of(key), self.bounds.cores as u32) as usize
    }

    /// What a key holds, asked behind everybody's back.
    pub fn value(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let owner = self.owner_of(key);
        let now = self.now;
        let moved = self.cores[owner].engine.shard.read_for_copy(key, now, &mut ());
        moved.map(|moved| moved.value.to_vec())
    }

    fn dump(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for (index, core) in self.cores.iter().enumerate() {
            let engine = &core.engine;
            let _ = writeln!(
                text,
                "core {index}: awake {} resumable {:?} dirty {:?} mesh_paused {:?} exhausted {:?} postponed {} gathers {}",
                self.is_awake(index),
                engine.resumable,
                engine.dirty,
                engine.mesh_paused,
                core.exhausted,
                engine.postponed.len(),
                engine.gathers.iter().flatten().count(),
            );
            for (to, outbox) in engine.outboxes.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "  to {to}: in flight {} waiting {} open {} on the way {} on the way back {}",
                    outbox.in_flight,
                    outbox.waiting.len(),
                    outbox.open.is_some(),
                    self.forward[index][to].len(),
                    self.back[index][to].len(),
                );
            }
            for (place, connection) in engine.connections.iter().enumerate() {
                let Some(connection) = connection.as_deref() else { continue };
                let socket = &core.sockets[place];
                let _ = writeln!(
                    text,
                    "  connection {place} of client {:?}: {:?} {:?} resuming {} dirty {} pending {} unsent {} input {} \
                     missing {} ended {}; {:?} large {} sending {}",
                    socket.client,
                    connection.pause,
                    connection.closing,
                    connection.resuming,
                    connection.dirty,
                    connection.pending_len(),
                    connection.unsent(),
                    connection.input_len(),
                    connection.large_missing(),
                    connection.input_ended,
                    socket.receiving,
                    socket.large.is_some(),
                    socket.sending.is_some(),
                );
            }
        }
        for (index, client) in self.clients.iter().enumerate().filter(|(_, client)| !client.is_closed) {
            let _ = writeln!(
                text,
                "client {index} on core {}: to deliver {} awaited {} received {} said all {} shut down {}",
                client.core,
                client.written.len() - client.delivered,
                client.awaited.len(),
                client.received.len(),
                client.has_said_all,
                client.has_shut_down,
            );
        }
        text
    }
}
