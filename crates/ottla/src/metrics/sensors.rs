//! The metrics with Kafka's names: the sensors that record measurements, and the table of
//! metrics that each sensor feeds.
//!
//! The sender's thread records most measurements, once per batch, request or poll.
//! [`Producer::metrics`](crate::Producer::metrics) reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::series::Series;
use crate::config::MetricConfig;
use crate::sync::Mutex;
use crate::time::Tick;

/// One metric and its value at the moment of [`Producer::metrics`](crate::Producer::metrics).
///
/// Names, groups and tags are those of Kafka's Java producer. The name or the description says the
/// unit.
///
/// ```no_run
/// use ottla::{MetricValue, Producer};
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// for metric in producer.metrics() {
///     if let ("record-send-rate", MetricValue::Number(rate)) = (metric.name, &metric.value) {
///         println!("{} {:?}: {rate} records/s", metric.group, metric.tags);
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// The name, for example `record-send-rate`.
    pub name: &'static str,
    /// The group: `producer-metrics`, `producer-topic-metrics`, `producer-node-metrics`, `app-info`
    /// or `kafka-metrics-count`.
    pub group: &'static str,
    /// A description of the value, for people.
    pub description: &'static str,
    /// `client-id`, and `topic` or `node-id` for the metrics of one topic or broker.
    pub tags: Vec<(&'static str, String)>,
    /// The value.
    pub value: MetricValue,
}

impl Metric {
    /// Returns whether the value only grows: the total of what has happened since the producer was
    /// built. All other numbers are gauges.
    pub fn is_counter(&self) -> bool {
        self.name.ends_with("-total")
    }
}

/// The value of a [`Metric`].
#[derive(Debug, Clone, PartialEq)]
pub enum MetricValue {
    /// A number. It is NaN for a mean or maximum without a recent measurement.
    Number(f64),
    /// A text.
    Text(String),
}

impl fmt::Display for MetricValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetricValue::Number(n) => write!(f, "{n:.3}"),
            MetricValue::Text(t) => f.write_str(t),
        }
    }
}

/// How a metric's value is computed from its series.
#[derive(Debug, Clone, Copy)]
enum Stat {
    Rate,
    Total,
    Mean,
    Max,
    /// The fraction of the time, from a series of nanoseconds.
    Ratio,
}

/// A metric before it has tags and a value.
struct MetricTemplate {
    name: &'static str,
    stat: Stat,
    description: &'static str,
}

/// Defines an enum of sensors, and a table of each sensor's metrics in the order of the enum.
macro_rules! sensors {
    ($(#[$doc:meta])* $enum:ident $table:ident {
        $($sensor:ident => [$(($name:literal, $stat:ident, $description:literal)),* $(,)?],)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $enum { $($sensor,)* }
        const $table: &[&[MetricTemplate]] = &[$(&[$(MetricTemplate {
            name: $name,
            stat: Stat::$stat,
            description: $description,
        }),*],)*];
    };
}

sensors! {
    /// The sensors of the whole producer.
    Sensor PRODUCER {
        BatchSize => [
            ("batch-size-avg", Mean, "Average size of a sent batch, in bytes"),
            ("batch-size-max", Max, "Size of the largest sent batch, in bytes"),
        ],
        BatchSplit => [
            ("batch-split-rate", Rate, "Batches split per second"),
            ("batch-split-total", Total, "Batches split"),
        ],
        BufferExhausted => [
            (
                "buffer-exhausted-rate",
                Rate,
                "Records rejected per second because buffer.memory was exhausted"
            ),
            (
                "buffer-exhausted-total",
                Total,
                "Records rejected because buffer.memory was exhausted"
            ),
        ],
        BufferpoolWait => [
            ("bufferpool-wait-ratio", Ratio, "Fraction of the time that callers wait for memory"),
            ("bufferpool-wait-time-ns-total", Total, "Time that callers waited for memory, in ns"),
        ],
        Compression => [
            ("compression-rate-avg", Mean, "Average compressed size divided by uncompressed size"),
        ],
        RecordSend => [
            ("record-send-rate", Rate, "Records sent per second"),
            ("record-send-total", Total, "Records sent; every attempt counts"),
        ],
        RecordRetry => [
            ("record-retry-rate", Rate, "Records retried per second"),
            ("record-retry-total", Total, "Records retried"),
        ],
        RecordError => [
            ("record-error-rate", Rate, "Records failed per second"),
            ("record-error-total", Total, "Records failed"),
        ],
        RecordSize => [
            ("record-size-avg", Mean, "Average size of the largest record of each batch, in bytes"),
            ("record-size-max", Max, "Size of the largest record, in bytes"),
        ],
        RecordsPerRequest => [
            ("records-per-request-avg", Mean, "Average number of records per produce request"),
        ],
        QueueTime => [
            (
                "record-queue-time-avg",
                Mean,
                "Average time from a batch's first record until it is sent, in ms"
            ),
            (
                "record-queue-time-max",
                Max,
                "Longest time from a batch's first record until it is sent, in ms"
            ),
        ],
        RequestLatency => [
            (
                "request-latency-avg",
                Mean,
                "Average time from a produce request to its response, in ms"
            ),
            (
                "request-latency-max",
                Max,
                "Longest time from a produce request to its response, in ms"
            ),
        ],
        Throttle => [
            (
                "produce-throttle-time-avg",
                Mean,
                "Average throttle time that brokers requested, in ms"
            ),
            (
                "produce-throttle-time-max",
                Max,
                "Longest throttle time that a broker requested, in ms"
            ),
        ],
        MetadataWait => [
            ("metadata-wait-time-ns-total", Total, "Time that callers waited for metadata, in ns"),
        ],
        Flush => [
            ("flush-time-ns-total", Total, "Time that callers waited in flush, in ns"),
        ],
        TxnInit => [
            (
                "txn-init-time-ns-total",
                Total,
                "Time that callers waited in init_transactions, in ns"
            ),
        ],
        TxnBegin => [
            (
                "txn-begin-time-ns-total",
                Total,
                "Time that callers waited in begin_transaction, in ns"
            ),
        ],
        TxnSendOffsets => [
            (
                "txn-send-offsets-time-ns-total",
                Total,
                "Time that callers waited in send_offsets, in ns"
            ),
        ],
        TxnCommit => [
            ("txn-commit-time-ns-total", Total, "Time that callers waited in commit, in ns"),
        ],
        TxnAbort => [
            ("txn-abort-time-ns-total", Total, "Time that callers waited in abort, in ns"),
        ],
        ConnectionCreation => [
            ("connection-creation-rate", Rate, "Connections opened per second"),
            ("connection-creation-total", Total, "Connections opened"),
        ],
        ConnectionClose => [
            ("connection-close-rate", Rate, "Connections closed or lost per second"),
            ("connection-close-total", Total, "Connections closed or lost"),
        ],
        Authentication => [
            ("successful-authentication-rate", Rate, "Successful authentications per second"),
            ("successful-authentication-total", Total, "Successful authentications"),
        ],
        AuthenticationNoReauth => [
            (
                "successful-authentication-no-reauth-total",
                Total,
                "Successful authentications of sessions that never expire"
            ),
        ],
        AuthenticationFailed => [
            ("failed-authentication-rate", Rate, "Failed authentications per second"),
            ("failed-authentication-total", Total, "Failed authentications"),
        ],
        Reauthentication => [
            ("successful-reauthentication-rate", Rate, "Successful reauthentications per second"),
            ("successful-reauthentication-total", Total, "Successful reauthentications"),
        ],
        ReauthenticationFailed => [
            ("failed-reauthentication-rate", Rate, "Failed reauthentications per second"),
            ("failed-reauthentication-total", Total, "Failed reauthentications"),
        ],
        ReauthenticationLatency => [
            ("reauthentication-latency-avg", Mean, "Average duration of a reauthentication, in ms"),
            ("reauthentication-latency-max", Max, "Longest duration of a reauthentication, in ms"),
        ],
        NetworkIo => [
            ("network-io-rate", Rate, "Requests and responses per second"),
            ("network-io-total", Total, "Requests and responses"),
        ],
        Select => [
            ("select-rate", Rate, "Polls per second"),
            ("select-total", Total, "Polls"),
        ],
        IoTime => [
            ("io-ratio", Ratio, "Fraction of the time that the sender's thread works"),
            ("io-time-ns-avg", Mean, "Average time between two polls, in ns"),
            ("io-time-ns-total", Total, "Time between polls, in ns"),
        ],
        IoWait => [
            ("io-wait-ratio", Ratio, "Fraction of the time that the sender's thread waits in poll"),
            ("io-wait-time-ns-avg", Mean, "Average time in a poll, in ns"),
            ("io-wait-time-ns-total", Total, "Time in polls, in ns"),
        ],
        IncomingByte => [
            ("incoming-byte-rate", Rate, "Bytes received per second"),
            ("incoming-byte-total", Total, "Bytes received"),
        ],
        OutgoingByte => [
            ("outgoing-byte-rate", Rate, "Bytes sent per second"),
            ("outgoing-byte-total", Total, "Bytes sent"),
        ],
        Request => [
            ("request-rate", Rate, "Requests sent per second"),
            ("request-total", Total, "Requests sent"),
        ],
        RequestSize => [
            ("request-size-avg", Mean, "Average size of a request, in bytes"),
            ("request-size-max", Max, "Size of the largest request, in bytes"),
        ],
        Response => [
            ("response-rate", Rate, "Responses received per second"),
            ("response-total", Total, "Responses received"),
        ],
    }
}

sensors! {
    /// The sensors of a topic; they exist from the topic's first batch on.
    TopicSensor TOPIC {
        RecordSend => [
            ("record-send-rate", Rate, "Records sent per second"),
            ("record-send-total", Total, "Records sent; every attempt counts"),
        ],
        Byte => [
            ("byte-rate", Rate, "Bytes sent per second"),
            ("byte-total", Total, "Bytes sent"),
        ],
        Compression => [
            ("compression-rate", Mean, "Average compressed size divided by uncompressed size"),
        ],
        RecordRetry => [
            ("record-retry-rate", Rate, "Records retried per second"),
            ("record-retry-total", Total, "Records retried"),
        ],
        RecordError => [
            ("record-error-rate", Rate, "Records failed per second"),
            ("record-error-total", Total, "Records failed"),
        ],
    }
}

sensors! {
    /// The sensors of a broker; they exist from its first request on.
    NodeSensor NODE {
        Request => [
            ("request-rate", Rate, "Requests sent per second"),
            ("request-total", Total, "Requests sent"),
        ],
        RequestSize => [
            ("request-size-avg", Mean, "Average size of a request, in bytes"),
            ("request-size-max", Max, "Size of the largest request, in bytes"),
        ],
        OutgoingByte => [
            ("outgoing-byte-rate", Rate, "Bytes sent per second"),
            ("outgoing-byte-total", Total, "Bytes sent"),
        ],
        Response => [
            ("response-rate", Rate, "Responses received per second"),
            ("response-total", Total, "Responses received"),
        ],
        RequestLatency => [
            ("request-latency-avg", Mean, "Average time from a request to its response, in ms"),
            ("request-latency-max", Max, "Longest time from a request to its response, in ms"),
        ],
        IncomingByte => [
            ("incoming-byte-rate", Rate, "Bytes received per second"),
            ("incoming-byte-total", Total, "Bytes received"),
        ],
    }
}

/// All sensors of a producer.
#[derive(Debug)]
pub(crate) struct Sensors {
    config: MetricConfig,
    series: Mutex<SensorSeries>,
}

/// The series of each sensor, indexed by the sensor's number.
#[derive(Debug, Default, Clone)]
struct SensorSeries {
    producer: Vec<Series>,
    topics: BTreeMap<Arc<str>, Vec<Series>>,
    nodes: BTreeMap<i32, Vec<Series>>,
}

impl Default for Sensors {
    fn default() -> Sensors {
        Sensors::new(MetricConfig { samples: 2, window: Duration::from_secs(30) })
    }
}

/// Returns an empty series for each sensor of the table.
fn new_series(table: &[&[MetricTemplate]]) -> Vec<Series> {
    vec![Series::default(); table.len()]
}

impl Sensors {
    pub(crate) fn new(config: MetricConfig) -> Sensors {
        let series = SensorSeries { producer: new_series(PRODUCER), ..SensorSeries::default() };
        Sensors { config, series: Mutex::new(series) }
    }

    pub(crate) fn record(&self, values: &[(Sensor, f64)], now: Tick) {
        let mut series = self.series.lock();
        for (sensor, value) in values {
            series.producer[*sensor as usize].record(*value, now, self.config);
        }
    }

    pub(crate) fn record_topic(&self, topic: &Arc<str>, values: &[(TopicSensor, f64)], now: Tick) {
        let mut series = self.series.lock();
        if !series.topics.contains_key(topic) {
            series.topics.insert(topic.clone(), new_series(TOPIC));
        }
        let Some(of_topic) = series.topics.get_mut(topic) else { return };
        for (sensor, value) in values {
            of_topic[*sensor as usize].record(*value, now, self.config);
        }
    }

    pub(crate) fn record_node(&self, node: i32, values: &[(NodeSensor, f64)], now: Tick) {
        let mut series = self.series.lock();
        let of_node = series.nodes.entry(node).or_insert_with(|| new_series(NODE));
        for (sensor, value) in values {
            of_node[*sensor as usize].record(*value, now, self.config);
        }
    }

    /// Returns all metrics with their values at `now`.
    pub(crate) fn read(&self, client_id: &str, now: Tick) -> Vec<Metric> {
        // Cloned, so that the lock is free while the metrics are formatted: the sender needs it.
        let series = self.series.lock().clone();
        let mut metrics = Vec::new();
        let mut add = |group,
                       table: &[&[MetricTemplate]],
                       sensors: &[Series],
                       tag: Option<(&'static str, String)>| {
            for (templates, series) in table.iter().zip(sensors) {
                for MetricTemplate { name, stat, description } in *templates {
                    let mut tags = vec![("client-id", client_id.to_owned())];
                    tags.extend(tag.clone());
                    let value = MetricValue::Number(stat.measure(series, now, self.config));
                    metrics.push(Metric { name, group, description, tags, value });
                }
            }
        };
        add("producer-metrics", PRODUCER, &series.producer, None);
        for (topic, sensors) in &series.topics {
            let tag = ("topic", topic.to_string());
            add("producer-topic-metrics", TOPIC, sensors, Some(tag));
        }
        for (node, sensors) in &series.nodes {
            let tag = ("node-id", format!("node-{node}"));
            add("producer-node-metrics", NODE, sensors, Some(tag));
        }
        metrics
    }
}

impl Stat {
    fn measure(self, series: &Series, now: Tick, config: MetricConfig) -> f64 {
        match self {
            Stat::Rate => series.rate(now, config),
            Stat::Total => series.total,
            Stat::Mean => series.mean(now, config),
            Stat::Max => series.max(now, config),
            Stat::Ratio => series.rate(now, config) / 1e9,
        }
    }
}

/// Returns group, name and description of each metric of a topic or a broker.
#[cfg(feature = "opentelemetry")]
pub(crate) fn part_metrics() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let groups = [("producer-topic-metrics", TOPIC), ("producer-node-metrics", NODE)];
    groups.into_iter().flat_map(|(group, table)| {
        table.iter().copied().flatten().map(move |m| (group, m.name, m.description))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_are_unique_within_a_group_and_carry_their_tags() {
        let sensors = Sensors::default();
        sensors.record(&[(Sensor::RecordSend, 7.0)], Tick(1));
        sensors.record_topic(&"t".into(), &[(TopicSensor::Byte, 100.0)], Tick(1));
        sensors.record_node(-1, &[(NodeSensor::Request, 1.0)], Tick(1));
        let metrics = sensors.read("c", Tick(2));
        for (i, m) in metrics.iter().enumerate() {
            let is_same = |other: &Metric| (other.name, other.group) == (m.name, m.group);
            assert!(!metrics[..i].iter().any(is_same), "{} is there twice", m.name);
        }
        let find =
            |group, name| metrics.iter().find(|m| m.group == group && m.name == name).unwrap();
        let total = find("producer-metrics", "record-send-total");
        assert_eq!(total.value, MetricValue::Number(7.0));
        let byte = find("producer-topic-metrics", "byte-total");
        assert_eq!(byte.tags, [("client-id", "c".to_owned()), ("topic", "t".to_owned())]);
        assert_eq!(find("producer-node-metrics", "request-total").tags[1].1, "node--1");
    }
}
