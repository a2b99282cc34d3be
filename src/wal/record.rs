//! One record of the log.
//!
//! ```text
//!    0  checksum    u32  CRC-32 of everything behind it, started from the segment's seed
//!    4  body bytes  u32
//!    8  sequence    u64  one more than that of the record before
//!   16  type        u8
//!   17  flags       u8   1: the run goes on with the next record
//!   18  key bytes   u16
//!   20  body
//! ```
//!
//! | type | body | means |
//! |---|---|---|
//! | 1 group | durable u64, time u64, settled u64, confirmed u64 | begins a group, or goes on with it in another segment (flag 1): every record up to `durable` was durable, and it was this time (Unix, ms); transactions that begin up to `settled` are whole, and of those up to `confirmed` all cores' logs say so |
//! | 2 set | key, value | the key has this value and no expiry |
//! | 3 set until | key, expiry u64, value | the same with an expiry (Unix, ms) |
//! | 4 set large | key, expiry u64 (0: none), value bytes u64 | the value follows in parts, in the same run |
//! | 5 part | bytes | the next bytes of a large value |
//! | 6 remove | key | the key is gone |
//! | 7 expire | key, expiry u64 (0: none) | the key has another expiry and the same value |
//! | 8 append | key, bytes | the value has grown by these bytes |
//! | 9 flush | | all keys of this core are gone |
//! | 10 horizon | sequence u64 | earlier records are not needed any more |
//! | 11 end | | the server ended in order: nothing follows in this segment |
//! | 12 begin | cores u32 each, origin u64, number u64 | the part of a transaction begins that has parts in the logs of these cores |
//! | 13 finish | origin u64, number u64 | it ends |

use super::{u32_at, u64_at};
use crate::limits::{KEY_BYTES_MAX, LARGE_VALUE_BYTES_MIN};

pub const RECORD_HEADER_BYTES: usize = 20;
/// Flag: this record takes effect together with the next one, or not at all.
pub const MORE: u8 = 1;
/// A group record with its header.
pub const GROUP_BYTES: usize = RECORD_HEADER_BYTES + 32;
/// No record is longer: values beyond [`LARGE_VALUE_BYTES_MIN`] come in parts.
pub const BODY_BYTES_MAX: usize = KEY_BYTES_MAX + 16 + LARGE_VALUE_BYTES_MIN;
/// Bytes of a large value in one record.
pub const PART_BYTES: usize = 64 * 1024;

const _: () = assert!(PART_BYTES <= BODY_BYTES_MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Group = 1,
    Set = 2,
    SetUntil = 3,
    SetLarge = 4,
    Part = 5,
    Remove = 6,
    Expire = 7,
    Append = 8,
    Flush = 9,
    Horizon = 10,
    End = 11,
    Begin = 12,
    Finish = 13,
}

impl Kind {
    fn of(code: u8) -> Option<Kind> {
        use Kind::*;
        const KINDS: [Kind; 13] =
            [Group, Set, SetUntil, SetLarge, Part, Remove, Expire, Append, Flush, Horizon, End, Begin, Finish];
        KINDS.into_iter().find(|&kind| kind as u8 == code)
    }
}

/// A transaction, for ever: `origin` is drawn anew at every start of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    pub origin: u64,
    pub number: u64,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    Group {
        durable: u64,
        unix_ms: u64,
        settled: u64,
        confirmed: u64,
    },
    Set {
        key: &'a [u8],
        value: &'a [u8],
        expires_at_ms: Option<u64>,
    },
    SetLarge {
        key: &'a [u8],
        expires_at_ms: Option<u64>,
        value_bytes: u64,
    },
    Part(&'a [u8]),
    Remove {
        key: &'a [u8],
    },
    Expire {
        key: &'a [u8],
        expires_at_ms: Option<u64>,
    },
    Append {
        key: &'a [u8],
        tail: &'a [u8],
    },
    Flush,
    Horizon {
        sequence: u64,
    },
    End,
    Begin {
        id: TransactionId,
        /// The cores whose logs have a part of it, four bytes each.
        cores: &'a [u8],
    },
    Finish {
        id: TransactionId,
    },
    /// Unknown to this version: a log with such records is not understood.
    Foreign(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub sequence: u64,
    pub more: bool,
    pub content: Content<'a>,
}

fn checksum(seed: u32, covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(covered);
    hasher.finalize()
}

fn expiry_word(expires_at_ms: Option<u64>) -> u64 {
    // Nothing expires at the very epoch: a key that would is removed instead.
    expires_at_ms.map_or(0, |at| at.max(1))
}

/// Appends a record without sequence number and checksum, which [`seal`] fills in when it is known where the
/// record will lie.
pub fn draft(out: &mut Vec<u8>, content: Content<'_>) {
    let (kind, key, middle, tail): (Kind, &[u8], Option<u64>, &[u8]) = match content {
        Content::Group { durable, unix_ms, settled, confirmed } => {
            return draft_words(out, Kind::Group, &[], &[durable, unix_ms, settled, confirmed]);
        }
        Content::Begin { id, cores } => return draft_words(out, Kind::Begin, cores, &[id.origin, id.number]),
        Content::Finish { id } => return draft_words(out, Kind::Finish, &[], &[id.origin, id.number]),
        Content::Set { key, value, expires_at_ms: None } => (Kind::Set, key, None, value),
        Content::Set { key, value, expires_at_ms } => (Kind::SetUntil, key, Some(expiry_word(expires_at_ms)), value),
        Content::SetLarge { key, expires_at_ms, value_bytes } => {
            return draft_words(out, Kind::SetLarge, key, &[expiry_word(expires_at_ms), value_bytes]);
        }
        Content::Part(bytes) => (Kind::Part, &[], None, bytes),
        Content::Remove { key } => (Kind::Remove, key, None, &[]),
        Content::Expire { key, expires_at_ms } => (Kind::Expire, key, Some(expiry_word(expires_at_ms)), &[]),
        Content::Append { key, tail } => (Kind::Append, key, None, tail),
        Content::Flush => (Kind::Flush, &[], None, &[]),
        Content::Horizon { sequence } => (Kind::Horizon, &[], Some(sequence), &[]),
        Content::End => (Kind::End, &[], None, &[]),
        Content::Foreign(_) => unreachable!("only read, never written"),
    };
    let body_bytes = key.len() + 8 * middle.is_some() as usize + tail.len();
    debug_assert!(key.len() <= KEY_BYTES_MAX && body_bytes <= BODY_BYTES_MAX);
    out.reserve(RECORD_HEADER_BYTES + body_bytes);
    draft_header(out, kind, key.len(), body_bytes);
    out.extend_from_slice(key);
    if let Some(word) = middle {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(tail);
}

fn draft_words(out: &mut Vec<u8>, kind: Kind, key: &[u8], words: &[u64]) {
    draft_header(out, kind, key.len(), key.len() + 8 * words.len());
    out.extend_from_slice(key);
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

#[inline]
fn draft_header(out: &mut Vec<u8>, kind: Kind, key_bytes: usize, body_bytes: usize) {
    let mut header = [0; RECORD_HEADER_BYTES];
    header[4..8].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    header[16] = kind as u8;
    header[18..20].copy_from_slice(&(key_bytes as u16).to_le_bytes());
    out.extend_from_slice(&header);
}

/// The length of the drafted or sealed record at the start of `bytes`.
pub fn record_bytes(bytes: &[u8]) -> usize {
    RECORD_HEADER_BYTES + u32_at(bytes, 4).map_or(0, |body| body as usize)
}

/// Marks a drafted record as followed by more of its run.
pub fn mark_more(record: &mut [u8]) {
    record[17] |= MORE;
}

/// Gives a drafted record its place in the log.
pub fn seal(record: &mut [u8], sequence: u64, seed: u32) {
    record[8..16].copy_from_slice(&sequence.to_le_bytes());
    let sum = checksum(seed, &record[4..]);
    record[..4].copy_from_slice(&sum.to_le_bytes());
}

/// The record at the start of `bytes` with the bytes it takes, if one verifies there.
pub fn read(bytes: &[u8], seed: u32) -> Option<(Record<'_>, usize)> {
    let header: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk()?;
    // Zeros are by far the most frequent non-record.
    if header[16] == 0 {
        return None;
    }
    let body_bytes = u32_at(header, 4)? as usize;
    if body_bytes > BODY_BYTES_MAX {
        return None;
    }
    let end = RECORD_HEADER_BYTES + body_bytes;
    let record = bytes.get(..end)?;
    if checksum(seed, &record[4..]) != u32_at(header, 0)? {
        return None;
    }
    let key_bytes = u16::from_le_bytes([header[18], header[19]]) as usize;
    // What verifies was written by this code: a body that does not fit its type is damage all the same.
    let content = parse(header[16], record[RECORD_HEADER_BYTES..].split_at_checked(key_bytes)?)?;
    Some((Record { sequence: u64_at(header, 8)?, more: header[17] & MORE != 0, content }, end))
}

fn parse<'a>(code: u8, (key, rest): (&'a [u8], &'a [u8])) -> Option<Content<'a>> {
    let Some(kind) = Kind::of(code) else { return Some(Content::Foreign(code)) };
    let expiry = |word: u64| (word != 0).then_some(word);
    Some(match kind {
        Kind::Group => Content::Group {
            durable: u64_at(rest, 0)?,
            unix_ms: u64_at(rest, 8)?,
            // Version 1 had no transactions.
            settled: u64_at(rest, 16).unwrap_or(0),
            confirmed: u64_at(rest, 24).unwrap_or(0),
        },
        Kind::Set => Content::Set { key, value: rest, expires_at_ms: None },
        Kind::SetUntil => Content::Set { key, value: rest.get(8..)?, expires_at_ms: Some(u64_at(rest, 0)?) },
        Kind::SetLarge => {
            Content::SetLarge { key, expires_at_ms: expiry(u64_at(rest, 0)?), value_bytes: u64_at(rest, 8)? }
        }
        Kind::Part => Content::Part(rest),
        Kind::Remove => Content::Remove { key },
        Kind::Expire => Content::Expire { key, expires_at_ms: expiry(u64_at(rest, 0)?) },
        Kind::Append => Content::Append { key, tail: rest },
        Kind::Flush => Content::Flush,
        Kind::Horizon => Content::Horizon { sequence: u64_at(rest, 0)? },
        Kind::End => Content::End,
        Kind::Begin if key.len().is_multiple_of(4) => Content::Begin { id: id_at(rest)?, cores: key },
        Kind::Begin => return None,
        Kind::Finish => Content::Finish { id: id_at(rest)? },
    })
}

fn id_at(bytes: &[u8]) -> Option<TransactionId> {
    Some(TransactionId { origin: u64_at(bytes, 0)?, number: u64_at(bytes, 8)? })
}

/// The cores that a [`Content::Begin`] names.
pub fn cores_in(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|core| u32::from_le_bytes(core.try_into().expect("four bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(content: Content<'_>, sequence: u64, seed: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        draft(&mut bytes, content);
        seal(&mut bytes, sequence, seed);
        bytes
    }

    fn contents() -> Vec<Content<'static>> {
        vec![
            Content::Group { durable: 3, unix_ms: 1_700_000_000_000, settled: 2, confirmed: 1 },
            Content::Begin { id: TransactionId { origin: 1, number: 2 }, cores: &[1, 0, 0, 0, 7, 0, 0, 0] },
            Content::Finish { id: TransactionId { origin: 1, number: 2 } },
            Content::Set { key: b"k", value: b"value", expires_at_ms: None },
            Content::Set { key: b"k", value: b"", expires_at_ms: Some(77) },
            Content::SetLarge { key: b"k", expires_at_ms: None, value_bytes: 1 << 33 },
            Content::SetLarge { key: b"", expires_at_ms: Some(5), value_bytes: 0 },
            Content::Part(b"0123456789"),
            Content::Remove { key: b"k" },
            Content::Expire { key: b"k", expires_at_ms: None },
            Content::Expire { key: b"k", expires_at_ms: Some(9) },
            Content::Append { key: b"k", tail: b"more" },
            Content::Flush,
            Content::Horizon { sequence: 1234 },
            Content::End,
        ]
    }

    #[test]
    fn every_kind_is_read_back() {
        for (sequence, content) in contents().into_iter().enumerate() {
            let mut bytes = Vec::new();
            draft(&mut bytes, content);
            assert_eq!(record_bytes(&bytes), bytes.len());
            mark_more(&mut bytes);
            seal(&mut bytes, sequence as u64, 5);
            let record = Record { sequence: sequence as u64, more: true, content };
            assert_eq!(read(&bytes, 5), Some((record, bytes.len())));
            assert_eq!(read(&bytes, 6), None, "of another segment");
        }
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_is_read() {
        for content in contents() {
            let bytes = sealed(content, 7, 1);
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read(&flipped, 1), None, "bit {bit} of {content:?}");
            }
            for len in 0..bytes.len() {
                assert_eq!(read(&bytes[..len], 1), None);
            }
        }
    }

    #[test]
    fn a_type_of_a_later_version_is_not_taken_for_another() {
        let mut bytes = Vec::new();
        draft(&mut bytes, Content::Flush);
        for code in [14, 15, 255] {
            bytes[16] = code;
            seal(&mut bytes, 1, 0);
            assert_eq!(read(&bytes, 0).unwrap().0.content, Content::Foreign(code));
        }
    }
}
