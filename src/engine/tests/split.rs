//! Whole conversations, cut anywhere: the replies and the end of the connection may not depend on it.

use super::talk::{Fixed, encoded, resp};
use super::world::{Bounds, Farewell, Terms, World};
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::proto::binary;
use crate::proto::client::{self, Frame, SetOptions};
use crate::random::{Announced, Random};
use crate::reply::Reply;
use crate::request::Wire;

struct Conversation {
    input: Vec<u8>,
    output: Vec<u8>,
    /// The server closes by itself.
    is_ended: bool,
}

impl Conversation {
    fn new(input: impl Into<Vec<u8>>, output: impl Into<Vec<u8>>) -> Conversation {
        Conversation { input: input.into(), output: output.into(), is_ended: false }
    }

    fn ended(self) -> Conversation {
        Conversation { is_ended: true, ..self }
    }

    /// Holds it with a server in which everything arrives up to `cut` long before the rest does.
    fn hold(&self, cut: usize, cores: usize, seed: u64) {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds { cores, ..Bounds::random(&mut random) };
        let core = random.below(cores);
        let farewell = if random.chance(50) { Farewell::HalfClose } else { Farewell::None };
        let mut world = World::new(random, bounds);
        let talk = match self.is_ended {
            true => Fixed::until_end(&*self.input, &*self.output),
            false => Fixed::new(&*self.input, &*self.output),
        };
        let client = world.connect(talk, Terms { farewell, ..Terms::on(core) });
        world.clients[client].deliverable = cut;
        for _ in 0..3 * cores {
            for core in 0..cores {
                world.turn(core);
            }
        }
        world.clients[client].deliverable = usize::MAX;
        world.settle(0);
        world.end();
    }

    fn hold_however_cut(&self) {
        for cores in [1, 3] {
            if self.input.len() < 1000 {
                for cut in 0..=self.input.len() {
                    self.hold(cut, cores, cut as u64);
                }
            }
            for seed in 0..30 {
                self.hold(Random::new(!seed).below(self.input.len() + 1), cores, seed);
            }
        }
    }
}

#[test]
fn keys_on_all_cores_in_one_pipeline() {
    let input = [
        resp(&["MSET a 1 b 2 c 3 d 4", "MGET a b c d e", "INCR a", "GET a", "DEL a b x", "EXISTS a b c d"]),
        b"RENAME c moved\r\nGET \"moved\"\r\nRENAMENX moved d\r\nCOPY d copied\r\nMGET moved d copied c\r\n".to_vec(),
        resp(&["MSETNX p 1 d 2", "MSETNX p 1 q 2", "MGET p q", "DBSIZE", "RENAME nothing x", "FLUSHALL", "DBSIZE"]),
    ];
    let output = "+OK\r\n*5\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n$-1\r\n:2\r\n$1\r\n2\r\n:2\r\n:2\r\n\
                  +OK\r\n$1\r\n3\r\n:0\r\n:1\r\n*4\r\n$1\r\n3\r\n$1\r\n4\r\n$1\r\n4\r\n$-1\r\n\
                  :0\r\n:1\r\n*2\r\n$1\r\n1\r\n$1\r\n2\r\n:5\r\n-ERR no such key\r\n+OK\r\n:0\r\n";
    Conversation::new(input.concat(), output).hold_however_cut();
}

#[test]
fn quit_answers_what_came_before_and_nothing_that_comes_after() {
    let input = "SET a 1\r\nSET b 2\r\nMGET a b\r\nQUIT\r\nSET a 3\r\nGET a\r\n*1\r\n$4\r\nPI";
    let output = "+OK\r\n+OK\r\n*2\r\n$1\r\n1\r\n$1\r\n2\r\n+OK\r\n";
    Conversation::new(input, output).ended().hold_however_cut();
}

#[test]
fn a_protocol_error_answers_what_came_before_and_closes() {
    let input = "SET a 1\r\nSET b 2\r\nRENAME a c\r\nGET c\r\n*1\r\n$99999999999\r\nGET a\r\nPING\r\n";
    let output = "+OK\r\n+OK\r\n+OK\r\n$1\r\n1\r\n-ERR Protocol error: invalid bulk length\r\n";
    Conversation::new(input, output).ended().hold_however_cut();
    // Who speaks HTTP is not even told.
    Conversation::new("SET a 1\r\nGET a\r\nPOST / HTTP/1.1\r\nGET a\r\n", "+OK\r\n$1\r\n1\r\n")
        .ended()
        .hold_however_cut();
}

#[test]
fn unwanted_replies_are_left_out_wherever_they_come_from() {
    let input = [
        resp(&["SET a 1", "CLIENT REPLY OFF", "SET b 2", "INCR b", "MGET a b", "PING", "NOTHING", "CLIENT REPLY SKIP"]),
        resp(&[
            "CLIENT REPLY ON",
            "GET b",
            "CLIENT REPLY SKIP",
            "MGET a b",
            "GET a",
            "CLIENT REPLY SKIP",
            "RENAME a c",
        ]),
        resp(&["GET c", "CLIENT REPLY SKIP", "CLIENT REPLY ON", "CLIENT REPLY SKIP", "NOTHING", "PING", "QUIT"]),
    ];
    let output = "+OK\r\n+OK\r\n$1\r\n3\r\n$1\r\n1\r\n$1\r\n1\r\n+OK\r\n+PONG\r\n+OK\r\n";
    Conversation::new(input.concat(), output).ended().hold_however_cut();
}

#[test]
fn the_protocol_changes_between_two_replies() {
    let hello = |version| {
        let field = |name: &str, value| (Reply::text(name.to_owned()), value);
        let fields = vec![
            field("server", Reply::text("redis")),
            field("version", Reply::text(crate::metrics::REDIS_VERSION)),
            field("proto", Reply::Int(version)),
            field("id", Reply::Int(1)),
            field("mode", Reply::text("standalone")),
            field("role", Reply::text("master")),
            field("modules", Reply::Array(vec![])),
            field("crabcache", Reply::text(crate::metrics::CRABCACHE_VERSION)),
        ];
        encoded(if version == 3 { Wire::Resp3 } else { Wire::Resp2 }, &Reply::Map(fields))
    };
    let input = resp(&["GET a", "MGET a b", "HELLO 3", "GET b", "MGET a b", "GET c", "HELLO 2", "GET b", "GET d"]);
    let output =
        [&b"$-1\r\n*2\r\n$-1\r\n$-1\r\n"[..], &hello(3), b"_\r\n*2\r\n_\r\n_\r\n_\r\n", &hello(2), b"$-1\r\n$-1\r\n"];
    let conversation = Conversation::new(input, output.concat());
    for cut in 0..conversation.input.len() {
        // The client's number depends on the core.
        conversation.hold(cut, 1, cut as u64);
    }
}

#[test]
fn large_values_alone_and_with_others_in_every_protocol() {
    let value = |letter: u8, len: usize| vec![letter; len];
    let (least, odd, less) =
        (value(b'a', LARGE_VALUE_BYTES_MIN), value(b'b', 50_001), value(b'c', LARGE_VALUE_BYTES_MIN - 1));
    let replies = [
        Reply::Ok,
        Reply::Ok,
        Reply::Large(odd.clone().into()),
        Reply::Array(vec![
            Reply::Large(least.clone().into()),
            Reply::owned(less.clone()),
            Reply::Nil,
            Reply::Large(odd.clone().into()),
        ]),
        Reply::Int(1),
        Reply::Large(least.clone().into()),
        Reply::Int(1),
        Reply::Large(least.clone().into()),
        Reply::Int(1),
        Reply::Array(vec![Reply::Large(odd.clone().into()), Reply::owned(less.clone())]),
        Reply::Pong,
    ];
    let output = |wire| replies.iter().flat_map(|reply| encoded(wire, reply)).collect::<Vec<u8>>();
    let commands: [&[&[u8]]; 11] = [
        &[b"SET", b"k", &odd],
        &[b"MSET", b"a", &least, b"b", b"small", b"b", &less, b"d", &odd],
        &[b"GET", b"k"],
        &[b"MGET", b"a", b"b", b"c", b"d"],
        &[b"RENAMENX", b"a", b"e"],
        &[b"GET", b"e"],
        &[b"COPY", b"e", b"f"],
        &[b"GETDEL", b"f"],
        &[b"MSETNX", b"x", &odd, b"y", &less],
        &[b"MGET", b"x", b"y"],
        &[b"PING"],
    ];
    let mut input = Vec::new();
    commands.iter().for_each(|words| client::resp(words, &mut input));
    Conversation::new(input, output(Wire::Resp2)).hold_however_cut();

    let mut input = Vec::new();
    let mut frame = Frame::begin(&mut input);
    frame.set(b"k", &odd, &SetOptions::default());
    commands[1..8].iter().for_each(|words| frame.command(words));
    frame.end();
    let mut frame = Frame::begin(&mut input);
    frame.pairs(binary::opcode::MSETNX, &[(b"x", &odd), (b"y", &less)]);
    frame.keys(binary::opcode::MGET, &[b"x", b"y"]);
    frame.ping();
    frame.end();
    Conversation::new(input, output(Wire::Binary)).hold_however_cut();
}

/// A binary SET ends with its value: when the value had been received into its own memory while the
/// connection was paused, nothing was left to come that would have set the command going.
#[test]
fn a_command_that_ends_with_a_large_value_does_not_wait_for_more_input() {
    let mut input = Vec::new();
    let mut output = Vec::new();
    for letter in b'a'..=b'f' {
        let value = vec![letter; LARGE_VALUE_BYTES_MIN + 1000];
        let mut frame = Frame::begin(&mut input);
        frame.key(binary::opcode::GET, b"k");
        frame.key(binary::opcode::GET, &[letter]);
        frame.set(b"k", &value, &SetOptions::default());
        frame.end();
        let before = [letter - 1; LARGE_VALUE_BYTES_MIN + 1000];
        let reply = if letter == b'a' { Reply::Nil } else { Reply::owned(before) };
        output.extend(encoded(Wire::Binary, &reply));
        output.extend(encoded(Wire::Binary, &Reply::Nil));
        output.extend(encoded(Wire::Binary, &Reply::Ok));
    }
    let conversation = Conversation::new(input, output);
    for seed in 0..300 {
        conversation.hold(usize::MAX, 1 + (seed % 3) as usize, seed);
    }
}

#[test]
fn a_client_that_has_shut_down_its_side_still_gets_its_replies() {
    for seed in 0..100 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds::random(&mut random);
        let core = random.below(bounds.cores);
        let mut world = World::new(random, bounds);
        // The last command is not whole and will never be.
        let input =
            [resp(&["MSET a 1 b 2", "GET a", "RENAME a c", "KEYS c", "GET c"]), b"*2\r\n$3\r\nGE".to_vec()].concat();
        let output = "+OK\r\n$1\r\n1\r\n+OK\r\n*1\r\n$1\r\nc\r\n$1\r\n1\r\n";
        world.connect(Fixed::new(input, output), Terms::on(core));
        world.settle(seed as usize * 10);
        assert!(world.clients[0].is_closed);
        world.end();
    }
}
