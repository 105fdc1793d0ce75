//! The implementation of `send` (Kafka's `doSend`).
//!
//! `do_send` appends a record, and waits if its topic is unknown or memory is exhausted.
//!
//! Most records take the fast path, `do_send_fast`, which succeeds if their batch is open and has
//! room. The slow path, `do_send_slow`, makes one attempt with `run_step`, which reports what is
//! missing, metadata or memory. The caller then waits in `topic_wait.rs` or `memory_wait.rs`, and
//! makes the next attempt.

use std::pin::pin;
use std::sync::Arc;

use super::inner::ProducerInner;
use super::topic_name::validate_topic_name;
use crate::accumulator::append::{AppendResult, AppendState};
use crate::accumulator::buffer_pool::BufferRequest;
use crate::accumulator::topics::TopicInfo;
use crate::delivery::batch_completions::{CompletedRecord, DeliveryOptions};
use crate::delivery::interceptor::Acknowledgement;
use crate::delivery::result::Delivery;
use crate::error::{Error, ErrorKind};
use crate::record::{OwnedRecord, PreparedRecord, Record};
use crate::time::Tick;
use crate::wakeup::event_queue::Event;

impl DeliveryOptions {
    /// Returns the delivery of a record that was appended.
    #[inline]
    pub(super) fn into_delivery(self) -> Result<Delivery, Error> {
        self.delivery.ok_or_else(|| Error::new(ErrorKind::Internal, "the delivery is missing"))
    }
}

/// The result of one attempt to append a record.
enum SendStep {
    Appended,
    /// The topic is not known, or lacks the record's partition.
    NeedsTopic,
    /// A new batch needs a buffer, and `buffer.memory` is exhausted.
    NeedsMemory(BufferRequest),
}

/// A record that is not appended yet.
struct PendingSend<'a, 'r> {
    /// The topic, if the caller has it already.
    topic: Option<&'a TopicInfo>,
    record: &'a Record<'r>,
    prepared: PreparedRecord<'r>,
    options: &'a mut DeliveryOptions,
    append_state: AppendState,
    /// The custom partitioner is called once per record, not once per attempt.
    has_called_partitioner: bool,
}

impl ProducerInner {
    /// The blocking form of `send`.
    #[inline]
    pub(super) fn do_send(
        &self,
        topic: Option<&TopicInfo>,
        record: Record<'_>,
        options: &mut DeliveryOptions,
    ) -> Result<(), Error> {
        match self.do_send_fast(topic, &record, options) {
            Some(()) => Ok(()),
            None => self.do_send_slow(topic, record, options),
        }
    }

    /// Appends the record if its topic is known, its batch is open and has room, and no application
    /// code takes part. Otherwise does nothing and returns `None`: the slow path then finds the
    /// reason.
    #[inline]
    fn do_send_fast(
        &self,
        topic: Option<&TopicInfo>,
        record: &Record<'_>,
        options: &mut DeliveryOptions,
    ) -> Option<()> {
        let can_try = self.can_use_fast_path && self.accumulator.can_try_append();
        if !can_try || self.is_forked() {
            return None;
        }
        let prepared = PreparedRecord::new(record, || self.accumulator.env.wall_clock_ms())?;
        if prepared.batch_len_upper_bound > self.max_record_size || prepared.timestamp < 0 {
            return None;
        }
        match topic {
            Some(topic) => self.accumulator.try_append(topic, &prepared, options),
            None => {
                let map = self.accumulator.topics.load();
                self.accumulator.try_append(map.get(record.topic)?, &prepared, options)
            }
        }
    }

    #[cold]
    fn do_send_slow(
        &self,
        topic: Option<&TopicInfo>,
        record: Record<'_>,
        options: &mut DeliveryOptions,
    ) -> Result<(), Error> {
        let result = self.with_interceptors(record, options, |r, options| {
            let mut pending = self.new_pending_send(topic, &r, options)?;
            match self.run_step(&mut pending)? {
                SendStep::Appended => Ok(()),
                step => self.wait_and_append_blocking(pending, step),
            }
        });
        self.notify_rejected(&record, options, result)
    }

    /// The async form of `send`.
    pub(super) async fn do_send_async(
        &self,
        topic: Option<&TopicInfo>,
        record: Record<'_>,
        options: &mut DeliveryOptions,
    ) -> Result<(), Error> {
        if self.do_send_fast(topic, &record, options).is_some() {
            return Ok(());
        }
        let interceptors = &self.accumulator.listeners.interceptors;
        let result = if interceptors.is_empty() {
            self.append_async(topic, &record, options).await
        } else {
            let intercepted =
                interceptors.on_send(&record, &self.counters, &self.accumulator.caller_context);
            let record = intercepted.as_record(record.token);
            self.notify_interceptors_of(&record, options);
            self.append_async(topic, &record, options).await
        };
        self.notify_rejected(&record, options, result)
    }

    async fn append_async(
        &self,
        topic: Option<&TopicInfo>,
        record: &Record<'_>,
        options: &mut DeliveryOptions,
    ) -> Result<(), Error> {
        let mut pending = self.new_pending_send(topic, record, options)?;
        match self.run_step(&mut pending)? {
            SendStep::Appended => Ok(()),
            step => self.wait_and_append(pending, step, self.max_block_deadline()).await,
        }
    }

    /// The form of `send` that never waits.
    pub(super) fn do_try_send(
        &self,
        topic: Option<&TopicInfo>,
        record: Record<'_>,
        options: &mut DeliveryOptions,
    ) -> Result<(), Error> {
        if self.do_send_fast(topic, &record, options).is_some() {
            return Ok(());
        }
        let result = self.with_interceptors(record, options, |r, options| {
            let mut pending = self.new_pending_send(topic, &r, options)?;
            let step = self.run_step(&mut pending)?;
            self.finish_without_waiting(&r, step, "")
        });
        self.notify_rejected(&record, options, result)
    }

    /// Returns the result of a step where the caller must not wait. `suffix` follows the message.
    fn finish_without_waiting(
        &self,
        record: &Record<'_>,
        step: SendStep,
        suffix: &str,
    ) -> Result<(), Error> {
        let (kind, message) = match step {
            SendStep::Appended => return Ok(()),
            SendStep::NeedsTopic => {
                // Requested, so that a later attempt finds it.
                self.accumulator.post(Event::TopicWanted(record.topic.into()), Tick(0));
                let message = format!(
                    "topic {} is not known yet; its metadata is requested: try again later",
                    record.topic
                );
                (ErrorKind::NoMetadata, message)
            }
            SendStep::NeedsMemory(request) => {
                // Otherwise lingering batches would hold the memory until their linger ends.
                if self.accumulator.pool.record_refusal(request.charge) {
                    self.accumulator.post(Event::MemoryWanted, Tick(0));
                }
                let total = self.accumulator.pool.total_memory();
                let message = format!("buffer.memory ({total}) is exhausted: try again later");
                (ErrorKind::Full, message)
            }
        };
        Err(Error::new(kind, message + suffix))
    }

    #[cold]
    fn wait_and_append_blocking(
        &self,
        pending: PendingSend<'_, '_>,
        step: SendStep,
    ) -> Result<(), Error> {
        if self.accumulator.caller_context.must_not_block() {
            let suffix = " (a callback cannot wait for it)";
            return self.finish_without_waiting(pending.record, step, suffix);
        }
        let wait = pin!(self.wait_and_append(pending, step, self.max_block_deadline()));
        match self.accumulator.caller_context.block_on(wait, None) {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Internal, "a wait without a deadline timed out")),
        }
    }

    /// Waits until the deadline for what the last step needs, and tries again.
    async fn wait_and_append(
        &self,
        mut pending: PendingSend<'_, '_>,
        mut step: SendStep,
        deadline: Tick,
    ) -> Result<(), Error> {
        let topic: Arc<TopicInfo>;
        if matches!(step, SendStep::NeedsTopic) {
            topic = self.wait_on_metadata(pending.record, deadline).await?;
            pending.topic = Some(&topic);
            step = self.run_step(&mut pending)?;
        }
        loop {
            match step {
                SendStep::Appended => return Ok(()),
                SendStep::NeedsTopic => {
                    // The topic was created again, with fewer partitions, since the last step.
                    self.wait_on_metadata(pending.record, deadline).await?;
                }
                SendStep::NeedsMemory(request) => {
                    let start = self.accumulator.env.now();
                    let buffer = self.allocate_buffer(request, deadline).await?;
                    pending.append_state.spare_buffer = Some(buffer);
                    pending.append_state.memory_wait += self.accumulator.env.now().since(start);
                }
            }
            step = self.run_step(&mut pending)?;
        }
    }

    fn new_pending_send<'a, 'r>(
        &self,
        topic: Option<&'a TopicInfo>,
        record: &'a Record<'r>,
        options: &'a mut DeliveryOptions,
    ) -> Result<PendingSend<'a, 'r>, Error> {
        Ok(PendingSend {
            topic,
            record,
            prepared: self.prepare_record(record)?,
            options,
            append_state: AppendState::default(),
            has_called_partitioner: false,
        })
    }

    /// Tries to append the record, without waiting.
    #[inline]
    fn run_step(&self, pending: &mut PendingSend<'_, '_>) -> Result<SendStep, Error> {
        let map;
        // The topic of a handle has no partitions before its first metadata.
        let topic = match pending.topic.filter(|topic| topic.is_known()) {
            Some(topic) => topic,
            None => {
                map = self.accumulator.topics.load();
                match map.get(pending.record.topic) {
                    Some(topic) => topic,
                    None => return self.check_unknown_topic(pending.record),
                }
            }
        };
        if let Some(p) = pending.record.partition
            && !topic.has_partition(p)
        {
            return self.check_unknown_topic(pending.record);
        }
        if let (Some(custom), None, false) =
            (&self.partitioner, pending.prepared.partition, pending.has_called_partitioner)
        {
            pending.has_called_partitioner = true;
            pending.prepared.partition =
                super::partitioner::call_partitioner(&**custom, pending.record, topic)?;
        }
        let state = &mut pending.append_state;
        loop {
            match self.accumulator.append(topic, &pending.prepared, pending.options, state)? {
                AppendResult::Appended => {
                    if let Some(scratch) = state.scratch.take() {
                        self.accumulator.listeners.return_scratch(scratch);
                    }
                    return Ok(SendStep::Appended);
                }
                AppendResult::NeedsNewBatch(request) => {
                    match self.accumulator.pool.try_allocate(request)? {
                        Some(buffer) => state.spare_buffer = Some(buffer),
                        None => return Ok(SendStep::NeedsMemory(request)),
                    }
                }
                AppendResult::NeedsChainBuffer(request) => {
                    state.spare_buffer = self.accumulator.pool.try_allocate(request)?;
                    state.no_chain_buffer = state.spare_buffer.is_none();
                }
            }
        }
    }

    /// Fails if the producer is closed or the topic's name is invalid, since waiting is useless
    /// then.
    #[cold]
    fn check_unknown_topic(&self, record: &Record<'_>) -> Result<SendStep, Error> {
        let lifecycle = self.accumulator.lifecycle();
        if !lifecycle.accepts_records() {
            return Err(lifecycle.error_for_new_call());
        }
        validate_topic_name(record.topic)?;
        Ok(SendStep::NeedsTopic)
    }

    /// Passes the error of a record that was not accepted to the interceptors. It fails the open
    /// transaction.
    pub(super) fn notify_interceptors(&self, record: &Record<'_>, e: &Error) {
        self.fail_transaction(e);
        let acknowledgement = Acknowledgement {
            topic: record.topic,
            partition: record.partition,
            headers: record.headers,
            result: &Err(e.clone()),
        };
        let interceptors = &self.accumulator.listeners.interceptors;
        interceptors.on_acknowledgement(
            &acknowledgement,
            &self.counters,
            &self.accumulator.caller_context,
        );
    }

    /// Lets the interceptors see the result of a record, before the record's own callback.
    fn notify_interceptors_of(&self, record: &Record<'_>, options: &mut DeliveryOptions) {
        let (listeners, counters) = (self.accumulator.listeners.clone(), self.counters.clone());
        let caller_context = self.accumulator.caller_context.clone();
        let record = OwnedRecord::without_payload(record);
        let callback = options.callback.take();
        options.callback = Some(Box::new(move |completed: CompletedRecord| {
            let record = record.as_record();
            let acknowledgement = Acknowledgement {
                topic: record.topic,
                partition: completed.partition,
                headers: record.headers,
                result: &completed.result,
            };
            let interceptors = &listeners.interceptors;
            interceptors.on_acknowledgement(&acknowledgement, &counters, &caller_context);
            if let Some(callback) = callback {
                callback(completed);
            }
        }));
    }

    /// Passes the error of a record that was not accepted to the interceptors and to its callback.
    #[inline]
    pub(super) fn notify_rejected(
        &self,
        record: &Record<'_>,
        options: &mut DeliveryOptions,
        result: Result<(), Error>,
    ) -> Result<(), Error> {
        let Err(e) = &result else { return result };
        self.fail_transaction(e);
        if let Some(callback) = options.callback.take() {
            callback(CompletedRecord { partition: record.partition, result: Err(e.clone()) });
        }
        result
    }

    #[inline]
    fn with_interceptors<T>(
        &self,
        record: Record<'_>,
        options: &mut DeliveryOptions,
        f: impl FnOnce(Record<'_>, &mut DeliveryOptions) -> T,
    ) -> T {
        let interceptors = &self.accumulator.listeners.interceptors;
        if interceptors.is_empty() {
            return f(record, options);
        }
        let intercepted =
            interceptors.on_send(&record, &self.counters, &self.accumulator.caller_context);
        let record = intercepted.as_record(record.token);
        self.notify_interceptors_of(&record, options);
        f(record, options)
    }

    /// Computes the record's sizes and checks its limits: the first step of `send`.
    #[inline]
    fn prepare_record<'a>(&self, record: &Record<'a>) -> Result<PreparedRecord<'a>, Error> {
        // A forked child has no thread that would send the record.
        self.check_fork()?;
        match PreparedRecord::new(record, || self.accumulator.env.wall_clock_ms()) {
            Some(p) if p.batch_len_upper_bound <= self.max_record_size && p.timestamp >= 0 => Ok(p),
            other => {
                let size = other.map(|p| p.batch_len_upper_bound);
                Err(self.invalid_record_error(record, size))
            }
        }
    }

    /// Returns the reason why a record is invalid. `size` is its size in bytes, `None` for 2 GiB or
    /// more.
    #[cold]
    fn invalid_record_error(&self, record: &Record<'_>, size: Option<usize>) -> Error {
        let topic = record.topic;
        if let Some(ms) = record.timestamp.filter(|ms| *ms < 0) {
            let message = format!("the timestamp {ms} of a record for {topic} is negative");
            return Error::new(ErrorKind::InvalidRecord, message);
        }
        let (setting, limit) = match size {
            Some(size) if size <= self.config.sender.max_request_size => {
                ("buffer.memory", self.accumulator.pool.total_memory())
            }
            _ => ("max.request.size", self.config.sender.max_request_size as u64),
        };
        let size = size.map_or_else(|| "2 GiB or more".to_owned(), |size| size.to_string());
        let message = format!(
            "a record for {topic} takes {size} bytes when serialized, \
             more than {setting} ({limit}); raise {setting} or make the record smaller"
        );
        Error::new(ErrorKind::RecordTooLarge, message)
    }
}
