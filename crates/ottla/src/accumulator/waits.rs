//! What a caller waits by: a deadline in the sender's heap, and the ticket of a flush.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, wake_all};

/// A caller's deadline. Async callers cannot wake themselves, so the sender does it.
#[derive(Debug, Default)]
pub(crate) struct CallerWait {
    waker: Mutex<Option<Waker>>,
    /// The caller's place in the line for memory, 0 for none; its grant is revoked at the deadline.
    pub(crate) ticket: Arc<AtomicU64>,
}

impl CallerWait {
    pub(crate) fn new(ticket: Arc<AtomicU64>) -> Arc<CallerWait> {
        Arc::new(CallerWait { waker: Mutex::default(), ticket })
    }

    pub(crate) fn listen(&self, waker: &Waker) {
        // Cloned before the lock: a waker is foreign code.
        let waker = waker.clone();
        let old = self.waker.lock().replace(waker);
        drop(old);
    }

    pub(crate) fn fire(&self) {
        let waker = self.waker.lock().take();
        wake_all(waker);
    }
}

/// Whether all of a flush's batches are settled.
#[derive(Debug, Default)]
pub(crate) struct Flush {
    done: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Flush {
    pub(crate) fn finish(&self) {
        self.done.store(true, Ordering::Release);
        let waker = self.waker.lock().take();
        wake_all(waker);
    }
}

/// Waits for a [`Flush`].
pub(crate) struct Flushed(pub(crate) Arc<Flush>);

impl Future for Flushed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let old = self.0.waker.lock().replace(waker);
        drop(old);
        if self.0.done.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}
