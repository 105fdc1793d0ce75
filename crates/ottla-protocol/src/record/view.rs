//! Reads batches and records from borrowed bytes. Each length is checked before it is used.

use std::borrow::Cow;

use super::header::{BATCH_HEADER_LEN, BatchHeader, attributes, compute_checksum};
use crate::compression::{Codec, decompress};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::wire::varint::{get_i32, get_i64};

const BATCH_NAME: &str = "RecordBatch";

fn batch_error(kind: DecodeErrorKind, field: &'static str, offset: usize) -> DecodeError {
    DecodeError::new(kind, offset).with_location(BATCH_NAME, field)
}

fn invalid_batch(rule: &'static str, field: &'static str, offset: usize) -> DecodeError {
    batch_error(DecodeErrorKind::InvalidBatch(rule), field, offset)
}

/// An iterator over the batches in a byte string.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Batches<'a> {
    /// Creates an iterator from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Batches<'a> {
        Batches { bytes, position: 0 }
    }

    /// Returns the number of bytes read so far.
    pub fn offset(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.position..];
        if rest.is_empty() {
            return None;
        }
        let start = self.position;
        let batch = BatchView::parse(rest).map_err(|mut e| {
            e.offset += start;
            e
        });
        self.position = batch.as_ref().map_or(self.bytes.len(), |b| start + b.bytes.len());
        Some(batch)
    }
}

/// A batch in borrowed bytes, with a decoded header.
#[derive(Debug, Clone)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
    header: BatchHeaderView,
}

/// A decoded batch header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeaderView {
    /// The header's fields.
    pub header: BatchHeader,
    /// The length of the whole batch, in bytes.
    pub batch_len: usize,
    /// The checksum in the header; [`BatchView::verify`] checks it.
    pub crc: u32,
}

fn read_array<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[from..from + N]);
    out
}

impl BatchHeaderView {
    /// Decodes the header at the start of `bytes`. The records need not be there.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeaderView, DecodeError> {
        if bytes.len() < BATCH_HEADER_LEN {
            let kind =
                DecodeErrorKind::Truncated { needed: BATCH_HEADER_LEN, remaining: bytes.len() };
            return Err(batch_error(kind, "header", 0));
        }
        let length = i32::from_be_bytes(read_array(bytes, 8));
        if length < (BATCH_HEADER_LEN - 12) as i32 {
            return Err(invalid_batch("the length is smaller than a header", "batch_length", 8));
        }
        if bytes[16] != 2 {
            return Err(invalid_batch("the magic is not 2", "magic", 16));
        }
        Ok(BatchHeaderView {
            header: BatchHeader {
                base_offset: i64::from_be_bytes(read_array(bytes, 0)),
                partition_leader_epoch: i32::from_be_bytes(read_array(bytes, 12)),
                attributes: i16::from_be_bytes(read_array(bytes, 21)),
                last_offset_delta: i32::from_be_bytes(read_array(bytes, 23)),
                base_timestamp: i64::from_be_bytes(read_array(bytes, 27)),
                max_timestamp: i64::from_be_bytes(read_array(bytes, 35)),
                producer_id: i64::from_be_bytes(read_array(bytes, 43)),
                producer_epoch: i16::from_be_bytes(read_array(bytes, 51)),
                base_sequence: i32::from_be_bytes(read_array(bytes, 53)),
                record_count: i32::from_be_bytes(read_array(bytes, 57)),
            },
            batch_len: length as usize + 12,
            crc: u32::from_be_bytes(read_array(bytes, 17)),
        })
    }
}

impl<'a> BatchView<'a> {
    /// Decodes the header of the batch at the start of `bytes`. More bytes may follow the batch.
    pub fn parse(bytes: &'a [u8]) -> Result<BatchView<'a>, DecodeError> {
        let header = BatchHeaderView::parse(bytes)?;
        if header.batch_len > bytes.len() {
            let kind =
                DecodeErrorKind::Truncated { needed: header.batch_len, remaining: bytes.len() };
            return Err(batch_error(kind, "batch_length", 8));
        }
        Ok(BatchView { bytes: &bytes[..header.batch_len], header })
    }

    /// Returns the header.
    pub fn header(&self) -> &BatchHeader {
        &self.header.header
    }

    /// Returns the batch's bytes: header and records.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the compression codec.
    pub fn codec(&self) -> Result<Codec, DecodeError> {
        Codec::from_attributes(self.header().attributes)
            .ok_or_else(|| invalid_batch("the codec is unknown", "attributes", 21))
    }

    /// Returns whether this is a control batch, such as a transaction marker.
    pub fn is_control(&self) -> bool {
        self.header().attributes & attributes::CONTROL_FLAG_MASK != 0
    }

    /// Returns whether the batch is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.header().attributes & attributes::TRANSACTIONAL_FLAG_MASK != 0
    }

    /// Verifies the checksum.
    pub fn verify(&self) -> Result<(), DecodeError> {
        let computed = compute_checksum(self.bytes);
        if computed == self.header.crc {
            return Ok(());
        }
        Err(batch_error(
            DecodeErrorKind::ChecksumMismatch { stated: self.header.crc, computed },
            "crc",
            17,
        ))
    }

    /// Returns the records, decompressed to at most `limit` bytes.
    pub fn records(&self, limit: usize) -> Result<Records<'a>, DecodeError> {
        let body = &self.bytes[BATCH_HEADER_LEN..];
        let body = match self.codec()? {
            Codec::None => Cow::Borrowed(body),
            codec => Cow::Owned(
                decompress(codec, body, limit)
                    .map_err(|kind| batch_error(kind, "records", BATCH_HEADER_LEN))?,
            ),
        };
        Ok(Records { body, header: *self.header() })
    }
}

/// The decompressed records of a batch.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    body: Cow<'a, [u8]>,
    header: BatchHeader,
}

/// A record in borrowed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// The record's offset: the batch's base offset plus the record's delta.
    pub offset: i64,
    /// The timestamp in milliseconds since the epoch: the client's, or with LogAppendTime the
    /// broker's.
    pub timestamp: i64,
    /// The key, or null.
    pub key: Option<&'a [u8]>,
    /// The value, or null.
    pub value: Option<&'a [u8]>,
    /// The headers, in order and with duplicates.
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

impl Records<'_> {
    /// Returns all records, in order.
    ///
    /// Fails at the first invalid record, or if their number differs from the header's count.
    pub fn to_vec(&self) -> Result<Vec<RecordView<'_>>, DecodeError> {
        let mut out = Vec::new();
        self.try_for_each(|r| {
            out.push(r);
            Ok(())
        })?;
        Ok(out)
    }

    /// Calls `f` with each record, in order, and then checks the header's count.
    pub fn try_for_each<'s>(
        &'s self,
        mut f: impl FnMut(RecordView<'s>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let mut reader = RecordReader { bytes: &self.body, position: 0 };
        let mut n = 0;
        while reader.position < reader.bytes.len() {
            if n == self.header.record_count {
                return Err(invalid_batch(
                    "more records than the header counts",
                    "record_count",
                    57,
                ));
            }
            f(reader.read_record(&self.header)?)?;
            n += 1;
        }
        if n != self.header.record_count {
            return Err(invalid_batch("fewer records than the header counts", "record_count", 57));
        }
        Ok(())
    }
}

struct RecordReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> RecordReader<'a> {
    fn error(&self, kind: DecodeErrorKind, field: &'static str) -> DecodeError {
        DecodeError::new(kind, BATCH_HEADER_LEN + self.position).with_location("Record", field)
    }

    fn read_varint(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        let (v, n) = get_i32(&self.bytes[self.position..]).map_err(|k| self.error(k, field))?;
        self.position += n;
        Ok(v)
    }

    fn read_varlong(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        let (v, n) = get_i64(&self.bytes[self.position..]).map_err(|k| self.error(k, field))?;
        self.position += n;
        Ok(v)
    }

    fn take(&mut self, n: i32, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let remaining = self.bytes.len() - self.position;
        match usize::try_from(n) {
            Err(_) => Err(self.error(DecodeErrorKind::NegativeLength(n.into()), field)),
            Ok(needed) if needed > remaining => {
                Err(self.error(DecodeErrorKind::Truncated { needed, remaining }, field))
            }
            Ok(n) => {
                let start = self.position;
                self.position += n;
                Ok(&self.bytes[start..self.position])
            }
        }
    }

    fn read_nullable(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.read_varint(field)? {
            -1 => Ok(None),
            n => self.take(n, field).map(Some),
        }
    }

    fn read_record(&mut self, header: &BatchHeader) -> Result<RecordView<'a>, DecodeError> {
        let length = self.read_varint("length")?;
        let start = self.position;
        let body = self.take(length, "length")?;
        let mut inner = RecordReader { bytes: body, position: 0 };
        let record = inner.read_body(header).map_err(|mut e| {
            e.offset += start;
            e
        })?;
        if inner.position != body.len() {
            return Err(
                inner.error(DecodeErrorKind::TrailingBytes(body.len() - inner.position), "length")
            );
        }
        Ok(record)
    }

    fn read_body(&mut self, header: &BatchHeader) -> Result<RecordView<'a>, DecodeError> {
        self.take(1, "attributes")?;
        let timestamp = self.read_varlong("timestamp_delta")?;
        let offset = self.read_varint("offset_delta")?;
        let key = self.read_nullable("key")?;
        let value = self.read_nullable("value")?;
        let count = self.read_varint("header_count")?;
        // A header takes at least two bytes.
        let remaining = self.bytes.len() - self.position;
        if count < 0 || count as usize > remaining / 2 {
            let kind = match u64::try_from(count) {
                Ok(count) => DecodeErrorKind::CountExceedsBytes { count, remaining },
                Err(_) => DecodeErrorKind::NegativeLength(count.into()),
            };
            return Err(self.error(kind, "header_count"));
        }
        let mut headers = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let n = self.read_varint("header_key")?;
            headers.push((self.take(n, "header_key")?, self.read_nullable("header_value")?));
        }
        Ok(RecordView {
            offset: header.base_offset.wrapping_add(i64::from(offset)),
            timestamp: if header.attributes & attributes::TIMESTAMP_TYPE_MASK != 0 {
                // With LogAppendTime, all records of the batch have the broker's time.
                header.max_timestamp
            } else {
                header.base_timestamp.wrapping_add(timestamp)
            },
            key,
            value,
            headers,
        })
    }
}
