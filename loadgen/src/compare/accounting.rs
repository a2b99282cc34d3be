//! What the kernel charged to whom: CPU clocks of processes, and who else used the CPUs.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

/// User and system time of a process, all its threads, dead ones too, in nanoseconds. `None` if there is
/// no such process.
pub fn process_cpu_ns(pid: libc::pid_t) -> Option<u64> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write to locals of ours only.
    let known =
        unsafe { libc::clock_getcpuclockid(pid, &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0 };
    known.then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A process and all its descendants.
pub fn family(root: libc::pid_t) -> Vec<libc::pid_t> {
    let mut members = vec![root];
    let mut next = 0;
    while let Some(&pid) = members.get(next) {
        next += 1;
        for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(entry.path().join("children")).unwrap_or_default();
            members.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<libc::pid_t>().ok()));
        }
    }
    members
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: libc::pid_t) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// CPU used by everybody so far, to be compared with a later one.
pub struct Census {
    taken: Instant,
    /// Process id → its CPU time. Without kernel threads: what they do for the network is for us.
    processes: HashMap<libc::pid_t, u64>,
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
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<libc::pid_t>().ok()) else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // "pid (name, which may hold anything) state parent …"
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
            if parent.is_none_or(|parent| parent == KERNEL_THREADS_PARENT) {
                continue;
            }
            if let Some(cpu_ns) = process_cpu_ns(pid) {
                processes.insert(pid, cpu_ns);
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
    pub fn foreign_share(&self, before: &Census, ours: &[libc::pid_t]) -> f64 {
        let ours: HashSet<libc::pid_t> = ours.iter().copied().collect();
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

/// Restricts the calling thread, and those it starts later, to these CPUs.
pub fn pin_this_thread(cpus: &[usize]) -> std::io::Result<()> {
    // SAFETY: the set lives on our stack; CPU_SET ignores numbers beyond its size.
    let outcome = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.iter().for_each(|&cpu| libc::CPU_SET(cpu, &mut set));
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The CPUs that this process may use, ascending.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: the set lives on our stack; CPU_ISSET stays within it for numbers below CPU_SETSIZE.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    }
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf touches no memory of ours.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_clock_runs_while_we_compute() {
        let pid = std::process::id() as libc::pid_t;
        let before = process_cpu_ns(pid).unwrap();
        let started = Instant::now();
        let mut sum = 0u64;
        while started.elapsed() < Duration::from_millis(30) {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(process_cpu_ns(pid).unwrap() > before + 1_000_000, "{sum}");
        assert!(resident_bytes(pid) > 100_000);
    }

    #[test]
    fn a_child_belongs_to_the_family_and_is_no_stranger() {
        let mut child = std::process::Command::new("sleep").arg("5").spawn().unwrap();
        let pid = child.id() as libc::pid_t;
        let members = family(std::process::id() as libc::pid_t);
        assert!(members.contains(&pid), "{members:?}");
        let before = Census::take();
        let after = Census::take();
        assert!(before.processes.contains_key(&pid));
        let all: Vec<libc::pid_t> = after.processes.keys().copied().collect();
        assert!(after.foreign_share(&before, &all) <= after.foreign_share(&before, &[]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process_cpu_ns(pid), None);
    }
}
