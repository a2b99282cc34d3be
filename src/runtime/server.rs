//! Puts the parts of the server together: one engine, ring and mesh port per core.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admin;
use super::core::{self, CoreParts, Shared};
use super::follower::ServerFollower;
use super::host::{CoreSetup, Host};
use super::mesh::{MeshPort, mesh};
use super::{process, wal};
use crate::config::TlsPort;
use crate::engine::EngineConfig;
use crate::engine::cluster::Topology;
use crate::engine::commons::Commons;
use crate::engine::debug::DebugAccess;
use crate::engine::journal::Durable;
use crate::engine::memory::MemoryPool;
use crate::filling::FillBounds;
use crate::hash::KeyHasher;
use crate::limits;
use crate::pubsub::Interest;

const EXIT_FAILURE: u8 = 1;

/// Serves until a signal ends it; returns the exit code.
pub fn run(host: Host) -> u8 {
    let started = Instant::now();
    let seed = match process::random_bytes::<{ 20 + 5 * 8 }>() {
        Ok(seed) => seed,
        Err(error) => {
            tracing::error!("the system gives no random bytes: {error}");
            return EXIT_FAILURE;
        }
    };
    let (run_id, seeds) = seed.split_at(20);
    let run_id: [u8; 20] = run_id.try_into().expect("split at 20");
    let mut words = seeds.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    let mut word = || words.next().expect("five words were drawn");
    let hasher = KeyHasher::with_seed([word(), word(), word(), word()]);
    let random_seed = word();

    // Held until all cores have ended.
    let (plan, _lock) = match wal::plan(host.config(), host.cores() as u32) {
        Ok(planned) => planned.unzip(),
        Err(why) => {
            tracing::error!("{why}");
            return EXIT_FAILURE;
        }
    };
    let durable = Arc::new(Durable::new(host.cores()));
    let mut ports: Vec<Option<MeshPort>> = Vec::new();
    let mut shared = None;
    let mut memory = None;
    let mut interest = None;
    let commons = Arc::new(Commons::new(host.cores(), &hasher));
    host.run(|mut setup| {
        // The first core's set-up brings what all of them share.
        if ports.is_empty() {
            ports = mesh(&setup.doorbells, mesh_bounds().0).into_iter().map(Some).collect();
        }
        let shared = shared
            .get_or_insert_with(|| {
                let shared = Arc::new(Shared::new(setup.clients_max, setup.pulses.clone()));
                admin::start(admin::Parts {
                    listeners: std::mem::take(&mut setup.admin),
                    shared: shared.clone(),
                    doorbells: setup.doorbells.clone(),
                    shutdown: setup.shutdown.clone(),
                    store: setup.store.clone(),
                    commons: commons.clone(),
                    started,
                });
                shared
            })
            .clone();
        let memory = memory
            .get_or_insert_with(|| {
                let follower = ServerFollower::new(&setup, commons.clone());
                let memory = follower.memory();
                setup.store.set_follower(Box::new(follower));
                memory
            })
            .clone();
        let interest = interest.get_or_insert_with(|| Arc::new(Interest::new(setup.cores))).clone();
        let pools = Pools { memory, interest, commons: commons.clone(), durable: durable.clone(), started };
        let engine = engine_config(&setup, &run_id, hasher.clone(), random_seed, pools);
        let log = plan.clone();
        let mesh = ports[setup.index].take().expect("every core is set up once");
        let unix_path = setup.addresses.unix_socket.as_ref().map(|path| path.display().to_string().into());
        let CoreSetup { cpu, store, listeners, doorbells, shutdown, config, ready, .. } = setup;
        // Cores that share a CPU would look for what the others cannot send meanwhile.
        let spin = cpu.map_or(Duration::ZERO, |_| Duration::from_micros(config.spin_us.into()));
        move || async move {
            let parts = CoreParts {
                store,
                engine,
                listeners,
                unix_path,
                mesh,
                doorbells,
                shared,
                shutdown,
                started,
                spin,
                log,
            };
            core::run(parts, ready).await.map_err(Into::into)
        }
    })
}

/// Batches under way from core to core, and batches that wait for that. Tests of debug builds ask for as few as
/// there can be.
fn mesh_bounds() -> (usize, usize) {
    if cfg!(debug_assertions) && std::env::var_os("CRABTEST_TINY_MESH").is_some() {
        return (1, 0);
    }
    (limits::MESH_RING_BATCHES, limits::MESH_OUTBOX_BATCHES)
}

/// What engines have in common.
struct Pools {
    memory: Arc<MemoryPool>,
    interest: Arc<Interest>,
    commons: Arc<Commons>,
    durable: Arc<Durable>,
    started: Instant,
}

fn engine_config(
    setup: &CoreSetup,
    run_id: &[u8; 20],
    hasher: KeyHasher,
    random_seed: u64,
    Pools { memory, interest, commons, durable, started }: Pools,
) -> EngineConfig {
    let config = &setup.config;
    let topology = Topology {
        cores: setup.cores as u32,
        this_core: setup.index as u32,
        seed: *run_id,
        advertised_host: config.advertise_address.clone().unwrap_or_default(),
        core_ports: setup.addresses.core_ports.clone(),
        speaks_plain: config.speaks_plain(),
        speaks_tls: config.tls_port != TlsPort::Off,
        enabled: config.cluster,
    };
    let facts = process::facts(setup, run_id, memory.clone());
    let (mesh_in_flight_max, mesh_waiting_max) = mesh_bounds();
    EngineConfig {
        core: setup.index as u32,
        cores: setup.cores as u32,
        hasher,
        random_seed: random_seed.wrapping_add(setup.index as u64),
        value_bytes_max: config.value_bytes_max as usize,
        memory,
        output_soft_bytes: limits::OUTPUT_SOFT_BYTES,
        output_hard_bytes: limits::OUTPUT_HARD_BYTES + config.value_bytes_max as usize,
        subscriber_hard_bytes: limits::SUBSCRIBER_OUTPUT_HARD_BYTES,
        subscriber_soft_bytes: limits::SUBSCRIBER_OUTPUT_SOFT_BYTES,
        interest,
        commons,
        mesh_in_flight_max,
        mesh_waiting_max,
        mesh_part_bytes: limits::MESH_PART_BYTES,
        fills: FillBounds::default(),
        topology: Arc::new(topology),
        settings: setup.store.clone(),
        durable,
        facts,
        stopwatch: Arc::new(move || started.elapsed().as_micros() as u64),
        debug_access: match config.debug_access {
            crate::config::DebugAccess::No => DebugAccess::Nobody,
            crate::config::DebugAccess::Local => DebugAccess::Local,
            crate::config::DebugAccess::Yes => DebugAccess::Everybody,
        },
    }
}
