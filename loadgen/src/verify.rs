//! Values that say what they are, so that a wrong one is recognised.
//!
//! ```text
//!   000000002a:00000007:3fa9c1:b3d2|QmZx7aP…
//!   key        version  run    check letters that follow from all of these
//!   └──────────── 32 bytes ───────┘
//! ```
//!
//! Each key is written by one connection only, so its versions reach the server in order. When a read is
//! sent, the newest version known to be stored is its floor:
//!
//! - **foreign**: the value of another key;
//! - **torn**: not all bytes are of one version, or some are missing;
//! - **stale**: older than the floor, or of an earlier run although this one has written the key;
//! - **wrong**: nothing that was ever written.
//!
//! A missing value is no fault of a cache.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::random::mix;
use crate::wire::printable;

pub const HEADER_BYTES: usize = 32;
/// Faults shown with their bytes; the others are counted.
const SHOWN: usize = 5;

/// What is known of a key.
#[derive(Default)]
struct Versions {
    /// The newest version sent.
    issued: AtomicU32,
    /// The newest version that the server has acknowledged.
    settled: AtomicU32,
    /// The newest version that was answered with an error: nobody knows whether it was stored.
    doubted: AtomicU32,
}

/// What the reply to a request about one key will be judged by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expectation {
    pub key: u64,
    /// Of a write: what it wrote. Of a read: no older version may come.
    pub version: u32,
    /// Of a read: the same, as far as it was acknowledged when the read was sent.
    pub acknowledged: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Foreign,
    Torn,
    Stale,
    Wrong,
}

const FAULTS: [(Fault, &str); 4] =
    [(Fault::Foreign, "foreign"), (Fault::Torn, "torn"), (Fault::Stale, "stale"), (Fault::Wrong, "wrong")];

pub struct Verifier {
    /// Tells values of this run from those of earlier ones; 24 bits.
    run: u32,
    connections: u64,
    keys: Box<[Versions]>,
    verified: AtomicU64,
    counts: [AtomicU64; 4],
    shown: Mutex<Vec<String>>,
}

impl Verifier {
    pub fn new(run: u32, keys: u64, connections: usize) -> Verifier {
        Verifier {
            run: run & 0xff_ffff,
            connections: connections as u64,
            keys: (0..keys).map(|_| Versions::default()).collect(),
            verified: AtomicU64::new(0),
            counts: Default::default(),
            shown: Mutex::default(),
        }
    }

    /// The key next to `key` that `connection` may write. There are at least as many keys as connections.
    pub fn writable(&self, key: u64, connection: u64) -> u64 {
        let own = key - key % self.connections + connection;
        if own < self.keys.len() as u64 { own } else { own - self.connections }
    }

    /// A new version of a key that this connection may write.
    pub fn write(&self, key: u64) -> Expectation {
        let version = self.keys[key as usize].issued.fetch_add(1, Ordering::Relaxed) + 1;
        Expectation { key, version, acknowledged: 0 }
    }

    /// `connection` is the one that reads, if connections write no keys but their own.
    pub fn read(&self, key: u64, connection: Option<u64>) -> Expectation {
        let versions = &self.keys[key as usize];
        // What this connection has sent is before this read, acknowledged or not.
        let own = connection == Some(key % self.connections);
        let acknowledged = versions.settled.load(Ordering::Acquire);
        let version = if own { versions.issued.load(Ordering::Acquire) } else { acknowledged };
        Expectation { key, version, acknowledged }
    }

    /// The server has acknowledged a write.
    pub fn settle(&self, written: Expectation) {
        self.keys[written.key as usize].settled.fetch_max(written.version, Ordering::Release);
    }

    /// A write was answered with an error.
    pub fn doubt(&self, written: Expectation) {
        self.keys[written.key as usize].doubted.fetch_max(written.version, Ordering::Relaxed);
    }

    pub fn append_value(&self, written: Expectation, length: usize, out: &mut Vec<u8>) {
        append_value(self.run, written, length, out);
    }

    /// Judges a value that was read.
    pub fn check(&self, expected: Expectation, value: &[u8]) -> Option<Fault> {
        self.verified.fetch_add(1, Ordering::Relaxed);
        let fault = self.judge(expected, value)?;
        let index = FAULTS.iter().position(|(known, _)| *known == fault).expect("every fault is listed");
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        let mut shown = self.shown.lock().expect("not poisoned");
        if shown.len() < SHOWN {
            shown.push(format!(
                "{} value for key {:#x}, version {} or newer was expected: \"{}\"",
                FAULTS[index].1,
                expected.key,
                expected.version,
                printable(value)
            ));
        }
        Some(fault)
    }

    fn judge(&self, expected: Expectation, value: &[u8]) -> Option<Fault> {
        // Newer writes than the acknowledged ones count if none of them was answered with an error.
        let doubted = self.keys[expected.key as usize].doubted.load(Ordering::Relaxed);
        let oldest = if doubted > expected.acknowledged { expected.acknowledged } else { expected.version };
        let Some(header) = Header::parse(value) else {
            // Whatever was there before this run is not ours to judge.
            return (oldest > 0).then_some(Fault::Wrong);
        };
        let written = Expectation { key: header.key, version: header.version, acknowledged: 0 };
        if header.check != check_code(header.run, written, value.len()) {
            return Some(Fault::Torn);
        }
        if header.key != expected.key {
            return Some(Fault::Foreign);
        }
        let mut whole = Vec::with_capacity(value.len());
        append_value(header.run, written, value.len(), &mut whole);
        if whole != value {
            return Some(Fault::Torn);
        }
        if header.run != self.run {
            return (oldest > 0).then_some(Fault::Stale);
        }
        if header.version > self.keys[header.key as usize].issued.load(Ordering::Relaxed) {
            return Some(Fault::Wrong);
        }
        (header.version < oldest).then_some(Fault::Stale)
    }

    pub fn faults(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// A line of counts, then examples.
    pub fn report(&self) -> Vec<String> {
        let counts = FAULTS.iter().zip(&self.counts);
        let counts = counts.map(|((_, name), count)| format!("{name} {}", count.load(Ordering::Relaxed)));
        let head = format!(
            "verified: {} values; {}",
            self.verified.load(Ordering::Relaxed),
            counts.collect::<Vec<_>>().join(", ")
        );
        std::iter::once(head).chain(self.shown.lock().expect("not poisoned").iter().cloned()).collect()
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier of {} keys", self.keys.len())
    }
}

#[derive(Debug, PartialEq)]
struct Header {
    key: u64,
    version: u32,
    run: u32,
    check: u32,
}

impl Header {
    fn parse(value: &[u8]) -> Option<Header> {
        let header = std::str::from_utf8(value.get(..HEADER_BYTES)?).ok()?;
        let fields: Vec<&str> = header.strip_suffix('|')?.split(':').collect();
        let [key, version, run, check] = fields[..] else { return None };
        if (key.len(), version.len(), run.len(), check.len()) != (10, 8, 6, 4) {
            return None;
        }
        let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
        Some(Header {
            key: number(key)?,
            version: number(version)? as u32,
            run: number(run)? as u32,
            check: number(check)? as u32,
        })
    }
}

fn seed(run: u32, written: Expectation) -> u64 {
    mix(written.key ^ mix(u64::from(written.version) << 32 | u64::from(run)))
}

/// Depends on the length too: a value that was cut is torn.
fn check_code(run: u32, written: Expectation, length: usize) -> u32 {
    (mix(seed(run, written) ^ length as u64) & 0xffff) as u32
}

fn append_value(run: u32, written: Expectation, length: usize, out: &mut Vec<u8>) {
    use std::io::Write;
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    let check = check_code(run, written, length);
    let start = out.len();
    write!(out, "{:010x}:{:08x}:{run:06x}:{check:04x}|", written.key, written.version).expect("memory takes all");
    debug_assert_eq!(out.len() - start, HEADER_BYTES);
    let mut state = seed(run, written);
    while out.len() < start + length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = mix(state);
        let left = (start + length - out.len()).min(8);
        out.extend((0..left).map(|letter| LETTERS[(word >> (letter * 8)) as usize & 63]));
    }
    out.truncate(start + length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(verifier: &Verifier, written: Expectation, length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        verifier.append_value(written, length, &mut out);
        assert_eq!(out.len(), length);
        out
    }

    #[test]
    fn a_good_value_is_good_at_every_length() {
        let verifier = Verifier::new(7, 100, 10);
        for length in HEADER_BYTES..200 {
            let written = verifier.write(42);
            let bytes = value(&verifier, written, length);
            verifier.settle(written);
            assert_eq!(verifier.check(verifier.read(42, Some(3)), &bytes), None, "{length}");
        }
        assert_eq!(verifier.faults(), 0);
    }

    #[test]
    fn each_fault_is_told_from_the_others() {
        let verifier = Verifier::new(7, 100, 10);
        let old = verifier.write(42);
        let old_bytes = value(&verifier, old, 64);
        verifier.settle(old);
        let new = verifier.write(42);
        let new_bytes = value(&verifier, new, 64);

        // Not acknowledged: another connection may see either; its own writer only the new one.
        assert_eq!(verifier.check(verifier.read(42, Some(3)), &old_bytes), None);
        assert_eq!(verifier.check(verifier.read(42, Some(2)), &old_bytes), Some(Fault::Stale));
        let before = verifier.read(42, Some(3));
        verifier.settle(new);
        assert_eq!(verifier.check(before, &old_bytes), None, "sent before the acknowledgement");
        assert_eq!(verifier.check(verifier.read(42, Some(3)), &old_bytes), Some(Fault::Stale));
        assert_eq!(verifier.check(verifier.read(43, Some(3)), &new_bytes), Some(Fault::Foreign));

        let mut torn = new_bytes.clone();
        torn[50..].copy_from_slice(&old_bytes[50..]);
        assert_eq!(verifier.check(verifier.read(42, Some(3)), &torn), Some(Fault::Torn));
        assert_eq!(verifier.check(verifier.read(42, Some(3)), &new_bytes[..60]), Some(Fault::Torn));
        assert_eq!(verifier.check(verifier.read(42, Some(3)), b"junk"), Some(Fault::Wrong));
        let future = value(&verifier, Expectation { key: 42, version: 99, acknowledged: 0 }, 64);
        assert_eq!(verifier.check(verifier.read(42, Some(3)), &future), Some(Fault::Wrong));
        assert_eq!(verifier.faults(), 7);
        let report = verifier.report();
        assert!(report[0].contains("foreign 1, torn 2, stale 2, wrong 2"), "{report:?}");
        assert_eq!(report.len(), 1 + SHOWN);
        assert!(report[1].contains("0x2a") && report[1].contains("000000002a:00000001"), "{report:?}");
    }

    #[test]
    fn what_was_there_before_is_not_judged_until_it_is_overwritten() {
        let earlier = Verifier::new(1, 100, 1);
        let bytes = value(&earlier, earlier.write(5), 40);
        let verifier = Verifier::new(2, 100, 1);
        assert_eq!(verifier.check(verifier.read(5, Some(0)), &bytes), None);
        assert_eq!(verifier.check(verifier.read(5, Some(0)), b"other"), None);
        verifier.settle(verifier.write(5));
        assert_eq!(verifier.check(verifier.read(5, Some(0)), &bytes), Some(Fault::Stale));
    }

    /// A server that answered one SET with an error was not held to anything any more, whatever the key.
    #[test]
    fn an_error_reply_excuses_what_was_there_before_it_and_nothing_else() {
        let verifier = Verifier::new(7, 10, 1);
        let write = |key| {
            let written = verifier.write(key);
            let bytes = value(&verifier, written, 32);
            (written, bytes)
        };
        let (oldest, oldest_bytes) = write(1);
        verifier.settle(oldest);
        let (old, old_bytes) = write(1);
        verifier.settle(old);
        let (failed, failed_bytes) = write(1);
        let expected = verifier.read(1, Some(0));
        verifier.doubt(failed);
        assert_eq!(verifier.check(expected, &old_bytes), None);
        assert_eq!(verifier.check(expected, &failed_bytes), None);
        assert_eq!(verifier.check(expected, &oldest_bytes), Some(Fault::Stale));
        let (new, _) = write(1);
        verifier.settle(new);
        assert_eq!(verifier.check(verifier.read(1, Some(0)), &failed_bytes), Some(Fault::Stale));
        let (other, other_bytes) = write(2);
        verifier.settle(other);
        verifier.settle(write(2).0);
        assert_eq!(verifier.check(verifier.read(2, Some(0)), &other_bytes), Some(Fault::Stale));
    }

    #[test]
    fn writers_share_the_keys_out() {
        let verifier = Verifier::new(0, 25, 10);
        for connection in 0..10 {
            for key in 0..25 {
                let own = verifier.writable(key, connection);
                assert!(own < 25 && own % 10 == connection, "{key} {connection}: {own}");
            }
        }
    }
}
