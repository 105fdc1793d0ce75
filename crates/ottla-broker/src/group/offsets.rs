//! The committed offsets of a group.
//!
//! Offsets of a transaction are pending until its marker arrives (KIP-98).

use std::collections::BTreeMap;

use crate::transaction::{ProducerIdAndEpoch, TopicPartition};

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    /// The offset of the next record to read.
    pub(crate) offset: i64,
    /// The leader epoch of the last record read, −1 if unknown.
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

/// The offsets of an open transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PendingOffsets {
    epoch: i16,
    offsets: BTreeMap<TopicPartition, CommittedOffset>,
}

/// The offsets of a group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupOffsets {
    committed: BTreeMap<TopicPartition, CommittedOffset>,
    /// The offsets of open transactions, by producer id.
    pending: BTreeMap<i64, PendingOffsets>,
}

impl GroupOffsets {
    /// Commits offsets.
    pub(crate) fn commit(
        &mut self,
        offsets: impl IntoIterator<Item = (TopicPartition, CommittedOffset)>,
    ) {
        self.committed.extend(offsets);
    }

    /// Keeps offsets until the transaction ends.
    pub(crate) fn add_pending(
        &mut self,
        producer: ProducerIdAndEpoch,
        offsets: impl IntoIterator<Item = (TopicPartition, CommittedOffset)>,
    ) {
        let new = || PendingOffsets { epoch: producer.epoch, offsets: BTreeMap::new() };
        let pending = self.pending.entry(producer.id).or_insert_with(new);
        if pending.epoch != producer.epoch {
            *pending = new();
        }
        pending.offsets.extend(offsets);
    }

    /// Commits or drops the offsets of a transaction.
    pub(crate) fn end_transaction(&mut self, producer_id: i64, committed: bool) {
        if let Some(pending) = self.pending.remove(&producer_id)
            && committed
        {
            self.committed.extend(pending.offsets);
        }
    }

    /// Removes the offset of a partition.
    pub(crate) fn remove(&mut self, partition: &TopicPartition) {
        self.committed.remove(partition);
        self.pending.values_mut().for_each(|p| {
            p.offsets.remove(partition);
        });
    }

    /// Returns the committed offsets.
    pub(super) fn committed(&self) -> impl Iterator<Item = (&TopicPartition, &CommittedOffset)> {
        self.committed.iter()
    }

    /// Returns the offsets of each open transaction.
    pub(super) fn pending(
        &self,
    ) -> impl Iterator<
        Item = (ProducerIdAndEpoch, impl Iterator<Item = (&TopicPartition, &CommittedOffset)>),
    > {
        self.pending.iter().map(|(id, p)| {
            let producer = ProducerIdAndEpoch { id: *id, epoch: p.epoch };
            (producer, p.offsets.iter())
        })
    }

    /// Returns whether a producer has offsets of an open transaction here, of any epoch.
    pub(super) fn has_pending(&self, producer_id: i64) -> bool {
        self.pending.contains_key(&producer_id)
    }

    /// Returns whether a producer has offsets of an open transaction here.
    pub(crate) fn has_ongoing_txn(&self, producer: ProducerIdAndEpoch) -> bool {
        self.pending.get(&producer.id).is_some_and(|p| p.epoch == producer.epoch)
    }

    /// Returns whether an open transaction may change the offset of a partition.
    pub(crate) fn is_unstable(&self, partition: &TopicPartition) -> bool {
        self.pending.values().any(|p| p.offsets.contains_key(partition))
    }

    /// Returns the committed offset of a partition.
    pub(crate) fn get(&self, partition: &TopicPartition) -> Option<&CommittedOffset> {
        self.committed.get(partition)
    }

    /// Returns every partition with a committed or pending offset, in order.
    pub(crate) fn partitions(&self) -> Vec<TopicPartition> {
        let pending = self.pending.values().flat_map(|p| p.offsets.keys());
        let mut all: Vec<TopicPartition> = self.committed.keys().chain(pending).cloned().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }
}
