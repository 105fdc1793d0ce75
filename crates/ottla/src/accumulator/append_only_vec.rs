//! A list that grows at its end and is read without a lock: what every append looks its partition up in.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Pieces a list has at most. Each is at least as long as all before it, so this is never reached.
const MAX_CHUNKS: usize = 48;

/// The list. One thread grows it; any read it.
#[derive(Debug)]
pub(crate) struct Shelf<T> {
    /// Items that are shown; there may be more.
    len: AtomicUsize,
    chunks: [OnceLock<Box<[T]>>; MAX_CHUNKS],
}

impl<T> Default for Shelf<T> {
    fn default() -> Shelf<T> {
        Shelf { len: AtomicUsize::new(0), chunks: [const { OnceLock::new() }; MAX_CHUNKS] }
    }
}

impl<T> Shelf<T> {
    /// Items shown.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// An item that is shown.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        if index >= self.len() {
            return None;
        }
        let mut at = index;
        for piece in &self.chunks {
            let piece = piece.get()?;
            if let Some(item) = piece.get(at) {
                return Some(item);
            }
            at -= piece.len();
        }
        None
    }

    /// Items shown, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.iter_all().take(self.len())
    }

    /// All items, shown or not.
    pub(crate) fn iter_all(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().map_while(OnceLock::get).flat_map(|p| p.iter())
    }

    /// Shows so many, making what is missing. Only what was never there is made: an item that is shown again is
    /// the same.
    pub(crate) fn set_len(&self, count: usize, make: impl FnMut(usize) -> T) {
        let there = self.iter_all().count();
        if there < count {
            // At least doubled, unless it is the first: so the pieces suffice.
            let to = if there == 0 { count } else { count.max(there * 2) };
            let piece: Box<[T]> = (there..to).map(make).collect();
            let free = self.chunks.iter().find(|p| p.get().is_none());
            if free.is_none_or(|free| free.set(piece).is_err()) {
                return;
            }
        }
        self.len.store(count, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_made_once_whatever_is_shown() {
        let shelf = Shelf::default();
        let mut made = Vec::new();
        for count in [3, 5, 2, 4, 40, 0, 41] {
            shelf.set_len(count, |i| {
                made.push(i);
                i
            });
            assert_eq!(shelf.len(), count);
            assert_eq!(shelf.iter().copied().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            assert_eq!(shelf.get(count), None);
            assert!((0..count).all(|i| shelf.get(i) == Some(&i)));
        }
        assert_eq!(made, (0..made.len()).collect::<Vec<_>>(), "each once, in order");
        for n in 1..1000 {
            shelf.set_len(n * 7, |i| i);
            assert_eq!(shelf.len(), n * 7);
        }
    }
}
