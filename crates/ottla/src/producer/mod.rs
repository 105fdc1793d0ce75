//! What an application touches: the builder, the producer and its calls. Each call that can wait has a
//! blocking and an async form.

mod builder;
mod inner;
mod interceptor;
mod partitioner;
mod record;
mod send;
mod serializer;
mod topic;

pub use builder::ProducerBuilder;
pub(crate) use inner::ProducerInner;
pub use inner::validate_topic_name;
pub(crate) use interceptor::Interceptors;
pub use interceptor::{BoxError, Interceptor, MutableHeader, MutableRecord};
pub use partitioner::{Partitioner, Partitions};
pub(crate) use record::PreparedRecord;
pub use record::{Header, Record};
pub use send::TrySendError;
pub use serializer::{
    BigEndianSerializer, BytesSerializer, FnSerializer, NullableSerializer, Serializer,
    TypedProducer,
};
pub use topic::Topic;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::accumulator::completion::Delivery;
use crate::accumulator::event_queue::Event;
use crate::accumulator::waiters::{FlushCompletion, FlushFuture};
use crate::client::Health;
use crate::error::{Error, SendError};
use crate::metrics::{Metric, Sensor, Totals};
use crate::time::Tick;

/// A Kafka producer. Cheap to clone; clones share everything, and may be used from any thread.
///
/// Records are accepted by [`send`](Producer::send), gathered into batches, and sent by one thread of the
/// producer's own. Dropping the last clone closes it: see [`close`](Producer::close).
///
/// ```no_run
/// use ottla::{Producer, Record};
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let delivery = producer.send(Record::to("orders").key(b"customer-7").value(b"3 apples"))?;
/// println!("at offset {:?}", delivery.wait()?.offset());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Producer {
    inner: Arc<ProducerInner>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({})", self.inner.client_id)
    }
}

/// A partition of a topic, as [`Producer::partitions_for`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionInfo {
    /// Its number.
    pub partition: i32,
    /// The node that leads it, if any does.
    pub leader: Option<i32>,
}

/// What a [`purge`](Producer::purge) ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeScope {
    /// Records that were not sent yet, or wait to be sent again.
    Queued,
    /// Those, and records whose answer is awaited.
    QueuedAndInFlight,
}

impl Producer {
    /// Begins to configure one.
    pub fn builder() -> ProducerBuilder {
        ProducerBuilder::new()
    }

    #[cfg_attr(not(feature = "unstable-sim"), allow(dead_code))]
    pub(crate) fn from_inner(handle: Arc<ProducerInner>) -> Producer {
        Producer { inner: handle }
    }

    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn memory_balance(&self) -> i64 {
        self.inner.accumulator.pool.balance()
    }

    /// Sends every record accepted so far, without waiting for `linger.ms`, and blocks until each has ended,
    /// one way or the other. Records accepted meanwhile are not waited for. At most about
    /// `delivery.timeout.ms`. Inside an async executor this blocks the executor's thread: use
    /// [`flush_async`](Self::flush_async).
    ///
    /// # Errors
    /// [`ErrorKind::WouldDeadlock`](crate::ErrorKind::WouldDeadlock) inside a callback.
    pub fn flush(&self) -> Result<(), Error> {
        self.inner.check_fork()?;
        let callers = &self.inner.accumulator.caller_context;
        callers.check_can_block("Producer::flush")?;
        let from = callers.env.now();
        let _ = callers.block_on(self.begin_flush(), None);
        self.inner.record_wait_time(Sensor::Flush, from);
        Ok(())
    }

    /// As [`flush`](Self::flush), without blocking. Dropping the future leaves the batches due at once, and
    /// nothing else behind.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn flush_async(&self) -> Result<(), Error> {
        self.inner.check_fork()?;
        self.inner.accumulator.caller_context.check_can_block("Producer::flush_async")?;
        let from = self.inner.accumulator.env.now();
        self.begin_flush().await;
        self.inner.record_wait_time(Sensor::Flush, from);
        Ok(())
    }

    fn begin_flush(&self) -> FlushFuture {
        let flush = Arc::<FlushCompletion>::default();
        self.inner.accumulator.post(Event::Flush(flush.clone()), Tick(0));
        FlushFuture(flush)
    }

    /// The partitions of a topic; blocks for at most `max.block.ms` where it is not known yet (an async
    /// executor's thread, too).
    ///
    /// # Errors
    /// As [`send`](Self::send) where the topic is at fault.
    pub fn partitions_for(&self, topic: &str) -> Result<Vec<PartitionInfo>, Error> {
        let topic = self.inner.topic_blocking(topic)?;
        Ok(partition_infos(&topic))
    }

    /// As [`partitions_for`](Self::partitions_for), without blocking. Dropping the future leaves the topic
    /// asked for, and nothing else behind.
    ///
    /// # Errors
    /// As [`partitions_for`](Self::partitions_for).
    pub async fn partitions_for_async(&self, topic: &str) -> Result<Vec<PartitionInfo>, Error> {
        let topic = self.inner.topic_async(topic).await?;
        Ok(partition_infos(&topic))
    }

    /// Fails what waits to be sent, and what is in flight as well if so told, with
    /// [`ErrorKind::Purged`](crate::ErrorKind::Purged). A record sent right after this may still come into a
    /// batch of those, and ends with it; a new batch is not concerned. Returns at once: the records' deliveries, callbacks and handler tell when it is done. A record that was in flight
    /// may have been written, and its error says so.
    ///
    /// # Errors
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked).
    pub fn purge(&self, what: PurgeScope) -> Result<(), Error> {
        self.inner.check_fork()?;
        let in_flight = what == PurgeScope::QueuedAndInFlight;
        let to = self.inner.accumulator.last_batch_number();
        self.inner
            .accumulator
            .post(Event::Purge { up_to_batch: to, include_in_flight: in_flight }, Tick(0));
        Ok(())
    }

    /// Bytes of `buffer.memory` that no record occupies.
    pub fn available_memory(&self) -> u64 {
        self.inner.accumulator.pool.available_memory()
    }

    /// Totals since the producer was built.
    pub fn totals(&self) -> Totals {
        self.inner.counters.totals()
    }

    /// Everything that is measured, by Kafka's names: groups `producer-metrics`, `producer-topic-metrics`,
    /// `producer-node-metrics`, `app-info` and `kafka-metrics-count`. Rates, means and maxima are over the last
    /// `metrics.num.samples` windows of `metrics.sample.window.ms`. None once the producer is closed.
    pub fn metrics(&self) -> Vec<Metric> {
        self.inner.metrics()
    }

    /// Who is connected, and who is not and why.
    pub fn health(&self) -> Health {
        self.inner.health.get()
    }

    /// Stops accepting records, sends what was accepted, and blocks until each has ended or the time is over;
    /// what is left then fails as [`ErrorKind::Closed`](crate::ErrorKind::Closed). Closing again is
    /// harmless. Inside an async executor this blocks the executor's thread. Inside a callback it acts as with a time-out of zero, and does not wait.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if the producer's thread cannot be joined.
    pub fn close(&self, timeout: Duration) -> Result<(), Error> {
        self.inner.close(timeout)
    }

    /// As [`close`](Self::close), without blocking. Dropping the future leaves the producer closing.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub async fn close_async(&self, timeout: Duration) -> Result<(), Error> {
        self.inner.begin_close(timeout);
        // The flush is answered when everything is settled, or when the sender ends.
        self.begin_flush().await;
        Ok(())
    }

    /// Whether it has been closed.
    pub fn is_closed(&self) -> bool {
        self.inner.accumulator.closed.load(Ordering::Relaxed)
    }
}

fn partition_infos(topic: &crate::accumulator::topics::TopicInfo) -> Vec<PartitionInfo> {
    let info = |p: &Arc<crate::accumulator::partition::Partition>| {
        let leader = p.leader.load(Ordering::Relaxed);
        PartitionInfo { partition: p.index, leader: (leader != -1).then_some(leader) }
    };
    topic.partitions.iter().map(info).collect()
}
