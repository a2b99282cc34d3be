//! The command line of a load: redis-benchmark's flags where they fit, memtier's where they go further,
//! and a few of our own.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{ArgAction, Parser};

use crate::cluster;
use crate::keys::{Distribution, ZIPF_EXPONENT_MAX};
use crate::plan::{Arrivals, Credentials, Endpoint, Pace, Plan, Target, Until};
use crate::random::mix;
use crate::trace::Trace;
use crate::verify::{HEADER_BYTES, Verifier};
use crate::wire::Protocol;
use crate::workload::{Action, KeyNames, Mix, Sizes, Workload};

const CLIENTS_DEFAULT: usize = 50;
const REQUESTS_DEFAULT: u64 = 100_000;
const SIZE_DEFAULT: usize = 3;
/// Thirty days.
const MEMCACHE_SECONDS_MAX: u32 = 30 * 86_400;
/// As good as for ever, and still a number that every clock can count to.
const SECONDS_MAX: f64 = 1e8;
const TESTS_DEFAULT: &str = "ping_inline,ping_mbulk,set,get,incr,mset,mget";

/// Load generator for crabcache, Redis, memcached and their kin.
///
/// Runs one test after another (-t), or one mixed load (--mix, --ratio), or one command given as words
/// in which __key__, __rand_int__ and __data__ are replaced. `loadgen compare --help` is about comparing
/// two servers, `loadgen soak --help` about wearing one down.
#[derive(Parser, Debug, Clone)]
#[command(name = "loadgen", version, disable_help_flag = true, max_term_width = 110)]
pub struct LoadOptions {
    /// Server host.
    #[arg(short = 'h', long, default_value = "127.0.0.1", help_heading = "Server")]
    pub host: String,
    /// Server port.
    #[arg(short, long, default_value_t = 7001, help_heading = "Server")]
    pub port: u16,
    /// Server socket (instead of host and port).
    #[arg(short, long, value_name = "PATH", help_heading = "Server")]
    pub socket: Option<PathBuf>,
    /// Password or token.
    #[arg(short = 'a', long = "pass", value_name = "PASSWORD", help_heading = "Server")]
    pub password: Option<String>,
    /// User name, sent with the password.
    #[arg(long, requires = "password", help_heading = "Server")]
    pub user: Option<String>,
    #[arg(long, value_enum, default_value = "resp2", help_heading = "Server")]
    pub protocol: Protocol,
    /// Seconds to wait for a connection or a reply before giving up.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds, help_heading = "Server")]
    pub timeout: f64,

    /// Connections, all threads together [default: 50; with --trace one for each thread].
    #[arg(short = 'c', long = "clients", value_name = "N", help_heading = "Load")]
    pub clients: Option<usize>,
    /// Requests of each test [default: 100000].
    #[arg(short = 'n', long = "requests", value_name = "N", conflicts_with = "test_time", help_heading = "Load")]
    pub requests: Option<u64>,
    /// Seconds of each test, instead of a number of requests.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Load")]
    pub test_time: Option<f64>,
    /// Requests that one connection sends before it waits for replies.
    #[arg(short = 'P', long, default_value_t = 1, value_name = "N", help_heading = "Load")]
    pub pipeline: usize,
    /// Generating threads.
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Load")]
    pub threads: usize,
    /// CPUs that the threads are pinned to, such as 1 or 2,3 or 2-5 [default: not pinned].
    #[arg(long, value_name = "LIST", value_parser = parse_cpus, help_heading = "Load")]
    pub cpus: Option<CpuList>,
    /// 1: keep connections; 0: a new one for each pipeline of requests.
    #[arg(short = 'k', long = "keepalive", default_value_t = 1, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1), help_heading = "Load")]
    pub keep_alive: u8,
    /// Open loop: so many requests per second in all, whatever the server does; latency counts from the
    /// moment a request was due.
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Load")]
    pub rate: Option<f64>,
    /// The same, per connection.
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "rate", help_heading = "Load")]
    pub rate_limiting: Option<f64>,
    /// When requests of an open loop are due [default: even].
    #[arg(long, value_enum, help_heading = "Load")]
    pub arrivals: Option<Arrivals>,
    /// Ask the server for its cluster, and send each request to the node that owns its key.
    #[arg(long, conflicts_with_all = ["socket", "verify", "trace"], help_heading = "Load")]
    pub cluster: bool,
    /// Repeat the tests for ever.
    #[arg(short = 'l', long = "loop", conflicts_with_all = ["json_out_file", "hdr_file_prefix", "svg"], help_heading = "Load")]
    pub forever: bool,
    /// The same seed makes the same requests.
    #[arg(long, default_value_t = 12345, help_heading = "Load")]
    pub seed: u64,

    /// Tests, one after another [default: ping_inline,ping_mbulk,set,get,incr,mset,mget].
    #[arg(short = 't', long = "tests", value_name = "LIST", conflicts_with_all = ["mix", "ratio", "words"], help_heading = "Requests")]
    pub tests: Option<String>,
    /// One test of several commands by weight, such as set=1,get=8,mget10=1.
    #[arg(long, conflicts_with_all = ["ratio", "words"], help_heading = "Requests")]
    pub mix: Option<Mix>,
    /// One test of SET and GET by weight, such as 1:10.
    #[arg(long, value_name = "SET:GET", value_parser = parse_ratio, conflicts_with = "words", help_heading = "Requests")]
    pub ratio: Option<Mix>,
    /// Bytes per value [default: 3].
    #[arg(
        short = 'd',
        long = "data-size",
        value_name = "BYTES",
        conflicts_with = "data_size_range",
        help_heading = "Requests"
    )]
    pub data_size: Option<Sizes>,
    /// Bytes per value, uniform between both.
    #[arg(long, value_name = "MIN-MAX", help_heading = "Requests")]
    pub data_size_range: Option<Sizes>,
    /// Keys of the key space.
    #[arg(short = 'r', long = "keyspace", default_value_t = 100_000, value_name = "N", help_heading = "Requests")]
    pub keyspace: u64,
    /// How keys are drawn: uniform, sequential, gaussian, zipf[:EXPONENT],
    /// hotset[:FRACTION[:SHARE[:REQUESTS_PER_STEP]]] [default: uniform].
    #[arg(long, value_name = "DISTRIBUTION", help_heading = "Requests")]
    pub keys: Option<Distribution>,
    /// memtier's way to say it: R (random), S (sequential), G (gaussian), Z (zipf), for all or, like S:R, for SET and
    /// for GET.
    #[arg(long, value_name = "PATTERN", value_parser = parse_pattern, conflicts_with = "keys", help_heading = "Requests")]
    pub key_pattern: Option<KeyPattern>,
    /// Exponent for the pattern Z.
    #[arg(long, value_name = "EXPONENT", value_parser = exponent, conflicts_with = "keys", help_heading = "Requests")]
    pub key_zipf_exp: Option<f64>,
    #[arg(long, default_value = "key:", value_name = "TEXT", help_heading = "Requests")]
    pub key_prefix: String,
    /// Digits after the prefix.
    #[arg(long, default_value_t = 12, value_name = "N", help_heading = "Requests")]
    pub key_digits: usize,
    /// Seconds of time to live that EXPIRE gives [default: 60]; when given, SET gives it as well.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Requests")]
    pub expire: Option<u32>,
    /// Set every key of the key space once before the tests.
    #[arg(long, help_heading = "Requests")]
    pub preload: bool,
    /// A GET that misses is followed by a SET of its key.
    #[arg(long, conflicts_with = "verify", help_heading = "Requests")]
    pub fill: bool,
    /// Replay a file of accesses, a line `key` or `key,size` each, plain or zstd: GET, and SET on a miss.
    /// More than one connection, or a pipeline, makes the order of accesses inexact.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tests", "mix", "ratio", "words", "keys", "key_pattern", "keyspace", "verify", "preload", "data_size_range"], help_heading = "Requests")]
    pub trace: Option<PathBuf>,
    /// Write the key and a version into each value (of 32 bytes at least), and report values that are
    /// foreign, torn, stale or wrong.
    #[arg(long, visible_alias = "data-verify", conflicts_with = "words", help_heading = "Requests")]
    pub verify: bool,
    /// A command of your own.
    #[arg(value_name = "COMMAND", trailing_var_arg = true, help_heading = "Requests")]
    pub words: Vec<String>,

    /// Only the requests per second of each test.
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
    /// Results as comma-separated values.
    #[arg(long, conflicts_with = "quiet", help_heading = "Output")]
    pub csv: bool,
    /// Everything measured, as JSON.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json_out_file: Option<PathBuf>,
    /// Latency histograms: PREFIX_test.hgrm (percentiles) and PREFIX_test.hlog (second by second).
    #[arg(long, value_name = "PREFIX", help_heading = "Output")]
    pub hdr_file_prefix: Option<String>,
    /// Charts of latency percentiles, and of throughput and latency over time.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub svg: Option<PathBuf>,
    #[arg(long, action = ArgAction::Help, help_heading = "Output")]
    help: Option<bool>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CpuList(pub Vec<usize>);

/// What the options come to: plans to run one after another.
#[derive(Debug)]
pub struct Checked {
    pub preload: Option<Plan>,
    pub plans: Vec<Plan>,
}

impl LoadOptions {
    pub fn check(&self) -> Result<Checked, String> {
        let clients = self.clients.unwrap_or(if self.trace.is_some() { self.threads } else { CLIENTS_DEFAULT });
        if clients == 0 || clients > 50_000 {
            return Err("-c: 1 to 50000 connections".into());
        }
        if self.threads == 0 || self.threads > clients {
            return Err(format!("--threads: 1 to {clients}, the number of connections"));
        }
        if self.pipeline == 0 || self.pipeline > 1_000_000 {
            return Err("-P: 1 to 1000000".into());
        }
        if self.keyspace == 0 {
            return Err("-r: at least one key".into());
        }
        if self.requests == Some(0) {
            return Err("-n: at least one request".into());
        }
        let names = KeyNames { prefix: self.key_prefix.clone(), digits: self.key_digits };
        if !(1..=20).contains(&names.digits) || names.prefix.len() > 1024 {
            return Err("--key-digits: 1 to 20; --key-prefix: up to 1024 bytes".into());
        }
        if self.keyspace > names.count_max() {
            return Err(format!("{} digits do not tell {} keys apart", names.digits, self.keyspace));
        }
        let rate = self.rate.or(self.rate_limiting.map(|rate| rate * clients as f64));
        if rate.is_some() && self.keep_alive == 0 {
            return Err("-k 0 and an open loop (--rate) exclude each other".into());
        }
        if rate.is_none() && self.arrivals.is_some() {
            return Err("--arrivals belongs to an open loop (--rate, --rate-limiting)".into());
        }
        if self.protocol == Protocol::Memcache && self.password.is_some() {
            return Err("-a: memcached's text protocol has no passwords".into());
        }
        let mut workloads = self.workloads(names)?;
        let requests = self.requests.unwrap_or(REQUESTS_DEFAULT);
        let requests = match &workloads[0].trace {
            None => requests,
            Some(trace) if self.requests.is_none_or(|count| count <= trace.len()) => {
                self.requests.unwrap_or(trace.len())
            }
            Some(trace) => return Err(format!("-n: the trace has {} requests", trace.len())),
        };
        let verifier = match self.verify {
            false => None,
            true => Some(Arc::new(self.verifier(clients, &workloads)?)),
        };
        let target = self.target()?;
        let plan = |workload: Workload| Plan {
            target: target.clone(),
            workload,
            threads: self.threads,
            cpus: self.cpus.clone().map_or(Vec::new(), |list| list.0),
            connections: clients,
            pipeline: self.pipeline,
            keep_alive: self.keep_alive == 1,
            pace: match rate {
                Some(requests_per_second) => {
                    Pace::Open { requests_per_second, arrivals: self.arrivals.unwrap_or(Arrivals::Even) }
                }
                None => Pace::Closed,
            },
            until: match self.test_time {
                Some(seconds) => Until::Time(Duration::from_secs_f64(seconds)),
                None => Until::Requests(requests),
            },
            seed: self.seed,
            cluster: self.cluster,
            verifier: verifier.clone(),
        };
        let preload = self.preload.then(|| preload_of(&plan(workloads[0].clone())));
        let plans = workloads.drain(..).map(plan).collect();
        Ok(Checked { preload, plans })
    }

    fn verifier(&self, clients: usize, workloads: &[Workload]) -> Result<Verifier, String> {
        const KEYS_MAX: u64 = 100_000_000;
        if self.keyspace < clients as u64 || self.keyspace > KEYS_MAX {
            return Err(format!(
                "--verify needs a key (-r) for each of the {clients} connections, and at most {KEYS_MAX}"
            ));
        }
        if workloads[0].sizes.min() < HEADER_BYTES {
            return Err(format!("--verify needs values of {HEADER_BYTES} bytes or more (-d)"));
        }
        let mut actions = workloads.iter().flat_map(|workload| &workload.mix);
        if self.protocol == Protocol::Memcache && actions.any(|(action, _)| matches!(action, Action::MGet(_))) {
            return Err("--verify cannot tell which keys memcached left out of an MGET".into());
        }
        // Another one each time: what an earlier run left behind is not a fault of this one.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Verifier::new(mix(now.as_nanos() as u64) as u32, self.keyspace, clients))
    }

    fn target(&self) -> Result<Target, String> {
        let endpoint = match &self.socket {
            Some(path) => Endpoint::Unix(path.clone()),
            None => {
                let found = (self.host.as_str(), self.port).to_socket_addrs();
                let mut addresses: Vec<_> = found.map_err(|error| format!("-h {}: {error}", self.host))?.collect();
                // Where a name has both, servers of this kind usually listen on IPv4.
                addresses.sort_by_key(|address| !address.is_ipv4());
                Endpoint::Tcp(*addresses.first().ok_or_else(|| format!("-h {}: no address", self.host))?)
            }
        };
        Ok(Target {
            endpoint,
            protocol: self.protocol,
            credentials: Credentials { user: self.user.clone(), password: self.password.clone() },
            timeout: Duration::from_secs_f64(self.timeout),
        })
    }

    fn workloads(&self, names: KeyNames) -> Result<Vec<Workload>, String> {
        let mut pattern =
            self.key_pattern.unwrap_or(KeyPattern { sets: self.keys.unwrap_or(Distribution::Uniform), gets: None });
        if let Some(wanted) = self.key_zipf_exp {
            let mut exponents = [Some(&mut pattern.sets), pattern.gets.as_mut()]
                .into_iter()
                .flatten()
                .filter_map(|it| match it {
                    Distribution::Zipf { exponent } => Some(exponent),
                    _ => None,
                })
                .peekable();
            if exponents.peek().is_none() {
                return Err("--key-zipf-exp belongs to --key-pattern Z".into());
            }
            exponents.for_each(|exponent| *exponent = wanted);
        }
        if self.cluster && (self.keyspace > cluster::KEYS_MAX || self.protocol == Protocol::Memcache) {
            return Err(format!("--cluster: up to {} keys, and not with memcached", cluster::KEYS_MAX));
        }
        let trace = match &self.trace {
            None => None,
            Some(path) => Some(Arc::new(Trace::load(path)?)),
        };
        if self.protocol == Protocol::Memcache && self.expire.is_some_and(|seconds| seconds > MEMCACHE_SECONDS_MAX) {
            return Err(format!("--expire: more than {MEMCACHE_SECONDS_MAX} seconds are a date to memcached"));
        }
        if let Some(trace) = &trace {
            if trace.sized && self.data_size.is_some() {
                return Err("-d: the trace says how large its values are".into());
            }
            if trace.largest_key() >= names.count_max() {
                return Err(format!("--key-digits {}: too few for the keys of the trace", names.digits));
            }
            let name = format!(
                "trace {}",
                self.trace.iter().filter_map(|path| path.file_name()?.to_str()).collect::<String>()
            );
            return Ok(vec![Workload {
                name,
                mix: vec![(Action::Get, 1)],
                keys: trace.unique,
                distribution: Distribution::Sequential,
                distribution_of_reads: None,
                names,
                sizes: self.data_size.unwrap_or(Sizes::Fixed(SIZE_DEFAULT)),
                expire_seconds: self.expire.unwrap_or(60),
                set_expires: self.expire.is_some(),
                fill: true,
                trace: Some(trace.clone()),
            }]);
        }
        let size_default = if self.verify { 64 } else { SIZE_DEFAULT };
        let base = Workload {
            name: String::new(),
            mix: Vec::new(),
            keys: self.keyspace,
            distribution: pattern.sets,
            distribution_of_reads: pattern.gets,
            names,
            sizes: self.data_size.or(self.data_size_range).unwrap_or(Sizes::Fixed(size_default)),
            expire_seconds: self.expire.unwrap_or(60),
            set_expires: self.expire.is_some(),
            fill: self.fill,
            trace: None,
        };
        let mixes: Vec<(String, Vec<(Action, u32)>)> = if !self.words.is_empty() {
            vec![(self.words.join(" "), vec![(Action::Words(self.words.clone()), 1)])]
        } else if let Some(Mix(mix)) = self.mix.clone().or(self.ratio.clone()) {
            let name = mix.iter().map(|(action, weight)| format!("{}={weight}", action.name()));
            vec![(name.collect::<Vec<_>>().join(","), mix)]
        } else {
            let tests = match (&self.tests, self.protocol) {
                (Some(tests), _) => tests.as_str(),
                (None, Protocol::Memcache) => "set,get,mget",
                (None, _) => TESTS_DEFAULT,
            };
            let actions: Result<Vec<Action>, String> = tests.split(',').map(|test| test.trim().parse()).collect();
            actions?.into_iter().map(|action| (action.name(), vec![(action, 1)])).collect()
        };
        for (action, _) in mixes.iter().flat_map(|(_, mix)| mix) {
            if self.protocol == Protocol::Memcache && matches!(action, Action::MSet(_) | Action::Words(_)) {
                return Err(format!("{}: the memcache protocol has no such command", action.name()));
            }
            if self.fill && matches!(action, Action::MGet(_)) {
                return Err("--fill goes with GET, not with MGET".into());
            }
        }
        if self.fill && !mixes.iter().flat_map(|(_, mix)| mix).any(|(action, _)| *action == Action::Get) {
            return Err("--fill needs a GET that may miss".into());
        }
        Ok(mixes.into_iter().map(|(name, mix)| Workload { name, mix, ..base.clone() }).collect())
    }
}

/// The load that sets each key once, as fast as it goes.
pub fn preload_of(plan: &Plan) -> Plan {
    let mut preload = plan.clone();
    preload.workload.name = "preload".into();
    preload.workload.mix = vec![(Action::Set, 1)];
    preload.workload.distribution = Distribution::Sequential;
    preload.workload.distribution_of_reads = None;
    preload.workload.fill = false;
    preload.pipeline = 64;
    if !plan.cluster {
        preload.connections = plan.connections.clamp(plan.threads, 16.max(plan.threads));
    }
    preload.keep_alive = true;
    preload.pace = Pace::Closed;
    preload.until = Until::Requests(plan.workload.keys);
    preload
}

pub fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("expected a number above 0".into()),
    }
}

/// A time to wait or to run.
pub fn seconds(text: &str) -> Result<f64, String> {
    positive(text).and_then(|seconds| match seconds <= SECONDS_MAX {
        true => Ok(seconds),
        false => Err(format!("at most {SECONDS_MAX} seconds")),
    })
}

fn exponent(text: &str) -> Result<f64, String> {
    positive(text).and_then(|exponent| match exponent <= ZIPF_EXPONENT_MAX {
        true => Ok(exponent),
        false => Err(format!("at most {ZIPF_EXPONENT_MAX}")),
    })
}

pub fn parse_cpus(text: &str) -> Result<CpuList, String> {
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("{text:?} is not a CPU number"));
    let mut cpus = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => cpus.push(number(part)?),
            Some((first, last)) => match (number(first)?, number(last)?) {
                (first, last) if first <= last && last < 4096 => cpus.extend(first..=last),
                _ => return Err(format!("{part:?} is not a range of CPUs")),
            },
        }
    }
    Ok(CpuList(cpus))
}

fn parse_ratio(text: &str) -> Result<Mix, String> {
    match text.split_once(':') {
        Some((sets, gets)) => format!("set={sets},get={gets}").parse(),
        None => Err("expected SETS:GETS, such as 1:10".into()),
    }
}

/// What `--key-pattern` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyPattern {
    sets: Distribution,
    /// None: like SET.
    gets: Option<Distribution>,
}

fn parse_pattern(text: &str) -> Result<KeyPattern, String> {
    let one = |letter: &str| match letter.to_ascii_uppercase().as_str() {
        "R" => Ok(Distribution::Uniform),
        "S" | "P" => Ok(Distribution::Sequential),
        "G" => Ok(Distribution::Gaussian),
        "Z" => Ok(Distribution::Zipf { exponent: 1.0 }),
        _ => Err(format!("{letter:?} is not one of R, S, P, G, Z")),
    };
    let (sets, gets) = text.split_once(':').unwrap_or((text, text));
    let (sets, gets) = (one(sets)?, one(gets)?);
    Ok(KeyPattern { sets, gets: (gets != sets).then_some(gets) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<Checked, String> {
        let words = std::iter::once("loadgen").chain(line.split_whitespace());
        LoadOptions::try_parse_from(words).map_err(|error| error.to_string())?.check()
    }

    #[test]
    fn redis_benchmark_lines_work() {
        let checked =
            check("-h 127.0.0.1 -p 6379 -c 10 -n 1000 -d 64 -P 16 -r 5000 -t set,get -q -k 1 --threads 2 -a secret")
                .unwrap();
        assert_eq!(checked.plans.iter().map(|plan| plan.workload.name.as_str()).collect::<Vec<_>>(), ["SET", "GET"]);
        let plan = &checked.plans[0];
        assert_eq!((plan.connections, plan.pipeline, plan.threads, plan.until), (10, 16, 2, Until::Requests(1000)));
        assert_eq!((plan.workload.sizes, plan.workload.keys), (Sizes::Fixed(64), 5000));
        assert_eq!(plan.target.credentials.password.as_deref(), Some("secret"));
        assert_eq!(plan.connections_of(0) + plan.connections_of(1), 10);
    }

    #[test]
    fn memtier_lines_work() {
        let checked = check("--ratio 1:10 --test-time 5 --key-pattern Z:Z --key-zipf-exp 1.1 --data-size-range 16-1024 --rate-limiting 100").unwrap();
        let plan = &checked.plans[0];
        assert_eq!(plan.workload.mix, [(Action::Set, 1), (Action::Get, 10)]);
        assert_eq!(plan.workload.distribution, Distribution::Zipf { exponent: 1.1 });
        assert_eq!(plan.workload.distribution_of_reads, None);
        let checked = check("--ratio 1:1 --key-pattern S:Z --key-zipf-exp 1.1").unwrap();
        assert_eq!(checked.plans[0].workload.distributions(), "sequential, reads zipf:1.1");
        assert_eq!(plan.pace, Pace::Open { requests_per_second: 5000.0, arrivals: Arrivals::Even });
    }

    #[test]
    fn contradictions_are_errors() {
        for line in [
            "-n 5 --test-time 3",
            "-t set --mix get=1",
            "-t lpush",
            "-d 5 --data-size-range 1-2",
            "--rate 5 --rate-limiting 5",
            "--rate 5 -k 0",
            "--keys zipf --key-pattern R",
            "--key-zipf-exp 1",
            "-q --csv",
            "-c 0",
            "-c 2 --threads 3",
            "-r 0",
            "--key-digits 2 -r 101",
            "--protocol memcache -t mset",
            "--user x",
            "--no-such-flag",
            "-k 2",
            "--cpus 3-1",
            "--fill --mix mget=1",
            "--verify -d 31",
            "--verify -r 49",
            "--verify --fill",
            "--verify PING",
            "--trace /nonexistent",
            "--cluster --verify",
            "--cluster --protocol memcache",
            "--test-time 1e20",
            "--timeout NaN",
            "--arrivals burst",
            "--fill -t set",
            "--expire 0",
            "--expire 2592001 --protocol memcache",
            "--protocol memcache -a secret",
            "--keys zipf:0.9 --key-zipf-exp 1.2",
            "--key-pattern Z --key-zipf-exp 11",
        ] {
            assert!(check(line).is_err(), "{line}");
        }
    }

    #[test]
    fn own_commands_and_preload() {
        let checked = check("--preload -r 500 -P 4 GETRANGE __key__ 0 1").unwrap();
        assert_eq!(checked.plans[0].workload.mix.len(), 1);
        let preload = checked.preload.unwrap();
        assert_eq!((preload.until, preload.workload.distribution), (Until::Requests(500), Distribution::Sequential));
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpus("1,3-5").unwrap().0, [1, 3, 4, 5]);
        assert!(parse_cpus("x").is_err() && parse_cpus("").is_err());
    }
}
