//! Replies read back: for answers gathered from other cores, for load generators and for tests.
//!
//! [`parse`] makes a [`Reply`] of its own memory; [`skip`] only finds where a reply ends, which is all
//! that a load generator wants to know.

use std::ops::Range;

use bytes::Bytes;

use super::binary;
use crate::limits::{LARGE_VALUE_BYTES_MIN, REPLY_DEPTH_MAX};
use crate::number;
use crate::reply::{Out, Reply};
use crate::request::Wire;

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedReply {
    Tag(u8),
    /// A length or count that is no number from 0 to 4 Gi.
    Length,
    /// What stands where a number, a boolean, a double, or a text's three-letter format belongs.
    Value,
    /// A bulk is not followed by CR LF.
    BulkEnd,
    /// Aggregates within aggregates, beyond [`REPLY_DEPTH_MAX`].
    TooDeep,
}

/// The extent of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub len: usize,
    pub is_error: bool,
}

/// The reply at the start of `bytes` and its length; none while it is not whole. Both versions of RESP
/// are read alike; attributes are dropped. What memory it takes is bounded by what is here, not by what
/// its lengths promise.
pub fn parse(wire: Wire, bytes: &[u8]) -> Result<Option<(Reply<'static>, usize)>, MalformedReply> {
    if wire == Wire::Binary {
        return binary::parse(bytes);
    }
    let mut reader = Reader { bytes, at: 0, hung_in: &[] };
    match reader.reply(REPLY_DEPTH_MAX) {
        Ok(reply) => Ok(Some((reply, reader.at))),
        Err(Stop::NotWhole) => Ok(None),
        Err(Stop::Malformed(error)) => Err(error),
    }
}

/// The RESP reply that was written into `bytes[range]` of `out`, whose first large value, if it has any, is
/// `out.large[first_large]`. Large values are taken from there without a copy.
pub fn parse_written(
    out: &Out,
    range: Range<usize>,
    first_large: usize,
) -> Result<Option<Reply<'static>>, MalformedReply> {
    let mut reader = Reader { bytes: &out.bytes[..range.end], at: range.start, hung_in: &out.large[first_large..] };
    match reader.reply(REPLY_DEPTH_MAX) {
        Ok(reply) => Ok(Some(reply)),
        Err(Stop::NotWhole) => Ok(None),
        Err(Stop::Malformed(error)) => Err(error),
    }
}

/// Where the reply at the start of `bytes` ends; none while it is not whole.
#[inline]
pub fn skip(wire: Wire, bytes: &[u8]) -> Result<Option<Skipped>, MalformedReply> {
    if wire == Wire::Binary {
        return binary::skip(bytes);
    }
    let mut reader = Reader { bytes, at: 0, hung_in: &[] };
    let mut is_error = None;
    let mut replies_left = 1u64;
    while replies_left > 0 {
        let one = match reader.skip_one() {
            Ok(one) => one,
            Err(Stop::NotWhole) => return Ok(None),
            Err(Stop::Malformed(error)) => return Err(error),
        };
        // An attribute comes before the reply that it belongs to, and is none itself.
        if let One::Attribute(within) = one {
            replies_left += within;
            continue;
        }
        if replies_left == 1 {
            is_error = is_error.or(Some(matches!(one, One::Error)));
        }
        replies_left -= 1;
        if let One::Within(within) = one {
            replies_left += within;
        }
    }
    Ok(Some(Skipped { len: reader.at, is_error: is_error == Some(true) }))
}

/// A simple string: the ones that the server itself knows are told apart.
pub(super) fn status(line: &[u8]) -> Reply<'static> {
    const KNOWN: [&str; 4] = ["QUEUED", "RESET", "none", "string"];
    match line {
        b"OK" => Reply::Ok,
        b"PONG" => Reply::Pong,
        _ => match KNOWN.iter().find(|known| known.as_bytes() == line) {
            Some(known) => Reply::Status(known),
            None => Reply::text(text(line)),
        },
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

enum Stop {
    NotWhole,
    Malformed(MalformedReply),
}

impl From<MalformedReply> for Stop {
    fn from(error: MalformedReply) -> Stop {
        Stop::Malformed(error)
    }
}

enum One {
    Within(u64),
    Attribute(u64),
    Error,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Large values that are not among the bytes, each with where it belongs.
    hung_in: &'a [(usize, Bytes)],
}

impl<'a> Reader<'a> {
    /// The tag and the rest of its line.
    #[inline]
    fn line(&mut self) -> Result<(u8, &'a [u8]), Stop> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (&tag, rest) = rest.split_first().ok_or(Stop::NotWhole)?;
        let end = memchr::memchr(b'\n', rest).ok_or(Stop::NotWhole)?;
        let line = rest[..end].strip_suffix(b"\r").ok_or(Stop::Malformed(MalformedReply::Value))?;
        self.at += end + 2;
        Ok((tag, line))
    }

    /// The `len` bytes that follow, and CR LF behind them.
    #[inline]
    fn bulk(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let bulk = self.bytes.get(self.at..self.at + len + 2).ok_or(Stop::NotWhole)?;
        self.at += len + 2;
        Ok(bulk.strip_suffix(b"\r\n").ok_or(MalformedReply::BulkEnd)?)
    }

    /// A large value of `len` bytes, and CR LF behind it.
    fn large(&mut self, len: usize) -> Result<Bytes, Stop> {
        if let Some(((offset, value), rest)) = self.hung_in.split_first()
            && *offset == self.at
            && value.len() == len
        {
            self.hung_in = rest;
            self.bulk(0)?;
            return Ok(value.clone());
        }
        Ok(Bytes::copy_from_slice(self.bulk(len)?))
    }

    fn reply(&mut self, depth_left: usize) -> Result<Reply<'static>, Stop> {
        let (tag, line) = self.line()?;
        Ok(match tag {
            b'+' => status(line),
            b'-' => Reply::error(text(line)),
            b':' => Reply::Int(number::parse_i64(line).ok_or(MalformedReply::Value)?),
            b'$' => match length(line)? {
                None => Reply::Nil,
                Some(len) if len < LARGE_VALUE_BYTES_MIN => Reply::owned(self.bulk(len)?),
                Some(len) => Reply::Large(self.large(len)?),
            },
            b'!' => Reply::error(text(self.bulk(present(length(line)?)?)?)),
            b'=' => match self.bulk(present(length(line)?)?)? {
                [_, _, _, b':', verbatim @ ..] => Reply::Verbatim(text(verbatim).into()),
                _ => return Err(MalformedReply::Value.into()),
            },
            b'_' if line.is_empty() => Reply::Nil,
            b'#' if line == b"t" => Reply::Bool(true),
            b'#' if line == b"f" => Reply::Bool(false),
            b',' => Reply::Double(double(line)?),
            // More digits than an integer has.
            b'(' => match line.strip_prefix(b"-").unwrap_or(line) {
                [] => return Err(MalformedReply::Value.into()),
                digits if digits.iter().all(u8::is_ascii_digit) => Reply::text(text(line)),
                _ => return Err(MalformedReply::Value.into()),
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let depth_left = depth_left.checked_sub(1).ok_or(MalformedReply::TooDeep)?;
                let Some(count) = length(line)? else {
                    return if tag == b'*' { Ok(Reply::NilArray) } else { Err(MalformedReply::Length.into()) };
                };
                match tag {
                    b'*' => Reply::Array(self.replies(count, depth_left)?),
                    b'~' => Reply::Set(self.replies(count, depth_left)?),
                    b'>' => Reply::Push(self.replies(count, depth_left)?),
                    b'%' => Reply::Map(self.pairs(count, depth_left)?),
                    _ => {
                        self.pairs(count, depth_left)?;
                        self.reply(depth_left)?
                    }
                }
            }
            b'_' | b'#' => return Err(MalformedReply::Value.into()),
            tag => return Err(MalformedReply::Tag(tag).into()),
        })
    }

    fn replies(&mut self, count: usize, depth_left: usize) -> Result<Vec<Reply<'static>>, Stop> {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.reply(depth_left)?);
        }
        Ok(items)
    }

    fn pairs(&mut self, count: usize, depth_left: usize) -> Result<Vec<(Reply<'static>, Reply<'static>)>, Stop> {
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push((self.reply(depth_left)?, self.reply(depth_left)?));
        }
        Ok(pairs)
    }

    /// Skips one line and the bulk that belongs to it.
    #[inline]
    fn skip_one(&mut self) -> Result<One, Stop> {
        let (tag, line) = self.line()?;
        match tag {
            b'+' | b':' | b',' | b'(' | b'_' | b'#' => {}
            b'-' => return Ok(One::Error),
            b'$' => {
                if let Some(len) = length(line)? {
                    self.bulk(len)?;
                }
            }
            b'=' => {
                self.bulk(present(length(line)?)?)?;
            }
            b'!' => {
                self.bulk(present(length(line)?)?)?;
                return Ok(One::Error);
            }
            b'*' => return Ok(One::Within(length(line)?.unwrap_or(0) as u64)),
            b'~' | b'>' => return Ok(One::Within(present(length(line)?)? as u64)),
            b'%' => return Ok(One::Within(2 * present(length(line)?)? as u64)),
            b'|' => return Ok(One::Attribute(2 * present(length(line)?)? as u64)),
            tag => return Err(MalformedReply::Tag(tag).into()),
        }
        Ok(One::Within(0))
    }
}

/// A length, or none for `-1`.
#[inline]
fn length(line: &[u8]) -> Result<Option<usize>, MalformedReply> {
    match line {
        [digit @ b'0'..=b'9'] => Ok(Some(usize::from(digit - b'0'))),
        b"-1" => Ok(None),
        _ => match number::parse_i64(line) {
            Some(number @ 0..=0xFFFF_FFFF) => Ok(Some(number as usize)),
            _ => Err(MalformedReply::Length),
        },
    }
}

fn present(length: Option<usize>) -> Result<usize, MalformedReply> {
    length.ok_or(MalformedReply::Length)
}

fn double(line: &[u8]) -> Result<f64, MalformedReply> {
    let text = std::str::from_utf8(line).map_err(|_| MalformedReply::Value)?;
    text.parse().map_err(|_| MalformedReply::Value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::encode;
    use crate::proto::tests::interesting_byte;
    use crate::random::Random;
    use crate::reply::Out;

    fn whole(bytes: &[u8]) -> Reply<'static> {
        let (reply, consumed) = parse(Wire::Resp3, bytes).unwrap().unwrap();
        assert_eq!(consumed, bytes.len());
        reply
    }

    fn malformed(bytes: &[u8]) -> MalformedReply {
        parse(Wire::Resp3, bytes).unwrap_err()
    }

    #[test]
    fn every_form_is_read() {
        assert_eq!(whole(b"+OK\r\n"), Reply::Ok);
        assert_eq!(whole(b"+PONG\r\n"), Reply::Pong);
        assert_eq!(whole(b"+string\r\n"), Reply::Status("string"));
        assert_eq!(whole(b"+something else\r\n"), Reply::text("something else"));
        assert_eq!(whole(b"-ERR no\r\n"), Reply::error("ERR no"));
        assert_eq!(whole(b"!6\r\nERR no\r\n"), Reply::error("ERR no"));
        assert_eq!(whole(b":-7\r\n"), Reply::Int(-7));
        assert_eq!(whole(b"$-1\r\n"), Reply::Nil);
        assert_eq!(whole(b"_\r\n"), Reply::Nil);
        assert_eq!(whole(b"*-1\r\n"), Reply::NilArray);
        assert_eq!(whole(b"$0\r\n\r\n"), Reply::owned(b""));
        assert_eq!(whole(b"#t\r\n"), Reply::Bool(true));
        assert_eq!(whole(b",1.5e-3\r\n"), Reply::Double(0.0015));
        assert_eq!(whole(b",-inf\r\n"), Reply::Double(f64::NEG_INFINITY));
        assert_eq!(whole(b"(-123456789012345678901234567890\r\n"), Reply::text("-123456789012345678901234567890"));
        assert_eq!(whole(b"=7\r\ntxt:a\nb\r\n"), Reply::Verbatim("a\nb".into()));
        assert_eq!(whole(b"~1\r\n:1\r\n"), Reply::Set(vec![Reply::Int(1)]));
        assert_eq!(whole(b">1\r\n:1\r\n"), Reply::Push(vec![Reply::Int(1)]));
        assert_eq!(whole(b"%1\r\n:1\r\n:2\r\n"), Reply::Map(vec![(Reply::Int(1), Reply::Int(2))]));
        assert_eq!(whole(b"|1\r\n+ttl\r\n:3600\r\n*1\r\n|0\r\n:1\r\n"), Reply::Array(vec![Reply::Int(1)]));
    }

    #[test]
    fn what_is_no_reply_is_named() {
        use MalformedReply::*;
        assert_eq!(malformed(b"?\r\n"), Tag(b'?'));
        for line in ["$-2", "$01", "$+1", "$4294967296", "$x", "*-2", "*x", "%-1", "~-1", ">-1", "|-1", "!-1", "=-1"] {
            assert_eq!(malformed(format!("{line}\r\n").as_bytes()), Length, "{line}");
        }
        for line in [":", ":1x", ":9223372036854775808", "#x", "_x", ",x", "(", "(-", "(1x", "=3\r\ntxt", "+OK\n"] {
            assert_eq!(malformed(format!("{line}\r\n").as_bytes()), Value, "{line}");
        }
        assert_eq!(malformed(b"$1\r\nab\r\n"), BulkEnd);
        let nested = |levels| [b"*1\r\n".repeat(levels), b":1\r\n".to_vec()].concat();
        assert!(parse(Wire::Resp3, &nested(REPLY_DEPTH_MAX)).unwrap().is_some());
        assert_eq!(malformed(&nested(REPLY_DEPTH_MAX + 1)), TooDeep);
        assert_eq!(parse(Wire::Binary, &[0x30, 1, 0, 0, 0, 0x7F]), Err(Tag(0x7F)));
        assert_eq!(parse(Wire::Binary, &[0x30, 1, 0, 0, 0].repeat(REPLY_DEPTH_MAX + 1)), Err(TooDeep));
    }

    #[test]
    fn promises_are_waited_for_and_not_allocated() {
        for promise in [b"*4294967295\r\n".as_slice(), b"$4294967295\r\n", b"%4294967295\r\n", b"*2\r\n$-1\r\n"] {
            assert_eq!(parse(Wire::Resp3, promise), Ok(None));
            assert_eq!(skip(Wire::Resp3, promise), Ok(None));
        }
        for tag in [0x21, 0x22, 0x2F, 0x30, 0x32] {
            assert_eq!(parse(Wire::Binary, &[tag, 0xFF, 0xFF, 0xFF, 0xFF]), Ok(None));
            assert_eq!(skip(Wire::Binary, &[tag, 0xFF, 0xFF, 0xFF, 0xFF]), Ok(None));
        }
    }

    #[test]
    fn errors_are_told_when_skipped() {
        let is_error = |bytes: &[u8]| {
            let skipped = skip(Wire::Resp3, bytes).unwrap().unwrap();
            assert_eq!(skipped.len, bytes.len());
            skipped.is_error
        };
        assert!(is_error(b"-ERR no\r\n"));
        assert!(is_error(b"!6\r\nERR no\r\n"));
        assert!(is_error(b"|1\r\n+a\r\n+b\r\n-ERR no\r\n"));
        assert!(!is_error(b"*2\r\n-ERR no\r\n+OK\r\n"));
        assert!(!is_error(b"$-1\r\n"));
        assert!(!is_error(b"%1\r\n+a\r\n*2\r\n$1\r\na\r\n=5\r\ntxt:b\r\n"));
    }

    fn random_reply(random: &mut Random, depth: usize) -> Reply<'static> {
        let len = random.below(300);
        let items = |random: &mut Random| (0..random.below(4)).map(|_| random_reply(random, depth - 1)).collect();
        match random.below(if depth > 0 { 18 } else { 14 }) {
            0 => Reply::Ok,
            1 => Reply::Pong,
            2 => Reply::Nil,
            3 => Reply::NilArray,
            4 => Reply::Int(random.next() as i64 >> random.below(64)),
            5 => Reply::Owned(random.bytes(len)),
            6 => Reply::Large(random.bytes(LARGE_VALUE_BYTES_MIN + len).into()),
            7 => Reply::text("text"),
            8 => Reply::Status("QUEUED"),
            9 => Reply::Double(f64::from_bits(random.next())),
            10 => Reply::Bool(random.below(2) == 0),
            11 => Reply::error(text(&random.bytes(len))),
            12 => Reply::Verbatim(text(&random.bytes(len)).into()),
            13 => Reply::Int(random.below(200) as i64 - 50),
            14 => Reply::Array(items(random)),
            15 => Reply::Set(items(random)),
            16 => Reply::Push(items(random)),
            _ => Reply::Map((0..random.below(3)).map(|_| (Reply::Nil, random_reply(random, depth - 1))).collect()),
        }
    }

    /// What was written reads back as something that is written the same; no prefix of it is a reply.
    #[test]
    fn random_replies_make_the_round_trip() {
        let seed = 0x5EED_0001;
        let mut random = Random::new(seed);
        for round in 0..2_000 {
            let reply = random_reply(&mut random, 3);
            for wire in [Wire::Resp2, Wire::Resp3, Wire::Binary] {
                let mut out = Out::default();
                encode(wire, &reply, &mut out);
                let bytes = out.to_vec();
                assert_eq!(bytes.len(), out.len());
                let what = format!("seed {seed:#x}, round {round}, {wire:?}: {reply:?}");
                let (read, consumed) = parse(wire, &bytes).unwrap().unwrap_or_else(|| panic!("{what}"));
                assert_eq!(consumed, bytes.len(), "{what}");
                let skipped = skip(wire, &bytes).unwrap().unwrap();
                let is_error = matches!(reply, Reply::Error(_));
                assert_eq!(skipped, Skipped { len: bytes.len(), is_error }, "{what}");
                let mut again = Out::default();
                encode(wire, &read, &mut again);
                assert!(again.to_vec() == bytes, "{what}");
                for _ in 0..8 {
                    let prefix = &bytes[..random.below(bytes.len())];
                    assert_eq!(parse(wire, prefix), Ok(None), "{what}");
                    assert_eq!(skip(wire, prefix), Ok(None), "{what}");
                }
            }
        }
    }

    #[test]
    fn skipping_agrees_with_parsing_on_damaged_replies() {
        let seed = 0x5EED_0002;
        let mut random = Random::new(seed);
        for round in 0..8_000 {
            let wire = [Wire::Resp3, Wire::Binary][random.below(2)];
            let mut out = Out::default();
            encode(wire, &random_reply(&mut random, 2), &mut out);
            let mut bytes = out.to_vec();
            bytes.truncate(400);
            for _ in 0..=random.below(2) {
                let at = random.below(bytes.len());
                bytes[at] = interesting_byte(&mut random);
            }
            // Where both take it for a reply they agree on its end. (Only parsing looks into values.)
            if let (Ok(Some((_, consumed))), skipped) = (parse(wire, &bytes), skip(wire, &bytes)) {
                let skipped = skipped.unwrap().unwrap();
                assert_eq!(skipped.len, consumed, "seed {seed:#x}, round {round}: {}", bytes.escape_ascii());
            }
        }
    }
}
