//! The results of a run so far, for whom they are collected again and again: the live view and the
//! report.

use std::sync::Arc;

use hdrhistogram::Histogram;
use ottla::{Metric, MetricValue};

/// Results since the start of the run.
#[derive(Debug, Clone)]
pub(crate) struct RunResults {
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    /// Those of the failed records that may be in the log; `None` if they are not counted.
    pub(crate) possibly_persisted: Option<u64>,
    /// Bytes of keys and values, uncompressed.
    pub(crate) bytes: u64,
    /// In microseconds, of the acknowledged records.
    pub(crate) latency_us: Histogram<u64>,
}

/// Returns the results at the time of the call.
pub(crate) type ResultsSource = Arc<dyn Fn() -> RunResults + Send + Sync>;

/// Returns the value of one of Kafka's `producer-metrics`; `None` without a recent measurement.
pub(crate) fn producer_metric(metrics: &[Metric], name: &str) -> Option<f64> {
    let metric = metrics.iter().find(|m| m.group == "producer-metrics" && m.name == name)?;
    match metric.value {
        MetricValue::Number(n) if n.is_finite() => Some(n),
        _ => None,
    }
}

/// Returns the latencies that `now` has and `before` has not.
pub(crate) fn histogram_since(now: &Histogram<u64>, before: &Histogram<u64>) -> Histogram<u64> {
    let mut since = now.clone();
    // The bounds are the same. A warm-up that was removed meanwhile leaves fewer than before.
    if since.subtract(before).is_err() {
        since = now.clone();
    }
    since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_since_a_reading_are_those_that_were_added() {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
        histogram.record_n(100, 5).unwrap();
        let before = histogram.clone();
        histogram.record_n(2000, 2).unwrap();
        let since = histogram_since(&histogram, &before);
        assert_eq!((since.len(), since.value_at_quantile(0.0)), (2, 2000));
        // The warm-up has been removed.
        histogram.reset();
        histogram.record(30).unwrap();
        assert_eq!(histogram_since(&histogram, &before).len(), 1);
    }
}
