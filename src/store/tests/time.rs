//! What time does to keys: how long they were idle, and expiries far away.

use super::*;
use crate::command::lookup_subcommand;

const SECOND_MS: u64 = 1_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const START_MS: u64 = 1_800_000_000_000;

/// Ticks as they come: until there is nothing to do.
fn tick(shard: &mut Shard, now_ms: u64) {
    while shard.tick(Now::at_ms(now_ms), 4096, &mut ()) >= 4096 {}
}

fn idle_seconds(shard: &mut Shard, key: &str, now_ms: u64) -> i64 {
    let object = lookup(b"OBJECT").expect("a command");
    let spec = lookup_subcommand(object, b"IDLETIME").expect("a subcommand");
    let ranges = [ArgRange::inline(0, key.len())];
    let hash = shard.keyspace.hasher.hash(key.as_bytes());
    let args = Args::new(key.as_bytes(), &ranges, &[]);
    match shard.apply(&Call { spec, args, hash }, Now::at_ms(now_ms), &mut ()) {
        Reply::Int(seconds) => seconds,
        other => panic!("{}", shown(other)),
    }
}

#[test]
fn keys_that_are_read_are_not_idle_and_others_are_for_as_long_as_they_are() {
    let mut shard = shard();
    tick(&mut shard, START_MS);
    for key in ["read", "written", "looked at", "left"] {
        run(&mut shard, &[b"SET", key.as_bytes(), b"v"], Now::at_ms(START_MS), &mut ());
    }
    for number in 0..5_000 {
        run(&mut shard, &[b"SET", format!("other:{number}").as_bytes(), b"v"], Now::at_ms(START_MS), &mut ());
    }
    let mut now_ms = START_MS;
    for (idle_ms, tolerance) in [(60 * SECOND_MS, 17), (HOUR_MS / 4, 17), (2 * HOUR_MS, 7_200), (DAY_MS, 86_400)] {
        while now_ms < START_MS + idle_ms {
            now_ms += 10 * SECOND_MS;
            tick(&mut shard, now_ms);
        }
        let now = Now::at_ms(now_ms);
        run(&mut shard, &[b"GET", b"read"], now, &mut ());
        run(&mut shard, &[b"SET", b"written", b"another"], now, &mut ());
        run(&mut shard, &[b"SET", b"other:7", &[b'x'; 500]], now, &mut ());
        for key in ["read", "written", "other:7"] {
            assert_eq!(idle_seconds(&mut shard, key, now_ms), 0, "{key}");
        }
        let real = ((now_ms - START_MS) / 1000) as i64;
        for key in ["looked at", "left", "other:4999"] {
            let said = idle_seconds(&mut shard, key, now_ms);
            assert!((said - real).abs() <= tolerance && said >= real / 2, "{key}: {said} instead of {real}");
        }
    }
    shard.validate();
}

/// Expiries near enough are kept in four bytes, which come round every 49 days: a machine that slept for longer must
/// not bring back what has expired, nor forget what has not.
#[test]
fn expiries_hold_however_far_away_and_however_long_the_machine_sleeps() {
    for slept_days in [1, 13, 20, 50, 120] {
        let mut shard = shard();
        let days = [0, 1, 30, 36, 49, 50, 100, 1_000];
        for (number, days) in days.into_iter().enumerate() {
            let ttl = (days * DAY_MS + 1_000).to_string();
            run(
                &mut shard,
                &[b"SET", format!("{number}").as_bytes(), b"v", b"PX", ttl.as_bytes()],
                Now::at_ms(START_MS),
                &mut (),
            );
        }
        tick(&mut shard, START_MS);
        let woken_ms = START_MS + slept_days * DAY_MS;
        for now_ms in [woken_ms, woken_ms + 500, woken_ms + 700_000, woken_ms + 5 * DAY_MS, woken_ms + 60 * DAY_MS] {
            for (number, days) in days.into_iter().enumerate() {
                let left = (START_MS + days * DAY_MS + 1_000) as i64 - now_ms as i64;
                let expected = if left >= 0 { format!("({left})") } else { "(-2)".into() };
                let name = format!("{number}");
                let said = shown(run(&mut shard, &[b"PTTL", name.as_bytes()], Now::at_ms(now_ms), &mut ()));
                assert_eq!(said, expected, "{days} days, slept {slept_days}, {} ms after", now_ms - woken_ms);
                if number % 3 == 0 {
                    tick(&mut shard, now_ms);
                }
            }
            shard.validate();
        }
    }
}

#[test]
fn an_expiry_costs_less_than_eight_bytes() {
    let filled = |options: &[&[u8]]| {
        let mut shard = shard();
        for number in 0..40_000u32 {
            let key = format!("{number:016}");
            let mut words = vec![&b"SET"[..], key.as_bytes(), &[b'v'; 32]];
            words.extend_from_slice(options);
            run(&mut shard, &words, Now::at_ms(START_MS), &mut ());
        }
        let counters = shard.counters();
        (counters.item_bytes + counters.deadline_bytes) as f64 / 40_000.0
    };
    let without = filled(&[]);
    let with = filled(&[b"EX", b"86400"]);
    assert!(with - without < 5.0, "{without} bytes without, {with} with");
    assert_eq!(without, 52.0);
}
