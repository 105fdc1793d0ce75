//! What a push contains: the requested metrics, as totals or differences, encoded and compressed.

use std::collections::BTreeMap;

use ottla_protocol::compression::{Codec, Compressor};

use super::{Scope, Subscription};
use crate::metrics::otlp::{DataPoint, Temporality, encode, telemetry_name};
use crate::metrics::{Metric, MetricValue};

/// The counters' values at the last push that a broker has accepted, for delta temporality.
#[derive(Debug, Default)]
pub(super) struct DeltaLedger {
    accepted: Values,
    /// Those of the push in flight.
    sent: Values,
}

/// Counters by name and tags, and when they were read.
#[derive(Debug, Default)]
struct Values {
    by_metric: BTreeMap<MetricKey, f64>,
    read_at_ms: Option<i64>,
}

/// The name of a metric for brokers, and its tags.
type MetricKey = (String, Vec<(&'static str, String)>);

impl DeltaLedger {
    /// Notes that a broker has accepted the last push. A push that failed adds to the next one.
    pub(super) fn commit(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        if sent.read_at_ms.is_some() {
            // A metric that this push has left out keeps its value of an earlier one.
            self.accepted.by_metric.extend(sent.by_metric);
            self.accepted.read_at_ms = sent.read_at_ms;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = DeltaLedger::default();
    }
}

/// The producer whose metrics are pushed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) metrics: &'a [Metric],
    /// The attributes of the resource: rack and transactional id.
    pub(super) attributes: &'a [(&'a str, &'a str)],
    /// When the producer was built.
    pub(super) started_ms: i64,
    pub(super) now_ms: i64,
}

/// Metrics, encoded and compressed.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) codec: Codec,
    pub(super) bytes: Vec<u8>,
}

/// Creates the payload of a push; `None` if even the producer's own metrics exceed the broker's
/// limit. A payload that is too large shrinks to these, and `scope` keeps that for later pushes.
pub(super) fn create_payload(
    source: Source<'_>,
    subscription: &Subscription,
    scope: &mut Scope,
    ledger: &mut DeltaLedger,
) -> Option<Payload> {
    loop {
        let points = select(source, subscription, *scope, ledger);
        let temporality = if subscription.delta_temporality {
            Temporality::Delta
        } else {
            Temporality::Cumulative
        };
        let encoded = encode(source.attributes, temporality, source.now_ms, &points);
        let payload = compress(encoded, &subscription.codecs);
        if payload.bytes.len() <= subscription.max_bytes {
            return Some(payload);
        }
        if *scope == Scope::ProducerOnly {
            return None;
        }
        *scope = Scope::ProducerOnly;
    }
}

/// Returns the points of the requested metrics. A mean or maximum without a measurement has none.
fn select<'m>(
    source: Source<'m>,
    subscription: &Subscription,
    scope: Scope,
    ledger: &mut DeltaLedger,
) -> Vec<DataPoint<'m>> {
    let mut points = Vec::new();
    ledger.sent = Values { by_metric: BTreeMap::new(), read_at_ms: Some(source.now_ms) };
    for metric in source.metrics {
        let is_detail = matches!(metric.group, "producer-topic-metrics" | "producer-node-metrics");
        let MetricValue::Number(number) = metric.value else { continue };
        let name = telemetry_name(metric);
        if number.is_nan()
            || !subscription.requests(&name)
            || (is_detail && scope == Scope::ProducerOnly)
        {
            continue;
        }
        let mut point = DataPoint { metric, name, value: number, start_unix_ms: source.started_ms };
        if subscription.delta_temporality && metric.is_counter() {
            let key = (point.name.clone(), metric.tags.clone());
            if let Some(last) = ledger.accepted.by_metric.get(&key) {
                point.value -= last;
            }
            point.start_unix_ms = ledger.accepted.read_at_ms.unwrap_or(source.started_ms);
            ledger.sent.by_metric.insert(key, number);
        }
        points.push(point);
    }
    points
}

/// Compresses with the first codec of the broker's list that this build has.
fn compress(encoded: Vec<u8>, accepted: &[Codec]) -> Payload {
    for &codec in accepted.iter().take_while(|codec| **codec != Codec::None) {
        let mut bytes = Vec::new();
        let compressor = Compressor::new(codec, codec.default_level());
        if compressor.is_ok_and(|mut c| c.compress(&encoded, &mut bytes).is_ok()) {
            return Payload { codec, bytes };
        }
    }
    Payload { codec: Codec::None, bytes: encoded }
}
