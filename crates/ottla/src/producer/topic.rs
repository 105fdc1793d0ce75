//! Handles of topics: the fastest way to send many records to one topic.

use std::fmt;
use std::sync::Arc;

use super::send::{WITH_DELIVERY, with_callback};
use super::{Producer, ProducerInner};
use crate::accumulator::topics::TopicInfo;
use crate::delivery::batch_completions::DeliveryOptions;
use crate::delivery::result::{Delivery, RecordMetadata};
use crate::error::{Error, ErrorKind};
use crate::record::Record;

/// A handle of a topic: records sent through it need no lookup of the topic's name.
///
/// [`Producer::topic`] creates it. It is cheap to clone, and keeps the producer open while it
/// lives. The fastest combination is [`enqueue`](Topic::enqueue) with a [delivery
/// handler](crate::ProducerBuilder::delivery_handler).
///
/// Its methods are those of [`Producer`]. They fail with [`ErrorKind::InvalidRecord`] if the record
/// is for another topic.
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
    info: Arc<TopicInfo>,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.info.name)
    }
}

impl Producer {
    /// Returns a handle of a topic. It does not wait for the topic's metadata: if the topic is not
    /// known yet, also because no broker can be reached, the first `send` waits for it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidTopic`] if Kafka does not allow the name; [`ErrorKind::Closed`],
    /// [`ErrorKind::Forked`]. Whether the topic exists is found by the first `send`.
    pub fn topic(&self, name: impl AsRef<str>) -> Result<Topic, Error> {
        let info = self.inner.topic_for_handle(name.as_ref())?;
        Ok(Topic { inner: self.inner.clone(), info })
    }
}

impl Topic {
    /// Returns the topic's name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Returns the current number of partitions; 0 while the topic is not known.
    /// [`Producer::partitions_for`] waits for it.
    pub fn partition_count(&self) -> i32 {
        self.info.partitions.len() as i32
    }

    /// Creates a record for this topic, with a null key and a null value.
    #[inline]
    pub fn record(&self) -> Record<'_> {
        Record::to(&self.info.name)
    }

    /// Passes the error of a record that was not accepted to the interceptors.
    pub(super) fn notify_interceptors(&self, record: &Record<'_>, e: &Error) {
        self.inner.notify_interceptors(record, e);
    }

    #[inline]
    fn is_topic_of(&self, record: &Record<'_>) -> bool {
        let name: &str = &self.info.name;
        std::ptr::eq(name, record.topic) || name == record.topic
    }

    /// Rejects a record for a different topic: it would go to this one instead.
    #[cold]
    fn reject(&self, record: &Record<'_>, options: &mut DeliveryOptions) -> Result<(), Error> {
        let message =
            format!("the record is for topic {}, the handle for {}", record.topic, self.info.name);
        let e = Error::new(ErrorKind::InvalidRecord, message);
        self.inner.notify_interceptors(record, &e);
        self.inner.notify_rejected(record, options, Err(e))
    }

    #[inline]
    fn do_send(&self, record: Record<'_>, options: &mut DeliveryOptions) -> Result<(), Error> {
        if !self.is_topic_of(&record) {
            return self.reject(&record, options);
        }
        self.inner.do_send(Some(&self.info), record, options)
    }

    fn do_try_send(&self, record: Record<'_>, options: &mut DeliveryOptions) -> Result<(), Error> {
        if !self.is_topic_of(&record) {
            return self.reject(&record, options);
        }
        self.inner.do_try_send(Some(&self.info), record, options)
    }

    async fn do_send_async(
        &self,
        record: Record<'_>,
        options: &mut DeliveryOptions,
    ) -> Result<(), Error> {
        if !self.is_topic_of(&record) {
            return self.reject(&record, options);
        }
        self.inner.do_send_async(Some(&self.info), record, options).await
    }

    /// Like [`Producer::send`].
    ///
    /// # Errors
    /// The errors of [`Producer::send`]; [`ErrorKind::InvalidRecord`] if the record is for another
    /// topic.
    #[inline]
    pub fn send(&self, record: Record<'_>) -> Result<Delivery, Error> {
        let mut options = WITH_DELIVERY;
        self.do_send(record, &mut options)?;
        options.into_delivery()
    }

    /// Like [`Producer::try_send`].
    ///
    /// # Errors
    /// The errors of [`Producer::try_send`], and of [`send`](Self::send).
    pub fn try_send(&self, record: Record<'_>) -> Result<Delivery, Error> {
        let mut options = WITH_DELIVERY;
        self.do_try_send(record, &mut options)?;
        options.into_delivery()
    }

    /// Like [`Producer::send_async`].
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub async fn send_async(&self, record: Record<'_>) -> Result<Delivery, Error> {
        let mut options = WITH_DELIVERY;
        self.do_send_async(record, &mut options).await?;
        options.into_delivery()
    }

    /// Like [`Producer::send_with_callback`]. The callback runs on the threads that are listed
    /// [there](Producer::send_with_callback).
    ///
    /// # Errors
    /// The errors of [`send`](Self::send), which the callback receives, too.
    pub fn send_with_callback(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.do_send(record, &mut with_callback(callback))
    }

    /// Like [`Producer::try_send_with_callback`].
    ///
    /// # Errors
    /// The errors of [`try_send`](Self::try_send), which the callback receives, too.
    pub fn try_send_with_callback(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.do_try_send(record, &mut with_callback(callback))
    }

    /// Like [`Producer::send_with_callback_async`].
    ///
    /// # Errors
    /// The errors of [`send`](Self::send), which the callback receives, too.
    pub async fn send_with_callback_async(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.do_send_async(record, &mut with_callback(callback)).await
    }

    /// Like [`Producer::enqueue`]: without a [`Delivery`], the [delivery
    /// handler](crate::ProducerBuilder::delivery_handler) receives the record's result, by its
    /// [token](Record::token).
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    #[inline]
    pub fn enqueue(&self, record: Record<'_>) -> Result<(), Error> {
        self.do_send(record, &mut DeliveryOptions::default())
    }

    /// Like [`Producer::try_enqueue`].
    ///
    /// # Errors
    /// The errors of [`try_send`](Self::try_send).
    pub fn try_enqueue(&self, record: Record<'_>) -> Result<(), Error> {
        self.do_try_send(record, &mut DeliveryOptions::default())
    }

    /// Like [`Producer::enqueue_async`].
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub async fn enqueue_async(&self, record: Record<'_>) -> Result<(), Error> {
        self.do_send_async(record, &mut DeliveryOptions::default()).await
    }
}
