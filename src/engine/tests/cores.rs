//! What several cores do together, case by case.

use super::talk::{Expect, Fixed, Said, Talk, bytes, resp};
use super::world::{Bounds, Farewell, Terms, World};
use crate::command::{Op, spec_of};
use crate::connection::Closing;
use crate::engine::batch::Job;
use crate::engine::gather::{Gather, Kind, MoveState, Progress};
use crate::limits;
use crate::proto::client;
use crate::random::Random;
use crate::reply::Reply;
use crate::request::Wire;

/// A world of two cores, of which core 0 owns `b`, `c` and `{b}1`, and core 1 owns `a` and `d`.
fn two_cores(bounds: Bounds) -> World {
    let world = World::new(Random::new(9), Bounds { cores: 2, ..bounds });
    assert!([b"b", b"c"].iter().all(|key| world.owner_of(*key) == 0) && world.owner_of(b"{b}1") == 0);
    assert!([b"a", b"d"].iter().all(|key| world.owner_of(*key) == 1));
    world
}

/// What a client on core 0 is answered.
fn converse(world: &mut World, terms: Terms, requests: &[&str], replies: &str) {
    let client = world.connect(Fixed::new(resp(requests), replies), terms);
    world.settle(0);
    assert!(world.clients[client].is_closed);
}

/// Asks once and keeps the answer.
struct Ask {
    request: Vec<u8>,
    answers: std::rc::Rc<std::cell::RefCell<Vec<Reply<'static>>>>,
}

impl Talk for Ask {
    fn say(&mut self, _random: &mut Random) -> Option<Said> {
        let bytes = std::mem::take(&mut self.request);
        (!bytes.is_empty()).then(|| Said { bytes, expects: vec![Expect::Reply(Wire::Resp2)] })
    }

    fn hear(&mut self, reply: Reply<'static>) {
        self.answers.borrow_mut().push(reply);
    }
}

fn ask(world: &mut World, core: usize, request: &str) -> Reply<'static> {
    let answers = std::rc::Rc::default();
    world.connect(Ask { request: resp(&[request]), answers: std::rc::Rc::clone(&answers) }, Terms::on(core));
    world.settle(0);
    answers.take().pop().expect("an answer")
}

#[test]
fn a_core_s_own_port_is_a_node_of_a_cluster() {
    let mut world = two_cores(Bounds { cluster: true, ..Bounds::default() });
    let own = Terms { own_port: true, ..Terms::on(0) };
    converse(
        &mut world,
        own,
        &["SET b 1", "GET a", "MSET b 2 {b}1 3", "MGET b {b}1", "DEL b a", "RENAME a d", "RENAME b c", "MGET a {a}1"],
        "+OK\r\n-MOVED 15495 127.0.0.1:7102\r\n+OK\r\n*2\r\n$1\r\n2\r\n$1\r\n3\r\n\
         -CROSSSLOT Keys in request don't hash to the same slot\r\n\
         -CROSSSLOT Keys in request don't hash to the same slot\r\n+OK\r\n-MOVED 15495 127.0.0.1:7102\r\n",
    );
    // By the shared port nothing is foreign.
    converse(&mut world, Terms::on(0), &["SET a 1", "GET a", "DBSIZE"], "+OK\r\n$1\r\n1\r\n:3\r\n");
    // Who asks every node adds up what they say.
    converse(
        &mut world,
        own,
        &["DBSIZE", "KEYS c*", "SCAN 0 MATCH c"],
        ":2\r\n*1\r\n$1\r\nc\r\n*2\r\n$1\r\n0\r\n*1\r\n$1\r\nc\r\n",
    );
    converse(
        &mut world,
        Terms { own_port: true, ..Terms::on(1) },
        &["DBSIZE", "KEYS *", "SCAN 0", "RANDOMKEY", "CLUSTER COUNTKEYSINSLOT 15495", "CLUSTER GETKEYSINSLOT 15495 5"],
        ":1\r\n*1\r\n$1\r\na\r\n*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n$1\r\na\r\n:1\r\n*1\r\n$1\r\na\r\n",
    );
    world.end();
}

#[test]
fn expiry_goes_along_from_core_to_core() {
    let mut world = two_cores(Bounds::default());
    let terms = Terms::on(0);
    converse(
        &mut world,
        terms,
        &["SET a v PX 500", "COPY a b", "RENAME a c", "PTTL b", "PTTL c"],
        "+OK\r\n:1\r\n+OK\r\n:500\r\n:500\r\n",
    );
    converse(
        &mut world,
        terms,
        &["SET d kept", "RENAMENX c d", "PTTL c", "GET d", "PERSIST b", "RENAME b a"],
        "+OK\r\n:0\r\n:500\r\n$4\r\nkept\r\n:1\r\n+OK\r\n",
    );
    world.pass_ms(501);
    converse(
        &mut world,
        terms,
        &["MGET a b c d", "EXISTS a b c d", "KEYS *"],
        "*4\r\n$1\r\nv\r\n$-1\r\n$-1\r\n$4\r\nkept\r\n:2\r\n*2\r\n$1\r\na\r\n$1\r\nd\r\n",
    );
    world.end();
}

#[test]
fn clients_of_all_cores_are_listed() {
    let mut world = two_cores(Bounds::default());
    // More than fits into a reply that is copied.
    let others = 200;
    for _ in 0..others {
        world.connect(Fixed::new("", ""), Terms { farewell: Farewell::None, ..Terms::on(1) });
    }
    let list = String::from_utf8(bytes(ask(&mut world, 0, "CLIENT LIST"))).unwrap();
    assert!(list.len() > limits::LARGE_VALUE_BYTES_MIN);
    assert_eq!(list.lines().count(), others + 1);
    assert_eq!(list.lines().filter(|line| line.contains(" core=1 ")).count(), others);
    world.end();
}

#[test]
fn clients_of_all_cores_are_killed() {
    let mut world = two_cores(Bounds::default());
    let staying = |core| Terms { farewell: Farewell::None, ..Terms::on(core) };
    let victims: Vec<usize> =
        (0..10).map(|number| world.connect(Fixed::closable("PING\r\n", "+PONG\r\n"), staying(number % 2))).collect();
    world.settle(0);
    assert_eq!(ask(&mut world, 0, "CLIENT KILL TYPE normal"), Reply::Int(10));
    assert!(victims.iter().all(|&victim| world.clients[victim].is_closed));
    // Who kills itself is answered, and gets nothing after that.
    let input = resp(&["SET a 1", "GET a", "CLIENT KILL TYPE normal SKIPME no", "GET a", "GET b"]);
    let client = world.connect(Fixed::until_end(input, "+OK\r\n$1\r\n1\r\n:1\r\n"), staying(1));
    world.settle(0);
    assert!(world.clients[client].is_closed);
    assert_eq!(ask(&mut world, 1, "CLIENT KILL 127.0.0.1:1"), Reply::error("ERR No such client"));
    world.end();
}

/// What a stopping server does with connections: what they have asked for is answered.
#[test]
fn connections_are_finished_in_order() {
    let mut world = two_cores(Bounds::default());
    let input = resp(&["SET a 1", "GET a", "GET b"]);
    let client = world.connect(
        Fixed::until_end(input, "+OK\r\n$1\r\n1\r\n$-1\r\n"),
        Terms { farewell: Farewell::None, ..Terms::on(0) },
    );
    for _ in 0..20 {
        world.turn(0);
    }
    let engine = &mut world.cores[0].engine;
    assert!(engine.connection(0).is_some_and(|connection| connection.pending_len() > 0));
    engine.finish(0);
    assert!(engine.connection(0).is_some_and(|connection| connection.closing == Closing::AfterReplies));
    assert!(!engine.is_quiet());
    world.turn(0);
    world.settle(0);
    assert!(world.clients[client].is_closed);
    assert!(world.cores[0].engine.is_quiet());
    world.end();
}

/// Large values travel beside the boxes' bytes, and still count.
#[test]
fn large_values_for_a_core_that_does_not_keep_up_are_bounded() {
    let mut world = two_cores(Bounds::default());
    let mut set = Vec::new();
    client::resp(&[b"SET", b"a", &vec![b'v'; limits::LARGE_VALUE_BYTES_MIN]], &mut set);
    let many = 1500;
    let client = world.connect(Fixed::new(set.repeat(many), b"+OK\r\n".repeat(many)), Terms::on(0));
    for _ in 0..100_000 {
        world.turn(0);
    }
    let boxes = limits::MESH_RING_BATCHES + limits::MESH_OUTBOX_BATCHES + limits::TURN_COMMANDS;
    let delivered = world.clients[client].delivered;
    assert!(delivered < boxes * 2 * limits::MESH_BATCH_BYTES, "{delivered} bytes are under way");
    world.settle(0);
    assert!(world.clients[client].is_closed);
    world.end();
}

/// A key too long for any shard is refused before any part of the command is carried out.
#[test]
fn keys_too_long_are_refused_whole() {
    let mut world = two_cores(Bounds::default());
    let long = "x".repeat(limits::KEY_BYTES_MAX + 1);
    let requests = [
        format!("MSET a 1 b 2 {long} 3"),
        format!("MSETNX a 1 b 2 {long} 3"),
        format!("MGET a b {long}"),
        "SET a 1".to_owned(),
        format!("RENAME a {long}"),
        format!("COPY a {long}"),
        format!("DEL a b {long}"),
        "DBSIZE".to_owned(),
    ];
    let error = "-ERR key exceeds maximum allowed size (65535 bytes)\r\n";
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    converse(&mut world, Terms::on(0), &requests, &format!("{error}{error}{error}+OK\r\n{error}{error}{error}:1\r\n"));
    world.end();
}

// ---- gathers alone ----------------------------------------------------------------------------------

fn begin(kind: Kind, waiting: u32) -> Gather {
    let mut gather = Gather::new(kind);
    gather.waiting = waiting;
    gather
}

fn done(progress: Progress) -> Reply<'static> {
    match progress {
        Progress::Done(reply) => reply,
        Progress::Next(_) | Progress::Later(_) => panic!("more is asked"),
        Progress::Written(_) => panic!("it is short"),
        Progress::Waiting => panic!("more is awaited"),
    }
}

/// An error of one core was forgotten when another one answered after it.
#[test]
fn an_error_of_any_core_is_the_reply() {
    let error = || Reply::error("OOM no memory");
    let values = || Kind::Values { places: vec![vec![0], vec![1]], values: vec![Reply::Nil; 2] };
    type Case = (fn() -> Kind, Reply<'static>);
    let cases: [Case; 4] = [
        (|| Kind::Sum(0), Reply::Int(1)),
        (|| Kind::AllOk, Reply::Ok),
        (|| Kind::SetIfNone { existing: 0, store: Vec::new() }, Reply::Ok),
        (
            || Kind::Values { places: vec![vec![0], vec![1]], values: vec![Reply::Nil; 2] },
            Reply::Array(vec![Reply::Nil]),
        ),
    ];
    for (kind, other) in cases {
        for error_first in [true, false] {
            let mut gather = begin(kind(), 2);
            let (first, second) = if error_first { (error(), other.clone()) } else { (other.clone(), error()) };
            assert!(matches!(gather.answer(0, first), Progress::Waiting));
            assert_eq!(done(gather.answer(1, second)), error());
        }
    }
    let mut gather = begin(values(), 2);
    assert!(matches!(gather.answer(1, Reply::Array(vec![Reply::Int(2)])), Progress::Waiting));
    assert_eq!(
        done(gather.answer(0, Reply::Array(vec![Reply::Int(1)]))),
        Reply::Array(vec![Reply::Int(1), Reply::Int(2)])
    );
}

/// A value on its way to a core that has no memory for it was lost.
#[test]
fn what_finds_no_room_on_another_core_goes_home() {
    let error = Reply::error("OOM no memory");
    for op in [Op::Rename, Op::RenameNx] {
        let spec = spec_of(op);
        let (source, target) = ((0, b"source".to_vec()), (1, b"target".to_vec()));
        let mut gather = begin(Kind::Rename { spec, source, target, state: MoveState::Reading }, 1);
        let taken = || vec![Reply::owned("value"), Reply::Int(77)];
        let Progress::Next(asks) = gather.answer(0, Reply::Array(taken())) else { panic!("not put anywhere") };
        assert_eq!((asks[0].core, asks[0].job, &asks[0].args[0][..]), (1, Job::Put, &b"target"[..]));
        gather.waiting = 1;
        let refused = [taken(), vec![error.clone()]].concat();
        assert_eq!(done(gather.answer(0, Reply::Array(refused))), error, "the source has not been touched");
        // With room, the source goes last.
        let state = MoveState::Putting;
        let (source, target) = ((0, b"source".to_vec()), (1, b"target".to_vec()));
        let mut gather = begin(Kind::Rename { spec, source, target, state }, 1);
        let Progress::Next(asks) = gather.answer(0, Reply::Int(1)) else { panic!("the source is still there") };
        assert_eq!((asks[0].core, asks[0].job, &asks[0].args[0][..]), (0, Job::Take, &b"source"[..]));
        gather.waiting = 1;
        assert_eq!(done(gather.answer(0, Reply::Int(1))), if op == Op::Rename { Reply::Ok } else { Reply::Int(1) });
    }
    let spec = spec_of(Op::Copy);
    let mut gather = begin(Kind::Copy { spec, target: (1, b"target".to_vec()), replace: false, read: true }, 1);
    let refused = vec![Reply::owned("value"), Reply::Int(-1), error.clone()];
    assert_eq!(done(gather.answer(0, Reply::Array(refused))), error);
}
