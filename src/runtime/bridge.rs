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

/// Longest an executor stays parked that parked with runnable tasks (see DESIGN, "lost park").
const LOST_PARK_BOUND: Duration = Duration::from_millis(1);

/// Lets the executor do what it has to do besides the core's turn. The timer is what brings the turn back
/// when the executor, preempted at the wrong moment, parks although the turn can go on.
pub async fn let_executor_in() {
    let turn = async { glommio::executor().yield_now().await };
    future::or(turn, async { timer::sleep(LOST_PARK_BOUND).await }).await;
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

    /// Sleeps in the executor until the client ring has something or `bound` has passed. The bound also
    /// ends the sleep of an executor that parked with runnable tasks (see DESIGN, "lost park"). So does `other`.
    pub async fn sleep(&self, ring: &mut NetRing, bound: Duration, other: impl Future<Output = ()>) {
        ring.signal_completions(true);
        // What completed before the signal was on would never be signalled.
        if !ring.is_ready() {
            let signalled = async {
                let _ = self.eventfd.read_at(0, size_of::<u64>()).await;
            };
            future::or(other, future::or(signalled, async { timer::sleep(bound).await })).await;
        }
        ring.signal_completions(false);
    }
}
