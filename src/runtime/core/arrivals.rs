//! Clients that come: who is let in.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::warn;

use super::Core;
use super::filters::Beginning;
use crate::engine::Peer;
use crate::engine::clients::Address;
use crate::engine::notices::Notice;
use crate::runtime::sockets;

/// A socket to accept on.
pub(super) struct Listener {
    pub(super) socket: OwnedFd,
    /// Whether it is the core's own port.
    pub(super) own_port: bool,
    pub(super) beginning: Beginning,
    /// Path, for Unix sockets.
    pub(super) unix_path: Option<Arc<str>>,
}

impl Core {
    pub(super) fn accepted(&mut self, listener: u32, socket: OwnedFd) {
        if self.draining.is_some() {
            return;
        }
        let (peer, local) = match &self.listeners[listener as usize].unix_path {
            Some(_) => (None, None),
            None => sockets::addresses(socket.as_fd()),
        };
        let behind_proxy = peer.is_some_and(|peer| self.proxies.iter().any(|network| network.contains(peer.ip())));
        if let Some(peer) = peer
            && !behind_proxy
        {
            if !self.allowlist.is_empty() && !self.allowlist.admits(peer.ip()) {
                self.engine.counters.connections_refused_by_address += 1;
                let client = peer.to_string();
                self.engine
                    .note(|| Notice::Refused { client, why: "its address is not allowed (--allow, --deny)".into() });
                return;
            }
            if self.engine.is_flooded_by(peer.ip()) {
                sockets::reset(&socket);
                let client = peer.ip().to_string();
                self.engine.note(|| Notice::Refused { client, why: "too many connections of its address".into() });
                return;
            }
        }
        if self.shared.clients.fetch_add(1, Ordering::Relaxed) >= self.shared.clients_max {
            self.shared.clients.fetch_sub(1, Ordering::Relaxed);
            self.engine.counters.connections_refused += 1;
            sockets::refuse(&socket);
            let clients_max = self.shared.clients_max;
            warn!("a client is refused: there are {clients_max} already, as many as there may be (--max-clients)");
            return;
        }
        let listener = &self.listeners[listener as usize];
        let (address, local_address) = match &listener.unix_path {
            Some(path) => (Address::Unix(path.clone()), Address::Unix(path.clone())),
            None => {
                let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
                (Address::Tcp(peer.unwrap_or(unknown)), Address::Tcp(local.unwrap_or(unknown)))
            }
        };
        let peer = Peer {
            address,
            local_address,
            descriptor: socket.as_raw_fd(),
            own_port: listener.own_port,
            is_trusted: false,
        };
        let beginning = listener.beginning;
        let index = self.ring.add_socket(socket);
        self.engine.open(index, peer);
        if behind_proxy || beginning != Beginning::Plain {
            self.begin_filter(index, behind_proxy, beginning);
        }
    }

    /// Clients of this process itself: beyond the bound of clients, because an operator has to get in when it is reached.
    pub(super) fn welcome_invited(&mut self) {
        for client in self.shared.take_invited() {
            self.shared.clients.fetch_add(1, Ordering::Relaxed);
            let address = Address::Unix("admin".into());
            let descriptor = client.as_raw_fd();
            let index = self.ring.add_socket(client.into());
            self.engine.open(
                index,
                Peer {
                    address: address.clone(),
                    local_address: address,
                    descriptor,
                    own_port: false,
                    is_trusted: true,
                },
            );
        }
    }
}
