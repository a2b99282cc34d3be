//! Making room: which items go when memory runs out, and how what is left is kept together.
//!
//! Every write that finds little room judges about twice as many bytes as it brought, so the work is spread
//! evenly and nobody waits for it. Judging goes through the oldest segment of a queue item by item; a segment
//! whose items have all gone is free, one whose items mostly stay is put to the new end of a queue as it is, and
//! only the few that stay in the others are moved.

use super::arena::{self, Kind, SIZES, SegmentRef};
use super::evict::what_if::WhatIf;
use super::evict::windows::WINDOWS;
use super::evict::{Eviction, History, Worth, miniature, sample_mask, sampled_one_in, sketch_bytes_per_item};
use super::item::Head;
use super::keyspace::{Found, Keyspace};
use super::{Effects, Removal, ShardCounters};
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::namespace;

/// With this many segments left to fill nothing has to be done.
const COMFORT: u64 = 4;
/// With fewer than this the next write may not find room: work goes on until there are so many again …
const DISTRESS: u64 = 3;
/// … or this many items were judged.
const JUDGED_MAX: usize = 30_000;
/// Whoever has room for the next write stops after so many items, well below a millisecond. What is missing is owed:
/// writes and ticks that follow judge more than they bring until it is made up for.
const JUDGED_AT_ONCE: usize = 1_000;
/// What emptying a segment counts as.
const CLEANED_ITEMS: usize = JUDGED_AT_ONCE;
/// A large value makes so much room for itself at once.
const JUDGED_BYTES_MAX: usize = 8 << 20;
/// What every write judges besides while memory is owed.
const JUDGED_IN_DEBT: usize = 2048;
/// Judged by each write besides in proportion to what it brought.
const JUDGED_BYTES_MIN: usize = 256;
/// Items a search for a victim may move out of its way.
const PROMOTIONS_MAX: usize = 64;
/// A segment whose live items fill so much of it stays as it is, in parts of 16.
const FULL_ENOUGH: usize = 15;
/// Segments that are emptier than this, in parts of 16, are worth cleaning while there is room …
const SPARSE: usize = 11;
/// … and these when there is little.
const SPARSE_PRESSED: usize = 14;
/// When there is little room and more than one part in so many is gaps, they are closed before anything is evicted.
const GAPS_PARTS: u64 = 14;
/// Segments looked at to find one to clean.
const CLEAN_LOOKS: usize = 32;
/// Free segments that are kept for whoever writes next.
const FREE_KEPT: usize = 16;
/// What giving a segment back or cleaning one takes of a tick's budget.
const TRIM_COST: usize = 64;
const CLEAN_COST: usize = 256;

/// What lies under the hand of a queue once everything that needs no decision is out of the way.
struct Judged {
    segment: SegmentRef,
    found: Found,
    hash: u64,
    bytes: usize,
}

impl Keyspace {
    /// Sets the ceiling and what happens below it. What is too much goes with the next writes and ticks.
    pub fn set_limit(&mut self, bytes_max: u64, eviction: Eviction) {
        self.bytes_max = bytes_max;
        if eviction != self.eviction {
            self.forget_history();
        }
        self.eviction = eviction;
        // Where nothing may be evicted, nothing can be made up for later either.
        self.arena.keep_in_debt(if eviction == Eviction::None { 0 } else { DISTRESS as usize });
        self.is_pressed = true;
        self.update_room();
    }

    pub(super) fn forget_history(&mut self) {
        self.history = None;
        self.what_if = None;
        self.sample_mask = u64::MAX;
    }

    /// The part of the items that may be new, in percent.
    pub(super) fn window_percent(&self) -> usize {
        match (self.eviction, &self.history) {
            (Eviction::TinyLfu, Some(history)) => history.window_percent(),
            (Eviction::TinyLfu, None) => WINDOWS[0],
            (Eviction::Lru | Eviction::None, _) => 100,
        }
    }

    /// Tells the arena what is left for it, and starts remembering what is asked for in time.
    fn update_room(&mut self) {
        if self.bytes_max == u64::MAX {
            return self.arena.set_bytes_max(u64::MAX);
        }
        let room = self.bytes_max.saturating_sub(self.bytes_beside_arena()).min(arena::BYTES_MAX);
        self.arena.set_bytes_max(room);
        if self.eviction == Eviction::None || self.what_if.is_none() && self.arena.bytes() < room / 2 {
            return;
        }
        // Half full is early enough to know who is asked for when the first has to go.
        let items = self.len();
        let item_bytes = self.arena.item_bytes();
        let capacity = (items as u128 * room as u128 / item_bytes.max(1) as u128).min(u32::MAX as u128) as u64;
        match &mut self.history {
            Some(history) => history.fit(items, item_bytes, capacity),
            None if self.eviction == Eviction::TinyLfu => {
                self.history = History::new(items, item_bytes, capacity).map(Box::new);
            }
            None => {}
        }
        let sampled_one_in = sampled_one_in(capacity);
        self.sample_mask = sample_mask(sampled_one_in);
        let window_percent = self.window_percent();
        let is_new = self.what_if.is_none();
        if is_new {
            self.what_if = WhatIf::new(self.bytes_max, self.look_ups).map(Box::new);
        }
        let Some(what_if) = &mut self.what_if else { return };
        what_if.fit(capacity, window_percent, sketch_bytes_per_item(items, item_bytes), sampled_one_in);
        if is_new {
            self.arena.set_bytes_max(self.bytes_max.saturating_sub(self.bytes_beside_arena()).min(arena::BYTES_MAX));
        }
    }

    /// Whether there is so little room that every write has to make some.
    pub(super) fn is_short(&self) -> bool {
        self.bytes_max != u64::MAX && self.arena.segments_left() <= COMFORT
    }

    /// To be called after every write, which brought `bytes`.
    #[inline(always)]
    pub fn settle<E: Effects>(&mut self, bytes: usize, now_ms: u64, counters: &mut ShardCounters, effects: &mut E) {
        if self.is_pressed || self.arena.opened() != self.opened_seen {
            self.make_room(bytes, now_ms, counters, effects);
        }
    }

    /// Looks at the room that is left, and makes some when it is little.
    #[inline(never)]
    pub fn make_room<E: Effects>(&mut self, bytes: usize, now_ms: u64, counters: &mut ShardCounters, effects: &mut E) {
        self.opened_seen = self.arena.opened();
        self.update_room();
        while self.arena.is_over() && self.arena.trim(0) {}
        self.is_pressed = self.arena.is_over() || self.arena.segments_left() < COMFORT;
        if !self.is_pressed {
            return;
        }
        let mut left_to_judge = (2 * bytes + JUDGED_BYTES_MIN).min(JUDGED_BYTES_MAX);
        if self.arena.is_over() {
            left_to_judge += JUDGED_IN_DEBT;
        }
        let mut judged_items = 0;
        while judged_items < JUDGED_MAX {
            while self.arena.is_over() && self.arena.trim(0) {}
            let left = self.arena.segments_left();
            let is_enough = left >= COMFORT && !self.arena.is_over();
            if is_enough || left >= DISTRESS && (left_to_judge == 0 || judged_items >= JUDGED_AT_ONCE) {
                break;
            }
            if self.close_gaps() {
                judged_items += CLEANED_ITEMS;
                left_to_judge = left_to_judge.saturating_sub(self.arena.segment_bytes());
                continue;
            }
            let Some(judged) = self.reclaim_step(now_ms, counters, effects) else { break };
            judged_items += 1;
            left_to_judge = left_to_judge.saturating_sub(judged.max(1));
            if judged >= LARGE_VALUE_BYTES_MIN || self.arena.segments_left() != left {
                self.update_room();
            }
        }
        while self.arena.is_over() && self.arena.trim(0) {}
        self.opened_seen = self.arena.opened();
    }

    /// The same without a write, for what ticks may do. Returns what was used of the budget.
    pub fn tidy<E: Effects>(
        &mut self,
        budget: usize,
        now_ms: u64,
        counters: &mut ShardCounters,
        effects: &mut E,
    ) -> usize {
        let mut used = 0;
        self.update_room();
        while used < budget && (self.arena.is_over() || self.arena.segments_left() < COMFORT) {
            while self.arena.is_over() && self.arena.trim(0) {
                used += TRIM_COST;
            }
            if self.close_gaps() {
                used += CLEAN_COST;
                continue;
            }
            if self.reclaim_step(now_ms, counters, effects).is_none() {
                break;
            }
            used += 1;
            if used.is_multiple_of(64) {
                self.update_room();
            }
        }
        while used < budget && self.is_sparse() && self.clean(SPARSE) {
            used += CLEAN_COST;
        }
        while used < budget && self.arena.trim(FREE_KEPT) {
            used += TRIM_COST;
        }
        used.min(budget)
    }

    /// Whether gaps are so much of the arena that moving items together pays.
    fn is_sparse(&self) -> bool {
        let dead = self.arena.dead_bytes();
        dead > self.arena.item_bytes() / 3 && dead > 16 * self.arena.segment_bytes() as u64
    }

    /// Places of items that are gone anyhow come before items that are there: where there are many, empties a segment.
    fn close_gaps(&mut self) -> bool {
        let dead = self.arena.dead_bytes();
        dead * GAPS_PARTS > self.arena.item_bytes() + dead && self.clean(SPARSE_PRESSED)
    }

    /// Judges one item. Returns the bytes that were judged, `None` when nothing can be done.
    fn reclaim_step<E: Effects>(
        &mut self,
        now_ms: u64,
        counters: &mut ShardCounters,
        effects: &mut E,
    ) -> Option<usize> {
        if self.eviction == Eviction::None || self.is_empty() {
            return None;
        }
        let (window, total) = (self.arena.kind_bytes(Kind::Window), self.arena.item_bytes());
        let window_max = total * self.window_percent() as u64 / 100;
        let has_admitted = total > window;
        if window > window_max + 2 * self.arena.segment_bytes() as u64
            && let Some(oldest) = self.oldest(Kind::Window)
            && !self.arena.is_newest(oldest)
        {
            // The window has just become smaller, or was not full before: no contests for those.
            self.arena.requeue(oldest, Kind::Probation);
            return Some(1);
        }
        if has_admitted && (self.eviction == Eviction::Lru || window <= window_max) {
            let Some(victim) = self.victim(now_ms, counters, effects) else { return Some(1) };
            let bytes = victim.bytes;
            self.evict(victim, counters, effects);
            return Some(bytes);
        }
        let candidate = self.candidate(now_ms, counters, effects)?;
        let bytes = candidate.bytes;
        // Looking for the victim may move and remove items, but never those of the window.
        let victim = if has_admitted { self.victim(now_ms, counters, effects) } else { None };
        let candidate = self.again(candidate);
        let Some(victim) = victim else {
            self.evict(candidate, counters, effects);
            return Some(bytes);
        };
        if self.worth(&candidate).beats(self.worth(&victim)) {
            counters.admitted += 1;
            // The index may have changed with the victim.
            self.evict(victim, counters, effects);
            let candidate = self.again(candidate);
            self.pass(&candidate);
            if !self.relocate(candidate.found, Kind::Probation, false) {
                self.remove_evicted(candidate.found, counters, effects);
            }
        } else {
            counters.rejected += 1;
            self.pass(&victim);
            self.evict(candidate, counters, effects);
        }
        Some(bytes)
    }

    fn worth(&self, item: &Judged) -> Worth {
        let frequency = self.history.as_ref().map_or(0, |history| history.sketch.estimate(item.hash));
        Worth::new(frequency, item.bytes)
    }

    /// The same item after the index has changed.
    fn again(&self, item: Judged) -> Judged {
        let (_, found) = self.look_at(item.found.item);
        Judged { found, ..item }
    }

    fn evict<E: Effects>(&mut self, item: Judged, counters: &mut ShardCounters, effects: &mut E) {
        self.pass(&item);
        self.remove_evicted(item.found, counters, effects);
    }

    /// Moves the hand past an item, unless it is past it already. To be done before the item goes: its segment
    /// may go with it.
    fn pass(&mut self, item: &Judged) {
        if self.arena.under_hand(item.segment) == Some(item.found.item) {
            self.arena.pass(item.segment, item.found.head.item_bytes());
        }
    }

    pub(super) fn remove_evicted<E: Effects>(&mut self, found: Found, counters: &mut ShardCounters, effects: &mut E) {
        let slot = self.arena.slot(found.item);
        effects.remove(found.head.key(slot), Removal::Evicted);
        if found.head.is_namespaced()
            && let Some(name) = namespace::name_of(found.head.key(slot))
        {
            self.namespaces.evicted(name);
        }
        self.remove(found);
        counters.evicted += 1;
        counters.writes += 1;
    }

    /// The oldest segment of a kind, of whatever size.
    fn oldest(&self, kind: Kind) -> Option<SegmentRef> {
        let oldest = (0..SIZES).filter_map(|size| self.arena.oldest(kind, size));
        oldest.min_by_key(|&segment| self.arena.born(segment))
    }

    /// The next live item under the hand of a segment that has not expired; `None` at the end.
    fn next_live<E: Effects>(
        &mut self,
        segment: SegmentRef,
        now_ms: u64,
        counters: &mut ShardCounters,
        effects: &mut E,
    ) -> Option<Judged> {
        while let Some(item) = self.arena.under_hand(segment) {
            #[cfg(test)]
            {
                self.worked += 1;
            }
            let slot = self.arena.slot(item);
            let head = Head::read_any(slot);
            if !head.is_live() {
                self.arena.pass(segment, head.item_bytes());
                continue;
            }
            let hash = self.hasher.hash(head.key(slot));
            let expires_at_ms = if head.has_expiry() { head.expires_at_ms(slot, self.times) } else { None };
            let found = self.locate(hash, item, head);
            if expires_at_ms.is_some_and(|expires_at_ms| now_ms > expires_at_ms) {
                self.arena.pass(segment, head.item_bytes());
                effects.remove(head.key(self.arena.slot(item)), Removal::Expired);
                self.remove(found);
                counters.expired_active += 1;
                counters.writes += 1;
                continue;
            }
            let bytes = head.item_bytes() + self.bytes_apart(found);
            return Some(Judged { segment, found, hash, bytes });
        }
        None
    }

    /// The oldest of the window that nobody asked for a second time.
    fn candidate<E: Effects>(&mut self, now_ms: u64, counters: &mut ShardCounters, effects: &mut E) -> Option<Judged> {
        let mut chances = miniature::SECOND_CHANCES;
        loop {
            let segment = self.oldest(Kind::Window)?;
            let Some(next) = self.next_live(segment, now_ms, counters, effects) else {
                // Only what could not be moved is left; it is judged again.
                self.arena.rewind(segment);
                chances = chances.checked_sub(1)?;
                continue;
            };
            if !next.found.head.is_visited() || chances == 0 {
                return Some(next);
            }
            chances -= 1;
            self.pass(&next);
            if !self.relocate(next.found, Kind::Window, false) {
                self.arena.rewind(segment);
                return self.candidate_without_room(now_ms, counters, effects);
            }
        }
    }

    /// With no room to move anything, whoever is first has to go.
    fn candidate_without_room<E: Effects>(
        &mut self,
        now_ms: u64,
        counters: &mut ShardCounters,
        effects: &mut E,
    ) -> Option<Judged> {
        let segment = self.oldest(Kind::Window)?;
        self.next_live(segment, now_ms, counters, effects)
    }

    /// The admitted item that is worth least among the first of each size.
    fn victim<E: Effects>(&mut self, now_ms: u64, counters: &mut ShardCounters, effects: &mut E) -> Option<Judged> {
        let (probation, protected) = (self.arena.kind_bytes(Kind::Probation), self.arena.kind_bytes(Kind::Protected));
        let protected_max = (probation + protected) * miniature::PROTECTED_PERCENT as u64 / 100;
        if (protected > protected_max || probation == 0)
            && let Some(oldest) = self.oldest(Kind::Protected)
        {
            // Those that were used since keep their mark and will come back.
            self.arena.requeue(oldest, Kind::Probation);
        }
        let mut least: Option<(Worth, Judged)> = None;
        for size in 0..SIZES {
            let Some(first) = self.first_of(size, now_ms, counters, effects) else { continue };
            let worth = self.worth(&first);
            if least.as_ref().is_none_or(|(least, _)| worth.goes_before(*least)) {
                least = Some((worth, first));
            }
        }
        // What the search moved or removed may have changed the index.
        least.map(|(_, least)| self.again(least))
    }

    /// The first of a probation queue that was not used since it was judged last; those that were are protected.
    fn first_of<E: Effects>(
        &mut self,
        size: usize,
        now_ms: u64,
        counters: &mut ShardCounters,
        effects: &mut E,
    ) -> Option<Judged> {
        let mut promotions = PROMOTIONS_MAX;
        loop {
            let segment = self.arena.oldest(Kind::Probation, size)?;
            let Some(next) = self.next_live(segment, now_ms, counters, effects) else {
                self.finish(segment);
                promotions = promotions.checked_sub(1)?;
                continue;
            };
            if !next.found.head.is_visited() || promotions == 0 {
                return Some(next);
            }
            promotions -= 1;
            self.pass(&next);
            if !self.relocate(next.found, Kind::Protected, false) {
                // No room to keep it.
                return Some(next);
            }
        }
    }

    /// All items of a probation segment were judged, and some of them stay.
    fn finish(&mut self, segment: SegmentRef) {
        let (live, used) = self.arena.fill(segment);
        if used == 0 {
            return;
        }
        if live * 16 >= used * FULL_ENOUGH || !self.empty(segment) {
            self.arena.requeue(segment, Kind::Probation);
        }
    }

    /// Moves all items of a segment to the new end of its queue; false when there is no room.
    fn empty(&mut self, segment: SegmentRef) -> bool {
        self.arena.rewind(segment);
        let is_newest = self.arena.is_newest(segment);
        if is_newest {
            return false;
        }
        while let Some(item) = self.arena.under_hand(segment) {
            let slot = self.arena.slot(item);
            let head = Head::read_any(slot);
            if head.is_live() {
                let hash = self.hasher.hash(head.key(slot));
                let found = self.locate(hash, item, head);
                let (kind, _) = self.arena.place_of(item);
                self.arena.pass(segment, head.item_bytes());
                if !self.relocate(found, kind, head.is_visited()) {
                    self.arena.rewind(segment);
                    return false;
                }
            } else {
                self.arena.pass(segment, head.item_bytes());
            }
        }
        true
    }

    /// Empties the sparsest of a few segments, if less than `parts` of 16 of it are live items.
    fn clean(&mut self, parts: usize) -> bool {
        let mut sparsest: Option<(usize, SegmentRef)> = None;
        for _ in 0..CLEAN_LOOKS {
            self.clean_at = self.clean_at.wrapping_add(1);
            let Some(segment) = self.arena.segment(self.clean_at) else { continue };
            if self.arena.is_newest(segment) || self.arena.is_being_judged(segment) {
                continue;
            }
            let (live, _) = self.arena.fill(segment);
            if live * 16 < self.arena.segment_bytes() * parts && sparsest.is_none_or(|(least, _)| live < least) {
                sparsest = Some((live, segment));
            }
        }
        sparsest.is_some_and(|(_, segment)| self.empty(segment))
    }
}
