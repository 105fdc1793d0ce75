//! Topics as callers see them: their partitions, found by name without a lock, and the place where
//! callers wait for a topic that is not known yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::Waker;

use arc_swap::ArcSwap;

use super::partition::Partition;
use super::partitioner::{Rack, Sticky, Table};
use super::shelf::Shelf;
use super::sizing::Sizing;
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::error::Error;
use crate::sync::{Mutex, wake_all};

/// A topic whose partitions are known.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    /// Those the topic has lost by being re-created with fewer are kept and not shown: should they come back,
    /// their order goes on.
    pub(crate) partitions: Shelf<Arc<Partition>>,
    pub(crate) sticky: Sticky,
    /// What the sticky choice is drawn from; the sender keeps it.
    pub(crate) table: ArcSwap<Table>,
    pub(crate) sizing: Arc<Sizing>,
}

impl Topic {
    /// Whether it has this partition; a negative number is nobody's, and not worth waiting for.
    pub(crate) fn has(&self, partition: i32) -> bool {
        partition < 0 || (partition as usize) < self.partitions.len()
    }

    /// Draws by what waits, from here on.
    pub(crate) fn weigh(&self, available: impl Fn(&Partition) -> bool) {
        let old = self.table.load();
        let new = old.weighed(&self.partitions, available);
        if !(old.is_uniform() && new.is_uniform()) {
            self.table.store(Arc::new(new));
        }
    }
}

pub(crate) type Map = HashMap<Arc<str>, Arc<Topic>>;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    map: ArcSwap<Map>,
    waiting: Mutex<HashMap<Arc<str>, Wanted>>,
    next_key: AtomicU32,
}

/// A topic somebody waits for.
#[derive(Debug, Default)]
struct Wanted {
    wakers: Vec<Waker>,
    /// The last thing metadata said of it, and how often it said something.
    last: Option<Error>,
    round: u64,
}

impl Topics {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.map.load().get(name).cloned()
    }

    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Map>> {
        self.map.load()
    }

    /// Wakes this waker at the next news of `name`; the round of news, and the last.
    pub(crate) fn listen(&self, name: &Arc<str>, waker: &Waker) -> (u64, Option<Error>) {
        let waker = waker.clone();
        let mut waiting = self.waiting.lock();
        let wanted = waiting.entry(name.clone()).or_default();
        wanted.wakers.push(waker);
        (wanted.round, wanted.last.clone())
    }

    /// News that is an error: kept for those who wait, who are woken to judge it.
    pub(crate) fn report(&self, name: &str, error: &Error) {
        let wakers = match self.waiting.lock().get_mut(name) {
            Some(wanted) => {
                wanted.last = Some(error.clone());
                wanted.round += 1;
                std::mem::take(&mut wanted.wakers)
            }
            None => return,
        };
        wake_all(wakers);
    }

    /// News that concerns everyone who waits (nothing can be reached, the producer closes).
    pub(crate) fn report_all(&self, error: &Error) {
        let mut wakers = Vec::new();
        for wanted in self.waiting.lock().values_mut() {
            wanted.last = Some(error.clone());
            wanted.round += 1;
            wakers.append(&mut wanted.wakers);
        }
        wake_all(wakers);
    }

    /// Turns a snapshot into what callers see: new topics, more partitions, leaders.
    pub(crate) fn publish(&self, cluster: &Cluster, rack: &Rack) {
        let old = self.map.load_full();
        let mut new: Option<Map> = None;
        for (name, info) in &cluster.topics {
            if info.leaders.is_empty() {
                continue;
            }
            let topic = match old.get(name) {
                Some(topic) => topic.clone(),
                None => {
                    let name = name.clone();
                    let (partitions, sticky, table, sizing) = Default::default();
                    let topic = Topic { name: name.clone(), partitions, sticky, table, sizing };
                    let topic = Arc::new(topic);
                    new.get_or_insert_with(|| (*old).clone()).insert(name, topic.clone());
                    topic
                }
            };
            self.resize(&topic, info.leaders.len());
            for (p, leader) in topic.partitions.iter().zip(&info.leaders) {
                p.leader.store(leader.node_id, Relaxed);
            }
            let table = Table::uniform(&topic.partitions, rack, cluster);
            topic.table.store(Arc::new(table));
        }
        if let Some(new) = new {
            self.map.store(Arc::new(new));
        }
        let mut wakers = Vec::new();
        self.waiting.lock().retain(|name, wanted| {
            let known = cluster.topics.contains_key(name);
            if known {
                wakers.append(&mut wanted.wakers);
            }
            !known
        });
        wake_all(wakers);
    }

    /// Shows as many partitions as the topic has.
    fn resize(&self, topic: &Topic, to: usize) {
        if topic.partitions.len() == to {
            return;
        }
        topic.partitions.show(to, |index| {
            let key = self.next_key.fetch_add(1, Relaxed);
            let (name, sizing) = (topic.name.clone(), topic.sizing.clone());
            Arc::new(Partition::new(name, index as i32, key, sizing))
        });
    }

    /// Every partition of every topic, for the rare moment in which one is on its way to announce itself.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        let map = self.map.load();
        map.values().flat_map(|t| t.partitions.all().cloned()).collect()
    }
}
