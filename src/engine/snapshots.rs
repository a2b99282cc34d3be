//! A core's counters at one moment, and the pages that are made of those of all cores.

use super::Engine;
use super::gather::Page;
use crate::metrics::{self, CoreSnapshot, DatabaseSnapshot, ShardSnapshot};
use crate::namespace::{self, DATABASES};
use crate::proto;
use crate::reply::Reply;
use crate::request::Wire;

impl Engine {
    pub(super) fn snapshot(&mut self) -> CoreSnapshot {
        self.count_subscriptions();
        self.counters.client_bytes = self.held_by_clients();
        if self.has_answered() {
            let elapsed_us = (self.config.stopwatch)().saturating_sub(self.now.uptime_us);
            self.record_latency(elapsed_us * 1000);
        }
        CoreSnapshot {
            core: self.config.core,
            counters: self.counters.clone(),
            shard: self.shard_snapshot(),
            databases: self.database_snapshots(),
            namespaces: self.namespace_snapshots(),
            log: self.log_snapshot(),
            rates: self.rates.snapshot(self.now.uptime_us, &self.counters),
            latency: self.latency.snapshot(),
        }
    }

    /// What is in no database of its own is in that of the global namespace.
    fn database_snapshots(&self) -> [DatabaseSnapshot; DATABASES as usize] {
        let mut databases = [DatabaseSnapshot::default(); DATABASES as usize];
        let counters = self.shard.counters();
        let mut first = DatabaseSnapshot { keys: self.shard.len(), keys_with_expiry: counters.keys_with_expiry };
        for (name, counters) in self.shard.namespaces() {
            let number = self.databases.number_of(name);
            if number.is_none() && !namespace::is_hidden(name) {
                continue;
            }
            let database = DatabaseSnapshot { keys: counters.items, keys_with_expiry: counters.expiring };
            first.keys = first.keys.saturating_sub(database.keys);
            first.keys_with_expiry = first.keys_with_expiry.saturating_sub(database.keys_with_expiry);
            if let Some(number) = number {
                databases[number as usize] = database;
            }
        }
        databases[self.databases.number_of(b"").unwrap_or(0) as usize] = first;
        databases
    }

    fn shard_snapshot(&self) -> ShardSnapshot {
        let counters = self.shard.counters();
        let what_if = self.shard.what_if();
        ShardSnapshot {
            keys: counters.keys,
            keys_with_expiry: counters.keys_with_expiry,
            keyspace_hits: counters.hits,
            keyspace_misses: counters.misses,
            keys_expired: counters.expired_lazy + counters.expired_active,
            keys_expired_on_access: counters.expired_lazy,
            keys_evicted: counters.evicted,
            keys_admitted: counters.admitted,
            keys_rejected: counters.rejected,
            keys_aged_out: counters.evicted.saturating_sub(counters.rejected + counters.admitted),
            writes_refused: counters.refused,
            memory_bytes: counters.memory_bytes,
            memory_granted_bytes: if self.memory_limit.0 == u64::MAX { 0 } else { self.memory_limit.0 },
            payload_bytes: counters.key_bytes + counters.value_bytes,
            item_bytes: counters.item_bytes,
            large_value_bytes: counters.large_value_bytes,
            gap_bytes: counters.dead_bytes,
            free_bytes: counters.free_bytes,
            history_bytes: counters.history_bytes,
            window_bytes: counters.window_bytes,
            window_target_bytes: counters.item_bytes * counters.window_percent / 100,
            probation_bytes: counters.probation_bytes,
            protected_bytes: counters.protected_bytes,
            index_bytes: counters.index_bytes,
            deadline_bytes: counters.deadline_bytes,
            pressed: counters.is_pressed as u64,
            what_if_look_ups: what_if.look_ups,
            what_if_hits_at_half: what_if.hits[0],
            what_if_hits_at_same: what_if.hits[1],
            what_if_hits_at_double: what_if.hits[2],
            what_if_hits_at_quadruple: what_if.hits[3],
        }
    }

    /// INFO, STATS, MEMORY STATS and MEMORY DOCTOR out of every core's counters.
    pub(super) fn render(&self, index: u32, snapshots: &[CoreSnapshot], page: Page) -> Reply<'static> {
        let mut facts = (self.config.facts)(self.now);
        let own_port = self.connections[index as usize].as_deref().is_some_and(|found| found.own_port);
        facts.node = own_port.then(|| self.config.topology.node());
        match page {
            Page::Info(sections) => Reply::Verbatim(metrics::info(sections, &facts, snapshots).into()),
            Page::Stats => {
                let json = metrics::stats_json(&facts, snapshots);
                let is_json = self.connections[index as usize].as_deref().is_some_and(|found| found.wire == Wire::Json);
                let structure = if is_json { proto::json::structure_of(json.as_bytes()) } else { None };
                structure.unwrap_or_else(|| Reply::owned(json))
            }
            Page::MemoryStats => metrics::memory_stats(&facts, snapshots),
            Page::MemoryDoctor => Reply::Verbatim(metrics::memory_doctor(&facts, snapshots).into()),
            Page::Histogram(wanted) => metrics::latency_histogram(snapshots, |op| wanted.has(op)),
            Page::Metrics(names) => Reply::owned(metrics::prometheus(&facts, snapshots, names)),
        }
    }
}
