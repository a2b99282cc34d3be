//! Who hears what, over cores: byte for byte, in order, and with bounds.

use super::lab::Lab;
use super::world::Bounds;
use crate::engine::settings::Live;
use crate::limits;
use crate::pubsub::KeyspaceEvents;
use crate::random::{Announced, Random};
use crate::slot;

fn lab(seed: u64, cores: usize) -> Lab {
    Lab::new(Random::new(seed), &Bounds { cores, ..Bounds::default() })
}

/// A message as a subscriber of either protocol reads it.
fn message(resp3: bool, words: &[&str]) -> String {
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    let count = words.matches('$').count();
    format!("{}{count}\r\n{words}", if resp3 { '>' } else { '*' })
}

#[test]
fn a_message_comes_to_listeners_of_every_core_in_their_protocol() {
    let mut lab = lab(1, 3);
    let (two, three, speaker) = (lab.connect(0), lab.connect(1), lab.connect(2));
    assert_eq!(lab.call(speaker, "PUBLISH news nobody"), ":0\r\n");
    assert_eq!(
        lab.call(two, "SUBSCRIBE news other"),
        "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$5\r\nother\r\n:2\r\n"
    );
    lab.call(three, "HELLO 3");
    assert_eq!(lab.call(three, "PSUBSCRIBE n*"), ">3\r\n$10\r\npsubscribe\r\n$2\r\nn*\r\n:1\r\n");
    assert_eq!(lab.call(three, "SSUBSCRIBE news"), ">3\r\n$10\r\nssubscribe\r\n$4\r\nnews\r\n:1\r\n");
    assert_eq!(lab.call(speaker, "PUBLISH news hello"), ":2\r\n");
    assert_eq!(lab.heard(two), message(false, &["message", "news", "hello"]).into_bytes());
    assert_eq!(lab.heard(three), message(true, &["pmessage", "n*", "news", "hello"]).into_bytes());
    assert_eq!(lab.call(speaker, "SPUBLISH news shard"), ":1\r\n");
    assert_eq!(lab.heard(three), message(true, &["smessage", "news", "shard"]).into_bytes());
    assert_eq!(lab.heard(two), b"");
    // Who is gone leaves nothing behind.
    lab.disconnect(two);
    assert_eq!(lab.call(speaker, "PUBLISH news again"), ":1\r\n");
    assert_eq!(
        lab.call(three, "PUNSUBSCRIBE"),
        format!("{}>3\r\n$12\r\npunsubscribe\r\n$2\r\nn*\r\n:0\r\n", {
            message(true, &["pmessage", "n*", "news", "again"])
        })
    );
    assert_eq!(lab.call(three, "RESET"), "+RESET\r\n");
    assert_eq!(lab.call(speaker, "PUBLISH news last"), ":0\r\n");
    assert_eq!(lab.call(speaker, "SPUBLISH news last"), ":0\r\n");
    assert_eq!(lab.call(speaker, "PUBSUB CHANNELS"), "*0\r\n");
    assert_eq!(lab.call(speaker, "PUBSUB SHARDCHANNELS"), "*0\r\n");
}

#[test]
fn what_is_listened_to_is_told_over_all_cores() {
    let mut lab = lab(2, 3);
    let clients = [lab.connect(0), lab.connect(1), lab.connect(2)];
    lab.call(clients[0], "SUBSCRIBE a b");
    lab.call(clients[1], "HELLO 3");
    lab.call(clients[1], "SUBSCRIBE b c");
    lab.call(clients[1], "PSUBSCRIBE x* y*");
    lab.call(clients[0], "PSUBSCRIBE x*");
    lab.call(clients[1], "SSUBSCRIBE s");
    let asks = clients[2];
    assert_eq!(lab.call(asks, "PUBSUB CHANNELS"), "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
    assert_eq!(lab.call(asks, "PUBSUB CHANNELS [ab]"), "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    assert_eq!(
        lab.call(asks, "PUBSUB NUMSUB a b z b"),
        "*8\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:2\r\n$1\r\nz\r\n:0\r\n$1\r\nb\r\n:2\r\n"
    );
    assert_eq!(lab.call(asks, "PUBSUB NUMSUB"), "*0\r\n");
    assert_eq!(lab.call(asks, "PUBSUB NUMPAT"), ":2\r\n", "two patterns, one of them on two cores");
    assert_eq!(lab.call(asks, "PUBSUB SHARDCHANNELS"), "*1\r\n$1\r\ns\r\n");
    assert_eq!(lab.call(asks, "PUBSUB SHARDNUMSUB s a"), "*4\r\n$1\r\ns\r\n:1\r\n$1\r\na\r\n:0\r\n");
    assert!(lab.call(asks, "CLIENT LIST TYPE pubsub").matches(" flags=P ").count() == 2);
}

#[test]
fn a_listener_of_resp2_may_say_little_else() {
    let mut lab = lab(3, 2);
    let client = lab.connect(0);
    lab.call(client, "SUBSCRIBE a");
    let refused = "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
                   this context\r\n";
    assert_eq!(lab.call(client, "GET k"), refused);
    assert_eq!(lab.call(client, "MGET a b"), refused.replace("'get'", "'mget'"));
    assert_eq!(lab.call(client, "CLIENT LIST"), refused.replace("'get'", "'client|list'"), "a barrier is lifted");
    assert_eq!(lab.call(client, "PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    assert_eq!(lab.call(client, "PING hi"), "*2\r\n$4\r\npong\r\n$2\r\nhi\r\n");
    assert_eq!(lab.call(client, "UNSUBSCRIBE"), "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n");
    assert_eq!(lab.call(client, "UNSUBSCRIBE"), "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n");
    assert_eq!(lab.call(client, "UNSUBSCRIBE nosuch"), "*3\r\n$11\r\nunsubscribe\r\n$6\r\nnosuch\r\n:0\r\n");
    assert_eq!(lab.call(client, "GET k"), "$-1\r\n");
    lab.call(client, "HELLO 3");
    lab.call(client, "SUBSCRIBE a");
    assert_eq!(lab.call(client, "GET k"), "_\r\n", "pushes can be told from answers");
}

/// The messages that a subscriber of RESP2 has heard, and its confirmations by their first letter.
fn events(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let mut events = Vec::new();
    let mut lines = text.split("\r\n");
    while let Some(head) = lines.next().filter(|head| !head.is_empty()) {
        assert_eq!(head, "*3", "{text}");
        let word = lines.nth(1).unwrap();
        let _channel = lines.nth(1).unwrap();
        let last = lines.next().unwrap();
        let last = if last.starts_with('$') { lines.next().unwrap() } else { last };
        events.push(if word == "message" { last.to_string() } else { word[..1].to_string() });
    }
    events
}

/// Whatever is under way where: who listened when the publisher's message was answered, and still does, hears of
/// it, once, and in order.
#[test]
fn each_publisher_is_heard_in_order_and_without_gaps() {
    for seed in 0..150 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds { subscriber_hard_bytes: 1 << 30, ..Bounds::random(&mut random) };
        let mut lab = Lab::new(random, &bounds);
        let cores = bounds.cores;
        let listeners: Vec<usize> = (0..4)
            .map(|_| {
                let core = lab.random.below(cores);
                lab.connect(core)
            })
            .collect();
        let speakers: Vec<usize> = (0..3)
            .map(|_| {
                let core = lab.random.below(cores);
                lab.connect(core)
            })
            .collect();
        let steady = listeners[0];
        lab.send(steady, b"SUBSCRIBE c\r\n");
        lab.settle();
        let count = 40;
        let long = "x".repeat(limits::SHARED_MESSAGE_BYTES_MIN);
        for number in 0..count {
            for (speaker, &client) in speakers.iter().enumerate() {
                let tail = if lab.random.below(4) == 0 { long.as_str() } else { "" };
                let said = format!("SET k{number} v\r\nPUBLISH c {speaker}:{number:03}{tail}\r\n");
                lab.send(client, said.as_bytes());
            }
            let who = listeners[1 + lab.random.below(3)];
            let what: &[u8] = if lab.random.below(2) == 0 { b"SUBSCRIBE c\r\n" } else { b"UNSUBSCRIBE c\r\n" };
            lab.send(who, what);
            for _ in 0..lab.random.below(30) {
                lab.step();
            }
        }
        lab.settle();
        for (at, &client) in listeners.iter().enumerate() {
            let heard = lab.heard(client);
            let mut last = [None; 3];
            let mut listens = false;
            for event in events(&heard) {
                match event.as_str() {
                    "s" => listens = true,
                    "u" => listens = false,
                    said => {
                        assert!(listens, "a message outside of a subscription");
                        let speaker = said[..1].parse::<usize>().unwrap();
                        let number = said[2..5].parse::<i32>().unwrap();
                        assert!(last[speaker].is_none_or(|last| number > last), "out of order");
                        // Only who was deaf for a while may miss one.
                        assert!(at > 0 || number == last[speaker].map_or(0, |last| last + 1), "a gap");
                        last[speaker] = Some(number);
                    }
                }
            }
            assert!(at > 0 || last == [Some(count - 1); 3]);
        }
        lab.disconnect(steady);
        listeners.iter().for_each(|&listener| lab.disconnect(listener));
        assert_eq!(lab.call(speakers[0], "PUBSUB CHANNELS").lines().last(), Some("*0"));
    }
}

/// Somebody invalidated a cache entry in a pipeline behind its write, and who was told read the old value.
#[test]
fn a_message_does_not_overtake_what_its_publisher_wrote() {
    for seed in 0..100 {
        let _announced = Announced(seed);
        let mut lab = lab(seed, 3);
        let key = (0..)
            .map(|number| format!("k{number}"))
            .find(|key| slot::owner_of_slot(slot::slot_of(key.as_bytes()), 3) == 2);
        let key = key.unwrap();
        let (listener, speaker) = (lab.connect(0), lab.connect(1));
        lab.call(listener, "SUBSCRIBE c");
        lab.send(speaker, format!("SET {key} new\r\nPUBLISH c {key}\r\nSET {key} newer\r\n").as_bytes());
        while lab.clients[listener].received.is_empty() {
            assert!(lab.step(), "the message never came");
        }
        assert_eq!(lab.engines[2].shard().len(), 1, "the write is done when the message comes");
        lab.settle();
        assert_eq!(lab.heard(speaker), b"+OK\r\n:1\r\n+OK\r\n");
    }
}

#[test]
fn who_does_not_read_is_dropped_and_nobody_else_notices() {
    let bounds =
        Bounds { cores: 2, subscriber_hard_bytes: 100_000, subscriber_soft_bytes: 40_000, ..Bounds::default() };
    let mut lab = Lab::new(Random::new(9), &bounds);
    let (slow, quick, speaker) = (lab.connect(0), lab.connect(0), lab.connect(1));
    lab.call(slow, "SUBSCRIBE c");
    lab.call(quick, "SUBSCRIBE c");
    lab.clients[slow].reads = false;
    let payload = "x".repeat(5000);
    for number in 1..=30 {
        let was_dropped = lab.clients[slow].is_closed;
        let told = lab.call(speaker, &format!("PUBLISH c {payload}"));
        assert_eq!(told, if was_dropped { ":1\r\n" } else { ":2\r\n" }, "{number}");
        assert_eq!(events(&lab.heard(quick)).len(), 1);
    }
    assert!(lab.clients[slow].is_closed);
    let counters = &lab.engines[0].counters;
    assert_eq!((counters.subscribers_dropped, counters.connections_closed_by_output_bound), (1, 1));
}

#[test]
fn who_reads_too_little_for_too_long_is_dropped() {
    let bounds =
        Bounds { cores: 1, subscriber_hard_bytes: 1 << 30, subscriber_soft_bytes: 10_000, ..Bounds::default() };
    let mut lab = Lab::new(Random::new(10), &bounds);
    let (slow, back, speaker) = (lab.connect(0), lab.connect(0), lab.connect(0));
    lab.call(slow, "SUBSCRIBE c");
    lab.call(back, "SUBSCRIBE c");
    lab.clients[slow].reads = false;
    lab.clients[back].reads = false;
    assert_eq!(lab.call(speaker, &format!("PUBLISH c {}", "x".repeat(20_000))), ":2\r\n");
    lab.pass_ms(limits::SUBSCRIBER_SOFT_MS_MAX - 1);
    lab.settle();
    assert!(!lab.clients[slow].is_closed && !lab.clients[back].is_closed);
    // One of them catches up in time.
    lab.clients[back].reads = true;
    lab.settle();
    lab.pass_ms(1);
    lab.settle();
    assert!(lab.clients[slow].is_closed && !lab.clients[back].is_closed);
    assert_eq!(lab.engines[0].counters.subscribers_dropped, 1);
    assert_eq!(lab.call(speaker, "PUBLISH c x"), ":1\r\n");
}

/// A core that does not get round to reading is told of no more keys than there is room for, and that it missed some.
#[test]
fn news_for_a_core_that_rests_are_bounded() {
    const WRITES: usize = 40_000;
    let bounds = Bounds { cores: 2, mesh_in_flight_max: 1, mesh_waiting_max: 1, ..Bounds::default() };
    let live = Live { keyspace_events: KeyspaceEvents::parse("K$").unwrap(), ..Live::default() };
    let mut lab = Lab::with(Random::new(5), &bounds, live);
    let (writer, listener, reader) = (lab.connect(0), lab.connect(1), lab.connect(1));
    let mut keys = (0..)
        .map(|number| format!("k{number}"))
        .filter(|key| slot::owner_of_slot(slot::slot_of(key.as_bytes()), 2) == 0);
    let (key, last) = (keys.next().unwrap(), keys.next().unwrap());
    lab.call(listener, &format!("SUBSCRIBE __keyspace@0__:{key}"));
    lab.call(reader, "HELLO 3");
    lab.call(reader, "CLIENT TRACKING ON");
    lab.call(reader, &format!("GET {last}"));
    lab.send(writer, format!("SET {key} v\r\n").repeat(WRITES).as_bytes());
    lab.send(writer, format!("SET {last} v\r\n").as_bytes());
    lab.settle_alone(0);
    let (told, lost) = {
        let counters = &lab.engines[0].counters;
        (counters.keyspace_events as usize - 1, counters.keyspace_events_lost as usize)
    };
    assert_eq!((told, lab.heard(writer).len()), (WRITES, 5 * (WRITES + 1)), "nobody who writes waits for it");
    assert!(lost > 0 && lost < WRITES, "{lost}");
    lab.settle();
    let message = message(false, &["message", &format!("__keyspace@0__:{key}"), "set"]);
    assert_eq!(lab.heard(listener).len(), (WRITES - lost) * message.len());
    // It has missed what has become of a key: so it is to forget all of them.
    lab.pass_ms(1);
    lab.settle();
    assert_eq!(lab.heard(reader), b">2\r\n$10\r\ninvalidate\r\n_\r\n");
    assert!(lab.engines[0].all_invalid_at.is_empty());
}
