//! What others are given to watch and run the server with: the Grafana board, the files of `docker/`, and the page of
//! metrics as Prometheus's own tool reads it.

mod harness;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::Server;
use serde_json::Value as Json;
use support::client::Client;
use support::peers::installed;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A server that has something to tell of every metric.
fn server() -> Server {
    let server = Server::start(&["--cores", "2", "--admin-port", "0"]);
    let mut client = Client::connect(server.address());
    for command in ["SET k v", "GET k", "GET nothing", "MSET a 1 b 2", "DBSIZE", "PING", "INCR k", "GET"] {
        client.call(command);
    }
    server
}

fn admin(server: &Server) -> SocketAddr {
    let log = server.log();
    let (_, rest) = log.split_once("admin on http://").expect("it says where it listens");
    rest.split(['"', ',', '\n', ' ']).next().expect("an address").parse().expect("an address")
}

fn get(server: &Server, target: &str) -> String {
    let mut stream = TcpStream::connect(admin(server)).expect("connect");
    stream.set_read_timeout(Some(harness::PATIENCE)).expect("a timeout");
    write!(stream, "GET {target} HTTP/1.0\r\n\r\n").expect("send");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text.split_once("\r\n\r\n").expect("a head").1.to_string()
}

/// Names of samples, each with the labels it has.
fn samples(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut samples: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.split_once('{').unwrap_or((line.split(' ').next().unwrap_or_default(), ""));
        let labels = labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0.to_string()));
        samples.entry(name.to_string()).or_default().extend(labels);
    }
    samples
}

/// The metrics that a query is about, each with the labels that are matched; and the labels it groups by.
fn parts(query: &str) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let (mut metrics, mut groups) = (Vec::new(), Vec::new());
    let mut rest = query;
    while let Some(at) = rest.find(is_word) {
        rest = &rest[at..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        if word == "by" {
            let (labels, behind) =
                behind.trim_start().strip_prefix('(').and_then(|rest| rest.split_once(')')).expect(query);
            groups.extend(labels.split(',').map(|label| label.trim().to_string()));
            rest = behind;
        } else if let Some(matchers) = behind.strip_prefix('{') {
            let (matchers, behind) = matchers.split_once('}').expect(query);
            let labels = matchers.split(',').map(|one| one.split(['=', '!']).next().expect(query).trim().to_string());
            metrics.push((word.to_string(), labels.collect()));
            rest = behind.strip_prefix('[').map_or(behind, |window| window.split_once(']').expect(query).1);
        } else {
            let is_number = word.starts_with(|c: char| c.is_ascii_digit());
            let is_function = ["sum", "rate", "histogram_quantile"].contains(&word);
            assert!(is_number || is_function, "{word} in {query} is no function and has no labels");
        }
    }
    (metrics, groups)
}

fn panels(board: &Json) -> Vec<&Json> {
    board["panels"].as_array().expect("panels").iter().collect()
}

#[test]
fn every_query_of_the_board_finds_its_metrics() {
    let server = server();
    let samples = samples(&get(&server, "/metrics"));
    let board: Json = serde_json::from_str(&read("docker/grafana/dashboards/crabcache.json")).expect("JSON");
    let mut queries = 0;
    let (mut places, mut ids) = (Vec::new(), BTreeSet::new());
    for panel in panels(&board) {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{}", panel["title"]);
        let place = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(x + w <= 24, "{}", panel["title"]);
        for (title, (ox, oy, ow, oh)) in &places {
            let apart = x >= ox + ow || *ox >= x + w || y >= oy + oh || *oy >= y + h;
            assert!(apart, "{} lies upon {title}", panel["title"]);
        }
        places.push((panel["title"].clone(), (x, y, w, h)));
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("a query");
            queries += 1;
            let (metrics, groups) = parts(query);
            assert!(!metrics.is_empty(), "{query}");
            for (metric, labels) in &metrics {
                let known = samples.get(metric).unwrap_or_else(|| panic!("{metric} in {query} is not on /metrics"));
                // What Prometheus adds itself.
                let given = |label: &String| label == "instance" || known.contains(label);
                assert!(labels.iter().all(given), "{query}: {metric} has {known:?}");
                assert!(groups.iter().all(given), "{query}: {metric} has {known:?}");
            }
            let legend = target["legendFormat"].as_str().expect("a legend");
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")) {
                assert!(groups.contains(&label.0.to_string()), "{query}: {legend}");
            }
        }
    }
    assert!(queries > 40, "{queries}");
    // That a wrong query would be found.
    assert_eq!(parts("sum by (a, b) (rate(x{c=\"d\",e=~\"f\"}[5m])) / 2"), {
        let labels = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        (vec![("x".to_string(), labels(&["c", "e"]))], labels(&["a", "b"]))
    });
}

/// Beside this the unit tests of the page read it as strictly.
#[test]
fn prometheus_finds_no_fault_with_the_metrics() {
    if !installed("promtool") {
        println!("promtool is not installed");
        return;
    }
    let server = server();
    for (target, excused) in [("/metrics", &[][..]), ("/metrics?compat=redis_exporter", &["redis_total_error_replies"])]
    {
        let mut child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool");
        child.stdin.take().expect("a pipe").write_all(get(&server, target).as_bytes()).expect("the page is taken");
        let output = child.wait_with_output().expect("promtool ends");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let faults: Vec<&str> = said.lines().filter(|line| !excused.iter().any(|name| line.contains(name))).collect();
        assert!(faults.is_empty() && (output.status.success() || !excused.is_empty()), "{target}: {said}");
    }
}

/// The well-known board for Redis (Grafana 763) asks for these.
#[test]
fn boards_made_for_redis_find_what_they_ask_for() {
    let samples = samples(&get(&server(), "/metrics?compat=redis_exporter"));
    for (metric, labels) in [
        ("redis_uptime_in_seconds", &[][..]),
        ("redis_connected_clients", &[]),
        ("redis_memory_used_bytes", &[]),
        ("redis_memory_max_bytes", &[]),
        ("redis_commands_processed_total", &[]),
        ("redis_keyspace_hits_total", &[]),
        ("redis_keyspace_misses_total", &[]),
        ("redis_net_input_bytes_total", &[]),
        ("redis_net_output_bytes_total", &[]),
        ("redis_db_keys", &["db"]),
        ("redis_db_keys_expiring", &["db"]),
        ("redis_expired_keys_total", &[]),
        ("redis_evicted_keys_total", &[]),
        ("redis_commands_total", &["cmd"]),
        ("redis_commands_duration_seconds_total", &["cmd"]),
        ("redis_up", &[]),
        ("redis_blocked_clients", &[]),
        ("redis_instance_info", &["role", "redis_version", "redis_mode", "maxmemory_policy"]),
    ] {
        let known = samples.get(metric).unwrap_or_else(|| panic!("{metric} is missing"));
        assert!(labels.iter().all(|label| known.contains(*label)), "{metric}: {known:?}");
    }
    assert!(samples.keys().all(|name| name.starts_with("redis_")));
}

/// Variables that an image or a compose file sets are settings of the server.
#[test]
fn what_containers_set_is_known_to_the_server() {
    let (image, compose) = (read("docker/Dockerfile"), read("docker/compose.yml"));
    let mut variables = BTreeMap::new();
    for word in image.split([' ', '\n']).filter(|word| word.starts_with("CRABCACHE_")) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        if !value.is_empty() {
            variables.insert(name, value);
        }
    }
    for line in compose.lines().map(str::trim).filter(|line| line.starts_with("CRABCACHE_")) {
        let (name, value) = line.split_once(": ").expect(line);
        variables.insert(name, if value.starts_with("${") { "a-secret-of-this-test" } else { value });
    }
    for name in ["CRABCACHE_BIND", "CRABCACHE_ADMIN_BIND", "CRABCACHE_ADMIN_HOSTS", "CRABCACHE_TOKEN"] {
        assert!(variables.contains_key(name), "{name} in {variables:?}");
    }
    let mut command = harness::command(&["--check-config"]);
    command.env_remove("CRABCACHE_ADMIN_PORT").envs(&variables);
    let exit = harness::run_to_end(command);
    assert!(exit.code() == Some(0) && !exit.stderr.contains("no setting"), "{}", exit.stderr);
    // Ports as they are by default, and a user that is not root.
    assert!(image.contains("EXPOSE 7001 9090") && image.contains("USER nonroot") && !image.contains("USER root"));
    assert!(compose.contains("\"127.0.0.1:7001:7001\"") && compose.contains("\"127.0.0.1:9090:9090\""));
    assert!(read("docker/prometheus.yml").contains("\"crabcache:9090\""), "whose host is CRABCACHE_ADMIN_HOSTS");
    assert_eq!(variables["CRABCACHE_ADMIN_HOSTS"], "crabcache");
    // Every file that is mounted is there.
    for line in compose.lines().map(str::trim).filter(|line| line.starts_with("- ./") && line.ends_with(":ro")) {
        let path = line.trim_start_matches("- ./").split(':').next().expect(line);
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(path).exists(), "{line}");
    }
}

#[test]
fn the_image_is_healthy_when_the_server_is() {
    let image = read("docker/Dockerfile");
    assert!(image.contains("CMD [\"/usr/local/bin/crabcache\", \"health\", \"127.0.0.1:9090\"]"), "{image}");
    let server = server();
    let ask = |address: String| harness::run_to_end(harness::command(&["health", &address]));
    let well = ask(admin(&server).to_string());
    assert_eq!((well.code(), well.stdout.as_str()), (Some(0), "ok\n"));
    // Whoever is there, but is no such server.
    let other = ask(server.address().to_string());
    assert_eq!(other.code(), Some(1), "{}", other.stdout);
    let address = admin(&server).to_string();
    assert!(server.stop().success());
    let gone = ask(address);
    assert!(gone.code() == Some(1) && gone.stderr.contains("does not answer"), "{}", gone.stderr);
    assert_eq!(ask("nonsense".into()).code(), Some(2));
}

/// Every call that a server was seen to make, and those of whoever starts a container.
#[test]
fn the_profile_allows_io_uring_and_little_else() {
    let profile: Json = serde_json::from_str(&read("docker/seccomp.json")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed: Vec<&str> = profile["syscalls"]
        .as_array()
        .expect("rules")
        .iter()
        .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW")
        .flat_map(|rule| rule["names"].as_array().expect("names"))
        .map(|name| name.as_str().expect("a name"))
        .collect();
    for needed in ["io_uring_setup", "io_uring_enter", "io_uring_register", "sched_setaffinity", "execve", "clone3"] {
        assert!(allowed.contains(&needed), "{needed}");
    }
    for forbidden in
        ["ptrace", "mount", "bpf", "unshare", "setns", "keyctl", "userfaultfd", "perf_event_open", "kexec_load"]
    {
        assert!(!allowed.contains(&forbidden), "{forbidden}");
    }
    assert!(allowed.is_sorted(), "so that it can be read");
}
