//! The state of transactional ids in `__transaction_state`, in Kafka's format.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use bytes::Bytes;
use ottla_protocol::coordinator_records::{
    TransactionLogKey, TransactionLogPartitions, TransactionLogValue, decode_key, decode_key_type,
    decode_value, encode_key, encode_value, key_type,
};
use ottla_protocol::record::BatchView;
use ottla_protocol::{EncodeError, ErrorCode, Reader};

use crate::coordinator_log::{CoordinatorBatch, CoordinatorLog, CoordinatorRecord};
use crate::coordinators::TRANSACTIONS_TOPIC;
use crate::core::ClockReading;
use crate::transaction::TransactionCoordinator;
use crate::transaction::metadata::{
    ProducerIdAndEpoch, TopicPartition, TransactionMetadata, TransactionState,
};

/// The largest size in bytes to which a batch is decompressed. This broker compresses none.
const MAX_DECOMPRESSED_BYTES: usize = 64 << 20;
/// The number of transactional ids in a batch of a snapshot.
const SNAPSHOT_BATCH: usize = 500;

/// Kafka's numbers of the states.
const STATES: [(TransactionState, i8); 6] = [
    (TransactionState::Empty, 0),
    (TransactionState::Ongoing, 1),
    (TransactionState::PrepareCommit, 2),
    (TransactionState::PrepareAbort, 3),
    (TransactionState::CompleteCommit, 4),
    (TransactionState::CompleteAbort, 5),
];

impl TransactionCoordinator {
    /// Reads the state from the log in a data directory, and keeps it there from now on.
    ///
    /// # Errors
    /// The log cannot be used.
    pub(crate) fn open_log(&mut self, data_dir: &Path, now: ClockReading) -> io::Result<()> {
        let mut states = BTreeMap::new();
        let log = CoordinatorLog::open(data_dir, TRANSACTIONS_TOPIC, |batch| {
            read_batch(batch, &mut states)
        })?;
        for (id, mut metadata) in states {
            metadata.restore_deadline(now);
            self.put(&id, metadata);
        }
        self.log = Some(log);
        Ok(())
    }

    /// Writes the next state of a transactional id to the log, if there is one.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE if it cannot be written: the state must not change then.
    pub(super) fn append_to_log(
        &mut self,
        id: &str,
        next: &TransactionMetadata,
        now: ClockReading,
    ) -> Result<(), ErrorCode> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let record = encode(id, next, now).map_err(|_| ErrorCode::INVALID_REQUEST)?;
        log.append(&CoordinatorBatch { producer: None, records: vec![record] }, now.wall_ms)
    }

    /// Replaces a log that has grown by a snapshot of all states.
    pub(super) fn compact_log_if_due(&mut self, now: ClockReading) {
        let Some(log) = self.log.as_mut().filter(|log| log.should_compact()) else { return };
        let records = self.by_id.iter().filter_map(|(id, m)| encode(id, m, now).ok());
        let records: Vec<CoordinatorRecord> = records.collect();
        let to_batch = |records: &[CoordinatorRecord]| CoordinatorBatch {
            producer: None,
            records: records.to_vec(),
        };
        let batches: Vec<CoordinatorBatch> = records.chunks(SNAPSHOT_BATCH).map(to_batch).collect();
        log.compact(&batches, now.wall_ms);
    }
}

fn encode(
    id: &str,
    metadata: &TransactionMetadata,
    now: ClockReading,
) -> Result<CoordinatorRecord, EncodeError> {
    let key = TransactionLogKey { transactional_id: id.to_owned(), ..Default::default() };
    let mut partitions: Vec<TransactionLogPartitions> = Vec::new();
    for p in &metadata.partitions {
        match partitions.last_mut() {
            Some(last) if last.topic == p.topic => last.partition_ids.push(p.partition),
            _ => partitions.push(TransactionLogPartitions {
                topic: p.topic.clone(),
                partition_ids: vec![p.partition],
                ..Default::default()
            }),
        }
    }
    let number = STATES.iter().find(|(state, _)| *state == metadata.state).map_or(0, |s| s.1);
    let value = TransactionLogValue {
        producer_id: metadata.producer.id,
        previous_producer_id: metadata.previous_producer_id,
        next_producer_id: metadata.next_producer_id,
        producer_epoch: metadata.producer.epoch,
        transaction_timeout_ms: metadata.timeout_ms,
        transaction_status: number,
        transaction_partitions: (!partitions.is_empty()).then_some(partitions),
        transaction_last_update_timestamp_ms: now.wall_ms,
        transaction_start_timestamp_ms: metadata.start_timestamp_ms,
        client_transaction_version: metadata.client_version,
        ..Default::default()
    };
    Ok(CoordinatorRecord {
        key: encode_key(key_type::TRANSACTION_LOG, &key)?,
        value: Some(encode_value(&value)?),
    })
}

fn read_batch(
    batch: &BatchView<'_>,
    states: &mut BTreeMap<String, TransactionMetadata>,
) -> Result<(), String> {
    if batch.is_control() {
        return Ok(());
    }
    let records = batch.records(MAX_DECOMPRESSED_BYTES).map_err(|e| e.to_string())?;
    for record in records.to_vec().map_err(|e| e.to_string())? {
        let at = |e: String| format!("the record at offset {}: {e}", record.offset);
        let key = Bytes::copy_from_slice(record.key.unwrap_or_default());
        let mut r = Reader::new(&key);
        let number = decode_key_type(&mut r).map_err(|e| at(e.to_string()))?;
        if number != key_type::TRANSACTION_LOG {
            return Err(at(format!("the key has the type {number}, which is not known here")));
        }
        let key: TransactionLogKey = decode_key(&mut r).map_err(|e| at(e.to_string()))?;
        let id = key.transactional_id;
        let Some(value) = record.value else {
            states.remove(&id);
            continue;
        };
        let value = decode_value(&Bytes::copy_from_slice(value)).map_err(|e| at(e.to_string()))?;
        states.insert(id, decode(value).map_err(at)?);
    }
    Ok(())
}

fn decode(value: TransactionLogValue) -> Result<TransactionMetadata, String> {
    let number = value.transaction_status;
    let state = STATES.iter().find(|(_, n)| *n == number).map(|(state, _)| *state);
    let state = state.ok_or_else(|| format!("the transaction status {number} is not known"))?;
    let topics = value.transaction_partitions.unwrap_or_default();
    let partitions: BTreeSet<TopicPartition> = topics
        .into_iter()
        .flat_map(|t| {
            let topic = t.topic;
            let to_partition = move |p| TopicPartition { topic: topic.clone(), partition: p };
            t.partition_ids.into_iter().map(to_partition)
        })
        .collect();
    Ok(TransactionMetadata {
        producer: ProducerIdAndEpoch { id: value.producer_id, epoch: value.producer_epoch },
        previous_producer_id: value.previous_producer_id,
        next_producer_id: value.next_producer_id,
        // As in Kafka, the log does not have it: a retried InitProducerId is rejected.
        last_epoch: -1,
        timeout_ms: value.transaction_timeout_ms,
        state,
        partitions,
        start_timestamp_ms: value.transaction_start_timestamp_ms,
        deadline_ms: None,
        client_version: value.client_transaction_version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_read_back() {
        let partition = |topic: &str, partition| TopicPartition { topic: topic.into(), partition };
        for (state, _) in STATES {
            let metadata = TransactionMetadata {
                producer: ProducerIdAndEpoch { id: 5, epoch: 3 },
                previous_producer_id: 4,
                next_producer_id: 6,
                last_epoch: -1,
                timeout_ms: 1000,
                state,
                partitions: [partition("a", 0), partition("a", 2), partition("b", 1)].into(),
                start_timestamp_ms: 77,
                deadline_ms: None,
                client_version: 2,
            };
            let now = ClockReading { mono_ms: 0, wall_ms: 99 };
            let record = encode("tx", &metadata, now).unwrap();
            let value = decode_value(&Bytes::from(record.value.unwrap())).unwrap();
            assert_eq!(decode(value), Ok(metadata));
        }
        let dead = TransactionLogValue { transaction_status: 6, ..Default::default() };
        assert!(decode(dead).unwrap_err().contains("status 6"));
    }
}
