//! The segments of a log: made, filled, closed, given up, used again or removed.

use super::{Closed, Current, ROUND, Step, Work, Writer};
use crate::clock::Now;
use crate::wal::BLOCK_BYTES;
use crate::wal::record::Content;
use crate::wal::segment::{Header, VERSION};

/// The next segment is made ready when so much of the current one is used: early if there is a file to use
/// again, later if one has to be made, because copying may free one by then.
const REUSE_AT_PERCENT: u64 = 50;
const CREATE_AT_PERCENT: u64 = 65;
/// Files that are kept to be used again.
const FREE_MAX: usize = 1;

impl Writer {
    /// Files of this log, as bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        let files = self.closed.len()
            + self.free.len()
            + self.current.is_some() as usize
            + self.spare.is_some() as usize
            + self.is_preparing as usize;
        files as u64 * self.config.segment_bytes
    }

    /// Closed segments that hold needed records, as bytes on disk.
    pub fn closed_bytes(&self) -> u64 {
        let dead = self.closed.iter().take_while(|closed| closed.is_dead).count();
        (self.closed.len() - dead) as u64 * self.config.segment_bytes
    }

    /// Bytes in the log that recovery would have to read.
    pub fn log_bytes(&self) -> u64 {
        self.closed_bytes() + self.current.as_ref().map_or(0, |current| current.offset)
    }

    pub fn segment_bytes(&self) -> u64 {
        self.config.segment_bytes
    }

    /// Everything before `progress` on the way round has been copied into the open group or an earlier one.
    pub fn copied_to(&mut self, progress: u64, now: Now) {
        debug_assert!(progress >= self.progress);
        self.progress = progress;
        self.announce(now);
    }

    /// Says in the log which segments are not needed any more.
    pub(super) fn announce(&mut self, now: Now) {
        let mut horizon = self.horizon;
        for closed in &mut self.closed {
            if !closed.is_dead && closed.progress + ROUND > self.progress {
                break;
            }
            closed.is_dead = true;
            horizon = closed.last_sequence + 1;
        }
        if horizon > self.horizon && self.announced.is_none() && self.failed.is_none() {
            let run = self.run.take();
            self.push(Content::Horizon { sequence: horizon }, now);
            self.run = run;
            let group = self.want_sync();
            self.announced = Some((horizon, group));
        }
    }

    /// The current segment takes no more.
    pub(super) fn close_current(&mut self) {
        if let Some(current) = self.current.take() {
            self.closed.push_back(Closed {
                file: current.file,
                last_sequence: self.next_sequence - 1,
                progress: self.progress,
                is_dead: false,
            });
            // A closed segment is durable before much is written behind it.
            self.sync_wanted = true;
        }
        if let Some(flight) = &mut self.flight {
            flight.begun = false;
        }
        self.current = self.spare.take().map(|(file, seed)| Current { file, seed, offset: BLOCK_BYTES as u64 });
    }

    pub(super) fn poll_prepare(&mut self, now: Now) -> Option<(Step, Work)> {
        if self.is_preparing || self.is_removing || self.retry_at_us.is_some() {
            return None;
        }
        // Before files are removed a header has to say that they are not needed: that of the spare, written anew.
        let must_say = self.headed < self.horizon && self.free.len() > FREE_MAX;
        if self.spare.is_some() && !must_say {
            return None;
        }
        let percent = match self.free.is_empty() {
            false => REUSE_AT_PERCENT,
            // One is about to be free.
            true if self.announced.is_some() => 100,
            true => CREATE_AT_PERCENT,
        };
        let current = self.current.as_ref();
        let is_wanted = current.is_none_or(|current| current.offset >= self.config.segment_bytes / 100 * percent);
        if !is_wanted && !must_say {
            return None;
        }
        let spare = self.spare.take().map(|(file, _)| file);
        let (file, create) = match spare.or_else(|| self.free.pop_front()) {
            Some(file) => (file, false),
            None => {
                self.next_file += 1;
                (self.next_file - 1, true)
            }
        };
        let header = Header {
            version: VERSION,
            segment_bytes: self.config.segment_bytes,
            number: self.next_number,
            oldest_needed: self.horizon,
            created_ms: now.unix_ms,
            layout: self.config.layout,
            core: self.config.core,
            cores: self.config.cores,
        };
        self.next_number += 1;
        self.is_preparing = true;
        self.counters.segments_used_again += (!create && spare.is_none()) as u64;
        let step = Step::Prepare { file, create, seed: header.seed(), oldest_needed: header.oldest_needed };
        Some((step, Work::Prepare { file, create, header: header.to_block() }))
    }

    pub(super) fn poll_remove(&mut self) -> Option<(Step, Work)> {
        // Oldest first, and each gone for good before the next, so that what is left is the end of the log.
        if self.is_removing || self.is_preparing || self.free.len() <= FREE_MAX || self.headed < self.horizon {
            return None;
        }
        let file = self.free.pop_front()?;
        self.is_removing = true;
        Some((Step::Remove { file }, Work::Remove { file }))
    }
}
