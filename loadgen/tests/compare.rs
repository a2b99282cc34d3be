//! Comparing two servers: the numbers are there, and nothing is left behind.

mod harness;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Directory, crabcache, finished, loadgen};

const REDIS: &str = "redis-server --port {port} --bind 127.0.0.1 --save '' --dir {dir}";

/// Processes whose working directory is one that process `pid` has made for its servers.
fn servers_of(pid: u32) -> Vec<u32> {
    let mark = format!("loadgen-{pid}-");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let directory = std::fs::read_link(format!("/proc/{pid}/cwd"));
        directory.is_ok_and(|directory| directory.to_string_lossy().contains(&mark))
    })
    .collect()
}

fn directories_of(pid: u32) -> usize {
    let mark = format!("loadgen-{pid}-");
    let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&mark)).count()
}

/// Two CPUs or more are needed; machines with one are not what comparisons are made on.
fn flags() -> Vec<&'static str> {
    vec!["--seconds", "0.4", "--warm-up", "0.1", "--foreign-max", "100000", "--quiet-wait", "0", "-r", "2000"]
}

#[test]
fn redis_against_ours() {
    let directory = Directory::new("compare");
    let (json, markdown, svg) = (directory.file("c.json"), directory.file("c.md"), directory.file("c.svg"));
    let ours = format!("{} --port {{port}} --cores 1", crabcache().display());
    let words = [
        "compare",
        "--a",
        REDIS,
        "--b",
        &ours,
        "--rounds",
        "2",
        "--noise-rounds",
        "1",
        "-P",
        "1,16",
        "--mixes",
        "set;set=1,get=3",
    ];
    let outputs = ["--json", &json, "--markdown", &markdown, "--svg", &svg];
    let run = loadgen(&[&words[..], &flags(), &outputs].concat()).succeeded();
    assert!(run.out.contains("All loads: 50 connections, 64 B, 2000 keys, uniform."), "{}", run.out);
    assert!(run.out.contains("| SET, pipeline 16 |"), "{}", run.out);
    assert_eq!(std::fs::read_to_string(markdown).unwrap().trim(), run.out.trim());
    assert!(std::fs::read_to_string(svg).unwrap().contains("Server CPU per operation"));
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let leg = &result["legs"][0];
    assert!(leg["a"]["version"].as_str().unwrap().contains('.'), "{}", leg["a"]);
    assert_eq!(leg["cells"].as_array().unwrap().len(), 4);
    for cell in leg["cells"].as_array().unwrap() {
        assert_eq!(cell["rounds_a"].as_array().unwrap().len(), 2, "{cell}");
        for round in cell["rounds_a"].as_array().unwrap().iter().chain(cell["rounds_b"].as_array().unwrap()) {
            let cpu = round["server_cpu_us_per_op"].as_f64().unwrap();
            assert!(cpu > 0.05 && cpu < 10_000.0, "{round}");
            assert!(round["operations"].as_u64().unwrap() > 100, "{round}");
            assert!(round["resident_bytes"].as_u64().unwrap() > 1 << 20, "{round}");
        }
        assert!(cell["cpu_ratio"]["median"].as_f64().unwrap() > 0.0);
        assert!(cell["noise_cpu_ratio"]["median"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_server_that_does_not_start_is_told() {
    let words = ["compare", "--a", "redis-server --port {port} --no-such-flag 1", "--b", REDIS];
    loadgen(&words).failed_with(1, &["redis-server", "ended"]);
    let words = ["compare", "--a", "/nonexistent/server {port}", "--b", REDIS];
    loadgen(&words).failed_with(1, &["cannot start /nonexistent/server"]);
}

/// Disturbed rounds and rounds with errors are not measurements: they are counted, and that is said.
#[test]
fn disturbed_rounds_are_discarded_and_counted() {
    let directory = Directory::new("discarded");
    let json = directory.file("c.json");
    let without_get = format!("{REDIS} --rename-command GET ''");
    let common = ["--noise-rounds", "0", "--rounds", "1", "-P", "1", "-c", "2", "--mixes", "get", "--json", &json];
    let words = [&["compare", "--a", &without_get, "--b", REDIS], &common[..], &flags()].concat();
    let run = loadgen(&words).failed_with(1, &["discarded:", "error replies", "1 cells without any undisturbed pair"]);
    assert!(run.out.contains("| 0 (3) | no undisturbed pair: "), "{}", run.out);
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(result["legs"][0]["cells"][0]["discarded"].as_array().unwrap().len(), 3, "{result}");

    let mut neighbour = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    let times = ["--seconds", "0.4", "--warm-up", "0.1", "--foreign-max", "5", "--quiet-wait", "0", "-r", "2000"];
    let run = loadgen(&[&["compare", "--a", REDIS, "--b", REDIS], &common[..], &times].concat());
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
    let run = run.failed_with(1, &["discarded: other processes used"]);
    assert!(run.out.contains("| 0 (3) | no undisturbed pair: other processes used "), "{}", run.out);
}

/// Each preset that measures something else than a matrix has results for machines and a chart as well.
#[test]
fn subjects_of_their_own_have_all_outputs() {
    let directory = Directory::new("subject");
    let (json, svg) = (directory.file("s.json"), directory.file("s.svg"));
    let ours = crabcache();
    let words = ["compare", "recovery", "-r", "1000", "--rounds", "1", "--json", &json, "--svg", &svg, "--ours"];
    let run = loadgen(&[&words[..], &[ours.to_str().unwrap()]].concat()).succeeded();
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{result}");
    assert!(rows.iter().all(|row| row["keys"] == 1000 && row["seconds"][0].as_f64().unwrap() > 0.0), "{result}");
    assert!(run.out.contains("| 1000 | crabcache |"), "{}", run.out);
    assert!(std::fs::read_to_string(&svg).unwrap().contains("From the start to the first answer"));
}

/// Every message comes to every subscriber, byte for byte, or there is no result.
#[test]
fn messages_to_many_subscribers() {
    let ours = crabcache();
    let directory = Directory::new("pubsub");
    let json = directory.file("p.json");
    let words = ["compare", "pub-sub", "-c", "20", "--rounds", "1", "--json", &json, "--seconds", "0.2"];
    let quietly =
        ["--warm-up", "0.1", "--foreign-max", "100000", "--quiet-wait", "0", "--ours", ours.to_str().unwrap()];
    let run = loadgen(&[&words[..], &quietly].concat()).succeeded();
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6, "{result}");
    let is_whole = |row: &serde_json::Value| {
        row["subscribers"] == 20
            && row["deliveries"].as_u64().unwrap() >= 20
            && row["server_cpu_ns"].as_u64().unwrap() > 0
            && row["burst_ms"]["p50"].as_f64().unwrap() > 0.001
    };
    assert!(rows.iter().all(is_whole), "{result}");
    assert!(run.out.contains("| crabcache | 64 B | 16 |"), "{}", run.out);
}

/// `loadgen compare … 2>&1 | head -1` ended in a panic, and left its servers' directories behind.
#[test]
fn nobody_reads_what_a_comparison_says() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["compare", "--a", REDIS, "--b", REDIS, "--rounds", "50"])
        .args(flags())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!((directories_of(child.id()), servers_of(child.id()).len()), (0, 0));
}

#[test]
fn an_interrupted_comparison_leaves_nothing_behind() {
    for signal in ["INT", "TERM", "KILL"] {
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["compare", "--a", REDIS, "--b", REDIS, "--rounds", "50"])
            .args(flags())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        // A, its twin, and B, all in the midst of it.
        while servers_of(pid).len() < 3 {
            assert!(child.try_wait().unwrap().is_none(), "ended early");
            assert!(started.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(700));
        assert!(Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap().success());
        let run = finished(child.wait_with_output().unwrap(), started);
        if signal != "KILL" {
            assert_eq!(run.code, Some(130), "{}", run.err);
            assert_eq!(directories_of(pid), 0);
        }
        let killed = Instant::now();
        while !servers_of(pid).is_empty() {
            assert!(killed.elapsed() < Duration::from_secs(10), "{signal}: {:?} still run", servers_of(pid));
            std::thread::sleep(Duration::from_millis(20));
        }
        if signal == "KILL" {
            // Nobody was left to remove them.
            for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&format!("loadgen-{pid}-")) {
                    std::fs::remove_dir_all(entry.path()).unwrap();
                }
            }
        }
    }
}
