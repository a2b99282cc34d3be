//! A few engines, their clients and the ways between them, driven by hand or by chance: smaller than the world of
//! `world`, for tests that look at what each client receives. Boxes and bytes are under way for as long as chance
//! wants; between two clients nothing is in a fixed order.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::world::{Bounds, UNIX_MS, engine_config};
use crate::clock::Now;
use crate::connection::{Closing, Received};
use crate::engine::batch::Batch;
use crate::engine::clients::Address;
use crate::engine::commons::Commons;
use crate::engine::settings::{Fixed, Live};
use crate::engine::{Engine, EngineConfig, Peer};
use crate::pubsub::Interest;
use crate::random::Random;
use crate::reply::Out;

struct Buffer(Vec<u8>);

impl Received for Buffer {
    fn bytes(&self, _buffer: u16) -> &[u8] {
        &self.0
    }
}

pub struct LabClient {
    pub core: usize,
    pub index: u32,
    /// On its way to the server.
    input: VecDeque<u8>,
    sending: Option<Out>,
    /// What the server has sent and nobody has looked at.
    pub received: Vec<u8>,
    /// Whether it takes what is sent.
    pub reads: bool,
    pub is_closed: bool,
}

pub struct Lab {
    pub random: Random,
    pub engines: Vec<Engine>,
    pub clients: Vec<LabClient>,
    pub now: Now,
    pub commons: Arc<Commons>,
    forward: Vec<Vec<VecDeque<Box<Batch>>>>,
    back: Vec<Vec<VecDeque<Box<Batch>>>>,
}

impl Lab {
    pub fn new(random: Random, bounds: &Bounds) -> Lab {
        Lab::with(random, bounds, Live::default())
    }

    pub fn with(random: Random, bounds: &Bounds, live: Live) -> Lab {
        let settings = Arc::new(Fixed(Vec::new(), Arc::new(live)));
        Lab::changed(random, bounds, |config| EngineConfig { settings: settings.clone(), ..config })
    }

    /// With engines that are a little different.
    pub fn changed(random: Random, bounds: &Bounds, change: impl Fn(EngineConfig) -> EngineConfig) -> Lab {
        let interest = Arc::new(Interest::new(bounds.cores));
        let commons = engine_config(bounds, 0).commons;
        let engine = |core| {
            Engine::new(change(EngineConfig {
                interest: interest.clone(),
                commons: commons.clone(),
                ..engine_config(bounds, core)
            }))
        };
        let ways = || (0..bounds.cores).map(|_| (0..bounds.cores).map(|_| VecDeque::new()).collect()).collect();
        let mut lab = Lab {
            random,
            engines: (0..bounds.cores).map(engine).collect(),
            clients: Vec::new(),
            now: Now::at_ms(UNIX_MS),
            commons: commons.clone(),
            forward: ways(),
            back: ways(),
        };
        lab.pass_ms(0);
        lab
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.now.unix_ms += ms;
        self.now.uptime_us += ms * 1000;
        for engine in &mut self.engines {
            engine.set_now(self.now);
            engine.tick(100);
        }
    }

    pub fn connect(&mut self, core: usize) -> usize {
        let index = self.clients.iter().filter(|client| client.core == core).count() as u32;
        let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 10_000 + index as u16)));
        let peer = Peer {
            address: address.clone(),
            local_address: address,
            descriptor: 0,
            own_port: false,
            is_trusted: false,
        };
        self.engines[core].open(index, peer);
        self.clients.push(LabClient {
            core,
            index,
            input: VecDeque::new(),
            sending: None,
            received: Vec::new(),
            reads: true,
            is_closed: false,
        });
        self.clients.len() - 1
    }

    pub fn disconnect(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if !client.is_closed {
            client.is_closed = true;
            self.engines[client.core].close(client.index);
        }
    }

    /// Lets a client send bytes; they arrive in pieces.
    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].input.extend(bytes);
    }

    /// Lets one thing happen that can. False when there is nothing.
    pub fn step(&mut self) -> bool {
        let cores = self.engines.len();
        let kinds = 5;
        let first = self.random.below(kinds);
        for kind in 0..kinds {
            let start = self.random.below(cores.max(1));
            let happened = match (first + kind) % kinds {
                0 => self.deliver_input(),
                1 => (0..cores).any(|core| self.go_on((start + core) % cores)),
                2 => (0..cores * cores).any(|pair| {
                    let pair = (pair + start * cores) % (cores * cores);
                    self.exchange(pair / cores, pair % cores)
                }),
                3 => (0..cores).any(|core| self.send_replies((start + core) % cores)),
                _ => self.finish_send(),
            };
            if happened {
                return true;
            }
        }
        false
    }

    /// Until nothing is left to happen.
    pub fn settle(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 5_000_000, "it never comes to rest");
        }
    }

    /// The same of one core and its clients, while the others do nothing.
    pub fn settle_alone(&mut self, core: usize) {
        while self.deliver_input() || self.go_on(core) || self.send_replies(core) || self.finish_send() {}
    }

    /// What a client has received and nobody has looked at.
    pub fn heard(&mut self, client: usize) -> Vec<u8> {
        std::mem::take(&mut self.clients[client].received)
    }

    /// Sends an inline command and waits until all is quiet; what came back.
    pub fn call(&mut self, client: usize, line: &str) -> String {
        self.send(client, format!("{line}\r\n").as_bytes());
        self.settle();
        String::from_utf8_lossy(&self.heard(client)).into_owned()
    }

    fn deliver_input(&mut self) -> bool {
        let start = self.random.below(self.clients.len().max(1));
        let count = self.clients.len();
        for at in 0..count {
            let client = &mut self.clients[(start + at) % count];
            let engine = &mut self.engines[client.core];
            if client.is_closed || client.input.is_empty() {
                continue;
            }
            if !engine.connection(client.index).is_some_and(|connection| connection.wants_input()) {
                continue;
            }
            let most = if self.random.below(3) == 0 { 5 } else { 500 };
            let len = (1 + self.random.below(most)).min(client.input.len());
            let bytes = Buffer(client.input.drain(..len).collect());
            engine.receive(client.index, 0, &bytes);
            engine.run(&bytes);
            return true;
        }
        false
    }

    fn go_on(&mut self, core: usize) -> bool {
        let engine = &mut self.engines[core];
        let nothing = Buffer(Vec::new());
        let happens = engine.has_resumable() || engine.has_postponed();
        if engine.has_resumable() {
            engine.resume(&nothing);
            engine.run(&nothing);
        }
        if engine.has_postponed() {
            engine.step_postponed();
        }
        happens
    }

    fn exchange(&mut self, a: usize, b: usize) -> bool {
        if a == b {
            return false;
        }
        if let Some(batch) = self.engines[a].ship(b as u32) {
            self.forward[a][b].push_back(batch);
            return true;
        }
        if self.random.below(2) == 0
            && let Some(batch) = self.back[a][b].pop_front()
        {
            self.engines[a].absorb(b as u32, batch);
            return true;
        }
        if let Some(mut batch) = self.forward[a][b].pop_front() {
            while !self.engines[b].serve(&mut batch) {
                while let Some(before) = self.back[a][b].pop_front() {
                    self.engines[a].absorb(b as u32, before);
                }
                let part = batch.part();
                self.engines[a].absorb(b as u32, part);
            }
            self.back[a][b].push_back(batch);
            return true;
        }
        if let Some(batch) = self.back[a][b].pop_front() {
            self.engines[a].absorb(b as u32, batch);
            return true;
        }
        false
    }

    fn send_replies(&mut self, core: usize) -> bool {
        let engine = &mut self.engines[core];
        let Some(index) = engine.next_dirty() else { return false };
        let client = self.clients.iter_mut().find(|client| client.core == core && client.index == index);
        let Some(client) = client.filter(|client| !client.is_closed) else { return true };
        let Some(connection) = engine.connection(index) else { return true };
        if connection.closing != Closing::Now && client.sending.is_none() {
            client.sending = engine.take_out(index);
        }
        if engine.connection(index).is_some_and(|connection| connection.is_finished()) {
            engine.close(index);
            client.is_closed = true;
        }
        true
    }

    fn finish_send(&mut self) -> bool {
        let engines = &mut self.engines;
        for client in self.clients.iter_mut().filter(|client| client.reads && !client.is_closed) {
            if let Some(out) = client.sending.take() {
                client.received.extend(out.to_vec());
                engines[client.core].sent(client.index, out);
                return true;
            }
        }
        false
    }
}
