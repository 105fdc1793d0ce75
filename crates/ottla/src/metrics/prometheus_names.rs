//! The names and labels of the metrics as Micrometer writes them for Prometheus.

use super::{Metric, MetricValue};

/// Returns the metric's name: Kafka's name behind a prefix for its group, with `_` for `-`.
pub(crate) fn prometheus_name(metric: &Metric) -> String {
    let prefix = match metric.group {
        "producer-metrics" => "kafka-producer",
        "producer-topic-metrics" => "kafka-producer-topic",
        "producer-node-metrics" => "kafka-producer-node",
        "app-info" => "kafka-app-info",
        // Its name is `count`.
        "kafka-metrics-count" => "kafka-metrics",
        other => other,
    };
    format!("{prefix}-{}", metric.name).replace('-', "_")
}

/// Returns the metric's labels and number. A text is the label `value`, and its number is 1.
pub(crate) fn prometheus_sample(metric: &Metric) -> (Vec<(String, &str)>, f64) {
    let mut labels: Vec<(String, &str)> =
        metric.tags.iter().map(|(tag, value)| (tag.replace('-', "_"), value.as_str())).collect();
    let number = match &metric.value {
        MetricValue::Number(number) => *number,
        MetricValue::Text(text) => {
            labels.push(("value".to_owned(), text));
            1.0
        }
    };
    (labels, number)
}

/// Returns every metric that a producer can have.
#[cfg(all(test, not(ottla_loom)))]
pub(crate) fn all_metrics() -> Vec<Metric> {
    use super::{NodeSensor, Sensors, TopicSensor};
    use crate::time::Tick;

    let builder = crate::Producer::builder().bootstrap_servers("127.0.0.1:1");
    let mut metrics = builder.build().unwrap().metrics();
    let sensors = Sensors::default();
    sensors.record_topic(&"t".into(), &[(TopicSensor::Byte, 1.0)], Tick(1));
    sensors.record_node(1, &[(NodeSensor::Request, 1.0)], Tick(1));
    let of_parts = sensors.read("c", Tick(1));
    metrics.extend(of_parts.into_iter().filter(|m| m.group != "producer-metrics"));
    metrics
}
