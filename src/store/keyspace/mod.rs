//! The keys of a shard and what they hold: index, items, large values, deadlines and their counts, kept in
//! step. Knows nothing of commands; time matters only as far as deadlines are noted.
//!
//! Here a key is found. What changes it: `write`. Who was asked for: `uses`. What goes through all keys bit by bit:
//! `passes`. All of them gone at once: `flush`.

mod flush;
mod passes;
mod uses;
#[cfg(any(test, fuzzing))]
mod validate;
mod write;

use bytes::Bytes;

use super::arena::{Arena, ItemRef, Kind, slot_bytes};
use super::counters::ShardCounters;
use super::deadlines::Deadlines;
use super::evict::what_if::WhatIf;
use super::evict::{Eviction, History};
use super::idle::Idle;
use super::item::{Head, Times};
use super::large::LargeValues;
use super::namespaces::Namespaces;
use super::table::{Position, Table};
use crate::hash::KeyHasher;
use crate::slot::SLOT_COUNT;
use flush::Retired;

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

/// What a key is to have.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    pub hash: u64,
    pub key: &'a [u8],
    pub value: ValueRef<'a>,
    pub expires_at_ms: Option<u64>,
    pub now_ms: u64,
}

impl Write<'_> {
    /// What it brings.
    #[inline(always)]
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.bytes().len()
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

/// In the mean, with the buckets' free places.
const INDEX_BYTES_PER_ITEM: usize = 8;

const RECENT_MISSES: usize = 256;

/// Equality of slices of equal length, without a call for the usual lengths of keys.
#[inline(always)]
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    debug_assert_eq!(a.len(), b.len());
    #[inline(always)]
    fn first(bytes: &[u8]) -> Option<u64> {
        bytes.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
    }
    #[inline(always)]
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
}
