//! The transaction manager (KIP-98, KIP-360, KIP-890): the states of the current transaction, and
//! the requests that lead from one to the next.
//!
//! It is the transactional part of Kafka's `TransactionManager`; `producer_state.rs` is the
//! idempotent part. The sender owns it. `calls.rs` handles the application's calls, `requests.rs`
//! sends the next request, `responses.rs` handles responses. At most one transactional request is
//! in flight.
//!
//! Four rules keep what a `read_committed` consumer sees whole:
//!
//! 1. EndTxn is sent only when no batch of the transaction is queued or in flight, and no batch is
//!    sent after it. A Produce request whose response was lost may still arrive later; its epoch
//!    and sequences show the broker that it does not belong to the next transaction.
//! 2. A record that fails, for any reason, fails its transaction. Only an abort follows.
//! 3. After a failed transaction, the next one has a new epoch. Its sequences begin at 0,
//!    regardless of those that the broker has seen.
//! 4. With version 1 of the protocol, a request whose response was lost may arrive later and change
//!    the next transaction. So the next transaction has a new epoch, even if a retry of the request
//!    has succeeded (KAFKA-17754). With version 2, each EndTxn bumps the epoch. The bump follows
//!    EndTxn at once. If the late request arrives between the two, the coordinator fences the
//!    producer: that is fatal, but no record is lost or seen twice.

mod batches;
mod calls;
mod outcome;
mod pacing;
mod parsed_response;
mod requests;
mod responses;
mod stall;
mod state;

use std::sync::Arc;

use ottla_protocol::ErrorCode;

use crate::client::SharedHealth;
use crate::collections::HashMap;
use crate::config::TransactionSettings;
use crate::error::{Error, ErrorKind};
use crate::snapshot::{TransactionSnapshot, TransactionState};
use crate::time::Tick;
use crate::wakeup::lifecycle::LifecycleCell;
use crate::wakeup::transaction_call::CallResult;
use outcome::Api;
use pacing::MarkerPacing;
use stall::RequestStall;
use state::{Calls, InitReason, Phase, Started, State, Transaction, TransactionVersion};

/// The transactional part of Kafka's `TransactionManager`.
#[derive(Debug)]
pub(crate) struct TransactionManager {
    settings: TransactionSettings,
    state: State,
    /// Calls of `begin_transaction` that wait for the end of the last transaction.
    waiting_begins: Calls,
    coordinators: Coordinators,
    request: PendingRequest,
    /// The version of the transaction that begins next, by the cluster's finalized features.
    version: TransactionVersion,
    /// Opened while a transaction accepts records.
    lifecycle: Arc<LifecycleCell>,
    /// Shows the errors of requests to the application.
    health: SharedHealth,
    pacing: MarkerPacing,
    /// Whether a change of the state concerns partitions that the ready tracker has cached.
    has_changed: bool,
    /// A transition that the table does not have.
    bug: Option<Error>,
}

/// What a coordinator is responsible for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum CoordinatorKey {
    /// The transactional id of this producer.
    Transaction,
    /// A consumer group.
    Group(String),
}

/// The coordinators that are known, by node id.
type Coordinators = HashMap<CoordinatorKey, i32>;

/// The request in flight, and when the next one may be sent.
#[derive(Debug, Default)]
struct PendingRequest {
    in_flight: Option<RequestInFlight>,
    not_before: Tick,
    /// Set while a request has failed and none has succeeded since.
    stall: Option<RequestStall>,
}

/// The transactional request in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestInFlight {
    node: i32,
    api: Api,
    /// The key whose coordinator FindCoordinator requests.
    coordinator: Option<CoordinatorKey>,
    /// The partitions that AddPartitionsToTxn names.
    partition_ids: Vec<u32>,
    /// The number of partitions that the response is for.
    partition_count: usize,
}

impl TransactionManager {
    pub(super) fn new(
        settings: TransactionSettings,
        lifecycle: Arc<LifecycleCell>,
        health: SharedHealth,
    ) -> TransactionManager {
        lifecycle.close_transaction(not_initialized());
        TransactionManager {
            settings,
            state: State::Uninitialized,
            waiting_begins: Vec::new(),
            coordinators: HashMap::default(),
            request: PendingRequest::default(),
            version: TransactionVersion::V1,
            lifecycle,
            health,
            pacing: MarkerPacing::default(),
            has_changed: false,
            bug: None,
        }
    }

    pub(super) fn transactional_id(&self) -> &str {
        &self.settings.transactional_id
    }

    /// Returns whether the current transaction uses version 2 of the protocol.
    pub(super) fn is_version_2(&self) -> bool {
        self.state.transaction().is_some_and(|t| t.version == TransactionVersion::V2)
    }

    /// Returns whether a batch of the partition can be sent.
    ///
    /// A batch that was sent before is sent again in every state but a fatal one: the broker may
    /// have it, so its response is needed before EndTxn.
    pub(super) fn can_drain(&self, partition_id: u32, is_retry: bool) -> bool {
        match &self.state {
            State::InTransaction(t) | State::Committing(t, _) => {
                is_retry || t.has_joined(partition_id)
            }
            State::Aborting(..) | State::AbortableError(..) => is_retry,
            _ => false,
        }
    }

    /// Returns whether a partition with a batch has to be added to the transaction.
    pub(super) fn must_add_partition(&self, partition_id: u32) -> bool {
        match &self.state {
            State::InTransaction(t) | State::Committing(t, _) => {
                !t.has_joined(partition_id) && !t.is_ending
            }
            _ => false,
        }
    }

    /// Adds a partition to the transaction with the next request (Kafka's `maybeAddPartition`).
    pub(super) fn add_partition(&mut self, partition_id: u32) {
        if self.must_add_partition(partition_id)
            && let Some(transaction) = self.state.transaction_mut()
        {
            transaction.partitions.requested.insert(partition_id);
        }
    }

    /// Notes that a Produce request is sent: with version 2, it starts the transaction.
    pub(super) fn on_produce(&mut self, now: Tick) {
        self.pacing.produce_sent(now);
        if let Some(transaction) = self.state.transaction_mut() {
            transaction.started = Started::Yes;
        }
    }

    /// Notes that a Produce request has a response.
    pub(super) fn on_produce_response(&mut self, now: Tick) {
        self.pacing.produce_completed(now);
    }

    /// Notes that the first request of a transaction was refused, because the coordinator still
    /// writes the markers of the last one.
    pub(super) fn on_concurrent_transactions(&mut self) {
        if self.is_version_2() {
            self.pacing.came_too_early();
        }
    }

    /// Returns when the first requests of the transaction may be sent, if that is later than now.
    pub(super) fn hold_until(&self, now: Tick) -> Option<Tick> {
        self.pacing.hold_until(now)
    }

    /// Returns whether new batches are part of a transaction. Others have to be failed.
    pub(super) fn accepts_batches(&self) -> bool {
        match &self.state {
            State::InTransaction(_) => true,
            State::Committing(t, _) => !t.is_ending,
            _ => false,
        }
    }

    /// Returns whether a commit waits for the batches of its transaction.
    pub(super) fn is_committing(&self) -> bool {
        matches!(self.state, State::Committing(..))
    }

    /// Notes that partitions have lost sequences: the next transaction needs a new epoch.
    pub(super) fn lose_sequences(&mut self, error: &Error) {
        match &mut self.state {
            State::Ready(readiness) => readiness.must_bump_epoch = true,
            // EndTxn is sent: its transaction is complete, and only the next one is concerned.
            State::Committing(transaction, _) if transaction.is_ending => {
                transaction.must_bump_epoch = true;
            }
            _ => self.fail_transaction(error),
        }
    }

    /// Returns the error of batches that are in no transaction, or in one that has failed.
    pub(super) fn unsent_batch_error(&self) -> Error {
        match &self.state {
            State::AbortableError(_, cause) => Error::transaction_failed(cause),
            State::Aborting(..) => Error::new(
                ErrorKind::TransactionAborted,
                "the transaction was aborted before the record was sent",
            ),
            _ => Error::new(
                ErrorKind::InvalidTransactionState,
                "the record is in no transaction: it was sent while another thread ended the \
                 transaction",
            ),
        }
    }

    /// Returns whether the sender may end: no commit or abort is pending.
    pub(super) fn is_idle(&self) -> bool {
        self.state.transaction().is_none()
            && !matches!(self.state, State::Initializing(InitReason::AfterAbort(_), _))
    }

    /// Fails the transaction because of a record that was not delivered, or a request that the
    /// coordinator refused.
    pub(super) fn fail_transaction(&mut self, error: &Error) {
        match self.take_state() {
            State::InTransaction(mut transaction) => {
                transaction.must_bump_epoch = true;
                self.enter_abortable_error(Phase::InTransaction, transaction, error, Vec::new());
            }
            State::Committing(mut transaction, calls) if !transaction.is_ending => {
                transaction.must_bump_epoch = true;
                self.enter_abortable_error(Phase::Committing, transaction, error, calls);
            }
            // The transaction has failed already, but more sequences may be lost.
            State::AbortableError(mut transaction, cause) => {
                transaction.must_bump_epoch = true;
                self.state = State::AbortableError(transaction, cause);
            }
            State::Aborting(mut transaction, calls) => {
                transaction.must_bump_epoch = true;
                self.state = State::Aborting(transaction, calls);
            }
            // A batch that was in no transaction.
            other => self.state = other,
        }
    }

    /// Moves to `AbortableError`, or on to `Aborting` if the application has dropped the
    /// transaction.
    fn enter_abortable_error(
        &mut self,
        from: Phase,
        mut transaction: Transaction,
        cause: &Error,
        calls: Calls,
    ) {
        let error = Error::transaction_failed(cause);
        tracing::warn!(
            name: "ottla.transaction_failed",
            target: "ottla::producer",
            transactional_id = &*self.settings.transactional_id,
            "the transaction has failed and has to be aborted: {cause}"
        );
        self.lifecycle.close_transaction(error.clone());
        complete(calls, &Err(error.clone()));
        transaction.fail_offsets(&error);
        transaction.is_ending = false;
        let is_abandoned = transaction.is_abandoned;
        self.set_state(from, State::AbortableError(transaction, cause.clone()));
        if is_abandoned {
            self.begin_abort(Vec::new());
        }
    }

    /// Ends everything with a fatal error: all calls fail with it.
    pub(super) fn fail_all(&mut self, error: &Error) {
        self.forget_stall();
        let result = Err(error.clone());
        complete(std::mem::take(&mut self.waiting_begins), &result);
        match std::mem::replace(&mut self.state, State::FatalError) {
            State::Initializing(reason, calls) => {
                complete(calls, &result);
                if let InitReason::AfterAbort(mut transaction) = reason {
                    transaction.fail_offsets(error);
                }
            }
            State::Committing(mut t, calls) | State::Aborting(mut t, calls) => {
                complete(calls, &result);
                t.fail_offsets(error);
            }
            State::InTransaction(mut t) | State::AbortableError(mut t, _) => t.fail_offsets(error),
            State::Uninitialized | State::Ready(_) | State::FatalError => {}
        }
        self.has_changed = true;
    }

    /// Takes the state out, to move its data into the next one. The caller sets a state again.
    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::FatalError)
    }

    /// Sets the state. A transition that the table does not have is a bug.
    fn set_state(&mut self, from: Phase, to: State) {
        let next = to.phase();
        if from.cause_of(next).is_none() {
            let message = format!(
                "the transaction manager moved from {from:?} to {next:?}; this is a bug of ottla, \
                 please report it"
            );
            self.bug = Some(Error::new(ErrorKind::Internal, message));
        }
        tracing::debug!(
            name: "ottla.transaction",
            target: "ottla::producer",
            transactional_id = &*self.settings.transactional_id,
            from = ?from,
            to = ?next,
            "transaction state"
        );
        self.state = to;
        self.has_changed = true;
    }

    /// Returns what the manager does now, without the producer id.
    pub(super) fn snapshot(&self) -> TransactionSnapshot {
        let error = match &self.state {
            State::AbortableError(_, cause) => Some(cause.to_string()),
            _ => self.lifecycle.fatal_error().map(ToString::to_string),
        };
        TransactionSnapshot {
            transactional_id: self.settings.transactional_id.clone(),
            state: self.state.phase().into(),
            producer_id: None,
            producer_epoch: None,
            coordinator: self.coordinators.get(&CoordinatorKey::Transaction).copied(),
            request_in_flight: self.request.in_flight.as_ref().map(|r| r.api.key().name()),
            coordinator_error: self.health.coordinator_error(),
            error,
        }
    }

    /// Returns whether cached states of partitions are out of date, and forgets it.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }
}

impl From<Phase> for TransactionState {
    fn from(phase: Phase) -> TransactionState {
        match phase {
            Phase::Uninitialized => TransactionState::Uninitialized,
            Phase::Initializing => TransactionState::Initializing,
            Phase::Ready => TransactionState::Ready,
            Phase::InTransaction => TransactionState::InTransaction,
            Phase::Committing => TransactionState::Committing,
            Phase::Aborting => TransactionState::Aborting,
            Phase::AbortableError => TransactionState::AbortableError,
            Phase::FatalError => TransactionState::FatalError,
        }
    }
}

/// Completes calls with the same result.
fn complete(calls: impl IntoIterator<Item = Arc<CallResult>>, result: &Result<(), Error>) {
    calls.into_iter().for_each(|call| call.complete(result.clone()));
}

fn not_initialized() -> Error {
    let message = "the producer is transactional: call init_transactions first";
    Error::new(ErrorKind::InvalidTransactionState, message)
}

fn no_transaction() -> Error {
    let message = "no transaction is open: call begin_transaction first";
    Error::new(ErrorKind::InvalidTransactionState, message)
}

/// Returns the error of a refused request. A fenced producer has a kind of its own.
fn refusal(api: &str, code: ErrorCode, broker_message: Option<&str>, broker: &str) -> Error {
    let error = Error::broker(code, broker_message, &format!("{api} failed at {broker}"));
    match code {
        ErrorCode::INVALID_PRODUCER_EPOCH => error.into_kind(ErrorKind::Fenced),
        _ => error,
    }
}

#[cfg(all(test, not(ottla_loom)))]
mod event_order_tests;
#[cfg(all(test, not(ottla_loom)))]
mod tests;
