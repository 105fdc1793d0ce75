//! All metrics of a producer: those of the sensors, and those that are read at the moment of the
//! call. `Producer::metrics` and the sender's client telemetry have them from here.

use std::sync::atomic::{AtomicU64, Ordering};

use super::RecordAccumulator;
use crate::metrics::{Counters, Metric, MetricValue};
use crate::time::Tick;

/// Where the metrics come from.
struct MetricSources<'a> {
    accumulator: &'a RecordAccumulator,
    counters: &'a Counters,
    client_id: &'a str,
}

impl RecordAccumulator {
    /// Returns all metrics of the producer; none once it is closed.
    pub(crate) fn metrics(&self, counters: &Counters, client_id: &str) -> Vec<Metric> {
        if self.lifecycle().is_closed() {
            return Vec::new();
        }
        MetricSources { accumulator: self, counters, client_id }.read(self.env.now())
    }
}

impl MetricSources<'_> {
    fn read(&self, now: Tick) -> Vec<Metric> {
        let mut metrics = self.counters.sensors.read(self.client_id, now);
        self.add_gauges(&mut metrics, now);
        self.add_app_info(&mut metrics);
        let count = metrics.len() + 1;
        self.add(
            &mut metrics,
            "kafka-metrics-count",
            "count",
            "Number of metrics",
            MetricValue::Number(count as f64),
        );
        metrics
    }

    fn add(
        &self,
        metrics: &mut Vec<Metric>,
        group: &'static str,
        name: &'static str,
        description: &'static str,
        value: MetricValue,
    ) {
        let tags = vec![("client-id", self.client_id.to_owned())];
        metrics.push(Metric { name, group, description, tags, value });
    }

    fn add_gauges(&self, metrics: &mut Vec<Metric>, now: Tick) {
        let mut gauge = |name, description, value: f64| {
            let value = MetricValue::Number(value);
            self.add(metrics, "producer-metrics", name, description, value);
        };
        let pool = &self.accumulator.pool;
        gauge("buffer-total-bytes", "Size of buffer.memory, in bytes", pool.total_memory() as f64);
        gauge(
            "buffer-available-bytes",
            "Free bytes of buffer.memory; negative while the parts of a split batch exceed it",
            pool.balance() as f64,
        );
        gauge("waiting-threads", "Callers that wait for memory", pool.waiting() as f64);
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let in_flight = load(&self.counters.requests_in_flight);
        gauge("requests-in-flight", "Requests without a response", in_flight as f64);
        let metadata_age = match load(&self.counters.last_metadata_tick) {
            0 => f64::NAN,
            tick => now.since(Tick(tick)).as_secs_f64(),
        };
        gauge("metadata-age", "Time since the last metadata response, in seconds", metadata_age);
        let totals = self.counters.totals();
        let open = totals.connection_creation_total.saturating_sub(totals.connection_close_total);
        gauge("connection-count", "Open connections", open as f64);
    }

    fn add_app_info(&self, metrics: &mut Vec<Metric>) {
        let mut info =
            |name, description, value| self.add(metrics, "app-info", name, description, value);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        info("version", "Version of ottla", MetricValue::Text(version));
        let commit = option_env!("OTTLA_COMMIT").unwrap_or("unknown").to_owned();
        info("commit-id", "Commit that ottla was built from", MetricValue::Text(commit));
        info(
            "start-time-ms",
            "Time when the producer was built, in ms since the Unix epoch",
            MetricValue::Number(self.counters.started_ms as f64),
        );
    }
}
