//! Counters of one core, and the snapshot of them that is sent to the core that answers INFO or STATS.
//!
//! A snapshot on the mesh is a list of little-endian u64, in the order the fields stand here. Both ends
//! are the same process, so it carries no version; its length is checked all the same.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use crate::command::{Op, TABLE};
use crate::limits;
use crate::namespace::DATABASES;
use crate::reply::ReplyError;

/// A counter or gauge as it is named and explained wherever it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub kind: FieldKind,
    /// The sentence that documents the field in this crate.
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Only grows, until CONFIG RESETSTAT.
    Counter,
    /// How things are now.
    Gauge,
}

/// A struct of u64 with a name for each field: the field list is the JSON schema, the order on the mesh
/// and the sum over cores at once. A `counter` starts again at CONFIG RESETSTAT, a `gauge` does not.
/// Fields behind `beside` are not words; the struct looks after them itself.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[doc = $doc:literal])* $field:ident: $kind:ident,)*
            $(; beside $($(#[$beside_doc:meta])* $beside:ident: $beside_type:ty,)*)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: u64,)*
            $($($(#[$beside_doc])* pub $beside: $beside_type,)*)?
        }

        impl $name {
            pub const FIELDS: &[$crate::metrics::Field] = &[$($crate::metrics::Field {
                name: stringify!($field),
                kind: $crate::metrics::counters::words!(@kind $kind),
                help: concat!($($doc),*).trim_ascii(),
            }),*];

            pub(crate) fn words(&self) -> [u64; Self::FIELDS.len()] {
                [$(self.$field),*]
            }

            pub(crate) fn from_words(words: [u64; Self::FIELDS.len()]) -> $name {
                let [$($field),*] = words;
                $name { $($field,)* $($($beside: Default::default(),)*)? }
            }

            pub(crate) fn add_words(&mut self, other: &$name) {
                $(self.$field = self.$field.saturating_add(other.$field);)*
            }

            /// CONFIG RESETSTAT: counters start again, gauges stay.
            pub fn reset(&mut self) {
                $($crate::metrics::counters::words!(@reset $kind self.$field);)*
                $($(self.$beside = Default::default();)*)?
            }
        }
    };
    (@kind counter) => { $crate::metrics::FieldKind::Counter };
    (@kind gauge) => { $crate::metrics::FieldKind::Gauge };
    (@reset counter $place:expr) => { $place = 0 };
    (@reset gauge $place:expr) => {};
}
pub(super) use words;

/// How many operations there are.
pub const OP_COUNT: usize = TABLE.len();

words! {
    /// Calls of one operation.
    #[derive(Copy)]
    pub struct OpCounters {
        /// Commands carried out, also those that ended in an error reply.
        calls: counter,
        /// Of `calls`: those that ended in an error reply.
        failed: counter,
        /// Refused before they were carried out (arity, state of the connection); not among `calls`.
        rejected: counter,
    }
}

words! {
    /// Everything one core counts: plain numbers that the engine and the runtime increment.
    pub struct CoreCounters {
        /// Connections accepted.
        connections_accepted: counter,
        /// Connections closed, by either side.
        connections_closed: counter,
        /// Connections open now.
        connections_current: gauge,
        /// What clients hold, in bytes: requests on their way in, replies not taken yet, what is queued and listened to.
        client_bytes: gauge,
        /// Connections refused because there were `max-clients` already.
        connections_refused: counter,
        /// Connections closed by CLIENT KILL.
        connections_killed: counter,
        /// Connections closed because their unsent replies passed the hard bound.
        connections_closed_by_output_bound: counter,
        /// Subscribers closed because messages for them piled up.
        subscribers_dropped: counter,
        /// Messages published by clients of this core.
        messages_published: counter,
        /// Messages handed to subscribers of this core.
        messages_delivered: counter,
        /// Clients that listen to a channel or a pattern now.
        subscribers_current: gauge,
        /// Channels that somebody on this core listens to now.
        channels_current: gauge,
        /// Patterns that somebody on this core listens to now.
        patterns_current: gauge,
        /// Shard channels that somebody on this core listens to now.
        shard_channels_current: gauge,
        /// Connections closed because they were silent for too long, or never said who they are.
        connections_closed_by_silence: counter,
        /// Connections closed because all clients together held more than they may, and they the most.
        connections_closed_by_memory: counter,
        /// Connections closed because a request of theirs did not come to its end in time.
        connections_closed_by_deadline: counter,
        /// Connections refused because too many came from their address, at once or without saying who they are.
        connections_refused_by_rate: counter,
        /// Commands refused because a rate was used up.
        commands_rate_limited: counter,
        /// Times a command waited because a rate was used up.
        commands_delayed: counter,
        /// Connections that began to speak TLS, with the handshake behind them.
        tls_handshakes: counter,
        /// Connections that ended because what they spoke was no TLS that is welcome here.
        tls_failures: counter,
        /// Connections refused because of their address.
        connections_refused_by_address: counter,
        /// Attempts to authenticate that failed.
        authentications_failed: counter,
        /// Transactions begun: EXEC, and commands over several cores that are carried out as one.
        transactions: counter,
        /// Of them: those that did nothing because a watched key had changed.
        transactions_dirty: counter,
        /// EXECs refused because a command before them had been refused.
        transactions_refused: counter,
        /// Commands that waited because a transaction held their keys.
        commands_held_up: counter,
        /// Commands that SLOWLOG has taken.
        slow_commands: counter,
        /// Lines handed to clients that monitor.
        monitor_lines: counter,
        /// Lines they were spared because their core did not keep up.
        monitor_lines_skipped: counter,
        /// Events about keys that were published.
        keyspace_events: counter,
        /// Of other cores, that were not published because too much was on its way there.
        keyspace_events_lost: counter,
        /// Times a client was told that a key, or all of them, is not what it had read.
        invalidations: counter,
        /// Clients with client-side caches now.
        tracking_clients: gauge,
        /// Keys that they have read and that have not changed since.
        tracking_keys: gauge,
        /// The same, counted once for each client.
        tracking_items: gauge,
        /// Prefixes of keys that they want to hear of, counted on each core.
        tracking_prefixes: gauge,
        /// Clients that monitor now.
        monitors_current: gauge,
        /// Times a client was told to fill in a key that it had missed.
        fills_told: counter,
        /// Of them: because whoever was told before was late, gone, or overtaken by a DEL.
        fills_handed_over: counter,
        /// Times a client waited for a key to be filled in.
        fills_waited: counter,
        /// Of them: in vain.
        fills_timed_out: counter,
        /// Times a client neither waited nor was told, because too many did.
        fills_refused: counter,
        /// Values shown that were to be filled in again because they were about to expire.
        fills_stale: counter,
        /// Keys that clients fill in now.
        fills_current: gauge,
        /// Clients that wait in WAIT, DEBUG SLEEP or for a key to be filled in now.
        blocked_clients: gauge,
        /// Commands that waited because clients were paused.
        client_pauses: counter,
        /// Accepts that failed (EMFILE and its like).
        accept_errors: counter,
        /// Times reading from a connection paused because its client reads too slowly.
        slow_reader_pauses: counter,
        /// Commands processed for clients of this core, wherever they were applied.
        commands_processed: counter,
        /// Replies that were errors.
        error_replies: counter,
        /// Input that could not be decoded.
        protocol_errors: counter,
        /// Bytes received from clients.
        bytes_received: counter,
        /// Bytes sent to clients.
        bytes_sent: counter,
        /// Commands, or parts of them, sent to other cores.
        commands_forwarded_out: counter,
        /// Commands, or parts of them, received from other cores.
        commands_forwarded_in: counter,
        /// Batches of commands or replies sent to other cores.
        batches_out: counter,
        /// Batches of commands or replies received from other cores.
        batches_in: counter,
        /// Sleeping cores woken.
        doorbells_rung: counter,
        /// Times decoding paused because another core's outbox was full.
        outbox_full_pauses: counter,
        /// Times a connection's write waited for room in the log.
        log_full_pauses: counter,
        /// Turns of the core's loop.
        turns: counter,
        /// Turns that ended in sleep.
        sleeps: counter,
        /// System calls into the client ring.
        ring_enters: counter,
        /// Receives handed to the ring (a multishot receive counts once).
        receive_submissions: counter,
        /// Pieces of input the ring delivered.
        receive_completions: counter,
        /// Sends handed to the ring.
        send_submissions: counter,
        /// Sends the ring finished.
        send_completions: counter,
        /// Receives that ended because no receive buffer was free.
        receive_buffers_exhausted: counter,
        ; beside
        /// Calls by operation.
        ops: PerOp,
        /// Error replies by their code.
        errors: PerError,
    }
}

words! {
    /// What the shard of one core holds and did; the engine asks the shard and fills it.
    pub struct ShardSnapshot {
        /// Keys stored, also expired ones that nobody has noticed yet.
        keys: gauge,
        /// Keys with an expiry time.
        keys_with_expiry: gauge,
        /// Look-ups that found a key.
        keyspace_hits: counter,
        /// Look-ups that found none.
        keyspace_misses: counter,
        /// Keys removed because their time had come.
        keys_expired: counter,
        /// Of those: keys that a command found expired.
        keys_expired_on_access: counter,
        /// Keys removed to make room.
        keys_evicted: counter,
        /// New keys that took the place of older ones that were asked for less often.
        keys_admitted: counter,
        /// New keys that were evicted because older ones were asked for more often.
        keys_rejected: counter,
        /// Keys evicted without such a contest: the oldest had to go.
        keys_aged_out: counter,
        /// Writes refused because there was no room.
        writes_refused: counter,
        /// Memory of the keys, the values, the index and the history of what was asked for.
        memory_bytes: gauge,
        /// What this may become before anything is evicted; cores lend each other what they do not use.
        memory_granted_bytes: gauge,
        /// Of the memory: keys and values themselves.
        payload_bytes: gauge,
        /// Items as they lie in the log: header, expiry, key, value below 32 KiB, rounding.
        item_bytes: gauge,
        /// Values in memory of their own.
        large_value_bytes: gauge,
        /// Gaps in the log that items have left.
        gap_bytes: gauge,
        /// Segments of the log that are free.
        free_bytes: gauge,
        /// The history of what was asked for.
        history_bytes: gauge,
        /// Items that are new.
        window_bytes: gauge,
        /// What the items that are new should take, as the traffic of late would have it.
        window_target_bytes: gauge,
        /// Items that were admitted to stay.
        probation_bytes: gauge,
        /// Items that were used since they were admitted.
        protected_bytes: gauge,
        /// The index and the deadlines.
        index_bytes: gauge,
        /// Of it: the deadlines of keys that expire.
        deadline_bytes: gauge,
        /// Cores with so little room that every write has to make some.
        pressed: gauge,
        /// Look-ups that the estimates of hits are about.
        what_if_look_ups: gauge,
        /// Hits there would have been with half of the memory, estimated from a sample of the keys.
        what_if_hits_at_half: gauge,
        /// The same with the memory there is: what the estimates are worth.
        what_if_hits_at_same: gauge,
        /// The same with twice the memory.
        what_if_hits_at_double: gauge,
        /// The same with four times the memory.
        what_if_hits_at_quadruple: gauge,
    }
}

words! {
    /// The log of one core.
    pub struct LogSnapshot {
        /// Whether there is one.
        enabled: gauge,
        /// Whether it is being read, at a start.
        loading: gauge,
        /// Whether it has failed for good: nothing is written any more.
        failed: gauge,
        /// Whether writes are refused: it has failed, or the disk is full.
        refusing: gauge,
        /// Whether a rewrite that was asked for is under way.
        rewriting: gauge,
        /// Records logged.
        records: counter,
        /// Groups written.
        groups: counter,
        /// Times it was made durable.
        syncs: counter,
        /// Bytes logged for clients.
        bytes_logged: counter,
        /// Bytes logged again to keep it short.
        bytes_copied: counter,
        /// Bytes written, with padding.
        bytes_written: counter,
        /// Segments whose files were used again.
        segments_used_again: counter,
        /// Times there was no space.
        no_space: counter,
        /// Bytes of its files.
        disk_bytes: gauge,
        /// Bytes that a start would have to read.
        log_bytes: gauge,
        /// Bytes that wait to be written.
        backlog_bytes: gauge,
        /// When it was last durable, in Unix milliseconds.
        last_sync_unix_ms: gauge,
    }
}

/// First words of error replies that are counted each on its own.
pub const ERROR_CODES: [&str; 27] = [
    "ERR",
    "MOVED",
    "WRONGTYPE",
    "OOM",
    "NOAUTH",
    "WRONGPASS",
    "NOPROTO",
    "NOPERM",
    "CROSSSLOT",
    "READONLY",
    "LOADING",
    "MISCONF",
    "RATELIMITED",
    // Lines of JSON that are not understood.
    "BADBASE64",
    "BADJSON",
    "BADNAMESPACE",
    "BADUTF8",
    "DUPLICATEFIELD",
    "FIELDTYPE",
    "MISSINGFIELD",
    "OUTOFRANGE",
    "TOODEEP",
    "TOOLARGE",
    "TOOLONG",
    "UNKNOWNACTION",
    "UNKNOWNFIELD",
    // Whatever is not listed above; no reply carries this word itself.
    "OTHER",
];

/// Index into [`ERROR_CODES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(u8);

impl ErrorCode {
    const OTHER: ErrorCode = ErrorCode(ERROR_CODES.len() as u8 - 1);

    /// The code that the text of an error reply (without its `-`) starts with.
    pub fn of_text(text: &str) -> ErrorCode {
        let first = text.split(' ').next().unwrap_or_default();
        ERROR_CODES.iter().position(|code| *code == first).map_or(ErrorCode::OTHER, |index| ErrorCode(index as u8))
    }

    pub fn of(error: &ReplyError<'_>) -> ErrorCode {
        match error {
            ReplyError::Other(text) => ErrorCode::of_text(text),
            ReplyError::Moved { .. } => ErrorCode(1),
            _ => ErrorCode(0),
        }
    }

    pub fn as_str(self) -> &'static str {
        ERROR_CODES[self.0 as usize]
    }
}

/// One group of counters per operation: `counters.ops[Op::Get].calls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerOp([OpCounters; OP_COUNT]);

impl Default for PerOp {
    fn default() -> PerOp {
        PerOp([OpCounters::default(); OP_COUNT])
    }
}

impl Index<Op> for PerOp {
    type Output = OpCounters;

    #[inline]
    fn index(&self, op: Op) -> &OpCounters {
        &self.0[op as usize]
    }
}

impl IndexMut<Op> for PerOp {
    #[inline]
    fn index_mut(&mut self, op: Op) -> &mut OpCounters {
        &mut self.0[op as usize]
    }
}

/// One count per entry of [`ERROR_CODES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerError([u64; ERROR_CODES.len()]);

impl PerError {
    /// The codes that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ERROR_CODES.iter().copied().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

impl CoreCounters {
    /// A command was carried out.
    #[inline]
    pub fn count_call(&mut self, op: Op) {
        self.commands_processed += 1;
        self.ops[op].calls += 1;
    }

    /// A command that was counted is carried out, and counted, later.
    pub fn uncount_call(&mut self, op: Op) {
        self.commands_processed -= 1;
        self.ops[op].calls -= 1;
    }

    /// The reply of a command that was carried out is an error.
    pub fn count_failed(&mut self, op: Op, error: &ReplyError<'_>) {
        self.ops[op].failed += 1;
        self.count_error(ErrorCode::of(error));
    }

    /// A command was refused before it was carried out.
    pub fn count_rejected(&mut self, op: Op, error: &ReplyError<'_>) {
        self.ops[op].rejected += 1;
        self.count_error(ErrorCode::of(error));
    }

    /// A command that was counted as carried out is another node's after all.
    pub fn count_redirected(&mut self, op: Op, error: &ReplyError<'_>) {
        self.commands_processed -= 1;
        self.ops[op].calls -= 1;
        self.count_rejected(op, error);
    }

    /// An error reply, of whatever command or of none.
    pub fn count_error(&mut self, code: ErrorCode) {
        self.error_replies += 1;
        self.errors.0[code.0 as usize] += 1;
    }

    /// Adds the counters of another core.
    pub fn add(&mut self, other: &CoreCounters) {
        self.add_words(other);
        for (op, other) in self.ops.0.iter_mut().zip(&other.ops.0) {
            op.add_words(other);
        }
        for (count, other) in self.errors.0.iter_mut().zip(&other.errors.0) {
            *count = count.saturating_add(*other);
        }
    }
}

words! {
    /// The keys of one database; those of namespaces that are none count as the first's.
    #[derive(Copy)]
    pub struct DatabaseSnapshot {
        /// Keys stored.
        keys: gauge,
        /// Keys with an expiry time.
        keys_with_expiry: gauge,
    }
}

words! {
    /// What a namespace holds and how it was used.
    #[derive(Copy)]
    pub struct NamespaceSnapshot {
        /// Keys stored.
        items: gauge,
        /// Of keys and values.
        bytes: gauge,
        /// Of the items: those with an expiry time.
        expiring: gauge,
        /// Look-ups that found a key.
        hits: counter,
        /// Look-ups that found none.
        misses: counter,
        /// Keys written.
        writes: counter,
        /// Keys removed to make room.
        evictions: counter,
        /// Look-ups that the estimates of hits are about.
        what_if_look_ups: gauge,
        /// Hits there would have been if it might hold half as much, estimated from a sample of its keys.
        what_if_hits_at_half: gauge,
        /// The same with what it may hold, or holds if it may hold anything: what the estimates are worth.
        what_if_hits_at_same: gauge,
        /// The same with twice as much.
        what_if_hits_at_double: gauge,
        /// The same with four times as much.
        what_if_hits_at_quadruple: gauge,
    }
}

impl NamespaceSnapshot {
    pub fn operations(&self) -> u64 {
        self.hits + self.misses + self.writes
    }

    /// Hit ratios there would be with other quotas, by their names.
    pub fn what_if_hit_percents(&self) -> [(&'static str, f64); 4] {
        let percent = |hits: u64| hits as f64 * 100.0 / self.what_if_look_ups.max(1) as f64;
        [
            ("half", percent(self.what_if_hits_at_half)),
            ("same", percent(self.what_if_hits_at_same)),
            ("double", percent(self.what_if_hits_at_double)),
            ("quadruple", percent(self.what_if_hits_at_quadruple)),
        ]
    }
}

/// By name.
pub type NamespaceSnapshots = BTreeMap<String, NamespaceSnapshot>;

/// Those with most operations, as many as are shown.
pub fn busiest_namespaces<N: Ord>(mut all: Vec<(N, NamespaceSnapshot)>) -> Vec<(N, NamespaceSnapshot)> {
    if all.len() > limits::NAMESPACES_SHOWN_MAX {
        all.select_nth_unstable_by(limits::NAMESPACES_SHOWN_MAX, |(name, one), (other_name, other)| {
            other.operations().cmp(&one.operations()).then_with(|| name.cmp(other_name))
        });
        all.truncate(limits::NAMESPACES_SHOWN_MAX);
    }
    all
}

/// One core at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CoreSnapshot {
    pub core: u32,
    pub counters: CoreCounters,
    pub shard: ShardSnapshot,
    pub databases: [DatabaseSnapshot; DATABASES as usize],
    pub namespaces: NamespaceSnapshots,
    pub log: LogSnapshot,
    pub rates: super::RateSnapshot,
    pub latency: super::LatencySnapshot,
}

/// The bytes are not what [`CoreSnapshot::to_bytes`] gives: our own mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedSnapshot;

/// Without the latency, which is as long as there are different times, and the namespaces, as long as there are.
const SNAPSHOT_WORDS: usize = 1
    + CoreCounters::FIELDS.len()
    + OP_COUNT * OpCounters::FIELDS.len()
    + ERROR_CODES.len()
    + ShardSnapshot::FIELDS.len()
    + DATABASES as usize * DatabaseSnapshot::FIELDS.len()
    + LogSnapshot::FIELDS.len()
    + super::RateSnapshot::FIELDS.len();

impl CoreSnapshot {
    /// ```text
    ///   core | counters … | calls, failed, rejected of each operation … | errors … | shard … | rates … | latency … |
    ///   namespaces: how many | bytes of its name | its name, up to a whole word | numbers … | …
    /// ```
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SNAPSHOT_WORDS * 8);
        let mut put = |words: &[u64]| bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        put(&[self.core as u64]);
        put(&self.counters.words());
        for op in &self.counters.ops.0 {
            put(&op.words());
        }
        put(&self.counters.errors.0);
        put(&self.shard.words());
        for database in &self.databases {
            put(&database.words());
        }
        put(&self.log.words());
        put(&self.rates.words());
        let mut words = Vec::new();
        self.latency.put(&mut words);
        words.push(self.namespaces.len() as u64);
        for (name, namespace) in &self.namespaces {
            words.push(name.len() as u64);
            words.extend(name.as_bytes().chunks(8).map(|part| {
                let mut word = [0; 8];
                word[..part.len()].copy_from_slice(part);
                u64::from_le_bytes(word)
            }));
            words.extend(namespace.words());
        }
        put(&words);
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<CoreSnapshot, MalformedSnapshot> {
        let (words, rest) = bytes.as_chunks::<8>();
        if words.len() < SNAPSHOT_WORDS || !rest.is_empty() {
            return Err(MalformedSnapshot);
        }
        let mut words = Words(words);
        let [core] = words.take();
        let mut counters = CoreCounters::from_words(words.take());
        for op in &mut counters.ops.0 {
            *op = OpCounters::from_words(words.take());
        }
        counters.errors = PerError(words.take());
        let shard = ShardSnapshot::from_words(words.take());
        let databases = std::array::from_fn(|_| DatabaseSnapshot::from_words(words.take()));
        let log = LogSnapshot::from_words(words.take());
        let rates = super::RateSnapshot::from_words(words.take());
        let mut words = words.0.iter().map(|word| u64::from_le_bytes(*word));
        let latency = super::LatencySnapshot::take(&mut words).ok_or(MalformedSnapshot)?;
        let mut namespaces = NamespaceSnapshots::new();
        for _ in 0..words.next().ok_or(MalformedSnapshot)? {
            let (name, namespace) = take_namespace(&mut words).ok_or(MalformedSnapshot)?;
            namespaces.insert(name, namespace);
        }
        if words.next().is_some() {
            return Err(MalformedSnapshot);
        }
        let core = core.try_into().map_err(|_| MalformedSnapshot)?;
        Ok(CoreSnapshot { core, counters, shard, databases, namespaces, log, rates, latency })
    }

    /// The sum over all cores; `core` says nothing in it.
    pub fn total(snapshots: &[CoreSnapshot]) -> CoreSnapshot {
        let mut total = CoreSnapshot::default();
        let mut namespaces = NamespaceSnapshots::new();
        for snapshot in snapshots {
            for (name, namespace) in &snapshot.namespaces {
                namespaces.entry(name.clone()).or_default().add_words(namespace);
            }
            total.counters.add(&snapshot.counters);
            total.shard.add_words(&snapshot.shard);
            for (database, other) in total.databases.iter_mut().zip(&snapshot.databases) {
                database.add_words(other);
            }
            total.log.add_words(&snapshot.log);
            total.rates.add_words(&snapshot.rates);
            total.latency.add(&snapshot.latency);
        }
        total.namespaces = busiest_namespaces(namespaces.into_iter().collect()).into_iter().collect();
        total
    }
}

fn take_namespace(words: &mut impl Iterator<Item = u64>) -> Option<(String, NamespaceSnapshot)> {
    let name_bytes = usize::try_from(words.next()?).ok().filter(|&bytes| bytes <= 4 * limits::NAMESPACE_BYTES_MAX)?;
    let mut name: Vec<u8> = Vec::with_capacity(name_bytes + 8);
    while name.len() < name_bytes {
        name.extend(words.next()?.to_le_bytes());
    }
    name.truncate(name_bytes);
    let mut numbers = [0; NamespaceSnapshot::FIELDS.len()];
    for number in &mut numbers {
        *number = words.next()?;
    }
    Some((String::from_utf8(name).ok()?, NamespaceSnapshot::from_words(numbers)))
}

/// Words not yet read.
struct Words<'a>(&'a [[u8; 8]]);

impl Words<'_> {
    fn take<const N: usize>(&mut self) -> [u64; N] {
        let (taken, rest) = self.0.split_first_chunk::<N>().expect("the number of words was checked");
        self.0 = rest;
        taken.map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot in which every word has a value of its own.
    fn distinct() -> CoreSnapshot {
        let namespace = [1, 4, u64::from(u32::from_le_bytes(*b"shop"))];
        let words = (0..SNAPSHOT_WORDS as u64).map(|word| word * 3 + 1).chain([0]).chain(namespace).chain(1..13);
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        CoreSnapshot::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn a_snapshot_survives_its_way_over_the_mesh() {
        let snapshot = distinct();
        let bytes = snapshot.to_bytes();
        assert_eq!(bytes.len(), (SNAPSHOT_WORDS + 1 + 3 + NamespaceSnapshot::FIELDS.len()) * 8);
        assert_eq!(snapshot.namespaces["shop"].words()[..3], [1, 2, 3]);
        assert_eq!(CoreSnapshot::total(&[snapshot.clone(), snapshot.clone()]).namespaces["shop"].items, 2);
        assert_eq!(CoreSnapshot::from_bytes(&bytes), Ok(snapshot.clone()));
        assert_eq!((snapshot.core, snapshot.counters.connections_accepted), (1, 4));
        assert_eq!(snapshot.rates.bytes_sent_per_second, (SNAPSHOT_WORDS as u64 - 1) * 3 + 1);
        let names = bytes.len() - 8 * (1 + NamespaceSnapshot::FIELDS.len());
        for len in [0, 7, 8, names - 8, names, bytes.len() - 8, bytes.len() - 1] {
            assert_eq!(CoreSnapshot::from_bytes(&bytes[..len]), Err(MalformedSnapshot));
        }
        assert_eq!(CoreSnapshot::from_bytes(&[bytes, vec![0; 8]].concat()), Err(MalformedSnapshot));
    }

    #[test]
    fn the_busiest_namespaces_are_shown() {
        let namespace = |hits| NamespaceSnapshot { hits, ..NamespaceSnapshot::default() };
        let all: Vec<(u64, NamespaceSnapshot)> = (0..1_000).map(|name| (name, namespace(name * 7 % 1_000))).collect();
        let mut shown: Vec<u64> = busiest_namespaces(all).iter().map(|(_, namespace)| namespace.hits).collect();
        shown.sort_unstable();
        assert_eq!(shown, (900..1_000).collect::<Vec<u64>>());
        assert_eq!(busiest_namespaces(vec![("a", namespace(1))]).len(), 1);
    }

    #[test]
    fn totals_add_everything_up() {
        let one = distinct();
        let total = CoreSnapshot::total(&[one.clone(), distinct()]);
        assert_eq!(total.counters.turns, 2 * one.counters.turns);
        assert_eq!(total.counters.errors.0[0], 2 * one.counters.errors.0[0]);
        assert_eq!(total.counters.ops[Op::Incr].calls, 2 * one.counters.ops[Op::Incr].calls);
        assert_eq!(total.shard.keys, 2 * one.shard.keys);
        assert_eq!(total.rates.commands_per_second, 2 * one.rates.commands_per_second);
        assert_eq!(CoreSnapshot::total(&[]), CoreSnapshot::default());
    }

    #[test]
    fn a_reset_keeps_what_is_there_now() {
        let mut snapshot = distinct();
        let (before, keys) = (snapshot.counters.clone(), snapshot.shard.keys);
        snapshot.counters.reset();
        snapshot.shard.reset();
        let expected = CoreCounters {
            connections_current: before.connections_current,
            client_bytes: before.client_bytes,
            subscribers_current: before.subscribers_current,
            channels_current: before.channels_current,
            patterns_current: before.patterns_current,
            shard_channels_current: before.shard_channels_current,
            tracking_clients: before.tracking_clients,
            tracking_keys: before.tracking_keys,
            tracking_items: before.tracking_items,
            tracking_prefixes: before.tracking_prefixes,
            monitors_current: before.monitors_current,
            blocked_clients: before.blocked_clients,
            fills_current: before.fills_current,
            ..CoreCounters::default()
        };
        assert_eq!(snapshot.counters, expected);
        assert_eq!((snapshot.shard.keys, snapshot.shard.keyspace_hits), (keys, 0));
    }

    #[test]
    fn errors_are_counted_by_their_first_word() {
        let mut counters = CoreCounters::default();
        counters.count_call(Op::Get);
        counters.count_failed(Op::Get, &ReplyError::Syntax);
        counters.count_rejected(Op::Set, &ReplyError::WrongArity { command: "set".into() });
        counters.count_rejected(Op::Set, &ReplyError::Moved { slot: 1, address: "a:1".into() });
        counters.count_error(ErrorCode::of_text("NOPROTO unsupported protocol version"));
        counters.count_error(ErrorCode::of_text("STRANGE thing"));
        counters.count_error(ErrorCode::of_text(""));
        assert_eq!((counters.commands_processed, counters.error_replies), (1, 6));
        let get = OpCounters { calls: 1, failed: 1, ..Default::default() };
        assert_eq!(counters.ops[Op::Get], get);
        assert_eq!(counters.ops[Op::Set], OpCounters { rejected: 2, ..Default::default() });
        let counted: Vec<_> = counters.errors.iter().collect();
        assert_eq!(counted, [("ERR", 2), ("MOVED", 1), ("NOPROTO", 1), ("OTHER", 2)]);
        assert_eq!(ErrorCode::of_text("WRONGTYPE x").as_str(), "WRONGTYPE");
    }

    /// `of` must agree with the texts, whose first words `reply` decides.
    #[test]
    fn the_code_of_an_error_is_the_first_word_of_its_text() {
        use ReplyError::*;
        let errors = [
            Syntax,
            NotAnInteger,
            NotAFloat,
            Overflow,
            NanOrInfinity,
            NoSuchKey,
            InvalidExpire { command: "set" },
            WrongArity { command: "set".into() },
            OffsetOutOfRange,
            StringTooLong,
            Moved { slot: 3, address: "h:1".into() },
            Other("OOM command not allowed".into()),
        ];
        for error in errors {
            assert_eq!(ErrorCode::of(&error), ErrorCode::of_text(&error.text()), "{error:?}");
        }
    }
}
