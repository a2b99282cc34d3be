//! Commands about thousands of keys: carried out some keys at a time, and yet as if they were one after the other.

use super::lab::Lab;
use super::world::Bounds;
use crate::engine::portions::PORTION_KEYS_MAX;
use crate::random::{Announced, Random};

const KEYS: usize = 3_000;

fn resp(words: &[String]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

fn of_all_keys(command: &str) -> Vec<u8> {
    let keys = (0..KEYS).map(|key| format!("key:{key}"));
    resp(&std::iter::once(command.to_owned()).chain(keys).collect::<Vec<_>>())
}

fn array(values: impl ExactSizeIterator<Item = Option<String>>) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", values.len()).into_bytes();
    for value in values {
        let text = value.map_or("$-1\r\n".into(), |value| format!("${}\r\n{value}\r\n", value.len()));
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

fn filled(seed: u64, cores: usize) -> (Lab, usize) {
    let mut lab = Lab::new(Random::new(seed), &Bounds { cores, ..Bounds::default() });
    let client = lab.connect(0);
    for key in 0..KEYS {
        if key % 10 != 0 {
            lab.send(client, &resp(&["SET".into(), format!("key:{key}"), format!("value {key}")]));
        }
    }
    lab.settle();
    assert_eq!(lab.heard(client), b"+OK\r\n".repeat(KEYS - KEYS / 10));
    (lab, client)
}

#[test]
fn what_comes_behind_many_keys_comes_after_them() {
    for (seed, cores) in [(1, 1), (2, 2), (3, 3)] {
        let _announced = Announced(seed);
        let (mut lab, client) = filled(seed, cores);
        let mut expected = Vec::new();
        let mut say = |bytes: &[u8], reply: Vec<u8>| {
            lab.send(client, bytes);
            expected.extend(reply);
        };
        let value = |key: usize| (!key.is_multiple_of(10)).then(|| format!("value {key}"));
        say(&of_all_keys("MGET"), array((0..KEYS).map(value)));
        say(&resp(&["SET".into(), "key:2999".into(), "changed".into()]), b"+OK\r\n".to_vec());
        say(&of_all_keys("EXISTS"), format!(":{}\r\n", KEYS - KEYS / 10).into_bytes());
        say(&of_all_keys("DEL"), format!(":{}\r\n", KEYS - KEYS / 10).into_bytes());
        say(&resp(&["SET".into(), "key:2998".into(), "again".into()]), b"+OK\r\n".to_vec());
        say(&of_all_keys("MGET"), array((0..KEYS).map(|key| (key == 2998).then(|| "again".into()))));
        say(&resp(&["KEYS".into(), "*".into()]), array(["key:2998"].into_iter().map(|key| Some(key.into()))));
        lab.settle();
        let heard = lab.heard(client);
        assert!(heard == expected, "{} bytes instead of {}", heard.len(), expected.len());
    }
}

/// A core that looks up a million keys in one go keeps everybody waiting for a tenth of a second.
#[test]
fn no_step_of_a_core_looks_up_more_than_a_portion() {
    for (seed, cores) in [(1, 1), (2, 2)] {
        for command in ["MGET", "EXISTS", "TOUCH"] {
            let _announced = Announced(seed);
            let (mut lab, client) = filled(seed, cores);
            lab.send(client, &of_all_keys(command));
            let look_ups = |lab: &Lab, core: usize| {
                let counters = lab.engines[core].shard().counters();
                counters.hits + counters.misses
            };
            let mut before: Vec<u64> = (0..cores).map(|core| look_ups(&lab, core)).collect();
            let mut steps = 0;
            while lab.step() {
                for (core, before) in before.iter_mut().enumerate() {
                    let now = look_ups(&lab, core);
                    assert!(now - *before <= PORTION_KEYS_MAX as u64, "{} keys at once", now - *before);
                    steps += (now > *before) as usize;
                    *before = now;
                }
            }
            assert!(steps >= KEYS / PORTION_KEYS_MAX, "{steps} steps");
            assert!(!lab.heard(client).is_empty());
        }
    }
}

#[test]
fn keys_of_all_cores_come_once() {
    for cores in 1..4 {
        let (mut lab, client) = filled(cores as u64, cores);
        let heard = lab.call(client, "KEYS *");
        let mut keys: Vec<&str> = heard.lines().filter(|line| line.starts_with("key:")).collect();
        assert!(heard.starts_with(&format!("*{}\r\n", KEYS - KEYS / 10)));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), KEYS - KEYS / 10);
    }
}
