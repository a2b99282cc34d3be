//! Replies come in the order of commands and say what a single server would have said, whatever the cores,
//! the network and the other clients are doing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::talk::{SHARED_KEYS, Script, Shared};
use super::world::{Bounds, Farewell, Terms, World};
use crate::random::{Announced, Random};

fn random_terms(random: &mut Random, cores: usize) -> Terms {
    Terms {
        window: random.pick(&[1, 3, 20, usize::MAX, usize::MAX]),
        farewell: random.pick(&[Farewell::HalfClose, Farewell::HalfClose, Farewell::None]),
        ..Terms::on(random.below(cores))
    }
}

/// Increments that were acknowledged are there; `is_exact` when all were.
fn check_shared(world: &mut World, shared: &Shared, is_exact: bool) {
    for number in 0..SHARED_KEYS {
        let key = format!("shared:{number}").into_bytes();
        let acknowledged = shared.borrow().get(&key).copied().unwrap_or(0);
        let value = world.value(&key).map_or(0, |value| std::str::from_utf8(&value).unwrap().parse::<i64>().unwrap());
        assert!(value >= acknowledged, "{acknowledged} increments were acknowledged, {value} are there");
        assert!(!is_exact || value == acknowledged, "{acknowledged} increments were acknowledged, {value} are there");
    }
}

#[test]
fn many_clients_get_what_a_single_server_would_have_answered() {
    for seed in 0..200 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds::random(&mut random);
        let mut world = World::new(Random::new(!seed), bounds);
        let shared: Shared = Rc::new(RefCell::new(BTreeMap::new()));
        for name in 0..3 + random.below(6) {
            let script = Script::new(name, 10 + random.below(60), &shared, &mut random);
            let terms = random_terms(&mut random, world.bounds.cores);
            world.connect(script, terms);
        }
        let steps = random.below(4000);
        world.settle(steps);
        check_shared(&mut world, &shared, true);
        world.end();
    }
}

#[test]
fn a_single_client_knows_what_all_cores_hold_together() {
    for seed in 0..100 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds::random(&mut random);
        let mut world = World::new(Random::new(!seed), bounds);
        let shared: Shared = Rc::new(RefCell::new(BTreeMap::new()));
        let mut script = Script::new(0, 200, &shared, &mut random);
        script.is_alone = true;
        let terms = random_terms(&mut random, world.bounds.cores);
        world.connect(script, terms);
        let steps = random.below(2000);
        world.settle(steps);
        world.end();
    }
}

#[test]
fn connections_that_break_leave_nothing_behind() {
    for seed in 0..200 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds::random(&mut random);
        let mut world = World::new(Random::new(!seed), bounds);
        let shared: Shared = Rc::new(RefCell::new(BTreeMap::new()));
        let clients = 4 + random.below(12);
        for name in 0..clients {
            let script = Script::new(name, 10 + random.below(40), &shared, &mut random);
            let mut terms = random_terms(&mut random, world.bounds.cores);
            if random.chance(60) {
                terms.breaks_after = Some(random.below(3000));
            }
            world.connect(script, terms);
            // The next one may get the place of one that is gone.
            for _ in 0..random.below(600) {
                world.step();
            }
            if random.chance(20) {
                let victim = random.below(world.clients.len());
                world.reset(victim);
            }
        }
        world.settle(0);
        check_shared(&mut world, &shared, false);
        world.end();
    }
}
