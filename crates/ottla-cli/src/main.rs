//! The `ottla` command: `produce` puts records into Kafka, `perf` tells how fast, `broker` is a small broker
//! for development.
//!
//! A tool: it reads clocks, sleeps and begins threads as it pleases.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
#![forbid(unsafe_code)]

mod args;
mod broker;
mod input;
mod perf;
mod produce;
mod report;
mod settings;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};

/// Every record was acknowledged.
pub(crate) const OK: u8 = 0;
/// Some were not.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage or settings.
pub(crate) const USAGE: u8 = 2;

/// What ends a command before its time: a status and a sentence.
pub(crate) struct CliError {
    status: u8,
    message: String,
}

impl CliError {
    pub(crate) fn usage(message: impl Into<String>) -> CliError {
        CliError { status: USAGE, message: message.into() }
    }

    pub(crate) fn failed(message: impl Into<String>) -> CliError {
        CliError { status: FAILED, message: message.into() }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Produce(args) => {
            log_to_stderr(args.verbose, args.debug);
            produce::run(*args)
        }
        Command::Perf(args) => {
            log_to_stderr(false, false);
            perf::run(&args)
        }
        Command::Broker(args) => {
            log_to_stderr(args.verbose, args.debug);
            broker::run(args)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "ottla", &mut std::io::stdout());
            Ok(OK)
        }
        Command::Man => print_man_page(),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(stop) => {
            eprintln!("ottla: {}", stop.message);
            ExitCode::from(stop.status)
        }
    }
}

/// One page: the command, then each of its commands.
fn print_man_page() -> Result<u8, CliError> {
    let mut out = std::io::stdout().lock();
    let mut command = Cli::command();
    command.build();
    let mut pages = vec![command.clone()];
    pages.extend(command.get_subcommands().filter(|c| c.get_name() != "help").cloned());
    for page in pages {
        if clap_mangen::Man::new(page).render(&mut out).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(OK)
}

fn log_to_stderr(verbose: bool, debug: bool) {
    let level = match (verbose, debug) {
        (_, true) => "ottla=trace,ottla_broker=trace",
        (true, _) => "ottla=info,ottla_broker=info",
        _ => "ottla=error,ottla_broker=error",
    };
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}
