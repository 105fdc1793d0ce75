//! `send` in its three forms: blocking, async, and one that never waits.

use std::pin::pin;
use std::sync::Arc;

use super::inner::ProducerInner;
use super::{Delivery, PreparedRecord, Producer, Record, SendError};
use crate::accumulator::append::{AppendResult, AppendState, DeliveryOptions};
use crate::accumulator::batch_completions::Callback;
use crate::accumulator::completion::RecordMetadata;
use crate::accumulator::event_queue::Event;
use crate::accumulator::topics::TopicInfo;
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
fn options_with_callback(
    callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
) -> DeliveryOptions {
    let callback: Callback = Box::new(callback);
    DeliveryOptions { callback: Some(callback), wants_delivery: true }
}

const WITH_DELIVERY: DeliveryOptions = DeliveryOptions { callback: None, wants_delivery: true };

/// What a watched record that was accepted has.
pub(super) fn expect_delivery(accepted: Option<Delivery>) -> Result<Delivery, Error> {
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
        expect_delivery(self.inner.do_send(None, record, WITH_DELIVERY)?)
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
        expect_delivery(self.inner.do_send(None, record, options_with_callback(callback))?)
    }

    /// As [`send`](Self::send), without blocking. The append is the last step, in the poll that returns
    /// ready: a future that is dropped before that leaves nothing behind. Futures awaited one after the other
    /// keep their records' order.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_async(&self, record: Record<'_>) -> Result<Delivery, SendError> {
        expect_delivery(self.inner.do_send_async(None, record, WITH_DELIVERY).await?)
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
        expect_delivery(
            self.inner.do_send_async(None, record, options_with_callback(callback)).await?,
        )
    }

    /// Accepts the record if that takes no waiting, and gives it back otherwise.
    ///
    /// # Errors
    /// The record, with [`ErrorKind::Full`] (no memory just now), [`ErrorKind::NoMetadata`] (the topic is
    /// not known yet; it has been asked for), [`ErrorKind::Closed`], or what is wrong with the record.
    pub fn try_send<'a>(&self, record: Record<'a>) -> Result<Delivery, TrySendError<'a>> {
        self.inner.do_try_send(None, record, WITH_DELIVERY)
    }

    /// Tells interceptors of a record that was refused before it could be appended.
    pub(super) fn notify_interceptors(&self, topic: &str, partition: Option<i32>, e: &Error) {
        self.inner.notify_interceptors(topic, partition, e);
    }
}

/// What an attempt to accept a record came to.
enum SendStep {
    Appended(Option<Delivery>),
    /// The topic is not known, or lacks the partition.
    NeedsTopic,
    /// Memory is used up: so many bytes are needed.
    NeedsMemory(usize),
}

/// A record on its way in.
struct PendingSend<'a, 'r> {
    /// The topic, where the caller holds it.
    topic: Option<&'a TopicInfo>,
    record: &'a Record<'r>,
    prepared: PreparedRecord<'r>,
    options: &'a mut DeliveryOptions,
    append_state: AppendState,
    /// Whether the application's own partitioner was asked.
    has_called_partitioner: bool,
}

impl ProducerInner {
    /// `send`, blocking.
    #[inline]
    pub(super) fn do_send(
        &self,
        known: Option<&TopicInfo>,
        record: Record<'_>,
        mut watch: DeliveryOptions,
    ) -> Result<Option<Delivery>, Error> {
        match self.do_send_fast(known, &record, &mut watch) {
            Some(delivery) => Ok(delivery),
            None => self.do_send_slow(known, record, watch),
        }
    }

    /// What nearly every record takes: nothing to ask, nothing to wait for, nothing wrong.
    #[inline]
    fn do_send_fast(
        &self,
        known: Option<&TopicInfo>,
        record: &Record<'_>,
        watch: &mut DeliveryOptions,
    ) -> Option<Option<Delivery>> {
        if !self.can_use_fast_path || !self.accumulator.can_try_append() {
            return None;
        }
        let prepared = PreparedRecord::new(record, || self.accumulator.env.wall_clock_ms())?;
        if prepared.batch_len_upper_bound > self.max_record_size || prepared.timestamp < 0 {
            return None;
        }
        match known {
            Some(topic) => self.accumulator.try_append(topic, &prepared, watch),
            None => {
                let map = self.accumulator.topics.load();
                self.accumulator.try_append(map.get(record.topic)?, &prepared, watch)
            }
        }
    }

    #[cold]
    fn do_send_slow(
        &self,
        known: Option<&TopicInfo>,
        record: Record<'_>,
        mut watch: DeliveryOptions,
    ) -> Result<Option<Delivery>, Error> {
        let result = self.with_interceptors(record, |r| {
            let mut coming = self.new_pending_send(known, &r, &mut watch)?;
            match self.run_step(&mut coming)? {
                SendStep::Appended(delivery) => Ok(delivery),
                step => self.wait_and_append_blocking(coming, step),
            }
        });
        self.notify_rejected(&record, watch, result)
    }

    /// `send`, async.
    pub(super) async fn do_send_async(
        &self,
        known: Option<&TopicInfo>,
        record: Record<'_>,
        mut watch: DeliveryOptions,
    ) -> Result<Option<Delivery>, Error> {
        if let Some(delivery) = self.do_send_fast(known, &record, &mut watch) {
            return Ok(delivery);
        }
        let interceptors = &self.accumulator.listeners.interceptors;
        let result = if interceptors.is_empty() {
            self.append_async(known, &record, &mut watch).await
        } else {
            let draft = interceptors.on_send(&record, &self.counters);
            let headers = draft.borrowed_headers();
            let record = draft.as_record(&headers, record.token);
            self.append_async(known, &record, &mut watch).await
        };
        self.notify_rejected(&record, watch, result)
    }

    async fn append_async(
        &self,
        known: Option<&TopicInfo>,
        record: &Record<'_>,
        watch: &mut DeliveryOptions,
    ) -> Result<Option<Delivery>, Error> {
        let mut coming = self.new_pending_send(known, record, watch)?;
        match self.run_step(&mut coming)? {
            SendStep::Appended(delivery) => Ok(delivery),
            step => self.wait_and_append(coming, step, self.max_block_deadline()).await,
        }
    }

    /// `send` without waiting.
    pub(super) fn do_try_send<'a>(
        &self,
        known: Option<&TopicInfo>,
        record: Record<'a>,
        mut watch: DeliveryOptions,
    ) -> Result<Delivery, TrySendError<'a>> {
        let result = self.with_interceptors(record, |r| {
            let mut coming = self.new_pending_send(known, &r, &mut watch)?;
            let step = self.run_step(&mut coming)?;
            self.finish_without_waiting(&r, step, "")
        });
        result.and_then(expect_delivery).map_err(|error| {
            self.notify_interceptors(record.topic, record.partition, &error);
            TrySendError { record, error }
        })
    }

    /// What becomes of a record where nothing may wait.
    fn finish_without_waiting(
        &self,
        record: &Record<'_>,
        step: SendStep,
        and: &str,
    ) -> Result<Option<Delivery>, Error> {
        let (kind, what) = match step {
            SendStep::Appended(delivery) => return Ok(delivery),
            SendStep::NeedsTopic => {
                // Asked for in any case: it is found the next time.
                self.accumulator.post(Event::TopicWanted(record.topic.into()), Tick(0));
                let what =
                    format!("topic {} is not known yet; it has been asked for", record.topic);
                (ErrorKind::NoMetadata, what)
            }
            SendStep::NeedsMemory(_) => {
                (ErrorKind::Full, "buffer.memory is used up just now".to_owned())
            }
        };
        Err(Error::new(kind, what + and))
    }

    #[cold]
    fn wait_and_append_blocking(
        &self,
        coming: PendingSend<'_, '_>,
        step: SendStep,
    ) -> Result<Option<Delivery>, Error> {
        if self.accumulator.caller_context.is_in_callback() {
            return self.finish_without_waiting(
                coming.record,
                step,
                ", and a callback cannot wait for it",
            );
        }
        let by = self.max_block_deadline();
        let waiting = pin!(self.wait_and_append(coming, step, by));
        match self.accumulator.caller_context.block_on(waiting, None) {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Internal, "an endless wait ended")),
        }
    }

    /// Waits for what is missing, and tries again, until then.
    async fn wait_and_append(
        &self,
        mut coming: PendingSend<'_, '_>,
        mut step: SendStep,
        by: Tick,
    ) -> Result<Option<Delivery>, Error> {
        let topic: Arc<TopicInfo>;
        if matches!(step, SendStep::NeedsTopic) {
            topic = self.wait_on_metadata(coming.record, by).await?;
            coming.topic = Some(&topic);
            step = self.run_step(&mut coming)?;
        }
        loop {
            match step {
                SendStep::Appended(delivery) => return Ok(delivery),
                SendStep::NeedsTopic => {
                    // It was made anew with fewer partitions, just now.
                    self.wait_on_metadata(coming.record, by).await?;
                }
                SendStep::NeedsMemory(size) => {
                    let from = self.accumulator.env.now();
                    coming.append_state.spare_buffer = Some(self.allocate_buffer(size, by).await?);
                    coming.append_state.memory_wait += self.accumulator.env.now().since(from);
                }
            }
            step = self.run_step(&mut coming)?;
        }
    }

    fn new_pending_send<'a, 'r>(
        &self,
        known: Option<&'a TopicInfo>,
        record: &'a Record<'r>,
        watch: &'a mut DeliveryOptions,
    ) -> Result<PendingSend<'a, 'r>, Error> {
        let (prepared, attempt) = (self.prepare_record(record)?, AppendState::default());
        Ok(PendingSend {
            topic: known,
            record,
            prepared,
            options: watch,
            append_state: attempt,
            has_called_partitioner: false,
        })
    }

    /// One attempt, without waiting.
    #[inline]
    fn run_step(&self, c: &mut PendingSend<'_, '_>) -> Result<SendStep, Error> {
        let map;
        let topic = match c.topic {
            Some(topic) => topic,
            None => {
                map = self.accumulator.topics.load();
                match map.get(c.record.topic) {
                    Some(topic) => topic,
                    None => return self.check_unknown_topic(c.record),
                }
            }
        };
        if let Some(p) = c.record.partition
            && !topic.has_partition(p)
        {
            return self.check_unknown_topic(c.record);
        }
        if let (Some(custom), None, false) =
            (&self.partitioner, c.prepared.partition, c.has_called_partitioner)
        {
            c.has_called_partitioner = true;
            c.prepared.partition =
                super::partitioner::call_partitioner(&**custom, c.record, topic)?;
        }
        loop {
            match self.accumulator.append(topic, &c.prepared, c.options, &mut c.append_state)? {
                AppendResult::Appended(delivery) => {
                    if let Some(shell) = c.append_state.scratch.take() {
                        self.accumulator.listeners.return_scratch(shell);
                    }
                    return Ok(SendStep::Appended(delivery));
                }
                AppendResult::NeedsBuffer(size) => {
                    // Here, once a batch, the process is compared.
                    self.check_fork()?;
                    match self.accumulator.pool.try_allocate(size)? {
                        Some(buf) => c.append_state.spare_buffer = Some(buf),
                        None => return Ok(SendStep::NeedsMemory(size)),
                    }
                }
                AppendResult::NeedsChainBuffer(size) => {
                    c.append_state.spare_buffer = self.accumulator.pool.try_allocate(size)?;
                    c.append_state.no_chain_buffer = c.append_state.spare_buffer.is_none();
                }
            }
        }
    }

    #[cold]
    fn check_unknown_topic(&self, record: &Record<'_>) -> Result<SendStep, Error> {
        if self.accumulator.is_closed() {
            return Err(self.accumulator.closed_error());
        }
        super::inner::validate_topic_name(record.topic)?;
        Ok(SendStep::NeedsTopic)
    }

    /// Tells interceptors of a record that was refused before it could be appended.
    pub(super) fn notify_interceptors(&self, topic: &str, partition: Option<i32>, e: &Error) {
        let interceptors = &self.accumulator.listeners.interceptors;
        interceptors.on_acknowledgement(topic, partition, &Err(e.clone()), &self.counters);
    }

    /// A record that was not accepted is told of once: to interceptors, and to its callback.
    #[inline]
    fn notify_rejected(
        &self,
        record: &Record<'_>,
        watch: DeliveryOptions,
        result: Result<Option<Delivery>, Error>,
    ) -> Result<Option<Delivery>, Error> {
        if let Err(e) = &result {
            self.notify_interceptors(record.topic, record.partition, e);
            if let Some(callback) = watch.callback {
                callback(Err(e.clone()));
            }
        }
        result
    }

    #[inline]
    fn with_interceptors<T>(&self, record: Record<'_>, f: impl FnOnce(Record<'_>) -> T) -> T {
        let interceptors = &self.accumulator.listeners.interceptors;
        if interceptors.is_empty() {
            return f(record);
        }
        let draft = interceptors.on_send(&record, &self.counters);
        let headers = draft.borrowed_headers();
        f(draft.as_record(&headers, record.token))
    }

    /// Checks a record and works out its sizes; `send`'s first step.
    #[inline]
    fn prepare_record<'a>(&self, record: &Record<'a>) -> Result<PreparedRecord<'a>, Error> {
        match PreparedRecord::new(record, || self.accumulator.env.wall_clock_ms()) {
            Some(p) if p.batch_len_upper_bound <= self.max_record_size && p.timestamp >= 0 => Ok(p),
            other => Err(self.invalid_record_error(
                record,
                other.map(|p| (p.batch_len_upper_bound, p.timestamp)),
            )),
        }
    }

    /// What is wrong with a record.
    #[cold]
    fn invalid_record_error(&self, record: &Record<'_>, measured: Option<(usize, i64)>) -> Error {
        if let Some(ms) = record.timestamp.filter(|ms| *ms < 0) {
            let message = format!("the timestamp {ms} is negative");
            return Error::new(ErrorKind::InvalidRecord, message);
        }
        let request = (self.max_request_size as u64, "max.request.size");
        let (size, (limit, name)) = match measured {
            None => ("2 GiB or more".to_owned(), request),
            Some((bound, _)) if bound > self.max_request_size => (bound.to_string(), request),
            Some((bound, _)) => {
                (bound.to_string(), (self.accumulator.pool.total_memory(), "buffer.memory"))
            }
        };
        let message = format!(
            "the record for {} takes {size} bytes when serialized, which is larger than {name} ({limit}); \
             raise {name} or make the record smaller",
            record.topic
        );
        Error::new(ErrorKind::RecordTooLarge, message)
    }

    /// The topic if its partitions are known, and has the one that is asked for.
    pub(super) fn find_topic(&self, name: &str, partition: Option<i32>) -> Option<Arc<TopicInfo>> {
        self.accumulator.topics.get(name).filter(|t| partition.is_none_or(|p| t.has_partition(p)))
    }
}
