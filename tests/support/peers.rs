//! Other servers to compare with, started by the tests that need them and ended with them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Says why a test does nothing here, or fails if the environment promises that nothing is missing.
pub fn skip(test: &str, reason: &str) {
    println!("skipped {test}: {reason}");
    eprintln!("skipped {test}: {reason}");
    assert!(
        std::env::var_os("CRABCACHE_REQUIRE_CLIENTS").is_none(),
        "CRABCACHE_REQUIRE_CLIENTS is set, so {test} must not be skipped: {reason}"
    );
}

/// Whether `program` can be started.
pub fn installed(program: &str) -> bool {
    let probe = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

/// A port of the loopback address that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind to any port");
    listener.local_addr().expect("address").port()
}

/// A redis-server without persistence, with one database, on a port of its own.
pub struct Redis {
    child: Child,
    pub address: SocketAddr,
}

impl Redis {
    /// `None` if redis-server is not installed.
    pub fn start() -> Option<Redis> {
        if !installed("redis-server") {
            return None;
        }
        // Somebody else may take the free port before the server does.
        (0..5).find_map(|_| Redis::start_on(free_port()))
    }

    fn start_on(port: u16) -> Option<Redis> {
        let port_text = port.to_string();
        #[rustfmt::skip]
        let arguments = [
            "--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--databases", "16",
            "--logfile", "", "--dir", "/tmp",
        ];
        let mut child = Command::new("redis-server")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start redis-server");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if child.try_wait().expect("state of redis-server").is_some() {
                return None;
            }
            if TcpStream::connect(address).is_ok() {
                return Some(Redis { child, address });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
