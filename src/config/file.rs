//! The TOML file: keys of the table with their values, at the top level, nothing else.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::origin::{ConfigError, Origin};
use super::sources::Given;
use super::table::{Config, SETTINGS, Setting};
use super::value::Form;

/// A larger file is no configuration.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A setting as it stands in the file: what was given, and where its value lies in the text.
#[derive(Debug)]
pub struct Entry {
    pub given: Given,
    pub span: std::ops::Range<usize>,
}

/// Everything the file sets, each value checked. The first error ends it.
pub fn parse(path: &Arc<Path>, text: &str) -> Result<Vec<Entry>, ConfigError> {
    let at = |at| Origin::file(path, text, at);
    let table = DeTable::parse(text).map_err(|error| ConfigError {
        origin: at(error.span().map_or(0, |span| span.start)),
        key: None,
        text: error.message().trim_end().to_string(),
    })?;
    let mut entries = Vec::new();
    for (key, value) in table.get_ref().iter() {
        let name: &str = key.get_ref();
        let Some(setting) = Setting::by_key(name) else {
            let text = format!("{name}: there is no such setting{}", suggestion(name));
            return Err(ConfigError { origin: at(key.span().start), key: None, text });
        };
        let origin = at(value.span().start);
        let text = text_of(setting, value.get_ref()).map_err(|why| ConfigError::value(setting, &origin, &why))?;
        // Also of what the environment or a flag overrides: a wrong file is wrong.
        (setting.set)(&mut Config::defaults(), &text).map_err(|why| ConfigError::value(setting, &origin, &why))?;
        entries.push(Entry { given: Given { setting, text, origin }, span: value.span() });
    }
    // As they stand in the file, so that errors come in that order, too.
    entries.sort_by_key(|entry| entry.span.start);
    Ok(entries)
}

/// Whether users without any part in it may read or write the file.
pub fn is_open_to_all(path: &Path) -> std::io::Result<bool> {
    Ok(std::fs::metadata(path)?.mode() & 0o007 != 0)
}

fn suggestion(name: &str) -> String {
    let known_to_redis = Setting::by_name(name);
    let nearest = || {
        SETTINGS
            .iter()
            .map(|setting| (strsim::damerau_levenshtein(setting.key, name), setting))
            .min_by_key(|(distance, _)| *distance)
    };
    match known_to_redis.or_else(|| nearest().filter(|(distance, _)| *distance <= 3).map(|(_, setting)| setting)) {
        Some(setting) => format!("; is it {}?", setting.key),
        None => "; --print-default-config shows all of them".into(),
    }
}

fn text_of(setting: &Setting, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_string()),
        DeValue::Boolean(yes) if setting.form == Form::YesNo => Ok(if *yes { "yes" } else { "no" }.into()),
        DeValue::Array(values) if setting.form == Form::List => {
            let pieces = values.iter().map(|value| match value.get_ref() {
                DeValue::String(text) if !text.contains(',') => Ok(text.to_string()),
                _ => Err("expected a list of texts".to_string()),
            });
            Ok(pieces.collect::<Result<Vec<_>, _>>()?.join(","))
        }
        _ => Err(format!("expected {}", expected(setting))),
    }
}

fn expected(setting: &Setting) -> &'static str {
    match setting.form {
        Form::Text => "a text in quotes, or a number",
        Form::Number => "a number",
        Form::YesNo => "true or false",
        Form::List => "a list of texts, such as [\"a\", \"b\"]",
    }
}

/// A value as it is written in the file.
pub fn written(setting: &Setting, text: &str) -> String {
    let quoted = |text: &str| {
        let mut quoted = String::from("\"");
        for character in text.chars() {
            match character {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                character if character.is_control() => quoted.push_str(&format!("\\u{:04X}", character as u32)),
                character => quoted.push(character),
            }
        }
        quoted + "\""
    };
    match setting.form {
        Form::Number => text.to_string(),
        Form::YesNo => if text == "yes" { "true" } else { "false" }.into(),
        Form::Text => quoted(text),
        Form::List => {
            let pieces: Vec<_> = text.split(',').filter(|piece| !piece.is_empty()).map(quoted).collect();
            format!("[{}]", pieces.join(", "))
        }
    }
}

/// The file's text with other values; comments and order stay. What it does not have yet comes at its end.
pub fn rewritten(path: &Arc<Path>, text: &str, changes: &[(&'static Setting, String)]) -> Result<String, ConfigError> {
    let mut entries = parse(path, text)?;
    let mut new_text = text.to_string();
    // From the back, so that what is in front keeps its place.
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.span.start));
    for entry in &entries {
        if let Some((setting, value)) = changes.iter().find(|(setting, _)| std::ptr::eq(*setting, entry.given.setting))
        {
            new_text.replace_range(entry.span.clone(), &written(setting, value));
        }
    }
    let is_new = |setting: &Setting| !entries.iter().any(|entry| std::ptr::eq(entry.given.setting, setting));
    let mut new = changes.iter().filter(|(setting, _)| is_new(setting)).peekable();
    if new.peek().is_some() {
        if !new_text.is_empty() && !new_text.ends_with('\n') {
            new_text.push('\n');
        }
        new_text.push_str("\n# Added by CONFIG REWRITE.\n");
        for (setting, value) in new {
            new_text.push_str(&format!("{} = {}\n", setting.key, written(setting, value)));
        }
    }
    // Never leave a file behind that cannot be read again.
    parse(path, &new_text)?;
    Ok(new_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Arc<Path> {
        Arc::from(Path::new("c.toml"))
    }

    fn values(text: &str) -> Vec<(&'static str, String)> {
        let entries = parse(&path(), text).unwrap();
        entries.into_iter().map(|entry| (entry.given.setting.key, entry.given.text)).collect()
    }

    fn refusal(text: &str) -> String {
        parse(&path(), text).expect_err(text).to_string()
    }

    #[test]
    fn values_stand_as_toml_has_them() {
        let text =
            "# a comment\nport = 7002\nbind = [\"127.0.0.1\", \"::1\"]\ncluster = false\nmax-memory = \"4gb\" # four\n";
        let expected = [("port", "7002"), ("bind", "127.0.0.1,::1"), ("cluster", "no"), ("max-memory", "4gb")];
        assert_eq!(values(text), expected.map(|(key, value)| (key, value.to_string())));
        // As on the command line.
        assert_eq!(values("port = \"7002\"\ncluster = \"no\"\nbind = \"::1\"").len(), 3);
        assert_eq!(values("max-memory = 104857600"), [("max-memory", "104857600".to_string())]);
        assert_eq!(values(""), []);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, words) in [
            ("port = 7002\nmax-memry = \"1gb\"", "c.toml:2:1: max-memry: there is no such setting; is it max-memory?"),
            ("maxmemory = 1", "is it max-memory?"),
            ("something-else-entirely = 1", "c.toml:1:1: something-else-entirely: there is no such setting; --print"),
            ("  port = 70000", "c.toml:1:10: port: too large"),
            ("\n\nmax-memory = \"1 tb\"", "c.toml:3:14: max-memory: not a size"),
            ("spin-us = 1000001", "c.toml:1:11: spin-us: must be between 0 and 1000000"),
            ("cluster = 1.5", "c.toml:1:11: cluster: expected true or false"),
            ("port = true", "c.toml:1:8: port: expected a number"),
            ("bind = [1]", "c.toml:1:8: bind: expected a list of texts"),
            ("log-level = \"loud\"", "possible values: error, warn, info, debug, trace"),
            ("port = 1\nport = 2", "c.toml:2:1: duplicate key"),
            ("[section]\nport = 1", "c.toml:1:2: section: there is no such setting"),
            ("port = ", "c.toml:1:"),
            ("port 7001", "c.toml:1:"),
            ("port = 7001\nbind = \"::1", "c.toml:2:"),
        ] {
            let refused = refusal(text);
            assert!(refused.contains(words), "{text:?}: {refused}");
        }
    }

    #[test]
    fn a_rewrite_keeps_comments_and_order() {
        let setting = |key| Setting::by_key(key).unwrap();
        let before = "# mine\nmax-memory = \"1gb\"   # much\n\nlog-level='info'";
        let changes = [(setting("max-memory"), "2gb".to_string()), (setting("eviction"), "lru".to_string())];
        let after = rewritten(&path(), before, &changes).unwrap();
        let expected = "# mine\nmax-memory = \"2gb\"   # much\n\nlog-level='info'\n\n# Added by CONFIG REWRITE.\neviction = \"lru\"\n";
        assert_eq!(after, expected);
        assert_eq!(rewritten(&path(), before, &[]).unwrap(), before);
        assert!(rewritten(&path(), "broken", &changes).is_err());
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        for (key, text) in
            [("unix-socket", "/a \"b\" \\c\u{7}"), ("bind", "127.0.0.1,::1"), ("cluster", "no"), ("port", "1")]
        {
            let setting = Setting::by_key(key).unwrap();
            let line = format!("{key} = {}", written(setting, text));
            assert_eq!(values(&line), [(key, text.to_string())], "{line}");
        }
    }
}
