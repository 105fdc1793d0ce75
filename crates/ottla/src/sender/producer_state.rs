//! The producer's id and epoch, and each partition's sequences (KIP-98, KIP-360): given at drain, in the
//! order of the line, and kept by a batch until its log is proved to lack it.

use ottla_protocol::Uuid;

use crate::accumulator::batch::{ClosedBatch, Stamp, StampedBatch, increment_sequence};
use crate::accumulator::partition::Partition;
use crate::accumulator::ready::DrainPolicy;
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::error::Error;
use crate::injected_bugs::inject_bug;
use crate::time::Tick;
use std::sync::Arc;

/// Batches a broker remembers for each producer and partition, and so the most in flight there.
const NUM_BATCHES_TO_RETAIN: u32 = 5;

/// Where the producer's id stands.
#[derive(Debug, Clone)]
pub(crate) enum ProducerIdState {
    /// Not idempotent.
    Disabled,
    /// To be asked for, not before then.
    Needed(Tick),
    /// Asked for.
    Requested,
    /// Held.
    Assigned {
        /// The id.
        id: i64,
        /// Its epoch.
        epoch: i16,
    },
    /// Cannot be had, for good.
    Failed(Error),
}

/// A partition's place in the order.
#[derive(Debug)]
struct PartitionSequences {
    producer_id: i64,
    epoch: i16,
    topic: Option<Arc<str>>,
    /// Zero while no broker has told it.
    topic_id: Uuid,
    /// Where its batches in flight went.
    in_flight_node: i32,
    next_sequence: i32,
    /// The sequence behind the last acknowledged batch, if any of this epoch was.
    acked_end: Option<i32>,
    in_flight_batches: u32,
    /// What is in flight was sent before, and goes alone: were others to pass it again and again, the broker
    /// would forget it, and could not say any more that it has it.
    is_retry: bool,
    /// A new order is needed before anything new may go.
    unresolved: Option<Unresolved>,
}

/// Why an order cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unresolved {
    /// A sequence is lost, for good or for all that is known.
    SequenceLost,
    /// The topic is another one of the same name; this was its id.
    TopicRecreated(Uuid),
}

/// A partition that begins a new order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RestartedPartition {
    pub(crate) key: u32,
    /// The topic's id before, and now, where it is another topic.
    pub(crate) topic_id_change: Option<(Uuid, Uuid)>,
}

/// All partitions' orders.
#[derive(Debug)]
pub(crate) struct ProducerState {
    pub(crate) producer_id: ProducerIdState,
    partitions: HashMap<u32, PartitionSequences>,
    /// One request in flight in all: then one batch a partition, too, whoever leads it.
    guarantee_message_order: bool,
    /// Whether any line is broken, so that a round without a break looks at none.
    has_unresolved_sequences: bool,
    /// The log takes no further epoch of this id.
    needs_new_producer_id: bool,
    has_had_producer_id: bool,
    cluster: Arc<Cluster>,
}

impl ProducerState {
    pub(crate) fn new(idempotent: bool, one_at_a_time: bool) -> ProducerState {
        let id =
            if idempotent { ProducerIdState::Needed(Tick(0)) } else { ProducerIdState::Disabled };
        let (lines, cluster, any_broken, wants_new_id, had_id) = Default::default();
        ProducerState {
            producer_id: id,
            partitions: lines,
            guarantee_message_order: one_at_a_time,
            has_unresolved_sequences: any_broken,
            needs_new_producer_id: wants_new_id,
            has_had_producer_id: had_id,
            cluster,
        }
    }

    /// Topic ids and leaders come from the snapshot of this round. A topic of another id is another log: its
    /// orders start anew, under a new epoch, since sequences of one epoch are never given twice. An id that is
    /// not told (an older broker) says nothing.
    ///
    /// Whether it is another snapshot than the last.
    pub(crate) fn update_cluster(&mut self, cluster: Arc<Cluster>) -> bool {
        if Arc::ptr_eq(&self.cluster, &cluster) {
            return false;
        }
        for line in self.partitions.values_mut() {
            let topic = line.topic.as_ref().and_then(|t| cluster.topics.get(t));
            let Some(id) = topic.map(|t| t.id).filter(|id| !id.is_zero()) else { continue };
            if !line.topic_id.is_zero()
                && line.topic_id != id
                && !inject_bug!(RecreatedTopicIgnored)
            {
                line.unresolved = Some(Unresolved::TopicRecreated(line.topic_id));
                self.has_unresolved_sequences = true;
            }
            line.topic_id = id;
        }
        self.cluster = cluster;
        true
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        !matches!(self.producer_id, ProducerIdState::Disabled)
    }

    fn get_or_create(&mut self, key: u32) -> &mut PartitionSequences {
        self.partitions.entry(key).or_insert(PartitionSequences {
            producer_id: -1,
            epoch: -1,
            topic: None,
            topic_id: Uuid::ZERO,
            in_flight_node: -1,
            next_sequence: 0,
            acked_end: None,
            in_flight_batches: 0,
            is_retry: false,
            unresolved: None,
        })
    }

    /// A batch leaves for a broker, not for the first time if so told.
    pub(crate) fn add_in_flight_batch(&mut self, key: u32, node: i32, again: bool) {
        let line = self.get_or_create(key);
        line.in_flight_batches += 1;
        line.is_retry = again;
        line.in_flight_node = node;
    }

    /// A batch is back, whatever became of it.
    pub(crate) fn remove_in_flight_batch(&mut self, key: u32) {
        let line = self.get_or_create(key);
        debug_assert!(line.in_flight_batches > 0, "more came back than went out");
        line.in_flight_batches = line.in_flight_batches.saturating_sub(1);
    }

    /// A batch was acknowledged.
    pub(crate) fn maybe_update_last_acked_sequence(&mut self, batch: &StampedBatch) {
        let line = self.get_or_create(batch.closed.meta.partition.id);
        if !line.is_in_current_epoch(batch) {
            return;
        }
        let end = increment_sequence(batch.stamp.sequence, batch.closed.meta.record_count);
        // Answers of one connection come in order; a later batch acknowledged first keeps its place.
        let ahead = line.acked_end.is_none_or(|to| (end.wrapping_sub(to) & i32::MAX) < 1 << 30);
        if ahead {
            line.acked_end = Some(end);
        }
    }

    /// Whether the batch's sequence is right behind the last one that its order had acknowledged.
    pub(crate) fn follows_last_acked(&mut self, batch: &StampedBatch) -> bool {
        let line = self.get_or_create(batch.closed.meta.partition.id);
        line.is_in_current_epoch(batch) && line.acked_end == Some(batch.stamp.sequence)
    }

    /// Whether the batch is the first of its order, and nothing of that was acknowledged.
    pub(crate) fn is_first_of_epoch(&mut self, batch: &StampedBatch) -> bool {
        let line = self.get_or_create(batch.closed.meta.partition.id);
        line.is_in_current_epoch(batch) && line.acked_end.is_none() && batch.stamp.sequence == 0
    }

    /// A batch with a sequence failed for good, or must have a new one: what follows it needs a new order.
    pub(crate) fn mark_unresolved(&mut self, batch: &StampedBatch) {
        let idempotent = self.is_idempotent();
        let line = self.get_or_create(batch.closed.meta.partition.id);
        if idempotent && line.is_in_current_epoch(batch) {
            line.unresolved.get_or_insert(Unresolved::SequenceLost);
            self.has_unresolved_sequences = true;
        }
    }

    /// The order of a partition is broken, by a batch that is there no more.
    pub(crate) fn mark_unresolved_at(&mut self, key: u32) {
        if self.is_idempotent() {
            self.get_or_create(key).unresolved.get_or_insert(Unresolved::SequenceLost);
            self.has_unresolved_sequences = true;
        }
    }

    /// A sequence is gone that no batch carries.
    pub(crate) fn skip_sequence(&mut self, batch: &ClosedBatch) {
        let line = self.get_or_create(batch.meta.partition.id);
        line.next_sequence = increment_sequence(line.next_sequence, batch.meta.record_count);
    }

    /// A producer id has come.
    pub(crate) fn set_producer_id(&mut self, id: i64, epoch: i16) {
        self.producer_id = ProducerIdState::Assigned { id, epoch };
        (self.needs_new_producer_id, self.has_had_producer_id) = (false, true);
    }

    /// Whether there ever was one.
    pub(crate) fn has_had_producer_id(&self) -> bool {
        self.has_had_producer_id
    }

    /// The log takes nothing more under this id.
    pub(crate) fn require_new_producer_id(&mut self) {
        self.needs_new_producer_id = true;
    }

    /// Whether an order is broken that can be mended now.
    pub(crate) fn can_resolve(&self) -> bool {
        let now = |l: &PartitionSequences| l.unresolved.is_some() && l.in_flight_batches == 0;
        self.has_unresolved_sequences && self.partitions.values().any(now)
    }

    /// Partitions whose order is broken and that have nothing in flight any more. The epoch is bumped for
    /// them; the caller resequences what stands in their lines.
    pub(crate) fn bump_epoch(&mut self, now: Tick) -> Vec<RestartedPartition> {
        if !self.has_unresolved_sequences {
            return Vec::new();
        }
        let mut mended = Vec::new();
        self.has_unresolved_sequences = false;
        for (key, line) in &mut self.partitions {
            let Some(broken) = line.unresolved else { continue };
            if line.in_flight_batches > 0 {
                self.has_unresolved_sequences = true;
                continue;
            }
            line.unresolved = None;
            // All that was given is acknowledged after all: a later batch was taken, so the lost one was, too.
            if broken == Unresolved::SequenceLost && line.acked_end == Some(line.next_sequence) {
                continue;
            }
            let moved = match broken {
                Unresolved::TopicRecreated(old) => Some((old, line.topic_id)),
                Unresolved::SequenceLost => None,
            };
            // No id has this epoch: the next stamp begins a new order.
            (line.producer_id, line.epoch) = (-1, -1);
            mended.push(RestartedPartition { key: *key, topic_id_change: moved });
        }
        mended.sort_by_key(|m| m.key);
        if mended.is_empty() {
            return mended;
        }
        if inject_bug!(ResequenceAll) {
            self.partitions.values_mut().for_each(|l| (l.producer_id, l.epoch) = (-1, -1));
            mended = self
                .partitions
                .keys()
                .map(|key| RestartedPartition { key: *key, topic_id_change: None })
                .collect();
        }
        self.producer_id = match self.producer_id.clone() {
            ProducerIdState::Assigned { .. } if std::mem::take(&mut self.needs_new_producer_id) => {
                ProducerIdState::Needed(now)
            }
            ProducerIdState::Assigned { epoch: i16::MAX, .. } => ProducerIdState::Needed(now),
            ProducerIdState::Assigned { id, epoch } => {
                ProducerIdState::Assigned { id, epoch: epoch + 1 }
            }
            other => other,
        };
        if let ProducerIdState::Assigned { id, epoch } = self.producer_id {
            tracing::info!(id, epoch, partitions = mended.len(), "producer epoch bumped");
        }
        mended
    }

    fn topic_id(&self, topic: &str) -> Uuid {
        self.cluster.topics.get(topic).map_or(Uuid::ZERO, |t| t.id)
    }
}

impl PartitionSequences {
    /// Whether the batch has its place in this order, not in one before it.
    fn is_in_current_epoch(&self, batch: &StampedBatch) -> bool {
        batch.stamp.sequence >= 0
            && (self.producer_id, self.epoch) == (batch.stamp.producer_id, batch.stamp.epoch)
    }
}

impl DrainPolicy for ProducerState {
    fn can_drain(&self, partition: &Partition, retry: bool) -> bool {
        let line = self.partitions.get(&partition.id);
        let in_flight = line.map_or(0, |l| l.in_flight_batches);
        let broken = line.is_some_and(|l| l.unresolved.is_some());
        let ProducerIdState::Assigned { id, epoch } = self.producer_id else {
            let off = matches!(self.producer_id, ProducerIdState::Disabled);
            return off && !broken && !(self.guarantee_message_order && in_flight > 0);
        };
        let Some(line) = line else { return true };
        // A batch that is sent again goes alone, so that those behind it cannot arrive before it; a new
        // order begins when the old one is out of the network. The first batch of an order goes alone too: a
        // broker that knows nothing of the producer accepts any first sequence, and so would take the second
        // batch where the first was refused (Java's producer has that hole).
        let alone = retry
            || line.is_retry
            || (line.acked_end.is_none() && !inject_bug!(FirstBatchNotAlone))
            || self.guarantee_message_order
            || (line.producer_id, line.epoch) != (id, epoch)
            // Another leader must not remember newer batches only, while an older one is still on its way to the
            // one before.
            || line.in_flight_node != self.cluster.leader(&partition.topic, partition.index).node_id;
        if broken {
            false
        } else if alone {
            in_flight == 0
        } else {
            in_flight < NUM_BATCHES_TO_RETAIN
        }
    }

    fn is_idle(&self, partition: &Partition) -> bool {
        self.partitions.get(&partition.id).is_none_or(|l| l.in_flight_batches == 0)
    }

    fn stamp(&mut self, batch: ClosedBatch) -> StampedBatch {
        let topic_id = self.topic_id(&batch.meta.partition.topic);
        let id = self.producer_id.clone();
        let line = self.get_or_create(batch.meta.partition.id);
        line.topic.get_or_insert_with(|| batch.meta.partition.topic.clone());
        if !topic_id.is_zero() {
            line.topic_id = topic_id;
        }
        let ProducerIdState::Assigned { id, epoch } = id else {
            return batch.stamp(Stamp { topic_id, ..Stamp::NONE });
        };
        if (line.producer_id, line.epoch) != (id, epoch) {
            (line.producer_id, line.epoch) = (id, epoch);
            (line.next_sequence, line.acked_end) = (0, None);
        }
        let sequence = line.next_sequence;
        if !(inject_bug!(DuplicateSequence) && sequence == 0) {
            line.next_sequence = increment_sequence(sequence, batch.meta.record_count);
        }
        batch.stamp(Stamp { producer_id: id, epoch, sequence, topic_id })
    }
}

#[cfg(test)]
pub(super) mod tests;
