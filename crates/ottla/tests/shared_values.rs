//! Large values that the producer does not copy: the broker gets the same bytes.
#![allow(missing_docs)]

use std::time::Duration;

use ottla::{Compression, Error, OwnedRecord, Producer, Record};
use ottla_broker::{EmbeddedBroker, NewTopic};

/// Lengths around the size from which values are shared, around `batch.size`, and above it.
const LENGTHS: [usize; 9] = [0, 10, 4095, 4096, 5000, 16_200, 16_384, 20_000, 300_000];

fn value(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (number * 31 + i * 7 + i / 251) as u8).collect()
}

/// Sends some values as owned and some as borrowed records, and compares what the broker has.
fn check(producer: &Producer, broker: &EmbeddedBroker, topic: &str) -> Result<(), Error> {
    let mut expected = Vec::new();
    for number in 0..90 {
        let value = value(number, LENGTHS[(number * 5) % LENGTHS.len()]);
        expected.push(value.clone());
        if number % 4 == 3 {
            producer.enqueue(Record::to(topic).value(&value))?;
        } else {
            // The producer keeps the value after the record is dropped.
            producer.enqueue(OwnedRecord::to(topic).key("k").value(value).as_record())?;
        }
    }
    producer.flush()?;
    let values: Vec<_> =
        broker.records(topic).unwrap().into_iter().map(|r| r.value.unwrap().to_vec()).collect();
    assert!(values == expected, "{topic}");
    Ok(())
}

#[test]
fn large_values_arrive_unchanged_among_small_ones() -> Result<(), Error> {
    for (compression, batch_size) in [
        (Compression::None, 16_384),
        (Compression::None, 0),
        (Compression::None, 1_000_000),
        (Compression::lz4(), 16_384),
    ] {
        let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
        let producer = Producer::builder()
            .bootstrap_servers(broker.bootstrap_servers())
            .compression(compression)
            .batch_size(batch_size)
            .linger(Duration::from_millis(5))
            .build()?;
        check(&producer, &broker, "t")?;
    }
    Ok(())
}

/// A batch that the broker rejects as too large is decoded and split: its pieces are joined.
#[test]
fn batch_with_large_values_is_split() -> Result<(), Error> {
    let topic = NewTopic::new("t", 1).config("max.message.bytes", "310000");
    let broker = EmbeddedBroker::builder().new_topic(topic).start().unwrap();
    let producer = Producer::builder()
        .bootstrap_servers(broker.bootstrap_servers())
        .batch_size(1_000_000)
        .linger(Duration::from_millis(50))
        .build()?;
    check(&producer, &broker, "t")?;
    assert!(producer.totals().batch_split_total > 0);
    Ok(())
}

/// `buffer.memory` bounds the values that the producer keeps.
#[test]
fn large_values_wait_for_memory() -> Result<(), Error> {
    let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
    let producer = Producer::builder()
        .bootstrap_servers(broker.bootstrap_servers())
        .buffer_memory(400_000)
        .build()?;
    check(&producer, &broker, "t")
}
