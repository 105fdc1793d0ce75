//! Topics as callers see them: their partitions, found by name without a lock, and the place where
//! callers wait for a topic that is not known yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::Waker;

use arc_swap::ArcSwap;

use super::partition::Partition;
use super::partitioner::Sticky;
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::error::Error;
use crate::sync::{Mutex, wake_all};

/// A topic whose partitions are known.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) partitions: ArcSwap<Vec<Arc<Partition>>>,
    /// Also those the topic has lost by being re-created with fewer: should they come back, their order goes on.
    every: Mutex<Vec<Arc<Partition>>>,
    pub(crate) sticky: Sticky,
}

type Map = HashMap<Arc<str>, Arc<Topic>>;

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
    pub(crate) fn publish(&self, cluster: &Cluster) {
        let old = self.map.load_full();
        let mut new: Option<Map> = None;
        for (name, info) in &cluster.topics {
            if info.leaders.is_empty() {
                continue;
            }
            let topic = match old.get(name) {
                Some(topic) => topic.clone(),
                None => {
                    let (name, sticky) = (name.clone(), Sticky::default());
                    let (partitions, every) = Default::default();
                    let topic = Arc::new(Topic { name: name.clone(), partitions, every, sticky });
                    new.get_or_insert_with(|| (*old).clone()).insert(name, topic.clone());
                    topic
                }
            };
            self.resize(&topic, info.leaders.len());
            for (p, leader) in topic.partitions.load().iter().zip(&info.leaders) {
                p.leader.store(leader.node, Relaxed);
            }
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
        if topic.partitions.load().len() == to {
            return;
        }
        let mut every = topic.every.lock();
        while every.len() < to {
            let (index, key) = (every.len() as i32, self.next_key.fetch_add(1, Relaxed));
            every.push(Arc::new(Partition::new(topic.name.clone(), index, key)));
        }
        let shown = every[..to].to_vec();
        drop(every);
        topic.partitions.store(Arc::new(shown));
    }

    /// Every partition of every topic.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        let map = self.map.load();
        map.values().flat_map(|t| t.every.lock().clone()).collect()
    }
}
