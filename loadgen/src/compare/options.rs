//! The command line of a comparison.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::presets::{self, Preset};
use super::server::{ServerOptions, parse_command};
use crate::keys::Distribution;
use crate::options::{CpuList, parse_cpus, positive, seconds};
use crate::system;
use crate::wire::Protocol;
use crate::workload::{Action, Mix, Sizes};

/// Compares two servers: CPU per operation, throughput, latency, memory.
///
/// Both are started pinned, run the same loads in turns (A B B A …) and are ended again. In the
/// commands, {port} stands for a free port and {dir} for a directory that is removed afterwards.
///
/// A preset names both servers and the loads; flags change what they name.
#[derive(Parser, Debug, Clone)]
#[command(name = "loadgen compare", version, max_term_width = 110)]
pub struct CompareOptions {
    /// What to reproduce, instead of --a and --b.
    #[arg(value_enum, conflicts_with_all = ["a", "b"])]
    pub preset: Option<Preset>,
    /// The same, as a flag.
    #[arg(long = "preset", value_enum, value_name = "PRESET", conflicts_with_all = ["preset", "a", "b"])]
    pub preset_flag: Option<Preset>,
    /// Our server, for presets [default: crabcache beside this program].
    #[arg(long, value_name = "PATH", conflicts_with_all = ["a", "b"])]
    pub ours: Option<PathBuf>,
    /// More arguments for our server, for presets, such as '--max-memory 2gb'.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, conflicts_with_all = ["a", "b"])]
    pub ours_with: Option<String>,
    /// The null server, for presets [default: the newest null_server that cargo has built].
    #[arg(long, value_name = "PATH", conflicts_with_all = ["a", "b"])]
    pub null: Option<PathBuf>,

    /// Command of the first server, such as 'redis-server --port {port} --save ""'.
    #[arg(long, value_name = "CMD", help_heading = "Servers")]
    pub a: Option<String>,
    /// Command of the second server.
    #[arg(long, value_name = "CMD", help_heading = "Servers")]
    pub b: Option<String>,
    /// What to call it [default: the program's name].
    #[arg(long, value_name = "NAME", requires = "a", help_heading = "Servers")]
    pub a_name: Option<String>,
    #[arg(long, value_name = "NAME", requires = "b", help_heading = "Servers")]
    pub b_name: Option<String>,
    #[arg(long, value_enum, requires = "a", help_heading = "Servers")]
    pub a_protocol: Option<Protocol>,
    #[arg(long, value_enum, requires = "b", help_heading = "Servers")]
    pub b_protocol: Option<Protocol>,
    /// Send each request to the node that owns its key, by CLUSTER SLOTS.
    #[arg(long, requires = "a", help_heading = "Servers")]
    pub a_cluster: bool,
    #[arg(long, requires = "b", help_heading = "Servers")]
    pub b_cluster: bool,
    /// What clients have to say first.
    #[arg(long, value_name = "SECRET", requires = "a", help_heading = "Servers")]
    pub a_pass: Option<String>,
    #[arg(long, value_name = "SECRET", requires = "b", help_heading = "Servers")]
    pub b_pass: Option<String>,
    /// Give every SET an hour to live.
    #[arg(long, requires = "a", help_heading = "Servers")]
    pub a_expire: bool,
    #[arg(long, requires = "b", help_heading = "Servers")]
    pub b_expire: bool,

    /// CPUs of the servers [default: 0].
    #[arg(long, value_name = "LIST", value_parser = parse_cpus, help_heading = "Machine")]
    pub server_cpus: Option<CpuList>,
    /// CPUs of the generator [default: 1, or the first that no server has].
    #[arg(long, value_name = "LIST", value_parser = parse_cpus, help_heading = "Machine")]
    pub generator_cpus: Option<CpuList>,
    /// Generating threads [default: one for each of its CPUs].
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,

    /// Pipelines [default: 1,16,64].
    #[arg(short = 'P', long, value_name = "LIST", value_delimiter = ',', help_heading = "Matrix")]
    pub pipelines: Option<Vec<usize>>,
    /// Connections [default: 50].
    #[arg(short = 'c', long, value_name = "LIST", value_delimiter = ',', help_heading = "Matrix")]
    pub connections: Option<Vec<usize>>,
    /// Bytes per value, such as 64,1k or 16-1024 [default: 64].
    #[arg(short = 'd', long, value_name = "LIST", value_delimiter = ',', help_heading = "Matrix")]
    pub sizes: Option<Vec<Sizes>>,
    /// Mixes, separated by semicolons, such as 'set;get;set=1,get=9' [default: set;get].
    #[arg(long, value_name = "LIST", value_delimiter = ';', help_heading = "Matrix")]
    pub mixes: Option<Vec<Mix>>,
    /// Sizes of the key space [default: 1000000].
    #[arg(short = 'r', long, value_name = "LIST", value_delimiter = ',', help_heading = "Matrix")]
    pub keyspaces: Option<Vec<u64>>,
    /// Distributions of keys (see loadgen --help) [default: uniform].
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Matrix")]
    pub keys: Option<Vec<Distribution>>,

    /// A first look: fewer and shorter rounds.
    #[arg(long, help_heading = "Rounds")]
    pub quick: bool,
    /// Pairs of rounds per cell of the matrix [default: 5; presets: 3; matrix, growth, --quick: 2; fill-latency: 1].
    #[arg(long, value_name = "N", help_heading = "Rounds")]
    pub rounds: Option<usize>,
    /// Pairs of A against a second instance of A per cell, for the noise; 0 for none [default: 2; presets,
    /// --quick: 1; matrix, growth: 0].
    #[arg(long, value_name = "N", help_heading = "Rounds")]
    pub noise_rounds: Option<usize>,
    /// Seconds measured per round [default: 2; presets: 1.2; matrix, growth: 0.8; --quick: 0.6].
    #[arg(long, value_name = "SECONDS", help_heading = "Rounds")]
    pub seconds: Option<f64>,
    /// Seconds before that in each round [default: 0.5; presets: 0.3; matrix, growth, --quick: 0.2].
    #[arg(long, value_name = "SECONDS", help_heading = "Rounds")]
    pub warm_up: Option<f64>,
    /// Discard rounds during which other processes used more than this share of one CPU, in percent.
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = positive, help_heading = "Rounds")]
    pub foreign_max: f64,
    /// Seconds to wait for other processes to be quiet before a round; 0 for none.
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds_or_none, help_heading = "Rounds")]
    pub quiet_wait: f64,
    /// fill-latency, memory, ttl-storm: keys to fill in [default: 20000000, of the others 5000000; --quick: a tenth].
    #[arg(long, value_name = "N", help_heading = "Rounds")]
    pub fill_keys: Option<u64>,
    /// fill-latency: requests per second [default: 200000].
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Rounds")]
    pub fill_rate: Option<f64>,
    /// hit-ratio: traces to replay, a request per line, `key` or `key,size`, plain or compressed by zstd.
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Rounds")]
    pub traces: Vec<PathBuf>,
    /// hit-ratio: how much of each trace's distinct keys the caches hold, in percent [default: 10].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = percent, help_heading = "Rounds")]
    pub shares: Vec<f64>,
    /// growth: the curves to measure [default: all].
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', help_heading = "Rounds")]
    pub sweeps: Vec<SweepOf>,

    /// Results as JSON.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// The tables as Markdown (also on standard output).
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub markdown: Option<PathBuf>,
    /// Charts.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub svg: Option<PathBuf>,
}

/// One combination of the matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub mix: Vec<(Action, u32)>,
    pub pipeline: usize,
    pub connections: usize,
    pub sizes: Sizes,
    pub keys: u64,
    pub distribution: Distribution,
}

impl Cell {
    pub fn mix_name(&self) -> String {
        match &self.mix[..] {
            [(action, _)] => action.name(),
            mix => {
                mix.iter().map(|(action, weight)| format!("{}={weight}", action.name())).collect::<Vec<_>>().join(",")
            }
        }
    }
}

impl Cell {
    /// Everything that tells it from others, in words.
    pub fn properties(&self) -> [String; 6] {
        let Cell { pipeline, connections, sizes, keys, distribution, .. } = self;
        let plural = if *connections == 1 { "" } else { "s" };
        [
            self.mix_name(),
            format!("pipeline {pipeline}"),
            format!("{connections} connection{plural}"),
            format!("{sizes} B"),
            format!("{keys} keys"),
            distribution.to_string(),
        ]
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.properties().join(", "))
    }
}

/// Two servers to be compared.
#[derive(Clone, Debug)]
pub struct Leg {
    pub a: ServerOptions,
    pub b: ServerOptions,
}

/// Filling an empty server at a fixed pace.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    pub keys: u64,
    pub requests_per_second: f64,
    pub connections: usize,
    pub pipeline: usize,
    pub sizes: Sizes,
}

/// What is measured.
#[derive(Debug)]
pub enum Subject {
    /// CPU, throughput and latency in each cell of the matrix.
    Cells,
    Fill(Fill),
    /// Resident memory of so many items.
    Memory {
        keys: u64,
    },
    /// Starts with so many keys to be read back, one number after the other.
    Recovery {
        keyspaces: Vec<u64>,
    },
    /// A load while so many keys expire at once.
    Storm {
        keys: u64,
        requests_per_second: f64,
    },
    /// One channel with so many subscribers.
    Crowd {
        subscribers: usize,
    },
    /// A load while so many others connect, ask once and leave, every second.
    Reconnects {
        per_second: f64,
        requests_per_second: f64,
    },
    /// Hit ratios of caches that hold such shares of the distinct keys of each trace.
    HitRatio {
        traces: Vec<PathBuf>,
        shares: Vec<f64>,
    },
}

#[derive(Debug)]
pub struct Checked {
    pub legs: Vec<Leg>,
    pub generator_cpus: Vec<usize>,
    pub threads: usize,
    pub cells: Vec<Cell>,
    /// Curves to draw through the cells.
    pub sweeps: Vec<Sweep>,
    pub subject: Subject,
    pub pairs: usize,
    pub noise_pairs: usize,
    pub measured: Duration,
    pub warm_up: Duration,
    pub foreign_max: f64,
    pub quiet_wait: Duration,
    pub json: Option<PathBuf>,
    pub markdown: Option<PathBuf>,
    pub svg: Option<PathBuf>,
}

/// What grows from one cell of a sweep to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SweepOf {
    Pipelines,
    Connections,
    Sizes,
    Keys,
}

/// How often and how long is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    pub pairs: usize,
    pub noise_pairs: usize,
    pub seconds: f64,
    pub warm_up_seconds: f64,
}

/// Cells that differ in one thing only.
#[derive(Clone, Debug)]
pub struct Sweep {
    pub title: &'static str,
    pub x_label: &'static str,
    /// Where its cells are, and what each has on the axis.
    pub points: Vec<(usize, f64)>,
}

/// The lists of a matrix.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub pipelines: Vec<usize>,
    pub connections: Vec<usize>,
    pub sizes: Vec<Sizes>,
    pub mixes: Vec<Mix>,
    pub keyspaces: Vec<u64>,
    pub keys: Vec<Distribution>,
}

impl Default for Matrix {
    fn default() -> Matrix {
        let single = |action| Mix(vec![(action, 1)]);
        Matrix {
            pipelines: vec![1, 16, 64],
            connections: vec![50],
            sizes: vec![Sizes::Fixed(64)],
            mixes: vec![single(Action::Set), single(Action::Get)],
            keyspaces: vec![1_000_000],
            keys: vec![Distribution::Uniform],
        }
    }
}

/// What a comparison without a name takes the time for.
const EFFORT: Effort = Effort { pairs: 5, noise_pairs: 2, seconds: 2.0, warm_up_seconds: 0.5 };
const EFFORT_QUICK: Effort = Effort { pairs: 2, noise_pairs: 1, seconds: 0.6, warm_up_seconds: 0.2 };
const FILL_RATE: f64 = 200_000.0;
/// Of the distinct keys of a trace.
const SHARE: f64 = 0.1;
const FILL_KEYS: u64 = 20_000_000;
const FILL_KEYS_QUICK: u64 = 2_000_000;
const MEMORY_KEYS: u64 = 5_000_000;
const MEMORY_KEYS_QUICK: u64 = 500_000;
/// Far below what either server can do, so that what is seen is what the storm does.
const STORM_RATE: f64 = 20_000.0;
/// Connections per second of those who come and go.
const RECONNECT_RATE: f64 = 10_000.0;

fn percent(text: &str) -> Result<f64, String> {
    positive(text).and_then(|percent| match percent <= 100.0 {
        true => Ok(percent / 100.0),
        false => Err("at most 100 percent".into()),
    })
}

fn seconds_or_none(text: &str) -> Result<f64, String> {
    if text == "0" { Ok(0.0) } else { seconds(text) }
}

impl CompareOptions {
    fn named(&self) -> Option<Preset> {
        self.preset.or(self.preset_flag)
    }

    pub fn check(&self) -> Result<Checked, String> {
        let preset = self.named();
        let server_cpus = self.server_cpus.clone().map_or(vec![0], |list| list.0);
        let (legs, matrices) = match preset {
            Some(Preset::Forwarding)
                if self.server_cpus.is_some() || self.generator_cpus.is_some() || self.threads.is_some() =>
            {
                return Err("forwarding chooses CPUs and threads itself: one of each for each core".into());
            }
            Some(preset) => {
                let ours = match &self.ours {
                    Some(path) => path.clone(),
                    None => presets::beside("crabcache")?,
                };
                let null = || self.null.clone().map_or_else(presets::newest_null_server, Ok);
                let mut legs = preset.legs(&ours, null, &server_cpus)?;
                let more = shlex::split(self.ours_with.as_deref().unwrap_or_default());
                let more = more.ok_or("--ours-with: unbalanced quotes")?;
                let servers = legs.iter_mut().flat_map(|leg| [&mut leg.a, &mut leg.b]);
                servers
                    .filter(|server| server.runs(&ours))
                    .for_each(|server| server.words.extend(more.iter().cloned()));
                (legs, preset.matrices())
            }
            None if self.a.is_none() || self.b.is_none() => {
                return Err("name a preset, or both servers with --a and --b (see compare --help)".into());
            }
            None if self.ours.is_some() || self.null.is_some() || self.ours_with.is_some() => {
                return Err("--ours, --ours-with and --null belong to presets".into());
            }
            None => (vec![self.leg(&server_cpus)?], vec![Matrix::default()]),
        };
        let matrices: Vec<Matrix> = matrices.into_iter().map(|matrix| self.changed(matrix)).collect();
        let effort = self.effort(preset)?;
        if matrices.iter().any(Matrix::names_nothing) {
            return Err("pipelines, connections and key spaces are at least 1".into());
        }
        let generator_cpus = self.generator_cpus(&legs)?;
        let threads = self.threads.unwrap_or(generator_cpus.len());
        if threads == 0 {
            return Err("--threads: at least 1".into());
        }
        if !self.sweeps.is_empty() && preset != Some(Preset::Growth) {
            return Err("--sweeps belongs to the preset growth".into());
        }
        let (cells, sweeps) = match preset {
            Some(Preset::Growth) => presets::growth(&matrices[0], &self.sweeps),
            _ => (cells_of(&matrices), Vec::new()),
        };
        if cells.iter().any(|cell| cell.connections < threads) {
            return Err(format!("--threads: each needs a connection ({threads} threads)"));
        }
        let memcache =
            legs.iter().any(|leg| [&leg.a, &leg.b].iter().any(|server| server.protocol == Protocol::Memcache));
        let foreign = |(action, _): &(Action, u32)| matches!(action, Action::MSet(_) | Action::Words(_));
        if memcache && cells.iter().any(|cell| cell.mix.iter().any(foreign)) {
            return Err("--mixes: memcached has no MSET".into());
        }
        let usual_keys = match (preset, self.quick) {
            (Some(Preset::Memory | Preset::TtlStorm), false) => MEMORY_KEYS,
            (Some(Preset::Memory | Preset::TtlStorm), true) => MEMORY_KEYS_QUICK,
            (_, false) => FILL_KEYS,
            (_, true) => FILL_KEYS_QUICK,
        };
        let fill_keys = self.fill_keys.unwrap_or(usual_keys);
        if fill_keys == 0 {
            return Err("--fill-keys: at least one".into());
        }
        if self.fill_keys.is_some() && !matches!(preset, Some(Preset::FillLatency | Preset::Memory | Preset::TtlStorm))
        {
            return Err("--fill-keys belongs to the presets fill-latency, memory and ttl-storm".into());
        }
        if self.traces.is_empty() == (preset == Some(Preset::HitRatio)) {
            return Err("the preset hit-ratio, and no other, replays --traces".into());
        }
        if self.fill_rate.is_some() && preset != Some(Preset::FillLatency) {
            return Err("--fill-rate belongs to the preset fill-latency".into());
        }
        if !self.shares.is_empty() && preset != Some(Preset::HitRatio) {
            return Err("--shares belongs to the preset hit-ratio".into());
        }
        self.check_lists(preset)?;
        let subject = match preset {
            Some(Preset::FillLatency) => Subject::Fill(Fill {
                keys: fill_keys,
                requests_per_second: self.fill_rate.unwrap_or(FILL_RATE),
                connections: matrices[0].connections[0],
                pipeline: matrices[0].pipelines[0],
                sizes: matrices[0].sizes[0],
            }),
            Some(Preset::Memory) => Subject::Memory { keys: fill_keys },
            Some(Preset::Recovery) => Subject::Recovery { keyspaces: matrices[0].keyspaces.clone() },
            Some(Preset::TtlStorm) => Subject::Storm { keys: fill_keys, requests_per_second: STORM_RATE },
            Some(Preset::Reconnects) => {
                Subject::Reconnects { per_second: RECONNECT_RATE, requests_per_second: STORM_RATE }
            }
            Some(Preset::PubSub) => Subject::Crowd { subscribers: matrices[0].connections[0] },
            Some(Preset::HitRatio) => Subject::HitRatio {
                traces: self.traces.clone(),
                shares: if self.shares.is_empty() { vec![SHARE] } else { self.shares.clone() },
            },
            _ => Subject::Cells,
        };
        Ok(Checked {
            legs,
            generator_cpus,
            threads,
            cells,
            sweeps,
            subject,
            pairs: effort.pairs,
            noise_pairs: effort.noise_pairs,
            measured: Duration::from_secs_f64(effort.seconds),
            warm_up: Duration::from_secs_f64(effort.warm_up_seconds),
            foreign_max: self.foreign_max / 100.0,
            quiet_wait: Duration::from_secs_f64(self.quiet_wait),
            json: self.json.clone(),
            markdown: self.markdown.clone(),
            svg: self.svg.clone(),
        })
    }

    /// Presets that measure something else than a matrix say so when they are given one.
    fn check_lists(&self, preset: Option<Preset>) -> Result<(), String> {
        fn count<T>(list: &Option<Vec<T>>) -> usize {
            list.as_ref().map_or(0, Vec::len)
        }
        let lists = [
            ("-P", count(&self.pipelines)),
            ("-c", count(&self.connections)),
            ("-d", count(&self.sizes)),
            ("--mixes", count(&self.mixes)),
            ("-r", count(&self.keyspaces)),
            ("--keys", count(&self.keys)),
        ];
        let allowed = |flag: &str| match (preset, flag) {
            (Some(Preset::FillLatency), "-P" | "-c" | "-d") => 1,
            (Some(Preset::Recovery), "-r") => usize::MAX,
            (
                Some(Preset::FillLatency | Preset::Recovery | Preset::Memory | Preset::TtlStorm | Preset::HitRatio),
                _,
            ) => 0,
            _ => usize::MAX,
        };
        match lists.into_iter().find(|(flag, count)| *count > allowed(flag)) {
            None => Ok(()),
            Some((flag, _)) if allowed(flag) == 0 => Err(format!("{flag}: this preset has no matrix")),
            Some((flag, _)) => Err(format!("{flag}: this preset takes one of them")),
        }
    }

    /// What was asked for; what was not, as the preset or `--quick` has it.
    fn effort(&self, preset: Option<Preset>) -> Result<Effort, String> {
        let usual = match preset {
            Some(Preset::FillLatency) => Effort { pairs: 1, ..EFFORT },
            _ if self.quick => EFFORT_QUICK,
            Some(preset) => preset.effort(),
            None => EFFORT,
        };
        let pairs = self.rounds.unwrap_or(usual.pairs);
        if pairs == 0 {
            return Err("--rounds: at least one".into());
        }
        let seconds = |value: f64, flag: &str| match value {
            value if value > 0.0 && value < 1e6 => Ok(value),
            _ => Err(format!("{flag}: expected a number of seconds above 0")),
        };
        Ok(Effort {
            pairs,
            noise_pairs: self.noise_rounds.unwrap_or(usual.noise_pairs),
            seconds: seconds(self.seconds.unwrap_or(usual.seconds), "--seconds")?,
            warm_up_seconds: seconds(self.warm_up.unwrap_or(usual.warm_up_seconds), "--warm-up")?,
        })
    }

    /// The two servers of --a and --b.
    fn leg(&self, cpus: &[usize]) -> Result<Leg, String> {
        let resp2 = Protocol::Resp2;
        let mut a = parse_command(
            "--a",
            self.a.as_deref().unwrap_or_default(),
            &self.a_name,
            self.a_protocol.unwrap_or(resp2),
            self.a_cluster,
            cpus,
        )?;
        let mut b = parse_command(
            "--b",
            self.b.as_deref().unwrap_or_default(),
            &self.b_name,
            self.b_protocol.unwrap_or(resp2),
            self.b_cluster,
            cpus,
        )?;
        (a.password, a.sets_expire) = (self.a_pass.clone(), self.a_expire);
        (b.password, b.sets_expire) = (self.b_pass.clone(), self.b_expire);
        if a.name == b.name {
            a.name += " (A)";
            b.name += " (B)";
        }
        Ok(Leg { a, b })
    }

    /// The matrix with what was given instead of what it had.
    fn changed(&self, matrix: Matrix) -> Matrix {
        Matrix {
            pipelines: self.pipelines.clone().unwrap_or(matrix.pipelines),
            connections: self.connections.clone().unwrap_or(matrix.connections),
            sizes: self.sizes.clone().unwrap_or(matrix.sizes),
            mixes: self.mixes.clone().unwrap_or(matrix.mixes),
            keyspaces: self.keyspaces.clone().unwrap_or(matrix.keyspaces),
            keys: self.keys.clone().unwrap_or(matrix.keys),
        }
    }

    fn generator_cpus(&self, legs: &[Leg]) -> Result<Vec<usize>, String> {
        let taken = |cpu: &usize| legs.iter().any(|leg| leg.a.cpus.contains(cpu) || leg.b.cpus.contains(cpu));
        match &self.generator_cpus {
            Some(CpuList(cpus)) if cpus.iter().any(taken) => {
                Err("--server-cpus and --generator-cpus share a CPU: each would measure the other".into())
            }
            Some(CpuList(cpus)) => Ok(cpus.clone()),
            None => {
                let allowed = system::allowed_cpus();
                match (allowed.iter().find(|cpu| !taken(cpu)), allowed.last()) {
                    (Some(&cpu), _) => Ok(vec![cpu]),
                    // Its load is generated elsewhere.
                    (None, Some(&last)) if self.named() == Some(Preset::Forwarding) => Ok(vec![last]),
                    _ => Err("no CPU is left for the generator (--generator-cpus)".into()),
                }
            }
        }
    }
}

/// The cells of all of them, each once. Those with the same data stand together: loading it is what takes
/// long.
fn cells_of(matrices: &[Matrix]) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    for cell in matrices.iter().flat_map(Matrix::cells) {
        if cells.contains(&cell) {
            continue;
        }
        let same_data = |other: &Cell| other.keys == cell.keys && other.sizes == cell.sizes;
        let at = cells.iter().rposition(same_data).map_or(cells.len(), |last| last + 1);
        cells.insert(at, cell);
    }
    cells
}

impl Matrix {
    fn names_nothing(&self) -> bool {
        let empty = self.sizes.is_empty() || self.mixes.is_empty() || self.keys.is_empty();
        let counts = [&self.pipelines, &self.connections];
        let none = |list: &[usize]| list.is_empty() || list.contains(&0);
        empty || counts.into_iter().any(|list| none(list)) || self.keyspaces.is_empty() || self.keyspaces.contains(&0)
    }

    fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &keys in &self.keyspaces {
            for &sizes in &self.sizes {
                for Mix(mix) in &self.mixes {
                    for &distribution in &self.keys {
                        for &connections in &self.connections {
                            for &pipeline in &self.pipelines {
                                let mix = mix.clone();
                                cells.push(Cell { mix, pipeline, connections, sizes, keys, distribution });
                            }
                        }
                    }
                }
            }
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &[&str]) -> Result<Checked, String> {
        let words = ["compare", "--a", "redis-server --port {port} --save ''", "--b", "/x/crabcache --port {port}"];
        let words = words.iter().chain(line);
        CompareOptions::try_parse_from(words).map_err(|error| error.to_string())?.check()
    }

    #[test]
    fn the_matrix_is_the_product() {
        let checked = check(&["-P", "1,16", "-c", "50,200", "-d", "64,1k", "--mixes", "set;get;set=1,get=9"]).unwrap();
        assert_eq!(checked.cells.len(), 2 * 2 * 2 * 3);
        let Leg { a, b } = &checked.legs[0];
        assert_eq!((a.name.as_str(), b.name.as_str()), ("redis-server", "crabcache"));
        assert_eq!(a.words.last().map(String::as_str), Some(""));
        assert_eq!((&b.password, b.sets_expire), (&None, false));
        let b = &check(&["--b-pass", "secret", "--b-expire"]).unwrap().legs[0].b;
        assert_eq!((b.password.as_deref(), b.sets_expire), (Some("secret"), true));
        let changes = checked.cells.windows(2).filter(|pair| pair[0].sizes != pair[1].sizes).count();
        assert_eq!(changes, 1);
    }

    #[test]
    fn presets_by_word_and_by_flag() {
        let check = |line: &str| {
            let words = shlex::split(&("compare --ours /x --null /y --generator-cpus 7 ".to_owned() + line)).unwrap();
            CompareOptions::try_parse_from(words).map_err(|error| error.to_string())?.check()
        };
        let (word, flag) = (check("redis").unwrap(), check("--preset redis").unwrap());
        assert_eq!(word.cells, flag.cells);
        assert_eq!((word.pairs, word.noise_pairs), (3, 1));
        let changes = word.cells.windows(2).filter(|pair| pair[0].sizes != pair[1].sizes).count();
        assert_eq!(changes, 1, "{:?}", word.cells);
        assert!(word.cells.iter().any(|cell| (cell.pipeline, cell.connections) == (1, 1)));
        let ceiling = check("null --ours-with '--max-memory 1gb'").unwrap();
        assert_eq!(ceiling.legs[0].b.words.last().map(String::as_str), Some("1gb"));
        assert!(ceiling.legs[0].a.words.iter().all(|word| word != "1gb"));
        let quick = check("redis --quick --seconds 3 -P 16 -c 50").unwrap();
        assert_eq!((quick.pairs, quick.measured), (2, Duration::from_secs(3)));
        assert_eq!(quick.cells.iter().filter(|cell| cell.sizes == Sizes::Fixed(1024)).count(), 2, "{:?}", quick.cells);
        let growth = check("growth --sweeps keys").unwrap();
        assert_eq!((growth.sweeps.len(), growth.noise_pairs), (1, 0));
        assert!(growth.cells.iter().all(|cell| (cell.pipeline, cell.connections) == (16, 50)));
        assert!(check("redis --preset null").is_err());
        assert!(check("forwarding").is_err(), "with CPUs of the generator");
        let subject = |line: &str| check(line).unwrap().subject;
        assert!(matches!(subject("fill-latency --quick"), Subject::Fill(fill) if fill.keys == FILL_KEYS_QUICK));
        assert!(matches!(subject("ttl-storm --fill-keys 9"), Subject::Storm { keys: 9, .. }));
        assert!(matches!(subject("churn"), Subject::Cells));
        assert!(matches!(subject("pub-sub"), Subject::Crowd { subscribers: 1000 }));
        assert!(matches!(subject("pub-sub -c 50"), Subject::Crowd { subscribers: 50 }));
        assert!(matches!(subject("reconnects"), Subject::Reconnects { per_second: 10_000.0, .. }));
        let replay = subject("hit-ratio --shares 1,10 --traces a b");
        assert!(matches!(replay, Subject::HitRatio { traces, shares } if traces.len() == 2 && shares == [0.01, 0.1]));
        assert!(check("hit-ratio").is_err() && check("redis --traces a").is_err());
        for line in
            ["memory -P 4", "ttl-storm -c 9", "fill-latency -c 1,2", "recovery -d 64", "hit-ratio --traces a -r 5"]
        {
            assert!(check(line).is_err(), "{line}");
        }
        assert!(check("fill-latency -c 9 -d 64").is_ok() && check("recovery -r 5,6").is_ok());
    }

    #[test]
    fn contradictions_are_errors() {
        for line in [
            &["--server-cpus", "1", "--generator-cpus", "1"][..],
            &["--rounds", "0"],
            &["--seconds", "0"],
            &["-P", "0"],
            &["-c", "1", "--threads", "2"],
            &["--mixes", "lpush"],
            &["--b-protocol", "memcache", "--mixes", "mset"],
            &["redis"],
            &["--preset", "redis"],
            &["--ours", "/x"],
            &["--sweeps", "keys"],
            &["--fill-keys", "5"],
            &["--fill-rate", "5"],
            &["--shares", "5"],
            &["--foreign-max", "NaN"],
            &["--quiet-wait", "inf"],
            &["--server-cpus", "1", "--generator-cpus", "0-1"],
        ] {
            assert!(check(line).is_err(), "{line:?}");
        }
        let fallback = check(&["--server-cpus", "0"]).unwrap();
        assert!(!fallback.generator_cpus.contains(&0));
        assert!(CompareOptions::try_parse_from(["compare"]).unwrap().check().is_err());
        let no_port = ["compare", "--a", "x", "--b", "y --port {port}"];
        assert!(CompareOptions::try_parse_from(no_port).unwrap().check().is_err());
    }
}
