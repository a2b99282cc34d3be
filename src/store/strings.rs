//! Commands about string values.

use bytes::Bytes;

use super::extended::{Extended, Parsed};
use super::keyspace::{FirstLook, Found, Write};
use super::options::{Condition, ExpiryChange, SetOptions, Time, Unit, parse_getex, parse_set};
use super::{Effects, OutOfMemory, Shard, ValueRef, key_too_long};
use crate::clock::Now;
use crate::limits::{KEY_BYTES_MAX, LARGE_VALUE_BYTES_MIN};
use crate::number::parse_i64;
use crate::reply::{Reply, ReplyError};
use crate::request::{Args, Call};

type Tried<T> = Result<T, ReplyError<'static>>;

/// An argument as a value, with its memory if it travelled in memory of its own.
#[inline]
fn value_arg<'a>(args: &Args<'a>, index: usize) -> ValueRef<'a> {
    match args.large(index) {
        Some(value) => ValueRef::Large(value),
        None => ValueRef::Small(args.get(index)),
    }
}

/// The second argument as the value of `key`, which does not expire.
#[inline(always)]
fn plain<'a>(call: &Call<'a>, key: &'a [u8], now: Now) -> Write<'a> {
    Write { hash: call.hash, key, value: value_arg(&call.args, 1), expires_at_ms: None, now_ms: now.unix_ms }
}

#[inline(always)]
fn reply_with(value: ValueRef<'_>) -> Reply<'_> {
    match value {
        ValueRef::Small(value) => Reply::Bulk(value),
        ValueRef::Large(value) => reply_with_large(value),
    }
}

#[inline(never)]
fn reply_with_large(value: &Bytes) -> Reply<'static> {
    Reply::Large(value.clone())
}

#[inline(always)]
fn done(stored: Result<(), OutOfMemory>) -> Reply<'static> {
    match stored {
        Ok(()) => Reply::Ok,
        Err(error) => Reply::Error(error.into()),
    }
}

/// A value that is no longer in the keyspace when the reply shows it.
enum Former {
    Absent,
    /// It was copied to `scratch`.
    Copied,
    Large(Bytes),
}

impl Shard {
    // GET, SET and INCR decide almost always at the first look. What they do then is kept free of calls to
    // the general look-up: it would make each of them a third slower.

    #[inline(never)]
    pub(super) fn get<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let key = call.args.get(0);
        match self.keyspace.find_first(call.hash, key) {
            FirstLook::Found(found) => self.get_found(call.hash, key, found, now, effects),
            FirstLook::Absent => self.get_absent(call.hash, key, effects),
            FirstLook::Unsure => self.get_after_search(call, now, effects),
        }
    }

    #[inline(never)]
    fn get_after_search<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let key = call.args.get(0);
        match self.keyspace.find(call.hash, key) {
            Some(found) => self.get_found(call.hash, key, found, now, effects),
            None => self.get_absent(call.hash, key, effects),
        }
    }

    #[inline(always)]
    fn get_found<E: Effects>(&mut self, hash: u64, key: &[u8], found: Found, now: Now, effects: &mut E) -> Reply<'_> {
        let Some(found) = self.unless_expired(key, found, now, effects) else {
            return self.get_absent(hash, key, effects);
        };
        self.count_hit(hash, key, found);
        self.keyspace.touch(hash, found, true);
        reply_with(self.keyspace.value(found))
    }

    #[inline(always)]
    fn get_absent<E: Effects>(&mut self, hash: u64, key: &[u8], effects: &mut E) -> Reply<'_> {
        if key.len() > KEY_BYTES_MAX {
            return Reply::Error(key_too_long());
        }
        self.count_miss(key);
        self.keyspace.missed(hash);
        effects.miss(key);
        Reply::Nil
    }

    #[inline(never)]
    pub(super) fn set<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        if call.args.len() > 2 {
            return self.set_with_options(call, now, effects);
        }
        let key = call.args.get(0);
        match self.keyspace.find_first(call.hash, key) {
            FirstLook::Found(found) => self.set_found(call, key, found, now, effects),
            FirstLook::Absent => self.set_absent(call, key, now, effects),
            FirstLook::Unsure => self.set_after_search(call, now, effects),
        }
    }

    #[inline(never)]
    fn set_after_search<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let key = call.args.get(0);
        match self.keyspace.find(call.hash, key) {
            Some(found) => self.set_found(call, key, found, now, effects),
            None => self.set_absent(call, key, now, effects),
        }
    }

    #[inline(always)]
    fn set_found<E: Effects>(
        &mut self,
        call: &Call<'_>,
        key: &[u8],
        found: Found,
        now: Now,
        effects: &mut E,
    ) -> Reply<'_> {
        if self.unless_expired(key, found, now, effects).is_none() {
            return self.set_absent(call, key, now, effects);
        }
        done(self.store(plain(call, key, now), Some(found), effects))
    }

    #[inline(never)]
    fn set_absent<E: Effects>(&mut self, call: &Call<'_>, key: &[u8], now: Now, effects: &mut E) -> Reply<'_> {
        if key.len() > KEY_BYTES_MAX {
            return Reply::Error(key_too_long());
        }
        done(self.store(plain(call, key, now), None, effects))
    }

    fn set_with_options<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let options = match parse_set(call.args.from(2)) {
            Ok(options) => options,
            Err(error) => return Reply::Error(error),
        };
        self.set_as(call, value_arg(&call.args, 1), options, now, effects)
    }

    /// `PUT key value [seconds]`
    pub(super) fn put<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let expiry = match call.args.len() {
            2 => ExpiryChange::Default,
            3 => ExpiryChange::At(Time { amount: call.args.get(2), unit: Unit::Seconds, absolute: false }),
            _ => return Reply::Error(ReplyError::WrongArity { command: call.spec.name.into() }),
        };
        let options = SetOptions { expiry, ..SetOptions::default() };
        self.set_as(call, value_arg(&call.args, 1), options, now, effects)
    }

    /// `SETEX key seconds value`, `PSETEX key milliseconds value`
    pub(super) fn set_for<E: Effects>(&mut self, call: &Call<'_>, unit: Unit, now: Now, effects: &mut E) -> Reply<'_> {
        let expiry = ExpiryChange::At(Time { amount: call.args.get(1), unit, absolute: false });
        let options = SetOptions { expiry, ..SetOptions::default() };
        self.set_as(call, value_arg(&call.args, 2), options, now, effects)
    }

    pub(super) fn set_if_absent<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let options = SetOptions { condition: Condition::IfAbsent, ..SetOptions::default() };
        match self.set_as(call, value_arg(&call.args, 1), options, now, effects) {
            Reply::Ok => Reply::Int(1),
            Reply::Nil => Reply::Int(0),
            other => other,
        }
    }

    pub(super) fn get_and_set<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let options = SetOptions { get: true, ..SetOptions::default() };
        self.set_as(call, value_arg(&call.args, 1), options, now, effects)
    }

    fn set_as<E: Effects>(
        &mut self,
        call: &Call<'_>,
        value: ValueRef<'_>,
        options: SetOptions<'_>,
        now: Now,
        effects: &mut E,
    ) -> Reply<'_> {
        match self.try_set(call, value, options, now, effects) {
            Err(error) => Reply::Error(error),
            Ok((_, former)) if options.get => self.reply_with_former(former),
            Ok((true, _)) => Reply::Ok,
            Ok((false, _)) => Reply::Nil,
        }
    }

    /// Whether the value was set, and the old one if it is asked for.
    fn try_set<E: Effects>(
        &mut self,
        call: &Call<'_>,
        value: ValueRef<'_>,
        options: SetOptions<'_>,
        now: Now,
        effects: &mut E,
    ) -> Tried<(bool, Former)> {
        let expires_at_ms = match options.expiry {
            ExpiryChange::At(time) => {
                let expires_at_ms = time.resolve(now, call.spec.name)?;
                Some(self.jittered(time, expires_at_ms, now))
            }
            _ => None,
        };
        if let Some(durability) = options.durability
            && !effects.promise(durability)
        {
            return Err(ReplyError::Other("ERR DURABLE needs a log: start the server with --data-dir".into()));
        }
        let key = call.args.get(0);
        let found = if options.get {
            self.live_to_read(call.hash, key, now, effects)
        } else {
            self.live(call.hash, key, now, effects)
        };
        let former = match found {
            Some(found) if options.get => self.keep_former(found),
            _ => Former::Absent,
        };
        let allowed = match (options.condition, found) {
            (Condition::Always, _) => true,
            (Condition::IfAbsent, found) => found.is_none(),
            (Condition::IfPresent, found) => found.is_some(),
            (Condition::IfEqual(expected), Some(found)) => self.keyspace.value(found).bytes() == expected,
            (Condition::IfEqual(_), None) => false,
            (Condition::IfTold(token), _) => effects.fills(key, token),
        };
        if !allowed {
            return Ok((false, former));
        }
        let expires_at_ms = match (options.expiry, found) {
            (ExpiryChange::Keep, Some(found)) => self.keyspace.expires_at_ms(found),
            _ => expires_at_ms,
        };
        if expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms < now.unix_ms) {
            // Nobody could ever see the value.
            effects.set_in_vain(key, found.is_none());
            if let Some(found) = found {
                self.remove(key, found, effects);
            }
        } else {
            self.store(Write { hash: call.hash, key, value, expires_at_ms, now_ms: now.unix_ms }, found, effects)?;
        }
        Ok((true, former))
    }

    fn keep_former(&mut self, found: Found) -> Former {
        match self.keyspace.value(found) {
            ValueRef::Large(value) => Former::Large(value.clone()),
            ValueRef::Small(value) => {
                self.scratch.clear();
                self.scratch.extend_from_slice(value);
                Former::Copied
            }
        }
    }

    fn reply_with_former(&self, former: Former) -> Reply<'_> {
        match former {
            Former::Absent => Reply::Nil,
            Former::Copied => Reply::Bulk(&self.scratch),
            Former::Large(value) => Reply::Large(value),
        }
    }

    pub(super) fn get_and_delete<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let key = call.args.get(0);
        let Some(found) = self.live_to_read(call.hash, key, now, effects) else {
            return Reply::Nil;
        };
        let former = self.keep_former(found);
        self.remove(key, found, effects);
        self.reply_with_former(former)
    }

    pub(super) fn get_and_expire<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        match self.try_get_and_expire(call, now, effects) {
            Ok(former) => self.reply_with_former(former),
            Err(error) => Reply::Error(error),
        }
    }

    fn try_get_and_expire<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Tried<Former> {
        let change = parse_getex(call.args.from(1))?;
        let key = call.args.get(0);
        let Some(found) = self.live_to_read(call.hash, key, now, effects) else {
            return Ok(Former::Absent);
        };
        let expires_at_ms = match change {
            ExpiryChange::At(time) => {
                let expires_at_ms = time.resolve(now, call.spec.name)?;
                Some(self.jittered(time, expires_at_ms, now))
            }
            _ => None,
        };
        let former = self.keep_former(found);
        match (change, expires_at_ms) {
            (_, Some(expires_at_ms)) if expires_at_ms <= now.unix_ms => self.remove(key, found, effects),
            (ExpiryChange::At(_), _) => {
                self.change_expiry(key, found, expires_at_ms, now, effects)?;
            }
            (ExpiryChange::Persist, _) if self.keyspace.expires_at_ms(found).is_some() => {
                self.change_expiry(key, found, None, now, effects)?;
            }
            _ => {}
        }
        Ok(former)
    }

    pub(super) fn get_many<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        // Expired keys go first; then nothing changes any more, and the values can be borrowed.
        for key in call.args.iter() {
            self.live_to_read(self.keyspace.hasher.hash(key), key, now, effects);
        }
        let keyspace = &self.keyspace;
        let values = call.args.iter().map(|key| match keyspace.find(keyspace.hasher.hash(key), key) {
            Some(found) => reply_with(keyspace.value(found)),
            None => Reply::Nil,
        });
        Reply::Array(values.collect())
    }

    pub(super) fn set_many<E: Effects>(
        &mut self,
        call: &Call<'_>,
        if_none_exists: bool,
        now: Now,
        effects: &mut E,
    ) -> Reply<'_> {
        if !call.args.len().is_multiple_of(2) {
            return Reply::Error(ReplyError::WrongArity { command: call.spec.name.into() });
        }
        let places = (0..call.args.len()).step_by(2);
        if if_none_exists && places.clone().any(|at| self.contains(call.args.get(at), now, effects)) {
            return Reply::Int(0);
        }
        for at in places {
            let key = call.args.get(at);
            let hash = self.keyspace.hasher.hash(key);
            let found = self.live(hash, key, now, effects);
            let value = value_arg(&call.args, at + 1);
            let write = Write { hash, key, value, expires_at_ms: None, now_ms: now.unix_ms };
            if let Err(error) = self.store(write, found, effects) {
                return Reply::Error(error.into());
            }
        }
        if if_none_exists { Reply::Int(1) } else { Reply::Ok }
    }

    pub(super) fn value_length<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        match self.live_to_read(call.hash, call.args.get(0), now, effects) {
            Some(found) => Reply::Int(self.keyspace.value_bytes(found) as i64),
            None => Reply::Int(0),
        }
    }

    /// `GETRANGE key start end`: negative places count from the end, both ends are included.
    pub(super) fn get_range<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let (Some(start), Some(end)) = (parse_i64(call.args.get(1)), parse_i64(call.args.get(2))) else {
            return Reply::Error(ReplyError::NotAnInteger);
        };
        let Some(found) = self.live_to_read(call.hash, call.args.get(0), now, effects) else {
            return Reply::Bulk(b"");
        };
        let value = self.keyspace.value(found);
        let len = value.bytes().len() as i64;
        if start < 0 && end < 0 && start > end {
            return Reply::Bulk(b"");
        }
        let from_end = |place: i64| if place < 0 { place.saturating_add(len).max(0) } else { place };
        let (start, end) = (from_end(start), from_end(end).min(len - 1));
        if start > end {
            return Reply::Bulk(b"");
        }
        let range = start as usize..end as usize + 1;
        match value {
            ValueRef::Large(value) if range.len() >= LARGE_VALUE_BYTES_MIN => Reply::Large(value.slice(range)),
            value => Reply::Bulk(&value.bytes()[range]),
        }
    }

    /// `SETRANGE key offset part`
    pub(super) fn set_range<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let Some(offset) = parse_i64(call.args.get(1)) else {
            return Reply::Error(ReplyError::NotAnInteger);
        };
        let Ok(offset) = u64::try_from(offset) else {
            return Reply::Error(ReplyError::OffsetOutOfRange);
        };
        let found = self.live(call.hash, call.args.get(0), now, effects);
        let part = call.args.get(2);
        if part.is_empty() {
            return Reply::Int(found.map_or(0, |found| self.keyspace.value_bytes(found)) as i64);
        }
        self.write_at(call, found, offset, part, now, effects)
    }

    pub(super) fn append<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        let Some(found) = self.live(call.hash, call.args.get(0), now, effects) else {
            let write = plain(call, call.args.get(0), now);
            return match self.store(write, None, effects) {
                Ok(()) => Reply::Int(write.value.bytes().len() as i64),
                Err(error) => Reply::Error(error.into()),
            };
        };
        let offset = self.keyspace.value_bytes(found) as u64;
        self.write_at(call, Some(found), offset, call.args.get(1), now, effects)
    }

    /// Writes `part` into the value at `offset`, filled up with zeros to there; answers the new length.
    fn write_at<E: Effects>(
        &mut self,
        call: &Call<'_>,
        found: Option<Found>,
        offset: u64,
        part: &[u8],
        now: Now,
        effects: &mut E,
    ) -> Reply<'_> {
        let end = offset.saturating_add(part.len() as u64);
        if end > self.value_bytes_max as u64 {
            return Reply::Error(ReplyError::StringTooLong);
        }
        let (offset, end) = (offset as usize, end as usize);
        let key = call.args.get(0);
        let old_len = found.map_or(0, |found| self.keyspace.value_bytes(found));
        let new_len = old_len.max(end);
        let expires_at_ms = found.and_then(|found| self.keyspace.expires_at_ms(found));
        if let Some(found) = found
            && self.keyspace.bytes_apart(found) > 0
            && !self.keyspace.has_room_for_large((new_len - old_len) as u64)
        {
            self.counters.refused += 1;
            return Reply::Error(OutOfMemory.into());
        }
        // What is limited is looked at like any other write.
        let is_limited = found.is_some_and(|found| found.head.is_namespaced()) && self.keyspace.namespaces.is_limited();
        if let Some(found) = found
            && !is_limited
            && self.keyspace.edit_large(found, |value| {
                value.resize(new_len, 0);
                value[offset..end].copy_from_slice(part);
            })
        {
            let value = self.keyspace.value(found);
            if offset == old_len {
                effects.append(key, part, value, expires_at_ms);
            } else {
                effects.set(key, value, expires_at_ms);
            }
            self.counters.writes += 1;
            self.keyspace.touch(call.hash, found, true);
            self.keyspace.settle(part.len(), now.unix_ms, &mut self.counters, effects);
            return Reply::Int(new_len as i64);
        }
        let old = found.map_or(&b""[..], |found| self.keyspace.value(found).bytes());
        let mut value = std::mem::take(&mut self.scratch);
        value.clear();
        value.reserve(new_len);
        value.extend_from_slice(old);
        value.resize(new_len, 0);
        value[offset..end].copy_from_slice(part);
        let write = |value| Write { hash: call.hash, key, value, expires_at_ms, now_ms: now.unix_ms };
        let stored = if new_len < LARGE_VALUE_BYTES_MIN {
            let stored = self.store(write(ValueRef::Small(&value)), found, effects);
            self.scratch = value;
            stored
        } else {
            self.store(write(ValueRef::Large(&value.into())), found, effects)
        };
        match stored {
            Ok(()) => Reply::Int(new_len as i64),
            Err(error) => Reply::Error(error.into()),
        }
    }

    pub(super) fn increment_by<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        match parse_i64(call.args.get(1)) {
            Some(amount) => self.increment(call, amount, now, effects),
            None => Reply::Error(ReplyError::NotAnInteger),
        }
    }

    pub(super) fn decrement_by<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        match parse_i64(call.args.get(1)).map(i64::checked_neg) {
            Some(Some(amount)) => self.increment(call, amount, now, effects),
            Some(None) => Reply::error("ERR decrement would overflow"),
            None => Reply::Error(ReplyError::NotAnInteger),
        }
    }

    #[inline(never)]
    pub(super) fn increment<E: Effects>(
        &mut self,
        call: &Call<'_>,
        amount: i64,
        now: Now,
        effects: &mut E,
    ) -> Reply<'_> {
        let key = call.args.get(0);
        match self.keyspace.find_first(call.hash, key) {
            FirstLook::Found(found) => self.increment_found(call, key, found, amount, now, effects),
            FirstLook::Absent => self.increment_absent(call, key, amount, now, effects),
            FirstLook::Unsure => self.increment_after_search(call, amount, now, effects),
        }
    }

    #[inline(never)]
    fn increment_after_search<E: Effects>(
        &mut self,
        call: &Call<'_>,
        amount: i64,
        now: Now,
        effects: &mut E,
    ) -> Reply<'_> {
        let key = call.args.get(0);
        match self.keyspace.find(call.hash, key) {
            Some(found) => self.increment_found(call, key, found, amount, now, effects),
            None => self.increment_absent(call, key, amount, now, effects),
        }
    }

    #[inline(always)]
    fn increment_found<E: Effects>(
        &mut self,
        call: &Call<'_>,
        key: &[u8],
        found: Found,
        amount: i64,
        now: Now,
        effects: &mut E,
    ) -> Reply<'_> {
        if self.unless_expired(key, found, now, effects).is_none() {
            return self.increment_absent(call, key, amount, now, effects);
        }
        let Some(old) = parse_i64(self.keyspace.value(found).bytes()) else {
            return Reply::Error(ReplyError::NotAnInteger);
        };
        let Some(new) = old.checked_add(amount) else {
            return Reply::Error(ReplyError::Overflow);
        };
        let expires_at_ms = self.keyspace.expires_at_ms(found);
        let mut digits = itoa::Buffer::new();
        let value = ValueRef::Small(digits.format(new).as_bytes());
        let write = Write { hash: call.hash, key, value, expires_at_ms, now_ms: now.unix_ms };
        match self.store(write, Some(found), effects) {
            Ok(()) => Reply::Int(new),
            Err(error) => Reply::Error(error.into()),
        }
    }

    #[inline(never)]
    fn increment_absent<E: Effects>(
        &mut self,
        call: &Call<'_>,
        key: &[u8],
        amount: i64,
        now: Now,
        effects: &mut E,
    ) -> Reply<'_> {
        if key.len() > KEY_BYTES_MAX {
            return Reply::Error(key_too_long());
        }
        let mut digits = itoa::Buffer::new();
        let value = ValueRef::Small(digits.format(amount).as_bytes());
        let write = Write { hash: call.hash, key, value, expires_at_ms: None, now_ms: now.unix_ms };
        match self.store(write, None, effects) {
            Ok(()) => Reply::Int(amount),
            Err(error) => Reply::Error(error.into()),
        }
    }

    pub(super) fn increment_by_float<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Reply<'_> {
        match self.try_increment_by_float(call, now, effects) {
            Ok(value) => Reply::Text(value.into()),
            Err(error) => Reply::Error(error),
        }
    }

    fn try_increment_by_float<E: Effects>(&mut self, call: &Call<'_>, now: Now, effects: &mut E) -> Tried<String> {
        let key = call.args.get(0);
        let found = self.live(call.hash, key, now, effects);
        let (old, expires_at_ms) = match found {
            None => (Some(Parsed::Finite(Extended::ZERO)), None),
            Some(found) => (Extended::parse(self.keyspace.value(found).bytes()), self.keyspace.expires_at_ms(found)),
        };
        let old = old.ok_or(ReplyError::NotAFloat)?;
        let amount = Extended::parse(call.args.get(1)).ok_or(ReplyError::NotAFloat)?;
        let (Parsed::Finite(old), Parsed::Finite(amount)) = (old, amount) else {
            return Err(ReplyError::NanOrInfinity);
        };
        let text = old.add(amount).ok_or(ReplyError::NanOrInfinity)?.to_text();
        let value = ValueRef::Small(text.as_bytes());
        self.store(Write { hash: call.hash, key, value, expires_at_ms, now_ms: now.unix_ms }, found, effects)?;
        Ok(text)
    }
}
