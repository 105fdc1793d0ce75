//! An application's tests with the embedded broker: reading back, replication, time-outs. Only
//! public items of `ottla` and `ottla-broker` are used.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::ErrorKind as IoErrorKind;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use ottla::{
    BatchReport, BrokerState, Compression, Error, ErrorCode, Header, Producer, ProducerBuilder,
    Record,
};
use ottla_broker::{ConsumerRecord, EmbeddedBroker, NewTopic};

/// Longer than any wait here takes, unless it fails.
const LONG: Duration = Duration::from_secs(60);

fn producer_builder(broker: &EmbeddedBroker) -> ProducerBuilder {
    Producer::builder().bootstrap_servers(broker.bootstrap_servers())
}

fn text(bytes: Option<&ottla_broker::Bytes>) -> Option<&str> {
    bytes.map(|b| std::str::from_utf8(b).unwrap())
}

#[test]
fn records_are_read_back_with_all_their_parts() -> Result<(), Error> {
    let broker = EmbeddedBroker::builder().topic("orders", 2).start().unwrap();
    let producer = producer_builder(&broker).compression(Compression::lz4()).build()?;
    let headers = [Header::new("trace", "42"), Header::null("trace")];
    let first = Record::to("orders").partition(1).key("k").value("v").headers(&headers);
    producer.send(first.timestamp(1_700_000_000_123))?;
    producer.send(Record::to("orders").partition(1).key("k"))?;
    producer.send(Record::to("orders").partition(0).value(""))?;
    producer.flush()?;

    let records = broker.records("orders").unwrap();
    let position = |r: &ConsumerRecord| (r.partition, r.offset);
    assert_eq!(records.iter().map(position).collect::<Vec<_>>(), [(0, 0), (1, 0), (1, 1)]);
    assert_eq!((text(records[0].key.as_ref()), text(records[0].value.as_ref())), (None, Some("")));
    assert_eq!(text(records[1].value.as_ref()), Some("v"));
    assert_eq!(records[1].timestamp, 1_700_000_000_123);
    let trace = |value: Option<&str>| ("trace".to_owned(), value.map(|v| v.to_owned().into()));
    assert_eq!(records[1].headers, [trace(Some("42")), trace(None)]);
    assert_eq!((text(records[2].key.as_ref()), records[2].value.as_ref()), (Some("k"), None));
    assert!(broker.records("unknown").unwrap().is_empty());
    Ok(())
}

#[test]
fn wait_for_records_ends_when_they_arrive() -> Result<(), Error> {
    let broker = EmbeddedBroker::start().unwrap();
    let producer = producer_builder(&broker).build()?;
    thread::scope(|scope| {
        let waiter = scope.spawn(|| broker.wait_for_records("orders", 100, LONG));
        for number in 0..100_u32 {
            producer.send(Record::to("orders").value(&number.to_string()))?.wait()?;
        }
        assert_eq!(waiter.join().unwrap().unwrap().len(), 100);
        Ok(())
    })
}

#[test]
fn wait_for_records_that_do_not_arrive_says_how_many_did() -> Result<(), Error> {
    let broker = EmbeddedBroker::start().unwrap();
    let producer = producer_builder(&broker).build()?;
    producer.send(Record::to("orders").value("3 apples"))?.wait()?;
    let e = broker.wait_for_records("orders", 2, Duration::from_millis(1)).unwrap_err();
    assert_eq!(e.kind(), IoErrorKind::TimedOut);
    assert_eq!(e.to_string(), "1 of 2 records of orders came in 1ms");
    Ok(())
}

#[test]
fn only_replicated_records_are_read_back() -> Result<(), Error> {
    let broker = EmbeddedBroker::builder().node_count(2).topic("orders", 1).start().unwrap();
    let producer = producer_builder(&broker).set("acks", "1").build()?;
    producer.send(Record::to("orders").value("replicated"))?.wait()?;
    assert_eq!(broker.wait_for_records("orders", 1, LONG).unwrap().len(), 1);
    broker.with_core(|core, now| core.set_replication_paused(2, true, now));
    producer.send(Record::to("orders").value("only at the leader"))?.wait()?;
    assert_eq!(broker.records("orders").unwrap().len(), 1);
    broker.with_core(|core, now| core.set_replication_paused(2, false, now));
    assert_eq!(broker.wait_for_records("orders", 2, LONG).unwrap().len(), 2);
    Ok(())
}

#[test]
fn min_insync_replicas_counts_running_nodes() -> Result<(), Error> {
    let orders = NewTopic::new("orders", 1).config("min.insync.replicas", "2");
    let broker = EmbeddedBroker::builder().node_count(2).new_topic(orders).start().unwrap();
    let producer = producer_builder(&broker).set("retries", "1").build()?;
    producer.send(Record::to("orders").value("two replicas"))?.wait()?;
    broker.stop_node(2);
    let e = producer.send(Record::to("orders").value("one replica"))?.wait().unwrap_err();
    assert_eq!(e.code(), Some(ErrorCode::NOT_ENOUGH_REPLICAS), "{e}");
    broker.start_node(2).unwrap();
    assert_eq!(broker.wait_for_records("orders", 1, LONG).unwrap().len(), 1);
    Ok(())
}

#[test]
fn snapshot_is_taken_by_the_sender_and_not_while_a_handler_keeps_it_busy() -> Result<(), Error> {
    let broker = EmbeddedBroker::builder().topic("orders", 1).start().unwrap();
    let (entered, handler_entered) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let handler = move |_: &BatchReport<'_>| {
        entered.send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
    };
    let producer = producer_builder(&broker).delivery_handler(handler).build()?;
    producer.send(Record::to("orders").value("3 apples"))?;
    handler_entered.recv().unwrap();
    assert_eq!(producer.snapshot_timeout(Duration::from_millis(20))?, None);
    release.send(()).unwrap();
    let snapshot = producer.snapshot()?;
    assert_eq!(snapshot.partitions, []);
    assert!(snapshot.brokers.iter().any(|b| b.state == BrokerState::Ready), "{snapshot:?}");
    Ok(())
}
