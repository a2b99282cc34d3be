//! Against the servers that it is for: Redis, memcached and our own.

mod harness;

use harness::{Directory, Server, loadgen};

/// How often `command` was called, by Redis's own count.
fn calls(server: &Server, command: &str) -> u64 {
    let statistics = server.ask("INFO commandstats");
    let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[test]
fn redis_gets_exactly_the_requests_that_were_asked_for() {
    let server = Server::redis(&[]);
    let port = server.port_text();
    let tests = "ping_inline,ping_mbulk,set,get,incr,del,expire,mset5,mget7";
    let run = loadgen(&["-p", &port, "-n", "1003", "-c", "7", "-P", "9", "-r", "100", "-t", tests, "-q"]).succeeded();
    assert_eq!(run.out.lines().count(), 9, "{}", run.out);
    assert!(run.out.contains("MGET (7 keys): "), "{}", run.out);
    assert_eq!(run.err, "", "nothing moves in a pipe");
    for command in ["set", "get", "incr", "del", "expire", "mset", "mget"] {
        assert_eq!(calls(&server, command), 1003, "{command}");
    }
    assert_eq!(calls(&server, "ping"), 2006);
}

#[test]
fn every_key_is_loaded_once_and_found() {
    let server = Server::redis(&[]);
    let port = server.port_text();
    for threads in ["1", "3"] {
        server.ask("FLUSHALL");
        let words =
            ["-p", &port, "-n", "20000", "-r", "5000", "--preload", "-t", "get", "--threads", threads, "-d", "1000"];
        let run = loadgen(&words).succeeded();
        assert!(run.out.contains("hits: 20000 of 20000"), "{}", run.out);
        assert!(server.ask("DBSIZE").starts_with(":5000\r\n"));
        assert!(server.ask("STRLEN key:000000000042").starts_with(":1000\r\n"));
    }
}

#[test]
fn large_values_in_deep_pipelines() {
    let server = Server::redis(&[]);
    let words =
        ["-p", &server.port_text(), "-n", "300", "-c", "3", "-P", "50", "-r", "20", "-d", "300k", "-t", "set,get"];
    let run = loadgen(&words).succeeded();
    assert!(run.out.contains("hits: 300 of 300"), "{}", run.out);
}

#[test]
fn passwords_and_sockets() {
    let server = Server::redis(&["--requirepass", "secret", "--unixsocket", "{dir}/socket"]);
    let port = server.port_text();
    loadgen(&["-p", &port, "-n", "100", "-t", "set", "-a", "secret", "-q"]).succeeded();
    loadgen(&["-p", &port, "-n", "100", "-t", "set", "-a", "secret", "--user", "default", "--protocol", "resp3", "-q"])
        .succeeded();
    loadgen(&["-p", &port, "-n", "100", "-t", "set", "-a", "wrong"]).failed_with(1, &["refused AUTH", "WRONGPASS"]);
    loadgen(&["-p", &port, "-n", "100", "-t", "set"]).failed_with(1, &["NOAUTH"]);
    let socket = server.directory.join("socket");
    loadgen(&["-s", socket.to_str().unwrap(), "-a", "secret", "-n", "100", "-t", "set,get", "-q"]).succeeded();
}

#[test]
fn connections_for_one_pipeline_each() {
    let server = Server::redis(&[]);
    loadgen(&["-p", &server.port_text(), "-k", "0", "-n", "200", "-c", "5", "-P", "2", "-t", "set", "-q"]).succeeded();
    let info = server.ask("INFO stats");
    let received = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
    assert!(received.parse::<u32>().unwrap() >= 100, "{received}");
    assert_eq!(calls(&server, "set"), 200);
}

#[test]
fn results_for_machines() {
    let server = Server::redis(&[]);
    let directory = Directory::new("outputs");
    let (json, svg, prefix) = (directory.file("out.json"), directory.file("out.svg"), directory.file("lat"));
    let words =
        ["-p", &server.port_text(), "-n", "5000", "-t", "set,get", "-d", "10", "--csv", "--json-out-file", &json];
    let run = loadgen(&[&words[..], &["--svg", &svg, "--hdr-file-prefix", &prefix]].concat()).succeeded();
    let lines: Vec<&str> = run.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", run.out);
    assert!(
        lines[0].starts_with("\"test\",\"rps\",\"avg_latency_ms\"") && lines[1].starts_with("\"SET\",\""),
        "{}",
        run.out
    );
    assert_eq!(lines[1].split(',').count(), lines[0].split(',').count());
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(result["tests"][1]["test"], "GET");
    assert_eq!(result["tests"][1]["total"]["requests"], 5000);
    assert!(result["tests"][0]["intervals"][0]["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
    assert!(std::fs::read_to_string(svg).unwrap().contains("Latency by percentile"));
    let percentiles = std::fs::read_to_string(directory.file("lat_set.hgrm")).unwrap();
    assert!(percentiles.contains("Total count    =         5000"), "{percentiles}");
    assert!(
        std::fs::read_to_string(directory.file("lat_get.hlog")).unwrap().lines().any(|line| line.contains(",HISTFAA"))
    );
}

#[test]
fn a_paced_load_keeps_its_pace() {
    let server = Server::redis(&[]);
    let directory = Directory::new("pace");
    let json = directory.file("out.json");
    for arrivals in ["even", "poisson", "burst"] {
        let words = [
            "-p",
            &server.port_text(),
            "--rate",
            "2000",
            "--arrivals",
            arrivals,
            "--test-time",
            "2",
            "--mix",
            "set=1,get=3",
        ];
        loadgen(&[&words[..], &["--json-out-file", &json, "--threads", "2"]].concat()).succeeded();
        let result: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        let rate = result["tests"][0]["requests_per_second"].as_f64().unwrap();
        assert!((1850.0..2150.0).contains(&rate), "{arrivals}: {rate}");
    }
}

/// With room for everything, the hits are what is no first access.
#[test]
fn a_trace_is_replayed_in_order_with_fills() {
    let directory = Directory::new("trace");
    let trace = directory.file("trace");
    let keys: Vec<u64> = (0..5000u64).map(|index| (index * index) % 997).collect();
    let unique = keys.iter().collect::<std::collections::HashSet<_>>().len();
    let lines: String = keys.iter().map(|key| format!("{key},{}\n", 10 + key % 50)).collect();
    std::fs::write(&trace, lines).unwrap();
    let hits = format!("hits: {} of 5000", 5000 - unique);
    let fills = format!("fills after misses: {unique}");
    let redis = Server::redis(&[]);
    let crabcache = Server::crabcache(&["--cores", "1"]);
    for (server, flags) in [
        (&redis, &["-P", "1"][..]),
        (&redis, &["-P", "16"]),
        (&crabcache, &["-P", "16"]),
        (&crabcache, &["-P", "1", "--protocol", "binary"]),
    ] {
        server.ask("FLUSHALL");
        let run = loadgen(&[&["-p", &server.port_text(), "--trace", &trace], flags].concat()).succeeded();
        assert!(run.out.contains(&hits) && run.out.contains(&fills), "{flags:?}: {hits}: {}", run.out);
        let key = keys[10];
        assert!(server.ask(&format!("STRLEN key:{key:012}")).starts_with(&format!(":{}\r\n", 10 + key % 50)));
    }
}

#[test]
fn verified_mixes_find_nothing_wrong() {
    let redis = Server::redis(&[]);
    let crabcache = Server::crabcache(&["--cores", "2"]);
    let mix = "set=4,get=6,del=1,mget3=1,mset3=1,expire=1,incr=1";
    for (server, protocol) in [(&redis, "resp2"), (&crabcache, "resp2"), (&crabcache, "resp3"), (&crabcache, "binary")]
    {
        let port = server.port_text();
        let words =
            ["-p", &port, "--verify", "--mix", mix, "-n", "30000", "-r", "300", "-P", "8", "--protocol", protocol];
        let run = loadgen(&[&words[..], &["--data-size-range", "32-2000", "--threads", "2"]].concat()).succeeded();
        assert!(run.out.contains("foreign 0, torn 0, stale 0, wrong 0"), "{}", run.out);
    }
}

/// Every key is written by many connections at a time when they go round and round in few keys.
#[test]
fn verified_sequences_find_nothing_wrong() {
    let redis = Server::redis(&[]);
    let words = ["--verify", "--keys", "sequential", "--mix", "set=1,get=1", "-n", "40000", "-r", "60", "-c", "50"];
    let port = redis.port_text();
    let words = [&["-p", &port], &words[..], &["-P", "16", "--threads", "2", "--preload"]].concat();
    let run = loadgen(&words).succeeded();
    assert!(run.out.contains("foreign 0, torn 0, stale 0, wrong 0"), "{}", run.out);
}

#[test]
fn memcached_in_its_own_words() {
    let server = Server::memcached();
    let port = server.port_text();
    let words = ["-p", &port, "--protocol", "memcache", "-n", "5000", "-r", "1000", "-P", "8", "-d", "100"];
    let run = loadgen(&[&words[..], &["--preload", "-t", "set,get,mget4,del,expire"]].concat()).succeeded();
    assert!(run.out.contains("hits: 5000 of 5000") && run.out.contains("hits: 20000 of 20000"), "{}", run.out);
    let run = loadgen(&[&words[..], &["--mix", "set=1,get=1", "--verify"]].concat()).succeeded();
    assert!(run.out.contains("stale 0"), "{}", run.out);
}

#[test]
fn each_core_of_ours_as_a_node() {
    let server = Server::crabcache(&["--cores", "2"]);
    let port = server.port_text();
    let words = ["-p", &port, "--cluster", "--preload", "-r", "3000", "-n", "20000", "-P", "4", "--mix", "get=3,set=1"];
    let run = loadgen(&words).succeeded();
    assert!(run.out.contains("(100.00 %)"), "{}", run.out);
    assert!(server.ask("DBSIZE").starts_with(":3000\r\n"));
    // The keys of a node without a connection were never asked for, and an open loop waited for them for ever.
    loadgen(&["-p", &port, "--cluster", "-c", "1", "-n", "100", "-t", "get"]).failed_with(1, &["2 nodes", "-c says 1"]);
}

#[test]
fn own_commands() {
    let server = Server::redis(&[]);
    loadgen(&["-p", &server.port_text(), "-n", "100", "-r", "10", "-q", "HSET", "h:__rand_int__", "field", "__data__"])
        .succeeded();
    assert_eq!(calls(&server, "hset"), 100);
}
