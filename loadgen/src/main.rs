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
use report::{check_writable, json, say, summary, svg};
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
    say::end(format_args!("loadgen: {wrong}"));
    ExitCode::from(EXIT_USAGE)
}

fn failed(failure: &Failure) -> ExitCode {
    say::end(format_args!("loadgen: {failure}"));
    ExitCode::from(if signals::interrupted() { EXIT_INTERRUPTED } else { EXIT_FAILURE })
}

/// Runs everything that was asked for; returns the number of error replies and of faults found.
fn run_tests(options: &LoadOptions, checked: &Checked) -> Result<u64, Failure> {
    let logs = options
        .hdr_file_prefix
        .iter()
        .flat_map(|prefix| checked.plans.iter().map(move |plan| hdr::path(prefix, &plan.workload.name, "hlog")));
    let outputs: Vec<PathBuf> =
        [&options.json_out_file, &options.svg].into_iter().flatten().cloned().chain(logs).collect();
    check_writable(outputs.iter().map(PathBuf::as_path))?;
    let mut live = LiveLine::new(!options.quiet && !options.csv);
    let mut wrong = 0;
    if let Some(preload) = &checked.preload {
        let loaded = run(preload, None, &mut live)?;
        tell_first_error(&loaded);
        // What is not there cannot be found by the tests.
        wrong += loaded.record.errors();
        if signals::interrupted() {
            return Err(Failure::Interrupted);
        }
    }
    if options.csv {
        say::out(summary::CSV_HEAD)?;
    }
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
                say::out(summary::csv(&test))?;
            } else if options.quiet {
                say::out(summary::quiet(&test))?;
            } else {
                say::out(summary::long(&test))?;
            }
            if options.csv || options.quiet {
                // Where there is no room for a word of warning.
                let name = &test.plan.workload.name;
                summary::warnings(&test, options.csv)
                    .iter()
                    .for_each(|line| say::tell(format_args!("loadgen: {name}: {line}")));
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
        let reply = printable(&error.reply);
        say::tell(format_args!("loadgen: {name}: the first error reply to {}: \"{reply}\"", error.command));
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
