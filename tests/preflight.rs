//! Everything that can keep the server from starting, provoked for real: limits, affinity, kernel,
//! forbidden io_uring, ports in use, wrong usage. And how it ends when asked to.

mod harness;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Exit, IoUringHold, Ports, Server, run_to_end, run_to_end_under};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::personality::{self, Persona};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, setgid, setgroups, setuid};

const KIB: u64 = 1024;

/// Runs `confine` in the child, after the fork and before the server.
fn confined(mut command: Command, confine: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Command {
    // SAFETY: every `confine` here makes system calls only: no locks, no memory that the parent's other
    // threads might be changing.
    unsafe { command.pre_exec(confine) };
    command
}

fn limit(resource: Resource, soft: u64, hard: u64) -> impl Fn() -> io::Result<()> {
    move || Ok(setrlimit(resource, soft, hard)?)
}

/// Any user but root: no capability exempts it from a limit. Without root the tests are that already.
fn unprivileged() -> impl Fn() -> io::Result<()> {
    // Locked memory is counted per user: nobody else's may be in the way.
    let nobody = 1_000_000 + std::process::id();
    move || {
        if Uid::effective().is_root() {
            setgroups(&[])?;
            setgid(Gid::from_raw(nobody))?;
            setuid(Uid::from_raw(nobody))?;
        }
        Ok(())
    }
}

/// Whether other users may run the server from where it was built.
fn runs_unprivileged() -> bool {
    let outcome = confined(harness::command(&["--version"]), unprivileged()).output();
    let allowed = outcome.is_ok();
    if !allowed {
        println!("skipped: the server cannot be run by another user from where it was built");
    }
    allowed
}

/// A command on free ports that ends by itself.
fn run(args: &[&str], confine: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Exit {
    let ports = Ports::take();
    let mut command = harness::command(args);
    if !args.contains(&"--port") {
        command.args(["--port", &ports.data().to_string()]);
    }
    run_to_end(confined(command, confine))
}

fn free() -> io::Result<()> {
    Ok(())
}

/// One message, with all of `words`, and nothing that looks like a crash.
#[track_caller]
fn assert_refused(exit: &Exit, code: i32, words: &[&str]) {
    assert_eq!(exit.code(), Some(code), "{}", exit.stderr);
    let errors: Vec<&str> = exit.stderr.lines().filter(|line| line.contains("\"ERROR\"")).collect();
    assert_eq!(errors.len(), 1, "one message, not\n{}", exit.stderr);
    for word in words {
        assert!(errors[0].contains(word), "{word:?} is missing in\n{}", errors[0]);
    }
    for trace in ["panicked", "RUST_BACKTRACE", "stack backtrace", "overflow"] {
        assert!(!exit.stderr.contains(trace), "{}", exit.stderr);
    }
}

/// Ends a server and checks that it ended well and quickly.
#[track_caller]
fn assert_stops(mut server: Server) {
    server.signal(Signal::SIGTERM);
    let exit = server.wait();
    assert_eq!(exit.code(), Some(0), "{}", exit.stderr);
    assert!(exit.elapsed < Duration::from_secs(1), "took {:?}", exit.elapsed);
}

/// The CPUs this test may use.
fn cpus() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap()).collect()
}

fn only_cpu(cpu: usize) -> impl Fn() -> io::Result<()> {
    move || {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
    }
}

#[test]
fn ports_taken_by_tests_never_overlap() {
    let taken: Vec<Ports> = (0..20).map(|_| Ports::take()).collect();
    let mut all: Vec<u16> = taken.iter().flat_map(|ports| [ports.data(), ports.core(0), ports.core(15)]).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 60);
}

// --- usage

#[test]
fn wrong_flags_are_named_and_end_with_2() {
    for (args, words) in [
        (&["--port", "70000"][..], "--port"),
        (&["--port", "-1"], "-1"),
        (&["--cores", "0"], "at least one core"),
        (&["--cores", "3-2"], "runs backwards"),
        (&["--cores", "0,x"], "neither a CPU nor a range"),
        (&["--bind", "localhost"], "--bind"),
        (&["--bind", "127.0.0.1,0.0.0.0"], "already covers"),
        (&["--max-clients", "0"], "--max-clients"),
        (&["--max-value-bytes", "1tb"], "not a size"),
        (&["--max-value-bytes", "1gb"], "between 1 and"),
        (&["--log-level", "loud"], "possible values: error, warn, info, debug, trace"),
        (&["--cluster", "maybe"], "--cluster"),
        (&["--advertise-address", "a b"], "not a host"),
        (&["--spin-us", "1000001"], "--spin-us"),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["stray"], "stray"),
    ] {
        let exit = run_to_end(harness::command(args));
        assert_eq!(exit.code(), Some(2), "{args:?}: {}", exit.stderr);
        assert!(exit.stderr.contains(words), "{args:?}: {}", exit.stderr);
        assert!(exit.stdout.is_empty());
    }
}

#[test]
fn ports_of_cores_that_cannot_be_end_with_2() {
    assert_refused(&run(&["--port", "65500", "--cores", "2"], free), 2, &["pass 65535", "--core-port-base"]);
    let overlapping = ["--port", "20001", "--core-port-base", "20000", "--cores", "2"];
    assert_refused(&run(&overlapping, free), 2, &["overlap the data port 20001"]);
}

#[test]
fn the_environment_is_read_below_the_flags() {
    let mut command = harness::command(&[]);
    command.env("CRABCACHE_PORT", "seven");
    let exit = run_to_end(command);
    assert_eq!(exit.code(), Some(78));
    assert_eq!(exit.stderr, "CRABCACHE_PORT: \"seven\": not a whole number\n");

    let server = Server::start_with(&["--cores", "1"], |command| {
        command.env("CRABCACHE_PORT", "1").env("CRABCACHE_CORES", "3-2").env("CRABCACHE_CLUSTER", "no");
        command.env("CRABCACHE_LOG_FORMAT", "human");
    });
    server.connect();
    assert!(server.log().contains("INFO listening on 127.0.0.1:"), "{}", server.log());
    assert!(!server.log().contains("its core"), "{}", server.log());
    assert_stops(server);
}

#[test]
fn help_and_version_end_with_0() {
    let help = run_to_end(harness::command(&["--help"]));
    assert_eq!((help.code(), help.stderr.as_str()), (Some(0), ""));
    for flag in ["--port", "--bind", "--unix-socket", "--cores", "--max-clients", "CRABCACHE_MAX_VALUE_BYTES"] {
        assert!(help.stdout.contains(flag), "{flag} is missing in\n{}", help.stdout);
    }
    let version = run_to_end(harness::command(&["--version"]));
    assert_eq!(version.code(), Some(0));
    assert_eq!(version.stdout, concat!("crabcache ", env!("CARGO_PKG_VERSION"), "\n"));
}

// --- limits

#[test]
fn too_little_locked_memory_is_refused() {
    let exit = run(&["--cores", "1"], limit(Resource::RLIMIT_MEMLOCK, 64 * KIB, 64 * KIB));
    assert_refused(&exit, 77, &["65536 bytes of locked memory", "LimitMEMLOCK=", "ulimit -l"]);
}

#[test]
fn a_low_soft_limit_of_locked_memory_is_raised() {
    let server = Server::start_with(&["--cores", "1"], |command| {
        // SAFETY: system calls only, as in `confined`.
        unsafe { command.pre_exec(limit(Resource::RLIMIT_MEMLOCK, 0, 4096 * KIB)) };
    });
    assert!(server.log().contains("locked memory 4 MiB"), "{}", server.log());
    assert_stops(server);
}

#[test]
fn locked_memory_is_shared_out_to_the_cores_of_somebody_without_privileges() {
    // Just enough by our own account: the kernel must agree when the executors are made.
    let exact = 2 * (3 * 64 + 512) * KIB;
    let confine = |bytes: u64| {
        let (lock, leave) = (limit(Resource::RLIMIT_MEMLOCK, bytes, bytes), unprivileged());
        move || lock().and_then(|()| leave())
    };
    if !runs_unprivileged() {
        return;
    }
    let exit = run(&["--cores", "2"], confine(exact - 1));
    assert_refused(&exit, 77, &["2 cores need", &exact.to_string(), "LimitMEMLOCK=1408K", "use fewer cores"]);

    let server = Server::start_with(&["--cores", "2"], move |command| {
        // SAFETY: system calls only, as in `confined`.
        unsafe { command.pre_exec(confine(exact)) };
    });
    assert!(server.log().contains("64 KiB of I/O memory"), "{}", server.log());
    assert_stops(server);
}

#[test]
fn too_little_mapped_memory_is_refused() {
    let exit = run(&["--cores", "2"], limit(Resource::RLIMIT_AS, 300 * KIB * KIB, 300 * KIB * KIB));
    assert_refused(&exit, 77, &["314572800 bytes of mapped memory", "LimitAS=", "ulimit -v", "--max-memory"]);
    let exit = run(&["--cores", "2"], limit(Resource::RLIMIT_DATA, 300 * KIB * KIB, 300 * KIB * KIB));
    assert_refused(&exit, 77, &["mapped memory", "LimitDATA=", "ulimit -d"]);
}

#[test]
fn too_few_descriptors_are_refused() {
    let exit = run(&["--cores", "2"], limit(Resource::RLIMIT_NOFILE, 64, 64));
    assert_refused(&exit, 77, &["64 descriptors is too low", "LimitNOFILE=", "ulimit -n"]);
}

#[test]
fn descriptors_are_raised_and_bound_the_clients() {
    let server = Server::start_with(&["--cores", "1", "--max-clients", "5000"], |command| {
        // SAFETY: system calls only, as in `confined`.
        unsafe { command.pre_exec(limit(Resource::RLIMIT_NOFILE, 64, 1024)) };
    });
    let log = server.log();
    assert!(log.contains("--max-clients 5000 does not fit: 1024 descriptors leave room for"), "{log}");
    assert!(log.contains("\"WARN\"") && log.contains("1024 descriptors, locked"), "{log}");
    assert_stops(server);
}

// --- CPUs

#[test]
fn cores_follow_the_affinity_mask() {
    let cpu = *cpus().last().unwrap();
    let server = Server::start_with(&[], move |command| {
        // SAFETY: system calls only, as in `confined`.
        unsafe { command.pre_exec(only_cpu(cpu)) };
    });
    assert!(server.log().contains(&format!("1 core pinned to CPU {cpu}")), "{}", server.log());
    assert_stops(server);
}

#[test]
fn cpus_outside_the_mask_are_refused_by_name() {
    let cpus = cpus();
    let [first, .., last] = cpus[..] else { return println!("skipped: needs two CPUs") };
    let exit = run(&["--cores", &format!("{first},{last}")], only_cpu(first));
    let named = format!("--cores names CPU {last}, but this process may only use CPU {first}");
    assert_refused(&exit, 77, &[&named, "taskset", "CPUAffinity="]);
}

#[test]
fn every_core_runs_on_its_cpu() {
    let cpus = cpus();
    let server = Server::start(&["--log-format", "human"]);
    for (core, cpu) in cpus.iter().enumerate() {
        assert_eq!(allowed_of_thread(server.pid(), &format!("core-{core}")), cpu.to_string());
    }
    assert_stops(server);
}

/// `Cpus_allowed_list` of the thread with this name.
fn allowed_of_thread(pid: u32, name: &str) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let status = tasks
        .map(|task| fs::read_to_string(task.path().join("status")).unwrap())
        .find(|status| status.starts_with(&format!("Name:\t{name}\n")))
        .unwrap_or_else(|| panic!("no thread {name}"));
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    allowed.trim().to_owned()
}

#[test]
fn more_cores_than_cpus_run_unpinned_with_a_warning() {
    let cores = cpus().len() + 2;
    let server = Server::start(&["--cores", &cores.to_string()]);
    let log = server.log();
    assert!(log.contains(&format!("{cores} cores share")) && log.contains("\"WARN\""), "{log}");
    server.connect_core(cores as u16 - 1);
    assert_ne!(allowed_of_thread(server.pid(), "core-0"), "0");
    assert_stops(server);
}

// --- kernel

#[test]
fn an_old_kernel_is_refused() {
    // Makes uname say 2.6.
    let exit = run(&["--cores", "1"], || Ok(personality::set(Persona::UNAME26).map(drop)?));
    assert_refused(&exit, 77, &["Linux 2.6.", "too old", "6.1 or newer"]);
}

/// A filter that lets a system call fail with `errno`.
fn forbid(call: libc::c_long, errno: Errno) -> impl Fn() -> io::Result<()> {
    let step = |code: u32, jump_false: u8, value: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: jump_false,
        k: value,
    };
    let filter = [
        // The number of the call is the first word of what the filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    move || {
        let mut filter = filter;
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: both calls take plain numbers, and the second a program that outlives it.
        let result = unsafe {
            match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
                0 => libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program),
                failed => failed,
            }
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[test]
fn a_seccomp_filter_against_io_uring_is_recognised() {
    for (call, name) in [
        (libc::SYS_io_uring_setup, "io_uring_setup"),
        (libc::SYS_io_uring_register, "io_uring_register"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
    ] {
        let exit = run(&["--cores", "1"], forbid(call, Errno::EPERM));
        assert_refused(&exit, 77, &[&format!("a seccomp filter forbids {name}"), "--security-opt seccomp="]);
    }
    let exit = run(&["--cores", "1"], forbid(libc::SYS_io_uring_setup, Errno::ENOSYS));
    assert_refused(&exit, 77, &["a seccomp filter hides io_uring_setup"]);
    let exit = run(&["--cores", "1"], forbid(libc::SYS_io_uring_setup, Errno::EINVAL));
    assert_refused(&exit, 77, &["single issuer, deferred task work", "6.1 or newer"]);
    let exit = run(&["--cores", "1"], forbid(libc::SYS_io_uring_setup, Errno::ENOMEM));
    assert_refused(&exit, 77, &["LimitMEMLOCK="]);
}

/// The switch for io_uring, as found again when dropped.
struct Switch {
    found: String,
    _hold: IoUringHold,
}

impl Switch {
    const PATH: &str = "/proc/sys/kernel/io_uring_disabled";

    fn set(value: &str) -> io::Result<Switch> {
        let _hold = IoUringHold::exclusive();
        let found = fs::read_to_string(Self::PATH)?;
        fs::write(Self::PATH, value)?;
        Ok(Switch { found, _hold })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        fs::write(Self::PATH, &self.found).expect("the switch for io_uring goes back to what it was");
    }
}

#[test]
fn io_uring_switched_off_by_sysctl_is_recognised() {
    let ports = Ports::take();
    let port = ports.data().to_string();
    let command = || harness::command(&["--cores", "1", "--port", &port]);
    let exit = match Switch::set("2") {
        Ok(_off) => run_to_end_under(command()),
        Err(error) => return println!("skipped: {} cannot be changed: {error}", Switch::PATH),
    };
    assert_refused(&exit, 77, &["switched off", "sysctl -w kernel.io_uring_disabled=0"]);

    if !runs_unprivileged() {
        return;
    }
    let command = confined(command(), unprivileged());
    let exit = match Switch::set("1") {
        Ok(_reserved) => run_to_end_under(command),
        Err(error) => return println!("skipped: {} cannot be changed: {error}", Switch::PATH),
    };
    assert_refused(&exit, 77, &["reserved for privileged", "kernel.io_uring_group="]);
}

// --- ports

/// Closes a listener and waits until its port is free: a process that another test starts at this moment
/// holds it until it has become another program.
fn release(listener: TcpListener) {
    let address = listener.local_addr().unwrap();
    drop(listener);
    let deadline = Instant::now() + harness::PATIENCE;
    while TcpListener::bind(address).is_err() {
        assert!(Instant::now() < deadline, "{address} does not become free");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn a_port_in_use_is_refused() {
    let ports = Ports::take();
    let port = ports.data().to_string();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.data())).unwrap();
    let exit = run(&["--cores", "2", "--port", &port], free);
    let named = format!("127.0.0.1:{port} is already in use by");
    assert_refused(&exit, 1, &[&named, &format!("process {}", std::process::id()), "choose another --port"]);
    // On any address, too.
    assert_refused(
        &run(&["--port", &port, "--bind", "0.0.0.0", "--protected-mode", "no"], free),
        1,
        &["already in use"],
    );
    release(taken);

    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.core(1))).unwrap();
    let exit = run(&["--cores", "2", "--port", &port], free);
    assert_refused(&exit, 1, &[&format!(":{} is already in use", ports.core(1)), "--core-port-base"]);
    release(taken);

    assert_stops(Server::start(&["--cores", "2", "--port", &port]));
}

#[test]
fn a_port_of_an_outgoing_connection_is_refused_by_its_cause() {
    let there = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connection = TcpStream::connect(there.local_addr().unwrap()).unwrap();
    let taken = connection.local_addr().unwrap().port();
    let exit = run(&["--cores", "1", "--cluster", "no", "--port", &taken.to_string()], free);
    let setting = format!("net.ipv4.ip_local_reserved_ports={taken}");
    assert_refused(&exit, 1, &[&format!("127.0.0.1:{taken} is already in use by a connection"), &setting]);
}

#[test]
fn a_second_copy_is_refused_and_the_first_goes_on() {
    let path = socket_path("second-copy");
    let server = Server::start(&["--cores", "2", "--unix-socket", path.to_str().unwrap()]);
    let port = server.port().to_string();
    let named = format!("already in use by crabcache (process {})", server.pid());
    assert_refused(&run(&["--cores", "2", "--port", &port], free), 1, &[&named]);
    let exit = run(&["--cores", "1", "--unix-socket", path.to_str().unwrap()], free);
    assert_refused(&exit, 1, &["already in use by a running server", "--unix-socket"]);
    server.connect();
    UnixStream::connect(&path).unwrap();
    assert_stops(server);
    assert!(!path.exists());
}

#[test]
fn a_privileged_port_is_refused_to_somebody_without_privileges() {
    let lowest: u16 = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .map_or(1024, |text| text.trim().parse().unwrap());
    if lowest <= 1 {
        return println!("skipped: every port is free for everybody here");
    }
    if !runs_unprivileged() {
        return;
    }
    let exit = run(&["--cores", "1", "--port", "1", "--cluster", "no"], unprivileged());
    assert_refused(&exit, 1, &["127.0.0.1:1", "CAP_NET_BIND_SERVICE"]);
}

#[test]
fn addresses_and_paths_that_cannot_be_name_their_setting() {
    let exit = run(&["--cores", "1", "--bind", "192.0.2.1", "--protected-mode", "no"], free);
    assert_refused(&exit, 1, &["192.0.2.1 is no address of this machine", "--bind"]);
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        let exit = run(&["--cores", "1", "--bind", "fe80::1", "--protected-mode", "no"], free);
        assert_refused(&exit, 1, &["fe80::1", "--bind"]);
    }
    let missing = socket_path("no-such-folder").join("crabcache.sock");
    let exit = run(&["--cores", "1", "--unix-socket", missing.to_str().unwrap()], free);
    assert_refused(&exit, 1, &["the folder of --unix-socket", missing.to_str().unwrap(), "does not exist"]);
    let long = socket_path(&"x".repeat(120));
    let exit = run(&["--cores", "1", "--unix-socket", long.to_str().unwrap()], free);
    assert!(
        [Some(1), Some(2), Some(78)].contains(&exit.code()) && exit.stderr.contains("unix-socket"),
        "{}",
        exit.stderr
    );
}

#[test]
fn any_free_port_is_logged() {
    let server = Server::start(&["--cores", "2", "--port", "0", "--log-format", "human"]);
    let log = server.log();
    let (_, rest) = log.split_once("listening on 127.0.0.1:").unwrap();
    let (port, rest) = rest.split_once("; its cores on ports ").unwrap();
    let cores = rest.lines().next().unwrap().split([',', '-']);
    for port in std::iter::once(port).chain(cores) {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap();
    }
    assert_stops(server);
}

// --- the end

fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("crabcache-preflight-{}-{name}.sock", std::process::id()))
}

#[test]
fn it_ends_well_when_asked_and_leaves_no_socket_behind() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let path = socket_path(signal.as_str());
        let mut server = Server::start(&["--cores", "2", "--unix-socket", path.to_str().unwrap()]);
        let ports = [server.port(), server.core_port(0), server.core_port(1)];
        assert!(ports.iter().all(|&port| is_listening(port)));
        let asked = Instant::now();
        server.signal(signal);
        let exit = server.wait();
        assert!(asked.elapsed() < Duration::from_secs(1), "took {:?}", asked.elapsed());
        assert_eq!(exit.code(), Some(0), "{}", exit.stderr);
        assert!(exit.stderr.contains(&format!("{signal}: draining")), "{}", exit.stderr);
        assert!(exit.stderr.contains("\"ended\""), "{}", exit.stderr);
        assert!(!ports.iter().any(|&port| is_listening(port)));
        assert!(!Path::new(&path).exists());
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}

fn is_listening(port: u16) -> bool {
    let wanted = format!(":{port:04X} 00000000:0000 0A ");
    fs::read_to_string("/proc/net/tcp").unwrap().contains(&wanted)
}

#[test]
fn a_closed_terminal_and_a_doubled_signal_do_no_harm() {
    let mut server = Server::start(&["--cores", "2"]);
    server.signal(Signal::SIGHUP);
    server.wait_for_log("SIGHUP: there is no configuration file");
    server.connect();
    // As `timeout` and some supervisors do: once to the process, once to its group.
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGINT);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn logs_are_json_lines_for_machines_and_plain_ones_for_people() {
    let server = Server::start(&["--cores", "1"]);
    for line in server.log().lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(entry["timestamp"].is_string() && entry["level"].is_string() && entry["message"].is_string());
    }
    let log = server.log();
    for words in [
        concat!("CrabCache ", env!("CARGO_PKG_VERSION"), " on Linux "),
        &format!("process {}", server.pid()),
        "1 core pinned to CPU",
        "listening on 127.0.0.1:",
        "limits: 10000 clients, values up to 64 MiB,",
        "ready",
    ] {
        assert!(log.contains(words), "{words:?} is missing in\n{log}");
    }
    assert_stops(server);
    let server = Server::start(&["--cores", "1", "--log-format", "human"]);
    assert!(server.log().lines().all(|line| line.contains("  INFO ")), "{}", server.log());
    assert!(!server.log().contains('\x1b'));
    assert_stops(server);
    let server = Server::start(&["--cores", "1", "--log-level", "error"]);
    assert_eq!(server.log(), "");
    assert_stops(server);
}

#[test]
fn a_public_address_is_warned_about() {
    let server = Server::start(&["--cores", "1", "--bind", "0.0.0.0", "--protected-mode", "no"]);
    assert!(server.log().contains("everybody who reaches 0.0.0.0 can read and write"), "{}", server.log());
    assert_stops(server);
}
