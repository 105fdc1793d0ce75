//! Retries, sequences and epochs, tested with the whole producer against the broker's core.
//!
//! Many behaviours come from librdkafka and franz-go. CASES name them in docs/CASES.md.

use ottla::{Error, ErrorKind, RecordStatus};
use ottla_broker::ProduceFault::{FailAfterAppend, FailBeforeAppend};
use ottla_protocol::ErrorCode;

use crate::producer_fixture::ProducerFixture;
use crate::sim_cluster::broker_now;

const POSSIBLY_PERSISTED: RecordStatus = RecordStatus::PossiblyPersisted;

fn broker_error_code(e: &Error) -> i16 {
    e.code().unwrap_or_else(|| panic!("not a broker error: {e}")).0
}

/// Sends a batch of two records whose first response is lost, and which is then too large. Returns
/// the error of each record, if it failed, and the values in the log.
pub(crate) fn send_batch_that_becomes_too_large() -> (Vec<Option<Error>>, Vec<String>) {
    let mut fixture = ProducerFixture::new(&[("batch.size", "4000"), ("linger.ms", "5")]);
    fixture.push_batch_faults(&[None, Some(FailBeforeAppend(ErrorCode::MESSAGE_TOO_LARGE))]);
    let sent: Vec<_> = ["a", "b"].iter().map(|v| fixture.send(0, v)).collect();
    fixture.lose_response();
    let errors = sent.iter().map(|delivery| fixture.wait_for(delivery).err()).collect();
    (errors, fixture.logged_values(0))
}

// CASES: F1.7.
#[test]
fn possibly_persisted_batch_is_not_split() {
    let (errors, log) = send_batch_that_becomes_too_large();
    for e in errors {
        let e = e.expect("the record fails");
        assert_eq!(
            (broker_error_code(&e), e.record_status()),
            (ErrorCode::MESSAGE_TOO_LARGE.0, POSSIBLY_PERSISTED),
            "{e}"
        );
    }
    assert_eq!(log, ["a", "b"]);
}

// CASES: LR5.
#[test]
fn corrupt_message_and_storage_error_are_retried() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::CORRUPT_MESSAGE))]);
    fixture.send_and_wait(0, "a");
    assert_eq!(fixture.batch_count(), 2);
    fixture.push_batch_faults(&[Some(FailAfterAppend(ErrorCode::KAFKA_STORAGE_ERROR))]);
    fixture.send_and_wait(0, "b");
    assert_eq!((fixture.logged_values(0).concat(), fixture.batch_count()), ("ab".to_owned(), 4));
}

// CASES: LR6, RA8.
#[test]
fn retry_gaps_follow_exponential_backoff() {
    let mut fixture =
        ProducerFixture::new(&[("retry.backoff.ms", "100"), ("retry.backoff.max.ms", "1000")]);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS)); 7]);
    let before = fixture.batch_count();
    fixture.send_and_wait(0, "b");
    let arrivals = fixture.batch_arrivals_ms()[before..].to_vec();
    let expected = [100.0, 200.0, 400.0, 800.0, 1000.0, 1000.0, 1000.0];
    for (pair, expected) in arrivals.windows(2).zip(expected) {
        let gap = pair[1] - pair[0];
        let range = expected * 0.8 - 0.1..=(expected * 1.2_f64).min(1000.0) + 0.1;
        assert!(range.contains(&gap), "gap of {gap} ms, expected {expected} ms: {arrivals:?}");
    }
}

// CASES: LR7, LR9.
#[test]
fn lost_responses_cause_no_duplicates_and_keep_order() {
    for lost in 1..=5 {
        let mut fixture = ProducerFixture::new(&[]);
        fixture.send_and_wait(0, "a");
        fixture.hold_responses();
        let sent: Vec<_> = ["b", "c", "d", "e", "f"].iter().map(|v| fixture.send(0, v)).collect();
        fixture.push_batch_faults(&vec![None; lost]);
        fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS))]);
        fixture.run_until(|f| f.batch_count() > lost);
        fixture.drop_connections();
        fixture.release_responses();
        for delivery in &sent {
            fixture.wait_for(delivery).unwrap();
        }
        assert_eq!(fixture.logged_values(0).concat(), "abcdef", "{lost} responses lost");
    }
}

// CASES: LR11.
#[test]
fn recreated_topic_gets_new_records_but_no_possibly_persisted_ones() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    let delivery = fixture.send(0, "b");
    fixture.lose_response();
    let time = broker_now(&fixture.machine);
    let old_id = fixture.cluster.core.describe_topic("t").unwrap().id;
    fixture.cluster.core.delete_topic("t").unwrap();
    fixture.cluster.core.create_topic("t", 2, time).unwrap();
    let new_id = fixture.cluster.core.describe_topic("t").unwrap().id;
    let e = fixture.wait_for(&delivery).unwrap_err();
    let message = e.to_string();
    assert!(message.contains(&old_id.to_string()), "{message}");
    assert!(message.contains(&new_id.to_string()), "{message}");
    assert_eq!(e.record_status(), POSSIBLY_PERSISTED);
    assert_eq!(fixture.send_and_wait(0, "c"), 0, "the new topic starts at offset 0");
    assert_eq!(fixture.logged_sequences(0), [(1, 0)]);
}

// CASES: FG5, LR5.
#[test]
fn disconnect_after_any_byte_is_retried() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    let mut faults = ottla::sim::Faults::NONE;
    faults.disconnect_one_in = 1;
    fixture.machine.set_faults(faults);
    let delivery = fixture.send(0, "b");
    fixture.run_for_ms(200);
    fixture.machine.set_faults(ottla::sim::Faults::NONE);
    fixture.wait_for(&delivery).unwrap();
    assert_eq!(fixture.logged_values(0).concat(), "ab");
}

// CASES: F2.
#[test]
fn new_producer_id_does_not_shorten_the_backoff() {
    let mut fixture =
        ProducerFixture::new(&[("retry.backoff.ms", "100"), ("retry.backoff.max.ms", "1000")]);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::INVALID_PRODUCER_EPOCH)); 3]);
    let before = fixture.batch_count();
    fixture.send_and_wait(0, "b");
    let arrivals = fixture.batch_arrivals_ms()[before..].to_vec();
    for (pair, min_gap) in arrivals.windows(2).zip([80.0, 160.0, 320.0]) {
        assert!(pair[1] - pair[0] >= min_gap, "{arrivals:?}");
    }
    assert_eq!(fixture.cluster.core.producer_ids_issued(), 4, "a new id each time");
    // The next unresolved sequence bumps the epoch of the latest id.
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::INVALID_RECORD))]);
    let lost = fixture.send(0, "c");
    assert!(fixture.wait_for(&lost).is_err());
    fixture.send_and_wait(0, "d");
    assert_eq!(fixture.cluster.core.producer_ids_issued(), 4);
    assert_eq!(fixture.logged_sequences(0).last(), Some(&(1, 0)));
}

// CASES: B2.
#[test]
fn lingered_batch_is_compressed() {
    for (codec, attributes) in [("none", 0), ("gzip", 1), ("zstd", 4)] {
        let settings = [("batch.size", "4000"), ("linger.ms", "5"), ("compression.type", codec)];
        let mut fixture = ProducerFixture::new(&settings);
        fixture.send_and_wait(0, &"a".repeat(1000));
        assert_eq!(fixture.read_log(0).headers[0].attributes, attributes, "{codec}");
    }
}

// CASES: RA4.
#[test]
fn batches_share_a_request_up_to_max_request_size() {
    // Each batch has 61 bytes of overhead and one record.
    let len = 61 + 9 + 100;
    for (size, requests) in [(2 * len, 1), (2 * len - 1, 2)] {
        let mut fixture = ProducerFixture::new(&[("max.request.size", &size.to_string())]);
        fixture.send_and_wait(0, "a");
        fixture.send_and_wait(1, "b");
        let before = fixture.producer.totals();
        let value = "v".repeat(100);
        let sent = [fixture.send(0, &value), fixture.send(1, &value)];
        sent.iter().for_each(|delivery| assert!(fixture.wait_for(delivery).is_ok()));
        let after = fixture.producer.totals();
        assert_eq!((after.byte_total - before.byte_total) as usize, 2 * len);
        assert_eq!(after.request_total - before.request_total, requests, "{size}");
    }
}

// CASES: LR8.
#[test]
fn not_enough_replicas_after_append_succeeds_on_retry() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture
        .push_batch_faults(&[Some(FailAfterAppend(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND))]);
    let (first, second) = (fixture.send(0, "b"), fixture.send(0, "c"));
    assert_eq!(
        fixture.wait_for(&first).unwrap().offset(),
        Some(1),
        "the broker recognises the sequence"
    );
    assert_eq!(fixture.wait_for(&second).unwrap().offset(), Some(2));
    assert_eq!(fixture.logged_values(0).concat(), "abc");
}

// CASES: LR10.
#[test]
fn stall_beyond_delivery_timeout_fails_records_without_fatal_error() {
    let settings = [("delivery.timeout.ms", "1000"), ("request.timeout.ms", "500")];
    let mut fixture = ProducerFixture::new(&settings);
    fixture.send_and_wait(0, "a");
    fixture.hold_responses();
    let lost: Vec<_> = ["b", "c", "d"].iter().map(|v| fixture.send(0, v)).collect();
    for delivery in &lost {
        let e = fixture.wait_for(delivery).unwrap_err();
        assert!(e.kind() == ErrorKind::DeliveryTimeout && !e.is_fatal(), "{e}");
    }
    fixture.release_responses();
    fixture.run_for_ms(2_000);
    for v in ["e", "f"] {
        fixture.send_and_wait(0, v);
    }
    let log = fixture.logged_values(0).concat();
    assert!(log.starts_with('a') && log.ends_with("ef"), "{log}");
    let mut unique: Vec<char> = log.chars().collect();
    unique.dedup();
    assert_eq!(unique.len(), log.len(), "no duplicates: {log}");
    assert!(unique.is_sorted(), "in order: {log}");
}

// CASES: LR15.
#[test]
fn records_wait_while_brokers_are_down() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture.stop_node_1();
    fixture.run_for_ms(10_000);
    let delivery = fixture.send(0, "b");
    fixture.run_for_ms(60_000);
    assert!(delivery.try_result().is_none());
    fixture.start_node_1();
    fixture.wait_for(&delivery).unwrap();
    assert_eq!(fixture.logged_sequences(0), [(0, 0), (0, 1)]);
}

// CASES: F1.3, F1.5, SN10.
#[test]
fn no_new_batch_is_sent_while_a_retry_backs_off() {
    let mut fixture = ProducerFixture::new(&[("retry.backoff.ms", "1000")]);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS))]);
    let first = fixture.send(0, "b");
    fixture.wait_for_batches(1);
    let sent = fixture.batch_count();
    fixture.run_for_ms(10);
    let second = fixture.send(0, "c");
    fixture.run_for_ms(500);
    assert_eq!(
        fixture.batch_count(),
        sent,
        "the second batch waits, though the limit of requests in flight is 5"
    );
    fixture.wait_for(&first).unwrap();
    fixture.wait_for(&second).unwrap();
    assert_eq!(fixture.logged_sequences(0), [(0, 0), (0, 1), (0, 2)]);
}
