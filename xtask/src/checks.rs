//! Runs everything that CI checks, and counts the tests.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use ottla_testkit::{Jars, SKIPPED_TESTS_FILE, is_ci};

use super::test_counts::TestCounts;
use super::{cargo_command, instruction_budget, run_step, workspace_root};
use super::{public_api, rustc_with_cfg, workspace_tests};

/// Every feature of the library but `tls-aws-lc-rs`, whose C library takes longer to build than
/// all the rest.
const ALL_FEATURES: &str = concat!(
    "ottla/lz4-hc,ottla/zstd-c,ottla/tls-graviola,ottla/tls-ring,ottla/oidc,",
    "ottla/prometheus,ottla/metrics,ottla/opentelemetry,ottla/unstable-sim"
);

/// The outcome of a check that did not fail.
pub(super) enum Check {
    Passed,
    /// The check cannot run on this machine. The text says why.
    Skipped(String),
}

/// Runs every check. Prints the skipped tests, and the counts of all tests as the last line.
pub(super) fn run_all() -> Result<(), String> {
    let start = Instant::now();
    // Before the slow steps: it fetches the jars, or reports a missing JDK. That fails in CI.
    if let Err(missing) = Jars::try_find_or_fetch() {
        if is_ci() {
            return Err(missing);
        }
        eprintln!("\n==== the tests against a real Kafka will be SKIPPED: {missing} ====");
    }
    let mut counts = TestCounts::new(&workspace_root().join("target"))?;
    let mut result = run_steps(&mut counts);
    if let Err(e) = counts.add_skipped_tests() {
        result = result.and(Err(e));
    }
    println!("\nall checks: {:.0} s", start.elapsed().as_secs_f64());
    println!("{counts}");
    result
}

fn run_steps(counts: &mut TestCounts) -> Result<(), String> {
    for (name, command) in static_checks() {
        run_step(name, command)?;
    }
    check_no_c_compiler()?;
    check_lowest_rust(counts)?;
    run_check("public API", counts, public_api::check)?;
    for (name, command) in test_runs()? {
        if let Err(e) = run_tests(name, command, counts, std::io::stdout()) {
            counts.failed = counts.failed.max(1);
            return Err(e);
        }
    }
    if let Err(e) = workspace_tests::run(counts) {
        counts.failed = counts.failed.max(1);
        return Err(e);
    }
    // Last, because it builds the release profile.
    run_check("instructions", counts, instruction_budget::check)
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

fn test_runs() -> Result<Vec<(&'static str, Command)>, String> {
    let levels = ["test", "-p", "ottla-protocol", "--features", "lz4-hc,zstd-c", "compression"];
    Ok(vec![
        ("loom", loom_command()?),
        ("injected bugs", injected_bugs_command()?),
        ("lz4 and zstd at every level", cargo_command(&levels)),
    ])
}

/// Runs tests, copies their output to `out`, and adds their results to `counts`.
pub(super) fn run_tests(
    name: &str,
    mut command: Command,
    counts: &mut TestCounts,
    mut out: impl Write,
) -> Result<(), String> {
    let start = Instant::now();
    eprintln!("\n==== {name}");
    command.env(SKIPPED_TESTS_FILE, counts.skipped_file()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            counts.add_result(&line);
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
        let missing = format!("`rustup toolchain install {version}` installs the toolchain");
        counts.skip_check(&format!("build with Rust {version}"), missing);
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

/// Runs a check that counts as one test.
fn run_check(
    name: &str,
    counts: &mut TestCounts,
    check: impl FnOnce() -> Result<Check, String>,
) -> Result<(), String> {
    let start = Instant::now();
    eprintln!("\n==== {name}");
    match check() {
        Ok(Check::Passed) => counts.passed += 1,
        Ok(Check::Skipped(reason)) => counts.skip_check(name, reason),
        Err(e) => {
            counts.failed += 1;
            return Err(e);
        }
    }
    eprintln!("==== {name}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Simulates with one injected bug after the other; each must be found.
fn injected_bugs_command() -> Result<Command, String> {
    let mut command = cargo_command(&["test", "-p", "ottla-sim", "--lib", "--bins"]);
    command.args(["injected_bugs", "--", "--nocapture"]);
    rustc_with_cfg::add_cfg(&mut command, "ottla_injected_bugs")?;
    Ok(command)
}

/// Checks the event queue, the pool, flush and waits for a topic in every interleaving with at most
/// three preemptions.
pub(super) fn loom_command() -> Result<Command, String> {
    let mut command = cargo_command(&["test", "-p", "ottla", "--no-default-features", "--lib"]);
    command.arg("loom_tests");
    rustc_with_cfg::add_cfg(&mut command, "ottla_loom")?;
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test that cannot run adds a line to the file whose path it gets from here.
    #[cfg(unix)]
    #[test]
    fn test_that_could_not_run_counts_as_skipped_and_not_as_passed() {
        const SCRIPT: &str = r#"
            printf 'versions::all\tno JDK\nversions::all\tno JDK\nkfake::all\tno Go\n' \
                >> "$TEST_SKIPPED_FILE"
            echo 'test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out'
            echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'
        "#;
        let mut counts = TestCounts::new(&std::env::temp_dir()).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]);
        // Not to stdout: there another xtask would count these results.
        let mut output = Vec::new();
        run_tests("script", command, &mut counts, &mut output).unwrap();
        assert_eq!(String::from_utf8(output).unwrap().lines().count(), 2);
        counts.skip_check("public API", "another toolchain".to_owned());
        counts.add_skipped_tests().unwrap();
        assert!(!counts.skipped_file().exists());
        let text = counts.to_string();
        assert!(text.ends_with("\n5 passed, 0 failed, 4 skipped"), "{text}");
        for part in ["4 SKIPPED:", "no JDK\n    versions::all\n", "no Go\n    kfake::all\n"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert_eq!(text.matches("versions::all").count(), 1, "{text}");
        // Once counted, a test is not counted again.
        counts.add_skipped_tests().unwrap();
        assert_eq!(counts.to_string(), text);
    }
}
