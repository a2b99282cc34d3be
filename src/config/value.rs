//! The kinds of settings: how a value is written, read, and shown again. What is shown can be read.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::text;
use super::{Cores, MemorySize, TlsPort};
use crate::allowlist::Network;
use crate::command::TABLE;
use crate::limits::NAMESPACES_LIMITED_MAX;
use crate::namespace::{self, LimitedNamespaces, NamespaceLimits};
use crate::number::{parse_duration_ms, parse_size};
use crate::pubsub::KeyspaceEvents;
use crate::ratelimit::Rate;

/// How a value stands in a TOML file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `"text"`
    Text,
    /// `10`
    Number,
    /// `true`
    YesNo,
    /// `["one", "two"]`; elsewhere with commas between
    List,
}

/// One of a few words, and what Redis calls it, where Redis has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    pub word: &'static str,
    pub redis: Option<&'static str>,
    pub help: &'static str,
}

/// A kind of value. The text is the same in files, the environment, flags and CONFIG.
pub trait Kind {
    type Value: Clone + Debug + PartialEq;
    const FORM: Form;

    fn parse(text: &str) -> Result<Self::Value, String>;
    fn show(value: &Self::Value) -> String;

    /// As CONFIG GET shows it under Redis's name.
    fn show_redis(value: &Self::Value) -> String {
        Self::show(value)
    }

    /// Every value there is, where they are few.
    fn words() -> Vec<Word> {
        Vec::new()
    }
}

/// What a setting's range says of `value`.
pub fn within<K: Kind>(value: &K::Value, range: RangeInclusive<K::Value>) -> Result<(), String>
where
    K::Value: PartialOrd,
{
    if range.contains(value) {
        return Ok(());
    }
    Err(format!("must be between {} and {}", K::show(range.start()), K::show(range.end())))
}

pub struct Number<T>(PhantomData<T>);

impl<T: FromStr + ToString + Clone + Debug + PartialEq> Kind for Number<T> {
    type Value = T;
    const FORM: Form = Form::Number;

    fn parse(text: &str) -> Result<T, String> {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) || text.is_empty() {
            return Err("not a whole number".into());
        }
        text.parse().map_err(|_| format!("too large: the largest here has {} bits", 8 * size_of::<T>()))
    }

    fn show(value: &T) -> String {
        value.to_string()
    }
}

/// A whole number that may be below 0.
pub struct Signed;

impl Kind for Signed {
    type Value = i64;
    const FORM: Form = Form::Number;

    fn parse(text: &str) -> Result<i64, String> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("not a whole number".into());
        }
        text.parse().map_err(|_| "too large: the largest here has 63 bits".into())
    }

    fn show(value: &i64) -> String {
        value.to_string()
    }
}

/// `notify-keyspace-events`: `KEA`.
pub struct Events;

impl Kind for Events {
    type Value = KeyspaceEvents;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<KeyspaceEvents, String> {
        KeyspaceEvents::parse(text)
    }

    fn show(value: &KeyspaceEvents) -> String {
        value.text()
    }
}

/// `shop max-items=1000 max-bytes=64mb other ttl=60s max-ttl=1h`
pub struct NamespaceTable;

impl Kind for NamespaceTable {
    type Value = Arc<LimitedNamespaces>;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<Arc<LimitedNamespaces>, String> {
        let mut all = LimitedNamespaces::new();
        let mut last: Option<&mut NamespaceLimits> = None;
        for word in text.split_whitespace() {
            let Some((limit, value)) = namespace::limit_word(word) else {
                if !namespace::is_name(word.as_bytes()) {
                    return Err(format!("{word} is no name of a namespace"));
                }
                last = Some(all.entry(word.to_owned()).or_default());
                continue;
            };
            let last = last.as_deref_mut().ok_or_else(|| format!("{word} stands behind no namespace"))?;
            match limit {
                "max-items" => last.items_max = Number::<u64>::parse(value)?,
                "max-bytes" => last.bytes_max = parse_size(value)?,
                "ttl" => last.ttl_ms = parse_duration_ms(value)?,
                _ => last.ttl_max_ms = parse_duration_ms(value)?,
            }
        }
        if all.len() > NAMESPACES_LIMITED_MAX {
            return Err(format!("something can be set of {NAMESPACES_LIMITED_MAX} namespaces at most"));
        }
        Ok(Arc::new(all))
    }

    fn show(all: &Arc<LimitedNamespaces>) -> String {
        let shown = |(name, limits): (&String, &NamespaceLimits)| {
            let words = [
                (limits.items_max, limits.items_max.to_string()),
                (limits.bytes_max, Size::show(&limits.bytes_max)),
                (limits.ttl_ms, Milliseconds::show(&limits.ttl_ms)),
                (limits.ttl_max_ms, Milliseconds::show(&limits.ttl_max_ms)),
            ];
            let words = namespace::LIMIT_WORDS.iter().zip(words).filter(|(_, (number, _))| *number > 0);
            words.fold(name.clone(), |text, (word, (_, value))| format!("{text} {word}={value}"))
        };
        all.iter().map(shown).collect::<Vec<_>>().join(" ")
    }
}

/// Bytes: `64mb`.
pub struct Size;

impl Kind for Size {
    type Value = u64;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<u64, String> {
        parse_size(text)
    }

    /// In the largest unit that divides it.
    fn show(value: &u64) -> String {
        let units = [(30, "gb"), (20, "mb"), (10, "kb")];
        let fitting = units.iter().find(|(shift, _)| *value > 0 && value.trailing_zeros() >= *shift);
        fitting.map_or_else(|| value.to_string(), |(shift, unit)| format!("{}{unit}", value >> shift))
    }

    fn show_redis(value: &u64) -> String {
        value.to_string()
    }
}

/// Milliseconds: `30s`.
pub struct Milliseconds;

impl Kind for Milliseconds {
    type Value = u64;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<u64, String> {
        parse_duration_ms(text)
    }

    fn show(value: &u64) -> String {
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let fitting = units.iter().find(|(ms, _)| *value > 0 && value.is_multiple_of(*ms));
        fitting.map_or_else(|| format!("{value}ms"), |(ms, unit)| format!("{}{unit}", value / ms))
    }

    /// Redis counts such times in seconds.
    fn show_redis(value: &u64) -> String {
        value.div_ceil(1000).to_string()
    }
}

/// So much per second, and how much at once: `1000`, `1000:5000`, `10mb`; 0 is no limit.
pub struct PerSecond;

impl Kind for PerSecond {
    type Value = Rate;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<Rate, String> {
        let (per_second, burst) = text.split_once(':').unwrap_or((text, text));
        let rate = Rate { per_second: parse_size(per_second)?, burst: parse_size(burst)? };
        match rate {
            Rate { per_second: 0, burst: 1.. } => Err("a burst means nothing without a rate".into()),
            Rate { per_second: 1.., burst: 0 } => Err("a burst of 0 lets nothing through".into()),
            rate => Ok(rate),
        }
    }

    fn show(rate: &Rate) -> String {
        match rate.burst == rate.per_second {
            true => Size::show(&rate.per_second),
            false => format!("{}:{}", Size::show(&rate.per_second), Size::show(&rate.burst)),
        }
    }
}

pub struct YesNo;

impl Kind for YesNo {
    type Value = bool;
    const FORM: Form = Form::YesNo;

    fn parse(text: &str) -> Result<bool, String> {
        match text.to_ascii_lowercase().as_str() {
            "yes" | "true" | "on" | "1" => Ok(true),
            "no" | "false" | "off" | "0" => Ok(false),
            _ => Err("neither yes nor no".into()),
        }
    }

    fn show(value: &bool) -> String {
        if *value { "yes" } else { "no" }.into()
    }

    fn words() -> Vec<Word> {
        ["yes", "no"].map(|word| Word { word, redis: None, help: "" }).into()
    }
}

/// A type whose values are a few words.
pub trait Words: Copy + Debug + PartialEq + 'static {
    const WORDS: &'static [(Word, Self)];
}

pub struct OneOf<T>(PhantomData<T>);

impl<T: Words> Kind for OneOf<T> {
    type Value = T;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<T, String> {
        let text = text.to_ascii_lowercase();
        let found = T::WORDS.iter().find(|(word, _)| word.word == text || word.redis == Some(text.as_str()));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = T::WORDS.iter().map(|(word, _)| word.word).collect();
            format!("possible values: {}", words.join(", "))
        })
    }

    fn show(value: &T) -> String {
        word_of(value).word.into()
    }

    fn show_redis(value: &T) -> String {
        let word = word_of(value);
        word.redis.unwrap_or(word.word).into()
    }

    fn words() -> Vec<Word> {
        T::WORDS.iter().map(|(word, _)| *word).collect()
    }
}

fn word_of<T: Words>(value: &T) -> Word {
    T::WORDS.iter().find(|(_, other)| other == value).expect("every value has its word").0
}

/// Several addresses, v4 and v6.
pub struct Addresses;

impl Kind for Addresses {
    type Value = Vec<IpAddr>;
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Vec<IpAddr>, String> {
        // Redis separates them by spaces.
        let pieces = text.split([',', ' ']).filter(|piece| !piece.is_empty());
        let address = |piece: &str| piece.parse().map_err(|_| format!("{piece:?} is not an IP address"));
        let addresses = pieces.map(address).collect::<Result<Vec<IpAddr>, String>>()?;
        if addresses.is_empty() { Err("at least one address is needed".into()) } else { Ok(addresses) }
    }

    fn show(value: &Vec<IpAddr>) -> String {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    fn show_redis(value: &Vec<IpAddr>) -> String {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

/// A path, or the empty text for none.
pub struct OptionalPath;

impl Kind for OptionalPath {
    type Value = Option<PathBuf>;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<Option<PathBuf>, String> {
        Ok((!text.is_empty()).then(|| text.into()))
    }

    fn show(value: &Option<PathBuf>) -> String {
        value.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

/// A host, or the empty text for none.
pub struct OptionalHost;

impl Kind for OptionalHost {
    type Value = Option<String>;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<Option<String>, String> {
        if text.is_empty() { Ok(None) } else { text::parse_host(text).map(Some) }
    }

    fn show(value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }
}

/// A port, or `auto`.
pub struct AutoPort;

impl Kind for AutoPort {
    type Value = Option<u16>;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<Option<u16>, String> {
        if text == "auto" { Ok(None) } else { Number::<u16>::parse(text).map(Some) }
    }

    fn show(value: &Option<u16>) -> String {
        value.map_or("auto".into(), |port| port.to_string())
    }
}

/// A port, or `off`.
pub struct OptionalPort;

impl Kind for OptionalPort {
    type Value = Option<u16>;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<Option<u16>, String> {
        if text == "off" { Ok(None) } else { Number::<u16>::parse(text).map(Some) }
    }

    fn show(value: &Option<u16>) -> String {
        value.map_or("off".into(), |port| port.to_string())
    }
}

/// `off`, `shared`, or a port of its own.
pub struct TlsPortKind;

impl Kind for TlsPortKind {
    type Value = TlsPort;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<TlsPort, String> {
        match text {
            // Redis writes 0 for none.
            "off" | "0" => Ok(TlsPort::Off),
            "shared" => Ok(TlsPort::Shared),
            port => Number::<u16>::parse(port).map(TlsPort::Own),
        }
    }

    fn show(value: &TlsPort) -> String {
        match value {
            TlsPort::Off => "off".into(),
            TlsPort::Shared => "shared".into(),
            TlsPort::Own(port) => port.to_string(),
        }
    }
}

/// Several texts without commas, or none.
pub struct Texts;

impl Kind for Texts {
    type Value = Vec<String>;
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Vec<String>, String> {
        Ok(text.split(',').map(str::trim).filter(|piece| !piece.is_empty()).map(str::to_string).collect())
    }

    fn show(value: &Vec<String>) -> String {
        value.join(",")
    }
}

/// A secret, or the empty text for none.
pub struct Secret;

impl Kind for Secret {
    type Value = String;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<String, String> {
        match text.len() {
            1..SECRET_BYTES_MIN => Err(format!("a secret has at least {SECRET_BYTES_MIN} bytes")),
            _ => Ok(text.to_string()),
        }
    }

    fn show(value: &String) -> String {
        value.clone()
    }
}

/// A secret shorter than this can be guessed.
pub const SECRET_BYTES_MIN: usize = 8;

/// Names of commands, or of containers for all of their subcommands.
pub struct Commands;

impl Kind for Commands {
    type Value = Vec<String>;
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Vec<String>, String> {
        let names = Texts::parse(&text.to_ascii_lowercase())?;
        match names.iter().find(|name| !TABLE.iter().any(|spec| spec.name == name.as_str())) {
            Some(name) => Err(format!("{name:?} is no command")),
            None => Ok(names),
        }
    }

    fn show(value: &Vec<String>) -> String {
        value.join(",")
    }
}

/// Networks in CIDR notation, or none.
pub struct Networks;

impl Kind for Networks {
    type Value = Vec<Network>;
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Vec<Network>, String> {
        Texts::parse(text)?.iter().map(|network| Network::parse(network)).collect()
    }

    fn show(value: &Vec<Network>) -> String {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Three octal digits.
pub struct Mode;

impl Kind for Mode {
    type Value = u32;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<u32, String> {
        text::parse_mode(text)
    }

    fn show(value: &u32) -> String {
        format!("{value:03o}")
    }
}

/// A count, CPUs, or `all`.
pub struct CoreList;

impl Kind for CoreList {
    type Value = Cores;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<Cores, String> {
        text::parse_cores(text)
    }

    fn show(value: &Cores) -> String {
        match value {
            Cores::Allowed => "all".into(),
            Cores::Count(count) => count.to_string(),
            // One CPU alone would read as a count.
            Cores::Cpus(cpus) => match cpus.as_slice() {
                [cpu] => format!("{cpu}-{cpu}"),
                cpus => cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            },
        }
    }
}

/// A size or a part of the machine's; 0 for no bound.
pub struct Memory;

impl Kind for Memory {
    type Value = MemorySize;
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<MemorySize, String> {
        text::parse_memory(text)
    }

    fn show(value: &MemorySize) -> String {
        match value {
            MemorySize::Bytes(bytes) => Size::show(bytes),
            MemorySize::Percent(percent) => format!("{percent}%"),
        }
    }

    fn show_redis(value: &MemorySize) -> String {
        match value {
            MemorySize::Bytes(bytes) => bytes.to_string(),
            MemorySize::Percent(_) => Self::show(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn round<K: Kind>(text: &str) -> String {
        let value = K::parse(text).unwrap();
        let shown = K::show(&value);
        assert_eq!(K::parse(&shown).as_ref(), Ok(&value), "{text} is shown as {shown}");
        shown
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        assert_eq!(round::<Size>("65536kb"), "64mb");
        assert_eq!(round::<Size>("1000"), "1000");
        assert_eq!(round::<Size>("0"), "0");
        assert_eq!(round::<Milliseconds>("300"), "5m");
        assert_eq!(round::<Milliseconds>("1500ms"), "1500ms");
        assert_eq!(round::<Milliseconds>("0"), "0ms");
        assert_eq!(round::<YesNo>("TRUE"), "yes");
        assert_eq!(round::<Addresses>("127.0.0.1 ::1"), "127.0.0.1,::1");
        assert_eq!(round::<OptionalPath>(""), "");
        assert_eq!(round::<OptionalHost>("[::1]"), "::1");
        assert_eq!(round::<AutoPort>("auto"), "auto");
        assert_eq!(round::<AutoPort>("0"), "0");
        assert_eq!(round::<Mode>("0060"), "060");
        assert_eq!(round::<CoreList>("all"), "all");
        assert_eq!(round::<CoreList>("3-3"), "3-3");
        assert_eq!(round::<CoreList>("0,2-3"), "0,2,3");
        assert_eq!(round::<Memory>("75%"), "75%");
        assert_eq!(round::<Memory>("4096mb"), "4gb");
    }

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(Number::<u16>::parse("65535"), Ok(65535));
        for wrong in ["65536", "-1", "+1", "", "1.0", " 1", "seven"] {
            assert!(Number::<u16>::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(within::<Number<u16>>(&8, 1..=7), Err("must be between 1 and 7".into()));
        assert_eq!(within::<Size>(&8, 1..=64 << 20), Ok(()));
    }

    #[test]
    fn redis_counts_its_times_in_seconds() {
        assert_eq!(Milliseconds::show_redis(&1_500), "2");
        assert_eq!(Size::show_redis(&(1 << 20)), "1048576");
    }
}
