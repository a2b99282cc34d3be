//! HELP: what the subcommands of a container are, in lines as Redis answers them. The words are those of the
//! command table.

use std::sync::LazyLock;

use super::docs::syntax;
use super::{subcommands, top_level};
use crate::command::{Flags, Op, Spec, has_subcommands};
use crate::reply::Reply;

/// The lines of each container, by the operation that asks for them.
static LINES: LazyLock<Vec<(Op, Vec<String>)>> = LazyLock::new(|| {
    let containers = top_level().filter(|spec| has_subcommands(spec));
    containers.filter_map(|container| Some((help_of(container)?.op, lines(container)))).collect()
});

/// The reply of `CLIENT HELP` and its like; `op` is theirs.
pub fn help(op: Op) -> Reply<'static> {
    let lines = LINES.iter().find(|(asked, _)| *asked == op).map(|(_, lines)| lines.as_slice());
    Reply::Array(lines.unwrap_or_default().iter().map(|line| Reply::Status(line)).collect())
}

fn help_of(container: &Spec) -> Option<&'static Spec> {
    subcommands(container).find(|spec| spec.name.ends_with("|help"))
}

fn lines(container: &Spec) -> Vec<String> {
    let name = container.name.to_uppercase();
    let mut lines = vec![format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")];
    if !container.flags.has(Flags::CONTAINER) {
        lines.extend(["(no subcommand)".into(), format!("    {}", container.summary)]);
    }
    for spec in subcommands(container).filter(|spec| !spec.name.ends_with("|help")) {
        let name = spec.name[container.name.len() + 1..].to_uppercase();
        lines.push(format!("{name} {}", syntax(spec.op)).trim_end().to_string());
        lines.push(format!("    {}", spec.summary));
    }
    lines.extend(["HELP".into(), "    Prints this help.".into()]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_tells_of_all_its_subcommands() {
        for container in top_level().filter(|spec| has_subcommands(spec)) {
            let asked = help_of(container).unwrap_or_else(|| panic!("{} has no HELP", container.name));
            let Reply::Array(lines) = help(asked.op) else { panic!("no lines") };
            let lines: Vec<&str> = lines
                .iter()
                .map(|line| match line {
                    Reply::Status(line) => *line,
                    other => panic!("{other:?}"),
                })
                .collect();
            let container_name = container.name.to_uppercase();
            assert_eq!(lines[0], format!("{container_name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
            assert_eq!(lines[lines.len() - 2..], ["HELP", "    Prints this help."]);
            assert_eq!(lines.contains(&"(no subcommand)"), container.name == "command");
            for spec in subcommands(container) {
                let name = spec.name[container.name.len() + 1..].to_uppercase();
                assert!(lines.iter().any(|line| line.split(' ').next() == Some(&name)), "{name} in {lines:?}");
            }
            assert!(lines.iter().all(|line| !line.contains(['\r', '\n'])));
        }
    }
}
