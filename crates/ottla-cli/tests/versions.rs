//! Sends the same records with each codec, and transactions, to Kafka 2.8 to 4.4, and checks the
//! versions of the requests.
//!
//! Without a JDK and Maven the test reports that it is skipped; with `CI=true` it fails.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod request_trace;

use std::collections::BTreeSet;
use std::time::Duration;

use ottla::{
    ConsumerGroupMetadata, ErrorKind, Header, OffsetAndMetadata, Producer, Record, Transaction,
};
use ottla_testkit::{Jars, LegacyKafka, print_line};
use request_trace::take_request_versions;

/// A Kafka version, and the newest versions of requests that it and the client support.
struct BrokerVersion {
    kafka: &'static str,
    produce: u32,
    /// Version 5 belongs to version 2 of transactions (KIP-890).
    end_txn: u32,
}

/// Produce 13 identifies topics by id, earlier versions by name (KIP-516).
const BROKER_VERSIONS: [BrokerVersion; 6] = [
    BrokerVersion { kafka: "2.8.2", produce: 9, end_txn: 3 },
    BrokerVersion { kafka: "3.3.2", produce: 9, end_txn: 3 },
    BrokerVersion { kafka: "3.9.1", produce: 11, end_txn: 4 },
    BrokerVersion { kafka: "4.0.0", produce: 12, end_txn: 5 },
    BrokerVersion { kafka: "4.3.1", produce: 13, end_txn: 5 },
    BrokerVersion { kafka: "4.4.0", produce: 13, end_txn: 5 },
];

#[test]
fn each_kafka_version_stores_all_records_once() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    request_trace::start();
    for BrokerVersion { kafka: version, produce, end_txn } in BROKER_VERSIONS {
        let kafka = LegacyKafka::start(&jars, version);
        take_request_versions();
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            send_with_codec(&kafka, version, codec);
        }
        let records = jars.read_topic(&kafka.bootstrap, "smoke");
        let values: BTreeSet<Vec<u8>> = records.iter().filter_map(|r| r.value.clone()).collect();
        assert_eq!((records.len(), values.len()), (1000, 1000), "{version}: each record once");
        assert!(records.iter().all(|r| r.headers.len() == 1));
        let request_versions = take_request_versions();
        let list: Vec<String> = (request_versions.iter())
            .map(|(api, versions)| {
                let versions: Vec<String> = versions.iter().map(u32::to_string).collect();
                format!("{api} {}", versions.join(" and "))
            })
            .collect();
        print_line(&format!("Kafka {version}: {}", list.join(", ")));
        assert_eq!(request_versions["Produce"], BTreeSet::from([produce]), "{version}");
        if version == "4.4.0" {
            // The first version that names the cluster, without a fallback (KIP-1242).
            assert_eq!(request_versions["ApiVersions"], BTreeSet::from([5]));
            check_zstd_levels(&jars, &kafka);
        }
        check_transactions(&jars, &kafka, version);
        let request_versions = take_request_versions();
        assert_eq!(request_versions["EndTxn"], BTreeSet::from([end_txn]), "{version}");
    }
}

/// Sends 200 records; all must be acknowledged.
fn send_with_codec(kafka: &LegacyKafka, version: &str, codec: &str) {
    let producer = Producer::builder()
        .bootstrap_servers(&kafka.bootstrap)
        .set("compression.type", codec)
        .build()
        .unwrap();
    for n in 0..200 {
        let (key, value) = (format!("k{}", n % 7), format!("{codec} {n}"));
        let headers = [Header::new("h", b"1")];
        producer.send(Record::to("smoke").key(&key).value(&value).headers(&headers)).unwrap();
    }
    producer.flush().unwrap();
    assert_eq!(producer.totals().record_error_total, 0, "{version} {codec}");
    producer.close(Duration::from_secs(10)).unwrap();
}

fn transactional_producer(kafka: &LegacyKafka) -> Producer {
    let builder = Producer::builder().bootstrap_servers(&kafka.bootstrap);
    let producer = builder.transactional_id("versions").build().unwrap();
    producer.init_transactions().unwrap();
    producer
}

/// Begins a transaction and sends three records to each of two partitions, which the broker
/// acknowledges.
fn begin_and_send(producer: &Producer, prefix: &str) -> Transaction {
    let transaction = producer.begin_transaction().unwrap();
    let deliveries: Vec<_> = (0..6)
        .map(|n| {
            let value = format!("{prefix} {n}");
            producer.send(Record::to("txn").partition(n % 2).value(&value)).unwrap()
        })
        .collect();
    deliveries.into_iter().for_each(|d| drop(d.wait().unwrap()));
    transaction
}

// CASES: TM10.
/// Checks with Kafka's own tools that consumers see committed records and offsets only, and that a
/// second producer with the same id fences the first.
fn check_transactions(jars: &Jars, kafka: &LegacyKafka, version: &str) {
    let server = &*kafka.bootstrap;
    let create = ["--bootstrap-server", server, "--create", "--topic", "txn", "--partitions", "2"];
    jars.run_tool("org.apache.kafka.tools.TopicCommand", &create);
    let producer = transactional_producer(kafka);
    let group = ConsumerGroupMetadata::new("txn-group");
    for round in 0..3 {
        let mut committed = begin_and_send(&producer, &format!("committed {round}"));
        let next = OffsetAndMetadata::new("txn", 0, 10 + round);
        committed.send_offsets(&[next], &group).unwrap();
        committed.commit().unwrap();
        let mut aborted = begin_and_send(&producer, &format!("aborted {round}"));
        aborted.send_offsets(&[OffsetAndMetadata::new("txn", 0, 99)], &group).unwrap();
        aborted.abort().unwrap();
        drop(begin_and_send(&producer, &format!("dropped {round}")));
    }
    let mut left_open = begin_and_send(&producer, "fenced");
    let successor = transactional_producer(kafka);
    let error = left_open.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{version}: {error}");
    begin_and_send(&successor, "committed by the successor").commit().unwrap();

    let mut values = read_committed(jars, server);
    values.sort();
    let prefixes = ["committed 0", "committed 1", "committed 2", "committed by the successor"];
    let expected: Vec<String> =
        prefixes.iter().flat_map(|p| (0..6).map(move |n| format!("{p} {n}"))).collect();
    assert_eq!(values, expected, "{version}");
    assert_eq!(jars.read_topic(server, "txn").len(), 66, "{version}: all records");
    let describe = ["--bootstrap-server", server, "--describe", "--group", "txn-group"];
    let groups =
        jars.run_tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &describe);
    let offset = (groups.lines().filter(|l| l.starts_with("txn-group ")))
        .filter_map(|l| l.split_whitespace().nth(3))
        .next();
    assert_eq!(offset, Some("12"), "{version}: {groups}");
}

/// Returns the values that Kafka's console consumer reads with `read_committed`.
fn read_committed(jars: &Jars, server: &str) -> Vec<String> {
    let topic = ["--bootstrap-server", server, "--topic", "txn", "--from-beginning"];
    let isolation = ["--isolation-level", "read_committed", "--timeout-ms", "5000"];
    let args = [&topic[..], &isolation].concat();
    let output = jars.run_tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &args);
    output.lines().map(str::to_owned).collect()
}

/// Checks that Java can read the output of the zstd encoder at each of its levels.
fn check_zstd_levels(jars: &Jars, kafka: &LegacyKafka) {
    let mut sent = 0;
    for level in -7..=4 {
        let producer = Producer::builder()
            .bootstrap_servers(&kafka.bootstrap)
            .set("compression.type", "zstd")
            .set("compression.zstd.level", level.to_string())
            .build()
            .unwrap();
        for n in 0..300 {
            let value =
                format!("{{\"level\":{level},\"n\":{n},\"text\":\"{}\"}}", "words ".repeat(n % 40));
            producer.send(Record::to("levels").value(&value)).unwrap();
            sent += 1;
        }
        producer.flush().unwrap();
        producer.close(Duration::from_secs(10)).unwrap();
    }
    let records = jars.read_topic(&kafka.bootstrap, "levels");
    let values: BTreeSet<Vec<u8>> = records.iter().filter_map(|r| r.value.clone()).collect();
    assert_eq!((records.len(), values.len()), (sent, sent), "each record once");
    assert!(values.iter().all(|v| v.starts_with(b"{\"level\":") && v.ends_with(b"\"}")));
}
