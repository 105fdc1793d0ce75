//! Counters and sensors, fed once a batch or once an event, never once a record.

mod sensors;
mod series;

pub use sensors::{Metric, MetricValue};
pub(crate) use sensors::{NodeSensor, Sensor, Sensors, TopicSensor};
pub(crate) use series::MetricConfig;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $( pub(crate) $name: AtomicU64, )*
            /// What is told by Kafka's names.
            pub(crate) sensors: Sensors,
            /// Requests that have no answer yet.
            pub(crate) requests_in_flight: AtomicU64,
            /// When metadata last came, in ticks; 0 for never.
            pub(crate) last_metadata_tick: AtomicU64,
        }

        /// Totals since the producer was built, at one moment each.
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
    /// Records in batches that were drained; every attempt counts.
    record_send_total,
    /// Records in batches that were put back to be sent again.
    record_retry_total,
    /// Records that failed after they had been accepted.
    record_error_total,
    /// Batches drained.
    batch_total,
    /// Batches that were split because a broker found them too large.
    batch_split_total,
    /// Bytes of batches drained, as they went to the wire.
    byte_total,
    /// Produce requests sent.
    request_total,
    /// Connections made.
    connection_creation_total,
    /// Connections lost or closed.
    connection_close_total,
    /// Interceptors that failed and were skipped.
    interceptor_error_total,
    /// Callbacks and handlers that panicked and were caught.
    callback_panic_total,
    /// Times the sender's loop went round.
    loop_total,
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}
