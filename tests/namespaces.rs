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
