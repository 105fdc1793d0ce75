//! Sends more than a quota allows to three real Kafka nodes, whose pauses are longer than
//! `request.timeout.ms` (KIP-219).
//!
//! `TEST_LOG=ottla=info` prints the producers' events.
//! Without a JDK and Maven the test reports that it is skipped; with `CI=true` it fails.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use ottla::{MetricValue, Producer, Record, Totals};
use ottla_testkit::{Jars, KafkaCluster, print_line};

const NODES: u64 = 3;
const RECORDS: u64 = 18_000;
const VALUE_LEN: usize = 250;
const PARTITIONS: u64 = 2 * NODES;
/// `producer_byte_rate`: each node grants this many bytes a second to a client id. Kafka measures
/// a rate over 10 s, so each node takes the first 500 KB at once. It pauses for 8 s after each of
/// the three or four full requests that follow.
const QUOTA: u64 = 50_000;
const REQUEST_BYTES: u64 = 400_000;
/// Below the pauses, and above the time that a busy machine takes for a request.
const REQUEST_TIMEOUT_MS: u64 = 4000;

/// A producer's result.
struct QuotaRun {
    client_id: &'static str,
    totals: Totals,
    /// The longest pause that a broker requested.
    longest_pause_ms: f64,
}

/// Writes one record to each partition, as a client without a quota. The first request to a node
/// that has just started takes long.
fn warm_up(bootstrap: &str, topic: &str) {
    let producer = Producer::builder().bootstrap_servers(bootstrap).build().unwrap();
    let sent: Vec<_> = (0..PARTITIONS as i32)
        .map(|p| producer.send(Record::to(topic).partition(p).value("warm-up")).unwrap())
        .collect();
    sent.into_iter().for_each(|delivery| drop(delivery.wait().unwrap()));
    producer.close(Duration::from_secs(10)).unwrap();
}

/// Sends all records at once, with requests that exceed the quota of eight seconds.
fn send_records(bootstrap: &str, client_id: &'static str, idempotence: bool) -> QuotaRun {
    let producer = Producer::builder()
        .bootstrap_servers(bootstrap)
        .client_id(client_id)
        .idempotence(idempotence)
        .set("request.timeout.ms", REQUEST_TIMEOUT_MS.to_string())
        .set("batch.size", (REQUEST_BYTES / 2).to_string())
        .set("max.request.size", REQUEST_BYTES.to_string())
        // The maximum is that of the whole run.
        .set("metrics.sample.window.ms", "3600000")
        .build()
        .unwrap();
    for n in 0..RECORDS {
        let partition = (n % PARTITIONS) as i32;
        let value = format!("{n:0VALUE_LEN$}");
        producer.send(Record::to(client_id).partition(partition).value(&value)).unwrap();
    }
    producer.flush().unwrap();
    let totals = producer.totals();
    let metrics = producer.metrics();
    let pause = metrics.iter().find(|m| m.name == "produce-throttle-time-max").unwrap();
    let MetricValue::Number(longest_pause_ms) = pause.value else { panic!("{pause:?}") };
    producer.close(Duration::from_secs(10)).unwrap();
    QuotaRun { client_id, totals, longest_pause_ms }
}

/// A pause that counted as time of a request would end the connection. Without idempotence, what
/// was in flight on it would then be in the log twice.
#[test]
fn quota_below_the_request_timeout_costs_no_connection_and_no_duplicate() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    if let Ok(filter) = std::env::var("TEST_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init();
    }
    let cluster = KafkaCluster::start(&jars.with_version("4.4.0"), "");
    let producers = [("quota-idempotent", true), ("quota-plain", false)];
    for (client_id, _) in producers {
        cluster.create_topic(client_id, PARTITIONS as u32, &[]);
        cluster.set_producer_quota(client_id, QUOTA);
        warm_up(&cluster.bootstrap, client_id);
    }
    let runs = thread::scope(|scope| {
        let runs = producers.map(|(client_id, idempotence)| {
            let bootstrap = &cluster.bootstrap;
            scope.spawn(move || send_records(bootstrap, client_id, idempotence))
        });
        runs.map(|run| run.join().unwrap())
    });
    for QuotaRun { client_id, totals, longest_pause_ms } in runs {
        print_line(&format!("{client_id}: longest pause {longest_pause_ms} ms, {totals:?}"));
        // A quota that sets in late or pauses that are short would show nothing.
        let is_long = longest_pause_ms > 1.5 * REQUEST_TIMEOUT_MS as f64;
        assert!(is_long, "{client_id}: the longest pause is {longest_pause_ms} ms");
        assert_eq!(totals.record_error_total, 0, "{client_id}");
        assert_eq!(totals.record_retry_total, 0, "{client_id}: a request was sent twice");
        // One for the bootstrap server and one for each node: no connection was replaced.
        assert!(totals.connection_creation_total <= 1 + NODES, "{client_id}: a connection is lost");
        let log = cluster.read_topic(client_id);
        let values: BTreeSet<_> = log.iter().map(|r| &r.value).collect();
        // Each record once, and the one of the warm-up in each partition.
        let expected = (RECORDS + PARTITIONS, RECORDS + 1);
        assert_eq!((log.len() as u64, values.len() as u64), expected, "{client_id}");
    }
}
