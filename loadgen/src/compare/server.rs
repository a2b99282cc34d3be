//! A server that the comparison started: pinned, in a process group of its own, ended in every case.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::accounting;
use crate::failure::Failure;
use crate::plan::{Credentials, Endpoint, Target};
use crate::random::Random;
use crate::session::Session;
use crate::signals;
use crate::system::{self, Pid, Signal};
use crate::wire::Protocol;

const READY_WAIT: Duration = Duration::from_secs(15);
/// Until it answers again after a start with many keys.
const RECOVERY_WAIT: Duration = Duration::from_secs(300);
/// Until it has ended in order, with all it has to write.
const RESTART_WAIT: Duration = Duration::from_secs(60);
const END_WAIT: Duration = Duration::from_secs(5);
/// Removing millions of keys may take a while.
const EMPTY_WAIT: Duration = Duration::from_secs(120);
const REPLY_WAIT: Duration = Duration::from_secs(10);

/// How to start it, and how to speak to it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerOptions {
    pub name: String,
    pub words: Vec<String>,
    pub protocol: Protocol,
    pub cpus: Vec<usize>,
    pub cluster: bool,
    /// What its clients say first.
    pub password: Option<String>,
    /// Whether what is set expires.
    pub sets_expire: bool,
    /// What is different in the load that it gets; `None` if nothing is.
    pub load: Option<OwnLoad>,
}

/// A server of several cores gets the load of one core for each of them.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnLoad {
    /// A generating thread on each.
    pub generator_cpus: Vec<usize>,
    pub connections_factor: usize,
}

impl ServerOptions {
    pub fn runs(&self, program: &Path) -> bool {
        self.words.first().is_some_and(|word| Path::new(word) == program)
    }

    /// Where there are too few CPUs, the generator has to run on those of the server.
    pub fn shares_cpus(&self) -> bool {
        self.load.as_ref().is_some_and(|load| load.generator_cpus.iter().any(|cpu| self.cpus.contains(cpu)))
    }
}

pub struct Server {
    options: ServerOptions,
    child: std::cell::RefCell<Child>,
    group: Pid,
    port: u16,
    directory: PathBuf,
}

impl Server {
    pub fn start(options: &ServerOptions) -> Result<Server, Failure> {
        let port = free_port().map_err(|error| Failure::system("no free port", error))?;
        let directory = new_directory(port).map_err(|error| Failure::system("cannot make a directory", error))?;
        let spawned = spawn(options, port, &directory);
        let child = match spawned {
            Ok(child) => child,
            Err(error) => {
                let _ = fs::remove_dir_all(&directory);
                return Err(Failure::system(format!("cannot start {}", options.words[0]), error));
            }
        };
        let group = child.id() as Pid;
        signals::register_group(group, &directory);
        let server = Server { options: options.clone(), child: child.into(), group, port, directory };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Ends it in order and starts it again on what it has left in its directory. How long it took from the start until
    /// it answered questions about keys.
    pub fn restart(&mut self) -> Result<Duration, Failure> {
        let child = self.child.get_mut();
        system::signal_group(self.group, Signal::SIGTERM);
        let asked = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if asked.elapsed() > RESTART_WAIT {
                return Err(Failure::system(
                    format!("{} does not end", self.options.name),
                    "it was asked with SIGTERM",
                ));
            }
            super::sleep(Duration::from_millis(2))?;
        }
        signals::forget_group(self.group);
        let started = Instant::now();
        *child = spawn(&self.options, self.port, &self.directory)
            .map_err(|error| Failure::system(format!("cannot start {} again", self.options.name), error))?;
        self.group = child.id() as Pid;
        signals::register_group(self.group, &self.directory);
        let target = self.target();
        let asks = || Session::open(&target).and_then(|mut session| session.ask("GET", &["GET", "nosuch"]));
        loop {
            self.check_alive()?;
            match asks() {
                Ok(_) => return Ok(started.elapsed()),
                Err(failure) if started.elapsed() > RECOVERY_WAIT => return Err(failure),
                Err(_) => super::sleep(Duration::from_millis(2))?,
            }
        }
    }

    /// Bytes of the files in its directory.
    pub fn disk_bytes(&self) -> u64 {
        fn below(directory: &Path) -> u64 {
            let bytes = |entry: fs::DirEntry| match entry.metadata() {
                Ok(data) if data.is_dir() => below(&entry.path()),
                Ok(data) => data.len(),
                Err(_) => 0,
            };
            fs::read_dir(directory).into_iter().flatten().flatten().map(bytes).sum()
        }
        below(&self.directory)
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    pub fn own_load(&self) -> Option<&OwnLoad> {
        self.options.load.as_ref()
    }

    pub fn sets_expire(&self) -> bool {
        self.options.sets_expire
    }

    pub fn is_cluster(&self) -> bool {
        self.options.cluster
    }

    /// What the server says it is, if it says anything.
    pub fn version(&self) -> Option<String> {
        let mut session = Session::open(&self.target()).ok()?;
        if self.options.protocol == Protocol::Memcache {
            let reply = session.exchange("version", b"version\r\n").ok()?;
            return Some(String::from_utf8_lossy(&reply).trim().trim_start_matches("VERSION ").to_owned());
        }
        let reply = session.ask("INFO", &["INFO", "server"]).ok()?;
        let text = String::from_utf8_lossy(&reply).into_owned();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        field("crabcache_version:").or_else(|| field("valkey_version:")).or_else(|| field("redis_version:"))
    }

    pub fn target(&self) -> Target {
        Target {
            endpoint: Endpoint::Tcp((Ipv4Addr::LOCALHOST, self.port).into()),
            protocol: self.options.protocol,
            credentials: Credentials { user: None, password: self.options.password.clone() },
            timeout: REPLY_WAIT,
        }
    }

    pub fn pids(&self) -> Vec<Pid> {
        accounting::family(self.group)
    }

    /// CPU time of the server so far, its children's included.
    pub fn cpu_ns(&self) -> u64 {
        self.pids().into_iter().filter_map(system::process_cpu).map(|time| time.as_nanos() as u64).sum()
    }

    pub fn resident_bytes(&self) -> u64 {
        self.pids().into_iter().map(accounting::resident_bytes).sum()
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> u64 {
        let open = |pid: Pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        self.pids().into_iter().map(open).sum::<usize>() as u64
    }

    /// Removes all keys: what another cell has left behind is not in its numbers. A server that cannot is
    /// left as it is.
    pub fn empty(&self) -> Result<(), Failure> {
        let mut target = self.target();
        target.timeout = EMPTY_WAIT;
        let mut session = Session::open(&target)?;
        let outcome = match self.options.protocol {
            Protocol::Memcache => session.exchange("flush_all", b"flush_all\r\n"),
            _ => session.ask("FLUSHALL", &["FLUSHALL"]),
        };
        match outcome {
            Ok(_) | Err(Failure::Denied { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Stops it from using the CPU while another server is measured on it.
    pub fn pause(&self) -> Result<(), Failure> {
        self.check_alive()?;
        system::signal_group(self.group, Signal::SIGSTOP);
        Ok(())
    }

    pub fn resume(&self) -> Result<(), Failure> {
        self.check_alive()?;
        system::signal_group(self.group, Signal::SIGCONT);
        Ok(())
    }

    fn check_alive(&self) -> Result<(), Failure> {
        match self.child.borrow_mut().try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(Failure::system(format!("{} ended ({status})", self.name()), self.last_log_lines()))
            }
            Err(error) => Err(Failure::system(format!("{} cannot be watched", self.name()), error)),
        }
    }

    fn wait_until_ready(&self) -> Result<(), Failure> {
        let started = Instant::now();
        let mut target = self.target();
        target.timeout = Duration::from_secs(1);
        loop {
            self.check_alive()?;
            match Session::open(&target).and_then(|mut session| serves_keys(&mut session, self.options.protocol)) {
                Ok(()) => return Ok(()),
                Err(failure) if started.elapsed() > READY_WAIT => {
                    let what = format!("{} is not ready after {READY_WAIT:?}", self.name());
                    return Err(Failure::system(what, format!("{failure}; its log: {}", self.last_log_lines())));
                }
                Err(_) => super::sleep(Duration::from_millis(50))?,
            }
        }
    }

    fn last_log_lines(&self) -> String {
        let log = fs::read(self.directory.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Whether the server answers, also questions about keys: while it makes its log or reads it, it answers nothing but
/// PING. Whoever denies a question for another reason serves nevertheless.
fn serves_keys(session: &mut Session, protocol: Protocol) -> Result<(), Failure> {
    session.ping()?;
    if protocol == Protocol::Memcache {
        return Ok(());
    }
    match session.ask("GET", &["GET", "nosuch"]) {
        Err(Failure::Denied { reply, .. }) if !says_loading(&reply) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// In any of the protocols: a frame of the binary one has its header before the text.
fn says_loading(reply: &[u8]) -> bool {
    const LOADING: &[u8] = b"LOADING";
    reply.windows(LOADING.len()).any(|bytes| bytes == LOADING)
}

/// A server by its command line; `flag` is where it was typed.
pub fn parse_command(
    flag: &str,
    command: &str,
    name: &Option<String>,
    protocol: Protocol,
    cluster: bool,
    cpus: &[usize],
) -> Result<ServerOptions, String> {
    let words = shlex::split(command).filter(|words| !words.is_empty());
    let words = words.ok_or_else(|| format!("{flag} {command:?} is not a command line"))?;
    if !command.contains("{port}") {
        return Err(format!("{flag}: the command needs {{port}} where the server is told its port"));
    }
    let program = words[0].rsplit('/').next().unwrap_or_default().to_owned();
    Ok(ServerOptions {
        name: name.clone().unwrap_or(program),
        words,
        protocol,
        cpus: cpus.to_vec(),
        cluster,
        password: None,
        sets_expire: false,
        load: None,
    })
}

fn spawn(options: &ServerOptions, port: u16, directory: &Path) -> std::io::Result<Child> {
    let log = File::options().create(true).append(true).open(directory.join("log"))?;
    let fill = |word: &String| word.replace("{port}", &port.to_string()).replace("{dir}", &directory.to_string_lossy());
    let words: Vec<String> = options.words.iter().map(fill).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).process_group(0).current_dir(directory);
    command.stdout(log.try_clone()?).stderr(log);
    system::bind_child(&mut command, options.cpus.clone());
    command.spawn()
}

impl Drop for Server {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        system::signal_group(self.group, Signal::SIGTERM);
        system::signal_group(self.group, Signal::SIGCONT);
        let asked = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && asked.elapsed() < END_WAIT {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Also for what it may have left behind in its group. The leader is reaped only afterwards, so
        // its number still belongs to it.
        system::signal_group(self.group, Signal::SIGKILL);
        let _ = child.wait();
        signals::forget_group(self.group);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A port that nobody listens on, below those that clients are given, so that no connection of ours ever
/// has it; and, because a server may open one for each of its cores, so are those that follow.
fn free_port() -> std::io::Result<u16> {
    const PORTS: std::ops::Range<u16> = 15_000..31_000;
    const FOLLOWING: std::ops::Range<u16> = 100..116;
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut random = Random::stream(clock.as_nanos() as u64, u64::from(std::process::id()));
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop);
    let mut last = std::io::ErrorKind::AddrInUse.into();
    for _ in 0..200 {
        let port = PORTS.start + random.below(u64::from(PORTS.end - PORTS.start)) as u16;
        match free(port).and_then(|()| FOLLOWING.into_iter().try_for_each(|offset| free(port + offset))) {
            Ok(()) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn new_directory(port: u16) -> std::io::Result<PathBuf> {
    let directory = Path::new(&std::env::temp_dir()).join(format!("loadgen-{}-{port}", std::process::id()));
    fs::create_dir(&directory)?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn who_still_loads_is_not_ready_and_who_denies_otherwise_is() {
        // Replies to PING and GET, one connection each.
        let answers = [("-LOADING reading the log\r\n", false), ("-NOPERM no\r\n", true), ("$-1\r\n", true)];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = Target {
            endpoint: Endpoint::Tcp(listener.local_addr().unwrap()),
            protocol: Protocol::Resp2,
            credentials: Credentials::default(),
            timeout: REPLY_WAIT,
        };
        let server = std::thread::spawn(move || {
            for (answer, _) in answers {
                let (mut client, _) = listener.accept().unwrap();
                for reply in ["+PONG\r\n", answer] {
                    assert!(client.read(&mut [0; 256]).unwrap() > 0);
                    client.write_all(reply.as_bytes()).unwrap();
                }
            }
        });
        for (answer, is_ready) in answers {
            let mut session = Session::open(&target).unwrap();
            assert_eq!(serves_keys(&mut session, Protocol::Resp2).is_ok(), is_ready, "{answer:?}");
        }
        server.join().unwrap();
    }
}
