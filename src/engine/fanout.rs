//! Commands that involve several shards or every core: how they are taken apart. What becomes of the parts is in
//! [`super::collecting`], what a core does for its own in [`super::share`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;

use super::batch::{Job, Token};
use super::collecting::reply_too_large;
use super::durability::gate_of_command;
use super::gather::{self, Ask, Kind, MoveState, Page, ScanState};
use super::journal::Gate;
use super::portions::Portions;
use super::{Engine, Outcome, clients, cluster, settings, swap, waiting};
use crate::command::{Op, Spec};
use crate::connection::Pause;
use crate::metrics::Sections;
use crate::namespace::View;
use crate::number::parse_i64;
use crate::reply::{Reply, ReplyError};
use crate::request::{Args, Call};
use crate::slot;

/// Keys that one step of a scan may find, so that no step takes long on any shard.
pub(super) const SCAN_STEP_KEYS: u64 = 1024;

impl Engine {
    pub(super) fn owner_of(&self, key: &[u8]) -> u32 {
        slot::owner_of_slot(slot::slot_of(key), self.config.cores)
    }

    /// Which cores' keys a connection sees: all of them, or, when it came by a core's own port, that core's
    /// alone, because cluster clients ask every node and add up.
    fn cores_in_view(&self, index: u32) -> Range<u32> {
        let own_port = self.connections[index as usize].as_deref().is_some_and(|connection| connection.own_port);
        if own_port && self.config.topology.enabled {
            self.config.core..self.config.core + 1
        } else {
            0..self.config.cores
        }
    }

    /// The one core that owns every key of the command, if it is one; the answer is an error when the
    /// connection came by a core's own port and the keys do not belong there.
    pub(super) fn common_owner(&self, index: u32, spec: &Spec, args: Args<'_>) -> Result<Option<u32>, Reply<'static>> {
        let cores = self.config.cores;
        // Of a transaction that was asked when its commands were queued; by now there may be another client in its place.
        let own_port = self.draft.is_none()
            && self.connections[index as usize].as_deref().is_some_and(|connection| connection.own_port);
        let mut keys = spec.key_args(args.len()).map(|arg| slot::slot_of(args.get(arg)));
        let Some(first) = keys.next() else { return Ok(Some(self.config.core)) };
        let owner = slot::owner_of_slot(first, cores);
        let (mut one_owner, mut one_slot) = (true, true);
        for slot in keys {
            one_owner &= slot::owner_of_slot(slot, cores) == owner;
            one_slot &= slot == first;
        }
        if own_port && self.config.topology.enabled && !(one_owner && owner == self.config.core) {
            return Err(if one_slot {
                self.moved(index, first)
            } else {
                Reply::error("CROSSSLOT Keys in request don't hash to the same slot")
            });
        }
        Ok(one_owner.then_some(owner))
    }

    /// Multi-key commands whose keys can be dealt with one by one.
    pub(super) fn split(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if spec.op == Op::GetFill {
            return self.get_or_fill(index, spec, args);
        }
        if spec.keys.step == 2 && !args.len().is_multiple_of(2) {
            return self.answer(index, spec, &Reply::Error(ReplyError::WrongArity { command: spec.name.into() }));
        }
        if let Some(error) = crate::store::check_keys(&Call { spec, args, hash: 0 }) {
            return self.answer(index, spec, &Reply::Error(error));
        }
        let owner = if self.config.cores == 1 { Ok(Some(0)) } else { self.common_owner(index, spec, args) };
        match owner {
            Ok(_) if self.draft.is_none() && Portions::takes(spec, args.len()) => self.in_portions(index, spec, args),
            Err(refused) => self.redirect(index, spec, &refused),
            Ok(Some(owner)) if owner == self.config.core => self.apply_here(index, spec, args),
            Ok(Some(owner)) => self.forward(index, owner, spec, args),
            Ok(None) => self.split_over_cores(index, spec, args),
        }
    }

    fn apply_here(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if self.draft.is_some() {
            return self.forward(index, self.config.core, spec, args);
        }
        if self.is_held_up(spec, args) {
            // Not to be overtaken by what comes next, as if it had been carried out.
            if let Some(connection) = self.connections[index as usize].as_deref_mut() {
                connection.pause.add(Pause::FENCE);
            }
            self.stand_in_line_here(index, spec, 0, args);
            self.lift_barrier(index, spec);
            return Outcome::Awaited;
        }
        if let Some(refusal) = self.waits.refusal(spec, &self.journal) {
            return self.answer(index, spec, &refusal);
        }
        self.journal.begin_run();
        if self.is_watchful {
            self.begin_effects_of(index, spec, args);
        }
        let call = Call { spec, args, hash: 0 };
        let reply = with_effects!(self, effects => self.shard.apply(&call, self.now, effects));
        self.journal.end_run();
        if let Reply::Error(error) = &reply {
            self.counters.count_failed(spec.op, error);
        }
        let group = gate_of_command(&mut self.journal, &self.config.hasher, spec, args);
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return Outcome::Answered };
        // A short MGET can ask for a reply of any size: it is not even written down when it passes the bound.
        if reply.kept_bytes() > self.config.output_hard_bytes {
            return self.answer(index, spec, &reply_too_large());
        }
        if group > 0 {
            self.waits.hold(connection, index, Gate { core: self.config.core, group });
            connection.reply_held(&reply, &mut self.outs);
        } else {
            connection.reply(&reply, &mut self.outs);
        }
        self.spread_news();
        Outcome::Answered
    }

    /// The whole command goes to one other core.
    fn forward(&mut self, index: u32, owner: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if self.draft.is_some() || crate::connection::is_barrier(spec) {
            return self.gather(index, spec, Kind::First, |this, gather| {
                this.ask_args(gather, owner, 0, Job::Command, spec, args);
                1
            });
        }
        self.sign(index, owner, spec);
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return Outcome::Answered };
        let token = Token::Connection { index, generation: connection.generation, sequence: connection.await_reply() };
        self.outboxes[owner as usize].open().push(token, Job::Command, connection.wire, spec, 0, args);
        self.counters.commands_forwarded_out += 1;
        Outcome::Awaited
    }

    fn split_over_cores(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if matches!(spec.op, Op::MSet | Op::MSetNx) && self.draft.is_none() {
            return self.as_transaction(index, spec, args);
        }
        let step = spec.keys.step as usize;
        let cores = self.config.cores as usize;
        // ranges[core]: its share of the arguments; places[core]: where its values belong.
        let mut shares: Vec<Vec<usize>> = vec![Vec::new(); cores];
        for (place, arg) in spec.key_args(args.len()).enumerate() {
            shares[self.owner_of(args.get(arg)) as usize].push(place);
        }
        let kind = match spec.op {
            Op::MGet => Kind::Values {
                places: shares.iter().map(|share| share.iter().map(|&place| place as u32).collect()).collect(),
                values: vec![Reply::Nil; args.len()],
            },
            Op::MSet => Kind::AllOk,
            Op::MSetNx => {
                let store = shares.iter().enumerate().filter(|(_, share)| !share.is_empty()).map(|(core, share)| Ask {
                    core: core as u32,
                    part: core as u32,
                    job: Job::Command,
                    spec: crate::command::spec_of(Op::MSet),
                    args: share
                        .iter()
                        .flat_map(|&place| [args.to_bytes(2 * place), args.to_bytes(2 * place + 1)])
                        .collect(),
                });
                Kind::SetIfNone { existing: 0, store: store.collect() }
            }
            _ => Kind::Sum(0),
        };
        // MSETNX first asks whether any of the keys exists.
        let (asked, job, width) = match spec.op {
            Op::MSetNx => (crate::command::spec_of(Op::Exists), Job::Present, 1),
            _ => (spec, Job::Command, step),
        };
        self.gather(index, spec, kind, |this, gather| {
            let mut waiting = 0;
            for (core, share) in shares.iter().enumerate().filter(|(_, share)| !share.is_empty()) {
                let mut picked = std::mem::take(&mut this.ranges);
                picked.clear();
                picked.extend(
                    share
                        .iter()
                        .flat_map(|&place| (0..width).map(move |part| place * step + part))
                        .map(|arg| args.range(arg)),
                );
                this.ask_args(gather, core as u32, core as u32, job, asked, args.with_ranges(&picked));
                this.ranges = picked;
                waiting += 1;
            }
            waiting
        })
    }

    /// RENAME, RENAMENX, COPY.
    pub(super) fn pair(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        if let Some(error) = crate::store::check_keys(&Call { spec, args, hash: 0 }) {
            return self.answer(index, spec, &Reply::Error(error));
        }
        match if self.config.cores == 1 { Ok(Some(0)) } else { self.common_owner(index, spec, args) } {
            Err(refused) => return self.redirect(index, spec, &refused),
            Ok(Some(owner)) if owner == self.config.core => return self.apply_here(index, spec, args),
            Ok(Some(owner)) => return self.forward(index, owner, spec, args),
            Ok(None) => {}
        }
        if self.draft.is_none() {
            return self.as_transaction(index, spec, args);
        }
        let (source, target) = (args.get(0).to_vec(), args.get(1).to_vec());
        let (from, to) = (self.owner_of(&source), self.owner_of(&target));
        let (kind, job) = if spec.op == Op::Copy {
            let replace = match crate::store::parse_copy(args.from(2)) {
                Ok(replace) => replace,
                Err(error) => return self.answer(index, spec, &error.into()),
            };
            (Kind::Copy { spec, target: (to, target), replace, read: false }, Job::Read)
        } else {
            let state = MoveState::Reading;
            (Kind::Rename { spec, source: (from, source), target: (to, target), state }, Job::Read)
        };
        self.gather(index, spec, kind, |this, gather| {
            this.ask_args(gather, from, 0, job, spec, args.slice(0, 1));
            1
        })
    }

    /// How keys are collected for a connection.
    fn keys_for(&self, index: u32) -> gather::Keys {
        let connection = self.connections[index as usize].as_deref();
        gather::Keys::for_wire(connection.filter(|_| self.draft.is_none()).map(|connection| connection.wire))
    }

    /// A command about very many keys, some of them per turn. What comes behind it on the same connection waits.
    fn in_portions(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return Outcome::Answered };
        connection.pause.add(Pause::FENCE);
        let (cores, bytes_max) = (self.config.cores, self.config.output_hard_bytes);
        let mut portions = Box::new(Portions::new(spec, args, connection.wire, cores, bytes_max));
        let asks = portions.next();
        self.gather(index, spec, Kind::Portions(portions), |this, gather| {
            let waiting = asks.len() as u32;
            asks.into_iter().for_each(|ask| this.ask(gather, ask));
            waiting
        })
    }

    /// Commands that every core takes part in.
    pub(super) fn every(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        // How long commands took is known of those that have been answered.
        let is_about_time =
            matches!(spec.op, Op::SlowLogGet | Op::SlowLogLen | Op::SlowLogReset | Op::LatencyHistogram);
        // A change holds for what comes behind it, not for what is still on its way to another core.
        let is_last = is_about_time || spec.op.changes_settings();
        if is_last && self.draft.is_none() && self.waits_for_answers(index, spec, args) {
            // Still a barrier when its time has come.
            return Outcome::Awaited;
        }
        let kind = match spec.op {
            Op::DbSize => Kind::Sum(0),
            Op::NamespaceFlush => return self.flush_namespace(index, spec, args),
            Op::NamespaceDel => return self.delete_namespace(index, spec, args),
            Op::NamespaceSet => match self.set_namespace(args) {
                // Answered when all cores follow.
                Reply::Ok => Kind::AllOk,
                error => return self.answer(index, spec, &error),
            },
            Op::NamespaceList => Kind::Namespaces { found: BTreeMap::new(), wanted: None },
            Op::NamespaceInfo => {
                let name = args.get(0).to_vec();
                let limits = str::from_utf8(&name).ok().and_then(|name| self.gatekeeper.live().namespaces.get(name));
                Kind::Namespaces { found: BTreeMap::new(), wanted: Some((name, limits.copied().unwrap_or_default())) }
            }
            Op::ConfigResetStat => Kind::AllOk,
            Op::BgRewriteAof => match self.journal.is_on() {
                true => Kind::AllOk,
                false => return self.answer(index, spec, &Reply::error(NO_LOG)),
            },
            Op::WaitAof => match parse_wait(args, self.journal.is_on()) {
                Ok(Some(_)) => Kind::Logged,
                Ok(None) => return self.answer(index, spec, &Reply::Array(vec![Reply::Int(0), Reply::Int(0)])),
                Err(error) => return self.answer(index, spec, &error),
            },
            Op::FlushAll | Op::FlushDb => match flush_mode(args) {
                Ok(()) if spec.op == Op::FlushDb && self.flushes_in_steps(index) => {
                    return self.flush_view(index, spec, self.view_of(index));
                }
                Ok(()) if self.is_for_all_at_once() => return self.as_transaction(index, spec, args),
                Ok(()) => Kind::AllOk,
                Err(error) => return self.answer(index, spec, &error.into()),
            },
            Op::SwapDb => match swap::parse(args) {
                Err(error) => return self.answer(index, spec, &error),
                Ok(_) if self.is_for_all_at_once() => return self.as_transaction(index, spec, args),
                Ok(_) => Kind::AllOk,
            },
            Op::Info => Kind::Snapshots { parts: Vec::new(), page: Page::Info(Sections::parse(args)) },
            Op::Stats => match Page::of_stats(args) {
                Ok(page) => Kind::Snapshots { parts: Vec::new(), page },
                Err(error) => return self.answer(index, spec, &error.into()),
            },
            Op::SlowLogGet
            | Op::SlowLogLen
            | Op::SlowLogReset
            | Op::LatencyDoctor
            | Op::LatencyGraph
            | Op::LatencyHistogram
            | Op::LatencyHistory
            | Op::LatencyLatest
            | Op::LatencyReset => match self.slow_kind(spec, args) {
                Ok(kind) => kind,
                Err(error) => return self.answer(index, spec, &error),
            },
            Op::ConfigSet => match settings::config_set(args, &*self.config.settings) {
                // Answered when all cores follow.
                Reply::Ok => Kind::AllOk,
                error => return self.answer(index, spec, &error),
            },
            Op::ClientPause => match waiting::parse_pause(args) {
                Ok(_) => Kind::AllOk,
                Err(error) => return self.answer(index, spec, &error),
            },
            Op::ClientUnpause => Kind::AllOk,
            Op::ClientUnblock => match waiting::parse_unblock(args) {
                Ok(_) => Kind::Sum(0),
                Err(error) => return self.answer(index, spec, &error),
            },
            Op::Monitor => match self.begin_monitoring(index, spec) {
                None => Kind::AllOk,
                Some(refused) => return refused,
            },
            Op::MemoryStats => Kind::Snapshots { parts: Vec::new(), page: Page::MemoryStats },
            Op::MemoryDoctor => Kind::Snapshots { parts: Vec::new(), page: Page::MemoryDoctor },
            Op::HotKeys => match crate::store::parse_hot_keys(args) {
                Ok(count) => Kind::HotKeys { count, found: Vec::new() },
                Err(error) => return self.answer(index, spec, &error.into()),
            },
            Op::ClientList => match clients::ListFilter::parse(args) {
                Ok(_) => Kind::Lines(String::new()),
                Err(error) => return self.answer(index, spec, &error.into()),
            },
            Op::ClientKill => match clients::KillFilter::parse(args, |name| self.knows_user(name)) {
                Ok(filter) => Kind::Killed { filter, count: 0 },
                Err(error) => return self.answer(index, spec, &error.into()),
            },
            Op::PubSubChannels | Op::PubSubShardChannels | Op::PubSubNumPat if args.len() <= 1 => Kind::Names {
                names: BTreeSet::new(),
                is_counted: spec.op == Op::PubSubNumPat,
                bytes_left: self.config.output_hard_bytes,
            },
            Op::PubSubChannels | Op::PubSubShardChannels => {
                let error = ReplyError::WrongArity { command: spec.name.into() };
                return self.answer(index, spec, &error.into());
            }
            Op::PubSubNumSub | Op::PubSubShardNumSub => {
                Kind::Listeners { names: args.iter().map(<[u8]>::to_vec).collect(), counts: vec![0; args.len()] }
            }
            other => unreachable!("{other:?} is not for every core"),
        };
        let id = self.connections[index as usize].as_deref().map_or(0, |connection| connection.record.id);
        let job = if matches!(kind, Kind::Snapshots { .. }) { Job::Snapshot } else { Job::Command };
        // DBSIZE counts the keys of the connection's namespace.
        let name = match self.view_of(index) {
            View::Of(prefix) => Bytes::copy_from_slice(&prefix[..prefix.len() - 1]),
            _ => Bytes::new(),
        };
        // Who asks goes along: CLIENT KILL spares its caller. So does when a pause ends.
        let id = match spec.op {
            // All cores go on at the same time.
            Op::ClientPause => waiting::end_of_pause(args, self.now).to_string(),
            _ => id.to_string(),
        };
        let asked = if spec.op == Op::DbSize { self.cores_in_view(index) } else { 0..self.config.cores };
        let timeout_ms = match spec.op {
            Op::WaitAof => parse_wait(args, true).ok().flatten().unwrap_or(0),
            _ => 0,
        };
        self.gather(index, spec, kind, |this, gather| {
            // Within a transaction it has no place of its own, and no time either.
            if let Some(entry) = this.gathers.get_mut(gather as usize).and_then(Option::as_mut) {
                entry.timeout_ms = timeout_ms;
            }
            for core in asked.clone() {
                let owned = (spec.op == Op::DbSize && !name.is_empty()).then(|| vec![name.clone()]);
                let owned = owned.or(matches!(spec.op, Op::ClientKill | Op::ClientPause).then(|| {
                    let own = Bytes::copy_from_slice(id.as_bytes());
                    std::iter::once(own).chain(args.iter().map(Bytes::copy_from_slice)).collect::<Vec<_>>()
                }));
                match owned {
                    Some(args) => this.ask(gather, Ask { core, part: core, job, spec, args }),
                    None => this.ask_args(gather, core, core, job, spec, args),
                }
            }
            asked.len() as u32
        })
    }

    /// SCAN, KEYS, RANDOMKEY and the per-slot CLUSTER commands.
    pub(super) fn addressed(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let view = self.cores_in_view(index);
        let bytes_left = self.config.output_hard_bytes;
        let (kind, ask) = match spec.op {
            Op::Scan => {
                let scan = match parse_scan(spec, args, view.clone()) {
                    Ok(Some(scan)) => ScanState { view: self.view_of(index), ..scan },
                    Ok(None) => {
                        return self.answer(index, spec, &Reply::Array(vec![Reply::Bulk(b"0"), Reply::Array(vec![])]));
                    }
                    Err(error) => return self.answer(index, spec, &error.into()),
                };
                let ask = scan.ask();
                // Enough to pass over every core once more when they are nearly empty.
                let steps_left = view.len() as u32 + 1;
                (Kind::Scan { scan, steps_left, found: Vec::new() }, ask)
            }
            Op::Keys => {
                let pattern = Some(args.get(0).to_vec()).filter(|pattern| pattern != b"*");
                let scan = ScanState { view: self.view_of(index), ..ScanState::over(spec, view, pattern) };
                let ask = scan.ask();
                (Kind::Collect { scan, limit: usize::MAX, found: self.keys_for(index), bytes_left }, ask)
            }
            Op::RandomKey => {
                // The others only if it turns out to have none.
                let core = self.config.commons.core_by_keys(view.clone(), self.shard.random());
                let left: Vec<u32> = view.filter(|&other| other != core).collect();
                let view = self.view_of(index);
                let args = vec![super::namespaces::view_argument(&view)];
                (Kind::AnyKey { left, spec, view }, Ask { core, part: 0, job: Job::RandomKey, spec, args })
            }
            Op::ClusterCountKeysInSlot | Op::ClusterGetKeysInSlot => {
                if let Err(error) = cluster::require_enabled(&self.config.topology) {
                    return self.answer(index, spec, &error.into());
                }
                let counting = spec.op == Op::ClusterCountKeysInSlot;
                let parsed = if counting {
                    cluster::parse_slot(args).map(|slot| (slot, 0))
                } else {
                    cluster::parse_slot_and_count(args)
                };
                let (slot, limit) = match parsed {
                    Ok(parsed) => parsed,
                    Err(error) => return self.answer(index, spec, &error.into()),
                };
                let core = slot::owner_of_slot(slot, self.config.cores);
                if counting {
                    let ask =
                        Ask { core, part: 0, job: Job::CountSlot, spec, args: vec![Bytes::from(slot.to_string())] };
                    (Kind::First, ask)
                } else {
                    if limit == 0 {
                        return self.answer(index, spec, &Reply::Array(vec![]));
                    }
                    let scan = ScanState { slot: Some(slot), ..ScanState::over(spec, core..core + 1, None) };
                    let ask = scan.ask();
                    (Kind::Collect { scan, limit, found: self.keys_for(index), bytes_left }, ask)
                }
            }
            other => unreachable!("{other:?} is not addressed"),
        };
        self.gather(index, spec, kind, |this, gather| {
            this.ask(gather, ask);
            1
        })
    }
}

impl ScanState {
    pub(super) fn over(spec: &'static Spec, cores: Range<u32>, pattern: Option<Vec<u8>>) -> ScanState {
        ScanState {
            spec,
            core: cores.start,
            end: cores.end,
            cursor: 0,
            count: SCAN_STEP_KEYS,
            pattern,
            nothing_matches: false,
            slot: None,
            view: View::Everything,
        }
    }
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`. `None` for a cursor that no core gave.
fn parse_scan(
    spec: &'static Spec,
    args: Args<'_>,
    cores: Range<u32>,
) -> Result<Option<ScanState>, ReplyError<'static>> {
    let cursor = std::str::from_utf8(args.get(0)).ok().and_then(|text| text.parse::<u64>().ok());
    let Some(cursor) = cursor else { return Err(ReplyError::Other("ERR invalid cursor".into())) };
    let (core, cursor) = gather::split_cursor(cursor);
    let core = if cursor == 0 && core == 0 { cores.start } else { core };
    let mut scan = ScanState { core, cursor, count: 10, ..ScanState::over(spec, cores.clone(), None) };
    let mut at = 1;
    while at < args.len() {
        let option = args.get(at);
        if at + 1 == args.len() {
            return Err(ReplyError::Syntax);
        }
        let value = args.get(at + 1);
        if option.eq_ignore_ascii_case(b"match") {
            scan.pattern = Some(value.to_vec()).filter(|pattern| pattern != b"*");
        } else if option.eq_ignore_ascii_case(b"count") {
            let count = parse_i64(value).ok_or(ReplyError::NotAnInteger)?;
            if count < 1 {
                return Err(ReplyError::Syntax);
            }
            scan.count = count as u64;
        } else if option.eq_ignore_ascii_case(b"type") {
            scan.nothing_matches = !value.eq_ignore_ascii_case(b"string");
        } else {
            return Err(ReplyError::Syntax);
        }
        at += 2;
    }
    Ok(cores.contains(&core).then_some(scan))
}

const NO_LOG: &str = "ERR there is no log: start the server with --data-dir";

/// `numlocal numreplicas timeout`: the time to wait in milliseconds, 0 for any; None if there is nothing to wait for.
fn parse_wait(args: Args<'_>, has_log: bool) -> Result<Option<u64>, Reply<'static>> {
    let (Some(local), Some(replicas)) = (parse_i64(args.get(0)), parse_i64(args.get(1))) else {
        return Err(ReplyError::NotAnInteger.into());
    };
    if !(0..=1).contains(&local) || replicas < 0 {
        return Err(Reply::error("ERR value is out of range, must be positive"));
    }
    let timeout_ms = match parse_i64(args.get(2)) {
        Some(timeout) => u64::try_from(timeout).map_err(|_| Reply::error("ERR timeout is negative"))?,
        None => return Err(Reply::error("ERR timeout is not an integer or out of range")),
    };
    match (local, has_log) {
        (1, true) => Ok(Some(timeout_ms)),
        (1, false) => Err(Reply::error("ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.")),
        _ => Ok(None),
    }
}

/// FLUSHALL and FLUSHDB take SYNC or ASYNC; both are the same here: keys are gone at once, their memory
/// is given back in bounded steps.
fn flush_mode(args: Args<'_>) -> Result<(), ReplyError<'static>> {
    match args.len() {
        0 => Ok(()),
        1 if args.get(0).eq_ignore_ascii_case(b"sync") || args.get(0).eq_ignore_ascii_case(b"async") => Ok(()),
        _ => Err(ReplyError::Syntax),
    }
}
