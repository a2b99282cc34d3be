//! Keys that clients watch: each with a number that changes whenever somebody writes the key.

use std::collections::BTreeMap;

use bytes::Bytes;

struct Watched {
    version: u64,
    exists: bool,
    watchers: u32,
}

/// The watched keys of one core. Versions are never used twice, so that a key that nobody watched for a while
/// cannot look unchanged.
#[derive(Default)]
pub struct Watches {
    keys: BTreeMap<Bytes, Watched>,
    last_version: u64,
}

impl Watches {
    /// Whether nobody watches anything.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Somebody watches `key`, which exists or not. The version that it has.
    pub fn watch(&mut self, key: &[u8], exists: bool) -> u64 {
        match self.keys.get_mut(key) {
            Some(watched) => {
                watched.watchers += 1;
                watched.version
            }
            None => {
                self.last_version += 1;
                let watched = Watched { version: self.last_version, exists, watchers: 1 };
                self.keys.insert(Bytes::copy_from_slice(key), watched);
                self.last_version
            }
        }
    }

    /// One who watched `key` does so no more.
    pub fn unwatch(&mut self, key: &[u8]) {
        if let Some(watched) = self.keys.get_mut(key) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                self.keys.remove(key);
            }
        }
    }

    /// Whether nobody has written `key` since it had this version.
    pub fn is_unchanged(&self, key: &[u8], version: u64) -> bool {
        self.keys.get(key).is_some_and(|watched| watched.version == version)
    }

    /// `key` has been written, and exists now or not.
    pub fn written(&mut self, key: &[u8], exists: bool) {
        if let Some(watched) = self.keys.get_mut(key) {
            self.last_version += 1;
            watched.version = self.last_version;
            watched.exists = exists;
        }
    }

    /// Such keys are called something else now.
    pub fn renamed(&mut self, which: impl Fn(&[u8]) -> bool) {
        for (_, watched) in self.keys.iter_mut().filter(|(key, _)| which(key)) {
            self.last_version += 1;
            watched.version = self.last_version;
        }
    }

    /// All keys are gone. Those that did not exist before are what they were.
    pub fn flushed(&mut self) {
        for watched in self.keys.values_mut().filter(|watched| watched.exists) {
            self.last_version += 1;
            watched.version = self.last_version;
            watched.exists = false;
        }
    }
}
