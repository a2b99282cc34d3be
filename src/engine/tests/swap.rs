//! SWAPDB from several cores at once.

use super::lab::Lab;
use super::world::Bounds;
use crate::namespace::{Databases, prefix_of};
use crate::random::{Announced, Random};

/// Whoever swaps, from wherever: every core comes to the same, and every client is where its number leads.
#[test]
fn all_cores_agree_about_what_was_swapped() {
    for seed in 0..20 {
        let _announced = Announced(seed);
        let bounds = Bounds { cores: 3, mesh_in_flight_max: 1, mesh_waiting_max: 1, ..Bounds::default() };
        let mut lab = Lab::new(Random::new(seed), &bounds);
        let clients: Vec<usize> = (0..9).map(|number| lab.connect(number % 3)).collect();
        let mut random = Random::new(seed ^ 0x5A);
        let mut asked = vec![0; clients.len()];
        let mut swaps = 0;
        for _ in 0..200 {
            let place = random.below(clients.len());
            let mut database = || random.below(4);
            let line = match database() {
                0 => format!("SELECT {}", database()),
                1 => {
                    swaps += 1;
                    format!("SWAPDB {} {}", database(), database())
                }
                2 => format!("SET k{} v", database()),
                _ => format!("GET k{}", database()),
            };
            lab.send(clients[place], format!("{line}\r\n").as_bytes());
            asked[place] += 1;
        }
        lab.settle();
        let databases = lab.engines[0].databases;
        assert!(swaps > 10 && lab.engines.iter().all(|engine| engine.databases == databases));
        for (&client, asked) in clients.iter().zip(asked) {
            let heard = lab.heard(client);
            let replies = heard.split(|byte| *byte == b'\n').filter(|line| {
                line.first().is_some_and(|first| matches!(first, b'+' | b'$' | b'-')) && !line.starts_with(b"-")
            });
            assert_eq!(replies.count(), asked, "{}", String::from_utf8_lossy(&heard));
            let core = lab.clients[client].core;
            let index = lab.clients[client].index;
            let connection = lab.engines[core].connection(index).unwrap();
            let shown = databases.namespace_of(connection.record.database);
            assert_eq!(connection.key_prefix(), prefix_of(&shown));
            assert_eq!(connection.databases, databases);
        }
        assert!(lab.engines.iter().all(|engine| engine.held_keys() == 0));
    }
}

/// Nothing but the numbers changes: what one database held is what the other holds, also to who comes later.
#[test]
fn who_comes_later_sees_the_same() {
    let mut lab = Lab::new(Random::new(1), &Bounds { cores: 2, ..Bounds::default() });
    let first = lab.connect(0);
    lab.call(first, "SET k zero");
    assert_eq!(lab.call(first, "SWAPDB 0 9"), "+OK\r\n");
    let later = lab.connect(1);
    assert_eq!(lab.call(later, "GET k"), "$-1\r\n");
    assert_eq!(lab.call(later, "SELECT 9"), "+OK\r\n");
    assert_eq!(lab.call(later, "GET k"), "$4\r\nzero\r\n");
    assert_eq!(lab.call(later, "RESET"), "+RESET\r\n");
    assert_eq!(lab.call(later, "GET k"), "$-1\r\n");
    assert_eq!(lab.call(later, "SWAPDB 9 0"), "+OK\r\n");
    assert_eq!(lab.call(later, "GET k"), "$4\r\nzero\r\n");
    assert_eq!(lab.call(later, "MULTI"), "+OK\r\n");
    assert!(lab.call(later, "SWAPDB 0 1").starts_with("-ERR SWAPDB cannot be part of a transaction"));
    assert!(lab.call(later, "EXEC").starts_with("-EXECABORT"));
    assert_eq!(lab.engines[1].databases, Databases::default());
}
