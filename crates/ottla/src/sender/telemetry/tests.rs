use ottla_protocol::compression::decompress;

use super::payload::{Source, create_payload};
use super::*;
use crate::error::ErrorKind;
use crate::metrics::{Metric, MetricValue};
use crate::wakeup::call_request::call_request;

fn response() -> GetTelemetrySubscriptionsResponse {
    GetTelemetrySubscriptionsResponse {
        client_instance_id: Uuid::from_random(1, 2),
        subscription_id: 7,
        accepted_compression_types: vec![9, 4, 1, 0],
        push_interval_ms: 60_000,
        telemetry_max_bytes: 1_000_000,
        requested_metrics: vec![String::new()],
        ..Default::default()
    }
}

fn at(seconds: u64) -> Tick {
    Tick(0).after(Duration::from_secs(seconds))
}

/// Returns a client with a subscription, whose push is in flight.
fn pushing() -> ClientTelemetry {
    let mut t = ClientTelemetry::new(true);
    t.handle_subscription(&response(), 0, at(0));
    (t.last_codec, t.state) = (Codec::Zstd, State::PushRequested);
    t
}

#[test]
fn first_push_waits_half_to_one_and_a_half_intervals_and_the_next_ones_one() {
    for (random, seconds) in [(0, 30), (u64::MAX / 2, 60), (u64::MAX, 90)] {
        let mut t = ClientTelemetry::new(true);
        assert_eq!(t.next_request_at(), Tick(0));
        t.handle_subscription(&response(), random, at(0));
        let wait = t.next_request_at().since(Tick(0)).as_secs_f64();
        assert!((wait - f64::from(seconds)).abs() < 0.001, "{wait}");
    }
    let mut t = pushing();
    assert_eq!(t.next_request_at(), Tick::NEVER);
    t.handle_push_response(ErrorCode::NONE, at(100));
    assert_eq!(t.state, State::PushNeeded { at: at(160) });
}

#[test]
fn empty_list_requests_nothing_and_the_client_asks_again_after_the_interval() {
    let mut t = ClientTelemetry::new(true);
    let none = GetTelemetrySubscriptionsResponse { requested_metrics: Vec::new(), ..response() };
    t.handle_subscription(&none, 0, at(0));
    assert_eq!(t.state, State::SubscriptionNeeded { at: at(60) });
    assert!(t.instance_id.is_some());
}

#[test]
fn error_of_a_push_says_when_the_client_subscribes_again() {
    for (code, expected) in [
        (ErrorCode::UNKNOWN_SUBSCRIPTION_ID, State::SubscriptionNeeded { at: at(9) }),
        (ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, State::SubscriptionNeeded { at: at(9) }),
        (ErrorCode::TELEMETRY_TOO_LARGE, State::SubscriptionNeeded { at: at(69) }),
        (ErrorCode::THROTTLING_QUOTA_EXCEEDED, State::SubscriptionNeeded { at: at(69) }),
        (ErrorCode::NOT_LEADER_OR_FOLLOWER, State::SubscriptionNeeded { at: at(69) }),
        (ErrorCode::INVALID_RECORD, State::Ended),
        (ErrorCode::INVALID_REQUEST, State::Ended),
    ] {
        let mut t = pushing();
        t.handle_push_response(code, at(9));
        assert_eq!(t.state, expected, "{code}");
        let scope =
            if code == ErrorCode::TELEMETRY_TOO_LARGE { Scope::ProducerOnly } else { Scope::All };
        assert_eq!(t.scope, scope, "{code}");
    }
}

#[test]
fn three_lost_requests_in_a_row_end_telemetry() {
    let mut t = pushing();
    t.handle_lost_request(at(9));
    assert_eq!(t.state, State::SubscriptionNeeded { at: at(69) });
    t.handle_lost_request(at(69));
    t.handle_push_response(ErrorCode::NONE, at(70));
    t.handle_lost_request(at(71));
    t.handle_lost_request(at(72));
    assert_eq!(t.state, State::SubscriptionNeeded { at: at(132) }, "a response has come between");
    t.handle_subscription(&response(), 0, at(133));
    t.handle_lost_request(at(134));
    assert_eq!(t.state, State::Ended, "a subscription alone is not the response to a push");
}

#[test]
fn first_subscription_that_is_lost_is_requested_again_after_a_second() {
    let mut t = ClientTelemetry::new(true);
    t.state = State::SubscriptionRequested;
    t.handle_lost_request(at(5));
    assert_eq!(t.state, State::SubscriptionNeeded { at: at(6) });
    t.handle_lost_request(at(6));
    assert_eq!(t.state, State::SubscriptionNeeded { at: at(306) }, "once only");
}

#[test]
fn later_response_without_an_id_keeps_the_assigned_one() {
    let mut t = pushing();
    let zero = GetTelemetrySubscriptionsResponse { client_instance_id: Uuid::ZERO, ..response() };
    t.handle_subscription(&zero, 0, at(9));
    assert_eq!(t.instance_id, Some(response().client_instance_id));
    let mut t = ClientTelemetry::new(true);
    t.handle_subscription(&zero, 0, at(9));
    assert_eq!(t.state, State::Ended);
}

#[test]
fn rejected_codec_is_not_used_again() {
    let mut t = pushing();
    for (codec, left) in
        [(Codec::Zstd, vec![Codec::Gzip, Codec::None]), (Codec::Gzip, vec![Codec::None])]
    {
        (t.last_codec, t.state) = (codec, State::PushRequested);
        t.handle_push_response(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, at(1));
        t.handle_subscription(&response(), 0, at(1));
        assert_eq!(t.subscription.as_ref().unwrap().codecs, left);
    }
    (t.last_codec, t.state) = (Codec::None, State::PushRequested);
    t.handle_push_response(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, at(1));
    assert_eq!(t.state, State::Ended);
}

#[test]
fn request_of_a_caller_that_is_gone_is_dropped() {
    let mut t = ClientTelemetry::new(true);
    for _ in 0..10 {
        let (request, future) = call_request();
        t.await_instance_id(request);
        drop(future);
    }
    assert_eq!(t.waiting.len(), 1);
}

#[test]
fn error_of_a_subscription_never_makes_a_loop_without_a_pause() {
    for code in [ErrorCode::UNKNOWN_SUBSCRIPTION_ID, ErrorCode::THROTTLING_QUOTA_EXCEEDED] {
        let mut t = ClientTelemetry::new(true);
        t.state = State::SubscriptionRequested;
        let error = GetTelemetrySubscriptionsResponse { error_code: code.0, ..response() };
        t.handle_subscription(&error, 0, at(0));
        assert_eq!(t.next_request_at(), at(300), "{code}: the default interval");
    }
}

#[test]
fn last_push_ends_with_its_own_response() {
    let mut t = pushing();
    t.state = State::LastPushRequested { until: at(5), in_flight: 2 };
    t.handle_push_response(ErrorCode::NONE, at(1));
    assert!(t.is_last_push_requested(), "this was the response to the push before");
    t.handle_push_response(ErrorCode::NONE, at(1));
    assert_eq!(t.state, State::Ended);
    t.handle_lost_request(at(1));
    assert_eq!(t.state, State::Ended);
}

#[test]
fn switched_off_telemetry_never_sends() {
    assert_eq!(ClientTelemetry::new(false).next_request_at(), Tick::NEVER);
}

#[test]
fn caller_gets_the_instance_id_or_the_end_of_the_producer() {
    let block_on = |mut future: crate::wakeup::call_request::CallFuture<Uuid>| {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(&mut future).poll(&mut cx) {
            std::task::Poll::Ready(result) => result,
            std::task::Poll::Pending => panic!("not completed"),
        }
    };
    let mut t = ClientTelemetry::new(true);
    let (request, future) = call_request();
    t.await_instance_id(request);
    t.handle_subscription(&response(), 0, at(0));
    assert_eq!(block_on(future).unwrap(), response().client_instance_id);

    let mut t = ClientTelemetry::new(true);
    let (request, future) = call_request();
    t.await_instance_id(request);
    t.end(&Error::closed());
    assert_eq!(block_on(future).unwrap_err().kind(), ErrorKind::Closed);
}

fn metric(group: &'static str, name: &'static str, value: f64) -> Metric {
    let tags = vec![("client-id", "c".to_owned())];
    Metric { name, group, description: "", tags, value: MetricValue::Number(value) }
}

fn source(metrics: &[Metric]) -> Source<'_> {
    Source { metrics, attributes: &[], started_ms: 1, now_ms: 2 }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

#[test]
fn only_requested_metrics_with_a_value_are_sent() {
    let metrics = [
        metric("producer-metrics", "batch-size-avg", 5.0),
        metric("producer-metrics", "batch-size-max", f64::NAN),
        metric("producer-metrics", "record-send-total", 5.0),
    ];
    let payload = |prefix: &str| {
        let mut s = Subscription::new(&response());
        (s.prefixes, s.codecs) = (vec![prefix.to_owned()], Vec::new());
        create_payload(source(&metrics), &s, &mut Scope::All, &mut DeltaLedger::default()).unwrap()
    };
    let some = payload("org.apache.kafka.producer.batch.");
    assert!(contains(&some.bytes, "batch.size.avg") && !contains(&some.bytes, "send"));
    assert!(!contains(&some.bytes, "batch.size.max"), "it has no measurement");
    for all in ["", "*"] {
        assert!(contains(&payload(all).bytes, "org.apache.kafka.producer.record.send.total"));
    }
}

#[test]
fn unknown_codecs_of_the_broker_are_skipped() {
    let metrics = [metric("producer-metrics", "batch-size-avg", 5.0)];
    let s = Subscription::new(&response());
    assert_eq!(s.codecs, [Codec::Zstd, Codec::Gzip, Codec::None]);
    let p = create_payload(source(&metrics), &s, &mut Scope::All, &mut DeltaLedger::default());
    let p = p.unwrap();
    assert_eq!(p.codec, Codec::Zstd);
    assert!(contains(&decompress(p.codec, &p.bytes, 10_000).unwrap(), "batch.size.avg"));
}

#[test]
fn too_large_push_is_sent_without_topics_and_brokers() {
    let mut metrics: Vec<Metric> =
        (0..100).map(|_| metric("producer-topic-metrics", "byte-total", 1.0)).collect();
    metrics.push(metric("producer-metrics", "batch-size-avg", 5.0));
    let mut s = Subscription::new(&response());
    (s.max_bytes, s.codecs) = (200, Vec::new());
    let (mut scope, mut ledger) = (Scope::All, DeltaLedger::default());
    let small = create_payload(source(&metrics), &s, &mut scope, &mut ledger).unwrap();
    assert!(contains(&small.bytes, "batch.size") && !contains(&small.bytes, "topic"));
    assert_eq!(scope, Scope::ProducerOnly);
    s.max_bytes = 20;
    assert!(create_payload(source(&metrics), &s, &mut scope, &mut ledger).is_none());
}

#[test]
fn difference_of_a_push_that_failed_is_part_of_the_next_one() {
    let mut t = ClientTelemetry::new(true);
    let delta = GetTelemetrySubscriptionsResponse {
        delta_temporality: true,
        accepted_compression_types: Vec::new(),
        ..response()
    };
    t.handle_subscription(&delta, 0, at(0));
    let mut push = |total: f64, code: ErrorCode| {
        let metrics = [metric("producer-metrics", "record-send-total", total)];
        let s = t.subscription.clone().unwrap();
        let bytes = create_payload(source(&metrics), &s, &mut t.scope, &mut t.ledger).unwrap();
        t.state = State::PushRequested;
        t.handle_push_response(code, at(0));
        // The value follows the tag of `as_double`.
        let at = bytes.bytes.iter().rposition(|b| *b == 0x21).unwrap();
        f64::from_le_bytes(bytes.bytes[at + 1..at + 9].try_into().unwrap())
    };
    assert_eq!(push(10.0, ErrorCode::NONE), 10.0);
    assert_eq!(push(15.0, ErrorCode::TELEMETRY_TOO_LARGE), 5.0);
    assert_eq!(push(18.0, ErrorCode::NONE), 8.0);
    assert_eq!(push(18.0, ErrorCode::NONE), 0.0);
}

#[test]
fn counter_that_a_push_left_out_keeps_its_last_value() {
    let counter = |name, value| metric("producer-metrics", name, value);
    let mut s = Subscription::new(&response());
    (s.delta_temporality, s.codecs) = (true, Vec::new());
    let mut ledger = DeltaLedger::default();
    let mut push = |metrics: &[Metric]| {
        let payload = create_payload(source(metrics), &s, &mut Scope::All, &mut ledger).unwrap();
        ledger.commit();
        payload.bytes
    };
    push(&[counter("record-send-total", 10.0), counter("record-error-total", 1.0)]);
    push(&[counter("record-error-total", 1.0)]);
    let bytes = push(&[counter("record-send-total", 12.0)]);
    assert!(bytes.windows(9).any(|w| w[0] == 0x21 && w[1..] == 2.0_f64.to_le_bytes()));
}
