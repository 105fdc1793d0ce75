//! Purges batches on behalf of the application (librdkafka's `rd_kafka_purge`).

use super::Sender;
use crate::accumulator::batch::ClosedBatch;
use crate::accumulator::partition::QueuedBatch;
use crate::error::{Error, ErrorKind};
use crate::network::io::Io;

/// The last purge.
pub(super) struct Purge {
    /// Batches up to this number are purged.
    pub(super) up_to: u64,
    pub(super) error: Error,
}

impl<I: Io> Sender<I> {
    /// Fails batches up to a number, those in flight only on request.
    pub(super) fn purge(&mut self, up_to: u64, include_in_flight: bool) {
        let error = Error::new(ErrorKind::Purged, "the record was purged");
        self.last_purge = Some(Purge { up_to, error: error.clone() });
        let removed = self.ready.remove_up_to(up_to);
        let is_purged = |b: &ClosedBatch| include_in_flight && b.meta.number <= up_to;
        self.fail_batches(removed, is_purged, |_, _| error.clone());
    }

    /// Fails batches that a worker thread was compressing during the last purge.
    ///
    /// The purge could not remove them: the queue held only a placeholder at that time.
    pub(super) fn purge_closed(&mut self, partition_id: u32) {
        let Some(purge) = &self.last_purge else { return };
        let Some(p) = self.accumulator.topics.partition(partition_id) else { return };
        let (up_to, error) = (purge.up_to, purge.error.clone());
        let is_purged = |batch: &QueuedBatch| {
            let QueuedBatch::Closed(b) = batch else { return false };
            b.meta.number <= up_to && b.attempts == 0
        };
        let mut failed = Vec::new();
        {
            let mut queue = p.lock_for_sender();
            while let Some(i) = queue.batches.iter().position(is_purged) {
                failed.extend(queue.batches.remove(i).and_then(QueuedBatch::into_closed));
            }
            queue.count_extensions();
        }
        failed.into_iter().for_each(|b| self.fail_records(b, &error));
    }
}
