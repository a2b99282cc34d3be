//! SIGINT and SIGTERM: the first asks everybody to finish, the second ends this process and what it started.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Process groups of the servers that we started and that have not ended.
static STARTED: Mutex<Vec<libc::pid_t>> = Mutex::new(Vec::new());

pub const EXIT_INTERRUPTED: u8 = 130;

/// To be called before any other thread exists: threads inherit the blocked signals.
pub fn watch() {
    // SAFETY: the set lives on our stack and is initialised by sigemptyset before any other use.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    };
    std::thread::spawn(move || {
        loop {
            let mut signal = 0;
            // SAFETY: both pointers are to live locals.
            if unsafe { libc::sigwait(&signals, &mut signal) } != 0 {
                continue;
            }
            if INTERRUPTED.swap(true, Ordering::Relaxed) {
                for group in STARTED.lock().expect("not poisoned").drain(..) {
                    kill_group(group, libc::SIGKILL);
                }
                std::process::exit(i32::from(EXIT_INTERRUPTED));
            }
        }
    });
}

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

pub fn register_group(group: libc::pid_t) {
    STARTED.lock().expect("not poisoned").push(group);
}

pub fn forget_group(group: libc::pid_t) {
    STARTED.lock().expect("not poisoned").retain(|&started| started != group);
}

/// Signals a process group that we made.
pub fn kill_group(group: libc::pid_t, signal: libc::c_int) {
    assert!(group > 1, "never a process group of somebody else");
    // SAFETY: killpg touches no memory.
    unsafe { libc::killpg(group, signal) };
}
