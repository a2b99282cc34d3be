//! Questions to cores and their answers: asked of this core or others, collected (see [`super::gather`]), and handed to
//! the connection as one reply.

use super::batch::{Job, Token};
use super::gather::{self, Ask, Gather, Kind, Progress};
use super::journal::Gate;
use super::{Engine, GatherEntry, Outcome};
use crate::command::{Op, Spec};
use crate::connection::{Connection, OutPool};
use crate::limits;
use crate::reply::Reply;
use crate::request::{ArgRange, Args, Wire};

impl Engine {
    /// Starts a gather whose first questions `begin` asks; it returns how many.
    pub(super) fn gather(
        &mut self,
        index: u32,
        spec: &'static Spec,
        kind: Kind,
        begin: impl FnOnce(&mut Engine, u32) -> u32,
    ) -> Outcome {
        if let Some(draft) = &mut self.draft {
            draft.kind = Some(kind);
            begin(self, u32::MAX);
            return Outcome::Awaited;
        }
        let Some(place) = self.enter_gather(index, spec, kind) else { return Outcome::Answered };
        let first_own = self.own_asks.len();
        let waiting = begin(self, place);
        if let Some(entry) = &mut self.gathers[place as usize] {
            entry.gather.waiting = waiting;
        }
        self.answer_own(first_own);
        Outcome::Awaited
    }

    /// A place for what will be collected, and for its reply.
    pub(super) fn enter_gather(&mut self, index: u32, spec: &'static Spec, kind: Kind) -> Option<u32> {
        let connection = self.connections[index as usize].as_deref_mut()?;
        let entry = GatherEntry {
            gather: Gather::new(kind),
            spec,
            connection: index,
            generation: connection.generation,
            sequence: connection.await_reply(),
            wire: connection.wire,
            gates: Vec::new(),
            began_us: self.now.uptime_us,
            timeout_ms: 0,
        };
        Some(match self.gathers_free.pop() {
            Some(place) => {
                self.gathers[place as usize] = Some(entry);
                place
            }
            None => {
                self.gathers.push(Some(entry));
                self.gathers.len() as u32 - 1
            }
        })
    }

    /// All has been collected.
    pub(super) fn finish_gather(&mut self, place: u32, reply: Reply<'static>) {
        let Some(entry) = self.gathers[place as usize].take() else { return };
        self.gathers_free.push(place);
        self.deliver(entry, reply);
    }

    pub(super) fn ask(&mut self, gather: u32, ask: Ask) {
        let (mut bytes, mut large, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
        for arg in ask.args {
            if arg.len() >= limits::LARGE_VALUE_BYTES_MIN {
                ranges.push(ArgRange::large(large.len()));
                large.push(arg);
            } else {
                ranges.push(ArgRange::inline(bytes.len(), arg.len()));
                bytes.extend_from_slice(&arg);
            }
        }
        self.ask_args(gather, ask.core, ask.part, ask.job, ask.spec, Args::new(&bytes, &ranges, &large));
    }

    pub(super) fn ask_args(
        &mut self,
        gather: u32,
        core: u32,
        part: u32,
        job: Job,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        if let Some(draft) = &mut self.draft {
            let args = (0..args.len()).map(|arg| args.to_bytes(arg)).collect();
            draft.asks.push(Ask { core, part, job, spec, args });
        } else if core == self.config.core && job == Job::Command && self.is_held_up(spec, args) {
            let token = Token::Gather { index: gather, part };
            self.stand_in_line(core, token, Wire::Resp3, spec, args);
        } else if core == self.config.core && job == Job::Sweep && !self.holds.is_empty() {
            self.wait_for_core(core, Token::Gather { index: gather, part }, spec, args);
        } else if core == self.config.core {
            if self.is_watchful
                && let Some(index) = self.connection_of_gather(gather)
            {
                self.begin_effects_of(index, spec, args);
            }
            let reply = self.share(job, spec, args).into_owned();
            let group = self.gate_of(job, spec, args);
            self.own_asks.push((gather, part, reply, group));
            self.spread_news();
        } else {
            if self.no_loops > 0
                && let Some(index) = self.connection_of_gather(gather)
            {
                self.sign(index, core, spec);
            }
            let token = Token::Gather { index: gather, part };
            self.outboxes[core as usize].open().push(token, job, Wire::Resp3, spec, 0, args);
            self.counters.commands_forwarded_out += 1;
        }
    }

    fn connection_of_gather(&self, gather: u32) -> Option<u32> {
        self.gathers.get(gather as usize).and_then(Option::as_ref).map(|entry| entry.connection)
    }

    /// Hands the answers that this core gave itself to their gathers.
    fn answer_own(&mut self, first: usize) {
        while self.own_asks.len() > first {
            let (gather, part, reply, group) = self.own_asks.remove(first);
            let gate = (group > 0).then_some(Gate { core: self.config.core, group });
            self.gathered(gather, part, reply, gate);
        }
    }

    pub(super) fn gathered(&mut self, place: u32, part: u32, reply: Reply<'static>, gate: Option<Gate>) {
        let Some(entry) = self.gathers.get_mut(place as usize).and_then(Option::as_mut) else { return };
        entry.gates.extend(gate);
        if matches!(entry.gather.kind, Kind::Transaction(_)) {
            return self.transaction_answered(place, part, reply);
        }
        match entry.gather.answer(part, reply) {
            Progress::Waiting => {}
            Progress::Next(asks) => {
                entry.gather.waiting = asks.len() as u32;
                // A core that answers itself step after step must let others in between.
                if asks.len() == 1 && asks[0].core == self.config.core && matches!(asks[0].job, Job::Scan | Job::Sweep)
                {
                    self.postponed.extend(asks.into_iter().map(|ask| (place, ask)));
                    return;
                }
                let first_own = self.own_asks.len();
                for ask in asks {
                    self.ask(place, ask);
                }
                self.answer_own(first_own);
            }
            Progress::Later(asks) => {
                entry.gather.waiting = asks.len() as u32;
                self.postponed.extend(asks.into_iter().map(|ask| (place, ask)));
            }
            Progress::Written(written) => {
                let Some(entry) = self.gathers[place as usize].take() else { return };
                self.gathers_free.push(place);
                let out = written.into_out();
                self.deliver_with(entry, |connection, entry, gates, outs| {
                    connection.complete_with_range(entry.sequence, &out, 0..out.bytes.len(), 0, gates, outs);
                });
            }
            Progress::Done(reply) if self.gathers[place as usize].as_ref().is_some_and(is_rewrite) => {
                let reply = match reply {
                    Reply::Ok => Reply::Status("Background append only file rewriting started"),
                    other => other,
                };
                let Some(entry) = self.gathers[place as usize].take() else { return };
                self.gathers_free.push(place);
                self.deliver(entry, reply);
            }
            Progress::Done(reply) => {
                let Some(mut entry) = self.gathers[place as usize].take() else { return };
                self.gathers_free.push(place);
                let reply = match std::mem::replace(&mut entry.gather.kind, Kind::First) {
                    Kind::Snapshots { parts, page } => self.render(entry.connection, &parts, page),
                    Kind::Watch { keys, versions } => {
                        self.watched(&entry, keys, versions);
                        reply
                    }
                    Kind::Tracking { is_target_there } => self.tracking_agreed(&entry, is_target_there),
                    _ => reply,
                };
                self.deliver(entry, reply);
            }
        }
    }

    fn deliver(&mut self, entry: GatherEntry, mut reply: Reply<'static>) {
        if reply.kept_bytes() > self.config.output_hard_bytes {
            reply = reply_too_large();
        }
        if let Reply::Error(error) = &reply {
            self.counters.count_failed(entry.spec.op, error);
        }
        self.deliver_with(entry, |connection, entry, gates, outs| {
            connection.complete(entry.sequence, entry.wire, &reply, gates, outs);
        });
    }

    /// The reply has come together; `write` hands it to the connection.
    fn deliver_with(
        &mut self,
        mut entry: GatherEntry,
        write: impl FnOnce(&mut Connection, &GatherEntry, Vec<Gate>, &mut OutPool),
    ) {
        let index = entry.connection;
        let elapsed_us = self.now.uptime_us.saturating_sub(entry.began_us);
        self.latency.record(entry.spec.op, elapsed_us * 1000, 1);
        self.note_event_of(entry.spec, elapsed_us * 1000);
        if self.awaits_measured() {
            self.end_awaited(index, entry.generation, entry.sequence);
        }
        if self.is_monitored && entry.spec.op == Op::Exec {
            self.show_to_monitors(index, entry.spec, Args::new(&[], &[], &[]));
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.generation != entry.generation {
            return;
        }
        let mut gates = std::mem::take(&mut entry.gates);
        gates.retain(|&gate| !self.config.durable.has_passed(gate));
        gates.iter().for_each(|&gate| self.waits.wait(gate, index, entry.generation));
        if entry.timeout_ms > 0 && !gates.is_empty() {
            let deadline_us = entry.began_us + entry.timeout_ms * 1000;
            self.waits.deadlines.push((deadline_us, index, entry.generation, entry.sequence));
        }
        write(connection, &entry, gates, &mut self.outs);
        if matches!(entry.spec.op, Op::Publish | Op::SPublish) {
            connection.publishes_pending -= 1;
        }
        self.lift_barrier(index, entry.spec);
        self.reply_arrived(index);
    }

    /// Steps of scans over this core's own shard, one per turn and scan.
    pub fn step_postponed(&mut self) {
        for (place, ask) in std::mem::take(&mut self.postponed) {
            let first_own = self.own_asks.len();
            self.ask(place, ask);
            self.answer_own(first_own);
        }
    }

    pub fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }
}

fn is_rewrite(entry: &GatherEntry) -> bool {
    entry.spec.op == Op::BgRewriteAof
}

/// Instead of a reply that no client may be owed.
pub(super) fn reply_too_large() -> Reply<'static> {
    Reply::error(gather::REPLY_TOO_LARGE)
}
