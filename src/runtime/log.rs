//! Where log lines go and how they look: for people on a terminal, as JSON lines otherwise.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{IsTerminal, stderr};

use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{Config, LogFormat, LogLevel};

#[derive(Debug, PartialEq, Eq)]
struct Style {
    json: bool,
    colour: bool,
}

impl Style {
    /// `no_color` is the environment variable: any text but the empty one asks for none (no-color.org).
    fn choose(format: LogFormat, is_terminal: bool, no_color: Option<&str>) -> Style {
        let json = match format {
            LogFormat::Auto => !is_terminal,
            LogFormat::Human => false,
            LogFormat::Json => true,
        };
        Style { json, colour: !json && is_terminal && no_color.unwrap_or_default().is_empty() }
    }
}

/// What changes the level of the running process.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        // Fails only when logging has ended.
        let _ = handle.reload(filter(level));
    }
}

/// Sets up logging for the process, once. Panics are logged too, as errors with their place.
pub fn start(config: &Config) {
    let no_color = std::env::var_os("NO_COLOR").map(|value| value.to_string_lossy().into_owned());
    let style = Style::choose(config.log_format, stderr().is_terminal(), no_color.as_deref());
    let (level, handle) = reload::Layer::new(filter(config.log_level));
    let _ = LEVEL.set(handle);
    let lines = fmt::layer().with_writer(stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(level);
    if style.json {
        registry.with(lines.json().flatten_event(true).with_current_span(false).with_span_list(false)).init();
    } else {
        registry.with(lines.with_ansi(style.colour)).init();
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = Backtrace::capture();
        tracing::error!("{} in thread {:?}", panic.to_string().replace('\n', " "), thread.name().unwrap_or("unnamed"));
        if backtrace.status() == BacktraceStatus::Captured {
            tracing::error!("{backtrace}");
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_on_terminals_and_machines_read_files() {
        let style = |format, terminal, no_color| {
            let style = Style::choose(format, terminal, no_color);
            (style.json, style.colour)
        };
        assert_eq!(style(LogFormat::Auto, true, None), (false, true));
        assert_eq!(style(LogFormat::Auto, true, Some("")), (false, true));
        assert_eq!(style(LogFormat::Auto, true, Some("1")), (false, false));
        assert_eq!(style(LogFormat::Auto, false, None), (true, false));
        assert_eq!(style(LogFormat::Human, false, None), (false, false));
        assert_eq!(style(LogFormat::Json, true, None), (true, false));
    }
}
