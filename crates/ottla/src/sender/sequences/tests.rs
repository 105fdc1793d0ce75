use super::*;

impl Sequences {
    fn break_it(&mut self, key: u32) {
        self.line(key).broken = Some(Broken::Lost);
        self.any_broken = true;
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
    let mut s = Sequences::new(true, false);
    let p = Partition::new("t".into(), 0, 7, Default::default());
    assert!(!s.can_drain(&p, false), "no id yet");
    s.id = Id::Have { id: 1, epoch: 0 };
    assert!(s.can_drain(&p, false));
    let line = s.line(7);
    (line.id, line.epoch) = (1, 0);
    s.sent(7, -1, false);
    assert!(!s.can_drain(&p, false), "the first of an order goes alone");
    s.returned(7);
    s.line(7).acked_to = Some(1);
    for _ in 0..5 {
        assert!(s.can_drain(&p, false));
        s.sent(7, -1, false);
    }
    assert!(!s.can_drain(&p, false));
    s.returned(7);
    assert!(s.can_drain(&p, false) && !s.can_drain(&p, true));
    (0..4).for_each(|_| s.returned(7));
    assert!(s.can_drain(&p, true));
}

#[test]
fn sn12_a_broken_order_waits_for_the_network_then_bumps_the_epoch_sn19_or_asks_for_an_id() {
    let mut s = Sequences::new(true, false);
    let p = Partition::new("t".into(), 0, 7, Default::default());
    s.id = Id::Have { id: 1, epoch: 0 };
    let line = s.line(7);
    (line.id, line.epoch, line.in_flight) = (1, 0, 1);
    s.break_it(7);
    assert!(s.mend(Tick(0)).is_empty() && !s.can_drain(&p, false));
    s.returned(7);
    assert_eq!(s.mend(Tick(0)), [Mended { key: 7, moved: None }]);
    assert!(matches!(s.id, Id::Have { id: 1, epoch: 1 }) && s.can_drain(&p, false));
    s.id = Id::Have { id: 1, epoch: i16::MAX };
    s.break_it(7);
    s.mend(Tick(9));
    assert!(matches!(s.id, Id::Wanted(Tick(9))));
}

fn cluster(id: u8) -> Arc<Cluster> {
    let mut c = Cluster::default();
    let info = crate::cluster::TopicMetadata { id: Uuid([id; 16]), leaders: Vec::new() };
    c.topics.insert("t".into(), info);
    Arc::new(c)
}

/// Sequences given twice under one epoch would be taken for duplicates: acknowledged, and in no log.
#[test]
fn a_topic_id_that_comes_late_keeps_the_order_and_another_one_breaks_it() {
    let mut s = Sequences::new(true, false);
    s.id = Id::Have { id: 1, epoch: 0 };
    let line = s.line(7);
    (line.id, line.epoch, line.next, line.topic) = (1, 0, 3, Some("t".into()));
    s.follow(cluster(0));
    s.follow(cluster(1));
    assert!(s.line(7).broken.is_none() && s.line(7).next == 3, "no id, then one: the same log");
    s.follow(cluster(0));
    assert!(s.line(7).broken.is_none(), "a broker that does not tell says nothing");
    s.follow(cluster(2));
    let moved = Some((Uuid([1; 16]), Uuid([2; 16])));
    assert_eq!(s.mend(Tick(0)), [Mended { key: 7, moved }]);
    assert!(matches!(s.id, Id::Have { epoch: 1, .. }));
}

/// A batch of so many records, not sent yet.
pub(in crate::sender) fn closed(p: &Arc<Partition>, number: u64, count: i32) -> ClosedBatch {
    use crate::accumulator::batch::{BatchMeta, OpenBatch};
    use crate::accumulator::buffer_pool::BufferPool;
    use crate::accumulator::callers::CallerContext;
    use crate::accumulator::completion::BatchInfo;
    use crate::accumulator::ends::BatchCompletions;
    let env = Arc::new(crate::network::io::simulated::Machine::new(
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
fn begun(epoch: i16) -> (Sequences, Arc<Partition>) {
    let mut s = Sequences::new(true, false);
    s.id = Id::Have { id: 1, epoch };
    (s, Arc::new(Partition::new("t".into(), 0, 7, Default::default())))
}

impl Sequences {
    /// Stamps and sends.
    fn send(&mut self, batch: ClosedBatch) -> StampedBatch {
        let b = self.stamp(batch);
        self.sent(b.closed.meta.partition.id, -1, false);
        b
    }

    fn ack(&mut self, b: &StampedBatch) {
        self.acknowledged(b);
        self.returned(b.closed.meta.partition.id);
    }
}

#[test]
fn f1_1_sn9_a_sequence_is_given_at_drain_and_rises_by_the_records() {
    let (mut s, p) = begun(0);
    let (a, b) = (s.send(closed(&p, 1, 2)), s.send(closed(&p, 2, 3)));
    assert_eq!((a.stamp.sequence, b.stamp.sequence, s.line(7).next), (0, 2, 5));
    assert!(s.begins(&a) && !s.begins(&b) && !s.is_next(&a));
    s.ack(&a);
    assert!(s.is_next(&b) && s.line(7).acked_to == Some(2));
    s.ack(&b);
    assert_eq!(s.line(7).acked_to, Some(5));
}

#[test]
fn sn14_a_later_batch_acknowledged_first_keeps_its_place() {
    let (mut s, p) = begun(0);
    let (a, b) = (s.send(closed(&p, 1, 1)), s.send(closed(&p, 2, 1)));
    s.ack(&b);
    s.ack(&a);
    assert_eq!(s.line(7).acked_to, Some(2));
}

#[test]
fn f1_1_acknowledgements_follow_sequences_over_their_end() {
    let (mut s, p) = begun(0);
    let first = s.send(closed(&p, 1, 1));
    s.ack(&first);
    s.line(7).next = i32::MAX - 1;
    s.line(7).acked_to = Some(i32::MAX - 1);
    let (a, b) = (s.send(closed(&p, 2, 2)), s.send(closed(&p, 3, 5)));
    assert_eq!((a.stamp.sequence, b.stamp.sequence, s.line(7).next), (i32::MAX - 1, 0, 5));
    s.ack(&a);
    assert_eq!(s.line(7).acked_to, Some(0));
    assert!(s.is_next(&b));
    s.ack(&b);
    assert_eq!(s.line(7).acked_to, Some(5));
}

#[test]
fn f1_6_sn16_a_lost_sequence_that_a_later_acknowledgement_covers_needs_no_new_epoch() {
    let (mut s, p) = begun(0);
    let (a, b) = (s.send(closed(&p, 1, 1)), s.send(closed(&p, 2, 1)));
    s.broke(&a);
    s.returned(7);
    assert!(s.mend(Tick(0)).is_empty(), "the other is still under way");
    s.ack(&b);
    assert!(s.mend(Tick(0)).is_empty() && matches!(s.id, Id::Have { epoch: 0, .. }));
    assert!(s.can_drain(&p, false));
    // Not so when the last one is the lost one.
    let c = s.send(closed(&p, 3, 1));
    s.broke(&c);
    s.returned(7);
    assert_eq!(s.mend(Tick(0)), [Mended { key: 7, moved: None }]);
    assert!(matches!(s.id, Id::Have { epoch: 1, .. }));
}

#[test]
fn f2_9_sn20_only_the_broken_partition_begins_anew_others_when_they_are_through() {
    let (mut s, p) = begun(0);
    let q = Arc::new(Partition::new("t".into(), 1, 8, Default::default()));
    let (a, x) = (s.send(closed(&p, 1, 1)), s.send(closed(&q, 2, 1)));
    s.ack(&x);
    let y = s.send(closed(&q, 3, 1));
    s.broke(&a);
    s.returned(7);
    assert_eq!(s.mend(Tick(0)).len(), 1);
    assert_eq!(s.send(closed(&p, 4, 1)).stamp.epoch, 1);
    assert!(!s.can_drain(&q, false), "what is under way there goes by the old epoch");
    s.ack(&y);
    assert!(s.can_drain(&q, false));
    let z = s.send(closed(&q, 5, 1));
    assert_eq!((z.stamp.epoch, z.stamp.sequence), (1, 0));
    // What belongs to an order that is over decides nothing any more.
    s.broke(&a);
    assert!(s.mend(Tick(0)).is_empty());
    assert!(!s.is_next(&a) && !s.begins(&a));
}

#[test]
fn f2_a_new_id_where_the_log_takes_no_further_epoch() {
    let (mut s, p) = begun(3);
    let a = s.send(closed(&p, 1, 1));
    s.want_new_id();
    s.broke(&a);
    assert!(s.mend(Tick(5)).is_empty());
    s.returned(7);
    assert_eq!(s.mend(Tick(5)).len(), 1);
    assert!(matches!(s.id, Id::Wanted(Tick(5))));
    assert!(!s.can_drain(&p, false) && !s.can_drain(&p, true), "nothing goes without an id");
    s.id = Id::Have { id: 2, epoch: 0 };
    let b = s.send(closed(&p, 2, 1));
    assert_eq!((b.stamp.producer_id, b.stamp.epoch, b.stamp.sequence), (2, 0, 0));
}

#[test]
fn without_idempotence_only_a_topic_of_another_id_breaks_an_order() {
    let mut s = Sequences::new(false, false);
    let p = Arc::new(Partition::new("t".into(), 0, 7, Default::default()));
    s.follow(cluster(1));
    let a = s.send(closed(&p, 1, 1));
    assert_eq!((a.stamp.sequence, a.stamp.topic_id), (-1, Uuid([1; 16])));
    s.broke(&a);
    assert!(s.mend(Tick(0)).is_empty() && s.can_drain(&p, false));
    s.follow(cluster(2));
    assert!(!s.can_drain(&p, false) && s.mend(Tick(0)).is_empty(), "it is still under way");
    s.returned(7);
    let moved = Some((Uuid([1; 16]), Uuid([2; 16])));
    assert_eq!(s.mend(Tick(0)), [Mended { key: 7, moved }]);
    assert!(s.can_drain(&p, false) && !s.is_idempotent());
}

#[test]
fn f1_4_one_in_flight_is_one_a_partition_whoever_leads_it() {
    let mut s = Sequences::new(true, true);
    s.id = Id::Have { id: 1, epoch: 0 };
    let p = Arc::new(Partition::new("t".into(), 0, 7, Default::default()));
    let a = s.send(closed(&p, 1, 1));
    assert!(!s.can_drain(&p, false));
    s.ack(&a);
    assert!(s.can_drain(&p, false));
    let _b = s.send(closed(&p, 2, 1));
    assert!(!s.can_drain(&p, false), "the first is acknowledged, and still one at a time");
}
