//! `cargo xtask test`: everything CI checks, one command. Also `kafka` (a real Kafka to try things on), `sim`
//! (many seeds) and `docs` (pages that are written from code).
#![allow(clippy::disallowed_methods)]

mod instructions;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use ottla_testkit::{Jars, Kafka};

const USAGE: &str = "\
cargo xtask test               everything CI checks
cargo xtask kafka              a real Kafka 4.3.1, until Enter
cargo xtask sim --seeds N [--from S]   simulate many seeds, optimised, with every assertion
cargo xtask sim [--trace|--shrink] SCENARIO   one of them: a seed, or what a failure prints
cargo xtask loom               the mailbox and the pool, every order of threads (loom)
cargo xtask instructions       instructions a record and a batch, under callgrind
cargo xtask docs               write the pages that come from tables in code";

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cargo_command(args: &[&str]) -> Command {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.args(args).current_dir(workspace_root());
    c
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("test") => run_all_checks(),
        Some("kafka") => run_kafka(),
        Some("sim") => run_simulation(&args[1..]),
        Some("docs") => write_docs(),
        Some("loom") => run_step("loom", loom_command()),
        Some("instructions") => instructions::print_table(),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a step; how long it took.
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

/// Counts of a test run, summed over its binaries.
#[derive(Default)]
struct TestCounts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl TestCounts {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        for part in rest.split(['.', ';']).map(str::trim) {
            let Some((n, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(n) = n.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += n,
                "failed" => self.failed += n,
                "ignored" => self.skipped += n,
                _ => {}
            }
        }
    }
}

/// Runs tests, shows what they print, counts.
fn run_tests(name: &str, mut command: Command, tally: &mut TestCounts) -> Result<(), String> {
    let start = Instant::now();
    eprintln!("\n==== {name}");
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("{name}: {e}"))?;
    let mut out = std::io::stdout();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            tally.add(&line);
            let _ = writeln!(out, "{line}");
        }
    }
    let status = child.wait().map_err(|e| format!("{name}: {e}"))?;
    eprintln!("==== {name}: {:.0} s", start.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(format!("{name} failed")) }
}

fn run_all_checks() -> Result<(), String> {
    let start = Instant::now();
    // Said before anything takes its time, and a failure at once where CI must have it.
    let jars = Jars::find_or_fetch();
    let ran = run_check_steps();
    let skipped = if jars.is_none() {
        "; the real-Kafka tests were SKIPPED (no JDK or no Maven)"
    } else {
        ""
    };
    let (tally, result) = match ran {
        Ok(tally) => (tally, Ok(())),
        Err((tally, e)) => (tally, Err(e)),
    };
    println!("\nall checks: {:.0} s{skipped}", start.elapsed().as_secs_f64());
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    result
}

fn run_check_steps() -> Result<TestCounts, (TestCounts, String)> {
    let mut tally = TestCounts::default();
    let lint = ["--", "-D", "warnings"];
    let steps: [(&str, Command); 7] = [
        ("format", cargo_command(&["fmt", "--all", "--", "--check"])),
        (
            "clippy",
            cargo_command(&[&["clippy", "--workspace", "--all-targets"], &lint[..]].concat()),
        ),
        (
            "clippy, every feature",
            cargo_command(
                &[
                    &["clippy", "-p", "ottla", "-p", "ottla-protocol", "--features", ALL_FEATURES],
                    &lint[..],
                ]
                .concat(),
            ),
        ),
        ("ottla with default features", cargo_command(&["check", "-p", "ottla"])),
        (
            "ottla with no features",
            cargo_command(&["check", "-p", "ottla", "--no-default-features"]),
        ),
        (
            "ottla with tls and no provider",
            cargo_command(&["check", "-p", "ottla", "--features", "tls"]),
        ),
        ("docs", {
            let mut c = cargo_command(&["doc", "--workspace", "--no-deps"]);
            c.env("RUSTDOCFLAGS", "-D warnings");
            c
        }),
    ];
    for (name, command) in steps {
        if let Err(e) = run_step(name, command) {
            return Err((tally, e));
        }
    }
    if let Err(e) = check_no_c_compiler() {
        return Err((tally, e));
    }
    let mut injected = cargo_command(&[
        "test",
        "-p",
        "ottla-sim",
        "--target-dir",
        "target/injected_bugs",
        "injected_bugs",
        "--",
        "--nocapture",
    ]);
    injected.env("RUSTFLAGS", "--cfg ottla_injected_bugs");
    let levels = ["test", "-p", "ottla-protocol", "--features", "lz4-hc,zstd-c", "compression"];
    let levels = cargo_command(&levels);
    let all = cargo_command(&["test", "--workspace"]);
    for (name, command) in [
        ("loom", loom_command()),
        ("injected bugs", injected),
        ("lz4 and zstd at every level", levels),
        ("tests", all),
    ] {
        if let Err(e) = run_tests(name, command, &mut tally) {
            tally.failed = tally.failed.max(1);
            return Err((tally, e));
        }
    }
    Ok(tally)
}

/// Every feature of the library but one provider, whose C library takes longer to build than all the rest.
const ALL_FEATURES: &str =
    "ottla/lz4-hc,ottla/zstd-c,ottla/tls-graviola,ottla/tls-ring,ottla/oidc,ottla/unstable-sim";

/// The command is built without a C compiler: nothing that it is made of asks for one.
fn check_no_c_compiler() -> Result<(), String> {
    let mut tree =
        cargo_command(&["tree", "-p", "ottla-cli", "-e", "normal,build", "--prefix", "none"]);
    let out = tree.output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() || !text.contains("ottla-cli ") {
        return Err(format!("cargo tree: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let c =
        |line: &&str| ["cc ", "cmake ", "bindgen "].iter().any(|crate_| line.starts_with(crate_));
    match text.lines().find(c) {
        Some(line) => Err(format!("the command's default build needs a C compiler, by {line}")),
        None => Ok(()),
    }
}

/// The mailbox and the pool in every order in which a few threads may go.
fn loom_command() -> Command {
    let mut command = cargo_command(&[
        "test",
        "-p",
        "ottla",
        "--no-default-features",
        "--lib",
        "--target-dir",
        "target/loom",
        "loom_tests",
    ]);
    command.env("RUSTFLAGS", "--cfg ottla_loom");
    command
}

fn run_kafka() -> Result<(), String> {
    let jars = Jars::find_or_fetch().ok_or("no JDK or no Maven")?;
    let kafka = Kafka::start(&jars, "");
    println!("{}", kafka.bootstrap);
    eprintln!(
        "Kafka 4.3.1, process {}, files in {}; Enter ends it",
        kafka.pid(),
        kafka.dir.display()
    );
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| e.to_string())?;
    Ok(())
}

fn run_simulation(args: &[String]) -> Result<(), String> {
    let mut command = cargo_command(&["run", "--profile", "sim", "-p", "ottla-sim", "--"]);
    command.args(args);
    run_step("simulation", command)
}

fn write_docs() -> Result<(), String> {
    let path = workspace_root().join("docs/CONFIGURATION.md");
    std::fs::write(&path, ottla::configuration_markdown())
        .map_err(|e| format!("{}: {e}", path.display()))?;
    println!("wrote {}", path.display());
    // The tables of verdicts and of demands are written by the tests that hold them against their pages.
    let mut tables =
        cargo_command(&["test", "-q", "-p", "ottla", "-p", "ottla-sim", "--lib", "in_docs"]);
    tables.env("OTTLA_WRITE_DOCS", "1");
    run_step("docs/VERDICTS.md, docs/SIMULATION.md", tables)
}
