//! Long random conversations with a shard, compared with the naive model after every command.

use std::collections::BTreeMap;

use super::model::{Entry, Model};
use super::*;

pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    fn key(&mut self, keys: u64) -> Vec<u8> {
        match self.below(keys) {
            0 => Vec::new(),
            1 => vec![b'k'; 300],
            2 => vec![b'K'; KEY_BYTES_MAX],
            number => format!("{{{}}}key:{number}", number % 7).into_bytes(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.below(20) {
            0 => 0,
            1..=4 => return self.below(1000).to_string().into_bytes(),
            5..=12 => self.below(60),
            13..=15 => 200 + self.below(120),
            16..=17 => self.below(9_000),
            18 => LARGE_VALUE_BYTES_MIN as u64 - 2 + self.below(4),
            _ => LARGE_VALUE_BYTES_MIN as u64 + self.below(40_000),
        };
        vec![b'a' + self.below(26) as u8; len as usize]
    }

    fn command(&mut self, keys: u64, now_ms: u64) -> Vec<Vec<u8>> {
        fn words(words: &[&str]) -> Vec<Vec<u8>> {
            words.iter().map(|word| word.as_bytes().to_vec()).collect()
        }
        fn with(name: &str, args: &[Vec<u8>]) -> Vec<Vec<u8>> {
            [words(&[name]), args.to_vec()].concat()
        }
        let key = self.key(keys);
        let soon = self.below(3_000);
        let at = (now_ms + soon).saturating_sub(500).to_string();
        let ms = (1 + soon).to_string();
        match self.below(40) {
            0..=4 => with(self.one_of(&["GET", "STRLEN", "TYPE", "GETDEL", "PTTL", "TTL", "PEXPIRETIME"]), &[key]),
            5..=9 => with("SET", &[key, self.value()]),
            10..=15 => {
                let mut command = with("SET", &[key, self.value()]);
                match self.below(5) {
                    0 => command.extend(words(&["NX"])),
                    1 => command.extend(words(&["XX"])),
                    2 => command.extend([b"IFEQ".to_vec(), self.value()]),
                    _ => {}
                }
                if self.below(3) == 0 {
                    command.extend(words(&["GET"]));
                }
                match self.below(5) {
                    0 => command.extend(words(&["PX", &ms])),
                    1 => command.extend(words(&["PXAT", &at])),
                    2 => command.extend(words(&["KEEPTTL"])),
                    _ => {}
                }
                command
            }
            16 => with("SETNX", &[key, self.value()]),
            17 => with("PSETEX", &[key, ms.into_bytes(), self.value()]),
            18 => with("GETSET", &[key, self.value()]),
            19..=20 => match self.below(4) {
                0 => with("GETEX", &[key]),
                1 => with("GETEX", &[key, b"PERSIST".to_vec()]),
                2 => with("GETEX", &[key, b"PX".to_vec(), ms.into_bytes()]),
                _ => with("GETEX", &[key, b"PXAT".to_vec(), at.into_bytes()]),
            },
            21..=22 => with("APPEND", &[key, self.value()]),
            23 => {
                let offset = [self.below(40), self.below(70_000)][self.below(2) as usize];
                with("SETRANGE", &[key, offset.to_string().into_bytes(), self.value()])
            }
            24..=25 => {
                let reach = [10, 80_000][self.below(2) as usize];
                let mut place = || (self.below(2 * reach) as i64 - reach as i64).to_string().into_bytes();
                with("GETRANGE", &[key, place(), place()])
            }
            26..=27 => {
                let amount = [self.below(100) as i64 - 50, i64::MAX - self.below(400) as i64][self.below(2) as usize];
                with("INCRBY", &[key, amount.to_string().into_bytes()])
            }
            28 => with("MGET", &[key, self.key(keys), self.key(keys)]),
            29 => with(
                self.one_of(&["MSET", "MSETNX"]),
                &[key, self.value(), self.key(keys), self.value(), self.key(keys), self.value()],
            ),
            30..=31 => with(self.one_of(&["DEL", "UNLINK"]), &[key, self.key(keys), self.key(keys)]),
            32 => with(self.one_of(&["EXISTS", "TOUCH"]), &[key.clone(), key, self.key(keys)]),
            33..=34 => {
                let (name, time) = match self.below(2) {
                    0 => ("PEXPIRE", (soon as i64 - 200).to_string()),
                    _ => ("PEXPIREAT", at),
                };
                let mut command = with(name, &[key, time.into_bytes()]);
                match self.one_of(&["", "", "NX", "XX", "GT", "LT"]) {
                    "" => {}
                    condition => command.extend(words(&[condition])),
                }
                command
            }
            35 => with("PERSIST", &[key]),
            36 => with(self.one_of(&["RENAME", "RENAMENX"]), &[key, self.key(keys)]),
            37..=38 => match self.below(2) {
                0 => with("COPY", &[key, self.key(keys)]),
                _ => with("COPY", &[key, self.key(keys), b"REPLACE".to_vec()]),
            },
            _ if self.below(20) == 0 => words(&["FLUSHALL"]),
            _ => with("GET", &[key]),
        }
    }
}

/// What a log or a replica would have: the effects, replayed.
#[derive(Default)]
pub struct Replica {
    pub entries: BTreeMap<Vec<u8>, Entry>,
    pub expired: u64,
    pub writes: u64,
    /// Of all keys, of all values, and how many keys expire.
    pub key_bytes: u64,
    pub value_bytes: u64,
    pub expiring: u64,
}

impl Replica {
    /// An entry comes, or goes.
    fn count(&mut self, key: &[u8], (value, expiry): &Entry, comes: bool) {
        let change = |total: &mut u64, by: usize| *total = if comes { *total + by as u64 } else { *total - by as u64 };
        change(&mut self.key_bytes, key.len());
        change(&mut self.value_bytes, value.len());
        change(&mut self.expiring, expiry.is_some() as usize);
    }

    /// The shard counts what there is; all of it, and nothing else.
    pub fn check_counts(&self, counters: &ShardCounters, what: std::fmt::Arguments<'_>) {
        let counted = [counters.keys, counters.key_bytes, counters.value_bytes, counters.keys_with_expiry];
        assert_eq!(counted, [self.entries.len() as u64, self.key_bytes, self.value_bytes, self.expiring], "{what}");
        let kinds = counters.window_bytes + counters.probation_bytes + counters.protected_bytes;
        assert_eq!(kinds, counters.item_bytes, "{what}");
        let in_items = counters.key_bytes + counters.value_bytes - counters.large_value_bytes;
        // Headers have four bytes to sixteen, and items are rounded up to four.
        assert!(counters.item_bytes >= in_items + 4 * counters.keys, "{what}: {counters:?}");
        assert!(counters.item_bytes <= in_items + 19 * counters.keys, "{what}: {counters:?}");
        assert!(counters.item_bytes + counters.dead_bytes + counters.free_bytes <= counters.arena_bytes, "{what}");
        let parts = counters.arena_bytes + counters.index_bytes + counters.history_bytes + counters.large_value_bytes;
        assert!(counters.memory_bytes >= parts, "{what}: {counters:?}");
    }
}

impl Effects for Replica {
    fn set(&mut self, key: &[u8], value: ValueRef<'_>, expires_at_ms: Option<u64>) {
        self.writes += 1;
        let new = (value.bytes().to_vec(), expires_at_ms);
        self.count(key, &new, true);
        if let Some(old) = self.entries.insert(key.to_vec(), new) {
            self.count(key, &old, false);
        }
    }

    fn remove(&mut self, key: &[u8], reason: Removal) {
        self.writes += 1;
        self.expired += (reason == Removal::Expired) as u64;
        let old = self.entries.remove(key).expect("what is removed was there");
        self.count(key, &old, false);
    }

    fn expire(&mut self, key: &[u8], expires_at_ms: Option<u64>) {
        self.writes += 1;
        let entry = self.entries.get_mut(key).expect("only keys that are there expire");
        let old = std::mem::replace(&mut entry.1, expires_at_ms);
        self.expiring = self.expiring + expires_at_ms.is_some() as u64 - old.is_some() as u64;
    }

    fn flush(&mut self) {
        self.writes += 1;
        self.entries.clear();
        (self.key_bytes, self.value_bytes, self.expiring) = (0, 0, 0);
    }
}

fn compare_with_model(seed: u64, keys: u64, commands: u64) {
    let mut random = Random(seed);
    let mut shard = shard();
    let mut model = Model::default();
    let mut replica = Replica::default();
    let mut now_ms = 1_700_000_000_000;
    for turn in 0..commands {
        if random.below(4) == 0 {
            now_ms += random.below(200);
        }
        let now = Now::at_ms(now_ms);
        let words = random.command(keys, now_ms);
        let expected = model.run(&words, now_ms);
        let borrowed: Vec<&[u8]> = words.iter().map(|word| &word[..]).collect();
        let reply = shown(run(&mut shard, &borrowed, now, &mut replica));
        let short: Vec<String> = words
            .iter()
            .map(|word| word[..word.len().min(40)].escape_ascii().to_string() + &format!("({})", word.len()))
            .collect();
        assert_eq!(reply, expected, "seed {seed}, turn {turn}: {}", short.join(" "));
        replica.check_counts(&shard.counters(), format_args!("seed {seed}, turn {turn}: {}", short.join(" ")));
        if random.below(8) == 0 {
            let budget = random.below(40) as usize;
            shard.tick(now, budget, &mut replica);
        }
        // Among few keys everything is counted anew after every sixteenth command.
        let is_small = keys < 100;
        if is_small && turn % 16 == seed % 16 || random.below(200) == 0 || turn + 1 == commands {
            shard.validate();
            model.forget_expired(now_ms);
            let mut visible = replica.entries.clone();
            visible.retain(|_, (_, expiry)| expiry.is_none_or(|at| now_ms <= at));
            assert!(visible == model.entries, "seed {seed}, turn {turn}: the effects say something else");
            let counters = shard.counters();
            assert_eq!((counters.hits, counters.misses), (model.hits, model.misses), "seed {seed}, turn {turn}");
            assert_eq!(counters.expired_lazy + counters.expired_active, replica.expired, "seed {seed}");
            assert_eq!(counters.writes, replica.writes, "seed {seed}, turn {turn}");
        }
    }
}

#[test]
fn few_keys_in_every_state_behave_as_the_model() {
    for seed in 1..=12 {
        compare_with_model(seed * 0x9E37_79B9, 24, 2_500);
    }
}

#[test]
fn many_keys_behave_as_the_model_while_the_table_grows() {
    for seed in 1..=3 {
        compare_with_model(seed * 0x85EB_CA6B, 6_000, 12_000);
    }
}

#[test]
fn a_shard_fills_and_empties_and_gives_its_memory_back() {
    let mut shard = shard();
    let now = Now::at_ms(1);
    let keys: Vec<String> = (0..60_000).map(|number| format!("key:{number}")).collect();
    for round in 0..2 {
        for key in &keys {
            run(&mut shard, &[b"SET", key.as_bytes(), &[b'v'; 100]], now, &mut ());
        }
        shard.validate();
        assert!(shard.keyspace.buckets() > 5_000);
        let full = shard.counters();
        assert!(full.arena_bytes >= 60_000 * 100);
        for key in &keys {
            assert_eq!(run(&mut shard, &[b"GET", key.as_bytes()], now, &mut ()), Reply::Bulk(&[b'v'; 100]));
            run(&mut shard, &[b"DEL", key.as_bytes()], now, &mut ());
        }
        shard.validate();
        assert!(shard.is_empty(), "round {round}");
        assert!(shard.keyspace.buckets() < 100);
        assert_eq!(shard.counters().item_bytes, 0);
        while shard.tick(now, 64, &mut ()) > 0 {}
        assert!(shard.counters().arena_bytes < full.arena_bytes / 2);
        shard.validate();
    }
}

#[test]
fn a_flush_answers_at_once_and_ticks_give_the_memory_back() {
    let mut shard = shard();
    let now = Now::at_ms(1);
    for number in 0..200 {
        let key = format!("key:{number}");
        run(&mut shard, &[b"SET", key.as_bytes(), &[b'v'; 30_000], b"PX", b"100"], now, &mut ());
        run(&mut shard, &[b"APPEND", key.as_bytes(), &vec![b'w'; number * 100]], now, &mut ());
    }
    let full = shard.counters();
    assert!(full.large_values > 100 && full.item_bytes > 800_000);
    let mut replica = Replica::default();
    run(&mut shard, &[b"FLUSHALL"], now, &mut replica);
    assert_eq!(replica.writes, 1);
    shard.validate();
    let counters = shard.counters();
    assert_eq!((counters.keys, counters.value_bytes, counters.item_bytes), (0, 0, 0));
    let mut ticks = 0;
    while shard.tick(now, 16, &mut ()) > 0 {
        ticks += 1;
    }
    assert!(ticks > 50, "the large values alone take many steps: {ticks}");
    assert_eq!(shard.counters().arena_bytes, 0);
    // Flushing again and again does not pile up memory, even if no tick ever comes.
    for _ in 0..100 {
        run(&mut shard, &[b"SET", b"k", b"v"], now, &mut ());
        run(&mut shard, &[b"FLUSHALL"], now, &mut ());
        assert!(shard.counters().arena_bytes + shard.counters().index_bytes < 20 << 20);
    }
}

#[test]
fn a_scan_returns_every_key_once_while_the_table_grows_and_shrinks() {
    for seed in 1..=30u64 {
        let mut random = Random(seed * 0xC2B2_AE35);
        let mut shard = shard();
        let now = Now::at_ms(1_000);
        let stay: Vec<String> = (0..300).map(|number| format!("stay:{number}")).collect();
        for key in &stay {
            run(&mut shard, &[b"SET", key.as_bytes(), b"v"], now, &mut ());
        }
        run(&mut shard, &[b"PSETEX", b"gone", b"100", b"v"], Now::at_ms(1), &mut ());
        let mut others = if seed.is_multiple_of(2) { 20_000 } else { 0 };
        for number in 0..others {
            run(&mut shard, &[b"SET", format!("other:{number}").as_bytes(), b"v"], now, &mut ());
        }
        let mut seen = std::collections::HashSet::new();
        let mut cursor = 0;
        let mut grows = others == 0;
        let (mut least, mut most) = (u32::MAX, 0);
        loop {
            let budget = 1 + random.below(6) as usize;
            cursor = shard.scan_step(cursor, budget, now, |key| {
                assert!(seen.insert(key.to_vec()), "seed {seed}: {} came twice", key.escape_ascii());
            });
            assert!(cursor < 1 << 32);
            if cursor == 0 {
                break;
            }
            // Even seeds shrink first, odd ones grow first; both turn round when they are through.
            grows = if grows { others < 20_000 } else { others == 0 };
            for _ in 0..random.below(300) {
                if grows {
                    run(&mut shard, &[b"SET", format!("other:{others}").as_bytes(), b"v"], now, &mut ());
                    others += 1;
                } else if others > 0 {
                    others -= 1;
                    run(&mut shard, &[b"DEL", format!("other:{others}").as_bytes()], now, &mut ());
                }
            }
            (least, most) = (least.min(shard.keyspace.buckets()), most.max(shard.keyspace.buckets()));
        }
        assert!(most > 2 * least, "seed {seed}: the table stayed between {least} and {most} buckets");
        for key in &stay {
            assert!(seen.contains(key.as_bytes()), "seed {seed}: {key} was not returned");
        }
        assert!(!seen.contains(&b"gone"[..]), "expired keys are not shown");
        shard.validate();
    }
}

#[test]
fn any_number_is_a_cursor_and_every_scan_ends() {
    let mut shard = shard();
    let now = Now::at_ms(1);
    for number in 0..1_000 {
        run(&mut shard, &[b"SET", number.to_string().as_bytes(), b"v"], now, &mut ());
    }
    for start in [1, 77, u32::MAX as u64, 1 << 32, u64::MAX, 0xDEAD_BEEF_0BAD_F00D] {
        let mut cursor = start;
        let mut steps = 0;
        loop {
            cursor = shard.scan_step(cursor, 1, now, |_| {});
            steps += 1;
            assert!(steps <= 200, "from {start}");
            if cursor == 0 {
                break;
            }
        }
    }
}

#[test]
fn memory_is_back_within_a_second_of_expiry_and_ticks_stay_within_their_budget() {
    let mut shard = shard();
    let start_ms = 1_700_000_000_000;
    let mut random = Random(99);
    let mut deadlines = Vec::new();
    for number in 0..20_000u64 {
        let ttl_ms = 1 + random.below(8_000);
        let key = format!("key:{number}");
        let now = Now::at_ms(start_ms);
        run(&mut shard, &[b"SET", key.as_bytes(), b"v", b"PX", ttl_ms.to_string().as_bytes()], now, &mut ());
        if number.is_multiple_of(3) {
            // Given more time later: the first deadline must not remove it.
            run(&mut shard, &[b"PEXPIRE", key.as_bytes(), b"9000"], now, &mut ());
            deadlines.push(start_ms + 9_000);
        } else {
            deadlines.push(start_ms + ttl_ms);
        }
    }
    for step in 0..110 {
        let now_ms = start_ms + step * 100;
        for _ in 0..20 {
            let visited = shard.tick(Now::at_ms(now_ms), 100, &mut ());
            assert!(visited < 200, "{visited} items visited");
        }
        let must_be_there = deadlines.iter().filter(|&&at| at >= now_ms).count() as u64;
        let may_be_there = deadlines.iter().filter(|&&at| at + 1_000 >= now_ms).count() as u64;
        assert!((must_be_there..=may_be_there).contains(&shard.len()), "{} keys at step {step}", shard.len());
    }
    assert!(shard.is_empty());
    assert_eq!(shard.counters().expired_active, 20_000);
    shard.validate();
}

#[test]
fn keys_that_expire_together_are_removed_in_bounded_steps() {
    let mut shard = shard();
    for number in 0..30_000u64 {
        let key = number.to_string();
        run(&mut shard, &[b"PSETEX", key.as_bytes(), b"1000", b"v"], Now::at_ms(1), &mut ());
    }
    let mut ticks = 0;
    while !shard.is_empty() {
        let visited = shard.tick(Now::at_ms(2_500), 64, &mut ());
        assert!(visited < 64 + 64);
        ticks += 1;
        assert!(ticks < 2_000);
    }
    assert!(ticks > 300);
    shard.validate();
}

#[test]
fn without_memory_writes_are_refused_and_everything_else_goes_on() {
    for seed in 1..=4 {
        let mut random = Random(seed * 0x27D4_EB2F);
        let mut shard = shard();
        let mut replica = Replica::default();
        let now = Now::at_ms(1_000);
        super::super::chunk::tests::limit_chunks(4);
        let mut refused = 0;
        for turn in 0..12_000u64 {
            let key = format!("key:{}", random.below(6_000));
            let value = vec![b'v'; random.below(3_000) as usize];
            let words: Vec<&[u8]> = match random.below(8) {
                0 => vec![b"EXPIRE", key.as_bytes(), b"100"],
                1 => vec![b"RENAME", key.as_bytes(), b"another key, longer than the one before"],
                2 => vec![b"APPEND", key.as_bytes(), &value],
                3 => vec![b"PERSIST", key.as_bytes()],
                _ => vec![b"SET", key.as_bytes(), &value],
            };
            let before = replica.entries.get(key.as_bytes()).cloned();
            let reply = shown(run(&mut shard, &words, now, &mut replica));
            if reply.starts_with("OOM") {
                refused += 1;
                assert_eq!(replica.entries.get(key.as_bytes()), before.as_ref(), "seed {seed}, turn {turn}");
            }
        }
        assert!(refused > 1_000, "seed {seed}: {refused} refused");
        shard.validate();
        for (key, (value, expiry)) in &replica.entries {
            assert_eq!(run(&mut shard, &[b"GET", key], now, &mut ()), Reply::Bulk(value));
            let at = expiry.map_or(-1, |at| at as i64);
            assert_eq!(run(&mut shard, &[b"PEXPIRETIME", key], now, &mut ()), Reply::Int(at));
        }
        for key in replica.entries.keys() {
            run(&mut shard, &[b"DEL", key], now, &mut ());
        }
        assert!(shard.is_empty());
        shard.validate();
        assert_eq!(run(&mut shard, &[b"SET", b"again", b"v"], now, &mut ()), Reply::Ok);
        super::super::chunk::tests::limit_chunks(0);
        assert_eq!(run(&mut shard, &[b"FLUSHALL"], now, &mut ()), Reply::Ok);
        assert_eq!(run(&mut shard, &[b"SET", b"again", b"v"], now, &mut ()), Reply::Ok);
        shard.validate();
        super::super::chunk::tests::limit_chunks(u64::MAX / 2);
    }
}

#[test]
fn random_keys_come_from_everywhere_and_are_never_expired() {
    let mut shard = shard();
    for number in 0..200u64 {
        let ttl: &[u8] = if number.is_multiple_of(2) { b"10" } else { b"1000" };
        run(&mut shard, &[b"PSETEX", number.to_string().as_bytes(), ttl, b"v"], Now::at_ms(1), &mut ());
    }
    let mut seen = BTreeMap::new();
    for _ in 0..20_000 {
        let key = shown(run(&mut shard, &[b"RANDOMKEY"], Now::at_ms(100), &mut ()));
        let number: u64 = key.trim_matches('"').parse().unwrap();
        assert!(!number.is_multiple_of(2));
        *seen.entry(number).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 100);
    assert!(seen.values().all(|&times| times > 20), "{seen:?}");
    assert_eq!(shown(run(&mut shard, &[b"RANDOMKEY"], Now::at_ms(5_000), &mut ())), "nil");
    assert!(shard.is_empty());
}

#[test]
fn slots_are_counted() {
    let mut shard = shard();
    let now = Now::at_ms(1);
    run(&mut shard, &[b"MSET", b"{user1000}.a", b"1", b"{user1000}.b", b"2", b"foo", b"3"], now, &mut ());
    let slot = crate::slot::slot_of(b"user1000");
    assert_eq!(shard.keys_in_slot(slot), 2);
    run(&mut shard, &[b"DEL", b"{user1000}.a"], now, &mut ());
    assert_eq!(shard.keys_in_slot(slot), 1);
    run(&mut shard, &[b"FLUSHALL"], now, &mut ());
    assert_eq!(shard.keys_in_slot(slot), 0);
}
