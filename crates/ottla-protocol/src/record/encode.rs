//! Writes records into the buffer of an open batch, each byte once.

use crate::record::BATCH_HEADER_LEN;
use crate::wire::varint::{len_i32, len_i64, put_i32, zigzag32, zigzag64};

/// What one record holds but for its place in the batch, with its length worked out once, before any lock.
#[derive(Debug, Clone, Copy)]
pub struct RecordBody<'a, H> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: H,
    header_count: i32,
    /// Bytes from the key's length to the end of the record.
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
    /// Measures a record. Each part must be shorter than 2 GiB; [`upper_bound`] says so first.
    #[inline]
    pub fn new(key: Option<&'a [u8]>, value: Option<&'a [u8]>, headers: H) -> Self {
        let (mut tail, mut header_count) = (field_len(key) + field_len(value), 0);
        for (k, v) in headers.clone() {
            tail += field_len(Some(k.as_bytes())) + field_len(v);
            header_count += 1;
        }
        tail += len_i32(header_count);
        RecordBody { key, value, headers, header_count, payload_len: tail }
    }

    /// The most bytes a batch of this record alone can take: header, 21 bytes before the key, and the
    /// rest. It is what Kafka holds against `max.request.size` and `buffer.memory`.
    #[inline]
    pub fn size_upper_bound(&self) -> usize {
        BATCH_HEADER_LEN + MAX_RECORD_OVERHEAD + self.payload_len
    }

    /// Works out the record's place in a batch: what [`Self::encode`] will write.
    #[inline]
    pub fn measure(&self, offset_delta: i32, timestamp_delta: i64) -> RecordLayout {
        let body = 1 + len_i64(timestamp_delta) + len_i32(offset_delta) + self.payload_len;
        RecordLayout { body_len: body, offset_delta, timestamp_delta }
    }

    /// Bytes that [`Self::encode`] writes.
    #[inline]
    pub fn len(&self, offset_delta: i32, timestamp_delta: i64) -> usize {
        self.measure(offset_delta, timestamp_delta).len()
    }

    /// Appends the record at its place.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>, at: RecordLayout) {
        // What is small goes together: what comes before the first bytes that are somebody else's.
        let mut head = SmallBuffer::default();
        head.push_varint(u64::from(zigzag32(at.body_len as i32)));
        head.push(0);
        head.push_varint(zigzag64(at.timestamp_delta));
        head.push_varint(u64::from(zigzag32(at.offset_delta)));
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

/// A record's place in a batch, and how many bytes that makes.
#[derive(Debug, Clone, Copy)]
pub struct RecordLayout {
    body_len: usize,
    offset_delta: i32,
    timestamp_delta: i64,
}

impl RecordLayout {
    /// Bytes the record takes there.
    #[inline]
    pub fn len(&self) -> usize {
        len_i32(self.body_len as i32) + self.body_len
    }

    /// Never: a record takes some bytes.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// A few small numbers on their way into a buffer.
#[derive(Default)]
struct SmallBuffer {
    bytes: [u8; SMALL_BUFFER_LEN],
    len: usize,
}

/// Room for every number before a record's headers.
const SMALL_BUFFER_LEN: usize = 32;

impl SmallBuffer {
    #[inline]
    fn push(&mut self, b: u8) {
        self.bytes[self.len % SMALL_BUFFER_LEN] = b;
        self.len += 1;
    }

    #[inline]
    fn push_varint(&mut self, v: u64) {
        // Nearly all are of one byte or two.
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
        let to = out.len() + self.len;
        if self.len == 1 {
            out.push(self.bytes[0]);
        } else if out.capacity() - out.len() >= SMALL_BUFFER_LEN {
            // All of it, of a size known in advance, is cheaper than as much as is needed.
            out.extend_from_slice(&self.bytes);
            out.truncate(to);
        } else {
            out.extend_from_slice(&self.bytes[..self.len]);
        }
        self.len = 0;
    }
}

/// Length, attributes, timestamp delta and offset delta at their longest.
const MAX_RECORD_OVERHEAD: usize = 21;

/// The size Kafka's producer checks a record by; `None` when a part is 2 GiB or longer, which no record can
/// hold.
pub fn size_upper_bound<'a>(
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
    let bound = RecordBody::new(key, value, headers).size_upper_bound();
    (bound <= i32::MAX as usize).then_some(bound)
}
