//! CONFIG GET and CONFIG SET: the settings that redis-cli, redis-benchmark and client libraries ask for, under the names
//! Redis gives them. Only what is true here is answered; what this server has no notion of is absent.

use std::borrow::Cow;

use super::memory::MemoryPool;
use crate::glob;
use crate::limits;
use crate::number::parse_size;
use crate::reply::{Reply, ReplyError};
use crate::request::Args;
use crate::store::Eviction;

/// The settings in effect, gathered by the runtime at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsView {
    /// The shared port.
    pub port: u16,
    /// Addresses it listens on.
    pub bind: Vec<String>,
    /// Path of the Unix socket, empty when there is none.
    pub unix_socket: String,
    pub cores: u32,
    pub clients_max: u64,
    pub value_bytes_max: u64,
    /// Pending connections the kernel keeps per listener.
    pub listen_backlog: u32,
    /// Seconds between TCP keepalive probes; 0 when they are off.
    pub tcp_keepalive_seconds: u32,
    pub cluster_enabled: bool,
    /// The address that cluster clients are told, empty for the one they came to.
    pub advertised_host: String,
    /// In the words of `--log-level`.
    pub log_level: String,
}

impl SettingsView {
    fn entries(&self, memory: &MemoryPool) -> Vec<(&'static str, Cow<'_, str>)> {
        let number = |number: u64| Cow::Owned(number.to_string());
        let yes_no = |yes: bool| Cow::Borrowed(if yes { "yes" } else { "no" });
        vec![
            // Nothing is written to disk.
            ("appendfsync", "no".into()),
            ("appendonly", "no".into()),
            ("bind", self.bind.join(" ").into()),
            // Output of normal clients: hard bound, and no soft bound that would close after some seconds.
            ("client-output-buffer-limit", format!("normal {} 0 0", limits::OUTPUT_HARD_BYTES).into()),
            ("client-query-buffer-limit", number(limits::COMMAND_BYTES_MAX as u64)),
            ("cluster-announce-ip", self.advertised_host.as_str().into()),
            ("cluster-enabled", yes_no(self.cluster_enabled)),
            ("daemonize", "no".into()),
            // SELECT knows 0 alone.
            ("databases", "1".into()),
            ("io-threads", number(self.cores.into())),
            ("logfile", "".into()),
            ("loglevel", redis_log_level(&self.log_level).into()),
            ("maxclients", number(self.clients_max)),
            ("maxmemory", number(bytes_shown(memory))),
            ("maxmemory-policy", policy_name(memory.eviction()).into()),
            ("notify-keyspace-events", "".into()),
            ("port", number(self.port.into())),
            ("proto-max-bulk-len", number(self.value_bytes_max)),
            ("requirepass", "".into()),
            ("save", "".into()),
            ("tcp-backlog", number(self.listen_backlog.into())),
            ("tcp-keepalive", number(self.tcp_keepalive_seconds.into())),
            // Idle clients are never closed.
            ("timeout", "0".into()),
            ("unixsocket", self.unix_socket.as_str().into()),
        ]
    }
}

/// Redis has four levels; ours above `debug` have their counterparts there.
fn redis_log_level(level: &str) -> &str {
    match level {
        "trace" | "debug" => "debug",
        "info" => "notice",
        "warn" | "error" => "warning",
        other => other,
    }
}

/// CONFIG GET: every setting that one of the patterns matches, once.
pub fn config_get(args: Args<'_>, settings: &SettingsView, memory: &MemoryPool) -> Reply<'static> {
    let wanted = |name: &str| args.iter().any(|pattern| matches_ignoring_case(pattern, name));
    let entries = settings.entries(memory).into_iter().filter(|(name, _)| wanted(name));
    Reply::Map(entries.map(|(name, value)| (Reply::text(name), Reply::text(value.into_owned()))).collect())
}

/// The ceiling as Redis shows it: 0 for none.
pub fn bytes_shown(memory: &MemoryPool) -> u64 {
    match memory.bytes_max() {
        u64::MAX => 0,
        bytes => bytes,
    }
}

/// What Redis calls it.
pub fn policy_name(eviction: Eviction) -> &'static str {
    match eviction {
        Eviction::TinyLfu => "allkeys-lfu",
        Eviction::Lru => "allkeys-lru",
        Eviction::None => "noeviction",
    }
}

/// Our own names, and those of Redis that mean nearly the same.
fn parse_policy(text: &[u8]) -> Option<Eviction> {
    match text.to_ascii_lowercase().as_slice() {
        b"tinylfu" | b"allkeys-lfu" => Some(Eviction::TinyLfu),
        b"lru" | b"allkeys-lru" => Some(Eviction::Lru),
        b"none" | b"noeviction" => Some(Eviction::None),
        _ => None,
    }
}

/// A setting that can be changed while the server runs.
enum Change {
    MemoryBytesMax(u64),
    Eviction(Eviction),
}

/// CONFIG SET: all of the changes, or none.
pub fn config_set(args: Args<'_>, memory: &MemoryPool, cores: usize) -> Reply<'static> {
    if !args.len().is_multiple_of(2) {
        return Reply::Error(ReplyError::WrongArity { command: "config|set".into() });
    }
    let failed = |name: &str, why: &str| {
        Reply::error(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
    };
    let mut changes = Vec::new();
    for at in (0..args.len()).step_by(2) {
        let name = String::from_utf8_lossy(args.get(at)).to_ascii_lowercase();
        let value = args.get(at + 1);
        match name.as_str() {
            "maxmemory" | "max-memory" => {
                let bytes = std::str::from_utf8(value).ok().and_then(|text| parse_size(text).ok());
                let least = limits::MEMORY_BYTES_PER_CORE_MIN * cores as u64;
                match bytes {
                    Some(0) => changes.push(Change::MemoryBytesMax(u64::MAX)),
                    Some(bytes) if (least..1 << 62).contains(&bytes) => changes.push(Change::MemoryBytesMax(bytes)),
                    Some(_) => return failed(&name, &format!("argument must be 0 or at least {least}")),
                    None => return failed(&name, "argument must be a memory value"),
                }
            }
            "maxmemory-policy" | "eviction" => match parse_policy(value) {
                Some(eviction) => changes.push(Change::Eviction(eviction)),
                None => {
                    return failed(
                        &name,
                        "argument must be one of: tinylfu (allkeys-lfu), lru (allkeys-lru), none (noeviction)",
                    );
                }
            },
            _ => {
                return Reply::error(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"));
            }
        }
    }
    for change in changes {
        match change {
            Change::MemoryBytesMax(bytes) => memory.set_bytes_max(bytes),
            Change::Eviction(eviction) => memory.set_eviction(eviction),
        }
    }
    Reply::Ok
}

/// Whether the glob `pattern` matches `name`, which is in lower case.
pub(super) fn matches_ignoring_case(pattern: &[u8], name: &str) -> bool {
    glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::ArgRange;

    fn view() -> SettingsView {
        SettingsView {
            port: 7001,
            bind: vec!["127.0.0.1".into(), "::1".into()],
            cores: 2,
            clients_max: 10_000,
            value_bytes_max: 64 << 20,
            listen_backlog: 1024,
            tcp_keepalive_seconds: 300,
            cluster_enabled: true,
            log_level: "info".into(),
            ..SettingsView::default()
        }
    }

    fn get(patterns: &[&str]) -> Vec<(String, String)> {
        let bytes = patterns.concat();
        let mut at = 0;
        let ranges: Vec<ArgRange> = patterns
            .iter()
            .map(|pattern| {
                at += pattern.len();
                ArgRange::inline(at - pattern.len(), pattern.len())
            })
            .collect();
        let Reply::Map(pairs) =
            config_get(Args::new(bytes.as_bytes(), &ranges, &[]), &view(), &MemoryPool::unbounded(2))
        else {
            panic!("CONFIG GET answers a map");
        };
        let text = |reply| match reply {
            Reply::Text(text) => text.into_owned(),
            other => panic!("not text: {other:?}"),
        };
        pairs.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn what_redis_benchmark_asks_for() {
        assert_eq!(get(&["save"]), [pair("save", "")]);
        assert_eq!(get(&["appendonly"]), [pair("appendonly", "no")]);
    }

    #[test]
    fn several_patterns_in_any_case_answer_each_setting_once() {
        assert_eq!(
            get(&["MAXMEMORY*", "maxmemory", "po?t"]),
            [pair("maxmemory", "0"), pair("maxmemory-policy", "allkeys-lfu"), pair("port", "7001")]
        );
        assert_eq!(get(&["b[hi]nd"]), [pair("bind", "127.0.0.1 ::1")]);
        assert_eq!(get(&["nosuch", ""]), []);
        let all = get(&["*"]);
        assert_eq!(all.len(), view().entries(&MemoryPool::unbounded(2)).len());
        assert!(all.is_sorted_by(|a, b| a.0 < b.0), "each name once, in order");
        assert!(all.iter().all(|(name, _)| *name == name.to_lowercase()));
    }

    #[test]
    fn values_are_those_in_effect() {
        for (name, value) in [
            ("cluster-enabled", "yes"),
            ("client-output-buffer-limit", "normal 268435456 0 0"),
            ("io-threads", "2"),
            ("loglevel", "notice"),
            ("maxclients", "10000"),
            ("proto-max-bulk-len", "67108864"),
            ("tcp-keepalive", "300"),
            ("unixsocket", ""),
        ] {
            assert_eq!(get(&[name]), [pair(name, value)]);
        }
    }

    #[test]
    fn log_levels_have_redis_names() {
        let names = ["trace", "debug", "info", "warn", "error"].map(redis_log_level);
        assert_eq!(names, ["debug", "debug", "notice", "warning", "warning"]);
    }

    fn set(memory: &MemoryPool, words: &[&str]) -> Reply<'static> {
        let bytes = words.concat();
        let mut at = 0;
        let place = |word: &&str| {
            at += word.len();
            ArgRange::inline(at - word.len(), word.len())
        };
        let ranges: Vec<ArgRange> = words.iter().map(place).collect();
        config_set(Args::new(bytes.as_bytes(), &ranges, &[]), memory, 2)
    }

    #[test]
    fn memory_can_be_set_all_or_nothing() {
        let memory = MemoryPool::unbounded(2);
        assert_eq!(set(&memory, &["maxmemory", "100mb", "MAXMEMORY-POLICY", "AllKeys-LRU"]), Reply::Ok);
        assert_eq!((memory.bytes_max(), memory.eviction()), (100 << 20, Eviction::Lru));
        for wrong in [
            &["maxmemory", "200mb", "eviction", "sometimes"][..],
            &["maxmemory", "200mb", "port", "1"],
            &["maxmemory", "1"],
            &["maxmemory", "much"],
            &["maxmemory"],
        ] {
            assert!(matches!(set(&memory, wrong), Reply::Error(_)), "{wrong:?}");
            assert_eq!((memory.bytes_max(), memory.eviction()), (100 << 20, Eviction::Lru));
        }
        assert_eq!(set(&memory, &["eviction", "none", "max-memory", "0"]), Reply::Ok);
        assert_eq!((memory.bytes_max(), bytes_shown(&memory), memory.eviction()), (u64::MAX, 0, Eviction::None));
    }
}
