use super::*;

impl Sequences {
    fn break_it(&mut self, key: u32) {
        self.line(key).broken = Some(Broken::Lost);
        self.any_broken = true;
    }
}

#[test]
fn rc2_tm6_sequences_wrap_to_zero() {
    assert_eq!(advance(i32::MAX, 1), 0);
    assert_eq!(advance(i32::MAX - 5, 10), 4);
    assert_eq!(advance(i32::MAX, 100), 99);
    assert_eq!(advance(99, i32::MAX), 98);
}

#[test]
fn at_most_five_in_flight_a_partition_and_one_while_retrying() {
    let mut s = Sequences::new(true, false);
    let p = Partition::new("t".into(), 0, 7);
    assert!(!s.may_drain(&p, false), "no id yet");
    s.id = Id::Have { id: 1, epoch: 0 };
    assert!(s.may_drain(&p, false));
    let line = s.line(7);
    (line.id, line.epoch) = (1, 0);
    s.sent(7, -1);
    assert!(!s.may_drain(&p, false), "the first of an order goes alone");
    s.returned(7);
    s.line(7).acked_to = Some(1);
    for _ in 0..5 {
        assert!(s.may_drain(&p, false));
        s.sent(7, -1);
    }
    assert!(!s.may_drain(&p, false));
    s.returned(7);
    assert!(s.may_drain(&p, false) && !s.may_drain(&p, true));
    (0..4).for_each(|_| s.returned(7));
    assert!(s.may_drain(&p, true));
}

#[test]
fn sn12_a_broken_order_waits_for_the_network_then_bumps_the_epoch_sn19_or_asks_for_an_id() {
    let mut s = Sequences::new(true, false);
    let p = Partition::new("t".into(), 0, 7);
    s.id = Id::Have { id: 1, epoch: 0 };
    let line = s.line(7);
    (line.id, line.epoch, line.in_flight) = (1, 0, 1);
    s.break_it(7);
    assert!(s.mend(Tick(0)).is_empty() && !s.may_drain(&p, false));
    s.returned(7);
    assert_eq!(s.mend(Tick(0)), [Mended { key: 7, moved: None }]);
    assert!(matches!(s.id, Id::Have { id: 1, epoch: 1 }) && s.may_drain(&p, false));
    s.id = Id::Have { id: 1, epoch: i16::MAX };
    s.break_it(7);
    s.mend(Tick(9));
    assert!(matches!(s.id, Id::Wanted(Tick(9))));
}

fn cluster(id: u8) -> Arc<Cluster> {
    let mut c = Cluster::default();
    let info = crate::cluster::TopicInfo { id: Uuid([id; 16]), leaders: Vec::new() };
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
