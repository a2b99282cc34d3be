//! How the server ends when its cores do not end as they should. The cores here are made for that; each
//! server runs in a child process, which is this test binary playing a role.

mod harness;

use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crabcache::config::{Config, Cores, LogFormat, Sources, Store};
use crabcache::limits::SHUTDOWN_MS_MAX;
use crabcache::runtime::host::{CoreError, CoreSetup, Host};
use crabcache::runtime::log;
use glommio::timer;
use harness::{Exit, PATIENCE, Server, run_to_end};
use nix::sys::signal::{SigSet, Signal};

const ROLE: &str = "CRABCACHE_TEST_ROLE";
/// The file whose existence makes a core hang.
const HANGS: &str = "CRABCACHE_TEST_HANGS";

/// A server of two cores, of which core 1 plays the role of the environment.
#[test]
fn play() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let config = Config { port: 0, cores: Cores::Count(2), log_format: LogFormat::Human, ..Config::default() };
    log::start(&config);
    let host = Host::prepare(Arc::new(Store::new(config, Sources::default()).unwrap())).unwrap();
    let code = host.run(|setup| {
        let role = if setup.index == 1 { role.clone() } else { "well".into() };
        move || core(setup, role)
    });
    log::flush();
    std::process::exit(code.into());
}

async fn core(setup: CoreSetup, role: String) -> Result<(), CoreError> {
    if role != "fails early" {
        setup.ready.announce();
    }
    timer::sleep(Duration::from_millis(50)).await;
    match role.as_str() {
        "fails" | "fails early" => Err("the disk is on fire".into()),
        "panics" => panic!("what nobody\nexpected"),
        "ends early" => Ok(()),
        "stays" => loop {
            timer::sleep(Duration::from_millis(50)).await;
        },
        "hangs" => loop {
            setup.pulses.beat(setup.index, Instant::now());
            if std::env::var_os(HANGS).is_some_and(|file| Path::new(&file).exists()) {
                // Not even the executor is let in any more.
                loop {
                    std::thread::park();
                }
            }
            timer::sleep(Duration::from_millis(5)).await;
        },
        _ => {
            while !setup.shutdown.is_requested() {
                setup.pulses.beat(setup.index, Instant::now());
                timer::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        }
    }
}

fn player(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["play", "--exact", "--nocapture"]).env(ROLE, role).stdin(Stdio::null()).stdout(Stdio::null());
    // The test runner has threads before the server can block signals.
    // SAFETY: one system call.
    unsafe {
        command.pre_exec(|| {
            let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
            Ok(signals.thread_block()?)
        })
    };
    command
}

fn run(role: &str) -> Exit {
    run_to_end(player(role))
}

#[test]
fn a_core_that_fails_ends_the_server_with_its_reason() {
    let exit = run("fails");
    assert_eq!(exit.code(), Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("core 1 failed: the disk is on fire"), "{}", exit.stderr);
    assert!(exit.elapsed < Duration::from_secs(2), "took {:?}", exit.elapsed);
}

/// Whoever waits for "ready" must not be told so when a core has not come so far.
#[test]
fn a_server_is_ready_when_all_its_cores_are() {
    let late = run("fails");
    assert!(late.stderr.contains("INFO ready"), "{}", late.stderr);
    let early = run("fails early");
    assert_eq!(early.code(), Some(1), "{}", early.stderr);
    assert!(!early.stderr.contains("INFO ready"), "{}", early.stderr);
}

#[test]
fn a_core_that_panics_ends_the_server_with_its_place() {
    let exit = run("panics");
    assert_eq!(exit.code(), Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("tests/host.rs:"), "{}", exit.stderr);
    assert!(exit.stderr.contains("what nobody expected in thread \"core-1\""), "{}", exit.stderr);
    assert!(exit.stderr.contains("core 1 panicked"), "{}", exit.stderr);
}

#[test]
fn a_core_that_ends_without_being_asked_ends_the_server() {
    let exit = run("ends early");
    assert_eq!(exit.code(), Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("core 1 ended without being asked"), "{}", exit.stderr);
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::spawn(player("stays"));
    server.wait_for_log("INFO ready");
    server.signal(Signal::SIGTERM);
    server.wait_for_log("SIGTERM: draining");
    assert!(server.is_running_for(Duration::from_millis(300)));
    server.signal(Signal::SIGINT);
    let exit = server.wait();
    assert_eq!(exit.code(), Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("SIGINT again: ending at once"), "{}", exit.stderr);
    assert!(exit.elapsed < Duration::from_secs(1), "took {:?}", exit.elapsed);
}

#[test]
fn a_core_that_never_ends_is_given_up() {
    let mut server = Server::spawn(player("stays"));
    server.wait_for_log("INFO ready");
    server.signal(Signal::SIGTERM);
    let exit = server.wait();
    assert_eq!(exit.code(), Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains(&format!("core 1 did not end within {SHUTDOWN_MS_MAX} ms")), "{}", exit.stderr);
    assert!(exit.elapsed >= Duration::from_millis(SHUTDOWN_MS_MAX), "took {:?}", exit.elapsed);
}

/// A service whose core hangs is started again by systemd: it hears of the others no more.
#[test]
fn a_core_that_hangs_lets_the_watchdog_fire() {
    let folder = std::env::temp_dir().join(format!("crabcache-hangs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (socket, file) = (folder.join("notify"), folder.join("hang"));
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut piece = [0; 4096];
        let len = systemd.recv(&mut piece).expect("systemd hears something");
        String::from_utf8_lossy(&piece[..len]).into_owned()
    };
    let mut command = player("hangs");
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "1000000").env(HANGS, &file);
    let server = Server::spawn(command);
    for _ in 0..3 {
        while hear() != "WATCHDOG=1" {}
    }
    std::fs::write(&file, "").unwrap();
    while !hear().contains("STATUS=cores that make no turns: [1]") {}
    server.wait_for_log("core 1 has made no turn for");
    // Twice the time after which systemd acts; whatever is said meanwhile, it is not that all is well.
    systemd.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut piece = [0; 4096];
    while let Ok(len) = systemd.recv(&mut piece) {
        assert_ne!(&piece[..len], b"WATCHDOG=1");
    }
    drop(server);
    std::fs::remove_dir_all(&folder).unwrap();
}
