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

mod gates;
mod input;
mod names;
mod output;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Now;
use crate::command::{Op, Route, Spec};
use crate::engine::access::Permit;
use crate::engine::batch::Batch;
use crate::engine::clients::{Activity, ClientRecord};
use crate::limits;
use crate::namespace::Databases;
use crate::proto::Decoder;
use crate::proto::json::Id;
use crate::ratelimit::Bucket;
use crate::reply::Out;
use crate::request::Wire;

pub use input::LargeIn;
pub use output::OutPool;
use output::{Later, Pending, Replies, Withheld};
pub use turn::{Decoded, Received, Refusal, Source, TurnBatch, What};

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
    /// What is under way has to be answered first: found out when the command was to be carried out.
    pub const FENCE: Pause = Pause(1 << 3);
    /// A write waits for room in the log.
    pub const LOG: Pause = Pause(1 << 4);
    /// CLIENT PAUSE.
    pub const CLIENTS: Pause = Pause(1 << 5);
    /// Its rate is used up.
    pub const RATE: Pause = Pause(1 << 6);
    /// What keeps commands waiting that have been decoded.
    const DEFERS: Pause =
        Pause(Self::OUTPUT.0 | Self::MESH.0 | Self::FENCE.0 | Self::LOG.0 | Self::CLIENTS.0 | Self::RATE.0);

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

/// States in which a command is not simply carried out. Looked at once per command, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Modes(u8);

impl Modes {
    /// It listens to a channel or a pattern.
    pub const SUBSCRIBED: Modes = Modes(1);
    /// Between MULTI and EXEC.
    pub const QUEUING: Modes = Modes(1 << 1);
    /// It watches keys.
    pub const WATCHING: Modes = Modes(1 << 2);
    /// It is shown every command.
    pub const MONITORING: Modes = Modes(1 << 3);
    /// It is told when keys that it has read change.
    pub const TRACKING: Modes = Modes(1 << 4);
    /// It may not do everything: each command is looked at.
    pub const RESTRICTED: Modes = Modes(1 << 7);

    #[inline]
    pub fn any(self) -> bool {
        self.0 != 0
    }

    pub fn has(self, other: Modes) -> bool {
        self.0 & other.0 != 0
    }

    pub fn set(&mut self, mode: Modes, on: bool) {
        if on { self.0 |= mode.0 } else { self.0 &= !mode.0 }
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

/// A command that was decoded together with the one whose reply passed the soft bound: carried out when
/// the output has drained.
pub enum Deferred {
    /// A batch of one.
    Call(Box<Batch>),
    Refusal(Refusal),
}

/// Of one connection: commands and bytes.
pub struct OwnRates {
    pub commands: Bucket,
    pub bytes: Bucket,
}

impl Deferred {
    fn held_bytes(&self) -> usize {
        match self {
            Deferred::Call(call) => size_of::<Batch>() + call.held_bytes(),
            Deferred::Refusal(_) => size_of::<Refusal>(),
        }
    }
}

/// What a connection has taken of its output: all of earlier sends, and of the one that is under way.
pub type Taken = (u64, u64);

pub struct Connection {
    /// Tells this connection from earlier ones in the same place.
    pub generation: u32,
    pub wire: Wire,
    pub pause: Pause,
    pub modes: Modes,
    /// What each database shows.
    pub databases: Databases,
    /// Who it is, once it has said so.
    pub permit: Option<Arc<Permit>>,
    /// A client of this process itself, which may do everything.
    pub is_trusted: bool,
    /// What is left of its own rates, where it has any.
    pub rates: Option<Box<OwnRates>>,
    /// It counts among those that have not said who they are.
    pub is_newcomer: bool,
    /// Bytes moved that its token, its address and itself have been charged for.
    pub bytes_charged: u64,
    /// What it held when that was last taken note of.
    pub bytes_accounted: usize,
    /// What the next reply of another core is expected to take, by those of late; and what all that are awaited are.
    reply_bytes_expected: usize,
    awaited_bytes: usize,
    /// While its output is above the hard bound: since when it has taken nothing of it, and what it had taken by then.
    pub overdue: Option<(u64, Taken)>,
    /// When its commands began to wait for its output to leave, unless that has been counted.
    pub output_paused_us: Option<u64>,
    /// What it has taken of the send that is under way.
    pub taken_of_send: u64,
    pub closing: Closing,
    replies: Replies,
    /// Stands before every key that it names; empty in the global namespace.
    key_prefix: Box<[u8]>,
    /// What the replies to come have to echo: one for each command that was decoded, if it speaks JSON lines.
    line_ids: VecDeque<Option<Id>>,
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
    /// A request has begun since somebody last looked, and when that look was.
    request_is_new: bool,
    request_since_us: u64,
    /// Decoded, but not to be carried out before the output has drained.
    deferred: VecDeque<Deferred>,
    deferred_bytes: usize,
    /// Input that arrived while it could not be used, and how much of it has been used since.
    stash: Vec<u8>,
    stash_from: usize,
    large_in: Option<LargeIn>,
    /// What the ring may receive into a large value that it has.
    large_lent: usize,
    /// Large values of the incomplete command.
    large: Vec<Bytes>,
    pending: VecDeque<Pending>,
    later: Later,
    /// Where in `later` the replies stand that wait for a log, and not only behind one that does.
    held_replies: VecDeque<Range<usize>>,
    /// Sequence number of the first pending reply.
    pending_first: u32,
    /// Bytes of replies that are there and wait in `pending` for earlier ones.
    held_up: usize,
    /// Of the pending replies: those of PUBLISH, which need not wait for each other.
    pub publishes_pending: u32,
    /// `uptime_us` since when more is unsent than a subscriber may leave lying for long.
    pub lagging_since_us: Option<u64>,
    pub activity: Activity,
    pub record: Box<ClientRecord>,
}

/// Commands that later ones of the same connection must not overtake: they take several steps, or end
/// the connection.
pub fn is_barrier(spec: &Spec) -> bool {
    match spec.route {
        Route::Pair | Route::Addressed => true,
        Route::Split => spec.op == Op::MSetNx,
        // What follows may depend on who it is, or where.
        Route::Local => matches!(
            spec.op,
            Op::Quit
                | Op::Auth
                | Op::Hello
                | Op::Wait
                | Op::Debug
                | Op::ClientTracking
                | Op::Reset
                | Op::Select
                | Op::NamespaceUse
        ),
        // Every core answers: one such command of a connection at a time.
        Route::Every => true,
        Route::Key => false,
    }
}

impl Connection {
    pub fn new(generation: u32, own_port: bool, record: Box<ClientRecord>) -> Connection {
        Connection {
            generation,
            wire: Wire::Resp2,
            pause: Pause::default(),
            modes: Modes::default(),
            databases: Databases::default(),
            permit: None,
            is_trusted: false,
            rates: None,
            is_newcomer: false,
            bytes_charged: 0,
            bytes_accounted: 0,
            reply_bytes_expected: limits::REPLY_BYTES_EXPECTED_FIRST,
            awaited_bytes: 0,
            overdue: None,
            output_paused_us: None,
            taken_of_send: 0,
            closing: Closing::No,
            replies: Replies::On,
            key_prefix: Box::default(),
            line_ids: VecDeque::new(),
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
            request_is_new: false,
            request_since_us: 0,
            deferred: VecDeque::new(),
            deferred_bytes: 0,
            stash: Vec::new(),
            stash_from: 0,
            large_in: None,
            large_lent: 0,
            large: Vec::new(),
            pending: VecDeque::new(),
            later: Later::default(),
            held_replies: VecDeque::new(),
            pending_first: 0,
            held_up: 0,
            publishes_pending: 0,
            lagging_since_us: None,
            activity: Activity::default(),
            record,
        }
    }

    /// Whether a command that is due now has to wait until the output has drained.
    #[inline]
    pub fn defers(&self) -> bool {
        self.pause.has(Pause::DEFERS) || !self.deferred.is_empty()
    }

    pub fn defer(&mut self, deferred: Deferred) {
        self.deferred_bytes += deferred.held_bytes();
        self.deferred.push_back(deferred);
    }

    /// The command that was to be carried out waits until everything before it has been answered; so do those
    /// behind it.
    pub fn defer_until_answered(&mut self, deferred: Deferred) {
        self.pause.add(Pause::FENCE);
        self.defer_first(deferred);
    }

    /// Whether a command waited for everything before it, and need not any more.
    #[inline]
    pub fn lift_fence(&mut self) -> bool {
        let lifts = self.pause.has(Pause::FENCE) && self.pending_len() == 0;
        if lifts {
            self.pause.remove(Pause::FENCE);
        }
        lifts
    }

    /// Puts a command back that could not be carried out after all.
    pub fn defer_first(&mut self, deferred: Deferred) {
        self.deferred_bytes += deferred.held_bytes();
        self.deferred.push_front(deferred);
    }

    /// The next deferred command, if it may be carried out now.
    pub fn next_deferred(&mut self) -> Option<Deferred> {
        let deferred = if self.can_resume() { self.deferred.pop_front() } else { None }?;
        self.deferred_bytes -= deferred.held_bytes();
        Some(deferred)
    }

    /// Whether the connection may go on. A barrier among the deferred commands holds up only what comes
    /// behind it.
    pub fn can_resume(&self) -> bool {
        if self.deferred.is_empty() {
            !self.pause.any()
        } else {
            !self.pause.has(Pause::OUTPUT)
                && !self.pause.has(Pause::MESH)
                && !self.pause.has(Pause::FENCE)
                && !self.pause.has(Pause::LOG)
                && !self.pause.has(Pause::CLIENTS)
                && !self.pause.has(Pause::RATE)
        }
    }

    /// Whether input cannot be used now: the connection is paused, or what came before goes first.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.pause.any() || !self.stash.is_empty() || !self.deferred.is_empty()
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
        let last = self.activity.last_command.map(|spec| spec.op);
        let is_blocked = !self.pending.is_empty() && matches!(last, Some(Op::GetFill | Op::Wait | Op::WaitAof));
        let record = &mut self.record;
        record.activity = self.activity;
        record.wire = self.wire;
        record.query_bytes = query_bytes;
        record.query_bytes_free = self.partial.capacity() - self.partial.len();
        record.output_bytes = output_bytes;
        record.flags.close_after_reply = self.closing != Closing::No;
        record.flags.blocked = is_blocked;
        record.line(now.uptime_us)
    }
}
