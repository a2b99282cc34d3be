//! What stands between some sockets and the engine: the PROXY header of trusted proxies, and TLS. Sockets without either
//! have no entry here, and where no socket has one nothing is looked up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::debug;

use super::Core;
use crate::connection::{Closing, Received};
use crate::limits;
use crate::proxy_protocol::{self, Header};
use crate::reply::Out;
use crate::runtime::tls::{FIRST_BYTE, Session, Taken};

const HANDSHAKE: Duration = Duration::from_millis(limits::BEFORE_AUTH_MS_MAX);

/// How a connection begins, and goes on where it is not plain.
pub(super) enum Filter {
    /// The PROXY header, as far as it is here, and what follows it.
    Proxy {
        header: Vec<u8>,
        then: Beginning,
    },
    /// The first byte tells whether it is TLS.
    Undecided,
    Tls(Box<Session>),
}

/// What a listener expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    Plain,
    /// TLS or plain.
    Either,
    Tls,
}

impl Core {
    /// The filter of a connection that has just been taken in.
    pub(super) fn begin_filter(&mut self, index: u32, behind_proxy: bool, beginning: Beginning) {
        let filter = match (behind_proxy, beginning) {
            (true, then) => Some(Filter::Proxy { header: Vec::new(), then }),
            (false, beginning) => self.filter_for(beginning),
        };
        if beginning == Beginning::Tls && !behind_proxy && (filter.is_none() || !self.engine.begin_handshake(index)) {
            // There is no TLS any more, or there are too many handshakes of its address.
            return self.drop_connection(index);
        }
        if let Some(filter) = filter {
            let generation = self.engine.connection(index).map_or(0, |connection| connection.generation);
            if !matches!(filter, Filter::Undecided) {
                self.handshakes.push_back((index, generation, Instant::now() + HANDSHAKE));
            }
            self.set_filter(index, filter);
        }
    }

    fn set_filter(&mut self, index: u32, filter: Filter) {
        if self.filters.len() <= index as usize {
            self.filters.resize_with(index as usize + 1, || None);
        }
        self.filters[index as usize] = Some(filter);
    }

    fn filter_for(&mut self, beginning: Beginning) -> Option<Filter> {
        let config = self.tls.clone()?;
        match beginning {
            Beginning::Plain => None,
            Beginning::Either => Some(Filter::Undecided),
            Beginning::Tls => Session::new(config).ok().map(|session| Filter::Tls(Box::new(session))),
        }
    }

    #[inline]
    pub(super) fn is_filtered(&self, index: u32) -> bool {
        !self.filters.is_empty() && self.filters.get(index as usize).is_some_and(Option::is_some)
    }

    /// The place is another connection's from now on.
    pub(super) fn end_filter(&mut self, index: u32) {
        if let Some(filter) = self.filters.get_mut(index as usize) {
            *filter = None;
        }
    }

    /// Received bytes of a connection with a filter. False if they are the engine's as they are.
    pub(super) fn receive_filtered(&mut self, index: u32, buffer: u16) -> bool {
        match &self.filters[index as usize] {
            Some(Filter::Tls(_)) => {}
            Some(Filter::Undecided) if self.ring.bytes(buffer).first() == Some(&FIRST_BYTE) => {
                self.end_filter(index);
                self.begin_filter(index, false, Beginning::Tls);
            }
            Some(Filter::Proxy { .. }) => {
                let input = self.ring.bytes(buffer).to_vec();
                self.take_header(index, &input);
                return true;
            }
            _ => {
                self.end_filter(index);
                return false;
            }
        }
        self.take_in(index, buffer);
        true
    }

    /// Received bytes of a TLS connection. Handshakes have their turn when there is time: whoever is through his is not
    /// kept waiting by those who come.
    fn take_in(&mut self, index: u32, buffer: u16) {
        let Some(Some(Filter::Tls(session))) = self.filters.get_mut(index as usize) else { return };
        let input = self.ring.bytes(buffer);
        let was_waiting = session.has_waiting();
        if was_waiting || session.is_handshaking() && self.handshakes_left == 0 {
            if !session.keep_waiting(input) {
                self.engine.counters.tls_failures += 1;
                self.drop_connection(index);
            } else if !was_waiting {
                let generation = self.engine.connection(index).map_or(0, |connection| connection.generation);
                self.shelved.push_back((index, generation));
            }
            return;
        }
        self.handshakes_left -= session.is_handshaking() as usize;
        let taken = session.take_in(input);
        self.taken_in(index, taken);
    }

    /// Those whose handshakes have waited come before others.
    pub(super) fn go_on_with_handshakes(&mut self) {
        while self.handshakes_left > 0
            && let Some((index, generation)) = self.shelved.pop_front()
        {
            let is_there = self.engine.connection(index).is_some_and(|connection| connection.generation == generation);
            if let Some(Some(Filter::Tls(session))) = self.filters.get_mut(index as usize)
                && is_there
            {
                self.handshakes_left -= 1;
                let has_ended = session.has_end_waiting;
                let taken = session.take_in_waiting();
                self.taken_in(index, taken);
                if has_ended {
                    self.engine.end_of_input(index);
                }
            }
        }
    }

    /// Whether the end of what a client sends comes behind something that waits.
    pub(super) fn ends_later(&mut self, index: u32) -> bool {
        match self.filters.get_mut(index as usize) {
            Some(Some(Filter::Tls(session))) if session.has_waiting() => {
                session.has_end_waiting = true;
                true
            }
            _ => false,
        }
    }

    fn take_header(&mut self, index: u32, input: &[u8]) {
        let Some(Some(Filter::Proxy { header, then })) = self.filters.get_mut(index as usize) else { return };
        header.extend_from_slice(input);
        let then = *then;
        match proxy_protocol::parse(header) {
            Header::Incomplete => {}
            Header::Wrong(why) => {
                debug!(index, "a trusted proxy is closed: {why}");
                self.engine.counters.protocol_errors += 1;
                self.drop_connection(index);
            }
            Header::Whole { len, client } => {
                let rest = header.split_off(len);
                self.end_filter(index);
                if let Some((client, local)) = client
                    && !self.speaks_for(index, client, local)
                {
                    return self.drop_connection(index);
                }
                self.begin_filter(index, false, then);
                self.take_rest(index, rest);
            }
        }
    }

    /// The connection is that of `client`. Whether he may come in.
    fn speaks_for(&mut self, index: u32, client: SocketAddr, local: SocketAddr) -> bool {
        if !self.allowlist.admits(client.ip()) {
            self.engine.counters.connections_refused_by_address += 1;
            return false;
        }
        if self.engine.is_flooded_by(client.ip()) {
            return false;
        }
        self.engine.set_address(index, client, local);
        true
    }

    /// What came together with the header.
    fn take_rest(&mut self, index: u32, rest: Vec<u8>) {
        if rest.is_empty() {
            return;
        }
        if let Some(Some(Filter::Undecided)) = self.filters.get(index as usize) {
            let beginning = if rest[0] == FIRST_BYTE { Beginning::Tls } else { Beginning::Plain };
            self.end_filter(index);
            self.begin_filter(index, false, beginning);
        }
        match self.filters.get_mut(index as usize) {
            Some(Some(Filter::Tls(session))) => {
                let taken = session.take_in(&rest);
                self.taken_in(index, taken);
            }
            _ => self.engine.receive_owned(index, rest, &self.ring),
        }
    }

    fn taken_in(&mut self, index: u32, taken: Taken) {
        let Taken { plain, has_begun, has_ended, error } = taken;
        if has_begun && let Some(Some(Filter::Tls(session))) = self.filters.get(index as usize) {
            self.engine.counters.tls_handshakes += 1;
            let names = session.names();
            self.engine.identify(index, &names);
            self.engine.end_handshake(index);
        }
        if !plain.is_empty() {
            self.engine.receive_owned(index, plain, &self.ring);
        }
        if has_ended {
            self.engine.end_of_input(index);
        }
        if let Some(error) = error {
            debug!(index, %error, "TLS fails");
            self.engine.counters.tls_failures += 1;
            if let Some(Some(Filter::Tls(session))) = self.filters.get_mut(index as usize) {
                session.fail();
            }
        }
        self.pump(index);
    }

    /// Hands replies to the filter, if it has sent the ones before.
    pub(super) fn send_filtered(&mut self, index: u32) {
        match self.filters.get_mut(index as usize) {
            Some(Some(Filter::Tls(session))) => {
                if !session.is_busy()
                    && !session.is_ending()
                    && let Some(out) = self.engine.take_out(index)
                {
                    session.enqueue(out);
                }
                self.pump(index);
            }
            _ => {
                if let Some(out) = self.engine.take_out(index) {
                    self.ring.send(index, out);
                }
            }
        }
    }

    /// Sends what the session has to say next.
    fn pump(&mut self, index: u32) {
        if self.ring.is_closing(index) || self.ring.is_sending(index) {
            return;
        }
        let Some(Some(Filter::Tls(session))) = self.filters.get_mut(index as usize) else { return };
        let bytes = session.next_piece();
        if !bytes.is_empty() {
            let mut out = Out::default();
            out.bytes = bytes;
            self.ring.send(index, out);
        } else if let Some(sent) = session.take_sent() {
            self.engine.sent(index, sent);
        } else if session.is_ending() {
            self.drop_connection(index);
        }
    }

    /// A piece has been sent.
    pub(super) fn sent_filtered(&mut self, index: u32) {
        self.pump(index);
        if self.engine.connection(index).is_some() {
            self.engine.touch(index);
        }
    }

    /// What the filter has under way is lost.
    pub(super) fn send_failed_filtered(&mut self, index: u32) {
        if let Some(Some(Filter::Tls(session))) = self.filters.get_mut(index as usize) {
            let out = session.give_up();
            self.engine.send_ended(index, out);
        }
    }

    /// Whether the client of a connection that is finished has still to be told that it ends.
    pub(super) fn announces_end(&mut self, index: u32) -> bool {
        let is_orderly = self.engine.connection(index).is_some_and(|connection| connection.closing != Closing::Now);
        match self.filters.get_mut(index as usize) {
            Some(Some(Filter::Tls(session))) if is_orderly && !session.is_handshaking() => {
                if session.end() {
                    self.pump(index);
                }
                self.ring.is_sending(index)
            }
            _ => false,
        }
    }

    /// Closes those who have not got through their beginning in time.
    pub(super) fn end_handshakes(&mut self, now: Instant) {
        while let Some(&(index, generation, until)) = self.handshakes.front()
            && now >= until
        {
            self.handshakes.pop_front();
            let is_beginning = match self.filters.get(index as usize) {
                Some(Some(Filter::Tls(session))) => session.is_handshaking(),
                Some(Some(Filter::Proxy { .. })) => true,
                _ => false,
            };
            if is_beginning
                && self.engine.connection(index).is_some_and(|connection| connection.generation == generation)
            {
                self.engine.counters.connections_closed_by_silence += 1;
                self.drop_connection(index);
            }
        }
    }
}
