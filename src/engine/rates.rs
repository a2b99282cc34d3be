//! What tokens, addresses and single connections may ask for in a second. Whoever goes too far is refused, or waits,
//! as the settings want it. Connections without any rate never come here: see [`super::access`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;

use super::Engine;
use super::access::Permit;
use super::batch::{Batch, Job, Token};
use crate::command::{Route, Spec};
use crate::connection::{Connection, Deferred, Modes, OwnRates, Pause};
use crate::hash::KeyHasher;
use crate::ratelimit::{Bucket, Holder, Kind, Lease, Limits, Rate, source_of};
use crate::request::Args;

/// What this core has leased of rates that cores share.
pub(super) struct Shares {
    /// By the place of the token.
    tokens: Vec<Leases>,
    sources: HashMap<IpAddr, Leases, ahash::RandomState>,
    /// Who waits: until when, index, generation.
    delayed: BinaryHeap<Reverse<(u64, u32, u32)>>,
}

#[derive(Clone, Default)]
struct Leases {
    commands: Lease,
    bytes: Lease,
}

/// Leases of addresses that are kept beside those of the clients there are.
const SOURCES_SPARE: usize = 1024;

impl Shares {
    pub(super) fn new(hasher: &KeyHasher) -> Shares {
        Shares { tokens: Vec::new(), sources: HashMap::with_hasher(hasher.state()), delayed: BinaryHeap::new() }
    }

    /// The token and the address that a connection's commands are charged to, as far as they have rates.
    fn accounts_of(
        &mut self,
        permit: Option<&Permit>,
        source: Option<IpAddr>,
        limits: &Limits,
        clients: usize,
    ) -> [Option<(Account, &mut Leases)>; 2] {
        if self.sources.len() > clients + SOURCES_SPARE {
            // What is leased is a hundredth of a second's worth; all else stands in the ledger.
            self.sources.clear();
        }
        let token = permit.and_then(|permit| {
            let (commands, bytes) = (permit.token.commands, permit.token.bytes);
            let account = Account { holder: permit.holder.clone(), commands, bytes };
            self.tokens.get_mut(permit.place).map(|leases| (account, leases))
        });
        let (commands, bytes) = (limits.address_commands, limits.address_bytes);
        let source = source.filter(|_| !(commands.is_unlimited() && bytes.is_unlimited())).map(|source| {
            let account = Account { holder: Holder::Source(source), commands, bytes };
            (account, self.sources.entry(source).or_default())
        });
        [token, source]
    }

    /// There are so many tokens now.
    pub(super) fn follow(&mut self, tokens: usize) {
        self.tokens.clear();
        self.tokens.resize(tokens, Leases::default());
    }
}

/// What a connection may ask for by itself. It goes on with what it `had` as long as its rates are the same: nobody's budget
/// is renewed by RESET, or by a change of other settings.
pub(super) fn own_rates(had: Option<Box<OwnRates>>, limits: &Limits, now_us: u64) -> Option<Box<OwnRates>> {
    let (commands, bytes) = (limits.connection_commands, limits.connection_bytes);
    if had.as_ref().is_some_and(|had| (had.commands.rate(), had.bytes.rate()) == (commands, bytes)) {
        return had;
    }
    let is_limited = !commands.is_unlimited() || !bytes.is_unlimited();
    is_limited
        .then(|| Box::new(OwnRates { commands: Bucket::new(commands, now_us), bytes: Bucket::new(bytes, now_us) }))
}

/// What one command is charged to, beside the connection's own rates.
struct Account {
    holder: Holder,
    commands: Rate,
    bytes: Rate,
}

impl Engine {
    /// Charges a command, and the bytes since the last one, to all whose rates it falls under; or how many milliseconds
    /// it is until that is possible.
    pub(super) fn charge(&mut self, index: u32) -> Option<u64> {
        let now_us = self.now.uptime_us;
        let live = self.gatekeeper.live().clone();
        let clients = self.counters.connections_current as usize;
        let connection = self.connections[index as usize].as_deref_mut()?;
        let bytes = connection.take_uncharged_bytes();
        let mut wait_ms = None;
        let mut note = |outcome: Result<(), u64>| wait_ms = wait_ms.max(outcome.err());

        let source = connection.source();
        let mut own = connection.rates.as_deref_mut();
        if let Some(own) = &mut own {
            own.bytes.charge(bytes, now_us);
            note(own.commands.check(now_us));
            note(own.bytes.check(now_us));
        }
        let mut accounts = self.shares.accounts_of(connection.permit.as_deref(), source, &live.limits, clients);
        let (commons, core) = (&self.config.commons, self.config.core);
        for (account, leases) in accounts.iter_mut().flatten() {
            let kinds = [(Kind::Commands, account.commands, &mut leases.commands, 0)];
            let kinds = kinds.into_iter().chain([(Kind::Bytes, account.bytes, &mut leases.bytes, bytes)]);
            for (kind, rate, lease, used) in kinds.filter(|(_, rate, ..)| !rate.is_unlimited()) {
                lease.charge(used);
                let more = |owed| commons.ledger().lease(core, &account.holder, kind, rate, owed, now_us);
                note(lease.check(now_us, more));
            }
        }
        if wait_ms.is_none() {
            if let Some(own) = own {
                own.commands.charge(1, now_us);
            }
            for (account, leases) in accounts.iter_mut().flatten() {
                if !account.commands.is_unlimited() {
                    leases.commands.charge(1);
                }
            }
        }
        wait_ms
    }

    /// Charges what the connection has moved to whom it was until now: it is about to be somebody else. Without that
    /// whoever says who he is between any two commands would move what he likes.
    pub(super) fn settle_bytes(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let bytes = connection.take_uncharged_bytes();
        // Where nothing was limited until now nothing is owed.
        if bytes == 0 || !connection.modes.has(Modes::RESTRICTED) {
            return;
        }
        let (now_us, source) = (self.now.uptime_us, connection.source());
        let limits = self.gatekeeper.live().limits;
        let clients = self.counters.connections_current as usize;
        if let Some(own) = connection.rates.as_deref_mut() {
            own.bytes.charge(bytes, now_us);
        }
        let accounts = self.shares.accounts_of(connection.permit.as_deref(), source, &limits, clients);
        for (account, leases) in accounts.into_iter().flatten() {
            if !account.bytes.is_unlimited() {
                leases.bytes.charge(bytes);
            }
        }
    }

    /// Puts the command off until its rate allows it.
    pub(super) fn delay(&mut self, index: u32, spec: &'static Spec, args: Args<'_>, wait_ms: u64) {
        let hash = match spec.route {
            Route::Key => self.config.hasher.hash(args.get(spec.key_arg())),
            _ => 0,
        };
        let until_us = self.now.uptime_us + wait_ms * 1000;
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let mut call = Box::<Batch>::default();
        call.push(Token::Gather { index: 0, part: 0 }, Job::Command, connection.wire, spec, hash, args);
        connection.defer_first(Deferred::Call(call));
        connection.pause.add(Pause::RATE);
        self.shares.delayed.push(Reverse((until_us, index, connection.generation)));
        self.counters.commands_delayed += 1;
        self.mark_dirty(index);
    }

    /// Lets those go on who have waited.
    pub(super) fn end_delays(&mut self) {
        while let Some(&Reverse((until_us, index, generation))) = self.shares.delayed.peek()
            && until_us <= self.now.uptime_us
        {
            self.shares.delayed.pop();
            if let Some(connection) = self.connections[index as usize].as_deref_mut()
                && connection.generation == generation
            {
                connection.pause.remove(Pause::RATE);
                self.resume_later(index);
            }
        }
    }

    /// Whether the address has connected too often; then it is counted.
    pub fn is_flooded_by(&mut self, address: IpAddr) -> bool {
        let rate = self.gatekeeper.live().limits.address_connects;
        if rate.is_unlimited() {
            return false;
        }
        let holder = Holder::Source(source_of(address));
        // One at a time: connections are few, and whatever core they come to they count.
        let now_us = self.now.uptime_us;
        let is_too_much = self.config.commons.ledger().take(&holder, Kind::Connects, rate, now_us).is_err();
        self.counters.connections_refused_by_rate += is_too_much as u64;
        is_too_much
    }

    /// Whether somebody waits.
    pub fn has_delays(&self) -> bool {
        !self.shares.delayed.is_empty()
    }
}

impl Connection {
    /// Bytes received and sent since they were last charged.
    fn take_uncharged_bytes(&mut self) -> u64 {
        let moved = self.activity.bytes_received + self.activity.bytes_sent;
        moved.saturating_sub(std::mem::replace(&mut self.bytes_charged, moved))
    }

    /// Whose connections are limited together.
    pub(super) fn source(&self) -> Option<IpAddr> {
        match &self.record.address {
            super::clients::Address::Tcp(address) => Some(source_of(address.ip())),
            super::clients::Address::Unix(_) => None,
        }
    }
}
