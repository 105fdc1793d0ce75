//! Completes the acknowledged batches of a round of responses: first their memory, then their
//! callbacks.
//!
//! A caller that waits for `buffer.memory` is woken once a round, when the memory of all these
//! batches is free. With large records each batch has one record: woken for each freed buffer, the
//! caller would append one record and wait again, two context switches a record.

use super::Sender;
use crate::accumulator::batch::StampedBatch;
use crate::delivery::result::Outcome;
use crate::network::io::Io;

/// A batch that the broker has acknowledged, and whose records are not completed yet.
pub(super) struct AcknowledgedBatch {
    batch: StampedBatch,
    /// Unknown for a duplicate and with acks=0.
    base_offset: Option<i64>,
    log_append_time: Option<i64>,
}

impl<I: Io> Sender<I> {
    /// Records that a batch is acknowledged. The offset is unknown for a duplicate and with acks=0.
    ///
    /// If the batch expired in flight, its records have failed already and that is final. But its
    /// sequence counts as acknowledged, which may save its partition from a new epoch.
    pub(super) fn acknowledge_batch(
        &mut self,
        batch: StampedBatch,
        base_offset: Option<i64>,
        log_append_time: Option<i64>,
    ) {
        self.producer_state.maybe_update_last_acked_sequence(&batch);
        let p = &batch.closed.meta.partition;
        self.producer_state.remove_in_flight_batch(p.id);
        self.stall_report.moved(&p.topic, p.index);
        self.ready.mark_dirty(p.id);
        let size = batch.closed.wire_len();
        self.batch_size_discovery.on_accepted(p, batch.stamp.topic_id, size);
        let acknowledged = AcknowledgedBatch { batch, base_offset, log_append_time };
        self.buffers.acknowledged_batches.push(acknowledged);
    }

    /// Completes the acknowledged batches, in the order of their responses.
    ///
    /// Called before anything else completes or fails a batch. Otherwise a later batch of the same
    /// partition could be reported first.
    #[inline(never)]
    pub(super) fn complete_acknowledged_batches(&mut self) {
        if self.buffers.acknowledged_batches.is_empty() {
            return;
        }
        let mut acknowledged = std::mem::take(&mut self.buffers.acknowledged_batches);
        {
            // No foreign code runs while the wake-ups are deferred: a callback could wait for a
            // caller that would not be woken before the callback returns.
            let _deferred = self.accumulator.pool.defer_wakes();
            acknowledged.iter_mut().for_each(|a| a.batch.closed.free_records());
        }
        for AcknowledgedBatch { mut batch, base_offset, log_append_time } in acknowledged.drain(..)
        {
            let number = batch.closed.meta.number;
            batch.closed.complete(Outcome::Acknowledged { base_offset, log_append_time });
            self.flushes.batch_completed(number);
        }
        self.buffers.acknowledged_batches = acknowledged;
    }
}
