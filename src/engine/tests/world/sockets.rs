//! Sockets as the ring has them: what arrives in which pieces, what is taken, what breaks.

use super::World;
use crate::connection::{LargeIn, Received};
use crate::limits;
use crate::reply::Out;

#[derive(Default)]
pub(super) struct Buffers(pub(super) Vec<Vec<u8>>);

impl Received for Buffers {
    fn bytes(&self, buffer: u16) -> &[u8] {
        &self.0[buffer as usize]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receiving {
    Idle,
    Armed,
    /// A cancel is under way: what has arrived before it still comes.
    Stopping,
}

pub(super) struct Socket {
    pub(super) client: Option<usize>,
    pub(super) receiving: Receiving,
    pub(super) large: Option<LargeIn>,
    pub(super) sending: Option<Out>,
}

impl World {
    pub(super) fn drop_connection(&mut self, core: usize, place: u32, by_server: bool) {
        self.events += 1;
        let at = &mut self.cores[core];
        at.engine.close(place);
        let socket = &mut at.sockets[place as usize];
        socket.receiving = Receiving::Idle;
        socket.large = None;
        socket.sending = None;
        let client = socket.client.take();
        at.free.push(place);
        at.exhausted.retain(|&other| other != place);
        at.lingering.retain(|&other| other != place);
        if let Some(client) = client {
            self.end_client(client, by_server);
        }
    }

    /// As the runtime does: starts or stops receiving as the connection wants it.
    pub(super) fn steer_input(&mut self, core: usize, place: u32) {
        let direct_min = self.bounds.direct_receive_bytes_min;
        let at = &mut self.cores[core];
        let Some(connection) = at.engine.connection(place) else { return };
        let socket = &mut at.sockets[place as usize];
        let wanted = connection.wants_input() && !connection.input_ended;
        let receiving = socket.receiving != Receiving::Idle;
        if wanted && !receiving && socket.large.is_none() {
            self.events += 1;
            if connection.large_missing() >= direct_min
                && let Some(large) = connection.take_large_in()
            {
                socket.large = Some(large);
            } else {
                socket.receiving = Receiving::Armed;
            }
        } else if !wanted && socket.receiving == Receiving::Armed {
            self.events += 1;
            socket.receiving = Receiving::Stopping;
        }
    }

    /// Something happens on a socket, if anything can.
    pub(super) fn socket_event(&mut self, core: usize, place: u32) -> bool {
        let at = &mut self.cores[core];
        let socket = &mut at.sockets[place as usize];
        let Some(index) = socket.client else { return false };
        let client = &mut self.clients[index];
        if client.breaks_now() {
            self.drop_connection(core, place, false);
            return true;
        }
        let arriving = client.arriving().len();
        let (has_bytes, has_ended) = (arriving > 0, client.has_ended());
        let can_send = socket.sending.is_some() && client.reads;
        let can_receive_large = socket.large.is_some() && (has_bytes || has_ended);
        let can_receive =
            socket.receiving == Receiving::Stopping || socket.receiving == Receiving::Armed && (has_bytes || has_ended);
        if !(can_send || can_receive || can_receive_large) {
            return false;
        }
        self.events += 1;
        if can_send && (self.random.chance(50) || !(can_receive || can_receive_large)) {
            let out = socket.sending.take().expect("just seen");
            client.received.extend_from_slice(&out.to_vec());
            at.engine.sent(place, out);
            self.understand(index);
            return true;
        }
        if can_receive_large {
            let mut large = socket.large.take().expect("just seen");
            let len_max = large.missing().min(arriving);
            let len = if self.random.chance(50) { len_max } else { self.random.below(len_max + 1) };
            large.buffer().extend_from_slice(client.deliver(len));
            at.engine.large_received(place, large, &at.buffers);
            match has_ended {
                true => at.engine.end_of_input(place),
                false => at.exhausted.push(place),
            }
            return true;
        }
        if socket.receiving == Receiving::Stopping && (!has_bytes || self.random.chance(50)) {
            socket.receiving = Receiving::Idle;
            self.steer_input(core, place);
            return true;
        }
        if has_ended {
            socket.receiving = Receiving::Idle;
            at.engine.end_of_input(place);
            return true;
        }
        if self.random.chance(3) {
            socket.receiving = Receiving::Idle;
            at.exhausted.push(place);
            return true;
        }
        let len_max = match self.random.below(4) {
            0 => 3,
            1 => 100,
            _ => limits::RECV_BUFFER_BYTES,
        };
        let len = 1 + self.random.below(arriving.min(len_max));
        let buffer = at.buffers.0.len();
        at.buffers.0.push(client.deliver(len).to_vec());
        at.engine.receive(place, buffer as u16, &at.buffers);
        let stops = at
            .engine
            .connection(place)
            .is_some_and(|connection| connection.large_missing() >= self.bounds.direct_receive_bytes_min);
        let socket = &mut at.sockets[place as usize];
        if stops && socket.receiving == Receiving::Armed {
            socket.receiving = Receiving::Stopping;
        }
        true
    }

    pub(super) fn has_socket_events(&self, core: usize) -> bool {
        self.cores[core].sockets.iter().any(|socket| {
            let Some(client) = socket.client.map(|client| &self.clients[client]) else { return false };
            let has_input = !client.arriving().is_empty() || client.has_ended();
            client.breaks_now()
                || socket.sending.is_some() && client.reads
                || socket.large.is_some() && has_input
                || socket.receiving == Receiving::Stopping
                || socket.receiving == Receiving::Armed && has_input
        })
    }
}
