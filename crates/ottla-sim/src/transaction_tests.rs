//! Transactions, tested with the whole producer against the broker's core.
//!
//! Virtual time moves step by step. CASES name the behaviours in docs/CASES.md.

use std::time::Duration;

use ottla::ErrorKind;
use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::{ApiKey, ErrorCode};

use crate::request_faults::RequestFault;
use crate::transaction_fixture::{
    FAULTS_BEFORE_A_LOOKUP, VERSIONS, initialized, initialized_with, source_of, uninitialized,
};

// CASES: TM3, TM24, KP11, F4.21, F4.22.
#[test]
fn committed_records_are_visible_and_aborted_ones_are_not() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let memory = fixture.producer.available_memory();
        let mut transaction = fixture.begin();
        let delivery = fixture.send(0, "a");
        fixture.send(1, "b");
        fixture.commit(&mut transaction).unwrap();
        assert!(delivery.try_result().unwrap().is_ok(), "a commit waits for each record");
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "c");
        fixture.abort_transaction(&mut transaction).unwrap();
        fixture.commit_one("d");
        assert_eq!(fixture.committed_values(), ["a", "d"]);
        assert_eq!(fixture.producer.available_memory(), memory);
        let epochs: Vec<i16> =
            fixture.logged_sequences(0).iter().map(|(epoch, _)| *epoch).collect();
        let adds_partitions = fixture.take_arrived().contains(&ApiKey::ADD_PARTITIONS_TO_TXN);
        // Data and marker by turns; with version 2, a marker has the next epoch.
        let expected: &[i16] = if version == 1 { &[0, 0, 0, 0, 0, 0] } else { &[0, 1, 1, 2, 2, 3] };
        assert_eq!((&*epochs, adds_partitions), (expected, version == 1));
    }
}

// CASES: TM1.
#[test]
fn record_outside_of_a_transaction_is_refused() {
    let mut fixture = initialized(2);
    let e = fixture.try_send(0, "a").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidTransactionState, "{e}");
    fixture.commit_one("b");
    let e = fixture.try_send(0, "c").unwrap_err();
    assert!(e.to_string().contains("begin_transaction"), "{e}");
    assert_eq!(fixture.committed_values(), ["b"]);
}

// CASES: SN35.
#[test]
fn commit_sends_lingering_records_at_once() {
    let settings =
        [("linger.ms", "50000"), ("batch.size", "16384"), ("delivery.timeout.ms", "90000")];
    let mut fixture = initialized_with(2, &settings);
    for value in ["a", "b"] {
        let mut transaction = fixture.begin();
        fixture.send(0, value);
        fixture.run_for_ms(1_000);
        let batches = fixture.batch_count();
        let start = fixture.machine.now();
        fixture.commit(&mut transaction).unwrap();
        assert!(fixture.machine.now() < start.after(Duration::from_secs(1)));
        assert_eq!(fixture.batch_count(), batches + 1, "the record lingered before");
    }
}

// CASES: SN36, TM29.
#[test]
fn abort_fails_records_that_were_not_sent() {
    let mut fixture = initialized(1);
    let mut transaction = fixture.begin();
    for _ in 0..3 {
        let fault = RequestFault::Respond(ErrorCode::CONCURRENT_TRANSACTIONS);
        fixture.plan(ApiKey::ADD_PARTITIONS_TO_TXN, fault);
    }
    let delivery = fixture.send(0, "a");
    fixture.run_for_ms(10);
    fixture.take_arrived();
    fixture.abort_transaction(&mut transaction).unwrap();
    let e = delivery.try_result().unwrap().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TransactionAborted, "{e}");
    assert!(!fixture.take_arrived().contains(&ApiKey::END_TXN), "nothing was added (CASES TM16)");
    fixture.cluster.request_faults = Default::default();
    fixture.commit_one("b");
    assert_eq!(fixture.committed_values(), ["b"]);
}

// CASES: TM11, F3.15.
#[test]
fn lost_transactional_request_is_sent_again_after_find_coordinator() {
    let apis = [
        (1, ApiKey::INIT_PRODUCER_ID),
        (1, ApiKey::ADD_PARTITIONS_TO_TXN),
        (1, ApiKey::END_TXN),
        (2, ApiKey::INIT_PRODUCER_ID),
        (2, ApiKey::END_TXN),
    ];
    for (version, api) in apis {
        for fault in FAULTS_BEFORE_A_LOOKUP {
            let mut fixture = uninitialized(version, &[]);
            fixture.plan(api, fault);
            fixture.init().unwrap();
            fixture.commit_one("a");
            fixture.commit_one("b");
            fixture.assert_sent_again_after_a_lookup(api, &format!("{version} {fault:?}"));
            assert_eq!(fixture.committed_values(), ["a", "b"]);
        }
    }
}

// CASES: TM15.
#[test]
fn partition_that_may_not_be_added_fails_the_transaction() {
    let mut fixture = initialized(1);
    let mut transaction = fixture.begin();
    let fault = RequestFault::Respond(ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    fixture.plan(ApiKey::ADD_PARTITIONS_TO_TXN, fault);
    let delivery = fixture.send(0, "a");
    let e = fixture.commit(&mut transaction).unwrap_err();
    assert!(e.requires_abort() && source_of(&e).contains("t-0"), "{e}: {}", source_of(&e));
    assert!(delivery.try_result().unwrap().is_err());
    let e = fixture.try_send(0, "b").unwrap_err();
    assert!(e.requires_abort(), "{e}");
    fixture.abort_transaction(&mut transaction).unwrap();
    fixture.commit_one("c");
    assert_eq!(fixture.committed_values(), ["c"]);
}

// CASES: TM17.
#[test]
fn abort_sends_a_retried_batch_first() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let mut transaction = fixture.begin();
        let fault = FailBeforeAppend(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        fixture.push_batch_faults(&[Some(fault)]);
        let delivery = fixture.send(0, "a");
        fixture.wait_for_batches(1);
        fixture.abort_transaction(&mut transaction).unwrap();
        assert!(delivery.try_result().unwrap().is_ok(), "the log has the record");
        fixture.commit_one("b");
        assert_eq!(fixture.committed_values(), ["b"]);
    }
}

// CASES: TM20, TM21, F3.18.
#[test]
fn failed_batch_fails_the_commit_and_the_next_transaction_has_a_new_epoch() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        fixture.commit_one("a");
        let mut transaction = fixture.begin();
        let fault = FailBeforeAppend(ErrorCode::INVALID_PRODUCER_EPOCH);
        fixture.push_batch_faults(&[Some(fault)]);
        let delivery = fixture.send(0, "b");
        let e = fixture.commit(&mut transaction).unwrap_err();
        assert!(e.requires_abort() && !e.is_fatal(), "{e}");
        assert!(delivery.try_result().unwrap().is_err());
        fixture.take_arrived();
        fixture.abort_transaction(&mut transaction).unwrap();
        let bumps: &[ApiKey] = if version == 1 {
            &[ApiKey::END_TXN, ApiKey::INIT_PRODUCER_ID]
        } else {
            &[ApiKey::END_TXN]
        };
        assert_eq!(fixture.take_arrived(), bumps);
        fixture.commit_one("c");
        assert_eq!(fixture.committed_values(), ["a", "c"]);
    }
}

// CASES: KP11, F4.23.
#[test]
fn concurrent_transactions_on_produce_is_retried() {
    let mut fixture = initialized(2);
    let fault = FailBeforeAppend(ErrorCode::CONCURRENT_TRANSACTIONS);
    fixture.push_batch_faults(&[Some(fault), Some(fault)]);
    fixture.commit_one("a");
    assert_eq!(fixture.committed_values(), ["a"]);
    let [first, second, ..] = fixture.batch_arrivals_ms()[..] else { panic!("two attempts") };
    assert!(second - first < 25.0, "the first backoff is short: {}", second - first);
}

// CASES: KP9, TM18.
#[test]
fn init_that_timed_out_can_be_repeated() {
    let mut fixture = uninitialized(2, &[("max.block.ms", "1000")]);
    fixture.stop_node_1();
    let e = fixture.init().unwrap_err();
    assert_eq!((e.kind(), e.is_retriable()), (ErrorKind::TransactionTimeout, true), "{e}");
    fixture.start_node_1();
    fixture.init().unwrap();
    fixture.commit_one("a");
}

#[test]
fn late_result_of_a_failed_init_does_not_replace_the_next_one() {
    let mut fixture = uninitialized(2, &[]);
    let refused = ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    fixture.plan(ApiKey::INIT_PRODUCER_ID, RequestFault::Respond(refused));
    let producer = fixture.producer.clone();
    let init = || Box::pin(producer.init_transactions_async());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let (mut first, mut late) = (init(), init());
    assert!(first.as_mut().poll(&mut cx).is_pending() && late.as_mut().poll(&mut cx).is_pending());
    fixture.run_for_ms(1000);
    assert!(matches!(first.as_mut().poll(&mut cx), std::task::Poll::Ready(Err(_))));
    let mut next = init();
    assert!(next.as_mut().poll(&mut cx).is_pending());
    assert!(matches!(late.as_mut().poll(&mut cx), std::task::Poll::Ready(Err(_))));
    // As a caller whose timeout has expired. Its call continues, and a repeated one waits for it.
    drop(next);
    fixture.run_for_ms(1000);
    fixture.init().unwrap();
}

// CASES: TM18, F3.19.
#[test]
fn commit_that_timed_out_continues_and_only_it_can_be_repeated() {
    for version in VERSIONS {
        let mut fixture = initialized_with(version, &[("max.block.ms", "1000")]);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        fixture.hold_responses();
        let e = fixture.commit(&mut transaction).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TransactionTimeout, "{e}");
        let e = fixture.abort_transaction(&mut transaction).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidTransactionState, "{e}");
        fixture.release_responses();
        fixture.commit(&mut transaction).unwrap();
        assert_eq!(fixture.committed_values(), ["a"]);
    }
}

/// As in `transaction = producer.begin_transaction()?`, which drops the old value last.
#[test]
fn drop_of_a_transaction_whose_commit_timed_out_leaves_the_next_one_open() {
    for version in VERSIONS {
        let mut fixture = initialized_with(version, &[("max.block.ms", "1000")]);
        let mut first = fixture.begin();
        fixture.send_and_wait(0, "a");
        fixture.hold_responses();
        let e = fixture.commit(&mut first).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TransactionTimeout, "{e}");
        fixture.release_responses();
        fixture.run_for_ms(1000);
        let mut second = fixture.begin();
        drop(first);
        fixture.send_and_wait(0, "b");
        fixture.commit(&mut second).unwrap();
        assert_eq!(fixture.committed_values(), ["a", "b"]);
    }
}

// CASES: SN34.
#[test]
fn close_commits_a_pending_commit_and_aborts_an_open_transaction() {
    for (version, commits) in [(1, true), (1, false), (2, true), (2, false)] {
        let mut fixture = initialized(version);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        if commits {
            let mut commit = std::pin::pin!(transaction.commit_async());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(commit.as_mut().poll(&mut cx).is_pending());
        }
        fixture.begin_close(Duration::from_secs(60));
        fixture.run_until_shutdown();
        assert_eq!(fixture.committed_values().len(), usize::from(commits));
        assert_eq!(fixture.logged_sequences(0).len(), 2, "one batch and one marker");
        if commits {
            // The repeated call has the result of the first one, also after the close.
            fixture.commit(&mut transaction).unwrap();
        }
        let e = fixture.commit(&mut transaction).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Closed, "{e}");
    }
}

// CASES: SN34, KP9.
#[test]
fn forced_close_fails_a_pending_commit() {
    let mut fixture = initialized(2);
    let mut transaction = fixture.begin();
    fixture.send_and_wait(0, "a");
    fixture.hold_responses();
    let mut commit = std::pin::pin!(transaction.commit_async());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(commit.as_mut().poll(&mut cx).is_pending());
    fixture.begin_close(Duration::ZERO);
    fixture.run_until_shutdown();
    let std::task::Poll::Ready(Err(e)) = commit.as_mut().poll(&mut cx) else {
        panic!("the commit has failed")
    };
    assert_eq!(e.kind(), ErrorKind::Closed, "{e}");
}

// CASES: SN40, TM27.
#[test]
fn transaction_abortable_fails_the_transaction_and_in_an_abort_the_producer() {
    let mut fixture = initialized(2);
    let mut transaction = fixture.begin();
    fixture.send_and_wait(0, "a");
    let fault = RequestFault::Respond(ErrorCode::TRANSACTION_ABORTABLE);
    fixture.plan(ApiKey::END_TXN, fault);
    let e = fixture.commit(&mut transaction).unwrap_err();
    assert!(e.requires_abort() && !e.is_fatal(), "{e}");
    fixture.plan(ApiKey::END_TXN, fault);
    let e = fixture.abort_transaction(&mut transaction).unwrap_err();
    assert!(e.is_fatal() && !e.requires_abort(), "{e}");
}

// CASES: TM19.
#[test]
fn fenced_producer_fails_every_call() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        fixture.plan(ApiKey::END_TXN, RequestFault::Respond(ErrorCode::PRODUCER_FENCED));
        let errors = [
            fixture.commit(&mut transaction).unwrap_err(),
            fixture.abort_transaction(&mut transaction).unwrap_err(),
            fixture.try_send(0, "b").unwrap_err(),
            fixture.init().unwrap_err(),
        ];
        for e in errors {
            assert!(e.is_fatal() && e.kind() == ErrorKind::Fenced, "{e}");
        }
        assert!(fixture.committed_values().is_empty());
    }
}

/// KAFKA-17754: a commit of version 1 whose response was lost arrives once more, in the next
/// transaction.
#[test]
fn late_commit_does_not_commit_the_next_transaction() {
    let mut fixture = initialized(1);
    fixture.plan(ApiKey::END_TXN, RequestFault::RepeatRequest);
    fixture.commit_one("a");
    let mut transaction = fixture.begin();
    fixture.send_and_wait(0, "b");
    let machine = fixture.machine.clone();
    assert!(fixture.cluster.deliver_late_request(&machine));
    fixture.abort_transaction(&mut transaction).unwrap();
    fixture.commit_one("c");
    assert_eq!(fixture.committed_values(), ["a", "c"]);
}

/// With version 1, a late AddPartitionsToTxn begins a transaction that no client ends, unless the
/// epoch is newer by then. The coordinator would fence the producer to end it.
#[test]
fn late_add_partitions_behind_a_commit_neither_begins_a_transaction_nor_fences() {
    for idle_ms in [10, 70_000] {
        let mut fixture = initialized(1);
        fixture.plan(ApiKey::ADD_PARTITIONS_TO_TXN, RequestFault::RepeatRequest);
        fixture.commit_one("a");
        fixture.run_for_ms(10);
        let machine = fixture.machine.clone();
        assert!(fixture.cluster.deliver_late_request(&machine));
        // At most longer than transaction.timeout.ms.
        fixture.run_for_ms(idle_ms);
        fixture.commit_one("b");
        assert_eq!(fixture.committed_values(), ["a", "b"]);
    }
}

/// The coordinator may not know of a transaction whose AddPartitionsToTxn was lost.
#[test]
fn abort_succeeds_if_the_coordinator_never_learned_of_the_transaction() {
    let mut fixture = initialized(1);
    fixture.commit_one("a");
    let mut transaction = fixture.begin();
    fixture.plan(ApiKey::ADD_PARTITIONS_TO_TXN, RequestFault::DelayRequest);
    fixture.send(0, "b");
    fixture.run_until(|f| !f.cluster.request_faults.late.is_empty());
    fixture.abort_transaction(&mut transaction).unwrap();
    fixture.commit_one("c");
    let machine = fixture.machine.clone();
    assert!(fixture.cluster.deliver_late_request(&machine));
    fixture.commit_one("d");
    assert_eq!(fixture.committed_values(), ["a", "c", "d"]);
}

// CASES: TM25.
#[test]
fn upgrade_to_version_2_ends_the_open_transaction_as_version_1() {
    let mut fixture = initialized(1);
    let mut transaction = fixture.begin();
    fixture.send_and_wait(0, "a");
    fixture.cluster.core.set_transaction_version(2);
    fixture.drop_connections();
    fixture.send_and_wait(0, "b");
    fixture.commit(&mut transaction).unwrap();
    fixture.take_arrived();
    fixture.commit_one("c");
    assert_eq!(fixture.take_arrived(), [ApiKey::INIT_PRODUCER_ID, ApiKey::END_TXN]);
    fixture.commit_one("d");
    assert_eq!(fixture.take_arrived(), [ApiKey::END_TXN]);
    assert_eq!(fixture.committed_values(), ["a", "b", "c", "d"]);
}

#[test]
fn dropped_transaction_is_aborted_before_the_next_one() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        drop(transaction);
        fixture.commit_one("b");
        assert_eq!(fixture.committed_values(), ["b"]);
    }
}

/// A `begin_transaction` that timed out while it waited for a new epoch can be made again.
#[test]
fn begin_that_timed_out_can_be_repeated() {
    let mut fixture = initialized_with(1, &[("max.block.ms", "1000")]);
    fixture.plan(ApiKey::END_TXN, RequestFault::LoseResponse);
    fixture.commit_one("a");
    fixture.hold_responses();
    let producer = fixture.producer.clone();
    let e = fixture.block_on(producer.begin_transaction_async()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TransactionTimeout, "{e}");
    assert!(e.to_string().contains("no transaction has begun"), "{e}");
    fixture.run_for_ms(10);
    fixture.release_responses();
    fixture.commit_one("b");
    assert_eq!(fixture.committed_values(), ["a", "b"]);
}

// CASES: TM22, SN38.
#[test]
fn expired_record_fails_the_commit() {
    for version in VERSIONS {
        let settings = [("delivery.timeout.ms", "1500"), ("request.timeout.ms", "1000")];
        let mut fixture = initialized_with(version, &settings);
        let mut transaction = fixture.begin();
        let fault = FailBeforeAppend(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
        fixture.push_batch_faults(&[Some(fault); 100]);
        let delivery = fixture.send(0, "a");
        let e = fixture.commit(&mut transaction).unwrap_err();
        assert!(e.requires_abort(), "{e}");
        let failed = fixture.wait_for(&delivery).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::DeliveryTimeout, "{failed}");
        fixture.abort_transaction(&mut transaction).unwrap();
    }
}

// CASES: KP10.
#[test]
fn record_that_send_refuses_fails_the_commit() {
    let mut fixture = initialized(2);
    let mut transaction = fixture.begin();
    fixture.send_and_wait(0, "a");
    let too_large = "x".repeat(2 << 20);
    assert_eq!(fixture.try_send(0, &too_large).unwrap_err().kind(), ErrorKind::RecordTooLarge);
    let e = fixture.commit(&mut transaction).unwrap_err();
    assert!(
        e.requires_abort() && source_of(&e).contains("max.request.size"),
        "{e}: {}",
        source_of(&e)
    );
    fixture.abort_transaction(&mut transaction).unwrap();
    assert!(fixture.committed_values().is_empty());
}

/// The coordinator aborts a transaction after `transaction.timeout.ms`; its records are not lost
/// silently.
#[test]
fn transaction_that_the_coordinator_aborted_cannot_be_committed() {
    for version in VERSIONS {
        let mut fixture = initialized_with(version, &[("transaction.timeout.ms", "2000")]);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        fixture.run_for_ms(30_000);
        let e = fixture.commit(&mut transaction).unwrap_err();
        assert!(e.is_fatal() && e.kind() == ErrorKind::Fenced, "{e}");
        assert!(fixture.committed_values().is_empty());
    }
}
