//! The admin HTTP as its users see it: metrics, health, keys, and what it refuses.

mod harness;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use harness::{PATIENCE, Server};
use serde_json::Value as Json;
use support::client::Client;
use support::value::Value;

struct Admin {
    _server: Server,
    data: SocketAddr,
    address: SocketAddr,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

impl Admin {
    fn start(args: &[&str]) -> Admin {
        let server = Server::start(&[&["--cores", "2", "--admin-port", "0"], args].concat());
        let log = server.log();
        let (_, rest) = log.split_once("admin on http://").expect("it says where it listens");
        let address = rest.split(['"', ',', '\n', ' ']).next().expect("an address").parse().expect("an address");
        let admin = Admin { data: server.address(), _server: server, address };
        let deadline = Instant::now() + PATIENCE;
        while admin.get("/readyz").status != 200 {
            assert!(Instant::now() < deadline, "never ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        admin
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).expect("send");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(bytes[..at].to_vec()).expect("UTF-8");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head, body: bytes.split_off(at) }
    }

    fn ask(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> Answer {
        let host = self.address;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.raw(&[head.as_bytes(), body].concat())
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, "", b"")
    }
}

#[test]
fn every_route_that_reads_answers() {
    let admin = Admin::start(&[]);
    assert_eq!((admin.get("/livez").text().as_str(), admin.get("/livez").status), ("ok\n", 200));
    let health = admin.get("/health");
    assert_eq!((health.status, health.json()["status"].as_str()), (200, Some("ok")));
    assert_eq!(health.json()["cores"], 2);
    assert_eq!(admin.get("/stats").json()["server"]["cores"], 2);
    let config = admin.get("/config").json();
    assert_eq!((config["cores"]["value"].as_str(), config["cores"]["origin"].as_str()), (Some("2"), Some("flag")));
    let described = admin.get("/openapi.json").json();
    assert_eq!(described["openapi"], "3.1.0");
    for (path, methods) in described["paths"].as_object().expect("paths") {
        if methods.get("get").is_some() && !path.contains('{') && path != "/events" {
            assert_eq!(admin.get(path).status, 200, "{path}");
            let head = admin.ask("HEAD", path, "", b"");
            assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        }
    }
    let page = admin.get("/dashboard");
    assert!(page.head.contains("content-security-policy: default-src 'none'") && page.text().contains("<html lang"));
    assert!(page.head.contains("script-src 'sha256-") && !page.head.contains("unsafe"), "{}", page.head);
    assert_eq!(admin.get("/hotkeys?count=many").status, 400);
}

#[test]
fn metrics_follow_what_clients_do_under_both_names() {
    let admin = Admin::start(&[]);
    let mut client = Client::connect(admin.data);
    for i in 0..30 {
        assert_eq!(client.call(&format!("SET key:{i} v")), Value::ok());
        client.call(&format!("GET key:{i}"));
        client.call(&format!("GET nokey:{i}"));
    }
    let value = |page: &str, name: &str| -> f64 {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {page}"));
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    };
    let page = admin.get("/metrics");
    assert!(page.head.contains("content-type: text/plain; version=0.0.4"), "{}", page.head);
    let page = page.text();
    assert_eq!(value(&page, "crabcache_db_keys{db=\"db0\"} "), 30.0);
    assert_eq!(value(&page, "crabcache_keyspace_misses_total "), 30.0);
    assert_eq!(value(&page, "crabcache_commands_total{cmd=\"get\"} "), 60.0);
    assert_eq!(value(&page, "crabcache_command_duration_seconds_count{family=\"read\"} "), 60.0);
    assert!(value(&page, "crabcache_commands_duration_seconds_total{cmd=\"set\"} ") > 0.0);
    let board = admin.get("/metrics?compat=redis_exporter").text();
    assert_eq!(value(&board, "redis_keyspace_hits_total "), 30.0);
    assert!(!board.contains("crabcache_core_"));
    assert_eq!(admin.get("/metrics?compat=other").status, 400);
}

#[test]
fn keys_can_be_read_and_changes_need_a_token() {
    let admin = Admin::start(&[]);
    let mut client = Client::connect(admin.data);
    assert_eq!(client.call("SET greeting hello PX 100000"), Value::ok());
    assert_eq!(client.call("SET app^x y"), Value::ok());
    let answer = admin.get("/v1/kv/default/greeting");
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert!(answer.head.contains("x-ttl-ms: "), "{}", answer.head);
    assert_eq!(admin.get("/v1/kv/app/x").text(), "y");
    assert_eq!(admin.get("/v1/kv/default/nothing").status, 404);
    assert_eq!(admin.get("/v1/kv/default/app%5Ex").status, 400, "another namespace's");
    assert_eq!(admin.get("/v1/kv/a%5Eb/x").status, 400, "no name");
    for method in ["PUT", "DELETE"] {
        let refused = admin.ask(method, "/v1/kv/default/greeting", "", b"x");
        assert_eq!(refused.status, 403, "{method}: {}", refused.text());
    }
    assert_eq!(client.call("GET greeting"), Value::bulk("hello"));
}

#[test]
fn what_is_not_meant_for_it_is_refused() {
    let admin = Admin::start(&["--admin-hosts", "cache.example"]);
    let with_host =
        |host: &str| admin.raw(format!("GET /stats HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes());
    assert_eq!(with_host("cache.example:1").status, 200);
    assert_eq!(with_host("evil.example").status, 421);
    assert_eq!(admin.ask("GET", "/stats", "origin: http://evil.example\r\n", b"").status, 403);
    assert_eq!(admin.ask("GET", "/stats", "sec-fetch-site: cross-site\r\n", b"").status, 403);
    assert_eq!(admin.ask("POST", "/stats", "", b"").status, 405);
    assert_eq!(admin.get("/nothing").status, 404);
    for (request, status) in [
        (&b"*1\r\n$4\r\nPING\r\n"[..], 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", 411),
        (b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n", 413),
    ] {
        assert_eq!(admin.raw(request).status, status);
    }
}

#[test]
fn a_slow_client_and_many_silent_ones_do_not_keep_others_waiting() {
    let admin = Admin::start(&[]);
    let mut silent: Vec<TcpStream> = (0..40).map(|_| admin.connect()).collect();
    for stream in &mut silent {
        stream.write_all(b"GET /metr").expect("send");
    }
    assert_eq!(admin.get("/livez").status, 200);
    assert_eq!(silent.len(), 40);
}

#[test]
fn one_connection_takes_several_requests() {
    let admin = Admin::start(&[]);
    let host = admin.address;
    let one = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let last = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let mut stream = admin.connect();
    stream.write_all(format!("{one}{one}{last}").as_bytes()).expect("send");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answers");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
}

#[test]
fn events_tell_of_the_server_every_second() {
    let admin = Admin::start(&[]);
    let mut stream = admin.connect();
    stream.write_all(format!("GET /events HTTP/1.1\r\nhost: {}\r\n\r\n", admin.address).as_bytes()).expect("send");
    let mut text = String::new();
    let mut piece = [0; 65536];
    while text.matches("event: stats\n").count() < 3 || !text.ends_with("\n\n") {
        let len = stream.read(&mut piece).expect("events");
        assert!(len > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&piece[..len]));
    }
    let uptimes: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|json| serde_json::from_str::<Json>(json).expect("JSON")["server"]["uptime_us"].as_u64().expect("a time"))
        .collect();
    assert!(uptimes.is_sorted() && uptimes.len() >= 3, "{uptimes:?}");
}
