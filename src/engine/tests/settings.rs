//! Settings that change between commands of one connection: what came before is carried out under the old ones, what
//! comes behind under the new ones, on whichever core, and whenever the cores look at the settings by themselves.

use std::sync::Arc;

use super::lab::Lab;
use super::world::Bounds;
use crate::config::{Config, Sources, Store};
use crate::engine::EngineConfig;
use crate::random::{Announced, Random};

const CORES: usize = 4;

/// Cores with settings that can be changed. A core follows them at its ticks, and when it is asked to.
fn lab(seed: u64) -> Lab {
    let settings = Arc::new(Store::new(Config::default(), Sources::default()).unwrap());
    let bounds = Bounds { cores: CORES, ..Bounds::default() };
    Lab::changed(Random::new(seed), &bounds, |config| EngineConfig { settings: settings.clone(), ..config })
}

/// All is sent at once. Cores tick whenever chance wants, or never.
fn heard(lab: &mut Lab, client: usize, lines: &[String], ticks: bool) -> String {
    lab.send(client, format!("{}\r\n", lines.join("\r\n")).as_bytes());
    loop {
        if ticks && lab.random.below(2) == 0 {
            let core = lab.random.below(CORES);
            lab.engines[core].tick(100);
        }
        if !lab.step() {
            return String::from_utf8(lab.heard(client)).unwrap();
        }
    }
}

/// Writes a key that wants to live long and asks how long it may, under one limit after the other.
fn changes(key: &str) -> (Vec<String>, [u32; 5]) {
    let limits = [
        ("NAMESPACE SET ns MAX-TTL 10s", 10),
        ("NAMESPACE SET ns MAX-TTL 20s", 20),
        ("CONFIG SET namespaces \"ns max-ttl=30s\"", 30),
        ("CONFIG SET namespaces \"\"", 5000),
        ("NAMESPACE SET ns MAX-TTL 40s", 40),
    ];
    let lines = limits
        .iter()
        .flat_map(|(change, _)| [change.to_string(), format!("SET ns^{key} v EX 5000"), format!("TTL ns^{key}")]);
    (lines.collect(), limits.map(|(_, seconds)| seconds))
}

/// A user saw a key live for 5000 seconds though its namespace allowed 10 when it was written: NAMESPACE DEL, behind
/// the write on the same connection, had overtaken it on its way to another core.
#[test]
fn a_change_holds_for_what_comes_behind_it_and_for_nothing_before() {
    for seed in 0..60 {
        let _announced = Announced(seed);
        let mut lab = lab(seed);
        let client = lab.connect(0);
        for key in ["a", "b", "c", "d", "e", "f"] {
            let (mut lines, ttls) = changes(key);
            lines.extend(["NAMESPACE DEL ns", "SET ns^k v EX 5000"].map(str::to_owned));
            lines.extend([format!("SET ns^{key} v EX 5000"), format!("TTL ns^{key}")]);
            let under = |ttl: &u32| format!("+OK\r\n+OK\r\n:{ttl}\r\n");
            let expected = ttls.iter().map(under).collect::<String>() + "+OK\r\n+OK\r\n+OK\r\n:5000\r\n";
            assert_eq!(heard(&mut lab, client, &lines, seed % 2 == 0), expected, "{key}");
        }
    }
}

#[test]
fn a_change_within_a_transaction_does_the_same() {
    for seed in 0..60 {
        let _announced = Announced(seed);
        let mut lab = lab(seed);
        let client = lab.connect(0);
        for key in ["a", "b", "c", "d", "e", "f"] {
            let (lines, ttls) = changes(key);
            let queued = "+QUEUED\r\n".repeat(lines.len());
            let replies = ttls.iter().map(|ttl| format!("+OK\r\n+OK\r\n:{ttl}\r\n")).collect::<String>();
            let lines = [vec!["MULTI".to_owned()], lines, vec!["EXEC".to_owned()]].concat();
            let expected = format!("+OK\r\n{queued}*15\r\n{replies}");
            assert_eq!(heard(&mut lab, client, &lines, seed % 2 == 0), expected, "{key}");
        }
    }
}

/// What cannot be done at all is not half done.
#[test]
fn no_limit_is_forgotten_when_a_namespace_cannot_go() {
    let mut lab = lab(1);
    let client = lab.connect(0);
    let lines = ["NAMESPACE SET ns MAX-TTL 10s", "MULTI", "NAMESPACE DEL ns", "EXEC", "SET ns^k v EX 5000", "TTL ns^k"];
    let expected =
        "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n-ERR a namespace cannot be deleted within a transaction\r\n+OK\r\n:10\r\n";
    assert_eq!(heard(&mut lab, client, &lines.map(str::to_owned), true), expected);
}
