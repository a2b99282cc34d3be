//! What was logged is done again, and what is there is shown in the order in which it is logged again. Unlike
//! commands, neither looks at the time: what expired meanwhile goes with the ticks that follow.

use super::keyspace::{OutOfMemory, ValueRef, Write};
use super::{Effects, Removal, Shard};
use crate::clock::Now;
use crate::limits::LARGE_VALUE_BYTES_MIN;

impl Shard {
    /// `key` gets this value and expiry, whatever it had. Keys that have to go for it are told to `effects`.
    pub fn restore<E: Effects>(
        &mut self,
        key: &[u8],
        value: ValueRef<'_>,
        expires_at_ms: Option<u64>,
        now: Now,
        effects: &mut E,
    ) -> Result<(), OutOfMemory> {
        let hash = self.keyspace.hasher.hash(key);
        let found = self.keyspace.find(hash, key);
        let is_counted = self.keyspace.namespaces.is_used();
        self.store_as_it_is(Write { hash, key, value, expires_at_ms, now_ms: now.unix_ms }, found, effects)?;
        if is_counted {
            self.written_in_namespace(hash, key, effects);
        }
        Ok(())
    }

    pub fn restore_removal(&mut self, key: &[u8]) {
        if let Some(found) = self.keyspace.find(self.keyspace.hasher.hash(key), key) {
            self.keyspace.remove(found);
        }
    }

    pub fn restore_expiry(&mut self, key: &[u8], expires_at_ms: Option<u64>, now: Now) -> Result<(), OutOfMemory> {
        match self.keyspace.find(self.keyspace.hasher.hash(key), key) {
            Some(found) => self.keyspace.set_expiry(found, expires_at_ms, now.unix_ms),
            None => Ok(()),
        }
    }

    /// The value of `key` has grown by `tail`. Nothing happens to a key that is not there: its value follows.
    pub fn restore_tail<E: Effects>(
        &mut self,
        key: &[u8],
        tail: &[u8],
        now: Now,
        effects: &mut E,
    ) -> Result<(), OutOfMemory> {
        let Some(found) = self.keyspace.find(self.keyspace.hasher.hash(key), key) else { return Ok(()) };
        if self.keyspace.edit_large(found, |value| value.extend_from_slice(tail)) {
            return Ok(());
        }
        let value = [self.keyspace.value(found).bytes(), tail].concat();
        let expires_at_ms = self.keyspace.expires_at_ms(found);
        if value.len() < LARGE_VALUE_BYTES_MIN {
            return self.restore(key, ValueRef::Small(&value), expires_at_ms, now, effects);
        }
        self.restore(key, ValueRef::Large(&value.into()), expires_at_ms, now, effects)
    }

    /// All keys go for which `goes` says so.
    pub fn restore_flush(&mut self, mut goes: impl FnMut(&[u8]) -> bool) {
        let mut gone = Vec::new();
        for bucket in 0..self.keyspace.buckets() {
            for item in self.keyspace.items_of(bucket) {
                let (key, _) = self.keyspace.look_at(item);
                if goes(key) {
                    gone.push(key.to_vec());
                }
            }
        }
        gone.iter().for_each(|key| self.restore_removal(key));
    }

    /// Shows every key of the bucket at `cursor` with its value and expiry; see [`scan_step`](Shard::scan_step).
    pub fn visit_bucket(&self, cursor: u64, mut visit: impl FnMut(&[u8], ValueRef<'_>, Option<u64>)) -> u64 {
        self.keyspace.scan_found(cursor, |key, found| {
            visit(key, self.keyspace.value(found), self.keyspace.expires_at_ms(found));
        })
    }

    /// Fetches what [`restore`](Shard::restore) of this key will look at.
    pub fn prefetch_key(&self, key: &[u8]) {
        self.keyspace.prefetch_bucket(self.keyspace.hasher.hash(key));
    }
}

/// Collects the keys that had to go while others were restored.
#[derive(Default)]
pub struct Displaced {
    pub keys: Vec<Box<[u8]>>,
}

impl Effects for Displaced {
    fn set(&mut self, _key: &[u8], _value: ValueRef<'_>, _expires_at_ms: Option<u64>) {}

    fn remove(&mut self, key: &[u8], reason: Removal) {
        if reason == Removal::Evicted {
            self.keys.push(key.into());
        }
    }

    fn expire(&mut self, _key: &[u8], _expires_at_ms: Option<u64>) {}
    fn flush(&mut self) {}
}
