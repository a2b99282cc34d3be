//! Commands about more keys than a core may look up in one go: MGET, DEL, UNLINK, EXISTS and TOUCH, a portion of
//! the keys after the other, one portion per turn. Other clients' commands come in between, as they do between cores.

use bytes::Bytes;

use super::batch::{Batch, Job, Token};
use super::gather::Ask;
use super::written::Written;
use crate::command::{Op, Spec};
use crate::reply::Reply;
use crate::request::{Args, Wire};
use crate::slot;

/// Commands with more keys than this come in portions of as many at most.
pub const PORTION_KEYS_MAX: usize = 1024;
/// How many keys the first portion of an MGET has, whose values may be long, and later ones at least.
const VALUES_FIRST: usize = 64;
const VALUES_MIN: usize = 16;
/// What the values of a portion are to be together.
const PORTION_BYTES: usize = 256 * 1024;

pub struct Portions {
    spec: &'static Spec,
    cores: u32,
    /// The command, with all its keys.
    command: Box<Batch>,
    /// Keys asked for so far, and how many the next portion has.
    next: usize,
    keys_max: usize,
    /// Of the portion under way: where the values of each core belong, and those that have come.
    places: Vec<Vec<u32>>,
    values: Vec<Reply<'static>>,
    found: Found,
    /// What may be written for one client.
    bytes_max: usize,
}

pub enum Found {
    Sum(i64),
    /// As bytes, or as they are for protocols that have to know their number first.
    Written(Written),
    Values(Vec<Reply<'static>>),
}

impl Portions {
    pub fn takes(spec: &Spec, keys: usize) -> bool {
        keys > PORTION_KEYS_MAX && matches!(spec.op, Op::MGet | Op::Del | Op::Unlink | Op::Exists | Op::Touch)
    }

    pub fn new(spec: &'static Spec, args: Args<'_>, wire: Wire, cores: u32, bytes_max: usize) -> Portions {
        let mut command = Box::<Batch>::default();
        command.push(Token::Nobody, Job::Command, wire, spec, 0, args);
        let (found, keys_max) = match (spec.op, Written::is_for(wire)) {
            (Op::MGet, true) => (Found::Written(Written::new(wire)), VALUES_FIRST),
            (Op::MGet, false) => (Found::Values(Vec::new()), VALUES_FIRST),
            _ => (Found::Sum(0), PORTION_KEYS_MAX),
        };
        let (places, values) = (vec![Vec::new(); cores as usize], Vec::new());
        Portions { spec, cores, command, next: 0, keys_max, places, values, found, bytes_max }
    }

    /// The questions of the next portion; none after the last.
    pub fn next(&mut self) -> Vec<Ask> {
        let args = self.command.args_of(&self.command.commands[0]);
        let count = self.keys_max.min(args.len() - self.next);
        let keys = args.slice(self.next, count);
        self.next += count;
        self.places.iter_mut().for_each(Vec::clear);
        let mut asked: Vec<Vec<Bytes>> = vec![Vec::new(); self.cores as usize];
        for (place, key) in keys.iter().enumerate() {
            let core = slot::owner_of_slot(slot::slot_of(key), self.cores) as usize;
            self.places[core].push(place as u32);
            asked[core].push(keys.to_bytes(place));
        }
        self.values.clear();
        self.values.resize(if self.spec.op == Op::MGet { count } else { 0 }, Reply::Nil);
        let asked = asked.into_iter().enumerate().filter(|(_, keys)| !keys.is_empty());
        let ask = |(core, args)| Ask { core: core as u32, part: core as u32, job: Job::Command, spec: self.spec, args };
        asked.map(ask).collect()
    }

    /// What a core says of its part; the error if it has none.
    pub fn take(&mut self, part: u32, reply: Reply<'static>) -> Result<(), Reply<'static>> {
        match (&mut self.found, reply) {
            (Found::Sum(sum), Reply::Int(count)) => *sum += count,
            (Found::Written(_) | Found::Values(_), Reply::Array(found)) => {
                for (value, place) in found.into_iter().zip(&self.places[part as usize]) {
                    self.values[*place as usize] = value;
                }
            }
            (_, error) => return Err(error),
        }
        Ok(())
    }

    /// All parts of the portion have come. False when the reply would be larger than a client's output may be.
    pub fn finish_portion(&mut self) -> bool {
        let bytes: usize = self.values.iter().map(Reply::kept_bytes).sum();
        match &mut self.found {
            Found::Sum(_) => return true,
            Found::Written(written) => self.values.drain(..).for_each(|value| written.push(&value)),
            Found::Values(values) => values.append(&mut self.values),
        }
        self.keys_max = (self.keys_max * PORTION_BYTES / bytes.max(1)).clamp(VALUES_MIN, PORTION_KEYS_MAX);
        match self.bytes_max.checked_sub(bytes) {
            Some(rest) => self.bytes_max = rest,
            None => return false,
        }
        true
    }

    /// What was found, at the end.
    pub fn found(&mut self) -> Found {
        std::mem::replace(&mut self.found, Found::Sum(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::request::ArgRange;

    fn with_keys(name: &str, count: usize, run: impl FnOnce(&'static Spec, Args<'_>)) {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for key in 0..count {
            let key = format!("key:{key}");
            ranges.push(ArgRange::inline(bytes.len(), key.len()));
            bytes.extend_from_slice(key.as_bytes());
        }
        run(lookup(name.as_bytes()).expect("a command"), Args::new(&bytes, &ranges, &[]));
    }

    #[test]
    fn all_keys_are_asked_for_in_order_and_few_at_a_time() {
        for (wire, value_bytes) in [(Wire::Resp2, 10), (Wire::Resp3, 30_000), (Wire::Binary, 1_000)] {
            with_keys("MGET", 5_000, |spec, args| {
                let mut portions = Portions::new(spec, args, wire, 3, usize::MAX);
                let mut asked = 0;
                loop {
                    let asks = portions.next();
                    if asks.is_empty() {
                        break;
                    }
                    let keys: usize = asks.iter().map(|ask| ask.args.len()).sum();
                    assert!(
                        keys <= PORTION_KEYS_MAX && keys * value_bytes <= 4 * PORTION_BYTES.max(VALUES_FIRST * 30_000)
                    );
                    asked += keys;
                    for ask in asks.into_iter().rev() {
                        let value = |key: &Bytes| {
                            let mut value = key.to_vec();
                            value.resize(value_bytes, b'v');
                            Reply::Owned(value)
                        };
                        portions.take(ask.part, Reply::Array(ask.args.iter().map(value).collect())).expect("values");
                    }
                    assert!(portions.finish_portion());
                }
                assert_eq!(asked, 5_000);
                let values: Vec<Reply<'_>> = (0..5_000)
                    .map(|key| {
                        let mut value = format!("key:{key}").into_bytes();
                        value.resize(value_bytes, b'v');
                        Reply::Owned(value)
                    })
                    .collect();
                match portions.found() {
                    Found::Values(found) => assert!(found == values),
                    Found::Written(written) => {
                        let mut expected = crate::reply::Out::default();
                        crate::proto::encode(wire, &Reply::Array(values), &mut expected);
                        assert!(written.into_out().to_vec() == expected.to_vec());
                    }
                    Found::Sum(_) => panic!("MGET adds nothing up"),
                }
            });
        }
    }

    #[test]
    fn sums_add_up_and_errors_and_bounds_end_it() {
        with_keys("DEL", 3_000, |spec, args| {
            let mut portions = Portions::new(spec, args, Wire::Resp2, 1, 100);
            let mut sizes = Vec::new();
            while let [ask] = &portions.next()[..] {
                sizes.push(ask.args.len());
                portions.take(0, Reply::Int(ask.args.len() as i64)).expect("a number");
                assert!(portions.finish_portion());
            }
            assert_eq!(sizes, [1024, 1024, 952]);
            assert!(matches!(portions.found(), Found::Sum(3_000)));
            assert_eq!(portions.take(0, Reply::error("ERR no")), Err(Reply::error("ERR no")));
        });
        with_keys("MGET", 3_000, |spec, args| {
            let mut portions = Portions::new(spec, args, Wire::Resp2, 1, 100);
            assert_eq!(portions.next().len(), 1);
            portions.take(0, Reply::Array(vec![Reply::Owned(vec![b'x'; 101])])).expect("values");
            assert!(!portions.finish_portion());
        });
    }
}
