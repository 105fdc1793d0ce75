//! The state of each producer on a partition (KIP-98): its epoch, its last five batches and its
//! open transaction.
//!
//! [`crate::append`] checks a batch's sequences here before it appends the batch. Each replica has
//! this state, derived from its own log, so that a new leader recognizes duplicates and knows the
//! open transactions.

use std::collections::{BTreeMap, VecDeque};

use ottla_protocol::ErrorCode;
use ottla_protocol::record::{
    BatchHeader, BatchView, ControlRecordType, EndTransactionMarker, attributes,
};

use crate::transaction_index::{CompletedTxn, TransactionIndex};

/// Batches retained for a producer. Clients may have at most this number of requests in flight.
const NUM_BATCHES_TO_RETAIN: usize = 5;
/// How long the state of an idle producer is kept (Kafka's `producer.id.expiration.ms`).
const PRODUCER_ID_EXPIRATION_MS: i64 = 24 * 60 * 60 * 1000;

/// The producers of a partition, by producer id.
#[derive(Debug, Default)]
pub(crate) struct ProducerStateManager {
    producers: BTreeMap<i64, ProducerStateEntry>,
    pub(crate) transactions: TransactionIndex,
}

#[derive(Debug)]
struct ProducerStateEntry {
    epoch: i16,
    /// The last batches, oldest first.
    batch_metadata: VecDeque<BatchMetadata>,
    last_seen_ms: i64,
    /// The first offset of the producer's open transaction.
    txn_first_offset: Option<i64>,
    /// The epoch of the coordinator that wrote the last marker; −1 without one.
    coordinator_epoch: i32,
}

impl ProducerStateEntry {
    fn new(epoch: i16, now_ms: i64) -> ProducerStateEntry {
        ProducerStateEntry {
            epoch,
            batch_metadata: VecDeque::new(),
            last_seen_ms: now_ms,
            txn_first_offset: None,
            coordinator_epoch: -1,
        }
    }

    /// Returns whether Kafka has forgotten the producer. An open transaction keeps its state.
    fn is_expired(&self, now_ms: i64) -> bool {
        self.txn_first_offset.is_none() && self.last_seen_ms + PRODUCER_ID_EXPIRATION_MS <= now_ms
    }
}

#[derive(Debug, Clone, Copy)]
struct BatchMetadata {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
}

/// The result of a check of a batch's sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SequenceCheck {
    /// The batch is the producer's next one.
    Accepted,
    /// The log has the batch already, at this base offset.
    Duplicate(i64),
    /// The batch must not be appended.
    Rejected(ErrorCode),
}

/// Returns the last record's sequence. Sequences wrap from `i32::MAX` to 0.
fn last_sequence(h: &BatchHeader) -> i32 {
    (i64::from(h.base_sequence) + i64::from(h.last_offset_delta)).rem_euclid(1 << 31) as i32
}

impl ProducerStateManager {
    /// Checks the epoch and sequences of a batch that has a producer id.
    ///
    /// Clients rely on three properties: a retry of a retained batch is a duplicate, a gap is
    /// OUT_OF_ORDER_SEQUENCE_NUMBER, and an older epoch is INVALID_PRODUCER_EPOCH.
    pub(crate) fn check_sequence(&self, h: &BatchHeader, now_ms: i64) -> SequenceCheck {
        let producer = self.producers.get(&h.producer_id);
        let producer = producer.filter(|p| !p.is_expired(now_ms));
        let Some(p) = producer else {
            // Kafka accepts any first sequence of a producer without state: the state may have
            // expired. If the first of several batches in flight is rejected before it gets here,
            // the second one is accepted as the first.
            return SequenceCheck::Accepted;
        };
        if h.producer_epoch < p.epoch {
            return SequenceCheck::Rejected(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if h.producer_epoch > p.epoch {
            // A new epoch begins at sequence 0.
            return if h.base_sequence == 0 {
                SequenceCheck::Accepted
            } else {
                SequenceCheck::Rejected(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
            };
        }
        // A duplicate has the same first and last sequence as a retained batch.
        let last = last_sequence(h);
        if let Some(b) = p
            .batch_metadata
            .iter()
            .find(|b| (b.first_sequence, b.last_sequence) == (h.base_sequence, last))
        {
            return SequenceCheck::Duplicate(b.base_offset);
        }
        // A marker can raise the epoch without a batch: then the first sequence is 0, too.
        let last_sequence = p.batch_metadata.back().map_or(-1, |b| i64::from(b.last_sequence));
        let expected = (last_sequence + 1).rem_euclid(1 << 31);
        if i64::from(h.base_sequence) == expected {
            SequenceCheck::Accepted
        } else {
            SequenceCheck::Rejected(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
        }
    }

    /// Checks that a batch which is not a duplicate fits its producer's open transaction.
    ///
    /// # Errors
    /// INVALID_TXN_STATE: the producer has an open transaction, and the batch is not part of it.
    pub(crate) fn check_transaction(&self, h: &BatchHeader) -> Result<(), ErrorCode> {
        let has_open_txn =
            self.producers.get(&h.producer_id).is_some_and(|p| p.txn_first_offset.is_some());
        let is_transactional = h.attributes & attributes::TRANSACTIONAL_FLAG_MASK != 0;
        if has_open_txn && !is_transactional {
            return Err(ErrorCode::INVALID_TXN_STATE);
        }
        Ok(())
    }

    /// Returns whether a producer has an open transaction with this epoch.
    pub(crate) fn has_ongoing_txn(&self, producer_id: i64, producer_epoch: i16) -> bool {
        let producer = self.producers.get(&producer_id);
        producer.is_some_and(|p| p.txn_first_offset.is_some() && p.epoch == producer_epoch)
    }

    /// Checks a marker before it is appended.
    ///
    /// `needs_new_epoch`: with transactions V2, a marker has a higher epoch than the records of its
    /// transaction (KIP-890, KIP-1228).
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH for an old producer epoch, TRANSACTION_COORDINATOR_FENCED for an old
    /// coordinator.
    pub(crate) fn check_marker(
        &self,
        producer_id: i64,
        producer_epoch: i16,
        coordinator_epoch: i32,
        needs_new_epoch: bool,
    ) -> Result<(), ErrorCode> {
        let Some(p) = self.producers.get(&producer_id) else { return Ok(()) };
        let is_retry = needs_new_epoch && p.txn_first_offset.is_none();
        if producer_epoch < p.epoch || (producer_epoch == p.epoch && needs_new_epoch && !is_retry) {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if coordinator_epoch < p.coordinator_epoch {
            return Err(ErrorCode::TRANSACTION_COORDINATOR_FENCED);
        }
        Ok(())
    }

    /// Records a batch of the log: one from a producer, or a marker.
    pub(crate) fn on_batch(&mut self, batch: &BatchView<'_>, base_offset: i64, now_ms: i64) {
        if !batch.is_control() {
            self.on_appended(batch.header(), base_offset, now_ms);
            return;
        }
        if let Ok(Some(marker)) = EndTransactionMarker::decode_batch(batch) {
            self.on_marker(batch.header(), marker, base_offset, now_ms);
        }
    }

    fn on_marker(
        &mut self,
        h: &BatchHeader,
        marker: EndTransactionMarker,
        offset: i64,
        now_ms: i64,
    ) {
        let new_entry = || ProducerStateEntry::new(h.producer_epoch, now_ms);
        let p = self.producers.entry(h.producer_id).or_insert_with(new_entry);
        if p.epoch != h.producer_epoch {
            (p.epoch, p.batch_metadata) = (h.producer_epoch, VecDeque::new());
        }
        (p.last_seen_ms, p.coordinator_epoch) = (now_ms, marker.coordinator_epoch);
        // A second marker of a transaction changes nothing for consumers.
        if let Some(first_offset) = p.txn_first_offset.take() {
            self.transactions.end(CompletedTxn {
                producer_id: h.producer_id,
                first_offset,
                last_offset: offset,
                is_aborted: marker.control_type == ControlRecordType::Abort,
            });
        }
    }

    /// Records that a batch was appended, and drops the oldest of six.
    fn on_appended(&mut self, h: &BatchHeader, base_offset: i64, now_ms: i64) {
        if h.producer_id < 0 {
            return;
        }
        let new_entry = || ProducerStateEntry::new(h.producer_epoch, now_ms);
        let p = self.producers.entry(h.producer_id).or_insert_with(new_entry);
        if p.epoch != h.producer_epoch {
            (p.epoch, p.batch_metadata) = (h.producer_epoch, VecDeque::new());
        }
        p.last_seen_ms = now_ms;
        let is_transactional = h.attributes & attributes::TRANSACTIONAL_FLAG_MASK != 0;
        if is_transactional && p.txn_first_offset.is_none() {
            p.txn_first_offset = Some(base_offset);
            self.transactions.begin(base_offset, h.producer_id);
        }
        if p.batch_metadata.len() == NUM_BATCHES_TO_RETAIN {
            p.batch_metadata.pop_front();
        }
        p.batch_metadata.push_back(BatchMetadata {
            first_sequence: h.base_sequence,
            last_sequence: last_sequence(h),
            base_offset,
        });
    }

    /// Forgets all but the last batch of each producer, as after a clean restart.
    ///
    /// A broker of Kafka writes a snapshot of its producer state when it shuts down, and loads the
    /// snapshot when it starts. The snapshot contains only the last batch of each producer.
    pub(crate) fn keep_last_batches(&mut self) {
        for p in self.producers.values_mut() {
            p.batch_metadata.drain(..p.batch_metadata.len().saturating_sub(1));
        }
    }

    /// Returns the highest epoch of a coordinator that has written a marker.
    pub(crate) fn max_coordinator_epoch(&self) -> Option<i32> {
        self.producers.values().map(|p| p.coordinator_epoch).max()
    }

    /// Returns the highest producer id in the log, so that new ids are higher.
    pub(crate) fn max_producer_id(&self) -> Option<i64> {
        self.producers.last_key_value().map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the header of a batch of `n` records of producer 7.
    fn header(epoch: i16, sequence: i32, n: i32) -> BatchHeader {
        BatchHeader {
            base_offset: 0,
            partition_leader_epoch: -1,
            attributes: 0,
            last_offset_delta: n - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: n,
        }
    }

    // CASES: B7.
    #[test]
    fn duplicates_gaps_and_epochs_are_recognized() {
        let mut p = ProducerStateManager::default();
        let out_of_order = SequenceCheck::Rejected(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(
            p.check_sequence(&header(0, 40, 3), 0),
            SequenceCheck::Accepted,
            "a producer without state may begin with any sequence"
        );
        p.on_appended(&header(0, 40, 3), 100, 0);
        assert_eq!(p.check_sequence(&header(0, 40, 3), 0), SequenceCheck::Duplicate(100));
        assert_eq!(
            p.check_sequence(&header(0, 40, 2), 0),
            out_of_order,
            "a duplicate has the same first and last sequence"
        );
        assert_eq!(p.check_sequence(&header(0, 44, 1), 0), out_of_order);
        assert_eq!(p.check_sequence(&header(0, 43, 1), 0), SequenceCheck::Accepted);
        assert_eq!(
            p.check_sequence(&header(1, 43, 1), 0),
            out_of_order,
            "a new epoch begins at sequence 0"
        );
        assert_eq!(p.check_sequence(&header(1, 0, 1), 0), SequenceCheck::Accepted);
        p.on_appended(&header(1, 0, 1), 103, 0);
        assert_eq!(
            p.check_sequence(&header(0, 43, 1), 0),
            SequenceCheck::Rejected(ErrorCode::INVALID_PRODUCER_EPOCH)
        );
        assert_eq!(
            p.check_sequence(&header(1, 9, 1), PRODUCER_ID_EXPIRATION_MS),
            SequenceCheck::Accepted,
            "the state expires after a day"
        );
    }

    // CASES: B7.
    #[test]
    fn restarted_broker_takes_an_older_batch_for_out_of_order() {
        let mut p = ProducerStateManager::default();
        p.on_appended(&header(0, 0, 1), 0, 0);
        p.on_appended(&header(0, 1, 1), 1, 0);
        assert_eq!(p.check_sequence(&header(0, 0, 1), 0), SequenceCheck::Duplicate(0));
        p.keep_last_batches();
        assert_eq!(
            p.check_sequence(&header(0, 0, 1), 0),
            SequenceCheck::Rejected(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
        );
        assert_eq!(p.check_sequence(&header(0, 1, 1), 0), SequenceCheck::Duplicate(1));
        assert_eq!(p.check_sequence(&header(0, 2, 1), 0), SequenceCheck::Accepted);
    }

    // CASES: B7.
    #[test]
    fn sequence_wraps_to_zero_and_five_batches_are_retained() {
        let mut p = ProducerStateManager::default();
        p.on_appended(&header(0, i32::MAX, 1), 0, 0);
        assert_eq!(p.check_sequence(&header(0, 0, 1), 0), SequenceCheck::Accepted);
        for i in 0..5 {
            p.on_appended(&header(0, i, 1), i64::from(i) + 1, 0);
        }
        assert_eq!(p.check_sequence(&header(0, 0, 1), 0), SequenceCheck::Duplicate(1));
        assert_ne!(
            p.check_sequence(&header(0, i32::MAX, 1), 0),
            SequenceCheck::Duplicate(0),
            "only the last five batches are retained"
        );
    }
}
