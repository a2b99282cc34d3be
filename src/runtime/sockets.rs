//! Plain system calls on accepted sockets, made when a client comes.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockRef;

/// The client's address and ours, as far as the system knows them.
pub fn addresses(socket: BorrowedFd<'_>) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let socket = SockRef::from(&socket);
    let address = |found: std::io::Result<socket2::SockAddr>| found.ok().and_then(|address| address.as_socket());
    (address(socket.peer_addr()), address(socket.local_addr()))
}

/// The connection, which is closed right after, ends with a reset, and leaves nothing behind here.
pub fn reset(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
}

/// Tells a client that there are too many, as Redis does. It is closed right after: whether it hears it
/// is up to the kernel.
pub fn refuse(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let _ = socket.set_nonblocking(true);
    let _ = socket.send(b"-ERR max number of clients reached\r\n");
}
