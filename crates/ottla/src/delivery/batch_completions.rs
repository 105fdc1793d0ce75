//! Reports the outcome of a batch to its deliveries, its callbacks, the producer's delivery handler
//! and the interceptors.
//!
//! `accumulator/batch.rs`, `ClosedBatch::complete`, calls it. Java's producer calls the same list
//! "thunks".

use crate::sync::atomic::Ordering;
use std::fmt;
use std::sync::Arc;

use super::interceptor::Interceptors;
use super::result::{
    BatchInfo, DELTA_OVERFLOW, Delivery, FarTimestamp, Outcome, ProduceRequestResult, RecordError,
    RecordMetadata, RecordWaker, SplitResult, SplitResults, find_part,
};
use crate::error::{Error, ErrorKind, RecordStatus};
use crate::log_limiter::LogEvent;
use crate::metrics::{Counters, Sensor, TopicSensor, add};
use crate::record::{PreparedRecord, SerializedSizes};
use crate::sync::{Mutex, assert_unlocked, wake_all};
use crate::wakeup::caller_context::CallerContext;

/// A record's callback.
pub(crate) type Callback = Box<dyn FnOnce(CompletedRecord) + Send>;

/// What a callback receives.
pub(crate) struct CompletedRecord {
    /// The partition; `None` if the record was rejected before it had one.
    pub(crate) partition: Option<i32>,
    pub(crate) result: Result<RecordMetadata, Error>,
}

/// How the outcome of a record is reported: by default, to the delivery handler only.
#[derive(Default)]
pub(crate) struct DeliveryOptions {
    pub(crate) callback: Option<Callback>,
    /// Whether the caller wants a [`Delivery`].
    pub(crate) wants_delivery: bool,
    /// The delivery of the record, once it is in a batch.
    ///
    /// It is not a result of `append`. There, `None` would be written as one word and copied as
    /// two, for each record. Such a copy waits until the record has left the processor's store
    /// buffer.
    pub(crate) delivery: Option<Delivery>,
}

/// A callback that runs when its batch is completed.
struct PendingCallback {
    record_index: u32,
    timestamp_delta: i32,
    sizes: SerializedSizes,
    callback: Callback,
}

/// Everything that is notified when a batch is completed.
///
/// It completes exactly once. If it is dropped before, it completes with an internal error, so no
/// caller waits without end.
pub(crate) struct BatchCompletions {
    tokens: Vec<u64>,
    callbacks: Vec<PendingCallback>,
    /// Timestamps too far from the first one for a 32-bit delta in a [`Delivery`].
    far_timestamps: Vec<FarTimestamp>,
    result: Arc<ProduceRequestResult>,
    listeners: Arc<DeliveryListeners>,
    record_count: u32,
    /// Whether the records are in `Counters::outstanding_in_closed_batches`.
    is_counted: bool,
    completed: bool,
}

impl fmt::Debug for BatchCompletions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchCompletions({} records)", self.record_count)
    }
}

/// The outcome of one batch, as the delivery handler receives it.
///
/// Every accepted record is in exactly one report. A record that `send` refuses is in none: the
/// error of the call is its result. [`records`](Self::records) goes through the records one by one;
/// the fields give the same for the whole batch, at no cost per record. A report has tokens and no
/// keys or values.
///
/// ```
/// let builder = ottla::Producer::builder().delivery_handler(|batch| {
///     for record in batch.records() {
///         match record.result {
///             Ok(offset) => println!("record {} is at {offset:?}", record.token),
///             Err(e) => eprintln!("record {} failed: {e}", record.token),
///         }
///     }
/// });
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct BatchReport<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The tokens of all records of the batch, in the order in which the records were appended. The
    /// token of a record without one is 0.
    pub tokens: &'a [u64],
    /// The offset of the first record, or the error of the batch.
    ///
    /// The other records have the offsets that follow. The offset is `None` if the broker did not
    /// report it.
    pub result: Result<Option<i64>, &'a Error>,
    /// The broker's time in milliseconds since the epoch, if the topic has
    /// `message.timestamp.type=LogAppendTime`.
    pub log_append_time: Option<i64>,
    /// The records that have an error of their own (KIP-467). Their `index` is an index into
    /// `tokens`.
    pub record_errors: &'a [RecordError],
}

/// One record of a [`BatchReport`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RecordReport<'a> {
    /// The record's [token](crate::Record::token); 0 if the application set none.
    pub token: u64,
    /// The record's offset, `None` if the broker did not report it; or its own error.
    pub result: Result<Option<i64>, &'a Error>,
}

impl<'a> BatchReport<'a> {
    /// Returns each record with its own result, in the order in which they were appended.
    ///
    /// The results differ only in a batch that failed with errors for single records
    /// (`record_errors`, KIP-467), apart from the offsets, which follow each other.
    pub fn records(&self) -> impl ExactSizeIterator<Item = RecordReport<'a>> {
        let (result, record_errors) = (self.result, self.record_errors);
        self.tokens.iter().enumerate().map(move |(i, token)| {
            let error_of_record = |batch_error| {
                let own = record_errors.iter().find(|e| e.index as usize == i);
                own.map_or(batch_error, |e| &e.error)
            };
            let result = match result {
                // The offset comes from the broker. An invalid one must not cause an overflow.
                Ok(base_offset) => Ok(base_offset.map(|base| base.saturating_add(i as i64))),
                Err(batch_error) => Err(error_of_record(batch_error)),
            };
            RecordReport { token: *token, result }
        })
    }
}

/// The producer's delivery handler.
pub(crate) type BatchHandler = Box<dyn Fn(&BatchReport<'_>) + Send + Sync>;

/// The listeners that are notified of every batch.
#[derive(Default)]
pub(crate) struct DeliveryListeners {
    pub(crate) handler: Option<BatchHandler>,
    pub(crate) interceptors: Interceptors,
    pub(crate) counters: Arc<Counters>,
    scratch_pool: Mutex<ScratchPool>,
}

/// Allocations of completed batches, which new batches reuse.
#[derive(Default)]
struct ScratchPool {
    free: Vec<BatchScratch>,
    /// The approximate size of `free` in bytes.
    bytes: usize,
}

/// The allocations that one batch passes on to another.
#[derive(Debug, Default)]
pub(crate) struct BatchScratch {
    /// An empty vector; only its capacity is reused.
    tokens: Vec<u64>,
    /// A result to which no delivery refers.
    result: Option<Arc<ProduceRequestResult>>,
}

/// The maximum size of the scratch pool in bytes. Above it, scratches are dropped.
const MAX_SCRATCH_POOL_BYTES: usize = 4 << 20;
/// The approximate size of a scratch without its tokens, in bytes.
const SCRATCH_BASE_BYTES: usize = 256;

impl DeliveryListeners {
    pub(crate) fn new(
        handler: Option<BatchHandler>,
        interceptors: Interceptors,
        counters: Arc<Counters>,
    ) -> Arc<DeliveryListeners> {
        Arc::new(DeliveryListeners {
            handler,
            interceptors,
            counters,
            scratch_pool: Mutex::default(),
        })
    }

    /// Returns a scratch. If there is a handler, it has capacity for `expected` tokens.
    pub(crate) fn take_scratch(&self, expected: usize) -> BatchScratch {
        let mut scratch = {
            let mut pool = self.scratch_pool.lock();
            let scratch = pool.free.pop().unwrap_or_default();
            pool.bytes = pool.bytes.saturating_sub(scratch.allocated_bytes());
            scratch
        };
        if self.handler.is_some() {
            // An eighth more, so that a few more records than last time do not reallocate.
            scratch.tokens.reserve_exact(expected + expected / 8 + 4);
        }
        scratch
    }

    pub(crate) fn return_scratch(&self, mut scratch: BatchScratch) {
        scratch.tokens.clear();
        let bytes = scratch.allocated_bytes();
        let mut pool = self.scratch_pool.lock();
        if pool.bytes + bytes <= MAX_SCRATCH_POOL_BYTES {
            pool.bytes += bytes;
            pool.free.push(scratch);
        } else {
            // Unlock first: `scratch` is dropped after this.
            drop(pool);
        }
    }
}

impl BatchScratch {
    fn allocated_bytes(&self) -> usize {
        SCRATCH_BASE_BYTES + self.tokens.capacity() * size_of::<u64>()
    }

    /// Returns a result for this batch.
    pub(crate) fn reuse_or_create_result(&mut self, batch: BatchInfo) -> Arc<ProduceRequestResult> {
        if let Some(mut free) = self.result.take()
            && let Some(result) = Arc::get_mut(&mut free)
        {
            result.reset(batch);
            return free;
        }
        ProduceRequestResult::new(batch)
    }
}

impl BatchCompletions {
    pub(crate) fn new(
        listeners: Arc<DeliveryListeners>,
        mut scratch: BatchScratch,
        batch: BatchInfo,
    ) -> BatchCompletions {
        let result = scratch.reuse_or_create_result(batch);
        BatchCompletions {
            tokens: scratch.tokens,
            callbacks: Vec::new(),
            far_timestamps: Vec::new(),
            result,
            listeners,
            record_count: 0,
            is_counted: false,
            completed: false,
        }
    }

    /// Adds a record. Returns its delivery if the caller wants one.
    #[inline]
    pub(crate) fn add_record(
        &mut self,
        record: &PreparedRecord<'_>,
        options: &mut DeliveryOptions,
    ) {
        let (timestamp, token) = (record.timestamp, record.token);
        let record_index = self.record_count;
        let timestamp_delta =
            i32::try_from(timestamp.wrapping_sub(self.result.batch.base_timestamp))
                .unwrap_or(DELTA_OVERFLOW);
        if timestamp_delta == DELTA_OVERFLOW {
            self.far_timestamps.push(FarTimestamp { record_index, timestamp });
        }
        if self.listeners.handler.is_some() {
            self.tokens.push(token);
        }
        if let Some(callback) = options.callback.take() {
            let sizes = record.serialized_sizes();
            self.callbacks.push(PendingCallback { record_index, timestamp_delta, sizes, callback });
        }
        self.record_count += 1;
        if options.wants_delivery {
            let result = self.result.clone();
            options.delivery = Some(Delivery { result, index: record_index, timestamp_delta });
        }
    }

    /// Counts the records as outstanding: from now on no record is added.
    pub(crate) fn count_as_closed(&mut self) {
        if !std::mem::replace(&mut self.is_counted, true) {
            let counters = &self.listeners.counters;
            add(&counters.outstanding_in_closed_batches, u64::from(self.record_count));
        }
    }

    pub(crate) fn caller_context(&self) -> &CallerContext {
        &self.result.batch.caller_context
    }

    /// Returns the bytes of tokens and callbacks, which count for `buffer.memory`.
    pub(crate) fn heap_bytes(&self) -> usize {
        let boxes: usize = self.callbacks.iter().map(|c| size_of_val(&*c.callback)).sum();
        self.tokens.capacity() * size_of::<u64>()
            + self.callbacks.capacity() * size_of::<PendingCallback>()
            + boxes
            + self.far_timestamps.capacity() * size_of::<FarTimestamp>()
    }

    /// Reports the outcome to all listeners.
    pub(crate) fn complete(mut self, outcome: Outcome) {
        self.complete_all(outcome);
    }

    /// Divides the records among parts with these numbers of records. From now on, callers that
    /// wait for a record wait for its part.
    pub(crate) fn split(mut self, counts: &[u32]) -> Vec<BatchCompletions> {
        assert!(!std::mem::replace(&mut self.completed, true), "a batch is completed once");
        let result = self.result.clone();
        let (mut parts, mut results, mut first_index) = (Vec::new(), Vec::new(), 0);
        for count in counts {
            // A part keeps the base timestamp of the whole batch, because deliveries that exist
            // already hold deltas to it.
            let part = self.split_off_part(first_index, *count);
            results.push(SplitResult { first_index, result: part.result.clone() });
            parts.push(part);
            first_index += count;
        }
        let results: SplitResults = results.into();
        let wakers = {
            let mut inner = result.inner.lock();
            inner.parts = Some(results.clone());
            result.completed.store(true, Ordering::Release);
            std::mem::take(&mut inner.wakers)
        };
        // No part is completed before this function returns, so no wake-up is lost here.
        for RecordWaker { record_index, waker } in wakers {
            let (part, record_index) = find_part(&results, record_index);
            part.inner.lock().wakers.push(RecordWaker { record_index, waker });
        }
        parts
    }

    fn split_off_part(&mut self, first: u32, count: u32) -> BatchCompletions {
        let scratch = self.listeners.take_scratch(count as usize);
        let batch = self.result.batch.clone();
        let mut part = BatchCompletions::new(self.listeners.clone(), scratch, batch);
        part.record_count = count;
        part.is_counted = self.is_counted;
        let in_part = |index: u32| (first..first + count).contains(&index);
        let range = first as usize..(first + count) as usize;
        part.tokens.extend(self.tokens.get(range).unwrap_or_default());
        let far = self
            .far_timestamps
            .iter()
            .filter(|f| in_part(f.record_index))
            .map(|f| FarTimestamp { record_index: f.record_index - first, timestamp: f.timestamp });
        part.far_timestamps.extend(far);
        let (own, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.callbacks).into_iter().partition(|c| in_part(c.record_index));
        self.callbacks = others;
        part.callbacks.extend(
            own.into_iter().map(|c| PendingCallback { record_index: c.record_index - first, ..c }),
        );
        part
    }

    fn complete_all(&mut self, outcome: Outcome) {
        assert!(!std::mem::replace(&mut self.completed, true), "a batch is completed once");
        let has_waiters = self.store_outcome(&outcome);
        if let Outcome::Failed(e) | Outcome::PerRecord { batch_error: e, .. } = &outcome {
            self.record_failure(e, has_waiters);
        }
        // Wakers, callbacks and the handler are foreign code: no lock is held from here on.
        assert_unlocked();
        self.run_callbacks();
        self.run_handler(&outcome);
        if self.is_counted {
            let outstanding = &self.listeners.counters.outstanding_in_closed_batches;
            outstanding.fetch_sub(u64::from(self.record_count), Ordering::Relaxed);
        }
        self.release_waiters();
    }

    /// Stores the outcome. Deliveries do not see it before `release_waiters`. Returns whether a
    /// caller waits for it.
    fn store_outcome(&mut self, outcome: &Outcome) -> bool {
        let mut inner = self.result.inner.lock();
        inner.outcome = Some(outcome.clone());
        inner.far_timestamps = std::mem::take(&mut self.far_timestamps);
        !inner.wakers.is_empty()
    }

    /// Completes the deliveries, after the callbacks, as in Java: who waits for a record finds that
    /// its callback has run.
    fn release_waiters(&self) {
        let wakers = {
            let mut inner = self.result.inner.lock();
            self.result.completed.store(true, Ordering::Release);
            std::mem::take(&mut inner.wakers)
        };
        wake_all(wakers.into_iter().map(|w| w.waker));
    }

    /// Counts the failed records. Logs the error if the application has no other way to see it.
    fn record_failure(&self, e: &Error, has_waiters: bool) {
        let (batch, counters) = (&self.result.batch, &self.listeners.counters);
        add(&counters.record_error_total, u64::from(self.record_count));
        if e.kind() == ErrorKind::Closed {
            add(&counters.closed_records, u64::from(self.record_count));
            if e.record_status() == RecordStatus::PossiblyPersisted {
                add(&counters.closed_possibly_persisted, u64::from(self.record_count));
            }
        }
        let (now, failed) = (batch.caller_context.env.now(), f64::from(self.record_count));
        counters.sensors.record(&[(Sensor::RecordError, failed)], now);
        let topic_failures = &[(TopicSensor::RecordError, failed)];
        counters.sensors.record_topic(&batch.topic, topic_failures, now);
        // The application has aborted the transaction, or its next call says why it failed.
        let is_expected =
            matches!(e.kind(), ErrorKind::TransactionAborted | ErrorKind::TransactionFailed);
        let has_listeners =
            is_expected || !self.callbacks.is_empty() || self.listeners.handler.is_some();
        if !has_listeners
            && !has_waiters
            && let Some(suppressed) = batch.caller_context.check_log_event(LogEvent::BatchFailed)
        {
            tracing::warn!(
                name: "ottla.batch_failed",
                target: "ottla::delivery",
                topic = &*batch.topic,
                partition = batch.partition,
                records = self.record_count,
                suppressed,
                "batch failed, and no callback, handler or waiting delivery receives the error: {e}"
            );
        }
    }

    fn run_callbacks(&mut self) {
        let (result, listeners) = (&self.result, &self.listeners);
        for c in self.callbacks.drain(..) {
            let sizes = Some(c.sizes);
            let outcome = result.record_result(
                &result.inner.lock(),
                c.record_index,
                c.timestamp_delta,
                sizes,
            );
            if let Some(result_of_record) = outcome {
                let partition = Some(result.batch.partition);
                let run = || (c.callback)(CompletedRecord { partition, result: result_of_record });
                result.batch.caller_context.run_callback(&listeners.counters, run);
            }
        }
    }

    fn run_handler(&self, outcome: &Outcome) {
        let Some(handler) = &self.listeners.handler else { return };
        let (result, log_append_time, record_errors) = match outcome {
            Outcome::Acknowledged { base_offset, log_append_time } => {
                (Ok(*base_offset), *log_append_time, &[][..])
            }
            Outcome::Failed(e) => (Err(e), None, &[][..]),
            Outcome::PerRecord { batch_error, record_errors } => {
                (Err(batch_error), None, &record_errors[..])
            }
        };
        let batch = &self.result.batch;
        let report = BatchReport {
            topic: &batch.topic,
            partition: batch.partition,
            tokens: &self.tokens,
            result,
            log_append_time,
            record_errors,
        };
        batch.caller_context.run_callback(&self.listeners.counters, || handler(&report));
    }
}

impl Drop for DeliveryListeners {
    fn drop(&mut self) {
        self.interceptors.close(&self.counters);
    }
}

impl Drop for BatchCompletions {
    fn drop(&mut self) {
        if !self.completed {
            let e = Error::new(
                ErrorKind::Internal,
                "batch failed: it was dropped before it was completed; \
                 this is a bug in ottla, please report it",
            );
            self.complete_all(Outcome::Failed(e.with_status(RecordStatus::PossiblyPersisted)));
        }
        // The application may still hold deliveries. Only a result without deliveries is reused.
        let result = (Arc::strong_count(&self.result) == 1).then(|| self.result.clone());
        self.listeners
            .return_scratch(BatchScratch { tokens: std::mem::take(&mut self.tokens), result });
    }
}
