//! Signals, and how the wish to end reaches the cores.
//!
//! SIGTERM and SIGINT are blocked before the first thread starts, so that every thread inherits the mask
//! and one thread alone takes them. The first asks every core to drain and end; the second ends the
//! process at once with exit code 1, because replies may be lost. SIGHUP asks to read the configuration again (and
//! closing a terminal does not end a server). (SIGPIPE is ignored by Rust's runtime from the start.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use tracing::error;

use super::doorbell::Doorbell;

/// Supervisors such as `timeout` signal a process and then its group: what comes this soon after the first
/// request is the same one.
const SAME_REQUEST: Duration = Duration::from_millis(100);

/// Signals that wait for [`Signals::next`] instead of ending the process.
pub struct Signals(SigSet);

impl Signals {
    /// Blocks them in this thread and all that it starts. Must come before any thread.
    pub fn block() -> nix::Result<Signals> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        signals.thread_block()?;
        Ok(Signals(signals))
    }

    /// Waits for signals for as long as the process lives: hands on the first request to end and every SIGHUP, and ends
    /// the process at the second request.
    pub fn watch(self, hand_on: impl Fn(Signal)) -> nix::Result<()> {
        let mut requested: Option<Instant> = None;
        loop {
            let signal = self.0.wait()?;
            match requested {
                _ if signal == Signal::SIGHUP => hand_on(signal),
                None => {
                    requested = Some(Instant::now());
                    hand_on(signal);
                }
                Some(requested) if requested.elapsed() >= SAME_REQUEST => {
                    error!("{signal} again: ending at once");
                    super::log::flush();
                    std::process::exit(1);
                }
                Some(_) => {}
            }
        }
    }
}

/// The wish to end, seen by every core.
#[derive(Debug)]
pub struct Shutdown {
    requested: AtomicBool,
    doorbells: Arc<[Doorbell]>,
}

impl Shutdown {
    pub fn new(doorbells: Arc<[Doorbell]>) -> Shutdown {
        Shutdown { requested: AtomicBool::new(false), doorbells }
    }

    /// Tells every core, also those asleep.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.doorbells.iter().for_each(Doorbell::ring);
    }

    #[inline]
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_wish_to_end_rings_every_doorbell() {
        let doorbells: Arc<[Doorbell]> = (0..3).map(|_| Doorbell::new().unwrap()).collect();
        let shutdown = Shutdown::new(doorbells.clone());
        assert!(!shutdown.is_requested());
        shutdown.request();
        assert!(shutdown.is_requested());
        for doorbell in doorbells.iter() {
            let mut rings = [0; 8];
            File::from(doorbell.as_fd().try_clone_to_owned().unwrap()).read_exact(&mut rings).unwrap();
            assert_eq!(u64::from_ne_bytes(rings), 1);
        }
    }
}
