//! The `ottla` command: `produce` sends records to Kafka, `perf` measures throughput and latency,
//! `broker` runs a small broker for development.
//!
//! The library's rules about clocks, sleeps and threads do not apply here: the command is not
//! simulated.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
#![forbid(unsafe_code)]

mod args;
mod broker;
mod input;
mod perf;
mod produce;
mod report;
mod settings;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};

/// Exit status: every record was acknowledged.
pub(crate) const OK: u8 = 0;
/// Exit status: at least one record failed, or the input could not be read.
pub(crate) const FAILED: u8 = 1;
/// Exit status: an option or a setting is wrong. No record was sent.
pub(crate) const USAGE: u8 = 2;

/// An error that ends the command: the exit status and the message for standard error.
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

/// Returns an error's message and the messages of its sources, without repetitions.
///
/// The library keeps a source out of the message, for example the broker's part of a timeout.
pub(crate) fn error_text(e: &ottla::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        let message = e.to_string();
        if !text.contains(&message) {
            text += &format!(" (cause: {message})");
        }
        source = e.source();
    }
    text
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
        Err(e) => {
            eprintln!("ottla: {}", e.message);
            ExitCode::from(e.status)
        }
    }
}

/// Prints one man page that contains the command and all its subcommands.
fn print_man_page() -> Result<u8, CliError> {
    let mut out = std::io::stdout().lock();
    let mut command = Cli::command();
    command.build();
    let mut pages = vec![command.clone()];
    pages.extend(command.get_subcommands().filter(|c| c.get_name() != "help").cloned());
    for page in pages {
        // A reader that closes the pipe early, such as `head`, is not an error.
        if clap_mangen::Man::new(page).render(&mut out).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(OK)
}

fn log_to_stderr(verbose: bool, debug: bool) {
    let filter = match (verbose, debug) {
        (_, true) => "ottla=trace,ottla_broker=trace",
        (true, _) => "ottla=info,ottla_broker=info",
        _ => "ottla=error,ottla_broker=error",
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}
