//! `cargo xtask counts`: how many instructions a record and a batch take, under callgrind, which counts the same
//! every time.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{cargo_command, run_step, workspace_root};

/// Rounds of the shorter run; the longer has twice as many, and the difference is what counts.
const ROUNDS: u64 = 3020;

/// What is looked into: a name for it, the functions' names as callgrind matches them, and what one is of.
const MEASUREMENTS: &[(&str, &str, &[&str], f64)] = &[
    ("append, a record", "records", &["*instructions*append*"], 1.0),
    (
        "sender, a full batch of 151",
        "records",
        &["*instructions*send_producer_data*", "*instructions*poll_and_handle*"],
        151.0,
    ),
    ("— look (ready)", "records", &["*ReadyTracker*refresh*"], 151.0),
    ("— drain", "records", &["*ReadyTracker*drain*"], 151.0),
    (
        "— request, and its write to the virtual socket",
        "records",
        &["*Sender*send_produce_request*"],
        151.0,
    ),
    (
        "— answer (verdict, completion, memory back)",
        "records",
        &["*handle_produce_response*"],
        151.0,
    ),
    ("close, a full batch", "records", &["*OpenBatch*close*"], 151.0),
    (
        "sender's loop, 1 partition",
        "one-partition",
        &["*instructions*send_producer_data*", "*instructions*poll_and_handle*"],
        1.0,
    ),
    (
        "sender's loop, 100,000 partitions of which 1 is active",
        "many-partitions",
        &["*instructions*send_producer_data*", "*instructions*poll_and_handle*"],
        1.0,
    ),
];

pub(super) fn print_table() -> Result<(), String> {
    run_step("build", cargo_command(&["build", "--release", "-p", "ottla-sim"]))?;
    let program = workspace_root().join("target/release/ottla-sim");
    println!("| what | instructions |\n|---|---:|");
    for (name, what, functions, of) in MEASUREMENTS {
        let short = count_instructions(&program, what, functions, ROUNDS)?;
        let long = count_instructions(&program, what, functions, 2 * ROUNDS)?;
        let each = (long - short) as f64 / ROUNDS as f64 * of;
        println!("| {name} | {each:.0} |");
    }
    Ok(())
}

fn count_instructions(
    program: &Path,
    what: &str,
    functions: &[&str],
    rounds: u64,
) -> Result<i64, String> {
    let mut c = Command::new("valgrind");
    c.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    c.args(functions.iter().map(|f| format!("--toggle-collect={f}")));
    c.arg(program).args(["--workload", what, &rounds.to_string()]);
    let out = c.stdout(Stdio::null()).output().map_err(|e| format!("valgrind: {e}"))?;
    let text = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        return Err(format!("{what} failed:\n{text}"));
    }
    let line = text.lines().find_map(|l| l.split_once("Collected :")).map(|l| l.1.trim());
    let number = line.and_then(|n| n.parse().ok());
    number.ok_or_else(|| format!("callgrind said nothing that can be read:\n{text}"))
}
