//! Tests of the ready tracker: when a partition is ready, and its next deadline.

use std::collections::BTreeSet;

use super::*;
use crate::accumulator::partition::Partition;
use crate::sender::load_stats::NodeLatency;

// CASES: RA3, RA27.
#[test]
fn batch_is_ready_when_its_linger_ends() {
    let mut fixture =
        AccumulatorFixture::new(AccumulatorSettings { linger: 10 * MS, ..settings() }, &[1]);
    fixture.append_to(0, b"v");
    assert!(fixture.ready_nodes().is_empty());
    assert_eq!(fixture.next_deadline_ms(), 10);
    fixture.advance_ms(9);
    assert!(fixture.ready_nodes().is_empty());
    fixture.advance_ms(1);
    assert_eq!(fixture.ready_nodes(), [1]);
    assert_eq!(fixture.drain(1, usize::MAX).len(), 1);
}

// CASES: RA6.
#[test]
fn next_deadline_is_the_earliest_linger_end() {
    let mut fixture =
        AccumulatorFixture::new(AccumulatorSettings { linger: 10 * MS, ..settings() }, &[1, 1, 2]);
    fixture.append_to(0, b"v");
    assert!(fixture.ready_nodes().is_empty());
    assert_eq!(fixture.next_deadline_ms(), 10);
    fixture.advance_ms(5);
    fixture.append_to(2, b"v");
    assert!(fixture.ready_nodes().is_empty());
    assert_eq!(fixture.next_deadline_ms(), 5);
    fixture.append_to(1, &[b'x'; 900]);
    fixture.append_to(1, &[b'x'; 900]);
    assert_eq!(fixture.ready_nodes(), [1], "a batch of another partition of the node is full");
    assert!(fixture.next_deadline_ms() <= 10);
}

#[test]
fn round_reevaluates_only_partitions_that_have_changed() {
    let leaders = [1; 50];
    let settings = AccumulatorSettings { linger: 10_000 * MS, ..settings() };
    let mut fixture = AccumulatorFixture::new(settings, &leaders);
    (0..50).for_each(|partition| drop(fixture.append_to(partition, b"v")));
    let count = |fixture: &mut AccumulatorFixture| {
        let before = fixture.ready.reevaluations;
        fixture.refresh();
        fixture.ready.reevaluations - before
    };
    assert_eq!(count(&mut fixture), 50);
    assert_eq!(count(&mut fixture), 0, "nothing has changed");
    fixture.append_to(7, &[b'x'; 900]);
    fixture.append_to(7, &[b'x'; 900]);
    assert_eq!(count(&mut fixture), 1);
    fixture.ready.mark_all_dirty();
    fixture.ready.mark_all_dirty();
    assert_eq!((count(&mut fixture), count(&mut fixture)), (50, 0), "once a change");
}

// CASES: RA7, RA9.
#[test]
fn batch_backs_off_although_the_leader_id_changes() {
    let mut fixture = AccumulatorFixture::new(settings(), &[1, 1]);
    fixture.append_to(0, b"v");
    let batch = fixture.drain(1, usize::MAX).pop().unwrap();
    let backoff_end = fixture.machine.now().after(800 * MS);
    fixture.reenqueue_batch(batch, backoff_end);
    fixture.append_to(1, b"w");
    assert_eq!(fixture.drain_partitions(1, usize::MAX), [1], "the other partition is drained");
    fixture.set_leaders(&[Leader { node_id: 2, epoch: 100 }, Leader { node_id: 1, epoch: 100 }]);
    fixture.advance_ms(799);
    assert!(fixture.ready_nodes().is_empty(), "the leader epoch is the same");
    fixture.advance_ms(1);
    assert_eq!(fixture.ready_nodes(), [2]);
    assert_eq!(fixture.drain_partitions(2, usize::MAX), [0]);
}

// CASES: RA10, PB7.
#[test]
fn newer_leader_epoch_ends_the_backoff_once() {
    let mut fixture = AccumulatorFixture::new(settings(), &[1]);
    fixture.append_to(0, b"v");
    let mut batch = fixture.drain(1, usize::MAX).pop().unwrap();
    for (epoch, ends_backoff) in
        [(100, false), (101, true), (101, false), (99, false), (-1, false), (103, true)]
    {
        // The batch was sent to the leader of the previous metadata.
        let old_epoch = fixture.cluster.leader("t", 0).epoch;
        batch.closed.timings.leader_epoch = old_epoch.max(batch.closed.timings.leader_epoch);
        fixture.reenqueue_batch(batch, fixture.machine.now().after(100 * MS));
        fixture.set_leaders(&[Leader { node_id: 1, epoch }]);
        assert_eq!(!fixture.ready_nodes().is_empty(), ends_backoff, "{old_epoch} → {epoch}");
        fixture.advance_ms(100);
        batch = fixture.drain(1, usize::MAX).pop().expect("its backoff has ended");
    }
    acknowledge(batch, 0);
}

// CASES: RA18.
#[test]
fn muted_partition_is_neither_ready_nor_drained() {
    let mut fixture = AccumulatorFixture::new(settings(), &[1]);
    fixture.append_to(0, b"v");
    let key = fixture.key(0);
    fixture.mute(key);
    assert!(fixture.ready_nodes().is_empty());
    assert!(fixture.drain(1, usize::MAX).is_empty());
    fixture.unmute(key);
    assert_eq!(fixture.ready_nodes(), [1]);
    assert_eq!(fixture.drain_partitions(1, usize::MAX), [0]);
}

// CASES: RA29.
#[test]
fn send_pressure_makes_lingering_batches_ready() {
    for pressure in [
        SendPressure { exhausted: true, ..SendPressure::default() },
        SendPressure { no_record_follows: true, ..SendPressure::default() },
        SendPressure { flush_up_to: 2, ..SendPressure::default() },
    ] {
        let mut fixture = AccumulatorFixture::new(
            AccumulatorSettings { linger: 3000 * MS, ..settings() },
            &[1, 2, -1],
        );
        (0..3).for_each(|p| drop(fixture.append_to(p, b"v")));
        assert!(fixture.ready_nodes().is_empty());
        assert_eq!(
            fixture.ready.unknown_leader_topics().into_iter().collect::<Vec<_>>(),
            ["t".into()]
        );
        fixture.pressure = pressure;
        assert_eq!(fixture.ready_nodes(), [1, 2], "{pressure:?}");
        fixture.append_to(0, b"later");
        fixture.pressure = SendPressure::default();
        assert!(fixture.ready_nodes().is_empty(), "without pressure the batch lingers");
    }
}

// CASES: RA11.
#[test]
fn flush_does_not_concern_later_batches() {
    let mut fixture = AccumulatorFixture::new(
        AccumulatorSettings { linger: 3000 * MS, ..settings() },
        &[1, 1, 1],
    );
    let sent: Vec<_> = (0..100).map(|i| fixture.append_to(i % 3, b"v")).collect();
    fixture.pressure.flush_up_to = fixture.accumulator.last_batch_number();
    assert_eq!(fixture.ready_nodes(), [1]);
    let batches = fixture.drain(1, usize::MAX);
    assert_eq!(batches.len(), 3);
    fixture.append_to(0, b"new");
    assert!(fixture.ready_nodes().is_empty(), "the later batch lingers");
    assert!(sent.iter().all(|d| d.try_result().is_none()));
    batches.into_iter().for_each(|b| acknowledge(b, 7));
    assert!(sent.iter().all(|d| d.try_result().unwrap().is_ok()));
}

#[test]
fn awaited_batch_does_not_linger_while_its_partition_is_idle() {
    let mut fixture =
        AccumulatorFixture::new(AccumulatorSettings { linger: 3000 * MS, ..settings() }, &[1, 1]);
    // Several batches of a partition may be in flight.
    fixture.producer_state = ProducerState::new(false, false);
    let (mut awaited, _other) = (fixture.append_to(0, b"v"), fixture.append_to(1, b"w"));
    let poll = |d: &mut Delivery| {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(d).poll(&mut cx).is_ready()
    };
    assert!(fixture.ready_nodes().is_empty());
    assert!(!poll(&mut awaited));
    assert_eq!(fixture.drain_partitions(1, usize::MAX), [0]);
    let key = fixture.key(0);
    fixture.producer_state.add_in_flight_batch(key, 1, false);
    let mut next = fixture.append_to(0, b"x");
    assert!(!poll(&mut next));
    assert!(fixture.ready_nodes().is_empty(), "a batch is in flight: the next one lingers");
    fixture.append_to(0, b"y");
    fixture.producer_state.remove_in_flight_batch(key);
    fixture.ready.mark_dirty(key);
    let batch = fixture.drain(1, usize::MAX).pop().unwrap();
    assert_eq!(batch.closed.meta.record_count, 2);
    // Waiting for it does not shorten its backoff.
    fixture.reenqueue_batch(batch, fixture.machine.now().after(50 * MS));
    assert!(fixture.ready_nodes().is_empty());
}

// CASES: SN7, RA26.
#[test]
fn slow_node_is_recognized_by_its_latency_and_not_chosen() {
    let mut fixture = AccumulatorFixture::new(
        AccumulatorSettings { availability_timeout: 100 * MS, ..settings() },
        &[1, 2],
    );
    let now = fixture.machine.now();
    assert_eq!(fixture.ready.load_stats.node_latency(1), None, "no batch waits: no time is set");
    fixture.ready.load_stats.update_node_latency(1, now, true);
    fixture.ready.load_stats.update_node_latency(2, now, true);
    fixture.advance_ms(60);
    let later = fixture.machine.now();
    fixture.ready.load_stats.update_node_latency(1, later, true);
    fixture.ready.load_stats.update_node_latency(2, later, false);
    assert_eq!(
        fixture.ready.load_stats.node_latency(1),
        Some(NodeLatency { ready_at: later, drained_at: later }),
        "the node took the ready batch"
    );
    assert_eq!(
        fixture.ready.load_stats.node_latency(2),
        Some(NodeLatency { ready_at: later, drained_at: now }),
        "only the ready time changes"
    );
    // A node that has taken no batch for longer than the timeout is not chosen.
    for p in [0, 1] {
        fixture.append_to(p, b"v");
    }
    fixture.refresh();
    let choices = |fixture: &AccumulatorFixture| {
        (0..40).map(|n| fixture.topic().load_stats.load().choose(n)).collect::<BTreeSet<_>>()
    };
    assert_eq!(choices(&fixture).len(), 2);
    fixture.advance_ms(60);
    fixture.ready.load_stats.update_node_latency(2, fixture.machine.now(), false);
    fixture.ready.load_stats.update_node_latency(1, fixture.machine.now(), true);
    for p in [0, 1] {
        fixture.append_to(p, &[b'x'; 2000]);
    }
    fixture.refresh();
    assert_eq!(choices(&fixture), BTreeSet::from([0]));
}

/// Memory of a partition that never had a record: the `Partition` in its `Arc`, and its entries in
/// the lists of partitions, leaders and candidates.
#[test]
fn idle_partition_takes_at_most_300_bytes() {
    let reference_counts = std::alloc::Layout::new::<(usize, usize)>();
    let (inner, _) = reference_counts.extend(std::alloc::Layout::new::<Partition>()).unwrap();
    let entries = size_of::<Arc<Partition>>() + size_of::<Leader>() + size_of::<u32>();
    let total = inner.pad_to_align().size() + entries;
    assert!(total <= 300, "{total} bytes");
}
