//! Several engines and their clients without a runtime: what the ring, the mesh and the turn do around an
//! engine, in an order drawn from a seed. A client's bytes arrive in pieces of any size, boxes wait on
//! their way, sends end late, receives are stopped and started, connections break.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::talk::{Expect, Talk};
use crate::clock::Now;
use crate::connection::{Closing, LargeIn, Pause, Received};
use crate::engine::batch::Batch;
use crate::engine::clients::Address;
use crate::engine::cluster::Topology;
use crate::engine::commons::Commons;
use crate::engine::debug::DebugAccess;
use crate::engine::journal::Durable;
use crate::engine::memory::MemoryPool;
use crate::engine::settings::Fixed;
use crate::engine::{Engine, EngineConfig, Peer};
use crate::filling::FillBounds;
use crate::hash::KeyHasher;
use crate::limits;
use crate::metrics::ServerFacts;
use crate::proto;
use crate::pubsub::Interest;
use crate::random::Random;
use crate::reply::Out;
use crate::slot;

pub const UNIX_MS: u64 = 1_700_000_000_000;

#[derive(Clone)]
pub struct Bounds {
    pub cores: usize,
    pub value_bytes_max: usize,
    pub output_soft_bytes: usize,
    pub output_hard_bytes: usize,
    pub subscriber_hard_bytes: usize,
    pub subscriber_soft_bytes: usize,
    pub mesh_in_flight_max: usize,
    pub mesh_waiting_max: usize,
    /// Values with more than this to come are received straight into their memory.
    pub direct_receive_bytes_min: usize,
    pub cluster: bool,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            cores: 3,
            value_bytes_max: 256 * 1024,
            output_soft_bytes: limits::OUTPUT_SOFT_BYTES,
            output_hard_bytes: limits::OUTPUT_HARD_BYTES,
            subscriber_hard_bytes: limits::SUBSCRIBER_OUTPUT_HARD_BYTES,
            subscriber_soft_bytes: limits::SUBSCRIBER_OUTPUT_SOFT_BYTES,
            mesh_in_flight_max: limits::MESH_RING_BATCHES,
            mesh_waiting_max: limits::MESH_OUTBOX_BATCHES,
            direct_receive_bytes_min: 1,
            cluster: false,
        }
    }
}

impl Bounds {
    /// Any number of cores and every bound tiny or not; but a client that reads is never too slow.
    pub fn random(random: &mut Random) -> Bounds {
        Bounds {
            cores: random.pick(&[1, 2, 2, 3, 3, 4, 5]),
            output_soft_bytes: random.pick(&[0, 1, 50, 2000, limits::OUTPUT_SOFT_BYTES]),
            mesh_in_flight_max: random.pick(&[1, 1, 2, 5]),
            mesh_waiting_max: random.pick(&[0, 0, 1, 3]),
            direct_receive_bytes_min: random.pick(&[1, 1000, 1 << 20]),
            ..Bounds::default()
        }
    }
}

pub fn engine_config(bounds: &Bounds, core: usize) -> EngineConfig {
    let cores = bounds.cores as u32;
    let hasher = KeyHasher::with_seed([1, 2, 3, 4]);
    EngineConfig {
        core: core as u32,
        cores,
        commons: Arc::new(Commons::new(bounds.cores, &hasher)),
        hasher,
        random_seed: core as u64,
        value_bytes_max: bounds.value_bytes_max,
        memory: Arc::new(MemoryPool::unbounded(bounds.cores)),
        subscriber_hard_bytes: bounds.subscriber_hard_bytes,
        subscriber_soft_bytes: bounds.subscriber_soft_bytes,
        interest: Arc::new(Interest::new(bounds.cores)),
        output_soft_bytes: bounds.output_soft_bytes,
        output_hard_bytes: bounds.output_hard_bytes + bounds.value_bytes_max,
        mesh_in_flight_max: bounds.mesh_in_flight_max,
        mesh_waiting_max: bounds.mesh_waiting_max,
        fills: FillBounds::default(),
        topology: Arc::new(Topology {
            cores,
            this_core: core as u32,
            seed: [7; 20],
            advertised_host: String::new(),
            core_ports: (0..cores as u16).map(|core| 7101 + core).collect(),
            shared_port: 7001,
            speaks_tls: false,
            enabled: bounds.cluster,
        }),
        settings: Arc::new(Fixed::default()),
        stopwatch: Arc::new(|| 0),
        debug_access: DebugAccess::Nobody,
        durable: Arc::new(Durable::new(cores as usize)),
        facts: Arc::new(move |_| ServerFacts { cores, ..ServerFacts::default() }),
    }
}

#[derive(Default)]
struct Buffers(Vec<Vec<u8>>);

impl Received for Buffers {
    fn bytes(&self, buffer: u16) -> &[u8] {
        &self.0[buffer as usize]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Receiving {
    Idle,
    Armed,
    /// A cancel is under way: what has arrived before it still comes.
    Stopping,
}

struct Socket {
    client: Option<usize>,
    receiving: Receiving,
    large: Option<LargeIn>,
    sending: Option<Out>,
}

pub struct Core {
    pub engine: Engine,
    /// Held until their commands have been applied.
    buffers: Buffers,
    sockets: Vec<Socket>,
    free: Vec<u32>,
    exhausted: Vec<u32>,
    /// Connections whose clients are given time to read why they are closed.
    lingering: Vec<u32>,
}

/// How a client takes its leave when it has heard everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Farewell {
    /// Shuts down its side, possibly long before it has heard everything, and waits for the server's.
    HalfClose,
    /// Stays; closed by the server if at all.
    None,
}

pub struct Client {
    pub talk: Box<dyn Talk>,
    pub core: usize,
    place: Option<u32>,
    /// What it has written, and how much of that the server has received.
    written: Vec<u8>,
    pub delivered: usize,
    /// The network holds back what is written behind so many bytes.
    pub deliverable: usize,
    pub awaited: VecDeque<Expect>,
    /// Replies it has received and not understood yet.
    received: Vec<u8>,
    /// Requests it has under way at most.
    window: usize,
    farewell: Farewell,
    has_said_all: bool,
    has_shut_down: bool,
    /// Whether it takes what the server sends.
    pub reads: bool,
    /// Breaks the connection when the server has received so many bytes.
    breaks_after: Option<usize>,
    pub is_closed: bool,
}

impl Client {
    /// Whether there is nothing that it waits for or has to say.
    fn is_content(&self) -> bool {
        self.has_said_all && self.awaited.is_empty() && !self.has_output()
    }

    fn has_output(&self) -> bool {
        self.delivered < self.written.len()
    }

    /// Bytes that the server may receive now.
    fn arriving(&self) -> &[u8] {
        &self.written[self.delivered..self.deliverable.clamp(self.delivered, self.written.len())]
    }

    /// Whether the server may see the end of the input now.
    fn has_ended(&self) -> bool {
        self.has_shut_down && !self.has_output()
    }

    fn breaks_now(&self) -> bool {
        self.breaks_after.is_some_and(|bytes| self.delivered >= bytes)
    }

    fn deliver(&mut self, len: usize) -> &[u8] {
        self.delivered += len;
        &self.written[self.delivered - len..self.delivered]
    }
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

/// How a client connects.
#[derive(Clone, Copy)]
pub struct Terms {
    pub core: usize,
    pub own_port: bool,
    pub window: usize,
    pub farewell: Farewell,
    pub breaks_after: Option<usize>,
}

impl Terms {
    pub fn on(core: usize) -> Terms {
        Terms { core, own_port: false, window: usize::MAX, farewell: Farewell::HalfClose, breaks_after: None }
    }
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

    // ---- clients --------------------------------------------------------------------------------

    /// Lets a client say as much as its window allows.
    pub fn let_speak(&mut self, index: usize) {
        let client = &mut self.clients[index];
        loop {
            while let Some(Expect::Nothing) = client.awaited.front() {
                client.awaited.pop_front();
            }
            if client.is_closed || client.has_shut_down || client.awaited.len() >= client.window {
                break;
            }
            let Some(said) = client.talk.say(&mut self.random) else {
                client.has_said_all = client.awaited.is_empty() || client.talk.has_said_all();
                break;
            };
            client.has_said_all = false;
            client.written.extend_from_slice(&said.bytes);
            client.awaited.extend(said.expects);
        }
        if client.has_said_all && client.farewell == Farewell::HalfClose {
            client.has_shut_down = true;
        }
    }

    fn understand(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let mut at = 0;
        while let Some(expected) = client.awaited.front() {
            let rest = &client.received[at..];
            match expected {
                Expect::Nothing => {}
                Expect::Bytes(bytes) => {
                    let len = bytes.len().min(rest.len());
                    assert!(
                        bytes[..len] == rest[..len],
                        "client {index} got {} instead of {}",
                        rest[..rest.len().min(100)].escape_ascii(),
                        bytes[..bytes.len().min(100)].escape_ascii(),
                    );
                    if len < bytes.len() {
                        break;
                    }
                    at += len;
                }
                Expect::Reply(wire) => {
                    let parsed = proto::reply::parse(*wire, rest);
                    match parsed.unwrap_or_else(|error| panic!("client {index} got {}: {error:?}", rest.escape_ascii()))
                    {
                        None => break,
                        Some((reply, len)) => {
                            at += len;
                            client.talk.hear(reply);
                        }
                    }
                }
                Expect::End => break,
            }
            client.awaited.pop_front();
        }
        client.received.drain(..at);
        let nothing_awaited = matches!(client.awaited.front(), None | Some(Expect::End));
        assert!(
            client.received.is_empty() || !nothing_awaited,
            "client {index} got more than it asked for: {}",
            client.received.escape_ascii()
        );
        self.let_speak(index);
    }

    /// The client sees the end of the connection.
    fn end_client(&mut self, index: usize, by_server: bool) {
        let client = &mut self.clients[index];
        client.is_closed = true;
        client.place = None;
        client.written = Vec::new();
        client.delivered = 0;
        if by_server && client.reads {
            let is_expected = matches!(client.awaited.front(), Some(Expect::End))
                || client.awaited.is_empty() && client.has_shut_down
                || client.talk.may_be_closed();
            assert!(
                is_expected,
                "client {index} was closed while it awaited {} replies, shut down: {}",
                client.awaited.len(),
                client.has_shut_down
            );
        }
        client.awaited.clear();
        client.received.clear();
    }

    /// The client breaks the connection.
    pub fn reset(&mut self, index: usize) {
        let client = &self.clients[index];
        if let Some(place) = client.place {
            let core = client.core;
            self.drop_connection(core, place, false);
        }
    }

    // ---- sockets --------------------------------------------------------------------------------

    fn drop_connection(&mut self, core: usize, place: u32, by_server: bool) {
        self.events += 1;
        let at = &mut self.cores[core];
        at.engine.close(place);
        let socket = &mut at.sockets[place as usize];
        socket.receiving = Receiving::Idle;
        socket.large = None;
        socket.sending = None;
        let client = socket.client.take();
        at.free.push(place);
        at.exhausted.retain(|&other| other != place);
        at.lingering.retain(|&other| other != place);
        if let Some(client) = client {
            self.end_client(client, by_server);
        }
    }

    /// As the runtime does: starts or stops receiving as the connection wants it.
    fn steer_input(&mut self, core: usize, place: u32) {
        let direct_min = self.bounds.direct_receive_bytes_min;
        let at = &mut self.cores[core];
        let Some(connection) = at.engine.connection(place) else { return };
        let socket = &mut at.sockets[place as usize];
        let wanted = connection.wants_input() && !connection.input_ended;
        let receiving = socket.receiving != Receiving::Idle;
        if wanted && !receiving && socket.large.is_none() {
            self.events += 1;
            if connection.large_missing() >= direct_min
                && let Some(large) = connection.take_large_in()
            {
                socket.large = Some(large);
            } else {
                socket.receiving = Receiving::Armed;
            }
        } else if !wanted && socket.receiving == Receiving::Armed {
            self.events += 1;
            socket.receiving = Receiving::Stopping;
        }
    }

    /// Something happens on a socket, if anything can.
    fn socket_event(&mut self, core: usize, place: u32) -> bool {
        let at = &mut self.cores[core];
        let socket = &mut at.sockets[place as usize];
        let Some(index) = socket.client else { return false };
        let client = &mut self.clients[index];
        if client.breaks_now() {
            self.drop_connection(core, place, false);
            return true;
        }
        let arriving = client.arriving().len();
        let (has_bytes, has_ended) = (arriving > 0, client.has_ended());
        let can_send = socket.sending.is_some() && client.reads;
        let can_receive_large = socket.large.is_some() && (has_bytes || has_ended);
        let can_receive =
            socket.receiving == Receiving::Stopping || socket.receiving == Receiving::Armed && (has_bytes || has_ended);
        if !(can_send || can_receive || can_receive_large) {
            return false;
        }
        self.events += 1;
        if can_send && (self.random.chance(50) || !(can_receive || can_receive_large)) {
            let out = socket.sending.take().expect("just seen");
            client.received.extend_from_slice(&out.to_vec());
            at.engine.sent(place, out);
            self.understand(index);
            return true;
        }
        if can_receive_large {
            let mut large = socket.large.take().expect("just seen");
            let len_max = large.missing().min(arriving);
            let len = if self.random.chance(50) { len_max } else { self.random.below(len_max + 1) };
            large.buffer().extend_from_slice(client.deliver(len));
            at.engine.large_received(place, large, &at.buffers);
            match has_ended {
                true => at.engine.end_of_input(place),
                false => at.exhausted.push(place),
            }
            return true;
        }
        if socket.receiving == Receiving::Stopping && (!has_bytes || self.random.chance(50)) {
            socket.receiving = Receiving::Idle;
            self.steer_input(core, place);
            return true;
        }
        if has_ended {
            socket.receiving = Receiving::Idle;
            at.engine.end_of_input(place);
            return true;
        }
        if self.random.chance(3) {
            socket.receiving = Receiving::Idle;
            at.exhausted.push(place);
            return true;
        }
        let len_max = match self.random.below(4) {
            0 => 3,
            1 => 100,
            _ => limits::RECV_BUFFER_BYTES,
        };
        let len = 1 + self.random.below(arriving.min(len_max));
        let buffer = at.buffers.0.len();
        at.buffers.0.push(client.deliver(len).to_vec());
        at.engine.receive(place, buffer as u16, &at.buffers);
        let stops = at
            .engine
            .connection(place)
            .is_some_and(|connection| connection.large_missing() >= self.bounds.direct_receive_bytes_min);
        let socket = &mut at.sockets[place as usize];
        if stops && socket.receiving == Receiving::Armed {
            socket.receiving = Receiving::Stopping;
        }
        true
    }

    fn has_socket_events(&self, core: usize) -> bool {
        self.cores[core].sockets.iter().any(|socket| {
            let Some(client) = socket.client.map(|client| &self.clients[client]) else { return false };
            let has_input = !client.arriving().is_empty() || client.has_ended();
            client.breaks_now()
                || socket.sending.is_some() && client.reads
                || socket.large.is_some() && has_input
                || socket.receiving == Receiving::Stopping
                || socket.receiving == Receiving::Armed && has_input
        })
    }

    // ---- the parts of a turn --------------------------------------------------------------------

    fn run(&mut self, core: usize) {
        let at = &mut self.cores[core];
        at.engine.run(&at.buffers);
        at.buffers.0.clear();
    }

    fn resume(&mut self, core: usize) {
        let at = &mut self.cores[core];
        if at.engine.has_resumable() {
            self.events += 1;
            at.engine.resume(&at.buffers);
        }
    }

    fn step_postponed(&mut self, core: usize) {
        let engine = &mut self.cores[core].engine;
        if engine.has_postponed() {
            self.events += 1;
            engine.step_postponed();
        }
    }

    fn steer_exhausted(&mut self, core: usize) {
        for place in std::mem::take(&mut self.cores[core].exhausted) {
            self.events += 1;
            self.steer_input(core, place);
        }
    }

    fn absorb(&mut self, core: usize, from: usize) -> bool {
        let Some(batch) = self.back[core][from].pop_front() else { return false };
        self.events += 1;
        self.cores[core].engine.absorb(from as u32, batch);
        true
    }

    fn serve(&mut self, core: usize, origin: usize) -> bool {
        let Some(mut batch) = self.forward[origin][core].pop_front() else { return false };
        self.events += 1;
        while !self.cores[core].engine.serve(&mut batch) {
            // A part leaves when everything before it has been taken.
            while self.absorb(origin, core) {}
            let part = batch.part();
            self.parts += 1;
            self.part_bytes_max = self.part_bytes_max.max(part.replies.len());
            self.cores[origin].engine.absorb(core as u32, part);
        }
        self.back[origin][core].push_back(batch);
        assert!(self.back[origin][core].len() <= self.bounds.mesh_in_flight_max, "the way back is full");
        true
    }

    fn ship(&mut self, core: usize, to: usize) -> bool {
        let Some(batch) = self.cores[core].engine.ship(to as u32) else { return false };
        self.events += 1;
        self.forward[core][to].push_back(batch);
        assert!(self.forward[core][to].len() <= self.bounds.mesh_in_flight_max, "the way there is full");
        true
    }

    fn send_replies(&mut self, core: usize) {
        // Time passes, and theirs is over at some point.
        for place in self.cores[core].lingering.clone() {
            self.events += 1;
            if self.random.chance(30) {
                self.drop_connection(core, place, true);
            }
        }
        while let Some(place) = self.cores[core].engine.next_dirty() {
            let at = &mut self.cores[core];
            let Some(connection) = at.engine.connection(place) else { continue };
            let socket = &mut at.sockets[place as usize];
            if connection.closing != Closing::Now
                && socket.sending.is_none()
                && let Some(out) = at.engine.take_out(place)
            {
                self.events += 1;
                socket.sending = Some(out);
            }
            if at.engine.connection(place).is_some_and(|connection| connection.is_finished()) {
                self.drop_connection(core, place, true);
            } else {
                if let Some(connection) = at.engine.connection(place)
                    && connection.begins_to_linger()
                {
                    connection.lingers = true;
                    at.lingering.push(place);
                }
                self.steer_input(core, place);
            }
        }
        let at = &mut self.cores[core];
        for (place, socket) in at.sockets.iter().enumerate() {
            let wants_input = at.engine.connection(place as u32).is_none_or(|connection| connection.wants_input());
            assert!(wants_input || socket.receiving != Receiving::Armed, "more is put aside than there may be");
        }
    }

    /// A whole turn in the order of the runtime.
    pub fn turn(&mut self, core: usize) {
        let places = self.cores[core].sockets.len();
        let first = self.random.below(places.max(1));
        let mut has_happened = false;
        for place in (first..places).chain(0..first) {
            while (!has_happened || self.random.chance(50)) && self.socket_event(core, place as u32) {
                has_happened = true;
            }
        }
        self.run(core);
        if self.cores[core].engine.has_resumable() {
            self.resume(core);
            self.run(core);
        }
        self.step_postponed(core);
        self.steer_exhausted(core);
        for other in 0..self.bounds.cores {
            for _ in 0..2 {
                self.absorb(core, other);
                self.serve(core, other);
            }
        }
        for other in 0..self.bounds.cores {
            while self.ship(core, other) {}
        }
        self.send_replies(core);
    }

    /// Whether the runtime would give the core a turn without being rung.
    fn is_awake(&self, core: usize) -> bool {
        let at = &self.cores[core];
        at.engine.has_resumable()
            || at.engine.has_postponed()
            || !at.exhausted.is_empty()
            || !at.lingering.is_empty()
            || self.has_socket_events(core)
            || (0..self.bounds.cores)
                .any(|other| !self.forward[other][core].is_empty() || !self.back[core][other].is_empty())
    }

    /// One part of a turn, of a core and in an order that chance decides.
    pub fn step(&mut self) {
        let core = self.random.below(self.bounds.cores);
        let other = self.random.below(self.bounds.cores);
        match self.random.below(20) {
            0..=5 => {
                let places = self.cores[core].sockets.len();
                if places > 0 {
                    let place = self.random.below(places);
                    self.socket_event(core, place as u32);
                }
            }
            6 | 7 => self.run(core),
            8 => self.resume(core),
            9 => self.step_postponed(core),
            10 | 11 => {
                self.absorb(core, other);
            }
            12 | 13 => {
                self.serve(core, other);
            }
            14 | 15 => {
                self.ship(core, other);
            }
            16 | 17 => {
                // Replies are handed over only when everything received has been applied.
                self.run(core);
                self.send_replies(core);
            }
            18 => self.steer_exhausted(core),
            _ => {
                self.pass_time(10);
                self.cores[core].engine.tick(16);
            }
        }
        self.check(core);
    }

    /// Steps at random, then turns as the runtime takes them, until every client is content or gone.
    /// Cores take turns only when something wakes them: a reply that nobody would ever send is a failure.
    pub fn settle(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
        for core in 0..self.bounds.cores {
            self.turn(core);
        }
        let is_over = |world: &World| {
            world
                .clients
                .iter()
                .all(|client| client.is_closed || client.is_content() && !client.has_shut_down || !client.reads)
        };
        for round in 0.. {
            let awake: Vec<usize> = (0..self.bounds.cores).filter(|&core| self.is_awake(core)).collect();
            if awake.is_empty() {
                break;
            }
            let before = self.events;
            for &core in &awake {
                self.turn(core);
                self.check(core);
            }
            assert!(self.events > before || round < 3, "cores are awake and nothing happens:\n{}", self.dump());
            assert!(round < 200_000, "no end in sight:\n{}", self.dump());
        }
        assert!(is_over(self), "all cores sleep and clients wait:\n{}", self.dump());
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
            let is_slow = connection.unsent() > self.bounds.output_soft_bytes / 2;
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
