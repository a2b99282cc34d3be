//! The way in: from received bytes to commands, over receives, large values and pauses.

use bytes::Bytes;

use super::names::Place;
use super::turn::{Decoded, Refusal, Source, TurnBatch, What};
use super::{Closing, Connection, Pause, is_barrier};
use crate::limits;
use crate::namespace;
use crate::proto::{self, DecodeLimits, Protocol, Step, Verb};
use crate::reply::Reply;
use crate::request::{Args, Wire};

/// A large value on its way in. Its memory is reserved at once, but the system gives pages only as
/// bytes arrive: a promise costs nothing.
#[derive(Debug)]
pub struct LargeIn {
    bytes: Vec<u8>,
    len: usize,
    /// How much of it has been counted as received.
    counted: usize,
}

impl LargeIn {
    fn new(len: usize) -> Option<LargeIn> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).ok()?;
        Some(LargeIn { bytes, len, counted: 0 })
    }

    pub fn missing(&self) -> usize {
        self.len - self.bytes.len()
    }

    /// How much the ring has received into it since it was handed to the ring.
    pub fn arrived(&self) -> usize {
        self.bytes.len() - self.counted
    }

    /// The memory received so far and the room behind it, for the ring.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

/// How a stretch of decoding ended.
enum Stretch {
    /// Everything whole has been taken; the rest begins at `from` and misses `at_least` bytes.
    Incomplete { from: usize, at_least: usize },
    /// A large value of `len` bytes begins at `end`; its command at `from`.
    Large { from: usize, end: usize, len: usize },
    /// The batch is full.
    Full { from: usize },
    /// Later bytes have to wait, or do not matter any more.
    Stopped { from: usize },
}

impl Connection {
    /// Takes commands out of `input[from..]` into `batch` until the batch is full, the input is used up or
    /// the connection is held. Returns where it stopped: what is left then has to be handed in again, or
    /// [put aside](Connection::put_aside) when it is held.
    pub fn receive(
        &mut self,
        index: u32,
        input: &[u8],
        mut from: usize,
        source: Source,
        batch: &mut TurnBatch,
        limits: &DecodeLimits,
    ) -> usize {
        loop {
            if self.closing != Closing::No {
                return input.len();
            }
            if self.is_held() {
                return from;
            }
            if let Some(large) = &mut self.large_in {
                let taken = large.missing().min(input.len() - from);
                large.bytes.extend_from_slice(&input[from..from + taken]);
                from += taken;
                if large.missing() > 0 {
                    return from;
                }
                self.large_arrived();
            }
            if !self.partial.is_empty() {
                match self.assemble(index, input, from, batch, limits) {
                    Some(next) => from = next,
                    None => return input.len(),
                }
                if batch.is_full() {
                    return from;
                }
                continue;
            }
            if from == input.len() {
                return from;
            }
            match self.decode(index, input, from, source, batch, limits) {
                Stretch::Full { from } => return from,
                Stretch::Stopped { from: stopped } => from = stopped,
                Stretch::Incomplete { from, at_least } => {
                    if from < input.len() {
                        self.partial = batch.piece();
                        self.request_is_new = true;
                        self.partial.extend_from_slice(&input[from..]);
                        self.missing = at_least;
                    }
                    return input.len();
                }
                Stretch::Large { from: start, end, len } => {
                    self.partial = batch.piece();
                    self.request_is_new = true;
                    self.partial.extend_from_slice(&input[start..end]);
                    self.begin_large(index, len, batch);
                    from = end;
                }
            }
        }
    }

    /// Adds to the incomplete command just what belongs to it, so that everything after it can be decoded
    /// in place. `None` when the input was not enough.
    fn assemble(
        &mut self,
        index: u32,
        input: &[u8],
        mut from: usize,
        batch: &mut TurnBatch,
        limits: &DecodeLimits,
    ) -> Option<usize> {
        let mut piece = std::mem::take(&mut self.partial);
        loop {
            let more = &input[from..];
            let belonging = self.decoder.belonging(self.missing, more);
            piece.extend_from_slice(&more[..belonging]);
            from += belonging;
            if belonging < self.missing {
                self.missing -= belonging;
                self.partial = piece;
                return None;
            }
            let source = Source::Assembled(batch.assembled.len() as u32);
            match self.decode(index, &piece, 0, source, batch, limits) {
                Stretch::Incomplete { from: 0, at_least } => self.missing = at_least,
                Stretch::Large { from: 0, end, len } => {
                    debug_assert_eq!(end, piece.len());
                    self.partial = piece;
                    self.begin_large(index, len, batch);
                    return Some(from);
                }
                Stretch::Incomplete { from: used, .. }
                | Stretch::Full { from: used }
                | Stretch::Stopped { from: used } => {
                    debug_assert_eq!(used, piece.len(), "a command took more than it missed");
                    self.missing = 0;
                    batch.assembled.push(piece);
                    return Some(from);
                }
                Stretch::Large { .. } => unreachable!("one command was completed, a second cannot have begun"),
            }
        }
    }

    fn decode(
        &mut self,
        index: u32,
        input: &[u8],
        mut from: usize,
        source: Source,
        batch: &mut TurnBatch,
        limits: &DecodeLimits,
    ) -> Stretch {
        loop {
            if from == input.len() {
                return Stretch::Incomplete { from, at_least: 0 };
            }
            if batch.is_full() {
                return Stretch::Full { from };
            }
            let args_from = batch.arguments.ranges.len();
            match self.decoder.next(input, from, &mut batch.arguments, limits) {
                Ok(Step::Command { verb, source: read, end }) => {
                    let source = if read == proto::Source::Scratch { Source::Scratch } else { source };
                    self.push(index, verb, source, input, args_from, batch);
                    from = end;
                    // MOVE and COPY, which are barriers, may name another database.
                    if namespace::ARE_BUILT && (self.pause.any() || !self.key_prefix.is_empty()) {
                        self.name_keys_of_last(input, batch);
                    }
                    if self.pause.any() {
                        return Stretch::Stopped { from };
                    }
                }
                Ok(Step::Skip { end }) => from = end,
                Ok(Step::Incomplete { at_least }) => return Stretch::Incomplete { from, at_least },
                Ok(Step::Large { len, end }) => return Stretch::Large { from, end, len },
                Err(error) => {
                    batch.arguments.ranges.truncate(args_from);
                    self.detect_wire();
                    self.refuse(index, Refusal { reply: error.reply(), close: true, spec: None }, batch);
                    return Stretch::Stopped { from: input.len() };
                }
            }
        }
    }

    /// Replies of a binary connection are binary from the first one on, and those to lines are lines.
    #[inline]
    fn detect_wire(&mut self) {
        if self.wire != Wire::Resp2 {
            return;
        }
        match self.decoder.protocol() {
            Some(Protocol::Binary) => self.wire = Wire::Binary,
            Some(Protocol::Json) => {
                self.wire = Wire::Json;
                self.speak_lines();
            }
            _ => {}
        }
    }

    fn push(&mut self, index: u32, verb: Verb, source: Source, input: &[u8], args_from: usize, batch: &mut TurnBatch) {
        self.detect_wire();
        if self.wire == Wire::Json {
            let id = self.decoder.take_id();
            self.line_ids.push_back(id);
        }
        let large_from = batch.large.len();
        if !self.large.is_empty() {
            batch.large.append(&mut self.large);
        }
        let what = match verb {
            Verb::Known(spec) => {
                if is_barrier(spec) {
                    self.pause.add(Pause::BARRIER);
                }
                What::Command(spec)
            }
            refused => {
                let bytes = if source == Source::Scratch { &batch.arguments.scratch } else { input };
                let args = Args::new(bytes, &batch.arguments.ranges[args_from..], &batch.large[large_from..]);
                let reply = Reply::error(proto::refusal_text(refused, &args));
                let spec = match refused {
                    Verb::WrongArity(spec) => Some(spec),
                    _ => None,
                };
                batch.refusals.push(Refusal { reply, close: false, spec });
                What::Refused(batch.refusals.len() as u32 - 1)
            }
        };
        batch.commands.push(Decoded {
            what,
            connection: index,
            source,
            args_from: args_from as u32,
            args_count: (batch.arguments.ranges.len() - args_from) as u32,
            large_from: large_from as u32,
            hash: 0,
            owner: 0,
        });
    }

    /// Gives the keys of the command that has just been taken their full names. Apart, so that GET and SET outside of
    /// namespaces have nothing of it on their way.
    #[cold]
    #[inline(never)]
    fn name_keys_of_last(&mut self, input: &[u8], batch: &mut TurnBatch) {
        let Some(&Decoded { what: What::Command(spec), source, args_from, large_from, .. }) = batch.commands.last()
        else {
            return;
        };
        let place = Place { args_from: args_from as usize, large_from: large_from as usize };
        let (what, source) = match self.name_keys(spec, source, input, place, batch) {
            Ok(source) => (What::Command(spec), source),
            Err(reply) => {
                self.pause.remove(Pause::BARRIER);
                batch.refusals.push(Refusal { reply, close: false, spec: Some(spec) });
                (What::Refused(batch.refusals.len() as u32 - 1), source)
            }
        };
        if let Some(last) = batch.commands.last_mut() {
            (last.what, last.source) = (what, source);
            // That of COPY … DB is not among them any more.
            last.args_count = batch.arguments.ranges.len() as u32 - args_from;
        }
    }

    /// Puts an error in the place of a command. After one that closes, nothing more is read.
    fn refuse(&mut self, index: u32, refusal: Refusal, batch: &mut TurnBatch) {
        if refusal.close {
            self.pause.add(Pause::BARRIER);
        }
        batch.refusals.push(refusal);
        batch.commands.push(Decoded {
            what: What::Refused(batch.refusals.len() as u32 - 1),
            connection: index,
            source: Source::Assembled(u32::MAX),
            args_from: 0,
            args_count: 0,
            large_from: 0,
            hash: 0,
            owner: 0,
        });
    }

    fn begin_large(&mut self, index: u32, len: usize, batch: &mut TurnBatch) {
        match LargeIn::new(len) {
            Some(large) => self.large_in = Some(large),
            None => {
                let reply = Reply::error("OOM no memory for a value of this size");
                self.refuse(index, Refusal { reply, close: true, spec: None }, batch);
            }
        }
    }

    fn large_arrived(&mut self) {
        if let Some(large) = self.large_in.take() {
            debug_assert_eq!(large.bytes.len(), large.len);
            self.decoder.large_done(self.large.len());
            self.missing = 0;
            self.large.push(Bytes::from(large.bytes));
        }
    }

    /// The large value being received, to be filled directly by the ring. None while some of its bytes
    /// are in the stash, or might get there.
    pub fn take_large_in(&mut self) -> Option<LargeIn> {
        if self.is_held() {
            return None;
        }
        let mut large = self.large_in.take()?;
        large.counted = large.bytes.len();
        self.large_lent = large.bytes.len() + large.missing().min(limits::LARGE_RECEIVE_BYTES_MAX);
        // The command cannot be gone on with before the value is back.
        self.missing = usize::MAX;
        Some(large)
    }

    /// How much of a large value is still to come, if one is being received.
    pub fn large_missing(&self) -> usize {
        self.large_in.as_ref().map_or(0, LargeIn::missing)
    }

    pub fn put_large_in(&mut self, large: LargeIn) {
        let whole = large.missing() == 0;
        self.large_lent = 0;
        self.large_in = Some(large);
        if whole {
            self.large_arrived();
        }
    }

    /// Keeps input for later.
    pub fn put_aside(&mut self, input: &[u8]) {
        if self.stash_from > self.stash.len() / 2 {
            self.stash.drain(..self.stash_from);
            self.stash_from = 0;
        }
        self.stash.extend_from_slice(input);
    }

    /// What has been put aside, to be decoded from the index returned with it.
    pub fn take_stash(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.stash), std::mem::take(&mut self.stash_from))
    }

    /// Puts a stash back that could not be used up: nothing is copied, however often it happens.
    pub fn restore_stash(&mut self, stash: Vec<u8>, from: usize) {
        debug_assert!(self.stash.is_empty());
        if from < stash.len() {
            self.stash = stash;
            self.stash_from = from;
        }
    }

    pub fn stash_len(&self) -> usize {
        self.stash.len() - self.stash_from
    }

    /// Bytes held for commands that have not been decoded.
    pub fn input_len(&self) -> usize {
        let large = self.large.iter().map(Bytes::len).sum::<usize>();
        let large_in = self.large_in.as_ref().map_or(0, |large| large.bytes.len());
        self.partial.len() + self.stash_len() + large + large_in + self.large_lent
    }

    /// The memory that is there for its sake: input that is not a whole command yet, commands that wait, replies that have
    /// not been sent.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        let large = self.large.iter().map(Bytes::len).sum::<usize>();
        let large_in = self.large_in.as_ref().map_or(0, |large| large.bytes.len());
        let input = self.partial.capacity() + self.stash.capacity() + large + large_in + self.large_lent;
        input + self.deferred_bytes + self.unsent()
    }

    /// Whether the request that is on its way has been so for too long: longer than `timeout_ms` since it was first seen, and
    /// a second for each so many bytes of it. Looked at now and then; while the server itself holds the connection up,
    /// no time passes.
    pub fn is_late(&mut self, now_us: u64, timeout_ms: u64) -> bool {
        let is_new = std::mem::take(&mut self.request_is_new);
        if is_new || self.partial.is_empty() || self.is_held() {
            self.request_since_us = now_us;
            return false;
        }
        let earned_us = self.input_len() as u64 * 1_000_000 / limits::REQUEST_BYTES_PER_SECOND_MIN;
        now_us.saturating_sub(self.request_since_us) > timeout_ms * 1000 + earned_us
    }

    /// Whether more input is of use now: paused connections take only so much.
    pub fn wants_input(&self) -> bool {
        match self.closing {
            Closing::No => self.stash_len() < limits::RECV_BUFFER_BYTES,
            Closing::AfterReplies => self.discards(),
            Closing::Now => false,
        }
    }
}
