//! The manager alone: calls, steps and outcomes, without requests. `ottla-sim` tests it with a
//! producer and brokers.

use std::fmt::Write as _;
use std::time::Duration;

use super::outcome::{Outcome, RULES, decide};
use super::requests::Step;
use super::*;
use crate::config::push_wrapped;
use crate::consumer_offsets::{ConsumedOffsets, ConsumerGroupMetadata, OffsetAndMetadata};
use crate::wakeup::lifecycle::Lifecycle;
use crate::wakeup::transaction_call::TransactionCall;

pub(super) fn manager() -> TransactionManager {
    let settings = TransactionSettings::for_tests("t-1", Duration::from_secs(60));
    TransactionManager::new(settings, Arc::default(), SharedHealth::default())
}

/// Returns a manager whose producer id is assigned.
pub(super) fn ready(is_version_2: bool) -> TransactionManager {
    let mut manager = manager();
    manager.set_version_2(is_version_2);
    make(&mut manager, TransactionCall::Init);
    manager.coordinators.insert(CoordinatorKey::Transaction, 1);
    assert_eq!(step(&manager), Some(Api::InitProducerId));
    manager.initialized();
    manager
}

/// Returns a manager with an open transaction.
pub(super) fn begun(is_version_2: bool) -> TransactionManager {
    begun_by(is_version_2).0
}

/// Returns a manager with an open transaction, and the call that has begun it.
pub(super) fn begun_by(is_version_2: bool) -> (TransactionManager, Arc<CallResult>) {
    let mut manager = ready(is_version_2);
    let begin = make(&mut manager, TransactionCall::Begin);
    assert!(result(&begin).unwrap().is_ok());
    assert!(manager.lifecycle.accepts_records());
    (manager, begin)
}

/// Makes a call and returns its result.
pub(super) fn make(
    manager: &mut TransactionManager,
    call: fn(Arc<CallResult>) -> TransactionCall,
) -> Arc<CallResult> {
    let result = Arc::<CallResult>::default();
    manager.handle_call(call(result.clone()));
    assert!(manager.bug.is_none(), "{:?}", manager.bug);
    result
}

pub(super) fn result(call: &CallResult) -> Option<Result<(), Error>> {
    call.result()
}

pub(super) fn error_of(call: &CallResult) -> Error {
    call.result().expect("the call has ended").expect_err("the call has failed")
}

/// Returns the request that the manager sends next, if no batch is left.
pub(super) fn step(manager: &TransactionManager) -> Option<Api> {
    match manager.next_step(false) {
        Step::Send(api, _) => Some(api),
        Step::Wait | Step::Finish => None,
    }
}

/// Ends the transaction, as the response to EndTxn does.
pub(super) fn end(manager: &mut TransactionManager) {
    manager.state.transaction_mut().unwrap().has_ended = true;
    manager.finish();
    assert!(manager.bug.is_none(), "{:?}", manager.bug);
}

pub(super) fn some_error() -> Error {
    Error::new(ErrorKind::DeliveryTimeout, "the record was not acknowledged")
}

// CASES: TM1.
#[test]
fn calls_are_refused_out_of_order() {
    let mut manager = manager();
    for call in [TransactionCall::Begin, TransactionCall::Commit, TransactionCall::Abort] {
        let e = error_of(&make(&mut manager, call));
        assert_eq!(e.kind(), ErrorKind::InvalidTransactionState, "{e}");
    }
    assert!(!manager.lifecycle.accepts_records());
    let mut manager = ready(true);
    let e = error_of(&make(&mut manager, TransactionCall::Init));
    assert!(e.to_string().contains("called before"), "{e}");
    let mut manager = begun(true);
    let e = error_of(&make(&mut manager, TransactionCall::Begin));
    assert!(e.to_string().contains("is open") && !e.is_fatal(), "{e}");
    assert_eq!(manager.state.phase(), Phase::InTransaction, "a wrong call changes nothing");
}

// CASES: TM2, F3.16.
#[test]
fn end_txn_waits_for_batches_and_partitions() {
    let mut manager = begun(false);
    manager.add_partition(7);
    let commit = make(&mut manager, TransactionCall::Commit);
    assert!(!manager.lifecycle.accepts_records());
    assert_eq!(step(&manager), Some(Api::AddPartitions));
    let transaction = manager.state.transaction_mut().unwrap();
    transaction.partitions.join([7]);
    transaction.started = Started::Yes;
    assert_eq!(manager.next_step(true), Step::Wait, "a batch is incomplete");
    assert_eq!(step(&manager), Some(Api::Commit));
    end(&mut manager);
    assert!(result(&commit).unwrap().is_ok());
    assert_eq!(manager.state.phase(), Phase::Ready);
}

// CASES: TM3, TM5.
#[test]
fn partitions_join_before_their_batches_are_sent() {
    let mut manager = begun(false);
    assert!(!manager.can_drain(7, false) && manager.must_add_partition(7));
    manager.add_partition(7);
    manager.state.transaction_mut().unwrap().partitions.join([7]);
    assert!(manager.can_drain(7, false) && !manager.must_add_partition(7));
    assert!(!manager.can_drain(8, false));
    manager.fail_transaction(&some_error());
    assert!(!manager.can_drain(7, false) && manager.can_drain(7, true), "only retries are sent");
    let manager = begun(true);
    assert!(manager.can_drain(7, false) && !manager.must_add_partition(7));
    assert_eq!(step(&manager), None, "version 2 has no AddPartitionsToTxn");
}

// CASES: TM16.
#[test]
fn transaction_without_batches_ends_without_a_request() {
    for (is_version_2, call) in [
        (false, TransactionCall::Commit as fn(_) -> _),
        (false, TransactionCall::Abort),
        (true, TransactionCall::Commit),
        (true, TransactionCall::Abort),
    ] {
        let mut manager = begun(is_version_2);
        let call = make(&mut manager, call);
        assert_eq!(manager.next_step(false), Step::Finish);
        manager.finish();
        assert!(result(&call).unwrap().is_ok());
        assert!(result(&make(&mut manager, TransactionCall::Begin)).unwrap().is_ok());
    }
}

// CASES: TM21, TM22, F3.18.
#[test]
fn failed_record_fails_the_commit_and_the_abort_gives_a_new_epoch() {
    let mut manager = begun(false);
    manager.on_produce(Tick(0));
    let commit = make(&mut manager, TransactionCall::Commit);
    manager.fail_transaction(&some_error());
    let e = error_of(&commit);
    assert!(e.requires_abort() && !e.is_fatal() && e.kind() == ErrorKind::TransactionFailed);
    assert!(std::error::Error::source(&e).unwrap().to_string().contains("not acknowledged"));
    let again = error_of(&make(&mut manager, TransactionCall::Commit));
    assert!(again.requires_abort(), "a commit stays impossible");
    let abort = make(&mut manager, TransactionCall::Abort);
    assert_eq!(step(&manager), Some(Api::Abort));
    // CASES TM21: an error during the abort changes nothing.
    manager.fail_transaction(&some_error());
    end(&mut manager);
    assert!(result(&abort).is_none());
    assert_eq!(step(&manager), Some(Api::InitProducerId), "version 1 bumps the epoch");
    manager.initialized();
    assert!(result(&abort).unwrap().is_ok());

    let mut manager = begun(true);
    manager.on_produce(Tick(0));
    manager.fail_transaction(&some_error());
    let abort = make(&mut manager, TransactionCall::Abort);
    end(&mut manager);
    assert!(result(&abort).unwrap().is_ok(), "EndTxn of version 2 has bumped the epoch");
}

/// A request whose response was lost may arrive in the next transaction (KAFKA-17754).
#[test]
fn lost_response_of_version_1_bumps_the_epoch_before_the_next_transaction() {
    let mut manager = begun(false);
    manager.on_produce(Tick(0));
    make(&mut manager, TransactionCall::Commit);
    manager.state.transaction_mut().unwrap().must_bump_epoch = true;
    end(&mut manager);
    assert_eq!(step(&manager), Some(Api::InitProducerId), "at once");
    let begin = make(&mut manager, TransactionCall::Begin);
    assert!(result(&begin).is_none());
    assert_eq!(step(&manager), Some(Api::InitProducerId));
    manager.initialized();
    assert!(result(&begin).unwrap().is_ok());
    assert_eq!(manager.state.phase(), Phase::InTransaction);
}

#[test]
fn bump_that_fails_before_the_next_transaction_is_repeated_when_it_begins() {
    let (mut manager, first) = begun_by(false);
    manager.on_produce(Tick(0));
    make(&mut manager, TransactionCall::Commit);
    manager.handle_call(TransactionCall::Abandon(first));
    // It waits for the dropped transaction, and then for the epoch.
    let begin = make(&mut manager, TransactionCall::Begin);
    manager.state.transaction_mut().unwrap().must_bump_epoch = true;
    end(&mut manager);
    assert!(result(&begin).is_none());
    assert_eq!(step(&manager), Some(Api::InitProducerId));
    manager.fail_request(Api::InitProducerId, &some_error());
    error_of(&begin);
    assert_eq!(manager.state.phase(), Phase::Ready);
    let begin = make(&mut manager, TransactionCall::Begin);
    manager.initialized();
    assert!(result(&begin).unwrap().is_ok());
}

// CASES: TM25, F4.20.
#[test]
fn upgrade_ends_the_transaction_as_version_1_and_bumps_the_epoch_once() {
    let mut manager = begun(false);
    manager.set_version_2(true);
    assert!(!manager.is_version_2());
    make(&mut manager, TransactionCall::Commit);
    manager.finish();
    let begin = make(&mut manager, TransactionCall::Begin);
    assert_eq!(step(&manager), Some(Api::InitProducerId));
    manager.initialized();
    assert!(result(&begin).unwrap().is_ok() && manager.is_version_2());
    make(&mut manager, TransactionCall::Commit);
    manager.finish();
    assert!(result(&make(&mut manager, TransactionCall::Begin)).unwrap().is_ok());
}

// CASES: TM10.
#[test]
fn offsets_go_to_the_coordinator_of_the_group() {
    for is_version_2 in [false, true] {
        let mut manager = begun(is_version_2);
        let call = Arc::<CallResult>::default();
        let group = ConsumerGroupMetadata::new("g");
        let offsets = vec![OffsetAndMetadata::new("t", 0, 5)];
        let consumed = ConsumedOffsets { group, offsets };
        manager.handle_call(TransactionCall::SendOffsets(consumed, call.clone()));
        if !is_version_2 {
            assert_eq!(step(&manager), Some(Api::AddOffsets));
            manager.state.transaction_mut().unwrap().offsets[0].is_group_added = true;
        }
        let key = CoordinatorKey::Group("g".to_owned());
        assert_eq!(manager.next_step(false), Step::Send(Api::TxnOffsetCommit, key));
        make(&mut manager, TransactionCall::Abort);
        assert_eq!(error_of(&call).kind(), ErrorKind::TransactionAborted);
    }
}

#[test]
fn dropped_transaction_is_aborted_and_the_next_begin_waits() {
    let (mut manager, begin) = begun_by(true);
    manager.on_produce(Tick(0));
    manager.handle_call(TransactionCall::Abandon(begin));
    assert_eq!(step(&manager), Some(Api::Abort));
    let begin = make(&mut manager, TransactionCall::Begin);
    assert!(result(&begin).is_none());
    end(&mut manager);
    assert!(result(&begin).unwrap().is_ok());
}

#[test]
fn dropped_commit_continues_and_is_aborted_if_it_fails() {
    let (mut manager, begin) = begun_by(true);
    manager.on_produce(Tick(0));
    make(&mut manager, TransactionCall::Commit);
    manager.handle_call(TransactionCall::Abandon(begin));
    assert_eq!(step(&manager), Some(Api::Commit));
    let begin = make(&mut manager, TransactionCall::Begin);
    manager.fail_transaction(&some_error());
    assert_eq!(step(&manager), Some(Api::Abort));
    end(&mut manager);
    assert!(result(&begin).unwrap().is_ok());
}

/// The commit ended after its call had timed out, and the next transaction began, before the
/// application dropped the first one.
#[test]
fn drop_of_a_transaction_that_has_ended_leaves_the_next_one_open() {
    for is_version_2 in [false, true] {
        let (mut manager, first) = begun_by(is_version_2);
        manager.on_produce(Tick(0));
        make(&mut manager, TransactionCall::Commit);
        end(&mut manager);
        let second = make(&mut manager, TransactionCall::Begin);
        manager.handle_call(TransactionCall::Abandon(first));
        assert_eq!(manager.state.phase(), Phase::InTransaction);
        assert!(manager.lifecycle.accepts_records());
        manager.handle_call(TransactionCall::Abandon(second));
        assert_eq!(manager.state.phase(), Phase::Aborting);
    }
}

#[test]
fn cancelled_begin_leaves_no_open_transaction() {
    let mut manager = ready(true);
    let begin = make(&mut manager, TransactionCall::Begin);
    manager.handle_call(TransactionCall::Abandon(begin));
    assert_eq!(manager.next_step(false), Step::Finish);
    manager.finish();
    assert_eq!(manager.state.phase(), Phase::Ready);
    // One that still waits for the epoch.
    manager.state = State::Ready(state::Readiness { must_bump_epoch: true });
    let begin = make(&mut manager, TransactionCall::Begin);
    manager.handle_call(TransactionCall::Abandon(begin));
    manager.initialized();
    assert_eq!(manager.state.phase(), Phase::Ready);
}

// CASES: KP10.
#[test]
fn record_that_send_refused_fails_the_transaction() {
    let mut manager = begun(true);
    manager.handle_call(TransactionCall::SendFailed(some_error()));
    assert_eq!(manager.state.phase(), Phase::AbortableError);
    assert!(manager.lifecycle.error_for_new_call().requires_abort());
    let mut manager = ready(true);
    manager.handle_call(TransactionCall::SendFailed(some_error()));
    assert_eq!(manager.state.phase(), Phase::Ready, "no transaction is open");
}

// CASES: TM14, TM18.
#[test]
fn refused_init_can_be_repeated() {
    let mut manager = manager();
    let first = make(&mut manager, TransactionCall::Init);
    let second = make(&mut manager, TransactionCall::Init);
    manager.fail_request(Api::InitProducerId, &some_error());
    assert!(!error_of(&first).requires_abort());
    error_of(&second);
    let third = make(&mut manager, TransactionCall::Init);
    manager.initialized();
    assert!(result(&third).unwrap().is_ok());
}

// CASES: TM4.
#[test]
fn first_request_of_a_transaction_has_a_short_backoff() {
    let backoff = Duration::from_millis(100);
    let mut manager = begun(false);
    let wait = |m: &TransactionManager, api, code| m.retry_backoff(api, code, backoff).as_millis();
    let concurrent = ErrorCode::CONCURRENT_TRANSACTIONS;
    assert_eq!(wait(&manager, Api::AddPartitions, concurrent), 20);
    let other = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS;
    assert_eq!(wait(&manager, Api::AddPartitions, other), 100);
    assert_eq!(wait(&manager, Api::AddOffsets, concurrent), 20);
    assert_eq!(wait(&manager, Api::Commit, concurrent), 100);
    manager.state.transaction_mut().unwrap().started = Started::Yes;
    assert_eq!(wait(&manager, Api::AddPartitions, concurrent), 100);
    assert_eq!(wait(&manager, Api::AddOffsets, concurrent), 100);
    assert_eq!(wait(&manager, Api::TxnOffsetCommit, concurrent), 20);
    assert_eq!(wait(&manager, Api::TxnOffsetCommit, other), 100);
}

/// A call may be in the queue when the producer fails or closes.
#[test]
fn late_calls_fail_with_the_error_that_ended_the_producer() {
    let mut manager = begun(true);
    let fenced = refusal("EndTxn", ErrorCode::PRODUCER_FENCED, None, "broker 1");
    manager.lifecycle.transition(&Lifecycle::Failed(fenced.clone()));
    manager.fail_all(&fenced);
    for call in [TransactionCall::Init, TransactionCall::Begin, TransactionCall::Commit] {
        assert_eq!(error_of(&make(&mut manager, call)).kind(), ErrorKind::Fenced);
    }
    let mut manager = ready(true);
    manager.lifecycle.transition(&Lifecycle::Closing { deadline: Tick::NEVER });
    assert_eq!(error_of(&make(&mut manager, TransactionCall::Begin)).kind(), ErrorKind::Closed);
}

/// After a lost response, the coordinator may know of no transaction. That is no error.
#[test]
fn abort_of_a_transaction_that_possibly_started_ends_with_a_new_epoch() {
    let outcome = |in_doubt| decide(Api::Abort, ErrorCode::INVALID_TXN_STATE, in_doubt).outcome;
    assert_eq!((outcome(true), outcome(false)), (Outcome::BumpEpoch, Outcome::Fatal));
    let mut manager = begun(false);
    let transaction = manager.state.transaction_mut().unwrap();
    (transaction.started, transaction.must_bump_epoch) = (Started::Possibly, true);
    let abort = make(&mut manager, TransactionCall::Abort);
    assert_eq!(step(&manager), Some(Api::Abort));
    manager.finish();
    assert_eq!(step(&manager), Some(Api::InitProducerId));
    manager.initialized();
    assert!(result(&abort).unwrap().is_ok());
}

// CASES: TM26, F3.13.
#[test]
fn transition_that_the_table_does_not_have_is_a_bug() {
    let mut manager = manager();
    manager.set_state(Phase::Ready, State::Uninitialized);
    assert!(manager.bug.take().unwrap().to_string().contains("bug of ottla"));
}

#[test]
fn fatal_error_ends_every_call() {
    let mut manager = begun(true);
    let commit = make(&mut manager, TransactionCall::Commit);
    let fenced = refusal("EndTxn", ErrorCode::PRODUCER_FENCED, None, "broker 1");
    assert!(fenced.is_fatal() && fenced.kind() == ErrorKind::Fenced);
    manager.fail_all(&fenced);
    assert_eq!(error_of(&commit).kind(), ErrorKind::Fenced);
    assert!(manager.is_idle() && !manager.can_drain(1, true));
}

// CASES: TM13, TM14, TM19, TM27, F3.17.
#[test]
fn codes_are_fatal_abortable_or_retriable_as_in_java() {
    use ErrorCode as E;
    let all = [
        Api::FindCoordinator,
        Api::InitProducerId,
        Api::AddPartitions,
        Api::AddOffsets,
        Api::TxnOffsetCommit,
        Api::Commit,
        Api::Abort,
    ];
    let outcome = |api, code| decide(api, code, false).outcome;
    for api in all {
        assert_eq!(outcome(api, E::NONE), Outcome::Done);
        assert_eq!(outcome(api, E::PRODUCER_FENCED), Outcome::Fatal);
        assert_eq!(outcome(api, E::INVALID_PRODUCER_EPOCH), Outcome::Fatal);
        assert_eq!(outcome(api, E::COORDINATOR_LOAD_IN_PROGRESS), Outcome::Retry);
        let expected = if api == Api::Abort { Outcome::Fatal } else { Outcome::Abortable };
        assert_eq!(outcome(api, E::TRANSACTION_ABORTABLE), expected);
        let expected = if api == Api::InitProducerId { Outcome::Abortable } else { Outcome::Fatal };
        assert_eq!(outcome(api, E::TRANSACTIONAL_ID_AUTHORIZATION_FAILED), expected);
        if api != Api::FindCoordinator {
            assert_eq!(outcome(api, E::NOT_COORDINATOR), Outcome::FindCoordinator);
        }
        if !matches!(api, Api::AddPartitions) {
            assert_eq!(outcome(api, E::UNKNOWN_SERVER_ERROR), Outcome::Fatal);
        }
    }
    assert_eq!(outcome(Api::AddOffsets, E::CONCURRENT_TRANSACTIONS), Outcome::Retry);
    assert_eq!(outcome(Api::TxnOffsetCommit, E::ILLEGAL_GENERATION), Outcome::Abortable);
    assert_eq!(outcome(Api::TxnOffsetCommit, E::FENCED_INSTANCE_ID), Outcome::Abortable);
    assert_eq!(outcome(Api::TxnOffsetCommit, E::UNSUPPORTED_FOR_MESSAGE_FORMAT), Outcome::Fatal);
    assert_eq!(outcome(Api::AddPartitions, E::OPERATION_NOT_ATTEMPTED), Outcome::NotAttempted);
    assert_eq!(outcome(Api::Abort, E::UNKNOWN_PRODUCER_ID), Outcome::BumpEpoch);
    assert_eq!(outcome(Api::Commit, E::INVALID_TXN_STATE), Outcome::Fatal);
}

#[test]
fn transaction_tables_in_docs_are_up_to_date() {
    let mut page = String::from(
        "# Transactions: states and error codes\n\nA test writes this page from the tables in \
         `crates/ottla/src/sender/transactions/`.\n`ARCHITECTURE.md` describes the parts.\n\n\
         ## Transitions\n\nAny other transition is a bug, and ends the producer with an error \
         that says so.\n\n| from | to | cause |\n|---|---|---|\n",
    );
    for from in Phase::ALL {
        for to in Phase::ALL.into_iter().filter(|to| *to != Phase::FatalError) {
            if let Some(cause) = from.cause_of(to) {
                let cause = cause.replace("  ", " ");
                writeln!(page, "| {from:?} | {to:?} | {cause} |").unwrap();
            }
        }
    }
    let cause = Phase::Ready.cause_of(Phase::FatalError).unwrap();
    writeln!(page, "| any | FatalError | {cause} |").unwrap();
    page.push_str(
        "\n## Error codes of transactional requests\n\n\
         The first rule that applies decides. `Commit` and `Abort` are EndTxn requests, and\n\
         `AddPartitions` and `AddOffsets` are AddPartitionsToTxn and AddOffsetsToTxn.\n\n\
         The outcomes:\n\n\
         - **Done**: the request has succeeded.\n\
         - **Retry**: the client sends the request again after the backoff.\n\
         - **FindCoordinator**: the client looks up the coordinator, and sends the request again.\n\
         - **NotAttempted**: the error of another partition decides.\n\
         - **BumpEpoch**: nothing is left to abort, and the epoch is bumped.\n\
         - **Abortable**: the transaction fails and has to be aborted. If none is open, the call \
         fails.\n\
         - **Fatal**: the producer fails.\n\n",
    );
    for (i, rule) in RULES.iter().enumerate() {
        let apis: Vec<String> = rule.apis.iter().map(|api| format!("{api:?}")).collect();
        let apis = if apis.is_empty() { "all requests".to_owned() } else { apis.join(", ") };
        let text = format!(
            "{}. **{}** in {apis}: {:?}. {}",
            i + 1,
            rule.code_names(),
            rule.outcome,
            rule.reason
        );
        push_wrapped(&mut page, text.trim_end(), "   ");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/TRANSACTIONS.md");
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).expect("docs/TRANSACTIONS.md can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/TRANSACTIONS.md is out of date: run with OTTLA_WRITE_DOCS=1");
}
