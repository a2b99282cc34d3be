//! A connection that sees every byte: commands out, one reply at a time in.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::value::{Unread, Value, quoted};

/// Longest wait for a reply: far above what a loaded machine needs, so that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    /// How much of `received` has been handed out.
    taken: usize,
    /// What the connection is for, to be told when no reply comes.
    pub purpose: String,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { stream, received: Vec::new(), taken: 0, purpose: String::new() })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A second handle for writing while this one reads.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("a second handle of the socket")
    }

    /// A server that has closed the connection meanwhile is noticed by whoever reads the replies.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            outcome => outcome.expect("send"),
        }
    }

    /// Sends in pieces that end at `cuts` (ascending offsets), each in a packet of its own.
    pub fn send_split(&mut self, bytes: &[u8], cuts: &[usize]) {
        let mut from = 0;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            self.send(&bytes[from..cut]);
            from = cut;
        }
    }

    /// The next reply; `None` once the server has closed the connection between replies.
    pub fn try_reply(&mut self) -> Option<Value> {
        loop {
            let pending = &self.received[self.taken..];
            match Value::parse(pending) {
                Ok((value, len)) => {
                    assert!(
                        value.encode() == pending[..len],
                        "the reply {} is not written canonically",
                        quoted(&pending[..len])
                    );
                    self.taken += len;
                    if self.taken == self.received.len() || self.taken > 1 << 20 {
                        self.received.drain(..self.taken);
                        self.taken = 0;
                    }
                    return Some(value);
                }
                Err(Unread::Malformed(what)) => panic!("the reply {} is no RESP: {what}", quoted(pending)),
                Err(Unread::Incomplete) => {}
            }
            if !self.receive() {
                let rest = &self.received[self.taken..];
                assert!(rest.is_empty(), "closed within the reply {}", quoted(rest));
                return None;
            }
        }
    }

    pub fn reply(&mut self) -> Value {
        self.try_reply().expect("a reply, not the end of the connection")
    }

    pub fn replies(&mut self, count: usize) -> Vec<Value> {
        (0..count).map(|_| self.reply()).collect()
    }

    /// Sends one command of words separated by spaces and returns its reply.
    pub fn call(&mut self, command: &str) -> Value {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.call_words(&words)
    }

    pub fn call_words<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Value {
        self.send(&command(words));
        self.reply()
    }

    /// Waits for the server to close the connection and fails if it says anything more.
    pub fn expect_closed(&mut self) {
        if let Some(value) = self.try_reply() {
            panic!("the server should have closed the connection, but said {value:?}");
        }
    }

    /// Takes in what arrives within `patience` and returns how many bytes wait to be looked at.
    pub fn arrived_within(&mut self, patience: Duration) -> usize {
        if self.peeks_within(patience) {
            self.receive();
        }
        self.received.len() - self.taken
    }

    /// The next `len` bytes, whatever they mean; fewer if the server closes before.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        while self.received.len() - self.taken < len && self.receive() {}
        let end = self.received.len().min(self.taken + len);
        let bytes = self.received[self.taken..end].to_vec();
        self.taken = end;
        bytes
    }

    /// Everything until the server closes.
    pub fn rest(mut self) -> Vec<u8> {
        while self.receive() {}
        self.received.split_off(self.taken)
    }

    /// No more commands: the server sees the end of the stream, replies still arrive. It may have closed already.
    pub fn half_close(&self) {
        match self.stream.shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => panic!("half-close: {error}"),
            _ => {}
        }
    }

    /// Closes with a reset instead of an orderly end.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// Whether bytes (or the end) arrive within `patience`.
    pub fn readable_within(&self, patience: Duration) -> bool {
        self.taken < self.received.len() || self.peeks_within(patience)
    }

    fn peeks_within(&self, patience: Duration) -> bool {
        // Zero would mean for ever.
        self.stream.set_read_timeout(Some(patience.max(Duration::from_micros(1)))).expect("read timeout");
        let readable = self.stream.peek(&mut [0]).is_ok();
        self.stream.set_read_timeout(Some(PATIENCE)).expect("read timeout");
        readable
    }

    /// Takes in what has arrived; false at the end of the connection.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    self.received.extend_from_slice(&buffer[..count]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The server closed while bytes of ours were on their way to it.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) => {
                    let (purpose, so_far) = (&self.purpose, quoted(&self.received[self.taken..]));
                    panic!("{purpose}: nothing comes: {error}; so far {so_far}");
                }
            }
        }
    }
}

/// A command as an array of bulk strings.
pub fn command<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut out = Vec::new();
    push_command(&mut out, words);
    out
}

pub fn push_command<W: AsRef<[u8]>>(out: &mut Vec<u8>, words: &[W]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        let word = word.as_ref();
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}
