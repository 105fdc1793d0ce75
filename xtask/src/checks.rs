//! Runs everything that CI checks, and counts the tests.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use ottla_testkit::{Jars, Kfake};

use super::public_api::{self, Check};
use super::{cargo_command, run_step, workspace_root};

/// Every feature of the library but `tls-aws-lc-rs`, whose C library takes longer to build than
/// all the rest.
const ALL_FEATURES: &str =
    "ottla/lz4-hc,ottla/zstd-c,ottla/tls-graviola,ottla/tls-ring,ottla/oidc,ottla/unstable-sim";

/// The results of a test run, summed over its binaries.
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
            let Some((n, outcome)) = part.split_once(' ') else {
                continue;
            };
            let Ok(n) = n.parse::<u64>() else { continue };
            match outcome {
                "passed" => self.passed += n,
                "failed" => self.failed += n,
                "ignored" => self.skipped += n,
                _ => {}
            }
        }
    }
}

/// Runs every check. Prints the counts of all tests as the last line.
pub(super) fn run_all() -> Result<(), String> {
    let start = Instant::now();
    // Before the slow steps: it reports a missing JDK, and fails if CI lacks one.
    let jars = Jars::find_or_fetch();
    let mut counts = TestCounts::default();
    let result = run_steps(&mut counts);
    let mut skipped = String::new();
    if jars.is_none() {
        skipped += "; the real-Kafka tests were SKIPPED (no JDK or no Maven)";
    }
    if !Kfake::can_start() {
        skipped += "; the kfake tests were SKIPPED (no Go)";
    }
    println!("\nall checks: {:.0} s{skipped}", start.elapsed().as_secs_f64());
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    result
}

fn run_steps(counts: &mut TestCounts) -> Result<(), String> {
    for (name, command) in static_checks() {
        run_step(name, command)?;
    }
    check_no_c_compiler()?;
    check_lowest_rust(counts)?;
    check_public_api(counts)?;
    for (name, command) in test_runs() {
        if let Err(e) = run_tests(name, command, counts) {
            counts.failed = counts.failed.max(1);
            return Err(e);
        }
    }
    Ok(())
}

/// Returns the checks that run no test: format, lints, feature combinations, documents.
fn static_checks() -> Vec<(&'static str, Command)> {
    const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];
    let clippy = |args: &[&str]| cargo_command(&[&["clippy"], args, &DENY_WARNINGS].concat());
    let check_ottla = |args: &[&str]| cargo_command(&[&["check", "-p", "ottla"], args].concat());
    let mut docs = cargo_command(&["doc", "--workspace", "--no-deps"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    vec![
        ("format", cargo_command(&["fmt", "--all", "--", "--check"])),
        ("clippy", clippy(&["--workspace", "--all-targets"])),
        (
            "clippy, every feature",
            clippy(&["-p", "ottla", "-p", "ottla-protocol", "--features", ALL_FEATURES]),
        ),
        ("ottla with default features", check_ottla(&[])),
        ("ottla with no features", check_ottla(&["--no-default-features"])),
        ("ottla with tls and no provider", check_ottla(&["--features", "tls"])),
        ("docs", docs),
    ]
}

fn test_runs() -> Vec<(&'static str, Command)> {
    let levels = ["test", "-p", "ottla-protocol", "--features", "lz4-hc,zstd-c", "compression"];
    vec![
        ("loom", loom_command()),
        ("injected bugs", injected_bugs_command()),
        ("lz4 and zstd at every level", cargo_command(&levels)),
        ("tests", cargo_command(&["test", "--workspace"])),
    ]
}

/// Runs tests, passes their output on, and adds their results to `counts`.
fn run_tests(name: &str, mut command: Command, counts: &mut TestCounts) -> Result<(), String> {
    let start = Instant::now();
    eprintln!("\n==== {name}");
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("{name}: {e}"))?;
    let mut out = std::io::stdout();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            counts.add(&line);
            let _ = writeln!(out, "{line}");
        }
    }
    let status = child.wait().map_err(|e| format!("{name}: {e}"))?;
    eprintln!("==== {name}: {:.0} s", start.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(format!("{name} failed")) }
}

/// Fails if a dependency of the command needs a C compiler in the default build.
fn check_no_c_compiler() -> Result<(), String> {
    let mut tree =
        cargo_command(&["tree", "-p", "ottla-cli", "-e", "normal,build", "--prefix", "none"]);
    let out = tree.output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() || !text.contains("ottla-cli ") {
        return Err(format!("cargo tree: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let builds_c =
        |line: &&str| ["cc ", "cmake ", "bindgen "].iter().any(|name| line.starts_with(name));
    match text.lines().find(builds_c) {
        Some(line) => Err(format!("the command's default build needs a C compiler, by {line}")),
        None => Ok(()),
    }
}

/// Builds what users build with the `rust-version` of the workspace, if rustup has that toolchain.
/// The tests need a newer one: a checker of spelling and the reader of rustdoc's JSON set it.
fn check_lowest_rust(counts: &mut TestCounts) -> Result<(), String> {
    let version = env!("CARGO_PKG_RUST_VERSION");
    // A toolchain is called by the name with which it was installed.
    let names = [version.to_owned(), format!("{version}.0")];
    let has_toolchain = |name: &&String| {
        let rustc = Command::new("rustup").args(["run", name, "rustc", "--version"]).output();
        rustc.is_ok_and(|out| out.status.success())
    };
    let Some(name) = names.iter().find(has_toolchain) else {
        eprintln!("Rust {version}: SKIPPED: `rustup toolchain install {version}` installs it");
        counts.skipped += 1;
        return Ok(());
    };
    let mut command = Command::new("rustup");
    command.args(["run", name, "cargo", "check", "--target-dir", "target/lowest_rust"]);
    command.args(["-p", "ottla", "-p", "ottla-broker", "-p", "ottla-cli"]);
    command.current_dir(workspace_root());
    run_step(&format!("Rust {version}"), command)?;
    counts.passed += 1;
    Ok(())
}

/// Compares the library's public items with the checked-in list, as one test.
fn check_public_api(counts: &mut TestCounts) -> Result<(), String> {
    let start = Instant::now();
    eprintln!("\n==== public API");
    match public_api::check() {
        Ok(Check::Passed) => counts.passed += 1,
        Ok(Check::Skipped(reason)) => {
            eprintln!("public API: SKIPPED: {reason}");
            counts.skipped += 1;
        }
        Err(e) => {
            counts.failed += 1;
            return Err(e);
        }
    }
    eprintln!("==== public API: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Simulates with one injected bug after the other; each must be found.
fn injected_bugs_command() -> Command {
    let mut command = cargo_command(&[
        "test",
        "-p",
        "ottla-sim",
        "--target-dir",
        "target/injected_bugs",
        "injected_bugs",
        "--",
        "--nocapture",
    ]);
    command.env("RUSTFLAGS", "--cfg ottla_injected_bugs");
    command
}

/// Checks the event queue, the pool, flush and waits for a topic in every interleaving with at most
/// three preemptions.
pub(super) fn loom_command() -> Command {
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
