//! Tests of the embedded broker through its public items, over TCP.
#![allow(missing_docs, clippy::disallowed_methods)]

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use ottla_broker::{
    ConsumerRecord, EmbeddedBroker, ErrorCode, HandleResult, LocalAddress, MoveLeaderOptions,
    NewTopic, TransactionStatus,
};
use ottla_protocol::Request;
use ottla_protocol::header::{decode_response, encode_request};
use ottla_protocol::record::attributes;
use support::*;

fn connect(broker: &EmbeddedBroker, node: usize) -> std::io::Result<TcpStream> {
    TcpStream::connect(broker.bootstrap_servers().split(',').nth(node - 1).unwrap())
}

#[test]
fn stopped_node_refuses_connections_until_it_starts_again() {
    let broker = EmbeddedBroker::builder().node_count(3).topic("t", 3).start().unwrap();
    let servers = broker.bootstrap_servers();
    let mut open = connect(&broker, 2).unwrap();
    for _ in 0..3 {
        broker.stop_node(2);
        assert_eq!(open.read(&mut [0; 1]).unwrap(), 0, "the connection ends with the node");
        assert_eq!(connect(&broker, 2).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(connect(&broker, 1).is_ok() && connect(&broker, 3).is_ok());
        broker.stop_node(2);
        broker.start_node(2).unwrap();
        broker.start_node(2).unwrap();
        open = connect(&broker, 2).unwrap();
    }
    assert_eq!(broker.bootstrap_servers(), servers);
    let e = broker.start_node(4).unwrap_err();
    assert_eq!(e.to_string(), "there is no node 4; the ids are 1 to 3");
}

#[test]
fn broker_stops_while_a_node_is_stopped() {
    // No other test uses this address, so no test takes the ports over.
    let builder = EmbeddedBroker::builder().listen("127.0.0.7:0");
    let broker = builder.node_count(2).start().unwrap();
    let servers = broker.bootstrap_servers();
    broker.stop_node(1);
    drop(broker);
    for server in servers.split(',') {
        assert_eq!(TcpStream::connect(server).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn leader_moves_with_stops_and_by_hand() {
    let broker = EmbeddedBroker::builder().node_count(3).topic("t", 2).start().unwrap();
    assert_eq!((broker.leader("t", 0), broker.leader("t", 1)), (Some(1), Some(2)));
    broker.stop_node(1);
    assert_eq!(broker.leader("t", 0), Some(2));
    let moved = broker
        .with_core(|core, now| core.move_leader("t", 0, 3, MoveLeaderOptions::default(), now));
    assert!(moved);
    assert_eq!(broker.leader("t", 0), Some(3));
    (2..=3).for_each(|node| broker.stop_node(node));
    assert_eq!(broker.leader("t", 0), None);
    assert_eq!((broker.leader("t", 2), broker.leader("u", 0)), (None, None));
}

#[test]
fn topics_have_their_own_replication_and_settings() {
    let broker = EmbeddedBroker::builder()
        .node_count(3)
        .default_replication_factor(1)
        .topic("one", 1)
        .new_topic(NewTopic::new("two", 1).replication_factor(2).config("segment.bytes", "1000"))
        .start()
        .unwrap();
    broker.create_topic(NewTopic::new("three", 1).replication_factor(3)).unwrap();
    let replicas = |topic: &str| {
        let description = broker.with_core(|core, _now| core.describe_partition(topic, 0)).unwrap();
        description.log_end_offsets
    };
    assert_eq!(replicas("one"), BTreeMap::from([(1, 0)]));
    assert_eq!(replicas("two"), BTreeMap::from([(1, 0), (2, 0)]));
    assert_eq!(replicas("three").len(), 3);

    let refused = |topic: NewTopic| broker.create_topic(topic).unwrap_err();
    let e = refused(NewTopic::new("four", 1).replication_factor(4));
    assert_eq!(e.code, ErrorCode::INVALID_REPLICATION_FACTOR);
    assert_eq!(e.message, "the replication factor is 4, but there are 3 brokers");
    let e = refused(NewTopic::new("typo", 1).config("min.insync.replica", "1"));
    assert_eq!(e.code, ErrorCode::INVALID_CONFIG);
    assert_eq!(refused(NewTopic::new("one", 1)).code, ErrorCode::TOPIC_ALREADY_EXISTS);
    let e = EmbeddedBroker::builder().new_topic(NewTopic::new("bad", 0)).start().unwrap_err();
    assert!(e.to_string().contains("topic bad was not created: INVALID_PARTITIONS"), "{e}");
}

/// Handles a request as node 1 does.
fn send<R: Request>(broker: &EmbeddedBroker, request: &R, version: i16) -> R::Response {
    let frame = Bytes::from(encode_request(request, version, 7, Some("c")).unwrap()).slice(4..);
    let local = LocalAddress { host: "h".into(), port: 9092 };
    let handle = |core: &mut ottla_broker::Core, now: ottla_broker::ClockReading| {
        core.handle_at_node(1, &frame, &local, now.mono_ms, now)
    };
    match broker.with_core(handle) {
        HandleResult::SendResponse(out) => {
            decode_response::<R>(&Bytes::from(out).slice(4..), version).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// Sends one record in a transaction and ends it; returns the producer of the next transaction.
fn run_transaction(
    broker: &EmbeddedBroker,
    p: TestProducer,
    value: &str,
    is_committed: bool,
) -> TestProducer {
    let records = record_batch(p, 0, value, attributes::TRANSACTIONAL_FLAG_MASK);
    let produced = send(broker, &produce_request(Some("tx"), 0, records), 12);
    assert_eq!(produced.responses[0].partition_responses[0].error_code, 0);
    let ended = send(broker, &end_request(p, is_committed), 5);
    assert_eq!(ended.error_code, 0);
    TestProducer { id: ended.producer_id, epoch: ended.producer_epoch }
}

#[test]
fn wait_for_committed_records_leaves_out_aborted_and_waits_for_the_commit() {
    let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
    let init = send(&broker, &init_request(60_000), 5);
    let p = TestProducer { id: init.producer_id, epoch: init.producer_epoch };
    let p = run_transaction(&broker, p, "aborted", false);
    let p = run_transaction(&broker, p, "first", true);
    assert_eq!(broker.wait_for_records("t", 2, Duration::ZERO).unwrap().len(), 2);
    let e = broker.wait_for_committed_records("t", 2, Duration::ZERO).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TimedOut);
    assert_eq!(e.to_string(), "1 of 2 committed records of t came in 0ns");
    let committed = std::thread::scope(|scope| {
        let wait = || broker.wait_for_committed_records("t", 2, Duration::from_secs(60)).unwrap();
        let waiting = scope.spawn(wait);
        run_transaction(&broker, p, "second", true);
        waiting.join().unwrap()
    });
    let read = |r: &ConsumerRecord| (r.value.clone().unwrap(), r.transaction);
    let read: Vec<_> = committed.iter().map(read).collect();
    let committed = TransactionStatus::Committed;
    assert_eq!(read, [("first".into(), committed), ("second".into(), committed)]);
}

/// Creates the topic `t` and sends records to it, one a batch.
fn create_and_fill(broker: &EmbeddedBroker, record_count: i32) {
    broker.create_topic(NewTopic::new("t", 1)).unwrap();
    let init = send(broker, &init_request(60_000), 5);
    let p = TestProducer { id: init.producer_id, epoch: init.producer_epoch };
    for sequence in 0..record_count {
        let records = record_batch(p, sequence, &format!("v{sequence}"), 0);
        let produced = send(broker, &produce_request(None, 0, records), 12);
        assert_eq!(produced.responses[0].partition_responses[0].error_code, 0);
    }
}

#[test]
fn wait_reads_a_topic_that_is_created_again_from_its_start() {
    let broker = EmbeddedBroker::start().unwrap();
    create_and_fill(&broker, 3);
    let records = std::thread::scope(|scope| {
        let wait = || broker.wait_for_records("t", 4, Duration::from_secs(60)).unwrap();
        let waiting = scope.spawn(wait);
        // The wait has read the first topic's records before or not: neither count is enough.
        broker.with_core(|core, _now| core.delete_topic("t").unwrap());
        create_and_fill(&broker, 4);
        waiting.join().unwrap()
    });
    assert_eq!(records.iter().map(|r| r.offset).collect::<Vec<_>>(), [0, 1, 2, 3]);
}
