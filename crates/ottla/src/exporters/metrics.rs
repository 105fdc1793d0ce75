//! The metrics in the recorder of the crate `metrics`.

use std::collections::BTreeSet;

use ::metrics::{Key, KeyName, Label, Level, Metadata, with_recorder};

use crate::metrics::prometheus_names::{prometheus_name, prometheus_sample};
use crate::metrics::{Metric, is_counter};

/// Sets metrics in the current recorder of the crate [`metrics`](https://docs.rs/metrics).
///
/// The names, labels, descriptions and kinds are those of the feature `prometheus`, and
/// `docs/METRICS.md` lists them. A text becomes a gauge that is 1, with the label `value`. Without
/// a recorder the call has no effect.
///
/// Call it as often as the application wants current values, for example every ten seconds. A
/// recorder keeps the last values of a topic or broker that the producer no longer uses, unless it
/// has an idle timeout.
///
/// ```no_run
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = ottla::Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// ottla::record_metrics(&producer.metrics());
/// # Ok(()) }
/// ```
pub fn record_metrics(metrics: &[Metric]) {
    with_recorder(|recorder| {
        let metadata = Metadata::new("ottla::metrics", Level::INFO, Some(module_path!()));
        let mut described = BTreeSet::new();
        for metric in metrics {
            let name = prometheus_name(metric);
            let is_counter = is_counter(&name);
            let name = KeyName::from(name);
            // Many topics share a name.
            if described.insert((metric.group, metric.name)) {
                let description = metric.description.into();
                if is_counter {
                    recorder.describe_counter(name.clone(), None, description);
                } else {
                    recorder.describe_gauge(name.clone(), None, description);
                }
            }
            let (labels, number) = prometheus_sample(metric);
            let labels: Vec<Label> = labels
                .into_iter()
                .map(|(name, value)| Label::new(name, value.to_owned()))
                .collect();
            let key = Key::from_parts(name, labels);
            if is_counter {
                // Counters are integers here. A fraction exists in none of the totals.
                recorder.register_counter(&key, &metadata).absolute(number as u64);
            } else {
                recorder.register_gauge(&key, &metadata).set(number);
            }
        }
    });
}

#[cfg(all(test, not(ottla_loom)))]
mod tests {
    use ::metrics::with_local_recorder;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

    use super::*;
    use crate::metrics::MetricValue;
    use crate::metrics::prometheus_names::all_metrics;

    /// Returns one line for each recorded value and description, sorted.
    fn recorded_lines(snapshotter: &Snapshotter) -> Vec<String> {
        let mut lines = BTreeSet::new();
        for (key, _, description, value) in snapshotter.snapshot().into_vec() {
            let name = key.key().name();
            let (kind, number) = match value {
                DebugValue::Counter(number) => ("counter", number.to_string()),
                DebugValue::Gauge(number) => ("gauge", number.to_string()),
                DebugValue::Histogram(_) => panic!("{name} is a histogram"),
            };
            let labels: Vec<String> =
                key.key().labels().map(|l| format!("{}=\"{}\"", l.key(), l.value())).collect();
            lines.insert(format!("{name}{{{}}} {number}", labels.join(",")));
            lines.insert(format!("# HELP {name} {}", description.unwrap()));
            lines.insert(format!("# TYPE {name} {kind}"));
        }
        lines.into_iter().collect()
    }

    fn prometheus_lines(metrics: &[Metric]) -> Vec<String> {
        let text = crate::metrics::prometheus_text(metrics);
        text.lines().map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
    }

    #[test]
    fn recorder_has_the_samples_of_the_prometheus_text() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let mut metrics = all_metrics();
        let kinds = |is_text: bool| {
            metrics.iter().filter(|m| matches!(m.value, MetricValue::Text(_)) == is_text).count()
        };
        assert!(kinds(true) > 0 && kinds(false) > 50);
        with_local_recorder(&recorder, || record_metrics(&metrics));
        assert_eq!(recorded_lines(&snapshotter), prometheus_lines(&metrics));

        // Later values replace the earlier ones.
        for (i, metric) in metrics.iter_mut().enumerate() {
            if matches!(metric.value, MetricValue::Number(_)) {
                let fraction = if metric.name.ends_with("-total") { 0.0 } else { 0.25 };
                metric.value = MetricValue::Number(1e6 + i as f64 + fraction);
            }
        }
        with_local_recorder(&recorder, || record_metrics(&metrics));
        assert_eq!(recorded_lines(&snapshotter), prometheus_lines(&metrics));
    }

    #[test]
    fn without_a_recorder_metrics_are_ignored() {
        record_metrics(&all_metrics());
    }
}
