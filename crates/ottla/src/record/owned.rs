//! A record that owns its bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::{Header, Record};

/// A [`Record`] that owns its bytes, for queues and tasks.
///
/// Vectors and strings are taken without a copy, and clones share them. With the feature `bytes`,
/// so are values of the crate `bytes`.
///
/// ```no_run
/// use std::sync::mpsc;
///
/// use ottla::{Header, OwnedRecord, Producer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let (queue, records) = mpsc::channel();
/// queue.send(
///     OwnedRecord::to("orders")
///         .key("customer-7")
///         .value(format!("{} apples", 3))
///         .headers(vec![Header::owned("trace-id", "42")]),
/// )?;
/// drop(queue);
/// for record in records {
///     producer.send(record.as_record())?.wait()?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    topic: Arc<str>,
    partition: Option<i32>,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<Header<'static>>,
    timestamp: Option<i64>,
    token: u64,
}

impl OwnedRecord {
    /// Creates a record for a topic. Its key and value are null, and it has no headers.
    pub fn to(topic: impl Into<Arc<str>>) -> OwnedRecord {
        OwnedRecord {
            topic: topic.into(),
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp: None,
            token: 0,
        }
    }

    pub(super) fn copy_of(record: Record<'_>) -> OwnedRecord {
        OwnedRecord {
            topic: record.topic.into(),
            partition: record.partition,
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers: record.headers.iter().cloned().map(Header::into_owned).collect(),
            timestamp: record.timestamp,
            token: record.token,
        }
    }

    /// Returns a copy without the key and the value.
    pub(crate) fn without_payload(record: &Record<'_>) -> OwnedRecord {
        OwnedRecord::copy_of(Record { key: None, value: None, ..*record })
    }

    /// Borrows the record, for one of the `send` methods.
    ///
    /// The producer does not copy a value of 4 KB or more, unless it compresses it or has an
    /// interceptor: it shares the value's memory with this record.
    pub fn as_record(&self) -> Record<'_> {
        let mut record = Record::to(&self.topic);
        if let Some(value) = &self.value {
            record = record.shared_value(value);
        }
        Record {
            partition: self.partition,
            key: self.key.as_deref(),
            headers: &self.headers,
            timestamp: self.timestamp,
            token: self.token,
            ..record
        }
    }

    /// Sets the key; see [`Record::key`].
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(Bytes::from(key.into()));
        self
    }

    /// Sets the value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.value = Some(Bytes::from(value.into()));
        self
    }

    /// Sets the key without a copy; see [`Record::key`].
    #[cfg(feature = "bytes")]
    #[must_use]
    pub fn key_from_bytes(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the value without a copy.
    #[cfg(feature = "bytes")]
    #[must_use]
    pub fn value_from_bytes(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Sets the headers (KIP-82). Their order is kept.
    #[must_use]
    pub fn headers(mut self, headers: Vec<Header<'static>>) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the partition; see [`Record::partition`].
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the timestamp in milliseconds since the Unix epoch; see [`Record::timestamp`].
    #[must_use]
    pub fn timestamp(mut self, ms: i64) -> Self {
        self.timestamp = Some(ms);
        self
    }

    /// Sets the number that identifies this record in the delivery handler; see
    /// [`Record::token`].
    #[must_use]
    pub fn token(mut self, token: u64) -> Self {
        self.token = token;
        self
    }
}

impl From<Record<'_>> for OwnedRecord {
    fn from(record: Record<'_>) -> OwnedRecord {
        record.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_copy_of_a_record_equals_it() {
        let headers = [Header::new("a", "1"), Header::null("b")];
        let record = Record::to("t").key("k").value("v").headers(&headers).partition(3);
        let record = record.timestamp(9).token(4);
        let owned = record.to_owned();
        assert_eq!(owned.as_record(), record);
        assert_eq!(OwnedRecord::from(Record::to("t")), OwnedRecord::to("t"));
        let built = OwnedRecord::to(String::from("t")).key("k").value(vec![b'v']);
        let built = built.headers(vec![Header::owned("a", "1"), Header::null("b")]);
        assert_eq!(built.partition(3).timestamp(9).token(4), owned);
    }

    #[test]
    fn taken_vectors_are_not_copied() {
        let value = vec![7; 100];
        let address = value.as_ptr();
        let record = OwnedRecord::to("t").value(value);
        let clone = record.clone();
        assert_eq!(clone.as_record().value.map(<[u8]>::as_ptr), Some(address));
    }

    #[cfg(feature = "bytes")]
    #[test]
    fn taken_bytes_are_not_copied() {
        let value = Bytes::from(vec![7; 100]);
        let record = OwnedRecord::to("t").key_from_bytes("k").value_from_bytes(value.clone());
        assert_eq!(record.as_record().value.map(<[u8]>::as_ptr), Some(value.as_ptr()));
    }
}
