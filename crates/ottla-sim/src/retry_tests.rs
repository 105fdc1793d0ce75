//! Behaviours of librdkafka and franz-go, and rules of sequences, epochs and batches, by their numbers in the
//! acceptance cases: the whole producer against the broker's core, step by step in virtual time.

use ottla::{Error, ErrorKind, RecordStatus};
use ottla_broker::ProduceFault::{FailAfterAppend, FailBeforeAppend};
use ottla_protocol::ErrorCode as E;

use crate::producer_fixture::ProducerFixture;

const POSSIBLY_PERSISTED: RecordStatus = RecordStatus::PossiblyPersisted;

fn broker_error_code(e: &Error) -> i16 {
    e.code().unwrap_or_else(|| panic!("not a broker's: {e}"))
}

#[test]
fn f1_7_a_batch_that_may_be_written_is_not_split() {
    let mut b = ProducerFixture::new(&[("batch.size", "4000"), ("linger.ms", "5")]);
    b.push_batch_faults(&[None, Some(FailBeforeAppend(E::MESSAGE_TOO_LARGE))]);
    let sent: Vec<_> = ["a", "b"].iter().map(|v| b.send(0, v)).collect();
    b.lose_response();
    for d in &sent {
        let e = b.wait_for(d).unwrap_err();
        assert_eq!(
            (broker_error_code(&e), e.record_status()),
            (E::MESSAGE_TOO_LARGE.0, POSSIBLY_PERSISTED),
            "{e}"
        );
    }
    assert_eq!(b.logged_values(0), ["a", "b"]);
}

#[test]
fn lr5_a_corrupt_batch_is_sent_twice_and_a_storage_error_again() {
    let mut b = ProducerFixture::new(&[]);
    b.push_batch_faults(&[Some(FailBeforeAppend(E::CORRUPT_MESSAGE))]);
    b.send_and_wait(0, "a");
    assert_eq!(b.batch_arrivals_ms().len(), 2);
    b.push_batch_faults(&[Some(FailAfterAppend(E::KAFKA_STORAGE_ERROR))]);
    b.send_and_wait(0, "b");
    assert_eq!((b.logged_values(0).concat(), b.batch_arrivals_ms().len()), ("ab".to_owned(), 4));
}

#[test]
fn lr6_ra8_the_gaps_between_attempts_follow_the_backoff() {
    let mut b =
        ProducerFixture::new(&[("retry.backoff.ms", "100"), ("retry.backoff.max.ms", "1000")]);
    b.send_and_wait(0, "a");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::NOT_ENOUGH_REPLICAS)); 7]);
    let before = b.batch_arrivals_ms().len();
    b.send_and_wait(0, "b");
    let came = b.batch_arrivals_ms()[before..].to_vec();
    let expected = [100.0, 200.0, 400.0, 800.0, 1000.0, 1000.0, 1000.0];
    for (pair, expected) in came.windows(2).zip(expected) {
        let gap = pair[1] - pair[0];
        let range = expected * 0.8 - 0.1..=(expected * 1.2_f64).min(1000.0) + 0.1;
        assert!(range.contains(&gap), "{gap} where {expected} was due: {came:?}");
    }
}

#[test]
fn lr7_lr9_whatever_was_lost_after_it_was_written_arrives_once_and_in_order() {
    for lost in 1..=5 {
        let mut b = ProducerFixture::new(&[]);
        b.send_and_wait(0, "a");
        b.hold_responses(true);
        let sent: Vec<_> = ["b", "c", "d", "e", "f"].iter().map(|v| b.send(0, v)).collect();
        let rest = vec![None; lost];
        b.push_batch_faults(&rest);
        b.push_batch_faults(&[Some(FailBeforeAppend(E::NOT_ENOUGH_REPLICAS))]);
        b.run_until(|b| b.batch_arrivals_ms().len() > lost);
        b.drop_connections();
        b.hold_responses(false);
        for d in &sent {
            b.wait_for(d).unwrap();
        }
        assert_eq!(b.logged_values(0).concat(), "abcdef", "{lost} lost");
    }
}

#[test]
fn lr11_a_topic_made_anew_is_followed_and_what_may_be_in_the_old_one_is_not_sent_to_it() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    let d = b.send(0, "b");
    b.lose_response();
    let time = crate::sim_cluster::broker_now(&b.machine);
    let old = b.cluster.core.describe_topic("t").unwrap().0;
    b.cluster.core.delete_topic("t").unwrap();
    b.cluster.core.create_topic("t", 2, time).unwrap();
    let new = b.cluster.core.describe_topic("t").unwrap().0;
    let e = b.wait_for(&d).unwrap_err();
    let said = e.to_string();
    assert!(said.contains(&old.to_string()) && said.contains(&new.to_string()), "{said}");
    assert_eq!(e.record_status(), POSSIBLY_PERSISTED);
    assert_eq!(b.send_and_wait(0, "c"), 0, "the new topic begins at 0");
    assert_eq!(b.logged_sequences(0), [(1, 0)]);
}

#[test]
fn fg5_lr5_connections_that_end_after_any_byte_cost_time_alone() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    let mut faults = ottla::sim::Faults::NONE;
    faults.disconnect_one_in = 1;
    b.machine.set_faults(faults);
    let d = b.send(0, "b");
    b.run_for_ms(200);
    b.machine.set_faults(ottla::sim::Faults::NONE);
    b.wait_for(&d).unwrap();
    assert_eq!(b.logged_values(0).concat(), "ab");
}

#[test]
fn f2_a_new_order_does_not_shorten_the_backoff() {
    let mut b =
        ProducerFixture::new(&[("retry.backoff.ms", "100"), ("retry.backoff.max.ms", "1000")]);
    b.send_and_wait(0, "a");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::INVALID_PRODUCER_EPOCH)); 3]);
    let before = b.batch_arrivals_ms().len();
    b.send_and_wait(0, "b");
    let came = b.batch_arrivals_ms()[before..].to_vec();
    for (pair, least) in came.windows(2).zip([80.0, 160.0, 320.0]) {
        assert!(pair[1] - pair[0] >= least, "{came:?}");
    }
    assert_eq!(b.cluster.core.producer_ids_issued(), 4, "a new id each time");
    // The next break bumps the epoch of the id it has.
    b.push_batch_faults(&[Some(FailBeforeAppend(E::INVALID_RECORD))]);
    let lost = b.send(0, "c");
    assert!(b.wait_for(&lost).is_err());
    b.send_and_wait(0, "d");
    assert_eq!(b.cluster.core.producer_ids_issued(), 4);
    assert_eq!(b.logged_sequences(0).last(), Some(&(1, 0)));
}

#[test]
fn b2_a_lingered_batch_is_compressed_too() {
    for (codec, attributes) in [("none", 0), ("gzip", 1), ("zstd", 4)] {
        let settings = [("batch.size", "4000"), ("linger.ms", "5"), ("compression.type", codec)];
        let mut b = ProducerFixture::new(&settings);
        b.send_and_wait(0, &"a".repeat(1000));
        assert_eq!(b.read_log(0).1[0].attributes, attributes, "{codec}");
    }
}

#[test]
fn ra4_batches_share_a_request_up_to_its_exact_size() {
    // Both partitions' batches take 61 bytes and a record each.
    let len = 61 + 9 + 100;
    for (size, requests) in [(2 * len, 1), (2 * len - 1, 2)] {
        let mut b = ProducerFixture::new(&[("max.request.size", &size.to_string())]);
        b.send_and_wait(0, "a");
        b.send_and_wait(1, "b");
        let before = b.producer.totals();
        let value = "v".repeat(100);
        let sent = [b.send(0, &value), b.send(1, &value)];
        sent.iter().for_each(|d| assert!(b.wait_for(d).is_ok()));
        let after = b.producer.totals();
        assert_eq!((after.byte_total - before.byte_total) as usize, 2 * len);
        assert_eq!(after.request_total - before.request_total, requests, "{size}");
    }
}

#[test]
fn lr8_what_was_appended_to_too_few_is_delivered_all_the_same() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    b.push_batch_faults(&[Some(FailAfterAppend(E::NOT_ENOUGH_REPLICAS_AFTER_APPEND))]);
    let (first, second) = (b.send(0, "b"), b.send(0, "c"));
    assert_eq!(
        b.wait_for(&first).unwrap().offset(),
        Some(1),
        "the broker knows it by its sequence"
    );
    assert_eq!(b.wait_for(&second).unwrap().offset(), Some(2));
    assert_eq!(b.logged_values(0).concat(), "abc");
}

#[test]
fn lr10_a_stall_longer_than_records_live_costs_records_and_nothing_else() {
    let settings = [("delivery.timeout.ms", "1000"), ("request.timeout.ms", "500")];
    let mut b = ProducerFixture::new(&settings);
    b.send_and_wait(0, "a");
    b.hold_responses(true);
    let lost: Vec<_> = ["b", "c", "d"].iter().map(|v| b.send(0, v)).collect();
    for d in &lost {
        let e = b.wait_for(d).unwrap_err();
        assert!(e.kind() == ErrorKind::DeliveryTimeout && !e.is_fatal(), "{e}");
    }
    b.hold_responses(false);
    b.run_for_ms(2_000);
    for v in ["e", "f"] {
        b.send_and_wait(0, v);
    }
    let log = b.logged_values(0).concat();
    assert!(log.starts_with('a') && log.ends_with("ef"), "{log}");
    let mut once: Vec<char> = log.chars().collect();
    once.dedup();
    assert_eq!(once.len(), log.len(), "nothing twice: {log}");
    assert!(once.is_sorted(), "in order: {log}");
}

#[test]
fn lr15_records_wait_for_brokers_that_are_away() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    b.machine.reset_server(crate::sim_cluster::node_address(1));
    b.cluster.drop_connections(1);
    b.run_for_ms(10_000);
    let d = b.send(0, "b");
    b.run_for_ms(60_000);
    assert!(d.try_result().is_none());
    b.machine.listen(crate::sim_cluster::node_address(1));
    b.wait_for(&d).unwrap();
    assert_eq!(b.logged_sequences(0), [(0, 0), (0, 1)]);
}

#[test]
fn f1_3_f1_5_sn10_behind_a_retry_nothing_new_gets_a_sequence() {
    let mut b = ProducerFixture::new(&[("retry.backoff.ms", "1000")]);
    b.send_and_wait(0, "a");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::NOT_ENOUGH_REPLICAS))]);
    let first = b.send(0, "b");
    let came = b.batch_arrivals_ms().len();
    b.run_until(|b| b.batch_arrivals_ms().len() > came);
    b.run_for_ms(10);
    let second = b.send(0, "c");
    b.run_for_ms(500);
    assert_eq!(
        b.batch_arrivals_ms().len(),
        came + 1,
        "it waits, though four more might be in flight"
    );
    b.wait_for(&first).unwrap();
    b.wait_for(&second).unwrap();
    assert_eq!(b.logged_sequences(0), [(0, 0), (0, 1), (0, 2)]);
}
