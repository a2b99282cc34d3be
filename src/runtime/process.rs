//! What the system says about this process and the machine, read when somebody asks.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::host::CoreSetup;
use crate::clock::Now;
use crate::engine::memory::MemoryPool;
use crate::engine::settings::{bytes_shown, policy_name};
use crate::metrics::{ProcessFacts, ServerFacts};

/// Bytes nobody can guess.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    use io::Read;
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// How often the calling thread had to give its CPU to another.
pub fn preemptions_of_this_thread() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches() as u64)
}

/// What gives INFO and STATS the facts that no counter knows.
pub fn facts(
    setup: &CoreSetup,
    run_id: &[u8; 20],
    memory: Arc<MemoryPool>,
) -> Arc<dyn Fn(Now) -> ServerFacts + Send + Sync> {
    let fixed = ServerFacts {
        pid: std::process::id(),
        run_id: run_id.iter().map(|byte| format!("{byte:02x}")).collect(),
        // As in Redis: of a server that speaks TLS alone it is that port.
        port: setup.addresses.port.or(setup.addresses.tls_port).unwrap_or_default(),
        cores: setup.cores as u32,
        kernel: kernel(),
        executable: std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default(),
        clients_max: setup.clients_max as u64,
        cluster_enabled: setup.config.cluster,
        ..ServerFacts::default()
    };
    Arc::new(move |now| ServerFacts {
        unix_time_us: now.unix_ms / 1000 * 1_000_000 + now.unix_us_part as u64,
        uptime_us: now.uptime_us,
        process: process_facts(),
        memory_bytes_max: bytes_shown(&memory),
        memory_policy: policy_name(memory.eviction()),
        ..fixed.clone()
    })
}

/// `Linux 6.18.0 x86_64`
fn kernel() -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    format!("{} {} {}", read("ostype").trim(), read("osrelease").trim(), std::env::consts::ARCH)
}

fn process_facts() -> ProcessFacts {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let [user, system, user_children, system_children] = cpu_times_us();
    let [log_lines_lost, log_lines_held_back] = super::log::lines_missing();
    ProcessFacts {
        rss_bytes: kilobytes(&status, "VmRSS:") * 1024,
        rss_bytes_peak: kilobytes(&status, "VmHWM:") * 1024,
        cpu_user_us: user,
        cpu_system_us: system,
        cpu_user_children_us: user_children,
        cpu_system_children_us: system_children,
        system_memory_bytes: kilobytes(&memory, "MemTotal:") * 1024,
        log_lines_lost,
        log_lines_held_back,
        http_refused: super::admin::refused(),
    }
}

/// The clock of the cores and of the admin HTTP, which share what is counted by it: as of `now`, by a server that started
/// at `started`.
#[inline]
pub fn clock(started: Instant, now: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now {
        unix_ms: wall.as_millis() as u64,
        unix_us_part: wall.subsec_micros(),
        uptime_us: now.saturating_duration_since(started).as_micros() as u64,
    }
}

/// What this process may take: the machine's memory, or less if its cgroup or one above it says so.
pub fn memory_bytes_allowed() -> u64 {
    let machine = process_facts().system_memory_bytes;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    group_limits(&groups, |path| fs::read_to_string(path).ok()).fold(machine, u64::min)
}

/// The limits of memory of all groups that `groups` (as in /proc/self/cgroup) names, and of those above them.
fn group_limits<'a>(groups: &'a str, read: impl Fn(&str) -> Option<String> + 'a) -> impl Iterator<Item = u64> + 'a {
    let files = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        let mut group = group.trim_end_matches('/');
        let mut files = vec![format!("{root}{group}/{file}")];
        while let Some((above, _)) = group.rsplit_once('/') {
            group = above;
            files.push(format!("{root}{group}/{file}"));
        }
        files
    });
    files.filter_map(move |file| read(&file)?.trim().parse().ok())
}

/// The number behind `name` at the start of a line of a /proc file in kB.
fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// User and system time of this process and of its ended children, µs.
fn cpu_times_us() -> [u64; 4] {
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    let usage = |who| nix::sys::resource::getrusage(who).map(|usage| [us(usage.user_time()), us(usage.system_time())]);
    let own = usage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap_or_default();
    let children = usage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap_or_default();
    [own[0], own[1], children[0], children[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_this_process() {
        let facts = process_facts();
        assert!(facts.rss_bytes > 0 && facts.rss_bytes_peak >= facts.rss_bytes);
        assert!(facts.system_memory_bytes > facts.rss_bytes);
        assert!(facts.cpu_user_us + facts.cpu_system_us > 0);
        assert!(kernel().starts_with("Linux "));
    }

    #[test]
    fn the_tightest_group_counts() {
        let read = |path: &str| match path {
            "/sys/fs/cgroup/a/b/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/a/memory.max" => Some("5000\n".to_owned()),
            "/sys/fs/cgroup/memory/c/memory.limit_in_bytes" => Some("7000\n".to_owned()),
            _ => None,
        };
        assert_eq!(group_limits("0::/a/b\n", read).collect::<Vec<_>>(), [5000]);
        assert_eq!(group_limits("4:cpu,memory:/c\n3:pids:/a\n", read).collect::<Vec<_>>(), [7000]);
        assert_eq!(group_limits("", read).count(), 0);
        assert!(memory_bytes_allowed() > 0 && memory_bytes_allowed() <= process_facts().system_memory_bytes);
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random_bytes::<32>().unwrap(), random_bytes::<32>().unwrap());
    }
}
