//! The application's calls: `init_transactions`, `begin_transaction`, `send_offsets`, `commit` and
//! `abort`.

use std::sync::Arc;

use super::outcome::Api;
use super::state::{
    InitReason, PendingOffsets, Phase, Readiness, State, Transaction, TransactionVersion,
};
use super::{Calls, TransactionManager, complete, no_transaction, not_initialized};
use crate::consumer_offsets::ConsumedOffsets;
use crate::error::{Error, ErrorKind};
use crate::wakeup::transaction_call::{CallResult, TransactionCall};

impl TransactionManager {
    /// Handles a call.
    pub(in crate::sender) fn handle_call(&mut self, call: TransactionCall) {
        // The call was posted before the error.
        if matches!(self.state, State::FatalError) {
            return call.fail(&self.lifecycle.error_for_new_call());
        }
        match call {
            TransactionCall::Init(call) => self.init(call),
            TransactionCall::Begin(call) => self.begin(call),
            TransactionCall::SendOffsets(consumed, call) => self.send_offsets(consumed, call),
            TransactionCall::Commit(call) => self.commit(call),
            TransactionCall::Abort(call) => self.abort(call),
            TransactionCall::Abandon(begin) => self.abandon_begun_by(&begin),
            TransactionCall::SendFailed(error) => {
                if matches!(self.state, State::InTransaction(_)) {
                    self.fail_transaction(&error);
                }
            }
        }
    }

    /// Sets the version of the protocol for the next transaction (CASES F4.20).
    pub(in crate::sender) fn set_version_2(&mut self, is_finalized: bool) {
        let version = if is_finalized { TransactionVersion::V2 } else { TransactionVersion::V1 };
        if version == self.version {
            return;
        }
        // After an upgrade, the epoch of version 1 is bumped once (CASES TM25).
        if version == TransactionVersion::V2
            && let State::Ready(readiness) = &mut self.state
        {
            readiness.must_bump_epoch = true;
        }
        self.version = version;
    }

    fn init(&mut self, call: Arc<CallResult>) {
        match &mut self.state {
            State::Uninitialized => {
                let state = State::Initializing(InitReason::First, vec![call]);
                self.set_state(Phase::Uninitialized, state);
            }
            // The call was repeated after it timed out.
            State::Initializing(InitReason::First, calls) => calls.push(call),
            _ => call.complete(Err(Error::new(
                ErrorKind::InvalidTransactionState,
                "init_transactions was called before",
            ))),
        }
    }

    fn begin(&mut self, call: Arc<CallResult>) {
        // The call was posted before the close.
        if !self.lifecycle.is_running() {
            return call.complete(Err(self.lifecycle.error_for_new_call()));
        }
        match &mut self.state {
            State::Ready(Readiness { must_bump_epoch: false }) => {
                self.open_transaction(Phase::Ready, call);
            }
            State::Ready(_) => {
                let state = State::Initializing(InitReason::Begin, vec![call]);
                self.set_state(Phase::Ready, state);
            }
            // The caller that began the bump has stopped to wait.
            State::Initializing(InitReason::Begin, calls) if calls.is_empty() => calls.push(call),
            // The last transaction ends in the background.
            State::Committing(t, _) | State::Aborting(t, _) if t.is_abandoned => {
                self.waiting_begins.push(call);
            }
            State::Initializing(InitReason::AfterAbort(t), _) if t.is_abandoned => {
                self.waiting_begins.push(call);
            }
            State::Uninitialized | State::Initializing(InitReason::First, _) => {
                call.complete(Err(not_initialized()));
            }
            _ => call.complete(Err(Error::new(
                ErrorKind::InvalidTransactionState,
                "a transaction is open: commit or abort it before the next one",
            ))),
        }
    }

    /// Opens a transaction: from now on the producer accepts records.
    pub(super) fn open_transaction(&mut self, from: Phase, call: Arc<CallResult>) {
        let transaction = Transaction::new(self.version, call.clone());
        self.set_state(from, State::InTransaction(transaction));
        self.lifecycle.open_transaction();
        call.complete(Ok(()));
    }

    /// Forgets a `begin_transaction` that waits, and abandons the transaction that it has begun: no
    /// caller can end it any more. A transaction of another call stays open.
    fn abandon_begun_by(&mut self, begin: &Arc<CallResult>) {
        self.waiting_begins.retain(|waiting| !Arc::ptr_eq(waiting, begin));
        if let State::Initializing(InitReason::Begin, calls) = &mut self.state {
            calls.retain(|waiting| !Arc::ptr_eq(waiting, begin));
        }
        let current = match &self.state {
            State::Initializing(InitReason::AfterAbort(transaction), _) => Some(transaction),
            state => state.transaction(),
        };
        if current.is_some_and(|t| Arc::ptr_eq(&t.begun_by, begin)) {
            self.abandon();
        }
    }

    fn send_offsets(&mut self, consumed: ConsumedOffsets, call: Arc<CallResult>) {
        match &mut self.state {
            State::InTransaction(transaction) => {
                let offsets = PendingOffsets { consumed, is_group_added: false, call };
                transaction.offsets.push_back(offsets);
            }
            State::AbortableError(_, cause) => {
                call.complete(Err(Error::transaction_failed(cause)));
            }
            _ => call.complete(Err(self.no_transaction_error())),
        }
    }

    fn commit(&mut self, call: Arc<CallResult>) {
        match self.take_state() {
            State::InTransaction(transaction) => {
                self.lifecycle.close_transaction(ending("committed"));
                let state = State::Committing(transaction, vec![call]);
                self.set_state(Phase::InTransaction, state);
            }
            State::AbortableError(transaction, cause) => {
                call.complete(Err(Error::transaction_failed(&cause)));
                self.state = State::AbortableError(transaction, cause);
            }
            other => {
                self.state = other;
                call.complete(Err(self.no_transaction_error()));
            }
        }
    }

    fn abort(&mut self, call: Arc<CallResult>) {
        match &self.state {
            State::InTransaction(_) | State::AbortableError(..) => self.begin_abort(vec![call]),
            _ => call.complete(Err(self.no_transaction_error())),
        }
    }

    /// Begins to abort the open transaction, if there is one.
    pub(super) fn begin_abort(&mut self, calls: Calls) {
        let (from, mut transaction) = match self.take_state() {
            State::InTransaction(transaction) => (Phase::InTransaction, transaction),
            State::AbortableError(transaction, _) => (Phase::AbortableError, transaction),
            other => {
                self.state = other;
                return complete(calls, &Err(no_transaction()));
            }
        };
        self.lifecycle.close_transaction(ending("aborted"));
        let message = "the transaction was aborted before the offsets were added to it";
        transaction.fail_offsets(&Error::new(ErrorKind::TransactionAborted, message));
        // A partition that was not added yet has no batch that was sent.
        transaction.partitions.requested.clear();
        self.set_state(from, State::Aborting(transaction, calls));
    }

    /// The application has dropped the transaction, or closes the producer: it is aborted, unless a
    /// commit is pending.
    pub(in crate::sender) fn abandon(&mut self) {
        if let Some(transaction) = self.state.transaction_mut() {
            transaction.is_abandoned = true;
        }
        if let State::Initializing(InitReason::AfterAbort(transaction), _) = &mut self.state {
            transaction.is_abandoned = true;
        }
        if matches!(self.state, State::InTransaction(_) | State::AbortableError(..)) {
            self.begin_abort(Vec::new());
        }
    }

    /// A broker has rejected this client, and no other is connected: calls that wait for a producer
    /// id fail with the error, as the records of other producers do (CASES SA5). They can be made
    /// again.
    pub(in crate::sender) fn fail_calls_for_an_id(&mut self, error: &Error) {
        // The response to a request in flight, or its loss, comes first.
        let is_waiting = self.request.in_flight.is_none();
        if is_waiting
            && let State::Initializing(InitReason::First | InitReason::Begin, _) = self.state
        {
            self.forget_stall();
            self.fail_request(Api::InitProducerId, error);
        }
    }

    /// Lets the oldest waiting `begin_transaction` continue, after the last transaction has ended.
    /// The others fail, because one transaction can be open.
    pub(super) fn begin_waiting(&mut self) {
        if self.waiting_begins.is_empty() {
            return;
        }
        let call = self.waiting_begins.remove(0);
        self.begin(call);
        let has_begun = match &self.state {
            State::InTransaction(_) => true,
            State::Initializing(InitReason::Begin, calls) => !calls.is_empty(),
            _ => false,
        };
        if has_begun {
            for call in std::mem::take(&mut self.waiting_begins) {
                self.begin(call);
            }
        }
    }

    /// The error of a call that needs an open transaction. A close may have aborted it since the
    /// call was posted.
    fn no_transaction_error(&self) -> Error {
        if self.lifecycle.is_running() {
            no_transaction()
        } else {
            self.lifecycle.error_for_new_call()
        }
    }
}

/// The error of a record that is sent while the transaction ends.
fn ending(how: &str) -> Error {
    let message = format!("the transaction is being {how}; begin another one first");
    Error::new(ErrorKind::InvalidTransactionState, message)
}
