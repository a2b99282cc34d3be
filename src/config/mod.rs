//! Settings: what was typed ([`Typed`], every field optional) becomes what is checked ([`Config`], every
//! field present and within its bounds). Looks at no machine: what depends on CPUs, limits and ports in
//! use is the preflight's business.

mod text;
mod typed;

use std::net::IpAddr;
use std::path::PathBuf;

use crate::limits::{
    CLIENTS_MAX_DEFAULT, CORES_MAX, MEMORY_BYTES_PER_CORE_MIN, MEMORY_PERCENT_DEFAULT, VALUE_BYTES_MAX_CEILING,
    VALUE_BYTES_MAX_DEFAULT,
};

pub use typed::{EvictionPolicy, LogFormat, LogLevel, Typed};

/// The port everybody connects to.
pub const PORT_DEFAULT: u16 = 7001;
/// How far above the data port the cores' own ports begin.
pub const CORE_PORT_OFFSET: u16 = 100;
/// How long a core looks for more work before it sleeps.
pub const SPIN_US_DEFAULT: u32 = 60;
pub const SPIN_US_MAX: u32 = 1_000_000;
/// Readable and writable for everybody, as the TCP ports are.
pub const UNIX_SOCKET_MODE_DEFAULT: u32 = 0o777;
/// What the kernel takes, without the final zero.
const UNIX_SOCKET_PATH_BYTES_MAX: usize = 107;

/// A complete set of settings that do not contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The shared data port; 0 takes any free one.
    pub port: u16,
    /// Addresses to listen on: at least one, and none that another one covers.
    pub bind: Vec<IpAddr>,
    pub unix_socket: Option<UnixSocket>,
    pub cores: Cores,
    /// Clients asked for; the limit of descriptors may allow fewer.
    pub clients_max: usize,
    /// Whether `clients_max` was typed or is the default: only a typed one is worth a warning.
    pub clients_max_typed: bool,
    pub value_bytes_max: usize,
    pub memory_max: MemorySize,
    pub eviction: EvictionPolicy,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    /// Each core as a node of a cluster; None when switched off.
    pub cluster: Option<Cluster>,
    /// Longest a core looks for more work before it sleeps.
    pub spin_us: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    pub path: PathBuf,
    pub mode: u32,
}

/// How much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemorySize {
    Bytes(u64),
    /// Of what the machine has, or the cgroup may take.
    Percent(u8),
}

/// Which CPUs get a core of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// Every CPU this process may use.
    Allowed,
    /// So many, on the first CPUs allowed.
    Count(usize),
    /// Exactly these CPUs, each once.
    Cpus(Vec<usize>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Core `i` listens on base + `i`. 0 takes any free ports; None is [`CORE_PORT_OFFSET`] above the data
    /// port, or any free ports when that is any free port itself.
    pub core_port_base: Option<u16>,
    /// The host that clients are sent to; None is the address they came to.
    pub advertise_address: Option<String>,
}

/// Settings that contradict each other or a bound.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Default for Config {
    fn default() -> Config {
        Config::check(Typed::default()).expect("the defaults do not contradict each other")
    }
}

impl Config {
    pub fn check(typed: Typed) -> Result<Config, ConfigError> {
        let value_bytes_max = match typed.max_value_bytes {
            None => VALUE_BYTES_MAX_DEFAULT,
            Some(bytes) if (1..=VALUE_BYTES_MAX_CEILING as u64).contains(&bytes) => bytes as usize,
            Some(bytes) => {
                return Err(ConfigError(format!(
                    "--max-value-bytes {bytes}: must be between 1 and {VALUE_BYTES_MAX_CEILING} (512mb)"
                )));
            }
        };
        if let Some(MemorySize::Bytes(bytes)) = typed.max_memory
            && bytes < MEMORY_BYTES_PER_CORE_MIN
        {
            return Err(ConfigError(format!(
                "--max-memory {bytes}: a core needs at least {MEMORY_BYTES_PER_CORE_MIN} (16mb)"
            )));
        }
        Ok(Config {
            port: typed.port.unwrap_or(PORT_DEFAULT),
            bind: check_bind(typed.bind)?,
            unix_socket: check_unix_socket(typed.unix_socket, typed.unix_socket_perm)?,
            cores: typed.cores.unwrap_or(Cores::Allowed),
            clients_max: typed.max_clients.unwrap_or(CLIENTS_MAX_DEFAULT as u32) as usize,
            clients_max_typed: typed.max_clients.is_some(),
            value_bytes_max,
            memory_max: typed.max_memory.unwrap_or(MemorySize::Percent(MEMORY_PERCENT_DEFAULT)),
            eviction: typed.eviction.unwrap_or(EvictionPolicy::Tinylfu),
            log_level: typed.log_level.unwrap_or(LogLevel::Info),
            log_format: typed.log_format.unwrap_or(LogFormat::Auto),
            cluster: check_cluster(typed.cluster, typed.core_port_base, typed.advertise_address)?,
            spin_us: typed.spin_us.unwrap_or(SPIN_US_DEFAULT),
        })
    }

    /// The port of each of `cores` cores, 0 for any free one; none with the cluster switched off.
    pub fn core_ports(&self, cores: usize) -> Result<Vec<u16>, ConfigError> {
        let Some(cluster) = &self.cluster else { return Ok(Vec::new()) };
        let (base, origin) = match cluster.core_port_base {
            None if self.port == 0 => return Ok(vec![0; cores]),
            Some(0) => return Ok(vec![0; cores]),
            None => (self.port as usize + CORE_PORT_OFFSET as usize, "the data port + 100"),
            Some(base) => (base as usize, "--core-port-base"),
        };
        let last = base + cores - 1;
        if last > u16::MAX as usize {
            return Err(ConfigError(format!(
                "the ports of {cores} cores ({base} to {last}, from {origin}) pass {}: set a lower --core-port-base, \
                 or --cluster no",
                u16::MAX
            )));
        }
        let ports = base as u16..=last as u16;
        if ports.contains(&self.port) {
            return Err(ConfigError(format!(
                "the ports of {cores} cores ({base} to {last}, from {origin}) overlap the data port {}: \
                 set another --core-port-base or --port",
                self.port
            )));
        }
        Ok(ports.collect())
    }
}

fn check_bind(typed: Vec<IpAddr>) -> Result<Vec<IpAddr>, ConfigError> {
    if typed.is_empty() {
        return Ok(vec![IpAddr::from([127, 0, 0, 1])]);
    }
    for (index, address) in typed.iter().enumerate() {
        for other in &typed[..index] {
            if other == address {
                return Err(ConfigError(format!("--bind {address} is given twice")));
            }
            // Sockets for v6 take v6 only, so the two families never cover each other.
            let covering = [other, address].into_iter().find(|any| any.is_unspecified());
            if let Some(covering) = covering
                && other.is_ipv4() == address.is_ipv4()
            {
                let covered = if covering == other { address } else { other };
                return Err(ConfigError(format!("--bind {covering} already covers {covered}: give one of them")));
            }
        }
    }
    Ok(typed)
}

fn check_unix_socket(path: Option<PathBuf>, mode: Option<u32>) -> Result<Option<UnixSocket>, ConfigError> {
    let Some(path) = path else {
        return match mode {
            None => Ok(None),
            Some(_) => Err(ConfigError("--unix-socket-perm needs --unix-socket".into())),
        };
    };
    let len = path.as_os_str().len();
    if len == 0 || len > UNIX_SOCKET_PATH_BYTES_MAX {
        return Err(ConfigError(format!(
            "--unix-socket: a path of {len} bytes; the kernel takes 1 to {UNIX_SOCKET_PATH_BYTES_MAX}"
        )));
    }
    Ok(Some(UnixSocket { path, mode: mode.unwrap_or(UNIX_SOCKET_MODE_DEFAULT) }))
}

fn check_cluster(
    on: Option<bool>,
    core_port_base: Option<u16>,
    advertise_address: Option<String>,
) -> Result<Option<Cluster>, ConfigError> {
    if on.unwrap_or(true) {
        return Ok(Some(Cluster { core_port_base, advertise_address }));
    }
    let needless =
        [("--core-port-base", core_port_base.is_some()), ("--advertise-address", advertise_address.is_some())];
    match needless.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(ConfigError(format!("{flag} means nothing with --cluster no"))),
        None => Ok(None),
    }
}

const _: () = assert!(CORES_MAX < u16::MAX as usize);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn check(args: &[&str]) -> Result<Config, String> {
        let typed = Typed::try_parse_from(std::iter::once(&"crabcache").chain(args)).map_err(|e| e.to_string())?;
        Config::check(typed).map_err(|e| e.to_string())
    }

    fn refusal(args: &[&str]) -> String {
        check(args).expect_err("must be refused")
    }

    #[test]
    fn nothing_typed_is_loopback_on_every_core() {
        let config = check(&[]).unwrap();
        assert_eq!(config, Config::default());
        assert_eq!((config.port, config.bind.as_slice()), (7001, &["127.0.0.1".parse().unwrap()][..]));
        assert_eq!(config.cores, Cores::Allowed);
        assert_eq!(config.core_ports(2).unwrap(), [7101, 7102]);
    }

    #[test]
    fn addresses_come_one_by_one_or_in_a_list() {
        let expected: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(check(&["--bind", "127.0.0.1", "--bind", "::1"]).unwrap().bind, expected);
        assert_eq!(check(&["--bind", "127.0.0.1,::1"]).unwrap().bind, expected);
        assert_eq!(check(&["--bind", "127.0.0.1", "::1"]).unwrap().bind, expected);
        assert!(check(&["--bind", "0.0.0.0,::"]).is_ok());
    }

    #[test]
    fn addresses_that_cover_each_other_are_refused() {
        assert!(refusal(&["--bind", "::1,::1"]).contains("given twice"));
        assert!(refusal(&["--bind", "127.0.0.1,0.0.0.0"]).contains("--bind 0.0.0.0 already covers 127.0.0.1"));
        assert!(refusal(&["--bind", "::,::1"]).contains("--bind :: already covers ::1"));
        assert!(refusal(&["--bind", "localhost"]).contains("--bind"));
    }

    #[test]
    fn ports_of_cores_stay_in_range_and_off_the_data_port() {
        let ports = |args: &[&str], cores| check(args).unwrap().core_ports(cores).map_err(|e| e.to_string());
        assert_eq!(ports(&["--port", "9000", "--core-port-base", "9001"], 3).unwrap(), [9001, 9002, 9003]);
        assert_eq!(ports(&["--port", "65434"], 2).unwrap(), [65534, 65535]);
        assert!(ports(&["--port", "65434"], 3).unwrap_err().contains("pass 65535"));
        assert!(ports(&["--port", "9000", "--core-port-base", "8999"], 2).unwrap_err().contains("overlap"));
        assert_eq!(ports(&["--port", "9000", "--core-port-base", "8998"], 2).unwrap(), [8998, 8999]);
        assert_eq!(ports(&["--port", "0"], 2).unwrap(), [0, 0]);
        assert_eq!(ports(&["--port", "9000", "--core-port-base", "0"], 2).unwrap(), [0, 0]);
        assert!(ports(&["--cluster", "no"], 2).unwrap().is_empty());
    }

    #[test]
    fn sizes_have_bounds() {
        assert_eq!(check(&["--max-value-bytes", "512mb"]).unwrap().value_bytes_max, 512 << 20);
        assert!(refusal(&["--max-value-bytes", "513mb"]).contains("between 1 and"));
        assert!(refusal(&["--max-value-bytes", "0"]).contains("between 1 and"));
        assert!(refusal(&["--max-clients", "0"]).contains("--max-clients"));
    }

    #[test]
    fn memory_is_a_part_of_the_machine_unless_told_otherwise() {
        assert_eq!(check(&[]).unwrap().memory_max, MemorySize::Percent(75));
        assert_eq!(check(&["--max-memory", "4gb"]).unwrap().memory_max, MemorySize::Bytes(4 << 30));
        assert_eq!(check(&["--max-memory", "50%"]).unwrap().memory_max, MemorySize::Percent(50));
        assert!(refusal(&["--max-memory", "1mb"]).contains("at least 16777216"));
        assert!(refusal(&["--max-memory", "0%"]).contains("--max-memory"));
        assert_eq!(check(&["--eviction", "lru"]).unwrap().eviction, EvictionPolicy::Lru);
        assert!(refusal(&["--eviction", "random"]).contains("--eviction"));
    }

    #[test]
    fn flags_that_mean_nothing_together_are_refused() {
        assert!(refusal(&["--cluster", "no", "--core-port-base", "9000"]).contains("means nothing"));
        assert!(refusal(&["--cluster", "no", "--advertise-address", "a.example"]).contains("means nothing"));
        assert!(refusal(&["--unix-socket-perm", "700"]).contains("needs --unix-socket"));
        assert!(refusal(&["--unix-socket", &"x".repeat(108)]).contains("108 bytes"));
        let socket = check(&["--unix-socket", "/run/c.sock", "--unix-socket-perm", "770"]).unwrap().unix_socket;
        assert_eq!(socket, Some(UnixSocket { path: "/run/c.sock".into(), mode: 0o770 }));
    }
}
