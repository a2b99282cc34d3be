//! SCAN, KEYS and RANDOMKEY over all cores while the keys change.

use std::collections::BTreeSet;

use super::talk::{Expect, Fixed, Said, Talk, bytes, resp};
use super::world::{Bounds, Farewell, Terms, World};
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::proto::client;
use crate::random::{Announced, Random};
use crate::reply::Reply;
use crate::request::Wire;

/// Scans from beginning to end, again and again.
struct Scanner {
    options: &'static [&'static str],
    cursor: Vec<u8>,
    found: BTreeSet<Vec<u8>>,
    /// Must all be found in every pass.
    stable: BTreeSet<Vec<u8>>,
    passes_left: usize,
    steps: usize,
    is_waiting: bool,
}

impl Scanner {
    fn new(options: &'static [&'static str], stable: BTreeSet<Vec<u8>>, passes: usize) -> Scanner {
        let cursor = b"0".to_vec();
        Scanner { options, cursor, found: BTreeSet::new(), stable, passes_left: passes, steps: 0, is_waiting: false }
    }
}

impl Talk for Scanner {
    fn say(&mut self, _random: &mut Random) -> Option<Said> {
        if self.is_waiting || self.passes_left == 0 {
            return None;
        }
        self.is_waiting = true;
        let mut words: Vec<&[u8]> = vec![b"SCAN", &self.cursor];
        words.extend(self.options.iter().map(|option| option.as_bytes()));
        let mut bytes = Vec::new();
        client::resp(&words, &mut bytes);
        Some(Said { bytes, expects: vec![Expect::Reply(Wire::Resp2)] })
    }

    fn hear(&mut self, reply: Reply<'static>) {
        let Reply::Array(mut parts) = reply else { panic!("{reply:?}") };
        let (Some(Reply::Array(keys)), Some(cursor), None) = (parts.pop(), parts.pop(), parts.pop()) else {
            panic!("no cursor and keys")
        };
        self.is_waiting = false;
        self.steps += 1;
        self.cursor = bytes(cursor);
        assert!(std::str::from_utf8(&self.cursor).is_ok_and(|text| text.parse::<u64>().is_ok()));
        self.found.extend(keys.into_iter().map(bytes));
        if self.cursor == b"0" {
            let missing = self.stable.difference(&self.found).count();
            assert_eq!(missing, 0, "keys that were there all the time were not found");
            if self.options.contains(&"MATCH") {
                assert_eq!(self.found, self.stable, "keys that do not match were found");
            }
            self.found.clear();
            self.passes_left -= 1;
        }
    }

    fn has_said_all(&self) -> bool {
        self.passes_left == 0
    }
}

/// Asks for all stable keys at once.
struct Lister {
    stable: BTreeSet<Vec<u8>>,
    left: usize,
}

impl Talk for Lister {
    fn say(&mut self, random: &mut Random) -> Option<Said> {
        self.left = self.left.checked_sub(1)?;
        let (line, wire) = if random.chance(70) { ("KEYS stable:*", Wire::Resp2) } else { ("RANDOMKEY", Wire::Resp2) };
        Some(Said { bytes: resp(&[line]), expects: vec![Expect::Reply(wire)] })
    }

    fn hear(&mut self, reply: Reply<'static>) {
        match reply {
            Reply::Array(keys) => {
                assert_eq!(keys.len(), self.stable.len());
                assert_eq!(keys.into_iter().map(bytes).collect::<BTreeSet<_>>(), self.stable);
            }
            key => {
                let key = bytes(key);
                assert!(key.starts_with(b"stable:") || key.starts_with(b"churn:"), "{}", key.escape_ascii());
            }
        }
    }

    fn has_said_all(&self) -> bool {
        self.left == 0
    }
}

/// Fills the tables until they grow, and empties them until they shrink.
struct Churn {
    left: usize,
}

impl Talk for Churn {
    fn say(&mut self, random: &mut Random) -> Option<Said> {
        self.left = self.left.checked_sub(1)?;
        let from = random.below(3000);
        let keys: Vec<String> = (from..from + 500).map(|number| format!("churn:{number}")).collect();
        let mut words: Vec<&[u8]> = vec![if random.chance(50) { b"DEL" } else { b"MSET" }];
        for key in &keys {
            words.push(key.as_bytes());
            if words[0] == b"MSET" {
                words.push(b"x");
            }
        }
        let mut bytes = Vec::new();
        client::resp(&words, &mut bytes);
        let expect = if words[0] == b"DEL" { Expect::Reply(Wire::Resp2) } else { Expect::Bytes(b"+OK\r\n".to_vec()) };
        Some(Said { bytes, expects: vec![expect] })
    }

    fn hear(&mut self, reply: Reply<'static>) {
        assert!(matches!(reply, Reply::Int(0..=500)));
    }

    fn has_said_all(&self) -> bool {
        self.left == 0
    }
}

fn store(world: &mut World, keys: &BTreeSet<Vec<u8>>) {
    let mut input = Vec::new();
    for key in keys {
        client::resp(&[b"SET", key, b"v"], &mut input);
    }
    world.connect(Fixed::new(input, b"+OK\r\n".repeat(keys.len())), Terms::on(0));
    world.settle(0);
}

#[test]
fn keys_that_stay_are_found_while_others_come_and_go() {
    for seed in 0..25 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds::random(&mut random);
        let cores = bounds.cores;
        let mut world = World::new(Random::new(!seed), bounds);
        let stable: BTreeSet<Vec<u8>> = (0..100).map(|number| format!("stable:{number}").into_bytes()).collect();
        store(&mut world, &stable);
        for _ in 0..2 {
            let terms = Terms { window: 2, ..Terms::on(random.below(cores)) };
            world.connect(Churn { left: 30 }, terms);
        }
        for options in [&[][..], &["MATCH", "stable:*", "COUNT", "50"], &["COUNT", "100"], &["COUNT", "1000"]] {
            world.connect(Scanner::new(options, stable.clone(), 2), Terms::on(random.below(cores)));
        }
        world.connect(Lister { stable, left: 15 }, Terms::on(random.below(cores)));
        world.settle(random.below(3000));
        world.end();
    }
}

/// redis-cli --scan took thousands of round trips to walk over a nearly empty server.
#[test]
fn a_scan_of_few_keys_takes_few_steps() {
    for cores in [1, 2, 5] {
        let mut world = World::new(Random::new(1), Bounds { cores, ..Bounds::default() });
        let stable: BTreeSet<Vec<u8>> = (0..15).map(|number| format!("stable:{number}").into_bytes()).collect();
        store(&mut world, &stable);
        let client = world.connect(Steps { scanner: Scanner::new(&[], stable, 1), steps_max: 4 }, Terms::on(0));
        world.settle(0);
        assert!(world.clients[client].is_closed);
        world.end();
    }
}

struct Steps {
    scanner: Scanner,
    steps_max: usize,
}

impl Talk for Steps {
    fn say(&mut self, random: &mut Random) -> Option<Said> {
        self.scanner.say(random)
    }

    fn hear(&mut self, reply: Reply<'static>) {
        self.scanner.hear(reply);
        assert!(self.scanner.steps <= self.steps_max, "more than {} steps", self.steps_max);
    }

    fn has_said_all(&self) -> bool {
        self.scanner.has_said_all()
    }
}

/// Keys at or above the size from which arguments travel on their own were found only on the core that the
/// client was connected to.
#[test]
fn long_keys_are_found_on_every_core() {
    let mut world = World::new(Random::new(3), Bounds { cores: 3, ..Bounds::default() });
    let long = |letter: u8| vec![letter; LARGE_VALUE_BYTES_MIN + usize::from(letter)];
    let stable: BTreeSet<Vec<u8>> = (b'a'..=b'h').map(long).collect();
    let owners: BTreeSet<usize> = stable.iter().map(|key| world.owner_of(key)).collect();
    assert_eq!(owners.len(), 3);
    store(&mut world, &stable);
    world.connect(Scanner::new(&[], stable.clone(), 1), Terms::on(0));
    for key in &stable {
        let found = Reply::Array(vec![Reply::owned(key.clone())]);
        let expected = super::talk::encoded(Wire::Resp2, &found);
        world.connect(Fixed::new(resp(&[&format!("KEYS {}*", key[0] as char)]), expected), Terms::on(1));
    }
    world.settle(0);
    world.end();
}

#[test]
fn cursors_that_nobody_gave_end_the_scan() {
    let mut world = World::new(Random::new(3), Bounds { cores: 3, ..Bounds::default() });
    let terms = Terms { farewell: Farewell::HalfClose, ..Terms::on(1) };
    let end = "*2\r\n$1\r\n0\r\n*0\r\n";
    for cursor in [u64::MAX, 3 << 48, (2 << 48) | 0xFFFF_FFFF_FFFF] {
        world.connect(Fixed::new(resp(&[&format!("SCAN {cursor}")]), end), terms);
    }
    world.connect(
        Fixed::new(resp(&["SCAN 1x", "SCAN -1", "SCAN 18446744073709551616"]), b"-ERR invalid cursor\r\n".repeat(3)),
        terms,
    );
    world.settle(0);
    world.end();
}
