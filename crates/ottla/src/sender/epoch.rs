//! Resolves partitions that have lost a sequence: bumps the producer epoch, and decides which
//! queued batches may be sent again under it (KIP-360).

use ottla_protocol::ErrorCode;

use super::Sender;
use super::producer_state::{ProducerIdState, RestartedPartition, TopicIdChange};
use crate::accumulator::batch::ClosedBatch;
use crate::accumulator::partition::QueuedBatch;
use crate::error::{Error, ErrorKind, RecordStatus};
use crate::injected_bugs::inject_bug;
use crate::log_limiter::LogEvent;
use crate::network::io::Io;
use crate::time::Tick;

impl<I: Io> Sender<I> {
    /// Bumps the epoch for unresolved partitions that have nothing in flight any more.
    pub(super) fn resolve_sequences(&mut self, now: Tick) {
        if !self.producer_state.can_resolve() {
            return;
        }
        // A new epoch concerns every partition. And a partition that turns out to have lost
        // nothing may drain again, without a new epoch.
        self.ready.mark_all_dirty();
        if self.producer_state.is_transactional() {
            return self.lose_transaction_sequences();
        }
        let restarted = self.producer_state.bump_epoch(now);
        if !restarted.is_empty() {
            self.log_epoch_bump(restarted.len(), now);
        }
        for partition in restarted {
            self.resequence(partition);
        }
    }

    /// Reports a new epoch. If a new producer id is needed instead, its arrival is reported.
    fn log_epoch_bump(&mut self, partitions: usize, now: Tick) {
        let ProducerIdState::Assigned(assigned) = self.producer_state.producer_id else { return };
        if let Some(suppressed) = self.client.log_events().check(LogEvent::EpochBumped, 0, now) {
            tracing::info!(
                name: "ottla.epoch_bumped",
                target: "ottla::delivery",
                id = assigned.producer_id,
                epoch = assigned.epoch,
                partitions,
                suppressed,
                "sequences were lost: their partitions continue under a new producer epoch"
            );
        }
    }

    /// Prepares the queued retries of a partition for its new epoch.
    ///
    /// A batch that is not persisted loses its old sequence and gets a new one when it is drained.
    /// A batch that is possibly persisted fails: under a new sequence, the broker would not
    /// recognize it as a duplicate. Batches that were never sent have no sequence yet.
    fn resequence(&mut self, restarted: RestartedPartition) {
        let Some(p) = self.ready.get(restarted.partition_id).cloned() else { return };
        let mut failed = Vec::new();
        {
            let mut queue = p.lock_for_sender();
            for batch in std::mem::take(&mut queue.batches) {
                match batch {
                    QueuedBatch::Retry { batch: mut b, not_before }
                        if inject_bug!(
                            ResequenceAll,
                            b.closed.status == RecordStatus::NotPersisted
                        ) =>
                    {
                        // A new epoch does not shorten the backoff.
                        b.closed.not_before = not_before;
                        queue.batches.push_back(QueuedBatch::Closed(b.unstamp()));
                    }
                    QueuedBatch::Retry { batch: b, .. } => failed.push(b),
                    other => queue.batches.push_back(other),
                }
            }
            queue.count_extensions();
        }
        // After the lock: failing a batch runs callbacks of the application.
        for batch in failed {
            let error = stale_batch_error(&batch.closed, restarted.topic_id_change);
            self.fail_records(batch.unstamp(), &error);
        }
    }
}

/// Returns the error of a possibly persisted batch that cannot move to its partition's new epoch.
///
/// A batch that may be in a topic is never sent to a new topic of the same name.
fn stale_batch_error(batch: &ClosedBatch, topic_id_change: Option<TopicIdChange>) -> Error {
    let p = &batch.meta.partition;
    match (topic_id_change, &batch.last_error) {
        (Some(TopicIdChange { old, new }), last_error) => {
            let reason = format!(
                "{}-{}: UNKNOWN_TOPIC_ID: the topic was deleted and created again after the \
                 record was sent (old id {old}, new id {new}); it is not sent to the new topic",
                p.topic, p.index
            );
            let error = Error::with_code(ErrorCode::UNKNOWN_TOPIC_ID, reason);
            match last_error {
                Some(last) => error.with_last_broker_error(last),
                None => error,
            }
        }
        (None, Some(error)) => error.clone(),
        (None, None) => Error::new(ErrorKind::Network, "the response was lost"),
    }
}
