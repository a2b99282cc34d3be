//! Namespaces and databases: which one a connection is in, and what can be asked of each.
//!
//! Keys have their full names as soon as they are decoded (see `connection::names`), so that nothing else knows of
//! namespaces but commands that name no keys: they get a [`View`].

use std::collections::BTreeMap;

use bytes::Bytes;

use super::batch::Job;
use super::gather::{Ask, Kind, ScanState};
use super::settings::SetError;
use super::{Engine, Outcome, clients};
use crate::command::{Op, Spec, spec_of};
use crate::metrics::{self, NamespaceSnapshot, NamespaceSnapshots};
use crate::namespace::{self, DATABASES, LIMIT_WORDS, NamespaceLimits, View};
use crate::number::parse_i64;
use crate::reply::{Reply, ReplyError};
use crate::request::{Args, Call};
use crate::store::{Estimate, NamespaceCounters};

/// Buckets of the index that one step of a flush goes through.
const SWEPT_BUCKETS: usize = 64;

/// What is set of namespaces, among the settings.
const SETTING: &str = "namespaces";

const BAD_NAME: &str = "ERR a namespace's name has 1 to 64 bytes, none of them ^ or a space";

impl Engine {
    /// SELECT: each database but the first is a namespace of its own.
    pub(super) fn select(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let reply = match parse_i64(args.get(0)) {
            None => ReplyError::NotAnInteger.into(),
            Some(number) if !(0..i64::from(DATABASES)).contains(&number) => {
                Reply::error("ERR DB index is out of range")
            }
            Some(number) => {
                self.enter_database(index, number as u8);
                Reply::Ok
            }
        };
        self.answer(index, spec, &reply);
        self.forget_keys_of(index);
        Outcome::Answered
    }

    pub(super) fn enter_database(&mut self, index: u32, database: u8) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        connection.record.database = database;
        let name = connection.databases.namespace_of(database);
        self.enter_namespace(index, &name);
    }

    fn enter_namespace(&mut self, index: u32, name: &[u8]) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.key_prefix() == namespace::prefix_of(name) {
            return;
        }
        connection.enter_namespace(name);
        self.listen_there_instead(index);
    }

    /// `NAMESPACE USE [name]`: without a name, the global one.
    pub(super) fn use_namespace(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let reply = match args.len() {
            0 => self.use_name(index, b""),
            1 if namespace::is_name(args.get(0)) => self.use_name(index, args.get(0)),
            1 => Reply::error(BAD_NAME),
            _ => ReplyError::WrongArity { command: spec.name.into() }.into(),
        };
        self.answer(index, spec, &reply);
        self.forget_keys_of(index);
        Outcome::Answered
    }

    fn use_name(&mut self, index: u32, name: &[u8]) -> Reply<'static> {
        if let Some(connection) = self.connection(index) {
            connection.record.database = connection.databases.number_of(name).unwrap_or(0);
        }
        self.enter_namespace(index, name);
        Reply::Ok
    }

    /// What commands that name no keys are about.
    pub(super) fn view_of(&self, index: u32) -> View {
        if let Some(draft) = &self.draft {
            return draft.view.clone();
        }
        let connection = self.connections[index as usize].as_deref();
        View::of_prefix(connection.map_or(b"", |connection| connection.key_prefix()))
    }

    /// Whether FLUSHDB has to tell keys apart, or may have to when other cores are asked: for that there may be too many
    /// of them to do it all at once.
    pub(super) fn flushes_in_steps(&self, index: u32) -> bool {
        let has_others = self.shard.namespaced() > 0 || self.config.commons.has_namespaced();
        self.view_of(index) != View::Global || self.draft.is_some() || has_others
    }

    /// FLUSHDB and NAMESPACE FLUSH where keys have to be told apart: in bounded steps, core by core. A transaction holds
    /// all keys meanwhile.
    pub(super) fn flush_view(&mut self, index: u32, spec: &'static Spec, view: View) -> Outcome {
        let scan = ScanState { view, ..ScanState::over(spec, 0..self.config.cores, None) };
        let ask = Ask { job: Job::Sweep, ..scan.ask() };
        self.gather(index, spec, Kind::Sweep { scan }, |this, gather| {
            this.ask(gather, ask);
            1
        })
    }

    pub(super) fn flush_namespace(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if !namespace::is_name(args.get(0)) {
            return self.answer(index, spec, &Reply::error(BAD_NAME));
        }
        let view = View::of_prefix(&namespace::prefix_of(args.get(0)));
        self.flush_view(index, spec, view)
    }

    /// `NAMESPACE SET name (MAX-ITEMS n | MAX-BYTES n | TTL ms | MAX-TTL ms)…`: the setting `namespaces`, in which this has
    /// changed.
    pub(super) fn set_namespace(&self, args: Args<'_>) -> Reply<'static> {
        let name = match std::str::from_utf8(args.get(0)) {
            Ok(name) if namespace::is_name(name.as_bytes()) && namespace::limit_word(name).is_none() => name,
            _ => return Reply::error(BAD_NAME),
        };
        if args.len().is_multiple_of(2) {
            return ReplyError::Syntax.into();
        }
        let mut changes: Vec<(&'static str, String)> = Vec::new();
        for at in (1..args.len()).step_by(2) {
            let limit = LIMIT_WORDS.into_iter().find(|limit| args.get(at).eq_ignore_ascii_case(limit.as_bytes()));
            let (Some(limit), Ok(value)) = (limit, std::str::from_utf8(args.get(at + 1))) else {
                return ReplyError::Syntax.into();
            };
            if value.is_empty() || value.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
                return ReplyError::Syntax.into();
            }
            // Times without a unit are milliseconds here, as with PX.
            let is_time = limit.ends_with("ttl") && value.bytes().all(|byte| byte.is_ascii_digit());
            changes.retain(|(other, _)| *other != limit);
            changes.push((limit, if is_time { format!("{value}ms") } else { value.to_owned() }));
        }
        self.change_limits(name, Some(&changes))
    }

    fn change_limits(&self, name: &str, changes: Option<&[(&'static str, String)]>) -> Reply<'static> {
        let settings = &self.config.settings;
        // Two cores must not each build on what the other has not seen.
        let _others = self.config.commons.namespace_changes();
        let shown = settings.list().into_iter().find(|shown| shown.key == SETTING);
        let text = shown.map(|shown| shown.value).unwrap_or_default();
        let changed = namespace::with_limits(&text, name, changes);
        match settings.set(&[(SETTING.to_owned(), changed)]) {
            Ok(()) => Reply::Ok,
            Err(SetError::Unknown { .. }) => Reply::error("ERR the settings of this server cannot be changed"),
            Err(SetError::Value { why, .. }) => Reply::error(format!("ERR {}", why.replace(['\r', '\n'], " "))),
        }
    }

    /// What was set of it is forgotten, and its keys go.
    pub(super) fn delete_namespace(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if !namespace::is_name(args.get(0)) {
            return self.answer(index, spec, &Reply::error(BAD_NAME));
        }
        if self.draft.is_some() {
            let error = Reply::error("ERR a namespace cannot be deleted within a transaction");
            return self.answer(index, spec, &error);
        }
        if let Ok(name) = std::str::from_utf8(args.get(0))
            && self.gatekeeper.live().namespaces.contains_key(name)
        {
            match self.change_limits(name, None) {
                Reply::Ok => self.follow_settings(),
                error => return self.answer(index, spec, &error),
            }
        }
        self.flush_namespace(index, spec, args)
    }

    /// The keys of a view in some buckets of this core go. Answers the cursor to go on with.
    pub(super) fn sweep_share(&mut self, args: Args<'_>) -> Reply<'static> {
        let cursor = parse_i64(args.get(0)).unwrap_or(0) as u64;
        let view = View::from_bytes(args.get(3));
        if view == View::Global && self.shard.namespaced() == 0 {
            let call = Call { spec: spec_of(Op::FlushAll), args: Args::new(&[], &[], &[]), hash: 0 };
            with_effects!(self, effects => self.shard.apply(&call, self.now, effects));
            return Reply::Int(0);
        }
        let next = with_effects!(self, effects => self.shard.sweep_step(cursor, SWEPT_BUCKETS, &view, effects));
        Reply::Int(next as i64)
    }

    /// This core's part of NAMESPACE LIST and INFO: each name with its numbers.
    pub(super) fn namespaces_share(&self, args: Args<'_>) -> Reply<'static> {
        let wanted = args.iter().next();
        let found = self.visible_namespaces().filter(|(name, ..)| wanted.is_none_or(|wanted| wanted == *name));
        let entry = |(name, counters, estimate): (&[u8], &NamespaceCounters, Estimate)| {
            let numbers = snapshot_of(counters, estimate).words();
            let numbers = numbers.into_iter().map(|value| Reply::Int(value as i64));
            Reply::Array(std::iter::once(Reply::Owned(name.to_vec())).chain(numbers).collect())
        };
        Reply::Array(found.map(entry).collect())
    }

    fn visible_namespaces(&self) -> impl Iterator<Item = (&[u8], &NamespaceCounters, Estimate)> {
        self.shard.namespace_estimates().filter(|(name, ..)| !namespace::is_hidden(name))
    }

    /// For STATS and the metrics: those with most operations here.
    pub(super) fn namespace_snapshots(&self) -> NamespaceSnapshots {
        let all = self.visible_namespaces().map(|(name, counters, estimate)| (name, snapshot_of(counters, estimate)));
        let busiest = metrics::busiest_namespaces(all.collect()).into_iter();
        busiest.map(|(name, namespace)| (String::from_utf8_lossy(name).into_owned(), namespace)).collect()
    }
}

fn snapshot_of(counters: &NamespaceCounters, estimate: Estimate) -> NamespaceSnapshot {
    NamespaceSnapshot {
        items: counters.items,
        bytes: counters.bytes,
        expiring: counters.expiring,
        hits: counters.hits,
        misses: counters.misses,
        writes: counters.writes,
        evictions: counters.evicted,
        what_if_look_ups: estimate.look_ups,
        what_if_hits_at_half: estimate.hits[0],
        what_if_hits_at_same: estimate.hits[1],
        what_if_hits_at_double: estimate.hits[2],
        what_if_hits_at_quadruple: estimate.hits[3],
    }
}

/// By name, however it is spelt.
pub type FoundNamespaces = BTreeMap<Vec<u8>, NamespaceSnapshot>;

/// Adds what one core knows of namespaces to what others do.
pub fn merge(found: &mut FoundNamespaces, reply: Reply<'static>) {
    let Reply::Array(entries) = reply else { return };
    for entry in entries {
        let Reply::Array(entry) = entry else { continue };
        let mut entry = entry.into_iter();
        let name = match entry.next() {
            Some(Reply::Owned(name)) => name,
            Some(Reply::Large(name)) => name.to_vec(),
            _ => continue,
        };
        let mut numbers = [0; NamespaceSnapshot::FIELDS.len()];
        for (number, reply) in numbers.iter_mut().zip(entry) {
            *number = if let Reply::Int(value) = reply { value as u64 } else { 0 };
        }
        found.entry(name).or_default().add_words(&NamespaceSnapshot::from_words(numbers));
    }
}

/// NAMESPACE LIST: the names of those that have keys; INFO: the numbers of one.
pub fn rendered(found: &FoundNamespaces, wanted: Option<(&[u8], NamespaceLimits)>) -> Reply<'static> {
    let Some((wanted, limits)) = wanted else {
        let names = found.iter().filter(|(_, numbers)| numbers.items > 0).map(|(name, _)| Reply::Owned(name.clone()));
        return Reply::Array(names.collect());
    };
    let Some(numbers) = found.get(wanted) else {
        return Reply::error(format!("ERR no such namespace '{}'", clients::printable(wanted)));
    };
    let counts = [
        ("items", numbers.items),
        ("bytes", numbers.bytes),
        ("hits", numbers.hits),
        ("misses", numbers.misses),
        ("writes", numbers.writes),
        ("evictions", numbers.evictions),
        ("expiring", numbers.expiring),
        ("ops", numbers.operations()),
        ("max_items", limits.items_max),
        ("max_bytes", limits.bytes_max),
        ("ttl_ms", limits.ttl_ms),
        ("max_ttl_ms", limits.ttl_max_ms),
        ("what_if_look_ups", numbers.what_if_look_ups),
    ];
    let counts = counts.map(|(name, count)| (Reply::text(name), Reply::Int(count as i64)));
    let percents = numbers.what_if_hit_percents().map(|(name, percent)| {
        (Reply::text(format!("what_if_hit_percent_{name}")), Reply::text(format!("{percent:.2}")))
    });
    Reply::Map(counts.into_iter().chain(percents).collect())
}

/// What a core is asked for a step, beside where to go on.
pub fn view_argument(view: &View) -> Bytes {
    Bytes::from(view.to_bytes())
}

impl Op {
    /// Whether the command changes what the connection's keys are called.
    pub(super) fn changes_namespace(self) -> bool {
        matches!(self, Op::Select | Op::NamespaceUse | Op::SwapDb)
    }
}
