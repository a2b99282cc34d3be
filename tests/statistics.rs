//! Every number that STATS and INFO publish, after a load of which everything is known. A field that is
//! added without a check here fails the test.

mod harness;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use crabcache::metrics::CoreCounters;
use crabcache::metrics::FieldKind;
use harness::Server;
use serde_json::Value as Json;
use support::client::{Client, PATIENCE, command};
use support::value::Value;
use support::vitals::resident_bytes;

const CORES: u64 = 2;
const CLIENTS_MAX: u64 = 12;

/// A client that knows what the server must have counted.
struct Counted {
    client: Client,
    tally: Tally,
    last_reply_bytes: u64,
}

#[derive(Default)]
struct Tally {
    commands: u64,
    round_trips: u64,
    bytes_sent: u64,
    bytes_received: u64,
    /// By name: calls, failed, rejected.
    ops: BTreeMap<String, [u64; 3]>,
    errors: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Expect {
    Success,
    Failure,
    /// Not carried out.
    Rejection,
    /// Of a name that is not in the table.
    Unknown,
}

impl Counted {
    fn connect(server: &Server) -> Counted {
        Counted::at(server.address())
    }

    fn at(address: SocketAddr) -> Counted {
        Counted { client: Client::connect(address), tally: Tally::default(), last_reply_bytes: 0 }
    }

    /// Sends the words; `op` is what the server calls the command.
    fn send(&mut self, op: &str, words: &[&str], expect: Expect) -> Value {
        let bytes = command(words);
        self.client.send(&bytes);
        let reply = self.client.reply();
        let tally = &mut self.tally;
        tally.round_trips += 1;
        tally.bytes_received += bytes.len() as u64;
        self.last_reply_bytes = reply.encode().len() as u64;
        tally.bytes_sent += self.last_reply_bytes;
        assert_eq!(reply.is_error(), expect != Expect::Success, "{words:?}: {reply:?}");
        if let Value::Error(text) = &reply {
            let text = String::from_utf8_lossy(text);
            *tally.errors.entry(text.split(' ').next().unwrap_or_default().into()).or_default() += 1;
        }
        let [calls, failed, rejected] = match expect {
            Expect::Success => [1, 0, 0],
            Expect::Failure => [1, 1, 0],
            Expect::Rejection => [0, 0, 1],
            Expect::Unknown => return reply,
        };
        tally.commands += calls;
        let counts = tally.ops.entry(op.into()).or_default();
        *counts = [counts[0] + calls, counts[1] + failed, counts[2] + rejected];
        reply
    }

    fn call(&mut self, line: &str) -> Value {
        let words: Vec<&str> = line.split(' ').collect();
        self.send(&words[0].to_ascii_lowercase(), &words, Expect::Success)
    }

    fn fails(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        self.send(&words[0].to_ascii_lowercase(), &words, Expect::Failure);
    }

    fn stats(&mut self) -> Json {
        let reply = self.call("STATS");
        serde_json::from_slice(reply.as_bytes()).expect("STATS is JSON")
    }
}

fn number(stats: &Json, path: &[&str]) -> u64 {
    let found = path.iter().fold(stats, |json, key| &json[key]);
    found.as_u64().unwrap_or_else(|| panic!("{path:?} is {found}"))
}

fn counter(stats: &Json, name: &str) -> u64 {
    number(stats, &["total", "counters", name])
}

/// Waits until the server has counted so many connections as open.
fn until_open(probe: &mut Counted, count: u64) -> Json {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = probe.stats();
        if counter(&stats, "connections_current") == count {
            return stats;
        }
        assert!(Instant::now() < deadline, "{count} open connections, not {}", counter(&stats, "connections_current"));
    }
}

fn core_of(client: &mut Counted) -> u64 {
    (client.send("client|id", &["CLIENT", "ID"], Expect::Success).as_int() as u64 - 1) % CORES
}

fn owner(key: &str) -> u64 {
    crabcache::slot::owner_of_slot(crabcache::slot::slot_of(key.as_bytes()), CORES as u32) as u64
}

fn server() -> Server {
    Server::start(&["--cores", &CORES.to_string(), "--max-clients", &CLIENTS_MAX.to_string()])
}

#[test]
fn every_counter_of_stats_tells_what_happened() {
    let server = server();
    let mut client = Counted::connect(&server);
    let core = core_of(&mut client);
    let mut forwarded = 0;
    let mut keys = 0;
    for i in 0..300 {
        let key = format!("key:{i}");
        forwarded += (owner(&key) != core) as u64;
        client.call(&format!("SET {key} value:{i}"));
        keys += 1;
    }
    let (mut hits, mut misses) = (0, 0);
    for i in 0..100 {
        let key = format!("key:{}", i * 4);
        forwarded += (owner(&key) != core) as u64;
        match client.call(&format!("GET {key}")) {
            Value::NilBulk => misses += 1,
            _ => hits += 1,
        }
    }
    assert_eq!((hits, misses), (75, 25));
    for i in 0..40 {
        let key = format!("key:{i}");
        forwarded += (owner(&key) != core) as u64;
        client.call(&format!("EXPIRE {key} 1000"));
    }
    // A few that go at once; EXISTS counts as a look-up.
    for i in 0..10 {
        let key = format!("soon:{i}");
        forwarded += (owner(&key) != core) as u64;
        client.call(&format!("SET {key} v PX 1"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            forwarded += (owner(&key) != core) as u64;
            if client.call(&format!("EXISTS {key}")) == Value::Int(0) {
                misses += 1;
                break;
            }
            hits += 1;
            assert!(Instant::now() < deadline, "{key} stays");
        }
    }
    // Errors of every kind.
    forwarded += (owner("key:1") != core) as u64 * 3;
    client.fails("INCR key:1");
    client.fails("INCR key:1");
    client.fails("SETEX key:1 0 v");
    client.fails("HELLO 9");
    client.fails("AUTH somebody secret");
    client.fails("SELECT 16");
    client.fails("FLUSHALL SOMETIMES");
    client.fails("MSET a b c");
    client.send("rename", &["RENAME", "nosuch", "key:2"], Expect::Failure);
    client.send("get", &["GET"], Expect::Rejection);
    client.send("client|setname", &["CLIENT", "SETNAME"], Expect::Rejection);
    client.send("", &["NOSUCH", "thing"], Expect::Unknown);
    client.send("", &["CLIENT", "NOSUCH"], Expect::Unknown);
    // On a core's own port foreign keys are refused.
    let mut node = Counted::at(SocketAddr::from(([127, 0, 0, 1], server.core_port(0))));
    let foreign = (0..).map(|i| format!("key:{i}")).find(|key| owner(key) == 1).expect("a key");
    node.send("get", &["GET", &foreign], Expect::Rejection);
    node.send("mget", &["MGET", &foreign, "{0}", "{1}", "{2}"], Expect::Rejection);
    // Clients that come and go, are killed, speak no protocol, are too many.
    let mut others: Vec<Counted> = (0..5).map(|_| Counted::connect(&server)).collect();
    for other in &mut others {
        other.call("PING");
    }
    drop(others.drain(..2));
    until_open(&mut client, 5);
    let victim = others[0].send("client|id", &["CLIENT", "ID"], Expect::Success).as_int().to_string();
    client.send("client|kill", &["CLIENT", "KILL", "ID", &victim], Expect::Success);
    others.remove(0).client.expect_closed();
    until_open(&mut client, 4);
    let mut rubbish = Client::connect(server.address());
    rubbish.send(b"*x\r\n");
    assert!(rubbish.reply().is_error());
    rubbish.expect_closed();
    drop(rubbish);
    until_open(&mut client, 4);
    let mut crowd: Vec<Counted> = (4..CLIENTS_MAX).map(|_| Counted::connect(&server)).collect();
    for one in &mut crowd {
        one.call("PING");
    }
    for _ in 0..3 {
        let mut refused = Client::connect(server.address());
        assert!(refused.reply().is_error());
        refused.expect_closed();
    }

    // ---- the questions to be checked: nothing else happens between them.
    let _first = client.stats();
    let asked = Instant::now();
    // What is counted with a delay of at most a tick.
    std::thread::sleep(Duration::from_millis(20));
    let stats = client.stats();
    let in_reply = client.tally.ops["stats"][0];

    let all: Vec<&Tally> =
        [&client, &node].into_iter().chain(&others).chain(&crowd).map(|counted| &counted.tally).collect();
    // Two that left: a PING each. The victim: PING and CLIENT ID. And the one that spoke no protocol.
    let gone_commands = 2 + 2;
    let rubbish_reply = b"-ERR Protocol error: invalid multibulk length\r\n".len() as u64;
    let ping = command(&["PING"]).len() as u64;
    let client_id = command(&["CLIENT", "ID"]).len() as u64;
    let sum = |of: &dyn Fn(&Tally) -> u64| all.iter().map(|tally| of(tally)).sum::<u64>();
    let commands = sum(&|tally| tally.commands) + gone_commands;
    let round_trips = sum(&|tally| tally.round_trips) + gone_commands + 1;
    let received = sum(&|tally| tally.bytes_received) + 3 * ping + client_id + 4;
    // The reply that tells it is not among it.
    let last_reply = client.last_reply_bytes;
    let sent = sum(&|tally| tally.bytes_sent) + 3 * 7 + 1 + victim.len() as u64 + 2 + rubbish_reply - last_reply;
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    for (code, count) in all.iter().flat_map(|tally| &tally.errors) {
        *errors.entry(code.clone()).or_default() += count;
    }
    *errors.entry("ERR".into()).or_default() += 1;
    let error_count: u64 = errors.values().sum();

    let counters = stats["total"]["counters"].as_object().expect("counters");
    // All that came: client, node, 5, the rubbish, the crowd; gone: 2, the victim, the rubbish.
    let accepted = 1 + 1 + 5 + 1 + (CLIENTS_MAX - 4);
    let gathered = in_reply + 20 + 60;
    for (name, value) in counters {
        let value = value.as_u64().expect("a number");
        let range = match name.as_str() {
            "connections_accepted" => accepted..=accepted,
            "connections_closed" => 4..=4,
            "connections_current" => CLIENTS_MAX..=CLIENTS_MAX,
            "client_bytes" => 0..=1 << 20,
            "connections_refused" => 3..=3,
            "connections_killed" => 1..=1,
            "commands_processed" => commands..=commands,
            "error_replies" => error_count..=error_count,
            "protocol_errors" => 1..=1,
            "bytes_received" => received..=received,
            "bytes_sent" => sent..=sent,
            // Commands with one key, exactly; questions to every core on top.
            "commands_forwarded_out" | "commands_forwarded_in" => forwarded..=forwarded + gathered,
            "batches_out" | "batches_in" => forwarded..=forwarded + gathered,
            "doorbells_rung" => 1..=2 * (forwarded + gathered),
            "turns" | "ring_enters" => round_trips - 2 * CORES..=u64::MAX,
            "sleeps" => 1..=counter(&stats, "turns"),
            // Armed once for each client; nobody sent more than a buffer.
            "receive_submissions" => accepted..=2 * accepted,
            "receive_completions" => round_trips - 2 * CORES..=round_trips + 8,
            // A core that goes to sleep sees its last send done when it wakes up, and counts it in its next tick.
            "send_submissions" | "send_completions" => round_trips - 2 * CORES..=round_trips,
            // Other storms than this one: see `storms`.
            // Nobody listened: see the suites of pub/sub.
            "subscribers_dropped" | "messages_published" | "messages_delivered" | "subscribers_current" => 0..=0,
            "channels_current" | "patterns_current" | "shard_channels_current" => 0..=0,
            // RENAME, if its keys lie on two cores.
            "transactions" => {
                let expected = (owner("nosuch") != owner("key:2")) as u64;
                expected..=expected
            }
            "transactions_dirty" | "transactions_refused" | "commands_held_up" => 0..=0,
            // Nobody monitored, paused or waited; a slow machine makes slow commands.
            "monitor_lines" | "monitor_lines_skipped" | "monitors_current" => 0..=0,
            "keyspace_events" | "keyspace_events_lost" | "invalidations" | "tracking_clients" | "tracking_keys" => {
                0..=0
            }
            "tracking_items" | "tracking_prefixes" => 0..=0,
            "blocked_clients" | "client_pauses" => 0..=0,
            "fills_told" | "fills_handed_over" | "fills_waited" | "fills_timed_out" => 0..=0,
            "fills_refused" | "fills_stale" | "fills_current" => 0..=0,
            "slow_commands" => 0..=commands,
            "connections_closed_by_silence" | "connections_refused_by_address" | "authentications_failed" => 0..=0,
            "tls_handshakes" | "tls_failures" => 0..=0,
            "connections_refused_by_rate" | "commands_rate_limited" | "commands_delayed" => 0..=0,
            "connections_closed_by_memory" | "connections_closed_by_deadline" => 0..=0,
            "connections_closed_by_output_bound" | "accept_errors" | "slow_reader_pauses" => 0..=0,
            "outbox_full_pauses" | "log_full_pauses" | "receive_buffers_exhausted" => 0..=0,
            other => panic!("{other} is published and not checked"),
        };
        assert!(range.contains(&value), "{name} is {value}, expected {range:?}\n{stats:#}");
    }
    let differs = counter(&stats, "commands_forwarded_out").abs_diff(counter(&stats, "commands_forwarded_in"));
    assert!(differs <= 1, "forwarded out and in differ by {differs}");

    let shard = stats["total"]["shard"].as_object().expect("shard");
    for (name, value) in shard {
        let value = value.as_u64().expect("a number");
        let range = match name.as_str() {
            "keys" => keys..=keys,
            "keys_with_expiry" => 40..=40,
            "keyspace_hits" => hits..=hits,
            "keyspace_misses" => misses..=misses,
            "keys_expired" => 10..=10,
            "keys_evicted" | "keys_admitted" | "keys_rejected" | "keys_aged_out" | "writes_refused" => 0..=0,
            "keys_expired_on_access" => 0..=10,
            "pressed" => 0..=0,
            // Nothing is estimated while there is room for twice as much.
            what_if if what_if.starts_with("what_if_") => 0..=0,
            "deadline_bytes" => 1..=number(&stats, &["total", "shard", "index_bytes"]),
            "window_target_bytes" => 0..=number(&stats, &["total", "shard", "item_bytes"]),
            "memory_granted_bytes" => 32 << 20..=number(&stats, &["server", "memory_bytes_max"]),
            "payload_bytes" => keys * 4..=number(&stats, &["total", "shard", "memory_bytes"]),
            "item_bytes" => keys * 4..=number(&stats, &["total", "shard", "memory_bytes"]),
            "large_value_bytes" | "history_bytes" | "probation_bytes" | "protected_bytes" => 0..=0,
            "gap_bytes" | "free_bytes" => 0..=number(&stats, &["total", "shard", "memory_bytes"]),
            // Nothing has been judged yet: everything is new.
            "window_bytes" => {
                let items = number(&stats, &["total", "shard", "item_bytes"]);
                items..=items
            }
            "memory_bytes" => keys * 20..=resident_bytes(&server) as u64,
            "index_bytes" => keys * 8..=number(&stats, &["total", "shard", "memory_bytes"]),
            other => panic!("{other} is published and not checked"),
        };
        assert!(range.contains(&value), "{name} is {value}, expected {range:?}");
    }

    let mut ops: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for (name, counts) in all.iter().flat_map(|tally| &tally.ops) {
        let sum = ops.entry(name.clone()).or_default();
        *sum = [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]];
    }
    ops.get_mut("ping").expect("pinged")[0] += 3;
    ops.get_mut("client|id").expect("asked")[0] += 1;
    let told: BTreeMap<String, [u64; 3]> = stats["total"]["commands"]
        .as_object()
        .expect("commands")
        .iter()
        .map(|(name, counts)| {
            assert_eq!(counts.as_object().expect("counts").len(), 3, "{counts}");
            (name.clone(), ["calls", "failed", "rejected"].map(|kind| number(counts, &[kind])))
        })
        .collect();
    assert_eq!(told, ops);
    let told: BTreeMap<String, u64> = stats["total"]["errors"]
        .as_object()
        .expect("errors")
        .iter()
        .map(|(code, count)| (code.clone(), count.as_u64().expect("a number")))
        .collect();
    assert_eq!(told, errors);

    totals_are_sums(&stats);
    the_process_is_this_one(&server, &stats);
    assert!(asked.elapsed() < PATIENCE);
}

/// The total of every number is what the cores add up to.
fn totals_are_sums(stats: &Json) {
    let cores = stats["cores"].as_array().expect("cores");
    assert_eq!(cores.len() as u64, CORES);
    let mut next_slot = 0;
    for (index, core) in cores.iter().enumerate() {
        assert_eq!(number(core, &["core"]), index as u64);
        assert_eq!(core["slots"][0].as_u64(), Some(next_slot));
        next_slot = core["slots"][1].as_u64().expect("a slot") + 1;
    }
    assert_eq!(next_slot, 16384);
    for (name, latency) in stats["total"]["latency"].as_object().expect("latency") {
        let calls = |core: &Json| core["latency"][name]["total"]["count"].as_u64().unwrap_or(0);
        assert_eq!(latency["total"]["count"].as_u64(), Some(cores.iter().map(calls).sum()), "{name}");
        assert!(latency["minute"]["p50_us"].as_f64() <= latency["minute"]["max_us"].as_f64(), "{name}");
    }
    for part in ["counters", "shard", "rates", "errors"] {
        for (name, total) in stats["total"][part].as_object().expect(part) {
            let sum: u64 = cores.iter().map(|core| core[part][name].as_u64().unwrap_or(0)).sum();
            assert_eq!(total.as_u64(), Some(sum), "{part}.{name}");
        }
    }
}

/// What is told about the process, beside what the system tells.
fn the_process_is_this_one(server: &Server, stats: &Json) {
    let told = stats["server"].as_object().expect("server");
    let now_us = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_micros() as u64;
    for (name, value) in told {
        let is = |expected: Json| assert_eq!(*value, expected, "{name}");
        match name.as_str() {
            "version" => is(env!("CARGO_PKG_VERSION").into()),
            "redis_version" => is(crabcache::metrics::REDIS_VERSION.into()),
            "pid" => is(server.pid().into()),
            "run_id" => {
                let id = value.as_str().expect("text");
                assert!(id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            }
            "port" => is(server.port().into()),
            "cores" => is(CORES.into()),
            "unix_time_us" => assert!(value.as_u64().expect("a time").abs_diff(now_us) < 20_000_000, "{value}"),
            "uptime_us" => assert!((20_000..120_000_000).contains(&value.as_u64().expect("a time")), "{value}"),
            "kernel" => {
                let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
                assert!(value.as_str().expect("text").contains(release.trim()), "{value}");
            }
            "executable" => {
                let path = fs::canonicalize(env!("CARGO_BIN_EXE_crabcache")).expect("the server's binary");
                is(path.to_str().expect("UTF-8").into());
            }
            "config_file" => is("".into()),
            "clients_max" => is(CLIENTS_MAX.into()),
            "memory_bytes_max" => {
                let machine = number(stats, &["process", "system_memory_bytes"]);
                let bytes = value.as_u64().expect("a number");
                assert!(bytes > 32 << 20 && bytes <= machine / 100 * 75, "{bytes} of {machine}");
            }
            "memory_policy" => is("allkeys-lfu".into()),
            "cluster_enabled" => is(true.into()),
            other => panic!("{other} is published and not checked"),
        }
    }
    let status = fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("stat");
    let fields: Vec<&str> = status.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks_us = |field: usize| fields[field].parse::<u64>().expect("ticks") * 10_000;
    let memory = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let memory_kb: u64 = memory.split_whitespace().nth(1).expect("MemTotal").parse().expect("a number");
    let process = stats["process"].as_object().expect("process");
    for (name, value) in process {
        let value = value.as_u64().expect("a number");
        let near =
            |expected: u64, slack: u64| assert!(value.abs_diff(expected) <= slack, "{name}: {value}, {expected}");
        match name.as_str() {
            "rss_bytes" => near(resident_bytes(server) as u64, 8 << 20),
            "rss_bytes_peak" => assert!(value + (1 << 20) >= number(stats, &["process", "rss_bytes"]), "{value}"),
            "cpu_user_us" => near(ticks_us(11), 200_000),
            "cpu_system_us" => near(ticks_us(12), 200_000),
            "cpu_user_children_us" | "cpu_system_children_us" => near(0, 0),
            "system_memory_bytes" => near(memory_kb * 1024, 0),
            "log_lines_lost" => near(0, 0),
            "log_lines_held_back" => near(0, 1000),
            "http_refused" => near(0, 0),
            other => panic!("{other} is published and not checked"),
        }
    }
    let cpu = number(stats, &["process", "cpu_user_us"]) + number(stats, &["process", "cpu_system_us"]);
    assert!(cpu > 0, "serving costs time");
}

/// INFO and STATS are two ways to say the same.
#[test]
fn info_says_what_stats_says() {
    let server = server();
    let mut client = Counted::connect(&server);
    for i in 0..50 {
        client.call(&format!("SET key:{i} {}", "v".repeat(1000)));
        client.call(&format!("GET key:{}", i * 2));
    }
    client.call("EXPIRE key:1 1000");
    client.fails("INCR key:1");
    client.send("get", &["GET"], Expect::Rejection);
    let deadline = Instant::now() + PATIENCE;
    // Memory, times and rates move by themselves: a pair without a change in between is waited for.
    let (info, stats) = loop {
        let before = client.stats();
        let info = client.send("info", &["INFO", "everything"], Expect::Success).as_text();
        let after = client.stats();
        let moves = |stats: &Json| (stats["process"]["rss_bytes"].clone(), stats["total"]["rates"].clone());
        if moves(&before).0 == moves(&after).0 {
            break (info, after);
        }
        assert!(Instant::now() < deadline, "memory never rests");
    };
    let total = |part: &str, name: &str| number(&stats, &["total", part, name]);
    let of_server = |name: &str| stats["server"][name].clone();
    let process = |name: &str| number(&stats, &["process", name]);
    let mut sections = Vec::new();
    for line in info.split_terminator("\r\n").filter(|line| !line.is_empty()) {
        if let Some(title) = line.strip_prefix("# ") {
            sections.push(title.to_string());
            continue;
        }
        let (name, text) = line.split_once(':').expect("name:value");
        let is = |expected: u64| assert_eq!(text.parse::<u64>().ok(), Some(expected), "{name}");
        let near = |expected: u64, slack: u64| {
            let value: f64 = text.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!((value - expected as f64).abs() <= slack as f64, "{line}, expected {expected}");
        };
        match name {
            "redis_version" => assert_eq!(text, of_server("redis_version")),
            "server_name" => assert_eq!(text, "crabcache"),
            "crabcache_version" => assert_eq!(text, of_server("version")),
            "redis_mode" => assert_eq!(text, "standalone"),
            "os" => assert_eq!(text, of_server("kernel")),
            "arch_bits" => is(usize::BITS.into()),
            "multiplexing_api" => assert_eq!(text, "io_uring"),
            "process_id" => is(server.pid().into()),
            "run_id" | "master_replid" => assert_eq!(text, of_server("run_id")),
            "tcp_port" => is(server.port().into()),
            "server_time_usec" => near(of_server("unix_time_us").as_u64().unwrap(), 5_000_000),
            "uptime_in_seconds" => near(of_server("uptime_us").as_u64().unwrap() / 1_000_000, 5),
            "uptime_in_days" => is(0),
            "cores" => is(CORES),
            "executable" => assert_eq!(text, of_server("executable")),
            "config_file" => assert_eq!(text, ""),
            "connected_clients" => is(1),
            "maxclients" => is(CLIENTS_MAX),
            "used_memory" => is(total("shard", "memory_bytes")),
            "used_memory_rss" => near(process("rss_bytes"), 1 << 20),
            "used_memory_rss_peak" => near(process("rss_bytes_peak"), 1 << 20),
            "used_memory_overhead" => is(total("shard", "memory_bytes") - total("shard", "payload_bytes")),
            "used_memory_dataset" => is(total("shard", "payload_bytes")),
            "total_system_memory" => is(process("system_memory_bytes")),
            "maxmemory" => is(of_server("memory_bytes_max").as_u64().expect("a number")),
            "maxmemory_policy" => assert_eq!(text, "allkeys-lfu"),
            "used_memory_items" => is(total("shard", "item_bytes")),
            "used_memory_large_values" => is(total("shard", "large_value_bytes")),
            "used_memory_index" => is(total("shard", "index_bytes")),
            "used_memory_history" => is(total("shard", "history_bytes")),
            "used_memory_gaps" => is(total("shard", "gap_bytes")),
            "used_memory_free" => is(total("shard", "free_bytes")),
            "mem_clients_normal" => near(total("counters", "client_bytes"), 1 << 20),
            "cores_under_pressure" | "admitted_keys" | "rejected_keys" | "aged_out_keys" => is(0),
            // One percent, of the items of a core in whole bytes.
            "window_percent" => near(1, 1),
            what_if if what_if.starts_with("what_if_hit_percent_") => assert_eq!(text, "0.00"),
            "mem_fragmentation_ratio" => {
                let ratio = process("rss_bytes") as f64 / total("shard", "memory_bytes") as f64;
                let shown: f64 = text.parse().expect("a number");
                assert!((shown - ratio).abs() < 0.2, "{line}, expected {ratio}");
            }
            "mem_fragmentation_bytes" => {
                let over = process("rss_bytes") as i64 - total("shard", "memory_bytes") as i64;
                // Resident memory does not stand still between two questions.
                let shown: i64 = text.parse().expect("a number");
                assert!((shown - over).abs() < 1 << 20, "{line}, expected {over}");
            }
            "total_connections_received" => is(total("counters", "connections_accepted")),
            "total_commands_processed" => is(total("counters", "commands_processed") - 1),
            "instantaneous_ops_per_sec" => near(total("rates", "commands_per_second"), 20_000),
            "instantaneous_input_kbps" => near(total("rates", "bytes_received_per_second") / 1024, 20_000),
            "instantaneous_output_kbps" => near(total("rates", "bytes_sent_per_second") / 1024, 100_000),
            // One question later; its own size is known.
            "total_net_input_bytes" => is(total("counters", "bytes_received") - command(&["STATS"]).len() as u64),
            "total_net_output_bytes" => {
                let reply = format!("${}\r\n{info}\r\n", info.len()).len() as u64;
                is(total("counters", "bytes_sent") - reply);
            }
            "keyspace_hits" => is(1),
            "keyspace_misses" => is(49),
            "total_error_replies" => is(2),
            "total_reads_processed" => near(total("counters", "receive_completions"), 2),
            "total_writes_processed" => near(total("counters", "send_completions"), 2),
            "used_cpu_sys" => near(process("cpu_system_us") / 1_000_000, 1),
            "used_cpu_user" => near(process("cpu_user_us") / 1_000_000, 1),
            "used_cpu_sys_children" | "used_cpu_user_children" => near(0, 0),
            "cmdstat_set" => command_line(text, "calls=50", "rejected_calls=0,failed_calls=0"),
            "cmdstat_get" => command_line(text, "calls=50", "rejected_calls=1,failed_calls=0"),
            "cmdstat_incr" => command_line(text, "calls=1", "rejected_calls=0,failed_calls=1"),
            "cmdstat_expire" => command_line(text, "calls=1", "rejected_calls=0,failed_calls=0"),
            "cmdstat_info" | "cmdstat_stats" => assert!(text.starts_with("calls="), "{line}"),
            name if name.starts_with("latency_percentiles_usec_") => latency_line(text),
            "errorstat_ERR" => assert_eq!(text, "count=2"),
            "db0" => assert_eq!(text, "keys=50,expires=1"),
            "core0" | "core1" => core_line(text, &stats["cores"][name[4..].parse::<usize>().unwrap()]),
            // What there is none of here, under the names that are looked for.
            "monitor_clients" | "monitor_lines" | "client_pauses" => is(0),
            "tracking_total_keys" | "tracking_total_items" | "tracking_total_prefixes" => is(0),
            "tracking_invalidations" | "keyspace_events" | "keyspace_events_lost" => is(0),
            "fills_told" | "fills_handed_over" | "fills_waited" | "fills_timed_out" => is(0),
            "fills_refused" | "fills_stale" | "fills_current" => is(0),
            // What is slow on a slow machine may be counted between two questions.
            "slow_commands" => assert!(text.parse::<u64>().is_ok(), "{line}"),
            "cluster_connections" | "blocked_clients" | "tracking_clients" | "loading" | "async_loading" => is(0),
            "rdb_bgsave_in_progress" | "rdb_saves" | "aof_enabled" | "aof_rewrite_in_progress" => is(0),
            "aof_rewrite_scheduled" | "rejected_connections" | "expired_keys" | "evicted_keys" => is(0),
            "pubsub_clients" | "pubsub_channels" | "pubsub_patterns" | "pubsubshard_channels" => is(0),
            "pubsub_messages" | "pubsub_deliveries" | "pubsub_subscribers_dropped" => is(0),
            "evicted_clients" | "latest_fork_usec" | "total_forks" | "protocol_errors" | "accept_errors" => is(0),
            "client_output_buffer_limit_disconnections" | "slow_reader_pauses" | "connected_slaves" => is(0),
            "master_repl_offset" | "repl_backlog_active" | "cluster_enabled" => is(0),
            "second_repl_offset" => assert_eq!(text, "-1"),
            "role" => assert_eq!(text, "master"),
            "master_failover_state" => assert_eq!(text, "no-failover"),
            human if human.ends_with("_human") => assert!(text.ends_with(['B', 'K', 'M', 'G']), "{line}"),
            other => panic!("{other} is published and not checked"),
        }
    }
    assert_eq!(sections.len(), 14, "{sections:?}");
}

/// `slots=0-8191,clients=1,…` beside the core's own numbers in STATS.
fn core_line(text: &str, core: &Json) {
    for pair in text.split(',') {
        let (name, value) = pair.split_once('=').expect("name=value");
        let is = |expected: u64| assert_eq!(value.parse::<u64>().ok(), Some(expected), "{pair}");
        let counted = |name: &str| number(core, &["counters", name]);
        let at_most = |bound: u64| assert!(value.parse::<u64>().is_ok_and(|value| value <= bound), "{pair}, {bound}");
        match name {
            "slots" => assert_eq!(value, format!("{}-{}", core["slots"][0], core["slots"][1])),
            "clients" => is(counted("connections_current")),
            "keys" => is(number(core, &["shard", "keys"])),
            "memory_bytes" => is(number(core, &["shard", "memory_bytes"])),
            "ops_per_sec" => at_most(1_000_000),
            // Asked one question before.
            "commands" => at_most(counted("commands_processed")),
            "forwarded_out" => at_most(counted("commands_forwarded_out")),
            "forwarded_in" => at_most(counted("commands_forwarded_in")),
            "turns" => at_most(counted("turns")),
            "sleeps" => at_most(counted("sleeps")),
            other => panic!("{other} is published and not checked"),
        }
    }
}

/// A rate is what was done lately; when nothing is done any more it falls, though nobody asks meanwhile.
#[test]
fn rates_follow_the_load_and_fall_when_it_ends() {
    let server = server();
    let mut client = Counted::connect(&server);
    let rates = |stats: &Json| {
        ["commands", "bytes_received", "bytes_sent"]
            .map(|what| number(stats, &["total", "rates", &format!("{what}_per_second")]))
    };
    // A load for longer than the window of the rates, at its own pace.
    let started = Instant::now();
    let mut commands = 0u64;
    let batch = command(&["SET", "key", "value"]).repeat(100);
    while started.elapsed() < Duration::from_millis(2200) {
        client.client.send(&batch);
        client.client.replies(100);
        commands += 100;
        std::thread::sleep(Duration::from_millis(5));
    }
    let per_second = commands as f64 / started.elapsed().as_secs_f64();
    let busy = rates(&client.stats());
    let near = |value: u64, expected: f64| {
        assert!((0.5..2.0).contains(&(value as f64 / expected)), "{value} instead of {expected}");
    };
    near(busy[0], per_second);
    near(busy[1], per_second * batch.len() as f64 / 100.0);
    near(busy[2], per_second * 5.0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        if rates(&client.stats())[0] < busy[0] / 50 {
            break;
        }
        assert!(Instant::now() < deadline, "the rate does not fall");
    }
}

/// A line of commandstats: counts as they must be, and times that were measured.
fn command_line(text: &str, calls: &str, rest: &str) {
    let (begin, end) = text.split_once(",usec=").unwrap_or_else(|| panic!("{text}"));
    assert_eq!(begin, calls, "{text}");
    let (usec, end) = end.split_once(",usec_per_call=").unwrap_or_else(|| panic!("{text}"));
    let (per_call, end) = end.split_once(',').unwrap_or_else(|| panic!("{text}"));
    let (usec, per_call): (u64, f64) = (usec.parse().expect("a number"), per_call.parse().expect("a number"));
    assert!(usec > 0 && per_call > 0.0 && per_call <= usec as f64, "{text}");
    assert_eq!(end, rest, "{text}");
}

/// Percentiles that only grow, up to the longest time.
fn latency_line(text: &str) {
    let times: Vec<(&str, f64)> = text
        .split(',')
        .map(|field| field.split_once('=').expect("name=value"))
        .map(|(name, value)| (name, value.parse().expect("a number")))
        .collect();
    let names: Vec<&str> = times.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["p50", "p95", "p99", "p99.9", "max"], "{text}");
    assert!(times.is_sorted_by(|a, b| a.1 <= b.1) && times[0].1 > 0.0, "{text}");
}

/// CONFIG RESETSTAT: everything that only grows begins again, on every core, and nothing else does.
#[test]
fn a_reset_sets_every_counter_back() {
    let server = server();
    let mut client = Counted::connect(&server);
    for i in 0..2000 {
        client.call(&format!("SET key:{i} v"));
    }
    client.fails("INCR key:1");
    std::thread::sleep(Duration::from_millis(20));
    let before = client.stats();
    client.send("config|resetstat", &["CONFIG", "RESETSTAT"], Expect::Success);
    std::thread::sleep(Duration::from_millis(20));
    let after = client.stats();
    for field in CoreCounters::FIELDS {
        let (before, after) = (counter(&before, field.name), counter(&after, field.name));
        match field.kind {
            FieldKind::Gauge => assert_eq!(before, after, "{}", field.name),
            FieldKind::Counter if before >= 1000 => assert!(after < before / 10, "{}: {before}, {after}", field.name),
            FieldKind::Counter => assert!(after <= before.max(20), "{}: {before}, {after}", field.name),
        }
    }
    assert!(["turns", "ring_enters", "receive_completions"].iter().all(|name| counter(&before, name) >= 1000));
    assert_eq!(number(&after, &["total", "shard", "keys"]), 2000);
    assert_eq!(number(&after, &["total", "shard", "keyspace_hits"]), 0);
    assert_eq!(after["total"]["errors"], serde_json::json!({}));
    let commands = after["total"]["commands"].as_object().expect("commands");
    assert!(commands.keys().all(|name| name == "stats" || name == "config|resetstat"), "{commands:?}");
}

#[test]
fn a_pipeline_is_answered_in_one_send() {
    let server = Server::start(&["--cores", "1"]);
    let mut client = Client::connect(server.address());
    let mut asking = Client::connect(server.address());
    let counters = |asking: &mut Client| {
        let stats: Json = serde_json::from_str(&asking.call("STATS").as_text()).expect("JSON");
        ["send_submissions", "receive_completions"]
            .map(|name| stats["total"]["counters"][name].as_u64().expect("a counter"))
    };
    let pipelines = 200;
    let pipeline: Vec<u8> = (0..32).flat_map(|i| command(&["SET", &format!("key:{i}"), "v"])).collect();
    let [sent, received] = counters(&mut asking);
    for _ in 0..pipelines {
        client.send(&[pipeline.as_slice(), &command(&["GET", "key:1"])].concat());
        assert!(client.replies(32).iter().all(|reply| *reply == Value::ok()));
        assert_eq!(client.reply(), Value::bulk("v"));
    }
    let [sent, received] =
        [counters(&mut asking), [sent, received]].into_iter().reduce(|a, b| [a[0] - b[0], a[1] - b[1]]).expect("two");
    // The ring's counters follow at ticks.
    assert!(sent <= received + pipelines / 10, "{sent} sends for {received} receives");
    assert!((pipelines * 9 / 10..=pipelines * 11 / 10).contains(&sent), "{sent} sends for {pipelines} pipelines");
}

#[test]
fn a_server_that_nobody_asks_anything_rests() {
    let server = Server::start(&["--cores", &CORES.to_string()]);
    let mut client = Client::connect(server.address());
    // Deadlines far and near keep the wheels in use.
    for key in 0..100 {
        assert_eq!(client.call(&format!("SET key:{key} v PX {}", 400_000 + key)), Value::ok());
    }
    let cpu_ticks = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("stat");
        let fields: Vec<&str> = status.rsplit(") ").next().expect("fields").split(' ').collect();
        fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum()
    };
    std::thread::sleep(Duration::from_millis(500));
    let before = cpu_ticks();
    std::thread::sleep(Duration::from_secs(5));
    // A hundredth of a CPU, with as much again for a build without optimisation on a crowded machine.
    let used = cpu_ticks() - before;
    assert!(used <= 10, "{used} ticks of 10 ms in five seconds");
}
