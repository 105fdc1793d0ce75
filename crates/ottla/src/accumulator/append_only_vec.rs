//! A vector that grows at its end and is read without a lock.
//!
//! It holds the partitions of a topic. Every append looks its partition up here, and the sender
//! changes the length when metadata reports a new partition count.
//!
//! The crate `boxcar` does not fit: the length of its vector cannot shrink. A topic that is
//! re-created with fewer partitions needs a smaller length. Its other items stay, and are visible
//! again when the length grows back.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Limits the number of chunks. Each new chunk at least doubles the vector, so the limit is never
/// reached.
const MAX_CHUNKS: usize = 48;

/// The vector. One thread changes its length; any thread reads it.
#[derive(Debug)]
pub(crate) struct AppendOnlyVec<T> {
    /// The number of visible items. The chunks may hold more.
    len: AtomicUsize,
    chunks: [OnceLock<Box<[T]>>; MAX_CHUNKS],
}

impl<T> Default for AppendOnlyVec<T> {
    fn default() -> AppendOnlyVec<T> {
        AppendOnlyVec { len: AtomicUsize::new(0), chunks: [const { OnceLock::new() }; MAX_CHUNKS] }
    }
}

impl<T> AppendOnlyVec<T> {
    /// Returns the number of visible items.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Returns a visible item.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        if index >= self.len() {
            return None;
        }
        // Mostly one chunk: a topic's partitions are created together.
        let mut i = index;
        for chunk in &self.chunks {
            let chunk = chunk.get()?;
            if let Some(item) = chunk.get(i) {
                return Some(item);
            }
            i -= chunk.len();
        }
        None
    }

    /// Returns the visible items in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.iter_all().take(self.len())
    }

    /// Returns all items in order, also those that are not visible.
    pub(crate) fn iter_all(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().map_while(OnceLock::get).flat_map(|chunk| chunk.iter())
    }

    /// Sets the number of visible items, and makes with `make` the items that do not exist yet.
    ///
    /// An item that was visible before is not made again.
    pub(crate) fn set_len(&self, len: usize, make: impl FnMut(usize) -> T) {
        let existing = self.iter_all().count();
        if existing < len {
            let end = if existing == 0 { len } else { len.max(existing * 2) };
            let chunk: Box<[T]> = (existing..end).map(make).collect();
            let unused = self.chunks.iter().find(|c| c.get().is_none());
            if unused.is_none_or(|unused| unused.set(chunk).is_err()) {
                return;
            }
        }
        // Release: a reader that sees this length also sees the chunk.
        self.len.store(len, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_made_once_at_any_sequence_of_lengths() {
        let vec = AppendOnlyVec::default();
        let mut made = Vec::new();
        for len in [3, 5, 2, 4, 40, 0, 41] {
            vec.set_len(len, |i| {
                made.push(i);
                i
            });
            assert_eq!(vec.len(), len);
            assert_eq!(vec.iter().copied().collect::<Vec<_>>(), (0..len).collect::<Vec<_>>());
            assert_eq!(vec.get(len), None);
            assert!((0..len).all(|i| vec.get(i) == Some(&i)));
        }
        assert_eq!(made, (0..made.len()).collect::<Vec<_>>(), "each once, in order");
        for n in 1..1000 {
            vec.set_len(n * 7, |i| i);
            assert_eq!(vec.len(), n * 7);
        }
    }
}
