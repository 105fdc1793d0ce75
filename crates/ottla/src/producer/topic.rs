//! Handles of topics: the fastest way to send many records to one topic.

use std::fmt;
use std::sync::Arc;

use super::send::{WITH_DELIVERY, WITHOUT_DELIVERY};
use super::{Delivery, Producer, ProducerInner, TrySendError};
use crate::accumulator::topics;
use crate::delivery::batch_completions::DeliveryOptions;
use crate::delivery::result::RecordMetadata;
use crate::error::{Error, ErrorKind};
use crate::record::Record;

/// A handle of a topic: records sent through it need no lookup of the topic's name.
///
/// [`Producer::topic`] creates it. It is cheap to clone, and keeps the producer open while it
/// lives. The fastest combination is [`enqueue`](Topic::enqueue) with a [delivery
/// handler](crate::ProducerBuilder::delivery_handler).
///
/// ```no_run
/// # fn main() -> Result<(), ottla::Error> {
/// # let producer = ottla::Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let orders = producer.topic("orders")?;
/// for number in 0..1000_u64 {
///     orders.enqueue(orders.record().value(b"3 apples").token(number))?;
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
    /// Returns a handle of a topic. Blocks for at most `max.block.ms` if the topic is not known
    /// yet.
    ///
    /// Inside an async executor this blocks the executor's thread: use
    /// [`topic_async`](Self::topic_async). Inside a callback it does not block: it fails with
    /// [`ErrorKind::NoMetadata`] if the topic is not known yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidTopic`], [`ErrorKind::Authorization`], [`ErrorKind::MetadataTimeout`] or
    /// [`ErrorKind::Closed`].
    pub fn topic(&self, name: &str) -> Result<Topic, Error> {
        let info = self.inner.topic_blocking(name)?;
        Ok(Topic { inner: self.inner.clone(), info })
    }

    /// Like [`topic`](Self::topic), without blocking.
    ///
    /// # Errors
    /// The errors of [`topic`](Self::topic).
    pub async fn topic_async(&self, name: &str) -> Result<Topic, Error> {
        let info = self.inner.topic_async(name).await?;
        Ok(Topic { inner: self.inner.clone(), info })
    }
}

impl Topic {
    /// Returns the topic's name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Returns the current number of partitions.
    pub fn partition_count(&self) -> i32 {
        self.info.partitions.len() as i32
    }

    /// Creates a record for this topic, with a null key and a null value.
    #[inline]
    pub fn record(&self) -> Record<'_> {
        Record::to(&self.info.name)
    }

    /// Fails if the record is for a different topic: it would go to this one instead.
    #[inline]
    fn check_topic(&self, record: &Record<'_>) -> Result<&topics::TopicInfo, Error> {
        let name: &str = &self.info.name;
        if std::ptr::eq(name, record.topic) || name == record.topic {
            return Ok(&self.info);
        }
        let message = format!("the record is for topic {}, the handle for {name}", record.topic);
        Err(Error::new(ErrorKind::InvalidRecord, message))
    }

    /// Like [`Producer::send`].
    ///
    /// # Errors
    /// The errors of [`Producer::send`]; [`ErrorKind::InvalidRecord`] if the record is for another
    /// topic.
    #[inline]
    pub fn send(&self, record: Record<'_>) -> Result<Delivery, Error> {
        let topic = self.check_topic(&record)?;
        self.inner.do_send(Some(topic), record, WITH_DELIVERY)?.into_delivery()
    }

    /// Like [`send`](Self::send), without a [`Delivery`]. The [delivery
    /// handler](crate::ProducerBuilder::delivery_handler) receives the record's result, by its
    /// [token](Record::token).
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    #[inline]
    pub fn enqueue(&self, record: Record<'_>) -> Result<(), Error> {
        let topic = self.check_topic(&record)?;
        self.inner.do_send(Some(topic), record, WITHOUT_DELIVERY).map(|_| ())
    }

    /// Like [`Producer::send_with`], without a [`Delivery`]. The callback runs on the threads that
    /// are listed [there](Producer::send_with).
    ///
    /// # Errors
    /// The errors of [`Producer::send_with`], which the callback receives, too. If the record is
    /// for another topic, the call fails with [`ErrorKind::InvalidRecord`] and drops the callback.
    pub fn send_with(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let topic = self.check_topic(&record)?;
        let options = DeliveryOptions { callback: Some(Box::new(callback)), wants_delivery: false };
        self.inner.do_send(Some(topic), record, options).map(|_| ())
    }

    /// Like [`Producer::try_send`].
    ///
    /// # Errors
    /// The errors of [`Producer::try_send`]; [`ErrorKind::InvalidRecord`] if the record is for
    /// another topic.
    pub fn try_send<'a>(&self, record: Record<'a>) -> Result<Delivery, TrySendError<'a>> {
        let topic = self.check_topic(&record).map_err(|error| TrySendError { record, error })?;
        self.inner.do_try_send(Some(topic), record, WITH_DELIVERY)
    }

    /// Like [`Producer::send_async`].
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub async fn send_async(&self, record: Record<'_>) -> Result<Delivery, Error> {
        let topic = self.check_topic(&record)?;
        self.inner.do_send_async(Some(topic), record, WITH_DELIVERY).await?.into_delivery()
    }

    /// Like [`enqueue`](Self::enqueue), without blocking.
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub async fn enqueue_async(&self, record: Record<'_>) -> Result<(), Error> {
        let topic = self.check_topic(&record)?;
        self.inner.do_send_async(Some(topic), record, WITHOUT_DELIVERY).await.map(|_| ())
    }
}

/// The longest topic name, in characters.
const MAX_TOPIC_NAME_LEN: usize = 249;

/// Checks a topic's name by Kafka's rule.
///
/// A name has 1 to 249 characters: `a` to `z`, `A` to `Z`, `0` to `9`, `.`, `_` and `-`. The names
/// `.` and `..` are not allowed.
///
/// # Errors
/// [`ErrorKind::InvalidTopic`]; the message says which part of the rule the name breaks.
pub fn validate_topic_name(name: &str) -> Result<(), Error> {
    let invalid = |reason: &str| {
        Err(Error::new(ErrorKind::InvalidTopic, format!("the topic name {name:?} {reason}")))
    };
    if name.is_empty() {
        return invalid("is empty");
    }
    if name.len() > MAX_TOPIC_NAME_LEN {
        return invalid("is longer than 249 characters");
    }
    if name == "." || name == ".." {
        return invalid("is not allowed");
    }
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(c) = name.chars().find(|c| !is_legal(*c)) {
        return invalid(&format!(
            "contains {c:?}; only a-z, A-Z, 0-9, '.', '_' and '-' are allowed"
        ));
    }
    Ok(())
}
