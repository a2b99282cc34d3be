//! Who gets in, what a token allows, and what is refused: seen by clients of the built server.

mod harness;
mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crabcache::proto;
use crabcache::request::Wire;
use harness::{PATIENCE, Server};
use nix::sys::signal::Signal;
use support::client::Client;
use support::tokens::TokensFile;
use support::value::Value;

const TOKENS: &str = r#"
[[token]]
name = "ops"
secret = "ops-secret"
scopes = "all"

[[token]]
name = "shop"
secret = ["shop-secret", "shop-secret-2"]
scopes = ["read", "write"]
keys = ["shop:*"]

[[token]]
name = "reader"
secret = "reader-secret"
scopes = ["read"]

[[token]]
name = "slow"
secret = "slow-secret"
scopes = ["read", "write"]
commands-per-second = 2
commands-burst = 20
"#;

fn start(more: &[&str]) -> (Server, TokensFile) {
    let file = TokensFile::new(TOKENS);
    let server = Server::start(&[&["--cores", "2", "--tokens-file", file.path()], more].concat());
    (server, file)
}

fn error(text: &str) -> Value {
    Value::Error(text.as_bytes().to_vec())
}

/// A client that has said who it is.
fn client_of(server: &Server, secret: &str) -> Client {
    let mut client = Client::connect(server.address());
    assert_eq!(client.call(&format!("AUTH {secret}")), Value::ok());
    client
}

#[test]
fn nothing_is_answered_before_somebody_says_who_he_is() {
    let (server, _file) = start(&[]);
    let mut client = Client::connect(server.address());
    let no_auth = error("NOAUTH Authentication required.");
    for command in
        ["GET a", "SET a b", "PING", "INFO", "MGET a b", "DBSIZE", "CONFIG GET *", "ACL WHOAMI", "CLIENT LIST"]
    {
        assert_eq!(client.call(command), no_auth, "{command}");
    }
    assert!(matches!(client.call("HELLO 3"), Value::Error(text) if text.starts_with(b"NOAUTH HELLO must be called")));
    assert_eq!(client.call("AUTH shop shop-secret"), Value::ok());
    assert_eq!(client.call("SET shop:a b"), Value::ok());
    assert_eq!(client.call("ACL WHOAMI"), Value::bulk("shop"));
    assert!(client.call("CLIENT INFO").as_text().contains(" user=shop "));
    assert_eq!(client.call("RESET"), Value::Simple(b"RESET".to_vec()));
    assert_eq!(client.call("GET shop:a"), no_auth);
    // A pipeline may say it and go on; either secret will do while they are changed.
    let mut stream = server.connect();
    stream.write_all(b"AUTH shop-secret-2\r\nGET shop:a\r\nQUIT\r\n").expect("send");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("replies");
    assert_eq!(text, "+OK\r\n$1\r\nb\r\n+OK\r\n");
    let mut third = Client::connect(server.address());
    assert!(!matches!(third.call("HELLO 3 AUTH reader reader-secret"), Value::Error(_)));
    assert_eq!(third.call("GET nothing"), Value::Null);
}

#[test]
fn a_token_is_confined_to_its_scopes_and_keys() {
    let (server, _file) = start(&[]);
    let mut shop = client_of(&server, "shop-secret");
    let no_key = error("NOPERM No permissions to access a key");
    assert_eq!(shop.call("SET shop:1 a"), Value::ok());
    assert_eq!(shop.call("SET other a"), no_key);
    assert_eq!(shop.call("MSET shop:1 a other b"), no_key);
    assert_eq!(shop.call("MGET shop:1 shop:2"), Value::Array(vec![Value::bulk("a"), Value::NilBulk]));
    assert_eq!(shop.call("RENAME shop:1 other"), no_key);
    for command in
        ["FLUSHALL", "KEYS *", "CONFIG SET maxmemory 1gb", "SCAN 0", "DBSIZE", "CLIENT KILL ID 1", "ACL LIST"]
    {
        let Value::Error(text) = shop.call(command) else { panic!("{command} must be refused") };
        assert!(text.starts_with(b"NOPERM User shop has no permissions to run the '"), "{command}");
    }
    let mut reader = client_of(&server, "reader-secret");
    assert_eq!(reader.call("GET shop:1"), Value::bulk("a"));
    assert_eq!(reader.call("SET shop:1 b"), error("NOPERM User reader has no permissions to run the 'set' command"));
    let mut ops = client_of(&server, "ops-secret");
    assert_eq!(ops.call("DBSIZE"), Value::Int(1));
    assert_eq!(ops.call("FLUSHALL"), Value::ok());
    assert!(format!("{:?}", ops.call("ACL USERS")).contains("shop"));
    let list = format!("{:?}", ops.call("ACL LIST"));
    assert!(list.contains("~shop:*") && list.contains("+@read") && !list.contains("secret"), "{list}");
}

#[test]
fn who_guesses_has_to_wait() {
    let (server, _file) = start(&[]);
    let mut client = Client::connect(server.address());
    let wrong = error("WRONGPASS invalid username-password pair or user is disabled.");
    assert_eq!(client.call("AUTH nothing-of-the-kind"), wrong);
    let Value::Error(text) = client.call("AUTH ops-secret") else { panic!("the right one has to wait, too") };
    assert!(text.starts_with(b"WRONGPASS too many failed attempts: retry in "), "{}", String::from_utf8_lossy(&text));
    let deadline = Instant::now() + PATIENCE;
    while client.call("AUTH ops-secret") != Value::ok() {
        assert!(Instant::now() < deadline, "it never may");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.call("AUTH shop ops-secret"), wrong);
}

#[test]
fn little_is_taken_from_whoever_has_not_said_who_he_is() {
    let (server, _file) = start(&[]);
    for request in [
        &b"*11\r\n$4\r\nMGET\r\n"[..],
        b"*2\r\n$4\r\nAUTH\r\n$100000000\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$17000\r\n",
    ] {
        let mut stream = server.connect();
        stream.write_all(request).expect("send");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an error and the end");
        assert!(text.starts_with('-'), "{text}");
    }
}

#[test]
fn a_rate_is_kept_to() {
    let (server, _file) = start(&[]);
    let mut client = client_of(&server, "slow-secret");
    let mut limited = 0;
    for i in 0..60 {
        match client.call(&format!("SET key:{i} v")) {
            Value::Error(text) => {
                assert!(text.starts_with(b"RATELIMITED retry in "), "{}", String::from_utf8_lossy(&text));
                limited += 1;
            }
            other => assert_eq!(other, Value::ok()),
        }
    }
    // Two a second: a slow machine gives it time to fill, but not so much.
    assert!((5..=40).contains(&limited), "{limited} of 60 were refused");
}

/// What had been moved before there was a rate was charged when one was set, and any change of settings filled the buckets.
#[test]
fn rates_begin_when_they_are_set_and_go_on_when_others_are() {
    let server = Server::start(&["--cores", "1"]);
    let (mut client, mut ops) = (Client::connect(server.address()), Client::connect(server.address()));
    assert_eq!(client.call(&format!("SET large {}", "v".repeat(4 << 20))), Value::ok());
    assert_eq!(ops.call("CONFIG SET connection-bytes-rate 64kb"), Value::ok());
    assert_eq!(client.call("PING"), Value::Simple(b"PONG".to_vec()));
    assert_eq!(ops.call("CONFIG SET connection-bytes-rate 0 connection-commands-rate 1:100"), Value::ok());
    let deadline = Instant::now() + PATIENCE;
    while !matches!(client.call("PING"), Value::Error(_)) {
        assert!(Instant::now() < deadline, "the rate never holds");
    }
    assert_eq!(ops.call("CONFIG SET slowlog-max-len 77"), Value::ok());
    // One a second is gained, by a slow machine a few.
    let again = (0..100).filter(|_| client.call("PING") == Value::Simple(b"PONG".to_vec())).count();
    assert!(again < 50, "{again}");
}

#[test]
fn tokens_are_read_again_and_whoever_has_lost_his_is_closed() {
    let (server, file) = start(&[]);
    let mut shop = client_of(&server, "shop-secret");
    let mut reader = client_of(&server, "reader-secret");
    assert_eq!(shop.call("SET shop:1 a"), Value::ok());
    file.write("[[token]]\nname = \"reader\"\nsecret = \"reader-secret\"\nscopes = [\"read\", \"write\"]\n");
    server.signal(Signal::SIGHUP);
    let deadline = Instant::now() + PATIENCE;
    while reader.call("SET any thing") != Value::ok() {
        assert!(Instant::now() < deadline, "the new scopes never hold");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Its token is gone.
    shop.expect_closed();
    file.write("broken");
    server.signal(Signal::SIGHUP);
    server.wait_for_log("SIGHUP: nothing is changed");
    assert_eq!(reader.call("GET any"), Value::bulk("thing"));
}

#[test]
fn a_token_of_the_settings_protects_and_is_never_shown() {
    let server = Server::start_with(&["--cores", "1", "--bind", "0.0.0.0"], |command| {
        command.env("CRABCACHE_TOKEN", "very-secret");
    });
    let mut client = Client::connect(server.address());
    assert_eq!(client.call("GET a"), error("NOAUTH Authentication required."));
    assert_eq!(client.call("AUTH default very-secret"), Value::ok());
    assert!(format!("{:?}", client.call("CONFIG GET requirepass token")).contains("(redacted)"));
    assert!(!format!("{:?}", client.call("CONFIG GET *")).contains("very-secret"));
    assert_eq!(client.call("CONFIG SET requirepass another-secret"), Value::ok());
    // Which one it was set to, nobody knows by now: its digest has changed.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut other = Client::connect(server.address());
        if other.call("AUTH another-secret") == Value::ok() {
            break;
        }
        assert!(Instant::now() < deadline, "the new secret never holds");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_would_be_open_to_other_machines_is_not_started() {
    let exit = harness::run_to_end(harness::command(&["--cores", "1", "--bind", "0.0.0.0"]));
    assert_eq!(exit.code(), Some(78), "{}", exit.stderr);
    assert!(exit.stderr.contains("set up a token") && exit.stderr.contains("--protected-mode no"), "{}", exit.stderr);
    let file = TokensFile::new(TOKENS);
    file.permit(0o644);
    let exit = harness::run_to_end(harness::command(&["--tokens-file", file.path()]));
    assert_eq!(exit.code(), Some(78));
    assert!(exit.stderr.contains("everybody may read or write it"), "{}", exit.stderr);
}

#[test]
fn disabled_commands_and_denied_networks_are_refused_and_followed_live() {
    let server = Server::start(&["--cores", "1", "--disabled-commands", "flushall,config|rewrite"]);
    let mut client = Client::connect(server.address());
    assert_eq!(client.call("FLUSHALL"), error("ERR the command 'flushall' is disabled here"));
    assert_eq!(client.call("CONFIG REWRITE"), error("ERR the command 'config|rewrite' is disabled here"));
    assert_eq!(client.call("SET a b"), Value::ok());
    assert_eq!(client.call("CONFIG SET deny 127.0.0.0/8"), Value::ok());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut other = server.connect();
        other.write_all(b"PING\r\nQUIT\r\n").ok();
        let mut text = String::new();
        if other.read_to_string(&mut text).is_err() || text.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "still let in");
    }
    // Whoever is in stays in.
    assert_eq!(client.call("GET a"), Value::bulk("b"));
    assert_eq!(client.call_words(&["CONFIG", "SET", "deny", "", "allow", "127.0.0.1"]), Value::ok());
}

#[test]
fn silent_clients_are_closed_and_others_are_not() {
    let server = Server::start(&["--cores", "1", "--idle-timeout", "1s"]);
    let mut silent = Client::connect(server.address());
    let mut busy = Client::connect(server.address());
    assert_eq!(silent.call("PING"), Value::Simple(b"PONG".to_vec()));
    let deadline = Instant::now() + PATIENCE;
    while !silent.readable_within(Duration::from_millis(50)) {
        assert_eq!(busy.call("PING"), Value::Simple(b"PONG".to_vec()));
        assert!(Instant::now() < deadline, "never closed");
    }
    silent.expect_closed();
}

/// Redis's fields, as a client in either protocol finds them.
#[test]
fn refusals_are_listed_with_who_and_what() {
    let (server, _file) = start(&[]);
    let mut shop = client_of(&server, "shop-secret");
    for _ in 0..3 {
        shop.call("SET other:1 a");
    }
    shop.call("FLUSHALL");
    assert!(shop.call("ACL LOG").is_error(), "it is for operators");
    let mut ops = client_of(&server, "ops-secret");
    let mut guesser = Client::connect(server.address());
    guesser.call_words(&[&b"AUTH"[..], b"no\x1b[31m\nbody", b"wrong-secret"]);
    let Value::Array(entries) = ops.call("ACL LOG") else { panic!("a list") };
    let entry = |reason: &str| {
        let entries = entries.iter().map(|entry| format!("{entry:?}"));
        entries.filter(|entry| entry.contains(&format!("{reason:?}"))).collect::<Vec<_>>().join("\n")
    };
    assert!(entry("key").contains("other:1") && entry("key").contains("shop"), "{entries:?}");
    assert!(entry("command").contains("flushall") || entry("command").contains("acl|log"), "{entries:?}");
    assert!(entry("auth").contains("no [31m body"), "{entries:?}");
    assert_eq!(ops.call("ACL LOG RESET"), Value::ok());
    assert_eq!(ops.call("ACL LOG"), Value::Array(vec![]));
    // Nothing of it steers the terminal of whoever reads the log.
    assert!(!server.log().contains('\x1b'), "{}", server.log());
}

/// Lines of JSON are held to the same rules, and nobody is thrown out for asking.
#[test]
fn json_lines_say_who_they_are_as_well() {
    let (server, _file) = start(&[]);
    let mut client = Client::connect(server.address());
    let long = format!("{{\"action\":\"SET\",\"key\":\"k\",\"value\":\"{}\"}}", "v".repeat(20_000));
    let lines = [
        r#"{"action":"GET","key":"shop:1","id":1}"#,
        r#"{"action":"PING"}"#,
        &long,
        "garbage",
        r#"{"action":"AUTH","token":"shop-secret","name":"shop","id":2}"#,
        &long.replace("\"k\"", "\"shop:1\""),
        r#"{"action":"GET","key":"other","id":3}"#,
        r#"{"action":"STATS","namespace":"x"}"#,
        r#"{"action":"AUTH","token":"nobody's"}"#,
        "",
    ];
    client.send(lines.join("\n").as_bytes());
    client.half_close();
    let said = String::from_utf8(client.rest()).expect("text");
    let mut said = said.lines();
    let mut next = || said.next().expect("a reply to each line");
    assert_eq!(next(), r#"{"id":1,"error":{"code":"NOAUTH","message":"Authentication required."}}"#);
    assert!(next().contains(r#""code":"NOAUTH""#));
    assert_eq!(next(), r#"{"error":{"code":"TOOLONG","message":"a line may have 16384 bytes"}}"#);
    assert!(next().contains(r#""code":"BADJSON""#));
    assert_eq!(next(), r#"{"id":2,"result":"OK"}"#);
    assert_eq!(next(), r#"{"result":"OK"}"#);
    assert_eq!(next(), r#"{"id":3,"error":{"code":"NOPERM","message":"No permissions to access a key"}}"#);
    assert!(next().contains(r#""code":"NOPERM""#), "STATS names the namespaces of others");
    assert!(next().contains(r#""code":"WRONGPASS""#));
    assert_eq!(said.next(), None);
}

/// And so are binary frames.
#[test]
fn binary_frames_say_who_they_are_as_well() {
    let (server, _file) = start(&[]);
    let mut stream = server.connect();
    let mut ask = |words: &[&str]| {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut request = Vec::new();
        let mut frame = proto::client::Frame::begin(&mut request);
        frame.command(&words);
        frame.end();
        stream.write_all(&request).expect("send");
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let len = stream.read(&mut piece).expect("a reply");
            assert!(len > 0, "closed");
            bytes.extend_from_slice(&piece[..len]);
            if let Some((reply, _)) = proto::reply::parse(Wire::Binary, &bytes).expect("a reply") {
                return format!("{reply:?}");
            }
        }
    };
    assert!(ask(&["GET", "shop:1"]).contains("NOAUTH"));
    assert!(ask(&["AUTH", "shop", "shop-secret"]).contains("Ok"));
    assert!(ask(&["SET", "shop:1", "a"]).contains("Ok"));
    assert!(ask(&["GET", "other"]).contains("NOPERM"));
    assert!(ask(&["ACL", "WHOAMI"]).contains("shop") || ask(&["ACL", "WHOAMI"]).contains("115, 104, 111, 112"));
}

/// Patterns are about whole names: whoever enters another namespace gains nothing by it.
#[test]
fn a_token_of_one_namespace_stays_in_it() {
    let file = TokensFile::new(
        "[[token]]\nname = \"shop\"\nsecret = \"shop-secret\"\nscopes = [\"read\", \"write\", \"pubsub\"]\nkeys = [\"shop^*\"]\n",
    );
    let server = Server::start(&["--cores", "2", "--tokens-file", file.path()]);
    let mut client = client_of(&server, "shop-secret");
    let no_key = error("NOPERM No permissions to access a key");
    assert_eq!(client.call("SET shop^a v"), Value::ok());
    assert_eq!(client.call("SET a v"), no_key);
    assert_eq!(client.call("NAMESPACE USE shop"), Value::ok());
    assert_eq!(client.call("GET a"), Value::bulk("v"));
    for enter in ["NAMESPACE USE other", "SELECT 1"] {
        assert_eq!(client.call(enter), Value::ok());
        for command in ["GET a", "SET a v", "GET shop^a", "DEL a"] {
            assert_eq!(client.call(command), no_key, "{enter}, {command}");
        }
    }
    // Nor is it told what happens to the keys of others.
    let unheard = error("NOPERM No permissions to hear of all keys");
    for command in [
        "CLIENT TRACKING ON BCAST",
        "SUBSCRIBE a __keyspace@0__:b",
        "PSUBSCRIBE *",
        "PSUBSCRIBE _[_]key*",
        "PSUBSCRIBE __keyevent*",
    ] {
        assert_eq!(client.call(command), unheard, "{command}");
    }
    assert!(!client.call("PSUBSCRIBE news.*").is_error());
    assert!(!client.call("PUNSUBSCRIBE news.*").is_error());
    for command in ["NAMESPACE FLUSH other", "NAMESPACE LIST", "NAMESPACE SET other TTL 1", "FLUSHDB"] {
        assert!(client.call(command).is_error(), "{command}");
    }
}

/// Rates of an address hold for connections on all cores together, and connections beyond theirs are reset.
#[test]
fn an_address_is_limited_wherever_its_connections_are() {
    let limits = ["--address-commands-rate", "5:100", "--address-connects-rate", "1:50"];
    let server = Server::start(&[&["--cores", "2"], &limits[..]].concat());
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(server.address())).collect();
    let mut answered = 0;
    for _ in 0..40 {
        answered += clients.iter_mut().map(|client| client.call("PING")).filter(|reply| !reply.is_error()).count();
    }
    assert!((95..=200).contains(&answered), "{answered} of 320 were answered");
    let mut reset = 0;
    for _ in 0..100 {
        let mut stream = server.connect();
        let mut byte = [0];
        // A connection that is refused may be so while we write to it.
        let answer = stream.write_all(b"PING\r\n").and_then(|()| stream.read(&mut byte));
        reset += !matches!(answer, Ok(1)) as usize;
    }
    assert!((30..=60).contains(&reset), "{reset} of 100 were reset");
}
