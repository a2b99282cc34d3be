//! SWAPDB: two databases show each other's namespace from now on. No key is touched, however many there are.
//!
//! Every core is held as a whole while all of them learn of it. A command that was decoded before means the database as
//! it was then; what clients have queued since MULTI would mean something else by now, so EXEC refuses it.

use super::Engine;
use crate::command::{Op, spec_of};
use crate::connection::Modes;
use crate::namespace::{self, DATABASES, Databases, SWAPPED_KEY};
use crate::number::parse_i64;
use crate::reply::Reply;
use crate::request::{ArgRange, Args, Call};

/// `SWAPDB one other`
pub(super) fn parse(args: Args<'_>) -> Result<(u8, u8), Reply<'static>> {
    let number = |arg, which| {
        let number = parse_i64(args.get(arg)).and_then(|number| i32::try_from(number).ok());
        number.ok_or_else(|| Reply::error(format!("ERR invalid {which} DB index")))
    };
    let (one, other) = (number(0, "first")?, number(1, "second")?);
    let within = |number: i32| u8::try_from(number).ok().filter(|&database| database < DATABASES);
    match (within(one), within(other)) {
        (Some(one), Some(other)) => Ok((one, other)),
        _ => Err(Reply::error("ERR DB index is out of range")),
    }
}

impl Engine {
    /// This core's part of SWAPDB.
    pub(super) fn swap_share(&mut self, args: Args<'_>) -> Reply<'static> {
        let (one, other) = match parse(args) {
            Ok(parsed) => parsed,
            Err(error) => return error,
        };
        // Several cores have been asked before any of them begins.
        if self.config.cores == 1
            && let Some(refusal) = self.waits.refusal_of_writes(&self.journal)
        {
            return refusal;
        }
        let before = self.databases;
        self.show_databases(before.swapped(one, other));
        if one != other {
            self.listeners.watches.renamed(|key| [one, other].contains(&before.within(key).0));
            self.listeners.forget_read();
            self.remember_databases_anew();
            self.note_watchfulness();
            self.spread_news();
        }
        Reply::Ok
    }

    /// Whoever has chosen a database by its number is in what it shows now.
    fn show_databases(&mut self, databases: Databases) {
        let before = std::mem::replace(&mut self.databases, databases);
        let mut elsewhere = Vec::new();
        let Engine { connections, open_transactions, .. } = self;
        for (index, connection) in connections.iter_mut().enumerate() {
            let Some(connection) = connection.as_deref_mut() else { continue };
            connection.databases = databases;
            let database = connection.record.database;
            let shown = before.namespace_of(database);
            if shown == databases.namespace_of(database) || connection.key_prefix() != namespace::prefix_of(&shown) {
                continue;
            }
            connection.enter_namespace(&databases.namespace_of(database));
            elsewhere.push(index as u32);
            if connection.modes.has(Modes::QUEUING)
                && let Some(open) = open_transactions.get_mut(&(index as u32))
            {
                open.has_failed = true;
            }
        }
        elsewhere.into_iter().for_each(|index| self.listen_there_instead(index));
    }

    // ---- across restarts ------------------------------------------------------------------------

    fn owns_databases(&self) -> bool {
        self.owner_of(SWAPPED_KEY) == self.config.core
    }

    fn remember_databases_anew(&mut self) {
        if !self.journal.is_on() || !self.owns_databases() {
            return;
        }
        let word = self.databases.to_word().to_le_bytes();
        let bytes = [SWAPPED_KEY, &word].concat();
        let ranges = [ArgRange::inline(0, SWAPPED_KEY.len()), ArgRange::inline(SWAPPED_KEY.len(), word.len())];
        let args = Args::new(&bytes, &ranges, &[]);
        let call = Call { spec: spec_of(Op::Set), args, hash: self.config.hasher.hash(SWAPPED_KEY) };
        self.journal.begin_run();
        // Nobody listens to it.
        self.shard.apply(&call, self.now, &mut self.journal);
        self.journal.end_run();
    }

    /// What was evicted or flushed is stored again.
    pub(super) fn remember_databases(&mut self) {
        let may_write = self.journal.is_on() && self.waits.refusal_of_writes(&self.journal).is_none();
        if may_write && self.owns_databases() && !self.exists(SWAPPED_KEY) {
            self.remember_databases_anew();
        }
    }

    /// This core has read its log: the one whose it is lets the others know what the databases show.
    pub(super) fn recall_databases(&mut self) {
        if self.owns_databases() {
            // Looked for first: what nobody has asked for is no miss.
            let stored = match self.exists(SWAPPED_KEY) {
                true => self.shard.read_for_copy(SWAPPED_KEY, self.now, &mut self.journal),
                false => None,
            };
            let word = stored.and_then(|stored| stored.value.first_chunk().copied());
            let databases = word.and_then(|word| Databases::from_word(u64::from_le_bytes(word)));
            self.config.commons.publish_databases(databases.unwrap_or_default());
        }
        self.adopt_databases();
    }

    pub(super) fn adopt_databases(&mut self) {
        if let Some(databases) = self.config.commons.databases() {
            self.show_databases(databases);
            self.end_awaiting_databases();
        }
    }
}
