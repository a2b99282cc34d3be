//! Channels: who subscribes, who is told, on this core and on others.
//!
//! ```text
//!   PUBLISH ─┬─ listeners here: encoded once per protocol, appended to each output
//!            └─ cores that may have listeners (pubsub::Interest) ─▶ batch ─▶ the same there ─▶ how many
//! ```
//!
//! Messages of one publisher reach each subscriber in their order: those for another core go there one behind
//! the other. A message does not overtake what its publisher sent before it either: PUBLISH waits until that has
//! been answered, so that who hears of a change finds it done.

use bytes::Bytes;

use super::batch::{Batch, Job, Token};
use super::gather::Kind as GatherKind;
use super::{Engine, Outcome};
use crate::command::{Op, Spec};
use crate::connection::{Closing, Connection, Deferred, Modes, OutPool};
use crate::glob;
use crate::limits;
use crate::proto;
use crate::pubsub::{Kind, Subscriptions, TooMany};
use crate::reply::{Out, Reply};
use crate::request::{Args, Wire};

impl Kind {
    fn of(op: Op) -> Kind {
        match op {
            Op::PSubscribe | Op::PUnsubscribe => Kind::Pattern,
            Op::SSubscribe | Op::SUnsubscribe | Op::SPublish => Kind::Shard,
            _ => Kind::Channel,
        }
    }
}

impl Engine {
    // ---- listening ------------------------------------------------------------------------------

    /// SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE: one confirmation per name.
    pub(super) fn subscribe(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let kind = Kind::of(spec.op);
        if let Some(refused) = self.refuses_to_listen(index, spec, args) {
            return refused;
        }
        let in_one_line = self.speaks_lines(index);
        let mut refused = None;
        for name in args.iter() {
            match self.subscriptions.subscribe(index, kind, name) {
                Ok(is_new) => {
                    if is_new {
                        self.config.interest.add(self.config.core, kind, self.config.hasher.hash(name));
                    }
                    if !in_one_line {
                        self.confirm(index, spec, kind, Reply::Bulk(name));
                    }
                }
                Err(TooMany) => {
                    refused = Some(Reply::error("ERR too many subscriptions of this client"));
                    break;
                }
            }
        }
        self.note_subscriptions(index);
        if let Some(error) = refused {
            return self.answer(index, spec, &error);
        }
        if in_one_line {
            self.confirm_all(index, "subscribed", args.iter().map(Reply::Bulk).collect());
        }
        Outcome::Answered
    }

    /// UNSUBSCRIBE, PUNSUBSCRIBE, SUNSUBSCRIBE: without names, from all of the kind.
    pub(super) fn unsubscribe(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let kind = Kind::of(spec.op);
        if self.speaks_lines(index) {
            let names = match args.len() {
                0 => self.subscriptions.names_of(index, kind),
                _ => args.iter().map(Bytes::copy_from_slice).collect(),
            };
            names.iter().for_each(|name| self.stop_listening(index, kind, name));
            self.note_subscriptions(index);
            self.confirm_all(index, "unsubscribed", names.iter().map(|name| Reply::Bulk(name)).collect());
            return Outcome::Answered;
        }
        if args.is_empty() {
            let names = self.subscriptions.names_of(index, kind);
            if names.is_empty() {
                self.confirm(index, spec, kind, Reply::Nil);
            }
            for name in names {
                self.stop_listening(index, kind, &name);
                self.confirm(index, spec, kind, Reply::Bulk(&name));
            }
        }
        for name in args.iter() {
            self.stop_listening(index, kind, name);
            self.confirm(index, spec, kind, Reply::Bulk(name));
        }
        self.note_subscriptions(index);
        Outcome::Answered
    }

    fn refuses_to_listen(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Option<Outcome> {
        let connection = self.connections[index as usize].as_deref()?;
        if connection.wire == Wire::Binary {
            let error = Reply::error("ERR messages cannot be written in binary frames: subscribe with RESP");
            return Some(self.answer(index, spec, &error));
        }
        // A shard channel belongs to the node of its slot.
        match spec.op {
            Op::SSubscribe => {
                self.common_owner(index, spec, args).err().map(|error| self.redirect(index, spec, &error))
            }
            _ => None,
        }
    }

    fn stop_listening(&mut self, index: u32, kind: Kind, name: &[u8]) {
        if self.subscriptions.unsubscribe(index, kind, name) {
            self.config.interest.remove(self.config.core, kind, self.config.hasher.hash(name));
        }
    }

    /// `[subscribe, name, how many]`
    fn confirm(&mut self, index: u32, spec: &'static Spec, kind: Kind, name: Reply<'_>) {
        let count = self.subscriptions.counts(index).shown_for(kind);
        let confirmation = Reply::Push(vec![Reply::Bulk(spec.name.as_bytes()), name, Reply::Int(count)]);
        self.write_reply(index, &confirmation);
    }

    /// Whether each command has one reply, whatever it is about.
    fn speaks_lines(&self, index: u32) -> bool {
        self.connections[index as usize].as_deref().is_some_and(|connection| connection.wire == Wire::Json)
    }

    /// All names at once, and how many the client listens to by now.
    fn confirm_all(&mut self, index: u32, what: &'static str, names: Vec<Reply<'_>>) {
        let count = self.subscriptions.counts(index).shown_for(Kind::Channel);
        let members = vec![(Reply::text(what), Reply::Array(names)), (Reply::text("count"), Reply::Int(count))];
        self.write_reply(index, &Reply::Map(members));
    }

    /// Lets the connection know what it listens to.
    fn note_subscriptions(&mut self, index: u32) {
        let counts = self.subscriptions.counts(index);
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.record.subscriptions = counts;
            connection.modes.set(Modes::SUBSCRIBED, !counts.is_zero());
        }
    }

    /// The client listens to nothing any more: RESET, or it is gone.
    pub(super) fn end_subscriptions(&mut self, index: u32) {
        let (interest, hasher, core) = (&self.config.interest, &self.config.hasher, self.config.core);
        self.subscriptions.forget(index, |kind, name| interest.remove(core, kind, hasher.hash(name)));
        self.note_subscriptions(index);
    }

    // ---- telling --------------------------------------------------------------------------------

    /// PUBLISH, SPUBLISH: how many have been told, on all cores.
    pub(super) fn publish(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let kind = Kind::of(spec.op);
        if kind == Kind::Shard
            && let Err(error) = self.common_owner(index, spec, args)
        {
            return self.redirect(index, spec, &error);
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return Outcome::Answered };
        if self.draft.is_none() && connection.pending_len() > connection.publishes_pending as usize {
            let mut call = Box::<Batch>::default();
            let token = Token::Gather { index: 0, part: 0 };
            call.push(token, Job::Command, connection.wire, spec, 0, args);
            connection.defer_until_answered(Deferred::Call(call));
            self.counters.uncount_call(spec.op);
            return Outcome::Answered;
        }
        self.counters.messages_published += 1;
        let told = self.deliver_message(kind, args);
        let hash = self.config.hasher.hash(args.get(0));
        let listens = |core: u32| core != self.config.core && self.config.interest.may_have_listeners(core, kind, hash);
        let others: Vec<u32> = (0..self.config.cores).filter(|&core| listens(core)).collect();
        if others.is_empty() {
            return self.write_reply(index, &Reply::Int(told));
        }
        if self.draft.is_none()
            && let Some(connection) = self.connections[index as usize].as_deref_mut()
        {
            connection.publishes_pending += 1;
        }
        self.gather(index, spec, GatherKind::Sum(told), |this, gather| {
            for &core in &others {
                this.ask_args(gather, core, 0, Job::Command, spec, args);
            }
            others.len() as u32
        })
    }

    /// Hands `channel message` to everybody on this core who listens to it. How many there are.
    pub(super) fn deliver_message(&mut self, kind: Kind, args: Args<'_>) -> i64 {
        if self.subscriptions.is_empty() {
            return 0;
        }
        let (channel, payload) = (args.get(0), args.get(1));
        let shared = (payload.len() >= limits::SHARED_MESSAGE_BYTES_MIN).then(|| args.to_bytes(1));
        let Engine { subscriptions, connections, dirty, outs, overfull, .. } = self;
        let mut crowd = Crowd {
            connections,
            dirty,
            outs,
            overfull,
            soft_bytes: self.config.output_soft_bytes.min(self.config.subscriber_soft_bytes),
            told: 0,
        };
        let word: &[u8] = if kind == Kind::Shard { b"smessage" } else { b"message" };
        crowd.tell(&[word, channel], payload, shared.as_ref(), subscriptions.listeners(kind, channel));
        if kind == Kind::Channel {
            for (pattern, listeners) in subscriptions.matching(channel) {
                crowd.tell(&[b"pmessage", pattern, channel], payload, shared.as_ref(), listeners);
            }
        }
        let told = crowd.told;
        self.counters.messages_delivered += told as u64;
        self.bound_subscribers();
        told
    }

    /// Drops those for whom too much is unsent, and remembers who may not go on like that for long.
    pub(super) fn bound_subscribers(&mut self) {
        while let Some(index) = self.overfull.pop() {
            self.bound_output(index);
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
            if connection.unsent() > self.config.subscriber_soft_bytes && connection.lagging_since_us.is_none() {
                connection.lagging_since_us = Some(self.now.uptime_us);
                self.lagging.push((index, connection.generation));
            }
        }
    }

    /// Drops subscribers that have left too much lying for too long.
    pub(super) fn drop_laggards(&mut self) {
        let mut lagging = std::mem::take(&mut self.lagging);
        lagging.retain(|&(index, generation)| {
            let Some(connection) = self.connection(index) else { return false };
            let Some(since_us) = connection.lagging_since_us else { return false };
            if connection.generation != generation || connection.closing == Closing::Now {
                return false;
            }
            let unsent = connection.unsent();
            let (now_us, soft_bytes) = (self.now.uptime_us, self.config.subscriber_soft_bytes);
            if unsent > soft_bytes && now_us.saturating_sub(since_us) < limits::SUBSCRIBER_SOFT_MS_MAX * 1000 {
                return true;
            }
            if let Some(connection) = self.connection(index) {
                connection.lagging_since_us = None;
                if unsent > soft_bytes {
                    connection.closing = Closing::Now;
                    self.counters.connections_closed_by_output_bound += 1;
                    self.counters.subscribers_dropped += 1;
                    self.mark_dirty(index);
                }
            }
            false
        });
        self.lagging.append(&mut lagging);
    }

    // ---- telling of it --------------------------------------------------------------------------

    /// This core's names of a kind, for PUBSUB CHANNELS and its like.
    pub(super) fn names_share(&self, kind: Kind, args: Args<'_>) -> Reply<'static> {
        let pattern = args.iter().next();
        let names = self.subscriptions.names(kind);
        let wanted = names.filter(|name| pattern.is_none_or(|pattern| glob::matches(pattern, name)));
        Reply::Array(wanted.map(|name| Reply::Owned(name.to_vec())).collect())
    }

    /// How many of this core's clients listen to each name.
    pub(super) fn listeners_share(&self, kind: Kind, args: Args<'_>) -> Reply<'static> {
        let count = |name| Reply::Int(self.subscriptions.listener_count(kind, name) as i64);
        Reply::Array(args.iter().map(count).collect())
    }

    /// What the snapshot of this core says of subscriptions.
    pub(super) fn count_subscriptions(&mut self) {
        let Engine { subscriptions, counters, sleepers, monitors, listeners, .. } = self;
        counters.tracking_clients = listeners.trackers as u64;
        counters.tracking_keys = listeners.tracking.keys() as u64;
        counters.tracking_items = listeners.tracking.items() as u64;
        counters.tracking_prefixes = listeners.tracking.prefixes() as u64;
        counters.fills_current = listeners.flights.keys() as u64;
        counters.blocked_clients = (sleepers.len() + listeners.flights.waiters()) as u64;
        counters.monitors_current = monitors.len() as u64;
        let names = |subscriptions: &Subscriptions, kind| subscriptions.names(kind).len() as u64;
        counters.subscribers_current = subscriptions.clients() as u64;
        counters.channels_current = names(subscriptions, Kind::Channel);
        counters.patterns_current = names(subscriptions, Kind::Pattern);
        counters.shard_channels_current = names(subscriptions, Kind::Shard);
    }
}

/// Everybody who may be told something, apart from who listens to what.
struct Crowd<'a> {
    connections: &'a mut [Option<Box<Connection>>],
    dirty: &'a mut Vec<u32>,
    outs: &'a mut OutPool,
    overfull: &'a mut Vec<u32>,
    soft_bytes: usize,
    told: i64,
}

impl Crowd<'_> {
    /// Appends a message to the output of each listener; it is written down once per protocol.
    fn tell(
        &mut self,
        words: &[&[u8]],
        payload: &[u8],
        shared: Option<&bytes::Bytes>,
        listeners: impl Iterator<Item = u32>,
    ) {
        let mut written: [Option<Out>; 3] = [None, None, None];
        for index in listeners {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
            self.told += 1;
            if connection.closing != Closing::No {
                continue;
            }
            let form = match connection.wire {
                Wire::Resp2 | Wire::Binary => 0,
                Wire::Resp3 => 1,
                Wire::Json => 2,
            };
            let written = &mut written[form];
            let message = match written {
                Some(message) => message,
                None => {
                    let mut message = self.outs.take();
                    proto::message(connection.wire, words, payload, shared, &mut message);
                    written.insert(message)
                }
            };
            connection.push_message(message, self.outs);
            if !connection.dirty {
                connection.dirty = true;
                self.dirty.push(index);
            }
            if connection.unsent() > self.soft_bytes {
                self.overfull.push(index);
            }
        }
        for message in written.into_iter().flatten() {
            self.outs.give_back(message);
        }
    }
}
