//! Commands that need answers from several cores: what was asked, what has come, what to do next.
//! Knows nothing of the mesh: it hands out [`Ask`]s and is given [`Reply`]s.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::auth::OpSet;
use crate::command::{Op, Spec};
use crate::engine::batch::Job;
use crate::engine::clients::{KillFilter, merge_lists};
use crate::engine::merge::Merge;
use crate::engine::namespaces::{self, FoundNamespaces};
use crate::engine::portions::{Found, Portions};
use crate::engine::transaction::Transaction;
use crate::engine::written::Written;
use crate::glob;
use crate::metrics::{CoreSnapshot, Names, Sections};
use crate::namespace::{NamespaceLimits, View};
use crate::reply::{Reply, ReplyError};
use crate::request::{Args, Wire};

/// A question to one core. Its answer is handed to [`Gather::answer`] with the same `part`.
#[derive(Debug)]
pub struct Ask {
    pub core: u32,
    pub part: u32,
    pub job: Job,
    pub spec: &'static Spec,
    pub args: Vec<Bytes>,
}

pub enum Progress {
    /// More answers are under way.
    Waiting,
    /// These have to be asked next.
    Next(Vec<Ask>),
    /// The same, but not before others have had their turn.
    Later(Vec<Ask>),
    /// A reply that is written down already.
    Written(Written),
    Done(Reply<'static>),
}

/// The steps of a command and what it has found so far.
pub enum Kind {
    /// The sum of all answers: DEL, EXISTS, DBSIZE, CLIENT KILL in its new form …
    Sum(i64),
    /// OK when all answers are: MSET, FLUSHALL, CONFIG RESETSTAT.
    AllOk,
    /// MGET: `places[part]` says where the values of a part belong.
    Values { places: Vec<Vec<u32>>, values: Vec<Reply<'static>> },
    /// MSETNX: first every core counts how many keys exist, then every core stores its part.
    SetIfNone { existing: i64, store: Vec<Ask> },
    /// RENAME, RENAMENX: read from one core, put to another, then removed. Both names are held meanwhile.
    Rename { spec: &'static Spec, source: (u32, Vec<u8>), target: (u32, Vec<u8>), state: MoveState },
    /// COPY.
    Copy { spec: &'static Spec, target: (u32, Vec<u8>), replace: bool, read: bool },
    /// SCAN: steps until about `count` keys were found, but at most `steps_left` more.
    Scan { scan: ScanState, steps_left: u32, found: Vec<Vec<u8>> },
    /// KEYS and CLUSTER GETKEYSINSLOT: steps over cores until all, or enough, has been seen. No step shows a key that
    /// another has shown.
    Collect { scan: ScanState, limit: usize, found: Keys, bytes_left: usize },
    /// Many keys, some at a time.
    Portions(Box<Portions>),
    /// RANDOMKEY: core after core until one has a key.
    AnyKey { left: Vec<u32>, spec: &'static Spec, view: View },
    /// FLUSHDB where keys have to be told apart: steps over cores until all of them are gone.
    Sweep { scan: ScanState },
    /// NAMESPACE LIST and INFO: what all cores know of each.
    Namespaces { found: FoundNamespaces, wanted: Option<(Vec<u8>, NamespaceLimits)> },
    /// The plain text of every core, joined: CLIENT LIST.
    Lines(String),
    /// Every core's counters, to be rendered by the engine.
    Snapshots { parts: Vec<CoreSnapshot>, page: Page },
    /// HOTKEYS: the hottest of every core, of which `count` are wanted.
    HotKeys { count: usize, found: Vec<(Vec<u8>, i64)> },
    /// PUBSUB CHANNELS, SHARDCHANNELS: the names of all cores; NUMPAT: how many there are.
    Names { names: BTreeSet<Vec<u8>>, is_counted: bool, bytes_left: usize },
    /// PUBSUB NUMSUB, SHARDNUMSUB: each name with its listeners on all cores.
    Listeners { names: Vec<Vec<u8>>, counts: Vec<i64> },
    /// CLIENT KILL: how many were closed.
    Killed { filter: KillFilter, count: u64 },
    /// WAITAOF: every core says whether it has a log; the reply waits for all of them.
    Logged,
    /// WATCH: the versions of the keys, which the engine keeps.
    Watch { keys: Vec<(u32, Bytes)>, versions: Vec<u64> },
    /// Several steps on several cores, which the engine takes.
    Transaction(Box<Transaction>),
    /// CLIENT TRACKING: whether the client to redirect to is there.
    Tracking { is_target_there: bool },
    /// What all cores say, to be seen together.
    Parts { parts: Vec<Reply<'static>>, merge: Merge },
    /// The one answer there is.
    First,
}

/// Keys that were found.
pub enum Keys {
    Written(Written),
    /// Where it has to be known how many there are before the first is written.
    Listed(Vec<Reply<'static>>),
}

impl Keys {
    pub fn for_wire(wire: Option<Wire>) -> Keys {
        match wire {
            Some(wire) if Written::is_for(wire) => Keys::Written(Written::new(wire)),
            _ => Keys::Listed(Vec::new()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Keys::Written(written) => written.count(),
            Keys::Listed(keys) => keys.len(),
        }
    }

    fn push(&mut self, key: Vec<u8>) {
        match self {
            Keys::Written(written) => written.push(&Reply::Owned(key)),
            Keys::Listed(keys) => keys.push(Reply::Owned(key)),
        }
    }

    fn done(&mut self) -> Progress {
        match std::mem::replace(self, Keys::Listed(Vec::new())) {
            Keys::Written(written) => Progress::Written(written),
            Keys::Listed(keys) => Progress::Done(Reply::Array(keys)),
        }
    }
}

/// What is made of every core's counters.
pub enum Page {
    Info(Sections),
    Stats,
    MemoryStats,
    MemoryDoctor,
    /// STATS PROMETHEUS | ANONYMOUS | EXPORTER
    Metrics(Names),
    /// LATENCY HISTOGRAM of these operations.
    Histogram(OpSet),
}

impl Page {
    /// The arguments of STATS.
    pub fn of_stats(args: Args<'_>) -> Result<Page, ReplyError<'static>> {
        match args.len() {
            0 => Ok(Page::Stats),
            1 => match args.get(0).to_ascii_uppercase().as_slice() {
                b"JSON" => Ok(Page::Stats),
                b"PROMETHEUS" => Ok(Page::Metrics(Names::Own)),
                b"ANONYMOUS" => Ok(Page::Metrics(Names::Anonymous)),
                b"EXPORTER" => Ok(Page::Metrics(Names::RedisExporter)),
                _ => Err(ReplyError::Syntax),
            },
            _ => Err(ReplyError::Syntax),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveState {
    Reading,
    Putting,
    Removing,
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
    pub view: View,
}

pub struct Gather {
    pub kind: Kind,
    pub waiting: u32,
    /// The first error that a core has answered: it becomes the reply when all have.
    failure: Option<Reply<'static>>,
}

/// Instead of a reply that no client may be owed; see `limits::OUTPUT_HARD_BYTES`.
pub const REPLY_TOO_LARGE: &str = "ERR the reply would be larger than the output of a client may be";

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
        let mut args = vec![Bytes::from(self.cursor.to_string()), Bytes::from(self.count.to_string())];
        args.push(Bytes::from(self.slot.map_or(-1, i32::from).to_string()));
        args.push(namespaces::view_argument(&self.view));
        Ask { core: self.core, part: 0, job: Job::Scan, spec: self.spec, args }
    }

    fn wants(&self, key: &[u8]) -> bool {
        !self.nothing_matches && self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, key))
    }

    /// Takes `[cursor, keys]`, moves on, and returns the keys that are wanted; none for anything else.
    fn advance(&mut self, answer: Reply<'static>) -> Option<impl Iterator<Item = Vec<u8>>> {
        let Reply::Array(mut answer) = answer else { return None };
        let (Some(Reply::Array(keys)), Some(Reply::Int(cursor))) = (answer.pop(), answer.pop()) else {
            return None;
        };
        self.cursor = cursor as u64;
        if self.cursor == 0 {
            self.core += 1;
        }
        let named = |key: Vec<u8>| self.view.within(&key).map(<[u8]>::to_vec);
        Some(keys.into_iter().filter_map(string).filter_map(named).filter(|key| self.wants(key)))
    }
}

impl Gather {
    pub fn new(kind: Kind) -> Gather {
        Gather { kind, waiting: 0, failure: None }
    }

    pub fn answer(&mut self, part: u32, reply: Reply<'static>) -> Progress {
        self.waiting -= 1;
        let last = self.waiting == 0;
        let failure = &mut self.failure;
        match &mut self.kind {
            Kind::Sum(sum) => {
                match reply {
                    Reply::Int(value) => *sum += value,
                    error => *failure = failure.take().or(Some(error)),
                }
                if last { Progress::Done(failure.take().unwrap_or(Reply::Int(*sum))) } else { Progress::Waiting }
            }
            Kind::AllOk => {
                if reply != Reply::Ok {
                    *failure = failure.take().or(Some(reply));
                }
                if last { Progress::Done(failure.take().unwrap_or(Reply::Ok)) } else { Progress::Waiting }
            }
            Kind::Logged => {
                if !matches!(reply, Reply::Int(_)) {
                    *failure = failure.take().or(Some(reply));
                }
                let done = Reply::Array(vec![Reply::Int(1), Reply::Int(0)]);
                if last { Progress::Done(failure.take().unwrap_or(done)) } else { Progress::Waiting }
            }
            Kind::Killed { filter, count } => {
                if let Reply::Int(killed) = reply {
                    *count += killed as u64;
                }
                if last { Progress::Done(filter.reply(*count)) } else { Progress::Waiting }
            }
            Kind::First => Progress::Done(reply),
            Kind::Tracking { is_target_there } => {
                *is_target_there &= reply != Reply::Int(0);
                if last { Progress::Done(Reply::Ok) } else { Progress::Waiting }
            }
            Kind::Parts { parts, merge } => {
                parts.push(reply);
                if last { Progress::Done(merge.merge(std::mem::take(parts))) } else { Progress::Waiting }
            }
            Kind::Transaction(_) => unreachable!("the engine takes the answers of a transaction"),
            Kind::Watch { versions, .. } => {
                if let Reply::Int(version) = reply {
                    versions[part as usize] = version as u64;
                }
                if last { Progress::Done(Reply::Ok) } else { Progress::Waiting }
            }
            Kind::Values { places, values } => {
                match reply {
                    Reply::Array(found) => {
                        for (value, place) in found.into_iter().zip(&places[part as usize]) {
                            values[*place as usize] = value;
                        }
                    }
                    error => *failure = failure.take().or(Some(error)),
                }
                if !last {
                    return Progress::Waiting;
                }
                Progress::Done(failure.take().unwrap_or_else(|| Reply::Array(std::mem::take(values))))
            }
            Kind::Portions(portions) => {
                if let Err(error) = portions.take(part, reply) {
                    *failure = failure.take().or(Some(error));
                }
                if !last {
                    return Progress::Waiting;
                }
                if let Some(error) = failure.take() {
                    return Progress::Done(error);
                }
                if !portions.finish_portion() {
                    return Progress::Done(Reply::error(REPLY_TOO_LARGE));
                }
                let asks = portions.next();
                if !asks.is_empty() {
                    return Progress::Later(asks);
                }
                match portions.found() {
                    Found::Sum(sum) => Progress::Done(Reply::Int(sum)),
                    Found::Written(written) => Progress::Written(written),
                    Found::Values(values) => Progress::Done(Reply::Array(values)),
                }
            }
            Kind::SetIfNone { existing, store } => {
                match reply {
                    Reply::Int(count) => *existing += count,
                    Reply::Ok => {}
                    error => *failure = failure.take().or(Some(error)),
                }
                match (last, failure.take(), *existing, store.is_empty()) {
                    (false, error, ..) => {
                        *failure = error;
                        Progress::Waiting
                    }
                    (true, Some(error), ..) => Progress::Done(error),
                    (true, None, 0, false) => Progress::Next(std::mem::take(store)),
                    (true, None, 0, true) => Progress::Done(Reply::Int(1)),
                    (true, None, ..) => Progress::Done(Reply::Int(0)),
                }
            }
            Kind::Rename { spec, source, target, state } => match (*state, reply) {
                (MoveState::Reading, Reply::Array(found)) => {
                    *state = MoveState::Putting;
                    let replace = spec.op == Op::Rename;
                    Progress::Next(vec![put(target.0, spec, &target.1, found, replace)])
                }
                (MoveState::Reading, _) if spec.op == Op::Move => Progress::Done(Reply::Int(0)),
                (MoveState::Reading, _) => Progress::Done(ReplyError::NoSuchKey.into()),
                (MoveState::Putting, Reply::Int(1)) => {
                    *state = MoveState::Removing;
                    let args = vec![Bytes::copy_from_slice(&source.1)];
                    Progress::Next(vec![Ask { core: source.0, part: 0, job: Job::Take, spec, args }])
                }
                // The name is in use, or there is no memory: nothing has happened.
                (MoveState::Putting, Reply::Array(mut refused)) => {
                    Progress::Done(refusal_error(&mut refused).unwrap_or(Reply::Int(0)))
                }
                (MoveState::Putting, error) => Progress::Done(error),
                (MoveState::Removing, _) => {
                    Progress::Done(if spec.op == Op::Rename { Reply::Ok } else { Reply::Int(1) })
                }
            },
            Kind::Copy { spec, target, replace, read } => match reply {
                Reply::Array(found) if !*read => {
                    *read = true;
                    Progress::Next(vec![put(target.0, spec, &target.1, found, *replace)])
                }
                Reply::Int(1) if *read => Progress::Done(Reply::Int(1)),
                Reply::Array(mut refused) => Progress::Done(refusal_error(&mut refused).unwrap_or(Reply::Int(0))),
                Reply::Nil => Progress::Done(Reply::Int(0)),
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
                Progress::Done(Reply::Array(vec![Reply::owned(cursor.to_string()), strings(std::mem::take(found))]))
            }
            Kind::Collect { scan, limit, found, bytes_left } => {
                let Some(keys) = scan.advance(reply) else { return Progress::Done(broken()) };
                for key in keys {
                    if found.len() == *limit {
                        break;
                    }
                    match bytes_left.checked_sub(key.len()) {
                        Some(rest) => *bytes_left = rest,
                        None => return Progress::Done(Reply::error(REPLY_TOO_LARGE)),
                    }
                    found.push(key);
                }
                if scan.core == scan.end || found.len() == *limit {
                    return found.done();
                }
                Progress::Next(vec![scan.ask()])
            }
            Kind::Sweep { scan } => {
                let Reply::Int(next) = reply else { return Progress::Done(reply) };
                match next {
                    0 => (scan.core, scan.cursor) = (scan.core + 1, 0),
                    next => scan.cursor = next as u64,
                }
                match scan.core == scan.end {
                    true => Progress::Done(Reply::Ok),
                    false => Progress::Next(vec![Ask { job: Job::Sweep, ..scan.ask() }]),
                }
            }
            Kind::Namespaces { found, wanted } => {
                namespaces::merge(found, reply);
                let wanted = wanted.as_ref().map(|(name, limits)| (name.as_slice(), *limits));
                if last { Progress::Done(namespaces::rendered(found, wanted)) } else { Progress::Waiting }
            }
            Kind::AnyKey { left, spec, view } => match left.pop() {
                Some(core) if reply == Reply::Nil => {
                    let args = vec![namespaces::view_argument(view)];
                    Progress::Next(vec![Ask { core, part: 0, job: Job::RandomKey, spec, args }])
                }
                _ => Progress::Done(reply),
            },
            Kind::Lines(lines) => {
                if let Some(bytes) = string(reply) {
                    lines.push_str(&String::from_utf8_lossy(&bytes));
                }
                if last { Progress::Done(Reply::Verbatim(merge_lists(&[lines]).into())) } else { Progress::Waiting }
            }
            Kind::Names { names, is_counted, bytes_left } => {
                if let Reply::Array(found) = reply {
                    for name in found.into_iter().filter_map(string) {
                        let len = name.len();
                        if names.insert(name) {
                            match bytes_left.checked_sub(len) {
                                Some(rest) => *bytes_left = rest,
                                None => *failure = Some(Reply::error(REPLY_TOO_LARGE)),
                            }
                        }
                    }
                }
                if !last {
                    return Progress::Waiting;
                }
                let names = std::mem::take(names);
                let reply = if *is_counted { Reply::Int(names.len() as i64) } else { strings(names) };
                Progress::Done(failure.take().unwrap_or(reply))
            }
            Kind::Listeners { names, counts } => {
                if let Reply::Array(found) = reply {
                    for (count, found) in counts.iter_mut().zip(found) {
                        *count += if let Reply::Int(found) = found { found } else { 0 };
                    }
                }
                if !last {
                    return Progress::Waiting;
                }
                let pairs = std::mem::take(names).into_iter().zip(std::mem::take(counts));
                Progress::Done(Reply::Array(
                    pairs.flat_map(|(name, count)| [Reply::Owned(name), Reply::Int(count)]).collect(),
                ))
            }
            Kind::HotKeys { count, found } => {
                match reply {
                    Reply::Array(pairs) => {
                        let mut words = pairs.into_iter();
                        while let (Some(key), Some(Reply::Int(uses))) = (words.next(), words.next()) {
                            found.extend(string(key).map(|key| (key, uses)));
                        }
                    }
                    error => *failure = failure.take().or(Some(error)),
                }
                if !last {
                    return Progress::Waiting;
                }
                found.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
                found.truncate(*count);
                let pairs = std::mem::take(found).into_iter().map(|(key, uses)| (Reply::Owned(key), Reply::Int(uses)));
                Progress::Done(failure.take().unwrap_or_else(|| Reply::Map(pairs.collect())))
            }
            Kind::Snapshots { parts, .. } => {
                if let Some(bytes) = string(reply) {
                    parts.extend(CoreSnapshot::from_bytes(&bytes));
                    parts.sort_by_key(|snapshot| snapshot.core);
                }
                if last { Progress::Done(Reply::None) } else { Progress::Waiting }
            }
        }
    }
}

/// The bytes of a string, however long: what another core sent as one may have memory of its own.
fn string(reply: Reply<'static>) -> Option<Vec<u8>> {
    match reply {
        Reply::Owned(bytes) => Some(bytes),
        Reply::Large(bytes) => Some(bytes.into()),
        _ => None,
    }
}

fn strings(all: impl IntoIterator<Item = Vec<u8>>) -> Reply<'static> {
    Reply::Array(all.into_iter().map(Reply::Owned).collect())
}

/// Takes the error off `[value, expiry, error]`, which is how a core refuses what it has no memory for.
fn refusal_error(refused: &mut Vec<Reply<'static>>) -> Option<Reply<'static>> {
    if refused.len() > 2 { refused.pop() } else { None }
}

fn broken() -> Reply<'static> {
    Reply::error("ERR internal: unexpected answer from another core")
}

/// `found` is `[value, expiry]` as [`Job::Read`] answers it.
fn put(core: u32, spec: &'static Spec, key: &[u8], found: Vec<Reply<'static>>, replace: bool) -> Ask {
    let mut args = vec![Bytes::copy_from_slice(key)];
    args.extend(found.into_iter().map(|part| match part {
        Reply::Int(value) => Bytes::from(value.to_string()),
        Reply::Large(value) => value,
        other => string(other).map(Bytes::from).unwrap_or_default(),
    }));
    args.push(Bytes::from_static(if replace { b"1" } else { b"0" }));
    Ask { core, part: 0, job: Job::Put, spec, args }
}
