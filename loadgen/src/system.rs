//! The few calls to the kernel that std does not wrap, each behind a safe function. Outside of the ring,
//! all unsafe code of this program is here.

use std::io;
use std::process::Command;
use std::time::Duration;

pub type Pid = libc::pid_t;

pub const SIGTERM: i32 = libc::SIGTERM;
pub const SIGKILL: i32 = libc::SIGKILL;
pub const SIGSTOP: i32 = libc::SIGSTOP;
pub const SIGCONT: i32 = libc::SIGCONT;

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock")
}

/// User and system time of a process, all its threads, dead ones too, by the scheduler's own accounts.
/// `None` if there is no such process.
pub fn process_cpu(pid: Pid) -> Option<Duration> {
    let mut id: libc::clockid_t = 0;
    // SAFETY: writes one clock id, a local of ours.
    let known = unsafe { libc::clock_getcpuclockid(pid, &mut id) } == 0;
    if known { clock(id) } else { None }
}

fn clock(id: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, a local of ours.
    let known = unsafe { libc::clock_gettime(id, &mut time) } == 0;
    known.then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Timers of the calling thread fire as exactly as they can, instead of up to 50 µs late.
pub fn sharpen_timers() {
    // SAFETY: takes two integers and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// Bytes that a process may lock in memory; `None` if nobody knows.
pub fn locked_memory_limit() -> Option<u64> {
    limit(libc::RLIMIT_MEMLOCK).map(|limit| limit.rlim_cur)
}

/// Makes room for `count` open files, as far as allowed; returns how many there may be.
pub fn allow_files(count: u64) -> u64 {
    let Some(mut files) = limit(libc::RLIMIT_NOFILE) else { return count };
    if files.rlim_cur < count {
        files.rlim_cur = count.min(files.rlim_max);
        // SAFETY: reads one rlimit, a local of ours.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &files) };
    }
    limit(libc::RLIMIT_NOFILE).map_or(count, |files| files.rlim_cur)
}

fn limit(resource: libc::__rlimit_resource_t) -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit, a local of ours.
    let known = unsafe { libc::getrlimit(resource, &mut limit) } == 0;
    known.then_some(limit)
}

pub fn is_root() -> bool {
    // SAFETY: touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// How many ticks /proc counts in a second.
pub fn ticks_per_second() -> f64 {
    // SAFETY: touches no memory of ours.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// The CPUs that this process may use, ascending.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is an empty set; the kernel writes into it no more than its size, and
    // CPU_ISSET stays within it for numbers below CPU_SETSIZE.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    }
}

/// Restricts the calling thread, and those it starts later, to these CPUs.
pub fn pin_this_thread(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is an empty set; numbers beyond its size are left out, and the kernel
    // only reads it.
    let outcome = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The command will run on these CPUs only, with no signal blocked, and die when the calling thread does.
pub fn bind_child(command: &mut Command, cpus: Vec<usize>) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let prepare = move || {
        pin_this_thread(&cpus)?;
        // SAFETY: plain system calls on values of our own stack.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: between fork and exec, `prepare` makes only async-signal-safe calls, on memory that was
    // there before: `cpus` was moved in and is only read.
    unsafe { command.pre_exec(prepare) };
}

/// Signals a process group that we made.
pub fn signal_group(group: Pid, signal: i32) {
    assert!(group > 1, "never a process group of somebody else");
    // SAFETY: touches no memory.
    unsafe { libc::killpg(group, signal) };
}

/// The signals that ask a program to end, kept from ending this one.
pub struct EndSignals(libc::sigset_t);

impl EndSignals {
    /// Blocks them for the calling thread and for those it starts later.
    pub fn block() -> EndSignals {
        // SAFETY: the set is a local of ours, initialised by sigemptyset before any other use.
        unsafe {
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut signals);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&mut signals, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
            EndSignals(signals)
        }
    }

    /// Waits for the next one.
    pub fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are to memory that lives through the call.
        while unsafe { libc::sigwait(&self.0, &mut signal) } != 0 {}
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
