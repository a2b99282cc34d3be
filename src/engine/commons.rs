//! What all cores know of clients together: who has failed to say who he is, who was refused what, whose rates are how far
//! used, and how much all clients hold.
//!
//! Cores share these locks, and none of them lies on the way of an ordinary command:
//!
//! ```text
//!   failures           AUTH
//!   newcomers          a connection comes that has to say who it is or begins a handshake, is through with it, or is gone
//!   access log         somebody is refused something; ACL LOG
//!   ledger             a lease of a rate is used up: about a hundred times a second for each core and holder; and every
//!                      new connection, where those are limited
//!   namespace changes  NAMESPACE SET
//! ```
//!
//! Each is held for a few look-ups and never while anything is waited for. The rest is a few words that are read once per
//! tick. (Beside these the log has a ledger of the transactions of which several cores have parts: [`super::journal`].)

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::access_log::AccessLog;
use crate::auth::Failures;
use crate::hash::KeyHasher;
use crate::namespace::Databases;
use crate::ratelimit::Ledger;

pub struct Commons {
    failures: Mutex<Failures>,
    access_log: Mutex<AccessLog>,
    /// Held by whoever changes what is set of namespaces.
    namespace_changes: Mutex<()>,
    /// What each database shows, as one core's log has said; 0 before that.
    databases: AtomicU64,
    ledger: Mutex<Ledger>,
    /// Connections that have not said who they are, by source.
    newcomers: Mutex<HashMap<IpAddr, u32, ahash::RandomState>>,
    pub held: HeldByClients,
    /// Slow commands logged so far: the next one's number.
    pub slow_entries: AtomicU64,
    /// By core: how many of its clients want to see all commands.
    monitors: Box<[AtomicU32]>,
    /// By core: how many keys it had at its last tick, and how many of them in namespaces.
    keys: Box<[AtomicU64]>,
    namespaced: Box<[AtomicU64]>,
}

impl Commons {
    pub fn new(cores: usize, hasher: &KeyHasher) -> Commons {
        Commons {
            failures: Mutex::new(Failures::with_hasher(hasher.state())),
            access_log: Mutex::default(),
            namespace_changes: Mutex::default(),
            databases: AtomicU64::new(0),
            ledger: Mutex::new(Ledger::with_hasher(hasher.state())),
            newcomers: Mutex::new(HashMap::with_hasher(hasher.state())),
            held: HeldByClients::new(cores),
            slow_entries: AtomicU64::new(0),
            monitors: (0..cores).map(|_| AtomicU32::new(0)).collect(),
            keys: (0..cores).map(|_| AtomicU64::new(0)).collect(),
            namespaced: (0..cores).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The core that knows it has read its log.
    pub fn publish_databases(&self, databases: Databases) {
        self.databases.store(databases.to_word(), Ordering::Release);
    }

    pub fn databases(&self) -> Option<Databases> {
        Databases::from_word(self.databases.load(Ordering::Acquire))
    }

    pub fn publish_keys(&self, core: u32, count: u64, namespaced: u64) {
        self.keys[core as usize].store(count, Ordering::Relaxed);
        self.namespaced[core as usize].store(namespaced, Ordering::Relaxed);
    }

    /// Whether any core had keys in namespaces a moment ago.
    pub fn has_namespaced(&self) -> bool {
        self.namespaced.iter().any(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// One of `cores`, the likelier the more keys it has.
    pub fn core_by_keys(&self, cores: Range<u32>, random: u64) -> u32 {
        // Who had none a moment ago may have one now.
        let keys_of = |core: u32| self.keys[core as usize].load(Ordering::Relaxed) + 1;
        let all: u64 = cores.clone().map(keys_of).sum();
        let mut place = random % all.max(1);
        let last = cores.end.saturating_sub(1);
        cores
            .into_iter()
            .find(|&core| match place.checked_sub(keys_of(core)) {
                None => true,
                Some(left) => {
                    place = left;
                    false
                }
            })
            .unwrap_or(last)
    }

    pub fn set_monitors(&self, core: u32, count: usize) {
        self.monitors[core as usize].store(count as u32, Ordering::Release);
    }

    pub fn has_monitors(&self, core: u32) -> bool {
        self.monitors[core as usize].load(Ordering::Acquire) > 0
    }

    pub fn is_monitored(&self) -> bool {
        self.monitors.iter().any(|count| count.load(Ordering::Acquire) > 0)
    }

    /// Failed attempts to authenticate, on whatever core.
    pub fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rates that cores share.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of `source` comes that has to say who it is. False if there are `most` of them already.
    pub fn admit_newcomer(&self, source: IpAddr, most: u32) -> bool {
        let mut newcomers = self.newcomers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = newcomers.entry(source).or_insert(0);
        let admitted = most == 0 || *count < most;
        *count += admitted as u32;
        admitted
    }

    /// One of them has said it, or is gone.
    pub fn settle_newcomer(&self, source: IpAddr) {
        let mut newcomers = self.newcomers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = newcomers.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                newcomers.remove(&source);
            }
        }
    }

    pub fn namespace_changes(&self) -> MutexGuard<'_, ()> {
        self.namespace_changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn access_log(&self) -> MutexGuard<'_, AccessLog> {
        self.access_log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the clients of every core hold: input that is not a whole command yet, transactions that are being queued,
/// replies that have not been sent.
pub struct HeldByClients {
    /// Together; `u64::MAX` for no bound.
    bytes_max: AtomicU64,
    cores: Box<[HeldOnCore]>,
}

/// Written by its core alone.
#[repr(align(64))]
#[derive(Default)]
struct HeldOnCore {
    bytes: AtomicU64,
    /// By the one client that holds most.
    largest: AtomicU64,
}

impl HeldByClients {
    fn new(cores: usize) -> HeldByClients {
        HeldByClients {
            bytes_max: AtomicU64::new(u64::MAX),
            cores: (0..cores).map(|_| HeldOnCore::default()).collect(),
        }
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed)
    }

    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    pub fn publish(&self, core: usize, bytes: u64) {
        self.cores[core].bytes.store(bytes, Ordering::Relaxed);
    }

    pub fn publish_largest(&self, core: usize, bytes: u64) {
        self.cores[core].largest.store(bytes, Ordering::Relaxed);
    }

    /// What is held beyond the bound.
    pub fn excess(&self) -> u64 {
        let bytes: u64 = self.cores.iter().map(|held| held.bytes.load(Ordering::Relaxed)).sum();
        bytes.saturating_sub(self.bytes_max())
    }

    /// The most that one client of another core holds.
    pub fn largest_elsewhere(&self, core: usize) -> u64 {
        let others = self.cores.iter().enumerate().filter(|(other, _)| *other != core);
        others.map(|(_, held)| held.largest.load(Ordering::Relaxed)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_chosen_as_often_as_it_has_keys() {
        let commons = Commons::new(4, &KeyHasher::with_seed([1, 2, 3, 4]));
        for (core, count) in [(0, 999), (1, 0), (2, 2999), (3, 1_000_000)] {
            commons.publish_keys(core, count, 0);
        }
        let mut chosen = [0; 4];
        for random in 0..8002 {
            chosen[commons.core_by_keys(0..3, random) as usize] += 1;
        }
        assert_eq!(chosen, [2000, 2, 6000, 0]);
        assert_eq!(commons.core_by_keys(1..2, 77), 1);
    }
}
