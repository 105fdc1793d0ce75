//! Tests of the embedded broker through its public items, over TCP.
#![allow(missing_docs, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use ottla_broker::{EmbeddedBroker, ErrorCode, MoveLeaderOptions, NewTopic};

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
