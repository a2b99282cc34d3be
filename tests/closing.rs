//! How connections end. Whoever is closed for bytes that are no command gets to read why, however much was on
//! its way behind them, and nobody stays for ever because of it; a server that ends answers what it has done.

mod harness;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crabcache::limits::{DRAIN_STALL_MS_MAX, LINGER_MS_MAX};
use harness::Server;
use nix::sys::signal::Signal;
use support::client::{Client, PATIENCE, command};
use support::value::Value;
use support::vitals::{Vitals, descriptors, info_number};

const MIB: usize = 1024 * 1024;

fn server() -> Server {
    Server::start(&["--cores", "2"])
}

/// Everything up to the end of the stream; a reset is a failure.
fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("the stream ends in order");
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn an_error_is_read_however_much_was_sent_behind_it() {
    let server = server();
    let more = vec![b'x'; 32 * MIB];
    let too_long = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", 100 * MIB);
    let cases: [(&[u8], &str); 5] = [
        (b"*1\r\n$4\r\nPING\r\n*x\r\n", "+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n"),
        (b"GET \"k\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
        (too_long.as_bytes(), "-ERR Protocol error: invalid bulk length\r\n"),
        // A line without an end.
        (b"", "-ERR Protocol error: too big inline request\r\n"),
        (b"\xcb\x02\0\0\0\0", "\x2f\x2b\0\0\0ERR Protocol error: unknown frame version 2"),
    ];
    for (start, expected) in cases {
        let mut stream = server.connect();
        stream.write_all(start).expect("send");
        // As a client does that sends its whole command before it looks for the reply.
        stream.write_all(&more).expect("all of it is taken");
        assert_eq!(read_to_end(&mut stream), expected);
    }
    let mut probe = Client::connect(server.address());
    assert_eq!(info_number(&mut probe, "protocol_errors"), cases.len());
    drop(probe);
    Vitals::settled(&server, 0, usize::MAX - 1);
}

#[test]
fn the_end_of_the_stream_comes_at_once_and_with_it_the_connection_goes() {
    let server = server();
    let idle = descriptors(&server);
    for _ in 0..300 {
        let mut stream = server.connect();
        stream.write_all(b"*x\r\n").expect("send");
        let asked = Instant::now();
        assert!(read_to_end(&mut stream).starts_with("-ERR Protocol error"));
        assert!(asked.elapsed() < Duration::from_millis(LINGER_MS_MAX / 2), "took {:?}", asked.elapsed());
    }
    let asked = Instant::now();
    Vitals::settled(&server, 0, idle);
    assert!(asked.elapsed() < Duration::from_millis(LINGER_MS_MAX / 2), "they stay though their clients are gone");
}

#[test]
fn a_client_that_never_leaves_is_left() {
    let server = server();
    let idle = descriptors(&server);
    let mut silent: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
    for stream in &mut silent {
        stream.write_all(b"*x\r\n").expect("send");
        assert!(read_to_end(stream).starts_with("-ERR Protocol error"));
    }
    // One that goes on talking as well.
    let mut talking = server.connect();
    let asked = Instant::now();
    let error = loop {
        if let Err(error) = talking.write_all(b"*x\r\n") {
            break error;
        }
        assert!(asked.elapsed() < PATIENCE, "it may talk for ever");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    assert!(asked.elapsed() >= Duration::from_millis(LINGER_MS_MAX / 2), "it had {:?}", asked.elapsed());
    Vitals::settled(&server, 0, idle);
    drop(silent);
}

#[test]
fn nobody_who_lingers_holds_up_the_end() {
    let mut server = server();
    let mut streams: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"*x\r\n").expect("send");
        assert!(read_to_end(stream).starts_with("-ERR Protocol error"));
    }
    let asked = Instant::now();
    server.signal(Signal::SIGTERM);
    let exit = server.wait();
    assert_eq!(exit.code(), Some(0), "{}", exit.stderr);
    assert!(asked.elapsed() < Duration::from_millis(LINGER_MS_MAX / 2), "took {:?}", asked.elapsed());
}

/// Clients that never stop sending: what had been carried out when the end was asked for is answered, whole and
/// in order.
#[test]
fn replies_under_way_arrive_when_the_server_ends() {
    let mut server = Server::start(&["--cores", "4"]);
    let clients: Vec<Client> = (0..8).map(|_| Client::connect(server.address())).collect();
    let enough = Barrier::new(clients.len() + 1);
    let counted: Vec<i64> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(thread, mut client)| {
                let enough = &enough;
                scope.spawn(move || {
                    let mut writer = client.writer();
                    let requests = command(&["INCR", &format!("key:{thread}")]).repeat(500);
                    // Sends until the server hears no more.
                    let sender = std::thread::spawn(move || while writer.write_all(&requests).is_ok() {});
                    let mut last = 0;
                    while let Some(reply) = client.try_reply() {
                        last += 1;
                        assert_eq!(reply, Value::Int(last));
                        if last == 1000 {
                            enough.wait();
                        }
                    }
                    sender.join().expect("it ends when the connection does");
                    last
                })
            })
            .collect();
        enough.wait();
        server.signal(Signal::SIGTERM);
        threads.into_iter().map(|thread| thread.join().expect("all in order")).collect()
    });
    assert!(counted.iter().all(|&count| count >= 1000), "{counted:?}");
    let exit = server.wait();
    assert_eq!(exit.code(), Some(0), "{}", exit.stderr);
}

/// A server on its way to the end with two replies of 24 MiB due to a client, more than the kernel takes.
fn ending_with_replies_due() -> (Server, Client, Vec<u8>) {
    let server = server();
    let mut client = Client::connect(server.address());
    let value: Vec<u8> = (0..24 * MIB).map(|i| ((i * 7919) >> 8) as u8).collect();
    assert_eq!(client.call_words(&[b"SET", b"k".as_slice(), &value]), Value::ok());
    client.send(&command(&["GET", "k"]).repeat(3));
    assert_eq!(client.reply().as_bytes(), value);
    server.signal(Signal::SIGTERM);
    server.wait_for_log("draining");
    (server, client, value)
}

#[test]
fn a_slow_reader_gets_all_its_replies_when_the_server_ends() {
    let (mut server, mut client, value) = ending_with_replies_due();
    // The rest takes longer than anybody may stand still.
    let reply = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
    let started = Instant::now();
    let mut received = Vec::new();
    while received.len() < 2 * reply.len() {
        std::thread::sleep(Duration::from_millis(DRAIN_STALL_MS_MAX / 7));
        let left = 2 * reply.len() - received.len();
        let piece = client.bytes(left.min(4 * MIB));
        assert!(!piece.is_empty(), "{} bytes came of {}", received.len(), 2 * reply.len());
        received.extend(piece);
    }
    assert!(started.elapsed() > Duration::from_millis(DRAIN_STALL_MS_MAX));
    assert!(received == reply.repeat(2));
    client.expect_closed();
    let exit = server.wait();
    assert_eq!(exit.code(), Some(0), "{}", exit.stderr);
    assert!(!exit.stderr.contains("not taken its replies"), "{}", exit.stderr);
}

#[test]
fn who_never_reads_does_not_keep_the_server_from_ending() {
    let (mut server, client, _) = ending_with_replies_due();
    // Nobody is let in any more.
    let refused = || TcpStream::connect(server.address()).is_err();
    let deadline = Instant::now() + PATIENCE;
    while !refused() {
        assert!(Instant::now() < deadline, "a server that ends lets clients in");
    }
    let exit = server.wait();
    assert_eq!(exit.code(), Some(0), "{}", exit.stderr);
    assert!(exit.stderr.contains("1 client has not taken its replies"), "{}", exit.stderr);
    drop(client);
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let (mut server, client, _) = ending_with_replies_due();
    // Two in quick succession count as one: a terminal and a supervisor may both send theirs.
    let deadline = Instant::now() + PATIENCE;
    while server.is_running_for(Duration::from_millis(100)) {
        assert!(Instant::now() < deadline, "however often it is asked, it does not end");
        server.signal(Signal::SIGTERM);
    }
    let exit = server.wait();
    assert_eq!(exit.code(), Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("again: ending at once"), "{}", exit.stderr);
    drop(client);
}
