//! Client metrics (KIP-714): what the broker asks of its clients, and what they have pushed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ottla_protocol::compression::{Codec, decompress};
use ottla_protocol::messages::*;
use ottla_protocol::{ErrorCode, Uuid};
use prost::Message as _;

use crate::api::RequestContext;
use crate::core::Core;

/// The pushes that the broker keeps for tests; older ones are dropped.
const MAX_KEPT_PUSHES: usize = 1000;

/// The largest size of a push after decompression.
const MAX_DECOMPRESSED_BYTES: usize = 64 << 20;

/// The metrics that a broker requests from all its clients (KIP-714). A real broker has a plug-in
/// and subscriptions (`kafka-client-metrics.sh`); this one keeps the metrics for tests.
///
/// ```
/// use std::time::Duration;
///
/// use ottla_broker::{ClientMetricsSubscription, EmbeddedBroker};
///
/// let subscription = ClientMetricsSubscription::new(Duration::from_secs(1))
///     .metrics(["org.apache.kafka.producer."]);
/// let broker = EmbeddedBroker::builder().client_metrics(subscription).start()?;
/// // Here the program under test sends records.
/// for push in broker.client_metrics_pushes() {
///     println!("{} has pushed {} metrics", push.client_id, push.metrics.len());
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct ClientMetricsSubscription {
    push_interval_ms: i32,
    metrics: Vec<String>,
    codecs: Vec<Codec>,
    max_bytes: i32,
    delta_temporality: bool,
}

impl ClientMetricsSubscription {
    /// Requests all metrics at this interval, as totals, in pushes of at most 1 MiB.
    pub fn new(push_interval: Duration) -> ClientMetricsSubscription {
        ClientMetricsSubscription {
            push_interval_ms: i32::try_from(push_interval.as_millis()).unwrap_or(i32::MAX),
            metrics: vec![String::new()],
            codecs: vec![Codec::Zstd, Codec::Lz4, Codec::Gzip, Codec::Snappy],
            max_bytes: 1 << 20,
            delta_temporality: false,
        }
    }

    /// Sets the prefixes of the names of the requested metrics. An empty prefix requests all of
    /// them, an empty list none.
    pub fn metrics<S: Into<String>>(mut self, prefixes: impl IntoIterator<Item = S>) -> Self {
        self.metrics = prefixes.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the codecs that the broker accepts, in order of preference, by Kafka's names such as
    /// `zstd`. Unknown names are left out. Every broker accepts `none`.
    pub fn compression_types<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.codecs = names.into_iter().filter_map(Codec::from_name).collect();
        self
    }

    /// Sets the largest size of a push in bytes, compressed (Kafka's `telemetry.max.bytes`).
    pub fn max_bytes(mut self, max_bytes: i32) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets whether clients send the difference to their last push rather than totals; default
    /// false.
    pub fn delta_temporality(mut self, enabled: bool) -> Self {
        self.delta_temporality = enabled;
        self
    }
}

/// The metrics that a client has pushed in one request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClientMetricsPush {
    /// The id that the broker has assigned to the client.
    pub client_instance_id: Uuid,
    /// The client's `client.id`.
    pub client_id: String,
    /// The node that received the push.
    pub node: i32,
    /// Whether this is the client's last push.
    pub is_terminating: bool,
    /// Kafka's name of the codec, such as `zstd`.
    pub compression_type: &'static str,
    /// The attributes of the client, such as `client_rack`.
    pub resource: BTreeMap<String, String>,
    /// The metrics.
    pub metrics: Vec<ClientMetric>,
}

impl ClientMetricsPush {
    /// Returns the value of a metric without attributes.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|m| m.name == name && m.attributes.is_empty()).map(|m| m.value)
    }
}

/// A metric in a push.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClientMetric {
    /// The name, such as `org.apache.kafka.producer.record.send.total`.
    pub name: String,
    /// The attributes, such as `topic`.
    pub attributes: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
    /// Whether the value only grows.
    pub is_counter: bool,
    /// Whether the value of a counter is the difference to the client's last push.
    pub is_delta: bool,
    /// Since when a counter counts, in nanoseconds since the Unix epoch; 0 for a gauge.
    pub start_unix_nanos: u64,
    /// When the value was read, in nanoseconds since the Unix epoch.
    pub unix_nanos: u64,
}

/// The subscription of a cluster, and the pushes that it has received.
#[derive(Debug, Default)]
pub(crate) struct ClientMetrics {
    pub(crate) subscription: Option<ClientMetricsSubscription>,
    /// Changes with the subscription: clients notice by UNKNOWN_SUBSCRIPTION_ID.
    pub(crate) subscription_id: i32,
    pub(crate) pushes: VecDeque<ClientMetricsPush>,
}

impl Core {
    /// Changes what the cluster requests from its clients; `None` for nothing at all, without the
    /// API. Clients that know the old subscription request the new one at their next push.
    pub fn set_client_metrics(&mut self, subscription: Option<ClientMetricsSubscription>) {
        self.client_metrics.subscription = subscription;
        self.client_metrics.subscription_id += 1;
    }

    /// Returns what clients have pushed, oldest first; the last 1000 at most.
    pub fn client_metrics_pushes(&self) -> impl Iterator<Item = &ClientMetricsPush> {
        self.client_metrics.pushes.iter()
    }
}

/// Handles GetTelemetrySubscriptions; `None` if the cluster has no receiver of client metrics.
pub(crate) fn handle_get_telemetry_subscriptions(
    core: &mut Core,
    request: &GetTelemetrySubscriptionsRequest,
) -> Option<GetTelemetrySubscriptionsResponse> {
    let subscription = core.client_metrics.subscription.clone()?;
    let client_instance_id = match request.client_instance_id {
        Uuid::ZERO => core.random_uuid(),
        id => id,
    };
    Some(GetTelemetrySubscriptionsResponse {
        client_instance_id,
        subscription_id: core.client_metrics.subscription_id,
        accepted_compression_types: subscription.codecs.iter().map(|c| *c as i8).collect(),
        push_interval_ms: subscription.push_interval_ms,
        telemetry_max_bytes: subscription.max_bytes,
        delta_temporality: subscription.delta_temporality,
        requested_metrics: subscription.metrics,
        ..Default::default()
    })
}

/// Handles PushTelemetry; `None` if the cluster has no receiver of client metrics.
pub(crate) fn handle_push_telemetry(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: &PushTelemetryRequest,
) -> Option<PushTelemetryResponse> {
    let error_code = match receive(core, ctx, request)? {
        Ok(push) => {
            let pushes = &mut core.client_metrics.pushes;
            pushes.push_back(push);
            let surplus = pushes.len().saturating_sub(MAX_KEPT_PUSHES);
            pushes.drain(..surplus);
            ErrorCode::NONE
        }
        Err(code) => code,
    };
    Some(PushTelemetryResponse { error_code: error_code.0, ..Default::default() })
}

fn receive(
    core: &Core,
    ctx: &RequestContext<'_>,
    request: &PushTelemetryRequest,
) -> Option<Result<ClientMetricsPush, ErrorCode>> {
    let subscription = core.client_metrics.subscription.as_ref()?;
    let codec = match usize::try_from(request.compression_type) {
        Ok(n) => Codec::ALL.get(n).copied(),
        Err(_) => None,
    };
    let codec = codec.filter(|c| *c == Codec::None || subscription.codecs.contains(c));
    let max_bytes = usize::try_from(subscription.max_bytes).unwrap_or(0);
    Some(if request.client_instance_id.is_zero() {
        Err(ErrorCode::INVALID_REQUEST)
    } else if request.subscription_id != core.client_metrics.subscription_id {
        Err(ErrorCode::UNKNOWN_SUBSCRIPTION_ID)
    } else if request.metrics.len() > max_bytes {
        Err(ErrorCode::TELEMETRY_TOO_LARGE)
    } else if let Some(codec) = codec {
        decode(ctx, request, codec).ok_or(ErrorCode::INVALID_RECORD)
    } else {
        Err(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE)
    })
}

/// Returns the metrics of a push; `None` if they are no `MetricsData`.
fn decode(
    ctx: &RequestContext<'_>,
    request: &PushTelemetryRequest,
    codec: Codec,
) -> Option<ClientMetricsPush> {
    let bytes = decompress(codec, &request.metrics, MAX_DECOMPRESSED_BYTES).ok()?;
    let data = otlp::MetricsData::decode(bytes.as_slice()).ok()?;
    let mut push = ClientMetricsPush {
        client_instance_id: request.client_instance_id,
        client_id: ctx.header.client_id.clone().unwrap_or_default(),
        node: ctx.node,
        is_terminating: request.terminating,
        compression_type: codec.name(),
        resource: BTreeMap::new(),
        metrics: Vec::new(),
    };
    for of_resource in data.resource_metrics {
        push.resource.extend(texts(of_resource.resource.unwrap_or_default().attributes));
        for metric in of_resource.scope_metrics.into_iter().flat_map(|s| s.metrics) {
            push.metrics.extend(points(metric));
        }
    }
    Some(push)
}

/// Returns a metric for each data point.
fn points(metric: otlp::Metric) -> impl Iterator<Item = ClientMetric> {
    let gauge = metric.gauge.unwrap_or_default();
    let sum = metric.sum.unwrap_or_default();
    let is_delta = sum.aggregation_temporality == otlp::DELTA;
    let is_monotonic = sum.is_monotonic;
    let gauges = gauge.data_points.into_iter().map(|point| (point, false));
    let sums = sum.data_points.into_iter().map(move |point| (point, is_monotonic));
    gauges.chain(sums).map(move |(point, is_counter)| ClientMetric {
        name: metric.name.clone(),
        value: point.as_double.unwrap_or_else(|| point.as_int.unwrap_or(0) as f64),
        attributes: texts(point.attributes).collect(),
        is_counter,
        is_delta: is_counter && is_delta,
        start_unix_nanos: point.start_time_unix_nano,
        unix_nanos: point.time_unix_nano,
    })
}

fn texts(attributes: Vec<otlp::KeyValue>) -> impl Iterator<Item = (String, String)> {
    attributes.into_iter().map(|a| (a.key, a.value.unwrap_or_default().string_value))
}

/// The messages of OpenTelemetry's `metrics.proto` that Kafka's clients send. Other fields are
/// skipped.
mod otlp {
    /// `AGGREGATION_TEMPORALITY_DELTA`.
    pub(super) const DELTA: i32 = 1;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MetricsData {
        #[prost(message, repeated, tag = "1")]
        pub(super) resource_metrics: Vec<ResourceMetrics>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ResourceMetrics {
        #[prost(message, optional, tag = "1")]
        pub(super) resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub(super) scope_metrics: Vec<ScopeMetrics>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub(super) attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ScopeMetrics {
        #[prost(message, repeated, tag = "2")]
        pub(super) metrics: Vec<Metric>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Metric {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "5")]
        pub(super) gauge: Option<Gauge>,
        #[prost(message, optional, tag = "7")]
        pub(super) sum: Option<Sum>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Gauge {
        #[prost(message, repeated, tag = "1")]
        pub(super) data_points: Vec<NumberDataPoint>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Sum {
        #[prost(message, repeated, tag = "1")]
        pub(super) data_points: Vec<NumberDataPoint>,
        #[prost(int32, tag = "2")]
        pub(super) aggregation_temporality: i32,
        #[prost(bool, tag = "3")]
        pub(super) is_monotonic: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct NumberDataPoint {
        #[prost(message, repeated, tag = "7")]
        pub(super) attributes: Vec<KeyValue>,
        #[prost(fixed64, tag = "2")]
        pub(super) start_time_unix_nano: u64,
        #[prost(fixed64, tag = "3")]
        pub(super) time_unix_nano: u64,
        #[prost(double, optional, tag = "4")]
        pub(super) as_double: Option<f64>,
        #[prost(sfixed64, optional, tag = "6")]
        pub(super) as_int: Option<i64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct KeyValue {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<AnyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct AnyValue {
        #[prost(string, tag = "1")]
        pub(super) string_value: String,
    }
}
