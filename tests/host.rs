//! How the server ends when its cores do not end as they should. The cores here are made for that; each
//! server runs in a child process, which is this test binary playing a role.

mod harness;

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crabcache::config::{Config, Cores, LogFormat, Sources, Store};
use crabcache::limits::SHUTDOWN_MS_MAX;
use crabcache::runtime::host::{CoreError, CoreSetup, Host};
use crabcache::runtime::log;
use glommio::timer;
use harness::{Exit, Server, run_to_end};
use nix::sys::signal::{SigSet, Signal};

const ROLE: &str = "CRABCACHE_TEST_ROLE";

/// A server of two cores, of which core 1 plays the role of the environment.
#[test]
fn play() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let config = Config { port: 0, cores: Cores::Count(2), log_format: LogFormat::Human, ..Config::default() };
    log::start(&config);
    let host = Host::prepare(Arc::new(Store::new(config, Sources::default()))).unwrap();
    let code = host.run(|setup| {
        let role = if setup.index == 1 { role.clone() } else { "well".into() };
        move || core(setup, role)
    });
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
        _ => {
            while !setup.shutdown.is_requested() {
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
