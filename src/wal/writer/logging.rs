//! What has happened becomes drafts of records in the open group.

use bytes::Bytes;

use super::{Last, Writer, group_at};
use crate::clock::Now;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::wal::record::{self, Content, RECORD_HEADER_BYTES};

impl Writer {
    /// `key` has this value now.
    #[inline]
    pub fn set(&mut self, key: &[u8], value: &[u8], large: Option<&Bytes>, expires_at_ms: Option<u64>, now: Now) {
        if self.failed.is_some() {
            return;
        }
        let before = self.open.len();
        self.put(key, value, large, expires_at_ms, now);
        self.counters.bytes_logged += (self.open.len() - before) as u64;
    }

    /// The same, said again because it was said long ago.
    pub fn copy(&mut self, key: &[u8], value: &[u8], large: Option<&Bytes>, expires_at_ms: Option<u64>, now: Now) {
        if self.failed.is_some() {
            return;
        }
        let before = self.open.len();
        self.put(key, value, large, expires_at_ms, now);
        self.counters.bytes_copied += (self.open.len() - before) as u64;
    }

    #[inline]
    pub(super) fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        large: Option<&Bytes>,
        expires_at_ms: Option<u64>,
        now: Now,
    ) {
        if value.len() < LARGE_VALUE_BYTES_MIN {
            return self.push(Content::Set { key, value, expires_at_ms }, now);
        }
        self.push(Content::SetLarge { key, expires_at_ms, value_bytes: value.len() as u64 }, now);
        let at = self.open.bytes.len() - RECORD_HEADER_BYTES - key.len() - 16;
        record::mark_more(&mut self.open.bytes[at..]);
        let value = large.cloned().unwrap_or_else(|| Bytes::copy_from_slice(value));
        self.open.large_bytes += value.len();
        self.open.large.push_back((self.open.bytes.len(), value, false));
        if let Some(last) = &mut self.run {
            *last = Some(Last::Large);
        }
    }

    pub fn change(&mut self, content: Content<'_>, now: Now) {
        if self.failed.is_some() {
            return;
        }
        let before = self.open.len();
        self.push(content, now);
        self.counters.bytes_logged += (self.open.len() - before) as u64;
    }

    #[inline]
    pub(super) fn push(&mut self, content: Content<'_>, now: Now) {
        self.open_group(now);
        let at = self.open.bytes.len();
        record::draft(&mut self.open.bytes, content);
        if self.run.is_some() {
            self.link(at);
        }
    }

    pub(super) fn open_group(&mut self, now: Now) {
        if self.open.is_empty() {
            self.open.opened_us = now.uptime_us;
            // Its time is that of its first record: never later than what follows.
            record::draft(&mut self.open.bytes, group_at(now));
        }
    }

    pub(super) fn link(&mut self, at: usize) {
        match self.run.replace(Some(Last::Record(at))).flatten() {
            Some(Last::Record(last)) => record::mark_more(&mut self.open.bytes[last..]),
            Some(Last::Large) => self.open.large.back_mut().expect("it was the last of the run").2 = true,
            None => {}
        }
    }

    /// What follows until [`end_run`](Self::end_run) takes effect together after a crash, or not at all.
    pub fn begin_run(&mut self) {
        self.run = Some(None);
    }

    pub fn end_run(&mut self) {
        self.run = None;
    }

    /// The open group has to be durable as soon as can be. The group to wait for.
    #[inline]
    pub fn want_sync(&mut self) -> u64 {
        self.open.wants_sync = true;
        self.open_number
    }

    /// The open group has to be durable by then.
    #[inline]
    pub fn want_sync_by(&mut self, at_us: u64) {
        self.open.sync_at_us.get_or_insert(at_us);
    }

    /// Somebody waits for this group, which may have been written long ago.
    pub fn want_sync_of(&mut self, group: u64) {
        if group == self.open_number {
            self.open.wants_sync = true;
        } else if group > self.durable {
            self.sync_wanted = true;
        }
    }

    /// The group to wait for until everything so far is durable.
    pub fn sync_all(&mut self) -> u64 {
        if !self.open.is_empty() {
            return self.want_sync();
        }
        self.sync_wanted = true;
        self.open_number - 1
    }

    /// The server ends: nothing follows. The group to wait for.
    pub fn finish(&mut self, now: Now) -> u64 {
        self.push(Content::End, now);
        self.want_sync()
    }
}
