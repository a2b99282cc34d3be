//! What a load measured: latencies and counts per command, gathered per thread and merged.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies are recorded in nanoseconds up to this; longer ones count as this.
pub const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// One command of the mix.
#[derive(Clone, Debug)]
pub struct CommandRecord {
    pub latency_ns: Histogram<u64>,
    pub errors: u64,
    /// Values found and not found by reads.
    pub hits: u64,
    pub misses: u64,
}

impl CommandRecord {
    fn new() -> CommandRecord {
        let latency_ns = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("valid bounds");
        CommandRecord { latency_ns, errors: 0, hits: 0, misses: 0 }
    }

    pub fn replies(&self) -> u64 {
        self.latency_ns.len()
    }

    pub fn merge(&mut self, other: &CommandRecord) {
        self.latency_ns.add(&other.latency_ns).expect("all histograms have the same bounds");
        self.errors += other.errors;
        self.hits += other.hits;
        self.misses += other.misses;
    }
}

#[derive(Clone, Debug)]
pub struct Record {
    pub commands: Vec<CommandRecord>,
    /// Time between two cuts, as the thread saw it.
    pub elapsed: Duration,
    /// CPU time of the generating threads.
    pub cpu: Duration,
    /// The part of it in which an open loop did nothing but look whether its next request was due.
    pub spun: Duration,
    /// How long the generating threads had work, and no CPU to do it on.
    pub starved: Duration,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Sets that followed misses (read-through).
    pub fills: u64,
    /// Open loop: requests that were still waiting in line when time was up.
    pub never_sent: u64,
}

impl Record {
    pub fn new(commands: usize) -> Record {
        Record {
            commands: (0..commands).map(|_| CommandRecord::new()).collect(),
            elapsed: Duration::ZERO,
            cpu: Duration::ZERO,
            spun: Duration::ZERO,
            starved: Duration::ZERO,
            bytes_sent: 0,
            bytes_received: 0,
            fills: 0,
            never_sent: 0,
        }
    }

    /// Adds what another thread measured in the same time.
    pub fn merge_parallel(&mut self, other: &Record) {
        self.merge(other);
        self.elapsed = self.elapsed.max(other.elapsed);
    }

    /// Adds what was measured afterwards.
    pub fn merge_following(&mut self, other: &Record) {
        self.merge(other);
        self.elapsed += other.elapsed;
    }

    fn merge(&mut self, other: &Record) {
        for (mine, theirs) in self.commands.iter_mut().zip(&other.commands) {
            mine.merge(theirs);
        }
        self.cpu += other.cpu;
        self.spun += other.spun;
        self.starved += other.starved;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.fills += other.fills;
        self.never_sent += other.never_sent;
    }

    pub fn replies(&self) -> u64 {
        self.commands.iter().map(CommandRecord::replies).sum()
    }

    pub fn errors(&self) -> u64 {
        self.commands.iter().map(|command| command.errors).sum()
    }

    pub fn hits(&self) -> u64 {
        self.commands.iter().map(|command| command.hits).sum()
    }

    pub fn misses(&self) -> u64 {
        self.commands.iter().map(|command| command.misses).sum()
    }

    /// All commands together.
    pub fn total(&self) -> CommandRecord {
        let mut total = CommandRecord::new();
        self.commands.iter().for_each(|command| total.merge(command));
        total
    }

    pub fn replies_per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.replies() as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_counts_and_keeps_the_longer_time() {
        let mut first = Record::new(2);
        first.commands[0].latency_ns.record(1_000).unwrap();
        first.elapsed = Duration::from_secs(1);
        let mut second = Record::new(2);
        second.commands[1].latency_ns.record_n(2_000, 3).unwrap();
        second.commands[1].misses = 2;
        second.elapsed = Duration::from_secs(2);

        let mut parallel = first.clone();
        parallel.merge_parallel(&second);
        assert_eq!((parallel.replies(), parallel.misses(), parallel.elapsed.as_secs()), (4, 2, 2));
        assert_eq!(parallel.replies_per_second(), 2.0);
        assert_eq!(parallel.total().latency_ns.max(), 2_000);

        first.merge_following(&second);
        assert_eq!((first.replies(), first.elapsed.as_secs()), (4, 3));
    }
}
