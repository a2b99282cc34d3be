//! Why the server does not start, in words that say what to change.

use std::fmt;

use crate::config::ConfigError;

/// A reason not to start; each kind has its exit code.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What was typed cannot be: 2.
    Usage(String),
    /// The configuration file or the environment cannot be: 78.
    Configuration(String),
    /// The kernel or a limit of the system forbids it: 77.
    System(String),
    /// Anything else, such as a port in use: 1.
    Failed(String),
}

impl Refusal {
    pub fn exit_code(&self) -> u8 {
        match self {
            Refusal::Failed(_) => 1,
            Refusal::Usage(_) => 2,
            Refusal::System(_) => 77,
            Refusal::Configuration(_) => 78,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Refusal::*;
        let (Usage(text) | Configuration(text) | System(text) | Failed(text)) = self;
        out.write_str(text)
    }
}

impl std::error::Error for Refusal {}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Refusal {
        match error.exit_code() {
            78 => Refusal::Configuration(error.to_string()),
            _ => Refusal::Usage(error.to_string()),
        }
    }
}
