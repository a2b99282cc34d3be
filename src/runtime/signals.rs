//! Signals, and how the wish to end reaches the cores.
//!
//! SIGTERM and SIGINT are blocked before the first thread starts, so that every thread inherits the mask
//! and one thread alone takes them. The first asks every core to drain and end; the second ends the
//! process at once with exit code 1, because replies may be lost. SIGHUP is taken, too, so that closing a
//! terminal does not end a server. (SIGPIPE is ignored by Rust's runtime from the start.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use tracing::{error, info};

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

    /// Waits for signals for as long as the process lives: calls `first` at the first request to end, and
    /// ends the process at the second.
    pub fn watch(self, first: impl FnOnce(Signal)) -> nix::Result<()> {
        let signal = self.request()?;
        let requested = Instant::now();
        first(signal);
        loop {
            let signal = self.request()?;
            if requested.elapsed() >= SAME_REQUEST {
                error!("{signal} again: ending at once");
                std::process::exit(1);
            }
        }
    }

    /// The next signal that asks to end.
    fn request(&self) -> nix::Result<Signal> {
        loop {
            match self.0.wait()? {
                Signal::SIGHUP => info!("SIGHUP: nothing to load again, all settings come from flags and environment"),
                signal => return Ok(signal),
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
