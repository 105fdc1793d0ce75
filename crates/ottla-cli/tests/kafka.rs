//! Tests the producer against the real Kafka 4.3.1, and Kafka's own tools against the embedded
//! broker.
//!
//! Without a JDK and Maven the tests report that they are skipped; with `CI=true` they fail.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use ottla::{Delivery, Header, Producer, Record};
use ottla_broker::EmbeddedBroker;
use ottla_protocol::wire::TestRng;
use ottla_testkit::{ConsumerRecord, Jars, Kafka, target_dir};

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// Returns the number of records for all codecs together; `TEST_MIXED_RECORDS=1000000` sets it.
fn mixed_record_count() -> u64 {
    std::env::var("TEST_MIXED_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

/// Starts a broker that only this test uses.
fn start_kafka() -> Option<Kafka> {
    Some(Kafka::start(&Jars::find_or_fetch()?, ""))
}

#[derive(Debug, PartialEq, Eq)]
struct OwnedRecord {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: i64,
}

/// Where a record is in the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    partition: i32,
    offset: i64,
}

/// Returns a random record with number `n`, which determines its timestamp.
///
/// The size is log-uniform between 10 and 2250 bytes, for one record in a thousand between 10 and
/// 100 KB, for some 0. Some keys, values and header values are null.
fn random_record(rng: &mut TestRng, n: u64) -> OwnedRecord {
    let size = match rng.next_below(1000) {
        0 => 10_000 + rng.next_below(90_000) as usize,
        1..20 => 0,
        _ => {
            let u = rng.next_below(1 << 20) as f64 / f64::from(1 << 20);
            (10f64.ln() + u * (2250f64 / 10.0).ln()).exp() as usize
        }
    };
    let key =
        (rng.next_below(10) >= 3).then(|| format!("key-{}", rng.next_below(500)).into_bytes());
    let mut value = format!("{n}/").into_bytes();
    value.extend(
        (value.len()..size)
            .map(|i| if i % 3 == 0 { rng.next_u64() as u8 } else { b'a' + (i % 17) as u8 }),
    );
    if size == 0 {
        value.clear();
    }
    let value = (rng.next_below(50) != 0).then_some(value);
    let header_count = if rng.next_below(5) == 0 { 1 + rng.next_below(3) } else { 0 };
    let headers = (0..header_count)
        .map(|i| {
            let value = (rng.next_below(4) != 0).then(|| rng.next_bytes().to_vec());
            // Two headers in a row have the same key.
            (format!("h{}", i / 2), value)
        })
        .collect();
    OwnedRecord { key, value, headers, timestamp: 1_700_000_000_000 + n as i64 }
}

fn send_record(producer: &Producer, topic: &str, r: &OwnedRecord) -> Delivery {
    let headers: Vec<Header<'_>> =
        r.headers.iter().map(|(key, value)| Header::maybe(key, value.as_deref())).collect();
    let record = Record::to(topic)
        .maybe_key(r.key.as_deref())
        .maybe_value(r.value.as_deref())
        .headers(&headers)
        .timestamp(r.timestamp);
    producer.send(record).unwrap()
}

/// Sends random records with a codec and reads them back with Java's consumer.
///
/// The consumer must read exactly these records, each at the position that its delivery reported,
/// and the records of a key in the order of the sends.
fn round_trip(jars: &Jars, bootstrap: &str, codec: &str, count: u64) {
    /// Number of deliveries that are kept before all of them are awaited.
    const MAX_PENDING: usize = 20_000;
    let topic = format!("mixed-{codec}");
    let producer = Producer::builder()
        .bootstrap_servers(bootstrap)
        .set("compression.type", codec)
        .build()
        .unwrap();
    let mut rng = TestRng::new(count ^ codec.len() as u64);
    let mut expected: BTreeMap<Position, OwnedRecord> = BTreeMap::new();
    let mut pending: Vec<(OwnedRecord, Delivery)> = Vec::new();
    for n in 0..count {
        let record = random_record(&mut rng, n);
        let delivery = send_record(&producer, &topic, &record);
        pending.push((record, delivery));
        if pending.len() == MAX_PENDING {
            await_all(&mut pending, &mut expected);
        }
    }
    await_all(&mut pending, &mut expected);
    producer.close(std::time::Duration::from_secs(30)).unwrap();
    assert_eq!(producer.available_memory(), 33_554_432, "all memory is released");
    let mut log = jars.read_topic(bootstrap, &topic);
    assert_eq!(log.len() as u64, count, "{codec}");
    log.sort_by_key(|r| (r.partition, r.offset));
    let mut last: BTreeMap<Vec<u8>, (i32, i64)> = BTreeMap::new();
    for r in log {
        let ConsumerRecord { partition, offset, timestamp, key, value, headers } = r;
        let sent =
            expected.remove(&Position { partition, offset }).expect("a record was sent there");
        if let Some(key) = &key {
            // Timestamps increase in the order of the sends.
            let previous = last.insert(key.clone(), (partition, timestamp));
            let is_in_order = previous.is_none_or(|(p, t)| p == partition && t < timestamp);
            assert!(is_in_order, "the records of key {key:?} are out of order");
        }
        let read = OwnedRecord { key, value, headers, timestamp };
        assert_eq!(read, sent, "{codec} {partition}-{offset}");
    }
    assert!(expected.is_empty());
}

/// Waits for deliveries and files their records under the reported positions.
fn await_all(
    pending: &mut Vec<(OwnedRecord, Delivery)>,
    expected: &mut BTreeMap<Position, OwnedRecord>,
) {
    for (record, delivery) in pending.drain(..) {
        let metadata = delivery.wait().unwrap();
        assert_eq!(metadata.timestamp(), record.timestamp);
        let offset = metadata.offset().expect("an offset");
        let position = Position { partition: metadata.partition(), offset };
        assert!(expected.insert(position, record).is_none(), "two records at {position:?}");
    }
}

#[test]
fn records_of_each_codec_round_trip_through_kafka() {
    let Some(kafka) = start_kafka() else { return };
    for codec in CODECS {
        // The records' timestamps are of 2023, so Kafka's default retention would delete them.
        kafka.create_topic(&format!("mixed-{codec}"), 4, &["retention.ms=-1"]);
        round_trip(&kafka.jars, &kafka.bootstrap, codec, mixed_record_count() / 5);
    }
    check_missing_and_auto_created_topics(&kafka);
    check_command_line_produce(&kafka);
}

fn check_missing_and_auto_created_topics(kafka: &Kafka) {
    let max_block = std::time::Duration::from_secs(5);
    let builder = Producer::builder().bootstrap_servers(&kafka.bootstrap).max_block(max_block);
    let producer = builder.build().unwrap();
    let metadata = producer.send(Record::to("auto-created").value("x")).unwrap().wait().unwrap();
    assert_eq!(metadata.offset(), Some(0));
    let e =
        producer.send(Record::to("mixed-none").partition(99).value("x")).unwrap_err().to_string();
    assert!(e.contains("mixed-none has no partition 99, only 0 to 3"), "{e}");
}

fn check_command_line_produce(kafka: &Kafka) {
    kafka.create_topic("lines", 3, &[]);
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("ottla"))
        .args(["produce", "-b", &kafka.bootstrap, "-t", "lines", "-z", "lz4"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<String> = (0..5000).map(|i| format!("line {i}")).collect();
    child.stdin.take().unwrap().write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && stderr.contains("5000 records acknowledged"), "{stderr}");
    let mut log: Vec<String> = (kafka.read_topic("lines").into_iter())
        .map(|r| String::from_utf8(r.value.unwrap()).unwrap())
        .collect();
    log.sort_by_key(|l| l[5..].parse::<u32>().unwrap());
    assert_eq!(log, lines);
}

#[test]
fn records_of_each_codec_round_trip_through_the_embedded_broker() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let dir = target_dir().join(format!("embedded-{}", std::process::id()));
    let mut builder = EmbeddedBroker::builder().data_dir(&dir);
    for codec in CODECS {
        builder = builder.topic(format!("mixed-{codec}"), 4);
    }
    let broker = builder.start().unwrap();
    for codec in CODECS {
        round_trip(&jars, &broker.bootstrap_servers(), codec, mixed_record_count() / 5);
        let dump = jars.dump_log_segments(&dir.join(format!("mixed-{codec}-0")));
        assert!(dump.contains("isvalid: true") && !dump.contains("isvalid: false"), "{codec}");
        assert!(dump.contains(&format!("compresscodec: {codec}")), "{codec}");
    }
    drop(broker);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Runs the README's first command and reads the log with Kafka's own tool.
#[test]
fn log_of_the_embedded_broker_has_kafkas_format() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let dir = target_dir().join(format!("lines-{}", std::process::id()));
    let license = concat!(env!("CARGO_MANIFEST_DIR"), "/../../LICENSE");
    let status = Command::new(assert_cmd::cargo::cargo_bin!("ottla"))
        .args(["produce", "--embedded", "--topic", "lines", license, "--data-dir"])
        .arg(&dir)
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let dump = jars.dump_log_segments(&dir.join("lines-0"));
    assert!(dump.contains("isvalid: true") && !dump.contains("isvalid: false"), "{dump}");
    let payloads: Vec<&str> =
        dump.lines().filter_map(|l| Some(l.split_once(" payload: ")?.1)).collect();
    let text = std::fs::read_to_string(license).unwrap();
    assert_eq!(payloads, text.lines().collect::<Vec<_>>());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn kafkas_tools_work_with_the_embedded_broker() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let broker = EmbeddedBroker::builder().start().unwrap();
    let server = broker.bootstrap_servers();
    let topics = |args: &[&str]| {
        let args = [&["--bootstrap-server", &server], args].concat();
        jars.run_tool("org.apache.kafka.tools.TopicCommand", &args)
    };
    let config = ["--config", "max.message.bytes=2000000"];
    topics(&[&["--create", "--topic", "tooled", "--partitions", "2"], &config[..]].concat());
    assert!(topics(&["--list"]).contains("tooled"));
    let described = topics(&["--describe", "--topic", "tooled"]);
    assert!(
        described.contains("PartitionCount: 2") && described.contains("max.message.bytes=2000000"),
        "{described}"
    );
    for codec in CODECS {
        send_with_console_producer(&jars, &server, codec);
    }
    let offsets = jars.run_tool(
        "org.apache.kafka.tools.GetOffsetShell",
        &["--bootstrap-server", &server, "--topic", "tooled", "--time", "-1"],
    );
    let total: u32 =
        offsets.lines().filter_map(|l| l.rsplit(':').next()?.trim().parse::<u32>().ok()).sum();
    assert_eq!(total, 15, "{offsets}");
    let output: String =
        ["0", "1"].iter().map(|p| read_with_console_consumer(&jars, &server, p)).collect();
    for codec in CODECS {
        assert_eq!(output.matches(&format!("java {codec}")).count(), 3, "{output}");
    }
    topics(&["--delete", "--topic", "tooled"]);
    assert!(!topics(&["--list"]).contains("tooled"));
}

/// Sends three records to the topic `tooled`.
fn send_with_console_producer(jars: &Jars, server: &str, codec: &str) {
    let args = ["--bootstrap-server", server, "--topic", "tooled", "--compression-codec", codec];
    let mut producer = jars
        .tool_command("org.apache.kafka.tools.ConsoleProducer", &args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = format!("java {codec}\n").repeat(3);
    producer.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(producer.wait().unwrap().success(), "{codec}");
}

/// Reads a partition of the topic `tooled`.
fn read_with_console_consumer(jars: &Jars, server: &str, partition: &str) -> String {
    let source = ["--topic", "tooled", "--partition", partition, "--offset", "earliest"];
    let args = [&["--bootstrap-server", server][..], &source, &["--timeout-ms", "3000"]].concat();
    jars.run_tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &args)
}

#[test]
fn log_survives_sigkill_and_a_partial_batch_is_truncated() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let dir = target_dir().join(format!("killed-{}", std::process::id()));
    let start_broker = || {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("ottla"))
            .args(["broker", "--listen", "127.0.0.1:0", "--topic", "kept:1", "--data-dir"])
            .arg(&dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        (child, line.trim().to_owned())
    };
    let (mut child, server) = start_broker();
    let producer = Producer::builder().bootstrap_servers(&server).build().unwrap();
    for i in 0..100 {
        producer.send(Record::to("kept").value(&format!("{i}"))).unwrap().wait().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(producer);
    // A kill in the middle of a write leaves a partial batch at the end of the log.
    let log = dir.join("kept-0/00000000000000000000.log");
    let whole = std::fs::read(&log).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(&whole[..40]).unwrap();
    drop(file);
    let (mut child, server) = start_broker();
    let log = jars.read_topic(&server, "kept");
    let values: Vec<String> =
        log.iter().map(|r| String::from_utf8(r.value.clone().unwrap()).unwrap()).collect();
    assert_eq!(values, (0..100).map(|i| i.to_string()).collect::<Vec<_>>());
    let producer = Producer::builder().bootstrap_servers(&server).build().unwrap();
    let next = producer.send(Record::to("kept").value("next")).unwrap().wait().unwrap();
    assert_eq!(next.offset(), Some(100));
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

struct SentRecord {
    partition: i32,
    value: String,
    delivery: Delivery,
}

/// Sends while nodes of the embedded broker stop and start, then reads with Kafka's own tools.
#[test]
fn embedded_cluster_keeps_all_records_while_nodes_restart() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let broker = EmbeddedBroker::builder().node_count(3).auto_create_topics(false).start().unwrap();
    let server = broker.bootstrap_servers();
    let topics = |args: &[&str]| {
        let server = ["--bootstrap-server", server.as_str()];
        jars.run_tool("org.apache.kafka.tools.TopicCommand", &[&server, args].concat())
    };
    let config = ["--config", "min.insync.replicas=2"];
    let replicas = ["--partitions", "3", "--replication-factor", "3"];
    topics(&[&["--create", "--topic", "three"], &replicas[..], &config].concat());
    let described = topics(&["--describe", "--topic", "three"]);
    assert!(described.contains("ReplicationFactor: 3"), "{described}");
    let producer =
        Producer::builder().bootstrap_servers(&server).set("linger.ms", "1").build().unwrap();
    let mut sent = Vec::new();
    for round in 0..6 {
        let node = round % 3 + 1;
        broker.stop_node(node);
        for n in 0..200 {
            let (partition, value) = (n % 3, format!("{round}/{n}"));
            let record = Record::to("three").partition(partition).value(&value);
            let delivery = producer.send(record).unwrap();
            sent.push(SentRecord { partition, value, delivery });
            if n == 100 {
                broker.start_node(node).unwrap();
            }
        }
        producer.flush().unwrap();
    }
    for r in &sent {
        let metadata = r.delivery.try_result().expect("it was flushed").unwrap();
        assert_eq!(metadata.partition(), r.partition, "{}", r.value);
    }
    let log = jars.read_topic(&server, "three");
    assert_eq!(log.len(), 1200);
    for p in 0..3 {
        let expected: Vec<&String> =
            sent.iter().filter(|r| r.partition == p).map(|r| &r.value).collect();
        let read: Vec<String> = (log.iter())
            .filter(|r| r.partition == p)
            .filter_map(|r| String::from_utf8(r.value.clone()?).ok())
            .collect();
        assert!(read.iter().eq(expected), "partition {p}");
    }
    let described = topics(&["--describe", "--topic", "three", "--under-replicated-partitions"]);
    assert!(!described.contains("Partition:"), "{described}");
}
