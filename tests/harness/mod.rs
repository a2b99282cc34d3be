//! Starts the built server for a test: on ports of its own, killed by its process id when dropped, its
//! standard error kept. Test processes may run side by side: a port block belongs to the process that
//! holds the lock of its file in the temporary directory.
//!
//! ```ignore
//! mod harness;
//! let server = harness::Server::start(&["--cores", "2"]);
//! let mut client = server.connect();
//! …
//! assert!(server.stop().success());
//! ```
#![allow(dead_code)] // every test binary compiles this file and uses a part of it

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// Longest a server may take to listen, or to end, before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How many cores a server may have whose ports come from a [`Ports`].
pub const CORES_MAX: u16 = 16;

/// A data port and, 100 above it, [`CORES_MAX`] ports for the cores: all free when taken, and not given to
/// any other test while this lives.
///
/// ```text
///   zone of 200 ports    |p0 p16 p32 p48 p64 p80      |p0+100 p16+100 …            |
///                         data ports, 16 apart          core ports, 100 above
/// ```
pub struct Ports {
    data: u16,
    _lock: File,
}

impl Ports {
    /// Below the range that the kernel gives to outgoing connections.
    const ZONES: std::ops::Range<u16> = 100..163;
    const ZONE_PORTS: u16 = 200;
    const DATA_PORTS: u16 = 6;
    pub const CORE_OFFSET: u16 = 100;

    pub fn take() -> Ports {
        let folder = lock_folder();
        let blocks = (Self::ZONES.end - Self::ZONES.start) * Self::DATA_PORTS;
        // Spread the first choice, so that a port is rarely used again right away.
        let first = std::process::id().wrapping_mul(31).wrapping_add(Instant::now().elapsed().subsec_nanos());
        for step in 0..blocks {
            let block = ((first as u64 + step as u64) % blocks as u64) as u16;
            let zone = Self::ZONES.start + block / Self::DATA_PORTS;
            let data = zone * Self::ZONE_PORTS + block % Self::DATA_PORTS * CORES_MAX;
            let path = folder.join(format!("{data}.lock"));
            let lock = File::options().create(true).append(true).open(path).expect("a lock file for a test port");
            if lock.try_lock().is_ok() && Self::all_free(data) {
                return Ports { data, _lock: lock };
            }
        }
        panic!("none of {blocks} blocks of test ports is free");
    }

    fn all_free(data: u16) -> bool {
        let cores = data + Self::CORE_OFFSET;
        std::iter::once(data)
            .chain(cores..cores + CORES_MAX)
            .all(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok())
    }

    pub fn data(&self) -> u16 {
        self.data
    }

    pub fn core(&self, index: u16) -> u16 {
        assert!(index < CORES_MAX);
        self.data + Self::CORE_OFFSET + index
    }
}

/// What a process wrote to one of its streams so far.
struct Captured {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Captured {
    fn from(mut stream: impl Read + Send + 'static) -> Captured {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = text.clone();
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            loop {
                match stream.read(&mut piece) {
                    Ok(0) | Err(_) => return,
                    Ok(len) => sink.lock().unwrap().extend_from_slice(&piece[..len]),
                }
            }
        });
        Captured { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// All of it; the process must have ended.
    fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.text()
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Exit {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Exit {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Keeps, for as long as it lives, this system from changing whether it allows io_uring: shared by whoever
/// starts a server, exclusive for the test that changes it. It reaches over all test processes.
///
/// Both kinds pass a gate first, and whoever waits to be exclusive stands in it: otherwise test processes
/// that start one server after the other would keep that one waiting for ever.
pub struct IoUringHold(#[allow(dead_code)] File);

impl IoUringHold {
    pub fn shared() -> IoUringHold {
        Self::take(File::lock_shared)
    }

    pub fn exclusive() -> IoUringHold {
        Self::take(File::lock)
    }

    fn take(lock: fn(&File) -> std::io::Result<()>) -> IoUringHold {
        let open = |name: &str| {
            let path = lock_folder().join(name);
            File::options().create(true).append(true).open(path).expect("a lock file")
        };
        let (gate, hold) = (open("io_uring-gate.lock"), open("io_uring.lock"));
        gate.lock().expect("a lock");
        lock(&hold).expect("a lock");
        IoUringHold(hold)
    }
}

fn lock_folder() -> PathBuf {
    let folder = std::env::temp_dir().join("crabcache-test-locks");
    fs::create_dir_all(&folder).expect("a folder for the locks of tests");
    folder
}

/// The server's binary with nothing of the test's environment that it would read.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crabcache"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CRABCACHE_") {
            command.env_remove(name);
        }
    }
    // Test processes run side by side, and there is one default port.
    command.env("CRABCACHE_ADMIN_PORT", "off");
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs a server that is expected to end by itself: with a refusal, `--help`, …
pub fn run_to_end(command: Command) -> Exit {
    let _hold = IoUringHold::shared();
    run_to_end_under(command)
}

/// [`run_to_end`] for whoever holds io_uring exclusively.
pub fn run_to_end_under(mut command: Command) -> Exit {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the server starts");
    let mut stdout = Captured::from(child.stdout.take().unwrap());
    let mut stderr = Captured::from(child.stderr.take().unwrap());
    let Some(status) = wait(&mut child, PATIENCE) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("the server did not end:\n{}", stderr.whole());
    };
    let elapsed = started.elapsed();
    Exit { status, stdout: stdout.whole(), stderr: stderr.whole(), elapsed }
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A running server.
pub struct Server {
    child: Child,
    port: u16,
    ports: Option<Ports>,
    stderr: Captured,
}

impl Server {
    /// Starts the server and returns when it is ready. Its port is chosen here unless `args` has `--port`.
    pub fn start(args: &[&str]) -> Server {
        Server::start_with(args, |_| {})
    }

    /// [`Server::start`], with a say in environment, limits and the like.
    pub fn start_with(args: &[&str], configure: impl Fn(&mut Command)) -> Server {
        let given = args.iter().position(|&arg| arg == "--port").map(|at| args[at + 1].parse().expect("a port"));
        // At lower log levels it does not say when it is ready; then listening must do.
        let says_ready = !args.contains(&"--log-level");
        let _hold = IoUringHold::shared();
        // Somebody outside of these tests may take a port between our look at it and the server's bind.
        for attempt in 1.. {
            let ports = given.is_none().then(Ports::take);
            let port = given.or(ports.as_ref().map(Ports::data)).unwrap();
            let mut command = command(args);
            if ports.is_some() {
                command.args(["--port", &port.to_string()]);
            }
            configure(&mut command);
            let mut server = Server::spawn(command);
            (server.port, server.ports) = (port, ports);
            match server.until_ready(says_ready) {
                Ok(()) => return server,
                Err(problem) if given.is_none() && attempt < 5 && problem.contains("already in use") => continue,
                Err(problem) => panic!("{problem}"),
            }
        }
        unreachable!("the last attempt panics")
    }

    /// Starts any process that logs to standard error, without waiting for anything.
    pub fn spawn(mut command: Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the server starts");
        let stderr = Captured::from(child.stderr.take().unwrap());
        Server { child, port: 0, ports: None, stderr }
    }

    fn until_ready(&mut self, says_ready: bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if says_ready && ["INFO ready\n", "\"message\":\"ready\""].iter().any(|ready| log.contains(ready)) {
                return Ok(());
            }
            if !says_ready && self.is_listening()? {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Err(format!("the server ended with {status}:\n{}", self.stderr.whole()));
            }
            if Instant::now() >= deadline {
                return Err(format!("the server is not ready on {}:\n{}", self.address(), self.log()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn is_listening(&self) -> Result<bool, String> {
        match TcpStream::connect(self.address()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(false),
            Err(error) => Err(format!("connecting to {}: {error}", self.address())),
        }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The shared data port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of one core's own (by the default offset).
    pub fn core_port(&self, index: u16) -> u16 {
        self.port + Ports::CORE_OFFSET + index
    }

    pub fn connect(&self) -> TcpStream {
        Self::connect_to(self.port)
    }

    /// A connection to the port of one core's own.
    pub fn connect_core(&self, index: u16) -> TcpStream {
        Self::connect_to(self.core_port(index))
    }

    /// A connection whose reads give up in the end, so that no test hangs.
    fn connect_to(port: u16) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server accepts");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.child.id() as i32), signal).expect("the server runs");
    }

    /// What the server wrote to standard error so far.
    pub fn log(&self) -> String {
        self.stderr.text()
    }

    /// Waits until the log has `text`.
    pub fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "the log never had {text:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks the server to end (SIGTERM) and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait().status
    }

    /// Whether the server still runs after `duration`.
    pub fn is_running_for(&mut self, duration: Duration) -> bool {
        wait(&mut self.child, duration).is_none()
    }

    /// Waits until the server has ended by itself or by a signal that was sent before.
    pub fn wait(&mut self) -> Exit {
        let started = Instant::now();
        let Some(status) = wait(&mut self.child, PATIENCE) else {
            panic!("the server did not end:\n{}", self.log());
        };
        let elapsed = started.elapsed();
        Exit { status, stdout: String::new(), stderr: self.stderr.whole(), elapsed }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both do nothing to a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the server on port {} ---\n{}", self.port, self.log());
        }
    }
}
