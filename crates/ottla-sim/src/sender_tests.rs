//! The Java sender's behaviours, tested with the whole producer against the broker's core.
//!
//! Virtual time moves step by step. CASES name the behaviours in docs/CASES.md.

use ottla::{Error, ErrorKind, RecordStatus};
use ottla_broker::ProduceFault::{FailAfterAppend, FailBeforeAppend};
use ottla_protocol::ErrorCode;

use crate::producer_fixture::ProducerFixture;
use crate::sim_cluster::broker_now;

const NOT_PERSISTED: RecordStatus = RecordStatus::NotPersisted;
const POSSIBLY_PERSISTED: RecordStatus = RecordStatus::PossiblyPersisted;

fn broker_error_code(e: &Error) -> i16 {
    e.code().unwrap_or_else(|| panic!("not a broker error: {e}")).0
}

// CASES: SN1.
#[test]
fn one_send_is_one_request_and_returns_its_offset() {
    let mut fixture = ProducerFixture::new(&[]);
    let all = fixture.producer.available_memory();
    assert_eq!(fixture.send_and_wait(0, "a"), 0);
    assert_eq!(fixture.producer.totals().request_total, 1);
    fixture.run_for_ms(10);
    assert_eq!(fixture.producer.available_memory(), all);
}

// CASES: SN3.
#[test]
fn retries_1_survives_one_disconnect_but_not_two() {
    let mut fixture = ProducerFixture::new(&[("retries", "1")]);
    let delivery = fixture.send(0, "a");
    fixture.lose_response();
    assert!(fixture.wait_for(&delivery).is_ok());
    let delivery = fixture.send(0, "b");
    fixture.lose_response();
    fixture.lose_response();
    let e = fixture.wait_for(&delivery).unwrap_err();
    assert_eq!((e.kind(), e.record_status()), (ErrorKind::Network, POSSIBLY_PERSISTED), "{e}");
    assert_eq!(fixture.logged_values(0), ["a", "b"], "the last record was written, and none twice");
}

// CASES: SN4.
#[test]
fn with_one_in_flight_next_batch_waits_even_if_leader_moves() {
    let mut fixture =
        ProducerFixture::with_nodes(2, &[("max.in.flight.requests.per.connection", "1")]);
    fixture.send_and_wait(0, "a");
    let leader = fixture.leader();
    fixture.hold_responses_of(leader);
    let first = fixture.send(0, "b");
    fixture.wait_for_batches(1);
    let sent = fixture.batch_count();
    let second = fixture.send(0, "c");
    fixture.move_leader(3 - leader);
    fixture.run_for_ms(5_000);
    assert_eq!(fixture.batch_count(), sent, "the second batch is not sent yet");
    fixture.release_responses_of(leader);
    assert!(fixture.wait_for(&first).is_ok() && fixture.wait_for(&second).is_ok());
    assert_eq!(fixture.logged_values(0), ["a", "b", "c"]);
}

// CASES: SN8.
#[test]
fn authorization_error_names_topic_and_is_not_retried() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::TOPIC_AUTHORIZATION_FAILED))]);
    let delivery = fixture.send(0, "a");
    let e = fixture.wait_for(&delivery).unwrap_err();
    assert_eq!(
        (e.kind(), e.record_status(), fixture.batch_count()),
        (ErrorKind::Authorization, NOT_PERSISTED, 1)
    );
    assert!(e.to_string().contains("t-0") && !e.is_fatal(), "{e}");
    fixture.send_and_wait(0, "b");
}

// CASES: SN9.
#[test]
fn sequence_grows_by_record_count_of_each_batch() {
    let mut fixture = ProducerFixture::new(&[("batch.size", "1000"), ("linger.ms", "5")]);
    for pair in [["a", "b"], ["c", "d"]] {
        let last = pair.map(|v| fixture.send(0, v)).into_iter().last().unwrap();
        fixture.wait_for(&last).unwrap();
    }
    fixture.send_and_wait(0, "e");
    assert_eq!(fixture.logged_sequences(0), [(0, 0), (0, 2), (0, 4)]);
    assert_eq!(fixture.logged_values(0).concat(), "abcde");
}

// CASES: SN10.
#[test]
fn failed_batches_in_flight_are_retried_in_order() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::LEADER_NOT_AVAILABLE))]);
    let failed: Vec<_> = ["b", "c", "d"].iter().map(|v| fixture.send(0, v)).collect();
    let last = fixture.send(0, "e");
    for delivery in failed.iter().chain([&last]) {
        fixture.wait_for(delivery).unwrap();
    }
    assert_eq!(fixture.logged_values(0).concat(), "abcde");
    assert_eq!(
        fixture.logged_sequences(0),
        [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)],
        "no epoch bump"
    );
}

// CASES: SN11.
#[test]
fn batch_after_a_permanent_failure_starts_a_new_epoch() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::MESSAGE_TOO_LARGE))]);
    let (first, second) = (fixture.send(0, "b"), fixture.send(0, "c"));
    let e = fixture.wait_for(&first).unwrap_err();
    assert_eq!(
        (broker_error_code(&e), e.record_status()),
        (ErrorCode::MESSAGE_TOO_LARGE.0, NOT_PERSISTED)
    );
    assert_eq!(fixture.wait_for(&second).unwrap().offset(), Some(1));
    assert_eq!(fixture.logged_sequences(0), [(0, 0), (1, 0)]);
}

// CASES: SN12.
#[test]
fn out_of_order_sequence_after_log_loss_bumps_epoch_locally() {
    let mut fixture = ProducerFixture::with_nodes(2, &[]);
    fixture.send_and_wait(0, "a");
    let leader = fixture.leader();
    let time = broker_now(&fixture.machine);
    fixture.cluster.core.set_replication_paused(3 - leader, true, time);
    fixture.cluster.core.set_replica_lag_time_max(10);
    fixture.run_for_ms(50);
    fixture.send_and_wait(0, "b");
    // The other replica has only "a". "b" was acknowledged by an ISR of one, so it is lost.
    let time = broker_now(&fixture.machine);
    let options = ottla_broker::MoveLeaderOptions { copy_first: false, allow_unclean: true };
    assert!(fixture.cluster.core.move_leader("t", 0, 3 - leader, options, time));
    fixture.cluster.core.set_replication_paused(3 - leader, false, time);
    assert_eq!(fixture.send_and_wait(0, "c"), 1);
    assert_eq!(fixture.logged_values(0).concat(), "ac");
    assert_eq!(fixture.logged_sequences(0), [(0, 0), (1, 0)]);
    assert_eq!(
        fixture.cluster.core.producer_ids_issued(),
        1,
        "the producer bumps the epoch itself"
    );
}

// CASES: SN14.
#[test]
fn retried_batches_keep_their_order() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[
        Some(FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS)),
        Some(FailBeforeAppend(ErrorCode::LEADER_NOT_AVAILABLE)),
    ]);
    let (first, second) = (fixture.send(0, "b"), fixture.send(0, "c"));
    assert_eq!(fixture.wait_for(&first).unwrap().offset(), Some(1));
    assert_eq!(fixture.wait_for(&second).unwrap().offset(), Some(2));
    assert_eq!(fixture.logged_sequences(0), [(0, 0), (0, 1), (0, 2)]);
}

// CASES: SN15.
#[test]
fn batch_expired_unsent_leaves_no_sequence_gap() {
    let mut fixture =
        ProducerFixture::new(&[("delivery.timeout.ms", "400"), ("request.timeout.ms", "300")]);
    fixture.send_and_wait(0, "a");
    fixture.stop_node_1();
    fixture.run_for_ms(10);
    let delivery = fixture.send(0, "b");
    let e = fixture.wait_for(&delivery).unwrap_err();
    assert_eq!((e.kind(), e.record_status()), (ErrorKind::DeliveryTimeout, NOT_PERSISTED), "{e}");
    fixture.start_node_1();
    fixture.run_for_ms(2_000);
    fixture.send_and_wait(0, "c");
    assert_eq!(fixture.logged_sequences(0), [(0, 0), (0, 1)], "the same epoch, the next sequence");
}

// CASES: SN17, F1.6.
#[test]
fn batch_expired_after_send_bumps_epoch() {
    let settings = [("delivery.timeout.ms", "300"), ("request.timeout.ms", "200")];
    let mut fixture = ProducerFixture::new(&settings);
    fixture.send_and_wait(0, "a");
    let delivery = fixture.send(0, "b");
    fixture.lose_response();
    // The broker stays down until the batch has expired.
    fixture.stop_node_1();
    let e = fixture.wait_for(&delivery).unwrap_err();
    assert_eq!(
        (e.kind(), e.record_status()),
        (ErrorKind::DeliveryTimeout, POSSIBLY_PERSISTED),
        "{e}"
    );
    fixture.start_node_1();
    fixture.run_for_ms(2_000);
    fixture.send_and_wait(0, "c");
    assert_eq!(fixture.logged_values(0).concat(), "abc");
    assert_eq!(
        fixture.logged_sequences(0).last(),
        Some(&(1, 0)),
        "nothing proves whether the sequence was used: a new epoch"
    );
}

// CASES: SN19.
#[test]
fn exhausted_epoch_gets_new_producer_id_and_queued_batches_drain() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.cluster.core.set_initial_producer_epoch(i16::MAX);
    fixture.send_and_wait(0, "a");
    fixture.cluster.core.set_initial_producer_epoch(0);
    fixture.push_batch_faults(&[
        Some(FailBeforeAppend(ErrorCode::INVALID_RECORD)),
        Some(FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS)),
    ]);
    let (lost, kept) = (fixture.send(0, "b"), fixture.send(0, "c"));
    assert!(fixture.wait_for(&lost).is_err());
    let other = fixture.send(1, "d");
    assert!(fixture.wait_for(&kept).is_ok() && fixture.wait_for(&other).is_ok());
    assert_eq!(fixture.cluster.core.producer_ids_issued(), 2);
    let ids: Vec<_> =
        fixture.read_log(0).headers.iter().map(|h| (h.producer_epoch, h.base_sequence)).collect();
    assert_eq!(ids, [(i16::MAX, 0), (0, 0)]);
    assert_eq!(fixture.logged_values(0).concat(), "ac");
}

// CASES: SN20.
#[test]
fn retried_batch_keeps_its_epoch_when_another_partition_bumps() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture.send_and_wait(1, "x");
    // A batch of partition 0 backs off while a failure in partition 1 bumps the epoch.
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS))]);
    let kept = fixture.send(0, "b");
    fixture.wait_for_batches(1);
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::INVALID_RECORD))]);
    let lost = fixture.send(1, "y");
    assert!(fixture.wait_for(&lost).is_err() && fixture.wait_for(&kept).is_ok());
    fixture.send_and_wait(1, "z");
    fixture.send_and_wait(0, "c");
    assert_eq!(
        fixture.logged_sequences(0),
        [(0, 0), (0, 1), (1, 0)],
        "its next batch takes the new epoch"
    );
    assert_eq!(fixture.logged_sequences(1), [(0, 0), (1, 0)]);
}

// CASES: SN21, LR8.
#[test]
fn duplicate_sequence_succeeds_without_offset() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[Some(FailAfterAppend(ErrorCode::DUPLICATE_SEQUENCE_NUMBER))]);
    let delivery = fixture.send(0, "b");
    assert_eq!(fixture.wait_for(&delivery).unwrap().offset(), None);
    fixture.send_and_wait(0, "c");
    assert_eq!(fixture.logged_sequences(0), [(0, 0), (0, 1), (0, 2)]);
}

// CASES: SN22, SN24.
#[test]
fn unknown_producer_id_bumps_epoch_unless_batch_may_be_written() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::UNKNOWN_PRODUCER_ID))]);
    assert_eq!(fixture.send_and_wait(0, "b"), 1);
    assert_eq!(fixture.logged_sequences(0), [(0, 0), (1, 0)], "a new epoch");
    // The first batch of an epoch needs no state in the broker: a plain retry.
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::UNKNOWN_PRODUCER_ID))]);
    fixture.send_and_wait(1, "c");
    assert_eq!(fixture.logged_sequences(1), [(1, 0)], "no second epoch bump");
    // The broker's lost producer state does not prove that the log lacks the batch.
    fixture.push_batch_faults(&[None, Some(FailBeforeAppend(ErrorCode::UNKNOWN_PRODUCER_ID))]);
    let delivery = fixture.send(0, "d");
    fixture.lose_response();
    let e = fixture.wait_for(&delivery).unwrap_err();
    assert_eq!(
        (broker_error_code(&e), e.record_status()),
        (ErrorCode::UNKNOWN_PRODUCER_ID.0, POSSIBLY_PERSISTED),
        "{e}"
    );
    fixture.send_and_wait(0, "e");
    assert_eq!(fixture.logged_values(0).concat(), "abde");
}

// CASES: SN25.
#[test]
fn cluster_authorization_failure_is_fatal_with_its_reason() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    let all = fixture.producer.available_memory();
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::CLUSTER_AUTHORIZATION_FAILED))]);
    let (first, second) = (fixture.send(0, "b"), fixture.send(0, "c"));
    for delivery in [&first, &second] {
        let e = fixture.wait_for(delivery).unwrap_err();
        assert!(e.is_fatal() && e.kind() == ErrorKind::Authorization, "{e}");
    }
    let e = fixture.try_send(0, "e").unwrap_err();
    assert!(e.is_fatal() && e.to_string().contains("CLUSTER_AUTHORIZATION_FAILED"), "{e}");
    fixture.run_for_ms(100);
    assert_eq!(
        fixture.producer.available_memory(),
        all,
        "the buffers are returned with the responses"
    );
}

// CASES: SN26.
#[test]
fn failed_init_producer_id_fails_waiting_records_and_is_retried_later() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.cluster.core.set_producer_id_errors(&[ErrorCode::CLUSTER_AUTHORIZATION_FAILED; 2]);
    let delivery = fixture.send(0, "a");
    let e = fixture.wait_for(&delivery).unwrap_err();
    assert_eq!((e.kind(), e.record_status()), (ErrorKind::Authorization, NOT_PERSISTED));
    assert_eq!(fixture.send_and_wait(0, "b"), 0);
}

// CASES: SN27.
#[test]
fn unsupported_message_format_fails_only_its_batch() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT))]);
    let delivery = fixture.send(0, "a");
    assert!(!fixture.wait_for(&delivery).unwrap_err().is_fatal());
    fixture.send_and_wait(0, "b");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::UNSUPPORTED_VERSION))]);
    let delivery = fixture.send(0, "c");
    assert!(fixture.wait_for(&delivery).unwrap_err().is_fatal());
}

// CASES: SN28, RA20.
#[test]
fn parts_of_a_too_large_batch_keep_its_sequences() {
    for codec in ["none", "gzip"] {
        for idempotent in ["true", "false"] {
            let settings = [
                ("batch.size", "4000"),
                ("linger.ms", "5"),
                ("compression.type", codec),
                ("enable.idempotence", idempotent),
                ("retries", if idempotent == "true" { "1" } else { "0" }),
            ];
            let mut fixture = ProducerFixture::new(&settings);
            fixture.push_batch_faults(&[
                Some(FailBeforeAppend(ErrorCode::MESSAGE_TOO_LARGE)),
                Some(FailBeforeAppend(ErrorCode::MESSAGE_TOO_LARGE)),
            ]);
            let values: Vec<String> = (0..8).map(|i| format!("{i}").repeat(300)).collect();
            let sent: Vec<_> = values.iter().map(|v| fixture.send(0, v)).collect();
            fixture.flush();
            let offsets: Vec<_> =
                sent.iter().map(|delivery| fixture.wait_for(delivery).unwrap().offset()).collect();
            assert_eq!(offsets, (0..8).map(Some).collect::<Vec<_>>(), "{codec}");
            assert_eq!(fixture.logged_values(0), values);
            // The first half is split once more.
            let sequences: Vec<(i16, i32)> = [0, 1, 2, 4, 6].map(|sequence| (0, sequence)).to_vec();
            let expected = if idempotent == "true" { sequences } else { vec![(-1, -1); 5] };
            assert_eq!(fixture.logged_sequences(0), expected, "{codec}");
            assert_eq!(fixture.producer.totals().batch_split_total, 2);
            fixture.run_for_ms(10);
            // CASES: RA21.
            assert_eq!(fixture.producer.available_memory(), 32 << 20, "all memory is returned");
        }
    }
}

// CASES: SN29, SN32.
#[test]
fn expired_batch_is_not_retried_and_its_memory_is_returned_once() {
    let settings = [("delivery.timeout.ms", "300"), ("request.timeout.ms", "299")];
    for error in [ErrorCode::NONE, ErrorCode::NOT_LEADER_OR_FOLLOWER, ErrorCode::MESSAGE_TOO_LARGE]
    {
        let mut fixture = ProducerFixture::new(&settings);
        fixture.send_and_wait(0, "a");
        let all = fixture.producer.available_memory();
        fixture.push_batch_faults(&[(!error.is_none()).then_some(FailBeforeAppend(error))]);
        let delivery = fixture.send(0, "b");
        fixture.hold_responses();
        // The delivery timeout starts earlier than the request timeout, so the batch expires first.
        let e = fixture.wait_for(&delivery).unwrap_err();
        assert_eq!(e.record_status(), POSSIBLY_PERSISTED, "{e}");
        let sent = fixture.batch_count();
        fixture.release_responses();
        fixture.run_for_ms(3_000);
        assert_eq!(fixture.batch_count(), sent, "{error}: nothing more is sent");
        assert_eq!(fixture.producer.available_memory(), all, "{error}");
    }
}

// CASES: SN31.
#[test]
fn with_one_in_flight_next_batch_waits_for_response_of_expired_batch() {
    let mut fixture = ProducerFixture::new(&[
        ("delivery.timeout.ms", "400"),
        ("request.timeout.ms", "400"),
        ("max.in.flight.requests.per.connection", "1"),
    ]);
    fixture.send_and_wait(0, "a");
    fixture.hold_responses();
    let first = fixture.send(0, "b");
    fixture.run_for_ms(350);
    let second = fixture.send(0, "c");
    assert!(fixture.wait_for(&first).is_err());
    assert_eq!(fixture.batch_count(), 2, "the second batch is not sent yet");
    fixture.release_responses();
    fixture.wait_for(&second).unwrap();
    assert_eq!(fixture.logged_values(0).concat(), "abc");
}

// CASES: SN37.
#[test]
fn error_text_is_the_brokers_or_the_codes_default() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.push_batch_faults(&[
        Some(FailBeforeAppend(ErrorCode::INVALID_REQUEST)),
        Some(FailBeforeAppend(ErrorCode(4321))),
    ]);
    let delivery = fixture.send(0, "a");
    let e = fixture.wait_for(&delivery).unwrap_err().to_string();
    assert!(e.contains("INVALID_REQUEST: ") && e.contains("t-0 on broker 1"), "{e}");
    let delivery = fixture.send(0, "b");
    let e = fixture.wait_for(&delivery).unwrap_err();
    assert!(e.to_string().contains("4321"), "{e}");
    assert_eq!(e.record_status(), POSSIBLY_PERSISTED, "an unknown code proves nothing");
}

// CASES: SN41.
#[test]
fn init_producer_id_is_retried_after_the_backoff() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.cluster.core.set_producer_id_errors(&[
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode::NOT_COORDINATOR,
    ]);
    let delivery = fixture.send(0, "a");
    fixture.wait_for(&delivery).unwrap();
    let first = fixture.batch_arrivals_ms()[0];
    assert!((100.0..125.0).contains(&first), "two backoffs of 50 ms, then the batch: {first}");
}

// CASES: SN43, LR2.
#[test]
fn acks_0_record_completes_when_it_is_sent() {
    let mut fixture = ProducerFixture::new(&[("acks", "0"), ("enable.idempotence", "false")]);
    for v in ["a", "b", "c"] {
        let delivery = fixture.send(0, v);
        assert_eq!(fixture.wait_for(&delivery).unwrap().offset(), None);
    }
    fixture.run_for_ms(10);
    assert_eq!(fixture.logged_values(0).concat(), "abc");
}

// CASES: SN25.
#[test]
fn every_send_method_reports_the_fatal_error() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::PRODUCER_FENCED))]);
    let delivery = fixture.send(0, "b");
    assert!(fixture.wait_for(&delivery).unwrap_err().is_fatal());
    let producer = fixture.producer.clone();
    let known = producer.try_send(ottla::Record::to("t")).unwrap_err();
    let unknown = producer.try_send(ottla::Record::to("elsewhere")).unwrap_err();
    let waiting = fixture.try_send_to("elsewhere").unwrap_err();
    for message in [known.to_string(), unknown.to_string(), waiting.to_string()] {
        assert!(message.contains("PRODUCER_FENCED"), "{message}");
    }
}
