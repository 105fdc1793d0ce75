//! The producer's metrics as observable instruments of OpenTelemetry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};

use crate::Producer;
use crate::metrics::{Metric, MetricValue, is_counter, part_metrics};
use crate::sync::Mutex;

/// How long a reading of the metrics is used. A collection calls a hundred instruments, and each
/// one would read all metrics.
const READING_LIFETIME: Duration = Duration::from_millis(100);

/// Registers the metrics of a producer with a meter, as observable counters and gauges.
///
/// A name is Kafka's behind `kafka.producer.`, `kafka.producer.topic.` or `kafka.producer.node.`,
/// with `_` for `-`: `kafka.producer.record_send_total`. `docs/METRICS.md` lists them all. The
/// attributes are Kafka's tags: `client-id`, `topic`, `node-id`. Names that end in `_total` are
/// counters. A mean or maximum without a recent measurement has no value, and neither have texts.
/// Values are at most 100 ms old when they are collected.
///
/// The instruments do not keep the producer alive. Once it is closed they have no values.
///
/// ```
/// use opentelemetry::global;
/// use ottla::Producer;
///
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// ottla::register_opentelemetry_metrics(&producer, &global::meter("shop"));
/// # Ok(()) }
/// ```
pub fn register_opentelemetry_metrics(producer: &Producer, meter: &Meter) {
    let of_producer = producer.metrics().into_iter().map(|m| (m.group, m.name, m.description));
    // Topics and brokers appear later.
    let names: BTreeMap<(&str, &str), &str> = of_producer
        .chain(part_metrics())
        .map(|(group, name, text)| ((group, name), text))
        .collect();
    let reader = Arc::new(Reader { read: producer.metrics_reader(), last: Mutex::default() });
    for ((group, name), description) in names {
        let Some(prefix) = prefix(group) else { continue };
        let full_name = format!("{prefix}{}", name.replace('-', "_"));
        let reader = reader.clone();
        let observe = move |instrument: &dyn AsyncInstrument<f64>| {
            for metric in reader.read().iter().filter(|m| m.group == group && m.name == name) {
                if let MetricValue::Number(number) = metric.value
                    && number.is_finite()
                {
                    let tags = metric.tags.iter();
                    let attributes: Vec<KeyValue> =
                        tags.map(|(tag, value)| KeyValue::new(*tag, value.clone())).collect();
                    instrument.observe(number, &attributes);
                }
            }
        };
        if is_counter(&full_name) {
            let builder = meter.f64_observable_counter(full_name).with_description(description);
            builder.with_callback(observe).build();
        } else {
            let builder = meter.f64_observable_gauge(full_name).with_description(description);
            builder.with_callback(observe).build();
        }
    }
}

/// Returns what stands before the names of a group. Texts about the build are no measurements.
fn prefix(group: &str) -> Option<&'static str> {
    match group {
        "producer-metrics" => Some("kafka.producer."),
        "producer-topic-metrics" => Some("kafka.producer.topic."),
        "producer-node-metrics" => Some("kafka.producer.node."),
        _ => None,
    }
}

/// The last reading of all metrics, and when it was made.
type Reading = Option<(SystemTime, Arc<Vec<Metric>>)>;

/// Reads the metrics once for all instruments.
struct Reader<F> {
    read: F,
    last: Mutex<Reading>,
}

impl<F: Fn() -> Vec<Metric>> Reader<F> {
    fn read(&self) -> Arc<Vec<Metric>> {
        let (now, last) = (opentelemetry::time::now(), self.last.lock().clone());
        if let Some((at, metrics)) = last
            && now.duration_since(at).is_ok_and(|age| age < READING_LIFETIME)
        {
            return metrics;
        }
        // Without the lock: the producer takes its own to read them.
        let metrics = Arc::new((self.read)());
        *self.last.lock() = Some((now, metrics.clone()));
        metrics
    }
}
