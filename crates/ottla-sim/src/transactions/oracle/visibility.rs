//! Checks what `read_committed` consumers see: whole transactions, in order, as reported.

use std::collections::{BTreeMap, BTreeSet};

use ottla::RecordStatus;
use ottla::sim::Tick;

use super::super::history::{OffsetsOutcome, TransactionEnd, TransactionHistories};
use super::{Observations, describe, parse_value};

pub(super) fn check_atomicity(o: &Observations<'_>) -> Result<(), String> {
    for (txn, t) in o.transactions() {
        let seen = o.visible.get(&txn).map_or(0, BTreeSet::len);
        if seen != 0 && seen != t.records.len() {
            let missing = t.records.iter().find(|r| !o.visible[&txn].contains(&r.value));
            let missing = missing.map(describe).unwrap_or_default();
            return Err(format!(
                "{seen} of {} records of transaction {txn} ({:?}), and not {missing}",
                t.records.len(),
                t.end
            ));
        }
    }
    Ok(())
}

pub(super) fn check_commits(o: &Observations<'_>) -> Result<(), String> {
    for (txn, t) in o.transactions().filter(|(_, t)| t.end == TransactionEnd::Committed) {
        if t.has_rejected_record {
            return Err(format!("transaction {txn} was committed without a record"));
        }
        for r in &t.records {
            if let Some(Err(e)) = r.delivery.try_result() {
                return Err(format!("transaction {txn}: {}: {e}", describe(r)));
            }
            if !o.visible.get(&txn).is_some_and(|values| values.contains(&r.value)) {
                return Err(format!("transaction {txn}: {} is not visible", describe(r)));
            }
        }
    }
    Ok(())
}

pub(super) fn check_aborts(o: &Observations<'_>) -> Result<(), String> {
    for (txn, t) in o.transactions().filter(|(txn, _)| o.is_visible(*txn)) {
        if matches!(t.end, TransactionEnd::NotCommitted | TransactionEnd::Failed) {
            let error = t.error.as_deref().unwrap_or_default();
            return Err(format!("transaction {txn}: {:?} {error}", t.end));
        }
        if let Some(r) = t.records.iter().find(|r| !matches!(r.delivery.try_result(), Some(Ok(_))))
            && t.end != TransactionEnd::Unknown
        {
            return Err(format!("transaction {txn}: {} has failed", describe(r)));
        }
    }
    Ok(())
}

/// Returns the place of a transaction in the order of its transactional id.
///
/// Only one producer can commit at a time: the one that was initialized last.
fn order_of(o: &Observations<'_>, txn: usize) -> (Option<Tick>, usize) {
    let incarnation = &o.history.incarnations[o.history.transactions[txn].incarnation];
    (incarnation.initialized_at, txn)
}

fn id_of(o: &Observations<'_>, txn: usize) -> u64 {
    o.history.incarnations[o.history.transactions[txn].incarnation].id
}

pub(super) fn check_order(o: &Observations<'_>) -> Result<(), String> {
    for (key, read) in &o.reader.partitions {
        let mut last = BTreeMap::new();
        for (offset, value) in &read.records {
            let Some((txn, index)) = parse_value(value) else { continue };
            let place = (order_of(o, txn), index);
            if let Some(earlier) = last.insert(id_of(o, txn), place)
                && earlier > place
            {
                return Err(format!(
                    "{}-{} at {offset}: record {index} of transaction {txn} follows record {} of \
                     transaction {}",
                    key.0, key.1, earlier.1, earlier.0.1
                ));
            }
        }
    }
    Ok(())
}

pub(super) fn check_reader(o: &Observations<'_>) -> Result<(), String> {
    for (key, records) in &o.logs {
        let committed = records.iter().filter(|r| r.is_committed());
        let at_end: Vec<(i64, &[u8])> =
            committed.map(|r| (r.offset, r.value.as_deref().unwrap_or_default())).collect();
        let read = o.reader.partitions.get(key).map_or(&[][..], |p| &p.records);
        let read: Vec<(i64, &[u8])> = read.iter().map(|(at, value)| (*at, &value[..])).collect();
        if read != at_end {
            let differs = read.iter().zip(&at_end).position(|(a, b)| a != b);
            let at = differs.unwrap_or(read.len().min(at_end.len()));
            return Err(format!(
                "{}-{}: {} records were read, {} are committed; they differ from record {at} on",
                key.0,
                key.1,
                read.len(),
                at_end.len()
            ));
        }
    }
    Ok(())
}

pub(super) fn check_offsets(o: &Observations<'_>) -> Result<(), String> {
    let may_be_committed = |txn: usize| {
        let t = &o.history.transactions[txn];
        match t.end {
            TransactionEnd::Committed => true,
            // Without a record, nothing else shows whether it was committed.
            TransactionEnd::Unknown => o.is_visible(txn) || t.records.is_empty(),
            _ => false,
        }
    };
    for (id, partition, offset) in &o.reader.offsets {
        let txn = usize::try_from(*offset - 1).ok().filter(|txn| {
            o.history.transactions.get(*txn).is_some_and(|t| t.offsets != OffsetsOutcome::NotSent)
        });
        if txn.is_none_or(|txn| id_of(o, txn) != *id || !may_be_committed(txn)) {
            let end = txn.map(|txn| &o.history.transactions[txn].end);
            return Err(format!("t0-{partition} of group {id} has offset {offset} ({end:?})"));
        }
    }
    for id in 0..o.scenario.transactional_ids {
        let mut with_offsets: Vec<usize> = o
            .transactions()
            .filter(|(txn, t)| t.offsets != OffsetsOutcome::NotSent && id_of(o, *txn) == id)
            .map(|(txn, _)| txn)
            .filter(|txn| may_be_committed(*txn))
            .collect();
        with_offsets.sort_by_key(|txn| std::cmp::Reverse(order_of(o, *txn)));
        // The last offsets that are certainly committed, or later ones that possibly are.
        let mut allowed = Vec::new();
        let mut has_certain = false;
        for txn in with_offsets {
            allowed.push(TransactionHistories::offset_of(txn));
            let is_committed =
                o.history.transactions[txn].end == TransactionEnd::Committed || o.is_visible(txn);
            if is_committed && o.history.transactions[txn].offsets == OffsetsOutcome::Added {
                has_certain = true;
                break;
            }
        }
        if !has_certain {
            allowed.push(-1);
        }
        let last = o.scenario.partitions as i32 - 1;
        let committed = [o.reader.committed_offset(id, 0), o.reader.committed_offset(id, last)];
        if committed[0] != committed[1] || !allowed.contains(&committed[0]) {
            return Err(format!("group {id} has {committed:?}, expected one of {allowed:?}"));
        }
    }
    Ok(())
}

pub(super) fn check_not_persisted(o: &Observations<'_>) -> Result<(), String> {
    for r in o.history.transactions.iter().flat_map(|t| &t.records) {
        let Some(Err(e)) = r.delivery.try_result() else { continue };
        let log = o.logs.get(&(r.topic.clone(), r.partition)).map_or(&[][..], Vec::as_slice);
        let is_logged = log.iter().any(|logged| logged.value.as_deref() == Some(&r.value[..]));
        if e.record_status() == RecordStatus::NotPersisted && is_logged {
            return Err(format!("{} ({e})", describe(r)));
        }
    }
    Ok(())
}
