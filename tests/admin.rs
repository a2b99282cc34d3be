//! The admin HTTP as its users see it: metrics, health, keys, and what it refuses.

mod harness;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use harness::{PATIENCE, Server};
use nix::sys::signal::Signal;
use serde_json::Value as Json;
use support::client::Client;
use support::tokens::TokensFile;
use support::value::Value;

struct Admin {
    server: Server,
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
        let admin = Admin { data: server.address(), server, address };
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

const TOKENS: &str = r#"
[[token]]
name = "ops"
secret = "ops-secret"
scopes = "all"

[[token]]
name = "shop"
secret = "shop-secret"
scopes = ["read", "write"]
keys = ["shop^*"]

[[token]]
name = "reader"
secret = "reader-secret"
scopes = ["read"]

[[token]]
name = "slow"
secret = "slow-secret"
scopes = ["read"]
commands-per-second = 1
commands-burst = 3
"#;

fn bearer(secret: &str) -> String {
    format!("authorization: Bearer {secret}\r\n")
}

#[test]
fn whoever_has_a_token_changes_what_it_allows() {
    let tokens = TokensFile::new(TOKENS);
    let admin = Admin::start(&["--tokens-file", tokens.path(), "--disabled-commands", "hotkeys"]);
    let (ops, shop, reader) = (bearer("ops-secret"), bearer("shop-secret"), bearer("reader-secret"));
    // Bytes are bytes, in keys and in values, and a life is given with them.
    let value: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let target = "/v1/kv/shop/a%00b%2Fc%C3%A9";
    assert_eq!(admin.ask("PUT", &format!("{target}?ttl=90s"), &ops, &value).status, 204);
    let answer = admin.ask("GET", target, &reader, b"");
    assert_eq!((answer.status, answer.body.as_slice()), (200, value.as_slice()));
    let ttl_ms = answer.head.split("x-ttl-ms: ").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a life");
    assert!((1..=90_000).contains(&ttl_ms.parse::<u64>().expect("a number")), "{ttl_ms}");
    // It is the same key for clients of the data port.
    let mut client = Client::connect(admin.data);
    assert_eq!(client.call("AUTH ops-secret"), Value::ok());
    assert_eq!(client.call_words(&[&b"STRLEN"[..], b"shop^a\0b/c\xc3\xa9"]), Value::Int(value.len() as i64));
    // An empty value, and a life that is none.
    assert_eq!(admin.ask("PUT", "/v1/kv/shop/empty", &shop, b"").status, 204);
    assert_eq!(admin.ask("GET", "/v1/kv/shop/empty", &shop, b"").body, b"");
    assert_eq!(admin.ask("PUT", "/v1/kv/shop/empty?ttl=soon", &shop, b"x").status, 400);
    // Nobody goes beyond his token.
    for (method, target, headers, status) in [
        ("PUT", "/v1/kv/other/a", &shop, 403),
        ("GET", "/v1/kv/default/a", &shop, 403),
        ("DELETE", "/v1/kv/shop/empty", &reader, 403),
        ("GET", "/config", &reader, 403),
        ("GET", "/stats", &shop, 403),
        ("GET", "/stats", &reader, 200),
        ("GET", "/hotkeys", &ops, 403),
        ("GET", "/config", &ops, 200),
        ("DELETE", "/v1/kv/shop/empty", &shop, 204),
        ("DELETE", "/v1/kv/shop/empty", &shop, 404),
    ] {
        let answer = admin.ask(method, target, headers, b"");
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
    }
    // What is open to everybody says nothing of keys or settings; all else asks for a token.
    for open in ["/", "/livez", "/readyz", "/health", "/metrics", "/dashboard", "/openapi.json"] {
        let answer = admin.get(open);
        assert!(answer.status == 200 && !answer.text().contains("shop^"), "{open}");
    }
    for closed in ["/stats", "/hotkeys", "/config", "/events", "/v1/kv/shop/empty"] {
        assert!([401, 403].contains(&admin.get(closed).status), "{closed}");
    }
    let long = "x".repeat(20 << 20);
    assert_eq!(client.call(&format!("SET shop^long {long}")), Value::ok());
    assert_eq!(admin.ask("GET", "/v1/kv/shop/long", &ops, b"").status, 413);
}

/// Tenants who reached the admin port read each other's names in the metrics.
#[test]
fn metrics_name_namespaces_to_whoever_may_know() {
    let tokens = TokensFile::new(TOKENS);
    let admin = Admin::start(&["--tokens-file", tokens.path()]);
    let mut ops = Client::connect(admin.data);
    assert_eq!(ops.call("AUTH ops-secret"), Value::ok());
    assert_eq!(ops.call("SET shop^a b"), Value::ok());
    let named = "crabcache_namespace_items{namespace=\"shop\"} 1";
    let metrics = |headers: &str| {
        let answer = admin.ask("GET", "/metrics", headers, b"");
        (answer.status, answer.text().contains(named), answer.text().contains("shop"))
    };
    let authorized = bearer("ops-secret");
    assert_eq!(metrics(""), (200, false, false));
    assert!(admin.get("/metrics").text().contains("crabcache_core_commands_processed_total{core=\"1\"}"));
    assert_eq!(metrics(&authorized), (200, true, true));
    // Whoever shows something has to be right, and allowed to: a mistake in a scraper's settings is not hidden.
    assert_eq!(metrics(&bearer("shop-secret")).0, 403, "a tenant's token");
    assert_eq!(metrics("authorization: Basic abc\r\n").0, 401);
    assert_eq!(ops.call("CONFIG SET metrics-without-token all"), Value::ok());
    assert_eq!(metrics(""), (200, true, true));
    assert_eq!(ops.call("CONFIG SET metrics-without-token nothing"), Value::ok());
    assert_eq!((metrics("").0, admin.get("/metrics?compat=redis_exporter").status), (401, 401));
    assert_eq!((metrics(&authorized), admin.get("/livez").status), ((200, true, true), 200));
    // Where nobody has to say who he is there is nobody to hide it from, unless STATS is taken away.
    let open = Admin::start(&[]);
    assert_eq!(Client::connect(open.data).call("SET shop^a b"), Value::ok());
    assert!(open.get("/metrics").text().contains(named));
    let without = Admin::start(&["--disabled-commands", "stats"]);
    assert_eq!(Client::connect(without.data).call("SET shop^a b"), Value::ok());
    let page = without.get("/metrics");
    assert!(page.status == 200 && !page.text().contains("shop"), "{}", page.text());
}

/// Guessing over HTTP is as slow as over the data port, and rates hold on both.
#[test]
fn who_guesses_over_http_has_to_wait() {
    let tokens = TokensFile::new(TOKENS);
    let admin = Admin::start(&["--tokens-file", tokens.path()]);
    let mut ops = Client::connect(admin.data);
    assert_eq!(ops.call("AUTH ops-secret"), Value::ok());
    assert_eq!(admin.ask("GET", "/stats", &bearer("wrong"), b"").status, 401);
    let waiting = admin.ask("GET", "/stats", &bearer("ops-secret"), b"");
    assert_eq!(waiting.status, 429, "the right one has to wait, too: {}", waiting.text());
    assert!(waiting.head.contains("retry-after: 1\r\n"), "{}", waiting.head);
    assert_eq!(admin.get("/livez").status, 200);
    let deadline = Instant::now() + PATIENCE;
    while admin.ask("GET", "/stats", &bearer("ops-secret"), b"").status != 200 {
        assert!(Instant::now() < deadline, "it never may");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(format!("{:?}", ops.call("ACL LOG")).contains("admin HTTP"));
    assert!(admin.server.log().contains("of the admin HTTP is refused: wrong secret"));
    assert!(!admin.server.log().contains("ops-secret"));
    let statuses: Vec<u16> =
        (0..12).map(|_| admin.ask("GET", "/v1/kv/default/a", &bearer("slow-secret"), b"").status).collect();
    assert_eq!(statuses[0], 404);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(admin.get("/metrics").text().lines().any(|line| {
        line.strip_prefix("crabcache_http_refused_total ").is_some_and(|count| count.parse::<u64>().unwrap() >= 3)
    }));
}

/// The lists hold for the admin HTTP as for the data port; but nothing that asks from this machine itself, as health
/// checks do, is kept out.
#[test]
fn the_lists_of_addresses_hold_over_http() {
    let tokens = TokensFile::new(TOKENS);
    let bound = ["--tokens-file", tokens.path(), "--admin-bind", "0.0.0.0", "--deny", "0.0.0.0/0"];
    let server = Server::start(&[&["--cores", "1", "--admin-port", "0"], &bound[..]].concat());
    let log = server.log();
    let (_, rest) = log.split_once("admin on http://0.0.0.0:").expect("it says where it listens");
    let port: u16 = rest.split(['"', '\n']).next().and_then(|port| port.parse().ok()).expect("a port");
    let admin = Admin { data: server.address(), address: SocketAddr::from(([127, 0, 0, 1], port)), server };
    assert_eq!(admin.get("/livez").status, 200);
    let mut refused = admin.server.connect();
    assert!(matches!(refused.read(&mut [0; 16]), Ok(0) | Err(_)), "nobody comes to the data port");
    // An address of this machine that is not loopback, if it has any; no packet is sent for this.
    let own = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let Some(own) = own.ok().map(|own| own.ip()).filter(|own| !own.is_loopback()) else { return };
    let livez = |own| {
        let mut stream = TcpStream::connect(SocketAddr::new(own, port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let _ = write!(stream, "GET /livez HTTP/1.0\r\n\r\n");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    };
    assert_eq!(livez(own), "");
    admin.server.wait_for_log("of the admin HTTP is refused: its address is not allowed (--allow, --deny)");
    assert!(admin.get("/metrics").text().contains("\ncrabcache_http_refused_total 1\n"));
}

/// A token that is taken away ends what it had begun.
#[test]
fn listeners_show_their_tokens_again_when_tokens_change() {
    let tokens = TokensFile::new(TOKENS);
    let admin = Admin::start(&["--tokens-file", tokens.path()]);
    let mut stream = admin.connect();
    let head = format!("GET /events HTTP/1.1\r\nhost: {}\r\n{}\r\n", admin.address, bearer("ops-secret"));
    stream.write_all(head.as_bytes()).expect("send");
    let mut piece = [0; 65536];
    assert!(stream.read(&mut piece).expect("events") > 0);
    tokens.write("[[token]]\nname = \"new\"\nsecret = \"another-secret\"\nscopes = \"all\"\n");
    admin.server.signal(Signal::SIGHUP);
    admin.server.wait_for_log("SIGHUP: the token ops is gone");
    while stream.read(&mut piece).expect("an end") > 0 {}
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
    let followed = "sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: document\r\n";
    assert_eq!(admin.ask("GET", "/stats", followed, b"").status, 403);
    assert_eq!(admin.ask("GET", "/dashboard", followed, b"").status, 200, "a link may lead there");
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
    // More than it takes: whoever has been silent for longest makes room.
    let mut silent: Vec<TcpStream> = (0..200).map(|_| admin.connect()).collect();
    for stream in &mut silent {
        // It may be closed already.
        let _ = stream.write_all(b"GET /metr");
    }
    for _ in 0..10 {
        assert_eq!(admin.get("/livez").status, 200);
    }
    assert_eq!(silent.len(), 200);
}

#[test]
fn one_connection_takes_several_requests() {
    let admin = Admin::start(&[]);
    let host = admin.address;
    let one = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let last = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let mut stream = admin.connect();
    // More of them than one client gets in a turn.
    stream.write_all((one.repeat(100) + &last).as_bytes()).expect("send");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answers");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 101, "{text}");
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
