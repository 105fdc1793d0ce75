//! The `send` methods of [`Producer`]: where a record's result goes, and whether the call may wait.
//!
//! `do_send.rs` implements them. [`Topic`](super::Topic) and the typed forms have the same methods.

use super::Producer;
use crate::delivery::batch_completions::{Callback, DeliveryOptions};
use crate::delivery::result::{Delivery, RecordMetadata};
use crate::error::Error;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::record::Record;

/// The result of the record goes to a [`Delivery`].
pub(super) const WITH_DELIVERY: DeliveryOptions =
    DeliveryOptions { callback: None, wants_delivery: true, delivery: None };

/// The result of the record goes to a callback.
pub(super) fn with_callback(
    callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
) -> DeliveryOptions {
    let callback: Callback = Box::new(|completed| callback(completed.result));
    DeliveryOptions { callback: Some(callback), ..DeliveryOptions::default() }
}

impl Producer {
    /// Accepts a record. When this returns, the record is encoded into its partition's batch, and
    /// the producer will send it. The [`Delivery`] receives the record's result.
    ///
    /// Blocks for at most `max.block.ms`, for the topic's metadata and for memory together. Records
    /// that one thread sends, one after the other, keep their order within a partition.
    ///
    /// Inside an async executor this blocks the executor's thread: use
    /// [`send_async`](Self::send_async). Inside a callback it never blocks: it acts like
    /// [`try_send`](Self::try_send). For many records to one topic, a [`Topic`](crate::Topic) is
    /// faster.
    ///
    /// # Errors
    /// An error means that the producer did not accept the record, and that it is in no log: its
    /// [`record_status`](Error::record_status) is
    /// [`NotPersisted`](crate::RecordStatus::NotPersisted).
    /// - [`ErrorKind::InvalidTopic`], [`ErrorKind::Authorization`], [`ErrorKind::MetadataTimeout`]:
    ///   the topic.
    /// - [`ErrorKind::InvalidRecord`], [`ErrorKind::RecordTooLarge`]: the record.
    /// - [`ErrorKind::BufferExhausted`]: no memory became free within `max.block.ms`.
    /// - [`ErrorKind::Full`], [`ErrorKind::NoMetadata`]: inside a callback, where `send` cannot
    ///   wait.
    /// - [`ErrorKind::Closed`], or the error that ended the producer.
    pub fn send(&self, record: Record<'_>) -> Result<Delivery, Error> {
        let mut options = WITH_DELIVERY;
        self.inner.do_send(None, record, &mut options)?;
        options.into_delivery()
    }

    /// Like [`send`](Self::send), if that is possible without waiting.
    ///
    /// A record is `Copy`, so after an error the caller can try again with the same one.
    ///
    /// # Errors
    /// - [`ErrorKind::Full`]: `buffer.memory` is exhausted.
    /// - [`ErrorKind::NoMetadata`]: the topic is not known yet. The producer has requested it.
    /// - [`ErrorKind::Closed`], and the other errors of [`send`](Self::send).
    pub fn try_send(&self, record: Record<'_>) -> Result<Delivery, Error> {
        let mut options = WITH_DELIVERY;
        self.inner.do_try_send(None, record, &mut options)?;
        options.into_delivery()
    }

    /// Like [`send`](Self::send), without blocking.
    ///
    /// The record is appended in the poll that returns ready. A future that is dropped earlier
    /// sends nothing. Records keep their order within a partition if each future is awaited before
    /// the next one is created.
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub async fn send_async(&self, record: Record<'_>) -> Result<Delivery, Error> {
        let mut options = WITH_DELIVERY;
        self.inner.do_send_async(None, record, &mut options).await?;
        options.into_delivery()
    }

    /// Like [`send`](Self::send), with a callback that receives the record's result.
    ///
    /// ```no_run
    /// # use ottla::{Producer, Record};
    /// # fn example(producer: &Producer) -> Result<(), ottla::Error> {
    /// producer.send_with_callback(Record::to("orders").value("3 apples"), |result| match result {
    ///     Ok(metadata) => println!("acknowledged at offset {:?}", metadata.offset()),
    ///     Err(e) => eprintln!("failed: {e}"),
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// The result has no bytes of the record. A callback that may need them owns them:
    ///
    /// ```no_run
    /// # use ottla::{OwnedRecord, Producer};
    /// # use std::sync::mpsc::Sender;
    /// # fn f(producer: &Producer, failed: Sender<OwnedRecord>) -> Result<(), ottla::Error> {
    /// let record = OwnedRecord::to("orders").value("3 apples");
    /// let copy = record.clone();
    /// producer.send_with_callback(record.as_record(), move |result| {
    ///     if result.is_err() {
    ///         let _ = failed.send(copy);
    ///     }
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Threads
    ///
    /// The callback runs exactly once, on one of these threads:
    ///
    /// - **The sender's thread**, as a rule. The callback must not wait there: while it runs, the
    ///   producer sends nothing. `flush` and `Delivery::wait` fail with
    ///   [`ErrorKind::WouldDeadlock`]; `send` acts like `try_send`; `close` only begins the close.
    /// - **The calling thread, inside `send_with_callback`**, if the producer does not accept the
    ///   record. The callback then receives the error that this call returns. It may wait, and its
    ///   panic reaches the caller.
    /// - **Another thread, if the sender has ended** before it knew of the record's batch. This
    ///   happens when the producer is closed, or the sender panics, while records are being
    ///   appended. The producer's queue then rejects the batch's event, and the thread that posted
    ///   the event fails all records of the partition:
    ///   - a thread that appended to the batch, inside its own `send`;
    ///   - or the producer's worker thread that compressed or split the batch.
    ///
    ///   Records that no such event covers fail on the thread that drops the last clone of the
    ///   producer.
    ///
    /// In all cases the producer holds no lock. Except inside `send_with_callback`, it catches a
    /// panic of the callback and counts it in
    /// [`Totals::callback_panic_total`](crate::Totals).
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub fn send_with_callback(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.inner.do_send(None, record, &mut with_callback(callback))
    }

    /// Like [`try_send`](Self::try_send), with a callback that receives the record's result.
    ///
    /// # Errors
    /// The errors of [`try_send`](Self::try_send), which the callback receives, too.
    pub fn try_send_with_callback(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.inner.do_try_send(None, record, &mut with_callback(callback))
    }

    /// Like [`send_with_callback`](Self::send_with_callback), without blocking.
    ///
    /// If the producer does not accept the record, the callback runs on the thread that polls the
    /// future. If the future is dropped before it is ready, the callback is dropped and never runs.
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub async fn send_with_callback_async(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.inner.do_send_async(None, record, &mut with_callback(callback)).await
    }

    /// Like [`send`](Self::send), without a [`Delivery`]. The [delivery
    /// handler](crate::ProducerBuilder::delivery_handler) receives the record's result, by its
    /// [token](Record::token).
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub fn enqueue(&self, record: Record<'_>) -> Result<(), Error> {
        self.inner.do_send(None, record, &mut DeliveryOptions::default())
    }

    /// Like [`enqueue`](Self::enqueue), if that is possible without waiting.
    ///
    /// # Errors
    /// The errors of [`try_send`](Self::try_send).
    pub fn try_enqueue(&self, record: Record<'_>) -> Result<(), Error> {
        self.inner.do_try_send(None, record, &mut DeliveryOptions::default())
    }

    /// Like [`enqueue`](Self::enqueue), without blocking.
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub async fn enqueue_async(&self, record: Record<'_>) -> Result<(), Error> {
        self.inner.do_send_async(None, record, &mut DeliveryOptions::default()).await
    }

    /// Like `send_with_callback_async`, with a delivery besides.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) async fn send_with_callback_and_delivery(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
    ) -> Result<Delivery, Error> {
        let mut options = DeliveryOptions { wants_delivery: true, ..with_callback(callback) };
        self.inner.do_send_async(None, record, &mut options).await?;
        options.into_delivery()
    }

    /// Passes the error of a record that was not accepted to the interceptors.
    pub(super) fn notify_interceptors(&self, record: &Record<'_>, e: &Error) {
        self.inner.notify_interceptors(record, e);
    }
}
