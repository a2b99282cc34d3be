//! Which transactions over several cores can no longer be taken back, while a server runs.
//!
//! A transaction leaves a part in the log of every core that it writes to. After a crash it has to be there whole or
//! not at all, so what comes behind a part in a log is only as safe as the part is: recovery
//! ([`survey`](super::survey)) ends a log before the first part whose transaction is not whole.
//!
//! ```text
//!   core 0   groups  … 6 │ 7 [T begins, finishes] │ 8 …      synced up to 8, but T is not whole: settled up to 6
//!   core 1   groups  … 3 │ 4 [T begins, finishes] │          synced up to 3
//!                                        └─ once 4 is synced: core 0 is settled up to 8, core 1 up to 4
//! ```
//!
//! *Settled* are the most groups of all logs, within what is synced, that no part leads out of: whatever else a crash
//! takes, these stay. Replies wait for that, not for their own core's sync alone.

use std::collections::HashMap;

use super::record::TransactionId;

struct Part {
    core: u32,
    begins: u64,
    finishes: Option<u64>,
}

struct Open {
    /// How many cores have a part.
    cores: usize,
    parts: Vec<Part>,
}

impl Open {
    /// Whether all of it is in groups up to these.
    fn is_within(&self, groups: &[u64]) -> bool {
        let is_in = |part: &Part| part.finishes.is_some_and(|group| group <= groups[part.core as usize]);
        self.parts.len() == self.cores && self.parts.iter().all(is_in)
    }
}

/// Of all cores; groups are counted from the start of the server.
pub struct Ledger {
    synced: Vec<u64>,
    settled: Vec<u64>,
    failed: Vec<bool>,
    open: HashMap<TransactionId, Open>,
}

impl Ledger {
    pub fn new(cores: usize) -> Ledger {
        Ledger { synced: vec![0; cores], settled: vec![0; cores], failed: vec![false; cores], open: HashMap::new() }
    }

    /// The part of `core` begins in its group `group`; so many cores have parts.
    pub fn begin(&mut self, id: TransactionId, cores: usize, core: u32, group: u64) {
        let open = self.open.entry(id).or_insert_with(|| Open { cores, parts: Vec::with_capacity(cores) });
        debug_assert!(open.parts.iter().all(|part| part.core != core));
        open.parts.push(Part { core, begins: group, finishes: None });
    }

    pub fn finish(&mut self, id: TransactionId, core: u32, group: u64) {
        let parts = self.open.get_mut(&id).map(|open| open.parts.iter_mut());
        if let Some(part) = parts.and_then(|mut parts| parts.find(|part| part.core == core)) {
            part.finishes = Some(group);
        }
    }

    /// The groups of `core` up to this one are synced. What is settled now, by core.
    pub fn synced(&mut self, core: u32, group: u64) -> &[u64] {
        let known = &mut self.synced[core as usize];
        *known = group.max(*known);
        let mut groups = self.synced.clone();
        loop {
            let mut is_stable = true;
            for open in self.open.values().filter(|open| !open.is_within(&groups)).collect::<Vec<_>>() {
                for part in &open.parts {
                    let group = &mut groups[part.core as usize];
                    if part.begins <= *group {
                        *group = part.begins - 1;
                        is_stable = false;
                    }
                }
            }
            if is_stable {
                break;
            }
        }
        self.open.retain(|_, open| !open.is_within(&groups));
        debug_assert!(self.settled.iter().zip(&groups).all(|(before, now)| before <= now));
        self.settled = groups;
        &self.settled
    }

    pub fn settled(&self) -> &[u64] {
        &self.settled
    }

    /// The log of `core` has ended for good.
    pub fn fail(&mut self, core: u32) {
        self.failed[core as usize] = true;
    }

    /// A core that has failed before a transaction was whole of which this one has a part: nothing behind that part
    /// can be promised any more.
    pub fn is_dragged_down(&self, core: u32) -> Option<u32> {
        let of_both = self.open.values().filter(|open| open.parts.iter().any(|part| part.core == core));
        of_both.flat_map(|open| &open.parts).map(|part| part.core).find(|&other| self.failed[other as usize])
    }

    /// Transactions that may still be taken back.
    pub fn open(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> TransactionId {
        TransactionId { origin: 1, number }
    }

    #[test]
    fn a_group_is_settled_when_no_part_leads_out_of_what_is_synced() {
        let mut ledger = Ledger::new(3);
        assert_eq!(ledger.synced(0, 5), [5, 0, 0]);
        ledger.begin(id(1), 2, 0, 7);
        ledger.begin(id(1), 2, 1, 4);
        ledger.finish(id(1), 0, 8);
        ledger.finish(id(1), 1, 4);
        assert_eq!(ledger.synced(0, 8), [6, 0, 0]);
        assert_eq!(ledger.synced(1, 3), [6, 3, 0]);
        assert_eq!(ledger.synced(1, 4), [8, 4, 0]);
        assert_eq!(ledger.open(), 0);
    }

    #[test]
    fn what_one_transaction_holds_up_holds_up_those_behind_it() {
        let mut ledger = Ledger::new(3);
        // The first is not whole on core 1; the second is behind it on core 0, and whole on core 2.
        for (number, other) in [(1, 1), (2, 2)] {
            ledger.begin(id(number), 2, 0, number);
            ledger.finish(id(number), 0, number);
            ledger.begin(id(number), 2, other, 1);
            ledger.finish(id(number), other, 1);
        }
        assert_eq!(ledger.synced(0, 2), [0, 0, 0]);
        assert_eq!(ledger.synced(2, 1), [0, 0, 0], "the first is still open, and the second is behind it");
        assert_eq!(ledger.synced(1, 1), [2, 1, 1]);
    }

    #[test]
    fn a_part_that_is_not_finished_or_not_known_yet_is_not_whole() {
        let mut ledger = Ledger::new(2);
        ledger.begin(id(1), 2, 0, 1);
        ledger.finish(id(1), 0, 1);
        assert_eq!(ledger.synced(0, 3), [0, 0]);
        ledger.begin(id(1), 2, 1, 9);
        assert_eq!(ledger.synced(1, 9), [0, 8]);
        ledger.fail(1);
        assert_eq!(ledger.is_dragged_down(0), Some(1));
        ledger.finish(id(1), 1, 10);
        assert_eq!(ledger.synced(1, 10), [3, 10]);
        assert_eq!(ledger.is_dragged_down(0), None);
    }
}
