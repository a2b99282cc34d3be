//! Replies that wait for the log, commands that the log cannot take now, and what a core does for its log every turn.

use std::collections::VecDeque;

use super::Engine;
use super::batch::{Batch, Job, Token};
use super::journal::{Gate, Journal, Log};
use crate::command::{Flags, Op, Route, Spec};
use crate::connection::{Connection, Deferred, Pause};
use crate::hash::KeyHasher;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::metrics::LogSnapshot;
use crate::reply::Reply;
use crate::request::Args;
use crate::store::{Displaced, OutOfMemory, ValueRef};
use crate::wal::record::Content;
use crate::wal::replay::Change;
use crate::wal::writer::{Failure, Operation, Work};

/// Who waits for what of which log.
pub struct Waits {
    /// Commands have to be looked at before they are carried out: keys are being loaded, or the log is in trouble.
    pub restricts: bool,
    loading: bool,
    /// Another core has to read its log before it is known what the databases show.
    pub awaits_databases: bool,
    refuses: bool,
    overfull: bool,
    /// Somebody else wants to look at every command.
    closely: bool,
    /// By core: group, connection, generation, groups ascending.
    gates: Vec<VecDeque<(u64, u32, u32)>>,
    /// By core: the newest group of this core's log that one of its replies waits for.
    given: Vec<u64>,
    /// Connections that wait for room in the log.
    paused: Vec<u32>,
    published: u64,
    has_failed: bool,
    /// Other cores whose logs are settled further by what this one has synced, and who do not know it yet.
    moved: Vec<u32>,
    /// The newest group that was durable when other cores were told.
    told: u64,
    /// WAITAOF: until when, by `Now::uptime_us`; connection, generation, sequence.
    pub(super) deadlines: Vec<(u64, u32, u32, u32)>,
    /// SHUTDOWN was asked for.
    shutdown: bool,
}

impl Waits {
    pub fn new(cores: u32) -> Waits {
        Waits {
            restricts: false,
            loading: false,
            awaits_databases: false,
            refuses: false,
            overfull: false,
            closely: false,
            gates: (0..cores).map(|_| VecDeque::new()).collect(),
            given: vec![0; cores as usize],
            paused: Vec::new(),
            published: 0,
            has_failed: false,
            moved: Vec::new(),
            told: 0,
            deadlines: Vec::new(),
            shutdown: false,
        }
    }

    /// What `connection` is answered from now on waits at this gate.
    pub fn hold(&mut self, connection: &mut Connection, index: u32, gate: Gate) {
        if connection.hold(gate) {
            self.wait(gate, index, connection.generation);
        }
    }

    pub fn wait(&mut self, gate: Gate, index: u32, generation: u32) {
        self.gates[gate.core as usize].push_back((gate.group, index, generation));
    }

    /// A reply of core `core` waits for this group of ours.
    pub fn gave(&mut self, core: u32, group: u64) {
        self.given[core as usize] = group;
    }

    /// Instead of a write that cannot be logged.
    #[inline]
    pub fn refusal(&self, spec: &Spec, journal: &Journal) -> Option<Reply<'static>> {
        if self.refuses && spec.flags.has(Flags::WRITE) { self.refusal_of_writes(journal) } else { None }
    }

    /// Why no write can be logged now, if so.
    pub fn refusal_of_writes(&self, journal: &Journal) -> Option<Reply<'static>> {
        if !self.refuses {
            return None;
        }
        let log = journal.0.as_deref()?;
        Some(Reply::error(match log.writer.failure() {
            Some(why) => format!(
                "MISCONF the log in {} has failed ({why}): nothing is written any more until the server is restarted",
                log.path
            ),
            None => format!("MISCONF no space left for the log in {}: writes are refused until there is", log.path),
        }))
    }

    /// Whether commands are looked at one by one, for whatever reason but the log.
    pub fn look_closely(&mut self, closely: bool) {
        self.closely = closely;
        self.update();
    }

    fn update(&mut self) {
        self.restricts = self.loading || self.awaits_databases || self.refuses || self.overfull || self.closely;
    }
}

/// The group that the reply of a command just applied here waits for; 0 for none.
pub fn gate_of_command(journal: &mut Journal, hasher: &KeyHasher, spec: &Spec, args: Args<'_>) -> u64 {
    let Some(log) = &mut journal.0 else { return 0 };
    let group = if spec.keys.first > 0 {
        log.gate_of_keys(spec.key_args(args.len()).map(|key| hasher.hash(args.get(key))))
    } else if spec.flags.has(Flags::READONLY) || spec.flags.has(Flags::WRITE) {
        log.gate_of_all()
    } else if spec.op == Op::WaitAof {
        log.gate_of_keys(std::iter::empty())
    } else {
        0
    };
    if group > log.writer.settled() { group } else { 0 }
}

impl Engine {
    pub(super) fn gate_of(&mut self, job: Job, spec: &Spec, args: Args<'_>) -> u64 {
        let Some(log) = &mut self.journal.0 else { return 0 };
        let group = match job {
            Job::Command | Job::Held | Job::Present => {
                return gate_of_command(&mut self.journal, &self.config.hasher, spec, args);
            }
            Job::Read | Job::Put | Job::Take | Job::Fill => {
                log.gate_of_keys(std::iter::once(self.config.hasher.hash(args.get(0))))
            }
            Job::Scan | Job::Sweep | Job::SweepHeld | Job::CountSlot | Job::RandomKey => log.gate_of_all(),
            Job::Snapshot
            | Job::Hold
            | Job::Begin
            | Job::Release
            | Job::Late
            | Job::Shown
            | Job::Watch
            | Job::Unwatch
            | Job::Abandon => 0,
            Job::Track | Job::As | Job::Listen | Job::Untrack | Job::Target | Job::Untarget => 0,
            Job::Invalidate | Job::Redirected | Job::Broken => 0,
        };
        if group > log.writer.settled() { group } else { 0 }
    }

    /// Whether the command is refused, or waits, instead of being carried out.
    #[cold]
    pub(super) fn is_held_back(
        &mut self,
        index: u32,
        spec: &'static Spec,
        hash: u64,
        owner: u32,
        args: Args<'_>,
    ) -> bool {
        if self.waits.loading || self.waits.awaits_databases {
            if spec.flags.has(Flags::LOADING) {
                return false;
            }
            self.turn_away(index, spec, &Reply::error("LOADING CrabCache is loading the dataset in memory"));
            return true;
        }
        if spec.route != Route::Key || owner != self.config.core || !spec.flags.has(Flags::WRITE) {
            return false;
        }
        if let Some(refusal) = self.waits.refusal(spec, &self.journal) {
            self.turn_away(index, spec, &refusal);
            return true;
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return true };
        if !self.waits.overfull {
            return false;
        }
        let mut call = Box::<Batch>::default();
        call.push(Token::Gather { index: 0, part: 0 }, Job::Command, connection.wire, spec, hash, args);
        connection.defer_first(Deferred::Call(call));
        connection.pause.add(Pause::LOG);
        // It is counted when it is carried out.
        self.counters.commands_processed -= 1;
        self.counters.ops[spec.op].calls -= 1;
        self.counters.log_full_pauses += 1;
        self.waits.paused.push(index);
        self.mark_dirty(index);
        true
    }

    fn turn_away(&mut self, index: u32, spec: &'static Spec, reply: &Reply<'_>) {
        self.redirect(index, spec, reply);
        self.lift_barrier(index, spec);
        self.mark_dirty(index);
        self.bound_output(index);
    }

    // ---- the log --------------------------------------------------------------------------------

    pub fn attach_log(&mut self, mut log: Box<Log>) {
        log.set_now(self.now);
        self.journal = Journal(Some(log));
    }

    pub fn log(&self) -> Option<&Log> {
        self.journal.0.as_deref()
    }

    pub fn log_mut(&mut self) -> Option<&mut Log> {
        self.journal.0.as_deref_mut()
    }

    /// Whether commands about keys are answered with -LOADING.
    pub fn set_loading(&mut self, loading: bool) {
        self.waits.loading = loading;
        self.waits.awaits_databases |= loading;
        if !loading {
            self.recall_databases();
        }
        self.waits.update();
    }

    /// What the databases show is known.
    pub(super) fn end_awaiting_databases(&mut self) {
        self.waits.awaits_databases = false;
        self.waits.update();
    }

    pub fn is_loading(&self) -> bool {
        self.waits.loading
    }

    /// To be called every turn: keeps the log short, and lets replies go whose groups are durable.
    pub fn tend_log(&mut self) {
        if self.waits.awaits_databases && !self.waits.loading {
            self.adopt_databases();
        }
        if let Some(log) = &mut self.journal.0 {
            if !self.waits.loading {
                log.copy(&self.shard);
            }
            log.settle(&self.config.durable, self.config.core, &mut self.waits.moved, self.waits.loading);
            if let Some(why) = log.is_dragged_down(&self.config.durable, self.config.core) {
                log.writer.fail(why);
            }
            let (refuses, overfull) = (log.writer.refuses(), log.writer.is_overfull());
            if (refuses, overfull) != (self.waits.refuses, self.waits.overfull) {
                self.waits.refuses = refuses;
                self.waits.overfull = overfull;
                self.waits.update();
            }
            self.waits.published = log.writer.settled();
            if log.writer.failure().is_some() && !self.waits.has_failed {
                self.waits.has_failed = true;
                self.config.durable.fail(self.config.core);
            }
        }
        if !self.waits.overfull && !self.waits.paused.is_empty() {
            for index in std::mem::take(&mut self.waits.paused) {
                if let Some(connection) = self.connections[index as usize].as_deref_mut() {
                    connection.pause.remove(Pause::LOG);
                    self.resume_later(index);
                }
            }
        }
        self.open_gates();
    }

    fn open_gates(&mut self) {
        for core in 0..self.config.cores {
            if self.waits.gates[core as usize].is_empty() {
                continue;
            }
            // Asked first: what was settled before it failed is settled.
            let has_failed = self.config.durable.has_failed(core);
            let group = self.config.durable.group_of(core);
            while let Some(&(wanted, index, generation)) = self.waits.gates[core as usize].front()
                && (wanted <= group || has_failed)
            {
                self.waits.gates[core as usize].pop_front();
                let error = (wanted > group).then(|| self.failure_of(core));
                let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
                if connection.generation != generation {
                    continue;
                }
                let durable = &self.config.durable;
                if let Some(error) = error {
                    // Nobody can say any more whether it was written: the client must not be told that it was.
                    let is_lost = |gate: Gate| gate.core == core && !durable.has_passed(gate);
                    connection.fail_gates(is_lost, &error, &mut self.outs);
                } else {
                    connection.open_gates(|gate| durable.has_passed(gate), &mut self.outs);
                }
                self.reply_arrived(index);
            }
        }
    }

    /// Instead of a reply that waits for the log of a core that has failed.
    fn failure_of(&self, core: u32) -> Reply<'static> {
        let Some(log) = self.log() else { return Reply::error("MISCONF the log has failed") };
        let why = match log.writer.failure() {
            Some(why) if core == self.config.core => why.to_owned(),
            _ => format!("on core {core}"),
        };
        Reply::error(format!(
            "MISCONF the log in {} has failed ({why}): nobody knows whether this was written, and nothing is written any \
             more until the server is restarted",
            log.path
        ))
    }

    /// Who has waited long enough is told how far it has come.
    pub(super) fn end_waits(&mut self) {
        let now_us = self.now.uptime_us;
        let due: Vec<_> = self.waits.deadlines.extract_if(.., |wait| wait.0 <= now_us).collect();
        for (_, index, generation, sequence) in due {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
            let none = Reply::Array(vec![Reply::Int(0), Reply::Int(0)]);
            if connection.generation == generation && connection.give_up(sequence, &none, &mut self.outs) {
                self.reply_arrived(index);
            }
        }
    }

    /// A whole round of copies is to be made.
    pub(super) fn ask_for_round(&mut self) {
        if let Some(log) = self.log_mut() {
            let progress = log.writer.progress();
            log.pace.ask_for_round(progress);
        }
    }

    /// Everything so far is to be durable, and the reply waits for it. Whether there is a log.
    pub(super) fn sync_log(&mut self) -> bool {
        let Some(log) = self.log_mut() else { return false };
        let group = log.writer.sync_all();
        log.wait_for(group);
        true
    }

    /// SHUTDOWN: to be seen by the runtime.
    pub(super) fn ask_for_shutdown(&mut self) {
        self.waits.shutdown = true;
    }

    pub fn wants_shutdown(&self) -> bool {
        self.waits.shutdown
    }

    /// When all that had been logged was last durable, as Unix seconds; the start without a log.
    pub(super) fn last_save(&self) -> i64 {
        let started_ms = self.now.unix_ms.saturating_sub(self.now.uptime_us / 1000);
        let synced_ms = self.log().map_or(0, |log| log.writer.counters.last_sync_unix_ms);
        (started_ms.max(synced_ms) / 1000) as i64
    }

    pub(super) fn log_snapshot(&self) -> LogSnapshot {
        let loading = self.waits.loading as u64;
        let Some(log) = self.log() else {
            return LogSnapshot { enabled: loading, loading, ..LogSnapshot::default() };
        };
        let writer = &log.writer;
        let counters = &writer.counters;
        LogSnapshot {
            enabled: 1,
            loading,
            failed: writer.failure().is_some() as u64,
            refusing: writer.refuses() as u64,
            rewriting: log.pace.is_asked() as u64,
            records: counters.records,
            groups: counters.groups,
            syncs: counters.syncs,
            bytes_logged: counters.bytes_logged,
            bytes_copied: counters.bytes_copied,
            bytes_written: counters.bytes_written,
            segments_used_again: counters.segments_used_again,
            no_space: counters.no_space,
            disk_bytes: writer.disk_bytes(),
            log_bytes: writer.log_bytes(),
            backlog_bytes: writer.backlog_bytes() as u64,
            last_sync_unix_ms: counters.last_sync_unix_ms,
        }
    }

    /// Whether another core's log has come so far that replies here can go.
    pub fn has_open_gates(&self) -> bool {
        let first = |core: usize| self.waits.gates[core].front().map(|&(group, ..)| group);
        (0..self.waits.gates.len())
            .any(|core| first(core).is_some_and(|group| group <= self.config.durable.group_of(core as u32)))
    }

    /// The cores whose replies wait for groups of this core's log that are durable now.
    pub fn cores_to_tell(&mut self) -> Vec<u32> {
        let durable = self.waits.published;
        let has_failed = self.waits.has_failed;
        let mut told = std::mem::take(&mut self.waits.moved);
        if durable == self.waits.told && !has_failed {
            return told;
        }
        self.waits.told = durable;
        for (core, given) in self.waits.given.iter_mut().enumerate().filter(|(_, given)| **given > 0) {
            // Earlier groups than the newest may be waited for, too.
            told.push(core as u32);
            if *given <= durable || has_failed {
                *given = 0;
            }
        }
        told
    }

    /// In how many microseconds the log has something to do although nothing happens.
    pub fn log_due_us(&self) -> Option<u64> {
        Some(self.log()?.writer.due_us()?.saturating_sub(self.now.uptime_us))
    }

    pub fn next_operation(&mut self) -> Option<Operation> {
        let now = self.now;
        self.log_mut()?.writer.poll(now)
    }

    pub fn operation_done(&mut self, id: u64, work: Work, result: Result<(), Failure>) {
        let now = self.now;
        if let Some(log) = self.log_mut() {
            log.writer.completed(id, work, result, now);
        }
    }

    // ---- recovery -------------------------------------------------------------------------------

    /// Does again what was logged at `unix_ms`, for keys that `is_ours`.
    pub fn restore(
        &mut self,
        change: Change<'_>,
        unix_ms: u64,
        displaced: &mut Displaced,
        is_ours: impl Fn(&[u8]) -> bool,
        flushes: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), OutOfMemory> {
        let now = crate::clock::Now { unix_ms: unix_ms.min(self.now.unix_ms), ..self.now };
        match change {
            Change::Set { key, value, expires_at_ms } if is_ours(key) => {
                self.shard.restore(key, ValueRef::Small(value), expires_at_ms, now, displaced)
            }
            Change::SetLarge { key, value, expires_at_ms } if is_ours(key) => {
                let value = match value.len() < LARGE_VALUE_BYTES_MIN {
                    true => ValueRef::Small(&value),
                    false => ValueRef::Large(&value),
                };
                self.shard.restore(key, value, expires_at_ms, now, displaced)
            }
            Change::Remove { key } => {
                self.shard.restore_removal(key);
                Ok(())
            }
            Change::Expire { key, expires_at_ms } => self.shard.restore_expiry(key, expires_at_ms, now),
            Change::Append { key, tail } => self.shard.restore_tail(key, tail, now, displaced),
            Change::Flush => {
                self.shard.restore_flush(flushes);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Logs that these keys are gone, and nobody waits.
    pub fn log_displaced(&mut self, displaced: &Displaced) {
        let now = self.now;
        if let Some(log) = self.log_mut() {
            displaced.keys.iter().for_each(|key| log.writer.change(Content::Remove { key }, now));
        }
    }

    /// Logs the next part of all keys, as fast as it can be written.
    pub fn log_all_keys(&mut self, bytes: u64) {
        if let Some(log) = &mut self.journal.0 {
            log.copy_bytes(&self.shard, bytes);
        }
    }
}
