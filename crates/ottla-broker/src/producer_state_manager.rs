//! What a partition remembers of each producer (KIP-98): its epoch and its last five batches.

use std::collections::{BTreeMap, VecDeque};

use ottla_protocol::ErrorCode;
use ottla_protocol::record::BatchHeader;

/// Batches remembered of a producer.
const NUM_BATCHES_TO_RETAIN: usize = 5;
/// A producer that has been silent for so long is forgotten.
const PRODUCER_ID_EXPIRATION_MS: i64 = 24 * 60 * 60 * 1000;

/// A partition's producers.
#[derive(Debug, Default)]
pub(crate) struct ProducerStateManager(BTreeMap<i64, ProducerStateEntry>);

#[derive(Debug)]
struct ProducerStateEntry {
    epoch: i16,
    batch_metadata: VecDeque<BatchMetadata>,
    last_seen_ms: i64,
}

#[derive(Debug, Clone, Copy)]
struct BatchMetadata {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
}

/// What the sequences say of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SequenceCheck {
    /// It comes next.
    Accepted,
    /// It is in the log already, from this offset on.
    Duplicate(i64),
    /// It does not.
    Rejected(ErrorCode),
}

fn last_sequence(h: &BatchHeader) -> i32 {
    (i64::from(h.base_sequence) + i64::from(h.last_offset_delta)).rem_euclid(1 << 31) as i32
}

impl ProducerStateManager {
    /// Where a batch with a producer id belongs.
    pub(crate) fn check_sequence(&self, h: &BatchHeader, now_ms: i64) -> SequenceCheck {
        let known = self
            .0
            .get(&h.producer_id)
            .filter(|p| p.last_seen_ms + PRODUCER_ID_EXPIRATION_MS > now_ms);
        let Some(p) = known else {
            // Of a producer that is not known, any first sequence is accepted.
            return SequenceCheck::Accepted;
        };
        if h.producer_epoch < p.epoch {
            return SequenceCheck::Rejected(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if h.producer_epoch > p.epoch {
            let fresh = h.base_sequence == 0;
            return if fresh {
                SequenceCheck::Accepted
            } else {
                SequenceCheck::Rejected(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
            };
        }
        let last = last_sequence(h);
        if let Some(b) = p
            .batch_metadata
            .iter()
            .find(|b| (b.first_sequence, b.last_sequence) == (h.base_sequence, last))
        {
            return SequenceCheck::Duplicate(b.base_offset);
        }
        let expected = p
            .batch_metadata
            .back()
            .map(|b| (i64::from(b.last_sequence) + 1).rem_euclid(1 << 31) as i32);
        match expected {
            Some(next) if next != h.base_sequence => {
                SequenceCheck::Rejected(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
            }
            _ => SequenceCheck::Accepted,
        }
    }

    /// A batch was appended.
    pub(crate) fn on_appended(&mut self, h: &BatchHeader, base_offset: i64, now_ms: i64) {
        if h.producer_id < 0 {
            return;
        }
        let fresh = || ProducerStateEntry {
            epoch: h.producer_epoch,
            batch_metadata: VecDeque::new(),
            last_seen_ms: now_ms,
        };
        let p = self.0.entry(h.producer_id).or_insert_with(fresh);
        if p.epoch != h.producer_epoch {
            *p = fresh();
        }
        p.last_seen_ms = now_ms;
        if p.batch_metadata.len() == NUM_BATCHES_TO_RETAIN {
            p.batch_metadata.pop_front();
        }
        p.batch_metadata.push_back(BatchMetadata {
            first_sequence: h.base_sequence,
            last_sequence: last_sequence(h),
            base_offset,
        });
    }

    /// The greatest producer id seen, so that none is given twice.
    pub(crate) fn max_producer_id(&self) -> Option<i64> {
        self.0.last_key_value().map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn b7_sequences() {
        let mut p = ProducerStateManager::default();
        let out_of_order = SequenceCheck::Rejected(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(
            p.check_sequence(&header(0, 40, 3), 0),
            SequenceCheck::Accepted,
            "no state: any first sequence"
        );
        p.on_appended(&header(0, 40, 3), 100, 0);
        assert_eq!(p.check_sequence(&header(0, 40, 3), 0), SequenceCheck::Duplicate(100));
        assert_eq!(
            p.check_sequence(&header(0, 40, 2), 0),
            out_of_order,
            "a duplicate only by both ends"
        );
        assert_eq!(p.check_sequence(&header(0, 44, 1), 0), out_of_order);
        assert_eq!(p.check_sequence(&header(0, 43, 1), 0), SequenceCheck::Accepted);
        assert_eq!(p.check_sequence(&header(1, 43, 1), 0), out_of_order, "a new epoch starts at 0");
        assert_eq!(p.check_sequence(&header(1, 0, 1), 0), SequenceCheck::Accepted);
        p.on_appended(&header(1, 0, 1), 103, 0);
        assert_eq!(
            p.check_sequence(&header(0, 43, 1), 0),
            SequenceCheck::Rejected(ErrorCode::INVALID_PRODUCER_EPOCH)
        );
        assert_eq!(
            p.check_sequence(&header(1, 9, 1), PRODUCER_ID_EXPIRATION_MS),
            SequenceCheck::Accepted,
            "forgotten after a day"
        );
    }

    #[test]
    fn b7_the_sequence_after_the_greatest_is_zero_and_five_batches_are_remembered() {
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
            "the sixth is forgotten"
        );
    }
}
