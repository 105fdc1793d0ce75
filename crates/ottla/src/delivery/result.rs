//! The outcome of a batch: one [`ProduceRequestResult`] per batch, and a 16-byte [`Delivery`] per
//! record that refers to it.
//!
//! [`BatchCompletions`](super::batch_completions::BatchCompletions) stores the outcome. The
//! application reads it through its deliveries.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::record::SerializedSizes;
use crate::sync::Mutex;
use crate::time::Tick;
use crate::wakeup::caller_context::CallerContext;
use crate::wakeup::event_queue::Event;

/// The position of an acknowledged record in its topic.
///
/// ```
/// fn log(metadata: &ottla::RecordMetadata) {
///     let (topic, partition) = (metadata.topic(), metadata.partition());
///     match metadata.offset() {
///         Some(offset) => println!("{topic}-{partition} at offset {offset}"),
///         None => println!("{topic}-{partition} at an unknown offset, for example with acks=0"),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordMetadata {
    topic: Arc<str>,
    partition: i32,
    offset: Option<i64>,
    timestamp: i64,
    sizes: Option<SerializedSizes>,
}

impl RecordMetadata {
    /// Returns the sizes of the record's key and value, as Java's `serializedKeySize` and
    /// `serializedValueSize`.
    ///
    /// A callback and an interceptor receive them. `None` from a [`Delivery`]: its 16 bytes have no
    /// room for them, and the record's bytes are gone when it completes.
    pub fn serialized_sizes(&self) -> Option<SerializedSizes> {
        self.sizes
    }

    /// Returns the topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Returns the offset in the partition's log.
    ///
    /// The offset is `None` with `acks=0`, and when the broker responded that it has the record
    /// already (DUPLICATE_SEQUENCE_NUMBER).
    pub fn offset(&self) -> Option<i64> {
        self.offset
    }

    /// Returns the timestamp in milliseconds since the epoch.
    ///
    /// This is the broker's time if the topic has `message.timestamp.type=LogAppendTime`, else the
    /// record's own.
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }
}

/// The final result of a batch.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The batch is in the log. `base_offset` is `None` if the broker did not report it.
    /// `log_append_time` is the broker's time in milliseconds, if it set one.
    Acknowledged { base_offset: Option<i64>, log_append_time: Option<i64> },
    /// The batch failed.
    Failed(Error),
    /// The batch failed. Some records have an error of their own (KIP-467), the others share
    /// `batch_error`.
    PerRecord { batch_error: Error, record_errors: Vec<RecordError> },
}

/// The error of a single record in a batch that failed (KIP-467).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RecordError {
    /// The index of the record in its batch.
    pub index: u32,
    /// Why the broker rejected the record.
    pub error: Error,
}

/// The batch that a result belongs to.
#[derive(Clone)]
pub(crate) struct BatchInfo {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// The id by which events name the partition.
    pub(crate) partition_id: u32,
    /// The leader's node id when the batch was opened, −1 for none.
    pub(crate) leader: i32,
    /// The batch's number.
    pub(crate) number: u64,
    pub(crate) base_timestamp: i64,
    pub(crate) caller_context: Arc<CallerContext>,
}

/// The result of a batch, which its deliveries share.
pub(crate) struct ProduceRequestResult {
    /// Whether `inner` has an outcome or parts. Deliveries read it without the lock.
    pub(crate) completed: AtomicBool,
    pub(crate) inner: Mutex<ResultState>,
    pub(crate) batch: BatchInfo,
}

#[derive(Default)]
pub(crate) struct ResultState {
    pub(crate) outcome: Option<Outcome>,
    /// The results of the parts, if the batch was split.
    pub(crate) parts: Option<SplitResults>,
    pub(crate) wakers: Vec<RecordWaker>,
    pub(crate) far_timestamps: Vec<FarTimestamp>,
    /// Whether a caller has waited for a record, and the sender was notified of that.
    pub(crate) awaited: bool,
}

/// The waker of a caller that waits for a record.
pub(crate) struct RecordWaker {
    pub(crate) record_index: u32,
    pub(crate) waker: Waker,
}

/// The timestamp of a record for which its delivery has [`DELTA_OVERFLOW`].
pub(crate) struct FarTimestamp {
    pub(crate) record_index: u32,
    pub(crate) timestamp: i64,
}

/// The parts of a split batch, in the order of their records.
///
/// A part has a result of its own. Deliveries, callbacks and flushes of the original batch follow
/// to the part that holds their record.
pub(crate) type SplitResults = Arc<[SplitResult]>;

/// One part of a split batch.
pub(crate) struct SplitResult {
    /// The index in the original batch of the part's first record.
    pub(crate) first_index: u32,
    pub(crate) result: Arc<ProduceRequestResult>,
}

/// Returns the part that holds a record, and the record's index in that part.
pub(crate) fn find_part(parts: &SplitResults, index: u32) -> (Arc<ProduceRequestResult>, u32) {
    let i = parts.partition_point(|p| p.first_index <= index).saturating_sub(1);
    let part = &parts[i];
    (part.result.clone(), index - part.first_index)
}

impl fmt::Debug for ProduceRequestResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProduceRequestResult(batch {})", self.batch.number)
    }
}

impl ProduceRequestResult {
    pub(crate) fn new(batch: BatchInfo) -> Arc<ProduceRequestResult> {
        let completed = AtomicBool::new(false);
        Arc::new(ProduceRequestResult { completed, inner: Mutex::default(), batch })
    }

    /// Prepares the result for another batch. No delivery refers to it any more.
    pub(crate) fn reset(&mut self, batch: BatchInfo) {
        self.batch = batch;
        self.completed = AtomicBool::new(false);
        self.inner = Mutex::default();
    }

    /// Notifies the sender that a caller waits for a record of this batch.
    ///
    /// With `linger.awaited` the sender then ends the batch's linger. A caller that waits for its
    /// response does not also wait for the records of other callers.
    fn notify_awaited(&self) {
        if !self.batch.caller_context.linger_awaited {
            return;
        }
        let events = &self.batch.caller_context.events;
        // If the leader has changed since, the event may wake the sender too late: when the old
        // leader responds. It never wakes it later than the end of the linger.
        let is_idle = || !events.is_busy(self.batch.leader);
        let event = Event::BatchAwaited {
            partition_id: self.batch.partition_id,
            batch_number: self.batch.number,
        };
        // If the sender has ended, the batch completes without this event.
        let _ = events.post_if(event, Tick(0), is_idle);
    }

    /// Returns the part that holds a record and the index there, if the batch was split.
    fn part_of(&self, index: u32) -> Option<(Arc<ProduceRequestResult>, u32)> {
        if !self.completed.load(Ordering::Acquire) {
            return None;
        }
        let parts = self.inner.lock().parts.clone();
        parts.map(|parts| find_part(&parts, index))
    }

    /// Returns the result of one record, or `None` if the batch is not completed.
    pub(crate) fn record_result(
        &self,
        inner: &ResultState,
        index: u32,
        timestamp_delta: i32,
        sizes: Option<SerializedSizes>,
    ) -> Option<Result<RecordMetadata, Error>> {
        Some(match inner.outcome.as_ref()? {
            Outcome::Acknowledged { base_offset, log_append_time } => Ok(RecordMetadata {
                topic: self.batch.topic.clone(),
                partition: self.batch.partition,
                // The offset comes from the broker. An invalid one must not cause an overflow.
                offset: base_offset.map(|b| b.saturating_add(i64::from(index))),
                timestamp: log_append_time.unwrap_or_else(|| match timestamp_delta {
                    DELTA_OVERFLOW => inner
                        .far_timestamps
                        .iter()
                        .find(|f| f.record_index == index)
                        .map_or(-1, |f| f.timestamp),
                    delta => self.batch.base_timestamp + i64::from(delta),
                }),
                sizes,
            }),
            Outcome::Failed(e) => Err(e.clone()),
            Outcome::PerRecord { batch_error, record_errors } => Err(record_errors
                .iter()
                .find(|r| r.index == index)
                .map_or(batch_error, |r| &r.error)
                .clone()),
        })
    }
}

/// The delta of a timestamp that is too far from the batch's base timestamp for 32 bits.
pub(crate) const DELTA_OVERFLOW: i32 = i32::MIN;

/// The pending result of one record: a future that also has a blocking [`wait`](Delivery::wait).
///
/// A delivery keeps no buffer memory in use. Dropping it cancels nothing: the record is sent
/// anyway.
///
/// ```no_run
/// use ottla::{Producer, Record};
///
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let delivery = producer.send(Record::to("orders").value("3 apples"))?;
/// match delivery.wait() {
///     Ok(metadata) => println!("acknowledged at offset {:?}", metadata.offset()),
///     Err(e) => eprintln!("failed: {e} ({:?})", e.record_status()),
/// }
/// # Ok(()) }
/// ```
///
/// In async code, `.await` it:
///
/// ```
/// async fn send(producer: &ottla::Producer) -> Result<Option<i64>, ottla::Error> {
///     let delivery = producer.send_async(ottla::Record::to("orders").value("3 apples")).await?;
///     Ok(delivery.await?.offset())
/// }
/// ```
pub struct Delivery {
    pub(crate) result: Arc<ProduceRequestResult>,
    pub(crate) index: u32,
    pub(crate) timestamp_delta: i32,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({}-{} #{})", self.topic(), self.partition(), self.index)
    }
}

impl Delivery {
    /// Returns the topic of the record.
    pub fn topic(&self) -> &str {
        &self.result.batch.topic
    }

    /// Returns the partition that was chosen for the record.
    pub fn partition(&self) -> i32 {
        self.result.batch.partition
    }

    /// Returns the result if the record is completed. Does not block.
    pub fn try_result(&self) -> Option<Result<RecordMetadata, Error>> {
        if !self.result.completed.load(Ordering::Acquire) {
            return None;
        }
        let (mut result, mut index) = (self.result.clone(), self.index);
        while let Some(part) = result.part_of(index) {
            (result, index) = part;
        }
        let inner = result.inner.lock();
        result.record_result(&inner, index, self.timestamp_delta, None)
    }

    /// Blocks until the record is acknowledged or has failed, at most about `delivery.timeout.ms`.
    ///
    /// In async code this blocks the executor's thread: `.await` the delivery instead.
    ///
    /// # Errors
    /// Returns the reason why the record was not acknowledged, with a
    /// [`record_status`](Error::record_status). Returns [`ErrorKind::WouldDeadlock`] in a callback.
    pub fn wait(self) -> Result<RecordMetadata, Error> {
        if let Some(result) = self.try_result() {
            return result;
        }
        let caller_context = self.result.batch.caller_context.clone();
        caller_context.check_can_block("Delivery::wait")?;
        match caller_context.block_on(self, None) {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorKind::Internal,
                "Delivery::wait failed: a wait without a deadline ended early; \
                 this is a bug in ottla, please report it",
            )),
        }
    }

    /// Blocks like [`wait`](Delivery::wait), but at most for `timeout`.
    ///
    /// # Errors
    /// Returns the delivery if the timeout expires first, so that the caller can wait again.
    pub fn wait_timeout(
        self,
        timeout: Duration,
    ) -> Result<Result<RecordMetadata, Error>, Delivery> {
        if let Some(result) = self.try_result() {
            return Ok(result);
        }
        let caller_context = self.result.batch.caller_context.clone();
        if let Err(e) = caller_context.check_can_block("Delivery::wait_timeout") {
            return Ok(Err(e));
        }
        let deadline = caller_context.env.now().after(timeout);
        caller_context.block_on(self, Some(deadline))
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // Cloned and dropped outside the lock: a waker is foreign code.
        let waker = cx.waker().clone();
        loop {
            let mut inner = this.result.inner.lock();
            if let Some(parts) = inner.parts.clone() {
                drop(inner);
                (this.result, this.index) = find_part(&parts, this.index);
                continue;
            }
            // While callbacks run, the outcome is there, but the delivery is not completed yet.
            if this.result.completed.load(Ordering::Acquire)
                && let Some(result) =
                    this.result.record_result(&inner, this.index, this.timestamp_delta, None)
            {
                drop(inner);
                return Poll::Ready(result);
            }
            let old = match inner.wakers.iter_mut().find(|w| w.record_index == this.index) {
                Some(own) => Some(std::mem::replace(&mut own.waker, waker)),
                None => {
                    inner.wakers.push(RecordWaker { record_index: this.index, waker });
                    None
                }
            };
            let first = !std::mem::replace(&mut inner.awaited, true);
            drop(inner);
            drop(old);
            if first {
                this.result.notify_awaited();
            }
            return Poll::Pending;
        }
    }
}
