//! Where each value comes from, and what is wrong with it, so that an error names the very place.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::table::{SETTINGS, Setting};

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Origin {
    #[default]
    Default,
    /// Line and column count from 1.
    File {
        path: Arc<Path>,
        line: usize,
        column: usize,
    },
    Environment,
    Flag,
    /// CONFIG SET, or the admin HTTP.
    Live,
}

impl Origin {
    pub fn file(path: &Arc<Path>, text: &str, at: usize) -> Origin {
        let before = &text[..at.min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Origin::File {
            path: path.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// What the setting is called where it came from.
    pub fn name_of(&self, setting: &Setting) -> String {
        match self {
            Origin::Environment => setting.variable(),
            Origin::File { .. } | Origin::Live => setting.key.into(),
            Origin::Default | Origin::Flag => format!("--{}", setting.key),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => out.write_str("default"),
            Origin::File { path, line, column } => write!(out, "{}:{line}:{column}", path.display()),
            Origin::Environment => out.write_str("environment"),
            Origin::Flag => out.write_str("flag"),
            Origin::Live => out.write_str("set while running"),
        }
    }
}

/// The origin of every setting, in the order of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins(Vec<Origin>);

impl Origins {
    pub(super) fn defaults() -> Origins {
        Origins(vec![Origin::Default; SETTINGS.len()])
    }

    pub fn of(&self, setting: &Setting) -> &Origin {
        &self.0[setting.index()]
    }

    pub(super) fn set(&mut self, setting: &Setting, origin: Origin) {
        self.0[setting.index()] = origin;
    }
}

/// Settings that cannot be, and where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub origin: Origin,
    /// Which setting it is about.
    pub key: Option<&'static str>,
    pub text: String,
}

impl ConfigError {
    /// About the value of `setting`, which came from `origin`.
    pub fn value(setting: &'static Setting, origin: &Origin, why: &str) -> ConfigError {
        let text = format!("{}: {why}", origin.name_of(setting));
        ConfigError { origin: origin.clone(), key: Some(setting.key), text }
    }

    /// 2 for what was typed behind the program's name, 78 for files and environment.
    pub fn exit_code(&self) -> u8 {
        match self.origin {
            Origin::Flag | Origin::Default | Origin::Live => 2,
            Origin::File { .. } | Origin::Environment => 78,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Origin::File { .. } = self.origin {
            write!(out, "{}: ", self.origin)?;
        }
        out.write_str(&self.text)
    }
}

impl std::error::Error for ConfigError {}
