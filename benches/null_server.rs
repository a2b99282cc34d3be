//! The floor under every number in PERF.md: the same host, executor and client ring as the server, which
//! answers `+OK` to each command without decoding it, looking anything up or keeping anything.
//!
//!     cargo bench --bench null_server -- --port 7002
//!
//! Commands are counted by their `*`: right for redis-benchmark's and loadgen's SET, whose keys and values
//! hold none. `--log-level` and the other flags are the server's; `CRABCACHE_NULL_SLEEP=executor` sleeps
//! through the bridge to the executor instead of in the ring, to show what that costs.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crabcache::config::{Request, Sources, Store};
use crabcache::connection::Received;
use crabcache::reply::Out;
use crabcache::runtime::bridge::Bridge;
use crabcache::runtime::host::{CoreError, CoreSetup, Host};
use crabcache::runtime::log;
use crabcache::runtime::ring::{Event, NetRing, Stopped};
use std::os::fd::AsRawFd;

const SLEEP: Duration = Duration::from_millis(50);
/// A wait counts on sends being done at once, which those to a client that does not read are not.
const SLEEP_AFTER_SENDS: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    // `cargo bench` adds a flag of its own.
    let args = std::env::args_os().filter(|arg| arg != "--bench");
    let request = Request::parse(args).unwrap_or_else(|error| error.exit());
    let (sources, _) = Sources::new(request.file, request.given, std::env::vars());
    let config = match sources.load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    log::start(&config);
    let store = match Store::new(config, sources) {
        Ok(store) => store,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match Host::prepare(Arc::new(store)) {
        Ok(host) => ExitCode::from(host.run(|setup| move || serve(setup))),
        Err(refusal) => {
            eprintln!("{refusal}");
            ExitCode::from(refusal.exit_code())
        }
    }
}

async fn serve(setup: CoreSetup) -> Result<(), CoreError> {
    let in_executor = std::env::var_os("CRABCACHE_NULL_SLEEP").is_some_and(|value| value == "executor");
    let mut ring = NetRing::new(setup.doorbells[setup.index].as_raw_fd())?;
    let bridge = Bridge::new(&mut ring)?;
    for listener in &setup.listeners.shared {
        ring.add_listener(listener.as_raw_fd(), true);
    }
    setup.ready.announce();
    // What is to be sent, and the buffer that comes back from each send.
    let mut outs: Vec<Out> = Vec::new();
    let mut dirty: Vec<u32> = Vec::new();
    let mut spare: Vec<Out> = Vec::new();
    while !setup.shutdown.is_requested() {
        if in_executor {
            ring.poll()?;
            if !ring.has_events() {
                bridge.sleep(&mut ring, SLEEP, std::future::pending()).await?;
                ring.poll()?;
            }
        } else if ring.has_events() {
            ring.poll()?;
        } else {
            let bound = if ring.has_submissions() { SLEEP_AFTER_SENDS } else { SLEEP };
            ring.wait(bound)?;
        }
        while let Some(event) = ring.next_event() {
            match event {
                Event::Accepted { socket, .. } => {
                    let index = ring.add_socket(socket) as usize;
                    if outs.len() <= index {
                        outs.resize_with(index + 1, Out::default);
                    }
                }
                Event::Received { index, buffer } => {
                    let commands = memchr::memchr_iter(b'*', ring.bytes(buffer)).count();
                    ring.give_back(buffer);
                    let out = &mut outs[index as usize];
                    if out.is_empty() {
                        dirty.push(index);
                        if out.bytes.capacity() == 0 {
                            *out = spare.pop().unwrap_or_default();
                        }
                    }
                    for _ in 0..commands {
                        out.bytes.extend_from_slice(b"+OK\r\n");
                    }
                }
                Event::Sent { mut out, .. } => {
                    out.clear();
                    spare.push(out);
                }
                // The ring itself cancels the receives of whoever sends more than is taken.
                Event::ReceiveStopped { index, why: Stopped::Exhausted | Stopped::Cancelled } => ring.receive(index),
                Event::ReceiveStopped { index, .. } | Event::SendFailed { index, .. } => ring.close(index),
                _ => {}
            }
        }
        ring.publish_buffers();
        dirty.retain(|&index| {
            let waits = ring.is_sending(index);
            if !waits && !ring.is_closing(index) {
                ring.send(index, std::mem::take(&mut outs[index as usize]));
            }
            waits
        });
    }
    Ok(())
}
