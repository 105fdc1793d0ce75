//! Behaviours of the classic producer's sender, by their numbers in the acceptance cases: the whole producer against
//! the broker's core, step by step in virtual time.

use ottla::{Error, ErrorKind, RecordStatus};
use ottla_broker::ProduceFault::{FailAfterAppend, FailBeforeAppend};
use ottla_protocol::ErrorCode as E;

use crate::producer_fixture::ProducerFixture;

const NOT_PERSISTED: RecordStatus = RecordStatus::NotPersisted;
const POSSIBLY_PERSISTED: RecordStatus = RecordStatus::PossiblyPersisted;

fn broker_error_code(e: &Error) -> i16 {
    e.code().unwrap_or_else(|| panic!("not a broker's: {e}"))
}

#[test]
fn sn1_one_send_is_one_request_and_ends_with_its_offset() {
    let mut b = ProducerFixture::new(&[]);
    let all = b.producer.available_memory();
    assert_eq!(b.send_and_wait(0, "a"), 0);
    assert_eq!(b.producer.totals().request_total, 1);
    b.run_for_ms(10);
    assert_eq!(b.producer.available_memory(), all);
}

#[test]
fn sn3_one_retry_survives_one_lost_connection_and_not_two() {
    let mut b = ProducerFixture::new(&[("retries", "1")]);
    let d = b.send(0, "a");
    b.lose_response();
    assert!(b.wait_for(&d).is_ok());
    let d = b.send(0, "b");
    b.lose_response();
    b.lose_response();
    let e = b.wait_for(&d).unwrap_err();
    assert_eq!((e.kind(), e.record_status()), (ErrorKind::Network, POSSIBLY_PERSISTED), "{e}");
    assert_eq!(b.logged_values(0), ["a", "b"], "and it was: no second copy of either");
}

#[test]
fn sn4_with_one_in_flight_the_next_batch_waits_though_the_leader_moves() {
    let mut b = ProducerFixture::with_nodes(2, &[("max.in.flight.requests.per.connection", "1")]);
    b.send_and_wait(0, "a");
    let (leader, ..) = b.cluster.core.describe_partition("t", 0).unwrap();
    let at = crate::sim_cluster::node_address(leader);
    b.machine.set_link(at, ottla::sim::Link { down_held: true, ..Default::default() });
    let first = b.send(0, "b");
    let came = b.batch_arrivals_ms().len();
    b.run_until(|b| b.batch_arrivals_ms().len() > came);
    let second = b.send(0, "c");
    let time = crate::sim_cluster::broker_now(&b.machine);
    assert!(b.cluster.core.move_leader("t", 0, 3 - leader, (true, false), time));
    b.run_for_ms(5_000);
    assert_eq!(b.batch_arrivals_ms().len(), came + 1, "the second has not left");
    b.machine.set_link(at, Default::default());
    assert!(b.wait_for(&first).is_ok() && b.wait_for(&second).is_ok());
    assert_eq!(b.logged_values(0), ["a", "b", "c"]);
}

#[test]
fn sn8_an_authorization_error_names_the_topic_and_is_not_retried() {
    let mut b = ProducerFixture::new(&[]);
    b.push_batch_faults(&[Some(FailBeforeAppend(E::TOPIC_AUTHORIZATION_FAILED))]);
    let d = b.send(0, "a");
    let e = b.wait_for(&d).unwrap_err();
    assert_eq!(
        (e.kind(), e.record_status(), b.batch_arrivals_ms().len()),
        (ErrorKind::Authorization, NOT_PERSISTED, 1)
    );
    assert!(e.to_string().contains("t-0") && !e.is_fatal(), "{e}");
    b.send_and_wait(0, "b");
}

#[test]
fn sn9_sequences_rise_by_the_records_of_each_batch() {
    let mut b = ProducerFixture::new(&[("batch.size", "1000"), ("linger.ms", "5")]);
    for pair in [["a", "b"], ["c", "d"]] {
        let last = pair.map(|v| b.send(0, v)).into_iter().last().unwrap();
        b.wait_for(&last).unwrap();
    }
    b.send_and_wait(0, "e");
    assert_eq!(b.logged_sequences(0), [(0, 0), (0, 2), (0, 4)]);
    assert_eq!(b.logged_values(0).concat(), "abcde");
}

#[test]
fn sn10_three_in_flight_that_fail_go_again_one_by_one_in_order() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::LEADER_NOT_AVAILABLE))]);
    let all: Vec<_> = ["b", "c", "d"].iter().map(|v| b.send(0, v)).collect();
    let late = b.send(0, "e");
    for d in all.iter().chain([&late]) {
        b.wait_for(d).unwrap();
    }
    assert_eq!(b.logged_values(0).concat(), "abcde");
    assert_eq!(b.logged_sequences(0), [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)], "no bump");
}

#[test]
fn sn11_what_follows_a_batch_that_failed_for_good_begins_a_new_order() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::MESSAGE_TOO_LARGE))]);
    let (first, second) = (b.send(0, "b"), b.send(0, "c"));
    let e = b.wait_for(&first).unwrap_err();
    assert_eq!((broker_error_code(&e), e.record_status()), (E::MESSAGE_TOO_LARGE.0, NOT_PERSISTED));
    assert_eq!(b.wait_for(&second).unwrap().offset(), Some(1));
    assert_eq!(b.logged_sequences(0), [(0, 0), (1, 0)]);
}

#[test]
fn sn12_a_leader_that_lost_its_log_makes_the_producer_begin_anew() {
    let mut b = ProducerFixture::with_nodes(2, &[]);
    b.send_and_wait(0, "a");
    let (leader, ..) = b.cluster.core.describe_partition("t", 0).unwrap();
    let time = crate::sim_cluster::broker_now(&b.machine);
    b.cluster.core.set_replication_paused(3 - leader, true, time);
    b.cluster.core.set_replica_lag_time_max(10);
    b.run_for_ms(50);
    b.send_and_wait(0, "b");
    // The other replica has only "a": what was acknowledged with one in sync is lost.
    let time = crate::sim_cluster::broker_now(&b.machine);
    assert!(b.cluster.core.move_leader("t", 0, 3 - leader, (false, true), time));
    b.cluster.core.set_replication_paused(3 - leader, false, time);
    assert_eq!(b.send_and_wait(0, "c"), 1);
    assert_eq!(b.logged_values(0).concat(), "ac");
    assert_eq!(b.logged_sequences(0), [(0, 0), (1, 0)]);
    assert_eq!(b.cluster.core.producer_ids_issued(), 1, "the bump is the producer's own");
}

#[test]
fn sn14_answers_out_of_order_keep_the_order() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    b.push_batch_faults(&[
        Some(FailBeforeAppend(E::NOT_ENOUGH_REPLICAS)),
        Some(FailBeforeAppend(E::LEADER_NOT_AVAILABLE)),
    ]);
    let (first, second) = (b.send(0, "b"), b.send(0, "c"));
    assert_eq!(b.wait_for(&first).unwrap().offset(), Some(1));
    assert_eq!(b.wait_for(&second).unwrap().offset(), Some(2));
    assert_eq!(b.logged_sequences(0), [(0, 0), (0, 1), (0, 2)]);
}

#[test]
fn sn15_what_expires_unsent_leaves_no_hole() {
    let mut b =
        ProducerFixture::new(&[("delivery.timeout.ms", "400"), ("request.timeout.ms", "300")]);
    b.send_and_wait(0, "a");
    b.machine.reset_server(crate::sim_cluster::node_address(1));
    b.cluster.drop_connections(1);
    b.run_for_ms(10);
    let d = b.send(0, "b");
    let e = b.wait_for(&d).unwrap_err();
    assert_eq!((e.kind(), e.record_status()), (ErrorKind::DeliveryTimeout, NOT_PERSISTED), "{e}");
    b.machine.listen(crate::sim_cluster::node_address(1));
    b.run_for_ms(2_000);
    b.send_and_wait(0, "c");
    assert_eq!(b.logged_sequences(0), [(0, 0), (0, 1)], "the same epoch, the next sequence");
}

#[test]
fn sn17_f1_6_a_batch_that_expires_after_it_was_sent_costs_an_epoch() {
    let settings = [("delivery.timeout.ms", "300"), ("request.timeout.ms", "200")];
    let mut b = ProducerFixture::new(&settings);
    b.send_and_wait(0, "a");
    let d = b.send(0, "b");
    b.lose_response();
    // Nobody is there until its time is over.
    b.machine.reset_server(crate::sim_cluster::node_address(1));
    let e = b.wait_for(&d).unwrap_err();
    assert_eq!(
        (e.kind(), e.record_status()),
        (ErrorKind::DeliveryTimeout, POSSIBLY_PERSISTED),
        "{e}"
    );
    b.machine.listen(crate::sim_cluster::node_address(1));
    b.run_for_ms(2_000);
    b.send_and_wait(0, "c");
    assert_eq!(b.logged_values(0).concat(), "abc");
    assert_eq!(
        b.logged_sequences(0).last(),
        Some(&(1, 0)),
        "nothing proves the sequence: a new epoch"
    );
}

#[test]
fn sn19_after_the_last_epoch_comes_a_new_id_and_everything_drains() {
    let mut b = ProducerFixture::new(&[]);
    b.cluster.core.set_initial_producer_epoch(i16::MAX);
    b.send_and_wait(0, "a");
    b.cluster.core.set_initial_producer_epoch(0);
    b.push_batch_faults(&[
        Some(FailBeforeAppend(E::INVALID_RECORD)),
        Some(FailBeforeAppend(E::NOT_ENOUGH_REPLICAS)),
    ]);
    let (lost, kept) = (b.send(0, "b"), b.send(0, "c"));
    assert!(b.wait_for(&lost).is_err());
    let other = b.send(1, "d");
    assert!(b.wait_for(&kept).is_ok() && b.wait_for(&other).is_ok());
    assert_eq!(b.cluster.core.producer_ids_issued(), 2);
    let ids: Vec<_> = b.read_log(0).1.iter().map(|h| (h.producer_epoch, h.base_sequence)).collect();
    assert_eq!(ids, [(i16::MAX, 0), (0, 0)]);
    assert_eq!(b.logged_values(0).concat(), "ac");
}

#[test]
fn sn20_a_batch_keeps_its_epoch_over_another_partitions_bump() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    b.send_and_wait(1, "x");
    // The first partition's batch waits for its retry while the second's order breaks.
    b.push_batch_faults(&[Some(FailBeforeAppend(E::NOT_ENOUGH_REPLICAS))]);
    let kept = b.send(0, "b");
    let came = b.batch_arrivals_ms().len();
    b.run_until(|b| b.batch_arrivals_ms().len() > came);
    b.push_batch_faults(&[Some(FailBeforeAppend(E::INVALID_RECORD))]);
    let lost = b.send(1, "y");
    assert!(b.wait_for(&lost).is_err() && b.wait_for(&kept).is_ok());
    b.send_and_wait(1, "z");
    b.send_and_wait(0, "c");
    assert_eq!(b.logged_sequences(0), [(0, 0), (0, 1), (1, 0)], "then it takes the new epoch, too");
    assert_eq!(b.logged_sequences(1), [(0, 0), (1, 0)]);
}

#[test]
fn sn21_lr8_a_duplicate_is_delivered_without_an_offset() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    b.push_batch_faults(&[Some(FailAfterAppend(E::DUPLICATE_SEQUENCE_NUMBER))]);
    let d = b.send(0, "b");
    assert_eq!(b.wait_for(&d).unwrap().offset(), None);
    b.send_and_wait(0, "c");
    assert_eq!(b.logged_sequences(0), [(0, 0), (0, 1), (0, 2)]);
}

#[test]
fn sn22_sn24_a_forgotten_producer_begins_anew_with_what_was_not_written() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::UNKNOWN_PRODUCER_ID))]);
    assert_eq!(b.send_and_wait(0, "b"), 1);
    assert_eq!(b.logged_sequences(0), [(0, 0), (1, 0)], "a new epoch");
    // The first of an order needs no state: it is sent again as it is.
    b.push_batch_faults(&[Some(FailBeforeAppend(E::UNKNOWN_PRODUCER_ID))]);
    b.send_and_wait(1, "c");
    assert_eq!(b.logged_sequences(1), [(1, 0)], "no second bump");
    // That it is forgotten does not prove that it is not there.
    b.push_batch_faults(&[None, Some(FailBeforeAppend(E::UNKNOWN_PRODUCER_ID))]);
    let d = b.send(0, "d");
    b.lose_response();
    let e = b.wait_for(&d).unwrap_err();
    assert_eq!(
        (broker_error_code(&e), e.record_status()),
        (E::UNKNOWN_PRODUCER_ID.0, POSSIBLY_PERSISTED),
        "{e}"
    );
    b.send_and_wait(0, "e");
    assert_eq!(b.logged_values(0).concat(), "abde");
}

#[test]
fn sn25_a_cluster_that_refuses_the_producer_ends_it_with_its_reason() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    let all = b.producer.available_memory();
    b.push_batch_faults(&[Some(FailBeforeAppend(E::CLUSTER_AUTHORIZATION_FAILED))]);
    let (first, second) = (b.send(0, "b"), b.send(0, "c"));
    for d in [&first, &second] {
        let e = b.wait_for(d).unwrap_err();
        assert!(e.is_fatal() && e.kind() == ErrorKind::Authorization, "{e}");
    }
    let e = b.try_send(0, "e").unwrap_err();
    assert!(e.is_fatal() && e.to_string().contains("CLUSTER_AUTHORIZATION_FAILED"), "{e}");
    b.run_for_ms(100);
    assert_eq!(b.producer.available_memory(), all, "buffers come back with the answers");
}

#[test]
fn sn26_no_producer_id_fails_what_waits_and_may_be_had_later() {
    let mut b = ProducerFixture::new(&[]);
    b.cluster.core.set_producer_id_errors(&[E::CLUSTER_AUTHORIZATION_FAILED; 2]);
    let d = b.send(0, "a");
    let e = b.wait_for(&d).unwrap_err();
    assert_eq!((e.kind(), e.record_status()), (ErrorKind::Authorization, NOT_PERSISTED));
    assert_eq!(b.send_and_wait(0, "b"), 0);
}

#[test]
fn sn27_an_old_message_format_fails_the_batch_alone() {
    let mut b = ProducerFixture::new(&[]);
    b.push_batch_faults(&[Some(FailBeforeAppend(E::UNSUPPORTED_FOR_MESSAGE_FORMAT))]);
    let d = b.send(0, "a");
    assert!(!b.wait_for(&d).unwrap_err().is_fatal());
    b.send_and_wait(0, "b");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::UNSUPPORTED_VERSION))]);
    let d = b.send(0, "c");
    assert!(b.wait_for(&d).unwrap_err().is_fatal());
}

#[test]
fn sn28_ra20_a_batch_too_large_is_split_and_its_parts_keep_its_sequences() {
    for codec in ["none", "gzip"] {
        for idempotent in ["true", "false"] {
            let settings = [
                ("batch.size", "4000"),
                ("linger.ms", "5"),
                ("compression.type", codec),
                ("enable.idempotence", idempotent),
                ("retries", if idempotent == "true" { "1" } else { "0" }),
            ];
            let mut b = ProducerFixture::new(&settings);
            b.push_batch_faults(&[
                Some(FailBeforeAppend(E::MESSAGE_TOO_LARGE)),
                Some(FailBeforeAppend(E::MESSAGE_TOO_LARGE)),
            ]);
            let values: Vec<String> = (0..8).map(|i| format!("{i}").repeat(300)).collect();
            let sent: Vec<_> = values.iter().map(|v| b.send(0, v)).collect();
            b.flush();
            let offsets: Vec<_> = sent.iter().map(|d| b.wait_for(d).unwrap().offset()).collect();
            assert_eq!(offsets, (0..8).map(Some).collect::<Vec<_>>(), "{codec}");
            assert_eq!(b.logged_values(0), values);
            // In quarters, and the first quarter in halves.
            let order: Vec<(i16, i32)> = [0, 1, 2, 4, 6].map(|sequence| (0, sequence)).to_vec();
            let expected = if idempotent == "true" { order } else { vec![(-1, -1); 5] };
            assert_eq!(b.logged_sequences(0), expected, "{codec}");
            assert_eq!(b.producer.totals().batch_split_total, 2);
            b.run_for_ms(10);
            assert_eq!(b.producer.available_memory(), 32 << 20, "RA21: all of it is back");
        }
    }
}

#[test]
fn sn29_sn32_nothing_is_sent_again_after_its_time_and_its_memory_returns_once() {
    let settings = [("delivery.timeout.ms", "300"), ("request.timeout.ms", "299")];
    for late in [E::NONE, E::NOT_LEADER_OR_FOLLOWER, E::MESSAGE_TOO_LARGE] {
        let mut b = ProducerFixture::new(&settings);
        b.send_and_wait(0, "a");
        let all = b.producer.available_memory();
        b.push_batch_faults(&[(!late.is_none()).then_some(FailBeforeAppend(late))]);
        let d = b.send(0, "b");
        let at = crate::sim_cluster::node_address(1);
        b.machine.set_link(at, ottla::sim::Link { down_held: true, ..Default::default() });
        // The wait for its turn is part of its time: it ends before its request does.
        let e = b.wait_for(&d).unwrap_err();
        assert_eq!(e.record_status(), POSSIBLY_PERSISTED, "{e}");
        let came = b.batch_arrivals_ms().len();
        b.machine.set_link(at, Default::default());
        b.run_for_ms(3_000);
        assert_eq!(b.batch_arrivals_ms().len(), came, "{late}: nothing more is sent");
        assert_eq!(b.producer.available_memory(), all, "{late}");
    }
}

#[test]
fn sn31_with_one_in_flight_what_follows_an_expired_batch_waits_for_its_answer() {
    let mut b = ProducerFixture::new(&[
        ("delivery.timeout.ms", "400"),
        ("request.timeout.ms", "400"),
        ("max.in.flight.requests.per.connection", "1"),
    ]);
    b.send_and_wait(0, "a");
    let at = crate::sim_cluster::node_address(1);
    b.machine.set_link(at, ottla::sim::Link { down_held: true, ..Default::default() });
    let first = b.send(0, "b");
    b.run_for_ms(350);
    let second = b.send(0, "c");
    assert!(b.wait_for(&first).is_err());
    let came = b.batch_arrivals_ms().len();
    assert_eq!(came, 2, "the second has not left");
    b.machine.set_link(at, Default::default());
    b.wait_for(&second).unwrap();
    assert_eq!(b.logged_values(0).concat(), "abc");
}

#[test]
fn sn37_the_brokers_words_or_what_the_code_means() {
    let mut b = ProducerFixture::new(&[]);
    b.push_batch_faults(&[
        Some(FailBeforeAppend(E::INVALID_REQUEST)),
        Some(FailBeforeAppend(E(4321))),
    ]);
    let d = b.send(0, "a");
    let e = b.wait_for(&d).unwrap_err().to_string();
    assert!(e.contains("INVALID_REQUEST: ") && e.contains("t-0 on broker 1"), "{e}");
    let d = b.send(0, "b");
    let e = b.wait_for(&d).unwrap_err();
    assert!(e.to_string().contains("4321"), "{e}");
    assert_eq!(
        e.record_status(),
        POSSIBLY_PERSISTED,
        "who knows what a code from the future means"
    );
}

#[test]
fn sn41_a_producer_id_is_asked_for_again_after_the_backoff() {
    let mut b = ProducerFixture::new(&[]);
    b.cluster.core.set_producer_id_errors(&[E::COORDINATOR_LOAD_IN_PROGRESS, E::NOT_COORDINATOR]);
    let d = b.send(0, "a");
    b.wait_for(&d).unwrap();
    let first = b.batch_arrivals_ms()[0];
    assert!((100.0..125.0).contains(&first), "two waits of 50 ms, then the batch: {first}");
}

#[test]
fn sn43_lr2_without_acks_a_record_is_over_when_it_is_out() {
    let mut b = ProducerFixture::new(&[("acks", "0"), ("enable.idempotence", "false")]);
    for v in ["a", "b", "c"] {
        let d = b.send(0, v);
        assert_eq!(b.wait_for(&d).unwrap().offset(), None);
    }
    b.run_for_ms(10);
    assert_eq!(b.logged_values(0).concat(), "abc");
}

#[test]
fn sn25_every_way_to_send_says_why_the_producer_ended() {
    let mut b = ProducerFixture::new(&[]);
    b.send_and_wait(0, "a");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::PRODUCER_FENCED))]);
    let d = b.send(0, "b");
    assert!(b.wait_for(&d).unwrap_err().is_fatal());
    let producer = b.producer.clone();
    let known = producer.try_send(ottla::Record::to("t")).unwrap_err();
    let unknown = producer.try_send(ottla::Record::to("elsewhere")).unwrap_err();
    let waiting = b.try_send_to("elsewhere").unwrap_err();
    for said in [known.error.to_string(), unknown.error.to_string(), waiting.to_string()] {
        assert!(said.contains("PRODUCER_FENCED"), "{said}");
    }
}
