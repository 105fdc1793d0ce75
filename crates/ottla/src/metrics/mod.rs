//! Counters and sensors, updated once per batch, request or poll. Only a record that waits in
//! `send` updates them by itself.
//!
//! The sender's thread updates most of them. `Producer::metrics` and `Producer::totals` read them.

mod sensors;
pub(crate) mod otlp;
mod series;
#[cfg(any(test, feature = "prometheus", feature = "metrics"))]
pub(crate) mod prometheus_names;
#[cfg(any(test, feature = "prometheus"))]
mod prometheus;

#[cfg(any(feature = "prometheus", all(test, feature = "metrics")))]
pub use prometheus::prometheus_text;
#[cfg(feature = "opentelemetry")]
pub(crate) use sensors::part_metrics;
pub use sensors::{Metric, MetricValue};
pub(crate) use sensors::{NodeSensor, Sensor, Sensors, TopicSensor};

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The producer's counters and sensors, shared by callers and the sender.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $( pub(crate) $name: AtomicU64, )*
            /// The metrics with Kafka's names.
            pub(crate) sensors: Sensors,
            /// When the producer was built, in milliseconds since the Unix epoch.
            pub(crate) started_ms: i64,
            /// Records that failed because the producer was closed.
            pub(crate) closed_records: AtomicU64,
            /// Those of them that may be in the log.
            pub(crate) closed_possibly_persisted: AtomicU64,
            /// Records in closed batches that are not completed.
            pub(crate) outstanding_in_closed_batches: AtomicU64,
            /// Requests without a response.
            pub(crate) requests_in_flight: AtomicU64,
            /// The [`Tick`](crate::time::Tick) of the last metadata response; 0 for none.
            pub(crate) last_metadata_tick: AtomicU64,
        }

        /// Totals since the producer was built.
        ///
        /// Each number is read by itself: two of them may be from slightly different moments.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Totals { $( $(#[$doc])* pub $name: u64, )* }

        impl Counters {
            pub(crate) fn totals(&self) -> Totals {
                Totals { $( $name: self.$name.load(Relaxed), )* }
            }
        }
    };
}

counters! {
    /// Records in drained batches. Every attempt counts.
    record_send_total,
    /// Records in batches that were enqueued again for a retry.
    record_retry_total,
    /// Records that failed after the producer had accepted them.
    record_error_total,
    /// Drained batches. Every attempt counts.
    batch_total,
    /// Batches that were split because a broker rejected them as too large.
    batch_split_total,
    /// Bytes of drained batches, compressed, as they were sent.
    byte_total,
    /// Produce requests sent.
    request_total,
    /// Connections opened.
    connection_creation_total,
    /// Connections lost or closed.
    connection_close_total,
    /// Calls of interceptors that failed or panicked.
    interceptor_error_total,
    /// Panics of callbacks and handlers. The producer catches them.
    callback_panic_total,
    /// Rounds of the sender's loop.
    loop_total,
}

/// Returns whether the metric with this name, with `_` for `-`, is a counter. The others are
/// gauges.
#[cfg(any(test, feature = "prometheus", feature = "metrics", feature = "opentelemetry"))]
pub(crate) fn is_counter(name: &str) -> bool {
    name.ends_with("_total")
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}
