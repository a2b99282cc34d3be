//! The decoder of one connection: which protocol it speaks, and where it stopped inside a command that
//! is not whole yet.

use super::{ProtocolError, Verb, binary, json, resp, verb};
use crate::limits;
use crate::request::{ArgRange, Args};

/// What a connection speaks, told by its first byte. RESP and inline commands may alternate, as in
/// Redis: the first byte of each command tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Resp,
    Binary,
    Json,
}

/// What one call of [`Decoder::next`] found.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A whole command, whose arguments were appended to [`Arguments::ranges`]. It ends before `input[end]`.
    Command { verb: Verb, source: Source, end: usize },
    /// The command at `from` is not whole. With fewer than `at_least` bytes more (never over 64 KiB, however
    /// long the command is) it will be neither whole nor known to be wrong, so that there is no use in asking
    /// before; all of them belong to the command. More may: see [`Decoder::belonging`].
    Incomplete { at_least: usize },
    /// A value of `len` bytes (at least [`limits::LARGE_VALUE_BYTES_MIN`]) begins at `input[end]`; `end` may
    /// be the end of the input. To be taken out of the stream, then [`Decoder::large_done`].
    Large { len: usize, end: usize },
    /// Bytes that ask for nothing (an empty line, `*0`, the header of a frame); they end before `input[end]`.
    Skip { end: usize },
}

/// Whose ranges a command's arguments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The arguments stand in the input as they are.
    Input,
    /// Some argument does not (quotes and escapes, binary numbers): all of them are in the scratch.
    Scratch,
}

/// Where decoded arguments go: one per core. Both grow with what was received, never with what was
/// promised, and are cleared by the caller when the commands of a batch are answered.
#[derive(Default, Debug)]
pub struct Arguments {
    pub ranges: Vec<ArgRange>,
    pub scratch: Vec<u8>,
}

impl Arguments {
    /// The arguments from `first` on, decoded from `input`.
    pub fn args<'a>(&'a self, first: usize, source: Source, input: &'a [u8], large: &'a [bytes::Bytes]) -> Args<'a> {
        let bytes = match source {
            Source::Input => input,
            Source::Scratch => &self.scratch,
        };
        Args::new(bytes, &self.ranges[first..], large)
    }

    pub fn clear(&mut self) {
        self.ranges.clear();
        self.scratch.clear();
    }

    /// Lets go of room for more than so many arguments and bytes.
    pub fn shrink(&mut self, ranges_max: usize, scratch_max: usize) {
        self.ranges.shrink_to(ranges_max);
        self.scratch.shrink_to(scratch_max);
    }
}

/// How much one command may ask for.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    pub(super) value_bytes_max: usize,
    pub(super) args_max: usize,
    pub(super) command_bytes_max: usize,
    pub(super) line_bytes_max: usize,
    pub(super) json_line_bytes_max: usize,
    pub(super) authenticated: bool,
}

impl DecodeLimits {
    pub fn new(value_bytes_max: usize) -> DecodeLimits {
        assert!(value_bytes_max <= limits::VALUE_BYTES_MAX_CEILING);
        DecodeLimits {
            value_bytes_max,
            args_max: limits::ARGS_MAX,
            command_bytes_max: limits::COMMAND_BYTES_MAX,
            line_bytes_max: limits::INLINE_BYTES_MAX,
            json_line_bytes_max: limits::JSON_LINE_BYTES_MAX,
            authenticated: true,
        }
    }

    /// What a client may send before it has said who it is.
    pub fn before_authentication(self) -> DecodeLimits {
        DecodeLimits {
            value_bytes_max: self.value_bytes_max.min(limits::BEFORE_AUTH_VALUE_BYTES_MAX),
            args_max: self.args_max.min(limits::BEFORE_AUTH_ARGS_MAX),
            json_line_bytes_max: self.json_line_bytes_max.min(limits::BEFORE_AUTH_VALUE_BYTES_MAX),
            authenticated: false,
            ..self
        }
    }

    /// Whether the quick way, which knows nothing of limits below its own, may be tried.
    #[inline]
    pub(super) fn are_usual(&self) -> bool {
        self.value_bytes_max >= limits::LARGE_VALUE_BYTES_MIN && self.authenticated
    }
}

impl Default for DecodeLimits {
    fn default() -> DecodeLimits {
        DecodeLimits::new(limits::VALUE_BYTES_MAX_DEFAULT)
    }
}

// Positions inside an incomplete command are 32 bits wide.
const _: () = assert!(limits::COMMAND_BYTES_MAX + limits::VALUE_BYTES_MAX_CEILING < u32::MAX as usize);

/// The decoder of one connection.
///
/// Between calls it remembers, relative to the first byte of the command it is in:
///
/// ```text
///   *3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500\r\nvvvvvvv
///           [found]       [found]        ^at   stage = Body, length = 500, words_left = 1
/// ```
///
/// Everything before `at` has been judged and is never looked at again, except that `found` names
/// the words in it.
#[derive(Default, Debug)]
pub struct Decoder {
    pub(super) protocol: Option<Protocol>,
    pub(super) stage: Stage,
    pub(super) at: u32,
    /// Bytes from `at` on that are known not to hold the end of the line.
    pub(super) scanned: u32,
    /// The length of the word that begins at `at`.
    pub(super) length: u32,
    pub(super) words_left: u32,
    /// Binary: bytes of the frame from the operation's start on, large values that were taken out not counted.
    pub(super) frame_left: u32,
    pub(super) found: Vec<ArgRange>,
    /// JSON: what the last line wants echoed.
    pub(super) id: Option<json::Id>,
}

const _: () = assert!(size_of::<Decoder>() <= 64);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before the first byte of a command.
    #[default]
    Fresh,
    /// In the line `*3\r\n`.
    Count,
    /// In the line `$5\r\n`.
    Header,
    /// In the word that follows it.
    Body,
    /// A large value is on its way past us.
    Large,
    /// Before the CR LF that follows a word.
    BodyEnd,
    /// In an inline command.
    Inline,
    /// Binary: before a frame or an operation.
    Frame,
    /// Binary: before a piece of an operation.
    Piece,
    /// JSON: in a line.
    Line,
    /// JSON: in a line that is too long.
    Overlong,
}

impl Decoder {
    /// What the connection speaks; none before its first byte.
    #[inline]
    pub fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// Decodes what begins at `input[from]`; see the [module's text](super) for how to use it. After an
    /// error the decoder must not be used any more.
    #[inline]
    pub fn next(
        &mut self,
        input: &[u8],
        from: usize,
        arguments: &mut Arguments,
        limits: &DecodeLimits,
    ) -> Result<Step, ProtocolError> {
        debug_assert!(self.stage != Stage::Large, "the large value has not been taken out");
        if self.stage == Stage::Fresh {
            match input.get(from) {
                None => return Ok(Step::Incomplete { at_least: 1 }),
                Some(b'*') => {
                    self.protocol = Some(Protocol::Resp);
                    if let Some(step) = resp::quick(input, from, arguments, limits) {
                        return Ok(step);
                    }
                    self.stage = Stage::Count;
                }
                Some(&binary::MAGIC) if self.protocol.is_none() => {
                    self.protocol = Some(Protocol::Binary);
                    self.stage = Stage::Frame;
                }
                Some(b'{') if self.protocol.is_none() => {
                    self.protocol = Some(Protocol::Json);
                    self.stage = Stage::Line;
                }
                Some(_) => {
                    self.protocol = Some(Protocol::Resp);
                    self.stage = Stage::Inline;
                }
            }
        }
        match (self.protocol, self.stage) {
            (Some(Protocol::Binary), _) => self.binary(input, from, arguments, limits),
            (Some(Protocol::Json), _) => Ok(self.json(input, from, arguments, limits)),
            (_, Stage::Inline) => self.inline(input, from, arguments, limits),
            _ => self.resp(input, from, arguments, limits),
        }
    }

    /// What the reply to the command decoded last has to echo.
    pub fn take_id(&mut self) -> Option<json::Id> {
        self.id.take()
    }

    /// How many of the bytes `more`, received behind a command that misses `at_least` bytes, belong to that
    /// command for certain: where it stopped inside a line, all up to the line's end.
    pub fn belonging(&self, at_least: usize, more: &[u8]) -> usize {
        match self.stage {
            Stage::Count | Stage::Header | Stage::Inline | Stage::Line | Stage::Overlong => {
                memchr::memchr(b'\n', more).map_or(more.len(), |line_end| line_end + 1)
            }
            _ => at_least.min(more.len()),
        }
    }

    /// The value announced by [`Step::Large`] has been taken out of the stream; it is `large[index]`.
    pub fn large_done(&mut self, index: usize) {
        assert!(self.stage == Stage::Large, "no large value was announced");
        self.found.push(ArgRange::large(index));
        self.stage = Stage::BodyEnd;
    }

    /// The next command may begin.
    pub(super) fn reset(&mut self) {
        const WORDS_KEPT: usize = 64;
        self.stage = match self.protocol {
            Some(Protocol::Binary) => Stage::Frame,
            Some(Protocol::Json) => Stage::Line,
            _ => Stage::Fresh,
        };
        self.at = 0;
        self.scanned = 0;
        self.words_left = 0;
        self.found.clear();
        self.found.shrink_to(WORDS_KEPT);
    }

    /// All words of the command that began at `from` are found, in `input`.
    pub(super) fn finish(&mut self, input: &[u8], from: usize, arguments: &mut Arguments) -> Step {
        let (verb, name_words) = verb::resolve(&input[from..], &self.found);
        arguments.ranges.extend(self.found[name_words..].iter().map(|range| range.shifted(from, 0)));
        let end = from + self.at as usize;
        self.reset();
        Step::Command { verb, source: Source::Input, end }
    }
}
