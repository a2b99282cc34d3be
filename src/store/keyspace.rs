//! The keys of a shard and what they hold: index, items, large values, deadlines and their counts, kept in
//! step. Knows nothing of commands; time matters only as far as deadlines are noted.

use bytes::{Bytes, BytesMut};

use super::arena::{Arena, ItemRef, Kind, same_slot, size_of_item, slot_bytes};
use super::counters::ShardCounters;
use super::deadlines::Deadlines;
use super::evict::what_if::{Estimate, WhatIf};
use super::evict::{Eviction, History};
use super::idle::Idle;
use super::item::{Content, Head, Times};
use super::large::LargeValues;
use super::namespaces::Namespaces;
use super::table::{Position, Reshape, Table};
use crate::hash::KeyHasher;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::namespace;
use crate::slot::{SLOT_COUNT, slot_of};

/// A value, with its memory if it has memory of its own.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    Small(&'a [u8]),
    Large(&'a Bytes),
}

impl<'a> ValueRef<'a> {
    #[inline]
    pub fn bytes(self) -> &'a [u8] {
        match self {
            ValueRef::Small(value) => value,
            ValueRef::Large(value) => value,
        }
    }

    pub fn to_bytes(self) -> Bytes {
        match self {
            ValueRef::Small(value) => Bytes::copy_from_slice(value),
            ValueRef::Large(value) => value.clone(),
        }
    }
}

/// A key that is there, until the next change of the keyspace.
#[derive(Clone, Copy)]
pub struct Found {
    pub(super) at: Position,
    pub(super) item: ItemRef,
    pub(super) head: Head,
}

/// What a look at the first candidate for a key says.
pub enum FirstLook {
    Found(Found),
    Absent,
    /// Only [`find`](Keyspace::find) can tell.
    Unsure,
}

/// The shard has no memory for another item.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfMemory;

pub struct Keyspace {
    pub hasher: KeyHasher,
    pub(super) table: Table,
    pub(super) arena: Arena,
    large: LargeValues,
    pub(super) namespaces: Namespaces,
    /// What all of it together may take of the system.
    pub(super) bytes_max: u64,
    pub(super) eviction: Eviction,
    /// What was asked for lately; only while it matters.
    pub(super) history: Option<Box<History>>,
    /// What other ceilings would do; only while there is one.
    pub(super) what_if: Option<Box<WhatIf>>,
    /// Keys whose hash has none of these bits are those that history and what-if play with.
    pub(super) sample_mask: u64,
    /// Look-ups so far, as far as anybody has said.
    pub(super) look_ups: u64,
    /// Keys that were asked for in vain, so that storing them is not counted as a second use.
    recent_misses: [u32; RECENT_MISSES],
    /// There is little room: every write has to make as much as it takes.
    pub(super) is_pressed: bool,
    /// [`Arena::opened`] when room was looked at last.
    pub(super) opened_seen: u64,
    /// Where the search for sparse segments goes on.
    pub(super) clean_at: usize,
    deadlines: Deadlines,
    idle: Idle,
    /// What items are written and read with now.
    pub(super) times: Times,
    keys_in_slot: Box<[u32]>,
    keys_with_expiry: u64,
    key_bytes: u64,
    /// Values that lie in their items.
    inline_bytes: u64,
    retired: Retired,
    /// An item on its way from one slot to another.
    moving: Vec<u8>,
    /// Items that were moved or judged so far.
    #[cfg(test)]
    pub(super) worked: u64,
}

/// What a flush left behind, given back bit by bit.
#[derive(Default)]
struct Retired {
    tables: Vec<Table>,
    arenas: Vec<Arena>,
    larges: Vec<LargeValues>,
}

/// In the mean, with the buckets' free places.
const INDEX_BYTES_PER_ITEM: usize = 8;

const RECENT_MISSES: usize = 256;

const DAY_MS: u64 = 86_400_000;
/// How far back the floor of expiries lies ([`Times::floor_ms`]).
const FLOOR_BEHIND_MS: u64 = 14 * DAY_MS;
const FLOOR_STEP_MS: u64 = 7 * DAY_MS;

/// Pieces of retired memory given back by each flush itself: more than an empty keyspace has, so that
/// flushing again and again does not pile them up.
const RELEASED_BY_FLUSH: usize = 4;

/// Equality of slices of equal length, without a call for the usual lengths of keys.
#[inline(always)]
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    debug_assert_eq!(a.len(), b.len());
    fn first(bytes: &[u8]) -> Option<u64> {
        bytes.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
    }
    fn last(bytes: &[u8]) -> Option<u64> {
        bytes.last_chunk().map(|chunk| u64::from_le_bytes(*chunk))
    }
    match a.len() {
        8..=16 => first(a) == first(b) && last(a) == last(b),
        17..=32 => {
            first(a) == first(b)
                && first(&a[8..]) == first(&b[8..])
                && last(&a[..a.len() - 8]) == last(&b[..b.len() - 8])
                && last(a) == last(b)
        }
        _ => a == b,
    }
}

impl Keyspace {
    pub fn new(hasher: KeyHasher, segment_bytes: usize) -> Keyspace {
        Keyspace {
            namespaces: Namespaces::new(hasher.state()),
            hasher,
            table: Table::new().expect("2 MiB for the index of a shard"),
            arena: Arena::new(segment_bytes),
            large: LargeValues::new(),
            bytes_max: u64::MAX,
            eviction: Eviction::default(),
            history: None,
            what_if: None,
            sample_mask: u64::MAX,
            look_ups: 0,
            recent_misses: [0; RECENT_MISSES],
            is_pressed: false,
            opened_seen: 0,
            clean_at: 0,
            deadlines: Deadlines::default(),
            idle: Idle::default(),
            times: Times::default(),
            keys_in_slot: vec![0; SLOT_COUNT as usize].into(),
            keys_with_expiry: 0,
            key_bytes: 0,
            inline_bytes: 0,
            retired: Retired::default(),
            moving: Vec::new(),
            #[cfg(test)]
            worked: 0,
        }
    }

    #[inline]
    pub fn len(&self) -> u64 {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn keys_in_slot(&self, slot: u16) -> u32 {
        self.keys_in_slot[slot as usize]
    }

    /// Fills in what describes the present.
    pub fn describe(&self, counters: &mut ShardCounters) {
        let arena_bytes = self.arena.bytes() + self.retired.arenas.iter().map(Arena::bytes).sum::<u64>();
        let index_bytes =
            self.table.bytes() + self.retired.tables.iter().map(Table::bytes).sum::<usize>() + self.deadlines.bytes();
        counters.keys = self.len();
        counters.keys_with_expiry = self.keys_with_expiry;
        counters.key_bytes = self.key_bytes;
        counters.value_bytes = self.inline_bytes + self.large.bytes();
        counters.large_values = self.large.count();
        counters.large_value_bytes = self.large.bytes();
        counters.item_bytes = self.arena.item_bytes();
        counters.arena_bytes = arena_bytes;
        counters.index_bytes = index_bytes as u64;
        counters.deadline_bytes = self.deadlines.bytes() as u64;
        counters.is_pressed = self.is_short();
        counters.history_bytes = self.history_bytes();
        counters.dead_bytes = self.arena.dead_bytes();
        counters.free_bytes = (self.arena.free_segments() * self.arena.segment_bytes()) as u64;
        counters.memory_bytes_max = self.bytes_max;
        counters.memory_bytes = self.memory_bytes();
        counters.window_bytes = self.arena.kind_bytes(Kind::Window);
        counters.probation_bytes = self.arena.kind_bytes(Kind::Probation);
        counters.protected_bytes = self.arena.kind_bytes(Kind::Protected);
        counters.window_percent = self.window_percent() as u64;
    }

    /// All memory taken from the system.
    pub fn memory_bytes(&self) -> u64 {
        self.arena.bytes() + self.bytes_beside_arena()
    }

    pub fn has_expiries(&self) -> bool {
        self.keys_with_expiry > 0
    }

    /// All memory but that of the items of the present arena.
    pub fn bytes_beside_arena(&self) -> u64 {
        let Retired { tables, arenas, larges } = &self.retired;
        let retired = arenas.iter().map(Arena::bytes).sum::<u64>()
            + tables.iter().map(|table| table.bytes() as u64).sum::<u64>()
            + larges.iter().map(LargeValues::memory_bytes).sum::<u64>();
        let index = (self.table.bytes() + self.deadlines.bytes()) as u64;
        index + self.history_bytes() + self.large.memory_bytes() + retired + self.namespaces.bytes()
    }

    fn history_bytes(&self) -> u64 {
        let history = self.history.as_ref().map_or(0, |history| history.bytes());
        (history + self.what_if.as_ref().map_or(0, |what_if| what_if.bytes())) as u64
    }

    /// What the hit ratio would be with other ceilings.
    pub fn what_if(&self) -> Estimate {
        self.what_if.as_ref().map_or(Estimate::default(), |what_if| what_if.estimate())
    }

    /// So many keys were looked up so far; to be said now and then.
    pub fn count_look_ups(&mut self, look_ups: u64) {
        self.look_ups = look_ups;
        if let Some(what_if) = &mut self.what_if {
            what_if.count(look_ups);
        }
    }

    /// The key of `found` was asked for (a look-up), or written.
    #[inline(always)]
    pub fn touch(&mut self, hash: u64, found: Found, is_look_up: bool) {
        if !found.head.is_used(self.times) {
            self.touch_first(hash, found);
        }
        if hash & self.sample_mask == 0 {
            self.play(hash, is_look_up);
        }
    }

    #[inline(never)]
    fn touch_first(&mut self, hash: u64, found: Found) {
        let slot = self.arena.slot_mut(found.item);
        Head::set_used(slot, self.times.used);
        if found.head.is_visited() {
            return;
        }
        Head::set_visited(slot, true);
        if let Some(history) = &mut self.history {
            history.sketch.count(hash);
        }
    }

    #[inline(never)]
    fn play(&mut self, hash: u64, is_look_up: bool) {
        if let Some(history) = &mut self.history {
            history.play(hash);
        }
        if let Some(what_if) = &mut self.what_if {
            what_if.show(hash, is_look_up);
        }
    }

    /// A key that is not there was asked for.
    #[inline(always)]
    pub fn missed(&mut self, hash: u64) {
        if self.what_if.is_some() {
            self.note_miss(hash);
        }
    }

    #[inline(never)]
    fn note_miss(&mut self, hash: u64) {
        self.recent_misses[hash as usize % RECENT_MISSES] = (hash >> 24) as u32;
        self.note_use(hash, true);
    }

    /// A key that is not there is about to be.
    fn arrives(&mut self, hash: u64) {
        let miss = &mut self.recent_misses[hash as usize % RECENT_MISSES];
        if *miss == (hash >> 24) as u32 {
            *miss = 0;
        } else {
            self.note_use(hash, false);
        }
        if let Some(history) = &mut self.history {
            history.sketch.fit(self.table.len());
        }
    }

    fn note_use(&mut self, hash: u64, is_look_up: bool) {
        if let Some(history) = &mut self.history {
            history.sketch.count(hash);
        }
        if hash & self.sample_mask == 0 {
            self.play(hash, is_look_up);
        }
    }

    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.table.prefetch_bucket(hash);
    }

    #[inline]
    pub fn prefetch_item(&self, hash: u64) {
        self.table.candidates(hash, |item| self.arena.prefetch(item));
    }

    /// The key, expired or not.
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<Found> {
        self.table.probe(hash).find_map(|(at, item)| self.found_if_keyed(at, item, key))
    }

    /// The key of this hash of which `is_it` says so, expired or not.
    pub fn found_if(&self, hash: u64, is_it: impl Fn(&[u8]) -> bool) -> Option<Found> {
        self.table.probe(hash).find_map(|(at, item)| {
            let slot = self.arena.slot(item);
            let head = Head::read(slot);
            is_it(head.key(slot)).then_some(Found { at, item, head })
        })
    }

    /// What the first candidate says: nineteen of twenty look-ups need no more.
    #[inline(always)]
    pub fn find_first(&self, hash: u64, key: &[u8]) -> FirstLook {
        let (first, may_be_another) = self.table.first(hash);
        match first.and_then(|(at, item)| self.found_if_keyed(at, item, key)) {
            Some(found) => FirstLook::Found(found),
            None if may_be_another => FirstLook::Unsure,
            None => FirstLook::Absent,
        }
    }

    #[inline(always)]
    fn found_if_keyed(&self, at: Position, item: ItemRef, key: &[u8]) -> Option<Found> {
        let slot = self.arena.slot(item);
        let head = Head::read(slot);
        (head.key_bytes() == key.len() && same_bytes(head.key(slot), key)).then_some(Found { at, item, head })
    }

    #[inline(always)]
    pub fn value(&self, found: Found) -> ValueRef<'_> {
        match found.head.apart() {
            None => ValueRef::Small(found.head.value(self.arena.slot(found.item))),
            Some(number) => ValueRef::Large(self.large.get(number)),
        }
    }

    pub fn value_bytes(&self, found: Found) -> usize {
        self.value(found).bytes().len()
    }

    #[inline(always)]
    pub fn expires_at_ms(&self, found: Found) -> Option<u64> {
        if found.head.has_expiry() { found.head.expires_at_ms(self.arena.slot(found.item), self.times) } else { None }
    }

    #[cfg(any(test, fuzzing))]
    fn key_of(&self, item: ItemRef) -> &[u8] {
        let slot = self.arena.slot(item);
        Head::read(slot).key(slot)
    }

    /// Gives `key` a value and an expiry; `found` is what [`find`](Self::find) says of it.
    #[inline(always)]
    pub fn store(
        &mut self,
        hash: u64,
        key: &[u8],
        found: Option<Found>,
        value: ValueRef<'_>,
        expires_at_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<(), OutOfMemory> {
        match found {
            Some(found) => self.overwrite(key, found, value, expires_at_ms, now_ms),
            None => self.insert(hash, key, value, expires_at_ms, now_ms),
        }
    }

    fn insert(
        &mut self,
        hash: u64,
        key: &[u8],
        value: ValueRef<'_>,
        expires_at_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<(), OutOfMemory> {
        if expires_at_ms.is_some() {
            self.floor_for(now_ms);
        }
        if self.what_if.is_some() {
            self.arrives(hash);
        }
        let content = self.content_for(value, None)?;
        let name = namespace::name_of(key);
        let head = Head::new(key.len(), content, expires_at_ms, self.times).with_namespace(name.is_some());
        let size = size_of_item(key.len() + value.bytes().len());
        let home = self.arena.allocate(Kind::Window, size, head.item_bytes()).and_then(|item| {
            head.write(self.arena.slot_mut(item), key, content, expires_at_ms);
            let home = self.table.insert(hash, item);
            if home.is_none() {
                self.discard(item, head);
            }
            home
        });
        let Some(home) = home else {
            self.drop_apart(content);
            return Err(OutOfMemory);
        };
        if let Some(name) = name {
            self.namespaces.added(name, key.len() + value.bytes().len(), expires_at_ms.is_some());
            if self.namespaces.is_limited() {
                self.namespaces.queue_up(name, hash);
            }
        }
        self.key_bytes += key.len() as u64;
        self.inline_bytes += head.inline_value_bytes() as u64;
        self.keys_in_slot[slot_of(key) as usize] += 1;
        if let Some(expires_at_ms) = expires_at_ms {
            self.keys_with_expiry += 1;
            self.deadlines.note(home, expires_at_ms, now_ms);
        }
        let arena = &self.arena;
        let hasher = &self.hasher;
        let hash_of = |item| {
            let slot = arena.slot(item);
            hasher.hash(Head::read(slot).key(slot))
        };
        if let Some(Reshape { of, with }) = self.table.grow(hash_of, |item| arena.prefetch(item)) {
            self.deadlines.on_split(of, with);
        }
        Ok(())
    }

    /// The first expiry ever comes before the first tick.
    #[inline]
    fn floor_for(&mut self, now_ms: u64) {
        if self.times.floor_ms == 0 {
            self.times.floor_ms = now_ms.saturating_sub(FLOOR_BEHIND_MS);
        }
    }

    /// Takes the place of an item back that nothing refers to any more.
    #[inline]
    pub(super) fn discard(&mut self, item: ItemRef, head: Head) {
        Head::bury(self.arena.slot_mut(item));
        self.arena.free(item, head.item_bytes());
    }

    #[inline(always)]
    fn overwrite(
        &mut self,
        key: &[u8],
        found: Found,
        value: ValueRef<'_>,
        expires_at_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<(), OutOfMemory> {
        let Found { at, item, head: old } = found;
        let bytes = value.bytes();
        if bytes.len() < LARGE_VALUE_BYTES_MIN && old.takes(bytes.len(), expires_at_ms, self.times) {
            let (old_bytes, old_value_bytes) = (old.item_bytes(), old.inline_value_bytes());
            if bytes.len() == old_value_bytes || same_slot(old_bytes, old_bytes - old_value_bytes + bytes.len()) {
                if old.is_namespaced() && bytes.len() != old_value_bytes {
                    self.resized(key, old_value_bytes, bytes.len());
                }
                old.overwrite(self.arena.slot_mut(item), bytes, expires_at_ms);
                self.inline_bytes = self.inline_bytes - old_value_bytes as u64 + bytes.len() as u64;
                if let Some(expires_at_ms) = expires_at_ms {
                    self.deadlines.note(at.home, expires_at_ms, now_ms);
                }
                return Ok(());
            }
        }
        self.rewrite(key, found, value, expires_at_ms, now_ms)
    }

    /// The same when more than the value changes.
    fn rewrite(
        &mut self,
        key: &[u8],
        found: Found,
        value: ValueRef<'_>,
        expires_at_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<(), OutOfMemory> {
        let Found { at, item, head: old } = found;
        let bytes = value.bytes();
        let is_large = bytes.len() >= LARGE_VALUE_BYTES_MIN;
        // What can fail comes first. The number of a large value does not change the size of the item.
        let planned = if is_large { Content::Apart(0) } else { Content::Inline(bytes) };
        let draft = Head::new(key.len(), planned, expires_at_ms, self.times)
            .with_visited(true)
            .with_namespace(old.is_namespaced());
        let old_value_bytes = if old.is_namespaced() { self.value_bytes(found) } else { 0 };
        let target = if same_slot(old.item_bytes(), draft.item_bytes()) {
            item
        } else {
            let (kind, _) = self.arena.place_of(item);
            let size = size_of_item(key.len() + bytes.len());
            self.arena.allocate(kind, size, draft.item_bytes()).ok_or(OutOfMemory)?
        };
        let content = if is_large {
            match self.content_for(value, old.apart()) {
                Ok(content) => content,
                Err(error) => {
                    if target != item {
                        draft.write(self.arena.slot_mut(target), key, planned, expires_at_ms);
                        self.discard(target, draft);
                    }
                    return Err(error);
                }
            }
        } else {
            planned
        };
        let head = Head::new(key.len(), content, expires_at_ms, self.times)
            .with_visited(true)
            .with_namespace(old.is_namespaced());
        if old.is_namespaced() {
            self.resized(key, old_value_bytes, bytes.len());
        }
        if target == item {
            head.write(self.arena.slot_mut(item), key, content, expires_at_ms);
        } else {
            head.write(self.arena.slot_mut(target), key, content, expires_at_ms);
            self.table.replace(at, target);
            self.discard(item, old);
        }
        match old.apart() {
            None => self.inline_bytes -= old.inline_value_bytes() as u64,
            Some(number) if head.apart().is_none() => drop(self.large.take(number)),
            Some(_) => {}
        }
        self.inline_bytes += head.inline_value_bytes() as u64;
        if old.is_namespaced() && old.has_expiry() != expires_at_ms.is_some() {
            self.expiry_of_namespaced_changed(key, expires_at_ms.is_some());
        }
        self.expiry_changed(at, old, expires_at_ms, now_ms);
        Ok(())
    }

    /// The value of a key with a namespace has another size.
    #[cold]
    fn resized(&mut self, key: &[u8], before: usize, after: usize) {
        if let Some(name) = namespace::name_of(key) {
            self.namespaces.resized(name, before, after);
        }
    }

    #[cold]
    #[inline(never)]
    fn expiry_of_namespaced_changed(&mut self, key: &[u8], expires: bool) {
        if let Some(name) = namespace::name_of(key) {
            self.namespaces.expiry_changed(name, !expires, expires);
        }
    }

    #[inline]
    fn expiry_changed(&mut self, at: Position, old: Head, expires_at_ms: Option<u64>, now_ms: u64) {
        if old.has_expiry() {
            self.keys_with_expiry -= 1;
        }
        if let Some(expires_at_ms) = expires_at_ms {
            self.keys_with_expiry += 1;
            self.deadlines.note(at.home, expires_at_ms, now_ms);
        }
    }

    /// Where `value` will lie: in the item, or apart, there in the place of the old value if it had one.
    #[inline]
    fn content_for<'v>(&mut self, value: ValueRef<'v>, old: Option<u32>) -> Result<Content<'v>, OutOfMemory> {
        let bytes = value.bytes();
        if bytes.len() < LARGE_VALUE_BYTES_MIN {
            return Ok(Content::Inline(bytes));
        }
        if !self.has_room_for_large(bytes.len() as u64) {
            return Err(OutOfMemory);
        }
        // Whoever settles the write has to look at the room that is left.
        self.is_pressed = true;
        match old {
            Some(number) => {
                self.large.replace(number, value.to_bytes());
                Ok(Content::Apart(number))
            }
            None => self.large.put(value.to_bytes()).map(Content::Apart).ok_or(OutOfMemory),
        }
    }

    /// What cannot be evicted for may not come; nor may what would need nearly everything else to go.
    pub fn has_room_for_large(&self, bytes: u64) -> bool {
        match self.eviction {
            Eviction::None => self.bytes_max.saturating_sub(self.memory_bytes()) >= bytes,
            Eviction::TinyLfu | Eviction::Lru => bytes <= self.bytes_max / 2,
        }
    }

    fn drop_apart(&mut self, content: Content<'_>) {
        if let Content::Apart(number) = content {
            self.large.take(number);
        }
    }

    /// Changes a value kept apart in place; it must not become small. False if the value is not kept apart.
    pub fn edit_large(&mut self, found: Found, change: impl FnOnce(&mut BytesMut)) -> bool {
        match found.head.apart() {
            Some(number) => {
                self.is_pressed = true;
                let before = self.large.get(number).len();
                self.large.edit(number, change);
                if found.head.is_namespaced()
                    && let Some(name) = namespace::name_of(found.head.key(self.arena.slot(found.item)))
                {
                    self.namespaces.resized(name, before, self.large.get(number).len());
                }
                debug_assert!(self.large.get(number).len() >= LARGE_VALUE_BYTES_MIN);
                true
            }
            None => false,
        }
    }

    /// Moves an item to the new end of a queue; false when there is no room for it there.
    pub(super) fn relocate(&mut self, found: Found, kind: Kind, is_visited: bool) -> bool {
        let Found { at, item, head } = found;
        let (_, size) = self.arena.place_of(item);
        let Some(target) = self.arena.allocate_to_move(kind, size, head.item_bytes()) else { return false };
        self.moving.clear();
        self.moving.extend_from_slice(&self.arena.slot(item)[..head.item_bytes()]);
        let slot = self.arena.slot_mut(target);
        slot[..self.moving.len()].copy_from_slice(&self.moving);
        Head::set_visited(slot, is_visited);
        #[cfg(test)]
        {
            self.worked += 1;
        }
        self.table.replace(at, target);
        self.discard(item, head);
        true
    }

    pub fn set_expiry(&mut self, found: Found, expires_at_ms: Option<u64>, now_ms: u64) -> Result<(), OutOfMemory> {
        self.floor_for(now_ms);
        let Found { at, item, head: old } = found;
        let head = old.with_expiry(expires_at_ms, self.times);
        let changes = old.is_namespaced() && old.has_expiry() != expires_at_ms.is_some();
        let namespaced = changes.then(|| old.key(self.arena.slot(item)).to_vec());
        if same_slot(old.item_bytes(), head.item_bytes()) {
            head.rewrite_expiry(old, self.arena.slot_mut(item), expires_at_ms);
        } else {
            let (kind, size) = self.arena.place_of(item);
            let moved = self.arena.allocate(kind, size, head.item_bytes()).ok_or(OutOfMemory)?;
            self.moving.clear();
            self.moving.extend_from_slice(&self.arena.slot(item)[..old.item_bytes()]);
            head.copy_from(old, &self.moving, self.arena.slot_mut(moved), expires_at_ms);
            self.table.replace(at, moved);
            self.discard(item, old);
        }
        if let Some(key) = namespaced {
            self.expiry_of_namespaced_changed(&key, expires_at_ms.is_some());
        }
        self.expiry_changed(at, old, expires_at_ms, now_ms);
        Ok(())
    }

    pub fn remove(&mut self, found: Found) {
        let Found { at, item, head } = found;
        let key_slot = slot_of(head.key(self.arena.slot(item)));
        if head.is_namespaced() {
            self.leaves_namespace(found);
        }
        self.keys_in_slot[key_slot as usize] -= 1;
        self.key_bytes -= head.key_bytes() as u64;
        match head.apart() {
            None => self.inline_bytes -= head.inline_value_bytes() as u64,
            Some(number) => drop(self.large.take(number)),
        }
        self.keys_with_expiry -= head.has_expiry() as u64;
        self.table.remove(at);
        self.discard(item, head);
        if let Some(Reshape { of, with }) = self.table.shrink() {
            self.deadlines.on_merge(of, with);
        }
    }

    #[cold]
    fn leaves_namespace(&mut self, found: Found) {
        let bytes = found.head.key_bytes() + self.value_bytes(found);
        if let Some(name) = namespace::name_of(found.head.key(self.arena.slot(found.item))) {
            self.namespaces.removed(name, bytes, found.head.has_expiry());
        }
    }

    /// Forgets all keys at once. Their memory goes back in steps of [`release`](Self::release).
    pub fn flush(&mut self) {
        if self.is_empty() && self.arena.bytes() == 0 {
            return;
        }
        let fresh = self.arena.another();
        self.retired.arenas.push(std::mem::replace(&mut self.arena, fresh));
        self.retired.larges.push(std::mem::replace(&mut self.large, LargeValues::new()));
        let table = Table::new().unwrap_or_else(|| {
            self.retired = Retired::default();
            Table::new().expect("2 MiB for the index, after all items went back to the kernel")
        });
        self.retired.tables.push(std::mem::replace(&mut self.table, table));
        self.deadlines = Deadlines::default();
        self.keys_in_slot.fill(0);
        self.keys_with_expiry = 0;
        self.key_bytes = 0;
        self.inline_bytes = 0;
        self.namespaces.flushed();
        self.forget_history();
        self.opened_seen = 0;
        self.is_pressed = self.bytes_max != u64::MAX;
        for _ in 0..RELEASED_BY_FLUSH {
            self.release();
        }
    }

    /// Gives one piece of what a flush left behind back to the system; false when nothing is left.
    pub fn release(&mut self) -> bool {
        let Retired { tables, arenas, larges } = &mut self.retired;
        fn step<T>(retired: &mut Vec<T>, dismantle: impl Fn(&mut T) -> bool) -> bool {
            while let Some(last) = retired.last_mut() {
                if dismantle(last) {
                    return true;
                }
                retired.pop();
            }
            false
        }
        step(arenas, Arena::dismantle) || step(tables, Table::dismantle) || step(larges, LargeValues::dismantle)
    }

    /// The next bucket that may hold expired items; see [`Deadlines::next_due`].
    pub fn next_due(&mut self, now_ms: u64, steps: &mut usize) -> Option<u32> {
        self.deadlines.next_due(now_ms, steps)
    }

    /// Looks at all items of `bucket`: those that expire before `now_ms` are added to `expired`, the others
    /// decide when to look again. Returns how many there are.
    pub fn visit_due(&mut self, bucket: u32, now_ms: u64, expired: &mut Vec<ItemRef>) -> usize {
        if bucket >= self.table.buckets() {
            return 0;
        }
        self.table.items_of(bucket).for_each(|item| self.arena.prefetch(item));
        let mut visited = 0;
        let mut next: Option<u64> = None;
        for item in self.table.items_of(bucket) {
            visited += 1;
            let slot = self.arena.slot(item);
            if let Some(expires_at_ms) = Head::read(slot).expires_at_ms(slot, self.times) {
                if now_ms > expires_at_ms {
                    expired.push(item);
                } else {
                    next = Some(next.map_or(expires_at_ms, |next| next.min(expires_at_ms)));
                }
            }
        }
        if let Some(expires_at_ms) = next {
            self.deadlines.note(bucket, expires_at_ms, now_ms);
        }
        visited
    }

    /// The key of an item, and how to remove it.
    pub fn look_at(&self, item: ItemRef) -> (&[u8], Found) {
        let slot = self.arena.slot(item);
        let head = Head::read(slot);
        let key = head.key(slot);
        (key, self.locate(self.hasher.hash(key), item, head))
    }

    /// How to remove or move an item whose key has this hash.
    pub(super) fn locate(&self, hash: u64, item: ItemRef, head: Head) -> Found {
        let (at, _) = self.table.probe(hash).find(|&(_, other)| other == item).expect("it is indexed");
        Found { at, item, head }
    }

    /// What a key takes of memory: its place, its entry in the index, a value of its own.
    pub fn memory_of(&self, found: Found) -> usize {
        slot_bytes(found.head.item_bytes()) + INDEX_BYTES_PER_ITEM + self.bytes_apart(found)
    }

    /// How often the key was asked for lately, as far as anybody remembers.
    pub fn frequency(&self, hash: u64, found: Found) -> u32 {
        let counted = self.history.as_ref().map_or(0, |history| history.sketch.estimate(hash));
        counted + found.head.is_visited() as u32
    }

    /// The length of a value kept apart, 0 of others.
    pub(super) fn bytes_apart(&self, found: Found) -> usize {
        found.head.apart().map_or(0, |number| self.large.get(number).len())
    }

    /// Buckets of the index now, for choosing one at random.
    pub fn buckets(&self) -> u32 {
        self.table.buckets()
    }

    pub fn items_of(&self, bucket: u32) -> impl Iterator<Item = ItemRef> + '_ {
        self.table.items_of(bucket)
    }

    /// Visits the bucket at `cursor`; see [`Table::scan`].
    pub fn scan(&self, cursor: u64, now_ms: u64, mut visit: impl FnMut(&[u8])) -> u64 {
        self.scan_found(cursor, |key, found| {
            let expires_at_ms = found.head.expires_at_ms(self.arena.slot(found.item), self.times);
            if expires_at_ms.is_none_or(|expires_at_ms| now_ms <= expires_at_ms) {
                visit(key);
            }
        })
    }

    /// Visits the bucket at `cursor` whatever has expired; see [`Table::scan`].
    pub fn scan_found(&self, cursor: u64, mut visit: impl FnMut(&[u8], Found)) -> u64 {
        let step = self.table.scan(cursor);
        self.table.items_of(step.bucket).for_each(|item| self.arena.prefetch(item));
        for item in self.table.items_of(step.bucket) {
            let slot = self.arena.slot(item);
            let head = Head::read(slot);
            if step.is_ahead(|| self.hasher.hash(head.key(slot))) {
                // Its place in the index is not asked for.
                visit(head.key(slot), Found { at: Position::default(), item, head });
            }
        }
        step.next
    }

    /// How long the key has not been used, as far as is known; see [`idle`](super::idle).
    pub fn idle_ms(&self, found: Found) -> u64 {
        self.idle.idle_ms(found.head.used())
    }

    /// Tells items that were not used for long so, about as many as `budget`, and lets the time go on in which items
    /// are used.
    pub fn sweep(&mut self, now_ms: u64, budget: usize) {
        let mut used = 0;
        while used < budget
            && let Some(cursor) = self.idle.next(now_ms)
        {
            let step = self.table.scan(cursor);
            self.table.items_of(step.bucket).for_each(|item| self.arena.prefetch(item));
            for item in self.table.items_of(step.bucket) {
                used += 1;
                let slot = self.arena.slot(item);
                let head = Head::read(slot);
                let aged = self.idle.aged(head.used());
                if aged != head.used() && step.is_ahead(|| self.hasher.hash(head.key(slot))) {
                    Head::set_used(self.arena.slot_mut(item), aged);
                }
            }
            used += 1;
            self.idle.swept(step.next);
        }
        self.times.used = self.idle.now();
    }

    /// Keeps the floor of expiries two weeks behind the clock. To be called when everything that has expired by
    /// `now_ms` is gone: the floor moves by a week at most, and by no more before that has been so again.
    pub fn raise_floor(&mut self, now_ms: u64) {
        let wanted = now_ms.saturating_sub(FLOOR_BEHIND_MS);
        if !self.has_expiries() || self.times.floor_ms == 0 {
            self.times.floor_ms = wanted;
        } else if wanted > self.times.floor_ms {
            self.times.floor_ms = wanted.min(self.times.floor_ms + FLOOR_STEP_MS);
        }
    }

    /// Walks everything and compares it with what was counted along the way.
    #[cfg(any(test, fuzzing))]
    pub fn validate(&self) {
        self.table.validate(|item| self.hasher.hash(self.key_of(item)));
        let slots = self.arena.validate(|slot| {
            let head = Head::read_any(slot);
            (head.item_bytes(), head.is_live())
        });
        self.large.validate();
        assert_eq!(slots, self.table.len());
        let mut keys_in_slot = vec![0; SLOT_COUNT as usize];
        let (mut keys_with_expiry, mut key_bytes, mut inline_bytes, mut item_bytes) = (0, 0, 0, 0);
        let mut numbers = std::collections::HashSet::new();
        let mut namespaces = std::collections::BTreeMap::<Vec<u8>, (u64, u64, u64)>::new();
        for bucket in 0..self.table.buckets() {
            for item in self.table.items_of(bucket) {
                let slot = self.arena.slot(item);
                let head = Head::read(slot);
                keys_in_slot[slot_of(head.key(slot)) as usize] += 1;
                let name = namespace::name_of(head.key(slot));
                assert_eq!(head.is_namespaced(), name.is_some());
                if let Some(name) = name {
                    let (items, bytes, expiring) = namespaces.entry(name.to_vec()).or_default();
                    *items += 1;
                    let value =
                        head.apart().map_or_else(|| head.value(slot).len(), |number| self.large.get(number).len());
                    *bytes += (head.key_bytes() + value) as u64;
                    *expiring += head.has_expiry() as u64;
                }
                key_bytes += head.key_bytes() as u64;
                item_bytes += slot_bytes(head.item_bytes()) as u64;
                match head.apart() {
                    None => inline_bytes += head.value(slot).len() as u64,
                    Some(number) => {
                        assert!(numbers.insert(number));
                        assert!(self.large.get(number).len() >= LARGE_VALUE_BYTES_MIN);
                    }
                }
                if let Some(expires_at_ms) = head.expires_at_ms(slot, self.times) {
                    keys_with_expiry += 1;
                    assert!(self.deadlines.covers(bucket, expires_at_ms));
                }
            }
        }
        assert_eq!(namespaces.values().map(|(items, ..)| items).sum::<u64>(), self.namespaces.items());
        for (name, counters) in self.namespaces.iter() {
            let counted = (counters.items, counters.bytes, counters.expiring);
            assert_eq!(namespaces.get(name).copied().unwrap_or_default(), counted);
        }
        assert_eq!(keys_in_slot, *self.keys_in_slot);
        assert_eq!(numbers.len() as u64, self.large.count());
        assert_eq!(
            (keys_with_expiry, key_bytes, inline_bytes, item_bytes),
            (self.keys_with_expiry, self.key_bytes, self.inline_bytes, self.arena.item_bytes())
        );
    }
}
