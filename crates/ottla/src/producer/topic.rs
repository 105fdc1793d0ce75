//! A topic whose partitions are known: the cheapest way to send many records to it.

use std::fmt;
use std::sync::Arc;

use super::send::expect_delivery;
use super::{Delivery, Producer, ProducerInner, Record, SendError, TrySendError};
use crate::accumulator::append::DeliveryOptions;
use crate::accumulator::completion::RecordMetadata;
use crate::accumulator::topics;
use crate::error::{Error, ErrorKind};

/// A topic of a producer, resolved: a record sent through it is looked up by no name. Cheap to clone.
///
/// ```no_run
/// # fn main() -> Result<(), ottla::Error> {
/// # let producer = ottla::Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let orders = producer.topic("orders")?;
/// for apples in 0..1000_u64 {
///     orders.enqueue(orders.record().value(b"apples").token(apples))?;
/// }
/// producer.flush()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Topic {
    inner: Arc<ProducerInner>,
    info: Arc<topics::TopicInfo>,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.info.name)
    }
}

impl Producer {
    /// A topic, once its partitions are known; blocks for at most `max.block.ms` (an async executor's thread,
    /// too).
    ///
    /// # Errors
    /// As [`send`](Self::send) where the topic is at fault.
    pub fn topic(&self, name: &str) -> Result<Topic, Error> {
        let topic = self.inner.topic_blocking(name)?;
        Ok(Topic { inner: self.inner.clone(), info: topic })
    }

    /// As [`topic`](Self::topic), without blocking.
    ///
    /// # Errors
    /// As [`topic`](Self::topic).
    pub async fn topic_async(&self, name: &str) -> Result<Topic, Error> {
        let topic = self.inner.topic_async(name).await?;
        Ok(Topic { inner: self.inner.clone(), info: topic })
    }
}

impl Topic {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// How many partitions it has just now.
    pub fn partition_count(&self) -> i32 {
        self.info.partitions.len() as i32
    }

    /// A record for it, without key and value.
    #[inline]
    pub fn record(&self) -> Record<'_> {
        Record::to(&self.info.name)
    }

    /// A record for another topic is a mistake that must not go unseen.
    #[inline]
    fn check_topic(&self, record: &Record<'_>) -> Result<&topics::TopicInfo, Error> {
        let name: &str = &self.info.name;
        if std::ptr::eq(name, record.topic) || name == record.topic {
            return Ok(&self.info);
        }
        let what = format!("a record for topic {} was given to topic {name}", record.topic);
        Err(Error::new(ErrorKind::InvalidRecord, what))
    }

    /// As [`Producer::send`].
    ///
    /// # Errors
    /// As [`Producer::send`]; `InvalidRecord` for a record of another topic.
    #[inline]
    pub fn send(&self, record: Record<'_>) -> Result<Delivery, SendError> {
        let watch = DeliveryOptions { callback: None, wants_delivery: true };
        expect_delivery(self.inner.do_send(Some(self.check_topic(&record)?), record, watch)?)
    }

    /// As [`send`](Self::send) for a record whose end only the producer-wide
    /// [handler](crate::ProducerBuilder::delivery_handler) is told, by its token.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline]
    pub fn enqueue(&self, record: Record<'_>) -> Result<(), SendError> {
        self.inner
            .do_send(Some(self.check_topic(&record)?), record, DeliveryOptions::default())
            .map(|_| ())
    }

    /// As [`Producer::send_with`], without keeping a [`Delivery`].
    ///
    /// # Errors
    /// As [`Producer::send_with`]; the callback is given the same, but for `InvalidRecord` of a record for
    /// another topic, at which it is dropped.
    pub fn send_with(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<(), SendError> {
        let watch = DeliveryOptions { callback: Some(Box::new(callback)), wants_delivery: false };
        self.inner.do_send(Some(self.check_topic(&record)?), record, watch).map(|_| ())
    }

    /// As [`Producer::try_send`].
    ///
    /// # Errors
    /// As [`Producer::try_send`].
    pub fn try_send<'a>(&self, record: Record<'a>) -> Result<Delivery, TrySendError<'a>> {
        let topic = self.check_topic(&record).map_err(|error| TrySendError { record, error })?;
        self.inner.do_try_send(
            Some(topic),
            record,
            DeliveryOptions { callback: None, wants_delivery: true },
        )
    }

    /// As [`Producer::send_async`].
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_async(&self, record: Record<'_>) -> Result<Delivery, SendError> {
        let watch = DeliveryOptions { callback: None, wants_delivery: true };
        expect_delivery(
            self.inner.do_send_async(Some(self.check_topic(&record)?), record, watch).await?,
        )
    }

    /// As [`enqueue`](Self::enqueue), without blocking.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn enqueue_async(&self, record: Record<'_>) -> Result<(), SendError> {
        let topic = self.check_topic(&record)?;
        self.inner.do_send_async(Some(topic), record, DeliveryOptions::default()).await.map(|_| ())
    }
}
