//! What a drain takes, what expires, how ends are told.

use super::*;

fn append_full_batch(bed: &AccumulatorFixture, p: i32) {
    bed.append_to(p, &[b'x'; 950]);
    bed.append_to(p, &[b'x'; 950]);
}

#[test]
fn ra4_a_drain_stops_at_its_size_and_takes_one_that_is_larger_alone() {
    let mut bed = AccumulatorFixture::new(settings(), &[1, 1]);
    append_full_batch(&bed, 0);
    append_full_batch(&bed, 1);
    assert_eq!(bed.drain(1, 1024).len(), 1);
    assert_eq!(bed.drain(1, 10).len(), 1, "larger than the limit, it goes alone");
}

#[test]
fn ra5_drains_go_round_a_nodes_partitions_and_pass_over_what_is_muted() {
    let mut bed = AccumulatorFixture::new(settings(), &[1, 1, 2, 2]);
    let round = |bed: &mut AccumulatorFixture| {
        for p in 0..4 {
            append_full_batch(bed, p);
        }
        let mut all = bed.drain_partitions(1, 1024);
        all.extend(bed.drain_partitions(2, 1024));
        all
    };
    assert_eq!(round(&mut bed), [0, 2]);
    assert_eq!(round(&mut bed), [1, 3]);
    assert_eq!(round(&mut bed), [0, 2]);
    let key = bed.key(3);
    bed.policy.muted.insert(key);
    bed.ready.mark_dirty(key);
    assert_eq!(round(&mut bed), [1, 2], "muted, it is passed over");
    bed.policy.muted.clear();
    bed.ready.mark_dirty(key);
    let mut all = bed.drain_partitions(1, usize::MAX);
    all.extend(bed.drain_partitions(2, usize::MAX));
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3], "and comes back");
}

/// What only lingers goes along with what is ready, backing off and muted do not.
#[test]
fn what_lingers_goes_along_to_an_idle_node() {
    let mut bed = AccumulatorFixture::new(
        AccumulatorSettings { linger: 3000 * MS, ..settings() },
        &[1, 1, 1, 1, 2],
    );
    bed.append_to(0, b"retried");
    bed.pressure.flush_up_to = 1;
    let batch = bed.drain(1, usize::MAX).pop().unwrap();
    bed.reenqueue_batch(batch, bed.machine.now().after(500 * MS));
    for p in 1..5 {
        bed.append_to(p, b"lingers");
    }
    let key = bed.key(1);
    bed.policy.muted.insert(key);
    bed.include_lingering = true;
    assert!(bed.ready_nodes().is_empty(), "it makes nothing ready");
    append_full_batch(&bed, 3);
    assert_eq!(bed.drain_partitions(1, usize::MAX), [2, 3]);
    bed.policy.muted.clear();
    bed.ready.mark_dirty(key);
    bed.include_lingering = false;
    append_full_batch(&bed, 2);
    assert_eq!(bed.drain_partitions(1, usize::MAX), [2, 3], "not to one that is busy");
}

#[test]
fn ra28_a_node_that_leads_nothing_is_drained_of_nothing() {
    let mut bed = AccumulatorFixture::new(settings(), &[1]);
    bed.append_to(0, b"v");
    assert!(bed.drain(2, usize::MAX).is_empty());
    assert_eq!(bed.drain(1, usize::MAX).len(), 1);
}

/// While one partition's batch is still being compressed, the others of its node go.
#[test]
fn what_is_being_compressed_holds_up_nobody_else() {
    let all = AccumulatorSettings { codec: Codec::Lz4, compression_level: 9, ..settings() };
    let mut bed = AccumulatorFixture::new(all, &[1, 1]);
    bed.append_to(0, b"v");
    let mut out = bed.drain_without_closing(1, usize::MAX);
    let closing = out.to_close.pop().unwrap();
    assert!(bed.ready_nodes().is_empty() && out.batches.is_empty());
    bed.append_to(1, b"w");
    let out = bed.drain_without_closing(1, usize::MAX);
    for open in out.to_close.into_iter().chain([closing]) {
        let p = open.meta.partition.clone();
        bed.accumulator.close_into_queue(open);
        bed.accumulator.post_batch_closed(&p);
        assert_eq!(bed.drain_partitions(1, usize::MAX), [p.index]);
    }
}

#[test]
fn ra16_ra17_batches_expire_at_their_time_in_order_muted_or_not() {
    for linger in [0, 300] {
        let linger = Duration::from_millis(linger);
        let mut bed = AccumulatorFixture::new(AccumulatorSettings { linger, ..settings() }, &[1]);
        let key = bed.key(0);
        bed.policy.muted.insert(key);
        let first = bed.append_to(0, &[b'a'; 900]);
        bed.advance_ms(10);
        let second = bed.append_to(0, &[b'b'; 900]);
        bed.advance_ms(300);
        assert!(bed.expire().is_empty());
        bed.advance_ms(2889);
        assert!(bed.expire().is_empty(), "a millisecond before");
        bed.advance_ms(1);
        assert_eq!(bed.expire(), [0], "3200 ms, that moment included");
        assert!(first.try_result().is_some() && second.try_result().is_none());
        bed.advance_ms(10);
        assert_eq!(bed.expire(), [0]);
        assert!(second.try_result().is_some());
        assert_eq!(bed.accumulator.pool.balance(), 10 << 20);
    }
}

#[test]
fn ra16_ra17_pb4_the_greatest_timeout_does_not_wrap_and_what_was_sent_before_keeps_its_age() {
    let never = AccumulatorSettings {
        delivery_timeout: Duration::from_millis(i32::MAX as u64),
        ..settings()
    };
    let mut bed = AccumulatorFixture::new(never, &[1]);
    bed.append_to(0, b"v");
    bed.advance_ms(1_000_000);
    assert!(bed.expire().is_empty());
    let mut bed = AccumulatorFixture::new(settings(), &[1]);
    bed.append_to(0, b"v");
    bed.advance_ms(1000);
    let batch = bed.drain(1, usize::MAX).pop().unwrap();
    bed.reenqueue_batch(batch, bed.machine.now().after(160 * MS));
    bed.advance_ms(160);
    assert!(bed.expire().is_empty(), "1160 of 3200 ms");
    bed.advance_ms(2040);
    assert_eq!(bed.expire(), [0], "its age counts from its first record");
}

#[test]
fn pb1_pb2_a_batch_ends_once() {
    let mut bed = AccumulatorFixture::new(settings(), &[1]);
    let d = bed.append_to(0, b"v");
    let mut batch = bed.drain(1, usize::MAX).pop().unwrap();
    batch
        .closed
        .complete(Outcome::Acknowledged { base_offset: Some(500), log_append_time: Some(10) });
    batch.closed.complete(Outcome::Failed(Error::closed()));
    batch
        .closed
        .complete(Outcome::Acknowledged { base_offset: Some(1000), log_append_time: Some(20) });
    let m = d.try_result().unwrap().unwrap();
    assert_eq!((m.offset(), m.timestamp()), (Some(500), 10), "the first word counts");
}

#[test]
fn pb6_some_records_have_a_reason_of_their_own() {
    let mut bed =
        AccumulatorFixture::new(AccumulatorSettings { linger: 10 * MS, ..settings() }, &[1]);
    let sent: Vec<_> = (0..5).map(|_| bed.append_to(0, b"v")).collect();
    bed.advance_ms(10);
    let mut batch = bed.drain(1, usize::MAX).pop().unwrap();
    let e = |what: &str| Error::new(crate::error::ErrorKind::Broker(87), what);
    let own = vec![(0, e("zero")), (3, e("three"))];
    batch.closed.complete(Outcome::PerRecord { batch_error: e("others"), record_errors: own });
    let said: Vec<_> =
        sent.iter().map(|d| d.try_result().unwrap().unwrap_err().to_string()).collect();
    assert_eq!(said, ["zero", "others", "others", "three", "others"]);
}

#[test]
fn pb8_a_wait_that_ends_first_leaves_the_record_on_its_way() {
    let mut bed =
        AccumulatorFixture::new(AccumulatorSettings { linger: 10 * MS, ..settings() }, &[1]);
    let sent: Vec<_> = (0..6).map(|_| bed.append_to(0, b"v")).collect();
    bed.advance_ms(10);
    let batch = bed.drain(1, usize::MAX).pop().unwrap();
    let last = sent.into_iter().next_back().unwrap();
    let last = last.wait_timeout(Duration::ZERO).expect_err("it has not ended");
    acknowledge(batch, 45);
    assert_eq!(last.wait().unwrap().offset(), Some(50));
}

#[test]
fn ra20_ra21_pb3_parts_of_a_split_batch_come_first_in_order_with_ends_of_their_own() {
    for codec in [Codec::None, Codec::Gzip] {
        let all = AccumulatorSettings {
            codec,
            compression_level: -1,
            batch_size: 4096,
            linger: 10 * MS,
            ..settings()
        };
        let mut bed = AccumulatorFixture::new(all, &[1]);
        let value: Vec<u8> = (0..1024u32).map(|i| (i * i % 251) as u8).collect();
        let sent: Vec<_> = (0..2).map(|_| bed.append_to(0, &value)).collect();
        bed.advance_ms(10);
        let mut batches = bed.drain(1, usize::MAX);
        batches.extend(bed.drain(1, usize::MAX));
        bed.append_to(0, b"later");
        bed.advance_ms(10);
        let batch = batches.pop().unwrap();
        let now = bed.machine.now();
        let p = batch.closed.meta.partition.clone();
        p.lock_for_sender().insert_in_order(QueuedBatch::Splitting(
            super::super::partition::SplittingBatch::new(&batch.closed),
        ));
        let cut = bed.accumulator.split_stamped(batch, now);
        assert_eq!(cut.parts.len(), 2);
        p.lock_for_sender().replace_with_parts(cut.number, cut.parts);
        bed.ready.insert(p);
        for (d, base) in sent.iter().zip([100, 200]) {
            let part = bed.drain(1, usize::MAX).pop().unwrap();
            assert_eq!(part.closed.meta.record_count, 1);
            assert_eq!(part.closed.is_compressed(), codec != Codec::None);
            acknowledge(part, base);
            assert_eq!(
                d.try_result().unwrap().unwrap().offset(),
                Some(base),
                "relative to its own"
            );
        }
        let mut rest = bed.drain(1, usize::MAX);
        rest.extend(bed.drain(1, usize::MAX));
        rest.into_iter().for_each(|b| acknowledge(b, 300));
        assert_eq!(bed.accumulator.pool.balance(), 10 << 20, "all of it is back");
    }
}
