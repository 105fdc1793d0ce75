//! Against the real Kafka 4.3.1, and Kafka's own tools against the embedded broker. Skipped, loudly, without a
//! JDK and Maven; with `CI=true` that is a failure.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ottla::{Delivery, Header, Producer, Record};
use ottla_broker::EmbeddedBroker;
use ottla_protocol::wire::TestRng;
use ottla_testkit::{ConsumerRecord, Jars, Kafka, target_dir};

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// Records of the mixed test, all codecs together; `TEST_MIXED_RECORDS=1000000` for the long run.
fn mixed_record_count() -> u64 {
    std::env::var("TEST_MIXED_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

fn jars() -> Option<&'static Jars> {
    static JARS: OnceLock<Option<Jars>> = OnceLock::new();
    JARS.get_or_init(Jars::find_or_fetch).as_ref()
}

/// A broker of the test's own; it ends with it.
fn start_kafka() -> Option<Kafka> {
    Some(Kafka::start(jars()?, ""))
}

type OwnedRecord = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>, i64);

/// A record: sizes log-uniform around 150 bytes, one in a thousand of 10 to 100 KB, some empty, null keys and
/// values, headers.
fn random_record(g: &mut TestRng, n: u64) -> OwnedRecord {
    let size = match g.next_below(1000) {
        0 => 10_000 + g.next_below(90_000) as usize,
        1..20 => 0,
        _ => {
            let u = g.next_below(1 << 20) as f64 / f64::from(1 << 20);
            (10f64.ln() + u * (2250f64 / 10.0).ln()).exp() as usize
        }
    };
    let key = (g.next_below(10) >= 3).then(|| format!("key-{}", g.next_below(500)).into_bytes());
    let mut value = format!("{n}/").into_bytes();
    value.extend(
        (value.len()..size)
            .map(|i| if i % 3 == 0 { g.next_u64() as u8 } else { b'a' + (i % 17) as u8 }),
    );
    if size == 0 {
        value.clear();
    }
    let value = (g.next_below(50) != 0).then_some(value);
    let headers = (0..if g.next_below(5) == 0 { 1 + g.next_below(3) } else { 0 })
        .map(|i| (format!("h{}", i / 2), (g.next_below(4) != 0).then(|| g.next_bytes().to_vec())))
        .collect();
    (key, value, headers, 1_700_000_000_000 + n as i64)
}

fn send_record(producer: &Producer, topic: &str, r: &OwnedRecord) -> Delivery {
    let headers: Vec<Header<'_>> =
        r.2.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
    let record = Record::to(topic)
        .maybe_key(r.0.as_deref())
        .maybe_value(r.1.as_deref())
        .headers(&headers)
        .timestamp(r.3);
    producer.send(record).unwrap()
}

/// Sends mixed records with a codec and reads them back with Java's consumer: exactly those, each where its
/// delivery said, per key in order.
fn round_trip(jars: &Jars, bootstrap: &str, codec: &str, count: u64) {
    let topic = format!("mixed-{codec}");
    let producer =
        Producer::builder().bootstrap_servers(bootstrap).compression(codec).build().unwrap();
    let mut g = TestRng::new(count ^ codec.len() as u64);
    let mut expected: BTreeMap<(i32, i64), OwnedRecord> = BTreeMap::new();
    let mut pending: Vec<(OwnedRecord, Delivery)> = Vec::new();
    let settle = |pending: &mut Vec<(OwnedRecord, Delivery)>, expected: &mut BTreeMap<_, _>| {
        for (record, delivery) in pending.drain(..) {
            let m = delivery.wait().unwrap();
            assert_eq!(m.timestamp(), record.3);
            let place = (m.partition(), m.offset().expect("an offset"));
            assert!(expected.insert(place, record).is_none(), "two records at {place:?}");
        }
    };
    for n in 0..count {
        let record = random_record(&mut g, n);
        let delivery = send_record(&producer, &topic, &record);
        pending.push((record, delivery));
        if pending.len() == 20_000 {
            settle(&mut pending, &mut expected);
        }
    }
    settle(&mut pending, &mut expected);
    producer.close(std::time::Duration::from_secs(30)).unwrap();
    assert_eq!(producer.available_memory(), 33_554_432, "all memory is back");
    let read = jars.read_topic(bootstrap, &topic);
    assert_eq!(read.len() as u64, count, "{codec}");
    let mut last: BTreeMap<Vec<u8>, (i32, i64)> = BTreeMap::new();
    let mut in_order = read.iter().collect::<Vec<_>>();
    in_order.sort_by_key(|r| (r.partition, r.offset));
    for r in in_order {
        let sent = expected.remove(&(r.partition, r.offset)).expect("a record nobody sent there");
        let ConsumerRecord { key, value, headers, timestamp, .. } = r.clone();
        assert_eq!((key, value, headers, timestamp), sent, "{codec} {}-{}", r.partition, r.offset);
        if let Some(key) = &r.key {
            let before = last.insert(key.clone(), (r.partition, r.timestamp));
            // Timestamps rise with the order of send.
            assert!(
                before.is_none_or(|(p, ts)| p == r.partition && ts < r.timestamp),
                "{key:?} out of order"
            );
        }
    }
    assert!(expected.is_empty());
}

#[test]
fn mixed_records_come_back_from_the_real_kafka() {
    let Some(kafka) = start_kafka() else { return };
    for codec in CODECS {
        // The records' timestamps are of 2023: without this Kafka may delete them as they come.
        kafka.create_topic(&format!("mixed-{codec}"), 4, &["retention.ms=-1"]);
        round_trip(&kafka.jars, &kafka.bootstrap, codec, mixed_record_count() / 5);
    }
    check_missing_and_auto_created_topics(&kafka);
    check_command_line_produce(&kafka);
}

fn check_missing_and_auto_created_topics(kafka: &Kafka) {
    let wait = std::time::Duration::from_secs(5);
    let producer =
        Producer::builder().bootstrap_servers(&kafka.bootstrap).max_block(wait).build().unwrap();
    let made = producer.send(Record::to("made-by-asking").value("x")).unwrap().wait().unwrap();
    assert_eq!(made.offset(), Some(0));
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
    let mut read: Vec<String> = (kafka.read_topic("lines").into_iter())
        .map(|r| String::from_utf8(r.value.unwrap()).unwrap())
        .collect();
    read.sort_by_key(|l| l[5..].parse::<u32>().unwrap());
    assert_eq!(read, lines);
}

#[test]
fn mixed_records_come_back_from_the_embedded_broker() {
    let Some(jars) = jars() else { return };
    let dir = target_dir().join(format!("embedded-{}", std::process::id()));
    let mut builder = EmbeddedBroker::builder().data_dir(&dir);
    for codec in CODECS {
        builder = builder.topic(format!("mixed-{codec}"), 4);
    }
    let broker = builder.start().unwrap();
    for codec in CODECS {
        round_trip(jars, &broker.bootstrap_servers(), codec, mixed_record_count() / 5);
        let dump = jars.dump_log_segments(&dir.join(format!("mixed-{codec}-0")));
        assert!(dump.contains("isvalid: true") && !dump.contains("isvalid: false"), "{codec}");
        assert!(dump.contains(&format!("compresscodec: {codec}")), "{codec}");
    }
    drop(broker);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Show 1: README's command puts a file's lines into a log that Kafka's own tool reads whole.
#[test]
fn the_embedded_log_is_kafkas_own_format() {
    let Some(jars) = jars() else { return };
    let dir = target_dir().join(format!("lines-{}", std::process::id()));
    let licence = concat!(env!("CARGO_MANIFEST_DIR"), "/../../LICENSE");
    let done = Command::new(assert_cmd::cargo::cargo_bin!("ottla"))
        .args(["produce", "--embedded", "--topic", "lines", licence, "--data-dir"])
        .arg(&dir)
        .stderr(Stdio::null())
        .status();
    assert!(done.unwrap().success());
    let dump = jars.dump_log_segments(&dir.join("lines-0"));
    assert!(dump.contains("isvalid: true") && !dump.contains("isvalid: false"), "{dump}");
    let payloads: Vec<&str> =
        dump.lines().filter_map(|l| Some(l.split_once(" payload: ")?.1)).collect();
    let text = std::fs::read_to_string(licence).unwrap();
    assert_eq!(payloads, text.lines().collect::<Vec<_>>());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn kafkas_own_tools_work_against_the_embedded_broker() {
    let Some(jars) = jars() else { return };
    let broker = EmbeddedBroker::builder().start().unwrap();
    let server = broker.bootstrap_servers();
    let topics = |args: &[&str]| {
        jars.run_tool(
            "org.apache.kafka.tools.TopicCommand",
            &[&["--bootstrap-server", &server], args].concat(),
        )
    };
    topics(&[
        "--create",
        "--topic",
        "tooled",
        "--partitions",
        "2",
        "--config",
        "max.message.bytes=2000000",
    ]);
    assert!(topics(&["--list"]).contains("tooled"));
    let described = topics(&["--describe", "--topic", "tooled"]);
    assert!(
        described.contains("PartitionCount: 2") && described.contains("max.message.bytes=2000000"),
        "{described}"
    );
    for codec in CODECS {
        let mut producer = jars
            .tool_command(
                "org.apache.kafka.tools.ConsoleProducer",
                &["--bootstrap-server", &server, "--topic", "tooled", "--compression-codec", codec],
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        producer
            .stdin
            .take()
            .unwrap()
            .write_all(format!("java {codec}\n").repeat(3).as_bytes())
            .unwrap();
        assert!(producer.wait().unwrap().success(), "{codec}");
    }
    let offsets = jars.run_tool(
        "org.apache.kafka.tools.GetOffsetShell",
        &["--bootstrap-server", &server, "--topic", "tooled", "--time", "-1"],
    );
    let total: u32 =
        offsets.lines().filter_map(|l| l.rsplit(':').next()?.trim().parse::<u32>().ok()).sum();
    assert_eq!(total, 15, "{offsets}");
    let mut seen = String::new();
    for partition in ["0", "1"] {
        seen += &jars.run_tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            &[
                "--bootstrap-server",
                &server,
                "--topic",
                "tooled",
                "--partition",
                partition,
                "--offset",
                "earliest",
                "--timeout-ms",
                "3000",
            ],
        );
    }
    for codec in CODECS {
        assert_eq!(seen.matches(&format!("java {codec}")).count(), 3, "{seen}");
    }
    topics(&["--delete", "--topic", "tooled"]);
    assert!(!topics(&["--list"]).contains("tooled"));
}

#[test]
fn a_log_survives_sigkill_and_half_a_batch_is_cut() {
    let Some(jars) = jars() else { return };
    let dir = target_dir().join(format!("killed-{}", std::process::id()));
    let start = || {
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
    let (mut child, server) = start();
    let producer = Producer::builder().bootstrap_servers(&server).build().unwrap();
    for i in 0..100 {
        producer.send(Record::to("kept").value(&format!("{i}"))).unwrap().wait().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(producer);
    // A kill in the middle of a write: half a batch at the end.
    let log = dir.join("kept-0/00000000000000000000.log");
    let whole = std::fs::read(&log).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(&whole[..40]).unwrap();
    drop(file);
    let (mut child, server) = start();
    let read = jars.read_topic(&server, "kept");
    let values: Vec<String> =
        read.iter().map(|r| String::from_utf8(r.value.clone().unwrap()).unwrap()).collect();
    assert_eq!(values, (0..100).map(|i| i.to_string()).collect::<Vec<_>>());
    let producer = Producer::builder().bootstrap_servers(&server).build().unwrap();
    let next = producer.send(Record::to("kept").value("next")).unwrap().wait().unwrap();
    assert_eq!(next.offset(), Some(100));
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Our producer while nodes end and come back, then Kafka's own tools and consumer on what it left.
#[test]
fn three_embedded_nodes_stand_in_for_a_cluster() {
    let Some(jars) = jars() else { return };
    let broker = EmbeddedBroker::builder().node_count(3).auto_create_topics(false).start().unwrap();
    let server = broker.bootstrap_servers();
    let topics = |args: &[&str]| {
        let at = ["--bootstrap-server", server.as_str()];
        jars.run_tool("org.apache.kafka.tools.TopicCommand", &[&at, args].concat())
    };
    let minimum = "min.insync.replicas=2";
    let shape = ["--partitions", "3", "--replication-factor", "3", "--config", minimum];
    topics(&[&["--create", "--topic", "three"][..], &shape].concat());
    let described = topics(&["--describe", "--topic", "three"]);
    assert!(described.contains("ReplicationFactor: 3"), "{described}");
    let producer =
        Producer::builder().bootstrap_servers(&server).set("linger.ms", "1").build().unwrap();
    let mut sent = Vec::new();
    for round in 0..6 {
        let node = round % 3 + 1;
        broker.stop_node(node);
        for n in 0..200 {
            let value = format!("{round}/{n}");
            let record = Record::to("three").partition(n % 3).value(&value);
            sent.push((n % 3, value.clone(), producer.send(record).unwrap()));
            if n == 100 {
                broker.start_node(node);
            }
        }
        producer.flush().unwrap();
    }
    for (p, value, delivery) in &sent {
        let written = delivery.try_result().expect("it was flushed").unwrap();
        assert_eq!(written.partition(), *p, "{value}");
    }
    let log = jars.read_topic(&server, "three");
    assert_eq!(log.len(), 1200);
    for p in 0..3 {
        let expected: Vec<&String> = sent.iter().filter(|s| s.0 == p).map(|s| &s.1).collect();
        let found: Vec<String> = (log.iter())
            .filter(|r| r.partition == p)
            .filter_map(|r| String::from_utf8(r.value.clone()?).ok())
            .collect();
        assert!(found.iter().eq(expected), "partition {p}");
    }
    let described = topics(&["--describe", "--topic", "three", "--under-replicated-partitions"]);
    assert!(!described.contains("Partition:"), "{described}");
}
