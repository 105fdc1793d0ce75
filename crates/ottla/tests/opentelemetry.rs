//! Spans and metrics by OpenTelemetry, read by the in-memory exporters of its SDK.
#![allow(missing_docs, clippy::disallowed_methods)]
#![cfg(feature = "opentelemetry")]

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, Value};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use ottla::{BoxError, Interceptor, MutableRecord, OpenTelemetryInterceptor, Producer, Record};
use ottla_broker::{EmbeddedBroker, NewTopic};

/// A producer with the interceptor, and what its spans and metrics were exported to.
struct Fixture {
    broker: EmbeddedBroker,
    producer: Producer,
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    spans: InMemorySpanExporter,
    metrics: InMemoryMetricExporter,
}

impl Fixture {
    fn start(more: Option<fn(&mut MutableRecord<'_>)>) -> Fixture {
        let small = NewTopic::new("small", 1).config("max.message.bytes", "200");
        let broker = EmbeddedBroker::builder().topic("orders", 1).new_topic(small);
        let broker = broker.start().unwrap();
        let spans = InMemorySpanExporter::default();
        let tracers = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
        let metrics = InMemoryMetricExporter::default();
        let meters = SdkMeterProvider::builder().with_periodic_exporter(metrics.clone()).build();
        let meter = meters.meter("test");
        let mut builder = Producer::builder()
            .bootstrap_servers(broker.bootstrap_servers())
            .interceptor(OpenTelemetryInterceptor::new(tracers.tracer("test"), &meter));
        if let Some(change) = more {
            builder = builder.interceptor(Changes(change));
        }
        let producer = builder.build().unwrap();
        ottla::register_opentelemetry_metrics(&producer, &meter);
        Fixture { broker, producer, tracers, meters, spans, metrics }
    }

    fn spans(&self) -> Vec<SpanData> {
        self.spans.get_finished_spans().unwrap()
    }

    /// Returns the metrics by name, as text.
    fn collect(&self) -> BTreeMap<String, String> {
        self.meters.force_flush().unwrap();
        let finished = self.metrics.get_finished_metrics().unwrap();
        let last = finished.last().unwrap();
        let all = last.scope_metrics().flat_map(|scope| scope.metrics());
        all.map(|m| (m.name().to_owned(), text(m))).collect()
    }
}

/// An interceptor behind the first one.
struct Changes(fn(&mut MutableRecord<'_>));

impl Interceptor for Changes {
    fn on_send(&self, record: &mut MutableRecord<'_>) -> Result<(), BoxError> {
        (self.0)(record);
        Ok(())
    }
}

fn text(metric: &Metric) -> String {
    match metric.data() {
        AggregatedMetrics::F64(MetricData::Sum(sum)) => {
            let points =
                sum.data_points().map(|p| format!("{} {:?}", p.value(), tags(p.attributes())));
            points.collect::<Vec<_>>().join("; ")
        }
        AggregatedMetrics::U64(MetricData::Sum(sum)) => {
            let points =
                sum.data_points().map(|p| format!("{} {:?}", p.value(), tags(p.attributes())));
            points.collect::<Vec<_>>().join("; ")
        }
        AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
            let points =
                gauge.data_points().map(|p| format!("{} {:?}", p.value(), tags(p.attributes())));
            points.collect::<Vec<_>>().join("; ")
        }
        AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
            let points = histogram.data_points();
            points.map(|p| format!("{} {:?}", p.count(), tags(p.attributes()))).collect()
        }
        other => panic!("{}: {other:?}", metric.name()),
    }
}

fn tags<'a>(
    attributes: impl Iterator<Item = &'a opentelemetry::KeyValue>,
) -> BTreeMap<String, String> {
    attributes.map(|a| (a.key.to_string(), a.value.to_string())).collect()
}

fn attribute(span: &SpanData, name: &str) -> Option<Value> {
    span.attributes.iter().find(|a| a.key.as_str() == name).map(|a| a.value.clone())
}

fn parent_header(record: &ottla_broker::ConsumerRecord) -> String {
    let headers: Vec<_> = record.headers.iter().filter(|(name, _)| name == "traceparent").collect();
    assert_eq!(headers.len(), 1, "{:?}", record.headers);
    String::from_utf8(headers[0].1.as_ref().unwrap().to_vec()).unwrap()
}

#[test]
fn span_of_a_record_continues_the_trace_of_its_caller_and_is_in_the_headers() {
    let f = Fixture::start(None);
    let caller = f.tracers.tracer("test").start("request");
    let context = Context::current_with_value(()).with_span(caller);
    let guard = context.clone().attach();
    let old = [ottla::Header::new("traceparent", "00-old-01"), ottla::Header::new("a", "1")];
    let record = Record::to("orders").key("k").value("hello").headers(&old);
    f.producer.send(record).unwrap().wait().unwrap();
    drop(guard);
    let spans = f.spans();
    let span = spans.iter().find(|s| s.name == "send orders").unwrap();
    let parent = context.span().span_context().clone();
    assert_eq!(span.span_context.trace_id(), parent.trace_id());
    assert_eq!((span.parent_span_id, &span.span_kind), (parent.span_id(), &SpanKind::Producer));
    for (name, value) in [
        ("messaging.system", Value::from("kafka")),
        ("messaging.operation.name", "send".into()),
        ("messaging.operation.type", "send".into()),
        ("messaging.destination.name", "orders".into()),
        ("messaging.destination.partition.id", "0".into()),
        ("messaging.kafka.message.key", "k".into()),
        ("messaging.kafka.offset", 0.into()),
        ("messaging.message.body.size", 5.into()),
    ] {
        assert_eq!(attribute(span, name), Some(value), "{name}");
    }
    assert_eq!(attribute(span, "error.type"), None);
    let record = &f.broker.records("orders").unwrap()[0];
    let (trace, id) = (parent.trace_id(), span.span_context.span_id());
    assert_eq!(parent_header(record), format!("00-{trace:032x}-{id:016x}-01"));
    assert_eq!(record.headers[0].0, "a");
}

#[test]
fn failed_records_have_spans_with_their_error() {
    let f = Fixture::start(None);
    let too_large = vec![0; 1000];
    f.producer.send(Record::to("small").value(&too_large)).unwrap().wait().unwrap_err();
    f.producer.send(Record::to("no/topic").value("x")).unwrap_err();
    f.producer.send(Record::to("orders").maybe_value(None::<&[u8]>)).unwrap().wait().unwrap();
    let spans = f.spans();
    assert_eq!(spans.len(), 3);
    let find = |name: &str| spans.iter().find(|s| s.name == name).unwrap();
    let small = find("send small");
    assert_eq!(attribute(small, "error.type"), Some("MESSAGE_TOO_LARGE".into()));
    assert!(
        matches!(&small.status, Status::Error { description } if description.contains("small"))
    );
    assert_eq!(attribute(find("send no/topic"), "error.type"), Some("InvalidTopic".into()));
    let tombstone = find("send orders");
    assert_eq!(attribute(tombstone, "messaging.kafka.message.tombstone"), Some(true.into()));
    assert_eq!(tombstone.status, Status::Unset);
}

#[test]
fn every_span_ends_although_another_interceptor_removes_the_headers() {
    let f = Fixture::start(Some(|record| record.headers.clear()));
    for _ in 0..10 {
        f.producer.send(Record::to("orders").value("x")).unwrap().wait().unwrap();
    }
    assert_eq!(f.spans().len(), 0);
    f.producer.close(Duration::from_secs(10)).unwrap();
    assert_eq!(f.spans().len(), 10);
    assert!(f.spans().iter().all(|s| s.span_context.span_id() != SpanId::INVALID));
}

#[test]
fn metrics_have_the_names_of_the_conventions_and_those_of_kafka() {
    let f = Fixture::start(None);
    for _ in 0..3 {
        f.producer.send(Record::to("orders").value("x")).unwrap().wait().unwrap();
    }
    let metrics = f.collect();
    let sent = &metrics["messaging.client.sent.messages"];
    assert!(
        sent.starts_with("3 ") && sent.contains("\"messaging.destination.name\": \"orders\""),
        "{sent}"
    );
    let duration = &metrics["messaging.client.operation.duration"];
    assert!(duration.starts_with("3 "), "{duration}");
    let total = &metrics["kafka.producer.record_send_total"];
    assert!(total.starts_with("3 {\"client-id\": "), "{total}");
    let of_topic = &metrics["kafka.producer.topic.record_send_total"];
    assert!(of_topic.starts_with('3') && of_topic.contains("\"topic\": \"orders\""), "{of_topic}");
    assert!(metrics["kafka.producer.node.request_total"].contains("node-id"));
    assert!(metrics["kafka.producer.buffer_total_bytes"].starts_with("33554432 "));
    f.producer.close(Duration::from_secs(10)).unwrap();
}
