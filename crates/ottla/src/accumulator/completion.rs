//! How a record's end reaches whoever waits for it: one [`Completion`] a batch, a 16-byte [`Delivery`] a
//! record.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::callers::Callers;
use super::mailbox::Event;
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
    Written { base: Option<i64>, append_time: Option<i64> },
    /// Not acknowledged.
    Failed(Error),
    /// Not acknowledged; some records have a reason of their own (KIP-467), the others share one.
    PerRecord { others: Error, own: Vec<(u32, Error)> },
}

/// Whose end it is.
#[derive(Clone)]
pub(crate) struct CompletionOf {
    pub(crate) partition: Arc<Partition>,
    /// The batch's number.
    pub(crate) number: u64,
    pub(crate) base_timestamp: i64,
    pub(crate) callers: Arc<Callers>,
}

/// A batch's end, shared by its deliveries.
pub(crate) struct Completion {
    pub(super) settled: AtomicBool,
    pub(super) inner: Mutex<Inner>,
    pub(super) of: CompletionOf,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) outcome: Option<Outcome>,
    /// The batch was split: which records ended up in which part.
    pub(super) parts: Option<Parts>,
    pub(super) wakers: Vec<(u32, Waker)>,
    pub(super) far: Vec<(u32, i64)>,
    /// Somebody waits, and the sender was told.
    pub(super) awaited: bool,
}

/// The parts of a batch that was split, each with the index of its first record.
pub(super) type Parts = Arc<[(u32, Arc<Completion>)]>;

/// Where a record's end is to be looked for.
pub(super) fn follow(parts: &Parts, index: u32) -> (Arc<Completion>, u32) {
    let at = parts.partition_point(|(first, _)| *first <= index).saturating_sub(1);
    let (first, part) = &parts[at];
    (part.clone(), index - first)
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Completion of batch {}", self.of.number)
    }
}

impl Completion {
    pub(crate) fn new(of: CompletionOf) -> Arc<Completion> {
        let (settled, inner) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Completion { settled, inner, of })
    }

    /// Begins anew, for another batch: nobody looks at it any more.
    pub(super) fn begin(&mut self, of: CompletionOf) {
        self.of = of;
        self.settled = AtomicBool::new(false);
        self.inner = Mutex::default();
    }

    /// Somebody waits for the first time: whoever waits for an answer is not to wait for others' records.
    fn tell_awaited(&self) {
        if !self.of.callers.awaited {
            return;
        }
        let mailbox = &self.of.callers.mailbox;
        let idle = || !mailbox.is_busy(self.of.partition.leader.load(Ordering::Relaxed));
        // Where nobody reads any more, everything is about to end anyhow.
        let _ = mailbox.post_if(
            Event::Awaited(self.of.partition.clone(), self.of.number),
            Tick(0),
            idle,
        );
    }

    /// The part that a record went to, if the batch was split.
    fn part_of(&self, index: u32) -> Option<(Arc<Completion>, u32)> {
        if !self.settled.load(Ordering::Acquire) {
            return None;
        }
        let parts = self.inner.lock().parts.clone();
        parts.map(|parts| follow(&parts, index))
    }

    pub(super) fn result(
        &self,
        inner: &Inner,
        index: u32,
        delta: i32,
    ) -> Option<Result<RecordMetadata, Error>> {
        Some(match inner.outcome.as_ref()? {
            Outcome::Written { base, append_time } => Ok(RecordMetadata {
                topic: self.of.partition.topic.clone(),
                partition: self.of.partition.index,
                // A base near the end of the range is a broker's nonsense, and no reason to panic.
                offset: base.map(|b| b.saturating_add(i64::from(index))),
                timestamp: append_time.unwrap_or_else(|| match delta {
                    FAR => inner.far.iter().find(|f| f.0 == index).map_or(-1, |f| f.1),
                    delta => self.of.base_timestamp + i64::from(delta),
                }),
            }),
            Outcome::Failed(e) => Err(e.clone()),
            Outcome::PerRecord { others, own } => {
                Err(own.iter().find(|o| o.0 == index).map_or(others, |o| &o.1).clone())
            }
        })
    }
}

/// A timestamp too far from the batch's first for 32 bits.
pub(super) const FAR: i32 = i32::MIN;

/// The end of one record: a future, and something to [`wait`](Delivery::wait) for.
///
/// It holds no buffer alive, and dropping it cancels nothing: the record is sent all the same.
pub struct Delivery {
    pub(super) done: Arc<Completion>,
    pub(super) index: u32,
    pub(super) delta: i32,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({}-{} #{})", self.topic(), self.partition(), self.index)
    }
}

impl Delivery {
    /// The topic the record goes to.
    pub fn topic(&self) -> &str {
        &self.done.of.partition.topic
    }

    /// The partition that was chosen.
    pub fn partition(&self) -> i32 {
        self.done.of.partition.index
    }

    /// The end, if it has come.
    pub fn try_result(&self) -> Option<Result<RecordMetadata, Error>> {
        if !self.done.settled.load(Ordering::Acquire) {
            return None;
        }
        let (mut done, mut index) = (self.done.clone(), self.index);
        while let Some(part) = done.part_of(index) {
            (done, index) = part;
        }
        let inner = done.inner.lock();
        done.result(&inner, index, self.delta)
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
        let callers = self.done.of.callers.clone();
        callers.may_wait("Delivery::wait")?;
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
        let callers = self.done.of.callers.clone();
        if let Err(e) = callers.may_wait("Delivery::wait_timeout") {
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
            let mut inner = this.done.inner.lock();
            if let Some(parts) = inner.parts.clone() {
                drop(inner);
                (this.done, this.index) = follow(&parts, this.index);
                continue;
            }
            if let Some(result) = this.done.result(&inner, this.index, this.delta) {
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
                this.done.tell_awaited();
            }
            return Poll::Pending;
        }
    }
}
