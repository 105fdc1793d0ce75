//! The command `ottla-sim`: replays a scenario, shrinks it, or runs many seeds.

use std::process::ExitCode;

use ottla_sim::{
    RunReport, Scenario, enable_trace, run_scenario, run_seed, run_transaction_seed, shrink,
};

const USAGE: &str = "\
usage: ottla-sim SCENARIO                 run one scenario
       ottla-sim --trace SCENARIO         the same, and print every event
       ottla-sim --shrink SCENARIO        make a failing scenario smaller
       ottla-sim --seeds N [--from S]     run N seeds, from seed S (default 0)
       ottla-sim --transactions --seeds N [--from S]
                                          run N seeds with transactional producers
       ottla-sim --workload NAME ROUNDS   run a workload for callgrind:
                                          records, transaction, one-partition,
                                          many-partitions or new-topics
A SCENARIO is a seed, or the text that a failure prints. A seed with transactional producers begins
with t, as in t1234.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    #[cfg(ottla_injected_bugs)]
    let args = take_injected_bug(args);
    let passed = match args.as_slice() {
        ["--transactions", rest @ ..] => match parse_seeds(rest) {
            Some((n, from)) => run_seeds(n, from, run_transaction_seed),
            None => Err(USAGE.to_owned()),
        },
        ["--seeds" | "--from", ..] => match parse_seeds(&args) {
            Some((n, from)) => run_seeds(n, from, run_seed),
            None => Err(USAGE.to_owned()),
        },
        ["--workload", name, rounds] => parse_number(rounds)
            .and_then(|rounds| ottla_sim::run_workload(name, rounds))
            .map(|()| true),
        ["--shrink", scenario] => Scenario::parse(scenario).map(|s| shrink_and_print(&s)),
        ["--trace", scenario] => {
            enable_trace();
            Scenario::parse(scenario).map(|s| run_and_print(&s))
        }
        [scenario] if !scenario.starts_with('-') => {
            Scenario::parse(scenario).map(|s| run_and_print(&s))
        }
        _ => Err(USAGE.to_owned()),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(2)
        }
    }
}

/// Switches the bug on that `--bug NAME` names, in a build with `--cfg ottla_injected_bugs`.
/// Returns the other arguments.
#[cfg(ottla_injected_bugs)]
fn take_injected_bug(args: Vec<&str>) -> Vec<&str> {
    let ["--bug", name, rest @ ..] = args.as_slice() else { return args };
    let bug = ottla::sim::INJECTED_BUGS.iter().find(|b| format!("{b:?}") == *name);
    assert!(bug.is_some(), "unknown bug: {name}");
    ottla::sim::inject(bug.copied());
    rest.to_vec()
}

/// Returns the number of seeds and the first one.
fn parse_seeds<'a>(args: &[&'a str]) -> Option<(&'a str, &'a str)> {
    match args {
        ["--seeds", n] => Some((n, "0")),
        ["--seeds", n, "--from", from] | ["--from", from, "--seeds", n] => Some((n, from)),
        _ => None,
    }
}

fn parse_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("invalid number: {text:?}"))
}

fn run_and_print(s: &Scenario) -> bool {
    println!("{s:#?}");
    match run_scenario(s) {
        Ok(report) => println!("{report:#?}"),
        Err(e) => {
            println!("{e}");
            return false;
        }
    }
    true
}

fn shrink_and_print(s: &Scenario) -> bool {
    match shrink(s, |smaller| println!("this fails too: {smaller}")) {
        Some((small, error)) => println!("{small:#?}\n{error}"),
        None => println!("nothing to shrink: the scenario does not fail"),
    }
    true
}

fn run_seeds(
    count: &str,
    from: &str,
    run: fn(u64) -> Result<RunReport, String>,
) -> Result<bool, String> {
    let (count, from) = (parse_number(count)?, parse_number(from)?);
    let (mut failures, mut total) = (0, RunReport::default());
    for seed in from..from + count {
        match run(seed) {
            Ok(report) => total.add(report),
            Err(e) => {
                failures += 1;
                println!("{e}\n");
            }
        }
    }
    let hours = total.virtual_ms as f64 / 3_600_000.0;
    println!("{count} seeds from {from}: {failures} failures, {hours:.1} virtual hours");
    println!(
        "{} records accepted: {} acknowledged, {} failed; {} rejected by send; {} disconnects",
        total.accepted, total.acknowledged, total.failed, total.rejected, total.disconnects
    );
    if total.committed > 0 {
        println!(
            "{} transactions committed, {} not committed, {} undecided; {} calls fenced",
            total.committed, total.aborted, total.undecided, total.fenced
        );
    }
    for (fault, n) in total.faults {
        println!("{n:>9} {fault}");
    }
    Ok(failures == 0)
}
