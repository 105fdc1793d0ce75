//! Two structures the sender files partitions in, neither of which allocates in steady state: deadlines, and sets
//! of partition keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::collections::HashMap;
use crate::time::Tick;

/// When partitions are to be looked at: at most one mark each, never later than it is due. One that comes too
/// early, since what it was for is gone, costs a look.
#[derive(Debug, Default)]
pub(super) struct DeadlineQueue {
    heap: BinaryHeap<Reverse<(Tick, u32)>>,
    /// Each partition's mark.
    deadlines: HashMap<u32, Tick>,
}

impl DeadlineQueue {
    /// The partition is due then.
    pub(super) fn schedule(&mut self, key: u32, due: Tick) {
        if self.deadlines.get(&key).is_none_or(|at| due < *at) {
            self.deadlines.insert(key, due);
            self.heap.push(Reverse((due, key)));
        }
    }

    /// When the next mark is; never if there is none.
    pub(super) fn next_deadline(&self) -> Tick {
        self.heap.peek().map_or(Tick::NEVER, |Reverse((at, _))| *at)
    }

    /// Takes a mark whose time has come.
    pub(super) fn pop_due(&mut self, now: Tick) -> Option<u32> {
        while self.next_deadline() <= now {
            let Reverse((at, key)) = self.heap.pop()?;
            // An earlier mark took its place.
            if self.deadlines.get(&key) == Some(&at) {
                self.deadlines.remove(&key);
                return Some(key);
            }
        }
        None
    }
}

/// A set of small numbers, in order: a bit each, and a bit for each word that has one.
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

    /// How many there are.
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

    /// The smallest member that is not below `from`.
    pub(super) fn next_set_bit(&self, from: u32) -> Option<u32> {
        let (word, bit) = (from as usize / 64, from % 64);
        let here = self.words.get(word)? & (u64::MAX << bit);
        if here != 0 {
            return Some(word as u32 * 64 + here.trailing_zeros());
        }
        let word = self.next_nonzero_word(word + 1)?;
        Some(word as u32 * 64 + self.words[word].trailing_zeros())
    }

    /// The first word from this one on that has a bit.
    fn next_nonzero_word(&self, from: usize) -> Option<usize> {
        let mut at = from / 64;
        let mut summary = self.summary.get(at)? & (u64::MAX << (from % 64));
        while summary == 0 {
            at += 1;
            summary = *self.summary.get(at)?;
        }
        Some(at * 64 + summary.trailing_zeros() as usize)
    }

    /// All members.
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
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_are_a_set_in_order(ops in proptest::collection::vec((any::<bool>(), 0u32..20_000), 1..300)) {
            let (mut bits, mut set) = (BitSet::default(), std::collections::BTreeSet::new());
            for (insert, n) in ops {
                if insert {
                    bits.insert(n);
                    set.insert(n);
                } else {
                    bits.remove(n);
                    set.remove(&n);
                }
                prop_assert_eq!(bits.is_empty(), set.is_empty());
                prop_assert_eq!(bits.next_set_bit(n), set.range(n..).next().copied());
            }
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), set.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_mark_comes_no_later_than_what_it_is_for_and_once() {
        let mut marks = DeadlineQueue::default();
        marks.schedule(1, Tick(50));
        marks.schedule(1, Tick(70));
        marks.schedule(2, Tick(60));
        marks.schedule(1, Tick(40));
        assert_eq!((marks.next_deadline(), marks.pop_due(Tick(39))), (Tick(40), None));
        assert_eq!(marks.pop_due(Tick(45)), Some(1));
        assert_eq!(marks.pop_due(Tick(55)), None, "the later mark of the first is void");
        assert_eq!(marks.pop_due(Tick(60)), Some(2));
        assert_eq!((marks.pop_due(Tick(1000)), marks.next_deadline()), (None, Tick::NEVER));
    }
}
