use super::*;

impl ProducerState {
    fn force_unresolved(&mut self, key: u32) {
        self.get_or_create(key).unresolved = Some(Unresolved::SequenceLost);
        self.has_unresolved_sequences = true;
    }
}

#[test]
fn rc2_tm6_sequences_wrap_to_zero() {
    assert_eq!(increment_sequence(i32::MAX, 1), 0);
    assert_eq!(increment_sequence(i32::MAX - 5, 10), 4);
    assert_eq!(increment_sequence(i32::MAX, 100), 99);
    assert_eq!(increment_sequence(99, i32::MAX), 98);
}

#[test]
fn at_most_five_in_flight_a_partition_and_one_while_retrying() {
    let mut s = ProducerState::new(true, false);
    let p = Partition::new("t".into(), 0, 7, Default::default());
    assert!(!s.can_drain(&p, false), "no id yet");
    s.producer_id = ProducerIdState::Assigned { id: 1, epoch: 0 };
    assert!(s.can_drain(&p, false));
    let line = s.get_or_create(7);
    (line.producer_id, line.epoch) = (1, 0);
    s.add_in_flight_batch(7, -1, false);
    assert!(!s.can_drain(&p, false), "the first of an order goes alone");
    s.remove_in_flight_batch(7);
    s.get_or_create(7).acked_end = Some(1);
    for _ in 0..5 {
        assert!(s.can_drain(&p, false));
        s.add_in_flight_batch(7, -1, false);
    }
    assert!(!s.can_drain(&p, false));
    s.remove_in_flight_batch(7);
    assert!(s.can_drain(&p, false) && !s.can_drain(&p, true));
    (0..4).for_each(|_| s.remove_in_flight_batch(7));
    assert!(s.can_drain(&p, true));
}

#[test]
fn sn12_a_broken_order_waits_for_the_network_then_bumps_the_epoch_sn19_or_asks_for_an_id() {
    let mut s = ProducerState::new(true, false);
    let p = Partition::new("t".into(), 0, 7, Default::default());
    s.producer_id = ProducerIdState::Assigned { id: 1, epoch: 0 };
    let line = s.get_or_create(7);
    (line.producer_id, line.epoch, line.in_flight_batches) = (1, 0, 1);
    s.force_unresolved(7);
    assert!(s.bump_epoch(Tick(0)).is_empty() && !s.can_drain(&p, false));
    s.remove_in_flight_batch(7);
    assert_eq!(s.bump_epoch(Tick(0)), [RestartedPartition { key: 7, topic_id_change: None }]);
    assert!(
        matches!(s.producer_id, ProducerIdState::Assigned { id: 1, epoch: 1 })
            && s.can_drain(&p, false)
    );
    s.producer_id = ProducerIdState::Assigned { id: 1, epoch: i16::MAX };
    s.force_unresolved(7);
    s.bump_epoch(Tick(9));
    assert!(matches!(s.producer_id, ProducerIdState::Needed(Tick(9))));
}

fn cluster_with_topic_id(id: u8) -> Arc<Cluster> {
    let mut c = Cluster::default();
    let info = crate::cluster::TopicMetadata { id: Uuid([id; 16]), leaders: Vec::new() };
    c.topics.insert("t".into(), info);
    Arc::new(c)
}

/// Sequences given twice under one epoch would be taken for duplicates: acknowledged, and in no log.
#[test]
fn a_topic_id_that_comes_late_keeps_the_order_and_another_one_breaks_it() {
    let mut s = ProducerState::new(true, false);
    s.producer_id = ProducerIdState::Assigned { id: 1, epoch: 0 };
    let line = s.get_or_create(7);
    (line.producer_id, line.epoch, line.next_sequence, line.topic) = (1, 0, 3, Some("t".into()));
    s.update_cluster(cluster_with_topic_id(0));
    s.update_cluster(cluster_with_topic_id(1));
    assert!(
        s.get_or_create(7).unresolved.is_none() && s.get_or_create(7).next_sequence == 3,
        "no id, then one: the same log"
    );
    s.update_cluster(cluster_with_topic_id(0));
    assert!(s.get_or_create(7).unresolved.is_none(), "a broker that does not tell says nothing");
    s.update_cluster(cluster_with_topic_id(2));
    let moved = Some((Uuid([1; 16]), Uuid([2; 16])));
    assert_eq!(s.bump_epoch(Tick(0)), [RestartedPartition { key: 7, topic_id_change: moved }]);
    assert!(matches!(s.producer_id, ProducerIdState::Assigned { epoch: 1, .. }));
}

/// A batch of so many records, not sent yet.
pub(in crate::sender) fn closed_batch(p: &Arc<Partition>, number: u64, count: i32) -> ClosedBatch {
    use crate::accumulator::batch::{BatchMeta, OpenBatch};
    use crate::accumulator::batch_completions::BatchCompletions;
    use crate::accumulator::buffer_pool::BufferPool;
    use crate::accumulator::caller_context::CallerContext;
    use crate::accumulator::completion::BatchInfo;
    let env = Arc::new(crate::network::io::simulated::SimMachine::new(
        0,
        crate::network::io::simulated::Faults::NONE,
    ));
    let callers = CallerContext::new(env, true);
    let of = BatchInfo { partition: p.clone(), number, base_timestamp: 0, caller_context: callers };
    let meta = BatchMeta {
        partition: p.clone(),
        number,
        queue_position: (number, 0),
        created: Tick(0),
        base_timestamp: 0,
        max_timestamp: 0,
        record_count: count,
        max_record_bytes: 0,
        memory_wait: std::time::Duration::ZERO,
    };
    let buf = BufferPool::new(1000, 100).charge(100);
    OpenBatch::new(buf, meta, BatchCompletions::new(Arc::default(), Default::default(), of), 100)
        .close(None)
}

/// One partition, and sequences that have an id.
fn state_with_epoch(epoch: i16) -> (ProducerState, Arc<Partition>) {
    let mut s = ProducerState::new(true, false);
    s.producer_id = ProducerIdState::Assigned { id: 1, epoch };
    (s, Arc::new(Partition::new("t".into(), 0, 7, Default::default())))
}

impl ProducerState {
    /// Stamps and sends.
    fn stamp_and_send(&mut self, batch: ClosedBatch) -> StampedBatch {
        let b = self.stamp(batch);
        self.add_in_flight_batch(b.closed.meta.partition.id, -1, false);
        b
    }

    fn acknowledge(&mut self, b: &StampedBatch) {
        self.maybe_update_last_acked_sequence(b);
        self.remove_in_flight_batch(b.closed.meta.partition.id);
    }
}

#[test]
fn f1_1_sn9_a_sequence_is_given_at_drain_and_rises_by_the_records() {
    let (mut s, p) = state_with_epoch(0);
    let (a, b) =
        (s.stamp_and_send(closed_batch(&p, 1, 2)), s.stamp_and_send(closed_batch(&p, 2, 3)));
    assert_eq!((a.stamp.sequence, b.stamp.sequence, s.get_or_create(7).next_sequence), (0, 2, 5));
    assert!(s.is_first_of_epoch(&a) && !s.is_first_of_epoch(&b) && !s.follows_last_acked(&a));
    s.acknowledge(&a);
    assert!(s.follows_last_acked(&b) && s.get_or_create(7).acked_end == Some(2));
    s.acknowledge(&b);
    assert_eq!(s.get_or_create(7).acked_end, Some(5));
}

#[test]
fn sn14_a_later_batch_acknowledged_first_keeps_its_place() {
    let (mut s, p) = state_with_epoch(0);
    let (a, b) =
        (s.stamp_and_send(closed_batch(&p, 1, 1)), s.stamp_and_send(closed_batch(&p, 2, 1)));
    s.acknowledge(&b);
    s.acknowledge(&a);
    assert_eq!(s.get_or_create(7).acked_end, Some(2));
}

#[test]
fn f1_1_acknowledgements_follow_sequences_over_their_end() {
    let (mut s, p) = state_with_epoch(0);
    let first = s.stamp_and_send(closed_batch(&p, 1, 1));
    s.acknowledge(&first);
    s.get_or_create(7).next_sequence = i32::MAX - 1;
    s.get_or_create(7).acked_end = Some(i32::MAX - 1);
    let (a, b) =
        (s.stamp_and_send(closed_batch(&p, 2, 2)), s.stamp_and_send(closed_batch(&p, 3, 5)));
    assert_eq!(
        (a.stamp.sequence, b.stamp.sequence, s.get_or_create(7).next_sequence),
        (i32::MAX - 1, 0, 5)
    );
    s.acknowledge(&a);
    assert_eq!(s.get_or_create(7).acked_end, Some(0));
    assert!(s.follows_last_acked(&b));
    s.acknowledge(&b);
    assert_eq!(s.get_or_create(7).acked_end, Some(5));
}

#[test]
fn f1_6_sn16_a_lost_sequence_that_a_later_acknowledgement_covers_needs_no_new_epoch() {
    let (mut s, p) = state_with_epoch(0);
    let (a, b) =
        (s.stamp_and_send(closed_batch(&p, 1, 1)), s.stamp_and_send(closed_batch(&p, 2, 1)));
    s.mark_unresolved(&a);
    s.remove_in_flight_batch(7);
    assert!(s.bump_epoch(Tick(0)).is_empty(), "the other is still under way");
    s.acknowledge(&b);
    assert!(
        s.bump_epoch(Tick(0)).is_empty()
            && matches!(s.producer_id, ProducerIdState::Assigned { epoch: 0, .. })
    );
    assert!(s.can_drain(&p, false));
    // Not so when the last one is the lost one.
    let c = s.stamp_and_send(closed_batch(&p, 3, 1));
    s.mark_unresolved(&c);
    s.remove_in_flight_batch(7);
    assert_eq!(s.bump_epoch(Tick(0)), [RestartedPartition { key: 7, topic_id_change: None }]);
    assert!(matches!(s.producer_id, ProducerIdState::Assigned { epoch: 1, .. }));
}

#[test]
fn f2_9_sn20_only_the_broken_partition_begins_anew_others_when_they_are_through() {
    let (mut s, p) = state_with_epoch(0);
    let q = Arc::new(Partition::new("t".into(), 1, 8, Default::default()));
    let (a, x) =
        (s.stamp_and_send(closed_batch(&p, 1, 1)), s.stamp_and_send(closed_batch(&q, 2, 1)));
    s.acknowledge(&x);
    let y = s.stamp_and_send(closed_batch(&q, 3, 1));
    s.mark_unresolved(&a);
    s.remove_in_flight_batch(7);
    assert_eq!(s.bump_epoch(Tick(0)).len(), 1);
    assert_eq!(s.stamp_and_send(closed_batch(&p, 4, 1)).stamp.epoch, 1);
    assert!(!s.can_drain(&q, false), "what is under way there goes by the old epoch");
    s.acknowledge(&y);
    assert!(s.can_drain(&q, false));
    let z = s.stamp_and_send(closed_batch(&q, 5, 1));
    assert_eq!((z.stamp.epoch, z.stamp.sequence), (1, 0));
    // What belongs to an order that is over decides nothing any more.
    s.mark_unresolved(&a);
    assert!(s.bump_epoch(Tick(0)).is_empty());
    assert!(!s.follows_last_acked(&a) && !s.is_first_of_epoch(&a));
}

#[test]
fn f2_a_new_id_where_the_log_takes_no_further_epoch() {
    let (mut s, p) = state_with_epoch(3);
    let a = s.stamp_and_send(closed_batch(&p, 1, 1));
    s.require_new_producer_id();
    s.mark_unresolved(&a);
    assert!(s.bump_epoch(Tick(5)).is_empty());
    s.remove_in_flight_batch(7);
    assert_eq!(s.bump_epoch(Tick(5)).len(), 1);
    assert!(matches!(s.producer_id, ProducerIdState::Needed(Tick(5))));
    assert!(!s.can_drain(&p, false) && !s.can_drain(&p, true), "nothing goes without an id");
    s.producer_id = ProducerIdState::Assigned { id: 2, epoch: 0 };
    let b = s.stamp_and_send(closed_batch(&p, 2, 1));
    assert_eq!((b.stamp.producer_id, b.stamp.epoch, b.stamp.sequence), (2, 0, 0));
}

#[test]
fn without_idempotence_only_a_topic_of_another_id_breaks_an_order() {
    let mut s = ProducerState::new(false, false);
    let p = Arc::new(Partition::new("t".into(), 0, 7, Default::default()));
    s.update_cluster(cluster_with_topic_id(1));
    let a = s.stamp_and_send(closed_batch(&p, 1, 1));
    assert_eq!((a.stamp.sequence, a.stamp.topic_id), (-1, Uuid([1; 16])));
    s.mark_unresolved(&a);
    assert!(s.bump_epoch(Tick(0)).is_empty() && s.can_drain(&p, false));
    s.update_cluster(cluster_with_topic_id(2));
    assert!(!s.can_drain(&p, false) && s.bump_epoch(Tick(0)).is_empty(), "it is still under way");
    s.remove_in_flight_batch(7);
    let moved = Some((Uuid([1; 16]), Uuid([2; 16])));
    assert_eq!(s.bump_epoch(Tick(0)), [RestartedPartition { key: 7, topic_id_change: moved }]);
    assert!(s.can_drain(&p, false) && !s.is_idempotent());
}

#[test]
fn f1_4_one_in_flight_is_one_a_partition_whoever_leads_it() {
    let mut s = ProducerState::new(true, true);
    s.producer_id = ProducerIdState::Assigned { id: 1, epoch: 0 };
    let p = Arc::new(Partition::new("t".into(), 0, 7, Default::default()));
    let a = s.stamp_and_send(closed_batch(&p, 1, 1));
    assert!(!s.can_drain(&p, false));
    s.acknowledge(&a);
    assert!(s.can_drain(&p, false));
    let _b = s.stamp_and_send(closed_batch(&p, 2, 1));
    assert!(!s.can_drain(&p, false), "the first is acknowledged, and still one at a time");
}
