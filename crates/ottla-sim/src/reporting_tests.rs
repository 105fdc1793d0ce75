//! What the producer reports: error timings, metrics and the delivery handler's tokens.
#![allow(clippy::disallowed_types)]

use std::sync::{Arc, Mutex};

use ottla::{BatchReport, ErrorKind, Record};
use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::ErrorCode;

use crate::producer_fixture::ProducerFixture;

#[test]
fn error_reports_where_the_delivery_time_was_spent() {
    let mut fixture = ProducerFixture::new(&[
        ("delivery.timeout.ms", "1000"),
        ("request.timeout.ms", "800"),
        ("linger.ms", "100"),
        ("batch.size", "1000"),
        ("retry.backoff.ms", "50"),
        ("retry.backoff.max.ms", "50"),
    ]);
    fixture.send_and_wait(0, "warm");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS)); 40]);
    let delivery = fixture.send(0, "v");
    let e = fixture.wait_for(&delivery).unwrap_err();
    let timings = e.timings().expect("the record was accepted");
    assert_eq!((timings.last_broker, e.kind()), (Some(1), ErrorKind::DeliveryTimeout));
    assert!(timings.attempts > 5, "{timings:?}");
    assert!((90..=110).contains(&timings.linger.as_millis()), "{timings:?}");
    assert!((700..=910).contains(&timings.backoff.as_millis()), "{timings:?}");
    let sum = timings.linger
        + timings.backoff
        + timings.leaderless
        + timings.throttled
        + timings.in_flight
        + timings.queued;
    assert!(
        (999..=1002).contains(&sum.as_millis()),
        "the sum is the delivery timeout: {timings:?}"
    );
    assert!(e.to_string().contains("s backing off"), "{e}");
}

#[test]
fn metrics_have_kafkas_names_and_values() {
    let mut fixture =
        ProducerFixture::new(&[("linger.ms", "5"), ("batch.size", "4000"), ("retries", "10")]);
    fixture.send_and_wait(0, "warm");
    fixture.push_batch_faults(&[
        Some(FailBeforeAppend(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        Some(FailBeforeAppend(ErrorCode::MESSAGE_TOO_LARGE)),
    ]);
    let sent: Vec<_> = (0..10).map(|_| fixture.send(0, &"v".repeat(100))).collect();
    for delivery in &sent {
        fixture.wait_for(delivery).unwrap();
    }
    let metrics = fixture.producer.metrics();
    let value = |group: &str, name: &str| {
        let found: Vec<_> = metrics.iter().filter(|m| m.group == group && m.name == name).collect();
        assert_eq!(found.len(), 1, "{group} {name}");
        match found[0].value {
            ottla::MetricValue::Number(n) => n,
            ref text => panic!("{name} is {text}"),
        }
    };
    let producer_metric = |name| value("producer-metrics", name);
    assert_eq!(producer_metric("record-retry-total"), 10.0);
    assert_eq!(producer_metric("batch-split-total"), 1.0);
    assert_eq!(
        producer_metric("record-send-total"),
        1.0 + 10.0 + 10.0 + 10.0,
        "each attempt counts"
    );
    assert_eq!(producer_metric("record-error-total"), 0.0);
    assert_eq!(producer_metric("buffer-total-bytes"), f64::from(32 << 20));
    assert_eq!(producer_metric("buffer-available-bytes"), f64::from(32 << 20));
    assert!(
        producer_metric("record-queue-time-max") >= 5.0
            && producer_metric("batch-size-max") > 1000.0
    );
    assert!(
        producer_metric("records-per-request-avg") > 1.0
            && producer_metric("record-size-max") > 100.0
    );
    assert!(
        producer_metric("request-latency-avg") >= 0.0 && producer_metric("metadata-age") < 600.0
    );
    let topic_metric = |name| value("producer-topic-metrics", name);
    assert_eq!((topic_metric("record-retry-total"), topic_metric("compression-rate")), (10.0, 1.0));
    assert!(topic_metric("byte-total") > 3000.0);
    let request_totals =
        metrics.iter().filter(|m| m.group == "producer-node-metrics" && m.name == "request-total");
    let nodes: Vec<_> = request_totals.map(|m| m.tags[1].1.clone()).collect();
    assert_eq!(nodes, ["node--1", "node-1"]);
    assert_eq!(value("kafka-metrics-count", "count"), metrics.len() as f64);
}

#[test]
fn topic_handle_rejects_records_of_other_topics_and_reports_to_the_handler() {
    let reported = Arc::new(Mutex::new(Vec::new()));
    let tokens = reported.clone();
    let mut fixture = ProducerFixture::with_builder(
        &[("linger.ms", "1"), ("batch.size", "1000")],
        move |builder| {
            builder.delivery_handler(move |r: &BatchReport<'_>| {
                tokens.lock().unwrap().extend_from_slice(r.tokens);
            })
        },
    );
    fixture.send_and_wait(0, "warm");
    let producer = fixture.producer.clone();
    let topic = producer.topic("t").unwrap();
    assert_eq!((topic.name(), topic.partition_count()), ("t", 2));
    for token in 1..=20 {
        topic.enqueue(topic.record().partition(0).value("v").token(token)).unwrap();
    }
    let delivery = topic.send(Record::to("t").partition(0).value("last").token(21)).unwrap();
    fixture.wait_for(&delivery).unwrap();
    assert_eq!(reported.lock().unwrap()[1..], (1..=21).collect::<Vec<u64>>());
    let e = topic.enqueue(Record::to("other")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidRecord, "{e}");
}

#[test]
fn record_timestamps_follow_the_wall_clock_when_it_steps() {
    let mut fixture = ProducerFixture::new(&[]);
    for step_ms in [0, 3_600_000, -7_200_000] {
        fixture.machine.jump_wall_clock(step_ms);
        fixture.send_and_wait(0, "v");
    }
    let log = fixture.read_log(0);
    let timestamps: Vec<i64> = log.headers.iter().map(|h| h.base_timestamp).collect();
    // Between two sends, only milliseconds pass on the monotonic clock.
    for (pair, step_ms) in timestamps.windows(2).zip([3_600_000, -7_200_000]) {
        let elapsed_ms = pair[1] - pair[0] - step_ms;
        assert!((0..1000).contains(&elapsed_ms), "{timestamps:?}");
    }
}
