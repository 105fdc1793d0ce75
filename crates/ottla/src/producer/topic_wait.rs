//! Waiting for a topic's metadata (Kafka's `waitOnMetadata`).
//!
//! `send`, `partitions_for` and `topic` wait here when the topic is not known yet. The client
//! requests the metadata; `TopicInfoMap::publish` and `notify_error` wake the callers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::inner::ProducerInner;
use super::topic_name::validate_topic_name;
use crate::accumulator::topics::TopicInfo;
use crate::error::{Error, ErrorKind};
use crate::metrics::Sensor;
use crate::record::Record;
use crate::time::Tick;
use crate::wakeup::event_queue::Event;
use crate::wakeup::waiters::DeadlineWaiter;

impl ProducerInner {
    /// Returns the topic if it is known and has the partition, without waiting.
    pub(super) fn find_topic(&self, name: &str, partition: Option<i32>) -> Option<Arc<TopicInfo>> {
        self.accumulator.topics.get(name).filter(|t| partition.is_none_or(|p| t.has_partition(p)))
    }

    /// Returns the topic for a handle, and requests its metadata if it is not known.
    pub(super) fn topic_for_handle(&self, name: &str) -> Result<Arc<TopicInfo>, Error> {
        self.check_fork()?;
        if !self.accumulator.lifecycle().is_running() {
            return Err(self.accumulator.lifecycle().error_for_new_call());
        }
        validate_topic_name(name)?;
        let topic = self.accumulator.topics.get_or_create(name);
        if !topic.is_known() {
            self.accumulator.post(Event::TopicWanted(topic.name.clone()), Tick(0));
        }
        Ok(topic)
    }

    pub(super) fn topic_blocking(&self, name: &str) -> Result<Arc<TopicInfo>, Error> {
        let record = Record::to(name);
        if let Some(topic) = self.find_topic(name, None) {
            return Ok(topic);
        }
        if self.accumulator.caller_context.must_not_block() {
            self.accumulator.post(Event::TopicWanted(name.into()), Tick(0));
            let message = format!(
                "topic {name} is not known yet, and a callback cannot wait for it; \
                 its metadata is requested: try again later"
            );
            return Err(Error::new(ErrorKind::NoMetadata, message));
        }
        let wait = std::pin::pin!(self.wait_on_metadata(&record, self.max_block_deadline()));
        match self.accumulator.caller_context.block_on(wait, None) {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Internal, "a wait without a deadline timed out")),
        }
    }

    pub(super) async fn topic_async(&self, name: &str) -> Result<Arc<TopicInfo>, Error> {
        self.wait_on_metadata(&Record::to(name), self.max_block_deadline()).await
    }

    /// Waits until the record's topic is known and has the record's partition.
    pub(super) async fn wait_on_metadata(
        &self,
        record: &Record<'_>,
        deadline: Tick,
    ) -> Result<Arc<TopicInfo>, Error> {
        let wait = self.start_topic_wait(record, deadline)?;
        let start = self.accumulator.env.now();
        // An async caller has no timer of its own: the sender wakes it at its deadline.
        self.accumulator.post(Event::Waiter { deadline, waiter: wait.waiter.clone() }, deadline);
        let topic = wait.await;
        self.record_wait_time(Sensor::MetadataWait, start);
        topic
    }

    fn start_topic_wait<'h>(
        &'h self,
        record: &Record<'_>,
        deadline: Tick,
    ) -> Result<TopicWaitFuture<'h>, Error> {
        validate_topic_name(record.topic)?;
        Ok(TopicWaitFuture {
            inner: self,
            name: record.topic.into(),
            partition: record.partition,
            deadline,
            initial_error_count: None,
            waiter: DeadlineWaiter::new(Arc::default()),
            last_error: None,
        })
    }
}

/// Waits until a topic's partitions are known.
struct TopicWaitFuture<'h> {
    inner: &'h ProducerInner,
    name: Arc<str>,
    partition: Option<i32>,
    deadline: Tick,
    /// The number of errors when this wait began. Earlier errors do not concern this caller.
    /// `None` before the first poll.
    initial_error_count: Option<u64>,
    waiter: Arc<DeadlineWaiter>,
    last_error: Option<Error>,
}

impl TopicWaitFuture<'_> {
    #[cold]
    fn metadata_timeout_error(&self) -> Error {
        let ms = self.inner.config.max_block.as_millis();
        let name = &self.name;
        if let (Some(p), Some(topic)) = (self.partition, self.inner.accumulator.topics.get(name)) {
            let last = topic.partitions.len().saturating_sub(1);
            let message = format!(
                "topic {name} has no partition {p}, only 0 to {last}, \
                 and none was added within max.block.ms ({ms} ms)"
            );
            return Error::new(ErrorKind::MetadataTimeout, message);
        }
        let health = &self.inner.health;
        let reason = match (&self.last_error, health.unavailable_summary()) {
            (_, Some(unreachable)) => unreachable,
            (Some(e), None) => e.to_string(),
            (None, None) => match health.last_failure() {
                Some(failure) => format!("no broker described the topic; last failure: {failure}"),
                None => "no broker sent a response".to_owned(),
            },
        };
        let message =
            format!("no metadata for topic {name} within max.block.ms ({ms} ms): {reason}");
        let e = Error::new(ErrorKind::MetadataTimeout, message);
        match &self.last_error {
            Some(last) => e.with_last_broker_error(last),
            None => e,
        }
    }
}

impl Future for TopicWaitFuture<'_> {
    type Output = Result<Arc<TopicInfo>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let accumulator = &this.inner.accumulator;
        // The wakers are registered before the topic is looked up: if the metadata arrives between
        // the two, it either wakes this caller or is found.
        this.waiter.register(cx.waker());
        let (error_count, last_error) = accumulator.topics.register(&this.name, &this.waiter);
        let lifecycle = accumulator.lifecycle();
        if !lifecycle.is_running() {
            return Poll::Ready(Err(lifecycle.error_for_waiting_call()));
        }
        if let Some(topic) = this.inner.find_topic(&this.name, this.partition) {
            return Poll::Ready(Ok(topic));
        }
        // An error from before this wait may be out of date: the topic may exist by now.
        let initial_error_count = *this.initial_error_count.get_or_insert(error_count);
        if let Some((number, e)) = last_error
            && number > initial_error_count
        {
            if !e.is_retriable() {
                return Poll::Ready(Err(e));
            }
            this.last_error = Some(e);
        }
        // Requested again after each error; the metadata's backoff limits the rate.
        accumulator.post(Event::TopicWanted(this.name.clone()), Tick(0));
        if accumulator.env.now() >= this.deadline {
            return Poll::Ready(Err(this.metadata_timeout_error()));
        }
        Poll::Pending
    }
}
