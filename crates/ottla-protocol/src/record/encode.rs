//! Writes records into the buffer of an open batch, each byte once.

use crate::record::HEADER_LEN;
use crate::wire::varint::{len_i32, len_i64, put_i32, put_i64};

/// What one record holds but for its place in the batch, with its length worked out once, before any lock.
#[derive(Debug, Clone, Copy)]
pub struct RecordBody<'a, H> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: H,
    header_count: i32,
    /// Bytes from the key's length to the end of the record.
    tail: usize,
}

fn field_len(field: Option<&[u8]>) -> usize {
    field.map_or(1, |f| len_i32(f.len() as i32) + f.len())
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        Some(f) => {
            put_i32(out, f.len() as i32);
            out.extend_from_slice(f);
        }
        None => out.push(1),
    }
}

impl<'a, H> RecordBody<'a, H>
where
    H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
{
    /// Measures a record. Each part must be shorter than 2 GiB; [`upper_bound`] says so first.
    pub fn new(key: Option<&'a [u8]>, value: Option<&'a [u8]>, headers: H) -> Self {
        let (mut tail, mut header_count) = (field_len(key) + field_len(value), 0);
        for (k, v) in headers.clone() {
            tail += field_len(Some(k.as_bytes())) + field_len(v);
            header_count += 1;
        }
        tail += len_i32(header_count);
        RecordBody { key, value, headers, header_count, tail }
    }

    /// The most bytes a batch of this record alone can take: header, 21 bytes before the key, and the
    /// rest. It is what Kafka holds against `max.request.size` and `buffer.memory`.
    pub fn upper_bound(&self) -> usize {
        HEADER_LEN + MAX_RECORD_OVERHEAD + self.tail
    }

    /// Bytes that [`Self::encode`] writes.
    #[inline]
    pub fn len(&self, offset_delta: i32, timestamp_delta: i64) -> usize {
        let body = self.body_len(offset_delta, timestamp_delta);
        len_i32(body as i32) + body
    }

    #[inline]
    fn body_len(&self, offset_delta: i32, timestamp_delta: i64) -> usize {
        1 + len_i64(timestamp_delta) + len_i32(offset_delta) + self.tail
    }

    /// Appends the record.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>, offset_delta: i32, timestamp_delta: i64) {
        put_i32(out, self.body_len(offset_delta, timestamp_delta) as i32);
        out.push(0);
        put_i64(out, timestamp_delta);
        put_i32(out, offset_delta);
        put_field(out, self.key);
        put_field(out, self.value);
        put_i32(out, self.header_count);
        for (k, v) in self.headers.clone() {
            put_field(out, Some(k.as_bytes()));
            put_field(out, v);
        }
    }
}

/// Length, attributes, timestamp delta and offset delta at their longest.
const MAX_RECORD_OVERHEAD: usize = 21;

/// The size Kafka's producer checks a record by; `None` when a part is 2 GiB or longer, which no record can
/// hold.
pub fn upper_bound<'a>(
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
) -> Option<usize> {
    let long = |f: Option<&[u8]>| f.is_some_and(|f| f.len() > i32::MAX as usize);
    if long(key)
        || long(value)
        || headers.clone().any(|(k, v)| long(Some(k.as_bytes())) || long(v))
        || headers.clone().count() > i32::MAX as usize
    {
        return None;
    }
    let bound = RecordBody::new(key, value, headers).upper_bound();
    (bound <= i32::MAX as usize).then_some(bound)
}
