//! One load, checked and complete: the options have become this before anything starts.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::verify::Verifier;
use crate::wire::Protocol;
use crate::workload::Workload;

#[derive(Clone, Debug, PartialEq)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => address.fmt(f),
            Endpoint::Unix(path) => path.display().fmt(f),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Credentials {
    pub user: Option<String>,
    pub password: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Target {
    pub endpoint: Endpoint,
    pub protocol: Protocol,
    pub credentials: Credentials,
    /// For connecting, and for any reply.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each connection sends its next requests when the replies to the last ones are in.
    Closed,
    /// Requests are due at times that do not depend on the server, and latency counts from then.
    Open { requests_per_second: f64, arrivals: Arrivals },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// Evenly spaced.
    Even,
    /// Independent of each other, as from many clients.
    Poisson,
    /// Evenly spaced pipelines: as many at once on one connection as -P says.
    Burst,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Until {
    Requests(u64),
    Time(Duration),
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub target: Target,
    pub workload: Workload,
    pub threads: usize,
    /// One for each thread, in turn; empty: wherever the kernel likes.
    pub cpus: Vec<usize>,
    /// All threads together.
    pub connections: usize,
    pub pipeline: usize,
    pub keep_alive: bool,
    pub pace: Pace,
    pub until: Until,
    pub seed: u64,
    /// Ask the server who owns which keys, and send each request there.
    pub cluster: bool,
    /// Judges what is read.
    pub verifier: Option<Arc<Verifier>>,
}

impl Plan {
    /// One record per command of the mix, and one for the fills if there are any.
    pub fn record_commands(&self) -> usize {
        self.workload.mix.len() + usize::from(self.workload.fill)
    }

    /// The connections of thread `index`.
    pub fn connections_of(&self, index: usize) -> usize {
        self.connections / self.threads + usize::from(index < self.connections % self.threads)
    }
}
