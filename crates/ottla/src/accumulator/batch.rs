//! A batch changes its type, not a flag: [`OpenBatch`] takes records, [`ClosedBatch`] is frozen for ever,
//! [`StampedBatch`] has a producer id, epoch, sequence and checksum in a header kept beside the records.
//!
//! There is no way back to `&mut` records: a buffer cannot be written again while a socket may still read
//! it, whatever happens to the batch (the bug of KAFKA-19012 does not compile here).

#![allow(unreachable_pub, reason = "the doctests of `sim::types` look at these types")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use ottla_protocol::Uuid;
use ottla_protocol::compression::{Codec, Compressor};
use ottla_protocol::record::{BatchHeader, HEADER_LEN, RecordBody};

use super::buffer_pool::PooledBuf;
use super::completion::{Ends, Outcome};
use super::partition::Partition;
use crate::error::{Certainty, Error};
use crate::producer::Prepared;
use crate::time::Tick;

/// What is known of a batch from its first record on.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    pub(crate) partition: Arc<Partition>,
    /// Unique in the producer, rising.
    pub(crate) number: u64,
    /// Its place in its partition's line: the number of the batch that was opened, and the index there of its
    /// first record.
    pub(crate) place: (u64, u32),
    pub(crate) created: Tick,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) count: i32,
}

/// Takes records.
#[derive(Debug)]
pub struct OpenBatch {
    buf: PooledBuf,
    pub(crate) meta: Meta,
    pub(crate) ends: Ends,
    /// Bytes of records it takes, its first record aside.
    limit: usize,
}

impl OpenBatch {
    pub(crate) fn new(buf: PooledBuf, meta: Meta, ends: Ends, batch_size: usize) -> OpenBatch {
        OpenBatch { buf, meta, ends, limit: batch_size.saturating_sub(HEADER_LEN) }
    }

    /// Whether a record of this size still fits; the first always does.
    #[inline]
    pub(crate) fn fits(&self, record: &Prepared<'_>) -> bool {
        let delta = record.timestamp.wrapping_sub(self.meta.base_timestamp);
        self.meta.count == 0
            || self.buf.bytes.len() + record.body.len(self.meta.count, delta) <= self.limit
    }

    /// Whether nothing more will fit.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.meta.count > 0 && self.buf.bytes.len() >= self.limit
    }

    /// Bytes on the wire, uncompressed.
    pub(crate) fn wire_len(&self) -> usize {
        HEADER_LEN + self.buf.bytes.len()
    }

    /// Encodes a record that [`fits`](Self::fits); the bytes it took.
    #[inline]
    pub(crate) fn append(&mut self, record: &Prepared<'_>) -> usize {
        self.push(&record.body, record.timestamp)
    }

    /// Encodes a record; the bytes it took.
    #[inline]
    pub(crate) fn push<'a, H>(&mut self, body: &RecordBody<'a, H>, timestamp: i64) -> usize
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let meta = &mut self.meta;
        let delta = timestamp.wrapping_sub(meta.base_timestamp);
        let before = self.buf.bytes.len();
        body.encode(&mut self.buf.bytes, meta.count, delta);
        meta.count += 1;
        meta.max_timestamp = meta.max_timestamp.max(timestamp);
        self.buf.bytes.len() - before
    }

    /// Freezes the records, compressed where a codec is given. Output that is no smaller than the records is
    /// thrown away and they go as they are.
    pub fn close(mut self, compressor: Option<&mut Encoder>) -> ClosedBatch {
        let (mut attributes, plain_len) = (0, self.buf.bytes.len());
        if let Some(e) = compressor
            && e.pack(&self.buf.bytes)
        {
            self.buf.bytes.clear();
            self.buf.bytes.extend_from_slice(&e.scratch);
            attributes = e.compressor.codec() as i16;
        }
        ClosedBatch {
            records: Bytes::from_owner(self.buf),
            attributes,
            plain_len,
            meta: self.meta,
            ends: Some(self.ends),
            known: Certainty::NotWritten,
            not_before: Tick(0),
            attempts: 0,
            last_error: None,
        }
    }
}

/// A codec's state and the room it works in; a bounded set of them is shared by whoever closes batches.
#[derive(Debug)]
pub struct Encoder {
    compressor: Compressor,
    scratch: Vec<u8>,
    /// It panicked: its state is not to be trusted again.
    pub(super) broken: bool,
}

impl Encoder {
    pub(crate) fn new(compressor: Compressor) -> Encoder {
        Encoder { compressor, scratch: Vec::new(), broken: false }
    }

    /// Compresses into the scratch room; whether that made it smaller.
    fn pack(&mut self, records: &[u8]) -> bool {
        if self.compressor.codec() == Codec::None {
            return false;
        }
        self.scratch.clear();
        let (compressor, scratch) = (&mut self.compressor, &mut self.scratch);
        let done = catch_unwind(AssertUnwindSafe(|| compressor.compress(records, scratch)));
        match done {
            Ok(Ok(())) => self.scratch.len() < records.len(),
            Err(_) => {
                self.broken = true;
                tracing::error!("a compressor panicked; its batch goes uncompressed");
                false
            }
            Ok(Err(e)) => {
                tracing::warn!("a batch goes uncompressed: {e}");
                false
            }
        }
    }
}

/// Records that no one can change any more, and what has become of them so far.
#[derive(Debug)]
pub struct ClosedBatch {
    records: Bytes,
    attributes: i16,
    /// Bytes of the records before they were compressed.
    pub(crate) plain_len: usize,
    pub(crate) meta: Meta,
    /// Taken when the batch is settled, which may be before its bytes are let go.
    ends: Option<Ends>,
    /// Only grows.
    pub(crate) known: Certainty,
    /// It rests until then, having been sent in an order that is over.
    pub(crate) not_before: Tick,
    /// Requests that carried it.
    pub(crate) attempts: u32,
    pub(crate) last_error: Option<Error>,
}

impl ClosedBatch {
    /// The records, as they go to the wire.
    #[cfg_attr(not(feature = "unstable-sim"), allow(dead_code))]
    pub fn records(&self) -> &Bytes {
        &self.records
    }

    /// Bytes on the wire.
    pub(crate) fn wire_len(&self) -> usize {
        HEADER_LEN + self.records.len()
    }

    /// Tells everyone who waits, unless they were told.
    pub(crate) fn settle(&mut self, outcome: Outcome) {
        if let Some(ends) = self.ends.take() {
            ends.settle(outcome);
        }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.ends.is_none()
    }

    /// Takes who is to be told away, to be told by parts of this batch.
    pub(super) fn take_ends(&mut self) -> Option<Ends> {
        self.ends.take()
    }

    /// Gives it a place in the producer's order.
    pub(crate) fn stamp(self, stamp: Stamp) -> StampedBatch {
        let m = &self.meta;
        let header = BatchHeader {
            base_offset: 0,
            partition_leader_epoch: -1,
            attributes: self.attributes,
            last_offset_delta: m.count - 1,
            base_timestamp: m.base_timestamp,
            max_timestamp: m.max_timestamp,
            producer_id: stamp.producer_id,
            producer_epoch: stamp.epoch,
            base_sequence: stamp.sequence,
            record_count: m.count,
        }
        .encode(&self.records);
        StampedBatch { closed: self, stamp, header }
    }
}

/// Who sent it, and which of theirs it is; all −1 without idempotence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
    /// The topic's id when it was stamped; a topic of another id is another log.
    pub(crate) topic_id: Uuid,
}

impl Stamp {
    pub(crate) const NONE: Stamp =
        Stamp { producer_id: -1, epoch: -1, sequence: -1, topic_id: Uuid::ZERO };
}

/// The sequence `n` records further on; wraps from 2147483647 to 0.
pub(crate) fn advance(sequence: i32, n: i32) -> i32 {
    (i64::from(sequence) + i64::from(n)).rem_euclid(1 << 31) as i32
}

/// Ready for the wire.
#[derive(Debug)]
pub struct StampedBatch {
    pub(crate) closed: ClosedBatch,
    pub(crate) stamp: Stamp,
    header: [u8; HEADER_LEN],
}

impl StampedBatch {
    /// The 61 bytes and the records; the latter share the batch's memory and keep it alive.
    pub(crate) fn wire(&self) -> (&[u8; HEADER_LEN], Bytes) {
        (&self.header, self.closed.records.clone())
    }

    /// As if its buffer had been given to somebody else meanwhile: no type allows that, so this is its effect.
    pub(super) fn overwritten(mut self) -> StampedBatch {
        let mut bytes = self.closed.records.to_vec();
        if let Some(last) = bytes.iter_mut().rev().nth(1) {
            *last ^= 1;
        }
        self.closed.records = bytes.into();
        let stamp = self.stamp;
        self.closed.stamp(stamp)
    }

    /// Takes the place in the order away again; the records are as they were.
    pub(crate) fn unstamp(self) -> ClosedBatch {
        self.closed
    }
}
