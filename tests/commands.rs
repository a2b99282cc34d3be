//! Every command against what Redis 7.0 answers, byte by byte: the conversations in `tests/commands/*.txt`
//! (notation: `support/notation.rs`), and below them what a fixed conversation cannot say.
//!
//! With `CRABCACHE_TEST_ADDR=host:port` the same runs against any server, which must be there for the test
//! alone (it is flushed). Against redis-server 7.0 the `redis7:` lines hold; they are the complete list of
//! deliberate differences.

mod harness;
mod support;

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use harness::Server;
use support::client::{Client, PATIENCE, command};
use support::notation::{Pattern, Scenario, parse_scenarios};
use support::peers::{Redis, skip};
use support::random::Random;
use support::value::Value;

/// Four cores whatever the machine has, so that keys of one command live apart.
const CORES: &str = "4";

struct Target {
    address: SocketAddr,
    is_redis7: bool,
    server: Option<Server>,
}

impl Target {
    fn start() -> Target {
        let (address, server) = match std::env::var("CRABCACHE_TEST_ADDR") {
            Ok(text) => {
                let address = text.to_socket_addrs().expect("CRABCACHE_TEST_ADDR is host:port").next();
                (address.expect("an address"), None)
            }
            Err(_) => {
                let server = Server::start(&["--cores", CORES]);
                (server.address(), Some(server))
            }
        };
        // Only a server of another make does not know STATS.
        let is_redis7 = Client::connect(address).call("STATS").is_error();
        Target { address, is_redis7, server }
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    fn flush(&self) {
        assert_eq!(self.client().call("FLUSHALL"), Value::ok());
    }
}

/// How the bytes of a conversation are handed to the server. The replies must not depend on it.
#[derive(Clone, Copy, Debug)]
enum Delivery {
    OneByOne,
    Pipelined,
    ByteByByte,
}

fn run_file(file: &str, text: &str) {
    run_against(&Target::start(), file, text);
}

fn run_against(target: &Target, file: &str, text: &str) {
    let scenarios = parse_scenarios(file, text);
    let mut failures = Vec::new();
    let mut cases = 0;
    for scenario in scenarios.iter().filter(|scenario| scenario.in_redis7 || !target.is_redis7) {
        for delivery in [Delivery::OneByOne, Delivery::Pipelined, Delivery::ByteByByte] {
            target.flush();
            cases += scenario.steps.len();
            failures.extend(run_scenario(target, scenario, delivery));
        }
    }
    println!("{file}: {cases} cases, {} failed", failures.len());
    assert!(failures.is_empty(), "{} of {cases} cases failed:\n{}", failures.len(), failures.join("\n"));
}

fn run_scenario(target: &Target, scenario: &Scenario, delivery: Delivery) -> Vec<String> {
    let mut client = target.client();
    client.purpose = format!("{} {delivery:?} ({})", scenario.steps[0].origin, scenario.title);
    let mut failures = Vec::new();
    if let Delivery::Pipelined = delivery {
        let all: Vec<u8> = scenario.steps.iter().flat_map(|step| step.bytes.clone()).collect();
        client.send(&all);
    }
    for step in &scenario.steps {
        match delivery {
            Delivery::OneByOne => client.send(&step.bytes),
            Delivery::Pipelined => {}
            Delivery::ByteByByte => client.send_split(&step.bytes, &(1..step.bytes.len()).collect::<Vec<_>>()),
        }
        for expected in step.replies(target.is_redis7) {
            if let Pattern::Nothing = expected.pattern {
                continue;
            }
            let reply = client.try_reply();
            let as_expected = match &reply {
                Some(reply) => expected.pattern.matches(reply),
                None => expected.pattern == Pattern::Closed,
            };
            if !as_expected {
                let (origin, text, title) = (&step.origin, &step.text, &scenario.title);
                let reply = reply.as_ref().map_or("closed".to_string(), |reply| format!("{reply:?}"));
                let expected = &expected.text;
                failures.push(format!(
                    "{origin} {delivery:?} ({title})\n  {text}\n  expected {expected}\n  got      {reply}"
                ));
            }
            if reply.is_none() {
                return failures;
            }
        }
    }
    if let Some(extra) = (client.readable_within(Duration::from_millis(1))).then(|| client.try_reply()).flatten() {
        let (origin, title) = (&scenario.steps[0].origin, &scenario.title);
        failures.push(format!("{origin} {delivery:?} ({title}): more than the expected replies: {extra:?}"));
    }
    failures
}

#[test]
fn strings() {
    run_file("tests/commands/strings.txt", include_str!("commands/strings.txt"));
}

#[test]
fn keys() {
    run_file("tests/commands/keys.txt", include_str!("commands/keys.txt"));
}

#[test]
fn connection_and_server() {
    run_file("tests/commands/connection.txt", include_str!("commands/connection.txt"));
}

#[test]
fn cluster() {
    run_file("tests/commands/cluster.txt", include_str!("commands/cluster.txt"));
}

#[test]
fn operations() {
    run_file("tests/commands/operations.txt", include_str!("commands/operations.txt"));
}

/// What the conversations say of Redis is what a redis-server of that version says.
#[test]
fn they_hold_against_redis_7_0_itself() {
    let Some(redis) = Redis::start() else {
        return skip("they_hold_against_redis_7_0_itself", "redis-server is not installed");
    };
    let info = Client::connect(redis.address).call("INFO server");
    let info = String::from_utf8_lossy(info.as_bytes()).into_owned();
    if !info.contains("redis_version:7.0.") {
        return println!("another redis-server is installed: {info}");
    }
    let target = Target { address: redis.address, is_redis7: true, server: None };
    run_against(&target, "tests/commands/strings.txt", include_str!("commands/strings.txt"));
    run_against(&target, "tests/commands/keys.txt", include_str!("commands/keys.txt"));
    run_against(&target, "tests/commands/connection.txt", include_str!("commands/connection.txt"));
    run_against(&target, "tests/commands/operations.txt", include_str!("commands/operations.txt"));
    run_against(&target, "tests/commands/transactions.txt", include_str!("commands/transactions.txt"));
}

#[test]
fn every_command_of_the_table_is_covered() {
    let text = [
        include_str!("commands/strings.txt"),
        include_str!("commands/keys.txt"),
        include_str!("commands/connection.txt"),
        include_str!("commands/cluster.txt"),
        include_str!("commands/operations.txt"),
        include_str!("commands/transactions.txt"),
    ]
    .concat();
    let sent: HashSet<String> = (text.lines())
        .filter_map(|line| line.strip_prefix("> "))
        .flat_map(|line| {
            let mut words = line.to_lowercase();
            words.truncate(60);
            let mut words = words.split(' ').map(str::to_string);
            let name = words.next().unwrap();
            [format!("{name}|{}", words.next().unwrap_or_default()), name]
        })
        .collect();
    for spec in crabcache::command::TABLE {
        assert!(sent.contains(spec.name), "no case sends {}", spec.name);
    }
}

#[test]
fn transactions() {
    run_file("tests/commands/transactions.txt", include_str!("commands/transactions.txt"));
}

/// Polls until `done` says so; the state it waits for is certain to come.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_key_is_gone_at_its_expiry_and_not_before() {
    let target = Target::start();
    let mut client = target.client();
    for round in 0..20 {
        let started = Instant::now();
        let key = format!("key:{round}");
        assert_eq!(client.call(&format!("SET {key} v PX 60")), Value::ok());
        let left = client.call(&format!("PTTL {key}")).as_int();
        // After a stall of the machine the key may be gone already.
        assert!((1..=60).contains(&left) || started.elapsed() > Duration::from_millis(55), "PTTL {left}");
        wait_until("the key has expired", || client.call(&format!("GET {key}")) == Value::NilBulk);
        assert!(started.elapsed() >= Duration::from_millis(59), "gone after {:?}", started.elapsed());
        assert_eq!(client.call(&format!("EXISTS {key}")), Value::Int(0));
        assert_eq!(client.call(&format!("TTL {key}")), Value::Int(-2));
        assert_eq!(client.call(&format!("INCR {key}")), Value::Int(1), "an expired value does not count on");
        assert_eq!(client.call(&format!("TTL {key}")), Value::Int(-1));
    }
}

#[test]
fn expired_keys_are_removed_though_nobody_asks_for_them() {
    let target = Target::start();
    let mut client = target.client();
    target.flush();
    for round in 0..500 {
        assert_eq!(client.call(&format!("SET short:{round} v PX {}", 10 + round % 50)), Value::ok());
    }
    assert_eq!(client.call("SET stays v"), Value::ok());
    wait_until("DBSIZE counts the one key that stays", || client.call("DBSIZE") == Value::Int(1));
    assert_eq!(client.call("KEYS *"), Value::Array(vec![Value::bulk("stays")]));
}

#[test]
fn setting_a_key_again_ends_its_old_expiry() {
    let target = Target::start();
    let mut client = target.client();
    client.call("SET k v PX 50");
    client.call("SET k w");
    client.call("SET witness v PX 80");
    wait_until("the later witness has expired", || client.call("EXISTS witness") == Value::Int(0));
    assert_eq!(client.call("GET k"), Value::bulk("w"));
}

/// All keys that one SCAN from start to end returns, with how often.
fn scan_all(client: &mut Client, options: &str, mut between: impl FnMut(&mut Client)) -> HashMap<Vec<u8>, usize> {
    let mut seen = HashMap::new();
    let mut cursor = "0".to_string();
    let mut rounds = 0;
    loop {
        let reply = client.call(format!("SCAN {cursor} {options}").trim_end());
        let [next, keys] = reply.as_array() else { panic!("SCAN answered {reply:?}") };
        for key in keys.as_array() {
            *seen.entry(key.as_bytes().to_vec()).or_insert(0) += 1;
        }
        cursor = next.as_text();
        assert!(cursor.parse::<u64>().is_ok(), "the cursor {cursor:?} is no number");
        if cursor == "0" {
            return seen;
        }
        rounds += 1;
        assert!(rounds < 1_000_000, "SCAN does not end");
        between(client);
    }
}

#[test]
fn scan_returns_every_key_that_stays_while_the_table_grows_and_shrinks() {
    let target = Target::start();
    let mut client = target.client();
    let mut random = Random::announced("scan");
    for count_option in [3, 10, 100, 1000] {
        target.flush();
        // Bursts, so that the index grows several times during one scan; deletions shrink it again. They end,
        // or the scan would run after a table that grows as fast as it walks.
        let mut bursts_left = 30;
        let stays: HashSet<Vec<u8>> = (0..2000).map(|i| format!("stays:{i}").into_bytes()).collect();
        for key in &stays {
            client.call_words(&[b"SET", key.as_slice(), b"v"]);
        }
        let mut passing = 0;
        let grow = |client: &mut Client| {
            if bursts_left > 0 && random.chance(if count_option <= 10 { 20 } else { 2 }) {
                bursts_left -= 1;
                let mut words = vec!["MSET".to_string()];
                for _ in 0..500 {
                    words.extend([format!("passing:{passing}"), "v".to_string()]);
                    passing += 1;
                }
                assert_eq!(client.call_words(&words), Value::ok());
            } else if random.chance(8) && passing > 0 {
                let mut words = vec!["DEL".to_string()];
                words.extend((0..300).map(|_| format!("passing:{}", random.below(passing))));
                client.call_words(&words);
            }
        };
        let seen = scan_all(&mut client, &format!("COUNT {count_option}"), grow);
        let missing: Vec<_> = stays.iter().filter(|key| !seen.contains_key(*key)).collect();
        assert!(missing.is_empty(), "COUNT {count_option}: SCAN missed {} of {} keys", missing.len(), stays.len());
        assert!(
            seen.keys().all(|key| key.starts_with(b"stays:") || key.starts_with(b"passing:")),
            "SCAN returned a key that never was"
        );
    }
}

#[test]
fn scan_of_a_quiet_keyspace_returns_each_key_once_and_filters() {
    let target = Target::start();
    let mut client = target.client();
    target.flush();
    for i in 0..1000 {
        client.call(&format!("SET key:{i} {i}"));
    }
    let all = scan_all(&mut client, "COUNT 50", |_| {});
    assert_eq!(all.len(), 1000);
    let again = scan_all(&mut client, "", |_| {});
    assert_eq!(again.len(), 1000);
    let matched = scan_all(&mut client, "MATCH key:*7 COUNT 100", |_| {});
    assert_eq!(matched.len(), 100);
    assert!(matched.keys().all(|key| key.ends_with(b"7")));
    assert_eq!(scan_all(&mut client, "TYPE string", |_| {}).len(), 1000);
    assert_eq!(scan_all(&mut client, "TYPE list", |_| {}).len(), 0);
    let keys = client.call("KEYS key:*");
    let keys: HashSet<_> = keys.as_array().iter().map(|key| key.as_bytes().to_vec()).collect();
    assert_eq!(keys, all.into_keys().collect());
}

#[test]
fn randomkey_finds_every_key_in_time() {
    let target = Target::start();
    let mut client = target.client();
    target.flush();
    let keys: HashSet<Vec<u8>> = (0..20).map(|i| format!("key:{i}").into_bytes()).collect();
    for key in &keys {
        client.call_words(&[b"SET", key.as_slice(), b"v"]);
    }
    let mut found = HashSet::new();
    // A fair choice misses one of twenty keys in 4,000 draws once in 10^87 runs; a skewed one is allowed.
    for _ in 0..4000 {
        found.insert(client.call("RANDOMKEY").as_bytes().to_vec());
    }
    assert_eq!(found, keys);
}

#[test]
fn keys_go_to_every_core_and_commands_over_many_keys_see_them_all() {
    let target = Target::start();
    let mut client = target.client();
    target.flush();
    let keys: Vec<String> = (0..1000).map(|i| format!("key:{i}")).collect();
    let pairs = keys.iter().enumerate().flat_map(|(i, key)| [key.clone(), format!("value:{i}")]);
    assert_eq!(client.call_words(&["MSET".to_string()].into_iter().chain(pairs).collect::<Vec<_>>()), Value::ok());
    let with_keys = |name: &str| [name.to_string()].into_iter().chain(keys.iter().cloned()).collect::<Vec<_>>();
    let values: Vec<Value> = (0..1000).map(|i| Value::bulk(format!("value:{i}"))).collect();
    assert_eq!(client.call_words(&with_keys("MGET")), Value::Array(values));
    assert_eq!(client.call_words(&with_keys("EXISTS")), Value::Int(1000));
    assert_eq!(client.call_words(&with_keys("TOUCH")), Value::Int(1000));
    assert_eq!(client.call("DBSIZE"), Value::Int(1000));
    assert_eq!(client.call_words(&with_keys("DEL")), Value::Int(1000));
    assert_eq!(client.call("DBSIZE"), Value::Int(0));
}

#[test]
fn client_list_and_kill_reach_clients_of_every_core() {
    let target = Target::start();
    let mut admin = target.client();
    admin.call("CLIENT SETNAME admin");
    // Enough that every core serves some.
    let mut others: Vec<Client> = (0..40).map(|_| target.client()).collect();
    let mut ids = HashSet::new();
    for (i, other) in others.iter_mut().enumerate() {
        assert_eq!(other.call(&format!("CLIENT SETNAME other-{i}")), Value::ok());
        ids.insert(other.call("CLIENT ID").as_int());
    }
    assert_eq!(ids.len(), 40, "ids are unique over cores");
    let list = admin.call("CLIENT LIST").as_text();
    for (i, other) in others.iter().enumerate() {
        let line = list.lines().find(|line| line.split(' ').any(|field| field == format!("name=other-{i}")));
        let line = line.unwrap_or_else(|| panic!("client other-{i} is not in the list:\n{list}"));
        let address = other.stream().local_addr().unwrap();
        assert!(line.contains(&format!("addr={address} ")), "{line}");
        assert!(line.contains(&format!("laddr={} ", target.address)), "{line}");
    }
    // By id, by address, by name of the old form, and one that spares itself.
    let id = others[0].call("CLIENT ID").as_int();
    assert_eq!(admin.call(&format!("CLIENT LIST ID {id}")).as_text().lines().count(), 1);
    assert_eq!(admin.call(&format!("CLIENT KILL ID {id}")), Value::Int(1));
    others.remove(0).expect_closed();
    let address = others[0].stream().local_addr().unwrap();
    assert_eq!(admin.call(&format!("CLIENT KILL ADDR {address}")), Value::Int(1));
    others.remove(0).expect_closed();
    let address = others[0].stream().local_addr().unwrap();
    assert_eq!(admin.call(&format!("CLIENT KILL {address}")), Value::ok());
    others.remove(0).expect_closed();
    assert_eq!(admin.call(&format!("CLIENT KILL LADDR {}", target.address)), Value::Int(37));
    others.iter_mut().for_each(Client::expect_closed);
    let id = admin.call("CLIENT ID").as_int();
    assert_eq!(admin.call(&format!("CLIENT KILL ID {id}")), Value::Int(0), "SKIPME is the default of the new form");
    assert_eq!(admin.call(&format!("CLIENT KILL ID {id} SKIPME no")), Value::Int(1), "the reply still leaves");
    admin.expect_closed();
}

#[test]
fn info_and_stats_count_what_happened() {
    let target = Target::start();
    let mut client = target.client();
    target.flush();
    let field = |client: &mut Client, name: &str| -> i64 {
        let info = client.call("INFO").as_text();
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("INFO has no {name}")).trim().parse().expect("a number")
    };
    let names = ["keyspace_hits", "keyspace_misses", "total_connections_received", "expired_keys"];
    let before = names.map(|name| field(&mut client, name));
    client.call("MSET a 1 b 2 c 3 d 4 e 5");
    client.call("MGET a b c d e nosuch1 nosuch2");
    client.call("GET a");
    client.call("GET nosuch3");
    let _others: Vec<Client> = (0..10).map(|_| target.client()).collect();
    client.call("SET soon v PX 5");
    wait_until("the key has expired", || client.call("EXISTS soon") == Value::Int(0));
    let commands = field(&mut client, "total_commands_processed");
    client.call("PING");
    assert!(field(&mut client, "total_commands_processed") >= commands + 2);
    let after = names.map(|name| field(&mut client, name));
    assert!(after[0] - before[0] >= 6, "hits {before:?} {after:?}");
    assert!(after[1] - before[1] >= 3, "misses {before:?} {after:?}");
    wait_until("all connections are counted", || {
        field(&mut client, "total_connections_received") - before[2] >= 10
            && field(&mut client, "connected_clients") >= 11
    });
    assert_eq!(after[3] - before[3], 1, "expired keys");
    assert_eq!(client.call("CONFIG RESETSTAT"), Value::ok());
    assert_eq!(field(&mut client, "keyspace_hits"), 0);
    assert_eq!(field(&mut client, "keyspace_misses"), 0);

    if target.is_redis7 {
        return;
    }
    client.call("GET a");
    let stats: serde_json::Value = serde_json::from_slice(client.call("STATS").as_bytes()).expect("STATS is JSON");
    let cores = stats["cores"].as_array().expect("a list of cores");
    assert_eq!(cores.len(), CORES.parse::<usize>().unwrap());
    assert!(target.server.is_some() && stats.is_object());
}

#[test]
fn time_is_the_wall_clock() {
    let target = Target::start();
    let mut client = target.client();
    let seconds = |time: Duration| time.as_secs_f64();
    let before = seconds(std::time::UNIX_EPOCH.elapsed().unwrap());
    let reply = client.call("TIME");
    let after = seconds(std::time::UNIX_EPOCH.elapsed().unwrap());
    let [whole, micros] = reply.as_array() else { panic!("TIME answered {reply:?}") };
    let micros: u64 = micros.as_text().parse().unwrap();
    assert!(micros < 1_000_000);
    let said = whole.as_text().parse::<f64>().unwrap() + micros as f64 / 1e6;
    assert!((before - 0.01..=after + 0.01).contains(&said), "{said} is not within {before} and {after}");
}

#[test]
fn names_and_protocols_belong_to_their_connection_alone() {
    let target = Target::start();
    let (mut one, mut two) = (target.client(), target.client());
    one.call("HELLO 3 SETNAME one");
    assert_eq!(two.call("CLIENT GETNAME"), Value::NilBulk);
    assert_eq!(two.call("GET nosuch"), Value::NilBulk);
    assert_eq!(one.call("GET nosuch"), Value::Null);
    two.send(&command(&["CLIENT", "REPLY", "OFF"]));
    assert_eq!(one.call("PING"), Value::Simple(b"PONG".to_vec()));
}

#[test]
fn values_of_every_small_length_come_back_whole() {
    let target = Target::start();
    let mut client = target.client();
    let mut random = Random::announced("small lengths");
    for len in 0..600 {
        let value = random.bytes(len);
        let key = random.bytes(1 + len % 70);
        assert_eq!(client.call_words(&[b"SET", key.as_slice(), &value]), Value::ok());
        assert_eq!(client.call_words(&[b"GET", key.as_slice()]), Value::Bulk(value));
        assert_eq!(client.call_words(&[b"STRLEN", key.as_slice()]), Value::Int(len as i64));
    }
}

#[test]
fn keys_have_a_longest_length_and_the_connection_outlives_a_longer_one() {
    let target = Target::start();
    if target.is_redis7 {
        return;
    }
    let mut client = target.client();
    let longest = vec![b'k'; crabcache::limits::KEY_BYTES_MAX];
    assert_eq!(client.call_words(&[b"SET", longest.as_slice(), b"v"]), Value::ok());
    assert_eq!(client.call_words(&[b"GET", longest.as_slice()]), Value::bulk("v"));
    let longer = vec![b'k'; longest.len() + 1];
    assert!(client.call_words(&[b"SET", longer.as_slice(), b"v"]).is_error());
    assert!(client.call_words(&[b"MSET", b"a".as_slice(), b"1", &longer, b"2"]).is_error());
    assert_eq!(client.call("EXISTS a"), Value::Int(0), "nothing of a refused command is done");
    for name in ["RENAME", "RENAMENX", "COPY"] {
        for source in ["a", "b", "c", "d", "e", "f"] {
            client.call(&format!("SET {source} v"));
            assert!(client.call_words(&[name.as_bytes(), source.as_bytes(), &longer]).is_error());
            assert_eq!(client.call(&format!("GET {source}")), Value::bulk("v"), "{name} loses nothing");
        }
    }
    assert_eq!(client.call("PING"), Value::Simple(b"PONG".to_vec()));
}
