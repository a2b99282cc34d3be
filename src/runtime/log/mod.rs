//! Where log lines go and how they look: for people on a terminal, as JSON lines otherwise ([`line`]). No message floods
//! the log ([`limiter`]), and nobody waits for it ([`queue`]).
//!
//! ```text
//!   tracing::info!(…) ─▶ level ─▶ limiter, by message ─▶ line ─▶ queue ─▶ thread "log" ─▶ standard error
//!                                    └ held back: counted            └ full: lost, counted
//! ```

mod limiter;
mod line;
mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::config::{Config, LogFormat, LogLevel};
use limiter::Limiter;
use line::{Said, Style};
use queue::Queue;

/// How long the end of the process waits for a reader of the log.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// How often what was held back is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

static QUEUE: Queue = Queue::new();
/// Messages by where in the code they stand.
static LIMITER: Mutex<Limiter<(&'static str, u32), Said>> = Mutex::new(Limiter::new());
static HELD_BACK: AtomicU64 = AtomicU64::new(0);
static STYLE: OnceLock<Style> = OnceLock::new();
/// Whether a thread writes the lines; before that whoever logs does.
static HAS_WRITER: AtomicBool = AtomicBool::new(false);
/// What changes the level of the running process.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// `no_color` is the environment variable: any text but the empty one asks for none (no-color.org).
fn style_of(format: LogFormat, is_terminal: bool, no_color: Option<&str>) -> Style {
    let json = match format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    Style { json, colour: !json && is_terminal && no_color.unwrap_or_default().is_empty() }
}

fn style() -> Style {
    STYLE.get().copied().unwrap_or(Style { json: true, colour: false })
}

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

/// Lines that nobody can read, since the start: those that were lost, and those that were held back.
pub fn lines_missing() -> [u64; 2] {
    [QUEUE.lost(), HELD_BACK.load(Ordering::Relaxed)]
}

/// Sets up logging for the process, once. Panics are logged too, as errors with their place.
pub fn start(config: &Config) {
    let no_color = std::env::var_os("NO_COLOR").map(|value| value.to_string_lossy().into_owned());
    let _ = STYLE.set(style_of(config.log_format, stderr().is_terminal(), no_color.as_deref()));
    let (level, handle) = reload::Layer::new(filter(config.log_level));
    let _ = LEVEL.set(handle);
    tracing_subscriber::registry().with(level).with(Lines).init();
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = Backtrace::capture();
        tracing::error!("{} in thread {:?}", panic.to_string().replace('\n', " "), thread.name().unwrap_or("unnamed"));
        if backtrace.status() == BacktraceStatus::Captured {
            for frame in backtrace.to_string().lines() {
                emit(&Said::new(Level::ERROR, frame), 0);
            }
        }
        // The process may be at its end.
        flush();
    }));
}

/// From now on a thread writes. Not before signals are blocked: they would come to it.
pub fn write_in_background() {
    let write = || {
        let mut told = 0;
        let tell = |lost| Said::new(Level::WARN, format!("{lost} log lines were lost")).line(style(), unix_us(), 0);
        let mut looked = Instant::now();
        loop {
            QUEUE.write_one(&mut stderr(), LOOK_EVERY, &mut told, tell);
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                // Not held while lines are made of it.
                let due = limiter().due(looked);
                for (said, held_back) in due {
                    emit(&said, held_back);
                }
            }
        }
    };
    match std::thread::Builder::new().name("log".into()).spawn(write) {
        Ok(_) => HAS_WRITER.store(true, Ordering::Release),
        Err(error) => tracing::warn!("the log has no thread of its own: {error}"),
    }
}

/// Waits a little until all that was logged has been written: for the end of the process.
pub fn flush() {
    if HAS_WRITER.load(Ordering::Acquire) {
        QUEUE.flush(FLUSH_MAX);
    }
}

fn limiter() -> std::sync::MutexGuard<'static, Limiter<(&'static str, u32), Said>> {
    LIMITER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

fn emit(said: &Said, held_back: u64) {
    let line = said.line(style(), unix_us(), held_back);
    match HAS_WRITER.load(Ordering::Acquire) {
        true => QUEUE.push(line),
        false => QUEUE.write_now(&mut stderr(), &line),
    }
}

/// Events become lines.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut said = Said::new(*metadata.level(), "");
        event.record(&mut said);
        let site = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
        // Not held while the line is written.
        let admitted = limiter().admit(site, said, Instant::now());
        match admitted {
            Some((said, held_back)) => emit(&said, held_back),
            None => drop(HELD_BACK.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_on_terminals_and_machines_read_files() {
        let style = |format, terminal, no_color| {
            let style = style_of(format, terminal, no_color);
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
