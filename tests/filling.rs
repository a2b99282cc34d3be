//! Many clients miss the same key at once: one is told to fill it in, all get what it has found.

mod harness;
mod support;

use std::time::Duration;

use harness::Server;
use support::client::Client;
use support::value::Value;
use support::vitals::{info_becomes, info_number};

const CORES: usize = 3;
const CLIENTS: usize = 200;

fn start() -> Server {
    Server::start(&["--cores", &CORES.to_string()])
}

fn connect(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::connect(server.address())).collect()
}

/// The token, if the reply is that the client fills in the key.
fn token_of(reply: &Value) -> Option<String> {
    match reply {
        Value::Array(words) if words.first() == Some(&Value::bulk("FILL")) => Some(words[1].as_text()),
        _ => None,
    }
}

#[test]
fn a_stampede_asks_the_database_once() {
    let server = start();
    let mut clients = connect(&server, CLIENTS);
    let mut operator = Client::connect(server.address());
    for key in 0..5 {
        for client in &mut clients {
            client.send(format!("GET key:{key} FILL 60000\r\n").as_bytes());
        }
        info_becomes(&mut operator, "blocked_clients", CLIENTS - 1);
        let filler = clients.iter().position(|client| client.readable_within(Duration::ZERO)).expect("one is told");
        let token = token_of(&clients[filler].reply()).expect("told to fill in the key");
        let set = format!("SET key:{key} found-{key} EX 100 FILL {token}");
        assert_eq!(clients[filler].call(&set), Value::ok());
        for (_, client) in clients.iter_mut().enumerate().filter(|(client, _)| *client != filler) {
            assert_eq!(client.reply(), Value::bulk(format!("found-{key}")));
        }
        info_becomes(&mut operator, "blocked_clients", 0);
    }
    assert_eq!(info_number(&mut operator, "fills_told"), 5);
    assert_eq!(info_number(&mut operator, "fills_waited"), 5 * (CLIENTS - 1));
    assert_eq!(info_number(&mut operator, "fills_current"), 0);
}

#[test]
fn fillers_that_die_are_replaced_until_one_does_it() {
    let server = start();
    let mut clients = connect(&server, 20);
    let mut operator = Client::connect(server.address());
    for client in &mut clients {
        client.send(b"GET k FILL 60000\r\n");
    }
    info_becomes(&mut operator, "blocked_clients", 19);
    for alive in (1..20).rev() {
        // Found by looking, because which of the waiters came first is not known.
        let filler = loop {
            if let Some(filler) = clients.iter().position(|client| client.readable_within(Duration::from_millis(1))) {
                break filler;
            }
        };
        let mut filler = clients.remove(filler);
        let token = token_of(&filler.reply()).expect("told to fill in the key");
        if alive > 1 {
            drop(filler);
            info_becomes(&mut operator, "blocked_clients", alive - 1);
        } else {
            assert_eq!(filler.call(&format!("SET k found FILL {token}")), Value::ok());
        }
    }
    assert_eq!(clients[0].reply(), Value::bulk("found"));
    assert_eq!(info_number(&mut operator, "fills_handed_over"), 18);
}

#[test]
fn a_wait_ends_by_itself_and_the_late_filler_is_told_so() {
    let server = start();
    let (mut filler, mut waiter) = (Client::connect(server.address()), Client::connect(server.address()));
    let token = token_of(&filler.call("GET k FILL 20")).expect("told to fill in the key");
    // Whoever asks while another fills waits, and is told when that one is late.
    let second = token_of(&waiter.call("GET k FILL 60000")).expect("told in the end");
    assert_ne!(token, second);
    assert_eq!(filler.call(&format!("SET k late FILL {token}")), Value::NilBulk);
    assert_eq!(filler.call("GET k FILL 1"), Value::NilBulk, "its time was over");
    assert_eq!(waiter.call(&format!("SET k found FILL {second}")), Value::ok());
    assert_eq!(filler.call("GET k FILL 1"), Value::bulk("found"));
}
