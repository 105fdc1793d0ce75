//! How large a topic's batches may get: how well its records compress, and what its brokers were seen to take.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use ottla_protocol::record::BATCH_HEADER_LEN;

/// What a topic's batches have taught. Callers read it when they open a batch; whoever closes one adds to it.
#[derive(Debug)]
pub(crate) struct BatchSizeEstimator {
    /// Compressed bytes a byte of records takes, as the bits of an `f32` (Kafka's estimate, CASES B2).
    ratio: AtomicU32,
    /// The most bytes on the wire that a new batch may take; what a broker refused lies above.
    limit: AtomicUsize,
    /// The size at which the next batch tries whether the broker takes more; 0 for none.
    probe: AtomicUsize,
    /// The fewest bytes on the wire that a broker refused.
    rejected: AtomicUsize,
    /// The most bytes on the wire that a broker was seen to take.
    largest_accepted: AtomicUsize,
    /// Records of the last batch closed: what to make room for.
    expected_records: AtomicU32,
}

impl Default for BatchSizeEstimator {
    fn default() -> BatchSizeEstimator {
        BatchSizeEstimator {
            ratio: AtomicU32::new(1f32.to_bits()),
            limit: AtomicUsize::new(usize::MAX),
            probe: AtomicUsize::new(0),
            rejected: AtomicUsize::new(usize::MAX),
            largest_accepted: AtomicUsize::new(0),
            expected_records: AtomicU32::new(16),
        }
    }
}

/// Steps of the ratio estimate: up at once and by at least this, down slowly.
const COMPRESSION_RATIO_DETERIORATE_STEP: f32 = 0.05;
const COMPRESSION_RATIO_IMPROVING_STEP: f32 = 0.005;
/// How much worse than the estimate a batch may turn out.
const COMPRESSION_RATE_ESTIMATION_FACTOR: f32 = 1.05;
/// Times `batch.size` that a batch's records may take before they are compressed.
const MAX_EXPANSION: usize = 64;

impl BatchSizeEstimator {
    /// Bytes of records, uncompressed, that a batch opened now takes before it is full.
    pub(crate) fn uncompressed_limit(&self, batch_size: usize, compressed: bool) -> usize {
        let probe = match self.probe.load(Relaxed) {
            0 => 0,
            _ => self.probe.swap(0, Relaxed),
        };
        let bound = if probe == 0 { self.limit.load(Relaxed) } else { probe };
        let room = batch_size.min(bound).saturating_sub(BATCH_HEADER_LEN);
        if !compressed {
            return room;
        }
        let estimated = room as f64 / f64::from(self.ratio() * COMPRESSION_RATE_ESTIMATION_FACTOR);
        (estimated as usize).min(batch_size.saturating_mul(MAX_EXPANSION))
    }

    pub(crate) fn ratio(&self) -> f32 {
        f32::from_bits(self.ratio.load(Relaxed))
    }

    /// A batch of so many bytes was compressed to so many.
    pub(crate) fn update_ratio(&self, plain: usize, packed: usize) {
        if plain == 0 {
            return;
        }
        let (seen, now) = (packed as f32 / plain as f32, self.ratio());
        let next = if seen > now {
            seen.max(now + COMPRESSION_RATIO_DETERIORATE_STEP)
        } else {
            seen.max(now - COMPRESSION_RATIO_IMPROVING_STEP)
        };
        self.ratio.store(next.to_bits(), Relaxed);
    }

    /// A batch turned out too large for its broker.
    pub(crate) fn reset_ratio(&self, plain: usize, packed: usize) {
        let seen = if plain == 0 { 1.0 } else { packed as f32 / plain as f32 };
        self.ratio.store(seen.max(1.0).to_bits(), Relaxed);
    }

    /// New batches take so much from here on; so much was refused.
    pub(crate) fn set_limit(&self, bound: usize, refused: usize) {
        self.limit.store(bound, Relaxed);
        self.rejected.store(refused, Relaxed);
    }

    /// Whether a broker would refuse a batch of so many bytes, for all that is known.
    pub(crate) fn is_rejected(&self, wire_len: usize) -> bool {
        wire_len >= self.rejected.load(Relaxed)
    }

    /// Whether a broker has refused a batch of this topic.
    pub(crate) fn has_limit(&self) -> bool {
        self.rejected.load(Relaxed) != usize::MAX
    }

    /// The most bytes that a part of a batch may take.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    pub(crate) fn set_probe(&self, size: usize) {
        self.probe.store(size, Relaxed);
    }

    pub(crate) fn is_probing(&self) -> bool {
        self.probe.load(Relaxed) != 0
    }

    /// A broker took a batch of so many bytes.
    pub(crate) fn record_accepted(&self, wire_len: usize) {
        if wire_len > self.largest_accepted.load(Relaxed) {
            self.largest_accepted.store(wire_len, Relaxed);
        }
    }

    /// The most bytes on the wire that a broker was seen to take; 0 for none.
    pub(crate) fn largest_accepted(&self) -> usize {
        self.largest_accepted.load(Relaxed)
    }

    /// The most bytes on the wire that none was seen to refuse.
    pub(crate) fn largest_not_rejected(&self) -> usize {
        self.rejected.load(Relaxed).saturating_sub(1)
    }

    /// Records to expect in the next batch.
    pub(crate) fn expected_records(&self) -> usize {
        self.expected_records.load(Relaxed) as usize
    }

    pub(crate) fn set_expected_records(&self, records: usize) {
        self.expected_records.store(records.min(1 << 20) as u32, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b2_the_ratio_rises_at_once_and_falls_slowly() {
        let s = BatchSizeEstimator::default();
        assert_eq!(s.uncompressed_limit(16384, false), 16384 - 61);
        s.update_ratio(1000, 300);
        assert!((s.ratio() - 0.995).abs() < 1e-6);
        for _ in 0..200 {
            s.update_ratio(1000, 300);
        }
        assert!((s.ratio() - 0.3).abs() < 1e-6, "{}", s.ratio());
        let limit = s.uncompressed_limit(16384, true);
        assert!((51_000..52_000).contains(&limit), "{limit}");
        s.update_ratio(1000, 310);
        assert!((s.ratio() - 0.35).abs() < 1e-6, "by a step at least");
        s.update_ratio(1000, 900);
        assert!((s.ratio() - 0.9).abs() < 1e-6, "or to what was seen");
        s.reset_ratio(1000, 700);
        assert!((s.ratio() - 1.0).abs() < 1e-6, "a split trusts nothing");
        s.reset_ratio(1000, 1100);
        assert!((s.ratio() - 1.1).abs() < 1e-6);
    }

    #[test]
    fn a_probe_is_taken_once_and_what_compresses_without_end_is_bounded() {
        let s = BatchSizeEstimator::default();
        s.set_limit(1000, 3000);
        assert!(s.is_rejected(3000) && !s.is_rejected(2999));
        s.set_probe(2000);
        assert_eq!(s.uncompressed_limit(16384, false), 2000 - 61);
        assert_eq!(s.uncompressed_limit(16384, false), 1000 - 61);
        s.set_limit(usize::MAX, usize::MAX);
        for _ in 0..1000 {
            s.update_ratio(1_000_000, 1);
        }
        assert_eq!(s.uncompressed_limit(100, true), 6400);
    }
}
