//! Topics as callers see them: their partitions, found by name without a lock, and the place where
//! callers wait for a topic that is not known yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::Waker;

use arc_swap::ArcSwap;

use super::append_only_vec::Shelf;
use super::batch_size_estimator::BatchSizeEstimator;
use super::builtin_partitioner::{PartitionLoadStats, Rack, StickyPartitionInfo};
use super::partition::Partition;
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::error::Error;
use crate::sync::{Mutex, wake_all};

/// A topic whose partitions are known.
#[derive(Debug)]
pub(crate) struct TopicInfo {
    pub(crate) name: Arc<str>,
    /// Those the topic has lost by being re-created with fewer are kept and not shown: should they come back,
    /// their order goes on.
    pub(crate) partitions: Shelf<Arc<Partition>>,
    pub(crate) sticky_partition: StickyPartitionInfo,
    /// What the sticky choice is drawn from; the sender keeps it.
    pub(crate) load_stats: ArcSwap<PartitionLoadStats>,
    pub(crate) estimator: Arc<BatchSizeEstimator>,
}

impl TopicInfo {
    /// Whether it has this partition; a negative number is nobody's, and not worth waiting for.
    pub(crate) fn has_partition(&self, partition: i32) -> bool {
        partition < 0 || (partition as usize) < self.partitions.len()
    }

    /// Draws by what waits, from here on.
    pub(crate) fn update_load_stats(&self, available: impl Fn(&Partition) -> bool) {
        let old = self.load_stats.load();
        let new = old.with_queue_sizes(&self.partitions, available);
        if !(old.is_uniform() && new.is_uniform()) {
            self.load_stats.store(Arc::new(new));
        }
    }
}

pub(crate) type TopicsByName = HashMap<Arc<str>, Arc<TopicInfo>>;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct TopicInfoMap {
    map: ArcSwap<TopicsByName>,
    waiters: Mutex<HashMap<Arc<str>, TopicWaiters>>,
    next_key: AtomicU32,
}

/// A topic somebody waits for.
#[derive(Debug, Default)]
struct TopicWaiters {
    wakers: Vec<Waker>,
    /// The last thing metadata said of it, and how often it said something.
    last_error: Option<Error>,
    error_count: u64,
}

impl TopicInfoMap {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<TopicInfo>> {
        self.map.load().get(name).cloned()
    }

    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<TopicsByName>> {
        self.map.load()
    }

    /// Wakes this waker at the next news of `name`; the round of news, and the last.
    pub(crate) fn register(&self, name: &Arc<str>, waker: &Waker) -> (u64, Option<Error>) {
        let waker = waker.clone();
        let mut waiting = self.waiters.lock();
        let wanted = waiting.entry(name.clone()).or_default();
        wanted.wakers.push(waker);
        (wanted.error_count, wanted.last_error.clone())
    }

    /// News that is an error: kept for those who wait, who are woken to judge it.
    pub(crate) fn notify_error(&self, name: &str, error: &Error) {
        let wakers = match self.waiters.lock().get_mut(name) {
            Some(wanted) => {
                wanted.last_error = Some(error.clone());
                wanted.error_count += 1;
                std::mem::take(&mut wanted.wakers)
            }
            None => return,
        };
        wake_all(wakers);
    }

    /// News that concerns everyone who waits (nothing can be reached, the producer closes).
    pub(crate) fn notify_error_all(&self, error: &Error) {
        let mut wakers = Vec::new();
        for wanted in self.waiters.lock().values_mut() {
            wanted.last_error = Some(error.clone());
            wanted.error_count += 1;
            wakers.append(&mut wanted.wakers);
        }
        wake_all(wakers);
    }

    /// Turns a snapshot into what callers see: new topics, more partitions, leaders.
    pub(crate) fn publish(&self, cluster: &Cluster, rack: &Rack) {
        let old = self.map.load_full();
        let mut new: Option<TopicsByName> = None;
        for (name, info) in &cluster.topics {
            if info.leaders.is_empty() {
                continue;
            }
            let topic = match old.get(name) {
                Some(topic) => topic.clone(),
                None => {
                    let name = name.clone();
                    let (partitions, sticky, table, sizing) = Default::default();
                    let topic = TopicInfo {
                        name: name.clone(),
                        partitions,
                        sticky_partition: sticky,
                        load_stats: table,
                        estimator: sizing,
                    };
                    let topic = Arc::new(topic);
                    new.get_or_insert_with(|| (*old).clone()).insert(name, topic.clone());
                    topic
                }
            };
            self.resize(&topic, info.leaders.len());
            for (p, leader) in topic.partitions.iter().zip(&info.leaders) {
                p.leader.store(leader.node_id, Relaxed);
            }
            let table = PartitionLoadStats::uniform(&topic.partitions, rack, cluster);
            topic.load_stats.store(Arc::new(table));
        }
        if let Some(new) = new {
            self.map.store(Arc::new(new));
        }
        let mut wakers = Vec::new();
        self.waiters.lock().retain(|name, wanted| {
            let known = cluster.topics.contains_key(name);
            if known {
                wakers.append(&mut wanted.wakers);
            }
            !known
        });
        wake_all(wakers);
    }

    /// Shows as many partitions as the topic has.
    fn resize(&self, topic: &TopicInfo, to: usize) {
        if topic.partitions.len() == to {
            return;
        }
        topic.partitions.set_len(to, |index| {
            let key = self.next_key.fetch_add(1, Relaxed);
            let (name, sizing) = (topic.name.clone(), topic.estimator.clone());
            Arc::new(Partition::new(name, index as i32, key, sizing))
        });
    }

    /// Every partition of every topic, for the rare moment in which one is on its way to announce itself.
    pub(crate) fn all_partitions(&self) -> Vec<Arc<Partition>> {
        let map = self.map.load();
        map.values().flat_map(|t| t.partitions.iter_all().cloned()).collect()
    }
}
