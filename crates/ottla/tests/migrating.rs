//! Checks what docs/MIGRATING.md says: the partitions of keys, compared with librdkafka itself, and
//! settings of Java.
//!
//! The comparison needs Python, for whose package confluent-kafka pip fetches librdkafka.
//! `TEST_PYTHON` names another interpreter than `python3`.
#![allow(missing_docs, clippy::disallowed_methods)]

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use ottla::{Error, Producer, Record};
use ottla_broker::EmbeddedBroker;
use ottla_testkit::Librdkafka;

/// Keys of every length up to 40 with bytes above 127, which signed arithmetic treats differently.
/// None is empty: `consistent_random` assigns an empty key at random.
fn keys() -> Vec<Vec<u8>> {
    let byte = |n: usize, i: usize| (n * 31 + i * 97 + i * i * 7) as u8;
    (0..400).map(|n| (0..=n % 40).map(|i| byte(n, i)).collect()).collect()
}

fn hex_lines(keys: &[Vec<u8>]) -> String {
    let hex = |key: &Vec<u8>| key.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
    keys.iter().map(hex).collect()
}

/// Runs the script, and returns its output.
fn run_librdkafka(rdkafka: &Librdkafka, servers: &str, topic: &str, keys: &[Vec<u8>]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/librdkafka/partitions.py");
    let mut child = rdkafka
        .command(&script)
        .args([servers, topic])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(hex_lines(keys).as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "the script failed");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn each_key_goes_to_the_partition_that_librdkafka_chooses() -> Result<(), Error> {
    let Some(rdkafka) = Librdkafka::find_or_install() else { return Ok(()) };
    let keys = keys();
    let mut partitioners = 0;
    for partitions in [1, 2, 7, 12, 100] {
        let broker = EmbeddedBroker::builder().topic("keys", partitions).start().unwrap();
        let servers = broker.bootstrap_servers();
        for line in run_librdkafka(&rdkafka, &servers, "keys", &keys).lines() {
            let (partitioner, expected) = line.split_once(' ').unwrap();
            let expected: Vec<i32> = expected.split(' ').map(|p| p.parse().unwrap()).collect();
            let builder = Producer::builder().bootstrap_servers(&servers);
            let producer = builder.set("partitioner", partitioner).build()?;
            let topic = producer.topic("keys")?;
            let mut chosen = Vec::new();
            for key in &keys {
                chosen.push(topic.send(topic.record().key(key).value("v"))?.partition());
            }
            assert_eq!(chosen, expected, "{partitioner} with {partitions} partitions");
            partitioners += 1;
        }
    }
    assert_eq!(partitioners, 5 * 6, "six partitioners for each number of partitions");
    Ok(())
}

#[test]
fn default_partitioner_of_librdkafka_keeps_the_partitions_of_its_own_tests() -> Result<(), Error> {
    // The CRC-32 of librdkafka's test of its partitioners, modulo the number of partitions.
    let broker = EmbeddedBroker::builder().topic("keys", 7).start().unwrap();
    let producer = Producer::builder()
        .bootstrap_servers(broker.bootstrap_servers())
        .set("partitioner", "consistent_random")
        .build()?;
    for (key, crc) in [("23456", 0xb1b4_51d7_u32), ("hejsan", 0xd077_037e)] {
        let partition = producer.send(Record::to("keys").key(key))?.wait()?.partition();
        assert_eq!(partition as u32, crc % 7, "{key}");
    }
    Ok(())
}

#[test]
fn settings_that_name_java_classes_are_notices_or_errors_as_documented() {
    let set = |name: &str| {
        let mut properties = ottla::Properties::new();
        properties.set(name, "com.example.Application").map(|()| properties.notices())
    };
    for name in ["key.serializer", "value.serializer"] {
        let notices = set(name).unwrap();
        assert!(notices[0].contains("`TypedProducer` takes a `Serializer`"), "{notices:?}");
    }
    let notices = set("sasl.login.callback.handler.class").unwrap();
    assert!(notices[0].contains("has no effect"), "{notices:?}");
    for name in ["interceptor.classes", "partitioner.class"] {
        let e = set(name).unwrap_err().to_string();
        assert!(e.contains(name), "{e}");
    }
}
