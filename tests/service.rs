//! The service as systemd sees it: what it is told, and that the unit is clean, tight, and not too tight for what the
//! server does.

mod harness;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use harness::{PATIENCE, Server};
use nix::sys::signal::Signal;
use support::certificates::Certificates;
use support::client::Client;
use support::peers::{installed, skip};
use support::value::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn unit() -> String {
    fs::read_to_string(root().join("systemd/crabcache.service")).expect("the unit")
}

/// A folder of this test's own, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("crabcache-service-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The end of the socket that systemd has.
struct Systemd {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Systemd {
    fn new(path: &Path) -> Systemd {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Systemd { socket, heard: Vec::new() }
    }

    /// The next message with `text`; those before it are kept.
    fn until(&mut self, text: &str) -> String {
        let mut piece = [0; 4096];
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let Ok(len) = self.socket.recv(&mut piece) else { break };
            let message = String::from_utf8(piece[..len].to_vec()).expect("UTF-8");
            self.heard.push(message.clone());
            if message.contains(text) {
                return message;
            }
        }
        panic!("systemd never heard {text:?}: {:?}", self.heard);
    }
}

#[test]
fn systemd_hears_of_the_start_of_reloads_and_of_the_end() {
    let folder = Folder::new("notify");
    let (socket, config) = (folder.0.join("notify"), folder.0.join("crabcache.toml"));
    fs::write(&config, "log-level = \"info\"\n").expect("a file");
    let mut systemd = Systemd::new(&socket);
    let server = Server::start_with(&["--cores", "2", "--config", config.to_str().expect("UTF-8")], |command| {
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "8000000");
    });
    let ready = systemd.until("READY=1");
    assert!(ready.contains(&format!("STATUS=2 cores serving on 127.0.0.1:{}", server.port())), "{ready}");
    assert_eq!(systemd.heard[0], "STATUS=starting");
    systemd.until("WATCHDOG=1");
    systemd.until("WATCHDOG=1");

    server.signal(Signal::SIGHUP);
    let reloading = systemd.until("RELOADING=1");
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    assert!(systemd.until("READY=1").contains("STATUS=2 cores serving on"));
    fs::write(&config, "log-level = \"loud\"\n").expect("a file");
    server.signal(Signal::SIGHUP);
    systemd.until("RELOADING=1");
    let broken = systemd.until("READY=1");
    assert!(broken.contains("SIGHUP changed nothing") && broken.contains("log-level"), "{broken}");

    server.signal(Signal::SIGTERM);
    systemd.until("STOPPING=1");
    assert!(server.stop().success());
}

#[test]
fn a_command_that_ends_the_server_is_told_too() {
    let folder = Folder::new("shutdown");
    let socket = folder.0.join("notify");
    let mut systemd = Systemd::new(&socket);
    let mut server = Server::start_with(&["--cores", "1"], |command| {
        command.env("NOTIFY_SOCKET", &socket);
    });
    Client::connect(server.address()).send(b"SHUTDOWN NOSAVE\r\n");
    systemd.until("STOPPING=1");
    assert_eq!(server.wait().code(), Some(0));
    assert!(!systemd.heard.iter().any(|message| message.contains("WATCHDOG")), "nobody asked for it");
}

/// The unit with the built server in the place of the installed one, and the drop-ins as they would be installed.
fn installed_unit(folder: &Folder) -> PathBuf {
    let unit_path = folder.0.join("crabcache.service");
    let here = unit().replace("/usr/local/bin/crabcache", env!("CARGO_BIN_EXE_crabcache"));
    fs::write(&unit_path, here).expect("the unit");
    let drop_ins = folder.0.join("crabcache.service.d");
    fs::create_dir_all(&drop_ins).expect("a folder");
    for (name, text) in examples() {
        fs::write(drop_ins.join(name.trim_end_matches(".example")), text).expect("a drop-in");
    }
    unit_path
}

fn examples() -> Vec<(String, String)> {
    let folder = fs::read_dir(root().join("systemd/crabcache.service.d")).expect("drop-ins");
    let mut examples: Vec<(String, String)> = folder
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("UTF-8");
            (name, fs::read_to_string(entry.path()).expect("a drop-in"))
        })
        .collect();
    examples.sort();
    examples
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_unit_is_without_a_fault_with_and_without_drop_ins() {
    if !installed("systemd-analyze") {
        return skip("the_unit_is_without_a_fault_with_and_without_drop_ins", "systemd-analyze is not installed");
    }
    let folder = Folder::new("verify");
    let unit = installed_unit(&folder);
    let verify = || {
        let verify = Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit).output();
        let verify = verify.expect("systemd-analyze");
        // What is wrong with other units of this machine is not ours.
        let ours = said(&verify).lines().filter(|line| line.contains("crabcache")).collect::<Vec<_>>().join("\n");
        (verify.status.success() && ours.is_empty(), ours)
    };
    assert_eq!(verify(), (true, String::new()));
    fs::remove_dir_all(folder.0.join("crabcache.service.d")).expect("drop-ins are removed");
    assert_eq!(verify(), (true, String::new()));
    // That it would have found something.
    let broken = fs::read_to_string(&unit).expect("the unit").replace("ProtectHome=yes", "ProtectHomes=yes");
    fs::write(&unit, broken).expect("the unit");
    assert!(verify().1.contains("ProtectHomes"), "{verify:?}", verify = verify());
    for (kind, file) in [("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")] {
        if !installed(kind) {
            skip("the_unit_is_without_a_fault_with_and_without_drop_ins", &format!("{kind} is not installed"));
            continue;
        }
        let mut command = Command::new(kind);
        if kind == "systemd-sysusers" {
            command.arg("--dry-run");
        } else {
            command.arg("--create").arg(format!("--root={}", folder.0.display())).arg("--prefix=/nowhere");
        }
        let file = root().join(format!("systemd/crabcache.{file}"));
        let output = command.arg(file).output().expect("it runs");
        assert!(output.status.success() && !said(&output).contains("crabcache.tmpfiles:"), "{kind}: {}", said(&output));
    }
}

#[test]
fn the_unit_exposes_little() {
    if !installed("systemd-analyze") {
        return skip("the_unit_exposes_little", "systemd-analyze is not installed");
    }
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=15"])
        .arg(root().join("systemd/crabcache.service"))
        .output()
        .expect("systemd-analyze");
    let text = said(&output);
    let exposure = text.rsplit_once("exposure level for crabcache.service: ").expect("a verdict").1;
    let exposure: f64 = exposure.split(' ').next().and_then(|level| level.parse().ok()).expect("a number");
    assert!(exposure <= 1.5 && output.status.success(), "{text}");
}

/// Settings of the drop-ins are settings of the server.
#[test]
fn the_drop_ins_set_what_there_is() {
    let mut variables = 0;
    for (name, text) in examples() {
        assert!(name.ends_with(".conf.example"), "{name}: only what is called .conf is read by systemd");
        let mut command = harness::command(&["--check-config"]);
        for line in text.lines() {
            let Some((variable, value)) = line.strip_prefix("Environment=").and_then(|rest| rest.split_once('='))
            else {
                continue;
            };
            command.env(variable, value);
            variables += 1;
        }
        let exit = harness::run_to_end(command);
        assert!(exit.code() == Some(0) && !exit.stderr.contains("no setting"), "{name}: {}", exit.stderr);
    }
    assert!(variables >= 2);
}

/// Every system call that the unit lets through.
fn allowed_by_unit() -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for line in unit().lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (denies, names) = line.strip_prefix('~').map_or((false, line), |rest| (true, rest));
        for name in names.split_whitespace() {
            for call in calls_of(name) {
                if denies {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
    }
    allowed
}

/// A group of systemd with all groups in it, or one call.
fn calls_of(name: &str) -> Vec<String> {
    if !name.starts_with('@') {
        return vec![name.to_string()];
    }
    let output = Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", name]).output();
    let text = said(&output.expect("systemd-analyze"));
    let words = text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    words.flat_map(calls_of).collect()
}

/// System calls of a server from its start to its end, with all that it can do switched on. Those before its first are
/// those of whoever starts it.
fn calls_of_the_server() -> BTreeSet<String> {
    let folder = Folder::new("calls");
    let trace = folder.0.join("trace");
    let data = folder.0.join("data");
    let config = folder.0.join("crabcache.toml");
    fs::write(&config, "log-level = \"info\"\n").expect("a file");
    let certificates = Certificates::new("calls");
    let ports = harness::Ports::take();
    let served = harness::command(&[]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&trace).arg(served.get_program());
    command.args(["--cores", "2", "--admin-port", "0", "--wal-sync", "sync", "--port", &ports.data().to_string()]);
    command.arg("--data-dir").arg(&data).arg("--unix-socket").arg(folder.0.join("socket"));
    command.arg("--config").arg(&config).args(["--tls-port", "shared"]).args(certificates.flags());
    command.env_remove("CRABCACHE_ADMIN_PORT");
    let mut server = Server::spawn(command);
    server.wait_for_log("\"message\":\"ready\"");
    let mut client = Client::connect(([127, 0, 0, 1], ports.data()).into());
    for i in 0..50 {
        assert_eq!(client.call(&format!("SET key:{i} v PX 100000")), Value::ok());
    }
    let large = "x".repeat(200_000);
    assert_eq!(client.call(&format!("SET large {large}")), Value::ok());
    assert_eq!(client.call("GET large"), Value::bulk(large));
    client.call("INFO");
    // Files are read and written while it runs, and somebody comes by TLS.
    assert_eq!(client.call("CONFIG SET maxmemory 100mb"), Value::ok());
    assert_eq!(client.call("CONFIG REWRITE"), Value::ok());
    let tls = Command::new("redis-cli").args(["--tls", "--insecure", "-p", &ports.data().to_string(), "PING"]).output();
    if let Ok(tls) = tls {
        assert!(said(&tls).contains("PONG"), "{}", said(&tls));
    }
    let log = server.log();
    let admin = log.split_once("admin on http://").expect("the admin HTTP").1;
    let admin = admin.split(['"', ',']).next().expect("an address").parse().expect("an address");
    let mut http = std::net::TcpStream::connect::<std::net::SocketAddr>(admin).expect("the admin HTTP");
    std::io::Write::write_all(&mut http, b"GET /metrics HTTP/1.0\r\n\r\n").expect("a request");
    let mut page = String::new();
    std::io::Read::read_to_string(&mut http, &mut page).expect("a page");
    assert!(page.contains("crabcache_up 1"), "{page}");
    client.send(b"SHUTDOWN\r\n");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    let trace = fs::read_to_string(&trace).expect("a trace");
    let calls = trace.lines().filter_map(|line| {
        let call = line.split_once(' ')?.1.trim_start();
        let call = call.strip_prefix("<... ").map_or(call, |resumed| resumed);
        let name: String = call.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        (!name.is_empty()).then_some(name)
    });
    calls.collect()
}

#[test]
fn what_the_server_does_is_allowed_by_the_unit() {
    if !installed("strace") || !installed("systemd-analyze") {
        return skip("what_the_server_does_is_allowed_by_the_unit", "strace or systemd-analyze is not installed");
    }
    let calls = calls_of_the_server();
    for expected in ["io_uring_setup", "io_uring_enter", "sched_setaffinity", "accept4", "fsync"] {
        assert!(calls.contains(expected), "{expected} is not among {calls:?}");
    }
    let unit = allowed_by_unit();
    assert!(!unit.contains("mount") && !unit.contains("setuid") && unit.contains("io_uring_setup"));
    let refused: Vec<&String> = calls.difference(&unit).collect();
    assert!(refused.is_empty(), "the unit does not allow {refused:?}");
    let profile = fs::read_to_string(root().join("docker/seccomp.json")).expect("the profile of containers");
    let refused: Vec<&String> = calls.iter().filter(|call| !profile.contains(&format!("\"{call}\""))).collect();
    assert!(refused.is_empty(), "the profile of containers does not allow {refused:?}");
}
