//! The way out: replies in the order of their commands, however late some of them come.
//!
//! ```text
//!   out: ready, in order │ pending: [waiting, followers] [waiting, followers] …
//! ```
//!
//! A reply that is there before an earlier one waits behind it, as a follower of the pending reply that
//! holds it up.

use super::{Connection, Taken};
use crate::engine::clients::ReplyMode;
use crate::engine::journal::Gate;
use crate::limits;
use crate::proto;
use crate::reply::{Out, Reply};
use crate::request::Wire;

/// Replies that are there while others of the same pipeline are on their way from other cores: they leave
/// together, in one send, unless the others take too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withheld {
    No,
    Yes,
    TooLong,
}

/// Which replies the client wants (CLIENT REPLY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replies {
    On,
    Off,
    /// All but the next command's.
    SkipNext,
    /// All of them, each on a line that begins with what its request wants echoed.
    Lines,
}

/// A reply that is not there yet.
pub(super) struct Pending {
    pub(super) reply: Option<Out>,
    /// Whether the client wants to see it (CLIENT REPLY).
    pub(super) wanted: bool,
    /// Where in [`Later`] the finished replies right behind it end.
    pub(super) followers_end: usize,
    /// What has to be durable before it leaves.
    pub(super) gates: Vec<Gate>,
    /// What the reply is expected to take, until it is there.
    pub(super) expected: u32,
}

/// Finished replies behind pending ones, one after the other.
#[derive(Default)]
pub(super) struct Later {
    pub(super) out: Out,
    /// Position of the first byte of `out`, counted from the first pending reply on.
    start: usize,
    /// What of `out` has been moved on: bytes, large values.
    moved: usize,
    moved_large: usize,
}

impl Later {
    pub(super) fn end(&self) -> usize {
        self.start + self.out.bytes.len()
    }

    /// Where the first byte stands that has not been moved on.
    pub(super) fn moved_to(&self) -> usize {
        self.start + self.moved
    }

    /// Moves everything up to position `end` behind what `to` holds. Returns how much it was.
    fn move_to(&mut self, end: usize, to: &mut Out) -> usize {
        let end = end - self.start;
        if end == self.moved {
            return 0;
        }
        let before = to.len();
        self.moved_large = to.append_range(&self.out, self.moved..end, self.moved_large);
        self.moved = end;
        if self.moved >= LATER_MOVED_MAX && self.moved >= self.out.bytes.len() / 2 {
            self.out.drop_front(self.moved, self.moved_large);
            self.start += std::mem::take(&mut self.moved);
            self.moved_large = 0;
        }
        to.len() - before
    }
}

/// Finished replies that are written anew, some of them replaced.
pub(super) struct LaterRewrite<'a> {
    later: &'a mut Later,
    old: Later,
    /// How far `old` has been gone through.
    at: usize,
    large: usize,
    before: usize,
}

impl<'a> LaterRewrite<'a> {
    pub(super) fn of(later: &'a mut Later) -> LaterRewrite<'a> {
        let old = std::mem::take(later);
        let mut rest = Out::default();
        rest.append_range(&old.out, old.moved..old.out.bytes.len(), old.moved_large);
        // Positions go on as they were; what has been moved is not there any more.
        later.start = old.moved_to();
        let (at, large) = (old.moved_to(), old.moved_large);
        LaterRewrite { later, old, at, large, before: rest.len() }
    }

    /// Where in the old bytes it stands.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// What there was.
    pub(super) fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.old.out.bytes[range.start - self.old.start..range.end - self.old.start]
    }

    /// Takes over everything up to the old position `end`; where that ends now.
    pub(super) fn copy_to(&mut self, end: usize) -> usize {
        let range = self.at - self.old.start..end - self.old.start;
        self.large = self.later.out.append_range(&self.old.out, range, self.large);
        self.at = end;
        self.later.end()
    }

    /// Takes over everything up to `range`, and something else instead of that.
    pub(super) fn replace(&mut self, range: std::ops::Range<usize>, instead: &Out) {
        self.copy_to(range.start);
        self.later.out.append_range(instead, 0..instead.bytes.len(), 0);
        let end = range.end - self.old.start;
        while self.old.out.large.get(self.large).is_some_and(|(offset, _)| *offset <= end) {
            self.large += 1;
        }
        self.at = range.end;
    }

    /// How many bytes there were, and are.
    pub(super) fn finish(self) -> (usize, usize) {
        (self.before, self.later.out.len())
    }
}

/// Moved bytes that [`Later`] keeps before it gets rid of them.
pub(super) const LATER_MOVED_MAX: usize = 32 * 1024;

/// Emptied output buffers, shared by the connections of a core.
#[derive(Default)]
pub struct OutPool {
    pub(super) spare: Vec<Out>,
    pub(super) spare_bytes: usize,
}

pub(super) const SPARE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A portion of a pipeline's replies, and the value that passed the bound.
pub(super) const SPARE_OUT_BYTES_MAX: usize = 2 * limits::OUTPUT_PORTION_BYTES;
const OUT_BYTES_INITIAL: usize = 4096;
/// More than this leaves at once, whatever is still to come.
pub(super) const WITHHELD_BYTES_MAX: usize = 16 * 1024;

impl OutPool {
    pub fn take(&mut self) -> Out {
        if let Some(out) = self.spare.pop() {
            self.spare_bytes -= out.bytes.capacity();
            return out;
        }
        let mut out = Out::default();
        out.bytes.reserve(OUT_BYTES_INITIAL);
        out
    }

    pub fn give_back(&mut self, mut out: Out) {
        let capacity = out.bytes.capacity();
        if capacity > 0 && capacity <= SPARE_OUT_BYTES_MAX && self.spare_bytes + capacity <= SPARE_BYTES_MAX {
            out.clear();
            self.spare_bytes += capacity;
            self.spare.push(out);
        }
    }
}

impl Connection {
    /// Writes the reply of the command being applied: straight to the output, or behind the last reply
    /// that is still awaited.
    #[inline]
    pub fn reply(&mut self, reply: &Reply<'_>, pool: &mut OutPool) {
        if self.replies != Replies::On && !self.reply_wanted() {
            return;
        }
        match self.pending.back_mut() {
            None => {
                if self.out.bytes.capacity() == 0 {
                    self.out = pool.take();
                }
                proto::encode(self.wire, reply, &mut self.out);
            }
            Some(last) => {
                if self.later.out.bytes.capacity() == 0 {
                    self.later.out = pool.take();
                }
                let before = self.later.out.len();
                proto::encode(self.wire, reply, &mut self.later.out);
                self.held_up += self.later.out.len() - before;
                last.followers_end = self.later.end();
            }
        }
    }

    /// Appends what the server sends unasked, already encoded: behind everything that was asked before.
    pub fn push_message(&mut self, message: &Out, pool: &mut OutPool) {
        let range = 0..message.bytes.len();
        match self.pending.back_mut() {
            None => {
                if self.out.bytes.capacity() == 0 {
                    self.out = pool.take();
                }
                self.out.append_range(message, range, 0);
            }
            Some(last) => {
                if self.later.out.bytes.capacity() == 0 {
                    self.later.out = pool.take();
                }
                self.later.out.append_range(message, range, 0);
                self.held_up += message.len();
                last.followers_end = self.later.end();
            }
        }
    }

    /// Whether the reply of the command being applied is to be sent.
    #[inline(never)]
    fn reply_wanted(&mut self) -> bool {
        match self.replies {
            Replies::On => true,
            Replies::Off => false,
            Replies::SkipNext => {
                self.replies = Replies::On;
                false
            }
            Replies::Lines => {
                self.begin_line();
                true
            }
        }
    }

    /// From now on every reply is a line, and commands bring what it has to echo.
    pub(super) fn speak_lines(&mut self) {
        self.replies = Replies::Lines;
    }

    /// Writes the beginning of the next reply's line where that reply, or its place, comes next.
    fn begin_line(&mut self) {
        let id = self.line_ids.pop_front().flatten();
        match self.pending.back_mut() {
            None => proto::json::begin_line(id, &mut self.out),
            Some(last) => {
                let before = self.later.out.len();
                proto::json::begin_line(id, &mut self.later.out);
                self.held_up += self.later.out.len() - before;
                last.followers_end = self.later.end();
            }
        }
    }

    /// CLIENT REPLY; says whether the command itself is answered.
    pub fn set_reply_mode(&mut self, mode: ReplyMode) -> bool {
        self.replies = match mode {
            ReplyMode::On => Replies::On,
            ReplyMode::Off => Replies::Off,
            ReplyMode::Skip if self.replies == Replies::Off => Replies::Off,
            ReplyMode::Skip => Replies::SkipNext,
        };
        self.replies == Replies::On
    }

    /// Reserves the place of a reply that comes later. Returns its sequence number.
    pub fn await_reply(&mut self) -> u32 {
        let wanted = self.reply_wanted();
        let sequence = self.pending_first.wrapping_add(self.pending.len() as u32);
        let (followers_end, expected) = (self.later.end(), self.reply_bytes_expected as u32);
        self.awaited_bytes += expected as usize;
        self.pending.push_back(Pending { reply: None, wanted, followers_end, gates: Vec::new(), expected });
        sequence
    }

    /// The last reply that is awaited may well take so much.
    pub fn expect_of_last(&mut self, bytes: usize) {
        if let Some(last) = self.pending.back_mut()
            && last.reply.is_none()
        {
            let more = (bytes as u32).saturating_sub(last.expected);
            last.expected += more;
            self.awaited_bytes += more as usize;
        }
    }

    /// What the connection has taken of its output so far.
    pub fn taken(&self) -> Taken {
        (self.activity.bytes_sent, self.taken_of_send)
    }

    /// The number that the next reply will have if it is awaited.
    pub fn next_sequence(&self) -> u32 {
        self.pending_first.wrapping_add(self.pending.len() as u32)
    }

    /// Whether the reply of this number is still to come.
    pub fn awaits(&self, sequence: u32) -> bool {
        let place = sequence.wrapping_sub(self.pending_first) as usize;
        self.pending.get(place).is_some_and(|pending| pending.reply.is_none())
    }

    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Whether it should ask other cores for no more before some of what it awaits has come: so many replies, or so few
    /// large ones.
    #[inline]
    pub fn awaits_enough(&self) -> bool {
        let count = self.pending.len();
        count > limits::PENDING_REPLIES_MAX || self.awaited_bytes > limits::PENDING_REPLY_BYTES_MAX
    }

    /// Whether so little is awaited that it may ask for more again.
    pub fn awaits_little(&self) -> bool {
        let count = self.pending.len();
        count <= limits::PENDING_REPLIES_MAX / 2 && self.awaited_bytes <= limits::PENDING_REPLY_BYTES_MAX / 2
    }

    /// The awaited reply `sequence` has come, already encoded, as `range` of `from` (see
    /// [`Out::append_range`]).
    pub fn complete_with_range(
        &mut self,
        sequence: u32,
        from: &Out,
        range: std::ops::Range<usize>,
        first_large: usize,
        gates: Vec<Gate>,
        pool: &mut OutPool,
    ) {
        let place = sequence.wrapping_sub(self.pending_first) as usize;
        let wanted = self.pending[place].wanted;
        self.awaited_bytes -= std::mem::take(&mut self.pending[place].expected) as usize;
        let before = self.out.len();
        if place == 0 && gates.is_empty() {
            if self.out.bytes.capacity() == 0 {
                self.out = pool.take();
            }
            if wanted {
                self.out.append_range(from, range, first_large);
            }
            self.expect_replies_like(self.out.len() - before);
            self.release_head(pool);
        } else {
            let mut reply = pool.take();
            if wanted {
                reply.append_range(from, range, first_large);
            }
            self.expect_replies_like(reply.len());
            self.held_up += reply.len();
            self.pending[place].reply = Some(reply);
            self.pending[place].gates = gates;
        }
    }

    /// A large reply lets expect more of them at once, small ones less and less.
    #[inline]
    fn expect_replies_like(&mut self, bytes: usize) {
        let expected = self.reply_bytes_expected - self.reply_bytes_expected / 16;
        self.reply_bytes_expected = expected.max(bytes.min(u32::MAX as usize)).max(limits::REPLY_BYTES_EXPECTED_MIN);
    }

    /// The awaited reply `sequence` has been made here.
    pub fn complete(&mut self, sequence: u32, wire: Wire, reply: &Reply<'_>, gates: Vec<Gate>, pool: &mut OutPool) {
        let mut encoded = pool.take();
        proto::encode(wire, reply, &mut encoded);
        let len = encoded.bytes.len();
        self.complete_with_range(sequence, &encoded, 0..len, 0, gates, pool);
        pool.give_back(encoded);
    }

    /// The first pending reply has been written to `out`: its followers come next, then whatever is
    /// complete behind them.
    fn release_head(&mut self, pool: &mut OutPool) {
        let Some(head) = self.pending.pop_front() else { return };
        self.pending_first = self.pending_first.wrapping_add(1);
        self.held_up -= self.later.move_to(head.followers_end, &mut self.out);
        self.release_ready(pool);
    }

    /// What is complete at the head of the pending replies goes to `out`.
    pub(super) fn release_ready(&mut self, pool: &mut OutPool) {
        while self.pending.front().is_some_and(|next| next.reply.is_some() && next.gates.is_empty()) {
            let next = self.pending.pop_front().expect("just seen");
            self.pending_first = self.pending_first.wrapping_add(1);
            self.append(next.reply.expect("just seen"), pool);
            self.held_up -= self.later.move_to(next.followers_end, &mut self.out);
        }
        if self.pending.is_empty() {
            pool.give_back(std::mem::take(&mut self.later).out);
            self.held_replies.clear();
        }
    }

    pub(super) fn later_end(&self) -> usize {
        self.later.end()
    }

    fn append(&mut self, from: Out, pool: &mut OutPool) {
        if !from.is_empty() {
            self.held_up -= from.len();
            if self.out.bytes.capacity() == 0 {
                self.out = pool.take();
            }
            self.out.append_range(&from, 0..from.bytes.len(), 0);
        }
        pool.give_back(from);
    }

    /// Whether what is ready had better wait for what comes from other cores. Says `Some(true)` the first time.
    pub fn withholds(&mut self) -> Option<bool> {
        // What waits for the disk takes too long.
        let waits_for_cores = self.pending.front().is_some_and(|head| head.reply.is_none());
        if !waits_for_cores || self.withheld == Withheld::TooLong || self.out.len() > WITHHELD_BYTES_MAX {
            return None;
        }
        Some(std::mem::replace(&mut self.withheld, Withheld::Yes) == Withheld::No)
    }

    /// Whether something has been withheld since the last send, which is now to leave.
    pub fn stop_withholding(&mut self) -> bool {
        let withheld = self.withheld == Withheld::Yes;
        if withheld {
            self.withheld = Withheld::TooLong;
        }
        withheld
    }

    /// Takes what is ready to be sent.
    pub fn take_out(&mut self) -> Out {
        self.withheld = Withheld::No;
        let out = std::mem::take(&mut self.out);
        self.in_flight += out.len();
        out
    }

    /// Unsent bytes: what is ready, what waits for earlier replies, and what the ring has not got rid of
    /// yet.
    #[inline]
    pub fn unsent(&self) -> usize {
        self.out.len() + self.held_up + self.in_flight
    }

    /// Gives every pooled buffer back.
    pub fn dismantle(self, pool: &mut OutPool) {
        pool.give_back(self.out);
        pool.give_back(self.later.out);
        for pending in self.pending {
            if let Some(reply) = pending.reply {
                pool.give_back(reply);
            }
        }
    }
}
