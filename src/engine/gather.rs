//! Commands that need answers from several cores: what was asked, what has come, what to do next.
//! Knows nothing of the mesh: it hands out [`Ask`]s and is given [`Reply`]s.

use crate::command::{Op, Spec};
use crate::engine::batch::Job;
use crate::engine::clients::{KillFilter, merge_lists};
use crate::glob;
use crate::metrics::{CoreSnapshot, Sections};
use crate::reply::{Reply, ReplyError};

/// A question to one core. Its answer is handed to [`Gather::answer`] with the same `part`.
#[derive(Debug)]
pub struct Ask {
    pub core: u32,
    pub part: u32,
    pub job: Job,
    pub spec: &'static Spec,
    pub args: Vec<Vec<u8>>,
}

pub enum Progress {
    /// More answers are under way.
    Waiting,
    /// These have to be asked next.
    Next(Vec<Ask>),
    Done(Reply<'static>),
}

/// The steps of a command and what it has found so far.
pub enum Kind {
    /// The sum of all answers: DEL, EXISTS, DBSIZE, CLIENT KILL in its new form …
    Sum(i64),
    /// OK when all answers are, else the first error: MSET, FLUSHALL, CONFIG RESETSTAT.
    AllOk(Option<Reply<'static>>),
    /// MGET: `places[part]` says where the values of a part belong.
    Values { places: Vec<Vec<u32>>, values: Vec<Reply<'static>> },
    /// MSETNX: first every core counts how many keys exist, then every core stores its part.
    SetIfNone { existing: i64, store: Vec<Ask> },
    /// RENAME, RENAMENX: taken from one core, put to another; taken back when the name is in use.
    Rename { spec: &'static Spec, source: (u32, Vec<u8>), target: (u32, Vec<u8>), state: MoveState },
    /// COPY.
    Copy { spec: &'static Spec, target: (u32, Vec<u8>), replace: bool, read: bool },
    /// SCAN: steps until about `count` keys were found, but at most `steps_left` more.
    Scan { scan: ScanState, steps_left: u32, found: Vec<Reply<'static>> },
    /// KEYS and CLUSTER GETKEYSINSLOT: steps over cores until all, or enough, has been seen.
    Collect { scan: ScanState, limit: usize, found: Vec<Reply<'static>> },
    /// RANDOMKEY: core after core until one has a key.
    AnyKey { left: Vec<u32>, spec: &'static Spec },
    /// The plain text of every core, joined: CLIENT LIST.
    Lines(String),
    /// Every core's counters, to be rendered by the engine: INFO with its sections, else STATS.
    Snapshots { parts: Vec<CoreSnapshot>, info: Option<Sections> },
    /// CLIENT KILL: how many were closed.
    Killed { filter: KillFilter, count: u64 },
    /// The one answer there is.
    First,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveState {
    Taking,
    Putting,
    PuttingBack,
}

pub struct ScanState {
    pub spec: &'static Spec,
    pub core: u32,
    /// The first core that is not scanned any more.
    pub end: u32,
    pub cursor: u64,
    pub count: u64,
    pub pattern: Option<Vec<u8>>,
    /// TYPE other than string: nothing matches, but the cursor still moves.
    pub nothing_matches: bool,
    pub slot: Option<u16>,
}

pub struct Gather {
    pub kind: Kind,
    pub waiting: u32,
}

/// SCAN's cursor over cores: the core's own cursor in the low bits, the core above them. Decimal text
/// stays within 64 bits, and clients treat it as opaque.
const CURSOR_CORE_SHIFT: u32 = 48;

pub fn join_cursor(core: u32, cursor: u64) -> u64 {
    debug_assert!(cursor >> CURSOR_CORE_SHIFT == 0);
    (core as u64) << CURSOR_CORE_SHIFT | cursor
}

pub fn split_cursor(cursor: u64) -> (u32, u64) {
    ((cursor >> CURSOR_CORE_SHIFT) as u32, cursor & ((1 << CURSOR_CORE_SHIFT) - 1))
}

impl ScanState {
    pub fn ask(&self) -> Ask {
        let mut args = vec![self.cursor.to_string().into_bytes(), self.count.to_string().into_bytes()];
        args.extend(self.slot.map(|slot| slot.to_string().into_bytes()));
        Ask { core: self.core, part: 0, job: Job::Scan, spec: self.spec, args }
    }

    fn wants(&self, key: &Reply<'_>) -> bool {
        let Reply::Owned(key) = key else { return false };
        !self.nothing_matches && self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, key))
    }

    /// Takes `[cursor, keys]` and moves on; `None` when every core is done.
    fn advance(&mut self, answer: Reply<'static>) -> Option<Vec<Reply<'static>>> {
        let Reply::Array(mut answer) = answer else { return None };
        let (Some(Reply::Array(mut keys)), Some(Reply::Int(cursor))) = (answer.pop(), answer.pop()) else {
            return None;
        };
        keys.retain(|key| self.wants(key));
        self.cursor = cursor as u64;
        if self.cursor == 0 {
            self.core += 1;
        }
        Some(keys)
    }
}

impl Gather {
    pub fn new(kind: Kind) -> Gather {
        Gather { kind, waiting: 0 }
    }

    pub fn answer(&mut self, part: u32, reply: Reply<'static>) -> Progress {
        self.waiting -= 1;
        let last = self.waiting == 0;
        match &mut self.kind {
            Kind::Sum(sum) => {
                match reply {
                    Reply::Int(value) => *sum += value,
                    error => return finish_unless(last, error),
                }
                if last { Progress::Done(Reply::Int(*sum)) } else { Progress::Waiting }
            }
            Kind::AllOk(failure) => {
                if reply != Reply::Ok && failure.is_none() {
                    *failure = Some(reply);
                }
                if last { Progress::Done(failure.take().unwrap_or(Reply::Ok)) } else { Progress::Waiting }
            }
            Kind::Killed { filter, count } => {
                if let Reply::Int(killed) = reply {
                    *count += killed as u64;
                }
                if last { Progress::Done(filter.reply(*count)) } else { Progress::Waiting }
            }
            Kind::First => Progress::Done(reply),
            Kind::Values { places, values } => {
                if let Reply::Array(found) = reply {
                    for (value, place) in found.into_iter().zip(&places[part as usize]) {
                        values[*place as usize] = value;
                    }
                }
                if last { Progress::Done(Reply::Array(std::mem::take(values))) } else { Progress::Waiting }
            }
            Kind::SetIfNone { existing, store } => {
                match reply {
                    Reply::Int(count) => *existing += count,
                    Reply::Ok => {}
                    error => return finish_unless(last, error),
                }
                match (last, *existing, store.is_empty()) {
                    (false, ..) => Progress::Waiting,
                    (true, 0, false) => Progress::Next(std::mem::take(store)),
                    (true, 0, true) => Progress::Done(Reply::Int(1)),
                    (true, ..) => Progress::Done(Reply::Int(0)),
                }
            }
            Kind::Rename { spec, source, target, state } => match (*state, reply) {
                (MoveState::Taking, Reply::Array(found)) => {
                    *state = MoveState::Putting;
                    let replace = spec.op == Op::Rename;
                    Progress::Next(vec![put(target.0, spec, &target.1, found, replace)])
                }
                (MoveState::Taking, _) => Progress::Done(ReplyError::NoSuchKey.into()),
                (MoveState::Putting, Reply::Int(1)) => {
                    Progress::Done(if spec.op == Op::Rename { Reply::Ok } else { Reply::Int(1) })
                }
                // The name is in use: what was taken comes back with the refusal and goes home.
                (MoveState::Putting, Reply::Array(taken)) => {
                    *state = MoveState::PuttingBack;
                    Progress::Next(vec![put(source.0, spec, &source.1, taken, false)])
                }
                (MoveState::Putting, error) => Progress::Done(error),
                (MoveState::PuttingBack, _) => Progress::Done(Reply::Int(0)),
            },
            Kind::Copy { spec, target, replace, read } => match reply {
                Reply::Array(found) if !*read => {
                    *read = true;
                    Progress::Next(vec![put(target.0, spec, &target.1, found, *replace)])
                }
                Reply::Int(1) if *read => Progress::Done(Reply::Int(1)),
                Reply::Nil | Reply::Array(_) => Progress::Done(Reply::Int(0)),
                error => Progress::Done(error),
            },
            Kind::Scan { scan, steps_left, found } => {
                let Some(keys) = scan.advance(reply) else { return Progress::Done(broken()) };
                found.extend(keys);
                *steps_left -= 1;
                let done = scan.core == scan.end;
                if !done && *steps_left > 0 && (found.len() as u64) < scan.count {
                    return Progress::Next(vec![scan.ask()]);
                }
                let cursor = if done { 0 } else { join_cursor(scan.core, scan.cursor) };
                let keys = Reply::Array(std::mem::take(found));
                Progress::Done(Reply::Array(vec![Reply::owned(cursor.to_string()), keys]))
            }
            Kind::Collect { scan, limit, found } => {
                let Some(keys) = scan.advance(reply) else { return Progress::Done(broken()) };
                found.extend(keys);
                found.truncate(*limit);
                if scan.core == scan.end || found.len() == *limit {
                    return Progress::Done(Reply::Array(std::mem::take(found)));
                }
                Progress::Next(vec![scan.ask()])
            }
            Kind::AnyKey { left, spec } => match left.pop() {
                Some(core) if reply == Reply::Nil => {
                    Progress::Next(vec![Ask { core, part: 0, job: Job::RandomKey, spec, args: vec![] }])
                }
                _ => Progress::Done(reply),
            },
            Kind::Lines(lines) => {
                if let Reply::Owned(bytes) = reply {
                    lines.push_str(&String::from_utf8_lossy(&bytes));
                }
                if last { Progress::Done(Reply::Verbatim(merge_lists(&[lines]).into())) } else { Progress::Waiting }
            }
            Kind::Snapshots { parts, .. } => {
                if let Reply::Owned(bytes) = reply {
                    parts.extend(CoreSnapshot::from_bytes(&bytes));
                    parts.sort_by_key(|snapshot| snapshot.core);
                }
                if last { Progress::Done(Reply::None) } else { Progress::Waiting }
            }
        }
    }
}

fn finish_unless(last: bool, error: Reply<'static>) -> Progress {
    if last { Progress::Done(error) } else { Progress::Waiting }
}

fn broken() -> Reply<'static> {
    Reply::error("ERR internal: unexpected answer from another core")
}

/// `found` is `[value, expiry]` as [`Job::Take`] and [`Job::Read`] answer it.
fn put(core: u32, spec: &'static Spec, key: &[u8], found: Vec<Reply<'static>>, replace: bool) -> Ask {
    let mut args = vec![key.to_vec()];
    args.extend(found.into_iter().map(|part| match part {
        Reply::Owned(bytes) => bytes,
        Reply::Large(bytes) => bytes.to_vec(),
        Reply::Int(value) => value.to_string().into_bytes(),
        _ => Vec::new(),
    }));
    args.push(vec![b'0' + replace as u8]);
    Ask { core, part: 0, job: Job::Put, spec, args }
}
