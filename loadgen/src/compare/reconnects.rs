//! `loadgen compare reconnects`: a steady load of GET while ten thousand others per second connect, ask once and leave.
//! What those notice who were there before, and what a newcomer waits for his reply.
//!
//! ```text
//!   steady load (open loop) ─ settling ─│── calm ──│── stormy ──│
//!   storm                                          └ connect, PING ─▶ … 64 under way … ─▶ +PONG, reset
//! ```

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;

use super::Findings;
use super::options::Checked;
use super::round::wait_for_quiet;
use super::server::{Server, ServerOptions};
use super::steady::{self, CONNECTIONS, SETTLING};
use super::turns::servers_in_turn;
use crate::failure::Failure;
use crate::generator::Load;
use crate::plan::Endpoint;
use crate::report::json::percentiles;
use crate::report::svg::{Bar, Bars};
use crate::report::{Percentiles, say};
use crate::system;

const MEASURED: Duration = Duration::from_secs(6);
/// Newcomers whose replies are awaited at a time.
const UNDER_WAY: usize = 64;

/// What one server made of it.
struct Outcome {
    calm: Percentiles,
    stormy: Percentiles,
    newcomers: Percentiles,
    per_second: f64,
    lost: u64,
    /// Of the server, per second: calm, stormy.
    cpu: [f64; 2],
}

pub fn measure(per_second: f64, requests_per_second: f64, checked: &Checked) -> Result<(), Failure> {
    let mut table = format!(
        "{CONNECTIONS} connections send {requests_per_second:.0} GETs per second (open loop, timed from when each was due), {} s \
         alone, and {} s while {per_second:.0} others per second connect, send PING, read its reply and leave.\n\n\
         | server | | p50 ms | p99 ms | p99.9 ms | max ms | server CPU | newcomers per second, lost |\n\
         |---|---|--:|--:|--:|--:|--:|--:|\n",
        MEASURED.as_secs(),
        MEASURED.as_secs()
    );
    let mut rows = Vec::new();
    let mut groups = Vec::new();
    for server in servers_in_turn(checked) {
        let outcome = measure_one(server, per_second, requests_per_second, checked)?;
        push_rows(&mut table, server, &outcome);
        rows.push(json!({
            "server": server.name,
            "requests_per_second": requests_per_second,
            "newcomers_per_second": outcome.per_second,
            "newcomers_lost": outcome.lost,
            "calm_ms": percentiles(&outcome.calm),
            "stormy_ms": percentiles(&outcome.stormy),
            "newcomers_ms": percentiles(&outcome.newcomers),
            "server_cpu_shares": outcome.cpu,
        }));
        let bar = |latency: &Percentiles| Bar { value: latency.p99, interval: None };
        groups.push((server.name.clone(), vec![bar(&outcome.calm), bar(&outcome.stormy)]));
    }
    let (title, series) = ("p99 of the steady load".into(), ["calm", "stormy"].map(str::to_owned).to_vec());
    Findings { table, rows, chart: Bars { title, y_label: "ms", series, groups } }.publish(checked)
}

fn push_rows(table: &mut String, server: &ServerOptions, outcome: &Outcome) {
    let [calm_cpu, stormy_cpu] = outcome.cpu.map(|share| format!("{:.0} %", share * 100.0));
    for (name, latency, rest) in [
        ("calm", &outcome.calm, format!("{calm_cpu} | ")),
        ("stormy", &outcome.stormy, format!("{stormy_cpu} | {:.0}, {}", outcome.per_second, outcome.lost)),
        ("newcomers", &outcome.newcomers, " | ".to_owned()),
    ] {
        steady::push_row(table, &server.name, name, latency, &rest);
    }
}

fn measure_one(
    options: &ServerOptions,
    per_second: f64,
    requests_per_second: f64,
    checked: &Checked,
) -> Result<Outcome, Failure> {
    let server = Server::start(options)?;
    wait_for_quiet(&[&server], checked)?;
    steady::load_keys(&server, checked)?;
    let mut load = steady::begin(&server, requests_per_second, checked)?;
    let measured = |load: &mut Load| {
        let (cpu_ns, began) = (server.cpu_ns(), Instant::now());
        super::sleep(MEASURED)?;
        let share = (server.cpu_ns() - cpu_ns) as f64 / began.elapsed().as_nanos() as f64;
        Ok::<_, Failure>((steady::look(load)?, share))
    };
    let (calm, calm_cpu) = measured(&mut load)?;
    let stop = AtomicBool::new(false);
    let (stormy, storm) = std::thread::scope(|scope| {
        let endpoint = server.target().endpoint;
        let storm = scope.spawn(|| Storm::blow(endpoint, per_second, checked, &stop));
        super::sleep(SETTLING)
            .and_then(|()| load.cut().map(drop))
            .and_then(|()| {
                let stormy = measured(&mut load);
                stop.store(true, Ordering::Relaxed);
                stormy.map(|stormy| (stormy, storm.join().expect("the storm does not panic")))
            })
            .inspect_err(|_| stop.store(true, Ordering::Relaxed))
    })?;
    load.stop();
    load.finish()?;
    let (stormy, stormy_cpu) = stormy;
    let outcome = Outcome {
        calm,
        stormy,
        newcomers: Percentiles::of(&storm.latency_ns),
        per_second: storm.latency_ns.len() as f64 / storm.elapsed.as_secs_f64(),
        lost: storm.lost,
        cpu: [calm_cpu, stormy_cpu],
    };
    say::tell(format_args!(
        "#   {}: p99 {:.3} ms calm, {:.3} ms while {:.0} connect per second",
        server.name(),
        outcome.calm.p99,
        outcome.stormy.p99,
        outcome.per_second
    ));
    Ok(outcome)
}

/// Clients that come and go.
struct Storm {
    /// From the beginning of connecting to the reply.
    latency_ns: Histogram<u64>,
    /// Those who got no reply.
    lost: u64,
    elapsed: Duration,
}

impl Storm {
    fn blow(endpoint: Endpoint, per_second: f64, checked: &Checked, stop: &AtomicBool) -> Storm {
        let latency_ns = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that a histogram may have");
        let mut storm = Storm { latency_ns, lost: 0, elapsed: Duration::ZERO };
        let Endpoint::Tcp(address) = endpoint else { return storm };
        // Where it cannot be pinned it runs beside the server, and the numbers say so.
        let _ = system::pin_this_thread(&checked.generator_cpus);
        let mut under_way: VecDeque<(Instant, TcpStream)> = VecDeque::with_capacity(UNDER_WAY + 1);
        let began = Instant::now();
        let gap = Duration::from_secs_f64(1.0 / per_second);
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let due = began + gap * number;
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                // The rest of what is under way, rather than nothing.
                match under_way.pop_front() {
                    Some(client) => storm.finish(client),
                    None => std::thread::sleep(left),
                }
            }
            let came = Instant::now();
            match TcpStream::connect(address).and_then(|mut stream| stream.write_all(b"PING\r\n").map(|()| stream)) {
                Ok(stream) => under_way.push_back((came, stream)),
                Err(_) => storm.lost += 1,
            }
            if under_way.len() > UNDER_WAY
                && let Some(client) = under_way.pop_front()
            {
                storm.finish(client);
            }
        }
        storm.elapsed = began.elapsed();
        under_way.drain(..).for_each(|client| storm.finish(client));
        storm
    }

    fn finish(&mut self, (came, mut stream): (Instant, TcpStream)) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        match stream.read_exact(&mut [0; 7]) {
            Ok(()) => self.latency_ns.saturating_record(came.elapsed().as_nanos() as u64),
            Err(_) => self.lost += 1,
        }
        // With a reset, so that no port stays taken for a minute.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}
