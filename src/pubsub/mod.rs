//! Who of one core's clients listens to what: channels, patterns and shard channels. Sends nothing; it says
//! who gets a message.
//!
//! ```text
//!   names     channel ─▶ {client, client}       clients   client ─▶ {names of each kind}
//!             pattern ─▶ {client}
//!             shard channel ─▶ {client}
//!
//!   interest  what all cores see: per core, how many of its names fall into each of 4,096 cells, and how
//!             many patterns it has. A message goes only to cores whose cell is not empty.
//! ```
//!
//! A client is a number that is free for another one only after [`Subscriptions::forget`].

mod interest;
mod keyspace;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

pub use interest::Interest;
pub use keyspace::KeyspaceEvents;

use crate::glob;
use crate::limits;

/// What a client can listen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Channel,
    Pattern,
    /// A channel that belongs to a slot, as keys do.
    Shard,
}

pub const KINDS: [Kind; 3] = [Kind::Channel, Kind::Pattern, Kind::Shard];

/// How many names of each kind a client listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub channels: u32,
    pub patterns: u32,
    pub shards: u32,
}

impl Counts {
    pub fn is_zero(self) -> bool {
        self == Counts::default()
    }

    /// What the answer to a SUBSCRIBE or UNSUBSCRIBE of `kind` counts: shard channels apart from the others.
    pub fn shown_for(self, kind: Kind) -> i64 {
        match kind {
            Kind::Shard => self.shards.into(),
            _ => i64::from(self.channels) + i64::from(self.patterns),
        }
    }
}

/// A client would hold more than `limits::SUBSCRIPTION_BYTES_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

#[derive(Default)]
struct Client {
    names: [BTreeSet<Bytes>; 3],
    /// What they hold together, with what each costs beside its text.
    bytes: usize,
}

/// What a subscription costs beside its name: its places in two trees.
const SUBSCRIPTION_BYTES: usize = 96;

/// The subscriptions of one core.
///
/// A client stands under a name exactly when the name stands with the client; neither side has empty sets.
#[derive(Default)]
pub struct Subscriptions {
    names: [BTreeMap<Bytes, BTreeSet<u32>>; 3],
    clients: BTreeMap<u32, Client>,
}

impl Subscriptions {
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// How many clients listen to something.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// What a client listens to, as it is counted.
    pub fn bytes_of(&self, client: u32) -> usize {
        self.clients.get(&client).map_or(0, |entry| entry.bytes)
    }

    /// Whether the name is new to this core, so that others have to know of it.
    pub fn subscribe(&mut self, client: u32, kind: Kind, name: &[u8]) -> Result<bool, TooMany> {
        let entry = self.clients.entry(client).or_default();
        if entry.names[kind as usize].contains(name) {
            return Ok(false);
        }
        let bytes = name.len() + SUBSCRIPTION_BYTES;
        if entry.bytes + bytes > limits::SUBSCRIPTION_BYTES_MAX {
            if entry.bytes == 0 {
                self.clients.remove(&client);
            }
            return Err(TooMany);
        }
        entry.bytes += bytes;
        // One copy of the name for all who listen to it.
        let known = self.names[kind as usize].get_key_value(name).map(|(name, _)| name.clone());
        let is_new = known.is_none();
        let name = known.unwrap_or_else(|| Bytes::copy_from_slice(name));
        entry.names[kind as usize].insert(name.clone());
        self.names[kind as usize].entry(name).or_default().insert(client);
        Ok(is_new)
    }

    /// Whether nobody on this core listens to the name any more, but somebody did.
    pub fn unsubscribe(&mut self, client: u32, kind: Kind, name: &[u8]) -> bool {
        let Some(entry) = self.clients.get_mut(&client) else { return false };
        if !entry.names[kind as usize].remove(name) {
            return false;
        }
        entry.bytes -= name.len() + SUBSCRIPTION_BYTES;
        if entry.bytes == 0 {
            self.clients.remove(&client);
        }
        self.take_out(client, kind, name)
    }

    fn take_out(&mut self, client: u32, kind: Kind, name: &[u8]) -> bool {
        let Some(listeners) = self.names[kind as usize].get_mut(name) else { return false };
        listeners.remove(&client);
        let is_last = listeners.is_empty();
        if is_last {
            self.names[kind as usize].remove(name);
        }
        is_last
    }

    /// The client listens to nothing any more. Calls `gone` with every name that nobody listens to now.
    pub fn forget(&mut self, client: u32, mut gone: impl FnMut(Kind, &[u8])) {
        let Some(entry) = self.clients.remove(&client) else { return };
        for (kind, names) in KINDS.into_iter().zip(&entry.names) {
            for name in names {
                if self.take_out(client, kind, name) {
                    gone(kind, name);
                }
            }
        }
    }

    pub fn counts(&self, client: u32) -> Counts {
        let Some(entry) = self.clients.get(&client) else { return Counts::default() };
        let [channels, patterns, shards] = entry.names.each_ref().map(|names| names.len() as u32);
        Counts { channels, patterns, shards }
    }

    /// What a client listens to, in order.
    pub fn names_of(&self, client: u32, kind: Kind) -> Vec<Bytes> {
        self.clients.get(&client).map_or_else(Vec::new, |entry| entry.names[kind as usize].iter().cloned().collect())
    }

    /// Who listens to exactly this name.
    pub fn listeners(&self, kind: Kind, name: &[u8]) -> impl Iterator<Item = u32> {
        self.names[kind as usize].get(name).into_iter().flatten().copied()
    }

    pub fn listener_count(&self, kind: Kind, name: &[u8]) -> usize {
        self.names[kind as usize].get(name).map_or(0, BTreeSet::len)
    }

    /// The patterns that describe `channel`, each with its listeners.
    pub fn matching<'a>(&'a self, channel: &'a [u8]) -> impl Iterator<Item = (&'a Bytes, impl Iterator<Item = u32>)> {
        let patterns = self.names[Kind::Pattern as usize].iter();
        patterns
            .filter(|(pattern, _)| glob::matches(pattern, channel))
            .map(|(pattern, listeners)| (pattern, listeners.iter().copied()))
    }

    /// All names of a kind that somebody listens to, in order.
    pub fn names(&self, kind: Kind) -> impl ExactSizeIterator<Item = &Bytes> {
        self.names[kind as usize].keys()
    }

    /// Compares both sides.
    #[cfg(any(test, fuzzing))]
    pub fn validate(&self) {
        for (kind, names) in KINDS.into_iter().zip(&self.names) {
            for (name, listeners) in names {
                assert!(!listeners.is_empty());
                assert!(listeners.iter().all(|client| self.clients[client].names[kind as usize].contains(name)));
            }
        }
        for (client, entry) in &self.clients {
            let mut bytes = 0;
            for (kind, names) in KINDS.into_iter().zip(&entry.names) {
                assert!(names.iter().all(|name| self.names[kind as usize][name].contains(client)));
                bytes += names.iter().map(|name| name.len() + SUBSCRIPTION_BYTES).sum::<usize>();
            }
            assert_eq!(bytes, entry.bytes);
            assert!(bytes > 0);
        }
    }
}
