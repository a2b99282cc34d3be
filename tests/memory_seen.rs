//! What an operator sees of the memory: STATS, INFO, MEMORY, HOTKEYS, and redis-cli's scans for big and hot keys.

mod harness;
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use harness::Server;
use support::client::{Client, push_command};
use support::peers::{installed, skip};
use support::value::Value;

const PATIENCE: Duration = Duration::from_secs(60);

fn total(client: &mut Client) -> serde_json::Value {
    let stats: serde_json::Value = serde_json::from_str(&client.call("STATS").as_text()).expect("JSON");
    stats["total"]["shard"].clone()
}

fn number(shard: &serde_json::Value, name: &str) -> u64 {
    shard[name].as_u64().unwrap_or_else(|| panic!("no {name} in {shard:#}"))
}

/// Many commands at once; the replies.
fn all(client: &mut Client, commands: &[Vec<String>]) -> Vec<Value> {
    let mut bytes = Vec::new();
    commands.iter().for_each(|command| push_command(&mut bytes, command));
    client.send(&bytes);
    client.replies(commands.len())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

/// Looks keys up as users of a cache do: what is not there is stored. Keys are drawn from `keys`, small ones more
/// often.
fn use_as_a_cache(client: &mut Client, look_ups: u64, keys: u64, seed: u64) {
    let mut state = seed | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    for _ in 0..look_ups / 64 {
        let drawn: Vec<u64> = (0..64).map(|_| (draw() * draw() * keys as f64) as u64).collect();
        let gets: Vec<_> = drawn.iter().map(|key| words(&["GET", &format!("key:{key}")])).collect();
        let found = all(client, &gets);
        let value = "v".repeat(400);
        let missing = drawn.iter().zip(found).filter(|(_, reply)| *reply == Value::NilBulk);
        let sets: Vec<_> = missing.map(|(key, _)| words(&["SET", &format!("key:{key}"), &value])).collect();
        assert!(all(client, &sets).iter().all(|reply| *reply == Value::ok()));
    }
}

#[test]
fn statistics_tell_where_memory_goes_and_what_more_of_it_would_do() {
    let server = Server::start(&["--cores", "2", "--max-memory", "32mb"]);
    let mut client = Client::connect(server.address());
    use_as_a_cache(&mut client, 600_000, 200_000, 7);
    let shard = total(&mut client);
    let [evicted, rejected, admitted, aged] =
        ["keys_evicted", "keys_rejected", "keys_admitted", "keys_aged_out"].map(|name| number(&shard, name));
    assert!(evicted > 10_000 && admitted > 0, "{shard:#}");
    assert_eq!(rejected + admitted + aged, evicted, "each eviction has one reason: {shard:#}");
    let parts = ["item_bytes", "large_value_bytes", "gap_bytes", "index_bytes", "history_bytes"];
    let sum: u64 = parts.iter().map(|name| number(&shard, name)).sum();
    assert!(sum <= number(&shard, "memory_bytes"), "{shard:#}");
    assert!(number(&shard, "pressed") >= 1, "a full shard is under pressure: {shard:#}");
    assert!(number(&shard, "payload_bytes") > 24 << 20, "{shard:#}");

    // Estimates rise with the memory, and the one for the memory there is comes near the truth.
    let look_ups = number(&shard, "what_if_look_ups");
    assert!(look_ups > 300_000, "{shard:#}");
    let names = ["half", "same", "double", "quadruple"];
    let hits = names.map(|name| number(&shard, &format!("what_if_hits_at_{name}")) as f64 * 100.0 / look_ups as f64);
    // A shard of 16 MiB has a hundred sampled keys, which ones is drawn anew at each start: ten points up or down are
    // usual. How near larger shards come is measured by `cargo bench --bench hit_ratio`.
    assert!(hits.windows(2).all(|pair| pair[1] > pair[0] - 5.0) && hits[3] > hits[0] + 5.0, "{hits:?}");
    let (seen, missed) = (number(&shard, "keyspace_hits"), number(&shard, "keyspace_misses"));
    let real = seen as f64 * 100.0 / (seen + missed) as f64;
    assert!((hits[1] - real).abs() < 40.0, "estimated {hits:?}, in fact {real}");

    let info = client.call("INFO memory").as_text() + &client.call("INFO stats").as_text();
    for name in [
        "used_memory_index:",
        "used_memory_history:",
        "rejected_keys:",
        "window_percent:",
        "what_if_hit_percent_double:",
    ] {
        assert!(info.contains(name), "{name} in {info}");
    }

    let memory = client.call("MEMORY STATS");
    let fields = memory.as_array();
    let field = |name: &str| {
        let at = fields.iter().position(|field| *field == Value::bulk(name)).unwrap_or_else(|| panic!("{name}"));
        fields[at + 1].clone()
    };
    assert!(field("keys.count").as_int() > 50_000);
    assert!(field("dataset.bytes").as_int() < field("total.allocated").as_int());
    assert_eq!(field("ceiling.bytes"), Value::Int(32 << 20));
    let doctor = client.call("MEMORY DOCTOR").as_text();
    assert!(doctor.contains("twice the memory"), "{doctor}");

    assert_eq!(client.call("CONFIG RESETSTAT"), Value::ok());
    assert_eq!(number(&total(&mut client), "keys_evicted"), 0);
}

#[test]
fn what_clients_hold_is_seen() {
    let server = Server::start(&["--cores", "2"]);
    let mut slow = Client::connect(server.address());
    let mut client = Client::connect(server.address());
    slow.send(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$2000000\r\n");
    slow.send(&vec![b'v'; 1_500_000]);
    let held = |client: &mut Client| {
        let stats: serde_json::Value = serde_json::from_str(&client.call("STATS").as_text()).expect("JSON");
        number(&stats["total"]["counters"], "client_bytes")
    };
    let deadline = Instant::now() + PATIENCE;
    // What arrives where it belongs is counted a MiB at a time; the rest waits with the kernel.
    while held(&mut client) < 400_000 {
        assert!(Instant::now() < deadline, "{} bytes are held", held(&mut client));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(client.call("INFO memory").as_text().contains("mem_clients_normal:"));
    slow.send(&vec![b'v'; 500_000]);
    slow.send(b"\r\n");
    assert_eq!(slow.reply(), Value::ok());
    while held(&mut client) > 300_000 {
        assert!(Instant::now() < deadline, "{} bytes are held", held(&mut client));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn hot_keys_are_those_asked_for_most_on_any_core() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = Client::connect(server.address());
    let hot: Vec<String> = (0..6).map(|key| format!("hot:{key}")).collect();
    for key in &hot {
        assert_eq!(client.call(&format!("SET {key} v")), Value::ok());
    }
    let cold: Vec<_> = (0..3_000).map(|key| words(&["SET", &format!("cold:{key}"), "v"])).collect();
    all(&mut client, &cold);
    for round in 0..400 {
        let mut gets: Vec<_> = hot.iter().map(|key| words(&["GET", key])).collect();
        gets.extend((0..60).map(|key| words(&["GET", &format!("cold:{}", (round * 60 + key) % 3_000)])));
        // The hot ones come up anywhere in the sample.
        gets.rotate_left(round % 66);
        gets.extend(hot.iter().flat_map(|key| vec![words(&["GET", key]); 1 + round % 7]));
        all(&mut client, &gets);
    }
    let reply = client.call("HOTKEYS 6");
    let found = reply.as_array();
    assert_eq!(found.len(), 12, "{reply:?}");
    let mut names: Vec<String> = found.iter().step_by(2).map(Value::as_text).collect();
    names.sort();
    assert_eq!(names, hot, "{reply:?}");
    let counts: Vec<i64> = found.iter().skip(1).step_by(2).map(Value::as_int).collect();
    assert!(counts.is_sorted_by(|a, b| a >= b) && counts[5] > 500, "{counts:?}");
    assert!(client.call("HOTKEYS x").is_error() && client.call("HOTKEYS 1 2").is_error());
    assert_eq!(client.call("HOTKEYS 0").as_array().len(), 0);
}

#[test]
fn redis_cli_finds_big_and_hot_keys() {
    if !installed("redis-cli") {
        return skip("redis_cli_finds_big_and_hot_keys", "redis-cli is not installed");
    }
    let server = Server::start(&["--cores", "2", "--max-memory", "32mb"]);
    let mut client = Client::connect(server.address());
    // Half full is when uses begin to be counted.
    let filling: Vec<_> = (0..60_000).map(|key| words(&["SET", &format!("k:{key}"), &"v".repeat(400)])).collect();
    filling.chunks(500).for_each(|chunk| assert!(all(&mut client, chunk).iter().all(|reply| *reply == Value::ok())));
    client.call_words(&[b"SET".to_vec(), b"whale".to_vec(), vec![b'w'; 25_000]]);
    let cli = |option: &str| {
        let output = Command::new("redis-cli")
            .args(["-p", &server.port().to_string(), option])
            .output()
            .expect("redis-cli starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{option}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Uses are counted one by one, and forgotten again while others are counted.
        for _ in 0..20 {
            client.call("SET hot v");
            client.call("GET hot");
            client.call("DEL hot");
        }
        client.call("SET hot v");
        if client.call("OBJECT FREQ hot").as_int() > 5 {
            break;
        }
        assert!(Instant::now() < deadline, "{}", client.call("STATS").as_text());
    }
    let big = cli("--bigkeys");
    assert!(big.contains("Biggest string found") && big.contains("whale"), "{big}");
    let memory = cli("--memkeys");
    assert!(memory.contains("whale") && memory.contains("Biggest string found"), "{memory}");
    let hot = cli("--hotkeys");
    assert!(hot.contains("hot key found with counter") && hot.contains("hot"), "{hot}");
}

#[test]
fn keys_set_together_expire_apart_once_that_is_asked_for() {
    let server = Server::start(&["--cores", "1"]);
    let mut client = Client::connect(server.address());
    let spans = |client: &mut Client| {
        let sets: Vec<_> = (0..50).map(|key| words(&["SET", &format!("k:{key}"), "v", "EX", "1000"])).collect();
        all(client, &sets);
        let asks: Vec<_> = (0..50).map(|key| words(&["TTL", &format!("k:{key}")])).collect();
        let spans: Vec<i64> = all(client, &asks).iter().map(Value::as_int).collect();
        spans.iter().max().unwrap() - spans.iter().min().unwrap()
    };
    assert!(spans(&mut client) < 60);
    assert_eq!(client.call("CONFIG SET ttl-jitter-percent 40"), Value::ok());
    let deadline = Instant::now() + PATIENCE;
    // Cores hear of it at their next tick.
    while spans(&mut client) < 150 {
        assert!(Instant::now() < deadline, "all keys expire together");
    }
    assert!(client.call("CONFIG SET ttl-jitter-percent 60").is_error());
}

#[test]
fn large_values_leave_no_memory_behind() {
    let server = Server::start(&["--cores", "1", "--max-memory", "96mb", "--eviction", "lru"]);
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    };
    let mut client = Client::connect(server.address());
    let mut most = 0;
    // Values of their own from 32 KiB to 2 MiB, then small ones in their place: twice.
    for round in 0..2 {
        for (count, bytes) in [(2_500, 33_000), (2_000, 61_000), (500, 300_000), (60, 2_000_000), (150_000, 700)] {
            let value = "v".repeat(bytes);
            let sets: Vec<_> =
                (0..count).map(|key| words(&["SET", &format!("{round}:{bytes}:{key}"), &value])).collect();
            for chunk in sets.chunks(if bytes > 100_000 { 4 } else { 50 }) {
                assert!(all(&mut client, chunk).iter().all(|reply| *reply == Value::ok()));
            }
            most = most.max(resident());
        }
    }
    assert!(most <= 96 + 64 + 2, "{most} MiB");
    client.call_words(&[b"SET".to_vec(), b"whale".to_vec(), vec![b'w'; 40 << 20]]);
    let before = resident();
    assert_eq!(client.call("DEL whale"), Value::Int(1));
    let deadline = Instant::now() + PATIENCE;
    while resident() + 35 > before {
        assert!(Instant::now() < deadline, "{} of {before} MiB", resident());
        std::thread::sleep(Duration::from_millis(10));
    }
}
