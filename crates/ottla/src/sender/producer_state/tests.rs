use std::sync::Arc;

use super::*;

impl ProducerState {
    fn force_unresolved(&mut self, partition_id: u32) {
        self.get_or_create(partition_id).unresolved = Some(Unresolved::SequenceLost);
        self.unresolved_partition_ids.insert(partition_id);
    }

    fn assign(&mut self, producer_id: i64, epoch: i16) {
        self.producer_id = ProducerIdState::Assigned(ProducerIdAndEpoch { producer_id, epoch });
    }

    fn assigned(&self) -> Option<(i64, i16)> {
        match self.producer_id {
            ProducerIdState::Assigned(a) => Some((a.producer_id, a.epoch)),
            _ => None,
        }
    }

    /// Stamps a batch and counts it as in flight.
    fn stamp_and_send(&mut self, batch: ClosedBatch) -> StampedBatch {
        let known = self.partitions.get(&batch.meta.partition.id).map(|p| p.topic_id);
        let stamped = self.stamp(batch, known.unwrap_or(Uuid::ZERO));
        self.add_in_flight_batch(stamped.closed.meta.partition.id, -1, false);
        stamped
    }

    fn acknowledge(&mut self, batch: &StampedBatch) {
        self.maybe_update_last_acked_sequence(batch);
        self.remove_in_flight_batch(batch.closed.meta.partition.id);
    }
}

/// The id of the fixtures' partition.
const P: u32 = 7;

/// Returns a producer state with an assigned id, and one partition.
fn state_with_epoch(epoch: i16) -> (ProducerState, Arc<Partition>) {
    let mut state = ProducerState::new(true, false);
    state.assign(1, epoch);
    (state, Arc::new(Partition::new("t".into(), 0, P, Default::default())))
}

fn restarted(topic_id_change: Option<TopicIdChange>) -> [RestartedPartition; 1] {
    [RestartedPartition { partition_id: P, topic_id_change }]
}

fn topic_id_change(old: u8, new: u8) -> Option<TopicIdChange> {
    Some(TopicIdChange { old: Uuid([old; 16]), new: Uuid([new; 16]) })
}

/// A round re-evaluates all partitions while one can be resolved. So an unresolved partition with a
/// batch in flight must not count, nor one that is resolved already.
#[test]
fn unresolved_partition_can_be_resolved_once_when_nothing_is_in_flight() {
    let (mut state, p) = state_with_epoch(0);
    state.stamp_and_send(closed_batch(&p, 1, 1));
    state.stamp_and_send(closed_batch(&p, 2, 1));
    state.force_unresolved(P);
    for _ in 0..2 {
        assert!(!state.can_resolve());
        state.remove_in_flight_batch(P);
    }
    assert!(state.can_resolve());
    assert_eq!(state.bump_epoch(Tick(0)), restarted(None));
    assert!(!state.can_resolve());
}

/// Returns a batch of `record_count` records that was not sent yet.
pub(in crate::sender) fn closed_batch(
    p: &Arc<Partition>,
    number: u64,
    record_count: i32,
) -> ClosedBatch {
    use crate::accumulator::batch::{BatchMeta, OpenBatch, QueuePosition};
    use crate::accumulator::buffer_pool::BufferPool;
    use crate::delivery::batch_completions::BatchCompletions;
    use crate::delivery::result::BatchInfo;
    use crate::sim::{Faults, SimMachine};
    use crate::wakeup::caller_context::CallerContext;
    let env = Arc::new(SimMachine::new(0, Faults::NONE));
    let info = BatchInfo {
        topic: p.topic.clone(),
        partition: p.index,
        partition_id: p.id,
        leader: -1,
        number,
        base_timestamp: 0,
        caller_context: CallerContext::new(env, true),
    };
    let meta = BatchMeta {
        partition: p.clone(),
        number,
        queue_position: QueuePosition { batch_number: number, record_index: 0 },
        created: Tick(0),
        base_timestamp: 0,
        max_timestamp: 0,
        record_count,
        max_record_bytes: 0,
        extensions: 0,
        memory_wait: std::time::Duration::ZERO,
    };
    let buf = BufferPool::new(1000, 100, std::sync::Arc::default()).allocate_over_limit(100);
    let completions = BatchCompletions::new(Arc::default(), Default::default(), info);
    OpenBatch::new(buf, meta, completions, 100).close(None)
}

// CASES: RC2, TM6.
#[test]
fn sequences_wrap_to_zero() {
    assert_eq!(increment_sequence(i32::MAX, 1), 0);
    assert_eq!(increment_sequence(i32::MAX - 5, 10), 4);
    assert_eq!(increment_sequence(i32::MAX, 100), 99);
    assert_eq!(increment_sequence(99, i32::MAX), 98);
}

#[test]
fn at_most_five_batches_are_in_flight_and_only_one_while_retrying() {
    let mut state = ProducerState::new(true, false);
    let p = Partition::new("t".into(), 0, P, Default::default());
    assert!(!state.can_drain(&p, false), "no producer id yet");
    state.assign(1, 0);
    assert!(state.can_drain(&p, false));
    state.get_or_create(P).epoch = ProducerIdAndEpoch { producer_id: 1, epoch: 0 };
    state.add_in_flight_batch(P, -1, false);
    assert!(!state.can_drain(&p, false), "the first batch of an epoch goes alone");
    state.remove_in_flight_batch(P);
    state.get_or_create(P).acked_end = Some(1);
    for _ in 0..5 {
        assert!(state.can_drain(&p, false));
        state.add_in_flight_batch(P, -1, false);
    }
    assert!(!state.can_drain(&p, false));
    state.remove_in_flight_batch(P);
    assert!(state.can_drain(&p, false) && !state.can_drain(&p, true));
    (0..4).for_each(|_| state.remove_in_flight_batch(P));
    assert!(state.can_drain(&p, true));
}

// CASES: SN12, SN19.
#[test]
fn unresolved_partition_waits_for_batches_in_flight_then_bumps_the_epoch_or_needs_an_id() {
    let mut state = ProducerState::new(true, false);
    let p = Partition::new("t".into(), 0, P, Default::default());
    state.assign(1, 0);
    state.get_or_create(P).epoch = ProducerIdAndEpoch { producer_id: 1, epoch: 0 };
    state.get_or_create(P).in_flight_batches = 1;
    state.force_unresolved(P);
    assert!(state.bump_epoch(Tick(0)).is_empty() && !state.can_drain(&p, false));
    state.remove_in_flight_batch(P);
    assert_eq!(state.bump_epoch(Tick(0)), restarted(None));
    assert_eq!(state.assigned(), Some((1, 1)));
    assert!(state.can_drain(&p, false));
    state.assign(1, i16::MAX);
    state.force_unresolved(P);
    state.bump_epoch(Tick(9));
    assert!(matches!(state.producer_id, ProducerIdState::Needed { not_before: Tick(9) }));
}

// A broker takes a sequence that comes twice in one epoch for a duplicate: it acknowledges a batch
// that is in no log.
#[test]
fn late_topic_id_keeps_the_sequences_and_changed_topic_id_bumps_the_epoch() {
    let mut state = ProducerState::new(true, false);
    state.assign(1, 0);
    let partition = state.get_or_create(P);
    partition.epoch = ProducerIdAndEpoch { producer_id: 1, epoch: 0 };
    partition.next_sequence = 3;
    state.update_topic_id(P, Uuid([0; 16]));
    state.update_topic_id(P, Uuid([1; 16]));
    let partition = state.get_or_create(P);
    assert!(
        partition.unresolved.is_none() && partition.next_sequence == 3,
        "a first id after zero is the same log"
    );
    state.update_topic_id(P, Uuid([0; 16]));
    assert!(state.get_or_create(P).unresolved.is_none(), "a zero id changes nothing");
    state.update_topic_id(P, Uuid([2; 16]));
    assert_eq!(state.bump_epoch(Tick(0)), restarted(topic_id_change(1, 2)));
    assert_eq!(state.assigned(), Some((1, 1)));
}

// CASES: F1.1, SN9.
#[test]
fn sequence_is_assigned_at_drain_and_grows_by_the_record_count() {
    let (mut state, p) = state_with_epoch(0);
    let a = state.stamp_and_send(closed_batch(&p, 1, 2));
    let b = state.stamp_and_send(closed_batch(&p, 2, 3));
    assert_eq!((a.stamp.sequence, b.stamp.sequence), (0, 2));
    assert_eq!(state.get_or_create(P).next_sequence, 5);
    assert!(state.is_first_of_epoch(&a) && !state.is_first_of_epoch(&b));
    assert!(!state.follows_last_acked(&a));
    state.acknowledge(&a);
    assert!(state.follows_last_acked(&b) && state.get_or_create(P).acked_end == Some(2));
    assert!(state.precedes_last_acked(&a) && !state.precedes_last_acked(&b));
    state.acknowledge(&b);
    assert_eq!(state.get_or_create(P).acked_end, Some(5));
}

// CASES: SN14.
#[test]
fn last_acked_sequence_does_not_move_back_when_a_later_batch_is_acknowledged_first() {
    let (mut state, p) = state_with_epoch(0);
    let a = state.stamp_and_send(closed_batch(&p, 1, 1));
    let b = state.stamp_and_send(closed_batch(&p, 2, 1));
    state.acknowledge(&b);
    state.acknowledge(&a);
    assert_eq!(state.get_or_create(P).acked_end, Some(2));
}

// CASES: F1.1.
#[test]
fn last_acked_sequence_follows_sequences_that_wrap() {
    let (mut state, p) = state_with_epoch(0);
    let first = state.stamp_and_send(closed_batch(&p, 1, 1));
    state.acknowledge(&first);
    state.get_or_create(P).next_sequence = i32::MAX - 1;
    state.get_or_create(P).acked_end = Some(i32::MAX - 1);
    let a = state.stamp_and_send(closed_batch(&p, 2, 2));
    let b = state.stamp_and_send(closed_batch(&p, 3, 5));
    assert_eq!((a.stamp.sequence, b.stamp.sequence), (i32::MAX - 1, 0));
    assert_eq!(state.get_or_create(P).next_sequence, 5);
    state.acknowledge(&a);
    assert_eq!(state.get_or_create(P).acked_end, Some(0));
    assert!(state.follows_last_acked(&b));
    state.acknowledge(&b);
    assert_eq!(state.get_or_create(P).acked_end, Some(5));
}

// CASES: F1.6.
#[test]
fn lost_sequence_before_an_acknowledged_one_needs_no_new_epoch() {
    let (mut state, p) = state_with_epoch(0);
    let a = state.stamp_and_send(closed_batch(&p, 1, 1));
    let b = state.stamp_and_send(closed_batch(&p, 2, 1));
    state.mark_unresolved(&a);
    state.remove_in_flight_batch(P);
    assert!(state.bump_epoch(Tick(0)).is_empty(), "the other batch is still in flight");
    state.acknowledge(&b);
    assert!(state.bump_epoch(Tick(0)).is_empty());
    assert_eq!(state.assigned(), Some((1, 0)));
    assert!(state.can_drain(&p, false));
    // If the last sequence is the lost one, the epoch is bumped.
    let c = state.stamp_and_send(closed_batch(&p, 3, 1));
    state.mark_unresolved(&c);
    state.remove_in_flight_batch(P);
    assert_eq!(state.bump_epoch(Tick(0)), restarted(None));
    assert_eq!(state.assigned(), Some((1, 1)));
}

// CASES: F2.9, SN20.
#[test]
fn other_partitions_move_to_the_new_epoch_when_they_have_nothing_in_flight() {
    let (mut state, p) = state_with_epoch(0);
    let q = Arc::new(Partition::new("t".into(), 1, 8, Default::default()));
    let a = state.stamp_and_send(closed_batch(&p, 1, 1));
    let x = state.stamp_and_send(closed_batch(&q, 2, 1));
    state.acknowledge(&x);
    let y = state.stamp_and_send(closed_batch(&q, 3, 1));
    state.mark_unresolved(&a);
    state.remove_in_flight_batch(P);
    assert_eq!(state.bump_epoch(Tick(0)).len(), 1);
    assert_eq!(state.stamp_and_send(closed_batch(&p, 4, 1)).stamp.epoch, 1);
    assert!(!state.can_drain(&q, false), "a batch of the old epoch is in flight");
    state.acknowledge(&y);
    assert!(state.can_drain(&q, false));
    let z = state.stamp_and_send(closed_batch(&q, 5, 1));
    assert_eq!((z.stamp.epoch, z.stamp.sequence), (1, 0));
    // A batch of the old epoch decides nothing any more.
    state.mark_unresolved(&a);
    assert!(state.bump_epoch(Tick(0)).is_empty());
    assert!(!state.follows_last_acked(&a) && !state.is_first_of_epoch(&a));
}

// CASES: F2.9.
#[test]
fn new_producer_id_is_needed_when_the_log_accepts_no_further_epoch() {
    let (mut state, p) = state_with_epoch(3);
    let a = state.stamp_and_send(closed_batch(&p, 1, 1));
    state.require_new_producer_id();
    state.mark_unresolved(&a);
    assert!(state.bump_epoch(Tick(5)).is_empty());
    state.remove_in_flight_batch(P);
    assert_eq!(state.bump_epoch(Tick(5)).len(), 1);
    assert!(matches!(state.producer_id, ProducerIdState::Needed { not_before: Tick(5) }));
    assert!(
        !state.can_drain(&p, false) && !state.can_drain(&p, true),
        "nothing is sent without an id"
    );
    state.assign(2, 0);
    let b = state.stamp_and_send(closed_batch(&p, 2, 1));
    assert_eq!((b.stamp.producer_id, b.stamp.epoch, b.stamp.sequence), (2, 0, 0));
}

#[test]
fn without_idempotence_only_a_changed_topic_id_makes_a_partition_unresolved() {
    let mut state = ProducerState::new(false, false);
    let p = Arc::new(Partition::new("t".into(), 0, P, Default::default()));
    let a = state.stamp(closed_batch(&p, 1, 1), Uuid([1; 16]));
    state.add_in_flight_batch(P, -1, false);
    assert_eq!((a.stamp.sequence, a.stamp.topic_id), (-1, Uuid([1; 16])));
    state.mark_unresolved(&a);
    assert!(state.bump_epoch(Tick(0)).is_empty() && state.can_drain(&p, false));
    state.update_topic_id(P, Uuid([2; 16]));
    assert!(!state.can_drain(&p, false));
    assert!(state.bump_epoch(Tick(0)).is_empty(), "the batch is still in flight");
    state.remove_in_flight_batch(P);
    assert_eq!(state.bump_epoch(Tick(0)), restarted(topic_id_change(1, 2)));
    assert!(state.can_drain(&p, false) && !state.is_idempotent());
}

// CASES: F1.4.
#[test]
fn guaranteed_order_allows_one_batch_in_flight_for_each_partition() {
    let mut state = ProducerState::new(true, true);
    state.assign(1, 0);
    let p = Arc::new(Partition::new("t".into(), 0, P, Default::default()));
    let a = state.stamp_and_send(closed_batch(&p, 1, 1));
    assert!(!state.can_drain(&p, false));
    state.acknowledge(&a);
    assert!(state.can_drain(&p, false));
    let _b = state.stamp_and_send(closed_batch(&p, 2, 1));
    assert!(!state.can_drain(&p, false), "still one, after the first is acknowledged");
}
