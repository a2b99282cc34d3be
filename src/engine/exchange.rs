//! Batches to and from other cores: theirs are served, ours come back answered.

use super::batch::{Batch, Job, Outbox, Token};
use super::journal::Gate;
use super::{Engine, holding};
use crate::command::Route;
use crate::connection::Closing;
use crate::metrics::ErrorCode;
use crate::proto;
use crate::reply::Reply;
use crate::request::Call;

impl Engine {
    /// The next batch for core `core`, if there is one and the way is free.
    pub fn ship(&mut self, core: u32) -> Option<Box<Batch>> {
        let mut batch = self.outboxes[core as usize].ship()?;
        batch.shipped_us = self.now.uptime_us;
        self.counters.batches_out += 1;
        Some(batch)
    }

    /// Carries out what another core asks, and writes the replies into its batch. False if they are so large that they
    /// have to leave, as a part (see [`Batch::part`]), before the rest is carried out.
    pub fn serve(&mut self, batch: &mut Batch) -> bool {
        debug_assert!(batch.reply_ends.is_empty());
        if !batch.is_begun {
            batch.is_begun = true;
            self.counters.batches_in += 1;
            self.counters.commands_forwarded_in += batch.commands.len() as u64;
        }
        for command in &batch.commands {
            if command.job == Job::Command && command.spec.route == Route::Key {
                self.shard.prefetch_bucket(command.hash);
            }
        }
        if batch.commands.len() > 2 {
            for command in &batch.commands {
                if command.job == Job::Command && command.spec.route == Route::Key {
                    self.shard.prefetch_item(command.hash);
                }
            }
        }
        let mut replies = std::mem::take(&mut batch.replies);
        let mut ends = std::mem::take(&mut batch.reply_ends);
        let mut gates = std::mem::take(&mut batch.gates);
        let mut put_off = Vec::new();
        for (place, command) in batch.commands.iter().enumerate() {
            if replies.len() > self.config.mesh_part_bytes {
                break;
            }
            let args = batch.args_of(command);
            if command.job == Job::As {
                self.signed[batch.origin as usize] = holding::number(args.get(0));
                self.is_signed = true;
                ends.push(replies.bytes.len() as u32);
                continue;
            }
            if self.is_watchful || self.is_signed {
                let writer = std::mem::take(&mut self.signed[batch.origin as usize]);
                self.is_signed = self.signed.iter().any(|session| *session != 0);
                self.listeners.begin(command.spec, &args, writer);
            }
            if (self.is_watchful || command.job == Job::Hold) && self.is_put_off(batch.origin, command, args) {
                put_off.push(place);
                ends.push(replies.bytes.len() as u32);
                continue;
            }
            if args.may_be_large() {
                self.reserve_memory(&args);
            }
            if command.job == Job::Command && command.spec.route == Route::Key && !self.is_watchful {
                let call = Call { spec: command.spec, args, hash: command.hash };
                let reply = match self.waits.refusal(command.spec, &self.journal) {
                    Some(refusal) => refusal,
                    None => self.shard.apply(&call, self.now, &mut self.journal),
                };
                if let Reply::Error(error) = &reply {
                    self.counters.count_failed(command.spec.op, error);
                }
                proto::encode(command.wire, &reply, &mut replies);
            } else if command.job == Job::Fill {
                if !self.fill_for(batch.origin, command, args, &mut replies) {
                    put_off.push(place);
                    ends.push(replies.bytes.len() as u32);
                    self.spread_news();
                    continue;
                }
            } else {
                let reply = self.share(command.job, command.spec, args);
                // What is gathered is counted once, by who gathers it.
                let failed = match (&reply, command.token) {
                    (Reply::Error(error), Token::Connection { .. }) => Some(ErrorCode::of(error)),
                    _ => None,
                };
                proto::encode(command.wire, &reply, &mut replies);
                if let Some(code) = failed {
                    self.counters.ops[command.spec.op].failed += 1;
                    self.counters.count_error(code);
                }
            }
            if self.journal.is_on() {
                let group = self.gate_of(command.job, command.spec, args);
                if group > 0 {
                    gates.push((place as u32, group));
                    self.waits.gave(batch.origin, group);
                }
            }
            ends.push(replies.bytes.len() as u32);
            self.spread_news();
        }
        batch.replies = replies;
        batch.reply_ends = ends;
        batch.gates = gates;
        for place in put_off {
            batch.commands[place].token = Token::Nobody;
        }
        batch.reply_ends.len() == batch.commands.len()
    }

    /// A batch of ours has come back: every reply goes to where it is awaited.
    pub fn absorb(&mut self, core: u32, batch: Box<Batch>) {
        if self.awaits_measured() {
            for command in &batch.commands {
                if let Token::Connection { index, generation, sequence } = command.token {
                    self.end_awaited(index, generation, sequence);
                }
            }
        }
        let mut start = 0;
        let mut large = 0;
        let mut gates = batch.gates.iter().peekable();
        for (place, (command, &end)) in batch.commands.iter().zip(&batch.reply_ends).enumerate() {
            let gate = gates.next_if(|(gated, _)| *gated == place as u32).map(|&(_, group)| Gate { core, group });
            let gate = gate.filter(|&gate| !self.config.durable.has_passed(gate));
            let range = start..end as usize;
            start = end as usize;
            let first_large = large;
            while batch.replies.large.get(large).is_some_and(|(offset, _)| *offset <= range.end) {
                large += 1;
            }
            match command.token {
                Token::Connection { index, generation, sequence } => {
                    let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
                    // Whoever is closed at once reads nothing more.
                    if connection.generation != generation || connection.closing == Closing::Now {
                        continue;
                    }
                    let gates = gate.into_iter().collect();
                    connection.complete_with_range(sequence, &batch.replies, range, first_large, gates, &mut self.outs);
                    if let Some(gate) = gate {
                        self.waits.wait(gate, index, generation);
                    }
                    self.latency.answered(command.spec.op);
                    self.reply_arrived(index);
                }
                Token::Nobody => {}
                Token::Gather { index, part } => {
                    let reply = match proto::reply::parse_written(&batch.replies, range, first_large) {
                        Ok(Some(reply)) => reply,
                        _ => Reply::error("ERR internal: unreadable answer from another core"),
                    };
                    self.gathered(index, part, reply, gate);
                }
            }
        }
        let elapsed_ns = self.now.uptime_us.saturating_sub(batch.shipped_us) * 1000;
        self.note_events(elapsed_ns);
        self.latency.end_of_batch(elapsed_ns);
        let outbox = &mut self.outboxes[core as usize];
        outbox.returned(batch);
        self.resume_mesh_paused();
    }

    /// Whether a batch could leave for another core.
    pub fn can_ship(&self) -> bool {
        self.outboxes.iter().any(Outbox::can_ship)
    }

    /// Whether anything is owed to or by another core.
    pub fn is_quiet(&self) -> bool {
        self.outboxes.iter().all(Outbox::is_idle)
            && self.postponed.is_empty()
            && self.holds.is_empty()
            && self.resumable.is_empty()
            && self.dirty.is_empty()
    }
}
