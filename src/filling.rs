//! Single flight: of the clients that miss the same key one is told to fill it in, and the others wait for that.
//!
//! ```text
//!   key ─▶ flight: who fills it in, by which token, until when ── the next ─▶ waiter ─▶ waiter …
//!
//!   claim ─▶ the first one's         written  ─▶ all waiters get the value, the flight is over
//!         └▶ others wait             void     ─▶ the token is worth nothing any more: the next waiter gets another
//!                                    overdue, gone ─▶ the same
//! ```
//!
//! Waiters are those of one core's keys, wherever their clients are. A client waits for one key at a time. Reads no
//! clock: whoever uses it says what time it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::hash::split_mix;
use crate::limits;

/// Says that whoever shows it was told to fill in a key. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillToken(u64);

impl FillToken {
    pub const TEXT_BYTES: usize = 16;

    pub fn to_text(self) -> String {
        format!("{:016x}", self.0)
    }

    fn is(self, text: &[u8]) -> bool {
        text == self.to_text().as_bytes()
    }
}

/// How many keys may be filled in at once, and how many clients may wait for them.
#[derive(Clone, Copy, Debug)]
pub struct FillBounds {
    pub keys_max: usize,
    pub waiters_max: usize,
    pub waiters_per_key_max: usize,
    /// Of the keys, once for who fills one in and once for each who waits.
    pub key_bytes_max: usize,
}

impl Default for FillBounds {
    fn default() -> FillBounds {
        FillBounds {
            keys_max: limits::FILLED_KEYS_MAX,
            waiters_max: limits::FILL_WAITERS_MAX,
            waiters_per_key_max: limits::FILL_WAITERS_PER_KEY_MAX,
            key_bytes_max: limits::FILLED_KEY_BYTES_MAX,
        }
    }
}

/// Whose a key is to fill in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The client's who asked, by this token.
    Yours(FillToken),
    Others,
    /// Nobody's: too many keys are being filled in.
    Full,
}

/// What has become of a waiter. `W` is what it waits with.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken<W> {
    /// Its key has been written.
    Written(W),
    /// It is told to fill in the key itself.
    Told(FillToken, W),
    /// Its time is over.
    TimedOut(W),
}

struct Flight<W> {
    token: FillToken,
    filler: u64,
    due_us: u64,
    waiters: VecDeque<Waiter<W>>,
}

struct Waiter<W> {
    client: u64,
    due_us: u64,
    /// How long it may take if it is told to fill in the key.
    span_us: u64,
    what: W,
}

/// The keys of one core that are being filled in. Everybody who fills in a key or waits for one is in `deadlines` once.
pub struct Flights<W> {
    flights: BTreeMap<Bytes, Flight<W>>,
    /// When, whose (the filler's or a waiter's), which key.
    deadlines: BTreeSet<(u64, u64, Bytes)>,
    /// By client: the keys it was told to fill in.
    claims: BTreeSet<(u64, Bytes)>,
    /// By client: the key it waits for.
    waits: BTreeMap<u64, Bytes>,
    woken: Vec<Woken<W>>,
    key_bytes: usize,
    /// What the next token is drawn from.
    tokens: u64,
    bounds: FillBounds,
}

impl<W> Flights<W> {
    pub fn new(seed: u64, bounds: FillBounds) -> Flights<W> {
        Flights {
            flights: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            claims: BTreeSet::new(),
            waits: BTreeMap::new(),
            woken: Vec::new(),
            key_bytes: 0,
            tokens: seed,
            bounds,
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    fn has_room_for(&self, key: &[u8]) -> bool {
        self.key_bytes + key.len() <= self.bounds.key_bytes_max
    }

    /// Keys that are being filled in.
    pub fn keys(&self) -> usize {
        self.flights.len()
    }

    /// Clients that wait for that.
    pub fn waiters(&self) -> usize {
        self.waits.len()
    }

    /// `client` has missed `key`: whether it is to fill it in, within `span_us`. Whoever asks again for what it fills in
    /// already gets the same token for as long again: it would wait for itself.
    pub fn claim(&mut self, key: &[u8], client: u64, span_us: u64, now_us: u64) -> Claim {
        let due_us = now_us.saturating_add(span_us);
        if let Some((key, flight)) = self.flights.get_key_value(key) {
            if flight.filler != client {
                return Claim::Others;
            }
            let key = key.clone();
            let flight = self.flights.get_mut(&key).expect("just seen");
            self.deadlines.remove(&(flight.due_us, client, key.clone()));
            flight.due_us = due_us;
            let token = flight.token;
            self.deadlines.insert((due_us, client, key));
            return Claim::Yours(token);
        }
        if self.flights.len() >= self.bounds.keys_max || !self.has_room_for(key) {
            return Claim::Full;
        }
        self.key_bytes += key.len();
        let key = Bytes::copy_from_slice(key);
        let token = self.next_token();
        self.claims.insert((client, key.clone()));
        self.deadlines.insert((due_us, client, key.clone()));
        self.flights.insert(key, Flight { token, filler: client, due_us, waiters: VecDeque::new() });
        Claim::Yours(token)
    }

    /// `client` waits for who fills in `key`, for `span_us` at most. Gives back what it would wait with if nobody does,
    /// or too many wait.
    pub fn wait(&mut self, key: &[u8], client: u64, span_us: u64, now_us: u64, what: W) -> Result<(), W> {
        if self.waits.len() >= self.bounds.waiters_max || self.waits.contains_key(&client) || !self.has_room_for(key) {
            return Err(what);
        }
        let Some((shared, _)) = self.flights.get_key_value(key) else { return Err(what) };
        let key = shared.clone();
        let flight = self.flights.get_mut(&key).expect("just seen");
        if flight.waiters.len() >= self.bounds.waiters_per_key_max {
            return Err(what);
        }
        let due_us = now_us.saturating_add(span_us);
        self.key_bytes += key.len();
        flight.waiters.push_back(Waiter { client, due_us, span_us, what });
        self.deadlines.insert((due_us, client, key.clone()));
        self.waits.insert(client, key);
        Ok(())
    }

    /// Whether whoever shows `token` is still who fills in `key`.
    pub fn accepts(&self, key: &[u8], token: &[u8]) -> bool {
        self.flights.get(key).is_some_and(|flight| flight.token.is(token))
    }

    /// `key` has a value now, whoever gave it.
    pub fn written(&mut self, key: &[u8]) {
        let Some((key, flight)) = self.flights.remove_entry(key) else { return };
        self.key_bytes -= key.len() * (1 + flight.waiters.len());
        self.deadlines.remove(&(flight.due_us, flight.filler, key.clone()));
        for waiter in flight.waiters {
            self.deadlines.remove(&(waiter.due_us, waiter.client, key.clone()));
            self.waits.remove(&waiter.client);
            self.woken.push(Woken::Written(waiter.what));
        }
        self.claims.remove(&(flight.filler, key));
    }

    /// Somebody has removed `key`: what is being filled in may be what it was before.
    pub fn void(&mut self, key: &[u8], now_us: u64) {
        if let Some((key, _)) = self.flights.get_key_value(key) {
            let key = key.clone();
            self.hand_over(&key, now_us);
        }
    }

    /// The same of all keys.
    pub fn void_all(&mut self, now_us: u64) {
        let keys: Vec<Bytes> = self.flights.keys().cloned().collect();
        keys.iter().for_each(|key| self.hand_over(key, now_us));
    }

    /// `client` is gone: others fill in what it was to.
    pub fn leave(&mut self, client: u64, now_us: u64) {
        drop(self.stop_waiting(client));
        let claims = self.claims.range((client, Bytes::new())..);
        let keys: Vec<Bytes> = claims.take_while(|(of, _)| *of == client).map(|(_, key)| key.clone()).collect();
        keys.iter().for_each(|key| self.hand_over(key, now_us));
    }

    /// `client` waits no more: what it waited with.
    pub fn stop_waiting(&mut self, client: u64) -> Option<W> {
        let key = self.waits.remove(&client)?;
        let flight = self.flights.get_mut(&key)?;
        let place = flight.waiters.iter().position(|waiter| waiter.client == client)?;
        let waiter = flight.waiters.remove(place)?;
        self.key_bytes -= key.len();
        self.deadlines.remove(&(waiter.due_us, client, key));
        Some(waiter.what)
    }

    /// When [`end_due`](Self::end_due) has something to do.
    pub fn next_due_us(&self) -> Option<u64> {
        self.deadlines.first().map(|(due_us, ..)| *due_us)
    }

    /// Ends the waits whose time is over, and hands over what was not filled in in time.
    pub fn end_due(&mut self, now_us: u64) {
        while let Some((due_us, client, key)) = self.deadlines.first()
            && *due_us <= now_us
        {
            let (client, key) = (*client, key.clone());
            if self.claims.contains(&(client, key.clone())) {
                self.hand_over(&key, now_us);
            } else {
                let waiter = self.stop_waiting(client);
                self.woken.extend(waiter.map(Woken::TimedOut));
            }
        }
    }

    pub fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    pub fn take_woken(&mut self) -> Vec<Woken<W>> {
        std::mem::take(&mut self.woken)
    }

    /// The token of `key` is worth nothing any more: the waiter who came first is told, or the flight is over.
    fn hand_over(&mut self, key: &Bytes, now_us: u64) {
        let token = self.next_token();
        let Some(flight) = self.flights.get_mut(key) else { return };
        self.deadlines.remove(&(flight.due_us, flight.filler, key.clone()));
        self.claims.remove(&(flight.filler, key.clone()));
        let waiter = loop {
            // Whoever filled it in is gone from it, or one who waits.
            self.key_bytes -= key.len();
            let Some(waiter) = flight.waiters.pop_front() else {
                self.flights.remove(key);
                return;
            };
            self.deadlines.remove(&(waiter.due_us, waiter.client, key.clone()));
            self.waits.remove(&waiter.client);
            if waiter.due_us > now_us {
                break waiter;
            }
            self.woken.push(Woken::TimedOut(waiter.what));
        };
        // The place of the one who waited is that of who fills it in now.
        (flight.token, flight.filler) = (token, waiter.client);
        flight.due_us = now_us.saturating_add(waiter.span_us);
        self.deadlines.insert((flight.due_us, waiter.client, key.clone()));
        self.claims.insert((waiter.client, key.clone()));
        self.woken.push(Woken::Told(token, waiter.what));
    }

    /// Numbers that differ for as long as the process lives, mixed so that nobody guesses the next by the last.
    fn next_token(&mut self) -> FillToken {
        FillToken(split_mix(&mut self.tokens))
    }

    /// Compares what is known by key with what is known by client and by time.
    #[cfg(any(test, fuzzing))]
    pub fn validate(&self) {
        let mut waiters = 0;
        for (key, flight) in &self.flights {
            assert!(self.claims.contains(&(flight.filler, key.clone())));
            assert!(self.deadlines.contains(&(flight.due_us, flight.filler, key.clone())));
            for waiter in &flight.waiters {
                assert_ne!(waiter.client, flight.filler, "nobody waits for itself");
                assert_eq!(self.waits.get(&waiter.client), Some(key));
                assert!(self.deadlines.contains(&(waiter.due_us, waiter.client, key.clone())));
            }
            waiters += flight.waiters.len();
            assert!(flight.waiters.len() <= self.bounds.waiters_per_key_max);
        }
        assert_eq!((self.claims.len(), self.waits.len()), (self.flights.len(), waiters));
        assert_eq!(self.deadlines.len(), self.flights.len() + waiters);
        let bytes = self.flights.iter().map(|(key, flight)| key.len() * (1 + flight.waiters.len())).sum::<usize>();
        assert_eq!(self.key_bytes, bytes);
        assert!(bytes <= self.bounds.key_bytes_max);
        assert!(self.flights.len() <= self.bounds.keys_max && waiters <= self.bounds.waiters_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Announced, Random};

    const BOUNDS: FillBounds = FillBounds { keys_max: 3, waiters_max: 5, waiters_per_key_max: 3, key_bytes_max: 30 };

    fn yours(claim: Claim) -> FillToken {
        match claim {
            Claim::Yours(token) => token,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_fills_and_the_others_wait_for_it() {
        let mut flights = Flights::new(1, BOUNDS);
        let token = yours(flights.claim(b"k", 1, 100, 0));
        assert_eq!(flights.claim(b"k", 2, 100, 0), Claim::Others);
        flights.wait(b"k", 2, 100, 0, "two").unwrap();
        flights.wait(b"k", 3, 100, 0, "three").unwrap();
        assert!(flights.accepts(b"k", token.to_text().as_bytes()));
        assert!(!flights.accepts(b"k", b"") && !flights.accepts(b"other", token.to_text().as_bytes()));
        flights.validate();
        flights.written(b"k");
        flights.validate();
        assert_eq!(flights.take_woken(), [Woken::Written("two"), Woken::Written("three")]);
        assert!(flights.is_empty() && flights.next_due_us().is_none());
        assert!(!flights.accepts(b"k", token.to_text().as_bytes()), "a token is for one flight");
    }

    #[test]
    fn who_is_late_or_gone_hands_over_with_another_token() {
        let mut flights = Flights::new(1, BOUNDS);
        let first = yours(flights.claim(b"k", 1, 100, 0));
        flights.wait(b"k", 2, 500, 10, "two").unwrap();
        flights.wait(b"k", 3, 150, 20, "three").unwrap();
        assert_eq!(flights.next_due_us(), Some(100));
        flights.end_due(99);
        assert!(!flights.has_woken());
        flights.end_due(100);
        let [Woken::Told(second, "two")] = flights.take_woken()[..] else { panic!("two is next") };
        assert!(first != second && !flights.accepts(b"k", first.to_text().as_bytes()));
        flights.validate();
        flights.end_due(170);
        assert_eq!(flights.take_woken(), [Woken::TimedOut("three")]);
        flights.leave(2, 200);
        flights.validate();
        assert!(flights.is_empty() && !flights.has_woken());
        // Who waits and goes is told nothing.
        yours(flights.claim(b"k", 1, 100, 0));
        flights.wait(b"k", 2, 100, 0, "two").unwrap();
        flights.leave(2, 10);
        flights.leave(1, 10);
        assert!(flights.is_empty() && !flights.has_woken());
    }

    #[test]
    fn who_asks_again_for_what_it_fills_in_does_not_wait_for_itself() {
        let mut flights = Flights::<()>::new(1, BOUNDS);
        let token = yours(flights.claim(b"k", 1, 100, 0));
        assert_eq!(flights.claim(b"k", 1, 100, 50), Claim::Yours(token));
        flights.validate();
        assert_eq!(flights.next_due_us(), Some(150), "for as long again");
    }

    #[test]
    fn long_keys_leave_room_for_few() {
        let mut flights = Flights::new(1, FillBounds { key_bytes_max: 25, ..BOUNDS });
        yours(flights.claim(&[b'k'; 10], 1, 100, 0));
        flights.wait(&[b'k'; 10], 2, 100, 0, "two").unwrap();
        assert_eq!(flights.wait(&[b'k'; 10], 3, 100, 0, "three"), Err("three"));
        assert_eq!(flights.claim(&[b'l'; 6], 3, 100, 0), Claim::Full);
        yours(flights.claim(&[b'l'; 5], 3, 100, 0));
        flights.validate();
        flights.leave(1, 10);
        flights.leave(2, 10);
        flights.leave(3, 10);
        flights.validate();
        assert!(flights.is_empty());
    }

    #[test]
    fn a_removed_key_makes_the_token_worthless() {
        let mut flights = Flights::new(1, BOUNDS);
        let first = yours(flights.claim(b"k", 1, 100, 0));
        flights.void(b"k", 1);
        assert!(flights.is_empty(), "nobody waited");
        assert_ne!(yours(flights.claim(b"k", 1, 100, 2)), first);
        flights.wait(b"k", 2, 100, 3, "two").unwrap();
        yours(flights.claim(b"other", 1, 100, 3));
        flights.void_all(4);
        flights.validate();
        assert!(matches!(flights.take_woken()[..], [Woken::Told(_, "two")]));
        assert_eq!(flights.keys(), 1);
    }

    #[test]
    fn there_are_bounds() {
        let mut flights = Flights::new(1, BOUNDS);
        for key in [b"a", b"b", b"c"] {
            yours(flights.claim(key, 1, 100, 0));
        }
        assert_eq!(flights.claim(b"d", 1, 100, 0), Claim::Full);
        for client in 2..=4 {
            flights.wait(b"a", client, 100, 0, client).unwrap();
        }
        assert_eq!(flights.wait(b"a", 5, 100, 0, 5), Err(5), "three wait for one key");
        flights.wait(b"b", 5, 100, 0, 5).unwrap();
        flights.wait(b"b", 6, 100, 0, 6).unwrap();
        assert_eq!(flights.wait(b"b", 7, 100, 0, 7), Err(7), "five wait in all");
        assert_eq!(flights.wait(b"nobody's", 8, 100, 0, 8), Err(8));
        flights.validate();
    }

    /// Everybody who waits is woken once, and nobody waits for a key that nobody fills in.
    #[test]
    fn nobody_is_forgotten_whatever_happens() {
        for seed in 0..200 {
            let _announced = Announced(seed);
            let mut random = Random::new(seed);
            let mut flights = Flights::new(
                seed,
                FillBounds { keys_max: 4, waiters_max: 20, waiters_per_key_max: 8, ..FillBounds::default() },
            );
            let mut waiting = BTreeSet::new();
            let mut now_us = 0;
            for _ in 0..500 {
                now_us += random.below(20) as u64;
                let key = [b'a' + random.below(5) as u8];
                let client = random.below(30) as u64;
                match random.below(10) {
                    0..=4 if !waiting.contains(&client) => {
                        let span_us = random.below(200) as u64;
                        if flights.claim(&key, client, span_us, now_us) == Claim::Others
                            && flights.wait(&key, client, span_us, now_us, client).is_ok()
                        {
                            waiting.insert(client);
                        }
                    }
                    5 => flights.written(&key),
                    6 => flights.void(&key, now_us),
                    7 => {
                        flights.leave(client, now_us);
                        waiting.remove(&client);
                    }
                    8 => assert_eq!(flights.stop_waiting(client).is_some(), waiting.remove(&client)),
                    _ => flights.end_due(now_us),
                }
                for woken in flights.take_woken() {
                    let (Woken::Written(client) | Woken::Told(_, client) | Woken::TimedOut(client)) = woken;
                    assert!(waiting.remove(&client), "{client} did not wait");
                }
                flights.validate();
                assert_eq!(flights.waiters(), waiting.len());
            }
        }
    }
}
