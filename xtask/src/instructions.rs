//! `cargo xtask instructions` counts the instructions of a record and of a batch under callgrind.
//!
//! Unlike a time, an instruction count repeats exactly. The workloads are those of
//! `ottla-sim --workload`. `instruction_budget.rs` compares the counts with the checked-in ones.

use std::path::Path;
use std::process::{Command, Stdio};

use ottla_testkit::target_dir;

use super::{cargo_command, run_step, workspace_root};

/// Rounds of the shorter run of most workloads.
const ROUNDS: u64 = 3020;
/// Records of 100 bytes in a batch of 16 KiB.
const RECORDS_PER_BATCH: f64 = 151.0;

/// One row of the table.
struct Measurement {
    name: &'static str,
    /// The workload of `ottla-sim`.
    workload: &'static str,
    /// The functions whose instructions count, as callgrind's patterns.
    functions: &'static [&'static str],
    /// Rounds that make one unit of the row.
    rounds_per_unit: f64,
    /// Rounds of the shorter run. The longer run has twice as many; the difference of the two
    /// excludes start-up.
    rounds: u64,
}

/// Returns the row of the first sends to this number of topics, after as many others.
const fn first_send(name: &'static str, rounds: u64) -> Measurement {
    let (workload, functions) = ("new-topics", ROUND);
    Measurement { name, workload, functions, rounds_per_unit: 1.0, rounds }
}

const ROUND: &[&str] = &["*instructions*send_producer_data*", "*instructions*poll_and_handle*"];

const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "append, a record",
        workload: "records",
        functions: &["*instructions*append*"],
        rounds_per_unit: 1.0,
        rounds: ROUNDS,
    },
    Measurement {
        name: "sender, a full batch of 151 records",
        workload: "records",
        functions: ROUND,
        rounds_per_unit: RECORDS_PER_BATCH,
        rounds: ROUNDS,
    },
    Measurement {
        name: "— ready",
        workload: "records",
        functions: &["*ReadyTracker*refresh*"],
        rounds_per_unit: RECORDS_PER_BATCH,
        rounds: ROUNDS,
    },
    Measurement {
        name: "— drain",
        workload: "records",
        functions: &["*ReadyTracker*drain*"],
        rounds_per_unit: RECORDS_PER_BATCH,
        rounds: ROUNDS,
    },
    Measurement {
        name: "— request, and its write to the simulated socket",
        workload: "records",
        functions: &["*Sender*send_produce_request*"],
        rounds_per_unit: RECORDS_PER_BATCH,
        rounds: ROUNDS,
    },
    Measurement {
        name: "— response (verdict, completion, memory returned)",
        workload: "records",
        functions: &["*handle_produce_response*", "*complete_acknowledged_batches*"],
        rounds_per_unit: RECORDS_PER_BATCH,
        rounds: ROUNDS,
    },
    Measurement {
        name: "close, a full batch",
        workload: "records",
        functions: &["*OpenBatch*close*"],
        rounds_per_unit: RECORDS_PER_BATCH,
        rounds: ROUNDS,
    },
    Measurement {
        name: "append, a record in a transaction",
        workload: "transaction",
        rounds: ROUNDS,
        functions: &["*instructions*append*"],
        rounds_per_unit: 1.0,
    },
    Measurement {
        name: "sender, a full batch of 151 records in a transaction",
        workload: "transaction",
        rounds: ROUNDS,
        functions: ROUND,
        rounds_per_unit: RECORDS_PER_BATCH,
    },
    Measurement {
        name: "sender's round, 1 partition",
        workload: "one-partition",
        functions: ROUND,
        rounds_per_unit: 1.0,
        rounds: ROUNDS,
    },
    Measurement {
        name: "sender's round, 1 active partition of 100,000",
        workload: "many-partitions",
        functions: ROUND,
        rounds_per_unit: 1.0,
        rounds: ROUNDS,
    },
    first_send("first send to a topic, the second half of 1,000", 500),
    first_send("— of 2,000", 1000),
    first_send("— of 4,000", 2000),
    first_send("— of 10,000", 5000),
];

/// A row's name and its instructions.
pub(super) type Row = (String, i64);

/// Builds the workloads and counts the instructions of each row.
pub(super) fn measure() -> Result<Vec<Row>, String> {
    run_step("build", cargo_command(&["build", "--release", "-p", "ottla-sim"]))?;
    // `cargo` builds there, too.
    let program = workspace_root().join(target_dir()).join("release/ottla-sim");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // A count does not depend on what else runs, so every core counts.
    let counts = std::thread::scope(|scope| {
        let count_some = |thread| {
            let mine = MEASUREMENTS.iter().enumerate().skip(thread).step_by(threads);
            mine.map(|(row, m)| Ok((row, count_row(&program, m)?))).collect::<Result<Vec<_>, _>>()
        };
        let started: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || count_some(thread))).collect();
        started.into_iter().map(|t| t.join().expect("no count panics")).collect::<Vec<_>>()
    });
    let mut counts = counts.into_iter().collect::<Result<Vec<_>, String>>()?.concat();
    counts.sort_unstable();
    Ok(counts.into_iter().map(|(row, count)| (MEASUREMENTS[row].name.to_owned(), count)).collect())
}

fn count_row(program: &Path, m: &Measurement) -> Result<i64, String> {
    let short = count_instructions(program, m, m.rounds)?;
    let long = count_instructions(program, m, 2 * m.rounds)?;
    Ok(((long - short) as f64 / m.rounds as f64 * m.rounds_per_unit).round() as i64)
}

fn count_instructions(program: &Path, m: &Measurement, rounds: u64) -> Result<i64, String> {
    let mut c = Command::new("valgrind");
    c.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    c.args(m.functions.iter().map(|f| format!("--toggle-collect={f}")));
    c.arg(program).args(["--workload", m.workload, &rounds.to_string()]);
    let out = c.stdout(Stdio::null()).output().map_err(|e| format!("valgrind: {e}"))?;
    let text = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        return Err(format!("workload {} failed:\n{text}", m.workload));
    }
    let line = text.lines().find_map(|l| l.split_once("Collected :")).map(|l| l.1.trim());
    let count = line.and_then(|n| n.parse().ok());
    count.ok_or_else(|| format!("callgrind's output has no instruction count:\n{text}"))
}
