//! Cores that keep each other as busy as they can, with as little room between them as there may be.

use super::talk::{Expect, Fixed, Said, Talk, bytes, encoded, resp};
use super::world::{Bounds, Terms, World};
use crate::limits;
use crate::proto::client;
use crate::random::{Announced, Random};
use crate::reply::Reply;
use crate::request::Wire;

/// Commands with much to carry, all for other cores or for several.
struct Flood {
    name: usize,
    keys: Vec<Vec<u8>>,
    left: usize,
    written: Vec<Vec<u8>>,
}

impl Flood {
    fn new(name: usize, core: usize, world: &World, commands: usize) -> Flood {
        let candidates = (0..200).map(|number| format!("{name}:{number}").into_bytes());
        let cores = world.bounds.cores;
        let keys: Vec<Vec<u8>> = candidates.filter(|key| cores == 1 || world.owner_of(key) != core).take(20).collect();
        Flood { name, written: vec![Vec::new(); keys.len()], keys, left: commands }
    }
}

impl Talk for Flood {
    fn say(&mut self, random: &mut Random) -> Option<Said> {
        self.left = self.left.checked_sub(1)?;
        let mut said = Said::default();
        let number = random.below(self.keys.len());
        let key = self.keys[number].clone();
        let mut say = |words: &[&[u8]], expect| {
            client::resp(words, &mut said.bytes);
            said.expects.push(expect);
        };
        match random.below(10) {
            0..=4 => {
                let value = vec![b'a' + self.name as u8 % 26; random.below(limits::LARGE_VALUE_BYTES_MIN + 2000)];
                say(&[b"SET", &key, &value], Expect::Bytes(b"+OK\r\n".to_vec()));
                self.written[number] = value;
            }
            5 | 6 => {
                // A key that was never set holds nothing.
                let value = &self.written[number];
                let reply = if value.is_empty() {
                    b"$0\r\n\r\n".to_vec()
                } else {
                    encoded(Wire::Resp2, &Reply::owned(value.clone()))
                };
                say(&[b"APPEND", &key, b""], Expect::Bytes(encoded(Wire::Resp2, &Reply::Int(value.len() as i64))));
                say(&[b"GET", &key], Expect::Bytes(reply));
            }
            7 => {
                let mut words: Vec<&[u8]> = vec![b"MGET"];
                words.extend(self.keys.iter().map(Vec::as_slice));
                say(&words, Expect::Reply(Wire::Resp2));
            }
            8 => say(&[b"DBSIZE"], Expect::Reply(Wire::Resp2)),
            _ => say(&[b"SCAN", b"0", b"COUNT", b"3"], Expect::Reply(Wire::Resp2)),
        }
        Some(said)
    }

    fn hear(&mut self, reply: Reply<'static>) {
        match reply {
            Reply::Int(_) => {}
            Reply::Array(items) if items.len() == self.keys.len() => {
                let letter = b'a' + self.name as u8 % 26;
                for item in items.into_iter().filter(|item| *item != Reply::Nil) {
                    assert!(bytes(item).iter().all(|&byte| byte == letter), "another client's value");
                }
            }
            Reply::Array(items) => assert_eq!(items.len(), 2),
            other => panic!("{other:?}"),
        }
    }

    fn has_said_all(&self) -> bool {
        self.left == 0
    }
}

#[test]
fn all_cores_flooding_each_other_come_to_an_end() {
    let mut paused = 0;
    for seed in 0..100 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds {
            cores: 2 + random.below(5),
            output_soft_bytes: random.pick(&[0, 100_000, limits::OUTPUT_SOFT_BYTES]),
            mesh_in_flight_max: 1,
            mesh_waiting_max: 0,
            ..Bounds::default()
        };
        let cores = bounds.cores;
        let mut world = World::new(random, bounds);
        for name in 0..3 * cores {
            let flood = Flood::new(name, name % cores, &world, 25);
            world.connect(flood, Terms::on(name % cores));
        }
        let steps = world.random.below(4000);
        world.settle(steps);
        paused += world.cores.iter().map(|core| core.engine.counters.outbox_full_pauses).sum::<u64>();
        world.end();
    }
    assert!(paused > 200, "the floods were too small to fill anything: {paused} pauses");
}

/// What piles up for a core that takes no turn is bounded, whichever commands it is that others send it.
#[test]
fn a_core_that_does_not_keep_up_holds_others_back() {
    let many = limits::PENDING_REPLIES_MAX * 4;
    let set = format!("SET x {}", "v".repeat(2000));
    let cases = [
        ("GET x", "$-1\r\n"),
        ("DBSIZE", ":1\r\n"),
        ("MGET a c x", "*3\r\n$-1\r\n$-1\r\n$-1\r\n"),
        ("DEL a c x", ":0\r\n"),
        ("RENAME c a", "-ERR no such key\r\n"),
        (&set, "+OK\r\n"),
    ];
    for (command, reply) in cases {
        let mut world = World::new(Random::new(1), Bounds { cores: 2, ..Bounds::default() });
        assert!(world.owner_of(b"x") == 1 && world.owner_of(b"a") == 1 && world.owner_of(b"b") == 0);
        let own = resp(&["SET b 1"]);
        world.connect(Fixed::new(&*own, "+OK\r\n"), Terms::on(0));
        world.settle(0);
        let request = resp(&[command]);
        let client = world.connect(Fixed::new(request.repeat(many), reply.repeat(many)), Terms::on(0));
        // Another one, whose commands are none of that core's business.
        let other = world.connect(Fixed::new(own.repeat(10_000), b"+OK\r\n".repeat(10_000)), Terms::on(0));
        for _ in 0..5000 {
            world.turn(0);
        }
        let engine = &world.cores[0].engine;
        let gathers = engine.gathers.iter().flatten().count();
        assert!(gathers <= limits::PENDING_REPLIES_MAX + limits::TURN_COMMANDS, "{command}: {gathers} gathers");
        let pending: usize = engine.connections.iter().flatten().map(|connection| connection.pending_len()).sum();
        assert!(pending <= limits::PENDING_REPLIES_MAX + limits::TURN_COMMANDS, "{command}: {pending} replies awaited");
        let waiting = engine.outboxes[1].waiting.len();
        let bound = limits::MESH_OUTBOX_BATCHES + limits::TURN_COMMANDS;
        assert!(waiting <= bound, "{command}: {waiting} boxes wait");
        assert!(world.clients[client].delivered < request.len() * many, "{command}: all of it was taken in");
        assert!(world.clients[other].is_closed, "{command}: others are held up");
        // It comes round again.
        world.settle(0);
        assert!(world.clients[client].is_closed, "{command}");
        world.end();
    }
}
