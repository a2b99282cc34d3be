//! Keys to slots to cores. The only place that decides who owns a key: routing, cluster topology and
//! log re-sharding all ask here.
//!
//! `slot = crc16(key, or its {hash tag}) mod 16384`, as Redis Cluster defines it. Core `i` of `n` owns
//! the contiguous range `[ceil(i * 16384 / n), ceil((i + 1) * 16384 / n))`.

use crate::namespace::SEPARATOR;

pub const SLOT_COUNT: u32 = 16_384;

/// CRC-16/XMODEM (polynomial 0x1021, initial value 0), eight bytes at a time: `TABLES[k][b]` is the
/// remainder of byte `b` followed by `k` zero bytes.
static TABLES: [[u16; 256]; 8] = tables();

const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let previous = tables[k - 1][byte];
            tables[k][byte] = (previous << 8) ^ tables[0][(previous >> 8) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

pub fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0u16;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for c in chunks {
        crc = TABLES[7][(c[0] ^ (crc >> 8) as u8) as usize]
            ^ TABLES[6][(c[1] ^ crc as u8) as usize]
            ^ TABLES[5][c[2] as usize]
            ^ TABLES[4][c[3] as usize]
            ^ TABLES[3][c[4] as usize]
            ^ TABLES[2][c[5] as usize]
            ^ TABLES[1][c[6] as usize]
            ^ TABLES[0][c[7] as usize];
    }
    for &byte in rest {
        crc = (crc << 8) ^ TABLES[0][((crc >> 8) as u8 ^ byte) as usize];
    }
    crc
}

/// The part of `key` that decides its slot: what stands between the first `{` and the next `}`, if that
/// is not empty, else the whole key.
pub fn hash_tag(key: &[u8]) -> &[u8] {
    if let Some(open) = key.iter().position(|&b| b == b'{')
        && let Some(len) = key[open + 1..].iter().position(|&b| b == b'}')
        && len > 0
    {
        return &key[open + 1..open + 1 + len];
    }
    key
}

#[inline]
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = if has_brace(key) { hash_tag(key) } else { key };
    crc16(tag) & (SLOT_COUNT as u16 - 1)
}

/// Whether `key` is certainly without a `{` and without a `^`, and so its slot that of all of it, and its namespace the
/// global one. Said of nearly every key that is nothing but ASCII, at the price of looking for one of the two.
#[inline]
pub fn is_plain(key: &[u8]) -> bool {
    const BRACES: u64 = u64::from_ne_bytes([b'{'; 8]);
    const SEPARATORS: u64 = u64::from_ne_bytes([SEPARATOR; 8]);
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // A byte that is zero borrows from its high bit. One whose high bit is set may seem to have done so.
    let seems = |chunk: &[u8; 8]| {
        let word = u64::from_ne_bytes(*chunk);
        (word ^ BRACES).wrapping_sub(LOW) | (word ^ SEPARATORS).wrapping_sub(LOW)
    };
    let found = match key.last_chunk::<8>() {
        Some(last) => key.as_chunks::<8>().0.iter().fold(seems(last), |found, chunk| found | seems(chunk)),
        None => key.iter().fold(0, |found, byte| found | seems(&[*byte; 8])),
    };
    found & HIGH == 0
}

/// The slot of a key that [is plain](is_plain).
#[inline]
pub fn slot_of_plain(key: &[u8]) -> u16 {
    crc16(key) & (SLOT_COUNT as u16 - 1)
}

/// Whether there is a `{` in `key`, eight bytes at a time: nearly never, and asked of every key.
#[inline]
fn has_brace(key: &[u8]) -> bool {
    const BRACES: u64 = u64::from_ne_bytes([b'{'; 8]);
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let (chunks, rest) = key.as_chunks::<8>();
    // A byte that is zero borrows from its high bit. Bytes above one that is zero may seem to be so as well.
    let found = chunks.iter().fold(0, |found, chunk| {
        let difference = u64::from_ne_bytes(*chunk) ^ BRACES;
        found | (difference.wrapping_sub(LOW) & !difference & HIGH)
    });
    found != 0 || rest.contains(&b'{')
}

/// Which core of `cores` owns `slot`.
#[inline]
pub fn owner_of_slot(slot: u16, cores: u32) -> u32 {
    (slot as u32 * cores) >> SLOT_COUNT.trailing_zeros()
}

/// First and last slot that core `core` of `cores` owns.
pub fn slots_of_core(core: u32, cores: u32) -> std::ops::RangeInclusive<u16> {
    debug_assert!(core < cores && cores <= SLOT_COUNT);
    let first = (core * SLOT_COUNT).div_ceil(cores);
    let end = ((core + 1) * SLOT_COUNT).div_ceil(cores);
    first as u16..=(end - 1) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc16_bit_by_bit(bytes: &[u8]) -> u16 {
        let mut crc = 0u16;
        for &byte in bytes {
            crc ^= (byte as u16) << 8;
            for _ in 0..8 {
                crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            }
        }
        crc
    }

    #[test]
    fn crc_matches_the_published_check_value_and_the_plain_algorithm() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        let bytes: Vec<u8> = (0..100u32).map(|i| (i.wrapping_mul(197) >> 2) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(crc16(&bytes[..len]), crc16_bit_by_bit(&bytes[..len]), "length {len}");
        }
    }

    #[test]
    fn hash_tags_follow_the_cluster_specification() {
        assert_eq!(hash_tag(b"{user1000}.following"), b"user1000");
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hash_tag(b"foo{bar}{zap}"), b"bar");
        assert_eq!(hash_tag(b"foo{bar"), b"foo{bar");
        assert_eq!(hash_tag(b""), b"");
        assert_eq!(slot_of(b"somekey"), 11058);
        for at in 0..24 {
            let mut key = [b'z'; 24];
            assert!(!has_brace(&key[..at]));
            key[at] = b'{';
            assert!((0..=24).all(|len| has_brace(&key[..len]) == (len > at)), "{at}");
            assert_eq!(slot_of(&key), crc16(&key) & 0x3FFF);
        }
        assert_eq!(slot_of(b"foo{hash_tag}"), 2515);
    }

    #[test]
    fn plain_keys_have_neither_a_hash_tag_nor_a_namespace() {
        for len in 0..40 {
            let key = vec![b'z'; len];
            assert!(is_plain(&key) && slot_of_plain(&key) == slot_of(&key), "{len}");
            for at in 0..len {
                for (byte, expected) in (0..=u8::MAX).map(|byte| (byte, byte < 0x80 && byte != b'{' && byte != b'^')) {
                    let mut key = key.clone();
                    key[at] = byte;
                    // What is not ASCII may seem to be either.
                    assert!(is_plain(&key) == expected || byte >= 0x80, "{byte} at {at} of {len}");
                    assert!(!is_plain(&key) || slot_of_plain(&key) == slot_of(&key));
                }
            }
        }
    }

    #[test]
    fn every_slot_has_exactly_the_owner_whose_range_holds_it() {
        for cores in [1, 2, 3, 4, 5, 7, 16, 96, 1000] {
            let mut next = 0u32;
            for core in 0..cores {
                let range = slots_of_core(core, cores);
                assert_eq!(*range.start() as u32, next);
                next = *range.end() as u32 + 1;
                for slot in range {
                    assert_eq!(owner_of_slot(slot, cores), core, "slot {slot} of {cores} cores");
                }
            }
            assert_eq!(next, SLOT_COUNT);
        }
    }
}
