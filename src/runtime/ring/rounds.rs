//! The order in which completions are taken: the kernel's, but only one receive of each socket in each
//! round. So who sends much queues up behind everybody else.

use std::collections::VecDeque;

use super::operation::{Completion, Kind};

/// Receives of one socket that may wait for their round before it is told to receive no more. The kernel
/// hands over up to 32 of them at a time.
const WAITING_RECEIVES_MAX: u32 = 8;

/// Completions that have been taken and are kept nevertheless, so that the others need not move with every batch.
const TAKEN_KEPT_MAX: usize = 4096;
/// Completions for which room is kept.
const CAPACITY_KEPT: usize = 4 * TAKEN_KEPT_MAX;

#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Completion(Completion),
    /// More of this socket's receives wait than may: it should receive no more.
    Crowded(u32),
}

#[derive(Default)]
pub struct Rounds {
    completions: Vec<Completion>,
    next: usize,
    /// What has to be taken before anything else.
    follow_up: Option<Completion>,
    round: u32,
    in_round: bool,
    /// Where the completions of this round end: what comes in meanwhile belongs to the next.
    end: usize,
    /// Receives beyond one of their socket, in order, and how many of them are yet to be looked at in this
    /// round.
    backlog: VecDeque<Completion>,
    backlog_due: usize,
    /// By the index of a socket.
    places: Vec<Place>,
}

#[derive(Clone, Copy, Default)]
struct Place {
    /// The last round in which something of it was received.
    served: u32,
    /// Its receives in the backlog.
    waiting: u32,
    /// It is being closed: what waits need not wait any longer.
    leaving: bool,
}

impl Rounds {
    /// A socket has moved in.
    pub fn admit(&mut self, index: u32) {
        if self.places.len() <= index as usize {
            self.places.resize(index as usize + 1, Place::default());
        }
        let place = &mut self.places[index as usize];
        debug_assert_eq!(place.waiting, 0);
        // It has been served in no round: not in the current one, which may be the one its predecessor was.
        *place = Place { served: self.round.wrapping_sub(1), ..Place::default() };
    }

    /// A socket is being closed.
    pub fn leave(&mut self, index: u32) {
        self.places[index as usize].leaving = true;
    }

    /// Whether receives of the socket have not been taken yet.
    pub fn has_waiting(&self, index: u32) -> bool {
        self.places[index as usize].waiting > 0
    }

    pub fn extend(&mut self, completions: impl Iterator<Item = Completion>) {
        // On a core that never comes to the end of them, what has been taken has to go nevertheless.
        if self.next == self.completions.len() || self.next >= TAKEN_KEPT_MAX.max(self.completions.len() / 2) {
            self.completions.drain(..self.next);
            self.end -= self.next.min(self.end);
            self.next = 0;
            self.completions.shrink_to(CAPACITY_KEPT.max(2 * self.completions.len()));
        }
        self.completions.extend(completions);
    }

    /// Has `completion` taken next, whatever else there is.
    pub fn follow_up(&mut self, completion: Completion) {
        debug_assert!(self.follow_up.is_none());
        self.follow_up = Some(completion);
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.next == self.completions.len() && self.follow_up.is_none() && self.backlog.is_empty()
    }

    /// `None` ends the round.
    #[inline]
    pub fn next(&mut self) -> Option<Next> {
        if let Some(completion) = self.follow_up.take() {
            return Some(Next::Completion(completion));
        }
        if !self.in_round {
            self.in_round = true;
            self.backlog_due = self.backlog.len();
            self.end = self.completions.len();
        }
        while self.backlog_due > 0 {
            self.backlog_due -= 1;
            let completion = self.backlog.pop_front()?;
            let place = &mut self.places[completion.index() as usize];
            if place.served == self.round && !place.leaving {
                self.backlog.push_back(completion);
                continue;
            }
            place.waiting -= 1;
            place.served = self.round;
            return Some(Next::Completion(completion));
        }
        while self.next < self.end {
            let completion = self.completions[self.next];
            self.next += 1;
            if completion.is(Kind::Receive) {
                let index = completion.index();
                let place = &mut self.places[index as usize];
                if place.served == self.round || place.waiting > 0 {
                    place.waiting += 1;
                    let is_crowded = place.waiting > WAITING_RECEIVES_MAX;
                    self.backlog.push_back(completion);
                    if is_crowded {
                        return Some(Next::Crowded(index));
                    }
                    continue;
                }
                place.served = self.round;
            }
            return Some(Next::Completion(completion));
        }
        self.round = self.round.wrapping_add(1);
        self.in_round = false;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::operation::user_data;
    use super::*;

    fn completion(kind: Kind, index: u32, result: i32) -> Completion {
        Completion { user_data: user_data(kind, 1, index), result, flags: 0 }
    }

    fn receive(index: u32, result: i32) -> Completion {
        completion(Kind::Receive, index, result)
    }

    fn rounds(sockets: u32) -> Rounds {
        let mut rounds = Rounds::default();
        (0..sockets).for_each(|index| rounds.admit(index));
        rounds
    }

    /// Socket and number of what one round brings.
    fn round(rounds: &mut Rounds) -> Vec<(u32, i32)> {
        let mut taken = Vec::new();
        while let Some(next) = rounds.next() {
            if let Next::Completion(completion) = next {
                taken.push((completion.index(), completion.result));
            }
        }
        taken
    }

    #[test]
    fn each_socket_has_one_receive_in_a_round_and_keeps_its_order() {
        let mut rounds = rounds(3);
        rounds.extend(
            [receive(0, 1), receive(0, 2), receive(0, 3), receive(1, 1), receive(1, 2), receive(2, 1)].into_iter(),
        );
        assert_eq!(round(&mut rounds), [(0, 1), (1, 1), (2, 1)]);
        rounds.extend([receive(2, 2), receive(0, 4)].into_iter());
        assert_eq!(round(&mut rounds), [(0, 2), (1, 2), (2, 2)]);
        assert_eq!(round(&mut rounds), [(0, 3)]);
        assert_eq!(round(&mut rounds), [(0, 4)]);
        assert!(rounds.is_empty());
        assert_eq!(round(&mut rounds), []);
    }

    #[test]
    fn what_was_taken_goes_although_something_always_waits() {
        let mut rounds = rounds(2);
        let mut taken = 0;
        for number in 0..300_000 {
            rounds.extend([completion(Kind::Send, 0, number), completion(Kind::Send, 1, number)].into_iter());
            // Never the last one.
            while taken < number
                && let Some(next) = rounds.next()
            {
                let index = (taken % 2) as u32;
                assert_eq!(next, Next::Completion(completion(Kind::Send, index, taken / 2)));
                taken += 1;
            }
            assert!(!rounds.is_empty());
        }
        let waiting = rounds.completions.len() - rounds.next;
        assert!(rounds.completions.capacity() <= 4 * waiting.max(CAPACITY_KEPT), "{}", rounds.completions.capacity());
        while rounds.next().is_some() || !rounds.is_empty() {}
        rounds.extend([completion(Kind::Send, 0, 0)].into_iter());
        assert!(rounds.completions.capacity() <= CAPACITY_KEPT);
    }

    #[test]
    fn other_completions_do_not_wait() {
        let mut rounds = rounds(1);
        rounds.extend([receive(0, 1), receive(0, 2), completion(Kind::Send, 0, 9)].into_iter());
        assert_eq!(round(&mut rounds), [(0, 1), (0, 9)]);
        assert_eq!(round(&mut rounds), [(0, 2)]);
    }

    #[test]
    fn what_arrives_during_a_round_belongs_to_the_next() {
        let mut rounds = rounds(2);
        rounds.extend([receive(0, 1)].into_iter());
        assert_eq!(rounds.next(), Some(Next::Completion(receive(0, 1))));
        rounds.extend([receive(1, 1)].into_iter());
        assert_eq!(rounds.next(), None);
        assert!(!rounds.is_empty());
        assert_eq!(round(&mut rounds), [(1, 1)]);
    }

    #[test]
    fn who_is_far_ahead_is_told_to_stop() {
        let mut rounds = rounds(1);
        let many = WAITING_RECEIVES_MAX as i32 + 3;
        rounds.extend((0..many).map(|number| receive(0, number)));
        let all: Vec<Next> = std::iter::from_fn(|| rounds.next()).collect();
        assert_eq!(all, [Next::Completion(receive(0, 0)), Next::Crowded(0), Next::Crowded(0)]);
        for number in 1..many {
            assert!(rounds.has_waiting(0));
            assert_eq!(round(&mut rounds), [(0, number)]);
        }
        assert!(rounds.is_empty() && !rounds.has_waiting(0));
    }

    #[test]
    fn what_waits_for_a_socket_that_leaves_is_taken_at_once() {
        let mut rounds = rounds(2);
        rounds.extend([receive(0, 1), receive(0, 2), receive(0, 3), receive(1, 1)].into_iter());
        assert_eq!(round(&mut rounds), [(0, 1), (1, 1)]);
        rounds.leave(0);
        assert_eq!(round(&mut rounds), [(0, 2), (0, 3)]);
        assert!(!rounds.has_waiting(0));
        // Whoever comes next starts anew.
        rounds.admit(0);
        rounds.extend([receive(0, 7)].into_iter());
        assert_eq!(round(&mut rounds), [(0, 7)]);
    }

    #[test]
    fn a_follow_up_comes_first() {
        let mut rounds = rounds(2);
        rounds.extend([receive(0, 1), receive(1, 1)].into_iter());
        assert_eq!(rounds.next(), Some(Next::Completion(receive(0, 1))));
        rounds.follow_up(receive(0, -104));
        assert!(!rounds.is_empty());
        assert_eq!(round(&mut rounds), [(0, -104), (1, 1)]);
    }
}
