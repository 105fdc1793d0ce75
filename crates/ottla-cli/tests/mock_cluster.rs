//! Transactions at librdkafka's mock cluster: a coordinator that shares no code with this project,
//! and that refuses requests when the test says so.
//!
//! Without Python, for whose package confluent-kafka pip fetches librdkafka, the test reports that
//! it is skipped.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use ottla::{
    ConsumerGroupMetadata, ErrorCode, ErrorKind, OffsetAndMetadata, Producer, Record, Transaction,
};
use ottla_protocol::ApiKey;
use ottla_testkit::Librdkafka;

/// The mock cluster. Dropping it ends its process.
struct MockCluster {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    bootstrap: String,
}

impl MockCluster {
    fn start(librdkafka: &Librdkafka) -> MockCluster {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/librdkafka/mock_cluster.py");
        let mut command = librdkafka.command(&script);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut cluster = MockCluster { process, input, output, bootstrap: String::new() };
        cluster.bootstrap = cluster.read_line();
        cluster
    }

    fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the mock cluster has ended");
        line.trim_end().to_owned()
    }

    fn run(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        self.read_line()
    }

    /// Lets the next requests of an API fail with these codes.
    fn refuse(&mut self, api: ApiKey, codes: &[ErrorCode]) {
        let codes: Vec<String> = codes.iter().map(|code| code.0.to_string()).collect();
        assert_eq!(self.run(&format!("errors {} {}", api.0, codes.join(" "))), "ok");
    }

    fn move_coordinator(&mut self, node: i32) {
        assert_eq!(self.run(&format!("coordinator mock {node}")), "ok");
    }

    fn producer(&self) -> Producer {
        let builder = Producer::builder().bootstrap_servers(&self.bootstrap);
        let producer = builder.transactional_id("mock").build().unwrap();
        producer.init_transactions().unwrap();
        producer
    }
}

impl Drop for MockCluster {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Begins a transaction with a record and the offset of a group.
fn begin(producer: &Producer, value: &str) -> Transaction {
    let transaction = producer.begin_transaction().unwrap();
    producer.send(Record::to("t").value(value)).unwrap();
    transaction
}

fn send_offsets(transaction: &Transaction) {
    let offsets = [OffsetAndMetadata::new("t", 0, 7)];
    transaction.send_offsets(&offsets, &ConsumerGroupMetadata::new("g")).unwrap();
}

// CASES: TM10, TM11, TM15, TM19.
#[test]
fn transactions_at_librdkafkas_mock_cluster() {
    let Some(librdkafka) = Librdkafka::find_or_install() else { return };
    let mut cluster = MockCluster::start(&librdkafka);
    assert_eq!(cluster.run("topic t 1"), "ok");
    cluster.move_coordinator(1);
    let producer = cluster.producer();

    let mut transaction = begin(&producer, "committed");
    send_offsets(&transaction);
    transaction.commit().unwrap();

    let mut transaction = begin(&producer, "moved");
    send_offsets(&transaction);
    cluster.move_coordinator(2);
    transaction.commit().unwrap();

    let temporary = [
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode::CONCURRENT_TRANSACTIONS,
        ErrorCode::NOT_COORDINATOR,
    ];
    for api in [ApiKey::ADD_PARTITIONS_TO_TXN, ApiKey::ADD_OFFSETS_TO_TXN, ApiKey::END_TXN] {
        cluster.refuse(api, &temporary);
    }
    cluster.refuse(ApiKey::TXN_OFFSET_COMMIT, &[ErrorCode::COORDINATOR_LOAD_IN_PROGRESS]);
    let mut transaction = begin(&producer, "repeated");
    send_offsets(&transaction);
    transaction.commit().unwrap();

    cluster.refuse(ApiKey::ADD_PARTITIONS_TO_TXN, &[ErrorCode::TOPIC_AUTHORIZATION_FAILED]);
    let mut transaction = begin(&producer, "refused");
    let e = transaction.commit().unwrap_err();
    assert_eq!((e.requires_abort(), e.code()), (true, Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED)));
    transaction.abort().unwrap();

    let mut transaction = begin(&producer, "later");
    transaction.commit().unwrap();

    cluster.refuse(ApiKey::END_TXN, &[ErrorCode::PRODUCER_FENCED]);
    let mut transaction = begin(&producer, "fenced");
    let e = transaction.commit().unwrap_err();
    assert!(e.is_fatal() && e.kind() == ErrorKind::Fenced, "{e}");
    let second = cluster.producer();
    begin(&second, "second").commit().unwrap();
    // The mock cluster writes no markers, so its consumers see the records of any transaction.
    // The refused record was never sent.
    assert_eq!(cluster.run("read t 6"), "committed moved repeated later fenced second");
}
