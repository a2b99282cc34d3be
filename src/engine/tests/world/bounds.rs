//! How large everything is.

use std::sync::Arc;

use crate::engine::EngineConfig;
use crate::engine::cluster::Topology;
use crate::engine::commons::Commons;
use crate::engine::debug::DebugAccess;
use crate::engine::journal::Durable;
use crate::engine::memory::MemoryPool;
use crate::engine::settings::Fixed;
use crate::filling::FillBounds;
use crate::hash::KeyHasher;
use crate::limits;
use crate::metrics::ServerFacts;
use crate::pubsub::Interest;
use crate::random::Random;

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
    pub mesh_part_bytes: usize,
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
            mesh_part_bytes: limits::MESH_PART_BYTES,
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
            mesh_part_bytes: random.pick(&[0, 20, 1000, limits::MESH_PART_BYTES]),
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
        mesh_part_bytes: bounds.mesh_part_bytes,
        fills: FillBounds::default(),
        topology: Arc::new(Topology {
            cores,
            this_core: core as u32,
            seed: [7; 20],
            advertised_host: String::new(),
            core_ports: (0..cores as u16).map(|core| 7101 + core).collect(),
            speaks_plain: true,
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
