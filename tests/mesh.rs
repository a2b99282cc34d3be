//! Cores as threads, with the real mesh and real doorbells between them and no sockets: whoever has nothing
//! to do sleeps until it is rung, without a time limit, so that a wake-up that gets lost is a run that never
//! ends. A watchdog ends it and says who was waiting for what.

// The seeded source of the end-to-end suites, without the rest of them.
#[allow(dead_code)]
#[path = "support/random.rs"]
mod random;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crabcache::clock::Now;
use crabcache::connection::Received;
use crabcache::engine::clients::Address;
use crabcache::engine::cluster::Topology;
use crabcache::engine::commons::Commons;
use crabcache::engine::debug::DebugAccess;
use crabcache::engine::journal::Durable;
use crabcache::engine::memory::MemoryPool;
use crabcache::engine::serving::{Serving, Ways};
use crabcache::engine::settings::Fixed;
use crabcache::engine::{Engine, EngineConfig, Peer};
use crabcache::hash::KeyHasher;
use crabcache::limits;
use crabcache::metrics::ServerFacts;
use crabcache::proto::client;
use crabcache::pubsub::Interest;
use crabcache::runtime::doorbell::Doorbell;
use crabcache::runtime::mesh::{MeshPort, mesh};
use crabcache::slot;
use random::Random;

/// No reply anywhere for so long is the end of a run.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happens in a run.
#[derive(Clone, Copy, Debug)]
struct Plan {
    cores: usize,
    /// Cores with clients; the others only serve.
    cores_with_clients: usize,
    clients: usize,
    commands: usize,
    /// Commands that a client has under way.
    window: usize,
    /// Boxes between two cores, and boxes that may wait for the way to be free.
    capacity: usize,
    waiting_max: usize,
    /// Replies beyond which a box goes home in parts.
    part_bytes: usize,
    value_bytes: usize,
}

/// What everybody can see of a core, for the watchdog.
#[derive(Default)]
struct Shown {
    answered: AtomicU64,
    turns: AtomicU64,
    sleeps: AtomicU64,
    /// Parts of boxes that came home before the rest.
    parts: AtomicU64,
    is_asleep: AtomicBool,
    is_done: AtomicBool,
}

struct Shared {
    cores: Vec<Shown>,
    done: AtomicUsize,
}

/// One client's requests and the bytes it is owed for them.
struct Client {
    keys: Vec<Vec<u8>>,
    counts: Vec<u64>,
    value: Vec<u8>,
    left: usize,
    window: usize,
    under_way: std::collections::VecDeque<Vec<u8>>,
    received: Vec<u8>,
}

impl Client {
    fn new(name: usize, plan: &Plan) -> Client {
        // A key on every core, however many of them there are.
        let owner = |key: &[u8]| slot::owner_of_slot(slot::slot_of(key), plan.cores as u32);
        let key_on = |core| (0..).map(|n| format!("{name}:{n}").into_bytes()).find(|key| owner(key) == core);
        let keys = (0..plan.cores as u32).map(|core| key_on(core).expect("every core owns keys")).collect();
        Client {
            keys,
            counts: vec![0; plan.cores],
            value: vec![b'v'; plan.value_bytes],
            left: plan.commands,
            window: plan.window,
            under_way: Default::default(),
            received: Vec::new(),
        }
    }

    /// As many requests as the window has room for.
    fn say(&mut self, random: &mut Random) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.left > 0 && self.under_way.len() < self.window {
            self.left -= 1;
            let number = random.below(self.keys.len());
            let key = &self.keys[number];
            let expected = match random.below(8) {
                0 => {
                    let words: Vec<&[u8]> =
                        [&b"MGET"[..]].into_iter().chain(self.keys.iter().map(Vec::as_slice)).collect();
                    client::resp(&words, &mut bytes);
                    let values = self.counts.iter().map(|&count| match count {
                        0 => "$-1\r\n".to_owned(),
                        count => format!("${}\r\n{count}\r\n", count.to_string().len()),
                    });
                    format!("*{}\r\n{}", self.keys.len(), values.collect::<String>()).into_bytes()
                }
                1 => {
                    let large = [key, &b":value"[..]].concat();
                    client::resp(&[b"GETSET", &large, &self.value], &mut bytes);
                    client::resp(&[b"GETDEL", &large], &mut bytes);
                    let value = [format!("${}\r\n", self.value.len()).as_bytes(), &self.value, b"\r\n"].concat();
                    [b"$-1\r\n".to_vec(), value].concat()
                }
                2 => {
                    let others: Vec<Vec<u8>> = self.keys.iter().map(|key| [key, &b":none"[..]].concat()).collect();
                    let words: Vec<&[u8]> =
                        [&b"EXISTS"[..]].into_iter().chain(others.iter().map(Vec::as_slice)).collect();
                    client::resp(&words, &mut bytes);
                    b":0\r\n".to_vec()
                }
                _ => {
                    client::resp(&[b"INCR", key], &mut bytes);
                    self.counts[number] += 1;
                    format!(":{}\r\n", self.counts[number]).into_bytes()
                }
            };
            self.under_way.push_back(expected);
        }
        bytes
    }

    /// Returns how many replies have become whole.
    fn hear(&mut self, bytes: &[u8]) -> u64 {
        self.received.extend_from_slice(bytes);
        let (mut at, mut whole) = (0, 0);
        while let Some(expected) = self.under_way.front() {
            let rest = &self.received[at..];
            let len = expected.len().min(rest.len());
            assert!(rest[..len] == expected[..len], "a wrong reply: {}", rest[..len.min(100)].escape_ascii());
            if len < expected.len() {
                break;
            }
            at += len;
            whole += 1;
            self.under_way.pop_front();
        }
        self.received.drain(..at);
        assert!(self.received.is_empty() || !self.under_way.is_empty(), "more than was asked for");
        whole
    }

    fn is_done(&self) -> bool {
        self.left == 0 && self.under_way.is_empty()
    }
}

struct Buffers(Vec<Vec<u8>>);

impl Received for Buffers {
    fn bytes(&self, buffer: u16) -> &[u8] {
        &self.0[buffer as usize]
    }
}

fn engine_config(plan: &Plan, core: usize) -> EngineConfig {
    let cores = plan.cores as u32;
    EngineConfig {
        core: core as u32,
        cores,
        commons: Arc::new(Commons::new(plan.cores, &KeyHasher::with_seed([1, 2, 3, 4]))),
        hasher: KeyHasher::with_seed([1, 2, 3, 4]),
        random_seed: core as u64,
        value_bytes_max: limits::VALUE_BYTES_MAX_DEFAULT,
        memory: Arc::new(MemoryPool::unbounded(plan.cores)),
        subscriber_hard_bytes: limits::SUBSCRIBER_OUTPUT_HARD_BYTES,
        subscriber_soft_bytes: limits::SUBSCRIBER_OUTPUT_SOFT_BYTES,
        // No test here subscribes.
        interest: Arc::new(Interest::new(plan.cores)),
        durable: Arc::new(Durable::new(plan.cores)),
        output_soft_bytes: 1000,
        output_hard_bytes: limits::OUTPUT_HARD_BYTES,
        mesh_in_flight_max: plan.capacity,
        mesh_waiting_max: plan.waiting_max,
        mesh_part_bytes: plan.part_bytes,
        fills: crabcache::filling::FillBounds::default(),
        topology: Arc::new(Topology {
            cores,
            this_core: core as u32,
            seed: [7; 20],
            advertised_host: String::new(),
            core_ports: vec![0; plan.cores],
            speaks_plain: true,
            speaks_tls: false,
            enabled: false,
        }),
        settings: Arc::new(Fixed::default()),
        stopwatch: Arc::new(|| 0),
        debug_access: DebugAccess::Nobody,
        facts: Arc::new(|_| ServerFacts::default()),
    }
}

/// A core: the turn of the runtime, with clients in the place of sockets.
struct Core {
    engine: Engine,
    mesh: MeshPort,
    serving: Serving,
    doorbells: Arc<[Doorbell]>,
    clients: Vec<Client>,
    random: Random,
    shared: Arc<Shared>,
    index: usize,
}

impl Core {
    fn run(mut self) {
        let mut bell = File::from(self.doorbells[self.index].as_fd().try_clone_to_owned().expect("a descriptor"));
        let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)));
        for client in 0..self.clients.len() as u32 {
            let peer = Peer {
                address: address.clone(),
                local_address: address.clone(),
                descriptor: 0,
                own_port: false,
                is_trusted: false,
            };
            self.engine.open(client, peer);
        }
        let shared = self.shared.clone();
        let shown = &shared.cores[self.index];
        let mut now = Now::at_ms(1_700_000_000_000);
        loop {
            now.uptime_us += 1;
            self.engine.set_now(now);
            shown.turns.fetch_add(1, Ordering::Relaxed);
            let has_said = self.hear_clients();
            self.exchange();
            self.answer_clients();
            if !shown.is_done.load(Ordering::Relaxed) && self.clients.iter().all(Client::is_done) {
                shown.is_done.store(true, Ordering::Relaxed);
                if shared.done.fetch_add(1, Ordering::AcqRel) + 1 == shared.cores.len() {
                    self.doorbells.iter().for_each(Doorbell::ring);
                }
            }
            // The others still need what is served here.
            if shared.done.load(Ordering::Acquire) == shared.cores.len() && self.engine.is_quiet() {
                break;
            }
            let busy = has_said
                || self.engine.has_resumable()
                || self.engine.has_postponed()
                || self.mesh.has_arrivals()
                || self.serving.has_begun()
                || self.clients.iter().any(|client| client.left > 0 && client.under_way.len() < client.window);
            if busy {
                continue;
            }
            // Something may arrive right now, and has to be seen.
            self.dawdle();
            if !self.mesh.fall_asleep() {
                continue;
            }
            shown.sleeps.fetch_add(1, Ordering::Relaxed);
            shown.is_asleep.store(true, Ordering::Relaxed);
            self.dawdle();
            bell.read_exact(&mut [0; 8]).expect("an eventfd");
            shown.is_asleep.store(false, Ordering::Relaxed);
            self.mesh.wake_up();
        }
    }

    fn dawdle(&mut self) {
        match self.random.below(8) {
            0 => std::thread::yield_now(),
            1 => std::thread::sleep(Duration::from_micros(50)),
            2..=4 => (0..self.random.below(300)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }

    fn hear_clients(&mut self) -> bool {
        let mut buffers = Buffers(Vec::new());
        let mut has_said = false;
        for index in 0..self.clients.len() {
            let bytes = self.clients[index].say(&mut self.random);
            has_said |= !bytes.is_empty();
            for piece in bytes.chunks(limits::RECV_BUFFER_BYTES) {
                buffers.0.push(piece.to_vec());
                self.engine.receive(index as u32, buffers.0.len() as u16 - 1, &buffers);
            }
        }
        self.engine.run(&buffers);
        self.engine.resume(&buffers);
        self.engine.run(&buffers);
        self.engine.step_postponed();
        has_said
    }

    fn exchange(&mut self) {
        for core in 0..self.mesh.cores() {
            while let Some(batch) = self.mesh.returned(core) {
                self.shared.cores[self.index].parts.fetch_add(batch.is_part() as u64, Ordering::Relaxed);
                self.engine.absorb(core as u32, batch);
            }
            self.serving.serve(&mut self.engine, &mut self.mesh, core, usize::MAX);
        }
        for core in 0..self.mesh.cores() {
            while let Some(batch) = self.engine.ship(core as u32) {
                self.mesh.forward(core, batch);
            }
        }
        self.mesh.ring_sleepers();
    }

    fn answer_clients(&mut self) {
        while let Some(index) = self.engine.next_dirty() {
            while let Some(out) = self.engine.take_out(index) {
                let answered = self.clients[index as usize].hear(&out.to_vec());
                self.shared.cores[self.index].answered.fetch_add(answered, Ordering::Relaxed);
                self.engine.sent(index, out);
            }
        }
    }
}

/// Carries a plan out; returns how often cores slept.
/// How often the cores slept, and how many parts of boxes came home.
fn carry_out(plan: Plan, seed: u64) -> (u64, u64) {
    let doorbells: Arc<[Doorbell]> = (0..plan.cores).map(|_| Doorbell::new().expect("an eventfd")).collect();
    let shared =
        Arc::new(Shared { cores: (0..plan.cores).map(|_| Shown::default()).collect(), done: AtomicUsize::new(0) });
    let start = |(index, mesh): (usize, MeshPort)| {
        let (doorbells, shared) = (doorbells.clone(), shared.clone());
        std::thread::spawn(move || {
            let clients = if index < plan.cores_with_clients { plan.clients } else { 0 };
            let core = Core {
                engine: Engine::new(engine_config(&plan, index)),
                mesh,
                serving: Serving::new(plan.cores),
                doorbells,
                clients: (0..clients).map(|client| Client::new(index * 1000 + client, &plan)).collect(),
                random: Random::new(seed << 8 | index as u64),
                shared,
                index,
            };
            core.run();
        })
    };
    let threads: Vec<JoinHandle<()>> = mesh(&doorbells, plan.capacity).into_iter().enumerate().map(start).collect();
    watch(&threads, &shared, &plan, seed);
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
    let answered: u64 = shared.cores.iter().map(|core| core.answered.load(Ordering::Relaxed)).sum();
    assert_eq!(answered, (plan.cores_with_clients * plan.clients * plan.commands) as u64, "seed {seed}, {plan:?}");
    let sum = |of: fn(&Shown) -> &AtomicU64| shared.cores.iter().map(|core| of(core).load(Ordering::Relaxed)).sum();
    (sum(|core| &core.sleeps), sum(|core| &core.parts))
}

/// Returns when all threads have ended or one has failed; panics when nothing moves any more.
fn watch(threads: &[JoinHandle<()>], shared: &Shared, plan: &Plan, seed: u64) {
    let mut answered_before = u64::MAX;
    let mut moved_at = Instant::now();
    let mut wait = Duration::from_micros(100);
    loop {
        let ended = threads.iter().filter(|thread| thread.is_finished()).count();
        let has_failed = ended > 0 && shared.done.load(Ordering::Acquire) < threads.len();
        if ended == threads.len() {
            return;
        }
        assert!(!has_failed, "a core has failed: seed {seed}, {plan:?}");
        let answered: u64 = shared.cores.iter().map(|core| core.answered.load(Ordering::Relaxed)).sum();
        if answered != answered_before {
            (answered_before, moved_at) = (answered, Instant::now());
        }
        if moved_at.elapsed() > PATIENCE {
            for (index, core) in shared.cores.iter().enumerate() {
                eprintln!(
                    "core {index}: answered {} turns {} sleeps {} asleep {} done {} ended {}",
                    core.answered.load(Ordering::Relaxed),
                    core.turns.load(Ordering::Relaxed),
                    core.sleeps.load(Ordering::Relaxed),
                    core.is_asleep.load(Ordering::Relaxed),
                    core.is_done.load(Ordering::Relaxed),
                    threads[index].is_finished(),
                );
            }
            panic!("no reply for {PATIENCE:?}: seed {seed}, {plan:?}");
        }
        std::thread::park_timeout(wait);
        wait = (wait * 2).min(Duration::from_millis(20));
    }
}

/// A box goes to and fro between two cores that do nothing but wait for it, one of which never sleeps at
/// times: whatever falling asleep here and looking for sleepers there can do to each other, it happens here.
/// (Optimised, it finds even a fence that is missing.)
#[test]
fn a_box_never_gets_stuck_between_two_sleepers() {
    const ROUNDS: u64 = 100_000;
    let doorbells: Arc<[Doorbell]> = (0..2).map(|_| Doorbell::new().expect("an eventfd")).collect();
    let rounds = Arc::new(AtomicU64::new(0));
    let play = |(index, mut port): (usize, MeshPort)| {
        let mut bell = File::from(doorbells[index].as_fd().try_clone_to_owned().expect("a descriptor"));
        let rounds = rounds.clone();
        std::thread::spawn(move || {
            let mut random = Random::new(index as u64);
            if index == 0 {
                port.forward(1, Box::default());
                port.ring_sleepers();
            }
            loop {
                let arrived = match index {
                    0 => port.returned(1).map(|batch| port.forward(1, batch)),
                    _ => port.inbound(0).map(|batch| port.give_back(0, batch)),
                };
                if arrived.is_some() {
                    port.ring_sleepers();
                    if rounds.fetch_add(1, Ordering::Relaxed) >= 2 * ROUNDS {
                        return;
                    }
                }
                let is_restless = index == 1 && rounds.load(Ordering::Relaxed) % 8000 > 1000;
                (0..random.below(if is_restless { 3 } else { 40 })).for_each(|_| std::hint::spin_loop());
                if !is_restless && port.fall_asleep() {
                    bell.read_exact(&mut [0; 8]).expect("an eventfd");
                    port.wake_up();
                }
            }
        })
    };
    let threads: Vec<JoinHandle<()>> = mesh(&doorbells, 1).into_iter().enumerate().map(play).collect();
    let (mut before, mut moved_at) = (0, Instant::now());
    // The one that is left behind when the other has had enough may be asleep.
    while !threads.iter().any(JoinHandle::is_finished) {
        let now = rounds.load(Ordering::Relaxed);
        if now != before {
            (before, moved_at) = (now, Instant::now());
        }
        assert!(moved_at.elapsed() < PATIENCE, "both sleep after {now} rounds");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

#[test]
fn no_wake_up_is_lost_while_cores_fall_asleep_after_every_command() {
    let mut sleeps = 0;
    for seed in 0..200 {
        let cores = 2 + seed as usize % 3;
        let plan = Plan {
            cores,
            cores_with_clients: if seed % 4 == 0 { 1 } else { cores },
            clients: 1,
            commands: 60,
            window: 1,
            capacity: 1,
            waiting_max: 0,
            part_bytes: limits::MESH_PART_BYTES,
            value_bytes: 10,
        };
        sleeps += carry_out(plan, seed).0;
    }
    assert!(sleeps > 200 * 60, "cores slept only {sleeps} times");
}

#[test]
fn cores_flooding_each_other_through_single_boxes_come_to_an_end() {
    let mut parts = 0;
    for seed in 0..60 {
        let cores = 2 + seed as usize % 4;
        let plan = Plan {
            cores,
            cores_with_clients: cores,
            clients: 4,
            commands: 60,
            window: 30,
            capacity: 1 + seed as usize % 2,
            waiting_max: 0,
            part_bytes: [0, 30_000, limits::MESH_PART_BYTES][seed as usize % 3],
            value_bytes: 20_000,
        };
        parts += carry_out(plan, seed).1;
    }
    assert!(parts > 1000, "only {parts} parts");
}

#[test]
fn many_more_cores_than_cpus() {
    for seed in 0..30 {
        let plan = Plan {
            cores: 4 * cpus() + seed as usize % 3,
            cores_with_clients: 1 + seed as usize % (4 * cpus()),
            clients: 2,
            commands: 30,
            window: 1 + seed as usize % 5,
            capacity: 1,
            waiting_max: seed as usize % 2,
            part_bytes: 10_000 * (seed as usize % 3),
            value_bytes: 40_000,
        };
        carry_out(plan, seed);
    }
}
