//! The options of SET, GETEX, EXPIRE and COPY, parsed into types in which contradictions cannot be said.
//! Errors and their order are Redis's: options first, numbers later.

use crate::clock::Now;
use crate::number::parse_i64;
use crate::reply::ReplyError;
use crate::request::{Args, Durability};

type Parsed<T> = Result<T, ReplyError<'static>>;

/// When a SET takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Condition<'a> {
    #[default]
    Always,
    IfAbsent,
    IfPresent,
    IfEqual(&'a [u8]),
    /// If this is the token of who was told to fill in the key.
    IfTold(&'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Milliseconds,
}

/// A time as it was written: read only when it is needed, because Redis complains about it after
/// everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time<'a> {
    pub amount: &'a [u8],
    pub unit: Unit,
    /// Since the Unix epoch rather than from now.
    pub absolute: bool,
}

/// What happens to the expiry of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ExpiryChange<'a> {
    /// SET: none from now on. GETEX: left alone.
    #[default]
    Default,
    /// SET: left alone.
    Keep,
    /// GETEX: none from now on.
    Persist,
    At(Time<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetOptions<'a> {
    pub condition: Condition<'a>,
    /// Answer with the old value.
    pub get: bool,
    pub expiry: ExpiryChange<'a>,
    /// Other than the server's default.
    pub durability: Option<Durability>,
}

impl<'a> Time<'a> {
    fn option(word: &[u8]) -> Option<(Unit, bool)> {
        Some(match word {
            word if word.eq_ignore_ascii_case(b"EX") => (Unit::Seconds, false),
            word if word.eq_ignore_ascii_case(b"PX") => (Unit::Milliseconds, false),
            word if word.eq_ignore_ascii_case(b"EXAT") => (Unit::Seconds, true),
            word if word.eq_ignore_ascii_case(b"PXAT") => (Unit::Milliseconds, true),
            _ => return None,
        })
    }

    /// The point in time meant, for commands that set values: it must be positive.
    pub fn resolve(self, now: Now, command: &'static str) -> Parsed<u64> {
        let amount = parse_i64(self.amount).ok_or(ReplyError::NotAnInteger)?;
        let invalid = ReplyError::InvalidExpire { command };
        if amount <= 0 {
            return Err(invalid);
        }
        u64::try_from(self.to_unix_ms(amount, now).ok_or(invalid)?).map_err(|_| ReplyError::InvalidExpire { command })
    }

    /// The point in time meant, for EXPIRE and its kin: it may lie before the epoch.
    pub fn resolve_signed(self, now: Now, command: &'static str) -> Parsed<i64> {
        let amount = parse_i64(self.amount).ok_or(ReplyError::NotAnInteger)?;
        self.to_unix_ms(amount, now).ok_or(ReplyError::InvalidExpire { command })
    }

    fn to_unix_ms(self, amount: i64, now: Now) -> Option<i64> {
        let ms = match self.unit {
            Unit::Seconds => amount.checked_mul(1000)?,
            Unit::Milliseconds => amount,
        };
        if self.absolute { Some(ms) } else { ms.checked_add_unsigned(now.unix_ms) }
    }
}

/// `[NX | XX | IFEQ value | FILL token] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]
/// [DURABLE none | async | sync]`. As in Redis an option may be
/// repeated, and the last time counts.
pub fn parse_set<'a>(args: Args<'a>) -> Parsed<SetOptions<'a>> {
    let mut options = SetOptions::default();
    let mut index = 0;
    while index < args.len() {
        let word = args.get(index);
        let next = (index + 1 < args.len()).then(|| args.get(index + 1));
        index += 1;
        if let Some((unit, absolute)) = Time::option(word) {
            let amount = next.ok_or(ReplyError::Syntax)?;
            options.expiry = same_kind_of_time(options.expiry, Time { amount, unit, absolute })?;
            index += 1;
        } else if word.eq_ignore_ascii_case(b"NX") {
            options.condition = match options.condition {
                Condition::Always | Condition::IfAbsent => Condition::IfAbsent,
                _ => return Err(ReplyError::Syntax),
            };
        } else if word.eq_ignore_ascii_case(b"XX") {
            options.condition = match options.condition {
                Condition::Always | Condition::IfPresent => Condition::IfPresent,
                _ => return Err(ReplyError::Syntax),
            };
        } else if word.eq_ignore_ascii_case(b"IFEQ") {
            let value = next.ok_or(ReplyError::Syntax)?;
            options.condition = match options.condition {
                Condition::Always | Condition::IfEqual(_) => Condition::IfEqual(value),
                _ => return Err(ReplyError::Syntax),
            };
            index += 1;
        } else if word.eq_ignore_ascii_case(b"FILL") {
            let token = next.ok_or(ReplyError::Syntax)?;
            options.condition = match options.condition {
                Condition::Always | Condition::IfTold(_) => Condition::IfTold(token),
                _ => return Err(ReplyError::Syntax),
            };
            index += 1;
        } else if word.eq_ignore_ascii_case(b"DURABLE") {
            options.durability = Some(next.and_then(Durability::parse).ok_or(ReplyError::Syntax)?);
            index += 1;
        } else if word.eq_ignore_ascii_case(b"GET") {
            options.get = true;
        } else if word.eq_ignore_ascii_case(b"KEEPTTL") {
            options.expiry = match options.expiry {
                ExpiryChange::Default | ExpiryChange::Keep => ExpiryChange::Keep,
                _ => return Err(ReplyError::Syntax),
            };
        } else {
            return Err(ReplyError::Syntax);
        }
    }
    Ok(options)
}

/// `[EX s | PX ms | EXAT s | PXAT ms | PERSIST]`
pub fn parse_getex<'a>(args: Args<'a>) -> Parsed<ExpiryChange<'a>> {
    let mut expiry = ExpiryChange::Default;
    let mut index = 0;
    while index < args.len() {
        let word = args.get(index);
        let next = (index + 1 < args.len()).then(|| args.get(index + 1));
        index += 1;
        if let Some((unit, absolute)) = Time::option(word) {
            let amount = next.ok_or(ReplyError::Syntax)?;
            expiry = same_kind_of_time(expiry, Time { amount, unit, absolute })?;
            index += 1;
        } else if word.eq_ignore_ascii_case(b"PERSIST") {
            expiry = match expiry {
                ExpiryChange::Default | ExpiryChange::Persist => ExpiryChange::Persist,
                _ => return Err(ReplyError::Syntax),
            };
        } else {
            return Err(ReplyError::Syntax);
        }
    }
    Ok(expiry)
}

fn same_kind_of_time<'a>(before: ExpiryChange<'a>, time: Time<'a>) -> Parsed<ExpiryChange<'a>> {
    match before {
        ExpiryChange::Default => Ok(ExpiryChange::At(time)),
        ExpiryChange::At(other) if other.unit == time.unit && other.absolute == time.absolute => {
            Ok(ExpiryChange::At(time))
        }
        _ => Err(ReplyError::Syntax),
    }
}

/// When an EXPIRE takes place, by the expiry the key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ExpireCondition {
    if_none: bool,
    if_some: bool,
    if_later: bool,
    if_earlier: bool,
}

impl ExpireCondition {
    pub fn parse(args: Args<'_>) -> Parsed<ExpireCondition> {
        let mut condition = ExpireCondition::default();
        for word in args.iter() {
            match word {
                word if word.eq_ignore_ascii_case(b"NX") => condition.if_none = true,
                word if word.eq_ignore_ascii_case(b"XX") => condition.if_some = true,
                word if word.eq_ignore_ascii_case(b"GT") => condition.if_later = true,
                word if word.eq_ignore_ascii_case(b"LT") => condition.if_earlier = true,
                word => {
                    let text = format!("ERR Unsupported option {}", String::from_utf8_lossy(word));
                    return Err(ReplyError::Other(text.into()));
                }
            }
        }
        let ExpireCondition { if_none, if_some, if_later, if_earlier } = condition;
        if if_none && (if_some || if_later || if_earlier) {
            let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
            return Err(ReplyError::Other(text.into()));
        }
        if if_later && if_earlier {
            let text = "ERR GT and LT options at the same time are not compatible";
            return Err(ReplyError::Other(text.into()));
        }
        Ok(condition)
    }

    /// Whether a key that expires at `current` may get the expiry `new`; no expiry is later than any.
    pub fn allows(self, current: Option<u64>, new_ms: i64) -> bool {
        let current_ms = current.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        !(self.if_none && current.is_some()
            || self.if_some && current.is_none()
            || self.if_later && current_ms.is_none_or(|current_ms| new_ms <= current_ms)
            || self.if_earlier && current_ms.is_some_and(|current_ms| new_ms >= current_ms))
    }
}

/// `[DB n] [REPLACE]`; whether to replace.
pub fn parse_copy(args: Args<'_>) -> Parsed<bool> {
    let mut replace = false;
    let mut index = 0;
    while index < args.len() {
        let word = args.get(index);
        if word.eq_ignore_ascii_case(b"REPLACE") {
            replace = true;
        } else if word.eq_ignore_ascii_case(b"DB") && index + 1 < args.len() {
            index += 1;
            let db = parse_i64(args.get(index)).ok_or(ReplyError::NotAnInteger)?;
            if i32::try_from(db).is_err() {
                let text = "ERR value is out of range, value must between -2147483648 and 2147483647";
                return Err(ReplyError::Other(text.into()));
            }
            if db != 0 {
                return Err(ReplyError::Other("ERR DB index is out of range".into()));
            }
        } else {
            return Err(ReplyError::Syntax);
        }
        index += 1;
    }
    Ok(replace)
}
