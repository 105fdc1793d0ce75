//! The producer id, its epoch and the sequences of each partition (KIP-98, KIP-360).
//!
//! This is the idempotent part of Kafka's `TransactionManager`. `ready.rs` asks it
//! whether a batch may leave, and `drain.rs` to stamp the batch; `responses.rs` reports the
//! outcome of each batch; `epoch.rs` bumps the epoch when sequences are lost.
//!
//! Four rules keep a partition free of duplicates, gaps and reordering:
//!
//! 1. A batch gets its sequence when it is drained. A batch that expires unsent has used none.
//! 2. A batch keeps its producer id, epoch and sequence when it is retried. The broker recognizes
//!    a duplicate by them. Only proof that the log lacks the batch allows a new sequence.
//! 3. No sequence of an epoch is given twice. The broker would take the second batch for a
//!    duplicate and acknowledge it, although it is in no log.
//! 4. When a sequence is lost, the partition is *unresolved*: it drains nothing until it has no
//!    batch in flight. Then it continues at sequence 0 of a new epoch.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use ottla_protocol::Uuid;

use crate::accumulator::batch::{ClosedBatch, Stamp, StampedBatch, increment_sequence};
use crate::accumulator::partition::Partition;
use crate::collections::HashMap;
use crate::injected_bugs::inject_bug;
use crate::sender::transactions::TransactionManager;
use crate::time::Tick;

/// The number of batches that a broker remembers for each producer and partition.
///
/// It is also the limit of batches in flight for a partition: a broker recognizes a retried batch
/// as a duplicate only while it remembers the batch.
const NUM_BATCHES_TO_RETAIN: u32 = 5;

/// A producer id and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerIdAndEpoch {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
}

impl ProducerIdAndEpoch {
    /// Differs from every assigned id and epoch.
    pub(crate) const NONE: ProducerIdAndEpoch = ProducerIdAndEpoch { producer_id: -1, epoch: -1 };
}

/// The state of the producer id.
#[derive(Debug, Clone)]
pub(crate) enum ProducerIdState {
    /// The producer is not idempotent and has no id.
    Disabled,
    /// An id has to be requested.
    Needed {
        /// The backoff of the last attempt ends at this time.
        not_before: Tick,
    },
    /// An InitProducerId request is in flight.
    Requested,
    /// The producer is transactional, and no coordinator has assigned an id yet.
    Unassigned,
    /// A broker has assigned this id. Epoch bumps change its epoch locally.
    Assigned(ProducerIdAndEpoch),
}

/// The sequences of one partition.
#[derive(Debug)]
struct PartitionSequences {
    /// The id and epoch that the sequences belong to.
    epoch: ProducerIdAndEpoch,
    /// Zero until a broker has reported it.
    topic_id: Uuid,
    /// The node that received the last batch; −1 for none.
    in_flight_node: i32,
    /// The sequence of the next batch that is stamped.
    next_sequence: i32,
    /// The sequence after the last acknowledged batch; `None` if this epoch has none.
    acked_end: Option<i32>,
    in_flight_batches: u32,
    /// Whether the batch in flight is a retry, which nothing may overtake.
    last_sent_is_retry: bool,
    /// Set while the partition needs a new epoch before it may drain again.
    unresolved: Option<Unresolved>,
}

/// The reason why a partition cannot continue its sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unresolved {
    /// A batch with a sequence failed, or has to get a new sequence.
    SequenceLost,
    /// The topic was deleted and created again.
    TopicRecreated {
        /// The id of the deleted topic.
        old_topic_id: Uuid,
    },
}

/// Why a partition's batches cannot be sent, apart from the state of its leader's broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MuteReason {
    /// The batch waits for the responses to the partition's batches in flight.
    InFlight,
    /// The producer is idempotent and has no producer id yet.
    ProducerIdUnknown,
    /// The partition is unresolved.
    EpochBump,
    /// The transaction has not added the partition yet, or takes no batch.
    Transaction,
}

/// A partition that continues at sequence 0 of a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RestartedPartition {
    pub(crate) partition_id: u32,
    /// Set if the topic was deleted and created again.
    pub(crate) topic_id_change: Option<TopicIdChange>,
}

/// The ids of a topic that was deleted and created again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicIdChange {
    pub(crate) old: Uuid,
    pub(crate) new: Uuid,
}

/// The producer id and the sequences of all partitions.
#[derive(Debug)]
pub(crate) struct ProducerState {
    pub(crate) producer_id: ProducerIdState,
    partitions: HashMap<u32, PartitionSequences>,
    /// Whether each partition may have only one batch in flight (`max.in.flight=1`).
    guarantee_message_order: bool,
    /// The unresolved partitions. A round visits no other partition here.
    unresolved_partition_ids: BTreeSet<u32>,
    /// Whether the next restart needs a new producer id, not only a new epoch.
    needs_new_producer_id: bool,
    has_had_producer_id: bool,
    is_transactional: bool,
    /// Taken while the sender runs it.
    pub(crate) transactions: Option<Box<TransactionManager>>,
}

impl ProducerState {
    pub(crate) fn new(idempotent: bool, guarantee_message_order: bool) -> ProducerState {
        ProducerState {
            producer_id: if idempotent {
                ProducerIdState::Needed { not_before: Tick(0) }
            } else {
                ProducerIdState::Disabled
            },
            partitions: HashMap::default(),
            guarantee_message_order,
            unresolved_partition_ids: BTreeSet::new(),
            needs_new_producer_id: false,
            has_had_producer_id: false,
            is_transactional: false,
            transactions: None,
        }
    }

    /// Makes the producer transactional.
    pub(super) fn set_transactional(&mut self, manager: TransactionManager) {
        self.producer_id = ProducerIdState::Unassigned;
        self.is_transactional = true;
        self.transactions = Some(Box::new(manager));
    }

    pub(super) fn is_transactional(&self) -> bool {
        self.is_transactional
    }

    /// Returns whether a partition with a batch has to be added to the transaction.
    pub(super) fn must_add_partition(&self, partition_id: u32) -> bool {
        self.transactions.as_ref().is_some_and(|t| t.must_add_partition(partition_id))
    }

    /// Returns the id that a broker has assigned.
    pub(super) fn producer_id_and_epoch(&self) -> Option<ProducerIdAndEpoch> {
        match self.producer_id {
            ProducerIdState::Assigned(assigned) => Some(assigned),
            _ => None,
        }
    }

    /// Takes over the topic id of a partition from new metadata.
    ///
    /// A topic with a new id is a new log, so its partitions become unresolved. They must not
    /// continue or restart their sequences in the same epoch (rule 3). A zero id says nothing: it
    /// comes from a broker that does not report topic ids. A first id after zero is the same log.
    pub(crate) fn update_topic_id(&mut self, partition_id: u32, id: Uuid) {
        let Some(partition) = self.partitions.get_mut(&partition_id).filter(|_| !id.is_zero())
        else {
            return;
        };
        if !partition.topic_id.is_zero()
            && inject_bug!(RecreatedTopicIgnored, partition.topic_id != id)
        {
            let old_topic_id = partition.topic_id;
            partition.unresolved = Some(Unresolved::TopicRecreated { old_topic_id });
            self.unresolved_partition_ids.insert(partition_id);
        }
        partition.topic_id = id;
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        !matches!(self.producer_id, ProducerIdState::Disabled)
    }

    fn get_or_create(&mut self, partition_id: u32) -> &mut PartitionSequences {
        self.partitions.entry(partition_id).or_insert(PartitionSequences {
            epoch: ProducerIdAndEpoch::NONE,
            topic_id: Uuid::ZERO,
            in_flight_node: -1,
            next_sequence: 0,
            acked_end: None,
            in_flight_batches: 0,
            last_sent_is_retry: false,
            unresolved: None,
        })
    }

    /// Returns whether a batch can be sent now; `retry` if it has been sent before.
    pub(crate) fn can_drain(&self, partition: &Partition, retry: bool) -> bool {
        self.mute_reason(partition, retry).is_none()
    }

    /// Returns when a batch that can be sent may be sent, if that is later than now: the markers of
    /// the last transaction come first. `retry` if it has been sent before.
    #[inline]
    pub(crate) fn hold_until(&self, retry: bool, now: Tick) -> Option<Tick> {
        if retry {
            return None;
        }
        self.transactions.as_ref()?.hold_until(now)
    }

    /// Returns why a batch cannot be sent now; `retry` if it has been sent before.
    #[inline]
    pub(crate) fn mute_reason(&self, partition: &Partition, retry: bool) -> Option<MuteReason> {
        let sequences = self.partitions.get(&partition.id);
        // EndTxn needs the responses to all retries of its transaction, also after a sequence is
        // lost.
        let is_blocked = !(self.is_transactional && retry);
        if is_blocked && sequences.is_some_and(|s| s.unresolved.is_some()) {
            return Some(MuteReason::EpochBump);
        }
        if self.is_transactional
            && !self.transactions.as_ref().is_some_and(|t| t.can_drain(partition.id, retry))
        {
            return Some(MuteReason::Transaction);
        }
        let in_flight = sequences.map_or(0, |s| s.in_flight_batches);
        let ProducerIdState::Assigned(assigned) = self.producer_id else {
            // An idempotent producer sends nothing before it has an id.
            if !matches!(self.producer_id, ProducerIdState::Disabled) {
                return Some(MuteReason::ProducerIdUnknown);
            }
            let is_muted = self.guarantee_message_order && in_flight > 0;
            return is_muted.then_some(MuteReason::InFlight);
        };
        let sequences = sequences?;
        // A retried batch goes alone, so that no batch behind it arrives before it.
        let must_be_alone = retry
            // While a retry is in flight, nothing new leaves. If newer batches kept overtaking it,
            // the broker would forget it among its last five, and could no longer recognize it as
            // a duplicate (the simulation found this with seed 708188).
            || sequences.last_sent_is_retry
            // The first batch of an epoch goes alone. A broker without state for the producer
            // accepts any first sequence: if it rejected the first of several batches in flight,
            // it would accept the second one as the first. Java's producer has this hole (the
            // simulation found it with seed 356).
            || inject_bug!(FirstBatchNotAlone, sequences.acked_end.is_none())
            // Kafka mutes the partition from the drain to the response.
            || self.guarantee_message_order
            // A new epoch starts when no batch of the old epoch is in flight. Otherwise the broker
            // would reject the old batches with INVALID_PRODUCER_EPOCH.
            || sequences.epoch != assigned
            // Batches for a new leader wait for those in flight to the old leader. The old ones
            // may have to be sent again, and the new leader must not have forgotten them among
            // five newer ones by then.
            || sequences.in_flight_node != partition.leader.load(Relaxed);
        let is_muted = in_flight >= if must_be_alone { 1 } else { NUM_BATCHES_TO_RETAIN };
        is_muted.then_some(MuteReason::InFlight)
    }

    /// Returns whether no batch of the partition is in flight.
    pub(crate) fn is_idle(&self, partition: &Partition) -> bool {
        self.partitions.get(&partition.id).is_none_or(|s| s.in_flight_batches == 0)
    }

    /// Assigns the producer id, the epoch and the next sequence to a batch.
    ///
    /// `topic_id` is the id that the metadata of this round has; zero if it is unknown.
    pub(crate) fn stamp(&mut self, batch: ClosedBatch, topic_id: Uuid) -> StampedBatch {
        let (assigned, is_transactional) = (self.producer_id_and_epoch(), self.is_transactional);
        let partition = self.get_or_create(batch.meta.partition.id);
        // Zero does not replace a known id: metadata from an older broker has none.
        if !topic_id.is_zero() {
            partition.topic_id = topic_id;
        }
        let Some(assigned) = assigned else {
            return batch.stamp(Stamp { topic_id, ..Stamp::NONE });
        };
        if partition.epoch != assigned {
            partition.epoch = assigned;
            partition.next_sequence =
                inject_bug!(SequenceKeptAtBump, 0, partition.next_sequence, is_transactional);
            partition.acked_end = None;
        }
        let sequence = partition.next_sequence;
        let next_sequence = increment_sequence(sequence, batch.meta.record_count);
        partition.next_sequence = inject_bug!(DuplicateSequence, next_sequence, sequence);
        partition.next_sequence = inject_bug!(SequenceSkipped, partition.next_sequence);
        let ProducerIdAndEpoch { producer_id, epoch } = assigned;
        batch.stamp(Stamp { producer_id, epoch, sequence, topic_id, is_transactional })
    }

    /// Counts a batch that is sent to `node`.
    pub(crate) fn add_in_flight_batch(&mut self, partition_id: u32, node: i32, is_retry: bool) {
        let partition = self.get_or_create(partition_id);
        partition.in_flight_batches += 1;
        partition.last_sent_is_retry = is_retry;
        partition.in_flight_node = node;
    }

    /// Removes a batch that is no longer in flight, with any outcome.
    pub(crate) fn remove_in_flight_batch(&mut self, partition_id: u32) {
        let partition = self.get_or_create(partition_id);
        debug_assert!(partition.in_flight_batches > 0, "no batch of {partition_id} is in flight");
        partition.in_flight_batches = partition.in_flight_batches.saturating_sub(1);
    }

    /// Advances the last acknowledged sequence behind an acknowledged batch of the current epoch.
    pub(crate) fn maybe_update_last_acked_sequence(&mut self, batch: &StampedBatch) {
        let partition = self.get_or_create(batch.closed.meta.partition.id);
        if !partition.is_in_current_epoch(batch) {
            return;
        }
        let end = increment_sequence(batch.stamp.sequence, batch.closed.meta.record_count);
        // A later batch may be acknowledged first, and the end never moves back. Sequences wrap at
        // 2^31: a distance below 2^30 is ahead, a larger one is behind.
        let is_ahead = partition
            .acked_end
            .is_none_or(|acked_end| (end.wrapping_sub(acked_end) & i32::MAX) < 1 << 30);
        if is_ahead {
            partition.acked_end = Some(end);
        }
    }

    /// Returns whether the batch starts right after the last acknowledged sequence.
    pub(crate) fn follows_last_acked(&mut self, batch: &StampedBatch) -> bool {
        let partition = self.get_or_create(batch.closed.meta.partition.id);
        partition.is_in_current_epoch(batch) && partition.acked_end == Some(batch.stamp.sequence)
    }

    /// Returns whether the batch starts before the last acknowledged sequence. See
    /// [`maybe_update_last_acked_sequence`](Self::maybe_update_last_acked_sequence) for the wrap.
    pub(crate) fn precedes_last_acked(&mut self, batch: &StampedBatch) -> bool {
        let partition = self.get_or_create(batch.closed.meta.partition.id);
        let distance = |acked_end: i32| acked_end.wrapping_sub(batch.stamp.sequence) & i32::MAX;
        partition.is_in_current_epoch(batch)
            && partition.acked_end.is_some_and(|end| (1..1 << 30).contains(&distance(end)))
    }

    /// Returns whether the batch is the first of its epoch, and none of the epoch is acknowledged.
    pub(crate) fn is_first_of_epoch(&mut self, batch: &StampedBatch) -> bool {
        let partition = self.get_or_create(batch.closed.meta.partition.id);
        partition.is_in_current_epoch(batch)
            && partition.acked_end.is_none()
            && batch.stamp.sequence == 0
    }

    /// Marks the partition of a batch that failed or needs a new sequence as unresolved.
    ///
    /// A batch of an earlier epoch has no effect: its sequences are abandoned already.
    pub(crate) fn mark_unresolved(&mut self, batch: &StampedBatch) {
        let partition_id = batch.closed.meta.partition.id;
        if self.get_or_create(partition_id).is_in_current_epoch(batch) {
            self.mark_unresolved_at(partition_id);
        }
    }

    /// Marks a partition as unresolved when the batch with the lost sequence no longer exists.
    pub(crate) fn mark_unresolved_at(&mut self, partition_id: u32) {
        if self.is_idempotent() {
            let partition = self.get_or_create(partition_id);
            partition.unresolved.get_or_insert(Unresolved::SequenceLost);
            self.unresolved_partition_ids.insert(partition_id);
        }
    }

    /// Returns whether the producer is idempotent and has no id yet.
    pub(crate) fn needs_producer_id(&self) -> bool {
        matches!(
            self.producer_id,
            ProducerIdState::Needed { .. }
                | ProducerIdState::Requested
                | ProducerIdState::Unassigned
        )
    }

    /// Stores the producer id that a broker has assigned.
    pub(crate) fn set_producer_id(&mut self, assigned: ProducerIdAndEpoch) {
        self.producer_id = ProducerIdState::Assigned(assigned);
        self.needs_new_producer_id = false;
        self.has_had_producer_id = true;
        if self.is_transactional {
            // Under a new epoch, every partition begins at sequence 0.
            self.unresolved_partition_ids.clear();
            self.partitions.values_mut().for_each(|p| p.unresolved = None);
        }
    }

    /// Returns whether partitions have lost a sequence, and forgets which: a transactional producer
    /// gets its next epoch from the coordinator.
    pub(super) fn take_lost_sequences(&mut self) -> bool {
        !std::mem::take(&mut self.unresolved_partition_ids).is_empty()
    }

    /// Returns whether the partition of a batch has lost a sequence.
    pub(super) fn is_unresolved(&self, batch: &StampedBatch) -> bool {
        let partition = self.partitions.get(&batch.closed.meta.partition.id);
        partition.is_some_and(|p| p.unresolved.is_some())
    }

    /// Returns whether a producer id was ever assigned.
    pub(crate) fn has_had_producer_id(&self) -> bool {
        self.has_had_producer_id
    }

    /// Makes the next restart request a new producer id: the log rejects this one in any epoch.
    pub(crate) fn require_new_producer_id(&mut self) {
        self.needs_new_producer_id = true;
    }

    /// Returns whether [`bump_epoch`](Self::bump_epoch) has a partition to resolve now.
    pub(crate) fn can_resolve(&self) -> bool {
        let is_idle = |id| self.partitions.get(id).is_some_and(|p| p.in_flight_batches == 0);
        self.unresolved_partition_ids.iter().any(is_idle)
    }

    /// Resolves the unresolved partitions that have no batch in flight (KIP-360).
    ///
    /// If at least one has lost a sequence, the epoch is bumped locally, without a request. The
    /// caller decides which queued batches of the returned partitions get a new sequence. Other
    /// partitions move to the new epoch on their own, at the first drain with nothing in flight.
    pub(crate) fn bump_epoch(&mut self, now: Tick) -> Vec<RestartedPartition> {
        let mut restarted = Vec::new();
        // In ascending order, which is the same in every run: simulations replay from a seed.
        for partition_id in std::mem::take(&mut self.unresolved_partition_ids) {
            let Some(partition) = self.partitions.get_mut(&partition_id) else { continue };
            let Some(unresolved) = partition.unresolved else { continue };
            // A response that is still to come may carry an acknowledgement, and a batch that is
            // still on the network may be appended after a batch of the new epoch.
            if partition.in_flight_batches > 0 {
                self.unresolved_partition_ids.insert(partition_id);
                continue;
            }
            partition.unresolved = None;
            // Every sequence is acknowledged after all. A leader accepts sequences without gaps
            // only, so the batch whose response was lost is in the log: no new epoch is needed.
            if unresolved == Unresolved::SequenceLost
                && partition.acked_end == Some(partition.next_sequence)
            {
                continue;
            }
            let topic_id_change = match unresolved {
                Unresolved::TopicRecreated { old_topic_id } => {
                    Some(TopicIdChange { old: old_topic_id, new: partition.topic_id })
                }
                Unresolved::SequenceLost => None,
            };
            // The next stamp sees a different epoch and starts at sequence 0.
            partition.epoch = ProducerIdAndEpoch::NONE;
            restarted.push(RestartedPartition { partition_id, topic_id_change });
        }
        if !restarted.is_empty() {
            self.start_new_epoch(now);
        }
        restarted
    }

    /// Increments the epoch, or requests a new producer id where no further epoch is possible.
    fn start_new_epoch(&mut self, now: Tick) {
        let ProducerIdState::Assigned(assigned) = &mut self.producer_id else { return };
        let needs_new_id = std::mem::take(&mut self.needs_new_producer_id);
        if needs_new_id || assigned.epoch == i16::MAX {
            self.producer_id = ProducerIdState::Needed { not_before: now };
        } else {
            assigned.epoch += 1;
        }
    }
}

impl PartitionSequences {
    /// Returns whether the batch has a sequence of the current epoch, not of an earlier one.
    fn is_in_current_epoch(&self, batch: &StampedBatch) -> bool {
        batch.stamp.sequence >= 0
            && self.epoch.producer_id == batch.stamp.producer_id
            && self.epoch.epoch == batch.stamp.epoch
    }
}

#[cfg(test)]
pub(super) mod tests;
