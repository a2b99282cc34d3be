//! The same random commands to this server and to a redis-server beside it: every reply must be the same,
//! byte by byte, in RESP2 and RESP3, however the stream is cut. A failure prints the seed that repeats it.
//!
//! `CRABCACHE_TEST_ROUNDS` sets how long it runs, `CRABCACHE_TEST_ADDR=host:port` what is compared.

mod harness;
mod support;

use std::io::Write;
use std::net::ToSocketAddrs;

use harness::Server;
use support::client::{Client, push_command};
use support::peers::{Redis, skip};
use support::random::Random;
use support::value::{Value, quoted};

const ROUNDS_DEFAULT: usize = 150;

/// How two replies to one command are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Exact,
    /// Integers may differ by this much: they count from two readings of the clock.
    Within(i64),
    /// Any order.
    Sorted,
    /// Only whether it is an error.
    Outcome,
    /// Errors exactly, anything else only by its kind: who answers is another server.
    Kind,
}

struct Sent {
    words: Vec<Vec<u8>>,
    comparison: Comparison,
}

#[test]
fn replies_equal_those_of_redis() {
    let test = "replies_equal_those_of_redis";
    let Some(redis) = Redis::start() else {
        return skip(test, "redis-server is not installed");
    };
    let (server, address) = match std::env::var("CRABCACHE_TEST_ADDR") {
        Ok(text) => (None, text.to_socket_addrs().expect("host:port").next().expect("an address")),
        Err(_) => {
            let server = Server::start(&["--cores", "4"]);
            let address = server.address();
            (Some(server), address)
        }
    };
    let rounds = std::env::var("CRABCACHE_TEST_ROUNDS").map_or(ROUNDS_DEFAULT, |text| text.parse().expect("a number"));
    let mut random = Random::announced(test);
    let mut commands = 0;
    for round in 0..rounds {
        let protocol = if round % 2 == 0 { "HELLO 2" } else { "HELLO 3" };
        let mut pair = [Client::connect(address), Client::connect(redis.address)];
        for client in &mut pair {
            assert_eq!(client.call("FLUSHALL"), Value::ok());
            assert!(!client.call(protocol).is_error());
        }
        let mut generator = Generator::new(&mut random);
        let mut history: Vec<Sent> = Vec::new();
        for _ in 0..1 + generator.random.below(8) {
            let (batch, bytes) = generator.batch();
            let cuts = generator.random.cuts(bytes.len());
            let replies = [0, 1].map(|index| exchange(&mut pair[index], &bytes, &cuts, batch.len()));
            commands += batch.len();
            for (index, sent) in batch.into_iter().enumerate() {
                let (ours, theirs) = (&replies[0][index], &replies[1][index]);
                if !same(&sent, ours, theirs) {
                    panic!(
                        "round {round} ({protocol}), {:?}:\n  {}\n  ours   {ours:?}\n  theirs {theirs:?}\nbefore it, on its keys:\n{}",
                        sent.comparison,
                        shown(&sent),
                        relevant(&history, &sent),
                    );
                }
                history.push(sent);
            }
        }
        compare_contents(&mut pair, round, &history);
    }
    println!("{test}: {commands} commands in {rounds} rounds");
    drop(server);
}

/// Sends everything while it reads the replies, so that neither side waits for the other for ever.
fn exchange(client: &mut Client, bytes: &[u8], cuts: &[usize], count: usize) -> Vec<Value> {
    let mut writer = client.writer();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut from = 0;
            for &cut in cuts.iter().chain([&bytes.len()]) {
                writer.write_all(&bytes[from..cut]).expect("send");
                from = cut;
            }
        });
        client.replies(count)
    })
}

/// At the end of a round every key must hold the same on both sides.
fn compare_contents(pair: &mut [Client; 2], round: usize, history: &[Sent]) {
    let contents = [0, 1].map(|index| {
        let client = &mut pair[index];
        client.call("HELLO 2");
        let keys = sorted(&client.call("KEYS *"));
        let mut scanned = walk(client, &["COUNT", "7", "TYPE", "string"]);
        scanned.dedup();
        assert_eq!(scanned, keys, "round {round}: SCAN and KEYS");
        let values: Vec<(Value, Value, bool)> = keys
            .into_iter()
            .map(|key| {
                let value = client.call_words(&[b"GET", key.as_bytes()]);
                let expires = client.call_words(&[b"TTL", key.as_bytes()]) != Value::Int(-1);
                (key, value, expires)
            })
            .collect();
        values
    });
    if contents[0] != contents[1] {
        let different = contents[0].iter().find(|entry| !contents[1].contains(entry));
        let missing = contents[1].iter().find(|entry| !contents[0].contains(entry));
        let key = different.or(missing).expect("they differ").0.clone();
        let about = Sent { words: vec![b"GET".to_vec(), key.as_bytes().to_vec()], comparison: Comparison::Exact };
        panic!("round {round}: contents differ: ours {different:?}, theirs {missing:?}\n{}", relevant(history, &about));
    }
}

/// Every key that a whole SCAN returns, in order.
fn walk(client: &mut Client, options: &[&str]) -> Vec<Value> {
    let (mut cursor, mut keys) = (b"0".to_vec(), Vec::new());
    loop {
        let words: Vec<&[u8]> =
            [b"SCAN", cursor.as_slice()].into_iter().chain(options.iter().map(|option| option.as_bytes())).collect();
        let reply = client.call_words(&words);
        let [next, found] = reply.as_array() else { panic!("SCAN answered {reply:?}") };
        keys.extend_from_slice(found.as_array());
        cursor = next.as_bytes().to_vec();
        if cursor == b"0" {
            keys.sort();
            return keys;
        }
    }
}

fn same(sent: &Sent, ours: &Value, theirs: &Value) -> bool {
    let (ours, theirs) = (&without_deliberate_differences(ours), &without_deliberate_differences(theirs));
    match (sent.comparison, ours, theirs) {
        (Comparison::Within(tolerance), Value::Int(ours), Value::Int(theirs)) if *ours >= 0 && *theirs >= 0 => {
            ours.abs_diff(*theirs) <= tolerance as u64
        }
        (Comparison::Sorted, Value::Array(_), Value::Array(_)) => sorted(ours) == sorted(theirs),
        (Comparison::Outcome, ours, theirs) => ours.is_error() == theirs.is_error(),
        (Comparison::Kind, ours, theirs) if !ours.is_error() => {
            std::mem::discriminant(ours) == std::mem::discriminant(theirs)
        }
        _ => ours == theirs,
    }
}

/// What `tests/commands/*.txt` lists under `redis7:`, as far as it is sent here.
fn without_deliberate_differences(reply: &Value) -> Value {
    match reply {
        Value::Error(text) if text.starts_with(b"ERR value is out of range, value must between") => {
            Value::Error(b"ERR DB index is out of range".to_vec())
        }
        other => other.clone(),
    }
}

fn sorted(value: &Value) -> Vec<Value> {
    let mut items = value.as_array().to_vec();
    items.sort();
    items
}

fn shown(sent: &Sent) -> String {
    sent.words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// The last commands that share a word of some length with `sent`.
fn relevant(history: &[Sent], sent: &Sent) -> String {
    let keys = &sent.words[1..];
    let touching = history.iter().rev().filter(|earlier| {
        let name = earlier.words[0].to_ascii_lowercase();
        name.starts_with(b"flush") || earlier.words[1..].iter().any(|word| keys.contains(word))
    });
    let mut lines: Vec<String> = touching.take(25).map(|earlier| format!("  {}", shown(earlier))).collect();
    lines.reverse();
    lines.join("\n")
}

/// Streams with a few bytes lost, doubled or replaced: the same replies, errors and ends of connections. Redis skips the
/// two bytes that end a line or a value without looking at them; here they are a carriage return and a line feed or the
/// stream cannot be trusted any more, which is the one difference that is allowed.
#[test]
fn malformed_streams_are_answered_as_by_redis() {
    let test = "malformed_streams_are_answered_as_by_redis";
    let Some(redis) = Redis::start() else {
        return skip(test, "redis-server is not installed");
    };
    let server = Server::start(&["--cores", "2"]);
    let addresses = [server.address(), redis.address];
    let rounds = std::env::var("CRABCACHE_TEST_ROUNDS").map_or(ROUNDS_DEFAULT, |text| text.parse().expect("a number"));
    let mut random = Random::announced(test);
    let mut stricter = 0;
    for round in 0..rounds * 4 {
        let bytes = damaged(&mut random);
        let answers = addresses.map(|address| {
            let mut client = Client::connect(address);
            client.purpose = format!("round {round}: {}", quoted(&bytes));
            client.send(&bytes);
            client.half_close();
            client.rest()
        });
        let [ours, theirs] = &answers;
        let shared = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
        let line_start = ours[..shared].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let is_stricter = ours[line_start..].starts_with(b"-ERR Protocol error")
            && ours[line_start..].iter().filter(|&&byte| byte == b'\n').count() == 1;
        stricter += usize::from(ours != theirs);
        assert!(
            ours == theirs || is_stricter,
            "round {round}: {}\n  ours   {}\n  theirs {}",
            quoted(&bytes),
            quoted(ours),
            quoted(theirs),
        );
    }
    assert!(stricter < rounds * 3, "{stricter} of {} streams were answered otherwise", rounds * 4);
    println!("{test}: {stricter} of {} streams refused that redis takes", rounds * 4);
}

/// A short pipeline in which some bytes are not what they should be.
fn damaged(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(4) {
        match random.below(4) {
            0 => push_command(&mut bytes, &["SET", "malformed", "value"]),
            1 => push_command(&mut bytes, &["PING"]),
            2 => push_command(&mut bytes, &["ECHO", ""]),
            _ => bytes.extend_from_slice(b"ECHO \"a b\"\r\n"),
        }
    }
    let odd: [&[u8]; 18] = [
        b"*",
        b"$",
        b"+",
        b"-",
        b"0",
        b"1",
        b"9",
        b"\r",
        b"\n",
        b"\r\n",
        b" ",
        b"\"",
        b"'",
        b"\\x4",
        b"-1",
        b"99999999999999999999",
        b"2147483648",
        b"*0\r\n",
    ];
    for _ in 0..1 + random.below(3) {
        // What the first byte of a connection says about its protocol is not the subject here.
        let at = 1 + random.below(bytes.len() - 1);
        let piece = *random.pick(&odd);
        match random.below(3) {
            0 => drop(bytes.remove(at)),
            1 => drop(bytes.splice(at..at, piece.iter().copied())),
            _ => drop(bytes.splice(at..at + 1, piece.iter().copied())),
        }
    }
    bytes
}

struct Generator<'a> {
    random: &'a mut Random,
    keys: Vec<Vec<u8>>,
    /// Relative expiries are all different by more than any delay, so that GT and LT are certain.
    expiries: i64,
}

impl Generator<'_> {
    fn new(random: &mut Random) -> Generator<'_> {
        let mut keys: Vec<Vec<u8>> = (0..10).map(|i| format!("key:{i}").into_bytes()).collect();
        keys.extend(["{tag}a", "{tag}b", "a*b", "a?b", "[a-c]", "a\\b", "]", "^", "", " ", "12", "-1"].map(Vec::from));
        for len in [1, 7, 8, 9, 15, 16, 17, 31, 63, 64, 255, 300] {
            // What stands before a `^` is a namespace here, and its keys are not among the global ones.
            keys.push(random.bytes(len).into_iter().map(|byte| if byte == b'^' { b'v' } else { byte }).collect());
        }
        Generator { random, keys, expiries: 0 }
    }

    /// Some commands and their bytes, most as arrays, some inline.
    fn batch(&mut self) -> (Vec<Sent>, Vec<u8>) {
        let count = match self.random.below(3) {
            0 => 1,
            1 => 1 + self.random.below(30),
            _ => 1 + self.random.below(300),
        };
        let mut batch = Vec::new();
        let mut bytes = Vec::new();
        for _ in 0..count {
            let sent = self.command();
            let is_plain = |word: &Vec<u8>| {
                !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-'))
            };
            if sent.words.iter().all(is_plain) && self.random.chance(10) {
                bytes.extend_from_slice(&sent.words.join(&b' '));
                bytes.extend_from_slice(if self.random.chance(2) { b"\r\n" } else { b"\n" });
            } else {
                push_command(&mut bytes, &sent.words);
            }
            batch.push(sent);
        }
        (batch, bytes)
    }

    fn command(&mut self) -> Sent {
        let mut words = self.well_formed();
        // An empty cursor, or one with a sign, is one to Redis; what is wrong in a subcommand is quoted otherwise when it
        // is long, or no text; and settings are not to be changed.
        let is_taken_otherwise =
            matches!(words[0].as_slice(), b"SCAN" | b"OBJECT" | b"CLIENT" | b"COMMAND" | b"CONFIG" | b"INFO");
        if !is_taken_otherwise && self.random.chance(40) {
            // Wrong somehow: a word lost, doubled or replaced.
            match 1 + self.random.below(words.len()) {
                at if at == words.len() => words.push(self.word()),
                at => match self.random.below(3) {
                    0 => drop(words.remove(at)),
                    1 => words.insert(at, words[at].clone()),
                    _ => words[at] = self.word(),
                },
            }
            // What was a value may be a key now, and is to be a global one.
            for word in words.iter_mut().skip(1).filter(|word| word.len() > 1) {
                word.iter_mut().filter(|byte| **byte == b'^').for_each(|byte| *byte = b'v');
            }
        }
        if self.random.chance(3) {
            words[0] = words[0].to_ascii_lowercase();
        }
        let comparison = self.comparison(&words);
        Sent { words, comparison }
    }

    fn comparison(&self, words: &[Vec<u8>]) -> Comparison {
        match words[0].to_ascii_uppercase().as_slice() {
            b"TTL" | b"EXPIRETIME" => Comparison::Within(60),
            b"PTTL" | b"PEXPIRETIME" => Comparison::Within(60_000),
            b"KEYS" => Comparison::Sorted,
            // DBSIZE also counts what has expired until somebody meets it.
            b"HELLO" | b"DBSIZE" => Comparison::Outcome,
            // Settings are described otherwise.
            b"CONFIG" => Comparison::Outcome,
            b"INFO" | b"SCAN" => Comparison::Kind,
            // Redis shares numbers, and has strings that grew as "raw" whatever their length.
            b"OBJECT" => Comparison::Kind,
            b"CLIENT" if !words.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"GETNAME")) => Comparison::Kind,
            b"COMMAND" if !words.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"GETKEYS")) => Comparison::Kind,
            _ => Comparison::Exact,
        }
    }

    fn well_formed(&mut self) -> Vec<Vec<u8>> {
        let key = self.key();
        let name = *self.random.pick(&[
            "GET",
            "GET",
            "GET",
            "SET",
            "SET",
            "SET",
            "SET",
            "SETNX",
            "SETEX",
            "PSETEX",
            "GETSET",
            "GETDEL",
            "GETEX",
            "MGET",
            "MSET",
            "MSETNX",
            "STRLEN",
            "APPEND",
            "GETRANGE",
            "SUBSTR",
            "SETRANGE",
            "INCR",
            "DECR",
            "INCRBY",
            "DECRBY",
            "INCRBYFLOAT",
            "DEL",
            "UNLINK",
            "EXISTS",
            "TOUCH",
            "TYPE",
            "EXPIRE",
            "PEXPIRE",
            "EXPIREAT",
            "PEXPIREAT",
            "TTL",
            "PTTL",
            "EXPIRETIME",
            "PEXPIRETIME",
            "PERSIST",
            "RENAME",
            "RENAMENX",
            "COPY",
            "KEYS",
            "DBSIZE",
            "PING",
            "ECHO",
            "SELECT",
            "FLUSH",
            "HELLO",
            "COMMAND",
            "NOSUCH",
            "CLIENT",
            "CONFIG",
            "INFO",
            "OBJECT",
            "SCAN",
            "RESET",
        ]);
        let mut words = vec![name.as_bytes().to_vec()];
        match name {
            "GET" | "GETDEL" | "STRLEN" | "INCR" | "DECR" | "TYPE" | "TTL" | "PTTL" | "EXPIRETIME" | "PEXPIRETIME"
            | "PERSIST" => words.push(key),
            "SET" => {
                words.extend([key, self.value()]);
                while self.random.chance(2) && words.len() < 8 {
                    self.push_set_option(&mut words);
                }
            }
            "SETNX" | "GETSET" | "APPEND" => words.extend([key, self.value()]),
            "SETEX" | "PSETEX" => {
                let expiry = self.relative_expiry(name == "PSETEX");
                words.extend([key, expiry, self.value()]);
            }
            "GETEX" => {
                words.push(key);
                while self.random.chance(2) && words.len() < 5 {
                    self.push_set_option(&mut words);
                }
            }
            "MGET" | "DEL" | "UNLINK" | "EXISTS" | "TOUCH" => {
                words.push(key);
                for _ in 0..self.random.below(6) {
                    words.push(self.key());
                }
            }
            "MSET" | "MSETNX" => {
                words.extend([key, self.value()]);
                for _ in 0..self.random.below(5) {
                    words.extend([self.key(), self.value()]);
                }
            }
            "GETRANGE" | "SUBSTR" => words.extend([key, self.offset(), self.offset()]),
            "SETRANGE" => words.extend([key, self.offset(), self.value()]),
            "INCRBY" | "DECRBY" => words.extend([key, self.integer()]),
            "INCRBYFLOAT" => words.extend([key, self.float()]),
            "EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT" => {
                let is_ms = name.starts_with('P');
                let when = if name.ends_with("AT") { self.absolute_expiry(is_ms) } else { self.relative_expiry(is_ms) };
                words.extend([key, when]);
                while self.random.chance(2) && words.len() < 6 {
                    words.push(self.random.pick(&["NX", "XX", "GT", "LT", "gt", "BOGUS"]).as_bytes().to_vec());
                }
            }
            "RENAME" | "RENAMENX" => words.extend([key, self.key()]),
            "COPY" => {
                words.extend([key, self.key()]);
                let options = *self.random.pick(&["", "REPLACE", "DB 0", "DB 1", "DB 0 REPLACE"]);
                words.extend(options.split_whitespace().map(|option| option.as_bytes().to_vec()));
            }
            "KEYS" => words.push(self.pattern()),
            "PING" if self.random.chance(2) => {}
            "PING" | "ECHO" => words.push(self.value()),
            "SELECT" => words.push(self.random.pick(&["0", "1", "x"]).as_bytes().to_vec()),
            "FLUSH" if self.random.chance(10) => words = vec![b"FLUSHALL".to_vec()],
            "FLUSH" => words = vec![b"DBSIZE".to_vec()],
            "HELLO" if self.random.chance(3) => words.push(self.random.pick(&["2", "3", "4"]).as_bytes().to_vec()),
            "HELLO" => words = vec![b"PING".to_vec()],
            "COMMAND" if self.random.chance(2) => {
                let form = self.one_of(&[
                    "COUNT",
                    "INFO get",
                    "INFO nosuch",
                    "INFO nosuch set",
                    "DOCS nosuch",
                    "LIST",
                    "BOGUS",
                ]);
                words.extend(form);
            }
            "COMMAND" => {
                words.push(b"GETKEYS".to_vec());
                words.extend([
                    self.random.pick(&["GET", "SET", "MSET", "DEL", "PING"]).as_bytes().to_vec(),
                    key,
                    self.value(),
                ]);
            }
            "CLIENT" => words.extend(self.one_of(&[
                "ID",
                "GETNAME",
                "SETNAME someone",
                "SETNAME two\u{a0}words",
                "NO-EVICT on",
                "NO-EVICT perhaps",
                "REPLY ON",
                "REPLY perhaps",
                "LIST",
                "LIST TYPE normal",
                "LIST TYPE bogus",
                "LIST ID 1",
                "LIST ID x",
                "INFO",
                "KILL 1.2.3.4:5",
                "KILL ID x",
                "KILL TYPE bogus",
                "KILL ADDR 1.2.3.4:5",
                "UNBLOCK 12345678",
                "UNBLOCK x",
                "GETREDIR",
                "TRACKINGINFO",
                "CACHING yes",
                "BOGUS",
            ])),
            "CONFIG" => words.extend(self.one_of(&[
                "GET save",
                "GET maxmemory",
                "GET save appendonly",
                "GET nosuch*",
                "GET",
                "SET nosuch 1",
                "SET maxmemory",
                "RESETSTAT",
                "BOGUS",
            ])),
            "INFO" if !self.random.chance(4) => words = vec![b"PING".to_vec()],
            "INFO" => words.extend(self.one_of(&["server", "nosuch", "stats memory", "all", "default everything"])),
            "OBJECT" => {
                let form = *self.random.pick(&["ENCODING", "REFCOUNT", "encoding", "BOGUS"]);
                words.extend([form.as_bytes().to_vec(), key]);
            }
            // All keys in one step would be as many as there are; the whole walk is compared at the end.
            "SCAN" => words.extend(self.one_of(&[
                "0",
                "0 COUNT 1000",
                "0 MATCH key:* COUNT 100",
                "0 TYPE string",
                "0 TYPE hash",
                "x",
                "0 COUNT 0",
                "0 COUNT x",
                "0 MATCH",
                "0 BOGUS 1",
            ])),
            "RESET" if !self.random.chance(10) => words = vec![b"PING".to_vec()],
            // Errors are text here: what they quote of the command is not taken over byte by byte.
            "NOSUCH" => words.extend([self.integer(), self.integer()]),
            _ => {}
        }
        words
    }

    /// The words of one of `forms`.
    fn one_of(&mut self, forms: &[&str]) -> Vec<Vec<u8>> {
        self.random.pick(forms).split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    fn push_set_option(&mut self, words: &mut Vec<Vec<u8>>) {
        let option =
            *self.random.pick(&["NX", "XX", "GET", "KEEPTTL", "PERSIST", "EX", "PX", "EXAT", "PXAT", "ex", "BOGUS"]);
        words.push(option.as_bytes().to_vec());
        match option {
            "EX" | "ex" => words.push(self.relative_expiry(false)),
            "PX" => words.push(self.relative_expiry(true)),
            "EXAT" => words.push(self.absolute_expiry(false)),
            "PXAT" => words.push(self.absolute_expiry(true)),
            _ => {}
        }
    }

    fn key(&mut self) -> Vec<u8> {
        self.random.pick(&self.keys).clone()
    }

    /// Errors may quote it, and they are text: no bytes that text would change.
    fn word(&mut self) -> Vec<u8> {
        match self.random.below(3) {
            0 => self.integer(),
            1 => self.random.pick(&["NX", "EX", "", "GET", "0", "two words", "key:1"]).as_bytes().to_vec(),
            _ => (0..self.random.below(200)).map(|_| b'a' + self.random.below(26) as u8).collect(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.below(40) {
            0..12 => self.integer(),
            12..16 => self.float(),
            16..18 => Vec::new(),
            18..38 => {
                let len = self.random.below(150);
                self.random.bytes(len)
            }
            38 => {
                let len = self.random.below(5000);
                self.random.bytes(len)
            }
            // Around the sizes at which values are handled differently.
            _ => {
                let around = *self.random.pick(&[16 * 1024, 32 * 1024, 48 * 1024]);
                let len = around - 20 + self.random.below(40);
                self.random.bytes(len)
            }
        }
    }

    fn integer(&mut self) -> Vec<u8> {
        match self.random.below(8) {
            0..5 => (self.random.below(2000) as i64 - 1000).to_string().into_bytes(),
            5 => {
                let extremes = [i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1, i64::MAX / 2, 1 << 31, 1 << 32];
                self.random.pick(&extremes).to_string().into_bytes()
            }
            _ => {
                let odd = ["abc", "", "1.0", " 1", "01", "+1", "-0", "9223372036854775808", "1e3", "0x1", "-"];
                self.random.pick(&odd).as_bytes().to_vec()
            }
        }
    }

    fn float(&mut self) -> Vec<u8> {
        match self.random.below(8) {
            0..3 => format!("{}", (self.random.below(800) as f64 - 400.0) / 8.0).into_bytes(),
            3..5 => {
                let decimals = self.random.below(18);
                format!("{}.{:0decimals$}", self.random.below(20_000) as i64 - 10_000, self.random.below(1_000_000))
                    .into_bytes()
            }
            5 => format!("{}e{}", self.random.below(1000), self.random.below(40) as i64 - 20).into_bytes(),
            6 => self.random.pick(&["1e1", "5.", ".5", "-.25", "3.0", "0", "-0", "1e-1", "0x10"]).as_bytes().to_vec(),
            _ => self.random.pick(&["abc", "", "nan", "inf", "-inf", " 1", "1 ", "1e", "--1"]).as_bytes().to_vec(),
        }
    }

    fn offset(&mut self) -> Vec<u8> {
        match self.random.below(6) {
            0..4 => (self.random.below(300) as i64 - 150).to_string().into_bytes(),
            4 => self.random.below(70_000).to_string().into_bytes(),
            // Between them and this lies the longest value of either server.
            _ => {
                self.random.pick(&["600000000", "9223372036854775807", "-9223372036854775808", "x"]).as_bytes().to_vec()
            }
        }
    }

    fn relative_expiry(&mut self, is_ms: bool) -> Vec<u8> {
        self.expiries += 1;
        let seconds = 100_000 + (self.expiries * 7919 % 10_007) * 600;
        match self.random.below(8) {
            0..6 => (seconds * if is_ms { 1000 } else { 1 }).to_string().into_bytes(),
            6 => self.random.pick(&["0", "-1", "-100"]).as_bytes().to_vec(),
            _ => {
                self.random.pick(&["abc", "", "9223372036854775807", "-9223372036854775808", "1.5"]).as_bytes().to_vec()
            }
        }
    }

    fn absolute_expiry(&mut self, is_ms: bool) -> Vec<u8> {
        let seconds = 33_177_117_420 + self.random.below(1000) as i64;
        match self.random.below(8) {
            0..6 if is_ms => (seconds * 1000 + self.random.below(1000) as i64).to_string().into_bytes(),
            0..6 => seconds.to_string().into_bytes(),
            6 => self.random.pick(&["0", "1", "-1"]).as_bytes().to_vec(),
            _ => self.random.pick(&["abc", "9223372036854775807", "-9223372036854775808"]).as_bytes().to_vec(),
        }
    }

    /// A pattern over the characters that keys and patterns have; no two stars in a row, which Redis does
    /// not let match the empty key.
    fn pattern(&mut self) -> Vec<u8> {
        if self.random.chance(4) {
            return self
                .random
                .pick(&["*", "key:*", "*:[0-4]", "key:[^1-8]", "{tag}?", "a\\*b", "a[*]b"])
                .as_bytes()
                .to_vec();
        }
        let mut pattern = Vec::new();
        for _ in 0..1 + self.random.below(6) {
            let part =
                *self.random.pick(&["*", "?", "[", "]", "a", "b", "\\", "^", "-", "c", "key", ":", "[a-c]", "[^a]"]);
            if !(part == "*" && pattern.last() == Some(&b'*')) {
                pattern.extend_from_slice(part.as_bytes());
            }
        }
        pattern
    }
}
