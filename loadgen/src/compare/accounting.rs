//! Who used what: families of processes, their memory, and the CPU that others took.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use crate::system::{Pid, process_cpu, ticks_per_second};

/// A process and all its descendants.
pub fn family(root: Pid) -> Vec<Pid> {
    let mut members = vec![root];
    let mut next = 0;
    while let Some(&pid) = members.get(next) {
        next += 1;
        for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(entry.path().join("children")).unwrap_or_default();
            members.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<Pid>().ok()));
        }
    }
    members
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// CPU used by everybody so far, to be compared with a later one.
pub struct Census {
    taken: Instant,
    /// Process id → its CPU time. Without kernel threads: what they do for the network is for us.
    processes: HashMap<Pid, u64>,
    /// Time that the hypervisor gave to other machines, all CPUs, in ticks.
    stolen_ticks: u64,
    busy_ticks: u64,
}

const KERNEL_THREADS_PARENT: &str = "2";
/// Busy time by ticks is a sample: this much of one CPU may be chance.
const TICKS_DOUBT: f64 = 0.15;

impl Census {
    pub fn take() -> Census {
        let mut processes = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<Pid>().ok()) else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // "pid (name, which may hold anything) state parent …"
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
            if parent.is_none_or(|parent| parent == KERNEL_THREADS_PARENT) {
                continue;
            }
            if let Some(cpu) = process_cpu(pid) {
                processes.insert(pid, cpu.as_nanos() as u64);
            }
        }
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        // cpu user nice system idle iowait irq softirq steal …
        let fields: Vec<u64> = match stat.lines().next() {
            Some(line) => line.split_ascii_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect(),
            None => Vec::new(),
        };
        let field = |index: usize| fields.get(index).copied().unwrap_or(0);
        Census {
            taken: Instant::now(),
            processes,
            stolen_ticks: field(7),
            busy_ticks: field(0) + field(1) + field(2) + field(5) + field(6),
        }
    }

    /// The share of one CPU that others than `ours` used since `before`, stolen time included.
    pub fn foreign_share(&self, before: &Census, ours: &[Pid]) -> f64 {
        let ours: HashSet<Pid> = ours.iter().copied().collect();
        let elapsed = (self.taken - before.taken).as_secs_f64().max(1e-9);
        let mut foreign_ns = 0;
        let mut ours_ns = 0;
        for (pid, cpu_ns) in &self.processes {
            // A process that is new since then has used all of its time since then.
            let used_ns = cpu_ns.saturating_sub(before.processes.get(pid).copied().unwrap_or(0));
            if ours.contains(pid) { ours_ns += used_ns } else { foreign_ns += used_ns }
        }
        // Processes that ended meanwhile are in no list; they show in the ticks.
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second();
        let unaccounted = seconds(self.busy_ticks.saturating_sub(before.busy_ticks))
            - Duration::from_nanos(ours_ns + foreign_ns).as_secs_f64();
        let vanished = (unaccounted / elapsed - TICKS_DOUBT).max(0.0);
        let stolen = seconds(self.stolen_ticks.saturating_sub(before.stolen_ticks)) / elapsed;
        foreign_ns as f64 / 1e9 / elapsed + vanished + stolen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_belongs_to_the_family_and_is_no_stranger() {
        let mut child = std::process::Command::new("sleep").arg("5").spawn().unwrap();
        let pid = child.id() as Pid;
        let members = family(std::process::id() as Pid);
        assert!(members.contains(&pid), "{members:?}");
        assert!(resident_bytes(std::process::id() as Pid) > 100_000);
        let before = Census::take();
        let after = Census::take();
        assert!(before.processes.contains_key(&pid));
        let all: Vec<Pid> = after.processes.keys().copied().collect();
        assert!(after.foreign_share(&before, &all) <= after.foreign_share(&before, &[]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process_cpu(pid), None);
    }
}
