//! Spans and metrics by OpenTelemetry, sent by its OTLP exporter to a collector over HTTP.
#![allow(missing_docs, clippy::disallowed_methods)]
#![cfg(feature = "opentelemetry")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Metric, NumberDataPoint, Sum,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use ottla::{OpenTelemetryInterceptor, Producer, Record};
use ottla_broker::{EmbeddedBroker, NewTopic};
use prost::Message;

/// The first line, the headers in lower case, and the body of an HTTP request or response.
struct HttpMessage {
    first_line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl HttpMessage {
    /// Reads a message whose body has a `content-length`. Returns `None` if the peer sends nothing.
    fn read(stream: &TcpStream) -> io::Result<Option<HttpMessage>> {
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 && lines.is_empty() {
                return Ok(None);
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let first_line = lines.remove(0);
        let headers: BTreeMap<String, String> = lines
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.get("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
        reader.read_exact(&mut body)?;
        Ok(Some(HttpMessage { first_line, headers, body }))
    }
}

/// Sends each request on a connection of its own, and blocks until the response has come.
#[derive(Debug)]
struct BlockingClient;

#[async_trait::async_trait]
impl HttpClient for BlockingClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri();
        let authority = uri.authority().ok_or("the URI has no host")?;
        let mut stream = TcpStream::connect(authority.as_str())?;
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method(), uri.path());
        head += &format!("host: {authority}\r\ncontent-length: {}\r\n", request.body().len());
        for (name, value) in request.headers() {
            head += &format!("{name}: {}\r\n", value.to_str()?);
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        stream.write_all(request.body())?;
        let response = HttpMessage::read(&stream)?.ok_or("no response")?;
        let status = response.first_line.split(' ').nth(1).ok_or("no status")?;
        Ok(Response::builder().status(status).body(response.body.into())?)
    }
}

/// What one request to the collector contained.
enum Export {
    Spans(Vec<Span>),
    Metrics(Vec<Metric>),
    Invalid(String),
}

impl Export {
    fn decode(request: &HttpMessage) -> Export {
        let content_type = request.headers.get("content-type").map(String::as_str);
        let body = request.body.as_slice();
        match (request.first_line.as_str(), content_type) {
            ("POST /v1/traces HTTP/1.1", Some("application/x-protobuf")) => {
                ExportTraceServiceRequest::decode(body).map(|decoded| {
                    let scopes = decoded.resource_spans.into_iter().flat_map(|r| r.scope_spans);
                    Export::Spans(scopes.flat_map(|scope| scope.spans).collect())
                })
            }
            ("POST /v1/metrics HTTP/1.1", Some("application/x-protobuf")) => {
                ExportMetricsServiceRequest::decode(body).map(|decoded| {
                    let scopes = decoded.resource_metrics.into_iter().flat_map(|r| r.scope_metrics);
                    Export::Metrics(scopes.flat_map(|scope| scope.metrics).collect())
                })
            }
            (line, content_type) => Ok(Export::Invalid(format!("{line}, {content_type:?}"))),
        }
        .unwrap_or_else(|e| Export::Invalid(e.to_string()))
    }
}

/// A server that takes OTLP over HTTP with protobuf, as an OpenTelemetry collector does.
struct Collector {
    address: SocketAddr,
    exports: mpsc::Receiver<Export>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, exports) = mpsc::channel();
        let thread = thread::spawn(move || {
            // A connection without a request ends the server.
            while let Some(request) = respond_once(&listener, &sender) {
                request.unwrap();
            }
        });
        Collector { address, exports, thread: Some(thread) }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns all spans since the last call, and the metrics of the last export by name. An
    /// exporter has the response only after the collector has stored the request.
    fn received(&self) -> (Vec<Span>, BTreeMap<String, Metric>) {
        let (mut spans, mut metrics) = (Vec::new(), BTreeMap::new());
        for export in self.exports.try_iter() {
            match export {
                Export::Spans(more) => spans.extend(more),
                Export::Metrics(all) => {
                    metrics = all.into_iter().map(|m| (m.name.clone(), m)).collect();
                }
                Export::Invalid(reason) => panic!("invalid export: {reason}"),
            }
        }
        (spans, metrics)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes one request. Returns `None` for a connection without one.
fn respond_once(listener: &TcpListener, exports: &mpsc::Sender<Export>) -> Option<io::Result<()>> {
    let respond = || {
        let (mut stream, _) = listener.accept()?;
        let Some(request) = HttpMessage::read(&stream)? else { return Ok(None) };
        let export = Export::decode(&request);
        let status =
            if matches!(export, Export::Invalid(_)) { "400 Bad Request" } else { "200 OK" };
        // The receiver is gone while the collector ends.
        let _ = exports.send(export);
        // An empty message says that the collector has taken everything.
        let content = "content-type: application/x-protobuf\r\ncontent-length: 0";
        stream.write_all(format!("HTTP/1.1 {status}\r\n{content}\r\n\r\n").as_bytes())?;
        Ok(Some(()))
    };
    respond().transpose()
}

/// A producer whose spans and metrics go to a collector. The collector ends last.
struct Fixture {
    producer: Producer,
    _tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    broker: EmbeddedBroker,
    collector: Collector,
}

impl Fixture {
    fn start() -> Fixture {
        let small = NewTopic::new("small", 1).config("max.message.bytes", "200");
        let broker = EmbeddedBroker::builder().topic("orders", 1).new_topic(small);
        let broker = broker.start().unwrap();
        let collector = Collector::start();
        let spans = SpanExporter::builder()
            .with_http()
            .with_http_client(BlockingClient)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(collector.url("/v1/traces"))
            .build()
            .unwrap();
        let metrics = MetricExporter::builder()
            .with_http()
            .with_http_client(BlockingClient)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(collector.url("/v1/metrics"))
            .build()
            .unwrap();
        let tracers = SdkTracerProvider::builder().with_simple_exporter(spans).build();
        let meters = SdkMeterProvider::builder().with_periodic_exporter(metrics).build();
        let meter = meters.meter("shop");
        let producer = Producer::builder()
            .bootstrap_servers(broker.bootstrap_servers())
            .set("client.id", "checkout")
            .interceptor(OpenTelemetryInterceptor::new(tracers.tracer("shop"), &meter))
            .build()
            .unwrap();
        ottla::register_opentelemetry_metrics(&producer, &meter);
        Fixture { producer, _tracers: tracers, meters, broker, collector }
    }

    /// Returns the spans and metrics that the collector has, after an export of the metrics.
    fn collect(&self) -> (Vec<Span>, BTreeMap<String, Metric>) {
        self.meters.force_flush().unwrap();
        self.collector.received()
    }
}

/// Returns the attributes as text.
fn tags(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |a: &KeyValue| match a.value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", a.key),
    };
    attributes.iter().map(|a| (a.key.as_str(), text(a))).collect()
}

fn assert_tags(attributes: &[KeyValue], expected: &[(&str, &str)]) {
    let tags = tags(attributes);
    for (name, value) in expected {
        assert_eq!(tags.get(name).map(String::as_str), Some(*value), "{name} of {tags:?}");
    }
}

/// Returns the points of a counter that only grows and is not reset by an export.
fn counter<'m>(metrics: &'m BTreeMap<String, Metric>, name: &str) -> &'m [NumberDataPoint] {
    let metric = metrics.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", metrics.keys()));
    let Some(Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true })) =
        &metric.data
    else {
        panic!("{metric:?}");
    };
    assert_eq!(*aggregation_temporality, AggregationTemporality::Cumulative as i32);
    data_points
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn collector_has_the_span_of_each_acknowledged_record_with_the_trace_of_its_headers() {
    let f = Fixture::start();
    for key in ["a", "b", "c"] {
        f.producer.send(Record::to("orders").key(key).value("hello")).unwrap().wait().unwrap();
    }
    let (spans, _) = f.collect();
    let records = f.broker.records("orders").unwrap();
    assert_eq!((spans.len(), records.len()), (3, 3));
    for (record, (offset, key)) in records.iter().zip([("0", "a"), ("1", "b"), ("2", "c")]) {
        let is_of_record = |s: &&Span| tags(&s.attributes)["messaging.kafka.offset"] == offset;
        let span = spans.iter().find(is_of_record).unwrap();
        assert_eq!((span.name.as_str(), span.kind), ("send orders", SpanKind::Producer as i32));
        assert_tags(
            &span.attributes,
            &[
                ("messaging.system", "kafka"),
                ("messaging.operation.name", "send"),
                ("messaging.operation.type", "send"),
                ("messaging.destination.name", "orders"),
                ("messaging.destination.partition.id", "0"),
                ("messaging.kafka.message.key", key),
                ("messaging.message.body.size", "5"),
            ],
        );
        assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano > 0, "{span:?}");
        let (name, value) = &record.headers[0];
        let expected = format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id));
        assert_eq!((name.as_str(), value.as_deref()), ("traceparent", Some(expected.as_bytes())));
    }
}

#[test]
fn collector_has_the_counters_of_the_acknowledged_records() {
    let f = Fixture::start();
    for _ in 0..3 {
        f.producer.send(Record::to("orders").value("hello")).unwrap().wait().unwrap();
    }
    let (_, metrics) = f.collect();
    let [sent] = counter(&metrics, "messaging.client.sent.messages") else { panic!() };
    assert_eq!(sent.value, Some(Value::AsInt(3)));
    assert_tags(
        &sent.attributes,
        &[("messaging.system", "kafka"), ("messaging.destination.name", "orders")],
    );
    let [total] = counter(&metrics, "kafka.producer.record_send_total") else { panic!() };
    assert_eq!(total.value, Some(Value::AsDouble(3.0)));
    assert_tags(&total.attributes, &[("client-id", "checkout")]);
    let [of_topic] = counter(&metrics, "kafka.producer.topic.record_send_total") else { panic!() };
    assert_eq!(of_topic.value, Some(Value::AsDouble(3.0)));
    assert_tags(&of_topic.attributes, &[("client-id", "checkout"), ("topic", "orders")]);
    let duration = &metrics["messaging.client.operation.duration"];
    let Some(Data::Histogram(histogram)) = &duration.data else { panic!("{duration:?}") };
    assert_eq!((duration.unit.as_str(), histogram.data_points[0].count), ("s", 3));
}

#[test]
fn collector_has_the_error_of_a_failed_record() {
    let f = Fixture::start();
    let too_large = vec![0; 1000];
    f.producer.send(Record::to("small").value(&too_large)).unwrap().wait().unwrap_err();
    let (spans, metrics) = f.collect();
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    assert_tags(
        &span.attributes,
        &[("messaging.destination.name", "small"), ("error.type", "MESSAGE_TOO_LARGE")],
    );
    let status = span.status.as_ref().unwrap();
    assert_eq!(status.code, StatusCode::Error as i32);
    assert!(status.message.contains("small"), "{}", status.message);
    let [sent] = counter(&metrics, "messaging.client.sent.messages") else { panic!() };
    assert_tags(&sent.attributes, &[("error.type", "MESSAGE_TOO_LARGE")]);
    let [errors] = counter(&metrics, "kafka.producer.topic.record_error_total") else { panic!() };
    assert_eq!(errors.value, Some(Value::AsDouble(1.0)));
    assert_tags(&errors.attributes, &[("topic", "small")]);
}
