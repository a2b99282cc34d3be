//! Everything that happens to the server beside the load that is measured, each on a thread of its own,
//! until it is told to end or something is not as it should be.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crabcache::proto::client;
use socket2::Socket;

use crate::failure::Failure;
use crate::plan::{Endpoint, Target};
use crate::random::Random;
use crate::session::Session;

const STORM_KEYS: usize = 10_000;
const STORM_EVERY: Duration = Duration::from_secs(4);
/// Every key of a storm expires this long after the storm began.
const STORM_TTL_MS: u64 = 3_000;
const STORM_PIPELINE: usize = 500;
const STORM_VALUE: [u8; 100] = [b's'; 100];

const CHURN_PAUSE: Duration = Duration::from_millis(50);
const CHURN_CONNECTIONS: usize = 5;

const LARGE_KEY: &[u8] = b"soak:large";
const LARGE_BYTES: usize = 256 * 1024;
const SLOW_READERS: usize = 6;
const SLOW_READER_REQUESTS: usize = 40;
const SLOW_READER_LIFE: Duration = Duration::from_secs(3);

const POLL_PAUSE: Duration = Duration::from_millis(500);
/// No thread sleeps longer than this at a time.
const STEP: Duration = Duration::from_millis(20);

/// What the disturbances share with each other and with whoever watches.
pub struct Disturbances {
    target: Target,
    address: SocketAddr,
    ended: AtomicBool,
    failure: Mutex<Option<Failure>>,
    pub counts: Counts,
}

/// What has been done so far.
#[derive(Default)]
pub struct Counts {
    pub storms: AtomicU64,
    pub connections: AtomicU64,
    pub slow_reads: AtomicU64,
    pub polls: AtomicU64,
}

impl Disturbances {
    pub fn new(target: Target) -> Disturbances {
        let Endpoint::Tcp(address) = target.endpoint else { unreachable!("servers are started on a TCP port") };
        let counts = Counts::default();
        Disturbances { target, address, ended: AtomicBool::new(false), failure: Mutex::new(None), counts }
    }

    /// Runs all of them while `meanwhile` runs; the first failure, theirs or its, is the outcome.
    pub fn run<T>(&self, meanwhile: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        std::thread::scope(|scope| {
            type Work = fn(&Disturbances) -> Result<(), Failure>;
            let works: [Work; 4] = [Self::storms, Self::churn, Self::slow_readers, Self::polls];
            for work in works {
                scope.spawn(move || {
                    if let Err(failure) = work(self) {
                        self.failure.lock().expect("not poisoned").get_or_insert(failure);
                    }
                });
            }
            let outcome = meanwhile();
            self.ended.store(true, Ordering::Relaxed);
            outcome
        })
        .and_then(|value| self.failure().map_or(Ok(value), Err))
    }

    pub fn failure(&self) -> Option<Failure> {
        self.failure.lock().expect("not poisoned").clone()
    }

    /// How many keys the storms have stored that must be gone by now.
    pub fn keys_stormed(&self) -> u64 {
        self.counts.storms.load(Ordering::Relaxed) * STORM_KEYS as u64
    }

    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Sleeps; whether there is more to do afterwards.
    fn pause(&self, time: Duration) -> bool {
        let started = Instant::now();
        while !self.is_over() {
            match time.checked_sub(started.elapsed()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(STEP)),
                _ => return true,
            }
        }
        false
    }

    /// Thousands of keys that expire in the same millisecond, again and again.
    fn storms(&self) -> Result<(), Failure> {
        let mut stream = self.connect()?;
        loop {
            let began = Instant::now();
            for first in (0..STORM_KEYS).step_by(STORM_PIPELINE) {
                let left_ms = STORM_TTL_MS.saturating_sub(began.elapsed().as_millis() as u64).max(1);
                let mut requests = Vec::new();
                for key in first..first + STORM_PIPELINE {
                    let key = format!("soak:storm:{key}");
                    let ttl = left_ms.to_string();
                    client::resp(&[b"SET", key.as_bytes(), &STORM_VALUE, b"PX", ttl.as_bytes()], &mut requests);
                }
                let expected = b"+OK\r\n".repeat(STORM_PIPELINE);
                self.exchange(&mut stream, &requests, &expected)?;
            }
            self.counts.storms.fetch_add(1, Ordering::Relaxed);
            if !self.pause(STORM_EVERY) {
                return Ok(());
            }
        }
    }

    /// Connections that come and go, most of them rudely.
    fn churn(&self) -> Result<(), Failure> {
        let mut random = Random::new(4242);
        while self.pause(CHURN_PAUSE) {
            let mut open = Vec::new();
            for _ in 0..CHURN_CONNECTIONS {
                let mut stream = self.connect()?;
                self.counts.connections.fetch_add(1, Ordering::Relaxed);
                self.behave(random.below(7), &mut stream)?;
                open.push(stream);
            }
            // Every other one is cut off instead of closed.
            for (index, stream) in open.into_iter().enumerate() {
                if index % 2 == 0 {
                    let _ = Socket::from(stream).set_linger(Some(Duration::ZERO));
                }
            }
        }
        Ok(())
    }

    fn behave(&self, manner: u64, stream: &mut TcpStream) -> Result<(), Failure> {
        let rude: &[u8] = match manner {
            0 => return self.exchange(stream, b"PING\r\n", b"+PONG\r\n"),
            1 => return self.exchange(stream, b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n", b"+PONG\r\n+PONG\r\n"),
            // In the middle of a length, of a value, of a large value.
            2 => b"*3\r\n$3\r\nSET\r\n$1",
            3 => b"*3\r\n$3\r\nSET\r\n$9\r\nsoak:half\r\n$100\r\nnot a hundred",
            4 => b"*3\r\n$3\r\nSET\r\n$9\r\nsoak:half\r\n$5000000\r\nby far not five million",
            5 => b"*1\r\n:what is this?\r\n",
            // Says nothing at all.
            _ => return Ok(()),
        };
        match stream.write_all(rude) {
            // Whoever talks like that may be hung up on.
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(self.broken("a write", &error.to_string(), b""))
            }
            _ => Ok(()),
        }
    }

    /// Clients that ask for much and read little of it, or nothing.
    fn slow_readers(&self) -> Result<(), Failure> {
        let mut session = Session::open(&self.target)?;
        let value = vec![b'l'; LARGE_BYTES];
        let mut request = Vec::new();
        client::resp(&[b"SET", LARGE_KEY, &value], &mut request);
        session.exchange("SET", &request)?;
        request.clear();
        for _ in 0..SLOW_READER_REQUESTS {
            client::resp(&[b"GET", LARGE_KEY], &mut request);
        }
        while !self.is_over() {
            let mut readers = Vec::new();
            for _ in 0..SLOW_READERS {
                let mut stream = self.connect()?;
                stream.write_all(&request).map_err(|error| self.broken("GET", &error.to_string(), b""))?;
                readers.push(stream);
            }
            let began = Instant::now();
            let mut chunk = [0; 4096];
            while began.elapsed() < SLOW_READER_LIFE && self.pause(Duration::from_millis(25)) {
                // The first one never reads.
                for stream in &mut readers[1..] {
                    match stream.read(&mut chunk) {
                        Ok(1..) => {
                            self.counts.slow_reads.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(0) => return Err(self.broken("a slow reader", "end of stream", b"")),
                        Err(error) => return Err(self.broken("a slow reader", &error.to_string(), b"")),
                    }
                }
            }
        }
        Ok(())
    }

    /// Somebody's dashboard. STATS is ours alone: who has it not says so, which is an answer.
    fn polls(&self) -> Result<(), Failure> {
        let mut session = Session::open(&self.target)?;
        while self.pause(POLL_PAUSE) {
            for words in [&["INFO", "everything"][..], &["STATS"], &["CLIENT", "LIST"], &["DBSIZE"]] {
                match session.ask("a poll", words) {
                    Ok(_) => {}
                    Err(Failure::Denied { .. }) if words == ["STATS"] => {}
                    Err(failure) => return Err(failure),
                }
            }
            self.counts.polls.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn connect(&self) -> Result<TcpStream, Failure> {
        let connect = || -> std::io::Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&self.address, self.target.timeout)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(self.target.timeout))?;
            stream.set_write_timeout(Some(self.target.timeout))?;
            Ok(stream)
        };
        connect().map_err(|error| Failure::Unreachable {
            endpoint: self.address.to_string(),
            reason: crate::failure::explain(&error),
        })
    }

    /// Sends requests whose replies are known beforehand.
    fn exchange(&self, stream: &mut TcpStream, requests: &[u8], expected: &[u8]) -> Result<(), Failure> {
        let mut received = vec![0; expected.len()];
        let outcome = stream.write_all(requests).and_then(|()| stream.read_exact(&mut received));
        outcome.map_err(|error| self.broken("a request", &crate::failure::explain(&error), b""))?;
        if received == expected {
            return Ok(());
        }
        let at = received.iter().zip(expected).position(|(got, wanted)| got != wanted).unwrap_or(0);
        Err(Failure::Nonsense {
            endpoint: self.address.to_string(),
            why: "not the reply that the request has".into(),
            bytes: received[at..].to_vec(),
        })
    }

    fn broken(&self, what: &str, reason: &str, last: &[u8]) -> Failure {
        Failure::Gone {
            endpoint: self.address.to_string(),
            replies_due: 1,
            reason: format!("{what}: {reason}"),
            last: last.to_vec(),
        }
    }
}
