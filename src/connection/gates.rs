//! Replies that are made and wait until what they say is durable. Such a reply has its place in `pending`: what
//! comes behind it waits with it, what was before it does not.

use super::Connection;
use super::output::{OutPool, Pending};
use crate::engine::journal::Gate;
use crate::proto;
use crate::reply::{Out, Reply};

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
        self.pending.push_back(Pending { reply, wanted: true, followers_end, gates: vec![gate] });
        true
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
