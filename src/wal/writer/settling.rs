//! Transactions over several cores: what is durable may still be taken back, as long as not all of it is.

use super::Writer;
use crate::clock::Now;
use crate::wal::record::{Content, TransactionId};

impl Writer {
    /// The part of a transaction begins, of which these cores' logs have parts (four bytes each). Its group.
    pub fn begin_part(&mut self, id: TransactionId, cores: &[u8], now: Now) -> u64 {
        self.outside_runs(Content::Begin { id, cores }, now)
    }

    pub fn finish_part(&mut self, id: TransactionId, now: Now) -> u64 {
        self.outside_runs(Content::Finish { id }, now)
    }

    pub(super) fn outside_runs(&mut self, content: Content<'_>, now: Now) -> u64 {
        let run = self.run.take();
        self.change(content, now);
        self.run = run;
        self.open_number
    }

    /// Groups up to this one cannot be taken back any more: they are durable, and so is all of every transaction that
    /// has a part in them.
    pub fn settle(&mut self, group: u64) {
        self.settled_group = group.min(self.durable).max(self.settled_group);
        self.dirty.durable(self.settled_group);
        while let Some(&point) = self.unsettled.front().filter(|point| point.0 <= self.settled_group) {
            self.unsettled.pop_front();
            self.settled = point;
            self.unconfirmed.push_back(point);
        }
    }

    pub fn settled(&self) -> u64 {
        self.settled_group
    }

    /// Up to which group the log itself says, durably, that all is settled.
    pub fn stated_durably(&self) -> u64 {
        self.stated_durably
    }

    /// What is settled and not confirmed: up to which group.
    pub fn to_be_confirmed(&self) -> Option<u64> {
        self.unconfirmed.back().map(|point| point.0)
    }

    /// The logs of all cores say of the transactions that begin in groups up to this one that they are whole. Only
    /// then are segments given up in which they are.
    pub fn confirm(&mut self, group: u64, now: Now) {
        while let Some(&point) = self.unconfirmed.front().filter(|point| point.0 <= group) {
            self.unconfirmed.pop_front();
            self.confirmed = point;
        }
        if let Some((horizon, group)) = self.announced
            && self.confirmed.0 >= group
        {
            self.announced = None;
            self.horizon = horizon;
            while self.closed.front().is_some_and(|closed| closed.last_sequence < horizon) {
                self.free.extend(self.closed.pop_front().map(|closed| closed.file));
            }
            self.announce(now);
        }
    }

    /// The next group says what recovery has found to be settled, although there is nothing else to say. The group to
    /// wait for.
    pub fn state(&mut self, now: Now) -> u64 {
        self.open_group(now);
        self.want_sync()
    }

    /// The log says by then, durably, what is settled now: if nothing else is to be written, in a group without
    /// changes.
    pub fn state_by(&mut self, at_us: u64, now: Now) {
        if self.flight.is_some() || self.failed.is_some() {
            return;
        }
        if self.stated < self.settled.0 {
            self.open_group(now);
            self.want_sync_by(at_us);
        } else if self.stated_durably < self.stated && !self.unsynced.is_empty() {
            self.sync_at_us.get_or_insert(at_us);
        }
    }
}
