//! One client of the admin HTTP: its socket, what it has sent and what it has not taken yet.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use super::answers::Answer;
use crate::admin::http::{Request, Requests, Response, Step};
use crate::limits::{ADMIN_IDLE_MS_MAX, ADMIN_OUTPUT_BYTES_MAX, ADMIN_REQUEST_MS_MAX};

const RECEIVE_BYTES: usize = 64 * 1024;
/// Received from one client before others have their turn.
const RECEIVES_PER_TURN: usize = 16;

pub enum Progress {
    Request(Request),
    /// Nothing whole, or no more is wanted.
    Nothing,
}

pub struct Client {
    pub stream: TcpStream,
    pub peer: IpAddr,
    requests: Requests,
    out: Vec<u8>,
    sent: usize,
    /// No more requests are taken; closed when all has been sent.
    is_closing: bool,
    is_gone: bool,
    /// It sends no more, and may still want answers.
    input_ended: bool,
    events: bool,
    last_progress: Instant,
    /// Of the request that is not whole yet.
    request_began: Option<Instant>,
}

impl Client {
    pub fn new(stream: TcpStream, peer: IpAddr, now: Instant) -> io::Result<Client> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream,
            peer,
            requests: Requests::default(),
            out: Vec::new(),
            sent: 0,
            is_closing: false,
            is_gone: false,
            input_ended: false,
            events: false,
            last_progress: now,
            request_began: None,
        })
    }

    pub fn receive(&mut self, now: Instant) {
        let mut piece = [0; RECEIVE_BYTES];
        for _ in 0..RECEIVES_PER_TURN {
            match self.stream.read(&mut piece) {
                Ok(0) => {
                    self.input_ended = true;
                    self.is_gone |= self.events;
                    return;
                }
                Ok(len) => {
                    self.last_progress = now;
                    // What a listener of events, or somebody who is being closed, still says does not matter.
                    if !self.is_closing && !self.events {
                        self.requests.feed(&piece[..len]);
                        self.request_began.get_or_insert(now);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.is_gone = true;
                    return;
                }
            }
        }
    }

    /// The next whole request. Pipelined ones wait until the answers before them are on their way.
    pub fn next_request(&mut self, body_bytes_max: usize) -> Progress {
        if self.is_closing || self.is_gone || self.events || self.out.len() > ADMIN_OUTPUT_BYTES_MAX / 2 {
            return Progress::Nothing;
        }
        match self.requests.next(body_bytes_max) {
            Step::Request(request) => Progress::Request(request),
            Step::More | Step::Continue if self.input_ended => {
                self.is_closing = true;
                Progress::Nothing
            }
            Step::More => Progress::Nothing,
            Step::Continue => {
                self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                Progress::Nothing
            }
            Step::Refused(status, why) => {
                let response = Response::text(status, why);
                self.out.extend(response.encode(crate::admin::http::Method::Get, false));
                self.is_closing = true;
                Progress::Nothing
            }
        }
    }

    pub fn answer(&mut self, request: &Request, answer: Answer, now: Instant) {
        self.request_began = self.requests.is_within_request().then_some(now);
        match answer {
            Answer::Response(response) => {
                self.out.extend(response.encode(request.method, request.keep_alive));
                self.is_closing |= !request.keep_alive;
            }
            Answer::Events(response) => {
                self.out.extend(response.encode_stream());
                self.events = true;
            }
        }
    }

    /// When it has last sent or taken something.
    pub fn last_progress(&self) -> Instant {
        self.last_progress
    }

    pub fn wants_events(&self) -> bool {
        self.events && !self.is_gone
    }

    /// A listener who does not keep up is closed; it will come again.
    pub fn push_event(&mut self, event: &[u8]) {
        if self.out.len() - self.sent + event.len() > ADMIN_OUTPUT_BYTES_MAX {
            self.is_gone = true;
        } else {
            self.out.extend_from_slice(event);
        }
    }

    pub fn wants_input(&self) -> bool {
        !self.is_closing && !self.is_gone && !self.input_ended
    }

    pub fn has_output(&self) -> bool {
        self.sent < self.out.len()
    }

    pub fn buffered_bytes(&self) -> usize {
        self.requests.buffered_bytes() + self.out.len()
    }

    pub fn abandon(&mut self) {
        self.is_gone = true;
        self.requests = Requests::default();
        self.out = Vec::new();
        self.sent = 0;
    }

    pub fn send(&mut self, now: Instant) {
        while self.has_output() && !self.is_gone {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(0) => self.is_gone = true,
                Ok(len) => {
                    self.sent += len;
                    self.last_progress = now;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.is_gone = true,
            }
        }
        self.out = Vec::new();
        self.sent = 0;
    }

    /// Whether it can be forgotten: gone, answered for the last time, or silent for too long.
    pub fn is_over(&self, now: Instant) -> bool {
        let late = |since: Instant, ms: u64| now.saturating_duration_since(since) > Duration::from_millis(ms);
        self.is_gone
            || (self.is_closing && !self.has_output())
            || self.request_began.is_some_and(|began| !self.events && late(began, ADMIN_REQUEST_MS_MAX))
            || late(self.last_progress, ADMIN_IDLE_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::limits::ADMIN_BODY_BYTES_MAX;

    /// A client and the other end of its connection.
    fn client(now: Instant) -> (Client, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = listener.accept().unwrap().0;
        (Client::new(stream, "127.0.0.1".parse().unwrap(), now).unwrap(), other)
    }

    /// Receives until there is something.
    fn receive(client: &mut Client, now: Instant) {
        while client.last_progress != now {
            client.receive(now);
        }
    }

    #[test]
    fn a_request_that_does_not_come_to_its_end_and_a_silent_client_are_left() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let (mut slow, mut other) = client(start);
        for (second, piece) in [b"GET", b" /l", b"ive"].into_iter().enumerate() {
            other.write_all(piece).unwrap();
            let now = after(1000 + second as u64 * 4000);
            receive(&mut slow, now);
            assert!(!slow.is_over(now));
        }
        // However lately it has sent something.
        assert!(!slow.is_over(after(1000 + ADMIN_REQUEST_MS_MAX)) && slow.is_over(after(1001 + ADMIN_REQUEST_MS_MAX)));
        let (silent, _other) = client(start);
        assert!(!silent.is_over(after(ADMIN_IDLE_MS_MAX)) && silent.is_over(after(ADMIN_IDLE_MS_MAX + 1)));
    }

    /// `printf … | nc -N` got no answer when the end came together with the request.
    #[test]
    fn whoever_sends_no_more_gets_his_answers() {
        let now = Instant::now();
        let (mut client, mut other) = client(now);
        let request = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
        other.write_all(&[&request[..], request].concat()).unwrap();
        other.shutdown(std::net::Shutdown::Write).unwrap();
        while !client.input_ended {
            client.receive(now);
        }
        for _ in 0..2 {
            let Progress::Request(request) = client.next_request(ADMIN_BODY_BYTES_MAX) else { panic!("a request") };
            client.answer(&request, Answer::Response(Response::text(200, "ok")), now);
        }
        assert!(matches!(client.next_request(ADMIN_BODY_BYTES_MAX), Progress::Nothing) && !client.is_over(now));
        client.send(now);
        assert!(client.is_over(now));
        drop(client);
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    }

    #[test]
    fn a_listener_that_does_not_keep_up_is_closed() {
        let now = Instant::now();
        let (mut client, _other) = client(now);
        client.events = true;
        let event = vec![b'e'; ADMIN_OUTPUT_BYTES_MAX / 4];
        for _ in 0..4 {
            assert!(client.wants_events());
            client.push_event(&event);
        }
        client.push_event(b"one more");
        assert!(!client.wants_events() && client.is_over(now));
    }
}
