//! Behaviours of the classic producer's sender, by their numbers in the acceptance cases: the whole producer against
//! the broker's core, step by step in virtual time.

use ottla::{Certainty, Error, ErrorKind};
use ottla_broker::Fault::{AppendedBut, Refuse};
use ottla_protocol::ErrorCode as E;

use crate::bench::Bench;

const NOT_WRITTEN: Certainty = Certainty::NotWritten;
const POSSIBLY: Certainty = Certainty::PossiblyWritten;

fn code(e: &Error) -> i16 {
    e.code().unwrap_or_else(|| panic!("not a broker's: {e}"))
}

#[test]
fn sn1_one_send_is_one_request_and_ends_with_its_offset() {
    let mut b = Bench::new(&[]);
    let all = b.producer.available_memory();
    assert_eq!(b.arrives(0, "a"), 0);
    assert_eq!(b.producer.totals().request_total, 1);
    b.pass(10);
    assert_eq!(b.producer.available_memory(), all);
}

#[test]
fn sn3_one_retry_survives_one_lost_connection_and_not_two() {
    let mut b = Bench::new(&[("retries", "1")]);
    let d = b.send(0, "a");
    b.lose_answer();
    assert!(b.end(&d).is_ok());
    let d = b.send(0, "b");
    b.lose_answer();
    b.lose_answer();
    let e = b.end(&d).unwrap_err();
    assert_eq!((e.kind(), e.certainty()), (ErrorKind::Network, POSSIBLY), "{e}");
    assert_eq!(b.values(0), ["a", "b"], "and it was: no second copy of either");
}

#[test]
fn sn4_with_one_in_flight_the_next_batch_waits_though_the_leader_moves() {
    let mut b = Bench::of(2, &[("max.in.flight.requests.per.connection", "1")]);
    b.arrives(0, "a");
    let (leader, ..) = b.servers.core.state_of("t", 0).unwrap();
    let at = crate::servers::address(leader);
    b.machine.set_link(at, ottla::sim::Link { down_held: true, ..Default::default() });
    let first = b.send(0, "b");
    let came = b.came().len();
    b.until(|b| b.came().len() > came);
    let second = b.send(0, "c");
    let time = crate::servers::now(&b.machine);
    assert!(b.servers.core.move_leader("t", 0, 3 - leader, (true, false), time));
    b.pass(5_000);
    assert_eq!(b.came().len(), came + 1, "the second has not left");
    b.machine.set_link(at, Default::default());
    assert!(b.end(&first).is_ok() && b.end(&second).is_ok());
    assert_eq!(b.values(0), ["a", "b", "c"]);
}

#[test]
fn sn8_an_authorization_error_names_the_topic_and_is_not_retried() {
    let mut b = Bench::new(&[]);
    b.script(&[Some(Refuse(E::TOPIC_AUTHORIZATION_FAILED))]);
    let d = b.send(0, "a");
    let e = b.end(&d).unwrap_err();
    assert_eq!(
        (e.kind(), e.certainty(), b.came().len()),
        (ErrorKind::Authorization, NOT_WRITTEN, 1)
    );
    assert!(e.to_string().contains("t-0") && !e.is_fatal(), "{e}");
    b.arrives(0, "b");
}

#[test]
fn sn9_sequences_rise_by_the_records_of_each_batch() {
    let mut b = Bench::new(&[("batch.size", "1000"), ("linger.ms", "5")]);
    for pair in [["a", "b"], ["c", "d"]] {
        let last = pair.map(|v| b.send(0, v)).into_iter().last().unwrap();
        b.end(&last).unwrap();
    }
    b.arrives(0, "e");
    assert_eq!(b.sequences(0), [(0, 0), (0, 2), (0, 4)]);
    assert_eq!(b.values(0).concat(), "abcde");
}

#[test]
fn sn10_three_in_flight_that_fail_go_again_one_by_one_in_order() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    b.script(&[Some(Refuse(E::LEADER_NOT_AVAILABLE))]);
    let all: Vec<_> = ["b", "c", "d"].iter().map(|v| b.send(0, v)).collect();
    let late = b.send(0, "e");
    for d in all.iter().chain([&late]) {
        b.end(d).unwrap();
    }
    assert_eq!(b.values(0).concat(), "abcde");
    assert_eq!(b.sequences(0), [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)], "no bump");
}

#[test]
fn sn11_what_follows_a_batch_that_failed_for_good_begins_a_new_order() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    b.script(&[Some(Refuse(E::MESSAGE_TOO_LARGE))]);
    let (first, second) = (b.send(0, "b"), b.send(0, "c"));
    let e = b.end(&first).unwrap_err();
    assert_eq!((code(&e), e.certainty()), (E::MESSAGE_TOO_LARGE.0, NOT_WRITTEN));
    assert_eq!(b.end(&second).unwrap().offset(), Some(1));
    assert_eq!(b.sequences(0), [(0, 0), (1, 0)]);
}

#[test]
fn sn12_a_leader_that_lost_its_log_makes_the_producer_begin_anew() {
    let mut b = Bench::of(2, &[]);
    b.arrives(0, "a");
    let (leader, ..) = b.servers.core.state_of("t", 0).unwrap();
    let time = crate::servers::now(&b.machine);
    b.servers.core.pause_node(3 - leader, true, time);
    b.servers.core.set_patience(10);
    b.pass(50);
    b.arrives(0, "b");
    // The other replica has only "a": what was acknowledged with one in sync is lost.
    let time = crate::servers::now(&b.machine);
    assert!(b.servers.core.move_leader("t", 0, 3 - leader, (false, true), time));
    b.servers.core.pause_node(3 - leader, false, time);
    assert_eq!(b.arrives(0, "c"), 1);
    assert_eq!(b.values(0).concat(), "ac");
    assert_eq!(b.sequences(0), [(0, 0), (1, 0)]);
    assert_eq!(b.servers.core.producer_ids_given(), 1, "the bump is the producer's own");
}

#[test]
fn sn14_answers_out_of_order_keep_the_order() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    b.script(&[Some(Refuse(E::NOT_ENOUGH_REPLICAS)), Some(Refuse(E::LEADER_NOT_AVAILABLE))]);
    let (first, second) = (b.send(0, "b"), b.send(0, "c"));
    assert_eq!(b.end(&first).unwrap().offset(), Some(1));
    assert_eq!(b.end(&second).unwrap().offset(), Some(2));
    assert_eq!(b.sequences(0), [(0, 0), (0, 1), (0, 2)]);
}

#[test]
fn sn15_what_expires_unsent_leaves_no_hole() {
    let mut b = Bench::new(&[("delivery.timeout.ms", "400"), ("request.timeout.ms", "300")]);
    b.arrives(0, "a");
    b.machine.reset(crate::servers::address(1));
    b.servers.forget(1);
    b.pass(10);
    let d = b.send(0, "b");
    let e = b.end(&d).unwrap_err();
    assert_eq!((e.kind(), e.certainty()), (ErrorKind::DeliveryTimeout, NOT_WRITTEN), "{e}");
    b.machine.listen(crate::servers::address(1));
    b.pass(2_000);
    b.arrives(0, "c");
    assert_eq!(b.sequences(0), [(0, 0), (0, 1)], "the same epoch, the next sequence");
}

#[test]
fn sn17_f1_6_a_batch_that_expires_after_it_was_sent_costs_an_epoch() {
    let settings = [("delivery.timeout.ms", "300"), ("request.timeout.ms", "200")];
    let mut b = Bench::new(&settings);
    b.arrives(0, "a");
    let d = b.send(0, "b");
    b.lose_answer();
    // Nobody is there until its time is over.
    b.machine.reset(crate::servers::address(1));
    let e = b.end(&d).unwrap_err();
    assert_eq!((e.kind(), e.certainty()), (ErrorKind::DeliveryTimeout, POSSIBLY), "{e}");
    b.machine.listen(crate::servers::address(1));
    b.pass(2_000);
    b.arrives(0, "c");
    assert_eq!(b.values(0).concat(), "abc");
    assert_eq!(b.sequences(0).last(), Some(&(1, 0)), "nothing proves the sequence: a new epoch");
}

#[test]
fn sn19_after_the_last_epoch_comes_a_new_id_and_everything_drains() {
    let mut b = Bench::new(&[]);
    b.servers.core.set_first_epoch(i16::MAX);
    b.arrives(0, "a");
    b.servers.core.set_first_epoch(0);
    b.script(&[Some(Refuse(E::INVALID_RECORD)), Some(Refuse(E::NOT_ENOUGH_REPLICAS))]);
    let (lost, kept) = (b.send(0, "b"), b.send(0, "c"));
    assert!(b.end(&lost).is_err());
    let other = b.send(1, "d");
    assert!(b.end(&kept).is_ok() && b.end(&other).is_ok());
    assert_eq!(b.servers.core.producer_ids_given(), 2);
    let ids: Vec<_> = b.log(0).1.iter().map(|h| (h.producer_epoch, h.base_sequence)).collect();
    assert_eq!(ids, [(i16::MAX, 0), (0, 0)]);
    assert_eq!(b.values(0).concat(), "ac");
}

#[test]
fn sn20_a_batch_keeps_its_epoch_over_another_partitions_bump() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    b.arrives(1, "x");
    // The first partition's batch waits for its retry while the second's order breaks.
    b.script(&[Some(Refuse(E::NOT_ENOUGH_REPLICAS))]);
    let kept = b.send(0, "b");
    let came = b.came().len();
    b.until(|b| b.came().len() > came);
    b.script(&[Some(Refuse(E::INVALID_RECORD))]);
    let lost = b.send(1, "y");
    assert!(b.end(&lost).is_err() && b.end(&kept).is_ok());
    b.arrives(1, "z");
    b.arrives(0, "c");
    assert_eq!(b.sequences(0), [(0, 0), (0, 1), (1, 0)], "then it takes the new epoch, too");
    assert_eq!(b.sequences(1), [(0, 0), (1, 0)]);
}

#[test]
fn sn21_lr8_a_duplicate_is_delivered_without_an_offset() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    b.script(&[Some(AppendedBut(E::DUPLICATE_SEQUENCE_NUMBER))]);
    let d = b.send(0, "b");
    assert_eq!(b.end(&d).unwrap().offset(), None);
    b.arrives(0, "c");
    assert_eq!(b.sequences(0), [(0, 0), (0, 1), (0, 2)]);
}

#[test]
fn sn22_sn24_a_forgotten_producer_begins_anew_with_what_was_not_written() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    b.script(&[Some(Refuse(E::UNKNOWN_PRODUCER_ID))]);
    assert_eq!(b.arrives(0, "b"), 1);
    assert_eq!(b.sequences(0), [(0, 0), (1, 0)], "a new epoch");
    // The first of an order needs no state: it is sent again as it is.
    b.script(&[Some(Refuse(E::UNKNOWN_PRODUCER_ID))]);
    b.arrives(1, "c");
    assert_eq!(b.sequences(1), [(1, 0)], "no second bump");
    // That it is forgotten does not prove that it is not there.
    b.script(&[None, Some(Refuse(E::UNKNOWN_PRODUCER_ID))]);
    let d = b.send(0, "d");
    b.lose_answer();
    let e = b.end(&d).unwrap_err();
    assert_eq!((code(&e), e.certainty()), (E::UNKNOWN_PRODUCER_ID.0, POSSIBLY), "{e}");
    b.arrives(0, "e");
    assert_eq!(b.values(0).concat(), "abde");
}

#[test]
fn sn25_a_cluster_that_refuses_the_producer_ends_it_with_its_reason() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    let all = b.producer.available_memory();
    b.script(&[Some(Refuse(E::CLUSTER_AUTHORIZATION_FAILED))]);
    let (first, second) = (b.send(0, "b"), b.send(0, "c"));
    for d in [&first, &second] {
        let e = b.end(d).unwrap_err();
        assert!(e.is_fatal() && e.kind() == ErrorKind::Authorization, "{e}");
    }
    let e = b.try_send(0, "e").unwrap_err();
    assert!(e.is_fatal() && e.to_string().contains("CLUSTER_AUTHORIZATION_FAILED"), "{e}");
    b.pass(100);
    assert_eq!(b.producer.available_memory(), all, "buffers come back with the answers");
}

#[test]
fn sn26_no_producer_id_fails_what_waits_and_may_be_had_later() {
    let mut b = Bench::new(&[]);
    b.servers.core.refuse_producer_ids(&[E::CLUSTER_AUTHORIZATION_FAILED; 2]);
    let d = b.send(0, "a");
    let e = b.end(&d).unwrap_err();
    assert_eq!((e.kind(), e.certainty()), (ErrorKind::Authorization, NOT_WRITTEN));
    assert_eq!(b.arrives(0, "b"), 0);
}

#[test]
fn sn27_an_old_message_format_fails_the_batch_alone() {
    let mut b = Bench::new(&[]);
    b.script(&[Some(Refuse(E::UNSUPPORTED_FOR_MESSAGE_FORMAT))]);
    let d = b.send(0, "a");
    assert!(!b.end(&d).unwrap_err().is_fatal());
    b.arrives(0, "b");
    b.script(&[Some(Refuse(E::UNSUPPORTED_VERSION))]);
    let d = b.send(0, "c");
    assert!(b.end(&d).unwrap_err().is_fatal());
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
            let mut b = Bench::new(&settings);
            b.script(&[Some(Refuse(E::MESSAGE_TOO_LARGE)), Some(Refuse(E::MESSAGE_TOO_LARGE))]);
            let values: Vec<String> = (0..4).map(|i| format!("{i}").repeat(300)).collect();
            let sent: Vec<_> = values.iter().map(|v| b.send(0, v)).collect();
            b.flush();
            let offsets: Vec<_> = sent.iter().map(|d| b.end(d).unwrap().offset()).collect();
            assert_eq!(offsets, [Some(0), Some(1), Some(2), Some(3)], "{codec}");
            assert_eq!(b.values(0), values);
            // In halves, and the first half in halves again.
            let expected: &[(i16, i32)] =
                if idempotent == "true" { &[(0, 0), (0, 1), (0, 2)] } else { &[(-1, -1); 3] };
            assert_eq!(b.sequences(0), expected, "{codec}");
            assert_eq!(b.producer.totals().batch_split_total, 2);
            b.pass(10);
            assert_eq!(b.producer.available_memory(), 32 << 20, "RA21: all of it is back");
        }
    }
}

#[test]
fn f1_7_a_batch_that_may_be_written_is_not_split() {
    let mut b = Bench::new(&[("batch.size", "4000"), ("linger.ms", "5")]);
    b.script(&[None, Some(Refuse(E::MESSAGE_TOO_LARGE))]);
    let sent: Vec<_> = ["a", "b"].iter().map(|v| b.send(0, v)).collect();
    b.lose_answer();
    for d in &sent {
        let e = b.end(d).unwrap_err();
        assert_eq!((code(&e), e.certainty()), (E::MESSAGE_TOO_LARGE.0, POSSIBLY), "{e}");
    }
    assert_eq!(b.values(0), ["a", "b"]);
}

#[test]
fn sn29_sn32_nothing_is_sent_again_after_its_time_and_its_memory_returns_once() {
    let settings = [("delivery.timeout.ms", "300"), ("request.timeout.ms", "299")];
    for late in [E::NONE, E::NOT_LEADER_OR_FOLLOWER, E::MESSAGE_TOO_LARGE] {
        let mut b = Bench::new(&settings);
        b.arrives(0, "a");
        let all = b.producer.available_memory();
        b.script(&[(!late.is_none()).then_some(Refuse(late))]);
        let d = b.send(0, "b");
        let at = crate::servers::address(1);
        b.machine.set_link(at, ottla::sim::Link { down_held: true, ..Default::default() });
        // The wait for its turn is part of its time: it ends before its request does.
        let e = b.end(&d).unwrap_err();
        assert_eq!(e.certainty(), POSSIBLY, "{e}");
        let came = b.came().len();
        b.machine.set_link(at, Default::default());
        b.pass(3_000);
        assert_eq!(b.came().len(), came, "{late}: nothing more is sent");
        assert_eq!(b.producer.available_memory(), all, "{late}");
    }
}

#[test]
fn sn31_with_one_in_flight_what_follows_an_expired_batch_waits_for_its_answer() {
    let mut b = Bench::new(&[
        ("delivery.timeout.ms", "400"),
        ("request.timeout.ms", "400"),
        ("max.in.flight.requests.per.connection", "1"),
    ]);
    b.arrives(0, "a");
    let at = crate::servers::address(1);
    b.machine.set_link(at, ottla::sim::Link { down_held: true, ..Default::default() });
    let first = b.send(0, "b");
    b.pass(350);
    let second = b.send(0, "c");
    assert!(b.end(&first).is_err());
    let came = b.came().len();
    assert_eq!(came, 2, "the second has not left");
    b.machine.set_link(at, Default::default());
    b.end(&second).unwrap();
    assert_eq!(b.values(0).concat(), "abc");
}

#[test]
fn sn37_the_brokers_words_or_what_the_code_means() {
    let mut b = Bench::new(&[]);
    b.script(&[Some(Refuse(E::INVALID_REQUEST)), Some(Refuse(E(4321)))]);
    let d = b.send(0, "a");
    let e = b.end(&d).unwrap_err().to_string();
    assert!(e.contains("INVALID_REQUEST: ") && e.contains("t-0 on broker 1"), "{e}");
    let d = b.send(0, "b");
    let e = b.end(&d).unwrap_err();
    assert!(e.to_string().contains("4321"), "{e}");
    assert_eq!(e.certainty(), POSSIBLY, "who knows what a code from the future means");
}

#[test]
fn sn41_a_producer_id_is_asked_for_again_after_the_backoff() {
    let mut b = Bench::new(&[]);
    b.servers.core.refuse_producer_ids(&[E::COORDINATOR_LOAD_IN_PROGRESS, E::NOT_COORDINATOR]);
    let d = b.send(0, "a");
    b.end(&d).unwrap();
    let first = b.came()[0];
    assert!((100.0..125.0).contains(&first), "two waits of 50 ms, then the batch: {first}");
}

#[test]
fn sn43_lr2_without_acks_a_record_is_over_when_it_is_out() {
    let mut b = Bench::new(&[("acks", "0"), ("enable.idempotence", "false")]);
    for v in ["a", "b", "c"] {
        let d = b.send(0, v);
        assert_eq!(b.end(&d).unwrap().offset(), None);
    }
    b.pass(10);
    assert_eq!(b.values(0).concat(), "abc");
}

#[test]
fn lr5_a_corrupt_batch_is_sent_twice_and_a_storage_error_again() {
    let mut b = Bench::new(&[]);
    b.script(&[Some(Refuse(E::CORRUPT_MESSAGE))]);
    b.arrives(0, "a");
    assert_eq!(b.came().len(), 2);
    b.script(&[Some(AppendedBut(E::KAFKA_STORAGE_ERROR))]);
    b.arrives(0, "b");
    assert_eq!((b.values(0).concat(), b.came().len()), ("ab".to_owned(), 4));
}

#[test]
fn lr6_ra8_the_gaps_between_attempts_follow_the_backoff() {
    let mut b = Bench::new(&[("retry.backoff.ms", "100"), ("retry.backoff.max.ms", "1000")]);
    b.arrives(0, "a");
    b.script(&[Some(Refuse(E::NOT_ENOUGH_REPLICAS)); 7]);
    let before = b.came().len();
    b.arrives(0, "b");
    let came = b.came()[before..].to_vec();
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
        let mut b = Bench::new(&[]);
        b.arrives(0, "a");
        b.hold_answers(true);
        let sent: Vec<_> = ["b", "c", "d", "e", "f"].iter().map(|v| b.send(0, v)).collect();
        let rest = vec![None; lost];
        b.script(&rest);
        b.script(&[Some(Refuse(E::NOT_ENOUGH_REPLICAS))]);
        b.until(|b| b.came().len() > lost);
        b.lose_connections();
        b.hold_answers(false);
        for d in &sent {
            b.end(d).unwrap();
        }
        assert_eq!(b.values(0).concat(), "abcdef", "{lost} lost");
    }
}

#[test]
fn lr11_a_topic_made_anew_is_followed_and_what_may_be_in_the_old_one_is_not_sent_to_it() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    let d = b.send(0, "b");
    b.lose_answer();
    let time = crate::servers::now(&b.machine);
    let old = b.servers.core.topic("t").unwrap().0;
    b.servers.core.delete_topic("t").unwrap();
    b.servers.core.create_topic("t", 2, time).unwrap();
    let new = b.servers.core.topic("t").unwrap().0;
    let e = b.end(&d).unwrap_err();
    let said = e.to_string();
    assert!(said.contains(&old.to_string()) && said.contains(&new.to_string()), "{said}");
    assert_eq!(e.certainty(), POSSIBLY);
    assert_eq!(b.arrives(0, "c"), 0, "the new topic begins at 0");
    assert_eq!(b.sequences(0), [(1, 0)]);
}

#[test]
fn fg5_lr5_connections_that_end_after_any_byte_cost_time_alone() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    let mut faults = ottla::sim::Faults::NONE;
    faults.cut = 1;
    b.machine.set_faults(faults);
    let d = b.send(0, "b");
    b.pass(200);
    b.machine.set_faults(ottla::sim::Faults::NONE);
    b.end(&d).unwrap();
    assert_eq!(b.values(0).concat(), "ab");
}

#[test]
fn sn25_every_way_to_send_says_why_the_producer_ended() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    b.script(&[Some(Refuse(E::PRODUCER_FENCED))]);
    let d = b.send(0, "b");
    assert!(b.end(&d).unwrap_err().is_fatal());
    let producer = b.producer.clone();
    let known = producer.try_send(ottla::Record::to("t")).unwrap_err();
    let unknown = producer.try_send(ottla::Record::to("elsewhere")).unwrap_err();
    let waiting = b.sent_to("elsewhere").unwrap_err();
    for said in [known.error.to_string(), unknown.error.to_string(), waiting.to_string()] {
        assert!(said.contains("PRODUCER_FENCED"), "{said}");
    }
}

#[test]
fn f2_a_new_order_does_not_shorten_the_backoff() {
    let mut b = Bench::new(&[("retry.backoff.ms", "100"), ("retry.backoff.max.ms", "1000")]);
    b.arrives(0, "a");
    b.script(&[Some(Refuse(E::INVALID_PRODUCER_EPOCH)); 3]);
    let before = b.came().len();
    b.arrives(0, "b");
    let came = b.came()[before..].to_vec();
    for (pair, least) in came.windows(2).zip([80.0, 160.0, 320.0]) {
        assert!(pair[1] - pair[0] >= least, "{came:?}");
    }
    assert_eq!(b.servers.core.producer_ids_given(), 4, "a new id each time");
    // The next break bumps the epoch of the id it has.
    b.script(&[Some(Refuse(E::INVALID_RECORD))]);
    let lost = b.send(0, "c");
    assert!(b.end(&lost).is_err());
    b.arrives(0, "d");
    assert_eq!(b.servers.core.producer_ids_given(), 4);
    assert_eq!(b.sequences(0).last(), Some(&(1, 0)));
}

#[test]
fn b2_a_lingered_batch_is_compressed_too() {
    for (codec, attributes) in [("none", 0), ("gzip", 1), ("zstd", 4)] {
        let settings = [("batch.size", "4000"), ("linger.ms", "5"), ("compression.type", codec)];
        let mut b = Bench::new(&settings);
        b.arrives(0, &"a".repeat(1000));
        assert_eq!(b.log(0).1[0].attributes, attributes, "{codec}");
    }
}

#[test]
fn ra4_batches_share_a_request_up_to_its_exact_size() {
    // Both partitions' batches take 61 bytes and a record each.
    let len = 61 + 9 + 100;
    for (size, requests) in [(2 * len, 1), (2 * len - 1, 2)] {
        let mut b = Bench::new(&[("max.request.size", &size.to_string())]);
        b.arrives(0, "a");
        b.arrives(1, "b");
        let before = b.producer.totals();
        let value = "v".repeat(100);
        let sent = [b.send(0, &value), b.send(1, &value)];
        sent.iter().for_each(|d| assert!(b.end(d).is_ok()));
        let after = b.producer.totals();
        assert_eq!((after.byte_total - before.byte_total) as usize, 2 * len);
        assert_eq!(after.request_total - before.request_total, requests, "{size}");
    }
}

#[test]
fn lr8_what_was_appended_to_too_few_is_delivered_all_the_same() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    b.script(&[Some(AppendedBut(E::NOT_ENOUGH_REPLICAS_AFTER_APPEND))]);
    let (first, second) = (b.send(0, "b"), b.send(0, "c"));
    assert_eq!(b.end(&first).unwrap().offset(), Some(1), "the broker knows it by its sequence");
    assert_eq!(b.end(&second).unwrap().offset(), Some(2));
    assert_eq!(b.values(0).concat(), "abc");
}

#[test]
fn lr10_a_stall_longer_than_records_live_costs_records_and_nothing_else() {
    let settings = [("delivery.timeout.ms", "1000"), ("request.timeout.ms", "500")];
    let mut b = Bench::new(&settings);
    b.arrives(0, "a");
    b.hold_answers(true);
    let lost: Vec<_> = ["b", "c", "d"].iter().map(|v| b.send(0, v)).collect();
    for d in &lost {
        let e = b.end(d).unwrap_err();
        assert!(e.kind() == ErrorKind::DeliveryTimeout && !e.is_fatal(), "{e}");
    }
    b.hold_answers(false);
    b.pass(2_000);
    for v in ["e", "f"] {
        b.arrives(0, v);
    }
    let log = b.values(0).concat();
    assert!(log.starts_with('a') && log.ends_with("ef"), "{log}");
    let mut once: Vec<char> = log.chars().collect();
    once.dedup();
    assert_eq!(once.len(), log.len(), "nothing twice: {log}");
    assert!(once.is_sorted(), "in order: {log}");
}

#[test]
fn lr15_records_wait_for_brokers_that_are_away() {
    let mut b = Bench::new(&[]);
    b.arrives(0, "a");
    b.machine.reset(crate::servers::address(1));
    b.servers.forget(1);
    b.pass(10_000);
    let d = b.send(0, "b");
    b.pass(60_000);
    assert!(d.try_result().is_none());
    b.machine.listen(crate::servers::address(1));
    b.end(&d).unwrap();
    assert_eq!(b.sequences(0), [(0, 0), (0, 1)]);
}

#[test]
fn f1_3_f1_5_sn10_behind_a_retry_nothing_new_gets_a_sequence() {
    let mut b = Bench::new(&[("retry.backoff.ms", "1000")]);
    b.arrives(0, "a");
    b.script(&[Some(Refuse(E::NOT_ENOUGH_REPLICAS))]);
    let first = b.send(0, "b");
    let came = b.came().len();
    b.until(|b| b.came().len() > came);
    b.pass(10);
    let second = b.send(0, "c");
    b.pass(500);
    assert_eq!(b.came().len(), came + 1, "it waits, though four more might be in flight");
    b.end(&first).unwrap();
    b.end(&second).unwrap();
    assert_eq!(b.sequences(0), [(0, 0), (0, 1), (0, 2)]);
}
