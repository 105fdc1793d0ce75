//! A caller's request for a [`Snapshot`], which the sender completes in its next round.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::Error;
use crate::snapshot::Snapshot;
use crate::sync::{Mutex, wake_all};

/// The state that the caller and the sender share.
#[derive(Debug, Default)]
struct Response {
    result: Option<Result<Snapshot, Error>>,
    waker: Option<Waker>,
}

/// The sender's half. Dropping it completes the request: a sender that panics leaves no caller
/// behind.
#[derive(Debug)]
pub(crate) struct SnapshotRequest(Arc<Mutex<Response>>);

/// The caller's half: waits for the snapshot.
pub(crate) struct SnapshotFuture(Arc<Mutex<Response>>);

/// Returns the halves of a new request.
pub(crate) fn snapshot_request() -> (SnapshotRequest, SnapshotFuture) {
    let response = Arc::<Mutex<Response>>::default();
    (SnapshotRequest(response.clone()), SnapshotFuture(response))
}

impl SnapshotRequest {
    /// Completes the request. Only the first result counts.
    pub(crate) fn complete(&self, result: Result<Snapshot, Error>) {
        let mut response = self.0.lock();
        if response.result.is_none() {
            response.result = Some(result);
        }
        let waker = response.waker.take();
        drop(response);
        wake_all(waker);
    }
}

impl Drop for SnapshotRequest {
    fn drop(&mut self) {
        self.complete(Err(Error::closed()));
    }
}

impl Future for SnapshotFuture {
    type Output = Result<Snapshot, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Cloned before the lock and dropped after it: a waker is foreign code.
        let waker = cx.waker().clone();
        let mut response = self.0.lock();
        if let Some(result) = response.result.take() {
            drop(response);
            return Poll::Ready(result);
        }
        let old = response.waker.replace(waker);
        drop(response);
        drop(old);
        Poll::Pending
    }
}

#[cfg(all(test, not(ottla_loom)))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn request_that_is_dropped_fails_as_closed() {
        let (request, mut future) = snapshot_request();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut future).poll(&mut cx).is_pending());
        drop(request);
        let Poll::Ready(Err(e)) = Pin::new(&mut future).poll(&mut cx) else { panic!("no error") };
        assert_eq!(e.kind(), ErrorKind::Closed);
    }
}
