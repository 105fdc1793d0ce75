//! Who is told of a batch's end, and how: deliveries, callbacks, the producer-wide handler, interceptors.

use crate::sync::atomic::Ordering;
use std::fmt;
use std::sync::Arc;

use super::append::Watch;
use super::buffer_pool::{BufferPool, Charge};
use super::completion::{
    Completion, CompletionOf, Delivery, FAR, Outcome, Parts, RecordMetadata, follow,
};
use crate::error::{Certainty, Error, ErrorKind};
use crate::metrics::{Counters, Sensor, TopicSensor, add};
use crate::sync::{Mutex, assert_unlocked, wake_all};

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
    /// What all of this takes of `buffer.memory`, once it grows no more.
    charge: Option<Charge>,
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
    /// What batches that ended have left for those to come.
    shells: Mutex<Shells>,
}

#[derive(Default)]
struct Shells {
    list: Vec<Shell>,
    /// What all of them take, about.
    bytes: usize,
}

/// What is made once and goes from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Shell {
    /// Room for tokens.
    tokens: Vec<u64>,
    /// A completion that nobody looks at any more.
    done: Option<Arc<Completion>>,
}

/// Bytes of shells that are kept; batches beyond that make theirs.
const SHELLS_KEPT: usize = 4 << 20;
/// Bytes of a shell beside its tokens.
const SHELL: usize = 256;

impl Listeners {
    pub(crate) fn new(
        handler: Option<Handler>,
        interceptors: crate::producer::Interceptors,
        counters: Arc<Counters>,
    ) -> Arc<Listeners> {
        Arc::new(Listeners { handler, interceptors, counters, shells: Mutex::default() })
    }

    /// A shell with room for about so many tokens, if there is a handler to be given them.
    pub(super) fn shell(&self, expected: usize) -> Shell {
        let mut shell = {
            let mut shells = self.shells.lock();
            let shell = shells.list.pop().unwrap_or_default();
            shells.bytes = shells.bytes.saturating_sub(shell.bytes());
            shell
        };
        if self.handler.is_some() {
            // Some more, so that one record more than last time does not make it grow.
            shell.tokens.reserve_exact(expected + expected / 8 + 4);
        }
        shell
    }

    pub(crate) fn give_back(&self, mut shell: Shell) {
        shell.tokens.clear();
        let bytes = shell.bytes();
        let mut shells = self.shells.lock();
        if shells.bytes + bytes <= SHELLS_KEPT {
            shells.bytes += bytes;
            shells.list.push(shell);
        } else {
            drop(shells);
        }
    }
}

impl Shell {
    fn bytes(&self) -> usize {
        SHELL + self.tokens.capacity() * size_of::<u64>()
    }

    /// A completion for this batch: one that is free, or a new one.
    pub(super) fn completion(&mut self, of: CompletionOf) -> Arc<Completion> {
        if let Some(mut free) = self.done.take()
            && let Some(done) = Arc::get_mut(&mut free)
        {
            done.begin(of);
            return free;
        }
        Completion::new(of)
    }
}

impl Ends {
    pub(crate) fn new(listeners: Arc<Listeners>, mut shell: Shell, of: CompletionOf) -> Ends {
        let done = shell.completion(of);
        let (callbacks, far, deltas, charge) = Default::default();
        let tokens = shell.tokens;
        Ends { tokens, callbacks, far, deltas, done, listeners, charge, count: 0, told: false }
    }

    /// Adds a record; its delivery, if one is wanted.
    #[inline]
    pub(crate) fn add(
        &mut self,
        timestamp: i64,
        token: u64,
        watch: &mut Watch,
    ) -> Option<Delivery> {
        let delta =
            i32::try_from(timestamp.wrapping_sub(self.done.of.base_timestamp)).unwrap_or(FAR);
        if delta == FAR {
            self.far.push((self.count, timestamp));
        }
        if self.listeners.handler.is_some() {
            self.tokens.push(token);
        }
        if !self.listeners.interceptors.is_empty() {
            self.deltas.push(delta);
        }
        if let Some(callback) = watch.callback.take() {
            self.callbacks.push((self.count, delta, callback));
        }
        let index = self.count;
        self.count += 1;
        watch.delivery.then(|| Delivery { done: self.done.clone(), index, delta })
    }

    /// No record is added any more: what is kept of each is accounted for from here on.
    pub(crate) fn charge(&mut self, pool: &Arc<BufferPool>) {
        let boxes: usize = self.callbacks.iter().map(|c| size_of_val(&*c.2)).sum();
        let bytes = self.tokens.capacity() * size_of::<u64>()
            + self.callbacks.capacity() * size_of::<(u32, i32, Callback)>()
            + boxes
            + self.deltas.capacity() * size_of::<i32>()
            + self.far.capacity() * size_of::<(u32, i64)>();
        if bytes > 0 {
            self.charge = Some(pool.account(bytes));
        }
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
            let part = self.part(first, *count);
            table.push((first, part.done.clone()));
            parts.push(part);
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

    fn part(&mut self, first: u32, count: u32) -> Ends {
        let shell = self.listeners.shell(count as usize);
        let mut part = Ends::new(self.listeners.clone(), shell, self.done.of.clone());
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
            let (sensors, failed) = (&listeners.counters.sensors, f64::from(self.count));
            let (now, topic) = (done.of.callers.env.now(), &done.of.partition.topic);
            sensors.record(&[(Sensor::RecordError, failed)], now);
            sensors.topic(topic, &[(TopicSensor::RecordError, failed)], now);
            if !heard && wakers.is_empty() {
                tracing::warn!(
                    topic = &*done.of.partition.topic,
                    partition = done.of.partition.index,
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
                done.of.callers.callback(&listeners.counters, || callback(result));
            }
        }
        if let Some(handler) = &listeners.handler {
            let (result, append_time, own) = match &outcome {
                Outcome::Written { base, append_time } => (Ok(*base), *append_time, &[][..]),
                Outcome::Failed(e) => (Err(e), None, &[][..]),
                Outcome::PerRecord { others, own } => (Err(others), None, &own[..]),
            };
            let (topic, partition) = (&*done.of.partition.topic, done.of.partition.index);
            let tokens = &self.tokens[..];
            let report = BatchReport { topic, partition, tokens, result, append_time, own };
            done.of.callers.callback(&listeners.counters, || handler(&report));
        }
        if !listeners.interceptors.is_empty() {
            for (index, delta) in self.deltas.iter().enumerate() {
                let result = done.result(&done.inner.lock(), index as u32, *delta);
                let Some(result) = result else { continue };
                let (topic, partition) = (&done.of.partition.topic, Some(done.of.partition.index));
                let counters = &listeners.counters;
                let tell =
                    || listeners.interceptors.acknowledged(topic, partition, &result, counters);
                done.of.callers.callback(counters, tell);
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
        // Deliveries that the application keeps keep their completion.
        let done = (Arc::strong_count(&self.done) == 1).then(|| self.done.clone());
        self.listeners.give_back(Shell { tokens: std::mem::take(&mut self.tokens), done });
    }
}
