//! What a server holds, as the kernel and the server itself count it: after any storm it must be what it
//! was before.

use std::fs;
use std::time::{Duration, Instant};

use super::client::{Client, PATIENCE};
use crate::harness::Server;

#[derive(Clone, Copy, Debug)]
pub struct Vitals {
    pub descriptors: usize,
    pub resident_bytes: usize,
    /// Without the one who asks.
    pub clients: usize,
}

impl Vitals {
    /// `None` while there are so many clients that nobody can ask.
    fn of(server: &Server) -> Option<Vitals> {
        let mut client = Client::connect(server.address());
        if client.call("PING").is_error() {
            return None;
        }
        let clients = info_number(&mut client, "connected_clients") - 1;
        drop(client);
        Some(Vitals { descriptors: descriptors(server), resident_bytes: resident_bytes(server), clients })
    }

    /// Waits until all connections but `clients` are gone and their descriptors with them.
    pub fn settled(server: &Server, clients: usize, descriptors_max: usize) -> Vitals {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let vitals = Vitals::of(server);
            // The connection that asked may still be counted among the descriptors.
            if let Some(vitals) = vitals
                && vitals.clients == clients
                && vitals.descriptors <= descriptors_max + 1
            {
                return vitals;
            }
            assert!(
                Instant::now() < deadline,
                "expected {clients} clients and at most {descriptors_max} descriptors again, but there are {vitals:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A number from INFO.
pub fn info_number(client: &mut Client, name: &str) -> usize {
    let info = client.call("INFO everything").as_text();
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("INFO has no {name}:\n{info}")).trim().parse().expect("a number")
}

/// Waits until a number of INFO is at least `least`: what other clients sent may not have been read yet, however
/// often this one was answered.
pub fn info_reaches(client: &mut Client, name: &str, least: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let number = info_number(client, name);
        if number >= least {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is {number} and does not reach {least}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a number of INFO is `wanted`.
pub fn info_becomes(client: &mut Client, name: &str, wanted: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let number = info_number(client, name);
        if number == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is {number} and does not become {wanted}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn descriptors(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the server's descriptors").count()
}

pub fn resident_bytes(server: &Server) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number") * 1024
}

/// Raises this process's limit of descriptors, which children inherit, and returns it.
pub fn raise_descriptor_limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a soft limit as high as the hard one");
    hard.min(1 << 20) as usize
}
