//! Listeners: taken before the cores start, handed to them one set each.
//!
//! ```text
//!                    core 0          core 1          core n
//!   data port        listener        listener        listener      SO_REUSEPORT: the kernel spreads clients
//!   core's port      listener :7101  listener :7102  …             one each, exclusive
//!   unix socket      duplicate       duplicate       duplicate     one socket, see below
//! ```
//!
//! The first listener of the data port is bound and set to listen *without* SO_REUSEPORT, which the kernel
//! allows to one process only, and joins the group afterwards. So a second server cannot slip into a
//! running one's group, not even when both start at the same moment.
//!
//! All cores share the one unix socket. A multishot accept would stay first in the socket's line of
//! waiters for ever and get every client; each core must accept **one shot at a time**, which puts it back
//! at the end of the line.
//!
//! The sockets are in blocking mode, because the ring that accepts on them would get EAGAIN otherwise.
//! What is set on them (no delay, keep-alive) passes on to accepted connections.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tracing::debug;

use super::port_owner::{self, Holder};
use super::refusal::Refusal;
use crate::config::{Config, TlsPort, UnixSocket};

/// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
pub const BACKLOG: i32 = 65_535;
/// A client that is gone without a word is noticed after this and a few more seconds.
pub const KEEPALIVE: Duration = Duration::from_secs(300);
/// With any free port on several addresses: how often to try another one.
const FREE_PORT_ATTEMPTS: usize = 20;

/// The listeners of one core.
#[derive(Debug, Default)]
pub struct CoreListeners {
    /// The data port, once per address: foreign keys are forwarded. Empty where TLS alone is spoken.
    pub shared: Vec<OwnedFd>,
    /// The port of this core's own, once per address: foreign keys are answered with MOVED. Empty without a
    /// cluster.
    pub own: Vec<OwnedFd>,
    /// The port of TLS, once per address. Empty without one.
    pub tls: Vec<OwnedFd>,
    /// To be accepted from one shot at a time.
    pub unix: Option<OwnedFd>,
}

/// Where the server can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub bind: Vec<IpAddr>,
    /// The data port; none where TLS alone is spoken.
    pub port: Option<u16>,
    /// The port of each core; empty without a cluster.
    pub core_ports: Vec<u16>,
    pub unix_socket: Option<PathBuf>,
    /// The port of TLS, where it has its own.
    pub tls_port: Option<u16>,
}

/// All listeners of the server.
#[derive(Debug)]
pub struct Listeners {
    pub addresses: Addresses,
    pub per_core: Vec<CoreListeners>,
    /// Takes the path away again when the server ends.
    pub unix_socket_file: Option<UnixSocketFile>,
}

/// Takes every port and the unix socket. `core_ports` has a port for each core (0: any free one), or is
/// empty.
pub fn open(config: &Config, cores: usize, core_ports: &[u16]) -> Result<Listeners, Refusal> {
    let mut addresses = Addresses {
        bind: config.bind.clone(),
        port: None,
        core_ports: Vec::with_capacity(core_ports.len()),
        unix_socket: config.unix_socket.clone(),
        tls_port: None,
    };
    let mut per_core: Vec<CoreListeners> = (0..cores).map(|_| CoreListeners::default()).collect();
    if let Some(wanted) = config.data_port() {
        let (port, sockets) = claim_shared_port(&config.bind, wanted, "--port", cores)?;
        addresses.port = Some(port);
        per_core.iter_mut().zip(sockets).for_each(|(core, sockets)| core.shared = sockets);
    }
    for (core, &wanted) in per_core.iter_mut().zip(core_ports) {
        let (port, own) = claim_port(&config.bind, wanted, "--core-port-base")?;
        addresses.core_ports.push(port);
        core.own = own.into_iter().map(OwnedFd::from).collect();
    }
    if let TlsPort::Own(wanted) = config.tls_port {
        let (port, sockets) = claim_shared_port(&config.bind, wanted, "--tls-port", cores)?;
        addresses.tls_port = Some(port);
        per_core.iter_mut().zip(sockets).for_each(|(core, sockets)| core.tls = sockets);
    }
    let mut unix_socket_file = None;
    if let Some(unix) = &config.unix_socket() {
        let (socket, file) = open_unix(unix)?;
        unix_socket_file = Some(file);
        for core in &mut per_core {
            let duplicate = socket.try_clone().map_err(|error| failed(&unix.path.display(), "duplicating", error))?;
            core.unix = Some(duplicate.into());
        }
    }
    Ok(Listeners { addresses, per_core, unix_socket_file })
}

/// A port that all cores listen on, with the sockets of each core, one per address. Taken by the first so that nobody else
/// listens there; those of the others join it.
fn claim_shared_port(
    bind: &[IpAddr],
    wanted: u16,
    flag: &'static str,
    cores: usize,
) -> Result<(u16, Vec<Vec<OwnedFd>>), Refusal> {
    let (port, first) = claim_port(bind, wanted, flag)?;
    for socket in &first {
        socket.set_reuse_port(true).map_err(|error| failed(&format!("port {port}"), "sharing", error))?;
    }
    let mut sockets = vec![first.into_iter().map(OwnedFd::from).collect()];
    for _ in 1..cores {
        let join = |&ip| {
            let address = SocketAddr::new(ip, port);
            listener(address, true).map(OwnedFd::from).map_err(|error| explain_bind(address, flag, error))
        };
        sockets.push(bind.iter().map(join).collect::<Result<_, _>>()?);
    }
    Ok((port, sockets))
}

/// One exclusive listener per address, all on the same port: `wanted`, or any that is free for 0.
fn claim_port(bind: &[IpAddr], wanted: u16, flag: &'static str) -> Result<(u16, Vec<Socket>), Refusal> {
    let mut attempts = 0;
    loop {
        let mut port = wanted;
        let mut sockets = Vec::with_capacity(bind.len());
        let mut claim = || -> Result<(), (SocketAddr, io::Error)> {
            for &ip in bind {
                let address = SocketAddr::new(ip, port);
                let socket = listener(address, false).map_err(|error| (address, error))?;
                let local = socket.local_addr().map_err(|error| (address, error))?;
                port = local.as_socket().map_or(port, |local| local.port());
                sockets.push(socket);
            }
            Ok(())
        };
        match claim() {
            Ok(()) => return Ok((port, sockets)),
            // The port was free on the first address only; another one may be free on all.
            Err((_, error)) if wanted == 0 && error.kind() == ErrorKind::AddrInUse && attempts < FREE_PORT_ATTEMPTS => {
                attempts += 1;
            }
            Err((address, error)) => return Err(explain_bind(address, flag, error)),
        }
    }
}

fn listener(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier server that linger in TIME_WAIT do not keep the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn explain_bind(address: SocketAddr, flag: &str, error: io::Error) -> Refusal {
    let text = match error.kind() {
        ErrorKind::AddrInUse => {
            let port = address.port();
            match port_owner::find(port) {
                Holder::Listener(owner) => {
                    format!("{address} is already in use by {owner}: stop that server, or choose another {flag}")
                }
                Holder::UnseenListener => {
                    format!(
                        "{address} is already in use by a server of another user: stop it, or choose another {flag}"
                    )
                }
                Holder::Connection => format!(
                    "{address} is already in use by a connection to somewhere else, whose port the system chose: \
                     choose another {flag}, or keep the port free with net.ipv4.ip_local_reserved_ports={port}"
                ),
            }
        }
        ErrorKind::AddrNotAvailable => {
            format!("{} is no address of this machine: change --bind (ip address lists them)", address.ip())
        }
        ErrorKind::PermissionDenied => format!(
            "{address} may not be used without CAP_NET_BIND_SERVICE ({error}): choose a higher {flag}, or set \
             AmbientCapabilities=CAP_NET_BIND_SERVICE or net.ipv4.ip_unprivileged_port_start"
        ),
        _ if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            format!("{} cannot be used, the kernel has no IPv6: remove it from --bind", address.ip())
        }
        // A link-local address needs to say by which interface, which an address of --bind cannot.
        _ if matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()) => {
            format!("{} is good on one link only ({error}): use another address in --bind", address.ip())
        }
        _ => format!("listening on {address} (--bind, {flag}) fails: {error}"),
    };
    Refusal::Failed(text)
}

fn failed(what: &dyn fmt::Display, doing: &str, error: io::Error) -> Refusal {
    Refusal::Failed(format!("{doing} {what} fails: {error}"))
}

/// The path of a unix socket that this process has made.
#[derive(Debug)]
pub struct UnixSocketFile {
    path: PathBuf,
    /// Device and inode: the path may be somebody else's by the time it is removed.
    identity: (u64, u64),
}

impl Drop for UnixSocketFile {
    fn drop(&mut self) {
        let identity = fs::symlink_metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if identity.is_ok_and(|identity| identity == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            debug!("{} stays behind: {error}", self.path.display());
        }
    }
}

fn open_unix(unix: &UnixSocket) -> Result<(Socket, UnixSocketFile), Refusal> {
    let shown = unix.path.display();
    match fs::symlink_metadata(&unix.path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&shown, "looking at", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Refusal::Failed(format!(
                "{shown} exists and is no socket: move it away or choose another --unix-socket"
            )));
        }
        Ok(_) => match answers(unix) {
            Ok(true) => {
                return Err(Refusal::Failed(format!(
                    "{shown} is already in use by a running server: stop it, or choose another --unix-socket"
                )));
            }
            // Left behind by a server that could not clean up.
            Ok(false) => {
                fs::remove_file(&unix.path).map_err(|error| failed(&shown, "removing the stale", error))?;
            }
            Err(error) => return Err(failed(&shown, "asking who listens on", error)),
        },
    }
    let open = || -> io::Result<(Socket, UnixSocketFile)> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        socket.bind(&SockAddr::unix(&unix.path)?)?;
        let made = fs::symlink_metadata(&unix.path)?;
        let file = UnixSocketFile { path: unix.path.clone(), identity: (made.dev(), made.ino()) };
        // Nobody can connect before `listen`, so there is no moment with wrong permissions.
        fs::set_permissions(&unix.path, fs::Permissions::from_mode(unix.mode))?;
        socket.listen(BACKLOG)?;
        Ok((socket, file))
    };
    open().map_err(|error| {
        Refusal::Failed(match error.kind() {
            ErrorKind::NotFound => {
                format!("the folder of --unix-socket {shown} does not exist: make it, or choose another")
            }
            ErrorKind::PermissionDenied => {
                format!("--unix-socket {shown} may not be made there: give this user the folder, or choose another")
            }
            ErrorKind::InvalidInput => format!("--unix-socket {shown} is too long: the kernel takes 107 bytes"),
            _ => format!("listening on --unix-socket {shown} fails: {error}"),
        })
    })
}

/// Whether somebody listens there, be it with a full backlog.
fn answers(unix: &UnixSocket) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(&unix.path)?) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Barrier;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn config() -> Config {
        Config { port: 0, ..Config::default() }
    }

    fn accepted(listener: &OwnedFd) -> usize {
        let listener = TcpListener::from(listener.try_clone().unwrap());
        listener.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| listener.accept().ok()).count()
    }

    #[test]
    fn the_kernel_spreads_clients_over_the_listeners_of_the_data_port() {
        let listeners = open(&config(), 4, &[0; 4]).unwrap();
        let clients: Vec<TcpStream> =
            (0..200).map(|_| TcpStream::connect((LOOPBACK, listeners.addresses.port.unwrap())).unwrap()).collect();
        let counts: Vec<usize> = listeners.per_core.iter().map(|core| accepted(&core.shared[0])).collect();
        assert_eq!(counts.iter().sum::<usize>(), clients.len());
        // Each of 200 goes to one of four by hash: under 15 for one of them has a chance of one in 10^11.
        assert!(counts.iter().all(|&count| count >= 15), "{counts:?}");
    }

    #[test]
    fn each_core_has_a_port_of_its_own_that_nobody_joins() {
        let listeners = open(&config(), 2, &[0; 2]).unwrap();
        for (core, &port) in listeners.per_core.iter().zip(&listeners.addresses.core_ports) {
            let _client = TcpStream::connect((LOOPBACK, port)).unwrap();
            assert_eq!(accepted(&core.own[0]), 1);
            assert!(listener(SocketAddr::new(LOOPBACK, port), true).is_err());
        }
        assert!(open(&config(), 2, &[]).unwrap().per_core.iter().all(|core| core.own.is_empty()));
    }

    #[test]
    fn two_servers_that_start_at_once_never_share_a_port() {
        let mut started = 0;
        for _ in 0..100 {
            let free = TcpListener::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap().port();
            let start = Barrier::new(2);
            let attempt = || {
                start.wait();
                open(&Config { port: free, ..config() }, 3, &[])
            };
            let (one, other) = std::thread::scope(|scope| {
                let other = scope.spawn(attempt);
                (attempt(), other.join().unwrap())
            });
            assert!(one.is_err() || other.is_err(), "both have port {free}");
            started += one.is_ok() as usize + other.is_ok() as usize;
        }
        assert!(started > 50, "only {started} of 100 pairs had a winner");
    }

    #[test]
    fn a_port_in_use_is_refused_and_its_owner_named() {
        let taken = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refusal = open(&Config { port, ..config() }, 1, &[]).unwrap_err();
        assert_eq!(refusal.exit_code(), 1);
        let text = refusal.to_string();
        assert!(text.contains(&format!("127.0.0.1:{port} is already in use by")), "{text}");
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        let refusal = open(&config(), 1, &[port]).unwrap_err();
        assert!(refusal.to_string().contains("--core-port-base"), "{refusal}");
    }

    #[test]
    fn a_port_of_a_running_server_is_refused_to_a_second_one() {
        let running = open(&config(), 2, &[]).unwrap();
        let port = running.addresses.port.unwrap();
        assert!(open(&Config { port, ..config() }, 2, &[]).is_err());
        drop(running);
        assert!(open(&Config { port, ..config() }, 2, &[]).is_ok());
    }

    #[test]
    fn one_port_serves_both_families() {
        let bind = vec![LOOPBACK, IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let listeners = match open(&Config { bind: bind.clone(), ..config() }, 2, &[0; 2]) {
            Ok(listeners) => listeners,
            Err(refusal) => return println!("skipped, no IPv6 here: {refusal}"),
        };
        for ip in bind {
            TcpStream::connect((ip, listeners.addresses.port.unwrap())).unwrap();
            TcpStream::connect((ip, listeners.addresses.core_ports[1])).unwrap();
        }
        assert_eq!(listeners.per_core[0].shared.len(), 2);
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let bind = vec!["192.0.2.1".parse().unwrap()];
        let refusal = open(&Config { bind, ..config() }, 1, &[]).unwrap_err();
        assert!(refusal.to_string().contains("192.0.2.1 is no address of this machine"), "{refusal}");
    }

    #[test]
    fn accepted_connections_inherit_no_delay_and_keepalive() {
        let listeners = open(&config(), 1, &[]).unwrap();
        let _client = TcpStream::connect((LOOPBACK, listeners.addresses.port.unwrap())).unwrap();
        let listener = TcpListener::from(listeners.per_core[0].shared[0].try_clone().unwrap());
        let accepted = Socket::from(listener.accept().unwrap().0);
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }

    fn socket_path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("crabcache-listen-{}-{name}.sock", std::process::id()))
    }

    fn with_socket(path: &std::path::Path) -> Config {
        Config { unix_socket: Some(path.into()), unix_socket_perm: 0o700, ..config() }
    }

    #[test]
    fn the_unix_socket_has_its_mode_and_goes_with_the_server() {
        let path = socket_path("mode");
        let listeners = open(&with_socket(&path), 2, &[]).unwrap();
        assert!(listeners.per_core.iter().all(|core| core.unix.is_some()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        UnixStream::connect(&path).unwrap();
        let refusal = open(&with_socket(&path), 1, &[]).unwrap_err();
        assert!(refusal.to_string().contains("already in use by a running server"), "{refusal}");
        assert!(path.exists());
        drop(listeners);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_anything_else_left_alone() {
        let path = socket_path("stale");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(open(&with_socket(&path), 1, &[]).unwrap());
        fs::write(&path, "precious").unwrap();
        let refusal = open(&with_socket(&path), 1, &[]).unwrap_err();
        assert!(refusal.to_string().contains("is no socket"), "{refusal}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        let refusal = open(&with_socket(&path.join("deeper")), 1, &[]).unwrap_err();
        assert_eq!(refusal.exit_code(), 1);
    }
}
