//! Servers to put load on, real ones and ones that misbehave, and the program under test.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Once;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// What a run of loadgen came to.
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

pub fn loadgen(words: &[&str]) -> Run {
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(words).output().expect("loadgen runs");
    finished(output, started)
}

pub fn finished(output: Output, started: Instant) -> Run {
    Run {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    }
}

impl Run {
    /// Fails the test, with everything that was printed, unless it ended well.
    pub fn succeeded(self) -> Run {
        assert_eq!(self.code, Some(0), "out: {}\nerr: {}", self.out, self.err);
        self
    }

    pub fn failed_with(self, code: i32, words: &[&str]) -> Run {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        self
    }
}

/// A free port, a hundred free ones behind it for a server's cores, and no port that clients are given.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) * 150 + std::process::id() * 7919;
        let port = 20_000 + (offset % 12_000) as u16;
        let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && (100..104).all(|offset| free(port + offset)) {
            return port;
        }
    }
}

/// A real server, ended with the test.
pub struct Server {
    child: Child,
    pub port: u16,
    pub directory: PathBuf,
}

impl Server {
    /// `{port}` and `{dir}` in the words are replaced.
    pub fn start(words: &[&str]) -> Server {
        let port = free_port();
        let directory = std::env::temp_dir().join(format!("loadgen-test-{}-{port}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let fill =
            |word: &&str| word.replace("{port}", &port.to_string()).replace("{dir}", directory.to_str().unwrap());
        let words: Vec<String> = words.iter().map(fill).collect();
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(&directory)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", words[0]));
        let mut server = Server { child, port, directory };
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "{words:?} ended");
            assert!(started.elapsed() < Duration::from_secs(20), "{words:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub fn redis(more: &[&str]) -> Server {
        let words = ["redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "", "--dir", "{dir}"];
        Server::start(&[&words[..], more].concat())
    }

    pub fn memcached() -> Server {
        let user = if Path::new("/root").metadata().is_ok_and(|_| is_root()) { "root" } else { "nobody" };
        Server::start(&["memcached", "-p", "{port}", "-l", "127.0.0.1", "-U", "0", "-u", user])
    }

    pub fn crabcache(more: &[&str]) -> Server {
        let program = crabcache();
        let words = [program.to_str().unwrap(), "--port", "{port}"];
        Server::start(&[&words[..], more].concat())
    }

    /// One inline command; all that comes back within a moment.
    pub fn ask(&self, line: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut reply = Vec::new();
        let mut chunk = [0; 65536];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            reply.extend_from_slice(&chunk[..count]);
        }
        String::from_utf8_lossy(&reply).into_owned()
    }

    pub fn port_text(&self) -> String {
        self.port.to_string()
    }
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("Uid:\t0"))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read(self.directory.join("log")).unwrap_or_default();
            eprintln!("the server ended with {status:?}; its log:\n{}", String::from_utf8_lossy(&log));
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The server of this workspace, built if it is not there: testing loadgen alone does not build it.
pub fn crabcache() -> PathBuf {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "crabcache", "--bin", "crabcache"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(status.success(), "crabcache does not build");
    });
    let mut path = PathBuf::from(env!("CARGO_BIN_EXE_loadgen"));
    path.set_file_name("crabcache");
    path
}

/// A server of our own making: `serve` handles each connection on a thread.
pub fn fake(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A fake that answers each RESP command by a function of its words.
pub fn fake_resp(answer: impl Fn(&[Vec<u8>]) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    fake(move |mut stream| {
        let mut input = Vec::new();
        let mut chunk = [0; 65536];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            input.extend_from_slice(&chunk[..count]);
            let mut out = Vec::new();
            while let Some((words, end)) = command(&input) {
                out.extend(answer(&words));
                input.drain(..end);
            }
            if stream.write_all(&out).is_err() {
                return;
            }
        }
    })
}

/// The first whole command of `input`, and where it ends.
fn command(input: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    fn number(input: &[u8], at: &mut usize) -> Option<usize> {
        let end = *at + input[*at..].windows(2).position(|pair| pair == b"\r\n")?;
        let digits = std::str::from_utf8(&input[*at + 1..end]).unwrap().parse().unwrap();
        *at = end + 2;
        Some(digits)
    }
    if input.is_empty() {
        return None;
    }
    let mut at = 0;
    let count = number(input, &mut at)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = number(input, &mut at)?;
        words.push(input.get(at..at + length)?.to_vec());
        at += length + 2;
    }
    (at <= input.len()).then_some((words, at))
}

/// A directory that goes with the test.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("loadgen-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
