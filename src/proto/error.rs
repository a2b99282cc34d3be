//! What makes a connection's framing untrustworthy. The caller sends [`ProtocolError::reply`] and closes.

use std::borrow::Cow;

use crate::reply::Reply;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    MultibulkLength,
    MultibulkLengthBeforeAuth,
    MultibulkLineTooLong,
    BulkLength,
    BulkLengthBeforeAuth,
    BulkLineTooLong,
    ExpectedBulk {
        got: u8,
    },
    /// The two bytes after a bulk are not CR LF: its length lied.
    BulkEnd,
    CommandTooLarge,
    InlineTooLong,
    UnbalancedQuotes,
    /// The first byte of a frame is not the magic one.
    FrameMagic {
        got: u8,
    },
    FrameVersion {
        got: u8,
    },
    /// An operation does not end within its frame.
    OperationPassesFrame,
    /// An opcode that does not tell what its operation looks like.
    UnknownShape {
        opcode: u8,
    },
    /// A web page or a proxy speaks to us, perhaps on behalf of somebody else: closed without an answer.
    Http,
}

impl ProtocolError {
    /// The error's text, code included; none where not even an error should be sent.
    pub fn text(self) -> Option<Cow<'static, str>> {
        use ProtocolError::*;
        let owned = |text: String| Some(text.into());
        let text = match self {
            MultibulkLength => "ERR Protocol error: invalid multibulk length",
            MultibulkLengthBeforeAuth => "ERR Protocol error: unauthenticated multibulk length",
            MultibulkLineTooLong => "ERR Protocol error: too big mbulk count string",
            BulkLength => "ERR Protocol error: invalid bulk length",
            BulkLengthBeforeAuth => "ERR Protocol error: unauthenticated bulk length",
            BulkLineTooLong => "ERR Protocol error: too big bulk count string",
            ExpectedBulk { got: b'\r' | b'\n' } => "ERR Protocol error: expected '$', got ' '",
            ExpectedBulk { got } => {
                return owned(format!("ERR Protocol error: expected '$', got '{}'", got.escape_ascii()));
            }
            FrameMagic { got } => return owned(format!("ERR Protocol error: expected a frame, got byte {got:#04x}")),
            FrameVersion { got } => return owned(format!("ERR Protocol error: unknown frame version {got}")),
            OperationPassesFrame => "ERR Protocol error: operation passes the end of its frame",
            UnknownShape { opcode } => {
                return owned(format!("ERR Protocol error: unknown shape of opcode {opcode:#04x}"));
            }
            BulkEnd => "ERR Protocol error: expected CRLF after bulk",
            CommandTooLarge => "ERR Protocol error: too big request",
            InlineTooLong => "ERR Protocol error: too big inline request",
            UnbalancedQuotes => "ERR Protocol error: unbalanced quotes in request",
            Http => return None,
        };
        Some(text.into())
    }

    /// What to send before closing.
    pub fn reply(self) -> Reply<'static> {
        self.text().map_or(Reply::None, Reply::error)
    }
}
