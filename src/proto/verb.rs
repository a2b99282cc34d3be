//! From the words of a command to its entry in the table, or to the reason why there is none.

use crate::command::{self, Op, Spec};
use crate::request::{ArgRange, Args};

/// What a decoded command asks for.
#[derive(Clone, Copy, Debug)]
pub enum Verb {
    /// In the table and with a number of arguments that it accepts.
    Known(&'static Spec),
    /// Not in the table. The arguments begin with the name itself.
    Unknown,
    /// A container without this subcommand. The arguments begin with the container's name.
    UnknownSubcommand(&'static Spec),
    /// In the table, but not with this number of arguments.
    WrongArity(&'static Spec),
    /// Not understood. The one argument is the text of the error.
    Refused,
}

impl Verb {
    pub fn known(self) -> Option<&'static Spec> {
        match self {
            Verb::Known(spec) => Some(spec),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn with_arity(spec: &'static Spec, args: usize) -> Verb {
        if spec.accepts(args) { Verb::Known(spec) } else { Verb::with_other_arity(spec, args) }
    }

    /// `GET key FILL ms [STALE ms]` is a command of its own, so that GET is what it is everywhere else.
    #[cold]
    fn with_other_arity(spec: &'static Spec, args: usize) -> Verb {
        match (spec.op, args) {
            (Op::Get, 3 | 5) => Verb::Known(command::spec_of(Op::GetFill)),
            _ => Verb::WrongArity(spec),
        }
    }
}

/// The verb of a command given all its words, and how many of them are its name and so no arguments.
/// Words that travel on their own are longer than any name.
pub(super) fn resolve(bytes: &[u8], words: &[ArgRange]) -> (Verb, usize) {
    let word = |index: usize| words[index].span().map_or(&b""[..], |(start, len)| &bytes[start..start + len]);
    let Some(spec) = command::lookup(word(0)) else {
        return (Verb::Unknown, 0);
    };
    if words.len() == 1 || !command::has_subcommands(spec) {
        return (Verb::with_arity(spec, words.len() - 1), 1);
    }
    match command::lookup_subcommand(spec, word(1)) {
        Some(sub) => (Verb::with_arity(sub, words.len() - 2), 2),
        None => (Verb::UnknownSubcommand(spec), 0),
    }
}

/// The error reply to a command that is not [`Verb::Known`], as Redis words it.
pub fn refusal_text(verb: Verb, args: &Args<'_>) -> String {
    match verb {
        Verb::Known(spec) => unreachable!("{} is carried out, not refused", spec.name),
        Verb::WrongArity(spec) => format!("ERR wrong number of arguments for '{}' command", spec.name),
        Verb::UnknownSubcommand(container) => {
            let container = container.name.to_ascii_uppercase();
            format!("ERR unknown subcommand '{}'. Try {container} HELP.", excerpt(args.get(1), TEXT_BYTES_MAX))
        }
        Verb::Refused => String::from_utf8_lossy(args.get(0)).into_owned(),
        Verb::Unknown => {
            let mut beginning = String::new();
            for arg in args.iter().skip(1) {
                if beginning.len() >= TEXT_BYTES_MAX {
                    break;
                }
                let rest = TEXT_BYTES_MAX - beginning.len();
                beginning += &format!("'{}' ", excerpt(arg, rest));
            }
            let name = excerpt(args.get(0), TEXT_BYTES_MAX);
            format!("ERR unknown command '{name}', with args beginning with: {beginning}")
        }
    }
}

/// Redis shows this much of the name and of all arguments together.
const TEXT_BYTES_MAX: usize = 128;

/// The beginning of `bytes` as C would print it: up to a NUL, and nothing that ends a line.
fn excerpt(bytes: &[u8], bytes_max: usize) -> String {
    let bytes = &bytes[..bytes.len().min(bytes_max)];
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).replace(['\r', '\n'], " ")
}
