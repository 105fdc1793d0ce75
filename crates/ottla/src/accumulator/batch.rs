//! A batch changes its type, not a flag: [`OpenBatch`] takes records, [`ClosedBatch`] is frozen for ever,
//! [`StampedBatch`] has a producer id, epoch, sequence and checksum in a header kept beside the records.
//!
//! There is no way back to `&mut` records: a buffer cannot be written again while a socket may still read
//! it, whatever happens to the batch (the bug of KAFKA-19012 does not compile here).

#![allow(unreachable_pub, reason = "the doctests of `sim::types` look at these types")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::Uuid;
use ottla_protocol::compression::{Codec, Compressor};
use ottla_protocol::record::{BATCH_HEADER_LEN, BatchHeader, RecordBody, RecordLayout};

use super::batch_completions::BatchCompletions;
use super::buffer_pool::PooledBuf;
use super::completion::Outcome;
use super::partition::Partition;
use crate::error::{Error, RecordStatus};
use crate::time::Tick;

/// What is known of a batch from its first record on.
#[derive(Debug, Clone)]
pub(crate) struct BatchMeta {
    pub(crate) partition: Arc<Partition>,
    /// Unique in the producer, rising.
    pub(crate) number: u64,
    /// Its place in its partition's line: the number of the batch that was opened, and the index there of its
    /// first record.
    pub(crate) queue_position: (u64, u32),
    pub(crate) created: Tick,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) record_count: i32,
    /// Bytes of its largest record, alone in a batch at the most.
    pub(crate) max_record_bytes: u32,
    /// How long its first record's caller waited for the memory.
    pub(crate) memory_wait: Duration,
}

/// Takes records.
#[derive(Debug)]
pub struct OpenBatch {
    buf: PooledBuf,
    /// Buffers that are full, of a batch that is to be compressed.
    chain: Vec<PooledBuf>,
    /// Bytes in them.
    chain_bytes: usize,
    pub(crate) meta: BatchMeta,
    pub(crate) completions: BatchCompletions,
    /// Bytes of records it takes, its first record aside.
    limit: usize,
}

/// Whether a record may still come into a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capacity {
    /// It may.
    Fits,
    /// It may, once there is another buffer for it.
    NeedsBuffer,
    /// It may not.
    Full,
}

impl OpenBatch {
    /// One that takes `limit` bytes of records, its first aside.
    pub(crate) fn new(
        buf: PooledBuf,
        meta: BatchMeta,
        ends: BatchCompletions,
        limit: usize,
    ) -> OpenBatch {
        OpenBatch { buf, chain: Vec::new(), chain_bytes: 0, meta, completions: ends, limit }
    }

    /// What a record takes if it comes next.
    #[inline]
    pub(crate) fn measure<'a, H>(&self, body: &RecordBody<'a, H>, timestamp: i64) -> RecordLayout
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        body.measure(self.meta.record_count, timestamp.wrapping_sub(self.meta.base_timestamp))
    }

    /// Whether a record of this size still fits; the first always does.
    #[inline]
    pub(crate) fn capacity_for(&self, record: &RecordLayout) -> Capacity {
        let len = record.len();
        if self.meta.record_count == 0 {
            Capacity::Fits
        } else if self.uncompressed_len() + len > self.limit {
            Capacity::Full
        } else if self.buf.bytes.len() + len > self.buf.bytes.capacity() {
            Capacity::NeedsBuffer
        } else {
            Capacity::Fits
        }
    }

    /// Goes on in another buffer.
    pub(crate) fn push_buffer(&mut self, buf: PooledBuf) {
        self.chain_bytes += self.buf.bytes.len();
        self.chain.push(std::mem::replace(&mut self.buf, buf));
    }

    /// Bytes of its records.
    #[inline]
    fn uncompressed_len(&self) -> usize {
        self.chain_bytes + self.buf.bytes.len()
    }

    /// Whether nothing more will fit.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.meta.record_count > 0 && self.uncompressed_len() >= self.limit
    }

    /// Bytes after which a sticky choice has stayed for a batch: as many as one takes, if it is to be compressed.
    #[inline]
    pub(crate) fn sticky_limit(&self, batch_size: usize) -> usize {
        batch_size.max(self.limit + BATCH_HEADER_LEN).max(1)
    }

    /// Whether it holds less than half of what it might.
    pub(crate) fn is_half_empty(&self) -> bool {
        self.uncompressed_len() < self.limit / 2
    }

    /// Bytes on the wire, uncompressed.
    pub(crate) fn wire_len(&self) -> usize {
        BATCH_HEADER_LEN + self.uncompressed_len()
    }

    /// Encodes a record there is [`room`](Self::room) for; the bytes it took.
    #[inline]
    pub(crate) fn push<'a, H>(
        &mut self,
        body: &RecordBody<'a, H>,
        at: RecordLayout,
        timestamp: i64,
    ) -> usize
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let meta = &mut self.meta;
        let before = self.buf.bytes.len();
        body.encode(&mut self.buf.bytes, at);
        meta.record_count += 1;
        meta.max_timestamp = meta.max_timestamp.max(timestamp);
        meta.max_record_bytes = meta.max_record_bytes.max(body.size_upper_bound() as u32);
        self.buf.bytes.len() - before
    }

    /// A batch whose records nobody will send: only who is to be told counts.
    pub(crate) fn abort(mut self) -> ClosedBatch {
        let plain_len = self.uncompressed_len();
        self.chain.clear();
        ClosedBatch { uncompressed_len: plain_len, ..self.close(None) }
    }

    /// Freezes the records, compressed where a codec is given. Output that is no smaller than the records is
    /// thrown away and they go as they are.
    pub fn close(mut self, compressor: Option<&mut BatchEncoder>) -> ClosedBatch {
        let (mut attributes, plain_len) = (0, self.uncompressed_len());
        let sizing = self.meta.partition.estimator.clone();
        sizing.set_expected_records(self.meta.record_count as usize);
        self.completions.charge(self.buf.pool());
        let (full, last) = (std::mem::take(&mut self.chain), self.buf);
        let records = match compressor.and_then(|e| Some((e.compress(&full, &last)?, e))) {
            Some((packed, e)) => {
                sizing.update_ratio(plain_len, packed);
                if packed < plain_len {
                    attributes = e.compressor.codec() as i16;
                    PooledBuf::with_contents(full, last, &[&e.output])
                } else {
                    PooledBuf::joined(full, last)
                }
            }
            None => PooledBuf::joined(full, last),
        };
        ClosedBatch {
            records: Bytes::from_owner(records),
            attributes,
            uncompressed_len: plain_len,
            meta: self.meta,
            completions: Some(self.completions),
            status: RecordStatus::NotPersisted,
            not_before: Tick(0),
            attempts: 0,
            timings: BatchTimings::default(),
            last_error: None,
        }
    }
}

/// Bytes of each of its rooms that an encoder keeps from batch to batch.
const MAX_RETAINED_CAPACITY: usize = 256 * 1024;

/// A codec's state and the room it works in; a bounded set of them is shared by whoever closes batches.
#[derive(Debug)]
pub struct BatchEncoder {
    compressor: Compressor,
    output: Vec<u8>,
    /// A chain's buffers one behind the other, which is what codecs take.
    contiguous_input: Vec<u8>,
    /// It panicked: its state is not to be trusted again.
    pub(super) poisoned: bool,
}

impl BatchEncoder {
    pub(crate) fn new(compressor: Compressor) -> BatchEncoder {
        BatchEncoder {
            compressor,
            output: Vec::new(),
            contiguous_input: Vec::new(),
            poisoned: false,
        }
    }

    /// Compresses into the scratch room; the bytes it took there, if it could.
    fn compress(&mut self, full: &[PooledBuf], last: &PooledBuf) -> Option<usize> {
        if self.compressor.codec() == Codec::None {
            return None;
        }
        self.output.clear();
        self.contiguous_input.clear();
        let input: &[u8] = if full.is_empty() {
            &last.bytes
        } else {
            full.iter()
                .chain([last])
                .for_each(|b| self.contiguous_input.extend_from_slice(&b.bytes));
            &self.contiguous_input
        };
        let (compressor, scratch) = (&mut self.compressor, &mut self.output);
        let done = catch_unwind(AssertUnwindSafe(|| compressor.compress(input, scratch)));
        match done {
            Ok(Ok(())) => Some(self.output.len()),
            Err(_) => {
                self.poisoned = true;
                tracing::error!("a compressor panicked; its batch goes uncompressed");
                None
            }
            Ok(Err(e)) => {
                tracing::warn!("a batch goes uncompressed: {e}");
                None
            }
        }
    }

    /// Lets go of room that only a large batch needed.
    pub(super) fn shrink_buffers(&mut self) {
        self.output.clear();
        self.output.shrink_to(MAX_RETAINED_CAPACITY);
        self.contiguous_input.clear();
        self.contiguous_input.shrink_to(MAX_RETAINED_CAPACITY);
    }
}

/// Records that no one can change any more, and what has become of them so far.
#[derive(Debug)]
pub struct ClosedBatch {
    records: Bytes,
    attributes: i16,
    /// Bytes of the records before they were compressed.
    pub(crate) uncompressed_len: usize,
    pub(crate) meta: BatchMeta,
    /// Taken when the batch is settled, which may be before its bytes are let go.
    completions: Option<BatchCompletions>,
    /// Only grows.
    pub(crate) status: RecordStatus,
    /// It rests until then, having been sent in an order that is over.
    pub(crate) not_before: Tick,
    /// Requests that carried it.
    pub(crate) attempts: u32,
    pub(crate) timings: BatchTimings,
    pub(crate) last_error: Option<Error>,
}

/// Where a batch's time went, as far as it alone knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchTimings {
    /// When it was closed off its partition's lock, which is when it was full, or lingered under a codec.
    pub(crate) closed_at: Option<Tick>,
    /// When it first left its line.
    pub(crate) drained_at: Option<Tick>,
    /// When the request that carries it was sent, while there is one.
    pub(crate) sent_at: Option<Tick>,
    /// In requests that have ended.
    pub(crate) in_flight: Duration,
    /// Told to rest before it was sent again, and until when.
    pub(crate) backing_off: Duration,
    pub(crate) backoff_until: Tick,
    /// Who had it last, and of which epoch its leadership was.
    pub(crate) broker: i32,
    pub(crate) leader_epoch: i32,
}

impl BatchTimings {
    /// How long it has rested by now.
    pub(crate) fn backed_off(&self, now: Tick) -> Duration {
        self.backing_off.saturating_sub(self.backoff_until.since(now))
    }
}

impl Default for BatchTimings {
    fn default() -> BatchTimings {
        let (closed, drained, sent, in_flight, backing_off, rests_until) = Default::default();
        BatchTimings {
            closed_at: closed,
            drained_at: drained,
            sent_at: sent,
            in_flight,
            backing_off,
            backoff_until: rests_until,
            broker: -1,
            leader_epoch: -1,
        }
    }
}

/// What the parts of a batch take over from it.
#[derive(Debug)]
pub(super) struct SplitParent {
    pub(super) meta: BatchMeta,
    status: RecordStatus,
    timings: BatchTimings,
    last_error: Option<Error>,
}

impl ClosedBatch {
    /// What its parts take over.
    pub(super) fn to_split_parent(&self) -> SplitParent {
        let (meta, last_error) = (self.meta.clone(), self.last_error.clone());
        SplitParent { meta, status: self.status, timings: self.timings, last_error }
    }

    /// Takes over what was known of the whole; that it was sent is not an attempt of the part.
    pub(super) fn inherit(&mut self, parent: &SplitParent) {
        self.status = parent.status;
        self.timings = parent.timings;
        self.last_error.clone_from(&parent.last_error);
    }

    /// The records, as they go to the wire.
    pub fn records(&self) -> &Bytes {
        &self.records
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.attributes & 7 != 0
    }

    /// Bytes on the wire.
    pub(crate) fn wire_len(&self) -> usize {
        BATCH_HEADER_LEN + self.records.len()
    }

    /// Tells everyone who waits, unless they were told.
    pub(crate) fn complete(&mut self, outcome: Outcome) {
        if let Some(ends) = self.completions.take() {
            ends.complete(outcome);
        }
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.completions.is_none()
    }

    /// Takes who is to be told away, to be told by parts of this batch.
    pub(super) fn take_completions(&mut self) -> Option<BatchCompletions> {
        self.completions.take()
    }

    /// Gives it a place in the producer's order.
    pub(crate) fn stamp(self, stamp: Stamp) -> StampedBatch {
        let m = &self.meta;
        let header = BatchHeader {
            base_offset: 0,
            partition_leader_epoch: -1,
            attributes: self.attributes,
            last_offset_delta: m.record_count - 1,
            base_timestamp: m.base_timestamp,
            max_timestamp: m.max_timestamp,
            producer_id: stamp.producer_id,
            producer_epoch: stamp.epoch,
            base_sequence: stamp.sequence,
            record_count: m.record_count,
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
pub(crate) fn increment_sequence(sequence: i32, n: i32) -> i32 {
    (i64::from(sequence) + i64::from(n)).rem_euclid(1 << 31) as i32
}

/// Ready for the wire.
#[derive(Debug)]
pub struct StampedBatch {
    pub(crate) closed: ClosedBatch,
    pub(crate) stamp: Stamp,
    header: [u8; BATCH_HEADER_LEN],
}

impl StampedBatch {
    /// The 61 bytes and the records; the latter share the batch's memory and keep it alive.
    pub(crate) fn header_and_records(&self) -> (&[u8; BATCH_HEADER_LEN], Bytes) {
        (&self.header, self.closed.records.clone())
    }

    /// As if its buffer had been given to somebody else meanwhile: no type allows that, so this is its effect.
    pub(super) fn with_corrupted_records(mut self) -> StampedBatch {
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
