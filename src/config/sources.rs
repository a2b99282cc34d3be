//! Where settings come from, kept so that they can be read again: the file by its path, the environment and the flags as
//! they were at the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{self, FILE_BYTES_MAX};
use super::origin::{ConfigError, Origin};
use super::table::{Config, REDACTED, SETTINGS, Setting};

/// A setting that somebody gave, as text.
#[derive(Clone, Debug)]
pub struct Given {
    pub setting: &'static Setting,
    pub text: String,
    pub origin: Origin,
}

impl Given {
    /// For error messages.
    pub fn shown_text(&self) -> &str {
        if self.setting.is_secret { REDACTED } else { &self.text }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// Out of the environment.
    pub variables: Vec<Given>,
    pub flags: Vec<Given>,
}

/// The environment variable for `--config`.
pub const FILE_VARIABLE: &str = "CRABCACHE_CONFIG";

impl Sources {
    /// `variables` is the environment; a flag for the file wins over its variable. Names that begin like ours and are not
    /// are given back, to be warned about: supervisors put names of their own there.
    pub fn new(
        file: Option<PathBuf>,
        flags: Vec<Given>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> (Sources, Vec<String>) {
        let mut sources = Sources { file, variables: Vec::new(), flags };
        let mut strange = Vec::new();
        for (name, text) in variables.into_iter().filter(|(name, _)| name.starts_with("CRABCACHE_")) {
            if name == FILE_VARIABLE {
                sources.file =
                    sources.file.or_else(|| Some(text.into()).filter(|path: &PathBuf| !path.as_os_str().is_empty()));
            } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) {
                sources.variables.push(Given { setting, text, origin: Origin::Environment });
            } else {
                strange.push(name);
            }
        }
        (sources, strange)
    }

    /// Reads the file (again) and puts everything together.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut given = Vec::new();
        if let Some((path, text)) = self.read_file()? {
            let of_file = file::parse(&path, &text)?;
            let secret = of_file.iter().find(|entry| entry.given.setting.is_secret && !entry.given.text.is_empty());
            if let Some(entry) = secret
                && file::is_open_to_all(&path).unwrap_or(true)
            {
                let why = format!("everybody may read or write this file: chmod o= {}", path.display());
                return Err(ConfigError::value(entry.given.setting, &entry.given.origin, &why));
            }
            given.extend(of_file.into_iter().map(|entry| entry.given));
        }
        given.extend(self.variables.iter().cloned());
        given.extend(self.flags.iter().cloned());
        let config = Config::assemble(&given)?;
        // Files that the configuration names are part of it.
        config.access()?;
        config.tls()?;
        Ok(config)
    }

    /// The path and the text of the file, if there is one.
    pub fn read_file(&self) -> Result<Option<(Arc<Path>, String)>, ConfigError> {
        let Some(path) = &self.file else { return Ok(None) };
        let path: Arc<Path> = Arc::from(path.as_path());
        let failed = |why: String| ConfigError {
            origin: Origin::File { path: path.clone(), line: 1, column: 1 },
            key: None,
            text: why,
        };
        let length = std::fs::metadata(&path).map_err(|error| failed(format!("cannot be read: {error}")))?.len();
        if length > FILE_BYTES_MAX {
            return Err(failed(format!("{length} bytes are too many for a configuration (at most {FILE_BYTES_MAX})")));
        }
        let text = std::fs::read(&path).map_err(|error| failed(format!("cannot be read: {error}")))?;
        match String::from_utf8(text) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let valid = String::from_utf8_lossy(&error.as_bytes()[..at]).into_owned();
                Err(ConfigError { origin: Origin::file(&path, &valid, at), key: None, text: "not UTF-8".into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(key: &str, text: &str, origin: Origin) -> Given {
        Given { setting: Setting::by_key(key).unwrap(), text: text.into(), origin }
    }

    #[test]
    fn flags_win_over_the_environment_and_it_over_the_file() {
        let path = std::env::temp_dir().join(format!("crabcache-sources-{}.toml", std::process::id()));
        std::fs::write(&path, "port = 1\nmax-clients = 11\nspin-us = 111\n").unwrap();
        let variables =
            [("CRABCACHE_PORT", "2"), ("CRABCACHE_MAX_CLIENTS", "22"), ("CRABCACHE_OTHER", "x"), ("HOME", "y")];
        let variables = variables.map(|(name, text)| (name.to_string(), text.to_string()));
        let flags = vec![given("port", "3", Origin::Flag)];
        let (sources, strange) = Sources::new(Some(path.clone()), flags, variables);
        assert_eq!(strange, ["CRABCACHE_OTHER"]);
        let config = sources.load().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((config.port, config.clients_max, config.spin_us), (3, 22, 111));
        let origin = |key| config.origins.of(Setting::by_key(key).unwrap()).to_string();
        assert_eq!(
            (origin("port"), origin("max-clients"), origin("cores")),
            ("flag".into(), "environment".into(), "default".into())
        );
        assert!(origin("spin-us").ends_with(".toml:3:11"), "{}", origin("spin-us"));
        assert!(sources.load().unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn what_is_overridden_in_the_environment_is_not_even_read() {
        let wrong = given("cores", "3-2", Origin::Environment);
        let error = Config::assemble(std::slice::from_ref(&wrong)).unwrap_err();
        assert_eq!(error.to_string(), "CRABCACHE_CORES: \"3-2\": the range 3-2 runs backwards");
        assert_eq!(error.exit_code(), 78);
        assert!(Config::assemble(&[wrong, given("cores", "2", Origin::Flag)]).is_ok());
    }

    #[test]
    fn the_file_may_be_named_in_the_environment() {
        let variable = [(FILE_VARIABLE.to_string(), "/b.toml".to_string())];
        assert_eq!(Sources::new(None, vec![], variable.clone()).0.file, Some("/b.toml".into()));
        assert_eq!(Sources::new(Some("/a.toml".into()), vec![], variable).0.file, Some("/a.toml".into()));
    }
}
