//! One thread of a load: its connections, and the loop that keeps them busy.
//!
//! ```text
//!   turn:  send what is due ─▶ wait (one enter) ─▶ replies: count, record ─▶ next requests ─┐
//!            ▲                                                                              │
//!            └──────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::pacing::Schedule;
use super::requests::{Due, FillOf, Requests};
use super::shared::{Budget, FirstError, Shared, Slice};
use crate::failure::{Failure, explain};
use crate::plan::{Pace, Until};
use crate::random::Random;
use crate::record::Record;
use crate::ring::{Event, Ring};
use crate::session::Session;
use crate::system;
use crate::verify::{Expectation, Verifier};
use crate::wire::{Answer, Captured, Scanner, printable};
use crate::workload::Action;

/// A thread looks at the world at least this often.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Timeouts are looked for this often.
const SWEEP_NS: u64 = 200_000_000;
/// An open loop spins when its next request is nearer than this: waking up takes about as long.
const SPIN_NS: u64 = 50_000;
const LAST_BYTES: usize = 64;
/// A reply that comes byte by byte may take this many times as long as one that does not come at all.
const WHOLE_REPLY_TIMEOUTS: u64 = 10;

struct Connection {
    /// Among all connections of the load.
    number: u64,
    /// In a cluster, whom it talks to.
    node: usize,
    scanner: Scanner,
    /// What has been asked and not been answered.
    due: Due,
    /// Request numbers of this pipeline that are not written yet.
    claim: Range<u64>,
    /// What was missed and is to be set.
    fills: VecDeque<FillOf>,
    sent_ns: u64,
    progress_ns: u64,
    /// When its last whole reply came, or since when it has waited for one.
    replied_ns: u64,
    /// Waits in the worker's `ready` line.
    ready: bool,
    /// No more requests for this one.
    over: bool,
    /// Was shut down by us, to be opened again.
    reopening: bool,
    last: [u8; LAST_BYTES],
    last_len: usize,
}

pub struct Worker {
    shared: Arc<Shared>,
    thread: usize,
    ring: Ring,
    connections: Vec<Connection>,
    requests: Requests,
    /// Open loop only.
    schedule: Option<Schedule>,
    /// Open loop: connections that can take a request now, in turn.
    ready: VecDeque<usize>,
    /// Connections whose batch goes out with the next enter.
    departing: Vec<usize>,
    active: usize,
    record: Record,
    tally: Vec<u64>,
    replies: u64,
    slice_started_ns: u64,
    slice_cpu: Duration,
    slice_starved: Duration,
    epoch: u64,
    swept_ns: u64,
    deadline_ns: u64,
    /// Open loop: when the last request could have been sent.
    closed_ns: u64,
    slices: Sender<Slice>,
}

impl Worker {
    /// The whole life of a thread. Whatever goes wrong is reported through `shared`.
    pub fn live(shared: Arc<Shared>, thread: usize, slices: Sender<Slice>) {
        // Held until a failure has been told: when all have let go of it, somebody looks for one.
        let _held = slices.clone();
        let outcome = Worker::connect(shared.clone(), thread, slices).and_then(|mut worker| {
            shared.gate.ready_and_wait();
            worker.run()
        });
        if let Err(failure) = outcome {
            shared.fail(failure);
        }
        shared.progress[thread].over.store(true, Ordering::Release);
    }

    fn connect(shared: Arc<Shared>, thread: usize, slices: Sender<Slice>) -> Result<Worker, Failure> {
        // What a timer is late would count as latency.
        system::sharpen_timers();
        let plan = &shared.plan;
        let count = plan.connections_of(thread);
        let mut ring = Ring::new(count).map_err(|error| Failure::system("cannot set up io_uring", error))?;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            if shared.stop.load(Ordering::Relaxed) {
                break;
            }
            let number = index * plan.threads + thread;
            let node = number % shared.budgets.len();
            let session = Session::open(&shared.target_of(node))?;
            ring.add(session.into_fd()).map_err(|error| Failure::system("io_uring", error))?;
            connections.push(Connection::new(number as u64, node, shared.scanner()));
        }
        let commands = shared.plan.record_commands();
        Ok(Worker {
            requests: Requests::new(&shared, thread),
            schedule: None,
            ready: VecDeque::new(),
            departing: Vec::new(),
            active: connections.len(),
            connections,
            ring,
            record: Record::new(commands),
            tally: vec![0; commands],
            replies: 0,
            slice_started_ns: 0,
            slice_cpu: Duration::ZERO,
            slice_starved: Duration::ZERO,
            epoch: 0,
            swept_ns: 0,
            deadline_ns: u64::MAX,
            closed_ns: u64::MAX,
            thread,
            slices,
            shared,
        })
    }

    fn run(&mut self) -> Result<(), Failure> {
        if !self.shared.stop.load(Ordering::Relaxed) {
            self.start()?;
        }
        let mut events = Vec::new();
        let (mut turned_ns, mut was_idle) = (self.shared.now_ns(), false);
        while self.active > 0 && !self.shared.stop.load(Ordering::Relaxed) {
            self.depart();
            let timeout = self.patience();
            self.ring.wait(timeout, &mut events).map_err(|error| Failure::system("io_uring", error))?;
            let now_ns = self.shared.now_ns();
            let passed_ns = now_ns - turned_ns;
            // Longer than that, it was not on a CPU.
            if was_idle && timeout.is_zero() && passed_ns < SPIN_NS {
                self.record.spun += Duration::from_nanos(passed_ns);
            }
            (turned_ns, was_idle) = (now_ns, events.is_empty());
            for event in events.drain(..) {
                self.handle(event, now_ns)?;
            }
            if self.schedule.is_some() {
                was_idle &= !self.send_due(now_ns)?;
            }
            self.look_around(now_ns)?;
        }
        self.record.never_sent += self.never_sent();
        self.hand_over(self.shared.now_ns(), true);
        Ok(())
    }

    /// Open loop: how many requests were due and found no connection until it was too late.
    fn never_sent(&self) -> u64 {
        let Some(schedule) = &self.schedule else { return 0 };
        match self.shared.budgets.iter().all(Budget::is_used_up) {
            true => 0,
            false => schedule.due_until(self.deadline_ns.min(self.closed_ns)),
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        let now_ns = self.shared.now_ns();
        self.slice_started_ns = now_ns;
        self.slice_cpu = system::thread_cpu();
        self.slice_starved = system::thread_starved();
        let plan = &self.shared.plan;
        if let Until::Time(time) = plan.until {
            self.deadline_ns = now_ns + time.as_nanos() as u64;
        }
        self.connections.iter_mut().for_each(|connection| connection.sent_ns = now_ns);
        if let Pace::Open { requests_per_second, arrivals } = plan.pace {
            let random = Random::stream(plan.seed ^ 0x5ced, self.thread as u64);
            let place = (self.thread, plan.threads);
            let schedule = Schedule::new(now_ns, requests_per_second, place, arrivals, plan.pipeline, random);
            self.schedule = Some(schedule);
            (0..self.connections.len()).for_each(|index| self.make_ready(index));
            return self.send_due(now_ns).map(drop);
        }
        (0..self.connections.len()).try_for_each(|index| self.next_batch(index))
    }

    fn handle(&mut self, event: Event, now_ns: u64) -> Result<(), Failure> {
        match event {
            Event::Received { socket, lease } => {
                let outcome = self.receive(socket, now_ns, &lease);
                self.ring.give_back(lease);
                outcome?;
                self.go_on(socket)
            }
            Event::Sent { socket } => self.go_on(socket),
            Event::Closed { socket, error } => self.closed(socket, error),
        }
    }

    /// Counts and records the replies in a chunk.
    fn receive(&mut self, index: usize, now_ns: u64, lease: &crate::ring::Lease) -> Result<(), Failure> {
        let bytes = self.ring.bytes(lease);
        let connection = &mut self.connections[index];
        let Connection { scanner, due, fills, .. } = connection;
        let Due { replies: replies_due, pending, expected } = due;
        let plan = &self.shared.plan;
        let mix = &plan.workload.mix;
        let open = self.schedule.is_some();
        let record = &mut self.record;
        let tally = &mut self.tally;
        let mut replies = 0;
        let mut wrong = None;
        let mut first_error = None;
        let scanned = scanner.feed(bytes, |answer, captured| {
            let Some(front) = pending.front_mut() else {
                wrong.get_or_insert(("a reply that nobody asked for".to_owned(), answer_bytes(&answer)));
                return;
            };
            replies += 1;
            let command = front.command as usize;
            let action = mix.get(command).map_or(&Action::Set, |(action, _)| action);
            let counts = &mut record.commands[command];
            if let Some(verifier) = &plan.verifier {
                verify(verifier, action, &answer, captured, expected);
            }
            match answer {
                Answer::Error(text) => {
                    counts.errors += 1;
                    first_error.get_or_insert_with(|| FirstError { command: action.name(), reply: text.to_vec() });
                }
                _ if !action.expects(&answer, plan.target.protocol) => {
                    wrong.get_or_insert_with(|| (format!("not a reply to {}", action.name()), answer_bytes(&answer)));
                }
                _ if action.is_read() => {
                    let (hits, misses) = found(action, &answer);
                    counts.hits += hits;
                    counts.misses += misses;
                    if misses > 0 && plan.workload.fill {
                        fills.push_back(front.fill);
                    }
                }
                _ => {}
            }
            if open {
                counts.latency_ns.saturating_record(now_ns.saturating_sub(front.intended_ns));
            } else {
                tally[command] += 1;
            }
            front.count -= 1;
            if front.count == 0 {
                pending.pop_front();
            }
        });
        *replies_due -= replies as usize;
        if !open {
            // All replies of a chunk arrived together, and their requests left together.
            let latency_ns = now_ns.saturating_sub(connection.sent_ns);
            for (count, command) in tally.iter_mut().zip(&mut record.commands) {
                if *count > 0 {
                    command.latency_ns.saturating_record_n(latency_ns, *count);
                    *count = 0;
                }
            }
        }
        connection.progress_ns = now_ns;
        if replies > 0 {
            connection.replied_ns = now_ns;
        }
        connection.remember(bytes);
        record.bytes_received += bytes.len() as u64;
        self.replies += replies;

        if let Some(error) = first_error {
            self.shared.first_error.lock().expect("not poisoned").get_or_insert(error);
        }
        let endpoint = &plan.target.endpoint;
        scanned.map_err(|nonsense| Failure::nonsense(endpoint, nonsense))?;
        match wrong {
            None => Ok(()),
            Some((why, answer)) => Err(Failure::Nonsense {
                endpoint: endpoint.to_string(),
                why: format!("{why}: {answer}"),
                bytes: bytes.to_vec(),
            }),
        }
    }

    /// Whatever this connection can do next.
    fn go_on(&mut self, index: usize) -> Result<(), Failure> {
        let connection = &self.connections[index];
        if self.ring.is_sending(index) || connection.over || connection.reopening {
            return Ok(());
        }
        if self.schedule.is_some() {
            if !connection.fills.is_empty() {
                return self.send_fills(index);
            }
            self.make_ready(index);
            return Ok(());
        }
        if !connection.claim.is_empty() {
            return self.send_claim(index);
        }
        if connection.due.replies > 0 {
            return Ok(());
        }
        if !self.shared.plan.keep_alive {
            self.connections[index].reopening = true;
            self.ring.shut_down(index);
            return Ok(());
        }
        self.next_batch(index)
    }

    /// Closed loop: the next pipeline of requests, fills first.
    fn next_batch(&mut self, index: usize) -> Result<(), Failure> {
        let pipeline = self.shared.plan.pipeline;
        let connection = &mut self.connections[index];
        let room = pipeline.saturating_sub(connection.fills.len()) as u64;
        if room > 0 {
            connection.claim = self.shared.budgets[connection.node].claim(room);
        }
        if connection.claim.is_empty() && connection.fills.is_empty() {
            connection.over = true;
            self.active -= 1;
            return Ok(());
        }
        self.send_claim(index)
    }

    /// Sends what fits in one send of the fills and of the claim.
    fn send_claim(&mut self, index: usize) -> Result<(), Failure> {
        let connection = &mut self.connections[index];
        let idle = connection.due.replies == 0;
        if idle && !connection.fills.is_empty() {
            self.departing.push(index);
            return self.send_fills(index);
        }
        let mut out = self.ring.take_buffer(index);
        self.requests.address(connection.number, connection.node);
        let before = connection.claim.start;
        self.requests.write_claim(&mut connection.claim, &mut out, &mut connection.due);
        if connection.claim.start == before {
            // It waits for replies; its next chance is when they are in.
            return Ok(());
        }
        if idle {
            self.departing.push(index);
        }
        self.send(index, out)
    }

    /// Sets all keys that were missed on this connection.
    fn send_fills(&mut self, index: usize) -> Result<(), Failure> {
        let mut out = self.ring.take_buffer(index);
        let connection = &mut self.connections[index];
        let now_ns = self.shared.now_ns();
        if connection.due.replies == 0 {
            connection.progress_ns = now_ns;
            connection.replied_ns = now_ns;
        }
        self.requests.address(connection.number, connection.node);
        self.requests.begin(&mut out);
        self.record.fills += connection.fills.len() as u64;
        for fill in connection.fills.drain(..) {
            self.requests.write_fill(fill, now_ns, &mut out, &mut connection.due);
        }
        self.requests.end(&mut out);
        self.send(index, out)
    }

    fn send(&mut self, index: usize, out: Vec<u8>) -> Result<(), Failure> {
        self.record.bytes_sent += out.len() as u64;
        self.ring.send(index, out).map_err(|error| Failure::system("io_uring", error))
    }

    /// The batches made in this turn leave now.
    fn depart(&mut self) {
        if self.departing.is_empty() {
            return;
        }
        let now_ns = self.shared.now_ns();
        for index in self.departing.drain(..) {
            let connection = &mut self.connections[index];
            connection.progress_ns = now_ns;
            connection.replied_ns = now_ns;
            // A new connection counts from before it was opened.
            if self.shared.plan.keep_alive {
                connection.sent_ns = now_ns;
            }
        }
    }

    /// Open loop: a connection that can take a request joins the line of those that can.
    fn make_ready(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.ready && connection.due.replies < self.shared.plan.pipeline && !self.ring.is_sending(index) {
            connection.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Open loop: sends what is due, each request on the next connection that can take one. What finds
    /// none waits in line, and its wait counts. Whether there was any.
    fn send_due(&mut self, now_ns: u64) -> Result<bool, Failure> {
        let Some(schedule) = &mut self.schedule else { return Ok(false) };
        let pipeline = self.shared.plan.pipeline;
        let mut open = now_ns < self.deadline_ns;
        let mut batches: Vec<(usize, Vec<u8>)> = Vec::new();
        while let Some(&index) = self.ready.front() {
            let connection = &mut self.connections[index];
            // Bytes under way cannot be added to: back in line once they are sent.
            if self.ring.is_sending(index) || connection.due.replies >= pipeline {
                self.ready.pop_front();
                connection.ready = false;
                continue;
            }
            if !open || schedule.next_ns() > now_ns {
                break;
            }
            let Some(request) = self.shared.budgets[connection.node].claim(1).next() else {
                open = !self.shared.budgets.iter().all(Budget::is_exhausted);
                self.ready.pop_front();
                connection.ready = false;
                continue;
            };
            self.ready.pop_front();
            let slot = match batches.iter().rposition(|(batch, _)| *batch == index) {
                Some(slot) => slot,
                None => {
                    let mut out = self.ring.take_buffer(index);
                    self.requests.begin(&mut out);
                    batches.push((index, out));
                    batches.len() - 1
                }
            };
            let out = &mut batches[slot].1;
            if connection.due.replies == 0 {
                connection.progress_ns = now_ns;
                connection.replied_ns = now_ns;
            }
            self.requests.address(connection.number, connection.node);
            self.requests.write_one(request, schedule.next_ns(), out, &mut connection.due);
            schedule.advance();
            if schedule.is_in_burst() {
                self.ready.push_front(index);
            } else {
                self.ready.push_back(index);
            }
        }
        let any = !batches.is_empty();
        for (index, mut out) in batches {
            self.requests.end(&mut out);
            self.send(index, out)?;
        }
        let idle = |connection: &Connection| connection.due.replies == 0 && connection.fills.is_empty();
        open &= !self.shared.budgets.iter().all(Budget::is_exhausted);
        if !open {
            self.closed_ns = self.closed_ns.min(now_ns);
            if self.connections.iter().all(idle) {
                self.active = 0;
            }
        }
        Ok(any)
    }

    /// How long the next wait may take.
    fn patience(&self) -> Duration {
        match &self.schedule {
            Some(schedule) if !self.ready.is_empty() => {
                let gap_ns = schedule.next_ns().saturating_sub(self.shared.now_ns());
                match gap_ns {
                    0..SPIN_NS => Duration::ZERO,
                    _ => Duration::from_nanos(gap_ns - SPIN_NS / 2).min(WAIT_MAX),
                }
            }
            _ => WAIT_MAX,
        }
    }

    fn closed(&mut self, index: usize, error: Option<io::Error>) -> Result<(), Failure> {
        let connection = &mut self.connections[index];
        if !connection.reopening {
            if connection.over && connection.due.replies == 0 {
                return Ok(());
            }
            return Err(Failure::Gone {
                endpoint: self.shared.plan.target.endpoint.to_string(),
                replies_due: connection.due.replies as u64,
                reason: error.map_or("end of stream".into(), |error| explain(&error)),
                last: connection.last[..connection.last_len].to_vec(),
            });
        }
        connection.reopening = false;
        connection.sent_ns = self.shared.now_ns();
        connection.scanner = self.shared.scanner();
        let session = Session::open(&self.shared.target_of(connection.node))?;
        self.ring.replace(index, session.into_fd()).map_err(|error| Failure::system("io_uring", error))?;
        self.next_batch(index)
    }

    /// Once per turn: publish, cut, stop, notice silence.
    fn look_around(&mut self, now_ns: u64) -> Result<(), Failure> {
        self.shared.progress[self.thread].replies.store(self.replies, Ordering::Relaxed);
        if now_ns >= self.deadline_ns {
            self.shared.close();
        }
        let epoch = self.shared.epoch.load(Ordering::Relaxed);
        if epoch != self.epoch {
            self.epoch = epoch;
            self.hand_over(now_ns, false);
        }
        if now_ns.saturating_sub(self.swept_ns) < SWEEP_NS {
            return Ok(());
        }
        self.swept_ns = now_ns;
        let timeout_ns = self.shared.plan.target.timeout.as_nanos() as u64;
        for connection in &self.connections {
            let mut waited_ns = now_ns.saturating_sub(connection.progress_ns);
            let replied_ns = now_ns.saturating_sub(connection.replied_ns);
            if replied_ns > timeout_ns.saturating_mul(WHOLE_REPLY_TIMEOUTS) {
                waited_ns = replied_ns;
            }
            if connection.due.replies > 0 && waited_ns > timeout_ns {
                return Err(Failure::Silent {
                    endpoint: self.shared.plan.target.endpoint.to_string(),
                    replies_due: connection.due.replies as u64,
                    waited_ms: waited_ns / 1_000_000,
                    last: connection.last[..connection.last_len].to_vec(),
                });
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, now_ns: u64, last: bool) {
        let cpu = system::thread_cpu();
        let next = Record::new(if last { 0 } else { self.record.commands.len() });
        let mut record = std::mem::replace(&mut self.record, next);
        record.elapsed = Duration::from_nanos(now_ns - self.slice_started_ns);
        record.cpu = cpu - self.slice_cpu;
        let starved = system::thread_starved();
        record.starved = starved.saturating_sub(self.slice_starved);
        self.slice_started_ns = now_ns;
        self.slice_cpu = cpu;
        self.slice_starved = starved;
        self.shared.progress[self.thread].replies.store(self.replies, Ordering::Relaxed);
        // Nobody listens any more only when the load was given up.
        let _ = self.slices.send(Slice { thread: self.thread, epoch: self.epoch, last, record });
    }
}

impl Connection {
    fn new(number: u64, node: usize, scanner: Scanner) -> Connection {
        Connection {
            number,
            node,
            scanner,
            due: Due::default(),
            claim: 0..0,
            fills: VecDeque::new(),
            sent_ns: 0,
            progress_ns: 0,
            replied_ns: 0,
            ready: false,
            over: false,
            reopening: false,
            last: [0; LAST_BYTES],
            last_len: 0,
        }
    }

    /// Keeps the end of what was received, to be shown if something goes wrong.
    fn remember(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(LAST_BYTES)..];
        let kept = (LAST_BYTES - bytes.len()).min(self.last_len);
        self.last.copy_within(self.last_len - kept..self.last_len, 0);
        self.last_len = kept + bytes.len();
        self.last[kept..self.last_len].copy_from_slice(bytes);
    }
}

/// Values found and not found.
#[inline]
fn found(action: &Action, answer: &Answer<'_>) -> (u64, u64) {
    let keys = action.keys() as u64;
    match answer {
        Answer::Value => (1, keys - 1),
        // memcached leaves out what it has not.
        Answer::Array { values, .. } => (u64::from(*values), keys.saturating_sub(u64::from(*values))),
        _ => (0, keys),
    }
}

/// Judges the values of a reply, and notes what it acknowledges.
fn verify(
    verifier: &Verifier,
    action: &Action,
    answer: &Answer<'_>,
    captured: &Captured,
    expected: &mut VecDeque<Expectation>,
) {
    if !action.is_read() && !action.changes_values() {
        return;
    }
    let mut values = captured.iter();
    for expected in expected.drain(..action.keys().min(expected.len())) {
        match answer {
            Answer::Error(_) if action.changes_values() => verifier.doubt(expected),
            Answer::Error(_) => {}
            _ if action.changes_values() => verifier.settle(expected),
            _ => {
                if let Some(Some(value)) = values.next() {
                    verifier.check(expected, value);
                }
            }
        }
    }
}

fn answer_bytes(answer: &Answer<'_>) -> String {
    match answer {
        Answer::Status(text) => format!("status \"{}\"", printable(text)),
        Answer::Error(text) => format!("error \"{}\"", printable(text)),
        other => format!("{other:?}"),
    }
}
