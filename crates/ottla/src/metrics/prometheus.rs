//! The metrics in Prometheus' text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::prometheus_names::{prometheus_name, prometheus_sample};
use super::{Metric, is_counter};

/// The samples of one name. The format requires that they stand together.
struct Family<'m> {
    description: &'m str,
    is_counter: bool,
    samples: Vec<String>,
}

/// Writes metrics in Prometheus' text format (version 0.0.4), for an HTTP response with the content
/// type `text/plain; version=0.0.4; charset=utf-8`.
///
/// The names are those of Kafka's metrics behind `kafka_producer_`, `kafka_producer_topic_` or
/// `kafka_producer_node_`, with `_` for `-`, as Micrometer writes them. Those of the build begin
/// with `kafka_app_info_`, and the number of metrics is `kafka_metrics_count`. `docs/METRICS.md`
/// lists them all. The tags become labels. Names that end in `_total` are counters, and the others
/// gauges. A text becomes a label `value` of a sample that is 1. The metrics of several producers
/// can be written together: their `client_id` differs.
///
/// ```no_run
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = ottla::Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let text = ottla::prometheus_text(&producer.metrics());
/// assert!(text.contains("# TYPE kafka_producer_record_send_total counter\n"));
/// # Ok(()) }
/// ```
#[cfg_attr(not(feature = "prometheus"), allow(unreachable_pub))]
pub fn prometheus_text(metrics: &[Metric]) -> String {
    let mut families: BTreeMap<String, Family<'_>> = BTreeMap::new();
    for metric in metrics {
        let name = prometheus_name(metric);
        let sample = sample(&name, metric);
        let family = families.entry(name).or_insert_with_key(|name| Family {
            description: metric.description,
            is_counter: is_counter(name),
            samples: Vec::new(),
        });
        family.samples.push(sample);
    }
    let mut text = String::new();
    for (name, family) in families {
        let help = family.description.replace('\\', "\\\\").replace('\n', "\\n");
        let kind = if family.is_counter { "counter" } else { "gauge" };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        text.extend(family.samples);
    }
    text
}

fn sample(name: &str, metric: &Metric) -> String {
    let (labels, number) = prometheus_sample(metric);
    let labels: Vec<String> = labels.iter().map(|(name, value)| label(name, value)).collect();
    // Rust writes an infinite number as `inf`, and Prometheus as `+Inf`.
    let number = if number.is_infinite() {
        format!("{}Inf", if number > 0.0 { '+' } else { '-' })
    } else {
        number.to_string()
    };
    format!("{name}{{{}}} {number}\n", labels.join(","))
}

fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

#[cfg(all(test, not(ottla_loom)))]
mod tests {
    use super::*;
    use crate::config::push_wrapped;
    use crate::metrics::MetricValue;
    use crate::metrics::prometheus_names::all_metrics;

    const INTRODUCTION: &str = "\
# Metrics

`Producer::metrics` returns these metrics, under the names of Kafka's Java producer. With the
feature `prometheus`, `prometheus_text` writes them for Prometheus under the names below, and
`ottla produce --metrics-listen` serves them. With the feature `metrics`, `record_metrics` sets
them in the recorder of the crate `metrics`, under the same names. Kafka's name stands behind
`kafka_producer_`, `kafka_producer_topic_` or `kafka_producer_node_`, with `_` for `-`. Those of
the build begin with `kafka_app_info_`, and the number of metrics is `kafka_metrics_count`.

Each has the label `client_id`, those of a topic or a broker also `topic` or `node_id`. Rates,
means and maxima cover the last `metrics.num.samples` windows of `metrics.sample.window.ms`; a
mean or maximum without a measurement in them is NaN. For Prometheus prefer the counters, and let
it compute the rates.

[grafana-dashboard.json](grafana-dashboard.json) is a dashboard for Grafana, to be imported with a
Prometheus data source.

Brokers that request client metrics (KIP-714) get them as `org.apache.kafka.producer.…`,
`org.apache.kafka.producer.topic.…` and `org.apache.kafka.producer.node.…`, with `.` for `-`:
[how](MONITORING.md#metrics-at-the-brokers).

";

    #[test]
    fn metrics_in_docs_are_up_to_date() {
        let mut page = String::from(INTRODUCTION);
        let mut lines: BTreeMap<String, String> = BTreeMap::new();
        for metric in all_metrics() {
            let name = prometheus_name(&metric);
            let kind = if is_counter(&name) { "counter" } else { "gauge" };
            lines.insert(name.clone(), format!("- `{name}` ({kind}): {}", metric.description));
        }
        lines.values().for_each(|line| push_wrapped(&mut page, line, "  "));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md");
        if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).expect("docs/METRICS.md can be written");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == page, "docs/METRICS.md is out of date: run with OTTLA_WRITE_DOCS=1");
    }

    #[test]
    fn special_characters_and_numbers_follow_the_format() {
        let metric = |name, value| Metric {
            name,
            group: "producer-topic-metrics",
            description: "a \\ and\na line",
            tags: vec![("client-id", "a\"b\\c\nd".to_owned()), ("topic", "t".to_owned())],
            value,
        };
        let text = prometheus_text(&[
            metric("byte-total", MetricValue::Number(1e21)),
            metric("byte-rate", MetricValue::Number(f64::NAN)),
            metric("byte-total", MetricValue::Number(f64::NEG_INFINITY)),
            metric("version", MetricValue::Text("0.1".to_owned())),
        ]);
        let labels = r#"client_id="a\"b\\c\nd",topic="t""#;
        let expected = format!(
            "# HELP kafka_producer_topic_byte_rate a \\\\ and\\na line\n\
             # TYPE kafka_producer_topic_byte_rate gauge\n\
             kafka_producer_topic_byte_rate{{{labels}}} NaN\n\
             # HELP kafka_producer_topic_byte_total a \\\\ and\\na line\n\
             # TYPE kafka_producer_topic_byte_total counter\n\
             kafka_producer_topic_byte_total{{{labels}}} 1000000000000000000000\n\
             kafka_producer_topic_byte_total{{{labels}}} -Inf\n\
             # HELP kafka_producer_topic_version a \\\\ and\\na line\n\
             # TYPE kafka_producer_topic_version gauge\n\
             kafka_producer_topic_version{{{labels},value=\"0.1\"}} 1\n"
        );
        assert_eq!(text, expected);
    }
}
