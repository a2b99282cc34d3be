//! Transactions on a running server with more cores than the machine has: money that is moved between accounts on
//! several cores neither appears nor vanishes, whoever looks, and clients that break off leave nothing held.

mod harness;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use harness::Server;
use support::client::{Client, command};
use support::value::Value;

const ACCOUNTS: usize = 6;
const START: i64 = 1000;

/// Small, seeded, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

fn number(value: &Value) -> i64 {
    value.as_text().parse().expect("a number")
}

/// What all accounts hold, at one moment.
fn total(client: &mut Client) -> i64 {
    let accounts: Vec<String> = (0..ACCOUNTS).map(|account| format!("account:{account}")).collect();
    let read: Vec<&str> = std::iter::once("MGET").chain(accounts.iter().map(String::as_str)).collect();
    let bytes = [command(&["MULTI"]), command(&read), command(&["EXEC"])].concat();
    client.send(&bytes);
    let replies = client.replies(3);
    assert_eq!(replies[..2], [Value::ok(), Value::Simple(b"QUEUED".to_vec())]);
    replies[2].as_array()[0].as_array().iter().map(number).sum()
}

#[test]
fn money_is_moved_as_a_whole() {
    let server = Server::start(&["--cores", "6"]);
    let mut client = Client::connect(server.address());
    for account in 0..ACCOUNTS {
        assert_eq!(client.call(&format!("SET account:{account} {START}")), Value::ok());
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let movers: Vec<_> = (0..8u64)
            .map(|seed| {
                let server = &server;
                scope.spawn(move || {
                    let mut chance = Chance(seed + 1);
                    let mut client = Client::connect(server.address());
                    for round in 0..200 {
                        let (from, to) = (chance.below(ACCOUNTS), chance.below(ACCOUNTS));
                        let amount = chance.below(50).to_string();
                        let (from, to) = (format!("account:{from}"), format!("account:{to}"));
                        let bytes = [
                            command(&["MULTI"]),
                            command(&["DECRBY", &from, &amount]),
                            command(&["INCRBY", &to, &amount]),
                            command(&["EXEC"]),
                        ];
                        client.send(&bytes.concat());
                        // Some break off without waiting for what they asked.
                        if round % 20 == 19 {
                            client.reset();
                            client = Client::connect(server.address());
                        } else {
                            assert_eq!(client.replies(4)[3].as_array().len(), 2);
                        }
                    }
                })
            })
            .collect();
        let watcher = scope.spawn(|| {
            let mut client = Client::connect(server.address());
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(total(&mut client), START * ACCOUNTS as i64);
                looks += 1;
            }
            looks
        });
        movers.into_iter().for_each(|mover| mover.join().unwrap());
        done.store(true, Ordering::Relaxed);
        assert!(watcher.join().unwrap() > 0);
    });
    assert_eq!(total(&mut client), START * ACCOUNTS as i64);
    // Nothing is held any more: every account can be written at once.
    for account in 0..ACCOUNTS {
        assert_eq!(client.call(&format!("SET account:{account} 0")), Value::ok());
    }
    assert!(server.stop().success());
}

/// Counting with WATCH, by the `redis` crate's own helper, from several connections on several cores.
#[test]
fn the_redis_crate_counts_with_watch() {
    let server = Server::start(&["--cores", "4"]);
    let client = redis::Client::open(format!("redis://{}/", server.address())).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = client.get_connection().unwrap();
                for _ in 0..25 {
                    let keys = ["count", "copy"];
                    let _: (i64, i64) = redis::transaction(&mut connection, &keys, |connection, pipe| {
                        let count: Option<i64> = redis::cmd("GET").arg("count").query(connection)?;
                        let next = count.unwrap_or(0) + 1;
                        pipe.cmd("SET").arg("count").arg(next).ignore().cmd("SET").arg("copy").arg(next).ignore();
                        pipe.cmd("GET").arg("count").cmd("GET").arg("copy").query(connection)
                    })
                    .unwrap();
                }
            });
        }
    });
    let mut connection = client.get_connection().unwrap();
    let counted: (i64, i64) = redis::cmd("MGET").arg("count").arg("copy").query(&mut connection).unwrap();
    assert_eq!(counted, (100, 100));
    assert!(server.stop().success());
}
