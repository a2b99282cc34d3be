//! The configuration of the running server: shown, changed, written back and read again. What a change does to the rest of
//! the server is its follower's business.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustls::ServerConfig;

use super::RateAction;
use super::file;
use super::origin::{ConfigError, Origin};
use super::sources::Sources;
use super::table::{Config, Effect, REDACTED, SETTINGS, Setting};
use crate::allowlist::Allowlist;
use crate::auth::Access;
use crate::engine::settings::{Live, SetError, Settings, Shown};
use crate::ratelimit::Limits;

/// Who acts on settings while the server runs.
pub trait Follower: Send + Sync {
    /// Whether the machine can do what `new` asks for.
    fn check(&self, new: &Config) -> Result<(), ConfigError>;
    /// Does it. Only live settings differ.
    fn apply(&self, old: &Config, new: &Config);
    /// What a setting came to, where that is not what was asked for.
    fn in_effect(&self, setting: &Setting, config: &Config) -> Option<String>;
    /// What holds for the server and is no setting, under Redis's names.
    fn facts(&self) -> Vec<(&'static str, String)>;
}

pub struct Store {
    sources: Sources,
    current: Mutex<Arc<Config>>,
    live: Mutex<Arc<Live>>,
    allowlist: Mutex<Arc<Allowlist>>,
    tls: Mutex<Option<Arc<ServerConfig>>>,
    /// Goes up with every change; cores look at it at their ticks.
    version: AtomicU64,
    follower: OnceLock<Box<dyn Follower>>,
}

/// What follows a configuration that is as it should be.
struct Checked {
    live: Live,
    tls: Option<Arc<ServerConfig>>,
}

/// What reading the configuration again came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    pub changed: Vec<Change>,
    /// Different now, but followed only at the next start.
    pub at_restart: Vec<Change>,
    /// Tokens that are new, different or gone, by name.
    pub tokens: Vec<(String, &'static str)>,
    /// Certificate and key have been read again.
    pub certificates: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    pub key: &'static str,
    pub old: String,
    pub new: String,
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} from {:?} to {:?}", self.key, self.old, self.new)
    }
}

impl Store {
    /// Fails if tokens or certificates cannot be read, although they could when `config` was checked: nothing is served
    /// without them.
    pub fn new(config: Config, sources: Sources) -> Result<Store, ConfigError> {
        Ok(Store {
            sources,
            live: Mutex::new(Arc::new(live_of(&config)?)),
            allowlist: Mutex::new(Arc::new(config.allowlist())),
            tls: Mutex::new(config.tls()?),
            current: Mutex::new(Arc::new(config)),
            version: AtomicU64::new(0),
            follower: OnceLock::new(),
        })
    }

    /// From now on `follower` is told of changes. The first one stays.
    pub fn set_follower(&self, follower: Box<dyn Follower>) {
        let _ = self.follower.set(follower);
    }

    pub fn current(&self) -> Arc<Config> {
        self.lock().clone()
    }

    /// Another number than before means that something may have changed.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Who may come in.
    pub fn access(&self) -> Arc<Access> {
        self.live().access.clone()
    }

    /// Where clients may come from.
    pub fn allowlist(&self) -> Arc<Allowlist> {
        self.allowlist.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What TLS connections are served with.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn file(&self) -> Option<&Path> {
        self.sources.file.as_deref()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Config>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the engines will follow, if all is well with `new`.
    fn check(&self, new: &Config) -> Result<Checked, ConfigError> {
        new.check()?;
        self.follower.get().map_or(Ok(()), |follower| follower.check(new))?;
        let checked = Checked { live: live_of(new)?, tls: new.tls()? };
        new.protect(&checked.live.access).map_err(|why| new.error("token", why))?;
        Ok(checked)
    }

    fn replace(&self, current: &mut Arc<Config>, new: Config, Checked { live, tls }: Checked) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = tls;
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
        *self.allowlist.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(new.allowlist());
        let old = std::mem::replace(current, Arc::new(new));
        if let Some(follower) = self.follower.get() {
            follower.apply(&old, current);
        }
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Reads the sources again. Live settings follow them, also those that CONFIG SET had changed. When anything is wrong
    /// nothing changes.
    pub fn reload(&self) -> Result<Reloaded, ConfigError> {
        let loaded = self.sources.load()?;
        let mut current = self.lock();
        let mut new = Config::clone(&current);
        let mut reloaded = Reloaded::default();
        for setting in SETTINGS {
            let (old_text, text) = ((setting.show)(&current), (setting.show)(&loaded));
            if setting.effect == Effect::Live {
                let origin = loaded.origins.of(setting);
                (setting.set)(&mut new, &text).map_err(|why: String| ConfigError::value(setting, origin, &why))?;
                new.origins.set(setting, loaded.origins.of(setting).clone());
            }
            if old_text != text {
                let change = Change { key: setting.key, old: setting.shown(&current), new: setting.shown(&loaded) };
                match setting.effect {
                    Effect::Live => reloaded.changed.push(change),
                    Effect::Restart => reloaded.at_restart.push(change),
                }
            }
        }
        let checked = self.check(&new)?;
        reloaded.tokens = differences(&self.access(), &checked.live.access);
        reloaded.certificates = checked.tls.is_some();
        self.replace(&mut current, new, checked);
        Ok(reloaded)
    }

    /// The text of the file with what was set while running.
    fn write_back(&self, current: &mut Arc<Config>) -> Result<(), String> {
        let Some(path) = self.file() else { return Err("The server is running without a config file".into()) };
        let failed = |error: &dyn fmt::Display| format!("Rewriting config file: {error}");
        let (shared_path, text) = self.sources.read_file().map_err(|error| failed(&error))?.expect("there is a file");
        let is_set = |setting: &&Setting| *current.origins.of(setting) == Origin::Live;
        let changes: Vec<(&'static Setting, String)> =
            SETTINGS.iter().filter(is_set).map(|setting| (setting, (setting.show)(current))).collect();
        let new_text = file::rewritten(&shared_path, &text, &changes).map_err(|error| failed(&error))?;
        let puts_secret = changes.iter().any(|(setting, value)| setting.is_secret && !value.is_empty());
        if puts_secret && file::is_open_to_all(path).map_err(|error| failed(&error))? {
            return Err(failed(&"everybody may read it, and a secret would stand in it: chmod o= it"));
        }
        if new_text != text {
            replace_file(path, &new_text).map_err(|error| failed(&error))?;
        }
        let mut config = Config::clone(current);
        for entry in file::parse(&shared_path, &new_text).map_err(|error| failed(&error))? {
            if *config.origins.of(entry.given.setting) == Origin::Live {
                config.origins.set(entry.given.setting, entry.given.origin);
            }
        }
        *current = Arc::new(config);
        Ok(())
    }
}

/// What has become of tokens, by name.
fn differences(old: &Access, new: &Access) -> Vec<(String, &'static str)> {
    let gone = old.tokens().iter().filter(|token| new.by_name(token.name.as_bytes()).is_none());
    let of_new = new.tokens().iter().filter_map(|token| match old.by_name(token.name.as_bytes()) {
        None => Some((token.name.clone(), "is new")),
        Some(before) if before != token => Some((token.name.clone(), "is different")),
        Some(_) => None,
    });
    of_new.chain(gone.map(|token| (token.name.clone(), "is gone"))).collect()
}

/// What engines follow.
fn live_of(config: &Config) -> Result<Live, ConfigError> {
    let limits = Limits {
        connection_commands: config.connection_commands_rate,
        connection_bytes: config.connection_bytes_rate,
        address_commands: config.address_commands_rate,
        address_bytes: config.address_bytes_rate,
        address_connects: config.address_connects_rate,
        delays: config.rate_action == RateAction::Delay,
        newcomers_max: config.handshakes_max,
    };
    Ok(Live {
        limits,
        access: Arc::new(config.access()?),
        idle_timeout_ms: config.idle_timeout_ms,
        request_timeout_ms: config.request_timeout_ms,
        slowlog_slower_than_us: config.slowlog_slower_than_us,
        slowlog_len_max: config.slowlog_len_max as usize,
        latency_threshold_ms: config.latency_threshold_ms,
        keyspace_events: config.keyspace_events,
        namespaces: config.namespaces.clone(),
        tracking_keys_max: config.tracking_keys_max as usize,
    })
}

/// The file has either its old text or all of the new one, whatever happens.
fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    // Through links, so that what they lead to is replaced and not the link.
    let path = std::fs::canonicalize(path)?;
    let mode = std::fs::metadata(&path)?.permissions().mode() & 0o7777;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".new-{}", std::process::id()));
    let new_path = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::File::options().write(true).create_new(true).mode(mode).open(&new_path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new_path, &path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&new_path);
    })
}

impl Settings for Store {
    fn list(&self) -> Vec<Shown> {
        let config = self.current();
        let shown = |setting: &Setting| {
            let in_effect = self.follower.get().and_then(|follower| follower.in_effect(setting, &config));
            let redacted = setting.shown(&config) == REDACTED && setting.is_secret;
            let value = |own: String| match &in_effect {
                _ if redacted => REDACTED.to_string(),
                Some(value) => value.clone(),
                None => own,
            };
            let redis = setting.redis.map(|name| (name, value((setting.show_redis)(&config))));
            Shown { key: setting.key, redis, value: value((setting.show)(&config)) }
        };
        SETTINGS.iter().map(shown).collect()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = self.follower.get().map(|follower| follower.facts()).unwrap_or_default();
        let logs = self.current().data_dir.is_some();
        facts.push(("appendonly", if logs { "yes" } else { "no" }.into()));
        facts
    }

    fn set(&self, changes: &[(String, String)]) -> Result<(), SetError> {
        let mut current = self.lock();
        let mut new = Config::clone(&current);
        for (name, text) in changes {
            let value = |why: String| SetError::Value { name: name.clone(), why };
            let setting = Setting::by_name(name).ok_or_else(|| SetError::Unknown { name: name.clone() })?;
            (setting.set)(&mut new, text).map_err(value)?;
            if setting.effect == Effect::Live {
                new.origins.set(setting, Origin::Live);
            } else if (setting.show)(&new) != (setting.show)(&current) {
                return Err(value("it takes a restart: change it in the configuration file".into()));
            }
        }
        let checked = self.check(&new).map_err(|error| {
            let name = changes
                .iter()
                .find(|(name, _)| error.key.is_some() && Setting::by_name(name).map(|setting| setting.key) == error.key)
                .or(changes.first());
            SetError::Value { name: name.map(|(name, _)| name.clone()).unwrap_or_default(), why: error.text }
        })?;
        self.replace(&mut current, new, checked);
        Ok(())
    }

    fn version(&self) -> u64 {
        Store::version(self)
    }

    fn live(&self) -> Arc<Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn rewrite(&self) -> Result<(), String> {
        self.write_back(&mut self.lock())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{EvictionPolicy, LogLevel, MemorySize, TlsPort};

    /// A configuration file that goes with the test.
    struct TestFile(PathBuf);

    impl TestFile {
        fn new(name: &str, text: &str) -> TestFile {
            let path = std::env::temp_dir().join(format!("crabcache-store-{}-{name}.toml", std::process::id()));
            std::fs::write(&path, text).unwrap();
            TestFile(path)
        }

        fn write(&self, text: &str) {
            std::fs::write(&self.0, text).unwrap();
        }

        fn text(&self) -> String {
            std::fs::read_to_string(&self.0).unwrap()
        }

        fn store(&self) -> Store {
            let sources = Sources { file: Some(self.0.clone()), ..Sources::default() };
            Store::new(sources.load().unwrap(), sources).unwrap()
        }
    }

    impl Drop for TestFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn refusal(store: &Store, changes: &[(&str, &str)]) -> (String, String) {
        match store.set(&pairs(changes)) {
            Err(SetError::Value { name, why }) => (name, why),
            Err(SetError::Unknown { name }) => (name, "unknown".into()),
            Ok(()) => panic!("{changes:?} must be refused"),
        }
    }

    /// Notes what it was told, and thinks little of one gigabyte.
    struct Noting(Arc<Mutex<Vec<(LogLevel, LogLevel)>>>);

    impl Follower for Noting {
        fn check(&self, new: &Config) -> Result<(), ConfigError> {
            match new.memory_max {
                MemorySize::Bytes(bytes) if bytes >= 1 << 30 => Err(new.error("max-memory", "too much".into())),
                _ => Ok(()),
            }
        }

        fn apply(&self, old: &Config, new: &Config) {
            self.0.lock().unwrap().push((old.log_level, new.log_level));
        }

        fn in_effect(&self, setting: &Setting, _: &Config) -> Option<String> {
            (setting.key == "port").then(|| "4711".into())
        }

        fn facts(&self) -> Vec<(&'static str, String)> {
            vec![("tcp-backlog", "511".into())]
        }
    }

    /// A file that could be read a moment ago may be gone.
    #[test]
    fn nothing_is_served_without_the_tokens_or_certificates_that_are_named() {
        let gone = TestFile::new("gone", "").0.with_extension("not-there");
        let config = Config { tokens_file: Some(gone.clone()), ..Config::default() };
        assert!(Store::new(config, Sources::default()).is_err());
        let (tls_cert_file, tls_key_file) = (Some(gone.clone()), Some(gone));
        let config = Config { tls_port: TlsPort::Own(1), tls_cert_file, tls_key_file, ..Config::default() };
        assert!(Store::new(config, Sources::default()).is_err());
    }

    #[test]
    fn live_settings_change_all_or_nothing() {
        let store = Store::new(Config::default(), Sources::default()).unwrap();
        let noted = Arc::new(Mutex::new(Vec::new()));
        store.set_follower(Box::new(Noting(noted.clone())));
        let version = store.version();
        store.set(&pairs(&[("maxmemory", "100mb"), ("eviction", "allkeys-lru"), ("loglevel", "warning")])).unwrap();
        let config = store.current();
        assert_eq!((config.memory_max, config.eviction), (MemorySize::Bytes(100 << 20), EvictionPolicy::Lru));
        assert_eq!(*noted.lock().unwrap(), [(LogLevel::Info, LogLevel::Warn)]);
        assert_ne!(store.version(), version);
        for (changes, name, why) in [
            (&[("eviction", "none"), ("maxmemory", "much")][..], "maxmemory", "not a size"),
            (&[("eviction", "none"), ("nosuch", "1")], "nosuch", "unknown"),
            (&[("eviction", "none"), ("port", "1")], "port", "it takes a restart"),
            (&[("eviction", "none"), ("max-memory", "1mb")], "max-memory", "at least"),
            (&[("eviction", "none"), ("maxmemory", "1gb")], "maxmemory", "too much"),
        ] {
            let (named, said) = refusal(&store, changes);
            assert!(named == name && said.contains(why), "{changes:?}: {named}: {said}");
            assert_eq!(*store.current(), *config);
        }
        // What it is already is no change.
        store.set(&pairs(&[("port", "7001")])).unwrap();
        assert_eq!(noted.lock().unwrap().len(), 2);
    }

    #[test]
    fn settings_are_listed_as_they_are_in_effect() {
        let store = Store::new(Config::default(), Sources::default()).unwrap();
        store.set_follower(Box::new(Noting(Arc::default())));
        let list = store.list();
        let shown = |key: &str| list.iter().find(|shown| shown.key == key).unwrap();
        assert_eq!(shown("port").redis, Some(("port", "4711".into())));
        assert_eq!(shown("log-level").redis, Some(("loglevel", "notice".into())));
        assert_eq!((shown("log-level").value.as_str(), shown("spin-us").redis.clone()), ("info", None));
        assert_eq!(list.len(), SETTINGS.len());
    }

    #[test]
    fn reading_again_follows_live_settings_and_names_the_others() {
        let file = TestFile::new("reload", "port = 7001\nlog-level = \"info\"\n");
        let store = file.store();
        store.set(&pairs(&[("eviction", "lru")])).unwrap();
        file.write("port = 7002\nlog-level = \"debug\"\n");
        let reloaded = store.reload().unwrap();
        let texts = |changes: &[Change]| changes.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(&reloaded.changed),
            ["eviction from \"lru\" to \"tinylfu\"", "log-level from \"info\" to \"debug\""]
        );
        assert_eq!(texts(&reloaded.at_restart), ["port from \"7001\" to \"7002\""]);
        let config = store.current();
        assert_eq!((config.port, config.log_level), (7001, LogLevel::Debug));
        for wrong in ["log-level = \"warn\"\nport = x", "log-level = \"warn\"\nmax-memory = \"1mb\""] {
            file.write(wrong);
            assert!(store.reload().is_err(), "{wrong}");
            assert_eq!(*store.current(), *config, "a broken file changes nothing");
        }
        file.write("port = 7001\nlog-level = \"debug\"\n");
        assert_eq!(store.reload(), Ok(Reloaded::default()));
    }

    fn permit(file: &TestFile, mode: u32) {
        std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A server that others can reach was open to everybody from the moment on when its last token was taken away.
    #[test]
    fn the_last_token_of_a_server_that_others_reach_stays() {
        let file = TestFile::new("protected", "bind = \"0.0.0.0\"\ntoken = \"first secret\"\n");
        permit(&file, 0o600);
        let store = file.store();
        let (name, why) = refusal(&store, &[("requirepass", "")]);
        assert!(name == "requirepass" && why.contains("other machines could reach 0.0.0.0"), "{name}: {why}");
        file.write("bind = \"0.0.0.0\"\n");
        assert!(store.reload().unwrap_err().to_string().contains("other machines could reach 0.0.0.0"));
        assert!(store.access().is_required());
        let tokens = TestFile::new("protected-tokens", "[[token]]\nname = \"a\"\nsecret = \"some secret\"\n");
        permit(&tokens, 0o600);
        file.write(&format!("bind = \"0.0.0.0\"\ntokens-file = {:?}\n", tokens.0.display().to_string()));
        let tokens_now = store.reload().unwrap().tokens;
        assert_eq!(tokens_now, [("a".to_string(), "is new"), ("default".to_string(), "is gone")]);
        // Half written.
        tokens.write("");
        assert!(store.reload().unwrap_err().to_string().contains("there is no token in"));
        tokens.write("[[token]]\nname = \"a\"\nsecret = \"another secret\"\n");
        assert_eq!(store.reload().unwrap().tokens, [("a".to_string(), "is different")]);
        assert_eq!(store.reload().unwrap(), Reloaded::default());
    }

    #[test]
    fn secrets_stand_in_no_file_that_everybody_may_read() {
        let file = TestFile::new("secret", "token = \"a secret of ours\"\n");
        permit(&file, 0o644);
        let sources = Sources { file: Some(file.0.clone()), ..Sources::default() };
        let refused = sources.load().unwrap_err().to_string();
        assert!(refused.contains(":1:9: token: everybody may read") && !refused.contains("ours"), "{refused}");
        permit(&file, 0o640);
        assert!(sources.load().is_ok());
        file.write("log-level = \"info\"\n");
        permit(&file, 0o644);
        let store = file.store();
        store.set(&pairs(&[("requirepass", "another secret")])).unwrap();
        assert!(store.rewrite().unwrap_err().contains("a secret would stand in it"));
        assert!(!file.text().contains("another"));
        permit(&file, 0o600);
        store.rewrite().unwrap();
        assert!(file.text().contains("another secret"));
    }

    #[test]
    fn what_was_set_is_written_back_and_nothing_else() {
        let file = TestFile::new("rewrite", "# mine\nlog-level = \"info\" # quiet\n");
        std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(0o640)).unwrap();
        let store = file.store();
        store.rewrite().unwrap();
        assert_eq!(file.text(), "# mine\nlog-level = \"info\" # quiet\n");
        store.set(&pairs(&[("log-level", "debug"), ("maxmemory", "1gb")])).unwrap();
        store.rewrite().unwrap();
        let expected = "# mine\nlog-level = \"debug\" # quiet\n\n# Added by CONFIG REWRITE.\nmax-memory = \"1gb\"\n";
        assert_eq!(file.text(), expected);
        assert_eq!(std::fs::metadata(&file.0).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(store.reload(), Ok(Reloaded::default()));
        store.rewrite().unwrap();
        assert_eq!(file.text(), expected);
        let without = Store::new(Config::default(), Sources::default()).unwrap();
        assert_eq!(without.rewrite().unwrap_err(), "The server is running without a config file");
    }
}
