use std::collections::BTreeSet;
use std::error::Error as _;
use std::time::Duration;

use super::*;

/// Fails if a message of the chain contains the message of its source, or the reverse.
fn assert_nothing_is_printed_twice(e: &Error) {
    let mut outer = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        let inner = cause.to_string();
        assert!(!outer.contains(&inner), "{outer:?} contains its source {inner:?}");
        assert!(!inner.contains(&outer), "{inner:?} contains its parent {outer:?}");
        (outer, source) = (inner, cause.source());
    }
}

fn timings() -> DeliveryTimings {
    DeliveryTimings {
        attempts: 2,
        last_broker: Some(1),
        memory_wait: Duration::ZERO,
        linger: Duration::from_millis(5),
        leaderless: Duration::ZERO,
        backoff: Duration::ZERO,
        throttled: Duration::ZERO,
        in_flight: Duration::ZERO,
        queued: Duration::ZERO,
    }
}

/// Returns one error of every constructor, and each of them after every `with_` method.
fn errors_of_all_constructors() -> Vec<Error> {
    let codes = (-1..140).map(ErrorCode);
    let mut errors: Vec<Error> = (ErrorKind::ALL.iter())
        .map(|kind| Error::new(*kind, format!("a message about {kind}")))
        .chain(codes.map(|code| Error::broker(code, None, "t-0 on broker 1")))
        .chain([
            Error::config("acks is wrong"),
            Error::closed(),
            Error::broker(ErrorCode::INVALID_RECORD, Some("no key"), "t-0 on broker 1"),
            Error::with_code(ErrorCode::UNKNOWN_TOPIC_ID, "t-0: UNKNOWN_TOPIC_ID: a new topic"),
        ])
        .collect();
    let refusal = Error::broker(ErrorCode::NOT_ENOUGH_REPLICAS, None, "t-0 on broker 1");
    let quoting = Error::new(ErrorKind::DeliveryTimeout, format!("timed out: {refusal}"));
    errors.push(quoting.with_last_broker_error(&refusal));
    let io = || std::io::Error::other("the disk is on fire");
    for e in errors.clone() {
        errors.push(e.clone().with_source(io()));
        errors.push(e.clone().with_last_broker_error(&refusal));
        errors.push(e.clone().with_location("t-0").with_last_broker_error(&refusal));
        errors.push(e.clone().with_status(RecordStatus::PossiblyPersisted).into_fatal());
        errors.push(e.with_timings(timings()).with_last_broker_error(&refusal).with_location("t"));
    }
    errors
}

#[test]
fn no_error_prints_its_source_twice() {
    let errors = errors_of_all_constructors();
    assert!(errors.iter().filter(|e| e.source().is_some()).count() > 500);
    errors.iter().for_each(assert_nothing_is_printed_twice);
}

#[test]
fn error_has_the_brokers_code_for_every_kind_of_refusal() {
    for (code, kind) in [
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, ErrorKind::Authorization),
        (ErrorCode::CLUSTER_AUTHORIZATION_FAILED, ErrorKind::Authorization),
        (ErrorCode::INVALID_TOPIC_EXCEPTION, ErrorKind::InvalidTopic),
        (ErrorCode::SASL_AUTHENTICATION_FAILED, ErrorKind::Authentication),
        (ErrorCode::MESSAGE_TOO_LARGE, ErrorKind::RecordTooLarge),
        (ErrorCode::RECORD_LIST_TOO_LARGE, ErrorKind::RecordTooLarge),
        (ErrorCode::NOT_ENOUGH_REPLICAS, ErrorKind::Broker),
        (ErrorCode(4321), ErrorKind::Broker),
    ] {
        let e = Error::broker(code, None, "t-0");
        assert_eq!((e.code(), e.kind()), (Some(code), kind), "{e}");
        assert_eq!(e.is_retriable(), code.is_retriable(), "{e}");
    }
    assert_eq!(Error::closed().code(), None);
}

#[test]
fn kinds_have_distinct_names_for_counters() {
    let names: BTreeSet<&str> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names.len(), ErrorKind::ALL.len());
    let is_label = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    assert!(names.iter().all(is_label), "{names:?}");
    assert_eq!(ErrorKind::DeliveryTimeout.to_string(), "delivery_timeout");
    assert_eq!(format!("{:>6}|", ErrorKind::Full), "  full|");
    assert_eq!(RecordStatus::PossiblyPersisted.to_string(), "possibly_persisted");
}

#[test]
fn last_broker_error_is_the_source_unless_the_message_quotes_it() {
    let refusal = Error::broker(ErrorCode::NOT_ENOUGH_REPLICAS, None, "t-0 on broker 1");
    let purged = Error::new(ErrorKind::Purged, "purged").with_last_broker_error(&refusal);
    assert_eq!(purged.source().unwrap().to_string(), refusal.to_string());
    let message = format!("timed out: {refusal}");
    let e = Error::new(ErrorKind::DeliveryTimeout, message).with_last_broker_error(&refusal);
    assert!(e.source().is_none());
    assert_eq!(e.last_broker_error().unwrap().code(), Some(ErrorCode::NOT_ENOUGH_REPLICAS));
}

#[test]
fn question_mark_converts_the_error_into_a_box() {
    fn boxed() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err(Error::closed())?
    }
    assert_eq!(boxed().unwrap_err().to_string(), "the producer is closed");
}
