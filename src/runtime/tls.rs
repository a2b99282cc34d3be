//! TLS of one connection, without its socket: rustls between what is received and the engine, and between the engine and
//! what is sent.
//!
//! ```text
//!   received ─▶ take_in ─▶ plain text for the engine
//!   replies  ─▶ enqueue ─▶ next_piece ─▶ sent, at most 256 KiB of them at a time; then the replies are given back
//! ```

use std::io::Write;
use std::sync::Arc;

use rustls::{Error, ServerConfig, ServerConnection};

use crate::limits::{HANDSHAKE_BYTES_MAX, TLS_PIECE_BYTES};
use crate::reply::Out;

/// The first byte of everything a TLS client begins with: a record of the handshake.
pub const FIRST_BYTE: u8 = 0x16;

pub struct Session {
    connection: Box<ServerConnection>,
    /// What has been received of the handshake and not been gone into.
    waiting: Vec<u8>,
    /// Nothing comes after that.
    pub has_end_waiting: bool,
    /// Replies that are being sent, and how much of them has been encrypted.
    queue: Option<Out>,
    encrypted: usize,
    /// The end has been announced to the client, or there is nobody to announce it to.
    is_ending: bool,
}

/// What has come of received bytes.
#[derive(Debug, Default)]
pub struct Taken {
    pub plain: Vec<u8>,
    /// The handshake is done, with this.
    pub has_begun: bool,
    /// The client says that nothing more comes.
    pub has_ended: bool,
    pub error: Option<Error>,
}

impl Session {
    pub fn new(config: Arc<ServerConfig>) -> Result<Session, Error> {
        let mut connection = Box::new(ServerConnection::new(config)?);
        // Only one piece of the replies is handed over at a time.
        connection.set_buffer_limit(None);
        Ok(Session {
            connection,
            waiting: Vec::new(),
            has_end_waiting: false,
            queue: None,
            encrypted: 0,
            is_ending: false,
        })
    }

    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Keeps `input` until there is time for it. False if that is too much.
    pub fn keep_waiting(&mut self, input: &[u8]) -> bool {
        self.waiting.extend_from_slice(input);
        self.waiting.len() <= HANDSHAKE_BYTES_MAX
    }

    /// Takes in what has waited.
    pub fn take_in_waiting(&mut self) -> Taken {
        let waiting = std::mem::take(&mut self.waiting);
        self.take_in(&waiting)
    }

    /// Takes in all of `input`, however many records that are.
    pub fn take_in(&mut self, mut input: &[u8]) -> Taken {
        let mut taken = Taken::default();
        let was_handshaking = self.connection.is_handshaking();
        while !input.is_empty() && taken.error.is_none() && !taken.has_ended {
            if self.connection.read_tls(&mut input).is_err() {
                taken.error = Some(Error::General("a record is too long".into()));
                break;
            }
            match self.connection.process_new_packets() {
                Ok(state) => {
                    let from = taken.plain.len();
                    taken.plain.resize(from + state.plaintext_bytes_to_read(), 0);
                    let read = std::io::Read::read_exact(&mut self.connection.reader(), &mut taken.plain[from..]);
                    debug_assert!(read.is_ok(), "rustls has what it says it has");
                    taken.has_ended = state.peer_has_closed();
                }
                Err(error) => taken.error = Some(error),
            }
        }
        taken.has_begun = was_handshaking && !self.connection.is_handshaking();
        taken
    }

    /// The names that the client's certificate is for.
    pub fn names(&self) -> Vec<String> {
        let certificate = self.connection.peer_certificates().and_then(|chain| chain.first());
        let parsed = certificate.map(webpki::EndEntityCert::try_from).and_then(Result::ok);
        parsed.map_or(Vec::new(), |certificate| {
            certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(str::to_owned).collect()
        })
    }

    /// Whether replies are under way; no more are taken meanwhile.
    pub fn is_busy(&self) -> bool {
        self.queue.is_some()
    }

    pub fn enqueue(&mut self, out: Out) {
        debug_assert!(self.queue.is_none());
        (self.queue, self.encrypted) = (Some(out), 0);
    }

    /// What is to be sent next; empty when there is nothing.
    pub fn next_piece(&mut self) -> Vec<u8> {
        if let Some(out) = &self.queue {
            let mut room = TLS_PIECE_BYTES;
            let mut skip = self.encrypted;
            let mut writer = self.connection.writer();
            let mut put = |bytes: &[u8]| {
                let skipped = skip.min(bytes.len());
                skip -= skipped;
                let piece = &bytes[skipped..][..room.min(bytes.len() - skipped)];
                room -= piece.len();
                // A connection that has failed takes nothing: it is closed anyway.
                let _ = writer.write_all(piece);
            };
            let mut from = 0;
            for (offset, value) in &out.large {
                put(&out.bytes[from..*offset]);
                put(value);
                from = *offset;
            }
            put(&out.bytes[from..]);
            self.encrypted += TLS_PIECE_BYTES - room;
        }
        let mut piece = Vec::new();
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut piece).is_err() {
                break;
            }
        }
        piece
    }

    /// The replies that have been sent in whole, to be given back.
    pub fn take_sent(&mut self) -> Option<Out> {
        let is_whole = self.queue.as_ref().is_some_and(|out| self.encrypted == out.len());
        if is_whole { self.queue.take() } else { None }
    }

    /// The replies that were under way, wherever they are.
    pub fn give_up(&mut self) -> Out {
        self.queue.take().unwrap_or_default()
    }

    /// Announces the end. False if that has happened already.
    pub fn end(&mut self) -> bool {
        if std::mem::replace(&mut self.is_ending, true) {
            return false;
        }
        self.connection.send_close_notify();
        true
    }

    /// Nothing can be said any more but why.
    pub fn fail(&mut self) {
        self.is_ending = true;
    }

    pub fn is_ending(&self) -> bool {
        self.is_ending
    }
}
