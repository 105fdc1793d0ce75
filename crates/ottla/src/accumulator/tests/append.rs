//! What fills a batch, and where the next record goes.

use super::*;

#[test]
fn ra1_sixty_eight_records_fill_a_batch_and_the_next_makes_it_ready() {
    let linger = 3000 * MS;
    let mut bed = AccumulatorFixture::new(
        AccumulatorSettings { batch_size: 1025 + 61, linger, ..settings() },
        &[1],
    );
    let record = Record::to("t").partition(0).key(b"key").value(b"value").timestamp(0);
    for _ in 0..68 {
        bed.append(record);
        assert!(bed.ready_nodes().is_empty());
    }
    bed.append(record);
    assert_eq!(bed.ready_nodes(), [1], "without waiting for its linger");
    let batches = bed.drain(1, usize::MAX);
    assert_eq!(batches.iter().map(|b| b.closed.meta.record_count).collect::<Vec<_>>(), [68]);
}

#[test]
fn ra2_ra24_a_large_record_has_a_batch_of_its_own() {
    for codec in [Codec::None, Codec::Gzip] {
        let all = AccumulatorSettings {
            batch_size: 512 + 61,
            codec,
            compression_level: -1,
            ..settings()
        };
        let mut bed = AccumulatorFixture::new(all, &[1]);
        let value: Vec<u8> = (0..1024u32).map(|i| (i * i % 251) as u8).collect();
        bed.append_to(0, b"small");
        bed.append_to(0, &value);
        bed.append_to(0, b"after");
        assert_eq!(bed.ready_nodes(), [1]);
        let mut counts = Vec::new();
        for _ in 0..4 {
            counts.extend(bed.drain(1, usize::MAX).iter().map(|b| b.closed.meta.record_count));
        }
        assert_eq!(counts, [1, 1, 1], "{codec}");
    }
}

#[test]
fn pb5_a_batch_that_was_closed_takes_no_more() {
    let mut bed =
        AccumulatorFixture::new(AccumulatorSettings { linger: 3000 * MS, ..settings() }, &[1]);
    bed.append_to(0, b"a");
    let p = bed.topic().partitions.get(0).unwrap().clone();
    let open = p.queue.lock().close_open().unwrap();
    let second = bed.append_to(0, b"b");
    assert_eq!(open.meta.record_count, 1);
    assert_eq!(p.queue.lock().open().unwrap().meta.record_count, 1, "a new one was opened");
    bed.accumulator.close_into_queue(open);
    bed.pressure.flush_up_to = u64::MAX;
    let lens: Vec<_> = (0..2).map(|_| bed.drain(1, usize::MAX).len()).collect();
    assert_eq!(lens, [1, 1]);
    drop(second);
}

#[test]
fn ra25_the_sticky_choice_stays_until_its_batch_is_full_and_draws_once_a_switch() {
    let bed = AccumulatorFixture::new(
        AccumulatorSettings { linger: 3000 * MS, ..settings() },
        &[1, 1, 1],
    );
    let record = |n: usize| Record::to("t").value(&[b'x'; 1024][..n]).timestamp(0);
    let keyless = |n: usize| {
        let r = record(n);
        bed.append(Record { key: None, ..r }).partition()
    };
    let first = keyless(10);
    assert_eq!(keyless(1024 - 61), first, "held back while the batch is not full");
    let moves: Vec<i32> = (0..30).map(|_| keyless(1024)).collect();
    assert!(moves.iter().collect::<BTreeSet<_>>().len() == 3, "it goes round: {moves:?}");
}

#[test]
fn ra27_batches_are_never_fractions_left_behind() {
    let mut bed =
        AccumulatorFixture::new(AccumulatorSettings { linger: 10 * MS, ..settings() }, &[1, 1, 1]);
    let value = [b'x'; 50];
    for _ in 0..10 {
        // Two thirds of a batch in each interval.
        let mut bytes = 0;
        while bytes < 1024 * 2 / 3 {
            bed.append(Record::to("t").value(&value).timestamp(0));
            bytes += 58;
        }
        bed.advance_ms(10);
        assert_eq!(bed.ready_nodes(), [1]);
        let mut sizes = Vec::new();
        while !bed.ready_nodes().is_empty() {
            sizes.extend(bed.drain(1, usize::MAX).iter().map(|b| b.closed.wire_len()));
        }
        assert!(sizes.iter().all(|s| (512..=1024).contains(s)), "{sizes:?}");
    }
}

/// Splits stay rare whatever the mix of records that compress well and badly.
#[test]
fn ra22_fewer_than_a_tenth_of_batches_exceed_their_size_at_any_mix() {
    let mut g = ottla_protocol::wire::TestRng::new(3);
    for good in [1, 10, 30, 50, 70, 90, 99] {
        let batch_size = 1024;
        let all = AccumulatorSettings {
            batch_size,
            codec: Codec::Gzip,
            compression_level: -1,
            ..settings()
        };
        let mut bed =
            AccumulatorFixture::new(AccumulatorSettings { linger: 3000 * MS, ..all }, &[1]);
        let (mut batches, mut over) = (0, 0);
        for _ in 0..3000 {
            let value: Vec<u8> = if g.next_below(100) < good {
                vec![b'a'; 100]
            } else {
                (0..100).map(|_| g.next_u64() as u8).collect()
            };
            bed.append_to(0, &value);
            for batch in bed.drain(1, usize::MAX) {
                (batches, over) =
                    (batches + 1, over + i32::from(batch.closed.wire_len() > batch_size));
                if batch.closed.wire_len() > batch_size {
                    let sizing = &batch.closed.meta.partition.estimator;
                    sizing.reset_ratio(batch.closed.uncompressed_len, batch.closed.wire_len());
                }
                acknowledge(batch, 0);
            }
        }
        assert!(batches > 20, "{good} %: {batches}");
        assert!(over * 10 < batches, "{good} %: {over} of {batches}");
    }
}

/// A batch that compresses goes on in further buffers; each is given back when it is closed.
#[test]
fn a_compressed_batch_is_a_chain_of_buffers_bounded_by_what_it_compresses_to() {
    let all = AccumulatorSettings {
        codec: Codec::Lz4,
        compression_level: 9,
        buffer_memory: 128 * 1024,
        ..settings()
    };
    let mut bed = AccumulatorFixture::new(AccumulatorSettings { linger: 3000 * MS, ..all }, &[1]);
    let value = [b'a'; 100];
    let mut counts = Vec::new();
    for _ in 0..20_000 {
        bed.append_to(0, &value);
        for b in bed.drain(1, usize::MAX) {
            assert!(b.closed.wire_len() <= 1024, "{}", b.closed.wire_len());
            counts.push(b.closed.meta.record_count);
            acknowledge(b, 0);
        }
    }
    assert!(counts[0] < 10, "at first nothing is known of how it compresses");
    assert!(*counts.last().unwrap() > 60, "in the end it takes many: {counts:?}");
    bed.pressure.flush_up_to = u64::MAX;
    for _ in 0..4 {
        bed.drain(1, usize::MAX).into_iter().for_each(|b| acknowledge(b, 0));
    }
    assert_eq!(bed.accumulator.pool.balance(), 128 * 1024, "all of it is back");
}

/// With no buffer free to go on in, the batch counts as full: nothing waits for its own memory.
#[test]
fn a_chain_without_another_buffer_is_full() {
    let all = AccumulatorSettings {
        codec: Codec::Lz4,
        compression_level: 9,
        buffer_memory: 3 * 1024,
        ..settings()
    };
    let mut bed = AccumulatorFixture::new(AccumulatorSettings { linger: 3000 * MS, ..all }, &[1]);
    let sizing = bed.topic().estimator.clone();
    (0..400).for_each(|_| sizing.update_ratio(1000, 100));
    (0..27).for_each(|_| drop(bed.append_to(0, &[b'a'; 100])));
    // Three buffers are in use; the next record opens a new batch in what closing gives back.
    let p = bed.topic().partitions.get(0).unwrap().clone();
    assert_eq!(p.queue.lock().open().unwrap().meta.record_count, 27);
    let record = Record::to("t").partition(0).value(&[b'a'; 100]).timestamp(0);
    let prepared = PreparedRecord::new(&record, || 0).unwrap();
    let (mut watch, mut attempt) = (DeliveryOptions::default(), AppendState::default());
    let topic = bed.topic();
    let mut go = |attempt: &mut AppendState| {
        bed.accumulator.append(&topic, &prepared, &mut watch, attempt).unwrap()
    };
    assert!(matches!(go(&mut attempt), AppendResult::NeedsChainBuffer(1024)));
    attempt.no_chain_buffer = true;
    assert!(matches!(go(&mut attempt), AppendResult::NeedsBuffer(1024)));
    bed.pressure.exhausted = true;
    assert_eq!(bed.ready_nodes(), [1], "and the sender lets it go");
}
