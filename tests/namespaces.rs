//! Namespaces with limits: what they hold, for how long, and where that is said.

mod harness;
mod support;

use harness::Server;
use support::client::Client;
use support::value::Value;

/// A number of NAMESPACE INFO.
fn info(client: &mut Client, namespace: &str, name: &str) -> i64 {
    let info = client.call(&format!("NAMESPACE INFO {namespace}"));
    let words = info.as_array();
    let place =
        words.iter().position(|word| *word == Value::bulk(name)).unwrap_or_else(|| panic!("{name} in {info:?}"));
    words[place + 1].as_int()
}

fn fill(client: &mut Client, prefix: &str, count: usize) {
    for number in 0..count {
        assert_eq!(client.call(&format!("SET {prefix}{number} value")), Value::ok());
    }
}

#[test]
fn quotas_hold_and_others_keep_what_they_have() {
    let server = Server::start(&["--cores", "3", "--namespaces", "shop max-items=90 ttl=1h"]);
    let mut client = Client::connect(server.address());
    fill(&mut client, "shop^k", 1_000);
    fill(&mut client, "other^k", 1_000);
    fill(&mut client, "k", 1_000);
    let items = info(&mut client, "shop", "items");
    assert!((60..=90).contains(&items), "{items}");
    assert_eq!(info(&mut client, "shop", "evictions"), 1_000 - items);
    assert_eq!((info(&mut client, "shop", "max_items"), info(&mut client, "shop", "ttl_ms")), (90, 3_600_000));
    assert_eq!((info(&mut client, "other", "items"), info(&mut client, "other", "evictions")), (1_000, 0));
    assert_eq!(client.call("DBSIZE"), Value::Int(1_000));
    // More room, and another time, while it runs.
    assert_eq!(client.call("NAMESPACE SET shop MAX-ITEMS 300 TTL 5000 MAX-TTL 10s"), Value::ok());
    fill(&mut client, "shop^k", 1_000);
    let items = info(&mut client, "shop", "items");
    assert!((200..=300).contains(&items), "{items}");
    client.call("SET shop^new v");
    assert!((1..=5_000).contains(&client.call("PTTL shop^new").as_int()));
    client.call("SET shop^new v EX 1000");
    assert!((5_001..=10_000).contains(&client.call("PTTL shop^new").as_int()));
    assert_eq!(
        client.call("CONFIG GET namespaces"),
        Value::Array(vec![Value::bulk("namespaces"), Value::bulk("shop max-items=300 ttl=5s max-ttl=10s")])
    );
    // Less, of bytes: at once for whoever writes, and for the others with time.
    assert_eq!(client.call("NAMESPACE SET other MAX-BYTES 600"), Value::ok());
    fill(&mut client, "other^n", 300);
    let deadline = std::time::Instant::now() + support::client::PATIENCE;
    while info(&mut client, "other", "bytes") > 600 {
        assert!(std::time::Instant::now() < deadline);
    }
    assert_eq!(client.call("NAMESPACE DEL shop"), Value::ok());
    assert_eq!(client.call("CONFIG GET namespaces").as_array()[1], Value::bulk("other max-bytes=600"));
    fill(&mut client, "shop^k", 1_000);
    assert_eq!(info(&mut client, "shop", "items"), 1_000);
    for (line, error) in [
        ("NAMESPACE SET shop MAX-ITEMS many", "ERR "),
        ("NAMESPACE SET shop MAX-ITEMS", "ERR wrong number of arguments for 'namespace|set' command"),
        ("NAMESPACE SET shop SIZE 5", "ERR syntax error"),
        ("NAMESPACE SET a^b TTL 5", "ERR a namespace's name has 1 to 64 bytes, none of them ^ or a space"),
        ("NAMESPACE SET shop TTL 5 MAX-TTL", "ERR syntax error"),
    ] {
        let Value::Error(said) = client.call(line) else { panic!("{line} is taken") };
        assert!(String::from_utf8_lossy(&said).starts_with(error), "{line}: {}", said.escape_ascii());
    }
}

/// What is set of namespaces is part of the configuration, and so it comes back.
#[test]
fn limits_are_written_into_the_configuration() {
    let directory = std::env::temp_dir().join(format!("crabcache-namespaces-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("crabcache.toml");
    std::fs::write(&file, "cores = 2\n").expect("a configuration");
    let arguments = ["--config", file.to_str().expect("a name that is text")];
    let server = Server::start(&arguments);
    let mut client = Client::connect(server.address());
    assert_eq!(client.call("NAMESPACE SET shop MAX-ITEMS 10"), Value::ok());
    assert_eq!(client.call("NAMESPACE SET other TTL 60s"), Value::ok());
    assert_eq!(client.call("CONFIG REWRITE"), Value::ok());
    drop(client);
    drop(server);
    let server = Server::start(&arguments);
    let mut client = Client::connect(server.address());
    assert_eq!(info(&mut client, "shop", "max_items"), 10);
    assert_eq!(info(&mut client, "other", "ttl_ms"), 60_000);
    fill(&mut client, "shop^k", 100);
    assert!(info(&mut client, "shop", "items") <= 10);
    drop(server);
    std::fs::remove_dir_all(&directory).expect("removed");
}

/// What a namespace would find with another quota is told where its other numbers are.
#[test]
fn what_if_it_might_hold_more() {
    let server = Server::start(&["--cores", "2", "--namespaces", "shop max-items=200"]);
    let mut client = Client::connect(server.address());
    // Three hundred keys asked for in turn: too many for its quota, not for twice as much.
    for round in 0..12 {
        for number in 0..300 {
            if client.call(&format!("GET shop^k{number}")) == Value::NilBulk || round == 0 {
                client.call(&format!("SET shop^k{number} v"));
            }
        }
    }
    let percent = |client: &mut Client, name: &str| {
        let info = client.call("NAMESPACE INFO shop");
        let words = info.as_array();
        let wanted = Value::bulk(format!("what_if_hit_percent_{name}"));
        let place = words.iter().position(|word| *word == wanted).expect("it is told");
        String::from_utf8_lossy(words[place + 1].as_bytes()).parse::<f64>().expect("a number")
    };
    assert!(percent(&mut client, "half") < 1.0 && percent(&mut client, "same") < 40.0);
    assert!(percent(&mut client, "double") > 80.0 && percent(&mut client, "quadruple") > 80.0);
    let stats = client.call("STATS");
    let stats: serde_json::Value = serde_json::from_slice(stats.as_bytes()).expect("JSON");
    let shop = &stats["namespaces"]["shop"];
    let number = |name: &str| shop[name].as_u64().unwrap_or_else(|| panic!("{name} in {shop}"));
    assert_eq!(number("items") as i64, info(&mut client, "shop", "items"));
    assert_eq!(number("hits") + number("misses"), 3_600);
    assert_eq!(number("what_if_look_ups"), 3_600);
    assert!(number("what_if_hits_at_quadruple") > 2_900 && number("evictions") > 0);
    let metrics = client.call("STATS PROMETHEUS");
    let metrics = String::from_utf8_lossy(metrics.as_bytes()).into_owned();
    for line in [
        format!("crabcache_namespace_hits_total{{namespace=\"shop\"}} {}", number("hits")),
        format!(
            "crabcache_namespace_what_if_hits_at_double{{namespace=\"shop\"}} {}",
            number("what_if_hits_at_double")
        ),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}");
    }
}

/// Whoever is in a database by its number sees the other's keys, wherever he is connected, and so do those who come later.
#[test]
fn databases_are_swapped_for_everybody_at_once() {
    let server = Server::start(&["--cores", "4"]);
    let mut clients: Vec<Client> = (0..16).map(|_| Client::connect(server.address())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.call(&format!("SELECT {}", number % 2));
    }
    let keys: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
    for key in &keys {
        clients[0].call(&format!("SET {key} zero"));
        clients[1].call(&format!("SET {key} one"));
    }
    clients[2].call("NAMESPACE USE shop");
    clients[2].call("SET k0 shop");
    // One watches, one has queued, one remembers what it has read.
    clients[4].call("WATCH k3");
    clients[5].call("MULTI");
    clients[5].call("SET k4 queued");
    clients[7].call("CLIENT TRACKING ON REDIRECT 0");
    let swapper = &mut Client::connect(server.address());
    assert_eq!(swapper.call("SWAPDB 0 1"), Value::ok());
    for (number, client) in clients.iter_mut().enumerate().filter(|(number, _)| ![2, 4, 5, 7].contains(number)) {
        let expected = if number % 2 == 0 { "one" } else { "zero" };
        for key in &keys {
            assert_eq!(client.call(&format!("GET {key}")), Value::bulk(expected));
        }
        assert_eq!(client.call("DBSIZE"), Value::Int(20));
    }
    assert_eq!(clients[2].call("GET k0"), Value::bulk("shop"));
    clients[4].call("MULTI");
    clients[4].call("SET k3 lost");
    assert_eq!(clients[4].call("EXEC"), Value::NilArray);
    assert!(clients[5].call("EXEC").is_error());
    let mut late = Client::connect(server.address());
    assert_eq!(late.call("GET k9"), Value::bulk("one"));
    assert_eq!(late.call("MOVE k9 1"), Value::Int(0));
    late.call("DEL k9");
    assert_eq!((late.call("COPY k8 k9 DB 1 REPLACE"), late.call("GET k9")), (Value::Int(1), Value::NilBulk));
    let keyspace = late.call("INFO keyspace");
    let keyspace = String::from_utf8_lossy(keyspace.as_bytes()).into_owned();
    // The key of the namespace counts where the global ones are.
    assert!(keyspace.contains("db0:keys=19,") && keyspace.contains("db1:keys=21,"), "{keyspace}");
    late.call("RESET");
    assert_eq!(late.call("GET k1"), Value::bulk("one"));
}

/// FLUSHDB of global keys went through all keys of a core at once as soon as there was one in a namespace.
#[test]
fn global_keys_are_flushed_and_others_stay() {
    let server = Server::start(&["--cores", "3"]);
    let mut client = Client::connect(server.address());
    fill(&mut client, "k", 3_000);
    fill(&mut client, "shop^k", 10);
    client.call("SELECT 4");
    fill(&mut client, "k", 10);
    client.call("SELECT 0");
    assert_eq!((client.call("FLUSHDB"), client.call("DBSIZE")), (Value::ok(), Value::Int(0)));
    assert_eq!(client.call("KEYS *"), Value::Array(Vec::new()));
    assert_eq!((info(&mut client, "shop", "items"), info(&mut client, "db4", "items")), (10, 10));
    fill(&mut client, "k", 20);
    for (line, reply) in [("MULTI", "OK"), ("FLUSHDB", "QUEUED"), ("DBSIZE", "QUEUED")] {
        assert_eq!(client.call(line).as_text(), reply);
    }
    assert_eq!(client.call("EXEC"), Value::Array(vec![Value::ok(), Value::Int(0)]));
    assert_eq!(info(&mut client, "shop", "items"), 10);
}
