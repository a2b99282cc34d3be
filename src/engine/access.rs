//! Who a connection is, and what that allows: AUTH, and the check of every command of a connection that may not do all.
//!
//! Connections that may do everything, and as often as they like, are not checked at all: without tokens, and with a token
//! that has every scope, every key and no rate, where nothing else limits rates. The others carry the mode `RESTRICTED`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Engine;
use super::access_log::Reason;
use super::clients::{Address, DEFAULT_USER, printable};
use super::notices::Notice;
use super::rates::own_rates;
use super::settings::Live;
use crate::auth::{DEFAULT_NAME, OpSet, Scopes, Token};
use crate::command::{Flags, Op, Spec, TABLE};
use crate::connection::{Closing, Connection, Modes};
use crate::number::parse_i64;
use crate::proto::DecodeLimits;
use crate::ratelimit::Holder;
use crate::reply::{Reply, ReplyError};
use crate::request::Args;

/// What a token allows, worked out once.
pub struct Permit {
    pub token: Arc<Token>,
    pub(super) holder: Holder,
    /// Among the tokens, and so among what is leased of their rates.
    pub(super) place: usize,
    operations: OpSet,
    is_unlimited: bool,
}

/// What an engine knows of access. Follows the settings.
pub(super) struct Gatekeeper {
    version: u64,
    live: Arc<Live>,
    permits: Vec<Arc<Permit>>,
}

impl Gatekeeper {
    pub(super) fn new(version: u64, live: Arc<Live>) -> Gatekeeper {
        let mut gatekeeper = Gatekeeper { version, live: live.clone(), permits: Vec::new() };
        gatekeeper.follow(version, live);
        gatekeeper
    }

    fn follow(&mut self, version: u64, live: Arc<Live>) {
        let tokens = live.access.tokens();
        self.permits = tokens
            .iter()
            .enumerate()
            .map(|(place, token)| {
                let operations = token.operations();
                let is_unlimited = TABLE.iter().all(|spec| operations.has(spec.op))
                    && token.keys.is_empty()
                    && token.commands.is_unlimited()
                    && token.bytes.is_unlimited();
                let holder = Holder::Token(token.name.as_str().into());
                Arc::new(Permit { token: token.clone(), holder, place, operations, is_unlimited })
            })
            .collect();
        (self.version, self.live) = (version, live);
    }

    pub(super) fn tokens(&self) -> usize {
        self.permits.len()
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// The permit of the same token among the ones there are now.
    fn renewed(&self, token: &Token) -> Option<Arc<Permit>> {
        let same = |permit: &&Arc<Permit>| permit.token.name == token.name && permit.token.digests == token.digests;
        self.permits.iter().find(same).cloned()
    }
}

/// Why a command is not carried out now.
pub(super) enum Refused {
    Answered(ReplyError<'static>),
    /// It may be, after so long.
    Delayed {
        wait_ms: u64,
    },
}

/// The answer to whoever has to say first who he is.
const NO_AUTH: &str = "NOAUTH Authentication required.";
const WRONG_PASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

impl Engine {
    /// A connection begins with what everybody may.
    pub(super) fn begin_access(&mut self, index: u32, is_trusted: bool) {
        self.settle_bytes(index);
        let (live, now_us) = (self.gatekeeper.live.clone(), self.now.uptime_us);
        let restricted = !is_trusted && (live.access.is_required() || live.restricts_all());
        let Some(connection) = self.connection(index) else { return };
        connection.is_trusted = is_trusted;
        if connection.permit.take().is_some() {
            connection.record.user = DEFAULT_USER.into();
        }
        connection.modes.set(Modes::RESTRICTED, restricted);
        connection.rates = match is_trusted {
            true => None,
            false => own_rates(connection.rates.take(), &live.limits, now_us),
        };
        if live.access.is_required() && !is_trusted && !self.admits_newcomer(index) {
            self.mark_dirty(index);
        }
    }

    /// Counts the connection among those of its address that have not said who they are. False, and it is to be closed, if
    /// there are enough of them.
    fn admits_newcomer(&mut self, index: u32) -> bool {
        let (commons, newcomers_max) = (self.config.commons.clone(), self.gatekeeper.live.limits.newcomers_max);
        let Some(connection) = self.connection(index) else { return true };
        let Some(source) = connection.source().filter(|_| !connection.is_newcomer) else { return true };
        connection.is_newcomer = commons.admit_newcomer(source, newcomers_max);
        if !connection.is_newcomer {
            connection.closing = Closing::Now;
            self.counters.connections_refused_by_rate += 1;
        }
        self.connection(index).is_none_or(|connection| connection.is_newcomer)
    }

    /// A handshake of TLS begins, which costs more than most of what comes afterwards. False if the address has enough
    /// of them under way.
    pub fn begin_handshake(&mut self, index: u32) -> bool {
        self.admits_newcomer(index)
    }

    /// It is done. Whoever has to say who he is has still to do so.
    pub fn end_handshake(&mut self, index: u32) {
        if !self.must_authenticate(index)
            && let Some(mut connection) = self.connections[index as usize].take()
        {
            self.is_newcomer_no_more(&mut connection);
            self.connections[index as usize] = Some(connection);
        }
    }

    /// The connection is gone, or has said who it is.
    pub(super) fn is_newcomer_no_more(&mut self, connection: &mut Connection) {
        if std::mem::take(&mut connection.is_newcomer)
            && let Some(source) = connection.source()
        {
            self.config.commons.settle_newcomer(source);
        }
    }

    /// Whether the client has to say who it is before anything else.
    #[inline]
    pub(super) fn must_authenticate(&self, index: u32) -> bool {
        self.connections[index as usize].as_deref().is_some_and(|connection| {
            connection.modes.has(Modes::RESTRICTED)
                && connection.permit.is_none()
                && self.gatekeeper.live.access.is_required()
        })
    }

    /// What one command of the connection may ask for.
    #[cold]
    pub(super) fn limits_of(&self, index: u32) -> DecodeLimits {
        if self.must_authenticate(index) { self.limits.before_authentication() } else { self.limits }
    }

    /// Why a restricted connection may not have the command carried out.
    pub(super) fn refusal_of(&mut self, index: u32, spec: &Spec, args: Args<'_>) -> Option<Refused> {
        let gatekeeper = &self.gatekeeper;
        let connection = self.connections[index as usize].as_deref_mut()?;
        let error = |text: String| Some(Refused::Answered(ReplyError::Other(text.into())));
        if gatekeeper.live.access.disabled.has(spec.op) {
            return error(format!("ERR the command '{}' is disabled here", spec.name));
        }
        let Some(permit) = &connection.permit else {
            let is_open = spec.flags.has(Flags::NO_AUTH) || !gatekeeper.live.access.is_required();
            if !is_open {
                return error(NO_AUTH.into());
            }
            return self.refusal_by_rate(index, spec);
        };
        // Whoever may do nothing may still say that he is somebody else.
        if permit.is_unlimited || spec.flags.has(Flags::NO_AUTH) {
            return self.refusal_by_rate(index, spec);
        }
        if !permit.operations.has(spec.op) {
            let name = spec.name.replace('|', " ");
            let permit = permit.clone();
            self.note_refusal(index, Reason::Command, spec.name, &permit.token.name);
            return error(format!("NOPERM User {} has no permissions to run the '{name}' command", permit.token.name));
        }
        if !permit.token.keys.is_empty()
            && let Some(arg) = spec.key_args(args.len()).find(|arg| !permit.token.allows_key(args.get(*arg)))
        {
            let permit = permit.clone();
            self.note_refusal(index, Reason::Key, &printable(args.get(arg)), &permit.token.name);
            return error("NOPERM No permissions to access a key".into());
        }
        if !permit.token.keys.is_empty() && hears_of_all_keys(spec.op, args) {
            let permit = permit.clone();
            self.note_refusal(index, Reason::Key, spec.name, &permit.token.name);
            return error("NOPERM No permissions to hear of all keys".into());
        }
        self.refusal_by_rate(index, spec)
    }

    fn refusal_by_rate(&mut self, index: u32, spec: &Spec) -> Option<Refused> {
        // Whoever has to wait may still say who he is, and go.
        if spec.flags.has(Flags::NO_AUTH) {
            return None;
        }
        let wait_ms = self.charge(index)?;
        if self.gatekeeper.live.limits.delays {
            return Some(Refused::Delayed { wait_ms });
        }
        self.counters.commands_rate_limited += 1;
        Some(Refused::Answered(ReplyError::Other(format!("RATELIMITED retry in {wait_ms} ms").into())))
    }

    /// AUTH, and the AUTH of HELLO: name and secret, or the secret alone.
    pub(super) fn authenticate(&mut self, index: u32, args: Args<'_>) -> Result<(), Reply<'static>> {
        let (name, secret) = match args.len() {
            1 => (None, args.get(0)),
            2 => (Some(args.get(0)), args.get(1)),
            _ => return Err(ReplyError::Syntax.into()),
        };
        let access = self.gatekeeper.live.access.clone();
        if !access.is_required() {
            return match name {
                None => Err(Reply::error(
                    "ERR AUTH <password> called without any password configured for the default user. \
                     Are you sure your configuration is correct?",
                )),
                Some(name) if name == DEFAULT_NAME.as_bytes() => Ok(()),
                Some(_) => Err(Reply::error(WRONG_PASS)),
            };
        }
        let now_us = self.now.uptime_us;
        let address = self.address_of(index);
        if let Some(wait_ms) = address.and_then(|address| self.config.commons.failures().wait_ms(address, now_us)) {
            return Err(Reply::error(format!("WRONGPASS too many failed attempts: retry in {wait_ms} ms")));
        }
        let Some(token) = access.find(name, secret) else {
            if let Some(address) = address {
                self.config.commons.failures().add(address, now_us);
            }
            self.counters.authentications_failed += 1;
            let name = name.map_or(DEFAULT_NAME.into(), printable);
            self.note_refusal(index, Reason::Auth, "AUTH", &name);
            return Err(Reply::error(WRONG_PASS));
        };
        if let Some(address) = address {
            self.config.commons.failures().forget(address);
        }
        let permit = self.gatekeeper.renewed(token);
        self.grant(index, permit);
        Ok(())
    }

    fn grant(&mut self, index: u32, permit: Option<Arc<Permit>>) {
        self.settle_bytes(index);
        let restricts_all = self.gatekeeper.live.restricts_all();
        let Some(mut connection) = self.connections[index as usize].take() else { return };
        self.is_newcomer_no_more(&mut connection);
        let connection = self.connections[index as usize].insert(connection);
        let restricted = restricts_all || permit.as_ref().is_none_or(|permit| !permit.is_unlimited);
        connection.record.user =
            permit.as_ref().map_or(DEFAULT_USER.into(), |permit| permit.token.name.as_str().into());
        connection.permit = permit;
        connection.modes.set(Modes::RESTRICTED, restricted && !connection.is_trusted);
    }

    /// The client has shown a certificate for these names: it is who the first of them is.
    pub fn identify(&mut self, index: u32, names: &[String]) {
        let token = names.iter().find_map(|name| self.gatekeeper.live.access.by_name(name.as_bytes()));
        if let Some(token) = token {
            let permit = self.gatekeeper.renewed(token);
            self.grant(index, permit);
        }
    }

    /// A trusted proxy says for whom it has connected.
    pub fn set_address(&mut self, index: u32, client: SocketAddr, local: SocketAddr) {
        let Some(mut connection) = self.connections[index as usize].take() else { return };
        self.is_newcomer_no_more(&mut connection);
        connection.record.address = Address::Tcp(client);
        connection.record.local_address = Address::Tcp(local);
        self.connections[index as usize] = Some(connection);
        self.begin_access(index, false);
    }

    /// For ACL LOG.
    #[cold]
    fn note_refusal(&mut self, index: u32, reason: Reason, object: &str, user: &str) {
        let now = self.now;
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let is_in_transaction = connection.modes.has(Modes::QUEUING);
        let mut log = self.config.commons.access_log();
        log.add(now, reason, object, user, is_in_transaction, || connection.client_line(now));
        drop(log);
        let client = connection.record.address.to_string();
        self.note(|| Notice::Refused {
            client,
            why: match reason {
                Reason::Auth => format!("wrong secret for {user}"),
                Reason::Command => format!("{user} may not use {object}"),
                Reason::Key => format!("{user} may not use the key {object}"),
            },
        });
    }

    fn address_of(&self, index: u32) -> Option<IpAddr> {
        match &self.connections[index as usize].as_deref()?.record.address {
            Address::Tcp(address) => Some(address.ip()),
            Address::Unix(_) => None,
        }
    }

    /// Follows the settings when they have changed: whoever's token is gone is closed.
    pub(super) fn follow_settings(&mut self) {
        let version = self.config.settings.version();
        if version == self.gatekeeper.version {
            return;
        }
        let live = self.config.settings.live();
        self.gatekeeper.follow(version, live);
        self.shares.follow(self.gatekeeper.permits.len());
        self.follow_live();
        for index in 0..self.connections.len() as u32 {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
            if connection.is_trusted {
                continue;
            }
            connection.rates = own_rates(connection.rates.take(), &self.gatekeeper.live.limits, self.now.uptime_us);
            match connection.permit.take() {
                Some(permit) => match self.gatekeeper.renewed(&permit.token) {
                    Some(renewed) => self.grant(index, Some(renewed)),
                    None => {
                        // Whoever has taken it away from himself is told that it is done.
                        let is_owed = connection.pending_len() > 0;
                        connection.closing = if is_owed { Closing::AfterReplies } else { Closing::Now };
                        self.mark_dirty(index);
                    }
                },
                // Whoever came in while nobody had to say who he is has to say it now.
                None => self.begin_access(index, false),
            }
        }
    }

    /// What else follows the settings.
    pub(super) fn follow_live(&mut self) {
        self.follow_slow();
        let (keys_max, cores) = (self.gatekeeper.live.tracking_keys_max, self.config.cores as usize);
        self.listeners.events_on = self.gatekeeper.live.keyspace_events;
        self.shard.limit_namespaces(&self.gatekeeper.live.namespaces, cores as u64);
        self.listeners.tracking.set_keys_max(if keys_max == 0 { 0 } else { keys_max.div_ceil(cores) });
        self.note_watchfulness();
        self.note_closeness();
    }

    /// Whether there is a token of this name.
    pub(super) fn knows_user(&self, name: &[u8]) -> bool {
        let access = &self.gatekeeper.live.access;
        match access.is_required() {
            true => access.tokens().iter().any(|token| token.name.as_bytes() == name),
            false => name == DEFAULT_NAME.as_bytes(),
        }
    }

    /// ACL WHOAMI, USERS, LIST, LOG, CAT.
    pub(super) fn acl(&mut self, index: u32, op: Op, args: Args<'_>) -> Reply<'static> {
        let access = &self.gatekeeper.live.access;
        let user =
            self.connections[index as usize].as_deref().map_or(DEFAULT_USER.into(), |found| found.record.user.clone());
        match op {
            Op::AclWhoAmI => Reply::text(user.to_string()),
            Op::AclUsers if !access.is_required() => Reply::Array(vec![Reply::text(DEFAULT_NAME)]),
            Op::AclUsers => Reply::Array(access.tokens().iter().map(|token| Reply::text(token.name.clone())).collect()),
            Op::AclList if !access.is_required() => {
                Reply::Array(vec![Reply::text(described(&Token::unlimited(DEFAULT_NAME, None)))])
            }
            Op::AclList => Reply::Array(access.tokens().iter().map(|token| Reply::text(described(token))).collect()),
            Op::AclLog => {
                let reset = |arg: &[u8]| arg.eq_ignore_ascii_case(b"reset");
                let mut log = self.config.commons.access_log();
                match args.len() {
                    0 => log.reply(ENTRIES_SHOWN, self.now),
                    1 if reset(args.get(0)) => {
                        log.clear();
                        Reply::Ok
                    }
                    1 => match parse_i64(args.get(0)) {
                        Some(count) => log.reply(count.try_into().unwrap_or(0), self.now),
                        None => ReplyError::NotAnInteger.into(),
                    },
                    _ => ReplyError::Syntax.into(),
                }
            }
            Op::AclCat => match args.len() {
                0 => Reply::Array(Scopes::NAMES.iter().map(|(name, _)| Reply::text(*name)).collect()),
                1 => {
                    let name = String::from_utf8_lossy(args.get(0)).to_ascii_lowercase();
                    let Some((_, scope)) = Scopes::NAMES.iter().find(|(known, _)| *known == name) else {
                        return Reply::error(format!("ERR Unknown category '{}'", printable(args.get(0))));
                    };
                    let within = TABLE.iter().filter(|spec| Scopes::needed(spec).has(*scope));
                    Reply::Array(within.map(|spec| Reply::text(spec.name)).collect())
                }
                _ => ReplyError::Syntax.into(),
            },
            other => unreachable!("{other:?} is not about access"),
        }
    }
}

/// Whether the client would be told of changes to keys whatever they are: by notifications, or by a client-side cache of all
/// of them.
fn hears_of_all_keys(op: Op, args: Args<'_>) -> bool {
    const BEGINNING: &[u8] = b"__key";
    match op {
        Op::ClientTracking => args.iter().any(|word| word.eq_ignore_ascii_case(b"bcast")),
        Op::Subscribe => args.iter().any(|channel| channel.starts_with(BEGINNING)),
        Op::PSubscribe => args.iter().any(|pattern| {
            let literal = pattern.iter().position(|letter| b"*?[\\".contains(letter)).unwrap_or(pattern.len());
            let literal = &pattern[..literal];
            // What may come behind it is anybody's guess.
            literal.starts_with(BEGINNING) || literal.len() < pattern.len() && BEGINNING.starts_with(literal)
        }),
        _ => false,
    }
}

/// Entries of ACL LOG that are shown to whoever does not say how many.
const ENTRIES_SHOWN: usize = 10;

/// A token as ACL LIST writes users.
fn described(token: &Token) -> String {
    let mut text = format!("user {} on", token.name);
    match token.digests.as_slice() {
        [] => text.push_str(" nopass"),
        // Of a digest enough to tell it from others.
        digests => digests.iter().for_each(|digest| text.push_str(&format!(" #{}…", &digest.hex()[..8]))),
    }
    match token.keys.as_slice() {
        [] => text.push_str(" ~*"),
        keys => keys.iter().for_each(|key| text.push_str(&format!(" ~{}", printable(key)))),
    }
    if token.scopes == Scopes::ALL {
        return text + " +@all";
    }
    text.push_str(" -@all");
    token.scopes.names().for_each(|name| text.push_str(&format!(" +@{name}")));
    text
}
