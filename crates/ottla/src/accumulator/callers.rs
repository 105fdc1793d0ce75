//! What callers and the sender share beyond batches.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use super::mailbox::Mailbox;
use crate::error::{Error, ErrorKind};
use crate::metrics::{Counters, add};
use crate::sync::{Mutex, assert_unlocked};
use crate::time::{Env, Tick};

/// What callers and the sender share beyond batches: how to wait, and where callbacks run just now.
pub(crate) struct Callers {
    pub(crate) env: Arc<dyn Env>,
    in_callback: Mutex<Option<std::thread::ThreadId>>,
    /// The sender's own thread, where it has one.
    sender: OnceLock<std::thread::ThreadId>,
    /// Where the sender hears that somebody waits.
    pub(crate) mailbox: Mailbox,
    /// Whether that shortens the linger (`linger.awaited`).
    pub(super) awaited: bool,
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callers")
    }
}

impl Callers {
    pub(crate) fn new(env: Arc<dyn Env>, awaited: bool) -> Arc<Callers> {
        let (in_callback, sender, mailbox) = Default::default();
        Arc::new(Callers { env, in_callback, sender, mailbox, awaited })
    }

    /// This is the sender's thread from here on.
    pub(crate) fn sender_runs_here(&self) {
        let _ = self.sender.set(std::thread::current().id());
    }

    /// Whether this is the sender's thread, or inside a callback: nothing may wait there.
    pub(crate) fn inside_callback(&self) -> bool {
        self.sender.get() == Some(&std::thread::current().id())
            || *self.in_callback.lock() == Some(std::thread::current().id())
    }

    pub(crate) fn may_wait(&self, what: &str) -> Result<(), Error> {
        if !self.inside_callback() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::WouldDeadlock,
            format!("{what} inside a callback would wait for the thread it runs on"),
        ))
    }

    pub(super) fn callback(&self, counters: &Counters, f: impl FnOnce()) {
        assert_unlocked();
        *self.in_callback.lock() = Some(std::thread::current().id());
        let result = catch_unwind(AssertUnwindSafe(f));
        *self.in_callback.lock() = None;
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
