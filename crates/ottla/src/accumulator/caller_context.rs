//! What callers and the sender share beyond batches.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use super::event_queue::EventQueue;
use crate::error::{Error, ErrorKind};
use crate::metrics::{Counters, add};
use crate::sync::{Mutex, assert_unlocked};
use crate::time::{Env, Tick};

/// What callers and the sender share beyond batches: how to wait, and where callbacks run just now.
pub(crate) struct CallerContext {
    pub(crate) env: Arc<dyn Env>,
    callback_thread: Mutex<Option<std::thread::ThreadId>>,
    /// The sender's own thread, where it has one.
    sender_thread: OnceLock<std::thread::ThreadId>,
    /// Where the sender hears that somebody waits.
    pub(crate) events: EventQueue,
    /// Whether that shortens the linger (`linger.awaited`).
    pub(super) linger_awaited: bool,
}

impl fmt::Debug for CallerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callers")
    }
}

impl CallerContext {
    pub(crate) fn new(env: Arc<dyn Env>, awaited: bool) -> Arc<CallerContext> {
        let (in_callback, sender, mailbox) = Default::default();
        Arc::new(CallerContext {
            env,
            callback_thread: in_callback,
            sender_thread: sender,
            events: mailbox,
            linger_awaited: awaited,
        })
    }

    /// This is the sender's thread from here on.
    pub(crate) fn set_sender_thread(&self) {
        let _ = self.sender_thread.set(std::thread::current().id());
    }

    /// Whether this is the sender's thread, or inside a callback: nothing may wait there.
    pub(crate) fn is_in_callback(&self) -> bool {
        self.sender_thread.get() == Some(&std::thread::current().id())
            || *self.callback_thread.lock() == Some(std::thread::current().id())
    }

    pub(crate) fn check_can_block(&self, what: &str) -> Result<(), Error> {
        if !self.is_in_callback() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::WouldDeadlock,
            format!("{what} inside a callback would wait for the thread it runs on"),
        ))
    }

    pub(super) fn run_callback(&self, counters: &Counters, f: impl FnOnce()) {
        assert_unlocked();
        *self.callback_thread.lock() = Some(std::thread::current().id());
        let result = catch_unwind(AssertUnwindSafe(f));
        *self.callback_thread.lock() = None;
        if result.is_err() {
            add(&counters.callback_panic_total, 1);
            tracing::error!("a delivery callback panicked; the producer goes on");
        }
    }

    /// Polls until ready or until then.
    pub(crate) fn block_on<F: Future + Unpin>(
        &self,
        mut future: F,
        until: Option<Tick>,
    ) -> Result<F::Output, F> {
        let waker = self.env.unparker();
        let mut cx = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(out) = Pin::new(&mut future).poll(&mut cx) {
                return Ok(out);
            }
            if until.is_some_and(|until| self.env.now() >= until) {
                return Err(future);
            }
            self.env.park(until);
        }
    }
}
