//! The short form of the soak, which is part of the suite, and what ends it early.

mod harness;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Directory, crabcache, finished, loadgen};

const REDIS: &str = "redis-server --port {port} --bind 127.0.0.1 --save '' --dir {dir}";

/// Half a minute of everything at once. Beside other tests latency is theirs as much as the server's, so
/// that only a server that comes to a halt is told from one that is disturbed.
#[test]
fn half_a_minute_leaves_nothing_behind() {
    let directory = Directory::new("soak");
    let (json, svg) = (directory.file("soak.json"), directory.file("soak.svg"));
    let server = format!("{} --port {{port}} --cores 2", crabcache().display());
    // So few keys that their log has been turned over before the first quarter that counts.
    let words = [
        "soak",
        "--minutes",
        "0.5",
        "--rate",
        "2000",
        "-r",
        "4000",
        "--latency-slack-ms",
        "250",
        "--memory-slack-mib",
        "16",
    ];
    let words = [&words[..], &["--server", &server]].concat();
    let run = loadgen(&[&words[..], &["--json", &json, "--svg", &svg]].concat()).succeeded();
    for what in ["resident memory", "descriptors", "p99.9", "clients when all have gone"] {
        assert!(run.out.contains(&format!("| {what}")), "{}", run.out);
    }
    assert!(!run.out.contains("GREW") && !run.out.contains("WRONG"), "{}", run.out);
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert!(result["samples"].as_array().unwrap().len() > 20, "{result}");
    assert!(result["requests"].as_u64().unwrap() > 50_000, "{result}");
    assert_eq!(result["errors"], 0);
    assert!(std::fs::read_to_string(svg).unwrap().contains("Resident memory"));
}

#[test]
fn a_server_that_dies_meanwhile_is_told() {
    let run = loadgen(&["soak", "--minutes", "5", "--server", &format!("timeout -s KILL 5 {REDIS}")]);
    assert_eq!(run.code, Some(1), "out: {}\nerr: {}", run.out, run.err);
    assert!(run.err.contains("ended a connection") || run.err.contains("cannot connect"), "{}", run.err);
    assert!(run.took < Duration::from_secs(60), "{:?}", run.took);
}

#[test]
fn an_interrupt_ends_it_and_the_server() {
    let started = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["soak", "--minutes", "5", "--server", REDIS])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    std::thread::sleep(Duration::from_secs(4));
    assert!(Command::new("kill").args(["-s", "INT", &pid.to_string()]).status().unwrap().success());
    let run = finished(child.wait_with_output().unwrap(), started);
    assert_eq!(run.code, Some(130), "out: {}\nerr: {}", run.out, run.err);
    assert!(run.took < Duration::from_secs(30), "{:?}", run.took);
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let ours = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("loadgen-{pid}-")));
    assert_eq!(ours.count(), 0);
}

#[test]
fn wrong_flags() {
    for words in [&["soak", "--minutes", "0"][..], &["soak", "--server", "redis-server"], &["soak", "--nonsense"]] {
        let run = loadgen(words);
        assert_eq!(run.code, Some(2), "{words:?}: {}", run.err);
    }
}
