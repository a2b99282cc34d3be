//! What each namespace holds and how it was used. Global keys are not among them: an item says of itself whether its
//! key has a namespace, so that nothing is looked up for others.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;

use ahash::RandomState;

use super::curve::{CURVE_BYTES, Curve};
use super::evict::what_if::Estimate;
use crate::limits::{NAMESPACE_CURVES_MAX, NAMESPACES_COUNTED_MAX};
use crate::namespace::{self, LimitedNamespaces, NamespaceLimits};

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
    /// Of the items: those with an expiry.
    pub expiring: u64,
}

/// What is known of one namespace on one core.
#[derive(Default)]
struct Known {
    counters: NamespaceCounters,
    /// What it would be with another quota; not for all if there are very many.
    curve: Option<Box<Curve>>,
}

/// A namespace whose size is limited: it evicts its own keys, the oldest first that nobody has asked for since they were
/// last looked at.
pub(super) struct Domain {
    /// Of this core.
    pub limits: NamespaceLimits,
    /// Hashes of its keys, the oldest first; also of some that are gone. Each is there once.
    queue: VecDeque<u64>,
    queued: HashSet<u64, RandomState>,
    /// Where the search for keys goes on that were there before it was limited.
    pub cursor: u64,
}

impl Domain {
    pub fn push(&mut self, hash: u64) {
        if self.queued.insert(hash) {
            self.queue.push_back(hash);
        }
    }

    pub fn pop(&mut self) -> Option<u64> {
        let hash = self.queue.pop_front()?;
        self.queued.remove(&hash);
        Some(hash)
    }

    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    fn bytes(&self) -> u64 {
        // A set has a byte beside each place, and one of eight free.
        (self.queue.capacity() * size_of::<u64>() + self.queued.capacity() * (size_of::<u64>() + 1) * 8 / 7) as u64
    }
}

pub struct Namespaces {
    hasher: RandomState,
    limited: BTreeMap<Box<[u8]>, Domain>,
    /// The one that was looked at last without a write.
    last_looked_at: Box<[u8]>,
    /// What the queues take.
    queue_bytes: u64,
    by_name: HashMap<Box<[u8]>, Known, RandomState>,
    /// How many of them have a curve.
    curves: usize,
    /// So many new ones are not counted before it is looked again whether others are empty.
    passed_over: usize,
    /// Items of all namespaces, also of those that are not counted one by one.
    items: u64,
    is_used: bool,
}

impl Namespaces {
    pub fn new(hasher: RandomState) -> Namespaces {
        Namespaces {
            limited: BTreeMap::new(),
            last_looked_at: Box::default(),
            queue_bytes: 0,
            by_name: HashMap::with_hasher(hasher.clone()),
            curves: 0,
            passed_over: 0,
            hasher,
            items: 0,
            is_used: false,
        }
    }

    // ---- limits ---------------------------------------------------------------------------------

    #[inline]
    pub fn is_limited(&self) -> bool {
        !self.limited.is_empty()
    }

    /// What may be held by cores of which this is one; what is not said is not limited.
    pub fn limit(&mut self, all: &LimitedNamespaces, cores: u64) {
        self.limited.retain(|name, _| str::from_utf8(name).is_ok_and(|name| all.contains_key(name)));
        for (name, limits) in all {
            let limits = limits.of_core(cores);
            if let Some(domain) = self.limited.get_mut(name.as_bytes()) {
                domain.limits = limits;
                continue;
            }
            // Counted however many others are.
            let known = self.by_name.entry(name.as_bytes().into()).or_default();
            self.curves += known.curve.is_none() as usize;
            known.curve.get_or_insert_default();
            self.is_used = true;
            let queued = HashSet::with_hasher(self.hasher.clone());
            let domain = Domain { limits, queue: VecDeque::new(), queued, cursor: 0 };
            self.limited.insert(name.as_bytes().into(), domain);
        }
        self.queue_bytes = self.limited.values().map(Domain::bytes).sum();
    }

    pub fn limits_of(&self, name: &[u8]) -> Option<&NamespaceLimits> {
        self.limited.get(name).map(|domain| &domain.limits)
    }

    pub(super) fn domain(&mut self, name: &[u8]) -> Option<&mut Domain> {
        self.limited.get_mut(name)
    }

    /// A key is new.
    pub fn queue_up(&mut self, name: &[u8], hash: u64) {
        if let Some(domain) = self.limited.get_mut(name) {
            let before = domain.bytes();
            domain.push(hash);
            self.queue_bytes = (self.queue_bytes + domain.bytes()).saturating_sub(before);
        }
    }

    /// What the queues and curves take.
    pub fn bytes(&self) -> u64 {
        self.queue_bytes + self.curves as u64 * CURVE_BYTES
    }

    /// Whether it holds more than it may.
    pub fn is_over(&self, name: &[u8]) -> bool {
        let counters = self.get(name).copied().unwrap_or_default();
        self.limited.get(name).is_some_and(|domain| !domain.limits.holds(counters.items, counters.bytes))
    }

    /// One limited namespace after the other.
    pub fn next_limited(&mut self) -> Option<Box<[u8]>> {
        let behind = (Bound::Excluded(self.last_looked_at.clone()), Bound::Unbounded);
        let next = self.limited.range(behind).next().or_else(|| self.limited.iter().next());
        let name = next.map(|(name, _)| name.clone())?;
        self.last_looked_at = name.clone();
        Some(name)
    }

    // ---- counting -------------------------------------------------------------------------------

    /// Whether any key of a namespace was ever here.
    #[inline(always)]
    pub fn is_used(&self) -> bool {
        namespace::ARE_BUILT && self.is_used
    }

    pub fn items(&self) -> u64 {
        self.items
    }

    pub fn get(&self, name: &[u8]) -> Option<&NamespaceCounters> {
        self.by_name.get(name).map(|known| &known.counters)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &NamespaceCounters)> {
        self.by_name.iter().map(|(name, known)| (&**name, &known.counters))
    }

    /// Each with what it would find with another quota.
    pub fn estimates(&self) -> impl Iterator<Item = (&[u8], &NamespaceCounters, Estimate)> {
        self.by_name.iter().map(|(name, Known { counters, curve })| {
            (&**name, counters, curve.as_ref().map_or(Estimate::default(), |curve| curve.estimate()))
        })
    }

    #[cold]
    fn begin(&mut self, name: &[u8]) {
        self.is_used = true;
        if self.by_name.len() >= NAMESPACES_COUNTED_MAX {
            // They are looked at one by one, so not for every one that comes when that helps little.
            if self.passed_over == 0 {
                let before = self.by_name.len();
                // Those that are empty are let go; what they were used for is forgotten with them.
                let limited = &self.limited;
                self.by_name.retain(|name, known| known.counters.items > 0 || limited.contains_key(name));
                self.curves = self.by_name.values().filter(|known| known.curve.is_some()).count();
                self.passed_over = (before - self.by_name.len() < NAMESPACES_COUNTED_MAX / 8) as usize;
            } else {
                self.passed_over = (self.passed_over + 1) % NAMESPACES_COUNTED_MAX;
            }
        }
        if self.by_name.len() < NAMESPACES_COUNTED_MAX {
            let curve = (self.curves < NAMESPACE_CURVES_MAX).then(Box::default);
            self.curves += curve.is_some() as usize;
            self.by_name.insert(name.into(), Known { curve, ..Known::default() });
        }
    }

    fn change(&mut self, name: &[u8], change: impl FnOnce(&mut NamespaceCounters)) {
        if let Some(known) = self.by_name.get_mut(name) {
            change(&mut known.counters);
        }
    }

    /// A key is looked up or written: the curve learns of it.
    fn used(&mut self, name: &[u8], hash: u64, is_look_up: bool, change: impl FnOnce(&mut NamespaceCounters)) {
        let Some(Known { counters, curve }) = self.by_name.get_mut(name) else { return };
        change(counters);
        if let Some(curve) = curve {
            let limits = self.limited.get(name).map(|domain| domain.limits).unwrap_or_default();
            let by_bytes =
                limits.bytes_max.checked_div(counters.bytes / counters.items.max(1)).filter(|&items| items > 0);
            let by_items = Some(limits.items_max).filter(|&items| items > 0);
            let capacity = by_items.into_iter().chain(by_bytes).min().unwrap_or(counters.items);
            curve.show(hash, is_look_up, capacity);
        }
    }

    #[inline(never)]
    pub fn added(&mut self, name: &[u8], bytes: usize, expires: bool) {
        // Who stores a key looks whether there are namespaces before there are any: the first write is counted here.
        let is_first = !self.is_used;
        if !self.by_name.contains_key(name) {
            self.begin(name);
        }
        self.items += 1;
        self.change(name, |counters| {
            counters.writes += is_first as u64;
            counters.items += 1;
            counters.bytes += bytes as u64;
            counters.expiring += expires as u64;
        });
    }

    #[inline(never)]
    pub fn removed(&mut self, name: &[u8], bytes: usize, expires: bool) {
        self.items -= 1;
        self.change(name, |counters| {
            // What was there before a namespace was counted has never been added.
            counters.items = counters.items.saturating_sub(1);
            counters.bytes = counters.bytes.saturating_sub(bytes as u64);
            counters.expiring = counters.expiring.saturating_sub(expires as u64);
        });
    }

    #[inline(never)]
    pub fn expiry_changed(&mut self, name: &[u8], before: bool, after: bool) {
        self.change(name, |counters| {
            counters.expiring = (counters.expiring + after as u64).saturating_sub(before as u64);
        });
    }

    #[inline(never)]
    pub fn resized(&mut self, name: &[u8], before: usize, after: usize) {
        self.change(name, |counters| counters.bytes = (counters.bytes + after as u64).saturating_sub(before as u64));
    }

    #[inline(never)]
    pub fn hit(&mut self, name: &[u8], hash: u64) {
        self.used(name, hash, true, |counters| counters.hits += 1);
    }

    #[inline(never)]
    pub fn missed(&mut self, name: &[u8], hash: u64) {
        if !self.by_name.contains_key(name) {
            self.begin(name);
        }
        self.used(name, hash, true, |counters| counters.misses += 1);
    }

    #[inline(never)]
    pub fn written(&mut self, name: &[u8], hash: u64) {
        self.used(name, hash, false, |counters| counters.writes += 1);
    }

    pub fn evicted(&mut self, name: &[u8]) {
        self.change(name, |counters| counters.evicted += 1);
    }

    /// All keys are gone.
    pub fn flushed(&mut self) {
        self.items = 0;
        for Known { counters, curve } in self.by_name.values_mut() {
            (counters.items, counters.bytes, counters.expiring) = (0, 0, 0);
            if let Some(curve) = curve {
                curve.flushed();
            }
        }
        for domain in self.limited.values_mut() {
            (domain.queue, domain.cursor) = (VecDeque::new(), 0);
            domain.queued = HashSet::with_hasher(self.hasher.clone());
        }
        self.queue_bytes = 0;
    }

    /// CONFIG RESETSTAT.
    pub fn reset(&mut self) {
        for Known { counters, curve } in self.by_name.values_mut() {
            let NamespaceCounters { items, bytes, expiring, .. } = *counters;
            *counters = NamespaceCounters { items, bytes, expiring, ..Default::default() };
            if let Some(curve) = curve {
                curve.forget();
            }
        }
    }
}
