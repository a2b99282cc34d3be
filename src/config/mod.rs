//! Settings: a file, the environment and flags ([`sources`]) become what is checked ([`Config`]: every setting of the
//! [`table`] present and within its bounds), and later what is followed while the server runs ([`store`]). Looks at no
//! machine: what depends on CPUs, limits and ports in use is the preflight's business.
//!
//! ```text
//!   file ─┐
//!   env  ─┼─▶ Given (setting, text, origin) ─▶ Config::assemble ─▶ Config ─▶ Store ─▶ CONFIG GET, SET, REWRITE, SIGHUP
//!   flags ┘
//! ```

mod command_line;
mod file;
mod origin;
mod print;
mod sources;
mod store;
mod table;
mod text;
mod tls;
mod tokens;
pub mod value;

use std::path::PathBuf;

use crate::allowlist::Allowlist;
use crate::auth::{Access, AmbiguousToken, DEFAULT_NAME, OpSet, Token};
use crate::command::Spec;
use crate::limits::{CORES_MAX, MEMORY_BYTES_PER_CORE_MIN};

pub use command_line::{Ask, Request, command, completions, man_page};
pub use origin::{ConfigError, Origin, Origins};
pub use print::{default_file, markdown, origins_file};
pub use sources::{Given, Sources};
pub use store::{Follower, Store};
pub use table::{Config, Effect, SETTINGS, Setting};
pub use value::{Form, Kind, Word, Words};

/// The port everybody connects to.
pub const PORT_DEFAULT: u16 = 7001;
/// How far above the data port the cores' own ports begin.
pub const CORE_PORT_OFFSET: u16 = 100;
/// How long a core may look for more work before it sleeps.
pub const SPIN_US_MAX: u32 = 1_000_000;
/// Readable and writable for everybody, as the TCP ports are.
const UNIX_SOCKET_MODE_DEFAULT: u32 = 0o777;
/// What the kernel takes, without the final zero.
const UNIX_SOCKET_PATH_BYTES_MAX: usize = 107;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    pub path: PathBuf,
    pub mode: u32,
}

/// How much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemorySize {
    /// 0 for no bound.
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

/// The values of a setting that is one of a few words: each with what Redis calls it, if it does, and what it means.
macro_rules! words {
    ($type:ident: $($word:literal $value:ident $($redis:literal)?, $help:literal;)+) => {
        impl Words for $type {
            const WORDS: &'static [(Word, $type)] =
                &[$((Word { word: $word, redis: words!(@redis $($redis)?), help: $help }, $type::$value)),+];
        }
    };
    (@redis) => { None };
    (@redis $name:literal) => { Some($name) };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionPolicy {
    /// Keys that are asked for often stay (W-TinyLFU).
    Tinylfu,
    /// Keys that were asked for lately stay.
    Lru,
    /// All keys stay; writes are refused.
    None,
}

words! { EvictionPolicy:
    "tinylfu" Tinylfu "allkeys-lfu", "Keys that are asked for often stay (W-TinyLFU)";
    "lru" Lru "allkeys-lru", "Keys that were asked for lately stay";
    "none" None "noeviction", "All keys stay; writes are refused";
}

/// Who may use DEBUG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugAccess {
    No,
    Local,
    Yes,
}

words! { DebugAccess:
    "no" No "no", "Nobody";
    "local" Local "local", "Clients on this machine";
    "yes" Yes "yes", "Everybody";
}

/// Where TLS is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPort {
    Off,
    /// On all TCP ports: the first byte tells.
    Shared,
    Own(u16),
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsAuthClients {
    No,
    Optional,
    Yes,
}

words! { TlsAuthClients:
    "no" No "no", "They are not asked for one";
    "optional" Optional "optional", "One that is shown has to be right";
    "yes" Yes "yes", "Nobody comes in without";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsProtocols {
    Both,
    Only12,
    Only13,
}

words! { TlsProtocols:
    "tlsv1.2 tlsv1.3" Both, "Both";
    "tlsv1.2" Only12, "1.2 alone";
    "tlsv1.3" Only13, "1.3 alone";
}

/// What becomes of commands beyond a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateAction {
    Refuse,
    Delay,
}

words! { RateAction:
    "refuse" Refuse, "They are answered RATELIMITED retry in N ms";
    "delay" Delay, "They wait until they may";
}

/// How much of the metrics is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsShown {
    All,
    Counts,
    Nothing,
}

words! { MetricsShown:
    "all" All, "Everything";
    "counts" Counts, "Everything but what names namespaces";
    "nothing" Nothing, "Nothing, a token is needed";
}

/// What a write's reply promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalSync {
    None,
    Async,
    Sync,
}

words! { WalSync:
    "none" None "no", "Logged; when it is durable is up to the system";
    "async" Async "everysec", "Durable within --wal-async-ms";
    "sync" Sync "always", "Durable before the reply leaves";
}

/// What to do about a damaged log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalRecover {
    Strict,
    Salvage,
}

words! { WalRecover:
    "strict" Strict, "Refuse to start";
    "salvage" Salvage, "Keep what can be read, and the damaged files aside";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

words! { LogLevel:
    "error" Error, "What failed";
    "warn" Warn "warning", "And what is worth a look";
    "info" Info "notice", "And what an operator wants to know";
    "debug" Debug "verbose", "And what clients do wrong";
    "trace" Trace, "Everything";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, else JSON.
    Auto,
    /// Lines for people, coloured on a terminal.
    Human,
    /// One JSON object per line.
    Json,
}

words! { LogFormat:
    "auto" Auto, "Human on a terminal, else JSON";
    "human" Human, "Lines for people, coloured on a terminal";
    "json" Json, "One JSON object per line";
}

impl Default for Config {
    fn default() -> Config {
        Config::assemble(&[]).expect("the defaults do not contradict each other")
    }
}

impl Config {
    /// What was given over the defaults; of a setting given several times the last counts.
    pub fn assemble(given: &[Given]) -> Result<Config, ConfigError> {
        let mut config = Config::defaults();
        for (index, one) in given.iter().enumerate() {
            if given[index + 1..].iter().any(|later| std::ptr::eq(later.setting, one.setting)) {
                continue;
            }
            (one.setting.set)(&mut config, &one.text).map_err(|why| {
                ConfigError::value(one.setting, &one.origin, &format!("{:?}: {why}", one.shown_text()))
            })?;
            config.origins.set(one.setting, one.origin.clone());
        }
        config.check()?;
        Ok(config)
    }

    /// Whether somebody said what it should be.
    pub fn is_given(&self, key: &str) -> bool {
        *self.origin(key) != Origin::Default
    }

    fn origin(&self, key: &str) -> &Origin {
        self.origins.of(Setting::by_key(key).expect("a key of the table"))
    }

    /// How the setting is called where it came from.
    fn name(&self, key: &str) -> String {
        self.origin(key).name_of(Setting::by_key(key).expect("a key of the table"))
    }

    /// An error about `key`.
    pub fn error(&self, key: &'static str, text: String) -> ConfigError {
        ConfigError { origin: self.origin(key).clone(), key: Some(key), text }
    }

    /// What two settings may say of each other.
    fn check(&self) -> Result<(), ConfigError> {
        if let MemorySize::Bytes(bytes @ 1..MEMORY_BYTES_PER_CORE_MIN) = self.memory_max {
            let name = self.name("max-memory");
            let least = MEMORY_BYTES_PER_CORE_MIN;
            return Err(self.error("max-memory", format!("{name} {bytes}: a core needs at least {least} (16mb)")));
        }
        if let TlsPort::Own(port) = self.tls_port
            && port == self.port
        {
            let text = format!("{} is the port of plain connections: write shared", self.name("tls-port"));
            return Err(self.error("tls-port", text));
        }
        self.check_bind()?;
        self.check_unix_socket()?;
        self.check_cluster()
    }

    fn check_bind(&self) -> Result<(), ConfigError> {
        let name = self.name("bind");
        for (index, address) in self.bind.iter().enumerate() {
            for other in &self.bind[..index] {
                if other == address {
                    return Err(self.error("bind", format!("{name} {address} is given twice")));
                }
                // Sockets for v6 take v6 only, so the two families never cover each other.
                let covering = [other, address].into_iter().find(|any| any.is_unspecified());
                if let Some(covering) = covering
                    && other.is_ipv4() == address.is_ipv4()
                {
                    let covered = if covering == other { address } else { other };
                    let text = format!("{name} {covering} already covers {covered}: give one of them");
                    return Err(self.error("bind", text));
                }
            }
        }
        Ok(())
    }

    fn check_unix_socket(&self) -> Result<(), ConfigError> {
        match &self.unix_socket {
            None if self.unix_socket_perm != UNIX_SOCKET_MODE_DEFAULT => {
                let text = format!("{} needs --unix-socket", self.name("unix-socket-perm"));
                Err(self.error("unix-socket-perm", text))
            }
            Some(path) if path.as_os_str().len() > UNIX_SOCKET_PATH_BYTES_MAX => {
                let (name, len) = (self.name("unix-socket"), path.as_os_str().len());
                let text = format!("{name}: a path of {len} bytes; the kernel takes 1 to {UNIX_SOCKET_PATH_BYTES_MAX}");
                Err(self.error("unix-socket", text))
            }
            _ => Ok(()),
        }
    }

    fn check_cluster(&self) -> Result<(), ConfigError> {
        let given = [
            ("core-port-base", self.core_port_base.is_some()),
            ("advertise-address", self.advertise_address.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((key, _)) if !self.cluster => {
                Err(self.error(key, format!("{} means nothing with --cluster no", self.name(key))))
            }
            _ => Ok(()),
        }
    }

    /// Who may come in: the token of the settings, those of the file, and what nobody may do.
    pub fn access(&self) -> Result<Access, ConfigError> {
        let mut tokens = Vec::new();
        if !self.token.is_empty() {
            tokens.push(Token::unlimited(DEFAULT_NAME, Some(self.token.as_bytes())));
        }
        let credential =
            || std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| PathBuf::from(folder).join("tokens"));
        let file = self.tokens_file.clone().or_else(|| credential().filter(|path| path.exists()));
        if let Some(file) = file {
            let of_file = tokens::read(&file)?;
            // Half written, perhaps: that must not mean that everybody may come in.
            if of_file.is_empty() && self.tokens_file.is_some() {
                let text = format!("{}: there is no token in {}", self.name("tokens-file"), file.display());
                return Err(self.error("tokens-file", text));
            }
            tokens.extend(of_file);
        }
        let names = &self.disabled_commands;
        let is_disabled = |spec: &Spec| {
            names
                .iter()
                .any(|name| spec.name == name || spec.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('|')))
        };
        Access::new(tokens, OpSet::of(is_disabled)).map_err(|AmbiguousToken(name)| {
            self.error("tokens-file", format!("the token {name}: its name or its secret is another one's, too"))
        })
    }

    /// Protected mode: nothing is opened to other machines without a token. Why not, where that would be so.
    pub fn protect(&self, access: &Access) -> Result<(), String> {
        if !self.protected_mode || access.is_required() {
            return Ok(());
        }
        let admin = if self.admin_port.is_some() { self.admin_bind.as_slice() } else { &[] };
        match self.bind.iter().chain(admin).find(|ip| !ip.to_canonical().is_loopback()) {
            None => Ok(()),
            Some(ip) => Err(format!(
                "other machines could reach {ip} and everybody there could read and write: set up a token (--tokens-file, \
                 CRABCACHE_TOKEN), or switch this off with --protected-mode no"
            )),
        }
    }

    pub fn allowlist(&self) -> Allowlist {
        Allowlist { allow: self.allow.clone(), deny: self.deny.clone() }
    }

    pub fn unix_socket(&self) -> Option<UnixSocket> {
        self.unix_socket.clone().map(|path| UnixSocket { path, mode: self.unix_socket_perm })
    }

    /// The port of plain connections, 0 for any free one; none for a server that speaks TLS alone, which is written as in
    /// Redis: `port 0` beside a port of TLS.
    pub fn data_port(&self) -> Option<u16> {
        match self.tls_port {
            TlsPort::Own(_) if self.port == 0 => None,
            _ => Some(self.port),
        }
    }

    /// Whether plain text is spoken on any TCP port.
    pub fn speaks_plain(&self) -> bool {
        self.data_port().is_some()
    }

    /// How many ports all cores listen on together.
    pub fn shared_ports(&self) -> usize {
        self.speaks_plain() as usize + matches!(self.tls_port, TlsPort::Own(_)) as usize
    }

    /// The port of each of `cores` cores, 0 for any free one; none with the cluster switched off.
    pub fn core_ports(&self, cores: usize) -> Result<Vec<u16>, ConfigError> {
        if !self.cluster {
            return Ok(Vec::new());
        }
        let (port, key, origin) = match (self.data_port(), self.tls_port) {
            (None, TlsPort::Own(port)) => (port, "tls-port", "the port of TLS + 100"),
            (port, _) => (port.unwrap_or_default(), "port", "the data port + 100"),
        };
        let (base, key, origin) = match self.core_port_base {
            Some(base) => (base as usize, "core-port-base", "--core-port-base"),
            None if port == 0 => (0, key, origin),
            None => (port as usize + CORE_PORT_OFFSET as usize, key, origin),
        };
        if base == 0 {
            return Ok(vec![0; cores]);
        }
        let last = base + cores - 1;
        if last > u16::MAX as usize {
            return Err(self.error(
                key,
                format!(
                    "the ports of {cores} cores ({base} to {last}, from {origin}) pass {}: set a lower \
                     --core-port-base, or --cluster no",
                    u16::MAX
                ),
            ));
        }
        let ports = base as u16..=last as u16;
        let tls_port = if let TlsPort::Own(port) = self.tls_port { Some(port) } else { None };
        let others = [(self.data_port(), "data port", "--port"), (tls_port, "port of TLS", "--tls-port")];
        for (port, what, flag) in others.into_iter().filter_map(|(port, what, flag)| Some((port?, what, flag))) {
            if ports.contains(&port) {
                let text = format!(
                    "the ports of {cores} cores ({base} to {last}, from {origin}) overlap the {what} {port}: \
                     set another --core-port-base or {flag}"
                );
                return Err(self.error(key, text));
            }
        }
        Ok(ports.collect())
    }
}

const _: () = assert!(CORES_MAX < u16::MAX as usize);

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn check(args: &[&str]) -> Result<Config, String> {
        let words = std::iter::once("crabcache").chain(args.iter().copied());
        let request = Request::parse(words.map(Into::into)).map_err(|error| error.to_string())?;
        Config::assemble(&request.given).map_err(|error| error.to_string())
    }

    fn refusal(args: &[&str]) -> String {
        check(args).expect_err("must be refused")
    }

    #[test]
    fn nothing_typed_is_loopback_on_every_core() {
        let config = check(&[]).unwrap();
        assert_eq!(config, Config::default());
        assert_eq!((config.port, config.bind.as_slice()), (PORT_DEFAULT, &["127.0.0.1".parse().unwrap()][..]));
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
        let overlap = ports(&["--port", "9000", "--tls-port", "9101"], 2).unwrap_err();
        assert!(overlap.contains("overlap the port of TLS 9101"), "{overlap}");
    }

    #[test]
    fn no_port_beside_one_of_tls_is_a_server_of_tls_alone() {
        let alone = check(&["--port", "0", "--tls-port", "9000"]).unwrap();
        assert_eq!((alone.data_port(), alone.shared_ports()), (None, 1));
        assert_eq!(alone.core_ports(2).unwrap(), [9100, 9101]);
        let passing = check(&["--port", "0", "--tls-port", "65500"]).unwrap().core_ports(2).unwrap_err();
        assert!(passing.to_string().contains("from the port of TLS + 100"), "{passing}");
        for (args, port, shared_ports) in [
            (&["--port", "0", "--tls-port", "shared"][..], 0, 1),
            (&["--port", "0", "--tls-port", "0"], 0, 1),
            (&["--port", "9000", "--tls-port", "9001"], 9000, 2),
        ] {
            let both = check(args).unwrap();
            assert_eq!((both.data_port(), both.shared_ports()), (Some(port), shared_ports), "{args:?}");
        }
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
        let socket = check(&["--unix-socket", "/run/c.sock", "--unix-socket-perm", "770"]).unwrap().unix_socket();
        assert_eq!(socket, Some(UnixSocket { path: "/run/c.sock".into(), mode: 0o770 }));
    }
}
