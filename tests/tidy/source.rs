//! Just enough of Rust's grammar to see which paths a file names: comments and literals are blanked out,
//! test code is blanked out, and what is left is read as words.

/// `text` with comments and the insides of literals replaced by blanks, line for line and byte for byte.
pub fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let skipped = if rest.starts_with(b"//") {
            rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment_len(rest)
        } else if let Some(len) = string_len(rest).filter(|_| at == 0 || !is_word(bytes[at - 1])) {
            len
        } else if rest[0] == b'\'' {
            char_len(rest)
        } else {
            at += 1;
            continue;
        };
        for byte in &mut code[at..at + skipped] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += skipped;
    }
    String::from_utf8(code).expect("only whole characters are replaced")
}

fn block_comment_len(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let step = match &text[at..] {
            [b'/', b'*', ..] => Some(1),
            [b'*', b'/', ..] => Some(-1),
            _ => None,
        };
        depth += step.unwrap_or(0);
        at += 1 + step.is_some() as usize;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the string literal that `text` begins with: `"…"`, `b"…"`, `r#"…"#` and their like.
fn string_len(text: &[u8]) -> Option<usize> {
    let prefix = text.iter().take_while(|byte| matches!(byte, b'b' | b'c' | b'r')).count();
    let raw = text[..prefix].contains(&b'r');
    let hashes = text[prefix..].iter().take_while(|&&byte| raw && byte == b'#').count();
    let open = prefix + hashes;
    if prefix > 2 || text.get(open) != Some(&b'"') {
        return None;
    }
    let mut at = open + 1;
    while at < text.len() {
        match text[at] {
            b'\\' if !raw => at += 1,
            b'"' if text[at + 1..].iter().take(hashes).filter(|&&byte| byte == b'#').count() == hashes => {
                return Some(at + 1 + hashes);
            }
            _ => {}
        }
        at += 1;
    }
    Some(text.len())
}

/// The length of the character literal that `text` begins with; 1 for the tick of a lifetime.
fn char_len(text: &[u8]) -> usize {
    match text.get(1) {
        Some(b'\\') => text.iter().skip(3).position(|&byte| byte == b'\'').map_or(text.len(), |end| end + 4),
        Some(_) => {
            let char_len =
                std::str::from_utf8(&text[1..]).ok().and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
            if text.get(1 + char_len) == Some(&b'\'') { char_len + 2 } else { 1 }
        }
        None => 1,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// What only tests compile.
pub struct Untested {
    /// The code with those items blanked out.
    pub code: String,
    /// Modules among them that stand in files of their own.
    pub test_modules: Vec<String>,
}

/// Takes items behind `#[cfg(test)]` (or `any(test, …)`) out of `code`.
pub fn without_tests(code: &str) -> Untested {
    const ATTRIBUTE: &str = "#[cfg(";
    let mut bytes = code.as_bytes().to_vec();
    let mut test_modules = Vec::new();
    let mut at = 0;
    while let Some(found) = code[at..].find(ATTRIBUTE) {
        let start = at + found;
        let condition_start = start + ATTRIBUTE.len();
        let Some(len) = code[condition_start..].find(']') else { break };
        let condition = &code[condition_start..condition_start + len];
        at = condition_start + len + 1;
        if !words(condition).any(|word| word.text == "test") || condition.contains("not(") {
            continue;
        }
        let end = at + item_len(&code[at..]);
        let item: Vec<&str> = words(&code[at..end]).map(|word| word.text).filter(|&word| word != "pub").collect();
        if let ["mod", name, ";"] = item[..] {
            test_modules.push(name.to_string());
        }
        for byte in &mut bytes[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    Untested { code: String::from_utf8(bytes).expect("only whole characters are replaced"), test_modules }
}

/// The length of the item, field or statement that `code` begins with.
fn item_len(code: &str) -> usize {
    const ITEMS: [&str; 14] = [
        "async",
        "const",
        "enum",
        "extern",
        "fn",
        "impl",
        "macro_rules",
        "mod",
        "pub",
        "static",
        "struct",
        "trait",
        "type",
        "use",
    ];
    let mut depth = 0i32;
    let mut first = None;
    let mut in_attribute = false;
    for word in words(code) {
        let end = word.at + word.text.len();
        if depth == 0 && word.text == "#" {
            in_attribute = true;
            continue;
        }
        match word.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return word.at;
        }
        if in_attribute {
            in_attribute = depth > 0;
            continue;
        }
        let first = *first.get_or_insert(word.text);
        let ends = match word.text {
            ";" | "}" => true,
            "," => !ITEMS.contains(&first),
            _ => false,
        };
        if depth == 0 && ends {
            return end;
        }
    }
    code.len()
}

#[derive(Clone, Copy, Debug)]
pub struct Word<'a> {
    pub text: &'a str,
    pub at: usize,
}

/// Identifiers, `::`, and every other character on its own.
pub fn words(code: &str) -> impl Iterator<Item = Word<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &code[at..];
        at += rest.len() - rest.trim_start().len();
        let rest = rest.trim_start();
        let first = rest.chars().next()?;
        let len = match rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len()) {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            len => len,
        };
        at += len;
        Some(Word { text: &rest[..len], at: at - len })
    })
}

/// A path as it is named somewhere, with what its first word was imported as spelled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub path: Vec<String>,
    pub line: usize,
}

/// Every path of two words or more in `code`, and every path that it imports.
pub fn paths(code: &str) -> Vec<Named> {
    let all: Vec<Word> = words(code).collect();
    let line_of = |word: &Word| 1 + code[..word.at].matches('\n').count();
    let mut named = Vec::new();
    // What a name stands for.
    let mut imported: Vec<(String, Vec<String>)> = Vec::new();
    let mut plain = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let word = all[at];
        if word.text == "use" && all.get(at + 1).is_some_and(|next| next.text != "<") {
            let line = line_of(&word);
            let mut tree = Tree { words: &all, at: at + 1, found: Vec::new() };
            tree.read(&[]);
            at = tree.at.max(at + 1);
            for (name, path) in tree.found {
                named.push(Named { path: path.clone(), line });
                imported.push((name, path));
            }
        } else if is_name(word.text) && (at == 0 || !matches!(all[at - 1].text, "." | "::")) {
            let mut path = vec![word.text.to_string()];
            while let [separator, next, ..] = &all[at + 1..]
                && separator.text == "::"
                && is_name(next.text)
            {
                path.push(next.text.to_string());
                at += 2;
            }
            if path.len() > 1 {
                plain.push(Named { path, line: line_of(&word) });
            }
            at += 1;
        } else {
            at += 1;
        }
    }
    for Named { path, line } in plain {
        let meant = imported.iter().find(|(name, meant)| *name == path[0] && meant[0] != path[0]);
        let path = match meant {
            Some((_, meant)) => meant.iter().chain(&path[1..]).cloned().collect(),
            None => path,
        };
        named.push(Named { path, line });
    }
    named
}

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

/// The tree behind `use`.
struct Tree<'a> {
    words: &'a [Word<'a>],
    at: usize,
    found: Vec<(String, Vec<String>)>,
}

impl Tree<'_> {
    fn next(&mut self) -> &str {
        self.at += 1;
        self.words.get(self.at - 1).map_or(";", |word| word.text)
    }

    /// Reads one branch and what ends it.
    fn read(&mut self, before: &[String]) {
        let mut path = before.to_vec();
        let mut name = String::new();
        loop {
            match self.next() {
                "{" => {
                    while self.words.get(self.at).is_some_and(|word| word.text != "}" && word.text != ";") {
                        self.read(&path);
                        if self.words.get(self.at).is_some_and(|word| word.text == ",") {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "::" => {}
                "as" => name = self.next().to_string(),
                "," | "}" | ";" => {
                    self.at -= 1;
                    if path.len() > before.len() {
                        self.found.push((name, path));
                    }
                    return;
                }
                "self" if !before.is_empty() => {
                    name = before[before.len() - 1].clone();
                    self.found.push((name, before.to_vec()));
                    return;
                }
                word => {
                    name = word.to_string();
                    path.push(word.to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(code: &str) -> Vec<String> {
        paths(&without_tests(&code_of(code)).code).into_iter().map(|named| named.path.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "a /* b /* c */ d */ e // f\n\"g \\\" h\" i r#\"j \" k\"# l 'm' '\\'' n &'o p b\"q\" br\"r\" 'é' s '\\u{1F980}' t\n";
        let code = code_of(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "e", "i", "l", "n", "&", "o", "p", "s", "t"]);
    }

    #[test]
    fn paths_are_found_however_they_are_spelled() {
        assert_eq!(
            named("use a::{b, c::{self, d as e}, f::*}; pub(crate) use g::h;"),
            ["a::b", "a::c", "a::c::d", "a::f::*", "g::h"]
        );
        assert_eq!(named("fn f() -> Option<x::Y> { x::z::<u8>(self.a) }"), ["x::Y", "x::z"]);
        assert_eq!(
            named("use std::time as t; fn f() { t::Instant::now(); }"),
            ["std::time", "std::time::Instant::now"]
        );
        assert_eq!(named("use std::{fs, io}; fn f() { fs::read(\"\") }"), ["std::fs", "std::io", "std::fs::read"]);
        assert_eq!(named("fn f() -> impl Iterator + use<> { $crate::a::b() }"), ["crate::a::b"]);
        assert_eq!(named("// std::fs::read\nlet text = \"std::fs::write\";"), [""; 0]);
    }

    #[test]
    fn test_code_does_not_count() {
        let tested = "#[cfg(test)]\nmod tests { use a::b; }\n#[cfg(any(test, fuzzing))]\npub fn f() -> [u8; 2] { c::d() }\nuse e::f;";
        assert_eq!(named(tested), ["e::f"]);
        assert_eq!(named("struct S { #[cfg(test)] a: b::C, d: e::F }"), ["e::F"]);
        assert_eq!(named("#[cfg(not(test))] use a::b;"), ["a::b"]);
        assert_eq!(named("#[cfg(test)]\n#[allow(x)]\nuse a::{b, c};\nuse d::e;"), ["d::e"]);
        assert_eq!(named("fn f() { #[cfg(test)] a::b(); c::d() }"), ["c::d"]);
        let untested = without_tests("#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub mod random;\nmod kept;");
        assert_eq!(untested.test_modules, ["tests", "random"]);
        assert_eq!(untested.code.trim(), "mod kept;");
    }

    #[test]
    fn lines_are_counted_from_one() {
        assert_eq!(paths("\n\nuse a::b;\n c::d")[0].line, 3);
        assert_eq!(paths("\n\nuse a::b;\n c::d")[1].line, 4);
    }
}
