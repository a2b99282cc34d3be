//! Whether io_uring works here, found out by using it: a ring as the cores use it is made, asked, entered.

use std::{fs, io};

use io_uring::{IoUring, Probe, opcode};
use nix::errno::Errno;

use super::super::refusal::Refusal;

/// Where io_uring failed and what the system says about itself.
#[derive(Clone, Copy, Debug)]
struct Failure {
    call: &'static str,
    errno: Errno,
    /// `kernel.io_uring_disabled`, where the kernel has it.
    disabled: Option<u32>,
    /// Whether a seccomp filter is at work on this process.
    seccomp: bool,
}

pub fn check() -> Result<(), Refusal> {
    let explain = |call, error: io::Error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        explain(Failure { call, errno, disabled: disabled(), seccomp: seccomp() })
    };
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .build(8)
        .map_err(|error| explain("io_uring_setup", error))?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| explain("io_uring_register", error))?;
    ring.submit().map_err(|error| explain("io_uring_enter", error))?;
    let needed = [
        ("accept", opcode::Accept::CODE),
        ("recv", opcode::Recv::CODE),
        ("send", opcode::Send::CODE),
        ("sendmsg", opcode::SendMsg::CODE),
        ("async cancel", opcode::AsyncCancel::CODE),
        ("timeout", opcode::Timeout::CODE),
    ];
    match needed.iter().find(|(_, code)| !probe.is_supported(*code)) {
        None => Ok(()),
        Some((name, _)) => {
            Err(Refusal::System(format!("this kernel's io_uring has no {name}: use Linux 6.1 or newer")))
        }
    }
}

fn disabled() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn seccomp() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter_map(|line| line.strip_prefix("Seccomp:")).any(|mode| mode.trim() != "0")
}

fn explain(failure: Failure) -> Refusal {
    let Failure { call, errno, disabled, seccomp } = failure;
    const SECCOMP: &str = "allow io_uring_setup, io_uring_enter and io_uring_register \
        (Docker: --security-opt seccomp=PROFILE with these calls, or seccomp=unconfined; \
        Kubernetes: a seccompProfile with them; systemd: SystemCallFilter=@system-service)";
    let text = match (errno, disabled) {
        (Errno::EPERM | Errno::EACCES, Some(2)) => {
            "io_uring is switched off on this system: sysctl -w kernel.io_uring_disabled=0".into()
        }
        (Errno::EPERM | Errno::EACCES, Some(1)) if call == "io_uring_setup" && !seccomp => {
            "io_uring is reserved for privileged processes on this system: sysctl -w kernel.io_uring_disabled=0, \
             or sysctl -w kernel.io_uring_group=GID with a group of this process"
                .into()
        }
        (Errno::EPERM | Errno::EACCES, _) if seccomp => format!("a seccomp filter forbids {call} ({errno}): {SECCOMP}"),
        (Errno::EPERM | Errno::EACCES, _) => format!(
            "{call} is forbidden ({errno}), though neither kernel.io_uring_disabled nor a seccomp filter does it: \
             look at the security module (SELinux: allow io_uring; AppArmor: the profile of this process)"
        ),
        (Errno::ENOSYS, _) if seccomp => format!("a seccomp filter hides {call} ({errno}): {SECCOMP}"),
        (Errno::ENOSYS, _) => {
            format!(
                "this kernel has no {call}: use one built with CONFIG_IO_URING=y (sandboxes such as gVisor have none)"
            )
        }
        (Errno::EINVAL, _) => format!(
            "this kernel refuses the io_uring flags that are needed (single issuer, deferred task work): \
             {call} says {errno}; use Linux 6.1 or newer"
        ),
        (Errno::ENOMEM, _) => format!(
            "no memory for a ring: {call} says {errno}; raise the limit of locked memory (LimitMEMLOCK=8M, ulimit -l 8192, \
             Docker: --ulimit memlock=8388608), which counts for all processes of a user together, or free memory"
        ),
        (Errno::EMFILE | Errno::ENFILE, _) => {
            format!("no descriptor for a ring: {call} says {errno}; raise LimitNOFILE= (ulimit -n) or fs.file-max")
        }
        _ => format!("{call} fails: {errno}"),
    };
    Refusal::System(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_remedy() {
        let text = |call, errno, disabled, seccomp| {
            let refusal = explain(Failure { call, errno, disabled, seccomp });
            assert_eq!(refusal.exit_code(), 77);
            refusal.to_string()
        };
        let setup = "io_uring_setup";
        assert!(text(setup, Errno::EPERM, Some(2), false).contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(text(setup, Errno::EPERM, Some(2), true).contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(text(setup, Errno::EPERM, Some(1), false).contains("kernel.io_uring_group=GID"));
        assert!(text(setup, Errno::EPERM, Some(0), true).contains("a seccomp filter forbids io_uring_setup"));
        assert!(text(setup, Errno::EPERM, None, true).contains("--security-opt seccomp="));
        assert!(text("io_uring_enter", Errno::EPERM, Some(0), true).contains("forbids io_uring_enter"));
        assert!(text(setup, Errno::EPERM, Some(0), false).contains("SELinux"));
        assert!(text(setup, Errno::ENOSYS, None, true).contains("seccomp filter hides"));
        assert!(text(setup, Errno::ENOSYS, None, false).contains("CONFIG_IO_URING"));
        assert!(text(setup, Errno::EINVAL, Some(0), false).contains("6.1 or newer"));
        assert!(text(setup, Errno::ENOMEM, Some(0), false).contains("LimitMEMLOCK="));
        assert!(text(setup, Errno::EMFILE, Some(0), false).contains("LimitNOFILE="));
        assert!(text(setup, Errno::EIO, Some(0), false).contains("fails"));
    }
}
