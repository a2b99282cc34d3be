//! The table shown: as a file that explains every setting, as the file that is in effect, as rows of a page.

use super::file::written;
use super::origin::Origin;
use super::table::{Config, Effect, REDACTED, SETTINGS, Setting};

/// Longest line of a comment.
const COMMENT_COLUMNS: usize = 110;

/// What stands above the settings.
const ABOUT: [&str; 3] = [
    "CrabCache: every setting, with its default. Each is also a flag (--max-memory) and an environment variable \
     (CRABCACHE_MAX_MEMORY); flags win over the environment, and that over this file. Sizes take kb, mb, gb (powers of \
     1024) or k, m, g (powers of 1000); durations take ms, s, m, h, d.",
    "",
    "crabcache --config FILE --check-config says what is wrong with a file. Settings marked (live) follow the file when \
     the server gets SIGHUP and can be set by CONFIG SET; the others take a restart.",
];

/// A configuration file in which every setting stands explained with its default.
pub fn default_file() -> String {
    let mut file = String::new();
    for paragraph in ABOUT {
        file.push_str(&comment(paragraph));
    }
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            file.push_str(&format!("\n# ---- {section} {}\n", "-".repeat(COMMENT_COLUMNS - 8 - section.len())));
        }
        file.push('\n');
        for paragraph in setting.help.split(|line| line.trim().is_empty()) {
            let text: Vec<&str> = paragraph.iter().map(|line| line.trim()).collect();
            file.push_str(&comment(&text.join(" ")));
        }
        let words: Vec<String> = (setting.words)()
            .iter()
            .filter(|word| !word.help.is_empty())
            .map(|word| format!("{}: {}", word.word, word.help))
            .collect();
        for word in words {
            file.push_str(&comment(&format!("  {word}")));
        }
        if setting.effect == Effect::Live {
            file.push_str("# (live)\n");
        }
        file.push_str(&format!("{} = {}\n", setting.key, written(setting, setting.default)));
    }
    file
}

fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    let indent = &text[..text.len() - text.trim_start().len()];
    for (index, word) in text.split_whitespace().enumerate() {
        if line.len() + 1 + word.len() > COMMENT_COLUMNS {
            lines.push_str(&line);
            lines.push('\n');
            line = format!("#{indent}");
        }
        line.push(' ');
        if index == 0 {
            line.push_str(indent);
        }
        line.push_str(word);
    }
    lines + &line + "\n"
}

/// The settings in effect as a file, each with where it comes from; secrets are not shown.
pub fn origins_file(config: &Config) -> String {
    let mut file = String::new();
    let lines: Vec<(String, String)> =
        SETTINGS.iter().map(|setting| (line(setting, config), origin(setting, config))).collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or_default();
    for (line, origin) in lines {
        file.push_str(&format!("{line:width$}  # {origin}\n"));
    }
    file
}

fn line(setting: &Setting, config: &Config) -> String {
    match setting.shown(config) {
        shown if shown == REDACTED && setting.is_secret => format!("# {} = {shown}", setting.key),
        shown => format!("{} = {}", setting.key, written(setting, &shown)),
    }
}

fn origin(setting: &Setting, config: &Config) -> String {
    match config.origins.of(setting) {
        Origin::Environment => setting.variable(),
        origin => origin.to_string(),
    }
}

/// The table for README.md, one row for each setting.
pub fn markdown() -> String {
    let mut rows = String::from("| flag and key | default | live | in CONFIG | |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let default = if setting.default.is_empty() { "none".into() } else { format!("`{}`", setting.default) };
        let live = if setting.effect == Effect::Live { "yes" } else { "" };
        let redis = setting.redis.map(|name| format!("`{name}`")).unwrap_or_default();
        let first: Vec<&str> =
            setting.help.iter().map(|line| line.trim()).take_while(|line| !line.is_empty()).collect();
        let placeholder = setting.placeholder.replace('|', "\\|");
        let help = first.join(" ").replace('|', "\\|");
        rows.push_str(&format!("| `--{} {placeholder}` | {default} | {live} | {redis} | {help} |\n", setting.key));
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::file;
    use super::super::sources::Given;
    use super::*;

    fn parsed(text: &str) -> Config {
        let path: Arc<Path> = Arc::from(Path::new("c.toml"));
        let given: Vec<Given> = file::parse(&path, text).unwrap().into_iter().map(|entry| entry.given).collect();
        Config::assemble(&given).unwrap()
    }

    #[test]
    fn the_default_file_holds_every_setting_with_the_default_that_is_built_in() {
        let text = default_file();
        let config = parsed(&text);
        for setting in SETTINGS {
            assert_eq!((setting.show)(&config), setting.default, "{}", setting.key);
            assert!(matches!(config.origins.of(setting), Origin::File { .. }), "{} is missing", setting.key);
        }
        assert_eq!(Config { origins: Config::default().origins, ..config }, Config::default());
        assert!(text.lines().all(|line| line.len() <= COMMENT_COLUMNS || !line.starts_with('#')));
    }

    #[test]
    fn what_is_printed_can_be_read_again_and_names_origins() {
        let mut config = parsed("port = 7005\nunix-socket = \"/run/a b.sock\"");
        config.origins.set(Setting::by_key("spin-us").unwrap(), Origin::Environment);
        let text = origins_file(&config);
        let again = parsed(&text);
        assert_eq!((again.port, again.unix_socket.as_deref()), (7005, Some(Path::new("/run/a b.sock"))));
        let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(line("port ").ends_with("# c.toml:1:8"), "{}", line("port "));
        assert!(line("spin-us").ends_with("# CRABCACHE_SPIN_US"));
        assert!(line("cores").ends_with("# default"));
    }
}
