//! What survives: kills at any moment, restarts with other numbers of cores, damaged files, full disks.

mod harness;
mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{Server, command, run_to_end};
use nix::sys::signal::Signal;
use support::client::{Client, PATIENCE};
use support::random::Random;
use support::value::Value;

/// A directory of its own on the disk of the build, gone with the test.
struct DataDir(PathBuf);

impl DataDir {
    fn new(name: &str) -> DataDir {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        DataDir(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// The segments of the valid layout.
    fn segments(&self) -> Vec<PathBuf> {
        let mut layouts: Vec<PathBuf> = paths(&self.0).filter(|path| is_layout(path)).collect();
        layouts.sort();
        let mut segments: Vec<PathBuf> = paths(layouts.last().expect("a layout")).collect();
        segments.sort();
        segments
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn paths(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path())
}

fn is_layout(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.starts_with("log-") && !name.ends_with(".new")
}

fn start(directory: &DataDir, mode: &str, cores: &str, more: &[&str]) -> Server {
    let args = ["--cores", cores, "--data-dir", directory.path(), "--wal-sync", mode];
    Server::start(&[&args, more].concat())
}

fn kill(mut server: Server) {
    server.signal(Signal::SIGKILL);
    server.wait();
}

/// The keys of one client; only it writes them.
struct Writer {
    id: usize,
    random: Random,
    /// What was acknowledged, and what is under way: either may be found after a crash.
    acknowledged: HashMap<String, Option<String>>,
    under_way: Option<(String, Option<String>)>,
}

impl Writer {
    /// Writes until the server is gone.
    fn run(&mut self, client: &mut Client, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let key = format!("{}:{}", self.id, self.random.below(200));
            let value = (!self.random.chance(5)).then(|| {
                // As long as its number says: a torn one would not be.
                let len = self.random.below(300) + if self.random.chance(8) { 100_000 } else { 0 };
                format!("{len}:{}", "x".repeat(len))
            });
            let words = match &value {
                Some(value) => vec!["SET", &key, value],
                None => vec!["DEL", &key],
            };
            let bytes = support::client::command(&words);
            self.under_way = Some((key, value));
            if std::io::Write::write_all(&mut client.writer(), &bytes).is_err() {
                return;
            }
            match client.try_reply() {
                Some(Value::Error(error)) => panic!("{}", String::from_utf8_lossy(&error)),
                Some(_) => {
                    let (key, value) = self.under_way.take().expect("just put there");
                    self.acknowledged.insert(key, value);
                }
                None => return,
            }
        }
    }

    /// Compares what there is with what may be, and goes on from there.
    fn check(&mut self, client: &mut Client) {
        if let Some((key, value)) = self.under_way.take() {
            let found = get(client, &key);
            let before = self.acknowledged.get(&key).cloned().flatten();
            assert!(found == value || found == before, "{key} is {found:?}");
            self.acknowledged.insert(key, found);
        }
        for (key, value) in &self.acknowledged {
            let found = get(client, key);
            let short = |value: &Option<String>| value.as_ref().map(|value| value[..value.len().min(20)].to_owned());
            assert!(found == *value, "{key} is {:?} instead of {:?}", short(&found), short(value));
        }
    }
}

fn get(client: &mut Client, key: &str) -> Option<String> {
    match client.call_words(&["GET", key]) {
        Value::Bulk(value) => Some(String::from_utf8(value).unwrap()),
        _ => None,
    }
}

/// Kills under load, a few in CI; CRABCACHE_KILLS says how many otherwise.
#[test]
fn no_acknowledged_write_is_lost_when_the_server_is_killed() {
    let rounds = std::env::var("CRABCACHE_KILLS").map_or(4, |rounds| rounds.parse().unwrap());
    let mut random = Random::announced("kills");
    let directory = DataDir::new("kills");
    let mut writers: Vec<Writer> = (0..6)
        .map(|id| Writer { id, random: Random::new(random.next()), acknowledged: HashMap::new(), under_way: None })
        .collect();
    for round in 0..rounds {
        let server = start(&directory, "sync", if round % 3 == 2 { "1" } else { "2" }, &[]);
        let address = server.address();
        let mut client = Client::connect(address);
        writers.iter_mut().for_each(|writer| writer.check(&mut client));
        let stop = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            for writer in &mut writers {
                let stop = stop.clone();
                scope.spawn(move || writer.run(&mut Client::connect(address), &stop));
            }
            std::thread::sleep(Duration::from_millis(100 + random.below(700) as u64));
            kill(server);
            stop.store(true, Ordering::Relaxed);
        });
    }
    let server = start(&directory, "sync", "2", &[]);
    let mut client = Client::connect(server.address());
    writers.iter_mut().for_each(|writer| writer.check(&mut client));
    let written: usize = writers.iter().map(|writer| writer.acknowledged.len()).sum();
    assert!(written > 100, "only {written} keys were written");
}

const ACCOUNTS: usize = 8;
const BALANCE: i64 = 1000;

/// Moves amounts between accounts on all cores until the server is gone.
fn transfer(client: &mut Client, random: &mut Random, stop: &AtomicBool) -> usize {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let (from, to, amount) = (random.below(ACCOUNTS), random.below(ACCOUNTS), random.below(100));
        let lines = format!("MULTI\r\nDECRBY account:{from} {amount}\r\nINCRBY account:{to} {amount}\r\nEXEC\r\n");
        if std::io::Write::write_all(&mut client.writer(), lines.as_bytes()).is_err() {
            return done;
        }
        for _ in 0..4 {
            match client.try_reply() {
                Some(Value::Error(error)) => panic!("{}", String::from_utf8_lossy(&error)),
                Some(_) => {}
                None => return done,
            }
        }
        done += 1;
    }
    done
}

/// Gives one key other names until the server is gone.
fn rename(client: &mut Client, random: &mut Random, stop: &AtomicBool, name: &mut usize) {
    while !stop.load(Ordering::Relaxed) {
        let next = random.below(ACCOUNTS);
        if next == *name {
            continue;
        }
        let line = format!("RENAME token:{name} token:{next}\r\n");
        if std::io::Write::write_all(&mut client.writer(), line.as_bytes()).is_err() || client.try_reply().is_none() {
            return;
        }
        *name = next;
    }
}

/// Transactions over cores, killed at any moment in every mode: the sum of all accounts stays, and a key that is
/// renamed between cores has one name.
#[test]
fn transactions_over_cores_are_found_whole_or_not_at_all() {
    let rounds = std::env::var("CRABCACHE_KILLS").map_or(3, |rounds| rounds.parse().unwrap());
    let mut random = Random::announced("transfers");
    let directory = DataDir::new("transfers");
    let mut done = 0;
    for round in 0..=rounds {
        let mode = ["sync", "async", "none"][round % 3];
        let server = start(&directory, mode, if round % 4 == 3 { "3" } else { "2" }, &["--wal-async-ms", "20"]);
        let address = server.address();
        let mut client = Client::connect(address);
        if round == 0 {
            let all: Vec<String> = (0..ACCOUNTS).map(|account| format!("account:{account} {BALANCE}")).collect();
            assert_eq!(client.call(&format!("MSET {} token:0 one", all.join(" "))), Value::ok());
        }
        let balances: Vec<String> =
            (0..ACCOUNTS).map(|account| get(&mut client, &format!("account:{account}")).unwrap_or_default()).collect();
        let sum: i64 = balances.iter().map(|balance| balance.parse::<i64>().unwrap_or(0)).sum();
        assert_eq!(sum, BALANCE * ACCOUNTS as i64, "round {round}: {balances:?}");
        let names: Vec<usize> =
            (0..ACCOUNTS).filter(|name| get(&mut client, &format!("token:{name}")).is_some()).collect();
        assert_eq!(names.len(), 1, "round {round}: {names:?}");
        if round == rounds {
            break;
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let stop = &stop;
            let movers: Vec<_> = (0..4)
                .map(|_| {
                    let mut random = Random::new(random.next());
                    scope.spawn(move || transfer(&mut Client::connect(address), &mut random, stop))
                })
                .collect();
            let (mut own, mut name) = (Random::new(random.next()), names[0]);
            scope.spawn(move || rename(&mut Client::connect(address), &mut own, stop, &mut name));
            std::thread::sleep(Duration::from_millis(100 + random.below(500) as u64));
            kill(server);
            stop.store(true, Ordering::Relaxed);
            done += movers.into_iter().map(|mover| mover.join().unwrap()).sum::<usize>();
        });
    }
    assert!(done > 20, "only {done} transfers were made");
}

#[test]
fn everything_is_there_after_restarts_with_other_numbers_of_cores() {
    let directory = DataDir::new("cores");
    let expires_at = 4_000_000_000_123u64;
    {
        let server = start(&directory, "async", "1", &[]);
        let mut client = Client::connect(server.address());
        for key in 0..500 {
            client.call(&format!("SET old:{key} gone"));
        }
        client.call("FLUSHALL");
        for key in 0..2_000 {
            client.call(&format!("SET key:{key} value:{key}"));
        }
        client.call("SET large x PX 50");
        client.call(&format!("SET timed t PXAT {expires_at}"));
        client.call_words(&["SET", "big", &"b".repeat(200_000)]);
        client.call_words(&["APPEND", "big", "tail"]);
        client.call("RENAME key:0 renamed");
        client.call("DEL key:1");
        client.call("INCRBY counter 41");
        client.call("INCR counter");
        assert!(server.stop().success());
    }
    for cores in ["2", "4", "1", "3"] {
        let server = start(&directory, "async", cores, &[]);
        let mut client = Client::connect(server.address());
        // What had expired is read back and leaves with the next ticks.
        let deadline = Instant::now() + PATIENCE;
        while client.call("DBSIZE") != Value::Int(2_002) {
            assert!(Instant::now() < deadline, "{cores} cores: {:?} keys", client.call("DBSIZE"));
            std::thread::sleep(Duration::from_millis(10));
        }
        for key in (2..2_000).step_by(7) {
            assert_eq!(get(&mut client, &format!("key:{key}")), Some(format!("value:{key}")));
        }
        assert_eq!(get(&mut client, "renamed").as_deref(), Some("value:0"));
        assert_eq!((get(&mut client, "key:0"), get(&mut client, "key:1")), (None, None));
        assert_eq!((get(&mut client, "old:3"), get(&mut client, "large")), (None, None));
        assert_eq!(get(&mut client, "counter").as_deref(), Some("42"));
        assert_eq!(client.call("PEXPIRETIME timed"), Value::Int(expires_at as i64));
        assert_eq!(get(&mut client, "big"), Some("b".repeat(200_000) + "tail"));
        if cores == "4" {
            kill(server);
        } else {
            assert!(server.stop().success());
        }
    }
}

#[test]
fn a_directory_has_one_owner_and_must_be_writable() {
    let directory = DataDir::new("owner");
    let _server = start(&directory, "sync", "1", &[]);
    let second = run_to_end(command(&["--port", "0", "--cores", "1", "--data-dir", directory.path()]));
    assert_eq!(second.code(), Some(1));
    assert!(second.stderr.contains("in use by another process"), "{}", second.stderr);
    let nowhere = run_to_end(command(&["--port", "0", "--cores", "1", "--data-dir", "/proc/nowhere"]));
    assert_eq!(nowhere.code(), Some(1));
    assert!(nowhere.stderr.contains("/proc/nowhere"), "{}", nowhere.stderr);
}

#[test]
fn damage_is_refused_and_salvage_keeps_what_can_be_read() {
    let directory = DataDir::new("damage");
    {
        let server = start(&directory, "sync", "1", &[]);
        let mut client = Client::connect(server.address());
        for key in 0..50 {
            client.call(&format!("SET key:{key} {key}"));
        }
        assert!(server.stop().success());
    }
    let segment = directory.segments().remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    // In the tenth group or so.
    let at = 4096 * 12 + 73;
    assert_ne!(bytes[at], 0);
    bytes[at] ^= 4;
    fs::write(&segment, &bytes).unwrap();
    let args = ["--port", "0", "--cores", "1", "--data-dir", directory.path()];
    let refused = run_to_end(command(&args));
    assert_eq!(refused.code(), Some(1));
    assert!(refused.stderr.contains("is damaged at byte"), "{}", refused.stderr);
    assert_eq!(fs::read(&segment).unwrap(), bytes, "a refused log is left alone");
    {
        let server = start(&directory, "sync", "1", &["--wal-recover", "salvage"]);
        let mut client = Client::connect(server.address());
        let Value::Int(keys) = client.call("DBSIZE") else { panic!() };
        assert!((40..50).contains(&keys), "{keys} keys were salvaged");
        assert!(server.stop().success());
    }
    assert!(paths(&directory.0).any(|path| path.to_str().unwrap().contains("damaged-")));
    let server = start(&directory, "sync", "1", &[]);
    assert_eq!(get(&mut Client::connect(server.address()), "key:49").as_deref(), Some("49"));
}

#[test]
fn a_newer_format_is_refused() {
    const VERSION_AT: usize = 8;
    const CHECKSUM_AT: usize = 60;
    let directory = DataDir::new("newer");
    {
        let server = start(&directory, "sync", "1", &[]);
        assert_eq!(Client::connect(server.address()).call("SET key value"), Value::ok());
        assert!(server.stop().success());
    }
    let segment = directory.segments().remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[VERSION_AT] = 99;
    let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..][..4].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&segment, &bytes).unwrap();
    for recover in ["strict", "salvage"] {
        let args = ["--port", "0", "--cores", "1", "--data-dir", directory.path(), "--wal-recover", recover];
        let refused = run_to_end(command(&args));
        assert_eq!(refused.code(), Some(1), "{recover}");
        assert!(refused.stderr.contains("format version 99"), "{recover}: {}", refused.stderr);
        assert_eq!(fs::read(&segment).unwrap(), bytes, "{recover}: it is left alone");
    }
}

/// More keys than there is memory for now: what is read is held to the ceiling as well, and what has to go for it stays
/// gone.
#[test]
fn recovery_keeps_to_the_memory_ceiling() {
    const KEYS: usize = 24_000;
    const VALUE_BYTES: usize = 1_500;
    const CEILING: i64 = 16 << 20;
    let directory = DataDir::new("ceiling");
    {
        let server = start(&directory, "async", "1", &[]);
        let mut client = Client::connect(server.address());
        let value = "v".repeat(VALUE_BYTES);
        for first in (0..KEYS).step_by(100) {
            let batch: Vec<u8> = (first..first + 100)
                .flat_map(|key| support::client::command(&["SET", &format!("key:{key}"), &value]))
                .collect();
            client.send(&batch);
            assert!(client.replies(100).iter().all(|reply| *reply == Value::ok()));
        }
        assert!(server.stop().success());
    }
    let mut before = None;
    for _ in 0..2 {
        let server = start(&directory, "async", "1", &["--max-memory", &CEILING.to_string()]);
        let mut client = Client::connect(server.address());
        let Value::Int(keys) = client.call("DBSIZE") else { panic!("no number of keys") };
        assert!((1_000..CEILING / VALUE_BYTES as i64).contains(&keys), "{keys} keys in {CEILING} bytes");
        // A key that had to go does not come back at the next start.
        assert!(before.replace(keys).is_none_or(|before| keys <= before), "{keys} keys, and before {before:?}");
        assert!(server.stop().success());
    }
}

#[test]
fn a_reply_promises_what_was_asked_for() {
    let plain = Server::start(&["--cores", "1"]);
    let mut client = Client::connect(plain.address());
    assert_eq!(client.call("SET k v DURABLE none"), Value::ok());
    let Value::Error(error) = client.call("SET k v DURABLE sync") else { panic!("nobody can promise that") };
    assert!(String::from_utf8_lossy(&error).contains("--data-dir"));
    assert!(matches!(client.call("SET k v DURABLE often"), Value::Error(_)));

    let directory = DataDir::new("promise");
    let server = start(&directory, "none", "1", &[]);
    let mut client = Client::connect(server.address());
    for key in 0..20 {
        assert_eq!(client.call(&format!("SET key:{key} v DURABLE sync")), Value::ok());
    }
    kill(server);
    let server = start(&directory, "none", "1", &[]);
    assert_eq!(Client::connect(server.address()).call("DBSIZE"), Value::Int(20));
}

/// An interval after the last write a kill takes nothing.
#[test]
fn async_loses_no_more_than_its_interval() {
    let directory = DataDir::new("interval");
    let server = start(&directory, "async", "2", &["--wal-async-ms", "50"]);
    let mut client = Client::connect(server.address());
    for key in 0..1_000 {
        client.call(&format!("SET key:{key} v"));
    }
    // Forty times the interval: a machine may be busy.
    std::thread::sleep(Duration::from_secs(2));
    kill(server);
    let server = start(&directory, "async", "2", &[]);
    assert_eq!(Client::connect(server.address()).call("DBSIZE"), Value::Int(1_000));
}

#[test]
fn the_log_is_told_about_and_looked_at() {
    let directory = DataDir::new("told");
    let server = start(&directory, "async", "2", &[]);
    let mut client = Client::connect(server.address());
    for key in 0..100 {
        client.call(&format!("SET key:{key} v"));
    }
    assert_eq!(client.call("WAITAOF 1 0 0"), Value::Array(vec![Value::Int(1), Value::Int(0)]));
    for (name, value) in [("appendonly", "yes"), ("appendfsync", "everysec"), ("dir", directory.path())] {
        let shown = client.call(&format!("CONFIG GET {name}"));
        assert_eq!(shown, Value::Array(vec![Value::Bulk(name.into()), Value::Bulk(value.into())]));
    }
    assert!(matches!(client.call("LASTSAVE"), Value::Int(seconds) if seconds > 1_700_000_000));
    let Value::Simple(started) = client.call("BGREWRITEAOF") else { panic!("not started") };
    assert_eq!(started, b"Background append only file rewriting started");
    support::vitals::info_reaches(&mut client, "aof_enabled", 1);
    support::vitals::info_reaches(&mut client, "wal_syncs", 1);
    support::vitals::info_reaches(&mut client, "wal_bytes_copied", 100);
    client.send(b"SHUTDOWN\r\n");
    let mut server = server;
    assert!(server.wait().status.success());
    for (verb, says) in [("verify", "sound"), ("inspect", "set \"key:7\" = \"v\"")] {
        let mut looking = std::process::Command::new(env!("CARGO_BIN_EXE_crabcache"));
        let looked = looking.args(["wal", verb, directory.path()]).output().unwrap();
        assert!(looked.status.success());
        assert!(String::from_utf8_lossy(&looked.stdout).contains(says), "{verb}");
    }
    let segment = directory.segments().remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4096 + 40] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let mut looking = std::process::Command::new(env!("CARGO_BIN_EXE_crabcache"));
    assert_eq!(looking.args(["wal", "verify", directory.path()]).output().unwrap().status.code(), Some(1));
}

/// A disk of 64 MiB that is full before the keys are.
#[test]
fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let directory = DataDir::new("full");
    let image = directory.0.join("image");
    let mount = directory.0.join("mount");
    fs::create_dir_all(&mount).unwrap();
    let run = |program: &str, args: &[&str]| {
        std::process::Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let (image, mount) = (image.to_str().unwrap(), mount.to_str().unwrap());
    if !run("mkfs.ext4", &["-q", "-F", image]) || !run("mount", &["-o", "loop", image, mount]) {
        eprintln!("skipped: no loop device may be mounted here");
        return;
    }
    struct Mounted<'a>(&'a str);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").args(["-l", self.0]).output();
        }
    }
    let _mounted = Mounted(mount);
    let filler = format!("{mount}/filler");
    fs::write(&filler, vec![1; 16 << 20]).unwrap();
    let data = format!("{mount}/data");
    let server = Server::start(&["--cores", "1", "--data-dir", &data, "--wal-sync", "sync"]);
    let mut client = Client::connect(server.address());
    let value = "v".repeat(20_000);
    let refused = (0..10_000).find(|key| match client.call_words(&["SET", &format!("key:{key}"), &value]) {
        Value::Error(error) => {
            let error = String::from_utf8_lossy(&error).into_owned();
            assert!(error.starts_with("MISCONF") && error.contains(&data), "{error}");
            true
        }
        _ => false,
    });
    let refused = refused.expect("the disk is full at some time");
    assert_eq!(get(&mut client, "key:0").as_ref(), Some(&value), "reads go on");
    fs::remove_file(&filler).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while matches!(client.call("SET back again"), Value::Error(_)) {
        assert!(std::time::Instant::now() < deadline, "writes are still refused");
        std::thread::sleep(Duration::from_millis(50));
    }
    kill(server);
    let server = Server::start(&["--cores", "1", "--data-dir", &data, "--wal-sync", "sync"]);
    let mut client = Client::connect(server.address());
    assert_eq!(client.call("DBSIZE"), Value::Int(refused as i64 + 1));
    assert!(server.stop().success());
}

/// Who comes while the log is being made is answered with errors, and by that must not keep it from being made: its files
/// are looked at however busy the core is.
#[test]
fn a_flood_does_not_keep_a_server_from_loading() {
    const FLOODS: usize = 10;
    const PIPELINE: usize = 64;
    let directory = DataDir::new("flood");
    // With a log level of its own it is there as soon as it listens, before it is ready.
    let server = start(&directory, "sync", "1", &["--log-level", "info"]);
    let address = server.address();
    let deadline = Instant::now() + PATIENCE;
    let batch = support::client::command(&["SET", "key", "value"]).repeat(PIPELINE);
    std::thread::scope(|scope| {
        for _ in 0..FLOODS {
            let batch = &batch;
            scope.spawn(move || {
                let mut client = Client::connect(address);
                loop {
                    client.send(batch);
                    let replies = client.replies(PIPELINE);
                    if replies.iter().all(|reply| !reply.is_error()) {
                        return;
                    }
                    assert!(Instant::now() < deadline, "still {:?}", replies.last());
                }
            });
        }
    });
}

/// Fifty clients, each with one write at a time, until one of them waited for ever: the core took a leftover of the
/// kernel's for work, and never let the log's files have their turn.
#[test]
fn clients_with_one_write_at_a_time_are_answered_every_time() {
    const CLIENTS: usize = 50;
    const ROUNDS: usize = 200;
    let directory = DataDir::new("single-writes");
    let server = start(&directory, "sync", "1", &[]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(server.address())).collect();
    for round in 0..ROUNDS {
        for (at, client) in clients.iter_mut().enumerate() {
            client.send(&support::client::command(&["SET", &format!("key:{at}"), &round.to_string()]));
        }
        for client in &mut clients {
            assert_eq!(client.replies(1), [Value::Simple("OK".into())]);
        }
    }
    assert!(server.stop().success());
}

/// What the databases show is remembered, also when the key that says so has gone with all others.
#[test]
fn swapped_databases_survive_kills_and_other_numbers_of_cores() {
    let directory = DataDir::new("swapped");
    let server = start(&directory, "sync", "3", &[]);
    let mut client = Client::connect(server.address());
    assert_eq!(client.call("SET k zero"), Value::ok());
    client.call("SELECT 2");
    assert_eq!(client.call("SET k two"), Value::ok());
    assert_eq!(client.call("SWAPDB 2 0"), Value::ok());
    kill(server);
    let server = start(&directory, "sync", "2", &[]);
    let mut client = Client::connect(server.address());
    wait_until_loaded(&mut client);
    assert_eq!((client.call("GET k"), client.call("DBSIZE")), (Value::bulk("two"), Value::Int(1)));
    client.call("SELECT 2");
    assert_eq!(client.call("GET k"), Value::bulk("zero"));
    assert_eq!(client.call("NAMESPACE LIST"), Value::Array(vec![Value::bulk("db2")]));
    client.call("FLUSHALL");
    let deadline = Instant::now() + PATIENCE;
    while client.call_words(&["EXISTS", "\0server^{3560}databases"]) != Value::Int(1) {
        assert!(Instant::now() < deadline);
    }
    client.call("SELECT 0");
    assert_eq!(client.call("SET k new"), Value::ok());
    assert_eq!(client.call("GET db2^k"), Value::NilBulk);
    client.call("SELECT 5");
    assert_eq!(client.call("GET db2^k"), Value::NilBulk);
    kill(server);
    let server = start(&directory, "sync", "3", &[]);
    let mut client = Client::connect(server.address());
    wait_until_loaded(&mut client);
    assert_eq!(client.call("GET k"), Value::bulk("new"));
    assert_eq!(client.call("SWAPDB 0 2"), Value::ok());
    assert_eq!(client.call("GET k"), Value::NilBulk);
}

fn wait_until_loaded(client: &mut Client) {
    let deadline = Instant::now() + PATIENCE;
    while client.call("GET k").is_error() {
        assert!(Instant::now() < deadline);
    }
}
