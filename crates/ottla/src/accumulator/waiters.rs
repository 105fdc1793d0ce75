//! What a caller waits by: a deadline in the sender's heap, and the ticket of a flush.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, wake_all};

/// A caller's deadline. Async callers cannot wake themselves, so the sender does it.
#[derive(Debug, Default)]
pub(crate) struct DeadlineWaiter {
    waker: Mutex<Option<Waker>>,
    /// The caller's place in the line for memory, 0 for none; its grant is revoked at the deadline.
    pub(crate) ticket: Arc<AtomicU64>,
}

impl DeadlineWaiter {
    pub(crate) fn new(ticket: Arc<AtomicU64>) -> Arc<DeadlineWaiter> {
        Arc::new(DeadlineWaiter { waker: Mutex::default(), ticket })
    }

    pub(crate) fn register(&self, waker: &Waker) {
        // Cloned before the lock: a waker is foreign code.
        let waker = waker.clone();
        let old = self.waker.lock().replace(waker);
        drop(old);
    }

    pub(crate) fn wake(&self) {
        let waker = self.waker.lock().take();
        wake_all(waker);
    }
}

/// Whether all of a flush's batches are settled.
#[derive(Debug, Default)]
pub(crate) struct FlushCompletion {
    completed: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl FlushCompletion {
    pub(crate) fn complete(&self) {
        self.completed.store(true, Ordering::Release);
        let waker = self.waker.lock().take();
        wake_all(waker);
    }
}

/// Waits for a [`Flush`].
pub(crate) struct FlushFuture(pub(crate) Arc<FlushCompletion>);

impl Future for FlushFuture {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let old = self.0.waker.lock().replace(waker);
        drop(old);
        if self.0.completed.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}
