//! The `ottla` command: `produce` sends records to Kafka, `perf` measures throughput and latency,
//! `verifiable-producer` prints the result of each record for tests, `doctor` finds out why records
//! are not taken, `broker` runs a small broker for development.
//!
//! The library's rules about clocks, sleeps and threads do not apply here: the command is not
//! simulated.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
#![forbid(unsafe_code)]
// These panic if the reader of standard output or error has gone. `console` prints.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod broker;
mod clock;
mod console;
mod doctor;
mod input;
mod limits;
mod live;
mod metrics_server;
mod perf;
mod produce;
mod rate;
mod schemas;
mod run_results;
mod settings;
mod signals;
mod units;
mod verifiable_producer;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use console::{Blocking, StderrWriter, output_status, report};

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

    /// Names the option whose value caused the error.
    pub(crate) fn with_option(self, option: &str) -> CliError {
        CliError { message: format!("{option}: {}", self.message), ..self }
    }

    /// The producer was not built: because of a setting, or because the system has no resources.
    pub(crate) fn build(e: &ottla::Error) -> CliError {
        let status = if e.kind() == ottla::ErrorKind::Config { USAGE } else { FAILED };
        CliError { status, message: error_with_reference(e) }
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

/// Returns an error's text and where the documentation explains it.
pub(crate) fn error_with_reference(e: &ottla::Error) -> String {
    with_reference(&error_text(e), e)
}

/// Adds to the text of an error where the documentation explains it.
pub(crate) fn with_reference(text: &str, e: &ottla::Error) -> String {
    format!("{text}; see {}", ottla::tools::error_reference(e))
}

/// Prints why the command line is refused, or the help that it requests.
///
/// `verifiable-producer` has the exit statuses of Kafka's tool: 1 for a wrong option, and 0 without
/// arguments, which prints the help.
fn refuse_command_line(e: &clap::Error) -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let is_verifiable = words.next().is_some_and(|word| word == "verifiable-producer");
    if !is_verifiable || !e.use_stderr() {
        e.exit();
    }
    if words.next().is_some() {
        report!("{e}");
        return ExitCode::from(FAILED);
    }
    let mut command = Cli::command();
    command.build();
    let help =
        command.find_subcommand_mut("verifiable-producer").map(clap::Command::render_long_help);
    match output_status(write_output(help.unwrap_or_default().to_string().as_bytes())) {
        Ok(status) => ExitCode::from(status),
        Err(e) => ExitCode::from(e.status),
    }
}

fn main() -> ExitCode {
    limits::use_one_heap_if_limited();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return refuse_command_line(&e),
    };
    let result = match cli.command {
        Command::Produce(args) => {
            log_to_stderr(args.verbose, args.debug);
            produce::run(*args)
        }
        Command::Perf(args) => {
            log_to_stderr(false, false);
            perf::run(&args)
        }
        Command::VerifiableProducer(args) => {
            log_to_stderr(false, false);
            // As Kafka's tool: 1 for every error.
            verifiable_producer::run(&args).map_err(|e| CliError { status: FAILED, ..e })
        }
        Command::Doctor(args) => {
            log_to_stderr(false, false);
            doctor::run(&args)
        }
        Command::Broker(args) => {
            log_to_stderr(args.verbose, args.debug);
            broker::run(args)
        }
        Command::Completions { shell } => {
            // `generate` panics if it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ottla", &mut script);
            output_status(write_output(&script))
        }
        Command::Man => print_man_page(),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            report!("ottla: {}{}", e.message, limits::advice(&e.message));
            ExitCode::from(e.status)
        }
    }
}

/// Starts a thread of the command.
pub(crate) fn start_thread<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, CliError> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map_err(|e| CliError::failed(format!("cannot start the thread {name}: {e}")))
}

/// Prints one man page that contains the command and all its subcommands.
fn print_man_page() -> Result<u8, CliError> {
    let mut command = Cli::command();
    command.build();
    let mut pages = vec![command.clone()];
    pages.extend(command.get_subcommands().filter(|c| c.get_name() != "help").cloned());
    let mut text = Vec::new();
    let rendered = pages.into_iter().try_for_each(|p| clap_mangen::Man::new(p).render(&mut text));
    output_status(rendered.and_then(|()| write_output(&text)))
}

fn write_output(text: &[u8]) -> io::Result<()> {
    let mut stdout = Blocking(io::stdout());
    stdout.write_all(text)?;
    stdout.flush()
}

fn log_to_stderr(verbose: bool, debug: bool) {
    let filter = match (verbose, debug) {
        (_, true) => "ottla=trace,ottla_broker=trace",
        (true, _) => "ottla=info,ottla_broker=info",
        // The library's warnings about topics that do not move are for the user, too.
        _ => "ottla=error,ottla::stalled=warn,ottla_broker=error",
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| StderrWriter)
        // It would print an error of the writer with `eprintln!`, which panics.
        .log_internal_errors(false)
        .with_target(false)
        .init();
}
