//! `send` in its three forms: blocking, async, and one that never waits.

use std::sync::Arc;

use super::handle::Handle;
use super::{Delivery, Prepared, Producer, Record, SendError};
use crate::accumulator::append::{Append, Attempt};
use crate::accumulator::buffer_pool::PooledBuf;
use crate::accumulator::completion::{Callback, RecordMetadata};
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

impl Producer {
    /// Accepts a record: it is encoded into its partition's batch by the time this returns, and will be sent.
    /// Blocks for at most `max.block.ms`, for the topic's metadata and for memory together. Records sent one
    /// after the other by one thread keep their order within a partition.
    ///
    /// Inside an async executor this blocks the executor's thread: use [`send_async`](Self::send_async).
    /// Inside a callback it never waits: it acts as [`try_send`](Self::try_send).
    ///
    /// # Errors
    /// What is found before the record is accepted; it is not written then, for sure. `InvalidTopic`,
    /// `Authorization`, `MetadataTimeout` where the topic is at fault; `InvalidRecord`, `RecordTooLarge`
    /// where the record is; `BufferExhausted` when no memory came free; `Closed`.
    pub fn send(&self, record: Record<'_>) -> Result<Delivery, SendError> {
        self.send_inner(record, None)
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
        self.send_inner(record, Some(Box::new(callback)))
    }

    /// As [`send`](Self::send), without blocking. The append is the last step, in the poll that returns
    /// ready: a future that is dropped before that leaves nothing behind. Futures awaited one after the other
    /// keep their records' order.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_async(&self, record: Record<'_>) -> Result<Delivery, SendError> {
        self.send_inner_async(record, None).await
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
        self.send_inner_async(record, Some(Box::new(callback))).await
    }

    /// Accepts the record if that takes no waiting, and gives it back otherwise.
    ///
    /// # Errors
    /// The record, with [`ErrorKind::Full`] (no memory just now), [`ErrorKind::NoMetadata`] (the topic is
    /// not known yet; it has been asked for), [`ErrorKind::Closed`], or what is wrong with the record.
    pub fn try_send<'a>(&self, record: Record<'a>) -> Result<Delivery, TrySendError<'a>> {
        let h = &*self.handle;
        h.intercepted(record, |r| h.try_append(&r, &mut None)).map_err(|error| {
            self.refused(record.topic, record.partition, &error);
            TrySendError { record, error }
        })
    }

    /// Tells interceptors of a record that was refused before it could be appended.
    pub(super) fn refused(&self, topic: &str, partition: Option<i32>, e: &Error) {
        let h = &*self.handle;
        h.acc.listeners.interceptors.acknowledged(topic, partition, &Err(e.clone()), &h.counters);
    }

    fn send_inner(
        &self,
        record: Record<'_>,
        mut callback: Option<Callback>,
    ) -> Result<Delivery, SendError> {
        let h = &*self.handle;
        let result = h.intercepted(record, |r| h.append_blocking(&r, &mut callback));
        self.told(record, callback, result)
    }

    async fn send_inner_async(
        &self,
        record: Record<'_>,
        mut callback: Option<Callback>,
    ) -> Result<Delivery, SendError> {
        let h = &*self.handle;
        let interceptors = &h.acc.listeners.interceptors;
        let result = if interceptors.is_empty() {
            h.append_async(&record, &mut callback).await
        } else {
            let draft = interceptors.on_send(&record, &h.counters);
            let headers = draft.borrowed_headers();
            h.append_async(&draft.record(&headers, record.token), &mut callback).await
        };
        self.told(record, callback, result)
    }

    /// A record that was not accepted is told of once: to interceptors, and to its callback.
    fn told(
        &self,
        record: Record<'_>,
        callback: Option<Callback>,
        result: Result<Delivery, Error>,
    ) -> Result<Delivery, SendError> {
        if let Err(e) = &result {
            self.refused(record.topic, record.partition, e);
            if let Some(callback) = callback {
                callback(Err(e.clone()));
            }
        }
        result
    }
}

impl Handle {
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
    fn prepare<'a>(&self, record: &Record<'a>) -> Result<Prepared<'a>, Error> {
        if let Some(ms) = record.timestamp.filter(|ms| *ms < 0) {
            return Err(Error::new(
                ErrorKind::InvalidRecord,
                format!("the timestamp {ms} is negative"),
            ));
        }
        let too_large = |size: String, name: &str, limit: u64| {
            let message = format!(
                "the record for {} takes {size} bytes when serialized, which is larger than {name} ({limit}); \
                 raise {name} or make the record smaller",
                record.topic
            );
            Err(Error::new(ErrorKind::RecordTooLarge, message))
        };
        let Some(prepared) = Prepared::new(record, || self.acc.env.wall_ms()) else {
            return too_large(
                "2 GiB or more".to_owned(),
                "max.request.size",
                self.max_request_size as u64,
            );
        };
        if prepared.bound > self.max_request_size {
            let limit = self.max_request_size as u64;
            return too_large(prepared.bound.to_string(), "max.request.size", limit);
        }
        if prepared.bound as u64 > self.acc.pool.total() {
            return too_large(prepared.bound.to_string(), "buffer.memory", self.acc.pool.total());
        }
        Ok(prepared)
    }

    /// The topic if its partitions are known, and has the one that is asked for.
    pub(super) fn topic_now(&self, name: &str, partition: Option<i32>) -> Option<Arc<Topic>> {
        let topic = self.acc.topics.get(name)?;
        let has = partition.is_none_or(|p| p < 0 || (p as usize) < topic.partitions.load().len());
        has.then_some(topic)
    }

    fn try_append(
        &self,
        record: &Record<'_>,
        callback: &mut Option<Callback>,
    ) -> Result<Delivery, Error> {
        let prepared = self.prepare(record)?;
        if self.acc.is_closed() {
            return Err(self.acc.refusal());
        }
        let Some(topic) = self.topic_now(record.topic, record.partition) else {
            super::handle::valid_topic(record.topic)?;
            self.acc.post(Event::Topic(record.topic.into()), Tick(0));
            let message = format!("topic {} is not known yet; it has been asked for", record.topic);
            return Err(Error::new(ErrorKind::NoMetadata, message));
        };
        let mut attempt = Attempt::default();
        loop {
            match self.acc.append(&topic, &prepared, callback, &mut attempt)? {
                Append::Done(delivery) => return Ok(delivery),
                Append::NeedsBuffer(size) => match self.buffer_now(size)? {
                    Some(buf) => attempt.spare = Some(buf),
                    None => {
                        return Err(Error::new(
                            ErrorKind::Full,
                            "buffer.memory is used up just now",
                        ));
                    }
                },
            }
        }
    }

    fn append_blocking(
        &self,
        record: &Record<'_>,
        callback: &mut Option<Callback>,
    ) -> Result<Delivery, Error> {
        let prepared = self.prepare(record)?;
        // The clock is read for a deadline only if something has to be waited for.
        let mut deadline = None;
        let topic = match self.topic_now(record.topic, record.partition) {
            Some(topic) => topic,
            None => {
                let by = *deadline.insert(self.deadline());
                self.topic_for_blocking(record, by)?
            }
        };
        let mut attempt = Attempt::default();
        loop {
            match self.acc.append(&topic, &prepared, callback, &mut attempt)? {
                Append::Done(delivery) => return Ok(delivery),
                Append::NeedsBuffer(size) => {
                    attempt.spare = Some(match self.buffer_now(size)? {
                        Some(buf) => buf,
                        None => {
                            let by = *deadline.get_or_insert_with(|| self.deadline());
                            self.memory_blocking(size, by)?
                        }
                    });
                }
            }
        }
    }

    async fn append_async(
        &self,
        record: &Record<'_>,
        callback: &mut Option<Callback>,
    ) -> Result<Delivery, Error> {
        let prepared = self.prepare(record)?;
        let mut deadline = None;
        let topic = match self.topic_now(record.topic, record.partition) {
            Some(topic) => topic,
            None => {
                let by = *deadline.insert(self.deadline());
                self.topic_for_async(record, by).await?
            }
        };
        let mut attempt = Attempt::default();
        loop {
            match self.acc.append(&topic, &prepared, callback, &mut attempt)? {
                Append::Done(delivery) => return Ok(delivery),
                Append::NeedsBuffer(size) => {
                    attempt.spare = Some(match self.buffer_now(size)? {
                        Some(buf) => buf,
                        None => {
                            let by = *deadline.get_or_insert_with(|| self.deadline());
                            self.memory_async(size, by).await?
                        }
                    });
                }
            }
        }
    }

    /// A buffer for a new batch, if that takes no waiting. Here, once a batch, the process is compared.
    fn buffer_now(&self, size: usize) -> Result<Option<PooledBuf>, Error> {
        self.check_fork()?;
        self.acc.pool.try_allocate(size)
    }
}
