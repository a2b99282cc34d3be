//! The table of settings. One entry is all there is to a setting: flag, environment variable, key in the file, names in
//! CONFIG, help, default, bounds and documentation are made from it.
//!
//! ```text
//!   /// What it does, in one line; more lines for --help.
//!   field "key": Kind, "default", "PLACEHOLDER", live | restart, redis "its-name-there", in bounds, is secret;
//! ```
//!
//! `live` settings are followed while the server runs (CONFIG SET, SIGHUP), `restart` ones are read at the start.
//! After a change: `CRABCACHE_BLESS=1 cargo test --test tidy settings` writes the pages that show the table.

use super::value::*;
use super::{
    DebugAccess, EvictionPolicy, LogFormat, LogLevel, MetricsShown, Origins, RateAction, TlsAuthClients, TlsProtocols,
    WalRecover, WalSync,
};
use crate::limits::{SLOWLOG_LEN_MAX, TTL_JITTER_PERCENT_MAX, VALUE_BYTES_MAX_CEILING};

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once, also by CONFIG SET.
    Live,
    /// At the next start.
    Restart,
}

/// One setting, as far as it needs no type.
#[derive(Debug)]
pub struct Setting {
    pub section: &'static str,
    /// `max-memory`: the flag behind `--`, and the key in the file.
    pub key: &'static str,
    /// Redis's name for it.
    pub redis: Option<&'static str>,
    /// Lines of text; the first says what it is.
    pub help: &'static [&'static str],
    pub default: &'static str,
    pub placeholder: &'static str,
    pub effect: Effect,
    /// Never shown.
    pub is_secret: bool,
    pub form: Form,
    pub words: fn() -> Vec<Word>,
    pub set: fn(&mut Config, &str) -> Result<(), String>,
    pub show: fn(&Config) -> String,
    pub show_redis: fn(&Config) -> String,
}

/// What stands for a secret wherever settings are shown.
pub const REDACTED: &str = "(redacted)";

impl Setting {
    pub fn by_key(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// By our key or Redis's name, in any case.
    pub fn by_name(name: &str) -> Option<&'static Setting> {
        let name = name.to_ascii_lowercase();
        SETTINGS.iter().find(|setting| setting.key == name || setting.redis == Some(name.as_str()))
    }

    pub fn index(&self) -> usize {
        SETTINGS.iter().position(|setting| setting.key == self.key).expect("a setting of the table")
    }

    pub fn variable(&self) -> String {
        format!("CRABCACHE_{}", self.key.to_ascii_uppercase().replace('-', "_"))
    }

    /// The value, unless it is a secret.
    pub fn shown(&self, config: &Config) -> String {
        match (self.show)(config) {
            text if self.is_secret && !text.is_empty() => REDACTED.into(),
            text => text,
        }
    }
}

macro_rules! settings {
    ($(
        [$section:literal]
        $(
            $(#[doc = $doc:literal])+
            $field:ident $key:literal: $kind:ty, $default:literal, $placeholder:literal, $effect:ident
            $(, redis $redis:literal)? $(, in $range:expr)? $(, is $secret:ident)?;
        )+
    )+) => {
        /// A complete set of settings, each within its bounds, which do not contradict each other.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($($(#[doc = $doc])+ pub $field: <$kind as Kind>::Value,)+)+
            pub origins: Origins,
        }

        impl Config {
            /// The defaults as they stand in the table.
            pub(super) fn defaults() -> Config {
                Config {
                    $($($field: <$kind as Kind>::parse($default).expect($key),)+)+
                    origins: Origins::defaults(),
                }
            }
        }

        pub static SETTINGS: &[Setting] = &[$($(Setting {
            section: $section,
            key: $key,
            redis: settings!(@redis $($redis)?),
            help: &[$($doc),+],
            default: $default,
            placeholder: $placeholder,
            effect: settings!(@effect $effect),
            is_secret: settings!(@secret $($secret)?),
            form: <$kind as Kind>::FORM,
            words: <$kind as Kind>::words,
            set: |config, text| {
                let value = <$kind as Kind>::parse(text)?;
                $(within::<$kind>(&value, $range)?;)?
                config.$field = value;
                Ok(())
            },
            show: |config| <$kind as Kind>::show(&config.$field),
            show_redis: |config| <$kind as Kind>::show_redis(&config.$field),
        }),+),+];
    };
    (@redis) => { None };
    (@redis $name:literal) => { Some($name) };
    (@secret) => { false };
    (@secret secret) => { true };
    (@effect live) => { Effect::Live };
    (@effect restart) => { Effect::Restart };
}

settings! {
    ["Network"]
    /// Port for every client; 0 takes any free one, or, where TLS has a port of its own, none: then plain text is not spoken
    port "port": Number<u16>, "7001", "PORT", restart, redis "port";

    /// Addresses to listen on, v4 or v6, several allowed
    bind "bind": Addresses, "127.0.0.1", "ADDRESS", restart, redis "bind";

    /// Listen on a unix socket, too; empty for none
    unix_socket "unix-socket": OptionalPath, "", "PATH", restart, redis "unixsocket";

    /// Permissions of the unix socket, octal
    unix_socket_perm "unix-socket-perm": Mode, "777", "MODE", restart, redis "unixsocketperm";

    /// Most clients at a time; fewer if the limit of descriptors says so
    clients_max "max-clients": Number<usize>, "10000", "N", restart, redis "maxclients", in 1..=u32::MAX as usize;

    ["Cores"]
    /// How many cores to use, or which CPUs; all is every CPU this process may use
    ///
    /// A lone number is a count: `4` is any four CPUs (more than there are run unpinned). A list names
    /// CPUs: `0,2-3`; a single CPU is written `3-3`.
    cores "cores": CoreList, "all", "N|LIST", restart, redis "io-threads";

    /// Microseconds that a core with few active clients may look for work before it sleeps, where that has lately found
    /// some; 0: not at all
    spin_us "spin-us": Number<u32>, "60", "MICROSECONDS", restart, in 0..=super::SPIN_US_MAX;

    /// Present each core as a cluster node with a port of its own
    ///
    /// Cluster-aware clients then send each key straight to the core that owns it. All others use the
    /// shared port as always.
    cluster "cluster": YesNo, "yes", "yes|no", restart, redis "cluster-enabled";

    /// Port of the first core, the next ones follow; 0 takes any free ones, auto is port + 100
    core_port_base "core-port-base": AutoPort, "auto", "PORT", restart;

    /// Host that cluster answers name, where clients see another one than the server does (NAT, containers); empty is
    /// the address the client came to
    advertise_address "advertise-address": OptionalHost, "", "HOST", restart, redis "cluster-announce-ip";

    ["Memory"]
    /// Most memory for keys and values with all they need: a size, or a part of the machine's or cgroup's, like 75%; 0
    /// is no bound
    memory_max "max-memory": Memory, "75%", "SIZE|PERCENT", live, redis "maxmemory";

    /// What happens when that is full
    eviction "eviction": OneOf<EvictionPolicy>, "tinylfu", "POLICY", live, redis "maxmemory-policy";

    /// Most memory for what all clients together are in the middle of sending or have not read yet: a size or a part of the
    /// machine's or cgroup's; beyond it whoever holds most is closed; 0 is no bound
    client_memory_max "max-client-memory": Memory, "20%", "SIZE|PERCENT", live, redis "maxmemory-clients";

    /// Keys whose time to live is given as a span expire up to so many percent sooner, each by chance: keys that were set
    /// together do not all expire together
    ttl_jitter_percent "ttl-jitter-percent": Number<u8>, "0", "PERCENT", live, in 0..=TTL_JITTER_PERCENT_MAX;

    /// Longest value, up to 512mb
    value_bytes_max "max-value-bytes": Size, "64mb", "SIZE", restart, redis "proto-max-bulk-len", in 1..=VALUE_BYTES_MAX_CEILING as u64;

    ["Durability"]
    /// Where to keep the write-ahead log, which survives a restart; empty for none
    data_dir "data-dir": OptionalPath, "", "DIR", restart, redis "dir";

    /// When writes are durable
    wal_sync "wal-sync": OneOf<WalSync>, "async", "MODE", restart, redis "appendfsync";

    /// Milliseconds after which a write is durable with --wal-sync async
    wal_async_ms "wal-async-ms": Number<u64>, "100", "MILLISECONDS", restart, in 2..=60_000;

    /// What to do about a damaged log
    wal_recover "wal-recover": OneOf<WalRecover>, "strict", "HOW", restart;

    ["Access"]
    /// Secret that every client has to show, for the token called default; better in the environment or a tokens file, because
    /// flags can be seen by everybody on the machine
    token "token": Secret, "", "SECRET", live, redis "requirepass", is secret;

    /// File with tokens: names, digests of secrets, scopes, key patterns and rates; without it the credential called tokens
    /// ($CREDENTIALS_DIRECTORY) is read, if there is one
    tokens_file "tokens-file": OptionalPath, "", "FILE", live, redis "aclfile";

    /// Refuse to listen on addresses of other machines' reach without a token
    protected_mode "protected-mode": YesNo, "yes", "yes|no", restart, redis "protected-mode";

    /// Commands that nobody may use
    disabled_commands "disabled-commands": Commands, "", "COMMAND", live;

    /// Networks (CIDR) that clients may come from; none given is all
    allow "allow": Networks, "", "NETWORK", live;

    /// Networks that clients may not come from, whatever is allowed
    deny "deny": Networks, "", "NETWORK", live;

    /// How long a client may be silent before it is closed; 0 is for ever
    idle_timeout_ms "idle-timeout": Milliseconds, "0ms", "DURATION", live, redis "timeout";

    /// How long a request may take from its first byte to its last, and a second more for each 64 KiB of it; 0 is for ever
    request_timeout_ms "request-timeout": Milliseconds, "1m", "DURATION", live;

    /// Commands that one connection may send: so many per second, and with :N at once; 0 is no limit
    connection_commands_rate "connection-commands-rate": PerSecond, "0", "RATE[:BURST]", live;

    /// Bytes that one connection may move, in both directions
    connection_bytes_rate "connection-bytes-rate": PerSecond, "0", "RATE[:BURST]", live;

    /// Commands that the connections of one address may send together; the /64 of a v6 address counts as one
    address_commands_rate "address-commands-rate": PerSecond, "0", "RATE[:BURST]", live;

    /// Bytes that the connections of one address may move together
    address_bytes_rate "address-bytes-rate": PerSecond, "0", "RATE[:BURST]", live;

    /// Connections that one address may make
    address_connects_rate "address-connects-rate": PerSecond, "0", "RATE[:BURST]", live;

    /// What becomes of commands beyond a rate, also of those of tokens
    rate_action "rate-action": OneOf<RateAction>, "refuse", "ACTION", live;

    /// Connections of one address that have not said who they are, where they have to, or are not through their handshake of
    /// TLS; 0 is no bound
    handshakes_max "max-handshakes-per-address": Number<u32>, "1024", "N", live;

    /// Networks (CIDR) of proxies that say for whom they connect, by the PROXY protocol, version 2
    proxy_protocol_from "proxy-protocol-from": Networks, "", "NETWORK", live;

    ["TLS"]
    /// Where TLS is spoken: on a port of its own, on every TCP port beside plain connections (the first byte tells), or nowhere;
    /// the ports of cores speak both wherever both are spoken at all
    tls_port "tls-port": TlsPortKind, "off", "PORT|shared|off", restart, redis "tls-port";

    /// File with the certificate of the server and those that lead to its authority, PEM
    tls_cert_file "tls-cert-file": OptionalPath, "", "FILE", live, redis "tls-cert-file";

    /// File with the key of the certificate, PEM, not readable for everybody
    tls_key_file "tls-key-file": OptionalPath, "", "FILE", live, redis "tls-key-file";

    /// File with the authorities that certificates of clients have to be from, PEM
    tls_ca_cert_file "tls-ca-cert-file": OptionalPath, "", "FILE", live, redis "tls-ca-cert-file";

    /// Whether clients have to show a certificate; the token that a name in it is called by is theirs without AUTH
    tls_auth_clients "tls-auth-clients": OneOf<TlsAuthClients>, "no", "WHETHER", live, redis "tls-auth-clients";

    /// Versions of TLS
    tls_protocols "tls-protocols": OneOf<TlsProtocols>, "tlsv1.2 tlsv1.3", "VERSIONS", live, redis "tls-protocols";

    ["Admin"]
    /// Port of the admin HTTP (metrics, health, dashboard, keys): off for none, 0 for any free one; the default gives way when
    /// it is in use
    admin_port "admin-port": OptionalPort, "9090", "PORT|off", restart;

    /// Addresses the admin HTTP listens on
    admin_bind "admin-bind": Addresses, "127.0.0.1", "ADDRESS", restart;

    /// Names under which the admin HTTP may be asked for, beside its addresses and localhost
    admin_hosts "admin-hosts": Texts, "", "NAME", live;

    /// What /metrics shows, where there are tokens, to whoever shows none
    metrics_without_token "metrics-without-token": OneOf<MetricsShown>, "counts", "HOW-MUCH", live;

    ["Diagnostics"]
    /// Microseconds from which on a command is slow and SLOWLOG remembers it; 0: every command; below 0: none
    slowlog_slower_than_us "slowlog-log-slower-than": Signed, "10000", "MICROSECONDS", live, redis "slowlog-log-slower-than";

    /// How many of them
    slowlog_len_max "slowlog-max-len": Number<u64>, "128", "N", live, redis "slowlog-max-len", in 0..=SLOWLOG_LEN_MAX;

    /// Milliseconds from which on LATENCY remembers when something took so long; 0: never
    latency_threshold_ms "latency-monitor-threshold": Number<u64>, "0", "MILLISECONDS", live, redis "latency-monitor-threshold";

    /// What namespaces may hold, and for how long: name max-items=N max-bytes=SIZE ttl=TIME max-ttl=TIME, any of them, and
    /// the next name; as NAMESPACE SET says it
    namespaces "namespaces": NamespaceTable, "", "TABLE", live;

    /// Which events about keys are published, in the letters of Redis: K and E say where, g $ x e m n and A what; empty:
    /// none
    keyspace_events "notify-keyspace-events": Events, "", "LETTERS", live, redis "notify-keyspace-events";

    /// Most keys that are remembered for clients with client-side caches; beyond it they are told to forget the oldest; 0: any
    /// number
    tracking_keys_max "tracking-table-max-keys": Number<u64>, "1000000", "N", live, redis "tracking-table-max-keys";

    /// Who may use DEBUG, which is there for test suites
    debug_access "enable-debug-command": OneOf<DebugAccess>, "no", "WHO", restart, redis "enable-debug-command";

    ["Log"]
    /// How much to log
    log_level "log-level": OneOf<LogLevel>, "info", "LEVEL", live, redis "loglevel";

    /// How to log: for people, as JSON lines, or by whether standard error is a terminal
    log_format "log-format": OneOf<LogFormat>, "auto", "FORMAT", restart;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_settings_own() {
        let mut names: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        names.extend(SETTINGS.iter().filter_map(|setting| setting.redis.filter(|redis| *redis != setting.key)));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name stands for two settings");
        for setting in SETTINGS {
            assert!(setting.key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", setting.key);
            assert!(!setting.help[0].trim().is_empty(), "{}", setting.key);
        }
        assert_eq!(Setting::by_name("MaxMemory").unwrap().key, "max-memory");
        assert_eq!(Setting::by_key("max-memory").unwrap().variable(), "CRABCACHE_MAX_MEMORY");
    }

    #[test]
    fn the_default_of_every_setting_is_within_its_bounds() {
        let mut config = Config::defaults();
        for setting in SETTINGS {
            (setting.set)(&mut config, setting.default).unwrap();
            assert_eq!((setting.show)(&config), setting.default, "{}: written as it is shown", setting.key);
        }
        assert_eq!(config, Config::defaults());
    }
}
