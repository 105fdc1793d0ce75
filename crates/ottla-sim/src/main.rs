//! Replays a scenario, shrinks it, or runs many seeds:
//! `ottla-sim [--trace|--shrink] SCENARIO`, `ottla-sim --seeds N [--from S]`.

use std::process::ExitCode;

use ottla_sim::{Report, Scenario, run, run_scenario, say_everything, shrink};

const USAGE: &str = "\
usage: ottla-sim SEED                 run one seed
       ottla-sim --trace SCENARIO     the same, saying everything that happens
       ottla-sim --shrink SCENARIO    make a failing scenario small
       ottla-sim --seeds N [--from S] run many
       ottla-sim --count WHAT N       work to be counted: records, one-partition, many-partitions
a SCENARIO is a seed, or what a failure prints";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["--seeds", n] => many(n, "0"),
        ["--seeds", n, "--from", from] | ["--from", from, "--seeds", n] => many(n, from),
        ["--count", what, rounds] => {
            let rounds = rounds.parse().map_err(|_| format!("{rounds:?} is not a number"));
            rounds.and_then(|rounds| ottla_sim::count(what, rounds)).map(|()| true)
        }
        ["--shrink", scenario] => Scenario::parse(scenario).map(|s| smaller(&s)),
        ["--trace", scenario] => {
            say_everything();
            Scenario::parse(scenario).map(|s| one(&s))
        }
        [scenario] if !scenario.starts_with('-') => Scenario::parse(scenario).map(|s| one(&s)),
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

fn one(s: &Scenario) -> bool {
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

fn smaller(s: &Scenario) -> bool {
    match shrink(s, |step| println!("fails, too: {step}")) {
        Some((small, error)) => println!("{small:#?}\n{error}"),
        None => println!("it does not fail"),
    }
    true
}

fn many(count: &str, from: &str) -> Result<bool, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
    let (count, from) = (number(count)?, number(from)?);
    let (mut failures, mut total) = (0, Report::default());
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
        "{} records: {} acknowledged, {} failed; {} refused; {} connections cut",
        total.accepted, total.acknowledged, total.failed, total.refused, total.losses
    );
    for (kind, n) in total.faults {
        println!("{n:>9} {kind}");
    }
    Ok(failures == 0)
}
