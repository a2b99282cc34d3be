//! Lines on their way to standard error. Whoever logs only puts them here; a thread of its own writes them, so that no core
//! ever waits for a terminal, a pipe that nobody reads, or a disk. Full: lines are lost, and counted.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{LOG_QUEUE_BYTES_MAX, LOG_QUEUE_LINES_MAX};

/// How long a writer that takes nothing for the moment is waited for.
const WRITE_MAX: Duration = Duration::from_secs(1);
const WRITE_RETRY: Duration = Duration::from_millis(10);

pub struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    lost: AtomicU64,
}

struct Waiting {
    lines: VecDeque<String>,
    bytes: usize,
    /// A line has left `lines` and is not written yet.
    is_writing: bool,
}

impl Queue {
    pub const fn new() -> Queue {
        let waiting = Waiting { lines: VecDeque::new(), bytes: 0, is_writing: false };
        Queue { waiting: Mutex::new(waiting), changed: Condvar::new(), lost: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines that were never written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub fn push(&self, line: String) {
        let mut waiting = self.lock();
        if waiting.lines.len() >= LOG_QUEUE_LINES_MAX || waiting.bytes + line.len() > LOG_QUEUE_BYTES_MAX {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        self.changed.notify_all();
    }

    /// The next line, if there is one within `patience`. [`Queue::wrote`] follows.
    fn take(&self, patience: Duration) -> Option<String> {
        let mut waiting = self.lock();
        if waiting.lines.is_empty() {
            waiting = self.changed.wait_timeout(waiting, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        let line = waiting.lines.pop_front()?;
        waiting.bytes -= line.len();
        waiting.is_writing = true;
        Some(line)
    }

    fn wrote(&self) {
        self.lock().is_writing = false;
        self.changed.notify_all();
    }

    /// Waits until all is written, for no longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut waiting = self.lock();
        while waiting.is_writing || !waiting.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes at most one line; waits up to `patience` for it. `told` is how many lost lines the reader of the log knows
    /// of; `tell` gives the line that speaks of more.
    pub fn write_one(&self, out: &mut impl Write, patience: Duration, told: &mut u64, tell: impl Fn(u64) -> String) {
        let Some(line) = self.take(patience) else { return };
        let lost = self.lost();
        let whole = if lost > *told { tell(lost - *told) + &line } else { line };
        match write(out, whole.as_bytes()) {
            Ok(()) => *told = lost,
            Err(_) => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
        }
        self.wrote();
    }

    /// Writes a line at once, from the thread that has it.
    pub fn write_now(&self, out: &mut impl Write, line: &str) {
        if write(out, line.as_bytes()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    let began = Instant::now();
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else who has this terminal or pipe, too, has made it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock && began.elapsed() < WRITE_MAX => {
                std::thread::sleep(WRITE_RETRY);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_finds_no_room_or_cannot_be_written_is_counted_and_told() {
        let queue = Queue::new();
        for _ in 0..LOG_QUEUE_LINES_MAX + 3 {
            queue.push("a\n".into());
        }
        assert_eq!(queue.lost(), 3);
        let (mut out, mut told) = (Vec::new(), 0);
        queue.write_one(&mut out, Duration::ZERO, &mut told, |lost| format!("{lost} lost\n"));
        queue.write_one(&mut Broken, Duration::ZERO, &mut told, |lost| format!("{lost} lost\n"));
        assert_eq!(queue.lost(), 4);
        queue.write_one(&mut out, Duration::ZERO, &mut told, |lost| format!("{lost} lost\n"));
        queue.write_one(&mut out, Duration::ZERO, &mut told, |lost| format!("{lost} lost\n"));
        assert_eq!(String::from_utf8(out).unwrap(), "3 lost\na\n1 lost\na\na\n");
        queue.push("x".repeat(LOG_QUEUE_BYTES_MAX));
        assert_eq!(queue.lost(), 5, "bytes are bounded, too");
    }

    #[test]
    fn a_flush_waits_for_the_writer_and_no_longer_than_it_may() {
        let queue = Queue::new();
        queue.push("a\n".into());
        queue.flush(Duration::from_millis(1));
        std::thread::scope(|scope| {
            scope.spawn(|| queue.write_one(&mut Vec::new(), Duration::ZERO, &mut 0, |_| String::new()));
            queue.flush(Duration::from_secs(20));
        });
        assert!(queue.lock().lines.is_empty());
    }
}
