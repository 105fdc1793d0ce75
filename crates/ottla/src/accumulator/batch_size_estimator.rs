//! Estimates how many bytes of records a topic's new batches may take.
//!
//! The estimate depends on how well the topic's records compress and on the sizes that its brokers
//! accept. Callers read it when they open a batch. Threads that close a batch update the
//! compression ratio. The sender's `BatchSizeDiscovery` sets the limit and the probe.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use ottla_protocol::record::BATCH_HEADER_LEN;

/// The size estimate of one topic.
///
/// All accesses are relaxed: each value is a hint of its own, and a stale one only makes a batch
/// too small or too large.
#[derive(Debug)]
pub(crate) struct BatchSizeEstimator {
    /// Compressed bytes per byte of records, as the bits of an `f32` (Kafka's
    /// `CompressionRatioEstimator`, CASES B2).
    ratio: AtomicU32,
    /// The largest wire size of a new batch, below every size that a broker has rejected.
    limit: AtomicUsize,
    /// The wire size of the next batch, which tests whether the broker accepts more than `limit`;
    /// 0 for none.
    probe: AtomicUsize,
    /// The record count of the batch that was closed last.
    expected_records: AtomicU32,
}

impl Default for BatchSizeEstimator {
    fn default() -> BatchSizeEstimator {
        BatchSizeEstimator {
            ratio: AtomicU32::new(1f32.to_bits()),
            limit: AtomicUsize::new(usize::MAX),
            probe: AtomicUsize::new(0),
            expected_records: AtomicU32::new(16),
        }
    }
}

/// The smallest increase of the ratio estimate, as in Kafka.
const COMPRESSION_RATIO_DETERIORATE_STEP: f32 = 0.05;
/// The largest decrease of the ratio estimate, as in Kafka.
const COMPRESSION_RATIO_IMPROVING_STEP: f32 = 0.005;
/// By how much a batch may compress worse than estimated and still fit, as in Kafka.
const COMPRESSION_RATE_ESTIMATION_FACTOR: f32 = 1.05;
/// Limits the uncompressed records of a batch to this multiple of `batch.size`.
const MAX_EXPANSION: usize = 64;

impl BatchSizeEstimator {
    /// Returns how many bytes of uncompressed records a new batch takes before it is full. Takes
    /// the probe, if there is one.
    pub(crate) fn uncompressed_limit(&self, batch_size: usize, compressed: bool) -> usize {
        // Mostly there is no probe, and a load does not write to the shared cache line.
        let probe = match self.probe.load(Relaxed) {
            0 => 0,
            _ => self.probe.swap(0, Relaxed),
        };
        let limit = if probe == 0 { self.limit.load(Relaxed) } else { probe };
        let max_bytes = batch_size.min(limit).saturating_sub(BATCH_HEADER_LEN);
        if !compressed {
            return max_bytes;
        }
        let estimated =
            max_bytes as f64 / f64::from(self.ratio() * COMPRESSION_RATE_ESTIMATION_FACTOR);
        (estimated as usize).min(batch_size.saturating_mul(MAX_EXPANSION))
    }

    pub(crate) fn ratio(&self) -> f32 {
        f32::from_bits(self.ratio.load(Relaxed))
    }

    /// Adds the sizes of a compressed batch to the ratio. A ratio that is too low costs a split,
    /// so it rises at once and falls slowly.
    pub(crate) fn update_ratio(&self, uncompressed_len: usize, compressed_len: usize) {
        if uncompressed_len == 0 {
            return;
        }
        let (observed, current) = (compressed_len as f32 / uncompressed_len as f32, self.ratio());
        let next = if observed > current {
            observed.max(current + COMPRESSION_RATIO_DETERIORATE_STEP)
        } else {
            observed.max(current - COMPRESSION_RATIO_IMPROVING_STEP)
        };
        self.ratio.store(next.to_bits(), Relaxed);
    }

    /// Resets the ratio to 1 or to the batch's ratio, whichever is larger: the batch exceeded its
    /// limit.
    pub(crate) fn reset_ratio(&self, uncompressed_len: usize, compressed_len: usize) {
        let observed = if uncompressed_len == 0 {
            1.0
        } else {
            compressed_len as f32 / uncompressed_len as f32
        };
        self.ratio.store(observed.max(1.0).to_bits(), Relaxed);
    }

    /// Sets the wire size limit of new batches; `usize::MAX` for none.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Returns whether new batches have a limit: a broker has rejected a batch of this topic.
    pub(crate) fn has_limit(&self) -> bool {
        self.limit() != usize::MAX
    }

    /// Returns the wire size limit of new batches; `usize::MAX` for none.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Sets the wire size limit of the next batch alone; 0 for none.
    pub(crate) fn set_probe(&self, wire_len: usize) {
        self.probe.store(wire_len, Relaxed);
    }

    /// Returns whether no batch has taken the probe yet.
    pub(crate) fn is_probe_pending(&self) -> bool {
        self.probe.load(Relaxed) != 0
    }

    /// Returns the record count to expect of the next batch.
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

    // CASES: B2.
    #[test]
    fn compression_ratio_rises_at_once_and_falls_slowly() {
        let estimator = BatchSizeEstimator::default();
        assert_eq!(estimator.uncompressed_limit(16384, false), 16384 - 61);
        estimator.update_ratio(1000, 300);
        assert!((estimator.ratio() - 0.995).abs() < 1e-6);
        for _ in 0..200 {
            estimator.update_ratio(1000, 300);
        }
        assert!((estimator.ratio() - 0.3).abs() < 1e-6, "{}", estimator.ratio());
        let limit = estimator.uncompressed_limit(16384, true);
        assert!((51_000..52_000).contains(&limit), "{limit}");
        estimator.update_ratio(1000, 310);
        assert!((estimator.ratio() - 0.35).abs() < 1e-6, "rises by at least one step");
        estimator.update_ratio(1000, 900);
        assert!((estimator.ratio() - 0.9).abs() < 1e-6, "rises to the observed ratio");
        estimator.reset_ratio(1000, 700);
        assert!((estimator.ratio() - 1.0).abs() < 1e-6, "a split resets it to 1");
        estimator.reset_ratio(1000, 1100);
        assert!((estimator.ratio() - 1.1).abs() < 1e-6);
    }

    #[test]
    fn one_batch_takes_the_probe() {
        let estimator = BatchSizeEstimator::default();
        assert!(!estimator.has_limit());
        estimator.set_limit(1000);
        assert!(estimator.has_limit());
        estimator.set_probe(2000);
        assert_eq!(estimator.uncompressed_limit(16384, false), 2000 - 61);
        assert_eq!(estimator.uncompressed_limit(16384, false), 1000 - 61);
    }

    #[test]
    fn uncompressed_records_are_limited_at_any_ratio() {
        let estimator = BatchSizeEstimator::default();
        for _ in 0..1000 {
            estimator.update_ratio(1_000_000, 1);
        }
        assert_eq!(estimator.uncompressed_limit(100, true), 6400);
    }
}
