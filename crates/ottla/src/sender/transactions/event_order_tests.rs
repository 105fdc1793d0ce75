//! The manager alone, with events in an unusual order: a refusal after a drop, a commit after a
//! close.

use super::tests::{begun, error_of, make, manager, ready, result, some_error, step};
use super::*;
use crate::wakeup::lifecycle::Lifecycle;
use crate::wakeup::transaction_call::TransactionCall;

/// Returns a manager whose transaction was dropped after a failed record, and then aborted. The
/// epoch is not bumped yet.
fn bumping_after_an_abandoned_abort() -> TransactionManager {
    let mut manager = begun(false);
    manager.state.transaction_mut().unwrap().started = Started::Yes;
    manager.fail_transaction(&some_error());
    manager.abandon();
    assert_eq!(step(&manager), Some(Api::Abort));
    manager.finish();
    assert_eq!(manager.state.phase(), Phase::Initializing);
    manager
}

// CASES: SA5.
#[test]
fn calls_for_an_id_fail_if_no_broker_accepts_the_client_and_can_be_made_again() {
    let rejected = Error::authentication(None, "wrong password".to_owned());
    let mut manager = manager();
    let init = make(&mut manager, TransactionCall::Init);
    manager.fail_calls_for_an_id(&rejected);
    assert_eq!(error_of(&init).kind(), ErrorKind::Authentication);
    let init = make(&mut manager, TransactionCall::Init);
    manager.initialized();
    assert!(result(&init).unwrap().is_ok());
    // The epoch has to be bumped before the transaction begins.
    manager.state = State::Ready(state::Readiness { must_bump_epoch: true });
    let begin = make(&mut manager, TransactionCall::Begin);
    manager.fail_calls_for_an_id(&rejected);
    assert_eq!(error_of(&begin).kind(), ErrorKind::Authentication);
    let begin = make(&mut manager, TransactionCall::Begin);
    assert_eq!(step(&manager), Some(Api::InitProducerId));
    manager.initialized();
    assert!(result(&begin).unwrap().is_ok());
    // An open transaction may still end with other credentials, within the time-outs.
    let commit = make(&mut manager, TransactionCall::Commit);
    manager.fail_calls_for_an_id(&rejected);
    assert!(result(&commit).is_none());
}

/// A topic is created again while EndTxn is in flight: its partitions begin with a new epoch.
// CASES: TM23.
#[test]
fn sequences_that_are_lost_behind_end_txn_give_the_next_transaction_a_new_epoch() {
    let mut manager = begun(false);
    let transaction = manager.state.transaction_mut().unwrap();
    transaction.started = Started::Yes;
    let commit = make(&mut manager, TransactionCall::Commit);
    manager.state.transaction_mut().unwrap().is_ending = true;
    manager.lose_sequences(&some_error());
    assert!(result(&commit).is_none(), "the commit continues");
    manager.state.transaction_mut().unwrap().has_ended = true;
    manager.finish();
    assert!(result(&commit).unwrap().is_ok());
    assert_eq!(step(&manager), Some(Api::InitProducerId));
}

#[test]
fn refused_epoch_of_a_dropped_transaction_is_requested_again_by_the_next_call() {
    let mut manager = bumping_after_an_abandoned_abort();
    manager.fail_request(Api::InitProducerId, &some_error());
    assert_eq!(manager.state.phase(), Phase::Ready, "no request follows by itself");
    assert_eq!(step(&manager), None);
    let begin = make(&mut manager, TransactionCall::Begin);
    assert_eq!(step(&manager), Some(Api::InitProducerId));
    manager.fail_request(Api::InitProducerId, &some_error());
    assert_eq!(error_of(&begin).kind(), some_error().kind());
}

#[test]
fn call_that_waits_for_a_dropped_transaction_requests_its_refused_epoch_again() {
    let mut manager = bumping_after_an_abandoned_abort();
    let first = make(&mut manager, TransactionCall::Begin);
    let second = make(&mut manager, TransactionCall::Begin);
    manager.fail_request(Api::InitProducerId, &some_error());
    assert!(result(&first).is_none());
    let e = error_of(&second);
    assert_eq!(e.kind(), ErrorKind::InvalidTransactionState, "{e}");
    manager.initialized();
    assert!(result(&first).unwrap().is_ok());
}

#[test]
fn oldest_waiting_begin_opens_the_transaction_after_a_bump() {
    let mut manager = begun(false);
    let transaction = manager.state.transaction_mut().unwrap();
    (transaction.started, transaction.must_bump_epoch) = (Started::Yes, true);
    make(&mut manager, TransactionCall::Commit);
    manager.abandon();
    let first = make(&mut manager, TransactionCall::Begin);
    manager.finish();
    let later = make(&mut manager, TransactionCall::Begin);
    assert_eq!(error_of(&later).kind(), ErrorKind::InvalidTransactionState);
    manager.initialized();
    assert!(result(&first).unwrap().is_ok());
}

#[test]
fn calls_behind_a_close_report_the_close() {
    for call in [TransactionCall::Commit as fn(_) -> _, TransactionCall::Abort] {
        let mut manager = begun(true);
        manager.lifecycle.transition(&Lifecycle::Closing { deadline: Tick(1) });
        manager.abandon();
        assert_eq!(error_of(&make(&mut manager, call)).kind(), ErrorKind::Closed);
    }
    let mut manager = ready(true);
    let e = error_of(&make(&mut manager, TransactionCall::Commit));
    assert_eq!(e.kind(), ErrorKind::InvalidTransactionState, "{e}");
}
