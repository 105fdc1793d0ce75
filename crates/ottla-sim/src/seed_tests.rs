//! Runs seeds, known failing scenarios and injected bugs.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(ottla_injected_bugs)]
use ottla_protocol::ErrorCode;

use crate::{
    RunReport, Scenario, oracle, run_scenario, run_seed, run_transaction_seed, shrink, transactions,
};

/// The seeds of every test run; `cargo xtask sim --seeds N` runs more.
const SEED_COUNT: u64 = 3000;

/// The seeds with transactions of every test run.
const TRANSACTION_SEED_COUNT: u64 = 300;

/// The seeds within which each injected bug must be found.
#[cfg(ottla_injected_bugs)]
const INJECTED_BUG_SEEDS: u64 = 10_000;

/// Returns `OTTLA_SIM_SEEDS` or the default. Mutation tests run fewer seeds.
fn seed_count() -> u64 {
    std::env::var("OTTLA_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEED_COUNT)
}

/// A seed that fails, and its error.
struct Failure {
    seed: u64,
    error: String,
}

/// Runs a seed.
type Run = fn(u64) -> Result<RunReport, String>;

/// Runs seeds on every core until one fails. Returns the lowest failing seed.
fn find_first_failure(
    seeds: u64,
    run: Run,
    on_report: impl Fn(RunReport) + Sync,
) -> Option<Failure> {
    let (next, lowest) = (AtomicU64::new(0), Mutex::new(None::<Failure>));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_beyond_failure = lowest.lock().unwrap().as_ref().is_some_and(|f| f.seed < seed);
            if seed >= seeds || is_beyond_failure {
                return;
            }
            let result = std::panic::catch_unwind(|| run(seed));
            match result.unwrap_or_else(|_| Err(format!("seed {seed}: it panicked"))) {
                Ok(report) => on_report(report),
                Err(error) => {
                    let mut lowest = lowest.lock().unwrap();
                    if lowest.as_ref().is_none_or(|f| seed < f.seed) {
                        *lowest = Some(Failure { seed, error });
                    }
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    lowest.into_inner().unwrap()
}

#[test]
fn invariants_hold_for_every_seed() {
    let total = Mutex::new(RunReport::default());
    let failure = find_first_failure(seed_count(), run_seed, |report| {
        total.lock().unwrap().add(report);
    });
    if let Some(failure) = failure {
        panic!("{}", failure.error);
    }
    let total = total.into_inner().unwrap();
    println!("{total:#?}");
    if seed_count() < SEED_COUNT {
        return;
    }
    // The seeds did enough work, and met every kind of fault.
    assert!(
        total.acknowledged > 50_000 && total.failed > 500 && total.disconnects > 500,
        "{total:?}"
    );
    assert!(total.faults.len() >= 18 && total.metrics_pushes > 1_000, "{total:?}");
}

#[test]
fn transaction_invariants_hold_for_every_seed() {
    let seeds = seed_count().min(TRANSACTION_SEED_COUNT);
    let total = Mutex::new(RunReport::default());
    let failure = find_first_failure(seeds, run_transaction_seed, |report| {
        total.lock().unwrap().add(report);
    });
    if let Some(failure) = failure {
        panic!("{}", failure.error);
    }
    let total = total.into_inner().unwrap();
    println!("{total:#?}");
    if seeds < TRANSACTION_SEED_COUNT {
        return;
    }
    // The seeds did enough work, and met every kind of fault.
    let faults = &total.faults;
    assert!(
        total.committed > 1_000 && total.aborted > 500 && total.undecided > 50 && total.fenced > 50,
        "{total:?}"
    );
    for fault in ["request repeated", "request delayed", "response lost", "refused"] {
        assert!(faults.keys().any(|name| name.starts_with("EndTxn") && name.contains(fault)));
    }
    for fault in ["coordinator moved", "instance killed", "instance paused", "node killed"] {
        assert!(faults.contains_key(fault), "{fault}: {total:?}");
    }
}

/// Returns the scenarios in the text of seeds.txt, which explains its format.
fn parse_scenarios(text: &str) -> Vec<String> {
    let mut scenarios: Vec<String> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        match (line.strip_prefix(' '), scenarios.last_mut()) {
            (Some(rest), Some(scenario)) => scenario.push_str(rest.trim()),
            _ => scenarios.push(line.trim().to_owned()),
        }
    }
    scenarios
}

#[test]
fn scenarios_that_once_failed_pass() {
    let scenarios = parse_scenarios(include_str!("../seeds.txt"));
    assert_eq!(scenarios.len(), 7);
    for text in scenarios {
        let scenario = Scenario::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        run_scenario(&scenario).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn seed_replays_to_the_nanosecond() {
    for seed in [3, 77, 1234] {
        assert_eq!(run_seed(seed), run_seed(seed));
        assert_eq!(run_transaction_seed(seed), run_transaction_seed(seed));
    }
}

#[test]
fn scenario_round_trips_through_text() {
    for seed in 0..100 {
        let (s, text) = match seed % 2 {
            0 => (Scenario::new(seed), seed.to_string()),
            _ => (Scenario::with_transactions(seed), format!("t{seed}")),
        };
        assert_eq!(s.to_text(), text);
        let mut changed = s
            .with_field("records_per_caller", "7")
            .and_then(|s| s.with_field("codec", "lz4"))
            .unwrap();
        changed.events.retain(|e| e.number % 2 == 0);
        let parsed = Scenario::parse(&changed.to_text()).unwrap();
        assert_eq!(format!("{parsed:?}"), format!("{changed:?}"), "{}", changed.to_text());
    }
    assert!(Scenario::parse("7:unknown=1").is_err() && Scenario::parse("x").is_err());
    assert!(shrink(&Scenario::new(3), |_| {}).is_none(), "a scenario that passes is not shrunk");
}

/// docs/SIMULATION.md holds the oracle's invariants.
///
/// `OTTLA_WRITE_DOCS=1 cargo test -p ottla-sim --lib in_docs` writes them.
#[test]
fn invariants_in_docs_are_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/SIMULATION.md");
    let mut expected = std::fs::read_to_string(path).expect("docs/SIMULATION.md is readable");
    let lists = [
        ("invariants", oracle::invariants_markdown()),
        ("transaction invariants", transactions::invariants_markdown()),
    ];
    for (name, list) in lists {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let (before, rest) = expected.split_once(&begin).expect("the page has the first marker");
        let (_, after) = rest.split_once(&end).expect("the page has the second marker");
        expected = format!("{before}{begin}{list}{end}{after}");
    }
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(path, &expected).expect("docs/SIMULATION.md is writable");
    }
    let is_current = std::fs::read_to_string(path).unwrap() == expected;
    assert!(is_current, "docs/SIMULATION.md is out of date; run `cargo xtask docs`");
}

/// Returns the failure if a batch is split that may be persisted.
///
/// The oracle does not see it: the broker refuses the parts of a batch that is in its log, and the
/// records fail with the status that they had. Only the error differs.
#[cfg(ottla_injected_bugs)]
fn find_split_of_possibly_persisted() -> Option<String> {
    let (errors, _) = crate::retry_tests::send_batch_that_becomes_too_large();
    let is_too_large = |e: &Option<ottla::Error>| {
        e.as_ref().and_then(ottla::Error::code) == Some(ErrorCode::MESSAGE_TOO_LARGE)
    };
    (!errors.iter().all(is_too_large)).then(|| format!("a record failed otherwise: {errors:?}"))
}

/// Each injected bug is found: by the oracle in one of the seeds, one bug by a scenario of its own.
/// The test prints the seed that found it.
#[cfg(ottla_injected_bugs)]
#[test]
fn injected_bugs_are_found() {
    use ottla::sim::{INJECTED_BUGS, InjectedBug, inject};

    assert_eq!(find_split_of_possibly_persisted(), None, "without the bug");
    let find_in_seeds = |run: Run, prefix: &str| {
        let failure = find_first_failure(INJECTED_BUG_SEEDS, run, |_| {})?;
        Some((format!("seed {prefix}{}", failure.seed), failure.error))
    };
    let mut missed = Vec::new();
    for bug in INJECTED_BUGS {
        inject(Some(*bug));
        let found = match bug {
            InjectedBug::SplitPossiblyPersisted => {
                find_split_of_possibly_persisted().map(|error| ("its scenario".to_owned(), error))
            }
            bug if bug.is_transactional() => find_in_seeds(run_transaction_seed, "t"),
            _ => find_in_seeds(run_seed, ""),
        };
        inject(None);
        match found {
            Some((finder, error)) => {
                assert!(!error.contains("it panicked"), "{bug:?}: a panic, no violation: {error}");
                assert!(!error.contains("stuck:"), "{bug:?}: no violation: {error}");
                let first_line = error.lines().next().unwrap_or_default();
                println!("injected bug {bug:?}: found by {finder}: {first_line:.150}");
            }
            None => missed.push(bug),
        }
    }
    // One of them is shrunk to the smallest scenario that still fails.
    inject(Some(InjectedBug::BufferLeaked));
    let (smallest, error) = shrink(&Scenario::new(1), |_| {}).expect("the scenario fails");
    inject(None);
    assert!(
        smallest.callers == 1 && smallest.records_per_caller == 1 && smallest.events.is_empty(),
        "{smallest:?}"
    );
    assert!(error.contains(oracle::MEMORY_RETURNED_INVARIANT), "{error}");
    assert!(missed.is_empty(), "not found in {INJECTED_BUG_SEEDS} seeds: {missed:?}");
}
