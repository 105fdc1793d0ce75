//! The transactional calls of the application, and how they wait for their results.
//!
//! A call posts an event with a [`TransactionCall`]. The sender's transaction manager completes the
//! call's [`CallResult`]. A caller that stops to wait, at its deadline or because it dropped its
//! future, stops nothing: the manager continues.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::consumer_offsets::ConsumedOffsets;
use crate::env::Env;
use crate::error::Error;
use crate::sync::{Mutex, wake_all};
use crate::time::Tick;
use crate::wakeup::waiters::DeadlineWaiter;

/// A call for the transaction manager.
#[derive(Debug)]
pub(crate) enum TransactionCall {
    /// `init_transactions`.
    Init(Arc<CallResult>),
    /// `begin_transaction`.
    Begin(Arc<CallResult>),
    /// `send_offsets` (Kafka's `sendOffsetsToTransaction`).
    SendOffsets(ConsumedOffsets, Arc<CallResult>),
    /// `commit` (Kafka's `commitTransaction`).
    Commit(Arc<CallResult>),
    /// `abort` (Kafka's `abortTransaction`).
    Abort(Arc<CallResult>),
    /// The caller of this `begin_transaction` has stopped to wait, or the application has dropped
    /// the transaction that it began. Another transaction may be open by now.
    Abandon(Arc<CallResult>),
    /// `send` did not accept a record of the transaction.
    SendFailed(Error),
}

impl TransactionCall {
    /// Completes the call with an error: the sender has ended.
    pub(crate) fn fail(self, error: &Error) {
        match self {
            TransactionCall::Init(call)
            | TransactionCall::Begin(call)
            | TransactionCall::SendOffsets(_, call)
            | TransactionCall::Commit(call)
            | TransactionCall::Abort(call) => call.complete(Err(error.clone())),
            // Their callers wait for no result.
            TransactionCall::Abandon(_) | TransactionCall::SendFailed(_) => {}
        }
    }
}

/// The result of a transactional call (Kafka's `TransactionalRequestResult`).
#[derive(Debug, Default)]
pub(crate) struct CallResult(Mutex<CallState>);

#[derive(Debug, Default)]
struct CallState {
    result: Option<Result<(), Error>>,
    wakers: Vec<Waker>,
}

impl CallResult {
    /// Sets the result and wakes the callers. Only the first result counts.
    pub(crate) fn complete(&self, result: Result<(), Error>) {
        let mut state = self.0.lock();
        if state.result.is_some() {
            return;
        }
        state.result = Some(result);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wake_all(wakers);
    }

    /// Returns whether the call has its result.
    pub(crate) fn is_complete(&self) -> bool {
        self.0.lock().result.is_some()
    }

    #[cfg(test)]
    pub(crate) fn result(&self) -> Option<Result<(), Error>> {
        self.0.lock().result.clone()
    }

    /// Returns the result, or stores the waker for it.
    fn poll(&self, waker: &Waker) -> Option<Result<(), Error>> {
        // Cloned before the lock: a waker is foreign code.
        let waker = waker.clone();
        let mut state = self.0.lock();
        if let Some(result) = &state.result {
            let result = result.clone();
            drop(state);
            return Some(result);
        }
        let is_new = !state.wakers.iter().any(|w| w.will_wake(&waker));
        if is_new {
            state.wakers.push(waker);
        }
        None
    }
}

/// Waits for a [`CallResult`]; `None` at the deadline.
pub(crate) struct CallFuture {
    pub(crate) call: Arc<CallResult>,
    pub(crate) waiter: Arc<DeadlineWaiter>,
    pub(crate) deadline: Tick,
    pub(crate) env: Arc<dyn Env>,
}

impl Future for CallFuture {
    type Output = Option<Result<(), Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The wakers are registered before the result is read: a result that comes between the two
        // wakes this caller.
        self.waiter.register(cx.waker());
        match self.call.poll(cx.waker()) {
            Some(result) => Poll::Ready(Some(result)),
            None if self.env.now() >= self.deadline => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(all(test, not(ottla_loom)))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn first_result_counts_and_each_caller_gets_it() {
        let call = CallResult::default();
        assert!(call.poll(Waker::noop()).is_none());
        call.complete(Ok(()));
        call.complete(Err(Error::closed()));
        for _ in 0..2 {
            assert!(matches!(call.poll(Waker::noop()), Some(Ok(()))));
        }
    }

    #[test]
    fn calls_that_wait_fail_when_the_sender_has_ended() {
        let call = Arc::<CallResult>::default();
        TransactionCall::Commit(call.clone()).fail(&Error::closed());
        let result = call.poll(Waker::noop()).unwrap();
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
        TransactionCall::Abandon(call).fail(&Error::closed());
    }
}
