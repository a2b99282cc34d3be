//! What is asked: commands and their mix, keys, value sizes.

use std::str::FromStr;
use std::sync::Arc;

use crate::keys::{Distribution, KeyStream};
use crate::random::Random;
use crate::template::write_digits;
use crate::trace::Trace;
use crate::wire::{Answer, Protocol};

/// Keys of one MGET or MSET at most: what a template is still sensible for.
pub const KEYS_PER_COMMAND_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Ping,
    /// `PING\r\n`, as typed by hand.
    PingInline,
    Get,
    Set,
    Incr,
    Del,
    Expire,
    MGet(usize),
    MSet(usize),
    /// Words given on the command line, with `__key__`, `__rand_int__` and `__data__` replaced.
    Words(Vec<String>),
}

impl Action {
    pub fn name(&self) -> String {
        match self {
            Action::Ping => "PING_MBULK".into(),
            Action::PingInline => "PING_INLINE".into(),
            Action::Get => "GET".into(),
            Action::Set => "SET".into(),
            Action::Incr => "INCR".into(),
            Action::Del => "DEL".into(),
            Action::Expire => "EXPIRE".into(),
            Action::MGet(keys) => format!("MGET ({keys} keys)"),
            Action::MSet(keys) => format!("MSET ({keys} keys)"),
            Action::Words(words) => words.join(" "),
        }
    }

    pub fn keys(&self) -> usize {
        match self {
            Action::Ping | Action::PingInline => 0,
            Action::Get | Action::Set | Action::Incr | Action::Del | Action::Expire | Action::Words(_) => 1,
            Action::MGet(keys) | Action::MSet(keys) => *keys,
        }
    }

    pub fn is_read(&self) -> bool {
        matches!(self, Action::Get | Action::MGet(_))
    }

    /// Whether what is stored under its keys is another afterwards.
    pub fn changes_values(&self) -> bool {
        matches!(self, Action::Set | Action::MSet(_) | Action::Del)
    }

    pub fn writes_values(&self) -> bool {
        matches!(self, Action::Set | Action::MSet(_))
    }

    /// Whether `answer` can be the reply to this at all. Errors always can.
    #[inline]
    pub fn expects(&self, answer: &Answer<'_>, protocol: Protocol) -> bool {
        match (self, answer) {
            (_, Answer::Error(_)) | (Action::Words(_), _) => true,
            (Action::Set | Action::MSet(_), Answer::Status(b"OK" | b"STORED")) => true,
            (Action::Get, Answer::Value | Answer::Nil) => true,
            (Action::Incr | Action::Del | Action::Expire, Answer::Int(_)) => true,
            // memcached says NOT_FOUND instead of 0, and END for no value at all.
            (Action::Incr | Action::Del | Action::Expire, Answer::Nil) => true,
            // memcached leaves out what it has not; all others answer for each key.
            (Action::MGet(keys), Answer::Array { values, nils }) if protocol != Protocol::Memcache => {
                u64::from(*values) + u64::from(*nils) == *keys as u64
            }
            (Action::MGet(keys), Answer::Array { values, .. }) => u64::from(*values) <= *keys as u64,
            (Action::MGet(_), Answer::Value | Answer::Nil) => protocol == Protocol::Memcache,
            (Action::Ping | Action::PingInline, Answer::Status(_)) => true,
            _ => false,
        }
    }
}

impl FromStr for Action {
    type Err = String;

    /// redis-benchmark's test names; `mget20` and `mset20` set the number of keys.
    fn from_str(text: &str) -> Result<Action, String> {
        let lower = text.to_ascii_lowercase();
        Ok(match lower.as_str() {
            "ping" | "ping_mbulk" | "ping_bulk" => Action::Ping,
            "ping_inline" => Action::PingInline,
            "get" => Action::Get,
            "set" => Action::Set,
            "incr" => Action::Incr,
            "del" => Action::Del,
            "expire" => Action::Expire,
            _ => {
                let (name, count) = lower.split_at(lower.len().min(4));
                let count = match count {
                    "" => 10,
                    digits => digits.parse().map_err(|_| unknown(text))?,
                };
                if !(1..=KEYS_PER_COMMAND_MAX).contains(&count) {
                    return Err(format!("{text}: 1 to {KEYS_PER_COMMAND_MAX} keys"));
                }
                match name {
                    "mget" => Action::MGet(count),
                    "mset" => Action::MSet(count),
                    _ => return Err(unknown(text)),
                }
            }
        })
    }
}

fn unknown(text: &str) -> String {
    format!("no test {text:?}: there are ping_inline, ping_mbulk, set, get, incr, del, expire, mget[N], mset[N]")
}

/// Commands with weights, as in `set=1,get=9`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix(pub Vec<(Action, u32)>);

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Mix, String> {
        let mut parts: Vec<(Action, u32)> = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let action: Action = name.trim().parse()?;
            let weight: u32 = weight.trim().parse().map_err(|_| format!("{part:?}: the weight is a whole number"))?;
            if parts.iter().any(|(other, _)| *other == action) {
                return Err(format!("{name} is named twice"));
            }
            parts.push((action, weight));
        }
        parts.retain(|(_, weight)| *weight > 0);
        if parts.is_empty() {
            return Err("all weights are 0".into());
        }
        if parts.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>() > u64::from(u32::MAX) {
            return Err("the weights are too large".into());
        }
        Ok(Mix(parts))
    }
}

/// Bytes per value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sizes {
    Fixed(usize),
    /// Uniform between both, inclusive.
    Range(usize, usize),
}

pub const VALUE_BYTES_MAX: usize = 512 * 1024 * 1024;

impl Sizes {
    pub fn max(self) -> usize {
        match self {
            Sizes::Fixed(bytes) | Sizes::Range(_, bytes) => bytes,
        }
    }

    pub fn min(self) -> usize {
        match self {
            Sizes::Fixed(bytes) | Sizes::Range(bytes, _) => bytes,
        }
    }

    #[inline]
    pub fn draw(self, random: &mut Random) -> usize {
        match self {
            Sizes::Fixed(bytes) => bytes,
            Sizes::Range(min, max) => min + random.below((max - min) as u64 + 1) as usize,
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    /// `64`, `1k`, `16-1024`, `1k-1m`
    fn from_str(text: &str) -> Result<Sizes, String> {
        let size = |text: &str| -> Result<usize, String> {
            let lower = text.trim().to_ascii_lowercase();
            let (digits, unit) = match lower.as_bytes().last() {
                Some(b'k') => (&lower[..lower.len() - 1], 1024),
                Some(b'm') => (&lower[..lower.len() - 1], 1024 * 1024),
                _ => (&lower[..], 1),
            };
            let bytes = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
            match bytes {
                Some(bytes) if bytes <= VALUE_BYTES_MAX => Ok(bytes),
                Some(_) => Err(format!("{text}: values have at most {VALUE_BYTES_MAX} bytes")),
                None => Err(format!("{text:?} is not a size")),
            }
        };
        match text.split_once('-') {
            None => Ok(Sizes::Fixed(size(text)?)),
            Some((min, max)) => match (size(min)?, size(max)?) {
                (min, max) if min < max => Ok(Sizes::Range(min, max)),
                (min, max) if min == max => Ok(Sizes::Fixed(min)),
                _ => Err(format!("{text:?}: the smaller size comes first")),
            },
        }
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sizes::Fixed(bytes) => write!(f, "{bytes}"),
            Sizes::Range(min, max) => write!(f, "{min}-{max}"),
        }
    }
}

/// How keys look: prefix and a fixed number of digits.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyNames {
    pub prefix: String,
    pub digits: usize,
}

impl KeyNames {
    pub fn len(&self) -> usize {
        self.prefix.len() + self.digits
    }

    pub fn write(&self, key: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        let start = out.len();
        out.resize(start + self.digits, b'0');
        write_digits(&mut out[start..], key);
    }

    /// The largest number of keys that these names can tell apart.
    pub fn count_max(&self) -> u64 {
        10u64.checked_pow(self.digits as u32).unwrap_or(u64::MAX)
    }
}

/// One load: everything about *what* is asked, nothing about how fast or how often.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Shown above the results.
    pub name: String,
    pub mix: Vec<(Action, u32)>,
    pub keys: u64,
    pub distribution: Distribution,
    /// How reads draw their keys, if not like everything else.
    pub distribution_of_reads: Option<Distribution>,
    pub names: KeyNames,
    pub sizes: Sizes,
    /// Given by EXPIRE, and by SET if `set_expires`.
    pub expire_seconds: u32,
    pub set_expires: bool,
    /// A miss of GET is followed by a SET of its key.
    pub fill: bool,
    /// Keys and sizes come from here instead.
    pub trace: Option<Arc<Trace>>,
}

/// Chooses commands of a mix by weight.
#[derive(Clone, Debug)]
pub struct Chooser {
    /// Cumulative weights; one entry per command.
    bounds: Vec<u32>,
}

impl Chooser {
    pub fn new(mix: &[(Action, u32)]) -> Chooser {
        let mut total = 0;
        let bounds = mix.iter().map(|(_, weight)| {
            total += weight;
            total
        });
        Chooser { bounds: bounds.collect() }
    }

    #[inline]
    pub fn choose(&self, random: &mut Random) -> usize {
        if self.bounds.len() == 1 {
            return 0;
        }
        let draw = random.below(u64::from(self.bounds[self.bounds.len() - 1])) as u32;
        self.bounds.iter().position(|&bound| draw < bound).expect("a draw below the last bound")
    }
}

impl Workload {
    pub fn key_stream(&self, random: Random) -> KeyStream {
        KeyStream::new(self.distribution, self.keys, random)
    }

    pub fn key_stream_of_reads(&self, random: Random) -> Option<KeyStream> {
        self.distribution_of_reads.map(|distribution| KeyStream::new(distribution, self.keys, random))
    }

    /// For people: `uniform`, or `sequential, reads zipf:1`.
    pub fn distributions(&self) -> String {
        match self.distribution_of_reads {
            None => self.distribution.to_string(),
            Some(reads) => format!("{}, reads {reads}", self.distribution),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_parse() {
        assert_eq!("64".parse(), Ok(Sizes::Fixed(64)));
        assert_eq!("1k-1m".parse(), Ok(Sizes::Range(1024, 1 << 20)));
        assert!("9-3".parse::<Sizes>().is_err() && "600m".parse::<Sizes>().is_err() && "".parse::<Sizes>().is_err());
        assert_eq!("set=1,get=9".parse(), Ok(Mix(vec![(Action::Set, 1), (Action::Get, 9)])));
        assert_eq!("mget20".parse(), Ok(Mix(vec![(Action::MGet(20), 1)])));
        for wrong in ["", "lpush", "set=x", "set,set", "set=0", "mget0"] {
            assert!(wrong.parse::<Mix>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn chooser_follows_weights() {
        let chooser = Chooser::new(&[(Action::Set, 1), (Action::Get, 9)]);
        let mut random = Random::new(5);
        let sets = (0..100_000).filter(|_| chooser.choose(&mut random) == 0).count();
        assert!((9_600..10_400).contains(&sets), "{sets}");
    }
}
