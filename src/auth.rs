//! Who somebody is and what that allows: tokens with scopes and key patterns. Secrets are known by their SHA-256 alone and
//! compared in constant time. Reads no file and no clock.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::command::{Flags, Op, Route, Spec, TABLE};
use crate::glob;
use crate::limits::{AUTH_DELAY_MS_MAX, AUTH_FAILURES_TRACKED_MAX};
use crate::ratelimit::{Rate, source_of};

/// The name of the token that needs none, and of the one that `token` sets.
pub const DEFAULT_NAME: &str = "default";

/// SHA-256 of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell two apart, too little to look one up.
        write!(out, "{:02x}{:02x}…", self.0[0], self.0[1])
    }
}

impl Digest {
    pub fn of(secret: &[u8]) -> Digest {
        Digest(Sha256::digest(secret).into())
    }

    /// 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Digest> {
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        Some(Digest(bytes?.try_into().ok()?))
    }

    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Takes as long wherever they differ.
    fn equals(&self, other: &Digest) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |difference, (a, b)| difference | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

/// What a token may do, by kinds of commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    pub const READ: Scopes = Scopes(1);
    pub const WRITE: Scopes = Scopes(1 << 1);
    pub const PUBSUB: Scopes = Scopes(1 << 2);
    pub const ADMIN: Scopes = Scopes(1 << 3);
    pub const DANGEROUS: Scopes = Scopes(1 << 4);
    pub const ALL: Scopes = Scopes(0b11111);

    pub const NAMES: [(&str, Scopes); 5] = [
        ("read", Scopes::READ),
        ("write", Scopes::WRITE),
        ("pubsub", Scopes::PUBSUB),
        ("admin", Scopes::ADMIN),
        ("dangerous", Scopes::DANGEROUS),
    ];

    /// `read`, or `@read` as Redis writes it; `all` for every one.
    pub fn parse(name: &str) -> Option<Scopes> {
        let name = name.strip_prefix('@').unwrap_or(name);
        let all = [("all", Scopes::ALL)];
        Scopes::NAMES.iter().chain(&all).find(|(known, _)| *known == name).map(|(_, scopes)| *scopes)
    }

    pub fn with(self, other: Scopes) -> Scopes {
        Scopes(self.0 | other.0)
    }

    pub fn has(self, other: Scopes) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Scopes::NAMES.iter().filter(move |(_, scope)| self.has(*scope)).map(|(name, _)| *name)
    }

    /// All of what a command needs. Commands about the connection itself need nothing.
    pub fn needed(spec: &Spec) -> Scopes {
        let rules = [
            // Watching tells whether keys change, and what is hot what they are called.
            (spec.flags.has(Flags::READONLY) || matches!(spec.op, Op::Watch | Op::HotKeys), Scopes::READ),
            (spec.flags.has(Flags::WRITE), Scopes::WRITE),
            (spec.group == "pubsub", Scopes::PUBSUB),
            (spec.flags.has(Flags::ADMIN), Scopes::ADMIN),
            (is_dangerous(spec), Scopes::DANGEROUS),
        ];
        rules.iter().filter(|(holds, _)| *holds).fold(Scopes::default(), |needed, (_, scope)| needed.with(*scope))
    }
}

/// What touches everything at once.
fn is_dangerous(spec: &Spec) -> bool {
    spec.flags.has(Flags::DANGEROUS) || matches!(spec.op, Op::Keys | Op::FlushAll | Op::FlushDb | Op::SwapDb)
}

const OP_WORDS: usize = TABLE.len().div_ceil(64);

/// A set of operations, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpSet([u64; OP_WORDS]);

impl Default for OpSet {
    fn default() -> OpSet {
        OpSet::none()
    }
}

impl OpSet {
    pub fn none() -> OpSet {
        OpSet([0; OP_WORDS])
    }

    pub fn of(keep: impl Fn(&Spec) -> bool) -> OpSet {
        let mut set = OpSet::none();
        TABLE.iter().filter(|spec| keep(spec)).for_each(|spec| set.insert(spec.op));
        set
    }

    pub fn insert(&mut self, op: Op) {
        self.0[op as usize / 64] |= 1 << (op as usize % 64);
    }

    #[inline]
    pub fn has(&self, op: Op) -> bool {
        self.0[op as usize / 64] & 1 << (op as usize % 64) != 0
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// A secret that somebody may show, and what it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub name: String,
    /// Any of them, so that a secret can be changed without a moment in which neither works. Empty: needs none.
    pub digests: Vec<Digest>,
    pub scopes: Scopes,
    /// Globs; a key must match one of them. Empty: every key.
    pub keys: Vec<Vec<u8>>,
    /// For all connections with it together.
    pub commands: Rate,
    pub bytes: Rate,
}

impl Token {
    /// Everything, for whoever knows `secret`; for everybody, when there is none.
    pub fn unlimited(name: &str, secret: Option<&[u8]>) -> Token {
        Token {
            name: name.to_owned(),
            digests: secret.map(Digest::of).into_iter().collect(),
            scopes: Scopes::ALL,
            keys: Vec::new(),
            commands: Rate::default(),
            bytes: Rate::default(),
        }
    }

    pub fn allows_key(&self, key: &[u8]) -> bool {
        self.keys.is_empty() || self.keys.iter().any(|pattern| glob::matches(pattern, key))
    }

    /// Whether the command is allowed, whatever its keys. Commands that see or change keys without naming them are not for
    /// tokens that are confined to some keys.
    pub fn allows(&self, spec: &Spec) -> bool {
        // STATS names the namespaces of everybody.
        let is_about_keys = spec.flags.has(Flags::READONLY)
            || spec.flags.has(Flags::WRITE)
            || matches!(spec.op, Op::HotKeys | Op::Stats);
        let sees_all_keys = is_about_keys && matches!(spec.route, Route::Every | Route::Addressed);
        self.scopes.has(Scopes::needed(spec)) && (self.keys.is_empty() || !sees_all_keys)
    }

    pub fn operations(&self) -> OpSet {
        OpSet::of(|spec| self.allows(spec))
    }
}

/// Everybody there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    tokens: Vec<Arc<Token>>,
    /// Nobody may.
    pub disabled: OpSet,
}

/// Two tokens with one name, or the same secret twice: nobody could say who somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmbiguousToken(pub String);

impl Access {
    pub fn new(tokens: Vec<Token>, disabled: OpSet) -> Result<Access, AmbiguousToken> {
        for (index, token) in tokens.iter().enumerate() {
            let others = &tokens[..index];
            let shared = |digest: &Digest| others.iter().any(|other| other.digests.contains(digest));
            if others.iter().any(|other| other.name == token.name) || token.digests.iter().any(shared) {
                return Err(AmbiguousToken(token.name.clone()));
            }
        }
        Ok(Access { tokens: tokens.into_iter().map(Arc::new).collect(), disabled })
    }

    /// Whether somebody has to say who he is.
    pub fn is_required(&self) -> bool {
        !self.tokens.is_empty()
    }

    pub fn tokens(&self) -> &[Arc<Token>] {
        &self.tokens
    }

    pub fn by_name(&self, name: &[u8]) -> Option<&Arc<Token>> {
        self.tokens.iter().find(|token| token.name.as_bytes() == name)
    }

    /// Who knows `secret`. All tokens are looked at, whoever it is.
    pub fn find(&self, name: Option<&[u8]>, secret: &[u8]) -> Option<&Arc<Token>> {
        let shown = Digest::of(secret);
        let mut found = None;
        for token in &self.tokens {
            for digest in &token.digests {
                if digest.equals(&shown) {
                    found = Some(token);
                }
            }
        }
        found.filter(|token| name.is_none_or(|name| token.name.as_bytes() == name))
    }
}

/// Failed attempts by source: the next attempt has to wait, twice as long each time.
#[derive(Debug, Default)]
pub struct Failures {
    by_address: HashMap<IpAddr, Failed, ahash::RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    count: u32,
    until_us: u64,
}

const DELAY_MS_FIRST: u64 = 100;
/// After this long without a failure they are forgotten.
const FORGOTTEN_AFTER_US: u64 = 10 * 60 * 1_000_000;

impl Failures {
    pub fn with_hasher(hasher: ahash::RandomState) -> Failures {
        Failures { by_address: HashMap::with_hasher(hasher) }
    }

    /// How long `address` has to wait before it may try (again).
    pub fn wait_ms(&self, address: IpAddr, now_us: u64) -> Option<u64> {
        let failed = self.by_address.get(&source_of(address))?;
        let left_us = failed.until_us.checked_sub(now_us).filter(|left_us| *left_us > 0)?;
        Some(left_us.div_ceil(1000))
    }

    /// Another attempt has failed.
    pub fn add(&mut self, address: IpAddr, now_us: u64) {
        let address = source_of(address);
        if self.by_address.len() >= AUTH_FAILURES_TRACKED_MAX && !self.by_address.contains_key(&address) {
            self.by_address.retain(|_, failed| failed.until_us > now_us);
            // Still full: whoever waits the shortest is let off.
            if self.by_address.len() >= AUTH_FAILURES_TRACKED_MAX {
                let shortest =
                    self.by_address.iter().min_by_key(|(_, failed)| failed.until_us).map(|(address, _)| *address);
                shortest.map(|address| self.by_address.remove(&address));
            }
        }
        let failed = self.by_address.entry(address).or_insert(Failed { count: 0, until_us: 0 });
        if now_us.saturating_sub(failed.until_us) > FORGOTTEN_AFTER_US {
            failed.count = 0;
        }
        let delay_ms = (DELAY_MS_FIRST << failed.count.min(20)).min(AUTH_DELAY_MS_MAX);
        *failed = Failed { count: failed.count + 1, until_us: now_us + delay_ms * 1000 };
    }

    pub fn forget(&mut self, address: IpAddr) {
        if !self.by_address.is_empty() {
            self.by_address.remove(&source_of(address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{lookup, spec_of};

    fn token(name: &str, secret: &str, scopes: Scopes, keys: &[&str]) -> Token {
        let keys = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
        Token { scopes, keys, ..Token::unlimited(name, Some(secret.as_bytes())) }
    }

    #[test]
    fn digests_are_those_of_sha_256() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").hex(), abc);
        assert_eq!(Digest::parse(abc), Some(Digest::of(b"abc")));
        assert_eq!(Digest::parse(&abc.to_uppercase()), Some(Digest::of(b"abc")));
        for wrong in ["", "ba", &abc[1..], &format!("{abc}00"), &abc.replace('b', "x")] {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
        assert!(!format!("{:?}", Digest::of(b"abc")).contains("ba7816bf"));
    }

    #[test]
    fn somebody_is_who_knows_the_secret() {
        let tokens = vec![token("app", "one", Scopes::ALL, &[]), token("ops", "two", Scopes::ALL, &[])];
        let access = Access::new(tokens, OpSet::none()).unwrap();
        let name = |name: Option<&str>, secret: &str| {
            access.find(name.map(str::as_bytes), secret.as_bytes()).map(|token| token.name.clone())
        };
        assert_eq!(name(None, "two").as_deref(), Some("ops"));
        assert_eq!(name(Some("app"), "one").as_deref(), Some("app"));
        for (wrong_name, secret) in [(None, ""), (None, "three"), (Some("app"), "two"), (Some("nobody"), "one")] {
            assert_eq!(name(wrong_name, secret), None);
        }
        assert!(access.is_required() && !Access::default().is_required());
    }

    #[test]
    fn a_secret_may_be_two_while_it_is_changed_but_belongs_to_one() {
        let mut app = token("app", "old", Scopes::ALL, &[]);
        app.digests.push(Digest::of(b"new"));
        let access = Access::new(vec![app.clone()], OpSet::none()).unwrap();
        assert!(access.find(None, b"old").is_some() && access.find(None, b"new").is_some());
        let ambiguous = |other: Token| Access::new(vec![app.clone(), other], OpSet::none()).unwrap_err();
        assert_eq!(ambiguous(token("app", "x", Scopes::ALL, &[])), AmbiguousToken("app".into()));
        assert_eq!(ambiguous(token("b", "new", Scopes::ALL, &[])), AmbiguousToken("b".into()));
    }

    #[test]
    fn scopes_cover_what_commands_do() {
        let needs = |name: &str| Scopes::needed(lookup(name.as_bytes()).unwrap()).names().collect::<Vec<_>>();
        assert_eq!(needs("get"), ["read"]);
        assert_eq!(needs("set"), ["write"]);
        assert_eq!(needs("ping"), [""; 0]);
        assert_eq!(needs("flushall"), ["write", "dangerous"]);
        assert_eq!(needs("keys"), ["read", "dangerous"]);
        assert!(Scopes::needed(spec_of(Op::ConfigSet)).has(Scopes::ADMIN));
        assert_eq!(Scopes::parse("@read"), Some(Scopes::READ));
        assert_eq!(Scopes::parse("all"), Some(Scopes::ALL));
        assert_eq!(Scopes::parse("everything"), None);
        // Nothing that reads or writes keys is free.
        for spec in TABLE.iter().filter(|spec| spec.keys.first > 0) {
            assert_ne!(Scopes::needed(spec), Scopes::default(), "{}", spec.name);
        }
    }

    #[test]
    fn a_token_is_confined_to_its_scopes_and_keys() {
        let reader = token("r", "s", Scopes::READ, &["app:*", "shared"]);
        let operations = reader.operations();
        assert!(operations.has(Op::Get) && operations.has(Op::MGet) && operations.has(Op::Ping));
        // What is hot, and whose namespaces there are, is not for everybody who may read something.
        for denied in [
            Op::HotKeys,
            Op::Stats,
            Op::Set,
            Op::Keys,
            Op::Scan,
            Op::DbSize,
            Op::FlushAll,
            Op::ConfigGet,
            Op::RandomKey,
        ] {
            assert!(!operations.has(denied), "{denied:?}");
        }
        assert!(reader.allows_key(b"app:1") && reader.allows_key(b"shared") && !reader.allows_key(b"other:1"));
        let publisher = token("p", "s", Scopes::PUBSUB, &[]).operations();
        assert!(publisher.has(Op::Publish) && publisher.has(Op::Stats) && !publisher.has(Op::HotKeys));
        let all = Token::unlimited("default", None);
        assert!(TABLE.iter().all(|spec| all.allows(spec)) && all.allows_key(b"anything"));
        assert!(OpSet::none().is_empty() && !operations.is_empty());
    }

    #[test]
    fn failures_make_an_address_wait_longer_and_longer() {
        let hasher = || ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut failures = Failures::with_hasher(hasher());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(failures.wait_ms(address, 0), None);
        failures.add(address, 0);
        assert_eq!(failures.wait_ms(mapped, 0), Some(100));
        assert_eq!(failures.wait_ms(address, 100_000), None);
        failures.add(mapped, 100_000);
        assert_eq!(failures.wait_ms(address, 100_000), Some(200));
        for _ in 0..40 {
            failures.add(address, 200_000);
        }
        assert_eq!(failures.wait_ms(address, 200_000), Some(AUTH_DELAY_MS_MAX));
        // In the end it is forgotten, at once after a success.
        failures.add(address, 200_000 + AUTH_DELAY_MS_MAX * 1000 + FORGOTTEN_AFTER_US + 1_000);
        assert_eq!(failures.by_address[&address].count, 1);
        failures.forget(mapped);
        assert_eq!(failures.wait_ms(address, 0), None);
        let mut many = Failures::with_hasher(hasher());
        for host in 0..3 * AUTH_FAILURES_TRACKED_MAX as u32 {
            many.add(IpAddr::from(host.to_be_bytes()), 0);
        }
        assert_eq!(many.by_address.len(), AUTH_FAILURES_TRACKED_MAX);
    }
}
