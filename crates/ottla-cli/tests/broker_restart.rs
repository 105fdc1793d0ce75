//! `ottla broker --data-dir` ends by SIGKILL and starts again: transactions and groups continue.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod process;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla::{Producer, Record};
use ottla_protocol::header::{decode_response, encode_request};
use ottla_protocol::messages::*;
use ottla_protocol::record::{BatchHeader, RecordBody, attributes};
use ottla_protocol::{ErrorCode, Request};
use ottla_testkit::{Jars, target_dir};
use process::broker::{BrokerProcess, DEADLINE};
use process::run_ottla;
use tempfile::TempDir;

/// A broker process, and the directory that outlives it.
struct DurableBroker {
    process: BrokerProcess,
    dir: TempDir,
}

impl DurableBroker {
    fn start() -> DurableBroker {
        DurableBroker::start_in(tempfile::tempdir_in(target_dir()).unwrap())
    }

    fn start_in(dir: TempDir) -> DurableBroker {
        let path = dir.path().to_str().unwrap();
        let process = BrokerProcess::start(&["--topic", "t:2", "--data-dir", path]);
        DurableBroker { process, dir }
    }

    /// Ends the process and returns the directory.
    fn kill(self) -> TempDir {
        self.dir
    }

    fn kill_and_restart(self) -> DurableBroker {
        DurableBroker::start_in(self.kill())
    }

    fn send<R: Request>(&self, request: &R, version: i16) -> R::Response {
        let address = self.process.server.parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&encode_request(request, version, 1, Some("c")).unwrap()).unwrap();
        let mut size = [0; 4];
        stream.read_exact(&mut size).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(size) as usize];
        stream.read_exact(&mut frame).unwrap();
        decode_response::<R>(&Bytes::from(frame), version).unwrap()
    }

    /// Returns the end of what `read_committed` consumers of partition 0 may read.
    fn last_stable_offset(&self) -> i64 {
        let latest = ListOffsetsPartition { timestamp: -1, ..Default::default() };
        let topic =
            ListOffsetsTopic { name: "t".into(), partitions: vec![latest], ..Default::default() };
        let request =
            ListOffsetsRequest { isolation_level: 1, topics: vec![topic], ..Default::default() };
        self.send(&request, 7).topics[0].partitions[0].offset
    }
}

fn transactional_batch(producer_id: i64, producer_epoch: i16) -> Bytes {
    let mut records = Vec::new();
    let no_headers = std::iter::empty::<(&str, Option<&[u8]>)>();
    let body = RecordBody::new(None, Some(b"open"), no_headers);
    body.encode(&mut records, body.measure(0, 0));
    let header = BatchHeader {
        base_offset: 0,
        partition_leader_epoch: -1,
        attributes: attributes::TRANSACTIONAL_FLAG_MASK,
        last_offset_delta: 0,
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id,
        producer_epoch,
        base_sequence: 0,
        record_count: 1,
    };
    [&header.encode(&records)[..], &records].concat().into()
}

/// Begins a transaction of `tx` with a record in partition 0.
fn begin_transaction(broker: &DurableBroker) -> InitProducerIdResponse {
    let init = InitProducerIdRequest {
        transactional_id: Some("tx".into()),
        transaction_timeout_ms: 2000,
        ..Default::default()
    };
    let producer = broker.send(&init, 4);
    assert_eq!(producer.error_code, 0);
    let data = PartitionProduceData {
        records: Some(transactional_batch(producer.producer_id, producer.producer_epoch)),
        ..Default::default()
    };
    let topic =
        TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    let produce = ProduceRequest {
        transactional_id: Some("tx".into()),
        acks: -1,
        timeout_ms: 1000,
        topic_data: vec![topic],
        ..Default::default()
    };
    assert_eq!(broker.send(&produce, 12).responses[0].partition_responses[0].error_code, 0);
    producer
}

#[test]
fn transaction_of_a_killed_broker_times_out_and_offsets_are_still_there() {
    let broker = DurableBroker::start();
    let producer = begin_transaction(&broker);
    let offset = OffsetCommitRequestPartition { committed_offset: 7, ..Default::default() };
    let topic = OffsetCommitRequestTopic {
        name: "t".into(),
        partitions: vec![offset],
        ..Default::default()
    };
    let commit =
        OffsetCommitRequest { group_id: "g".into(), topics: vec![topic], ..Default::default() };
    let commit = OffsetCommitRequest { generation_id: -1, ..commit };
    assert_eq!(broker.send(&commit, 8).topics[0].partitions[0].error_code, 0);

    let broker = broker.kill_and_restart();
    let group = OffsetFetchRequestGroup { group_id: "g".into(), ..Default::default() };
    let fetch = OffsetFetchRequest {
        groups: vec![OffsetFetchRequestGroup { topics: None, ..group }],
        ..Default::default()
    };
    let fetched = broker.send(&fetch, 8).groups[0].clone();
    assert_eq!(fetched.topics[0].partitions[0].committed_offset, 7);
    // The new process aborts the transaction when it times out: then the marker has offset 1.
    let started_at = Instant::now();
    while broker.last_stable_offset() < 2 {
        assert!(started_at.elapsed() < DEADLINE, "the transaction did not time out");
        std::thread::sleep(Duration::from_millis(50));
    }
    let end = EndTxnRequest {
        transactional_id: "tx".into(),
        producer_id: producer.producer_id,
        producer_epoch: producer.producer_epoch,
        committed: true,
        ..Default::default()
    };
    assert_eq!(ErrorCode(broker.send(&end, 5).error_code), ErrorCode::PRODUCER_FENCED);
}

#[test]
fn damaged_state_is_an_error_of_the_command() {
    let broker = DurableBroker::start();
    begin_transaction(&broker);
    let dir = broker.kill();
    let path = dir.path().join("__transaction_state-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let out = run_ottla(&["broker", "--listen", "127.0.0.1:0", "--data-dir", data_dir], b"");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{stderr}");
    assert!(stderr.contains(&format!("{} is damaged", path.display())), "{stderr}");
    assert!(stderr.contains("restore the file, or move the directory away"), "{stderr}");
}

fn send_values(server: &str, prefix: &str, count: usize) {
    let producer = Producer::builder().bootstrap_servers(server).build().unwrap();
    for n in 0..count {
        producer.send(Record::to("t").value(&format!("{prefix}{n}"))).unwrap().wait().unwrap();
    }
}

fn read_as_group(jars: &Jars, server: &str) -> Vec<String> {
    let group = ["--topic", "t", "--group", "g", "--from-beginning", "--timeout-ms", "5000"];
    let args = [&["--bootstrap-server", server][..], &group].concat();
    let output = jars.run_tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &args);
    output.lines().map(str::to_owned).collect()
}

#[test]
fn java_consumer_resumes_after_the_kill_and_kafka_decodes_the_state() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let broker = DurableBroker::start();
    send_values(&broker.process.server, "a", 20);
    assert_eq!(read_as_group(&jars, &broker.process.server).len(), 20);
    send_values(&broker.process.server, "b", 5);
    let broker = broker.kill_and_restart();
    let second = read_as_group(&jars, &broker.process.server);
    assert!(second.len() == 5 && second.iter().all(|v| v.starts_with('b')), "{second:?}");
    begin_transaction(&broker);

    let dump = |topic: &str, decoder: &str| {
        let path = broker.dir.path().join(format!("{topic}-0/00000000000000000000.log"));
        let path = path.display().to_string();
        let args = ["--deep-iteration", decoder, "--files", &path];
        jars.run_tool("org.apache.kafka.tools.DumpLogSegments", &args)
    };
    let offsets = dump("__consumer_offsets", "--offsets-decoder");
    for expected in [r#""group":"g""#, r#""topic":"t""#, r#""protocolType":"consumer""#] {
        assert!(offsets.contains(expected), "{expected}: {offsets}");
    }
    let transactions = dump("__transaction_state", "--transaction-log-decoder");
    for expected in [r#""transactionalId":"tx""#, r#""transactionStatus":1"#, r#""topic":"t""#] {
        assert!(transactions.contains(expected), "{expected}: {transactions}");
    }
}
