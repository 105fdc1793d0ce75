//! The producer batch: [`OpenBatch`] takes records, [`ClosedBatch`] is frozen, [`StampedBatch`] has
//! a producer id, epoch, sequence and checksum.
//!
//! A batch changes its type, not a flag. The records of a closed batch are [`Bytes`] that own the
//! pooled buffer, and no method returns them as `&mut`. So no code can write to a buffer, or return
//! it to the pool, while a socket may still read it, even if the batch has expired or failed.
//! (Java's producer did this: KAFKA-19012.) The header with sequence and checksum is stored beside
//! the records. A new producer epoch therefore needs a new header only; it does not touch the
//! records.

#![allow(unreachable_pub, reason = "the doctests of `sim::types` use these types")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::Uuid;
use ottla_protocol::record::{BATCH_HEADER_LEN, BatchHeader, RecordBody, RecordLayout, attributes};

use super::batch_encoder::BatchEncoder;
use super::batch_records::{BatchRecords, ValuePiece};
use super::buffer_pool::{Charge, PooledBuf};
use super::partition::Partition;
use crate::delivery::batch_completions::BatchCompletions;
use crate::delivery::result::Outcome;
use crate::error::{Error, RecordStatus};
use crate::injected_bugs::inject_bug;
use crate::time::Tick;

/// The properties that a batch keeps in all its states.
#[derive(Debug, Clone)]
pub(crate) struct BatchMeta {
    pub(crate) partition: Arc<Partition>,
    /// The batch's number: unique in the producer, rising in the order in which batches are opened.
    ///
    /// A flush waits for the batches up to the last number when it was called.
    pub(crate) number: u64,
    pub(crate) queue_position: QueuePosition,
    pub(crate) created: Tick,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) record_count: i32,
    /// The upper bound of bytes that the largest record needs if it is alone in a batch.
    pub(crate) max_record_bytes: u32,
    /// The number of buffers by which it was extended.
    pub(crate) extensions: u32,
    /// How long the first record's caller waited for memory.
    pub(crate) memory_wait: Duration,
}

/// The position of a batch in its partition's queue.
///
/// A batch that is sent again returns to this position, not to the end. The parts of a split batch
/// get new numbers, but they keep the position of the original batch and are ordered by record
/// index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueuePosition {
    /// The number of the batch that was opened.
    pub(crate) batch_number: u64,
    /// The index in that batch of this batch's first record.
    pub(crate) record_index: u32,
}

/// A batch that takes records.
#[derive(Debug)]
pub struct OpenBatch {
    buf: PooledBuf,
    /// Earlier buffers, which are full. Only a batch that will be compressed, that began with a
    /// small buffer or that is extended has more than one buffer.
    chain: Vec<PooledBuf>,
    /// Large values that are not in a buffer. Only a batch that will not be compressed has them.
    values: Vec<ValuePiece>,
    /// Bytes of records in `chain` and `values`.
    bytes_outside_buf: usize,
    pub(crate) meta: BatchMeta,
    pub(crate) completions: BatchCompletions,
    /// The maximum bytes of records before the batch needs one more buffer. The first record may be
    /// larger. Below `base_limit` if the batch has less memory than that, and above it if the batch
    /// is extended. A batch that will be compressed has the same in both.
    limit: usize,
    /// The maximum bytes of records, unless the batch is extended.
    base_limit: usize,
    /// See [`is_extended`](Self::is_extended).
    extended: bool,
}

/// Whether a batch has room for another record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capacity {
    /// The record fits.
    Fits,
    /// The record fits into the batch's limit, but needs one more buffer.
    NeedsChainBuffer,
    /// The record does not fit.
    Full,
}

impl OpenBatch {
    /// Creates a batch of at most `limit` bytes of records. The first record may be larger.
    pub(crate) fn new(
        buf: PooledBuf,
        meta: BatchMeta,
        completions: BatchCompletions,
        limit: usize,
    ) -> OpenBatch {
        let (chain, values, bytes_outside_buf) = (Vec::new(), Vec::new(), 0);
        let (base_limit, extended) = (limit, false);
        OpenBatch {
            buf,
            chain,
            values,
            bytes_outside_buf,
            meta,
            completions,
            limit,
            base_limit,
            extended,
        }
    }

    /// Computes the layout of a record that would be appended next.
    #[inline]
    pub(crate) fn measure<'a, H>(&self, body: &RecordBody<'a, H>, timestamp: i64) -> RecordLayout
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        body.measure(self.meta.record_count, timestamp.wrapping_sub(self.meta.base_timestamp))
    }

    /// Returns whether a record of this size fits. The first record always fits.
    #[inline]
    pub(crate) fn capacity_for(&self, record: &RecordLayout) -> Capacity {
        let len = record.len();
        if self.meta.record_count == 0 {
            Capacity::Fits
        } else if self.uncompressed_len() + len > self.limit {
            self.capacity_beyond_limit(len)
        } else if self.buf.bytes.len() + len > self.buf.bytes.capacity() {
            Capacity::NeedsChainBuffer
        } else {
            Capacity::Fits
        }
    }

    #[cold]
    fn capacity_beyond_limit(&self, len: usize) -> Capacity {
        if self.uncompressed_len() + len <= self.base_limit {
            Capacity::NeedsChainBuffer
        } else {
            Capacity::Full
        }
    }

    /// Limits the batch to the charge of its only buffer. For a batch that will not be compressed:
    /// large values are not in a buffer, so the buffer's capacity does not limit them.
    pub(crate) fn limit_to_buffer(&mut self) {
        let charge = self.buf.charge().saturating_sub(BATCH_HEADER_LEN);
        self.limit = self.limit.min(charge);
    }

    /// Returns the bytes of `buffer.memory` that its buffers use.
    pub(crate) fn charge(&self) -> usize {
        self.chain.iter().map(PooledBuf::charge).sum::<usize>() + self.buf.charge()
    }

    /// Returns the size of the next buffer of a batch that will not be compressed and is below its
    /// limit. The charge doubles. The last buffer has what is left of the limit, also for the bytes
    /// that stayed free at the ends of the buffers before it.
    pub(crate) fn next_buffer_size(&self) -> usize {
        let (charge, left) =
            (self.charge(), self.base_limit.saturating_sub(self.uncompressed_len()));
        if left < charge + charge / 4 { left } else { charge }
    }

    /// Makes `buf` the buffer for the next records, in a batch below its size.
    pub(crate) fn grow_by(&mut self, buf: PooledBuf) {
        self.limit = (self.limit + buf.charge()).min(self.base_limit);
        self.push_buffer(buf);
    }

    /// Makes `buf` the buffer for the next records.
    pub(crate) fn push_buffer(&mut self, buf: PooledBuf) {
        self.bytes_outside_buf += self.buf.bytes.len();
        self.chain.push(std::mem::replace(&mut self.buf, buf));
    }

    /// Marks the batch as extended. Returns whether it was not.
    pub(crate) fn extend(&mut self) -> bool {
        !std::mem::replace(&mut self.extended, true)
    }

    /// Makes `buf` the buffer for the next records, and raises the limit by its charge.
    pub(crate) fn extend_by(&mut self, buf: PooledBuf) {
        // Large values are not in a buffer. So the limit, and not the buffers' capacity, keeps the
        // records within what `buffer.memory` is charged.
        self.limit += buf.charge();
        self.meta.extensions += 1;
        self.push_buffer(buf);
    }

    /// Returns whether the batch has its size and yet takes records, because its node cannot take a
    /// request. The sender drains it as soon as the node can.
    #[inline]
    pub(crate) fn is_extended(&self) -> bool {
        self.extended
    }

    /// Returns the bytes of its records.
    #[inline]
    fn uncompressed_len(&self) -> usize {
        self.bytes_outside_buf + self.buf.bytes.len()
    }

    /// Returns whether no further record fits, unless the batch is extended.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.meta.record_count > 0 && self.uncompressed_len() >= self.max_len()
    }

    /// Returns the maximum bytes of records: `base_limit`, or more if the batch is extended.
    #[inline]
    fn max_len(&self) -> usize {
        self.limit.max(self.base_limit)
    }

    /// Returns the bytes after which the sticky partition may switch. This is `batch.size`, or the
    /// uncompressed size of a batch that will be compressed.
    #[inline]
    pub(crate) fn sticky_limit(&self, batch_size: usize) -> usize {
        batch_size.max(self.base_limit + BATCH_HEADER_LEN).max(1)
    }

    /// Returns whether the batch is less than half full.
    pub(crate) fn is_less_than_half_full(&self) -> bool {
        self.uncompressed_len() < self.base_limit / 2
    }

    /// Returns the most bytes that the uncompressed batch may have on the wire.
    pub(crate) fn max_wire_len(&self) -> usize {
        BATCH_HEADER_LEN + self.max_len()
    }

    /// Returns the bytes of the uncompressed batch on the wire.
    pub(crate) fn wire_len(&self) -> usize {
        BATCH_HEADER_LEN + self.uncompressed_len()
    }

    /// Encodes a record for which [`capacity_for`](Self::capacity_for) returned `Fits`. Returns the
    /// bytes that it takes. `shared` is the record's value, if the batch shall not copy it.
    #[inline]
    pub(crate) fn push<'a, H>(
        &mut self,
        body: &RecordBody<'a, H>,
        layout: RecordLayout,
        timestamp: i64,
        shared: Option<&Bytes>,
    ) -> usize
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let before = self.uncompressed_len();
        match shared {
            None => body.encode(&mut self.buf.bytes, layout),
            Some(value) => self.push_shared(body, layout, value),
        }
        let meta = &mut self.meta;
        meta.record_count += 1;
        meta.max_timestamp = meta.max_timestamp.max(timestamp);
        meta.max_record_bytes = meta.max_record_bytes.max(body.size_upper_bound() as u32);
        self.uncompressed_len() - before
    }

    /// Encodes a record, and keeps a reference to its value.
    #[cold]
    fn push_shared<'a, H>(&mut self, body: &RecordBody<'a, H>, layout: RecordLayout, value: &Bytes)
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let offset = body.encode_without_value(&mut self.buf.bytes, layout);
        let buffer = self.chain.len();
        self.values.push(ValuePiece { buffer, offset, value: value.clone() });
        self.bytes_outside_buf += value.len();
    }

    /// Closes a batch that will not be sent. Only its completions are used afterwards.
    pub(crate) fn abort(mut self) -> ClosedBatch {
        let uncompressed_len = self.uncompressed_len();
        // No request will carry the records.
        self.chain.clear();
        self.values.clear();
        ClosedBatch { uncompressed_len, ..self.close(None) }
    }

    /// Freezes the records. Compresses them if an encoder is given and the result is smaller.
    pub fn close(mut self, encoder: Option<&mut BatchEncoder>) -> ClosedBatch {
        let (mut attributes, uncompressed_len) = (0, self.uncompressed_len());
        let estimator = self.meta.partition.estimator.clone();
        if !self.extended {
            // The next batch will most likely not be extended as far.
            estimator.set_expected_records(self.meta.record_count as usize);
        }
        // Charged once, when the batch is closed: a charge per record would lock the pool for each
        // append.
        let heap_bytes = self.completions.heap_bytes();
        self.completions.count_as_closed();
        let charge = (heap_bytes > 0).then(|| self.buf.pool().charge_bytes(heap_bytes));
        assert!(encoder.is_none() || self.values.is_empty(), "a codec takes one slice");
        let (mut full, mut last) = (std::mem::take(&mut self.chain), self.buf);
        let caller_context = self.completions.caller_context();
        if let Some(e) = encoder
            && let Some(compressed_len) = e.compress(&full, &last, caller_context)
        {
            estimator.update_ratio(uncompressed_len, compressed_len);
            if compressed_len < uncompressed_len {
                attributes = e.codec() as i16;
                last = PooledBuf::with_contents(std::mem::take(&mut full), last, e.output());
            }
        }
        let freeze = |buf| inject_bug!(BufferReused, Bytes::from_owner(buf));
        ClosedBatch {
            records: BatchRecords::new(full.into_iter().map(freeze), freeze(last), &self.values),
            attributes,
            uncompressed_len,
            meta: self.meta,
            completions: Some(self.completions),
            charge,
            status: RecordStatus::NotPersisted,
            not_before: Tick(0),
            attempts: 0,
            timings: BatchTimings::default(),
            last_error: None,
        }
    }
}

/// A batch whose records no longer change, and the state of its delivery.
#[derive(Debug)]
pub struct ClosedBatch {
    records: BatchRecords,
    attributes: i16,
    /// Bytes of the records before compression.
    pub(crate) uncompressed_len: usize,
    pub(crate) meta: BatchMeta,
    /// `None` once the batch is completed. A batch that expires in flight is completed at once, but
    /// keeps `records` until the network has no reference to them.
    completions: Option<BatchCompletions>,
    /// The part of `buffer.memory` that `completions` uses.
    charge: Option<Charge>,
    /// Whether the records may be in the log.
    ///
    /// The status moves from `NotPersisted` to `PossiblyPersisted` when a broker may have appended
    /// the batch: the socket took the last byte of a request and no response arrived, or the
    /// response leaves it open. It never moves back.
    pub(crate) status: RecordStatus,
    /// The time before which the batch is not sent: the end of a backoff that it began under an
    /// earlier producer epoch.
    pub(crate) not_before: Tick,
    /// The number of requests that carried the batch.
    pub(crate) attempts: u32,
    pub(crate) timings: BatchTimings,
    pub(crate) last_error: Option<Error>,
}

/// The time that a batch spent in each step of its delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchTimings {
    /// When the batch was closed without its partition's lock: it was full, or its linger had ended
    /// and it is compressed.
    pub(crate) closed_at: Option<Tick>,
    /// When the batch was drained for the first time.
    pub(crate) drained_at: Option<Tick>,
    /// When the current request was sent; `None` if no request carries the batch.
    pub(crate) sent_at: Option<Tick>,
    /// The time in requests that have ended.
    pub(crate) in_flight: Duration,
    /// The sum of all backoffs, including the current one up to its end.
    pub(crate) backoff_total: Duration,
    /// When the current backoff ends.
    pub(crate) backoff_until: Tick,
    /// The node that got the last request; −1 if none did.
    pub(crate) broker: i32,
    /// The leader epoch of the last request.
    pub(crate) leader_epoch: i32,
}

impl BatchTimings {
    /// Returns the time spent in backoff until `now`.
    pub(crate) fn backed_off(&self, now: Tick) -> Duration {
        self.backoff_total.saturating_sub(self.backoff_until.since(now))
    }
}

impl Default for BatchTimings {
    fn default() -> BatchTimings {
        BatchTimings {
            closed_at: None,
            drained_at: None,
            sent_at: None,
            in_flight: Duration::ZERO,
            backoff_total: Duration::ZERO,
            backoff_until: Tick::default(),
            broker: -1,
            leader_epoch: -1,
        }
    }
}

/// What the parts of a split batch inherit from it.
#[derive(Debug)]
pub(crate) struct SplitParent {
    pub(crate) meta: BatchMeta,
    status: RecordStatus,
    not_before: Tick,
    timings: BatchTimings,
    last_error: Option<Error>,
}

impl ClosedBatch {
    /// Returns what the parts of this batch inherit.
    pub(crate) fn to_split_parent(&self) -> SplitParent {
        SplitParent {
            meta: self.meta.clone(),
            status: self.status,
            not_before: self.not_before,
            timings: self.timings,
            last_error: self.last_error.clone(),
        }
    }

    /// Takes over the parent's state, except its attempts: a split does not use up a retry.
    pub(crate) fn inherit(&mut self, parent: &SplitParent) {
        self.status = parent.status;
        self.not_before = parent.not_before;
        self.timings = parent.timings;
        self.last_error.clone_from(&parent.last_error);
    }

    /// Returns the records as they go on the wire.
    pub fn records(&self) -> &BatchRecords {
        &self.records
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.attributes & 7 != 0
    }

    /// Returns the bytes of the batch on the wire.
    pub(crate) fn wire_len(&self) -> usize {
        BATCH_HEADER_LEN + self.records.len()
    }

    /// Reports the outcome to the deliveries, callbacks and handlers, unless the batch is
    /// completed.
    pub(crate) fn complete(&mut self, outcome: Outcome) {
        if let Some(completions) = self.completions.take() {
            completions.complete(outcome);
            self.charge = None;
        }
    }

    /// Frees the memory of the records. No request may carry the batch afterwards.
    pub(crate) fn free_records(&mut self) {
        self.records = BatchRecords::default();
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.completions.is_none()
    }

    /// Takes the completions, which are divided among the parts of this batch.
    pub(crate) fn take_completions(&mut self) -> Option<BatchCompletions> {
        self.completions.take()
    }

    /// Writes the batch's header with this producer id, epoch and sequence.
    pub(crate) fn stamp(self, stamp: Stamp) -> StampedBatch {
        let m = &self.meta;
        let transactional =
            if stamp.is_transactional { attributes::TRANSACTIONAL_FLAG_MASK } else { 0 };
        let header = BatchHeader {
            base_offset: 0,
            partition_leader_epoch: -1,
            attributes: self.attributes | transactional,
            last_offset_delta: m.record_count - 1,
            base_timestamp: m.base_timestamp,
            max_timestamp: m.max_timestamp,
            producer_id: stamp.producer_id,
            producer_epoch: stamp.epoch,
            base_sequence: stamp.sequence,
            record_count: m.record_count,
        }
        .encode_for_pieces(self.records.len(), self.records.slices());
        StampedBatch { closed: self, stamp, header }
    }
}

/// The producer id, epoch and sequence of a batch; all −1 without idempotence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
    /// The topic's id when the batch was stamped. A topic of the same name with a new id has a
    /// new log, so a batch that may be in the first is not sent to the second.
    pub(crate) topic_id: Uuid,
    /// Whether the batch is part of a transaction.
    pub(crate) is_transactional: bool,
}

impl Stamp {
    pub(crate) const NONE: Stamp = Stamp {
        producer_id: -1,
        epoch: -1,
        sequence: -1,
        topic_id: Uuid::ZERO,
        is_transactional: false,
    };
}

/// Returns the sequence `n` records after `sequence`. Sequences wrap from 2147483647 to 0.
pub(crate) fn increment_sequence(sequence: i32, n: i32) -> i32 {
    (i64::from(sequence) + i64::from(n)).rem_euclid(1 << 31) as i32
}

/// A batch that is ready for the wire.
#[derive(Debug)]
pub struct StampedBatch {
    pub(crate) closed: ClosedBatch,
    pub(crate) stamp: Stamp,
    header: [u8; BATCH_HEADER_LEN],
}

impl StampedBatch {
    /// Returns the header.
    pub(crate) fn header(&self) -> &[u8; BATCH_HEADER_LEN] {
        &self.header
    }

    /// Removes the header, for a batch that gets a new producer epoch or fails.
    pub(crate) fn unstamp(self) -> ClosedBatch {
        self.closed
    }
}
