//! Turns records into whole changes: runs take effect together, parts become values.

use bytes::Bytes;

use super::record::{Content, Record};
use crate::limits::VALUE_BYTES_MAX_CEILING;

/// A change of the keyspace, whatever was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    Set { key: &'a [u8], value: &'a [u8], expires_at_ms: Option<u64> },
    SetLarge { key: &'a [u8], value: Bytes, expires_at_ms: Option<u64> },
    Remove { key: &'a [u8] },
    Expire { key: &'a [u8], expires_at_ms: Option<u64> },
    Append { key: &'a [u8], tail: &'a [u8] },
    Flush,
}

/// A change that waits for the rest of its run.
enum Kept {
    Set { key: Vec<u8>, value: Bytes, expires_at_ms: Option<u64> },
    Remove { key: Vec<u8> },
    Expire { key: Vec<u8>, expires_at_ms: Option<u64> },
    Append { key: Vec<u8>, tail: Vec<u8> },
    Flush,
}

struct Large {
    key: Vec<u8>,
    expires_at_ms: Option<u64>,
    value_bytes: u64,
    /// Grows as parts arrive: a length alone takes no memory.
    value: Vec<u8>,
}

#[derive(Default)]
pub struct Replay {
    run: Vec<Kept>,
    large: Option<Large>,
    unix_ms: u64,
    /// Records that say nothing without others that are not there.
    pub orphans: u64,
}

impl Replay {
    /// When the records now replayed were written, at the latest.
    pub fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    /// Records are missing: what is half there is given up.
    pub fn gap(&mut self) {
        self.orphans += self.run.len() as u64 + self.large.is_some() as u64;
        self.run.clear();
        self.large = None;
    }

    /// Hands the changes that are whole with this record to `sink`.
    pub fn record(&mut self, record: &Record<'_>, sink: &mut impl FnMut(Change<'_>)) {
        let change = match record.content {
            Content::Group { unix_ms, .. } => {
                self.unix_ms = unix_ms;
                if !record.more {
                    // A run that a crash cut short must not go on with what was written after it.
                    self.run.clear();
                    self.large = None;
                }
                return;
            }
            Content::Horizon { .. }
            | Content::End
            | Content::Begin { .. }
            | Content::Finish { .. }
            | Content::Foreign(_) => return,
            Content::SetLarge { key, expires_at_ms, value_bytes } => {
                let is_sound = value_bytes <= VALUE_BYTES_MAX_CEILING as u64;
                self.orphans += self.large.is_some() as u64 + !is_sound as u64;
                self.large =
                    is_sound.then(|| Large { key: key.to_vec(), expires_at_ms, value_bytes, value: Vec::new() });
                return;
            }
            Content::Part(bytes) => return self.part(bytes, record.more, sink),
            Content::Set { key, value, expires_at_ms } => Change::Set { key, value, expires_at_ms },
            Content::Remove { key } => Change::Remove { key },
            Content::Expire { key, expires_at_ms } => Change::Expire { key, expires_at_ms },
            Content::Append { key, tail } => Change::Append { key, tail },
            Content::Flush => Change::Flush,
        };
        if record.more || !self.run.is_empty() {
            self.run.push(Kept::of(change));
            self.end_run(record.more, sink);
        } else {
            sink(change);
        }
    }

    fn part(&mut self, bytes: &[u8], more: bool, sink: &mut impl FnMut(Change<'_>)) {
        let Some(large) = &mut self.large else {
            self.orphans += 1;
            return;
        };
        large.value.extend_from_slice(bytes);
        if (large.value.len() as u64) < large.value_bytes {
            return;
        }
        let large = self.large.take().expect("just seen");
        if large.value.len() as u64 > large.value_bytes {
            self.orphans += 1;
            return;
        }
        let (key, value) = (large.key, Bytes::from(large.value));
        self.run.push(Kept::Set { key, value, expires_at_ms: large.expires_at_ms });
        self.end_run(more, sink);
    }

    fn end_run(&mut self, more: bool, sink: &mut impl FnMut(Change<'_>)) {
        if more {
            return;
        }
        for kept in self.run.drain(..) {
            sink(match &kept {
                Kept::Set { key, value, expires_at_ms } => {
                    Change::SetLarge { key, value: value.clone(), expires_at_ms: *expires_at_ms }
                }
                Kept::Remove { key } => Change::Remove { key },
                Kept::Expire { key, expires_at_ms } => Change::Expire { key, expires_at_ms: *expires_at_ms },
                Kept::Append { key, tail } => Change::Append { key, tail },
                Kept::Flush => Change::Flush,
            });
        }
    }
}

impl Kept {
    fn of(change: Change<'_>) -> Kept {
        match change {
            Change::Set { key, value, expires_at_ms } => {
                Kept::Set { key: key.to_vec(), value: Bytes::copy_from_slice(value), expires_at_ms }
            }
            Change::SetLarge { key, value, expires_at_ms } => Kept::Set { key: key.to_vec(), value, expires_at_ms },
            Change::Remove { key } => Kept::Remove { key: key.to_vec() },
            Change::Expire { key, expires_at_ms } => Kept::Expire { key: key.to_vec(), expires_at_ms },
            Change::Append { key, tail } => Kept::Append { key: key.to_vec(), tail: tail.to_vec() },
            Change::Flush => Kept::Flush,
        }
    }
}
