//! Replays a seed, or runs many: `ottla-sim SEED`, `ottla-sim --seeds N [--from S]`.

use std::process::ExitCode;

fn number(args: &[String], name: &str) -> Option<u64> {
    let at = args.iter().position(|a| a == name)?;
    args.get(at + 1)?.parse().ok()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (from, count) =
        match (args.first().and_then(|a| a.parse::<u64>().ok()), number(&args, "--seeds")) {
            (Some(seed), _) => (seed, 1),
            (None, Some(count)) => (number(&args, "--from").unwrap_or(0), count),
            (None, None) => {
                eprintln!("usage: ottla-sim SEED | ottla-sim --seeds N [--from S]");
                return ExitCode::from(2);
            }
        };
    let mut failures = 0;
    let (mut records, mut losses, mut virtual_ms) = (0, 0, 0);
    for seed in from..from + count {
        match ottla_sim::run(seed) {
            Ok(report) if count == 1 => println!("{report:?}"),
            Ok(report) => {
                records += report.accepted;
                losses += report.losses;
                virtual_ms += report.virtual_ms;
            }
            Err(e) => {
                failures += 1;
                println!("{e}\n");
            }
        }
    }
    println!(
        "{count} seeds, {failures} failures, {records} records, {losses} connections lost, {} virtual minutes",
        virtual_ms / 60_000
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
