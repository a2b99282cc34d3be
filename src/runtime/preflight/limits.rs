//! Resource limits: descriptors and locked memory. Soft limits are raised to the hard ones first; what is
//! made of them fits what is left.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use tracing::debug;

use super::super::refusal::Refusal;
use crate::limits::{CLIENTS_MIN, DESCRIPTORS_PER_CORE, DESCRIPTORS_RESERVED};

/// The soft limit after it was raised to the hard one. A limit that cannot be raised stays as it is.
fn raise(resource: Resource) -> Result<u64, Refusal> {
    let read = || getrlimit(resource).map_err(|error| Refusal::System(format!("{resource:?} cannot be read: {error}")));
    let (soft, hard) = read()?;
    if soft == hard {
        return Ok(soft);
    }
    if let Err(error) = setrlimit(resource, hard, hard) {
        debug!("{resource:?} stays at {soft}: raising it to {hard} fails: {error}");
    }
    Ok(read()?.0)
}

/// What a core maps before it has a single key: its rings, its executor, the first chunks of its shard, and the
/// arenas that the allocator reserves for each thread.
const ADDRESS_SPACE_PER_CORE: u64 = 256 << 20;
/// What the process maps beside its cores: program, threads, listeners.
const ADDRESS_SPACE_RESERVED: u64 = 512 << 20;

/// Limits of mapped memory (ulimit -v, ulimit -d) strike anywhere, also where nothing can be refused. So they must
/// leave room for all that is not keys and values.
pub fn check_address_space(cores: usize) -> Result<(), Refusal> {
    let limits = [(Resource::RLIMIT_AS, "LimitAS", "ulimit -v"), (Resource::RLIMIT_DATA, "LimitDATA", "ulimit -d")];
    for (resource, systemd, shell) in limits {
        fit_address_space(raise(resource)?, cores, systemd, shell)?;
    }
    Ok(())
}

fn fit_address_space(limit: u64, cores: usize, systemd: &str, shell: &str) -> Result<(), Refusal> {
    let needed = ADDRESS_SPACE_RESERVED + cores as u64 * ADDRESS_SPACE_PER_CORE;
    if limit >= needed {
        return Ok(());
    }
    Err(Refusal::System(format!(
        "a limit of {limit} bytes of mapped memory is too low: {cores} cores need {needed} before the first key: \
         raise it or take it away ({systemd}=infinity of systemd, {shell} unlimited), or use fewer cores; \
         --max-memory bounds what keys and values take"
    )))
}

/// Descriptors, and how many clients they leave room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    pub limit: u64,
    pub clients_max: usize,
}

impl Descriptors {
    pub fn check(cores: usize, listeners: usize, clients_wanted: usize) -> Result<Descriptors, Refusal> {
        Self::fit(raise(Resource::RLIMIT_NOFILE)?, cores, listeners, clients_wanted)
    }

    fn fit(limit: u64, cores: usize, listeners: usize, clients_wanted: usize) -> Result<Descriptors, Refusal> {
        let own = (DESCRIPTORS_RESERVED + cores * DESCRIPTORS_PER_CORE + listeners) as u64;
        let room = limit.saturating_sub(own);
        if room < CLIENTS_MIN.min(clients_wanted) as u64 {
            return Err(Refusal::System(format!(
                "a limit of {limit} descriptors is too low: {cores} cores with {listeners} listeners need {own}, \
                 and {CLIENTS_MIN} clients as many more: raise it to {} or more (LimitNOFILE= of systemd, ulimit -n, \
                 Docker: --ulimit nofile=N), or use fewer cores",
                own + CLIENTS_MIN as u64
            )));
        }
        Ok(Descriptors { limit, clients_max: clients_wanted.min(usize::try_from(room).unwrap_or(usize::MAX)) })
    }
}

/// Locked memory, and what each executor registers of it for the I/O of files.
///
/// ```text
///   per executor:  main ring   | latency ring | IOPOLL ring     the I/O memory is registered with each,
///                  io_memory   | io_memory    | io_memory       and counted each time
///                  + the rings themselves, and the ring of the sockets (counted since Linux 6.14)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockedMemory {
    /// None for no limit.
    pub limit_bytes: Option<u64>,
    pub io_memory_bytes: usize,
}

/// Below this limit glommio refuses to make an executor.
const LIMIT_BYTES_MIN: u64 = 512 * 1024;
const RINGS_PER_EXECUTOR: u64 = 3;
/// What the rings of one core themselves may take.
const RING_BYTES_PER_CORE: u64 = 512 * 1024;
/// glommio takes at least this much.
const IO_MEMORY_BYTES_MIN: u64 = 64 * 1024;
/// More only pays for many large writes at once.
const IO_MEMORY_BYTES_MAX: u64 = 1024 * 1024;
const PAGE_BYTES: u64 = 4096;

impl LockedMemory {
    pub fn check(cores: usize) -> Result<LockedMemory, Refusal> {
        Self::fit(raise(Resource::RLIMIT_MEMLOCK)?, may_exceed(), cores)
    }

    /// `may_exceed`: the limit does not count for this process, but glommio looks at it all the same.
    fn fit(limit: u64, may_exceed: bool, cores: usize) -> Result<LockedMemory, Refusal> {
        if limit == RLIM_INFINITY {
            return Ok(LockedMemory { limit_bytes: None, io_memory_bytes: IO_MEMORY_BYTES_MAX as usize });
        }
        let needed = match may_exceed {
            true => LIMIT_BYTES_MIN,
            false => bytes_min(cores),
        };
        if limit < needed {
            return Err(Refusal::System(format!(
                "a limit of {limit} bytes of locked memory is too low: {cores} cores need {needed}: \
                 {}, or use fewer cores",
                remedy(needed)
            )));
        }
        let share = (limit / cores as u64).saturating_sub(RING_BYTES_PER_CORE) / RINGS_PER_EXECUTOR;
        let io_memory = (share / PAGE_BYTES * PAGE_BYTES).clamp(IO_MEMORY_BYTES_MIN, IO_MEMORY_BYTES_MAX);
        Ok(LockedMemory { limit_bytes: Some(limit), io_memory_bytes: io_memory as usize })
    }
}

/// Least locked memory for so many cores.
fn bytes_min(cores: usize) -> u64 {
    (cores as u64 * (RINGS_PER_EXECUTOR * IO_MEMORY_BYTES_MIN + RING_BYTES_PER_CORE)).max(LIMIT_BYTES_MIN)
}

/// Which settings raise the limit to `bytes`.
fn remedy(bytes: u64) -> String {
    let kib = bytes.div_ceil(1024);
    format!(
        "raise it to {bytes} or more (LimitMEMLOCK={kib}K of systemd, ulimit -l {kib}, Docker: --ulimit memlock={bytes})"
    )
}

/// Why memory ran out although the limit looked large enough.
pub fn locked_memory_exhausted(locked: &LockedMemory, cores: usize) -> String {
    let limit = locked.limit_bytes.map_or("no limit".into(), |bytes| format!("a limit of {bytes} bytes"));
    format!(
        "no memory for the rings of an executor ({limit} of locked memory, which counts for all processes of a user \
         together): {}, free memory, or use fewer cores",
        remedy(2 * bytes_min(cores).max(locked.limit_bytes.unwrap_or(0)))
    )
}

/// CAP_IPC_LOCK. In a user namespace of its own a process may have it without its effect; the rings tell.
fn may_exceed() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_descriptors_that_are_left() {
        let own = (DESCRIPTORS_RESERVED + 2 * DESCRIPTORS_PER_CORE + 4) as u64;
        let clients = |limit| Descriptors::fit(limit, 2, 4, 10_000).map(|found| found.clients_max);
        assert_eq!(clients(own + 10_000), Ok(10_000));
        assert_eq!(clients(own + 9_999), Ok(9_999));
        assert_eq!(clients(u64::MAX), Ok(10_000));
        assert_eq!(clients(own + CLIENTS_MIN as u64), Ok(CLIENTS_MIN));
        let refusal = clients(own + CLIENTS_MIN as u64 - 1).unwrap_err();
        assert_eq!(refusal.exit_code(), 77);
        assert!(refusal.to_string().contains(&format!("raise it to {}", own + CLIENTS_MIN as u64)), "{refusal}");
        assert_eq!(Descriptors::fit(own + 1, 2, 4, 1).map(|found| found.clients_max), Ok(1));
    }

    #[test]
    fn mapped_memory_must_leave_room_for_the_cores() {
        let needed = ADDRESS_SPACE_RESERVED + 4 * ADDRESS_SPACE_PER_CORE;
        assert_eq!(fit_address_space(RLIM_INFINITY, 64, "", ""), Ok(()));
        assert_eq!(fit_address_space(needed, 4, "", ""), Ok(()));
        let refusal = fit_address_space(needed - 1, 4, "LimitAS", "ulimit -v").unwrap_err();
        assert_eq!(refusal.exit_code(), 77);
        assert!(refusal.to_string().contains("LimitAS=infinity"), "{refusal}");
    }

    #[test]
    fn io_memory_fits_three_times_per_core_beside_the_rings() {
        let io_memory = |limit, cores| LockedMemory::fit(limit, false, cores).map(|found| found.io_memory_bytes as u64);
        for cores in [1, 2, 3, 8, 100] {
            let least = bytes_min(cores);
            assert_eq!(io_memory(least, cores), Ok(IO_MEMORY_BYTES_MIN), "{cores} cores");
            assert!(io_memory(least - 1, cores).is_err(), "{cores} cores");
            for limit in [least, 8 << 20, 64 << 20, 1 << 30] {
                let Ok(bytes) = io_memory(limit, cores) else { continue };
                assert!(cores as u64 * (3 * bytes + RING_BYTES_PER_CORE) <= limit, "{cores} cores, {limit}");
                assert_eq!(bytes % PAGE_BYTES, 0);
            }
        }
        assert_eq!(io_memory(8 << 20, 2), Ok(IO_MEMORY_BYTES_MAX));
        assert_eq!(io_memory(RLIM_INFINITY, 64), Ok(IO_MEMORY_BYTES_MAX));
    }

    #[test]
    fn the_least_that_glommio_takes_is_needed_even_where_the_limit_does_not_count() {
        assert!(LockedMemory::fit(LIMIT_BYTES_MIN, true, 64).is_ok());
        let refusal = LockedMemory::fit(LIMIT_BYTES_MIN - 1, true, 1).unwrap_err();
        assert_eq!(refusal.exit_code(), 77);
        assert!(refusal.to_string().contains("LimitMEMLOCK=512K"), "{refusal}");
    }
}
