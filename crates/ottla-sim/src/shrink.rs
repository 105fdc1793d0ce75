//! Makes a failing scenario small: less of everything, as long as it still fails.

use crate::scenario::Scenario;
use crate::world::run_scenario;

/// What is tried for each choice, simplest first.
const SIMPLER: &[(&str, &[&str])] = &[
    ("callers", &["1", "2", "3"]),
    ("records", &["1", "2", "3", "5", "10", "20"]),
    ("topics", &["1", "2"]),
    ("partitions", &["1", "2", "3"]),
    ("nodes", &["1", "2"]),
    ("replication", &["1", "2"]),
    ("min_isr", &["1"]),
    ("close_at_ms", &["0"]),
    ("purge_at_ms", &["0"]),
    ("availability_ms", &["0"]),
    ("age_ms", &["300000"]),
    ("broker_fault", &["0", "20"]),
    ("fatal_fault", &["false"]),
    ("unclean", &["false"]),
    ("late", &["0"]),
    ("stale", &["0"]),
    ("cut", &["0"]),
    ("stall", &["0"]),
    ("split", &["0"]),
    ("window", &["0"]),
    ("delay_ns", &["0", "1000000"]),
    ("lag_ms", &["0", "3"]),
    ("codec", &["none"]),
    ("value_max", &["10", "100"]),
    ("batch_size", &["200", "4000"]),
    ("buffer_memory", &["1000000"]),
    ("message_max", &["1048588"]),
    ("request_size", &["1048576"]),
    ("idle_ms", &["540000"]),
    ("linger_ms", &["0"]),
    ("pause_us", &["0"]),
    ("in_flight", &["1"]),
    ("retries", &["2147483647"]),
    ("by_name", &["false"]),
    ("id_refusals", &["0"]),
    ("first_epoch", &["0"]),
    ("heal_after_ms", &["100", "1000"]),
    ("acks", &["all"]),
];

/// A smaller scenario that fails, too, and how; nothing if this one does not fail. `say` hears of each step.
pub fn shrink(from: &Scenario, mut say: impl FnMut(&str)) -> Option<(Scenario, String)> {
    let mut best = from.clone();
    let mut error = run_scenario(&best).err()?;
    loop {
        let before = best.written();
        for at in (0..best.events.len()).rev() {
            let mut smaller = best.clone();
            smaller.events.remove(at);
            attempt(smaller, &mut best, &mut error, &mut say);
        }
        for (name, values) in SIMPLER {
            for value in *values {
                let Some(smaller) = best.with(name, value) else { continue };
                if smaller.written() == best.written()
                    || attempt(smaller, &mut best, &mut error, &mut say)
                {
                    break;
                }
            }
        }
        if best.written() == before {
            return Some((best, error));
        }
    }
}

fn attempt(
    smaller: Scenario,
    best: &mut Scenario,
    error: &mut String,
    say: &mut impl FnMut(&str),
) -> bool {
    let Err(e) = run_scenario(&smaller) else { return false };
    say(&smaller.written());
    (*best, *error) = (smaller, e);
    true
}
