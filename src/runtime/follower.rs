//! What of the server follows its settings while it runs, and what they came to.

use std::sync::Arc;

use super::host::CoreSetup;
use super::listen::{Addresses, BACKLOG, KEEPALIVE};
use super::{log, process};
use crate::config::{Config, ConfigError, EvictionPolicy, Follower, MemorySize, Setting};
use crate::engine::commons::Commons;
use crate::engine::memory::MemoryPool;
use crate::limits::MEMORY_BYTES_PER_CORE_MIN;
use crate::store::Eviction;

pub struct ServerFollower {
    memory: Arc<MemoryPool>,
    commons: Arc<Commons>,
    addresses: Arc<Addresses>,
    cores: usize,
    clients_max: usize,
}

impl ServerFollower {
    pub fn new(setup: &CoreSetup, commons: Arc<Commons>) -> ServerFollower {
        commons.held.set_bytes_max(bytes_asked(setup.config.client_memory_max));
        ServerFollower {
            commons,
            memory: Arc::new(memory_pool(&setup.config, setup.cores)),
            addresses: setup.addresses.clone(),
            cores: setup.cores,
            clients_max: setup.clients_max,
        }
    }

    /// The ceiling that follows `max-memory`.
    pub fn memory(&self) -> Arc<MemoryPool> {
        self.memory.clone()
    }

    fn memory_bytes_min(&self) -> u64 {
        MEMORY_BYTES_PER_CORE_MIN * self.cores as u64
    }
}

/// What `max-memory` asks for.
fn memory_asked(config: &Config) -> u64 {
    bytes_asked(config.memory_max)
}

/// In bytes; no bound is `u64::MAX`.
fn bytes_asked(size: MemorySize) -> u64 {
    match size {
        MemorySize::Bytes(0) => u64::MAX,
        MemorySize::Bytes(bytes) => bytes,
        MemorySize::Percent(percent) => process::memory_bytes_allowed() / 100 * percent as u64,
    }
}

fn eviction(config: &Config) -> Eviction {
    match config.eviction {
        EvictionPolicy::Tinylfu => Eviction::TinyLfu,
        EvictionPolicy::Lru => Eviction::Lru,
        EvictionPolicy::None => Eviction::None,
    }
}

/// One ceiling for all cores.
fn memory_pool(config: &Config, cores: usize) -> MemoryPool {
    let asked = memory_asked(config);
    let bytes_max = asked.max(MEMORY_BYTES_PER_CORE_MIN * cores as u64);
    if bytes_max > asked {
        tracing::warn!("--max-memory of {asked} bytes is too little for {cores} cores: it is {bytes_max} now");
    }
    let policy = format!("{:?}", eviction(config)).to_lowercase();
    match bytes_max {
        u64::MAX => tracing::info!("memory: without a bound"),
        bytes => tracing::info!("memory: at most {} MiB, eviction {policy}", bytes >> 20),
    }
    if config.value_bytes_max > bytes_max / 2 {
        let largest = bytes_max >> 21;
        tracing::warn!(
            "values are welcome up to --max-value-bytes, but those above {largest} MiB find no room in --max-memory"
        );
    }
    let pool = MemoryPool::new(bytes_max, eviction(config), cores);
    pool.set_ttl_jitter_percent(config.ttl_jitter_percent);
    pool
}

impl Follower for ServerFollower {
    fn check(&self, new: &Config) -> Result<(), ConfigError> {
        let (asked, least) = (memory_asked(new), self.memory_bytes_min());
        let is_new = asked != self.memory.bytes_max();
        if is_new && (asked < least || (1 << 62..u64::MAX).contains(&asked)) {
            return Err(new.error("max-memory", format!("argument must be 0 or at least {least}")));
        }
        Ok(())
    }

    fn apply(&self, old: &Config, new: &Config) {
        if old.memory_max != new.memory_max {
            self.memory.set_bytes_max(memory_asked(new).max(self.memory_bytes_min()));
        }
        if old.client_memory_max != new.client_memory_max {
            self.commons.held.set_bytes_max(bytes_asked(new.client_memory_max));
        }
        if old.ttl_jitter_percent != new.ttl_jitter_percent {
            self.memory.set_ttl_jitter_percent(new.ttl_jitter_percent);
        }
        if old.eviction != new.eviction {
            self.memory.set_eviction(eviction(new));
        }
        if old.log_level != new.log_level {
            log::set_level(new.log_level);
        }
    }

    fn in_effect(&self, setting: &Setting, config: &Config) -> Option<String> {
        Some(match setting.key {
            "port" => self.addresses.port.unwrap_or(0).to_string(),
            "cores" => self.cores.to_string(),
            "max-clients" => self.clients_max.to_string(),
            "max-client-memory" if !matches!(config.client_memory_max, MemorySize::Bytes(_)) => {
                self.commons.held.bytes_max().to_string()
            }
            "max-memory" if !matches!(config.memory_max, MemorySize::Bytes(_)) => self.memory.bytes_max().to_string(),
            _ => return None,
        })
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![("tcp-backlog", BACKLOG.to_string()), ("tcp-keepalive", KEEPALIVE.as_secs().to_string())]
    }
}
