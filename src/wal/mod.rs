//! The write-ahead log of one core: its format, the machine that writes it, and what reads it back. Does no I/O:
//! the writer hands out operations and is told how they went, the reader is fed the bytes of segments, so that the
//! tests run the very same code on a disk that loses, tears and reorders.
//!
//! ```text
//!   Shard::apply ─▶ effects ─▶ Writer: open group ─▶ operations ─▶ runtime::wal (direct I/O)
//!                                 ▲        └─ durable group ─▶ withheld replies leave
//!        shard, bucket by bucket ─┘ copies: what is old in the log is written again at its end
//!
//!   segments ─▶ Walker: verified records in order ─▶ Replay: whole changes ─▶ Shard
//! ```
//!
//! # Files
//!
//! A data directory holds one directory per *layout* (a number of cores), and in it the segments of every core.
//!
//! ```text
//!   DIR/LOCK                          held by the process that uses the directory
//!   DIR/log-000002/0001-000007.wal    layout 2, core 1, file 7
//!   DIR/log-000003.new/               a layout that is being written: ignored, and removed, unless it was finished
//! ```
//!
//! A file's name means nothing beyond its core: files are used again and again, and the header says which segment
//! a file holds at present. Another number of cores gets another layout: all cores read the old one, each keeps
//! what it owns now and writes it to the new one, and renaming its directory makes it valid at once.
//!
//! # Segment
//!
//! ```text
//!   0        4096                      8192, 12288 …
//!   ┌────────┬─────────────────────────┬───────────────┬──────
//!   │ header │ group │ record … │ 0 0 0│ group │ record │ …
//!   └────────┴─────────────────────────┴───────────────┴──────
//! ```
//!
//! What is written together is a group; it begins at a multiple of 4096 with a group record, and zeros fill it up
//! to one, so that no write ever touches bytes that were durable before. See [`segment`] for the header and
//! [`record`] for records. Records carry consecutive sequence numbers, from segment to segment: a missing one is
//! seen whatever is missing, and files that are no longer part of the log cannot be mistaken for it. Checksums
//! are seeded with the header's, so that what a file held in an earlier life does not verify.
//!
//! # What is damage
//!
//! Unsynced writes may be lost in any order, so the log may end with an unreadable stretch with readable
//! groups behind it. Every group says what was durable when it was written: records that are missing although a
//! later group calls them durable are damage; otherwise the log ends before them, and nothing that was promised
//! is lost.
//!
//! # How it stays small
//!
//! While the log is longer than its live part allows, every byte written for clients brings up to two bytes of
//! copies: the shard is gone through in the order of its hashes, round and round, and every key met is written
//! again. Once a round has passed, all that was in a segment has been copied, overwritten or removed since, and the
//! segment is free. A horizon record says so before its file is used again, and a header before the file is removed: without
//! one that says so the log begins with record 1, and is empty if that was never durable. This needs neither to read the log
//! nor to know where in it a key's value lies.
//!
//! # Transactions over several cores
//!
//! Records of one run (see [`record::MORE`]) take effect together or not at all, but only within one core's log. A
//! transaction (`MULTI`, `MSET` over cores …) has a *part* in the log of each core that it writes to, from a begin
//! record to a finish record, with the changes of others in between. Nothing is decided anywhere: it is whole if all
//! its parts are there. Recovery ends every log before the first part of a transaction that is not, see [`survey`];
//! while the server runs, nothing behind a part is promised before the transaction is whole, see [`ledger`].
//!
//! ```text
//!   core 0   set a │ begin T  set b  set c  finish T │ set d              T is whole: all of it stays
//!   core 1   begin T  set x  finish T │ begin U  set y  finish U │ set z  U is not: the log ends before it
//!   core 2   begin U  set ✂                                               and so does this one
//! ```
//!
//! - Keys are held from before the first begin until the finish, so parts of two transactions that have to do with one
//!   another stand in the same order in all logs, and what was built on a dropped part is dropped with it.
//! - A log that was cut goes on in a new segment whose first record has the number of the first one dropped. Where two
//!   segments have a record of one number, the newer segment counts.
//! - A core gives segments up only when the logs of all others say of the transactions in it that they are whole:
//!   what one core has dropped another must not look for. See [`writer::Writer::confirm`].
//! - Where damage is salvaged what is missing proves nothing, and parts are kept as they are.

#![deny(unsafe_code)]

pub mod compact;
pub mod dirty;
pub mod ledger;
pub mod reader;
pub mod record;
pub mod replay;
pub mod segment;
pub mod survey;
#[cfg(test)]
pub mod tests;
pub mod writer;

/// Direct I/O is done in multiples of this, at multiples of this, whatever the device says.
pub const BLOCK_BYTES: usize = 4096;

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
