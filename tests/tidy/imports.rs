//! Who may know whom: the layers of the server, as its `lib.rs` shows them.

use super::files::{read, rust_files};
use super::source::{code_of, paths, without_tests, words};
use super::{assert_complains, assert_tidy};

/// Layer 0: the words that all parts share. They may use each other.
const WORDS: [&str; 10] =
    ["clock", "command", "hash", "limits", "namespace", "number", "random", "reply", "request", "slot"];

/// Layer 1, without I/O, clock and chance: which modules beside the words each may use. A prefix of a path
/// allows what is below it.
const PURE: [(&str, &[&str]); 16] = [
    ("admin", &[]),
    ("allowlist", &[]),
    ("auth", &["glob", "ratelimit"]),
    ("connection", &["proto", "ratelimit", "engine::access", "engine::batch", "engine::clients", "engine::journal"]),
    (
        "engine",
        &[
            "auth",
            "connection",
            "filling",
            "ratelimit",
            "glob",
            "metrics",
            "proto",
            "pubsub",
            "store",
            "tracking",
            "txn",
            "wal",
        ],
    ),
    ("filling", &[]),
    ("glob", &[]),
    ("metrics", &[]),
    ("proto", &[]),
    ("proxy_protocol", &[]),
    ("pubsub", &["glob"]),
    ("ratelimit", &[]),
    ("store", &[]),
    ("tracking", &[]),
    ("txn", &[]),
    ("wal", &[]),
];

/// Layer 2 may use everything below, and each other as named.
const RUNTIME: [(&str, &[&str]); 2] = [("config", &[]), ("runtime", &["config"])];

/// Crates that have no way to the outside.
const PURE_CRATES: [&str; 5] = ["ahash", "bytes", "itoa", "memchr", "ryu"];
/// Crates beyond those, by the file or module that has a reason.
const CRATES: [(&str, &[&str]); 7] = [
    // The memory of the store is mapped by it.
    ("src/store/chunk.rs", &["libc"]),
    // Checksums.
    ("src/wal/", &["crc32fast"]),
    ("src/admin/", &["httparse"]),
    ("src/auth.rs", &["sha2"]),
    ("src/proto/json/", &["base64", "serde", "serde_json"]),
    ("src/metrics/latency.rs", &["hdrhistogram"]),
    ("src/config/", &["clap", "clap_complete", "clap_mangen", "rustls", "strsim", "toml"]),
];

/// What of the standard library reaches outside: the system, the clock, other threads, chance.
const OUTSIDE: [&str; 19] = [
    "std::arch::asm",
    "std::collections::hash_map::RandomState",
    "std::env",
    "std::fs",
    "std::hash::RandomState",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::sync::mpsc",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
];

const OUTSIDE_MACROS: [&str; 6] = ["dbg", "eprint", "eprintln", "print", "println", "thread_local"];

/// Names in the prelude of other crates' `RandomState`, by the constructors that draw from the system.
const CHANCE: [&str; 3] = ["ahash::RandomState::new", "ahash::RandomState::default", "ahash::random_state"];

struct Rules<'a> {
    modules: &'a [&'a str],
    crates: &'a [&'a str],
    /// Whether the layer may reach outside.
    outside: bool,
}

/// The module path of a file below `src`: `src/store/mod.rs` is `store`.
fn module_of(file: &str) -> Vec<&str> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    path.split('/').filter(|part| !matches!(*part, "mod" | "lib")).collect()
}

/// Where a path leads that was named in `module`: the path from the root of this crate, or None if it leads
/// into another.
fn within_crate(module: &[&str], path: &[String]) -> Option<Vec<String>> {
    let mut base: Vec<String> = module.iter().map(|part| part.to_string()).collect();
    let mut rest = path;
    match path[0].as_str() {
        "crate" => {
            base.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ => return None,
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

fn is_below(path: &[String], prefix: &str) -> bool {
    let mut parts = path.iter();
    prefix.split("::").all(|part| parts.next().is_some_and(|have| have == part))
}

/// Whether `path` names `what`, something below it, or by a glob everything beside it.
fn reaches(path: &[String], what: &str) -> bool {
    if let [above @ .., star] = path
        && star == "*"
    {
        return is_below(above, what) || format!("{what}::").starts_with(&(above.join("::") + "::"));
    }
    is_below(path, what)
}

fn import_complaints(file: &str, text: &str, rules: &Rules, dependencies: &[String]) -> Vec<String> {
    let module = module_of(file);
    let code = without_tests(&code_of(text)).code;
    let mut complaints = Vec::new();
    for named in paths(&code) {
        let (path, line) = (named.path.join("::"), named.line);
        if let Some(target) = within_crate(&module, &named.path) {
            let Some(top) = target.first() else { continue };
            let allowed = Some(&top.as_str()) == module.first()
                || rules.modules.iter().any(|allowed| is_below(&target, allowed))
                // What stands in lib.rs itself, and macros.
                || !is_module(top);
            if !allowed {
                complaints.push(format!("{file}:{line}: {} may not use {path}", module[0]));
            }
        } else if dependencies.contains(&named.path[0]) && !rules.crates.contains(&named.path[0].as_str()) {
            complaints.push(format!("{file}:{line}: {} may not use the crate {}", module[0], named.path[0]));
        }
        let outside = OUTSIDE.iter().chain(&CHANCE).find(|what| reaches(&named.path, what));
        if let Some(outside) = outside.filter(|_| !rules.outside) {
            complaints.push(format!("{file}:{line}: {path} reaches outside ({outside})"));
        }
    }
    if !rules.outside {
        let all: Vec<_> = words(&code).collect();
        for pair in all.windows(2) {
            if pair[1].text == "!" && OUTSIDE_MACROS.contains(&pair[0].text) {
                complaints.push(format!("{file}: {}! reaches outside", pair[0].text));
            }
        }
    }
    complaints
}

fn is_module(name: &str) -> bool {
    WORDS.contains(&name) || PURE.iter().chain(&RUNTIME).any(|(module, _)| *module == name)
}

fn rules_complaints(file: &str, text: &str, dependencies: &[String]) -> Vec<String> {
    let top = module_of(file).first().map_or("lib", |top| *top);
    let mut modules: Vec<&str> = WORDS.to_vec();
    let mut crates: Vec<&str> = PURE_CRATES.to_vec();
    let special = CRATES.iter().filter(|(place, _)| file.starts_with(place));
    crates.extend(special.flat_map(|(_, crates)| *crates));
    let own = |layer: &[(&str, &'static [&'static str])]| {
        layer.iter().find(|(module, _)| *module == top).map(|(_, others)| *others)
    };
    let outside = match () {
        () if WORDS.contains(&top) => false,
        () if let Some(others) = own(&PURE) => {
            modules.extend(others);
            false
        }
        () if let Some(others) = own(&RUNTIME) => {
            modules.extend(PURE.iter().map(|(module, _)| *module));
            modules.extend(others);
            if top == "runtime" {
                return import_complaints_of_runtime(file, text, &modules);
            }
            true
        }
        // The entry; lib.rs only names the modules.
        () if top == "main" => {
            let foreign = edge_complaints(file, text, &["config", "runtime"]);
            return foreign;
        }
        () if top == "lib" => return Vec::new(),
        () => return vec![format!("{file}: the module {top} stands in no layer")],
    };
    import_complaints(file, text, &Rules { modules: &modules, crates: &crates, outside }, dependencies)
}

fn import_complaints_of_runtime(file: &str, text: &str, modules: &[&str]) -> Vec<String> {
    // Any crate, any part of the system.
    import_complaints(file, text, &Rules { modules, crates: &[], outside: true }, &[])
}

/// What a program beside the server uses of it.
fn edge_complaints(file: &str, text: &str, allowed: &[&str]) -> Vec<String> {
    let code = without_tests(&code_of(text)).code;
    let used = paths(&code).into_iter().filter(|named| named.path[0] == "crabcache" && named.path.len() > 1);
    let foreign = used.filter(|named| !allowed.iter().any(|module| *module == named.path[1]));
    foreign.map(|named| format!("{file}:{}: may not use {}", named.line, named.path.join("::"))).collect()
}

/// Files of modules that only tests compile.
fn test_files(files: &[(String, String)]) -> Vec<String> {
    let mut folders = Vec::new();
    for (file, text) in files {
        let inside = file.trim_end_matches(".rs").trim_end_matches("/mod").trim_end_matches("/lib");
        for module in without_tests(&code_of(text)).test_modules {
            folders.push(format!("{inside}/{module}"));
        }
    }
    let is_test = |file: &&String| {
        folders.iter().any(|folder| **file == format!("{folder}.rs") || file.starts_with(&format!("{folder}/")))
    };
    files.iter().map(|(file, _)| file).filter(is_test).cloned().collect()
}

/// Names of the crates in `[dependencies]`, as Rust spells them.
fn dependencies(manifest: &str) -> Vec<String> {
    let section = manifest.split("\n[dependencies]\n").nth(1).expect("a section of dependencies");
    let section = section.split("\n[").next().unwrap_or_default();
    let entries = section.lines().filter(|line| !line.starts_with('#'));
    entries.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_")).collect()
}

/// Whether the table of layers in lib.rs names each module in the row of its layer.
fn table_complaints(text: &str) -> Vec<String> {
    let row = |layer: &str| {
        let row = text.lines().find(|line| line.starts_with(&format!("//! | {layer} ")));
        row.unwrap_or_else(|| panic!("lib.rs has no row {layer}")).to_string()
    };
    let layers = [
        ("0 words", WORDS.to_vec()),
        ("1 pure", PURE.map(|(module, _)| module).to_vec()),
        ("2 runtime", RUNTIME.map(|(module, _)| module).to_vec()),
    ];
    let mut complaints = Vec::new();
    for (layer, modules) in &layers {
        let row = row(layer);
        let missing = modules.iter().filter(|module| !row.contains(&format!("`{module}`")));
        complaints.extend(missing.map(|module| format!("src/lib.rs: {module} is not in the row of {layer}")));
    }
    for line in text.lines() {
        let Some((_, module)) = line.trim_end_matches(';').rsplit_once("mod ") else { continue };
        if !line.starts_with("//") && !layers.iter().any(|(_, modules)| modules.contains(&module)) {
            complaints.push(format!("src/lib.rs: the module {module} stands in no layer"));
        }
    }
    complaints
}

#[test]
fn every_layer_keeps_to_what_it_may_know() {
    let dependencies = dependencies(&read("Cargo.toml"));
    let files = rust_files("src/");
    let test_files = test_files(&files);
    let server = files.iter().filter(|(file, _)| !test_files.contains(file));
    assert_tidy(server.flat_map(|(file, text)| rules_complaints(file, text, &dependencies)).collect());
    assert_tidy(table_complaints(&read("src/lib.rs")));
}

#[test]
fn the_load_generator_knows_the_wire_and_not_the_store() {
    let allowed: Vec<&str> = WORDS.into_iter().chain(["proto", "config"]).collect();
    assert_tidy(rust_files("loadgen/").iter().flat_map(|(file, text)| edge_complaints(file, text, &allowed)).collect());
    let broken = "use crabcache::proto::encode;\nuse crabcache::store::Shard;";
    assert_complains(&edge_complaints("loadgen/src/a.rs", broken, &allowed), &["loadgen/src/a.rs:2"]);
}

#[test]
fn a_layer_that_reaches_too_far_is_found() {
    let dependencies = dependencies(
        "[package]\n\n[dependencies]\n# x = 1\nglommio = \"0.9\"\nio-uring = \"0.7\"\nlibc = \"0.2\"\n\n[dev]\nserde = \"1\"",
    );
    assert_eq!(dependencies, ["glommio", "io_uring", "libc"]);
    let complaints = |file: &str, text: &str| rules_complaints(file, text, &dependencies);
    let fine = "use bytes::Bytes;\nuse crate::limits;\nuse super::arena::ItemRef;\nuse std::net::SocketAddr;\nfn f(t: std::time::Duration) {}\n#[cfg(test)]\nmod tests { use std::time::Instant; use crate::proto; }";
    assert_complains(&complaints("src/store/mod.rs", fine), &[]);
    // A sibling, named in every way.
    for sibling in [
        "use crate::proto::encode;",
        "use super::super::proto;",
        "fn f() { crate::proto::encode() }",
        "use crate::{limits, proto};",
    ] {
        assert_complains(&complaints("src/store/table.rs", sibling), &["store may not use"]);
    }
    assert_complains(&complaints("src/connection/mod.rs", "use crate::engine::batch::Batch;"), &[]);
    assert_complains(
        &complaints("src/connection/mod.rs", "use crate::engine::Engine;"),
        &["may not use crate::engine::Engine"],
    );
    assert_complains(&complaints("src/slot.rs", "use crate::glob;"), &["slot may not use"]);
    assert_complains(&complaints("src/config/mod.rs", "use crate::runtime::ring;"), &["config may not use"]);
    assert_complains(
        &complaints("src/runtime/core.rs", "use crate::engine::Engine;\nuse glommio::Task;\nuse std::fs;"),
        &[],
    );
    // Crates.
    assert_complains(&complaints("src/engine/mod.rs", "use io_uring::IoUring;"), &["crate io_uring"]);
    assert_complains(&complaints("src/engine/mod.rs", "fn f() { glommio::executor() }"), &["crate glommio"]);
    assert_complains(&complaints("src/store/table.rs", "use libc::mmap;"), &["crate libc"]);
    assert_complains(&complaints("src/store/chunk.rs", "use libc::mmap;"), &[]);
    // The outside.
    for outside in [
        "use std::time::Instant;",
        "use std::time;\nfn f() { time::SystemTime::now(); }",
        "use std::time::{Duration as D, Instant as I};",
        "use std::time::*;",
        "use std::fs::File;",
        "use std::net::TcpStream;",
        "fn f() { std::thread::sleep(t) }",
        "fn f() { println!() }",
        "fn f() { ahash::RandomState::new() }",
    ] {
        assert_complains(&complaints("src/metrics/rates.rs", outside), &["outside"]);
    }
    assert_complains(&complaints("src/helpers.rs", ""), &["stands in no layer"]);
    assert_complains(&complaints("src/main.rs", "use crabcache::store::Shard;"), &["src/main.rs:1"]);
}

#[test]
fn files_of_tests_are_told_from_the_server() {
    let files = [
        ("src/lib.rs", "pub mod store;\n#[cfg(test)]\nmod random;"),
        ("src/random.rs", ""),
        ("src/store/mod.rs", "mod arena;\n#[cfg(test)]\nmod tests;"),
        ("src/store/arena.rs", "#[cfg(test)]\nmod model;"),
        ("src/store/arena/model.rs", ""),
        ("src/store/tests.rs", ""),
        ("src/store/tests/more.rs", ""),
        ("src/store/testsuite.rs", ""),
    ];
    let files = files.map(|(file, text)| (file.to_string(), text.to_string()));
    assert_eq!(
        test_files(&files),
        ["src/random.rs", "src/store/arena/model.rs", "src/store/tests.rs", "src/store/tests/more.rs"]
    );
}

#[test]
fn a_module_without_a_layer_is_found() {
    let text = read("src/lib.rs");
    assert_complains(&table_complaints(&text.replace("[`slot`]", "")), &["slot is not in the row of 0 words"]);
    assert_complains(&table_complaints(&format!("{text}\npub mod helpers;")), &["helpers stands in no layer"]);
}
