//! What flags change about a running server, seen by its clients.

mod harness;
mod support;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crabcache::slot::{owner_of_slot, slot_of};
use harness::{Ports, Server};
use support::client::Client;
use support::value::Value;

fn text_of(value: &Value) -> String {
    format!("{value:?}")
}

/// A key that belongs to `core` of two.
fn key_of(core: u32) -> String {
    (0..).map(|i| format!("key:{i}")).find(|key| owner_of_slot(slot_of(key.as_bytes()), 2) == core).expect("a key")
}

#[test]
fn without_a_cluster_there_are_no_nodes_and_no_ports_of_cores() {
    let server = Server::start(&["--cores", "2", "--cluster", "no"]);
    assert!(TcpStream::connect(("127.0.0.1", server.core_port(0))).is_err());
    let mut client = Client::connect(server.address());
    let disabled = Value::Error(b"ERR This instance has cluster support disabled".to_vec());
    for command in ["CLUSTER SLOTS", "CLUSTER NODES", "CLUSTER INFO", "CLUSTER HELP", "ASKING", "READONLY"] {
        assert_eq!(client.call(command), disabled, "{command}");
    }
    for core in 0..2 {
        assert_eq!(client.call(&format!("SET {} v", key_of(core))), Value::ok());
    }
    assert_eq!(client.call("DBSIZE"), Value::Int(2));
}

#[test]
fn cluster_clients_are_sent_to_the_advertised_address() {
    let server = Server::start(&["--cores", "2", "--advertise-address", "cache.example"]);
    let mut client = Client::connect(server.address());
    for command in ["CLUSTER SLOTS", "CLUSTER NODES", "CLUSTER SHARDS"] {
        let told = text_of(&client.call(command));
        assert!(told.contains("cache.example"), "{command}: {told}");
    }
    let mut node = Client::connect(SocketAddr::from(([127, 0, 0, 1], server.core_port(0))));
    let foreign = key_of(1);
    let moved = format!("MOVED {} cache.example:{}", slot_of(foreign.as_bytes()), server.core_port(1));
    assert_eq!(node.call(&format!("GET {foreign}")), Value::Error(moved.into_bytes()));
}

#[test]
fn ports_of_cores_begin_where_they_are_told_to() {
    let ports = Ports::take();
    let base = ports.core(4);
    let server =
        Server::start(&["--cores", "2", "--port", &ports.data().to_string(), "--core-port-base", &base.to_string()]);
    let slots = text_of(&Client::connect(server.address()).call("CLUSTER SLOTS"));
    for core in 0..2 {
        let port = base + core;
        assert!(slots.contains(&format!(":{port}")), "{port} in {slots}");
        let mut node = Client::connect(SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(node.call(&format!("SET {} v", key_of(core.into()))), Value::ok());
    }
    assert!(TcpStream::connect(("127.0.0.1", ports.core(0))).is_err());
}

#[test]
fn a_unix_socket_serves_like_a_port_with_the_permissions_asked_for() {
    let path: PathBuf = std::env::temp_dir().join(format!("crabcache-settings-{}.sock", std::process::id()));
    let path_text = path.to_str().expect("UTF-8");
    let server = Server::start(&["--cores", "2", "--unix-socket", path_text, "--unix-socket-perm", "700"]);
    let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // More than one, so that both cores have some.
    for i in 0..20 {
        let mut stream = UnixStream::connect(&path).expect("connect");
        let commands = format!("SET {{{i}}} v\r\nGET {{{i}}}\r\nCLIENT INFO\r\nQUIT\r\n");
        stream.write_all(commands.as_bytes()).expect("send");
        let mut replies = String::new();
        stream.read_to_string(&mut replies).expect("read");
        assert!(replies.starts_with("+OK\r\n$1\r\nv\r\n$"), "{replies}");
        assert!(replies.contains(&format!("laddr={path_text}")), "{replies}");
        assert!(replies.ends_with("+OK\r\n"), "{replies}");
    }
    assert_eq!(Client::connect(server.address()).call("DBSIZE"), Value::Int(20));
}

#[test]
fn several_addresses_serve_the_same_keys() {
    if TcpStream::connect((Ipv6Addr::LOCALHOST, 1)).is_err_and(|error| error.raw_os_error() == Some(99)) {
        return println!("skipped: this machine has no IPv6");
    }
    let server = Server::start(&["--cores", "2", "--bind", "127.0.0.1", "::1"]);
    let mut v4 = Client::connect(server.address());
    let mut v6 = Client::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, server.port())));
    assert_eq!(v4.call("SET key v"), Value::ok());
    assert_eq!(v6.call("GET key"), Value::bulk("v"));
    let info = v6.call("CLIENT INFO").as_text();
    assert!(info.contains(&format!("laddr=[::1]:{}", server.port())), "{info}");
    // A cluster client stays with the address it came to.
    let slots = text_of(&v6.call("CLUSTER SLOTS"));
    assert!(slots.contains("\"::1\"") && !slots.contains("127.0.0.1"), "{slots}");
}

#[test]
fn spinning_serves_as_well() {
    let server = Server::start(&["--cores", "2", "--spin-us", "200"]);
    let mut client = Client::connect(server.address());
    for i in 0..200 {
        assert_eq!(client.call(&format!("SET key:{i} v")), Value::ok());
        assert_eq!(client.call(&format!("GET key:{i}")), Value::bulk("v"));
    }
}
