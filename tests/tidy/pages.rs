//! The pages people read, held against what the code says: limits, flags, commands, links.

use std::collections::BTreeMap;

use crabcache::command::{Flags, TABLE};
use crabcache::config;

use super::files::{read, root, tracked};
use super::{assert_complains, assert_tidy};

// ---- tables ---------------------------------------------------------------------------------------

/// The part of a page below the heading `title`, to the next heading of the same rank.
fn section<'a>(page: &'a str, title: &str) -> Option<&'a str> {
    let heading = format!("\n## {title}\n");
    let start = page.find(&heading)? + heading.len();
    let rest = &page[start..];
    Some(&rest[..rest.find("\n## ").unwrap_or(rest.len())])
}

/// The rows of all tables in `text` without their headings; each a list of cells.
fn rows(text: &str) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for line in text.lines() {
        let Some(inner) = line.trim().strip_prefix('|').and_then(|line| line.strip_suffix('|')) else { continue };
        if inner.bytes().all(|byte| matches!(byte, b'-' | b'|' | b':' | b' ')) {
            rows.pop();
            continue;
        }
        // A bar within a cell is escaped.
        let inner = inner.replace("\\|", "\0");
        rows.push(inner.split('|').map(|cell| cell.trim().replace('\0', "|")).collect());
    }
    rows
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

// ---- limits ---------------------------------------------------------------------------------------

/// Every constant of `limits.rs` with its value.
fn constants(source: &str) -> BTreeMap<String, u64> {
    let mut values = BTreeMap::new();
    for line in source.lines() {
        let Some((name, rest)) = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(": ")) else {
            continue;
        };
        let (_, expression) = rest.split_once(" = ").expect("a value");
        let value = sum(expression.trim_end_matches(';'), &values);
        values.insert(name.to_string(), value);
    }
    values
}

/// Sums and differences of products of numbers and names.
fn sum(expression: &str, known: &BTreeMap<String, u64>) -> u64 {
    let product = |text: &str| -> u64 {
        let factors = text.split('*').map(|factor| {
            let factor = factor.trim();
            factor.replace('_', "").parse().ok().or_else(|| known.get(factor).copied())
        });
        factors.map(|value| value.unwrap_or_else(|| panic!("{text:?} is no product of numbers"))).product()
    };
    if let Some((left, right)) = expression.rsplit_once(" - ") {
        return sum(left, known) - product(right);
    }
    expression.split(" + ").map(product).sum()
}

/// How a page may write the number.
fn spellings(name: &str, value: u64) -> Vec<String> {
    let mut spellings = vec![with_commas(value)];
    for (unit, bytes) in [("KiB", 1 << 10), ("MiB", 1 << 20)] {
        if name.contains("BYTES") && value.is_multiple_of(bytes) {
            spellings.push(format!("{} {unit}", with_commas(value / bytes)));
        }
    }
    if name.contains("_MS_") {
        spellings =
            vec![if value.is_multiple_of(1000) { format!("{} s", value / 1000) } else { format!("{value} ms") }];
    }
    spellings
}

fn with_commas(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Whether `text` holds the number `spelling` and not only a longer one.
fn says(text: &str, spelling: &str) -> bool {
    let is_part = |character: char| character.is_ascii_digit() || character == ',';
    text.match_indices(spelling).any(|(at, _)| {
        let digit_behind = text[at + spelling.len()..].starts_with(|next: char| next.is_ascii_digit());
        !text[..at].ends_with(is_part) && !digit_behind
    })
}

/// Every constant stands in the last cell of one row of the table, and its value in the second.
fn limits_complaints(page: &str, source: &str) -> Vec<String> {
    let Some(section) = section(page, "Limits") else { return vec!["README.md: no section Limits".into()] };
    let rows = rows(section);
    let constants = constants(source);
    let mut complaints = Vec::new();
    for (name, &value) in &constants {
        let of_name: Vec<_> = rows.iter().filter(|row| quoted(&row[row.len() - 1]).contains(&name.as_str())).collect();
        match of_name[..] {
            [row] if spellings(name, value).iter().any(|spelling| says(&row[1], spelling)) => {}
            [row] => complaints.push(format!("README.md: {name} is {:?}, not {:?}", spellings(name, value), row[1])),
            _ => complaints.push(format!("README.md: {name} stands in {} rows of the limits", of_name.len())),
        }
    }
    for name in rows.iter().flat_map(|row| quoted(&row[row.len() - 1])) {
        if !constants.contains_key(name) {
            complaints.push(format!("README.md: there is no limit {name}"));
        }
    }
    complaints
}

/// PROTOCOL.md tells clients of those limits that they can meet.
const LIMITS_OF_THE_WIRE: [(&str, &[&str]); 6] = [
    ("a value", &["VALUE_BYTES_MAX_DEFAULT", "VALUE_BYTES_MAX_CEILING"]),
    ("words of a command", &["ARGS_MAX"]),
    ("a command without values", &["COMMAND_BYTES_MAX", "LARGE_VALUE_BYTES_MIN"]),
    ("a line", &["INLINE_BYTES_MAX"]),
    ("a key", &["KEY_BYTES_MAX"]),
    ("before authentication", &["BEFORE_AUTH_ARGS_MAX", "BEFORE_AUTH_VALUE_BYTES_MAX"]),
];

fn wire_limits_complaints(page: &str, source: &str) -> Vec<String> {
    let rows = rows(section(page, "Limits").unwrap_or_default());
    let constants = constants(source);
    let mut complaints = Vec::new();
    for (label, names) in LIMITS_OF_THE_WIRE {
        let Some(row) = rows.iter().find(|row| row[0].starts_with(label)) else {
            complaints.push(format!("PROTOCOL.md: the limits do not tell of {label}"));
            continue;
        };
        let row = row.join(" ");
        for name in names {
            let spellings = spellings(name, constants[*name]);
            if !spellings.iter().any(|spelling| says(&row, spelling)) {
                complaints.push(format!("PROTOCOL.md: {label}: {name} is {spellings:?}, not {row:?}"));
            }
        }
    }
    complaints
}

#[test]
fn the_tables_of_limits_are_true() {
    let source = read("src/limits.rs");
    assert_tidy(limits_complaints(&read("README.md"), &source));
    assert_tidy(wire_limits_complaints(&read("PROTOCOL.md"), &source));
    // The evaluator of constants, against the compiler.
    let constants = constants(&source);
    assert_eq!(constants["VALUE_BYTES_MAX_CEILING"], crabcache::limits::VALUE_BYTES_MAX_CEILING as u64);
    assert_eq!(constants["KEY_BYTES_MAX"], crabcache::limits::KEY_BYTES_MAX as u64);
    assert_eq!(constants.len(), source.matches("pub const ").count());
}

#[test]
fn a_wrong_table_of_limits_is_found() {
    let source = "pub const A_BYTES: usize = 64 * 1024 - 1;\npub const B_BYTES: u64 = 2 * 1024 * 1024;\npub const C: u64 = 1_000;\nconst D: u8 = 1;\npub const E_MS_MAX: u64 = C * 10;\n";
    let page = |a: &str, b: &str, e: &str| {
        format!(
            "# T\n\n## Limits\n\n| what | value | beyond | name |\n|---|---|---|---|\n| a | {a} | x | `A_BYTES` |\n| b | {b} | x | `B_BYTES`, `C` |\n| e | {e} | x | `E_MS_MAX` |\n\n## More\n"
        )
    };
    let fine = page("65,535 bytes", "2 MiB or 1,000", "10 s");
    assert_complains(&limits_complaints(&fine, source), &[]);
    assert_complains(&limits_complaints(&page("65,536", "2 MiB, 1,000", "10 s"), source), &["A_BYTES is"]);
    assert_complains(&limits_complaints(&page("65,535", "12 MiB, 1,000", "10 s"), source), &["B_BYTES is"]);
    assert_complains(&limits_complaints(&page("65,535", "2 MiB, 11,000", "1 s"), source), &["C is", "E_MS_MAX is"]);
    let source_more = format!("{source}pub const F: u8 = 7;\n");
    assert_complains(&limits_complaints(&fine, &source_more), &["F stands in 0 rows"]);
    assert_complains(&limits_complaints(&fine.replace("`C`", "`G`"), source), &["C stands in 0 rows", "no limit G"]);
    assert_complains(&limits_complaints("# T\n", source), &["no section"]);

    let source = read("src/limits.rs");
    let page = read("PROTOCOL.md");
    assert_complains(&wire_limits_complaints(&page.replace("65,535", "65,536"), &source), &["a key"]);
    assert_complains(&wire_limits_complaints(&page.replace("| a line", "| line"), &source), &["not tell of a line"]);
}

// ---- settings -------------------------------------------------------------------------------------

/// What pages and files show of the table of settings; with `CRABCACHE_BLESS` set they are written anew.
fn shown_settings_complaints(bless: bool) -> Vec<String> {
    let page = read("README.md");
    let Some(flags) = section(&page, "Settings") else { return vec!["README.md: no section Settings".into()] };
    let is_row = |line: &&str| line.starts_with('|');
    let first = flags.lines().position(|line| is_row(&line)).unwrap_or_default();
    let shown: Vec<&str> = flags.lines().skip(first).take_while(is_row).collect();
    let shown = shown.join("\n") + "\n";
    let (rows, file) = (config::markdown(), config::default_file());
    if bless {
        std::fs::write(root().join("README.md"), page.replacen(&shown, &rows, 1)).expect("README.md can be written");
        std::fs::write(root().join(DEFAULT_FILE), file).expect("the default file can be written");
        return Vec::new();
    }
    let mut complaints = Vec::new();
    if shown != rows {
        complaints.push("README.md: the table of settings is not what the code says".to_string());
    }
    if read(DEFAULT_FILE) != file {
        complaints.push(format!("{DEFAULT_FILE} is not what --print-default-config prints"));
    }
    complaints
}

const DEFAULT_FILE: &str = "systemd/crabcache.toml";

#[test]
fn settings_are_shown_as_they_are() {
    let bless = std::env::var_os("CRABCACHE_BLESS").is_some();
    let complaints = shown_settings_complaints(bless);
    let how = "CRABCACHE_BLESS=1 cargo test --test tidy settings writes them";
    assert!(complaints.is_empty(), "{complaints:#?}\n{how}");
}

// ---- commands -------------------------------------------------------------------------------------

/// Every command of the table is told of in PROTOCOL.md, and none that there is not.
fn commands_complaints(page: &str, names: &[String]) -> Vec<String> {
    let told: Vec<String> = rows(section(page, "Commands").unwrap_or_default())
        .iter()
        .flat_map(|row| quoted(&row[0]).into_iter().map(str::to_string).collect::<Vec<_>>())
        .collect();
    // The words of the command in front of its arguments.
    let name_of = |syntax: &str| -> String {
        let word = |text: &&str| text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        syntax.split(' ').take_while(word).collect::<Vec<_>>().join(" ")
    };
    let told: Vec<String> = told.iter().map(|syntax| name_of(syntax)).collect();
    let missing = names.iter().filter(|name| !told.contains(name));
    let invented = told.iter().filter(|told| !names.contains(told));
    missing
        .map(|name| format!("PROTOCOL.md: the commands do not tell of {name}"))
        .chain(invented.map(|told| format!("PROTOCOL.md: there is no command {told}")))
        .collect()
}

#[test]
fn every_command_stands_in_the_protocol() {
    let is_command = |flags: Flags, name: &str| !flags.has(Flags::CONTAINER) || name == "command";
    let names: Vec<String> = TABLE
        .iter()
        .filter(|spec| is_command(spec.flags, spec.name))
        .map(|spec| spec.name.replace('|', " ").to_uppercase())
        .collect();
    let page = read("PROTOCOL.md");
    assert_tidy(commands_complaints(&page, &names));
    let section = section(&page, "Commands").unwrap();
    let broken = page.replace(section, &section.replace("`STRLEN key`", "`STRLENGTH key`"));
    assert_complains(&commands_complaints(&broken, &names), &["not tell of STRLEN", "no command STRLENGTH"]);
}

// ---- links ----------------------------------------------------------------------------------------

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|character| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_'));
    kept.map(|character| if character == ' ' { '-' } else { character }).collect()
}

fn anchors(page: &str) -> Vec<String> {
    let mut in_block = false;
    let headings = page.lines().filter(|line| {
        in_block ^= line.starts_with("```");
        !in_block && line.starts_with('#')
    });
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

/// Links of `page` (a file at `path`) that lead nowhere, and files named between backticks that are not there.
fn links_complaints(path: &str, page: &str, read_page: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut complaints = Vec::new();
    for (at, _) in page.match_indices("](") {
        let target = page[at + 2..].split([')', ' ']).next().unwrap_or_default();
        if target.contains("://") {
            continue;
        }
        let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
        let joined = [folder, file].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
        let linked = if file.is_empty() { Some(page.to_string()) } else { read_page(&joined) };
        match linked {
            None => complaints.push(format!("{path}: the link {target} leads nowhere")),
            Some(linked) if !fragment.is_empty() && !anchors(&linked).iter().any(|anchor| anchor == fragment) => {
                complaints.push(format!("{path}: the link {target} leads to no heading"));
            }
            Some(_) => {}
        }
    }
    const FOLDERS: [&str; 7] = [".ci/", "benches/", "docker/", "fuzz/", "loadgen/", "src/", "tests/"];
    for named in quoted(page) {
        let is_path = FOLDERS.iter().any(|folder| named.starts_with(folder)) && !named.contains([' ', '*', '<', '{']);
        if is_path && read_page(named).is_none() {
            complaints.push(format!("{path}: there is no {named}"));
        }
    }
    complaints
}

#[test]
fn links_lead_somewhere() {
    let read_page = |path: &str| {
        let path = root().join(path);
        // Pictures are no text, and there.
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if path.is_dir() { Some(String::new()) } else { std::fs::read(path).ok().map(text) }
    };
    let pages: Vec<String> = tracked().into_iter().filter(|file| file.ends_with(".md")).collect();
    assert!(["README.md", "PROTOCOL.md", "PERF.md"].iter().all(|page| pages.iter().any(|have| have == page)));
    assert_tidy(pages.iter().flat_map(|path| links_complaints(path, &read(path), &read_page)).collect());

    let there =
        |path: &str| (path == "docs/b.md" || path == "src/lib.rs").then(|| "# One Two\n```\n# not\n```\n".to_string());
    let broken = "# Here\n[a](b.md) [b](c.md) [c](#here) [d](#there) [e](b.md#one-two) [f](b.md#not) [g](https://x.y/z)\n`src/lib.rs` `src/lob.rs` `src/*.rs`";
    assert_complains(
        &links_complaints("docs/a.md", broken, &there),
        &["c.md leads nowhere", "#there leads to no", "b.md#not leads to no", "no src/lob.rs"],
    );
}
