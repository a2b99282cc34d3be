//! What systemd is told (sd_notify(3)): lines `NAME=value` in datagrams to the socket that `NOTIFY_SOCKET` names.
//! Without that variable nobody is told anything.
//!
//! ```text
//!   start ─▶ STATUS, EXTEND_TIMEOUT_USEC while the log is read ─▶ READY ─▶ WATCHDOG while every core makes its turns
//!                                            SIGHUP: RELOADING ─▶ READY ──┘        the end: STOPPING
//! ```

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::pulse::Pulses;
use crate::limits::CORE_SILENT_MS_MAX;

/// How long systemd may keep us waiting.
const SEND_MAX: Duration = Duration::from_secs(1);
/// Longest between two looks at the cores.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);
/// While the log is read: how much more time is asked for, and how often.
const START_EXTENSION: Duration = Duration::from_secs(60);
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// The way to systemd.
pub struct Notify {
    socket: Option<UnixDatagram>,
    /// Within this time it wants to hear that all is well.
    watchdog: Option<Duration>,
}

impl Notify {
    pub fn from_environment() -> Notify {
        Notify::new(|name| std::env::var_os(name), std::process::id())
    }

    fn new(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Notify {
        let number = |name: &str| variable(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        let socket = variable("NOTIFY_SOCKET").filter(|path| !path.is_empty()).and_then(|path| {
            connect(&path)
                .inspect_err(|error| {
                    warn!("NOTIFY_SOCKET {} cannot be reached: systemd is told nothing: {error}", path.display());
                })
                .ok()
        });
        // It may be meant for the process that started us.
        let is_for_us = number("WATCHDOG_PID").is_none_or(|meant| meant == u64::from(pid));
        let watchdog = number("WATCHDOG_USEC").filter(|&us| us > 0 && is_for_us).map(Duration::from_micros);
        Notify { watchdog: watchdog.filter(|_| socket.is_some()), socket }
    }

    /// Says several lines at once. What cannot be said is lost: systemd then does what it does to services that are silent.
    fn say(&self, lines: &[&str]) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(lines.join("\n").as_bytes()) {
            warn!("systemd cannot be told {}: {error}", lines.join(", "));
        }
    }
}

fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(SEND_MAX))?;
    Ok(socket)
}

/// CLOCK_MONOTONIC, as systemd compares it.
fn monotonic_us() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1000)
}

/// A status is one line.
fn status_line(status: &str) -> String {
    format!("STATUS={}", status.replace(char::is_control, " "))
}

/// Looks after the cores for as long as the server runs: tells the log of one that hangs, and systemd how it goes.
pub struct Watch {
    notify: Notify,
    pulses: Arc<Pulses>,
    /// What the server is, when it serves: `ready on 127.0.0.1:7001 …`
    serving: String,
    silence_max: Duration,
    /// Cores that hang, as far as has been said.
    late: Vec<usize>,
    extended: Option<Instant>,
    is_stopping: bool,
}

impl Watch {
    pub fn new(notify: Notify, pulses: Arc<Pulses>, serving: String) -> Watch {
        let silence_max = Duration::from_millis(CORE_SILENT_MS_MAX);
        // Of half the time that the watchdog gives, a core that hangs is known before it bites for any other reason.
        let silence_max = notify.watchdog.map_or(silence_max, |watchdog| silence_max.min(watchdog / 2));
        let watch =
            Watch { notify, pulses, serving, silence_max, late: Vec::new(), extended: None, is_stopping: false };
        watch.notify.say(&["STATUS=starting"]);
        watch
    }

    /// When the next look is due.
    pub fn look_within(&self) -> Duration {
        self.notify.watchdog.map_or(LOOK_EVERY_MAX, |watchdog| LOOK_EVERY_MAX.min(watchdog / 4))
    }

    pub fn ready(&mut self) {
        self.pulses.begin_to_serve();
        self.notify.say(&["READY=1", &status_line(&self.serving)]);
    }

    pub fn reloading(&self) {
        self.notify.say(&[
            "RELOADING=1",
            &format!("MONOTONIC_USEC={}", monotonic_us()),
            "STATUS=reading settings again",
        ]);
    }

    /// `problem`: why nothing was changed.
    pub fn reloaded(&self, problem: Option<&str>) {
        let status = match problem {
            None => self.serving.clone(),
            Some(problem) => format!("{}; SIGHUP changed nothing: {problem}", self.serving),
        };
        self.notify.say(&["READY=1", &status_line(&status)]);
    }

    pub fn stopping(&mut self) {
        if !std::mem::replace(&mut self.is_stopping, true) {
            self.notify.say(&["STOPPING=1", "STATUS=draining"]);
        }
    }

    /// Looks at every core: the watchdog is fed only while all of them make their turns.
    pub fn look(&mut self, now: Instant) {
        if self.is_stopping {
            // Cores end one after the other; how long that may take is bounded elsewhere.
            return self.feed();
        }
        let late: Vec<(usize, u64)> = self.pulses.late(now, self.silence_max).collect();
        let names: Vec<usize> = late.iter().map(|(core, _)| *core).collect();
        if names != self.late {
            for (core, age_ms) in late.iter().filter(|(core, _)| !self.late.contains(core)) {
                error!("core {core} has made no turn for {age_ms} ms");
            }
            for core in self.late.iter().filter(|core| !names.contains(core)) {
                info!("core {core} makes its turns again");
            }
            let status = match names.as_slice() {
                [] => self.serving.clone(),
                names => format!("cores that make no turns: {names:?}"),
            };
            self.late = names;
            if self.pulses.is_serving() {
                self.notify.say(&[&status_line(&status)]);
            }
        }
        if !self.late.is_empty() {
            return;
        }
        if self.pulses.is_serving() {
            self.feed();
        } else if self.pulses.have_all_begun()
            && self.extended.is_none_or(|extended| now.saturating_duration_since(extended) >= EXTEND_EVERY)
        {
            // A long log must not be taken for a start that hangs.
            self.extended = Some(now);
            let extension = format!("EXTEND_TIMEOUT_USEC={}", START_EXTENSION.as_micros());
            self.notify.say(&[&extension, "STATUS=reading the log"]);
        }
    }

    fn feed(&self) {
        if self.notify.watchdog.is_some() {
            self.notify.say(&["WATCHDOG=1"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket as systemd has one, and what tells a service of it.
    fn systemd(name: &str, watchdog_us: &str) -> (UnixDatagram, Notify) {
        let name = format!("crabcache-test-{}-{name}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let variable = |asked: &str| match asked {
            "NOTIFY_SOCKET" => Some(format!("@{name}").into()),
            "WATCHDOG_USEC" => Some(watchdog_us.into()),
            _ => None,
        };
        (socket, Notify::new(variable, 7))
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut all = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(len) = socket.recv(&mut piece) {
            all.push(String::from_utf8(piece[..len].to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn the_watchdog_is_fed_only_while_every_core_makes_turns() {
        let (socket, notify) = systemd("watchdog", "4000000");
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let pulses = Arc::new(Pulses::new(2, started));
        let mut watch = Watch::new(notify, pulses.clone(), "ready on a port".into());
        assert_eq!(watch.look_within(), Duration::from_secs(1));
        assert_eq!(heard(&socket), ["STATUS=starting"]);
        watch.look(at(1));
        assert_eq!(heard(&socket), [""; 0], "no core has begun");
        pulses.beat(0, at(10));
        pulses.beat(1, at(10));
        watch.look(at(20));
        watch.look(at(30));
        assert_eq!(heard(&socket), ["EXTEND_TIMEOUT_USEC=60000000\nSTATUS=reading the log"]);
        watch.ready();
        watch.look(at(1000));
        assert_eq!(heard(&socket), ["READY=1\nSTATUS=ready on a port", "WATCHDOG=1"]);
        pulses.beat(0, at(3000));
        watch.look(at(3010));
        watch.look(at(3020));
        assert_eq!(heard(&socket), ["STATUS=cores that make no turns: [1]"]);
        pulses.beat(1, at(3030));
        watch.look(at(3040));
        assert_eq!(heard(&socket), ["STATUS=ready on a port", "WATCHDOG=1"]);
        watch.stopping();
        watch.stopping();
        watch.look(at(60_000));
        assert_eq!(heard(&socket), ["STOPPING=1\nSTATUS=draining", "WATCHDOG=1"]);
    }

    #[test]
    fn reloading_is_told_with_its_time_and_its_outcome() {
        let (socket, notify) = systemd("reload", "0");
        assert_eq!(notify.watchdog, None);
        let watch = Watch::new(notify, Arc::new(Pulses::new(1, Instant::now())), "ready".into());
        let before = monotonic_us();
        watch.reloading();
        watch.reloaded(None);
        watch.reloaded(Some("line 1:\nno such key"));
        let heard = heard(&socket);
        let time = heard[1].split_once("MONOTONIC_USEC=").unwrap().1.split_once('\n').unwrap().0;
        assert!(heard[1].starts_with("RELOADING=1\n"), "{heard:?}");
        assert!((before..=monotonic_us()).contains(&time.parse().unwrap()), "{time}");
        assert_eq!(heard[2], "READY=1\nSTATUS=ready");
        assert_eq!(heard[3], "READY=1\nSTATUS=ready; SIGHUP changed nothing: line 1: no such key");
    }

    #[test]
    fn only_who_is_meant_is_watched_and_nobody_has_to_listen() {
        let notify = |pid: &'static str, path: &'static str| {
            let variable = move |name: &str| match name {
                "NOTIFY_SOCKET" => Some(path.into()),
                "WATCHDOG_USEC" => Some("1000".into()),
                "WATCHDOG_PID" => Some(pid.into()),
                _ => None,
            };
            Notify::new(variable, 7)
        };
        let (_socket, of_another) = systemd("other", "1000");
        assert!(of_another.watchdog.is_some());
        for silent in [notify("7", ""), notify("7", "/nowhere/at/all"), notify("8", "")] {
            assert!(silent.socket.is_none() && silent.watchdog.is_none());
            silent.say(&["READY=1"]);
        }
    }
}
