//! A connection is judged by cutting its input anywhere and holding it up at any point: the commands that
//! come out may not depend on either. Its output is judged against the list of replies it owes.

use std::net::SocketAddr;

use super::output::{LATER_MOVED_MAX, SPARE_BYTES_MAX, SPARE_OUT_BYTES_MAX, WITHHELD_BYTES_MAX};
use super::turn::{SPARE_PIECE_BYTES_MAX, SPARE_PIECES_MAX};
use super::*;
use crate::engine::clients::{Address, ClientFlags, ReplyMode};
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::proto::client::{self, Frame, SetOptions};
use crate::proto::{self, DecodeLimits, binary};
use crate::random::{Announced, Random};
use crate::reply::{Reply, ReplyError};

fn connection() -> Connection {
    let nowhere = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)));
    let record = ClientRecord {
        id: 1,
        core: 0,
        address: nowhere.clone(),
        local_address: nowhere,
        fd: 3,
        user: "default".into(),
        name: String::new(),
        library_name: String::new(),
        library_version: String::new(),
        created_us: 0,
        activity: Activity::default(),
        flags: ClientFlags::default(),
        database: 0,
        subscriptions: crate::pubsub::Counts::default(),
        tracking: None,
        queued: None,
        wire: Wire::default(),
        query_bytes: 0,
        query_bytes_free: 0,
        output_bytes: 0,
    };
    Connection::new(1, false, Box::new(record))
}

// ---- input ------------------------------------------------------------------------------------------

/// A command, or the error in its place, as it came out of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    name: String,
    args: Vec<Vec<u8>>,
    large: Vec<bool>,
}

/// What became of an input.
#[derive(Debug, PartialEq, Eq, Default)]
struct Outcome {
    seen: Vec<Seen>,
    /// Bytes of a command that is not whole, a large value's included.
    left: usize,
    closed: bool,
    wire: Wire,
}

#[derive(Default)]
struct Buffers(Vec<Vec<u8>>);

impl Received for Buffers {
    fn bytes(&self, buffer: u16) -> &[u8] {
        &self.0[buffer as usize]
    }
}

/// How the input reaches the connection besides where it is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Plain,
    /// Commands wait at random points, and large values are at times received into their own memory.
    Erratic,
}

/// The part of the engine and the ring that feeds a connection.
struct Reader {
    connection: Connection,
    batch: TurnBatch,
    buffers: Buffers,
    limits: DecodeLimits,
    random: Random,
    manner: Manner,
    outcome: Outcome,
}

impl Reader {
    fn new(manner: Manner, seed: u64) -> Reader {
        Reader {
            connection: connection(),
            batch: TurnBatch::default(),
            buffers: Buffers::default(),
            limits: DecodeLimits::new(4 * LARGE_VALUE_BYTES_MIN),
            random: Random::new(seed),
            manner,
            outcome: Outcome::default(),
        }
    }

    fn is_erratic(&mut self) -> bool {
        self.manner == Manner::Erratic && self.random.chance(30)
    }

    fn take(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if self.is_erratic() {
            self.connection.pause.add(Pause::OUTPUT);
        }
        if self.is_erratic() {
            self.go_on();
        }
        while !bytes.is_empty()
            && self.is_erratic()
            && let Some(mut large) = self.connection.take_large_in()
        {
            let len = 1 + self.random.below(large.missing().min(bytes.len()));
            large.buffer().extend_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            if self.is_erratic() {
                self.connection.pause.add(Pause::MESH);
            }
            self.connection.put_large_in(large);
            self.decode(Vec::new());
        }
        self.decode(bytes.to_vec());
        if self.is_erratic() {
            self.run();
        }
        if self.batch.commands.is_empty() {
            self.buffers.0.clear();
        }
    }

    fn decode(&mut self, bytes: Vec<u8>) {
        let buffer = self.buffers.0.len();
        self.buffers.0.push(bytes);
        let mut from = 0;
        loop {
            let input = &self.buffers.0[buffer];
            let len = input.len();
            let source = Source::Buffer(buffer as u16);
            from = self.connection.receive(7, input, from, source, &mut self.batch, &self.limits);
            assert!(from <= len);
            if self.connection.is_held() && self.connection.closing == Closing::No {
                self.connection.put_aside(&input[from..]);
                from = len;
            }
            if self.batch.is_full() {
                self.run();
            }
            if from >= len {
                return;
            }
        }
    }

    /// Writes the batch down; a barrier is at times lifted only later.
    fn run(&mut self) {
        for command in &self.batch.commands {
            assert_eq!(command.connection, 7);
            let seen = match command.what {
                What::Command(spec) => {
                    let args = self.batch.args_of(command, &self.buffers);
                    Seen {
                        name: spec.name.to_owned(),
                        args: args.iter().map(<[u8]>::to_vec).collect(),
                        large: (0..args.len()).map(|arg| args.large(arg).is_some()).collect(),
                    }
                }
                What::Refused(refusal) => {
                    let refusal = &self.batch.refusals[refusal as usize];
                    if refusal.close {
                        self.connection.closing = Closing::AfterReplies;
                    }
                    Seen { name: format!("{:?}", refusal.reply), args: Vec::new(), large: Vec::new() }
                }
            };
            self.outcome.seen.push(seen);
        }
        self.batch.clear();
        if !self.is_erratic() {
            self.connection.pause.remove(Pause::BARRIER);
            self.resume();
        }
    }

    fn go_on(&mut self) {
        for pause in [Pause::BARRIER, Pause::OUTPUT, Pause::MESH] {
            // Whoever waits for a command waits until it has been applied.
            if pause != Pause::BARRIER || self.batch.commands.is_empty() {
                self.connection.pause.remove(pause);
            }
        }
        self.resume();
    }

    fn resume(&mut self) {
        if !self.connection.pause.any() && self.connection.closing == Closing::No {
            let (stash, from) = self.connection.take_stash();
            self.decode(stash[from..].to_vec());
        }
    }

    fn end(mut self) -> Outcome {
        // Each round lifts what the one before ran into.
        for _ in 0..1000 {
            self.manner = Manner::Plain;
            self.run();
            self.go_on();
            if self.batch.commands.is_empty() && self.connection.stash_len() == 0 {
                break;
            }
        }
        let closed = self.connection.closing != Closing::No;
        self.outcome.left = if closed { 0 } else { self.connection.input_len() };
        self.outcome.closed = closed;
        self.outcome.wire = self.connection.wire;
        self.outcome
    }
}

fn outcome(input: &[u8], cuts: &[usize], manner: Manner, seed: u64) -> Outcome {
    let mut reader = Reader::new(manner, seed);
    let mut from = 0;
    for &cut in cuts.iter().chain([&input.len()]) {
        reader.take(&input[from..cut]);
        from = cut;
    }
    reader.end()
}

/// The outcome of the whole input, which every way of receiving it must share.
fn outcome_however_received(input: &[u8]) -> Outcome {
    let whole = outcome(input, &[], Manner::Plain, 0);
    let shown = input[..input.len().min(300)].escape_ascii();
    let is_long = input.len() > 4000;
    if !is_long {
        for cut in 0..=input.len() {
            assert_eq!(outcome(input, &[cut], Manner::Plain, 0), whole, "{shown} cut at {cut}");
            assert_eq!(outcome(input, &[cut], Manner::Erratic, cut as u64), whole, "{shown} cut at {cut}");
        }
        let every_byte: Vec<usize> = (0..input.len()).collect();
        assert_eq!(outcome(input, &every_byte, Manner::Plain, 0), whole, "{shown} byte by byte");
    }
    for seed in 0..if is_long { 60 } else { 40 } {
        let mut random = Random::new(seed);
        let mut cuts: Vec<usize> = (0..random.below(12)).map(|_| random.below(input.len() + 1)).collect();
        if is_long {
            // Where something begins or ends, which is near bytes that are not of a value's body.
            let edges: Vec<usize> = (0..input.len()).filter(|&at| input[at] != b'v').collect();
            cuts.extend((0..random.below(12)).map(|_| {
                let edge = edges[random.below(edges.len())];
                (edge + random.below(3)).min(input.len())
            }));
        }
        cuts.sort_unstable();
        for manner in [Manner::Plain, Manner::Erratic] {
            let received = outcome(input, &cuts, manner, seed);
            assert!(received == whole, "{shown} cut at {cuts:?}, seed {seed}: {}", difference(&received, &whole));
        }
    }
    whole
}

/// Outcomes with large values are too long to be printed.
fn difference(one: &Outcome, other: &Outcome) -> String {
    let short = |outcome: &Outcome| {
        let seen = outcome.seen.iter().map(|seen| {
            let args: Vec<usize> = seen.args.iter().map(Vec::len).collect();
            format!("{}{args:?}", seen.name)
        });
        format!("{:?} left {} closed {}", seen.collect::<Vec<_>>(), outcome.left, outcome.closed)
    };
    format!("{} instead of {}", short(one), short(other))
}

fn names(outcome: &Outcome) -> Vec<&str> {
    outcome.seen.iter().map(|seen| seen.name.as_str()).collect()
}

fn resp(commands: &[&[&[u8]]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for words in commands {
        client::resp(words, &mut bytes);
    }
    bytes
}

fn value(len: usize) -> Vec<u8> {
    vec![b'v'; len]
}

#[test]
fn pipelines_come_out_the_same_however_they_are_received() {
    let seen = outcome_however_received(
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nSET k2 \"quoted \\x41\"\r\n\
          *1\r\n$4\r\nPING\r\n\r\n*0\r\n*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n  PING  \n*3\r\n$4\r\nMGET\r\n$0\r\n\r\n$2\r\n\r\n\r\n",
    );
    assert_eq!(names(&seen), ["set", "get", "set", "ping", "client|id", "ping", "mget"]);
    assert_eq!(seen.seen[2].args, [b"k2".to_vec(), b"quoted A".to_vec()]);
    assert_eq!((seen.left, seen.closed, seen.wire), (0, false, Wire::Resp2));
}

#[test]
fn commands_that_others_must_not_overtake_hold_up_what_follows() {
    let seen = outcome_however_received(
        b"SET a 1\r\nRENAME a b\r\nGET b\r\nMSETNX x 1 y 2\r\n*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\nSCAN 0\r\nRANDOMKEY\r\nGET x\r\n",
    );
    assert_eq!(names(&seen), ["set", "rename", "get", "msetnx", "keys", "scan", "randomkey", "get"]);
    assert_eq!((seen.left, seen.closed), (0, false));
}

#[test]
fn more_commands_than_a_batch_holds() {
    let mut input = Vec::new();
    for number in 0..3 * limits::TURN_COMMANDS {
        match number % 5 {
            0 => input.extend_from_slice(format!("INCRBY n {number}\r\n").as_bytes()),
            1 => input.extend_from_slice(b"RENAME n m\r\n"),
            _ => client::resp(&[b"SET", format!("{number}").as_bytes(), b"vv"], &mut input),
        }
    }
    let seen = outcome_however_received(&input);
    assert_eq!(seen.seen.len(), 3 * limits::TURN_COMMANDS);
    assert_eq!((seen.left, seen.closed), (0, false));
}

#[test]
fn input_behind_an_error_that_closes_is_ignored() {
    let seen = outcome_however_received(b"SET a 1\r\nPING\r\n*1\r\n$x\r\nGET a\r\n*1\r\n$4\r\nPING\r\n");
    assert_eq!(seen.seen.len(), 3, "{seen:?}");
    assert!(seen.closed && seen.seen[2].name.contains("invalid bulk length"), "{seen:?}");
    let seen = outcome_however_received(b"PING\r\nSET k \"open\r\nPING\r\n");
    assert!(seen.closed && seen.seen[1].name.contains("unbalanced quotes"), "{seen:?}");
    let seen = outcome_however_received(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvaluexxPING\r\n");
    assert!(seen.closed && seen.seen[0].name.contains("expected CRLF"), "{seen:?}");
    let seen = outcome_however_received(b"*1\r\n$4\r\nPING\r\nPOST / HTTP/1.1\r\nPING\r\n");
    assert!(seen.closed && seen.seen.len() == 2, "{seen:?}");
    let lie = resp(&[&[b"PING"]]);
    let lie = [&lie[..], b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$131073\r\n", &value(10)].concat();
    let seen = outcome_however_received(&lie);
    assert!(seen.closed && seen.seen[1].name.contains("invalid bulk length"), "{seen:?}");
}

#[test]
fn refusals_stand_in_the_place_of_their_commands() {
    let seen = outcome_however_received(
        b"GET\r\nSET a 1\r\nNOTHING 'of the' sort\r\n*2\r\n$6\r\nCONFIG\r\n$3\r\nxyz\r\nGET a\r\n",
    );
    let text = |text: &str| format!("{:?}", Reply::error(text.to_owned()));
    assert_eq!(
        names(&seen),
        [
            text("ERR wrong number of arguments for 'get' command").as_str(),
            "set",
            &text("ERR unknown command 'NOTHING', with args beginning with: 'of the' 'sort' "),
            &text("ERR unknown subcommand 'xyz'. Try CONFIG HELP."),
            "get",
        ]
    );
    assert!(!seen.closed);
}

#[test]
fn binary_frames_come_out_the_same_however_they_are_received() {
    let mut input = Vec::new();
    let mut frame = Frame::begin(&mut input);
    frame.ping();
    frame.set(b"k", b"value", &SetOptions { time_ms: Some(1000), ..SetOptions::default() });
    frame.key_number(binary::opcode::INCRBY, 0, b"n", -5);
    frame.end();
    Frame::begin(&mut input).end();
    let mut frame = Frame::begin(&mut input);
    frame.pairs(binary::opcode::MSETNX, &[(b"a", b"1"), (b"b", b"")]);
    frame.command(&[b"CLIENT", b"ID"]);
    frame.keys(binary::opcode::MGET, &[b"a", b"", b"k"]);
    frame.key(0x1F, b"unknown");
    frame.append(b"k", b"v");
    frame.end();
    let seen = outcome_however_received(&input);
    assert_eq!(names(&seen)[..6], ["ping", "set", "incrby", "msetnx", "client|id", "mget"]);
    assert_eq!((seen.seen.len(), seen.left, seen.closed, seen.wire), (8, 0, false, Wire::Binary));
    input.extend_from_slice(b"PING\r\n");
    let seen = outcome_however_received(&input);
    assert!(seen.closed && seen.seen[8].name.contains("expected a frame"), "{seen:?}");
}

#[test]
fn large_values_alone_together_and_among_others() {
    let (least, less, more) = (value(LARGE_VALUE_BYTES_MIN), value(LARGE_VALUE_BYTES_MIN - 1), value(50_000));
    let input = resp(&[
        &[b"GET", b"a"],
        &[b"SET", b"k", &least],
        &[b"SET", b"k", &less],
        &[b"MSET", b"a", &least, b"b", b"small", b"c", &more, b"d", &less, &least, b"the key is large"],
        &[b"RENAME", b"a", b"e"],
        &[b"NOTHING", &more, b"x", &least],
        &[b"SET", b"k", &more, b"PX", b"10"],
        &[b"PING"],
    ]);
    let seen = outcome_however_received(&input);
    assert_eq!(seen.seen.len(), 8);
    assert_eq!(seen.seen[1].large, [false, true]);
    assert_eq!(seen.seen[2].large, [false, false]);
    assert_eq!(seen.seen[3].large, [false, true, false, false, false, true, false, false, true, false]);
    assert_eq!(seen.seen[3].args[5].len(), 50_000);
    assert_eq!(seen.seen[6].args[2..], [b"PX".to_vec(), b"10".to_vec()]);
    assert_eq!((seen.left, seen.closed), (0, false));
}

#[test]
fn a_large_value_at_the_very_end_of_binary_input() {
    let mut input = Vec::new();
    let mut frame = Frame::begin(&mut input);
    frame.set(b"k", &value(LARGE_VALUE_BYTES_MIN), &SetOptions::default());
    frame.pairs(
        binary::opcode::MSET,
        &[(b"a", &value(40_000)), (b"b", b"small"), (b"c", &value(LARGE_VALUE_BYTES_MIN))],
    );
    frame.end();
    let mut frame = Frame::begin(&mut input);
    let expected = value(33_000);
    frame.set(b"k", &value(70_000), &SetOptions { expected: Some(&expected), ..SetOptions::default() });
    frame.end();
    let seen = outcome_however_received(&input);
    assert_eq!(names(&seen), ["set", "mset", "set"]);
    assert_eq!(seen.seen[1].large, [false, true, false, false, false, true]);
    assert_eq!((seen.left, seen.closed), (0, false));
}

#[test]
fn incomplete_input_is_kept_and_counted() {
    let command = resp(&[&[b"SET", b"k", &value(LARGE_VALUE_BYTES_MIN)]]);
    for end in [1, 10, 30, 40, 100, 1000, command.len() - 3, command.len() - 1] {
        let seen = outcome_however_received(&command[..end]);
        assert_eq!((seen.seen.len(), seen.closed), (0, false), "{end}");
        assert_eq!(seen.left, end);
    }
}

#[test]
fn a_broken_end_of_a_large_value_closes() {
    let mut input = resp(&[&[b"PING"], &[b"SET", b"k", &value(LARGE_VALUE_BYTES_MIN)], &[b"PING"]]);
    let at = input.len() - resp(&[&[b"PING"]]).len() - 1;
    input[at] = b'x';
    let seen = outcome_however_received(&input);
    assert!(seen.closed && seen.seen.len() == 2 && seen.seen[1].name.contains("expected CRLF"), "{:?}", names(&seen));
}

/// A client saw its pipelined commands carried out in the wrong order: bytes that came when nothing held
/// them up any more were decoded before those that had been put aside.
#[test]
fn nothing_overtakes_what_was_put_aside() {
    let mut reader = Reader::new(Manner::Plain, 0);
    reader.connection.pause.add(Pause::OUTPUT);
    reader.take(b"SET first 1\r\nSET sec");
    reader.connection.pause.remove(Pause::OUTPUT);
    reader.take(b"ond 2\r\nSET third 3\r\n");
    assert!(reader.batch.commands.is_empty());
    reader.resume();
    let seen = reader.end();
    assert_eq!(
        seen.seen.iter().map(|seen| seen.args[0].as_slice()).collect::<Vec<_>>(),
        [b"first".as_slice(), b"second", b"third"]
    );
}

/// The rest of a large value must not be received around those of its bytes that were put aside.
#[test]
fn a_large_value_is_not_received_around_bytes_put_aside() {
    let command = resp(&[&[b"SET", b"k", &value(LARGE_VALUE_BYTES_MIN)]]);
    let mut reader = Reader::new(Manner::Plain, 0);
    reader.take(&command[..100]);
    reader.connection.pause.add(Pause::OUTPUT);
    reader.take(&command[100..200]);
    assert!(reader.connection.take_large_in().is_none());
    reader.connection.pause.remove(Pause::OUTPUT);
    assert!(reader.connection.take_large_in().is_none());
    reader.resume();
    assert_eq!(
        reader.connection.large_missing(),
        LARGE_VALUE_BYTES_MIN + command.len() - 200 - LARGE_VALUE_BYTES_MIN - 2
    );
    let mut large = reader.connection.take_large_in().unwrap();
    let rest = large.missing();
    large.buffer().extend_from_slice(&command[200..][..rest]);
    reader.connection.put_large_in(large);
    reader.take(b"\r\n");
    assert_eq!(names(&reader.end()), ["set"]);
}

#[test]
fn a_paused_connection_takes_only_so_much() {
    let mut reader = Reader::new(Manner::Plain, 0);
    reader.connection.pause.add(Pause::OUTPUT);
    reader.take(&vec![b'x'; limits::RECV_BUFFER_BYTES - 1]);
    assert!(reader.connection.wants_input());
    reader.take(b"x");
    assert!(!reader.connection.wants_input());
    reader.connection.pause.remove(Pause::OUTPUT);
    assert!(!reader.connection.wants_input(), "what was put aside has not been used yet");
    reader.resume();
    assert!(reader.connection.wants_input());
    reader.connection.closing = Closing::AfterReplies;
    assert!(!reader.connection.wants_input());
}

#[test]
fn a_batch_keeps_only_a_bounded_amount_of_memory() {
    let mut batch = TurnBatch::default();
    for _ in 0..3 {
        batch.assembled.extend((0..2 * SPARE_PIECES_MAX).map(|_| Vec::with_capacity(10)));
        batch.assembled.push(Vec::with_capacity(SPARE_PIECE_BYTES_MAX + 1));
        batch.clear();
        assert!(batch.assembled.is_empty() && batch.spare.len() <= SPARE_PIECES_MAX);
        assert!(batch.spare.iter().all(|piece| piece.is_empty() && piece.capacity() <= SPARE_PIECE_BYTES_MAX));
    }
    let mut pool = OutPool::default();
    let mut big = Out::default();
    big.bytes.reserve(SPARE_OUT_BYTES_MAX + 1);
    pool.give_back(big);
    assert!(pool.spare.is_empty());
    let many = 2 * SPARE_BYTES_MAX / SPARE_OUT_BYTES_MAX;
    for _ in 0..many {
        let mut out = Out::default();
        out.bytes.reserve_exact(SPARE_OUT_BYTES_MAX);
        out.bytes.push(b'x');
        pool.give_back(out);
    }
    assert_eq!(pool.spare.len(), many / 2);
    assert!(pool.spare.iter().all(Out::is_empty));
    // What has been taken makes room again.
    for _ in 0..many / 2 {
        pool.take();
    }
    assert_eq!((pool.spare.len(), pool.spare_bytes), (0, 0));
}

/// A connection that always awaits something does not keep what it has sent.
#[test]
fn replies_behind_awaited_ones_are_let_go_of_when_they_have_left() {
    let mut pool = OutPool::default();
    let mut connection = connection();
    let value = [b'v'; 1000];
    let large = Bytes::from(vec![b'l'; limits::LARGE_VALUE_BYTES_MIN]);
    let mut awaited = connection.await_reply();
    for round in 0..1000 {
        connection.reply(&Reply::Bulk(&value), &mut pool);
        if round % 10 == 0 {
            connection.reply(&Reply::Large(large.clone()), &mut pool);
        }
        let next = connection.await_reply();
        connection.complete(awaited, Wire::Resp2, &Reply::Pong, Vec::new(), &mut pool);
        awaited = next;
        let mut expected = b"+PONG\r\n".to_vec();
        expected.extend(encoded(Wire::Resp2, &Reply::Bulk(&value)));
        if round % 10 == 0 {
            expected.extend(encoded(Wire::Resp2, &Reply::Large(large.clone())));
        }
        assert!(connection.take_out().to_vec() == expected, "round {round}");
        connection.in_flight = 0;
        assert_eq!(connection.unsent(), 0);
        let kept = &connection.later.out;
        assert!(kept.bytes.len() <= 2 * LATER_MOVED_MAX && kept.large.len() < 20, "round {round}");
    }
}

// ---- output -----------------------------------------------------------------------------------------

/// The replies a connection owes, in order.
#[derive(Default)]
struct Owed {
    replies: VecDeque<OwedReply>,
    sent: Vec<u8>,
}

struct OwedReply {
    /// Of those that come later.
    sequence: Option<u32>,
    is_wanted: bool,
    bytes: Option<Vec<u8>>,
}

impl Owed {
    /// Whatever no earlier reply holds up is sent.
    fn settle(&mut self) {
        while let Some(OwedReply { bytes: Some(bytes), is_wanted, .. }) = self.replies.front() {
            if *is_wanted {
                self.sent.extend_from_slice(bytes);
            }
            self.replies.pop_front();
        }
    }

    /// Bytes that wait for earlier replies.
    fn held(&self) -> usize {
        let wanted = self.replies.iter().filter(|reply| reply.is_wanted);
        wanted.map(|reply| reply.bytes.as_ref().map_or(0, Vec::len)).sum()
    }
}

fn encoded(wire: Wire, reply: &Reply<'_>) -> Vec<u8> {
    let mut out = Out::default();
    proto::encode(wire, reply, &mut out);
    out.to_vec()
}

fn random_reply(random: &mut Random) -> Reply<'static> {
    match random.below(6) {
        0 => Reply::Ok,
        1 => Reply::Int(random.next() as i64),
        2 => Reply::owned(value(random.below(100))),
        3 => Reply::Large(Bytes::from(value(LARGE_VALUE_BYTES_MIN + random.below(100)))),
        4 => Reply::Array(vec![Reply::Nil, Reply::Large(Bytes::from(value(LARGE_VALUE_BYTES_MIN))), Reply::Int(1)]),
        _ => Reply::Error(ReplyError::Syntax),
    }
}

#[test]
fn replies_leave_in_the_order_of_commands_whenever_they_come() {
    for seed in 0..300 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let mut connection = connection();
        connection.wire = random.pick(&[Wire::Resp2, Wire::Resp3, Wire::Binary]);
        connection.pending_first = random.pick(&[0, u32::MAX - 3]);
        let wire = connection.wire;
        let mut pool = OutPool::default();
        let mut owed = Owed::default();
        let mut replies = Replies::On;
        let mut sent = Vec::new();
        for _ in 0..120 {
            match random.below(8) {
                choice @ 0..=4 => {
                    let is_wanted = replies == Replies::On;
                    if replies == Replies::SkipNext {
                        replies = Replies::On;
                    }
                    let reply = random_reply(&mut random);
                    if choice < 3 {
                        connection.reply(&reply, &mut pool);
                        let bytes = Some(encoded(wire, &reply));
                        owed.replies.push_back(OwedReply { sequence: None, is_wanted, bytes });
                    } else {
                        let sequence = Some(connection.await_reply());
                        owed.replies.push_back(OwedReply { sequence, is_wanted, bytes: None });
                    }
                }
                5 => {
                    let mut awaited: Vec<&mut OwedReply> =
                        owed.replies.iter_mut().filter(|reply| reply.bytes.is_none()).collect();
                    if awaited.is_empty() {
                        continue;
                    }
                    let place = random.below(awaited.len());
                    let sequence = awaited[place].sequence.unwrap();
                    let reply = random_reply(&mut random);
                    awaited[place].bytes = Some(encoded(wire, &reply));
                    if random.chance(50) {
                        connection.complete(sequence, wire, &reply, Vec::new(), &mut pool);
                    } else {
                        // As a part of a batch's replies, between those of others.
                        let mut batch = Out::default();
                        proto::encode(wire, &random_reply(&mut random), &mut batch);
                        let (start, first_large) = (batch.bytes.len(), batch.large.len());
                        proto::encode(wire, &reply, &mut batch);
                        let range = start..batch.bytes.len();
                        proto::encode(wire, &random_reply(&mut random), &mut batch);
                        connection.complete_with_range(sequence, &batch, range, first_large, Vec::new(), &mut pool);
                    }
                }
                6 => {
                    let mode = random.pick(&[ReplyMode::On, ReplyMode::On, ReplyMode::Off, ReplyMode::Skip]);
                    assert_eq!(connection.set_reply_mode(mode), mode == ReplyMode::On);
                    replies = match (mode, replies) {
                        (ReplyMode::On, _) => Replies::On,
                        (ReplyMode::Off, _) | (ReplyMode::Skip, Replies::Off) => Replies::Off,
                        (ReplyMode::Skip, _) => Replies::SkipNext,
                    };
                }
                _ => {
                    let out = std::mem::take(&mut connection.out);
                    sent.extend_from_slice(&out.to_vec());
                    pool.give_back(out);
                }
            }
            owed.settle();
            let ready = [sent.as_slice(), &connection.out.to_vec()].concat();
            assert!(ready == owed.sent, "{} bytes are ready instead of {}", ready.len(), owed.sent.len());
            assert_eq!(connection.unsent(), connection.out.len() + owed.held());
            let waiting = owed.replies.iter().filter(|reply| reply.sequence.is_some()).count();
            assert_eq!(connection.pending_len(), waiting);
        }
        connection.dismantle(&mut pool);
        assert!(pool.spare.iter().all(Out::is_empty));
    }
}

#[test]
fn a_connection_is_finished_when_nothing_is_owed_any_more() {
    let mut pool = OutPool::default();
    for closing in [Closing::No, Closing::AfterReplies] {
        let mut connection = connection();
        connection.closing = closing;
        connection.input_ended = true;
        assert!(connection.is_finished());
        let sequence = connection.await_reply();
        assert!(!connection.is_finished(), "a reply is awaited");
        connection.complete(sequence, Wire::Resp2, &Reply::Ok, Vec::new(), &mut pool);
        assert!(!connection.is_finished(), "a reply is unsent");
        connection.in_flight = std::mem::take(&mut connection.out).len();
        assert!(!connection.is_finished(), "a reply is being sent");
        connection.in_flight = 0;
        assert!(connection.is_finished());
        connection.input_ended = false;
        assert_eq!(connection.is_finished(), closing == Closing::AfterReplies);
    }
    let mut connection = connection();
    connection.input_ended = true;
    connection.pause.add(Pause::MESH);
    assert!(!connection.is_finished(), "commands wait");
    connection.pause.remove(Pause::MESH);
    connection.resuming = true;
    assert!(!connection.is_finished(), "commands are about to be decoded");
    connection.resuming = false;
    assert!(connection.is_finished());
    connection.input_ended = false;
    connection.await_reply();
    connection.closing = Closing::Now;
    assert!(connection.is_finished(), "whatever is owed");
}

#[test]
fn replies_wait_for_those_of_other_cores_but_not_for_long() {
    let mut pool = OutPool::default();
    let mut connection = connection();
    connection.reply(&Reply::Ok, &mut pool);
    assert_eq!(connection.withholds(), None, "nothing else is to come");
    let sequence = connection.await_reply();
    assert_eq!(connection.withholds(), Some(true));
    assert_eq!(connection.withholds(), Some(false), "known already");
    connection.complete(sequence, Wire::Resp2, &Reply::Pong, Vec::new(), &mut pool);
    assert_eq!(connection.withholds(), None, "all of it is there");
    assert_eq!(connection.take_out().to_vec(), b"+OK\r\n+PONG\r\n");
    connection.in_flight = 0;

    connection.reply(&Reply::Ok, &mut pool);
    connection.await_reply();
    assert!(!connection.stop_withholding(), "nothing is withheld yet");
    assert_eq!(connection.withholds(), Some(true));
    assert!(connection.stop_withholding());
    assert_eq!(connection.withholds(), None, "it took too long");
    connection.take_out();
    assert_eq!(connection.withholds(), Some(true), "the next ones wait anew");
    connection.out.bytes.resize(WITHHELD_BYTES_MAX + 1, 0);
    assert_eq!(connection.withholds(), None, "much leaves at once");
}

#[test]
fn after_an_error_that_closes_input_is_taken_for_a_while_and_thrown_away() {
    let mut pool = OutPool::default();
    let told = || {
        let mut connection = connection();
        connection.activity.bytes_received = 1000;
        connection.close_after_error();
        connection.reply(&Reply::error("ERR"), &mut OutPool::default());
        connection
    };
    let mut patient = told();
    assert!(patient.wants_input() && !patient.is_finished());
    assert!(!patient.begins_to_linger(), "the error is unsent");
    patient.in_flight = std::mem::take(&mut patient.out).len();
    assert!(!patient.begins_to_linger(), "the error is being sent");
    patient.in_flight = 0;
    assert!(patient.begins_to_linger() && !patient.is_finished());
    patient.lingers = true;
    assert!(!patient.begins_to_linger(), "once is enough");
    let mut batch = TurnBatch::default();
    let input = b"*1\r\n$4\r\nPING\r\n";
    let used = patient.receive(0, input, 0, Source::Buffer(0), &mut batch, &DecodeLimits::default());
    assert!(used == input.len() && batch.commands.is_empty() && patient.input_len() == 0);
    patient.input_ended = true;
    assert!(patient.is_finished(), "the client has read it");

    let mut endless = told();
    endless.out = Out::default();
    endless.activity.bytes_received += limits::LINGER_BYTES_MAX as u64 - 1;
    assert!(endless.wants_input());
    endless.activity.bytes_received += 1;
    assert!(!endless.wants_input() && endless.is_finished() && !endless.begins_to_linger());

    let mut late = told();
    late.out = Out::default();
    late.stop_lingering();
    assert!(late.is_finished());

    // Whoever has shut down its side already is not waited for.
    let mut ended = told();
    ended.input_ended = true;
    ended.out = Out::default();
    assert!(ended.is_finished() && !ended.begins_to_linger());
    patient.dismantle(&mut pool);
}
