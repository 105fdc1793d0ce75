//! Sends more than a quota allows to three real Kafka nodes, whose pauses are longer than
//! `request.timeout.ms` (KIP-219).
//!
//! `TEST_LOG=ottla=info` prints the producers' events.
//! Without a JDK and Maven the test reports that it is skipped; with `CI=true` it fails.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use ottla::{Producer, Record, Totals};
use ottla_testkit::{Jars, KafkaCluster, print_line};

const RECORDS: u64 = 24_000;
const VALUE_LEN: usize = 250;
/// `producer_byte_rate`: each node grants this many bytes a second to a client id.
const QUOTA: u64 = 100_000;
const NODES: u64 = 3;
/// Kafka measures a rate over 10 s (`quota.window.num`). So a client that was idle may first send
/// as much as that at once.
const BURST_SECONDS: u64 = 10;

/// A producer's result.
struct QuotaRun {
    client_id: &'static str,
    elapsed: Duration,
    totals: Totals,
}

/// Sends all records at once, with batches that exceed the quota of two seconds.
fn send_records(bootstrap: &str, client_id: &'static str, idempotence: bool) -> QuotaRun {
    let producer = Producer::builder()
        .bootstrap_servers(bootstrap)
        .client_id(client_id)
        .idempotence(idempotence)
        .set("request.timeout.ms", "1500")
        .set("batch.size", "200000")
        .set("max.request.size", "400000")
        .build()
        .unwrap();
    let start = Instant::now();
    for n in 0..RECORDS {
        let partition = (n % (2 * NODES)) as i32;
        let value = format!("{n:0VALUE_LEN$}");
        producer.send(Record::to(client_id).partition(partition).value(&value)).unwrap();
    }
    producer.flush().unwrap();
    let (elapsed, totals) = (start.elapsed(), producer.totals());
    producer.close(Duration::from_secs(10)).unwrap();
    QuotaRun { client_id, elapsed, totals }
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
        cluster.create_topic(client_id, 2 * NODES as u32, &[]);
        cluster.set_producer_quota(client_id, QUOTA);
    }
    let runs = thread::scope(|scope| {
        let runs = producers.map(|(client_id, idempotence)| {
            let bootstrap = &cluster.bootstrap;
            scope.spawn(move || send_records(bootstrap, client_id, idempotence))
        });
        runs.map(|run| run.join().unwrap())
    });
    for QuotaRun { client_id, elapsed, totals } in runs {
        let (rate, seconds) = (totals.byte_total as f64, elapsed.as_secs_f64());
        let quota_seconds = totals.byte_total / (QUOTA * NODES);
        print_line(&format!(
            "{client_id}: {:.0} KB/s in {seconds:.1} s, {totals:?}",
            rate / seconds / 1000.0
        ));
        assert_eq!(totals.record_error_total, 0, "{client_id}");
        assert_eq!(totals.record_retry_total, 0, "{client_id}: a request was sent twice");
        // One for the bootstrap server and one for each node: no connection was replaced.
        assert!(totals.connection_creation_total <= 1 + NODES, "{client_id}: a connection is lost");
        // The last request's pause is no part of the run: 4 s at most.
        assert!(elapsed.as_secs() + 4 + BURST_SECONDS >= quota_seconds, "{client_id}: no quota");
        assert!(elapsed.as_secs() <= 2 * quota_seconds, "{client_id}: far below the quota");
        let log = cluster.read_topic(client_id);
        let values: BTreeSet<_> = log.iter().map(|r| &r.value).collect();
        assert_eq!((log.len() as u64, values.len() as u64), (RECORDS, RECORDS), "{client_id}");
    }
}
