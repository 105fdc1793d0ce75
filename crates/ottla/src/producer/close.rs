//! Closing a producer: `close`, `close_async` and the drop of the last clone.
//!
//! A close posts an event. The sender then sends what is left, shuts down, and its thread ends.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::inner::ProducerInner;
use crate::error::{Error, ErrorKind};
use crate::time::Tick;
use crate::wakeup::event_queue::Event;
use crate::wakeup::waiters::{FlushCompletion, FlushFuture};

/// The longest time that the drop of a producer waits for its records.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// The time that `close` waits beyond its timeout for a callback or handler that does not return.
const CLOSE_GRACE_PERIOD: Duration = Duration::from_secs(2);

impl ProducerInner {
    /// Rejects new records, fails the waiting callers, and posts the close to the sender.
    pub(super) fn begin_close(&self, timeout: Duration) {
        self.accumulator.begin_close(self.accumulator.env.now().after(timeout));
    }

    /// Closes the producer and joins the sender's thread. Inside a callback it only begins the
    /// close: a callback runs on the sender's thread, which cannot join itself.
    pub(super) fn close(&self, timeout: Duration) -> Result<(), Error> {
        self.check_fork()?;
        let must_not_block = self.accumulator.caller_context.must_not_block();
        self.begin_close(if must_not_block { Duration::ZERO } else { timeout });
        if must_not_block {
            return Ok(());
        }
        // When this flush completes, all records are completed and the thread is about to end. A
        // plain join could wait forever for a callback or handler that does not return.
        let deadline = self.accumulator.env.now().after(timeout).after(CLOSE_GRACE_PERIOD);
        let flush = Arc::<FlushCompletion>::default();
        self.accumulator.post(Event::Flush(flush.clone()), Tick(0));
        let flushed = self
            .accumulator
            .caller_context
            .block_on(FlushFuture { completion: flush }, Some(deadline));
        let thread = self.sender_thread.lock().take();
        if flushed.is_err() {
            tracing::warn!(
                client = self.config.client.client_id,
                "close timed out: a callback or handler does not return; \
                 the producer's thread is left running"
            );
            return Ok(());
        }
        match thread.map(JoinHandle::join) {
            Some(Err(_)) => Err(Error::new(
                ErrorKind::Internal,
                "close failed: the producer's thread panicked; this is a bug of ottla, \
                 please report it",
            )),
            _ => Ok(()),
        }
    }
}

impl Drop for ProducerInner {
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            // The thread runs in the parent process only: a join in this process would never
            // return.
            std::mem::forget(self.sender_thread.lock().take());
            return;
        }
        if !self.accumulator.lifecycle().is_running() && self.sender_thread.lock().is_none() {
            return;
        }
        let timeout = self.config.accumulator.delivery_timeout.min(DROP_TIMEOUT);
        // A panicking thread must not wait, and a callback must not wait for its own thread.
        let is_panicking = std::thread::panicking();
        if is_panicking || self.accumulator.caller_context.must_not_block() {
            self.begin_close(if is_panicking { Duration::ZERO } else { timeout });
            return;
        }
        let used = self.accumulator.pool.total_memory() - self.accumulator.pool.available_memory();
        if used > 0 {
            tracing::warn!(
                client = self.config.client.client_id,
                bytes = used,
                "producer dropped with unacknowledged records; waiting at most {} ms for them; \
                 call close to choose the timeout",
                timeout.as_millis()
            );
        }
        let _ = self.close(timeout);
    }
}
