//! loadgen: puts load on crabcache, Redis, memcached and their kin, and compares them.
//!
//! ```text
//!   options ─▶ plan ─▶ generator (threads, rings, connections) ─▶ record ─▶ report
//!                         ▲
//!   compare ──────────────┤  starts two servers, runs the same plans on both in turns
//!   soak ─────────────────┘  starts one, and wears it down
//! ```

mod cluster;
mod compare;
mod failure;
mod generator;
mod keys;
mod options;
mod plan;
mod random;
mod record;
mod report;
mod ring;
mod run;
mod session;
mod signals;
mod soak;
mod system;
mod template;
mod trace;
mod verify;
mod wire;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use compare::{CompareError, CompareOptions};
use failure::Failure;
use options::{Checked, LoadOptions};
use report::hdr::{self, IntervalLog};
use report::live::LiveLine;
use report::{check_writable, json, summary, svg};
use run::{Finished, run};
use signals::EXIT_INTERRUPTED;
use soak::SoakOptions;
use wire::printable;

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "compare") {
        words.remove(1);
        let options = CompareOptions::parse_from(words);
        signals::watch();
        return match compare::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(CompareError::Usage(wrong)) => usage(&wrong),
            Err(CompareError::Failed(failure)) => failed(&failure),
        };
    }
    if words.get(1).is_some_and(|word| word == "soak") {
        words.remove(1);
        let options = SoakOptions::parse_from(words);
        signals::watch();
        return match soak::run(&options) {
            Ok(Ok(true)) => ExitCode::SUCCESS,
            Ok(Ok(false)) => ExitCode::from(EXIT_FAILURE),
            Ok(Err(failure)) => failed(&failure),
            Err(wrong) => usage(&wrong),
        };
    }
    let options = LoadOptions::parse_from(words);
    match options.check() {
        Err(wrong) => usage(&wrong),
        Ok(checked) => {
            signals::watch();
            match run_tests(&options, &checked) {
                Ok(0) => ExitCode::SUCCESS,
                Ok(_) => ExitCode::from(EXIT_FAILURE),
                Err(failure) => failed(&failure),
            }
        }
    }
}

fn usage(wrong: &str) -> ExitCode {
    eprintln!("loadgen: {wrong}");
    ExitCode::from(EXIT_USAGE)
}

fn failed(failure: &Failure) -> ExitCode {
    eprintln!("loadgen: {failure}");
    ExitCode::from(if matches!(failure, Failure::Interrupted) { EXIT_INTERRUPTED } else { EXIT_FAILURE })
}

/// Runs everything that was asked for; returns the number of error replies and of faults found.
fn run_tests(options: &LoadOptions, checked: &Checked) -> Result<u64, Failure> {
    check_writable([&options.json_out_file, &options.svg].into_iter().flatten().map(PathBuf::as_path))?;
    let mut live = LiveLine::new(!options.quiet && !options.csv);
    if let Some(preload) = &checked.preload {
        let loaded = run(preload, None, &mut live)?;
        tell_first_error(&loaded);
    }
    if options.csv {
        println!("{}", summary::CSV_HEAD);
    }
    let mut wrong = 0;
    let mut tests = Vec::new();
    loop {
        for plan in &checked.plans {
            let log = match &options.hdr_file_prefix {
                Some(prefix) => {
                    Some(IntervalLog::create(hdr::path(prefix, &plan.workload.name, "hlog"), &plan.workload.name)?)
                }
                None => None,
            };
            let test = run(plan, log, &mut live)?;
            if options.csv {
                println!("{}", summary::csv(&test));
            } else if options.quiet {
                println!("{}", summary::quiet(&test));
            } else {
                println!("{}", summary::long(&test));
            }
            tell_first_error(&test);
            wrong += test.record.errors();
            if let Some(prefix) = &options.hdr_file_prefix {
                let path = hdr::path(prefix, &plan.workload.name, "hgrm");
                hdr::write_percentiles(&path, &test.record.total().latency_ns)?;
            }
            if !options.forever {
                tests.push(test);
            }
            if signals::interrupted() {
                save(options, &tests)?;
                return Err(Failure::Interrupted);
            }
        }
        if !options.forever {
            break;
        }
    }
    save(options, &tests)?;
    // All tests share one verifier.
    let faults = checked.plans[0].verifier.as_ref().map_or(0, |verifier| verifier.faults());
    Ok(wrong + faults)
}

fn tell_first_error(test: &Finished) {
    if let Some(error) = &test.first_error {
        let name = &test.plan.workload.name;
        eprintln!("loadgen: {name}: the first error reply to {}: \"{}\"", error.command, printable(&error.reply));
    }
}

fn save(options: &LoadOptions, tests: &[Finished]) -> Result<(), Failure> {
    let write = |path: &Path, content: String| {
        std::fs::write(path, content)
            .map_err(|error| Failure::system(format!("cannot write {}", path.display()), error))
    };
    if let Some(path) = &options.json_out_file {
        write(path, format!("{:#}\n", json::document(tests)))?;
    }
    if let Some(path) = &options.svg {
        write(path, svg::of_tests(tests))?;
    }
    Ok(())
}
