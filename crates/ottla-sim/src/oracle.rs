//! What must hold of a run: one table of demands, each with the settings it follows from. The oracle judges, never
//! the scenario.

use std::collections::{BTreeMap, BTreeSet};

use ottla::sim::Tick;
use ottla::{ErrorKind, RecordStatus};
use ottla_broker::{AppendedBatch, Core, LogBatch};
use ottla_protocol::record::Batches;

use crate::callers::headers_for_value;
use crate::history::{HandlerOutcome, History, RecordOutcome, SentRecord, encode_token};
use crate::scenario::Scenario;

/// A partition of one topic of that name: name, id, partition.
type LogId = (String, [u8; 16], i32);

/// Logs as they stood at the end, or when their topic was deleted, and everything any leader ever appended.
#[derive(Default)]
pub(crate) struct ClusterLogs {
    snapshots: BTreeMap<LogId, Vec<LogBatch>>,
    journal: Vec<AppendedBatch>,
}

/// A record in a log.
#[derive(Debug, PartialEq, Eq)]
struct LoggedRecord {
    offset: i64,
    timestamp: i64,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

/// What stands in the logs, record by record.
pub(crate) struct DecodedLogs {
    logs: BTreeMap<LogId, Vec<LoggedRecord>>,
    /// Values ever appended to a topic's partition: at which offsets.
    appended_offsets: BTreeMap<(String, i32), BTreeMap<Vec<u8>, Vec<i64>>>,
}

impl ClusterLogs {
    /// Keeps a topic's logs as they are now.
    pub(crate) fn snapshot_topic(&mut self, core: &Core, topic: &str) {
        let Some((id, count)) = core.describe_topic(topic) else { return };
        for p in 0..count {
            let batches = core.batches(topic, p).unwrap_or_default();
            self.snapshots.insert((topic.to_owned(), id.0, p), batches);
        }
    }

    pub(crate) fn set_journal(&mut self, journal: Vec<AppendedBatch>) {
        self.journal = journal;
    }

    pub(crate) fn decode(&self) -> Result<DecodedLogs, String> {
        let mut logs = BTreeMap::new();
        for (place, batches) in &self.snapshots {
            let mut list = Vec::new();
            for b in batches {
                decode_records(&b.bytes, 0, &mut list).map_err(|e| {
                    format!("the log of {}-{} cannot be read: {e}", place.0, place.2)
                })?;
            }
            logs.insert(place.clone(), list);
        }
        let mut ever: BTreeMap<(String, i32), BTreeMap<Vec<u8>, Vec<i64>>> = BTreeMap::new();
        for j in &self.journal {
            let mut list = Vec::new();
            decode_records(&j.records, j.base_offset, &mut list)?;
            let of = ever.entry((j.topic.clone(), j.partition)).or_default();
            for l in list {
                of.entry(l.value).or_default().push(l.offset);
            }
        }
        Ok(DecodedLogs { logs, appended_offsets: ever })
    }
}

fn decode_records(bytes: &[u8], base: i64, list: &mut Vec<LoggedRecord>) -> Result<(), String> {
    for view in Batches::new(bytes) {
        let view = view.map_err(|e| e.to_string())?;
        let records = view.records(1 << 30).map_err(|e| e.to_string())?;
        for r in records.to_vec().map_err(|e| e.to_string())? {
            list.push(LoggedRecord {
                offset: base + r.offset,
                timestamp: r.timestamp,
                headers: (r.headers.iter())
                    .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
                    .collect(),
                key: r.key.map(<[u8]>::to_vec),
                value: r.value.unwrap_or_default().to_vec(),
            });
        }
    }
    Ok(())
}

impl DecodedLogs {
    /// The logs of a partition under any id its topic had.
    fn partition_logs<'r>(
        &'r self,
        topic: &'r str,
        partition: i32,
    ) -> impl Iterator<Item = &'r [LoggedRecord]> + 'r {
        let mine = move |place: &LogId| place.0 == topic && place.2 == partition;
        self.logs.iter().filter(move |(place, _)| mine(place)).map(|(_, log)| log.as_slice())
    }
}

/// Everything there is to judge by.
pub(crate) struct Observations<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) history: &'a History,
    pub(crate) handler_outcomes: BTreeMap<u64, HandlerOutcome>,
    pub(crate) logs: &'a DecodedLogs,
    pub(crate) available_memory: u64,
    pub(crate) suspensions: &'a [(Tick, Tick)],
    /// Partitions the topics had in the end.
    pub(crate) partition_counts: BTreeMap<String, i32>,
    /// When the world healed.
    pub(crate) healed_at: Tick,
    /// Producer ids the cluster gave.
    pub(crate) producer_ids_assigned: u64,
}

impl Observations<'_> {
    /// Whether the record was sent while every node was gone.
    fn is_sent_during_outage(&self, sent: &SentRecord) -> bool {
        sent.caller == self.scenario.callers + 1
    }

    /// When something that may take so long is over at the latest. A machine that sleeps meanwhile can only see to
    /// it when it wakes.
    fn latest_deadline(&self, from: Tick, ms: u64) -> Tick {
        let mut latest = Tick(from.0 + (ms + 1) * 1_000_000);
        for (slept, woke) in self.suspensions {
            if (*slept..=*woke).contains(&latest) {
                latest = Tick(woke.0 + 1_000_000);
            }
        }
        latest
    }
}

type Check = fn(&Observations<'_>) -> Result<(), String>;

/// A demand.
struct Invariant {
    /// In words; checks made while the run goes on report under it.
    statement: &'static str,
    /// Which settings it follows from, in words and as a test.
    #[cfg_attr(not(test), allow(dead_code, reason = "for the page"))]
    condition: &'static str,
    applies: fn(&Scenario) -> bool,
    check: Check,
}

const ALWAYS: fn(&Scenario) -> bool = |_| true;
const CHECKED_DURING_RUN: Check = |_| Ok(());

#[rustfmt::skip]
const INVARIANTS: &[Invariant] = &[
    Invariant { statement: "every accepted record ends exactly once, told alike to its delivery, its callback and the handler", condition: "always", applies: ALWAYS, check: check_completed_once },
    Invariant { statement: "no end is a bug of the producer's own", condition: "always", applies: ALWAYS, check: check_no_internal_errors },
    Invariant { statement: "a record goes to the partition it asks for", condition: "always", applies: ALWAYS, check: CHECKED_DURING_RUN },
    Invariant { statement: "nothing is claimed but that a record went out", condition: "acks=0", applies: |s| s.acks == "0", check: check_no_offsets },
    Invariant { statement: "everything accepted is acknowledged", condition: "nothing goes wrong, and there is time", applies: Scenario::is_fault_free, check: check_all_acknowledged },
    Invariant { statement: "what was sent while nobody was there was not written", condition: "acks=1 or all", applies: |s| s.acks != "0", check: check_outage_not_persisted },
    Invariant { statement: "records end in time: creation of their batch + delivery.timeout.ms + one loop", condition: "always", applies: ALWAYS, check: check_delivery_timeout },
    Invariant { statement: "blocked callers are let go in time: max.block.ms + one loop", condition: "always", applies: ALWAYS, check: check_max_block },
    Invariant { statement: "requests in flight are as many as allowed", condition: "always", applies: ALWAYS, check: CHECKED_DURING_RUN },
    Invariant { statement: "a flush waits for all there was", condition: "always", applies: ALWAYS, check: CHECKED_DURING_RUN },
    Invariant { statement: "memory is all back", condition: "always", applies: ALWAYS, check: check_memory_returned },
    Invariant { statement: "memory is never above its cap but by what one batch that is being split takes three times", condition: "always", applies: ALWAYS, check: CHECKED_DURING_RUN },
    Invariant { statement: "the sender goes round only for what happens, and rests when nothing does", condition: "always", applies: ALWAYS, check: CHECKED_DURING_RUN },
    Invariant { statement: "memory is first come, first served", condition: "always", applies: ALWAYS, check: check_memory_fairness },
    Invariant { statement: "what is in a log is byte for byte what was sent there", condition: "always", applies: ALWAYS, check: check_log_contents },
    Invariant { statement: "what is said not to be written is in no log", condition: "always", applies: ALWAYS, check: check_not_persisted },
    Invariant { statement: "a stated offset holds that record in the log of the leader that answered, when it answered", condition: "acks=1 or all", applies: |s| s.acks != "0", check: check_offsets },
    Invariant { statement: "what is acknowledged is in the log, and stays there through every leader move that keeps the ISR", condition: "acks=all, no unclean election", applies: |s| s.acks == "all" && !s.unclean_leader_election, check: check_acknowledged_persisted },
    Invariant { statement: "nothing is twice, in one topic or in those made anew under its name", condition: "idempotent", applies: |s| s.idempotent, check: check_no_duplicates },
    Invariant { statement: "of each caller and partition the log has the order of append", condition: "idempotent", applies: |s| s.idempotent, check: check_order },
    Invariant { statement: "of each caller and partition the log has what was acknowledged in the order of append", condition: "not idempotent, one request in flight", applies: |s| !s.idempotent && s.max_in_flight == 1, check: check_order },
    Invariant { statement: "what has time left when the world heals is acknowledged, or refused by a broker", condition: "acks=1 or all, retries without end, no fatal error, not closed before", applies: |s| s.acks != "0" && s.retries > 100 && !s.has_fatal_faults && s.close_at_ms == 0, check: check_delivered_after_heal },
    Invariant { statement: "a healed world takes what is sent to it", condition: "no fatal error, not closed before", applies: |s| !s.has_fatal_faults && s.close_at_ms == 0, check: check_recovery_results },
];

/// What was broken first, in words; else a number of everything that was seen.
pub(crate) fn check_invariants(case: &Observations<'_>) -> Result<u64, String> {
    if let Some((what, how)) = case.history.violations.first() {
        debug_assert!(INVARIANTS.iter().any(|d| d.statement == *what), "{what}");
        return Err(format!("{what}: {how}"));
    }
    for d in INVARIANTS.iter().filter(|d| (d.applies)(case.scenario)) {
        (d.check)(case).map_err(|how| format!("{}: {how}", d.statement))?;
    }
    let mut fingerprint = 0xcbf2_9ce4_8422_2325_u64;
    for (sent, ended) in &case.history.records {
        let ok = ended.as_ref().is_some_and(|e| e.result.is_ok());
        let at = case
            .handler_outcomes
            .get(&encode_token(sent.caller, sent.index))
            .map_or(0, |h| h.completed_at.0);
        for word in [sent.accepted_at.0, at, u64::from(ok)] {
            fingerprint = (fingerprint ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(fingerprint)
}

/// The table as a page.
#[cfg(test)]
pub(crate) fn invariants_markdown() -> String {
    let mut out = String::from("| demand | of which runs |\n|---|---|\n");
    for d in INVARIANTS {
        out.push_str(&format!("| {} | {} |\n", d.statement, d.condition));
    }
    out
}

fn describe_record(sent: &SentRecord) -> String {
    format!("record {} of caller {} on {}-{}", sent.index, sent.caller, sent.topic, sent.partition)
}

fn is_acknowledged(ended: Option<&RecordOutcome>) -> bool {
    ended.is_some_and(|e| e.result.is_ok())
}

fn check_completed_once(case: &Observations<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        let token = encode_token(sent.caller, sent.index);
        let Some(ended) = ended else {
            return Err(format!("{} never ended", describe_record(sent)));
        };
        match case.handler_outcomes.get(&token) {
            Some(h) if h.reports == 1 && h.is_acknowledged == ended.result.is_ok() => {}
            other => return Err(format!("{}: the handler heard {other:?}", describe_record(sent))),
        }
        let told = match &ended.result {
            Ok(m) => Ok(m.offset()),
            Err(e) => Err(e.to_string()),
        };
        let called = case.history.callback_results.get(&token).map_or(&[][..], Vec::as_slice);
        let expected: &[_] = if sent.has_callback { &[told] } else { &[] };
        if called != expected {
            return Err(format!("{}: its callback was told {called:?}", describe_record(sent)));
        }
    }
    if case.handler_outcomes.len() != case.history.records.len() {
        return Err("an end was heard of a record that was not accepted".to_owned());
    }
    Ok(())
}

fn check_no_internal_errors(case: &Observations<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        if let Some(Err(e)) = ended.as_ref().map(|e| &e.result)
            && e.kind() == ErrorKind::Internal
        {
            return Err(format!("{}: {e}", describe_record(sent)));
        }
    }
    Ok(())
}

fn check_no_offsets(case: &Observations<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        if let Some(Ok(m)) = ended.as_ref().map(|e| &e.result)
            && m.offset().is_some()
        {
            return Err(format!("{} is said to be at {:?}", describe_record(sent), m.offset()));
        }
    }
    Ok(())
}

fn check_all_acknowledged(case: &Observations<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        if let Some(Err(e)) = ended.as_ref().map(|e| &e.result)
            && !case.is_sent_during_outage(sent)
        {
            return Err(format!("{}: {e}", describe_record(sent)));
        }
    }
    Ok(())
}

fn check_outage_not_persisted(case: &Observations<'_>) -> Result<(), String> {
    for (sent, ended) in case.history.records.iter().filter(|(r, _)| case.is_sent_during_outage(r))
    {
        match ended.as_ref().map(|e| &e.result) {
            Some(Err(e)) if e.record_status() == RecordStatus::NotPersisted => {}
            other => return Err(format!("{}: {other:?}", describe_record(sent))),
        }
    }
    Ok(())
}

fn check_delivery_timeout(case: &Observations<'_>) -> Result<(), String> {
    for (sent, _) in &case.history.records {
        let Some(heard) = case.handler_outcomes.get(&encode_token(sent.caller, sent.index)) else {
            continue;
        };
        // Its batch is not younger than it is itself.
        let latest = case.latest_deadline(sent.accepted_at, case.scenario.delivery_timeout_ms);
        if heard.completed_at > latest {
            return Err(format!(
                "{} accepted at {:?}, ended at {:?}",
                describe_record(sent),
                sent.accepted_at,
                heard.completed_at
            ));
        }
    }
    Ok(())
}

fn check_max_block(case: &Observations<'_>) -> Result<(), String> {
    for (asked, at) in &case.history.send_calls {
        if *at > case.latest_deadline(*asked, case.scenario.max_block_ms) {
            return Err(format!("a call waited from {asked:?} to {at:?}"));
        }
    }
    Ok(())
}

fn check_memory_returned(case: &Observations<'_>) -> Result<(), String> {
    if case.available_memory == case.scenario.buffer_memory {
        return Ok(());
    }
    Err(format!("{} of {}", case.available_memory, case.scenario.buffer_memory))
}

/// Whoever waited for memory in vain was not passed by: what was accepted of later calls meanwhile fitted into
/// batches that were open already.
fn check_memory_fairness(case: &Observations<'_>) -> Result<(), String> {
    let s = case.scenario;
    // What is open is a batch a partition, of its size or of one record, and no more than there is memory; those who
    // waited before may each open another.
    let (partitions, batch) =
        (s.topics * (s.partitions + 3), s.batch_size.max(s.max_value_len + 200));
    let room = (partitions * batch).min(s.buffer_memory) + s.callers * batch;
    for refused in case.history.rejected.iter().filter(|r| r.is_memory_exhausted) {
        let later = case.history.records.iter().filter(|(r, _)| {
            r.called_at > refused.called_at && r.accepted_at < refused.returned_at
        });
        let bytes: u64 = later.map(|(r, _)| r.value.len() as u64 + 7).sum();
        if bytes > room {
            return Err(format!(
                "a call waited in vain from {:?} to {:?}; {bytes} bytes of later calls were accepted",
                refused.called_at, refused.returned_at
            ));
        }
    }
    Ok(())
}

/// Whether a record in a log is the one that was sent, beside its value.
fn is_same_record(sent: &SentRecord, logged: &LoggedRecord) -> bool {
    let headers = if sent.has_headers { &headers_for_value(&sent.value)[..] } else { &[] };
    sent.key == logged.key
        && sent.timestamp.is_none_or(|at| at == logged.timestamp)
        && headers.len() == logged.headers.len()
        && headers.iter().zip(&logged.headers).all(|(sent, logged)| {
            (sent.key.as_bytes(), sent.value) == (logged.0.as_slice(), logged.1.as_deref())
        })
}

fn check_log_contents(case: &Observations<'_>) -> Result<(), String> {
    let mut sent = BTreeMap::new();
    for (r, _) in &case.history.records {
        sent.insert((r.topic.as_str(), r.partition, r.value.as_slice()), r);
    }
    for ((topic, _, partition), log) in &case.logs.logs {
        for (i, l) in log.iter().enumerate() {
            if l.offset != i as i64 {
                return Err(format!("{topic}-{partition} has offset {} at place {i}", l.offset));
            }
            match sent.get(&(topic.as_str(), *partition, l.value.as_slice())) {
                Some(r) if is_same_record(r, l) => {}
                Some(_) => {
                    let what = "key, headers or timestamp are others";
                    return Err(format!("{topic}-{partition} at {i}: {what}"));
                }
                None => return Err(format!("{topic}-{partition} at {i}: nobody sent that there")),
            }
        }
    }
    Ok(())
}

fn check_not_persisted(case: &Observations<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        let Some(Err(e)) = ended.as_ref().map(|e| &e.result) else { continue };
        if e.record_status() != RecordStatus::NotPersisted {
            continue;
        }
        let found = |log: &[LoggedRecord]| log.iter().any(|l| l.value == sent.value);
        if case.logs.partition_logs(&sent.topic, sent.partition).any(found) {
            return Err(format!("{} ({e})", describe_record(sent)));
        }
    }
    Ok(())
}

fn check_offsets(case: &Observations<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        let Some(Ok(m)) = ended.as_ref().map(|e| &e.result) else { continue };
        if (m.topic(), m.partition()) != (sent.topic.as_str(), sent.partition) {
            return Err(format!(
                "{} is said to be on {}-{}",
                describe_record(sent),
                m.topic(),
                m.partition()
            ));
        }
        let ever = case.logs.appended_offsets.get(&(sent.topic.clone(), sent.partition));
        match (ever.and_then(|e| e.get(&sent.value)), m.offset()) {
            (None, _) => return Err(format!("{} was never appended", describe_record(sent))),
            (Some(at), Some(offset)) if !at.contains(&offset) => {
                return Err(format!(
                    "{} is said to be at {offset}, was at {at:?}",
                    describe_record(sent)
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_acknowledged_persisted(case: &Observations<'_>) -> Result<(), String> {
    for (sent, _) in case.history.records.iter().filter(|(_, e)| is_acknowledged(e.as_ref())) {
        let found = |log: &[LoggedRecord]| log.iter().any(|l| l.value == sent.value);
        if !case.logs.partition_logs(&sent.topic, sent.partition).any(found) {
            return Err(format!("{} is in no log", describe_record(sent)));
        }
    }
    Ok(())
}

fn check_no_duplicates(case: &Observations<'_>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for ((topic, _, partition), log) in &case.logs.logs {
        for l in log {
            if !seen.insert((topic, partition, &l.value)) {
                let text = String::from_utf8_lossy(&l.value);
                return Err(format!("{topic}-{partition} at {}: {text:.20}", l.offset));
            }
        }
    }
    Ok(())
}

fn check_order(case: &Observations<'_>) -> Result<(), String> {
    let mut of = BTreeMap::new();
    for (r, e) in &case.history.records {
        // What failed as possibly written may come late where nothing fences it: without sequences, or under an id
        // that was given up for another.
        let counts = is_acknowledged(e.as_ref())
            || (case.scenario.idempotent && case.producer_ids_assigned <= 1);
        of.insert((r.topic.as_str(), r.partition, r.value.as_slice()), (r.caller, r.index, counts));
    }
    for ((topic, _, partition), log) in &case.logs.logs {
        let (mut last, mut first_seen) = (BTreeMap::new(), BTreeSet::new());
        for l in log {
            let found = of.get(&(topic.as_str(), *partition, l.value.as_slice()));
            let Some((caller, n, true)) = found else { continue };
            if !first_seen.insert((caller, n)) {
                continue;
            }
            if let Some(before) = last.insert(*caller, *n).filter(|before| before > n) {
                return Err(format!(
                    "{topic}-{partition} at {}: {n} of caller {caller} stands behind {before}",
                    l.offset
                ));
            }
        }
    }
    Ok(())
}

/// Longer than any connection, request or backoff from before may still take.
const RECOVERY_MS: u64 = 20_000;

fn check_delivered_after_heal(case: &Observations<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        let Some(Err(e)) = ended.as_ref().map(|e| &e.result) else { continue };
        let end = sent.accepted_at.0 + case.scenario.delivery_timeout_ms * 1_000_000;
        // A topic that was made anew may lack the partition; what was sent while nobody was there has no time left.
        let in_the_dark = sent.caller == case.scenario.callers + 1;
        if in_the_dark
            || case.partition_counts.get(&sent.topic).is_none_or(|count| sent.partition >= *count)
        {
            continue;
        }
        if e.kind() == ErrorKind::DeliveryTimeout
            && end > case.latest_deadline(case.healed_at, RECOVERY_MS).0
        {
            return Err(format!("{} failed all the same: {e}", describe_record(sent)));
        }
    }
    Ok(())
}

fn check_recovery_results(case: &Observations<'_>) -> Result<(), String> {
    for (place, result) in &case.history.recovery_results {
        result.as_ref().map_err(|e| format!("a record for {place} sent after all: {e}"))?;
    }
    Ok(())
}
