//! What happened per second lately: a ring of samples of counters that only grow.
//!
//! A rate is what was counted since the oldest sample of the last [`WINDOW_US`], over the time since then.
//! After an idle time without samples it is the average since the newest one: low, as it should be.

/// The same distance as Redis keeps: 16 samples, 100 ms apart.
const SAMPLES: usize = 16;
const SAMPLE_DISTANCE_US: u64 = 100_000;
const WINDOW_US: u64 = SAMPLES as u64 * SAMPLE_DISTANCE_US;

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at_us: u64,
    commands: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

/// One core's samples. Times are `uptime_us`; they never go back.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    samples: [Sample; SAMPLES],
    /// Samples taken since the start or the last [`Rates::reset`]; the newest is at `taken - 1`.
    taken: usize,
}

super::counters::words! {
    /// What one core did per second lately.
    pub struct RateSnapshot {
        /// Commands processed per second.
        commands_per_second: gauge,
        /// Bytes received from clients per second.
        bytes_received_per_second: gauge,
        /// Bytes sent to clients per second.
        bytes_sent_per_second: gauge,
    }
}

impl Rates {
    /// Takes a sample if the last one is old enough; cheap enough for every turn of a core.
    #[inline]
    pub fn record(&mut self, uptime_us: u64, counters: &super::CoreCounters) {
        if self.taken == 0 || uptime_us.saturating_sub(self.newest().at_us) >= SAMPLE_DISTANCE_US {
            self.samples[self.taken % SAMPLES] = sample(uptime_us, counters);
            self.taken += 1;
        }
    }

    /// Forgets everything, as the counters are about to start from zero.
    pub fn reset(&mut self) {
        *self = Rates::default();
    }

    /// The rates at `uptime_us`, when the counters have reached `counters`.
    pub fn snapshot(&self, uptime_us: u64, counters: &super::CoreCounters) -> RateSnapshot {
        let Some(from) = self.base(uptime_us) else { return RateSnapshot::default() };
        let now = sample(uptime_us, counters);
        let elapsed_us = now.at_us.saturating_sub(from.at_us);
        if elapsed_us == 0 {
            return RateSnapshot::default();
        }
        let per_second = |now: u64, then: u64| {
            (now.saturating_sub(then) as u128 * 1_000_000 / elapsed_us as u128).min(u64::MAX as u128) as u64
        };
        RateSnapshot {
            commands_per_second: per_second(now.commands, from.commands),
            bytes_received_per_second: per_second(now.bytes_received, from.bytes_received),
            bytes_sent_per_second: per_second(now.bytes_sent, from.bytes_sent),
        }
    }

    /// The oldest sample within the window, else the newest before it. A sample just taken says nothing
    /// about the time before it, so the one before that is preferred while there is one.
    fn base(&self, uptime_us: u64) -> Option<Sample> {
        let kept = self.taken.min(SAMPLES);
        let oldest_first = (self.taken - kept..self.taken).map(|index| self.samples[index % SAMPLES]);
        let mut base = None;
        for sample in oldest_first {
            let age_us = uptime_us.saturating_sub(sample.at_us);
            if age_us <= WINDOW_US {
                return match base {
                    Some(before) if age_us < SAMPLE_DISTANCE_US => Some(before),
                    _ => Some(sample),
                };
            }
            base = Some(sample);
        }
        base
    }

    fn newest(&self) -> Sample {
        self.samples[(self.taken - 1) % SAMPLES]
    }
}

fn sample(at_us: u64, counters: &super::CoreCounters) -> Sample {
    Sample {
        at_us,
        commands: counters.commands_processed,
        bytes_received: counters.bytes_received,
        bytes_sent: counters.bytes_sent,
    }
}

#[cfg(test)]
mod tests {
    use super::super::CoreCounters;
    use super::*;

    fn counted(commands: u64) -> CoreCounters {
        CoreCounters {
            commands_processed: commands,
            bytes_received: commands * 30,
            bytes_sent: commands * 5,
            ..CoreCounters::default()
        }
    }

    #[test]
    fn steady_load_is_reported_as_it_is() {
        let mut rates = Rates::default();
        assert_eq!(rates.snapshot(0, &counted(0)), RateSnapshot::default());
        for ms in 0..10_000 {
            rates.record(ms * 1000, &counted(ms * 50));
        }
        let now = rates.snapshot(10_000_000, &counted(500_000));
        assert_eq!(now.commands_per_second, 50_000);
        assert_eq!(now.bytes_received_per_second, 1_500_000);
        assert_eq!(now.bytes_sent_per_second, 250_000);
    }

    #[test]
    fn the_first_seconds_are_reported_too() {
        let mut rates = Rates::default();
        rates.record(500_000, &counted(0));
        assert_eq!(rates.snapshot(750_000, &counted(100)).commands_per_second, 400);
        assert_eq!(rates.snapshot(500_000, &counted(0)), RateSnapshot::default(), "no time has passed");
    }

    #[test]
    fn a_load_that_ended_fades_and_an_idle_core_reports_the_average_since() {
        let mut rates = Rates::default();
        for ms in 0..2000 {
            rates.record(ms * 1000, &counted(ms * 10));
        }
        assert_eq!(rates.snapshot(2_000_000, &counted(20_000)).commands_per_second, 10_000);
        assert!(rates.snapshot(3_000_000, &counted(20_000)).commands_per_second < 6_000);
        assert!(rates.snapshot(60_000_000, &counted(20_001)).commands_per_second < 20, "asleep for a minute");
        // The turn that wakes the core takes a sample and then answers INFO at once: a single command in a
        // microsecond must not look like a million per second.
        rates.record(60_000_000, &counted(20_000));
        assert!(rates.snapshot(60_000_001, &counted(20_001)).commands_per_second < 20);
    }

    #[test]
    fn after_a_reset_old_samples_do_not_count() {
        let mut rates = Rates::default();
        rates.record(0, &counted(1_000_000));
        rates.reset();
        rates.record(1_000_000, &counted(0));
        assert_eq!(rates.snapshot(2_000_000, &counted(7)).commands_per_second, 7);
    }
}
