//! The transactions of a partition: which are open, and which were aborted.
//!
//! [`crate::producer_state_manager`] keeps it up to date; Fetch and ListOffsets read it for
//! consumers with `isolation.level=read_committed`.

use std::collections::BTreeMap;

/// A transaction that has ended in the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompletedTxn {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
    /// The offset of the marker.
    pub(crate) last_offset: i64,
    pub(crate) is_aborted: bool,
}

/// The open and the aborted transactions of a partition.
#[derive(Debug, Default)]
pub(crate) struct TransactionIndex {
    /// The producer of each open transaction, by first offset.
    ongoing: BTreeMap<i64, i64>,
    /// Ended transactions whose marker may still be lost with the leader: first to last offset.
    unreplicated: BTreeMap<i64, i64>,
    /// The aborted transactions, in order of their markers.
    aborted: Vec<CompletedTxn>,
}

impl TransactionIndex {
    /// Records that a producer's transaction has its first batch at this offset.
    pub(crate) fn begin(&mut self, first_offset: i64, producer_id: i64) {
        self.ongoing.insert(first_offset, producer_id);
    }

    /// Records the marker of a transaction.
    pub(crate) fn end(&mut self, txn: CompletedTxn) {
        self.ongoing.remove(&txn.first_offset);
        self.unreplicated.insert(txn.first_offset, txn.last_offset);
        if txn.is_aborted {
            self.aborted.push(txn);
        }
    }

    /// Forgets the ended transactions whose markers every in-sync replica has.
    pub(crate) fn on_high_watermark(&mut self, high_watermark: i64) {
        self.unreplicated.retain(|_, last| *last >= high_watermark);
    }

    /// Returns the last stable offset: the end of what `read_committed` consumers read.
    ///
    /// It is the first offset of the oldest transaction that is open, or whose marker is not
    /// replicated; without one it is the high watermark.
    pub(crate) fn last_stable_offset(&self, high_watermark: i64) -> i64 {
        let mut unreplicated = self.unreplicated.iter();
        let first_unreplicated = unreplicated.find(|(_, last)| **last >= high_watermark);
        let first_ongoing = self.ongoing.first_key_value().map(|(first, _)| *first);
        let first_unstable = first_ongoing.into_iter().chain(first_unreplicated.map(|(f, _)| *f));
        first_unstable.chain([high_watermark]).min().unwrap_or(high_watermark)
    }

    /// Returns the aborted transactions with records in a range, from `from` to before `to`.
    pub(crate) fn aborted_in(&self, from: i64, to: i64) -> impl Iterator<Item = &CompletedTxn> {
        let first = self.aborted.partition_point(|txn| txn.last_offset < from);
        self.aborted[first..].iter().filter(move |txn| txn.first_offset < to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(
        producer_id: i64,
        first_offset: i64,
        last_offset: i64,
        is_aborted: bool,
    ) -> CompletedTxn {
        CompletedTxn { producer_id, first_offset, last_offset, is_aborted }
    }

    #[test]
    fn oldest_open_transaction_bounds_the_last_stable_offset() {
        let mut index = TransactionIndex::default();
        assert_eq!(index.last_stable_offset(10), 10);
        index.begin(3, 1);
        index.begin(5, 2);
        assert_eq!(index.last_stable_offset(2), 2);
        assert_eq!(index.last_stable_offset(10), 3);
        index.end(txn(1, 3, 10, false));
        assert_eq!(index.last_stable_offset(10), 3, "the marker at 10 is not replicated");
        assert_eq!(index.last_stable_offset(11), 5);
        index.on_high_watermark(11);
        index.end(txn(2, 5, 11, true));
        assert_eq!(index.last_stable_offset(12), 12);
    }

    #[test]
    fn aborted_transactions_are_found_by_the_range_that_is_read() {
        let mut index = TransactionIndex::default();
        index.begin(0, 1);
        index.end(txn(1, 0, 4, true));
        index.begin(5, 2);
        index.end(txn(2, 5, 9, false));
        index.begin(10, 3);
        index.end(txn(3, 10, 14, true));
        let producers = |from, to| -> Vec<i64> {
            index.aborted_in(from, to).map(|txn| txn.producer_id).collect()
        };
        assert_eq!(producers(0, 15), [1, 3]);
        assert_eq!(producers(4, 10), [1], "the marker's own offset is part of the transaction");
        assert_eq!(producers(5, 10), []);
        assert_eq!(producers(14, 20), [3]);
    }
}
