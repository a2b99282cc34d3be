//! The calls to the kernel that std does not wrap, by the safe functions of nix; what has to be unsafe (a
//! child between fork and exec) is here too, behind a safe function.

use std::io;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, killpg};
use nix::sys::{prctl, resource};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, geteuid, getppid, sysconf};

pub use nix::sys::signal::Signal;

pub type Pid = i32;

/// The calling thread, in calls that take a process.
const THIS_THREAD: nix::unistd::Pid = nix::unistd::Pid::from_raw(0);

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    clock(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock")
}

/// How long the calling thread has waited for a CPU; nothing if this kernel does not count it.
pub fn thread_starved() -> Duration {
    // Nanoseconds run, nanoseconds waited, slices.
    let counted = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited_ns = counted.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok());
    Duration::from_nanos(waited_ns.unwrap_or(0))
}

/// User and system time of a process, all its threads, dead ones too, by the scheduler's own accounts.
/// `None` if there is no such process.
pub fn process_cpu(pid: Pid) -> Option<Duration> {
    clock(ClockId::pid_cpu_clock_id(nix::unistd::Pid::from_raw(pid)).ok()?)
}

fn clock(id: ClockId) -> Option<Duration> {
    clock_gettime(id).ok().map(Duration::from)
}

/// Timers of the calling thread fire as exactly as they can, instead of up to 50 µs late.
pub fn sharpen_timers() {
    // Without it they are as late as everybody's.
    let _ = prctl::set_timerslack(1);
}

/// Bytes that a process may lock in memory; `None` if nobody knows.
pub fn locked_memory_limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft)
}

/// Makes room for `count` open files, as far as allowed; returns how many there may be.
pub fn allow_files(count: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return count };
    if soft < count {
        let wanted: resource::rlim_t = count.min(hard);
        // What became of it is asked below.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
    }
    getrlimit(Resource::RLIMIT_NOFILE).map_or(count, |(soft, _)| soft)
}

pub fn is_root() -> bool {
    geteuid().is_root()
}

/// How many ticks /proc counts in a second.
pub fn ticks_per_second() -> f64 {
    const USUAL: i64 = 100;
    sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(USUAL) as f64
}

/// The CPUs that this process may use, ascending.
pub fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(THIS_THREAD) else { return Vec::new() };
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu) == Ok(true)).collect()
}

/// Restricts the calling thread, and those it starts later, to these CPUs.
pub fn pin_this_thread(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu)?;
    }
    Ok(sched_setaffinity(THIS_THREAD, &set)?)
}

/// The command will run on these CPUs only, with no signal blocked, and die when the calling thread does.
pub fn bind_child(command: &mut Command, cpus: Vec<usize>) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let prepare = move || {
        pin_this_thread(&cpus)?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above.
        if getppid().as_raw() as u32 != parent {
            return Err(nix::Error::ESRCH.into());
        }
        Ok(SigSet::empty().thread_set_mask()?)
    };
    // SAFETY: between fork and exec, `prepare` makes only plain system calls, on its own stack and on memory
    // that was there before: `cpus` was moved in and is only read. Nothing of it allocates or takes a lock.
    unsafe { command.pre_exec(prepare) };
}

/// Signals a process group that we made. One that is gone already needs no signal.
pub fn signal_group(group: Pid, signal: Signal) {
    assert!(group > 1, "never a process group of somebody else");
    let _ = killpg(nix::unistd::Pid::from_raw(group), signal);
}

/// The signals that ask a program to end, kept from ending this one.
pub struct EndSignals(SigSet);

impl EndSignals {
    /// Blocks them for the calling thread and for those it starts later.
    pub fn block() -> EndSignals {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().expect("a set of signals that exist");
        EndSignals(signals)
    }

    /// Waits for the next one.
    pub fn wait(&self) {
        while self.0.wait().is_err() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn clocks_run_while_we_compute() {
        let pid = std::process::id() as Pid;
        let (thread, process) = (thread_cpu(), process_cpu(pid).unwrap());
        let started = Instant::now();
        let mut sum = 0u64;
        while started.elapsed() < Duration::from_millis(30) {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        let passed = Duration::from_millis(1);
        assert!(thread_cpu() > thread + passed && process_cpu(pid).unwrap() > process + passed, "{sum}");
    }

    #[test]
    fn a_bound_child_runs_where_it_should() {
        let cpu = *allowed_cpus().last().unwrap();
        let mut command = Command::new("grep");
        command.args(["Cpus_allowed_list", "/proc/self/status"]);
        bind_child(&mut command, vec![cpu]);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).split_whitespace().last(), Some(&*cpu.to_string()));
    }
}
