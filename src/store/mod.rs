//! The keys of one core: `Shard::apply(call, now, effects) → Reply`. Calls nobody, reads no clock, draws no
//! randomness but from the seed it was given.
//!
//! ```text
//!   strings, keys     what each command means        options, extended   what its arguments mean
//!        └──── keyspace: a key's value and expiry ────┐
//!   table: hash → item    arena, item: key and value    large: big values    deadlines: expired items
//!        └──── chunk: memory from the kernel
//! ```
//!
//! # What an item takes
//!
//! ```text
//!   index      8.1 B   a tag (1) and a reference (4), one of 12 places of a bucket of 64 B that is 80 % full  │ table
//!                  │
//!                  ▼ reference: chunk │ offset / 4
//!   item       4 B + key + value, rounded up to 4: ┌ flags ┬ used ┬ value length ┬ key length ┬ key ┬ value ┐ │ item
//!   expiry     4 B in the item, 8 for more than five weeks; 0.4 for the time its bucket is looked at          │ deadlines
//!   history    4 to 7 B of counters, from the time on when half of the ceiling is used                        │ evict
//!   value      of 32 KiB and more: pages of its own, half of one lost on average; the item has its number     │ large
//! ```
//!
//! Items lie one behind another in segments of 128 KiB, each of which holds items of one size and one part (new,
//! admitted, protected): what is old is what lies in old segments, without any bytes for it. Segments serve every
//! size in turn. Classes of sizes in an allocator would hold on to what one size had when another needs it; links and
//! stamps of an LRU list would cost 12 to 16 B per item.
//!
//! What is kept when there is no room: `evict`. How room is made, a bit with every write: `reclaim`. What one page of the
//! index, of an item and of the arena looks like byte by byte: `table`, `item`, `arena`.

#![deny(unsafe_code)]

mod arena;
mod chunk;
mod counters;
mod curve;
mod deadlines;
mod evict;
mod extended;
mod hot;
mod idle;
mod inspect;
mod item;
mod keys;
mod keyspace;
mod large;
mod namespaces;
mod options;
mod quota;
mod reclaim;
mod replay;
mod strings;
mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;

pub use counters::ShardCounters;
pub use evict::Eviction;
pub use evict::what_if::{Estimate, HALVES};
pub use inspect::parse_hot_keys;
pub use keyspace::{OutOfMemory, ValueRef};
pub use namespaces::NamespaceCounters;
use namespaces::Namespaces;
pub use options::parse_copy;
pub use replay::Displaced;

use crate::clock::Now;
use crate::command::{Op, Route};
use crate::hash::{KeyHasher, split_mix};
use crate::limits::KEY_BYTES_MAX;
use crate::namespace::{self, LimitedNamespaces, View};
use crate::reply::{Reply, ReplyError};
use crate::request::{Call, Durability};
use arena::ItemRef;
pub use arena::SEGMENT_BYTES;
use hot::{HotKeys, NOTED_ONE_IN};
use keyspace::{Found, Keyspace, Write};
use options::Time;

pub struct ShardConfig {
    /// The same for all cores: a hash computed where a command arrives holds where its key lives.
    pub hasher: KeyHasher,
    /// APPEND and SETRANGE refuse to make longer values.
    pub value_bytes_max: usize,
    /// For RANDOMKEY.
    pub random_seed: u64,
    /// What the shard may take of the system; `u64::MAX` for all there is.
    pub memory_bytes_max: u64,
    pub eviction: Eviction,
    /// How much memory is given to items of one size at a time: [`SEGMENT_BYTES`], but for replays of traces
    /// in tiny shards.
    pub segment_bytes: usize,
}

/// Who wants to know what changed: log, replication, notifications. Replaying the calls in their order
/// rebuilds the keyspace. `()` is nobody, and costs nothing.
pub trait Effects {
    /// `key` has this value and this expiry now, whatever it had before.
    fn set(&mut self, key: &[u8], value: ValueRef<'_>, expires_at_ms: Option<u64>);
    /// The value of `key` has grown by `tail` and is `value` now.
    fn append(&mut self, key: &[u8], tail: &[u8], value: ValueRef<'_>, expires_at_ms: Option<u64>) {
        let _ = tail;
        self.set(key, value, expires_at_ms);
    }
    /// The next change was asked to be this durable; false if nobody can see to that.
    fn promise(&mut self, durability: Durability) -> bool {
        durability == Durability::None
    }
    /// Whether `token` is what a client was given who was told to fill in `key`.
    fn fills(&mut self, key: &[u8], token: &[u8]) -> bool {
        let _ = (key, token);
        false
    }
    /// `key`, which did not exist, is about to be set.
    fn create(&mut self, key: &[u8]) {
        let _ = key;
    }
    /// `key` was given a value whose time is over: it goes, or does not come at all.
    fn set_in_vain(&mut self, key: &[u8], is_new: bool) {
        let _ = (key, is_new);
    }
    /// Somebody has looked for `key`, and it does not exist.
    fn miss(&mut self, key: &[u8]) {
        let _ = key;
    }
    /// `key` is gone.
    fn remove(&mut self, key: &[u8], reason: Removal);
    /// `key` has another expiry, or none, and the same value.
    fn expire(&mut self, key: &[u8], expires_at_ms: Option<u64>);
    /// All keys are gone.
    fn flush(&mut self);
}

impl Effects for () {
    fn set(&mut self, _key: &[u8], _value: ValueRef<'_>, _expires_at_ms: Option<u64>) {}
    fn remove(&mut self, _key: &[u8], _reason: Removal) {}
    fn expire(&mut self, _key: &[u8], _expires_at_ms: Option<u64>) {}
    fn flush(&mut self) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// By a command, also one that set an expiry in the past.
    Deleted,
    Expired,
    /// To make room.
    Evicted,
}

/// A key's value and expiry on their way to another key, perhaps on another core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub value: Bytes,
    pub expires_at_ms: Option<u64>,
}

pub struct Shard {
    keyspace: Keyspace,
    value_bytes_max: usize,
    random: u64,
    /// Times to live that are given as a span are up to so many percent shorter.
    ttl_jitter_percent: u8,
    /// Only the totals; the rest is known to the keyspace.
    counters: ShardCounters,
    /// Values that a reply shows although they are gone from the keyspace.
    scratch: Vec<u8>,
    hot: HotKeys,
    /// Keys stay until somebody meets them (DEBUG SET-ACTIVE-EXPIRE 0).
    expires_only_on_access: bool,
    /// Items found expired by a tick; empty between calls.
    expired: Vec<ItemRef>,
}

/// Items whose idle times a tick looks at, of which there are ten in a second at the least: some 50 µs.
const SWEPT_ITEMS: usize = 1024;
/// What giving back one chunk of flushed memory takes of a tick's budget: 512 pages, about 0.15 ms.
const RELEASE_COST: usize = 1024;

impl Shard {
    pub fn new(config: ShardConfig) -> Shard {
        let mut keyspace = Keyspace::new(config.hasher, config.segment_bytes);
        keyspace.set_limit(config.memory_bytes_max, config.eviction);
        Shard {
            keyspace,
            value_bytes_max: config.value_bytes_max,
            random: config.random_seed,
            ttl_jitter_percent: 0,
            counters: ShardCounters::default(),
            scratch: Vec::new(),
            hot: HotKeys::default(),
            expires_only_on_access: false,
            expired: Vec::new(),
        }
    }

    /// Fetches the line of the index that `hash` leads to. Do this for a batch of commands, then
    /// [`prefetch_item`](Self::prefetch_item) for all of them, then apply them.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.keyspace.prefetch_bucket(hash);
    }

    /// Fetches the items that `hash` may mean, by the line of the index, which should be near by now.
    #[inline]
    pub fn prefetch_item(&self, hash: u64) {
        self.keyspace.prefetch_item(hash);
    }

    /// Carries out a command all of whose keys live here.
    pub fn apply<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        // The commands that are most of all commands; nothing is done here that they do not need.
        match call.spec.op {
            Op::Get => self.get(call, now, effects),
            Op::Set => self.set(call, now, effects),
            Op::Incr => self.increment(call, 1, now, effects),
            Op::Decr => self.increment(call, -1, now, effects),
            _ => self.apply_rarer(call, now, effects),
        }
    }

    #[inline(never)]
    fn apply_rarer<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        if let Some(error) = check_keys(call) {
            return Reply::Error(error);
        }
        match call.spec.op {
            Op::Append => self.append(call, now, effects),
            Op::DecrBy => self.decrement_by(call, now, effects),
            Op::GetDel => self.get_and_delete(call, now, effects),
            Op::GetEx => self.get_and_expire(call, now, effects),
            Op::GetRange | Op::SubStr => self.get_range(call, now, effects),
            Op::GetSet => self.get_and_set(call, now, effects),
            Op::IncrBy => self.increment_by(call, now, effects),
            Op::IncrByFloat => self.increment_by_float(call, now, effects),
            Op::MGet => self.get_many(call, now, effects),
            Op::MSet => self.set_many(call, false, now, effects),
            Op::MSetNx => self.set_many(call, true, now, effects),
            Op::Put => self.put(call, now, effects),
            Op::PSetEx => self.set_for(call, options::Unit::Milliseconds, now, effects),
            Op::SetEx => self.set_for(call, options::Unit::Seconds, now, effects),
            Op::SetNx => self.set_if_absent(call, now, effects),
            Op::SetRange => self.set_range(call, now, effects),
            Op::StrLen => self.value_length(call, now, effects),

            Op::Copy => self.copy(call, now, effects),
            Op::Del | Op::Unlink => self.delete_many(call, now, effects),
            Op::Exists | Op::Touch => self.count_existing(call, now, effects),
            Op::Expire | Op::ExpireAt | Op::PExpire | Op::PExpireAt => self.expire(call, now, effects),
            Op::Ttl | Op::PTtl | Op::ExpireTime | Op::PExpireTime => self.time_to_live(call, now, effects),
            Op::Persist => self.persist(call, now, effects),
            Op::RandomKey => self.random_key(now, effects),
            Op::Rename => self.rename(call, false, now, effects),
            Op::RenameNx => self.rename(call, true, now, effects),
            Op::Move => self.move_to(call, now, effects),
            Op::Type => self.type_of(call, now, effects),
            Op::ObjectEncoding => self.encoding(call, now, effects),
            Op::ObjectFreq => self.frequency(call, now, effects),
            Op::ObjectIdleTime => self.idle_time(call, now, effects),
            Op::ObjectRefCount => self.reference_count(call, now, effects),
            Op::MemoryUsage => self.memory_usage(call, now, effects),
            Op::HotKeys => self.hot_keys(call),
            Op::DbSize => self.count_keys(call),
            Op::FlushAll | Op::FlushDb => self.flush(call, effects),
            _ => Reply::error(format!("ERR '{}' is not a command of the store", call.spec.name)),
        }
    }

    /// Removes expired items and gives back flushed memory, with a bounded amount of work: `budget` is about
    /// the number of items it may look at. Returns how much of it was used; all of it means that there is
    /// more to do. Called often with a small budget: a pass over the shard is due every quarter of a second
    /// and goes on where the last call stopped.
    pub fn tick<E: Effects>(&mut self, now: Now, budget: usize, effects: &mut E) -> usize {
        self.keyspace.count_look_ups(self.counters.hits + self.counters.misses);
        let mut used = 0;
        while used < budget && self.keyspace.release() {
            used += RELEASE_COST;
        }
        while used < budget && !self.expires_only_on_access {
            let mut steps = budget - used;
            let due = self.keyspace.next_due(now.unix_ms, &mut steps);
            used = budget - steps;
            let Some(bucket) = due else {
                if steps > 0 {
                    self.keyspace.raise_floor(now.unix_ms);
                }
                break;
            };
            let mut expired = std::mem::take(&mut self.expired);
            used += self.keyspace.visit_due(bucket, now.unix_ms, &mut expired);
            for item in expired.drain(..) {
                let (key, found) = self.keyspace.look_at(item);
                effects.remove(key, Removal::Expired);
                self.keyspace.remove(found);
                self.counters.expired_active += 1;
                self.counters.writes += 1;
            }
            self.expired = expired;
        }
        self.keyspace.sweep(now.unix_ms, SWEPT_ITEMS);
        if self.keyspace.namespaces.is_limited() {
            self.keyspace.shrink_next_namespace(&mut self.counters, effects);
        }
        if used < budget {
            used += self.keyspace.tidy(budget - used, now.unix_ms, &mut self.counters, effects);
        }
        used
    }

    /// From now on namespaces hold no more than this, of which a core of so many has its part.
    pub fn limit_namespaces(&mut self, limits: &LimitedNamespaces, cores: u64) {
        self.keyspace.namespaces.limit(limits, cores);
    }

    /// Sets another ceiling, or another way to stay below it. What is too much by then goes bit by bit, with
    /// writes and ticks.
    pub fn set_memory(&mut self, bytes_max: u64, eviction: Eviction) {
        self.keyspace.set_limit(bytes_max, eviction);
    }

    /// Whether keys expire by themselves, or only when somebody meets them. For tests.
    pub fn set_active_expiry(&mut self, is_active: bool) {
        self.expires_only_on_access = !is_active;
    }

    /// From now on keys expire up to so many percent sooner than a command says that names a span of time, each by
    /// chance: what was set together does not expire together.
    pub fn set_ttl_jitter(&mut self, percent: u8) {
        self.ttl_jitter_percent = percent.min(100);
    }

    /// Calls `visit` with the keys of the next `budget_buckets` buckets of the index after `cursor` and returns
    /// the cursor to go on with, 0 at the end. Start with 0. Cursors stay below 2^32.
    ///
    /// Every key that is there from the first step to the last is visited exactly once, however the
    /// shard grows or shrinks meanwhile, and no key is visited twice. Any number is a valid cursor.
    pub fn scan_step(&self, cursor: u64, budget_buckets: usize, now: Now, mut visit: impl FnMut(&[u8])) -> u64 {
        let mut cursor = cursor;
        for _ in 0..budget_buckets.max(1) {
            cursor = self.keyspace.scan(cursor, now.unix_ms, &mut visit);
            if cursor == 0 {
                break;
            }
        }
        cursor
    }

    /// The value and expiry of `key`, which is removed.
    pub fn take_for_move<E: Effects>(&mut self, key: &[u8], now: Now, effects: &mut E) -> Option<Moved> {
        let found = self.live(self.keyspace.hasher.hash(key), key, now, effects)?;
        let moved = self.moved(found);
        self.remove(key, found, effects);
        Some(moved)
    }

    /// The value and expiry of `key`.
    pub fn read_for_copy<E: Effects>(&mut self, key: &[u8], now: Now, effects: &mut E) -> Option<Moved> {
        let hash = self.keyspace.hasher.hash(key);
        self.live_to_read(hash, key, now, effects).map(|found| self.moved(found))
    }

    /// Gives `key` what another key had, unless it exists and is not to be replaced. Whether it did.
    pub fn put_moved<E: Effects>(
        &mut self,
        key: &[u8],
        moved: &Moved,
        replace: bool,
        now: Now,
        effects: &mut E,
    ) -> Result<bool, OutOfMemory> {
        let hash = self.keyspace.hasher.hash(key);
        let found = self.live(hash, key, now, effects);
        if found.is_some() && !replace {
            return Ok(false);
        }
        let (value, expires_at_ms) = (ValueRef::Large(&moved.value), moved.expires_at_ms);
        self.store(Write { hash, key, value, expires_at_ms, now_ms: now.unix_ms }, found, effects)?;
        Ok(true)
    }

    /// Whether `key` exists; not counted as a look-up.
    pub fn contains<E: Effects>(&mut self, key: &[u8], now: Now, effects: &mut E) -> bool {
        self.live(self.keyspace.hasher.hash(key), key, now, effects).is_some()
    }

    /// Whether `key` expires within so many milliseconds.
    pub fn expires_within(&self, key: &[u8], ms: u64, now: Now) -> bool {
        let found = self.keyspace.find(self.keyspace.hasher.hash(key), key);
        let expires_at_ms = found.and_then(|found| self.keyspace.expires_at_ms(found));
        expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms <= now.unix_ms.saturating_add(ms))
    }

    /// What is known of each namespace that has, or had, keys here.
    pub fn namespaces(&self) -> impl Iterator<Item = (&[u8], &NamespaceCounters)> {
        self.keyspace.namespaces.iter()
    }

    /// Keys in namespaces.
    pub fn namespaced(&self) -> u64 {
        self.keyspace.namespaces.items()
    }

    /// The same, each with what it would find with another quota.
    pub fn namespace_estimates(&self) -> impl Iterator<Item = (&[u8], &NamespaceCounters, Estimate)> {
        self.keyspace.namespaces.estimates()
    }

    /// Removes the keys of a view in the next `budget_buckets` buckets; see [`scan_step`](Self::scan_step).
    pub fn sweep_step<E: Effects>(&mut self, cursor: u64, budget_buckets: usize, view: &View, effects: &mut E) -> u64 {
        let mut cursor = cursor;
        let mut going = Vec::new();
        for _ in 0..budget_buckets.max(1) {
            cursor = self.keyspace.scan_found(cursor, |key, found| {
                if view.within(key).is_some() {
                    going.push(found.item);
                }
            });
            if cursor == 0 {
                break;
            }
        }
        for item in going {
            let (key, found) = self.keyspace.look_at(item);
            effects.remove(key, Removal::Deleted);
            self.keyspace.remove(found);
            self.counters.writes += 1;
        }
        cursor
    }

    pub fn keys_in_slot(&self, slot: u16) -> u32 {
        self.keyspace.keys_in_slot(slot)
    }

    pub fn counters(&self) -> ShardCounters {
        let mut counters = self.counters;
        self.keyspace.describe(&mut counters);
        counters
    }

    /// What the hit ratio would be with other ceilings.
    pub fn what_if(&self) -> Estimate {
        self.keyspace.what_if()
    }

    pub fn reset_counters(&mut self) {
        self.counters.reset();
        self.keyspace.namespaces.reset();
        self.hot.clear();
    }

    /// What the shard has taken of the system.
    pub fn memory_bytes(&self) -> u64 {
        self.keyspace.memory_bytes()
    }

    /// Whether ticks have something to do, or will have, even when no command comes.
    pub fn has_housekeeping(&self) -> bool {
        self.keyspace.has_expiries() || self.keyspace.memory_bytes() > self.keyspace.bytes_max
    }

    /// Keys, those included that have expired but were not found yet.
    pub fn len(&self) -> u64 {
        self.keyspace.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Walks everything the shard holds and compares it with what was counted along the way.
    #[cfg(any(test, fuzzing))]
    pub fn validate(&self) {
        self.keyspace.validate();
    }

    // What the commands are made of.

    /// The key, if it is there and has not expired; if it has, it goes now.
    fn live<E: Effects>(&mut self, hash: u64, key: &[u8], now: Now, effects: &mut E) -> Option<Found> {
        let found = self.keyspace.find(hash, key)?;
        self.unless_expired(key, found, now, effects)
    }

    #[inline(always)]
    fn unless_expired<E: Effects>(&mut self, key: &[u8], found: Found, now: Now, effects: &mut E) -> Option<Found> {
        match self.keyspace.expires_at_ms(found) {
            Some(expires_at_ms) if now.unix_ms > expires_at_ms => {
                self.expire_now(key, effects);
                None
            }
            _ => Some(found),
        }
    }

    /// The same for commands that read: they count hits and misses.
    fn live_to_read<E: Effects>(&mut self, hash: u64, key: &[u8], now: Now, effects: &mut E) -> Option<Found> {
        let found = self.live(hash, key, now, effects);
        match found {
            Some(found) => {
                self.keyspace.touch(hash, found, true);
                self.count_hit(hash, key, found);
            }
            None => {
                self.keyspace.missed(hash);
                self.count_miss(key);
                effects.miss(key);
            }
        }
        found
    }

    #[inline(always)]
    fn count_hit(&mut self, hash: u64, key: &[u8], found: Found) {
        self.counters.hits += 1;
        if found.head.is_namespaced() {
            self.count_use_of_namespace(key, Namespaces::hit);
        }
        if self.counters.hits.is_multiple_of(NOTED_ONE_IN) {
            self.hot.note(hash, key);
        }
    }

    #[inline(always)]
    fn count_miss(&mut self, key: &[u8]) {
        self.counters.misses += 1;
        if self.keyspace.namespaces.is_used() {
            self.count_use_of_namespace(key, Namespaces::missed);
        }
    }

    /// Apart, so that whoever has no namespaces has nothing of it on his way.
    #[cold]
    #[inline(never)]
    fn count_use_of_namespace(&mut self, key: &[u8], count: fn(&mut Namespaces, &[u8], u64)) {
        if let Some(name) = namespace::name_of(key) {
            let hash = self.keyspace.hasher.hash(key);
            count(&mut self.keyspace.namespaces, name, hash);
        }
    }

    /// Looks the key up again, so that whoever meets one that has not expired has nothing of this on his way.
    #[cold]
    #[inline(never)]
    fn expire_now<E: Effects>(&mut self, key: &[u8], effects: &mut E) {
        let Some(found) = self.keyspace.find(self.keyspace.hasher.hash(key), key) else { return };
        effects.remove(key, Removal::Expired);
        self.keyspace.remove(found);
        self.counters.expired_lazy += 1;
        self.counters.writes += 1;
    }

    #[inline(always)]
    fn store<E: Effects>(
        &mut self,
        write: Write<'_>,
        found: Option<Found>,
        effects: &mut E,
    ) -> Result<(), OutOfMemory> {
        if self.keyspace.namespaces.is_used() {
            // A copy: nobody asks for the address of the other, so that it needs no memory.
            return self.store_in_namespace(&{ write }, effects);
        }
        self.store_as_it_is(write, found, effects)
    }

    /// Whatever is set of its namespace.
    #[inline(always)]
    fn store_as_it_is<E: Effects>(
        &mut self,
        write: Write<'_>,
        found: Option<Found>,
        effects: &mut E,
    ) -> Result<(), OutOfMemory> {
        if let Some(found) = found {
            self.keyspace.touch(write.hash, found, false);
        }
        if self.keyspace.store(write, found).is_err() {
            self.store_after_all(write, effects)?;
        }
        if found.is_none() {
            effects.create(write.key);
        }
        effects.set(write.key, write.value, write.expires_at_ms);
        self.counters.writes += 1;
        self.keyspace.settle(write.bytes(), write.now_ms, &mut self.counters, effects);
        Ok(())
    }

    /// There was no room: makes some, if it can be made, and tries again.
    #[cold]
    fn store_after_all<E: Effects>(&mut self, write: Write<'_>, effects: &mut E) -> Result<(), OutOfMemory> {
        self.keyspace.make_room(write.bytes(), write.now_ms, &mut self.counters, effects);
        // What is there may have moved, or gone.
        let found = self.keyspace.find(write.hash, write.key);
        let stored = self.keyspace.store(write, found);
        self.counters.refused += stored.is_err() as u64;
        stored
    }

    fn change_expiry<E: Effects>(
        &mut self,
        key: &[u8],
        found: Found,
        expires_at_ms: Option<u64>,
        now: Now,
        effects: &mut E,
    ) -> Result<(), OutOfMemory> {
        let expires_at_ms = if self.keyspace.namespaces.is_used() {
            self.expiry_in_namespace(key, expires_at_ms, now)
        } else {
            expires_at_ms
        };
        if let Err(error) = self.keyspace.set_expiry(found, expires_at_ms, now.unix_ms) {
            self.counters.refused += 1;
            return Err(error);
        }
        effects.expire(key, expires_at_ms);
        self.counters.writes += 1;
        self.keyspace.settle(key.len(), now.unix_ms, &mut self.counters, effects);
        Ok(())
    }

    fn remove<E: Effects>(&mut self, key: &[u8], found: Found, effects: &mut E) {
        effects.remove(key, Removal::Deleted);
        self.keyspace.remove(found);
        self.counters.writes += 1;
    }

    fn moved(&self, found: Found) -> Moved {
        Moved { value: self.keyspace.value(found).to_bytes(), expires_at_ms: self.keyspace.expires_at_ms(found) }
    }

    /// When a key expires that was to expire at `expires_at_ms`.
    fn jittered(&mut self, time: Time<'_>, expires_at_ms: u64, now: Now) -> u64 {
        if self.ttl_jitter_percent == 0 || time.absolute {
            return expires_at_ms;
        }
        let span = expires_at_ms.saturating_sub(now.unix_ms);
        let most = (span as u128 * self.ttl_jitter_percent as u128 / 100) as u64;
        expires_at_ms - self.random() % (most + 1)
    }

    pub(crate) fn random(&mut self) -> u64 {
        split_mix(&mut self.random)
    }
}

impl From<OutOfMemory> for ReplyError<'_> {
    fn from(_: OutOfMemory) -> Self {
        ReplyError::Other("OOM command not allowed when used memory > 'maxmemory'.".into())
    }
}

fn key_too_long() -> ReplyError<'static> {
    const _: () = assert!(KEY_BYTES_MAX == 65_535, "the text says so");
    ReplyError::Other(Cow::Borrowed("ERR key exceeds maximum allowed size (65535 bytes)"))
}

/// The error of a command one of whose keys is too long for any shard. Commands whose keys live on several
/// shards are checked whole before any part of them is carried out.
pub fn check_keys(call: &Call<'_>) -> Option<ReplyError<'static>> {
    let is_long = |key: usize| call.args.get(key).len() > KEY_BYTES_MAX;
    let any_is_long = match call.spec.route {
        Route::Key => is_long(call.spec.key_arg()),
        _ => call.spec.key_args(call.args.len()).any(is_long),
    };
    any_is_long.then(key_too_long)
}
