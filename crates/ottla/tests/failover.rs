//! An application's test of failover: the leader stops while records are sent. Only public items of
//! `ottla` and `ottla-broker` are used.
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
