//! What an item looks like in its slot.
//!
//! ```text
//!   ┌───────┬──────────────┬────────────┬─────────────┬─────┬───────┐
//!   │ flags │ value length │ key length │ expiry      │ key │ value │
//!   │ 1     │ 1, 2 (or 4)  │ 1 or 2     │ 0, 6 (or 8) │     │       │
//!   └───────┴──────────────┴────────────┴─────────────┴─────┴───────┘
//!   flags   7 always set: a free slot starts with 0
//!           4–3 expiry: 0 none, 1 six bytes, 2 eight bytes (milliseconds since the Unix epoch)
//!           2–1 value: 0 length in one byte, 1 in two, 2 kept apart: the "length" is its number
//!           0   key length: 0 one byte, 1 two bytes
//! ```
//!
//! Three bytes for a key and a value below 256 bytes without expiry. Integers are little-endian.

use crate::limits::{KEY_BYTES_MAX, LARGE_VALUE_BYTES_MIN};

const LIVE: u8 = 1 << 7;
const KEY_WIDE: u8 = 1;
const VALUE_SHIFT: u8 = 1;
const VALUE_SHORT: u8 = 0;
const VALUE_LONG: u8 = 1;
const VALUE_APART: u8 = 2;
const EXPIRY_SHIFT: u8 = 3;
const EXPIRY_NONE: u8 = 0;
const EXPIRY_NEAR: u8 = 1;
const EXPIRY_FAR: u8 = 2;
const EXPIRY_NEAR_MAX: u64 = (1 << 48) - 1;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize && LARGE_VALUE_BYTES_MIN <= u16::MAX as usize + 1);

/// A value on its way into an item.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    Inline(&'a [u8]),
    /// The number of a value kept apart.
    Apart(u32),
}

/// Everything about an item but its key and value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    flags: u8,
    /// Length of the value, or its number.
    value: u32,
    key_bytes: u16,
}

impl Head {
    #[inline]
    pub fn new(key_bytes: usize, content: Content<'_>, expires_at_ms: Option<u64>) -> Head {
        debug_assert!(key_bytes <= KEY_BYTES_MAX);
        let key_kind = (key_bytes > u8::MAX as usize) as u8;
        let (value_kind, value) = match content {
            Content::Inline(value) => {
                debug_assert!(value.len() < LARGE_VALUE_BYTES_MIN);
                ((value.len() > u8::MAX as usize) as u8, value.len() as u32)
            }
            Content::Apart(number) => (VALUE_APART, number),
        };
        let expiry_kind = match expires_at_ms {
            None => EXPIRY_NONE,
            Some(..=EXPIRY_NEAR_MAX) => EXPIRY_NEAR,
            Some(_) => EXPIRY_FAR,
        };
        let flags = LIVE | key_kind | value_kind << VALUE_SHIFT | expiry_kind << EXPIRY_SHIFT;
        Head { flags, value, key_bytes: key_bytes as u16 }
    }

    /// The head of the item at the start of `slot`.
    #[inline(always)]
    pub fn read(slot: &[u8]) -> Head {
        // The smallest slot has 8 bytes, so that the eight bytes a head lies in can be read at once.
        let word = u64::from_le_bytes(slot[..8].try_into().expect("8 bytes"));
        let flags = word as u8;
        debug_assert!(flags & LIVE != 0);
        let kind = flags >> VALUE_SHIFT & 3;
        let value_bytes = 1u32 << kind;
        let value = (word >> 8) as u32 & (u32::MAX >> (32 - 8 * value_bytes));
        let key_at = 8 + 8 * value_bytes;
        let key_mask = if flags & KEY_WIDE != 0 { 0xFFFF } else { 0xFF };
        Head { flags, value, key_bytes: (word >> key_at) as u16 & key_mask }
    }

    #[inline(always)]
    fn value_kind(self) -> u8 {
        self.flags >> VALUE_SHIFT & 3
    }

    #[inline(always)]
    fn expiry_kind(self) -> u8 {
        self.flags >> EXPIRY_SHIFT & 3
    }

    #[inline(always)]
    fn expiry_at(self) -> usize {
        2 + (1 << self.value_kind()) + (self.flags & KEY_WIDE) as usize
    }

    #[inline(always)]
    fn key_at(self) -> usize {
        const EXPIRY_BYTES: [u8; 4] = [0, 6, 8, 0];
        self.expiry_at() + EXPIRY_BYTES[self.expiry_kind() as usize] as usize
    }

    #[inline(always)]
    fn value_at(self) -> usize {
        self.key_at() + self.key_bytes as usize
    }

    /// The bytes the item takes of its slot.
    #[inline(always)]
    pub fn item_bytes(self) -> usize {
        self.value_at() + self.inline_value_bytes()
    }

    #[inline(always)]
    pub fn inline_value_bytes(self) -> usize {
        if self.value_kind() == VALUE_APART { 0 } else { self.value as usize }
    }

    #[inline(always)]
    pub fn key_bytes(self) -> usize {
        self.key_bytes as usize
    }

    /// The number of a value kept apart.
    #[inline(always)]
    pub fn apart(self) -> Option<u32> {
        (self.value_kind() == VALUE_APART).then_some(self.value)
    }

    #[inline(always)]
    pub fn has_expiry(self) -> bool {
        self.expiry_kind() != EXPIRY_NONE
    }

    #[inline(always)]
    pub fn expires_at_ms(self, slot: &[u8]) -> Option<u64> {
        let at = self.expiry_at();
        match self.expiry_kind() {
            EXPIRY_NONE => None,
            EXPIRY_NEAR => {
                let mut bytes = [0; 8];
                bytes[..6].copy_from_slice(&slot[at..at + 6]);
                Some(u64::from_le_bytes(bytes))
            }
            _ => Some(u64::from_le_bytes(slot[at..at + 8].try_into().expect("8 bytes"))),
        }
    }

    #[inline(always)]
    pub fn key(self, slot: &[u8]) -> &[u8] {
        &slot[self.key_at()..][..self.key_bytes as usize]
    }

    /// The value, which must not be kept apart.
    #[inline(always)]
    pub fn value(self, slot: &[u8]) -> &[u8] {
        debug_assert!(self.value_kind() != VALUE_APART);
        &slot[self.value_at()..][..self.value as usize]
    }

    /// Whether items of both heads have the same fields in the same places, key included.
    #[inline(always)]
    fn same_places(self, other: Head) -> bool {
        self.flags == other.flags && self.key_bytes == other.key_bytes
    }

    fn write_fields(self, slot: &mut [u8], expires_at_ms: Option<u64>) {
        slot[0] = self.flags;
        let key_len_at = 1 + (1 << self.value_kind());
        slot[1..key_len_at].copy_from_slice(&self.value.to_le_bytes()[..1 << self.value_kind()]);
        let expiry_at = self.expiry_at();
        slot[key_len_at..expiry_at].copy_from_slice(&self.key_bytes.to_le_bytes()[..expiry_at - key_len_at]);
        let key_at = self.key_at();
        let expiry = expires_at_ms.unwrap_or(0).to_le_bytes();
        slot[expiry_at..key_at].copy_from_slice(&expiry[..key_at - expiry_at]);
    }

    /// Writes a whole item.
    #[inline]
    pub fn write(self, slot: &mut [u8], key: &[u8], content: Content<'_>, expires_at_ms: Option<u64>) {
        debug_assert_eq!(key.len(), self.key_bytes as usize);
        self.write_fields(slot, expires_at_ms);
        let value_at = self.value_at();
        slot[self.key_at()..value_at].copy_from_slice(key);
        if let Content::Inline(value) = content {
            slot[value_at..value_at + value.len()].copy_from_slice(value);
        }
    }

    /// Writes another value and expiry into the slot of an item with the head `old` and the same key.
    #[inline]
    pub fn overwrite(self, old: Head, slot: &mut [u8], key: &[u8], content: Content<'_>, expires_at_ms: Option<u64>) {
        if self.flags == old.flags
            && self.value_kind() == VALUE_SHORT
            && !self.has_expiry()
            && let Content::Inline(value) = content
        {
            slot[1] = self.value as u8;
            let value_at = self.value_at();
            slot[value_at..value_at + value.len()].copy_from_slice(value);
        } else {
            self.write(slot, key, content, expires_at_ms);
        }
    }

    /// The head of the same item with another expiry.
    pub fn with_expiry(self, expires_at_ms: Option<u64>) -> Head {
        let fresh = Head::new(0, Content::Inline(b""), expires_at_ms);
        let expiry_bits = 3 << EXPIRY_SHIFT;
        Head { flags: self.flags & !expiry_bits | fresh.flags & expiry_bits, ..self }
    }

    /// Changes the expiry of the item in place; the slot must have room for `self`.
    pub fn rewrite_expiry(self, old: Head, slot: &mut [u8], expires_at_ms: Option<u64>) {
        if !self.same_places(old) {
            slot.copy_within(old.key_at()..old.item_bytes(), self.key_at());
        }
        self.write_fields(slot, expires_at_ms);
    }

    /// Writes the item of `from`, which has the head `old`, with another expiry into a slot of its own.
    pub fn copy_from(self, old: Head, from: &[u8], slot: &mut [u8], expires_at_ms: Option<u64>) {
        let body = &from[old.key_at()..old.item_bytes()];
        slot[self.key_at()..][..body.len()].copy_from_slice(body);
        self.write_fields(slot, expires_at_ms);
    }
}

const _: () = assert!(VALUE_LONG == 1 && VALUE_SHORT == 0, "the kind of an inline value is a comparison");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_reads_back_as_written() {
        let mut slot = vec![0xEE; 200_000];
        for key_bytes in [0, 1, 16, 255, 256, 65_535] {
            let key: Vec<u8> = (0..key_bytes).map(|i| i as u8).collect();
            for value_bytes in [0, 1, 255, 256, 32_767] {
                let value: Vec<u8> = (0..value_bytes).map(|i| (i * 7) as u8).collect();
                for expiry in [None, Some(0), Some(EXPIRY_NEAR_MAX), Some(EXPIRY_NEAR_MAX + 1), Some(u64::MAX)] {
                    for content in [Content::Inline(&value), Content::Apart(u32::MAX - 1)] {
                        let head = Head::new(key_bytes, content, expiry);
                        head.write(&mut slot, &key, content, expiry);
                        let read = Head::read(&slot);
                        assert_eq!(read, head);
                        assert_eq!(read.key(&slot), key);
                        assert_eq!(read.expires_at_ms(&slot), expiry);
                        match content {
                            Content::Inline(value) => assert_eq!(read.value(&slot), value),
                            Content::Apart(number) => assert_eq!(read.apart(), Some(number)),
                        }
                        for later in [None, Some(7), Some(u64::MAX)] {
                            let changed = read.with_expiry(later);
                            let mut copy = vec![0; 200_000];
                            changed.copy_from(read, &slot, &mut copy, later);
                            let mut in_place = slot.clone();
                            changed.rewrite_expiry(read, &mut in_place, later);
                            for slot in [&copy, &in_place] {
                                let read = Head::read(slot);
                                assert_eq!((read.key(slot), read.expires_at_ms(slot)), (&key[..], later));
                                assert!(read.apart().is_some() || read.value(slot) == value);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_small_item_without_expiry_has_three_bytes_of_header() {
        assert_eq!(Head::new(16, Content::Inline(&[0; 32]), None).item_bytes(), 16 + 32 + 3);
        assert_eq!(Head::new(16, Content::Inline(&[0; 32]), Some(1)).item_bytes(), 16 + 32 + 9);
    }
}
