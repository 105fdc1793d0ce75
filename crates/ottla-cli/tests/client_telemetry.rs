//! Client telemetry (KIP-714) against real Kafkas, 4.3 and 4.4. A plug-in of the broker parses what
//! the producers push with OpenTelemetry's own Java classes.
//!
//! Without a JDK and Maven the test reports that it is skipped; with `CI=true` it fails.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ottla::{Error, Producer, Record};
use ottla_testkit::{Jars, Kafka, print_line};

/// Longer than any wait here takes, unless it fails.
const LONG: Duration = Duration::from_secs(60);

const SENT: &str = "org.apache.kafka.producer.record.send.total";
const TOPIC_SENT: &str = "org.apache.kafka.producer.topic.record.send.total";
const QUEUE_TIME: &str = "org.apache.kafka.producer.record.queue.time.max";

/// A data point as the plug-in has decoded it.
#[derive(Debug, PartialEq)]
struct Point {
    client: String,
    instance: String,
    is_last_push: bool,
    resource: String,
    name: String,
    kind: String,
    attributes: String,
    value: f64,
    start_nanos: u64,
    nanos: u64,
}

impl Point {
    fn parse(line: &str) -> Point {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_else(|| panic!("a field is missing: {line}"));
        Point {
            client: next(),
            instance: next(),
            is_last_push: next() == "true",
            resource: next(),
            name: next(),
            kind: next(),
            attributes: next(),
            value: next().parse().unwrap(),
            start_nanos: next().parse().unwrap(),
            nanos: next().parse().unwrap(),
        }
    }
}

/// The file to which the plug-in writes what it has received.
struct Received(PathBuf);

impl Received {
    fn points_of(&self, client: &str) -> Vec<Point> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        // The last line may be incomplete.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(Point::parse).filter(|point| point.client == client).collect()
    }

    /// Waits until the differences of a counter add up to a total.
    fn wait_for_total(&self, kafka: &Kafka, client: &str, name: &str, total: f64) -> Vec<Point> {
        let start = Instant::now();
        loop {
            let points = self.points_of(client);
            if sum(&points, name) >= total {
                return points;
            }
            assert!(start.elapsed() < LONG, "{points:#?}\n{}", kafka.server_log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn sum(points: &[Point], name: &str) -> f64 {
    points.iter().filter(|point| point.name == name).map(|point| point.value).sum()
}

/// Subscribes to some metrics of all clients, as an administrator does.
fn subscribe(tools: &Jars, kafka: &Kafka) {
    let config = "interval.ms=200,metrics=[org.apache.kafka.producer.record.send.total,\
                  org.apache.kafka.producer.record.queue.time.,\
                  org.apache.kafka.producer.topic.record.send.total]";
    let args = [
        "--bootstrap-server",
        &kafka.bootstrap,
        "--alter",
        "--entity-type",
        "client-metrics",
        "--entity-name",
        "producers",
        "--add-config",
        config,
    ];
    tools.run_tool("kafka.admin.ConfigCommand", &args);
}

#[test]
fn plug_in_of_a_real_kafka_decodes_differences_labels_and_the_last_push() -> Result<(), Error> {
    let Some(tools) = Jars::find_or_fetch() else { return Ok(()) };
    for version in ["4.3.1", "4.4.0"] {
        let jars = tools.with_version(version);
        let Some(plug_in) = jars.compile_telemetry_receiver() else { return Ok(()) };
        let received = Received(plug_in.join(format!("received-{}", std::process::id())));
        let kafka = start_with_plug_in(&jars, &plug_in, &received);
        subscribe(&tools, &kafka);
        check_producer(&kafka, &received, version)?;
        check_transactional_producer(&kafka, &received)?;
        let log = kafka.server_log();
        assert!(!log.contains("telemetry"), "the broker reports an error: {log}");
        let _ = fs::remove_file(received.0);
    }
    Ok(())
}

fn start_with_plug_in(jars: &Jars, plug_in: &Path, received: &Received) -> Kafka {
    let _ = fs::remove_file(&received.0);
    let file = format!("-Dtelemetry.receiver.file={}", received.0.display());
    let class_path = jars.class_path_with(plug_in);
    let properties = |_, _| "metric.reporters=TelemetryReceiver".to_owned();
    Kafka::start_with(jars, properties, &[], &["-cp", &class_path, &file])
}

fn check_producer(kafka: &Kafka, received: &Received, version: &str) -> Result<(), Error> {
    let producer = Producer::builder()
        .bootstrap_servers(&kafka.bootstrap)
        .client_id("meter")
        .set("client.rack", "r1")
        .build()?;
    for _ in 0..5 {
        producer.send(Record::to("orders").value("v"))?;
    }
    producer.flush()?;
    let id = producer.client_instance_id(LONG)?.expect("the broker has a receiver");
    received.wait_for_total(kafka, "meter", SENT, 5.0);
    producer.send(Record::to("orders").value("v"))?;
    let report = producer.close(LONG)?;
    assert_eq!(report.undelivered, 0);

    // The close has waited for the broker's response to the last push.
    let points = received.points_of("meter");
    let last = points.iter().filter(|point| point.is_last_push);
    print_line(&format!("decoded by Kafka {version}'s plug-in in the last push:"));
    last.for_each(|point| print_line(&format!("{point:?}")));
    assert_eq!((sum(&points, SENT), sum(&points, TOPIC_SENT)), (6.0, 6.0), "{points:#?}");
    assert!(points.iter().all(|point| point.instance == id.to_string()));
    assert!(points.iter().all(|point| point.resource == "{client_rack=r1}"));
    let requested = |p: &Point| [SENT, TOPIC_SENT].contains(&&*p.name) || p.name.contains("queue");
    assert!(points.iter().all(requested), "{points:#?}");
    let counters: Vec<_> = points.iter().filter(|point| point.name == SENT).collect();
    assert!(counters.last().is_some_and(|point| point.is_last_push));
    assert_eq!(counters.iter().filter(|point| point.is_last_push).count(), 1);
    let delta = "MONOTONIC_AGGREGATION_TEMPORALITY_DELTA";
    assert!(counters.iter().all(|p| p.kind == delta && p.attributes == "{}"));
    for pair in counters.windows(2) {
        assert_eq!(pair[0].nanos, pair[1].start_nanos, "a difference begins where one ended");
    }
    let of_topic = points.iter().filter(|point| point.name == TOPIC_SENT);
    assert!(of_topic.clone().all(|p| p.attributes == "{topic=orders}" && p.kind == delta));
    let queue_time = points.iter().rfind(|point| point.name == QUEUE_TIME).unwrap();
    assert!(queue_time.kind == "GAUGE" && queue_time.value >= 0.0);
    Ok(())
}

fn check_transactional_producer(kafka: &Kafka, received: &Received) -> Result<(), Error> {
    let producer = Producer::builder()
        .bootstrap_servers(&kafka.bootstrap)
        .client_id("copier")
        .transactional_id("copy-1")
        .build()?;
    producer.init_transactions()?;
    let mut transaction = producer.begin_transaction()?;
    producer.send(Record::to("orders").value("v"))?;
    transaction.commit()?;
    assert!(producer.client_instance_id(LONG)?.is_some());
    producer.close(LONG)?;
    let points = received.points_of("copier");
    assert_eq!(sum(&points, SENT), 1.0);
    assert!(points.iter().all(|point| point.resource == "{transactional_id=copy-1}"));
    assert!(points.iter().any(|point| point.is_last_push));
    Ok(())
}
