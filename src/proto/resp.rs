//! Commands as RESP arrays of bulk strings: `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`.
//!
//! There are two ways through: [`quick`] takes a whole command of few short words or nothing at all,
//! and keeps no state; [`Decoder::resp`] takes everything, can stop anywhere, and finds every error.
//! Whatever the first accepts, the second would decode to the same.

use super::decode::{Decoder, Source, Stage};
use super::{Arguments, DecodeLimits, ProtocolError, Step, verb};
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::request::ArgRange;

/// More words than this go the careful way.
const QUICK_WORDS_MAX: usize = 9;

/// A whole command whose words are few and short.
#[inline]
pub(super) fn quick(input: &[u8], from: usize, arguments: &mut Arguments, limits: &DecodeLimits) -> Option<Step> {
    if !limits.are_usual() {
        return None;
    }
    let window = &input[..input.len().min(from + limits.command_bytes_max)];
    let (words, mut at) = short_length(window, from)?;
    if words == 0 || words > QUICK_WORDS_MAX {
        return None;
    }
    let first = arguments.ranges.len();
    let mut word = |arguments: &mut Arguments| {
        if *window.get(at)? != b'$' {
            return None;
        }
        let (len, start) = short_length(window, at)?;
        let end = start + len;
        if len >= LARGE_VALUE_BYTES_MIN || window.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        at = end + 2;
        arguments.ranges.push(ArgRange::inline(start, len));
        Some(())
    };
    for _ in 0..words {
        if word(arguments).is_none() {
            arguments.ranges.truncate(first);
            return None;
        }
    }
    let (verb, name_words) = verb::resolve(window, &arguments.ranges[first..]);
    arguments.ranges.drain(first..first + name_words);
    Some(Step::Command { verb, source: Source::Input, end: at })
}

/// The number of up to five digits in the line at `at`, whose first byte the caller has judged, and
/// where the next line begins.
#[inline]
fn short_length(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let line = bytes.get(at..at + 4)?;
    let first = line[1].wrapping_sub(b'0') as usize;
    if line[2] == b'\r' && line[3] == b'\n' && first <= 9 {
        return Some((first, at + 4));
    }
    let line = bytes.get(at..)?;
    let mut number = 0;
    for (digits, &byte) in line[1..].iter().take(6).enumerate() {
        let digit = byte.wrapping_sub(b'0') as usize;
        if digit > 9 {
            let is_canonical = digits == 1 || digits > 1 && line[1] != b'0';
            let end = digits + 1;
            return (is_canonical && line.get(end..end + 2)? == b"\r\n").then_some((number, at + end + 2));
        }
        number = number * 10 + digit;
    }
    None
}

impl Decoder {
    pub(super) fn resp(
        &mut self,
        input: &[u8],
        from: usize,
        arguments: &mut Arguments,
        limits: &DecodeLimits,
    ) -> Result<Step, ProtocolError> {
        let command = &input[from..];
        loop {
            match self.stage {
                Stage::Count => {
                    let Some(count) = self.length_line(command, limits, Line::COUNT)? else {
                        return Ok(Step::Incomplete { at_least: 1 });
                    };
                    if count <= 0 {
                        let end = from + self.at as usize;
                        self.reset();
                        return Ok(Step::Skip { end });
                    }
                    if count > limits.args_max as i64 {
                        return Err(match limits.authenticated {
                            true => ProtocolError::MultibulkLength,
                            false => ProtocolError::MultibulkLengthBeforeAuth,
                        });
                    }
                    self.words_left = count as u32;
                    self.stage = Stage::Header;
                }
                Stage::Header => {
                    if self.words_left == 0 {
                        return Ok(self.finish(input, from, arguments));
                    }
                    match command.get(self.at as usize) {
                        Some(b'$') => {}
                        Some(&got) => return Err(ProtocolError::ExpectedBulk { got }),
                        None => return Ok(Step::Incomplete { at_least: EMPTY_BULK_BYTES }),
                    }
                    let Some(length) = self.length_line(command, limits, Line::BULK)? else {
                        return Ok(Step::Incomplete { at_least: 1 });
                    };
                    self.bulk_begins(length, limits)?;
                    if self.stage == Stage::Large {
                        return Ok(Step::Large { len: self.length as usize, end: from + self.at as usize });
                    }
                }
                Stage::Body => {
                    let end = self.at as usize + self.length as usize + 2;
                    if command.len() < end {
                        return Ok(Step::Incomplete { at_least: end - command.len() });
                    }
                    self.found.push(ArgRange::inline(self.at as usize, self.length as usize));
                    self.at += self.length;
                    self.stage = Stage::BodyEnd;
                }
                Stage::BodyEnd => {
                    let at = self.at as usize;
                    let Some(end) = command.get(at..at + 2) else {
                        return Ok(Step::Incomplete { at_least: at + 2 - command.len() });
                    };
                    if end != b"\r\n" {
                        return Err(ProtocolError::BulkEnd);
                    }
                    self.at += 2;
                    self.words_left -= 1;
                    self.stage = Stage::Header;
                }
                Stage::Fresh | Stage::Large | Stage::Inline | Stage::Frame | Stage::Piece => {
                    unreachable!("not inside a RESP command")
                }
            }
        }
    }

    /// A word of `length` bytes begins at `at`.
    pub(super) fn bulk_begins(&mut self, length: i64, limits: &DecodeLimits) -> Result<(), ProtocolError> {
        if length < 0 || length > limits.value_bytes_max as i64 {
            return Err(match limits.authenticated || length < 0 {
                true => ProtocolError::BulkLength,
                false => ProtocolError::BulkLengthBeforeAuth,
            });
        }
        let is_large = length as usize >= LARGE_VALUE_BYTES_MIN;
        let inline_bytes = if is_large { 0 } else { length as usize };
        if self.at as usize + inline_bytes + 2 > limits.command_bytes_max {
            return Err(ProtocolError::CommandTooLarge);
        }
        self.length = length as u32;
        self.stage = if is_large { Stage::Large } else { Stage::Body };
        Ok(())
    }

    /// The number in the line at `at`, or none while the line has no end. Moves `at` behind it.
    fn length_line(&mut self, command: &[u8], limits: &DecodeLimits, line: Line) -> Result<Option<i64>, ProtocolError> {
        let at = self.at as usize;
        if let Some((number, next)) = short_length(command, at) {
            self.at = next as u32;
            self.scanned = 0;
            return Ok(Some(number as i64));
        }
        let rest = &command[at..];
        let window = &rest[..rest.len().min(limits.line_bytes_max + 1)];
        let Some(end) = memchr::memchr(b'\r', &window[self.scanned as usize..]) else {
            if window.len() > limits.line_bytes_max {
                return Err(line.too_long);
            }
            self.scanned = window.len() as u32;
            return Ok(None);
        };
        let end = self.scanned as usize + end;
        self.scanned = end as u32;
        match rest.get(end + 1) {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(line.invalid),
        }
        let number = canonical_integer(&rest[1..end]).ok_or(line.invalid)?;
        self.at += end as u32 + 2;
        self.scanned = 0;
        Ok(Some(number))
    }
}

/// `$0\r\n\r\n`
const EMPTY_BULK_BYTES: usize = 6;

/// How the lines that hold a length can go wrong.
struct Line {
    invalid: ProtocolError,
    too_long: ProtocolError,
}

impl Line {
    const COUNT: Line = Line { invalid: ProtocolError::MultibulkLength, too_long: ProtocolError::MultibulkLineTooLong };
    const BULK: Line = Line { invalid: ProtocolError::BulkLength, too_long: ProtocolError::BulkLineTooLong };
}

/// A decimal integer in the one form that it has: no plus, no leading zeros, no `-0`.
pub(super) fn canonical_integer(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    match digits {
        b"0" if !is_negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    digits.iter().try_fold(0i64, |number, &byte| {
        let digit = i64::from(byte.wrapping_sub(b'0'));
        if digit > 9 {
            return None;
        }
        let number = number.checked_mul(10)?;
        if is_negative { number.checked_sub(digit) } else { number.checked_add(digit) }
    })
}
