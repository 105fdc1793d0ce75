//! What must hold of a history, whatever the seed.

use std::collections::BTreeMap;

use ottla::sim::Tick;
use ottla::{Certainty, Error, RecordMetadata};
use ottla_protocol::record::Batches;

use crate::scenario::Scenario;

/// A record that was accepted.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Who sent it.
    pub caller: u64,
    /// The how-many-eth of its caller.
    pub n: u64,
    /// Where it was to go.
    pub partition: i32,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value, unique.
    pub value: Vec<u8>,
    /// When `send` was called.
    pub asked: Tick,
    /// When `send` returned.
    pub accepted: Tick,
}

/// How it ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// When.
    pub at: Tick,
    /// How.
    pub result: Result<RecordMetadata, Error>,
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct History {
    /// Accepted records and their ends.
    pub records: Vec<(Sent, Option<Ended>)>,
    /// Records that were not accepted.
    pub refused: u64,
    /// Callers that waited longer than they may, in words.
    pub late_callers: Vec<String>,
}

/// A record in a log.
#[derive(Debug)]
struct Logged {
    offset: i64,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

/// What was broken, in words.
pub(crate) fn judge(
    s: &Scenario,
    history: &History,
    logs: &BTreeMap<i32, Vec<ottla_broker::Batch>>,
    memory_left: u64,
) -> Result<(), String> {
    let logs = read(logs)?;
    if memory_left != s.buffer_memory {
        return Err(format!("memory: {memory_left} of {} came back", s.buffer_memory));
    }
    if let Some(late) = history.late_callers.first() {
        return Err(late.clone());
    }
    for (sent, ended) in &history.records {
        one(s, sent, ended.as_ref(), &logs)?;
    }
    if s.idempotent {
        nothing_twice(&logs)?;
    }
    if s.idempotent || s.in_flight == 1 {
        in_order(s, history, &logs)?;
    }
    only_what_was_sent(history, &logs)
}

fn read(
    logs: &BTreeMap<i32, Vec<ottla_broker::Batch>>,
) -> Result<BTreeMap<i32, Vec<Logged>>, String> {
    let mut out = BTreeMap::new();
    for (partition, batches) in logs {
        let list: &mut Vec<Logged> = out.entry(*partition).or_default();
        for bytes in batches.iter().map(|b| &b.bytes) {
            for view in Batches::new(bytes) {
                let view =
                    view.map_err(|e| format!("the log of {partition} cannot be read: {e}"))?;
                let records = view.records(1 << 30).map_err(|e| e.to_string())?;
                for r in records.collect().map_err(|e| e.to_string())? {
                    let (key, value) =
                        (r.key.map(<[u8]>::to_vec), r.value.unwrap_or_default().to_vec());
                    list.push(Logged { offset: r.offset, key, value });
                }
            }
        }
    }
    Ok(out)
}

fn one(
    s: &Scenario,
    sent: &Sent,
    ended: Option<&Ended>,
    logs: &BTreeMap<i32, Vec<Logged>>,
) -> Result<(), String> {
    let who = format!("record {} of caller {} on {}", sent.n, sent.caller, sent.partition);
    let Some(ended) = ended else {
        return Err(format!("{who} never ended"));
    };
    let latest = sent.accepted.0 + (s.delivery_ms + 1) * 1_000_000;
    if ended.at.0 > latest {
        return Err(format!("{who} ended at {:?}, accepted at {:?}", ended.at, sent.accepted));
    }
    let log = logs.get(&sent.partition).map_or(&[][..], Vec::as_slice);
    let found: Vec<&Logged> = log.iter().filter(|l| l.value == sent.value).collect();
    if found.iter().any(|l| l.key != sent.key) {
        return Err(format!("{who} has another key in the log"));
    }
    match &ended.result {
        Ok(_) if s.acks == "0" => Ok(()),
        Ok(m) => {
            if m.partition() != sent.partition {
                return Err(format!("{who} was acknowledged on {}", m.partition()));
            }
            if found.is_empty() {
                return Err(format!("{who} was acknowledged and is in no log"));
            }
            match m.offset() {
                Some(offset) if !found.iter().any(|l| l.offset == offset) => {
                    Err(format!("{who} is not at its offset {offset}"))
                }
                _ => Ok(()),
            }
        }
        Err(e) if e.certainty() == Certainty::NotWritten && !found.is_empty() => {
            Err(format!("{who} was not written ({e}) and is in the log"))
        }
        Err(_) => Ok(()),
    }
}

fn nothing_twice(logs: &BTreeMap<i32, Vec<Logged>>) -> Result<(), String> {
    for (partition, log) in logs {
        let mut seen = std::collections::BTreeSet::new();
        for l in log {
            if !seen.insert(&l.value) {
                return Err(format!(
                    "a record is twice in the log of {partition}, again at {}",
                    l.offset
                ));
            }
        }
    }
    Ok(())
}

/// Of each caller and partition, what is in the log for the first time stands in the order of append.
fn in_order(
    s: &Scenario,
    history: &History,
    logs: &BTreeMap<i32, Vec<Logged>>,
) -> Result<(), String> {
    for (partition, log) in logs {
        for caller in 0..s.callers {
            let mut last = None;
            let mut first_seen = std::collections::BTreeSet::new();
            for l in log {
                let of =
                    history.records.iter().find(|(r, _)| r.caller == caller && r.value == l.value);
                let Some((r, _)) = of else { continue };
                if !first_seen.insert(r.n) {
                    continue;
                }
                if last.is_some_and(|last| r.n < last) {
                    return Err(format!(
                        "caller {caller} on {partition}: {} stands behind {last:?}",
                        r.n
                    ));
                }
                last = Some(r.n);
            }
        }
    }
    Ok(())
}

fn only_what_was_sent(history: &History, logs: &BTreeMap<i32, Vec<Logged>>) -> Result<(), String> {
    for (partition, log) in logs {
        for (i, l) in log.iter().enumerate() {
            if l.offset != i as i64 {
                return Err(format!("the log of {partition} has offset {} at place {i}", l.offset));
            }
            let known = history
                .records
                .iter()
                .any(|(r, _)| r.partition == *partition && r.value == l.value);
            if !known {
                return Err(format!("offset {} of {partition} was never sent there", l.offset));
            }
        }
    }
    Ok(())
}
