//! The checks of the invariants in the table. Each returns the evidence of the first violation.

use std::collections::{BTreeMap, BTreeSet};

use ottla::{ErrorKind, RecordStatus};

use super::Observations;
use super::logs::LoggedRecord;
use crate::callers::headers_for_value;
use crate::history::{SentRecord, encode_token};

type CheckResult = Result<(), String>;

fn describe_record(sent: &SentRecord) -> String {
    format!("record {} of caller {} on {}-{}", sent.index, sent.caller, sent.topic, sent.partition)
}

pub(super) fn check_completed_once(o: &Observations<'_>) -> CheckResult {
    for r in &o.history.records {
        let token = encode_token(r.sent.caller, r.sent.index);
        let record = describe_record(&r.sent);
        let Some(result) = r.result() else {
            return Err(format!("{record} never completed"));
        };
        match o.handler_outcomes.get(&token) {
            Some(h) if h.reports == 1 && h.is_acknowledged == result.is_ok() => {}
            other => return Err(format!("{record}: the handler received {other:?}")),
        }
        let result = match result {
            Ok(m) => Ok(m.offset()),
            Err(e) => Err(e.to_string()),
        };
        let calls = o.history.callback_results.get(&token).map_or(&[][..], Vec::as_slice);
        let expected: &[_] = if r.sent.has_callback { &[result] } else { &[] };
        if calls != expected {
            return Err(format!("{record}: its callback received {calls:?}"));
        }
    }
    if o.handler_outcomes.len() != o.history.records.len() {
        return Err("the handler received a record that was not accepted".to_owned());
    }
    Ok(())
}

pub(super) fn check_no_internal_errors(o: &Observations<'_>) -> CheckResult {
    for r in &o.history.records {
        if let Some(e) = r.error()
            && e.kind() == ErrorKind::Internal
        {
            return Err(format!("{}: {e}", describe_record(&r.sent)));
        }
    }
    Ok(())
}

pub(super) fn check_no_offsets(o: &Observations<'_>) -> CheckResult {
    for r in &o.history.records {
        if let Some(Ok(m)) = r.result()
            && let Some(offset) = m.offset()
        {
            return Err(format!("{} got offset {offset}", describe_record(&r.sent)));
        }
    }
    Ok(())
}

pub(super) fn check_all_acknowledged(o: &Observations<'_>) -> CheckResult {
    for r in &o.history.records {
        if let Some(e) = r.error()
            && !o.is_sent_during_outage(&r.sent)
        {
            return Err(format!("{}: {e}", describe_record(&r.sent)));
        }
    }
    Ok(())
}

pub(super) fn check_outage_not_persisted(o: &Observations<'_>) -> CheckResult {
    for r in o.history.records.iter().filter(|r| o.is_sent_during_outage(&r.sent)) {
        match r.result() {
            Some(Err(e)) if e.record_status() == RecordStatus::NotPersisted => {}
            other => return Err(format!("{}: {other:?}", describe_record(&r.sent))),
        }
    }
    Ok(())
}

pub(super) fn check_delivery_timeout(o: &Observations<'_>) -> CheckResult {
    for r in &o.history.records {
        let Some(h) = o.handler_outcomes.get(&encode_token(r.sent.caller, r.sent.index)) else {
            continue;
        };
        // The timeout starts when the batch is created, which is never after the acceptance.
        let latest = o.latest_deadline(r.sent.accepted_at, o.scenario.delivery_timeout_ms);
        if h.completed_at > latest {
            let (from, to) = (r.sent.accepted_at, h.completed_at);
            let record = describe_record(&r.sent);
            return Err(format!("{record} was accepted at {from:?} and completed at {to:?}"));
        }
    }
    Ok(())
}

pub(super) fn check_max_block(o: &Observations<'_>) -> CheckResult {
    for call in &o.history.send_calls {
        if call.returned_at > o.latest_deadline(call.called_at, o.scenario.max_block_ms) {
            let (from, to) = (call.called_at, call.returned_at);
            return Err(format!("a call blocked from {from:?} to {to:?}"));
        }
    }
    Ok(())
}

pub(super) fn check_memory_returned(o: &Observations<'_>) -> CheckResult {
    if o.available_memory == o.scenario.buffer_memory {
        return Ok(());
    }
    Err(format!("{} of {} bytes are available", o.available_memory, o.scenario.buffer_memory))
}

/// Checks that no later call got memory while an earlier one waited until its timeout.
///
/// A later record may still be accepted if it fits into a batch that is open already. So the check
/// allows as many bytes as open batches can hold.
pub(super) fn check_memory_fairness(o: &Observations<'_>) -> CheckResult {
    let s = o.scenario;
    // Each partition has at most one open batch, of `batch.size` or of one large record, within
    // the limit of the memory. A topic may have got 3 more partitions. Each caller that waited
    // earlier may open one more batch.
    let partitions = s.topics * (s.partitions + 3);
    let batch_bytes = s.batch_size.max(s.max_value_len + 200);
    let open_bytes = (partitions * batch_bytes).min(s.buffer_memory);
    let allowed_bytes = open_bytes + s.callers * batch_bytes;
    for call in o.history.rejected.iter().filter(|r| r.is_memory_exhausted) {
        let accepted_meanwhile =
            o.history.records.iter().map(|r| &r.sent).filter(|sent| {
                sent.called_at > call.called_at && sent.accepted_at < call.returned_at
            });
        let bytes: u64 = accepted_meanwhile.map(|sent| sent.value.len() as u64 + 7).sum();
        if bytes > allowed_bytes {
            return Err(format!(
                "a call waited from {:?} to {:?} and got no memory; \
                 {bytes} bytes of later calls were accepted meanwhile",
                call.called_at, call.returned_at
            ));
        }
    }
    Ok(())
}

/// Returns whether key, headers and timestamp of a logged record are those that were sent.
fn is_same_record(sent: &SentRecord, logged: &LoggedRecord) -> bool {
    let headers = if sent.has_headers { &headers_for_value(&sent.value)[..] } else { &[] };
    sent.key == logged.key
        && sent.timestamp.is_none_or(|at| at == logged.timestamp)
        && headers.len() == logged.headers.len()
        && headers.iter().zip(&logged.headers).all(|(sent, (key, value))| {
            (sent.key.as_bytes(), sent.value.as_deref()) == (key.as_slice(), value.as_deref())
        })
}

pub(super) fn check_log_contents(o: &Observations<'_>) -> CheckResult {
    let mut sent_records = BTreeMap::new();
    for sent in o.history.records.iter().map(|r| &r.sent) {
        let key = (sent.topic.as_str(), sent.partition, sent.value.as_slice());
        sent_records.insert(key, sent);
    }
    for (id, log) in &o.logs.logs {
        let (topic, partition) = (id.topic.as_str(), id.partition);
        for (i, logged) in log.iter().enumerate() {
            let offset = logged.offset;
            if offset != i as i64 {
                return Err(format!("{topic}-{partition}: record {i} has offset {offset}"));
            }
            let fault = match sent_records.get(&(topic, partition, logged.value.as_slice())) {
                Some(sent) if is_same_record(sent, logged) => continue,
                Some(_) => "key, headers or timestamp differ",
                None => "no caller sent that record there",
            };
            return Err(format!("{topic}-{partition} at {offset}: {fault}"));
        }
    }
    Ok(())
}

pub(super) fn check_not_persisted(o: &Observations<'_>) -> CheckResult {
    for r in &o.history.records {
        let Some(e) = r.error() else { continue };
        if e.record_status() == RecordStatus::NotPersisted
            && o.logs.contains(&r.sent.topic, r.sent.partition, &r.sent.value)
        {
            return Err(format!("{} ({e})", describe_record(&r.sent)));
        }
    }
    Ok(())
}

pub(super) fn check_offsets(o: &Observations<'_>) -> CheckResult {
    for r in &o.history.records {
        let Some(Ok(m)) = r.result() else { continue };
        let record = describe_record(&r.sent);
        if (m.topic(), m.partition()) != (r.sent.topic.as_str(), r.sent.partition) {
            return Err(format!("{record} was reported on {}-{}", m.topic(), m.partition()));
        }
        let appended = o.logs.appended_offsets.get(&(r.sent.topic.clone(), r.sent.partition));
        match (appended.and_then(|by_value| by_value.get(&r.sent.value)), m.offset()) {
            (None, _) => return Err(format!("{record} was never appended")),
            (Some(offsets), Some(offset)) if !offsets.contains(&offset) => {
                return Err(format!("{record} was reported at {offset}, appended at {offsets:?}"));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn check_acknowledged_persisted(o: &Observations<'_>) -> CheckResult {
    for sent in o.history.records.iter().filter(|r| r.is_acknowledged()).map(|r| &r.sent) {
        if !o.logs.contains(&sent.topic, sent.partition, &sent.value) {
            return Err(format!("{} is in no log", describe_record(sent)));
        }
    }
    Ok(())
}

pub(super) fn check_no_duplicates(o: &Observations<'_>) -> CheckResult {
    let mut seen = BTreeSet::new();
    for (id, log) in &o.logs.logs {
        for logged in log {
            if !seen.insert((&id.topic, id.partition, &logged.value)) {
                let value = String::from_utf8_lossy(&logged.value);
                let (topic, partition) = (&id.topic, id.partition);
                return Err(format!("{topic}-{partition} at {}: {value:.20}", logged.offset));
            }
        }
    }
    Ok(())
}

pub(super) fn check_order(o: &Observations<'_>) -> CheckResult {
    struct Expected {
        caller: u64,
        index: u64,
        is_ordered: bool,
    }

    let mut expected = BTreeMap::new();
    for r in &o.history.records {
        // A late copy of a record that failed as PossiblyPersisted may be appended out of order
        // where no sequence or epoch stops it: without idempotence, or under a producer id that
        // the producer has replaced.
        let is_ordered =
            r.is_acknowledged() || (o.scenario.idempotent && o.producer_ids_assigned <= 1);
        expected.insert(
            (r.sent.topic.as_str(), r.sent.partition, r.sent.value.as_slice()),
            Expected { caller: r.sent.caller, index: r.sent.index, is_ordered },
        );
    }
    for (id, log) in &o.logs.logs {
        let (topic, partition) = (id.topic.as_str(), id.partition);
        let (mut last_index, mut seen) = (BTreeMap::new(), BTreeSet::new());
        for logged in log {
            let found = expected.get(&(topic, partition, logged.value.as_slice()));
            let Some(Expected { caller, index, is_ordered: true }) = found else { continue };
            // Only the first copy counts: without idempotence, a retry may append another.
            if !seen.insert((caller, index)) {
                continue;
            }
            if let Some(earlier) = last_index.insert(caller, index).filter(|i| *i > index) {
                let offset = logged.offset;
                return Err(format!(
                    "{topic}-{partition} at {offset}: record {index} of caller {caller} \
                     follows record {earlier}"
                ));
            }
        }
    }
    Ok(())
}

/// The longest time in which the producer returns to normal after the faults: longer than any
/// connection attempt, request or backoff that began before.
const RECOVERY_MS: u64 = 20_000;
/// The shortest delivery timeout that leaves time for the dead addresses of a broker's name.
const MIN_TIMEOUT_BY_NAME_MS: u64 = 5_000;
/// The shortest delivery timeout that leaves time for five metadata responses, with the longest
/// backoff of the scenarios between them.
const MIN_TIMEOUT_RESTORED_MS: u64 = 2_000;

/// Returns whether a timeout is explained by the older leader epochs of a restored topic.
///
/// The client believes an older epoch only after five metadata responses in a row, because one
/// response may come from a broker that lags behind. Until then it sends to the old leader, which
/// rejects the records; a record whose timeout is shorter than those five responses dies of that
/// (seed 40001440: 301 ms). A record that was sent after the fifth response has no such excuse.
fn is_explained_by_older_epoch(o: &Observations<'_>, sent: &SentRecord) -> bool {
    let ignored_until = o.older_epochs.and_then(|e| e.ignored_until(&sent.topic, sent.partition));
    o.scenario.delivery_timeout_ms < MIN_TIMEOUT_RESTORED_MS
        && ignored_until.is_some_and(|until| sent.called_at < until)
}

pub(super) fn check_delivered_after_heal(o: &Observations<'_>) -> CheckResult {
    // A node's first connection after the faults may try dead addresses that an earlier lookup
    // returned, each with a backoff (seed 7001303: 350 ms were too short for that).
    if o.scenario.brokers_by_name && o.scenario.delivery_timeout_ms < MIN_TIMEOUT_BY_NAME_MS {
        return Ok(());
    }
    for r in &o.history.records {
        let Some(e) = r.error() else { continue };
        // A topic that was recreated may lack the record's partition.
        let has_partition =
            o.partition_counts.get(&r.sent.topic).is_some_and(|count| r.sent.partition < *count);
        // A record that was sent during the outage has no time left by design.
        if o.is_sent_during_outage(&r.sent)
            || !has_partition
            || is_explained_by_older_epoch(o, &r.sent)
        {
            continue;
        }
        let deadline = r.sent.accepted_at.0 + o.scenario.delivery_timeout_ms * 1_000_000;
        if e.kind() == ErrorKind::DeliveryTimeout
            && deadline > o.latest_deadline(o.healed_at, RECOVERY_MS).0
        {
            return Err(format!("{}: {e}", describe_record(&r.sent)));
        }
    }
    Ok(())
}

pub(super) fn check_recovery_results(o: &Observations<'_>) -> CheckResult {
    for r in &o.history.recovery_results {
        r.result.as_ref().map_err(|e| format!("the record for {} failed: {e}", r.partition))?;
    }
    Ok(())
}
