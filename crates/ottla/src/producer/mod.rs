//! The public API: the builder, the producer and its calls.
//!
//! Each call that can wait has a blocking and an async form. The producer appends records to the
//! accumulator (`accumulator/`), from where the sender (`sender/`) takes them.

mod builder;
mod inner;
mod close;
mod client_instance_id;
mod partitioner;
mod send;
mod snapshot;
mod do_send;
mod topic_wait;
mod memory_wait;
mod topic;
mod topic_name;
mod transaction;
mod typed;

pub use builder::ProducerBuilder;
pub use close::CloseReport;
pub(crate) use inner::ProducerInner;
pub use partitioner::{Partitioner, Partitions};
pub use topic::Topic;
pub use topic_name::validate_topic_name;
pub use transaction::Transaction;
pub use typed::{TypedProducer, TypedRecord, TypedTopic};

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::accumulator::partition::Partition;
use crate::accumulator::topics::TopicInfo;
use crate::client::Health;
use crate::config::ProducerConfig;
use crate::error::Error;
use crate::metrics::{Metric, Sensor, Totals};
use crate::time::Tick;
use crate::wakeup::event_queue::Event;
use crate::wakeup::waiters::{FlushCompletion, FlushFuture};

/// A Kafka producer. It is cheap to clone; clones share everything. Any thread may use it.
///
/// [`send`](Producer::send) accepts records and gathers them in batches, and one thread of the
/// producer sends the batches. A record's result reaches the application through a
/// [`Delivery`](crate::Delivery), a [callback](Producer::send_with_callback), or the producer's
/// [delivery handler](ProducerBuilder::delivery_handler). The crate's page lists [all methods that
/// send](crate#ways-to-send).
///
/// # Dropping the last clone
///
/// Dropping the last clone closes the producer, and **blocks the thread** for up to 5 s while
/// records are left (or `delivery.timeout.ms` if that is shorter). In async code it blocks the
/// executor's thread. Records that are left after that fail, and only a warning in the log says how
/// many. Call [`close_async`](Producer::close_async) or [`close`](Producer::close) before: the drop
/// then does not wait, and the call returns what was left.
///
/// ```no_run
/// use std::time::Duration;
///
/// use ottla::{Producer, Record};
///
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let delivery = producer.send(Record::to("orders").key("customer-7").value("3 apples"))?;
/// println!("acknowledged at offset {:?}", delivery.wait()?.offset());
/// producer.close(Duration::from_secs(10))?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Producer {
    inner: Arc<ProducerInner>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({})", self.inner.config.client.client_id)
    }
}

/// A partition of a topic, from [`Producer::partitions_for`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionInfo {
    /// The partition's number.
    pub partition: i32,
    /// The node id of the leader; `None` if the partition has no leader.
    pub leader: Option<i32>,
}

/// The records that a [`purge`](Producer::purge) fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeScope {
    /// Records that were not sent yet, or that wait for a retry.
    Queued,
    /// Queued records, and records in requests that wait for a response.
    QueuedAndInFlight,
}

impl Producer {
    /// Returns a builder for a new producer.
    pub fn builder() -> ProducerBuilder {
        ProducerBuilder::new()
    }

    #[cfg_attr(not(feature = "unstable-sim"), allow(dead_code))]
    pub(crate) fn from_inner(inner: Arc<ProducerInner>) -> Producer {
        Producer { inner }
    }

    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn memory_balance(&self) -> i64 {
        self.inner.accumulator.pool.balance()
    }

    /// Sends all records accepted so far at once, without waiting for `linger.ms`, and blocks until
    /// each of them is acknowledged or has failed.
    ///
    /// It does not wait for records accepted after its start. It takes at most about
    /// `delivery.timeout.ms`. Inside an async executor this blocks the executor's thread: use
    /// [`flush_async`](Self::flush_async).
    ///
    /// # Errors
    /// [`ErrorKind::WouldDeadlock`](crate::ErrorKind::WouldDeadlock) inside a callback. The results
    /// of the records are not part of this result.
    pub fn flush(&self) -> Result<(), Error> {
        self.inner.check_fork()?;
        let context = &self.inner.accumulator.caller_context;
        context.check_can_block("Producer::flush")?;
        let start = context.env.now();
        let _ = context.block_on(self.begin_flush(), None);
        self.inner.record_wait_time(Sensor::Flush, start);
        Ok(())
    }

    /// Like [`flush`](Self::flush), without blocking.
    ///
    /// Dropping the future ends only the wait: the producer still sends the records at once.
    ///
    /// # Errors
    /// The errors of [`flush`](Self::flush).
    pub async fn flush_async(&self) -> Result<(), Error> {
        self.inner.check_fork()?;
        self.inner.accumulator.caller_context.check_can_block("Producer::flush_async")?;
        let start = self.inner.accumulator.env.now();
        self.begin_flush().await;
        self.inner.record_wait_time(Sensor::Flush, start);
        Ok(())
    }

    /// Like [`flush`](Self::flush), for at most `timeout`. Returns whether all records completed.
    ///
    /// The records that are left stay accepted, and the producer continues to send them:
    /// [`outstanding_records`](Self::outstanding_records) counts them. In async code, give
    /// [`flush_async`](Self::flush_async) a timeout of the executor.
    ///
    /// # Errors
    /// The errors of [`flush`](Self::flush).
    pub fn flush_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.inner.check_fork()?;
        let context = &self.inner.accumulator.caller_context;
        context.check_can_block("Producer::flush_timeout")?;
        let start = context.env.now();
        let completed = context.block_on(self.begin_flush(), Some(start.after(timeout))).is_ok();
        self.inner.record_wait_time(Sensor::Flush, start);
        Ok(completed)
    }

    /// Returns the number of records that were accepted and have no result yet.
    ///
    /// It looks at every partition that the producer knows, so it is not for each record. While
    /// other threads send, the number is approximate.
    pub fn outstanding_records(&self) -> u64 {
        self.inner.accumulator.outstanding_records()
    }

    fn begin_flush(&self) -> FlushFuture {
        let flush = Arc::<FlushCompletion>::default();
        self.inner.accumulator.post(Event::Flush(flush.clone()), Tick(0));
        FlushFuture { completion: flush }
    }

    /// Returns the partitions of a topic. Blocks for at most `max.block.ms` if the topic is not
    /// known yet.
    ///
    /// Inside an async executor this blocks the executor's thread: use
    /// [`partitions_for_async`](Self::partitions_for_async).
    ///
    /// # Errors
    /// The errors of [`topic`](Self::topic).
    pub fn partitions_for(&self, topic: &str) -> Result<Vec<PartitionInfo>, Error> {
        let topic = self.inner.topic_blocking(topic)?;
        Ok(partition_infos(&topic))
    }

    /// Like [`partitions_for`](Self::partitions_for), without blocking.
    ///
    /// # Errors
    /// The errors of [`topic`](Self::topic).
    pub async fn partitions_for_async(&self, topic: &str) -> Result<Vec<PartitionInfo>, Error> {
        let topic = self.inner.topic_async(topic).await?;
        Ok(partition_infos(&topic))
    }

    /// Fails the queued records, and with [`PurgeScope::QueuedAndInFlight`] also those in flight,
    /// with [`ErrorKind::Purged`](crate::ErrorKind::Purged).
    ///
    /// It returns at once. Deliveries, callbacks and the delivery handler receive the errors. For a
    /// record in flight, the error's [`record_status`](Error::record_status) says whether the
    /// record may be in the log. A record that is sent right after this call may join a batch that
    /// is being purged, and then fails with it.
    ///
    /// # Errors
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked).
    pub fn purge(&self, scope: PurgeScope) -> Result<(), Error> {
        self.inner.check_fork()?;
        let event = Event::Purge {
            up_to_batch: self.inner.accumulator.last_batch_number(),
            include_in_flight: scope == PurgeScope::QueuedAndInFlight,
        };
        self.inner.accumulator.post(event, Tick(0));
        Ok(())
    }

    /// Returns the free bytes of `buffer.memory`.
    pub fn available_memory(&self) -> u64 {
        self.inner.accumulator.pool.available_memory()
    }

    /// Returns the producer's settings.
    pub fn config(&self) -> &ProducerConfig {
        &self.inner.config
    }

    /// Returns totals since the producer was built.
    pub fn totals(&self) -> Totals {
        self.inner.counters.totals()
    }

    /// Returns all metrics with their values, under the names of Kafka's Java producer.
    ///
    /// The groups are `producer-metrics`, `producer-topic-metrics`, `producer-node-metrics`,
    /// `app-info` and `kafka-metrics-count`. Rates, averages and maxima are those of the last
    /// `metrics.num.samples` windows of `metrics.sample.window.ms`. A closed producer has no
    /// metrics.
    pub fn metrics(&self) -> Vec<Metric> {
        self.inner.metrics()
    }

    /// Returns a function that returns the metrics as long as the producer exists.
    #[cfg(feature = "opentelemetry")]
    pub(crate) fn metrics_reader(&self) -> impl Fn() -> Vec<Metric> + Send + Sync + 'static {
        let inner = Arc::downgrade(&self.inner);
        move || inner.upgrade().map_or_else(Vec::new, |inner| inner.metrics())
    }

    /// Returns which brokers are connected, which are not and for what reason, how long each
    /// connected broker has not responded, and why the transaction or the producer has failed.
    ///
    /// [`snapshot`](Self::snapshot) has more, and asks the producer's thread.
    pub fn health(&self) -> Health {
        let accumulator = &self.inner.accumulator;
        let lifecycle = accumulator.lifecycle();
        Health {
            transaction_error: lifecycle.transaction_error(),
            fatal_error: lifecycle.fatal_error().map(ToString::to_string),
            ..self.inner.health.get(accumulator.env.now())
        }
    }

    /// Closes the producer: rejects new records, sends the accepted ones, and blocks until each is
    /// acknowledged or has failed.
    ///
    /// Records that are left after `timeout` fail with
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed). If a callback or handler does not return,
    /// the call returns 2 s later all the same. Closing again waits for the first close. The report
    /// says how many records were left.
    ///
    /// Inside an async executor this blocks the executor's thread: use
    /// [`close_async`](Self::close_async). Inside a callback the timeout is zero, and the call
    /// returns at once.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if the producer's thread panicked;
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked).
    pub fn close(&self, timeout: Duration) -> Result<CloseReport, Error> {
        self.inner.close(timeout)
    }

    /// Like [`close`](Self::close), without blocking the executor's thread.
    ///
    /// A thread of its own waits for the end. Dropping the future ends only the wait: the producer
    /// still closes. A future that was never polled closes nothing.
    ///
    /// # Errors
    /// The errors of [`close`](Self::close).
    pub async fn close_async(&self, timeout: Duration) -> Result<CloseReport, Error> {
        self.inner.close_async(timeout).await
    }

    /// Returns whether the producer is closed or closing.
    pub fn is_closed(&self) -> bool {
        !self.inner.accumulator.lifecycle().is_running()
    }
}

fn partition_infos(topic: &TopicInfo) -> Vec<PartitionInfo> {
    let info = |p: &Arc<Partition>| {
        let leader = p.leader.load(Ordering::Relaxed);
        PartitionInfo { partition: p.index, leader: (leader != -1).then_some(leader) }
    };
    topic.partitions.iter().map(info).collect()
}
