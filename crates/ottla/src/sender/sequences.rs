//! The producer's id and epoch, and each partition's sequences (KIP-98, KIP-360): given at drain, in the
//! order of the line, and kept by a batch until its log is proved to lack it.

use ottla_protocol::Uuid;

use crate::accumulator::batch::{ClosedBatch, Stamp, StampedBatch, increment_sequence};
use crate::accumulator::partition::Partition;
use crate::accumulator::ready::DrainPolicy;
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::error::Error;
use crate::plants::inject_bug;
use crate::time::Tick;
use std::sync::Arc;

/// Batches a broker remembers for each producer and partition, and so the most in flight there.
const REMEMBERED: u32 = 5;

/// Where the producer's id stands.
#[derive(Debug, Clone)]
pub(crate) enum Id {
    /// Not idempotent.
    Off,
    /// To be asked for, not before then.
    Wanted(Tick),
    /// Asked for.
    Asked,
    /// Held.
    Have {
        /// The id.
        id: i64,
        /// Its epoch.
        epoch: i16,
    },
    /// Cannot be had, for good.
    Refused(Error),
}

/// A partition's place in the order.
#[derive(Debug)]
struct Line {
    id: i64,
    epoch: i16,
    topic: Option<Arc<str>>,
    /// Zero while no broker has told it.
    topic_id: Uuid,
    /// Where its batches in flight went.
    node: i32,
    next: i32,
    /// The sequence behind the last acknowledged batch, if any of this epoch was.
    acked_to: Option<i32>,
    in_flight: u32,
    /// What is in flight was sent before, and goes alone: were others to pass it again and again, the broker
    /// would forget it, and could not say any more that it has it.
    again: bool,
    /// A new order is needed before anything new may go.
    broken: Option<Broken>,
}

/// Why an order cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// A sequence is lost, for good or for all that is known.
    Lost,
    /// The topic is another one of the same name; this was its id.
    Moved(Uuid),
}

/// A partition that begins a new order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mended {
    pub(crate) key: u32,
    /// The topic's id before, and now, where it is another topic.
    pub(crate) moved: Option<(Uuid, Uuid)>,
}

/// All partitions' orders.
#[derive(Debug)]
pub(crate) struct Sequences {
    pub(crate) id: Id,
    lines: HashMap<u32, Line>,
    /// One request in flight in all: then one batch a partition, too, whoever leads it.
    one_at_a_time: bool,
    /// Whether any line is broken, so that a round without a break looks at none.
    any_broken: bool,
    /// The log takes no further epoch of this id.
    wants_new_id: bool,
    had_id: bool,
    cluster: Arc<Cluster>,
}

impl Sequences {
    pub(crate) fn new(idempotent: bool, one_at_a_time: bool) -> Sequences {
        let id = if idempotent { Id::Wanted(Tick(0)) } else { Id::Off };
        let (lines, cluster, any_broken, wants_new_id, had_id) = Default::default();
        Sequences { id, lines, one_at_a_time, any_broken, wants_new_id, had_id, cluster }
    }

    /// Topic ids and leaders come from the snapshot of this round. A topic of another id is another log: its
    /// orders start anew, under a new epoch, since sequences of one epoch are never given twice. An id that is
    /// not told (an older broker) says nothing.
    ///
    /// Whether it is another snapshot than the last.
    pub(crate) fn follow(&mut self, cluster: Arc<Cluster>) -> bool {
        if Arc::ptr_eq(&self.cluster, &cluster) {
            return false;
        }
        for line in self.lines.values_mut() {
            let topic = line.topic.as_ref().and_then(|t| cluster.topics.get(t));
            let Some(id) = topic.map(|t| t.id).filter(|id| !id.is_zero()) else { continue };
            if !line.topic_id.is_zero()
                && line.topic_id != id
                && !inject_bug!(RecreatedTopicIgnored)
            {
                line.broken = Some(Broken::Moved(line.topic_id));
                self.any_broken = true;
            }
            line.topic_id = id;
        }
        self.cluster = cluster;
        true
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        !matches!(self.id, Id::Off)
    }

    fn line(&mut self, key: u32) -> &mut Line {
        self.lines.entry(key).or_insert(Line {
            id: -1,
            epoch: -1,
            topic: None,
            topic_id: Uuid::ZERO,
            node: -1,
            next: 0,
            acked_to: None,
            in_flight: 0,
            again: false,
            broken: None,
        })
    }

    /// A batch leaves for a broker, not for the first time if so told.
    pub(crate) fn sent(&mut self, key: u32, node: i32, again: bool) {
        let line = self.line(key);
        line.in_flight += 1;
        line.again = again;
        line.node = node;
    }

    /// A batch is back, whatever became of it.
    pub(crate) fn returned(&mut self, key: u32) {
        let line = self.line(key);
        debug_assert!(line.in_flight > 0, "more came back than went out");
        line.in_flight = line.in_flight.saturating_sub(1);
    }

    /// A batch was acknowledged.
    pub(crate) fn acknowledged(&mut self, batch: &StampedBatch) {
        let line = self.line(batch.closed.meta.partition.id);
        if !line.holds(batch) {
            return;
        }
        let end = increment_sequence(batch.stamp.sequence, batch.closed.meta.record_count);
        // Answers of one connection come in order; a later batch acknowledged first keeps its place.
        let ahead = line.acked_to.is_none_or(|to| (end.wrapping_sub(to) & i32::MAX) < 1 << 30);
        if ahead {
            line.acked_to = Some(end);
        }
    }

    /// Whether the batch's sequence is right behind the last one that its order had acknowledged.
    pub(crate) fn is_next(&mut self, batch: &StampedBatch) -> bool {
        let line = self.line(batch.closed.meta.partition.id);
        line.holds(batch) && line.acked_to == Some(batch.stamp.sequence)
    }

    /// Whether the batch is the first of its order, and nothing of that was acknowledged.
    pub(crate) fn begins(&mut self, batch: &StampedBatch) -> bool {
        let line = self.line(batch.closed.meta.partition.id);
        line.holds(batch) && line.acked_to.is_none() && batch.stamp.sequence == 0
    }

    /// A batch with a sequence failed for good, or must have a new one: what follows it needs a new order.
    pub(crate) fn broke(&mut self, batch: &StampedBatch) {
        let idempotent = self.is_idempotent();
        let line = self.line(batch.closed.meta.partition.id);
        if idempotent && line.holds(batch) {
            line.broken.get_or_insert(Broken::Lost);
            self.any_broken = true;
        }
    }

    /// The order of a partition is broken, by a batch that is there no more.
    pub(crate) fn broke_at(&mut self, key: u32) {
        if self.is_idempotent() {
            self.line(key).broken.get_or_insert(Broken::Lost);
            self.any_broken = true;
        }
    }

    /// A sequence is gone that no batch carries.
    pub(crate) fn lose(&mut self, batch: &ClosedBatch) {
        let line = self.line(batch.meta.partition.id);
        line.next = increment_sequence(line.next, batch.meta.record_count);
    }

    /// A producer id has come.
    pub(crate) fn begin_with(&mut self, id: i64, epoch: i16) {
        self.id = Id::Have { id, epoch };
        (self.wants_new_id, self.had_id) = (false, true);
    }

    /// Whether there ever was one.
    pub(crate) fn ever_had_id(&self) -> bool {
        self.had_id
    }

    /// The log takes nothing more under this id.
    pub(crate) fn want_new_id(&mut self) {
        self.wants_new_id = true;
    }

    /// Whether an order is broken that can be mended now.
    pub(crate) fn can_mend(&self) -> bool {
        let now = |l: &Line| l.broken.is_some() && l.in_flight == 0;
        self.any_broken && self.lines.values().any(now)
    }

    /// Partitions whose order is broken and that have nothing in flight any more. The epoch is bumped for
    /// them; the caller resequences what stands in their lines.
    pub(crate) fn mend(&mut self, now: Tick) -> Vec<Mended> {
        if !self.any_broken {
            return Vec::new();
        }
        let mut mended = Vec::new();
        self.any_broken = false;
        for (key, line) in &mut self.lines {
            let Some(broken) = line.broken else { continue };
            if line.in_flight > 0 {
                self.any_broken = true;
                continue;
            }
            line.broken = None;
            // All that was given is acknowledged after all: a later batch was taken, so the lost one was, too.
            if broken == Broken::Lost && line.acked_to == Some(line.next) {
                continue;
            }
            let moved = match broken {
                Broken::Moved(old) => Some((old, line.topic_id)),
                Broken::Lost => None,
            };
            // No id has this epoch: the next stamp begins a new order.
            (line.id, line.epoch) = (-1, -1);
            mended.push(Mended { key: *key, moved });
        }
        mended.sort_by_key(|m| m.key);
        if mended.is_empty() {
            return mended;
        }
        if inject_bug!(ResequenceAll) {
            self.lines.values_mut().for_each(|l| (l.id, l.epoch) = (-1, -1));
            mended = self.lines.keys().map(|key| Mended { key: *key, moved: None }).collect();
        }
        self.id = match self.id.clone() {
            Id::Have { .. } if std::mem::take(&mut self.wants_new_id) => Id::Wanted(now),
            Id::Have { epoch: i16::MAX, .. } => Id::Wanted(now),
            Id::Have { id, epoch } => Id::Have { id, epoch: epoch + 1 },
            other => other,
        };
        if let Id::Have { id, epoch } = self.id {
            tracing::info!(id, epoch, partitions = mended.len(), "producer epoch bumped");
        }
        mended
    }

    fn topic_id(&self, topic: &str) -> Uuid {
        self.cluster.topics.get(topic).map_or(Uuid::ZERO, |t| t.id)
    }
}

impl Line {
    /// Whether the batch has its place in this order, not in one before it.
    fn holds(&self, batch: &StampedBatch) -> bool {
        batch.stamp.sequence >= 0
            && (self.id, self.epoch) == (batch.stamp.producer_id, batch.stamp.epoch)
    }
}

impl DrainPolicy for Sequences {
    fn can_drain(&self, partition: &Partition, retry: bool) -> bool {
        let line = self.lines.get(&partition.id);
        let in_flight = line.map_or(0, |l| l.in_flight);
        let broken = line.is_some_and(|l| l.broken.is_some());
        let Id::Have { id, epoch } = self.id else {
            let off = matches!(self.id, Id::Off);
            return off && !broken && !(self.one_at_a_time && in_flight > 0);
        };
        let Some(line) = line else { return true };
        // A batch that is sent again goes alone, so that those behind it cannot arrive before it; a new
        // order begins when the old one is out of the network. The first batch of an order goes alone too: a
        // broker that knows nothing of the producer accepts any first sequence, and so would take the second
        // batch where the first was refused (Java's producer has that hole).
        let alone = retry
            || line.again
            || (line.acked_to.is_none() && !inject_bug!(FirstBatchNotAlone))
            || self.one_at_a_time
            || (line.id, line.epoch) != (id, epoch)
            // Another leader must not remember newer batches only, while an older one is still on its way to the
            // one before.
            || line.node != self.cluster.leader(&partition.topic, partition.index).node_id;
        if broken {
            false
        } else if alone {
            in_flight == 0
        } else {
            in_flight < REMEMBERED
        }
    }

    fn is_idle(&self, partition: &Partition) -> bool {
        self.lines.get(&partition.id).is_none_or(|l| l.in_flight == 0)
    }

    fn stamp(&mut self, batch: ClosedBatch) -> StampedBatch {
        let topic_id = self.topic_id(&batch.meta.partition.topic);
        let id = self.id.clone();
        let line = self.line(batch.meta.partition.id);
        line.topic.get_or_insert_with(|| batch.meta.partition.topic.clone());
        if !topic_id.is_zero() {
            line.topic_id = topic_id;
        }
        let Id::Have { id, epoch } = id else {
            return batch.stamp(Stamp { topic_id, ..Stamp::NONE });
        };
        if (line.id, line.epoch) != (id, epoch) {
            (line.id, line.epoch) = (id, epoch);
            (line.next, line.acked_to) = (0, None);
        }
        let sequence = line.next;
        if !(inject_bug!(DuplicateSequence) && sequence == 0) {
            line.next = increment_sequence(sequence, batch.meta.record_count);
        }
        batch.stamp(Stamp { producer_id: id, epoch, sequence, topic_id })
    }
}

#[cfg(test)]
pub(super) mod tests;
