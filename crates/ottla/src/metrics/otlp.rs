//! Metrics as the protocol buffer `MetricsData` of OpenTelemetry (OTLP 1.x, `metrics.proto`).
//!
//! Brokers receive client metrics in this form (KIP-714). The message is small and its fields are
//! fixed, so it is written directly.

use std::collections::BTreeMap;

use super::Metric;

/// How the value of a counter is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Temporality {
    /// The difference to the value of the previous message.
    Delta = 1,
    /// The total since `start_unix_ms`.
    Cumulative = 2,
}

/// A metric with the value to write.
#[derive(Debug, Clone)]
pub(crate) struct DataPoint<'m> {
    pub(crate) metric: &'m Metric,
    /// The name from [`telemetry_name`].
    pub(crate) name: String,
    pub(crate) value: f64,
    /// For counters: since when they count.
    pub(crate) start_unix_ms: i64,
}

/// Returns the name of a metric for brokers, as in KIP-714: `org.apache.kafka.`, the group without
/// `-metrics`, and the name, with `.` for `-`.
pub(crate) fn telemetry_name(metric: &Metric) -> String {
    let group = metric.group.replace('-', ".").replace(".metrics", "");
    format!("org.apache.kafka.{group}.{}", metric.name.replace('-', "."))
}

/// Writes `MetricsData` with one resource, which has these attributes.
pub(crate) fn encode(
    resource: &[(&str, &str)],
    temporality: Temporality,
    time_unix_ms: i64,
    points: &[DataPoint<'_>],
) -> Vec<u8> {
    let mut by_name: BTreeMap<&str, Vec<&DataPoint<'_>>> = BTreeMap::new();
    for point in points {
        by_name.entry(&point.name).or_default().push(point);
    }
    let scope_metrics = message(|out| {
        for (name, points) in by_name {
            let metric = encode_metric(name, temporality, time_unix_ms, &points);
            write_bytes(out, 2, &metric); // metrics
        }
    });
    let resource_metrics = message(|out| {
        let resource = message(|out| {
            resource.iter().for_each(|(key, value)| write_attribute(out, 1, key, value));
        });
        write_bytes(out, 1, &resource); // resource
        write_bytes(out, 2, &scope_metrics); // scope_metrics
    });
    message(|out| write_bytes(out, 1, &resource_metrics)) // resource_metrics
}

/// Writes a `Metric`: a `Sum` for a counter, else a `Gauge`.
fn encode_metric(
    name: &str,
    temporality: Temporality,
    time_unix_ms: i64,
    points: &[&DataPoint<'_>],
) -> Vec<u8> {
    let is_counter = points.first().is_some_and(|point| point.metric.is_counter());
    let data = message(|out| {
        for point in points {
            write_bytes(out, 1, &encode_point(point, time_unix_ms)); // data_points
        }
        if is_counter {
            write_varint_field(out, 2, temporality as u64); // aggregation_temporality
            write_varint_field(out, 3, 1); // is_monotonic
        }
    });
    message(|out| {
        write_bytes(out, 1, name.as_bytes()); // name
        write_bytes(out, if is_counter { 7 } else { 5 }, &data); // sum or gauge
    })
}

/// Writes a `NumberDataPoint`.
fn encode_point(point: &DataPoint<'_>, time_unix_ms: i64) -> Vec<u8> {
    message(|out| {
        if point.metric.is_counter() {
            write_fixed64(out, 2, unix_nanos(point.start_unix_ms)); // start_time_unix_nano
        }
        write_fixed64(out, 3, unix_nanos(time_unix_ms)); // time_unix_nano
        write_fixed64(out, 4, point.value.to_bits()); // as_double
        // The client id is part of the request's header.
        let tags = point.metric.tags.iter().filter(|(tag, _)| *tag != "client-id");
        for (tag, value) in tags {
            write_attribute(out, 7, &tag.replace('-', "_"), value); // attributes
        }
    })
}

fn unix_nanos(unix_ms: i64) -> u64 {
    u64::try_from(unix_ms).unwrap_or(0).saturating_mul(1_000_000)
}

/// Writes a `KeyValue` with a text.
fn write_attribute(out: &mut Vec<u8>, field: u32, key: &str, value: &str) {
    let any_value = message(|out| write_bytes(out, 1, value.as_bytes())); // string_value
    let key_value = message(|out| {
        write_bytes(out, 1, key.as_bytes()); // key
        write_bytes(out, 2, &any_value); // value
    });
    write_bytes(out, field, &key_value);
}

fn message(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// The wire types of protocol buffers.
const VARINT: u32 = 0;
const FIXED_64: u32 = 1;
const LENGTH_DELIMITED: u32 = 2;

fn write_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    write_varint(out, u64::from(field << 3 | LENGTH_DELIMITED));
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn write_varint_field(out: &mut Vec<u8>, field: u32, value: u64) {
    write_varint(out, u64::from(field << 3 | VARINT));
    write_varint(out, value);
}

fn write_fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    write_varint(out, u64::from(field << 3 | FIXED_64));
    out.extend_from_slice(&value.to_le_bytes());
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(all(test, not(ottla_loom)))]
mod tests {
    use super::*;
    use crate::metrics::MetricValue;

    fn metric(group: &'static str, name: &'static str) -> Metric {
        let tags = vec![("client-id", "c".to_owned()), ("node-id", "node-1".to_owned())];
        Metric { name, group, description: "", tags, value: MetricValue::Number(300.0) }
    }

    #[test]
    fn names_are_those_of_kip_714() {
        let name = |group, name| telemetry_name(&metric(group, name));
        let expected = "org.apache.kafka.producer.node.request.latency.avg";
        assert_eq!(name("producer-node-metrics", "request-latency-avg"), expected);
        assert_eq!(name("app-info", "start-time-ms"), "org.apache.kafka.app.info.start.time.ms");
    }

    #[test]
    fn counter_is_a_monotonic_sum() {
        let metric = metric("producer-node-metrics", "a-total");
        let point = DataPoint { metric: &metric, name: "n".into(), value: 1.0, start_unix_ms: 1 };
        let bytes = encode(&[("k", "v")], Temporality::Delta, 2, &[point]);
        assert!(bytes.windows(9).any(|w| w == b"\x11\x40\x42\x0f\0\0\0\0\0"));
        assert!(bytes.windows(9).any(|w| w == b"\x21\0\0\0\0\0\0\xf0\x3f"));
        assert!(bytes.ends_with(b"\x10\x01\x18\x01"), "delta and monotonic end the sum");
        assert!(!bytes.windows(9).any(|w| w == b"client_id"));
    }
}
