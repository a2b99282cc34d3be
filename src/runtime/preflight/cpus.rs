//! Which CPU each core gets.

use tracing::warn;

use super::super::refusal::Refusal;
use crate::config::Cores;
use crate::limits::CORES_MAX;

/// The CPUs this process may use (`taskset`, `CPUAffinity=`, cpusets of containers), ascending. Empty when
/// the system does not tell.
pub fn allowed() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// For each core its CPU, or None for all of them when they have to share.
pub fn place(cores: &Cores, allowed: &[usize]) -> Result<Vec<Option<usize>>, Refusal> {
    let pinned = |cpus: &[usize]| cpus.iter().copied().map(Some).collect();
    match cores {
        Cores::Allowed if allowed.is_empty() => {
            warn!("the CPUs this process may use cannot be read: running one core, unpinned (give --cores)");
            Ok(vec![None])
        }
        Cores::Allowed if allowed.len() > CORES_MAX => {
            warn!("using {CORES_MAX} of {} CPUs: more cores are not supported", allowed.len());
            Ok(pinned(&allowed[..CORES_MAX]))
        }
        Cores::Allowed => Ok(pinned(allowed)),
        Cores::Count(count) if *count <= allowed.len() => Ok(pinned(&allowed[..*count])),
        Cores::Count(count) => {
            warn!(
                "{count} cores share {} CPUs: none is pinned, expect less than with --cores {}",
                allowed.len(),
                allowed.len()
            );
            Ok(vec![None; *count])
        }
        Cores::Cpus(cpus) => {
            let missing: Vec<usize> = cpus.iter().copied().filter(|cpu| !allowed.contains(cpu)).collect();
            if missing.is_empty() {
                return Ok(pinned(cpus));
            }
            Err(Refusal::System(format!(
                "--cores names {}, but this process may only use {}: change --cores, or what confines the process \
                 (taskset, CPUAffinity= or AllowedCPUs= of systemd, the cpuset of a container)",
                list(&missing),
                list(allowed)
            )))
        }
    }
}

/// `CPU 3`, `CPUs 0-3,8`.
pub fn list(cpus: &[usize]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    let pieces: Vec<String> = sorted
        .chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [only] => only.to_string(),
            run => format!("{}-{}", run[0], run[run.len() - 1]),
        })
        .collect();
    match sorted.len() {
        0 => "no CPU".into(),
        1 => format!("CPU {}", pieces[0]),
        _ => format!("CPUs {}", pieces.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_get_the_cpus_that_are_allowed() {
        assert_eq!(place(&Cores::Allowed, &[2, 5]), Ok(vec![Some(2), Some(5)]));
        assert_eq!(place(&Cores::Count(1), &[2, 5]), Ok(vec![Some(2)]));
        assert_eq!(place(&Cores::Cpus(vec![5, 2]), &[2, 5]), Ok(vec![Some(5), Some(2)]));
        assert_eq!(place(&Cores::Count(3), &[2, 5]), Ok(vec![None; 3]));
        assert_eq!(place(&Cores::Allowed, &[]), Ok(vec![None]));
        let many: Vec<usize> = (0..CORES_MAX + 3).collect();
        assert_eq!(place(&Cores::Allowed, &many).unwrap().len(), CORES_MAX);
    }

    #[test]
    fn cpus_out_of_reach_are_named() {
        let refusal = place(&Cores::Cpus(vec![0, 7, 8, 2]), &[0, 1]).unwrap_err();
        assert_eq!(refusal.exit_code(), 77);
        assert!(refusal.to_string().contains("names CPUs 2,7-8, but this process may only use CPUs 0-1"), "{refusal}");
    }

    #[test]
    fn cpus_are_listed_as_they_are_typed() {
        assert_eq!(list(&[]), "no CPU");
        assert_eq!(list(&[3]), "CPU 3");
        assert_eq!(list(&[3, 0, 1, 2, 8]), "CPUs 0-3,8");
    }
}
