//! Failures of batches: their order, their errors, and what a lost producer state proves.
#![allow(clippy::disallowed_types)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ottla::{Error, ErrorKind, PurgeScope, Record, RecordMetadata, RecordStatus};
use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::ErrorCode;

use crate::producer_fixture::ProducerFixture;
use crate::sim_cluster::broker_now;

/// The values of the records whose callbacks have run, in this order.
type Completed = Arc<Mutex<Vec<String>>>;

impl ProducerFixture {
    /// Sends a record to `t` with a callback that adds its value to `completed`.
    fn send_with_callback(&mut self, partition: i32, value: &str, completed: &Completed) {
        let (producer, completed) = (self.producer.clone(), completed.clone());
        let name = format!("{partition}{value}");
        let callback = move |result: Result<RecordMetadata, Error>| {
            assert!(result.is_err());
            completed.lock().unwrap().push(name);
        };
        let record = Record::to("t").partition(partition).value(value);
        self.block_on(producer.send_with_callback_async(record, callback)).unwrap();
    }

    /// Has several batches of each partition in flight, and others in its queue.
    fn send_batches_in_flight_and_queued(&mut self, completed: &Completed) -> Vec<String> {
        self.send_and_wait(0, "first");
        self.send_and_wait(1, "first");
        self.hold_responses();
        let values = ["a", "b", "c", "d", "e", "f", "g"];
        for value in values {
            for partition in [0, 1] {
                self.send_with_callback(partition, value, completed);
            }
        }
        self.run_for_ms(50);
        assert!((7..16).contains(&self.batch_count()), "{} batches", self.batch_count());
        values.map(str::to_owned).to_vec()
    }
}

fn assert_order(completed: &Completed, values: &[String]) {
    let completed = completed.lock().unwrap().clone();
    for partition in ["0", "1"] {
        let of_partition = completed.iter().filter_map(|v| v.strip_prefix(partition));
        assert_eq!(of_partition.collect::<Vec<_>>(), values, "{completed:?}");
    }
}

// CASES: SN29.
#[test]
fn batches_that_expire_together_complete_in_the_order_of_their_partition() {
    let settings = [("delivery.timeout.ms", "1000"), ("request.timeout.ms", "1000")];
    let mut fixture = ProducerFixture::new(&settings);
    let completed = Completed::default();
    let values = fixture.send_batches_in_flight_and_queued(&completed);
    fixture.run_for_ms(2_000);
    assert_order(&completed, &values);
}

#[test]
fn purged_batches_complete_in_the_order_of_their_partition() {
    let mut fixture = ProducerFixture::new(&[]);
    let completed = Completed::default();
    let values = fixture.send_batches_in_flight_and_queued(&completed);
    fixture.producer.purge(PurgeScope::QueuedAndInFlight).unwrap();
    fixture.run_for_ms(10);
    assert_order(&completed, &values);
}

#[test]
fn batches_of_a_closed_producer_complete_in_the_order_of_their_partition() {
    let mut fixture = ProducerFixture::new(&[]);
    let completed = Completed::default();
    let values = fixture.send_batches_in_flight_and_queued(&completed);
    fixture.close(Duration::ZERO);
    assert_order(&completed, &values);
}

/// Topic `t` with `cleanup.policy=compact` rejects records without a key.
fn rejected_batch(values: &[(Option<&str>, &str, i64)]) -> Vec<Error> {
    let mut fixture = ProducerFixture::new(&[("batch.size", "4000"), ("linger.ms", "5")]);
    fixture.cluster.core.set_topic_config("t", "cleanup.policy", "compact").unwrap();
    let now_ms = broker_now(&fixture.machine).wall_ms;
    let mut sent = Vec::new();
    for (key, value, ahead_ms) in values {
        let producer = fixture.producer.clone();
        let mut record = Record::to("t").partition(0).value(value).timestamp(now_ms + ahead_ms);
        if let Some(key) = key {
            record = record.key(key);
        }
        sent.push(fixture.block_on(producer.send_async(record)).unwrap());
    }
    sent.iter().map(|delivery| fixture.wait_for(delivery).unwrap_err()).collect()
}

const TWO_HOURS_MS: i64 = 2 * 60 * 60 * 1000;

// CASES: LR3, PB6.
#[test]
fn records_that_are_not_at_fault_get_a_retriable_error_of_another_kind() {
    let errors = rejected_batch(&[(Some("k"), "good", 0), (None, "bad", 0)]);
    let (good, bad) = (&errors[0], &errors[1]);
    assert_eq!(
        (bad.kind(), bad.code()),
        (ErrorKind::InvalidRecord, Some(ErrorCode::INVALID_RECORD))
    );
    assert!(!bad.is_retriable() && bad.to_string().contains("requires a key"), "{bad}");
    assert_eq!(good.kind(), ErrorKind::BatchRejected, "{good}");
    assert!(good.is_retriable() && good.record_status() == RecordStatus::NotPersisted, "{good}");
    assert!(good.to_string().contains("another record of the same batch"), "{good}");
}

// CASES: LR3.
#[test]
fn only_a_single_rejected_record_has_the_code_of_its_partition() {
    let errors = rejected_batch(&[(Some("k"), "good", 0), (Some("k"), "late", TWO_HOURS_MS)]);
    assert_eq!(errors[1].code(), Some(ErrorCode::INVALID_TIMESTAMP), "{}", errors[1]);
    // The broker's code for the partition is INVALID_TIMESTAMP, although one record has no key.
    let errors = rejected_batch(&[(None, "keyless", 0), (Some("k"), "late", TWO_HOURS_MS)]);
    for (e, text) in errors.iter().zip(["requires a key", "too far in the future"]) {
        assert_eq!(
            (e.kind(), e.code()),
            (ErrorKind::InvalidRecord, Some(ErrorCode::INVALID_RECORD)),
            "{e}"
        );
        assert!(e.to_string().contains(text), "{e}");
    }
}

/// After a clean restart, a broker knows only the last batch of each producer.
#[test]
fn out_of_order_sequence_is_no_proof_for_a_batch_that_may_be_in_the_log() {
    let mut fixture = ProducerFixture::with_short_snapshots();
    fixture.send_and_wait(0, "a");
    fixture.hold_responses();
    let sent = [fixture.send(0, "b"), fixture.send(0, "c")];
    fixture.run_until(|f| f.logged_values(0).len() == 3);
    let time = broker_now(&fixture.machine);
    fixture.stop_node_1();
    fixture.cluster.core.stop_node(1, time);
    fixture.cluster.core.start_node(1, time);
    fixture.release_responses();
    fixture.start_node_1();
    for delivery in &sent {
        let e = fixture.wait_for(delivery).unwrap_err();
        assert_eq!(e.record_status(), RecordStatus::PossiblyPersisted, "{e}");
    }
    fixture.send_and_wait(0, "d");
    assert_eq!(fixture.logged_values(0).concat(), "abcd", "no record is there twice");
}

/// A service that imitates Kafka forgets a producer id and accepts no epoch of it.
#[test]
fn batches_continue_under_a_new_id_when_a_broker_forgets_the_producer_id() {
    for code in [ErrorCode::UNKNOWN_PRODUCER_ID, ErrorCode::INVALID_PRODUCER_ID_MAPPING] {
        let mut fixture = ProducerFixture::new(&[("retries", "1")]);
        fixture.send_and_wait(0, "a");
        let issued = fixture.cluster.core.producer_ids_issued();
        // Five batches in flight, and each attempt under the forgotten id, fail.
        fixture.hold_responses();
        fixture.push_batch_faults(&[Some(FailBeforeAppend(code)); 7]);
        let before = fixture.batch_count();
        let sent: Vec<_> = ["b", "c", "d", "e", "f", "g"].map(|v| fixture.send(0, v)).into();
        fixture.run_until(|f| f.batch_count() == before + 5);
        fixture.release_responses();
        for delivery in &sent {
            fixture.wait_for(delivery).unwrap_or_else(|e| panic!("{code}: {e}"));
        }
        assert_eq!(fixture.logged_values(0).concat(), "abcdefg", "{code}");
        assert!(fixture.cluster.core.producer_ids_issued() > issued, "{code}");
    }
}

/// Of a forgotten producer's batches, only the one that may be in the log fails.
#[test]
fn only_the_possibly_persisted_batch_fails_when_a_broker_forgets_the_producer_id() {
    for code in [ErrorCode::UNKNOWN_PRODUCER_ID, ErrorCode::INVALID_PRODUCER_ID_MAPPING] {
        let mut fixture = ProducerFixture::new(&[("retries", "1")]);
        fixture.send_and_wait(0, "a");
        let lost = fixture.send(0, "b");
        fixture.lose_response();
        fixture.push_batch_faults(&[Some(FailBeforeAppend(code))]);
        let behind: Vec<_> = ["c", "d"].map(|v| fixture.send(0, v)).into();
        let e = fixture.wait_for(&lost).unwrap_err();
        assert_eq!(e.record_status(), RecordStatus::PossiblyPersisted, "{code}: {e}");
        for delivery in &behind {
            fixture.wait_for(delivery).unwrap_or_else(|e| panic!("{code}: {e}"));
        }
        assert_eq!(fixture.logged_values(0).concat(), "abcd", "{code}");
    }
}

#[test]
fn refused_try_send_ends_the_linger_of_the_batches_that_hold_the_memory() {
    let settings = [("linger.ms", "60000"), ("batch.size", "4000"), ("buffer.memory", "8000")];
    let mut fixture = ProducerFixture::new(&settings);
    fixture.send_and_flush("first");
    for partition in [0, 1] {
        let record = Record::to("t").partition(partition).value("a");
        drop(fixture.producer.try_send(record).unwrap());
    }
    // The batch of partition 0 is full, and the next one finds no memory.
    let value = "b".repeat(3_960);
    let record = Record::to("t").partition(0).value(&value);
    let refused = fixture.producer.try_send(record).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    fixture.run_for_ms(100);
    drop(fixture.producer.try_send(record).unwrap());
    assert_eq!(fixture.logged_values(1), ["a"]);
    // Memory is free again, so the next batch lingers.
    fixture.run_for_ms(100);
    let before = fixture.batch_count();
    fixture.producer.try_send(Record::to("t").partition(1).value("c")).unwrap();
    fixture.run_for_ms(1_000);
    assert_eq!(fixture.batch_count(), before);
}
