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

/// A configuration file that goes with the test.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(name: &str, text: &str) -> ConfigFile {
        let path = std::env::temp_dir().join(format!("crabcache-settings-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        ConfigFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("a file");
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_wrong_file_is_refused_with_its_place_and_78() {
    let file = ConfigFile::new("wrong", "port = 7001\nmax-memry = \"1gb\"\n");
    for args in [&["--config", file.path()][..], &["--config", file.path(), "--check-config"]] {
        let exit = harness::run_to_end(harness::command(args));
        assert_eq!(exit.code(), Some(78), "{}", exit.stderr);
        let expected = format!("{}:2:1: max-memry: there is no such setting; is it max-memory?\n", file.path());
        assert_eq!(exit.stderr, expected);
    }
    file.write("cluster = false\ncore-port-base = 9000\n");
    let exit = harness::run_to_end(harness::command(&["--config", file.path(), "--check-config"]));
    assert_eq!(exit.code(), Some(78));
    assert!(exit.stderr.contains(":2:18: core-port-base means nothing with --cluster no"), "{}", exit.stderr);
    let missing = harness::run_to_end(harness::command(&["--config", "/nonexistent/c.toml"]));
    assert_eq!(missing.code(), Some(78));
}

#[test]
fn the_configuration_is_printed_with_origins_and_can_be_used_again() {
    let file = ConfigFile::new("print", "max-clients = 123\n");
    let mut command = harness::command(&["--config", file.path(), "--spin-us", "7", "--print-config"]);
    command.env("CRABCACHE_EVICTION", "lru").env("CRABCACHE_TOKEN", "a secret of ours");
    let printed = harness::run_to_end(command);
    assert_eq!(printed.code(), Some(0), "{}", printed.stderr);
    let line = |key: &str| printed.stdout.lines().find(|line| line.starts_with(key)).expect(key).to_string();
    assert!(line("max-clients = 123").ends_with(&format!("# {}:1:15", file.path())));
    assert!(line("spin-us = 7").ends_with("# flag"));
    assert!(line("eviction = \"lru\"").ends_with("# CRABCACHE_EVICTION"));
    assert!(line("port = 7001").ends_with("# default"));
    assert!(line("# token = (redacted)").ends_with("# CRABCACHE_TOKEN"));
    assert!(!printed.stdout.contains("secret of ours"));
    file.write(&printed.stdout);
    let again = harness::run_to_end(harness::command(&["--config", file.path(), "--check-config"]));
    assert_eq!((again.code(), again.stderr.as_str()), (Some(0), ""));
}

#[test]
fn sighup_follows_the_file_and_a_broken_one_changes_nothing() {
    let file = ConfigFile::new("hup", "max-memory = \"200mb\"\n");
    let server = Server::start(&["--cores", "2", "--config", file.path()]);
    let mut client = Client::connect(server.address());
    let memory = |client: &mut Client| text_of(&client.call("CONFIG GET maxmemory"));
    assert!(memory(&mut client).contains("209715200"), "{}", memory(&mut client));
    file.write("max-memory = \"300mb\"\nmax-clients = 77\n");
    server.signal(nix::sys::signal::Signal::SIGHUP);
    server.wait_for_log("max-clients from \\\"10000\\\" to \\\"77\\\" takes a restart");
    assert!(server.log().contains("max-memory from \\\"200mb\\\" to \\\"300mb\\\""), "{}", server.log());
    assert!(memory(&mut client).contains("314572800"));
    file.write("max-memory = \"400mb\"\nmax-clients = many\n");
    server.signal(nix::sys::signal::Signal::SIGHUP);
    server.wait_for_log("SIGHUP: nothing is changed");
    assert!(memory(&mut client).contains("314572800"));
}

#[test]
fn what_is_set_while_running_can_be_written_into_the_file() {
    let file = ConfigFile::new("rewrite", "# the cache of the shop\nmax-memory = \"200mb\"\n");
    let server = Server::start(&["--cores", "2", "--config", file.path()]);
    let mut client = Client::connect(server.address());
    assert_eq!(client.call("CONFIG SET maxmemory 250mb loglevel debug"), Value::ok());
    let refused = text_of(&client.call("CONFIG SET maxmemory 300mb port 1"));
    assert!(refused.contains("it takes a restart"), "{refused}");
    assert_eq!(client.call("CONFIG REWRITE"), Value::ok());
    let text = std::fs::read_to_string(&file.0).expect("the file");
    let expected =
        "# the cache of the shop\nmax-memory = \"250mb\"\n\n# Added by CONFIG REWRITE.\nlog-level = \"debug\"\n";
    assert_eq!(text, expected);
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

#[test]
fn completions_and_the_manual_page_know_every_setting() {
    let printed = |args: &[&str]| {
        let printed = harness::run_to_end(harness::command(args));
        assert_eq!(printed.code(), Some(0), "{args:?}: {}", printed.stderr);
        printed.stdout
    };
    let pages = [
        printed(&["--completions", "bash"]),
        printed(&["--completions", "zsh"]),
        printed(&["--completions", "fish"]),
        // Hyphens of a manual page are written so.
        printed(&["--man-page"]).replace("\\-", "-"),
    ];
    for setting in crabcache::config::SETTINGS {
        assert!(pages.iter().all(|page| page.contains(setting.key)), "{}", setting.key);
    }
    assert!(pages[3].contains(".TH crabcache 1"), "{}", &pages[3][..200]);
}
