//! Holds against a plain list of claims in the order in which they came; watches by what they are for.

use bytes::Bytes;

use super::*;
use crate::random::{Announced, Random};

/// A claim in the list: whole, or some keys.
#[derive(Clone, Debug)]
struct Claimed {
    ticket: Ticket,
    keys: Option<Vec<u8>>,
    granted: bool,
}

impl Claimed {
    fn conflicts(&self, other: &Claimed) -> bool {
        match (&self.keys, &other.keys) {
            (Some(keys), Some(others)) => keys.iter().any(|key| others.contains(key)),
            _ => true,
        }
    }
}

/// Who is granted by the rule: nobody who came before and is still there has a claim to the same.
fn due(list: &[Claimed]) -> Vec<Ticket> {
    let free = |at: &usize| !list[*at].granted && !list[..*at].iter().any(|earlier| earlier.conflicts(&list[*at]));
    (0..list.len()).filter(free).map(|at| list[at].ticket).collect()
}

#[test]
fn who_comes_first_holds_first() {
    for seed in 0..300 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let mut holds: Holds<u64> = Holds::default();
        let mut list: Vec<Claimed> = Vec::new();
        let key_count = 1 + random.below(6);
        let wholes = random.below(2) == 0;
        for name in 0..200 {
            if random.below(5) < 3 {
                let keys = (wholes && random.below(8) == 0)
                    .then_some(())
                    .is_none()
                    .then(|| (0..random.below(4)).map(|_| random.below(key_count) as u8).collect::<Vec<u8>>());
                let blocks = |keys: &[u8]| {
                    let claim = Claimed { ticket: Ticket::for_test(0), keys: Some(keys.to_vec()), granted: false };
                    list.iter().any(|earlier| earlier.conflicts(&claim))
                };
                if let Some(keys) = &keys {
                    let all: Vec<[u8; 1]> = keys.iter().map(|key| [*key]).collect();
                    // Keys behind a claim that waits for the whole core are blocked, too.
                    assert_eq!(holds.block(all.iter().map(|key| &key[..])), blocks(keys));
                }
                let (ticket, granted) = match &keys {
                    None => holds.claim_whole(name),
                    Some(keys) => holds.claim(keys.iter().map(|key| Bytes::copy_from_slice(&[*key])).collect(), name),
                };
                list.push(Claimed { ticket, keys, granted: false });
                assert_eq!(granted.is_some(), due(&list).contains(&ticket));
                assert!(granted.is_none_or(|granted| granted == name));
                if granted.is_some() {
                    list.last_mut().unwrap().granted = true;
                }
            } else if let Some(held) = (0..list.len()).rfind(|&at| list[at].granted) {
                let held = if random.below(2) == 0 { held } else { list.iter().position(|held| held.granted).unwrap() };
                let released = list.remove(held);
                let mut granted = Vec::new();
                holds.release(released.ticket, &mut granted);
                let granted: Vec<Ticket> = granted.into_iter().map(|(ticket, _)| ticket).collect();
                assert_eq!(granted, due(&list), "in the order in which they came");
                list.iter_mut().filter(|claim| granted.contains(&claim.ticket)).for_each(|claim| claim.granted = true);
            }
            holds.validate();
            assert!(due(&list).is_empty());
            assert!(list.is_empty() || list.iter().any(|claim| claim.granted), "somebody always goes on");
            assert_eq!(holds.is_empty(), list.is_empty());
        }
    }
}

#[test]
fn a_watched_key_changes_when_it_is_written() {
    let mut watches = Watches::default();
    let seen = watches.watch(b"a", true);
    assert!(watches.is_unchanged(b"a", seen));
    watches.written(b"b", true);
    assert!(watches.is_unchanged(b"a", seen), "another key");
    watches.written(b"a", true);
    assert!(!watches.is_unchanged(b"a", seen));
    let later = watches.watch(b"a", true);
    assert!(watches.is_unchanged(b"a", later));
    watches.unwatch(b"a");
    assert!(watches.is_unchanged(b"a", later), "one of two still watches");
    watches.unwatch(b"a");
    assert!(watches.is_empty());
    let anew = watches.watch(b"a", true);
    assert!(anew != seen && anew != later, "no version comes back");
}

/// A client that watched a key nobody had was told of a change when somebody else emptied the server.
#[test]
fn a_flush_changes_only_what_was_there() {
    let mut watches = Watches::default();
    let (there, absent) = (watches.watch(b"there", true), watches.watch(b"absent", false));
    watches.flushed();
    assert!(!watches.is_unchanged(b"there", there) && watches.is_unchanged(b"absent", absent));
    watches.written(b"absent", true);
    let back = watches.watch(b"absent", true);
    watches.flushed();
    assert!(!watches.is_unchanged(b"absent", back));
}
