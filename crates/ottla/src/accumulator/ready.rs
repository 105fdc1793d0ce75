//! Which nodes have something that may go out, and when to look again. Owned by the sender, and remembered
//! from round to round: a partition is looked at when something about it has changed (a batch was opened,
//! filled, drained, answered, or its time has come), never because a round goes by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::RecordAccumulator;
use super::batch::{BatchTimings, ClosedBatch, StampedBatch};
use super::builtin_partitioner::Partitioning;
use super::deadline_queue::{BitSet, DeadlineQueue};
use super::partition::{Partition, PartitionQueue, QueuedBatch};
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::injected_bugs::inject_bug;
use crate::time::Tick;

/// The partitions that hold something, and where each stands.
#[derive(Debug, Default)]
pub(crate) struct ReadyTracker {
    pub(super) partitions: HashMap<u32, TrackedPartition>,
    /// To be looked at.
    dirty_keys: Vec<u32>,
    all_dirty: bool,
    /// Partitions that may be drained, by their leader.
    pub(super) ready_by_node: BTreeMap<i32, BitSet>,
    /// Partitions whose only batch lingers, by their leader: they go along with what is ready.
    pub(super) lingering_by_node: BTreeMap<i32, BitSet>,
    /// Partitions without a leader.
    leaderless: BitSet,
    /// When a lingering or resting head is due.
    timers: DeadlineQueue,
    /// When a head's delivery time-out is over.
    pub(super) expiries: DeadlineQueue,
    /// Per node, the partition drained last: the next drain begins behind it.
    pub(super) drain_index: HashMap<i32, u32>,
    /// Topics whose queues changed since their draws were weighed, and how often.
    queue_changes: BTreeMap<Arc<str>, usize>,
    /// Per node, when it last had something ready, and when it last took some.
    node_latencies: HashMap<i32, (Tick, Tick)>,
    /// What made a lingering batch due in the last round.
    pressure: SendPressure,
}

/// A partition that holds something.
#[derive(Debug)]
pub(super) struct TrackedPartition {
    pub(super) partition: Arc<Partition>,
    state: PartitionState,
    timer: Option<Tick>,
    pub(super) expiry: Option<Tick>,
    dirty: bool,
    /// The number of the last batch somebody waits for.
    last_awaited: u64,
    /// Since when it has no leader, and how long it had none before.
    leaderless: (Option<Tick>, Duration),
}

/// Where a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartitionState {
    /// Waits for an event, or for its time.
    Waiting,
    /// May be drained, to this node.
    Ready(i32),
    /// Might be drained to this node, but lingers.
    Lingering(i32),
    Leaderless,
}

/// The sender's word on what a partition may do, beyond having something.
pub(crate) trait DrainPolicy {
    /// Whether a batch may leave now; `retry` if it has been sent before.
    fn can_drain(&self, partition: &Partition, retry: bool) -> bool;
    /// Whether nothing of it is in flight.
    fn is_idle(&self, partition: &Partition) -> bool;
    /// Takes the batch's place in the producer's order.
    fn stamp(&mut self, batch: ClosedBatch) -> StampedBatch;
}

/// Why lingering batches need not linger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SendPressure {
    /// Callers wait for memory.
    pub(crate) exhausted: bool,
    /// No more is coming.
    pub(crate) closing: bool,
    /// Batches up to this number are being flushed.
    pub(crate) flush_up_to: u64,
}

/// What a partition's standing depends on beside itself.
#[derive(Clone, Copy)]
pub(crate) struct DrainContext<'a> {
    pub(crate) accumulator: &'a RecordAccumulator,
    pub(crate) cluster: &'a Cluster,
    pub(crate) now: Tick,
}

/// What stands at the head of a partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// It may leave; true if it was sent before.
    Sendable(bool),
    /// It may leave then.
    BackingOff(Tick),
    /// It might leave, and is given until then for others to come along.
    Lingering(Tick),
    /// Somebody works on it, and will say so.
    BeingProcessed,
    /// Its time is over: it is not to be sent, nor to be worked on any more.
    Expired,
    Empty,
}

impl ReadyTracker {
    /// A partition holds something, or something about it has changed.
    pub(crate) fn insert(&mut self, partition: Arc<Partition>) {
        let key = partition.id;
        self.partitions.entry(key).or_insert_with(|| TrackedPartition {
            partition,
            state: PartitionState::Waiting,
            timer: None,
            expiry: None,
            dirty: false,
            last_awaited: 0,
            leaderless: (None, Duration::ZERO),
        });
        self.mark_dirty(key);
    }

    /// Somebody waits for a batch.
    pub(crate) fn mark_awaited(&mut self, partition: Arc<Partition>, number: u64) {
        let key = partition.id;
        self.insert(partition);
        if let Some(entry) = self.partitions.get_mut(&key) {
            entry.last_awaited = entry.last_awaited.max(number);
        }
    }

    /// To be looked at again, if it holds something.
    pub(crate) fn mark_dirty(&mut self, key: u32) {
        if let Some(entry) = self.partitions.get_mut(&key)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty_keys.push(key);
        }
    }

    /// Something changed that may concern every partition: leaders, the producer's id.
    pub(crate) fn mark_all_dirty(&mut self) {
        self.all_dirty = true;
    }

    /// What makes lingering batches due; a change concerns every partition that holds something.
    pub(crate) fn set_pressure(&mut self, urge: SendPressure) {
        self.all_dirty |= std::mem::replace(&mut self.pressure, urge) != urge;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    pub(crate) fn get(&self, key: u32) -> Option<&Arc<Partition>> {
        self.partitions.get(&key).map(|e| &e.partition)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.partitions.values().map(|e| &e.partition)
    }

    /// Nodes with something to drain.
    pub(crate) fn ready_nodes(&self) -> impl Iterator<Item = i32> {
        self.ready_by_node.iter().filter(|(_, keys)| !keys.is_empty()).map(|(node, _)| *node)
    }

    /// Topics of batches whose partition has no leader.
    pub(crate) fn unknown_leader_topics(&self) -> BTreeSet<Arc<str>> {
        let topic = |key: u32| Some(self.partitions.get(&key)?.partition.topic.clone());
        self.leaderless.iter().filter_map(topic).collect()
    }

    /// When something that waits is due, or over.
    pub(crate) fn next_deadline(&self) -> Tick {
        self.timers.next_deadline().min(self.expiries.next_deadline())
    }

    /// Looks at what has changed, or has become due. Partitions that hold nothing any more are forgotten;
    /// they announce themselves again.
    #[inline(never)]
    pub(crate) fn refresh(&mut self, view: DrainContext<'_>, order: &impl DrainPolicy) {
        while let Some(key) = self.timers.pop_due(view.now) {
            self.mark_dirty(key);
        }
        if std::mem::take(&mut self.all_dirty) {
            let keys: Vec<u32> = self.partitions.keys().copied().collect();
            keys.into_iter().for_each(|key| self.mark_dirty(key));
        }
        let mut dirty = std::mem::take(&mut self.dirty_keys);
        for key in dirty.drain(..) {
            self.reevaluate(key, view, order);
        }
        self.dirty_keys = dirty;
        self.update_load_stats(view);
    }

    fn reevaluate(&mut self, key: u32, view: DrainContext<'_>, order: &impl DrainPolicy) {
        let Some(entry) = self.partitions.get_mut(&key) else { return };
        entry.dirty = false;
        let p = entry.partition.clone();
        let (head, expiry, changed, empty) = {
            let mut queue = p.lock_for_sender();
            let empty = queue.is_empty();
            if empty {
                queue.announced = false;
            }
            let head = head(&queue, entry, view, self.pressure, order);
            let away = queue.batches.front().is_some_and(QueuedBatch::is_being_processed);
            let created = match queue.batches.front() {
                Some(slot) => Some(slot.created()),
                None => queue.open().map(|b| b.meta.created),
            };
            let expiry = created.map(|c| c.after(view.accumulator.settings.delivery_timeout));
            // Of what somebody works on past its time, whoever it is will say so.
            let expiry = expiry.filter(|at| !away || *at > view.now);
            (head, expiry, p.update_queued(&queue), empty)
        };
        if changed && view.accumulator.settings.adaptive_partitioning {
            *self.queue_changes.entry(p.topic.clone()).or_default() += 1;
        }
        let (stands, timer) = partition_state(&p, &head, view, order);
        let entry = self.partitions.get_mut(&key).map(|e| {
            let no_leader = stands == PartitionState::Leaderless;
            match (e.leaderless.0, no_leader) {
                (None, true) => e.leaderless.0 = Some(view.now),
                (Some(since), false) => {
                    e.leaderless = (None, e.leaderless.1 + view.now.since(since));
                }
                _ => {}
            }
            let old = e.state;
            (e.state, e.timer, e.expiry) = (stands, timer, expiry);
            old
        });
        let Some(old) = entry else { return };
        self.update_index(key, old, (stands, timer, expiry));
        if empty {
            self.partitions.remove(&key);
        }
    }

    fn update_index(&mut self, key: u32, old: PartitionState, new: IndexEntry) {
        if old != new.0 {
            match old {
                PartitionState::Ready(node) => {
                    if let Some(keys) = self.ready_by_node.get_mut(&node) {
                        keys.remove(key);
                    }
                }
                PartitionState::Lingering(node) => {
                    if let Some(keys) = self.lingering_by_node.get_mut(&node) {
                        keys.remove(key);
                    }
                }
                PartitionState::Leaderless => self.leaderless.remove(key),
                PartitionState::Waiting => {}
            }
            match new.0 {
                PartitionState::Ready(node) => {
                    self.ready_by_node.entry(node).or_default().insert(key);
                }
                PartitionState::Lingering(node) => {
                    self.lingering_by_node.entry(node).or_default().insert(key);
                }
                PartitionState::Leaderless => self.leaderless.insert(key),
                PartitionState::Waiting => {}
            }
        }
        // Marks that were for something else stay, and cost a look when they come.
        for (marks, due) in [(&mut self.timers, new.1), (&mut self.expiries, new.2)] {
            if let Some(due) = due {
                marks.schedule(key, due);
            }
        }
    }

    /// A node had something ready, and took it or could not (SN7).
    pub(crate) fn update_node_latency(&mut self, node: i32, now: Tick, took: bool) {
        let times = self.node_latencies.entry(node).or_insert((now, now));
        times.0 = now;
        if took {
            times.1 = now;
        }
    }

    /// When a node last had something ready, and when it last took some.
    #[cfg(test)]
    pub(crate) fn node_latency(&self, node: i32) -> Option<(Tick, Tick)> {
        self.node_latencies.get(&node).copied()
    }

    /// Topics were published, their draws uniform: those that had weights get them again.
    pub(crate) fn reset_load_stats(&mut self, topics: impl Iterator<Item = Arc<str>>) {
        self.queue_changes.extend(topics.map(|t| (t, usize::MAX / 2)));
    }

    /// Weighs the draws of topics whose queues changed: at most once for so many changes that a draw of a
    /// large topic costs no more than one of a small.
    fn update_load_stats(&mut self, view: DrainContext<'_>) {
        if self.queue_changes.is_empty()
            || matches!(view.accumulator.settings.partitioning, Partitioning::RoundRobin)
        {
            self.queue_changes.clear();
            return;
        }
        let (latency, limit) =
            (&self.node_latencies, view.accumulator.settings.availability_timeout);
        self.queue_changes.retain(|name, changes| {
            let Some(topic) = view.accumulator.topics.get(name) else { return false };
            if *changes < topic.partitions.len() * 2 {
                return true;
            }
            let available = |p: &Partition| {
                let leader = view.cluster.leader(&p.topic, p.index).node_id;
                let late = latency.get(&leader).map(|(ready, took)| ready.since(*took));
                limit.is_zero() || late.is_none_or(|late| late <= limit)
            };
            topic.update_load_stats(available);
            false
        });
    }

    /// How long a partition has had no leader in all while it held something.
    pub(crate) fn leaderless_duration(&self, key: u32, now: Tick) -> Duration {
        self.partitions.get(&key).map_or(Duration::ZERO, |e| {
            e.leaderless.1 + e.leaderless.0.map_or(Duration::ZERO, |since| now.since(since))
        })
    }

    /// What is remembered is what a look at every partition would find: the simulation asks every round.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn assert_consistent(&self, view: DrainContext<'_>, order: &impl DrainPolicy) {
        for entry in self.partitions.values().filter(|e| !e.dirty && !self.all_dirty) {
            let p = &entry.partition;
            let head = head(&p.queue.lock(), entry, view, self.pressure, order);
            if head == Head::BeingProcessed {
                // A caller took it to close it; whoever is done will say so.
                continue;
            }
            let found = partition_state(p, &head, view, order);
            let past = |at: Option<Tick>| at.is_some_and(|at| at <= view.now);
            let due = past(entry.timer) || past(entry.expiry);
            assert!(
                due || found == (entry.state, entry.timer),
                "{}-{} stands otherwise than remembered: {found:?}, not {:?}",
                p.topic,
                p.index,
                (entry.state, entry.timer)
            );
        }
    }
}

impl BatchTimings {
    /// Whether the partition has had another election since the batch was sent.
    fn has_leader_changed(&self, entry: &TrackedPartition, view: DrainContext<'_>) -> bool {
        let p = &entry.partition;
        let known = self.leader_epoch;
        known >= 0 && view.cluster.leader(&p.topic, p.index).epoch > known
    }
}

/// What an entry is filed under: its standing, its timer, its expiry.
type IndexEntry = (PartitionState, Option<Tick>, Option<Tick>);

fn partition_state(
    p: &Partition,
    head: &Head,
    view: DrainContext<'_>,
    order: &impl DrainPolicy,
) -> (PartitionState, Option<Tick>) {
    if *head == Head::Empty {
        return (PartitionState::Waiting, None);
    }
    let leader = view.cluster.leader(&p.topic, p.index).node_id;
    if leader == -1 {
        return (PartitionState::Leaderless, None);
    }
    match head {
        Head::Sendable(retry) if order.can_drain(p, *retry) => {
            (PartitionState::Ready(leader), None)
        }
        Head::BackingOff(at) => (PartitionState::Waiting, Some(*at)),
        Head::Lingering(at) if order.can_drain(p, false) => {
            (PartitionState::Lingering(leader), Some(*at))
        }
        Head::Lingering(at) => (PartitionState::Waiting, Some(*at)),
        _ => (PartitionState::Waiting, None),
    }
}

/// Whether the time of what stands at the head is over.
pub(super) fn is_expired(queue: &PartitionQueue, view: DrainContext<'_>) -> bool {
    let created = match (queue.batches.front(), queue.open()) {
        (Some(slot), _) if slot.is_being_processed() => return false,
        (Some(slot), _) => slot.created(),
        (None, Some(open)) => open.meta.created,
        (None, None) => return false,
    };
    created.after(view.accumulator.settings.delivery_timeout) <= view.now
}

pub(super) fn head(
    queue: &PartitionQueue,
    entry: &TrackedPartition,
    view: DrainContext<'_>,
    urge: SendPressure,
    order: &impl DrainPolicy,
) -> Head {
    let now = view.now;
    if is_expired(queue, view) {
        return Head::Expired;
    }
    match (queue.batches.front(), queue.open()) {
        (Some(QueuedBatch::Closing(..) | QueuedBatch::Splitting(_)), _) => Head::BeingProcessed,
        (Some(QueuedBatch::Closed(b)), _) if b.not_before > now => Head::BackingOff(b.not_before),
        (Some(QueuedBatch::Closed(_)), _) => Head::Sendable(false),
        // A newer leader need not be waited for (KAFKA-15415); the old one under a new name must.
        (Some(QueuedBatch::Retry(b, at)), _)
            if *at > now && !b.closed.timings.has_leader_changed(entry, view) =>
        {
            Head::BackingOff(if inject_bug!(NoRetryBackoff) { now } else { *at })
        }
        (Some(QueuedBatch::Retry(..)), _) => Head::Sendable(true),
        (None, Some(open)) => {
            let due = open.meta.created.after(view.accumulator.settings.linger);
            let number = open.meta.number;
            let urged = urge.exhausted
                || urge.closing
                || number <= urge.flush_up_to
                || (number <= entry.last_awaited && order.is_idle(&entry.partition));
            if due <= now || urged { Head::Sendable(false) } else { Head::Lingering(due) }
        }
        (None, None) => Head::Empty,
    }
}
