//! Binary frames to commands. An operation is a header of fixed size and pieces (keys, values, words)
//! whose lengths are known before they begin; the decoder remembers the pieces found so far.

use super::{FRAME_HEADER_BYTES, MAGIC, Shape, VERSION, expire_flag, meaning, opcode, set_flag};
use crate::command::{Spec, spec_of};
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::proto::decode::{Decoder, Stage};
use crate::proto::resp::bulk_length;
use crate::proto::verb::{self, Verb};
use crate::proto::{Arguments, DecodeLimits, ProtocolError, Source, Step};
use crate::request::ArgRange;

impl Decoder {
    pub(in crate::proto) fn binary(
        &mut self,
        input: &[u8],
        from: usize,
        arguments: &mut Arguments,
        limits: &DecodeLimits,
    ) -> Result<Step, ProtocolError> {
        let mut start = from;
        if self.frame_left == 0 && self.stage == Stage::Frame {
            match frame_length(&input[from..])? {
                Ok(length) => self.frame_left = length,
                Err(at_least) => return Ok(Step::Incomplete { at_least }),
            }
            start += FRAME_HEADER_BYTES;
        }
        if self.stage == Stage::Frame
            && let Some(step) = self.quick_operation(input, start, arguments, limits)
        {
            return Ok(step);
        }
        if start > from {
            // The operation behind the header gets a call of its own, so that it is its first byte that
            // an incomplete command is presented from.
            return Ok(Step::Skip { end: start });
        }
        self.operation(input, from, arguments, limits)
    }

    /// A whole operation of one key and at most a small value.
    #[inline]
    fn quick_operation(
        &mut self,
        input: &[u8],
        from: usize,
        arguments: &mut Arguments,
        limits: &DecodeLimits,
    ) -> Option<Step> {
        let window = input.get(from..)?;
        let window = &window[..window.len().min(self.frame_left as usize).min(limits.command_bytes_max)];
        let &[code, flags, key_low, key_high, ref rest @ ..] = window else {
            return None;
        };
        let key_len = usize::from(u16::from_le_bytes([key_low, key_high]));
        let (header_bytes, value_len) = match (Shape::of(code)?, rest) {
            (Shape::Key, _) => (4, 0),
            (Shape::KeyValue, &[a, b, c, d, ..]) => (8, u32::from_le_bytes([a, b, c, d]) as usize),
            _ => return None,
        };
        if flags != 0 {
            return self.quick_flagged(window, from, arguments, limits);
        }
        let end = header_bytes + key_len + value_len;
        if key_len.max(value_len) >= LARGE_VALUE_BYTES_MIN || end > window.len() || !limits.are_usual() {
            return None;
        }
        let (op, _) = meaning(code)?;
        let key_at = from + header_bytes;
        arguments.ranges.push(ArgRange::inline(key_at, key_len));
        let args = if header_bytes == 8 {
            arguments.ranges.push(ArgRange::inline(key_at + key_len, value_len));
            2
        } else {
            1
        };
        self.frame_left -= end as u32;
        let verb = Verb::with_arity(spec_of(op), args);
        Some(Step::Command { verb, source: Source::Input, end: from + end })
    }

    /// The same for a value with flags that add words to the command, but no expected value.
    fn quick_flagged(
        &mut self,
        operation: &[u8],
        from: usize,
        arguments: &mut Arguments,
        limits: &DecodeLimits,
    ) -> Option<Step> {
        let (code, flags) = (operation[0], operation[1]);
        if Shape::of(code) != Some(Shape::KeyValue) || flags & set_flag::EXPECTED != 0 {
            return None;
        }
        let key_at = Shape::KeyValue.header_bytes(flags);
        let (key_len, value_len) = (little_endian(&operation[2..4]), little_endian(&operation[4..8]));
        let value_at = key_at + key_len;
        let end = value_at + value_len;
        if key_len.max(value_len) >= LARGE_VALUE_BYTES_MIN || end > operation.len() || !limits.are_usual() {
            return None;
        }
        self.found.push(ArgRange::inline(key_at, key_len));
        self.found.push(ArgRange::inline(value_at, value_len));
        self.at = end as u32;
        self.frame_left -= self.at;
        let (verb, source) = self.translate(operation, from, arguments);
        self.reset();
        Some(Step::Command { verb, source, end: from + end })
    }

    /// The operation that begins at `from`, which may be whole or not.
    fn operation(
        &mut self,
        input: &[u8],
        from: usize,
        arguments: &mut Arguments,
        limits: &DecodeLimits,
    ) -> Result<Step, ProtocolError> {
        let operation = &input[from..];
        let Some(&code) = operation.first() else {
            return Ok(Step::Incomplete { at_least: 1 });
        };
        let shape = Shape::of(code).ok_or(ProtocolError::UnknownShape { opcode: code })?;
        if let Err(at_least) = self.within_frame(operation, 2)? {
            return Ok(Step::Incomplete { at_least });
        }
        let flags = operation[1];
        let header_bytes = shape.header_bytes(flags);
        if self.stage == Stage::Frame {
            if let Err(at_least) = self.within_frame(operation, header_bytes)? {
                return Ok(Step::Incomplete { at_least });
            }
            self.words_left = pieces(shape, operation);
            if self.words_left > limits.args_max as u32 {
                return Err(match limits.authenticated {
                    true => ProtocolError::MultibulkLength,
                    false => ProtocolError::MultibulkLengthBeforeAuth,
                });
            }
            self.lengths_are_allowed(shape, operation, limits)?;
            self.at = header_bytes as u32;
            self.stage = Stage::Piece;
        }
        loop {
            match self.stage {
                Stage::Piece if self.words_left == 0 => {
                    let end = from + self.at as usize;
                    self.frame_left -= self.at;
                    let (verb, source) = self.translate(operation, from, arguments);
                    self.reset();
                    return Ok(Step::Command { verb, source, end });
                }
                Stage::Piece => {
                    let prefix_bytes = prefix_bytes(shape, self.found.len());
                    let at = self.at as usize;
                    if let Err(at_least) = self.within_frame(operation, at + prefix_bytes)? {
                        return Ok(Step::Incomplete { at_least });
                    }
                    let length = match prefix_bytes {
                        0 => header_length(operation, flags, self.found.len()),
                        _ => little_endian(&operation[at..at + prefix_bytes]),
                    };
                    self.at += prefix_bytes as u32;
                    self.piece_begins(length, limits)?;
                    if self.stage == Stage::Large {
                        self.frame_left -= self.length;
                        return Ok(Step::Large { len: self.length as usize, end: from + self.at as usize });
                    }
                }
                Stage::Body => {
                    let end = self.at as usize + self.length as usize;
                    if let Err(at_least) = self.within_frame(operation, end)? {
                        return Ok(Step::Incomplete { at_least });
                    }
                    self.found.push(ArgRange::inline(self.at as usize, self.length as usize));
                    self.at += self.length;
                    self.words_left -= 1;
                    self.stage = Stage::Piece;
                }
                Stage::BodyEnd => {
                    // A large piece was taken out; nothing stands behind it.
                    self.words_left -= 1;
                    self.stage = Stage::Piece;
                }
                _ => unreachable!("not inside an operation"),
            }
        }
    }

    /// Whether the operation's first `len` bytes are here, or how many of them are not. They must lie
    /// within the frame.
    #[inline]
    fn within_frame(&self, operation: &[u8], len: usize) -> Result<Result<(), usize>, ProtocolError> {
        if len > self.frame_left as usize {
            return Err(ProtocolError::OperationPassesFrame);
        }
        Ok(if operation.len() < len { Err(len - operation.len()) } else { Ok(()) })
    }

    /// Whether the pieces may be as long as the header promises: what is refused is refused before any of it arrives.
    fn lengths_are_allowed(&self, shape: Shape, header: &[u8], limits: &DecodeLimits) -> Result<(), ProtocolError> {
        let mut end = shape.header_bytes(header[1]);
        for index in (0..self.words_left as usize).take_while(|&index| prefix_bytes(shape, index) == 0) {
            let length = header_length(header, header[1], index);
            if length > limits.value_bytes_max {
                return Err(bulk_length(limits));
            }
            end += length;
        }
        match end > self.frame_left as usize {
            true => Err(ProtocolError::OperationPassesFrame),
            false => Ok(()),
        }
    }

    /// A piece of `length` bytes begins at `at`.
    fn piece_begins(&mut self, length: usize, limits: &DecodeLimits) -> Result<(), ProtocolError> {
        self.bulk_begins(length as i64, limits)?;
        if self.at as usize + length > self.frame_left as usize {
            return Err(ProtocolError::OperationPassesFrame);
        }
        Ok(())
    }

    /// The verb and arguments of the operation whose pieces are all found.
    fn translate(&self, operation: &[u8], from: usize, arguments: &mut Arguments) -> (Verb, Source) {
        let (code, flags) = (operation[0], operation[1]);
        if code == opcode::COMMAND && flags == 0 && !self.found.is_empty() {
            let (verb, name_words) = verb::resolve(operation, &self.found);
            arguments.ranges.extend(self.found[name_words..].iter().map(|range| range.shifted(from, 0)));
            return (verb, Source::Input);
        }
        let Some((op, _)) = meaning(code).filter(|(_, known_flags)| flags & !known_flags == 0) else {
            return unknown(code, flags, arguments);
        };
        let spec = spec_of(op);
        let number = |at: usize| i64::from_le_bytes(operation[at..at + 8].try_into().expect("eight bytes"));
        let shape = Shape::of(code).expect("operations of the table have a shape");
        match shape {
            Shape::KeyNumber => {
                let first = arguments.ranges.len();
                self.copy_pieces(&[0], shape.header_bytes(flags), operation, arguments);
                text_argument(itoa::Buffer::new().format(number(4)), arguments);
                for (flag, name) in EXPIRE_OPTIONS {
                    if flags & flag != 0 {
                        text_argument(name, arguments);
                    }
                }
                scratch_command(spec, first, arguments)
            }
            // It says how a time is meant, and there is none.
            Shape::KeyValue if flags & (set_flag::ABSOLUTE | set_flag::TIME) == set_flag::ABSOLUTE => {
                unknown(code, flags, arguments)
            }
            Shape::KeyValue if flags != 0 => {
                let first = arguments.ranges.len();
                let has_expected = flags & set_flag::EXPECTED != 0;
                let pieces: &[usize] = if has_expected { &[0, 2] } else { &[0, 1] };
                let header_bytes = shape.header_bytes(flags);
                let copied_at = self.copy_pieces(pieces, header_bytes, operation, arguments);
                for (flag, name) in SET_OPTIONS {
                    if flags & flag != 0 {
                        text_argument(name, arguments);
                    }
                }
                if has_expected {
                    text_argument("IFEQ", arguments);
                    arguments.ranges.push(self.copied_piece(1, header_bytes, copied_at));
                }
                if flags & set_flag::DURABLE != 0 {
                    text_argument("DURABLE", arguments);
                    text_argument("sync", arguments);
                }
                if flags & set_flag::TIME != 0 {
                    let is_absolute = flags & set_flag::ABSOLUTE != 0;
                    text_argument(if is_absolute { "PXAT" } else { "PX" }, arguments);
                    // As unsigned on the wire; what a signed number cannot hold is refused as text is.
                    text_argument(itoa::Buffer::new().format(number(8) as u64), arguments);
                }
                scratch_command(spec, first, arguments)
            }
            _ => {
                arguments.ranges.extend(self.found.iter().map(|range| range.shifted(from, 0)));
                (Verb::with_arity(spec, self.found.len()), Source::Input)
            }
        }
    }

    /// Copies everything behind the operation's header into the scratch, makes arguments of some of the
    /// pieces in it, and returns where the copy begins. Large pieces are not part of it.
    fn copy_pieces(&self, pieces: &[usize], header_bytes: usize, operation: &[u8], arguments: &mut Arguments) -> usize {
        let copied_at = arguments.scratch.len();
        arguments.scratch.extend_from_slice(&operation[header_bytes..self.at as usize]);
        arguments.ranges.extend(pieces.iter().map(|&piece| self.copied_piece(piece, header_bytes, copied_at)));
        copied_at
    }

    fn copied_piece(&self, piece: usize, header_bytes: usize, copied_at: usize) -> ArgRange {
        match self.found[piece].span() {
            None => self.found[piece],
            Some((start, len)) => ArgRange::inline(copied_at + start - header_bytes, len),
        }
    }
}

const EXPIRE_OPTIONS: [(u8, &str); 4] =
    [(expire_flag::NX, "NX"), (expire_flag::XX, "XX"), (expire_flag::GT, "GT"), (expire_flag::LT, "LT")];

const SET_OPTIONS: [(u8, &str); 4] =
    [(set_flag::NX, "NX"), (set_flag::XX, "XX"), (set_flag::GET, "GET"), (set_flag::KEEPTTL, "KEEPTTL")];

fn text_argument(text: &str, arguments: &mut Arguments) {
    arguments.ranges.push(ArgRange::inline(arguments.scratch.len(), text.len()));
    arguments.scratch.extend_from_slice(text.as_bytes());
}

fn scratch_command(spec: &'static Spec, first: usize, arguments: &Arguments) -> (Verb, Source) {
    (Verb::with_arity(spec, arguments.ranges.len() - first), Source::Scratch)
}

/// The length in the frame header at the start of `bytes`, or how many bytes of it are missing.
#[inline]
fn frame_length(bytes: &[u8]) -> Result<Result<u32, usize>, ProtocolError> {
    match *bytes {
        [magic, ..] if magic != MAGIC => Err(ProtocolError::FrameMagic { got: magic }),
        [_, version, ..] if version != VERSION => Err(ProtocolError::FrameVersion { got: version }),
        [_, _, a, b, c, d, ..] => Ok(Ok(u32::from_le_bytes([a, b, c, d]))),
        [] | [_] => Ok(Err(1)),
        _ => Ok(Err(FRAME_HEADER_BYTES - bytes.len())),
    }
}

/// How many pieces stand behind the header.
fn pieces(shape: Shape, header: &[u8]) -> u32 {
    let count = || u32::from(u16::from_le_bytes([header[2], header[3]]));
    match shape {
        Shape::Nothing => 0,
        Shape::Key | Shape::KeyNumber => 1,
        Shape::KeyValue => 2 + u32::from(header[1] & set_flag::EXPECTED != 0),
        Shape::Keys | Shape::Words => count(),
        Shape::Pairs => 2 * count(),
    }
}

/// Bytes of the length that stands right before piece `index`; none when it is in the header.
fn prefix_bytes(shape: Shape, index: usize) -> usize {
    match shape {
        Shape::Nothing | Shape::Key | Shape::KeyNumber | Shape::KeyValue => 0,
        Shape::Keys => 2,
        Shape::Pairs => [2, 4][index % 2],
        Shape::Words => 4,
    }
}

fn unknown(code: u8, flags: u8, arguments: &mut Arguments) -> (Verb, Source) {
    text_argument(&format!("opcode {code:#04x} flags {flags:#04x}"), arguments);
    (Verb::Unknown, Source::Scratch)
}

/// The length in the header of piece `index`: key, expected value if any, value.
fn header_length(header: &[u8], flags: u8, index: usize) -> usize {
    let has_expected = flags & set_flag::EXPECTED != 0;
    match index {
        0 => little_endian(&header[2..4]),
        1 if has_expected => {
            let end = Shape::KeyValue.header_bytes(flags);
            little_endian(&header[end - 4..end])
        }
        _ => little_endian(&header[4..8]),
    }
}

fn little_endian(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte))
}
