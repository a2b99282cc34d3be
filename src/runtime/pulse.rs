//! Whether every core makes its turns, for whoever has to notice when one does not: `/livez`, the log, and the watchdog
//! of systemd.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One beat per core, written by the core itself while it makes turns and by nobody else.
pub struct Pulses {
    started: Instant,
    /// When each core made its last turn with a tick, in milliseconds since `started`; 0: it has made none yet.
    beats: Box<[AtomicU64]>,
    serving: AtomicBool,
}

impl Pulses {
    pub fn new(cores: usize, started: Instant) -> Pulses {
        let beats = (0..cores).map(|_| AtomicU64::new(0)).collect();
        Pulses { started, beats, serving: AtomicBool::new(false) }
    }

    pub fn cores(&self) -> usize {
        self.beats.len()
    }

    /// The core makes a turn at `now`.
    #[inline]
    pub fn beat(&self, core: usize, now: Instant) {
        // Never 0, which means none yet.
        let uptime_ms = now.saturating_duration_since(self.started).as_millis() as u64 | 1;
        self.beats[core].store(uptime_ms, Ordering::Relaxed);
    }

    /// Every core has all that it needs to serve.
    pub fn begin_to_serve(&self) {
        self.serving.store(true, Ordering::Release);
    }

    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// Whether every core has come so far that it makes turns.
    pub fn have_all_begun(&self) -> bool {
        self.beats.iter().all(|beat| beat.load(Ordering::Relaxed) > 0)
    }

    /// Cores that have made no turn for longer than `silence_max`, and for how many milliseconds. Those that have not
    /// begun do not count.
    pub fn late(&self, now: Instant, silence_max: Duration) -> impl Iterator<Item = (usize, u64)> {
        let now_ms = now.saturating_duration_since(self.started).as_millis() as u64;
        let silence_ms_max = silence_max.as_millis() as u64;
        let beats = self.beats.iter().map(|beat| beat.load(Ordering::Relaxed)).enumerate();
        beats
            .filter(|(_, beat)| *beat > 0)
            .map(move |(core, beat)| (core, now_ms.saturating_sub(beat)))
            .filter(move |(_, age_ms)| *age_ms > silence_ms_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_falls_silent_is_late() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let pulses = Pulses::new(3, started);
        let late = |now_ms| pulses.late(at(now_ms), Duration::from_millis(100)).collect::<Vec<_>>();
        pulses.beat(0, at(0));
        pulses.beat(1, at(51));
        assert!(!pulses.have_all_begun());
        assert_eq!(late(101), []);
        assert_eq!(late(102), [(0, 101)], "core 2 has not begun");
        pulses.beat(0, at(601));
        pulses.beat(2, at(601));
        assert!(pulses.have_all_begun());
        assert_eq!(late(602), [(1, 551)]);
        assert!(!pulses.is_serving());
        pulses.begin_to_serve();
        assert!(pulses.is_serving());
    }
}
