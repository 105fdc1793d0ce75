//! Caches the state of each partition that holds batches: ready, lingering, waiting or leaderless.
//!
//! The sender owns the tracker. In each round it calls [`ReadyTracker::refresh`], and then
//! [`ReadyTracker::drain`] for each ready node. In most rounds it re-evaluates only the partitions
//! that had an event, a response or a deadline. It re-evaluates all of them after a change of the
//! cluster's metadata, the producer id or the [`SendPressure`] (exhausted memory, a flush, a
//! close), and after unresolved sequences are resolved. Kafka's `RecordAccumulator.ready` visits
//! every partition in each round.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::active_partitions::ActivePartitions;
use super::deadline_queue::DeadlineQueue;
use super::load_stats::LoadStats;
use super::partition_index::{PartitionIndex, PartitionState};
use super::producer_state::{MuteReason, ProducerState};
use crate::accumulator::RecordAccumulator;
use crate::accumulator::batch::BatchTimings;
use crate::accumulator::partition::{Partition, PartitionQueue, QueuedBatch};
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::time::Tick;

/// The partitions that hold batches, and the state of each.
#[derive(Debug, Default)]
pub(crate) struct ReadyTracker {
    pub(super) partitions: HashMap<u32, TrackedPartition>,
    /// Partitions that the next `refresh` re-evaluates.
    dirty_partition_ids: Vec<u32>,
    all_dirty: bool,
    pub(super) index: PartitionIndex,
    /// When the linger time or the backoff of a partition's first batch ends.
    timers: DeadlineQueue,
    /// When the delivery timeout of a partition's first batch expires.
    pub(super) expiries: DeadlineQueue,
    /// The partition that was drained last, by node id. The next drain of the node starts after it.
    pub(super) drain_index: HashMap<i32, u32>,
    pub(crate) load_stats: LoadStats,
    active_partitions: ActivePartitions,
    /// The conditions that made lingering batches ready in the last round.
    pressure: SendPressure,
    /// Partitions with batches that have to be added to the transaction.
    unjoined_partition_ids: Vec<u32>,
    /// How often a partition was re-evaluated.
    #[cfg(test)]
    pub(super) reevaluations: usize,
}

/// A partition that holds batches.
#[derive(Debug)]
pub(super) struct TrackedPartition {
    pub(super) partition: Arc<Partition>,
    state: PartitionState,
    timer: Option<Tick>,
    pub(super) expiry: Option<Tick>,
    dirty: bool,
    /// The highest number of a batch that a caller waits for.
    last_awaited: u64,
    leaderless_since: Option<Tick>,
    /// How long the partition had no leader before `leaderless_since`.
    leaderless_before: Duration,
}

/// The conditions that make lingering batches ready before their linger time ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SendPressure {
    /// Callers lack memory.
    pub(crate) exhausted: bool,
    /// The producer closes or commits its transaction: no record follows.
    pub(crate) no_record_follows: bool,
    /// Batches up to this number are being flushed.
    pub(crate) flush_up_to: u64,
}

/// What a partition's state depends on, besides its own queue.
#[derive(Clone, Copy)]
pub(crate) struct DrainContext<'a> {
    pub(crate) accumulator: &'a RecordAccumulator,
    pub(crate) cluster: &'a Cluster,
    pub(crate) now: Tick,
}

/// The state of the first batch of a queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Can be sent; `retry` if it has been sent before.
    Sendable {
        retry: bool,
    },
    /// Can be sent from this time on.
    BackingOff(Tick),
    /// Takes records until this time, but can be sent earlier.
    Lingering(Tick),
    /// A thread closes or splits the batch off the lock, and posts an event when it has finished.
    BeingProcessed,
    /// Its delivery timeout has expired: it must be failed, neither sent nor closed.
    Expired,
    Empty,
}

impl ReadyTracker {
    /// Starts to track a partition, or marks it as dirty if it is tracked.
    pub(crate) fn insert(&mut self, partition: Arc<Partition>) {
        let partition_id = partition.id;
        self.partitions.entry(partition_id).or_insert_with(|| {
            self.active_partitions.add(partition_id);
            TrackedPartition {
                partition,
                state: PartitionState::Waiting,
                timer: None,
                expiry: None,
                dirty: false,
                last_awaited: 0,
                leaderless_since: None,
                leaderless_before: Duration::ZERO,
            }
        });
        self.mark_dirty(partition_id);
    }

    /// Records that a caller waits for a batch. The batch need not linger while its partition has
    /// nothing in flight.
    pub(crate) fn mark_awaited(&mut self, partition_id: u32, batch_number: u64) {
        if let Some(entry) = self.partitions.get_mut(&partition_id) {
            entry.last_awaited = entry.last_awaited.max(batch_number);
        }
    }

    /// Lets the next `refresh` re-evaluate a partition. Returns whether it is tracked.
    pub(crate) fn mark_dirty(&mut self, partition_id: u32) -> bool {
        let Some(entry) = self.partitions.get_mut(&partition_id) else { return false };
        if !std::mem::replace(&mut entry.dirty, true) {
            self.dirty_partition_ids.push(partition_id);
        }
        true
    }

    /// Lets the next `refresh` re-evaluate every partition: leaders or the producer id changed.
    pub(crate) fn mark_all_dirty(&mut self) {
        self.all_dirty = true;
    }

    /// Sets the send pressure. A change concerns every partition.
    pub(crate) fn set_pressure(&mut self, pressure: SendPressure) {
        self.all_dirty |= std::mem::replace(&mut self.pressure, pressure) != pressure;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    pub(crate) fn get(&self, partition_id: u32) -> Option<&Arc<Partition>> {
        self.partitions.get(&partition_id).map(|e| &e.partition)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.partitions.values().map(|e| &e.partition)
    }

    /// Returns the ids of the nodes that have a ready batch.
    pub(crate) fn ready_nodes(&self) -> impl Iterator<Item = i32> {
        self.index.ready_nodes()
    }

    /// Evaluates a partition's queue, which the caller has locked, as of now and without a change.
    pub(super) fn evaluate(
        &self,
        p: &Partition,
        queue: &PartitionQueue,
        cx: DrainContext<'_>,
        producer_state: &ProducerState,
    ) -> Evaluation {
        let Some(entry) = self.partitions.get(&p.id) else { return Evaluation::Empty };
        evaluate(p, &head(queue, entry, cx, self.pressure, producer_state), cx, producer_state)
    }

    /// Returns the topics that have batches for a partition without a leader.
    pub(crate) fn unknown_leader_topics(&self) -> BTreeSet<Arc<str>> {
        let topic =
            |partition_id: u32| Some(self.partitions.get(&partition_id)?.partition.topic.clone());
        self.index.leaderless().filter_map(topic).collect()
    }

    /// Returns one of the partitions with batches that are ready for a node.
    pub(crate) fn first_ready_partition(&self, node: i32) -> Option<Arc<Partition>> {
        let id = self.index.next(node, 0, false)?;
        Some(self.partitions.get(&id)?.partition.clone())
    }

    /// Takes the partitions with batches that have to be added to the transaction.
    pub(crate) fn take_unjoined(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.unjoined_partition_ids)
    }

    /// Returns when the next timer or delivery timeout expires.
    pub(crate) fn next_deadline(&self) -> Tick {
        self.timers.next_deadline().min(self.expiries.next_deadline())
    }

    /// Re-evaluates the partitions that are dirty or whose timer has expired. Removes the
    /// partitions that hold no batch; their next append announces them again.
    #[inline(never)]
    pub(crate) fn refresh(&mut self, cx: DrainContext<'_>, producer_state: &ProducerState) {
        while let Some(partition_id) = self.timers.pop_due(cx.now) {
            self.mark_dirty(partition_id);
        }
        if std::mem::take(&mut self.all_dirty) {
            let partition_ids: Vec<u32> = self.partitions.keys().copied().collect();
            for partition_id in partition_ids {
                self.mark_dirty(partition_id);
            }
        }
        let mut dirty = std::mem::take(&mut self.dirty_partition_ids);
        for partition_id in dirty.drain(..) {
            self.reevaluate(partition_id, cx, producer_state);
        }
        self.dirty_partition_ids = dirty;
        self.load_stats.update(cx);
        let active = self.active_partitions.update(cx.now, self.partitions.keys().copied());
        cx.accumulator.first_buffer_size.share_among(active);
    }

    fn reevaluate(
        &mut self,
        partition_id: u32,
        cx: DrainContext<'_>,
        producer_state: &ProducerState,
    ) {
        #[cfg(test)]
        {
            self.reevaluations += 1;
        }
        let Some(entry) = self.partitions.get_mut(&partition_id) else { return };
        entry.dirty = false;
        let p = entry.partition.clone();
        let (head, expiry, queue_changed, is_empty) = {
            let mut queue = p.lock_for_sender();
            let is_empty = queue.is_empty();
            if is_empty {
                // Cleared under the lock: the next append finds it cleared and posts an event. If
                // it were cleared later, that append's event would be lost.
                queue.is_tracked_by_sender = false;
            }
            let head = head(&queue, entry, cx, self.pressure, producer_state);
            let first = queue.batches.front();
            let being_processed = first.is_some_and(QueuedBatch::is_being_processed);
            let created = match first {
                Some(batch) => Some(batch.created()),
                None => queue.open().map(|b| b.meta.created),
            };
            let expiry = created.map(|c| c.after(cx.accumulator.settings.delivery_timeout));
            // An expired batch that a thread still works on gets no deadline: it would be due in
            // every round. The thread posts an event when it has finished.
            let expiry = expiry.filter(|at| !being_processed || *at > cx.now);
            (head, expiry, p.update_queued(&queue), is_empty)
        };
        if queue_changed && cx.accumulator.settings.adaptive_partitioning {
            self.load_stats.queue_changed(&p.topic);
        }
        if !is_empty && producer_state.must_add_partition(partition_id) {
            self.unjoined_partition_ids.push(partition_id);
        }
        let (state, timer) = evaluate(&p, &head, cx, producer_state).state();
        let Some(entry) = self.partitions.get_mut(&partition_id) else { return };
        entry.set_leaderless(state == PartitionState::Leaderless, cx.now);
        let old_state = std::mem::replace(&mut entry.state, state);
        (entry.timer, entry.expiry) = (timer, expiry);
        self.index.update(partition_id, old_state, state);
        // An old deadline of the partition stays in its queue. It fires early and costs one
        // re-evaluation, which is cheaper than a search in the heap.
        for (deadlines, due) in [(&mut self.timers, timer), (&mut self.expiries, expiry)] {
            if let Some(due) = due {
                deadlines.schedule(partition_id, due);
            }
        }
        if is_empty {
            self.partitions.remove(&partition_id);
        }
    }

    /// Returns how long a partition has had no leader in all while it held batches.
    pub(crate) fn leaderless_duration(&self, partition_id: u32, now: Tick) -> Duration {
        self.partitions.get(&partition_id).map_or(Duration::ZERO, |e| {
            e.leaderless_before
                + e.leaderless_since.map_or(Duration::ZERO, |since| now.since(since))
        })
    }

    /// Panics if a cached state differs from the state that a new evaluation finds. The simulation
    /// calls it in every round.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn assert_consistent(&self, cx: DrainContext<'_>, producer_state: &ProducerState) {
        for entry in self.partitions.values().filter(|e| !e.dirty && !self.all_dirty) {
            let p = &entry.partition;
            let head = head(&p.queue.lock(), entry, cx, self.pressure, producer_state);
            if head == Head::BeingProcessed {
                // A caller has taken the batch to close it, and its event is not posted yet.
                continue;
            }
            let found = evaluate(p, &head, cx, producer_state).state();
            let is_past = |at: Option<Tick>| at.is_some_and(|at| at <= cx.now);
            let due = is_past(entry.timer) || is_past(entry.expiry);
            assert!(
                due || found == (entry.state, entry.timer),
                "stale state of {}-{}: cached {:?}, found {found:?}",
                p.topic,
                p.index,
                (entry.state, entry.timer)
            );
        }
    }
}

impl TrackedPartition {
    fn set_leaderless(&mut self, leaderless: bool, now: Tick) {
        match (self.leaderless_since, leaderless) {
            (None, true) => self.leaderless_since = Some(now),
            (Some(since), false) => {
                self.leaderless_since = None;
                self.leaderless_before += now.since(since);
            }
            _ => {}
        }
    }
}

impl BatchTimings {
    /// Returns whether the partition's leader epoch is newer than when the batch was last sent.
    fn has_leader_changed(&self, entry: &TrackedPartition, cx: DrainContext<'_>) -> bool {
        let p = &entry.partition;
        let sent_epoch = self.leader_epoch;
        sent_epoch >= 0 && cx.cluster.leader(&p.topic, p.index).epoch > sent_epoch
    }
}

/// Whether the first batch of a partition can be drained, and what it waits for if not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evaluation {
    /// The queue is empty.
    Empty,
    Leaderless,
    /// To the node with this id.
    Ready(i32),
    /// Until this time; can be drained to the leader before, unless the partition is muted.
    Lingering {
        until: Tick,
        leader: i32,
        is_muted: bool,
    },
    BackingOff(Tick),
    BeingProcessed,
    Expired,
    Muted(MuteReason),
}

/// Evaluates the first batch of a partition.
#[inline]
pub(super) fn evaluate(
    p: &Partition,
    head: &Head,
    cx: DrainContext<'_>,
    producer_state: &ProducerState,
) -> Evaluation {
    if *head == Head::Empty {
        return Evaluation::Empty;
    }
    let leader = cx.cluster.leader(&p.topic, p.index).node_id;
    if leader == -1 {
        return Evaluation::Leaderless;
    }
    match *head {
        Head::Sendable { retry } => match producer_state.mute_reason(p, retry) {
            None => match producer_state.hold_until(retry, cx.now) {
                None => Evaluation::Ready(leader),
                Some(at) => Evaluation::BackingOff(at),
            },
            Some(reason) => Evaluation::Muted(reason),
        },
        Head::BackingOff(at) => Evaluation::BackingOff(at),
        Head::Lingering(until) => {
            let is_muted = !producer_state.can_drain(p, false);
            Evaluation::Lingering { until, leader, is_muted }
        }
        Head::BeingProcessed => Evaluation::BeingProcessed,
        Head::Expired => Evaluation::Expired,
        Head::Empty => Evaluation::Empty,
    }
}

impl Evaluation {
    /// Returns the partition's state, and when it changes without an event.
    #[inline]
    fn state(self) -> (PartitionState, Option<Tick>) {
        match self {
            Evaluation::Leaderless => (PartitionState::Leaderless, None),
            Evaluation::Ready(leader) => (PartitionState::Ready(leader), None),
            Evaluation::BackingOff(at) => (PartitionState::Waiting, Some(at)),
            Evaluation::Lingering { until, leader, is_muted: false } => {
                (PartitionState::Lingering(leader), Some(until))
            }
            Evaluation::Lingering { until, .. } => (PartitionState::Waiting, Some(until)),
            // A muted partition has no timer: the response that unmutes it marks it as dirty.
            Evaluation::Empty
            | Evaluation::BeingProcessed
            | Evaluation::Expired
            | Evaluation::Muted(_) => (PartitionState::Waiting, None),
        }
    }
}

/// Returns whether the delivery timeout of the first batch has expired.
///
/// An expired batch is failed and not sent. If it were sent, it would fail as possibly persisted.
pub(super) fn is_expired(queue: &PartitionQueue, cx: DrainContext<'_>) -> bool {
    let created = match (queue.batches.front(), queue.open()) {
        (Some(batch), _) if batch.is_being_processed() => return false,
        (Some(batch), _) => batch.created(),
        (None, Some(open)) => open.meta.created,
        (None, None) => return false,
    };
    created.after(cx.accumulator.settings.delivery_timeout) <= cx.now
}

/// Returns the state of the first batch of a partition's queue.
pub(super) fn head(
    queue: &PartitionQueue,
    entry: &TrackedPartition,
    cx: DrainContext<'_>,
    pressure: SendPressure,
    producer_state: &ProducerState,
) -> Head {
    let now = cx.now;
    if is_expired(queue, cx) {
        return Head::Expired;
    }
    match (queue.batches.front(), queue.open()) {
        // Nothing behind such a batch can be drained: it would overtake the batch.
        (Some(QueuedBatch::Closing { .. } | QueuedBatch::Splitting(_)), _) => Head::BeingProcessed,
        // The batch was sent under an earlier epoch and has lost its stamp, not its backoff.
        (Some(QueuedBatch::Closed(b)), _) if b.not_before > now => Head::BackingOff(b.not_before),
        (Some(QueuedBatch::Closed(_)), _) => Head::Sendable { retry: false },
        // A newer leader epoch ends the backoff (KAFKA-15415). Another leader of the same epoch
        // does not: such metadata may be stale.
        (Some(QueuedBatch::Retry { batch: b, not_before: at }), _)
            if *at > now && !b.closed.timings.has_leader_changed(entry, cx) =>
        {
            Head::BackingOff(*at)
        }
        (Some(QueuedBatch::Retry { .. }), _) => Head::Sendable { retry: true },
        (None, Some(open)) => {
            let due = open.meta.created.after(cx.accumulator.settings.linger);
            let number = open.meta.number;
            let must_send = open.is_extended()
                || pressure.exhausted
                || pressure.no_record_follows
                || number <= pressure.flush_up_to
                || (number <= entry.last_awaited && producer_state.is_idle(&entry.partition));
            if due <= now || must_send {
                Head::Sendable { retry: false }
            } else {
                Head::Lingering(due)
            }
        }
        (None, None) => Head::Empty,
    }
}
