//! How a record's end reaches whoever waits for it: one [`Completion`] a batch, a 16-byte [`Delivery`] a
//! record.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::caller_context::CallerContext;
use super::event_queue::Event;
use super::partition::Partition;
use crate::error::{Error, ErrorKind};
use crate::sync::Mutex;
use crate::time::Tick;

/// Where an acknowledged record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordMetadata {
    topic: Arc<str>,
    partition: i32,
    offset: Option<i64>,
    timestamp: i64,
}

impl RecordMetadata {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The offset in the partition's log; `None` with `acks=0`, or when the broker answered that it has the
    /// record already.
    pub fn offset(&self) -> Option<i64> {
        self.offset
    }

    /// Milliseconds since the epoch: the broker's time where the topic takes log-append time, else the
    /// record's own.
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }
}

/// How a batch ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// In the log from this offset on (`None` when not told), with the broker's time if it gave one.
    Acknowledged { base_offset: Option<i64>, log_append_time: Option<i64> },
    /// Not acknowledged.
    Failed(Error),
    /// Not acknowledged; some records have a reason of their own (KIP-467), the others share one.
    PerRecord { batch_error: Error, record_errors: Vec<(u32, Error)> },
}

/// Whose end it is.
#[derive(Clone)]
pub(crate) struct BatchInfo {
    pub(crate) partition: Arc<Partition>,
    /// The batch's number.
    pub(crate) number: u64,
    pub(crate) base_timestamp: i64,
    pub(crate) caller_context: Arc<CallerContext>,
}

/// A batch's end, shared by its deliveries.
pub(crate) struct ProduceRequestResult {
    pub(super) completed: AtomicBool,
    pub(super) inner: Mutex<ResultState>,
    pub(super) batch: BatchInfo,
}

#[derive(Default)]
pub(super) struct ResultState {
    pub(super) outcome: Option<Outcome>,
    /// The batch was split: which records ended up in which part.
    pub(super) parts: Option<SplitResults>,
    pub(super) wakers: Vec<(u32, Waker)>,
    pub(super) far_timestamps: Vec<(u32, i64)>,
    /// Somebody waits, and the sender was told.
    pub(super) awaited: bool,
}

/// The parts of a batch that was split, each with the index of its first record.
pub(super) type SplitResults = Arc<[(u32, Arc<ProduceRequestResult>)]>;

/// Where a record's end is to be looked for.
pub(super) fn find_part(parts: &SplitResults, index: u32) -> (Arc<ProduceRequestResult>, u32) {
    let at = parts.partition_point(|(first, _)| *first <= index).saturating_sub(1);
    let (first, part) = &parts[at];
    (part.clone(), index - first)
}

impl fmt::Debug for ProduceRequestResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Completion of batch {}", self.batch.number)
    }
}

impl ProduceRequestResult {
    pub(crate) fn new(of: BatchInfo) -> Arc<ProduceRequestResult> {
        let (settled, inner) = (AtomicBool::new(false), Mutex::default());
        Arc::new(ProduceRequestResult { completed: settled, inner, batch: of })
    }

    /// Begins anew, for another batch: nobody looks at it any more.
    pub(super) fn reset(&mut self, of: BatchInfo) {
        self.batch = of;
        self.completed = AtomicBool::new(false);
        self.inner = Mutex::default();
    }

    /// Somebody waits for the first time: whoever waits for an answer is not to wait for others' records.
    fn notify_awaited(&self) {
        if !self.batch.caller_context.linger_awaited {
            return;
        }
        let mailbox = &self.batch.caller_context.events;
        let idle = || !mailbox.is_busy(self.batch.partition.leader.load(Ordering::Relaxed));
        // Where nobody reads any more, everything is about to end anyhow.
        let _ = mailbox.post_if(
            Event::BatchAwaited(self.batch.partition.clone(), self.batch.number),
            Tick(0),
            idle,
        );
    }

    /// The part that a record went to, if the batch was split.
    fn part_of(&self, index: u32) -> Option<(Arc<ProduceRequestResult>, u32)> {
        if !self.completed.load(Ordering::Acquire) {
            return None;
        }
        let parts = self.inner.lock().parts.clone();
        parts.map(|parts| find_part(&parts, index))
    }

    pub(super) fn record_result(
        &self,
        inner: &ResultState,
        index: u32,
        delta: i32,
    ) -> Option<Result<RecordMetadata, Error>> {
        Some(match inner.outcome.as_ref()? {
            Outcome::Acknowledged { base_offset: base, log_append_time: append_time } => {
                Ok(RecordMetadata {
                    topic: self.batch.partition.topic.clone(),
                    partition: self.batch.partition.index,
                    // A base near the end of the range is a broker's nonsense, and no reason to panic.
                    offset: base.map(|b| b.saturating_add(i64::from(index))),
                    timestamp: append_time.unwrap_or_else(|| match delta {
                        DELTA_OVERFLOW => {
                            inner.far_timestamps.iter().find(|f| f.0 == index).map_or(-1, |f| f.1)
                        }
                        delta => self.batch.base_timestamp + i64::from(delta),
                    }),
                })
            }
            Outcome::Failed(e) => Err(e.clone()),
            Outcome::PerRecord { batch_error: others, record_errors: own } => {
                Err(own.iter().find(|o| o.0 == index).map_or(others, |o| &o.1).clone())
            }
        })
    }
}

/// A timestamp too far from the batch's first for 32 bits.
pub(super) const DELTA_OVERFLOW: i32 = i32::MIN;

/// The end of one record: a future, and something to [`wait`](Delivery::wait) for.
///
/// It holds no buffer alive, and dropping it cancels nothing: the record is sent all the same.
pub struct Delivery {
    pub(super) result: Arc<ProduceRequestResult>,
    pub(super) index: u32,
    pub(super) timestamp_delta: i32,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({}-{} #{})", self.topic(), self.partition(), self.index)
    }
}

impl Delivery {
    /// The topic the record goes to.
    pub fn topic(&self) -> &str {
        &self.result.batch.partition.topic
    }

    /// The partition that was chosen.
    pub fn partition(&self) -> i32 {
        self.result.batch.partition.index
    }

    /// The end, if it has come.
    pub fn try_result(&self) -> Option<Result<RecordMetadata, Error>> {
        if !self.result.completed.load(Ordering::Acquire) {
            return None;
        }
        let (mut done, mut index) = (self.result.clone(), self.index);
        while let Some(part) = done.part_of(index) {
            (done, index) = part;
        }
        let inner = done.inner.lock();
        done.record_result(&inner, index, self.timestamp_delta)
    }

    /// Blocks until the record is acknowledged or has failed; at most about `delivery.timeout.ms`.
    ///
    /// Inside an async executor this blocks the executor's thread: `.await` the delivery instead.
    ///
    /// # Errors
    /// Why the record was not acknowledged, and whether it may have been written.
    /// [`ErrorKind::WouldDeadlock`] inside a callback.
    pub fn wait(self) -> Result<RecordMetadata, Error> {
        if let Some(result) = self.try_result() {
            return result;
        }
        let callers = self.result.batch.caller_context.clone();
        callers.check_can_block("Delivery::wait")?;
        match callers.block_on(self, None) {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Internal, "an endless wait ended")),
        }
    }

    /// As [`wait`](Delivery::wait), blocking for at most this long.
    ///
    /// # Errors
    /// The delivery itself when the time is over first, so that it can be waited for again.
    pub fn wait_timeout(
        self,
        timeout: Duration,
    ) -> Result<Result<RecordMetadata, Error>, Delivery> {
        if let Some(result) = self.try_result() {
            return Ok(result);
        }
        let callers = self.result.batch.caller_context.clone();
        if let Err(e) = callers.check_can_block("Delivery::wait_timeout") {
            return Ok(Err(e));
        }
        let until = callers.env.now().after(timeout);
        callers.block_on(self, Some(until))
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let waker = cx.waker().clone();
        loop {
            let mut inner = this.result.inner.lock();
            if let Some(parts) = inner.parts.clone() {
                drop(inner);
                (this.result, this.index) = find_part(&parts, this.index);
                continue;
            }
            if let Some(result) =
                this.result.record_result(&inner, this.index, this.timestamp_delta)
            {
                drop(inner);
                return Poll::Ready(result);
            }
            let old = match inner.wakers.iter_mut().find(|w| w.0 == this.index) {
                Some(mine) => Some(std::mem::replace(&mut mine.1, waker)),
                None => {
                    inner.wakers.push((this.index, waker));
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
