//! What TLS costs, beside redis-server with TLS: `cargo bench --bench tls [-- --server PATH] [--rounds N]`.
//!
//! Both servers run pinned to CPU 0 and speak plain text and TLS 1.3 with the same certificate (P-256, made here);
//! redis-benchmark asks them in turns from CPU 1, and `openssl s_time` makes handshakes. CPU is that of the server, user and
//! system, by the kernel's account of the process. Needs redis-server, redis-benchmark and redis-cli with TLS, openssl and
//! taskset.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

const CONNECTIONS: &str = "50";
const HANDSHAKE_SECONDS: &str = "2";

/// Test, pipeline, bytes per value, requests. Large values are only read: redis-benchmark sends them by TLS in pieces that
/// wait for the peer's delayed acknowledgement (40 ms), whoever that is.
const LOADS: [(&str, u32, u32, u64); 6] = [
    ("set", 1, 64, 150_000),
    ("get", 1, 64, 150_000),
    ("set", 16, 64, 800_000),
    ("get", 16, 64, 800_000),
    ("get", 1, 16_384, 50_000),
    ("get", 16, 16_384, 50_000),
];

struct Server {
    name: &'static str,
    child: Child,
    plain: u16,
    tls: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn cpu(&self) -> Duration {
        let clock: ClockId = clock_getcpuclockid(Pid::from_raw(self.child.id() as i32)).expect("a clock");
        clock_gettime(clock).expect("its time").into()
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// What `command` says, when it has succeeded.
fn said(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn certificate(folder: &Path) {
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout key.pem -out cert.pem -subj \
                 /CN=localhost -addext subjectAltName=IP:127.0.0.1,DNS:localhost";
    let mut openssl = Command::new("openssl");
    openssl.args(words.split_whitespace()).current_dir(folder);
    said(openssl);
}

fn pinned(cpu: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cpu]).arg(program);
    command
}

fn start(name: &'static str, mut command: Command, plain: u16, tls: u16) -> Server {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect(name);
    let server = Server { name, child, plain, tls };
    let since = Instant::now();
    while !said_or_nothing(&server).contains("PONG") {
        assert!(since.elapsed() < Duration::from_secs(20), "{name} does not answer by TLS");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

fn said_or_nothing(server: &Server) -> String {
    let port = server.tls.to_string();
    let output = Command::new("redis-cli").args(["--tls", "--insecure", "-p", &port, "PING"]).output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Microseconds of the server per operation, and operations per second.
fn load(server: &Server, is_tls: bool, (test, pipeline, bytes, requests): (&str, u32, u32, u64)) -> [f64; 2] {
    let port = if is_tls { server.tls } else { server.plain }.to_string();
    let (pipeline, bytes, requests_text) = (pipeline.to_string(), bytes.to_string(), requests.to_string());
    let mut benchmark = pinned("1", "redis-benchmark");
    benchmark.args(["-p", &port, "-c", CONNECTIONS, "-P", &pipeline, "-d", &bytes, "-n", &requests_text, "-t", test]);
    benchmark.args(["-r", "10000", "-q"]);
    if is_tls {
        benchmark.args(["--tls", "--insecure"]);
    }
    let (cpu, began) = (server.cpu(), Instant::now());
    said(benchmark);
    let (cpu, elapsed) = (server.cpu() - cpu, began.elapsed());
    [cpu.as_secs_f64() * 1e6 / requests as f64, requests as f64 / elapsed.as_secs_f64()]
}

/// Microseconds of the server per handshake, and handshakes per second.
fn handshakes(server: &Server, kind: &[&str]) -> [f64; 2] {
    let address = format!("127.0.0.1:{}", server.tls);
    let mut openssl = pinned("1", "openssl");
    openssl.args(["s_time", "-connect", &address, "-time", HANDSHAKE_SECONDS]).args(kind);
    let (cpu, began) = (server.cpu(), Instant::now());
    let text = said(openssl);
    let (cpu, elapsed) = (server.cpu() - cpu, began.elapsed());
    // "4711 connections in 1.23s; …", then once more by the real time.
    let line = text.lines().find(|line| line.contains(" connections in ")).unwrap_or_else(|| panic!("{text}"));
    let count: f64 = line.split(' ').next().and_then(|count| count.parse().ok()).expect("a number");
    [cpu.as_secs_f64() * 1e6 / count, count / elapsed.as_secs_f64()]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value_of = |flag: &str| arguments.iter().position(|word| word == flag).and_then(|at| arguments.get(at + 1));
    let program = value_of("--server").map_or(env!("CARGO_BIN_EXE_crabcache").into(), PathBuf::from);
    let rounds: usize = value_of("--rounds").map_or(3, |rounds| rounds.parse().expect("a number of rounds"));
    let folder = Folder(std::env::temp_dir().join(format!("crabcache-bench-tls-{}", std::process::id())));
    fs::create_dir_all(&folder.0).expect("a folder");
    certificate(&folder.0);
    let (cert, key) = (folder.0.join("cert.pem"), folder.0.join("key.pem"));

    let [plain, tls] = [free_port(), free_port()];
    let mut redis = pinned("0", "redis-server");
    redis.args(["--port", &plain.to_string(), "--tls-port", &tls.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    redis.args(["--tls-auth-clients", "no", "--dir"]).arg(&folder.0);
    redis.arg("--tls-cert-file").arg(&cert).arg("--tls-key-file").arg(&key).arg("--tls-ca-cert-file").arg(&cert);
    let redis = start("redis-server", redis, plain, tls);
    let port = free_port();
    let mut ours = pinned("0", program);
    ours.args(["--port", &port.to_string(), "--cores", "1", "--core-port-base", "0", "--admin-port", "off"]);
    ours.args(["--tls-port", "shared"]).arg("--tls-cert-file").arg(&cert).arg("--tls-key-file").arg(&key);
    let ours = start("crabcache", ours, port, port);
    let servers = [&redis, &ours];

    println!("redis-server / crabcache, medians of {rounds} rounds in turns, {CONNECTIONS} connections\n");
    println!("| | | µs of CPU per operation | ours / Redis | operations per second |\n|---|---|--:|--:|--:|");
    let row = |what: String, how: &str, measure: &dyn Fn(&Server) -> [f64; 2]| {
        let mut seen: [[Vec<f64>; 2]; 2] = Default::default();
        for round in 0..rounds {
            for index in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                let [cpu, rate] = measure(servers[index]);
                seen[index][0].push(cpu);
                seen[index][1].push(rate);
                eprintln!("# {what}, {how}: {} {cpu:.2} µs, {rate:.0}/s", servers[index].name);
            }
        }
        let [[redis_cpu, redis_rate], [our_cpu, our_rate]] = seen.map(|both| both.map(median));
        println!(
            "| {what} | {how} | {redis_cpu:.2} / {our_cpu:.2} | {:.2} | {redis_rate:.0} / {our_rate:.0} |",
            our_cpu / redis_cpu
        );
    };
    for of_load in LOADS {
        let (test, pipeline, bytes, _) = of_load;
        if test == "get" {
            // Something to read.
            for server in servers {
                load(server, false, ("set", 16, bytes, 50_000));
            }
        }
        let what = format!("{}, {bytes} B, pipeline {pipeline}", test.to_uppercase());
        row(what.clone(), "plain", &|server| load(server, false, of_load));
        row(what, "TLS", &|server| load(server, true, of_load));
    }
    // s_time leaves before the tickets of TLS 1.3 come.
    let kinds =
        [("TLS 1.3", ["-new", "-tls1_3"]), ("TLS 1.2", ["-new", "-tls1_2"]), ("resumed", ["-reuse", "-tls1_2"])];
    for (how, kind) in &kinds {
        row("handshake".into(), how, &|server| handshakes(server, kind));
    }
}
