//! `loadgen compare memory`: how many bytes an item takes beyond its key and value, as resident memory: what the
//! server has after loading, less what it had before it held anything.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use serde_json::json;

use super::Findings;
use super::options::Checked;
use super::server::{Server, ServerOptions};
use crate::failure::Failure;
use crate::report::say;
use crate::report::svg::{Bar, Bars};
use crate::session::Session;
use crate::signals;
use crate::wire::Protocol;

/// Key and value, and whether the items expire (in a day).
const CASES: [(usize, usize, bool); 4] = [(16, 32, false), (16, 32, true), (24, 100, false), (24, 100, true)];
/// Requests sent before their replies are read.
const BATCH: u64 = 500;

/// When loaded items expire.
#[derive(Clone, Copy)]
pub(super) enum Expiry {
    None,
    Seconds(u64),
    /// At these milliseconds since the Unix epoch, spread over so many. Not in memcached's words.
    SpreadFrom {
        unix_ms: u64,
        over_ms: u64,
    },
}

/// Loads `keys` items of each kind into each server, each time one that was just started; a table.
pub fn measure(keys: u64, checked: &Checked) -> Result<(), Failure> {
    let mut servers: Vec<&ServerOptions> = Vec::new();
    for server in checked.legs.iter().flat_map(|leg| [&leg.a, &leg.b]) {
        if servers.iter().all(|other| other.name != server.name) {
            servers.push(server);
        }
    }
    let mut table = String::from("| key, value | expiry |");
    servers.iter().for_each(|server| write!(table, " {} |", server.name).expect("a string grows"));
    table.push_str("\n|---|---|");
    servers.iter().for_each(|_| table.push_str("--:|"));
    table.push('\n');
    let mut rows = Vec::new();
    let mut groups = Vec::new();
    for (key_bytes, value_bytes, expires) in CASES {
        let expiry = if expires { "a day" } else { "none" };
        write!(table, "| {key_bytes} B, {value_bytes} B | {expiry} |").expect("a string grows");
        let mut bars = Vec::new();
        for options in &servers {
            let server = Server::start(options)?;
            let before = server.resident_bytes();
            let failed = |error: io::Error| Failure::system(format!("cannot load {}", server.name()), error);
            let stream = TcpStream::from(Session::open(&server.target())?.into_fd());
            let when = if expires { Expiry::Seconds(86_400) } else { Expiry::None };
            load(stream, options.protocol, keys, key_bytes, value_bytes, when).map_err(failed)?;
            let resident = server.resident_bytes().saturating_sub(before);
            let beyond = resident as f64 / keys as f64 - (key_bytes + value_bytes) as f64;
            say::tell(format_args!(
                "# {}: {key_bytes} B, {value_bytes} B, expiry {expiry}: {beyond:.1} B",
                server.name()
            ));
            write!(table, " {beyond:.1} |").expect("a string grows");
            rows.push(json!({
                "server": server.name(),
                "keys": keys,
                "key_bytes": key_bytes,
                "value_bytes": value_bytes,
                "expires": expires,
                "bytes_beyond": beyond,
            }));
            bars.push(Bar { value: beyond, interval: None });
            if signals::interrupted() {
                return Err(Failure::Interrupted);
            }
        }
        groups.push((format!("{key_bytes} B, {value_bytes} B\nexpiry: {expiry}"), bars));
        table.push('\n');
    }
    let table = format!("Resident bytes per item beyond key and value, {keys} items.\n\n{table}");
    let series = servers.iter().map(|server| server.name.clone()).collect();
    let title = "Resident bytes per item beyond key and value".into();
    Findings { table, rows, chart: Bars { title, y_label: "bytes", series, groups } }.publish(checked)
}

pub(super) fn load(
    mut stream: TcpStream,
    protocol: Protocol,
    keys: u64,
    key_bytes: usize,
    value_bytes: usize,
    expiry: Expiry,
) -> io::Result<()> {
    let reply: &[u8] = if protocol == Protocol::Memcache { b"STORED\r\n" } else { b"+OK\r\n" };
    let value = "v".repeat(value_bytes);
    let mut requests = String::new();
    let mut replies = Vec::new();
    for first in (0..keys).step_by(BATCH as usize) {
        if signals::interrupted() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
        }
        requests.clear();
        let count = BATCH.min(keys - first);
        for key in first..first + count {
            let name = format!("key:{key:0width$}", width = key_bytes - 4);
            match protocol {
                Protocol::Memcache => push_memcache(&mut requests, &name, &value, expiry),
                _ => push(&mut requests, &name, &value, expiry, key),
            }
        }
        stream.write_all(requests.as_bytes())?;
        replies.resize(count as usize * reply.len(), 0);
        stream.read_exact(&mut replies)?;
        if replies.chunks(reply.len()).any(|answer| answer != reply) {
            return Err(io::Error::other(format!("not stored: {}", String::from_utf8_lossy(&replies[..60]))));
        }
    }
    Ok(())
}

fn push_memcache(requests: &mut String, key: &str, value: &str, expiry: Expiry) {
    let seconds = match expiry {
        Expiry::Seconds(seconds) => seconds,
        Expiry::None | Expiry::SpreadFrom { .. } => 0,
    };
    write!(requests, "set {key} 0 {seconds} {}\r\n{value}\r\n", value.len()).expect("a string grows");
}

fn push(requests: &mut String, key: &str, value: &str, expiry: Expiry, index: u64) {
    let expiry = match expiry {
        Expiry::None => None,
        Expiry::Seconds(seconds) => Some(("EX", seconds)),
        Expiry::SpreadFrom { unix_ms, over_ms } => Some(("PXAT", unix_ms + index % over_ms)),
    };
    let words = if expiry.is_some() { 5 } else { 3 };
    let (key_bytes, value_bytes) = (key.len(), value.len());
    write!(requests, "*{words}\r\n$3\r\nSET\r\n${key_bytes}\r\n{key}\r\n${value_bytes}\r\n{value}\r\n")
        .expect("a string grows");
    if let Some((option, when)) = expiry {
        let digits = when.checked_ilog10().unwrap_or(0) + 1;
        write!(requests, "${}\r\n{option}\r\n${digits}\r\n{when}\r\n", option.len()).expect("a string grows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_written_as_each_protocol_has_them() {
        let mut requests = String::new();
        push(&mut requests, "k:01", "vv", Expiry::Seconds(86_400), 1);
        assert_eq!(requests, "*5\r\n$3\r\nSET\r\n$4\r\nk:01\r\n$2\r\nvv\r\n$2\r\nEX\r\n$5\r\n86400\r\n");
        requests.clear();
        push(&mut requests, "k:01", "vv", Expiry::SpreadFrom { unix_ms: 100, over_ms: 10 }, 23);
        assert_eq!(requests, "*5\r\n$3\r\nSET\r\n$4\r\nk:01\r\n$2\r\nvv\r\n$4\r\nPXAT\r\n$3\r\n103\r\n");
        requests.clear();
        push_memcache(&mut requests, "k:01", "vv", Expiry::None);
        assert_eq!(requests, "set k:01 0 0 2\r\nvv\r\n");
    }
}
