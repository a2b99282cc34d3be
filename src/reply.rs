//! What a command answers, before any protocol has written it down.

use std::borrow::Cow;

use bytes::Bytes;

/// An answer. Borrowed forms point into the shard that gave it and are encoded before the next command.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply<'a> {
    Ok,
    Pong,
    /// The absent value: `$-1` in RESP2, `_` in RESP3.
    Nil,
    /// The absent array: `*-1` in RESP2, `_` in RESP3.
    NilArray,
    Int(i64),
    /// A value small enough to be copied into the output.
    Bulk(&'a [u8]),
    /// A value that is sent from where it lies.
    Large(Bytes),
    /// A value made for this reply.
    Text(Cow<'a, str>),
    Owned(Vec<u8>),
    /// A simple string other than OK and PONG.
    Status(&'static str),
    Double(f64),
    Bool(bool),
    Error(ReplyError<'a>),
    Array(Vec<Reply<'a>>),
    /// A set in RESP3, an array in RESP2.
    Set(Vec<Reply<'a>>),
    /// A map in RESP3, a flat array in RESP2.
    Map(Vec<(Reply<'a>, Reply<'a>)>),
    /// What the server sends unasked: a push in RESP3, an array in RESP2.
    Push(Vec<Reply<'a>>),
    /// Text for people: verbatim (`txt:`) in RESP3, bulk in RESP2.
    Verbatim(Cow<'a, str>),
    /// No reply at all (CLIENT REPLY OFF | SKIP).
    None,
}

/// An error reply: its first word is the code that clients match on.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyError<'a> {
    Syntax,
    NotAnInteger,
    NotAFloat,
    Overflow,
    NanOrInfinity,
    NoSuchKey,
    /// `ERR invalid expire time in 'set' command`
    InvalidExpire {
        command: &'static str,
    },
    /// `ERR wrong number of arguments for 'get' command`
    WrongArity {
        command: Cow<'a, str>,
    },
    OffsetOutOfRange,
    /// A string would pass the largest value allowed.
    StringTooLong,
    /// `MOVED slot host:port`
    Moved {
        slot: u16,
        address: Cow<'a, str>,
    },
    /// The whole text, code included.
    Other(Cow<'a, str>),
}

impl ReplyError<'_> {
    /// The text after the `-`, code included.
    pub fn text(&self) -> Cow<'_, str> {
        use ReplyError::*;
        match self {
            Syntax => "ERR syntax error".into(),
            NotAnInteger => "ERR value is not an integer or out of range".into(),
            NotAFloat => "ERR value is not a valid float".into(),
            Overflow => "ERR increment or decrement would overflow".into(),
            NanOrInfinity => "ERR increment would produce NaN or Infinity".into(),
            NoSuchKey => "ERR no such key".into(),
            InvalidExpire { command } => format!("ERR invalid expire time in '{command}' command").into(),
            WrongArity { command } => format!("ERR wrong number of arguments for '{command}' command").into(),
            OffsetOutOfRange => "ERR offset is out of range".into(),
            StringTooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)".into(),
            Moved { slot, address } => format!("MOVED {slot} {address}").into(),
            Other(text) => text.as_ref().into(),
        }
    }
}

impl<'a> Reply<'a> {
    /// What it takes to keep a reply until it is sent, which may be far more than it took to ask for it.
    pub fn kept_bytes(&self) -> usize {
        let all = |replies: &[Reply<'_>]| replies.iter().map(Reply::kept_bytes).sum();
        let more: usize = match self {
            Reply::Array(replies) | Reply::Set(replies) | Reply::Push(replies) => all(replies),
            Reply::Map(pairs) => pairs.iter().map(|(key, value)| key.kept_bytes() + value.kept_bytes()).sum(),
            Reply::Text(text) | Reply::Verbatim(text) => text.len(),
            Reply::Error(error) => error.text().len(),
            Reply::Bulk(bytes) => bytes.len(),
            Reply::Large(bytes) => bytes.len(),
            Reply::Owned(bytes) => bytes.len(),
            _ => 0,
        };
        size_of::<Reply<'_>>() + more
    }

    pub fn error(text: impl Into<Cow<'a, str>>) -> Reply<'a> {
        Reply::Error(ReplyError::Other(text.into()))
    }

    pub fn owned(bytes: impl Into<Vec<u8>>) -> Reply<'a> {
        Reply::Owned(bytes.into())
    }

    pub fn text(text: impl Into<Cow<'a, str>>) -> Reply<'a> {
        Reply::Text(text.into())
    }
}

impl Reply<'_> {
    /// The same reply without ties to the shard that gave it.
    pub fn into_owned(self) -> Reply<'static> {
        let all = |replies: Vec<Reply<'_>>| replies.into_iter().map(Reply::into_owned).collect();
        match self {
            Reply::Ok => Reply::Ok,
            Reply::Pong => Reply::Pong,
            Reply::Nil => Reply::Nil,
            Reply::NilArray => Reply::NilArray,
            Reply::Int(value) => Reply::Int(value),
            Reply::Bulk(bytes) => Reply::Owned(bytes.to_vec()),
            Reply::Large(bytes) => Reply::Large(bytes),
            Reply::Text(text) => Reply::Text(text.into_owned().into()),
            Reply::Owned(bytes) => Reply::Owned(bytes),
            Reply::Status(text) => Reply::Status(text),
            Reply::Double(value) => Reply::Double(value),
            Reply::Bool(value) => Reply::Bool(value),
            Reply::Error(error) => Reply::Error(error.into_owned()),
            Reply::Array(replies) => Reply::Array(all(replies)),
            Reply::Set(replies) => Reply::Set(all(replies)),
            Reply::Map(pairs) => {
                Reply::Map(pairs.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
            }
            Reply::Verbatim(text) => Reply::Verbatim(text.into_owned().into()),
            Reply::Push(replies) => Reply::Push(all(replies)),
            Reply::None => Reply::None,
        }
    }
}

impl ReplyError<'_> {
    pub fn into_owned(self) -> ReplyError<'static> {
        use ReplyError::*;
        match self {
            Syntax => Syntax,
            NotAnInteger => NotAnInteger,
            NotAFloat => NotAFloat,
            Overflow => Overflow,
            NanOrInfinity => NanOrInfinity,
            NoSuchKey => NoSuchKey,
            InvalidExpire { command } => InvalidExpire { command },
            WrongArity { command } => WrongArity { command: command.into_owned().into() },
            OffsetOutOfRange => OffsetOutOfRange,
            StringTooLong => StringTooLong,
            Moved { slot, address } => Moved { slot, address: address.into_owned().into() },
            Other(text) => Other(text.into_owned().into()),
        }
    }
}

impl<'a> From<ReplyError<'a>> for Reply<'a> {
    fn from(error: ReplyError<'a>) -> Reply<'a> {
        Reply::Error(error)
    }
}

/// Bytes on their way out: written ones, with large values hung in between by reference.
///
/// ```text
///   bytes   $70000\r\n | \r\n+OK\r\n          large  [(8, value)]
///                      ^ value goes here
/// ```
#[derive(Default, Debug)]
pub struct Out {
    pub bytes: Vec<u8>,
    /// `(offset into bytes before which it goes, value)`, offsets ascending.
    pub large: Vec<(usize, Bytes)>,
    large_len: usize,
}

impl Out {
    /// Everything that would be sent, large values included.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.large_len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.large.is_empty()
    }

    pub fn push_large(&mut self, value: Bytes) {
        self.large_len += value.len();
        self.large.push((self.bytes.len(), value));
    }

    /// Appends `bytes[range]` of `other` with the large values that lie within it; `first_large` is the
    /// index of the first of those. Returns the index of the first large value after the range.
    pub fn append_range(&mut self, other: &Out, range: std::ops::Range<usize>, first_large: usize) -> usize {
        let mut from = range.start;
        let mut index = first_large;
        while let Some((offset, value)) = other.large.get(index)
            && *offset <= range.end
            && *offset > range.start
        {
            self.bytes.extend_from_slice(&other.bytes[from..*offset]);
            self.push_large(value.clone());
            from = *offset;
            index += 1;
        }
        self.bytes.extend_from_slice(&other.bytes[from..range.end]);
        index
    }

    /// Drops the first `bytes` bytes, which hold the first `large` large values.
    pub fn drop_front(&mut self, bytes: usize, large: usize) {
        self.bytes.drain(..bytes);
        for (_, value) in self.large.drain(..large) {
            self.large_len -= value.len();
        }
        for (offset, _) in &mut self.large {
            *offset -= bytes;
        }
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.large.clear();
        self.large_len = 0;
    }

    /// Everything in one piece, for tests and cold paths.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        let mut from = 0;
        for (offset, value) in &self.large {
            all.extend_from_slice(&self.bytes[from..*offset]);
            all.extend_from_slice(value);
            from = *offset;
        }
        all.extend_from_slice(&self.bytes[from..]);
        all
    }
}
