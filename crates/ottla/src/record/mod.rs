//! A record as the application passes it to `send`: borrowed, and encoded before `send` returns.

mod owned;
pub(crate) mod prepared;
pub mod serializer;

use std::borrow::Cow;

use bytes::Bytes;

pub use owned::OwnedRecord;
pub(crate) use prepared::PreparedRecord;

/// The error of an interceptor or a serializer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The sizes of a record's key and value in bytes, before compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SerializedSizes {
    /// The size of the key; `None` for null.
    pub key: Option<u32>,
    /// The size of the value; `None` for null.
    pub value: Option<u32>,
}

/// A header of a record (KIP-82): a key, and a value that may be null.
///
/// Keys may repeat. The order of the headers is kept. A header borrows its bytes or owns them.
///
/// ```
/// use ottla::Header;
///
/// let borrowed = Header::new("trace-id", "42");
/// let owned: Header<'static> = Header::owned("trace-id", format!("{}", 6 * 7));
/// assert_eq!(borrowed, owned);
/// assert_eq!(Header::null("deleted").value, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header<'a> {
    /// The header's key.
    pub key: Cow<'a, str>,
    /// The header's value; `None` for null.
    pub value: Option<Cow<'a, [u8]>>,
}

impl<'a> Header<'a> {
    /// Creates a header that borrows its value.
    pub fn new(key: impl Into<Cow<'a, str>>, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Header<'a> {
        Header { key: key.into(), value: Some(Cow::Borrowed(value.as_ref())) }
    }

    /// Creates a header that borrows its value, or has a null value.
    pub fn maybe(
        key: impl Into<Cow<'a, str>>,
        value: Option<&'a (impl AsRef<[u8]> + ?Sized)>,
    ) -> Header<'a> {
        Header { key: key.into(), value: value.map(|value| Cow::Borrowed(value.as_ref())) }
    }

    /// Creates a header that owns its key and its value.
    pub fn owned(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Header<'static> {
        Header { key: Cow::Owned(key.into()), value: Some(Cow::Owned(value.into())) }
    }

    /// Creates a header with a null value.
    pub fn null(key: impl Into<Cow<'a, str>>) -> Header<'a> {
        Header { key: key.into(), value: None }
    }

    /// Returns a header that owns its key and its value. It copies what is borrowed.
    #[must_use]
    pub fn into_owned(self) -> Header<'static> {
        Header {
            key: Cow::Owned(self.key.into_owned()),
            value: self.value.map(|value| Cow::Owned(value.into_owned())),
        }
    }
}

/// The smallest value that is shared with the caller and not copied, in bytes.
///
/// A shared value costs entries in three lists, among them that of the vectored write. Below some
/// kilobytes, a copy costs less.
const MIN_SHARED_VALUE: usize = 4096;

/// A record's value, if the producer may share it with the caller. All are equal, because the
/// record's value has the same bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SharedValue<'a>(pub(crate) Option<&'a Bytes>);

impl PartialEq for SharedValue<'_> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for SharedValue<'_> {}

/// A record to send (Kafka's `ProducerRecord`).
///
/// It borrows everything and is `Copy`: after a failed call, the caller still has it. The producer
/// has encoded it by the time `send` returns. [`OwnedRecord`] is the form for queues and tasks.
///
/// ```
/// use ottla::{Header, Record};
///
/// let headers = [Header::new("trace-id", b"42")];
/// let record = Record::to("orders")
///     .key("customer-7")
///     .value("3 apples")
///     .headers(&headers)
///     .timestamp(1_700_000_000_000);
/// assert_eq!(record.topic_name(), "orders");
/// assert_eq!(record.value_bytes(), Some(&b"3 apples"[..]));
///
/// // A null value deletes the key from a compacted topic.
/// let tombstone = Record::to("customers").key("customer-7");
/// assert_eq!(tombstone.value_bytes(), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) shared_value: SharedValue<'a>,
    pub(crate) headers: &'a [Header<'a>],
    pub(crate) timestamp: Option<i64>,
    pub(crate) token: u64,
}

impl<'a> Record<'a> {
    /// Creates a record for a topic. Its key and value are null, and it has no headers.
    pub fn to(topic: &'a str) -> Record<'a> {
        Record {
            topic,
            partition: None,
            key: None,
            value: None,
            shared_value: SharedValue(None),
            headers: &[],
            timestamp: None,
            token: 0,
        }
    }

    /// Sets the key. Records with the same key go to the same partition (murmur2, as in Java's
    /// producer), unless the record names its partition.
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// Returns the topic's name.
    pub fn topic_name(&self) -> &'a str {
        self.topic
    }

    /// Returns the key; `None` for null.
    pub fn key_bytes(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// Returns the value; `None` for null.
    pub fn value_bytes(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// Returns a copy of the record that owns its bytes, for a queue or another task.
    pub fn to_owned(self) -> OwnedRecord {
        OwnedRecord::copy_of(self)
    }

    /// Sets the value.
    #[must_use]
    pub fn value(self, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.maybe_value(Some(value))
    }

    /// Sets the value. If it has 4 KB or more, the producer sends it from the caller's memory and
    /// does not copy it, unless it compresses it or has an interceptor.
    ///
    /// That memory is then freed when the record is acknowledged or has failed. It counts for
    /// `buffer.memory` with the length of the value, also if the value is a part of a larger
    /// `Bytes`.
    #[cfg(feature = "bytes")]
    #[must_use]
    pub fn value_from_bytes(self, value: &'a Bytes) -> Self {
        self.shared_value(value)
    }

    pub(crate) fn shared_value(self, value: &'a Bytes) -> Self {
        if value.len() < MIN_SHARED_VALUE {
            return self.value(value);
        }
        self.shared_value_of_any_length(value)
    }

    pub(crate) fn shared_value_of_any_length(mut self, value: &'a Bytes) -> Self {
        self.value = Some(value);
        self.shared_value = SharedValue(Some(value));
        self
    }

    /// Sets the key, or null. A null key differs from an empty one: it chooses no partition.
    #[must_use]
    pub fn maybe_key(mut self, key: Option<&'a (impl AsRef<[u8]> + ?Sized)>) -> Self {
        self.key = key.map(AsRef::as_ref);
        self
    }

    /// Sets the value, or null: a tombstone in a compacted topic.
    #[must_use]
    pub fn maybe_value(mut self, value: Option<&'a (impl AsRef<[u8]> + ?Sized)>) -> Self {
        self.value = value.map(AsRef::as_ref);
        self.shared_value = SharedValue(None);
        self
    }

    /// Sets the headers (KIP-82). Their order is kept.
    #[must_use]
    pub fn headers(mut self, headers: &'a [Header<'a>]) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the partition.
    ///
    /// `send` fails at once if the number is negative, and after `max.block.ms` if the topic still
    /// lacks the partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the timestamp, in milliseconds since the Unix epoch. It must not be negative. The
    /// default is the time of `send`.
    #[must_use]
    pub fn timestamp(mut self, ms: i64) -> Self {
        self.timestamp = Some(ms);
        self
    }

    /// Sets the number that identifies this record in [`BatchReport::tokens`].
    ///
    /// The producer does not interpret it, and the token is not sent. It reaches only the
    /// producer's [delivery handler](crate::ProducerBuilder::delivery_handler). The default is 0,
    /// also in the handler's report: several records may have the same token.
    ///
    /// [`BatchReport::tokens`]: crate::BatchReport::tokens
    #[must_use]
    pub fn token(mut self, token: u64) -> Self {
        self.token = token;
        self
    }
}
