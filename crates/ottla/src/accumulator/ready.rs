//! Which nodes have something that may go out, and when to look again. Owned by the sender, and remembered
//! from round to round: a partition is looked at when something about it has changed (a batch was opened,
//! filled, drained, answered, or its time has come), never because a round goes by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::RecordAccumulator;
use super::batch::{BatchTimings, ClosedBatch, StampedBatch};
use super::marks::{Bits, Marks};
use super::partition::{Partition, PartitionQueue, QueuedBatch};
use super::partitioner::Spread;
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::plants::inject_bug;
use crate::time::Tick;

/// The partitions that hold something, and where each stands.
#[derive(Debug, Default)]
pub(crate) struct Active {
    pub(super) entries: HashMap<u32, Entry>,
    /// To be looked at.
    dirty: Vec<u32>,
    all_dirty: bool,
    /// Partitions that may be drained, by their leader.
    pub(super) ready: BTreeMap<i32, Bits>,
    /// Partitions whose only batch lingers, by their leader: they go along with what is ready.
    pub(super) lingering: BTreeMap<i32, Bits>,
    /// Partitions without a leader.
    unled: Bits,
    /// When a lingering or resting head is due.
    timers: Marks,
    /// When a head's delivery time-out is over.
    pub(super) expiries: Marks,
    /// Per node, the partition drained last: the next drain begins behind it.
    pub(super) drained: HashMap<i32, u32>,
    /// Topics whose queues changed since their draws were weighed, and how often.
    changed: BTreeMap<Arc<str>, usize>,
    /// Per node, when it last had something ready, and when it last took some.
    latency: HashMap<i32, (Tick, Tick)>,
    /// What made a lingering batch due in the last round.
    urge: Urge,
}

/// A partition that holds something.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) partition: Arc<Partition>,
    stands: Stands,
    timer: Option<Tick>,
    pub(super) expiry: Option<Tick>,
    dirty: bool,
    /// The number of the last batch somebody waits for.
    awaited: u64,
    /// Since when it has no leader, and how long it had none before.
    unled: (Option<Tick>, Duration),
}

/// Where a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// Waits for an event, or for its time.
    Waits,
    /// May be drained, to this node.
    Ready(i32),
    /// Might be drained to this node, but lingers.
    Lingers(i32),
    Unled,
}

/// The sender's word on what a partition may do, beyond having something.
pub(crate) trait Order {
    /// Whether a batch may leave now; `retry` if it has been sent before.
    fn may_drain(&self, partition: &Partition, retry: bool) -> bool;
    /// Whether nothing of it is in flight.
    fn is_idle(&self, partition: &Partition) -> bool;
    /// Takes the batch's place in the producer's order.
    fn stamp(&mut self, batch: ClosedBatch) -> StampedBatch;
}

/// Why lingering batches need not linger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Urge {
    /// Callers wait for memory.
    pub(crate) exhausted: bool,
    /// No more is coming.
    pub(crate) closing: bool,
    /// Batches up to this number are being flushed.
    pub(crate) flush: u64,
}

/// What a partition's standing depends on beside itself.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) acc: &'a RecordAccumulator,
    pub(crate) cluster: &'a Cluster,
    pub(crate) now: Tick,
}

/// What stands at the head of a partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// It may leave; true if it was sent before.
    Sendable(bool),
    /// It may leave then.
    Later(Tick),
    /// It might leave, and is given until then for others to come along.
    Lingers(Tick),
    /// Somebody works on it, and will say so.
    Away,
    /// Its time is over: it is not to be sent, nor to be worked on any more.
    Over,
    Nothing,
}

impl Active {
    /// A partition holds something, or something about it has changed.
    pub(crate) fn insert(&mut self, partition: Arc<Partition>) {
        let key = partition.id;
        self.entries.entry(key).or_insert_with(|| Entry {
            partition,
            stands: Stands::Waits,
            timer: None,
            expiry: None,
            dirty: false,
            awaited: 0,
            unled: (None, Duration::ZERO),
        });
        self.touch(key);
    }

    /// Somebody waits for a batch.
    pub(crate) fn awaited(&mut self, partition: Arc<Partition>, number: u64) {
        let key = partition.id;
        self.insert(partition);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.awaited = entry.awaited.max(number);
        }
    }

    /// To be looked at again, if it holds something.
    pub(crate) fn touch(&mut self, key: u32) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Something changed that may concern every partition: leaders, the producer's id.
    pub(crate) fn touch_all(&mut self) {
        self.all_dirty = true;
    }

    /// What makes lingering batches due; a change concerns every partition that holds something.
    pub(crate) fn set_urge(&mut self, urge: Urge) {
        self.all_dirty |= std::mem::replace(&mut self.urge, urge) != urge;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn get(&self, key: u32) -> Option<&Arc<Partition>> {
        self.entries.get(&key).map(|e| &e.partition)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.entries.values().map(|e| &e.partition)
    }

    /// Nodes with something to drain.
    pub(crate) fn ready_nodes(&self) -> impl Iterator<Item = i32> {
        self.ready.iter().filter(|(_, keys)| !keys.is_empty()).map(|(node, _)| *node)
    }

    /// Topics of batches whose partition has no leader.
    pub(crate) fn unknown(&self) -> BTreeSet<Arc<str>> {
        let topic = |key: u32| Some(self.entries.get(&key)?.partition.topic.clone());
        self.unled.iter().filter_map(topic).collect()
    }

    /// When something that waits is due, or over.
    pub(crate) fn next(&self) -> Tick {
        self.timers.next().min(self.expiries.next())
    }

    /// Looks at what has changed, or has become due. Partitions that hold nothing any more are forgotten;
    /// they announce themselves again.
    #[inline(never)]
    pub(crate) fn refresh(&mut self, view: View<'_>, order: &impl Order) {
        while let Some(key) = self.timers.pop(view.now) {
            self.touch(key);
        }
        if std::mem::take(&mut self.all_dirty) {
            let keys: Vec<u32> = self.entries.keys().copied().collect();
            keys.into_iter().for_each(|key| self.touch(key));
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            self.look(key, view, order);
        }
        self.dirty = dirty;
        self.weigh(view);
    }

    fn look(&mut self, key: u32, view: View<'_>, order: &impl Order) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.dirty = false;
        let p = entry.partition.clone();
        let (head, expiry, changed, empty) = {
            let mut queue = p.lock_for_sender();
            let empty = queue.is_empty();
            if empty {
                queue.announced = false;
            }
            let head = head(&queue, entry, view, self.urge, order);
            let away = queue.batches.front().is_some_and(QueuedBatch::is_being_processed);
            let created = match queue.batches.front() {
                Some(slot) => Some(slot.created()),
                None => queue.open().map(|b| b.meta.created),
            };
            let expiry = created.map(|c| c.after(view.acc.settings.delivery_timeout));
            // Of what somebody works on past its time, whoever it is will say so.
            let expiry = expiry.filter(|at| !away || *at > view.now);
            (head, expiry, p.update_queued(&queue), empty)
        };
        if changed && view.acc.settings.adaptive_partitioning {
            *self.changed.entry(p.topic.clone()).or_default() += 1;
        }
        let (stands, timer) = stands(&p, &head, view, order);
        let entry = self.entries.get_mut(&key).map(|e| {
            let no_leader = stands == Stands::Unled;
            match (e.unled.0, no_leader) {
                (None, true) => e.unled.0 = Some(view.now),
                (Some(since), false) => {
                    e.unled = (None, e.unled.1 + view.now.since(since));
                }
                _ => {}
            }
            let old = e.stands;
            (e.stands, e.timer, e.expiry) = (stands, timer, expiry);
            old
        });
        let Some(old) = entry else { return };
        self.refile(key, old, (stands, timer, expiry));
        if empty {
            self.entries.remove(&key);
        }
    }

    fn refile(&mut self, key: u32, old: Stands, new: Filed) {
        if old != new.0 {
            match old {
                Stands::Ready(node) => {
                    if let Some(keys) = self.ready.get_mut(&node) {
                        keys.remove(key);
                    }
                }
                Stands::Lingers(node) => {
                    if let Some(keys) = self.lingering.get_mut(&node) {
                        keys.remove(key);
                    }
                }
                Stands::Unled => self.unled.remove(key),
                Stands::Waits => {}
            }
            match new.0 {
                Stands::Ready(node) => self.ready.entry(node).or_default().insert(key),
                Stands::Lingers(node) => self.lingering.entry(node).or_default().insert(key),
                Stands::Unled => self.unled.insert(key),
                Stands::Waits => {}
            }
        }
        // Marks that were for something else stay, and cost a look when they come.
        for (marks, due) in [(&mut self.timers, new.1), (&mut self.expiries, new.2)] {
            if let Some(due) = due {
                marks.set(key, due);
            }
        }
    }

    /// A node had something ready, and took it or could not (SN7).
    pub(crate) fn saw(&mut self, node: i32, now: Tick, took: bool) {
        let times = self.latency.entry(node).or_insert((now, now));
        times.0 = now;
        if took {
            times.1 = now;
        }
    }

    /// When a node last had something ready, and when it last took some.
    #[cfg(test)]
    pub(crate) fn latency(&self, node: i32) -> Option<(Tick, Tick)> {
        self.latency.get(&node).copied()
    }

    /// Topics were published, their draws uniform: those that had weights get them again.
    pub(crate) fn reweigh(&mut self, topics: impl Iterator<Item = Arc<str>>) {
        self.changed.extend(topics.map(|t| (t, usize::MAX / 2)));
    }

    /// Weighs the draws of topics whose queues changed: at most once for so many changes that a draw of a
    /// large topic costs no more than one of a small.
    fn weigh(&mut self, view: View<'_>) {
        if self.changed.is_empty() || matches!(view.acc.settings.partitioning, Spread::RoundRobin) {
            self.changed.clear();
            return;
        }
        let (latency, limit) = (&self.latency, view.acc.settings.availability_timeout);
        self.changed.retain(|name, changes| {
            let Some(topic) = view.acc.topics.get(name) else { return false };
            if *changes < topic.partitions.len() * 2 {
                return true;
            }
            let available = |p: &Partition| {
                let leader = view.cluster.leader(&p.topic, p.index).node_id;
                let late = latency.get(&leader).map(|(ready, took)| ready.since(*took));
                limit.is_zero() || late.is_none_or(|late| late <= limit)
            };
            topic.weigh(available);
            false
        });
    }

    /// How long a partition has had no leader in all while it held something.
    pub(crate) fn without_leader(&self, key: u32, now: Tick) -> Duration {
        self.entries.get(&key).map_or(Duration::ZERO, |e| {
            e.unled.1 + e.unled.0.map_or(Duration::ZERO, |since| now.since(since))
        })
    }

    /// What is remembered is what a look at every partition would find: the simulation asks every round.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn check(&self, view: View<'_>, order: &impl Order) {
        for entry in self.entries.values().filter(|e| !e.dirty && !self.all_dirty) {
            let p = &entry.partition;
            let head = head(&p.queue.lock(), entry, view, self.urge, order);
            if head == Head::Away {
                // A caller took it to close it; whoever is done will say so.
                continue;
            }
            let found = stands(p, &head, view, order);
            let past = |at: Option<Tick>| at.is_some_and(|at| at <= view.now);
            let due = past(entry.timer) || past(entry.expiry);
            assert!(
                due || found == (entry.stands, entry.timer),
                "{}-{} stands otherwise than remembered: {found:?}, not {:?}",
                p.topic,
                p.index,
                (entry.stands, entry.timer)
            );
        }
    }
}

impl BatchTimings {
    /// Whether the partition has had another election since the batch was sent.
    fn is_outdated(&self, entry: &Entry, view: View<'_>) -> bool {
        let p = &entry.partition;
        let known = self.leader_epoch;
        known >= 0 && view.cluster.leader(&p.topic, p.index).epoch > known
    }
}

/// What an entry is filed under: its standing, its timer, its expiry.
type Filed = (Stands, Option<Tick>, Option<Tick>);

fn stands(
    p: &Partition,
    head: &Head,
    view: View<'_>,
    order: &impl Order,
) -> (Stands, Option<Tick>) {
    if *head == Head::Nothing {
        return (Stands::Waits, None);
    }
    let leader = view.cluster.leader(&p.topic, p.index).node_id;
    if leader == -1 {
        return (Stands::Unled, None);
    }
    match head {
        Head::Sendable(retry) if order.may_drain(p, *retry) => (Stands::Ready(leader), None),
        Head::Later(at) => (Stands::Waits, Some(*at)),
        Head::Lingers(at) if order.may_drain(p, false) => (Stands::Lingers(leader), Some(*at)),
        Head::Lingers(at) => (Stands::Waits, Some(*at)),
        _ => (Stands::Waits, None),
    }
}

/// Whether the time of what stands at the head is over.
pub(super) fn is_over(queue: &PartitionQueue, view: View<'_>) -> bool {
    let created = match (queue.batches.front(), queue.open()) {
        (Some(slot), _) if slot.is_being_processed() => return false,
        (Some(slot), _) => slot.created(),
        (None, Some(open)) => open.meta.created,
        (None, None) => return false,
    };
    created.after(view.acc.settings.delivery_timeout) <= view.now
}

pub(super) fn head(
    queue: &PartitionQueue,
    entry: &Entry,
    view: View<'_>,
    urge: Urge,
    order: &impl Order,
) -> Head {
    let now = view.now;
    if is_over(queue, view) {
        return Head::Over;
    }
    match (queue.batches.front(), queue.open()) {
        (Some(QueuedBatch::Closing(..) | QueuedBatch::Splitting(_)), _) => Head::Away,
        (Some(QueuedBatch::Closed(b)), _) if b.not_before > now => Head::Later(b.not_before),
        (Some(QueuedBatch::Closed(_)), _) => Head::Sendable(false),
        // A newer leader need not be waited for (KAFKA-15415); the old one under a new name must.
        (Some(QueuedBatch::Retry(b, at)), _)
            if *at > now && !b.closed.timings.is_outdated(entry, view) =>
        {
            Head::Later(if inject_bug!(NoRetryBackoff) { now } else { *at })
        }
        (Some(QueuedBatch::Retry(..)), _) => Head::Sendable(true),
        (None, Some(open)) => {
            let due = open.meta.created.after(view.acc.settings.linger);
            let number = open.meta.number;
            let urged = urge.exhausted
                || urge.closing
                || number <= urge.flush
                || (number <= entry.awaited && order.is_idle(&entry.partition));
            if due <= now || urged { Head::Sendable(false) } else { Head::Lingers(due) }
        }
        (None, None) => Head::Nothing,
    }
}
