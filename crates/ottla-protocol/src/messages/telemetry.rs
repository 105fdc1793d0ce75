//! GetTelemetrySubscriptions (71) and PushTelemetry (72): client metrics for the broker (KIP-714).

use bytes::Bytes;

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(GetTelemetrySubscriptionsRequest => GetTelemetrySubscriptionsResponse, GET_TELEMETRY_SUBSCRIPTIONS);
impl_request!(PushTelemetryRequest => PushTelemetryResponse, PUSH_TELEMETRY);

message! {
    /// Asks which metrics are wanted.
    pub struct GetTelemetrySubscriptionsRequest {
        /// The client, zero at first.
        client_instance_id: Uuid [0..];
    }
}

message! {
    /// The metrics that are wanted.
    pub struct GetTelemetrySubscriptionsResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [0..];
        /// Error code, 0 for none.
        error_code: i16 [0..];
        /// The client.
        client_instance_id: Uuid [0..];
        /// The subscription.
        subscription_id: i32 [0..];
        /// Codecs the broker reads, best first.
        accepted_compression_types: Vec<i8> [0..];
        /// Milliseconds between pushes.
        push_interval_ms: i32 [0..];
        /// Bytes a push may have.
        telemetry_max_bytes: i32 [0..];
        /// Differences rather than totals.
        delta_temporality: bool [0..];
        /// Prefixes of the metrics.
        requested_metrics: Vec<String> [0..];
    }
}

message! {
    /// Metrics.
    pub struct PushTelemetryRequest {
        /// The client.
        client_instance_id: Uuid [0..];
        /// The subscription.
        subscription_id: i32 [0..];
        /// The last push.
        terminating: bool [0..];
        /// The codec.
        compression_type: i8 [0..];
        /// The metrics, in OTLP.
        metrics: Bytes [0..];
    }
}

message! {
    /// The answer.
    pub struct PushTelemetryResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [0..];
        /// Error code, 0 for none.
        error_code: i16 [0..];
    }
}
