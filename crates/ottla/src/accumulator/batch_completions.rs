//! Who is told of a batch's end, and how: deliveries, callbacks, the producer-wide handler, interceptors.

use crate::sync::atomic::Ordering;
use std::fmt;
use std::sync::Arc;

use super::append::DeliveryOptions;
use super::buffer_pool::{BufferPool, Charge};
use super::completion::{
    BatchInfo, DELTA_OVERFLOW, Delivery, Outcome, ProduceRequestResult, RecordMetadata,
    SplitResults, find_part,
};
use crate::error::{Error, ErrorKind, RecordStatus};
use crate::metrics::{Counters, Sensor, TopicSensor, add};
use crate::sync::{Mutex, assert_unlocked, wake_all};

/// What a record's callback is given.
pub(crate) type Callback = Box<dyn FnOnce(Result<RecordMetadata, Error>) + Send>;

/// Who is told of a batch's end, and how. Dropped without having been told, it tells them of a bug.
pub(crate) struct BatchCompletions {
    tokens: Vec<u64>,
    callbacks: Vec<(u32, i32, Callback)>,
    /// Timestamps too far from the first for a [`Delivery`] to carry the difference.
    far_timestamps: Vec<(u32, i64)>,
    /// Each record's timestamp less the first's, for interceptors alone.
    timestamp_deltas: Vec<i32>,
    result: Arc<ProduceRequestResult>,
    listeners: Arc<DeliveryListeners>,
    /// What all of this takes of `buffer.memory`, once it grows no more.
    charge: Option<Charge>,
    record_count: u32,
    completed: bool,
}

impl fmt::Debug for BatchCompletions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ends of {} records", self.record_count)
    }
}

/// One batch's end, as the producer-wide handler sees it.
#[derive(Debug)]
#[non_exhaustive]
pub struct BatchReport<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The records' tokens, in order of append.
    pub tokens: &'a [u64],
    /// The first record's offset (`None` when not told); the others follow it. Or why not.
    pub result: Result<Option<i64>, &'a Error>,
    /// The broker's time in milliseconds since the epoch, where the topic takes log-append time.
    pub log_append_time: Option<i64>,
    /// Records with a reason of their own, by index in `tokens`.
    pub record_errors: &'a [(u32, Error)],
}

/// The producer-wide handler.
pub(crate) type BatchHandler = Box<dyn Fn(&BatchReport<'_>) + Send + Sync>;

/// Who listens to every batch.
#[derive(Default)]
pub(crate) struct DeliveryListeners {
    pub(crate) handler: Option<BatchHandler>,
    pub(crate) interceptors: crate::producer::Interceptors,
    pub(crate) counters: Arc<Counters>,
    /// What batches that ended have left for those to come.
    scratch_pool: Mutex<ScratchPool>,
}

#[derive(Default)]
struct ScratchPool {
    list: Vec<BatchScratch>,
    /// What all of them take, about.
    bytes: usize,
}

/// What is made once and goes from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct BatchScratch {
    /// Room for tokens.
    tokens: Vec<u64>,
    /// A completion that nobody looks at any more.
    result: Option<Arc<ProduceRequestResult>>,
}

/// Bytes of shells that are kept; batches beyond that make theirs.
const MAX_SCRATCH_POOL_BYTES: usize = 4 << 20;
/// Bytes of a shell beside its tokens.
const SCRATCH_BASE_BYTES: usize = 256;

impl DeliveryListeners {
    pub(crate) fn new(
        handler: Option<BatchHandler>,
        interceptors: crate::producer::Interceptors,
        counters: Arc<Counters>,
    ) -> Arc<DeliveryListeners> {
        Arc::new(DeliveryListeners {
            handler,
            interceptors,
            counters,
            scratch_pool: Mutex::default(),
        })
    }

    /// A shell with room for about so many tokens, if there is a handler to be given them.
    pub(super) fn take_scratch(&self, expected: usize) -> BatchScratch {
        let mut shell = {
            let mut shells = self.scratch_pool.lock();
            let shell = shells.list.pop().unwrap_or_default();
            shells.bytes = shells.bytes.saturating_sub(shell.allocated_bytes());
            shell
        };
        if self.handler.is_some() {
            // Some more, so that one record more than last time does not make it grow.
            shell.tokens.reserve_exact(expected + expected / 8 + 4);
        }
        shell
    }

    pub(crate) fn return_scratch(&self, mut shell: BatchScratch) {
        shell.tokens.clear();
        let bytes = shell.allocated_bytes();
        let mut shells = self.scratch_pool.lock();
        if shells.bytes + bytes <= MAX_SCRATCH_POOL_BYTES {
            shells.bytes += bytes;
            shells.list.push(shell);
        } else {
            drop(shells);
        }
    }
}

impl BatchScratch {
    fn allocated_bytes(&self) -> usize {
        SCRATCH_BASE_BYTES + self.tokens.capacity() * size_of::<u64>()
    }

    /// A completion for this batch: one that is free, or a new one.
    pub(super) fn reuse_or_create_result(&mut self, of: BatchInfo) -> Arc<ProduceRequestResult> {
        if let Some(mut free) = self.result.take()
            && let Some(done) = Arc::get_mut(&mut free)
        {
            done.reset(of);
            return free;
        }
        ProduceRequestResult::new(of)
    }
}

impl BatchCompletions {
    pub(crate) fn new(
        listeners: Arc<DeliveryListeners>,
        mut shell: BatchScratch,
        of: BatchInfo,
    ) -> BatchCompletions {
        let done = shell.reuse_or_create_result(of);
        let (callbacks, far, deltas, charge) = Default::default();
        let tokens = shell.tokens;
        BatchCompletions {
            tokens,
            callbacks,
            far_timestamps: far,
            timestamp_deltas: deltas,
            result: done,
            listeners,
            charge,
            record_count: 0,
            completed: false,
        }
    }

    /// Adds a record; its delivery, if one is wanted.
    #[inline]
    pub(crate) fn add_record(
        &mut self,
        timestamp: i64,
        token: u64,
        watch: &mut DeliveryOptions,
    ) -> Option<Delivery> {
        let delta = i32::try_from(timestamp.wrapping_sub(self.result.batch.base_timestamp))
            .unwrap_or(DELTA_OVERFLOW);
        if delta == DELTA_OVERFLOW {
            self.far_timestamps.push((self.record_count, timestamp));
        }
        if self.listeners.handler.is_some() {
            self.tokens.push(token);
        }
        if !self.listeners.interceptors.is_empty() {
            self.timestamp_deltas.push(delta);
        }
        if let Some(callback) = watch.callback.take() {
            self.callbacks.push((self.record_count, delta, callback));
        }
        let index = self.record_count;
        self.record_count += 1;
        watch.wants_delivery.then(|| Delivery {
            result: self.result.clone(),
            index,
            timestamp_delta: delta,
        })
    }

    /// No record is added any more: what is kept of each is accounted for from here on.
    pub(crate) fn charge(&mut self, pool: &Arc<BufferPool>) {
        let boxes: usize = self.callbacks.iter().map(|c| size_of_val(&*c.2)).sum();
        let bytes = self.tokens.capacity() * size_of::<u64>()
            + self.callbacks.capacity() * size_of::<(u32, i32, Callback)>()
            + boxes
            + self.timestamp_deltas.capacity() * size_of::<i32>()
            + self.far_timestamps.capacity() * size_of::<(u32, i64)>();
        if bytes > 0 {
            self.charge = Some(pool.account(bytes));
        }
    }

    /// Tells everyone, once.
    pub(crate) fn complete(mut self, outcome: Outcome) {
        self.complete_all(outcome);
    }

    /// Hands the records on to parts of so many each: whoever waits, waits for its part from here on.
    pub(crate) fn split(mut self, counts: &[u32]) -> Vec<BatchCompletions> {
        assert!(!std::mem::replace(&mut self.completed, true), "a batch ends once");
        let done = self.result.clone();
        let (mut parts, mut table, mut first) = (Vec::new(), Vec::new(), 0);
        for count in counts {
            // Differences of timestamps stay what they are: to the first record of the whole.
            let part = self.split_off_part(first, *count);
            table.push((first, part.result.clone()));
            parts.push(part);
            first += count;
        }
        let table: SplitResults = table.into();
        let wakers = {
            let mut inner = done.inner.lock();
            inner.parts = Some(table.clone());
            done.completed.store(true, Ordering::Release);
            std::mem::take(&mut inner.wakers)
        };
        for (index, waker) in wakers {
            let (part, index) = find_part(&table, index);
            part.inner.lock().wakers.push((index, waker));
        }
        parts
    }

    fn split_off_part(&mut self, first: u32, count: u32) -> BatchCompletions {
        let shell = self.listeners.take_scratch(count as usize);
        let mut part =
            BatchCompletions::new(self.listeners.clone(), shell, self.result.batch.clone());
        part.record_count = count;
        let mine = |index: u32| (first..first + count).contains(&index);
        let range = first as usize..(first + count) as usize;
        part.tokens.extend(self.tokens.get(range.clone()).unwrap_or_default());
        part.timestamp_deltas.extend(self.timestamp_deltas.get(range).unwrap_or_default());
        let far = self
            .far_timestamps
            .iter()
            .filter(|f| mine(f.0))
            .map(|(index, at)| (index - first, *at));
        part.far_timestamps.extend(far);
        let (own, rest) = std::mem::take(&mut self.callbacks).into_iter().partition(|c| mine(c.0));
        self.callbacks = rest;
        let own: Vec<_> = own;
        part.callbacks.extend(own.into_iter().map(|(index, delta, f)| (index - first, delta, f)));
        part
    }

    fn complete_all(&mut self, outcome: Outcome) {
        assert!(!std::mem::replace(&mut self.completed, true), "a batch ends once");
        let (done, listeners) = (&self.result, &self.listeners);
        let heard = !self.callbacks.is_empty() || listeners.handler.is_some();
        let wakers = {
            let mut inner = done.inner.lock();
            inner.outcome = Some(outcome.clone());
            inner.far_timestamps = std::mem::take(&mut self.far_timestamps);
            done.completed.store(true, Ordering::Release);
            std::mem::take(&mut inner.wakers)
        };
        if let Outcome::Failed(e) | Outcome::PerRecord { batch_error: e, .. } = &outcome {
            add(&listeners.counters.record_error_total, u64::from(self.record_count));
            let (sensors, failed) = (&listeners.counters.sensors, f64::from(self.record_count));
            let (now, topic) = (done.batch.caller_context.env.now(), &done.batch.partition.topic);
            sensors.record(&[(Sensor::RecordError, failed)], now);
            sensors.record_topic(topic, &[(TopicSensor::RecordError, failed)], now);
            if !heard && wakers.is_empty() {
                tracing::warn!(
                    topic = &*done.batch.partition.topic,
                    partition = done.batch.partition.index,
                    records = self.record_count,
                    "batch failed and nobody listens: {e}"
                );
            }
        }
        assert_unlocked();
        wake_all(wakers.into_iter().map(|(_, w)| w));
        for (index, delta, callback) in self.callbacks.drain(..) {
            let result = done.record_result(&done.inner.lock(), index, delta);
            if let Some(result) = result {
                done.batch.caller_context.run_callback(&listeners.counters, || callback(result));
            }
        }
        if let Some(handler) = &listeners.handler {
            let (result, append_time, own) = match &outcome {
                Outcome::Acknowledged { base_offset: base, log_append_time: append_time } => {
                    (Ok(*base), *append_time, &[][..])
                }
                Outcome::Failed(e) => (Err(e), None, &[][..]),
                Outcome::PerRecord { batch_error: others, record_errors: own } => {
                    (Err(others), None, &own[..])
                }
            };
            let (topic, partition) = (&*done.batch.partition.topic, done.batch.partition.index);
            let tokens = &self.tokens[..];
            let report = BatchReport {
                topic,
                partition,
                tokens,
                result,
                log_append_time: append_time,
                record_errors: own,
            };
            done.batch.caller_context.run_callback(&listeners.counters, || handler(&report));
        }
        if !listeners.interceptors.is_empty() {
            for (index, delta) in self.timestamp_deltas.iter().enumerate() {
                let result = done.record_result(&done.inner.lock(), index as u32, *delta);
                let Some(result) = result else { continue };
                let (topic, partition) =
                    (&done.batch.partition.topic, Some(done.batch.partition.index));
                let counters = &listeners.counters;
                let tell = || {
                    listeners.interceptors.on_acknowledgement(topic, partition, &result, counters);
                };
                done.batch.caller_context.run_callback(counters, tell);
            }
        }
    }
}

impl Drop for BatchCompletions {
    fn drop(&mut self) {
        if !self.completed {
            let e = Error::new(
                ErrorKind::Internal,
                "a batch was dropped before its end was known; this is a bug of ottla, please report it",
            );
            self.complete_all(Outcome::Failed(e.with_status(RecordStatus::PossiblyPersisted)));
        }
        // Deliveries that the application keeps keep their completion.
        let done = (Arc::strong_count(&self.result) == 1).then(|| self.result.clone());
        self.listeners.return_scratch(BatchScratch {
            tokens: std::mem::take(&mut self.tokens),
            result: done,
        });
    }
}
