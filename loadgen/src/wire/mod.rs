//! The protocols that servers are asked in: requests as templates, replies skimmed as they stream by.
//!
//! Replies are not parsed into values: a load of millions of replies per second wants to know of each
//! only what it was (a status, an error, a value, a miss) and where it ended. Scanners therefore keep a
//! few counters between chunks and never copy a payload, unless its bytes are to be verified.

mod binary;
mod memcache;
mod resp;

use std::fmt;

pub use binary::BinaryScanner;
pub use memcache::MemcacheScanner;
pub use resp::RespScanner;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    Resp2,
    Resp3,
    /// crabcache's own.
    Binary,
    /// The text protocol of memcached.
    Memcache,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Resp2 => "resp2",
            Protocol::Resp3 => "resp3",
            Protocol::Binary => "binary",
            Protocol::Memcache => "memcache",
        })
    }
}

/// What one reply was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// `+OK`, `STORED`
    Status(&'a [u8]),
    /// The text after the `-`; memcached's whole error line.
    Error(&'a [u8]),
    Int(i64),
    /// One value.
    Value,
    /// No value: a miss.
    Nil,
    /// An aggregate with so many values (nested ones included) and absent values in it.
    Array {
        values: u32,
        nils: u32,
    },
    /// A double, boolean, big number.
    Other,
}

/// Bytes that cannot be a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonsense {
    pub why: &'static str,
    pub bytes: Vec<u8>,
}

/// The payloads of the reply that was just scanned, kept only on request.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    wanted: bool,
    bytes: Vec<u8>,
    /// Start and length of each value within `bytes`; `None` is an absent one.
    spans: Vec<Option<(usize, usize)>>,
}

impl Captured {
    pub fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.spans.iter().map(|span| span.map(|(start, len)| &self.bytes[start..start + len]))
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    fn begin(&mut self, len: usize) {
        if self.wanted {
            self.spans.push(Some((self.bytes.len(), len)));
        }
    }

    fn absent(&mut self) {
        if self.wanted {
            self.spans.push(None);
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.wanted {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

/// Longer lines than this are not replies to anything a load asks.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Nor are longer values.
const PAYLOAD_BYTES_MAX: i64 = 1 << 30;
/// Nor aggregates of more values, nested ones included.
const VALUES_MAX: u64 = 1 << 32;

/// Whether `bytes`, the next ones of a payload and its CRLF of which `left` are to come, have that CRLF where it
/// belongs, as far as they reach it.
#[inline]
fn ends_with_crlf(bytes: &[u8], left: usize) -> bool {
    const END: &[u8; 2] = b"\r\n";
    match bytes.len() {
        len if len == left && len >= END.len() => bytes.ends_with(END),
        // Cut between the two, or behind the payload.
        len => (left.saturating_sub(END.len())..len).all(|at| bytes[at] == END[at + END.len() - left]),
    }
}

#[derive(Clone, Debug)]
pub enum Scanner {
    Resp(RespScanner),
    Binary(BinaryScanner),
    Memcache(MemcacheScanner),
}

impl Scanner {
    pub fn new(protocol: Protocol, capture: bool) -> Scanner {
        let captured = Captured { wanted: capture, ..Captured::default() };
        match protocol {
            Protocol::Resp2 | Protocol::Resp3 => Scanner::Resp(RespScanner::new(captured)),
            Protocol::Binary => Scanner::Binary(BinaryScanner::new(captured)),
            Protocol::Memcache => Scanner::Memcache(MemcacheScanner::new(captured)),
        }
    }

    /// Takes the next bytes of the stream and calls `reply` for each reply that ends in them.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8], reply: impl FnMut(Answer<'_>, &Captured)) -> Result<(), Nonsense> {
        match self {
            Scanner::Resp(scanner) => scanner.feed(bytes, reply),
            Scanner::Binary(scanner) => scanner.feed(bytes, reply),
            Scanner::Memcache(scanner) => scanner.feed(bytes, reply),
        }
    }
}

/// The digits of a line, optionally signed; `None` if it is anything else.
#[inline]
fn parse_int(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, digits),
    };
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut value: i64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Counted downwards, where the range is larger by one.
        value = value.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// Bytes as text for people: printable ones as they are, others escaped, cut after a few hundred.
pub fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 256;
    let mut text = bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string();
    if bytes.len() > SHOWN {
        text += &format!("… ({} bytes)", bytes.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        for (text, value) in [("0", 0), ("-1", -1), ("+7", 7), ("9223372036854775807", i64::MAX)] {
            assert_eq!(parse_int(text.as_bytes()), Some(value));
        }
        assert_eq!(parse_int(b"-9223372036854775808"), Some(i64::MIN));
        for wrong in ["", "-", "1x", "9223372036854775808", "--1", "99999999999999999999"] {
            assert_eq!(parse_int(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn ends_of_payloads_wherever_they_are_cut() {
        assert!(ends_with_crlf(b"abc\r\n", 5) && ends_with_crlf(b"abc", 5) && ends_with_crlf(b"abc\r", 5));
        assert!(ends_with_crlf(b"\r\n", 2) && ends_with_crlf(b"\r", 2) && ends_with_crlf(b"\n", 1));
        assert!(!ends_with_crlf(b"abcde", 5) && !ends_with_crlf(b"abc\n", 5) && !ends_with_crlf(b"abc\rx", 5));
        assert!(!ends_with_crlf(b"x", 2) && !ends_with_crlf(b"\r", 1));
    }

    #[test]
    fn printable_escapes_and_cuts() {
        assert_eq!(printable(b"a\r\n\xff"), "a\\r\\n\\xff");
        assert!(printable(&[b'x'; 1000]).ends_with("… (1000 bytes)"));
    }
}
