//! `loadgen compare recovery`: how long servers take from their start until they answer questions about the keys that
//! they had before, read back from their logs.

use std::fmt::Write as _;
use std::net::TcpStream;

use serde_json::json;

use super::Findings;
use super::memory;
use super::options::Checked;
use super::server::Server;
use super::turns::in_turn;
use crate::failure::Failure;
use crate::report::say;
use crate::report::svg::{Bar, Bars};
use crate::session::Session;

const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 64;

/// Loads each number of keys into each server, ends it and starts it again, as often as pairs are wanted, in turns.
pub fn measure(keyspaces: &[u64], checked: &Checked) -> Result<(), Failure> {
    let mut table =
        String::from("| keys | server | bytes on disk | seconds until it answers | keys/s |\n|--:|---|--:|--:|--:|\n");
    let mut rows = Vec::new();
    let mut groups = Vec::new();
    for &keys in keyspaces {
        for leg in &checked.legs {
            let (mut a, mut b) = (Server::start(&leg.a)?, Server::start(&leg.b)?);
            let mut seconds = [Vec::new(), Vec::new()];
            for server in [&a, &b] {
                let failed = |error| Failure::system(format!("cannot load {}", server.name()), error);
                let stream = TcpStream::from(Session::open(&server.target())?.into_fd());
                let protocol = server.target().protocol;
                memory::load(stream, protocol, keys, KEY_BYTES, VALUE_BYTES, memory::Expiry::None).map_err(failed)?;
                server.pause()?;
            }
            for round in 0..checked.pairs {
                let [of_a, of_b] = &mut seconds;
                for (server, seconds) in in_turn(round, [(&mut a, of_a), (&mut b, of_b)]) {
                    server.resume()?;
                    seconds.push(server.restart()?.as_secs_f64());
                    say::tell(format_args!("# {}: {keys} keys in {:.3} s", server.name(), seconds[round]));
                    check_count(server, keys)?;
                    server.pause()?;
                }
            }
            let mut bars = Vec::new();
            for (server, seconds) in [&a, &b].into_iter().zip(&mut seconds) {
                seconds.sort_by(f64::total_cmp);
                let median = seconds[seconds.len() / 2];
                let (first, last) = (seconds[0], seconds[seconds.len() - 1]);
                let (name, disk, rate) = (server.name(), server.disk_bytes(), keys as f64 / median);
                writeln!(table, "| {keys} | {name} | {disk} | {median:.3} ({first:.3} to {last:.3}) | {rate:.0} |")
                    .expect("a string grows");
                rows.push(json!({ "keys": keys, "server": name, "disk_bytes": disk, "seconds": seconds }));
                bars.push(Bar { value: median, interval: Some((first, last)) });
            }
            groups.push((format!("{keys} keys"), bars));
        }
    }
    let table = format!(
        "Keys of {KEY_BYTES} B with values of {VALUE_BYTES} B; medians of {} starts.\n\n{table}",
        checked.pairs
    );
    let series = checked.legs.iter().flat_map(|leg| [leg.a.name.clone(), leg.b.name.clone()]).collect();
    let title = "From the start to the first answer".into();
    Findings { table, rows, chart: Bars { title, y_label: "seconds", series, groups } }.publish(checked)
}

fn check_count(server: &Server, keys: u64) -> Result<(), Failure> {
    let reply = Session::open(&server.target())?.ask("DBSIZE", &["DBSIZE"])?;
    match reply == format!(":{keys}\r\n").into_bytes() {
        true => Ok(()),
        false => Err(Failure::system(
            format!("{} has not recovered {keys} keys", server.name()),
            String::from_utf8_lossy(&reply).into_owned(),
        )),
    }
}
