//! Where `unsafe` may stand, and that each carries its proof.

use super::files::{read, tracked};
use super::source::{code_of, words};
use super::{assert_complains, assert_tidy};

/// The only files with unsafe code, each for one reason.
const MAY: [&str; 13] = [
    // Memory that the kernel reads and writes; descriptors that it made.
    "benches/send.rs",
    "loadgen/src/ring/buffers.rs",
    "loadgen/src/ring/mod.rs",
    "src/runtime/bridge.rs",
    "src/runtime/ring/buffers.rs",
    "src/runtime/ring/mod.rs",
    // Calls that no crate wraps.
    "loadgen/src/system.rs",
    // Memory that is mapped rather than allocated, and what may lie in it.
    "src/runtime/pages.rs",
    "src/store/chunk.rs",
    "src/store/table.rs",
    // Children confined between fork and exec.
    "tests/host.rs",
    "tests/preflight.rs",
    "tests/storms.rs",
];

fn complaints(file: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let lines: Vec<(&str, &str)> = text.lines().zip(code.lines()).collect();
    let mut complaints = Vec::new();
    for (index, (_, code)) in lines.iter().enumerate() {
        // Trait bounds on functions that are called elsewhere are nobody's promise here.
        if !words(code).any(|word| word.text == "unsafe") {
            continue;
        }
        let place = format!("{file}:{}", index + 1);
        if !MAY.contains(&file) {
            complaints.push(format!("{place}: unsafe code has no place in this file"));
        } else if !is_proven(&lines[..index]) {
            complaints.push(format!("{place}: unsafe without a // SAFETY: comment above it"));
        }
    }
    complaints
}

/// Whether the comment right above the statement that follows `lines` begins with SAFETY (or, for what
/// others promise, is a section called Safety).
fn is_proven(lines: &[(&str, &str)]) -> bool {
    let mut in_comment = false;
    for (text, code) in lines.iter().rev() {
        let (text, code) = (text.trim(), code.trim());
        if text.starts_with("//") {
            in_comment = true;
            if text.starts_with("// SAFETY: ") || text.starts_with("/// # Safety") {
                return true;
            }
        } else if in_comment || text.is_empty() || !code.starts_with("#[") && code.ends_with([';', '{', '}']) {
            return false;
        }
    }
    false
}

#[test]
fn unsafe_code_stands_in_few_files_and_is_proven() {
    let sources = tracked().into_iter().filter(|file| file.ends_with(".rs"));
    assert_tidy(sources.flat_map(|file| complaints(&file, &read(&file))).collect());
    let unused: Vec<&str> =
        MAY.into_iter().filter(|file| !words(&code_of(&read(file))).any(|word| word.text == "unsafe")).collect();
    assert!(unused.is_empty(), "nothing unsafe in {unused:?} any more");
}

#[test]
fn unsafe_code_without_place_or_proof_is_found() {
    let proven = "fn f() {\n    // SAFETY: it is\n    // so.\n    let a =\n        unsafe { g() };\n}\n";
    assert_complains(&complaints("src/runtime/ring/mod.rs", proven), &[]);
    let attribute = "// SAFETY: plain numbers.\n#[allow(unsafe_code)]\nunsafe impl Plain for u8 {}\n";
    assert_complains(&complaints("src/store/table.rs", attribute), &[]);
    assert_complains(&complaints("src/glob.rs", proven), &["src/glob.rs:5: unsafe code has no place"]);
    assert_complains(&complaints("src/glob.rs", "// unsafe\n#![deny(unsafe_code)]\nlet a = \"unsafe\";\n"), &[]);
    let bare = "// SAFETY: of another.\nlet a = 1;\nunsafe { g() }\n";
    assert_complains(&complaints("src/runtime/ring/mod.rs", bare), &["ring/mod.rs:3: unsafe without"]);
    let comment = "// Calls g.\nunsafe { g() }\n";
    assert_complains(&complaints("src/runtime/ring/mod.rs", comment), &["ring/mod.rs:2: unsafe without"]);
}
