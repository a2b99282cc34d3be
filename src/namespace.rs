//! Namespaces: keys `name^rest`, up to the first `^`, are those of the namespace `name`; keys without one are global.
//! The name is part of the key wherever it is stored, routed and logged, so that there is one key however it is said.

use crate::limits::NAMESPACE_BYTES_MAX;

/// Databases that SELECT chooses from. 0 is the global namespace, the others are namespaces of their own.
pub const DATABASES: u8 = 16;

pub const SEPARATOR: u8 = b'^';

/// The namespace of a key, if it has one.
#[inline]
pub fn name_of(key: &[u8]) -> Option<&[u8]> {
    let window = &key[..key.len().min(NAMESPACE_BYTES_MAX + 1)];
    memchr::memchr(SEPARATOR, window).filter(|&len| len > 0).map(|len| &key[..len])
}

/// Whether clients may give this name: bytes that can be seen.
pub fn is_name(name: &[u8]) -> bool {
    (1..=NAMESPACE_BYTES_MAX).contains(&name.len())
        && name.iter().all(|&byte| byte != SEPARATOR && !byte.is_ascii_whitespace() && !byte.is_ascii_control())
}

/// The namespace of a database, empty for the global one.
pub fn of_database(database: u8) -> Vec<u8> {
    match database {
        0 => Vec::new(),
        _ => format!("db{database}").into_bytes(),
    }
}

/// The database whose namespace `name` is.
pub fn database_of(name: &[u8]) -> Option<u8> {
    (0..DATABASES).find(|&database| of_database(database) == name)
}

/// The database of a key, and what the key is called there: keys of namespaces that are none are in the first.
pub fn within_database(key: &[u8]) -> (u8, &[u8]) {
    match name_of(key).and_then(|name| database_of(name).map(|database| (database, name.len()))) {
        Some((database, name_bytes)) => (database, &key[name_bytes + 1..]),
        None => (0, key),
    }
}

/// What stands before the keys of a namespace; nothing before global ones.
pub fn prefix_of(name: &[u8]) -> Vec<u8> {
    match name {
        [] => Vec::new(),
        name => [name, &[SEPARATOR]].concat(),
    }
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
        assert_eq!(of_database(0), b"");
        for database in 0..DATABASES {
            assert_eq!(database_of(&of_database(database)), Some(database));
        }
        assert_eq!(database_of(b"db16"), None);
        assert_eq!(within_database(b"db3^a^b"), (3, &b"a^b"[..]));
        for key in [&b"shop^k"[..], b"db16^k", b"k", b"^k", b"db3"] {
            assert_eq!(within_database(key), (0, key));
        }
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
