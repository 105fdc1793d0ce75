//! An application's tests of failover: the leader stops while records are sent. Only public items
//! of `ottla` and `ottla-broker` are used.
#![allow(missing_docs)]

use std::time::Duration;

use ottla::{Error, Producer, Record};
use ottla_broker::{EmbeddedBroker, NewTopic};

#[test]
fn records_survive_the_stop_of_their_leader() -> Result<(), Error> {
    let orders =
        NewTopic::new("orders", 1).replication_factor(3).config("min.insync.replicas", "2");
    let broker = EmbeddedBroker::builder().node_count(3).new_topic(orders).start().unwrap();
    let producer = Producer::builder().bootstrap_servers(broker.bootstrap_servers()).build()?;

    let mut deliveries = Vec::new();
    let mut stopped = None;
    for number in 0..300_u32 {
        if number == 100 {
            let leader = broker.leader("orders", 0).expect("all nodes run");
            broker.stop_node(leader);
            stopped = Some(leader);
        }
        if number == 200 {
            broker.start_node(stopped.expect("the leader was stopped")).unwrap();
        }
        deliveries.push(producer.send(Record::to("orders").value(&number.to_be_bytes()))?);
        // Requests are in flight when the node stops.
        if number % 10 == 0 {
            producer.flush_timeout(Duration::from_millis(1))?;
        }
    }
    for (number, delivery) in (0..).zip(deliveries) {
        assert_eq!(delivery.wait()?.offset(), Some(number), "once, and in order");
    }
    let values = broker.records("orders").unwrap().into_iter().map(|r| r.value.unwrap());
    assert!(values.eq((0..300_u32).map(|n| n.to_be_bytes().to_vec())));
    assert_ne!(broker.leader("orders", 0), stopped, "the node is back as a follower");
    Ok(())
}

/// Followers that are behind make the difference: the new leader does not have the records.
#[test]
fn records_that_only_the_stopped_leader_had_are_sent_again() -> Result<(), Error> {
    let orders =
        NewTopic::new("orders", 1).replication_factor(3).config("min.insync.replicas", "2");
    let broker = EmbeddedBroker::builder().node_count(3).new_topic(orders).start().unwrap();
    let producer = Producer::builder().bootstrap_servers(broker.bootstrap_servers()).build()?;
    let leader = broker.leader("orders", 0).expect("all nodes run");
    let followers = (1..=3).filter(|node| *node != leader);
    let pause = |paused| {
        for node in followers.clone() {
            broker.with_core(|core, now| core.set_replication_paused(node, paused, now));
        }
    };
    pause(true);
    let mut deliveries = Vec::new();
    for number in 0..10_u32 {
        deliveries.push(producer.send(Record::to("orders").value(&number.to_be_bytes()))?);
    }
    let end_offset = |node| {
        let partition = broker.with_core(|core, _| core.describe_partition("orders", 0));
        partition.expect("the topic exists").log_end_offsets[&node]
    };
    while end_offset(leader) == 0 {
        std::thread::yield_now();
    }
    assert!(followers.clone().all(|node| end_offset(node) == 0), "only the leader has records");
    assert!(deliveries.iter().all(|d| d.try_result().is_none()), "none is acknowledged");
    broker.stop_node(leader);
    pause(false);
    broker.start_node(leader).unwrap();
    for (number, delivery) in (0..).zip(deliveries) {
        assert_eq!(delivery.wait()?.offset(), Some(number), "once, and in order");
    }
    assert!(producer.totals().record_retry_total > 0);
    assert_eq!(broker.records("orders").unwrap().len(), 10);
    Ok(())
}
