//! Several commands as one, or one command over several cores: its keys are held, its commands sent to where the
//! keys live, and the keys let go behind them.
//!
//! ```text
//!   MULTI … EXEC                 ─┐
//!   MSET, RENAME … over cores    ─┴▶ hold core after core ─▶ run: every command to its core, in order
//!   FLUSHALL                                                └▶ release, right behind the last command
//! ```
//!
//! Everybody else meets the keys as they were before the first hold was granted or as they are after the last
//! command: all holds are there before the first command is carried out, and none is let go before the last has
//! been sent.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::batch::{Batch, Job, Token};
use super::gather::{Ask, Gather, Kind, Progress};
use super::holding::{HOLD_WHOLE, HOLD_WRITES};
use super::journal::Gate;
use super::{Engine, GatherEntry, Outcome};
use crate::command::{Flags, Op, Route, Spec, spec_of};
use crate::connection::{Deferred, Modes, Pause};
use crate::limits;
use crate::namespace::{SWAPPED_KEY, View};
use crate::reply::{Reply, ReplyError};
use crate::request::{ArgRange, Args, Wire, joined};
use crate::wal::record;

/// What a client has said since MULTI, and what it watches.
#[derive(Default)]
pub(super) struct Open {
    queue: Box<Batch>,
    queued_bytes: usize,
    /// A command was refused: EXEC will be.
    pub has_failed: bool,
    watched: Vec<WatchedKey>,
    watched_bytes: usize,
}

impl Open {
    /// What it takes to keep all that.
    pub(super) fn held_bytes(&self) -> usize {
        self.queued_bytes + self.watched_bytes
    }
}

struct WatchedKey {
    core: u32,
    key: Bytes,
    version: u64,
}

/// What a command of a transaction asks and answers, instead of its connection.
pub(super) struct Draft {
    pub kind: Option<Kind>,
    pub asks: Vec<Ask>,
    pub reply: Option<Reply<'static>>,
    /// What its client saw when the transaction began: by now the client may be gone, and another in its place.
    pub view: View,
}

pub struct Transaction {
    queue: Box<Batch>,
    /// By core, ascending.
    shares: Vec<Share>,
    /// How many of them are granted.
    granted: usize,
    /// A key that it watches has changed.
    is_dirty: bool,
    /// Why a core cannot write.
    refusal: Option<Reply<'static>>,
    /// The cores whose logs get a part of it, four bytes each; empty if it takes no part anywhere, or begun.
    logged_by: Vec<u8>,
    runs: Vec<Run>,
    /// By the part of an answer: which command asked, and which part of it this is.
    routes: Vec<(u32, u32)>,
    /// Answers that have not come.
    outstanding: usize,
    /// What has been answered so far takes so much, with what is not kept because the client could not be sent all of it.
    reply_bytes: usize,
    is_released: bool,
    /// Its one command's reply is the reply.
    is_bare: bool,
    view: View,
}

/// What is held on one core.
#[derive(Default)]
struct Share {
    core: u32,
    is_whole: bool,
    /// Its log gets a part: the transaction writes here, or copies from here what it writes elsewhere.
    is_logged: bool,
    keys: Vec<Bytes>,
    watched: Vec<(Bytes, u64)>,
}

enum Run {
    Asked(Box<Gather>),
    Answered(Reply<'static>),
}

impl Share {
    fn hold(&mut self, key: Bytes) {
        if self.keys.len() == limits::HELD_KEYS_MAX {
            // The same keys again are none more. At least half of the room is won, or else the whole core is held: so
            // this is seldom done.
            self.keys.sort_unstable();
            self.keys.dedup();
            self.is_whole |= self.keys.len() > limits::HELD_KEYS_MAX / 2;
        }
        if !self.is_whole {
            self.keys.push(key);
        }
    }

    /// Nothing more is named.
    fn settle(&mut self) {
        self.is_whole |= self.keys.len() + self.watched.len() > limits::HELD_KEYS_MAX;
        if self.is_whole {
            self.keys = Vec::new();
        }
    }
}

/// What it takes to watch a key, here and where it lives.
fn watched_bytes(key: &[u8]) -> usize {
    2 * (key.len() + size_of::<WatchedKey>())
}

/// Nobody shall take it for something to be done again.
pub const REPLIES_TOO_LARGE: &str =
    "ERR the transaction was carried out, and its replies are larger than the output of a client may be";

/// The answer to a request for a hold.
const HOLD_PART: u32 = u32::MAX;

impl Open {
    /// Whether a command of the queue writes.
    pub fn writes(&self) -> bool {
        self.queue.commands.iter().any(|command| command.spec.flags.has(Flags::WRITE))
    }
}

impl Transaction {
    /// Whether the next command has to wait: the one before takes several steps, or this one changes what holds for
    /// those that have not been answered.
    fn is_in_steps(&self) -> bool {
        let next = self.queue.commands.get(self.runs.len());
        if self.outstanding > 0 && next.is_some_and(|next| next.spec.op.changes_settings()) {
            return true;
        }
        match self.runs.last() {
            Some(Run::Asked(gather)) => matches!(
                gather.kind,
                Kind::SetIfNone { .. }
                    | Kind::Rename { .. }
                    | Kind::Copy { .. }
                    | Kind::Scan { .. }
                    | Kind::Sweep { .. }
                    | Kind::Collect { .. }
                    | Kind::AnyKey { .. }
            ),
            _ => false,
        }
    }

    fn has_sent_all(&self) -> bool {
        self.runs.len() == self.queue.commands.len() && !self.is_in_steps()
    }

    /// A command's reply, unless all of them together are more than may be sent: then none will be.
    fn keep(&mut self, reply: Reply<'static>, bytes_max: usize) -> Run {
        self.reply_bytes = self.reply_bytes.saturating_add(reply.kept_bytes());
        Run::Answered(if self.reply_bytes > bytes_max { Reply::Nil } else { reply })
    }

    /// The place of a question's answer.
    fn part_for(&mut self, run: usize, part: u32) -> u32 {
        self.routes.push((run as u32, part));
        self.outstanding += 1;
        self.routes.len() as u32 - 1
    }
}

impl Engine {
    // ---- the client's side ----------------------------------------------------------------------

    pub(super) fn multi(&mut self, index: u32, spec: &'static Spec) -> Outcome {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return Outcome::Answered };
        if connection.modes.has(Modes::QUEUING) {
            return self.answer(index, spec, &Reply::error("ERR MULTI calls can not be nested"));
        }
        connection.modes.set(Modes::QUEUING, true);
        connection.record.queued = Some(0);
        let open = self.open_transactions.entry(index).or_default();
        *open.queue = Batch::default();
        open.queued_bytes = 0;
        open.has_failed = false;
        self.write_reply(index, &Reply::Ok)
    }

    /// A command between MULTI and EXEC.
    pub(super) fn queue(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) {
        let refused = self.refusal_in_queue(index, spec, args);
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let Some(open) = self.open_transactions.get_mut(&index) else { return };
        let bytes: usize = args.iter().map(|arg| arg.len() + size_of::<ArgRange>()).sum();
        let is_full = open.queued_bytes + bytes > limits::TRANSACTION_BYTES_MAX
            || open.queue.commands.len() == limits::TRANSACTION_COMMANDS_MAX;
        let refused = refused.or_else(|| is_full.then(|| ReplyError::Other("ERR transaction is too large".into())));
        match refused {
            Some(error) => {
                open.has_failed = true;
                self.counters.count_rejected(spec.op, &error);
                self.write_reply(index, &Reply::Error(error));
            }
            None => {
                open.queued_bytes += bytes;
                open.queue.push(Token::Nobody, Job::Command, connection.wire, spec, 0, args);
                connection.record.queued = Some(open.queue.commands.len() as u32);
                self.write_reply(index, &Reply::Status("QUEUED"));
            }
        }
    }

    /// Why a command cannot be part of a transaction.
    fn refusal_in_queue(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Option<ReplyError<'static>> {
        let changes_connection = matches!(spec.op, Op::ClientReply | Op::ClientTracking | Op::Hello);
        if changes_connection || spec.op.changes_subscriptions() {
            return Some(ReplyError::Other("ERR Command not allowed inside a transaction".into()));
        }
        if spec.keys.first == 0 {
            return None;
        }
        match self.common_owner(index, spec, args) {
            Err(Reply::Error(error)) => Some(error),
            _ => None,
        }
    }

    /// A command could not be queued: EXEC will say so.
    pub(super) fn fail_transaction(&mut self, index: u32) {
        let is_queuing = self.connections[index as usize].as_deref().is_some_and(|it| it.modes.has(Modes::QUEUING));
        if is_queuing && let Some(open) = self.open_transactions.get_mut(&index) {
            open.has_failed = true;
        }
    }

    pub(super) fn exec(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if !self.is_queuing(index) {
            return self.answer(index, spec, &Reply::error("ERR EXEC without MULTI"));
        }
        if self.waits_for_answers(index, spec, args) {
            return Outcome::Answered;
        }
        let open = self.leave_queue(index);
        if open.has_failed {
            self.unwatch(open.watched);
            self.counters.transactions_refused += 1;
            let error = "EXECABORT Transaction discarded because of previous errors.";
            return self.answer(index, spec, &Reply::error(error));
        }
        if open.queue.commands.is_empty() && open.watched.is_empty() {
            return self.write_reply(index, &Reply::Array(vec![]));
        }
        self.begin_transaction(index, spec, open.queue, open.watched, false)
    }

    pub(super) fn discard(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if !self.is_queuing(index) {
            return self.answer(index, spec, &Reply::error("ERR DISCARD without MULTI"));
        }
        if self.waits_for_answers(index, spec, args) {
            return Outcome::Answered;
        }
        let open = self.leave_queue(index);
        self.unwatch(open.watched);
        self.write_reply(index, &Reply::Ok)
    }

    fn is_queuing(&self, index: u32) -> bool {
        self.connections[index as usize].as_deref().is_some_and(|connection| connection.modes.has(Modes::QUEUING))
    }

    /// Ends what MULTI and WATCH began.
    fn leave_queue(&mut self, index: u32) -> Open {
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.modes.set(Modes::QUEUING, false);
            connection.modes.set(Modes::WATCHING, false);
            connection.record.queued = None;
        }
        self.open_transactions.remove(&index).unwrap_or_default()
    }

    /// What came before has to be answered first: a version that is watched may still be on its way. If so, the
    /// command is carried out later.
    pub(super) fn waits_for_answers(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> bool {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return false };
        if connection.pending_len() == 0 {
            return false;
        }
        let mut call = Box::<Batch>::default();
        call.push(Token::Nobody, Job::Command, connection.wire, spec, 0, args);
        connection.defer_until_answered(Deferred::Call(call));
        self.counters.uncount_call(spec.op);
        true
    }

    // ---- watching -------------------------------------------------------------------------------

    pub(super) fn watch(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if self.is_queuing(index) {
            return self.answer(index, spec, &Reply::error("ERR WATCH inside MULTI is not allowed"));
        }
        if let Err(error) = self.common_owner(index, spec, args) {
            return self.redirect(index, spec, &error);
        }
        let known = self.open_transactions.get(&index).map_or(0, |open| open.watched.len());
        let bytes = self.open_transactions.get(&index).map_or(0, |open| open.watched_bytes);
        let more: usize = args.iter().map(watched_bytes).sum();
        if known + args.len() > limits::WATCHED_KEYS_MAX || bytes + more > limits::TRANSACTION_BYTES_MAX {
            return self.answer(index, spec, &Reply::error("ERR too many watched keys"));
        }
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.modes.set(Modes::WATCHING, true);
        }
        let keys: Vec<(u32, Bytes)> =
            (0..args.len()).map(|arg| (self.owner_of(args.get(arg)), args.to_bytes(arg))).collect();
        let versions = vec![0; keys.len()];
        let asks = keys.clone();
        self.gather(index, spec, Kind::Watch { keys, versions }, |this, gather| {
            for (part, (core, key)) in asks.iter().enumerate() {
                let ask = Ask { core: *core, part: part as u32, job: Job::Watch, spec, args: vec![key.clone()] };
                this.ask(gather, ask);
            }
            asks.len() as u32
        })
    }

    /// The versions have come.
    pub(super) fn watched(&mut self, entry: &GatherEntry, keys: Vec<(u32, Bytes)>, versions: Vec<u64>) {
        let keys = keys.into_iter().zip(versions).map(|((core, key), version)| WatchedKey { core, key, version });
        let connection = self.connections[entry.connection as usize].as_deref();
        if connection.is_some_and(|connection| connection.generation == entry.generation) {
            let open = self.open_transactions.entry(entry.connection).or_default();
            let before = open.watched.len();
            open.watched.extend(keys);
            open.watched_bytes +=
                open.watched[before..].iter().map(|watched| watched_bytes(&watched.key)).sum::<usize>();
        } else {
            self.unwatch(keys.collect());
        }
    }

    pub(super) fn unwatch_all(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if self.waits_for_answers(index, spec, args) {
            return Outcome::Answered;
        }
        if !self.is_queuing(index) {
            let open = self.leave_queue(index);
            self.unwatch(open.watched);
        }
        self.write_reply(index, &Reply::Ok)
    }

    fn unwatch(&mut self, watched: Vec<WatchedKey>) {
        let mut by_core: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
        for WatchedKey { core, key, .. } in watched {
            by_core.entry(core).or_default().push(key);
        }
        for (core, keys) in by_core {
            self.tell(core, Job::Unwatch, &keys);
        }
    }

    /// The client is gone, or begins anew.
    pub(super) fn abandon_transaction(&mut self, index: u32) {
        let open = self.leave_queue(index);
        self.unwatch(open.watched);
    }

    /// Something that is not answered.
    fn tell(&mut self, core: u32, job: Job, args: &[Bytes]) {
        let (bytes, ranges) = joined(args);
        let args = Args::new(&bytes, &ranges, &[]);
        let spec = spec_of(Op::Exec);
        if core == self.config.core {
            self.share(job, spec, args);
        } else {
            self.outboxes[core as usize].open().push(Token::Nobody, job, Wire::Resp3, spec, 0, args);
            self.counters.commands_forwarded_out += 1;
        }
    }

    // ---- one command over several cores ---------------------------------------------------------

    /// Whether a command about all keys has to hold them first: other cores have some, or a transaction is under way here.
    pub(super) fn is_for_all_at_once(&self) -> bool {
        self.draft.is_none() && (self.config.cores > 1 || !self.holds.is_empty())
    }

    /// A command that is carried out on several cores at once, as seen by everybody.
    pub(super) fn as_transaction(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let mut queue = Box::<Batch>::default();
        queue.push(Token::Nobody, Job::Command, Wire::Resp3, spec, 0, args);
        self.begin_transaction(index, spec, queue, Vec::new(), true)
    }

    // ---- the coordinator's side -----------------------------------------------------------------

    fn begin_transaction(
        &mut self,
        index: u32,
        spec: &'static Spec,
        queue: Box<Batch>,
        watched: Vec<WatchedKey>,
        is_bare: bool,
    ) -> Outcome {
        self.counters.transactions += 1;
        let shares = self.shares(&queue, &watched);
        let transaction = Transaction {
            logged_by: self.logged_by(&queue, &shares),
            queue,
            shares,
            granted: 0,
            is_dirty: false,
            refusal: None,
            runs: Vec::new(),
            routes: Vec::new(),
            outstanding: 0,
            reply_bytes: 0,
            is_released: false,
            is_bare,
            view: self.view_of(index),
        };
        let Some(place) = self.enter_gather(index, spec, Kind::First) else { return Outcome::Answered };
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.pause.add(Pause::FENCE);
        }
        let first_own = self.own_asks.len();
        self.drive(place, Box::new(transaction), first_own);
        Outcome::Awaited
    }

    /// What has to be held where.
    fn shares(&self, queue: &Batch, watched: &[WatchedKey]) -> Vec<Share> {
        let mut shares: BTreeMap<u32, Share> = BTreeMap::new();
        for command in &queue.commands {
            let args = queue.args_of(command);
            if matches!(command.spec.op, Op::FlushAll | Op::FlushDb | Op::NamespaceFlush) {
                for core in 0..self.config.cores {
                    let share = shares.entry(core).or_default();
                    (share.is_whole, share.is_logged) = (true, true);
                }
            }
            if command.spec.op == Op::SwapDb {
                for core in 0..self.config.cores {
                    shares.entry(core).or_default().is_whole = true;
                }
                shares.entry(self.owner_of(SWAPPED_KEY)).or_default().is_logged = true;
            }
            if matches!(command.spec.route, Route::Key | Route::Split | Route::Pair) {
                for arg in command.spec.key_args(args.len()) {
                    let share = shares.entry(self.owner_of(args.get(arg))).or_default();
                    share.hold(args.to_bytes(arg));
                    share.is_logged |= command.spec.flags.has(Flags::WRITE);
                }
            }
        }
        for WatchedKey { core, key, version } in watched {
            shares.entry(*core).or_default().watched.push((key.clone(), *version));
        }
        let settled = shares.into_iter().map(|(core, mut share)| {
            share.settle();
            Share { core, ..share }
        });
        settled.collect()
    }

    /// The cores whose logs get parts of it, four bytes each. None if there is no log, or if a run does: when all of it
    /// is carried out on this core at once.
    fn logged_by(&self, queue: &Batch, shares: &[Share]) -> Vec<u8> {
        let is_logged = |share: &&Share| share.is_logged && self.journal.is_on();
        let cores: Vec<u32> = shares.iter().filter(is_logged).map(|share| share.core).collect();
        let is_at_once = queue.commands.iter().all(|command| match command.spec.route {
            Route::Local => true,
            Route::Key | Route::Split | Route::Pair => shares.iter().all(|share| share.core == self.config.core),
            Route::Every | Route::Addressed => false,
        });
        if is_at_once { Vec::new() } else { cores.into_iter().flat_map(u32::to_le_bytes).collect() }
    }

    /// All keys are held: what is done to them from now on are parts of the transaction.
    fn begin_parts(&mut self, place: u32, transaction: &mut Transaction) {
        let cores = Bytes::from(std::mem::take(&mut transaction.logged_by));
        if cores.is_empty() {
            return;
        }
        self.transactions_begun += 1;
        let words = [self.hold_id(place), self.config.random_seed, self.transactions_begun];
        let mut args: Vec<Bytes> = words.iter().map(|word| Bytes::copy_from_slice(&word.to_le_bytes())).collect();
        args.push(cores.clone());
        record::cores_in(&cores).for_each(|core| self.tell(core, Job::Begin, &args));
    }

    /// Takes a transaction as far as it goes without answers that have not come. Those that this core gave itself
    /// stand in `own_asks` from `first_own` on.
    fn drive(&mut self, place: u32, mut transaction: Box<Transaction>, first_own: usize) {
        while !transaction.is_over() && transaction.granted < transaction.shares.len() {
            match self.ask_for_hold(place, &transaction.shares[transaction.granted]) {
                Some(reply) => transaction.hold_answered(reply),
                None => return self.park(place, transaction),
            }
        }
        if transaction.is_over() {
            self.release_all(place, &mut transaction);
            let reply = match transaction.refusal {
                None => {
                    self.counters.transactions_dirty += 1;
                    Reply::NilArray
                }
                Some(refusal) if transaction.is_bare => refusal,
                Some(refusal) => {
                    self.counters.transactions_refused += 1;
                    abort_because(&refusal)
                }
            };
            return self.finish_gather(place, reply);
        }
        self.begin_parts(place, &mut transaction);
        // All that is carried out here at once is one in the log as well.
        self.journal.begin_run();
        loop {
            while self.own_asks.len() > first_own {
                let (_, part, reply, group) = self.own_asks.remove(first_own);
                self.wait_for_log(place, group);
                self.run_answered(place, &mut transaction, part, reply);
            }
            if transaction.is_in_steps() || transaction.has_sent_all() {
                break;
            }
            self.run_next(place, &mut transaction);
        }
        self.journal.end_run();
        if transaction.has_sent_all() && !transaction.is_released {
            self.release_all(place, &mut transaction);
        }
        if transaction.outstanding > 0 {
            return self.park(place, transaction);
        }
        let Transaction { runs, is_bare, reply_bytes, .. } = *transaction;
        if reply_bytes > self.config.output_hard_bytes {
            return self.finish_gather(place, Reply::error(REPLIES_TOO_LARGE));
        }
        let mut replies = runs.into_iter().map(|run| match run {
            Run::Answered(reply) => reply,
            Run::Asked(_) => Reply::error("ERR internal: a command of a transaction has no answer"),
        });
        let reply = match is_bare {
            true => replies.next().unwrap_or(Reply::Nil),
            false => Reply::Array(replies.collect()),
        };
        self.finish_gather(place, reply);
    }

    /// The transaction is answered when this group of this core's log is durable.
    fn wait_for_log(&mut self, place: u32, group: u64) {
        if group > 0
            && let Some(entry) = self.gathers.get_mut(place as usize).and_then(Option::as_mut)
        {
            entry.gates.push(Gate { core: self.config.core, group });
        }
    }

    fn park(&mut self, place: u32, transaction: Box<Transaction>) {
        if let Some(entry) = self.gathers.get_mut(place as usize).and_then(Option::as_mut) {
            entry.gather.kind = Kind::Transaction(transaction);
        }
    }

    /// An answer has come to a transaction.
    pub(super) fn transaction_answered(&mut self, place: u32, part: u32, reply: Reply<'static>) {
        let Some(entry) = self.gathers.get_mut(place as usize).and_then(Option::as_mut) else { return };
        let Kind::Transaction(mut transaction) = std::mem::replace(&mut entry.gather.kind, Kind::First) else { return };
        let first_own = self.own_asks.len();
        match part {
            HOLD_PART => transaction.hold_answered(reply),
            part => self.run_answered(place, &mut transaction, part, reply),
        }
        self.drive(place, transaction, first_own);
    }

    /// Asks a core for its keys; the answer if it is there at once.
    fn ask_for_hold(&mut self, place: u32, share: &Share) -> Option<Reply<'static>> {
        let mut bytes = Vec::new();
        let mut ranges = Vec::new();
        let mut push = |arg: &[u8]| {
            ranges.push(ArgRange::inline(bytes.len(), arg.len()));
            bytes.extend_from_slice(arg);
        };
        push(&self.hold_id(place).to_le_bytes());
        let flags = (HOLD_WHOLE * share.is_whole as u64) | (HOLD_WRITES * share.is_logged as u64);
        push(&flags.to_le_bytes());
        push(&(share.watched.len() as u64).to_le_bytes());
        for (key, version) in &share.watched {
            push(key);
            push(&version.to_le_bytes());
        }
        share.keys.iter().for_each(|key| push(key));
        let args = Args::new(&bytes, &ranges, &[]);
        let token = Token::Gather { index: place, part: HOLD_PART };
        let spec = spec_of(Op::Exec);
        if share.core != self.config.core {
            self.outboxes[share.core as usize].open().push(token, Job::Hold, Wire::Resp3, spec, 0, args);
            self.counters.commands_forwarded_out += 1;
            return None;
        }
        let mut call = Batch::default();
        call.push(token, Job::Hold, Wire::Resp3, spec, 0, args);
        self.claim(self.config.core, &call.commands[0], args).then(|| self.hold_share(args))
    }

    /// Who holds, as every core knows it.
    fn hold_id(&self, place: u32) -> u64 {
        u64::from(self.config.core) << 32 | u64::from(place)
    }

    /// Lets everything go that was granted, behind all commands that were sent there, and watches no more.
    fn release_all(&mut self, place: u32, transaction: &mut Transaction) {
        transaction.is_released = true;
        for share in &mut transaction.shares {
            let keys: Vec<Bytes> = share.watched.drain(..).map(|(key, _)| key).collect();
            if !keys.is_empty() {
                self.tell(share.core, Job::Unwatch, &keys);
            }
        }
        let id = Bytes::copy_from_slice(&self.hold_id(place).to_le_bytes());
        for share in &transaction.shares[..transaction.granted] {
            self.tell(share.core, Job::Release, std::slice::from_ref(&id));
        }
    }

    /// Sends the next command to its core, or carries it out.
    fn run_next(&mut self, place: u32, transaction: &mut Transaction) {
        let Some(entry) = self.gathers.get(place as usize).and_then(Option::as_ref) else { return };
        let (index, generation) = (entry.connection, entry.generation);
        let run = transaction.runs.len();
        let queue = std::mem::take(&mut transaction.queue);
        let command = &queue.commands[run];
        let (spec, args) = (command.spec, queue.args_of(command));
        if !transaction.is_bare {
            self.counters.count_call(spec.op);
            if self.is_monitored {
                self.show_to_monitors(index, spec, args);
            }
        }
        let is_there =
            self.connections[index as usize].as_deref().is_some_and(|connection| connection.generation == generation);
        if is_there && !self.trackers.is_empty() {
            self.track_reads(index, spec, args);
        }
        let mut draft = Draft { kind: None, asks: Vec::new(), reply: None, view: transaction.view.clone() };
        match spec.route {
            Route::Key => {
                let core = self.owner_of(args.get(spec.key_arg()));
                draft.kind = Some(Kind::First);
                let args = (0..args.len()).map(|arg| args.to_bytes(arg)).collect();
                draft.asks.push(Ask { core, part: 0, job: Job::Command, spec, args });
            }
            // Its client is gone, and so is what this is about.
            Route::Local if !is_there => draft.reply = Some(Reply::Nil),
            _ => {
                self.draft = Some(draft);
                self.apply_other(index, spec, args);
                draft = self.draft.take().expect("a command leaves its draft where it is");
            }
        }
        transaction.queue = queue;
        match draft.kind {
            None => {
                let kept = transaction.keep(draft.reply.unwrap_or(Reply::Nil), self.config.output_hard_bytes);
                transaction.runs.push(kept);
            }
            Some(kind) => {
                let mut gather = Gather::new(kind);
                gather.waiting = draft.asks.len() as u32;
                transaction.runs.push(Run::Asked(Box::new(gather)));
                self.send_held(place, transaction, run, draft.asks);
            }
        }
        if let Some(Run::Answered(Reply::Error(error))) = transaction.runs.last()
            && !transaction.is_bare
        {
            self.counters.count_failed(spec.op, error);
        }
    }

    /// The questions of a command, to cores that hold its keys for it.
    fn send_held(&mut self, place: u32, transaction: &mut Transaction, run: usize, asks: Vec<Ask>) {
        for mut ask in asks {
            ask.part = transaction.part_for(run, ask.part);
            ask.job = match ask.job {
                Job::Command => Job::Held,
                Job::Sweep => Job::SweepHeld,
                other => other,
            };
            // This core goes through its own shard step by step.
            if matches!(ask.job, Job::Scan | Job::SweepHeld) && ask.core == self.config.core {
                self.postponed.push((place, ask));
            } else {
                self.ask(place, ask);
            }
        }
    }

    fn run_answered(&mut self, place: u32, transaction: &mut Transaction, part: u32, reply: Reply<'static>) {
        let Some(&(run, part)) = transaction.routes.get(part as usize) else { return };
        transaction.outstanding -= 1;
        let run = run as usize;
        let Some(Run::Asked(gather)) = transaction.runs.get_mut(run) else { return };
        match gather.answer(part, reply) {
            Progress::Waiting => {}
            Progress::Next(asks) | Progress::Later(asks) => {
                gather.waiting = asks.len() as u32;
                self.send_held(place, transaction, run, asks);
            }
            Progress::Written(_) => unreachable!("what a transaction asks is listed"),
            Progress::Done(reply) => {
                let kind = std::mem::replace(&mut gather.kind, Kind::First);
                let reply = match kind {
                    Kind::Snapshots { parts, page } => {
                        let connection = self.gathers[place as usize].as_ref().map_or(0, |entry| entry.connection);
                        self.render(connection, &parts, page)
                    }
                    _ => reply,
                };
                if let Reply::Error(error) = &reply
                    && !transaction.is_bare
                {
                    self.counters.count_failed(transaction.queue.commands[run].spec.op, error);
                }
                transaction.runs[run] = transaction.keep(reply, self.config.output_hard_bytes);
            }
        }
    }
}

impl Transaction {
    /// `1` when the keys are held and nothing that is watched has changed.
    fn hold_answered(&mut self, reply: Reply<'static>) {
        self.granted += 1;
        match reply {
            Reply::Int(unchanged) => self.is_dirty |= unchanged != 1,
            refusal => self.refusal = Some(refusal),
        }
    }

    /// Whether nothing of it will be done.
    fn is_over(&self) -> bool {
        self.is_dirty || self.refusal.is_some()
    }
}

/// EXEC's answer when a core cannot write.
fn abort_because(refusal: &Reply<'_>) -> Reply<'static> {
    match refusal {
        Reply::Error(error) => Reply::error(format!("EXECABORT Transaction discarded because of: {}", error.text())),
        _ => Reply::error("EXECABORT Transaction discarded."),
    }
}

#[cfg(test)]
impl Engine {
    /// What has been answered to commands of transactions that are not over.
    pub fn kept_reply_bytes(&self) -> usize {
        let transactions = self.gathers.iter().flatten().filter_map(|entry| match &entry.gather.kind {
            Kind::Transaction(transaction) => Some(transaction),
            _ => None,
        });
        let replies = transactions.flat_map(|transaction| &transaction.runs).filter_map(|run| match run {
            Run::Answered(reply) => Some(reply.kept_bytes()),
            Run::Asked(_) => None,
        });
        replies.sum()
    }
}
