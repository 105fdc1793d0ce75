//! The oracle: the invariants of every run, and the data that it checks them against.
//!
//! The simulation calls [`check_invariants`] at the end of a run. The oracle alone judges; a
//! scenario only decides which invariants apply, by its settings.

use std::collections::BTreeMap;

use ottla::sim::Tick;

mod checks;
mod invariant;
mod logs;

#[cfg(test)]
pub(crate) use invariant::to_markdown;
pub(crate) use invariant::{ALWAYS, Invariant};
pub(crate) use logs::{ClusterLogs, DecodedLogs};

use crate::history::{HandlerOutcome, History, SentRecord, encode_token};
use crate::older_epochs::OlderEpochs;
use crate::scenario::Scenario;

/// A time in which the client's machine was suspended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspension {
    pub(crate) from: Tick,
    pub(crate) to: Tick,
}

/// Everything that the oracle knows of a run.
pub(crate) struct Observations<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) history: &'a History,
    pub(crate) handler_outcomes: BTreeMap<u64, HandlerOutcome>,
    pub(crate) logs: &'a DecodedLogs,
    /// The producer's available memory after close, in bytes.
    pub(crate) available_memory: u64,
    pub(crate) suspensions: &'a [Suspension],
    /// The number of partitions of each topic at the end.
    pub(crate) partition_counts: BTreeMap<String, i32>,
    /// When every fault ended.
    pub(crate) healed_at: Tick,
    /// The leaders that the client was shown, if a topic was restored.
    pub(crate) older_epochs: Option<&'a OlderEpochs>,
    /// The number of producer ids that the cluster assigned.
    pub(crate) producer_ids_assigned: u64,
}

impl Observations<'_> {
    /// Returns whether the record was sent while every node was down.
    fn is_sent_during_outage(&self, sent: &SentRecord) -> bool {
        sent.caller == self.scenario.callers + 1
    }

    /// Returns the latest time at which something must happen that has `ms` milliseconds from
    /// `from`. The margin is 1 ms, one loop of the sender.
    ///
    /// A suspended machine runs no code, so a deadline within a suspension moves to its end.
    fn latest_deadline(&self, from: Tick, ms: u64) -> Tick {
        let mut latest = Tick(from.0 + (ms + 1) * 1_000_000);
        for suspension in self.suspensions {
            if (suspension.from..=suspension.to).contains(&latest) {
                latest = Tick(suspension.to.0 + 1_000_000);
            }
        }
        latest
    }
}

type Check = fn(&Observations<'_>) -> Result<(), String>;

/// The check of an invariant that the run itself checks. It reports through
/// [`History::violations`] or ends the run with an error.
const CHECKED_DURING_RUN: Check = |_| Ok(());

const COMPLETION_INVARIANT: &str =
    "each accepted record completes once, with one result for delivery, callback and handler";
pub(crate) const PARTITION_INVARIANT: &str = "a record goes to the partition that it names";
pub(crate) const IN_FLIGHT_INVARIANT: &str =
    "requests in flight per connection never exceed the configured maximum";
pub(crate) const FLUSH_INVARIANT: &str = "flush waits for every record accepted before it";
pub(crate) const MEMORY_RETURNED_INVARIANT: &str = "all buffer memory is returned to the pool";
pub(crate) const MEMORY_LIMIT_INVARIANT: &str =
    "memory use exceeds buffer.memory by at most three times one batch, during a split";
pub(crate) const ROUNDS_INVARIANT: &str =
    "the sender loops only when an event needs it, and sleeps otherwise";

const INVARIANTS: &[Invariant<Check>] = &[
    Invariant {
        statement: COMPLETION_INVARIANT,
        condition: "always",
        applies: ALWAYS,
        check: checks::check_completed_once,
    },
    Invariant {
        statement: "no record fails with an internal error",
        condition: "always",
        applies: ALWAYS,
        check: checks::check_no_internal_errors,
    },
    Invariant {
        statement: PARTITION_INVARIANT,
        condition: "always",
        applies: ALWAYS,
        check: CHECKED_DURING_RUN,
    },
    Invariant {
        statement: "a successful record has no offset",
        condition: "acks=0",
        applies: |s| s.acks == "0",
        check: checks::check_no_offsets,
    },
    Invariant {
        statement: "every accepted record is acknowledged",
        condition: "no faults, and timeouts that leave time for delivery",
        applies: Scenario::is_fault_free,
        check: checks::check_all_acknowledged,
    },
    Invariant {
        statement: "a record sent while every node is down fails as NotPersisted",
        condition: "acks=1 or all",
        applies: |s| s.acks != "0",
        check: checks::check_outage_not_persisted,
    },
    Invariant {
        statement: "a record completes within delivery.timeout.ms + one loop of its acceptance",
        condition: "always",
        applies: ALWAYS,
        check: checks::check_delivery_timeout,
    },
    Invariant {
        statement: "send returns within max.block.ms + one loop",
        condition: "always",
        applies: ALWAYS,
        check: checks::check_max_block,
    },
    Invariant {
        statement: IN_FLIGHT_INVARIANT,
        condition: "always",
        applies: ALWAYS,
        check: CHECKED_DURING_RUN,
    },
    Invariant {
        statement: FLUSH_INVARIANT,
        condition: "always",
        applies: ALWAYS,
        check: CHECKED_DURING_RUN,
    },
    Invariant {
        statement: MEMORY_RETURNED_INVARIANT,
        condition: "always",
        applies: ALWAYS,
        check: checks::check_memory_returned,
    },
    Invariant {
        statement: MEMORY_LIMIT_INVARIANT,
        condition: "always",
        applies: ALWAYS,
        check: CHECKED_DURING_RUN,
    },
    Invariant {
        statement: ROUNDS_INVARIANT,
        condition: "always",
        applies: ALWAYS,
        check: CHECKED_DURING_RUN,
    },
    Invariant {
        statement: "buffer memory is allocated first come, first served",
        condition: "always",
        applies: ALWAYS,
        check: checks::check_memory_fairness,
    },
    Invariant {
        statement: "a log holds only records sent to its partition, byte for byte",
        condition: "always",
        applies: ALWAYS,
        check: checks::check_log_contents,
    },
    Invariant {
        statement: "a record that failed as NotPersisted is in no log",
        condition: "always",
        applies: ALWAYS,
        check: checks::check_not_persisted,
    },
    Invariant {
        statement: "a reported offset held that record in the log of the leader that reported it",
        condition: "acks=1 or all",
        applies: |s| s.acks != "0",
        check: checks::check_offsets,
    },
    Invariant {
        statement: "an acknowledged record survives every leader change within the ISR",
        condition: "acks=all, no unclean leader election",
        applies: |s| s.acks == "all" && !s.unclean_leader_election,
        check: checks::check_acknowledged_persisted,
    },
    Invariant {
        statement: "no record is in the logs twice, not even across recreations of its topic",
        condition: "idempotent",
        applies: |s| s.idempotent,
        check: checks::check_no_duplicates,
    },
    Invariant {
        statement: "each log holds the records of each caller in append order",
        condition: "idempotent",
        applies: |s| s.idempotent,
        check: checks::check_order,
    },
    Invariant {
        statement: "each log holds the acknowledged records of each caller in append order",
        condition: "not idempotent, one request in flight",
        applies: |s| !s.idempotent && s.max_in_flight == 1,
        check: checks::check_order,
    },
    Invariant {
        statement: "a record with time left after the faults does not time out",
        condition: "acks=1 or all, unlimited retries, no fatal error, no early close",
        applies: |s| s.acks != "0" && s.retries > 100 && !s.has_fatal_faults && s.close_at_ms == 0,
        check: checks::check_delivered_after_heal,
    },
    Invariant {
        statement: "after recovery, every partition acknowledges a new record",
        condition: "no fatal error, no early close",
        applies: |s| !s.has_fatal_faults && s.close_at_ms == 0,
        check: checks::check_recovery_results,
    },
];

/// Checks every invariant that applies.
///
/// Returns a fingerprint: a hash of the times and results of every record. Runs with the same
/// fingerprint went the same way.
///
/// # Errors
/// Returns the first broken invariant with its evidence.
pub(crate) fn check_invariants(observations: &Observations<'_>) -> Result<u64, String> {
    if let Some(violation) = observations.history.violations.first() {
        let statement = violation.invariant;
        debug_assert!(INVARIANTS.iter().any(|i| i.statement == statement), "{statement}");
        return Err(format!("{statement}: {}", violation.details));
    }
    for invariant in INVARIANTS.iter().filter(|i| (i.applies)(observations.scenario)) {
        (invariant.check)(observations)
            .map_err(|details| format!("{}: {details}", invariant.statement))?;
    }
    Ok(fingerprint(observations))
}

/// Hashes the history (64-bit FNV-1a, by words).
fn fingerprint(observations: &Observations<'_>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for r in &observations.history.records {
        let handler = observations.handler_outcomes.get(&encode_token(r.sent.caller, r.sent.index));
        let completed_at = handler.map_or(0, |h| h.completed_at.0);
        for word in [r.sent.accepted_at.0, completed_at, u64::from(r.is_acknowledged())] {
            hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// Returns the invariants as the list in docs/SIMULATION.md.
#[cfg(test)]
pub(crate) fn invariants_markdown() -> String {
    to_markdown(INVARIANTS)
}
