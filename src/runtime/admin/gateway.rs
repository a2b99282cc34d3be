//! The way from the admin HTTP to the engine: a client like any other, on a socket pair whose other end core 0 serves.
//! Opened when it is needed, closed when nobody has needed it for a while.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::proto::{client, reply};
use crate::reply::Reply;
use crate::request::Wire;
use crate::runtime::core::Shared;
use crate::runtime::doorbell::Doorbell;

/// Longest a question may take; beyond it the server is not well.
const PATIENCE: Duration = Duration::from_secs(2);
const IDLE_MAX: Duration = Duration::from_secs(10);

pub struct Gateway {
    shared: Arc<Shared>,
    doorbells: Arc<[Doorbell]>,
    stream: Option<UnixStream>,
    used: Instant,
}

impl Gateway {
    pub fn new(shared: Arc<Shared>, doorbells: Arc<[Doorbell]>) -> Gateway {
        Gateway { shared, doorbells, stream: None, used: Instant::now() }
    }

    /// Carries out one command.
    pub fn call(&mut self, words: &[&[u8]]) -> io::Result<Reply<'static>> {
        self.used = Instant::now();
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        let reply = exchange(&mut stream, words)?;
        // After an error the stream is dropped: a late reply must not be taken for the next one's.
        self.stream = Some(stream);
        Ok(reply)
    }

    fn open(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        ours.set_write_timeout(Some(PATIENCE))?;
        self.shared.invite(theirs);
        self.doorbells[0].ring();
        Ok(ours)
    }

    /// Closes what nobody has used lately.
    pub fn rest(&mut self, now: Instant) {
        if now.saturating_duration_since(self.used) > IDLE_MAX {
            self.stream = None;
        }
    }
}

fn exchange(stream: &mut UnixStream, words: &[&[u8]]) -> io::Result<Reply<'static>> {
    let mut request = Vec::new();
    client::resp(words, &mut request);
    stream.write_all(&request)?;
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => bytes.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        match reply::parse(Wire::Resp2, &bytes) {
            Ok(Some((reply, _))) => return Ok(reply),
            Ok(None) if Instant::now() < deadline => {}
            Ok(None) => return Err(ErrorKind::TimedOut.into()),
            Err(_) => return Err(ErrorKind::InvalidData.into()),
        }
    }
}
