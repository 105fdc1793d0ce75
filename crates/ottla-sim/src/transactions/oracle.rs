//! The oracle of runs with transactions: the invariants, and the data that it checks them against.

mod visibility;

use std::collections::{BTreeMap, BTreeSet};

use ottla::ErrorKind;
use ottla::sim::Tick;
use ottla_broker::ConsumerRecord;

use self::visibility::{
    check_aborts, check_atomicity, check_commits, check_not_persisted, check_offsets, check_order,
    check_reader,
};
use super::history::{
    AcceptedRecord, OffsetsOutcome, TransactionEnd, TransactionHistories, TransactionHistory,
};
use super::reader::{CommittedReader, PartitionKey};
use crate::history::HandlerOutcome;
#[cfg(test)]
use crate::oracle::to_markdown;
use crate::oracle::{ALWAYS, Invariant};
use crate::scenario::Scenario;
use crate::scenario_events::ScenarioEventKind;

/// A time in which the producer of an instance ran no code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    pub(super) instance: u64,
    pub(super) from: Tick,
    pub(super) to: Tick,
}

/// Everything that the oracle knows of a run with transactions.
pub(super) struct Observations<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) history: &'a TransactionHistories,
    pub(super) handler_outcomes: BTreeMap<u64, HandlerOutcome>,
    pub(super) reader: &'a CommittedReader,
    /// The records of each partition, as the cluster's own reading of the logs returns them.
    pub(super) logs: BTreeMap<PartitionKey, Vec<ConsumerRecord>>,
    pub(super) pauses: &'a [Pause],
    /// The available memory of each producer at the end, by client number.
    pub(super) available_memory: BTreeMap<u32, u64>,
    /// The transactions of which a consumer sees records.
    visible: BTreeMap<usize, BTreeSet<Vec<u8>>>,
}

type Check = fn(&Observations<'_>) -> Result<(), String>;

/// The check of an invariant that the run itself checks.
const CHECKED_DURING_RUN: Check = |_| Ok(());

pub(super) const ROUNDS_INVARIANT: &str =
    "each sender loops only when an event needs it, and sleeps otherwise";

const INVARIANTS: &[Invariant<Check>] = &[
    Invariant {
        statement: "no call returns an error that the interface does not allow there, and no call \
                    times out long after the faults",
        condition: "always",
        applies: ALWAYS,
        check: check_calls,
    },
    Invariant {
        statement: "each accepted record completes once, with one result for delivery and handler",
        condition: "always",
        applies: ALWAYS,
        check: check_completed_once,
    },
    Invariant {
        statement: "a `read_committed` consumer sees all records of a transaction or none, each \
                    once",
        condition: "always",
        applies: ALWAYS,
        check: check_atomicity,
    },
    Invariant {
        statement: "after `commit` has succeeded, a consumer sees the transaction, and each of its \
                    records was acknowledged",
        condition: "always",
        applies: ALWAYS,
        check: check_commits,
    },
    Invariant {
        statement: "a consumer never sees a transaction that was not committed: aborted, dropped, \
                    or failed with an error that requires an abort",
        condition: "always",
        applies: ALWAYS,
        check: check_aborts,
    },
    Invariant {
        statement: "a consumer sees the records of a transactional id in the order of `send`, \
                    across transactions and producers",
        condition: "always",
        applies: ALWAYS,
        check: check_order,
    },
    Invariant {
        statement: "what a consumer has read while transactions were open is what it reads at the \
                    end",
        condition: "always",
        applies: ALWAYS,
        check: check_reader,
    },
    Invariant {
        statement: "the offsets of a transaction are committed with it, and only with it",
        condition: "always",
        applies: ALWAYS,
        check: check_offsets,
    },
    Invariant {
        statement: "a record that failed as NotPersisted is in no log",
        condition: "always",
        applies: ALWAYS,
        check: check_not_persisted,
    },
    Invariant {
        statement: "no transaction is open at the end",
        condition: "always",
        applies: ALWAYS,
        check: check_no_open_transaction,
    },
    Invariant {
        statement: "a transactional call and `send` return within max.block.ms + one loop",
        condition: "always",
        applies: ALWAYS,
        check: check_max_block,
    },
    Invariant {
        statement: "a record completes within delivery.timeout.ms + one loop of its acceptance",
        condition: "always",
        applies: ALWAYS,
        check: check_delivery_timeout,
    },
    Invariant {
        statement: "all buffer memory of each producer is returned to its pool",
        condition: "always",
        applies: ALWAYS,
        check: check_memory_returned,
    },
    Invariant {
        statement: ROUNDS_INVARIANT,
        condition: "always",
        applies: ALWAYS,
        check: CHECKED_DURING_RUN,
    },
    Invariant {
        statement: "after recovery, a new producer of each transactional id commits records to \
                    every partition",
        condition: "always",
        applies: ALWAYS,
        check: check_recovery,
    },
    Invariant {
        statement: "every commit succeeds",
        condition: "no faults, one instance for each transactional id",
        applies: is_fault_free,
        check: check_all_committed,
    },
    Invariant {
        statement: "no producer is fenced",
        condition: "one instance for each transactional id, no time-out by the coordinator, no \
                    fatal error, no request that arrives late",
        applies: has_no_reason_to_fence,
        check: check_not_fenced,
    },
];

fn is_fault_free(s: &Scenario) -> bool {
    s.is_fault_free() && s.instances == s.transactional_ids && s.transaction_timeout_ms >= 60_000
}

fn has_no_reason_to_fence(s: &Scenario) -> bool {
    use ScenarioEventKind as Kind;

    let delays_requests = |kind: &Kind| {
        matches!(
            kind,
            Kind::BlackHole(_)
                | Kind::HalfOpen(_)
                | Kind::StopReading(_)
                | Kind::IsolateInstance(_)
                | Kind::PauseInstance { .. }
                | Kind::ThrottleNode { .. }
        )
    };
    s.instances == s.transactional_ids
        && s.transaction_timeout_ms >= 60_000
        && !s.has_fatal_faults
        && !(s.has_late_requests && s.request_fault_one_in > 0)
        // Bytes of a connection that the client has closed arrive, too.
        && s.max_delay_ns == 0
        && s.socket_buffer_bytes == 0
        && !s.events.iter().any(|e| delays_requests(&e.kind))
}

/// Checks every invariant that applies. Returns a fingerprint of the run.
///
/// # Errors
/// Returns the first broken invariant with its evidence.
pub(super) fn check_invariants(o: &mut Observations<'_>) -> Result<u64, String> {
    o.collect_visible()?;
    for invariant in INVARIANTS.iter().filter(|i| (i.applies)(o.scenario)) {
        (invariant.check)(o).map_err(|details| format!("{}: {details}", invariant.statement))?;
    }
    Ok(o.fingerprint())
}

impl<'a> Observations<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        history: &'a TransactionHistories,
        handler_outcomes: BTreeMap<u64, HandlerOutcome>,
        reader: &'a CommittedReader,
        logs: BTreeMap<PartitionKey, Vec<ConsumerRecord>>,
        pauses: &'a [Pause],
        available_memory: BTreeMap<u32, u64>,
    ) -> Observations<'a> {
        let visible = BTreeMap::new();
        Observations {
            scenario,
            history,
            handler_outcomes,
            reader,
            logs,
            pauses,
            available_memory,
            visible,
        }
    }

    /// Finds the transaction of each record that a consumer sees.
    fn collect_visible(&mut self) -> Result<(), String> {
        for (key, read) in &self.reader.partitions {
            for (offset, value) in &read.records {
                let (topic, partition) = (&key.0, key.1);
                let at = format!("{topic}-{partition} at {offset}");
                let (txn, _) = parse_value(value).ok_or_else(|| format!("{at}: unknown record"))?;
                let records = self.history.transactions.get(txn).map_or(&[][..], |t| &t.records);
                let is_sent_here = |r: &AcceptedRecord| {
                    r.value == *value && (&r.topic, r.partition) == (topic, partition)
                };
                if !records.iter().any(is_sent_here) {
                    return Err(format!("{at}: no instance sent that record there"));
                }
                if !self.visible.entry(txn).or_default().insert(value.clone()) {
                    return Err(format!("{at}: a consumer sees the record twice"));
                }
            }
        }
        Ok(())
    }

    fn transactions(&self) -> impl Iterator<Item = (usize, &TransactionHistory)> {
        self.history.transactions.iter().enumerate()
    }

    fn is_visible(&self, txn: usize) -> bool {
        self.visible.contains_key(&txn)
    }

    /// Returns the latest time for something that has `ms` milliseconds from `from`.
    fn latest_deadline(&self, instance: u64, from: Tick, ms: u64) -> Tick {
        let mut latest = Tick(from.0 + (ms + 1) * 1_000_000);
        for pause in self.pauses.iter().filter(|p| p.instance == instance) {
            if (pause.from..=pause.to).contains(&latest) {
                latest = Tick(pause.to.0 + 1_000_000);
            }
        }
        latest
    }

    /// Hashes the history (64-bit FNV-1a, by words).
    fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let calls = self.history.calls.iter().map(|c| c.returned_at.0);
        let records = self.history.transactions.iter().flat_map(|t| &t.records);
        let completions =
            records.map(|r| self.handler_outcomes.get(&r.token).map_or(0, |h| h.completed_at.0));
        for word in calls.chain(completions).chain([self.visible.len() as u64]) {
            hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
        }
        hash
    }
}

/// Returns the transaction and the index of a record, from its value.
fn parse_value(value: &[u8]) -> Option<(usize, usize)> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = text.split('/');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn describe(r: &AcceptedRecord) -> String {
    let value = String::from_utf8_lossy(&r.value);
    format!("record {value:.12} on {}-{}", r.topic, r.partition)
}

fn check_calls(o: &Observations<'_>) -> Result<(), String> {
    o.history.violations.first().map_or(Ok(()), |v| Err(v.clone()))
}

fn check_completed_once(o: &Observations<'_>) -> Result<(), String> {
    let mut count = 0;
    for r in o.history.transactions.iter().flat_map(|t| &t.records) {
        count += 1;
        let Some(result) = r.delivery.try_result() else {
            return Err(format!("{} never completed", describe(r)));
        };
        if let Err(e) = &result
            && e.kind() == ErrorKind::Internal
        {
            return Err(format!("{}: {e}", describe(r)));
        }
        match o.handler_outcomes.get(&r.token) {
            Some(h) if h.reports == 1 && h.is_acknowledged == result.is_ok() => {}
            other => return Err(format!("{}: the handler received {other:?}", describe(r))),
        }
    }
    if o.handler_outcomes.len() != count {
        return Err("the handler received a record that was not accepted".to_owned());
    }
    Ok(())
}

fn check_no_open_transaction(o: &Observations<'_>) -> Result<(), String> {
    for (key, read) in &o.reader.partitions {
        let (last_stable_offset, high_watermark) = read.end_offsets;
        if last_stable_offset != high_watermark {
            return Err(format!(
                "{}-{}: the last stable offset is {last_stable_offset}, the high watermark \
                 {high_watermark}",
                key.0, key.1
            ));
        }
    }
    Ok(())
}

fn check_max_block(o: &Observations<'_>) -> Result<(), String> {
    for call in &o.history.calls {
        let latest = o.latest_deadline(call.instance, call.called_at, o.scenario.max_block_ms);
        if call.returned_at > latest {
            let (name, from, to) = (call.name, call.called_at, call.returned_at);
            return Err(format!("{name} blocked from {from:?} to {to:?}"));
        }
    }
    Ok(())
}

fn check_delivery_timeout(o: &Observations<'_>) -> Result<(), String> {
    for (_, t) in o.transactions() {
        let instance = o.history.incarnations[t.incarnation].instance;
        for r in &t.records {
            let Some(h) = o.handler_outcomes.get(&r.token) else { continue };
            let timeout_ms = o.scenario.delivery_timeout_ms;
            if h.completed_at > o.latest_deadline(instance, r.accepted_at, timeout_ms) {
                let (from, to) = (r.accepted_at, h.completed_at);
                return Err(format!("{}: accepted at {from:?}, completed at {to:?}", describe(r)));
            }
        }
    }
    Ok(())
}

fn check_memory_returned(o: &Observations<'_>) -> Result<(), String> {
    for (client, bytes) in &o.available_memory {
        if *bytes != o.scenario.buffer_memory {
            let total = o.scenario.buffer_memory;
            return Err(format!("process {client}: {bytes} of {total} bytes are available"));
        }
    }
    Ok(())
}

fn check_recovery(o: &Observations<'_>) -> Result<(), String> {
    for (txn, t) in o.transactions().filter(|(_, t)| t.must_commit) {
        if t.end != TransactionEnd::Committed || t.offsets != OffsetsOutcome::Added {
            let error = t.error.as_deref().unwrap_or_default();
            return Err(format!("transaction {txn}: {:?}, {:?}: {error}", t.end, t.offsets));
        }
    }
    Ok(())
}

fn check_all_committed(o: &Observations<'_>) -> Result<(), String> {
    for (txn, t) in o.transactions() {
        if let Some(error) = &t.error {
            return Err(format!("transaction {txn}: {error}"));
        }
    }
    Ok(())
}

fn check_not_fenced(o: &Observations<'_>) -> Result<(), String> {
    o.history.fenced.first().map_or(Ok(()), |fenced| {
        let client = o.history.incarnations[fenced.incarnation].client;
        Err(format!("process {client}: {}", fenced.error))
    })
}

/// Returns the invariants as the list in docs/SIMULATION.md.
#[cfg(test)]
pub(crate) fn invariants_markdown() -> String {
    to_markdown(INVARIANTS)
}
