//! How the executor sleeps for the client ring as well as for itself.
//!
//! A core with nothing under way on its executor sleeps in the client ring: one system call, nobody in
//! between. With file I/O or timers under way it must sleep in the executor, which does not know the client
//! ring; so the ring signals an eventfd, and the executor reads that.
//!
//! ```text
//!   client ring ── completion ─▶ eventfd ─▶ a read on the executor's own ring ─▶ the core's turn goes on
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd};
use std::time::Duration;

use futures_lite::future;
use glommio::io::BufferedFile;
use glommio::timer;

use super::doorbell::Doorbell;
use super::ring::NetRing;

/// Long enough not to be over when it begins, short enough to be over when the executor has looked at its rings.
const SHORTEST_SLEEP: Duration = Duration::from_micros(1);

/// Lets the executor do what it has to do besides the core's turn: run what is runnable, hand file operations to the
/// kernel, take in those that are done.
///
/// It looks at its rings when a slice is over or when nothing is runnable any more, and slices do not end (see
/// [`host`](super::host)). A turn that merely yields is runnable all the while, and no file operation would ever be
/// begun; so it sleeps, if only for so long that the executor finds it asleep.
pub async fn let_executor_in() {
    timer::sleep(SHORTEST_SLEEP).await;
}

pub struct Bridge {
    eventfd: BufferedFile,
    /// The same eventfd once more, for the ring.
    _signal: Doorbell,
}

impl Bridge {
    /// Lets `ring` signal, which it does only while it is told to.
    pub fn new(ring: &mut NetRing) -> io::Result<Bridge> {
        let signal = Doorbell::new()?;
        ring.signal_completions_to(signal.as_raw_fd())?;
        let copy = signal.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor was made on the line above and is given away here.
        let eventfd = unsafe { BufferedFile::from_raw_fd(copy.into_raw_fd()) };
        Ok(Bridge { eventfd, _signal: signal })
    }

    /// Sleeps in the executor until the client ring has something, `bound` has passed or `other` is there. The bound
    /// also ends the sleep of an executor that parked with runnable tasks (see DESIGN, "lost park"). False if the ring
    /// had something already.
    pub async fn sleep(
        &self,
        ring: &mut NetRing,
        bound: Duration,
        other: impl Future<Output = ()>,
    ) -> io::Result<bool> {
        ring.signal_completions(true);
        // What completed before the signal was on would never be signalled.
        let sleeps = !ring.is_ready_indeed()?;
        if sleeps {
            let signalled = async {
                let _ = self.eventfd.read_at(0, size_of::<u64>()).await;
            };
            future::or(other, future::or(signalled, async { timer::sleep(bound).await })).await;
        }
        ring.signal_completions(false);
        Ok(sleeps)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Instant;

    use glommio::LocalExecutorBuilder;
    use glommio::io::DmaFile;

    use super::*;

    /// Clients that kept a core busy kept its log from being made: each file operation took two slices of 100 ms.
    #[test]
    fn a_turn_that_never_rests_does_not_hold_up_files() {
        const OPERATIONS: usize = 200;
        const PATIENCE: Duration = Duration::from_secs(15);
        let path = std::env::temp_dir().join(format!("crabcache-bridge-{}", std::process::id()));
        let executor = LocalExecutorBuilder::default().io_memory(256 * 1024).make().unwrap();
        executor.run(async {
            let done = Rc::new(Cell::new(0));
            let (counted, to) = (done.clone(), path.clone());
            glommio::spawn_local(async move {
                let file = DmaFile::create(&to).await.unwrap();
                while counted.get() < OPERATIONS {
                    file.write_at(file.alloc_dma_buffer(4096), 0).await.unwrap();
                    counted.set(counted.get() + 1);
                }
                file.close().await.unwrap();
            })
            .detach();
            let started = Instant::now();
            while done.get() < OPERATIONS {
                let_executor_in().await;
                assert!(started.elapsed() < PATIENCE, "only {} operations in {PATIENCE:?}", done.get());
            }
        });
        std::fs::remove_file(path).unwrap();
    }
}
