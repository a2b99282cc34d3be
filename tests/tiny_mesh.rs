//! The mesh with as little room as there can be, between real executors of which many share a CPU: whatever
//! order they run in, nothing stands still.

mod harness;
mod support;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::Server;
use support::client::{Client, push_command};
use support::random::Random;
use support::value::Value;

const RUNS: usize = 200;
const CORES: usize = 8;
const CLIENTS: usize = 4;
const COMMANDS: usize = 150;

/// One server from its start to its end, with clients that flood all its cores.
/// Returns how often a connection had to wait for the mesh.
fn run(random: &mut Random) -> usize {
    let server = Server::start_with(&["--cores", &CORES.to_string()], |command| {
        command.env("CRABTEST_TINY_MESH", "1");
    });
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(server.address())).collect();
    let requests: Vec<Vec<u8>> = (0..CLIENTS).map(|number| requests(number, random)).collect();
    std::thread::scope(|scope| {
        for (client, requests) in clients.iter_mut().zip(&requests) {
            let mut writer = client.writer();
            scope.spawn(move || writer.write_all(requests).expect("send"));
            scope.spawn(move || {
                for _ in 0..COMMANDS {
                    assert_eq!(client.reply(), Value::ok());
                    let found = client.reply();
                    assert_eq!(client.reply(), Value::Int(found.as_array()[0].as_bytes().len() as i64));
                }
            });
        }
    });
    let pauses = outbox_pauses(&mut clients[0]);
    drop(clients);
    assert!(server.stop().success());
    pauses
}

/// Commands for keys of all cores; nobody else writes what is read back.
fn requests(number: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..COMMANDS {
        let key = format!("{number}:{}", random.below(1000));
        let value = "v".repeat(random.below(8000));
        push_command(&mut bytes, &["SET", &key, &value]);
        push_command(&mut bytes, &["MGET", &key, "1:1", "2:2", "3:3", "4:4"]);
        push_command(&mut bytes, &["STRLEN", &key]);
    }
    bytes
}

fn outbox_pauses(client: &mut Client) -> usize {
    let stats: serde_json::Value = serde_json::from_str(&client.call("STATS").as_text()).expect("JSON");
    stats["total"]["counters"]["outbox_full_pauses"].as_u64().expect("a counter") as usize
}

#[test]
fn hundreds_of_servers_with_a_tiny_mesh_and_crowded_cpus_never_stand_still() {
    let (begun, pauses) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (begun, pauses) = (&begun, &pauses);
            scope.spawn(move || {
                let mut random = Random::announced(&format!("tiny mesh {thread}"));
                while begun.fetch_add(1, Ordering::Relaxed) < RUNS {
                    pauses.fetch_add(run(&mut random), Ordering::Relaxed);
                }
            });
        }
    });
    assert!(pauses.into_inner() > 0, "the mesh was never full");
}
