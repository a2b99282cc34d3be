//! How long single commands take, as far as somebody wants to know: SLOWLOG and LATENCY.
//!
//! A command is measured from the moment it is taken up to the moment its reply stands ready, the way to other cores
//! and back included. A clock per command would cost more than many a command. So while only what takes a millisecond
//! or more is to be remembered, fast commands of short arguments are not measured one by one; the times of whole turns,
//! which everybody's latency is made of, tell LATENCY about them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::Engine;
use super::clients::printable;
use super::gather::{Kind, Page};
use super::merge::{LatencyPage, Merge};
use super::notices::Notice;
use crate::auth::OpSet;
use crate::command::{Flags, Op, Route, Spec, TABLE};
use crate::metrics::LatencyEvents;
use crate::metrics::slow_log::{Entry, SlowLog, noted_words};
use crate::number::parse_i64;
use crate::reply::Reply;
use crate::request::{Args, Call};

/// More arguments than this may take long whatever the command.
const FEW_ARGS_MAX: usize = 64;

/// A command as it will be shown.
type Words = Vec<Vec<u8>>;

/// What one core knows of slow commands.
#[derive(Default)]
pub(super) struct Slow {
    pub log: SlowLog,
    pub events: LatencyEvents,
    /// A command about one key that is being carried out.
    running: Option<(u32, Timing, Words)>,
    /// Commands whose replies come from elsewhere: by connection, generation, sequence.
    awaited: BTreeMap<(u32, u32, u32), (u64, Words)>,
}

/// A command from when it was taken up.
#[derive(Clone, Copy)]
pub(super) struct Timing {
    began_us: u64,
    generation: u32,
    /// What its reply will be known by if it is awaited.
    sequence: u32,
    /// Commands counted, this one included: fewer later on means that it was put off.
    processed: u64,
}

impl Slow {
    /// Whether a command that is not about one key is measured.
    #[inline]
    pub fn measures(&self, spec: &Spec, args: usize) -> bool {
        self.log.is_on() && (self.log.is_fine() || !spec.flags.has(Flags::FAST) || args > FEW_ARGS_MAX)
    }
}

impl Engine {
    /// Follows the settings.
    pub(super) fn follow_slow(&mut self) {
        let live = self.gatekeeper.live();
        let (slower_than_us, len_max) = (live.slowlog_slower_than_us, live.slowlog_len_max);
        let threshold_ms = live.latency_threshold_ms;
        self.slow.log.configure(slower_than_us, len_max);
        self.slow.events.set_threshold_ms(threshold_ms);
    }

    // ---- measuring ------------------------------------------------------------------------------

    pub(super) fn begin_timing(&self, index: u32) -> Timing {
        let (generation, sequence) = self.connections[index as usize]
            .as_deref()
            .map_or((0, 0), |connection| (connection.generation, connection.next_sequence()));
        let processed = self.counters.commands_processed;
        Timing { began_us: (self.config.stopwatch)(), generation, sequence, processed }
    }

    /// The command has been answered, or will be.
    #[cold]
    pub(super) fn end_timing(&mut self, index: u32, spec: &Spec, args: Args<'_>, timing: Timing) {
        if self.counters.commands_processed < timing.processed {
            return;
        }
        let took_us = (self.config.stopwatch)().saturating_sub(timing.began_us);
        if self.is_awaited(index, timing) {
            let words = noted_words(spec, &args);
            self.slow.awaited.insert((index, timing.generation, timing.sequence), (timing.began_us, words));
        } else if self.slow.log.takes(took_us) {
            self.log_slow(index, took_us, noted_words(spec, &args));
        }
    }

    fn is_awaited(&self, index: u32, timing: Timing) -> bool {
        self.connections[index as usize]
            .as_deref()
            .is_some_and(|connection| connection.generation == timing.generation && connection.awaits(timing.sequence))
    }

    /// A command about one key is taken up. It ends when the next one is, or with the turn.
    #[cold]
    pub(super) fn begin_running(&mut self, index: u32, call: &Call<'_>) {
        self.end_running();
        let is_measured = self.slow.log.is_fine() || call.args.may_be_large() && self.slow.log.is_on();
        if call.spec.route == Route::Key && is_measured {
            let timing = self.begin_timing(index);
            self.slow.running = Some((index, timing, noted_words(call.spec, &call.args)));
        }
    }

    #[inline]
    pub(super) fn end_running(&mut self) {
        if self.slow.running.is_some() {
            self.end_running_command();
        }
    }

    #[cold]
    fn end_running_command(&mut self) {
        let Some((index, timing, words)) = self.slow.running.take() else { return };
        let took_us = (self.config.stopwatch)().saturating_sub(timing.began_us);
        if self.is_awaited(index, timing) {
            self.slow.awaited.insert((index, timing.generation, timing.sequence), (timing.began_us, words));
        } else if self.slow.log.takes(took_us) {
            self.log_slow(index, took_us, words);
        }
    }

    /// Whether the reply of any measured command is awaited.
    #[inline]
    pub(super) fn awaits_measured(&self) -> bool {
        !self.slow.awaited.is_empty()
    }

    /// An awaited reply has come.
    #[cold]
    pub(super) fn end_awaited(&mut self, index: u32, generation: u32, sequence: u32) {
        let Some((began_us, words)) = self.slow.awaited.remove(&(index, generation, sequence)) else { return };
        let took_us = (self.config.stopwatch)().saturating_sub(began_us);
        if self.slow.log.takes(took_us) {
            self.log_slow(index, took_us, words);
        }
    }

    /// The connection is gone, and with it what it waited for.
    #[cold]
    pub(super) fn forget_awaited(&mut self, index: u32) {
        self.slow.awaited.retain(|&(connection, ..), _| connection != index);
    }

    fn log_slow(&mut self, index: u32, took_us: u64, words: Words) {
        let (address, name) = match self.connections[index as usize].as_deref() {
            Some(connection) => (connection.record.address.to_string(), connection.record.name.clone()),
            None => (String::new(), String::new()),
        };
        self.notices_of_slow(&address, took_us, &words);
        let id = self.config.commons.slow_entries.fetch_add(1, Ordering::Relaxed);
        let unix_seconds = self.now.unix_ms / 1000;
        self.counters.slow_commands += 1;
        self.slow.log.push(Entry { id, unix_seconds, took_us, words, address, name });
    }

    /// For the log: the command and its first argument, which is its key if it has one.
    fn notices_of_slow(&mut self, address: &str, took_us: u64, words: &Words) {
        self.note(|| Notice::Slow {
            client: address.to_owned(),
            command: words.iter().take(2).map(|word| printable(word)).collect::<Vec<_>>().join(" "),
            took_us,
        });
    }

    /// The commands answered in this turn, or since they left for another core, took so long.
    #[inline]
    pub(super) fn note_events(&mut self, elapsed_ns: u64) {
        if self.slow.events.takes_ns(elapsed_ns) {
            let unix_seconds = self.now.unix_ms / 1000;
            for spec in TABLE.iter().filter(|spec| self.latency.touched().contains(&spec.op)) {
                self.slow.events.record(event_of(spec), unix_seconds, elapsed_ns);
            }
        }
    }

    pub(super) fn note_event_of(&mut self, spec: &Spec, elapsed_ns: u64) {
        if self.slow.events.takes_ns(elapsed_ns) {
            self.slow.events.record(event_of(spec), self.now.unix_ms / 1000, elapsed_ns);
        }
    }

    /// What expires by itself has been looked at since `began_us`.
    pub(super) fn note_house_keeping(&mut self, began_us: u64) {
        let elapsed_ns = (self.config.stopwatch)().saturating_sub(began_us) * 1000;
        if self.slow.events.takes_ns(elapsed_ns) {
            self.slow.events.record("expire-cycle", self.now.unix_ms / 1000, elapsed_ns);
        }
    }

    // ---- telling --------------------------------------------------------------------------------

    /// How SLOWLOG and LATENCY are answered out of what all cores say.
    pub(super) fn slow_kind(&self, spec: &'static Spec, args: Args<'_>) -> Result<Kind, Reply<'static>> {
        let latency = |of| Merge::Latency {
            of,
            threshold_ms: self.gatekeeper.live().latency_threshold_ms,
            unix_seconds: self.now.unix_ms / 1000,
        };
        let merge = match spec.op {
            Op::SlowLogGet => Merge::SlowEntries { count: parse_count(args)?.min(self.slow.log.len_max()) },
            Op::SlowLogLen => Merge::SlowCount { len_max: self.slow.log.len_max() },
            Op::SlowLogReset => return Ok(Kind::AllOk),
            Op::LatencyReset => Merge::LatencyReset,
            Op::LatencyLatest => latency(LatencyPage::Latest),
            Op::LatencyHistory => latency(LatencyPage::History(args.get(0).to_vec())),
            Op::LatencyGraph => latency(LatencyPage::Graph(args.get(0).to_vec())),
            Op::LatencyHistogram => {
                return Ok(Kind::Snapshots { parts: Vec::new(), page: Page::Histogram(named_operations(args)) });
            }
            _ => latency(LatencyPage::Doctor),
        };
        Ok(Kind::Parts { parts: Vec::new(), merge })
    }

    /// This core's part of SLOWLOG and LATENCY.
    pub(super) fn slow_share(&mut self, op: Op, args: Args<'_>) -> Reply<'static> {
        self.end_running();
        match op {
            Op::SlowLogGet => Reply::Array(self.slow.log.entries().map(shown_entry).collect()),
            Op::SlowLogLen => Reply::Int(self.slow.log.entries().len() as i64),
            Op::SlowLogReset => {
                self.slow.log.reset();
                Reply::Ok
            }
            Op::LatencyReset => self.slow.events.reset(args.iter()),
            _ => self.slow.events.dump(),
        }
    }
}

fn event_of(spec: &Spec) -> &'static str {
    if spec.flags.has(Flags::FAST) { "fast-command" } else { "command" }
}

/// SLOWLOG GET [count]
fn parse_count(args: Args<'_>) -> Result<usize, Reply<'static>> {
    match args.len() {
        0 => Ok(10),
        1 => match parse_i64(args.get(0)) {
            Some(-1) => Ok(usize::MAX),
            Some(count) if count >= 0 => Ok(count as usize),
            _ => Err(Reply::error("ERR count should be greater than or equal to -1")),
        },
        _ => Err(Reply::error("ERR unknown subcommand or wrong number of arguments for 'GET'. Try SLOWLOG HELP.")),
    }
}

/// The operations of these names, those of containers with all of their subcommands; none named is all of them.
fn named_operations(names: Args<'_>) -> OpSet {
    let is_named = |spec: &Spec| {
        let container = spec.name.split('|').next().unwrap_or_default();
        names.iter().any(|name| {
            name.eq_ignore_ascii_case(spec.name.as_bytes()) || name.eq_ignore_ascii_case(container.as_bytes())
        })
    };
    OpSet::of(|spec| names.is_empty() || is_named(spec))
}

fn shown_entry(entry: &Entry) -> Reply<'static> {
    let words = entry.words.iter().map(|word| Reply::Owned(word.clone())).collect();
    Reply::Array(vec![
        Reply::Int(entry.id as i64),
        Reply::Int(entry.unix_seconds as i64),
        Reply::Int(entry.took_us as i64),
        Reply::Array(words),
        Reply::text(entry.address.clone()),
        Reply::text(entry.name.clone()),
    ])
}
