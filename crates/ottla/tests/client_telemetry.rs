//! Client telemetry (KIP-714) against the embedded broker, which decodes what it receives with
//! `prost`. Only public items of `ottla` and `ottla-broker` are used.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ottla::{Error, ErrorKind, Producer, ProducerBuilder, Record};
use ottla_broker::{
    ApiKey, ClientMetricsPush, ClientMetricsSubscription, EmbeddedBroker, NewTopic, ResponseAction,
};

/// Longer than any wait here takes, unless it fails.
const LONG: Duration = Duration::from_secs(60);

/// An interval after which nothing happens in a test.
const HOUR: Duration = Duration::from_secs(3600);

const SENT: &str = "org.apache.kafka.producer.record.send.total";
const TOPIC_SENT: &str = "org.apache.kafka.producer.topic.record.send.total";

fn subscription() -> ClientMetricsSubscription {
    ClientMetricsSubscription::new(Duration::from_millis(50))
}

fn start(subscription: ClientMetricsSubscription) -> EmbeddedBroker {
    EmbeddedBroker::builder().client_metrics(subscription).start().unwrap()
}

fn producer_builder(broker: &EmbeddedBroker) -> ProducerBuilder {
    Producer::builder().bootstrap_servers(broker.bootstrap_servers()).client_id("meter")
}

fn send(producer: &Producer, count: usize) -> Result<(), Error> {
    for _ in 0..count {
        producer.send(Record::to("orders").value("v"))?;
    }
    producer.flush()
}

fn sent(push: &ClientMetricsPush) -> Option<f64> {
    push.value(SENT)
}

#[test]
fn broker_receives_totals_with_their_topics_and_the_last_push_of_a_close() -> Result<(), Error> {
    let broker = start(subscription());
    let producer = producer_builder(&broker).set("client.rack", "r1").build()?;
    send(&producer, 7)?;
    let push = broker.wait_for_client_metrics(|p| sent(p) == Some(7.0), LONG).unwrap();
    let id = producer.client_instance_id(LONG)?.unwrap();
    assert_eq!(push.client_instance_id, id, "a broker and the application have the same id");
    assert_eq!((push.client_id.as_str(), push.compression_type), ("meter", "zstd"));
    assert_eq!(push.resource["client_rack"], "r1");
    let of_topic = push.metrics.iter().find(|m| m.name == TOPIC_SENT).unwrap();
    assert_eq!(of_topic.attributes.iter().next().unwrap(), (&"topic".into(), &"orders".into()));
    assert!(of_topic.is_counter && !of_topic.is_delta);
    assert!(of_topic.start_unix_nanos > 0 && of_topic.start_unix_nanos <= of_topic.unix_nanos);
    // Every number that the application reads is there.
    assert!(push.metrics.iter().any(|m| m.name.ends_with("batch.size.avg") && !m.is_counter));
    assert!(push.metrics.iter().all(|m| !m.value.is_nan()));

    send(&producer, 2)?;
    producer.close(LONG)?;
    let last = broker.client_metrics_pushes().pop().unwrap();
    assert!(last.is_terminating && last.client_instance_id == id);
    assert_eq!(sent(&last), Some(9.0));
    Ok(())
}

#[test]
fn last_push_also_comes_before_the_first_interval_has_passed() -> Result<(), Error> {
    let broker = start(ClientMetricsSubscription::new(HOUR));
    let producer = producer_builder(&broker).build()?;
    send(&producer, 1)?;
    assert!(producer.client_instance_id(LONG)?.is_some());
    producer.close(LONG)?;
    let pushes = broker.client_metrics_pushes();
    assert_eq!(pushes.len(), 1);
    assert!(pushes[0].is_terminating);
    Ok(())
}

#[test]
fn broker_that_does_not_respond_to_the_last_push_does_not_hold_the_close() -> Result<(), Error> {
    let broker = start(ClientMetricsSubscription::new(HOUR));
    let producer = producer_builder(&broker).build()?;
    send(&producer, 1)?;
    assert!(producer.client_instance_id(LONG)?.is_some());
    let _guard = broker.intercept_responses(|response, frame| match response.api {
        ApiKey::PUSH_TELEMETRY => ResponseAction::Stall,
        _ => ResponseAction::Send(frame),
    });
    let start = Instant::now();
    let report = producer.close(LONG)?;
    assert_eq!(report.undelivered, 0);
    assert!(start.elapsed() < LONG, "the close waits for a short time, not for its timeout");
    assert!(broker.client_metrics_pushes()[0].is_terminating);
    Ok(())
}

#[test]
fn differences_add_up_to_the_total() -> Result<(), Error> {
    let broker = start(subscription().delta_temporality(true).compression_types(["gzip"]));
    let producer = producer_builder(&broker).build()?;
    let sum = |broker: &EmbeddedBroker| -> f64 {
        broker.client_metrics_pushes().iter().filter_map(sent).sum()
    };
    for total in [5.0, 10.0] {
        send(&producer, 5)?;
        broker.wait_for_client_metrics(|p| sent(p) == Some(5.0), LONG).unwrap();
        while sum(&broker) < total {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    producer.close(LONG)?;
    assert_eq!(sum(&broker), 10.0);
    let pushes = broker.client_metrics_pushes();
    let metric = pushes[0].metrics.iter().find(|m| m.name == SENT).unwrap();
    assert!(metric.is_delta && pushes[0].compression_type == "gzip");
    Ok(())
}

#[test]
fn single_star_requests_all_metrics() -> Result<(), Error> {
    // Kafka's broker sends it for a subscription of all metrics.
    let broker = start(subscription().metrics(["*"]));
    let producer = producer_builder(&broker).build()?;
    send(&producer, 3)?;
    let push = broker.wait_for_client_metrics(|p| sent(p) == Some(3.0), LONG).unwrap();
    assert!(push.value("org.apache.kafka.app.info.start.time.ms").is_some());
    Ok(())
}

#[test]
fn changed_subscription_is_noticed_with_the_same_instance_id() -> Result<(), Error> {
    let broker = start(subscription().metrics(["org.apache.kafka.producer.record."]));
    let producer = producer_builder(&broker).build()?;
    send(&producer, 1)?;
    let push = broker.wait_for_client_metrics(|p| sent(p).is_some(), LONG).unwrap();
    assert!(push.metrics.iter().all(|m| m.name.starts_with("org.apache.kafka.producer.record.")));

    let io = "org.apache.kafka.producer.io.ratio";
    broker.with_core(|core, _| core.set_client_metrics(Some(subscription().metrics([io]))));
    let new = broker.wait_for_client_metrics(|p| p.value(io).is_some(), LONG).unwrap();
    assert_eq!(new.metrics.len(), 1);
    assert_eq!(new.client_instance_id, push.client_instance_id);
    Ok(())
}

#[test]
fn producer_stays_with_the_broker_of_its_subscription() -> Result<(), Error> {
    let broker =
        EmbeddedBroker::builder().node_count(3).client_metrics(subscription()).start().unwrap();
    broker.create_topic(NewTopic::new("orders", 3)).unwrap();
    let producer = producer_builder(&broker).build()?;
    for partition in 0..3 {
        producer.send(Record::to("orders").partition(partition).value("v"))?.wait()?;
    }
    while broker.client_metrics_pushes().len() < 5 {
        send(&producer, 1)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    producer.close(LONG)?;
    let pushes = broker.client_metrics_pushes();
    assert!(pushes.iter().all(|push| push.node == pushes[0].node), "each counts the intervals");
    Ok(())
}

/// The metrics of a producer that KIP-714 requires of every client.
const REQUIRED: [&str; 8] = [
    "connection.creation.rate",
    "connection.creation.total",
    "node.request.latency.avg",
    "node.request.latency.max",
    "produce.throttle.time.avg",
    "produce.throttle.time.max",
    "record.queue.time.avg",
    "record.queue.time.max",
];

#[test]
fn push_of_all_metrics_has_those_that_kip_714_requires() -> Result<(), Error> {
    let broker = start(subscription());
    let producer = producer_builder(&broker).build()?;
    send(&producer, 1)?;
    broker.wait_for_client_metrics(|p| sent(p) == Some(1.0), LONG).unwrap();
    producer.close(LONG)?;
    let last = broker.client_metrics_pushes().pop().unwrap();
    for name in REQUIRED {
        let name = format!("org.apache.kafka.producer.{name}");
        let metric = last.metrics.iter().find(|m| m.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{name}: {last:?}"));
        assert_eq!(metric.is_counter, name.ends_with(".total"));
    }
    Ok(())
}

#[test]
fn push_that_is_too_large_leaves_out_topics_and_brokers() -> Result<(), Error> {
    let broker = start(subscription().compression_types([]).max_bytes(12_000));
    let producer = producer_builder(&broker).build()?;
    for topic in 0..40 {
        producer.send(Record::to(&format!("topic-{topic}")).value("v"))?;
    }
    producer.flush()?;
    let push = broker.wait_for_client_metrics(|p| sent(p) == Some(40.0), LONG).unwrap();
    assert!(push.compression_type == "none" && push.metrics.iter().all(|m| m.name != TOPIC_SENT));
    Ok(())
}

#[test]
fn nothing_is_requested_from_brokers_without_a_receiver_or_if_switched_off() -> Result<(), Error> {
    let plain = EmbeddedBroker::start().unwrap();
    let producer = producer_builder(&plain).build()?;
    send(&producer, 1)?;
    assert_eq!(producer.client_instance_id(Duration::from_millis(20))?, None);
    producer.close(LONG)?;

    let broker = start(subscription());
    let producer = producer_builder(&broker).set("enable.metrics.push", "false").build()?;
    send(&producer, 1)?;
    let error = producer.client_instance_id(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    producer.close(LONG)?;
    assert_eq!(broker.client_metrics_pushes(), []);
    Ok(())
}

/// Sends records while the broker treats each telemetry request like this. Returns how many of
/// them there were once the producer sends no more.
fn send_while_telemetry_fails(
    broker: &EmbeddedBroker,
    fail: fn(Vec<u8>) -> ResponseAction,
    lost_connections: u64,
) -> Result<usize, Error> {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    let _guard = broker.intercept_responses(move |response, frame| match response.api {
        ApiKey::PUSH_TELEMETRY => {
            counter.fetch_add(1, Ordering::SeqCst);
            fail(frame)
        }
        _ => ResponseAction::Send(frame),
    });
    let producer = producer_builder(broker).build()?;
    let start = Instant::now();
    let mut sent = 0;
    while requests.load(Ordering::SeqCst) < 3 {
        assert!(start.elapsed() < LONG, "{requests:?} pushes");
        assert!(producer.send(Record::to("orders").value("v"))?.wait().is_ok());
        sent += 1;
    }
    // Ten more intervals.
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(50));
        assert!(producer.send(Record::to("orders").value("v"))?.wait().is_ok());
        sent += 1;
    }
    let totals = producer.totals();
    assert_eq!(totals.record_error_total, 0);
    // The connection to the bootstrap server may be closed, too.
    assert!(totals.connection_close_total <= lost_connections + 1, "{totals:?}");
    let report = producer.close(LONG)?;
    assert_eq!(report.undelivered, 0);
    assert_eq!(broker.records("orders").unwrap().len(), sent, "each record is there once");
    Ok(requests.load(Ordering::SeqCst))
}

#[test]
fn invalid_responses_to_pushes_cost_no_record_and_no_connection() -> Result<(), Error> {
    let broker = start(subscription());
    // The length and the correlation id, and then half of a response.
    let invalid = |frame: Vec<u8>| {
        let mut bytes = 6_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&frame[4..8]);
        bytes.extend_from_slice(&[0xff, 0xff]);
        ResponseAction::Send(bytes)
    };
    assert_eq!(send_while_telemetry_fails(&broker, invalid, 0)?, 3, "the producer has given up");
    Ok(())
}

#[test]
fn broker_that_closes_at_pushes_costs_no_record_and_three_connections() -> Result<(), Error> {
    let broker = start(subscription());
    let close = |_| ResponseAction::SendAndClose(Vec::new());
    assert_eq!(send_while_telemetry_fails(&broker, close, 3)?, 3, "the producer has given up");
    Ok(())
}

#[test]
fn error_of_a_push_ends_metrics_but_no_records() -> Result<(), Error> {
    let broker = start(subscription());
    let invalid_record = |mut frame: Vec<u8>| {
        // After length, correlation id, tags and throttle time.
        frame[13..15].copy_from_slice(&87_i16.to_be_bytes());
        ResponseAction::Send(frame)
    };
    let pushes = Arc::new(AtomicUsize::new(0));
    let counter = pushes.clone();
    let _guard = broker.intercept_responses(move |response, frame| match response.api {
        ApiKey::PUSH_TELEMETRY => {
            counter.fetch_add(1, Ordering::SeqCst);
            invalid_record(frame)
        }
        _ => ResponseAction::Send(frame),
    });
    let producer = producer_builder(&broker).build()?;
    let start = Instant::now();
    while pushes.load(Ordering::SeqCst) == 0 {
        assert!(start.elapsed() < LONG);
        send(&producer, 1)?;
    }
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(50));
        send(&producer, 1)?;
    }
    assert_eq!(producer.close(LONG)?.undelivered, 0);
    assert_eq!(pushes.load(Ordering::SeqCst), 1, "INVALID_RECORD ends telemetry");
    Ok(())
}
