//! How a record's end reaches whoever waits for it: one [`Completion`] a batch, a 16-byte [`Delivery`] a
//! record, callbacks, and the producer-wide handler.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::{Certainty, Error, ErrorKind};
use crate::metrics::{Counters, add};
use crate::sync::{Mutex, assert_unlocked, wake_all};
use crate::time::Env;

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

/// What callers and the sender share beyond batches: how to wait, and where callbacks run just now.
pub(crate) struct Callers {
    pub(crate) env: Arc<dyn Env>,
    in_callback: Mutex<Option<std::thread::ThreadId>>,
    /// The sender's own thread, where it has one.
    sender: OnceLock<std::thread::ThreadId>,
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callers")
    }
}

impl Callers {
    pub(crate) fn new(env: Arc<dyn Env>) -> Arc<Callers> {
        Arc::new(Callers { env, in_callback: Mutex::new(None), sender: OnceLock::new() })
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

    fn callback(&self, counters: &Counters, f: impl FnOnce()) {
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
        until: Option<crate::time::Tick>,
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

/// A batch's end, shared by its deliveries.
pub(crate) struct Completion {
    settled: AtomicBool,
    inner: Mutex<Inner>,
    topic: Arc<str>,
    partition: i32,
    base_timestamp: i64,
    callers: Arc<Callers>,
}

#[derive(Default)]
struct Inner {
    outcome: Option<Outcome>,
    /// The batch was split: which records ended up in which part.
    parts: Option<Parts>,
    wakers: Vec<(u32, Waker)>,
    far: Vec<(u32, i64)>,
}

/// The parts of a batch that was split, each with the index of its first record.
type Parts = Arc<[(u32, Arc<Completion>)]>;

/// Where a record's end is to be looked for.
fn follow(parts: &Parts, index: u32) -> (Arc<Completion>, u32) {
    let at = parts.partition_point(|(first, _)| *first <= index).saturating_sub(1);
    let (first, part) = &parts[at];
    (part.clone(), index - first)
}

impl Completion {
    pub(crate) fn new(
        topic: Arc<str>,
        partition: i32,
        base_timestamp: i64,
        callers: Arc<Callers>,
    ) -> Arc<Completion> {
        let (settled, inner) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Completion { settled, inner, topic, partition, base_timestamp, callers })
    }

    /// The part that a record went to, if the batch was split.
    fn part_of(&self, index: u32) -> Option<(Arc<Completion>, u32)> {
        if !self.settled.load(Ordering::Acquire) {
            return None;
        }
        let parts = self.inner.lock().parts.clone();
        parts.map(|parts| follow(&parts, index))
    }

    fn result(
        &self,
        inner: &Inner,
        index: u32,
        delta: i32,
    ) -> Option<Result<RecordMetadata, Error>> {
        Some(match inner.outcome.as_ref()? {
            Outcome::Written { base, append_time } => Ok(RecordMetadata {
                topic: self.topic.clone(),
                partition: self.partition,
                // A base near the end of the range is a broker's nonsense, and no reason to panic.
                offset: base.map(|b| b.saturating_add(i64::from(index))),
                timestamp: append_time.unwrap_or_else(|| match delta {
                    FAR => inner.far.iter().find(|f| f.0 == index).map_or(-1, |f| f.1),
                    delta => self.base_timestamp + i64::from(delta),
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
const FAR: i32 = i32::MIN;

/// The end of one record: a future, and something to [`wait`](Delivery::wait) for.
///
/// It holds no buffer alive, and dropping it cancels nothing: the record is sent all the same.
pub struct Delivery {
    done: Arc<Completion>,
    index: u32,
    delta: i32,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({}-{} #{})", self.done.topic, self.done.partition, self.index)
    }
}

impl Delivery {
    /// The topic the record goes to.
    pub fn topic(&self) -> &str {
        &self.done.topic
    }

    /// The partition that was chosen.
    pub fn partition(&self) -> i32 {
        self.done.partition
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
        let callers = self.done.callers.clone();
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
        let callers = self.done.callers.clone();
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
            drop(inner);
            drop(old);
            return Poll::Pending;
        }
    }
}

/// What a record's callback is given.
pub(crate) type Callback = Box<dyn FnOnce(Result<RecordMetadata, Error>) + Send>;

/// Who is told of a batch's end, and how. Dropped without having been told, it tells them of a bug.
pub(crate) struct Ends {
    tokens: Vec<u64>,
    callbacks: Vec<(u32, i32, Callback)>,
    /// Timestamps too far from the first for a [`Delivery`] to carry the difference.
    far: Vec<(u32, i64)>,
    /// Each record's timestamp less the first's, for interceptors alone.
    deltas: Vec<i32>,
    done: Arc<Completion>,
    listeners: Arc<Listeners>,
    count: u32,
    told: bool,
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ends of {} records", self.count)
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
    pub append_time: Option<i64>,
    /// Records with a reason of their own, by index in `tokens`.
    pub own: &'a [(u32, Error)],
}

/// The producer-wide handler.
pub(crate) type Handler = Box<dyn Fn(&BatchReport<'_>) + Send + Sync>;

/// Who listens to every batch.
#[derive(Default)]
pub(crate) struct Listeners {
    pub(crate) handler: Option<Handler>,
    pub(crate) interceptors: crate::producer::Interceptors,
    pub(crate) counters: Arc<Counters>,
}

impl Ends {
    pub(crate) fn new(done: Arc<Completion>, listeners: Arc<Listeners>) -> Ends {
        let (tokens, callbacks, far, deltas) = Default::default();
        Ends { tokens, callbacks, far, deltas, done, listeners, count: 0, told: false }
    }

    /// Adds a record; its delivery.
    #[inline]
    pub(crate) fn add(
        &mut self,
        timestamp: i64,
        token: u64,
        callback: Option<Callback>,
    ) -> Delivery {
        let delta = i32::try_from(timestamp.wrapping_sub(self.done.base_timestamp)).unwrap_or(FAR);
        if delta == FAR {
            self.far.push((self.count, timestamp));
        }
        let delivery = Delivery { done: self.done.clone(), index: self.count, delta };
        if self.listeners.handler.is_some() {
            self.tokens.push(token);
        }
        if !self.listeners.interceptors.is_empty() {
            self.deltas.push(delta);
        }
        if let Some(callback) = callback {
            self.callbacks.push((self.count, delivery.delta, callback));
        }
        self.count += 1;
        delivery
    }

    /// Tells everyone, once.
    pub(crate) fn settle(mut self, outcome: Outcome) {
        self.tell(outcome);
    }

    /// Hands the records on to parts of so many each: whoever waits, waits for its part from here on.
    pub(crate) fn split(mut self, counts: &[u32]) -> Vec<Ends> {
        assert!(!std::mem::replace(&mut self.told, true), "a batch ends once");
        let done = self.done.clone();
        let (mut parts, mut table, mut first) = (Vec::new(), Vec::new(), 0);
        for count in counts {
            // Differences of timestamps stay what they are: to the first record of the whole.
            let topic = done.topic.clone();
            let part =
                Completion::new(topic, done.partition, done.base_timestamp, done.callers.clone());
            table.push((first, part.clone()));
            parts.push(self.part(part, first, *count));
            first += count;
        }
        let table: Parts = table.into();
        let wakers = {
            let mut inner = done.inner.lock();
            inner.parts = Some(table.clone());
            done.settled.store(true, Ordering::Release);
            std::mem::take(&mut inner.wakers)
        };
        for (index, waker) in wakers {
            let (part, index) = follow(&table, index);
            part.inner.lock().wakers.push((index, waker));
        }
        parts
    }

    fn part(&mut self, done: Arc<Completion>, first: u32, count: u32) -> Ends {
        let mut part = Ends::new(done, self.listeners.clone());
        part.count = count;
        let mine = |index: u32| (first..first + count).contains(&index);
        let range = first as usize..(first + count) as usize;
        part.tokens.extend(self.tokens.get(range.clone()).unwrap_or_default());
        part.deltas.extend(self.deltas.get(range).unwrap_or_default());
        let far = self.far.iter().filter(|f| mine(f.0)).map(|(index, at)| (index - first, *at));
        part.far.extend(far);
        let (own, rest) = std::mem::take(&mut self.callbacks).into_iter().partition(|c| mine(c.0));
        self.callbacks = rest;
        let own: Vec<_> = own;
        part.callbacks.extend(own.into_iter().map(|(index, delta, f)| (index - first, delta, f)));
        part
    }

    fn tell(&mut self, outcome: Outcome) {
        assert!(!std::mem::replace(&mut self.told, true), "a batch ends once");
        let (done, listeners) = (&self.done, &self.listeners);
        let heard = !self.callbacks.is_empty() || listeners.handler.is_some();
        let wakers = {
            let mut inner = done.inner.lock();
            inner.outcome = Some(outcome.clone());
            inner.far = std::mem::take(&mut self.far);
            done.settled.store(true, Ordering::Release);
            std::mem::take(&mut inner.wakers)
        };
        if let Outcome::Failed(e) | Outcome::PerRecord { others: e, .. } = &outcome {
            add(&listeners.counters.record_error_total, u64::from(self.count));
            if !heard && wakers.is_empty() {
                tracing::warn!(
                    topic = &*done.topic,
                    partition = done.partition,
                    records = self.count,
                    "batch failed and nobody listens: {e}"
                );
            }
        }
        assert_unlocked();
        wake_all(wakers.into_iter().map(|(_, w)| w));
        for (index, delta, callback) in self.callbacks.drain(..) {
            let result = done.result(&done.inner.lock(), index, delta);
            if let Some(result) = result {
                done.callers.callback(&listeners.counters, || callback(result));
            }
        }
        if let Some(handler) = &listeners.handler {
            let (result, append_time, own) = match &outcome {
                Outcome::Written { base, append_time } => (Ok(*base), *append_time, &[][..]),
                Outcome::Failed(e) => (Err(e), None, &[][..]),
                Outcome::PerRecord { others, own } => (Err(others), None, &own[..]),
            };
            let (topic, partition, tokens) = (&*done.topic, done.partition, &self.tokens[..]);
            let report = BatchReport { topic, partition, tokens, result, append_time, own };
            done.callers.callback(&listeners.counters, || handler(&report));
        }
        if !listeners.interceptors.is_empty() {
            for (index, delta) in self.deltas.iter().enumerate() {
                let result = done.result(&done.inner.lock(), index as u32, *delta);
                let Some(result) = result else { continue };
                let (topic, partition) = (&done.topic, Some(done.partition));
                let counters = &listeners.counters;
                let tell =
                    || listeners.interceptors.acknowledged(topic, partition, &result, counters);
                done.callers.callback(counters, tell);
            }
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if !self.told {
            let e = Error::new(
                ErrorKind::Internal,
                "a batch was dropped before its end was known; this is a bug of ottla, please report it",
            );
            self.tell(Outcome::Failed(e.certain(Certainty::PossiblyWritten)));
        }
    }
}
