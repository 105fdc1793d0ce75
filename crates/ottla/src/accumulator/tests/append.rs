//! Tests of appends: when a batch is full, and which partition and buffer a record goes to.

use super::*;
use crate::accumulator::batch::StampedBatch;
use crate::accumulator::buffer_pool::BufferRequest;
use crate::error::{Error, ErrorKind};
use crate::time::Tick;
use crate::wakeup::lifecycle::Lifecycle;

// CASES: RA1.
#[test]
fn full_batch_is_ready_before_its_linger_ends() {
    let linger = 3000 * MS;
    let mut fixture = AccumulatorFixture::new(
        AccumulatorSettings { batch_size: 1025 + 61, linger, ..settings() },
        &[1],
    );
    let record = Record::to("t").partition(0).key(b"key").value(b"value").timestamp(0);
    for _ in 0..68 {
        fixture.append(record);
        assert!(fixture.ready_nodes().is_empty());
    }
    fixture.append(record);
    assert_eq!(fixture.ready_nodes(), [1], "before its linger ends");
    let batches = fixture.drain(1, usize::MAX);
    assert_eq!(batches.iter().map(|b| b.closed.meta.record_count).collect::<Vec<_>>(), [68]);
}

// CASES: RA2, RA24.
#[test]
fn oversized_record_gets_a_batch_of_its_own() {
    for compression in [Compression::None, Compression::gzip()] {
        let settings = AccumulatorSettings { batch_size: 512 + 61, compression, ..settings() };
        let mut fixture = AccumulatorFixture::new(settings, &[1]);
        let value: Vec<u8> = (0..1024u32).map(|i| (i * i % 251) as u8).collect();
        fixture.append_to(0, b"small");
        fixture.append_to(0, &value);
        fixture.append_to(0, b"after");
        assert_eq!(fixture.ready_nodes(), [1]);
        let mut counts = Vec::new();
        for _ in 0..4 {
            counts.extend(fixture.drain(1, usize::MAX).iter().map(|b| b.closed.meta.record_count));
        }
        assert_eq!(counts, [1, 1, 1], "{compression}");
    }
}

// CASES: PB5.
#[test]
fn closed_batch_takes_no_more_records() {
    let mut fixture =
        AccumulatorFixture::new(AccumulatorSettings { linger: 3000 * MS, ..settings() }, &[1]);
    fixture.append_to(0, b"a");
    let p = fixture.topic().partitions.get(0).unwrap().clone();
    let open = p.queue.lock().close_open().unwrap();
    let second = fixture.append_to(0, b"b");
    assert_eq!(open.meta.record_count, 1);
    assert_eq!(p.queue.lock().open().unwrap().meta.record_count, 1, "a new batch was opened");
    fixture.accumulator.close_into_queue(open);
    fixture.pressure.flush_up_to = u64::MAX;
    let lens: Vec<_> = (0..2).map(|_| fixture.drain(1, usize::MAX).len()).collect();
    assert_eq!(lens, [1, 1]);
    drop(second);
}

// CASES: RA25.
#[test]
fn sticky_partition_switches_when_its_batch_is_full() {
    let fixture = AccumulatorFixture::new(
        AccumulatorSettings { linger: 3000 * MS, ..settings() },
        &[1, 1, 1],
    );
    let record = |n: usize| Record::to("t").value(&[b'x'; 1024][..n]).timestamp(0);
    let keyless = |n: usize| {
        let r = record(n);
        fixture.append(Record { key: None, ..r }).partition()
    };
    let first = keyless(10);
    assert_eq!(keyless(1024 - 61), first, "no switch while the batch is not full");
    let partitions: Vec<i32> = (0..30).map(|_| keyless(1024)).collect();
    assert!(partitions.iter().collect::<BTreeSet<_>>().len() == 3, "{partitions:?}");
}

#[test]
fn sticky_partition_switches_before_a_record_that_does_not_fit() {
    let mut fixture = AccumulatorFixture::new(
        AccumulatorSettings { linger: 3000 * MS, ..settings() },
        &[1, 1, 1],
    );
    // Three of them fill a batch of 1024 bytes, but not to the last byte.
    for _ in 0..30 {
        fixture.append(Record::to("t").value(&[b'x'; 300]).timestamp(0));
    }
    let mut counts = Vec::new();
    while !fixture.ready_nodes().is_empty() {
        counts.extend(fixture.drain(1, usize::MAX).iter().map(|b| b.closed.meta.record_count));
    }
    // The last batch is full as well, but only the next record would find it full.
    assert_eq!(counts, [3; 9]);
}

// CASES: RA27.
#[test]
fn sticky_partition_leaves_no_fractional_batches() {
    let mut fixture =
        AccumulatorFixture::new(AccumulatorSettings { linger: 10 * MS, ..settings() }, &[1, 1, 1]);
    let value = [b'x'; 50];
    for _ in 0..10 {
        // Two thirds of a batch in each linger interval.
        let mut bytes = 0;
        while bytes < 1024 * 2 / 3 {
            fixture.append(Record::to("t").value(&value).timestamp(0));
            bytes += 58;
        }
        fixture.advance_ms(10);
        assert_eq!(fixture.ready_nodes(), [1]);
        let mut sizes = Vec::new();
        while !fixture.ready_nodes().is_empty() {
            sizes.extend(fixture.drain(1, usize::MAX).iter().map(|b| b.closed.wire_len()));
        }
        assert!(sizes.iter().all(|s| (512..=1024).contains(s)), "{sizes:?}");
    }
}

// CASES: RA22.
/// Splits stay rare for any mix of records that compress well and badly.
#[test]
fn fewer_than_a_tenth_of_batches_exceed_batch_size() {
    let mut rng = ottla_protocol::wire::TestRng::new(3);
    for compressible_percent in [1, 10, 30, 50, 70, 90, 99] {
        let batch_size = 1024;
        let settings =
            AccumulatorSettings { batch_size, compression: Compression::gzip(), ..settings() };
        let mut fixture =
            AccumulatorFixture::new(AccumulatorSettings { linger: 3000 * MS, ..settings }, &[1]);
        let (mut batches, mut oversized) = (0, 0);
        for _ in 0..3000 {
            let value: Vec<u8> = if rng.next_below(100) < compressible_percent {
                vec![b'a'; 100]
            } else {
                (0..100).map(|_| rng.next_u64() as u8).collect()
            };
            fixture.append_to(0, &value);
            for batch in fixture.drain(1, usize::MAX) {
                batches += 1;
                if batch.closed.wire_len() > batch_size {
                    oversized += 1;
                    let estimator = &batch.closed.meta.partition.estimator;
                    estimator.reset_ratio(batch.closed.uncompressed_len, batch.closed.wire_len());
                }
                acknowledge(batch, 0);
            }
        }
        assert!(batches > 20, "{compressible_percent} %: {batches}");
        assert!(oversized * 10 < batches, "{compressible_percent} %: {oversized} of {batches}");
    }
}

/// A batch that is compressed continues in further buffers. All are freed when it is closed.
#[test]
fn compressed_batch_fills_a_chain_of_buffers() {
    let settings = AccumulatorSettings {
        compression: Compression::lz4(),
        buffer_memory: 128 * 1024,
        ..settings()
    };
    let mut fixture =
        AccumulatorFixture::new(AccumulatorSettings { linger: 3000 * MS, ..settings }, &[1]);
    let value = [b'a'; 100];
    let mut counts = Vec::new();
    for _ in 0..20_000 {
        fixture.append_to(0, &value);
        for b in fixture.drain(1, usize::MAX) {
            assert!(b.closed.wire_len() <= 1024, "{}", b.closed.wire_len());
            counts.push(b.closed.meta.record_count);
            acknowledge(b, 0);
        }
    }
    assert!(counts[0] < 10, "the ratio is not known at first");
    assert!(*counts.last().unwrap() > 60, "the ratio has fallen: {counts:?}");
    fixture.pressure.flush_up_to = u64::MAX;
    for _ in 0..4 {
        fixture.drain(1, usize::MAX).into_iter().for_each(|b| acknowledge(b, 0));
    }
    assert_eq!(fixture.accumulator.pool.balance(), 128 * 1024, "all memory is freed");
}

#[test]
fn batches_of_a_failed_or_closed_producer_are_not_compressed() {
    let failed = Lifecycle::Failed(Error::new(ErrorKind::Closed, "failed"));
    for end in [failed, Lifecycle::Closed] {
        let settings = AccumulatorSettings { compression: Compression::lz4(), ..settings() };
        let fixture = AccumulatorFixture::new(settings, &[1]);
        let encoder = fixture.accumulator.take_encoder();
        assert!(encoder.is_some());
        fixture.accumulator.return_encoder(encoder);
        fixture.accumulator.transition(&Lifecycle::Closing { deadline: Tick::NEVER });
        assert!(fixture.accumulator.take_encoder().is_some());
        fixture.accumulator.transition(&end);
        assert!(fixture.accumulator.take_encoder().is_none());
    }
}

/// A batch must not wait for memory that it holds itself.
#[test]
fn batch_is_full_when_no_buffer_is_free_for_its_chain() {
    let settings = AccumulatorSettings {
        compression: Compression::lz4(),
        buffer_memory: 3 * 1024,
        ..settings()
    };
    let mut fixture =
        AccumulatorFixture::new(AccumulatorSettings { linger: 3000 * MS, ..settings }, &[1]);
    let estimator = fixture.topic().estimator.clone();
    (0..400).for_each(|_| estimator.update_ratio(1000, 100));
    (0..27).for_each(|_| drop(fixture.append_to(0, &[b'a'; 100])));
    // The batch has all three buffers of the pool.
    let p = fixture.topic().partitions.get(0).unwrap().clone();
    assert_eq!(p.queue.lock().open().unwrap().meta.record_count, 27);
    let record = Record::to("t").partition(0).value(&[b'a'; 100]).timestamp(0);
    let prepared = PreparedRecord::new(&record, || 0).unwrap();
    let mut options = DeliveryOptions::default();
    let mut state = AppendState::default();
    let topic = fixture.topic();
    let mut append = |state: &mut AppendState| {
        fixture.accumulator.append(&topic, &prepared, &mut options, state).unwrap()
    };
    let request = BufferRequest::from(1024);
    assert!(matches!(append(&mut state), AppendResult::NeedsChainBuffer(r) if r == request));
    state.no_chain_buffer = true;
    assert!(matches!(append(&mut state), AppendResult::NeedsNewBatch(r) if r == request));
    fixture.pressure.exhausted = true;
    assert_eq!(
        fixture.ready_nodes(),
        [1],
        "the sender drains the full batch, which frees its buffers"
    );
}

/// Drains the only batch, whether it is full or not.
fn drain_one(fixture: &mut AccumulatorFixture) -> StampedBatch {
    fixture.pressure.flush_up_to = u64::MAX;
    let mut drained = fixture.drain(1, usize::MAX);
    drained.extend(fixture.drain(1, usize::MAX));
    assert_eq!(drained.len(), 1);
    drained.remove(0)
}

#[test]
fn large_value_is_sent_from_the_callers_memory_and_charged() {
    let (batch_size, buffer_memory) = (16_384, 1 << 20);
    let settings = AccumulatorSettings { batch_size, buffer_memory, ..settings() };
    let mut fixture = AccumulatorFixture::new(settings, &[1]);
    for (len, charge) in [(4096, 16_384), (10_000, 16_384), (100_000, 100_087)] {
        let value = bytes::Bytes::from(vec![b'v'; len]);
        let record = Record::to("t").partition(0).shared_value(&value).timestamp(0);
        drop(fixture.append(record));
        let used = buffer_memory - fixture.accumulator.pool.available_memory();
        assert_eq!(used, charge, "{len} bytes");
        let batch = drain_one(&mut fixture);
        let pieces: Vec<_> = batch.closed.records().pieces().collect();
        assert_eq!(pieces.len(), 3, "{len} bytes");
        assert_eq!(pieces[1].as_ptr(), value.as_ptr(), "not copied");
        assert!(pieces[0].len() + pieces[2].len() < 30, "{len} bytes");
        drop(pieces);
        acknowledge(batch, 0);
        assert_eq!(fixture.accumulator.pool.available_memory(), buffer_memory);
    }
    // A smaller value is copied, with others into one buffer.
    let value = bytes::Bytes::from(vec![b'v'; 4095]);
    for _ in 0..3 {
        drop(fixture.append(Record::to("t").partition(0).shared_value(&value).timestamp(0)));
    }
    let batch = drain_one(&mut fixture);
    assert_eq!(batch.closed.records().pieces().count(), 1);
    acknowledge(batch, 0);
}
