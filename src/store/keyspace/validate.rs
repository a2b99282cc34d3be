//! Counts everything anew, for tests.

use super::Keyspace;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::namespace;
use crate::slot::{SLOT_COUNT, slot_of};
use crate::store::arena::{ItemRef, slot_bytes};
use crate::store::item::Head;

impl Keyspace {
    fn key_of(&self, item: ItemRef) -> &[u8] {
        let slot = self.arena.slot(item);
        Head::read(slot).key(slot)
    }

    /// Walks everything and compares it with what was counted along the way.
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
