//! Passes over the index, a few buckets at a time: for what has expired, for SCAN, for who has not been used.

use super::{Found, Keyspace};
use crate::store::arena::ItemRef;
use crate::store::item::Head;
use crate::store::table::Position;

const DAY_MS: u64 = 86_400_000;
/// How far back the floor of expiries lies ([`Times::floor_ms`](crate::store::item::Times::floor_ms)).
pub(super) const FLOOR_BEHIND_MS: u64 = 14 * DAY_MS;
const FLOOR_STEP_MS: u64 = 7 * DAY_MS;

impl Keyspace {
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
            if let Some(expires_at_ms) = Head::read(slot).expires_at_ms(slot, self.times) {
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

    /// Visits the bucket at `cursor`; see [`Table::scan`].
    pub fn scan(&self, cursor: u64, now_ms: u64, mut visit: impl FnMut(&[u8])) -> u64 {
        self.scan_found(cursor, |key, found| {
            let expires_at_ms = found.head.expires_at_ms(self.arena.slot(found.item), self.times);
            if expires_at_ms.is_none_or(|expires_at_ms| now_ms <= expires_at_ms) {
                visit(key);
            }
        })
    }

    /// Visits the bucket at `cursor` whatever has expired; see [`Table::scan`].
    pub fn scan_found(&self, cursor: u64, mut visit: impl FnMut(&[u8], Found)) -> u64 {
        let step = self.table.scan(cursor);
        self.table.items_of(step.bucket).for_each(|item| self.arena.prefetch(item));
        for item in self.table.items_of(step.bucket) {
            let slot = self.arena.slot(item);
            let head = Head::read(slot);
            if step.is_ahead(|| self.hasher.hash(head.key(slot))) {
                // Its place in the index is not asked for.
                visit(head.key(slot), Found { at: Position::default(), item, head });
            }
        }
        step.next
    }

    /// Tells items that were not used for long so, about as many as `budget`, and lets the time go on in which items
    /// are used.
    pub fn sweep(&mut self, now_ms: u64, budget: usize) {
        let mut used = 0;
        while used < budget
            && let Some(cursor) = self.idle.next(now_ms)
        {
            let step = self.table.scan(cursor);
            self.table.items_of(step.bucket).for_each(|item| self.arena.prefetch(item));
            for item in self.table.items_of(step.bucket) {
                used += 1;
                let slot = self.arena.slot(item);
                let head = Head::read(slot);
                let aged = self.idle.aged(head.used());
                if aged != head.used() && step.is_ahead(|| self.hasher.hash(head.key(slot))) {
                    Head::set_used(self.arena.slot_mut(item), aged);
                }
            }
            used += 1;
            self.idle.swept(step.next);
        }
        self.times.used = self.idle.now();
    }

    /// Keeps the floor of expiries two weeks behind the clock. To be called when everything that has expired by
    /// `now_ms` is gone: the floor moves by a week at most, and by no more before that has been so again.
    pub fn raise_floor(&mut self, now_ms: u64) {
        let wanted = now_ms.saturating_sub(FLOOR_BEHIND_MS);
        if !self.has_expiries() || self.times.floor_ms == 0 {
            self.times.floor_ms = wanted;
        } else if wanted > self.times.floor_ms {
            self.times.floor_ms = wanted.min(self.times.floor_ms + FLOOR_STEP_MS);
        }
    }
}
