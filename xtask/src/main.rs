//! The development commands: `cargo xtask test` runs everything that CI checks.
//!
//! The other commands start a real Kafka, simulate many seeds, count instructions, or write the
//! pages that come from code.
#![allow(clippy::disallowed_methods)]

mod charts;
mod checks;
mod instruction_budget;
mod instructions;
mod kafka;
mod public_api;
mod rustc_with_cfg;
mod test_counts;
mod workspace_tests;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

const USAGE: &str = "\
cargo xtask test          run everything that CI checks
cargo xtask kafka [--version V] [--nodes 1|3] [--topic NAME:PARTITIONS]...
                          start a real Kafka, 4.3.1 by default; Enter stops it
cargo xtask sim --seeds N [--from S]
                          simulate many seeds, optimised, with every assertion
cargo xtask sim --transactions --seeds N [--from S]
                          the same with transactional producers
cargo xtask sim [--trace|--shrink] SCENARIO
                          simulate one scenario: a seed, or the text that a failure prints
cargo xtask loom          check the event queue, the pool, flush and waits for a topic in every
                          interleaving of threads with at most three preemptions
cargo xtask instructions [--write]
                          count the instructions of a record and a batch (callgrind), and compare
                          them with docs/PERFORMANCE.md, or write them there
cargo xtask charts        draw the charts of docs/PERFORMANCE.md from docs/performance/results.jsonl
cargo xtask docs          write the pages that come from tables in code
cargo xtask public-api    write the list of the library's public items";

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cargo_command(args: &[&str]) -> Command {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.args(args).current_dir(workspace_root());
    c
}

fn main() -> ExitCode {
    if let Some(code) = rustc_with_cfg::run_as_rustc().or_else(public_api::run_as_rustdoc) {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("test") => checks::run_all(),
        Some("kafka") => kafka::run(&args[1..]),
        Some("sim") => run_simulation(&args[1..]),
        Some("charts") => charts::write(&workspace_root()),
        Some("docs") => write_docs(),
        Some("public-api") => write_public_api(),
        Some("loom") => checks::loom_command().and_then(|command| run_step("loom", command)),
        Some("instructions") => match args.get(1).map(String::as_str) {
            None => instruction_budget::print_and_check(),
            Some("--write") => instruction_budget::write(),
            Some(_) => Err(USAGE.to_owned()),
        },
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a step and prints how long it took.
fn run_step(name: &str, mut command: Command) -> Result<(), String> {
    let start = Instant::now();
    eprintln!("\n==== {name}");
    let status = command.status().map_err(|e| format!("{name}: {e}"))?;
    if !status.success() {
        return Err(format!("{name} failed: {command:?}"));
    }
    eprintln!("==== {name}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn run_simulation(args: &[String]) -> Result<(), String> {
    let mut command = cargo_command(&["run", "--profile", "sim", "-p", "ottla-sim", "--"]);
    command.args(args);
    run_step("simulation", command)
}

fn write_docs() -> Result<(), String> {
    // The tests that compare the pages with the tables in code write the pages.
    let mut tables =
        cargo_command(&["test", "-q", "-p", "ottla", "-p", "ottla-sim", "--lib", "in_docs"]);
    tables.env("OTTLA_WRITE_DOCS", "1");
    run_step("pages of the library and of simulations", tables)?;
    let mut screens =
        cargo_command(&["test", "-q", "-p", "ottla-cli", "--test", "doctor", "in_docs"]);
    screens.env("OTTLA_WRITE_DOCS", "1");
    run_step("docs/DOCTOR.md", screens)
}

fn write_public_api() -> Result<(), String> {
    let count = public_api::write()?;
    println!("wrote {count} public items");
    Ok(())
}
