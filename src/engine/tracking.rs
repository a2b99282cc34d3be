//! Client-side caching: CLIENT TRACKING and what follows from it.
//!
//! ```text
//!   client's core                                   key's core
//!   GET key ─ Track(key, session), GET key ───────▶ table: key ─▶ session      (before the read is carried out)
//!   reply ◀─────────────────────────────────────────┘
//!   invalidate ◀─ Invalidate(key, session) ──────── a write, expiry, eviction
//!      └─ behind every reply the client still awaits, or to the client that it redirects to
//! ```
//!
//! A client that tracks has a session, whose number names its core as well. Only connections that track are looked at
//! when they read, and only while somebody tracks are writes looked up.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::batch::{Job, Token};
use super::gather::Kind;
use super::{Engine, GatherEntry, Outcome};
use crate::command::{Flags, Op, Route, Spec, spec_of};
use crate::connection::{Closing, Modes};
use crate::engine::holding::number;
use crate::number::parse_i64;
use crate::proto;
use crate::reply::{Out, Reply, ReplyError};
use crate::request::{ArgRange, Args, Wire, joined};

/// What CLIENT CACHING has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Caching {
    #[default]
    Unsaid,
    /// Of the next command.
    OfNext,
    /// Of the command, or the transaction, at hand.
    OfThis,
}

/// A client of this core that tracks.
pub(super) struct Tracker {
    pub session: u64,
    mode: Mode,
    caching: Caching,
}

impl Tracker {
    /// What its prefixes take on one core.
    pub fn prefix_bytes(&self) -> usize {
        prefix_bytes(&self.mode.prefixes)
    }
}

fn prefix_bytes(prefixes: &[Bytes]) -> usize {
    prefixes.iter().map(|prefix| prefix.len() + 96).sum()
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mode {
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
    /// The client that is told instead, 0 for none.
    redirect: u64,
    prefixes: Vec<Bytes>,
    /// The one that was to be told is gone.
    is_broken: bool,
}

const CHANNEL: &[u8] = b"__redis__:invalidate";

impl Engine {
    // ---- the client's side ----------------------------------------------------------------------

    /// CLIENT TRACKING
    pub(super) fn client_tracking(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> Outcome {
        let (mode, is_on) = match self.parse_tracking(index, args) {
            Ok(parsed) => parsed,
            Err(error) => return self.answer(index, spec, &error),
        };
        if !is_on {
            self.end_tracking(index);
            return self.write_reply(index, &Reply::Ok);
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return Outcome::Answered };
        if connection.wire == Wire::Binary {
            let error = Reply::error("ERR invalidations cannot be written in binary frames: track with RESP");
            return self.answer(index, spec, &error);
        }
        connection.modes.set(Modes::TRACKING, true);
        connection.record.tracking = Some((mode.redirect, mode.broadcast, false));
        let (redirect, prefixes) = (mode.redirect, full_prefixes(connection.key_prefix(), &mode.prefixes));
        let session = self.begin_session(index, mode);
        if redirect == 0 && prefixes.is_empty() {
            return self.write_reply(index, &Reply::Ok);
        }
        self.gather(index, spec, Kind::Tracking { is_target_there: true }, |this, gather| {
            let mut asked = 0;
            if redirect > 0 {
                let core = this.core_of(redirect);
                this.ask_words(gather, core, Job::Target, &[&redirect.to_le_bytes()]);
                asked += 1;
            }
            if !prefixes.is_empty() {
                let session = session.to_le_bytes();
                let mut words: Vec<&[u8]> = vec![&session];
                words.extend(prefixes.iter().map(Vec::as_slice));
                for core in 0..this.config.cores {
                    this.ask_words(gather, core, Job::Listen, &words);
                    asked += 1;
                }
            }
            asked
        })
    }

    /// All cores know; whether the client to redirect to is there.
    pub(super) fn tracking_agreed(&mut self, entry: &GatherEntry, is_target_there: bool) -> Reply<'static> {
        if is_target_there {
            return Reply::Ok;
        }
        let connection = self.connections[entry.connection as usize].as_deref();
        if connection.is_some_and(|connection| connection.generation == entry.generation) {
            // Nobody has been counted for it there.
            if let Some(tracker) = self.trackers.get_mut(&entry.connection) {
                tracker.mode.redirect = 0;
            }
            self.end_tracking(entry.connection);
        }
        Reply::error("ERR The client ID you want redirect to does not exist")
    }

    /// A session with this mode; one that there is goes on.
    fn begin_session(&mut self, index: u32, mode: Mode) -> u64 {
        self.no_loops += mode.no_loop as usize;
        if let Some(tracker) = self.trackers.get_mut(&index) {
            let before = std::mem::replace(&mut tracker.mode, mode);
            let session = tracker.session;
            self.no_loops -= before.no_loop as usize;
            self.let_target_go(before.redirect);
            return session;
        }
        let session = self.next_session;
        self.next_session += u64::from(self.config.cores);
        self.trackers.insert(index, Tracker { session, mode, caching: Caching::Unsaid });
        self.sessions.insert(session, index);
        self.listeners.trackers = self.trackers.len();
        self.note_watchfulness();
        session
    }

    /// The client has come to another namespace: from now on its prefixes are about the keys there.
    pub(super) fn listen_there_instead(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref() else { return };
        let Some(tracker) = self.trackers.get_mut(&index) else { return };
        if tracker.mode.prefixes.is_empty() {
            return;
        }
        let prefixes = full_prefixes(connection.key_prefix(), &tracker.mode.prefixes);
        let before = std::mem::replace(&mut tracker.session, self.next_session);
        let session = tracker.session.to_le_bytes();
        self.sessions.remove(&before);
        self.sessions.insert(self.next_session, index);
        self.next_session += u64::from(self.config.cores);
        let mut words: Vec<&[u8]> = vec![&session];
        words.extend(prefixes.iter().map(Vec::as_slice));
        for core in 0..self.config.cores {
            self.tell_words(core, Job::Untrack, &[&before.to_le_bytes()]);
            self.tell_words(core, Job::Listen, &words);
        }
    }

    /// A client with prefixes that has chosen a namespace is told to forget what it has heard of keys elsewhere.
    pub(super) fn forget_keys_of(&mut self, index: u32) {
        let listener = self.trackers.get(&index).filter(|tracker| !tracker.mode.prefixes.is_empty());
        if let Some(session) = listener.map(|tracker| tracker.session) {
            self.invalidate(session, None);
        }
    }

    /// The client tracks no more: it says so, begins anew, or is gone.
    pub(super) fn end_tracking(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            connection.modes.set(Modes::TRACKING, false);
            connection.record.tracking = None;
        }
        let Some(tracker) = self.trackers.remove(&index) else { return };
        self.sessions.remove(&tracker.session);
        self.no_loops -= tracker.mode.no_loop as usize;
        self.listeners.trackers = self.trackers.len();
        self.let_target_go(tracker.mode.redirect);
        for core in 0..self.config.cores {
            self.tell_words(core, Job::Untrack, &[&tracker.session.to_le_bytes()]);
        }
        self.note_watchfulness();
    }

    fn let_target_go(&mut self, id: u64) {
        if id > 0 {
            self.tell_words(self.core_of(id), Job::Untarget, &[&id.to_le_bytes()]);
        }
    }

    /// CLIENT CACHING, GETREDIR, TRACKINGINFO
    pub(super) fn about_tracking(&mut self, index: u32, op: Op, args: Args<'_>) -> Reply<'static> {
        let tracker = self.trackers.get_mut(&index);
        match op {
            Op::ClientGetRedir => Reply::Int(tracker.map_or(-1, |tracker| tracker.mode.redirect as i64)),
            Op::ClientTrackingInfo => tracking_info(tracker.as_deref()),
            _ => {
                let Some(tracker) = tracker else {
                    return Reply::error(
                        "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT \
                         mode enabled",
                    );
                };
                match args.get(0).to_ascii_lowercase().as_slice() {
                    b"yes" if !tracker.mode.opt_in => {
                        Reply::error("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
                    }
                    b"no" if !tracker.mode.opt_out => {
                        Reply::error("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
                    }
                    b"yes" | b"no" => {
                        tracker.caching = Caching::OfNext;
                        Reply::Ok
                    }
                    _ => ReplyError::Syntax.into(),
                }
            }
        }
    }

    // ---- reading and writing --------------------------------------------------------------------

    /// A command of a connection that tracks is about to be carried out.
    #[cold]
    pub(super) fn track_command(&mut self, index: u32, owner: u32, spec: &'static Spec, args: Args<'_>) {
        let Some(tracker) = self.trackers.get_mut(&index) else { return };
        // What was said holds for one command, or for one transaction; CLIENT itself does not use it up.
        if !spec.name.starts_with("client") && spec.op != Op::Exec {
            tracker.caching = match tracker.caching {
                Caching::OfNext => Caching::OfThis,
                _ => Caching::Unsaid,
            };
        }
        self.track_reads(index, spec, args);
        if spec.route == Route::Key && owner != self.config.core {
            self.sign(index, owner, spec);
        }
    }

    /// Enters what the command reads into the tables of the cores that own its keys.
    pub(super) fn track_reads(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) {
        let Some(tracker) = self.trackers.get(&index) else { return };
        let is_said = tracker.caching == Caching::OfThis;
        let is_tracked = match &tracker.mode {
            mode if mode.broadcast => false,
            mode if mode.opt_in => is_said,
            mode if mode.opt_out => !is_said,
            _ => true,
        };
        if !is_tracked || !spec.flags.has(Flags::READONLY) || spec.keys.first == 0 {
            return;
        }
        let session = tracker.session.to_le_bytes();
        let mut shares: BTreeMap<u32, Vec<&[u8]>> = BTreeMap::new();
        for arg in spec.key_args(args.len()) {
            let key = args.get(arg);
            shares.entry(self.owner_of(key)).or_insert_with(|| vec![&session]).push(key);
        }
        for (core, words) in shares {
            self.tell_words(core, Job::Track, &words);
        }
    }

    /// Lets another core know whose write comes next, if the client does not want to be told of its own.
    pub(super) fn sign(&mut self, index: u32, core: u32, spec: &Spec) {
        if self.no_loops > 0
            && core != self.config.core
            && spec.flags.has(Flags::WRITE)
            && let Some(session) = self.silent_session(index)
        {
            self.tell_words(core, Job::As, &[&session.to_le_bytes()]);
        }
    }

    /// The session of a client that is not told of its own writes.
    fn silent_session(&self, index: u32) -> Option<u64> {
        let tracker = self.trackers.get(&index)?;
        tracker.mode.no_loop.then_some(tracker.session)
    }

    /// A command of a client of this core is carried out here.
    pub(super) fn begin_effects_of(&mut self, index: u32, spec: &Spec, args: Args<'_>) {
        let writer = if self.no_loops > 0 { self.silent_session(index).unwrap_or(0) } else { 0 };
        self.listeners.begin(spec, &args, writer);
    }

    // ---- a core's own share ---------------------------------------------------------------------

    /// `session key…`: they are read by it.
    pub(super) fn track_share(&mut self, args: Args<'_>) {
        let session = number(args.get(0));
        for key in args.from(1).iter() {
            // Whoever holds the key writes it before it is read: entered again when it is let go.
            if self.holds.block(std::iter::once(key)) {
                self.late_reads.push((Bytes::copy_from_slice(key), session));
            }
            let given_up = self.listeners.tracking.read(key, session);
            self.listeners.invalid.extend(given_up);
        }
        self.note_watchfulness();
        self.spread_news();
    }

    /// Keys have been let go: those who were waiting to read them are about to.
    pub(super) fn enter_late_reads(&mut self) {
        let late = std::mem::take(&mut self.late_reads);
        for (key, session) in &late {
            let given_up = self.listeners.tracking.read(key, *session);
            self.listeners.invalid.extend(given_up);
        }
        self.late_reads = late;
        let holds = &self.holds;
        self.late_reads.retain(|(key, _)| holds.block(std::iter::once(&key[..])));
        self.note_watchfulness();
    }

    /// `session prefix…`: it wants to hear of all such keys.
    pub(super) fn listen_share(&mut self, args: Args<'_>) -> Reply<'static> {
        let session = number(args.get(0));
        args.from(1).iter().for_each(|prefix| self.listeners.tracking.listen(prefix, session));
        self.note_watchfulness();
        Reply::Ok
    }

    /// `session`: it has ended.
    pub(super) fn untrack_share(&mut self, args: Args<'_>) {
        let session = number(args.get(0));
        self.late_reads.retain(|(_, reader)| *reader != session);
        self.listeners.tracking.end(session);
        self.note_watchfulness();
    }

    /// `id`: another client's invalidations will go to this one. Whether it is there.
    pub(super) fn target_share(&mut self, args: Args<'_>) -> Reply<'static> {
        let id = number(args.get(0));
        let has_id = |found: &Option<Box<crate::connection::Connection>>| {
            found.as_deref().is_some_and(|connection| connection.record.id == id && connection.closing == Closing::No)
        };
        let Some(index) = self.connections.iter().position(has_id) else { return Reply::Int(0) };
        let target = self.targets.entry(id).or_insert((index as u32, 0));
        target.1 += 1;
        Reply::Int(1)
    }

    pub(super) fn untarget_share(&mut self, args: Args<'_>) {
        let id = number(args.get(0));
        if let Some((_, count)) = self.targets.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.targets.remove(&id);
            }
        }
    }

    // ---- telling --------------------------------------------------------------------------------

    /// `key` is not what these sessions have read.
    pub(super) fn tell_sessions(&mut self, key: &[u8], sessions: &[u64]) {
        let mut by_core: BTreeMap<u32, Vec<[u8; 8]>> = BTreeMap::new();
        for session in sessions {
            by_core.entry(self.core_of(*session)).or_default().push(session.to_le_bytes());
        }
        for (core, sessions) in by_core {
            // One word for all of them then: nothing is what it was.
            if self.outboxes[core as usize].is_too_full_for_news() {
                self.all_invalid_at.insert(core);
                continue;
            }
            let mut words: Vec<&[u8]> = vec![key];
            words.extend(sessions.iter().map(|session| &session[..]));
            self.tell_words(core, Job::Invalidate, &words);
        }
    }

    /// Lets other cores know that were told of no keys while the way there was full.
    pub(super) fn tell_of_all(&mut self) {
        for core in std::mem::take(&mut self.all_invalid_at) {
            match self.outboxes[core as usize].is_too_full_for_news() {
                true => drop(self.all_invalid_at.insert(core)),
                false => self.tell_words(core, Job::Invalidate, &[]),
            }
        }
    }

    /// `key session…`; nothing if all keys of all sessions may have changed.
    pub(super) fn invalidate_share(&mut self, args: Args<'_>) {
        if args.is_empty() {
            self.listeners.all_invalid = !self.trackers.is_empty();
            return self.spread_news();
        }
        for session in args.from(1).iter() {
            self.invalidate(number(session), Some(args.get(0)));
        }
    }

    /// Tells a session of this core that a key, or every key, is not what it was. The key is called what its client calls
    /// it in the namespace that it is in.
    pub(super) fn invalidate(&mut self, session: u64, key: Option<&[u8]>) {
        let Some(&index) = self.sessions.get(&session) else { return };
        let Some(tracker) = self.trackers.get(&index) else { return };
        let Some(connection) = self.connections[index as usize].as_deref() else { return };
        self.counters.invalidations += 1;
        let named = key.map(|key| Bytes::copy_from_slice(key.strip_prefix(connection.key_prefix()).unwrap_or(key)));
        let key = named.as_deref();
        let redirect = tracker.mode.redirect;
        if redirect == 0 {
            return self.push_invalidation(index, key, false);
        }
        let (id, session) = (redirect.to_le_bytes(), session.to_le_bytes());
        let mut words: Vec<&[u8]> = vec![&id, &session];
        words.extend(key);
        self.tell_words(self.core_of(redirect), Job::Redirected, &words);
    }

    /// `id session [key]`: for a client of this core, instead of the one that tracks.
    pub(super) fn redirected_share(&mut self, args: Args<'_>) {
        let (id, session) = (number(args.get(0)), number(args.get(1)));
        let key = (args.len() > 2).then(|| args.get(2));
        let index = self.targets.get(&id).map(|target| target.0);
        let is_there = |index: &u32| {
            let connection = self.connections[*index as usize].as_deref();
            connection.is_some_and(|connection| connection.record.id == id)
        };
        match index.filter(is_there) {
            Some(index) => self.push_invalidation(index, key, true),
            None => self.tell_words(self.core_of(session), Job::Broken, &[&session.to_le_bytes()]),
        }
    }

    /// `session`: whom it redirects to is gone.
    pub(super) fn broken_share(&mut self, args: Args<'_>) {
        let Some(&index) = self.sessions.get(&number(args.get(0))) else { return };
        let Some(tracker) = self.trackers.get_mut(&index) else { return };
        tracker.mode.is_broken = true;
        let redirect = tracker.mode.redirect;
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        connection.record.tracking = Some((redirect, tracker.mode.broadcast, true));
        if connection.wire == Wire::Resp3 {
            let push = Reply::Push(vec![Reply::Bulk(b"tracking-redir-broken"), Reply::Int(redirect as i64)]);
            self.push_reply(index, &push);
        }
    }

    fn push_invalidation(&mut self, index: u32, key: Option<&[u8]>, is_redirected: bool) {
        let Some(connection) = self.connections[index as usize].as_deref() else { return };
        let keys = key.map_or(Reply::Nil, |key| Reply::Array(vec![Reply::Bulk(key)]));
        let message = match connection.wire {
            Wire::Resp3 => Reply::Push(vec![Reply::Bulk(b"invalidate"), keys]),
            // In RESP2 it is a message, for those who listen to messages.
            _ if is_redirected && connection.modes.has(Modes::SUBSCRIBED) => {
                Reply::Array(vec![Reply::Bulk(b"message"), Reply::Bulk(CHANNEL), keys])
            }
            _ => return,
        };
        self.push_reply(index, &message);
    }

    /// Behind everything that the client has been asked before and still awaits.
    fn push_reply(&mut self, index: u32, message: &Reply<'_>) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.closing != Closing::No {
            return;
        }
        let mut written = Out::default();
        proto::encode(connection.wire, message, &mut written);
        connection.push_message(&written, &mut self.outs);
        self.mark_dirty(index);
        self.bound_output(index);
    }

    /// Publishes what has happened to a key, to the listeners of all cores.
    pub(super) fn publish_event(&mut self, channel: &[u8], payload: &[u8]) {
        let bytes = [channel, payload].concat();
        let ranges = [ArgRange::inline(0, channel.len()), ArgRange::inline(channel.len(), payload.len())];
        let args = Args::new(&bytes, &ranges, &[]);
        self.deliver_message(crate::pubsub::Kind::Channel, args);
        let hash = self.config.hasher.hash(channel);
        for core in (0..self.config.cores).filter(|&core| core != self.config.core) {
            if self.config.interest.may_have_listeners(core, crate::pubsub::Kind::Channel, hash) {
                let outbox = &mut self.outboxes[core as usize];
                if outbox.is_too_full_for_news() {
                    self.counters.keyspace_events_lost += 1;
                    continue;
                }
                outbox.open().push(Token::Nobody, Job::Command, Wire::Resp3, spec_of(Op::Publish), 0, args);
                self.counters.commands_forwarded_out += 1;
            }
        }
    }

    // ---- words ----------------------------------------------------------------------------------

    /// The core of a client's id, or of a session.
    fn core_of(&self, id: u64) -> u32 {
        (id.wrapping_sub(1) % u64::from(self.config.cores)) as u32
    }

    /// Something that is not answered.
    fn tell_words(&mut self, core: u32, job: Job, words: &[&[u8]]) {
        let (bytes, ranges) = joined(words);
        let args = Args::new(&bytes, &ranges, &[]);
        let spec = spec_of(Op::ClientTracking);
        if core == self.config.core {
            self.share(job, spec, args);
        } else {
            self.outboxes[core as usize].open().push(Token::Nobody, job, Wire::Resp3, spec, 0, args);
            self.counters.commands_forwarded_out += 1;
        }
    }

    fn ask_words(&mut self, gather: u32, core: u32, job: Job, words: &[&[u8]]) {
        let (bytes, ranges) = joined(words);
        self.ask_args(gather, core, core, job, spec_of(Op::ClientTracking), Args::new(&bytes, &ranges, &[]));
    }

    /// `ON|OFF [REDIRECT id] [PREFIX prefix …] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]`
    fn parse_tracking(&self, index: u32, args: Args<'_>) -> Result<(Mode, bool), Reply<'static>> {
        let error = |text: &str| Err(Reply::error(format!("ERR {text}")));
        let mut mode = Mode::default();
        let mut at = 1;
        while at < args.len() {
            let has_more = at + 1 < args.len();
            match args.get(at).to_ascii_lowercase().as_slice() {
                b"redirect" if has_more => {
                    if mode.redirect != 0 {
                        return error("A client can only redirect to a single other client");
                    }
                    at += 1;
                    let Some(id) = parse_i64(args.get(at)) else { return Err(ReplyError::NotAnInteger.into()) };
                    mode.redirect = u64::try_from(id).unwrap_or(0);
                    if mode.redirect == 0 {
                        return error("The client ID you want redirect to does not exist");
                    }
                }
                b"prefix" if has_more => {
                    at += 1;
                    mode.prefixes.push(args.to_bytes(at));
                }
                b"bcast" => mode.broadcast = true,
                b"optin" => mode.opt_in = true,
                b"optout" => mode.opt_out = true,
                b"noloop" => mode.no_loop = true,
                _ => return Err(ReplyError::Syntax.into()),
            }
            at += 1;
        }
        match args.get(0).to_ascii_lowercase().as_slice() {
            b"on" => {}
            b"off" => return Ok((mode, false)),
            _ => return Err(ReplyError::Syntax.into()),
        }
        if !mode.broadcast && !mode.prefixes.is_empty() {
            return error("PREFIX option requires BCAST mode to be enabled");
        }
        let before = self.trackers.get(&index).map(|tracker| &tracker.mode);
        if before.is_some_and(|before| before.broadcast != mode.broadcast) {
            return error(
                "You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it \
                 with a different mode.",
            );
        }
        if mode.broadcast && (mode.opt_in || mode.opt_out) {
            return error("OPTIN and OPTOUT are not compatible with BCAST");
        }
        if mode.opt_in && mode.opt_out {
            return error("You can't specify both OPTIN mode and OPTOUT mode");
        }
        if before.is_some_and(|before| mode.opt_in && before.opt_out || mode.opt_out && before.opt_in) {
            return error(
                "You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it \
                 with a different mode.",
            );
        }
        if mode.broadcast {
            let known = before.map_or(&[][..], |before| &before.prefixes);
            check_prefixes(known, &mode.prefixes)?;
            mode.prefixes.extend_from_slice(known);
            if mode.prefixes.is_empty() {
                mode.prefixes.push(Bytes::new());
            }
            if prefix_bytes(&mode.prefixes) > crate::limits::TRACKED_PREFIX_BYTES_MAX {
                return error("too many prefixes of this client");
            }
        }
        Ok((mode, true))
    }
}

/// No two prefixes of a client may describe the same key.
fn check_prefixes(known: &[Bytes], new: &[Bytes]) -> Result<(), Reply<'static>> {
    let overlap = |a: &Bytes, b: &Bytes| a.starts_with(b) || b.starts_with(a);
    let shown = |prefix: &Bytes| super::clients::printable(prefix);
    for (place, prefix) in new.iter().enumerate() {
        if let Some(other) = known.iter().find(|other| overlap(prefix, other)) {
            return Err(Reply::error(format!(
                "ERR Prefix '{}' overlaps with an existing prefix '{}'. Prefixes for a single client must not overlap.",
                shown(prefix),
                shown(other)
            )));
        }
        if let Some(other) = new[place + 1..].iter().find(|other| overlap(prefix, other)) {
            return Err(Reply::error(format!(
                "ERR Prefix '{}' overlaps with another provided prefix '{}'. Prefixes for a single client must not overlap.",
                shown(prefix),
                shown(other)
            )));
        }
    }
    Ok(())
}

/// What keys begin with that a client means whose keys have this prefix.
fn full_prefixes(key_prefix: &[u8], prefixes: &[Bytes]) -> Vec<Vec<u8>> {
    prefixes.iter().map(|prefix| [key_prefix, prefix].concat()).collect()
}

/// CLIENT TRACKINGINFO
fn tracking_info(tracker: Option<&Tracker>) -> Reply<'static> {
    let mut flags: Vec<&'static str> = Vec::new();
    match tracker {
        None => flags.push("off"),
        Some(Tracker { mode, caching, .. }) => {
            let is_said = *caching != Caching::Unsaid;
            let all = [
                (true, "on"),
                (mode.broadcast, "bcast"),
                (mode.opt_in, "optin"),
                (mode.opt_in && is_said, "caching-yes"),
                (mode.opt_out, "optout"),
                (mode.opt_out && is_said, "caching-no"),
                (mode.no_loop, "noloop"),
                (mode.is_broken, "broken_redirect"),
            ];
            flags.extend(all.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| *flag));
        }
    }
    let redirect = tracker.map_or(-1, |tracker| tracker.mode.redirect as i64);
    let prefixes = tracker.into_iter().flat_map(|tracker| &tracker.mode.prefixes);
    Reply::Map(vec![
        (Reply::text("flags"), Reply::Set(flags.into_iter().map(Reply::text).collect())),
        (Reply::text("redirect"), Reply::Int(redirect)),
        (Reply::text("prefixes"), Reply::Array(prefixes.map(|prefix| Reply::owned(&prefix[..])).collect())),
    ])
}
