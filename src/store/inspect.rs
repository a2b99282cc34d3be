//! Commands that look at a key without using it: OBJECT and MEMORY USAGE.

use super::{Effects, Eviction, Shard};
use crate::clock::Now;
use crate::number::parse_i64;
use crate::reply::{Reply, ReplyError};
use crate::request::{Args, Call};

/// Redis keeps strings up to this length beside their header and calls them `embstr`.
const EMBEDDED_BYTES_MAX: usize = 44;

/// Keys that HOTKEYS answers when it is not told how many, and at most.
pub const HOT_KEYS_DEFAULT: usize = 16;
pub const HOT_KEYS_MAX: i64 = 64;

/// How many keys HOTKEYS is asked for.
pub fn parse_hot_keys(args: Args<'_>) -> Result<usize, ReplyError<'static>> {
    match args.len() {
        0 => Ok(HOT_KEYS_DEFAULT),
        1 => match parse_i64(args.get(0)) {
            Some(count @ 0..) => Ok(count.min(HOT_KEYS_MAX) as usize),
            _ => Err(ReplyError::NotAnInteger),
        },
        _ => Err(ReplyError::Syntax),
    }
}

impl Shard {
    /// The encoding Redis would have given a value just set: clients that ask want to know whether it is a number.
    pub(super) fn encoding<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let Some(found) = self.live(call.hash, call.args.get(0), now, effects) else { return Reply::Nil };
        let value = self.keyspace.value(found).bytes();
        Reply::Bulk(match value.len() {
            _ if parse_i64(value).is_some() => b"int",
            ..=EMBEDDED_BYTES_MAX => b"embstr",
            _ => b"raw",
        })
    }

    /// A count that stops at 16, and is halved from time to time.
    pub(super) fn frequency<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        if self.keyspace.eviction != Eviction::TinyLfu {
            return Reply::error(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
                 switching between policies at runtime LRU and LFU data will take some time to adjust.",
            );
        }
        match self.live(call.hash, call.args.get(0), now, effects) {
            Some(found) => Reply::Int(self.keyspace.frequency(call.hash, found).into()),
            None => Reply::Nil,
        }
    }

    /// In seconds: to 16 of them within half an hour, to a factor of two beyond.
    pub(super) fn idle_time<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        match self.live(call.hash, call.args.get(0), now, effects) {
            Some(found) => Reply::Int((self.keyspace.idle_ms(found) / 1000) as i64),
            None => Reply::Nil,
        }
    }

    pub(super) fn reference_count<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        match self.live(call.hash, call.args.get(0), now, effects) {
            Some(_) => Reply::Int(1),
            None => Reply::Nil,
        }
    }

    /// `HOTKEYS [count]`: key, count, key, count …, the hottest first.
    pub(super) fn hot_keys(&mut self, call: &Call<'_>) -> Reply<'_> {
        let count = match parse_hot_keys(call.args) {
            Ok(count) => count,
            Err(error) => return Reply::Error(error),
        };
        let top = self.hot.top(count).into_iter();
        Reply::Array(top.flat_map(|(key, count)| [Reply::Bulk(key), Reply::Int(count as i64)]).collect())
    }

    /// `MEMORY USAGE key [SAMPLES count]`: values have no parts to sample.
    pub(super) fn memory_usage<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        match call.args.len() {
            1 => {}
            3 if call.args.get(1).eq_ignore_ascii_case(b"SAMPLES") => match parse_i64(call.args.get(2)) {
                Some(0..) => {}
                Some(_) => return Reply::Error(ReplyError::Syntax),
                None => return Reply::Error(ReplyError::NotAnInteger),
            },
            _ => return Reply::Error(ReplyError::Syntax),
        }
        match self.live(call.hash, call.args.get(0), now, effects) {
            Some(found) => Reply::Int(self.keyspace.memory_of(found) as i64),
            None => Reply::Nil,
        }
    }
}
