//! The first block of a segment: what it is and what it was made for.
//!
//! ```text
//!    0  magic              8   "CRABWAL1"
//!    8  version            u32 2; a newer one is refused (1 had no transactions over cores)
//!   12  header bytes       u32 what the checksum covers
//!   16  segment bytes      u64 length of the file
//!   24  number             u64 of the segment, counted up for each core and layout
//!   32  oldest needed      u64 sequence number: earlier records were not needed when this was written
//!   40  created            u64 milliseconds since the Unix epoch
//!   48  layout             u32
//!   52  core               u32
//!   56  cores              u32 the slots 0..16384 are divided among, as `slot::owner_of_slot` does
//!   60  checksum           u32 CRC-32 of the bytes before it; seeds those of the records
//! ```
//!
//! It fits one sector, so that it is there whole or not at all.

use super::{BLOCK_BYTES, u32_at, u64_at};

const MAGIC: &[u8; 8] = b"CRABWAL1";
pub const VERSION: u32 = 2;
const HEADER_BYTES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: u32,
    pub segment_bytes: u64,
    pub number: u64,
    pub oldest_needed: u64,
    pub created_ms: u64,
    pub layout: u32,
    pub core: u32,
    pub cores: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Nothing but zeros: a file that was made and not yet given a header.
    Blank,
    /// Not a segment, or a damaged one.
    Unreadable,
    Newer(u32),
}

impl std::fmt::Display for HeaderError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeaderError::Blank => out.write_str("no header yet"),
            HeaderError::Unreadable => out.write_str("the header is damaged, or this is no segment"),
            HeaderError::Newer(version) => {
                write!(out, "format version {version}: this program reads up to {VERSION}, use a newer one")
            }
        }
    }
}

impl Header {
    /// The first block of the file.
    pub fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        block.extend(MAGIC);
        block.extend(self.version.to_le_bytes());
        block.extend((HEADER_BYTES as u32).to_le_bytes());
        for word in [self.segment_bytes, self.number, self.oldest_needed, self.created_ms] {
            block.extend(word.to_le_bytes());
        }
        for word in [self.layout, self.core, self.cores] {
            block.extend(word.to_le_bytes());
        }
        block.extend(crc32fast::hash(&block).to_le_bytes());
        debug_assert_eq!(block.len(), HEADER_BYTES);
        block.resize(BLOCK_BYTES, 0);
        block
    }

    pub fn parse(block: &[u8]) -> Result<Header, HeaderError> {
        let head = block.get(..HEADER_BYTES).ok_or(HeaderError::Unreadable)?;
        if head.iter().all(|&byte| byte == 0) {
            return Err(HeaderError::Blank);
        }
        let word = |at| u64_at(head, at).ok_or(HeaderError::Unreadable);
        let half = |at| u32_at(head, at).ok_or(HeaderError::Unreadable);
        if !head.starts_with(MAGIC) {
            return Err(HeaderError::Unreadable);
        }
        // A newer version may have a longer header; what says so must be whole all the same.
        let covered = half(12)? as usize;
        let is_whole = (HEADER_BYTES..=BLOCK_BYTES).contains(&covered)
            && block
                .get(..covered)
                .is_some_and(|head| u32_at(head, covered - 4) == Some(crc32fast::hash(&head[..covered - 4])));
        if !is_whole {
            return Err(HeaderError::Unreadable);
        }
        if half(8)? > VERSION {
            return Err(HeaderError::Newer(half(8)?));
        }
        Ok(Header {
            version: half(8)?,
            segment_bytes: word(16)?,
            number: word(24)?,
            oldest_needed: word(32)?,
            created_ms: word(40)?,
            layout: half(48)?,
            core: half(52)?,
            cores: half(56)?,
        })
    }

    /// What the checksums of the segment's records start from.
    pub fn seed(&self) -> u32 {
        u32_at(&self.to_block(), HEADER_BYTES - 4).expect("the header was just written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        version: VERSION,
        segment_bytes: 1 << 24,
        number: 7,
        oldest_needed: 1234,
        created_ms: 1_700_000_000_000,
        layout: 2,
        core: 1,
        cores: 4,
    };

    #[test]
    fn a_header_is_read_back_and_every_flipped_bit_is_seen() {
        let block = HEADER.to_block();
        assert_eq!(Header::parse(&block), Ok(HEADER));
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&flipped), Err(HeaderError::Unreadable), "bit {bit}");
        }
        assert_eq!(Header::parse(&[0; BLOCK_BYTES]), Err(HeaderError::Blank));
        assert_eq!(Header::parse(&block[..40]), Err(HeaderError::Unreadable));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut block = HEADER.to_block();
        block[8] = 9;
        let checksum = crc32fast::hash(&block[..HEADER_BYTES - 4]);
        block[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Header::parse(&block), Err(HeaderError::Newer(9)));
        assert!(HeaderError::Newer(9).to_string().contains("version 9"));
    }

    #[test]
    fn two_lives_of_a_file_have_different_seeds() {
        assert_ne!(HEADER.seed(), Header { number: 8, ..HEADER }.seed());
    }
}
