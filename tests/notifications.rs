//! What is told of keys is what a real redis-server tells, event by event.

mod harness;
mod support;

use std::net::SocketAddr;

use harness::Server;
use support::client::Client;
use support::peers::{Redis, skip};
use support::value::Value;

/// One command a line.
const COMMANDS: &str = include_str!("notifications/commands.txt");

/// `channel message` of everything that is told while the commands are carried out, after the command it came with.
fn told(address: SocketAddr) -> Vec<String> {
    let (mut client, mut listener) = (Client::connect(address), Client::connect(address));
    assert_eq!(client.call("CONFIG SET notify-keyspace-events KEAnm"), Value::ok());
    listener.call("PSUBSCRIBE __key*");
    let mut told = Vec::new();
    for (number, line) in COMMANDS.lines().enumerate() {
        client.call(line);
        client.call(&format!("PUBLISH __key:end {number}"));
        told.push(format!("# {line}"));
        loop {
            let message = listener.reply();
            let words: Vec<String> = message.as_array()[2..].iter().map(Value::as_text).collect();
            if words[0] == "__key:end" {
                assert_eq!(words[1], number.to_string());
                break;
            }
            told.push(words.join(" "));
        }
    }
    told
}

#[test]
fn events_are_those_of_redis_in_its_order() {
    // Over several cores only the order of what is told of one key is certain.
    let server = Server::start(&["--cores", "1"]);
    let ours = told(server.address());
    let Some(redis) = Redis::start() else {
        return skip("events_are_those_of_redis_in_its_order", "redis-server is not installed");
    };
    let theirs = told(redis.address);
    assert!(theirs.len() > 3 * COMMANDS.lines().count(), "redis-server tells of most of it: {theirs:#?}");
    // What a time in the past did is told at once here, and by Redis when somebody looks or its own time has come.
    let events =
        |all: &[String]| -> Vec<String> { all.iter().filter(|line| !line.starts_with('#')).cloned().collect() };
    assert_eq!(events(&ours), events(&theirs), "with their commands: {ours:#?} instead of {theirs:#?}");
}

/// The databases have channels of their own, wherever their keys are; other namespaces are part of the key.
#[test]
fn each_database_has_its_channels() {
    let server = Server::start(&["--cores", "3"]);
    let (mut client, mut listener) = (Client::connect(server.address()), Client::connect(server.address()));
    assert_eq!(client.call("CONFIG SET notify-keyspace-events K$"), Value::ok());
    listener.call("PSUBSCRIBE __keyspace@*");
    for (line, channel) in [
        ("SET k v", "__keyspace@0__:k"),
        ("SET shop^k v", "__keyspace@0__:shop^k"),
        ("SET db7^k v", "__keyspace@7__:k"),
    ] {
        assert_eq!(client.call(line), Value::ok());
        assert_eq!(listener.reply().as_array()[2..], [Value::bulk(channel), Value::bulk("set")], "{line}");
    }
    for database in (0..16).rev() {
        client.call(&format!("SELECT {database}"));
        assert_eq!(client.call("SET a^b v"), Value::ok());
        let channel = format!("__keyspace@{database}__:a^b");
        assert_eq!(listener.reply().as_array()[2..], [Value::bulk(channel), Value::bulk("set")]);
    }
}
