//! Clients that wait on purpose: for replicas that there are not (WAIT), for a while (DEBUG SLEEP), or because
//! somebody wants all clients to (CLIENT PAUSE). They alone wait; their core goes on.

use super::batch::{Batch, Job, Token};
use super::gather::Kind;
use super::{Engine, Outcome};
use crate::clock::Now;
use crate::command::{Flags, Op, Spec};
use crate::connection::{Deferred, Pause};
use crate::number::parse_i64;
use crate::reply::{Reply, ReplyError};
use crate::request::{Args, Call};

/// A client that is answered later.
pub(super) struct Sleeper {
    /// By `Now::uptime_us`; `u64::MAX` is never by itself.
    due_us: u64,
    /// Of the gather that holds its place.
    place: u32,
    index: u32,
    reply: Reply<'static>,
    /// Whether CLIENT UNBLOCK wakes it.
    can_be_unblocked: bool,
}

/// Until when clients are not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientPause {
    until_us: u64,
    /// Or only what writes.
    is_for_all: bool,
}

impl Engine {
    // ---- sleeping -------------------------------------------------------------------------------

    /// Answers the command at hand with `reply` at `due_us`.
    pub(super) fn sleep_until(
        &mut self,
        index: u32,
        spec: &'static Spec,
        due_us: u64,
        reply: Reply<'static>,
        can_be_unblocked: bool,
    ) -> Outcome {
        let Some(place) = self.enter_gather(index, spec, Kind::First) else { return Outcome::Answered };
        self.sleepers.push(Sleeper { due_us, place, index, reply, can_be_unblocked });
        Outcome::Awaited
    }

    /// WAIT numreplicas timeout: there are no replicas, so the wait for any ends with the timeout.
    pub(super) fn wait_for_replicas(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let Some(replicas) = parse_i64(args.get(0)) else {
            return self.answer(index, spec, &ReplyError::NotAnInteger.into());
        };
        let timeout_ms = match parse_timeout_ms(args.get(1)) {
            Ok(timeout_ms) => timeout_ms,
            Err(error) => return self.answer(index, spec, &error),
        };
        // Within a transaction nobody waits.
        if replicas <= 0 || self.draft.is_some() {
            return self.write_reply(index, &Reply::Int(0));
        }
        let due_us = match timeout_ms {
            0 => u64::MAX,
            ms => self.now.uptime_us.saturating_add(ms.saturating_mul(1000)),
        };
        self.sleep_until(index, spec, due_us, Reply::Int(0), true)
    }

    /// Wakes those whose time has come, and lets clients go on whose pause is over.
    pub(super) fn wake_due(&mut self) {
        let now_us = self.now.uptime_us;
        let due: Vec<Sleeper> = self.sleepers.extract_if(.., |sleeper| sleeper.due_us <= now_us).collect();
        for sleeper in due {
            self.finish_gather(sleeper.place, sleeper.reply);
        }
        if self.listeners.flights.next_due_us().is_some_and(|due_us| due_us <= now_us) {
            self.end_due_fills();
        }
        if self.client_pause.is_some_and(|pause| pause.until_us <= now_us) {
            self.end_client_pause();
        }
    }

    /// When [`Engine::wake_due`] has something to do, by `Now::uptime_us`.
    pub fn wakes_at_us(&self) -> Option<u64> {
        let sleepers = self.sleepers.iter().map(|sleeper| sleeper.due_us);
        let others =
            self.client_pause.map(|pause| pause.until_us).into_iter().chain(self.listeners.flights.next_due_us());
        sleepers.chain(others).min().filter(|&due_us| due_us != u64::MAX)
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.sleepers.is_empty() || self.client_pause.is_some() || !self.listeners.flights.is_empty()
    }

    /// The client sends nothing more.
    #[cold]
    pub(super) fn wake_for_the_end(&mut self, index: u32) {
        let is_its = |sleeper: &mut Sleeper| sleeper.index == index && sleeper.can_be_unblocked;
        let woken: Vec<Sleeper> = self.sleepers.extract_if(.., is_its).collect();
        for sleeper in woken {
            self.finish_gather(sleeper.place, sleeper.reply);
        }
    }

    /// The client is gone.
    pub(super) fn forget_sleeper(&mut self, index: u32) {
        let gone: Vec<Sleeper> = self.sleepers.extract_if(.., |sleeper| sleeper.index == index).collect();
        for sleeper in gone {
            self.finish_gather(sleeper.place, sleeper.reply);
        }
    }

    /// CLIENT UNBLOCK id [TIMEOUT|ERROR]: how many of this core's clients have been woken.
    pub(super) fn unblock_share(&mut self, args: Args<'_>) -> Reply<'static> {
        let Ok((id, with_error)) = parse_unblock(args) else { return Reply::Int(0) };
        let error = || Reply::error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
        let has_id = |this: &Engine, index: u32| {
            this.connections[index as usize].as_deref().is_some_and(|connection| connection.record.id == id)
        };
        if self.unblock_filler(id, with_error.then(error)) {
            return Reply::Int(1);
        }
        let place = (0..self.sleepers.len())
            .find(|&place| self.sleepers[place].can_be_unblocked && has_id(self, self.sleepers[place].index));
        if let Some(place) = place {
            let sleeper = self.sleepers.swap_remove(place);
            let reply = if with_error { error() } else { sleeper.reply };
            self.finish_gather(sleeper.place, reply);
            return Reply::Int(1);
        }
        // WAITAOF with a timeout.
        let Some(at) = self.waits.deadlines.iter().position(|wait| has_id(self, wait.1)) else { return Reply::Int(0) };
        let (_, index, generation, sequence) = self.waits.deadlines.swap_remove(at);
        let reply = if with_error { error() } else { Reply::Array(vec![Reply::Int(0), Reply::Int(0)]) };
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return Reply::Int(0) };
        if connection.generation != generation || !connection.give_up(sequence, &reply, &mut self.outs) {
            return Reply::Int(0);
        }
        self.reply_arrived(index);
        Reply::Int(1)
    }

    // ---- pausing --------------------------------------------------------------------------------

    /// This core's part of CLIENT PAUSE: `until timeout [WRITE|ALL]`. A second one can make the first longer and
    /// stricter, not weaker.
    pub(super) fn pause_clients(&mut self, args: Args<'_>) -> Reply<'static> {
        let (_, is_for_all) = match parse_pause(args.from(1)) {
            Ok(pause) => pause,
            Err(error) => return error,
        };
        let until_us = parse_i64(args.get(0)).unwrap_or(0) as u64;
        // One that is over has perhaps not been noticed here yet.
        let now_us = self.now.uptime_us.max((self.config.stopwatch)());
        let before = self.client_pause.filter(|pause| pause.until_us > now_us);
        let before = before.unwrap_or(ClientPause { until_us: 0, is_for_all: false });
        self.client_pause =
            Some(ClientPause { until_us: until_us.max(before.until_us), is_for_all: is_for_all || before.is_for_all });
        self.note_closeness();
        Reply::Ok
    }

    pub(super) fn end_client_pause(&mut self) {
        self.client_pause = None;
        self.note_closeness();
        for index in std::mem::take(&mut self.paused_clients) {
            if let Some(connection) = self.connections[index as usize].as_deref_mut() {
                connection.pause.remove(Pause::CLIENTS);
                self.resume_later(index);
            }
        }
    }

    /// Whether the command waits until the pause is over.
    #[cold]
    pub(super) fn waits_for_pause(&mut self, index: u32, call: &Call<'_>) -> bool {
        let Some(pause) = self.client_pause else { return false };
        let spec = call.spec;
        if spec.op == Op::ClientUnpause || !(pause.is_for_all || self.may_write(index, spec)) {
            return false;
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return false };
        if connection.is_trusted {
            return false;
        }
        let mut deferred = Box::<Batch>::default();
        let token = Token::Gather { index: 0, part: 0 };
        deferred.push(token, Job::Command, connection.wire, spec, call.hash, call.args);
        connection.defer_first(Deferred::Call(deferred));
        connection.pause.add(Pause::CLIENTS);
        self.paused_clients.push(index);
        self.counters.client_pauses += 1;
        self.mark_dirty(index);
        true
    }

    fn may_write(&self, index: u32, spec: &Spec) -> bool {
        match spec.op {
            Op::Publish | Op::SPublish => true,
            Op::Exec => self.open_transactions.get(&index).is_some_and(|open| open.writes()),
            _ => spec.flags.has(Flags::WRITE),
        }
    }
}

/// Milliseconds, as Redis reads them.
fn parse_timeout_ms(arg: &[u8]) -> Result<u64, Reply<'static>> {
    match parse_i64(arg) {
        Some(timeout) => u64::try_from(timeout).map_err(|_| Reply::error("ERR timeout is negative")),
        None => Err(Reply::error("ERR timeout is not an integer or out of range")),
    }
}

/// `timeout [WRITE|ALL]`: milliseconds, and whether all commands wait.
pub(super) fn parse_pause(args: Args<'_>) -> Result<(u64, bool), Reply<'static>> {
    let is_for_all = match args.len() {
        1 => true,
        2 if args.get(1).eq_ignore_ascii_case(b"all") => true,
        2 if args.get(1).eq_ignore_ascii_case(b"write") => false,
        2 => return Err(Reply::error("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => {
            let error = "ERR unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP.";
            return Err(Reply::error(error));
        }
    };
    Ok((parse_timeout_ms(args.get(0))?, is_for_all))
}

/// When a pause that begins now is over, by `Now::uptime_us`.
pub(super) fn end_of_pause(args: Args<'_>, now: Now) -> u64 {
    let timeout_ms = parse_pause(args).map_or(0, |(timeout_ms, _)| timeout_ms);
    now.uptime_us.saturating_add(timeout_ms.saturating_mul(1000)).min(i64::MAX as u64)
}

/// `id [TIMEOUT|ERROR]`: whose wait ends, and whether with an error.
pub(super) fn parse_unblock(args: Args<'_>) -> Result<(u64, bool), Reply<'static>> {
    let with_error = match args.len() {
        1 => false,
        2 if args.get(1).eq_ignore_ascii_case(b"timeout") => false,
        2 if args.get(1).eq_ignore_ascii_case(b"error") => true,
        2 => return Err(Reply::error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        _ => {
            let error = "ERR unknown subcommand or wrong number of arguments for 'UNBLOCK'. Try CLIENT HELP.";
            return Err(Reply::error(error));
        }
    };
    match parse_i64(args.get(0)) {
        // No client has an id below 1.
        Some(id) => Ok((u64::try_from(id).unwrap_or(0), with_error)),
        None => Err(ReplyError::NotAnInteger.into()),
    }
}
