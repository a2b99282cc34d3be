//! The command line of a soak.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::verdict::Slack;
use crate::compare::server::{ServerOptions, parse_command};
use crate::options::{CpuList, parse_cpus, positive};
use crate::system;
use crate::wire::Protocol;
use crate::workload::Sizes;

const SERVER_DEFAULT: &str = "--port {port} --cores 2";

/// Wears a server down, and says whether anything grew: memory, descriptors, latency.
///
/// A paced load of verified reads and writes runs beside storms of keys that expire at once, connections
/// that come, go and break off, readers that do not read, and somebody who asks for INFO and STATS all the
/// time. In the command, {port} stands for a free port and {dir} for a directory that is removed
/// afterwards.
#[derive(Parser, Debug, Clone)]
#[command(name = "loadgen soak", version, max_term_width = 110)]
pub struct SoakOptions {
    #[arg(long, default_value = "20", value_parser = positive)]
    pub minutes: f64,
    /// The server's command [default: crabcache beside this program, on two cores].
    #[arg(long, value_name = "CMD")]
    pub server: Option<String>,
    /// CPUs of the server [default: all].
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    pub server_cpus: Option<CpuList>,
    /// Requests per second of the verified load.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = positive)]
    pub rate: f64,
    /// Connections of the verified load.
    #[arg(short = 'c', long = "clients", value_name = "N", default_value_t = 50)]
    pub clients: usize,
    /// Keys of the verified load.
    #[arg(short = 'r', long = "keyspace", value_name = "N", default_value_t = 50_000)]
    pub keyspace: u64,
    /// Bytes per value, uniform between both.
    #[arg(short = 'd', long = "data-size-range", value_name = "MIN-MAX", default_value = "32-4096")]
    pub sizes: Sizes,

    /// Milliseconds by which the typical p99.9 of a second may rise, beside half of itself: more where others
    /// use the machine as well.
    #[arg(long, value_name = "MS", default_value = "1", value_parser = positive)]
    pub latency_slack_ms: f64,

    /// MiB by which resident memory may rise, beside 2 % of itself.
    #[arg(long, value_name = "MIB", default_value = "4", value_parser = positive)]
    pub memory_slack_mib: f64,

    /// Everything sampled, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Charts over time.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Checked {
    pub server: ServerOptions,
    pub time: Duration,
    pub requests_per_second: f64,
    pub connections: usize,
    pub keys: u64,
    pub sizes: Sizes,
    pub slack: Slack,
    pub json: Option<PathBuf>,
    pub svg: Option<PathBuf>,
}

impl SoakOptions {
    pub fn check(&self) -> Result<Checked, String> {
        const SECONDS: std::ops::RangeInclusive<f64> = 10.0..=7.0 * 86_400.0;
        let seconds = self.minutes * 60.0;
        if !SECONDS.contains(&seconds) {
            return Err("--minutes: from a sixth of one to a week".into());
        }
        if self.clients == 0 || self.clients > 10_000 {
            return Err("-c: 1 to 10000 connections".into());
        }
        if self.keyspace < self.clients as u64 || self.keyspace > 10_000_000 {
            return Err(format!("-r: from a key for each of the {} connections to 10000000", self.clients));
        }
        if self.sizes.min() < crate::verify::HEADER_BYTES {
            return Err(format!("-d: values of {} bytes or more, to be verified", crate::verify::HEADER_BYTES));
        }
        let cpus = self.server_cpus.clone().map_or_else(system::allowed_cpus, |list| list.0);
        let server = match &self.server {
            Some(command) => parse_command("--server", command, &None, Protocol::Resp2, false, &cpus)?,
            None => {
                let program = crate::compare::presets::beside("crabcache")?;
                let words = SERVER_DEFAULT.split(' ').map(str::to_owned);
                let words = std::iter::once(program.to_string_lossy().into_owned()).chain(words).collect();
                let (name, protocol) = ("crabcache".into(), Protocol::Resp2);
                ServerOptions {
                    name,
                    words,
                    protocol,
                    cpus,
                    cluster: false,
                    password: None,
                    sets_expire: false,
                    load: None,
                }
            }
        };
        Ok(Checked {
            server,
            time: Duration::from_secs_f64(seconds),
            requests_per_second: self.rate,
            connections: self.clients,
            keys: self.keyspace,
            sizes: self.sizes,
            slack: Slack { latency_ms: self.latency_slack_ms, resident_mib: self.memory_slack_mib },
            json: self.json.clone(),
            svg: self.svg.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_errors() {
        let check = |line: &str| {
            let words = ["soak", "--server", "x --port {port}"].into_iter().chain(line.split_whitespace());
            SoakOptions::try_parse_from(words).map_err(|error| error.to_string())?.check()
        };
        let checked = check("--minutes 0.5 -d 64-100").unwrap();
        assert_eq!((checked.time.as_secs(), checked.sizes), (30, Sizes::Range(64, 100)));
        for line in ["--minutes 0", "--minutes 0.1", "-c 0", "-r 49", "-d 8-100", "--rate 0", "--server x", "extra"] {
            assert!(check(line).is_err(), "{line}");
        }
    }
}
