//! Replays a scenario, shrinks it, or runs many seeds:
//! `ottla-sim [--trace|--shrink] SCENARIO`, `ottla-sim --seeds N [--from S]`.

use std::process::ExitCode;

use ottla_sim::{RunReport, Scenario, enable_trace, run_scenario, run_seed, shrink};

const USAGE: &str = "\
usage: ottla-sim SEED                 run one seed
       ottla-sim --trace SCENARIO     the same, saying everything that happens
       ottla-sim --shrink SCENARIO    make a failing scenario small
       ottla-sim --seeds N [--from S] run many
       ottla-sim --workload WHAT N       work to be counted: records, one-partition, many-partitions
a SCENARIO is a seed, or what a failure prints";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["--seeds", n] => run_seeds(n, "0"),
        ["--seeds", n, "--from", from] | ["--from", from, "--seeds", n] => run_seeds(n, from),
        ["--workload", what, rounds] => {
            let rounds = rounds.parse().map_err(|_| format!("{rounds:?} is not a number"));
            rounds.and_then(|rounds| ottla_sim::run_workload(what, rounds)).map(|()| true)
        }
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
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(2)
        }
    }
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
    match shrink(s, |step| println!("fails, too: {step}")) {
        Some((small, error)) => println!("{small:#?}\n{error}"),
        None => println!("it does not fail"),
    }
    true
}

fn run_seeds(count: &str, from: &str) -> Result<bool, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
    let (count, from) = (number(count)?, number(from)?);
    let (mut failures, mut total) = (0, RunReport::default());
    for seed in from..from + count {
        match run_seed(seed) {
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
        "{} records: {} acknowledged, {} failed; {} refused; {} connections cut",
        total.accepted, total.acknowledged, total.failed, total.rejected, total.disconnects
    );
    for (kind, n) in total.faults {
        println!("{n:>9} {kind}");
    }
    Ok(failures == 0)
}
