//! Namespaces: keys `name^rest`, up to the first `^`, are those of the namespace `name`; keys without one are global.
//! The name is part of the key wherever it is stored, routed and logged, so that there is one key however it is said.

use std::collections::BTreeMap;

use crate::limits::NAMESPACE_BYTES_MAX;

/// Databases that SELECT chooses from. 0 is the global namespace, the others are namespaces of their own.
pub const DATABASES: u8 = 16;

pub const SEPARATOR: u8 = b'^';

/// Namespaces are left out only where it is measured what they cost those who use none (PERF.md).
pub const ARE_BUILT: bool = !cfg!(crabcache_without_namespaces);

/// The namespace of a key, if it has one.
#[inline]
pub fn name_of(key: &[u8]) -> Option<&[u8]> {
    if !ARE_BUILT {
        return None;
    }
    let window = &key[..key.len().min(NAMESPACE_BYTES_MAX + 1)];
    memchr::memchr(SEPARATOR, window).filter(|&len| len > 0).map(|len| &key[..len])
}

/// Whether clients may give this name: bytes that can be seen.
pub fn is_name(name: &[u8]) -> bool {
    (1..=NAMESPACE_BYTES_MAX).contains(&name.len())
        && name.iter().all(|&byte| byte != SEPARATOR && !byte.is_ascii_whitespace() && !byte.is_ascii_control())
}

/// The namespace of a database while none has been swapped, empty for the global one.
fn original_of(database: u8) -> Vec<u8> {
    match database {
        0 => Vec::new(),
        _ => format!("db{database}").into_bytes(),
    }
}

/// Which namespace each database shows. SWAPDB changes nothing but this, however many keys there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Databases([u8; DATABASES as usize]);

impl Default for Databases {
    fn default() -> Databases {
        Databases(std::array::from_fn(|database| database as u8))
    }
}

impl Databases {
    /// The namespace of a database, empty for the global one.
    pub fn namespace_of(&self, database: u8) -> Vec<u8> {
        original_of(self.0[database as usize])
    }

    /// The database whose namespace `name` is.
    pub fn number_of(&self, name: &[u8]) -> Option<u8> {
        let original = (0..DATABASES).find(|&database| original_of(database) == name)?;
        self.0.iter().position(|shown| *shown == original).map(|database| database as u8)
    }

    /// The database of a key, and what the key is called there: keys of namespaces that are none are in that of the
    /// global one.
    pub fn within<'a>(&self, key: &'a [u8]) -> (u8, &'a [u8]) {
        match name_of(key).and_then(|name| self.number_of(name).map(|database| (database, name.len()))) {
            Some((database, name_bytes)) => (database, &key[name_bytes + 1..]),
            None => (self.number_of(b"").unwrap_or(0), key),
        }
    }

    pub fn swapped(mut self, one: u8, other: u8) -> Databases {
        self.0.swap(one as usize, other as usize);
        self
    }

    /// All of it in a word, four bits for each.
    pub fn to_word(self) -> u64 {
        self.0.iter().rev().fold(0, |word, &shown| word << 4 | u64::from(shown))
    }

    /// None unless each namespace is shown once.
    pub fn from_word(word: u64) -> Option<Databases> {
        let shown: [u8; DATABASES as usize] = std::array::from_fn(|database| (word >> (4 * database) & 15) as u8);
        let all = shown.iter().fold(0u16, |all, &shown| all | 1 << shown);
        (all == u16::MAX).then_some(Databases(shown))
    }
}

/// Under this key the databases are remembered in the log: of the first slot, and so always of the first core, and in a
/// namespace that nobody can be in and that is shown to
/// nobody.
pub const SWAPPED_KEY: &[u8] = b"\0server^{3560}databases";

/// Whether a namespace is the server's own.
pub fn is_hidden(name: &[u8]) -> bool {
    name_of(SWAPPED_KEY) == Some(name)
}

/// What stands before the keys of a namespace; nothing before global ones.
pub fn prefix_of(name: &[u8]) -> Vec<u8> {
    match name {
        [] => Vec::new(),
        name => [name, &[SEPARATOR]].concat(),
    }
}

/// What a namespace may hold, over all cores, and for how long; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceLimits {
    pub items_max: u64,
    /// Of keys and values.
    pub bytes_max: u64,
    /// What keys live for that are written without an expiry.
    pub ttl_ms: u64,
    pub ttl_max_ms: u64,
}

impl NamespaceLimits {
    /// What a core of so many may hold: together they never hold more than all may.
    pub fn of_core(self, cores: u64) -> NamespaceLimits {
        let part = |whole: u64| if whole == 0 { 0 } else { (whole / cores).max(1) };
        NamespaceLimits { items_max: part(self.items_max), bytes_max: part(self.bytes_max), ..self }
    }

    pub fn holds(&self, items: u64, bytes: u64) -> bool {
        (self.items_max == 0 || items <= self.items_max) && (self.bytes_max == 0 || bytes <= self.bytes_max)
    }

    /// When a key expires that was to expire at `asked_ms`, if at all.
    pub fn expiry(&self, asked_ms: Option<u64>, is_written: bool, now_ms: u64) -> Option<u64> {
        let by_itself = (is_written && self.ttl_ms > 0).then(|| now_ms.saturating_add(self.ttl_ms));
        let latest = (self.ttl_max_ms > 0).then(|| now_ms.saturating_add(self.ttl_max_ms));
        match (asked_ms.or(by_itself), latest) {
            (Some(asked_ms), Some(latest)) => Some(asked_ms.min(latest)),
            (asked_ms, latest) => asked_ms.or(latest),
        }
    }
}

/// By name: those of which something is set.
pub type LimitedNamespaces = BTreeMap<String, NamespaceLimits>;

/// What can be set of a namespace, as it is written: `shop max-items=1000 ttl=60s other max-bytes=64mb`.
pub const LIMIT_WORDS: [&str; 4] = ["max-items", "max-bytes", "ttl", "max-ttl"];

/// A word that sets something, and to what.
pub fn limit_word(word: &str) -> Option<(&'static str, &str)> {
    let (name, value) = word.split_once('=')?;
    LIMIT_WORDS.iter().find(|known| **known == name).map(|known| (*known, value))
}

/// `text`, in which so much more is set of `name`, or nothing any more.
pub fn with_limits(text: &str, name: &str, changes: Option<&[(&'static str, String)]>) -> String {
    let mut entries: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
    for word in text.split_whitespace() {
        match (limit_word(word), entries.last_mut()) {
            (Some(limit), Some((_, limits))) => limits.push(limit),
            _ => entries.push((word, Vec::new())),
        }
    }
    match changes {
        None => entries.retain(|(other, _)| *other != name),
        Some(changes) => {
            if !entries.iter().any(|(other, _)| *other == name) {
                entries.push((name, Vec::new()));
            }
            let limits = entries.iter_mut().find(|(other, _)| *other == name).map(|(_, limits)| limits);
            if let Some(limits) = limits {
                limits.retain(|(limit, _)| !changes.iter().any(|(changed, _)| changed == limit));
                limits.extend(changes.iter().map(|(changed, value)| (*changed, value.as_str())));
            }
        }
    }
    let words = |(name, limits): (&str, Vec<(&str, &str)>)| {
        let limits = limits.into_iter().map(|(limit, value)| format!("{limit}={value}"));
        std::iter::once(name.to_owned()).chain(limits).collect::<Vec<_>>().join(" ")
    };
    entries.into_iter().map(words).collect::<Vec<_>>().join(" ")
}

/// Which keys a command is about that names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    Everything,
    Global,
    /// The prefix of its keys.
    Of(Vec<u8>),
}

impl View {
    /// What a connection sees whose keys have this prefix.
    pub fn of_prefix(prefix: &[u8]) -> View {
        if prefix.is_empty() { View::Global } else { View::Of(prefix.to_vec()) }
    }

    /// `key` as it is called within the view, if it is in it.
    pub fn within<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            View::Everything => Some(key),
            View::Global => name_of(key).is_none().then_some(key),
            View::Of(prefix) => key.strip_prefix(prefix.as_slice()),
        }
    }

    /// For the way to another core.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            View::Everything => b"*".to_vec(),
            View::Global => Vec::new(),
            View::Of(prefix) => prefix.clone(),
        }
    }

    pub fn from_bytes(bytes: &[u8]) -> View {
        match bytes {
            b"*" => View::Everything,
            [] => View::Global,
            prefix => View::Of(prefix.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_ends_the_name() {
        assert_eq!(name_of(b"ns^key"), Some(&b"ns"[..]));
        assert_eq!(name_of(b"a^b^c"), Some(&b"a"[..]));
        assert_eq!(name_of(b"a^"), Some(&b"a"[..]));
        for global in [&b"key"[..], b"", b"^key", b"^^"] {
            assert_eq!(name_of(global), None);
        }
        let longest = [&[b'n'; NAMESPACE_BYTES_MAX][..], b"^k"].concat();
        assert_eq!(name_of(&longest), Some(&longest[..NAMESPACE_BYTES_MAX]));
        assert_eq!(name_of(&[b"n", &longest[..]].concat()), None, "a longer name is none");
    }

    #[test]
    fn names_can_be_seen() {
        assert!(is_name(b"shop") && is_name("café".as_bytes()) && is_name(b"a:b-c_1"));
        for wrong in [&b""[..], b"a b", b"a^b", b"a\n", b"\0", &[b'n'; NAMESPACE_BYTES_MAX + 1]] {
            assert!(!is_name(wrong), "{}", wrong.escape_ascii());
        }
        assert!(!is_name(name_of(SWAPPED_KEY).unwrap()) && is_hidden(b"\0server") && !is_hidden(b"server"));
    }

    #[test]
    fn databases_are_swapped_and_remembered() {
        let databases = Databases::default();
        assert_eq!(databases.namespace_of(0), b"");
        for database in 0..DATABASES {
            assert_eq!(databases.number_of(&databases.namespace_of(database)), Some(database));
        }
        assert_eq!(databases.number_of(b"db16"), None);
        assert_eq!(databases.within(b"db3^a^b"), (3, &b"a^b"[..]));
        for key in [&b"shop^k"[..], b"db16^k", b"k", b"^k", b"db3"] {
            assert_eq!(databases.within(key), (0, key));
        }
        let swapped = databases.swapped(0, 3).swapped(3, 15).swapped(7, 7);
        assert_eq!((swapped.namespace_of(0), swapped.namespace_of(15)), (b"db3".to_vec(), Vec::new()));
        assert_eq!((swapped.within(b"db3^k"), swapped.within(b"shop^k")), ((0, &b"k"[..]), (15, &b"shop^k"[..])));
        assert_eq!(swapped.within(b"db15^k"), (3, &b"k"[..]));
        for databases in [databases, swapped] {
            assert_eq!(Databases::from_word(databases.to_word()), Some(databases));
        }
        assert_eq!(Databases::from_word(0), None);
        assert_eq!(crate::slot::slot_of(SWAPPED_KEY), 0);
    }

    #[test]
    fn limits_are_changed_one_by_one() {
        let one = with_limits("", "shop", Some(&[("max-items", "5".into())]));
        assert_eq!(one, "shop max-items=5");
        let two = with_limits(&one, "a=b", Some(&[("ttl", "1s".into()), ("max-ttl", "2s".into())]));
        assert_eq!(two, "shop max-items=5 a=b ttl=1s max-ttl=2s");
        let three = with_limits(&two, "shop", Some(&[("max-bytes", "1mb".into()), ("max-items", "6".into())]));
        assert_eq!(three, "shop max-bytes=1mb max-items=6 a=b ttl=1s max-ttl=2s");
        assert_eq!(with_limits(&three, "shop", None), "a=b ttl=1s max-ttl=2s");
        assert_eq!(with_limits(&three, "nosuch", None), three);
    }

    #[test]
    fn an_expiry_is_given_and_shortened() {
        let limits = NamespaceLimits { ttl_ms: 10, ttl_max_ms: 100, ..NamespaceLimits::default() };
        assert_eq!(
            [None, Some(1_050), Some(5_000)].map(|asked| limits.expiry(asked, true, 1_000)),
            [Some(1_010), Some(1_050), Some(1_100)]
        );
        assert_eq!(limits.expiry(None, false, 1_000), Some(1_100), "PERSIST");
        assert_eq!(NamespaceLimits::default().expiry(None, true, 5), None);
        let limits = NamespaceLimits { items_max: 10, bytes_max: 2, ..limits };
        assert_eq!((limits.of_core(3).items_max, limits.of_core(3).bytes_max), (3, 1));
        assert!(limits.holds(10, 2) && !limits.holds(11, 2) && !limits.holds(0, 3));
    }

    #[test]
    fn views_show_keys_by_their_own_names() {
        let of = View::of_prefix(&prefix_of(b"ns"));
        assert_eq!((of.within(b"ns^k"), of.within(b"ns2^k"), of.within(b"k")), (Some(&b"k"[..]), None, None));
        assert_eq!((View::Global.within(b"k"), View::Global.within(b"ns^k")), (Some(&b"k"[..]), None));
        assert_eq!(View::of_prefix(b""), View::Global);
        for view in [View::Everything, View::Global, of] {
            assert_eq!(View::from_bytes(&view.to_bytes()), view);
        }
    }
}
