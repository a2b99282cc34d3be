//! SIGINT and SIGTERM: the first asks everybody to finish, the second ends this process and what it started.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::system::{EndSignals, Pid, Signal, signal_group};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Process groups of the servers that we started and that have not ended, and their directories.
static STARTED: Mutex<Vec<(Pid, PathBuf)>> = Mutex::new(Vec::new());

pub const EXIT_INTERRUPTED: u8 = 130;

/// To be called before any other thread exists: threads inherit what is blocked.
pub fn watch() {
    let signals = EndSignals::block();
    std::thread::spawn(move || {
        loop {
            signals.wait();
            if INTERRUPTED.swap(true, Ordering::Relaxed) {
                for (group, directory) in STARTED.lock().expect("not poisoned").drain(..) {
                    signal_group(group, Signal::SIGKILL);
                    let _ = std::fs::remove_dir_all(directory);
                }
                std::process::exit(i32::from(EXIT_INTERRUPTED));
            }
        }
    });
}

/// As if the first signal had come.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

pub fn register_group(group: Pid, directory: &Path) {
    STARTED.lock().expect("not poisoned").push((group, directory.to_owned()));
}

pub fn forget_group(group: Pid) {
    STARTED.lock().expect("not poisoned").retain(|(started, _)| *started != group);
}
