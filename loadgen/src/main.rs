//! loadgen: puts load on crabcache, Redis, memcached and their kin, and compares them.
//!
//! ```text
//!   options ─▶ plan ─▶ generator (threads, rings, connections) ─▶ record ─▶ report
//!                         ▲
//!   compare ──────────────┘  starts two servers, runs the same plans on both in turns
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
mod session;
mod signals;
mod template;
mod trace;
mod verify;
mod wire;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use compare::{CompareError, CompareOptions};
use failure::Failure;
use generator::Load;
use options::{Checked, LoadOptions};
use plan::Plan;
use record::Record;
use report::{Outcome, summary};
use signals::EXIT_INTERRUPTED;
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
    if let Some(preload) = &checked.preload {
        run(preload)?;
    }
    if options.csv {
        println!("{}", summary::CSV_HEAD);
    }
    let mut errors = 0;
    loop {
        for plan in &checked.plans {
            let record = run(plan)?;
            let outcome = Outcome { plan, record: &record };
            if options.csv {
                println!("{}", summary::csv(&outcome));
            } else if options.quiet {
                println!("{}", summary::quiet(&outcome));
            } else {
                println!("{}", summary::long(&outcome));
            }
            errors += record.errors() + plan.verifier.as_ref().map_or(0, |verifier| verifier.faults());
            if signals::interrupted() {
                return Err(Failure::Interrupted);
            }
        }
        if !options.forever {
            return Ok(errors);
        }
    }
}

fn run(plan: &Plan) -> Result<Record, Failure> {
    let mut load = Load::connect(plan.clone())?;
    load.go();
    let record = load.finish()?;
    if let Some(error) = load.first_error() {
        eprintln!(
            "loadgen: {}: the first error reply to {}: \"{}\"",
            plan.workload.name,
            error.command,
            printable(&error.reply)
        );
    }
    Ok(record)
}
