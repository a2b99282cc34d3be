//! A decoded command on its way to whoever answers it: an operation and its arguments, as ranges into
//! the bytes they arrived in. No protocol is left in it but the one its reply must be written in.

use bytes::Bytes;

use crate::command::Spec;

/// An argument: a range of the bytes beside it, or one of the large values that travel on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgRange {
    start: u32,
    len: u32,
}

impl ArgRange {
    const LARGE: u32 = u32::MAX;

    #[inline]
    pub fn inline(start: usize, len: usize) -> ArgRange {
        debug_assert!(start < Self::LARGE as usize && len <= u32::MAX as usize);
        ArgRange { start: start as u32, len: len as u32 }
    }

    /// The argument is `large[index]`.
    pub fn large(index: usize) -> ArgRange {
        ArgRange { start: Self::LARGE, len: index as u32 }
    }

    pub fn large_index(self) -> Option<usize> {
        (self.start == Self::LARGE).then_some(self.len as usize)
    }

    /// Start and length of an inline argument.
    #[inline]
    pub fn span(self) -> Option<(usize, usize)> {
        (self.start != Self::LARGE).then_some((self.start as usize, self.len as usize))
    }

    /// The same argument once its bytes have moved by `offset`; a large one does not move with them.
    pub fn shifted(self, offset: usize, large_offset: usize) -> ArgRange {
        match self.large_index() {
            None => ArgRange::inline(self.start as usize + offset, self.len as usize),
            Some(index) => ArgRange::large(index + large_offset),
        }
    }
}

/// The arguments of one command; argument 0 is the first after the command's name (and, for a
/// subcommand such as `CLIENT LIST`, the first after the subcommand).
#[derive(Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    ranges: &'a [ArgRange],
    large: &'a [Bytes],
}

impl<'a> Args<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8], ranges: &'a [ArgRange], large: &'a [Bytes]) -> Args<'a> {
        Args { bytes, ranges, large }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Argument `index`, which must exist: arity was checked when the command was looked up.
    #[inline]
    pub fn get(&self, index: usize) -> &'a [u8] {
        let range = self.ranges[index];
        match range.large_index() {
            None => &self.bytes[range.start as usize..][..range.len as usize],
            Some(large) => &self.large[large],
        }
    }

    /// The memory of argument `index` if it travels on its own, to be kept without a copy.
    #[inline]
    pub fn large(&self, index: usize) -> Option<&'a Bytes> {
        self.ranges[index].large_index().map(|large| &self.large[large])
    }

    /// Whether there may be large values among the arguments.
    #[inline]
    pub fn may_be_large(&self) -> bool {
        !self.large.is_empty()
    }

    /// Bytes of the large values among the arguments.
    pub fn large_bytes(&self) -> usize {
        (0..self.len()).filter_map(|index| self.large(index)).map(Bytes::len).sum()
    }

    /// Argument `index`, to be kept: without a copy if it travels on its own.
    pub fn to_bytes(&self, index: usize) -> Bytes {
        self.large(index).cloned().unwrap_or_else(|| Bytes::copy_from_slice(self.get(index)))
    }

    /// Where argument `index` lies, to pick arguments for [`Args::with_ranges`].
    pub fn range(&self, index: usize) -> ArgRange {
        self.ranges[index]
    }

    /// Other arguments out of the same bytes.
    pub fn with_ranges(&self, ranges: &'a [ArgRange]) -> Args<'a> {
        Args { ranges, ..*self }
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let args = *self;
        (0..args.len()).map(move |index| args.get(index))
    }

    /// The arguments from `start` on.
    pub fn from(&self, start: usize) -> Args<'a> {
        Args { ranges: &self.ranges[start.min(self.ranges.len())..], ..*self }
    }

    /// `count` arguments from `start` on, all of which must exist.
    pub fn slice(&self, start: usize, count: usize) -> Args<'a> {
        Args { ranges: &self.ranges[start..start + count], ..*self }
    }
}

/// Words behind one another, and where each lies: arguments that nobody has sent.
pub fn joined<W: AsRef<[u8]>>(words: &[W]) -> (Vec<u8>, Vec<ArgRange>) {
    let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
    for word in words.iter().map(AsRef::as_ref) {
        ranges.push(ArgRange::inline(bytes.len(), word.len()));
        bytes.extend_from_slice(word);
    }
    (bytes, ranges)
}

/// A command as a shard sees it. `hash` belongs to the key of commands that have exactly one.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub spec: &'static Spec,
    pub args: Args<'a>,
    pub hash: u64,
}

/// The protocol a reply has to be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Wire {
    #[default]
    Resp2,
    Resp3,
    Binary,
    /// JSON lines: what stands behind the beginning of the line, which the connection has written.
    Json,
}

/// When a write is on disk, compared with its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Written soon; the kernel and the device decide when it is durable.
    None,
    /// Durable within the interval.
    Async,
    /// Durable before its reply leaves.
    Sync,
}

impl Durability {
    pub fn parse(word: &[u8]) -> Option<Durability> {
        [Durability::None, Durability::Async, Durability::Sync]
            .into_iter()
            .find(|durability| word.eq_ignore_ascii_case(durability.as_str().as_bytes()))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Durability::None => "none",
            Durability::Async => "async",
            Durability::Sync => "sync",
        }
    }
}
