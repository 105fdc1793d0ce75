//! The state that callers and the sender share besides batches: the event queue, how to block a
//! thread, and which threads must not block.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::ThreadId;

use super::event_queue::EventQueue;
use super::lifecycle::LifecycleCell;
use crate::env::Env;
use crate::error::{Error, ErrorKind};
use crate::log_limiter::{LogEvent, LogLimiter, NO_NODE};
use crate::metrics::{Counters, add};
use crate::sync::{Mutex, assert_unlocked};
use crate::time::Tick;

/// The event queue of the sender, and the means for callers to block. Each delivery refers to it.
pub(crate) struct CallerContext {
    pub(crate) env: Arc<dyn Env>,
    /// The threads that run callbacks at the moment, one entry for each running callback. Several
    /// threads run callbacks after the sender has ended, and a callback may run inside another one.
    pub(crate) callback_threads: Mutex<Vec<ThreadId>>,
    /// The sender's thread. Empty in the simulation, which has no sender thread.
    sender_thread: OnceLock<ThreadId>,
    /// The queue through which callers notify the sender.
    pub(crate) events: EventQueue,
    pub(crate) lifecycle: Arc<LifecycleCell>,
    /// Whether waiting for a record ends its batch's linger (`linger.awaited`).
    pub(crate) linger_awaited: bool,
    /// Limits the events that any thread may log.
    log_events: Mutex<LogLimiter>,
}

impl fmt::Debug for CallerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerContext")
    }
}

impl CallerContext {
    pub(crate) fn new(env: Arc<dyn Env>, linger_awaited: bool) -> Arc<CallerContext> {
        let lifecycle = Arc::<LifecycleCell>::default();
        Arc::new(CallerContext {
            env,
            callback_threads: Mutex::default(),
            sender_thread: OnceLock::new(),
            events: EventQueue::new(lifecycle.clone()),
            lifecycle,
            linger_awaited,
            log_events: Mutex::default(),
        })
    }

    /// Returns whether to log an event now, as [`LogLimiter::check`] does.
    pub(crate) fn check_log_event(&self, event: LogEvent) -> Option<u64> {
        let now = self.env.now();
        self.log_events.lock().check(event, NO_NODE, now)
    }

    /// Makes the current thread the sender's thread.
    pub(crate) fn set_sender_thread(&self) {
        let _ = self.sender_thread.set(std::thread::current().id());
    }

    /// Returns whether the current thread is the sender's or runs a callback.
    ///
    /// Such a thread must not block: it would wait for a completion that only itself can deliver.
    pub(crate) fn must_not_block(&self) -> bool {
        let thread = std::thread::current().id();
        self.sender_thread.get() == Some(&thread) || self.callback_threads.lock().contains(&thread)
    }

    /// Returns an error if the current thread must not block.
    ///
    /// # Errors
    /// [`ErrorKind::WouldDeadlock`] on the sender's thread and in a callback.
    pub(crate) fn check_can_block(&self, operation: &str) -> Result<(), Error> {
        if !self.must_not_block() {
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
    pub(crate) fn run_callback(&self, counters: &Counters, f: impl FnOnce()) {
        assert_unlocked();
        let thread = std::thread::current().id();
        self.callback_threads.lock().push(thread);
        let result = catch_unwind(AssertUnwindSafe(f));
        let mut threads = self.callback_threads.lock();
        // Other threads' entries may have come and gone meanwhile, so this one is searched.
        if let Some(i) = threads.iter().position(|t| *t == thread) {
            threads.swap_remove(i);
        }
        drop(threads);
        if result.is_err() {
            add(&counters.callback_panic_total, 1);
            if let Some(suppressed) = self.check_log_event(LogEvent::CallbackPanicked) {
                tracing::error!(
                    name: "ottla.callback_panicked",
                    target: "ottla::producer",
                    suppressed,
                    "a delivery callback panicked; the producer continues"
                );
            }
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
