//! What can end a load: each says what happened, and with which bytes.

use std::fmt;
use std::io;

use crate::wire::{Nonsense, printable};

#[derive(Debug, Clone)]
pub enum Failure {
    /// No connection.
    Unreachable { endpoint: String, reason: String },
    /// The server refused the handshake.
    Denied { endpoint: String, request: &'static str, reply: Vec<u8> },
    /// The server ended a connection that waited for replies.
    Gone { endpoint: String, replies_due: u64, reason: String, last: Vec<u8> },
    /// The server did not reply in time.
    Silent { endpoint: String, replies_due: u64, waited_ms: u64, last: Vec<u8> },
    /// The server's bytes are no replies.
    Nonsense { endpoint: String, why: String, bytes: Vec<u8> },
    /// This machine refused something.
    System { what: String, reason: String },
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

impl Failure {
    pub fn system(what: impl Into<String>, error: impl fmt::Display) -> Failure {
        Failure::System { what: what.into(), reason: error.to_string() }
    }

    pub fn nonsense(endpoint: impl fmt::Display, nonsense: Nonsense) -> Failure {
        Failure::Nonsense { endpoint: endpoint.to_string(), why: nonsense.why.into(), bytes: nonsense.bytes }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = |bytes: &[u8]| match bytes {
            [] => "nothing was received on this connection".to_owned(),
            bytes => format!("the last bytes received were \"{}\"", printable(bytes)),
        };
        match self {
            Failure::Unreachable { endpoint, reason } => write!(f, "cannot connect to {endpoint}: {reason}"),
            Failure::Denied { endpoint, request, reply } => {
                write!(f, "{endpoint} refused {request}: \"{}\"", printable(reply))
            }
            Failure::Gone { endpoint, replies_due, reason, last: bytes } => {
                write!(f, "{endpoint} ended a connection with {replies_due} replies due ({reason}); {}", last(bytes))
            }
            Failure::Silent { endpoint, replies_due, waited_ms, last: bytes } => write!(
                f,
                "{endpoint} did not reply for {:.1} s with {replies_due} replies due; {}",
                *waited_ms as f64 / 1e3,
                last(bytes)
            ),
            Failure::Nonsense { endpoint, why, bytes } => {
                write!(f, "{endpoint} answered nonsense ({why}): \"{}\"", printable(bytes))
            }
            Failure::System { what, reason } => write!(f, "{what}: {reason}"),
            Failure::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Failure {}

/// What an I/O error means to somebody who looks for the server.
pub fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused: nobody listens there".into(),
        io::ErrorKind::NotFound => "there is no such socket".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".into(),
        _ => error.to_string(),
    }
}
