//! What each namespace holds and how it was used. Global keys are not among them: an item says of itself whether its
//! key has a namespace, so that nothing is looked up for others.

use std::collections::HashMap;

use ahash::RandomState;

use crate::limits::NAMESPACES_COUNTED_MAX;

/// One namespace on one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceCounters {
    pub items: u64,
    /// Of keys and values.
    pub bytes: u64,
    pub hits: u64,
    pub misses: u64,
    pub writes: u64,
    pub evicted: u64,
}

impl NamespaceCounters {
    pub const NAMES: [&'static str; 6] = ["items", "bytes", "hits", "misses", "writes", "evictions"];

    pub fn values(&self) -> [u64; 6] {
        [self.items, self.bytes, self.hits, self.misses, self.writes, self.evicted]
    }
}

pub struct Namespaces {
    by_name: HashMap<Box<[u8]>, NamespaceCounters, RandomState>,
    /// Items of all namespaces, also of those that are not counted one by one.
    items: u64,
    is_used: bool,
}

impl Namespaces {
    pub fn new(hasher: RandomState) -> Namespaces {
        Namespaces { by_name: HashMap::with_hasher(hasher), items: 0, is_used: false }
    }

    /// Whether any key of a namespace was ever here.
    #[inline(always)]
    pub fn is_used(&self) -> bool {
        self.is_used
    }

    pub fn items(&self) -> u64 {
        self.items
    }

    pub fn get(&self, name: &[u8]) -> Option<&NamespaceCounters> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &NamespaceCounters)> {
        self.by_name.iter().map(|(name, counters)| (&**name, counters))
    }

    #[cold]
    fn begin(&mut self, name: &[u8]) {
        self.is_used = true;
        if self.by_name.len() >= NAMESPACES_COUNTED_MAX {
            // Those that are empty are let go; what they were used for is forgotten with them.
            self.by_name.retain(|_, counters| counters.items > 0);
        }
        if self.by_name.len() < NAMESPACES_COUNTED_MAX {
            self.by_name.insert(name.into(), NamespaceCounters::default());
        }
    }

    fn change(&mut self, name: &[u8], change: impl FnOnce(&mut NamespaceCounters)) {
        if let Some(counters) = self.by_name.get_mut(name) {
            change(counters);
        }
    }

    #[inline(never)]
    pub fn added(&mut self, name: &[u8], bytes: usize) {
        if !self.by_name.contains_key(name) {
            self.begin(name);
        }
        self.items += 1;
        self.change(name, |counters| {
            counters.items += 1;
            counters.bytes += bytes as u64;
        });
    }

    #[inline(never)]
    pub fn removed(&mut self, name: &[u8], bytes: usize) {
        self.items -= 1;
        self.change(name, |counters| {
            // What was there before a namespace was counted has never been added.
            counters.items = counters.items.saturating_sub(1);
            counters.bytes = counters.bytes.saturating_sub(bytes as u64);
        });
    }

    #[inline(never)]
    pub fn resized(&mut self, name: &[u8], before: usize, after: usize) {
        self.change(name, |counters| counters.bytes = (counters.bytes + after as u64).saturating_sub(before as u64));
    }

    #[inline(never)]
    pub fn hit(&mut self, name: &[u8]) {
        self.change(name, |counters| counters.hits += 1);
    }

    #[inline(never)]
    pub fn missed(&mut self, name: &[u8]) {
        if !self.by_name.contains_key(name) {
            self.begin(name);
        }
        self.change(name, |counters| counters.misses += 1);
    }

    #[inline(never)]
    pub fn written(&mut self, name: &[u8]) {
        self.change(name, |counters| counters.writes += 1);
    }

    pub fn evicted(&mut self, name: &[u8]) {
        self.change(name, |counters| counters.evicted += 1);
    }

    /// All keys are gone.
    pub fn flushed(&mut self) {
        self.items = 0;
        for counters in self.by_name.values_mut() {
            (counters.items, counters.bytes) = (0, 0);
        }
    }

    /// CONFIG RESETSTAT.
    pub fn reset(&mut self) {
        for counters in self.by_name.values_mut() {
            *counters = NamespaceCounters { items: counters.items, bytes: counters.bytes, ..Default::default() };
        }
    }
}
