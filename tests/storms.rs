//! Clients that read slowly, vanish, come in thousands or send rubbish. The server survives all of it, and
//! afterwards holds no more descriptors, clients and memory than before.

mod harness;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crabcache::limits::{CLIENTS_MAX_DEFAULT, PENDING_REPLIES_MAX, RECV_BUFFERS};
use crabcache::slot::{owner_of_slot, slot_of};
use harness::Server;
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use support::client::{Client, PATIENCE, command, push_command};
use support::random::Random;
use support::value::Value;
use support::vitals::{Vitals, descriptors, info_number, info_reaches, raise_descriptor_limit, resident_bytes};

const MIB: usize = 1024 * 1024;
/// What an allocator may keep of what it has got back.
const MEMORY_SLACK_BYTES: usize = 48 * MIB;

const CORES: u32 = 4;

fn server() -> Server {
    Server::start(&["--cores", &CORES.to_string()])
}

/// Each core numbers its clients with numbers of its own.
fn core_of(client: &mut Client) -> u32 {
    (client.call("CLIENT ID").as_int() as u32 - 1) % CORES
}

fn pong() -> Value {
    Value::Simple(b"PONG".to_vec())
}

/// Runs `storm` until buffers for reuse are as many as they get, and `times` more; afterwards nothing may
/// have been left behind. How much is kept for reuse depends on how much was under way at once, which differs
/// from time to time; what leaks grows each time.
fn survives(server: &Server, times: usize, mut storm: impl FnMut()) {
    for _ in 0..3 {
        storm();
    }
    let idle = descriptors(server);
    let mut vitals = vec![Vitals::settled(server, 0, idle)];
    loop {
        for _ in 0..times {
            storm();
        }
        let [.., before] = vitals[..] else { unreachable!("there is a first one") };
        let after = Vitals::settled(server, 0, vitals[0].descriptors);
        if after.resident_bytes <= before.resident_bytes + MEMORY_SLACK_BYTES {
            break;
        }
        vitals.push(after);
        assert!(vitals.len() < 5, "memory grows and grows: {vitals:?}");
    }
    assert_eq!(Client::connect(server.address()).call("PING"), pong());
}

#[test]
fn a_slow_reader_is_paused_and_resumed_and_costs_no_memory() {
    let server = server();
    let mut client = Client::connect(server.address());
    let value = vec![b'v'; 10_000];
    client.call_words(&[b"SET", b"k".as_slice(), &value]);
    let before = resident_bytes(&server);
    let pauses = info_number(&mut client, "slow_reader_pauses");

    // 300 MB of replies that nobody reads at first.
    let count = 30_000;
    let mut slow = Client::connect(server.address());
    let mut writer = slow.writer();
    let requests: Vec<u8> = command(&["GET", "k"]).repeat(count);
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&requests).expect("send"));
        info_reaches(&mut client, "slow_reader_pauses", pauses + 1);
        // Others are served meanwhile.
        for i in 0..1000 {
            assert_eq!(client.call(&format!("SET other:{i} v")), Value::ok());
        }
        // What other cores were asked for before the pause still arrives.
        let awaited = PENDING_REPLIES_MAX * value.len();
        let while_paused = resident_bytes(&server);
        assert!(while_paused < before + awaited + MEMORY_SLACK_BYTES, "{before} bytes, {while_paused} while paused");
        for _ in 0..count {
            assert_eq!(slow.reply().as_bytes(), value);
        }
    });
    assert_eq!(slow.call("PING"), pong());
}

#[test]
fn a_reader_beyond_the_hard_bound_is_closed_and_counted() {
    let server = server();
    let mut client = Client::connect(server.address());
    let value = vec![b'v'; 60 * MIB];
    client.call_words(&[b"SET", b"k".as_slice(), &value]);
    drop(value);
    let name = "client_output_buffer_limit_disconnections";
    assert_eq!(info_number(&mut client, name), 0);
    // A client of another core than the key's: twenty of its commands are there before the first reply is.
    let owner = owner_of_slot(slot_of(b"k"), CORES);
    let mut slow = std::iter::repeat_with(|| Client::connect(server.address()))
        .find_map(|mut candidate| (core_of(&mut candidate) != owner).then_some(candidate))
        .expect("the kernel spreads clients over the cores");
    slow.send(&command(&["GET", "k"]).repeat(20));
    info_reaches(&mut client, name, 1);
    assert_eq!(info_number(&mut client, name), 1);
    let received = slow.rest().len();
    assert!(received < 20 * 60 * MIB, "received {received} bytes");
    drop(client);
    let idle = descriptors(&server);
    Vitals::settled(&server, 0, idle);
}

/// Who sends as much as it can queues up behind everybody else: others wait for one receive of it, not for
/// all that it has under way.
#[test]
fn a_flood_of_one_client_does_not_hold_up_another() {
    let server = Server::start(&["--cores", "1"]);
    let flood = Client::connect(server.address());
    let mut writer = flood.writer();
    let mut quiet = Client::connect(server.address());
    let requests = command(&["GET", "nosuch"]).repeat(5000);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let mut waits = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if writer.write_all(&requests).is_err() {
                    return;
                }
            }
        });
        let mut reader = flood.writer();
        scope.spawn(move || {
            let mut buffer = vec![0; MIB];
            while reader.read(&mut buffer).is_ok_and(|len| len > 0) {}
        });
        std::thread::sleep(Duration::from_millis(200));
        for _ in 0..200 {
            let asked = Instant::now();
            assert_eq!(quiet.call("PING"), pong());
            waits.push(asked.elapsed());
        }
        is_over.store(true, Ordering::Relaxed);
        flood.stream().shutdown(Shutdown::Both).expect("end the flood");
    });
    waits.sort();
    // 16 KiB of commands take a debug build some milliseconds; what one client can have under way, over 100.
    assert!(waits[100] < Duration::from_millis(40), "half of the time the wait was over {:?}", waits[100]);
}

/// What waits of a client that is closed is not taken for the first words of the next one in its place.
#[test]
fn killed_floods_leave_nothing_to_those_who_come_after() {
    let server = Server::start(&["--cores", "1"]);
    let requests = command(&["GET", "nosuch"]).repeat(2000);
    let mut killer = Client::connect(server.address());
    for round in 0..20 {
        let floods: Vec<Client> = (0..16).map(|_| Client::connect(server.address())).collect();
        std::thread::scope(|scope| {
            for flood in &floods {
                let (mut writer, mut reader) = (flood.writer(), flood.writer());
                let requests = &requests;
                scope.spawn(move || {
                    while writer.write_all(requests).is_ok() {
                        std::thread::yield_now()
                    }
                });
                scope.spawn(move || {
                    let mut buffer = vec![0; 256 * 1024];
                    while reader.read(&mut buffer).is_ok_and(|len| len > 0) {}
                });
            }
            std::thread::sleep(Duration::from_millis(20));
            assert!(killer.call("CLIENT KILL TYPE normal SKIPME yes").as_int() > 0);
            for i in 0..16 {
                let mut next = Client::connect(server.address());
                let token = format!("{round}:{i}");
                assert_eq!(next.call(&format!("ECHO {token}")).as_bytes(), token.as_bytes());
            }
        });
    }
    let idle = descriptors(&server);
    drop(killer);
    Vitals::settled(&server, 0, idle);
}

#[test]
fn connections_reset_in_the_middle_of_everything() {
    let server = server();
    let mut random = Random::announced("resets");
    let mut setup = Client::connect(server.address());
    setup.call_words(&[b"SET", b"large".as_slice(), &vec![b'v'; MIB]]);
    drop(setup);
    let mut whole = Vec::new();
    for i in 0..50 {
        push_command(&mut whole, &[b"SET".as_slice(), format!("key:{i}").as_bytes(), &vec![b'v'; i * 40]]);
        push_command(&mut whole, &["GET", "large"]);
        push_command(&mut whole, &["MGET", "key:1", "key:2", "key:3", "key:4"]);
    }
    push_command(&mut whole, &[b"SET".as_slice(), b"promised", &vec![b'v'; 200_000]]);
    survives(&server, 4, || {
        for _ in 0..150 {
            let mut client = Client::connect(server.address());
            let cut = random.below(whole.len());
            let _ = client.writer().set_nonblocking(true).and_then(|()| client.writer().write(&whole[..cut]));
            let _ = client.writer().set_nonblocking(false);
            if random.chance(3) && cut > 100 {
                client.reply();
            }
            if random.chance(2) {
                client.reset();
            }
        }
    });
}

#[test]
fn promised_values_cost_nothing_until_they_arrive() {
    let server = server();
    let before = resident_bytes(&server);
    let mut probe = Client::connect(server.address());
    // 200 clients promise 64 MiB each, in three ways, and send a little of it.
    let mut sent_bytes = 0;
    let promising: Vec<Client> = (0..200)
        .map(|i| {
            let mut client = Client::connect(server.address());
            let promise = match i % 3 {
                0 => format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\nstart", 64 * MIB),
                1 => format!("*{}\r\n$4\r\nMGET\r\n", 1024 * 1024),
                _ => format!("*2\r\n$4\r\nECHO\r\n${}\r\n{}", 64 * MIB, "v".repeat(5000)),
            };
            client.send(promise.as_bytes());
            sent_bytes += promise.len();
            client
        })
        .collect();
    info_reaches(&mut probe, "total_net_input_bytes", sent_bytes);
    assert_eq!(info_number(&mut probe, "connected_clients"), 201);
    let after = resident_bytes(&server);
    assert!(after < before + MEMORY_SLACK_BYTES, "200 promises of 64 MiB took {} bytes", after - before);
    drop(probe);
    drop(promising);
    Vitals::settled(&server, 0, usize::MAX - 1);
}

#[test]
fn a_flood_of_connections_comes_and_goes() {
    let limit = raise_descriptor_limit();
    // Both sides of every connection belong to processes with this limit.
    let count = CLIENTS_MAX_DEFAULT.min(limit - 300);
    let server = server();
    survives(&server, 1, || {
        let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(server.address())).collect();
        for (i, client) in clients.iter_mut().enumerate() {
            client.send(&command(&["SET", &format!("key:{i}"), "v"]));
        }
        for client in &mut clients {
            assert_eq!(client.reply(), Value::ok());
        }
        for (i, client) in clients.iter_mut().enumerate() {
            client.send(&command(&["GET", &format!("key:{}", (i * 7) % count)]));
        }
        for client in &mut clients {
            assert_eq!(client.reply(), Value::bulk("v"));
        }
        assert_eq!(info_number(&mut clients[0], "connected_clients"), count);
    });
}

#[test]
fn more_clients_than_allowed_are_told_so() {
    let server = Server::start(&["--cores", "2", "--max-clients", "20"]);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(server.address())).collect();
    for client in &mut clients {
        assert_eq!(client.call("PING"), pong());
    }
    for _ in 0..10 {
        let mut refused = Client::connect(server.address());
        assert_eq!(refused.reply(), Value::Error(b"ERR max number of clients reached".to_vec()));
        refused.expect_closed();
    }
    assert_eq!(info_number(&mut clients[0], "rejected_connections"), 10);
    for client in &mut clients {
        assert_eq!(client.call("PING"), pong());
    }
    drop(clients);
    let deadline = Instant::now() + PATIENCE;
    while Client::connect(server.address()).call("PING") != pong() {
        assert!(Instant::now() < deadline, "room again, but nobody is let in");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn accepting_goes_on_after_the_descriptors_ran_out() {
    let server = server_with_few_descriptors(200);
    let mut witness = Client::connect(server.address());
    assert_eq!(witness.call("PING"), pong());
    let mut idle = None;
    for _ in 0..3 {
        let errors = info_number(&mut witness, "accept_errors");
        // While it stands still, more clients than it has descriptors for queue up; it then meets them at
        // once, before it can count and refuse any.
        server.signal(Signal::SIGSTOP);
        let mut clients: Vec<Client> = (0..400).map(|_| Client::connect(server.address())).collect();
        server.signal(Signal::SIGCONT);
        info_reaches(&mut witness, "accept_errors", errors + 1);
        let mut served = 0;
        for client in &mut clients {
            client.send(&command(&["PING"]));
            // Some are let in, others turned away; nobody hangs.
            match client.try_reply() {
                Some(reply) if reply == pong() => served += 1,
                Some(Value::Error(_)) | None => {}
                other => panic!("{other:?}"),
            }
        }
        assert!((50..200).contains(&served), "{served} clients were let in");
        assert_eq!(witness.call("PING"), pong());
        drop(clients);
        let vitals = Vitals::settled(&server, 1, idle.unwrap_or(usize::MAX - 1));
        idle.get_or_insert(vitals.descriptors);
    }
}

fn server_with_few_descriptors(limit: u64) -> Server {
    use std::os::unix::process::CommandExt;
    Server::start_with(&["--cores", "2"], |command| {
        // SAFETY: setrlimit is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(move || {
                nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, limit, limit).map_err(std::io::Error::from)
            });
        }
    })
}

#[test]
fn a_server_with_few_descriptors_takes_as_many_clients_as_fit() {
    let server = server_with_few_descriptors(200);
    let mut let_in = Vec::new();
    let mut refused = 0;
    for _ in 0..300 {
        let mut client = Client::connect(server.address());
        client.send(&command(&["PING"]));
        match client.try_reply() {
            Some(reply) if reply == pong() => let_in.push(client),
            _ => refused += 1,
        }
    }
    assert!((50..200).contains(&let_in.len()), "{} clients were let in", let_in.len());
    assert!(refused >= 100);
    for client in &mut let_in {
        assert_eq!(client.call("SET k v"), Value::ok());
    }
}

#[test]
fn more_is_received_at_once_than_the_buffers_hold() {
    let server = server();
    let value = vec![b'v'; 4000];
    survives(&server, 1, || {
        // Every core has some dozen clients, each with megabytes under way, at the same time.
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (server, value) = (&server, &value);
                scope.spawn(move || {
                    let mut clients: Vec<Client> = (0..25).map(|_| Client::connect(server.address())).collect();
                    let mut batch = Vec::new();
                    for i in 0..40 {
                        push_command(&mut batch, &[b"SET".as_slice(), format!("key:{thread}:{i}").as_bytes(), value]);
                    }
                    for client in &mut clients {
                        client.send(&batch);
                    }
                    for client in &mut clients {
                        for _ in 0..40 {
                            assert_eq!(client.reply(), Value::ok());
                        }
                    }
                });
            }
        });
    });
}

/// A number from STATS, over all cores.
fn counter(server: &Server, name: &str) -> u64 {
    let stats = Client::connect(server.address()).call("STATS");
    let stats: serde_json::Value = serde_json::from_slice(stats.as_bytes()).expect("STATS is JSON");
    stats["total"]["counters"][name].as_u64().unwrap_or_else(|| panic!("STATS has no {name}"))
}

/// `count` commands, and their replies while they are sent.
fn stream(client: &mut Client, request: &[u8], count: usize) {
    let mut writer = client.writer();
    let requests = request.repeat(count);
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&requests).expect("send"));
        for _ in 0..count {
            assert_eq!(client.reply(), Value::ok());
        }
    });
}

#[test]
fn the_receive_buffers_run_out_and_come_back() {
    let server = Server::start(&["--cores", "1"]);
    let mut request = Vec::new();
    push_command(&mut request, &[b"SET".as_slice(), b"key", &vec![b'v'; 30_000]]);
    let exhausted = || counter(&server, "receive_buffers_exhausted");
    let before = Vitals::settled(&server, 0, usize::MAX - 1);
    // More streams at once than there are buffers, until they have run out more often than there are any: if
    // one were lost each time, none would be left.
    let deadline = Instant::now() + PATIENCE;
    while exhausted() <= u64::from(RECV_BUFFERS) {
        assert!(Instant::now() < deadline, "the buffers ran out {} times", exhausted());
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| stream(&mut Client::connect(server.address()), &request, 100));
            }
        });
    }
    // The same for clients that break off while they send.
    for _ in 0..RECV_BUFFERS + 100 {
        let client = Client::connect(server.address());
        client.writer().set_nonblocking(true).expect("non-blocking");
        let _ = client.writer().write(&request);
        client.reset();
    }
    let after = Vitals::settled(&server, 0, before.descriptors);
    assert!(after.resident_bytes <= before.resident_bytes + MEMORY_SLACK_BYTES, "{before:?}, then {after:?}");
    // A single stream needs few of them.
    let so_far = exhausted();
    stream(&mut Client::connect(server.address()), &request, 200);
    assert_eq!(exhausted(), so_far, "buffers are missing");
}

#[test]
fn connections_are_gone_before_they_are_accepted() {
    let server = server();
    let accepted = counter(&server, "connections_accepted");
    survives(&server, 2, || {
        server.signal(Signal::SIGSTOP);
        for i in 0..600 {
            let mut client = Client::connect(server.address());
            if i % 2 == 0 {
                client.send(&command(&["SET", "key", "value"]));
            }
            match i % 3 {
                0 => client.reset(),
                1 => drop(client),
                _ => {
                    client.send(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$100000\r\nhalf");
                    client.reset();
                }
            }
        }
        server.signal(Signal::SIGCONT);
    });
    assert!(counter(&server, "connections_accepted") > accepted + 1000, "the storm went by");
}

/// Clients of all cores ask all cores for more than the ways between them hold: who cannot hand over any
/// more stops decoding, and everybody gets everything in the end.
#[test]
fn a_core_that_cannot_keep_up_holds_back_who_floods_it() {
    const COUNT: usize = 20_000;
    let server = server();
    let value = vec![b'v'; 100];
    // Keys of one core: the others all wait for it.
    let keys: Vec<String> = (0..)
        .map(|i| format!("key:{i}"))
        .filter(|key| owner_of_slot(slot_of(key.as_bytes()), CORES) == 0)
        .take(50)
        .collect();
    let before = counter(&server, "outbox_full_pauses");
    survives(&server, 1, || {
        std::thread::scope(|scope| {
            for thread in 0..12 {
                let (server, keys, value) = (&server, &keys, &value);
                scope.spawn(move || {
                    let mut client = Client::connect(server.address());
                    let mut writer = client.writer();
                    let mut bytes = Vec::new();
                    for i in 0..COUNT {
                        let key = &keys[(thread + i) % keys.len()];
                        push_command(&mut bytes, &[b"SET".as_slice(), key.as_bytes(), value]);
                    }
                    std::thread::scope(|scope| {
                        scope.spawn(move || writer.write_all(&bytes).expect("send"));
                        for _ in 0..COUNT {
                            assert_eq!(client.reply(), Value::ok());
                        }
                    });
                });
            }
        });
    });
    let pauses = counter(&server, "outbox_full_pauses") - before;
    assert!(pauses > 0, "nobody was held back");
    let (sent, served) = (counter(&server, "commands_forwarded_out"), counter(&server, "commands_forwarded_in"));
    // The questions themselves are under way when they count.
    assert!(sent.abs_diff(served) <= 8, "{sent} commands were sent to other cores, {served} arrived");
}

#[test]
fn every_core_floods_every_other() {
    let server = server();
    survives(&server, 1, || {
        std::thread::scope(|scope| {
            for thread in 0..16 {
                let server = &server;
                scope.spawn(move || {
                    let mut client = Client::connect(server.address());
                    let mut writer = client.writer();
                    let mut bytes = Vec::new();
                    let value = vec![b'v'; 1000];
                    for i in 0..3000 {
                        let key = format!("key:{}", (thread * 31 + i) % 500);
                        push_command(&mut bytes, &[b"SET".as_slice(), key.as_bytes(), &value]);
                        push_command(&mut bytes, &["MGET", &key, "key:1", "key:2", "key:3"]);
                    }
                    std::thread::scope(|scope| {
                        scope.spawn(move || writer.write_all(&bytes).expect("send"));
                        for _ in 0..3000 {
                            assert_eq!(client.reply(), Value::ok());
                            assert_eq!(client.reply().as_array().len(), 4);
                        }
                    });
                });
            }
        });
    });
}

#[test]
fn rubbish_is_refused_and_forgotten() {
    let server = server();
    let mut random = Random::announced("rubbish");
    let starts: [&[u8]; 12] = [
        b"*",
        b"*1\r\n$",
        b"*3\r\n$3\r\nSET\r\n$",
        b"{",
        b"$5\r\n",
        b"GET ",
        b"\x80",
        b"\xff",
        b"\0",
        b"*2\r\n",
        b"PING\r\n*1\r\n$4\r\nPI",
        b"-",
    ];
    survives(&server, 4, || {
        for _ in 0..300 {
            let mut client = Client::connect(server.address());
            let mut bytes = random.pick(&starts).to_vec();
            let len = random.below(3000);
            bytes.extend(random.bytes(len));
            client.send(&bytes);
            client.half_close();
            // Whatever it says, it ends.
            client.rest();
        }
    });
}

#[test]
fn a_line_without_end_is_refused() {
    let server = server();
    survives(&server, 2, || {
        for start in ["", "*", "*1\r\n$"] {
            let mut client = Client::connect(server.address());
            client.send(start.as_bytes());
            client.send(&vec![if start.is_empty() { b'a' } else { b'1' }; 70_000]);
            assert!(client.try_reply().is_none_or(|reply| reply.is_error()), "after {start:?}");
            // Closed, with or without a reset.
            client.rest();
        }
    });
}

#[test]
fn idle_connections_take_no_time() {
    let server = server();
    let clients: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    let mut probe = Client::connect(server.address());
    assert_eq!(probe.call("PING"), pong());
    let running = || -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("threads").flatten();
        let of_thread = |thread: std::fs::DirEntry| -> u64 {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).expect("schedstat");
            text.split(' ').next().expect("a number").parse().expect("nanoseconds")
        };
        Duration::from_nanos(threads.map(of_thread).sum())
    };
    // A window of two seconds in which nothing happens.
    std::thread::sleep(Duration::from_millis(500));
    let before = running();
    std::thread::sleep(Duration::from_secs(2));
    let spent = running() - before;
    assert!(spent <= Duration::from_millis(20), "an idle server ran for {spent:?} in 2 s: more than 1 %");
    drop(clients);
}

#[test]
fn clients_that_say_nothing_and_leave_are_forgotten() {
    let server = server();
    survives(&server, 3, || {
        let mut streams: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
        for stream in &mut streams {
            stream.shutdown(std::net::Shutdown::Write).expect("half-close");
        }
        for stream in &mut streams {
            match stream.read(&mut [0; 16]) {
                Ok(0) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                other => panic!("a silent client got {other:?}"),
            }
        }
    });
}
