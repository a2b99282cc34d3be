//! Replies that are made and wait until what they say is durable. Such a reply has its place in `pending`: what
//! comes behind it waits with it, what was before it does not.

use super::Connection;
use super::output::{LaterRewrite, OutPool, Pending};
use crate::engine::journal::Gate;
use crate::proto;
use crate::reply::{Out, Reply};
use crate::request::Wire;

impl Connection {
    /// The replies written from now on wait at this gate. False if they would anyway.
    pub fn hold(&mut self, gate: Gate) -> bool {
        if let Some(last) = self.pending.back()
            && last.reply.is_some()
            && last.gates.iter().any(|held| held.core == gate.core && held.group >= gate.group)
        {
            return false;
        }
        let followers_end = self.later_end();
        let reply = Some(Out::default());
        self.pending.push_back(Pending { reply, wanted: true, followers_end, gates: vec![gate], expected: 0 });
        true
    }

    /// Writes a reply that waits where [`hold`](Self::hold) has said.
    pub fn reply_held(&mut self, reply: &Reply<'_>, pool: &mut OutPool) {
        let start = self.later.end();
        self.reply(reply, pool);
        let moved = self.later.moved_to();
        while self.held_replies.front().is_some_and(|range| range.end <= moved) {
            self.held_replies.pop_front();
        }
        if self.later.end() > start {
            self.held_replies.push_back(start..self.later.end());
        }
    }

    /// What waits at gates that will never open is answered with `error` instead: nobody knows any more whether it was
    /// written.
    pub fn fail_gates(&mut self, is_lost: impl Fn(Gate) -> bool, error: &Reply<'_>, pool: &mut OutPool) {
        let mut instead = Out::default();
        proto::encode(self.wire, error, &mut instead);
        let mut held = std::mem::take(&mut self.held_replies);
        let mut later = LaterRewrite::of(&mut self.later);
        for pending in &mut self.pending {
            let before = pending.gates.len();
            pending.gates.retain(|&gate| !is_lost(gate));
            let is_lost = pending.gates.len() < before;
            if is_lost && let Some(reply) = pending.reply.as_mut().filter(|reply| !reply.is_empty()) {
                self.held_up = self.held_up - reply.len() + instead.len();
                reply.clear();
                reply.append_range(&instead, 0..instead.bytes.len(), 0);
            }
            // Of the finished replies behind it those that wait with it; the others only stand in line.
            let end = pending.followers_end;
            while let Some(range) = held.front().filter(|range| range.end <= end).cloned() {
                held.pop_front();
                if range.start < later.position() {
                    // It has left.
                } else if is_lost {
                    // What it echoes of its command stays.
                    let kept = match self.wire {
                        Wire::Json => proto::json::beginning_len(later.bytes(range.clone())),
                        _ => 0,
                    };
                    later.replace(range.start + kept..range.end, &instead);
                } else {
                    let start = later.copy_to(range.start);
                    self.held_replies.push_back(start..later.copy_to(range.end));
                }
            }
            pending.followers_end = later.copy_to(end);
        }
        let (before, after) = later.finish();
        self.held_up = self.held_up - before + after;
        self.release_ready(pool);
    }

    /// The reply `sequence` waits no longer for its gates, and is another one. False if it does not wait.
    pub fn give_up(&mut self, sequence: u32, reply: &Reply<'_>, pool: &mut OutPool) -> bool {
        let place = sequence.wrapping_sub(self.pending_first) as usize;
        let Some(pending) = self.pending.get_mut(place).filter(|pending| !pending.gates.is_empty()) else {
            return false;
        };
        pending.gates.clear();
        if let Some(old) = &mut pending.reply
            && pending.wanted
        {
            self.held_up -= old.len();
            old.clear();
            proto::encode(self.wire, reply, old);
            self.held_up += old.len();
        }
        self.release_ready(pool);
        true
    }

    /// Gates have opened: what waited there is ready now, if nothing else holds it up. Whether anything is.
    pub fn open_gates(&mut self, is_open: impl Fn(Gate) -> bool, pool: &mut OutPool) -> bool {
        for pending in &mut self.pending {
            if !pending.gates.is_empty() {
                pending.gates.retain(|&gate| !is_open(gate));
            }
        }
        let before = self.pending.len();
        self.release_ready(pool);
        self.pending.len() < before
    }
}
