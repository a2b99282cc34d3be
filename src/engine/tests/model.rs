//! What Redis would answer, in the plainest way: one map, one command at a time. Time stands still.

use std::collections::BTreeMap;

use crate::reply::{Reply, ReplyError};

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    value: Vec<u8>,
    ttl_seconds: Option<i64>,
}

#[derive(Default)]
pub struct Model {
    entries: BTreeMap<Vec<u8>, Entry>,
}

fn bulk(value: Option<&Entry>) -> Reply<'static> {
    value.map_or(Reply::Nil, |entry| Reply::owned(entry.value.clone()))
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Model {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.keys().map(Vec::as_slice)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.entries.contains_key(key)
    }

    pub fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key).map(|entry| entry.value.as_slice())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.entries.insert(key.to_vec(), Entry { value: value.to_vec(), ttl_seconds: None });
    }

    /// The reply to a command that touches nothing but keys.
    pub fn apply(&mut self, words: &[&[u8]]) -> Reply<'static> {
        let args = &words[1..];
        let key = args.first().copied().unwrap_or_default();
        let count = |count: usize| Reply::Int(count as i64);
        match words[0].to_ascii_uppercase().as_slice() {
            b"PING" if args.is_empty() => Reply::Pong,
            b"PING" | b"ECHO" => Reply::owned(args[0]),
            b"GET" => bulk(self.entries.get(key)),
            b"SET" => self.set(key, args[1], &args[2..]),
            b"PUT" => {
                self.put(key, args[1]);
                Reply::Ok
            }
            b"SETNX" => {
                let is_new = !self.contains(key);
                if is_new {
                    self.put(key, args[1]);
                }
                count(is_new.into())
            }
            b"GETSET" => {
                let old = bulk(self.entries.get(key));
                self.put(key, args[1]);
                old
            }
            b"GETDEL" => bulk(self.entries.remove(key).as_ref()),
            b"APPEND" => {
                let entry = self.entry(key);
                entry.value.extend_from_slice(args[1]);
                count(entry.value.len())
            }
            b"STRLEN" => count(self.value(key).map_or(0, <[u8]>::len)),
            b"GETRANGE" => {
                let value = self.value(key).unwrap_or_default();
                let len = value.len() as i64;
                let at = |arg: &[u8]| number(arg).map(|at| if at < 0 { (len + at).max(0) } else { at }).unwrap();
                let (start, end) = (at(args[1]), at(args[2]).min(len - 1));
                // Redis looks at this before it clamps.
                let are_crossed =
                    number(args[2]) < Some(0) && number(args[1]) < Some(0) && number(args[1]) > number(args[2]);
                Reply::owned(if start > end || are_crossed { &[] } else { &value[start as usize..=end as usize] })
            }
            b"INCR" => self.add(key, 1),
            b"DECRBY" => self.add(key, -number(args[1]).unwrap()),
            b"EXPIRE" => {
                let seconds = number(args[1]).unwrap();
                let Some(entry) = self.entries.get_mut(key) else { return count(0) };
                entry.ttl_seconds = Some(seconds);
                if seconds <= 0 {
                    self.entries.remove(key);
                }
                count(1)
            }
            b"PERSIST" => {
                let had = self.entries.get_mut(key).and_then(|entry| entry.ttl_seconds.take());
                count(had.is_some().into())
            }
            b"TTL" => Reply::Int(self.entries.get(key).map_or(-2, |entry| entry.ttl_seconds.unwrap_or(-1))),
            b"TYPE" => Reply::Status(if self.contains(key) { "string" } else { "none" }),
            b"MGET" => Reply::Array(args.iter().map(|key| bulk(self.entries.get(*key))).collect()),
            b"MSET" => {
                args.chunks(2).for_each(|pair| self.put(pair[0], pair[1]));
                Reply::Ok
            }
            b"MSETNX" => {
                let is_free = args.chunks(2).all(|pair| !self.contains(pair[0]));
                if is_free {
                    args.chunks(2).for_each(|pair| self.put(pair[0], pair[1]));
                }
                count(is_free.into())
            }
            b"DEL" | b"UNLINK" => count(args.iter().filter(|key| self.entries.remove(**key).is_some()).count()),
            b"EXISTS" | b"TOUCH" => count(args.iter().filter(|key| self.contains(key)).count()),
            b"RENAME" => match self.entries.remove(key) {
                None => ReplyError::NoSuchKey.into(),
                Some(entry) => {
                    self.entries.insert(args[1].to_vec(), entry);
                    Reply::Ok
                }
            },
            b"RENAMENX" => {
                if !self.contains(key) {
                    return ReplyError::NoSuchKey.into();
                }
                let is_free = !self.contains(args[1]);
                if is_free {
                    let entry = self.entries.remove(key).unwrap();
                    self.entries.insert(args[1].to_vec(), entry);
                }
                count(is_free.into())
            }
            b"COPY" => {
                if key == args[1] {
                    return Reply::error("ERR source and destination objects are the same");
                }
                let Some(entry) = self.entries.get(key).cloned() else { return count(0) };
                let is_done = args.len() > 2 || !self.contains(args[1]);
                if is_done {
                    self.entries.insert(args[1].to_vec(), entry);
                }
                count(is_done.into())
            }
            b"DBSIZE" => count(self.len()),
            b"FLUSHALL" => {
                self.entries.clear();
                Reply::Ok
            }
            other => panic!("the model does not know {}", other.escape_ascii()),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8], options: &[&[u8]]) -> Reply<'static> {
        let has = |name: &[u8]| options.iter().any(|option| option.eq_ignore_ascii_case(name));
        let old = bulk(self.entries.get(key));
        let exists = old != Reply::Nil;
        let is_done = !(has(b"NX") && exists || has(b"XX") && !exists);
        if is_done {
            self.put(key, value);
            if let Some(at) = options.iter().position(|option| option.eq_ignore_ascii_case(b"EX")) {
                self.entry(key).ttl_seconds = number(options[at + 1]);
            }
        }
        match (has(b"GET"), is_done) {
            (true, _) => old,
            (false, true) => Reply::Ok,
            (false, false) => Reply::Nil,
        }
    }

    fn entry(&mut self, key: &[u8]) -> &mut Entry {
        self.entries.entry(key.to_vec()).or_insert(Entry { value: Vec::new(), ttl_seconds: None })
    }

    fn add(&mut self, key: &[u8], change: i64) -> Reply<'static> {
        let old = self.value(key).map_or(Some(0), number);
        match old.map(|old| old.checked_add(change)) {
            None => ReplyError::NotAnInteger.into(),
            Some(None) => ReplyError::Overflow.into(),
            Some(Some(sum)) => {
                self.entry(key).value = sum.to_string().into_bytes();
                Reply::Int(sum)
            }
        }
    }
}
