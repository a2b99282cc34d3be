//! `GET key FILL ms`: the first to miss a key is told to fill it in, the others wait for that on the core that owns the
//! key (see [`crate::filling`]).
//!
//! ```text
//!   client ─▶ its core ── Fill: key, client, how long ──▶ the key's core: value │ told │ nothing │ waits
//!                     ◀── Late: the reply of who waited ──┘
//!   closed ─▶ its core ── Abandon: client ──▶ every core that was asked: hands over
//! ```
//!
//! What a connection sends behind such a GET is carried out when that has been answered, as behind every command of
//! Redis that blocks.

use super::batch::{Batch, Job, Remote, Token};
use super::durability::gate_of_command;
use super::holding::{HeldUp, number};
use super::journal::Gate;
use super::{Engine, Outcome};
use crate::command::{Op, Spec, spec_of};
use crate::connection::Pause;
use crate::filling::{Claim, FillToken, Woken};
use crate::limits::FILL_MS_MAX;
use crate::number::parse_i64;
use crate::proto;
use crate::reply::{Out, Reply, ReplyError};
use crate::request::{ArgRange, Args, Call, Wire};
use crate::store::check_keys;

/// `[FILL] ms [STALE ms]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    /// How long whoever is told has to fill in the key, and how long the others wait.
    span_ms: u64,
    /// A value that expires this soon is shown, but somebody is told to fill it in again.
    stale_ms: u64,
}

impl Terms {
    fn parse(args: Args<'_>) -> Result<Terms, ReplyError<'static>> {
        let is_word = |at: usize, word: &[u8]| at < args.len() && args.get(at).eq_ignore_ascii_case(word);
        let at = is_word(0, b"FILL") as usize;
        if at >= args.len() {
            return Err(ReplyError::Syntax);
        }
        let span_ms = match parse_i64(args.get(at)).ok_or(ReplyError::NotAnInteger)? {
            ms if ms >= 1 && ms as u64 <= FILL_MS_MAX => ms as u64,
            _ => return Err(ReplyError::Other(format!("ERR FILL takes 1 to {FILL_MS_MAX} milliseconds").into())),
        };
        let stale_ms = match args.len() - at - 1 {
            0 => 0,
            2 if is_word(at + 1, b"STALE") => {
                let ms = parse_i64(args.get(at + 2)).ok_or(ReplyError::NotAnInteger)?;
                u64::try_from(ms).map_err(|_| ReplyError::Other("ERR STALE takes no negative time".into()))?
            }
            _ => return Err(ReplyError::Syntax),
        };
        Ok(Terms { span_ms, stale_ms })
    }

    fn span_us(self) -> u64 {
        self.span_ms * 1000
    }
}

/// What another core is asked, or this one later: `key client span stale`.
struct Asked {
    client: u64,
    terms: Terms,
}

impl Asked {
    fn parse(args: Args<'_>) -> Asked {
        let terms = Terms { span_ms: number(args.get(2)), stale_ms: number(args.get(3)) };
        Asked { client: number(args.get(1)), terms }
    }

    /// A batch of one that asks for `key`.
    fn push(&self, batch: &mut Batch, token: Token, wire: Wire, spec: &'static Spec, key: &[u8]) {
        let mut bytes = key.to_vec();
        let mut ranges = [ArgRange::inline(0, key.len()); 4];
        for (range, number) in ranges[1..].iter_mut().zip([self.client, self.terms.span_ms, self.terms.stale_ms]) {
            *range = ArgRange::inline(bytes.len(), 8);
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        batch.push(token, Job::Fill, wire, spec, 0, Args::new(&bytes, &ranges, &[]));
    }
}

/// What is to be done with a client that asks.
enum Verdict {
    /// The value is there, and somebody is told perhaps that it is stale.
    Value(Option<FillToken>),
    Told(FillToken),
    Wait,
    /// Too many keys are being filled in.
    Nothing,
}

impl Engine {
    pub(super) fn get_or_fill(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let terms = match Terms::parse(args.from(1)) {
            Ok(terms) => terms,
            // Three words behind GET are too many unless the second is FILL.
            Err(_) if matches!(args.len(), 3 | 5) && !args.get(1).eq_ignore_ascii_case(b"FILL") => {
                return self.answer(index, spec, &ReplyError::WrongArity { command: "get".into() }.into());
            }
            Err(error) => return self.answer(index, spec, &error.into()),
        };
        let key = args.slice(0, 1);
        if let Some(error) = check_keys(&Call { spec: spec_of(Op::Get), args: key, hash: 0 }) {
            return self.answer(index, spec, &error.into());
        }
        let owner = if self.config.cores == 1 { Ok(Some(0)) } else { self.common_owner(index, spec, key) };
        let owner = match owner {
            Ok(owner) => owner.unwrap_or(self.config.core),
            Err(refused) => return self.redirect(index, spec, &refused),
        };
        let Some(client) = self.connections[index as usize].as_deref().map(|it| it.record.id) else {
            return Outcome::Answered;
        };
        let asked = Asked { client, terms };
        if owner != self.config.core {
            self.may_fill(index, owner);
            let Some(token) = self.await_filled(index) else { return Outcome::Answered };
            let wire = self.wire_of(index);
            asked.push(self.outboxes[owner as usize].open(), token, wire, spec, key.get(0));
            self.counters.commands_forwarded_out += 1;
            return Outcome::Awaited;
        }
        if self.is_held_up(spec, key) {
            self.may_fill(index, owner);
            let Some(token) = self.await_filled(index) else { return Outcome::Answered };
            let mut call = Box::<Batch>::default();
            asked.push(&mut call, token, self.wire_of(index), spec, key.get(0));
            self.wait_for_keys(owner, call);
            return Outcome::Awaited;
        }
        if self.is_watchful {
            self.begin_effects_of(index, spec, key);
        }
        let outcome = match self.consider(key.get(0), &asked) {
            Verdict::Value(None) => {
                let call = Call { spec: spec_of(Op::Get), args: key, hash: self.config.hasher.hash(key.get(0)) };
                let reply = with_effects!(self, effects => self.shard.apply(&call, self.now, effects));
                let group = gate_of_command(&mut self.journal, &self.config.hasher, spec, key);
                if let Some(connection) = self.connections[index as usize].as_deref_mut() {
                    if group > 0 {
                        self.waits.hold(connection, index, Gate { core: owner, group });
                        connection.reply_held(&reply, &mut self.outs);
                    } else {
                        connection.reply(&reply, &mut self.outs);
                    }
                }
                Outcome::Answered
            }
            Verdict::Wait => {
                self.may_fill(index, owner);
                match self.await_filled(index) {
                    Some(token) => {
                        let mut call = Box::<Batch>::default();
                        asked.push(&mut call, token, self.wire_of(index), spec, key.get(0));
                        self.wait_for_filler(owner, key.get(0), &asked, call);
                        Outcome::Awaited
                    }
                    None => Outcome::Answered,
                }
            }
            verdict => {
                self.may_fill(index, owner);
                let reply = self.reply_of(verdict, key);
                self.write_reply(index, &reply)
            }
        };
        self.spread_news();
        outcome
    }

    /// What another core asks, or what has waited for its key: whether the reply is written.
    pub(super) fn fill_for(&mut self, origin: u32, command: &Remote, args: Args<'_>, written: &mut Out) -> bool {
        let asked = Asked::parse(args);
        let verdict = self.consider(args.get(0), &asked);
        if let Verdict::Wait = verdict {
            let mut call = Box::<Batch>::default();
            call.push(command.token, Job::Fill, command.wire, command.spec, 0, args);
            self.wait_for_filler(origin, args.get(0), &asked, call);
            return false;
        }
        let reply = self.reply_of(verdict, args.slice(0, 1));
        proto::encode(command.wire, &reply, written);
        true
    }

    fn consider(&mut self, key: &[u8], asked: &Asked) -> Verdict {
        let Asked { client, terms } = asked;
        if !self.exists(key) {
            // Counted as what it is.
            let ranges = [ArgRange::inline(0, key.len())];
            let hash = self.config.hasher.hash(key);
            let call = Call { spec: spec_of(Op::Get), args: Args::new(key, &ranges, &[]), hash };
            with_effects!(self, effects => self.shard.apply(&call, self.now, effects));
            return match self.claim_filling(key, *client, *terms) {
                Claim::Yours(token) => {
                    self.counters.fills_told += 1;
                    Verdict::Told(token)
                }
                Claim::Others => Verdict::Wait,
                Claim::Full => {
                    self.counters.fills_refused += 1;
                    Verdict::Nothing
                }
            };
        }
        let is_stale = terms.stale_ms > 0 && self.shard.expires_within(key, terms.stale_ms, self.now);
        if !is_stale {
            return Verdict::Value(None);
        }
        self.counters.fills_stale += 1;
        match self.claim_filling(key, *client, *terms) {
            Claim::Yours(token) => {
                self.counters.fills_told += 1;
                Verdict::Value(Some(token))
            }
            Claim::Others | Claim::Full => Verdict::Value(None),
        }
    }

    fn claim_filling(&mut self, key: &[u8], client: u64, terms: Terms) -> Claim {
        let claim = self.listeners.flights.claim(key, client, terms.span_us(), self.now.uptime_us);
        self.note_watchfulness();
        claim
    }

    fn reply_of(&mut self, verdict: Verdict, key: Args<'_>) -> Reply<'static> {
        let told = |token: FillToken| vec![Reply::Bulk(b"FILL"), Reply::Owned(token.to_text().into_bytes())];
        match verdict {
            Verdict::Told(token) => Reply::Array(told(token)),
            Verdict::Value(token) => {
                let value = self.value_of(key);
                match token {
                    Some(token) => Reply::Array(told(token).into_iter().chain([value]).collect()),
                    None => value,
                }
            }
            Verdict::Wait | Verdict::Nothing => Reply::Nil,
        }
    }

    fn value_of(&mut self, key: Args<'_>) -> Reply<'static> {
        let call = Call { spec: spec_of(Op::Get), args: key, hash: self.config.hasher.hash(key.get(0)) };
        with_effects!(self, effects => self.shard.apply(&call, self.now, effects)).into_owned()
    }

    // ---- waiting --------------------------------------------------------------------------------

    /// The place of a reply that comes when the key is filled in. What the client sends next waits for it.
    fn await_filled(&mut self, index: u32) -> Option<Token> {
        let connection = self.connections[index as usize].as_deref_mut()?;
        connection.pause.add(Pause::FENCE);
        Some(Token::Connection { index, generation: connection.generation, sequence: connection.await_reply() })
    }

    fn wire_of(&self, index: u32) -> Wire {
        self.connections[index as usize].as_deref().map_or(Wire::Resp2, |connection| connection.wire)
    }

    fn wait_for_filler(&mut self, origin: u32, key: &[u8], asked: &Asked, call: Box<Batch>) {
        let held_up = HeldUp { origin, call };
        let (span_us, now_us) = (asked.terms.span_us(), self.now.uptime_us);
        match self.listeners.flights.wait(key, asked.client, span_us, now_us, held_up) {
            Ok(()) => self.counters.fills_waited += 1,
            Err(held_up) => {
                self.counters.fills_refused += 1;
                self.answer_waiter(held_up, Some(Reply::Nil));
            }
        }
    }

    /// Answers those who waited, each once.
    #[cold]
    pub(super) fn wake_fillers(&mut self) {
        while self.listeners.flights.has_woken() {
            for woken in self.listeners.flights.take_woken() {
                match woken {
                    Woken::Written(waiter) => self.show_to_waiter(waiter),
                    Woken::Told(token, waiter) => {
                        self.counters.fills_told += 1;
                        self.counters.fills_handed_over += 1;
                        let reply = self.reply_of(Verdict::Told(token), Args::new(&[], &[], &[]));
                        self.answer_waiter(waiter, Some(reply));
                    }
                    Woken::TimedOut(waiter) => {
                        self.counters.fills_timed_out += 1;
                        self.answer_waiter(waiter, Some(Reply::Nil));
                    }
                }
            }
        }
        self.note_watchfulness();
    }

    /// The key has been written: the waiter is shown what it is, if need be after the transaction that writes it.
    fn show_to_waiter(&mut self, waiter: HeldUp) {
        let command = waiter.call.commands[0];
        let args = waiter.call.args_of(&command);
        if self.holds.block(std::iter::once(args.get(0))) {
            let HeldUp { origin, call } = waiter;
            self.wait_for_keys(origin, call);
        } else {
            self.answer_waiter(waiter, None);
        }
    }

    /// With the value of the key if there is no other reply.
    fn answer_waiter(&mut self, waiter: HeldUp, reply: Option<Reply<'static>>) {
        let HeldUp { origin, call } = waiter;
        let command = call.commands[0];
        let args = call.args_of(&command);
        let mut written = self.outs.take();
        let group = match &reply {
            Some(reply) => {
                proto::encode(command.wire, reply, &mut written);
                0
            }
            None => {
                let value = self.value_of(args.slice(0, 1));
                proto::encode(command.wire, &value, &mut written);
                self.gate_of(Job::Fill, command.spec, args)
            }
        };
        self.answer_late(origin, command.token, &written, group);
        self.outs.give_back(written);
    }

    /// Those whose time is over, and what was not filled in in time.
    pub(super) fn end_due_fills(&mut self) {
        self.listeners.flights.end_due(self.now.uptime_us);
        self.wake_fillers();
    }

    /// CLIENT UNBLOCK: whether it waited here.
    pub(super) fn unblock_filler(&mut self, client: u64, error: Option<Reply<'static>>) -> bool {
        let waiter = self.listeners.flights.stop_waiting(client);
        let has_waited = waiter.is_some();
        if let Some(waiter) = waiter {
            self.answer_waiter(waiter, Some(error.unwrap_or(Reply::Nil)));
        }
        has_waited
    }

    // ---- leaving --------------------------------------------------------------------------------

    /// The client may be told by that core to fill in keys.
    fn may_fill(&mut self, index: u32, owner: u32) {
        let owners = self.fillers.entry(index).or_default();
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }

    /// The client is gone, or begins anew: others fill in what it was to.
    #[cold]
    pub(super) fn forget_filler(&mut self, index: u32, client: u64) {
        for owner in self.fillers.remove(&index).unwrap_or_default() {
            if owner == self.config.core {
                self.abandon(client);
                continue;
            }
            let bytes = client.to_le_bytes();
            let ranges = [ArgRange::inline(0, bytes.len())];
            let outbox = self.outboxes[owner as usize].open();
            let args = Args::new(&bytes, &ranges, &[]);
            outbox.push(Token::Nobody, Job::Abandon, Wire::Resp3, spec_of(Op::GetFill), 0, args);
            self.counters.commands_forwarded_out += 1;
        }
    }

    pub(super) fn abandon(&mut self, client: u64) {
        self.listeners.flights.leave(client, self.now.uptime_us);
        self.wake_fillers();
    }
}

/// What of a command says that its keys are not to have the values that they had, whether they are there or not.
pub(super) fn removed_keys<'a>(spec: &Spec, args: &Args<'a>) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
    let args = *args;
    matches!(spec.op, Op::Del | Op::Unlink | Op::GetDel)
        .then(|| spec.key_args(args.len()).map(move |arg| args.get(arg)))
}

#[cfg(test)]
impl Engine {
    /// Keys that are being filled in here, and clients that wait for that.
    pub fn filled_keys(&self) -> (usize, usize) {
        self.listeners.flights.validate();
        (self.listeners.flights.keys(), self.listeners.flights.waiters())
    }
}
