//! The topics by name, which callers read without a lock.
//!
//! [`TopicInfoMap`](super::topics::TopicInfoMap) adds topics on the sender's thread. Topics are
//! never removed.

use std::hash::BuildHasher;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use foldhash::fast::FixedState;

use super::topics::TopicInfo;

/// The number of buckets of the first table.
const MIN_BUCKETS: usize = 16;

/// A hash table that grows. A new topic changes one bucket. A full table moves to one of twice the
/// size, so the total cost is linear.
#[derive(Debug)]
pub(crate) struct TopicTable {
    buckets: ArcSwap<TopicBuckets>,
}

impl Default for TopicTable {
    fn default() -> TopicTable {
        TopicTable { buckets: ArcSwap::from_pointee(TopicBuckets::with_count(MIN_BUCKETS)) }
    }
}

impl TopicTable {
    /// Returns the topics. A topic that is added later may be missing there.
    #[inline]
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<TopicBuckets>> {
        self.buckets.load()
    }

    /// Adds a topic that the table lacks. Only one thread may call this at a time.
    pub(crate) fn insert(&self, topic: Arc<TopicInfo>) {
        let buckets = self.load();
        if buckets.insert(topic.clone()) {
            return;
        }
        let larger = TopicBuckets::with_count(2 * buckets.buckets.len());
        for topic in buckets.iter().cloned().chain([topic]) {
            let is_inserted = larger.insert(topic);
            debug_assert!(is_inserted, "about a quarter of the buckets is taken");
        }
        self.buckets.store(Arc::new(larger));
    }
}

/// The buckets of a table: open addressing with linear probing.
#[derive(Debug)]
pub(crate) struct TopicBuckets {
    /// A power of two. At most half of them are taken, so that a probe ends soon.
    buckets: Box<[OnceLock<Arc<TopicInfo>>]>,
    taken: AtomicUsize,
}

impl TopicBuckets {
    fn with_count(count: usize) -> TopicBuckets {
        let buckets = std::iter::repeat_with(OnceLock::new).take(count).collect();
        TopicBuckets { buckets, taken: AtomicUsize::new(0) }
    }

    /// Returns a topic by its name.
    #[inline]
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<TopicInfo>> {
        let mut index = self.first_index(name);
        loop {
            // Half of the buckets are empty, so this ends.
            let topic = self.buckets.get(index)?.get()?;
            if *topic.name == *name {
                return Some(topic);
            }
            index = (index + 1) & (self.buckets.len() - 1);
        }
    }

    fn first_index(&self, name: &str) -> usize {
        FixedState::default().hash_one(name) as usize & (self.buckets.len() - 1)
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<TopicInfo>> {
        self.buckets.iter().filter_map(OnceLock::get)
    }

    /// Takes the first empty bucket for a topic. Returns false if half of the buckets are taken.
    fn insert(&self, mut topic: Arc<TopicInfo>) -> bool {
        let taken = self.taken.load(Relaxed);
        if 2 * taken >= self.buckets.len() {
            return false;
        }
        let mut index = self.first_index(&topic.name);
        while let Err(rejected) = self.buckets[index].set(topic) {
            topic = rejected;
            index = (index + 1) & (self.buckets.len() - 1);
        }
        self.taken.store(taken + 1, Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::{Acquire, Release};

    use super::*;

    fn topic(name: &str) -> Arc<TopicInfo> {
        Arc::new(TopicInfo::new(name.into()))
    }

    #[test]
    fn each_topic_is_found_while_the_table_grows() {
        let table = TopicTable::default();
        assert!(table.load().get("topic-0").is_none());
        let topics: Vec<_> = (0..5000).map(|n| topic(&format!("topic-{n}"))).collect();
        for (n, topic) in topics.iter().enumerate() {
            table.insert(topic.clone());
            let buckets = table.load();
            assert!(Arc::ptr_eq(buckets.get(&topic.name).unwrap(), topic));
            assert!(buckets.get(&format!("topic-{}", n + 1)).is_none(), "{n}");
        }
        let buckets = table.load();
        assert!(topics.iter().all(|t| Arc::ptr_eq(buckets.get(&t.name).unwrap(), t)));
        assert_eq!((buckets.iter().count(), buckets.buckets.len()), (5000, 16_384));
    }

    #[test]
    fn reader_keeps_its_topics_while_the_table_grows() {
        let table = TopicTable::default();
        table.insert(topic("first"));
        let buckets = table.load();
        (0..100).for_each(|n| table.insert(topic(&n.to_string())));
        assert!(buckets.get("first").is_some() && buckets.get("99").is_none());
        assert!(table.load().get("99").is_some());
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn other_threads_find_each_topic_that_was_added_while_the_table_grows() {
        const TOPICS: usize = 3000;
        let (table, added) = (TopicTable::default(), AtomicUsize::new(0));
        let check_added = || {
            let added = added.load(Acquire);
            let buckets = table.load();
            assert!((0..added).rev().take(50).all(|n| buckets.get(&n.to_string()).is_some()));
            assert!(buckets.get("-1").is_none());
            added
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| while check_added() < TOPICS {});
            }
            for n in 0..TOPICS {
                table.insert(topic(&n.to_string()));
                added.store(n + 1, Release);
            }
        });
    }
}
