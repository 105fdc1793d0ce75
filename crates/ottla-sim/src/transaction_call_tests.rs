//! Transactional calls that cannot end as usual: the producer is closed, a call has timed out, or
//! `send` refuses a record.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ottla::{ConsumerGroupMetadata, Error, ErrorKind, OffsetAndMetadata, Record, Transaction};
use ottla_protocol::{ApiKey, ErrorCode};

use crate::producer_fixture::ProducerFixture;
use crate::request_faults::RequestFault;
use crate::transaction_fixture::{VERSIONS, initialized, initialized_with, uninitialized};

/// Polls a call once: it is posted, and waits.
fn poll_once<F: Future<Output = Result<(), Error>>>(call: std::pin::Pin<&mut F>) {
    assert!(call.poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// Returns the error of a call that has ended.
fn error_of<F: Future<Output = Result<(), Error>>>(call: std::pin::Pin<&mut F>) -> Error {
    match call.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(e)) => e,
        Poll::Ready(Ok(())) => panic!("the call has succeeded"),
        Poll::Pending => panic!("the call still waits"),
    }
}

impl ProducerFixture {
    fn send_offsets_of_t(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let offsets = [OffsetAndMetadata::new("t", 0, 7)];
        let group = ConsumerGroupMetadata::new("g");
        self.block_on(transaction.send_offsets_async(&offsets, &group))
    }
}

// CASES: KP9.
#[test]
fn forced_close_fails_a_pending_init() {
    for api in [ApiKey::FIND_COORDINATOR, ApiKey::INIT_PRODUCER_ID] {
        let mut fixture = uninitialized(2, &[]);
        fixture.plan(api, RequestFault::LoseResponse);
        let producer = fixture.producer.clone();
        let mut init = pin!(producer.init_transactions_async());
        poll_once(init.as_mut());
        fixture.run_until(|f| f.cluster.request_faults.arrived.contains(&api));
        fixture.begin_close(Duration::ZERO);
        fixture.run_until_shutdown();
        assert_eq!(error_of(init.as_mut()).kind(), ErrorKind::Closed, "{api:?}");
    }
}

// CASES: KP9.
#[test]
fn forced_close_fails_pending_offsets() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let transaction = fixture.begin();
        fixture.hold_responses();
        let offsets = [OffsetAndMetadata::new("t", 0, 7)];
        let group = ConsumerGroupMetadata::new("g");
        let mut call = pin!(transaction.send_offsets_async(&offsets, &group));
        poll_once(call.as_mut());
        fixture.run_for_ms(5);
        fixture.begin_close(Duration::ZERO);
        fixture.run_until_shutdown();
        let e = error_of(call.as_mut());
        // The close aborts the transaction.
        assert_eq!(e.kind(), ErrorKind::TransactionAborted, "{e}");
    }
}

/// Checks that the transaction of a record that was refused can only be aborted.
fn assert_only_abort_is_left(fixture: &mut ProducerFixture, mut transaction: Transaction) {
    let e = fixture.commit(&mut transaction).unwrap_err();
    assert!(e.requires_abort(), "{e}");
    fixture.abort_transaction(&mut transaction).unwrap();
    fixture.commit_one("b");
    assert_eq!(fixture.committed_values(), ["b"]);
}

// CASES: KP10.
#[test]
fn record_whose_topic_stays_unknown_fails_the_commit() {
    let mut fixture = initialized_with(2, &[("max.block.ms", "200")]);
    let transaction = fixture.begin();
    let producer = fixture.producer.clone();
    let mut send = pin!(async { producer.send_async(Record::to("missing")).await.map(drop) });
    poll_once(send.as_mut());
    fixture.run_for_ms(250);
    let refused = error_of(send.as_mut());
    assert!(!refused.requires_abort(), "{refused}");
    assert_only_abort_is_left(&mut fixture, transaction);
}

// CASES: KP10.
#[test]
fn record_to_an_invalid_topic_fails_the_commit() {
    let mut fixture = initialized(2);
    let transaction = fixture.begin();
    let refused = fixture.producer.try_send(Record::to("no topic")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidTopic, "{refused}");
    assert_only_abort_is_left(&mut fixture, transaction);
}

// CASES: KP12.
#[test]
fn empty_offsets_send_nothing_and_an_incomplete_group_is_refused() {
    let mut fixture = initialized(2);
    fixture.take_arrived();
    let mut transaction = fixture.begin();
    let group = ConsumerGroupMetadata::new("g");
    fixture.block_on(transaction.send_offsets_async(&[], &group)).unwrap();
    let without_member = ConsumerGroupMetadata::new("g").member(3, "");
    let offsets = [OffsetAndMetadata::new("t", 0, 7)];
    let call = transaction.send_offsets_async(&offsets, &without_member);
    let e = fixture.block_on(call).unwrap_err();
    assert!(!e.requires_abort() && !e.is_fatal(), "{e}");
    fixture.commit(&mut transaction).unwrap();
    assert_eq!(fixture.take_arrived(), [], "nothing was sent");
}

// CASES: TM18.
#[test]
fn abort_that_timed_out_continues_and_only_it_can_be_repeated() {
    for version in VERSIONS {
        let mut fixture = initialized_with(version, &[("max.block.ms", "100")]);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        fixture.hold_responses();
        let e = fixture.abort_transaction(&mut transaction).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TransactionTimeout, "{e}");
        let e = fixture.commit(&mut transaction).unwrap_err();
        assert!(e.to_string().contains("only the abort can be repeated"), "{e}");
        fixture.release_responses();
        fixture.abort_transaction(&mut transaction).unwrap();
        fixture.commit_one("b");
        assert_eq!(fixture.committed_values(), ["b"]);
    }
}

// CASES: SN34.
#[test]
fn close_aborts_a_failed_transaction_and_ends_although_the_abort_is_refused() {
    for refusal in [None, Some(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED)] {
        let mut fixture = initialized(2);
        let transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        let refused = fixture.producer.try_send(Record::to("t").value(&*"x".repeat(2 << 20)));
        assert!(refused.is_err());
        if let Some(code) = refusal {
            fixture.plan(ApiKey::END_TXN, RequestFault::Respond(code));
        }
        fixture.take_arrived();
        fixture.begin_close(Duration::from_secs(60));
        fixture.run_until_shutdown();
        assert_eq!(fixture.take_arrived(), [ApiKey::END_TXN]);
        assert!(fixture.committed_values().is_empty());
        drop(transaction);
    }
}

// CASES: TM27.
#[test]
fn unknown_error_of_offsets_is_fatal_also_before_an_abort() {
    let mut fixture = initialized(1);
    let mut transaction = fixture.begin();
    let unknown = RequestFault::Respond(ErrorCode::UNKNOWN_SERVER_ERROR);
    fixture.plan(ApiKey::ADD_OFFSETS_TO_TXN, unknown);
    let e = fixture.send_offsets_of_t(&transaction).unwrap_err();
    assert!(e.is_fatal(), "{e}");
    assert!(fixture.abort_transaction(&mut transaction).unwrap_err().is_fatal());
}

// CASES: TM29.
#[test]
fn coordinator_is_looked_up_after_the_transaction_has_failed() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        let refused = fixture.producer.try_send(Record::to("t").value(&*"x".repeat(2 << 20)));
        assert!(refused.is_err());
        fixture.plan(ApiKey::END_TXN, RequestFault::Respond(ErrorCode::NOT_COORDINATOR));
        fixture.take_arrived();
        fixture.abort_transaction(&mut transaction).unwrap();
        fixture.assert_sent_again_after_a_lookup(ApiKey::END_TXN, "abort");
        fixture.commit_one("b");
        assert_eq!(fixture.committed_values(), ["b"]);
    }
}

/// All partitions begin with sequence 0 in the epoch behind a failed transaction.
// CASES: TM23.
#[test]
fn every_partition_restarts_its_sequences_behind_a_failed_transaction() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        fixture.send_and_wait(1, "b");
        let refused = fixture.producer.try_send(Record::to("t").value(&*"x".repeat(2 << 20)));
        assert!(refused.is_err());
        fixture.abort_transaction(&mut transaction).unwrap();
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "c");
        fixture.send_and_wait(1, "d");
        fixture.commit(&mut transaction).unwrap();
        for partition in [0, 1] {
            // A batch and a marker of each transaction.
            let logged = fixture.logged_sequences(partition);
            let (first, second) = (logged[0], logged[2]);
            assert!(second.0 > first.0, "{logged:?}");
            assert_eq!((first.1, second.1), (0, 0), "{logged:?}");
        }
    }
}
