//! What all cores see.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::runtime::pulse::Pulses;
/// State that all cores see. Touched when clients come and go, never per command.
pub struct Shared {
    pub clients: AtomicUsize,
    pub clients_max: usize,
    /// Cores that have no connections left at shutdown.
    pub drained: AtomicUsize,
    pub pulses: Arc<Pulses>,
    /// Clients of this process that wait to be served.
    invited: Mutex<Vec<UnixStream>>,
    has_invited: AtomicBool,
}

impl Shared {
    pub fn new(clients_max: usize, pulses: Arc<Pulses>) -> Shared {
        Shared {
            clients: AtomicUsize::new(0),
            clients_max,
            drained: AtomicUsize::new(0),
            pulses,
            invited: Mutex::default(),
            has_invited: AtomicBool::new(false),
        }
    }

    /// `client` is served as if it had connected, by whichever core is rung next.
    pub fn invite(&self, client: UnixStream) {
        self.invited.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        self.has_invited.store(true, Ordering::Release);
    }

    pub(super) fn take_invited(&self) -> Vec<UnixStream> {
        match self.has_invited.swap(false, Ordering::AcqRel) {
            true => std::mem::take(&mut *self.invited.lock().unwrap_or_else(PoisonError::into_inner)),
            false => Vec::new(),
        }
    }
}
