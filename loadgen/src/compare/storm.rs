//! `loadgen compare ttl-storm`: a steady load of GET while millions of other keys expire within one second. What the
//! clients notice, and how long the memory stays.

use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::Findings;
use super::memory::{self, Expiry};
use super::options::Checked;
use super::round::wait_for_quiet;
use super::server::{Server, ServerOptions};
use super::steady::{self, CONNECTIONS, VALUE_BYTES};
use super::turns::servers_in_turn;
use crate::failure::Failure;
use crate::report::json::percentiles;
use crate::report::svg::{Bar, Bars};
use crate::report::{Percentiles, say};
use crate::session::Session;

const KEY_BYTES: usize = 16;
const EXPIRY_SPREAD_MS: u64 = 1000;
/// From the end of loading to the first expiry; and how long the load goes on after the last.
const BEFORE: Duration = Duration::from_secs(5);
const AFTER: Duration = Duration::from_secs(10);
const ASKED_EVERY: Duration = Duration::from_millis(20);
/// Keys that are loaded per second at least: until then nothing may expire.
const LOADED_PER_SECOND_MIN: u64 = 100_000;

/// What one server made of it.
struct Storm {
    calm: Percentiles,
    stormy: Percentiles,
    /// From the last expiry until no expired key was counted any more.
    gone_after: Option<Duration>,
    resident_bytes: [u64; 2],
    cpu_ns: u64,
}

pub fn measure(keys: u64, requests_per_second: f64, checked: &Checked) -> Result<(), Failure> {
    let mut table = format!(
        "{keys} keys ({KEY_BYTES} B, values of {VALUE_BYTES} B) expire within {EXPIRY_SPREAD_MS} ms, while {CONNECTIONS} connections send \
         {requests_per_second:.0} GETs per second for {} others (open loop, timed from when each was due). Stormy: from the \
         first expiry on, {} s.\n\n\
         | server | | p50 ms | p99 ms | p99.9 ms | max ms | last key gone after | RSS MiB before, after | server CPU s |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|\n",
        steady::KEYS,
        AFTER.as_secs() + EXPIRY_SPREAD_MS / 1000
    );
    let mut rows = Vec::new();
    let mut groups = Vec::new();
    for server in servers_in_turn(checked) {
        let storm = measure_one(server, keys, requests_per_second, checked)?;
        push_rows(&mut table, server, &storm);
        rows.push(json!({
            "server": server.name,
            "keys": keys,
            "requests_per_second": requests_per_second,
            "calm_ms": percentiles(&storm.calm),
            "stormy_ms": percentiles(&storm.stormy),
            "gone_after_seconds": storm.gone_after.map(|time| time.as_secs_f64()),
            "resident_bytes_before": storm.resident_bytes[0],
            "resident_bytes_after": storm.resident_bytes[1],
            "server_cpu_ns": storm.cpu_ns,
        }));
        let bar = |latency: &Percentiles| Bar { value: latency.p999, interval: None };
        groups.push((server.name.clone(), vec![bar(&storm.calm), bar(&storm.stormy)]));
    }
    let (title, series) = ("p99.9 of the steady load".into(), ["calm", "stormy"].map(str::to_owned).to_vec());
    Findings { table, rows, chart: Bars { title, y_label: "ms", series, groups } }.publish(checked)
}

fn push_rows(table: &mut String, server: &ServerOptions, storm: &Storm) {
    let mib = |bytes: u64| bytes >> 20;
    let gone = storm.gone_after.map_or("not within the time".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()));
    let [before, after] = storm.resident_bytes.map(mib);
    let seconds = storm.cpu_ns as f64 / 1e9;
    for (name, latency, rest) in [
        ("calm", &storm.calm, "| | |".to_owned()),
        ("stormy", &storm.stormy, format!("{gone} | {before}, {after} | {seconds:.2}")),
    ] {
        steady::push_row(table, &server.name, name, latency, &rest);
    }
}

fn measure_one(
    options: &ServerOptions,
    keys: u64,
    requests_per_second: f64,
    checked: &Checked,
) -> Result<Storm, Failure> {
    let server = Server::start(options)?;
    wait_for_quiet(&[&server], checked)?;
    steady::load_keys(&server, checked)?;
    let loading = Duration::from_secs(keys.div_ceil(LOADED_PER_SECOND_MIN));
    let first_expiry = SystemTime::now() + loading + BEFORE;
    let unix_ms = first_expiry.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let failed = |error| Failure::system(format!("cannot load {}", server.name()), error);
    let stream = TcpStream::from(Session::open(&server.target())?.into_fd());
    let expiry = Expiry::SpreadFrom { unix_ms, over_ms: EXPIRY_SPREAD_MS };
    // Longer names than those that stay have.
    memory::load(stream, options.protocol, keys, KEY_BYTES + 1, VALUE_BYTES, expiry).map_err(failed)?;
    let Ok(left) = first_expiry.duration_since(SystemTime::now()) else {
        return Err(Failure::system(format!("{} is too slow", server.name()), "keys expired before all were loaded"));
    };
    super::sleep(left.saturating_sub(BEFORE))?;

    let (resident_before, cpu_ns) = (server.resident_bytes(), server.cpu_ns());
    let first_expiry = Instant::now() + first_expiry.duration_since(SystemTime::now()).unwrap_or_default();
    let last_expiry = first_expiry + Duration::from_millis(EXPIRY_SPREAD_MS);
    let mut load = steady::begin(&server, requests_per_second, checked)?;
    super::sleep(first_expiry.saturating_duration_since(Instant::now()))?;
    let calm = steady::look(&mut load)?;
    let gone_at = wait_until_gone(&server, last_expiry + AFTER)?;
    super::sleep((last_expiry + AFTER).saturating_duration_since(Instant::now()))?;
    let stormy = steady::look(&mut load)?;
    let (resident_after, cpu_ns) = (server.resident_bytes(), server.cpu_ns() - cpu_ns);
    load.stop();
    load.finish()?;
    let storm = Storm {
        calm,
        stormy,
        gone_after: gone_at.map(|at| at.saturating_duration_since(last_expiry)),
        resident_bytes: [resident_before, resident_after],
        cpu_ns,
    };
    say::tell(format_args!(
        "#   {}: p99.9 {:.3} ms calm, {:.3} ms stormy, at most {:.3} ms",
        server.name(),
        storm.calm.p999,
        storm.stormy.p999,
        storm.stormy.max
    ));
    Ok(storm)
}

/// Asks for the number of keys until only those are left that stay.
fn wait_until_gone(server: &Server, until: Instant) -> Result<Option<Instant>, Failure> {
    let mut session = Session::open(&server.target())?;
    let nothing_else = format!(":{}\r\n", steady::KEYS).into_bytes();
    while Instant::now() < until {
        if session.ask("DBSIZE", &["DBSIZE"])? == nothing_else {
            return Ok(Some(Instant::now()));
        }
        super::sleep(ASKED_EVERY)?;
    }
    Ok(None)
}
