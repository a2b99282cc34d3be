//! Clients that people use, against the server: redis-cli, redis-benchmark, redis-py, ioredis, node-redis and the
//! `redis` crate, on the shared port and as a cluster whose nodes are the cores.
//!
//! What is not installed and cannot be installed (below `target/clients`) is skipped and says so; with
//! `CRABCACHE_REQUIRE_CLIENTS=1` a skip is a failure.

mod harness;
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::{Ports, Server};
use redis::cluster::ClusterClient;
use support::certificates::Certificates;
use support::client::Client;
use support::peers::{installed, skip};
use support::vitals::info_number;

const CORES: u16 = 4;

fn server() -> Server {
    Server::start(&["--cores", &CORES.to_string()])
}

/// Commands that one core had to hand to another so far.
fn forwarded(server: &Server) -> u64 {
    let stats = Client::connect(server.address()).call("STATS");
    let stats: serde_json::Value = serde_json::from_slice(stats.as_bytes()).expect("STATS is JSON");
    stats["total"]["counters"]["commands_forwarded_out"].as_u64().expect("a number")
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a successful `command` wrote.
fn said(command: &mut Command) -> String {
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{text}", output.status);
    text
}

// ---- redis-cli ------------------------------------------------------------------------------------

fn cli(port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    // Replies as a terminal shows them.
    command.args(["--no-raw", "-p", &port.to_string()]).args(arguments);
    said(&mut command).trim_end().to_string()
}

#[test]
fn redis_cli() {
    if !installed("redis-cli") {
        return skip("redis_cli", "redis-cli is not installed");
    }
    let server = server();
    let port = server.port();
    assert_eq!(cli(port, &["PING"]), "PONG");
    assert_eq!(cli(port, &["SET", "greeting", "hello world"]), "OK");
    assert_eq!(cli(port, &["GET", "greeting"]), "\"hello world\"");
    assert_eq!(cli(port, &["GET", "nosuch"]), "(nil)");
    assert_eq!(cli(port, &["INCRBY", "counter", "42"]), "(integer) 42");
    assert_eq!(cli(port, &["MGET", "greeting", "nosuch"]), "1) \"hello world\"\n2) (nil)");
    assert_eq!(cli(port, &["INCR", "greeting"]), "(error) ERR value is not an integer or out of range");
    assert_eq!(cli(port, &["-3", "CONFIG", "GET", "save"]), "1# \"save\" => \"\"");
    assert_eq!(cli(port, &["-3", "GET", "nosuch"]), "(nil)");
    assert!(cli(port, &["INFO", "server"]).contains("redis_version:"));
    for i in 0..100 {
        assert_eq!(cli(port, &["SET", &format!("key:{i}"), "v"]), "OK");
    }
    assert_eq!(cli(port, &["--scan", "--pattern", "key:*"]).lines().count(), 100);
    assert_eq!(cli(port, &["-r", "3", "INCR", "repeated"]), "(integer) 1\n(integer) 2\n(integer) 3");
    // It asks for the type and the length of every key.
    assert!(cli(port, &["--bigkeys"]).contains("Sampled 103 keys in the keyspace"));
    // What is typed into it: no arguments, commands by line.
    let script = "SET typed 1\nINCR typed\nGET typed\n";
    let mut child = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("its input"), script.as_bytes()).expect("type");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\n2\n2\n");
}

#[test]
fn redis_cli_pipes_raw_commands() {
    if !installed("redis-cli") {
        return skip("redis_cli_pipes_raw_commands", "redis-cli is not installed");
    }
    let server = server();
    let mut child = Command::new("redis-cli")
        .args(["-p", &server.port().to_string(), "--pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli starts");
    let mut bytes = Vec::new();
    for i in 0..20_000 {
        support::client::push_command(&mut bytes, &["SET", &format!("key:{i}"), "v"]);
    }
    std::io::Write::write_all(&mut child.stdin.take().expect("its input"), &bytes).expect("pipe");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("errors: 0, replies: 20000"), "{said}");
    assert_eq!(Client::connect(server.address()).call("DBSIZE").as_int(), 20_000);
}

#[test]
fn redis_cli_follows_the_cluster() {
    if !installed("redis-cli") {
        return skip("redis_cli_follows_the_cluster", "redis-cli is not installed");
    }
    let server = server();
    let node = server.core_port(0);
    for i in 0..20 {
        let key = format!("key:{i}");
        // Without -c a foreign key is told where it belongs; with it redis-cli goes there.
        let plain = cli(node, &["SET", &key, "plain"]);
        assert!(plain == "OK" || plain.starts_with("(error) MOVED "), "{plain}");
        assert!(cli(node, &["-c", "SET", &key, "followed"]).ends_with("OK"));
        assert!(cli(server.core_port(3), &["-c", "GET", &key]).ends_with("\"followed\""));
        assert_eq!(cli(server.port(), &["GET", &key]), "\"followed\"", "the shared port serves every key");
    }
    let moved = (0..20).filter(|i| cli(node, &["GET", &format!("key:{i}")]).starts_with("(error) MOVED")).count();
    assert!((5..20).contains(&moved), "{moved} of 20 keys do not belong to the first of four cores");
    let check = cli(node, &["--cluster", "check", &format!("127.0.0.1:{node}")]);
    assert!(check.contains("[OK] All 16384 slots covered."), "{check}");
    assert!(check.contains("[OK] All nodes agree about slots configuration."), "{check}");
}

// ---- redis-benchmark ------------------------------------------------------------------------------

/// The commands of redis-benchmark's default list that there are here, and one reply of each as proof.
const BENCHMARKED: &str = "ping_inline,ping_mbulk,set,get,incr,mset";

#[test]
fn redis_benchmark() {
    if !installed("redis-benchmark") {
        return skip("redis_benchmark", "redis-benchmark is not installed");
    }
    let server = server();
    for (clients, pipeline) in [("1", "1"), ("50", "1"), ("50", "16"), ("20", "64")] {
        benchmark(server.port(), &["-c", clients, "-P", pipeline, "-n", "10000", "-r", "1000"]);
    }
    benchmark(server.port(), &["-3", "-c", "10", "-P", "4", "-n", "5000", "-r", "1000"]);
    // Values that travel on their own.
    benchmark(server.port(), &["-c", "10", "-P", "4", "-n", "1000", "-d", "100000"]);
    let mut client = Client::connect(server.address());
    assert!(client.call("DBSIZE").as_int() > 1000);
    assert_eq!(info_number(&mut client, "total_error_replies"), 0);
}

#[test]
fn redis_benchmark_routes_by_slot() {
    if !installed("redis-benchmark") {
        return skip("redis_benchmark_routes_by_slot", "redis-benchmark is not installed");
    }
    let server = server();
    let before = forwarded(&server);
    // By a core's own port: redis-benchmark takes whatever it connected to for one of the nodes.
    benchmark(server.core_port(0), &["--cluster", "-c", "20", "-P", "16", "-n", "20000", "-r", "1000"]);
    let after = forwarded(&server);
    // The questions of this test about the counters go to every core, and nothing else does.
    assert!(after - before < 20, "{} commands were forwarded", after - before);
    assert_eq!(info_number(&mut Client::connect(server.address()), "total_error_replies"), 0);
}

fn benchmark(port: u16, arguments: &[&str]) {
    let mut command = Command::new("redis-benchmark");
    command.args(["-p", &port.to_string(), "--csv", "-t", BENCHMARKED]).args(arguments);
    let output = run(&mut command);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{stdout}{stderr}");
    let complaints = ["rror", "WARN", "ailed"];
    assert!(!complaints.iter().any(|word| stderr.contains(word) || stdout.contains(word)), "{stdout}{stderr}");
    let lines = stdout.lines().filter(|line| line.starts_with('"') && !line.starts_with("\"test\"")).count();
    assert_eq!(lines, BENCHMARKED.split(',').count(), "{command:?}:\n{stdout}");
}

// ---- redis-py, ioredis and node-redis -------------------------------------------------------------------------

/// Where packages are installed, once for all tests and until their list changes.
struct Installation {
    folder: PathBuf,
}

impl Installation {
    /// Runs `install` unless what `list` asks for is there already.
    fn of(name: &str, list: &str, install: impl FnOnce(&Path) -> Result<(), String>) -> Result<Installation, String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(name);
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        // Tests run side by side, in several processes even.
        let lock = File::create(folder.join("lock")).map_err(|error| error.to_string())?;
        lock.lock().map_err(|error| error.to_string())?;
        let installed = folder.join("installed");
        if fs::read_to_string(&installed).ok().as_deref() != Some(list) {
            install(&folder)?;
            fs::write(&installed, list).map_err(|error| error.to_string())?;
        }
        Ok(Installation { folder })
    }
}

fn try_run(command: &mut Command) -> Result<(), String> {
    match command.stdin(Stdio::null()).output() {
        Err(error) => Err(format!("{command:?}: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("{command:?}: {}", text.lines().last().unwrap_or("no message")))
        }
    }
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file)
}

/// redis-py in a Python of its own.
fn redis_py_installed() -> Result<PathBuf, String> {
    let list = include_str!("clients/requirements.txt");
    let installation = Installation::of("redis_py", list, |folder| {
        try_run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")))?;
        let mut pip = Command::new(folder.join("venv/bin/pip"));
        try_run(pip.args(["install", "--quiet", "--disable-pip-version-check", "-r"]).arg(source("requirements.txt")))
    })?;
    Ok(installation.folder.join("venv/bin/python"))
}

#[test]
fn redis_py() {
    let python = match redis_py_installed() {
        Ok(python) => python,
        Err(reason) => return skip("redis_py", &reason),
    };
    let server = server();
    let mut python = Command::new(python);
    let said = said(python.args(["-B", "-W", "ignore"]).arg(source("redis_py.py")).arg(server.port().to_string()));
    assert!(said.contains("passed"), "{said}");
}

#[test]
fn redis_py_by_tls() {
    let python = match redis_py_installed() {
        Ok(python) => python,
        Err(reason) => return skip("redis_py_by_tls", &reason),
    };
    let certificates = Certificates::new("redis-py");
    let (ports, flags) = (Ports::take(), certificates.flags());
    let [data, tls] = [ports.data(), ports.core(12)].map(|port| port.to_string());
    let flags = flags.iter().map(String::as_str).collect::<Vec<_>>();
    let server = Server::start(&[&["--cores", "2", "--port", &data, "--tls-port", &tls], &flags[..]].concat());
    let mut python = Command::new(python);
    python.args(["-B", "-W", "ignore"]).arg(source("redis_py_tls.py"));
    let said = said(python.args([&tls, &server.core_port(1).to_string(), &certificates.path("ca.crt")]));
    assert!(said.contains("passed"), "{said}");
}

// ---- JSON lines -----------------------------------------------------------------------------------

/// The shipped schema, the server and a validator agree about every line.
#[test]
fn json_lines_by_their_schema() {
    let list = include_str!("clients/json_lines_requirements.txt");
    let installation = Installation::of("json_lines", list, |folder| {
        try_run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")))?;
        let mut pip = Command::new(folder.join("venv/bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "-r"]);
        try_run(pip.arg(source("json_lines_requirements.txt")))
    });
    let installation = match installation {
        Ok(installation) => installation,
        Err(reason) => return skip("json_lines_by_their_schema", &reason),
    };
    let server = server();
    let mut python = Command::new(installation.folder.join("venv/bin/python"));
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/proto/json/json_lines.schema.json");
    let script = source("json_lines.py");
    let said = said(python.arg("-B").arg(script).arg(server.port().to_string()).arg(schema));
    assert!(said.contains("lines passed"), "{said}");
}

#[test]
fn ioredis() {
    node("ioredis", "ioredis.js");
}

#[test]
fn node_redis() {
    node("node_redis", "node_redis.js");
}

fn node(test: &str, script: &str) {
    let list = include_str!("clients/package.json");
    let installation = Installation::of("node", list, |folder| {
        fs::write(folder.join("package.json"), list).map_err(|error| error.to_string())?;
        let mut npm = Command::new("npm");
        try_run(npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock"]).current_dir(folder))
    });
    let installation = match installation {
        Ok(installation) => installation,
        Err(reason) => return skip(test, &reason),
    };
    let server = server();
    let mut node = Command::new("node");
    let said = said(node.arg(source(script)).arg(server.port().to_string()).arg(&installation.folder));
    assert!(said.contains("passed"), "{said}");
}

// ---- the binary protocol --------------------------------------------------------------------------

/// A client that knows PROTOCOL.md and nothing else.
#[test]
fn a_binary_client_written_from_the_protocol_alone() {
    if !installed("python3") {
        return skip("a_binary_client_written_from_the_protocol_alone", "python3 is not installed");
    }
    for cores in ["1", "4"] {
        let server = Server::start(&["--cores", cores]);
        let mut python = Command::new("python3");
        let said = said(python.arg("-B").arg(source("binary.py")).arg(server.port().to_string()));
        assert!(said.contains("6 passed"), "{said}");
    }
}

// ---- the redis crate ------------------------------------------------------------------------------

#[test]
fn redis_crate() -> redis::RedisResult<()> {
    let server = server();
    for protocol in ["resp2", "resp3"] {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/?protocol={protocol}", server.port()))?;
        let mut connection = client.get_connection()?;
        let () = redis::cmd("FLUSHALL").query(&mut connection)?;
        let () = redis::cmd("SET").arg("key").arg("value").query(&mut connection)?;
        let value: String = redis::cmd("GET").arg("key").query(&mut connection)?;
        assert_eq!(value, "value");
        let missing: Option<String> = redis::cmd("GET").arg("nosuch").query(&mut connection)?;
        assert_eq!(missing, None);
        let counted: i64 = redis::cmd("INCRBY").arg("counter").arg(42).query(&mut connection)?;
        assert_eq!(counted, 42);
        let binary: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        let () = redis::cmd("SET").arg(b"\x00\xff\r\n").arg(&binary).query(&mut connection)?;
        assert_eq!(redis::cmd("GET").arg(b"\x00\xff\r\n").query::<Vec<u8>>(&mut connection)?, binary);
        let values: Vec<Option<String>> =
            redis::cmd("MGET").arg("key").arg("nosuch").arg("counter").query(&mut connection)?;
        assert_eq!(values, [Some("value".to_string()), None, Some("42".to_string())]);
        let error = redis::cmd("INCR").arg("key").query::<i64>(&mut connection).expect_err("it is no number");
        assert!(error.to_string().contains("not an integer"), "{error}");

        let mut pipeline = redis::pipe();
        for i in 0..1000 {
            pipeline.cmd("SET").arg(format!("piped:{i}")).arg(i).ignore();
            pipeline.cmd("GET").arg(format!("piped:{i}"));
        }
        let replies: Vec<i64> = pipeline.query(&mut connection)?;
        assert_eq!(replies, (0..1000).collect::<Vec<i64>>());

        let mut scan = redis::cmd("SCAN");
        let keys: Vec<String> =
            scan.cursor_arg(0).arg("MATCH").arg("piped:*").clone().iter(&mut connection)?.collect::<Result<_, _>>()?;
        assert_eq!(keys.len(), 1000);
        let info: redis::InfoDict = redis::cmd("INFO").query(&mut connection)?;
        assert!(info.get::<String>("redis_version").is_some());
    }
    Ok(())
}

#[test]
fn redis_crate_as_a_cluster_client() -> redis::RedisResult<()> {
    let server = server();
    // From the shared port and from a core's own, the nodes it finds are the cores.
    for port in [server.port(), server.core_port(2)] {
        let client = ClusterClient::new(vec![format!("redis://127.0.0.1:{port}/")])?;
        let mut connection = client.get_connection()?;
        let before = forwarded(&server);
        for i in 0..1000 {
            let () = redis::cmd("SET").arg(format!("key:{i}")).arg(i).query(&mut connection)?;
        }
        for i in 0..1000 {
            assert_eq!(redis::cmd("GET").arg(format!("key:{i}")).query::<i64>(&mut connection)?, i);
        }
        let after = forwarded(&server);
        assert!(after - before < 20, "{} commands were forwarded", after - before);
        let mut sum = 0;
        for core in 0..CORES {
            let node = redis::Client::open(format!("redis://127.0.0.1:{}/", server.core_port(core)))?;
            let keys: i64 = redis::cmd("DBSIZE").query(&mut node.get_connection()?)?;
            assert!(keys > 100, "core {core} holds {keys} of 1000 keys");
            sum += keys;
        }
        assert_eq!(sum, 1000);
        let values: Vec<Option<i64>> = redis::cmd("MGET").arg("{t}a").arg("{t}b").query(&mut connection)?;
        assert_eq!(values, [None, None]);
        for i in 0..1000 {
            assert_eq!(redis::cmd("DEL").arg(format!("key:{i}")).query::<i64>(&mut connection)?, 1);
        }
    }
    Ok(())
}

// ---- what people type -----------------------------------------------------------------------------

#[test]
fn netcat() {
    if !installed_netcat() {
        return skip("netcat", "nc is not installed");
    }
    let server = server();
    let mut child = Command::new("nc")
        .args(["-N", "127.0.0.1", &server.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nc starts");
    let typed =
        "PUT greeting \"hello world\" 100\nGET greeting\nEXPIRE greeting 50\nDEL greeting\nGET greeting\nPING\n";
    std::io::Write::write_all(&mut child.stdin.take().expect("its input"), typed.as_bytes()).expect("type");
    let output = child.wait_with_output().expect("it ends");
    let expected = "+OK\r\n$11\r\nhello world\r\n:1\r\n:1\r\n$-1\r\n+PONG\r\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

/// `nc` of OpenBSD, which alone can close its sending side (`-N`).
fn installed_netcat() -> bool {
    let help = Command::new("nc").arg("-h").stdin(Stdio::null()).output();
    help.is_ok_and(|output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).contains("-46CDdFhklN"))
}
