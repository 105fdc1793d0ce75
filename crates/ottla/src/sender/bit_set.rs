//! A set of partition ids in ascending order, which does not allocate in steady state.
//!
//! The ready tracker keeps one set for each node. A drain searches it from the id where the last
//! drain ended.

/// A set of small numbers: one bit for each number, and a summary bit for each nonzero word.
#[derive(Debug, Default)]
pub(super) struct BitSet {
    words: Vec<u64>,
    summary: Vec<u64>,
    len: usize,
}

impl BitSet {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, n: u32) {
        let (word, bit) = (n as usize / 64, n % 64);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
            self.summary.resize(word / 64 + 1, 0);
        }
        self.len += usize::from(self.words[word] & (1 << bit) == 0);
        self.words[word] |= 1 << bit;
        self.summary[word / 64] |= 1 << (word % 64);
    }

    pub(super) fn remove(&mut self, n: u32) {
        let (word, bit) = (n as usize / 64, n % 64);
        let Some(w) = self.words.get_mut(word) else { return };
        self.len -= usize::from(*w & (1 << bit) != 0);
        *w &= !(1 << bit);
        if *w == 0 {
            self.summary[word / 64] &= !(1 << (word % 64));
        }
    }

    /// Returns the smallest member that is not below `from`.
    pub(super) fn next_set_bit(&self, from: u32) -> Option<u32> {
        let (word, bit) = (from as usize / 64, from % 64);
        let rest = self.words.get(word)? & (u64::MAX << bit);
        if rest != 0 {
            return Some(word as u32 * 64 + rest.trailing_zeros());
        }
        let word = self.next_nonzero_word(word + 1)?;
        Some(word as u32 * 64 + self.words[word].trailing_zeros())
    }

    /// Returns the index of the first nonzero word that is not below `from`.
    fn next_nonzero_word(&self, from: usize) -> Option<usize> {
        let mut i = from / 64;
        let mut summary = self.summary.get(i)? & (u64::MAX << (from % 64));
        while summary == 0 {
            i += 1;
            summary = *self.summary.get(i)?;
        }
        Some(i * 64 + summary.trailing_zeros() as usize)
    }

    /// Returns all members in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let mut next = self.next_set_bit(0);
        std::iter::from_fn(move || {
            let n = next?;
            next = self.next_set_bit(n + 1);
            Some(n)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bit_set_equals_an_ordered_set(ops in vec((any::<bool>(), 0u32..20_000), 1..300)) {
            let (mut bits, mut model) = (BitSet::default(), BTreeSet::new());
            for (insert, n) in ops {
                if insert {
                    bits.insert(n);
                    model.insert(n);
                } else {
                    bits.remove(n);
                    model.remove(&n);
                }
                prop_assert_eq!(bits.is_empty(), model.is_empty());
                prop_assert_eq!(bits.next_set_bit(n), model.range(n..).next().copied());
            }
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        }
    }
}
