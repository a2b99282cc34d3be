//! What does not come from a core's counters: facts about the process and its settings, gathered by the
//! runtime and passed in.

/// The version of Redis whose commands, replies and error texts this server gives. Clients compare it
/// with the version that a feature of theirs needs (CLIENT SETINFO: 7.2; redis-py's client-side cache: 7.4, whose
/// only other news are CLIENT KILL MAXAGE, which is there, and fields of hashes that expire), so it is reported as
/// `redis_version` in INFO and as `version` in HELLO; our own stands beside it as `crabcache_version`.
pub const REDIS_VERSION: &str = "7.4.0";

pub const CRABCACHE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the kernel says about the process now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessFacts {
    /// Resident memory now, and the most there ever was (VmRSS, VmHWM).
    pub rss_bytes: u64,
    pub rss_bytes_peak: u64,
    /// CPU time of all threads, in user and in kernel mode.
    pub cpu_user_us: u64,
    pub cpu_system_us: u64,
    /// CPU time of all waited-for children.
    pub cpu_user_children_us: u64,
    pub cpu_system_children_us: u64,
    /// Memory of the machine.
    pub system_memory_bytes: u64,
    /// Lines of the log that could not be written, and those that were held back because there were many like them.
    pub log_lines_lost: u64,
    pub log_lines_held_back: u64,
    /// Connections and requests that the admin HTTP has refused.
    pub http_refused: u64,
}

/// A core as a node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub core: u32,
    /// Its own.
    pub port: u16,
}

/// What INFO and STATS say besides counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerFacts {
    pub pid: u32,
    /// 40 hexadecimal digits drawn at start.
    pub run_id: String,
    /// The shared port.
    pub port: u16,
    /// How many cores serve.
    pub cores: u32,
    /// The wall clock and the time since start.
    pub unix_time_us: u64,
    pub uptime_us: u64,
    /// As `uname` gives it: `Linux 6.18.0 x86_64`.
    pub kernel: String,
    /// Path of the running program, empty when unknown.
    pub executable: String,
    /// Path of the settings file, empty when there is none.
    pub config_file: String,
    pub clients_max: u64,
    /// The ceiling of the memory for keys and values; 0 for none.
    pub memory_bytes_max: u64,
    /// As in CONFIG GET: `noeviction` when there is no ceiling.
    pub memory_policy: &'static str,
    /// Whether each core is presented as a node of a cluster.
    pub cluster_enabled: bool,
    /// The core that the asking client took for a node, by coming to its own port. Ordinary clients must not take
    /// the shared port for a cluster, nor cluster clients a core's own port for anything else.
    pub node: Option<Node>,
    pub process: ProcessFacts,
}
