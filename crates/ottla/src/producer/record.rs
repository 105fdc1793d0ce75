//! A record as the application gives it: everything borrowed, encoded before `send` returns.

use ottla_protocol::record::RecordBody;

/// A header of a record: a name and bytes, or null. Names may repeat; order is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name.
    pub key: &'a str,
    /// The bytes.
    pub value: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// A header with bytes.
    pub fn new(key: &'a str, value: &'a [u8]) -> Header<'a> {
        Header { key, value: Some(value) }
    }
}

/// A record to send. It borrows everything and is `Copy`; the producer has encoded it by the time `send`
/// returns.
///
/// ```
/// use ottla::{Header, Record};
/// let headers = [Header::new("trace", b"42")];
/// let record = Record::to("orders").key(b"customer-7").value(b"3 apples").headers(&headers);
/// # let _ = record;
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
    /// A record for this topic, with a null key and a null value until they are given.
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

    /// The key. Records of one key go to one partition, unless the partition is given.
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// The topic it is for.
    pub fn topic_name(&self) -> &'a str {
        self.topic
    }

    /// The key it has, if it is not null.
    pub fn key_bytes(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value it has, if it is not null.
    pub fn value_bytes(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The value.
    #[must_use]
    pub fn value(mut self, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.value = Some(value.as_ref());
        self
    }

    /// The key, or null (not the same as empty).
    #[must_use]
    pub fn maybe_key(mut self, key: Option<&'a [u8]>) -> Self {
        self.key = key;
        self
    }

    /// The value, or null: a tombstone in a compacted topic.
    #[must_use]
    pub fn maybe_value(mut self, value: Option<&'a [u8]>) -> Self {
        self.value = value;
        self
    }

    /// The headers (KIP-82), in order.
    #[must_use]
    pub fn headers(mut self, headers: &'a [Header<'a>]) -> Self {
        self.headers = headers;
        self
    }

    /// The partition. It must be one the topic has.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The timestamp in milliseconds since the epoch, not negative; the time of `send` when not given.
    #[must_use]
    pub fn timestamp(mut self, ms: i64) -> Self {
        self.timestamp = Some(ms);
        self
    }

    /// A number that comes back in the producer-wide handler's report.
    #[must_use]
    pub fn token(mut self, token: u64) -> Self {
        self.token = token;
        self
    }
}

type HeaderPair<'a> = (&'a str, Option<&'a [u8]>);
/// Headers as the encoder takes them.
pub(crate) type HeaderIter<'a> =
    std::iter::Map<std::slice::Iter<'a, Header<'a>>, fn(&Header<'a>) -> HeaderPair<'a>>;

fn header_to_pair<'a>(h: &Header<'a>) -> HeaderPair<'a> {
    (h.key, h.value)
}

/// A record with its sizes worked out, before any lock.
#[derive(Debug)]
pub(crate) struct PreparedRecord<'a> {
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    pub(crate) token: u64,
    pub(crate) body: RecordBody<'a, HeaderIter<'a>>,
    /// The most a batch of this record alone can take.
    pub(crate) batch_len_upper_bound: usize,
}

impl<'a> PreparedRecord<'a> {
    /// Measures; `None` when no batch could ever hold it.
    #[inline]
    pub(crate) fn new(r: &Record<'a>, now_ms: impl FnOnce() -> i64) -> Option<PreparedRecord<'a>> {
        let pairs = || r.headers.iter().map(header_to_pair as fn(&Header<'a>) -> HeaderPair<'a>);
        let body = RecordBody::new(r.key, r.value, pairs());
        // Each part's own length is in the sum: one of 2 GiB or more is found here, too.
        let bound = body.size_upper_bound();
        if bound > i32::MAX as usize {
            return None;
        }
        Some(PreparedRecord {
            partition: r.partition,
            key: r.key,
            timestamp: r.timestamp.unwrap_or_else(now_ms),
            token: r.token,
            body,
            batch_len_upper_bound: bound,
        })
    }
}
