//! Splits a batch that a broker rejects as too large into parts that take its position in the
//! queue (CASES SN28, F1.7).
//!
//! The sender starts a [`SplitJob`] on a worker thread. The job adds the parts to [`SplitOutcomes`]
//! and posts `Event::BatchSplit`, and the sender enqueues them. The parts take over the completions
//! of their records, the batch's sequences and its age.
//!
//! A job charges the memory of the parts without waiting for it. Waiting could deadlock: the
//! batches queued behind the one that is split hold memory until it is sent. The pool may exceed
//! its limit briefly; allocations wait until usage is back under it.

use std::ops::Range;
use std::sync::Arc;

use ottla_protocol::DecodeError;
use ottla_protocol::record::{BATCH_HEADER_LEN, BatchView, RecordBody, RecordView};

use crate::accumulator::RecordAccumulator;
use crate::accumulator::batch::{
    BatchMeta, ClosedBatch, OpenBatch, QueuePosition, SplitParent, Stamp, StampedBatch,
    increment_sequence,
};
use crate::accumulator::partition::{Partition, QueuedBatch};
use crate::delivery::batch_completions::BatchCompletions;
use crate::sync::Mutex;
use crate::time::Tick;
use crate::wakeup::event_queue::Event;
use crate::wakeup::pending_posts::PendingJob;

/// Returns the headers of a record as the encoder takes them. Their names were given as `str`.
fn headers<'r>(r: &'r RecordView<'_>) -> impl Iterator<Item = (&'r str, Option<&'r [u8]>)> + Clone {
    r.headers.iter().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), *value))
}

/// Returns the record ranges of the parts, each of at most `limit` bytes or of one record.
fn split_points(records: &[RecordView<'_>], limit: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (i, r) in records.iter().enumerate() {
        let len = RecordBody::new(r.key, r.value, headers(r)).len(0, 0);
        if i > start && size + len > limit {
            ranges.push(start..i);
            (start, size) = (i, 0);
        }
        size += len;
    }
    ranges.push(start..records.len());
    if ranges.len() == 1 && records.len() > 1 {
        // The sum omits the bytes of offset and timestamp deltas, so it can be under the limit
        // although the broker rejected the batch.
        let middle = records.len() / 2;
        ranges = vec![0..middle, middle..records.len()];
    }
    ranges
}

/// The parts of a batch that was split, for the sender to enqueue.
#[derive(Debug)]
pub(crate) struct SplitOutcome {
    pub(crate) partition: Arc<Partition>,
    /// The number of the batch that was split.
    pub(crate) number: u64,
    /// Whether the batch had a sequence, which its parts take over.
    pub(crate) stamped: bool,
    /// The parts, or the batch itself if it cannot be read.
    pub(crate) parts: Vec<QueuedBatch>,
    /// Why the batch cannot be read, which only a bug can cause.
    pub(crate) error: Option<DecodeError>,
}

/// The outcomes of split jobs that the sender has not handled yet.
#[derive(Debug, Default)]
pub(crate) struct SplitOutcomes(Mutex<Vec<SplitOutcome>>);

impl SplitOutcomes {
    /// Removes and returns all outcomes.
    pub(crate) fn take(&self) -> Vec<SplitOutcome> {
        std::mem::take(&mut self.0.lock())
    }

    /// Fails the records of all outcomes: the sender has ended and will not handle them.
    pub(crate) fn fail_all(&self, accumulator: &RecordAccumulator) {
        let parts = self.take().into_iter().flat_map(|outcome| outcome.parts);
        parts.filter_map(QueuedBatch::into_closed).for_each(|b| accumulator.fail_batch(b));
    }
}

/// A batch that is split on a worker thread.
///
/// The sender always receives an outcome, even if the job panics or is dropped. Without one, the
/// partition would send nothing any more. After the sender's end the job fails the parts.
pub(crate) struct SplitJob {
    accumulator: Arc<RecordAccumulator>,
    outcomes: Arc<SplitOutcomes>,
    outcome: Option<SplitOutcome>,
    /// Ends after the outcome is posted.
    _pending: PendingJob,
}

impl SplitJob {
    pub(crate) fn new(
        accumulator: Arc<RecordAccumulator>,
        outcomes: Arc<SplitOutcomes>,
        batch: &ClosedBatch,
        stamped: bool,
    ) -> SplitJob {
        let pending = accumulator.events().pending_posts.begin_job();
        let outcome = SplitOutcome {
            partition: batch.meta.partition.clone(),
            number: batch.meta.number,
            stamped,
            parts: Vec::new(),
            error: None,
        };
        SplitJob { accumulator, outcomes, outcome: Some(outcome), _pending: pending }
    }

    /// Splits the batch with `split` and posts the outcome.
    pub(crate) fn run(mut self, split: impl FnOnce(&RecordAccumulator) -> SplitOutcome) {
        self.outcome = Some(split(&self.accumulator));
    }
}

impl Drop for SplitJob {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.outcomes.0.lock().push(outcome);
            if self.accumulator.events().post(Event::BatchSplit, Tick(0)).is_err() {
                self.outcomes.fail_all(&self.accumulator);
            }
        }
    }
}

impl RecordAccumulator {
    /// Splits a batch that was sent into parts of at most `max_size` bytes on the wire. The parts
    /// are retries without a backoff (CASES SN28).
    pub(crate) fn split_stamped(
        &self,
        batch: StampedBatch,
        max_size: usize,
        now: Tick,
    ) -> SplitOutcome {
        let (partition, number) = (batch.closed.meta.partition.clone(), batch.closed.meta.number);
        let retry = |b: StampedBatch| QueuedBatch::Retry { batch: Box::new(b), not_before: now };
        let (parts, error) = match self.split(batch, max_size) {
            Ok(parts) => (parts.into_iter().map(retry).collect(), None),
            Err((whole, e)) => {
                (vec![QueuedBatch::Retry { batch: whole, not_before: now }], Some(e))
            }
        };
        SplitOutcome { partition, number, stamped: true, parts, error }
    }

    /// Splits a batch that was never sent.
    pub(crate) fn split_closed(&self, batch: ClosedBatch, max_size: usize) -> SplitOutcome {
        let (partition, number) = (batch.meta.partition.clone(), batch.meta.number);
        let (parts, error) = match self.split(batch.stamp(Stamp::NONE), max_size) {
            Ok(parts) => {
                (parts.into_iter().map(|b| QueuedBatch::Closed(b.unstamp())).collect(), None)
            }
            Err((whole, e)) => (vec![QueuedBatch::Closed(whole.unstamp())], Some(e)),
        };
        SplitOutcome { partition, number, stamped: false, parts, error }
    }

    /// Splits a batch of two or more records into at least two parts.
    ///
    /// No part exceeds `batch.size`, the size that the topic's brokers accept, or half of the
    /// whole. Because of the last limit, repeated splits end at single records.
    fn split(
        &self,
        mut parent: StampedBatch,
        max_size: usize,
    ) -> Result<Vec<StampedBatch>, (Box<StampedBatch>, DecodeError)> {
        // The copies that the job reads from count as used memory while they exist.
        let wire_len = parent.closed.wire_len();
        let _copies = self.pool.charge_bytes(parent.closed.uncompressed_len + wire_len);
        let mut whole = Vec::with_capacity(wire_len);
        whole.extend_from_slice(parent.header());
        parent.closed.records().pieces().for_each(|piece| whole.extend_from_slice(&piece));
        let parsed =
            BatchView::parse(&whole).and_then(|v| v.records(parent.closed.uncompressed_len));
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(e) => return Err((Box::new(parent), e)),
        };
        let list = match parsed.to_vec() {
            Ok(list) => list,
            Err(e) => return Err((Box::new(parent), e)),
        };
        let half = parent.closed.uncompressed_len.div_ceil(2).max(1);
        let ranges =
            split_points(&list, self.max_part_bytes(&parent.closed, max_size).clamp(1, half));
        let counts: Vec<u32> = ranges.iter().map(|r| r.len() as u32).collect();
        let Some(completions) = parent.closed.take_completions() else {
            // The batch has been completed: no caller waits for its parts.
            return Ok(Vec::new());
        };
        let completions = completions.split(&counts);
        let stamp = parent.stamp;
        let split_parent = parent.closed.to_split_parent();
        // Frees the parent's buffer before the parts are charged, so that the pool exceeds its
        // limit by as little as possible.
        drop(parent);
        let parts = ranges.into_iter().zip(completions).map(|(range, completions)| {
            let first = range.start;
            self.build_part(&list[range], first, &split_parent, stamp, completions)
        });
        Ok(parts.collect())
    }

    /// Returns how many bytes of uncompressed records a part may have.
    fn max_part_bytes(&self, whole: &ClosedBatch, max_size: usize) -> usize {
        let limit = whole.meta.partition.estimator.limit();
        if limit == usize::MAX {
            return self.settings.batch_size;
        }
        // A part is assumed to compress as the whole batch did. The limit is often a quarter of
        // the rejected size; with 9/8 of it such a batch makes four parts and not five.
        let compressed = whole.records().len().max(1) as u128;
        let uncompressed = whole.uncompressed_len as u128;
        let wanted = limit.saturating_sub(BATCH_HEADER_LEN) as u128 * 9 / 8;
        let allowed = max_size.saturating_sub(BATCH_HEADER_LEN) as u128;
        let bytes = (wanted * uncompressed / compressed).min(allowed * uncompressed / compressed);
        self.settings.batch_size.min(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Builds the part that begins with the parent's record number `first`.
    fn build_part(
        &self,
        records: &[RecordView<'_>],
        first: usize,
        parent: &SplitParent,
        stamp: Stamp,
        completions: BatchCompletions,
    ) -> StampedBatch {
        let base_timestamp = records.first().map_or(0, |r| r.timestamp);
        let QueuePosition { batch_number, record_index } = parent.meta.queue_position;
        let meta = BatchMeta {
            number: self.next_batch_number(),
            // The parent's position in the queue, so that later batches stay behind the part.
            queue_position: QueuePosition {
                batch_number,
                record_index: record_index + first as u32,
            },
            base_timestamp,
            max_timestamp: base_timestamp,
            record_count: 0,
            max_record_bytes: 0,
            extensions: 0,
            ..parent.meta.clone()
        };
        let bodies: Vec<_> =
            records.iter().map(|r| RecordBody::new(r.key, r.value, headers(r))).collect();
        let mut size = 0;
        for (i, (body, r)) in bodies.iter().zip(records).enumerate() {
            size += body.len(i as i32, r.timestamp.wrapping_sub(base_timestamp));
        }
        let mut open = OpenBatch::new(self.pool.allocate_over_limit(size), meta, completions, size);
        for (body, r) in bodies.iter().zip(records) {
            let layout = open.measure(body, r.timestamp);
            open.push(body, layout, r.timestamp, None);
        }
        let mut encoder = self.take_encoder();
        let mut closed = open.close(encoder.as_deref_mut());
        self.return_encoder(encoder);
        closed.inherit(parent);
        // The sequence of the part's first record under the parent's epoch. The broker has
        // appended nothing of the parent, so it accepts the parts in order.
        let sequence = if stamp.sequence < 0 {
            stamp.sequence
        } else {
            increment_sequence(stamp.sequence, first as i32)
        };
        closed.stamp(Stamp { sequence, ..stamp })
    }
}
