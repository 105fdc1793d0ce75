//! What callers wait on besides deliveries: a deadline that the sender keeps, and the end of a
//! flush.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, wake_all};

/// The deadline of a caller that waits for memory or for a topic.
///
/// An async caller cannot wake itself without a timer of its executor, so the sender wakes it. The
/// caller drops its reference when it stops waiting, and the sender then skips the waiter.
#[derive(Debug, Default)]
pub(crate) struct DeadlineWaiter {
    waker: Mutex<Option<Waker>>,
    /// The caller's id in the buffer pool's wait queue, 0 if it has none. At the deadline the
    /// sender revokes the memory that the pool granted to this id.
    pub(crate) pool_waiter_id: Arc<AtomicU64>,
}

impl DeadlineWaiter {
    pub(crate) fn new(pool_waiter_id: Arc<AtomicU64>) -> Arc<DeadlineWaiter> {
        Arc::new(DeadlineWaiter { waker: Mutex::default(), pool_waiter_id })
    }

    pub(crate) fn register(&self, waker: &Waker) {
        // Cloned before the lock and dropped after it: a waker is foreign code.
        let waker = waker.clone();
        let old = self.waker.lock().replace(waker);
        drop(old);
    }

    pub(crate) fn wake(&self) {
        let waker = self.waker.lock().take();
        wake_all(waker);
    }
}

/// Whether all batches of a flush are completed.
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

/// Waits for a [`FlushCompletion`].
pub(crate) struct FlushFuture {
    pub(crate) completion: Arc<FlushCompletion>,
}

impl Future for FlushFuture {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let old = self.completion.waker.lock().replace(waker);
        drop(old);
        // Read after the waker is registered: `complete` sets the flag before it takes the waker,
        // so either this read sees the flag, or `complete` sees the waker.
        if self.completion.completed.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
