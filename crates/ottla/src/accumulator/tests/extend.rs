//! Tests of batches that take records beyond `batch.size` while they wait.

use ottla_protocol::Uuid;
use ottla_protocol::record::BatchView;

use super::*;
use crate::accumulator::batch::StampedBatch;

const NODE: i32 = 1;

/// Batches of 1,024 bytes that may be extended to 4,096. The node takes no request at first.
fn fixture(partitions: usize) -> AccumulatorFixture {
    fixture_with(AccumulatorSettings { max_batch_size: 4096, ..settings() }, partitions)
}

fn fixture_with(settings: AccumulatorSettings, partitions: usize) -> AccumulatorFixture {
    let settings = AccumulatorSettings { linger: 3000 * MS, ..settings };
    let fixture = AccumulatorFixture::new(settings, &vec![NODE; partitions]);
    set_busy(&fixture, true);
    fixture
}

fn set_busy(fixture: &AccumulatorFixture, is_busy: bool) {
    fixture.accumulator.events().set_busy([(NODE, is_busy)].into_iter());
}

/// Returns the batch as its broker reads it.
fn bytes(batch: &StampedBatch) -> Vec<u8> {
    let records = batch.closed.records().pieces().collect::<Vec<_>>().concat();
    [&batch.header()[..], &records].concat()
}

/// Drains one batch after the other until no partition is ready.
fn drain_ready(fixture: &mut AccumulatorFixture) -> Vec<StampedBatch> {
    let mut batches = Vec::new();
    while !fixture.ready_nodes().is_empty() {
        batches.extend(fixture.drain(NODE, usize::MAX));
    }
    batches
}

fn counts(batches: &[StampedBatch]) -> Vec<i32> {
    batches.iter().map(|b| b.closed.meta.record_count).collect()
}

fn acknowledge_all(fixture: &AccumulatorFixture, batches: Vec<StampedBatch>) {
    batches.into_iter().for_each(|b| acknowledge(b, 0));
    assert_eq!(fixture.accumulator.pool.balance(), 10 << 20, "all memory is freed");
}

#[test]
fn batch_takes_records_beyond_its_size_while_its_node_takes_no_request() {
    let mut fixture = fixture(1);
    let values: Vec<Vec<u8>> = (0..40).map(|i| vec![i; 90 + usize::from(i)]).collect();
    let deliveries: Vec<_> = values.iter().map(|v| fixture.append_to(0, v)).collect();
    fixture.pressure.flush_up_to = u64::MAX;
    let batches = drain_ready(&mut fixture);
    assert_eq!(batches.len(), 2, "{:?}", counts(&batches));
    assert!((3000..=4096).contains(&batches[0].closed.wire_len()));
    let mut read = Vec::new();
    for batch in &batches {
        let bytes = bytes(batch);
        let view = BatchView::parse(&bytes).unwrap();
        let records = view.records(bytes.len()).unwrap();
        read.extend(records.to_vec().unwrap().iter().map(|r| r.value.unwrap().to_vec()));
    }
    assert_eq!(read, values, "each record, in its order");
    let first = batches[0].closed.meta.record_count as usize;
    acknowledge_all(&fixture, batches);
    let last = deliveries[first - 1].try_result().unwrap().unwrap();
    assert_eq!(last.offset(), Some(first as i64 - 1));
}

#[test]
fn batch_keeps_to_its_size_if_its_node_takes_requests_or_the_settings_say_so() {
    let extends = || AccumulatorSettings { max_batch_size: 4096, ..settings() };
    for (settings, is_busy) in [
        (extends(), false),
        (AccumulatorSettings { max_batch_size: 2047, ..extends() }, true),
        (AccumulatorSettings { max_batch_size: 0, ..extends() }, true),
        (AccumulatorSettings { compression: Compression::lz4(), ..extends() }, true),
        (AccumulatorSettings { batch_size: 0, ..extends() }, true),
    ] {
        let batch_size = settings.batch_size.max(200);
        let mut fixture = fixture_with(settings, 1);
        set_busy(&fixture, is_busy);
        let mut batches = Vec::new();
        for i in 0..40u8 {
            // Not compressible.
            let value: Vec<u8> =
                (0..90u32).map(|n| (n * n * u32::from(i + 7) % 251) as u8).collect();
            fixture.append_to(0, &value);
            if !is_busy {
                batches.extend(drain_ready(&mut fixture));
            }
        }
        fixture.pressure.flush_up_to = u64::MAX;
        batches.extend(drain_ready(&mut fixture));
        let lens: Vec<_> = batches.iter().map(|b| b.closed.wire_len()).collect();
        assert!(lens.iter().all(|len| *len <= batch_size), "{lens:?}");
        acknowledge_all(&fixture, batches);
    }
}

/// A sender that falls behind gets fewer and larger batches.
#[test]
fn batch_takes_records_beyond_its_size_behind_two_others() {
    let mut fixture = fixture(1);
    set_busy(&fixture, false);
    let deliveries: Vec<_> = (0..60).map(|_| fixture.append_to(0, &[b'v'; 100])).collect();
    fixture.pressure.flush_up_to = u64::MAX;
    let batches = drain_ready(&mut fixture);
    let lens: Vec<_> = batches.iter().map(|b| b.closed.wire_len()).collect();
    let [first, second, third, fourth] = lens[..] else { panic!("{lens:?}") };
    assert!(first <= 1024 && second <= 1024, "no two batches waited before them: {lens:?}");
    assert!((3000..=4096).contains(&third), "{lens:?}");
    assert!(fourth > 1024, "{lens:?}");
    acknowledge_all(&fixture, batches);
    assert!(deliveries.iter().all(|d| matches!(d.try_result(), Some(Ok(_)))));
}

/// The node may become free before the extended batch is at its limit.
#[test]
fn extended_batch_is_ready_at_once_and_takes_records_until_it_is_drained() {
    let mut fixture = fixture(1);
    for i in 0..12 {
        fixture.append_to(0, &[b'v'; 100]);
        let expected: &[i32] = if i < 8 { &[] } else { &[NODE] };
        assert_eq!(fixture.ready_nodes(), expected, "the ninth record exceeds the size");
    }
    set_busy(&fixture, false);
    let batches = fixture.drain(NODE, usize::MAX);
    assert_eq!(counts(&batches), [12]);
    // The next batch begins with its own size, and lingers.
    fixture.append_to(0, &[b'v'; 100]);
    assert!(fixture.ready_nodes().is_empty());
    fixture.pressure.flush_up_to = u64::MAX;
    let last = drain_ready(&mut fixture);
    acknowledge_all(&fixture, batches.into_iter().chain(last).collect());
}

/// Without an end of the extension, records would keep joining a batch for a free node.
#[test]
fn extended_batch_is_closed_by_the_next_record_beyond_its_buffers_once_its_node_is_free() {
    let mut fixture = fixture(1);
    (0..10).for_each(|_| drop(fixture.append_to(0, &[b'v'; 100])));
    set_busy(&fixture, false);
    (0..10).for_each(|_| drop(fixture.append_to(0, &[b'v'; 100])));
    let batches = drain_ready(&mut fixture);
    assert_eq!(counts(&batches), [17], "two buffers");
    fixture.pressure.flush_up_to = u64::MAX;
    let last = drain_ready(&mut fixture);
    assert_eq!(counts(&last), [3]);
    acknowledge_all(&fixture, batches.into_iter().chain(last).collect());
}

#[test]
fn sticky_partition_switches_after_the_size_of_a_batch_also_while_batches_are_extended() {
    let mut fixture = fixture(3);
    let keyless = || fixture.append(Record::to("t").value(&[b'v'; 100]).timestamp(0)).partition();
    let chosen: Vec<i32> = (0..90).map(|_| keyless()).collect();
    let mut runs: Vec<usize> = chosen.chunk_by(|a, b| a == b).map(<[i32]>::len).collect();
    runs.pop();
    // Eight or nine records have the size of a batch. A partition may be chosen again.
    assert!(runs.iter().all(|run| run % 8 <= run / 8), "{runs:?}");
    fixture.pressure.flush_up_to = u64::MAX;
    let batches = drain_ready(&mut fixture);
    assert!(batches.len() <= 6, "up to 35 records a batch: {:?}", counts(&batches));
    acknowledge_all(&fixture, batches);
}

/// Such a record ends the choice of each partition.
#[test]
fn record_larger_than_a_batch_gets_its_own_batch_also_behind_extended_ones() {
    for partitions in [1, 3] {
        let mut fixture = fixture(partitions);
        let keyless = |len| drop(fixture.append(Record::to("t").value(&vec![b'v'; len])));
        for len in [100, 2000, 100, 900, 2000, 2000, 300, 963, 942, 941] {
            (0..3).for_each(|_| keyless(len));
        }
        fixture.pressure.flush_up_to = u64::MAX;
        let batches = drain_ready(&mut fixture);
        assert_eq!(counts(&batches).iter().sum::<i32>(), 30);
        let alone = batches.iter().filter(|b| b.closed.meta.max_record_bytes > 2000);
        assert_eq!(alone.map(|b| b.closed.meta.record_count).collect::<Vec<_>>(), [1; 9]);
        acknowledge_all(&fixture, batches);
    }
}

/// The partitioner would else take a slow broker's few long batches for a short queue.
#[test]
fn partitioner_counts_an_extended_batch_as_the_batches_that_it_replaces() {
    let mut fixture = fixture(1);
    (0..40).for_each(|_| drop(fixture.append_to(0, &[b'v'; 100])));
    fixture.refresh();
    let partition = fixture.topic().partitions.get(0).unwrap().clone();
    assert_eq!(partition.queue.lock().len(), 2);
    assert_eq!(partition.queued_batches(), Some(5));
    let batches = drain_ready(&mut fixture);
    fixture.pressure.flush_up_to = u64::MAX;
    let last = drain_ready(&mut fixture);
    fixture.refresh();
    assert_eq!(partition.queued_batches(), Some(0));
    acknowledge_all(&fixture, batches.into_iter().chain(last).collect());
}

#[test]
fn shared_values_of_an_extended_batch_are_charged_and_keep_their_positions() {
    let settings = AccumulatorSettings { batch_size: 16_384, max_batch_size: 65_536, ..settings() };
    let mut fixture = fixture_with(settings, 1);
    let mut sent = Vec::new();
    for i in 0..9u8 {
        let len = if i % 3 == 2 { 200 } else { 9000 };
        let value = bytes::Bytes::from(vec![i; len]);
        drop(fixture.append(Record::to("t").partition(0).shared_value(&value).timestamp(0)));
        sent.push(value);
        let charged = (10 << 20) - fixture.accumulator.pool.balance();
        let bytes: usize = sent.iter().map(|v| v.len() + 8).sum();
        assert!(charged as usize >= bytes, "{charged} for {bytes}");
    }
    let batches = drain_ready(&mut fixture);
    assert_eq!(counts(&batches), [9]);
    let bytes = bytes(&batches[0]);
    let view = BatchView::parse(&bytes).unwrap();
    let records = view.records(bytes.len()).unwrap();
    let values: Vec<_> = records.to_vec().unwrap().iter().map(|r| r.value.unwrap()).collect();
    assert_eq!(values, sent);
    acknowledge_all(&fixture, batches);
}

#[test]
fn batch_is_not_extended_beyond_the_size_that_its_brokers_accept() {
    let mut fixture = fixture(1);
    fixture.topic().estimator.set_limit(2100);
    (0..40).for_each(|_| drop(fixture.append_to(0, &[b'v'; 100])));
    let batches = drain_ready(&mut fixture);
    let lens: Vec<_> = batches.iter().map(|b| b.closed.wire_len()).collect();
    assert!(lens.iter().all(|len| (1000..=2100).contains(len)), "{lens:?}");
    fixture.pressure.flush_up_to = u64::MAX;
    let last = drain_ready(&mut fixture);
    acknowledge_all(&fixture, batches.into_iter().chain(last).collect());
}

/// It was extended before the broker rejected another batch.
#[test]
fn extended_batch_of_a_rejected_size_is_split_before_it_is_sent() {
    let mut fixture = fixture(1);
    (0..30).for_each(|_| drop(fixture.append_to(0, &[b'v'; 100])));
    let partition = fixture.topic().partitions.get(0).unwrap().clone();
    let now = fixture.machine.now();
    fixture.discovery.on_rejected(&partition, Uuid::ZERO, 3000, now);
    fixture.refresh();
    assert!(fixture.drain(NODE, usize::MAX).is_empty(), "it is closed first");
    let mut drained = fixture.drain_without_closing(NODE, usize::MAX);
    assert!(drained.batches.is_empty());
    let batch = drained.to_split.pop().unwrap();
    let outcome = fixture.accumulator.split_closed(batch, 2999);
    partition.lock_for_sender().replace_with_parts(outcome.number, outcome.parts);
    fixture.ready.insert(partition);
    let parts = drain_ready(&mut fixture);
    assert!(parts.iter().all(|b| b.closed.wire_len() < 3000), "{:?}", counts(&parts));
    assert_eq!(counts(&parts).iter().sum::<i32>(), 30);
    acknowledge_all(&fixture, parts);
}

#[test]
fn batch_is_closed_if_no_buffer_is_free_to_extend_it() {
    let settings = AccumulatorSettings { max_batch_size: 4096, buffer_memory: 2048, ..settings() };
    let mut fixture = fixture_with(settings, 1);
    (0..17).for_each(|_| drop(fixture.append_to(0, &[b'v'; 100])));
    let record = Record::to("t").partition(0).value(&[b'v'; 100]).timestamp(0);
    let prepared = PreparedRecord::new(&record, || 0).unwrap();
    let (mut options, mut state) = (DeliveryOptions::default(), AppendState::default());
    let topic = fixture.topic();
    let mut append = |state: &mut AppendState| {
        fixture.accumulator.append(&topic, &prepared, &mut options, state).unwrap()
    };
    assert!(matches!(append(&mut state), AppendResult::NeedsChainBuffer(_)));
    assert!(fixture.accumulator.pool.try_allocate(1024).unwrap().is_none());
    state.no_chain_buffer = true;
    assert!(matches!(append(&mut state), AppendResult::NeedsNewBatch(_)));
    assert_eq!(fixture.ready_nodes(), [NODE], "the sender drains it, which frees its buffers");
    let batches = drain_ready(&mut fixture);
    assert_eq!(counts(&batches), [17]);
    batches.into_iter().for_each(|b| acknowledge(b, 0));
    assert_eq!(fixture.accumulator.pool.balance(), 2048);
}
