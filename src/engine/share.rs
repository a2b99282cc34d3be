//! What a core does for its part of a command that it or another core has received.

use super::batch::Job;
use super::collecting::reply_too_large;
use super::fanout::SCAN_STEP_KEYS;
use super::{Engine, clients, holding};
use crate::command::{Op, Route, Spec};
use crate::connection::Closing;
use crate::namespace::View;
use crate::number::parse_i64;
use crate::pubsub;
use crate::reply::Reply;
use crate::request::{Args, Call};
use crate::slot;
use crate::store::Moved;

/// Buckets that one step of a scan may visit, so that no step takes long on any shard.
const SCAN_STEP_BUCKETS: usize = 256;

impl Engine {
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
                    if reply.kept_bytes() > self.config.output_hard_bytes { reply_too_large() } else { reply }
                }
            },
            Job::Scan => self.scan_share(args),
            Job::CountSlot => {
                let slot = parse_i64(args.get(0)).unwrap_or(0) as u16;
                Reply::Int(self.shard.keys_in_slot(slot) as i64)
            }
            Job::Sweep | Job::SweepHeld => {
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
}

/// `[value, expiry or -1]`
fn moved_parts(moved: Moved) -> Vec<Reply<'static>> {
    vec![Reply::Large(moved.value), Reply::Int(moved.expires_at_ms.map_or(-1, |at| at as i64))]
}
