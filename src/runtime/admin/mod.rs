//! The admin HTTP: one thread of its own, so that no core ever waits for it. It asks the engine as any client does, over a
//! socket pair that core 0 serves ([`gateway`]); what is said on HTTP is pure and stands in [`crate::admin`].
//!
//! ```text
//!   browser, Prometheus ─▶ listener ─▶ Client (sans-IO requests) ─▶ answers ─▶ gateway ═ RESP ═▶ core 0
//!                              └──────────── one poll(2) for all ────────────┘
//! ```

mod admission;
mod answers;
mod client;
mod gateway;
pub mod probe;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{error, info, warn};

use super::core::Shared;
use super::doorbell::Doorbell;
use super::refusal::Refusal;
use super::signals::Shutdown;
use crate::allowlist::Allowlist;
use crate::config::{Config, Store};
use crate::engine::commons::Commons;
use crate::limits::{ADMIN_BUFFERED_BYTES_MAX, ADMIN_CLIENTS_MAX};
use admission::Admission;
use answers::Answers;
use client::{Client, Progress};
use gateway::Gateway;

/// Longest the thread waits: bounds how late it sees that the server ends.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// Requests of one client before others have their turn.
const REQUESTS_PER_TURN: usize = 16;
const EVENTS_EVERY: Duration = Duration::from_secs(1);
/// How long accepting rests when there are no descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The listeners, taken before the cores start. A port that nobody asked for may be in use: then there is no admin HTTP.
pub fn listen(config: &Config) -> Result<Vec<TcpListener>, Refusal> {
    let Some(port) = config.admin_port else { return Ok(Vec::new()) };
    let mut listeners: Vec<TcpListener> = Vec::new();
    for &ip in &config.admin_bind {
        // Of any free port the first one found is taken on every address.
        let port = listeners.first().and_then(|first| first.local_addr().ok()).map_or(port, |address| address.port());
        let address = SocketAddr::new(ip, port);
        match TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener)) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && !config.is_given("admin-port") => {
                warn!("{address} is in use: there is no admin HTTP (set --admin-port, or --admin-port off)");
                return Ok(Vec::new());
            }
            Err(error) => {
                return Err(Refusal::Failed(format!(
                    "the admin HTTP cannot listen on {address}: {error} (--admin-port)"
                )));
            }
        }
    }
    Ok(listeners)
}

/// What the thread works with.
pub struct Parts {
    pub listeners: Vec<TcpListener>,
    pub shared: Arc<Shared>,
    pub doorbells: Arc<[Doorbell]>,
    pub shutdown: Arc<Shutdown>,
    pub store: Arc<Store>,
    pub commons: Arc<Commons>,
    pub started: Instant,
}

static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Connections and requests refused since the start: for their address, their secret, or because they were too many.
pub fn refused() -> u64 {
    REFUSED.load(Ordering::Relaxed)
}

fn count_refusal() {
    REFUSED.fetch_add(1, Ordering::Relaxed);
}

/// Starts the thread, if there is anything to listen on. It ends with the process.
pub fn start(parts: Parts) {
    if parts.listeners.is_empty() {
        return;
    }
    let addresses: Vec<String> = parts
        .listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .map(|at| format!("http://{at}"))
        .collect();
    info!("admin on {}", addresses.join(", "));
    if let Err(error) = std::thread::Builder::new().name("admin".into()).spawn(move || serve(parts)) {
        error!("the thread of the admin HTTP cannot be started: {error}");
    }
}

fn serve(parts: Parts) {
    let Parts { listeners, shared, doorbells, shutdown, store, commons, started } = parts;
    let gateway = Gateway::new(shared.clone(), doorbells);
    let admission = Admission::new(store.clone(), commons, started);
    let mut answers = Answers::new(gateway, shared, shutdown.clone(), store.clone(), admission, started);
    let mut access = store.access();
    let mut clients: Vec<Client> = Vec::new();
    let mut accept_from = Instant::now();
    let mut events_at = Instant::now();
    // Somebody may have whole requests left.
    let mut is_behind = false;
    while !shutdown.is_requested() {
        let now = Instant::now();
        let accepting = now >= accept_from;
        let patience = if std::mem::take(&mut is_behind) { Duration::ZERO } else { WAIT_MAX };
        let ready = match wait(&listeners, accepting, &clients, patience) {
            Ok(ready) => ready,
            Err(error) => {
                error!("the admin HTTP ends: {error}");
                return;
            }
        };
        if accepting {
            for listener in &listeners {
                accept_from = accept(listener, &mut clients, &store.allowlist()).unwrap_or(accept_from);
            }
        }
        let now = Instant::now();
        for (client, ready) in clients.iter_mut().zip(ready) {
            if ready {
                client.receive(now);
            }
            for turn in 1.. {
                let Progress::Request(request) = client.next_request(answers.body_bytes_max()) else { break };
                let answer = answers.answer(&request, client.peer);
                client.answer(&request, answer, now);
                if turn == REQUESTS_PER_TURN {
                    is_behind = true;
                    break;
                }
            }
        }
        if now >= events_at {
            events_at = now + EVENTS_EVERY;
            if clients.iter().any(Client::wants_events) {
                let event = answers.event();
                clients.iter_mut().filter(|client| client.wants_events()).for_each(|client| client.push_event(&event));
            }
            answers.rest(now);
            // Whoever listens has shown his token long ago: he has to show it again where tokens have changed.
            let access_now = store.access();
            if access_now.tokens() != access.tokens() {
                access = access_now;
                clients.iter_mut().filter(|client| client.wants_events()).for_each(Client::abandon);
            }
        }
        bound_buffers(&mut clients);
        clients.iter_mut().for_each(|client| client.send(now));
        clients.retain(|client| !client.is_over(now));
    }
}

/// Waits until somebody has something to say or can take more. Which clients can be read from.
fn wait(listeners: &[TcpListener], accepting: bool, clients: &[Client], patience: Duration) -> io::Result<Vec<bool>> {
    let mut fds: Vec<PollFd> = Vec::with_capacity(clients.len() + listeners.len());
    for client in clients {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, client.wants_input());
        flags.set(PollFlags::POLLOUT, client.has_output());
        fds.push(PollFd::new(client.stream.as_fd(), flags));
    }
    if accepting {
        fds.extend(listeners.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
    }
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
    Ok(fds[..clients.len()].iter().map(|fd| fd.revents().is_some_and(|events| events.intersects(readable))).collect())
}

/// Takes whoever is there. When to try again, if accepting failed.
fn accept(listener: &TcpListener, clients: &mut Vec<Client>, allowlist: &Allowlist) -> Option<Instant> {
    for _ in 0..ADMIN_CLIENTS_MAX {
        match listener.accept() {
            Ok((stream, peer)) => {
                let peer = peer.ip().to_canonical();
                if !lets_in(peer, allowlist) {
                    count_refusal();
                    info!("client {peer} of the admin HTTP is refused: its address is not allowed (--allow, --deny)");
                    continue;
                }
                match Client::new(stream, peer, Instant::now()) {
                    Ok(client) => clients.push(client),
                    Err(error) => warn!("a client of the admin HTTP is lost: {error}"),
                }
                if clients.len() > ADMIN_CLIENTS_MAX {
                    make_room(clients);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            // Gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!("the admin HTTP cannot accept: {error}");
                return Some(Instant::now() + ACCEPT_REST);
            }
        }
    }
    None
}

/// Whoever asks from this machine itself is let in, so that no list silences the health checks.
fn lets_in(peer: IpAddr, allowlist: &Allowlist) -> bool {
    peer.is_loopback() || allowlist.admits(peer)
}

/// Whoever has been silent for longest goes: silent clients must not keep a health check waiting.
fn make_room(clients: &mut Vec<Client>) {
    let silent = clients.iter().enumerate().min_by_key(|(_, client)| client.last_progress()).map(|(index, _)| index);
    if let Some(index) = silent {
        count_refusal();
        let client = clients.swap_remove(index);
        warn!("the admin HTTP has {ADMIN_CLIENTS_MAX} clients: the one of {} is closed for the next", client.peer);
    }
}

/// All clients together hold no more than their bound: whoever holds most goes.
fn bound_buffers(clients: &mut [Client]) {
    while clients.iter().map(Client::buffered_bytes).sum::<usize>() > ADMIN_BUFFERED_BYTES_MAX {
        let Some(largest) = clients.iter_mut().max_by_key(|client| client.buffered_bytes()) else { return };
        warn!("the admin HTTP holds too much: {} is closed", largest.peer);
        largest.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowlist::Network;

    #[test]
    fn the_lists_hold_here_but_for_this_machine() {
        let networks = |all: &[&str]| all.iter().map(|one| Network::parse(one).unwrap()).collect();
        let allowlist = Allowlist { allow: networks(&["10.0.0.0/8"]), deny: networks(&["10.6.0.0/16", "127.0.0.0/8"]) };
        for (peer, is_let_in) in [
            ("10.1.2.3", true),
            ("10.6.2.3", false),
            ("192.0.2.7", false),
            ("::ffff:10.1.2.3", true),
            ("2001:db8::1", false),
            ("127.0.0.1", true),
            ("::1", true),
        ] {
            let peer: IpAddr = peer.parse().unwrap();
            assert_eq!(lets_in(peer.to_canonical(), &allowlist), is_let_in, "{peer}");
        }
        assert!(lets_in("2001:db8::1".parse().unwrap(), &Allowlist::default()));
    }
}
