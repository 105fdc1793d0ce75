//! Reads batches and records out of borrowed bytes, checking every length before following it.

use std::borrow::Cow;

use super::header::{BATCH_HEADER_LEN, BatchHeader, attributes, compute_checksum};
use crate::compression::{Codec, decompress};
use crate::error::{DecodeError, DecodeErrorKind as Kind};
use crate::wire::varint::{get_i32, get_i64};

const BATCH_NAME: &str = "RecordBatch";

fn batch_error(kind: Kind, field: &'static str, offset: usize) -> DecodeError {
    DecodeError::new(kind, offset).with_location(BATCH_NAME, field)
}

fn invalid_batch(what: &'static str, field: &'static str, offset: usize) -> DecodeError {
    batch_error(Kind::InvalidBatch(what), field, offset)
}

/// The batches in a run of bytes, one behind the other.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Batches<'a> {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Batches<'a> {
        Batches { bytes, position: 0 }
    }

    /// Bytes taken so far.
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
        let from = self.position;
        let batch = BatchView::parse(rest).map_err(|mut e| {
            e.offset += from;
            e
        });
        self.position = batch.as_ref().map_or(self.bytes.len(), |b| from + b.bytes.len());
        Some(batch)
    }
}

/// A batch in borrowed bytes: header read, records not yet.
#[derive(Debug, Clone)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
    header: BatchHeaderView,
}

/// A header as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeaderView {
    /// Its fields.
    pub header: BatchHeader,
    /// The whole batch's length in bytes.
    pub batch_len: usize,
    /// The checksum it states.
    pub crc: u32,
}

fn read_array<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[from..from + N]);
    out
}

impl BatchHeaderView {
    /// Reads a header from the front of `bytes`, which need hold no more than it.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeaderView, DecodeError> {
        if bytes.len() < BATCH_HEADER_LEN {
            let kind = Kind::Truncated { needed: BATCH_HEADER_LEN, remaining: bytes.len() };
            return Err(batch_error(kind, "header", 0));
        }
        let length = i32::from_be_bytes(read_array(bytes, 8));
        if length < (BATCH_HEADER_LEN - 12) as i32 {
            return Err(invalid_batch("length smaller than a header", "batch_length", 8));
        }
        if bytes[16] != 2 {
            return Err(invalid_batch("magic is not 2", "magic", 16));
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
    /// Reads a batch from the front of `bytes`; more may follow it.
    pub fn parse(bytes: &'a [u8]) -> Result<BatchView<'a>, DecodeError> {
        let header = BatchHeaderView::parse(bytes)?;
        if header.batch_len > bytes.len() {
            let kind = Kind::Truncated { needed: header.batch_len, remaining: bytes.len() };
            return Err(batch_error(kind, "batch_length", 8));
        }
        Ok(BatchView { bytes: &bytes[..header.batch_len], header })
    }

    /// Its header.
    pub fn header(&self) -> &BatchHeader {
        &self.header.header
    }

    /// All its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its codec.
    pub fn codec(&self) -> Result<Codec, DecodeError> {
        Codec::from_attributes(self.header().attributes)
            .ok_or_else(|| invalid_batch("a codec that does not exist", "attributes", 21))
    }

    /// Whether it is a marker rather than records.
    pub fn is_control(&self) -> bool {
        self.header().attributes & attributes::CONTROL_FLAG_MASK != 0
    }

    /// Checks the checksum.
    pub fn verify(&self) -> Result<(), DecodeError> {
        let computed = compute_checksum(self.bytes);
        if computed == self.header.crc {
            return Ok(());
        }
        Err(batch_error(Kind::ChecksumMismatch { stated: self.header.crc, computed }, "crc", 17))
    }

    /// The records part, decompressed to at most `limit` bytes.
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

/// The records of a batch, decompressed where need be.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    body: Cow<'a, [u8]>,
    header: BatchHeader,
}

/// A record in borrowed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its offset: the batch's base plus its delta.
    pub offset: i64,
    /// Its timestamp in milliseconds since the epoch: its own, or the broker's where the batch says so.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order, duplicates kept.
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

impl Records<'_> {
    /// Every record, in order; fails at the first that breaks a rule, or when the count in the header is
    /// not the count of records.
    pub fn to_vec(&self) -> Result<Vec<RecordView<'_>>, DecodeError> {
        let mut out = Vec::new();
        self.try_for_each(|r| {
            out.push(r);
            Ok(())
        })?;
        Ok(out)
    }

    /// Hands every record to `f`, in order, and then checks the count.
    pub fn try_for_each<'s>(
        &'s self,
        mut f: impl FnMut(RecordView<'s>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let (mut cursor, mut n) = (RecordReader { bytes: &self.body, position: 0 }, 0);
        while cursor.position < cursor.bytes.len() {
            if n == self.header.record_count {
                return Err(invalid_batch(
                    "more records than the header counts",
                    "record_count",
                    57,
                ));
            }
            f(cursor.read_record(&self.header)?)?;
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
    fn error(&self, kind: Kind, field: &'static str) -> DecodeError {
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
        let left = self.bytes.len() - self.position;
        match usize::try_from(n) {
            Err(_) => Err(self.error(Kind::NegativeLength(n.into()), field)),
            Ok(needed) if needed > left => {
                Err(self.error(Kind::Truncated { needed, remaining: left }, field))
            }
            Ok(n) => {
                let from = self.position;
                self.position += n;
                Ok(&self.bytes[from..self.position])
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
        let from = BATCH_HEADER_LEN + self.position;
        let body = self.take(length, "length")?;
        let mut inner = RecordReader { bytes: body, position: 0 };
        let record = inner.read_body(header).map_err(|mut e| {
            e.offset += from - BATCH_HEADER_LEN;
            e
        })?;
        if inner.position != body.len() {
            return Err(inner.error(Kind::TrailingBytes(body.len() - inner.position), "length"));
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
        if count < 0 || count as usize > (self.bytes.len() - self.position) / 2 {
            let left = self.bytes.len() - self.position;
            let kind = match u64::try_from(count) {
                Ok(count) => Kind::CountExceedsBytes { count, remaining: left },
                Err(_) => Kind::NegativeLength(count.into()),
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
                // The broker's time is one for the whole batch.
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
