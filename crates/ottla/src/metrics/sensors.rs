//! What is measured, under Kafka's names (CASES D), and what a [`Metric`] reads out of it. Fed once a batch, a
//! request or a round, by the sender's thread for the most part; its lock is taken for that moment alone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::series::{MetricConfig, Series};
use crate::sync::Mutex;
use crate::time::Tick;

/// One metric at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, as Kafka has it: `record-send-rate`.
    pub name: &'static str,
    /// Its group: `producer-metrics`, `producer-topic-metrics`, `producer-node-metrics`, `app-info`.
    pub group: &'static str,
    /// What it tells.
    pub description: &'static str,
    /// `client-id`, and `topic` or `node-id` where it is one's.
    pub tags: Vec<(&'static str, String)>,
    /// Its value.
    pub value: MetricValue,
}

/// A metric's value.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricValue {
    /// A number; not a number (NaN) where nothing was measured of late.
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

/// How a metric is reckoned from a series.
#[derive(Debug, Clone, Copy)]
enum Stat {
    Rate,
    Total,
    Mean,
    Max,
    /// Nanoseconds a second, as a part of one.
    Ratio,
}

type MetricTemplate = (&'static str, Stat, &'static str);

macro_rules! sensors {
    ($(#[$doc:meta])* $enum:ident $table:ident { $($sensor:ident => [$($row:expr),* $(,)?],)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $enum { $($sensor,)* }
        const $table: &[&[MetricTemplate]] = &[$(&[$($row),*],)*];
    };
}

use Stat::{Max, Mean, Rate, Ratio, Total};

sensors! {
    /// Of the producer as a whole.
    Sensor PRODUCER {
        BatchSize => [
            ("batch-size-avg", Mean, "Bytes of a batch sent, on average"),
            ("batch-size-max", Max, "Bytes of the largest batch sent"),
        ],
        BatchSplit => [
            ("batch-split-rate", Rate, "Batches split a second"),
            ("batch-split-total", Total, "Batches split"),
        ],
        BufferExhausted => [
            ("buffer-exhausted-rate", Rate, "Records a second dropped for want of memory"),
            ("buffer-exhausted-total", Total, "Records dropped for want of memory"),
        ],
        BufferpoolWait => [
            ("bufferpool-wait-ratio", Ratio, "Part of the time that a caller waits for memory"),
            ("bufferpool-wait-time-ns-total", Total, "Nanoseconds that callers waited for memory"),
        ],
        Compression => [
            ("compression-rate-avg", Mean, "Compressed size by size, on average"),
        ],
        RecordSend => [
            ("record-send-rate", Rate, "Records sent a second"),
            ("record-send-total", Total, "Records sent; every attempt counts"),
        ],
        RecordRetry => [
            ("record-retry-rate", Rate, "Records put back to be sent again, a second"),
            ("record-retry-total", Total, "Records put back to be sent again"),
        ],
        RecordError => [
            ("record-error-rate", Rate, "Records failed a second"),
            ("record-error-total", Total, "Records failed"),
        ],
        RecordSize => [
            ("record-size-avg", Mean, "Bytes of each batch's largest record, on average"),
            ("record-size-max", Max, "Bytes of the largest record"),
        ],
        RecordsPerRequest => [
            ("records-per-request-avg", Mean, "Records of a request, on average"),
        ],
        QueueTime => [
            ("record-queue-time-avg", Mean, "Milliseconds from a batch's first record until it is sent, on average"),
            ("record-queue-time-max", Max, "The most milliseconds from a batch's first record until it is sent"),
        ],
        RequestLatency => [
            ("request-latency-avg", Mean, "Milliseconds a produce request takes, on average"),
            ("request-latency-max", Max, "The most milliseconds a produce request took"),
        ],
        Throttle => [
            ("produce-throttle-time-avg", Mean, "Milliseconds of throttling an answer asked for, on average"),
            ("produce-throttle-time-max", Max, "The most milliseconds of throttling an answer asked for"),
        ],
        MetadataWait => [
            ("metadata-wait-time-ns-total", Total, "Nanoseconds that callers waited for metadata"),
        ],
        Flush => [
            ("flush-time-ns-total", Total, "Nanoseconds that callers waited in flush"),
        ],
        ConnectionCreation => [
            ("connection-creation-rate", Rate, "Connections begun a second"),
            ("connection-creation-total", Total, "Connections begun"),
        ],
        ConnectionClose => [
            ("connection-close-rate", Rate, "Connections ended a second"),
            ("connection-close-total", Total, "Connections ended"),
        ],
        Authentication => [
            ("successful-authentication-rate", Rate, "Connections a second whose broker accepted us"),
            ("successful-authentication-total", Total, "Connections whose broker accepted us"),
        ],
        AuthenticationNoReauth => [
            ("successful-authentication-no-reauth-total", Total, "Of these, those that need not be renewed"),
        ],
        AuthenticationFailed => [
            ("failed-authentication-rate", Rate, "Connections a second that one side refused"),
            ("failed-authentication-total", Total, "Connections that one side refused"),
        ],
        Reauthentication => [
            ("successful-reauthentication-rate", Rate, "Sessions renewed a second"),
            ("successful-reauthentication-total", Total, "Sessions renewed"),
        ],
        ReauthenticationFailed => [
            ("failed-reauthentication-rate", Rate, "Sessions a second that were not renewed"),
            ("failed-reauthentication-total", Total, "Sessions that were not renewed"),
        ],
        ReauthenticationLatency => [
            ("reauthentication-latency-avg", Mean, "Milliseconds to renew a session, on average"),
            ("reauthentication-latency-max", Max, "The most milliseconds to renew a session"),
        ],
        NetworkIo => [
            ("network-io-rate", Rate, "Requests and answers a second"),
            ("network-io-total", Total, "Requests and answers"),
        ],
        Select => [
            ("select-rate", Rate, "Polls a second"),
            ("select-total", Total, "Polls"),
        ],
        IoTime => [
            ("io-ratio", Ratio, "Part of the time spent working"),
            ("io-time-ns-avg", Mean, "Nanoseconds of work a poll, on average"),
            ("io-time-ns-total", Total, "Nanoseconds of work"),
        ],
        IoWait => [
            ("io-wait-ratio", Ratio, "Part of the time spent waiting"),
            ("io-wait-time-ns-avg", Mean, "Nanoseconds of waiting a poll, on average"),
            ("io-wait-time-ns-total", Total, "Nanoseconds of waiting"),
        ],
        IncomingByte => [
            ("incoming-byte-rate", Rate, "Bytes read a second"),
            ("incoming-byte-total", Total, "Bytes read"),
        ],
        OutgoingByte => [
            ("outgoing-byte-rate", Rate, "Bytes sent a second"),
            ("outgoing-byte-total", Total, "Bytes sent"),
        ],
        Request => [
            ("request-rate", Rate, "Requests a second"),
            ("request-total", Total, "Requests"),
        ],
        RequestSize => [
            ("request-size-avg", Mean, "Bytes of a request, on average"),
            ("request-size-max", Max, "Bytes of the largest request"),
        ],
        Response => [
            ("response-rate", Rate, "Answers a second"),
            ("response-total", Total, "Answers"),
        ],
    }
}

sensors! {
    /// Of a topic; there from its first batch on.
    TopicSensor TOPIC {
        RecordSend => [
            ("record-send-rate", Rate, "Records sent a second"),
            ("record-send-total", Total, "Records sent; every attempt counts"),
        ],
        Byte => [
            ("byte-rate", Rate, "Bytes sent a second"),
            ("byte-total", Total, "Bytes sent"),
        ],
        Compression => [("compression-rate", Mean, "Compressed size by size, on average")],
        RecordRetry => [
            ("record-retry-rate", Rate, "Records put back to be sent again, a second"),
            ("record-retry-total", Total, "Records put back to be sent again"),
        ],
        RecordError => [
            ("record-error-rate", Rate, "Records failed a second"),
            ("record-error-total", Total, "Records failed"),
        ],
    }
}

sensors! {
    /// Of a node; there from the first request on.
    NodeSensor NODE {
        Request => [
            ("request-rate", Rate, "Requests a second"),
            ("request-total", Total, "Requests"),
        ],
        RequestSize => [
            ("request-size-avg", Mean, "Bytes of a request, on average"),
            ("request-size-max", Max, "Bytes of the largest request"),
        ],
        OutgoingByte => [
            ("outgoing-byte-rate", Rate, "Bytes sent a second"),
            ("outgoing-byte-total", Total, "Bytes sent"),
        ],
        Response => [
            ("response-rate", Rate, "Answers a second"),
            ("response-total", Total, "Answers"),
        ],
        RequestLatency => [
            ("request-latency-avg", Mean, "Milliseconds a request takes, on average"),
            ("request-latency-max", Max, "The most milliseconds a request took"),
        ],
        IncomingByte => [
            ("incoming-byte-rate", Rate, "Bytes read a second"),
            ("incoming-byte-total", Total, "Bytes read"),
        ],
    }
}

/// All of a producer's.
#[derive(Debug)]
pub(crate) struct Sensors {
    config: MetricConfig,
    series: Mutex<SensorSeries>,
}

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

fn new_series(of: &[&[MetricTemplate]]) -> Vec<Series> {
    vec![Series::default(); of.len()]
}

impl Sensors {
    pub(crate) fn new(span: MetricConfig) -> Sensors {
        let state = SensorSeries { producer: new_series(PRODUCER), ..SensorSeries::default() };
        Sensors { config: span, series: Mutex::new(state) }
    }

    pub(crate) fn record(&self, values: &[(Sensor, f64)], now: Tick) {
        let mut state = self.series.lock();
        for (sensor, value) in values {
            state.producer[*sensor as usize].record(*value, now, self.config);
        }
    }

    pub(crate) fn record_topic(&self, topic: &Arc<str>, values: &[(TopicSensor, f64)], now: Tick) {
        let mut state = self.series.lock();
        if !state.topics.contains_key(topic) {
            state.topics.insert(topic.clone(), new_series(TOPIC));
        }
        let Some(all) = state.topics.get_mut(topic) else { return };
        for (sensor, value) in values {
            all[*sensor as usize].record(*value, now, self.config);
        }
    }

    pub(crate) fn record_node(&self, node: i32, values: &[(NodeSensor, f64)], now: Tick) {
        let mut state = self.series.lock();
        let all = state.nodes.entry(node).or_insert_with(|| new_series(NODE));
        for (sensor, value) in values {
            all[*sensor as usize].record(*value, now, self.config);
        }
    }

    /// What all of them tell now.
    pub(crate) fn read(&self, client: &str, now: Tick) -> Vec<Metric> {
        // Written out off the lock: the sender needs it.
        let state = self.series.lock().clone();
        let mut out = Vec::new();
        let mut add = |group,
                       rows: &[&[MetricTemplate]],
                       all: &[Series],
                       tag: Option<(&'static str, String)>| {
            for (rows, series) in rows.iter().zip(all) {
                for (name, stat, description) in *rows {
                    let mut tags = vec![("client-id", client.to_owned())];
                    tags.extend(tag.clone());
                    let value = MetricValue::Number(stat.measure(series, now, self.config));
                    out.push(Metric { name, group, description, tags, value });
                }
            }
        };
        add("producer-metrics", PRODUCER, &state.producer, None);
        for (topic, all) in &state.topics {
            let tag = ("topic", topic.to_string());
            add("producer-topic-metrics", TOPIC, all, Some(tag));
        }
        for (node, all) in &state.nodes {
            let tag = ("node-id", format!("node-{node}"));
            add("producer-node-metrics", NODE, all, Some(tag));
        }
        out
    }
}

impl Stat {
    fn measure(self, series: &Series, now: Tick, span: MetricConfig) -> f64 {
        match self {
            Stat::Rate => series.rate(now, span),
            Stat::Total => series.total,
            Stat::Mean => series.mean(now, span),
            Stat::Max => series.max(now, span),
            Stat::Ratio => series.rate(now, span) / 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_in_their_group_and_carry_their_tags() {
        let sensors = Sensors::default();
        sensors.record(&[(Sensor::RecordSend, 7.0)], Tick(1));
        sensors.record_topic(&"t".into(), &[(TopicSensor::Byte, 100.0)], Tick(1));
        sensors.record_node(-1, &[(NodeSensor::Request, 1.0)], Tick(1));
        let all = sensors.read("c", Tick(2));
        for (i, m) in all.iter().enumerate() {
            let same = |o: &&Metric| (o.name, o.group) == (m.name, m.group);
            assert!(!all[..i].iter().any(|o| same(&o)), "{} twice", m.name);
        }
        let find = |group, name| all.iter().find(|m| m.group == group && m.name == name).unwrap();
        let total = find("producer-metrics", "record-send-total");
        assert_eq!(total.value, MetricValue::Number(7.0));
        let byte = find("producer-topic-metrics", "byte-total");
        assert_eq!(byte.tags, [("client-id", "c".to_owned()), ("topic", "t".to_owned())]);
        assert_eq!(find("producer-node-metrics", "request-total").tags[1].1, "node--1");
    }
}
