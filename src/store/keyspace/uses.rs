//! Who was asked for, and how often: told to the items, to the history, and to what-if.

use super::{Found, Keyspace, RECENT_MISSES};
use crate::store::arena::ItemRef;
use crate::store::evict::what_if::Estimate;
use crate::store::item::Head;

impl Keyspace {
    /// What the hit ratio would be with other ceilings.
    pub fn what_if(&self) -> Estimate {
        self.what_if.as_ref().map_or(Estimate::default(), |what_if| what_if.estimate())
    }

    /// So many keys were looked up so far; to be said now and then.
    pub fn count_look_ups(&mut self, look_ups: u64) {
        self.look_ups = look_ups;
        if let Some(what_if) = &mut self.what_if {
            what_if.count(look_ups);
        }
    }

    /// The key of `found` was asked for (a look-up), or written.
    #[inline(always)]
    pub fn touch(&mut self, hash: u64, found: Found, is_look_up: bool) {
        if !found.head.is_used(self.times) {
            self.touch_first(hash, found.item, found.head.is_visited());
        }
        if hash & self.sample_mask == 0 {
            self.play(hash, is_look_up);
        }
    }

    #[inline(never)]
    fn touch_first(&mut self, hash: u64, item: ItemRef, is_visited: bool) {
        let slot = self.arena.slot_mut(item);
        Head::set_used(slot, self.times.used);
        if is_visited {
            return;
        }
        Head::set_visited(slot, true);
        if let Some(history) = &mut self.history {
            history.sketch.count(hash);
        }
    }

    #[inline(never)]
    fn play(&mut self, hash: u64, is_look_up: bool) {
        if let Some(history) = &mut self.history {
            history.play(hash);
        }
        if let Some(what_if) = &mut self.what_if {
            what_if.show(hash, is_look_up);
        }
    }

    /// A key that is not there was asked for.
    #[inline(always)]
    pub fn missed(&mut self, hash: u64) {
        if self.what_if.is_some() {
            self.note_miss(hash);
        }
    }

    #[inline(never)]
    fn note_miss(&mut self, hash: u64) {
        self.recent_misses[hash as usize % RECENT_MISSES] = (hash >> 24) as u32;
        self.note_use(hash, true);
    }

    /// A key that is not there is about to be.
    pub(super) fn arrives(&mut self, hash: u64) {
        let miss = &mut self.recent_misses[hash as usize % RECENT_MISSES];
        if *miss == (hash >> 24) as u32 {
            *miss = 0;
        } else {
            self.note_use(hash, false);
        }
        if let Some(history) = &mut self.history {
            history.sketch.fit(self.table.len());
        }
    }

    fn note_use(&mut self, hash: u64, is_look_up: bool) {
        if let Some(history) = &mut self.history {
            history.sketch.count(hash);
        }
        if hash & self.sample_mask == 0 {
            self.play(hash, is_look_up);
        }
    }

    /// How often the key was asked for lately, as far as anybody remembers.
    pub fn frequency(&self, hash: u64, found: Found) -> u32 {
        let counted = self.history.as_ref().map_or(0, |history| history.sketch.estimate(hash));
        counted + found.head.is_visited() as u32
    }

    /// How long the key has not been used, as far as is known; see [`idle`](super::idle).
    pub fn idle_ms(&self, found: Found) -> u64 {
        self.idle.idle_ms(found.head.used())
    }
}
