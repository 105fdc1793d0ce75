//! What a partition remembers of each producer (KIP-98): its epoch and its last five batches.

use std::collections::{BTreeMap, VecDeque};

use ottla_protocol::ErrorCode;
use ottla_protocol::record::BatchHeader;

/// Batches remembered of a producer.
const REMEMBERED: usize = 5;
/// A producer that has been silent for so long is forgotten.
const EXPIRY_MS: i64 = 24 * 60 * 60 * 1000;

/// A partition's producers.
#[derive(Debug, Default)]
pub(crate) struct Producers(BTreeMap<i64, Producer>);

#[derive(Debug)]
struct Producer {
    epoch: i16,
    batches: VecDeque<Remembered>,
    last_seen_ms: i64,
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    first: i32,
    last: i32,
    base_offset: i64,
}

/// What the sequences say of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It comes next.
    Next,
    /// It is in the log already, from this offset on.
    Duplicate(i64),
    /// It does not.
    Refused(ErrorCode),
}

fn last_sequence(h: &BatchHeader) -> i32 {
    (i64::from(h.base_sequence) + i64::from(h.last_offset_delta)).rem_euclid(1 << 31) as i32
}

impl Producers {
    /// Where a batch with a producer id belongs.
    pub(crate) fn place(&self, h: &BatchHeader, now_ms: i64) -> Place {
        let known = self.0.get(&h.producer_id).filter(|p| p.last_seen_ms + EXPIRY_MS > now_ms);
        let Some(p) = known else {
            // Of a producer that is not known, any first sequence is accepted.
            return Place::Next;
        };
        if h.producer_epoch < p.epoch {
            return Place::Refused(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if h.producer_epoch > p.epoch {
            let fresh = h.base_sequence == 0;
            return if fresh {
                Place::Next
            } else {
                Place::Refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
            };
        }
        let last = last_sequence(h);
        if let Some(b) = p.batches.iter().find(|b| (b.first, b.last) == (h.base_sequence, last)) {
            return Place::Duplicate(b.base_offset);
        }
        let expected = p.batches.back().map(|b| (i64::from(b.last) + 1).rem_euclid(1 << 31) as i32);
        match expected {
            Some(next) if next != h.base_sequence => {
                Place::Refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
            }
            _ => Place::Next,
        }
    }

    /// A batch was appended.
    pub(crate) fn appended(&mut self, h: &BatchHeader, base_offset: i64, now_ms: i64) {
        if h.producer_id < 0 {
            return;
        }
        let fresh =
            || Producer { epoch: h.producer_epoch, batches: VecDeque::new(), last_seen_ms: now_ms };
        let p = self.0.entry(h.producer_id).or_insert_with(fresh);
        if p.epoch != h.producer_epoch {
            *p = fresh();
        }
        p.last_seen_ms = now_ms;
        if p.batches.len() == REMEMBERED {
            p.batches.pop_front();
        }
        p.batches.push_back(Remembered {
            first: h.base_sequence,
            last: last_sequence(h),
            base_offset,
        });
    }

    /// The greatest producer id seen, so that none is given twice.
    pub(crate) fn greatest(&self) -> Option<i64> {
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
        let mut p = Producers::default();
        let out_of_order = Place::Refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(p.place(&header(0, 40, 3), 0), Place::Next, "no state: any first sequence");
        p.appended(&header(0, 40, 3), 100, 0);
        assert_eq!(p.place(&header(0, 40, 3), 0), Place::Duplicate(100));
        assert_eq!(p.place(&header(0, 40, 2), 0), out_of_order, "a duplicate only by both ends");
        assert_eq!(p.place(&header(0, 44, 1), 0), out_of_order);
        assert_eq!(p.place(&header(0, 43, 1), 0), Place::Next);
        assert_eq!(p.place(&header(1, 43, 1), 0), out_of_order, "a new epoch starts at 0");
        assert_eq!(p.place(&header(1, 0, 1), 0), Place::Next);
        p.appended(&header(1, 0, 1), 103, 0);
        assert_eq!(
            p.place(&header(0, 43, 1), 0),
            Place::Refused(ErrorCode::INVALID_PRODUCER_EPOCH)
        );
        assert_eq!(p.place(&header(1, 9, 1), EXPIRY_MS), Place::Next, "forgotten after a day");
    }

    #[test]
    fn b7_the_sequence_after_the_greatest_is_zero_and_five_batches_are_remembered() {
        let mut p = Producers::default();
        p.appended(&header(0, i32::MAX, 1), 0, 0);
        assert_eq!(p.place(&header(0, 0, 1), 0), Place::Next);
        for i in 0..5 {
            p.appended(&header(0, i, 1), i64::from(i) + 1, 0);
        }
        assert_eq!(p.place(&header(0, 0, 1), 0), Place::Duplicate(1));
        assert_ne!(
            p.place(&header(0, i32::MAX, 1), 0),
            Place::Duplicate(0),
            "the sixth is forgotten"
        );
    }
}
