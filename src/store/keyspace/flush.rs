//! Forgetting everything at once, and giving its memory back bit by bit.

use super::Keyspace;
use crate::store::arena::Arena;
use crate::store::deadlines::Deadlines;
use crate::store::large::LargeValues;
use crate::store::table::Table;

/// What a flush left behind, given back bit by bit.
#[derive(Default)]
pub(super) struct Retired {
    pub(super) tables: Vec<Table>,
    pub(super) arenas: Vec<Arena>,
    pub(super) larges: Vec<LargeValues>,
}

/// Pieces of retired memory given back by each flush itself: more than an empty keyspace has, so that
/// flushing again and again does not pile them up.
const RELEASED_BY_FLUSH: usize = 4;

impl Keyspace {
    /// Forgets all keys at once. Their memory goes back in steps of [`release`](Self::release).
    pub fn flush(&mut self) {
        if self.is_empty() && self.arena.bytes() == 0 {
            return;
        }
        let fresh = self.arena.another();
        self.retired.arenas.push(std::mem::replace(&mut self.arena, fresh));
        self.retired.larges.push(std::mem::replace(&mut self.large, LargeValues::new()));
        let table = Table::new().unwrap_or_else(|| {
            self.retired = Retired::default();
            Table::new().expect("2 MiB for the index, after all items went back to the kernel")
        });
        self.retired.tables.push(std::mem::replace(&mut self.table, table));
        self.deadlines = Deadlines::default();
        self.keys_in_slot.fill(0);
        self.keys_with_expiry = 0;
        self.key_bytes = 0;
        self.inline_bytes = 0;
        self.namespaces.flushed();
        self.forget_history();
        self.opened_seen = 0;
        self.is_pressed = self.bytes_max != u64::MAX;
        for _ in 0..RELEASED_BY_FLUSH {
            self.release();
        }
    }

    /// Gives one piece of what a flush left behind back to the system; false when nothing is left.
    pub fn release(&mut self) -> bool {
        let Retired { tables, arenas, larges } = &mut self.retired;
        fn step<T>(retired: &mut Vec<T>, dismantle: impl Fn(&mut T) -> bool) -> bool {
            while let Some(last) = retired.last_mut() {
                if dismantle(last) {
                    return true;
                }
                retired.pop();
            }
            false
        }
        step(arenas, Arena::dismantle) || step(tables, Table::dismantle) || step(larges, LargeValues::dismantle)
    }
}
