//! Channels on a running server: a thousand subscribers on all cores, one of whom reads nothing; many who come
//! and go; and nothing left behind.

mod harness;
mod support;

use std::time::{Duration, Instant};

use harness::Server;
use support::client::{Client, PATIENCE, command};
use support::value::Value;
use support::vitals::{Vitals, descriptors, info_number, raise_descriptor_limit};

fn bulk(text: &str) -> Value {
    Value::bulk(text.as_bytes())
}

fn message(channel: &str, payload: &str) -> Value {
    Value::Array(vec![bulk("message"), bulk(channel), bulk(payload)])
}

/// Waits until INFO says so.
fn reaches(server: &Server, name: &str, wanted: usize) {
    let mut client = Client::connect(server.address());
    let until = Instant::now() + PATIENCE;
    while info_number(&mut client, name) != wanted {
        assert!(Instant::now() < until, "{name} is {}, not {wanted}", info_number(&mut client, name));
        std::thread::yield_now();
    }
}

#[test]
fn a_thousand_subscribers_hear_everything_and_one_that_reads_nothing_is_dropped() {
    const SUBSCRIBERS: usize = 1000;
    raise_descriptor_limit();
    let server = Server::start(&["--cores", "2"]);
    let mut subscribers: Vec<Client> = (0..SUBSCRIBERS).map(|_| Client::connect(server.address())).collect();
    for subscriber in &mut subscribers {
        let confirmation = subscriber.call("SUBSCRIBE news");
        assert_eq!(confirmation, Value::Array(vec![bulk("subscribe"), bulk("news"), Value::Int(1)]));
    }
    let mut speaker = Client::connect(server.address());
    for number in 0..20 {
        assert_eq!(speaker.call(&format!("PUBLISH news {number}")), Value::Int(SUBSCRIBERS as i64));
    }
    for subscriber in &mut subscribers {
        for number in 0..20 {
            assert_eq!(subscriber.reply(), message("news", &number.to_string()));
        }
    }
    drop_a_deaf_one(&server, &mut speaker, 0);
    assert_eq!(speaker.call("PUBLISH news last"), Value::Int(SUBSCRIBERS as i64));
    assert_eq!(
        subscribers.iter_mut().map(Client::reply).filter(|said| *said == message("news", "last")).count(),
        SUBSCRIBERS
    );
    drop(subscribers);
    reaches(&server, "pubsub_clients", 0);
    assert_eq!(speaker.call("PUBSUB CHANNELS"), Value::Array(vec![]));
    assert_eq!(speaker.call("PUBLISH news nobody"), Value::Int(0));
    assert!(server.stop().success());
}

/// Publishes to somebody who reads nothing until it is dropped: more than its bound and what the kernel keeps for it.
fn drop_a_deaf_one(server: &Server, speaker: &mut Client, dropped_so_far: usize) {
    let mut deaf = Client::connect(server.address());
    deaf.call("SUBSCRIBE big");
    let payload = "x".repeat(1 << 20);
    for _ in 0..64 {
        speaker.send(&command(&["PUBLISH", "big", &payload]));
        speaker.reply();
    }
    reaches(server, "pubsub_subscribers_dropped", dropped_so_far + 1);
}

/// What was kept for subscribers that are dropped, or go away without a word, is given back.
#[test]
fn subscribers_that_are_gone_leave_no_memory_behind() {
    const UNREAD_BYTES: usize = 32 << 20;
    let server = Server::start(&["--cores", "2"]);
    let mut speaker = Client::connect(server.address());
    drop_a_deaf_one(&server, &mut speaker, 0);
    let before = Vitals::settled(&server, 1, descriptors(&server));
    for dropped in 1..5 {
        drop_a_deaf_one(&server, &mut speaker, dropped);
        // This one goes by itself, with names of its own on every core and messages unread.
        let mut gone = Client::connect(server.address());
        for number in 0..500 {
            gone.send(format!("SUBSCRIBE of:{dropped}:{number}\r\nPSUBSCRIBE {dropped}:{number}*\r\n").as_bytes());
        }
        gone.replies(1000);
        for _ in 0..8 {
            speaker.send(&command(&["PUBLISH", &format!("of:{dropped}:7"), &"x".repeat(1 << 20)]));
            assert_eq!(speaker.reply(), Value::Int(1));
        }
        drop(gone);
        reaches(&server, "pubsub_clients", 0);
    }
    assert_eq!(speaker.call("PUBSUB CHANNELS"), Value::Array(vec![]));
    assert_eq!(speaker.call("PUBSUB NUMPAT"), Value::Int(0));
    // Memory is given back a piece per tick.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let after = Vitals::settled(&server, 1, before.descriptors);
        if after.resident_bytes < before.resident_bytes + UNREAD_BYTES {
            break;
        }
        assert!(Instant::now() < deadline, "{before:?}, {after:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The `redis` crate's own idea of subscriptions, over cores.
#[test]
fn the_redis_crate_subscribes() {
    let server = Server::start(&["--cores", "3"]);
    let client = redis::Client::open(format!("redis://{}/", server.address())).unwrap();
    let mut listening = client.get_connection().unwrap();
    listening.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut listener = listening.as_pubsub();
    listener.subscribe("news").unwrap();
    listener.psubscribe("wea*").unwrap();
    // Several connections, so that some are on other cores.
    for number in 0..8 {
        let mut speaker = client.get_connection().unwrap();
        let told: i64 = redis::cmd("PUBLISH").arg("news").arg(number).query(&mut speaker).unwrap();
        assert_eq!(told, 1);
        let told: i64 = redis::cmd("PUBLISH").arg("weather").arg(number).query(&mut speaker).unwrap();
        assert_eq!(told, 1);
        let message = listener.get_message().unwrap();
        assert_eq!((message.get_channel_name(), message.get_payload::<i64>().unwrap()), ("news", number));
        let message = listener.get_message().unwrap();
        assert_eq!(message.get_pattern::<String>().unwrap(), "wea*");
        assert_eq!((message.get_channel_name(), message.get_payload::<i64>().unwrap()), ("weather", number));
    }
    listener.unsubscribe("news").unwrap();
    assert!(server.stop().success());
}

#[test]
fn subscriptions_and_messages_are_counted() {
    let server = Server::start(&["--cores", "1"]);
    let mut listener = Client::connect(server.address());
    for subscription in ["SUBSCRIBE a", "SUBSCRIBE b", "PSUBSCRIBE c*", "SSUBSCRIBE s"] {
        listener.call(subscription);
    }
    let mut speaker = Client::connect(server.address());
    let told =
        ["PUBLISH a 1", "PUBLISH cat 2", "PUBLISH nobody 3", "SPUBLISH s 4"].map(|publish| speaker.call(publish));
    assert_eq!(told, [1, 1, 0, 1].map(Value::Int));
    let counted = [
        ("pubsub_clients", 1),
        ("pubsub_channels", 2),
        ("pubsub_patterns", 1),
        ("pubsubshard_channels", 1),
        ("pubsub_messages", 4),
        ("pubsub_deliveries", 3),
        ("pubsub_subscribers_dropped", 0),
    ];
    for (name, expected) in counted {
        assert_eq!(info_number(&mut speaker, name), expected, "{name}");
    }
    drop(listener);
    for name in ["pubsub_clients", "pubsub_channels", "pubsub_patterns", "pubsubshard_channels"] {
        reaches(&server, name, 0);
    }
    assert_eq!(info_number(&mut speaker, "pubsub_messages"), 4);
}
