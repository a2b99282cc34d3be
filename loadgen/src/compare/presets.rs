//! Comparisons by name: each reproduces one table of PERF.md.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::options::{Cell, Effort, Leg, Matrix, Sweep, SweepOf};
use super::server::{OwnLoad, ServerOptions};
use crate::keys::Distribution;
use crate::system;
use crate::wire::Protocol;
use crate::workload::{Action, Mix, Sizes};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// redis-server against ours: SET and GET, pipelines 1, 16, 64, 50 and 200 connections, 64 B and 1 KiB; one
    /// connection alone; a skewed mix.
    Redis,
    /// redis-server against ours over everything at once: SET, GET and ten GETs to a SET, pipelines 1, 16, 64, 1, 50
    /// and 200 connections, 64 B and 1 KiB.
    Matrix,
    /// memcached with one thread against ours.
    Memcached,
    /// Ours spoken to in RESP against ours spoken to in the binary protocol.
    Protocols,
    /// A server that answers without decoding or storing, against ours: what is left to win.
    Null,
    /// One core of ours against two: keys forwarded between cores, and clients that route by slot. Each core
    /// gets its own generating thread and as many connections; with fewer than four CPUs they share.
    Forwarding,
    /// redis-server against ours as everything grows: keys, connections, values, pipelines. The lists of the
    /// matrix are what is swept, each beside a middling rest.
    Growth,
    /// The null server against ours while it is filled at a fixed pace: stalls.
    FillLatency,
    /// redis-server with appendonly no, everysec, always against ours with a log that is synced by nobody, in
    /// intervals, before every reply. Both write where TMPDIR lies, which should be a disk.
    Durability,
    /// How long redis-server takes to read its append-only file and ours its log: the key spaces of the matrix.
    Recovery,
    /// redis-server against ours, each with a ceiling of 256 MiB and twice as much to hold: what evicting costs, and what
    /// is found nevertheless.
    Churn,
    /// redis-server against ours: latency of a steady load while millions of other keys expire within one second.
    TtlStorm,
    /// redis-server against ours: one publisher, and a thousand subscribers (-c) of its channel.
    PubSub,
    /// redis-server against ours: latency of a steady load while ten thousand others per second connect, ask once and leave.
    Reconnects,
    /// redis-server with allkeys-lru and with allkeys-lfu against ours: recorded accesses (--traces) replayed through
    /// real servers of equal memory.
    HitRatio,
    /// Bytes per item beyond key and value in redis-server, memcached and ours.
    Memory,
}

impl Preset {
    pub fn legs(
        self,
        ours: &Path,
        null: impl Fn() -> Result<PathBuf, String>,
        cpus: &[usize],
    ) -> Result<Vec<Leg>, String> {
        let server = |name: &str, program: &Path, arguments: &str, protocol| ServerOptions {
            name: name.to_owned(),
            words: std::iter::once(program.to_string_lossy().into_owned())
                .chain(
                    arguments.split_whitespace().map(|word| if word == "''" { String::new() } else { word.to_owned() }),
                )
                .collect(),
            protocol,
            cpus: cpus.to_vec(),
            cluster: false,
            password: None,
            sets_expire: false,
            load: None,
        };
        let resp2 = Protocol::Resp2;
        let crabcache = server("crabcache", ours, "--port {port} --cores 1", resp2);
        let null_server = || Ok::<_, String>(server("null server", &null()?, "--port {port} --cores 1", resp2));
        let redis = "--port {port} --bind 127.0.0.1 --save '' --appendonly no --maxclients 12000 --dir {dir}";
        let redis = server("redis-server", Path::new("redis-server"), redis, resp2);
        Ok(match self {
            Preset::Redis | Preset::Matrix | Preset::TtlStorm | Preset::PubSub | Preset::Reconnects => {
                vec![Leg { a: redis, b: crabcache }]
            }
            Preset::Churn => vec![bounded(redis, crabcache, "allkeys-lru", CHURN_CEILING)],
            Preset::HitRatio => ["allkeys-lru", "allkeys-lfu"]
                .map(|policy| bounded(redis.clone(), crabcache.clone(), policy, HIT_RATIO_CEILING))
                .to_vec(),
            Preset::Growth => {
                let crabcache = server("crabcache", ours, "--port {port} --cores 1 --max-clients 12000", resp2);
                vec![Leg { a: redis, b: crabcache }]
            }
            Preset::Durability => [("no", "no", "none"), ("everysec", "yes", "async"), ("always", "yes", "sync")]
                .map(|(fsync, appendonly, mode)| {
                    let policy = if appendonly == "yes" { format!("--appendfsync {fsync}") } else { String::new() };
                    let redis = format!(
                        "--port {{port}} --bind 127.0.0.1 --save '' --dir {{dir}} --appendonly {appendonly} {policy} \
                         --auto-aof-rewrite-percentage 100 --auto-aof-rewrite-min-size 64mb"
                    );
                    let ours_too = format!("--port {{port}} --cores 1 --data-dir {{dir}}/data --wal-sync {mode}");
                    Leg {
                        a: server(&format!("redis-server, {fsync}"), Path::new("redis-server"), &redis, resp2),
                        b: server(&format!("crabcache, {mode}"), ours, &ours_too, resp2),
                    }
                })
                .to_vec(),
            Preset::Recovery => {
                let redis = "--port {port} --bind 127.0.0.1 --save '' --dir {dir} --appendonly yes";
                let redis = server("redis-server", Path::new("redis-server"), redis, resp2);
                let arguments = "--port {port} --cores 1 --data-dir {dir}/data --wal-sync async";
                vec![Leg { a: redis, b: server("crabcache", ours, arguments, resp2) }]
            }
            Preset::Memcached => {
                let arguments = format!("-p {{port}} -l 127.0.0.1 -U 0 -t 1 -m 4096 -c 4096 -u {}", user_name());
                let memcached = server("memcached", Path::new("memcached"), &arguments, Protocol::Memcache);
                vec![Leg { a: memcached, b: crabcache }]
            }
            Preset::Protocols => {
                let resp = ServerOptions { name: "RESP2".into(), ..crabcache.clone() };
                let binary = ServerOptions { name: "binary".into(), protocol: Protocol::Binary, ..crabcache };
                vec![Leg { a: resp, b: binary }]
            }
            Preset::Memory => {
                let arguments = format!("-p {{port}} -l 127.0.0.1 -U 0 -t 1 -m 8192 -u {}", user_name());
                let memcached = server("memcached", Path::new("memcached"), &arguments, Protocol::Memcache);
                vec![Leg { a: redis, b: crabcache.clone() }, Leg { a: memcached, b: crabcache }]
            }
            Preset::Null | Preset::FillLatency => vec![Leg { a: null_server()?, b: crabcache }],
            Preset::Forwarding => {
                let [one_core, two_cores] = per_core(&system::allowed_cpus());
                let mut one = ServerOptions { name: "one core".into(), ..crabcache };
                (one.cpus, one.load) = one_core;
                let mut two = server("two cores, forwarded", ours, "--port {port} --cores 2", resp2);
                (two.cpus, two.load) = two_cores;
                let routed = ServerOptions { name: "two cores, routed by slot".into(), cluster: true, ..two.clone() };
                vec![Leg { a: one.clone(), b: two }, Leg { a: one, b: routed }]
            }
        })
    }

    /// As much as makes a table within six minutes.
    pub fn effort(self) -> Effort {
        match self {
            Preset::Matrix | Preset::Growth => Effort { pairs: 2, noise_pairs: 0, seconds: 0.8, warm_up_seconds: 0.2 },
            _ => Effort { pairs: 3, noise_pairs: 1, seconds: 1.2, warm_up_seconds: 0.3 },
        }
    }

    pub fn matrices(self) -> Vec<Matrix> {
        let single = |action| vec![Mix(vec![(action, 1)])];
        let mixed = vec![Mix(vec![(Action::Set, 1), (Action::Get, 9)])];
        let usual = Matrix::default();
        match self {
            Preset::Redis => vec![
                Matrix { connections: vec![50, 200], ..usual.clone() },
                Matrix { pipelines: vec![1], connections: vec![1], ..usual.clone() },
                Matrix {
                    pipelines: vec![16],
                    mixes: mixed,
                    keys: vec![Distribution::Zipf { exponent: 0.99 }],
                    ..usual.clone()
                },
                Matrix { pipelines: vec![16, 64], sizes: vec![Sizes::Fixed(1024)], ..usual },
            ],
            Preset::Memcached | Preset::Protocols | Preset::Forwarding => vec![usual],
            // It answers +OK to everything, which is an answer to SET only.
            Preset::Null => vec![Matrix {
                connections: vec![1, 50, 200],
                sizes: vec![Sizes::Fixed(64), Sizes::Fixed(1024)],
                mixes: single(Action::Set),
                ..usual
            }],
            Preset::Matrix => vec![Matrix {
                connections: vec![1, 50, 200],
                sizes: vec![Sizes::Fixed(64), Sizes::Fixed(1024)],
                mixes: vec![
                    Mix(vec![(Action::Set, 1)]),
                    Mix(vec![(Action::Get, 1)]),
                    Mix(vec![(Action::Set, 1), (Action::Get, 10)]),
                ],
                ..usual
            }],
            Preset::Growth => vec![Matrix {
                pipelines: vec![1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
                connections: vec![1, 4, 16, 50, 200, 1000, 4000, 10_000],
                sizes: [16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1 << 20].map(Sizes::Fixed).to_vec(),
                mixes: mixed,
                keyspaces: vec![100_000, 1_000_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000],
                ..usual
            }],
            Preset::Memory | Preset::TtlStorm | Preset::Reconnects | Preset::HitRatio => vec![usual],
            Preset::PubSub => vec![Matrix { connections: vec![1000], ..usual }],
            Preset::Churn => vec![Matrix {
                mixes: vec![Mix(vec![(Action::Set, 1)]), Mix(vec![(Action::Set, 1), (Action::Get, 9)])],
                keys: vec![Distribution::Uniform, Distribution::Zipf { exponent: 0.99 }],
                keyspaces: vec![5_000_000],
                ..usual
            }],
            Preset::Recovery => vec![Matrix { keyspaces: vec![50_000, 1_000_000, 10_000_000], ..usual }],
            Preset::Durability => {
                vec![Matrix { pipelines: vec![1, 16], mixes: single(Action::Set), keyspaces: vec![100_000], ..usual }]
            }
            Preset::FillLatency => vec![Matrix { pipelines: vec![16], mixes: single(Action::Set), ..usual }],
        }
    }
}

/// What both may use while they have more to hold, in bytes.
const CHURN_CEILING: u64 = 256 << 20;
/// The same while traces are replayed.
pub const HIT_RATIO_CEILING: u64 = 64 << 20;

/// Both with a ceiling, redis-server with `policy`.
fn bounded(mut redis: ServerOptions, mut ours: ServerOptions, policy: &str, ceiling: u64) -> Leg {
    redis.name = format!("redis-server, {policy}");
    redis.words.extend(["--maxmemory", &ceiling.to_string(), "--maxmemory-policy", policy].map(str::to_owned));
    ours.words.extend(["--max-memory", &ceiling.to_string()].map(str::to_owned));
    Leg { a: redis, b: ours }
}

/// The middle from which one thing at a time is varied.
const MIDDLE_PIPELINE: usize = 16;
const MIDDLE_CONNECTIONS: usize = 50;
const MIDDLE_KEYS: u64 = 1_000_000;
/// Large values in as many keys would be about memory, not about growth.
const SWEPT_DATA_BYTES: u64 = 1 << 30;

/// One sweep per list of the matrix, or only those that are wanted. Cells with the same data stand together.
pub fn growth(matrix: &Matrix, wanted: &[SweepOf]) -> (Vec<Cell>, Vec<Sweep>) {
    let mut cells = Vec::new();
    let mut sweeps = Vec::new();
    let middle = Cell {
        mix: matrix.mixes[0].0.clone(),
        pipeline: MIDDLE_PIPELINE,
        connections: MIDDLE_CONNECTIONS,
        sizes: Sizes::Fixed(64),
        keys: MIDDLE_KEYS,
        distribution: matrix.keys[0],
    };
    let mut sweep = |of, title, x_label, swept: Vec<(f64, Cell)>| {
        if !wanted.is_empty() && !wanted.contains(&of) {
            return;
        }
        let first = cells.len();
        let points = swept.iter().enumerate().map(|(index, (x, _))| (first + index, *x)).collect();
        cells.extend(swept.into_iter().map(|(_, cell)| cell));
        sweeps.push(Sweep { title, x_label, points });
    };
    let pipelines = matrix.pipelines.iter().map(|&pipeline| (pipeline as f64, Cell { pipeline, ..middle.clone() }));
    sweep(SweepOf::Pipelines, "by pipeline", "requests in a pipeline", pipelines.collect());
    let connections =
        matrix.connections.iter().map(|&connections| (connections as f64, Cell { connections, ..middle.clone() }));
    sweep(SweepOf::Connections, "by connections", "connections", connections.collect());
    let sizes = matrix.sizes.iter().map(|&sizes| {
        let keys = (SWEPT_DATA_BYTES / sizes.max().max(1) as u64).clamp(1, MIDDLE_KEYS);
        (sizes.max() as f64, Cell { sizes, keys, ..middle.clone() })
    });
    sweep(SweepOf::Sizes, "by size of values", "bytes", sizes.collect());
    let keys = matrix.keyspaces.iter().map(|&keys| (keys as f64, Cell { keys, ..middle.clone() }));
    sweep(SweepOf::Keys, "by number of keys", "keys", keys.collect());
    (cells, sweeps)
}

/// For a server of one core and one of two: its CPUs, and a generating thread for each. Where four CPUs are
/// to be had, the generator stays off those of the server; otherwise it shares all of them alike, so that
/// what sharing costs is in both.
fn per_core(allowed: &[usize]) -> [(Vec<usize>, Option<OwnLoad>); 2] {
    let own = |servers: &[usize], generators: &[usize]| {
        let load = OwnLoad { generator_cpus: generators.to_vec(), connections_factor: generators.len() };
        (servers.to_vec(), Some(load))
    };
    match allowed {
        [a, b, c, d, ..] => [own(&[*a], &[*c]), own(&[*a, *b], &[*c, *d])],
        [a, b, ..] => [own(&[*a], &[*a]), own(&[*a, *b], &[*a, *b])],
        few => [own(few, few), own(few, few)],
    }
}

/// memcached refuses to run as root unless it is told whom to run as.
fn user_name() -> String {
    if system::is_root() { "root".into() } else { std::env::var("USER").unwrap_or_else(|_| "nobody".into()) }
}

/// A program in the directory of this one.
pub fn beside(name: &str) -> Result<PathBuf, String> {
    let path = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name(name);
    match path.exists() {
        true => Ok(path),
        false => Err(format!("there is no {}; build it, or name it with --ours", path.display())),
    }
}

/// What `cargo bench --no-run --bench null_server` has left beside this program.
pub fn newest_null_server() -> Result<PathBuf, String> {
    let missing =
        "no null_server found; build it with `cargo bench --no-run --bench null_server`, or name it with --null";
    let directory = beside("deps").map_err(|_| missing.to_owned())?;
    let entries = std::fs::read_dir(directory).map_err(|error| error.to_string())?.flatten();
    let built = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("null_server-") && !name.contains('.')
    });
    let age =
        |entry: &std::fs::DirEntry| entry.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    built.max_by_key(age).map(|entry| entry.path()).ok_or_else(|| missing.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_preset_names_two_servers_with_a_port() {
        for preset in Preset::value_variants() {
            let legs = preset.legs(Path::new("/x/crabcache"), || Ok("/x/null".into()), &[0]).unwrap();
            assert!(!legs.is_empty());
            for leg in legs {
                for server in [&leg.a, &leg.b] {
                    assert!(server.words.iter().any(|word| word == "{port}"), "{preset:?}: {:?}", server.words);
                }
                assert_ne!(leg.a.name, leg.b.name);
            }
        }
        let [one, two] = per_core(&[4, 5]);
        assert_eq!((one.0, one.1.unwrap().generator_cpus), (vec![4], vec![4]));
        assert_eq!((two.0, two.1.unwrap().connections_factor), (vec![4, 5], 2));
        let [_, two] = per_core(&[0, 1, 2, 3]);
        assert_eq!((two.0, two.1.unwrap().generator_cpus), (vec![0, 1], vec![2, 3]));
        let (cells, sweeps) = growth(&Preset::Growth.matrices()[0], &[]);
        assert_eq!(sweeps.iter().map(|sweep| sweep.points.len()).sum::<usize>(), cells.len());
        assert_eq!(sweeps[1].points[0], (10, 1.0));
        assert_eq!((cells[10].connections, cells[10].pipeline), (1, MIDDLE_PIPELINE));
        let missing = Preset::Null.legs(Path::new("/x"), || Err("none".into()), &[0]);
        assert_eq!(missing.unwrap_err(), "none");
    }
}
