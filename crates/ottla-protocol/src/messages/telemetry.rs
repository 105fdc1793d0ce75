//! GetTelemetrySubscriptions (71) and PushTelemetry (72): client metrics for the broker (KIP-714).

use bytes::Bytes;

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(
    GetTelemetrySubscriptionsRequest => GetTelemetrySubscriptionsResponse,
    GET_TELEMETRY_SUBSCRIPTIONS
);
impl_request!(PushTelemetryRequest => PushTelemetryResponse, PUSH_TELEMETRY);

message! {
    /// Requests the metrics subscription of the client.
    pub struct GetTelemetrySubscriptionsRequest {
        /// The client instance id; zero in the first request.
        client_instance_id: Uuid [0..];
    }
}

message! {
    /// The metrics that the client is to send.
    pub struct GetTelemetrySubscriptionsResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The client instance id.
        client_instance_id: Uuid [0..];
        /// The subscription id.
        subscription_id: i32 [0..];
        /// The codecs that the broker supports, in order of preference.
        accepted_compression_types: Vec<i8> [0..];
        /// Milliseconds between pushes.
        push_interval_ms: i32 [0..];
        /// The largest size of the metrics in bytes.
        telemetry_max_bytes: i32 [0..];
        /// Whether the client is to send differences rather than totals.
        delta_temporality: bool [0..];
        /// The prefixes of the requested metrics' names.
        requested_metrics: Vec<String> [0..];
    }
}

message! {
    /// Sends metrics to the broker.
    pub struct PushTelemetryRequest {
        /// The client instance id.
        client_instance_id: Uuid [0..];
        /// The subscription id.
        subscription_id: i32 [0..];
        /// Whether this is the client's last push.
        terminating: bool [0..];
        /// The codec's number.
        compression_type: i8 [0..];
        /// The metrics in OTLP format.
        metrics: Bytes [0..];
    }
}

message! {
    /// The result.
    pub struct PushTelemetryResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
    }
}
