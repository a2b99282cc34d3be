//! Who is told to fill in a key, who waits for that, and what becomes of both.

use super::lab::Lab;
use super::world::{Bounds, UNIX_MS};
use crate::engine::EngineConfig;
use crate::filling::FillBounds;
use crate::metrics::CoreCounters;
use crate::random::{Announced, Random};

fn lab(seed: u64, cores: usize) -> Lab {
    Lab::new(Random::new(seed), &Bounds { cores, ..Bounds::default() })
}

/// The token of a client that is told to fill in a key, and what stands behind it.
fn told(reply: &str) -> (String, &str) {
    let rest = ["*2\r\n", "*3\r\n"].iter().find_map(|count| reply.strip_prefix(count));
    let rest = rest.and_then(|rest| rest.strip_prefix("$4\r\nFILL\r\n$16\r\n"));
    let rest = rest.unwrap_or_else(|| panic!("not told to fill in anything: {reply:?}"));
    (rest[..16].to_owned(), &rest[18..])
}

fn heard(lab: &mut Lab, client: usize) -> String {
    lab.settle();
    String::from_utf8(lab.heard(client)).unwrap()
}

fn nothing_is_left(lab: &Lab) {
    for engine in &lab.engines {
        assert_eq!(engine.filled_keys(), (0, 0));
        assert!(engine.is_quiet());
    }
}

const NIL: &str = "$-1\r\n";

#[test]
fn one_fills_and_all_others_get_what_it_has_found() {
    for seed in 0..20 {
        let _announced = Announced(seed);
        let mut lab = lab(seed, 3);
        // Whichever core the key is on: clients of all.
        let clients: Vec<usize> = (0..7).map(|client| lab.connect(client % 3)).collect();
        for key in ["a", "b", "c", "d"] {
            let reply = lab.call(clients[0], &format!("GET {key} FILL 1000"));
            let (token, rest) = told(&reply);
            assert_eq!(rest, "");
            for &client in &clients[1..6] {
                assert_eq!(lab.call(client, &format!("getfill {key} 1000")), "");
            }
            // Nobody else is held up.
            assert_eq!(lab.call(clients[6], &format!("GET {key}")), NIL);
            assert_eq!(lab.call(clients[6], &format!("SET {key} wrong FILL 0123456789abcdef")), NIL);
            assert_eq!(lab.call(clients[0], &format!("SET {key} value FILL {token}")), "+OK\r\n");
            for &client in &clients[1..6] {
                assert_eq!(heard(&mut lab, client), "$5\r\nvalue\r\n");
            }
            assert_eq!(lab.call(clients[6], &format!("GET {key} FILL 1000")), "$5\r\nvalue\r\n");
            assert_eq!(lab.call(clients[0], &format!("SET {key} again FILL {token}")), NIL, "for one flight");
            nothing_is_left(&lab);
        }
    }
}

#[test]
fn the_next_is_told_when_the_first_is_gone_late_or_begins_anew() {
    for seed in 0..20 {
        let _announced = Announced(seed);
        let mut lab = lab(seed, 2);
        let clients: Vec<usize> = (0..5).map(|client| lab.connect(client % 2)).collect();
        let (first, _) = told(&lab.call(clients[0], "GET k FILL 100"));
        for &client in &clients[1..] {
            assert_eq!(lab.call(client, "GET k FILL 1000"), "");
        }
        lab.disconnect(clients[0]);
        let (second, _) = told(&heard(&mut lab, clients[1]));
        assert_eq!(lab.call(clients[1], "RESET"), "+RESET\r\n");
        let (third, _) = told(&heard(&mut lab, clients[2]));
        lab.pass_ms(999);
        assert_eq!(heard(&mut lab, clients[3]), "");
        // The third had 1000 ms from when it was told, and the others have waited for as long: nobody is left to tell.
        lab.pass_ms(1);
        assert_eq!(heard(&mut lab, clients[3]) + &heard(&mut lab, clients[4]), NIL.repeat(2));
        let sum =
            |count: fn(&CoreCounters) -> u64| lab.engines.iter().map(|engine| count(&engine.counters)).sum::<u64>();
        assert_eq!((sum(|it| it.fills_told), sum(|it| it.fills_handed_over)), (3, 2));
        assert_eq!((sum(|it| it.fills_waited), sum(|it| it.fills_timed_out)), (4, 2));
        assert!(first != second && second != third);
        assert_eq!(lab.call(clients[2], &format!("SET k late FILL {third}")), NIL);
        nothing_is_left(&lab);
    }
}

#[test]
fn a_late_filler_hands_over_while_somebody_still_waits() {
    for cores in [1, 3] {
        let mut lab = lab(3, cores);
        let (one, two) = (lab.connect(0), lab.connect(cores - 1));
        let (first, _) = told(&lab.call(one, "GET k FILL 100"));
        lab.pass_ms(50);
        assert_eq!(lab.call(two, "GET k FILL 100"), "");
        assert_eq!(
            lab.engines.iter().filter_map(|engine| engine.wakes_at_us()).min(),
            Some(lab.now.uptime_us + 50_000)
        );
        lab.pass_ms(50);
        let (second, _) = told(&heard(&mut lab, two));
        assert_eq!(lab.call(one, &format!("SET k old FILL {first}")), NIL);
        assert_eq!(lab.call(two, &format!("SET k new FILL {second}")), "+OK\r\n");
        assert_eq!(lab.call(one, "GET k"), "$3\r\nnew\r\n");
        nothing_is_left(&lab);
    }
}

#[test]
fn any_write_ends_the_wait_and_a_removal_makes_the_token_worthless() {
    let mut lab = lab(4, 2);
    let (one, two, three) = (lab.connect(0), lab.connect(1), lab.connect(0));
    let (token, _) = told(&lab.call(one, "GET k FILL 1000"));
    assert_eq!(lab.call(two, "GET k FILL 1000"), "");
    assert_eq!(lab.call(three, "INCR k"), ":1\r\n");
    assert_eq!(heard(&mut lab, two), "$1\r\n1\r\n");
    assert_eq!(lab.call(one, &format!("SET k 5 FILL {token}")), NIL);
    assert_eq!(lab.call(three, "DEL k"), ":1\r\n");
    // What was read before the DEL may be what it removed, though the key was not there.
    let (token, _) = told(&lab.call(one, "GET k FILL 1000"));
    assert_eq!(lab.call(two, "GET k FILL 1000"), "");
    assert_eq!(lab.call(three, "DEL x k y"), ":0\r\n");
    let (fresh, _) = told(&heard(&mut lab, two));
    assert_eq!(lab.call(one, &format!("SET k old FILL {token}")), NIL);
    assert_eq!(lab.call(two, &format!("SET k new FILL {fresh}")), "+OK\r\n");
    assert_eq!(lab.call(three, "DEL k"), ":1\r\n");
    let (token, _) = told(&lab.call(one, "GET k FILL 1000"));
    assert_eq!(lab.call(three, "FLUSHALL"), "+OK\r\n");
    assert_eq!(lab.call(one, &format!("SET k old FILL {token}")), NIL);
    nothing_is_left(&lab);
}

#[test]
fn a_stale_value_is_shown_while_one_fills_it_in_again() {
    for cores in [1, 3] {
        let mut lab = lab(5, cores);
        let (one, two) = (lab.connect(0), lab.connect(cores - 1));
        assert_eq!(lab.call(one, "SET k old PX 1000"), "+OK\r\n");
        assert_eq!(lab.call(one, "GET k FILL 500 STALE 300"), "$3\r\nold\r\n");
        lab.pass_ms(700);
        let reply = lab.call(one, "GET k FILL 500 STALE 300");
        let (token, rest) = told(&reply);
        assert!(reply.starts_with("*3") && rest == "$3\r\nold\r\n", "{reply}");
        assert_eq!(lab.call(two, "GET k FILL 500 STALE 300"), "$3\r\nold\r\n", "nobody waits for what is there");
        assert_eq!(lab.call(two, "GET k FILL 500"), "$3\r\nold\r\n");
        // It expires, and the others wait after all; the token is worth what it was.
        lab.pass_ms(301);
        assert_eq!(lab.call(two, "GET k FILL 500 STALE 300"), "");
        assert_eq!(lab.call(one, &format!("SET k new FILL {token}")), "+OK\r\n");
        assert_eq!(heard(&mut lab, two), "$3\r\nnew\r\n");
        assert_eq!(lab.call(two, "GET k FILL 500 STALE 300"), "$3\r\nnew\r\n", "without an end nothing is stale");
        nothing_is_left(&lab);
        assert!(lab.now.unix_ms > UNIX_MS);
    }
}

#[test]
fn what_comes_behind_a_wait_on_the_same_connection_waits_too() {
    for (seed, cores) in (0..30).map(|seed| (seed, 1 + seed as usize % 3)) {
        let _announced = Announced(seed);
        let mut lab = lab(seed, cores);
        let (one, two) = (lab.connect(0), lab.connect(cores - 1));
        let (token, _) = told(&lab.call(one, "GET k FILL 1000"));
        lab.call(two, "SET other before");
        assert_eq!(lab.call(two, "GET k FILL 1000\r\nGET other\r\nSET k mine\r\nGET k\r\nMGET k other\r\nPING"), "");
        assert_eq!(lab.call(one, "SET other after"), "+OK\r\n");
        assert_eq!(lab.call(one, &format!("SET k value FILL {token}")), "+OK\r\n");
        let expected =
            "$5\r\nvalue\r\n$5\r\nafter\r\n+OK\r\n$4\r\nmine\r\n*2\r\n$4\r\nmine\r\n$5\r\nafter\r\n+PONG\r\n";
        assert_eq!(heard(&mut lab, two), expected);
        // Who fills in a key itself does not wait for it, so that one connection may serve many.
        let (token, _) = told(&lab.call(one, "GET x FILL 1000"));
        let again = lab.call(one, "GET x FILL 1000\r\nPING");
        assert!(again.ends_with("+PONG\r\n"));
        assert_eq!(told(&again).0, token);
        assert_eq!(lab.call(one, &format!("SET x 1 FILL {token}")), "+OK\r\n");
        nothing_is_left(&lab);
    }
}

#[test]
fn who_waits_can_be_unblocked_killed_and_seen() {
    for cores in [1, 3] {
        let mut lab = lab(7, cores);
        let (one, two, three) = (lab.connect(0), lab.connect(cores - 1), lab.connect(cores / 2));
        let id = |lab: &mut Lab, client| lab.call(client, "CLIENT ID")[1..].trim().to_owned();
        let (two_id, three_id) = (id(&mut lab, two), id(&mut lab, three));
        let (token, _) = told(&lab.call(one, "GET k FILL 1000"));
        assert_eq!(lab.call(two, "GET k FILL 1000") + &lab.call(three, "GET k FILL 1000"), "");
        let list = lab.call(one, "CLIENT LIST");
        let line = list.lines().find(|line| line.contains(&format!("id={two_id} "))).unwrap();
        assert!(line.contains(" flags=b ") && line.contains(" cmd=getfill "), "{line}");
        assert_eq!(lab.call(one, &format!("CLIENT UNBLOCK {two_id}")), ":1\r\n");
        assert_eq!(heard(&mut lab, two), NIL);
        assert_eq!(lab.call(one, &format!("CLIENT UNBLOCK {two_id}")), ":0\r\n");
        assert_eq!(lab.call(two, "GET k FILL 1000"), "");
        assert_eq!(lab.call(one, &format!("CLIENT UNBLOCK {two_id} ERROR")), ":1\r\n");
        assert_eq!(heard(&mut lab, two), "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
        assert_eq!(lab.call(one, &format!("CLIENT KILL ID {three_id}")), ":1\r\n");
        lab.settle();
        assert_eq!(lab.engines.iter().map(|engine| engine.filled_keys().1).sum::<usize>(), 0);
        assert_eq!(lab.call(one, &format!("SET k value FILL {token}")), "+OK\r\n");
        nothing_is_left(&lab);
    }
}

#[test]
fn nobody_waits_within_a_transaction_and_a_transaction_is_waited_for() {
    for (seed, cores) in (0..30).map(|seed| (seed, 1 + seed as usize % 3)) {
        let _announced = Announced(seed);
        let mut lab = lab(seed, cores);
        let (one, two) = (lab.connect(0), lab.connect(cores - 1));
        assert_eq!(
            lab.call(one, "MULTI\r\nGET k FILL 10\r\nGET k a b\r\nEXEC"),
            "+OK\r\n-ERR GET with FILL cannot be part of a transaction\r\n\
             -ERR wrong number of arguments for 'get' command\r\n\
             -EXECABORT Transaction discarded because of previous errors.\r\n"
        );
        // The waiter sees all of the transaction, not what the key was in between.
        let (token, _) = told(&lab.call(one, "GET k FILL 1000"));
        assert_eq!(lab.call(two, "GET k FILL 1000"), "");
        let transaction = format!("MULTI\r\nSET k 1 FILL {token}\r\nSET far 1\r\nINCR k\r\nEXEC");
        let done = lab.call(one, &transaction);
        assert!(done.ends_with("*3\r\n+OK\r\n+OK\r\n:2\r\n"), "{done}");
        assert_eq!(heard(&mut lab, two), "$1\r\n2\r\n");
        nothing_is_left(&lab);
    }
}

#[test]
fn full_is_answered_at_once_and_words_that_are_wrong_too() {
    let fills = FillBounds { keys_max: 1, waiters_max: 10, waiters_per_key_max: 1, ..FillBounds::default() };
    let bounds = Bounds { cores: 1, ..Bounds::default() };
    let mut lab = Lab::changed(Random::new(9), &bounds, |config| EngineConfig { fills, ..config });
    let clients: Vec<usize> = (0..3).map(|_| lab.connect(0)).collect();
    let (token, _) = told(&lab.call(clients[0], "GET k FILL 1000"));
    assert_eq!(lab.call(clients[0], "GET x FILL 1000"), NIL);
    assert_eq!(lab.call(clients[1], "GET k FILL 1000"), "");
    assert_eq!(lab.call(clients[2], "GET k FILL 1000"), NIL);
    assert_eq!(lab.engines[0].counters.fills_refused, 2);
    for (line, error) in [
        ("GET k FILL 0", "ERR FILL takes 1 to 600000 milliseconds"),
        ("GET k FILL 600001", "ERR FILL takes 1 to 600000 milliseconds"),
        ("GET k FILL soon", "ERR value is not an integer or out of range"),
        ("GET k FILL 10 STALE -1", "ERR STALE takes no negative time"),
        ("GET k FILL 10 OTHER 1", "ERR syntax error"),
        ("GET k x 10", "ERR wrong number of arguments for 'get' command"),
        ("GET k x", "ERR wrong number of arguments for 'get' command"),
        ("GETFILL k FILL", "ERR syntax error"),
        ("SET k v FILL", "ERR syntax error"),
        ("SET k v NX FILL 0123456789abcdef", "ERR syntax error"),
    ] {
        assert_eq!(lab.call(clients[2], line), format!("-{error}\r\n"), "{line}");
    }
    assert_eq!(lab.call(clients[0], &format!("SET k v EX 10 FILL {token}")), "+OK\r\n");
    assert_eq!(heard(&mut lab, clients[1]), "$1\r\nv\r\n");
    nothing_is_left(&lab);
}
