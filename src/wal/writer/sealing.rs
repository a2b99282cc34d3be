//! A group goes on its way: its drafts become blocks of the current segment, with numbers and checksums.

use super::{Flight, Writer, group_at};
use crate::clock::Now;
use crate::wal::BLOCK_BYTES;
use crate::wal::record::{self, Content, GROUP_BYTES, PART_BYTES, RECORD_HEADER_BYTES};

impl Writer {
    /// The open group goes on its way, if it is time.
    pub(super) fn begin_flight(&mut self, now: Now) -> bool {
        if self.flight.is_some() || !self.is_due(now) {
            return false;
        }
        let group = std::mem::take(&mut self.open);
        self.sync_wanted |= group.wants_sync;
        self.sync_at_us = [self.sync_at_us, group.sync_at_us].into_iter().flatten().min();
        self.flight = Some(Flight {
            number: self.open_number,
            group,
            at: 0,
            large_at: 0,
            carry: Vec::new(),
            begun: false,
            taken: false,
            writes: 0,
            durable: false,
        });
        self.open_number += 1;
        self.counters.groups += 1;
        true
    }

    pub(super) fn is_due(&self, now: Now) -> bool {
        // A group that is waited for begins when the one before is durable; the longer it waits the more
        // it carries.
        !self.open.is_empty()
            && self.current.is_some()
            && self.run.is_none()
            && if self.open.wants_sync {
                self.syncing.is_none()
            } else {
                self.open.len() >= self.config.write_bytes_max
                    || now.uptime_us >= self.open.opened_us + self.config.write_delay_us
            }
    }

    /// Seals the next records of the flight, as many as one write takes. None if there is no segment for them.
    pub(super) fn fill(&mut self, now: Now) -> Option<(u32, u64, Vec<u8>)> {
        let words = [self.durable_sequence, self.settled.1, self.confirmed.1];
        let settled = self.settled.0;
        let Writer { flight, current, next_sequence, stated, counters, config, .. } = self;
        let flight = flight.as_mut()?;
        let current = current.as_mut()?;
        let mut out = std::mem::take(&mut flight.carry);
        let mut is_full = false;
        let mut part = Vec::new();
        while out.len() < config.write_bytes_max {
            let large = flight.group.large.front().filter(|large| large.0 == flight.at);
            // A record, or the next part of a large value, as a draft.
            let draft: &[u8] = match large {
                Some((_, value, goes_on)) => {
                    let end = (flight.large_at + PART_BYTES).min(value.len());
                    part.clear();
                    record::draft(&mut part, Content::Part(&value[flight.large_at..end]));
                    if end < value.len() || *goes_on {
                        record::mark_more(&mut part);
                    }
                    &part
                }
                None if flight.at == flight.group.bytes.len() => break,
                None => {
                    let rest = &flight.group.bytes[flight.at..];
                    &rest[..record::record_bytes(rest)]
                }
            };
            // Every segment and every flight begins with a group record.
            let is_group = flight.at == 0;
            let begins = !flight.begun && !is_group;
            let room = config.segment_bytes - current.offset;
            if (out.len() + draft.len() + begins as usize * GROUP_BYTES) as u64 > room {
                is_full = true;
                break;
            }
            let mut put = |draft: &[u8], out: &mut Vec<u8>| {
                let at = out.len();
                out.extend_from_slice(draft);
                if draft[16] == record::Kind::Group as u8 {
                    let body = &mut out[at + RECORD_HEADER_BYTES..];
                    for (place, word) in [0, 16, 24].into_iter().zip(words) {
                        body[place..][..8].copy_from_slice(&word.to_le_bytes());
                    }
                    *stated = settled;
                }
                record::seal(&mut out[at..], *next_sequence, current.seed);
                *next_sequence += 1;
                counters.records += 1;
            };
            if begins {
                let mut group = Vec::with_capacity(GROUP_BYTES);
                record::draft(&mut group, group_at(now));
                record::mark_more(&mut group);
                put(&group, &mut out);
            }
            put(draft, &mut out);
            flight.begun = true;
            match large {
                Some((_, value, _)) => {
                    flight.large_at = (flight.large_at + PART_BYTES).min(value.len());
                    if flight.large_at == value.len() {
                        flight.group.large.pop_front();
                        flight.large_at = 0;
                    }
                }
                None => {
                    let is_flush = draft[16] == record::Kind::Flush as u8;
                    flight.at += draft.len();
                    if is_flush {
                        // Nothing before it is needed any more.
                        self.closed.iter_mut().for_each(|closed| closed.is_dead = true);
                    }
                }
            }
        }
        flight.taken |= flight.at == flight.group.bytes.len() && flight.group.large.is_empty();
        if is_full && out.is_empty() {
            self.close_current();
            return self.fill_next(now);
        }
        // Unless the flight or the segment ends here, what is not a whole block waits for the next write.
        if flight.taken || is_full {
            out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
        } else {
            flight.carry = out.split_off(out.len() / BLOCK_BYTES * BLOCK_BYTES);
        }
        let offset = current.offset;
        current.offset += out.len() as u64;
        let file = current.file;
        if is_full {
            self.close_current();
        }
        Some((file, offset, out))
    }

    pub(super) fn fill_next(&mut self, now: Now) -> Option<(u32, u64, Vec<u8>)> {
        self.current.as_ref()?;
        self.fill(now)
    }

    pub(super) fn write_done(&mut self, now: Now) {
        let flight = self.flight.as_mut().expect("writes are those of the flight");
        flight.writes -= 1;
        if flight.taken && flight.writes == 0 {
            self.written = flight.number;
            let Flight { mut group, durable, .. } = self.flight.take().expect("just seen");
            if durable {
                self.made_durable(self.written, self.next_sequence - 1, self.stated, now);
            }
            // The next group takes its memory, unless it was a huge one.
            if self.open.is_empty() && group.bytes.capacity() <= 4 * self.config.write_bytes_max {
                group.bytes.clear();
                self.open.bytes = group.bytes;
            }
        }
    }
}
