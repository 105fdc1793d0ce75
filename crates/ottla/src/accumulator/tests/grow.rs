//! Tests of batches that begin with a small buffer, because many partitions share the memory.

use ottla_protocol::record::BatchView;

use super::*;
use crate::accumulator::batch::StampedBatch;

const BATCH_SIZE: usize = 16_384;
const MEMORY: u64 = 1 << 20;

/// Batches of 16,384 bytes. Their first buffer has 1,024, as with 512 active partitions.
fn fixture_with(settings: AccumulatorSettings) -> AccumulatorFixture {
    let settings = AccumulatorSettings {
        batch_size: BATCH_SIZE,
        max_batch_size: 4 * BATCH_SIZE,
        buffer_memory: MEMORY,
        linger: 3000 * MS,
        ..settings
    };
    let fixture = AccumulatorFixture::new(settings, &[1]);
    fixture.accumulator.first_buffer_size.share_among(512);
    fixture
}

fn charged(fixture: &AccumulatorFixture) -> usize {
    (MEMORY - fixture.accumulator.pool.available_memory()) as usize
}

fn drain_all(fixture: &mut AccumulatorFixture) -> Vec<StampedBatch> {
    fixture.pressure.flush_up_to = u64::MAX;
    let mut batches = Vec::new();
    while !fixture.ready_nodes().is_empty() {
        batches.extend(fixture.drain(1, usize::MAX));
    }
    batches
}

fn counts(batches: &[StampedBatch]) -> Vec<i32> {
    batches.iter().map(|b| b.closed.meta.record_count).collect()
}

fn values(batch: &StampedBatch) -> Vec<Vec<u8>> {
    let records = batch.closed.records().pieces().collect::<Vec<_>>().concat();
    let bytes = [&batch.header()[..], &records].concat();
    let view = BatchView::parse(&bytes).unwrap();
    let records = view.records(bytes.len()).unwrap();
    records.to_vec().unwrap().iter().map(|r| r.value.unwrap().to_vec()).collect()
}

fn acknowledge_all(fixture: &AccumulatorFixture, batches: Vec<StampedBatch>) {
    batches.into_iter().for_each(|b| acknowledge(b, 0));
    assert_eq!(charged(fixture), 0, "all memory is freed");
}

#[test]
fn batch_doubles_its_memory_up_to_batch_size() {
    let mut fixture = fixture_with(settings());
    let (mut sent, mut charges) = (Vec::new(), vec![0]);
    for i in 0..232u8 {
        let value = vec![i; 60 + usize::from(i % 4)];
        drop(fixture.append_to(0, &value));
        sent.push(value);
        if charges.last() != Some(&charged(&fixture)) {
            charges.push(charged(&fixture));
        }
    }
    assert_eq!(charges[..5], [0, 1024, 2048, 4096, 8192]);
    // The last buffer also replaces what the records left unused in the others.
    assert!((BATCH_SIZE - 100..BATCH_SIZE + 300).contains(&charges[5]), "{charges:?}");
    assert_eq!(charges.len(), 6, "{charges:?}");
    let batches = drain_all(&mut fixture);
    assert_eq!(counts(&batches), [232]);
    assert!(batches[0].closed.wire_len() > BATCH_SIZE - 200, "{}", batches[0].closed.wire_len());
    assert_eq!(values(&batches[0]), sent);
    assert_eq!(batches[0].closed.meta.extensions, 0);
    acknowledge_all(&fixture, batches);
}

#[test]
fn growing_batch_lingers_and_is_full_at_batch_size() {
    // Records of 107 bytes fill the first buffer exactly: it has 963 bytes for records.
    for len in [70, 98, 500] {
        let mut fixture = fixture_with(settings());
        let value = vec![b'v'; len];
        (0..BATCH_SIZE / (len + 10)).for_each(|_| drop(fixture.append_to(0, &value)));
        assert!(fixture.ready_nodes().is_empty(), "{len} bytes: it lingers");
        (0..BATCH_SIZE / len).for_each(|_| drop(fixture.append_to(0, &value)));
        assert_eq!(fixture.ready_nodes(), [1], "{len} bytes: a batch is full");
        let batches = drain_all(&mut fixture);
        let wire_len = batches[0].closed.wire_len();
        assert!(wire_len <= BATCH_SIZE && wire_len > BATCH_SIZE - len - 10, "{len}: {wire_len}");
        acknowledge_all(&fixture, batches);
    }
}

#[test]
fn record_larger_than_the_first_buffer_gets_a_buffer_of_its_size() {
    let mut fixture = fixture_with(settings());
    for len in [2000, 20_000] {
        fixture.accumulator.first_buffer_size.share_among(512);
        drop(fixture.append_to(0, &vec![b'v'; len]));
        let charged = charged(&fixture);
        assert!((len..len + 150).contains(&charged), "{charged} for {len}");
        let batches = drain_all(&mut fixture);
        assert_eq!(values(&batches[0]), [vec![b'v'; len]]);
        acknowledge_all(&fixture, batches);
    }
}

#[test]
fn shared_values_of_a_growing_batch_are_charged() {
    let mut fixture = fixture_with(settings());
    fixture.accumulator.first_buffer_size.share_among(64);
    let mut sent = Vec::new();
    for i in 0..3u8 {
        let value = bytes::Bytes::from(vec![i; 4500]);
        drop(fixture.append(Record::to("t").partition(0).shared_value(&value).timestamp(0)));
        sent.push(value);
        let bytes = sent.len() * 4500;
        assert!(charged(&fixture) >= bytes, "{} for {bytes}", charged(&fixture));
    }
    let batches = drain_all(&mut fixture);
    assert_eq!(batches.len(), 1);
    assert_eq!(values(&batches[0]), sent);
    acknowledge_all(&fixture, batches);
}

/// Appends a record of 100 bytes as far as that is possible without waiting.
fn try_append(fixture: &AccumulatorFixture, state: &mut AppendState) -> AppendResult {
    let record = Record::to("t").partition(0).value(&[b'v'; 100]).timestamp(0);
    let prepared = PreparedRecord::new(&record, || 0).unwrap();
    let mut options = DeliveryOptions::default();
    fixture.accumulator.append(&fixture.topic(), &prepared, &mut options, state).unwrap()
}

#[test]
fn growing_batch_counts_as_full_while_no_memory_is_free() {
    let mut fixture = fixture_with(settings());
    (0..8).for_each(|_| drop(fixture.append_to(0, &[b'v'; 100])));
    let free = fixture.accumulator.pool.available_memory() as usize;
    let held = fixture.accumulator.pool.try_allocate(free).unwrap();
    let mut state = AppendState::default();
    let result = try_append(&fixture, &mut state);
    assert!(matches!(result, AppendResult::NeedsChainBuffer(r) if r.charge == 1024), "{result:?}");
    state.no_chain_buffer = true;
    let result = try_append(&fixture, &mut state);
    assert!(matches!(result, AppendResult::NeedsNewBatch(r) if r.charge == 1024), "{result:?}");
    // The caller waits for memory meanwhile. If the batch is still open, it gets that buffer.
    drop(held);
    state.spare_buffer = fixture.accumulator.pool.try_allocate(1024).unwrap();
    assert!(matches!(try_append(&fixture, &mut state), AppendResult::Appended));
    let batches = drain_all(&mut fixture);
    assert_eq!(counts(&batches), [9]);
    acknowledge_all(&fixture, batches);
}

#[test]
fn growing_batch_is_extended_beyond_batch_size_for_a_busy_node() {
    let mut fixture = fixture_with(settings());
    fixture.accumulator.events().set_busy([(1, true)].into_iter());
    (0..295).for_each(|_| drop(fixture.append_to(0, &[b'v'; 100])));
    assert!(charged(&fixture) < 34_000, "{}", charged(&fixture));
    fixture.accumulator.events().set_busy([(1, false)].into_iter());
    let batches = drain_all(&mut fixture);
    assert_eq!(counts(&batches), [295]);
    assert_eq!(batches[0].closed.meta.extensions, 1);
    acknowledge_all(&fixture, batches);
}

#[test]
fn compressed_batch_grows_and_keeps_only_the_memory_of_its_compressed_bytes() {
    let mut fixture =
        fixture_with(AccumulatorSettings { compression: Compression::lz4(), ..settings() });
    let estimator = fixture.topic().estimator.clone();
    (0..400).for_each(|_| estimator.update_ratio(1000, 500));
    // Numbers from an xorshift: a third of each value does not compress.
    let mut random = 88_172_645_463_325_252_u64;
    let mut value = || -> Vec<u8> {
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as u8
        };
        (0..90).map(|i| if i < 30 { next() } else { b'v' }).collect()
    };
    let (mut sent, mut charges) = (Vec::new(), vec![0]);
    for _ in 0..250 {
        sent.push(value());
        drop(fixture.append_to(0, sent.last().unwrap()));
        if charges.last() != Some(&charged(&fixture)) {
            charges.push(charged(&fixture));
        }
    }
    assert_eq!(charges, [0, 1024, 2048, 4096, 8192, 16_384, 32_768]);
    let batches = drain_all(&mut fixture);
    assert_eq!(counts(&batches), [250]);
    let wire_len = batches[0].closed.wire_len();
    assert!((5000..15_000).contains(&wire_len), "{wire_len}");
    assert!(charged(&fixture) <= wire_len, "{} for {wire_len}", charged(&fixture));
    acknowledge_all(&fixture, batches);
}

/// Appends a record. If there is no memory, the open batches are sent first.
fn append_or_send(fixture: &mut AccumulatorFixture, value: &[u8]) {
    let record = Record::to("t").partition(0).value(value).timestamp(0);
    let prepared = PreparedRecord::new(&record, || 0).unwrap();
    let (mut options, mut state) = (DeliveryOptions::default(), AppendState::default());
    let topic = fixture.topic();
    loop {
        let append = fixture.accumulator.append(&topic, &prepared, &mut options, &mut state);
        let (request, is_optional) = match append.unwrap() {
            AppendResult::Appended => return,
            AppendResult::NeedsNewBatch(request) => (request, false),
            AppendResult::NeedsChainBuffer(request) => (request, true),
        };
        state.spare_buffer = fixture.accumulator.pool.try_allocate(request).unwrap();
        let is_refused = state.spare_buffer.is_none();
        state.no_chain_buffer |= is_refused && is_optional;
        if is_refused && !is_optional {
            drain_all(fixture).into_iter().for_each(|b| acknowledge(b, 0));
        }
    }
}

#[test]
fn records_are_sent_although_batch_size_is_larger_than_the_memory() {
    // The first buffer, an extension, the last growth: each would exceed the memory.
    for (batch_size, memory, len) in
        [(16_384, 10_000, 100), (16_384, 14_000, 8200), (18_200, 10_000, 3500)]
    {
        for is_busy in [false, true] {
            let settings = AccumulatorSettings {
                batch_size,
                max_batch_size: 4 * batch_size,
                buffer_memory: memory,
                linger: 3000 * MS,
                ..settings()
            };
            let mut fixture = AccumulatorFixture::new(settings, &[1]);
            fixture.accumulator.events().set_busy([(1, is_busy)].into_iter());
            for _ in 0..20 {
                append_or_send(&mut fixture, &vec![b'v'; len]);
                fixture.refresh();
            }
            drain_all(&mut fixture).into_iter().for_each(|b| acknowledge(b, 0));
            assert_eq!(fixture.accumulator.pool.available_memory(), memory);
        }
    }
}

#[test]
fn batch_of_the_sticky_partition_grows() {
    let mut fixture = fixture_with(settings());
    for _ in 0..100 {
        drop(fixture.append(Record::to("t").value(&[b'v'; 100]).timestamp(0)));
    }
    let charged = charged(&fixture);
    assert!((11_000..17_000).contains(&charged), "{charged}");
    let batches = drain_all(&mut fixture);
    assert_eq!(counts(&batches), [100]);
    acknowledge_all(&fixture, batches);
}

#[test]
fn sender_shares_the_memory_among_the_active_partitions() {
    let settings = AccumulatorSettings {
        batch_size: BATCH_SIZE,
        buffer_memory: MEMORY,
        linger: 3000 * MS,
        ..settings()
    };
    let mut fixture = AccumulatorFixture::new(settings, &[1; 60]);
    let first_buffer_size = |fixture: &mut AccumulatorFixture| {
        fixture.refresh();
        fixture.accumulator.first_buffer_size.get()
    };
    fixture.append_to(0, b"v");
    assert_eq!(first_buffer_size(&mut fixture), BATCH_SIZE);
    (1..60).for_each(|p| drop(fixture.append_to(p, b"v")));
    assert_eq!(first_buffer_size(&mut fixture), 8192);
    let batches = drain_all(&mut fixture);
    acknowledge_all(&fixture, batches);
    fixture.advance_ms(600);
    assert_eq!(first_buffer_size(&mut fixture), 8192, "they get records again soon");
    fixture.advance_ms(500);
    assert_eq!(first_buffer_size(&mut fixture), BATCH_SIZE);
}
