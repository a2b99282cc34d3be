//! Commands that took long, the newest first to be shown: what one core remembers of them for SLOWLOG, and how a command
//! is written down there and for MONITOR, without the secrets in it.

use std::collections::VecDeque;

use crate::command::{Op, Spec};
use crate::request::Args;

/// Words of one entry, and bytes of one word; what is more is counted instead.
const WORDS_MAX: usize = 32;
const WORD_BYTES_MAX: usize = 128;
/// What stands for a secret.
const REDACTED: &[u8] = b"(redacted)";

/// From this threshold on, commands that cannot take so long are not measured.
const COARSE_US_MIN: i64 = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// One more than the entry before it, on whichever core.
    pub id: u64,
    pub unix_seconds: u64,
    pub took_us: u64,
    /// As [`noted_words`] gives them.
    pub words: Vec<Vec<u8>>,
    pub address: String,
    pub name: String,
}

/// What one core remembers. Full: the oldest is forgotten.
#[derive(Debug, Default)]
pub struct SlowLog {
    slower_than_us: i64,
    len_max: usize,
    entries: VecDeque<Entry>,
}

impl SlowLog {
    /// Nothing is logged below 0; with 0 everything is.
    pub fn configure(&mut self, slower_than_us: i64, len_max: usize) {
        (self.slower_than_us, self.len_max) = (slower_than_us, len_max);
        self.entries.truncate(len_max);
        self.entries.shrink_to(len_max);
    }

    pub fn is_on(&self) -> bool {
        self.slower_than_us >= 0 && self.len_max > 0
    }

    /// Whether every command has to be measured, because any might take so long.
    pub fn is_fine(&self) -> bool {
        self.is_on() && self.slower_than_us < COARSE_US_MIN
    }

    /// Whether what took so long belongs here.
    pub fn takes(&self, took_us: u64) -> bool {
        self.is_on() && took_us >= self.slower_than_us as u64
    }

    pub fn push(&mut self, entry: Entry) {
        self.entries.truncate(self.len_max.saturating_sub(1));
        self.entries.push_front(entry);
    }

    pub fn len_max(&self) -> usize {
        self.len_max
    }

    /// The newest first.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    pub fn reset(&mut self) {
        self.entries = VecDeque::new();
    }
}

/// The words of a command's name.
pub fn name_words(spec: &Spec) -> impl Iterator<Item = String> {
    spec.name.split('|').map(str::to_uppercase)
}

/// Whether argument `index` is a secret, or may be one.
pub fn is_secret(spec: &Spec, args: &Args<'_>, index: usize) -> bool {
    match spec.op {
        Op::Auth => true,
        // HELLO protover … AUTH name secret
        Op::Hello => (1..index).rev().take(2).any(|at| args.get(at).eq_ignore_ascii_case(b"auth")),
        Op::ConfigSet => index % 2 == 1 && is_secret_setting(args.get(index - 1)),
        _ => false,
    }
}

fn is_secret_setting(name: &[u8]) -> bool {
    [&b"token"[..], b"requirepass"].iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// A command as SLOWLOG shows it: at most so many words, each so long, no secrets.
pub fn noted_words(spec: &Spec, args: &Args<'_>) -> Vec<Vec<u8>> {
    let name: Vec<Vec<u8>> = name_words(spec).map(String::into_bytes).collect();
    let count = name.len() + args.len();
    let shown = if count > WORDS_MAX { WORDS_MAX - 1 } else { count } - name.len();
    let mut words = name;
    words.extend((0..shown).map(|index| {
        let word = if is_secret(spec, args, index) { REDACTED } else { args.get(index) };
        match word.split_at_checked(WORD_BYTES_MAX) {
            Some((start, rest)) if !rest.is_empty() => {
                [start, format!("... ({} more bytes)", rest.len()).as_bytes()].concat()
            }
            _ => word.to_vec(),
        }
    }));
    if words.len() < count {
        words.push(format!("... ({} more arguments)", count - words.len()).into_bytes());
    }
    words
}

/// A command as MONITOR shows it: every word in quotes, no secrets.
pub fn push_quoted(line: &mut Vec<u8>, spec: &Spec, args: &Args<'_>) {
    for word in name_words(spec) {
        line.push(b' ');
        push_quoted_word(line, word.as_bytes());
    }
    for index in 0..args.len() {
        line.push(b' ');
        push_quoted_word(line, if is_secret(spec, args, index) { REDACTED } else { args.get(index) });
    }
}

/// As Redis quotes: so that the word fits into one line, whatever is in it.
fn push_quoted_word(line: &mut Vec<u8>, word: &[u8]) {
    line.push(b'"');
    for &byte in word {
        match byte {
            b'\\' | b'"' => line.extend([b'\\', byte]),
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            b'\t' => line.extend(b"\\t"),
            0x07 => line.extend(b"\\a"),
            0x08 => line.extend(b"\\b"),
            b' '..=b'~' => line.push(byte),
            _ => line.extend(format!("\\x{byte:02x}").as_bytes()),
        }
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::spec_of;
    use crate::request::joined;

    fn with_args<R>(words: &[&[u8]], run: impl FnOnce(Args<'_>) -> R) -> R {
        let (bytes, ranges) = joined(words);
        run(Args::new(&bytes, &ranges, &[]))
    }

    fn noted(op: Op, words: &[&[u8]]) -> Vec<String> {
        let words = with_args(words, |args| noted_words(spec_of(op), &args));
        words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect()
    }

    fn quoted(op: Op, words: &[&[u8]]) -> String {
        let mut line = Vec::new();
        with_args(words, |args| push_quoted(&mut line, spec_of(op), &args));
        String::from_utf8(line).unwrap()
    }

    fn entry(id: u64) -> Entry {
        Entry { id, unix_seconds: 0, took_us: 0, words: vec![], address: String::new(), name: String::new() }
    }

    #[test]
    fn the_newest_stay() {
        let mut log = SlowLog::default();
        assert!(!log.is_on());
        log.configure(10_000, 3);
        assert!(log.is_on() && !log.is_fine() && log.takes(10_000) && !log.takes(9_999));
        (0..5).for_each(|id| log.push(entry(id)));
        assert_eq!(log.entries().map(|entry| entry.id).collect::<Vec<_>>(), [4, 3, 2]);
        log.configure(0, 2);
        assert!(log.is_fine() && log.takes(0));
        assert_eq!(log.entries().map(|entry| entry.id).collect::<Vec<_>>(), [4, 3]);
        log.configure(-1, 2);
        assert!(!log.is_on() && !log.takes(u64::MAX));
        log.reset();
        assert_eq!(log.entries().len(), 0);
    }

    #[test]
    fn words_are_cut_as_redis_cuts_them() {
        let long = [b'v'; 200];
        let words = noted(Op::Set, &[b"k", &long]);
        assert_eq!(words[..2], ["SET", "k"]);
        assert_eq!(words[2], format!("{}... (72 more bytes)", "v".repeat(128)));
        assert_eq!(noted(Op::Set, &[b"k", &[b'v'; 128]])[2].len(), 128);
        let many: Vec<&[u8]> = vec![b"k"; 40];
        let words = noted(Op::MGet, &many);
        assert_eq!((words.len(), words[31].as_str()), (32, "... (10 more arguments)"));
        assert_eq!(noted(Op::MGet, &many[..31]).len(), 32, "as many as fit are shown");
        assert_eq!(noted(Op::ClientSetName, &[b"me"]), ["CLIENT", "SETNAME", "me"]);
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(noted(Op::Auth, &[b"name", b"s"]), ["AUTH", "(redacted)", "(redacted)"]);
        assert_eq!(
            noted(Op::Hello, &[b"3", b"AUTH", b"name", b"s", b"SETNAME", b"me"]),
            ["HELLO", "3", "AUTH", "(redacted)", "(redacted)", "SETNAME", "me"]
        );
        assert_eq!(
            noted(Op::ConfigSet, &[b"RequirePass", b"s", b"maxmemory", b"0", b"token", b"t"]),
            ["CONFIG", "SET", "RequirePass", "(redacted)", "maxmemory", "0", "token", "(redacted)"]
        );
        assert_eq!(quoted(Op::Auth, &[b"s"]), " \"AUTH\" \"(redacted)\"");
    }

    #[test]
    fn a_quoted_word_fits_into_a_line() {
        assert_eq!(quoted(Op::Get, &[b"a\"\\\n\r\t\x07\x08\0\xff b"]), r#" "GET" "a\"\\\n\r\t\a\b\x00\xff b""#);
    }
}
