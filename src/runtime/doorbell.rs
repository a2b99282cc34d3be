//! What wakes a sleeping core from outside: another core with a batch, main with a shutdown.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd in blocking mode, because the ring that waits for it would get EAGAIN instead of waiting.
#[derive(Debug)]
pub struct Doorbell(EventFd);

impl Doorbell {
    pub fn new() -> io::Result<Doorbell> {
        Ok(Doorbell(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?))
    }

    /// Makes the next (or current) read of the descriptor return. Rings add up until then.
    pub fn ring(&self) {
        // Fails only at a count of 2^64 - 1.
        let _ = self.0.write(1);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
