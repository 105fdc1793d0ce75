//! The size of a batch's first buffer: `batch.size`, or less if many partitions share
//! `buffer.memory`.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The size of the first buffer of a batch.
///
/// A buffer of `batch.size` for each active partition may need more than `buffer.memory`. Callers
/// then wait for memory, and so the sender sends batches of a few records. Therefore the active
/// partitions share one half of the memory for their first buffers. The other half is for batches
/// that grow or are in flight. (KIP-1332 has the same aim in Java's producer.)
#[derive(Debug)]
pub(crate) struct FirstBufferSize {
    batch_size: usize,
    total_memory: u64,
    /// The sender stores it, and callers load it: a hint.
    size: AtomicUsize,
}

/// The smallest first buffer, in bytes, unless `batch.size` is smaller: each buffer costs an
/// allocation.
const MIN_BUFFER_SIZE: usize = 512;

impl FirstBufferSize {
    pub(super) fn new(batch_size: usize, total_memory: u64) -> FirstBufferSize {
        FirstBufferSize { batch_size, total_memory, size: AtomicUsize::new(batch_size) }
    }

    pub(crate) fn get(&self) -> usize {
        self.size.load(Relaxed)
    }

    /// Shares the memory among this many partitions.
    ///
    /// The size is `batch.size` divided by a power of two. A batch doubles its memory when it
    /// grows, so it ends at `batch.size`, and the allocator sees few sizes.
    pub(crate) fn share_among(&self, partitions: usize) {
        let share = self.total_memory / 2 / partitions.max(1) as u64;
        let mut size = self.batch_size;
        while size as u64 > share && size / 2 >= MIN_BUFFER_SIZE {
            size /= 2;
        }
        // A load does not take the cache line from the callers.
        if size != self.get() {
            self.size.store(size, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_partitions_share_half_of_the_memory() {
        let size = FirstBufferSize::new(16_384, 32 << 20);
        for (partitions, expected) in [
            (0, 16_384),
            (1, 16_384),
            (1024, 16_384),
            (1025, 8192),
            (2048, 8192),
            (10_000, 1024),
            (1 << 30, 512),
        ] {
            size.share_among(partitions);
            assert_eq!(size.get(), expected, "{partitions} partitions");
        }
    }

    #[test]
    fn first_buffer_of_small_batches_is_a_batch() {
        for batch_size in [0, 100, 1000] {
            let size = FirstBufferSize::new(batch_size, 1 << 20);
            for partitions in [0, 1, usize::MAX] {
                size.share_among(partitions);
                assert_eq!(size.get(), batch_size, "{partitions} partitions");
            }
        }
    }
}
