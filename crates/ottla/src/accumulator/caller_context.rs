//! The state that callers and the sender share besides batches: the event queue, how to block a
//! thread, and which threads must not block.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::ThreadId;

use super::event_queue::EventQueue;
use crate::env::Env;
use crate::error::{Error, ErrorKind};
use crate::metrics::{Counters, add};
use crate::sync::{Mutex, assert_unlocked};
use crate::time::Tick;

/// The event queue of the sender, and the means for callers to block. Each delivery refers to it.
pub(crate) struct CallerContext {
    pub(crate) env: Arc<dyn Env>,
    /// The thread that runs a callback at the moment.
    callback_thread: Mutex<Option<ThreadId>>,
    /// The sender's thread. Empty in the simulation, which has no sender thread.
    sender_thread: OnceLock<ThreadId>,
    /// The queue through which callers notify the sender.
    pub(crate) events: EventQueue,
    /// Whether waiting for a record ends its batch's linger (`linger.awaited`).
    pub(super) linger_awaited: bool,
}

impl fmt::Debug for CallerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerContext")
    }
}

impl CallerContext {
    pub(crate) fn new(env: Arc<dyn Env>, linger_awaited: bool) -> Arc<CallerContext> {
        Arc::new(CallerContext {
            env,
            callback_thread: Mutex::default(),
            sender_thread: OnceLock::new(),
            events: EventQueue::default(),
            linger_awaited,
        })
    }

    /// Makes the current thread the sender's thread.
    pub(crate) fn set_sender_thread(&self) {
        let _ = self.sender_thread.set(std::thread::current().id());
    }

    /// Returns whether the current thread is the sender's or runs a callback.
    ///
    /// Such a thread must not block: it would wait for a completion that only itself can deliver.
    pub(crate) fn is_in_callback(&self) -> bool {
        self.sender_thread.get() == Some(&std::thread::current().id())
            || *self.callback_thread.lock() == Some(std::thread::current().id())
    }

    /// Returns an error if the current thread must not block.
    ///
    /// # Errors
    /// [`ErrorKind::WouldDeadlock`] on the sender's thread and in a callback.
    pub(crate) fn check_can_block(&self, operation: &str) -> Result<(), Error> {
        if !self.is_in_callback() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::WouldDeadlock,
            format!(
                "{operation} failed: in a callback it would block the thread that it waits for; \
                 call it from another thread"
            ),
        ))
    }

    /// Runs a callback of the application. Catches its panics.
    pub(super) fn run_callback(&self, counters: &Counters, f: impl FnOnce()) {
        assert_unlocked();
        *self.callback_thread.lock() = Some(std::thread::current().id());
        let result = catch_unwind(AssertUnwindSafe(f));
        *self.callback_thread.lock() = None;
        if result.is_err() {
            add(&counters.callback_panic_total, 1);
            tracing::error!("a delivery callback panicked; the producer continues");
        }
    }

    /// Blocks the thread until the future is ready. Returns the future as the error at the
    /// deadline.
    pub(crate) fn block_on<F: Future + Unpin>(
        &self,
        mut future: F,
        deadline: Option<Tick>,
    ) -> Result<F::Output, F> {
        let waker = self.env.unparker();
        let mut cx = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut cx) {
                return Ok(output);
            }
            if deadline.is_some_and(|deadline| self.env.now() >= deadline) {
                return Err(future);
            }
            self.env.park(deadline);
        }
    }
}
