//! The files of the repository as they are tracked, and what holds for all of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{assert_complains, assert_tidy};

/// Beside sources and pages only what convention puts at the top.
const TOP_LEVEL: [&str; 17] = [
    ".ci",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "PERF.md",
    "PROTOCOL.md",
    "README.md",
    "benches",
    "docker",
    "fuzz",
    "loadgen",
    "rustfmt.toml",
    "src",
    "systemd",
    "tests",
];

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Paths from the root, sorted. From a tree without git: every file that no build made.
pub fn tracked() -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let mut files = match output {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let listed = String::from_utf8(output.stdout).expect("names of files are UTF-8");
            listed.split_terminator('\0').map(str::to_string).collect()
        }
        _ => {
            let mut files = Vec::new();
            walk(&root(), "", &mut files);
            files
        }
    };
    // Removed, and not yet committed.
    files.retain(|file: &String| root().join(file).exists());
    files.sort();
    assert!(files.iter().any(|file| file == "src/lib.rs"), "{files:?}");
    files
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in folder.read_dir().expect("a folder of the repository").flatten() {
        let name = entry.file_name().into_string().expect("names of files are UTF-8");
        let path = format!("{prefix}{name}");
        if entry.path().is_file() {
            files.push(path);
        } else if !matches!(name.as_str(), "target" | ".git" | "node_modules" | "corpus") {
            walk(&entry.path(), &format!("{path}/"), files);
        }
    }
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file below `folder/`, with its text.
pub fn rust_files(folder: &str) -> Vec<(String, String)> {
    let files = tracked().into_iter().filter(|path| path.starts_with(folder) && path.ends_with(".rs"));
    let files: Vec<_> = files.map(|path| (path.clone(), read(&path))).collect();
    assert!(!files.is_empty(), "{folder} has no Rust files");
    files
}

fn top_level_complaints(files: &[String]) -> Vec<String> {
    let mut tops: Vec<&str> = files.iter().map(|file| file.split('/').next().unwrap_or_default()).collect();
    tops.dedup();
    let unknown = tops.into_iter().filter(|top| !TOP_LEVEL.contains(top));
    unknown.map(|top| format!("{top}: not among what the top of the repository holds")).collect()
}

/// Paths that exist where the code was written and nowhere else.
fn machine_path_complaints(file: &str, text: &str) -> Vec<String> {
    // Not spelled out, or this file would name them.
    let foreign = [["/wo", "rk/"], ["/tmp", "/wt"], ["/ro", "ot/"], ["/ho", "me/"]].map(|parts| parts.concat());
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for path in foreign.iter().filter(|path| line.contains(path.as_str())) {
            complaints.push(format!("{file}:{}: the path {path} is of one machine", index + 1));
        }
    }
    complaints
}

#[test]
fn the_top_of_the_repository_stays_short() {
    assert_tidy(top_level_complaints(&tracked()));
    let broken = ["Cargo.toml", "notes.txt", "src/lib.rs", "src/main.rs", "scripts/a.sh", "scripts/b.sh"];
    assert_complains(&top_level_complaints(&broken.map(String::from)), &["notes.txt", "scripts"]);
}

#[test]
fn no_path_of_one_machine_is_named() {
    let is_text = |file: &String| !file.starts_with("fuzz/seeds/") && !file.ends_with(".png");
    let complaints =
        tracked().into_iter().filter(is_text).flat_map(|file| machine_path_complaints(&file, &read(&file)));
    assert_tidy(complaints.collect());
    let broken = format!("fine\n# in {}ing/copy\n", ["/tmp", "/wt"].concat());
    assert_complains(&machine_path_complaints("a.md", &broken), &["a.md:2"]);
}
