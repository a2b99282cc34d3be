//! Who is told of changed keys: client-side caches, with keys on other cores than clients.

mod harness;
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::Server;
use support::client::{Client, PATIENCE};
use support::random::Random;
use support::value::Value;
use support::vitals::{info_becomes, info_number};

fn start(options: &[&str]) -> Server {
    Server::start(&[&["--cores", "3"], options].concat())
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

fn caching(server: &Server, tracking: &str) -> Client {
    let mut client = Client::connect(server.address());
    assert!(!client.call("HELLO 3").is_error());
    assert_eq!(client.call(format!("CLIENT TRACKING ON {tracking}").trim_end()), Value::ok());
    client
}

fn invalidation(key: &str) -> Value {
    Value::Push(vec![bulk("invalidate"), Value::Array(vec![bulk(key)])])
}

fn nothing_comes(client: &mut Client) {
    assert_eq!(client.call("ECHO quiet"), bulk("quiet"));
    assert!(!client.readable_within(Duration::from_millis(20)));
}

/// Keys of all cores, for clients of all cores.
fn keys() -> impl Iterator<Item = String> {
    (0..8).map(|number| format!("key:{number}"))
}

#[test]
fn readers_on_any_core_are_told_of_writes_expiry_and_flushes() {
    let server = start(&[]);
    let mut writer = Client::connect(server.address());
    let mut readers: Vec<Client> = (0..5).map(|_| caching(&server, "")).collect();
    for key in keys() {
        for reader in &mut readers {
            assert_eq!(reader.call(&format!("GET {key}")), Value::Null);
        }
        assert_eq!(writer.call(&format!("SET {key} 1")), Value::ok());
        for reader in &mut readers {
            assert_eq!(reader.reply(), invalidation(&key));
        }
        // Told once.
        assert_eq!(writer.call(&format!("SET {key} 2")), Value::ok());
        nothing_comes(&mut readers[0]);
        // Its time comes, whether somebody asks for it or not.
        assert_eq!(readers[1].call(&format!("STRLEN {key}")), Value::Int(1));
        assert_eq!(writer.call(&format!("PEXPIRE {key} 30")), Value::Int(1));
        assert_eq!(readers[1].reply(), invalidation(&key));
        assert_eq!(readers[1].call(&format!("TYPE {key}")).as_text(), Value::Simple(b"string".to_vec()).as_text());
        assert_eq!(readers[1].reply(), invalidation(&key));
    }
    // What a transaction reads is read, too.
    let all: Vec<String> = keys().collect();
    let reader = &mut readers[2];
    assert_eq!(reader.call("MULTI"), Value::ok());
    reader.call(&format!("MGET {}", all.join(" ")));
    reader.call("GET another");
    assert_eq!(reader.call("EXEC").as_array().len(), 2);
    assert_eq!(writer.call(&format!("MSET {} 1 another 1", all.join(" 1 "))), Value::ok());
    let mut told: Vec<Value> = (0..9).map(|_| reader.reply()).collect();
    told.sort();
    let mut expected: Vec<Value> = all.iter().map(|key| invalidation(key)).chain([invalidation("another")]).collect();
    expected.sort();
    assert_eq!(told, expected);
    // Every client is told of a flush, once, whatever it has read.
    assert_eq!(writer.call("FLUSHALL"), Value::ok());
    for reader in &mut readers {
        assert_eq!(reader.reply(), Value::Push(vec![bulk("invalidate"), Value::Null]));
        nothing_comes(reader);
    }
}

#[test]
fn modes_say_what_is_told() {
    let server = start(&[]);
    let mut writer = Client::connect(server.address());
    for key in keys() {
        // Only what was asked for.
        let mut opt_in = caching(&server, "OPTIN");
        opt_in.call(&format!("GET {key}"));
        assert_eq!(opt_in.call("CLIENT CACHING YES"), Value::ok());
        opt_in.call("GET {other}");
        opt_in.call(&format!("GET {key}"));
        let mut opt_out = caching(&server, "OPTOUT");
        opt_out.call("GET {other}");
        assert_eq!(opt_out.call("CLIENT CACHING NO"), Value::ok());
        opt_out.call(&format!("GET {key}"));
        assert_eq!(writer.call(&format!("SET {key} 1")), Value::ok());
        assert_eq!(writer.call("SET {other} 1"), Value::ok());
        assert_eq!(opt_in.reply(), invalidation("{other}"));
        assert_eq!(opt_out.reply(), invalidation("{other}"));
        nothing_comes(&mut opt_in);
        nothing_comes(&mut opt_out);
        // The whole transaction.
        assert_eq!(opt_in.call("CLIENT CACHING YES"), Value::ok());
        opt_in.call("MULTI");
        opt_in.call(&format!("GET {key}"));
        opt_in.call("GET {other}");
        opt_in.call("EXEC");
        opt_in.call("GET {third}");
        writer.call(&format!("MSET {key} 1 {{other}} 1 {{third}} 1"));
        let mut told = [opt_in.reply(), opt_in.reply()];
        told.sort();
        let mut expected = [invalidation(&key), invalidation("{other}")];
        expected.sort();
        assert_eq!(told, expected);
        nothing_comes(&mut opt_in);
        // Own writes are own business, those of others are not.
        let mut quiet = caching(&server, "NOLOOP");
        quiet.call(&format!("GET {key}"));
        assert_eq!(quiet.call(&format!("SET {key} 2")), Value::ok());
        quiet.call(&format!("MGET {key} {{other}}"));
        assert_eq!(quiet.call(&format!("DEL {key}")), Value::Int(1));
        nothing_comes(&mut quiet);
        quiet.call(&format!("GET {key}"));
        assert_eq!(writer.call(&format!("APPEND {key} x")), Value::Int(1));
        assert_eq!(quiet.reply(), invalidation(&key));
        // All keys with a prefix, whoever has read them.
        let mut crowd = caching(&server, &format!("BCAST PREFIX {key} PREFIX z"));
        writer.call("SET a 1");
        writer.call(&format!("SET {key}:more 1"));
        assert_eq!(crowd.reply(), invalidation(&format!("{key}:more")));
        nothing_comes(&mut crowd);
        let mut everything = caching(&server, "BCAST NOLOOP");
        assert_eq!(everything.call(&format!("SET {key} 3")), Value::ok());
        nothing_comes(&mut everything);
        writer.call("SET a 1");
        assert_eq!(everything.reply(), invalidation("a"));
    }
}

#[test]
fn another_client_can_be_told_instead() {
    let server = start(&[]);
    let mut writer = Client::connect(server.address());
    for key in keys() {
        let mut told = Client::connect(server.address());
        let id = told.call("CLIENT ID").as_int();
        assert_eq!(told.call("SUBSCRIBE __redis__:invalidate").as_array().len(), 3);
        let mut reader = Client::connect(server.address());
        assert_eq!(reader.call(&format!("CLIENT TRACKING ON REDIRECT {id}")), Value::ok());
        assert_eq!(reader.call("CLIENT GETREDIR"), Value::Int(id));
        reader.call(&format!("GET {key}"));
        writer.call(&format!("SET {key} 1"));
        let message = |keys| Value::Array(vec![bulk("message"), bulk("__redis__:invalidate"), keys]);
        assert_eq!(told.reply(), message(Value::Array(vec![bulk(&key)])));
        assert!(!reader.readable_within(Duration::from_millis(5)));
        writer.call("FLUSHALL");
        assert_eq!(told.reply(), message(Value::NilBulk));
        // It is gone: whoever can be told so is.
        assert!(!reader.call("HELLO 3").is_error());
        drop(told);
        info_becomes(&mut writer, "pubsub_clients", 0);
        reader.call(&format!("GET {key}"));
        writer.call(&format!("SET {key} 2"));
        assert_eq!(reader.reply(), Value::Push(vec![bulk("tracking-redir-broken"), Value::Int(id)]));
        let info = format!("{:?}", reader.call("CLIENT TRACKINGINFO"));
        assert!(info.contains("broken_redirect"), "{info}");
        assert!(reader.call("CLIENT INFO").as_text().contains(" flags=tR "));
    }
}

#[test]
fn the_table_is_bounded_and_clients_leave_nothing_in_it() {
    let server = start(&["--tracking-table-max-keys", "30"]);
    let mut other = Client::connect(server.address());
    let mut reader = caching(&server, "");
    let mut cached: BTreeMap<String, ()> = BTreeMap::new();
    for number in 0..300 {
        let key = format!("key:{number}");
        reader.send(format!("GET {key}\r\n").as_bytes());
        cached.insert(key, ());
        while let Value::Push(items) = reader.reply() {
            cached.remove(&items[1].as_array()[0].as_text());
        }
    }
    // Those of other cores may still be on their way.
    while info_number(&mut other, "tracking_total_keys") < cached.len() {
        match reader.reply() {
            Value::Push(items) => drop(cached.remove(&items[1].as_array()[0].as_text())),
            other => panic!("{other:?}"),
        }
    }
    assert!(cached.len() <= 30, "{}", cached.len());
    assert_eq!(info_number(&mut other, "tracking_total_keys"), cached.len());
    assert_eq!(info_number(&mut other, "tracking_clients"), 1);
    let broadcast = caching(&server, "BCAST PREFIX a");
    info_becomes(&mut other, "tracking_total_prefixes", 1);
    drop(reader);
    drop(broadcast);
    for field in ["tracking_clients", "tracking_total_keys", "tracking_total_items", "tracking_total_prefixes"] {
        info_becomes(&mut other, field, 0);
    }
    // One that goes on begins with nothing.
    let mut again = caching(&server, "");
    again.call("GET key:1");
    assert_eq!(again.call("CLIENT TRACKING OFF"), Value::ok());
    assert_eq!(again.call("CLIENT TRACKING ON"), Value::ok());
    other.call("SET key:1 v");
    nothing_comes(&mut again);
    again.call("GET key:1");
    info_becomes(&mut other, "tracking_total_items", 1);
    other.call("SET key:1 w");
    assert_eq!(again.reply(), invalidation("key:1"));
}

/// Caches that believe what they are told, while others write: in the end none holds what is not so.
#[test]
fn caches_are_right_in_the_end() {
    let server = start(&[]);
    let mut random = Random::announced("caches_are_right_in_the_end");
    let mut caches: Vec<(Client, BTreeMap<String, Value>)> =
        (0..6).map(|number| (caching(&server, ["", "NOLOOP"][number % 2]), BTreeMap::new())).collect();
    let learn = |cache: &mut BTreeMap<String, Value>, push: Value| {
        let Value::Push(items) = push else { panic!("{push:?}") };
        match &items[1] {
            Value::Array(keys) => keys.iter().for_each(|key| drop(cache.remove(&key.as_text()))),
            _ => cache.clear(),
        }
    };
    for round in 0..1500 {
        let (client, cache) = &mut caches[random.below(6)];
        let key = format!("key:{}", random.below(12));
        // One message after the other, so that a reply is taken in before what invalidates it.
        let mut ask = |line: String| {
            client.send(format!("{line}\r\n").as_bytes());
            loop {
                match client.reply() {
                    push @ Value::Push(_) => learn(cache, push),
                    reply => return reply,
                }
            }
        };
        match random.below(10) {
            0..6 => {
                let value = ask(format!("GET {key}"));
                cache.insert(key, value);
            }
            6 => {
                ask("MULTI".into());
                ask(format!("SET {key} {round}"));
                ask(format!("INCR counter:{}", random.below(3)));
                ask("EXEC".into());
                cache.remove(&key);
            }
            7 => {
                ask(format!("RENAME {key} key:{}", random.below(12)));
                cache.clear();
            }
            8 if random.chance(20) => drop(ask("FLUSHALL".into())),
            _ => {
                ask(format!("SET {key} {round} PX {}", [20, 100_000][random.below(2)]));
                cache.remove(&key);
            }
        }
    }
    let mut plain = Client::connect(server.address());
    let deadline = Instant::now() + PATIENCE;
    for (number, (client, cache)) in caches.iter_mut().enumerate() {
        loop {
            while client.readable_within(Duration::from_millis(1)) {
                learn(cache, client.reply());
            }
            let mut is_so = |(key, value): (&String, &Value)| match (plain.call(&format!("GET {key}")), value) {
                (Value::NilBulk, value) => *value == Value::Null,
                (found, value) => found == *value,
            };
            let wrong = cache.iter().find(|entry| !is_so(*entry)).map(|(key, value)| (key.clone(), value.clone()));
            let Some(wrong) = wrong else { break };
            assert!(Instant::now() < deadline, "cache {number} still holds {wrong:?}");
        }
    }
}

/// A client in a database never heard of the keys it had read: they were called what they are called outside of it.
#[test]
fn keys_are_called_what_they_are_called_where_the_client_is() {
    let server = start(&[]);
    let mut writer = Client::connect(server.address());
    for (enter, prefix) in [("SELECT 3", "db3^"), ("NAMESPACE USE shop", "shop^")] {
        let mut reader = caching(&server, "");
        let mut listener = caching(&server, "BCAST PREFIX key:");
        assert_eq!(reader.call(enter), Value::ok());
        assert_eq!(listener.call(enter), Value::ok());
        assert_eq!(listener.reply(), Value::Push(vec![bulk("invalidate"), Value::Null]));
        for key in keys() {
            assert_eq!(reader.call(&format!("GET {key}")), Value::Null);
            assert_eq!(writer.call(&format!("SET {prefix}{key} 1")), Value::ok());
            assert_eq!(reader.reply(), invalidation(&key));
            assert_eq!(listener.reply(), invalidation(&key));
        }
        assert_eq!(writer.call(&format!("SET {prefix}other 1")), Value::ok());
        nothing_comes(&mut listener);
    }
    // Swapped, it is the keys of the other one.
    let mut listener = caching(&server, "BCAST PREFIX key:");
    assert_eq!(writer.call("SWAPDB 0 5"), Value::ok());
    let forget_all = Value::Push(vec![bulk("invalidate"), Value::Null]);
    assert_eq!(listener.reply(), forget_all);
    assert_eq!(writer.call("SET key:1 v"), Value::ok());
    assert_eq!(listener.reply(), invalidation("key:1"));
}
