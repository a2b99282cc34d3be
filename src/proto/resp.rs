//! Commands as RESP arrays of bulk strings: `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`.
//!
//! There are two ways through: [`quick`] takes a whole command of few short words or nothing at all,
//! and keeps no state; [`Decoder::resp`] takes everything, can stop anywhere, and finds every error.
//! Whatever the first accepts, the second would decode to the same.

use super::decode::{Decoder, Source, Stage};
use super::{Arguments, DecodeLimits, ProtocolError, Step, Verb};
use crate::command;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::number;
use crate::request::ArgRange;

/// A whole command of at most nine words, all of them short, whose name has at most nine bytes and no
/// subcommands.
#[inline]
pub(super) fn quick(input: &[u8], from: usize, arguments: &mut Arguments, limits: &DecodeLimits) -> Option<Step> {
    if !limits.are_usual() {
        return None;
    }
    let window = &input[..input.len().min(from + limits.command_bytes_max)];
    // `*3\r\n$3\r\n` in one load.
    let head = u64::from_le_bytes(*window.get(from..)?.first_chunk()?);
    if head & !HEAD_DIGITS != HEAD_FORM {
        return None;
    }
    let words = (head >> 8) as u8 & 0x0F;
    let name_len = (head >> 40) as usize & 0x0F;
    let name_at = from + 8;
    if words.wrapping_sub(1) >= 9 || name_len > 9 {
        return None;
    }
    let mut at = name_at + name_len;
    let spec = match window[name_at..].first_chunk::<16>() {
        Some(bytes) => command::lookup_prefix(bytes, name_len)?,
        None => command::lookup(window.get(name_at..at)?)?,
    };
    if window.get(at..at + 2)? != b"\r\n" || words > 1 && command::has_subcommands(spec) {
        return None;
    }
    at += 2;
    let first = arguments.ranges.len();
    for _ in 1..words {
        let Some((len, start)) = quick_word(window, at) else {
            arguments.ranges.truncate(first);
            return None;
        };
        arguments.ranges.push(ArgRange::inline(start, len));
        at = start + len + 2;
    }
    let verb = Verb::with_arity(spec, words as usize - 1);
    Some(Step::Command { verb, source: Source::Input, end: at })
}

/// The lines with which a command of few words begins, and the digits in them: `0x3_` each.
const HEAD_FORM: u64 = u64::from_le_bytes(*b"*0\r\n$0\r\n");
const HEAD_DIGITS: u64 = u64::from_le_bytes([0, 0x0F, 0, 0, 0, 0x0F, 0, 0]);

/// Length and start of the short word whose header is at `at`, if all of it is here.
#[inline]
fn quick_word(window: &[u8], at: usize) -> Option<(usize, usize)> {
    if *window.get(at)? != b'$' {
        return None;
    }
    let (len, start) = short_length(window, at)?;
    let is_whole = len < LARGE_VALUE_BYTES_MIN && window.get(start + len..start + len + 2)? == b"\r\n";
    is_whole.then_some((len, start))
}

/// The number of up to five digits in the line at `at`, whose first byte the caller has judged, and
/// where the next line begins.
#[inline]
fn short_length(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let line = match bytes.get(at..)?.first_chunk() {
        Some(&line) => u64::from_le_bytes(line),
        None => {
            // At the end of the input: zeros end no line.
            let rest = &bytes[at..];
            let mut line = [0; 8];
            line[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(line)
        }
    };
    let digit = |index: u32| ((line >> (8 * index)) as u8).wrapping_sub(b'0') as usize;
    let ends_behind = |digits: u32| (line >> (8 * (digits + 1))) as u16 == u16::from_le_bytes(*b"\r\n");
    let first = digit(1);
    if ends_behind(1) {
        return (first <= 9).then_some((first, at + 4));
    }
    let mut number = first;
    let mut is_canonical = first.wrapping_sub(1) < 9;
    for digits in 2..=5 {
        let next = digit(digits);
        is_canonical &= next <= 9;
        number = number.wrapping_mul(10).wrapping_add(next);
        if ends_behind(digits) {
            return is_canonical.then_some((number, at + digits as usize + 3));
        }
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
                    self.quick_words(command, limits);
                    if self.words_left == 0 {
                        return Ok(self.finish(input, from, arguments));
                    }
                    match command.get(self.at as usize) {
                        Some(b'$') => {}
                        Some(&got) => return Err(ProtocolError::ExpectedBulk { got }),
                        None => return Ok(Step::Incomplete { at_least: 1 }),
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
                Stage::Fresh
                | Stage::Large
                | Stage::Inline
                | Stage::Frame
                | Stage::Piece
                | Stage::Line
                | Stage::Overlong => {
                    unreachable!("not inside a RESP command")
                }
            }
        }
    }

    /// Takes as many whole short words as there are.
    #[inline]
    fn quick_words(&mut self, command: &[u8], limits: &DecodeLimits) {
        if !limits.are_usual() {
            return;
        }
        let window = &command[..command.len().min(limits.command_bytes_max)];
        while self.words_left > 0
            && let Some((len, start)) = quick_word(window, self.at as usize)
        {
            self.found.push(ArgRange::inline(start, len));
            self.at = (start + len + 2) as u32;
            self.scanned = 0;
            self.words_left -= 1;
        }
    }

    /// A word of `length` bytes begins at `at`.
    pub(super) fn bulk_begins(&mut self, length: i64, limits: &DecodeLimits) -> Result<(), ProtocolError> {
        if length < 0 {
            return Err(ProtocolError::BulkLength);
        }
        if length > limits.value_bytes_max as i64 {
            return Err(bulk_length(limits));
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
        let number = number::parse_i64(&rest[1..end]).ok_or(line.invalid)?;
        self.at += end as u32 + 2;
        self.scanned = 0;
        Ok(Some(number))
    }
}

/// How the lines that hold a length can go wrong.
struct Line {
    invalid: ProtocolError,
    too_long: ProtocolError,
}

/// What a promise of more than a value may hold is answered with.
pub(super) fn bulk_length(limits: &DecodeLimits) -> ProtocolError {
    match limits.authenticated {
        true => ProtocolError::BulkLength,
        false => ProtocolError::BulkLengthBeforeAuth,
    }
}

impl Line {
    const COUNT: Line = Line { invalid: ProtocolError::MultibulkLength, too_long: ProtocolError::MultibulkLineTooLong };
    const BULK: Line = Line { invalid: ProtocolError::BulkLength, too_long: ProtocolError::BulkLineTooLong };
}
