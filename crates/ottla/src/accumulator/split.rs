//! Cuts a batch that a broker finds too large into parts that go in its place (CASES SN28, F1.7).
//!
//! The parts take over its records' ends, its sequences and its age. Their memory is charged without waiting:
//! they are made on the sender's thread, which is the one that gives memory back.

use std::ops::Range;

use ottla_protocol::DecodeError;
use ottla_protocol::record::{BatchView, RecordBody, RecordView};

use super::Accumulator;
use super::batch::{Meta, OpenBatch, Stamp, StampedBatch, advance};
use super::completion::Ends;

/// One record's headers as the encoder wants them: names came in as text.
fn headers<'r>(r: &'r RecordView<'_>) -> impl Iterator<Item = (&'r str, Option<&'r [u8]>)> + Clone {
    r.headers.iter().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), *value))
}

/// Where to cut: parts of at most `limit` bytes, or of one record.
fn cuts(records: &[RecordView<'_>], limit: usize) -> Vec<Range<usize>> {
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

impl Accumulator {
    /// The parts of a batch, at least two, in order: of `batch.size` at most, and of half of it at most, so that
    /// cutting again and again comes to an end at single records. The batch itself comes back if it cannot be read,
    /// which only a bug can bring about.
    pub(crate) fn split(
        &self,
        mut parent: StampedBatch,
    ) -> Result<Vec<StampedBatch>, (Box<StampedBatch>, DecodeError)> {
        let (header, records) = parent.wire();
        let whole = [&header[..], &records[..]].concat();
        drop(records);
        let read = BatchView::parse(&whole).and_then(|v| v.records(parent.closed.plain_len));
        let read = match read {
            Ok(read) => read,
            Err(e) => return Err((Box::new(parent), e)),
        };
        let list = match read.collect() {
            Ok(list) => list,
            Err(e) => return Err((Box::new(parent), e)),
        };
        let half = parent.closed.plain_len.div_ceil(2);
        let ranges = cuts(&list, self.settings.batch_size.clamp(1, half.max(1)));
        let counts: Vec<u32> = ranges.iter().map(|r| r.len() as u32).collect();
        let Some(ends) = parent.closed.take_ends() else {
            return Ok(Vec::new());
        };
        let ends = ends.split(&counts);
        let (meta, stamp) = (parent.closed.meta.clone(), parent.stamp);
        let error = parent.closed.last_error.clone();
        // Its memory first, so that the debt is no larger than it must be.
        drop(parent);
        let parts = ranges.into_iter().zip(ends).map(|(range, ends)| {
            let mut part = self.part(&list[range.clone()], range.start, &meta, stamp, ends);
            part.closed.last_error.clone_from(&error);
            part
        });
        Ok(parts.collect())
    }

    fn part(
        &self,
        records: &[RecordView<'_>],
        first: usize,
        of: &Meta,
        stamp: Stamp,
        ends: Ends,
    ) -> StampedBatch {
        let base_timestamp = records.first().map_or(0, |r| r.timestamp);
        let meta = Meta {
            partition: of.partition.clone(),
            number: self.next_number(),
            place: (of.place.0, of.place.1 + first as u32),
            created: of.created,
            base_timestamp,
            max_timestamp: base_timestamp,
            count: 0,
        };
        let bodies: Vec<_> =
            records.iter().map(|r| RecordBody::new(r.key, r.value, headers(r))).collect();
        let mut size = 0;
        for (i, (body, r)) in bodies.iter().zip(records).enumerate() {
            size += body.len(i as i32, r.timestamp.wrapping_sub(base_timestamp));
        }
        let mut open = OpenBatch::new(self.pool.charge(size), meta, ends, size);
        for (body, r) in bodies.iter().zip(records) {
            open.push(body, r.timestamp);
        }
        let mut encoder = self.encoder();
        let closed = open.close(encoder.as_mut());
        self.return_encoder(encoder);
        let sequence =
            if stamp.sequence < 0 { stamp.sequence } else { advance(stamp.sequence, first as i32) };
        closed.stamp(Stamp { sequence, ..stamp })
    }
}
