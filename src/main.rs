//! The server: settings, machine, cores.

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use crabcache::config::{Config, Typed};
use crabcache::runtime::host::{CoreError, CoreSetup, Host};
use crabcache::runtime::log;
use glommio::timer;

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
    ExitCode::from(host.run(|setup| move || until_asked_to_end(setup)))
}

/// Holds a core's listeners until the server is asked to end.
async fn until_asked_to_end(setup: CoreSetup) -> Result<(), CoreError> {
    while !setup.shutdown.is_requested() {
        timer::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
