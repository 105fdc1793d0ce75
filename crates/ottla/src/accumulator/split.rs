//! Cuts a batch that a broker finds too large into parts that go in its place (CASES SN28, F1.7).
//!
//! The parts take over its records' ends, its sequences and its age. Their memory is charged without waiting:
//! they are made on the sender's thread, which is the one that gives memory back.

use std::ops::Range;
use std::sync::Arc;

use ottla_protocol::DecodeError;
use ottla_protocol::record::{BATCH_HEADER_LEN, BatchView, RecordBody, RecordView};

use super::RecordAccumulator;
use super::batch::{
    BatchMeta, ClosedBatch, OpenBatch, SplitParent, Stamp, StampedBatch, increment_sequence,
};
use super::batch_completions::BatchCompletions;
use super::event_queue::Event;
use super::partition::{Partition, QueuedBatch};
use crate::time::Tick;

/// One record's headers as the encoder wants them: names came in as text.
fn headers<'r>(r: &'r RecordView<'_>) -> impl Iterator<Item = (&'r str, Option<&'r [u8]>)> + Clone {
    r.headers.iter().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), *value))
}

/// Where to cut: parts of at most `limit` bytes, or of one record.
fn split_points(records: &[RecordView<'_>], limit: usize) -> Vec<Range<usize>> {
    let (mut out, mut from, mut size) = (Vec::new(), 0, 0);
    for (i, r) in records.iter().enumerate() {
        let len = RecordBody::new(r.key, r.value, headers(r)).len(0, 0);
        if i > from && size + len > limit {
            out.push(from..i);
            (from, size) = (i, 0);
        }
        size += len;
    }
    out.push(from..records.len());
    if out.len() == 1 && records.len() > 1 {
        // Timestamps far apart take room that is not counted here.
        let middle = records.len() / 2;
        out = vec![0..middle, middle..records.len()];
    }
    out
}

/// A batch cut into parts, on its way back to its line.
#[derive(Debug)]
pub(crate) struct SplitOutcome {
    pub(crate) partition: Arc<Partition>,
    /// The batch's number.
    pub(crate) number: u64,
    /// Whether it had its place in the producer's order.
    pub(crate) stamped: bool,
    /// Its parts; the batch itself, if it cannot be read.
    pub(crate) parts: Vec<QueuedBatch>,
    /// Why it cannot, which only a bug can bring about.
    pub(crate) error: Option<DecodeError>,
}

/// A batch that is being cut off the sender's thread. Whatever becomes of the work, the sender hears.
pub(crate) struct SplitJob {
    accumulator: Arc<RecordAccumulator>,
    outcome: Option<Box<SplitOutcome>>,
}

impl SplitJob {
    pub(crate) fn new(acc: Arc<RecordAccumulator>, batch: &ClosedBatch, stamped: bool) -> SplitJob {
        let (partition, number) = (batch.meta.partition.clone(), batch.meta.number);
        let (parts, error) = Default::default();
        SplitJob {
            accumulator: acc,
            outcome: Some(Box::new(SplitOutcome { partition, number, stamped, parts, error })),
        }
    }

    pub(crate) fn run(mut self, work: impl FnOnce(&RecordAccumulator) -> SplitOutcome) {
        self.outcome = Some(Box::new(work(&self.accumulator)));
    }
}

impl Drop for SplitJob {
    fn drop(&mut self) {
        if let Some(cut) = self.outcome.take() {
            self.accumulator.post(Event::Split(cut), Tick(0));
        }
    }
}

impl RecordAccumulator {
    /// Cuts a batch that was sent; what of it waits goes out at once.
    pub(crate) fn split_stamped(&self, batch: StampedBatch, now: Tick) -> SplitOutcome {
        let (partition, number) = (batch.closed.meta.partition.clone(), batch.closed.meta.number);
        let again = |b: StampedBatch| QueuedBatch::Retry(Box::new(b), now);
        let (parts, error) = match self.split(batch) {
            Ok(parts) => (parts.into_iter().map(again).collect(), None),
            Err((whole, e)) => (vec![QueuedBatch::Retry(whole, now)], Some(e)),
        };
        SplitOutcome { partition, number, stamped: true, parts, error }
    }

    /// Cuts a batch that was never sent.
    pub(crate) fn split_closed(&self, batch: ClosedBatch) -> SplitOutcome {
        let (partition, number) = (batch.meta.partition.clone(), batch.meta.number);
        let (parts, error) = match self.split(batch.stamp(Stamp::NONE)) {
            Ok(parts) => {
                (parts.into_iter().map(|b| QueuedBatch::Closed(b.unstamp())).collect(), None)
            }
            Err((whole, e)) => (vec![QueuedBatch::Closed(whole.unstamp())], Some(e)),
        };
        SplitOutcome { partition, number, stamped: false, parts, error }
    }

    /// Cuts a batch into at least two parts where it has two records, each of no more than `batch.size`, what
    /// brokers take, and half of the whole: so cutting again and again comes to an end at single records.
    fn split(
        &self,
        mut parent: StampedBatch,
    ) -> Result<Vec<StampedBatch>, (Box<StampedBatch>, DecodeError)> {
        // The copy that is worked on, too, is accounted for while it is there.
        let wire_len = parent.closed.wire_len();
        let _copies = self.pool.account(parent.closed.uncompressed_len + wire_len);
        let (header, records) = parent.header_and_records();
        let whole = [&header[..], &records[..]].concat();
        drop(records);
        let read = BatchView::parse(&whole).and_then(|v| v.records(parent.closed.uncompressed_len));
        let read = match read {
            Ok(read) => read,
            Err(e) => return Err((Box::new(parent), e)),
        };
        let list = match read.to_vec() {
            Ok(list) => list,
            Err(e) => return Err((Box::new(parent), e)),
        };
        let half = parent.closed.uncompressed_len.div_ceil(2).max(1);
        let ranges = split_points(&list, self.max_part_bytes(&parent.closed).clamp(1, half));
        let counts: Vec<u32> = ranges.iter().map(|r| r.len() as u32).collect();
        let Some(ends) = parent.closed.take_completions() else {
            return Ok(Vec::new());
        };
        let ends = ends.split(&counts);
        let stamp = parent.stamp;
        let of = parent.closed.to_split_parent();
        // Its memory first, so that the debt is no larger than it must be.
        drop(parent);
        let parts = ranges.into_iter().zip(ends).map(|(range, ends)| {
            self.build_part(&list[range.clone()], range.start, &of, stamp, ends)
        });
        Ok(parts.collect())
    }

    /// Bytes of records, uncompressed, that a part may have.
    fn max_part_bytes(&self, whole: &ClosedBatch) -> usize {
        let bound = whole.meta.partition.estimator.limit();
        if bound == usize::MAX {
            return self.settings.batch_size;
        }
        // As well compressed as the whole, or nearly: a quarter of what was refused is to give quarters.
        let packed = whole.records().len().max(1) as u128;
        let room = bound.saturating_sub(BATCH_HEADER_LEN) as u128 * 9 / 8
            * whole.uncompressed_len as u128
            / packed;
        let most =
            whole.meta.partition.estimator.largest_not_rejected().saturating_sub(BATCH_HEADER_LEN)
                as u128
                * whole.uncompressed_len as u128
                / packed;
        self.settings.batch_size.min(usize::try_from(room.min(most)).unwrap_or(usize::MAX))
    }

    fn build_part(
        &self,
        records: &[RecordView<'_>],
        first: usize,
        parent: &SplitParent,
        stamp: Stamp,
        ends: BatchCompletions,
    ) -> StampedBatch {
        let base_timestamp = records.first().map_or(0, |r| r.timestamp);
        let of = &parent.meta;
        let meta = BatchMeta {
            number: self.next_batch_number(),
            queue_position: (of.queue_position.0, of.queue_position.1 + first as u32),
            base_timestamp,
            max_timestamp: base_timestamp,
            record_count: 0,
            max_record_bytes: 0,
            ..of.clone()
        };
        let bodies: Vec<_> =
            records.iter().map(|r| RecordBody::new(r.key, r.value, headers(r))).collect();
        let mut size = 0;
        for (i, (body, r)) in bodies.iter().zip(records).enumerate() {
            size += body.len(i as i32, r.timestamp.wrapping_sub(base_timestamp));
        }
        let mut open = OpenBatch::new(self.pool.charge(size), meta, ends, size);
        for (body, r) in bodies.iter().zip(records) {
            let at = open.measure(body, r.timestamp);
            open.push(body, at, r.timestamp);
        }
        let mut encoder = self.take_encoder();
        let mut closed = open.close(encoder.as_mut());
        self.return_encoder(encoder);
        closed.inherit(parent);
        let sequence = if stamp.sequence < 0 {
            stamp.sequence
        } else {
            increment_sequence(stamp.sequence, first as i32)
        };
        closed.stamp(Stamp { sequence, ..stamp })
    }
}
