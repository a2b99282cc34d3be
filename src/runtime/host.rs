//! From checked settings to running cores, and back to an exit code.
//!
//! [`Host::prepare`] does all that can fail for reasons of the machine; [`Host::run`] starts one thread
//! with one executor per core and waits for what ends them: a signal, or a core that fails.

use std::error::Error;
use std::fmt;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use glommio::{GlommioError, LocalExecutorBuilder, Placement, PoolPlacement};
use nix::sys::signal::Signal;
use tracing::{error, info, warn};

use super::doorbell::Doorbell;
use super::listen::{self, Addresses, CoreListeners, Listeners};
use super::notify::{Notify, Watch};
use super::preflight::{self, Ground};
use super::pulse::Pulses;
use super::refusal::Refusal;
use super::signals::{Shutdown, Signals};
use crate::config::{Config, Store};
use crate::limits::SHUTDOWN_MS_MAX;

const EXIT_FAILED: u8 = 1;
/// How long an executor runs tasks before it is preempted: for ever, they are all ours and short. Preemption does harm: an
/// executor whose slice ends before it has run anything, as happens to a thread that was itself preempted, parks with
/// runnable tasks, and sleeps until a file operation or a timer ends. At a start there may be none.
const EXECUTOR_SLICE: Duration = Duration::from_secs(24 * 60 * 60);

/// How a core ends when it was not asked to.
pub type CoreError = Box<dyn Error + Send + Sync>;

/// What one core starts with.
pub struct CoreSetup {
    pub index: usize,
    pub cores: usize,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    pub listeners: CoreListeners,
    /// One for each core, its own at `index`; rung by the others, and at shutdown.
    pub doorbells: Arc<[Doorbell]>,
    pub shutdown: Arc<Shutdown>,
    /// The settings as they were at the start; `store` has those that may change.
    pub config: Arc<Config>,
    pub store: Arc<Store>,
    pub addresses: Arc<Addresses>,
    /// Clients of all cores together.
    pub clients_max: usize,
    pub ready: Ready,
    /// Beaten by every core as long as it makes turns.
    pub pulses: Arc<Pulses>,
    /// Of the admin HTTP, with the first core.
    pub admin: Vec<TcpListener>,
}

/// Told by each core when it has all it needs to serve; the server says that it is ready when all have.
pub struct Ready(Sender<Event>);

impl Ready {
    pub fn announce(self) {
        let _ = self.0.send(Event::Ready);
    }
}

/// A machine that is ready for the cores.
pub struct Host {
    config: Arc<Config>,
    store: Arc<Store>,
    ground: Ground,
    listeners: Listeners,
    admin: Vec<TcpListener>,
    signals: Signals,
}

/// What main waits for.
enum Event {
    Ready,
    Asked(Signal),
    Ended { core: usize, result: Result<(), Failure> },
}

/// How a core failed.
enum Failure {
    /// The executor could not be made.
    Executor {
        error: String,
        out_of_memory: bool,
    },
    Core(CoreError),
    /// Its thread unwound without a result.
    Panic,
}

impl Host {
    /// Checks limits, takes ports, blocks signals. Must be called before any thread is started.
    pub fn prepare(store: Arc<Store>) -> Result<Host, Refusal> {
        let config = store.current();
        let signals =
            Signals::block().map_err(|error| Refusal::Failed(format!("signals cannot be blocked: {error}")))?;
        super::log::write_in_background();
        config.protect(&store.access()).map_err(Refusal::Configuration)?;
        let ground = preflight::check(&config)?;
        let listeners = listen::open(&config, ground.cores(), &ground.core_ports)?;
        let admin = super::admin::listen(&config)?;
        let host = Host { config, store, ground, listeners, admin, signals };
        host.report();
        Ok(host)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn cores(&self) -> usize {
        self.ground.cores()
    }

    /// Runs the cores until they end. `start` is called here once per core, in their order, and gives what
    /// makes the core's future on its own thread. Returns the exit code of the process.
    pub fn run<Start, Core>(self, mut start: impl FnMut(CoreSetup) -> Start) -> u8
    where
        Start: FnOnce() -> Core + Send + 'static,
        Core: Future<Output = Result<(), CoreError>> + 'static,
    {
        let Host { config, store, ground, listeners, mut admin, signals } = self;
        let Listeners { addresses, per_core, unix_socket_file } = listeners;
        let cores = ground.cores();
        let doorbells = match (0..cores).map(|_| Doorbell::new()).collect::<Result<Arc<[_]>, _>>() {
            Ok(doorbells) => doorbells,
            Err(error) => {
                error!("making doorbells fails: {error}");
                return EXIT_FAILED;
            }
        };
        let shutdown = Arc::new(Shutdown::new(doorbells.clone()));
        let pulses = Arc::new(Pulses::new(cores, Instant::now()));
        let serving = format!("{} serving on {}", count(cores, "core"), Reach(&addresses));
        let addresses = Arc::new(addresses);
        let (events, inbox) = mpsc::channel();

        let asked = events.clone();
        spawn_thread("signals", move || {
            let hand_on = |signal| {
                let _ = asked.send(Event::Asked(signal));
            };
            if let Err(error) = signals.watch(hand_on) {
                error!("waiting for signals fails: {error}");
            }
        });
        for (index, (cpu, listeners)) in ground.cpus.iter().copied().zip(per_core).enumerate() {
            let setup = CoreSetup {
                index,
                cores,
                cpu,
                listeners,
                doorbells: doorbells.clone(),
                shutdown: shutdown.clone(),
                config: config.clone(),
                store: store.clone(),
                addresses: addresses.clone(),
                clients_max: ground.descriptors.clients_max,
                ready: Ready(events.clone()),
                pulses: pulses.clone(),
                admin: std::mem::take(&mut admin),
            };
            let io_memory_bytes = ground.locked_memory.io_memory_bytes;
            let report = Report { core: index, events: events.clone(), result: Some(Err(Failure::Panic)) };
            let start = start(setup);
            spawn_thread(&format!("core-{index}"), move || run_core(cpu, io_memory_bytes, start, report));
        }
        drop(events);
        let watch = Watch::new(Notify::from_environment(), pulses, serving);
        let exit = supervise(&inbox, &ground, &shutdown, &store, watch);
        // Here rather than before the cores end: until then somebody may still connect.
        drop(unix_socket_file);
        exit
    }

    /// What a person wants to know at the start, in a few lines.
    fn report(&self) {
        let Host { config, ground, listeners, .. } = self;
        info!("CrabCache {} on {}, process {}", env!("CARGO_PKG_VERSION"), ground.kernel, std::process::id());
        match ground.cpus.iter().copied().collect::<Option<Vec<usize>>>() {
            Some(cpus) => info!("{} pinned to {}", count(cpus.len(), "core"), preflight::list_cpus(&cpus)),
            None => info!("{}, not pinned", count(ground.cores(), "core")),
        }
        info!("listening on {}", Reach(&listeners.addresses));
        let open: Vec<String> = config.bind.iter().filter(|ip| !ip.is_loopback()).map(|ip| ip.to_string()).collect();
        if !open.is_empty() && !self.store.access().is_required() {
            warn!("everybody who reaches {} can read and write: there is no token", open.join(", "));
        }
        let locked = ground.locked_memory.limit_bytes.map_or("unlimited".into(), |limit| Size(limit).to_string());
        info!(
            "limits: {}, values up to {}, {} descriptors, locked memory {locked} ({} of I/O memory per core)",
            count(ground.descriptors.clients_max, "client"),
            Size(config.value_bytes_max),
            ground.descriptors.limit,
            Size(ground.locked_memory.io_memory_bytes as u64),
        );
    }
}

/// Waits until every core has ended, and says how it went.
fn supervise(inbox: &Receiver<Event>, ground: &Ground, shutdown: &Shutdown, store: &Store, mut watch: Watch) -> u8 {
    let cores = ground.cores();
    let mut running: Vec<usize> = (0..cores).collect();
    let mut ready = 0;
    let mut failed = false;
    let mut deadline: Option<Instant> = None;
    while !running.is_empty() {
        let now = Instant::now();
        if shutdown.is_requested() {
            watch.stopping();
            deadline.get_or_insert(now + Duration::from_millis(SHUTDOWN_MS_MAX));
        }
        watch.look(now);
        let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now));
        let event = match inbox.recv_timeout(watch.look_within().min(left)) {
            Err(RecvTimeoutError::Timeout) if deadline.is_none_or(|deadline| Instant::now() < deadline) => continue,
            event => event,
        };
        if shutdown.is_requested() {
            // The last core to end may have been asked by a command.
            watch.stopping();
        }
        match event {
            Ok(Event::Ready) => {
                ready += 1;
                if ready == cores && !shutdown.is_requested() {
                    watch.ready();
                    info!("ready");
                }
            }
            Ok(Event::Asked(Signal::SIGHUP)) => {
                watch.reloading();
                watch.reloaded(reload(store).as_deref());
            }
            Ok(Event::Asked(signal)) => {
                info!("{signal}: draining and ending; once more ends at once");
                shutdown.request();
            }
            Ok(Event::Ended { core, result }) => {
                running.retain(|&other| other != core);
                match result {
                    Ok(()) if shutdown.is_requested() => {}
                    Ok(()) => {
                        error!("core {core} ended without being asked to: ending the others");
                        failed = true;
                    }
                    Err(Failure::Executor { error, out_of_memory }) => {
                        let refusal =
                            preflight::explain_executor_failure(&error, out_of_memory, &ground.locked_memory, cores);
                        error!("core {core}: {refusal}");
                        // The other executors have done nothing yet that would have to be ended orderly.
                        return refusal.exit_code();
                    }
                    Err(Failure::Core(error)) => {
                        error!("core {core} failed: {error}: ending the others");
                        failed = true;
                    }
                    Err(Failure::Panic) => {
                        error!("core {core} panicked: ending the others");
                        failed = true;
                    }
                }
                if failed {
                    shutdown.request();
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                let names: Vec<String> = running.iter().map(usize::to_string).collect();
                error!("core {} did not end within {SHUTDOWN_MS_MAX} ms", names.join(", "));
                return EXIT_FAILED;
            }
            Err(RecvTimeoutError::Disconnected) => {
                error!("the cores are gone without a word");
                return EXIT_FAILED;
            }
        }
    }
    if failed {
        return EXIT_FAILED;
    }
    info!("ended");
    0
}

/// SIGHUP: reads the configuration again and says what came of it. Returns why nothing was changed.
fn reload(store: &Store) -> Option<String> {
    if store.file().is_none() {
        info!("SIGHUP: there is no configuration file to read again (--config)");
    }
    match store.reload() {
        Ok(reloaded) => {
            for change in &reloaded.changed {
                info!("SIGHUP: {change}");
            }
            for change in &reloaded.at_restart {
                warn!("SIGHUP: {change} takes a restart");
            }
            for (name, what) in &reloaded.tokens {
                info!("SIGHUP: the token {name} {what}");
            }
            if reloaded.certificates {
                info!("SIGHUP: certificate and key of TLS are read again");
            }
            if reloaded.changed.is_empty() && reloaded.at_restart.is_empty() && reloaded.tokens.is_empty() {
                info!("SIGHUP: no setting has changed");
            }
            None
        }
        Err(error) => {
            error!("SIGHUP: nothing is changed: {error}");
            Some(error.to_string())
        }
    }
}

/// Tells main how the core ended, also when its thread unwinds.
struct Report {
    core: usize,
    events: Sender<Event>,
    result: Option<Result<(), Failure>>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(result) = self.result.take() {
            let _ = self.events.send(Event::Ended { core: self.core, result });
        }
    }
}

/// A core's thread: an executor, and on it one future.
fn run_core<Start, Core>(cpu: Option<usize>, io_memory_bytes: usize, start: Start, mut report: Report)
where
    Start: FnOnce() -> Core,
    Core: Future<Output = Result<(), CoreError>> + 'static,
{
    let executor = executor_builder(cpu).io_memory(io_memory_bytes).make();
    let result = match executor {
        Ok(executor) => {
            let result = executor.run(async move { start().await });
            drop(executor);
            result.map_err(Failure::Core)
        }
        Err(error) => {
            const ENOMEM: i32 = nix::libc::ENOMEM;
            let out_of_memory = matches!(&error, GlommioError::IoError(io) if io.raw_os_error() == Some(ENOMEM));
            Err(Failure::Executor { error: error.to_string(), out_of_memory })
        }
    };
    // Reported when `report` is dropped: after the executor and all its descriptors are gone.
    report.result = Some(result);
}

fn executor_builder(cpu: Option<usize>) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
        .preempt_timer(EXECUTOR_SLICE)
        // Left to itself it would put the pools of all cores on CPU 0.
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
}

/// A named thread. It is never joined: its end is an event, and an end that never comes must not be
/// waited for.
fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(run) {
        // What the closure owns is dropped, a core's report among it.
        error!("thread {name} cannot be started: {error}");
    }
}

fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `127.0.0.1:7001, [::1]:7001, /run/c.sock; its cores on ports 7101-7102`, `TLS alone on 127.0.0.1:7001`
struct Reach<'a>(&'a Addresses);

impl fmt::Display for Reach<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Addresses { bind, port, core_ports, unix_socket, tls_port } = self.0;
        // Of two ports the addresses stand with the plain one.
        let (first, beginning) = if port.is_some() { (port, "") } else { (tls_port, "TLS alone on ") };
        write!(out, "{beginning}")?;
        for (index, &ip) in bind.iter().enumerate() {
            let address = std::net::SocketAddr::new(ip, first.unwrap_or_default());
            write!(out, "{}{address}", if index == 0 { "" } else { ", " })?;
        }
        if let Some(path) = unix_socket {
            write!(out, ", {}", path.display())?;
        }
        if let (Some(_), Some(port)) = (port, tls_port) {
            write!(out, "; TLS on port {port}")?;
        }
        let consecutive = core_ports.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1]));
        match core_ports.as_slice() {
            [] => Ok(()),
            [only] => write!(out, "; its core on port {only}"),
            [first, .., last] if consecutive => write!(out, "; its cores on ports {first}-{last}"),
            ports => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(out, "; its cores on ports {}", ports.join(","))
            }
        }
    }
}

/// In the largest unit that divides it.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes > 0 && bytes % (1 << 20) == 0 => write!(out, "{} MiB", bytes >> 20),
            bytes if bytes > 0 && bytes % (1 << 10) == 0 => write!(out, "{} KiB", bytes >> 10),
            bytes => write!(out, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers now and then did not become ready: preempted before they had run anything, their executors slept for good.
    #[test]
    fn executors_are_never_preempted() {
        // What they take by themselves is 100 ms.
        const BUSY: Duration = Duration::from_millis(300);
        let executor = executor_builder(None).io_memory(256 * 1024).make().unwrap();
        executor.run(async {
            let began = Instant::now();
            while began.elapsed() < BUSY {
                assert!(!glommio::executor().need_preempt(), "after {:?}", began.elapsed());
            }
        });
    }

    #[test]
    fn addresses_are_shown_as_one_would_type_them() {
        let mut addresses = Addresses {
            bind: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            port: Some(7001),
            core_ports: vec![7101, 7102, 7103],
            unix_socket: Some("/run/c.sock".into()),
            tls_port: None,
        };
        let shown = Reach(&addresses).to_string();
        assert_eq!(shown, "127.0.0.1:7001, [::1]:7001, /run/c.sock; its cores on ports 7101-7103");
        addresses.core_ports = vec![7101, 7103];
        assert!(Reach(&addresses).to_string().ends_with("; its cores on ports 7101,7103"));
        addresses.core_ports.clear();
        assert!(Reach(&addresses).to_string().ends_with("/run/c.sock"));
        addresses.tls_port = Some(7002);
        assert!(Reach(&addresses).to_string().ends_with("/run/c.sock; TLS on port 7002"));
        addresses.port = None;
        assert_eq!(Reach(&addresses).to_string(), "TLS alone on 127.0.0.1:7002, [::1]:7002, /run/c.sock");
    }

    #[test]
    fn sizes_are_shown_in_whole_units() {
        let shown = [0, 1000, 1024, 64 << 20, (64 << 20) + 1024].map(|bytes| Size(bytes).to_string());
        assert_eq!(shown, ["0 bytes", "1000 bytes", "1 KiB", "64 MiB", "65537 KiB"]);
    }
}
