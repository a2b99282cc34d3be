//! Who holds which keys of one core, and who waits for them, in the order in which they came.
//!
//! ```text
//!   queues    key a ─▶ [7, 9]        ticket 7 is first for all its keys: it is granted
//!             key b ─▶ [7]           ticket 9 waits for key a
//!   whole     a ticket for the whole core waits until no other is left, and all that come later wait behind it
//! ```

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

/// A place in the queues. Greater ones came later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[cfg(test)]
impl Ticket {
    pub fn for_test(number: u64) -> Ticket {
        Ticket(number)
    }
}

/// What a ticket is for: some keys, or all there are.
enum Claim {
    Keys(Vec<Bytes>),
    Whole,
}

struct Entry<W> {
    claim: Claim,
    /// Of its keys: those for which somebody else comes first.
    blocked_by: usize,
    /// What is done once it is granted; taken then.
    waiting: Option<W>,
}

/// The holds of one core. `W` is what waits.
///
/// A ticket is in the queue of each of its keys or, if it came behind one for the whole core, in `behind`.
pub struct Holds<W> {
    entries: BTreeMap<Ticket, Entry<W>>,
    queues: BTreeMap<Bytes, VecDeque<Ticket>>,
    /// Tickets for keys that stand in queues.
    queued: usize,
    /// The ticket for the whole core that is granted, or comes next.
    whole: Option<Ticket>,
    behind: VecDeque<Ticket>,
    next: u64,
}

impl<W> Default for Holds<W> {
    fn default() -> Holds<W> {
        Holds {
            entries: BTreeMap::new(),
            queues: BTreeMap::new(),
            queued: 0,
            whole: None,
            behind: VecDeque::new(),
            next: 0,
        }
    }
}

impl<W> Holds<W> {
    /// Whether nothing is held.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    #[cfg(test)]
    pub fn keys(&self) -> usize {
        self.queues.len()
    }

    /// Whether a command with these keys has to wait.
    pub fn block<'a>(&self, mut keys: impl Iterator<Item = &'a [u8]>) -> bool {
        self.whole.is_some() || keys.any(|key| self.queues.contains_key(key))
    }

    /// Asks for `keys`. The ticket, and what waits for it if that can go on now.
    pub fn claim(&mut self, mut keys: Vec<Bytes>, waiting: W) -> (Ticket, Option<W>) {
        keys.sort_unstable();
        keys.dedup();
        let ticket = self.enter(Claim::Keys(keys), waiting);
        match self.whole {
            Some(_) => self.behind.push_back(ticket),
            None => self.queue_up(ticket),
        }
        (ticket, self.granted(ticket))
    }

    /// Asks for everything.
    pub fn claim_whole(&mut self, waiting: W) -> (Ticket, Option<W>) {
        let ticket = self.enter(Claim::Whole, waiting);
        match self.whole {
            Some(_) => self.behind.push_back(ticket),
            None => self.whole = Some(ticket),
        }
        (ticket, self.granted(ticket))
    }

    /// Gives back what `ticket` holds. Who has waited for it and may go on now is added to `granted`, in the order
    /// in which they came.
    pub fn release(&mut self, ticket: Ticket, granted: &mut Vec<(Ticket, W)>) {
        let Some(entry) = self.entries.remove(&ticket) else { return };
        debug_assert!(entry.waiting.is_none(), "what was not granted is given back");
        let mut candidates = Vec::new();
        match entry.claim {
            Claim::Keys(keys) => {
                self.queued -= 1;
                for key in keys {
                    let Some(queue) = self.queues.get_mut(&key) else { continue };
                    debug_assert_eq!(queue.front(), Some(&ticket));
                    queue.pop_front();
                    match queue.front() {
                        None => drop(self.queues.remove(&key)),
                        Some(next) => {
                            candidates.push(*next);
                            if let Some(entry) = self.entries.get_mut(next) {
                                entry.blocked_by -= 1;
                            }
                        }
                    }
                }
                candidates.extend(self.whole);
            }
            Claim::Whole => {
                debug_assert_eq!(self.whole, Some(ticket));
                self.whole = None;
                while self.whole.is_none()
                    && let Some(next) = self.behind.pop_front()
                {
                    match self.entries[&next].claim {
                        Claim::Keys(_) => self.queue_up(next),
                        Claim::Whole => self.whole = Some(next),
                    }
                    candidates.push(next);
                }
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        for ticket in candidates {
            granted.extend(self.granted(ticket).map(|waiting| (ticket, waiting)));
        }
    }

    fn enter(&mut self, claim: Claim, waiting: W) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.entries.insert(ticket, Entry { claim, blocked_by: 0, waiting: Some(waiting) });
        ticket
    }

    /// Puts a ticket into the queues of all its keys.
    fn queue_up(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        let Claim::Keys(keys) = &entry.claim else { return };
        self.queued += 1;
        for key in keys {
            let queue = self.queues.entry(key.clone()).or_default();
            entry.blocked_by += !queue.is_empty() as usize;
            queue.push_back(ticket);
        }
    }

    /// What waits for `ticket`, if nothing stands in its way.
    fn granted(&mut self, ticket: Ticket) -> Option<W> {
        let is_behind = self.whole.is_some_and(|whole| whole < ticket);
        let queued = self.queued;
        let entry = self.entries.get_mut(&ticket)?;
        let is_free = match entry.claim {
            Claim::Keys(_) => entry.blocked_by == 0,
            Claim::Whole => queued == 0,
        };
        if is_free && !is_behind { entry.waiting.take() } else { None }
    }

    /// Compares the queues with the tickets.
    #[cfg(any(test, fuzzing))]
    pub fn validate(&self) {
        let mut queued = 0;
        for (ticket, entry) in &self.entries {
            let is_behind = self.behind.contains(ticket);
            assert_eq!(is_behind, self.whole.is_some_and(|whole| whole < *ticket));
            match &entry.claim {
                Claim::Whole => {
                    assert!(is_behind || self.whole == Some(*ticket));
                    assert_eq!(entry.waiting.is_none(), !is_behind && self.queued == 0);
                }
                Claim::Keys(keys) => {
                    queued += !is_behind as usize;
                    let others_first =
                        keys.iter().filter(|key| !is_behind && self.queues[*key].front() != Some(ticket));
                    assert_eq!(others_first.count(), entry.blocked_by);
                    assert_eq!(entry.waiting.is_none(), !is_behind && entry.blocked_by == 0);
                }
            }
        }
        assert_eq!(queued, self.queued);
        for queue in self.queues.values() {
            assert!(!queue.is_empty() && queue.iter().is_sorted());
            assert!(queue.iter().all(|ticket| self.entries.contains_key(ticket)));
        }
    }
}
