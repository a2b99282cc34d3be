//! Clients that do not read what they asked for: they wait, and go when it gets too much; nobody else does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::talk::{Fixed, Script, Shared, resp};
use super::world::{Bounds, Farewell, Terms, World};
use crate::limits;
use crate::random::{Announced, Random};

const VALUE_BYTES: usize = 1000;

fn set(key: &str) -> Vec<u8> {
    resp(&[&format!("SET {key} {}", "v".repeat(VALUE_BYTES))])
}

fn value_reply() -> Vec<u8> {
    format!("${VALUE_BYTES}\r\n{}\r\n", "v".repeat(VALUE_BYTES)).into_bytes()
}

fn staying(core: usize) -> Terms {
    Terms { farewell: Farewell::None, ..Terms::on(core) }
}

/// A world of two cores in which core 0 owns `b`, core 1 owns `a`, and both hold a value.
fn world(bounds: Bounds) -> World {
    let mut world = World::new(Random::new(5), Bounds { cores: 2, ..bounds });
    assert!(world.owner_of(b"b") == 0 && world.owner_of(b"a") == 1);
    world.connect(Fixed::new([set("a"), set("b")].concat(), b"+OK\r\n".repeat(2)), Terms::on(0));
    world.settle(0);
    world
}

/// How many have been counted on core 0, after time enough.
fn slow_readers(world: &mut World) -> u64 {
    world.pass_ms(limits::SLOW_READER_MS_MIN);
    let engine = &mut world.cores[0].engine;
    engine.tick(16);
    engine.counters.slow_reader_pauses
}

#[test]
fn replies_that_leave_in_portions_are_no_slow_reader() {
    let mut world = world(Bounds { output_soft_bytes: 4000, ..Bounds::default() });
    let many = 1000;
    let fast = world.connect(Fixed::new(resp(&["GET b"]).repeat(many), value_reply().repeat(many)), Terms::on(0));
    // Longer in all than a slow reader may be paused.
    for _ in 0..3 * limits::SLOW_READER_MS_MIN {
        world.turn(0);
        world.pass_ms(1);
        world.cores[0].engine.tick(16);
        assert_eq!(world.cores[0].engine.counters.slow_reader_pauses, 0);
    }
    world.settle(0);
    assert!(world.clients[fast].is_closed);
}

/// Requests whose replies are ready at once, come from elsewhere, are errors, or wait for an earlier one.
#[test]
fn what_a_client_does_not_read_is_bounded() {
    let soft = 4000;
    let hold_up = ["SET big 1", "GET b"];
    for (requests, core_1_sleeps) in [
        (&["GET b"][..], false),
        (&["GET a"], false),
        (&["NOTHING of the sort"], false),
        (&hold_up, true),
        (&["MGET a b"], false),
    ] {
        let mut world = world(Bounds { output_soft_bytes: soft, ..Bounds::default() });
        let many = 20_000;
        let mut input = resp(requests).repeat(many);
        if core_1_sleeps {
            input = [resp(&["GET a"]), resp(&["GET b"]).repeat(many)].concat();
        }
        let len = input.len();
        let slow = world.connect(Fixed::deaf(input), staying(0));
        world.clients[slow].reads = false;
        let other = world.connect(Fixed::new(resp(&["GET b"]).repeat(500), value_reply().repeat(500)), Terms::on(0));
        for _ in 0..3000 {
            world.turn(0);
            if !core_1_sleeps {
                world.turn(1);
            }
            let connection =
                world.cores[0].engine.connections.iter().flatten().max_by_key(|connection| connection.unsent());
            if let Some(connection) = connection {
                // Each command of the batch that passed the bound, and of those that other cores already have.
                let decoded = limits::TURN_COMMANDS + limits::RECV_BUFFER_BYTES / 20;
                let bound = soft + decoded * 2 * (VALUE_BYTES + 20);
                assert!(connection.unsent() <= bound, "{requests:?}: {} bytes unsent", connection.unsent());
            }
        }
        assert!(world.clients[other].is_closed, "{requests:?}: others are held up");
        assert!(world.clients[slow].delivered < len / 2, "{requests:?}: input was taken in without a bound");
        assert_eq!(slow_readers(&mut world), 1, "{requests:?}");
        world.reset(slow);
        world.end();
    }
}

#[test]
fn a_paused_client_that_reads_again_gets_everything() {
    for seed in 0..20 {
        let _announced = Announced(seed);
        let mut world = world(Bounds { output_soft_bytes: 4000, ..Bounds::default() });
        world.random = Random::new(seed);
        let many = 1000;
        let requests = resp(&["GET a", "GET b"]).repeat(many);
        let slow = world.connect(Fixed::new(requests, value_reply().repeat(2 * many)), Terms::on(0));
        world.clients[slow].reads = false;
        world.settle(2000);
        assert!(!world.clients[slow].is_closed);
        assert_eq!(slow_readers(&mut world), 1);
        world.clients[slow].reads = true;
        world.settle(0);
        assert!(world.clients[slow].is_closed);
        world.end();
    }
}

/// Forty values of the other core in one reply.
fn wide() -> Vec<u8> {
    resp(&[&format!("MGET{}", " a".repeat(40))])
}

fn tight() -> World {
    world(Bounds {
        output_soft_bytes: 1000,
        output_hard_bytes: 20_000,
        value_bytes_max: limits::LARGE_VALUE_BYTES_MIN,
        ..Bounds::default()
    })
}

#[test]
fn a_hopelessly_slow_client_is_closed_and_counted() {
    let mut world = tight();
    let slow = world.connect(Fixed::deaf(wide().repeat(3)), staying(0));
    world.clients[slow].reads = false;
    let other = world.connect(Fixed::new(resp(&["GET a"]).repeat(10), value_reply().repeat(10)), Terms::on(0));
    world.settle(2000);
    let place = world.cores[0].engine.overdue()[0].0;
    // As long as some of what is being sent is taken, it is not.
    for taken in 1..5 {
        let engine = &mut world.cores[0].engine;
        engine.note_taken(place, taken);
        engine.tick(100);
        world.pass_ms(limits::OUTPUT_STALL_MS_MAX - 1);
        world.cores[0].engine.tick(100);
        assert!(!world.clients[slow].is_closed);
        let engine = &mut world.cores[0].engine;
        assert_eq!(engine.counters.connections_closed_by_output_bound, 0, "{taken}");
    }
    world.pass_ms(limits::OUTPUT_STALL_MS_MAX + 1);
    world.cores[0].engine.tick(100);
    world.settle(0);
    assert!(world.clients[slow].is_closed && world.clients[other].is_closed);
    assert_eq!(world.cores[0].engine.counters.connections_closed_by_output_bound, 1);
    world.end();
}

/// Nobody is closed for what he is about to take: not in pieces either, with a long time between them.
#[test]
fn whoever_takes_his_replies_is_not_closed_however_many_there_are() {
    let mut world = tight();
    let reply = [b"*40\r\n".to_vec(), value_reply().repeat(40)].concat();
    let reader = world.connect(Fixed::new(wide().repeat(4), reply.repeat(4)), Terms::on(0));
    world.clients[reader].reads = false;
    world.settle(2000);
    for _ in 0..40 {
        world.clients[reader].reads = true;
        world.settle(3);
        world.clients[reader].reads = false;
        world.pass_ms(limits::OUTPUT_STALL_MS_MAX * 2 / 3);
        world.cores[0].engine.tick(100);
    }
    world.clients[reader].reads = true;
    world.settle(0);
    assert_eq!(world.cores[0].engine.counters.connections_closed_by_output_bound, 0);
    assert!(world.clients[reader].is_closed);
    world.end();
}

/// A pipeline of requests to another core holds no more than one to the own core would, whatever the replies take.
#[test]
fn what_is_awaited_of_other_cores_is_bounded_in_bytes() {
    let mut world = world(Bounds::default());
    let value = "x".repeat(200_000);
    world.connect(Fixed::new(resp(&[&format!("SET a {value}")]), b"+OK\r\n"), Terms::on(0));
    world.settle(0);
    let reply = format!("${}\r\n{value}\r\n", value.len()).into_bytes();
    let small = (resp(&["GET nothing"]).repeat(2000), b"$-1\r\n".repeat(2000));
    let input = [small.0, resp(&["GET a"]).repeat(300)].concat();
    let reader = world.connect(Fixed::new(input, [small.1, reply.repeat(300)].concat()), Terms::on(0));
    let mut most = 0;
    for _ in 0..20_000 {
        world.turn(0);
        world.turn(1);
        most = world.cores[0].engine.connections.iter().flatten().map(|it| it.unsent()).max().unwrap_or(0).max(most);
        if world.clients[reader].is_closed {
            break;
        }
    }
    assert!(world.clients[reader].is_closed);
    // Those that were under way when the first large one came, and from then on a few.
    let surprise = limits::PENDING_REPLY_BYTES_MAX / limits::REPLY_BYTES_EXPECTED_MIN;
    assert!(most <= (surprise + limits::TURN_COMMANDS).min(300) * value.len(), "{most} bytes");
    assert_eq!(world.cores[0].engine.counters.connections_closed_by_output_bound, 0);
    world.end();
}

/// Replies to one batch leave in parts, so that neither core ever holds much more than one of them.
#[test]
fn large_replies_leave_a_core_in_parts() {
    let mut world = world(Bounds::default());
    let value = "x".repeat(30_000);
    world.connect(Fixed::new(resp(&[&format!("SET a {value}")]), b"+OK\r\n"), Terms::on(0));
    world.settle(0);
    // One connection each, so that all of them are in one batch.
    let keys = 100;
    let reply = [format!("*{keys}\r\n"), format!("${}\r\n{value}\r\n", value.len()).repeat(keys)].concat();
    let request = resp(&[&format!("MGET{}", " a".repeat(keys))]);
    let clients: Vec<usize> =
        (0..20).map(|_| world.connect(Fixed::new(request.clone(), reply.clone()), Terms::on(0))).collect();
    for _ in 0..200 {
        world.turn(0);
        world.turn(1);
    }
    world.settle(0);
    assert!(clients.iter().all(|&client| world.clients[client].is_closed));
    assert!(world.parts >= 3, "{} parts", world.parts);
    assert!(world.part_bytes_max <= limits::MESH_PART_BYTES + reply.len(), "{} bytes", world.part_bytes_max);
    world.end();
}

/// One reply may be larger than the bound: whoever stores a value can read it back.
#[test]
fn the_largest_value_can_be_read_whatever_the_bound() {
    let bounds = Bounds { output_soft_bytes: 1000, output_hard_bytes: 20_000, ..Bounds::default() };
    let mut world = world(bounds);
    let value = "x".repeat(world.bounds.value_bytes_max);
    for key in ["a", "b"] {
        let input = [resp(&[&format!("SET {key} {value}")]), resp(&[&format!("GET {key}")])].concat();
        let client = world.connect(Fixed::new(input, format!("+OK\r\n${}\r\n{value}\r\n", value.len())), Terms::on(0));
        world.settle(0);
        assert!(world.clients[client].is_closed);
    }
    assert_eq!(world.cores[0].engine.counters.connections_closed_by_output_bound, 0);
    world.end();
}

/// A few bytes can ask for a reply of any size. It is never made, and whoever asked is told.
#[test]
fn a_reply_larger_than_output_may_be_is_refused_wherever_its_keys_live() {
    let bounds =
        Bounds { output_hard_bytes: 20_000, value_bytes_max: limits::LARGE_VALUE_BYTES_MIN, ..Bounds::default() };
    let mut world = world(bounds);
    for keys in [" a", " b", " a b"] {
        let input = resp(&[&format!("MGET{}", keys.repeat(100)), "PING"]);
        let error = "-ERR the reply would be larger than the output of a client may be\r\n+PONG\r\n";
        let client = world.connect(Fixed::new(input, error), Terms::on(0));
        world.settle(0);
        assert!(world.clients[client].is_closed);
    }
    assert_eq!(world.cores[0].engine.counters.connections_closed_by_output_bound, 0);
    world.end();
}

#[test]
fn slow_clients_among_others() {
    for seed in 0..60 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds {
            output_soft_bytes: random.pick(&[0, 500, 5000]),
            output_hard_bytes: random.pick(&[1_500_000, limits::OUTPUT_HARD_BYTES]),
            ..Bounds::random(&mut random)
        };
        let cores = bounds.cores;
        let mut world = World::new(Random::new(!seed), bounds);
        let shared: Shared = Rc::new(RefCell::new(BTreeMap::new()));
        let clients = 3 + random.below(6);
        for name in 0..clients {
            let is_slow = random.chance(40);
            let client = if is_slow && random.chance(70) {
                world.connect(
                    Fixed::deaf([set("cx"), resp(&["GET cx", "GET cy"]).repeat(2000)].concat()),
                    staying(random.below(cores)),
                )
            } else {
                let script = Script::new(name, 40, &shared, &mut random);
                world.connect(script, Terms::on(random.below(cores)))
            };
            world.clients[client].reads = !is_slow;
        }
        world.settle(random.below(3000));
        for client in 0..clients {
            world.clients[client].reads = true;
            if world.clients[client].talk.may_be_closed() {
                world.reset(client);
            }
        }
        world.settle(0);
        world.end();
    }
}
