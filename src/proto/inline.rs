//! Commands typed by a person: one line, words separated by blanks, quotes and escapes as Redis's own
//! line splitter understands them.

use super::decode::{Decoder, Source};
use super::{Arguments, DecodeLimits, ProtocolError, Step, verb};
use crate::request::ArgRange;

impl Decoder {
    pub(super) fn inline(
        &mut self,
        input: &[u8],
        from: usize,
        arguments: &mut Arguments,
        limits: &DecodeLimits,
    ) -> Result<Step, ProtocolError> {
        let command = &input[from..];
        let window = &command[..command.len().min(limits.line_bytes_max + 1)];
        let Some(line_end) = memchr::memchr(b'\n', &window[self.scanned as usize..]) else {
            if window.len() > limits.line_bytes_max {
                return Err(ProtocolError::InlineTooLong);
            }
            self.scanned = window.len() as u32;
            return Ok(Step::Incomplete { at_least: 1 });
        };
        let line_end = self.scanned as usize + line_end;
        let end = from + line_end + 1;
        self.reset();

        let line = command[..line_end].strip_suffix(b"\r").unwrap_or(&command[..line_end]);
        let first = arguments.ranges.len();
        let source = match memchr::memchr2(b'"', b'\'', line) {
            None => {
                plain_words(line, from, &mut arguments.ranges);
                Source::Input
            }
            Some(_) => {
                quoted_words(line, arguments)?;
                Source::Scratch
            }
        };
        let words = &arguments.ranges[first..];
        if words.is_empty() {
            return Ok(Step::Skip { end });
        }
        if words.len() > limits.args_max {
            return Err(match limits.authenticated {
                true => ProtocolError::MultibulkLength,
                false => ProtocolError::MultibulkLengthBeforeAuth,
            });
        }
        let bytes = if source == Source::Input { input } else { &arguments.scratch };
        let (start, len) = words[0].span().expect("no word of a line is large");
        let name = &bytes[start..start + len];
        if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
            return Err(ProtocolError::Http);
        }
        let (verb, name_words) = verb::resolve(bytes, words);
        arguments.ranges.drain(first..first + name_words);
        Ok(Step::Command { verb, source, end })
    }
}

fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn is_space(byte: u8) -> bool {
    ends_word(byte) || matches!(byte, b'\x0b' | b'\x0c')
}

/// The words of a line without quotes, as ranges of the bytes in which the line begins at `offset`.
fn plain_words(line: &[u8], offset: usize, ranges: &mut Vec<ArgRange>) {
    let mut at = 0;
    while let Some(blanks) = line[at..].iter().position(|&byte| !is_space(byte)) {
        let start = at + blanks;
        let len = line[start..].iter().position(|&byte| ends_word(byte)).unwrap_or(line.len() - start);
        ranges.push(ArgRange::inline(offset + start, len));
        at = start + len;
    }
}

/// The words of a line with quotes, unescaped into the scratch, which gets no longer than the line.
fn quoted_words(line: &[u8], arguments: &mut Arguments) -> Result<(), ProtocolError> {
    let mut rest = line;
    while let Some(blanks) = rest.iter().position(|&byte| !is_space(byte)) {
        let start = arguments.scratch.len();
        rest = unescape_word(&rest[blanks..], &mut arguments.scratch).ok_or(ProtocolError::UnbalancedQuotes)?;
        arguments.ranges.push(ArgRange::inline(start, arguments.scratch.len() - start));
    }
    Ok(())
}

/// Appends the word at the start of `rest` to `word` and returns what follows it.
fn unescape_word<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut quote = None;
    loop {
        let taken = match (quote, rest) {
            (Some(_), []) => return None,
            (None, []) => return Some(rest),
            (None, [byte, ..]) if ends_word(*byte) => return Some(rest),
            (None, [byte @ (b'"' | b'\''), ..]) => {
                quote = Some(*byte);
                1
            }
            (Some(open), [byte, after @ ..]) if *byte == open => {
                return after.first().is_none_or(|&byte| is_space(byte)).then_some(after);
            }
            (Some(b'"'), [b'\\', b'x', high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex_digit(*high) << 4 | hex_digit(*low));
                4
            }
            (Some(b'"'), [b'\\', escaped, ..]) => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => b'\x08',
                    b'a' => b'\x07',
                    other => *other,
                });
                2
            }
            (Some(b'\''), [b'\\', b'\'', ..]) => {
                word.push(b'\'');
                2
            }
            (_, [byte, ..]) => {
                word.push(*byte);
                1
            }
        };
        rest = &rest[taken..];
    }
}

fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => (byte | 0x20) - b'a' + 10,
    }
}
