//! Tests of drains, expiry, completion and splits.

use super::*;
use crate::accumulator::close::CloseJob;
use crate::accumulator::partition::SplittingBatch;
use crate::delivery::result::RecordError;

fn append_full_batch(fixture: &AccumulatorFixture, p: i32) {
    fixture.append_to(p, &[b'x'; 950]);
    fixture.append_to(p, &[b'x'; 950]);
}

// CASES: RA4.
#[test]
fn drain_stops_at_max_size_and_takes_a_larger_batch_alone() {
    let mut fixture = AccumulatorFixture::new(settings(), &[1, 1]);
    append_full_batch(&fixture, 0);
    append_full_batch(&fixture, 1);
    assert_eq!(fixture.drain(1, 1024).len(), 1);
    assert_eq!(fixture.drain(1, 10).len(), 1, "larger than the limit, and alone");
}

// CASES: RA5.
#[test]
fn drains_rotate_over_the_partitions_of_a_node_and_skip_muted_ones() {
    let mut fixture = AccumulatorFixture::new(settings(), &[1, 1, 2, 2]);
    let drain_both = |fixture: &mut AccumulatorFixture| {
        for p in 0..4 {
            append_full_batch(fixture, p);
        }
        let mut all = fixture.drain_partitions(1, 1024);
        all.extend(fixture.drain_partitions(2, 1024));
        all
    };
    assert_eq!(drain_both(&mut fixture), [0, 2]);
    assert_eq!(drain_both(&mut fixture), [1, 3]);
    assert_eq!(drain_both(&mut fixture), [0, 2]);
    let key = fixture.key(3);
    fixture.mute(key);
    assert_eq!(drain_both(&mut fixture), [1, 2], "partition 3 is muted");
    fixture.unmute(key);
    let mut all = fixture.drain_partitions(1, usize::MAX);
    all.extend(fixture.drain_partitions(2, usize::MAX));
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3], "partition 3 is drained again");
}

/// A drain that includes lingering batches does not take batches that back off or are muted.
#[test]
fn drain_includes_lingering_batches_only_for_an_idle_node() {
    let mut fixture = AccumulatorFixture::new(
        AccumulatorSettings { linger: 3000 * MS, ..settings() },
        &[1, 1, 1, 1, 2],
    );
    fixture.append_to(0, b"retried");
    fixture.pressure.flush_up_to = 1;
    let batch = fixture.drain(1, usize::MAX).pop().unwrap();
    fixture.reenqueue_batch(batch, fixture.machine.now().after(500 * MS));
    for p in 1..5 {
        fixture.append_to(p, b"lingers");
    }
    let key = fixture.key(1);
    fixture.mute(key);
    fixture.include_lingering = true;
    assert!(fixture.ready_nodes().is_empty(), "a lingering batch makes no node ready");
    append_full_batch(&fixture, 3);
    assert_eq!(fixture.drain_partitions(1, usize::MAX), [2, 3]);
    fixture.unmute(key);
    fixture.include_lingering = false;
    append_full_batch(&fixture, 2);
    assert_eq!(fixture.drain_partitions(1, usize::MAX), [2, 3], "without lingering batches");
}

// CASES: RA28.
#[test]
fn drain_of_a_node_without_partitions_is_empty() {
    let mut fixture = AccumulatorFixture::new(settings(), &[1]);
    fixture.append_to(0, b"v");
    assert!(fixture.drain(2, usize::MAX).is_empty());
    assert_eq!(fixture.drain(1, usize::MAX).len(), 1);
}

#[test]
fn compression_of_a_batch_does_not_delay_other_partitions() {
    let settings = AccumulatorSettings { compression: Compression::lz4(), ..settings() };
    let mut fixture = AccumulatorFixture::new(settings, &[1, 1]);
    fixture.append_to(0, b"v");
    let mut out = fixture.drain_without_closing(1, usize::MAX);
    let closing = out.to_close.pop().unwrap();
    assert!(fixture.ready_nodes().is_empty() && out.batches.is_empty());
    fixture.append_to(1, b"w");
    let out = fixture.drain_without_closing(1, usize::MAX);
    for open in out.to_close.into_iter().chain([closing]) {
        let p = open.meta.partition.clone();
        fixture.accumulator.close_into_queue(open);
        fixture.accumulator.post_batch_ready(&p);
        assert_eq!(fixture.drain_partitions(1, usize::MAX), [p.index]);
    }
}

/// A flush waits for the batch by its number.
#[test]
fn sender_learns_of_a_batch_that_was_lost_while_it_was_closed() {
    let settings = AccumulatorSettings { compression: Compression::lz4(), ..settings() };
    let mut fixture = AccumulatorFixture::new(settings, &[1]);
    let delivery = fixture.append_to(0, b"v");
    let open = fixture.drain_without_closing(1, usize::MAX).to_close.pop().unwrap();
    let number = open.meta.number;
    let pending = fixture.accumulator.events().pending_posts.begin_job();
    let Ok(job) = CloseJob::try_new(Some(fixture.accumulator.clone()), open, pending) else {
        panic!("the accumulator exists")
    };
    // As a panic in `run` does.
    drop(job);
    assert!(delivery.try_result().unwrap().is_err());
    let mut events = Vec::new();
    fixture.accumulator.events().drain(&mut events);
    let partition = fixture.key(0);
    assert!(
        matches!(events[..], [Event::BatchLost { partition_id, batch_number }]
            if (partition_id, batch_number) == (partition, number)),
        "{events:?}"
    );
    assert!(fixture.topic().partitions.get(0).unwrap().queue.lock().is_empty());
}

#[test]
fn parts_of_a_split_batch_keep_its_backoff() {
    let mut fixture = AccumulatorFixture::new(settings(), &[1]);
    (0..2).for_each(|_| drop(fixture.append_to(0, b"v")));
    let mut batch = fixture.drain(1, usize::MAX).pop().unwrap().unstamp();
    // It was sent under an earlier producer epoch, and backs off.
    batch.not_before = fixture.machine.now().after(50 * MS);
    let not_before = batch.not_before;
    let parts = fixture.accumulator.split_closed(batch, usize::MAX).parts;
    assert_eq!(parts.len(), 2);
    for part in parts {
        let QueuedBatch::Closed(part) = part else { panic!("{part:?}") };
        assert_eq!(part.not_before, not_before);
    }
}

// CASES: RA16, RA17.
#[test]
fn batches_expire_in_order_also_when_muted() {
    for linger in [0, 300] {
        let linger = Duration::from_millis(linger);
        let mut fixture =
            AccumulatorFixture::new(AccumulatorSettings { linger, ..settings() }, &[1]);
        let key = fixture.key(0);
        fixture.mute(key);
        let first = fixture.append_to(0, &[b'a'; 900]);
        fixture.advance_ms(10);
        let second = fixture.append_to(0, &[b'b'; 900]);
        fixture.advance_ms(300);
        assert!(fixture.expire().is_empty());
        fixture.advance_ms(2889);
        assert!(fixture.expire().is_empty(), "one millisecond early");
        fixture.advance_ms(1);
        assert_eq!(fixture.expire(), [0], "after exactly 3200 ms");
        assert!(first.try_result().is_some() && second.try_result().is_none());
        fixture.advance_ms(10);
        assert_eq!(fixture.expire(), [0]);
        assert!(second.try_result().is_some());
        assert_eq!(fixture.accumulator.pool.balance(), 10 << 20);
    }
}

// CASES: RA16.
#[test]
fn largest_delivery_timeout_does_not_overflow() {
    let settings = AccumulatorSettings {
        delivery_timeout: Duration::from_millis(i32::MAX as u64),
        ..settings()
    };
    let mut fixture = AccumulatorFixture::new(settings, &[1]);
    fixture.append_to(0, b"v");
    fixture.advance_ms(1_000_000);
    assert!(fixture.expire().is_empty());
}

// CASES: RA17, PB4.
#[test]
fn retried_batch_keeps_its_age() {
    let mut fixture = AccumulatorFixture::new(settings(), &[1]);
    fixture.append_to(0, b"v");
    fixture.advance_ms(1000);
    let batch = fixture.drain(1, usize::MAX).pop().unwrap();
    fixture.reenqueue_batch(batch, fixture.machine.now().after(160 * MS));
    fixture.advance_ms(160);
    assert!(fixture.expire().is_empty(), "1160 of 3200 ms");
    fixture.advance_ms(2040);
    assert_eq!(fixture.expire(), [0], "the age counts from the first record");
}

// CASES: PB1, PB2.
#[test]
fn batch_completes_once() {
    let mut fixture = AccumulatorFixture::new(settings(), &[1]);
    let delivery = fixture.append_to(0, b"v");
    let mut batch = fixture.drain(1, usize::MAX).pop().unwrap();
    batch
        .closed
        .complete(Outcome::Acknowledged { base_offset: Some(500), log_append_time: Some(10) });
    batch.closed.complete(Outcome::Failed(Error::closed()));
    batch
        .closed
        .complete(Outcome::Acknowledged { base_offset: Some(1000), log_append_time: Some(20) });
    let metadata = delivery.try_result().unwrap().unwrap();
    assert_eq!(metadata.offset(), Some(500), "the first completion counts");
    assert_eq!(metadata.timestamp(), 10);
}

// CASES: PB6.
#[test]
fn records_fail_with_their_own_errors() {
    let mut fixture =
        AccumulatorFixture::new(AccumulatorSettings { linger: 10 * MS, ..settings() }, &[1]);
    let sent: Vec<_> = (0..5).map(|_| fixture.append_to(0, b"v")).collect();
    fixture.advance_ms(10);
    let mut batch = fixture.drain(1, usize::MAX).pop().unwrap();
    let error =
        |message: &str| Error::with_code(ottla_protocol::ErrorCode::INVALID_RECORD, message);
    let record_errors = vec![
        RecordError { index: 0, error: error("zero") },
        RecordError { index: 3, error: error("three") },
    ];
    batch.closed.complete(Outcome::PerRecord { batch_error: error("others"), record_errors });
    let messages: Vec<_> =
        sent.iter().map(|d| d.try_result().unwrap().unwrap_err().to_string()).collect();
    assert_eq!(messages, ["zero", "others", "others", "three", "others"]);
}

// CASES: PB8.
#[test]
fn delivery_completes_after_a_wait_timed_out() {
    let mut fixture =
        AccumulatorFixture::new(AccumulatorSettings { linger: 10 * MS, ..settings() }, &[1]);
    let sent: Vec<_> = (0..6).map(|_| fixture.append_to(0, b"v")).collect();
    fixture.advance_ms(10);
    let batch = fixture.drain(1, usize::MAX).pop().unwrap();
    let last = sent.into_iter().next_back().unwrap();
    let last = last.wait_timeout(Duration::ZERO).expect_err("the record is still in flight");
    acknowledge(batch, 45);
    assert_eq!(last.wait().unwrap().offset(), Some(50));
}

// CASES: RA20, RA21, PB3.
#[test]
fn parts_of_a_split_batch_are_drained_first_and_complete_separately() {
    for compression in [Compression::None, Compression::gzip()] {
        let settings =
            AccumulatorSettings { compression, batch_size: 4096, linger: 10 * MS, ..settings() };
        let mut fixture = AccumulatorFixture::new(settings, &[1]);
        let value: Vec<u8> = (0..1024u32).map(|i| (i * i % 251) as u8).collect();
        let sent: Vec<_> = (0..2).map(|_| fixture.append_to(0, &value)).collect();
        fixture.advance_ms(10);
        let mut batches = fixture.drain(1, usize::MAX);
        batches.extend(fixture.drain(1, usize::MAX));
        fixture.append_to(0, b"later");
        fixture.advance_ms(10);
        let batch = batches.pop().unwrap();
        let now = fixture.machine.now();
        let p = batch.closed.meta.partition.clone();
        p.lock_for_sender()
            .insert_in_order(QueuedBatch::Splitting(SplittingBatch::new(&batch.closed)));
        let outcome = fixture.accumulator.split_stamped(batch, usize::MAX, now);
        assert_eq!(outcome.parts.len(), 2);
        p.lock_for_sender().replace_with_parts(outcome.number, outcome.parts);
        fixture.ready.insert(p);
        for (delivery, base_offset) in sent.iter().zip([100, 200]) {
            let part = fixture.drain(1, usize::MAX).pop().unwrap();
            assert_eq!(part.closed.meta.record_count, 1);
            assert_eq!(part.closed.is_compressed(), !compression.is_none());
            acknowledge(part, base_offset);
            let metadata = delivery.try_result().unwrap().unwrap();
            assert_eq!(metadata.offset(), Some(base_offset), "relative to its own part");
        }
        let mut rest = fixture.drain(1, usize::MAX);
        rest.extend(fixture.drain(1, usize::MAX));
        rest.into_iter().for_each(|b| acknowledge(b, 300));
        assert_eq!(fixture.accumulator.pool.balance(), 10 << 20, "all memory is freed");
    }
}
