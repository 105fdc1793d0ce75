//! A caller's request that the sender completes with a value, such as a
//! [`Snapshot`](crate::snapshot::Snapshot).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::Error;
use crate::sync::{Mutex, wake_all};

/// The state that the caller and the sender share.
#[derive(Debug)]
struct Response<T> {
    result: Option<Result<T, Error>>,
    waker: Option<Waker>,
}

/// The sender's half. Dropping it completes the request: a sender that panics leaves no caller
/// behind.
#[derive(Debug)]
pub(crate) struct CallRequest<T>(Arc<Mutex<Response<T>>>);

/// The caller's half: waits for the value.
pub(crate) struct CallFuture<T>(Arc<Mutex<Response<T>>>);

/// Returns the halves of a new request.
pub(crate) fn call_request<T>() -> (CallRequest<T>, CallFuture<T>) {
    let response = Arc::new(Mutex::new(Response { result: None, waker: None }));
    (CallRequest(response.clone()), CallFuture(response))
}

impl<T> CallRequest<T> {
    /// Returns whether the caller waits no more: it has dropped its half.
    pub(crate) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Completes the request. Only the first result counts.
    pub(crate) fn complete(&self, result: Result<T, Error>) {
        let mut response = self.0.lock();
        if response.result.is_none() {
            response.result = Some(result);
        }
        let waker = response.waker.take();
        drop(response);
        wake_all(waker);
    }
}

impl<T> Drop for CallRequest<T> {
    fn drop(&mut self) {
        self.complete(Err(Error::closed()));
    }
}

impl<T> Future for CallFuture<T> {
    type Output = Result<T, Error>;

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
        let (request, mut future) = call_request::<u32>();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut future).poll(&mut cx).is_pending());
        drop(request);
        let Poll::Ready(Err(e)) = Pin::new(&mut future).poll(&mut cx) else { panic!("no error") };
        assert_eq!(e.kind(), ErrorKind::Closed);
    }
}
