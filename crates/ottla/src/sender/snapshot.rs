//! Takes the [`Snapshot`] of
//! [`Producer::snapshot`](crate::Producer::snapshot).
//!
//! The sender takes it at the end of a round, after the requests: what is queued then waits for
//! something. The states come from [`ReadyTracker::evaluate`], by which the sender itself decides
//! what to send, so both have the same reasons. Without a request, a round does nothing here.
//!
//! [`ReadyTracker::evaluate`]: super::ready::ReadyTracker::evaluate

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Sender;
use super::producer_state::MuteReason;
use super::ready::{DrainContext, Evaluation};
use crate::accumulator::batch::{ClosedBatch, OpenBatch};
use crate::accumulator::partition::{Partition, PartitionQueue, QueuedBatch};
use crate::error::Error;
use crate::network::io::Io;
use crate::snapshot::{PartitionSnapshot, QueueState, Snapshot, TransactionSnapshot};
use crate::time::Tick;

/// The batches of a partition that are in flight.
#[derive(Default)]
struct InFlight<'a> {
    batches: usize,
    bytes: usize,
    oldest: Option<&'a ClosedBatch>,
}

impl<I: Io> Sender<I> {
    /// Completes the requests since the last round.
    #[cold]
    pub(super) fn complete_snapshots(&mut self, cx: DrainContext<'_>) {
        if self.accumulator.lifecycle().is_closed() {
            return;
        }
        let snapshot = self.snapshot(cx);
        for request in self.buffers.snapshot_requests.drain(..) {
            request.complete(Ok(snapshot.clone()));
        }
    }

    fn snapshot(&self, cx: DrainContext<'_>) -> Snapshot {
        Snapshot {
            partitions: self.partition_snapshots(cx),
            brokers: self.client.broker_snapshots(cx.now),
            memory: self.accumulator.pool.snapshot(),
            awaited_topics: self.accumulator.topics.awaited(),
            transaction: self.transaction_snapshot(),
        }
    }

    fn transaction_snapshot(&self) -> Option<TransactionSnapshot> {
        let manager = self.producer_state.transactions.as_ref()?;
        let id = self.producer_state.producer_id_and_epoch();
        Some(TransactionSnapshot {
            producer_id: id.map(|id| id.producer_id),
            producer_epoch: id.map(|id| id.epoch),
            ..manager.snapshot()
        })
    }

    fn partition_snapshots(&self, cx: DrainContext<'_>) -> Vec<PartitionSnapshot> {
        let mut by_name: BTreeMap<(&str, i32), (&Arc<Partition>, InFlight<'_>)> = BTreeMap::new();
        for p in self.ready.iter() {
            by_name.insert((&p.topic, p.index), (p, InFlight::default()));
        }
        for batch in self.in_flight_batches.iter() {
            let p = &batch.meta.partition;
            let entry = by_name.entry((&p.topic, p.index));
            let (_, in_flight) = entry.or_insert_with(|| (p, InFlight::default()));
            in_flight.batches += 1;
            in_flight.bytes += batch.wire_len();
            if in_flight.oldest.is_none_or(|oldest| batch.meta.created < oldest.meta.created) {
                in_flight.oldest = Some(batch);
            }
        }
        by_name.into_values().map(|(p, in_flight)| self.partition(p, &in_flight, cx)).collect()
    }

    fn partition(
        &self,
        p: &Partition,
        in_flight: &InFlight<'_>,
        cx: DrainContext<'_>,
    ) -> PartitionSnapshot {
        let queue = p.lock_for_sender();
        let evaluation = self.ready.evaluate(p, &queue, cx, &self.producer_state);
        let oldest_queued = oldest_created(&queue);
        let oldest_in_flight = in_flight.oldest.map(|b| b.meta.created);
        let oldest = [oldest_queued, oldest_in_flight].into_iter().flatten().min();
        let (attempts, last_error) = if oldest_queued.is_some() {
            attempts_of_first(&queue)
        } else {
            in_flight.oldest.map_or((0, None), attempts)
        };
        let (queued_batches, queued_bytes) = (queue.len(), queued_bytes(&queue));
        drop(queue);
        PartitionSnapshot {
            topic: p.topic.to_string(),
            partition: p.index,
            leader: Some(cx.cluster.leader(&p.topic, p.index).node_id).filter(|id| *id >= 0),
            state: self.queue_state(evaluation, cx.now),
            queued_batches,
            queued_bytes,
            in_flight_batches: in_flight.batches,
            in_flight_bytes: in_flight.bytes,
            oldest_batch_age: cx.now.since(oldest.unwrap_or(cx.now)),
            attempts,
            last_error: last_error.map(|e| e.to_string()),
        }
    }

    fn queue_state(&self, evaluation: Evaluation, now: Tick) -> QueueState {
        match evaluation {
            Evaluation::Empty => QueueState::InFlight,
            // This round has failed what had expired. A batch that was behind it waits for nothing.
            Evaluation::Expired => QueueState::Ready,
            Evaluation::Leaderless => QueueState::LeaderUnknown,
            Evaluation::Ready(leader) => self.client.ready_batch_state(leader, now),
            Evaluation::Lingering { until, .. } => QueueState::Lingering(until.since(now)),
            Evaluation::BackingOff(until) => QueueState::BackingOff(until.since(now)),
            Evaluation::BeingProcessed => QueueState::Closing,
            Evaluation::Muted(MuteReason::InFlight) => QueueState::Muted,
            Evaluation::Muted(MuteReason::ProducerIdUnknown) => QueueState::ProducerIdUnknown,
            Evaluation::Muted(MuteReason::EpochBump) => QueueState::EpochBump,
            Evaluation::Muted(MuteReason::Transaction) => QueueState::Transaction,
        }
    }
}

/// Returns when the oldest queued batch was created. Retries and parts of a split batch keep the
/// time of the original, so the first batch is not always the oldest.
fn oldest_created(queue: &PartitionQueue) -> Option<Tick> {
    let closed = queue.batches.iter().map(QueuedBatch::created);
    closed.chain(queue.open().map(|open| open.meta.created)).min()
}

fn queued_bytes(queue: &PartitionQueue) -> usize {
    let bytes = |batch: &QueuedBatch| match batch {
        QueuedBatch::Closing { .. } | QueuedBatch::Splitting(_) => 0,
        QueuedBatch::Closed(batch) => batch.wire_len(),
        QueuedBatch::Retry { batch, .. } => batch.closed.wire_len(),
    };
    let closed: usize = queue.batches.iter().map(bytes).sum();
    closed + queue.open().map_or(0, OpenBatch::wire_len)
}

fn attempts_of_first(queue: &PartitionQueue) -> (u32, Option<Error>) {
    match queue.batches.front() {
        Some(QueuedBatch::Closed(batch)) => attempts(batch),
        Some(QueuedBatch::Retry { batch, .. }) => attempts(&batch.closed),
        Some(QueuedBatch::Closing { .. } | QueuedBatch::Splitting(_)) | None => (0, None),
    }
}

fn attempts(batch: &ClosedBatch) -> (u32, Option<Error>) {
    (batch.attempts, batch.last_error.clone())
}
