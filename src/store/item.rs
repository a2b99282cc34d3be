//! What an item looks like in its slot.
//!
//! ```text
//!   ┌───────┬──────┬──────────────┬────────────┬─────────────┬─────┬───────┐
//!   │ flags │ used │ value length │ key length │ expiry      │ key │ value │
//!   │ 1     │ 1    │ 1, 2 (or 4)  │ 1 or 2     │ 0, 4 (or 8) │     │       │
//!   └───────┴──────┴──────────────┴────────────┴─────────────┴─────┴───────┘
//!   flags   7 set while the item lives; one that is gone still tells how long it is
//!           6 set if the key has a namespace
//!           5 set by the first use since the eviction policy looked at the item
//!           4–3 expiry in milliseconds: 0 none, 1 the lower four bytes, 2 all eight
//!           2–1 value: 0 length in one byte, 1 in two, 2 kept apart: the "length" is its number
//!           0   key length: 0 one byte, 1 two bytes
//!   used    when the item was used last, see `idle`
//! ```
//!
//! Four bytes for a key and a value below 256 bytes without expiry, eight with one. Integers are little-endian.
//!
//! Four bytes of milliseconds come round every 49 days. They mean the first such time from a floor on that lies two
//! weeks back and moves with the clock, but never before what expired was removed: so times to live of up to five weeks
//! need no more, however long a machine slept.

use crate::limits::{KEY_BYTES_MAX, LARGE_VALUE_BYTES_MIN};
use crate::namespace;

const LIVE: u8 = 1 << 7;
const NAMESPACED: u8 = 1 << 6;
const VISITED: u8 = 1 << 5;
const KEY_WIDE: u8 = 1;
const VALUE_SHIFT: u8 = 1;
const VALUE_SHORT: u8 = 0;
const VALUE_LONG: u8 = 1;
const VALUE_APART: u8 = 2;
const EXPIRY_SHIFT: u8 = 3;
const EXPIRY_NONE: u8 = 0;
const EXPIRY_NEAR: u8 = 1;
const EXPIRY_FAR: u8 = 2;
const EXPIRY_MASK: u8 = 3 << EXPIRY_SHIFT;
const EXPIRY_NEAR_MASK: u64 = u32::MAX as u64;
/// Where the byte that says when the item was used stands.
const USED_AT: usize = 1;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize && LARGE_VALUE_BYTES_MIN <= u16::MAX as usize + 1);

/// A value on its way into an item.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    Inline(&'a [u8]),
    /// The number of a value kept apart.
    Apart(u32),
}

/// What an item is written and read with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Expiries of four bytes are not before this.
    pub floor_ms: u64,
    /// What items that are used now say of it.
    pub used: u8,
}

/// Where things stand in items with the same flags.
#[derive(Clone, Copy)]
struct Shape {
    value_mask: u32,
    key_mask: u16,
    /// Where the key's length stands in the first eight bytes, in bits.
    key_shift: u8,
    expiry_at: u8,
    key_at: u8,
    expiry_mask: u64,
}

const SHAPES: usize = 32;

/// By the flags without `LIVE`. Reading an item takes one look here instead of a chain of decisions.
static SHAPE: [Shape; SHAPES] = shapes();

const fn shapes() -> [Shape; SHAPES] {
    let unused = Shape { value_mask: 0, key_mask: 0, key_shift: 0, expiry_at: 0, key_at: 0, expiry_mask: 0 };
    let mut shapes = [unused; SHAPES];
    let mut flags = 0;
    while flags < SHAPES {
        let value_kind = flags as u8 >> VALUE_SHIFT & 3;
        let expiry_kind = flags as u8 >> EXPIRY_SHIFT & 3;
        if value_kind <= VALUE_APART && expiry_kind <= EXPIRY_FAR {
            let value_bytes = 1 << value_kind;
            let key_bytes = 1 + (flags as u8 & KEY_WIDE);
            let (expiry_bytes, expiry_mask) = match expiry_kind {
                EXPIRY_NONE => (0, 0),
                EXPIRY_NEAR => (4, EXPIRY_NEAR_MASK),
                _ => (8, u64::MAX),
            };
            let expiry_at = 2 + value_bytes + key_bytes;
            shapes[flags] = Shape {
                value_mask: u32::MAX >> (32 - 8 * value_bytes),
                key_mask: u16::MAX >> (16 - 8 * key_bytes),
                key_shift: 16 + 8 * value_bytes,
                expiry_at,
                key_at: expiry_at + expiry_bytes,
                expiry_mask,
            };
        }
        flags += 1;
    }
    shapes
}

/// What the first bytes of an item say: its flags and lengths.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    flags: u8,
    used: u8,
    key_at: u8,
    key_bytes: u16,
    /// Length of the value, or its number.
    value: u32,
}

impl Head {
    #[inline(always)]
    pub fn new(key_bytes: usize, content: Content<'_>, expires_at_ms: Option<u64>, times: Times) -> Head {
        debug_assert!(key_bytes <= KEY_BYTES_MAX);
        let key_kind = (key_bytes > u8::MAX as usize) as u8;
        let (value_kind, value) = match content {
            Content::Inline(value) => {
                debug_assert!(value.len() < LARGE_VALUE_BYTES_MIN);
                ((value.len() > u8::MAX as usize) as u8, value.len() as u32)
            }
            Content::Apart(number) => (VALUE_APART, number),
        };
        let flags = LIVE | key_kind | value_kind << VALUE_SHIFT | expiry_kind(expires_at_ms, times) << EXPIRY_SHIFT;
        Head { flags, used: times.used, key_at: shape(flags).key_at, key_bytes: key_bytes as u16, value }
    }

    /// The head of the item at the start of `slot`, which goes on for eight bytes at least.
    #[inline(always)]
    pub fn read(slot: &[u8]) -> Head {
        let head = Head::read_any(slot);
        debug_assert!(head.is_live());
        head
    }

    /// The same for items that may be gone; of those only the length is of use.
    #[inline(always)]
    pub fn read_any(slot: &[u8]) -> Head {
        let word = u64::from_le_bytes(slot[..8].try_into().expect("8 bytes"));
        let flags = word as u8;
        let shape = shape(flags);
        Head {
            flags,
            used: (word >> 8) as u8,
            key_at: shape.key_at,
            key_bytes: (word >> (shape.key_shift & 63)) as u16 & shape.key_mask,
            value: (word >> 16) as u32 & shape.value_mask,
        }
    }

    #[inline(always)]
    pub fn is_live(self) -> bool {
        self.flags & LIVE != 0
    }

    /// Marks the item in `slot` as gone.
    #[inline(always)]
    pub fn bury(slot: &mut [u8]) {
        slot[0] &= !LIVE;
    }

    /// Whether the item was used since the eviction policy looked at it.
    #[inline(always)]
    pub fn is_visited(self) -> bool {
        self.flags & VISITED != 0
    }

    #[inline(always)]
    pub fn with_visited(self, is_visited: bool) -> Head {
        Head { flags: self.flags & !VISITED | if is_visited { VISITED } else { 0 }, ..self }
    }

    /// Whether the key has a namespace.
    #[inline(always)]
    pub fn is_namespaced(self) -> bool {
        namespace::ARE_BUILT && self.flags & NAMESPACED != 0
    }

    #[inline(always)]
    pub fn with_namespace(self, is_namespaced: bool) -> Head {
        Head { flags: self.flags & !NAMESPACED | if is_namespaced { NAMESPACED } else { 0 }, ..self }
    }

    /// Writes into the item whether it was used.
    #[inline(always)]
    pub fn set_visited(slot: &mut [u8], is_visited: bool) {
        slot[0] = slot[0] & !VISITED | if is_visited { VISITED } else { 0 };
    }

    /// Whether nothing would change if the item were used now.
    #[inline(always)]
    pub fn is_used(self, times: Times) -> bool {
        self.flags & VISITED != 0 && self.used == times.used
    }

    /// When the item was used last, see `idle`.
    pub fn used(self) -> u8 {
        self.used
    }

    pub fn set_used(slot: &mut [u8], used: u8) {
        slot[USED_AT] = used;
    }

    #[inline(always)]
    fn value_kind(self) -> u8 {
        self.flags >> VALUE_SHIFT & 3
    }

    #[inline(always)]
    fn key_at(self) -> usize {
        self.key_at as usize
    }

    #[inline(always)]
    fn value_at(self) -> usize {
        self.key_at() + self.key_bytes()
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
        self.flags & EXPIRY_MASK != 0
    }

    #[inline(always)]
    pub fn expires_at_ms(self, slot: &[u8], times: Times) -> Option<u64> {
        let shape = shape(self.flags);
        self.has_expiry().then(|| {
            // Eight bytes are there also when four are meant: segments end with bytes to spare.
            let bytes = slot[shape.expiry_at as usize..][..8].try_into().expect("8 bytes");
            let since = u64::from_le_bytes(bytes).wrapping_sub(times.floor_ms) & shape.expiry_mask;
            times.floor_ms.wrapping_add(since)
        })
    }

    #[inline(always)]
    pub fn key(self, slot: &[u8]) -> &[u8] {
        &slot[self.key_at()..][..self.key_bytes()]
    }

    /// The value, which must not be kept apart.
    #[inline(always)]
    pub fn value(self, slot: &[u8]) -> &[u8] {
        debug_assert!(self.value_kind() != VALUE_APART);
        &slot[self.value_at()..][..self.value as usize]
    }

    /// Whether an inline value of `value_bytes` and an expiry could take the places of the old ones without
    /// moving anything else.
    #[inline(always)]
    pub fn takes(self, value_bytes: usize, expires_at_ms: Option<u64>, times: Times) -> bool {
        (value_bytes > u8::MAX as usize) as u8 == self.value_kind()
            && expiry_kind(expires_at_ms, times) == self.flags >> EXPIRY_SHIFT & 3
    }

    /// Writes a value and an expiry that the head [takes](Self::takes) over the old ones.
    #[inline(always)]
    pub fn overwrite(self, slot: &mut [u8], value: &[u8], expires_at_ms: Option<u64>) {
        debug_assert!((value.len() > u8::MAX as usize) as u8 == self.value_kind());
        let length = (value.len() as u16).to_le_bytes();
        slot[USED_AT + 1] = length[0];
        if self.value_kind() == VALUE_LONG {
            slot[USED_AT + 2] = length[1];
        }
        if let Some(expires_at_ms) = expires_at_ms {
            self.write_expiry(slot, expires_at_ms);
        }
        slot[self.value_at()..][..value.len()].copy_from_slice(value);
    }

    fn write_expiry(self, slot: &mut [u8], expires_at_ms: u64) {
        let shape = shape(self.flags);
        let (at, key_at) = (shape.expiry_at as usize, self.key_at());
        slot[at..key_at].copy_from_slice(&expires_at_ms.to_le_bytes()[..key_at - at]);
    }

    /// Writes everything that stands before the key.
    #[inline]
    fn write_fields(self, slot: &mut [u8], expires_at_ms: Option<u64>) {
        let shape = shape(self.flags);
        let lengths = (self.value as u64) << 16 | (self.key_bytes as u64) << (shape.key_shift & 63);
        let word = self.flags as u64 | (self.used as u64) << 8 | lengths;
        let expiry_at = shape.expiry_at as usize;
        slot[..expiry_at].copy_from_slice(&word.to_le_bytes()[..expiry_at]);
        if let Some(expires_at_ms) = expires_at_ms {
            self.write_expiry(slot, expires_at_ms);
        }
    }

    /// Writes a whole item.
    #[inline]
    pub fn write(self, slot: &mut [u8], key: &[u8], content: Content<'_>, expires_at_ms: Option<u64>) {
        debug_assert_eq!(key.len(), self.key_bytes());
        self.write_fields(slot, expires_at_ms);
        slot[self.key_at()..][..key.len()].copy_from_slice(key);
        if let Content::Inline(value) = content {
            slot[self.value_at()..][..value.len()].copy_from_slice(value);
        }
    }

    /// The head of the same item with another expiry.
    pub fn with_expiry(self, expires_at_ms: Option<u64>, times: Times) -> Head {
        let flags = self.flags & !EXPIRY_MASK | expiry_kind(expires_at_ms, times) << EXPIRY_SHIFT;
        Head { flags, key_at: shape(flags).key_at, ..self }
    }

    /// Changes the expiry of the item in place; the slot must have room for `self`.
    pub fn rewrite_expiry(self, old: Head, slot: &mut [u8], expires_at_ms: Option<u64>) {
        match expires_at_ms {
            Some(expires_at_ms) if self.flags == old.flags => self.write_expiry(slot, expires_at_ms),
            _ => {
                slot.copy_within(old.key_at()..old.item_bytes(), self.key_at());
                self.write_fields(slot, expires_at_ms);
            }
        }
    }

    /// Writes the item of `from`, which has the head `old`, with another expiry into a slot of its own.
    pub fn copy_from(self, old: Head, from: &[u8], slot: &mut [u8], expires_at_ms: Option<u64>) {
        let body = &from[old.key_at()..old.item_bytes()];
        slot[self.key_at()..][..body.len()].copy_from_slice(body);
        self.write_fields(slot, expires_at_ms);
    }
}

#[inline(always)]
fn shape(flags: u8) -> &'static Shape {
    &SHAPE[flags as usize % SHAPES]
}

#[inline(always)]
fn expiry_kind(expires_at_ms: Option<u64>, times: Times) -> u8 {
    match expires_at_ms {
        None => EXPIRY_NONE,
        Some(expires_at_ms) if expires_at_ms.wrapping_sub(times.floor_ms) <= EXPIRY_NEAR_MASK => EXPIRY_NEAR,
        Some(_) => EXPIRY_FAR,
    }
}

const _: () = assert!(VALUE_LONG == 1 && VALUE_SHORT == 0, "the kind of an inline value is a comparison");

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Times = Times { floor_ms: 1_800_000_000_123, used: 77 };

    #[test]
    fn every_shape_reads_back_as_written() {
        let mut slot = vec![0xEE; 200_000];
        let floor_ms = NOW.floor_ms;
        let near = [floor_ms - 1, floor_ms, floor_ms + EXPIRY_NEAR_MASK, floor_ms + EXPIRY_NEAR_MASK + 1];
        for key_bytes in [0, 1, 16, 255, 256, 65_535] {
            let key: Vec<u8> = (0..key_bytes).map(|i| i as u8).collect();
            for value_bytes in [0, 1, 255, 256, 32_767] {
                let value: Vec<u8> = (0..value_bytes).map(|i| (i * 7) as u8).collect();
                for expiry in [None, Some(0), Some(u64::MAX)].into_iter().chain(near.map(Some)) {
                    for content in [Content::Inline(&value), Content::Apart(u32::MAX - 1)] {
                        let head = Head::new(key_bytes, content, expiry, NOW);
                        head.write(&mut slot, &key, content, expiry);
                        let read = Head::read(&slot);
                        assert_eq!((read.item_bytes(), read.used()), (head.item_bytes(), NOW.used));
                        assert_eq!(read.key(&slot), key);
                        assert_eq!(read.expires_at_ms(&slot, NOW), expiry);
                        match content {
                            Content::Inline(value) => assert_eq!(read.value(&slot), value),
                            Content::Apart(number) => assert_eq!(read.apart(), Some(number)),
                        }
                        for later in [None, Some(7), Some(floor_ms + 7), Some(u64::MAX)] {
                            let changed = read.with_expiry(later, NOW);
                            let mut copy = vec![0; 200_000];
                            changed.copy_from(read, &slot, &mut copy, later);
                            let mut in_place = slot.clone();
                            changed.rewrite_expiry(read, &mut in_place, later);
                            for slot in [&copy, &in_place] {
                                let read = Head::read(slot);
                                assert_eq!((read.key(slot), read.expires_at_ms(slot, NOW)), (&key[..], later));
                                assert_eq!(read.used(), NOW.used);
                                assert!(read.apart().is_some() || read.value(slot) == value);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_expiry_means_the_same_while_the_floor_moves_towards_it() {
        let mut slot = [0; 64];
        for span in [0, 1, 86_400_000, EXPIRY_NEAR_MASK] {
            let expiry = Some(NOW.floor_ms + span);
            let content = Content::Inline(b"value");
            Head::new(3, content, expiry, NOW).write(&mut slot, b"key", content, expiry);
            for moved in [0, span / 3, span] {
                let times = Times { floor_ms: NOW.floor_ms + moved, ..NOW };
                assert_eq!(Head::read(&slot).expires_at_ms(&slot, times), expiry);
            }
        }
    }

    #[test]
    fn a_small_item_has_four_bytes_of_header_and_four_more_with_an_expiry() {
        let value = Content::Inline(&[0; 32]);
        assert_eq!(Head::new(16, value, None, NOW).item_bytes(), 16 + 32 + 4);
        let in_a_month = Some(NOW.floor_ms + 45 * 86_400_000);
        assert_eq!(Head::new(16, value, in_a_month, NOW).item_bytes(), 16 + 32 + 8);
    }
}
