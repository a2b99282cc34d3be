//! Engines with their logs on disks that lose, tear and reorder: what clients were told before the power failed is
//! true after it, transactions over cores are there whole or not at all, and all that was seen can have happened one
//! command after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::lab::Lab;
use super::transactions::{Act, Done, State, act, keys, leads_to, replies};
use super::world::Bounds;
use crate::engine::journal::{Durable, Log};
use crate::engine::{Engine, EngineConfig};
use crate::hash::KeyHasher;
use crate::limits;
use crate::random::{Announced, Random};
use crate::request::Durability;
use crate::slot::{owner_of_slot, slot_of};
use crate::store::Displaced;
use crate::wal::reader::{Item, Walker};
use crate::wal::replay::Replay;
use crate::wal::survey::{self, Survey};
use crate::wal::tests::disk::Disk;
use crate::wal::tests::life::{resume, segments, walk};
use crate::wal::tests::seeds;
use crate::wal::writer::{Operation, Writer, WriterConfig};

const SEGMENT_BYTES: u64 = 64 * 1024;
const ASYNC_US: u64 = 60;

fn config(core: usize, cores: usize, durability: Durability) -> WriterConfig {
    WriterConfig {
        layout: 1,
        core: core as u32,
        cores: cores as u32,
        segment_bytes: SEGMENT_BYTES,
        write_bytes_max: 8192,
        write_delay_us: 5,
        sync_interval_us: (durability != Durability::None).then_some(ASYNC_US),
        backlog_bytes_max: 64 * 1024,
        retry_us: 20,
    }
}

/// A server from its start to its end, on disks that outlive it.
struct Life {
    lab: Lab,
    disks: Vec<Disk>,
    out: Vec<Vec<Operation>>,
}

impl Life {
    /// Recovers what is on the disks. What is left if the power fails again meanwhile.
    fn begin(
        mut disks: Vec<Disk>,
        random: Random,
        bounds: &Bounds,
        durability: Durability,
        number: u64,
    ) -> Result<Life, (Vec<Disk>, Random)> {
        let durable = Arc::new(Durable::new(bounds.cores));
        let mut lab = Lab::changed(random, bounds, |config| EngineConfig {
            random_seed: number << 8 | u64::from(config.core),
            durable: durable.clone(),
            ..config
        });
        let mut surveys = BTreeMap::new();
        for (core, disk) in disks.iter().enumerate() {
            let mut survey = Survey::default();
            walk(disk, Walker::new(segments(disk), false).at_the_end(), &mut |item| match item {
                Item::Record(record, _) => survey.record(&record),
                Item::Gap => unreachable!("nothing is damaged"),
            })
            .unwrap_or_else(|damage| panic!("{damage:?}"));
            surveys.insert(core as u32, survey);
        }
        let cuts = survey::cuts(&surveys);
        for (core, disk) in disks.iter_mut().enumerate() {
            let engine = &mut lab.engines[core];
            engine.set_loading(true);
            let mut replay = Replay::default();
            let walker = Walker::new(segments(disk), false).until(cuts.get(&(core as u32)).map(|cut| cut.0));
            let walker = walk(disk, walker, &mut |item| match item {
                Item::Record(record, _) => {
                    let unix_ms = replay.unix_ms();
                    replay.record(&record, &mut |change| {
                        engine.restore(change, unix_ms, &mut Displaced::default(), |_| true, |_| true).unwrap();
                    });
                }
                Item::Gap => unreachable!("nothing is damaged"),
            })
            .unwrap_or_else(|damage| panic!("{damage:?}"));
            let found = walker.finish().unwrap_or_else(|damage| panic!("{damage:?}"));
            let resumed = resume(disk, &found);
            disk.sync_all();
            let writer = Writer::new(config(core, bounds.cores, durability), resumed);
            let hasher = KeyHasher::with_seed([1, 2, 3, 4]);
            engine.attach_log(Box::new(Log::new(writer, "the disk".into(), durability, ASYNC_US, hasher)));
        }
        let mut life = Life { lab, disks, out: (0..bounds.cores).map(|_| Vec::new()).collect() };
        let mut left = if life.lab.random.chance(20) { 1 + life.lab.random.below(30) } else { usize::MAX };
        let now = life.lab.now;
        let groups: Vec<u64> =
            life.lab.engines.iter_mut().map(|engine| engine.log_mut().unwrap().writer.state(now)).collect();
        while (0..bounds.cores).any(|core| life.writer(core).durable() < groups[core]) {
            let core = life.lab.random.below(bounds.cores);
            life.turn(core);
            left -= 1;
            if left == 0 {
                return Err(life.end());
            }
        }
        life.lab.engines.iter_mut().for_each(|engine| engine.set_loading(false));
        Ok(life)
    }

    fn writer(&self, core: usize) -> &Writer {
        &self.lab.engines[core].log().unwrap().writer
    }

    /// One core's turn for its log; one operation ends.
    fn turn(&mut self, core: usize) {
        let Lab { random, engines, now, .. } = &mut self.lab;
        now.uptime_us += 1;
        let engine = &mut engines[core];
        engine.set_now(*now);
        engine.tend_log();
        while let Some(operation) = engine.next_operation() {
            self.out[core].push(operation);
        }
        if !self.out[core].is_empty() {
            let Operation { id, work } = {
                let at = random.below(self.out[core].len());
                self.out[core].swap_remove(at)
            };
            let result = self.disks[core].carry_out(&work);
            engine.operation_done(id, work, result);
        }
    }

    /// Lets something happen.
    fn step(&mut self) {
        let cores = self.disks.len();
        if self.lab.random.chance(40) {
            let core = self.lab.random.below(cores);
            self.turn(core);
        } else {
            self.lab.step();
        }
    }

    fn step_until(&mut self, is_done: impl Fn(&mut Life) -> bool) {
        for _ in 0..200_000 {
            if is_done(self) {
                return;
            }
            self.step();
        }
        panic!("nothing goes on");
    }

    fn call(&mut self, client: usize, line: &str) -> String {
        self.lab.send(client, format!("{line}\r\n").as_bytes());
        self.step_until(|life| replies(&life.lab.clients[client].received).is_some_and(|heard| !heard.is_empty()));
        String::from_utf8(self.lab.heard(client)).unwrap()
    }

    /// The power fails on all cores at once, or the process is killed.
    fn end(mut self) -> (Vec<Disk>, Random) {
        let is_cut = self.lab.random.chance(80);
        for (core, disk) in self.disks.iter_mut().enumerate() {
            let under_way: Vec<_> = self.out[core].drain(..).map(|operation| operation.work).collect();
            if is_cut {
                disk.cut_power(&under_way, &mut self.lab.random);
            } else {
                disk.kill(&under_way, &mut self.lab.random);
            }
            (disk.failing_write, disk.failing_sync) = (None, None);
        }
        (self.disks, Random::new(self.lab.random.next()))
    }

    /// All keys, as a client reads them.
    fn state(&mut self, keys: &[String]) -> State {
        let client = self.lab.connect(0);
        let mut state = State::new();
        for key in keys {
            let answer = self.call(client, &format!("GET {key}"));
            if answer != "$-1\r\n" {
                state.insert(key.clone(), answer.split("\r\n").nth(1).unwrap().to_string());
            }
        }
        state
    }
}

/// As often as it takes.
fn start(left: (Vec<Disk>, Random), bounds: &Bounds, durability: Durability, number: &mut u64) -> Life {
    let mut left = left;
    loop {
        *number += 1;
        match Life::begin(left.0, left.1, bounds, durability, *number) {
            Ok(life) => return life,
            Err(again) => left = again,
        }
    }
}

fn new_disks(bounds: &Bounds) -> Vec<Disk> {
    (0..bounds.cores).map(|_| Disk::default()).collect()
}

/// All replies of other cores are there long before the first, which waits for the log.
#[test]
fn whoever_waits_for_the_log_before_other_cores_goes_on() {
    let random = Random::new(7);
    let bounds = Bounds { cores: 2, ..Bounds::default() };
    let mut life = start((new_disks(&bounds), random), &bounds, Durability::Sync, &mut 0);
    let keys = keys(bounds.cores);
    let of = |core| keys.iter().find(|key| owner_of_slot(slot_of(key.as_bytes()), 2) == core).unwrap();
    let client = life.lab.connect(0);
    let many = 3 * limits::PENDING_REPLIES_MAX;
    let input = [format!("SET {} 1\r\n", of(0)), format!("GET {}\r\n", of(1)).repeat(many)].concat();
    life.lab.send(client, input.as_bytes());
    life.lab.settle();
    assert!(life.lab.clients[client].received.is_empty());
    let expected = "+OK\r\n".len() + many * "$-1\r\n".len();
    life.step_until(|life| life.lab.clients[client].received.len() == expected);
    assert!(life.lab.engines.iter().all(Engine::is_quiet));
}

/// What a client has under way: what it said, and when.
type UnderWay = Option<(Act, u64)>;

/// Clients at once on a few keys, some lives in a row.
fn run_schedule(seed: u64) {
    let _announced = Announced(seed);
    let mut random = Random::new(seed);
    let bounds = Bounds { output_soft_bytes: 1 << 20, ..Bounds::random(&mut random) };
    let keys = keys(bounds.cores);
    let mut left = (new_disks(&bounds), random);
    let mut number = 0;
    let mut state = State::new();
    let mut fresh = 0;
    for _ in 0..3 {
        let mut life = start(left, &bounds, Durability::Sync, &mut number);
        assert_eq!(life.state(&keys), state, "what a client read is there");
        if life.lab.random.chance(10) {
            let core = life.lab.random.below(bounds.cores);
            life.disks[core].failing_sync = Some(life.disks[core].syncs + 1 + life.lab.random.below(10));
        }
        let clients: Vec<usize> = (0..4).map(|at| life.lab.connect(at % bounds.cores)).collect();
        let mut history: Vec<Done> = Vec::new();
        let mut under_way: Vec<UnderWay> = clients.iter().map(|_| None).collect();
        let mut clock = 0;
        let (mut acts, mut steps) = (12, life.lab.random.below(400));
        while steps > 0 {
            for (at, &client) in clients.iter().enumerate() {
                clock += 1;
                if let Some((act, _)) = &under_way[at] {
                    let heard = replies(&life.lab.clients[client].received);
                    let Some(heard) = heard.filter(|heard| heard.len() == act.replies) else { continue };
                    life.lab.heard(client);
                    // What was refused because of the disk may have been done all the same.
                    if !heard.iter().any(|reply| reply.contains("MISCONF")) {
                        let (act, sent) = under_way[at].take().unwrap();
                        let answers = act.answers(heard);
                        history.push(Done { commands: act.commands, answers, sent, answered: clock });
                    }
                } else if acts > 0 && !life.lab.clients[client].is_closed {
                    acts -= 1;
                    let act = act(&mut life.lab.random, &keys, &mut fresh);
                    life.lab.send(client, act.said.as_bytes());
                    under_way[at] = Some((act, clock));
                }
            }
            for _ in 0..1 + life.lab.random.below(6) {
                life.step();
                steps -= (steps > 0) as usize;
            }
        }
        for (act, sent) in under_way.into_iter().flatten() {
            history.push(Done { commands: act.commands, answers: Vec::new(), sent, answered: u64::MAX });
        }
        left = life.end();
        let mut life = start(left, &bounds, Durability::Sync, &mut number);
        let found = life.state(&keys);
        assert!(
            leads_to(&history, &state, |end| *end == found),
            "no order explains it: from {state:?} to {found:?} by {history:#?}"
        );
        state = found;
        left = life.end();
    }
}

#[test]
fn what_clients_were_told_is_true_after_the_power_failed() {
    for seed in seeds(150, 10_000) {
        run_schedule(seed);
    }
}

/// Amounts move between keys of different cores, all the time and in every mode; whatever a crash takes, the sum stays.
fn run_transfers(seed: u64) {
    let _announced = Announced(seed);
    let mut random = Random::new(seed);
    let durability = random.pick(&[Durability::None, Durability::Async, Durability::Sync]);
    let bounds = Bounds { output_soft_bytes: 1 << 20, ..Bounds::random(&mut random) };
    let keys = keys(bounds.cores);
    let mut left = (new_disks(&bounds), random);
    let mut number = 0;
    let mut begun = false;
    for _ in 0..4 {
        let mut life = start(left, &bounds, durability, &mut number);
        let balances = life.state(&keys);
        let sum: i64 = balances.values().map(|value| value.parse::<i64>().unwrap()).sum();
        assert!(sum == 400 || !begun && sum == 0, "{balances:?}");
        if sum == 0 {
            let client = life.lab.connect(0);
            let all: Vec<String> = keys.iter().map(|key| format!("{key} 100")).collect();
            life.call(client, &format!("MSET {}", all.join(" ")));
            begun = durability == Durability::Sync;
        }
        let clients: Vec<usize> = (0..3).map(|at| life.lab.connect(at % bounds.cores)).collect();
        // Long enough for segments to be filled, copied and used again.
        let filler = "x".repeat(600);
        for _ in 0..life.lab.random.below(1500) {
            for &client in &clients {
                if life.lab.random.chance(10) {
                    let (from, to) = (life.lab.random.below(4), life.lab.random.below(4));
                    let (from, to, amount) = (&keys[from], &keys[to], life.lab.random.below(50));
                    let said = match life.lab.random.below(4) {
                        0 => format!("SET filler:{} {filler}\r\n", life.lab.random.below(30)),
                        _ => format!("MULTI\r\nDECRBY {from} {amount}\r\nINCRBY {to} {amount}\r\nEXEC\r\n"),
                    };
                    life.lab.send(client, said.as_bytes());
                }
            }
            life.step();
            life.step();
            life.step();
        }
        left = life.end();
    }
    let mut life = start(left, &bounds, durability, &mut number);
    let sum: i64 = life.state(&keys).values().map(|value| value.parse::<i64>().unwrap()).sum();
    assert!(sum == 400 || !begun && sum == 0, "{sum}");
    life.end();
}

#[test]
fn transfers_between_cores_are_whole_or_not_at_all_in_every_mode() {
    for seed in seeds(100, 4_000) {
        run_transfers(seed);
    }
}

/// A key that is not durable yet is waited for, another one is not.
#[test]
fn only_who_reads_what_is_not_durable_waits() {
    for cores in [1, 2] {
        let bounds = Bounds { cores, ..Bounds::default() };
        let keys = keys(cores);
        let mut life = start((new_disks(&bounds), Random::new(5)), &bounds, Durability::Sync, &mut 0);
        let (writer, reader, other) = (life.lab.connect(0), life.lab.connect(cores - 1), life.lab.connect(0));
        let (a, b) = (&keys[1], &keys[2]);
        assert_eq!(life.call(writer, &format!("SET {b} there")), "+OK\r\n");
        // From here on no disk does anything.
        life.lab.send(writer, format!("SET {a} new\r\n").as_bytes());
        life.lab.settle();
        life.lab.send(reader, format!("GET {a}\r\n").as_bytes());
        life.lab.send(other, format!("GET {b}\r\nEXISTS nosuch\r\nPING\r\n").as_bytes());
        life.lab.settle();
        assert_eq!(life.lab.heard(other), b"$5\r\nthere\r\n:0\r\n+PONG\r\n", "another key is not waited for");
        life.lab.send(other, b"DBSIZE\r\n");
        life.lab.settle();
        for waiting in [writer, reader, other] {
            assert_eq!(life.lab.heard(waiting), b"", "nobody learns what a crash could take back");
        }
        let is_answered = |life: &mut Life, client: usize| !life.lab.clients[client].received.is_empty();
        life.step_until(|life| is_answered(life, writer) && is_answered(life, reader) && is_answered(life, other));
        assert_eq!(life.lab.heard(writer), b"+OK\r\n");
        assert_eq!(life.lab.heard(reader), b"$3\r\nnew\r\n");
        assert_eq!(life.lab.heard(other), b":2\r\n");
    }
}

/// What was written longer ago than the interval is durable in `async`, whatever else goes on.
#[test]
fn async_loses_no_more_than_its_interval() {
    for seed in 0..60 {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let bounds = Bounds { cores: random.pick(&[1, 2]), ..Bounds::default() };
        let mut number = 0;
        let mut life = start((new_disks(&bounds), random), &bounds, Durability::Async, &mut number);
        let client = life.lab.connect(0);
        // By number of the write: when it was answered.
        let mut answered = Vec::new();
        for write in 0..40 {
            assert_eq!(life.call(client, &format!("SET key:{write} {write}")), "+OK\r\n");
            answered.push(life.lab.now.uptime_us);
        }
        let now_us = life.lab.now.uptime_us;
        let left = life.end();
        let mut life = start(left, &bounds, Durability::Async, &mut number);
        let client = life.lab.connect(0);
        for (write, answered_us) in answered.into_iter().enumerate() {
            let is_there = life.call(client, &format!("EXISTS key:{write}")) == ":1\r\n";
            // One flush takes some turns of each core here.
            assert!(is_there || now_us - answered_us <= 2 * ASYNC_US + 40, "{write} of {answered_us} at {now_us}");
        }
        life.end();
    }
}

/// A server whose very first command was refused while it loaded ended in an overflow of what it had counted.
#[test]
fn the_very_first_command_may_be_refused() {
    let mut lab = Lab::new(Random::new(1), &Bounds { cores: 1, ..Bounds::default() });
    lab.engines[0].set_loading(true);
    let client = lab.connect(0);
    assert_eq!(lab.call(client, "GET key"), "-LOADING CrabCache is loading the dataset in memory\r\n");
    lab.engines[0].set_loading(false);
    assert_eq!(lab.call(client, "GET key"), "$-1\r\n");
}

#[test]
fn a_failed_disk_answers_with_its_error() {
    let bounds = Bounds { cores: 2, ..Bounds::default() };
    let keys = keys(2);
    let mut life = start((new_disks(&bounds), Random::new(8)), &bounds, Durability::Sync, &mut 0);
    let (client, other) = (life.lab.connect(0), life.lab.connect(1));
    let (a, b) = (&keys[0], &keys[1]);
    assert_eq!(life.call(client, &format!("MSET {a} 1 {b} 1")), "+OK\r\n");
    life.disks[0].failing_sync = Some(life.disks[0].syncs + 1);
    life.lab.send(client, format!("SET {a} 2\r\nPING\r\nGET {a}\r\n").as_bytes());
    life.step_until(|life| replies(&life.lab.clients[client].received).is_some_and(|heard| heard.len() == 3));
    let heard = replies(&life.lab.heard(client)).unwrap();
    assert!(heard[0].starts_with("-MISCONF ") && heard[0].contains("a sync failed"), "{heard:?}");
    assert_eq!(heard[1], "+PONG\r\n");
    assert!(heard[2].starts_with("-MISCONF "), "{heard:?}");
    let lines = life.lab.connect(0);
    let said = format!(r#"{{"action":"GET","key":"{a}","id":"a,b"}}"#);
    life.lab.send(lines, format!("{said}\n").as_bytes());
    life.step_until(|life| life.lab.clients[lines].received.ends_with(b"\n"));
    let heard = String::from_utf8(life.lab.heard(lines)).unwrap();
    assert!(heard.starts_with(r#"{"id":"a,b","error":{"code":"MISCONF""#) && heard.ends_with("}\n"), "{heard}");
    for line in [format!("SET {a} 3"), format!("MSET {a} 3 {b} 3"), format!("RENAME {b} {a}")] {
        assert!(life.call(other, &line).starts_with("-MISCONF "), "{line}");
    }
    life.lab.send(other, format!("MULTI\r\nSET {b} 4\r\nSET {a} 4\r\nEXEC\r\n").as_bytes());
    life.step_until(|life| replies(&life.lab.clients[other].received).is_some_and(|heard| heard.len() == 4));
    let heard = replies(&life.lab.heard(other)).unwrap();
    assert!(heard[3].starts_with("-EXECABORT Transaction discarded because of: MISCONF "), "{heard:?}");
    assert_eq!(life.call(other, &format!("GET {b}")), "$1\r\n1\r\n", "nothing of it was done");
    assert_eq!(life.call(other, &format!("SET {b} 5")), "+OK\r\n", "the other core's log is sound");
}
