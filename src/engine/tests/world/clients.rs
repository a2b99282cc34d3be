//! Clients: what they say, how they listen, how they go.

use std::collections::VecDeque;

use super::World;
use crate::engine::tests::talk::{Expect, Talk};
use crate::proto;

/// How a client takes its leave when it has heard everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Farewell {
    /// Shuts down its side, possibly long before it has heard everything, and waits for the server's.
    HalfClose,
    /// Stays; closed by the server if at all.
    None,
}

pub struct Client {
    pub talk: Box<dyn Talk>,
    pub core: usize,
    pub(super) place: Option<u32>,
    /// What it has written, and how much of that the server has received.
    pub(super) written: Vec<u8>,
    pub delivered: usize,
    /// The network holds back what is written behind so many bytes.
    pub deliverable: usize,
    pub awaited: VecDeque<Expect>,
    /// Replies it has received and not understood yet.
    pub(super) received: Vec<u8>,
    /// Requests it has under way at most.
    pub(super) window: usize,
    pub(super) farewell: Farewell,
    pub(super) has_said_all: bool,
    pub(super) has_shut_down: bool,
    /// Whether it takes what the server sends.
    pub reads: bool,
    /// Breaks the connection when the server has received so many bytes.
    pub(super) breaks_after: Option<usize>,
    pub is_closed: bool,
}

impl Client {
    /// Whether there is nothing that it waits for or has to say.
    pub(super) fn is_content(&self) -> bool {
        self.has_said_all && self.awaited.is_empty() && !self.has_output()
    }

    pub(super) fn has_output(&self) -> bool {
        self.delivered < self.written.len()
    }

    /// Bytes that the server may receive now.
    pub(super) fn arriving(&self) -> &[u8] {
        &self.written[self.delivered..self.deliverable.clamp(self.delivered, self.written.len())]
    }

    /// Whether the server may see the end of the input now.
    pub(super) fn has_ended(&self) -> bool {
        self.has_shut_down && !self.has_output()
    }

    pub(super) fn breaks_now(&self) -> bool {
        self.breaks_after.is_some_and(|bytes| self.delivered >= bytes)
    }

    pub(super) fn deliver(&mut self, len: usize) -> &[u8] {
        self.delivered += len;
        &self.written[self.delivered - len..self.delivered]
    }
}

/// How a client connects.
#[derive(Clone, Copy)]
pub struct Terms {
    pub core: usize,
    pub own_port: bool,
    pub window: usize,
    pub farewell: Farewell,
    pub breaks_after: Option<usize>,
}

impl Terms {
    pub fn on(core: usize) -> Terms {
        Terms { core, own_port: false, window: usize::MAX, farewell: Farewell::HalfClose, breaks_after: None }
    }
}

impl World {
    /// Lets a client say as much as its window allows.
    pub fn let_speak(&mut self, index: usize) {
        let client = &mut self.clients[index];
        loop {
            while let Some(Expect::Nothing) = client.awaited.front() {
                client.awaited.pop_front();
            }
            if client.is_closed || client.has_shut_down || client.awaited.len() >= client.window {
                break;
            }
            let Some(said) = client.talk.say(&mut self.random) else {
                client.has_said_all = client.awaited.is_empty() || client.talk.has_said_all();
                break;
            };
            client.has_said_all = false;
            client.written.extend_from_slice(&said.bytes);
            client.awaited.extend(said.expects);
        }
        if client.has_said_all && client.farewell == Farewell::HalfClose {
            client.has_shut_down = true;
        }
    }

    pub(super) fn understand(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let mut at = 0;
        while let Some(expected) = client.awaited.front() {
            let rest = &client.received[at..];
            match expected {
                Expect::Nothing => {}
                Expect::Bytes(bytes) => {
                    let len = bytes.len().min(rest.len());
                    assert!(
                        bytes[..len] == rest[..len],
                        "client {index} got {} instead of {}",
                        rest[..rest.len().min(100)].escape_ascii(),
                        bytes[..bytes.len().min(100)].escape_ascii(),
                    );
                    if len < bytes.len() {
                        break;
                    }
                    at += len;
                }
                Expect::Reply(wire) => {
                    let parsed = proto::reply::parse(*wire, rest);
                    match parsed.unwrap_or_else(|error| panic!("client {index} got {}: {error:?}", rest.escape_ascii()))
                    {
                        None => break,
                        Some((reply, len)) => {
                            at += len;
                            client.talk.hear(reply);
                        }
                    }
                }
                Expect::End => break,
            }
            client.awaited.pop_front();
        }
        client.received.drain(..at);
        let nothing_awaited = matches!(client.awaited.front(), None | Some(Expect::End));
        assert!(
            client.received.is_empty() || !nothing_awaited,
            "client {index} got more than it asked for: {}",
            client.received.escape_ascii()
        );
        self.let_speak(index);
    }

    /// The client sees the end of the connection.
    pub(super) fn end_client(&mut self, index: usize, by_server: bool) {
        let client = &mut self.clients[index];
        client.is_closed = true;
        client.place = None;
        client.written = Vec::new();
        client.delivered = 0;
        if by_server && client.reads {
            let is_expected = matches!(client.awaited.front(), Some(Expect::End))
                || client.awaited.is_empty() && client.has_shut_down
                || client.talk.may_be_closed();
            assert!(
                is_expected,
                "client {index} was closed while it awaited {} replies, shut down: {}",
                client.awaited.len(),
                client.has_shut_down
            );
        }
        client.awaited.clear();
        client.received.clear();
    }

    /// The client breaks the connection.
    pub fn reset(&mut self, index: usize) {
        let client = &self.clients[index];
        if let Some(place) = client.place {
            let core = client.core;
            self.drop_connection(core, place, false);
        }
    }
}
