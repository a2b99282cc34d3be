//! Namespaces that are limited: keys that come get an expiry, and others of the same namespace go for them.

use super::item::Head;
use super::keyspace::{Found, Keyspace, Write};
use super::{Effects, Eviction, OutOfMemory, Shard, ShardCounters};
use crate::clock::Now;
use crate::namespace;

/// Keys that a write, or a tick, looks at to find some that may go.
const JUDGED_MAX: usize = 4096;
const JUDGED_BY_TICK_MAX: usize = 512;
/// Buckets of the index that are searched for keys that were there before their namespace was limited.
const SEARCHED_BUCKETS: usize = 64;
/// So many hashes of keys that are gone may stay in a queue beside as many as there are keys.
const GONE_MAX: usize = 1024;

impl Shard {
    /// Stores as anybody does, under the limits of the key's namespace.
    #[cold]
    #[inline(never)]
    pub(super) fn store_in_namespace<E: Effects>(
        &mut self,
        write: &Write<'_>,
        effects: &mut E,
    ) -> Result<(), OutOfMemory> {
        let write = *write;
        let found = self.keyspace.find(write.hash, write.key);
        let expires_at_ms = self.admit_to_namespace(write, found)?;
        self.store_as_it_is(Write { expires_at_ms, ..write }, found, effects)?;
        self.written_in_namespace(write.hash, write.key, effects);
        Ok(())
    }

    /// A key comes or changes: when it expires, if there is room for it at all.
    fn admit_to_namespace(&mut self, write: Write<'_>, found: Option<Found>) -> Result<Option<u64>, OutOfMemory> {
        let Write { key, expires_at_ms, .. } = write;
        let Some(name) = namespace::name_of(key) else { return Ok(expires_at_ms) };
        let Some(limits) = self.keyspace.namespaces.limits_of(name) else { return Ok(expires_at_ms) };
        let bytes = write.bytes() as u64;
        let mut fits = limits.holds(1, bytes);
        if fits && self.keyspace.eviction == Eviction::None {
            let held = self.keyspace.namespaces.get(name).copied().unwrap_or_default();
            let before = found.map_or(0, |found| (key.len() + self.keyspace.value_bytes(found)) as u64);
            let grows = found.is_none() || bytes > before;
            let items = held.items + found.is_none() as u64;
            fits = !grows || limits.holds(items, (held.bytes + bytes).saturating_sub(before));
        }
        let expires_at_ms = limits.expiry(expires_at_ms, true, write.now_ms);
        if !fits {
            self.counters.refused += 1;
            return Err(OutOfMemory);
        }
        Ok(expires_at_ms)
    }

    /// The expiry that a key is to get, or none.
    #[cold]
    #[inline(never)]
    pub(super) fn expiry_in_namespace(&self, key: &[u8], expires_at_ms: Option<u64>, now: Now) -> Option<u64> {
        let limits = namespace::name_of(key).and_then(|name| self.keyspace.namespaces.limits_of(name));
        limits.map_or(expires_at_ms, |limits| limits.expiry(expires_at_ms, false, now.unix_ms))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn written_in_namespace<E: Effects>(&mut self, hash: u64, key: &[u8], effects: &mut E) {
        let Some(name) = namespace::name_of(key) else { return };
        self.keyspace.namespaces.written(name, hash);
        if self.keyspace.namespaces.is_limited() {
            self.keyspace.shrink_namespace(name, Some(hash), &mut self.counters, effects);
        }
    }
}

impl Keyspace {
    /// Keys of a namespace go until it holds what it may, but not the one that has just been written.
    fn shrink_namespace<E: Effects>(
        &mut self,
        name: &[u8],
        written: Option<u64>,
        counters: &mut ShardCounters,
        effects: &mut E,
    ) {
        self.forget_gone(name);
        if self.eviction == Eviction::None {
            return;
        }
        let mut searches = 1;
        for _ in 0..if written.is_some() { JUDGED_MAX } else { JUDGED_BY_TICK_MAX } {
            if !self.namespaces.is_over(name) {
                return;
            }
            let Some(hash) = self.namespaces.domain(name).and_then(|domain| domain.pop()) else {
                if searches == 0 {
                    return;
                }
                searches -= 1;
                self.search_namespace(name);
                continue;
            };
            let Some(found) = self.find_in_namespace(name, hash) else { continue };
            if written == Some(hash) {
                self.namespaces.queue_up(name, hash);
            } else if found.head.is_visited() {
                Head::set_visited(self.arena.slot_mut(found.item), false);
                self.namespaces.queue_up(name, hash);
            } else {
                self.remove_evicted(found, counters, effects);
            }
        }
    }

    /// The same without a write, one namespace at a time.
    pub(super) fn shrink_next_namespace<E: Effects>(&mut self, counters: &mut ShardCounters, effects: &mut E) {
        if let Some(name) = self.namespaces.next_limited() {
            self.shrink_namespace(&name, None, counters, effects);
        }
    }

    fn find_in_namespace(&self, name: &[u8], hash: u64) -> Option<Found> {
        self.found_if(hash, |key| namespace::name_of(key) == Some(name) && self.hasher.hash(key) == hash)
    }

    /// Finds keys that were there before anything was set of their namespace.
    fn search_namespace(&mut self, name: &[u8]) {
        let Some(mut cursor) = self.namespaces.domain(name).map(|domain| domain.cursor) else { return };
        let mut hashes = Vec::new();
        for _ in 0..SEARCHED_BUCKETS {
            cursor = self.scan_found(cursor, |key, _| {
                if namespace::name_of(key) == Some(name) {
                    hashes.push(self.hasher.hash(key));
                }
            });
        }
        if let Some(domain) = self.namespaces.domain(name) {
            domain.cursor = cursor;
        }
        hashes.into_iter().for_each(|hash| self.namespaces.queue_up(name, hash));
    }

    /// Takes some of what is gone out of the queue, if there is too much of it: each write adds one at most.
    fn forget_gone(&mut self, name: &[u8]) {
        let items = self.namespaces.get(name).map_or(0, |counters| counters.items) as usize;
        for _ in 0..4 {
            let Some(domain) = self.namespaces.domain(name) else { return };
            if domain.queue_len() <= 2 * items + GONE_MAX {
                return;
            }
            let Some(hash) = domain.pop() else { return };
            if self.find_in_namespace(name, hash).is_some() {
                self.namespaces.queue_up(name, hash);
            }
        }
    }
}
