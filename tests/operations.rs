//! What operators and test suites do to a running server: watching commands, stopping clients, waiting, DEBUG.

mod harness;
mod support;

use std::time::{Duration, Instant};

use harness::Server;
use support::client::{Client, PATIENCE};
use support::value::Value;
use support::vitals::{info_becomes, info_number};

fn start(options: &[&str]) -> Server {
    Server::start(&[&["--cores", "3"], options].concat())
}

/// The next line of a monitor that has `text` in it.
fn line_with(monitor: &mut Client, text: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "no line with {text}");
        match monitor.reply() {
            Value::Simple(line) => {
                let line = String::from_utf8(line).expect("ASCII");
                if line.contains(text) {
                    return line;
                }
            }
            other => panic!("not a line: {other:?}"),
        }
    }
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

#[test]
fn a_monitor_sees_the_commands_of_all_clients_without_their_secrets() {
    let server = start(&[]);
    let mut monitors: Vec<Client> = (0..4).map(|_| Client::connect(server.address())).collect();
    for monitor in &mut monitors {
        assert_eq!(monitor.call("MONITOR"), Value::ok());
    }
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(server.address())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.call_words(&[b"SET", format!("key:{number}").as_bytes(), b"a\"\r\n\xff"]), Value::ok());
        client.call("AUTH default secret");
        client.call("CONFIG GET port");
        client.call(&format!("ECHO {number}"));
    }
    let one = &mut clients[0];
    for line in ["MULTI", "INCR counter", "GET counter", "EXEC", "ECHO end"] {
        one.call(line);
    }
    for monitor in &mut monitors {
        // Each client's commands come in their order; between clients there is none.
        let mut all = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while !(all.iter().any(|line: &String| line.ends_with(r#""ECHO" "end""#)) && all.len() >= 6 * 3 + 5) {
            assert!(Instant::now() < deadline, "{all:#?}");
            all.push(line_with(monitor, "[0 127.0.0.1:"));
        }
        assert!(all.iter().all(|line| !line.contains("secret") && !line.contains("CONFIG")), "{all:#?}");
        assert!(all.iter().any(|line| line.ends_with(r#""AUTH" "(redacted)" "(redacted)""#)), "{all:#?}");
        for number in 0..6 {
            let set = format!(r#""SET" "key:{number}" "a\"\r\n\xff""#);
            assert_eq!(all.iter().filter(|line| line.ends_with(&set)).count(), 1, "{all:#?}");
        }
        let place = |end: &str| all.iter().position(|line| line.ends_with(end)).expect("shown");
        let order = [r#""MULTI""#, r#""INCR" "counter""#, r#""GET" "counter""#, r#""EXEC""#].map(place);
        assert!(order.is_sorted(), "{all:#?}");
    }
    assert_eq!(info_number(&mut clients[1], "monitor_clients"), 4);
    // One ends it, one leaves, two are closed: nobody is shown anything any more.
    monitors[0].send(b"RESET\r\n");
    drop(monitors.pop());
    drop(monitors);
    info_becomes(&mut clients[1], "monitor_clients", 0);
    let shown = info_number(&mut clients[1], "monitor_lines");
    clients[2].call("GET key");
    assert_eq!(info_number(&mut clients[1], "monitor_lines"), shown);
}

#[test]
fn paused_clients_wait_and_lose_nothing() {
    let server = start(&[]);
    let mut operator = Client::connect(server.address());
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(server.address())).collect();
    assert_eq!(operator.call("CLIENT PAUSE 600000 WRITE"), Value::ok());
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET key:{number}\r\nSET key:{number} v\r\nGET key:{number}\r\n").as_bytes());
        // Reading goes on, up to the first write.
        assert_eq!(client.reply(), Value::NilBulk);
    }
    info_becomes(&mut operator, "client_pauses", 6);
    for client in &mut clients {
        assert!(!client.readable_within(Duration::from_millis(5)));
    }
    assert_eq!(operator.call("CLIENT UNPAUSE"), Value::ok());
    for client in &mut clients {
        assert_eq!(client.reply(), Value::ok());
        assert_eq!(client.reply(), bulk("v"));
    }
    // A pause of everything ends by itself, and is no weaker for a later one.
    let began = Instant::now();
    assert_eq!(operator.call("CLIENT PAUSE 300 ALL"), Value::ok());
    clients[0].send(b"PING\r\n");
    assert_eq!(clients[0].reply(), Value::Simple(b"PONG".to_vec()));
    assert!(began.elapsed() >= Duration::from_millis(295), "{:?}", began.elapsed());
    // Transactions that write wait, others do not.
    assert_eq!(clients[2].call("MULTI"), Value::ok());
    assert_eq!(clients[2].call("SET key:1 w"), Value::Simple(b"QUEUED".to_vec()));
    assert_eq!(operator.call("CLIENT PAUSE 600000 WRITE"), Value::ok());
    for line in ["MULTI", "GET key:1", "EXEC"] {
        clients[1].call(line);
    }
    clients[2].send(b"EXEC\r\n");
    assert!(!clients[2].readable_within(Duration::from_millis(5)));
    // Who leaves meanwhile leaves nothing behind.
    drop(clients.remove(2));
    assert_eq!(operator.call("CLIENT UNPAUSE"), Value::ok());
    assert_eq!(operator.call("PING"), Value::Simple(b"PONG".to_vec()));
}

#[test]
fn who_waits_can_be_unblocked_from_anywhere() {
    let server = start(&[]);
    let mut operator = Client::connect(server.address());
    for number in 0..6 {
        let mut waiter = Client::connect(server.address());
        let id = waiter.call("CLIENT ID").as_int();
        waiter.send(b"WAIT 1 0\r\nPING\r\n");
        info_becomes(&mut operator, "blocked_clients", 1);
        let how = if number % 2 == 0 { "TIMEOUT" } else { "ERROR" };
        assert_eq!(operator.call(&format!("CLIENT UNBLOCK {id} {how}")), Value::Int(1));
        let expected = match number % 2 {
            0 => Value::Int(0),
            _ => Value::Error(b"UNBLOCKED client unblocked via CLIENT UNBLOCK".to_vec()),
        };
        assert_eq!(waiter.reply(), expected);
        assert_eq!(waiter.reply(), Value::Simple(b"PONG".to_vec()));
        assert_eq!(operator.call(&format!("CLIENT UNBLOCK {id}")), Value::Int(0));
    }
    // Who leaves while it waits is forgotten.
    let mut waiter = Client::connect(server.address());
    waiter.send(b"WAIT 1 0\r\n");
    info_becomes(&mut operator, "blocked_clients", 1);
    drop(waiter);
    info_becomes(&mut operator, "blocked_clients", 0);
    let began = Instant::now();
    assert_eq!(operator.call("WAIT 1 50"), Value::Int(0));
    assert!(began.elapsed() >= Duration::from_millis(49), "{:?}", began.elapsed());
}

#[test]
fn debug_helps_test_suites_where_it_is_allowed() {
    let server = start(&["--enable-debug-command", "local"]);
    let mut client = Client::connect(server.address());
    let mut other = Client::connect(server.address());
    client.call("CONFIG SET slowlog-log-slower-than 1000 latency-monitor-threshold 50");
    client.call("SLOWLOG RESET");
    let began = Instant::now();
    client.send(b"DEBUG SLEEP 0.2\r\nPING\r\n");
    info_becomes(&mut other, "blocked_clients", 1);
    assert_eq!(client.reply(), Value::ok());
    assert!(began.elapsed() >= Duration::from_millis(195), "{:?}", began.elapsed());
    assert_eq!(client.reply(), Value::Simple(b"PONG".to_vec()));
    // It is slow, and a moment to remember.
    let entries = other.call("SLOWLOG GET -1");
    let sleep = Value::Array(["DEBUG", "SLEEP", "0.2"].map(bulk).to_vec());
    let entry =
        entries.as_array().iter().find(|entry| entry.as_array()[3] == sleep).expect("logged").as_array().to_vec();
    assert!((190_000..60_000_000).contains(&entry[2].as_int()), "{entry:?}");
    let latest = other.call("LATENCY LATEST");
    let event = latest.as_array().iter().find(|event| event.as_array()[0] == bulk("command")).expect("an event");
    assert!(event.as_array()[3].as_int() >= 190, "{event:?}");
    let history = other.call("LATENCY HISTORY command");
    assert!(!history.as_array().is_empty());
    assert!(!other.call("LATENCY GRAPH command").is_error());
    assert_eq!(other.call("LATENCY RESET command"), Value::Int(1));
    // The rest.
    assert_eq!(client.call("DEBUG CHANGE-REPL-ID"), Value::ok());
    assert_eq!(client.call("DEBUG LOG text"), Value::ok());
    assert_eq!(client.call("DEBUG ERROR OOPS"), Value::Error(b"OOPS".to_vec()));
    assert_eq!(client.call("DEBUG OBJECT nosuch"), Value::Error(b"ERR no such key".to_vec()));
    for number in 0..8 {
        client.call(&format!("SET key:{number} {number}"));
        let text = client.call(&format!("DEBUG OBJECT key:{number}"));
        assert!(String::from_utf8_lossy(text.as_bytes()).contains("encoding:int serializedlength:1"), "{text:?}");
    }
    assert_eq!(client.call("DEBUG PROTOCOL integer"), Value::Int(12345));
    assert!(client.call("DEBUG PROTOCOL nosuch").is_error());
    assert!(client.call("DEBUG NOSUCH").is_error());
    // Without expiry in the background keys stay until somebody meets them.
    assert_eq!(client.call("DEBUG SET-ACTIVE-EXPIRE 0"), Value::ok());
    for number in 0..30 {
        client.call(&format!("SET gone:{number} v PX 1"));
    }
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(client.call("DBSIZE"), Value::Int(38));
    assert_eq!(client.call("GET gone:1"), Value::NilBulk);
    assert_eq!(client.call("DBSIZE"), Value::Int(37));
    assert_eq!(client.call("DEBUG SET-ACTIVE-EXPIRE 1"), Value::ok());
    let deadline = Instant::now() + PATIENCE;
    while client.call("DBSIZE") != Value::Int(8) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
}
