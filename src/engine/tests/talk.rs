//! What clients say, and what they expect to hear.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::model::Model;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::proto::client::{self, Frame, SetOptions};
use crate::proto::{self, binary};
use crate::random::Random;
use crate::reply::{Out, Reply, ReplyError};
use crate::request::Wire;

/// What comes back for a request, in the order of requests.
pub enum Expect {
    Nothing,
    /// Exactly these bytes.
    Bytes(Vec<u8>),
    /// A reply, which [`Talk::hear`] judges.
    Reply(Wire),
    /// The server closes.
    End,
}

#[derive(Default)]
pub struct Said {
    pub bytes: Vec<u8>,
    pub expects: Vec<Expect>,
}

pub trait Talk {
    /// The next requests; none when there is nothing to say, or nothing before an answer has come.
    fn say(&mut self, random: &mut Random) -> Option<Said>;

    fn hear(&mut self, reply: Reply<'static>) {
        panic!("nobody asked for {reply:?}");
    }

    /// Whether nothing more will be said, whatever is heard.
    fn has_said_all(&self) -> bool {
        true
    }

    /// Whether the server may close at any time.
    fn may_be_closed(&self) -> bool {
        false
    }
}

pub fn encoded(wire: Wire, reply: &Reply<'_>) -> Vec<u8> {
    let mut out = Out::default();
    proto::encode(wire, reply, &mut out);
    out.to_vec()
}

/// Says everything at once and expects exactly these bytes.
pub struct Fixed {
    said: Option<Said>,
    may_be_closed: bool,
}

impl Fixed {
    pub fn new(bytes: impl Into<Vec<u8>>, expected: impl Into<Vec<u8>>) -> Fixed {
        let expects = Some(expected.into()).filter(|bytes| !bytes.is_empty()).map(Expect::Bytes);
        Fixed { said: Some(Said { bytes: bytes.into(), expects: expects.into_iter().collect() }), may_be_closed: false }
    }

    /// The same, but the server may close at any time.
    pub fn closable(bytes: impl Into<Vec<u8>>, expected: impl Into<Vec<u8>>) -> Fixed {
        Fixed { may_be_closed: true, ..Fixed::new(bytes, expected) }
    }

    /// The same, after which the server closes.
    pub fn until_end(bytes: impl Into<Vec<u8>>, expected: impl Into<Vec<u8>>) -> Fixed {
        let expects = vec![Expect::Bytes(expected.into()), Expect::End];
        Fixed { said: Some(Said { bytes: bytes.into(), expects }), may_be_closed: false }
    }

    /// Does not care what comes back, or whether anything does.
    pub fn deaf(bytes: impl Into<Vec<u8>>) -> Fixed {
        let said = Said { bytes: bytes.into(), expects: vec![Expect::Bytes(b"never".repeat(1 << 20))] };
        Fixed { said: Some(said), may_be_closed: true }
    }
}

impl Talk for Fixed {
    fn say(&mut self, _random: &mut Random) -> Option<Said> {
        self.said.take()
    }

    fn may_be_closed(&self) -> bool {
        self.may_be_closed
    }
}

/// Commands as RESP, words separated by spaces.
pub fn resp(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        client::resp(&words, &mut bytes);
    }
    bytes
}

/// How a client of random commands writes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Resp,
    /// RESP and lines of text in turns.
    Mixed,
    Binary,
}

/// Counters that many clients increment: by key, the increments that were acknowledged.
pub type Shared = Rc<RefCell<BTreeMap<Vec<u8>, i64>>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Replies {
    On,
    Off,
    SkipNext,
}

/// What a reply that is not known beforehand has to look like.
enum Question {
    Anything,
    /// HELLO: a map.
    Hello,
    /// The value of a shared counter after an increment.
    Increment(Vec<u8>),
    /// Exactly these keys, in any order.
    Keys(BTreeSet<Vec<u8>>),
    /// At least so many.
    AtLeast(i64),
    /// Some key, or none if that is allowed.
    SomeKey {
        may_be_none: bool,
        of: Option<BTreeSet<Vec<u8>>>,
    },
    ScanStep,
}

/// Random commands on keys of its own, so that every reply is known, and some on everybody's.
pub struct Script {
    prefix: String,
    protocol: Protocol,
    wire: Wire,
    left: usize,
    model: Model,
    replies: Replies,
    questions: VecDeque<Question>,
    shared: Shared,
    /// The last value seen of each shared counter.
    seen: BTreeMap<Vec<u8>, i64>,
    /// Nobody else uses the server: what all cores say together is known too.
    pub is_alone: bool,
    /// Ends with QUIT or with input that no decoder takes, and says more behind it.
    pub ends_itself: bool,
}

const KEYS: usize = 14;
pub const SHARED_KEYS: usize = 5;

impl Script {
    pub fn new(name: usize, commands: usize, shared: &Shared, random: &mut Random) -> Script {
        let protocol = random.pick(&[Protocol::Resp, Protocol::Resp, Protocol::Mixed, Protocol::Binary]);
        Script {
            prefix: format!("c{name}:"),
            protocol,
            wire: if protocol == Protocol::Binary { Wire::Binary } else { Wire::Resp2 },
            left: commands,
            model: Model::default(),
            replies: Replies::On,
            questions: VecDeque::new(),
            shared: shared.clone(),
            seen: BTreeMap::new(),
            is_alone: false,
            ends_itself: random.chance(25),
        }
    }

    fn key(&self, random: &mut Random) -> Vec<u8> {
        let number = random.below(KEYS);
        let mut key = format!("{}{number}", self.prefix).into_bytes();
        match number {
            // Long enough to travel on its own.
            0 if random.chance(10) => key.resize(LARGE_VALUE_BYTES_MIN + 1, b'k'),
            1 => key.extend_from_slice(b"\r\n\0\xff"),
            _ => {}
        }
        key
    }

    fn value(&self, random: &mut Random) -> Vec<u8> {
        match random.below(30) {
            0 => vec![b'v'; LARGE_VALUE_BYTES_MIN + random.below(40_000)],
            1 => vec![b'v'; LARGE_VALUE_BYTES_MIN - 1],
            2 => vec![b'w'; 1000 + random.below(4000)],
            3 => Vec::new(),
            4..=12 => (random.next() as i16).to_string().into_bytes(),
            _ => format!("value {} \"of\" it's\r\n", random.below(1000)).into_bytes(),
        }
    }

    /// A command whose reply the model knows.
    fn command(&self, random: &mut Random) -> Vec<Vec<u8>> {
        let word = |word: &str| word.as_bytes().to_vec();
        let key = self.key(random);
        let several = |random: &mut Random| 1 + random.below(6);
        let with = |name: &str, rest: Vec<Vec<u8>>| [vec![word(name)], rest].concat();
        match random.below(40) {
            0..=6 => with("GET", vec![key]),
            7..=12 => with("SET", vec![key, self.value(random)]),
            13 => {
                let mut words = with("set", vec![key, self.value(random)]);
                let options: [&[&str]; 6] =
                    [&["NX"], &["XX"], &["GET"], &["nx", "get"], &["EX", "100"], &["XX", "EX", "9"]];
                words.extend(random.pick(&options).iter().map(|option| word(option)));
                words
            }
            14 => with(random.pick(&["SETNX", "GETSET", "PUT"]), vec![key, self.value(random)]),
            15 => with("GETDEL", vec![key]),
            16 => with("APPEND", vec![key, random.below(1000).to_string().into_bytes()]),
            17 => with("STRLEN", vec![key]),
            18 => {
                let at = |random: &mut Random| (random.below(30) as i64 - 15).to_string().into_bytes();
                with("GETRANGE", vec![key, at(random), at(random)])
            }
            19 | 20 => with("INCR", vec![key]),
            21 => with("DECRBY", vec![key, (random.next() as i16).to_string().into_bytes()]),
            22 => with("EXPIRE", vec![key, (random.below(100) as i64 - 3).to_string().into_bytes()]),
            23 => with(random.pick(&["TTL", "PERSIST", "TYPE"]), vec![key]),
            24..=26 => with("MGET", (0..several(random)).map(|_| self.key(random)).collect()),
            27..=29 => {
                let name = random.pick(&["MSET", "MSET", "MSETNX"]);
                with(name, (0..several(random)).flat_map(|_| [self.key(random), self.value(random)]).collect())
            }
            30 | 31 => {
                let name = random.pick(&["DEL", "UNLINK", "EXISTS", "TOUCH"]);
                with(name, (0..several(random)).map(|_| self.key(random)).collect())
            }
            32..=34 => with(random.pick(&["RENAME", "RENAMENX"]), vec![key, self.key(random)]),
            35 | 36 => {
                let mut words = with("COPY", vec![key, self.key(random)]);
                words.extend(random.chance(50).then(|| word("REPLACE")));
                words
            }
            37 => with("ECHO", vec![self.value(random)]),
            38 if self.is_alone => with(random.pick(&["FLUSHALL", "DBSIZE", "DBSIZE"]), Vec::new()),
            _ => with("PING", Vec::new()),
        }
    }

    /// A command whose reply is one of many.
    fn question(&mut self, random: &mut Random) -> (Vec<Vec<u8>>, Question) {
        let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        let own = || self.model.keys().map(<[u8]>::to_vec).collect::<BTreeSet<_>>();
        match random.below(12) {
            0..=4 if !self.is_alone => {
                let key = format!("shared:{}", random.below(SHARED_KEYS)).into_bytes();
                (vec![b"INCR".to_vec(), key.clone()], Question::Increment(key))
            }
            0..=5 => (words(&format!("KEYS {}*", self.prefix)), Question::Keys(own())),
            6 if self.is_alone => (words("KEYS *"), Question::Keys(own())),
            6 => (words("DBSIZE"), Question::AtLeast(self.model.len() as i64)),
            7 => {
                let may_be_none = self.model.len() == 0;
                (words("RANDOMKEY"), Question::SomeKey { may_be_none, of: self.is_alone.then(own) })
            }
            8 => (words(random.pick(&["SCAN 0", "scan 0 COUNT 1000", "SCAN 17 MATCH *1*"])), Question::ScanStep),
            9 if self.protocol == Protocol::Binary => (words("HELLO"), Question::Hello),
            9 => {
                let version = random.pick(&[2, 3]);
                self.wire = if version == 3 { Wire::Resp3 } else { Wire::Resp2 };
                (words(&format!("HELLO {version}")), Question::Hello)
            }
            10 => (
                words(random.pick(&["INFO", "STATS", "CLIENT LIST", "CLIENT INFO", "CONFIG GET save"])),
                Question::Anything,
            ),
            _ => (words(random.pick(&["CONFIG RESETSTAT", "TIME", "COMMAND COUNT", "CLIENT ID"])), Question::Anything),
        }
    }

    /// Whether the command about to be said is answered.
    fn is_answered(&mut self) -> bool {
        let is_answered = self.replies == Replies::On;
        if self.replies == Replies::SkipNext {
            self.replies = Replies::On;
        }
        is_answered
    }

    fn one(&mut self, random: &mut Random) -> (Vec<Vec<u8>>, Expect) {
        let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        if random.chance(4) {
            // An increment without a reply could not be counted, so that replies come back soon.
            let (mode, next) = random.pick(&[
                ("ON", Replies::On),
                ("ON", Replies::On),
                ("OFF", Replies::Off),
                ("SKIP", Replies::SkipNext),
            ]);
            if !(mode == "SKIP" && self.replies == Replies::Off) {
                self.replies = next;
            }
            let expect = if mode == "ON" { Expect::Bytes(encoded(self.wire, &Reply::Ok)) } else { Expect::Nothing };
            return (words(&format!("CLIENT REPLY {mode}")), expect);
        }
        if random.chance(4) {
            let (line, error) = random.pick(&[
                ("NOTHING of it", "ERR unknown command 'NOTHING', with args beginning with: 'of' 'it' "),
                ("CLIENT nothing", "ERR unknown subcommand 'nothing'. Try CLIENT HELP."),
            ]);
            let reply = match random.chance(50) {
                true => Reply::error(error),
                false => {
                    let error = ReplyError::WrongArity { command: "mset".into() };
                    let expect = if self.is_answered() { self.exactly(&error.into()) } else { Expect::Nothing };
                    return (words("MSET a b c"), expect);
                }
            };
            let expect = if self.is_answered() { self.exactly(&reply) } else { Expect::Nothing };
            return (words(line), expect);
        }
        if self.replies == Replies::On && random.chance(20) {
            let (words, question) = self.question(random);
            self.questions.push_back(question);
            return (words, Expect::Reply(self.wire));
        }
        let command = self.command(random);
        let reply = self.model.apply(&command.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let expect = if self.is_answered() { self.exactly(&reply) } else { Expect::Nothing };
        (command, expect)
    }

    fn exactly(&self, reply: &Reply<'_>) -> Expect {
        Expect::Bytes(encoded(self.wire, reply))
    }

    fn last_words(&mut self, random: &mut Random) -> Said {
        let mut said = Said::default();
        let binary = self.protocol == Protocol::Binary;
        if random.chance(50) {
            self.write(&[vec![b"QUIT".to_vec()]], &mut said.bytes, random);
            if self.is_answered() {
                said.expects.push(self.exactly(&Reply::Ok));
            }
        } else {
            let (bytes, error) = match binary {
                true => (&b"GET / HTTP/1.1\r\n"[..], "ERR Protocol error: expected a frame, got byte 0x47"),
                false => (&b"*1\r\n$-5\r\n"[..], "ERR Protocol error: invalid bulk length"),
            };
            said.bytes.extend_from_slice(bytes);
            if self.is_answered() {
                said.expects.push(self.exactly(&Reply::error(error)));
            }
        }
        said.expects.push(Expect::End);
        said.bytes.extend_from_slice(&b"INCR shared:0\r\n".repeat(random.below(100)));
        said
    }

    fn write(&self, commands: &[Vec<Vec<u8>>], bytes: &mut Vec<u8>, random: &mut Random) {
        if self.protocol == Protocol::Binary {
            let mut frame = Frame::begin(bytes);
            for words in commands {
                write_operation(words, &mut frame, random);
            }
            return frame.end();
        }
        for words in commands {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let is_short = words.iter().map(|word| word.len()).sum::<usize>() < 1000;
            if self.protocol == Protocol::Mixed && is_short && random.chance(50) {
                write_line(&words, bytes);
            } else {
                client::resp(&words, bytes);
            }
        }
    }
}

fn write_operation(words: &[Vec<u8>], frame: &mut Frame<'_>, random: &mut Random) {
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let pairs = || words[1..].chunks(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>();
    match (words[0], words.len()) {
        _ if random.chance(30) => frame.command(&words),
        (b"PING", 1) => frame.ping(),
        (b"GET", 2) => frame.key(binary::opcode::GET, words[1]),
        (b"INCR", 2) => frame.key(binary::opcode::INCR, words[1]),
        (b"SET", 3) => frame.set(words[1], words[2], &SetOptions::default()),
        (b"APPEND", 3) => frame.append(words[1], words[2]),
        (b"MGET", _) => frame.keys(binary::opcode::MGET, &words[1..]),
        (b"DEL", _) => frame.keys(binary::opcode::DEL_MANY, &words[1..]),
        (b"MSET", len) if len % 2 == 1 => frame.pairs(binary::opcode::MSET, &pairs()),
        (b"MSETNX", _) => frame.pairs(binary::opcode::MSETNX, &pairs()),
        _ => frame.command(&words),
    }
}

/// A line of text, with whatever is not plain in quotes.
fn write_line(words: &[&[u8]], bytes: &mut Vec<u8>) {
    for word in words {
        let is_plain =
            !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b":*?-".contains(byte));
        if is_plain {
            bytes.extend_from_slice(word);
        } else {
            bytes.push(b'"');
            for byte in *word {
                match byte {
                    b'\n' => bytes.extend_from_slice(b"\\n"),
                    b'"' | b'\\' => bytes.extend_from_slice(&[b'\\', *byte]),
                    byte if byte.is_ascii_graphic() => bytes.push(*byte),
                    byte => bytes.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
                }
            }
            bytes.push(b'"');
        }
        bytes.push(b' ');
    }
    bytes.extend_from_slice(b"\r\n");
}

impl Talk for Script {
    fn say(&mut self, random: &mut Random) -> Option<Said> {
        if self.left == 0 {
            if std::mem::take(&mut self.ends_itself) {
                return Some(self.last_words(random));
            }
            return None;
        }
        let mut said = Said::default();
        let mut commands = Vec::new();
        for _ in 0..self.left.min(1 + random.below(4)) {
            self.left -= 1;
            let (words, expect) = self.one(random);
            commands.push(words);
            said.expects.push(expect);
        }
        self.write(&commands, &mut said.bytes, random);
        Some(said)
    }

    fn hear(&mut self, reply: Reply<'static>) {
        let question = self.questions.pop_front().expect("a question was asked");
        match (question, reply) {
            (_, Reply::Error(error)) => panic!("an error: {error:?}"),
            (Question::Anything, _) => {}
            (Question::Hello, Reply::Map(_) | Reply::Array(_)) => {}
            (Question::Increment(key), Reply::Int(value)) => {
                *self.shared.borrow_mut().entry(key.clone()).or_default() += 1;
                let before = self.seen.insert(key, value).unwrap_or(0);
                assert!(value > before, "a counter went from {before} to {value}");
            }
            (Question::Keys(expected), Reply::Array(found)) => {
                assert_eq!(found.len(), expected.len(), "keys were found twice or not at all");
                let found: BTreeSet<Vec<u8>> = found.into_iter().map(bytes).collect();
                let missing: Vec<_> =
                    expected.difference(&found).map(|key| key[..key.len().min(20)].escape_ascii()).collect();
                assert!(found == expected, "missing {missing:?}");
            }
            (Question::AtLeast(least), Reply::Int(count)) => assert!(count >= least, "{count} instead of {least}"),
            (Question::SomeKey { may_be_none, .. }, Reply::Nil) => assert!(may_be_none),
            (Question::SomeKey { of, .. }, key) => {
                let key = bytes(key);
                match of {
                    Some(of) => assert!(of.contains(&key)),
                    None => assert!(key.starts_with(b"c") || key.starts_with(b"shared:")),
                }
            }
            (Question::ScanStep, Reply::Array(parts)) => assert!(matches!(parts[..], [_, Reply::Array(_)])),
            (_, reply) => panic!("an answer of another kind: {reply:?}"),
        }
    }

    fn has_said_all(&self) -> bool {
        self.left == 0 && !self.ends_itself
    }
}

pub fn bytes(reply: Reply<'static>) -> Vec<u8> {
    match reply {
        Reply::Owned(bytes) => bytes,
        Reply::Large(bytes) => bytes.to_vec(),
        other => panic!("{other:?} is no string"),
    }
}
