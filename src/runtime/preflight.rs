//! What the machine must give before the first executor starts, because an executor that misses it later
//! panics or hangs. Each check ends in a [`Refusal`] that names the cause and the setting to change.
//!
//! Ports are not among these checks: only taking one shows that it is free (see [`super::listen`]).

mod cpus;
mod io_uring;
mod kernel;
mod limits;

use tracing::warn;

use crate::config::Config;

pub use cpus::list as list_cpus;
pub use kernel::Kernel;
pub use limits::{Descriptors, LockedMemory};

use super::refusal::Refusal;

/// What was found and fitted.
#[derive(Clone, Debug)]
pub struct Ground {
    pub kernel: Kernel,
    /// For each core the CPU it is pinned to; None for all of them when there are more cores than CPUs.
    pub cpus: Vec<Option<usize>>,
    /// For each core the port of its own, 0 for any free one; empty without a cluster.
    pub core_ports: Vec<u16>,
    pub descriptors: Descriptors,
    pub locked_memory: LockedMemory,
}

impl Ground {
    pub fn cores(&self) -> usize {
        self.cpus.len()
    }
}

/// Raises limits where it may and checks everything else. Must run before any thread starts.
pub fn check(config: &Config) -> Result<Ground, Refusal> {
    let kernel = Kernel::check()?;
    let cpus = cpus::place(&config.cores, &cpus::allowed())?;
    let core_ports = config.core_ports(cpus.len())?;
    let listeners = cpus.len() * config.bind.len() * (config.shared_ports() + config.cluster as usize)
        + cpus.len() * config.unix_socket.is_some() as usize;
    let descriptors = Descriptors::check(cpus.len(), listeners, config.clients_max)?;
    if config.is_given("max-clients") && descriptors.clients_max < config.clients_max {
        warn!(
            "--max-clients {} does not fit: {} descriptors leave room for {} clients; raise the limit (LimitNOFILE=, ulimit -n)",
            config.clients_max, descriptors.limit, descriptors.clients_max
        );
    }
    let locked_memory = LockedMemory::check(cpus.len())?;
    limits::check_address_space(cpus.len())?;
    io_uring::check()?;
    Ok(Ground { kernel, cpus, core_ports, descriptors, locked_memory })
}

/// What an error of an executor that could not be made means.
pub fn explain_executor_failure(
    error: &str,
    out_of_memory: bool,
    locked_memory: &LockedMemory,
    cores: usize,
) -> Refusal {
    match out_of_memory {
        true => Refusal::System(limits::locked_memory_exhausted(locked_memory, cores)),
        false => Refusal::Failed(format!("an executor could not be started: {error}")),
    }
}
