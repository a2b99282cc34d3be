//! The flags and their environment variables, as typed. No defaults here: a layer below (a file) must be
//! able to fill what nobody typed.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Parser, ValueEnum, value_parser};

use super::{Cores, MemorySize, SPIN_US_MAX, text};

/// A cache server that speaks the Redis protocol: one executor per core, nothing shared between them.
///
/// Sizes take kb, mb, gb (powers of 1024) or k, m, g (powers of 1000).
/// Every flag is also an environment variable; the flag wins.
///
/// Exit codes: 0 ended when asked to; 1 failed while running, or ended by a second signal;
/// 2 wrong usage; 77 the kernel or a limit of the system does not allow it to run.
#[derive(Parser, Clone, Debug, Default)]
#[command(name = "crabcache", version, about, long_about, max_term_width = 110)]
pub struct Typed {
    /// Port for every client; 0 takes any free one [default: 7001]
    #[arg(long, env = "CRABCACHE_PORT", hide_env_values = true)]
    pub port: Option<u16>,

    /// Addresses to listen on, v4 or v6, several allowed [default: 127.0.0.1]
    #[arg(long, env = "CRABCACHE_BIND", hide_env_values = true, value_name = "ADDRESS")]
    #[arg(value_delimiter = ',', num_args = 1.., action = ArgAction::Append)]
    pub bind: Vec<IpAddr>,

    /// Listen on a unix socket, too
    #[arg(long, env = "CRABCACHE_UNIX_SOCKET", hide_env_values = true, value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,

    /// Permissions of the unix socket, octal [default: 777]
    #[arg(long, env = "CRABCACHE_UNIX_SOCKET_PERM", hide_env_values = true, value_name = "MODE")]
    #[arg(value_parser = text::parse_mode)]
    pub unix_socket_perm: Option<u32>,

    /// How many cores to use, or which CPUs [default: every CPU this process may use]
    ///
    /// A lone number is a count: `4` is any four CPUs (more than there are run unpinned). A list names
    /// CPUs: `0,2-3`; a single CPU is written `3-3`.
    #[arg(long, env = "CRABCACHE_CORES", hide_env_values = true, value_name = "N|LIST")]
    #[arg(value_parser = text::parse_cores)]
    pub cores: Option<Cores>,

    /// Most clients at a time [default: 10000, or what the limit of descriptors allows]
    #[arg(long, env = "CRABCACHE_MAX_CLIENTS", hide_env_values = true, value_name = "N")]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub max_clients: Option<u32>,

    /// Longest value, up to 512mb [default: 64mb]
    #[arg(long, env = "CRABCACHE_MAX_VALUE_BYTES", hide_env_values = true, value_name = "SIZE")]
    #[arg(value_parser = text::parse_size)]
    pub max_value_bytes: Option<u64>,

    /// Most memory for keys and values with all they need: a size, or a part of the machine's or cgroup's, like 75%
    /// [default: 75%]
    #[arg(long, env = "CRABCACHE_MAX_MEMORY", hide_env_values = true, value_name = "SIZE|PERCENT")]
    #[arg(value_parser = text::parse_memory)]
    pub max_memory: Option<MemorySize>,

    /// What happens when that is full [default: tinylfu]
    #[arg(long, env = "CRABCACHE_EVICTION", hide_env_values = true, value_name = "POLICY")]
    pub eviction: Option<EvictionPolicy>,

    /// How much to log [default: info]
    #[arg(long, env = "CRABCACHE_LOG_LEVEL", hide_env_values = true, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,

    /// How to log: for people, as JSON lines, or by whether standard error is a terminal [default: auto]
    #[arg(long, env = "CRABCACHE_LOG_FORMAT", hide_env_values = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Present each core as a cluster node with a port of its own [default: yes]
    ///
    /// Cluster-aware clients then send each key straight to the core that owns it. All others use the
    /// shared port as always.
    #[arg(long, env = "CRABCACHE_CLUSTER", hide_env_values = true, value_name = "yes|no")]
    #[arg(value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub cluster: Option<bool>,

    /// Port of the first core, the next ones follow; 0 takes any free ones [default: port + 100]
    #[arg(long, env = "CRABCACHE_CORE_PORT_BASE", hide_env_values = true, value_name = "PORT")]
    pub core_port_base: Option<u16>,

    /// Host that cluster answers name, where clients see another one than the server does (NAT, containers)
    /// [default: the address the client came to]
    #[arg(long, env = "CRABCACHE_ADVERTISE_ADDRESS", hide_env_values = true, value_name = "HOST")]
    #[arg(value_parser = text::parse_host)]
    pub advertise_address: Option<String>,

    /// Microseconds that a core with few active clients may look for work before it sleeps; 0: none [default: 60]
    #[arg(long, env = "CRABCACHE_SPIN_US", hide_env_values = true, value_name = "MICROSECONDS")]
    #[arg(value_parser = value_parser!(u32).range(..=SPIN_US_MAX as i64))]
    pub spin_us: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EvictionPolicy {
    /// Keys that are asked for often stay (W-TinyLFU).
    Tinylfu,
    /// Keys that were asked for lately stay.
    Lru,
    /// All keys stay; writes are refused.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, else JSON.
    Auto,
    /// Lines for people, coloured on a terminal.
    Human,
    /// One JSON object per line.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::{CORE_PORT_OFFSET, PORT_DEFAULT, SPIN_US_DEFAULT, UNIX_SOCKET_MODE_DEFAULT};
    use super::*;
    use crate::limits::{
        CLIENTS_MAX_DEFAULT, MEMORY_PERCENT_DEFAULT, VALUE_BYTES_MAX_CEILING, VALUE_BYTES_MAX_DEFAULT,
    };

    #[test]
    fn every_flag_has_its_environment_variable_and_names_its_true_default() {
        let mut command = Typed::command();
        command.build();
        command.clone().debug_assert();
        let help = |name: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name)).expect(name);
            let expected = format!("CRABCACHE_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(expected.as_str()));
            arg.get_help().unwrap().to_string()
        };
        for arg in command.get_arguments().filter_map(|arg| arg.get_long()) {
            if !["help", "version"].contains(&arg) {
                help(arg);
            }
        }
        assert!(help("port").contains(&format!("[default: {PORT_DEFAULT}]")));
        assert!(help("core-port-base").contains(&format!("[default: port + {CORE_PORT_OFFSET}]")));
        assert!(help("max-clients").contains(&format!("[default: {CLIENTS_MAX_DEFAULT},")));
        assert!(help("max-value-bytes").contains(&format!("[default: {}mb]", VALUE_BYTES_MAX_DEFAULT >> 20)));
        assert!(help("max-value-bytes").contains(&format!("up to {}mb", VALUE_BYTES_MAX_CEILING >> 20)));
        assert!(help("max-memory").contains(&format!("[default: {MEMORY_PERCENT_DEFAULT}%]")));
        assert!(help("spin-us").contains(&format!("[default: {SPIN_US_DEFAULT}]")));
        assert!(help("unix-socket-perm").contains(&format!("[default: {UNIX_SOCKET_MODE_DEFAULT:o}]")));
    }
}
