//! Sends records to franz-go's `kfake`, a cluster that shares no code with Ottla or Kafka, and
//! reads them back with franz-go's consumer: each record once, and in order.
//!
//! Without Go the tests report that they are skipped.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla::{Delivery, ErrorKind, Producer, ProducerBuilder, Record, RecordStatus};
use ottla_protocol::{ApiKey, ErrorCode};
use ottla_testkit::Kfake;

const PARTITIONS: i32 = 6;
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

fn builder(kfake: &Kfake) -> ProducerBuilder {
    Producer::builder()
        .bootstrap_servers(&kfake.bootstrap)
        .set("retry.backoff.ms", "20")
        .set("retry.backoff.max.ms", "200")
}

/// A value with a number, which compresses well.
fn value(n: u64) -> String {
    format!("{n} {}", "words of a record ".repeat(n as usize % 20))
}

/// Records of a topic, numbered from 0, with their deliveries.
struct SentRecords {
    topic: &'static str,
    deliveries: Vec<Delivery>,
}

impl SentRecords {
    fn new(topic: &'static str) -> SentRecords {
        SentRecords { topic, deliveries: Vec::new() }
    }

    /// Sends records to all partitions in round-robin order.
    fn send(&mut self, producer: &Producer, count: u64) {
        for _ in 0..count {
            let n = self.deliveries.len() as u64;
            let partition = (n % PARTITIONS as u64) as i32;
            let value = value(n);
            let record = Record::to(self.topic).partition(partition).value(&value);
            self.deliveries.push(producer.send(record).unwrap());
        }
    }

    /// Checks that each record is acknowledged, and that the log has each once, at the reported
    /// offset, and in the order of the sends.
    fn check(self, kfake: &mut Kfake) {
        let mut expected = BTreeMap::new();
        for (n, delivery) in self.deliveries.into_iter().enumerate() {
            let metadata = delivery.wait().unwrap_or_else(|e| panic!("{} {n}: {e}", self.topic));
            let position = (metadata.partition(), metadata.offset().expect("an offset"));
            assert!(expected.insert(position, value(n as u64)).is_none(), "{position:?} twice");
        }
        let mut last_numbers = BTreeMap::new();
        let log = kfake.read_topic(self.topic, expected.len());
        assert_eq!(log.len(), expected.len(), "{}: records in the log", self.topic);
        for record in log {
            let position = (record.partition, record.offset);
            assert_eq!(expected.remove(&position), Some(record.value.clone()), "{position:?}");
            let number: u64 = record.value.split(' ').next().unwrap().parse().unwrap();
            let last = last_numbers.insert(record.partition, number);
            assert!(last.is_none_or(|last| last < number), "{number} follows {last:?}");
        }
    }
}

#[test]
fn kfake_stores_the_records_of_each_codec() {
    let Some(mut kfake) = Kfake::start() else { return };
    for codec in CODECS {
        kfake.create_topic(codec, PARTITIONS);
        // Each node leads a part, so that every codec is sent to every node.
        (0..PARTITIONS).for_each(|p| kfake.move_leader(codec, p, p % 3));
        let producer = builder(&kfake).set("compression.type", codec).build().unwrap();
        let mut sent = SentRecords::new(codec);
        sent.send(&producer, 3000);
        sent.check(&mut kfake);
        let totals = producer.totals();
        assert_eq!((totals.record_error_total, totals.record_retry_total), (0, 0), "{codec}");
        producer.close(Duration::from_secs(10)).unwrap();
    }
}

#[test]
fn records_follow_leaders_that_move_and_nodes_that_are_removed() {
    let Some(mut kfake) = Kfake::start() else { return };
    for (topic, idempotence) in [("moved-idempotent", "true"), ("moved-plain", "false")] {
        kfake.create_topic(topic, PARTITIONS);
        let producer = builder(&kfake)
            .set("enable.idempotence", idempotence)
            .set("max.in.flight.requests.per.connection", "1")
            .build()
            .unwrap();
        let (mut sent, mut leaders) = (SentRecords::new(topic), BTreeSet::new());
        for round in 0..30 {
            sent.send(&producer, 100);
            match round % 3 {
                0 => kfake.shuffle_leaders(),
                1 => (0..PARTITIONS).for_each(|p| kfake.move_leader(topic, p, (round + p) % 2)),
                _ => producer.flush().unwrap(),
            }
            leaders.insert(kfake.leader(topic, 0));
        }
        assert!(leaders.len() > 1, "the leader has moved");
        sent.check(&mut kfake);
        assert!(producer.totals().record_retry_total > 0, "no record has met an old leader");
        producer.close(Duration::from_secs(10)).unwrap();
    }
    kfake.create_topic("removed", PARTITIONS);
    (0..PARTITIONS).for_each(|p| kfake.move_leader("removed", p, p % 3));
    let producer = builder(&kfake).build().unwrap();
    let mut sent = SentRecords::new("removed");
    sent.send(&producer, 500);
    kfake.remove_node(2);
    sent.send(&producer, 500);
    sent.check(&mut kfake);
}

/// Kafka's retriable errors of a Produce request.
const RETRIABLE: [ErrorCode; 8] = [
    ErrorCode::CORRUPT_MESSAGE,
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode::LEADER_NOT_AVAILABLE,
    ErrorCode::NOT_LEADER_OR_FOLLOWER,
    ErrorCode::REQUEST_TIMED_OUT,
    ErrorCode::NOT_ENOUGH_REPLICAS,
    ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    ErrorCode::KAFKA_STORAGE_ERROR,
];

/// After REQUEST_TIMED_OUT and NOT_ENOUGH_REPLICAS_AFTER_APPEND the records are in the log, so
/// kfake must recognise their retry by its sequence.
#[test]
fn faults_of_kfake_lose_and_duplicate_no_record() {
    let Some(mut kfake) = Kfake::start() else { return };
    kfake.create_topic("faults", PARTITIONS);
    let producer = builder(&kfake).build().unwrap();
    let mut sent = SentRecords::new("faults");
    let mut fault_count = 0;
    for code in RETRIABLE {
        kfake.fail_requests(ApiKey::PRODUCE, code, 3);
        sent.send(&producer, 200);
        producer.flush().unwrap();
        fault_count += 3;
        assert_eq!(kfake.fault_count(), fault_count, "{code}");
    }
    kfake.disconnect_requests(ApiKey::PRODUCE, 3);
    sent.send(&producer, 200);
    producer.flush().unwrap();
    kfake.fail_requests(ApiKey::METADATA, ErrorCode::LEADER_NOT_AVAILABLE, 3);
    kfake.disconnect_requests(ApiKey::METADATA, 2);
    kfake.shuffle_leaders();
    sent.send(&producer, 200);
    producer.flush().unwrap();
    assert!(kfake.fault_count() >= fault_count + 3, "{}", kfake.fault_count());
    sent.check(&mut kfake);
    producer.close(Duration::from_secs(10)).unwrap();
}

#[test]
fn producer_id_is_requested_until_kfake_assigns_one() {
    let Some(mut kfake) = Kfake::start() else { return };
    kfake.create_topic("ids", PARTITIONS);
    kfake.disconnect_requests(ApiKey::INIT_PRODUCER_ID, 2);
    let code = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS;
    kfake.fail_requests(ApiKey::INIT_PRODUCER_ID, code, 2);
    let producer = builder(&kfake).build().unwrap();
    let mut sent = SentRecords::new("ids");
    sent.send(&producer, 100);
    sent.check(&mut kfake);
    assert_eq!(kfake.fault_count(), 4);
}

#[test]
fn record_that_kfake_refuses_fails_and_the_next_one_is_stored() {
    let Some(mut kfake) = Kfake::start() else { return };
    kfake.create_topic("refused", 1);
    let producer = builder(&kfake).build().unwrap();
    kfake.fail_requests(ApiKey::PRODUCE, ErrorCode::TOPIC_AUTHORIZATION_FAILED, 1);
    let send = |value| producer.send(Record::to("refused").value(value)).unwrap().wait();
    let error = send("refused").unwrap_err();
    assert_eq!(error.record_status(), RecordStatus::NotPersisted, "{error}");
    assert_eq!(error.kind(), ErrorKind::Authorization, "{error}");
    assert_eq!(send("stored").unwrap().offset(), Some(0));
    let log = kfake.read_topic("refused", 1);
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].value, "stored");
}

/// The number of the transaction and whether it is committed.
fn transaction_value(number: u64, is_committed: bool, n: u64) -> String {
    format!("{} {number} {n}", if is_committed { "committed" } else { "aborted" })
}

#[test]
fn kfake_commits_and_aborts_transactions_while_its_coordinator_fails() {
    let Some(mut kfake) = Kfake::start() else { return };
    kfake.create_topic("txn", PARTITIONS);
    let producer = builder(&kfake).transactional_id("kfake").build().unwrap();
    producer.init_transactions().unwrap();
    let mut expected = BTreeSet::new();
    for number in 0..20 {
        let is_committed = number % 3 != 2;
        // Each fault hits the next request of its API, which the client repeats.
        match number {
            4 => kfake.fail_requests(ApiKey::END_TXN, ErrorCode::NOT_COORDINATOR, 1),
            7 => kfake.fail_requests(ApiKey::END_TXN, ErrorCode::CONCURRENT_TRANSACTIONS, 2),
            10 => kfake.disconnect_requests(ApiKey::END_TXN, 1),
            13 => kfake.disconnect_requests(ApiKey::PRODUCE, 1),
            16 => kfake.shuffle_leaders(),
            _ => {}
        }
        let mut transaction = producer.begin_transaction().unwrap();
        let deliveries: Vec<Delivery> = (0..12)
            .map(|n| {
                let value = transaction_value(number, is_committed, n);
                let partition = (n % PARTITIONS as u64) as i32;
                producer.send(Record::to("txn").partition(partition).value(&value)).unwrap()
            })
            .collect();
        if is_committed {
            transaction.commit().unwrap();
        } else {
            producer.flush().unwrap();
            transaction.abort().unwrap();
        }
        for (n, delivery) in deliveries.into_iter().enumerate() {
            let metadata = delivery.wait().unwrap();
            let value = transaction_value(number, is_committed, n as u64);
            if is_committed {
                expected.insert((metadata.partition(), metadata.offset().unwrap(), value));
            }
        }
    }
    assert_eq!(kfake.fault_count(), 5);
    let records = kfake.read_committed("txn", expected.len());
    let seen: BTreeSet<(i32, i64, String)> =
        records.into_iter().map(|r| (r.partition, r.offset, r.value)).collect();
    assert_eq!(seen, expected);
}
