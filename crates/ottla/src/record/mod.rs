//! A record as the application passes it to `send`: borrowed, and encoded before `send` returns.

pub(crate) mod prepared;
pub(crate) mod serializer;

pub(crate) use prepared::PreparedRecord;

/// The error of an interceptor or a serializer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A header of a record (KIP-82): a key, and a value that may be null.
///
/// Keys may repeat. The order of the headers is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The header's key.
    pub key: &'a str,
    /// The header's value; `None` for null.
    pub value: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// Creates a header with a value.
    pub fn new(key: &'a str, value: &'a [u8]) -> Header<'a> {
        Header { key, value: Some(value) }
    }
}

/// A record to send (Kafka's `ProducerRecord`).
///
/// It borrows everything and is `Copy`. The producer has encoded it by the time `send` returns.
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

    /// Sets the value.
    #[must_use]
    pub fn value(mut self, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.value = Some(value.as_ref());
        self
    }

    /// Sets the key, or null. A null key differs from an empty one: it chooses no partition.
    #[must_use]
    pub fn maybe_key(mut self, key: Option<&'a [u8]>) -> Self {
        self.key = key;
        self
    }

    /// Sets the value, or null: a tombstone in a compacted topic.
    #[must_use]
    pub fn maybe_value(mut self, value: Option<&'a [u8]>) -> Self {
        self.value = value;
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
    /// producer's [delivery handler](crate::ProducerBuilder::delivery_handler). The default is 0.
    ///
    /// [`BatchReport::tokens`]: crate::BatchReport::tokens
    #[must_use]
    pub fn token(mut self, token: u64) -> Self {
        self.token = token;
        self
    }
}
