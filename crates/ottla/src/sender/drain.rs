//! Removes batches from their queues: those that a request takes, and those that expired.
//!
//! The sender calls it after [`ReadyTracker::refresh`]. A drain takes one batch of each ready
//! partition of a node, up to `max.request.size`. It begins after the partition where the last
//! drain of the node ended, so that no partition is starved. Then the sender sends the batches in
//! one request.

use ottla_protocol::Uuid;

use super::batch_size_discovery::BatchSizeDiscovery;
use super::producer_state::ProducerState;
use super::ready::{DrainContext, ReadyTracker, is_expired};
use crate::accumulator::batch::{ClosedBatch, OpenBatch, StampedBatch};
use crate::accumulator::partition::{Partition, QueuedBatch, SenderGuard, SplittingBatch};

/// Limits the initial capacity of a request's list of batches.
const INITIAL_REQUEST_CAPACITY: usize = 64;

/// The request that a drain collects batches for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DrainRequest {
    pub(crate) node: i32,
    /// The most bytes of batches. A first batch that is larger is sent alone.
    pub(crate) max_size: usize,
    /// Whether it also takes batches of the node that only linger, as Kafka's producer always
    /// does. The sender sets it for a node without a request in flight: the request is made
    /// anyway. The batches of a busy node keep lingering and fill.
    pub(crate) include_lingering: bool,
}

/// The batches that a drain removed from their queues.
#[derive(Debug, Default)]
pub(crate) struct DrainedBatches {
    /// To be sent in one request.
    pub(crate) batches: Vec<StampedBatch>,
    /// To be closed on a worker thread, which posts an event when it has finished.
    pub(crate) to_close: Vec<OpenBatch>,
    /// To be split on a worker thread: their broker rejects batches of their size.
    pub(crate) to_split: Vec<ClosedBatch>,
}

/// A batch that has left its queue and has no stamp yet, or keeps the stamp it has.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on the stack")]
enum DrainedBatch {
    Closed(ClosedBatch),
    Retry(Box<StampedBatch>),
    Open(OpenBatch),
}

/// How a drain proceeds with the first batch of a queue.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on the stack")]
enum HeadAction {
    /// Adds the batch, which takes `len` bytes, to the request.
    Drain {
        batch: DrainedBatch,
        len: usize,
    },
    Close(OpenBatch),
    Split(ClosedBatch),
    /// The batch exceeds the rest of the request: the drain ends.
    TooLarge,
    Skip,
}

/// A batch that left its queue to be failed: it expired, or it was purged, or the producer failed.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, until it is completed")]
#[derive(Debug)]
pub(crate) enum RemovedBatch {
    /// Never sent, or known not to be persisted by its last request.
    Unsent(ClosedBatch),
    /// Sent before, and re-enqueued for a retry.
    Sent(Box<StampedBatch>),
}

impl ReadyTracker {
    /// Removes and returns the batches that can be sent to a node now.
    #[inline(never)]
    pub(crate) fn drain(
        &mut self,
        cx: DrainContext<'_>,
        producer_state: &mut ProducerState,
        discovery: &BatchSizeDiscovery,
        request: DrainRequest,
    ) -> DrainedBatches {
        let DrainRequest { node, max_size, include_lingering } = request;
        let mut out = DrainedBatches::default();
        let start = self.drain_index.get(&node).map_or(0, |last| last.wrapping_add(1));
        let mut round = RoundRobin { start, next: start, wrapped: false };
        let mut size = 0;
        let topic_id = |p: &Partition| cx.cluster.topics.get(&p.topic).map_or(Uuid::ZERO, |t| t.id);
        while let Some(partition_id) =
            round.next(|from| self.index.next(node, from, include_lingering))
        {
            let Some(p) = self.get(partition_id).cloned() else { continue };
            // A first batch that is larger than the limit is sent alone (CASES RA4).
            let remaining =
                if out.batches.is_empty() { usize::MAX } else { max_size - size.min(max_size) };
            let action = take_head(p.lock_for_sender(), &p, cx, discovery, remaining);
            // Also after `Skip`: the cached state was stale.
            self.mark_dirty(partition_id);
            match action {
                HeadAction::Drain { batch, len } => {
                    size += len;
                    self.drain_index.insert(node, partition_id);
                    let mut batch = match batch {
                        DrainedBatch::Closed(b) => producer_state.stamp(b, topic_id(&p)),
                        // A retry keeps its sequence: the broker recognizes a duplicate by it.
                        DrainedBatch::Retry(b) => *b,
                        DrainedBatch::Open(open) => {
                            merge_stripes_if_less_than_half_full(&open, cx);
                            producer_state.stamp(open.close(None), topic_id(&p))
                        }
                    };
                    batch.closed.timings.drained_at.get_or_insert(cx.now);
                    if out.batches.is_empty() {
                        let ready = self.index.ready_count(node).clamp(1, INITIAL_REQUEST_CAPACITY);
                        out.batches.reserve(ready);
                    }
                    out.batches.push(batch);
                }
                HeadAction::Close(open) => {
                    merge_stripes_if_less_than_half_full(&open, cx);
                    out.to_close.push(open);
                }
                HeadAction::Split(batch) => out.to_split.push(batch),
                HeadAction::TooLarge => break,
                HeadAction::Skip => {}
            }
        }
        out
    }

    /// Removes and returns the batches that were created `delivery.timeout.ms` ago or earlier, in
    /// the order of each queue.
    pub(crate) fn expire(&mut self, cx: DrainContext<'_>) -> Vec<RemovedBatch> {
        let mut expired = Vec::new();
        let timeout = cx.accumulator.settings.delivery_timeout;
        while let Some(partition_id) = self.expiries.pop_due(cx.now) {
            let Some(entry) = self.partitions.get_mut(&partition_id) else { continue };
            entry.expiry = None;
            let p = entry.partition.clone();
            self.mark_dirty(partition_id);
            loop {
                let mut queue = p.lock_for_sender();
                let created = match (queue.batches.front(), queue.open()) {
                    // A worker thread has the batch, and posts an event when it has finished. The
                    // batches behind it wait for that event, so that they fail in order.
                    (Some(batch), _) if batch.is_being_processed() => break,
                    (Some(batch), _) => batch.created(),
                    (None, Some(open)) => open.meta.created,
                    (None, None) => break,
                };
                if created.after(timeout) > cx.now {
                    break;
                }
                let first = queue.pop_front();
                let open = if first.is_none() { queue.take_open() } else { None };
                drop(queue);
                expired.extend(first.and_then(RemovedBatch::from_queued));
                expired.extend(open.map(|open| RemovedBatch::Unsent(open.abort())));
            }
        }
        expired
    }

    /// Removes and returns all batches of the partitions for which `which` returns true.
    pub(crate) fn remove(&mut self, which: impl Fn(&Partition) -> bool) -> Vec<RemovedBatch> {
        self.remove_where(which, |_, _| true)
    }

    /// Removes and returns the batches up to this number.
    pub(crate) fn remove_up_to(&mut self, batch_number: u64) -> Vec<RemovedBatch> {
        self.remove_where(|_| true, |number, _| number <= batch_number)
    }

    /// Removes and returns the batches that were never sent.
    pub(crate) fn remove_unsent(&mut self) -> Vec<RemovedBatch> {
        self.remove_where(|_| true, |_, is_retry| !is_retry)
    }

    fn remove_where(
        &mut self,
        is_partition: impl Fn(&Partition) -> bool,
        is_batch: impl Fn(u64, bool) -> bool,
    ) -> Vec<RemovedBatch> {
        let mut removed = Vec::new();
        let chosen = self.partitions.values().filter(|e| is_partition(&e.partition));
        let mut partition_ids: Vec<u32> = chosen.map(|e| e.partition.id).collect();
        // A hash map's order differs between processes, and the simulation must replay.
        partition_ids.sort_unstable();
        for partition_id in partition_ids {
            let Some(p) = self.get(partition_id).cloned() else { continue };
            // A batch that a thread closes or splits stays. The sender handles it when the thread
            // has posted its event.
            let (batches, open) = p.lock_for_sender().take_where(&is_batch);
            self.mark_dirty(partition_id);
            removed.extend(batches.into_iter().filter_map(RemovedBatch::from_queued));
            removed.extend(open.map(|b| RemovedBatch::Unsent(b.abort())));
        }
        removed
    }
}

/// Visits each partition of a node once, from `start` on and around to it.
struct RoundRobin {
    start: u32,
    next: u32,
    wrapped: bool,
}

impl RoundRobin {
    /// Returns the next partition id; `next_partition_id` returns the smallest id that is not below
    /// its argument.
    fn next(&mut self, next_partition_id: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        if !self.wrapped {
            if let Some(partition_id) = next_partition_id(self.next) {
                self.next = partition_id + 1;
                return Some(partition_id);
            }
            (self.wrapped, self.next) = (true, 0);
        }
        let partition_id =
            next_partition_id(self.next).filter(|partition_id| *partition_id < self.start)?;
        self.next = partition_id + 1;
        Some(partition_id)
    }
}

impl RemovedBatch {
    pub(crate) fn closed(&self) -> &ClosedBatch {
        match self {
            RemovedBatch::Unsent(b) => b,
            RemovedBatch::Sent(b) => &b.closed,
        }
    }

    pub(crate) fn into_closed(self) -> ClosedBatch {
        match self {
            RemovedBatch::Unsent(b) => b,
            RemovedBatch::Sent(b) => b.unstamp(),
        }
    }

    /// Returns `None` for a batch that a thread closes or splits.
    fn from_queued(batch: QueuedBatch) -> Option<RemovedBatch> {
        match batch {
            QueuedBatch::Closed(b) => Some(RemovedBatch::Unsent(b)),
            QueuedBatch::Retry { batch: b, .. } => Some(RemovedBatch::Sent(b)),
            QueuedBatch::Closing { .. } | QueuedBatch::Splitting(_) => None,
        }
    }
}

/// Lets all threads share one sticky partition again, if a batch leaves less than half full: the
/// load is too low for contention.
fn merge_stripes_if_less_than_half_full(open: &OpenBatch, cx: DrainContext<'_>) {
    if open.is_less_than_half_full()
        && let Some(topic) = cx.accumulator.topics.get(&open.meta.partition.topic)
    {
        topic.sticky_partition.merge_stripes();
    }
}

/// Takes the first batch of a ready partition, if it has at most `remaining` bytes.
fn take_head(
    mut queue: SenderGuard<'_>,
    p: &Partition,
    cx: DrainContext<'_>,
    discovery: &BatchSizeDiscovery,
    remaining: usize,
) -> HeadAction {
    // A ready partition is not re-evaluated when its first batch expires. `expire` fails the batch.
    if is_expired(&queue, cx) {
        return HeadAction::Skip;
    }
    let len = match queue.batches.front() {
        // It is split before it is sent. A batch that was sent may be persisted and is split only
        // after the broker has rejected it with MESSAGE_TOO_LARGE.
        Some(QueuedBatch::Closed(b))
            if b.meta.record_count > 1 && discovery.is_rejected(p, b.wire_len()) =>
        {
            let Some(QueuedBatch::Closed(b)) = queue.pop_front() else {
                return HeadAction::Skip;
            };
            queue.batches.push_front(QueuedBatch::Splitting(SplittingBatch::new(&b)));
            return HeadAction::Split(b);
        }
        Some(QueuedBatch::Closed(b)) => b.wire_len(),
        Some(QueuedBatch::Retry { batch: b, .. }) => b.closed.wire_len(),
        Some(QueuedBatch::Closing { .. } | QueuedBatch::Splitting(_)) => return HeadAction::Skip,
        None => queue.open().map_or(0, OpenBatch::wire_len),
    };
    let must_split = |open: &OpenBatch| {
        // It was extended before a broker rejected another batch of its size.
        open.is_extended() && open.meta.record_count > 1 && discovery.is_rejected(p, len)
    };
    if queue.batches.is_empty()
        && (!cx.accumulator.settings.compression.is_none() || queue.open().is_some_and(must_split))
    {
        // A worker thread compresses the batch, so that the sender does not block. An entry in the
        // queue keeps its position, and nothing overtakes it. A batch to split is closed first.
        return queue.close_open().map_or(HeadAction::Skip, HeadAction::Close);
    }
    if len > remaining {
        return HeadAction::TooLarge;
    }
    match queue.pop_front() {
        Some(QueuedBatch::Closed(b)) => HeadAction::Drain { batch: DrainedBatch::Closed(b), len },
        Some(QueuedBatch::Retry { batch: b, .. }) => {
            HeadAction::Drain { batch: DrainedBatch::Retry(b), len }
        }
        _ => match queue.take_open() {
            Some(b) => HeadAction::Drain { batch: DrainedBatch::Open(b), len },
            None => HeadAction::Skip,
        },
    }
}
