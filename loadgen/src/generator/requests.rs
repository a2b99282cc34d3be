//! Makes the bytes of requests, and remembers what each reply will be the answer to.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crabcache::proto::binary::FRAME_HEADER_BYTES;

use super::shared::Shared;
use crate::cluster::Cluster;
use crate::keys::{Distribution, KeyStream};
use crate::plan::Until;
use crate::random::Random;
use crate::template::{Filling, FrameWriter, Template, filler, write_digits};
use crate::trace::Trace;
use crate::verify::{Expectation, Verifier};
use crate::wire::Protocol;
use crate::workload::{Action, Chooser, Sizes};

/// One send carries about this much; longer pipelines go out in several.
const CHUNK_BYTES: usize = 256 * 1024;

/// Replies that are due: `count` in a row that differ in nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pending {
    /// Index into the mix; one past its end is a fill.
    pub command: u16,
    pub count: u32,
    /// What a fill would be of.
    pub fill: FillOf,
    /// When it was due, in an open loop.
    pub intended_ns: u64,
}

/// A key that was missed: its number, or in a trace the number of the request that missed it.
pub type FillOf = u64;

/// What one connection waits for.
#[derive(Default)]
pub struct Due {
    pub replies: usize,
    pub pending: VecDeque<Pending>,
    /// One for each key of each request whose values are verified.
    pub expected: VecDeque<Expectation>,
}

impl Due {
    /// Joins replies that differ in nothing.
    fn add(&mut self, next: Pending) {
        self.replies += next.count as usize;
        match self.pending.back_mut() {
            Some(last) if Pending { count: next.count, ..*last } == next => last.count += next.count,
            _ => self.pending.push_back(next),
        }
    }
}

pub struct Requests {
    templates: Vec<Template>,
    actions: Vec<Action>,
    chooser: Chooser,
    choices: Random,
    source: Source,
    frames: Option<FrameWriter>,
    digits: usize,
    fill: bool,
    /// The only request there is differs from one to the next in its key digits only.
    uniform: bool,
}

/// Where keys and values come from.
struct Source {
    keys: KeyStream,
    /// Of reads, if they draw theirs in another way.
    keys_of_reads: Option<KeyStream>,
    sizes: Sizes,
    random: Random,
    trace: Option<Arc<Trace>>,
    cluster: Option<Arc<Cluster>>,
    verifier: Option<Arc<Verifier>>,
    sequential: bool,
    sequential_reads: bool,
    /// Sequential, and not even once round: each key is written once at most, whoever does it.
    each_key_once: bool,
    /// For whom, and what, is being written now.
    connection: u64,
    node: usize,
    request: u64,
    changes: bool,
    reads: bool,
    last_key: u64,
    last_write: Expectation,
    expected: Vec<Expectation>,
}

impl Source {
    #[inline]
    fn draw(&mut self) -> u64 {
        if let Some(trace) = &self.trace {
            return trace.key(self.request);
        }
        let (stream, sequential) = match &mut self.keys_of_reads {
            Some(stream) if self.reads => (stream, self.sequential_reads),
            _ => (&mut self.keys, self.sequential),
        };
        let Some(cluster) = &self.cluster else {
            return stream.next(self.request);
        };
        if sequential {
            let keys = cluster.keys_of(self.node);
            return u64::from(keys[(self.request % keys.len() as u64) as usize]);
        }
        // Each node owns some key, and every distribution reaches every key.
        loop {
            let key = stream.next(self.request);
            if cluster.owns(self.node, key) {
                return key;
            }
        }
    }

    /// Makes the key one that this connection may write, and remembers what to expect.
    fn expect(&mut self, verifier: &Verifier, key: u64) -> u64 {
        let connection = (!self.each_key_once).then_some(self.connection);
        if self.changes {
            let key = connection.map_or(key, |connection| verifier.writable(key, connection));
            self.last_write = verifier.write(key);
            self.expected.push(self.last_write);
            return key;
        }
        if self.reads {
            self.expected.push(verifier.read(key, connection));
        }
        key
    }
}

impl Filling for Source {
    #[inline]
    fn key(&mut self) -> u64 {
        let mut key = self.draw();
        if let Some(verifier) = self.verifier.clone() {
            key = self.expect(&verifier, key);
        }
        self.last_key = key;
        key
    }

    #[inline]
    fn value_length(&mut self) -> usize {
        match &self.trace {
            Some(trace) if trace.sized => trace.size(self.request),
            _ => self.sizes.draw(&mut self.random),
        }
    }

    #[inline]
    fn value(&mut self, out: &mut Vec<u8>, length: usize) {
        match &self.verifier {
            Some(verifier) if self.changes => verifier.append_value(self.last_write, length, out),
            _ => filler(out, length),
        }
    }
}

/// The SET that follows a miss.
struct Fill<'a> {
    key: u64,
    source: &'a mut Source,
}

impl Filling for Fill<'_> {
    fn key(&mut self) -> u64 {
        self.key
    }

    fn value_length(&mut self) -> usize {
        self.source.value_length()
    }

    fn value(&mut self, out: &mut Vec<u8>, length: usize) {
        self.source.value(out, length);
    }
}

impl Requests {
    pub fn new(shared: &Shared, thread: usize) -> Requests {
        let plan = &shared.plan;
        let workload = &plan.workload;
        let sized_trace = workload.trace.as_ref().is_some_and(|trace| trace.sized);
        let fixed_values = plan.verifier.is_none() && !sized_trace;
        let mut actions: Vec<Action> = workload.mix.iter().map(|(action, _)| action.clone()).collect();
        if workload.fill {
            actions.push(Action::Set);
        }
        let template = |action: &Action| Template::new(action, workload, plan.target.protocol, fixed_values);
        let templates: Vec<Template> = actions.iter().map(template).collect();
        let uniform = templates.len() == 1 && templates[0].fixed_bytes().is_some() && plan.verifier.is_none();
        let reads_only = workload.mix.iter().all(|(action, _)| action.is_read());
        let sequential = workload.distribution == Distribution::Sequential;
        let stream = |index| Random::stream(plan.seed, thread as u64 * 3 + index);
        Requests {
            templates,
            actions,
            chooser: Chooser::new(&workload.mix),
            choices: stream(0),
            source: Source {
                keys: workload.key_stream(stream(1)),
                keys_of_reads: workload.key_stream_of_reads(Random::stream(!plan.seed, thread as u64)),
                sizes: workload.sizes,
                random: stream(2),
                trace: workload.trace.clone(),
                cluster: shared.cluster.clone(),
                verifier: plan.verifier.clone(),
                sequential,
                sequential_reads: workload.distribution_of_reads == Some(Distribution::Sequential),
                each_key_once: sequential && matches!(plan.until, Until::Requests(count) if count <= workload.keys),
                connection: 0,
                node: 0,
                request: 0,
                changes: false,
                reads: uniform && reads_only,
                last_key: 0,
                last_write: Expectation { key: 0, version: 0, acknowledged: 0 },
                expected: Vec::new(),
            },
            frames: (plan.target.protocol == Protocol::Binary).then_some(FrameWriter),
            digits: workload.names.digits,
            fill: workload.fill,
            uniform,
        }
    }

    /// Whose requests are written from here on: the connection's number among all, and its node's.
    pub fn address(&mut self, connection: u64, node: usize) {
        self.source.connection = connection;
        self.source.node = node;
    }

    /// Takes request numbers from `claim` and writes their requests, until one send is full.
    /// `out` is the connection's previous send: its bytes are used again where they fit.
    pub fn write_claim(&mut self, claim: &mut Range<u64>, out: &mut Vec<u8>, due: &mut Due) {
        if self.uniform {
            return self.write_uniform(claim, out, due);
        }
        self.begin(out);
        while !claim.is_empty() && out.len() < CHUNK_BYTES && !self.must_wait(claim.start, due) {
            self.write_one(claim.start, 0, out, due);
            claim.start += 1;
        }
        self.end(out);
    }

    /// Whether the same key is being asked for already, so that its fill has to come first. (Drawn keys
    /// are not looked at: their order means nothing.)
    fn must_wait(&self, request: u64, due: &Due) -> bool {
        let Some(trace) = &self.source.trace else { return false };
        let key = trace.key(request);
        let is_fill = |command: u16| usize::from(command) == self.templates.len() - 1;
        due.pending.iter().any(|pending| !is_fill(pending.command) && trace.key(pending.fill) == key)
    }

    /// The same request over and over: only digits change.
    fn write_uniform(&mut self, claim: &mut Range<u64>, out: &mut Vec<u8>, due: &mut Due) {
        if out.is_empty() {
            self.begin(out);
        }
        let (bytes, digits_at) = self.templates[0].fixed_bytes().expect("checked in new");
        let stride = bytes.len();
        let count = (claim.end - claim.start).min((CHUNK_BYTES / stride).max(1) as u64);
        let start = if self.frames.is_some() { FRAME_HEADER_BYTES } else { 0 };
        let length = start + count as usize * stride;
        out.truncate(length);
        while out.len() < length {
            out.extend_from_slice(bytes);
        }
        for (request, bytes) in (claim.start..).zip(out[start..].chunks_exact_mut(stride)) {
            self.source.request = request;
            for &at in digits_at {
                write_digits(&mut bytes[at..][..self.digits], self.source.draw());
            }
        }
        self.end(out);
        claim.start += count;
        due.add(Pending { command: 0, count: count as u32, fill: 0, intended_ns: 0 });
    }

    /// Empties `out` for requests to be appended.
    pub fn begin(&self, out: &mut Vec<u8>) {
        out.clear();
        if let Some(frames) = self.frames {
            frames.begin(out);
        }
    }

    /// All requests of this send are in `out`.
    pub fn end(&self, out: &mut [u8]) {
        if let Some(frames) = self.frames {
            frames.end(out);
        }
    }

    /// Appends one request.
    pub fn write_one(&mut self, request: u64, intended_ns: u64, out: &mut Vec<u8>, due: &mut Due) {
        let command = self.chooser.choose(&mut self.choices);
        self.source.request = request;
        self.source.changes = self.actions[command].changes_values();
        self.source.reads = self.actions[command].is_read();
        self.templates[command].append(out, &mut self.source);
        due.expected.extend(self.source.expected.drain(..));
        let fill = match (self.fill, &self.source.trace) {
            (false, _) => 0,
            (true, None) => self.source.last_key,
            (true, Some(_)) => request,
        };
        due.add(Pending { command: command as u16, count: 1, fill, intended_ns });
    }

    /// Appends the SET that follows a miss.
    pub fn write_fill(&mut self, fill: FillOf, intended_ns: u64, out: &mut Vec<u8>, due: &mut Due) {
        let command = self.templates.len() - 1;
        let key = match &self.source.trace {
            None => fill,
            Some(trace) => trace.key(fill),
        };
        self.source.request = fill;
        self.templates[command].append(out, &mut Fill { key, source: &mut self.source });
        due.add(Pending { command: command as u16, count: 1, fill, intended_ns });
    }
}
