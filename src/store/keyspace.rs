//! The keys of a shard and what they hold: index, items, large values, deadlines and their counts, kept in
//! step. Knows nothing of commands; time matters only as far as deadlines are noted.

use bytes::{Bytes, BytesMut};

use super::arena::{Arena, ItemRef, same_slot};
use super::counters::ShardCounters;
use super::deadlines::Deadlines;
use super::item::{Content, Head};
use super::large::LargeValues;
use super::table::{Position, Reshape, Table};
use crate::hash::KeyHasher;
use crate::limits::LARGE_VALUE_BYTES_MIN;
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
    at: Position,
    item: ItemRef,
    head: Head,
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
    table: Table,
    arena: Arena,
    large: LargeValues,
    deadlines: Deadlines,
    keys_in_slot: Box<[u32]>,
    keys_with_expiry: u64,
    key_bytes: u64,
    /// Values that lie in their items.
    inline_bytes: u64,
    retired: Retired,
    /// An item on its way from one slot to another.
    moving: Vec<u8>,
}

/// What a flush left behind, given back bit by bit.
#[derive(Default)]
struct Retired {
    tables: Vec<Table>,
    arenas: Vec<Arena>,
    larges: Vec<LargeValues>,
}

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
    pub fn new(hasher: KeyHasher) -> Keyspace {
        Keyspace {
            hasher,
            table: Table::new().expect("2 MiB for the index of a shard"),
            arena: Arena::new(),
            large: LargeValues::new(),
            deadlines: Deadlines::default(),
            keys_in_slot: vec![0; SLOT_COUNT as usize].into(),
            keys_with_expiry: 0,
            key_bytes: 0,
            inline_bytes: 0,
            retired: Retired::default(),
            moving: Vec::new(),
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
        let (item_bytes, mut arena_bytes) = self.arena.bytes();
        arena_bytes += self.retired.arenas.iter().map(|arena| arena.bytes().1).sum::<usize>();
        let index_bytes =
            self.table.bytes() + self.retired.tables.iter().map(Table::bytes).sum::<usize>() + self.deadlines.bytes();
        counters.keys = self.len();
        counters.keys_with_expiry = self.keys_with_expiry;
        counters.key_bytes = self.key_bytes;
        counters.value_bytes = self.inline_bytes + self.large.bytes();
        counters.large_values = self.large.count();
        counters.large_value_bytes = self.large.bytes();
        counters.item_bytes = item_bytes;
        counters.arena_bytes = arena_bytes as u64;
        counters.index_bytes = index_bytes as u64;
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
        if found.head.has_expiry() { found.head.expires_at_ms(self.arena.slot(found.item)) } else { None }
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
        let content = self.content_for(value, None)?;
        let head = Head::new(key.len(), content, expires_at_ms);
        let home = self.arena.allocate(head.item_bytes()).and_then(|item| {
            head.write(self.arena.slot_mut(item), key, content, expires_at_ms);
            let home = self.table.insert(hash, item);
            if home.is_none() {
                self.arena.free(item, head.item_bytes());
            }
            home
        });
        let Some(home) = home else {
            self.drop_apart(content);
            return Err(OutOfMemory);
        };
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
        if bytes.len() < LARGE_VALUE_BYTES_MIN && old.takes(bytes.len(), expires_at_ms) {
            let (old_bytes, old_value_bytes) = (old.item_bytes(), old.inline_value_bytes());
            if bytes.len() == old_value_bytes || same_slot(old_bytes, old_bytes - old_value_bytes + bytes.len()) {
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
        let item_bytes = Head::new(key.len(), planned, expires_at_ms).item_bytes();
        let target = if same_slot(old.item_bytes(), item_bytes) {
            item
        } else {
            self.arena.allocate(item_bytes).ok_or(OutOfMemory)?
        };
        let content = if is_large {
            match self.content_for(value, old.apart()) {
                Ok(content) => content,
                Err(error) => {
                    if target != item {
                        self.arena.free(target, item_bytes);
                    }
                    return Err(error);
                }
            }
        } else {
            planned
        };
        let head = Head::new(key.len(), content, expires_at_ms);
        if target == item {
            head.write(self.arena.slot_mut(item), key, content, expires_at_ms);
        } else {
            head.write(self.arena.slot_mut(target), key, content, expires_at_ms);
            self.table.replace(at, target);
            self.arena.free(item, old.item_bytes());
        }
        match old.apart() {
            None => self.inline_bytes -= old.inline_value_bytes() as u64,
            Some(number) if head.apart().is_none() => drop(self.large.take(number)),
            Some(_) => {}
        }
        self.inline_bytes += head.inline_value_bytes() as u64;
        self.expiry_changed(at, old, expires_at_ms, now_ms);
        Ok(())
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
        match old {
            Some(number) => {
                self.large.replace(number, value.to_bytes());
                Ok(Content::Apart(number))
            }
            None => self.large.put(value.to_bytes()).map(Content::Apart).ok_or(OutOfMemory),
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
                self.large.edit(number, change);
                debug_assert!(self.large.get(number).len() >= LARGE_VALUE_BYTES_MIN);
                true
            }
            None => false,
        }
    }

    pub fn set_expiry(&mut self, found: Found, expires_at_ms: Option<u64>, now_ms: u64) -> Result<(), OutOfMemory> {
        let Found { at, item, head: old } = found;
        let head = old.with_expiry(expires_at_ms);
        if same_slot(old.item_bytes(), head.item_bytes()) {
            head.rewrite_expiry(old, self.arena.slot_mut(item), expires_at_ms);
        } else {
            let moved = self.arena.allocate(head.item_bytes()).ok_or(OutOfMemory)?;
            self.moving.clear();
            self.moving.extend_from_slice(&self.arena.slot(item)[..old.item_bytes()]);
            head.copy_from(old, &self.moving, self.arena.slot_mut(moved), expires_at_ms);
            self.table.replace(at, moved);
            self.arena.free(item, old.item_bytes());
        }
        self.expiry_changed(at, old, expires_at_ms, now_ms);
        Ok(())
    }

    pub fn remove(&mut self, found: Found) {
        let Found { at, item, head } = found;
        let key_slot = slot_of(head.key(self.arena.slot(item)));
        self.keys_in_slot[key_slot as usize] -= 1;
        self.key_bytes -= head.key_bytes() as u64;
        match head.apart() {
            None => self.inline_bytes -= head.inline_value_bytes() as u64,
            Some(number) => drop(self.large.take(number)),
        }
        self.keys_with_expiry -= head.has_expiry() as u64;
        self.table.remove(at);
        self.arena.free(item, head.item_bytes());
        if let Some(Reshape { of, with }) = self.table.shrink() {
            self.deadlines.on_merge(of, with);
        }
    }

    /// Forgets all keys at once. Their memory goes back in steps of [`release`](Self::release).
    pub fn flush(&mut self) {
        if self.is_empty() && self.arena.bytes().1 == 0 {
            return;
        }
        self.retired.arenas.push(std::mem::replace(&mut self.arena, Arena::new()));
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
            if let Some(expires_at_ms) = Head::read(slot).expires_at_ms(slot) {
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
        let (at, _) = self.table.probe(self.hasher.hash(key)).find(|&(_, other)| other == item).expect("it is indexed");
        (key, Found { at, item, head })
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
        let (bucket, next) = self.table.scan(cursor);
        self.table.items_of(bucket).for_each(|item| self.arena.prefetch(item));
        for item in self.table.items_of(bucket) {
            let slot = self.arena.slot(item);
            let head = Head::read(slot);
            if head.expires_at_ms(slot).is_none_or(|expires_at_ms| now_ms <= expires_at_ms) {
                visit(head.key(slot));
            }
        }
        next
    }

    /// Walks everything and compares it with what was counted along the way.
    #[cfg(any(test, fuzzing))]
    pub fn validate(&self) {
        self.table.validate(|item| self.hasher.hash(self.key_of(item)));
        let slots = self.arena.validate();
        self.large.validate();
        assert_eq!(slots, self.table.len());
        let mut keys_in_slot = vec![0; SLOT_COUNT as usize];
        let (mut keys_with_expiry, mut key_bytes, mut inline_bytes, mut item_bytes) = (0, 0, 0, 0);
        let mut numbers = std::collections::HashSet::new();
        for bucket in 0..self.table.buckets() {
            for item in self.table.items_of(bucket) {
                let slot = self.arena.slot(item);
                let head = Head::read(slot);
                keys_in_slot[slot_of(head.key(slot)) as usize] += 1;
                key_bytes += head.key_bytes() as u64;
                item_bytes += super::arena::slot_bytes(head.item_bytes()) as u64;
                match head.apart() {
                    None => inline_bytes += head.value(slot).len() as u64,
                    Some(number) => {
                        assert!(numbers.insert(number));
                        assert!(self.large.get(number).len() >= LARGE_VALUE_BYTES_MIN);
                    }
                }
                if let Some(expires_at_ms) = head.expires_at_ms(slot) {
                    keys_with_expiry += 1;
                    assert!(self.deadlines.covers(bucket, expires_at_ms));
                }
            }
        }
        assert_eq!(keys_in_slot, *self.keys_in_slot);
        assert_eq!(numbers.len() as u64, self.large.count());
        assert_eq!(
            (keys_with_expiry, key_bytes, inline_bytes, item_bytes),
            (self.keys_with_expiry, self.key_bytes, self.inline_bytes, self.arena.bytes().0)
        );
    }
}
