//! Interceptors (KIP-42): they see and may change every record before it is encoded, and see every
//! record's result.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::result::RecordMetadata;
use crate::error::Error;
use crate::log_limiter::LogEvent;
use crate::metrics::{Counters, add};
use crate::record::{BoxError, Header, Record};
use crate::wakeup::caller_context::CallerContext;
use std::sync::atomic::{AtomicBool, Ordering};

/// A record that an [`Interceptor`] may change.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MutableRecord<'a> {
    /// The topic's name.
    pub topic: Cow<'a, str>,
    /// The partition, if the application named one.
    pub partition: Option<i32>,
    /// The key; `None` for null.
    pub key: Option<Cow<'a, [u8]>>,
    /// The value; `None` for null.
    pub value: Option<Cow<'a, [u8]>>,
    /// The headers, in order.
    pub headers: Vec<Header<'a>>,
    /// The timestamp in milliseconds since the Unix epoch, if the application set one.
    pub timestamp: Option<i64>,
}

/// The result of a record, for an [`Interceptor`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Acknowledgement<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition. `None` if `send` did not accept the record, unless the application named one.
    pub partition: Option<i32>,
    /// The record's headers after all interceptors (KIP-512).
    pub headers: &'a [Header<'a>],
    /// The record's position, or its error.
    pub result: &'a Result<RecordMetadata, Error>,
}

/// Sees every record before it is sent, and every record's result (KIP-42).
///
/// Add it with [`ProducerBuilder::interceptor`](crate::ProducerBuilder::interceptor). Interceptors
/// run in the order in which they were added. If one fails or panics, its changes are dropped, the
/// failure is counted ([`Totals::interceptor_error_total`](crate::Totals)), and the record is sent.
///
/// ```
/// use ottla::{Acknowledgement, BoxError, Header, Interceptor, MutableRecord, Producer};
///
/// /// Adds a header, and logs failures.
/// struct Tracing;
///
/// impl Interceptor for Tracing {
///     fn on_send(&self, record: &mut MutableRecord<'_>) -> Result<(), BoxError> {
///         record.headers.push(Header::new("trace-id", "42"));
///         Ok(())
///     }
///
///     fn on_acknowledgement(&self, acknowledgement: &Acknowledgement<'_>) {
///         if let Err(e) = acknowledgement.result {
///             eprintln!("record for {} failed: {e}", acknowledgement.topic);
///         }
///     }
/// }
///
/// let builder = Producer::builder().interceptor(Tracing);
/// ```
pub trait Interceptor: Send + Sync {
    /// Sees a record, and may change it, before the producer encodes it. Runs on the thread that
    /// calls `send`, without a lock.
    ///
    /// # Errors
    /// Any error. The producer drops this interceptor's changes, and sends the record.
    fn on_send(&self, record: &mut MutableRecord<'_>) -> Result<(), BoxError> {
        let _ = record;
        Ok(())
    }

    /// Sees a record's result, once per record, before the record's callback and delivery.
    ///
    /// Runs on the sender's thread as a rule, so it must not wait. If `send` does not accept the
    /// record, it runs on the thread that calls `send`. The exceptions are those of
    /// [`Producer::send_with_callback`](crate::Producer::send_with_callback).
    fn on_acknowledgement(&self, acknowledgement: &Acknowledgement<'_>) {
        let _ = acknowledgement;
    }

    /// Called once, when the producer has ended: at the end of
    /// [`close`](crate::Producer::close), after the last result. If `close` times out because a
    /// callback does not return, it is called when the last record has completed.
    fn close(&self) {}
}

/// All interceptors of a producer, in the order of their calls.
#[derive(Default)]
pub(crate) struct Interceptors {
    all: Vec<Box<dyn Interceptor>>,
    closed: AtomicBool,
}

impl Interceptors {
    pub(crate) fn new(all: Vec<Box<dyn Interceptor>>) -> Interceptors {
        Interceptors { all, closed: AtomicBool::new(false) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Closes all interceptors, the first time that it is called.
    pub(crate) fn close(&self, counters: &Counters) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        for interceptor in &self.all {
            if catch_unwind(AssertUnwindSafe(|| interceptor.close())).is_err() {
                // At most once for each interceptor, so it needs no limit.
                report_failure(counters, Some(0), "close", "panicked");
            }
        }
    }

    /// Passes the record through all interceptors.
    pub(crate) fn on_send<'a>(
        &self,
        record: &Record<'a>,
        counters: &Counters,
        caller_context: &CallerContext,
    ) -> MutableRecord<'a> {
        let failed = |reason: &str| {
            let suppressed = caller_context.check_log_event(LogEvent::InterceptorFailed);
            report_failure(counters, suppressed, "on_send", reason);
        };
        let mut current = MutableRecord {
            topic: record.topic.into(),
            partition: record.partition,
            key: record.key.map(Cow::Borrowed),
            value: record.value.map(Cow::Borrowed),
            headers: record.headers.iter().map(borrowed).collect(),
            timestamp: record.timestamp,
        };
        for interceptor in &self.all {
            // The interceptor gets a copy, so that the changes of one that fails can be dropped.
            let mut copy = current.clone();
            match catch_unwind(AssertUnwindSafe(|| interceptor.on_send(&mut copy))) {
                Ok(Ok(())) => current = copy,
                Ok(Err(e)) => failed(&e.to_string()),
                Err(_) => failed("panicked"),
            }
        }
        current
    }

    /// Passes the record's result to all interceptors.
    pub(crate) fn on_acknowledgement(
        &self,
        acknowledgement: &Acknowledgement<'_>,
        counters: &Counters,
        caller_context: &CallerContext,
    ) {
        for interceptor in &self.all {
            let call = || interceptor.on_acknowledgement(acknowledgement);
            if catch_unwind(AssertUnwindSafe(call)).is_err() {
                let suppressed = caller_context.check_log_event(LogEvent::InterceptorFailed);
                report_failure(counters, suppressed, "on_acknowledgement", "panicked");
            }
        }
    }
}

/// Counts a failure. Logs it unless the log's limit has suppressed it.
fn report_failure(counters: &Counters, suppressed: Option<u64>, call: &str, reason: &str) {
    add(&counters.interceptor_error_total, 1);
    if let Some(suppressed) = suppressed {
        tracing::warn!(
            name: "ottla.interceptor_failed",
            target: "ottla::producer",
            suppressed,
            "an interceptor failed and was skipped: {call}: {reason}"
        );
    }
}

/// Returns a header that borrows from another one.
fn borrowed<'a>(header: &'a Header<'a>) -> Header<'a> {
    Header { key: Cow::Borrowed(&header.key), value: header.value.as_deref().map(Cow::Borrowed) }
}

impl MutableRecord<'_> {
    /// Returns the record that is sent.
    pub(crate) fn as_record(&self, token: u64) -> Record<'_> {
        Record {
            partition: self.partition,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
            timestamp: self.timestamp,
            token,
            ..Record::to(&self.topic)
        }
    }
}
