//! `loadgen compare memory`: how many bytes an item takes beyond its key and value, as resident memory: what the
//! server has after loading, less what it had before it held anything.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::options::Checked;
use super::server::{Server, ServerOptions};
use crate::failure::Failure;
use crate::session::Session;
use crate::signals;
use crate::wire::Protocol;

/// Key and value, and whether the items expire (in a day).
const CASES: [(usize, usize, bool); 4] = [(16, 32, false), (16, 32, true), (24, 100, false), (24, 100, true)];
const EXPIRY_SECONDS: &str = "86400";
/// Requests sent before their replies are read.
const BATCH: u64 = 500;

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
    for (key_bytes, value_bytes, expires) in CASES {
        let expiry = if expires { "a day" } else { "none" };
        write!(table, "| {key_bytes} B, {value_bytes} B | {expiry} |").expect("a string grows");
        for options in &servers {
            let server = Server::start(options)?;
            let before = server.resident_bytes();
            let failed = |error: io::Error| Failure::system(format!("cannot load {}", server.name()), error);
            let stream = TcpStream::from(Session::open(&server.target())?.into_fd());
            load(stream, options.protocol, keys, key_bytes, value_bytes, expires).map_err(failed)?;
            let resident = server.resident_bytes().saturating_sub(before);
            let beyond = resident as f64 / keys as f64 - (key_bytes + value_bytes) as f64;
            eprintln!("# {}: {key_bytes} B, {value_bytes} B, expiry {expiry}: {beyond:.1} B", server.name());
            write!(table, " {beyond:.1} |").expect("a string grows");
            if signals::interrupted() {
                return Err(Failure::Interrupted);
            }
        }
        table.push('\n');
    }
    let table = format!("Resident bytes per item beyond key and value, {keys} items.\n\n{table}");
    println!("{table}");
    match &checked.markdown {
        Some(path) => std::fs::write(path, table).map_err(|error| Failure::system(path.display().to_string(), error)),
        None => Ok(()),
    }
}

pub(super) fn load(
    mut stream: TcpStream,
    protocol: Protocol,
    keys: u64,
    key_bytes: usize,
    value_bytes: usize,
    expires: bool,
) -> io::Result<()> {
    let reply: &[u8] = if protocol == Protocol::Memcache { b"STORED\r\n" } else { b"+OK\r\n" };
    let value = "v".repeat(value_bytes);
    let mut requests = String::new();
    let mut replies = Vec::new();
    for first in (0..keys).step_by(BATCH as usize) {
        requests.clear();
        let count = BATCH.min(keys - first);
        for key in first..first + count {
            push(&mut requests, protocol, &format!("key:{key:0width$}", width = key_bytes - 4), &value, expires);
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

fn push(requests: &mut String, protocol: Protocol, key: &str, value: &str, expires: bool) {
    let (key_bytes, value_bytes) = (key.len(), value.len());
    let pushed = match (protocol, expires) {
        (Protocol::Memcache, _) => {
            let seconds = if expires { EXPIRY_SECONDS } else { "0" };
            write!(requests, "set {key} 0 {seconds} {value_bytes}\r\n{value}\r\n")
        }
        (_, false) => write!(requests, "*3\r\n$3\r\nSET\r\n${key_bytes}\r\n{key}\r\n${value_bytes}\r\n{value}\r\n"),
        (_, true) => {
            let seconds_bytes = EXPIRY_SECONDS.len();
            write!(
                requests,
                "*5\r\n$3\r\nSET\r\n${key_bytes}\r\n{key}\r\n${value_bytes}\r\n{value}\r\n$2\r\nEX\r\n\
                 ${seconds_bytes}\r\n{EXPIRY_SECONDS}\r\n"
            )
        }
    };
    pushed.expect("a string grows");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_written_as_each_protocol_has_them() {
        let mut requests = String::new();
        push(&mut requests, Protocol::Resp2, "k:01", "vv", true);
        assert_eq!(requests, "*5\r\n$3\r\nSET\r\n$4\r\nk:01\r\n$2\r\nvv\r\n$2\r\nEX\r\n$5\r\n86400\r\n");
        requests.clear();
        push(&mut requests, Protocol::Memcache, "k:01", "vv", false);
        assert_eq!(requests, "set k:01 0 0 2\r\nvv\r\n");
    }
}
