//! The keyspace as naively as possible: a map of values and expiries, and what the commands do to it.

use std::collections::BTreeMap;

pub type Entry = (Vec<u8>, Option<u64>);

#[derive(Default)]
pub struct Model {
    pub entries: BTreeMap<Vec<u8>, Entry>,
    pub hits: u64,
    pub misses: u64,
}

fn text(bytes: &[u8]) -> String {
    if bytes.len() >= crate::limits::LARGE_VALUE_BYTES_MIN {
        format!("large {} {:02x}..{:02x}", bytes.len(), bytes[0], bytes[bytes.len() - 1])
    } else {
        format!("{:?}", String::from_utf8_lossy(bytes))
    }
}

fn number(bytes: &[u8]) -> i64 {
    String::from_utf8_lossy(bytes).parse().unwrap()
}

impl Model {
    pub fn forget_expired(&mut self, now_ms: u64) {
        self.entries.retain(|_, (_, expiry)| expiry.is_none_or(|at| now_ms <= at));
    }

    fn read(&mut self, key: &[u8]) -> Option<Entry> {
        let entry = self.entries.get(key).cloned();
        *(if entry.is_some() { &mut self.hits } else { &mut self.misses }) += 1;
        entry
    }

    fn value(&self, key: &[u8]) -> Vec<u8> {
        self.entries.get(key).map(|entry| entry.0.clone()).unwrap_or_default()
    }

    fn put(&mut self, key: &[u8], value: &[u8], expiry: Option<u64>, now_ms: u64) {
        if expiry.is_some_and(|at| at < now_ms) {
            self.entries.remove(key);
        } else {
            self.entries.insert(key.to_vec(), (value.to_vec(), expiry));
        }
    }

    /// Carries out one of the well-formed commands that the generator makes.
    pub fn run(&mut self, words: &[Vec<u8>], now_ms: u64) -> String {
        self.forget_expired(now_ms);
        let words: Vec<&[u8]> = words.iter().map(|word| &word[..]).collect();
        let name = std::str::from_utf8(words[0]).unwrap();
        let key = words.get(1).copied().unwrap_or_default();
        match (name, &words[..]) {
            ("GET", _) => self.read(key).map_or("nil".into(), |entry| text(&entry.0)),
            ("STRLEN", _) => format!("({})", self.read(key).map_or(0, |entry| entry.0.len())),
            ("TYPE", _) => if self.read(key).is_some() { "string" } else { "none" }.into(),
            ("SET", [_, _, value, options @ ..]) => self.set(key, value, options, now_ms),
            ("SETNX", [_, _, value]) => {
                let is_new = !self.entries.contains_key(key);
                if is_new {
                    self.put(key, value, None, now_ms);
                }
                format!("({})", is_new as u8)
            }
            ("PSETEX", [_, _, ms, value]) => {
                self.put(key, value, Some(now_ms + number(ms) as u64), now_ms);
                "OK".into()
            }
            ("GETSET", [_, _, value]) => {
                let old = self.read(key);
                self.put(key, value, None, now_ms);
                old.map_or("nil".into(), |entry| text(&entry.0))
            }
            ("GETDEL", _) => {
                let old = self.read(key);
                self.entries.remove(key);
                old.map_or("nil".into(), |entry| text(&entry.0))
            }
            ("GETEX", [_, _, options @ ..]) => {
                let Some((value, expiry)) = self.read(key) else {
                    return "nil".into();
                };
                let expiry = match options {
                    [] => expiry,
                    [b"PERSIST"] => None,
                    [b"PX", ms] => Some(now_ms + number(ms) as u64),
                    [b"PXAT", at] => Some(number(at) as u64),
                    other => panic!("GETEX {other:?}"),
                };
                if !options.is_empty() && expiry.is_some_and(|at| at <= now_ms) {
                    self.entries.remove(key);
                } else {
                    self.entries.get_mut(key).unwrap().1 = expiry;
                }
                text(&value)
            }
            ("APPEND", [_, _, part]) => {
                let expiry = self.entries.get(key).and_then(|entry| entry.1);
                let value = [&self.value(key), *part].concat();
                self.put(key, &value, expiry, now_ms);
                format!("({})", value.len())
            }
            ("SETRANGE", [_, _, offset, part]) => {
                let mut value = self.value(key);
                if !part.is_empty() {
                    let expiry = self.entries.get(key).and_then(|entry| entry.1);
                    let offset = number(offset) as usize;
                    value.resize(value.len().max(offset + part.len()), 0);
                    value[offset..offset + part.len()].copy_from_slice(part);
                    self.put(key, &value, expiry, now_ms);
                }
                format!("({})", value.len())
            }
            ("GETRANGE", [_, _, start, end]) => {
                let value = self.read(key).map(|entry| entry.0).unwrap_or_default();
                let len = value.len() as i64;
                let place = |word| match number(word) {
                    negative if negative < 0 => negative + len,
                    place => place,
                };
                let (start, end) = (place(start), place(end));
                let kept = (0..len).filter(|at| (start..=end).contains(at)).map(|at| value[at as usize]);
                let kept: Vec<u8> = kept.collect();
                // An end before the beginning: Redis moves it to the beginning and keeps one byte.
                let backwards = number(words[2]) < 0 && number(words[3]) < 0 && start > end;
                let kept = if start <= 0 && end < 0 && len > 0 && !backwards { vec![value[0]] } else { kept };
                text(&kept)
            }
            ("INCRBY", [_, _, amount]) => {
                let expiry = self.entries.get(key).and_then(|entry| entry.1);
                let old = match self.entries.get(key) {
                    None => 0,
                    Some((value, _)) => match String::from_utf8_lossy(value).parse::<i64>() {
                        Ok(old) if old.to_string().as_bytes() == &value[..] => old,
                        _ => return "ERR value is not an integer or out of range".into(),
                    },
                };
                let Some(new) = old.checked_add(number(amount)) else {
                    return "ERR increment or decrement would overflow".into();
                };
                self.put(key, new.to_string().as_bytes(), expiry, now_ms);
                format!("({new})")
            }
            ("MGET", [_, keys @ ..]) => {
                let values: Vec<String> =
                    keys.iter().map(|key| self.read(key).map_or("nil".into(), |entry| text(&entry.0))).collect();
                format!("[{}]", values.join(" "))
            }
            ("MSET" | "MSETNX", [_, pairs @ ..]) => {
                let is_careful = name == "MSETNX";
                if is_careful && pairs.chunks(2).any(|pair| self.entries.contains_key(pair[0])) {
                    return "(0)".into();
                }
                pairs.chunks(2).for_each(|pair| self.put(pair[0], pair[1], None, now_ms));
                if is_careful { "(1)".into() } else { "OK".into() }
            }
            ("DEL" | "UNLINK", [_, keys @ ..]) => {
                format!("({})", keys.iter().filter(|key| self.entries.remove(**key).is_some()).count())
            }
            ("EXISTS" | "TOUCH", [_, keys @ ..]) => {
                format!("({})", keys.iter().filter(|key| self.read(key).is_some()).count())
            }
            ("PEXPIRE", [_, _, ms, conditions @ ..]) => {
                self.expire(key, now_ms as i64 + number(ms), conditions, now_ms)
            }
            ("PEXPIREAT", [_, _, at, conditions @ ..]) => self.expire(key, number(at), conditions, now_ms),
            ("PERSIST", _) => {
                format!("({})", self.entries.get_mut(key).and_then(|entry| entry.1.take()).is_some() as u8)
            }
            ("PTTL" | "TTL" | "PEXPIRETIME", _) => match self.read(key) {
                None => "(-2)".into(),
                Some((_, None)) => "(-1)".into(),
                Some((_, Some(at))) => match name {
                    "PTTL" => format!("({})", at - now_ms),
                    "TTL" => format!("({})", (at - now_ms + 500) / 1000),
                    _ => format!("({at})"),
                },
            },
            ("RENAME" | "RENAMENX", [_, _, target]) => {
                let is_careful = name == "RENAMENX";
                let Some(entry) = self.entries.get(key).cloned() else {
                    return "ERR no such key".into();
                };
                if is_careful && self.entries.contains_key(*target) {
                    return "(0)".into();
                }
                self.entries.remove(key);
                self.entries.insert(target.to_vec(), entry);
                if is_careful { "(1)".into() } else { "OK".into() }
            }
            ("COPY", [_, _, target, options @ ..]) => {
                if key == *target {
                    return "ERR source and destination objects are the same".into();
                }
                let Some(entry) = self.read(key) else {
                    return "(0)".into();
                };
                if options.is_empty() && self.entries.contains_key(*target) {
                    return "(0)".into();
                }
                self.entries.insert(target.to_vec(), entry);
                "(1)".into()
            }
            ("FLUSHALL", _) => {
                self.entries.clear();
                "OK".into()
            }
            _ => panic!("the model does not know {name}"),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8], options: &[&[u8]], now_ms: u64) -> String {
        let is_there = self.entries.contains_key(key);
        let mut expiry = None;
        let mut allowed = true;
        let mut old = None;
        let mut words = options.iter();
        while let Some(word) = words.next() {
            match *word {
                b"NX" => allowed = !is_there,
                b"XX" => allowed = is_there,
                b"IFEQ" => {
                    let expected = words.next().unwrap();
                    allowed = is_there && self.value(key) == *expected;
                }
                b"GET" => old = Some(self.read(key)),
                b"PX" => expiry = Some(now_ms + number(words.next().unwrap()) as u64),
                b"PXAT" => expiry = Some(number(words.next().unwrap()) as u64),
                b"KEEPTTL" => expiry = self.entries.get(key).and_then(|entry| entry.1),
                other => panic!("SET {other:?}"),
            }
        }
        if allowed {
            self.put(key, value, expiry, now_ms);
        }
        match old {
            Some(old) => old.map_or("nil".into(), |entry| text(&entry.0)),
            None => if allowed { "OK" } else { "nil" }.into(),
        }
    }

    fn expire(&mut self, key: &[u8], at_ms: i64, conditions: &[&[u8]], now_ms: u64) -> String {
        let Some((_, expiry)) = self.entries.get_mut(key) else {
            return "(0)".into();
        };
        let current = expiry.map(|at| at as i64);
        let allowed = conditions.iter().all(|condition| match *condition {
            b"NX" => current.is_none(),
            b"XX" => current.is_some(),
            b"GT" => current.is_some_and(|current| at_ms > current),
            b"LT" => current.is_none_or(|current| at_ms < current),
            other => panic!("EXPIRE {other:?}"),
        });
        if allowed && at_ms <= now_ms as i64 {
            self.entries.remove(key);
        } else if allowed {
            *expiry = Some(at_ms as u64);
        }
        format!("({})", allowed as u8)
    }
}
