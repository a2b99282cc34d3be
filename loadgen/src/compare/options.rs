//! The command line of a comparison.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::keys::Distribution;
use crate::options::{CpuList, parse_cpus};
use crate::wire::Protocol;
use crate::workload::{Action, Mix, Sizes};

/// Compares two servers: CPU per operation, throughput, latency, memory.
///
/// Both are started pinned, run the same loads in turns (A B B A …) and are ended again. In the
/// commands, {port} stands for a free port and {dir} for a directory that is removed afterwards.
#[derive(Parser, Debug, Clone)]
#[command(name = "loadgen compare", version, max_term_width = 110)]
pub struct CompareOptions {
    /// Command of the first server, such as 'redis-server --port {port} --save ""'.
    #[arg(long, value_name = "CMD")]
    pub a: String,
    /// Command of the second server.
    #[arg(long, value_name = "CMD")]
    pub b: String,
    /// What to call it [default: the program's name].
    #[arg(long, value_name = "NAME")]
    pub a_name: Option<String>,
    #[arg(long, value_name = "NAME")]
    pub b_name: Option<String>,
    #[arg(long, value_enum, default_value = "resp2")]
    pub a_protocol: Protocol,
    #[arg(long, value_enum, default_value = "resp2")]
    pub b_protocol: Protocol,

    #[arg(long, value_name = "LIST", default_value = "0", value_parser = parse_cpus)]
    pub server_cpus: CpuList,
    #[arg(long, value_name = "LIST", default_value = "1", value_parser = parse_cpus)]
    pub generator_cpus: CpuList,
    /// Generating threads [default: one for each of its CPUs].
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Matrix: pipelines.
    #[arg(short = 'P', long, value_name = "LIST", value_delimiter = ',', default_value = "1,16,64")]
    pub pipelines: Vec<usize>,
    /// Matrix: connections.
    #[arg(short = 'c', long, value_name = "LIST", value_delimiter = ',', default_value = "50")]
    pub connections: Vec<usize>,
    /// Matrix: bytes per value, such as 64,1k or 16-1024.
    #[arg(short = 'd', long, value_name = "LIST", value_delimiter = ',', default_value = "64")]
    pub sizes: Vec<Sizes>,
    /// Matrix: mixes, separated by semicolons, such as 'set;get;set=1,get=9'.
    #[arg(long, value_name = "LIST", value_delimiter = ';', default_value = "set;get")]
    pub mixes: Vec<Mix>,
    /// Matrix: sizes of the key space.
    #[arg(short = 'r', long, value_name = "LIST", value_delimiter = ',', default_value = "1000000")]
    pub keyspaces: Vec<u64>,
    /// Matrix: distributions of keys (see loadgen --help).
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "uniform")]
    pub keys: Vec<Distribution>,

    /// Pairs of rounds per cell of the matrix.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: usize,
    /// Pairs of A against a second instance of A per cell, for the noise; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub noise_rounds: usize,
    /// Seconds measured per round.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub seconds: f64,
    /// Seconds before that in each round.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    pub warm_up: f64,
    /// Discard rounds during which other processes used more than this share of one CPU, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    pub foreign_max: f64,
    /// Seconds to wait for other processes to be quiet before a round.
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    pub quiet_wait: f64,

    /// Results as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The table as Markdown (also on standard output).
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
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

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { pipeline, connections, sizes, keys, distribution, .. } = self;
        let mix = self.mix_name();
        write!(f, "{mix}, pipeline {pipeline}, {connections} connections, {sizes} B, {keys} keys, {distribution}")
    }
}

#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub name: String,
    pub words: Vec<String>,
    pub protocol: Protocol,
}

#[derive(Debug)]
pub struct Checked {
    pub a: ServerOptions,
    pub b: ServerOptions,
    pub server_cpus: Vec<usize>,
    pub generator_cpus: Vec<usize>,
    pub threads: usize,
    pub cells: Vec<Cell>,
    pub pairs: usize,
    pub noise_pairs: usize,
    pub measured: Duration,
    pub warm_up: Duration,
    pub foreign_max: f64,
    pub quiet_wait: Duration,
    pub json: Option<PathBuf>,
    pub markdown: Option<PathBuf>,
}

impl CompareOptions {
    pub fn check(&self) -> Result<Checked, String> {
        if self.rounds == 0 {
            return Err("--rounds: at least one".into());
        }
        let seconds = |value: f64, flag: &str| match value {
            value if value > 0.0 && value < 1e6 => Ok(Duration::from_secs_f64(value)),
            _ => Err(format!("{flag}: expected a number of seconds above 0")),
        };
        if self.pipelines.contains(&0) || self.connections.contains(&0) {
            return Err("pipelines and connections are at least 1".into());
        }
        let threads = self.threads.unwrap_or(self.generator_cpus.0.len());
        if threads == 0 || self.connections.iter().any(|&count| count < threads) {
            return Err(format!("--threads: at least 1, and each needs a connection ({threads} threads)"));
        }
        if self.server_cpus.0.iter().any(|cpu| self.generator_cpus.0.contains(cpu)) {
            return Err("--server-cpus and --generator-cpus share a CPU: each would measure the other".into());
        }
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
        let mut a = server(&self.a, &self.a_name, self.a_protocol, "--a")?;
        let mut b = server(&self.b, &self.b_name, self.b_protocol, "--b")?;
        if a.name == b.name {
            a.name += " (A)";
            b.name += " (B)";
        }
        Ok(Checked {
            a,
            b,
            server_cpus: self.server_cpus.0.clone(),
            generator_cpus: self.generator_cpus.0.clone(),
            threads,
            cells,
            pairs: self.rounds,
            noise_pairs: self.noise_rounds,
            measured: seconds(self.seconds, "--seconds")?,
            warm_up: seconds(self.warm_up, "--warm-up")?,
            foreign_max: self.foreign_max / 100.0,
            quiet_wait: Duration::from_secs_f64(self.quiet_wait.clamp(0.0, 1e6)),
            json: self.json.clone(),
            markdown: self.markdown.clone(),
        })
    }
}

fn server(command: &str, name: &Option<String>, protocol: Protocol, flag: &str) -> Result<ServerOptions, String> {
    let words = shlex::split(command).filter(|words| !words.is_empty());
    let words = words.ok_or_else(|| format!("{flag} {command:?} is not a command line"))?;
    if !command.contains("{port}") {
        return Err(format!("{flag}: the command needs {{port}} where the server is told its port"));
    }
    let program = words[0].rsplit('/').next().unwrap_or_default().to_owned();
    Ok(ServerOptions { name: name.clone().unwrap_or(program), words, protocol })
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
        assert_eq!((checked.a.name.as_str(), checked.b.name.as_str()), ("redis-server", "crabcache"));
        assert_eq!(checked.a.words.last().map(String::as_str), Some(""));
        // Cells with the same data stand together: loading it is what takes long.
        let changes = checked.cells.windows(2).filter(|pair| pair[0].sizes != pair[1].sizes).count();
        assert_eq!(changes, 1);
    }

    #[test]
    fn contradictions_are_errors() {
        for line in [
            &["--server-cpus", "1"][..],
            &["--rounds", "0"],
            &["--seconds", "0"],
            &["-P", "0"],
            &["-c", "1", "--threads", "2"],
            &["--mixes", "lpush"],
        ] {
            assert!(check(line).is_err(), "{line:?}");
        }
        let no_port = ["compare", "--a", "x", "--b", "y --port {port}"];
        assert!(CompareOptions::try_parse_from(no_port).unwrap().check().is_err());
    }
}
