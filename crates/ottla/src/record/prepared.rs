//! A record with its encoded sizes, before it has a batch.

use bytes::Bytes;
use ottla_protocol::record::RecordBody;

use super::{Header, Record, SerializedSizes};

/// A header's key and value, as the encoder of the protocol crate takes them.
type HeaderPair<'a> = (&'a str, Option<&'a [u8]>);
/// A record's headers, as the encoder of the protocol crate takes them.
pub(crate) type HeaderIter<'a> =
    std::iter::Map<std::slice::Iter<'a, Header<'a>>, fn(&'a Header<'a>) -> HeaderPair<'a>>;

fn header_to_pair<'a>(h: &'a Header<'a>) -> HeaderPair<'a> {
    (&h.key, h.value.as_deref())
}

/// A record with its encoded sizes. `send` computes them before it takes a partition's lock.
#[derive(Debug)]
pub(crate) struct PreparedRecord<'a> {
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    pub(crate) token: u64,
    pub(crate) body: RecordBody<'a, HeaderIter<'a>>,
    /// The value, if it is large and the application owns it as [`Bytes`].
    pub(crate) shared_value: Option<&'a Bytes>,
    /// The largest size of a batch with this record alone, in bytes.
    pub(crate) batch_len_upper_bound: usize,
}

impl<'a> PreparedRecord<'a> {
    /// Returns the sizes of the key and the value.
    pub(crate) fn serialized_sizes(&self) -> SerializedSizes {
        let size = |field: Option<&[u8]>| field.map(|bytes| bytes.len() as u32);
        SerializedSizes { key: size(self.key), value: size(self.body.value()) }
    }

    /// Computes the sizes; `None` if they exceed 2 GiB, which no batch can hold.
    #[inline]
    pub(crate) fn new(r: &Record<'a>, now_ms: impl FnOnce() -> i64) -> Option<PreparedRecord<'a>> {
        let pairs = || r.headers.iter().map(header_to_pair as fn(&'a Header<'a>) -> HeaderPair<'a>);
        let body = RecordBody::new(r.key, r.value, pairs());
        // The sum contains the length of each part, so this check finds a part of 2 GiB or more,
        // too.
        let batch_len_upper_bound = body.size_upper_bound();
        if batch_len_upper_bound > i32::MAX as usize {
            return None;
        }
        Some(PreparedRecord {
            partition: r.partition,
            key: r.key,
            timestamp: r.timestamp.unwrap_or_else(now_ms),
            token: r.token,
            body,
            shared_value: r.shared_value.0,
            batch_len_upper_bound,
        })
    }
}
