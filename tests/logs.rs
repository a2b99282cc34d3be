//! The log as its readers have it: whole lines in every form, floods held back, and a server that nobody's log holds up.

mod harness;
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{PATIENCE, Ports, Server};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::Value as Json;
use support::client::Client;
use support::value::Value;

/// What STATS says of lines that nobody can read: lost, held back.
fn missing(client: &mut Client) -> [u64; 2] {
    let Value::Bulk(json) = client.call("STATS") else { panic!("STATS is a text") };
    let stats: Json = serde_json::from_slice(&json).expect("JSON");
    ["log_lines_lost", "log_lines_held_back"].map(|name| stats["process"][name].as_u64().expect("a number"))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const SECRET: &str = "a-secret-of-this-test";

/// Wrong secrets, one connection each: a wrong one makes its address wait.
fn knock(server: &Server, count: usize) {
    for _ in 0..count {
        let mut client = Client::connect(server.address());
        client.send(b"AUTH evil wrong\r\n");
        client.try_reply();
    }
}

#[test]
fn lines_are_json_for_machines_and_nothing_in_them_breaks_out() {
    let server = Server::start(&["--cores", "1", "--token", SECRET]);
    let mut client = Client::connect(server.address());
    client.call_words(&["AUTH", "evil\r\n\x1b[31m\"", "wrong"]);
    until("the refusal is logged", || server.log().contains("wrong secret"));
    let log = server.log();
    for line in log.lines() {
        let line: Json = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    assert!(!log.contains('\x1b') && !log.contains("wrong\""), "{log}");
    let refusal = log.lines().find(|line| line.contains("wrong secret")).expect("a line");
    assert!(refusal.contains("client 127.0.0.1:") && !refusal.contains(SECRET), "{refusal}");
}

#[test]
fn commands_that_take_long_are_told() {
    let server = Server::start(&["--cores", "1", "--log-format", "human"]);
    let mut client = Client::connect(server.address());
    assert_eq!(client.call("CONFIG SET slowlog-log-slower-than 0"), Value::ok());
    client.call_words(&["SET", "k\n\x1b[2J", "v"]);
    until("it is logged", || server.log().contains("[2J took"));
    let log = server.log();
    let line = log.lines().find(|line| line.contains("[2J")).expect("a line");
    assert!(line.contains("INFO slow command of 127.0.0.1:") && line.contains(" ms"), "{line}");
    assert!(!log.contains('\x1b'), "{log}");
}

#[test]
fn a_flood_of_the_same_is_held_back_and_counted() {
    let server = Server::start(&["--cores", "1", "--deny", "127.0.0.0/8", "--unix-socket", &socket("flood")]);
    let mut refused = 0;
    for _ in 0..400 {
        let mut client = std::net::TcpStream::connect(server.address()).expect("the kernel accepts");
        refused += usize::from(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    }
    assert_eq!(refused, 400);
    let lines = || server.log().matches("its address is not allowed").count();
    until("the flood is logged", || lines() >= 16);
    // Whatever is logged later says how many there were before it.
    until("what was held back is told", || server.log().contains("\"held_back\":"));
    assert!(lines() < 300, "{} lines", lines());
}

fn socket(name: &str) -> String {
    let path = std::env::temp_dir().join(format!("crabcache-logs-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path.to_str().expect("UTF-8").to_string()
}

/// A server whose standard error is `stderr`, and that serves nevertheless.
fn serves_with(stderr: Stdio, what: &str) -> (std::process::Child, Client, Ports) {
    let ports = Ports::take();
    let mut command: Command = harness::command(&["--cores", "1", "--token", SECRET]);
    command.args(["--port", &ports.data().to_string()]).stderr(stderr).stdout(Stdio::null());
    let child = command.spawn().expect("the server starts");
    let address = ([127, 0, 0, 1], ports.data()).into();
    let mut client = None;
    until(what, || {
        client = Client::try_connect(address).ok();
        client.is_some()
    });
    let mut client = client.expect("connected");
    assert_eq!(client.call(&format!("AUTH {SECRET}")), Value::ok());
    (child, client, ports)
}

fn end(mut child: std::process::Child) {
    signal::kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a state") {
            assert!(status.success(), "{status}");
            return;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_behind_the_log_disturbs_nobody() {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let (child, mut client, _ports) = serves_with(full.into(), "a server with a full disk");
    assert_eq!(client.call("SET k v"), Value::ok());
    until("lost lines are counted", || missing(&mut client)[0] > 0);
    end(child);
}

#[test]
fn a_closed_pipe_behind_the_log_disturbs_nobody() {
    let (reader, writer) = UnixStream::pair().expect("a pair");
    drop(reader);
    let writer: std::os::fd::OwnedFd = writer.into();
    let (child, mut client, _ports) = serves_with(writer.into(), "a server whose log nobody reads");
    assert_eq!(client.call("SET k v"), Value::ok());
    until("lost lines are counted", || missing(&mut client)[0] > 0);
    end(child);
}

/// Whoever pauses a terminal (Ctrl-S) pauses no server.
#[test]
fn a_reader_that_stops_reading_holds_nobody_up() {
    let (mut reader, mut writer) = UnixStream::pair().expect("a pair");
    // The pipe is full before the first line.
    writer.set_nonblocking(true).expect("a flag");
    while writer.write(&[b' '; 4096]).is_ok() {}
    writer.set_nonblocking(false).expect("a flag");
    let stderr: std::os::fd::OwnedFd = writer.into();
    let (child, mut client, _ports) = serves_with(stderr.into(), "a server whose log is stuck");
    for step in 0..200 {
        assert_eq!(client.call(&format!("SET k{step} v")), Value::ok());
    }
    // Read again, it says what it has to say.
    reader.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut text = String::new();
    let mut piece = [0; 65536];
    while !text.contains("\"message\":\"ready\"") {
        let len = reader.read(&mut piece).expect("lines");
        text.push_str(&String::from_utf8_lossy(&piece[..len]));
    }
    end(child);
}

#[test]
fn a_terminal_gets_colours_unless_they_are_not_wanted() {
    for (no_color, coloured) in [(None, true), (Some("1"), false)] {
        let pty = nix::pty::openpty(None, None).expect("a terminal");
        let ports = Ports::take();
        let mut command = harness::command(&["--cores", "1", "--port", &ports.data().to_string()]);
        command.stderr(pty.slave).env_remove("NO_COLOR");
        no_color.map(|value| command.env("NO_COLOR", value));
        let child = command.spawn().expect("the server starts");
        drop(command);
        let mut terminal = File::from(pty.master);
        let mut text = String::new();
        let mut piece = [0; 4096];
        while !text.contains("ready") {
            let len = terminal.read(&mut piece).expect("lines");
            text.push_str(&String::from_utf8_lossy(&piece[..len]));
        }
        assert_eq!(text.contains("\x1b[32m INFO\x1b[0m "), coloured, "{text}");
        assert!(!text.contains('{'), "{text}");
        end(child);
    }
}

/// The counters of what is missing count, and the process goes on being told apart from its log.
#[test]
fn wrong_secrets_are_logged_with_their_address_and_not_for_ever() {
    let server = Server::start(&["--cores", "1", "--token", SECRET]);
    knock(&server, 3);
    until("they are logged", || server.log().matches("wrong secret for").count() >= 1);
    let mut client = Client::connect(server.address());
    until("the right secret is let in", || client.call(&format!("AUTH {SECRET}")) == Value::ok());
    assert_eq!(missing(&mut client)[0], 0);
}
