//! When a partition is ready, and when to look again.

use super::*;

#[test]
fn ra3_ra27_what_nobody_awaits_is_ready_when_its_linger_is_over_and_not_before() {
    let mut bed =
        AccumulatorFixture::new(AccumulatorSettings { linger: 10 * MS, ..settings() }, &[1]);
    bed.append_to(0, b"v");
    assert!(bed.ready_nodes().is_empty());
    assert_eq!(bed.next_deadline_ms(), 10);
    bed.advance_ms(9);
    assert!(bed.ready_nodes().is_empty());
    bed.advance_ms(1);
    assert_eq!(bed.ready_nodes(), [1]);
    assert_eq!(bed.drain(1, usize::MAX).len(), 1);
}

#[test]
fn ra6_the_next_look_is_at_the_earliest_of_what_is_not_ready() {
    let mut bed =
        AccumulatorFixture::new(AccumulatorSettings { linger: 10 * MS, ..settings() }, &[1, 1, 2]);
    bed.append_to(0, b"v");
    assert!(bed.ready_nodes().is_empty());
    assert_eq!(bed.next_deadline_ms(), 10);
    bed.advance_ms(5);
    bed.append_to(2, b"v");
    assert!(bed.ready_nodes().is_empty());
    assert_eq!(bed.next_deadline_ms(), 5);
    bed.append_to(1, &[b'x'; 900]);
    bed.append_to(1, &[b'x'; 900]);
    assert_eq!(bed.ready_nodes(), [1], "a second partition of the node filled a batch");
    assert!(bed.next_deadline_ms() <= 10);
}

#[test]
fn ra7_ra9_what_backs_off_is_passed_over_until_its_time_whoever_leads() {
    let mut bed = AccumulatorFixture::new(settings(), &[1, 1]);
    bed.append_to(0, b"v");
    let batch = bed.drain(1, usize::MAX).pop().unwrap();
    let later = bed.machine.now().after(800 * MS);
    bed.reenqueue_batch(batch, later);
    bed.append_to(1, b"w");
    assert_eq!(bed.drain_partitions(1, usize::MAX), [1], "the other one goes");
    bed.set_leaders(&[Leader { node_id: 2, epoch: 100 }, Leader { node_id: 1, epoch: 100 }]);
    bed.advance_ms(799);
    assert!(bed.ready_nodes().is_empty(), "another leader of the same epoch is no news");
    bed.advance_ms(1);
    assert_eq!(bed.ready_nodes(), [2]);
    assert_eq!(bed.drain_partitions(2, usize::MAX), [0]);
}

#[test]
fn ra10_pb7_a_newer_leader_epoch_lifts_the_backoff_once() {
    let mut bed = AccumulatorFixture::new(settings(), &[1]);
    bed.append_to(0, b"v");
    let mut batch = bed.drain(1, usize::MAX).pop().unwrap();
    for (epoch, lifted) in
        [(100, false), (101, true), (101, false), (99, false), (-1, false), (103, true)]
    {
        // It was sent to the leader known before; what is known now is this.
        let before = bed.cluster.leader("t", 0).epoch;
        batch.closed.timings.leader_epoch = before.max(batch.closed.timings.leader_epoch);
        bed.reenqueue_batch(batch, bed.machine.now().after(100 * MS));
        bed.set_leaders(&[Leader { node_id: 1, epoch }]);
        assert_eq!(!bed.ready_nodes().is_empty(), lifted, "{before} → {epoch}");
        bed.advance_ms(100);
        batch = bed.drain(1, usize::MAX).pop().expect("its time has come");
    }
    acknowledge(batch, 0);
}

#[test]
fn ra18_what_is_muted_is_neither_ready_nor_drained() {
    let mut bed = AccumulatorFixture::new(settings(), &[1]);
    bed.append_to(0, b"v");
    let key = bed.key(0);
    bed.policy.muted.insert(key);
    assert!(bed.ready_nodes().is_empty());
    assert!(bed.drain(1, usize::MAX).is_empty());
    bed.policy.muted.clear();
    bed.ready.mark_dirty(key);
    assert_eq!(bed.ready_nodes(), [1]);
    assert_eq!(bed.drain_partitions(1, usize::MAX), [0]);
}

#[test]
fn ra29_exhausted_flushing_and_closing_make_everything_ready_and_no_leader_names_the_topic() {
    for urge in [
        SendPressure { exhausted: true, ..SendPressure::default() },
        SendPressure { closing: true, ..SendPressure::default() },
        SendPressure { flush_up_to: 2, ..SendPressure::default() },
    ] {
        let mut bed = AccumulatorFixture::new(
            AccumulatorSettings { linger: 3000 * MS, ..settings() },
            &[1, 2, -1],
        );
        (0..3).for_each(|p| drop(bed.append_to(p, b"v")));
        assert!(bed.ready_nodes().is_empty());
        assert_eq!(bed.ready.unknown_leader_topics().into_iter().collect::<Vec<_>>(), ["t".into()]);
        bed.pressure = urge;
        assert_eq!(bed.ready_nodes(), [1, 2], "{urge:?}");
        bed.append_to(0, b"later");
        bed.pressure = SendPressure::default();
        assert!(bed.ready_nodes().is_empty(), "over, what lingers lingers");
    }
}

#[test]
fn ra11_a_flush_concerns_the_batches_there_were_and_no_later_ones() {
    let mut bed = AccumulatorFixture::new(
        AccumulatorSettings { linger: 3000 * MS, ..settings() },
        &[1, 1, 1],
    );
    let sent: Vec<_> = (0..100).map(|i| bed.append_to(i % 3, b"v")).collect();
    bed.pressure.flush_up_to = bed.accumulator.last_batch_number();
    assert_eq!(bed.ready_nodes(), [1]);
    let batches = bed.drain(1, usize::MAX);
    assert_eq!(batches.len(), 3);
    bed.append_to(0, b"new");
    assert!(bed.ready_nodes().is_empty(), "what came later lingers");
    assert!(sent.iter().all(|d| d.try_result().is_none()));
    batches.into_iter().for_each(|b| acknowledge(b, 7));
    assert!(sent.iter().all(|d| d.try_result().unwrap().is_ok()));
}

/// A delivery somebody waits for makes its batch due when nothing of its partition is in flight.
#[test]
fn an_awaited_batch_is_due_at_once_and_only_its_own_linger_is_shortened() {
    let mut bed =
        AccumulatorFixture::new(AccumulatorSettings { linger: 3000 * MS, ..settings() }, &[1, 1]);
    let (mut awaited, _other) = (bed.append_to(0, b"v"), bed.append_to(1, b"w"));
    let poll = |d: &mut Delivery| {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(d).poll(&mut cx).is_ready()
    };
    assert!(bed.ready_nodes().is_empty());
    assert!(!poll(&mut awaited));
    assert_eq!(bed.drain_partitions(1, usize::MAX), [0]);
    let key = bed.key(0);
    bed.policy.in_flight.insert(key);
    let mut next = bed.append_to(0, b"x");
    assert!(!poll(&mut next));
    assert!(bed.ready_nodes().is_empty(), "one is in flight: others may gather");
    bed.append_to(0, b"y");
    bed.policy.in_flight.clear();
    bed.ready.mark_dirty(key);
    let batch = bed.drain(1, usize::MAX).pop().unwrap();
    assert_eq!(batch.closed.meta.record_count, 2);
    // It shortens no backoff.
    bed.reenqueue_batch(batch, bed.machine.now().after(50 * MS));
    assert!(bed.ready_nodes().is_empty());
}

#[test]
fn sn7_a_node_that_takes_nothing_is_seen_by_its_times() {
    let mut bed = AccumulatorFixture::new(
        AccumulatorSettings { availability_timeout: 100 * MS, ..settings() },
        &[1, 2],
    );
    let now = bed.machine.now();
    assert_eq!(bed.ready.node_latency(1), None, "nothing waits: neither time moves");
    bed.ready.update_node_latency(1, now, true);
    bed.ready.update_node_latency(2, now, true);
    bed.advance_ms(60);
    let (first, later) = (now, bed.machine.now());
    bed.ready.update_node_latency(1, later, true);
    bed.ready.update_node_latency(2, later, false);
    assert_eq!(bed.ready.node_latency(1), Some((later, later)), "it took what was ready");
    assert_eq!(bed.ready.node_latency(2), Some((later, first)), "only the ready time moves");
    // RA26: a node that has taken nothing for longer than the time-out is not drawn.
    for p in [0, 1] {
        bed.append_to(p, b"v");
    }
    bed.refresh();
    let draws = |bed: &AccumulatorFixture| {
        (0..40).map(|n| bed.topic().load_stats.load().choose(n)).collect::<BTreeSet<_>>()
    };
    assert_eq!(draws(&bed).len(), 2);
    bed.advance_ms(60);
    bed.ready.update_node_latency(2, bed.machine.now(), false);
    bed.ready.update_node_latency(1, bed.machine.now(), true);
    for p in [0, 1] {
        bed.append_to(p, &[b'x'; 2000]);
    }
    bed.refresh();
    assert_eq!(draws(&bed), BTreeSet::from([0]));
}

/// What a partition costs that never had a record: itself behind its counts, and a few numbers in lists.
#[test]
fn an_idle_partition_takes_no_more_than_three_hundred_bytes() {
    let counted = std::alloc::Layout::new::<(usize, usize)>();
    let (inner, _) = counted.extend(std::alloc::Layout::new::<Partition>()).unwrap();
    let place = size_of::<Arc<Partition>>();
    let leader = size_of::<Leader>();
    let draw = size_of::<u32>();
    let all = inner.pad_to_align().size() + place + leader + draw;
    assert!(all <= 300, "{all} bytes");
}
