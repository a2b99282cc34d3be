//! Transactions over cores: what clients are told, and that what they are told can have happened one command after
//! the other.
//!
//! Histories of a few clients on few keys are judged by search: is there an order of all commands that agrees with
//! every answer, and with the order in which commands were answered before others were sent?

use std::collections::{BTreeMap, BTreeSet};

use super::lab::Lab;
use super::world::Bounds;
use crate::random::{Announced, Random};
use crate::slot;

/// Keys that lie on different cores, and some that share one.
pub fn keys(cores: usize) -> Vec<String> {
    let on = |core: usize, skip: usize| {
        let mut names = (0..).map(|number| format!("k{number}"));
        let mut found = names
            .by_ref()
            .filter(|key| slot::owner_of_slot(slot::slot_of(key.as_bytes()), cores as u32) as usize == core);
        found.nth(skip).unwrap()
    };
    vec![on(0, 0), on(cores - 1, 1), on(cores / 2, 2), on(0, 3)]
}

fn lab(seed: u64, cores: usize) -> (Lab, Vec<String>) {
    (Lab::new(Random::new(seed), &Bounds { cores, ..Bounds::default() }), keys(cores))
}

#[test]
fn commands_are_queued_and_answered_together() {
    for cores in [1, 2, 3] {
        let (mut lab, keys) = lab(1, cores);
        let (client, other) = (lab.connect(0), lab.connect(cores - 1));
        let (a, b) = (&keys[0], &keys[1]);
        assert_eq!(lab.call(client, "MULTI"), "+OK\r\n");
        for line in
            [format!("SET {a} 1"), format!("INCR {b}"), format!("MGET {a} {b}"), "PING".into(), format!("INCR {a}")]
        {
            assert_eq!(lab.call(client, &line), "+QUEUED\r\n");
        }
        assert_eq!(lab.call(other, &format!("GET {a}")), "$-1\r\n", "nothing is done before EXEC");
        assert_eq!(lab.call(client, "EXEC"), "*5\r\n+OK\r\n:1\r\n*2\r\n$1\r\n1\r\n$1\r\n1\r\n+PONG\r\n:2\r\n");
        assert_eq!(lab.call(other, &format!("MGET {a} {b}")), "*2\r\n$1\r\n2\r\n$1\r\n1\r\n");
        assert_eq!(lab.call(client, "MULTI"), "+OK\r\n");
        assert_eq!(lab.call(client, "EXEC"), "*0\r\n");
    }
}

#[test]
fn errors_are_those_of_redis() {
    let (mut lab, keys) = lab(2, 3);
    let client = lab.connect(1);
    let (a, b) = (&keys[0], &keys[1]);
    assert_eq!(lab.call(client, "EXEC"), "-ERR EXEC without MULTI\r\n");
    assert_eq!(lab.call(client, "DISCARD"), "-ERR DISCARD without MULTI\r\n");
    assert_eq!(lab.call(client, "UNWATCH"), "+OK\r\n");
    assert_eq!(lab.call(client, "MULTI"), "+OK\r\n");
    assert_eq!(lab.call(client, "MULTI"), "-ERR MULTI calls can not be nested\r\n");
    assert_eq!(lab.call(client, "WATCH x"), "-ERR WATCH inside MULTI is not allowed\r\n");
    assert_eq!(lab.call(client, &format!("SET {a} word")), "+QUEUED\r\n");
    assert_eq!(lab.call(client, &format!("INCR {a}")), "+QUEUED\r\n");
    assert_eq!(lab.call(client, &format!("SET {b} 1")), "+QUEUED\r\n");
    assert_eq!(
        lab.call(client, "EXEC"),
        "*3\r\n+OK\r\n-ERR value is not an integer or out of range\r\n+OK\r\n",
        "no command is taken back because another one failed"
    );
    for refused in ["NOSUCH", "GET", "SUBSCRIBE c"] {
        lab.call(client, "MULTI");
        assert_eq!(lab.call(client, &format!("SET {a} 2")), "+QUEUED\r\n");
        assert!(lab.call(client, refused).starts_with("-ERR "));
        assert_eq!(lab.call(client, "EXEC"), "-EXECABORT Transaction discarded because of previous errors.\r\n");
        assert_eq!(lab.call(client, &format!("GET {a}")), "$4\r\nword\r\n");
    }
    lab.call(client, "MULTI");
    lab.call(client, &format!("SET {a} 2"));
    assert_eq!(lab.call(client, "DISCARD"), "+OK\r\n");
    assert_eq!(lab.call(client, &format!("GET {a}")), "$4\r\nword\r\n");
    lab.call(client, "MULTI");
    assert_eq!(lab.call(client, "RESET"), "+RESET\r\n");
    assert_eq!(lab.call(client, &format!("GET {a}")), "$4\r\nword\r\n");
}

#[test]
fn who_watches_notices_every_write_of_others() {
    for cores in [1, 2, 3] {
        let writes = [
            "SET a 9",
            "DEL a",
            "INCR a",
            "EXPIRE a 100",
            "FLUSHALL",
            "RENAME a b",
            "RENAME b a",
            "COPY b a REPLACE",
            "MSET a 1 b 1",
            "GETDEL a",
            "PEXPIRE a 1",
        ];
        for write in writes {
            let (mut lab, keys) = lab(3, cores);
            let (client, other) = (lab.connect(0), lab.connect(cores - 1));
            let words: Vec<&str> = write
                .split(' ')
                .map(|word| match word {
                    "a" => keys[0].as_str(),
                    "b" => keys[1].as_str(),
                    word => word,
                })
                .collect();
            let (a, b) = (&keys[0], &keys[1]);
            lab.call(client, &format!("MSET {a} 1 {b} 2"));
            assert_eq!(lab.call(client, &format!("WATCH {a} {b}")), "+OK\r\n");
            lab.call(other, &words.join(" "));
            lab.pass_ms(5);
            lab.call(client, "MULTI");
            lab.call(client, &format!("SET {a} mine"));
            assert_eq!(lab.call(client, "EXEC"), "*-1\r\n", "{write} on {cores} cores");
            // It watches nothing any more.
            lab.call(other, &words.join(" "));
            lab.call(client, "MULTI");
            lab.call(client, &format!("SET {a} mine"));
            assert_eq!(lab.call(client, "EXEC"), "*1\r\n+OK\r\n", "{write} on {cores} cores");
            for engine in &lab.engines {
                assert!(engine.watched_keys() == 0 && engine.held_keys() == 0, "nothing stays behind");
            }
        }
    }
}

#[test]
fn who_watches_is_not_disturbed_by_anything_else() {
    let (mut lab, keys) = lab(4, 3);
    let (client, other) = (lab.connect(0), lab.connect(1));
    let (a, b) = (&keys[0], &keys[1]);
    for end in ["", "UNWATCH", "DISCARD"] {
        lab.call(client, &format!("WATCH {a} nosuch"));
        lab.call(other, &format!("SET {b} 9"));
        lab.call(other, &format!("GET {a}"));
        if end == "UNWATCH" {
            lab.call(client, end);
            lab.call(other, &format!("SET {a} 9"));
        }
        if end == "DISCARD" {
            lab.call(client, "MULTI");
            lab.call(client, end);
            lab.call(other, &format!("SET {a} 9"));
        }
        lab.call(client, "MULTI");
        lab.call(client, "PING");
        assert_eq!(lab.call(client, "EXEC"), "*1\r\n+PONG\r\n", "{end}");
    }
    // Nobody else's key is gone with a flush.
    lab.call(client, "WATCH nosuch");
    lab.call(other, "FLUSHALL");
    lab.call(client, "MULTI");
    assert_eq!(lab.call(client, "EXEC"), "*0\r\n");
    lab.call(client, &format!("WATCH {a}"));
    lab.disconnect(client);
    lab.settle();
    assert!(lab.engines.iter().all(|engine| engine.watched_keys() == 0));
}

// ---- histories ------------------------------------------------------------------------------------

pub type State = BTreeMap<String, String>;

/// What a client did, and when it was sent and answered.
#[derive(Clone, Debug)]
pub struct Done {
    /// Commands that took effect together.
    pub commands: Vec<Vec<String>>,
    pub answers: Vec<String>,
    pub sent: u64,
    /// The greatest number if it never was.
    pub answered: u64,
}

fn bulk(value: Option<&String>) -> String {
    value.map_or("$-1\r\n".into(), |value| format!("${}\r\n{value}\r\n", value.len()))
}

/// What the command answers in this state, and what becomes of the state.
fn model(state: &mut State, words: &[String]) -> String {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut set = |key: &str, value: &str| drop(state.insert(key.into(), value.into()));
    match words[..] {
        ["SET", key, value] => {
            set(key, value);
            "+OK\r\n".into()
        }
        ["GET", key] => bulk(state.get(key)),
        ["DEL", key] => format!(":{}\r\n", state.remove(key).is_some() as u8),
        ["MSET", a, x, b, y] => {
            set(a, x);
            set(b, y);
            "+OK\r\n".into()
        }
        ["MSETNX", a, x, b, y] => {
            let fresh = !state.contains_key(a) && !state.contains_key(b);
            if fresh {
                state.insert(a.into(), x.into());
                state.insert(b.into(), y.into());
            }
            format!(":{}\r\n", fresh as u8)
        }
        ["MGET", a, b] => format!("*2\r\n{}{}", bulk(state.get(a)), bulk(state.get(b))),
        ["RENAME", a, b] => match state.remove(a) {
            None => "-ERR no such key\r\n".into(),
            Some(value) => {
                state.insert(b.into(), value);
                "+OK\r\n".into()
            }
        },
        ["RENAMENX", a, b] => match (state.contains_key(a), state.contains_key(b)) {
            (false, _) => "-ERR no such key\r\n".into(),
            (true, true) => ":0\r\n".into(),
            (true, false) => {
                let value = state.remove(a).unwrap();
                state.insert(b.into(), value);
                ":1\r\n".into()
            }
        },
        ["COPY", a, b] => match (state.get(a).cloned(), state.contains_key(b)) {
            (Some(value), false) => {
                state.insert(b.into(), value);
                ":1\r\n".into()
            }
            _ => ":0\r\n".into(),
        },
        ["FLUSHALL"] => {
            state.clear();
            "+OK\r\n".into()
        }
        _ => panic!("{words:?}"),
    }
}

/// Whether some order explains the history.
fn is_explained(history: &[Done]) -> bool {
    leads_to(history, &State::new(), |_| true)
}

/// Whether some order explains the history from `first` on, and an end that is as it should be. What was never
/// answered may have happened or not.
pub fn leads_to(history: &[Done], first: &State, is_end: impl Fn(&State) -> bool) -> bool {
    fn search(
        history: &[Done],
        done: u64,
        state: &State,
        is_end: &impl Fn(&State) -> bool,
        seen: &mut BTreeSet<(u64, State)>,
    ) -> bool {
        let open = || (0..history.len()).filter(|at| done & 1 << at == 0);
        if open().all(|at| history[at].answered == u64::MAX) && is_end(state) {
            return true;
        }
        if !seen.insert((done, state.clone())) {
            return false;
        }
        // Whatever was answered before another was sent comes before it.
        let first_answer = open().map(|at| history[at].answered).min().unwrap_or(u64::MAX);
        for at in open().filter(|&at| history[at].sent <= first_answer) {
            let mut state = state.clone();
            let Done { commands, answers, answered, .. } = &history[at];
            let agrees = commands
                .iter()
                .enumerate()
                .map(|(place, words)| (place, model(&mut state, words)))
                .filter(|(place, answer)| *answered != u64::MAX && answers[*place] != *answer)
                .count()
                == 0;
            if agrees && search(history, done | 1 << at, &state, is_end, seen) {
                return true;
            }
        }
        false
    }
    search(history, 0, first, &is_end, &mut BTreeSet::new())
}

/// The replies in `bytes`, if they are whole; arrays are taken apart once.
pub fn replies(bytes: &[u8]) -> Option<Vec<String>> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let mut rest = text.as_str();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (reply, behind) = reply(rest)?;
        all.push(reply.to_string());
        rest = behind;
    }
    Some(all)
}

fn reply(text: &str) -> Option<(&str, &str)> {
    let line = text.find("\r\n")? + 2;
    let number = || text[1..line - 2].parse::<i64>().unwrap();
    let mut len = line;
    match text.as_bytes()[0] {
        b'$' if number() >= 0 => len += number() as usize + 2,
        b'*' => {
            for _ in 0..number().max(0) {
                let (_, behind) = reply(text.get(len..)?)?;
                len = text.len() - behind.len();
            }
        }
        _ => {}
    }
    (text.len() >= len).then(|| text.split_at(len))
}

/// What a client sends at once, and how many replies that brings.
pub struct Act {
    pub said: String,
    pub replies: usize,
    pub commands: Vec<Vec<String>>,
    /// Whether the commands stood between MULTI and EXEC.
    pub together: bool,
}

impl Act {
    /// What its commands were answered, out of all replies.
    pub fn answers(&self, heard: Vec<String>) -> Vec<String> {
        if !self.together {
            return heard;
        }
        let last = heard.last().unwrap();
        let inner = &last[last.find("\r\n").unwrap() + 2..];
        replies(inner.as_bytes()).unwrap()
    }
}

pub fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_string).collect()
}

pub fn act(random: &mut Random, keys: &[String], fresh: &mut u32) -> Act {
    let mut line = |random: &mut Random| {
        let (a, b) = (&keys[random.below(keys.len())], &keys[random.below(keys.len())]);
        *fresh += 1;
        let value = *fresh;
        match random.below(10) {
            0 | 1 => format!("SET {a} {value}"),
            2 => format!("DEL {a}"),
            3 if a != b => format!("MSET {a} {value} {b} {value}"),
            4 if a != b => format!("MSETNX {a} {value} {b} {value}"),
            5 if a != b => format!("RENAME {a} {b}"),
            6 if a != b => format!("RENAMENX {a} {b}"),
            7 if a != b => format!("COPY {a} {b}"),
            _ => format!("GET {a}"),
        }
    };
    match random.below(20) {
        0 => Act { said: "FLUSHALL\r\n".into(), replies: 1, commands: vec![words("FLUSHALL")], together: false },
        1..10 => {
            let mut lines: Vec<String> = (0..1 + random.below(3)).map(|_| line(random)).collect();
            // Within a transaction many keys are read at one moment.
            lines.push(format!("MGET {} {}", keys[0], keys[1]));
            Act {
                said: format!("MULTI\r\n{}\r\nEXEC\r\n", lines.join("\r\n")),
                replies: lines.len() + 2,
                commands: lines.iter().map(|line| words(line)).collect(),
                together: true,
            }
        }
        _ => {
            let line = line(random);
            Act { said: format!("{line}\r\n"), replies: 1, commands: vec![words(&line)], together: false }
        }
    }
}

#[test]
fn the_judge_finds_what_cannot_have_happened() {
    let done = |commands: &[&str], answers: &[&str], sent, answered| Done {
        commands: commands.iter().map(|line| words(line)).collect(),
        answers: answers.iter().map(|answer| answer.to_string()).collect(),
        sent,
        answered,
    };
    let write = done(&["MSET a 1 b 1"], &["+OK\r\n"], 0, 10);
    let half = done(&["MGET a b"], &["*2\r\n$1\r\n1\r\n$-1\r\n"], 1, 9);
    let whole = done(&["MGET a b"], &["*2\r\n$1\r\n1\r\n$1\r\n1\r\n"], 1, 9);
    let stale = done(&["GET a"], &["$-1\r\n"], 11, 12);
    assert!(is_explained(&[write.clone(), whole.clone()]));
    assert!(!is_explained(&[write.clone(), half]));
    assert!(!is_explained(&[write.clone(), stale]));
    let early = done(&["GET a"], &["$-1\r\n"], 1, 9);
    assert!(is_explained(&[write.clone(), early]));
    // Two readers cannot see two writes in two orders.
    let (x, y) = (done(&["SET a 1"], &["+OK\r\n"], 0, 20), done(&["SET b 1"], &["+OK\r\n"], 0, 20));
    let one = done(&["MGET a b"], &["*2\r\n$1\r\n1\r\n$-1\r\n"], 1, 9);
    let two = done(&["MGET a b"], &["*2\r\n$-1\r\n$1\r\n1\r\n"], 2, 8);
    assert!(is_explained(&[x.clone(), y.clone(), one.clone()]) && is_explained(&[x.clone(), y.clone(), two.clone()]));
    assert!(!is_explained(&[x, y, one, two]));
}

/// Clients at once on a few keys, boxes under way as chance wants, every bound tiny or not.
#[test]
fn what_clients_see_can_have_happened_one_after_the_other() {
    for seed in 0..400 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds { output_soft_bytes: 1 << 20, ..Bounds::random(&mut random) };
        let keys = keys(bounds.cores);
        let mut lab = Lab::new(random, &bounds);
        let clients: Vec<usize> = (0..4).map(|at| lab.connect(at % bounds.cores)).collect();
        let mut fresh = 0;
        let mut history: Vec<Done> = Vec::new();
        let mut under_way: Vec<Option<(Act, u64)>> = clients.iter().map(|_| None).collect();
        let mut left = 16;
        let mut clock = 0;
        loop {
            for (at, &client) in clients.iter().enumerate() {
                clock += 1;
                if let Some((act, sent)) = &under_way[at] {
                    let Some(heard) = replies(&lab.clients[client].received).filter(|heard| heard.len() == act.replies)
                    else {
                        continue;
                    };
                    lab.heard(client);
                    let answers = act.answers(heard);
                    assert_eq!(answers.len(), act.commands.len(), "{}", act.said);
                    history.push(Done { commands: act.commands.clone(), answers, sent: *sent, answered: clock });
                    under_way[at] = None;
                } else if left > 0 {
                    left -= 1;
                    let act = act(&mut lab.random, &keys, &mut fresh);
                    lab.send(client, act.said.as_bytes());
                    under_way[at] = Some((act, clock));
                }
            }
            if left == 0 && under_way.iter().all(Option::is_none) {
                break;
            }
            for _ in 0..lab.random.below(6) {
                lab.step();
            }
        }
        lab.settle();
        assert!(is_explained(&history), "no order explains it: {history:#?}");
        assert!(lab.engines.iter().all(|engine| engine.held_keys() == 0 && engine.is_quiet()));
    }
}

/// Counters that several clients count up by WATCH, GET, EXEC: no count is lost, whoever gives up tries again.
#[test]
fn optimistic_counting_loses_nothing() {
    for seed in 0..60 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds { output_soft_bytes: 1 << 20, ..Bounds::random(&mut random) };
        let keys = keys(bounds.cores);
        let (a, b) = (keys[0].clone(), keys[1].clone());
        let mut lab = Lab::new(random, &bounds);
        let clients: Vec<usize> = (0..3).map(|at| lab.connect(at % bounds.cores)).collect();
        let mut wanted = [4; 3];
        // 0: to begin; 1: has asked for the value; 2: has asked for EXEC.
        let mut stage = [0; 3];
        let mut tries = 0;
        while wanted.iter().sum::<i32>() > 0 {
            for (at, &client) in clients.iter().enumerate() {
                let heard = replies(&lab.clients[client].received).unwrap_or_default();
                match stage[at] {
                    0 if wanted[at] > 0 => {
                        tries += 1;
                        lab.send(client, format!("WATCH {a} {b}\r\nGET {a}\r\n").as_bytes());
                        stage[at] = 1;
                    }
                    1 if heard.len() == 2 => {
                        lab.heard(client);
                        let value = heard[1]
                            .split("\r\n")
                            .nth(1)
                            .filter(|value| !value.is_empty())
                            .map_or(0, |value| value.parse::<i64>().unwrap());
                        let next = value + 1;
                        lab.send(client, format!("MULTI\r\nSET {a} {next}\r\nSET {b} {next}\r\nEXEC\r\n").as_bytes());
                        stage[at] = 2;
                    }
                    2 if heard.len() == 4 => {
                        lab.heard(client);
                        wanted[at] -= (heard[3] != "*-1\r\n") as i32;
                        stage[at] = 0;
                    }
                    _ => {}
                }
            }
            for _ in 0..1 + lab.random.below(5) {
                lab.step();
            }
            assert!(tries < 2000, "nobody gets anywhere");
        }
        let ask = lab.connect(0);
        assert_eq!(lab.call(ask, &format!("GET {a}")), "$2\r\n12\r\n");
        assert_eq!(lab.call(ask, &format!("GET {b}")), "$2\r\n12\r\n");
    }
}
