//! Requests made from templates: everything that is the same in each request is written down once.
//!
//! Where all values have one size, the template is the whole request, and making one costs a copy and
//! the digits of its key:
//!
//! ```text
//!   *3\r\n$3\r\nSET\r\n$16\r\nkey:000000000000\r\n$3\r\nVXK\r\n
//!                                 ^^^^^^^^^^^^ 12 digits, overwritten per request
//! ```

mod binary;
mod memcache;
mod resp;

use crate::random::mix;
use crate::wire::Protocol;
use crate::workload::{Action, KeyNames, Sizes, Workload};

pub use binary::FrameWriter;

/// INCR has keys of its own, as in redis-benchmark: the values of the others are not numbers.
const COUNTER_PREFIX: &str = "counter:";

/// What differs from one request to the next.
pub trait Filling {
    /// The number of the next key.
    fn key(&mut self) -> u64;
    /// How long the next value is; it belongs to the last key or to the next, as the protocol orders them.
    fn value_length(&mut self) -> usize;
    /// Appends the value, `length` bytes, of the last key.
    fn value(&mut self, out: &mut Vec<u8>, length: usize);
}

/// A piece of a request that is put together for each request.
#[derive(Clone, Debug)]
enum Piece {
    /// Bytes, and where in them key digits go.
    Literal {
        bytes: Vec<u8>,
        digits_at: Vec<usize>,
    },
    /// The length of the value, in decimal.
    LengthDecimal,
    /// The length of the value, as `u32` little-endian.
    LengthLittle,
    Value,
}

/// How to write one action in one protocol.
#[derive(Clone, Debug)]
pub struct Template {
    pieces: Vec<Piece>,
    digits: usize,
}

impl Template {
    /// `fixed_values`: values are [`filler`] of the workload's one size, if it has one.
    pub fn new(action: &Action, workload: &Workload, protocol: Protocol, fixed_values: bool) -> Template {
        let mut builder = Builder { names: &workload.names, pieces: Vec::new() };
        match protocol {
            Protocol::Resp2 | Protocol::Resp3 => builder.resp(action, workload),
            Protocol::Binary => builder.binary(action, workload),
            Protocol::Memcache => builder.memcache(action, workload),
        }
        let mut template = Template { pieces: builder.pieces, digits: workload.names.digits };
        if let (Sizes::Fixed(bytes), true) = (workload.sizes, fixed_values) {
            template.merge(bytes);
        }
        template
    }

    /// The whole request, if only key digits change from one to the next.
    pub fn fixed_bytes(&self) -> Option<(&[u8], &[usize])> {
        match &self.pieces[..] {
            [Piece::Literal { bytes, digits_at }] => Some((bytes, digits_at)),
            _ => None,
        }
    }

    /// Appends one request.
    #[inline]
    pub fn append(&self, out: &mut Vec<u8>, filling: &mut impl Filling) {
        let mut length = 0;
        for piece in &self.pieces {
            match piece {
                Piece::Literal { bytes, digits_at } => {
                    let start = out.len();
                    out.extend_from_slice(bytes);
                    for at in digits_at {
                        write_digits(&mut out[start + at..][..self.digits], filling.key());
                    }
                }
                Piece::LengthDecimal => {
                    length = filling.value_length();
                    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                }
                Piece::LengthLittle => {
                    length = filling.value_length();
                    out.extend_from_slice(&(length as u32).to_le_bytes());
                }
                Piece::Value => filling.value(out, length),
            }
        }
    }

    /// Makes one literal of it all, with values of `length` bytes.
    fn merge(&mut self, length: usize) {
        let mut all = Vec::new();
        let mut all_digits_at = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal { bytes, digits_at } => {
                    all_digits_at.extend(digits_at.iter().map(|at| at + all.len()));
                    all.extend_from_slice(bytes);
                }
                Piece::LengthDecimal => all.extend_from_slice(length.to_string().as_bytes()),
                Piece::LengthLittle => all.extend_from_slice(&(length as u32).to_le_bytes()),
                Piece::Value => filler(&mut all, length),
            }
        }
        self.pieces = vec![Piece::Literal { bytes: all, digits_at: all_digits_at }];
    }
}

/// Appends `length` bytes of letters that are the same every time.
pub fn filler(out: &mut Vec<u8>, length: usize) {
    const BLOCK: usize = 4096;
    static LETTERS: std::sync::OnceLock<[u8; BLOCK]> = std::sync::OnceLock::new();
    let letters = LETTERS.get_or_init(|| std::array::from_fn(|i| b'A' + (mix(i as u64) % 26) as u8));
    let mut left = length;
    while left > 0 {
        let here = left.min(BLOCK);
        out.extend_from_slice(&letters[..here]);
        left -= here;
    }
}

/// Right-aligned decimal digits, padded with zeros.
#[inline]
pub fn write_digits(out: &mut [u8], mut value: u64) {
    const PAIRS: [[u8; 2]; 100] = {
        let mut pairs = [[0; 2]; 100];
        let mut i = 0;
        while i < 100 {
            pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
            i += 1;
        }
        pairs
    };
    let mut pairs = out.rchunks_exact_mut(2);
    for pair in &mut pairs {
        pair.copy_from_slice(&PAIRS[(value % 100) as usize]);
        value /= 100;
    }
    if let [first] = pairs.into_remainder() {
        *first = b'0' + (value % 10) as u8;
    }
}

/// Appends to the pieces of a template; each protocol spells actions with it.
struct Builder<'a> {
    names: &'a KeyNames,
    pieces: Vec<Piece>,
}

impl Builder<'_> {
    fn literal(&mut self) -> (&mut Vec<u8>, &mut Vec<usize>) {
        if !matches!(self.pieces.last(), Some(Piece::Literal { .. })) {
            self.pieces.push(Piece::Literal { bytes: Vec::new(), digits_at: Vec::new() });
        }
        match self.pieces.last_mut() {
            Some(Piece::Literal { bytes, digits_at }) => (bytes, digits_at),
            _ => unreachable!("a literal was just pushed"),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.literal().0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn piece(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    fn digits(&mut self) {
        let digits = self.names.digits;
        let (bytes, digits_at) = self.literal();
        digits_at.push(bytes.len());
        bytes.resize(bytes.len() + digits, b'0');
    }

    /// Prefix and digits.
    fn key(&mut self) {
        self.text(&self.names.prefix);
        self.digits();
    }

    fn counter(&mut self) {
        self.text(COUNTER_PREFIX);
        self.digits();
    }

    fn counter_len(&self) -> usize {
        COUNTER_PREFIX.len() + self.names.digits
    }
}

/// A word of a command typed by hand: `__key__` is a key, `__rand_int__` its digits, `__data__` a value.
#[derive(Debug, PartialEq)]
enum WordPart<'a> {
    Text(&'a str),
    Key,
    Digits,
}

/// The parts of a word, or `None` for a value.
fn word_parts(word: &str) -> Option<Vec<WordPart<'_>>> {
    const PLACES: [&str; 2] = ["__key__", "__rand_int__"];
    if word == "__data__" {
        return None;
    }
    let mut parts = Vec::new();
    let mut rest = word;
    while let Some((at, place)) = PLACES.iter().filter_map(|place| Some((rest.find(place)?, *place))).min() {
        parts.push(WordPart::Text(&rest[..at]));
        parts.push(if place == "__key__" { WordPart::Key } else { WordPart::Digits });
        rest = &rest[at + place.len()..];
    }
    parts.push(WordPart::Text(rest));
    Some(parts)
}

impl Builder<'_> {
    fn parts_len(&self, parts: &[WordPart<'_>]) -> usize {
        let len = |part: &WordPart<'_>| match part {
            WordPart::Text(text) => text.len(),
            WordPart::Key => self.names.len(),
            WordPart::Digits => self.names.digits,
        };
        parts.iter().map(len).sum()
    }

    fn parts(&mut self, parts: &[WordPart<'_>]) {
        for part in parts {
            match part {
                WordPart::Text(text) => self.text(text),
                WordPart::Key => self.key(),
                WordPart::Digits => self.digits(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Distribution;

    pub fn workload() -> Workload {
        Workload {
            name: String::new(),
            mix: vec![],
            keys: 1000,
            distribution: Distribution::Uniform,
            distribution_of_reads: None,
            names: KeyNames { prefix: "k:".into(), digits: 5 },
            sizes: Sizes::Fixed(3),
            expire_seconds: 60,
            set_expires: false,
            fill: false,
            trace: None,
        }
    }

    /// Keys 42, 43, …; values of 4 bytes.
    struct Counting(u64);

    impl Filling for Counting {
        fn key(&mut self) -> u64 {
            self.0 += 1;
            self.0
        }

        fn value_length(&mut self) -> usize {
            4
        }

        fn value(&mut self, out: &mut Vec<u8>, length: usize) {
            out.extend(std::iter::repeat_n(b'v', length));
        }
    }

    /// One request of `action`, its first key 42.
    pub fn written(action: &Action, workload: &Workload, protocol: Protocol) -> Vec<u8> {
        let mut out = Vec::new();
        Template::new(action, workload, protocol, false).append(&mut out, &mut Counting(41));
        out
    }

    #[test]
    fn fixed_sizes_make_one_literal_of_the_same_bytes() {
        for protocol in [Protocol::Resp2, Protocol::Binary, Protocol::Memcache] {
            let template = Template::new(&Action::Set, &workload(), protocol, true);
            let (bytes, digits_at) = template.fixed_bytes().unwrap();
            assert_eq!(digits_at.len(), 1);
            assert_eq!(&bytes[digits_at[0]..][..5], b"00000");
            let mut values = Vec::new();
            filler(&mut values, 3);
            let found = bytes.windows(3).any(|window| window == values);
            assert!(found, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn digits_of_every_width() {
        for width in 1..=20 {
            let mut out = vec![b'?'; width];
            write_digits(&mut out, 12_345_678_901_234_567_890);
            assert_eq!(out, b"12345678901234567890"[20 - width..]);
        }
    }

    #[test]
    fn places_in_words() {
        assert_eq!(word_parts("__data__"), None);
        let parts = word_parts("a__rand_int____key__b").unwrap();
        use WordPart::*;
        assert_eq!(parts, [Text("a"), Digits, Text(""), Key, Text("b")]);
    }
}
