//! What clients may hold and how long they may take, with a clock that is moved: who holds most goes first, whoever sends
//! byte by byte goes in time, and nobody else is bothered.

use std::sync::Arc;

use super::lab::Lab;
use super::world::Bounds;
use crate::auth::{Access, OpSet, Token};
use crate::engine::settings::Live;
use crate::limits;
use crate::random::Random;
use crate::ratelimit::{Limits, Rate};

const MIB: u64 = 1 << 20;

fn lab(live: Live) -> Lab {
    Lab::with(Random::new(3), &Bounds { cores: 2, ..Bounds::default() }, live)
}

/// The beginning of a command: so many kilobytes, and more to come.
fn unfinished(kilobytes: usize) -> Vec<u8> {
    let mut bytes = b"*1000\r\n$4\r\nMGET\r\n".to_vec();
    for _ in 0..kilobytes {
        bytes.extend_from_slice(b"$1000\r\n");
        bytes.extend(std::iter::repeat_n(b'k', 1000));
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn let_pass(lab: &mut Lab, seconds: u64) {
    for _ in 0..seconds * 20 {
        lab.pass_ms(50);
        lab.settle();
    }
}

fn is_open(lab: &Lab, client: usize) -> bool {
    !lab.clients[client].is_closed
}

fn closed_by_memory(lab: &Lab) -> u64 {
    lab.engines.iter().map(|engine| engine.counters.connections_closed_by_memory).sum()
}

#[test]
fn whoever_holds_most_goes_first_wherever_he_is() {
    let mut lab = lab(Live::default());
    let held = |lab: &Lab| lab.engines.iter().map(|engine| engine.held_by_clients()).sum::<u64>();
    lab.commons.held.set_bytes_max(4 * MIB);
    let small: Vec<usize> = (0..4).map(|at| lab.connect(at % 2)).collect();
    let (large, larger) = (lab.connect(0), lab.connect(1));
    for &client in &small {
        lab.send(client, &unfinished(50));
    }
    lab.send(large, &unfinished(300));
    lab.send(larger, &unfinished(700));
    let_pass(&mut lab, 1);
    lab.commons.held.set_bytes_max(held(&lab) + 20_000);
    let_pass(&mut lab, 1);
    assert!((0..lab.clients.len()).all(|client| is_open(&lab, client)), "there is room for all");
    // It is a small one that goes too far, and another that pays for it.
    lab.send(small[0], &unfinished(60)[17..]);
    let_pass(&mut lab, 1);
    assert!(!is_open(&lab, larger) && is_open(&lab, large) && small.iter().all(|&client| is_open(&lab, client)));
    assert_eq!(closed_by_memory(&lab), 1);
    // What is finished is not held any more.
    for &client in &small[1..] {
        lab.disconnect(client);
    }
    let_pass(&mut lab, 1);
    lab.commons.held.set_bytes_max(held(&lab) + 100_000);
    lab.send(small[0], &unfinished(800)[17..]);
    let_pass(&mut lab, 1);
    assert!(!is_open(&lab, small[0]) && is_open(&lab, large));
    lab.disconnect(large);
    assert_eq!(held(&lab), 0);
}

#[test]
fn replies_that_nobody_reads_count_and_who_is_not_to_be_evicted_stays() {
    let mut lab = lab(Live::default());
    let value = "v".repeat(20_000);
    let (reader, deaf, precious) = (lab.connect(0), lab.connect(0), lab.connect(1));
    assert_eq!(lab.call(reader, &format!("SET key {value}")), "+OK\r\n");
    assert_eq!(lab.call(precious, "CLIENT NO-EVICT ON"), "+OK\r\n");
    // Less than what both have asked for, and more than one of them has.
    lab.commons.held.set_bytes_max(250_000);
    for client in [deaf, precious] {
        lab.clients[client].reads = false;
        lab.send(client, &b"GET key\r\n".repeat(if client == deaf { 7 } else { 8 }));
    }
    let_pass(&mut lab, 1);
    assert!(!is_open(&lab, deaf) && is_open(&lab, precious) && is_open(&lab, reader));
    assert_eq!(lab.call(reader, "PING"), "+PONG\r\n");
    // A transaction that is being queued counts, too.
    lab.disconnect(precious);
    lab.call(reader, "MULTI");
    for _ in 0..80 {
        lab.send(reader, format!("SET key {value}\r\n").as_bytes());
    }
    let_pass(&mut lab, 1);
    assert!(!is_open(&lab, reader));
    assert_eq!(closed_by_memory(&lab), 2);
}

#[test]
fn a_request_that_comes_byte_by_byte_ends_its_connection_in_every_protocol() {
    let mut lab = lab(Live { request_timeout_ms: 5_000, ..Live::default() });
    let requests: [&[u8]; 4] = [
        b"*2\r\n$3\r\nGET\r\n$20\r\nkkkkkkkkkkkkkkkkkkkk\r\n",
        b"GET a-key-that-is-spelt-out\r\n",
        b"\xcb\x01\x20\x00\x00\x00\x10\x00\x1c\x00kkkkkkkkkkkkkkkkkkkkkkkkkkkk",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nvvvvvvvvvvvvvvvvvvvvvvvvvvvvv",
    ];
    let slow: Vec<usize> = (0..requests.len()).map(|at| lab.connect(at % 2)).collect();
    let busy = lab.connect(0);
    for second in 0..20 {
        for (&client, request) in slow.iter().zip(requests) {
            if is_open(&lab, client) {
                lab.send(client, &request[second..=second]);
            }
        }
        // It has always begun something, but never the same.
        lab.send(busy, if second == 0 { b"*1\r\n$4\r\nPING\r\n*1\r\n$4" } else { b"\r\nPING\r\n*1\r\n$4" });
        let_pass(&mut lab, 1);
        if second == 3 {
            assert!(slow.iter().all(|&client| is_open(&lab, client)), "they have time");
        }
    }
    assert!(slow.iter().all(|&client| !is_open(&lab, client)));
    assert!(is_open(&lab, busy));
    assert_eq!(lab.heard(busy), b"+PONG\r\n".repeat(20));
    assert_eq!(lab.engines.iter().map(|engine| engine.counters.connections_closed_by_deadline).sum::<u64>(), 4);
}

#[test]
fn a_large_value_may_take_as_long_as_it_comes_at_a_decent_pace() {
    let mut lab = lab(Live { request_timeout_ms: 2_000, ..Live::default() });
    let (client, slower) = (lab.connect(0), lab.connect(1));
    let pace = limits::REQUEST_BYTES_PER_SECOND_MIN as usize;
    for client in [client, slower] {
        lab.send(client, format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", 4 * pace).as_bytes());
    }
    for _ in 0..4 {
        lab.send(client, &vec![b'v'; pace]);
        if is_open(&lab, slower) {
            lab.send(slower, &vec![b'v'; pace / 10]);
        }
        let_pass(&mut lab, 1);
    }
    assert!(!is_open(&lab, slower));
    lab.send(client, b"\r\n");
    let_pass(&mut lab, 1);
    assert_eq!(lab.heard(client), b"+OK\r\n");
}

#[test]
fn who_does_not_say_who_he_is_has_ten_seconds() {
    let access = Access::new(vec![Token::unlimited("default", Some(b"a secret"))], OpSet::none()).unwrap();
    let mut lab = lab(Live { access: Arc::new(access), ..Live::default() });
    let (silent, talks, binary) = (lab.connect(0), lab.connect(1), lab.connect(0));
    assert_eq!(lab.call(talks, "GET a"), "-NOAUTH Authentication required.\r\n");
    // AUTH as a binary frame: a command by its name.
    let auth = b"\xcb\x01\x14\x00\x00\x00\x60\x00\x02\x00\x04\x00\x00\x00AUTH\x08\x00\x00\x00a secret";
    let frame_len = (auth.len() - 6) as u8;
    let mut auth = auth.to_vec();
    auth[2] = frame_len;
    lab.send(binary, &auth);
    lab.settle();
    assert_eq!(lab.heard(binary), [0x00], "the binary OK");
    let_pass(&mut lab, 8);
    assert!(is_open(&lab, silent) && is_open(&lab, talks));
    assert_eq!(lab.call(talks, "PING"), "-NOAUTH Authentication required.\r\n");
    let_pass(&mut lab, 4);
    assert!(!is_open(&lab, silent) && !is_open(&lab, talks), "answers to what they may not are no excuse");
    assert!(is_open(&lab, binary));
}

#[test]
fn an_address_that_guesses_has_to_wait_on_every_core() {
    let access = Access::new(vec![Token::unlimited("default", Some(b"a secret"))], OpSet::none()).unwrap();
    let mut lab = lab(Live { access: Arc::new(access), ..Live::default() });
    let clients = [lab.connect(0), lab.connect(1)];
    let mut wait_ms = 0;
    for round in 0..6 {
        let [guesses, waits] = if round % 2 == 0 { clients } else { [clients[1], clients[0]] };
        assert!(lab.call(guesses, "AUTH wrong").starts_with("-WRONGPASS invalid"), "round {round}");
        let refused = lab.call(waits, "AUTH wrong-too");
        let told: u64 = refused.split(' ').rev().nth(1).and_then(|number| number.parse().ok()).expect(&refused);
        assert!(refused.contains("retry in") && told > wait_ms, "round {round}: {refused} after {wait_ms}");
        wait_ms = told;
        lab.pass_ms(told);
    }
    let right = b"*2\r\n$4\r\nAUTH\r\n$8\r\na secret\r\n";
    lab.send(clients[0], right);
    lab.settle();
    assert_eq!(lab.heard(clients[0]), b"+OK\r\n");
}

fn per_second(per_second: u64) -> Rate {
    Rate { per_second, burst: per_second }
}

/// How many of the replies refuse because of a rate.
fn refusals(replies: &[u8]) -> usize {
    String::from_utf8_lossy(replies).matches("-RATELIMITED retry in ").count()
}

#[test]
fn a_connection_and_an_address_may_only_do_so_much() {
    let limits =
        Limits { connection_commands: per_second(100), address_commands: per_second(150), ..Limits::default() };
    let mut lab = lab(Live { limits, ..Live::default() });
    let clients = [lab.connect(0), lab.connect(1)];
    let mut answered = [0, 0];
    for _ in 0..10 {
        for (at, &client) in clients.iter().enumerate() {
            lab.send(client, &b"PING\r\n".repeat(80));
            lab.settle();
            let heard = lab.heard(client);
            answered[at] += 80 - refusals(&heard);
            assert_eq!(heard.iter().filter(|byte| **byte == b'\n').count(), 80, "every command has its answer");
        }
        lab.pass_ms(500);
    }
    // A second's worth at once and five seconds of it; by the address less than by both connections.
    let all = answered[0] + answered[1];
    assert!((800..=150 + 5 * 150).contains(&all), "{answered:?}");
    assert!(answered.iter().all(|&count| (200..=600).contains(&count)), "{answered:?}");
    let refused: u64 = lab.engines.iter().map(|engine| engine.counters.commands_rate_limited).sum();
    assert_eq!(refused as usize, 1600 - all);
    // Whoever has to wait may still go.
    lab.send(clients[0], &b"PING\r\n".repeat(200));
    lab.send(clients[0], b"QUIT\r\n");
    lab.settle();
    assert!(lab.heard(clients[0]).ends_with(b"+OK\r\n") && !is_open(&lab, clients[0]));
}

#[test]
fn bytes_are_limited_whichever_way_they_go() {
    let limits = Limits { connection_bytes: per_second(10_000), ..Limits::default() };
    let mut lab = lab(Live { limits, ..Live::default() });
    let client = lab.connect(0);
    let value = "v".repeat(8_000);
    assert_eq!(lab.call(client, &format!("SET key {value}")), "+OK\r\n");
    assert!(lab.call(client, "GET key").starts_with("$8000"));
    let refused = lab.call(client, "GET key");
    assert!(refused.starts_with("-RATELIMITED retry in "), "{refused}");
    lab.pass_ms(1_000);
    assert!(lab.call(client, "GET key").starts_with("$8000"));
}

#[test]
fn commands_that_are_delayed_are_all_answered_in_order() {
    let limits = Limits { connection_commands: per_second(50), delays: true, ..Limits::default() };
    let mut lab = lab(Live { limits, ..Live::default() });
    let (slow, other) = (lab.connect(0), lab.connect(0));
    let mut input = Vec::new();
    for number in 0..200 {
        input.extend(format!("ECHO {number}\r\n").bytes());
    }
    input.extend(b"MULTI\r\nSET a 1\r\nGET a\r\nEXEC\r\n");
    lab.send(slow, &input);
    lab.settle();
    let first = lab.heard(slow);
    assert!(first.ends_with(b"$2\r\n49\r\n"), "the burst: {}", String::from_utf8_lossy(&first));
    assert_eq!(lab.call(other, "PING"), "+PONG\r\n", "nobody else waits");
    let mut seconds_tenths = 0;
    let mut rest = Vec::new();
    while !rest.ends_with(b"*2\r\n+OK\r\n$1\r\n1\r\n") {
        lab.pass_ms(100);
        lab.settle();
        rest.extend(lab.heard(slow));
        seconds_tenths += 1;
        assert!(seconds_tenths < 60, "it never ends: {}", String::from_utf8_lossy(&rest));
    }
    assert!((29..=40).contains(&seconds_tenths), "154 commands at 50 a second took {seconds_tenths} tenths");
    let expected: Vec<u8> = (50..200)
        .flat_map(|number: u32| format!("${}\r\n{number}\r\n", number.to_string().len()).into_bytes())
        .collect();
    assert!(rest.starts_with(&expected));
    let delayed: u64 = lab.engines.iter().map(|engine| engine.counters.commands_delayed).sum();
    assert!(delayed > 10);
    // Whoever goes away while he waits leaves nothing behind.
    lab.send(other, &b"PING\r\n".repeat(100));
    lab.settle();
    lab.disconnect(other);
    let_pass(&mut lab, 5);
    assert!(lab.engines.iter().all(|engine| !engine.has_delays()));
}

#[test]
fn newcomers_of_one_address_are_bounded_until_they_say_who_they_are() {
    let access = Access::new(vec![Token::unlimited("default", Some(b"a secret"))], OpSet::none()).unwrap();
    let limits = Limits { newcomers_max: 3, ..Limits::default() };
    let mut lab = lab(Live { access: Arc::new(access), limits, ..Live::default() });
    let first: Vec<usize> = (0..3).map(|at| lab.connect(at % 2)).collect();
    let refused = lab.connect(0);
    lab.settle();
    assert!(!is_open(&lab, refused) && first.iter().all(|&client| is_open(&lab, client)));
    lab.send(first[0], b"*2\r\n$4\r\nAUTH\r\n$8\r\na secret\r\n");
    lab.settle();
    lab.disconnect(first[1]);
    let later: Vec<usize> = (0..3).map(|at| lab.connect(at % 2)).collect();
    lab.settle();
    assert_eq!(later.iter().map(|&client| is_open(&lab, client)).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(lab.engines.iter().map(|engine| engine.counters.connections_refused_by_rate).sum::<u64>(), 2);
}

/// Two commands at once, one per second, and as many kilobytes.
const SLOW: Rate = Rate { per_second: 1, burst: 2 };
const NARROW: Rate = Rate { per_second: 1000, burst: 1000 };

fn token(name: &str, commands: Rate, bytes: Rate) -> Token {
    Token { commands, bytes, ..Token::unlimited(name, Some(format!("{name}-secret").as_bytes())) }
}

fn is_limited(reply: &str) -> bool {
    reply.starts_with("-RATELIMITED retry in ")
}

#[test]
fn whoever_resets_his_connection_or_says_again_who_he_is_has_no_more_than_before() {
    let unlimited = Limits::default();
    let access = Access::new(vec![token("slow", SLOW, Rate::default())], OpSet::none()).unwrap();
    for live in [
        Live { limits: Limits { connection_commands: SLOW, ..unlimited }, ..Live::default() },
        Live { limits: Limits { address_commands: SLOW, ..unlimited }, ..Live::default() },
        Live { access: Arc::new(access), ..Live::default() },
    ] {
        let has_token = live.access.is_required();
        let mut lab = lab(live);
        let client = lab.connect(0);
        let begin = |lab: &mut Lab| {
            if has_token {
                assert_eq!(lab.call(client, "AUTH slow-secret"), "+OK\r\n");
            }
        };
        begin(&mut lab);
        assert_eq!((lab.call(client, "GET a"), lab.call(client, "GET a")), ("$-1\r\n".into(), "$-1\r\n".into()));
        for _ in 0..5 {
            assert!(is_limited(&lab.call(client, "GET a")));
            assert_eq!(lab.call(client, "RESET"), "+RESET\r\n");
            begin(&mut lab);
        }
        lab.pass_ms(1000);
        assert_eq!(lab.call(client, "GET a"), "$-1\r\n");
        assert!(is_limited(&lab.call(client, "GET a")));
    }
}

/// AUTH between any two commands moved as many bytes as anybody liked.
#[test]
fn what_has_been_moved_is_charged_to_whoever_moved_it() {
    let tokens = vec![
        token("free", Rate::default(), Rate::default()),
        token("narrow", Rate::default(), NARROW),
        token("other", Rate::default(), NARROW),
    ];
    let access = Arc::new(Access::new(tokens, OpSet::none()).unwrap());
    for again in
        [&["AUTH narrow-secret"][..], &["RESET", "AUTH narrow-secret"], &["AUTH other-secret", "AUTH narrow-secret"]]
    {
        let mut lab = lab(Live { access: access.clone(), ..Live::default() });
        let client = lab.connect(1);
        lab.call(client, "AUTH free-secret");
        assert_eq!(lab.call(client, &format!("SET key {}", "v".repeat(5000))), "+OK\r\n");
        lab.call(client, "AUTH narrow-secret");
        assert!(lab.call(client, "GET key").starts_with("$5000"), "what another has moved is not his");
        for word in again {
            assert!(lab.call(client, word).starts_with('+'), "{word}");
        }
        assert!(is_limited(&lab.call(client, "GET key")), "{again:?}");
        assert!(lab.call(client, "AUTH other-secret").starts_with('+'));
        assert!(lab.call(client, "GET key").starts_with("$5000"), "{again:?}");
        // In the end it is paid.
        lab.call(client, "AUTH narrow-secret");
        let_pass(&mut lab, 10);
        assert!(lab.call(client, "GET key").starts_with("$5000"));
    }
}
