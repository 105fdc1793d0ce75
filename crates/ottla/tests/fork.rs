//! A process that forks after it has built a producer: the child has no thread that could send.
#![cfg(unix)]
#![allow(missing_docs)]

use std::time::Duration;

use fork::{Fork, fork, waitpid};
use ottla::{Error, ErrorKind, Producer, Record, Topic};
use ottla_broker::EmbeddedBroker;

/// Returns the calls of the child that did not return the error of a forked process.
fn calls_that_work(producer: &Producer, topic: &Topic) -> u8 {
    let is_forked =
        |result: Result<(), Error>| matches!(result, Err(e) if e.kind() == ErrorKind::Forked);
    let calls = [
        is_forked(topic.enqueue(topic.record().value("child"))),
        is_forked(producer.send(Record::to("orders").value("child")).map(drop)),
        is_forked(producer.try_send(Record::to("other").value("child")).map(drop)),
        is_forked(producer.flush()),
        is_forked(producer.close(Duration::from_secs(1)).map(drop)),
    ];
    calls.into_iter().filter(|is_forked| !is_forked).count() as u8
}

#[test]
fn forked_child_gets_an_error_for_each_call_and_the_parent_continues() -> Result<(), Error> {
    let broker = EmbeddedBroker::builder().topic("orders", 1).start().unwrap();
    let producer = Producer::builder()
        .bootstrap_servers(broker.bootstrap_servers())
        .linger(Duration::from_secs(30))
        .build()?;
    let topic = producer.topic("orders")?;
    // The batch stays open: the child finds it with room.
    topic.enqueue(topic.record().value("before"))?;
    match fork().unwrap() {
        Fork::Child => {
            let worked = calls_that_work(&producer, &topic);
            // Not a return: the harness of the parent must not run twice. Dropping the producer
            // would wait forever if it joined a thread that the child does not have.
            drop((producer, topic));
            std::process::exit(i32::from(worked));
        }
        Fork::Parent(child) => {
            let status = waitpid(child).unwrap();
            assert_eq!(status, 0, "exit status of the child, in the upper byte");
        }
    }
    topic.enqueue(topic.record().value("after"))?;
    producer.flush()?;
    let values: Vec<_> =
        broker.records("orders").unwrap().into_iter().map(|r| r.value.unwrap()).collect();
    assert_eq!(values, ["before", "after"]);
    Ok(())
}
