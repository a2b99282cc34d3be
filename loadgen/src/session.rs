//! Connecting: sockets, AUTH and HELLO, and the few questions that are asked outside of the load.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crabcache::proto::client;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::failure::{Failure, explain};
use crate::plan::{Endpoint, Target};
use crate::wire::{Answer, Protocol, Scanner};

/// A blocking connection, ready for requests.
pub struct Session {
    socket: Socket,
    endpoint: String,
    protocol: Protocol,
    timeout: Duration,
}

impl Session {
    pub fn open(target: &Target) -> Result<Session, Failure> {
        let unreachable = |error: std::io::Error| Failure::Unreachable {
            endpoint: target.endpoint.to_string(),
            reason: explain(&error),
        };
        let connect = || -> std::io::Result<Socket> {
            let (domain, address) = match &target.endpoint {
                Endpoint::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
                Endpoint::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
            };
            let socket = Socket::new(domain, Type::STREAM, None)?;
            match &target.endpoint {
                Endpoint::Tcp(_) => {
                    socket.set_tcp_nodelay(true)?;
                    socket.connect_timeout(&address, target.timeout)?;
                }
                Endpoint::Unix(_) => {
                    // It bounds connecting too, to a server that accepts nobody.
                    socket.set_write_timeout(Some(target.timeout))?;
                    let asked = Instant::now();
                    while let Err(error) = socket.connect(&address) {
                        // The executor's timers interrupt blocking calls.
                        match error.kind() {
                            ErrorKind::Interrupted if asked.elapsed() < target.timeout => {}
                            ErrorKind::Interrupted => return Err(ErrorKind::TimedOut.into()),
                            _ => return Err(error),
                        }
                    }
                }
            }
            socket.set_read_timeout(Some(target.timeout))?;
            socket.set_write_timeout(Some(target.timeout))?;
            Ok(socket)
        };
        let socket = connect().map_err(unreachable)?;
        let mut session = Session {
            socket,
            endpoint: target.endpoint.to_string(),
            protocol: target.protocol,
            timeout: target.timeout,
        };
        session.shake_hands(target)?;
        Ok(session)
    }

    fn shake_hands(&mut self, target: &Target) -> Result<(), Failure> {
        if target.protocol == Protocol::Memcache {
            return Ok(());
        }
        if let Some(password) = &target.credentials.password {
            match &target.credentials.user {
                Some(user) => self.ask("AUTH", &["AUTH", user, password])?,
                None => self.ask("AUTH", &["AUTH", password])?,
            };
        }
        if target.protocol == Protocol::Resp3 {
            self.ask("HELLO 3", &["HELLO", "3"])?;
        }
        Ok(())
    }

    /// Whether the server answers at all: PING, or `version` in memcached's words.
    pub fn ping(&mut self) -> Result<(), Failure> {
        match self.protocol {
            Protocol::Memcache => self.exchange("version", b"version\r\n").map(drop),
            Protocol::Resp2 | Protocol::Resp3 | Protocol::Binary => self.ask("PING", &["PING"]).map(drop),
        }
    }

    /// Asks one thing and returns the bytes of the reply; an error reply is a failure.
    pub fn ask(&mut self, what: &'static str, words: &[&str]) -> Result<Vec<u8>, Failure> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut request = Vec::new();
        if self.protocol == Protocol::Binary {
            let mut frame = client::Frame::begin(&mut request);
            frame.command(&words);
            frame.end();
        } else {
            client::resp(&words, &mut request);
        }
        self.exchange(what, &request)
    }

    /// Sends bytes and returns those of the one reply.
    pub fn exchange(&mut self, what: &'static str, request: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut received = Vec::new();
        let gone = |endpoint: &str, reason: String, last: &[u8]| Failure::Gone {
            endpoint: endpoint.to_owned(),
            replies_due: 1,
            reason: format!("{what}: {reason}"),
            last: last.to_vec(),
        };
        if let Err(error) = self.socket.write_all(request) {
            return Err(gone(&self.endpoint, explain(&error), &received));
        }
        let asked = Instant::now();
        let mut scanner = Scanner::new(self.protocol, false);
        let mut outcome = None;
        while outcome.is_none() {
            let mut chunk = [0; 4096];
            let count = match self.socket.read(&mut chunk) {
                Ok(0) => return Err(gone(&self.endpoint, "end of stream".into(), &received)),
                Ok(count) => count,
                // The executor's timers interrupt blocking calls.
                Err(error) if error.kind() == ErrorKind::Interrupted && asked.elapsed() < self.timeout => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    return Err(gone(&self.endpoint, "no answer in time".into(), &received));
                }
                Err(error) => return Err(gone(&self.endpoint, explain(&error), &received)),
            };
            received.extend_from_slice(&chunk[..count]);
            // Answers are short: one that comes byte by byte does not come.
            if asked.elapsed() > self.timeout {
                return Err(gone(&self.endpoint, "no answer in time".into(), &received));
            }
            scanner
                .feed(&chunk[..count], |answer, _| outcome = Some(!matches!(answer, Answer::Error(_))))
                .map_err(|nonsense| Failure::nonsense(&self.endpoint, nonsense))?;
        }
        match outcome {
            Some(true) => Ok(received),
            _ => Err(Failure::Denied { endpoint: self.endpoint.clone(), request: what, reply: received }),
        }
    }

    /// The socket, for the ring.
    pub fn into_fd(self) -> OwnedFd {
        self.socket.into()
    }
}
