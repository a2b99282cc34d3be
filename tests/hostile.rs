//! What nobody would send who means well: the server's memory stays bounded, others are served meanwhile, the log is not
//! flooded.

mod harness;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};

use harness::Server;
use support::client::Client;
use support::value::Value;
use support::vitals::{info_becomes, info_number, info_reaches, raise_descriptor_limit, resident_bytes};

const MIB: usize = 1 << 20;

/// Held by tests with crowds: each needs the machine for itself to be done before its first clients are closed for silence.
static CROWDED: Mutex<()> = Mutex::new(());

fn pong() -> Value {
    Value::Simple(b"PONG".to_vec())
}

/// Sends `input` in two pieces and returns all that comes back until the server closes.
fn answer(server: &Server, input: &[u8], cut: usize) -> Vec<u8> {
    let mut client = Client::connect(server.address());
    client.send_split(input, &[cut]);
    client.half_close();
    client.rest()
}

#[test]
fn a_crowd_that_neither_says_who_it_is_nor_reads_costs_little() {
    let _alone = CROWDED.lock().unwrap_or_else(PoisonError::into_inner);
    let limits = ["--max-handshakes-per-address", "300"];
    let server = Server::start_with(&[&["--cores", "2"], &limits[..]].concat(), |command| {
        command.env("CRABCACHE_TOKEN", "a secret of ours");
    });
    let mut established = Client::connect(server.address());
    assert_eq!(established.call_words(&["AUTH", "a secret of ours"]), Value::ok());
    let before = resident_bytes(&server);
    let crowd: Vec<TcpStream> = (0..800)
        .map(|_| {
            let mut stream = server.connect();
            // A lying length, and much that has to be refused. Whoever is one too many may be gone already.
            let _ = stream.write_all(&b"GET a\r\n".repeat(2_000));
            let _ = stream.write_all(b"*9\r\n$16000\r\n");
            stream
        })
        .collect();
    info_reaches(&mut established, "connected_clients", 1);
    let stats = |client: &mut Client| client.call("STATS").as_text();
    let counted = |text: &str, name: &str| -> u64 {
        let at = text.find(&format!("\"{name}\":")).expect(name) + name.len() + 3;
        text[at..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
    };
    let deadline = std::time::Instant::now() + harness::PATIENCE;
    while counted(&stats(&mut established), "connections_refused_by_rate") < 500 {
        assert!(std::time::Instant::now() < deadline, "{}", stats(&mut established));
    }
    assert!(info_number(&mut established, "connected_clients") <= 301);
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < 100 * MIB, "{} MiB", grown / MIB);
    assert!(server.log().lines().count() < 50, "{}", server.log());
    drop(crowd);
    assert_eq!(established.call("PING"), pong());
}

/// Ten thousand at a time, or as many as this machine lets one process connect.
#[test]
fn ten_thousand_who_never_read_cost_what_they_have_been_sent() {
    let _alone = CROWDED.lock().unwrap_or_else(PoisonError::into_inner);
    let count = 10_000.min(raise_descriptor_limit() - 500);
    let limits = ["--max-handshakes-per-address", "0", "--max-clients", "10100"];
    let server = Server::start_with(&[&["--cores", "2"], &limits[..]].concat(), |command| {
        command.env("CRABCACHE_TOKEN", "a secret of ours");
    });
    let mut established = Client::connect(server.address());
    assert_eq!(established.call_words(&["AUTH", "a secret of ours"]), Value::ok());
    let before = resident_bytes(&server);
    let lines = b"GET a\r\nINFO\r\n".repeat(20);
    let mut served = 0;
    let crowd: Vec<TcpStream> = (0..count)
        .map(|number| {
            let mut stream = server.connect();
            let _ = stream.write_all(&lines);
            if number % 500 == 0 {
                served += (established.call("PING") == pong()) as usize;
            }
            stream
        })
        .collect();
    assert_eq!(served, count.div_ceil(500));
    let clients = info_number(&mut established, "connected_clients");
    // Whoever came first may have been closed for his silence by now.
    assert!(clients > 1_000.min(count / 2), "{clients} clients");
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < count * 16 * 1024, "{} KiB for each", grown / count / 1024);
    assert!(server.log().lines().count() < 100, "{}", server.log());
    drop(crowd);
    info_becomes(&mut established, "connected_clients", 1);
}

/// One byte after the other, in every protocol: for as long as a request may take, and no longer.
#[test]
fn who_sends_a_byte_now_and_then_is_closed_and_nobody_waits_for_him() {
    let server = Server::start(&["--cores", "2", "--request-timeout", "1s"]);
    let mut established = Client::connect(server.address());
    let requests: [&[u8]; 4] = [
        b"*2\r\n$4\r\nECHO\r\n$1000\r\n",
        b"SET key a-long-value-",
        b"{\"action\":\"SET\",\"key\":\"",
        &[0xCB, 1, 0xE8, 3, 0, 0, 0x10, 0, 0x84, 3],
    ];
    let mut slow: Vec<(TcpStream, Vec<u8>)> =
        requests.iter().map(|begin| (server.connect(), [begin, &[b'a'; 900][..]].concat())).collect();
    let deadline = std::time::Instant::now() + harness::PATIENCE;
    let mut at = 0;
    while info_number(&mut established, "connected_clients") > 1 {
        assert!(std::time::Instant::now() < deadline, "{} bytes were taken", at);
        for (stream, bytes) in &mut slow {
            // Closed ones do not take any more.
            let _ = stream.write_all(&bytes[at..at + 1]);
        }
        at = (at + 1).min(800);
        assert_eq!(established.call("PING"), pong());
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
    let stats = established.call("STATS").as_text();
    assert!(stats.contains("\"connections_closed_by_deadline\":4"), "{stats}");
}

#[test]
fn strange_framing_means_the_same_wherever_the_network_cuts_it() {
    let server = Server::start(&["--cores", "2"]);
    for input in [
        &b"*0\r\n\r\nPING\r\n*-1\r\n*1\r\n$4\r\nPING\r\n\r\n\r\n*0\r\nPING\r\n"[..],
        b"PING\r\n*2\r\n$3\r\nGET\r\n$-1\r\nPING\r\n",
        b"PING\r\n*1\r\n$99999999999999999999\r\n",
        b"PING\r\n*2147483648\r\n$4\r\nPING\r\n",
    ] {
        let whole = answer(&server, input, 0);
        assert!(!whole.is_empty());
        for cut in 1..input.len() {
            let split = answer(&server, input, cut);
            assert_eq!(String::from_utf8_lossy(&split), String::from_utf8_lossy(&whole), "cut at {cut}");
        }
    }
    // A browser that was talked into this is cut off before what it was talked into.
    let mut client = Client::connect(server.address());
    assert_eq!(client.call("SET kept v"), Value::ok());
    for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\nFLUSHALL\r\n", "POST / HTTP/1.1\r\nHost: a\r\n\r\nFLUSHALL\r\n"] {
        for cut in 0..request.len() {
            answer(&server, request.as_bytes(), cut);
        }
    }
    assert_eq!(client.call("GET kept"), Value::bulk("v"));
    assert!(server.log().lines().count() < 50, "{}", server.log());
}

#[test]
fn costly_questions_hold_nobody_up() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = Client::connect(server.address());
    let name = "a".repeat(300);
    for number in 0..200 {
        assert_eq!(client.call(&format!("SET {name}{number} v")), Value::ok());
    }
    for count in ["9223372036854775807", "1", "4294967296"] {
        let Value::Array(reply) = client.call(&format!("SCAN 0 COUNT {count}")) else { panic!("a cursor and keys") };
        assert_eq!(reply.len(), 2);
    }
    assert!(client.call("SCAN 0 COUNT 9223372036854775808").is_error());
    // Exponential for whoever tries every way to match it.
    let pattern = "a*".repeat(60) + "b";
    assert_eq!(client.call(&format!("KEYS {pattern}")), Value::Array(vec![]));
    assert!(!client.call(&format!("SCAN 0 MATCH {pattern} COUNT 1000")).is_error());
    assert_eq!(client.call("PING"), pong());
}

#[test]
fn what_is_written_into_names_steers_no_terminal() {
    let server = Server::start(&["--cores", "2", "--log-level", "trace"]);
    let mut client = Client::connect(server.address());
    let evil = b"key\x1b[2J\x1b]0;owned\x07\r\nERROR all is lost".as_slice();
    assert_eq!(client.call_words(&[b"SET".as_slice(), evil, b"v"]), Value::ok());
    assert_eq!(client.call_words(&[b"GET".as_slice(), evil]), Value::bulk("v"));
    assert!(client.call_words(&[evil, b"x"]).is_error());
    assert!(client.call_words(&[b"CLIENT".as_slice(), b"SETNAME", evil]).is_error());
    assert!(client.call_words(&[b"CONFIG".as_slice(), b"SET", evil, evil]).is_error());
    let mut stream = server.connect();
    stream.write_all(&[b"*1\r\n$", evil].concat()).expect("send");
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    let log = server.log();
    assert!(!log.contains('\x1b') && !log.contains('\x07'), "{log:?}");
    assert!(!log.lines().any(|line| line.starts_with("ERROR all is lost")), "{log}");
}
