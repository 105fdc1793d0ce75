//! `send` in its three forms: blocking, async, and one that never waits.

use std::pin::pin;
use std::sync::Arc;

use super::handle::Handle;
use super::{Delivery, Prepared, Producer, Record, SendError};
use crate::accumulator::append::{AppendResult, AppendState, DeliveryOptions};
use crate::accumulator::completion::RecordMetadata;
use crate::accumulator::ends::Callback;
use crate::accumulator::mailbox::Event;
use crate::accumulator::topics::Topic;
use crate::error::{Error, ErrorKind};
use crate::time::Tick;

/// A record that `try_send` would have had to wait for, or cannot take at all.
#[derive(Debug, Clone)]
pub struct TrySendError<'a> {
    /// The record, as it was given.
    pub record: Record<'a>,
    /// [`ErrorKind::Full`], [`ErrorKind::NoMetadata`], [`ErrorKind::Closed`], or what is wrong with it.
    pub error: Error,
}

impl std::fmt::Display for TrySendError<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for TrySendError<'_> {}

/// A record whose end is told through a callback as well.
fn called(
    callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
) -> DeliveryOptions {
    let callback: Callback = Box::new(callback);
    DeliveryOptions { callback: Some(callback), wants_delivery: true }
}

const WATCHED: DeliveryOptions = DeliveryOptions { callback: None, wants_delivery: true };

/// What a watched record that was accepted has.
pub(super) fn delivery(accepted: Option<Delivery>) -> Result<Delivery, Error> {
    accepted.ok_or_else(|| Error::new(ErrorKind::Internal, "a watched record has no delivery"))
}

impl Producer {
    /// Accepts a record: it is encoded into its partition's batch by the time this returns, and will be sent.
    /// Blocks for at most `max.block.ms`, for the topic's metadata and for memory together. Records sent one
    /// after the other by one thread keep their order within a partition.
    ///
    /// Inside an async executor this blocks the executor's thread: use [`send_async`](Self::send_async).
    /// Inside a callback it never waits: it acts as [`try_send`](Self::try_send). Whoever sends many records to
    /// one topic does it cheaper through a [`Topic`](crate::Topic).
    ///
    /// # Errors
    /// What is found before the record is accepted; it is not written then, for sure. `InvalidTopic`,
    /// `Authorization`, `MetadataTimeout` where the topic is at fault; `InvalidRecord`, `RecordTooLarge`
    /// where the record is; `BufferExhausted` when no memory came free; `Closed`.
    pub fn send(&self, record: Record<'_>) -> Result<Delivery, SendError> {
        delivery(self.handle.accept(None, record, WATCHED)?)
    }

    /// As [`send`](Self::send); the callback is called once, whatever becomes of the record: on the
    /// producer's thread (where nothing may wait), or here, if the record is not accepted.
    ///
    /// # Errors
    /// As [`send`](Self::send); the callback is given the same.
    pub fn send_with(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<Delivery, SendError> {
        delivery(self.handle.accept(None, record, called(callback))?)
    }

    /// As [`send`](Self::send), without blocking. The append is the last step, in the poll that returns
    /// ready: a future that is dropped before that leaves nothing behind. Futures awaited one after the other
    /// keep their records' order.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_async(&self, record: Record<'_>) -> Result<Delivery, SendError> {
        delivery(self.handle.accept_async(None, record, WATCHED).await?)
    }

    /// As [`send_with`](Self::send_with), without blocking. The callback of a future that is dropped before it
    /// returned is dropped with it, uncalled.
    ///
    /// # Errors
    /// As [`send_with`](Self::send_with).
    pub async fn send_with_async(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<Delivery, SendError> {
        delivery(self.handle.accept_async(None, record, called(callback)).await?)
    }

    /// Accepts the record if that takes no waiting, and gives it back otherwise.
    ///
    /// # Errors
    /// The record, with [`ErrorKind::Full`] (no memory just now), [`ErrorKind::NoMetadata`] (the topic is
    /// not known yet; it has been asked for), [`ErrorKind::Closed`], or what is wrong with the record.
    pub fn try_send<'a>(&self, record: Record<'a>) -> Result<Delivery, TrySendError<'a>> {
        self.handle.accept_now(None, record, WATCHED)
    }

    /// Tells interceptors of a record that was refused before it could be appended.
    pub(super) fn refused(&self, topic: &str, partition: Option<i32>, e: &Error) {
        self.handle.refused(topic, partition, e);
    }
}

/// What an attempt to accept a record came to.
enum Step {
    Done(Option<Delivery>),
    /// The topic is not known, or lacks the partition.
    Topic,
    /// Memory is used up: so many bytes are needed.
    Memory(usize),
}

/// A record on its way in.
struct Coming<'a, 'r> {
    /// The topic, where the caller holds it.
    known: Option<&'a Topic>,
    record: &'a Record<'r>,
    prepared: Prepared<'r>,
    watch: &'a mut DeliveryOptions,
    attempt: AppendState,
    /// Whether the application's own partitioner was asked.
    asked: bool,
}

impl Handle {
    /// `send`, blocking.
    #[inline]
    pub(super) fn accept(
        &self,
        known: Option<&Topic>,
        record: Record<'_>,
        mut watch: DeliveryOptions,
    ) -> Result<Option<Delivery>, Error> {
        match self.accept_at_once(known, &record, &mut watch) {
            Some(delivery) => Ok(delivery),
            None => self.accept_slowly(known, record, watch),
        }
    }

    /// What nearly every record takes: nothing to ask, nothing to wait for, nothing wrong.
    #[inline]
    fn accept_at_once(
        &self,
        known: Option<&Topic>,
        record: &Record<'_>,
        watch: &mut DeliveryOptions,
    ) -> Option<Option<Delivery>> {
        if !self.is_plain || !self.acc.can_try_append() {
            return None;
        }
        let prepared = Prepared::new(record, || self.acc.env.wall_ms())?;
        if prepared.bound > self.largest_record || prepared.timestamp < 0 {
            return None;
        }
        match known {
            Some(topic) => self.acc.try_append(topic, &prepared, watch),
            None => {
                let map = self.acc.topics.load();
                self.acc.try_append(map.get(record.topic)?, &prepared, watch)
            }
        }
    }

    #[cold]
    fn accept_slowly(
        &self,
        known: Option<&Topic>,
        record: Record<'_>,
        mut watch: DeliveryOptions,
    ) -> Result<Option<Delivery>, Error> {
        let result = self.intercepted(record, |r| {
            let mut coming = self.coming(known, &r, &mut watch)?;
            match self.step(&mut coming)? {
                Step::Done(delivery) => Ok(delivery),
                step => self.wait_blocking(coming, step),
            }
        });
        self.told(&record, watch, result)
    }

    /// `send`, async.
    pub(super) async fn accept_async(
        &self,
        known: Option<&Topic>,
        record: Record<'_>,
        mut watch: DeliveryOptions,
    ) -> Result<Option<Delivery>, Error> {
        if let Some(delivery) = self.accept_at_once(known, &record, &mut watch) {
            return Ok(delivery);
        }
        let interceptors = &self.acc.listeners.interceptors;
        let result = if interceptors.is_empty() {
            self.append_async(known, &record, &mut watch).await
        } else {
            let draft = interceptors.on_send(&record, &self.counters);
            let headers = draft.borrowed_headers();
            let record = draft.record(&headers, record.token);
            self.append_async(known, &record, &mut watch).await
        };
        self.told(&record, watch, result)
    }

    async fn append_async(
        &self,
        known: Option<&Topic>,
        record: &Record<'_>,
        watch: &mut DeliveryOptions,
    ) -> Result<Option<Delivery>, Error> {
        let mut coming = self.coming(known, record, watch)?;
        match self.step(&mut coming)? {
            Step::Done(delivery) => Ok(delivery),
            step => self.wait(coming, step, self.deadline()).await,
        }
    }

    /// `send` without waiting.
    pub(super) fn accept_now<'a>(
        &self,
        known: Option<&Topic>,
        record: Record<'a>,
        mut watch: DeliveryOptions,
    ) -> Result<Delivery, TrySendError<'a>> {
        let result = self.intercepted(record, |r| {
            let mut coming = self.coming(known, &r, &mut watch)?;
            let step = self.step(&mut coming)?;
            self.no_waiting(&r, step, "")
        });
        result.and_then(delivery).map_err(|error| {
            self.refused(record.topic, record.partition, &error);
            TrySendError { record, error }
        })
    }

    /// What becomes of a record where nothing may wait.
    fn no_waiting(
        &self,
        record: &Record<'_>,
        step: Step,
        and: &str,
    ) -> Result<Option<Delivery>, Error> {
        let (kind, what) = match step {
            Step::Done(delivery) => return Ok(delivery),
            Step::Topic => {
                // Asked for in any case: it is found the next time.
                self.acc.post(Event::TopicWanted(record.topic.into()), Tick(0));
                let what =
                    format!("topic {} is not known yet; it has been asked for", record.topic);
                (ErrorKind::NoMetadata, what)
            }
            Step::Memory(_) => (ErrorKind::Full, "buffer.memory is used up just now".to_owned()),
        };
        Err(Error::new(kind, what + and))
    }

    #[cold]
    fn wait_blocking(&self, coming: Coming<'_, '_>, step: Step) -> Result<Option<Delivery>, Error> {
        if self.acc.caller_context.is_in_callback() {
            return self.no_waiting(coming.record, step, ", and a callback cannot wait for it");
        }
        let by = self.deadline();
        let waiting = pin!(self.wait(coming, step, by));
        match self.acc.caller_context.block_on(waiting, None) {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Internal, "an endless wait ended")),
        }
    }

    /// Waits for what is missing, and tries again, until then.
    async fn wait(
        &self,
        mut coming: Coming<'_, '_>,
        mut step: Step,
        by: Tick,
    ) -> Result<Option<Delivery>, Error> {
        let topic: Arc<Topic>;
        if matches!(step, Step::Topic) {
            topic = self.topic_for(coming.record, by).await?;
            coming.known = Some(&topic);
            step = self.step(&mut coming)?;
        }
        loop {
            match step {
                Step::Done(delivery) => return Ok(delivery),
                Step::Topic => {
                    // It was made anew with fewer partitions, just now.
                    self.topic_for(coming.record, by).await?;
                }
                Step::Memory(size) => {
                    let from = self.acc.env.now();
                    coming.attempt.spare_buffer = Some(self.memory(size, by).await?);
                    coming.attempt.memory_wait += self.acc.env.now().since(from);
                }
            }
            step = self.step(&mut coming)?;
        }
    }

    fn coming<'a, 'r>(
        &self,
        known: Option<&'a Topic>,
        record: &'a Record<'r>,
        watch: &'a mut DeliveryOptions,
    ) -> Result<Coming<'a, 'r>, Error> {
        let (prepared, attempt) = (self.prepare(record)?, AppendState::default());
        Ok(Coming { known, record, prepared, watch, attempt, asked: false })
    }

    /// One attempt, without waiting.
    #[inline]
    fn step(&self, c: &mut Coming<'_, '_>) -> Result<Step, Error> {
        let map;
        let topic = match c.known {
            Some(topic) => topic,
            None => {
                map = self.acc.topics.load();
                match map.get(c.record.topic) {
                    Some(topic) => topic,
                    None => return self.unknown(c.record),
                }
            }
        };
        if let Some(p) = c.record.partition
            && !topic.has(p)
        {
            return self.unknown(c.record);
        }
        if let (Some(custom), None, false) = (&self.partitioner, c.prepared.partition, c.asked) {
            c.asked = true;
            c.prepared.partition = super::partitioner::ask(&**custom, c.record, topic)?;
        }
        loop {
            match self.acc.append(topic, &c.prepared, c.watch, &mut c.attempt)? {
                AppendResult::Appended(delivery) => {
                    if let Some(shell) = c.attempt.scratch.take() {
                        self.acc.listeners.return_scratch(shell);
                    }
                    return Ok(Step::Done(delivery));
                }
                AppendResult::NeedsBuffer(size) => {
                    // Here, once a batch, the process is compared.
                    self.check_fork()?;
                    match self.acc.pool.try_allocate(size)? {
                        Some(buf) => c.attempt.spare_buffer = Some(buf),
                        None => return Ok(Step::Memory(size)),
                    }
                }
                AppendResult::NeedsChainBuffer(size) => {
                    c.attempt.spare_buffer = self.acc.pool.try_allocate(size)?;
                    c.attempt.no_chain_buffer = c.attempt.spare_buffer.is_none();
                }
            }
        }
    }

    #[cold]
    fn unknown(&self, record: &Record<'_>) -> Result<Step, Error> {
        if self.acc.is_closed() {
            return Err(self.acc.closed_error());
        }
        super::handle::valid_topic(record.topic)?;
        Ok(Step::Topic)
    }

    /// Tells interceptors of a record that was refused before it could be appended.
    pub(super) fn refused(&self, topic: &str, partition: Option<i32>, e: &Error) {
        let interceptors = &self.acc.listeners.interceptors;
        interceptors.acknowledged(topic, partition, &Err(e.clone()), &self.counters);
    }

    /// A record that was not accepted is told of once: to interceptors, and to its callback.
    #[inline]
    fn told(
        &self,
        record: &Record<'_>,
        watch: DeliveryOptions,
        result: Result<Option<Delivery>, Error>,
    ) -> Result<Option<Delivery>, Error> {
        if let Err(e) = &result {
            self.refused(record.topic, record.partition, e);
            if let Some(callback) = watch.callback {
                callback(Err(e.clone()));
            }
        }
        result
    }

    #[inline]
    fn intercepted<T>(&self, record: Record<'_>, f: impl FnOnce(Record<'_>) -> T) -> T {
        let interceptors = &self.acc.listeners.interceptors;
        if interceptors.is_empty() {
            return f(record);
        }
        let draft = interceptors.on_send(&record, &self.counters);
        let headers = draft.borrowed_headers();
        f(draft.record(&headers, record.token))
    }

    /// Checks a record and works out its sizes; `send`'s first step.
    #[inline]
    fn prepare<'a>(&self, record: &Record<'a>) -> Result<Prepared<'a>, Error> {
        match Prepared::new(record, || self.acc.env.wall_ms()) {
            Some(p) if p.bound <= self.largest_record && p.timestamp >= 0 => Ok(p),
            other => Err(self.unfit(record, other.map(|p| (p.bound, p.timestamp)))),
        }
    }

    /// What is wrong with a record.
    #[cold]
    fn unfit(&self, record: &Record<'_>, measured: Option<(usize, i64)>) -> Error {
        if let Some(ms) = record.timestamp.filter(|ms| *ms < 0) {
            let message = format!("the timestamp {ms} is negative");
            return Error::new(ErrorKind::InvalidRecord, message);
        }
        let request = (self.max_request_size as u64, "max.request.size");
        let (size, (limit, name)) = match measured {
            None => ("2 GiB or more".to_owned(), request),
            Some((bound, _)) if bound > self.max_request_size => (bound.to_string(), request),
            Some((bound, _)) => (bound.to_string(), (self.acc.pool.total(), "buffer.memory")),
        };
        let message = format!(
            "the record for {} takes {size} bytes when serialized, which is larger than {name} ({limit}); \
             raise {name} or make the record smaller",
            record.topic
        );
        Error::new(ErrorKind::RecordTooLarge, message)
    }

    /// The topic if its partitions are known, and has the one that is asked for.
    pub(super) fn topic_now(&self, name: &str, partition: Option<i32>) -> Option<Arc<Topic>> {
        self.acc.topics.get(name).filter(|t| partition.is_none_or(|p| t.has(p)))
    }
}
