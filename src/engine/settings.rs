//! CONFIG GET, SET and REWRITE, under the names Redis gives the settings where it has them. The settings themselves live
//! outside ([`Settings`]); here is how clients see them, and what is true of every server of this kind.

use std::borrow::Cow;
use std::sync::Arc;

use super::memory::MemoryPool;
use crate::auth::Access;
use crate::command::Op;
use crate::glob;
use crate::limits;
use crate::namespace::LimitedNamespaces;
use crate::pubsub::KeyspaceEvents;
use crate::ratelimit::Limits;
use crate::reply::{Reply, ReplyError};
use crate::request::Args;
use crate::store::Eviction;

/// A setting as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Our name.
    pub key: &'static str,
    /// Redis's name and spelling, where it has the setting.
    pub redis: Option<(&'static str, String)>,
    pub value: String,
}

/// Why CONFIG SET changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetError {
    /// There is no such setting.
    Unknown {
        name: String,
    },
    Value {
        name: String,
        why: String,
    },
}

/// The settings of the server, kept by the runtime.
pub trait Settings: Send + Sync {
    fn list(&self) -> Vec<Shown>;
    /// What holds for this server and is no setting, under Redis's names.
    fn facts(&self) -> Vec<(&'static str, String)>;
    /// All of the changes, or none.
    fn set(&self, changes: &[(String, String)]) -> Result<(), SetError>;
    /// Writes what was set into the configuration file.
    fn rewrite(&self) -> Result<(), String>;
    /// Another number than before means that [`Settings::live`] may give something else.
    fn version(&self) -> u64;
    fn live(&self) -> Arc<Live>;
}

/// The settings that engines follow while they run.
#[derive(Clone, Debug)]
pub struct Live {
    pub access: Arc<Access>,
    /// Silent clients are closed after this; 0 is never.
    pub idle_timeout_ms: u64,
    /// Requests that are longer on their way end their connection; 0 is never.
    pub request_timeout_ms: u64,
    pub limits: Limits,
    /// What SLOWLOG remembers: below 0 nothing.
    pub slowlog_slower_than_us: i64,
    pub slowlog_len_max: usize,
    /// What LATENCY remembers: 0 nothing.
    pub latency_threshold_ms: u64,
    /// What is published of keys.
    pub keyspace_events: KeyspaceEvents,
    /// What namespaces may hold.
    pub namespaces: Arc<LimitedNamespaces>,
    /// Keys that are tracked on all cores together, 0 for any number.
    pub tracking_keys_max: usize,
}

impl Default for Live {
    /// All of it off.
    fn default() -> Live {
        Live {
            access: Arc::default(),
            idle_timeout_ms: 0,
            request_timeout_ms: 0,
            limits: Limits::default(),
            slowlog_slower_than_us: -1,
            slowlog_len_max: 0,
            latency_threshold_ms: 0,
            keyspace_events: KeyspaceEvents::default(),
            namespaces: Arc::default(),
            tracking_keys_max: 0,
        }
    }
}

impl Live {
    /// Whether no connection may do everything, whoever it is.
    pub fn restricts_all(&self) -> bool {
        !self.access.disabled.is_empty() || self.limits.concern_commands()
    }
}

/// Settings that nobody can change: for engines without a server around them.
#[derive(Default)]
pub struct Fixed(pub Vec<Shown>, pub Arc<Live>);

impl Settings for Fixed {
    fn list(&self) -> Vec<Shown> {
        self.0.clone()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn set(&self, changes: &[(String, String)]) -> Result<(), SetError> {
        match changes.first() {
            Some((name, _)) => Err(SetError::Unknown { name: name.clone() }),
            None => Ok(()),
        }
    }

    fn rewrite(&self) -> Result<(), String> {
        Err("The server is running without a config file".into())
    }

    fn version(&self) -> u64 {
        0
    }

    fn live(&self) -> Arc<Live> {
        self.1.clone()
    }
}

/// What Redis has a setting for and this server has not: the value that describes it. A setting of the same name wins.
fn constants() -> Vec<(&'static str, String)> {
    vec![
        ("appendfsync", "no".into()),
        ("appendonly", "no".into()),
        // Output of normal clients: hard bound, and no soft bound that would close after some seconds.
        (
            "client-output-buffer-limit",
            format!(
                "normal {} 0 0 pubsub {} {} {}",
                limits::OUTPUT_HARD_BYTES,
                limits::SUBSCRIBER_OUTPUT_HARD_BYTES,
                limits::SUBSCRIBER_OUTPUT_SOFT_BYTES,
                limits::SUBSCRIBER_SOFT_MS_MAX / 1000
            ),
        ),
        ("client-query-buffer-limit", limits::COMMAND_BYTES_MAX.to_string()),
        ("daemonize", "no".into()),
        // SELECT knows 0 alone.
        ("databases", crate::namespace::DATABASES.to_string()),
        ("logfile", String::new()),
        ("save", String::new()),
    ]
}

/// CONFIG GET: every setting that one of the patterns matches, once: under Redis's name, or under ours where Redis has
/// none, or where only ours is asked for.
pub fn config_get(args: Args<'_>, settings: &dyn Settings) -> Reply<'static> {
    let wanted = |name: &str| args.iter().any(|pattern| matches_ignoring_case(pattern, name));
    let mut entries: Vec<(&'static str, String)> = Vec::new();
    let mut known: Vec<&'static str> = Vec::new();
    for Shown { key, redis, value } in settings.list() {
        known.extend(redis.as_ref().map(|(name, _)| *name));
        match redis {
            Some((name, value)) if wanted(name) => entries.push((name, value)),
            _ if wanted(key) => entries.push((key, value)),
            _ => {}
        }
    }
    for (name, value) in settings.facts().into_iter().chain(constants()) {
        if wanted(name) && !known.contains(&name) {
            known.push(name);
            entries.push((name, value));
        }
    }
    entries.sort();
    Reply::Map(entries.into_iter().map(|(name, value)| (Reply::text(name), Reply::text(value))).collect())
}

/// CONFIG SET: all of the changes, or none.
pub fn config_set(args: Args<'_>, settings: &dyn Settings) -> Reply<'static> {
    if !args.len().is_multiple_of(2) {
        return Reply::Error(ReplyError::WrongArity { command: "config|set".into() });
    }
    let text = |arg: &[u8]| String::from_utf8_lossy(arg).into_owned();
    let mut changes: Vec<(String, String)> = Vec::new();
    for at in (0..args.len()).step_by(2) {
        let name = text(args.get(at)).to_ascii_lowercase();
        if changes.iter().any(|(other, _)| *other == name) {
            return failed(&name, "duplicate parameter");
        }
        changes.push((name, text(args.get(at + 1))));
    }
    // Test suites and tools set what they rely on (`save ""`, `appendonly no`), also where it cannot be otherwise.
    let known = settings.list();
    let is_setting = |name: &str| {
        known.iter().any(|shown| shown.key == name || shown.redis.as_ref().is_some_and(|(redis, _)| *redis == name))
    };
    let fixed: Vec<(&'static str, String)> = settings.facts().into_iter().chain(constants()).collect();
    let fixed_value =
        |name: &str| fixed.iter().find(|(fixed, _)| *fixed == name && !is_setting(name)).map(|(_, value)| value);
    if let Some((name, _)) = changes.iter().find(|(name, value)| fixed_value(name).is_some_and(|fixed| fixed != value))
    {
        return failed(name, "can't set immutable config");
    }
    changes.retain(|(name, _)| fixed_value(name).is_none());
    match settings.set(&changes) {
        Ok(()) => Reply::Ok,
        Err(SetError::Unknown { name }) => {
            let name = super::clients::printable(name.as_bytes());
            Reply::error(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"))
        }
        Err(SetError::Value { name, why }) => failed(&name, &why),
    }
}

fn failed(name: &str, why: &str) -> Reply<'static> {
    let (name, why) = (super::clients::printable(name.as_bytes()), why.replace(['\r', '\n'], " "));
    Reply::error(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
}

/// CONFIG REWRITE.
pub fn config_rewrite(settings: &dyn Settings) -> Reply<'static> {
    match settings.rewrite() {
        Ok(()) => Reply::Ok,
        Err(why) => Reply::error(Cow::Owned(format!("ERR {}", why.replace(['\r', '\n'], " ")))),
    }
}

impl Op {
    /// Whether what comes behind the command is carried out under other settings.
    pub(super) fn changes_settings(self) -> bool {
        matches!(self, Op::ConfigSet | Op::NamespaceDel | Op::NamespaceSet)
    }
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

/// Whether the glob `pattern` matches `name`, which is in lower case.
pub(super) fn matches_ignoring_case(pattern: &[u8], name: &str) -> bool {
    glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::request::joined;

    /// Settings that note what they are set to.
    #[derive(Default)]
    struct Noted(Mutex<Vec<(String, String)>>);

    impl Settings for Noted {
        fn list(&self) -> Vec<Shown> {
            let shown = |key, redis: Option<(&'static str, &str)>, value: &str| Shown {
                key,
                redis: redis.map(|(name, value)| (name, value.to_string())),
                value: value.to_string(),
            };
            vec![
                shown("max-memory", Some(("maxmemory", "104857600")), "100mb"),
                shown("eviction", Some(("maxmemory-policy", "allkeys-lfu")), "tinylfu"),
                shown("spin-us", None, "0"),
                shown("port", Some(("port", "7001")), "7001"),
                shown("wal-sync", Some(("appendfsync", "everysec")), "async"),
            ]
        }

        fn facts(&self) -> Vec<(&'static str, String)> {
            vec![("tcp-backlog", "511".into())]
        }

        fn set(&self, changes: &[(String, String)]) -> Result<(), SetError> {
            for (name, value) in changes {
                match name.as_str() {
                    "max-memory" | "maxmemory" if value == "much" => {
                        return Err(SetError::Value { name: name.clone(), why: "not a\r\nsize".into() });
                    }
                    "max-memory" | "maxmemory" | "spin-us" => {}
                    _ => return Err(SetError::Unknown { name: name.clone() }),
                }
            }
            self.0.lock().unwrap().extend_from_slice(changes);
            Ok(())
        }

        fn rewrite(&self) -> Result<(), String> {
            Err("no\nfile".into())
        }

        fn version(&self) -> u64 {
            0
        }

        fn live(&self) -> Arc<Live> {
            Arc::default()
        }
    }

    fn with_args<R>(words: &[&str], run: impl FnOnce(Args<'_>) -> R) -> R {
        let (bytes, ranges) = joined(words);
        run(Args::new(&bytes, &ranges, &[]))
    }

    fn get(patterns: &[&str]) -> Vec<(String, String)> {
        let Reply::Map(pairs) = with_args(patterns, |args| config_get(args, &Noted::default())) else {
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
            [pair("maxmemory", "104857600"), pair("maxmemory-policy", "allkeys-lfu"), pair("port", "7001")]
        );
        assert_eq!(get(&["nosuch", ""]), []);
        let all = get(&["*"]);
        assert!(all.is_sorted_by(|a, b| a.0 < b.0), "each name once, in order: {all:?}");
        assert!(all.iter().all(|(name, _)| *name == name.to_lowercase()));
        assert!(all.contains(&pair("tcp-backlog", "511")) && all.contains(&pair("databases", "16")));
    }

    #[test]
    fn our_names_and_spellings_are_answered_where_redis_has_none_or_is_not_asked() {
        assert_eq!(get(&["spin-us"]), [pair("spin-us", "0")]);
        assert_eq!(get(&["max-memory", "eviction"]), [pair("eviction", "tinylfu"), pair("max-memory", "100mb")]);
        assert_eq!(get(&["appendfsync"]), [pair("appendfsync", "everysec")], "a setting wins over a constant");
    }

    fn set(settings: &Noted, words: &[&str]) -> String {
        match with_args(words, |args| config_set(args, settings)) {
            Reply::Ok => "OK".into(),
            Reply::Error(error) => error.text().into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn changes_are_handed_over_together_and_refusals_are_one_line() {
        let settings = Noted::default();
        assert_eq!(set(&settings, &["MaxMemory", "1gb", "spin-us", "5"]), "OK");
        assert_eq!(*settings.0.lock().unwrap(), [pair("maxmemory", "1gb"), pair("spin-us", "5")]);
        assert_eq!(set(&settings, &["maxmemory"]), "ERR wrong number of arguments for 'config|set' command");
        assert_eq!(
            set(&settings, &["spin-us", "1", "maxmemory", "much"]),
            "ERR CONFIG SET failed (possibly related to argument 'maxmemory') - not a  size"
        );
        assert_eq!(
            set(&settings, &["a\r\nb", "1"]),
            "ERR Unknown option or number of arguments for CONFIG SET - 'a  b'"
        );
        assert_eq!(
            set(&settings, &["spin-us", "1", "SPIN-US", "2"]),
            "ERR CONFIG SET failed (possibly related to argument 'spin-us') - duplicate parameter"
        );
        assert_eq!(settings.0.lock().unwrap().len(), 2);
        // What is so anyway may be set to what it is, and to nothing else.
        assert_eq!(set(&settings, &["save", "", "daemonize", "no"]), "OK");
        assert_eq!(
            set(&settings, &["spin-us", "1", "save", "60 1"]),
            "ERR CONFIG SET failed (possibly related to argument 'save') - can't set immutable config"
        );
        assert_eq!(settings.0.lock().unwrap().len(), 2);
        let Reply::Error(error) = config_rewrite(&settings) else { panic!("no file") };
        assert_eq!(error.text(), "ERR no file");
    }
}
