//! The commands decoded in a turn, with the bytes they point into, until they have been applied.

use bytes::Bytes;

use crate::command::Spec;
use crate::limits;
use crate::proto::Arguments;
use crate::reply::Reply;
use crate::request::Args;

/// Where the bytes of a decoded command lie until it has been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A receive buffer of the ring.
    Buffer(u16),
    /// A piece put together from several receives: `TurnBatch::assembled`.
    Assembled(u32),
    /// Text that had to be unquoted, numbers that had to be written out: `Arguments::scratch`.
    Scratch,
}

/// Access to the receive buffers that are held until the turn's commands have been applied.
pub trait Received {
    fn bytes(&self, buffer: u16) -> &[u8];
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    Command(&'static Spec),
    /// Answered with an error: `TurnBatch::refusals`.
    Refused(u32),
}

/// A command as it was decoded, in the order of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Decoded {
    pub what: What,
    pub connection: u32,
    pub source: Source,
    pub(super) args_from: u32,
    pub(super) args_count: u32,
    pub(super) large_from: u32,
    /// Filled in when the batch is routed.
    pub hash: u64,
    pub owner: u32,
}

#[derive(Debug)]
pub struct Refusal {
    pub reply: Reply<'static>,
    pub close: bool,
    /// The command, if it is one that there is.
    pub spec: Option<&'static Spec>,
}

/// The commands decoded in a turn and not yet applied. Its vectors keep their memory from turn to turn.
#[derive(Default)]
pub struct TurnBatch {
    pub commands: Vec<Decoded>,
    pub arguments: Arguments,
    pub large: Vec<Bytes>,
    pub assembled: Vec<Vec<u8>>,
    pub refusals: Vec<Refusal>,
    /// A piece that is not used up when the batch is cleared, and where it is put then.
    pub keep: Option<usize>,
    pub kept: Option<Vec<u8>>,
    /// Emptied pieces for the next assembly.
    pub(super) spare: Vec<Vec<u8>>,
}

/// Arguments for which an empty batch keeps room.
pub(super) const ARGS_KEPT_MAX: usize = 64 * limits::TURN_COMMANDS;
pub(super) const SPARE_PIECES_MAX: usize = 64;
pub(super) const SPARE_PIECE_BYTES_MAX: usize = 64 * 1024;

impl TurnBatch {
    #[inline]
    pub fn is_full(&self) -> bool {
        self.commands.len() >= limits::TURN_COMMANDS
    }

    #[inline(always)]
    pub fn args_of<'a>(&'a self, command: &Decoded, received: &'a impl Received) -> Args<'a> {
        let bytes = match command.source {
            Source::Buffer(buffer) => received.bytes(buffer),
            Source::Assembled(piece) => &self.assembled[piece as usize],
            Source::Scratch => &self.arguments.scratch,
        };
        let ranges = &self.arguments.ranges[command.args_from as usize..][..command.args_count as usize];
        Args::new(bytes, ranges, &self.large[command.large_from as usize..])
    }

    pub fn clear(&mut self) {
        self.commands.clear();
        self.arguments.clear();
        self.large.clear();
        self.refusals.clear();
        // One command with very many arguments must not keep their room for ever.
        self.arguments.shrink(ARGS_KEPT_MAX, SPARE_PIECE_BYTES_MAX);
        self.large.shrink_to(ARGS_KEPT_MAX);
        if let Some(piece) = self.keep.take() {
            self.kept = Some(std::mem::take(&mut self.assembled[piece]));
        }
        for mut piece in self.assembled.drain(..) {
            if self.spare.len() < SPARE_PIECES_MAX && piece.capacity() <= SPARE_PIECE_BYTES_MAX {
                piece.clear();
                self.spare.push(piece);
            }
        }
    }

    pub(super) fn piece(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }
}
