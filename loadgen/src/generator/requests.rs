//! Makes the bytes of requests, and remembers what each reply will be the answer to.

use std::collections::VecDeque;
use std::ops::Range;

use crabcache::proto::binary::FRAME_HEADER_BYTES;

use crate::keys::KeyStream;
use crate::plan::Plan;
use crate::random::Random;
use crate::template::{Filling, FrameWriter, Template, filler, write_digits};
use crate::wire::Protocol;
use crate::workload::{Action, Chooser, Sizes};

/// One send carries about this much; longer pipelines go out in several.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Replies that are due: `count` in a row that differ in nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pending {
    /// Index into the mix; one past its end is a fill.
    pub command: u16,
    pub count: u32,
    pub key: u64,
    /// When it was due, in an open loop.
    pub intended_ns: u64,
}

pub struct Requests {
    templates: Vec<Template>,
    chooser: Chooser,
    choices: Random,
    source: Source,
    frames: Option<FrameWriter>,
    digits: usize,
    /// Whether the key of a request matters when its reply arrives.
    keep_keys: bool,
    /// The only request there is differs from one to the next in its key digits only.
    uniform: bool,
}

/// Where keys and values come from.
struct Source {
    keys: KeyStream,
    sizes: Sizes,
    random: Random,
    /// The number of the request being written.
    request: u64,
    last_key: u64,
}

impl Filling for Source {
    #[inline]
    fn key(&mut self) -> u64 {
        self.last_key = self.keys.next(self.request);
        self.last_key
    }

    #[inline]
    fn value_length(&mut self) -> usize {
        self.sizes.draw(&mut self.random)
    }

    #[inline]
    fn value(&mut self, out: &mut Vec<u8>, length: usize) {
        filler(out, length);
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
    pub fn new(plan: &Plan, thread: usize) -> Requests {
        let workload = &plan.workload;
        let template = |action: &Action| Template::new(action, workload, plan.target.protocol, true);
        let mut templates: Vec<_> = workload.mix.iter().map(|(action, _)| template(action)).collect();
        let uniform = templates.len() == 1 && templates[0].fixed_bytes().is_some() && !workload.fill;
        if workload.fill {
            templates.push(template(&Action::Set));
        }
        let stream = |index| Random::stream(plan.seed, thread as u64 * 3 + index);
        Requests {
            templates,
            chooser: Chooser::new(&workload.mix),
            choices: stream(0),
            source: Source {
                keys: workload.key_stream(stream(1)),
                sizes: workload.sizes,
                random: stream(2),
                request: 0,
                last_key: 0,
            },
            frames: (plan.target.protocol == Protocol::Binary).then_some(FrameWriter),
            digits: workload.names.digits,
            keep_keys: workload.fill,
            uniform,
        }
    }

    /// Takes request numbers from `claim` and writes their requests, until one send is full.
    /// `out` is the connection's previous send: its bytes are used again where they fit.
    pub fn write_claim(&mut self, claim: &mut Range<u64>, out: &mut Vec<u8>, pending: &mut VecDeque<Pending>) {
        if self.uniform {
            let count = self.write_uniform(claim.clone(), out);
            claim.start += count;
            pending.push_back(Pending { command: 0, count: count as u32, key: 0, intended_ns: 0 });
            return;
        }
        self.begin(out);
        for request in claim.by_ref() {
            self.write_one(request, 0, out, pending);
            if out.len() >= CHUNK_BYTES {
                break;
            }
        }
        self.end(out);
    }

    /// The same request over and over: only digits change. Returns how many fit.
    fn write_uniform(&mut self, claim: Range<u64>, out: &mut Vec<u8>) -> u64 {
        let (bytes, digits_at) = self.templates[0].fixed_bytes().expect("checked in new");
        let stride = bytes.len();
        let count = (claim.end - claim.start).min((CHUNK_BYTES / stride).max(1) as u64);
        let start = if self.frames.is_some() { FRAME_HEADER_BYTES } else { 0 };
        if out.is_empty() {
            self.begin(out);
        }
        let length = start + count as usize * stride;
        out.truncate(length);
        while out.len() < length {
            out.extend_from_slice(bytes);
        }
        for (request, bytes) in (claim.start..claim.start + count).zip(out[start..].chunks_exact_mut(stride)) {
            for &at in digits_at {
                write_digits(&mut bytes[at..][..self.digits], self.source.keys.next(request));
            }
        }
        self.end(out);
        count
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
    pub fn write_one(&mut self, request: u64, intended_ns: u64, out: &mut Vec<u8>, pending: &mut VecDeque<Pending>) {
        let command = self.chooser.choose(&mut self.choices);
        self.source.request = request;
        self.templates[command].append(out, &mut self.source);
        let key = if self.keep_keys { self.source.last_key } else { 0 };
        remember(pending, Pending { command: command as u16, count: 1, key, intended_ns });
    }

    /// Appends the SET that follows a miss of `key`.
    pub fn write_fill(&mut self, key: u64, intended_ns: u64, out: &mut Vec<u8>, pending: &mut VecDeque<Pending>) {
        let command = self.templates.len() - 1;
        self.templates[command].append(out, &mut Fill { key, source: &mut self.source });
        remember(pending, Pending { command: command as u16, count: 1, key, intended_ns });
    }
}

/// Joins replies that differ in nothing.
fn remember(pending: &mut VecDeque<Pending>, next: Pending) {
    match pending.back_mut() {
        Some(last) if Pending { count: last.count, ..next } == *last => last.count += 1,
        _ => pending.push_back(next),
    }
}
