//! What changes a key: its value, its expiry, its place, and that it goes. All counts are kept in step here.

use bytes::BytesMut;

use super::passes::FLOOR_BEHIND_MS;
use super::{Found, Keyspace, OutOfMemory, ValueRef, Write};
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::namespace;
use crate::slot::{is_plain, slot_of, slot_of_plain};
use crate::store::arena::{ItemRef, Kind, same_slot, size_of_item};
use crate::store::evict::Eviction;
use crate::store::item::{Content, Head};
use crate::store::table::{Position, Reshape};

impl Keyspace {
    /// Gives a key a value and an expiry; `found` is what [`find`](Self::find) says of it.
    #[inline(always)]
    pub fn store(&mut self, write: Write<'_>, found: Option<Found>) -> Result<(), OutOfMemory> {
        match found {
            Some(found) => self.overwrite(write, found),
            None => self.insert(write),
        }
    }

    fn insert(&mut self, write: Write<'_>) -> Result<(), OutOfMemory> {
        let Write { hash, key, value, expires_at_ms, now_ms } = write;
        if expires_at_ms.is_some() {
            self.floor_for(now_ms);
        }
        if self.what_if.is_some() {
            self.arrives(hash);
        }
        let content = self.content_for(value, None)?;
        let is_plain = namespace::ARE_BUILT && is_plain(key);
        let is_namespaced = !is_plain && namespace::name_of(key).is_some();
        let head = Head::new(key.len(), content, expires_at_ms, self.times).with_namespace(is_namespaced);
        let size = size_of_item(write.bytes());
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
        if is_namespaced {
            self.enters_namespace(write);
        }
        self.key_bytes += key.len() as u64;
        self.inline_bytes += head.inline_value_bytes() as u64;
        let slot = if is_plain { slot_of_plain(key) } else { slot_of(key) };
        self.keys_in_slot[slot as usize] += 1;
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

    #[cold]
    #[inline(never)]
    fn enters_namespace(&mut self, write: Write<'_>) {
        if let Some(name) = namespace::name_of(write.key) {
            self.namespaces.added(name, write.bytes(), write.expires_at_ms.is_some());
            if self.namespaces.is_limited() {
                self.namespaces.queue_up(name, write.hash);
            }
        }
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
    pub(in crate::store) fn discard(&mut self, item: ItemRef, head: Head) {
        Head::bury(self.arena.slot_mut(item));
        self.arena.free(item, head.item_bytes());
    }

    #[inline(always)]
    fn overwrite(&mut self, write: Write<'_>, found: Found) -> Result<(), OutOfMemory> {
        let Write { key, value, expires_at_ms, now_ms, .. } = write;
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
        // Copies: nobody asks for the address of the others, so that they need no memory.
        self.rewrite(&{ write }, &{ found })
    }

    /// The same when more than the value changes.
    #[inline(never)]
    fn rewrite(&mut self, write: &Write<'_>, found: &Found) -> Result<(), OutOfMemory> {
        let Write { key, value, expires_at_ms, now_ms, .. } = *write;
        let found = *found;
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
            let size = size_of_item(write.bytes());
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
    pub(in crate::store) fn relocate(&mut self, found: Found, kind: Kind, is_visited: bool) -> bool {
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
}
