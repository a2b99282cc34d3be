//! How a core waits for work: it looks for some, or sleeps in its ring or in the executor, for as long as nothing has to happen.

use std::io;
use std::time::{Duration, Instant};

use super::{Core, TICK};
use crate::runtime::bridge::Bridge;
use crate::runtime::wal::core_log::CoreLog;

/// Longest sleep, and with it the longest that housekeeping waits on an idle core.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// The same while keys expire: their memory is due back within a second.
const SLEEP_WITH_HOUSEKEEPING: Duration = Duration::from_millis(50);

impl Core {
    /// Enters the ring; with a `wait`, until something happens.
    pub(super) fn enter(&mut self, wait: Duration) -> io::Result<()> {
        self.engine.counters.turns += 1;
        if wait.is_zero() {
            return self.ring.poll();
        }
        if let Some(bound) = self.spin.begin(self.ring.active_sockets()) {
            self.ring.poll()?;
            let found = self.ring.has_events() || self.look_for_work(bound);
            self.spin.end(found);
            if found {
                return self.ring.poll();
            }
        }
        if !self.mesh.fall_asleep() {
            return self.ring.poll();
        }
        if self.engine.has_open_gates() {
            self.mesh.wake_up();
            return self.ring.poll();
        }
        self.engine.counters.sleeps += 1;
        let entered = self.ring.wait(wait);
        self.mesh.wake_up();
        entered
    }

    /// Looks for up to `bound` whether there is anything to do.
    fn look_for_work(&mut self, bound: Duration) -> bool {
        let until = Instant::now() + bound;
        loop {
            for _ in 0..32 {
                if self.ring.is_ready() || self.mesh.has_arrivals() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if Instant::now() >= until {
                return false;
            }
        }
    }

    /// Whether there was nothing that had to be done at once.
    pub(super) async fn sleep_in_executor(&mut self, bridge: &Bridge, bound: Duration) -> io::Result<bool> {
        self.ring.poll()?;
        if self.ring.has_events() || !self.mesh.fall_asleep() {
            return Ok(false);
        }
        if self.engine.has_open_gates() {
            self.mesh.wake_up();
            return Ok(false);
        }
        self.engine.counters.sleeps += 1;
        let log = self.log.as_ref();
        let logged = async {
            match log {
                Some(log) => log.wait().await,
                None => std::future::pending().await,
            }
        };
        let slept = bridge.sleep(&mut self.ring, bound, logged).await;
        self.mesh.wake_up();
        slept
    }

    /// Whether there is something to do without waiting for anybody.
    pub(super) fn is_busy(&self) -> bool {
        self.ring.has_events()
            || self.engine.has_resumable()
            || self.engine.has_postponed()
            || self.engine.has_dirty()
            || !self.exhausted.is_empty()
            || !self.arrivals.is_empty()
            || !self.shelved.is_empty()
            || self.mesh.has_arrivals()
            || self.serving.has_begun()
            || self.engine.can_ship()
            || self.log.as_ref().is_some_and(CoreLog::has_work)
            || self.behind
    }

    /// How long nothing has to happen.
    pub(super) fn sleep_bound(&self) -> Duration {
        let bound = self.sleep_bound_of_loop();
        match self.engine.wakes_at_us() {
            Some(due_us) => {
                bound.min(Duration::from_micros(due_us.saturating_sub(self.engine.now().uptime_us)).max(TICK))
            }
            None => bound,
        }
    }

    fn sleep_bound_of_loop(&self) -> Duration {
        if self.draining.is_some()
            || !self.withheld.is_empty()
            || self.ring.has_starved_sends()
            || !self.resting.is_empty()
            || self.engine.has_delays()
        {
            TICK
        } else if self.engine.has_housekeeping() || !self.lingering.is_empty() || !self.handshakes.is_empty() {
            self.until_log_due(SLEEP_WITH_HOUSEKEEPING)
        } else {
            self.until_log_due(SLEEP_MAX)
        }
    }

    /// No longer than until the log has something to do.
    fn until_log_due(&self, bound: Duration) -> Duration {
        match self.engine.log_due_us() {
            Some(0) => TICK,
            Some(due_us) => bound.min(Duration::from_micros(due_us)),
            None => bound,
        }
    }
}
