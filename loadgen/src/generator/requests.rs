//! Makes the bytes of requests, and remembers what each reply will be the answer to.

use std::collections::VecDeque;
use std::ops::Range;

use crate::keys::KeyStream;
use crate::plan::Plan;
use crate::random::Random;
use crate::workload::{Action, Chooser, Sizes, Template, filler, write_digits};

/// One send carries about this much; longer pipelines go out in several.
const CHUNK_BYTES: usize = 256 * 1024;

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
    keys: KeyStream,
    random: Random,
    sizes: Sizes,
    digits: usize,
    /// Whether the key of a request matters when its reply arrives.
    keep_keys: bool,
    /// The only request there is differs from one to the next in its key digits only.
    uniform: bool,
}

impl Requests {
    pub fn new(plan: &Plan, thread: usize) -> Requests {
        let workload = &plan.workload;
        let mut templates: Vec<_> = workload
            .mix
            .iter()
            .map(|(action, _)| Template::new(action, workload, plan.target.protocol, true))
            .collect();
        let uniform = templates.len() == 1 && templates[0].fixed_bytes().is_some() && !workload.fill;
        if workload.fill {
            templates.push(Template::new(&Action::Set, workload, plan.target.protocol, true));
        }
        let stream = |index| Random::stream(plan.seed, thread as u64 * 3 + index);
        Requests {
            templates,
            chooser: Chooser::new(&workload.mix),
            keys: workload.key_stream(stream(0)),
            random: stream(1),
            sizes: workload.sizes,
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
        out.clear();
        for request in claim.by_ref() {
            self.write_one(request, 0, out, pending);
            if out.len() >= CHUNK_BYTES {
                break;
            }
        }
    }

    /// The same request over and over: only digits change. Returns how many fit.
    fn write_uniform(&mut self, claim: Range<u64>, out: &mut Vec<u8>) -> u64 {
        let (bytes, digits_at) = self.templates[0].fixed_bytes().expect("checked in new");
        let stride = bytes.len();
        let count = (claim.end - claim.start).min((CHUNK_BYTES / stride).max(1) as u64);
        let length = count as usize * stride;
        if out.len() > length {
            out.truncate(length);
        }
        while out.len() < length {
            out.extend_from_slice(bytes);
        }
        for (request, bytes) in (claim.start..claim.start + count).zip(out.chunks_exact_mut(stride)) {
            for &at in digits_at {
                write_digits(&mut bytes[at..][..self.digits], self.keys.next(request));
            }
        }
        count
    }

    /// Appends one request.
    pub fn write_one(&mut self, request: u64, intended_ns: u64, out: &mut Vec<u8>, pending: &mut VecDeque<Pending>) {
        let command = self.chooser.choose(&mut self.random);
        let mut key = 0;
        self.templates[command].append(
            out,
            || {
                key = self.keys.next(request);
                key
            },
            || self.sizes.draw(&mut self.random),
            filler,
        );
        let key = if self.keep_keys { key } else { 0 };
        remember(pending, Pending { command: command as u16, count: 1, key, intended_ns });
    }

    /// Appends the SET that follows a miss of `key`.
    pub fn write_fill(&mut self, key: u64, intended_ns: u64, out: &mut Vec<u8>, pending: &mut VecDeque<Pending>) {
        let command = self.templates.len() - 1;
        self.templates[command].append(out, || key, || self.sizes.draw(&mut self.random), filler);
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
