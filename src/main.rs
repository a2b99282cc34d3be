//! The server: settings, machine, cores.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::ErrorKind;
use crabcache::config::{self, Ask, Config, ConfigError, Request, Sources, Store};
use crabcache::runtime::host::Host;
use crabcache::runtime::pages::Pages;
use crabcache::runtime::{log, server};

/// What is large is given back to the system as soon as it is free.
#[global_allocator]
static MEMORY: Pages = Pages;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    match args.next().as_deref() {
        Some("wal") => return crabcache::runtime::wal::inspect::run(&args.collect::<Vec<_>>()),
        Some("health") => return crabcache::runtime::admin::probe::run(&args.collect::<Vec<_>>()),
        _ => {}
    }
    let request = match Request::parse(std::env::args_os()) {
        Ok(request) => request,
        Err(error) => error.exit(),
    };
    match request.ask {
        Ask::PrintDefaultConfig => return print(config::default_file().as_bytes()),
        Ask::PrintManPage => return print(&config::man_page()),
        Ask::PrintCompletions(shell) => return print(&config::completions(shell)),
        Ask::Serve | Ask::CheckConfig | Ask::PrintConfig => {}
    }
    // What is not UTF-8 is none of our settings, and a wrong value of one.
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let (sources, strange) = Sources::new(request.file, request.given, variables);
    let config = match sources.load() {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    match request.ask {
        Ask::PrintConfig => return print(config::origins_file(&config).as_bytes()),
        Ask::CheckConfig => return ExitCode::SUCCESS,
        _ => {}
    }
    serve(config, sources, &strange)
}

fn serve(config: Config, sources: Sources, strange: &[String]) -> ExitCode {
    let store = match Store::new(config, sources) {
        Ok(store) => store,
        Err(error) => return refuse(&error),
    };
    log::start(&store.current());
    for name in strange {
        tracing::warn!("{name} in the environment is no setting");
    }
    let code = match Host::prepare(Arc::new(store)) {
        Ok(host) => server::run(host),
        Err(refusal) => {
            tracing::error!("{refusal}");
            refusal.exit_code()
        }
    };
    log::flush();
    ExitCode::from(code)
}

/// A wrong flag is explained as the parser of flags explains it; a wrong file with its place alone, for editors.
fn refuse(error: &ConfigError) -> ExitCode {
    match error.exit_code() {
        2 => config::command().error(ErrorKind::ValueValidation, error).exit(),
        code => {
            eprintln!("{error}");
            ExitCode::from(code)
        }
    }
}

fn print(text: &[u8]) -> ExitCode {
    // Whoever closes the pipe has seen enough.
    let _ = std::io::stdout().write_all(text);
    ExitCode::SUCCESS
}
