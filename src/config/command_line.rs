//! What is typed behind the program's name: a flag for every setting of the table, and a few that ask for something else
//! than serving.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgAction, Command, value_parser};

use super::origin::Origin;
use super::sources::{FILE_VARIABLE, Given};
use super::table::{Config, SETTINGS, Setting};
use super::value::Form;

const ABOUT: &str =
    "A cache server that speaks the Redis protocol: one executor per core, nothing shared between them.";

const LONG_ABOUT: &str = "\
A cache server that speaks the Redis protocol: one executor per core, nothing shared between them.

Sizes take kb, mb, gb (powers of 1024) or k, m, g (powers of 1000); durations take ms, s, m, h, d.
Every flag is also an environment variable (CRABCACHE_MAX_MEMORY for --max-memory) and a key of the configuration file
(max-memory). Flags win over the environment, and that over the file.

Exit codes: 0 ended when asked to; 1 failed while running, or ended by a second signal; 2 wrong usage; 77 the kernel
or a limit of the system does not allow it to run; 78 the configuration file or the environment is wrong.";

/// What was asked for.
#[derive(Debug, Default)]
pub struct Request {
    pub file: Option<PathBuf>,
    pub given: Vec<Given>,
    pub ask: Ask,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ask {
    #[default]
    Serve,
    CheckConfig,
    PrintConfig,
    PrintDefaultConfig,
    PrintManPage,
    PrintCompletions(clap_complete::Shell),
}

impl Request {
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Request, clap::Error> {
        let matches = command().try_get_matches_from(words)?;
        let mut given = Vec::new();
        for setting in SETTINGS {
            let texts: Vec<String> = matches.get_many::<String>(setting.key).unwrap_or_default().cloned().collect();
            if !texts.is_empty() {
                given.push(Given { setting, text: texts.join(","), origin: Origin::Flag });
            }
        }
        let ask = match () {
            () if matches.get_flag("check-config") => Ask::CheckConfig,
            () if matches.get_flag("print-config") => Ask::PrintConfig,
            () if matches.get_flag("print-default-config") => Ask::PrintDefaultConfig,
            () if matches.get_flag("man-page") => Ask::PrintManPage,
            () => match matches.get_one("completions") {
                Some(shell) => Ask::PrintCompletions(*shell),
                None => Ask::Serve,
            },
        };
        Ok(Request { file: matches.get_one("config").cloned(), given, ask })
    }
}

/// The command line, made from the table.
pub fn command() -> Command {
    let ask = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).help(help).action(ArgAction::SetTrue).help_heading("Instead of serving")
    };
    Command::new("crabcache")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .max_term_width(110)
        .next_line_help(false)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help(format!("Configuration file (TOML) [env: {FILE_VARIABLE}]")),
        )
        .args(SETTINGS.iter().map(argument))
        .arg(ask("check-config", "Check the configuration, say what is wrong with it, and end"))
        .arg(ask("print-config", "Print the configuration in effect, with the origin of every value, and end"))
        .arg(ask("print-default-config", "Print a configuration file with every setting explained, and end"))
        .arg(ask("man-page", "Print the manual page (roff), and end"))
        .arg(
            Arg::new("completions")
                .long("completions")
                .value_name("SHELL")
                .value_parser(value_parser!(clap_complete::Shell))
                .help("Print completions for a shell, and end")
                .help_heading("Instead of serving"),
        )
}

fn argument(setting: &'static Setting) -> Arg {
    let lines: Vec<&str> = setting.help.iter().map(|line| line.trim()).collect();
    let paragraphs: Vec<String> = lines.split(|line| line.is_empty()).map(|lines| lines.join(" ")).collect();
    let shown_default = if setting.default.is_empty() { "none" } else { setting.default };
    let origin = format!("[default: {shown_default}] [env: {}]", setting.variable());
    let argument = Arg::new(setting.key)
        .long(setting.key)
        .value_name(setting.placeholder)
        .value_parser(parser(setting))
        .help_heading(setting.section)
        .help(format!("{} {origin}", paragraphs[0]))
        .hide_possible_values(setting.form == Form::YesNo);
    let argument = match paragraphs.as_slice() {
        [_] => argument,
        [first, rest @ ..] => argument.long_help(format!("{first}\n\n{}\n\n{origin}", rest.join("\n\n"))),
        [] => unreachable!("every setting has its help"),
    };
    match setting.form {
        Form::List => argument.num_args(1..).value_delimiter(',').action(ArgAction::Append),
        _ => argument.action(ArgAction::Set),
    }
}

/// Checks a single value, so that a wrong one is shown with its flag.
fn parser(setting: &'static Setting) -> ValueParser {
    let words = (setting.words)();
    if !words.is_empty() && setting.form != Form::YesNo {
        let value = |word: super::value::Word| PossibleValue::new(word.word).help(word.help).aliases(word.redis);
        let words = PossibleValuesParser::new(words.into_iter().map(value));
        return words.map(|text: String| text).into();
    }
    let check = move |text: &str| (setting.set)(&mut Config::defaults(), text).map(|()| text.to_string());
    ValueParser::new(check)
}

/// The manual page in roff.
pub fn man_page() -> Vec<u8> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command()).render(&mut page).expect("memory takes everything");
    page
}

pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "crabcache", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Request, String> {
        let words = std::iter::once("crabcache").chain(words.iter().copied()).map(OsString::from);
        Request::parse(words).map_err(|error| error.to_string())
    }

    #[test]
    fn every_setting_is_a_flag_that_names_its_default_and_variable() {
        let mut command = command();
        command.build();
        command.clone().debug_assert();
        for setting in SETTINGS {
            let flag = command.get_arguments().find(|arg| arg.get_long() == Some(setting.key)).expect(setting.key);
            let help = flag.get_help().unwrap().to_string();
            assert!(help.contains(&format!("[env: {}]", setting.variable())), "{help}");
            assert!(help.contains("[default: "), "{help}");
        }
    }

    #[test]
    fn something_else_than_serving_can_be_asked_for() {
        assert_eq!(parse(&[]).unwrap().ask, Ask::Serve);
        assert_eq!(parse(&["--check-config", "--config", "/a.toml"]).unwrap().file, Some("/a.toml".into()));
        assert_eq!(parse(&["--print-config"]).unwrap().ask, Ask::PrintConfig);
        assert_eq!(parse(&["--print-default-config"]).unwrap().ask, Ask::PrintDefaultConfig);
        assert_eq!(parse(&["--completions", "zsh"]).unwrap().ask, Ask::PrintCompletions(clap_complete::Shell::Zsh));
        assert!(parse(&["--completions", "tcsh"]).is_err());
    }

    #[test]
    fn a_wrong_value_is_shown_with_its_flag() {
        for (words, text) in [
            (["--max-memory", "much"], "invalid value 'much' for '--max-memory <SIZE|PERCENT>': not a size"),
            (["--bind", "nowhere"], "\"nowhere\" is not an IP address"),
            (["--eviction", "random"], "possible values: tinylfu, lru, none"),
            (["--cluster", "maybe"], "neither yes nor no"),
        ] {
            let error = parse(&words).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        assert_eq!(parse(&["--eviction", "allkeys-lru"]).unwrap().given[0].text, "allkeys-lru");
    }

    #[test]
    fn completions_and_the_manual_page_know_every_flag() {
        let page = String::from_utf8(man_page()).unwrap().replace('\\', "");
        let bash = String::from_utf8(completions(clap_complete::Shell::Bash)).unwrap();
        for setting in SETTINGS {
            let flag = format!("--{}", setting.key);
            assert!(page.contains(&flag) && bash.contains(&flag), "{flag}");
        }
        for shell in [clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            assert!(!completions(shell).is_empty());
        }
    }
}
