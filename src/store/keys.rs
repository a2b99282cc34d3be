//! Commands about keys, whatever they hold.

use super::options::{ExpireCondition, Time, Unit, parse_copy};
use super::{Effects, Shard};
use crate::clock::Now;
use crate::command::Op;
use crate::namespace::View;
use crate::reply::{Reply, ReplyError};
use crate::request::Call;

/// Buckets that RANDOMKEY looks at in a namespace.
const RANDOM_KEY_BUCKETS_MAX: usize = 65_536;
/// Expired keys that one RANDOMKEY looks past.
const RANDOM_KEY_TRIES: usize = 128;

impl Shard {
    pub(super) fn delete_many<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let mut count = 0;
        for key in call.args.iter() {
            let hash = self.keyspace.hasher.hash(key);
            if let Some(found) = self.live(hash, key, now, effects) {
                self.remove(key, found, effects);
                count += 1;
            }
        }
        Reply::Int(count)
    }

    pub(super) fn count_existing<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let mut count = 0;
        for key in call.args.iter() {
            let hash = self.keyspace.hasher.hash(key);
            count += self.live_to_read(hash, key, now, effects).is_some() as i64;
        }
        Reply::Int(count)
    }

    pub(super) fn type_of<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        match self.live_to_read(call.hash, call.args.get(0), now, effects) {
            Some(_) => Reply::Status("string"),
            None => Reply::Status("none"),
        }
    }

    pub(super) fn expire<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        match self.try_expire(call, now, effects) {
            Ok(done) => Reply::Int(done as i64),
            Err(error) => Reply::Error(error),
        }
    }

    fn try_expire<E: Effects>(
        &mut self,
        call: &Call<'_>,
        now: Now,
        effects: &mut E,
    ) -> Result<bool, ReplyError<'static>> {
        let condition = ExpireCondition::parse(call.args.from(2))?;
        let (unit, absolute) = match call.spec.op {
            Op::Expire => (Unit::Seconds, false),
            Op::PExpire => (Unit::Milliseconds, false),
            Op::ExpireAt => (Unit::Seconds, true),
            _ => (Unit::Milliseconds, true),
        };
        let time = Time { amount: call.args.get(1), unit, absolute };
        let expires_at_ms = time.resolve_signed(now, call.spec.name)?;
        let key = call.args.get(0);
        let Some(found) = self.live(call.hash, key, now, effects) else {
            return Ok(false);
        };
        if !condition.allows(self.keyspace.expires_at_ms(found), expires_at_ms) {
            return Ok(false);
        }
        match u64::try_from(expires_at_ms) {
            Ok(expires_at_ms) if expires_at_ms > now.unix_ms => {
                let expires_at_ms = self.jittered(time, expires_at_ms, now);
                self.change_expiry(key, found, Some(expires_at_ms), now, effects)?;
            }
            _ => self.remove(key, found, effects),
        }
        Ok(true)
    }

    pub(super) fn persist<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let key = call.args.get(0);
        let Some(found) = self.live(call.hash, key, now, effects) else {
            return Reply::Int(0);
        };
        if self.keyspace.expires_at_ms(found).is_none() {
            return Reply::Int(0);
        }
        match self.change_expiry(key, found, None, now, effects) {
            Ok(()) => Reply::Int(1),
            Err(error) => Reply::Error(error.into()),
        }
    }

    /// TTL, PTTL, EXPIRETIME, PEXPIRETIME: -2 without the key, -1 without an expiry. Seconds are rounded to
    /// the nearest.
    pub(super) fn time_to_live<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let Some(found) = self.live_to_read(call.hash, call.args.get(0), now, effects) else {
            return Reply::Int(-2);
        };
        let Some(expires_at_ms) = self.keyspace.expires_at_ms(found) else {
            return Reply::Int(-1);
        };
        let ms = match call.spec.op {
            Op::Ttl | Op::PTtl => expires_at_ms.saturating_sub(now.unix_ms),
            _ => expires_at_ms,
        };
        Reply::Int(match call.spec.op {
            Op::Ttl | Op::ExpireTime => (ms.saturating_add(500) / 1000) as i64,
            _ => ms as i64,
        })
    }

    pub(super) fn rename<E: Effects>(
        &mut self,
        call: &Call<'_>,
        if_absent: bool,
        now: Now,
        effects: &mut E,
    ) -> Reply<'_> {
        let (source, target) = (call.args.get(0), call.args.get(1));
        if !self.contains(source, now, effects) {
            return Reply::Error(ReplyError::NoSuchKey);
        }
        let done = if if_absent { Reply::Int(1) } else { Reply::Ok };
        if source == target {
            return if if_absent { Reply::Int(0) } else { done };
        }
        if if_absent && self.contains(target, now, effects) {
            return Reply::Int(0);
        }
        // Out of memory must not lose the key: the new place is taken before the old one is given up.
        let hash = self.keyspace.hasher.hash(source);
        let Some(found) = self.live(hash, source, now, effects) else {
            return Reply::Error(ReplyError::NoSuchKey);
        };
        let moved = self.moved(found);
        if let Err(error) = self.put_moved(target, &moved, true, now, effects) {
            return Reply::Error(error.into());
        }
        if let Some(found) = self.live(hash, source, now, effects) {
            self.remove(source, found, effects);
        }
        done
    }

    pub(super) fn copy<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let replace = match parse_copy(call.args.from(2)) {
            Ok(replace) => replace,
            Err(error) => return Reply::Error(error),
        };
        let (source, target) = (call.args.get(0), call.args.get(1));
        if source == target {
            return Reply::error("ERR source and destination objects are the same");
        }
        let Some(moved) = self.read_for_copy(source, now, effects) else {
            return Reply::Int(0);
        };
        match self.put_moved(target, &moved, replace, now, effects) {
            Ok(done) => Reply::Int(done as i64),
            Err(error) => Reply::Error(error.into()),
        }
    }

    /// A key of a bucket drawn at random; keys of fuller buckets come up a little less often. Expired ones
    /// met on the way are removed, but no more than a tick would remove: after that many there is none to
    /// show, until ticks have caught up.
    pub(super) fn random_key<E: Effects>(&mut self, now: Now, effects: &mut E) -> Reply<'_> {
        for _ in 0..RANDOM_KEY_TRIES {
            if self.keyspace.is_empty() {
                break;
            }
            let mut bucket = (self.random() % self.keyspace.buckets() as u64) as u32;
            let place = self.random() as usize;
            let count = loop {
                match self.keyspace.items_of(bucket).count() {
                    0 => bucket = (bucket + 1) % self.keyspace.buckets(),
                    count => break count,
                }
            };
            let item = self.keyspace.items_of(bucket).nth(place % count).expect("counted just now");
            let (key, found) = self.keyspace.look_at(item);
            if self.keyspace.expires_at_ms(found).is_none_or(|expires_at_ms| now.unix_ms <= expires_at_ms) {
                self.scratch.clear();
                self.scratch.extend_from_slice(key);
                return Reply::Bulk(&self.scratch);
            }
            effects.remove(key, super::Removal::Expired);
            self.keyspace.remove(found);
            self.counters.expired_lazy += 1;
            self.counters.writes += 1;
        }
        Reply::Nil
    }

    pub(super) fn flush<E: Effects>(&mut self, call: &Call<'_>, effects: &mut E) -> Reply<'_> {
        let mode_is_known = |mode: &[u8]| mode.eq_ignore_ascii_case(b"ASYNC") || mode.eq_ignore_ascii_case(b"SYNC");
        if call.args.len() > 1 || call.args.iter().any(|mode| !mode_is_known(mode)) {
            return Reply::Error(ReplyError::Syntax);
        }
        // The keys of namespaces stay: whoever asks goes through the others in steps.
        debug_assert!(call.spec.op == Op::FlushAll || self.keyspace.namespaces.items() == 0);
        self.keyspace.flush();
        effects.flush();
        self.counters.writes += 1;
        Reply::Ok
    }

    /// How many keys there are: of the namespace that is named, or global ones.
    pub(super) fn count_keys(&mut self, call: &Call<'_>) -> Reply<'_> {
        let namespaces = &self.keyspace.namespaces;
        Reply::Int(match call.args.iter().next() {
            Some(name) => namespaces.get(name).map_or(0, |counters| counters.items as i64),
            None => (self.keyspace.len() - namespaces.items()) as i64,
        })
    }

    /// MOVE, with the key's two full names.
    pub(super) fn move_to<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        if call.args.get(0) == call.args.get(1) {
            return Reply::error("ERR source and destination objects are the same");
        }
        match self.rename(call, true, now, effects) {
            Reply::Error(ReplyError::NoSuchKey) => Reply::Int(0),
            other => other,
        }
    }

    /// A key of the view, from a place drawn at random on; none if they are few and far between.
    pub fn random_key_of(&mut self, view: &View, now: Now) -> Option<Vec<u8>> {
        let mut cursor = self.random() % (u32::MAX as u64 + 1);
        let chance = self.random();
        let (mut found, mut met) = (None, 0u32);
        for _ in 0..RANDOM_KEY_BUCKETS_MAX.min(2 * self.keyspace.buckets() as usize + 1) {
            cursor = self.keyspace.scan(cursor, now.unix_ms, |key| {
                if view.within(key).is_some() {
                    // Each of those in the same place with the same chance.
                    met += 1;
                    if chance.rotate_left(met * 7).is_multiple_of(u64::from(met)) {
                        found = Some(key.to_vec());
                    }
                }
            });
            if found.is_some() {
                break;
            }
        }
        found
    }
}
