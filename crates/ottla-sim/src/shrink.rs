//! Makes a failing scenario smaller: tries simpler values and fewer events while it still fails.

use crate::scenario::Scenario;
use crate::simulation::run_scenario;

/// The values to try for each field of a scenario, simplest first.
const SIMPLER_VALUES: &[(&str, &[&str])] = &[
    ("callers", &["1", "2", "3"]),
    ("records_per_caller", &["1", "2", "3", "5", "10", "20"]),
    ("topics", &["1", "2"]),
    ("partitions", &["1", "2", "3"]),
    ("nodes", &["1", "2"]),
    ("replication_factor", &["1", "2"]),
    ("min_isr", &["1"]),
    ("close_at_ms", &["0"]),
    ("purge_at_ms", &["0"]),
    ("availability_timeout_ms", &["0"]),
    ("metadata_max_age_ms", &["300000"]),
    ("broker_fault_one_in", &["0", "20"]),
    ("has_fatal_faults", &["false"]),
    ("unclean_leader_election", &["false"]),
    ("late_response_one_in", &["0"]),
    ("stale_metadata_one_in", &["0"]),
    ("disconnect_one_in", &["0"]),
    ("stall_one_in", &["0"]),
    ("max_io_bytes", &["0"]),
    ("socket_buffer_bytes", &["0"]),
    ("max_delay_ns", &["0", "1000000"]),
    ("max_replication_lag_ms", &["0", "3"]),
    ("codec", &["none"]),
    ("max_value_len", &["10", "100"]),
    ("batch_size", &["200", "4000"]),
    ("batch_size_max", &["0"]),
    ("buffer_memory", &["1000000"]),
    ("max_message_bytes", &["1048588"]),
    ("max_request_size", &["1048576"]),
    ("connections_max_idle_ms", &["540000"]),
    ("linger_ms", &["0"]),
    ("max_pause_us", &["0"]),
    ("max_in_flight", &["1"]),
    ("retries", &["2147483647"]),
    ("bootstrap_by_name", &["false"]),
    ("producer_id_errors", &["0"]),
    ("first_epoch", &["0"]),
    ("heal_after_ms", &["100", "1000"]),
    ("acks", &["all"]),
];

/// Returns a smaller scenario that fails too, with its error.
///
/// Returns `None` if `original` does not fail.
///
/// Calls `on_step` with the text of each smaller scenario that fails.
pub fn shrink(original: &Scenario, mut on_step: impl FnMut(&str)) -> Option<(Scenario, String)> {
    let mut best = original.clone();
    let mut error = run_scenario(&best).err()?;
    loop {
        let before = best.to_text();
        for i in (0..best.events.len()).rev() {
            let mut smaller = best.clone();
            smaller.events.remove(i);
            try_smaller(smaller, &mut best, &mut error, &mut on_step);
        }
        for (name, values) in SIMPLER_VALUES {
            for value in *values {
                let Some(smaller) = best.with_field(name, value) else { continue };
                if smaller.to_text() == best.to_text()
                    || try_smaller(smaller, &mut best, &mut error, &mut on_step)
                {
                    break;
                }
            }
        }
        if best.to_text() == before {
            return Some((best, error));
        }
    }
}

/// Runs `smaller`. If it fails, makes it the best scenario and returns true.
fn try_smaller(
    smaller: Scenario,
    best: &mut Scenario,
    error: &mut String,
    on_step: &mut impl FnMut(&str),
) -> bool {
    let Err(e) = run_scenario(&smaller) else { return false };
    on_step(&smaller.to_text());
    *best = smaller;
    *error = e;
    true
}
