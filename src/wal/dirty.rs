//! The keys whose last change is on its way to the disk: what a reply says of them has to wait until it is there.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use crate::limits::WAL_DIRTY_KEYS_MAX;

/// The keys' hashes are hashes already.
#[derive(Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only words are hashed");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

#[derive(Default)]
struct Keys {
    group: u64,
    /// Too many to tell apart, or all of them: every key counts as dirty.
    all: bool,
    hashes: HashSet<u64, BuildHasherDefault<AsItIs>>,
}

/// By group, oldest first: there are no more groups than the writer has under way.
#[derive(Default)]
pub struct DirtyKeys {
    groups: VecDeque<Keys>,
    spare: Option<Keys>,
}

impl DirtyKeys {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn keys_of(&mut self, group: u64) -> &mut Keys {
        if self.groups.back().is_none_or(|keys| keys.group != group) {
            let mut keys = self.spare.take().unwrap_or_default();
            keys.group = group;
            self.groups.push_back(keys);
        }
        self.groups.back_mut().expect("just pushed, or there")
    }

    pub fn insert(&mut self, hash: u64, group: u64) {
        let keys = self.keys_of(group);
        if keys.hashes.len() >= WAL_DIRTY_KEYS_MAX {
            keys.all = true;
        } else {
            keys.hashes.insert(hash);
        }
    }

    pub fn insert_all(&mut self, group: u64) {
        self.keys_of(group).all = true;
    }

    /// The group to wait for before anything is said of the key; 0 for none.
    pub fn group_of(&self, hash: u64) -> u64 {
        let dirty = self.groups.iter().rev().find(|keys| keys.all || keys.hashes.contains(&hash));
        dirty.map_or(0, |keys| keys.group)
    }

    /// The group to wait for before anything is said of all keys.
    pub fn newest(&self) -> u64 {
        self.groups.back().map_or(0, |keys| keys.group)
    }

    /// Groups up to this one are durable.
    pub fn durable(&mut self, group: u64) {
        while self.groups.front().is_some_and(|keys| keys.group <= group) {
            if let Some(mut keys) = self.groups.pop_front() {
                keys.all = false;
                keys.hashes.clear();
                keys.hashes.shrink_to(1024);
                self.spare = Some(keys);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_dirty_until_their_last_group_is_durable() {
        let mut dirty = DirtyKeys::default();
        dirty.insert(1, 5);
        dirty.insert(2, 5);
        dirty.insert(1, 6);
        assert_eq!((dirty.group_of(1), dirty.group_of(2), dirty.group_of(3), dirty.newest()), (6, 5, 0, 6));
        dirty.durable(5);
        assert_eq!((dirty.group_of(1), dirty.group_of(2)), (6, 0));
        dirty.insert_all(7);
        assert_eq!(dirty.group_of(99), 7);
        dirty.durable(7);
        assert!(dirty.is_empty() && dirty.group_of(1) == 0);
    }

    #[test]
    fn too_many_keys_make_all_dirty() {
        let mut dirty = DirtyKeys::default();
        for hash in 0..=WAL_DIRTY_KEYS_MAX as u64 {
            dirty.insert(hash, 1);
        }
        assert_eq!(dirty.group_of(u64::MAX), 1);
        dirty.durable(1);
        assert_eq!(dirty.group_of(1), 0);
    }
}
