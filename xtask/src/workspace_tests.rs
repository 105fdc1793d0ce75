//! Runs the tests of the workspace, two test programs at a time.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use ottla_testkit::SKIPPED_TESTS_FILE;

use super::checks::run_tests;
use super::test_counts::TestCounts;
use super::{cargo_command, run_step};

/// Test programs with one long test each: it waits for real Kafka nodes most of the time, and uses
/// one of two cores at most. They run one after the other, beside all other programs.
const LONG_TESTS: &[&str] = &[
    "chaos",
    "client_telemetry",
    "cluster_check",
    "quota",
    "transaction_upgrade",
    "transactions",
    "vanished_name",
    "versions",
];

/// Builds and runs all tests.
pub(super) fn run(counts: &mut TestCounts) -> Result<(), String> {
    run_step("build of the tests", cargo_command(&["test", "--workspace", "--no-run"]))?;
    let names = test_program_names()?;
    if let Some(name) = LONG_TESTS.iter().find(|name| !names.contains(**name)) {
        return Err(format!("no package has a test program {name}: remove it from LONG_TESTS"));
    }
    let (long, others): (Vec<&str>, Vec<&str>) =
        names.iter().map(String::as_str).partition(|name| LONG_TESTS.contains(name));
    let mut long_command = test_command(&[], &long);
    long_command.env(SKIPPED_TESTS_FILE, counts.skipped_file());
    let others_command = test_command(&["--lib", "--bins"], &others);
    let doc_command = cargo_command(&["test", "--workspace", "--doc"]);
    let (result, long_run) = std::thread::scope(|scope| {
        let long_run = scope.spawn(|| output_of(long_command));
        let mut run = |name, command| run_tests(name, command, counts, std::io::stdout());
        let results = [run("tests", others_command), run("tests in documents", doc_command)];
        (results.into_iter().collect::<Result<(), String>>(), long_run.join())
    });
    let (output, long_result) =
        long_run.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    eprintln!("\n==== long tests, which ran at the same time");
    for line in output.lines() {
        counts.add_result(line);
        println!("{line}");
    }
    result.and(long_result)
}

/// Returns the names of the integration tests of all packages.
fn test_program_names() -> Result<BTreeSet<String>, String> {
    let out = cargo_command(&["metadata", "--no-deps", "--format-version", "1"]).output();
    let out = out.map_err(|e| format!("cargo metadata: {e}"))?;
    if !out.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&out.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.filter_map(|package| package["targets"].as_array()).flatten();
    let tests = targets.filter(|target| target["kind"][0] == "test");
    Ok(tests.filter_map(|test| test["name"].as_str()).map(str::to_owned).collect())
}

/// Returns the command that runs the tests of these targets and test programs. It selects every
/// package, so that the features, and with them the programs, are those that were built. A program
/// that fails does not keep the rest from running: one run of CI shows every failure.
fn test_command(targets: &[&str], programs: &[&str]) -> Command {
    let mut command = cargo_command(&["test", "--workspace", "--no-fail-fast"]);
    command.args(targets);
    for program in programs {
        command.args(["--test", program]);
    }
    command
}

/// Runs a command. Returns what it printed, and an error if it failed.
fn output_of(mut command: Command) -> Result<(String, Result<(), String>), String> {
    let start = Instant::now();
    let in_long_tests = |e: std::io::Error| format!("long tests: {e}");
    // Both streams are one pipe, so that the lines keep their order.
    let (mut reader, writer) = std::io::pipe().map_err(in_long_tests)?;
    command.stdin(Stdio::null());
    command.stdout(writer.try_clone().map_err(in_long_tests)?).stderr(writer);
    let mut child = command.spawn().map_err(in_long_tests)?;
    // The command holds the other end of the pipe, which would never end.
    drop(command);
    let mut output = Vec::new();
    reader.read_to_end(&mut output).map_err(in_long_tests)?;
    let status = child.wait().map_err(in_long_tests)?;
    let mut output = String::from_utf8_lossy(&output).into_owned();
    output += &format!("==== long tests: {:.0} s\n", start.elapsed().as_secs_f64());
    let result = if status.success() { Ok(()) } else { Err("long tests failed".to_owned()) };
    Ok((output, result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_program_runs_once() {
        let names = test_program_names().unwrap();
        assert!(LONG_TESTS.iter().all(|name| names.contains(*name)), "{names:?}");
        assert!(names.contains("language"), "{names:?}");
        let command = test_command(&["--lib"], &["chaos", "quota"]);
        let args: Vec<_> = command.get_args().skip(2).collect();
        assert_eq!(args, ["--no-fail-fast", "--lib", "--test", "chaos", "--test", "quota"]);
    }

    #[cfg(unix)]
    #[test]
    fn output_of_a_failing_command_is_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 1"]);
        let (output, result) = output_of(command).unwrap();
        assert!(output.starts_with("one\ntwo\n==== long tests: "), "{output}");
        assert!(result.is_err());
    }
}
