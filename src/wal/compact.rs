//! How much has to be copied to the end of the log so that it stays short (see "How it stays small" in [`super`]).
//!
//! The log is what one round of copying lasts: everything older is garbage or was copied. So a round in which clients
//! write as much as they keep alive leaves a log of twice that. Copying never stops while clients write, also when all
//! there is was written for the first time: segments that were all closed at one point of the round would all become
//! free at one point, a whole round later. It is slow while there is room, and faster than clients write when there is
//! little: it cannot fall behind, however fast they are.

use super::writer::{ROUND, Writer};

/// What a record takes beyond key and value.
const RECORD_OVERHEAD: u64 = super::record::RECORD_HEADER_BYTES as u64;
/// Closed segments may be so many times as long as what is alive.
const LENGTH_MAX: u64 = 2;
/// From which percentage of that on how many half bytes are copied for each byte that is logged …
const HALF_COPIES: [(u64, u64); 4] = [(95, 8), (85, 4), (70, 2), (0, 1)];
/// … but when less than one segment is left, or two, as much as this.
const HALF_COPIES_BEFORE_FULL: [u64; 2] = [8, 4];
/// Copied at a time, so that no turn takes long …
pub const STEP_BYTES_MAX: u64 = 256 * 1024;
/// … at least so much of what is too long even when nobody writes …
const STEP_BYTES_MIN: u64 = 4 * 1024;
/// … and in each step of a round that was asked for, whatever clients do.
const ASKED_STEP_BYTES: u64 = 256 * 1024;

/// The bytes that all keys take in the log, each once.
pub fn live_bytes(keys: u64, keys_with_expiry: u64, payload_bytes: u64) -> u64 {
    payload_bytes + keys * RECORD_OVERHEAD + keys_with_expiry * 8
}

#[derive(Default)]
pub struct Pace {
    logged_before: u64,
    owed_bytes: u64,
    /// A whole round up to here was asked for.
    asked_to: Option<u64>,
}

impl Pace {
    /// A whole round has to be made, however short the log is.
    pub fn ask_for_round(&mut self, progress: u64) {
        self.asked_to = Some(progress + ROUND);
    }

    pub fn is_asked(&self) -> bool {
        self.asked_to.is_some()
    }

    /// How many bytes to copy now.
    pub fn due(&mut self, writer: &Writer, live_bytes: u64) -> u64 {
        // What clients take of the disk: with the padding of their groups, which may be most of it.
        let logged = writer.counters.bytes_written.saturating_sub(writer.counters.bytes_copied);
        let fresh = logged.saturating_sub(self.logged_before);
        self.logged_before += fresh;
        if self.asked_to.is_some_and(|to| writer.progress() >= to) {
            self.asked_to = None;
        }
        if self.asked_to.is_some() {
            return ASKED_STEP_BYTES;
        }
        let closed = writer.closed_bytes();
        let segment = writer.segment_bytes();
        if closed == 0 {
            self.owed_bytes = 0;
            return 0;
        }
        let length_max = LENGTH_MAX * live_bytes;
        let [urgent, soon] = HALF_COPIES_BEFORE_FULL;
        let is_garbage = closed > live_bytes;
        let by_share = HALF_COPIES.into_iter().find(|(percent, _)| closed * 100 >= length_max * percent);
        let half_copies = match by_share.map_or(0, |(_, half_copies)| half_copies) {
            _ if is_garbage && closed + segment > length_max => urgent,
            slow if is_garbage && closed + 2 * segment > length_max => soon.max(slow),
            slow => slow,
        };
        // More than one round is never owed.
        self.owed_bytes = (self.owed_bytes + half_copies * fresh / 2).min(live_bytes);
        // What is too long gets shorter also when nobody writes.
        let least = if half_copies >= soon && is_garbage { STEP_BYTES_MIN } else { 0 };
        self.owed_bytes.clamp(least, STEP_BYTES_MAX)
    }

    /// So many bytes were copied.
    pub fn copied(&mut self, bytes: u64) {
        self.owed_bytes = self.owed_bytes.saturating_sub(bytes);
    }
}
