//! Encodes records into the buffer of an open batch, without intermediate copies.

use crate::record::BATCH_HEADER_LEN;
use crate::wire::varint::{len_i32, len_i64, len_u64, put_i32, put_i64, zigzag64};

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
    field.map_or(1, |f| number_len(f.len()) + f.len())
}

/// Returns the number of bytes of a number that is not negative.
#[inline]
fn number_len(number: usize) -> usize {
    len_u64((number as u64) << 1)
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
        payload_len += number_len(header_count as usize);
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
        self.encode_before_value(out, layout);
        if let Some(value) = self.value {
            out.extend_from_slice(value);
        }
        self.encode_headers(out);
    }

    /// Appends the record like [`Self::encode`], but leaves the value out. Returns the length of
    /// `out` where it belongs.
    #[cold]
    pub fn encode_without_value(&self, out: &mut Vec<u8>, layout: RecordLayout) -> usize {
        self.encode_before_value(out, layout);
        let offset = out.len();
        self.encode_headers(out);
        offset
    }

    /// Appends the record up to the bytes of its value.
    // Always inlined: the call would cost as much as one of the numbers.
    #[inline(always)]
    fn encode_before_value(&self, out: &mut Vec<u8>, layout: RecordLayout) {
        if !layout.has_short_numbers() {
            return self.encode_long_numbers(out, layout);
        }
        // Key and value are shorter than the body, so the numbers of their lengths are short, too.
        let mut numbers = ShortNumbers::default();
        numbers.push(layout.body_len << 1);
        numbers.push(0);
        numbers.push(zigzag64(layout.timestamp_delta) as usize);
        numbers.push((layout.offset_delta as usize) << 1);
        match self.key {
            Some(key) => {
                numbers.append_to(out);
                numbers = ShortNumbers::default();
                numbers.push(key.len() << 1);
                numbers.append_to(out);
                out.extend_from_slice(key);
            }
            None => {
                numbers.push(1);
                numbers.append_to(out);
            }
        }
        match self.value {
            Some(value) => {
                numbers = ShortNumbers::default();
                numbers.push(value.len() << 1);
                numbers.append_to(out);
            }
            None => out.push(1),
        }
    }

    #[inline]
    fn encode_headers(&self, out: &mut Vec<u8>) {
        if self.header_count == 0 { out.push(0) } else { self.encode_any_headers(out) }
    }

    #[inline(never)]
    fn encode_any_headers(&self, out: &mut Vec<u8>) {
        put_i32(out, self.header_count);
        for (k, v) in self.headers.clone() {
            put_field(out, Some(k.as_bytes()));
            put_field(out, v);
        }
    }

    /// Encodes up to the value: of a record of 8 KB or more, or one with a timestamp far from the
    /// batch's first.
    #[cold]
    fn encode_long_numbers(&self, out: &mut Vec<u8>, layout: RecordLayout) {
        put_i32(out, layout.body_len as i32);
        out.push(0);
        put_i64(out, layout.timestamp_delta);
        put_i32(out, layout.offset_delta);
        put_field(out, self.key);
        put_i32(out, self.value.map_or(-1, |value| value.len() as i32));
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
        number_len(self.body_len) + self.body_len
    }

    /// Returns whether each number before the key, and the length of each field, has at most two
    /// bytes.
    #[inline]
    fn has_short_numbers(&self) -> bool {
        let doubled = (self.body_len | self.offset_delta as usize) << 1;
        doubled < SHORT_NUMBER && zigzag64(self.timestamp_delta) < SHORT_NUMBER as u64
    }

    /// Returns false: every record has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Numbers of at most two bytes each, as varints in one machine word: eight bytes at most.
///
/// One copy for several numbers is faster than one for each.
#[derive(Default)]
struct ShortNumbers {
    bytes: u64,
    bits: u32,
}

/// The bound of a number with two bytes: 7 bits each.
const SHORT_NUMBER: usize = 1 << 14;

impl ShortNumbers {
    /// Adds a number below [`SHORT_NUMBER`].
    #[inline]
    fn push(&mut self, number: usize) {
        let number = number as u64;
        if number < 0x80 {
            self.bytes |= number << self.bits;
            self.bits += 8;
        } else {
            self.bytes |= (number & 0x7f | 0x80 | (number >> 7) << 8) << self.bits;
            self.bits += 16;
        }
    }

    #[inline]
    fn append_to(self, out: &mut Vec<u8>) {
        let (bytes, len) = (self.bytes.to_le_bytes(), self.bits as usize / 8);
        if out.capacity() - out.len() >= bytes.len() {
            // A copy of constant length is one instruction.
            let new_len = out.len() + len;
            out.extend_from_slice(&bytes);
            out.truncate(new_len);
        } else {
            out.extend_from_slice(&bytes[..len]);
        }
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
