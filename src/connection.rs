//! One client, without its socket: bytes in, ordered replies out. Does no I/O.
//!
//! ```text
//!   received bytes ──┬─ whole commands ─────────────────────────▶ TurnBatch (ranges into the input)
//!                    ├─ start of a command ─▶ partial ─ grows ──▶ TurnBatch (ranges into an assembled piece)
//!                    ├─ inside a large value ─▶ large_in ───────▶ TurnBatch (the value travels on its own)
//!                    └─ while paused ─▶ stash ─ resumed as input
//!
//!   replies  out: ready, in order │ pending: [waiting, followers] [waiting, followers] …
//! ```
//!
//! Reply order is command order: a reply that is there before an earlier one waits behind it, as a
//! follower of the pending reply that holds it up.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::clock::Now;
use crate::command::{Op, Route, Spec};
use crate::engine::batch::Batch;
use crate::engine::clients::{Activity, ClientRecord, ReplyMode};
use crate::limits;
use crate::proto::{self, Arguments, DecodeLimits, Decoder, Protocol, Step, Verb};
use crate::reply::{Out, Reply};
use crate::request::{Args, Wire};

/// Where the bytes of a decoded command lie until it has been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A receive buffer of the ring.
    Buffer(u16),
    /// A piece put together from several receives: `TurnBatch::assembled`.
    Assembled(u32),
    /// Text that had to be unquoted, numbers that had to be written out: `Arguments::scratch`.
    Scratch,
}

/// Access to the receive buffers that are held until the turn's commands have been applied.
pub trait Received {
    fn bytes(&self, buffer: u16) -> &[u8];
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    Command(&'static Spec),
    /// Answered with an error: `TurnBatch::refusals`.
    Refused(u32),
}

/// A command as it was decoded, in the order of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Decoded {
    pub what: What,
    pub connection: u32,
    pub source: Source,
    args_from: u32,
    args_count: u32,
    large_from: u32,
    /// Filled in when the batch is routed.
    pub hash: u64,
    pub owner: u32,
}

#[derive(Debug)]
pub struct Refusal {
    pub reply: Reply<'static>,
    pub close: bool,
    /// The command, if it is one that there is.
    pub spec: Option<&'static Spec>,
}

/// The commands decoded in a turn and not yet applied. Its vectors keep their memory from turn to turn.
#[derive(Default)]
pub struct TurnBatch {
    pub commands: Vec<Decoded>,
    pub arguments: Arguments,
    pub large: Vec<Bytes>,
    pub assembled: Vec<Vec<u8>>,
    pub refusals: Vec<Refusal>,
    /// A piece that is not used up when the batch is cleared, and where it is put then.
    pub keep: Option<usize>,
    pub kept: Option<Vec<u8>>,
    /// Emptied pieces for the next assembly.
    spare: Vec<Vec<u8>>,
}

/// Arguments for which an empty batch keeps room.
const ARGS_KEPT_MAX: usize = 64 * limits::TURN_COMMANDS;
const SPARE_PIECES_MAX: usize = 64;
const SPARE_PIECE_BYTES_MAX: usize = 64 * 1024;

impl TurnBatch {
    #[inline]
    pub fn is_full(&self) -> bool {
        self.commands.len() >= limits::TURN_COMMANDS
    }

    #[inline]
    pub fn args_of<'a>(&'a self, command: &Decoded, received: &'a impl Received) -> Args<'a> {
        let bytes = match command.source {
            Source::Buffer(buffer) => received.bytes(buffer),
            Source::Assembled(piece) => &self.assembled[piece as usize],
            Source::Scratch => &self.arguments.scratch,
        };
        let ranges = &self.arguments.ranges[command.args_from as usize..][..command.args_count as usize];
        Args::new(bytes, ranges, &self.large[command.large_from as usize..])
    }

    pub fn clear(&mut self) {
        self.commands.clear();
        self.arguments.clear();
        self.large.clear();
        self.refusals.clear();
        // One command with very many arguments must not keep their room for ever.
        self.arguments.shrink(ARGS_KEPT_MAX, SPARE_PIECE_BYTES_MAX);
        self.large.shrink_to(ARGS_KEPT_MAX);
        if let Some(piece) = self.keep.take() {
            self.kept = Some(std::mem::take(&mut self.assembled[piece]));
        }
        for mut piece in self.assembled.drain(..) {
            if self.spare.len() < SPARE_PIECES_MAX && piece.capacity() <= SPARE_PIECE_BYTES_MAX {
                piece.clear();
                self.spare.push(piece);
            }
        }
    }

    fn piece(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }
}

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

/// Why a connection's commands wait. Its bytes pile up in the stash meanwhile, and its reading stops
/// when they pass a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pause(u8);

impl Pause {
    /// A command is under way that later ones of the connection must not overtake.
    pub const BARRIER: Pause = Pause(1);
    /// Too many unsent bytes.
    pub const OUTPUT: Pause = Pause(1 << 1);
    /// Too many commands wait for another core, or for the way there.
    pub const MESH: Pause = Pause(1 << 2);

    pub fn any(self) -> bool {
        self.0 != 0
    }

    pub fn has(self, other: Pause) -> bool {
        self.0 & other.0 != 0
    }

    pub fn add(&mut self, other: Pause) {
        self.0 |= other.0;
    }

    pub fn remove(&mut self, other: Pause) {
        self.0 &= !other.0;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Closing {
    #[default]
    No,
    /// When everything owed has been sent: QUIT, protocol errors, the end of the input.
    AfterReplies,
    /// Whatever is unsent is dropped: killed, hopelessly slow, lost.
    Now,
}

/// Replies that are there while others of the same pipeline are on their way from other cores: they leave
/// together, in one send, unless the others take too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Withheld {
    No,
    Yes,
    TooLong,
}

/// Which replies the client wants (CLIENT REPLY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replies {
    On,
    Off,
    /// All but the next command's.
    SkipNext,
}

/// A command that was decoded together with the one whose reply passed the soft bound: carried out when
/// the output has drained.
pub enum Deferred {
    /// A batch of one.
    Call(Box<Batch>),
    Refusal(Refusal),
}

/// A reply that is not there yet.
struct Pending {
    reply: Option<Out>,
    /// Whether the client wants to see it (CLIENT REPLY).
    wanted: bool,
    /// Where in [`Later`] the finished replies right behind it end.
    followers_end: usize,
}

/// Finished replies behind pending ones, one after the other.
#[derive(Default)]
struct Later {
    out: Out,
    /// Position of the first byte of `out`, counted from the first pending reply on.
    start: usize,
    /// What of `out` has been moved on: bytes, large values.
    moved: usize,
    moved_large: usize,
}

impl Later {
    fn end(&self) -> usize {
        self.start + self.out.bytes.len()
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

/// Moved bytes that [`Later`] keeps before it gets rid of them.
const LATER_MOVED_MAX: usize = 32 * 1024;

/// Emptied output buffers, shared by the connections of a core.
#[derive(Default)]
pub struct OutPool {
    spare: Vec<Out>,
    spare_bytes: usize,
}

const SPARE_BYTES_MAX: usize = 8 * 1024 * 1024;
const SPARE_OUT_BYTES_MAX: usize = 256 * 1024;
const OUT_BYTES_INITIAL: usize = 4096;
/// More than this leaves at once, whatever is still to come.
const WITHHELD_BYTES_MAX: usize = 16 * 1024;

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

pub struct Connection {
    /// Tells this connection from earlier ones in the same place.
    pub generation: u32,
    pub wire: Wire,
    pub pause: Pause,
    pub closing: Closing,
    replies: Replies,
    /// Its replies are on the list of those to be sent.
    pub dirty: bool,
    /// Its bytes wait on the list of those to be decoded again.
    pub resuming: bool,
    /// It came in by its core's own port: foreign keys are answered with MOVED.
    pub own_port: bool,
    /// The client has shut down its side: what is owed is still answered.
    pub input_ended: bool,
    /// It has been told that nothing more comes, and is given time to read that.
    pub lingers: bool,
    /// While closing: input is still received, and thrown away, until `activity.bytes_received` is here.
    discards_to: u64,
    /// Replies ready to leave, in order.
    pub out: Out,
    withheld: Withheld,
    /// Bytes handed to the ring and not yet acknowledged.
    pub in_flight: usize,
    decoder: Decoder,
    /// The beginning of a command whose end has not arrived.
    partial: Vec<u8>,
    /// At least so many bytes are missing behind `partial`.
    missing: usize,
    /// Decoded, but not to be carried out before the output has drained.
    deferred: VecDeque<Deferred>,
    /// Input that arrived while it could not be used, and how much of it has been used since.
    stash: Vec<u8>,
    stash_from: usize,
    large_in: Option<LargeIn>,
    /// Large values of the incomplete command.
    large: Vec<Bytes>,
    pending: VecDeque<Pending>,
    later: Later,
    /// Sequence number of the first pending reply.
    pending_first: u32,
    /// Bytes of replies that are there and wait in `pending` for earlier ones.
    held_up: usize,
    pub activity: Activity,
    pub record: Box<ClientRecord>,
}

/// Commands that later ones of the same connection must not overtake: they take several steps, or end
/// the connection.
pub fn is_barrier(spec: &Spec) -> bool {
    match spec.route {
        Route::Pair | Route::Addressed => true,
        Route::Split => spec.op == Op::MSetNx,
        Route::Local => spec.op == Op::Quit,
        // Every core answers: one such command of a connection at a time.
        Route::Every => true,
        Route::Key => false,
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
    pub fn new(generation: u32, own_port: bool, record: Box<ClientRecord>) -> Connection {
        Connection {
            generation,
            wire: Wire::Resp2,
            pause: Pause::default(),
            closing: Closing::No,
            replies: Replies::On,
            dirty: false,
            resuming: false,
            own_port,
            input_ended: false,
            lingers: false,
            discards_to: 0,
            out: Out::default(),
            withheld: Withheld::No,
            in_flight: 0,
            decoder: Decoder::default(),
            partial: Vec::new(),
            missing: 0,
            deferred: VecDeque::new(),
            stash: Vec::new(),
            stash_from: 0,
            large_in: None,
            large: Vec::new(),
            pending: VecDeque::new(),
            later: Later::default(),
            pending_first: 0,
            held_up: 0,
            activity: Activity::default(),
            record,
        }
    }

    // ---- input ----------------------------------------------------------------------------------

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
                        self.partial.extend_from_slice(&input[from..]);
                        self.missing = at_least;
                    }
                    return input.len();
                }
                Stretch::Large { from: start, end, len } => {
                    self.partial = batch.piece();
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

    /// Replies of a binary connection are binary from the first one on.
    #[inline]
    fn detect_wire(&mut self) {
        if self.wire == Wire::Resp2 && self.decoder.protocol() == Some(Protocol::Binary) {
            self.wire = Wire::Binary;
        }
    }

    fn push(&mut self, index: u32, verb: Verb, source: Source, input: &[u8], args_from: usize, batch: &mut TurnBatch) {
        self.detect_wire();
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
        self.large_in = Some(large);
        if whole {
            self.large_arrived();
        }
    }

    /// Whether a command that is due now has to wait until the output has drained.
    #[inline]
    pub fn defers(&self) -> bool {
        self.pause.has(Pause::OUTPUT) || !self.deferred.is_empty()
    }

    pub fn defer(&mut self, deferred: Deferred) {
        self.deferred.push_back(deferred);
    }

    /// The next deferred command, if it may be carried out now.
    pub fn next_deferred(&mut self) -> Option<Deferred> {
        if self.can_resume() { self.deferred.pop_front() } else { None }
    }

    /// Whether the connection may go on. A barrier among the deferred commands holds up only what comes
    /// behind it.
    pub fn can_resume(&self) -> bool {
        if self.deferred.is_empty() {
            !self.pause.any()
        } else {
            !self.pause.has(Pause::OUTPUT) && !self.pause.has(Pause::MESH)
        }
    }

    /// Whether input cannot be used now: the connection is paused, or what came before goes first.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.pause.any() || !self.stash.is_empty() || !self.deferred.is_empty()
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
        self.partial.len() + self.stash_len() + large + large_in
    }

    /// Whether more input is of use now: paused connections take only so much.
    pub fn wants_input(&self) -> bool {
        match self.closing {
            Closing::No => self.stash_len() < limits::RECV_BUFFER_BYTES,
            Closing::AfterReplies => self.discards(),
            Closing::Now => false,
        }
    }

    /// Nothing that the client sends is understood any more. It is still received for a while: closing a
    /// socket with unread input resets it, and the client would lose the error that says why.
    pub fn close_after_error(&mut self) {
        self.closing = Closing::AfterReplies;
        self.discards_to = self.activity.bytes_received + limits::LINGER_BYTES_MAX as u64;
        self.large_in = None;
        self.large.clear();
    }

    fn discards(&self) -> bool {
        self.activity.bytes_received < self.discards_to && !self.input_ended
    }

    /// Whether all is sent and only the client's end is waited for.
    pub fn begins_to_linger(&self) -> bool {
        self.closing == Closing::AfterReplies && !self.lingers && self.owes_nothing() && self.discards()
    }

    /// Waits for the client no longer.
    pub fn stop_lingering(&mut self) {
        self.discards_to = 0;
    }

    fn owes_nothing(&self) -> bool {
        self.pending.is_empty() && self.unsent() == 0
    }

    // ---- output ---------------------------------------------------------------------------------

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

    /// Whether the reply of the command being applied is to be sent.
    fn reply_wanted(&mut self) -> bool {
        if self.replies == Replies::SkipNext {
            self.replies = Replies::On;
            return false;
        }
        self.replies == Replies::On
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
        self.pending.push_back(Pending { reply: None, wanted, followers_end: self.later.end() });
        sequence
    }

    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// The awaited reply `sequence` has come, already encoded, as `range` of `from` (see
    /// [`Out::append_range`]).
    pub fn complete_with_range(
        &mut self,
        sequence: u32,
        from: &Out,
        range: std::ops::Range<usize>,
        first_large: usize,
        pool: &mut OutPool,
    ) {
        let place = sequence.wrapping_sub(self.pending_first) as usize;
        let wanted = self.pending[place].wanted;
        if place == 0 {
            if self.out.bytes.capacity() == 0 {
                self.out = pool.take();
            }
            if wanted {
                self.out.append_range(from, range, first_large);
            }
            self.release_head(pool);
        } else {
            let mut reply = pool.take();
            if wanted {
                reply.append_range(from, range, first_large);
            }
            self.held_up += reply.len();
            self.pending[place].reply = Some(reply);
        }
    }

    /// The awaited reply `sequence` has been made here.
    pub fn complete(&mut self, sequence: u32, wire: Wire, reply: &Reply<'_>, pool: &mut OutPool) {
        let mut encoded = pool.take();
        proto::encode(wire, reply, &mut encoded);
        let len = encoded.bytes.len();
        self.complete_with_range(sequence, &encoded, 0..len, 0, pool);
        pool.give_back(encoded);
    }

    /// The first pending reply has been written to `out`: its followers come next, then whatever is
    /// complete behind them.
    fn release_head(&mut self, pool: &mut OutPool) {
        let Some(head) = self.pending.pop_front() else { return };
        self.pending_first = self.pending_first.wrapping_add(1);
        self.held_up -= self.later.move_to(head.followers_end, &mut self.out);
        while self.pending.front().is_some_and(|next| next.reply.is_some()) {
            let next = self.pending.pop_front().expect("just seen");
            self.pending_first = self.pending_first.wrapping_add(1);
            self.append(next.reply.expect("just seen"), pool);
            self.held_up -= self.later.move_to(next.followers_end, &mut self.out);
        }
        if self.pending.is_empty() {
            pool.give_back(std::mem::take(&mut self.later).out);
        }
    }

    fn append(&mut self, from: Out, pool: &mut OutPool) {
        if !from.is_empty() {
            self.held_up -= from.len();
            self.out.append_range(&from, 0..from.bytes.len(), 0);
        }
        pool.give_back(from);
    }

    /// Whether what is ready had better wait for what comes from other cores. Says `Some(true)` the first time.
    pub fn withholds(&mut self) -> Option<bool> {
        if self.pending.is_empty() || self.withheld == Withheld::TooLong || self.out.len() > WITHHELD_BYTES_MAX {
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

    /// Whether nothing is owed any more and the connection can go.
    pub fn is_finished(&self) -> bool {
        match self.closing {
            Closing::Now => true,
            Closing::AfterReplies => self.owes_nothing() && !self.discards(),
            Closing::No => {
                self.input_ended
                    && !self.pause.any()
                    && self.deferred.is_empty()
                    && !self.resuming
                    && self.stash.is_empty()
                    && self.owes_nothing()
            }
        }
    }

    /// The line of CLIENT LIST, with the numbers of this moment.
    pub fn client_line(&mut self, now: Now) -> String {
        let (query_bytes, output_bytes) = (self.input_len(), self.unsent());
        let record = &mut self.record;
        record.activity = self.activity;
        record.wire = self.wire;
        record.query_bytes = query_bytes;
        record.query_bytes_free = self.partial.capacity() - self.partial.len();
        record.output_bytes = output_bytes;
        record.flags.close_after_reply = self.closing != Closing::No;
        record.line(now.uptime_us)
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

#[cfg(test)]
mod tests;
