//! Closing a producer: `close`, `close_async` and the drop of the last clone.
//!
//! A close posts an event. The sender then sends what is left, shuts down, and its thread ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::inner::ProducerInner;
use crate::error::{Error, ErrorKind};
use crate::sync::Mutex;
use crate::time::Tick;
use crate::wakeup::event_queue::Event;
use crate::wakeup::waiters::{FlushCompletion, FlushFuture};

/// What a [`close`](super::Producer::close) left undelivered.
///
/// ```no_run
/// # use std::time::Duration;
/// # fn example(producer: &ottla::Producer) -> Result<(), ottla::Error> {
/// let report = producer.close(Duration::from_secs(10))?;
/// if report.undelivered > 0 {
///     let (lost, unclear) = (report.undelivered, report.possibly_persisted);
///     eprintln!("{lost} records were not acknowledged, {unclear} of them may be in the log");
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CloseReport {
    /// The records that were accepted and not acknowledged when the producer closed. Each has
    /// failed with [`ErrorKind::Closed`], or has no result yet because a callback or handler does
    /// not return. Records that failed for another reason do not count.
    pub undelivered: u64,
    /// Those of them that may be in the log: a broker may have received them
    /// ([`RecordStatus::PossiblyPersisted`](crate::RecordStatus::PossiblyPersisted)).
    pub possibly_persisted: u64,
}

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
    pub(super) fn close(&self, timeout: Duration) -> Result<CloseReport, Error> {
        if !self.begin_close_outside_callback(timeout)? {
            return Ok(self.close_report());
        }
        self.finish_close(timeout)
    }

    /// The async form of `close`. A thread of its own waits for the sender's thread: it may wait
    /// for a handler that does not return, and the executor's thread must not.
    pub(super) async fn close_async(
        self: &Arc<Self>,
        timeout: Duration,
    ) -> Result<CloseReport, Error> {
        if !self.begin_close_outside_callback(timeout)? {
            return Ok(self.close_report());
        }
        let result = Arc::<Mutex<Option<Result<CloseReport, Error>>>>::default();
        let finished = Arc::<FlushCompletion>::default();
        let run = {
            let (inner, result, finished) = (self.clone(), result.clone(), finished.clone());
            Box::new(move || {
                let report = inner.finish_close(timeout);
                drop(inner);
                *result.lock() = Some(report);
                finished.complete();
            })
        };
        let name = format!("ottla-close-{}", self.config.client.client_id);
        let spawned = self.spawn_thread.get().map(|spawn| spawn(name, run));
        if let Some(Ok(())) = spawned {
            FlushFuture { completion: finished }.await;
            let report = result.lock().take();
            return report.unwrap_or_else(|| Ok(self.close_report()));
        }
        // A simulation, which has no threads, or the system provides none. The flush completes when
        // all records are completed.
        let flush = Arc::<FlushCompletion>::default();
        self.accumulator.post(Event::Flush(flush.clone()), Tick(0));
        FlushFuture { completion: flush }.await;
        Ok(self.close_report())
    }

    /// Begins a close. Returns false inside a callback, where the timeout is zero and the caller
    /// must not wait.
    fn begin_close_outside_callback(&self, timeout: Duration) -> Result<bool, Error> {
        self.check_fork()?;
        let must_not_block = self.accumulator.caller_context.must_not_block();
        self.begin_close(if must_not_block { Duration::ZERO } else { timeout });
        Ok(!must_not_block)
    }

    /// Returns the records that the close has failed, and those that have no result yet.
    fn close_report(&self) -> CloseReport {
        let outstanding = self.accumulator.outstanding_records();
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        CloseReport {
            undelivered: load(&self.counters.closed_records) + outstanding,
            possibly_persisted: load(&self.counters.closed_possibly_persisted) + outstanding,
        }
    }

    /// Waits for the end of a close that has begun, and joins the sender's thread.
    fn finish_close(&self, timeout: Duration) -> Result<CloseReport, Error> {
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
                name: "ottla.close_timed_out",
                target: "ottla::producer",
                client = self.config.client.client_id,
                "close timed out: a callback or handler does not return; \
                 the producer's thread is left running"
            );
            return Ok(self.close_report());
        }
        match thread.map(JoinHandle::join) {
            Some(Err(_)) => Err(Error::new(
                ErrorKind::Internal,
                "close failed: the producer's thread panicked; this is a bug of ottla, \
                 please report it",
            )),
            _ => {
                // The thread has ended, so no result follows.
                self.accumulator.listeners.interceptors.close(&self.counters);
                Ok(self.close_report())
            }
        }
    }
}

impl Drop for ProducerInner {
    fn drop(&mut self) {
        if self.is_forked() {
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
        // Not the memory in use: it is returned a little after the last record has its result, and
        // much later if a batch expired while its request waits for a response.
        let records = self.accumulator.outstanding_records();
        if records > 0 {
            tracing::warn!(
                name: "ottla.dropped",
                target: "ottla::producer",
                client = self.config.client.client_id,
                records,
                "producer dropped with unacknowledged records; waiting at most {} ms for them; \
                 call close to choose the timeout",
                timeout.as_millis()
            );
        }
        let Ok(report) = self.close(timeout) else { return };
        if report.undelivered > 0 {
            tracing::warn!(
                name: "ottla.dropped_undelivered",
                target: "ottla::producer",
                client = self.config.client.client_id,
                records = report.undelivered,
                possibly_persisted = report.possibly_persisted,
                "the dropped producer left records that were not acknowledged"
            );
        }
    }
}
