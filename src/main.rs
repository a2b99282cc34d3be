//! The server: settings, machine, cores.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use crabcache::config::{Config, Typed};
use crabcache::runtime::host::Host;
use crabcache::runtime::{log, server};

fn main() -> ExitCode {
    let config = match Config::check(Typed::parse()) {
        Ok(config) => config,
        Err(error) => Typed::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    log::start(&config);
    let host = match Host::prepare(config) {
        Ok(host) => host,
        Err(refusal) => {
            tracing::error!("{refusal}");
            return ExitCode::from(refusal.exit_code());
        }
    };
    ExitCode::from(server::run(host))
}
