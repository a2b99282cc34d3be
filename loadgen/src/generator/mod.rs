//! The load itself: one [`Worker`] per thread, each with its own ring and its own connections.
//!
//! ```text
//!   plan ─▶ Load ─┬─▶ thread 0: glommio executor ─ Worker ─ Ring ═ connections 0, 2, …
//!                 └─▶ thread 1: glommio executor ─ Worker ─ Ring ═ connections 1, 3, …
//!           ▲                                         │
//!           └──── one Slice per thread and cut ◀──────┘
//! ```

mod pacing;
mod requests;
mod shared;
mod worker;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, atomic::Ordering};
use std::time::{Duration, Instant};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};

use crate::failure::Failure;
use crate::plan::Plan;
use crate::record::Record;
use crate::signals;
use crate::system;
pub use shared::FirstError;
use shared::{Shared, Slice};
use worker::Worker;

/// Memory that glommio pins per executor and ring; its three rings stay idle here.
const EXECUTOR_IO_BYTES: usize = 256 * 1024;
/// Rings, event descriptors, outputs.
const FILES_BESIDE_CONNECTIONS: u64 = 64;
/// How long a thread may take to hand over a slice, beside opening a connection anew: it looks at least twenty
/// times per second.
const SLICE_WAIT: Duration = Duration::from_secs(10);

/// A load under way.
pub struct Load {
    shared: Arc<Shared>,
    slices: Receiver<Slice>,
    threads: Vec<ExecutorJoinHandle<()>>,
    ended: Vec<bool>,
    /// What each thread has measured so far.
    elapsed: Vec<Duration>,
}

impl Load {
    /// Starts the threads and connects everything; no request is sent before [`Load::go`].
    pub fn connect(plan: Plan) -> Result<Load, Failure> {
        check_limits(plan.threads, plan.connections)?;
        let (sender, slices) = mpsc::channel();
        let count = plan.threads;
        let shared = Arc::new(Shared::new(plan)?);
        let mut load = Load {
            shared,
            slices,
            threads: Vec::new(),
            ended: vec![false; count],
            elapsed: vec![Duration::ZERO; count],
        };
        for index in 0..count {
            let shared = load.shared.clone();
            let sender = sender.clone();
            let placement = match &load.shared.plan.cpus[..] {
                [] => Placement::Unbound,
                cpus => Placement::Fixed(cpus[index % cpus.len()]),
            };
            let spawned = LocalExecutorBuilder::new(placement)
                .name(&format!("load-{index}"))
                .io_memory(EXECUTOR_IO_BYTES)
                .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
                // The worker waits on its own ring: nothing else runs on this executor.
                .spawn(move || async move { Worker::live(shared, index, sender) });
            match spawned {
                Ok(thread) => load.threads.push(thread),
                Err(error) => {
                    load.shared.fail(Failure::system("cannot start a thread", error));
                    break;
                }
            }
        }
        load.shared.gate.wait_until_ready(count, &load.shared.stop);
        match load.shared.failure() {
            None => Ok(load),
            Some(failure) => {
                load.join();
                Err(failure)
            }
        }
    }

    pub fn go(&self) {
        self.shared.gate.open();
    }

    /// Replies so far. Cheap; may be asked at any time.
    pub fn replies(&self) -> u64 {
        self.shared.progress.iter().map(|progress| progress.replies.load(Ordering::Relaxed)).sum()
    }

    /// Requests that may still be claimed are not; those that wait for replies get them.
    pub fn stop(&self) {
        self.shared.close();
    }

    /// Nothing more will happen: all threads have ended, or something failed.
    pub fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
            || self.shared.progress.iter().all(|progress| progress.over.load(Ordering::Acquire))
    }

    /// How long the load has been measured. (Not the sum of what cuts say: threads cut at slightly
    /// different times.)
    pub fn elapsed(&self) -> Duration {
        self.elapsed.iter().copied().max().unwrap_or_default()
    }

    pub fn first_error(&self) -> Option<FirstError> {
        self.shared.first_error.lock().expect("not poisoned").clone()
    }

    /// What was measured since the last cut.
    pub fn cut(&mut self) -> Result<Record, Failure> {
        let epoch = self.shared.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        self.collect(epoch)
    }

    /// Waits for the end; what was measured since the last cut.
    pub fn finish(&mut self) -> Result<Record, Failure> {
        let record = self.collect(u64::MAX)?;
        self.join();
        Ok(record)
    }

    fn collect(&mut self, epoch: u64) -> Result<Record, Failure> {
        let mut record = Record::new(self.shared.plan.record_commands());
        let mut delivered = self.ended.clone();
        let mut waiting_since = Instant::now();
        let slice_wait = SLICE_WAIT + self.shared.plan.target.timeout.saturating_mul(2);
        while delivered.contains(&false) {
            if signals::interrupted() {
                self.stop();
            }
            if let Some(failure) = self.shared.failure() {
                self.join();
                return Err(failure);
            }
            match self.slices.recv_timeout(Duration::from_millis(50)) {
                Ok(slice) => {
                    waiting_since = Instant::now();
                    self.elapsed[slice.thread] += slice.record.elapsed;
                    record.merge_parallel(&slice.record);
                    self.ended[slice.thread] = slice.last;
                    delivered[slice.thread] |= slice.last || slice.epoch >= epoch;
                }
                // The end may be far away; a slice may not.
                Err(RecvTimeoutError::Timeout) if epoch == u64::MAX || waiting_since.elapsed() < slice_wait => {}
                // A thread that fails says why before it lets go of the channel: the next round tells.
                Err(_) if self.shared.failure().is_some() => {}
                Err(error) => return Err(Failure::system("a generating thread does not respond", error)),
            }
        }
        Ok(record)
    }

    fn join(&mut self) {
        self.shared.gate.open();
        for thread in self.threads.drain(..) {
            // An executor that failed to run has reported it through `Shared::fail` or not started.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// glommio panics where these are missing; a message that says what to change is better.
fn check_limits(threads: usize, connections: usize) -> Result<(), Failure> {
    if let Err(error) = io_uring::IoUring::new(2) {
        return Err(Failure::system(
            "io_uring is not available (kernel.io_uring_disabled, or a container's seccomp profile)",
            error,
        ));
    }
    let needed = (threads * EXECUTOR_IO_BYTES * 3).max(512 * 1024) as u64;
    if let Some(limit) = system::locked_memory_limit().filter(|&limit| limit < needed) {
        return Err(Failure::system(
            "the limit on locked memory is too low",
            format!("{limit} bytes of {needed}; raise it with `ulimit -l {}`", needed.div_ceil(1024)),
        ));
    }
    let files = connections as u64 + FILES_BESIDE_CONNECTIONS;
    let allowed = system::allow_files(files);
    if allowed < files {
        return Err(Failure::system(
            "the limit on open files is too low",
            format!("{connections} connections need {files} of them, {allowed} are allowed (`ulimit -n`)"),
        ));
    }
    Ok(())
}
