//! What travels between cores: batches that go to a core with commands and come back with replies.
//!
//! ```text
//!   core A                                                        core B
//!   outbox: fill ─▶ ship ──── commands, arguments ──────────────▶ serve: apply each, write its reply
//!   absorb ◀─────────────── the same box, replies filled in ◀─────┘ into the same box
//! ```
//!
//! A box always comes back to the core that filled it and is used again, so nothing is allocated in
//! steady state. Only replies of more than a MiB leave in boxes of their own, before the rest is carried
//! out. Each core has at most `in_flight_max` boxes out to each other core, and the way back has room for
//! all of them: returning never waits, so no circle of cores can wait for each other. Commands beyond that
//! wait in the outbox, and the connections they came from stop being decoded.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::command::Spec;
use crate::limits;
use crate::reply::Out;
use crate::request::{ArgRange, Args, Wire};

/// Whom a reply belongs to on the core that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The pending reply `sequence` of a connection.
    Connection { index: u32, generation: u32, sequence: u32 },
    /// One of the answers that a gather collects.
    Gather { index: u32, part: u32 },
    /// Nobody waits for it, or the reply comes by another way.
    Nobody,
}

impl Token {
    /// For the way to another core and back, where its own meaning is of no interest.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        let words = match self {
            Token::Nobody => [0, 0, 0, 0],
            Token::Connection { index, generation, sequence } => [1, index, generation, sequence],
            Token::Gather { index, part } => [2, index, part, 0],
        };
        let mut bytes = [0; 16];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Token {
        let mut words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
        let mut word = || words.next().unwrap_or_default();
        match word() {
            1 => Token::Connection { index: word(), generation: word(), sequence: word() },
            2 => Token::Gather { index: word(), part: word() },
            _ => Token::Nobody,
        }
    }
}

/// What a core is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Carry out the command, or this core's share of it.
    Command,
    /// `cursor _ _ view`: removes the view's keys from some buckets; answers the next cursor.
    Sweep,
    /// The same for a transaction that holds all of this core.
    SweepHeld,
    /// `cursor count slot view`: some steps of a scan; answers the next cursor and the keys.
    Scan,
    /// `slot`: how many keys it holds.
    CountSlot,
    /// Any key at all.
    RandomKey,
    /// `key`: value and expiry.
    Read,
    /// `key value expiry replace`: stores what was read.
    Put,
    /// This core's counters.
    Snapshot,
    /// The same as `Command`, for a transaction that holds the keys.
    Held,
    /// `id flags watched [key version]… key…`: holds the keys for a transaction; answers whether those that are
    /// watched are unchanged, or why it cannot write here.
    Hold,
    /// `id origin number cores`: what the transaction writes here from now on is its part in the log.
    Begin,
    /// `id`: lets go what the transaction holds here; its part in the log is over.
    Release,
    /// `token reply…`: the reply of a command that had to wait for its keys.
    Late,
    /// `line`: what clients that monitor are shown.
    Shown,
    /// `key…`: how many of them there are; not counted as look-ups.
    Present,
    /// `key`: takes it away, because it has a place elsewhere now.
    Take,
    /// `session key…`: the commands behind it read these keys, for whoever caches them.
    Track,
    /// `session`: the command behind it is of a client that does not want to be told of what it writes.
    As,
    /// `session prefix…`: it wants to hear of all such keys.
    Listen,
    /// `session`: it has ended.
    Untrack,
    /// `id`: invalidations of another client go to this one; answers whether it is there.
    Target,
    /// `id`: they do so no more.
    Untarget,
    /// `key session…`: the key is not what they have read.
    Invalidate,
    /// `id session [key]`: the same, for the client that it redirects to; without a key, all keys.
    Redirected,
    /// `session`: the client that it redirects to is gone.
    Broken,
    /// `key`: watches it; answers its version.
    Watch,
    /// `key…`: watches them no more.
    Unwatch,
    /// `key client span stale`: its value, or what is to be done about it. Who has to wait is answered later.
    Fill,
    /// `client`: it is gone, and fills in nothing any more.
    Abandon,
}

#[derive(Clone, Copy, Debug)]
pub struct Remote {
    pub token: Token,
    pub job: Job,
    pub wire: Wire,
    pub spec: &'static Spec,
    pub hash: u64,
    args_from: u32,
    args_count: u32,
}

#[derive(Default)]
pub struct Batch {
    /// The core that filled it and gets it back.
    pub origin: u32,
    /// When it left.
    pub shipped_us: u64,
    pub commands: Vec<Remote>,
    args: Vec<ArgRange>,
    bytes: Vec<u8>,
    large: Vec<Bytes>,
    /// What they hold together.
    large_bytes: usize,
    /// Where in `replies.bytes` the reply of each command ends.
    pub reply_ends: Vec<u32>,
    pub replies: Out,
    /// Replies that wait for groups of the serving core's log: index of the command, group.
    pub gates: Vec<(u32, u64)>,
    /// Some of its commands have been carried out.
    pub(super) is_begun: bool,
    /// It holds the first replies to a batch whose other commands are still to be carried out.
    is_part: bool,
}

/// Empty boxes kept for each other core. More are out at once only in a flood, and a box may hold some hundred
/// KiB: kept for every pair of cores, what one flood needed would stay for ever.
const SPARE_BOXES_MAX: usize = 4;
/// Arguments for which an empty box keeps room.
const ARGS_KEPT_MAX: usize = 16 * limits::MESH_BATCH_COMMANDS;

impl Batch {
    pub fn push(&mut self, token: Token, job: Job, wire: Wire, spec: &'static Spec, hash: u64, args: Args<'_>) {
        let args_from = self.args.len() as u32;
        for index in 0..args.len() {
            match args.large(index) {
                Some(large) => {
                    self.args.push(ArgRange::large(self.large.len()));
                    self.large_bytes += large.len();
                    self.large.push(large.clone());
                }
                None => {
                    let arg = args.get(index);
                    self.args.push(ArgRange::inline(self.bytes.len(), arg.len()));
                    self.bytes.extend_from_slice(arg);
                }
            }
        }
        self.commands.push(Remote { token, job, wire, spec, hash, args_from, args_count: args.len() as u32 });
    }

    /// What it holds of its commands.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.bytes.len() + self.large_bytes + size_of::<ArgRange>() * self.args.len()
    }

    pub fn args_of(&self, command: &Remote) -> Args<'_> {
        Args::new(&self.bytes, &self.args[command.args_from as usize..][..command.args_count as usize], &self.large)
    }

    fn is_full(&self, commands_max: usize) -> bool {
        self.commands.len() >= commands_max || self.bytes.len() + self.large_bytes >= limits::MESH_BATCH_BYTES
    }

    /// Whether it holds replies.
    pub fn has_answers(&self) -> bool {
        !self.reply_ends.is_empty()
    }

    /// Whether it is one that [`Batch::part`] has taken out of another.
    pub fn is_part(&self) -> bool {
        self.is_part
    }

    /// Takes out what has been answered so far, to be sent home alone.
    pub fn part(&mut self) -> Box<Batch> {
        Box::new(Batch {
            origin: self.origin,
            shipped_us: self.shipped_us,
            commands: self.commands.drain(..self.reply_ends.len()).collect(),
            reply_ends: std::mem::take(&mut self.reply_ends),
            replies: std::mem::take(&mut self.replies),
            gates: std::mem::take(&mut self.gates),
            is_part: true,
            ..Batch::default()
        })
    }

    fn clear(&mut self) {
        self.is_begun = false;
        self.commands.clear();
        self.args.clear();
        self.large.clear();
        self.large_bytes = 0;
        self.reply_ends.clear();
        self.replies.clear();
        self.gates.clear();
        self.bytes.clear();
        // One huge command must not keep its memory in a box for ever.
        if self.bytes.capacity() > 2 * limits::MESH_BATCH_BYTES {
            self.bytes = Vec::new();
        }
        if self.replies.bytes.capacity() > 2 * limits::MESH_REPLY_BYTES {
            self.replies = Out::default();
        }
        self.args.shrink_to(ARGS_KEPT_MAX);
        self.large.shrink_to(ARGS_KEPT_MAX);
        self.replies.large.shrink_to(ARGS_KEPT_MAX);
    }
}

/// What is on its way to one other core.
pub struct Outbox {
    origin: u32,
    /// The batch being filled.
    pub(super) open: Option<Box<Batch>>,
    /// Full ones that wait for the way to be free.
    pub(super) waiting: VecDeque<Box<Batch>>,
    /// Boxes out at the moment, and how many there may be.
    pub(super) in_flight: usize,
    in_flight_max: usize,
    waiting_max: usize,
    /// So many commands make a batch, by what the replies of the last one took.
    commands_max: usize,
    /// Empty boxes that came back.
    #[allow(clippy::vec_box, reason = "the boxes are what travels")]
    pub(super) spare: Vec<Box<Batch>>,
}

impl Outbox {
    pub fn new(origin: u32, in_flight_max: usize, waiting_max: usize) -> Outbox {
        assert!(in_flight_max > 0);
        Outbox {
            origin,
            open: None,
            waiting: VecDeque::new(),
            in_flight: 0,
            in_flight_max,
            waiting_max,
            commands_max: limits::MESH_BATCH_COMMANDS,
            spare: Vec::new(),
        }
    }

    /// The batch to write the next command into.
    #[inline]
    pub fn open(&mut self) -> &mut Batch {
        if self.open.as_ref().is_some_and(|batch| batch.is_full(self.commands_max)) {
            self.waiting.extend(self.open.take());
        }
        self.open.get_or_insert_with(|| {
            self.spare.pop().unwrap_or_else(|| Box::new(Batch { origin: self.origin, ..Batch::default() }))
        })
    }

    /// The next batch to hand to the mesh, if the way is free.
    pub fn ship(&mut self) -> Option<Box<Batch>> {
        if self.in_flight == self.in_flight_max {
            return None;
        }
        let batch = self.waiting.pop_front().or_else(|| self.open.take())?;
        self.in_flight += 1;
        Some(batch)
    }

    /// A batch has come back and its replies have been read.
    pub fn returned(&mut self, mut batch: Box<Batch>) {
        debug_assert!(self.in_flight > 0);
        // Replies that outgrow the caches of both cores, and the room that a box keeps, cost more than more batches.
        let reply_bytes = batch.replies.bytes.len() / batch.commands.len().max(1);
        let commands_max = limits::MESH_REPLY_BYTES / reply_bytes.max(1);
        self.commands_max = commands_max.clamp(limits::MESH_BATCH_COMMANDS_MIN, limits::MESH_BATCH_COMMANDS);
        if batch.is_part {
            return;
        }
        self.in_flight -= 1;
        batch.clear();
        if self.spare.len() < SPARE_BOXES_MAX.min(self.in_flight_max) {
            self.spare.push(batch);
        }
    }

    /// Whether connections should send no more this way for now.
    #[inline]
    pub fn is_congested(&self) -> bool {
        self.waiting.len() > self.waiting_max
    }

    /// Whether so much waits that nobody is told of keys that have changed.
    pub fn is_too_full_for_news(&self) -> bool {
        self.waiting.len() > self.waiting_max * limits::MESH_NEWS_FACTOR
    }

    /// Whether something is there that could be shipped.
    #[inline]
    pub fn can_ship(&self) -> bool {
        self.in_flight < self.in_flight_max && (self.open.is_some() || !self.waiting.is_empty())
    }

    pub fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.waiting.is_empty() && self.open.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Op, spec_of};

    /// Fills boxes with `commands` and returns how many were in the first.
    fn first_batch(outbox: &mut Outbox, commands: usize) -> Box<Batch> {
        for _ in 0..commands {
            let ranges = [ArgRange::inline(0, 1)];
            let args = Args::new(b"k", &ranges, &[]);
            outbox.open().push(Token::Nobody, Job::Command, Wire::Resp2, spec_of(Op::Get), 0, args);
        }
        let batch = outbox.ship().expect("the way is free");
        outbox.waiting.clear();
        outbox.open = None;
        batch
    }

    #[test]
    fn batches_are_as_small_as_their_replies_are_large() {
        let mut outbox = Outbox::new(0, 4, 4);
        let mut sizes = Vec::new();
        for reply_bytes in [5, 1024, 100_000, 0] {
            let mut batch = first_batch(&mut outbox, 1000);
            sizes.push(batch.commands.len());
            batch.replies.bytes.resize(reply_bytes * batch.commands.len(), b'x');
            outbox.returned(batch);
        }
        sizes.push(first_batch(&mut outbox, 1000).commands.len());
        let (most, fewest) = (limits::MESH_BATCH_COMMANDS, limits::MESH_BATCH_COMMANDS_MIN);
        assert_eq!(sizes, [most, most, limits::MESH_REPLY_BYTES / 1024, fewest, most]);
        assert!(outbox.spare.iter().all(|batch| batch.replies.bytes.capacity() <= 2 * limits::MESH_REPLY_BYTES));
    }
}
