//! What is asked: commands and their mix, keys, value sizes; and requests made from templates.
//!
//! A request is a template with numbers filled in. Where all values have one size, the template is the
//! whole request, and making one costs a copy and the digits of its key:
//!
//! ```text
//!   *3\r\n$3\r\nSET\r\n$16\r\nkey:000000000000\r\n$3\r\nVXK\r\n
//!                                 ^^^^^^^^^^^^ 12 digits, overwritten per request
//! ```

use std::str::FromStr;

use crate::keys::{Distribution, KeyStream};
use crate::random::{Random, mix};
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

    pub fn writes_values(&self) -> bool {
        matches!(self, Action::Set | Action::MSet(_))
    }

    /// Whether `answer` can be the reply to this at all. Errors always can.
    #[inline]
    pub fn expects(&self, answer: &Answer<'_>) -> bool {
        match (self, answer) {
            (_, Answer::Error(_)) | (Action::Words(_), _) => true,
            (Action::Set | Action::MSet(_), Answer::Status(_)) => true,
            (Action::Get, Answer::Value | Answer::Nil) => true,
            (Action::Incr | Action::Del | Action::Expire, Answer::Int(_)) => true,
            // memcached says NOT_FOUND instead of 0, and END for no value at all.
            (Action::Incr | Action::Del | Action::Expire, Answer::Nil) => true,
            (Action::MGet(_), Answer::Array { .. } | Answer::Value | Answer::Nil) => true,
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

/// INCR has keys of its own, as in redis-benchmark: the values of the others are not numbers.
const COUNTER_PREFIX: &str = "counter:";

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

    /// The largest number of keys that these names can tell apart.
    pub fn count_max(&self) -> u64 {
        10u64.checked_pow(self.digits as u32).unwrap_or(u64::MAX)
    }
}

/// Right-aligned decimal digits, padded with zeros.
#[inline]
pub fn write_digits(out: &mut [u8], mut value: u64) {
    const PAIRS: [[u8; 2]; 100] = {
        let mut pairs = [[0; 2]; 100];
        let mut i = 0;
        while i < 100 {
            pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
            i += 1;
        }
        pairs
    };
    let mut pairs = out.rchunks_exact_mut(2);
    for pair in &mut pairs {
        pair.copy_from_slice(&PAIRS[(value % 100) as usize]);
        value /= 100;
    }
    if let [first] = pairs.into_remainder() {
        *first = b'0' + (value % 10) as u8;
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
    pub names: KeyNames,
    pub sizes: Sizes,
    /// Given by EXPIRE, and by SET if `set_expires`.
    pub expire_seconds: u32,
    pub set_expires: bool,
    /// A miss of GET is followed by a SET of its key.
    pub fill: bool,
}

/// A piece of a request that is put together for each request.
#[derive(Clone, Debug)]
enum Piece {
    /// Bytes, and where in them key digits go.
    Literal {
        bytes: Vec<u8>,
        digits_at: Vec<usize>,
    },
    /// The length of the value, in decimal.
    ValueLength,
    Value,
}

/// How to write one action in one protocol.
#[derive(Clone, Debug)]
pub struct Template {
    pieces: Vec<Piece>,
    digits: usize,
    /// Whether requests carry values.
    pub valued: bool,
}

impl Template {
    pub fn new(action: &Action, workload: &Workload, protocol: Protocol, fixed_values: bool) -> Template {
        let mut builder = Builder::new(workload);
        match protocol {
            Protocol::Resp2 | Protocol::Resp3 => builder.resp(action, workload),
            Protocol::Memcache => builder.memcache(action, workload),
        }
        let mut template = Template { pieces: builder.pieces, digits: workload.names.digits, valued: builder.valued };
        if let (Sizes::Fixed(bytes), true) = (workload.sizes, fixed_values && template.valued) {
            template.merge(bytes);
        }
        template
    }

    /// The whole request, if only key digits change from one to the next.
    pub fn fixed_bytes(&self) -> Option<(&[u8], &[usize])> {
        match &self.pieces[..] {
            [Piece::Literal { bytes, digits_at }] => Some((bytes, digits_at)),
            _ => None,
        }
    }

    /// Appends one request. `key` is asked for each key, `value` appends that many bytes.
    #[inline]
    pub fn append(
        &self,
        out: &mut Vec<u8>,
        mut key: impl FnMut() -> u64,
        mut value_length: impl FnMut() -> usize,
        mut value: impl FnMut(&mut Vec<u8>, usize),
    ) {
        let mut length = 0;
        for piece in &self.pieces {
            match piece {
                Piece::Literal { bytes, digits_at } => {
                    let start = out.len();
                    out.extend_from_slice(bytes);
                    for at in digits_at {
                        write_digits(&mut out[start + at..][..self.digits], key());
                    }
                }
                Piece::ValueLength => {
                    length = value_length();
                    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                }
                Piece::Value => value(out, length),
            }
        }
    }

    /// Makes one literal of it all, with values of `bytes` bytes.
    fn merge(&mut self, bytes: usize) {
        let mut all = Vec::new();
        let mut all_digits_at = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal { bytes, digits_at } => {
                    all_digits_at.extend(digits_at.iter().map(|at| at + all.len()));
                    all.extend_from_slice(bytes);
                }
                Piece::ValueLength => all.extend_from_slice(bytes.to_string().as_bytes()),
                Piece::Value => filler(&mut all, bytes),
            }
        }
        self.pieces = vec![Piece::Literal { bytes: all, digits_at: all_digits_at }];
    }
}

/// Appends `length` bytes of letters that are the same every time.
pub fn filler(out: &mut Vec<u8>, length: usize) {
    const BLOCK: usize = 4096;
    static LETTERS: std::sync::OnceLock<[u8; BLOCK]> = std::sync::OnceLock::new();
    let letters = LETTERS.get_or_init(|| std::array::from_fn(|i| b'A' + (mix(i as u64) % 26) as u8));
    let mut left = length;
    while left > 0 {
        let here = left.min(BLOCK);
        out.extend_from_slice(&letters[..here]);
        left -= here;
    }
}

struct Builder<'a> {
    names: &'a KeyNames,
    pieces: Vec<Piece>,
    valued: bool,
}

impl Builder<'_> {
    fn new(workload: &Workload) -> Builder<'_> {
        Builder { names: &workload.names, pieces: Vec::new(), valued: false }
    }

    fn literal(&mut self) -> (&mut Vec<u8>, &mut Vec<usize>) {
        if !matches!(self.pieces.last(), Some(Piece::Literal { .. })) {
            self.pieces.push(Piece::Literal { bytes: Vec::new(), digits_at: Vec::new() });
        }
        match self.pieces.last_mut() {
            Some(Piece::Literal { bytes, digits_at }) => (bytes, digits_at),
            _ => unreachable!("a literal was just pushed"),
        }
    }

    fn text(&mut self, text: &str) {
        self.literal().0.extend_from_slice(text.as_bytes());
    }

    fn digits(&mut self) {
        let digits = self.names.digits;
        let (bytes, digits_at) = self.literal();
        digits_at.push(bytes.len());
        bytes.resize(bytes.len() + digits, b'0');
    }

    fn key(&mut self) {
        self.text(&self.names.prefix);
        self.digits();
    }

    fn word(&mut self, word: &str) {
        self.text(&format!("${}\r\n{word}\r\n", word.len()));
    }

    fn resp_key(&mut self) {
        self.text(&format!("${}\r\n", self.names.len()));
        self.key();
        self.text("\r\n");
    }

    fn resp_value(&mut self) {
        self.text("$");
        self.pieces.push(Piece::ValueLength);
        self.text("\r\n");
        self.pieces.push(Piece::Value);
        self.text("\r\n");
        self.valued = true;
    }

    fn resp(&mut self, action: &Action, workload: &Workload) {
        let head = |words: usize| format!("*{words}\r\n");
        let seconds = workload.expire_seconds.to_string();
        match action {
            Action::PingInline => self.text("PING\r\n"),
            Action::Ping => {
                self.text(&head(1));
                self.word("PING");
            }
            Action::Get | Action::Del => {
                self.text(&head(2));
                self.word(&action.name());
                self.resp_key();
            }
            Action::Incr => {
                self.text(&head(2));
                self.word("INCR");
                self.text(&format!("${}\r\n", COUNTER_PREFIX.len() + self.names.digits));
                self.text(COUNTER_PREFIX);
                self.digits();
                self.text("\r\n");
            }
            Action::Expire => {
                self.text(&head(3));
                self.word("EXPIRE");
                self.resp_key();
                self.word(&seconds);
            }
            Action::Set => {
                self.text(&head(if workload.set_expires { 5 } else { 3 }));
                self.word("SET");
                self.resp_key();
                self.resp_value();
                if workload.set_expires {
                    self.word("EX");
                    self.word(&seconds);
                }
            }
            Action::MGet(keys) => {
                self.text(&head(1 + keys));
                self.word("MGET");
                (0..*keys).for_each(|_| self.resp_key());
            }
            Action::MSet(keys) => {
                self.text(&head(1 + 2 * keys));
                self.word("MSET");
                for _ in 0..*keys {
                    self.resp_key();
                    self.resp_value();
                }
            }
            Action::Words(words) => {
                self.text(&head(words.len()));
                words.iter().for_each(|word| self.resp_word(word));
            }
        }
    }

    /// A word of a command typed by hand: `__key__` is a key, `__rand_int__` its digits, `__data__` a value.
    fn resp_word(&mut self, word: &str) {
        const PLACES: [&str; 2] = ["__key__", "__rand_int__"];
        if word == "__data__" {
            return self.resp_value();
        }
        let mut length = word.len();
        for place in PLACES {
            let written = if place == "__key__" { self.names.len() } else { self.names.digits };
            length = length + word.matches(place).count() * written - word.matches(place).count() * place.len();
        }
        self.text(&format!("${length}\r\n"));
        let mut rest = word;
        while let Some((at, place)) = PLACES.iter().filter_map(|place| Some((rest.find(place)?, *place))).min() {
            self.text(&rest[..at]);
            if place == "__key__" {
                self.key()
            } else {
                self.digits()
            }
            rest = &rest[at + place.len()..];
        }
        self.text(rest);
        self.text("\r\n");
    }

    /// Actions that memcached has no command for were refused when the options were checked.
    fn memcache(&mut self, action: &Action, workload: &Workload) {
        let seconds = workload.expire_seconds;
        match action {
            Action::Ping | Action::PingInline => self.text("version\r\n"),
            Action::Get => {
                self.text("get ");
                self.key();
                self.text("\r\n");
            }
            Action::MGet(keys) => {
                self.text("get");
                for _ in 0..*keys {
                    self.text(" ");
                    self.key();
                }
                self.text("\r\n");
            }
            Action::Set => {
                self.text("set ");
                self.key();
                self.text(&format!(" 0 {} ", if workload.set_expires { seconds } else { 0 }));
                self.pieces.push(Piece::ValueLength);
                self.text("\r\n");
                self.pieces.push(Piece::Value);
                self.text("\r\n");
                self.valued = true;
            }
            Action::Incr => {
                self.text("incr ");
                self.text(COUNTER_PREFIX);
                self.digits();
                self.text(" 1\r\n");
            }
            Action::Del => {
                self.text("delete ");
                self.key();
                self.text("\r\n");
            }
            Action::Expire => {
                self.text("touch ");
                self.key();
                self.text(&format!(" {seconds}\r\n"));
            }
            Action::MSet(_) | Action::Words(_) => unreachable!("refused by the options"),
        }
    }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload {
            name: String::new(),
            mix: vec![],
            keys: 1000,
            distribution: Distribution::Uniform,
            names: KeyNames { prefix: "k:".into(), digits: 5 },
            sizes: Sizes::Fixed(3),
            expire_seconds: 60,
            set_expires: false,
            fill: false,
        }
    }

    fn written(action: Action, protocol: Protocol, fixed_values: bool) -> String {
        let template = Template::new(&action, &workload(), protocol, fixed_values);
        let mut out = Vec::new();
        let mut next = 41;
        let key = || {
            next += 1;
            next
        };
        template.append(&mut out, key, || 4, |out, length| out.extend(std::iter::repeat_n(b'v', length)));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn requests_in_resp() {
        let resp = |action| written(action, Protocol::Resp2, false);
        assert_eq!(resp(Action::Ping), "*1\r\n$4\r\nPING\r\n");
        assert_eq!(resp(Action::Get), "*2\r\n$3\r\nGET\r\n$7\r\nk:00042\r\n");
        assert_eq!(resp(Action::Incr), "*2\r\n$4\r\nINCR\r\n$13\r\ncounter:00042\r\n");
        assert_eq!(resp(Action::Set), "*3\r\n$3\r\nSET\r\n$7\r\nk:00042\r\n$4\r\nvvvv\r\n");
        assert_eq!(resp(Action::Expire), "*3\r\n$6\r\nEXPIRE\r\n$7\r\nk:00042\r\n$2\r\n60\r\n");
        assert_eq!(resp(Action::MGet(2)), "*3\r\n$4\r\nMGET\r\n$7\r\nk:00042\r\n$7\r\nk:00043\r\n");
        assert_eq!(
            resp(Action::MSet(2)),
            "*5\r\n$4\r\nMSET\r\n$7\r\nk:00042\r\n$4\r\nvvvv\r\n$7\r\nk:00043\r\n$4\r\nvvvv\r\n"
        );
        let words = ["GETEX", "a__rand_int__b__key__", "__data__"].map(String::from).to_vec();
        assert_eq!(resp(Action::Words(words)), "*3\r\n$5\r\nGETEX\r\n$14\r\na00042bk:00043\r\n$4\r\nvvvv\r\n");
    }

    #[test]
    fn requests_in_memcache() {
        let memcache = |action| written(action, Protocol::Memcache, false);
        assert_eq!(memcache(Action::Get), "get k:00042\r\n");
        assert_eq!(memcache(Action::MGet(2)), "get k:00042 k:00043\r\n");
        assert_eq!(memcache(Action::Set), "set k:00042 0 0 4\r\nvvvv\r\n");
        assert_eq!(memcache(Action::Incr), "incr counter:00042 1\r\n");
        assert_eq!(memcache(Action::Expire), "touch k:00042 60\r\n");
    }

    #[test]
    fn fixed_sizes_make_one_literal() {
        let template = Template::new(&Action::Set, &workload(), Protocol::Resp2, true);
        let (bytes, digits_at) = template.fixed_bytes().unwrap();
        assert_eq!(bytes.len(), "*3\r\n$3\r\nSET\r\n$7\r\nk:00042\r\n$3\r\nabc\r\n".len());
        assert_eq!(&bytes[digits_at[0]..][..5], b"00000");
        assert!(written(Action::Set, Protocol::Resp2, true).starts_with("*3\r\n$3\r\nSET\r\n$7\r\nk:00042\r\n$3\r\n"));
    }

    #[test]
    fn digits_of_every_width() {
        for width in 1..=20 {
            let mut out = vec![b'?'; width];
            write_digits(&mut out, 12_345_678_901_234_567_890);
            assert_eq!(out, b"12345678901234567890"[20 - width..]);
        }
    }

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
