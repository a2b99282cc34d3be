//! Servers that are gone, silent, slow or wrong: loadgen says so with the bytes, and never hangs.

mod harness;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::{Directory, fake, fake_resp, finished, free_port, loadgen};

fn port_of(address: std::net::SocketAddr) -> String {
    address.port().to_string()
}

#[test]
fn nobody_listens() {
    let port = free_port().to_string();
    loadgen(&["-p", &port, "-n", "10"]).failed_with(1, &["cannot connect", "connection refused"]);
    loadgen(&["-s", "/nonexistent/socket", "-n", "10"]).failed_with(1, &["no such socket"]);
}

#[test]
fn another_protocol_altogether() {
    let address = fake(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    let port = port_of(address);
    loadgen(&["-p", &port, "-n", "10"]).failed_with(1, &["answered nonsense", "HTTP/1.1 400 Bad Request\\r\\n"]);
    loadgen(&["-p", &port, "-n", "10", "--protocol", "binary"]).failed_with(1, &["answered nonsense", "HTTP/1.1"]);
    loadgen(&["-p", &port, "-n", "10", "--protocol", "memcache"]).failed_with(1, &["answered nonsense", "HTTP/1.1"]);
    loadgen(&["-p", &port, "-n", "10", "--protocol", "resp3"]).failed_with(1, &["answered nonsense", "HTTP/1.1"]);
}

#[test]
fn a_reply_of_another_type() {
    let address = fake_resp(|_| b":1\r\n".to_vec());
    loadgen(&["-p", &port_of(address), "-n", "10", "-t", "get"]).failed_with(1, &["not a reply to GET", ":1\\r\\n"]);
}

#[test]
fn more_replies_than_requests() {
    let address = fake_resp(|_| b"+OK\r\n+OK\r\n".to_vec());
    loadgen(&["-p", &port_of(address), "-n", "10", "-t", "set"]).failed_with(1, &["nobody asked for"]);
}

#[test]
fn the_server_hangs_up() {
    let address = fake(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"+O");
    });
    let run = loadgen(&["-p", &port_of(address), "-n", "10", "-t", "set"]);
    run.failed_with(1, &["ended a connection with 1 replies due", "+O"]);
}

#[test]
fn the_server_says_nothing() {
    let address = fake(|mut stream| {
        let mut chunk = [0; 1024];
        while let Ok(1..) = stream.read(&mut chunk) {}
    });
    for flags in [&["-t", "set"][..], &["-t", "get", "--rate", "1000"], &["--protocol", "resp3", "-t", "get"]] {
        let port = port_of(address);
        let run = loadgen(&[&["-p", &port, "-n", "100", "--timeout", "0.5"], flags].concat());
        assert!(run.took < Duration::from_secs(8), "{:?}", run.took);
        assert_eq!(run.code, Some(1), "{}", run.err);
        assert!(run.err.contains("did not reply") || run.err.contains("no answer in time"), "{}", run.err);
    }
}

/// Requests kept coming due on each connection before its patience was over, and each began it anew.
#[test]
fn an_open_loop_notices_silence_however_often_it_asks() {
    let address = fake(|mut stream| while let Ok(1..) = stream.read(&mut [0; 1024]) {});
    let words = ["-t", "set", "--rate", "200", "-c", "10", "-P", "100000", "--test-time", "60", "--timeout", "1"];
    let run = loadgen(&[&["-p", &port_of(address)], &words[..]].concat()).failed_with(1, &["did not reply for"]);
    assert!(run.took < Duration::from_secs(30), "{:?}", run.took);
}

/// Each byte was progress, so that a reply that never ends was waited for for ever.
#[test]
fn a_reply_that_comes_byte_by_byte_does_not_come() {
    let address = fake(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"$100000\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let port = port_of(address);
    for flags in [&["-t", "get"][..], &["-t", "get", "--rate", "100"], &["-t", "get", "--protocol", "resp3"]] {
        let run = loadgen(&[&["-p", &port, "-c", "1", "-n", "5", "--timeout", "0.2"], flags].concat());
        let run = run.failed_with(1, &["the last bytes received were", "xx"]);
        assert!(run.took < Duration::from_secs(30), "{flags:?}: {:?}", run.took);
    }
}

/// It is full, and nobody is let in.
#[test]
fn a_socket_that_accepts_nobody() {
    let directory = Directory::new("full");
    let path = directory.file("socket");
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let run = loadgen(&["-s", &path, "-t", "set", "-n", "10", "--timeout", "0.5"]);
    let run = run.failed_with(1, &["cannot connect", "no answer in time"]);
    assert!(run.took < Duration::from_secs(20), "{:?}", run.took);
}

#[test]
fn replies_that_no_server_gives_are_nonsense() {
    for (reply, test, why, shown) in [
        ("*3\r\n$1\r\na\r\n$1\r\nb\r\n$-1\r\n", "mget4", "not a reply to MGET (4 keys)", "*3\\r\\n"),
        ("$1\r\na\r\n", "mget4", "not a reply to MGET (4 keys)", "$1\\r\\na"),
        ("$3\r\nabcde$3\r\n", "get", "does not end with CRLF", "abcde"),
        ("$9223372036854775807\r\n", "get", "a value longer than any", "$9223372036854775807"),
        ("+QUEUED\r\n", "set", "not a reply to SET", "+QUEUED"),
    ] {
        let address = fake_resp(move |_| reply.as_bytes().to_vec());
        loadgen(&["-p", &port_of(address), "-n", "10", "-c", "1", "-t", test]).failed_with(1, &[why, shown]);
    }
    let endless = fake_resp(|_| b"*9223372036854775807\r\n".repeat(4));
    loadgen(&["-p", &port_of(endless), "-n", "10", "-t", "mget"]).failed_with(1, &["more values than any reply has"]);
}

#[test]
fn error_replies_are_counted_and_the_first_is_shown() {
    let calls = AtomicU64::new(0);
    let address = fake_resp(move |_| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        if call % 10 == 9 { format!("-OOM number {call}\r\n").into_bytes() } else { b"+OK\r\n".to_vec() }
    });
    let run = loadgen(&["-p", &port_of(address), "-n", "1000", "-c", "1", "-t", "set"]);
    let run = run.failed_with(1, &["the first error reply to SET: \"OOM number 9\""]);
    assert!(run.out.contains("1000 requests completed") && run.out.contains("error replies: 100"), "{}", run.out);
}

#[test]
fn wrong_flags() {
    for words in [&["--nonsense"][..], &["-t", "lpush"], &["-n", "5", "--test-time", "5"], &["-c", "0"], &["compare"]] {
        let run = loadgen(words);
        assert_eq!(run.code, Some(2), "{words:?}: {}", run.err);
        assert!(!run.err.is_empty());
    }
    assert!(loadgen(&["--help"]).succeeded().out.contains("--pipeline"));
    assert!(loadgen(&["compare", "--help"]).succeeded().out.contains("--noise-rounds"));
}

#[test]
fn an_interrupted_load_tells_what_it_has() {
    let address = fake_resp(|_| b"+OK\r\n".to_vec());
    let started = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["-p", &port_of(address), "-t", "set,get", "--test-time", "60", "-c", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(800));
    assert!(Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap().success());
    let run = finished(child.wait_with_output().unwrap(), started);
    assert_eq!(run.code, Some(130), "{}", run.err);
    assert!(run.out.contains("====== SET ======") && run.out.contains("throughput summary"), "{}", run.out);
    assert!(!run.out.contains("GET") && run.took < Duration::from_secs(10), "{}", run.out);
}

/// All requests that would have become due until the end were said to have been due.
#[test]
fn an_interrupted_open_loop_owes_nothing() {
    let address = fake_resp(|_| b"+OK\r\n".to_vec());
    let started = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["-p", &port_of(address), "-t", "set", "--test-time", "60", "-c", "2", "--rate", "50"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(800));
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
    let run = finished(child.wait_with_output().unwrap(), started);
    assert_eq!(run.code, Some(130), "{}", run.err);
    assert!(run.out.contains("throughput summary") && !run.out.contains("never sent"), "{}", run.out);
}

/// `loadgen … | head -1` ended in a panic.
#[test]
fn nobody_reads_the_output_any_more() {
    let address = fake_resp(|_| b"+OK\r\n".to_vec());
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["-p", &port_of(address), "-t", "set", "--test-time", "1", "--csv"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let run = finished(child.wait_with_output().unwrap(), started);
    assert_eq!(run.code, Some(130), "{}", run.err);
    assert!(run.err.contains("cannot write to standard output"), "{}", run.err);
}

#[test]
fn what_could_not_be_loaded_is_an_error() {
    let address = fake_resp(|words| if words[0] == b"SET" { b"-OOM no\r\n".to_vec() } else { b"$-1\r\n".to_vec() });
    let words = ["-p", &port_of(address), "-t", "get", "-n", "10", "-r", "100", "--preload", "-q"];
    loadgen(&words).failed_with(1, &["preload: the first error reply to SET: \"OOM no\""]);
}

/// On a terminal there is a line that moves, and it is gone when the results are there.
#[test]
fn a_bar_on_a_terminal() {
    let address = fake_resp(|_| b"+OK\r\n".to_vec());
    let command =
        format!("{} -p {} -t set --test-time 1.5 -c 2 --rate 500", env!("CARGO_BIN_EXE_loadgen"), address.port());
    let output = Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    let (before, results) = shown.split_once("====== SET ======").unwrap();
    assert!(before.contains("SET: [####") && before.contains("p99"), "{before}");
    assert!(before.ends_with("\r\x1b[2K") && !results.contains('\x1b'), "{shown}");
}

#[test]
fn outputs_that_cannot_be_written_are_told_at_once() {
    let address = fake_resp(|_| b"+OK\r\n".to_vec());
    let words = ["-p", &port_of(address), "-t", "set", "--test-time", "30", "--json-out-file", "/nonexistent/x.json"];
    let run = loadgen(&words).failed_with(1, &["cannot write /nonexistent/x.json"]);
    assert!(run.took < Duration::from_secs(5));
}

/// Half a second during which nothing is answered concerns all requests that were due in it, not only
/// the few that were on their way.
#[test]
fn an_open_loop_counts_the_time_in_line() {
    let directory = Directory::new("open");
    let stalled = AtomicBool::new(false);
    let started = Instant::now();
    let address = fake_resp(move |_| {
        if started.elapsed() > Duration::from_millis(700) && !stalled.swap(true, Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(500));
        }
        b"+OK\r\n".to_vec()
    });
    let json = directory.file("open.json");
    let port = port_of(address);
    let common = ["-p", &port, "-c", "1", "-t", "set", "--test-time", "2", "--json-out-file", &json];
    loadgen(&[&common[..], &["--rate", "1000"]].concat()).succeeded();
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let total = &result["tests"][0]["total"];
    let requests = total["requests"].as_u64().unwrap();
    assert!((1900..=2001).contains(&requests), "{total}");
    // A quarter of the requests were due in the stall: those beyond the 90th percentile waited more
    // than 0.25 s, although only one was on its way.
    assert!(total["latency_ms"]["p90"].as_f64().unwrap() > 150.0, "{total}");
    assert!((400.0..700.0).contains(&total["latency_ms"]["max"].as_f64().unwrap()), "{total}");
}

/// A server that remembers the first value of each key for ever.
#[test]
fn verify_finds_stale_values() {
    let store: Mutex<HashMap<Vec<u8>, Vec<u8>>> = Mutex::default();
    let address = fake_resp(move |words| {
        let mut store = store.lock().unwrap();
        match &words[0][..] {
            b"SET" => {
                store.entry(words[1].clone()).or_insert(words[2].clone());
                b"+OK\r\n".to_vec()
            }
            _ => bulk(store.get(&words[1])),
        }
    });
    let words = ["-p", &port_of(address), "--verify", "--mix", "set=1,get=1", "-r", "100", "-n", "5000", "-c", "10"];
    let run = loadgen(&words).failed_with(1, &[]);
    assert!(run.out.contains("stale value for key") && run.out.contains("foreign 0, torn 0"), "{}", run.out);
    // Where there are only numbers, it is said beside them.
    for flag in ["-q", "--csv"] {
        loadgen(&[&words[..], &[flag]].concat()).failed_with(1, &["stale value for key", "foreign 0, torn 0"]);
    }
}

/// A server that mixes up keys, and one that tears values.
#[test]
fn verify_finds_foreign_and_torn_values() {
    for torn in [false, true] {
        let last: Mutex<Vec<u8>> = Mutex::default();
        let address = fake_resp(move |words| {
            let mut last = last.lock().unwrap();
            match &words[0][..] {
                b"SET" if torn && !last.is_empty() => {
                    let half = words[2].len() / 2;
                    last[..half].copy_from_slice(&words[2][..half]);
                    b"+OK\r\n".to_vec()
                }
                b"SET" => {
                    *last = words[2].clone();
                    b"+OK\r\n".to_vec()
                }
                _ => bulk(Some(&last)),
            }
        });
        let keys = if torn { "1" } else { "100" };
        let words = ["-p", &port_of(address), "--verify", "--mix", "set=1,get=1", "-r", keys, "-n", "2000", "-c", "1"];
        let run = loadgen(&words).failed_with(1, &[]);
        let expected = if torn { "torn value for key" } else { "foreign value for key" };
        assert!(run.out.contains(expected), "{}", run.out);
    }
}

/// Every key once, in order, by SETs that are half of all requests; GETs go to a few.
#[test]
fn sets_and_gets_may_draw_their_keys_in_different_ways() {
    let asked: Mutex<[Vec<u64>; 2]> = Mutex::default();
    let asked = std::sync::Arc::new(asked);
    let address = fake_resp({
        let asked = asked.clone();
        move |words| {
            let key = std::str::from_utf8(&words[1]).unwrap().trim_start_matches("key:").parse().unwrap();
            let reads = words[0] == b"GET";
            asked.lock().unwrap()[usize::from(reads)].push(key);
            if reads { b"$1\r\nv\r\n".to_vec() } else { b"+OK\r\n".to_vec() }
        }
    });
    let port = port_of(address);
    for (words, alone) in [(&["--ratio", "1:1"][..], false), (&["-t", "get"], true)] {
        *asked.lock().unwrap() = Default::default();
        let pattern = ["--key-pattern", "S:Z", "--key-zipf-exp", "3", "-r", "1000", "-n", "2000", "-c", "1"];
        loadgen(&[&["-p", &port][..], words, &pattern].concat()).succeeded();
        let [sets, gets] = &*asked.lock().unwrap();
        let of_one_key = |keys: &[u64]| {
            keys.iter().map(|key| keys.iter().filter(|other| *other == key).count()).max().unwrap_or_default()
        };
        assert_eq!(sets.len() + gets.len(), 2000);
        assert!(of_one_key(gets) > gets.len() / 2, "the first of Zipf's ranks has four in five");
        assert_eq!(sets.is_empty(), alone);
        assert!(of_one_key(sets) <= 2 && sets[..sets.len() / 2].is_sorted(), "{sets:?}");
    }
}

/// A server that keeps the hundred keys last used has exactly the hits that a simulation of it has.
#[test]
fn the_hit_ratio_of_a_trace_is_that_of_an_exact_simulation() {
    const KEPT: usize = 100;
    /// Moves a key to the front; whether it was there.
    fn touch(kept: &mut Vec<u64>, key: u64) -> bool {
        let found = kept.iter().position(|other| *other == key).map(|at| kept.remove(at));
        kept.insert(0, key);
        kept.truncate(KEPT);
        found.is_some()
    }
    let directory = Directory::new("lru");
    let trace = directory.file("trace");
    // Skewed: small numbers often.
    let keys: Vec<u64> = (0..4000u64).map(|n| (n * 7919 % 1000) * (n * 104_729 % 997) / 1500).collect();
    std::fs::write(&trace, keys.iter().map(|key| format!("{key}\n")).collect::<String>()).unwrap();
    let mut kept = Vec::new();
    let hits = keys.iter().filter(|key| touch(&mut kept, **key)).count();
    assert!((400..3600).contains(&hits), "{hits}");

    let stored: Mutex<Vec<u64>> = Mutex::default();
    let address = fake_resp(move |words| {
        let mut stored = stored.lock().unwrap();
        let key = std::str::from_utf8(&words[1]).unwrap().trim_start_matches("key:").parse().unwrap();
        match &words[0][..] {
            b"SET" => {
                touch(&mut stored, key);
                b"+OK\r\n".to_vec()
            }
            _ if stored.contains(&key) => {
                touch(&mut stored, key);
                b"$1\r\nv\r\n".to_vec()
            }
            _ => b"$-1\r\n".to_vec(),
        }
    });
    let run = loadgen(&["-p", &port_of(address), "--trace", &trace]).succeeded();
    assert!(run.out.contains(&format!("hits: {hits} of 4000")), "{hits}: {}", run.out);
}

fn bulk(value: Option<&Vec<u8>>) -> Vec<u8> {
    match value {
        None => b"$-1\r\n".to_vec(),
        Some(value) => [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat(),
    }
}
