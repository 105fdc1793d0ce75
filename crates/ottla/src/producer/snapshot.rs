//! Asks the sender for a [`Snapshot`].

use std::time::Duration;

use super::Producer;
use crate::error::Error;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wakeup::call_request::{CallFuture, call_request};
use crate::wakeup::event_queue::Event;

/// Introspection.
impl Producer {
    /// Returns what the producer does at this moment: its partitions with the reason why each
    /// waits, its connections, and the callers that wait.
    ///
    /// The producer's thread takes the snapshot after its current round, and the call waits for it,
    /// as long as a callback keeps that thread busy: use
    /// [`snapshot_timeout`](Self::snapshot_timeout) where one may. Without a call, the producer
    /// does nothing for it. Inside an async executor this blocks the executor's thread: use
    /// [`snapshot_async`](Self::snapshot_async).
    ///
    /// # Errors
    /// - [`ErrorKind::Closed`](crate::ErrorKind::Closed), or the error that ended the producer.
    /// - [`ErrorKind::WouldDeadlock`](crate::ErrorKind::WouldDeadlock) inside a callback.
    /// - [`ErrorKind::Forked`](crate::ErrorKind::Forked).
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        let future = self.request_snapshot("Producer::snapshot")?;
        // Without a deadline, only the result ends the wait.
        let context = &self.inner.accumulator.caller_context;
        context.block_on(future, None).unwrap_or_else(|_| Err(Error::closed()))
    }

    /// Like [`snapshot`](Self::snapshot), for at most `timeout`. Returns `None` if the producer's
    /// thread did not take it in time: a callback or the delivery handler keeps it busy.
    ///
    /// # Errors
    /// The errors of [`snapshot`](Self::snapshot).
    pub fn snapshot_timeout(&self, timeout: Duration) -> Result<Option<Snapshot>, Error> {
        let future = self.request_snapshot("Producer::snapshot_timeout")?;
        let context = &self.inner.accumulator.caller_context;
        let deadline = context.env.now().after(timeout);
        context.block_on(future, Some(deadline)).ok().transpose()
    }

    /// Like [`snapshot`](Self::snapshot), without blocking.
    ///
    /// # Errors
    /// The errors of [`snapshot`](Self::snapshot).
    pub async fn snapshot_async(&self) -> Result<Snapshot, Error> {
        self.request_snapshot("Producer::snapshot_async")?.await
    }

    fn request_snapshot(&self, operation: &str) -> Result<CallFuture<Snapshot>, Error> {
        self.inner.check_fork()?;
        self.inner.accumulator.caller_context.check_can_block(operation)?;
        let (request, future) = call_request();
        self.inner.accumulator.post(Event::Snapshot(request), Tick(0));
        Ok(future)
    }
}
