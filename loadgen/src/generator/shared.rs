//! What the threads of one load share with each other and with whoever started it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::plan::{Endpoint, Plan, Target, Until};
use crate::record::Record;
use crate::wire::Scanner;

pub struct Shared {
    pub plan: Plan,
    pub cluster: Option<Arc<Cluster>>,
    /// One for each node; one if there is no cluster.
    pub budgets: Vec<Budget>,
    pub gate: Gate,
    pub progress: Vec<Progress>,
    /// Counts the cuts asked for. A thread that sees a new number hands over what it has.
    pub epoch: AtomicU64,
    /// Set when something failed: everybody leaves at once.
    pub stop: AtomicBool,
    pub first_error: Mutex<Option<FirstError>>,
    failure: Mutex<Option<Failure>>,
    origin: Instant,
}

/// An error reply, shown as an example of all that came.
#[derive(Clone, Debug)]
pub struct FirstError {
    pub command: String,
    pub reply: Vec<u8>,
}

/// One cache line per thread: written by it, read by the one who watches.
#[repr(align(128))]
#[derive(Default)]
pub struct Progress {
    pub replies: AtomicU64,
    pub over: AtomicBool,
}

/// What one thread measured between two cuts.
pub struct Slice {
    pub thread: usize,
    pub epoch: u64,
    pub last: bool,
    pub record: Record,
}

impl Shared {
    pub fn new(plan: Plan) -> Result<Shared, Failure> {
        let total = match plan.until {
            Until::Requests(count) => count,
            Until::Time(_) => plan.workload.trace.as_ref().map_or(u64::MAX, |trace| trace.len()),
        };
        let cluster = match plan.cluster {
            true => Some(Arc::new(Cluster::discover(&plan.target, &plan.workload.names, plan.workload.keys)?)),
            false => None,
        };
        if let Some(nodes) =
            cluster.as_ref().map(|cluster| cluster.nodes.len()).filter(|&nodes| nodes > plan.connections)
        {
            // The keys of a node without any would never be asked for.
            return Err(Failure::system(
                "--cluster needs a connection for each node",
                format!("there are {nodes} nodes, and -c says {}", plan.connections),
            ));
        }
        let budgets = match &cluster {
            Some(cluster) if total != u64::MAX => cluster.shares(total).into_iter().map(Budget::new).collect(),
            Some(cluster) => cluster.nodes.iter().map(|_| Budget::new(u64::MAX)).collect(),
            None => vec![Budget::new(total)],
        };
        Ok(Shared {
            cluster,
            budgets,
            gate: Gate::default(),
            progress: (0..plan.threads).map(|_| Progress::default()).collect(),
            epoch: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            first_error: Mutex::new(None),
            failure: Mutex::new(None),
            origin: Instant::now(),
            plan,
        })
    }

    /// What connections to `node` talk to.
    pub fn target_of(&self, node: usize) -> Target {
        match &self.cluster {
            None => self.plan.target.clone(),
            Some(cluster) => Target { endpoint: Endpoint::Tcp(cluster.nodes[node]), ..self.plan.target.clone() },
        }
    }

    pub fn scanner(&self) -> Scanner {
        Scanner::new(self.plan.target.protocol, self.plan.verifier.is_some())
    }

    /// No more requests are handed out.
    pub fn close(&self) {
        self.budgets.iter().for_each(Budget::close);
    }

    /// Nanoseconds since the load was made; the clock of everything measured.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// The first failure is the one that is told.
    pub fn fail(&self, failure: Failure) {
        self.failure.lock().expect("not poisoned").get_or_insert(failure);
        self.stop.store(true, Ordering::Relaxed);
        self.gate.changed.notify_all();
    }

    pub fn failure(&self) -> Option<Failure> {
        if !self.stop.load(Ordering::Relaxed) {
            return None;
        }
        self.failure.lock().expect("not poisoned").clone()
    }
}

/// Request numbers, handed out in ranges.
pub struct Budget {
    next: AtomicU64,
    total: u64,
    closed: AtomicBool,
}

impl Budget {
    fn new(total: u64) -> Budget {
        Budget { next: AtomicU64::new(0), total, closed: AtomicBool::new(false) }
    }

    /// Up to `count` request numbers; an empty range is the end.
    #[inline]
    pub fn claim(&self, count: u64) -> Range<u64> {
        if self.is_exhausted() {
            return 0..0;
        }
        let start = self.next.fetch_add(count, Ordering::Relaxed);
        start.min(self.total)..start.saturating_add(count).min(self.total)
    }

    pub fn is_exhausted(&self) -> bool {
        self.closed.load(Ordering::Relaxed) || self.is_used_up()
    }

    /// All numbers have been handed out.
    pub fn is_used_up(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.total
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// Holds all threads back until all are connected.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    ready: usize,
    open: bool,
}

impl Gate {
    pub fn wait_until_ready(&self, count: usize, stop: &AtomicBool) {
        let mut state = self.state.lock().expect("not poisoned");
        while state.ready < count && !stop.load(Ordering::Relaxed) {
            // With a timeout, because `stop` is set outside of this lock.
            state = self.changed.wait_timeout(state, Duration::from_millis(20)).expect("not poisoned").0;
        }
    }

    pub fn open(&self) {
        self.state.lock().expect("not poisoned").open = true;
        self.changed.notify_all();
    }

    /// Called by each thread when it is connected.
    pub fn ready_and_wait(&self) {
        let mut state = self.state.lock().expect("not poisoned");
        state.ready += 1;
        self.changed.notify_all();
        while !state.open {
            state = self.changed.wait(state).expect("not poisoned");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_hands_out_each_number_once() {
        let budget = Budget::new(10);
        assert_eq!([budget.claim(4), budget.claim(4), budget.claim(4), budget.claim(4)], [0..4, 4..8, 8..10, 0..0]);
        let endless = Budget::new(u64::MAX);
        endless.claim(3);
        endless.close();
        assert!(endless.claim(1).is_empty());
    }
}
