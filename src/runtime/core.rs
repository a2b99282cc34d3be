//! One core: its ring, its engine, its end of the mesh, and the turn that drives them.

mod arrivals;
mod drain;
mod filters;
mod shared;
mod sleep;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tracing::{debug, warn};

use self::arrivals::Listener;
use self::drain::Drain;
use self::filters::{Beginning, Filter};
pub use self::shared::Shared;
use super::background::Background;
use super::bridge::{Bridge, let_executor_in};
use super::doorbell::Doorbell;
use super::host::Ready;
use super::listen::CoreListeners;
use super::mesh::MeshPort;
use super::process;
use super::ring::{Event, NetRing, RingStats, Stopped};
use super::signals::Shutdown;
use super::spin::Spin;
use super::wal::Plan;
use super::wal::core_log::CoreLog;
use crate::allowlist::{Allowlist, Network};
use crate::config::{Store, TlsPort};
use crate::connection::{Closing, Received};
use crate::engine::serving::Serving;
use crate::engine::{Engine, EngineConfig};
use crate::limits;

/// Received bytes after which a turn applies and answers before it looks at more.
const TURN_BYTES: usize = 64 * 1024;
/// Batches of one other core that a turn takes, of each kind.
const TURN_BATCHES: usize = 4;
/// A value with more than this still to come is received straight into its memory; below, stopping and
/// starting the multishot receive costs more than the copy.
const DIRECT_RECEIVE_BYTES_MIN: usize = 128 * 1024;
/// Longest sleep after a turn with sends: bounds what one reader that stops reading can cost the others,
/// because a wait counts on sends being done at once.
const SLEEP_AFTER_SENDS: Duration = Duration::from_millis(1);
const TICK: Duration = Duration::from_millis(1);
/// Ticks over which the ring counts active sockets.
const PERIOD_TICKS: u32 = 8;
/// Items that housekeeping may look at in one tick.
const TICK_BUDGET: usize = 256;
/// The same for each turn while ticks leave something to do: about a tenth of a millisecond.
const CATCH_UP_BUDGET: usize = 1024;
/// Freed memory that a tick gives back to the system.
const RELEASED_BY_TICK: usize = 1 << 20;
/// How often a busy core lets the executor's other tasks run.
const YIELD_EVERY: Duration = Duration::from_millis(2);
/// How long a listener rests after accepting failed for want of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(50);
const LINGER: Duration = Duration::from_millis(limits::LINGER_MS_MAX);

/// What a core runs on.
pub struct CoreParts {
    pub store: Arc<Store>,
    pub engine: EngineConfig,
    pub listeners: CoreListeners,
    /// Where the Unix socket is, if there is one.
    pub unix_path: Option<Arc<str>>,
    pub mesh: MeshPort,
    pub doorbells: Arc<[Doorbell]>,
    pub shared: Arc<Shared>,
    pub shutdown: Arc<Shutdown>,
    pub started: Instant,
    /// Longest look for work before a sleep.
    pub spin: Duration,
    /// What the log is to be like, if there is one.
    pub log: Option<Arc<Plan>>,
}

struct Core {
    store: Arc<Store>,
    store_version: u64,
    /// Where clients may come from.
    allowlist: Arc<Allowlist>,
    /// Proxies that say for whom they connect.
    proxies: Vec<Network>,
    tls: Option<Arc<ServerConfig>>,
    /// By socket.
    filters: Vec<Option<Filter>>,
    /// Connections that have to get through their beginning: index, generation, until when.
    handshakes: VecDeque<(u32, u32, Instant)>,
    /// Connections whose handshakes wait for a turn that has time for them: index, generation.
    shelved: VecDeque<(u32, u32)>,
    /// Pieces of handshakes that this turn may still go into.
    handshakes_left: usize,
    core: usize,
    engine: Engine,
    ring: NetRing,
    mesh: MeshPort,
    listeners: Vec<Listener>,
    shared: Arc<Shared>,
    started: Instant,
    spin: Spin,
    /// Buffers whose commands have not been applied yet.
    held: Vec<u16>,
    /// What the turn has received so far.
    turn_bytes: usize,
    turn_began: Instant,
    /// Sockets whose multishot receive ran out of buffers.
    exhausted: Vec<u32>,
    /// Connections that came and have not been looked at: by listener.
    arrivals: VecDeque<(u32, OwnedFd)>,
    resting: Vec<(u32, Instant)>,
    /// As far as they have been counted.
    ring_stats: RingStats,
    /// Connections that are closed when their clients have read why: index, generation, and until when.
    lingering: VecDeque<(u32, u32, Instant)>,
    /// The last tick left expired keys or flushed memory for the next one.
    behind: bool,
    /// Connections whose replies wait for those of other cores, until the next tick.
    withheld: Vec<(u32, u32)>,
    serving: Serving,
    ticks: u32,
    draining: Option<Drain>,
    drained: bool,
    log: Option<CoreLog>,
}

/// Serves until a stop is requested and every connection has its replies.
pub async fn run(mut parts: CoreParts, ready: Ready) -> io::Result<()> {
    let shutdown = parts.shutdown.clone();
    let background = Background::default();
    let log = match parts.log.take() {
        Some(plan) => {
            let (index, hasher) = (parts.engine.core, parts.engine.hasher.clone());
            Some(CoreLog::start(plan, index, hasher, &background).await?)
        }
        None => None,
    };
    let mut core = Core::new(parts)?;
    core.engine.set_loading(log.is_some());
    core.log = log;
    let bridge = Bridge::new(&mut core.ring)?;
    let mut ready = Some(ready);
    let mut now = Instant::now();
    let mut last_tick = now;
    let mut last_yield = now;
    let mut wait = Duration::ZERO;
    loop {
        // 1. One enter: sends leave, completions arrive.
        core.enter(wait)?;
        now = Instant::now();
        core.engine.set_now(process::clock(core.started, now));
        // 2. Received bytes become commands, commands are applied or put in an outbox.
        core.turn_began = now;
        core.take_events();
        // 3. and 4. Other cores' batches are served, ours leave, sleepers are rung.
        core.exchange();
        let is_loading = core.tend_log()?;
        if !is_loading && let Some(ready) = ready.take() {
            core.shared.pulses.beat(core.core, now);
            ready.announce();
        }
        // 5. Replies are handed to the ring; they leave with the next enter.
        core.send_replies();
        if now - last_tick >= TICK {
            last_tick = now;
            core.tick(now);
        } else if core.behind {
            core.catch_up();
        }
        if core.engine.wants_shutdown() && !shutdown.is_requested() {
            tracing::info!("SHUTDOWN: draining and ending");
            shutdown.request();
        }
        if core.draining.is_none() && shutdown.is_requested() {
            core.begin_drain(now);
        }
        if core.is_drained(now) && core.end_log() {
            return Ok(());
        }
        let busy = core.is_busy();
        wait = match () {
            () if busy => Duration::ZERO,
            () if core.ring.has_submissions() => SLEEP_AFTER_SENDS,
            () => core.sleep_bound(),
        };
        // Files, timers and background tasks are the executor's. While it has something under way it is let
        // in now and then, and sleeps for both of us.
        if background.is_busy() {
            let has_slept = !busy && core.sleep_in_executor(&bridge, std::mem::take(&mut wait)).await?;
            let is_due = now - last_yield >= YIELD_EVERY || core.log.as_ref().is_some_and(CoreLog::needs_executor);
            if !has_slept && is_due {
                last_yield = now;
                let_executor_in().await;
            }
        }
    }
}

impl Core {
    fn new(parts: CoreParts) -> io::Result<Core> {
        let doorbell = parts.doorbells[parts.engine.core as usize].as_raw_fd();
        let mut ring = NetRing::new(doorbell)?;
        let CoreListeners { shared, own, tls, unix } = parts.listeners;
        let config = parts.store.current();
        let either_if = |speaks_tls| if speaks_tls { Beginning::Either } else { Beginning::Plain };
        let on_shared = either_if(config.tls_port == TlsPort::Shared);
        // Cluster clients with TLS are sent there as well, whatever port they came to first.
        let on_own = match config.speaks_plain() {
            true => either_if(config.tls_port != TlsPort::Off),
            false => Beginning::Tls,
        };
        let tcp = |own_port, beginning| move |socket| Listener { socket, own_port, beginning, unix_path: None };
        let mut listeners: Vec<Listener> = shared.into_iter().map(tcp(false, on_shared)).collect();
        listeners.extend(own.into_iter().map(tcp(true, on_own)));
        listeners.extend(tls.into_iter().map(tcp(false, Beginning::Tls)));
        let (beginning, unix_path) = (Beginning::Plain, parts.unix_path);
        listeners.extend(unix.map(|socket| Listener { socket, own_port: false, beginning, unix_path }));
        for listener in &listeners {
            ring.add_listener(listener.socket.as_raw_fd(), listener.unix_path.is_none());
        }
        Ok(Core {
            store_version: parts.store.version(),
            allowlist: parts.store.allowlist(),
            proxies: config.proxy_protocol_from.clone(),
            tls: parts.store.tls(),
            filters: Vec::new(),
            handshakes: VecDeque::new(),
            shelved: VecDeque::new(),
            handshakes_left: 0,
            store: parts.store,
            core: parts.engine.core as usize,
            engine: Engine::new(parts.engine),
            ring,
            serving: Serving::new(parts.mesh.cores()),
            mesh: parts.mesh,
            listeners,
            shared: parts.shared,
            started: parts.started,
            spin: Spin::new(parts.spin),
            held: Vec::new(),
            turn_bytes: 0,
            turn_began: parts.started,
            exhausted: Vec::new(),
            arrivals: VecDeque::new(),
            resting: Vec::new(),
            ring_stats: RingStats::default(),
            lingering: VecDeque::new(),
            behind: false,
            withheld: Vec::new(),
            ticks: 0,
            draining: None,
            drained: false,
            log: None,
        })
    }

    // ---- input ----------------------------------------------------------------------------------

    fn take_events(&mut self) {
        self.turn_bytes = 0;
        self.handshakes_left = limits::HANDSHAKES_PER_TURN;
        if !self.shelved.is_empty() {
            self.go_on_with_handshakes();
        }
        while self.turn_bytes < TURN_BYTES
            && let Some(event) = self.ring.next_event()
        {
            self.on_event(event);
        }
        self.engine.run(&self.ring);
        self.release_held();
        for _ in 0..limits::WELCOMES_PER_TURN {
            let Some((listener, socket)) = self.arrivals.pop_front() else { break };
            self.accepted(listener, socket);
        }
        if self.engine.has_resumable() {
            self.engine.resume(&self.ring);
            self.engine.run(&self.ring);
        }
        if self.engine.has_answered() {
            // One reading of the clock for all that the turn has answered.
            let elapsed = self.turn_began.elapsed();
            self.engine.record_latency(elapsed.as_nanos() as u64);
        }
        if self.engine.has_postponed() {
            self.engine.step_postponed();
        }
        let mut exhausted = std::mem::take(&mut self.exhausted);
        for index in exhausted.drain(..) {
            self.steer_input(index);
        }
        self.exhausted = exhausted;
    }

    fn release_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        for buffer in self.held.drain(..) {
            self.ring.give_back(buffer);
        }
        self.ring.publish_buffers();
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { index, buffer } => {
                self.held.push(buffer);
                self.turn_bytes += self.ring.bytes(buffer).len();
                if self.is_filtered(index) && self.receive_filtered(index, buffer) {
                    return;
                }
                self.engine.receive(index, buffer, &self.ring);
                self.steer_large(index);
            }
            Event::Sent { index, .. } if self.is_filtered(index) => self.sent_filtered(index),
            Event::Sent { index, out } => self.engine.sent(index, out),
            Event::SendFailed { index, out } => {
                if self.is_filtered(index) {
                    self.send_failed_filtered(index);
                } else {
                    self.engine.send_ended(index, out);
                }
                self.drop_connection(index);
            }
            Event::ReceiveStopped { index, why } => self.receive_stopped(index, why),
            Event::LargeReceived { index, large, end } => {
                self.engine.large_received(index, large, &self.ring);
                match end {
                    Some(why) => self.receive_stopped(index, why),
                    None => self.exhausted.push(index),
                }
            }
            Event::Accepted { listener, socket } => {
                if self.arrivals.len() < limits::ARRIVALS_WAITING_MAX {
                    self.arrivals.push_back((listener, socket));
                } else {
                    self.engine.counters.connections_refused_by_rate += 1;
                    super::sockets::reset(&socket);
                }
            }
            Event::FileDone { place, result } => {
                if let Some(log) = &mut self.log {
                    log.file_done(place, result, &mut self.engine);
                }
            }
            Event::AcceptStopped { listener, errno } => {
                if self.draining.is_none() {
                    self.engine.counters.accept_errors += 1;
                    let error = io::Error::from_raw_os_error(errno);
                    warn!(%error, "accepting connections stopped; trying again in {ACCEPT_REST:?}");
                    self.resting.push((listener, Instant::now() + ACCEPT_REST));
                }
            }
            Event::Closed { .. } => {
                self.shared.clients.fetch_sub(1, Ordering::Relaxed);
            }
            Event::Doorbell => self.welcome_invited(),
        }
    }

    fn receive_stopped(&mut self, index: u32, why: Stopped) {
        match why {
            Stopped::End if self.is_filtered(index) && self.ends_later(index) => {}
            Stopped::End => self.engine.end_of_input(index),
            Stopped::Cancelled => self.steer_input(index),
            Stopped::Exhausted => {
                self.engine.counters.receive_buffers_exhausted += 1;
                self.exhausted.push(index);
            }
            Stopped::Failed(errno) => {
                debug!(index, errno, "connection lost");
                self.drop_connection(index);
            }
        }
    }

    /// A large value is better received straight into its memory: ends the multishot receive for it.
    #[inline]
    fn steer_large(&mut self, index: u32) {
        if let Some(connection) = self.engine.connection(index)
            && connection.large_missing() >= DIRECT_RECEIVE_BYTES_MIN
        {
            self.ring.stop_receiving(index);
        }
    }

    /// Starts or stops receiving as the connection wants it.
    fn steer_input(&mut self, index: u32) {
        let is_filtered = self.is_filtered(index);
        let Some(connection) = self.engine.connection(index) else { return };
        let wanted = connection.wants_input() && !connection.input_ended;
        let receiving = self.ring.is_receiving(index);
        if wanted && !receiving {
            if !is_filtered
                && connection.large_missing() >= DIRECT_RECEIVE_BYTES_MIN
                && let Some(large) = connection.take_large_in()
            {
                self.ring.receive_large(index, large);
            } else {
                self.ring.receive(index);
            }
        } else if !wanted && receiving {
            self.ring.stop_receiving(index);
        }
    }

    // ---- output ---------------------------------------------------------------------------------

    fn send_replies(&mut self) {
        while let Some(index) = self.engine.next_dirty() {
            let Some(connection) = self.engine.connection(index) else { continue };
            let closing_now = connection.closing == Closing::Now;
            let withheld = connection.withholds();
            if withheld == Some(true) {
                self.withheld.push((index, connection.generation));
            }
            if self.is_filtered(index) {
                if !closing_now && withheld.is_none() {
                    self.send_filtered(index);
                }
            } else if !closing_now
                && withheld.is_none()
                && !self.ring.is_sending(index)
                && let Some(out) = self.engine.take_out(index)
            {
                self.ring.send(index, out);
            }
            if self.engine.connection(index).is_some_and(|connection| connection.is_finished()) {
                if !self.is_filtered(index) || !self.announces_end(index) {
                    self.drop_connection(index);
                }
            } else {
                self.linger(index);
                self.steer_input(index);
            }
        }
    }

    /// Ends the stream to a client that has been told why it is closed, and gives it time to read that.
    #[inline]
    fn linger(&mut self, index: u32) {
        let Some(connection) = self.engine.connection(index) else { return };
        if connection.begins_to_linger() {
            connection.lingers = true;
            let until = Instant::now() + LINGER;
            self.lingering.push_back((index, connection.generation, until));
            if self.filters.get(index as usize).is_none_or(Option::is_none) {
                self.ring.end_stream(index);
            }
        }
    }

    fn end_lingering(&mut self, now: Instant) {
        while let Some(&(index, generation, until)) = self.lingering.front()
            && now >= until
        {
            self.lingering.pop_front();
            if self.engine.connection(index).is_some_and(|connection| connection.generation == generation) {
                self.drop_connection(index);
            }
        }
    }

    fn drop_connection(&mut self, index: u32) {
        self.end_filter(index);
        self.engine.close(index);
        self.ring.close(index);
    }

    // ---- other cores ----------------------------------------------------------------------------

    fn exchange(&mut self) {
        let cores = self.mesh.cores();
        if cores == 1 {
            return;
        }
        for core in 0..cores {
            for _ in 0..TURN_BATCHES {
                let Some(batch) = self.mesh.returned(core) else { break };
                self.engine.absorb(core as u32, batch);
            }
            self.serving.serve(&mut self.engine, &mut self.mesh, core, TURN_BATCHES);
        }
        for core in 0..cores {
            while let Some(batch) = self.engine.ship(core as u32) {
                self.mesh.forward(core, batch);
            }
        }
        self.engine.counters.doorbells_rung += self.mesh.ring_sleepers();
    }

    // ---- housekeeping ---------------------------------------------------------------------------

    fn tick(&mut self, now: Instant) {
        self.shared.pulses.beat(self.core, now);
        // Not with every tick: a flood is told in few words.
        if self.engine.has_notices() && self.ticks.is_multiple_of(PERIOD_TICKS) {
            self.engine.take_notices().iter().for_each(|notice| tracing::info!("{notice}"));
        }
        if self.store.version() != self.store_version {
            self.store_version = self.store.version();
            self.allowlist = self.store.allowlist();
            self.proxies = self.store.current().proxy_protocol_from.clone();
            self.tls = self.store.tls();
        }
        self.end_lingering(now);
        self.end_handshakes(now);
        for (index, generation) in self.withheld.drain(..) {
            self.engine.stop_withholding(index, generation);
        }
        for place in 0..self.engine.overdue().len() {
            let (index, _) = self.engine.overdue()[place];
            self.engine.note_taken(index, self.ring.taken_of_send(index));
        }
        self.behind = self.engine.tick(TICK_BUDGET) >= TICK_BUDGET;
        self.behind |= super::pages::release_some(RELEASED_BY_TICK);
        // Added, not stored: CONFIG RESETSTAT sets the counters back, and the ring's go on.
        let (stats, before) = (self.ring.stats, std::mem::replace(&mut self.ring_stats, self.ring.stats));
        let counters = &mut self.engine.counters;
        counters.ring_enters += stats.enters - before.enters;
        counters.receive_submissions += stats.receives_armed - before.receives_armed;
        counters.receive_completions += stats.receives - before.receives;
        counters.send_submissions += stats.sends - before.sends;
        counters.send_completions += stats.sends_done - before.sends_done;
        let ring = &mut self.ring;
        ring.retry_sends();
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(PERIOD_TICKS) {
            ring.begin_period();
            if self.spin.is_on() {
                self.spin.begin_period(process::preemptions_of_this_thread());
            }
        }
        self.resting.retain(|&(listener, until)| {
            if now >= until {
                ring.accept_on(listener);
            }
            now < until
        });
    }

    /// Millions of keys that expire in the same second are gone a second later, and nobody waits for long meanwhile.
    fn catch_up(&mut self) {
        self.behind = self.engine.keep_house(CATCH_UP_BUDGET) >= CATCH_UP_BUDGET;
        self.behind |= super::pages::release_some(RELEASED_BY_TICK);
    }

    // ---- the log --------------------------------------------------------------------------------

    /// The log's part of a turn. Whether keys are still being loaded.
    fn tend_log(&mut self) -> io::Result<bool> {
        let Some(log) = &mut self.log else { return Ok(false) };
        log.turn(&mut self.engine, &mut self.ring)?;
        if self.mesh.cores() > 1 {
            for core in self.engine.cores_to_tell() {
                self.mesh.tell(core as usize);
            }
            self.engine.counters.doorbells_rung += self.mesh.ring_sleepers();
        }
        Ok(log.is_loading())
    }

    /// Whether the log, if there is one, has been brought to its end.
    fn end_log(&mut self) -> bool {
        match &mut self.log {
            Some(log) => log.end(&mut self.engine),
            None => true,
        }
    }
}
