#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{RunReport, Scenario, oracle, run_scenario, run_seed, shrink};

/// Seeds every test run goes through; `cargo xtask sim --seeds N` runs more.
const SEED_COUNT: u64 = 3000;

/// The same, or `OTTLA_SIM_SEEDS`: mutation testing judges by fewer.
fn seed_count() -> u64 {
    std::env::var("OTTLA_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEED_COUNT)
}
/// Seeds within which a planted bug must be found.
#[cfg(ottla_injected_bugs)]
const INJECTED_BUG_SEEDS: u64 = 2000;

/// Runs seeds on every core until one fails; how it failed, for the lowest that did.
fn find_first_failure(seeds: u64, each: impl Fn(RunReport) + Sync) -> Option<(u64, String)> {
    let (next, lowest) = (AtomicU64::new(0), std::sync::Mutex::new(None::<(u64, String)>));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let over = lowest.lock().unwrap().as_ref().is_some_and(|(found, _)| *found < seed);
            if seed >= seeds || over {
                return;
            }
            let ran = std::panic::catch_unwind(|| run_seed(seed));
            let ran = ran.unwrap_or_else(|_| Err(format!("seed {seed}: it panicked")));
            match ran {
                Ok(report) => each(report),
                Err(e) => {
                    let mut lowest = lowest.lock().unwrap();
                    if lowest.as_ref().is_none_or(|(found, _)| seed < *found) {
                        *lowest = Some((seed, e));
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
fn seeds_hold() {
    let total = std::sync::Mutex::new(RunReport::default());
    let failure = find_first_failure(seed_count(), |report| total.lock().unwrap().add(report));
    if let Some((_, e)) = failure {
        panic!("{e}");
    }
    let total = total.into_inner().unwrap();
    println!("{total:#?}");
    if seed_count() < SEED_COUNT {
        return;
    }
    // The faults were really there, and so was the work.
    assert!(
        total.acknowledged > 50_000 && total.failed > 500 && total.disconnects > 500,
        "{total:?}"
    );
    assert!(total.faults.len() >= 18, "{total:?}");
}

/// Scenarios that once found a bug; the file says what each found.
#[test]
fn seeds_that_found_bugs() {
    for scenario in include_str!("../seeds.txt").lines().filter(|l| !l.starts_with('#')) {
        let scenario = scenario.split_whitespace().next().expect("a scenario a line");
        let scenario = Scenario::parse(scenario).unwrap_or_else(|e| panic!("{e}"));
        run_scenario(&scenario).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn a_seed_replays_to_the_nanosecond() {
    for seed in [3, 77, 1234] {
        assert_eq!(run_seed(seed), run_seed(seed));
    }
}

#[test]
fn a_scenario_can_be_written_down_and_read_back() {
    for seed in 0..50 {
        let s = Scenario::new(seed);
        assert_eq!(s.to_text(), seed.to_string());
        let mut other = s
            .with_field("records_per_caller", "7")
            .and_then(|s| s.with_field("codec", "lz4"))
            .unwrap();
        other.events.retain(|e| e.number % 2 == 0);
        let read = Scenario::parse(&other.to_text()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{other:?}"), "{}", other.to_text());
    }
    assert!(Scenario::parse("7:nonsense=1").is_err() && Scenario::parse("x").is_err());
    assert!(shrink(&Scenario::new(3), |_| {}).is_none(), "nothing to shrink where nothing fails");
}

/// `docs/SIMULATION.md` holds the table of demands; `OTTLA_WRITE_DOCS=1 cargo test -p ottla-sim demands` writes it.
#[test]
fn the_demands_in_docs_are_these() {
    let (begin, end) = ("<!-- demands -->\n", "<!-- /demands -->");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/SIMULATION.md");
    let text = std::fs::read_to_string(path).expect("docs/SIMULATION.md");
    let (before, rest) = text.split_once(begin).expect("the demands begin");
    let (_, after) = rest.split_once(end).expect("the demands end");
    let written = format!("{before}{begin}{}{end}{after}", oracle::invariants_markdown());
    print!("{}", oracle::invariants_markdown());
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(path, &written).expect("docs are written");
    }
    assert!(std::fs::read_to_string(path).unwrap() == written, "docs/SIMULATION.md is old");
}

/// Each planted bug is found, and within how many seeds.
#[cfg(ottla_injected_bugs)]
#[test]
fn injected_bugs_are_found() {
    let mut missed = Vec::new();
    for plant in ottla::sim::INJECTED_BUGS {
        ottla::sim::inject(Some(*plant));
        let found = find_first_failure(INJECTED_BUG_SEEDS, |_| {});
        ottla::sim::inject(None);
        match found {
            Some((seed, how)) => {
                assert!(!how.contains("it panicked"), "{plant:?}: not the oracle's find: {how}");
                let how = how.lines().next().unwrap_or_default().to_owned();
                println!("planted {plant:?}: found by seed {seed}: {how:.150}");
            }
            None => missed.push(plant),
        }
    }
    // And one of them is made small.
    ottla::sim::inject(Some(ottla::sim::InjectedBug::BufferLeaked));
    let (small, how) = shrink(&Scenario::new(1), |_| {}).expect("it fails");
    ottla::sim::inject(None);
    assert!(
        small.callers == 1 && small.records_per_caller == 1 && small.events.is_empty(),
        "{small:?}"
    );
    assert!(how.contains("memory is all back"), "{how}");
    assert!(missed.is_empty(), "not found in {INJECTED_BUG_SEEDS} seeds: {missed:?}");
}
