//! Spans and metrics by OpenTelemetry, with the names of its semantic conventions for messaging.

use std::time::{Duration, SystemTime};

use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::trace::{Span, SpanContext, SpanId, SpanKind, Status, Tracer};
use opentelemetry::{Context, KeyValue};

use crate::collections::HashMap;
use crate::delivery::interceptor::{Acknowledgement, Interceptor, MutableRecord};
use crate::record::{BoxError, Header};
use crate::sync::Mutex;
use crate::{Error, RecordMetadata};

/// The header of the W3C's trace context that names trace and span.
const TRACEPARENT: &str = "traceparent";
/// The header with what tracing systems add.
const TRACESTATE: &str = "tracestate";

/// The upper bounds of the histogram of durations, in seconds, as the conventions advise.
const DURATION_BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// An [`Interceptor`] that makes a span of each record, and passes it on in the record's headers.
///
/// The span `send TOPIC` has the kind `PRODUCER` and the current context as its parent. It begins
/// with `send` and ends with the record's result. Its attributes are those of the [semantic
/// conventions for messaging][conventions]: `messaging.system` (`kafka`),
/// `messaging.operation.name` and `.type` (`send`), `messaging.destination.name`,
/// `messaging.destination.partition.id`, `messaging.kafka.offset`, `messaging.kafka.message.key` if
/// the key is UTF-8, `messaging.kafka.message.tombstone`, `messaging.message.body.size`, and
/// `error.type` with the status of an error.
///
/// The headers `traceparent` and `tracestate` ([W3C Trace Context][w3c]) name the span, so that a
/// consumer's spans follow it; they replace those that the application has set. Without a tracer
/// that makes valid spans there is no header.
///
/// Two metrics have the names of the conventions: `messaging.client.sent.messages` (a counter), and
/// `messaging.client.operation.duration`, the time from `send` to the result in seconds, which
/// needs valid spans as well.
///
/// Add it as the last interceptor: one behind it that changes `traceparent` hides the result from
/// the span, which then stays in memory until the producer is closed.
///
/// A span takes memory and time. Records without an interceptor cost nothing more, and sampling
/// lowers the cost of a span, not that of its headers.
///
/// ```
/// use opentelemetry::global;
/// use ottla::{OpenTelemetryInterceptor, Producer};
///
/// let interceptor = OpenTelemetryInterceptor::new(global::tracer("shop"), &global::meter("shop"));
/// let builder = Producer::builder().interceptor(interceptor);
/// ```
///
/// [conventions]: https://opentelemetry.io/docs/specs/semconv/messaging/
/// [w3c]: https://www.w3.org/TR/trace-context/
pub struct OpenTelemetryInterceptor<T: Tracer> {
    tracer: T,
    sent: Counter<u64>,
    duration: Histogram<f64>,
    /// The spans of the records that have no result yet.
    open: Mutex<HashMap<SpanId, OpenSpan<T::Span>>>,
}

/// A span, and when it began.
struct OpenSpan<S> {
    span: S,
    started_at: SystemTime,
}

impl<T: Tracer> std::fmt::Debug for OpenTelemetryInterceptor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.open.lock().len();
        f.debug_struct("OpenTelemetryInterceptor").field("open", &open).finish_non_exhaustive()
    }
}

impl<T: Tracer> OpenTelemetryInterceptor<T> {
    /// Creates the interceptor. The tracer makes its spans, and the meter its metrics.
    pub fn new(tracer: T, meter: &Meter) -> OpenTelemetryInterceptor<T> {
        let sent = meter
            .u64_counter("messaging.client.sent.messages")
            .with_unit("{message}")
            .with_description("Number of messages that the producer attempted to send")
            .build();
        let duration = meter
            .f64_histogram("messaging.client.operation.duration")
            .with_unit("s")
            .with_description("Time from send to the result of a message")
            .with_boundaries(DURATION_BOUNDS.to_vec())
            .build();
        OpenTelemetryInterceptor { tracer, sent, duration, open: Mutex::default() }
    }
}

/// Returns the attributes that the span and the metrics share.
fn common_attributes(topic: &str) -> [KeyValue; 4] {
    [
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.name", "send"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("messaging.destination.name", topic.to_owned()),
    ]
}

/// Returns the attributes of a record before it is sent.
fn record_attributes(record: &MutableRecord<'_>) -> Vec<KeyValue> {
    let mut attributes = common_attributes(&record.topic).to_vec();
    if let Some(key) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) {
        attributes.push(KeyValue::new("messaging.kafka.message.key", key.to_owned()));
    }
    match record.value.as_deref() {
        None => attributes.push(KeyValue::new("messaging.kafka.message.tombstone", true)),
        Some(value) => {
            let size = i64::try_from(value.len()).unwrap_or(i64::MAX);
            attributes.push(KeyValue::new("messaging.message.body.size", size));
        }
    }
    attributes
}

/// Replaces the trace context in the headers.
fn inject(context: &SpanContext, headers: &mut Vec<Header<'_>>) {
    headers.retain(|h| h.key != TRACEPARENT && h.key != TRACESTATE);
    // Only the flag `sampled` is defined in version 00.
    let flags = u8::from(context.is_sampled());
    let parent = format!("00-{:032x}-{:016x}-{flags:02x}", context.trace_id(), context.span_id());
    headers.push(Header::owned(TRACEPARENT, parent));
    let state = context.trace_state().header();
    if !state.is_empty() {
        headers.push(Header::owned(TRACESTATE, state));
    }
}

/// Returns the span that the headers name.
fn extract(headers: &[Header<'_>]) -> Option<SpanId> {
    let header = headers.iter().find(|h| h.key == TRACEPARENT)?;
    let text = std::str::from_utf8(header.value.as_deref()?).ok()?;
    SpanId::from_hex(text.split('-').nth(2)?).ok()
}

/// Returns the value of `error.type`: Kafka's error code, or the kind of the error.
fn error_type(e: &Error) -> String {
    match e.code() {
        Some(code) => code.to_string(),
        None => format!("{:?}", e.kind()),
    }
}

impl<T> Interceptor for OpenTelemetryInterceptor<T>
where
    T: Tracer + Send + Sync,
    T::Span: Send + Sync,
{
    fn on_send(&self, record: &mut MutableRecord<'_>) -> Result<(), BoxError> {
        let builder = self
            .tracer
            .span_builder(format!("send {}", record.topic))
            .with_kind(SpanKind::Producer)
            .with_attributes(record_attributes(record));
        let span = Context::map_current(|context| self.tracer.build_with_context(builder, context));
        let context = span.span_context().clone();
        if context.is_valid() {
            inject(&context, &mut record.headers);
            // The clock that the spans use.
            let started_at = opentelemetry::time::now();
            self.open.lock().insert(context.span_id(), OpenSpan { span, started_at });
        }
        Ok(())
    }

    fn on_acknowledgement(&self, acknowledgement: &Acknowledgement<'_>) {
        let mut attributes = common_attributes(acknowledgement.topic).to_vec();
        let partition = acknowledgement.partition.map(|p| p.to_string());
        let partition = partition.map(|p| KeyValue::new("messaging.destination.partition.id", p));
        attributes.extend(partition.clone());
        let error = acknowledgement.result.as_ref().err();
        let error_type = error.map(|e| KeyValue::new("error.type", error_type(e)));
        attributes.extend(error_type.clone());
        self.sent.add(1, &attributes);
        let span_id = extract(acknowledgement.headers);
        let open = span_id.and_then(|id| self.open.lock().remove(&id));
        let Some(OpenSpan { mut span, started_at }) = open else { return };
        let elapsed = opentelemetry::time::now().duration_since(started_at);
        self.duration.record(elapsed.unwrap_or(Duration::ZERO).as_secs_f64(), &attributes);
        span.set_attributes(partition.into_iter().chain(error_type));
        match acknowledgement.result.as_ref().map(RecordMetadata::offset) {
            Ok(Some(offset)) => span.set_attribute(KeyValue::new("messaging.kafka.offset", offset)),
            Ok(None) => {}
            Err(e) => span.set_status(Status::error(e.to_string())),
        }
        span.end();
    }

    /// Ends the spans of records whose headers another interceptor has changed.
    fn close(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        for OpenSpan { mut span, .. } in open.into_values() {
            span.end();
        }
    }
}
