//! Conversations as text: what is sent and exactly what must come back.
//!
//! ```text
//!   == APPEND makes a key and extends it       a scenario: fresh connection, no keys
//!   > APPEND key "hello\x00"                   a command, words quoted as in redis-cli
//!   :6                                         its reply
//!   >> "PING\r\nPING\r\n"                      raw bytes; one line for each reply
//!   +PONG
//!   +PONG
//!   > PUT key value
//!   +OK
//!   redis7: -ERR unknown command …             Redis 7.0 differs on purpose
//!   # comment
//! ```
//!
//! A reply line names every byte of the reply:
//!
//! | notation | bytes | | notation | bytes |
//! |---|---|---|---|---|
//! | `+OK` `-ERR text` | the line | | `nil` `nilarray` | `$-1` `*-1` |
//! | `:5` | integer | | `_` `#t` `#f` `,1.5` | RESP3 null, booleans, double |
//! | `-"ERR text "` | an error that ends in a space, or within an array | | `+"text"` | a status within an array |
//! | `"text"` | bulk string | | `="text"` | RESP3 verbatim `txt:text` |
//! | `[a b]` | array | | `%{key value}` `~[a b]` `>[a b]` | RESP3 map, set, push |
//!
//! or says what it leaves open: `:1..9` an integer within, `int` `bulk` `array` `error` `any`, `"text"~` and
//! `="text"~` a string containing the text, `unordered[a b]`, `...` at the end of an array or map for anything more.
//! `none` is no reply at all, `closed` the end of the connection.

use super::client::command;
use super::value::Value;

pub struct Scenario {
    pub title: String,
    pub steps: Vec<Step>,
    /// Whether Redis 7.0 has what this is about.
    pub in_redis7: bool,
}

pub struct Step {
    /// File and line, to be found again.
    pub origin: String,
    pub text: String,
    pub bytes: Vec<u8>,
    replies: Vec<Expected>,
    redis7_replies: Vec<Expected>,
}

pub struct Expected {
    /// As written in the file.
    pub text: String,
    pub pattern: Pattern,
}

impl Step {
    pub fn replies(&self, from_redis7: bool) -> &[Expected] {
        if from_redis7 && !self.redis7_replies.is_empty() { &self.redis7_replies } else { &self.replies }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    Exactly(Value),
    IntWithin(i64, i64),
    Containing(Vec<u8>),
    VerbatimContaining(Vec<u8>),
    AnyInt,
    AnyBulk,
    AnyArray,
    AnyError,
    Anything,
    /// The opening character of an array-like, its items, and whether more may follow.
    Items(char, Vec<Pattern>, bool),
    Unordered(Vec<Pattern>),
    Nothing,
    Closed,
}

impl Pattern {
    pub fn matches(&self, value: &Value) -> bool {
        match (self, value) {
            (Pattern::Exactly(expected), value) => expected == value,
            (Pattern::IntWithin(low, high), Value::Int(int)) => (low..=high).contains(&int),
            (Pattern::Containing(part), Value::Bulk(bytes))
            | (Pattern::VerbatimContaining(part), Value::Verbatim(_, bytes)) => {
                bytes.windows(part.len()).any(|window| window == part)
            }
            (Pattern::AnyInt, Value::Int(_))
            | (Pattern::AnyBulk, Value::Bulk(_))
            | (Pattern::AnyArray, Value::Array(_))
            | (Pattern::AnyError, Value::Error(_))
            | (Pattern::Anything, _) => true,
            (Pattern::Items('[', patterns, open), Value::Array(items))
            | (Pattern::Items('~', patterns, open), Value::Set(items))
            | (Pattern::Items('>', patterns, open), Value::Push(items)) => {
                (items.len() == patterns.len() || *open && items.len() > patterns.len())
                    && patterns.iter().zip(items).all(|(pattern, item)| pattern.matches(item))
            }
            (Pattern::Items('%', patterns, open), Value::Map(pairs)) => {
                (pairs.len() * 2 == patterns.len() || *open && pairs.len() * 2 > patterns.len())
                    && (patterns.chunks(2).zip(pairs))
                        .all(|(pattern, (key, value))| pattern[0].matches(key) && pattern[1].matches(value))
            }
            (Pattern::Unordered(patterns), Value::Array(items) | Value::Set(items)) => {
                let mut left: Vec<&Value> = items.iter().collect();
                patterns.iter().all(|pattern| {
                    let found = left.iter().position(|item| pattern.matches(item));
                    found.map(|index| left.swap_remove(index)).is_some()
                }) && left.is_empty()
            }
            _ => false,
        }
    }
}

/// All scenarios of a file. A mistake in it ends the test with the line's number.
pub fn parse_scenarios(file: &str, text: &str) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let origin = format!("{file}:{}", index + 1);
        let line = line.trim_end();
        if line.is_empty() || line == "#" || line.starts_with("# ") {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            let (title, in_redis7) = match title.strip_suffix(" (not in redis7)") {
                Some(title) => (title, false),
                None => (title, true),
            };
            scenarios.push(Scenario { title: title.to_string(), steps: Vec::new(), in_redis7 });
            continue;
        }
        let scenario = scenarios.last_mut().unwrap_or_else(|| panic!("{origin}: no scenario begun"));
        let bytes = match (line.strip_prefix(">> "), line.strip_prefix("> ")) {
            (Some(raw), _) => Some(words(&origin, raw).concat()),
            (_, Some(text)) => Some(command(&words(&origin, text))),
            _ => None,
        };
        if let Some(bytes) = bytes {
            let text = line.to_string();
            scenario.steps.push(Step { origin, text, bytes, replies: Vec::new(), redis7_replies: Vec::new() });
            continue;
        }
        let step = scenario.steps.last_mut().unwrap_or_else(|| panic!("{origin}: a reply before any command"));
        let (replies, text) = match line.strip_prefix("redis7: ") {
            Some(text) => (&mut step.redis7_replies, text),
            None => (&mut step.replies, line),
        };
        replies.push(Expected { text: text.to_string(), pattern: parse_pattern(&origin, text) });
    }
    for step in scenarios.iter().flat_map(|scenario| &scenario.steps) {
        assert!(!step.replies.is_empty(), "{}: {:?} has no reply", step.origin, step.text);
    }
    scenarios
}

/// The words of a command line, with double quotes and escapes as redis-cli has them.
pub fn words(origin: &str, line: &str) -> Vec<Vec<u8>> {
    let mut cursor = Cursor { origin, bytes: line.as_bytes(), at: 0 };
    let mut words = Vec::new();
    loop {
        cursor.skip_spaces();
        match cursor.peek() {
            None => return words,
            Some(b'"') => words.push(cursor.string()),
            Some(_) => words.push(cursor.word().as_bytes().to_vec()),
        }
    }
}

/// The bytes that `escaped` stands for: `\r \n \t \\ \" \xHH`; `None` for any other escape.
pub fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = escaped;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (&kind, after) = rest.split_first()?;
        rest = after;
        bytes.push(match kind {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' | b'"' => kind,
            b'x' => {
                let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok())?;
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

fn parse_pattern(origin: &str, line: &str) -> Pattern {
    // Status and error lines hold spaces and quotes: they are the whole line.
    if let Some(text) = line.strip_prefix('-') {
        if text.starts_with('"') {
            let text = Cursor { origin, bytes: text.as_bytes(), at: 0 }.string();
            return Pattern::Exactly(Value::Error(text));
        }
        return Pattern::Exactly(Value::Error(text.as_bytes().to_vec()));
    }
    if let Some(text) = line.strip_prefix('+') {
        return Pattern::Exactly(Value::Simple(text.as_bytes().to_vec()));
    }
    let mut cursor = Cursor { origin, bytes: line.as_bytes(), at: 0 };
    let pattern = cursor.pattern();
    cursor.skip_spaces();
    assert!(cursor.peek().is_none(), "{origin}: unexpected text after the reply in {line:?}");
    pattern
}

struct Cursor<'a> {
    origin: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    fn take(&mut self, expected: &str) -> bool {
        let found = self.bytes[self.at..].starts_with(expected.as_bytes());
        self.at += if found { expected.len() } else { 0 };
        found
    }

    /// Up to a space.
    fn word(&mut self) -> String {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte != b' ') {
            self.at += 1;
        }
        String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned()
    }

    /// Up to a space or the closing bracket of what is around it.
    fn atom(&mut self) -> String {
        let start = self.at;
        while self.peek().is_some_and(|byte| !matches!(byte, b' ' | b']' | b'}')) {
            self.at += 1;
        }
        String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned()
    }

    fn string(&mut self) -> Vec<u8> {
        assert!(self.take("\""), "{}: a quote was expected", self.origin);
        let start = self.at;
        loop {
            match self.peek() {
                None => panic!("{}: a string has no end", self.origin),
                Some(b'\\') => self.at += 2,
                Some(b'"') => break,
                Some(_) => self.at += 1,
            }
        }
        let escaped = &self.bytes[start..self.at];
        self.at += 1;
        unescape(escaped).unwrap_or_else(|| panic!("{}: unknown escape", self.origin))
    }

    fn pattern(&mut self) -> Pattern {
        self.skip_spaces();
        if self.take("unordered[") {
            let (items, open) = self.items(b']');
            assert!(!open, "{}: unordered and open at once", self.origin);
            return Pattern::Unordered(items);
        }
        for (opening, kind, closing) in [("[", '[', b']'), ("~[", '~', b']'), (">[", '>', b']'), ("%{", '%', b'}')] {
            if self.take(opening) {
                let (items, open) = self.items(closing);
                assert!(kind != '%' || items.len() % 2 == 0, "{}: half a pair", self.origin);
                return Pattern::Items(kind, items, open);
            }
        }
        if self.take("+\"") {
            self.at -= 1;
            return Pattern::Exactly(Value::Simple(self.string()));
        }
        if self.take("-\"") {
            self.at -= 1;
            return Pattern::Exactly(Value::Error(self.string()));
        }
        if self.take("=") {
            let text = self.string();
            return match self.take("~") {
                true => Pattern::VerbatimContaining(text),
                false => Pattern::Exactly(Value::Verbatim(b"txt".to_vec(), text)),
            };
        }
        if self.peek() == Some(b'"') {
            let text = self.string();
            return if self.take("~") { Pattern::Containing(text) } else { Pattern::Exactly(Value::Bulk(text)) };
        }
        let atom = self.atom();
        let int = |text: &str| text.parse::<i64>().unwrap_or_else(|_| panic!("{}: no number: {text}", self.origin));
        match atom.as_str() {
            "nil" => Pattern::Exactly(Value::NilBulk),
            "nilarray" => Pattern::Exactly(Value::NilArray),
            "_" => Pattern::Exactly(Value::Null),
            "#t" => Pattern::Exactly(Value::Bool(true)),
            "#f" => Pattern::Exactly(Value::Bool(false)),
            "int" => Pattern::AnyInt,
            "bulk" => Pattern::AnyBulk,
            "array" => Pattern::AnyArray,
            "error" => Pattern::AnyError,
            "any" => Pattern::Anything,
            "none" => Pattern::Nothing,
            "closed" => Pattern::Closed,
            _ => match (atom.split_at_checked(1), atom.split_once("..")) {
                (Some((":", _)), Some((low, high))) => Pattern::IntWithin(int(&low[1..]), int(high)),
                (Some((":", digits)), None) => Pattern::Exactly(Value::Int(int(digits))),
                (Some((",", digits)), _) => Pattern::Exactly(Value::Double(digits.as_bytes().to_vec())),
                (Some(("+", text)), _) => Pattern::Exactly(Value::Simple(text.as_bytes().to_vec())),
                _ => panic!("{}: {atom:?} is no reply", self.origin),
            },
        }
    }

    fn items(&mut self, closing: u8) -> (Vec<Pattern>, bool) {
        let mut items = Vec::new();
        loop {
            self.skip_spaces();
            if self.take("...") {
                self.skip_spaces();
                assert!(self.peek() == Some(closing), "{}: `...` ends an array", self.origin);
                self.at += 1;
                return (items, true);
            }
            match self.peek() {
                None => panic!("{}: an array has no end", self.origin),
                Some(byte) if byte == closing => {
                    self.at += 1;
                    return (items, false);
                }
                Some(_) => items.push(self.pattern()),
            }
        }
    }
}
