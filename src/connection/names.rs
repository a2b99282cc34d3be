//! Keys as they are called within the connection's namespace, and MOVE and COPY into another database: from here on
//! every key has its full name.

use bytes::Bytes;

use super::Connection;
use super::turn::{Source, TurnBatch};
use crate::command::{Op, Spec};
use crate::namespace::{DATABASES, prefix_of};
use crate::number::parse_i64;
use crate::reply::{Reply, ReplyError};
use crate::request::{ArgRange, Args};

/// Where the arguments of the command at hand begin.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub args_from: usize,
    pub large_from: usize,
}

impl Connection {
    /// What stands before every key that the connection names.
    pub fn key_prefix(&self) -> &[u8] {
        &self.key_prefix
    }

    /// From now on keys are those of the namespace `name`; none is the global one.
    pub fn enter_namespace(&mut self, name: &[u8]) {
        self.key_prefix = prefix_of(name).into();
    }

    /// Gives the keys of a command their full names. Says where its arguments are now.
    pub(super) fn name_keys(
        &self,
        spec: &Spec,
        source: Source,
        input: &[u8],
        place: Place,
        batch: &mut TurnBatch,
    ) -> Result<Source, Reply<'static>> {
        if spec.group == "pubsub" || spec.keys.first == 0 {
            return Ok(source);
        }
        let other = match spec.op {
            Op::Move => Some(self.target_of_move(source, input, place, batch)?),
            Op::Copy => self.target_of_copy(source, input, place, batch),
            _ => None,
        };
        if self.key_prefix.is_empty() && other.is_none() {
            return Ok(source);
        }
        let count = batch.arguments.ranges.len() - place.args_from;
        let mut keys = spec.key_args(count).peekable();
        for arg in 0..count {
            let range = batch.arguments.ranges[place.args_from + arg];
            let is_key = keys.next_if_eq(&arg).is_some();
            let start = batch.arguments.scratch.len();
            match &other {
                _ if !is_key => {}
                Some(other) if arg == 1 => batch.arguments.scratch.extend_from_slice(other),
                _ => batch.arguments.scratch.extend_from_slice(&self.key_prefix),
            }
            match (range.large_index(), range.span()) {
                (Some(_), _) if !is_key => continue,
                (Some(index), _) => {
                    let key: &Bytes = &batch.large[place.large_from + index];
                    batch.arguments.scratch.extend_from_slice(key);
                }
                (None, Some((from, len))) if source == Source::Scratch => {
                    batch.arguments.scratch.extend_from_within(from..from + len);
                }
                (None, Some((from, len))) => batch.arguments.scratch.extend_from_slice(&input[from..from + len]),
                (None, None) => unreachable!("an argument is here or large"),
            }
            let len = batch.arguments.scratch.len() - start;
            batch.arguments.ranges[place.args_from + arg] = ArgRange::inline(start, len);
        }
        Ok(Source::Scratch)
    }

    /// `MOVE key db` becomes `MOVE key key`, of which the second gets the prefix that is returned.
    fn target_of_move(
        &self,
        source: Source,
        input: &[u8],
        place: Place,
        batch: &mut TurnBatch,
    ) -> Result<Vec<u8>, Reply<'static>> {
        let database = parse_i64(args_of(source, input, place, batch).get(1)).ok_or(ReplyError::NotAnInteger)?;
        let database = database_within(database).ok_or_else(|| Reply::error("ERR DB index is out of range"))?;
        let key = batch.arguments.ranges[place.args_from];
        batch.arguments.ranges[place.args_from + 1] = key;
        Ok(prefix_of(&self.databases.namespace_of(database)))
    }

    /// The `DB n` of COPY is taken out; what is wrong with it otherwise is said by who carries the command out.
    fn target_of_copy(&self, source: Source, input: &[u8], place: Place, batch: &mut TurnBatch) -> Option<Vec<u8>> {
        let args = args_of(source, input, place, batch);
        let at = (2..args.len().saturating_sub(1)).find(|&arg| args.get(arg).eq_ignore_ascii_case(b"DB"))?;
        let database = database_within(parse_i64(args.get(at + 1))?)?;
        let first = place.args_from + at;
        batch.arguments.ranges.drain(first..first + 2);
        Some(prefix_of(&self.databases.namespace_of(database)))
    }
}

fn database_within(number: i64) -> Option<u8> {
    u8::try_from(number).ok().filter(|&database| database < DATABASES)
}

fn args_of<'a>(source: Source, input: &'a [u8], place: Place, batch: &'a TurnBatch) -> Args<'a> {
    let bytes = if source == Source::Scratch { &batch.arguments.scratch } else { input };
    Args::new(bytes, &batch.arguments.ranges[place.args_from..], &batch.large[place.large_from..])
}
