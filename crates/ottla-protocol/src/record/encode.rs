//! Encodes records into the buffer of an open batch, without intermediate copies.

use crate::record::BATCH_HEADER_LEN;
use crate::wire::varint::{len_i32, len_i64, put_i32, zigzag32, zigzag64};

/// A record with its length, independent of its position in a batch.
///
/// The producer measures it before it locks the partition.
#[derive(Debug, Clone, Copy)]
pub struct RecordBody<'a, H> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: H,
    header_count: i32,
    /// Bytes from the key's length field to the end of the record.
    payload_len: usize,
}

#[inline]
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
    /// Measures a record. Each part must be shorter than 2 GiB: [`size_upper_bound`] checks it.
    #[inline]
    pub fn new(key: Option<&'a [u8]>, value: Option<&'a [u8]>, headers: H) -> Self {
        let mut payload_len = field_len(key) + field_len(value);
        let mut header_count = 0;
        for (k, v) in headers.clone() {
            payload_len += field_len(Some(k.as_bytes())) + field_len(v);
            header_count += 1;
        }
        payload_len += len_i32(header_count);
        RecordBody { key, value, headers, header_count, payload_len }
    }

    /// Returns the value; `None` for null.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// Returns the largest size in bytes of a batch with only this record.
    ///
    /// It is the batch header, 21 bytes before the key, and the rest of the record. As in Kafka,
    /// the producer compares it with `max.request.size` and `buffer.memory`.
    #[inline]
    pub fn size_upper_bound(&self) -> usize {
        BATCH_HEADER_LEN + MAX_RECORD_OVERHEAD + self.payload_len
    }

    /// Computes the record's layout at a position in a batch, for [`Self::encode`].
    #[inline]
    pub fn measure(&self, offset_delta: i32, timestamp_delta: i64) -> RecordLayout {
        let body_len = 1 + len_i64(timestamp_delta) + len_i32(offset_delta) + self.payload_len;
        RecordLayout { body_len, offset_delta, timestamp_delta }
    }

    /// Returns the number of bytes that [`Self::encode`] writes.
    #[inline]
    pub fn len(&self, offset_delta: i32, timestamp_delta: i64) -> usize {
        self.measure(offset_delta, timestamp_delta).len()
    }

    /// Appends the record with the layout that [`Self::measure`] returned.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>, layout: RecordLayout) {
        // One copy for the numbers before each key or value is faster than one for each number.
        let mut head = SmallBuffer::default();
        head.push_varint(u64::from(zigzag32(layout.body_len as i32)));
        head.push(0);
        head.push_varint(zigzag64(layout.timestamp_delta));
        head.push_varint(u64::from(zigzag32(layout.offset_delta)));
        for field in [self.key, self.value] {
            match field {
                Some(bytes) => {
                    head.push_varint(u64::from(zigzag32(bytes.len() as i32)));
                    head.flush(out);
                    out.extend_from_slice(bytes);
                }
                None => head.push(1),
            }
        }
        head.push_varint(u64::from(zigzag32(self.header_count)));
        head.flush(out);
        if self.header_count > 0 {
            for (k, v) in self.headers.clone() {
                put_field(out, Some(k.as_bytes()));
                put_field(out, v);
            }
        }
    }
}

/// A record's position in a batch and its length there.
#[derive(Debug, Clone, Copy)]
pub struct RecordLayout {
    body_len: usize,
    offset_delta: i32,
    timestamp_delta: i64,
}

impl RecordLayout {
    /// Returns the number of bytes of the encoded record.
    #[inline]
    pub fn len(&self) -> usize {
        len_i32(self.body_len as i32) + self.body_len
    }

    /// Returns false: every record has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Collects small numbers, so that they are copied to the output together.
#[derive(Default)]
struct SmallBuffer {
    bytes: [u8; SMALL_BUFFER_LEN],
    len: usize,
}

/// Enough bytes for all numbers of a record before its headers.
const SMALL_BUFFER_LEN: usize = 32;

impl SmallBuffer {
    #[inline]
    fn push(&mut self, b: u8) {
        self.bytes[self.len % SMALL_BUFFER_LEN] = b;
        self.len += 1;
    }

    #[inline]
    fn push_varint(&mut self, v: u64) {
        // Most numbers have one or two bytes.
        if v < 0x80 {
            self.push(v as u8);
        } else if v < 0x4000 {
            self.push(v as u8 | 0x80);
            self.push((v >> 7) as u8);
        } else {
            self.push_long_varint(v);
        }
    }

    #[cold]
    fn push_long_varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.push(v as u8);
    }

    #[inline]
    fn flush(&mut self, out: &mut Vec<u8>) {
        let new_len = out.len() + self.len;
        if self.len == 1 {
            out.push(self.bytes[0]);
        } else if out.capacity() - out.len() >= SMALL_BUFFER_LEN {
            // A copy of constant length is faster than one of variable length.
            out.extend_from_slice(&self.bytes);
            out.truncate(new_len);
        } else {
            out.extend_from_slice(&self.bytes[..self.len]);
        }
        self.len = 0;
    }
}

/// The largest size in bytes of length, attributes, timestamp delta and offset delta.
const MAX_RECORD_OVERHEAD: usize = 21;

/// Returns the size by which Kafka's producer limits a record; see
/// [`RecordBody::size_upper_bound`].
///
/// `None` means that the record, or a part of it, has 2 GiB or more: no batch can hold it.
pub fn size_upper_bound<'a>(
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
) -> Option<usize> {
    let is_too_long = |f: Option<&[u8]>| f.is_some_and(|f| f.len() > i32::MAX as usize);
    if is_too_long(key)
        || is_too_long(value)
        || headers.clone().any(|(k, v)| is_too_long(Some(k.as_bytes())) || is_too_long(v))
        || headers.clone().count() > i32::MAX as usize
    {
        return None;
    }
    let bound = RecordBody::new(key, value, headers).size_upper_bound();
    (bound <= i32::MAX as usize).then_some(bound)
}
