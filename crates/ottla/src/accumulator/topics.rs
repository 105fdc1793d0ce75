//! The topics as callers see them: their partitions, and the callers that wait for metadata.
//!
//! Callers find a topic by its name without a lock. The sender publishes each metadata update
//! here, and wakes the callers that wait for a topic that is not known yet.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use super::append_only_vec::AppendOnlyVec;
use super::batch_size_estimator::BatchSizeEstimator;
use super::builtin_partitioner::{PartitionLoadStats, Rack, StickyPartitionInfo};
use super::partition::Partition;
use super::topic_table::{TopicBuckets, TopicTable};
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::error::Error;
use crate::snapshot::AwaitedTopic;
use crate::sync::Mutex;
use crate::wakeup::waiters::DeadlineWaiter;

/// A topic whose partitions are known.
#[derive(Debug)]
pub(crate) struct TopicInfo {
    pub(crate) name: Arc<str>,
    /// Partitions that the topic lost when it was re-created stay here and are not visible. If
    /// they return, they continue with their queue and their sequences.
    pub(crate) partitions: AppendOnlyVec<Arc<Partition>>,
    pub(crate) sticky_partition: StickyPartitionInfo,
    /// From which the sticky partition is chosen. Only the sender replaces it.
    pub(crate) load_stats: ArcSwap<PartitionLoadStats>,
    pub(crate) estimator: Arc<BatchSizeEstimator>,
}

impl TopicInfo {
    pub(super) fn new(name: Arc<str>) -> TopicInfo {
        TopicInfo {
            name,
            partitions: AppendOnlyVec::default(),
            sticky_partition: StickyPartitionInfo::default(),
            load_stats: ArcSwap::default(),
            estimator: Arc::default(),
        }
    }

    /// Returns whether metadata has described the topic. Only a handle's topic can exist before.
    pub(crate) fn is_known(&self) -> bool {
        self.partitions.len() > 0
    }

    /// Returns whether a caller need not wait for this partition. A negative number is invalid in
    /// every topic, so waiting for it would not help.
    pub(crate) fn has_partition(&self, partition: i32) -> bool {
        partition < 0 || (partition as usize) < self.partitions.len()
    }

    /// Recomputes the load statistics from the queue sizes.
    pub(crate) fn update_load_stats(&self, is_available: impl Fn(&Partition) -> bool) {
        let old = self.load_stats.load();
        let new = old.with_queue_sizes(&self.partitions, is_available);
        if !(old.is_uniform() && new.is_uniform()) {
            self.load_stats.store(Arc::new(new));
        }
    }
}

/// All known topics, and the callers that wait for others.
#[derive(Debug, Default)]
pub(crate) struct TopicInfoMap {
    table: TopicTable,
    waiters: Mutex<AllTopicWaiters>,
    /// The topics of handles that were created before their metadata arrived.
    unknown: Mutex<HashMap<Arc<str>, Weak<TopicInfo>>>,
    /// Every partition of every topic, also those that are not visible, by id.
    partitions_by_id: Mutex<Vec<Arc<Partition>>>,
    /// The number of topics that all updates together have published.
    #[cfg(any(test, feature = "unstable-sim"))]
    published: std::sync::atomic::AtomicU64,
}

/// The callers that wait for topics.
#[derive(Debug, Default)]
struct AllTopicWaiters {
    by_topic: HashMap<Arc<str>, TopicWaiters>,
    /// The number of errors so far, for any topic. A caller compares it to recognize a new one.
    error_count: u64,
}

/// The callers that wait for one topic.
#[derive(Debug, Default)]
struct TopicWaiters {
    /// A caller that has stopped waiting has dropped its half of the waiter.
    waiters: Vec<Weak<DeadlineWaiter>>,
    /// The last error that a metadata update reported for the topic, with its number.
    last_error: Option<(u64, Error)>,
}

impl TopicWaiters {
    fn add(&mut self, waiter: &Arc<DeadlineWaiter>) {
        // Rarely, so that many callers cost linear time. The sender may hold the other half.
        if self.waiters.len().is_power_of_two() {
            let waiter = Arc::as_ptr(waiter);
            self.waiters.retain(|w| w.strong_count() > 1 && w.as_ptr() != waiter);
        }
        self.waiters.push(Arc::downgrade(waiter));
    }

    /// Returns the number of callers that still wait. A caller may have registered several times,
    /// and the sender holds the other half of each waiter that has a deadline.
    fn count(&self) -> usize {
        let mut waiting: Vec<*const DeadlineWaiter> =
            self.waiters.iter().filter(|w| w.strong_count() > 1).map(Weak::as_ptr).collect();
        waiting.sort_unstable();
        waiting.dedup();
        waiting.len()
    }

    /// Appends the waiting callers to `to_wake`. Returns whether there were any.
    fn take(&mut self, to_wake: &mut Vec<Arc<DeadlineWaiter>>) -> bool {
        let before = to_wake.len();
        to_wake.extend(self.waiters.drain(..).filter_map(|w| w.upgrade()));
        to_wake.len() > before
    }
}

impl TopicInfoMap {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<TopicInfo>> {
        self.table.load().get(name).cloned()
    }

    /// Returns the topic for a handle. It has no partitions while it is not known.
    pub(crate) fn get_or_create(&self, name: &str) -> Arc<TopicInfo> {
        if let Some(topic) = self.get(name) {
            return topic;
        }
        let mut unknown = self.unknown.lock();
        // Handles that were dropped before their topic was known. Rarely, so that many handles
        // cost linear time.
        if unknown.len().is_power_of_two() {
            unknown.retain(|_, topic| topic.strong_count() > 0);
        }
        // Again, under the lock: `publish` takes the topic from `unknown`, stores it in the table,
        // and then removes it. So every handle of a topic gets the one of the table in the end.
        if let Some(topic) = self.get(name) {
            return topic;
        }
        Self::unknown_topic(&mut unknown, name.into())
    }

    fn unknown_topic(
        unknown: &mut HashMap<Arc<str>, Weak<TopicInfo>>,
        name: Arc<str>,
    ) -> Arc<TopicInfo> {
        if let Some(topic) = unknown.get(&name).and_then(Weak::upgrade) {
            return topic;
        }
        let topic = Arc::new(TopicInfo::new(name.clone()));
        unknown.insert(name, Arc::downgrade(&topic));
        topic
    }

    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<TopicBuckets>> {
        self.table.load()
    }

    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn published(&self) -> u64 {
        self.published.load(Relaxed)
    }

    /// Registers a caller for the next metadata update. Returns the number of errors so far, and
    /// the topic's last error with its number.
    pub(crate) fn register(
        &self,
        name: &Arc<str>,
        waiter: &Arc<DeadlineWaiter>,
    ) -> (u64, Option<(u64, Error)>) {
        let mut waiters = self.waiters.lock();
        let error_count = waiters.error_count;
        let topic_waiters = waiters.by_topic.entry(name.clone()).or_default();
        topic_waiters.add(waiter);
        (error_count, topic_waiters.last_error.clone())
    }

    /// Stores an error for the callers that wait for a topic, and wakes them. Each of them decides
    /// whether to wait on.
    pub(crate) fn notify_error(&self, name: &str, error: &Error) {
        let mut to_wake = Vec::new();
        {
            let AllTopicWaiters { by_topic, error_count } = &mut *self.waiters.lock();
            let Some(topic_waiters) = by_topic.get_mut(name) else { return };
            *error_count += 1;
            topic_waiters.last_error = Some((*error_count, error.clone()));
            topic_waiters.take(&mut to_wake);
        }
        // Woken after the lock is released: a waker runs foreign code.
        to_wake.iter().for_each(|waiter| waiter.wake());
    }

    /// Stores an error for all waiting callers, and wakes them: no broker can be reached, or the
    /// producer closes.
    pub(crate) fn notify_error_all(&self, error: &Error) {
        let mut to_wake = Vec::new();
        {
            let AllTopicWaiters { by_topic, error_count } = &mut *self.waiters.lock();
            *error_count += 1;
            for topic_waiters in by_topic.values_mut() {
                topic_waiters.last_error = Some((*error_count, error.clone()));
                topic_waiters.take(&mut to_wake);
            }
        }
        to_wake.iter().for_each(|waiter| waiter.wake());
    }

    /// Publishes the changed topics of a metadata update: new ones, partition counts and leaders.
    /// Wakes the callers that wait for a topic.
    pub(crate) fn publish<'t>(
        &self,
        cluster: &Cluster,
        changed: impl Iterator<Item = &'t Arc<str>>,
        rack: &Rack,
    ) {
        for name in changed {
            let Some(metadata) = cluster.topics.get(name).filter(|m| !m.leaders.is_empty()) else {
                continue;
            };
            let known = self.get(name);
            let is_new = known.is_none();
            let topic = known
                .unwrap_or_else(|| Self::unknown_topic(&mut self.unknown.lock(), name.clone()));
            self.resize(&topic, metadata.leaders.len());
            for (p, leader) in topic.partitions.iter().zip(&metadata.leaders) {
                p.leader.store(leader.node_id, Relaxed);
            }
            let stats = PartitionLoadStats::uniform(&topic.partitions, rack, cluster);
            topic.load_stats.store(Arc::new(stats));
            if is_new {
                self.table.insert(topic);
                self.unknown.lock().remove(name);
            }
            #[cfg(any(test, feature = "unstable-sim"))]
            self.published.fetch_add(1, Relaxed);
        }
        self.wake_waiters(cluster);
    }

    /// Wakes all waiting callers. One whose topic is still unknown requests it again: the client
    /// may have forgotten the topic.
    fn wake_waiters(&self, cluster: &Cluster) {
        let mut to_wake = Vec::new();
        // An entry without a waiting caller goes, also if its topic never becomes known.
        self.waiters.lock().by_topic.retain(|name, topic_waiters| {
            let has_waiters = topic_waiters.take(&mut to_wake);
            has_waiters && !cluster.topics.contains_key(name)
        });
        to_wake.iter().for_each(|waiter| waiter.wake());
    }

    /// Makes as many partitions visible as the topic has.
    fn resize(&self, topic: &TopicInfo, partition_count: usize) {
        if topic.partitions.len() == partition_count {
            return;
        }
        topic.partitions.set_len(partition_count, |index| {
            let mut partitions = self.partitions_by_id.lock();
            let (name, estimator) = (topic.name.clone(), topic.estimator.clone());
            let id = partitions.len() as u32;
            let partition = Arc::new(Partition::new(name, index as i32, id, estimator));
            partitions.push(partition.clone());
            partition
        });
    }

    /// Returns the topics that callers wait for, by name.
    pub(crate) fn awaited(&self) -> Vec<AwaitedTopic> {
        let waiters = self.waiters.lock();
        let awaited = waiters.by_topic.iter().map(|(name, topic_waiters)| AwaitedTopic {
            topic: name.to_string(),
            waiting_callers: topic_waiters.count(),
            last_error: topic_waiters.last_error.as_ref().map(|(_, e)| e.to_string()),
        });
        let mut awaited: Vec<_> = awaited.filter(|topic| topic.waiting_callers > 0).collect();
        awaited.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
        awaited
    }

    /// Returns the partition that an event names.
    pub(crate) fn partition(&self, id: u32) -> Option<Arc<Partition>> {
        self.partitions_by_id.lock().get(id as usize).cloned()
    }

    /// Returns every partition of every topic, also those that are not visible.
    ///
    /// The sender needs them for a flush, a close or a purge while a caller has opened a batch and
    /// has not announced its partition yet.
    pub(crate) fn all_partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions_by_id.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Leader, TopicMetadata};

    impl TopicInfoMap {
        fn waiter_counts(&self) -> Vec<usize> {
            self.waiters.lock().by_topic.values().map(|w| w.waiters.len()).collect()
        }
    }

    #[test]
    fn callers_that_have_stopped_waiting_do_not_pile_up() {
        let topics = TopicInfoMap::default();
        let name: Arc<str> = "t".into();
        let waiting = DeadlineWaiter::new(Arc::default());
        for _ in 0..1000 {
            // A caller is polled several times, and one after the other gives up.
            let waiter = DeadlineWaiter::new(Arc::default());
            (0..3).for_each(|_| drop(topics.register(&name, &waiter)));
            topics.register(&name, &waiting);
        }
        let count = topics.waiter_counts()[0];
        assert!(count <= 4, "{count}");
    }

    #[test]
    fn topic_without_waiting_callers_is_forgotten_also_if_it_stays_unknown() {
        let (topics, mut cluster) = (TopicInfoMap::default(), Cluster::default());
        let waiter = DeadlineWaiter::new(Arc::default());
        topics.register(&"unknown".into(), &waiter);
        topics.register(&"known".into(), &waiter);
        topics.register(&"given-up".into(), &DeadlineWaiter::new(Arc::default()));
        let leaders = vec![Leader::NONE];
        cluster.topics.insert("known".into(), TopicMetadata { id: Default::default(), leaders });
        topics.publish(&cluster, cluster.topics.keys(), &None);
        assert_eq!(topics.waiter_counts(), [0], "the caller of the unknown topic was woken");
        topics.publish(&cluster, cluster.topics.keys(), &None);
        assert!(topics.waiter_counts().is_empty());
    }
}
