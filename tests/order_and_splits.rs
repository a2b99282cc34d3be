//! Reply order is command order, whichever core answers; values of any size come back whole; and the
//! result never depends on where the network cut.

mod harness;
mod support;

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;

use harness::Server;
use support::client::{Client, command, push_command};
use support::random::Random;
use support::value::{Value, quoted};

const MIB: usize = 1024 * 1024;

fn server() -> Server {
    Server::start(&["--cores", "4"])
}

/// Commands of one connection on keys of its own, and what each must answer, from a map.
struct Conversation {
    prefix: String,
    map: HashMap<Vec<u8>, Vec<u8>>,
    bytes: Vec<u8>,
    expected: Vec<Value>,
}

impl Conversation {
    fn new(prefix: String) -> Conversation {
        Conversation { prefix, map: HashMap::new(), bytes: Vec::new(), expected: Vec::new() }
    }

    fn key(&self, random: &mut Random) -> Vec<u8> {
        format!("{}:{}", self.prefix, random.below(200)).into_bytes()
    }

    fn push(&mut self, words: &[&[u8]], reply: Value) {
        push_command(&mut self.bytes, words);
        self.expected.push(reply);
    }

    fn get(&self, key: &[u8]) -> Value {
        self.map.get(key).map_or(Value::NilBulk, |value| Value::Bulk(value.clone()))
    }

    fn push_random(&mut self, random: &mut Random, value_bytes_max: usize) {
        let key = self.key(random);
        match random.below(12) {
            0..3 => {
                let len = random.below(value_bytes_max);
                let value = random.bytes(len);
                self.push(&[b"SET", &key, &value], Value::ok());
                self.map.insert(key, value);
            }
            3..6 => {
                let reply = self.get(&key);
                self.push(&[b"GET", &key], reply);
            }
            6 => {
                let reply = Value::Int(self.map.remove(&key).is_some() as i64);
                self.push(&[b"DEL", &key], reply);
            }
            7 => {
                let mark = random.next().to_string().into_bytes();
                self.push(&[b"ECHO", &mark], Value::Bulk(mark.clone()));
            }
            8 => {
                let keys: Vec<Vec<u8>> = (0..1 + random.below(5)).map(|_| self.key(random)).collect();
                let values = keys.iter().map(|key| self.get(key)).collect();
                let words: Vec<&[u8]> = [&b"MGET"[..]].into_iter().chain(keys.iter().map(Vec::as_slice)).collect();
                self.push(&words, Value::Array(values));
            }
            9 => {
                let mut words = vec![b"MSET".to_vec()];
                for _ in 0..1 + random.below(5) {
                    let (key, value) = (self.key(random), random.next().to_string().into_bytes());
                    words.extend([key.clone(), value.clone()]);
                    self.map.insert(key, value);
                }
                self.push(&words.iter().map(Vec::as_slice).collect::<Vec<_>>(), Value::ok());
            }
            10 => {
                let tail = random.next().to_string().into_bytes();
                let value = self.map.entry(key.clone()).or_default();
                value.extend_from_slice(&tail);
                let len = value.len() as i64;
                self.push(&[b"APPEND", &key, &tail], Value::Int(len));
            }
            _ => {
                let to = self.key(random);
                match self.map.remove(&key) {
                    Some(value) => {
                        self.map.insert(to.clone(), value);
                        self.push(&[b"RENAME", &key, &to], Value::ok());
                    }
                    None => self.push(&[b"RENAME", &key, &to], Value::Error(b"ERR no such key".to_vec())),
                }
            }
        }
    }

    /// Sends everything, cut at random, while it reads and compares.
    fn hold(&self, address: SocketAddr, cuts: &[usize]) {
        let mut client = Client::connect(address);
        let mut writer = client.writer();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut from = 0;
                for &cut in cuts.iter().chain([&self.bytes.len()]) {
                    writer.write_all(&self.bytes[from..cut]).expect("send");
                    from = cut;
                }
            });
            for (index, expected) in self.expected.iter().enumerate() {
                let reply = client.reply();
                assert!(reply == *expected, "reply {index} is {reply:?} instead of {expected:?}");
            }
        });
        assert!(!client.readable_within(std::time::Duration::from_millis(1)), "more replies than commands");
    }
}

#[test]
fn pipelines_of_thousands_over_all_cores_are_answered_in_order() {
    let server = server();
    let mut random = Random::announced("pipelines");
    let address = server.address();
    for round in 0..6 {
        let conversations: Vec<(Conversation, Vec<usize>)> = (0..8)
            .map(|index| {
                let mut conversation = Conversation::new(format!("{round}:{index}"));
                for _ in 0..4000 {
                    conversation.push_random(&mut random, 60);
                }
                let cuts = random.cuts(conversation.bytes.len());
                (conversation, cuts)
            })
            .collect();
        std::thread::scope(|scope| {
            for (conversation, cuts) in &conversations {
                scope.spawn(move || conversation.hold(address, cuts));
            }
        });
    }
}

#[test]
fn pipelines_of_values_around_every_threshold_are_answered_in_order() {
    let server = server();
    let mut random = Random::announced("pipelines of large values");
    let address = server.address();
    for round in 0..4 {
        let conversations: Vec<(Conversation, Vec<usize>)> = (0..4)
            .map(|index| {
                let mut conversation = Conversation::new(format!("{round}:{index}"));
                for _ in 0..300 {
                    let value_bytes_max = *random.pick(&[100, 20_000, 33_000, 70_000, 200_000]);
                    conversation.push_random(&mut random, value_bytes_max);
                }
                let cuts = random.cuts(conversation.bytes.len());
                (conversation, cuts)
            })
            .collect();
        std::thread::scope(|scope| {
            for (conversation, cuts) in &conversations {
                scope.spawn(move || conversation.hold(address, cuts));
            }
        });
    }
}

#[test]
fn one_conversation_cut_in_two_at_every_byte_gives_the_same_replies() {
    let server = server();
    let mut random = Random::announced("every byte");
    let mut conversation = Conversation::new("cut".to_string());
    conversation.push(&[b"FLUSHALL"], Value::ok());
    for _ in 0..25 {
        conversation.push_random(&mut random, 40);
    }
    for cut in 0..conversation.bytes.len() {
        conversation.hold(server.address(), &[cut]);
    }
    conversation.hold(server.address(), &(1..conversation.bytes.len()).collect::<Vec<_>>());
}

/// A value whose every part tells where it belongs.
fn patterned(len: usize, seed: u64) -> Vec<u8> {
    (0..len.div_ceil(8)).flat_map(|i| (i as u64 ^ seed << 32).to_le_bytes()).take(len).collect()
}

fn assert_bulk(reply: Value, expected: &[u8], what: &str) {
    let Value::Bulk(bytes) = &reply else { panic!("{what}: {reply:?}") };
    if bytes != expected {
        let differs = bytes.iter().zip(expected).position(|(a, b)| a != b);
        panic!(
            "{what}: {} bytes instead of {}, first different at {differs:?}: {}",
            bytes.len(),
            expected.len(),
            quoted(bytes)
        );
    }
}

/// Everything that touches a value of `len` bytes.
fn use_value(client: &mut Client, len: usize) {
    let value = patterned(len, len as u64);
    let (key, other) = (format!("value:{len}"), format!("other:{len}"));
    let call = |client: &mut Client, words: &[&[u8]]| client.call_words(words);
    let (key, other) = (key.as_bytes(), other.as_bytes());
    let what = |name: &str| format!("{name} of {len} bytes");

    assert_eq!(call(client, &[b"SET", key, &value]), Value::ok(), "{}", what("SET"));
    assert_eq!(call(client, &[b"STRLEN", key]), Value::Int(len as i64));
    assert_bulk(call(client, &[b"GET", key]), &value, &what("GET"));
    assert_bulk(call(client, &[b"ECHO", &value]), &value, &what("ECHO"));
    let middle = len / 2;
    let range = call(client, &[b"GETRANGE", key, middle.to_string().as_bytes(), b"-1"]);
    assert_bulk(range, &value[middle..], &what("GETRANGE"));

    assert_eq!(call(client, &[b"COPY", key, other]), Value::Int(1));
    assert_bulk(call(client, &[b"GET", other]), &value, &what("COPY"));
    assert_eq!(call(client, &[b"RENAME", other, b"renamed"]), Value::ok());
    assert_eq!(call(client, &[b"EXISTS", other]), Value::Int(0));
    assert_bulk(call(client, &[b"GETDEL", b"renamed"]), &value, &what("GETDEL after RENAME"));

    let patch = b"patched".as_slice();
    let mut changed = value.clone();
    if len >= patch.len() {
        changed[len - patch.len()..].copy_from_slice(patch);
        let offset = (len - patch.len()).to_string();
        let reply = call(client, &[b"SETRANGE", key, offset.as_bytes(), patch]);
        assert_eq!(reply, Value::Int(len as i64), "{}", what("SETRANGE"));
    }
    assert_bulk(call(client, &[b"GETSET", key, &value]), &changed, &what("GETSET"));
    assert_bulk(call(client, &[b"SET", key, b"small", b"GET"]), &value, &what("SET GET"));
    assert_bulk(call(client, &[b"GET", key]), b"small", &what("small after large"));
    assert_eq!(call(client, &[b"SET", key, &value, b"EX", b"1000", b"XX"]), Value::ok());
    assert_bulk(call(client, &[b"GETEX", key, b"PERSIST"]), &value, &what("GETEX"));

    assert_eq!(call(client, &[b"DEL", key]), Value::Int(1));
    assert_eq!(call(client, &[b"SETNX", key, &value]), Value::Int(1));
    assert_eq!(call(client, &[b"SETNX", key, &value]), Value::Int(0));
    assert_eq!(call(client, &[b"DEL", key]), Value::Int(1));
}

#[test]
fn values_around_every_threshold_come_back_whole() {
    let server = server();
    let mut client = Client::connect(server.address());
    for around in [1, 16 * 1024, 32 * 1024, 64 * 1024, 128 * 1024, MIB] {
        for len in [around - 1, around, around + 1, around + 17] {
            use_value(&mut client, len);
        }
    }
    for len in [3 * MIB + 5, 17 * MIB, 64 * MIB - 1, 64 * MIB] {
        use_value(&mut client, len);
    }
    assert_eq!(client.call("DBSIZE"), Value::Int(0));
}

#[test]
fn mset_and_mget_of_large_values_over_all_cores() {
    let server = server();
    let mut client = Client::connect(server.address());
    let lens = [0, 1, 100, 16_383, 16_384, 32_767, 32_768, 32_769, 65_535, 65_536, MIB - 1, MIB, 5 * MIB, 40_000, 7];
    let keys: Vec<Vec<u8>> = (0..lens.len()).map(|i| format!("key:{i}").into_bytes()).collect();
    let values: Vec<Vec<u8>> = lens.iter().enumerate().map(|(i, &len)| patterned(len, i as u64)).collect();
    for name in ["MSET", "MSETNX"] {
        assert_eq!(client.call("FLUSHALL"), Value::ok());
        let mut words = vec![name.as_bytes()];
        words.extend(keys.iter().zip(&values).flat_map(|(key, value)| [key.as_slice(), value.as_slice()]));
        assert!(!client.call_words(&words).is_error());
        let mut words = vec![&b"MGET"[..]];
        words.extend(keys.iter().rev().map(Vec::as_slice));
        let reply = client.call_words(&words);
        for (item, value) in reply.as_array().iter().zip(values.iter().rev()) {
            assert_bulk(item.clone(), value, &format!("{name}, {} bytes", value.len()));
        }
        assert_eq!(reply.as_array().len(), lens.len());
    }
}

#[test]
fn a_value_grows_over_every_threshold_by_append_and_setrange() {
    let server = server();
    let mut client = Client::connect(server.address());
    let mut expected = Vec::new();
    let mut seed = 0;
    while expected.len() < 3 * MIB {
        // Small steps around the thresholds, larger ones between them.
        let step = if expected.len() < 70_000 { 1 + expected.len() / 10 } else { 300_001 };
        let piece = patterned(step, seed);
        seed += 1;
        expected.extend_from_slice(&piece);
        let len = client.call_words(&[b"APPEND", b"k".as_slice(), &piece]);
        assert_eq!(len, Value::Int(expected.len() as i64));
        if seed.is_multiple_of(5) {
            let offset = expected.len() + 1000;
            expected.resize(offset, 0);
            expected.extend_from_slice(b"beyond");
            let reply = client.call_words(&[b"SETRANGE", b"k".as_slice(), offset.to_string().as_bytes(), b"beyond"]);
            assert_eq!(reply, Value::Int(expected.len() as i64));
        }
        assert_bulk(client.call("GET k"), &expected, "GET after APPEND");
        let (from, to) = (expected.len() / 3, expected.len() / 2);
        let range = client.call(&format!("GETRANGE k {from} {to}"));
        assert_bulk(range, &expected[from..=to], "GETRANGE after APPEND");
    }
    assert_bulk(client.call("GETRANGE k -100000 -1"), &expected[expected.len() - 100_000..], "the tail");
}

#[test]
fn a_value_beyond_the_bound_is_refused_before_it_is_received() {
    let server = server();
    let mut client = Client::connect(server.address());
    // The promise alone is enough; nothing of the value follows.
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", 64 * MIB + 1).as_bytes());
    assert_eq!(client.reply(), Value::Error(b"ERR Protocol error: invalid bulk length".to_vec()));
    client.expect_closed();

    let mut client = Client::connect(server.address());
    client.call_words(&[b"SET", b"k".as_slice(), &vec![b'v'; 64 * MIB]]);
    let too_long = Value::Error(b"ERR string exceeds maximum allowed size (proto-max-bulk-len)".to_vec());
    assert_eq!(client.call("APPEND k x"), too_long);
    assert_eq!(client.call(&format!("SETRANGE k {} x", 64 * MIB)), too_long);
    assert_eq!(client.call("STRLEN k"), Value::Int(64 * MIB as i64));
}

#[test]
fn the_bound_of_values_can_be_set() {
    let server = Server::start(&["--cores", "2", "--max-value-bytes", "1000"]);
    let mut client = Client::connect(server.address());
    assert_eq!(client.call_words(&[b"SET", b"k".as_slice(), &[b'v'; 1000]]), Value::ok());
    assert!(client.call("APPEND k x").is_error());
    client.send(&command(&[b"SET", b"k".as_slice(), &[b'v'; 1001]]));
    assert!(client.reply().is_error());
    client.expect_closed();
}

#[test]
fn a_large_value_arrives_in_pieces_of_any_size() {
    let server = server();
    let mut random = Random::announced("pieces");
    for len in [16 * 1024, 32 * 1024, 33_000, 65_536, 100_000, 400_000] {
        let value = patterned(len, 7);
        let mut bytes = command(&[b"SET", b"k".as_slice(), &value]);
        push_command(&mut bytes, &["GET", "k"]);
        push_command(&mut bytes, &["PING"]);
        for _ in 0..20 {
            let mut client = Client::connect(server.address());
            let cuts = random.cuts(bytes.len());
            client.send_split(&bytes, &cuts);
            assert_eq!(client.reply(), Value::ok());
            assert_bulk(client.reply(), &value, "GET");
            assert_eq!(client.reply(), Value::Simple(b"PONG".to_vec()));
        }
        // Around every boundary of the framing.
        let head = bytes.len() - value.len() - 60;
        for cut in (0..head + 20).chain(bytes.len() - 60..bytes.len()) {
            let mut client = Client::connect(server.address());
            client.send_split(&bytes, &[cut]);
            assert_eq!(client.reply(), Value::ok(), "cut at {cut}");
            assert_bulk(client.reply(), &value, "GET");
            assert_eq!(client.reply(), Value::Simple(b"PONG".to_vec()));
        }
    }
}

#[test]
fn after_a_half_close_all_replies_still_arrive() {
    let server = server();
    let mut random = Random::announced("half-close");
    for round in 0..20 {
        let mut conversation = Conversation::new(format!("half:{round}"));
        for _ in 0..random.below(3000) {
            conversation.push_random(&mut random, 500);
        }
        let client = Client::connect(server.address());
        let mut writer = client.writer();
        let bytes = &conversation.bytes;
        let rest = std::thread::scope(|scope| {
            scope.spawn(move || {
                writer.write_all(bytes).expect("send");
                writer.shutdown(std::net::Shutdown::Write).expect("half-close");
            });
            client.rest()
        });
        let expected: Vec<u8> = conversation.expected.iter().flat_map(Value::encode).collect();
        assert!(rest == expected, "{} bytes of replies instead of {}", rest.len(), expected.len());
    }
}

#[test]
fn a_half_close_within_a_command_ends_the_connection_without_a_reply_to_it() {
    let server = server();
    let whole = command(&["SET", "half", "value"]);
    for cut in 1..whole.len() {
        let mut client = Client::connect(server.address());
        client.send(&command(&["PING"]));
        client.send(&whole[..cut]);
        client.half_close();
        assert_eq!(client.rest(), b"+PONG\r\n", "cut at {cut}");
    }
    assert_eq!(Client::connect(server.address()).call("EXISTS half"), Value::Int(0));
}

#[test]
fn a_command_of_very_many_arguments() {
    let server = server();
    let mut client = Client::connect(server.address());
    let count = 100_000;
    let mut words = vec!["MSET".to_string()];
    words.extend((0..count).flat_map(|i| [format!("key:{i}"), i.to_string()]));
    assert_eq!(client.call_words(&words), Value::ok());
    assert_eq!(client.call("DBSIZE"), Value::Int(count));
    let mut words = vec!["MGET".to_string()];
    words.extend((0..count).map(|i| format!("key:{i}")));
    let reply = client.call_words(&words);
    assert_eq!(reply.as_array().len(), count as usize);
    assert!(reply.as_array().iter().enumerate().all(|(i, value)| value.as_bytes() == i.to_string().as_bytes()));
    words[0] = "DEL".to_string();
    assert_eq!(client.call_words(&words), Value::Int(count));
    assert_eq!(client.call("DBSIZE"), Value::Int(0));
}
