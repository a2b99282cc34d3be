//! How much has to be copied to the end of the log so that it stays short (see "How it stays small" in [`super`]).
//!
//! Everything in the log older than one round is garbage or was copied, so a round in which clients write as much
//! as they keep alive leaves a log of twice that. Copying begins when the log nears that length, and goes faster
//! than clients write: it cannot fall behind, however fast they are.

use super::writer::{ROUND, Writer};

/// What a record takes beyond key and value.
const RECORD_OVERHEAD: u64 = super::record::RECORD_HEADER_BYTES as u64;
/// Closed segments may be so many times as long as what is alive …
const LENGTH_MAX: u64 = 2;
/// … and two segments before they are, so many bytes are copied for each one logged …
const COPIES_PER_BYTE: u64 = 2;
/// … and so many one segment before.
const COPIES_PER_BYTE_MAX: u64 = 4;
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
        // Nothing becomes free before the first round is over: it begins as soon as there is garbage.
        let length_max = if writer.progress() < ROUND { live_bytes + segment } else { LENGTH_MAX * live_bytes };
        if closed <= live_bytes || closed + 2 * segment <= length_max {
            self.owed_bytes = 0;
            return 0;
        }
        let speed = if closed + segment > length_max { COPIES_PER_BYTE_MAX } else { COPIES_PER_BYTE };
        // More than one round is never owed.
        self.owed_bytes = (self.owed_bytes + speed * fresh).min(live_bytes);
        self.owed_bytes.clamp(STEP_BYTES_MIN, STEP_BYTES_MAX)
    }

    /// So many bytes were copied.
    pub fn copied(&mut self, bytes: u64) {
        self.owed_bytes = self.owed_bytes.saturating_sub(bytes);
    }
}
