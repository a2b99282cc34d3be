//! Who has read which keys of one core, or wants to hear of all keys with a prefix: what client-side caches are built
//! upon. Sends nothing; it says who has to be told.
//!
//! ```text
//!   keys      key ─▶ [session, session]        read since it was last written; gone when it is
//!   prefixes  prefix ─▶ {session, session}     for ever
//! ```
//!
//! A session is a number that is never used again: one client from CLIENT TRACKING ON to OFF. What a session that has
//! ended leaves in `keys` is swept up bit by bit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::limits;

/// What an entry takes beside its key and its readers.
const KEY_BYTES: usize = 96;

struct Read {
    /// Tells this entry from earlier ones of the key.
    born: u64,
    /// Ascending.
    sessions: Vec<u64>,
}

/// The tracking table of one core.
#[derive(Default)]
pub struct Tracking {
    keys: BTreeMap<Bytes, Read>,
    /// The oldest first; entries that are gone are left out in passing.
    order: VecDeque<(u64, Bytes)>,
    next_born: u64,
    /// 0 for any number.
    keys_max: usize,
    /// Sessions of all keys together.
    items: usize,
    key_bytes: usize,
    prefixes: BTreeMap<Bytes, BTreeSet<u64>>,
    /// How long they are, and how many of them are so long.
    prefix_lengths: BTreeMap<usize, usize>,
    /// Sessions that have ended since the sweep under way began, and those that it takes away.
    ended: BTreeSet<u64>,
    swept: BTreeSet<u64>,
    /// The last key that it has looked at.
    sweep_at: Option<Bytes>,
}

impl Tracking {
    pub fn set_keys_max(&mut self, keys_max: usize) {
        self.keys_max = keys_max;
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty()
    }

    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    pub fn items(&self) -> usize {
        self.items
    }

    pub fn prefixes(&self) -> usize {
        self.prefixes.len()
    }

    /// What the keys take, with their readers.
    fn bytes(&self) -> usize {
        self.key_bytes + self.keys.len() * KEY_BYTES + self.items * size_of::<u64>()
    }

    fn bytes_max(&self) -> usize {
        if self.keys_max > 0 { self.keys_max * limits::TRACKED_KEY_BYTES } else { usize::MAX }
    }

    fn is_full(&self) -> bool {
        self.keys_max > 0 && self.keys.len() >= self.keys_max
    }

    /// `session` reads `key`. When the table is full the oldest keys are given up: their readers, who have to be told.
    pub fn read(&mut self, key: &[u8], session: u64) -> Vec<(Bytes, Vec<u64>)> {
        let mut given_up = Vec::new();
        while self.is_full() && !self.keys.contains_key(key) || self.bytes() > self.bytes_max() {
            match self.give_up_oldest() {
                Some(oldest) => given_up.push(oldest),
                None => break,
            }
        }
        if let Some(read) = self.keys.get_mut(key) {
            if let Err(place) = read.sessions.binary_search(&session) {
                read.sessions.insert(place, session);
                self.items += 1;
            }
            return given_up;
        }
        let key = Bytes::copy_from_slice(key);
        self.next_born += 1;
        self.key_bytes += key.len();
        self.keys.insert(key.clone(), Read { born: self.next_born, sessions: vec![session] });
        self.items += 1;
        self.order.push_back((self.next_born, key));
        if self.order.len() > 2 * self.keys.len() + 64 {
            let keys = &self.keys;
            self.order.retain(|(born, key)| keys.get(key).is_some_and(|read| read.born == *born));
        }
        given_up
    }

    fn give_up_oldest(&mut self) -> Option<(Bytes, Vec<u64>)> {
        while let Some((born, key)) = self.order.pop_front() {
            if self.keys.get(&key).is_some_and(|read| read.born == born) {
                let sessions = self.take(&key)?;
                return Some((key, sessions));
            }
        }
        None
    }

    fn take(&mut self, key: &[u8]) -> Option<Vec<u64>> {
        let read = self.keys.remove(key)?;
        self.items -= read.sessions.len();
        self.key_bytes -= key.len();
        Some(read.sessions)
    }

    /// `key` has changed, or is gone: who has to be told of it, without `writer`.
    pub fn written(&mut self, key: &[u8], writer: u64) -> Vec<u64> {
        let mut told = self.take(key).unwrap_or_default();
        // However many prefixes there are, few of them are of different lengths.
        for (&length, _) in self.prefix_lengths.range(..=key.len()) {
            told.extend(self.prefixes.get(&key[..length]).into_iter().flatten());
        }
        told.retain(|session| *session != writer && !self.ended.contains(session) && !self.swept.contains(session));
        told.sort_unstable();
        told.dedup();
        told
    }

    /// All keys are gone.
    pub fn flushed(&mut self) {
        self.keys = BTreeMap::new();
        self.order = VecDeque::new();
        (self.items, self.key_bytes) = (0, 0);
    }

    /// `session` wants to hear of all keys that begin with `prefix`.
    pub fn listen(&mut self, prefix: &[u8], session: u64) {
        let sessions = self.prefixes.entry(Bytes::copy_from_slice(prefix)).or_default();
        if sessions.is_empty() {
            *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
        }
        sessions.insert(session);
    }

    /// `session` has ended.
    pub fn end(&mut self, session: u64) {
        let lengths = &mut self.prefix_lengths;
        self.prefixes.retain(|prefix, sessions| {
            sessions.remove(&session);
            if sessions.is_empty()
                && let Some(count) = lengths.get_mut(&prefix.len())
            {
                *count -= 1;
            }
            !sessions.is_empty()
        });
        self.prefix_lengths.retain(|_, count| *count > 0);
        if !self.keys.is_empty() {
            self.ended.insert(session);
        }
    }

    /// Looks at up to `budget` keys for what ended sessions have left.
    pub fn sweep(&mut self, budget: usize) {
        if self.swept.is_empty() {
            if self.ended.is_empty() {
                return;
            }
            self.swept = std::mem::take(&mut self.ended);
            self.sweep_at = None;
        }
        let from = match &self.sweep_at {
            Some(key) => Bound::Excluded(key.clone()),
            None => Bound::Unbounded,
        };
        let mut emptied = Vec::new();
        let mut last = None;
        let mut looked_at = 0;
        for (key, read) in self.keys.range_mut::<Bytes, _>((from, Bound::Unbounded)).take(budget) {
            let before = read.sessions.len();
            read.sessions.retain(|session| !self.swept.contains(session));
            self.items -= before - read.sessions.len();
            if read.sessions.is_empty() {
                emptied.push(key.clone());
            }
            last = Some(key.clone());
            looked_at += 1;
        }
        for key in emptied {
            self.keys.remove(&key);
            self.key_bytes -= key.len();
        }
        self.sweep_at = last;
        if looked_at < budget {
            self.swept = BTreeSet::new();
        }
        if self.keys.is_empty() {
            self.flushed();
            self.ended = BTreeSet::new();
        }
    }

    /// Counts again what was counted along the way.
    #[cfg(any(test, fuzzing))]
    pub fn validate(&self) {
        assert_eq!(self.items, self.keys.values().map(|read| read.sessions.len()).sum::<usize>());
        assert!(self.keys.values().all(|read| !read.sessions.is_empty() && read.sessions.is_sorted()));
        let alive = |(born, key): &&(u64, Bytes)| self.keys.get(key).is_some_and(|read| read.born == *born);
        assert_eq!(self.order.iter().filter(alive).count(), self.keys.len());
        assert!(self.prefixes.values().all(|sessions| !sessions.is_empty()));
        assert_eq!(self.key_bytes, self.keys.keys().map(Bytes::len).sum::<usize>());
        assert_eq!(self.prefix_lengths.values().sum::<usize>(), self.prefixes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Announced, Random};

    #[test]
    fn readers_are_told_once_and_the_writer_is_not() {
        let mut tracking = Tracking::default();
        for session in [3, 1, 2, 1] {
            assert_eq!(tracking.read(b"a", session), []);
        }
        assert_eq!((tracking.keys(), tracking.items()), (1, 3));
        assert_eq!(tracking.written(b"a", 2), [1, 3]);
        assert_eq!(tracking.written(b"a", 0), [0u64; 0]);
        assert!(tracking.is_empty());
        tracking.listen(b"us", 7);
        tracking.listen(b"", 8);
        tracking.read(b"user", 7);
        assert_eq!(tracking.written(b"user", 0), [7, 8]);
        assert_eq!(tracking.written(b"user", 8), [7]);
        assert_eq!(tracking.written(b"x", 0), [8]);
        tracking.end(8);
        assert_eq!(tracking.written(b"x", 0), [0u64; 0]);
        tracking.end(7);
        assert!(tracking.is_empty());
    }

    #[test]
    fn the_oldest_key_is_given_up_when_the_table_is_full() {
        let mut tracking = Tracking::default();
        tracking.set_keys_max(2);
        assert_eq!(tracking.read(b"a", 1), []);
        assert_eq!(tracking.read(b"b", 1), []);
        tracking.written(b"a", 0);
        assert_eq!(tracking.read(b"a", 1), [], "it is the youngest now");
        assert_eq!(tracking.read(b"c", 2), [(Bytes::from_static(b"b"), vec![1])]);
        assert_eq!(tracking.read(b"a", 2), []);
        assert_eq!(tracking.read(b"d", 2), [(Bytes::from_static(b"a"), vec![1, 2])]);
        tracking.validate();
    }

    #[test]
    fn long_keys_and_many_readers_leave_room_for_fewer() {
        let mut tracking = Tracking::default();
        tracking.set_keys_max(100);
        let mut told = 0;
        for number in 0..1_000u64 {
            let key = [&number.to_le_bytes()[..], &[b'k'; 1_000]].concat();
            told += tracking.read(&key, number).len();
        }
        tracking.validate();
        assert!(tracking.bytes() <= tracking.bytes_max() + 2_000 && tracking.keys() + told == 1_000);
        // More readers of one key than there is room for: those before are told, and the key is remembered anew.
        let mut given_up = 0;
        for session in 1..=10_000 {
            let told = tracking.read(b"hot", session);
            given_up += told.iter().filter(|(key, _)| key == "hot").map(|(_, sessions)| sessions.len()).sum::<usize>();
            assert!(tracking.keys.contains_key(&b"hot"[..]));
        }
        tracking.validate();
        assert_eq!(tracking.written(b"hot", 0).len() + given_up, 10_000);
        assert!(tracking.bytes() <= tracking.bytes_max() + 2_000);
    }

    #[test]
    fn it_does_what_a_naive_table_does() {
        let seed = 0x7AC4;
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let mut tracking = Tracking::default();
        let mut naive: BTreeSet<(Vec<u8>, u64)> = BTreeSet::new();
        let mut ended: BTreeSet<u64> = BTreeSet::new();
        let mut next_session = 1;
        for _ in 0..20_000 {
            let key = format!("key:{}", random.below(60)).into_bytes();
            let session = 1 + random.below(next_session as usize) as u64;
            match random.below(12) {
                0..6 if !ended.contains(&session) => {
                    tracking.read(&key, session);
                    naive.insert((key, session));
                }
                6..8 => {
                    let writer = if random.chance(30) { session } else { 0 };
                    let expected: Vec<u64> = naive
                        .iter()
                        .filter(|(read, _)| *read == key)
                        .map(|(_, reader)| *reader)
                        .filter(|it| *it != writer)
                        .collect();
                    assert_eq!(tracking.written(&key, writer), expected);
                    naive.retain(|(read, _)| *read != key);
                }
                8 => {
                    tracking.end(session);
                    ended.insert(session);
                    naive.retain(|(_, reader)| *reader != session);
                }
                9 if random.chance(1) => {
                    tracking.flushed();
                    naive.clear();
                }
                9 => next_session += 1,
                _ => tracking.sweep(random.below(20)),
            }
            if random.chance(2) {
                tracking.validate();
            }
        }
        (0..1_000).for_each(|_| tracking.sweep(20));
        assert_eq!(tracking.items(), naive.len(), "what ended sessions have left is gone");
        naive.iter().for_each(|(_, session)| tracking.end(*session));
        (0..1_000).for_each(|_| tracking.sweep(20));
        assert!(tracking.is_empty() && tracking.order.is_empty());
    }
}
