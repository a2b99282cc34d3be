//! Commands that involve several shards or every core: how they are taken apart, what a core does for
//! its part, and how the parts become one reply (see [`super::gather`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;

use super::batch::{Job, Token};
use super::durability::gate_of_command;
use super::gather::{self, Ask, Gather, Kind, MoveState, Page, Progress, ScanState};
use super::journal::Gate;
use super::portions::Portions;
use super::{Engine, GatherEntry, Outcome, clients, cluster, holding, settings, swap, waiting};
use crate::command::{Op, Route, Spec};
use crate::connection::{Closing, Connection, OutPool, Pause};
use crate::limits;
use crate::metrics::{self, CoreSnapshot, DatabaseSnapshot, Sections, ShardSnapshot};
use crate::namespace::{self, DATABASES, View};
use crate::number::parse_i64;
use crate::proto;
use crate::pubsub;
use crate::reply::{Reply, ReplyError};
use crate::request::{ArgRange, Args, Call, Wire};
use crate::slot;
use crate::store::Moved;

/// Buckets and keys one scan step may visit, so that no step takes long on any shard.
const SCAN_STEP_BUCKETS: usize = 256;
const SCAN_STEP_KEYS: u64 = 1024;

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
        let own_port = self.connections[index as usize].as_deref().is_some_and(|connection| connection.own_port);
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
        if reply.bulk_bytes() > self.config.output_hard_bytes {
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
                Ok(()) if spec.op == Op::FlushDb && self.view_of(index) != View::Global => {
                    return self.flush_view(index, spec, self.view_of(index));
                }
                Ok(()) if self.draft.is_none() && self.config.cores > 1 => {
                    return self.as_transaction(index, spec, args);
                }
                Ok(()) => Kind::AllOk,
                Err(error) => return self.answer(index, spec, &error.into()),
            },
            Op::SwapDb => match swap::parse(args) {
                Err(error) => return self.answer(index, spec, &error),
                Ok(_) if self.draft.is_none() && self.config.cores > 1 => {
                    return self.as_transaction(index, spec, args);
                }
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

    // ---- asking and collecting ------------------------------------------------------------------

    /// Starts a gather whose first questions `begin` asks; it returns how many.
    pub(super) fn gather(
        &mut self,
        index: u32,
        spec: &'static Spec,
        kind: Kind,
        begin: impl FnOnce(&mut Engine, u32) -> u32,
    ) -> Outcome {
        if let Some(draft) = &mut self.draft {
            draft.kind = Some(kind);
            begin(self, u32::MAX);
            return Outcome::Awaited;
        }
        let Some(place) = self.enter_gather(index, spec, kind) else { return Outcome::Answered };
        let first_own = self.own_asks.len();
        let waiting = begin(self, place);
        if let Some(entry) = &mut self.gathers[place as usize] {
            entry.gather.waiting = waiting;
        }
        self.answer_own(first_own);
        Outcome::Awaited
    }

    /// A place for what will be collected, and for its reply.
    pub(super) fn enter_gather(&mut self, index: u32, spec: &'static Spec, kind: Kind) -> Option<u32> {
        let connection = self.connections[index as usize].as_deref_mut()?;
        let entry = GatherEntry {
            gather: Gather::new(kind),
            spec,
            connection: index,
            generation: connection.generation,
            sequence: connection.await_reply(),
            wire: connection.wire,
            gates: Vec::new(),
            began_us: self.now.uptime_us,
            timeout_ms: 0,
        };
        Some(match self.gathers_free.pop() {
            Some(place) => {
                self.gathers[place as usize] = Some(entry);
                place
            }
            None => {
                self.gathers.push(Some(entry));
                self.gathers.len() as u32 - 1
            }
        })
    }

    /// All has been collected.
    pub(super) fn finish_gather(&mut self, place: u32, reply: Reply<'static>) {
        let Some(entry) = self.gathers[place as usize].take() else { return };
        self.gathers_free.push(place);
        self.deliver(entry, reply);
    }

    pub(super) fn ask(&mut self, gather: u32, ask: Ask) {
        let (mut bytes, mut large, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
        for arg in ask.args {
            if arg.len() >= limits::LARGE_VALUE_BYTES_MIN {
                ranges.push(ArgRange::large(large.len()));
                large.push(arg);
            } else {
                ranges.push(ArgRange::inline(bytes.len(), arg.len()));
                bytes.extend_from_slice(&arg);
            }
        }
        self.ask_args(gather, ask.core, ask.part, ask.job, ask.spec, Args::new(&bytes, &ranges, &large));
    }

    pub(super) fn ask_args(
        &mut self,
        gather: u32,
        core: u32,
        part: u32,
        job: Job,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        if let Some(draft) = &mut self.draft {
            let args = (0..args.len()).map(|arg| args.to_bytes(arg)).collect();
            draft.asks.push(Ask { core, part, job, spec, args });
        } else if core == self.config.core && job == Job::Command && self.is_held_up(spec, args) {
            let token = Token::Gather { index: gather, part };
            self.stand_in_line(core, token, Wire::Resp3, spec, args);
        } else if core == self.config.core {
            if self.is_watchful
                && let Some(index) = self.connection_of_gather(gather)
            {
                self.begin_effects_of(index, spec, args);
            }
            let reply = self.share(job, spec, args).into_owned();
            let group = self.gate_of(job, spec, args);
            self.own_asks.push((gather, part, reply, group));
            self.spread_news();
        } else {
            if self.no_loops > 0
                && let Some(index) = self.connection_of_gather(gather)
            {
                self.sign(index, core, spec);
            }
            let token = Token::Gather { index: gather, part };
            self.outboxes[core as usize].open().push(token, job, Wire::Resp3, spec, 0, args);
            self.counters.commands_forwarded_out += 1;
        }
    }

    fn connection_of_gather(&self, gather: u32) -> Option<u32> {
        self.gathers.get(gather as usize).and_then(Option::as_ref).map(|entry| entry.connection)
    }

    /// Hands the answers that this core gave itself to their gathers.
    fn answer_own(&mut self, first: usize) {
        while self.own_asks.len() > first {
            let (gather, part, reply, group) = self.own_asks.remove(first);
            let gate = (group > 0).then_some(Gate { core: self.config.core, group });
            self.gathered(gather, part, reply, gate);
        }
    }

    pub(super) fn gathered(&mut self, place: u32, part: u32, reply: Reply<'static>, gate: Option<Gate>) {
        let Some(entry) = self.gathers.get_mut(place as usize).and_then(Option::as_mut) else { return };
        entry.gates.extend(gate);
        if matches!(entry.gather.kind, Kind::Transaction(_)) {
            return self.transaction_answered(place, part, reply);
        }
        match entry.gather.answer(part, reply) {
            Progress::Waiting => {}
            Progress::Next(asks) => {
                entry.gather.waiting = asks.len() as u32;
                // A core that answers itself step after step must let others in between.
                if asks.len() == 1 && asks[0].core == self.config.core && matches!(asks[0].job, Job::Scan | Job::Sweep)
                {
                    self.postponed.extend(asks.into_iter().map(|ask| (place, ask)));
                    return;
                }
                let first_own = self.own_asks.len();
                for ask in asks {
                    self.ask(place, ask);
                }
                self.answer_own(first_own);
            }
            Progress::Later(asks) => {
                entry.gather.waiting = asks.len() as u32;
                self.postponed.extend(asks.into_iter().map(|ask| (place, ask)));
            }
            Progress::Written(written) => {
                let Some(entry) = self.gathers[place as usize].take() else { return };
                self.gathers_free.push(place);
                let out = written.into_out();
                self.deliver_with(entry, |connection, entry, gates, outs| {
                    connection.complete_with_range(entry.sequence, &out, 0..out.bytes.len(), 0, gates, outs);
                });
            }
            Progress::Done(reply) if self.gathers[place as usize].as_ref().is_some_and(is_rewrite) => {
                let reply = match reply {
                    Reply::Ok => Reply::Status("Background append only file rewriting started"),
                    other => other,
                };
                let Some(entry) = self.gathers[place as usize].take() else { return };
                self.gathers_free.push(place);
                self.deliver(entry, reply);
            }
            Progress::Done(reply) => {
                let Some(mut entry) = self.gathers[place as usize].take() else { return };
                self.gathers_free.push(place);
                let reply = match std::mem::replace(&mut entry.gather.kind, Kind::First) {
                    Kind::Snapshots { parts, page } => self.render(entry.connection, &parts, page),
                    Kind::Watch { keys, versions } => {
                        self.watched(&entry, keys, versions);
                        reply
                    }
                    Kind::Tracking { is_target_there } => self.tracking_agreed(&entry, is_target_there),
                    _ => reply,
                };
                self.deliver(entry, reply);
            }
        }
    }

    fn deliver(&mut self, entry: GatherEntry, mut reply: Reply<'static>) {
        if reply.bulk_bytes() > self.config.output_hard_bytes {
            reply = reply_too_large();
        }
        if let Reply::Error(error) = &reply {
            self.counters.count_failed(entry.spec.op, error);
        }
        self.deliver_with(entry, |connection, entry, gates, outs| {
            connection.complete(entry.sequence, entry.wire, &reply, gates, outs);
        });
    }

    /// The reply has come together; `write` hands it to the connection.
    fn deliver_with(
        &mut self,
        mut entry: GatherEntry,
        write: impl FnOnce(&mut Connection, &GatherEntry, Vec<Gate>, &mut OutPool),
    ) {
        let index = entry.connection;
        let elapsed_us = self.now.uptime_us.saturating_sub(entry.began_us);
        self.latency.record(entry.spec.op, elapsed_us * 1000, 1);
        self.note_event_of(entry.spec, elapsed_us * 1000);
        if self.awaits_measured() {
            self.end_awaited(index, entry.generation, entry.sequence);
        }
        if self.is_monitored && entry.spec.op == Op::Exec {
            self.show_to_monitors(index, entry.spec, Args::new(&[], &[], &[]));
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.generation != entry.generation {
            return;
        }
        let mut gates = std::mem::take(&mut entry.gates);
        gates.retain(|&gate| !self.config.durable.has_passed(gate));
        gates.iter().for_each(|&gate| self.waits.wait(gate, index, entry.generation));
        if entry.timeout_ms > 0 && !gates.is_empty() {
            let deadline_us = entry.began_us + entry.timeout_ms * 1000;
            self.waits.deadlines.push((deadline_us, index, entry.generation, entry.sequence));
        }
        write(connection, &entry, gates, &mut self.outs);
        if matches!(entry.spec.op, Op::Publish | Op::SPublish) {
            connection.publishes_pending -= 1;
        }
        self.lift_barrier(index, entry.spec);
        self.reply_arrived(index);
    }

    /// Steps of scans over this core's own shard, one per turn and scan.
    pub fn step_postponed(&mut self) {
        for (place, ask) in std::mem::take(&mut self.postponed) {
            let first_own = self.own_asks.len();
            self.ask(place, ask);
            self.answer_own(first_own);
        }
    }

    pub fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }

    // ---- a core's own share ---------------------------------------------------------------------

    /// This core's part of a command that it or another core received.
    pub(super) fn share(&mut self, job: Job, spec: &'static Spec, args: Args<'_>) -> Reply<'_> {
        let now = self.now;
        match job {
            Job::Command | Job::Held => match spec.op {
                Op::ConfigResetStat => {
                    self.counters.reset();
                    self.rates.reset();
                    self.latency.reset();
                    self.shard.reset_counters();
                    Reply::Ok
                }
                Op::BgRewriteAof => {
                    self.ask_for_round();
                    Reply::Ok
                }
                Op::WaitAof => Reply::Int(self.sync_log() as i64),
                Op::SlowLogGet
                | Op::SlowLogLen
                | Op::SlowLogReset
                | Op::LatencyDoctor
                | Op::LatencyGraph
                | Op::LatencyHistory
                | Op::LatencyLatest
                | Op::LatencyReset => self.slow_share(spec.op, args),
                Op::ConfigSet | Op::NamespaceSet => {
                    self.follow_settings();
                    Reply::Ok
                }
                Op::SwapDb => self.swap_share(args),
                Op::ClientPause => self.pause_clients(args),
                Op::ClientUnpause => {
                    self.end_client_pause();
                    Reply::Ok
                }
                Op::ClientUnblock => self.unblock_share(args),
                Op::Monitor => {
                    self.note_closeness();
                    Reply::Ok
                }
                Op::Debug => self.debug_share(args),
                Op::NamespaceList | Op::NamespaceInfo => self.namespaces_share(args),
                Op::ClientList => self.client_lines(args),
                Op::ClientKill => self.kill_clients(args),
                Op::Publish => Reply::Int(self.deliver_message(pubsub::Kind::Channel, args)),
                Op::SPublish => Reply::Int(self.deliver_message(pubsub::Kind::Shard, args)),
                Op::PubSubChannels => self.names_share(pubsub::Kind::Channel, args),
                Op::PubSubShardChannels => self.names_share(pubsub::Kind::Shard, args),
                Op::PubSubNumPat => self.names_share(pubsub::Kind::Pattern, args),
                Op::PubSubNumSub => self.listeners_share(pubsub::Kind::Channel, args),
                Op::PubSubShardNumSub => self.listeners_share(pubsub::Kind::Shard, args),
                _ => {
                    // A transaction was asked before it began: what is half refused would be half done.
                    if job == Job::Command
                        && let Some(refusal) = self.waits.refusal(spec, &self.journal)
                    {
                        return refusal;
                    }
                    let hash = match spec.route {
                        Route::Key => self.config.hasher.hash(args.get(spec.key_arg())),
                        _ => 0,
                    };
                    self.journal.begin_run();
                    let call = Call { spec, args, hash };
                    let reply = with_effects!(self, effects => self.shard.apply(&call, now, effects));
                    self.journal.end_run();
                    if reply.bulk_bytes() > self.config.output_hard_bytes { reply_too_large() } else { reply }
                }
            },
            Job::Scan => self.scan_share(args),
            Job::CountSlot => {
                let slot = parse_i64(args.get(0)).unwrap_or(0) as u16;
                Reply::Int(self.shard.keys_in_slot(slot) as i64)
            }
            Job::Sweep => {
                // Whoever writes behind it must not find what was set before.
                if spec.op == Op::NamespaceDel {
                    self.follow_settings();
                }
                self.sweep_share(args)
            }
            Job::RandomKey => {
                let view = View::from_bytes(args.get(0));
                if view != View::Global || self.shard.namespaces().next().is_some() {
                    let key = self.shard.random_key_of(&view, now);
                    let named = |key: Vec<u8>| view.within(&key).map(<[u8]>::to_vec);
                    return key.and_then(named).map_or(Reply::Nil, Reply::Owned);
                }
                let args = args.from(1);
                let call = Call { spec, args, hash: 0 };
                with_effects!(self, effects => self.shard.apply(&call, now, effects))
            }
            Job::Read => {
                let found = with_effects!(self, effects => self.shard.read_for_copy(args.get(0), now, effects));
                found.map_or(Reply::Nil, |moved| Reply::Array(moved_parts(moved)))
            }
            Job::Put => {
                let expires_at_ms = parse_i64(args.get(2)).filter(|&at| at >= 0).map(|at| at as u64);
                let value = args.to_bytes(1);
                let moved = Moved { value, expires_at_ms };
                let replaces = args.get(3) == b"1";
                match with_effects!(self, effects => self.shard.put_moved(args.get(0), &moved, replaces, now, effects))
                {
                    Ok(true) => Reply::Int(1),
                    // Refused: the value goes back to who sent it, with the error if it is one.
                    Ok(false) => Reply::Array(moved_parts(moved)),
                    Err(error) => {
                        let mut parts = moved_parts(moved);
                        parts.push(Reply::Error(error.into()));
                        Reply::Array(parts)
                    }
                }
            }
            Job::Snapshot => Reply::Owned(self.snapshot().to_bytes()),
            Job::Hold => self.hold_share(args),
            Job::Begin => {
                self.begin_part(args);
                Reply::None
            }
            Job::Release => {
                self.release_hold(holding::number(args.get(0)));
                Reply::None
            }
            Job::Late => {
                self.late_share(args);
                Reply::None
            }
            Job::Present => {
                let present = args.iter().filter(|key| self.exists(key)).count();
                Reply::Int(present as i64)
            }
            Job::Take => {
                if let Some(refusal) = self.waits.refusal(spec, &self.journal) {
                    return refusal;
                }
                let taken = with_effects!(self, effects => self.shard.take_for_move(args.get(0), now, effects));
                Reply::Int(taken.is_some() as i64)
            }
            Job::Listen => self.listen_share(args),
            Job::Target => self.target_share(args),
            // Whose command it is, is noted by who serves the batch.
            Job::As => Reply::None,
            Job::Track => {
                self.track_share(args);
                Reply::None
            }
            Job::Untrack => {
                self.untrack_share(args);
                Reply::None
            }
            Job::Untarget => {
                self.untarget_share(args);
                Reply::None
            }
            Job::Invalidate => {
                self.invalidate_share(args);
                Reply::None
            }
            Job::Redirected => {
                self.redirected_share(args);
                Reply::None
            }
            Job::Broken => {
                self.broken_share(args);
                Reply::None
            }
            Job::Shown => {
                self.show_line(args.get(0));
                Reply::None
            }
            Job::Watch => self.watch_share(args),
            Job::Abandon => {
                self.abandon(holding::number(args.get(0)));
                Reply::Ok
            }
            Job::Fill => unreachable!("who asks for it writes its reply"),
            Job::Unwatch => {
                self.unwatch_share(args);
                Reply::None
            }
        }
    }

    fn scan_share(&mut self, args: Args<'_>) -> Reply<'static> {
        let cursor = parse_i64(args.get(0)).unwrap_or(0) as u64;
        let count = (parse_i64(args.get(1)).unwrap_or(10) as u64).min(SCAN_STEP_KEYS);
        let slot = parse_i64(args.get(2)).and_then(|slot| u16::try_from(slot).ok());
        let view = View::from_bytes(args.get(3));
        let mut keys = Vec::new();
        let mut next = cursor;
        for _ in 0..SCAN_STEP_BUCKETS {
            next = self.shard.scan_step(next, 1, self.now, |key| {
                if view.within(key).is_some() && slot.is_none_or(|slot| slot::slot_of(key) == slot) {
                    keys.push(Reply::Owned(key.to_vec()));
                }
            });
            if next == 0 || keys.len() as u64 >= count {
                break;
            }
        }
        Reply::Array(vec![Reply::Int(next as i64), Reply::Array(keys)])
    }

    fn client_lines(&mut self, args: Args<'_>) -> Reply<'static> {
        let Ok(filter) = clients::ListFilter::parse(args) else { return Reply::Owned(Vec::new()) };
        let mut lines = String::new();
        for connection in self.connections.iter_mut().flatten() {
            if filter.matches(&connection.record) {
                lines.push_str(&connection.client_line(self.now));
                lines.push('\n');
            }
        }
        Reply::owned(lines)
    }

    /// `args` are the caller's id and CLIENT KILL's own arguments.
    fn kill_clients(&mut self, args: Args<'_>) -> Reply<'static> {
        let caller = parse_i64(args.get(0)).unwrap_or(0) as u64;
        let filter = match clients::KillFilter::parse(args.from(1), |_| true) {
            Ok(filter) => filter,
            Err(error) => return error.into(),
        };
        let mut killed = 0;
        for index in 0..self.connections.len() {
            let Some(connection) = self.connections[index].as_deref_mut() else { continue };
            // One that is being closed already is not closed again.
            if connection.closing == Closing::Now || !filter.matches(&connection.record, caller, self.now.uptime_us) {
                continue;
            }
            // Who kills itself still gets its answer.
            connection.closing = if connection.record.id == caller { Closing::AfterReplies } else { Closing::Now };
            killed += 1;
            self.counters.connections_killed += 1;
            self.mark_dirty(index as u32);
        }
        Reply::Int(killed)
    }

    pub(super) fn snapshot(&mut self) -> CoreSnapshot {
        self.count_subscriptions();
        if self.has_answered() {
            let elapsed_us = (self.config.stopwatch)().saturating_sub(self.now.uptime_us);
            self.record_latency(elapsed_us * 1000);
        }
        CoreSnapshot {
            core: self.config.core,
            counters: self.counters.clone(),
            shard: self.shard_snapshot(),
            databases: self.database_snapshots(),
            namespaces: self.namespace_snapshots(),
            log: self.log_snapshot(),
            rates: self.rates.snapshot(self.now.uptime_us, &self.counters),
            latency: self.latency.snapshot(),
        }
    }

    /// What is in no database of its own is in that of the global namespace.
    fn database_snapshots(&self) -> [DatabaseSnapshot; DATABASES as usize] {
        let mut databases = [DatabaseSnapshot::default(); DATABASES as usize];
        let counters = self.shard.counters();
        let mut first = DatabaseSnapshot { keys: self.shard.len(), keys_with_expiry: counters.keys_with_expiry };
        for (name, counters) in self.shard.namespaces() {
            let number = self.databases.number_of(name);
            if number.is_none() && !namespace::is_hidden(name) {
                continue;
            }
            let database = DatabaseSnapshot { keys: counters.items, keys_with_expiry: counters.expiring };
            first.keys = first.keys.saturating_sub(database.keys);
            first.keys_with_expiry = first.keys_with_expiry.saturating_sub(database.keys_with_expiry);
            if let Some(number) = number {
                databases[number as usize] = database;
            }
        }
        databases[self.databases.number_of(b"").unwrap_or(0) as usize] = first;
        databases
    }

    fn shard_snapshot(&self) -> ShardSnapshot {
        let counters = self.shard.counters();
        let what_if = self.shard.what_if();
        ShardSnapshot {
            keys: counters.keys,
            keys_with_expiry: counters.keys_with_expiry,
            keyspace_hits: counters.hits,
            keyspace_misses: counters.misses,
            keys_expired: counters.expired_lazy + counters.expired_active,
            keys_expired_on_access: counters.expired_lazy,
            keys_evicted: counters.evicted,
            keys_admitted: counters.admitted,
            keys_rejected: counters.rejected,
            keys_aged_out: counters.evicted.saturating_sub(counters.rejected + counters.admitted),
            writes_refused: counters.refused,
            memory_bytes: counters.memory_bytes,
            memory_granted_bytes: if self.memory_limit.0 == u64::MAX { 0 } else { self.memory_limit.0 },
            payload_bytes: counters.key_bytes + counters.value_bytes,
            item_bytes: counters.item_bytes,
            large_value_bytes: counters.large_value_bytes,
            gap_bytes: counters.dead_bytes,
            free_bytes: counters.free_bytes,
            history_bytes: counters.history_bytes,
            window_bytes: counters.window_bytes,
            window_target_bytes: counters.item_bytes * counters.window_percent / 100,
            probation_bytes: counters.probation_bytes,
            protected_bytes: counters.protected_bytes,
            index_bytes: counters.index_bytes,
            deadline_bytes: counters.deadline_bytes,
            pressed: counters.is_pressed as u64,
            what_if_look_ups: what_if.look_ups,
            what_if_hits_at_half: what_if.hits[0],
            what_if_hits_at_same: what_if.hits[1],
            what_if_hits_at_double: what_if.hits[2],
            what_if_hits_at_quadruple: what_if.hits[3],
        }
    }

    /// INFO, STATS, MEMORY STATS and MEMORY DOCTOR out of every core's counters.
    pub(super) fn render(&self, index: u32, snapshots: &[CoreSnapshot], page: Page) -> Reply<'static> {
        let mut facts = (self.config.facts)(self.now);
        let own_port = self.connections[index as usize].as_deref().is_some_and(|found| found.own_port);
        facts.node = own_port.then(|| self.config.topology.node());
        match page {
            Page::Info(sections) => Reply::Verbatim(metrics::info(sections, &facts, snapshots).into()),
            Page::Stats => {
                let json = metrics::stats_json(&facts, snapshots);
                let is_json = self.connections[index as usize].as_deref().is_some_and(|found| found.wire == Wire::Json);
                let structure = if is_json { proto::json::structure_of(json.as_bytes()) } else { None };
                structure.unwrap_or_else(|| Reply::owned(json))
            }
            Page::MemoryStats => metrics::memory_stats(&facts, snapshots),
            Page::MemoryDoctor => Reply::Verbatim(metrics::memory_doctor(&facts, snapshots).into()),
            Page::Histogram(wanted) => metrics::latency_histogram(snapshots, |op| wanted.has(op)),
            Page::Metrics(names) => Reply::owned(metrics::prometheus(&facts, snapshots, names)),
        }
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

fn is_rewrite(entry: &GatherEntry) -> bool {
    entry.spec.op == Op::BgRewriteAof
}

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

fn reply_too_large() -> Reply<'static> {
    Reply::error(gather::REPLY_TOO_LARGE)
}

/// `[value, expiry or -1]`
fn moved_parts(moved: Moved) -> Vec<Reply<'static>> {
    vec![Reply::Large(moved.value), Reply::Int(moved.expires_at_ms.map_or(-1, |at| at as i64))]
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
