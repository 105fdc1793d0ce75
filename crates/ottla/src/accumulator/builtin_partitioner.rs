//! Chooses the partition of a record (KIP-480, KIP-794, KIP-1123).
//!
//! A record goes to the partition that it names, else to the murmur2 hash of its key, else to the
//! sticky partition. The sticky partition stays the same until one batch of bytes went to it. Then
//! another one is chosen at random from the partitions that have a leader. A partition with a
//! short queue is chosen more often (`partitioner.adaptive.partitioning.enable`), and one in the
//! client's rack is preferred (`partitioner.rack.aware`).
//!
//! Threads that contend for the lock of the sticky partition are separated: each of eight stripes
//! of threads can have a sticky partition of its own. The stripes merge again when batches leave
//! less than half full, because the load is too low for contention.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use ottla_protocol::murmur2::partition_for_key;

use super::append_only_vec::AppendOnlyVec;
use super::key_hash::key_hash;
use super::partition::Partition;
use super::topics::TopicInfo;
use crate::cluster::Cluster;
use crate::config::PartitioningStrategy;
use crate::error::{Error, ErrorKind};
use crate::sync::thread_number;

/// The rack whose leaders are preferred (`partitioner.rack.aware`, `client.rack`).
pub(crate) type Rack = Option<Arc<str>>;

const STRIPES: usize = 8;
/// No sticky partition has been chosen.
const UNSET: u32 = u32::MAX;

/// The sticky partitions of a topic.
///
/// All accesses are relaxed: any partition is a valid choice, also a stale one.
#[derive(Debug)]
pub(crate) struct StickyPartitionInfo {
    /// The sticky partition of all threads whose stripe has none of its own.
    current: AtomicU32,
    round_robin_counter: AtomicU32,
    /// Whether a stripe has a sticky partition of its own.
    has_split_stripes: AtomicBool,
    stripes: [AtomicU32; STRIPES],
    /// Appends that found the partition's lock held by another caller.
    pub(crate) contentions: AtomicU64,
}

impl Default for StickyPartitionInfo {
    fn default() -> StickyPartitionInfo {
        StickyPartitionInfo {
            current: AtomicU32::new(UNSET),
            round_robin_counter: AtomicU32::new(0),
            has_split_stripes: AtomicBool::new(false),
            stripes: [const { AtomicU32::new(UNSET) }; STRIPES],
            contentions: AtomicU64::new(0),
        }
    }
}

impl StickyPartitionInfo {
    /// Returns the cell with this thread's sticky partition.
    ///
    /// The thread number is a thread-local and not seeded. It matters only under contention, so a
    /// simulation, which has one thread, still replays.
    fn thread_partition(&self) -> &AtomicU32 {
        if self.has_split_stripes.load(Relaxed) {
            let stripe = &self.stripes[thread_number() % STRIPES];
            if stripe.load(Relaxed) != UNSET {
                return stripe;
            }
        }
        &self.current
    }

    /// Returns whether a cell other than `own` holds this partition.
    fn is_used_by_other(&self, partition: u32, own: &AtomicU32) -> bool {
        let cells = self.stripes.iter().chain([&self.current]);
        cells.filter(|c| !std::ptr::eq(*c, own)).any(|c| c.load(Relaxed) == partition)
    }

    /// Lets all threads share one sticky partition again.
    pub(crate) fn merge_stripes(&self) {
        if self.has_split_stripes.swap(false, Relaxed) {
            self.stripes.iter().for_each(|stripe| stripe.store(UNSET, Relaxed));
        }
    }
}

/// The weights with which the sticky partition is chosen (Kafka's `PartitionLoadStats`).
#[derive(Debug, Default)]
pub(crate) struct PartitionLoadStats {
    /// The partitions that can be chosen since the last metadata update.
    candidates: Arc<[u32]>,
    /// The candidates that have a leader and an available node at present.
    partition_indexes: Arc<[u32]>,
    /// The running sums of the partitions' weights; empty if all weights are equal.
    cumulative_frequency_table: Vec<u64>,
}

impl PartitionLoadStats {
    /// Returns equal weights for all partitions that can be chosen (CASES BI3, BI5).
    ///
    /// These are the partitions with a leader in the rack, else those with a leader, else all.
    pub(crate) fn uniform(
        partitions: &AppendOnlyVec<Arc<Partition>>,
        rack: &Rack,
        cluster: &Cluster,
    ) -> PartitionLoadStats {
        let has_leader = |p: &&Arc<Partition>| p.leader.load(Relaxed) != -1;
        let is_in_rack = |p: &&Arc<Partition>| {
            let node = cluster.nodes.get(&p.leader.load(Relaxed));
            rack.is_some() && node.is_some_and(|n| n.rack == *rack)
        };
        fn select(
            partitions: &AppendOnlyVec<Arc<Partition>>,
            predicate: impl Fn(&&Arc<Partition>) -> bool,
        ) -> Vec<u32> {
            partitions.iter().filter(predicate).map(|p| p.index as u32).collect()
        }
        let mut indexes = select(partitions, is_in_rack);
        if indexes.is_empty() {
            indexes = select(partitions, has_leader);
        }
        if indexes.is_empty() {
            indexes = select(partitions, |_| true);
        }
        PartitionLoadStats::equal_weights(indexes.into())
    }

    fn equal_weights(candidates: Arc<[u32]>) -> PartitionLoadStats {
        PartitionLoadStats {
            partition_indexes: candidates.clone(),
            candidates,
            cumulative_frequency_table: Vec::new(),
        }
    }

    /// Returns weights by queue size for the same candidates (CASES BI4).
    ///
    /// A partition's weight is the longest queue's size plus one minus its own. The weights are
    /// equal until every partition has had a batch, if all queues have the same size, and if there
    /// are fewer than two candidates.
    pub(crate) fn with_queue_sizes(
        &self,
        partitions: &AppendOnlyVec<Arc<Partition>>,
        is_available: impl Fn(&Partition) -> bool,
    ) -> PartitionLoadStats {
        let equal_weights = || PartitionLoadStats::equal_weights(self.candidates.clone());
        if partitions.iter().any(|p| p.queued_batches().is_none()) {
            return equal_weights();
        }
        struct QueueSize {
            index: u32,
            size: u32,
        }
        let candidates = self.candidates.iter().filter_map(|i| partitions.get(*i as usize));
        let queues: Vec<QueueSize> = candidates
            .filter(|p| p.leader.load(Relaxed) != -1 && is_available(p))
            .map(|p| QueueSize { index: p.index as u32, size: p.queued_batches().unwrap_or(0) })
            .collect();
        let longest = queues.iter().map(|q| q.size).max().unwrap_or(0);
        let all_equal =
            queues.len() == self.candidates.len() && queues.iter().all(|q| q.size == longest);
        if queues.is_empty() || self.candidates.len() < 2 || all_equal {
            return equal_weights();
        }
        let mut sum = 0;
        let sums = queues.iter().map(|q| {
            sum += u64::from(longest + 1 - q.size);
            sum
        });
        PartitionLoadStats {
            cumulative_frequency_table: sums.collect(),
            partition_indexes: queues.iter().map(|q| q.index).collect(),
            candidates: self.candidates.clone(),
        }
    }

    pub(crate) fn is_uniform(&self) -> bool {
        self.cumulative_frequency_table.is_empty()
    }

    /// Returns a partition, chosen by its weight.
    pub(crate) fn choose(&self, random: u64) -> u32 {
        let i = match self.cumulative_frequency_table.last() {
            Some(total) => {
                let point = random % total;
                self.cumulative_frequency_table.partition_point(|sum| *sum <= point)
            }
            None => random as usize % self.partition_indexes.len().max(1),
        };
        self.partition_indexes.get(i).copied().unwrap_or(0)
    }
}

/// The partition of a record, and whether it is the sticky one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartitionChoice {
    /// Chosen by the record, by its key or by round robin.
    Fixed(usize),
    /// The sticky partition; the caller may switch to another one.
    Sticky(usize),
}

/// Returns the partition of a record, in a topic of `partition_count` partitions.
#[inline]
pub(crate) fn choose_partition(
    topic: &TopicInfo,
    partition_count: usize,
    explicit: Option<i32>,
    key: Option<&[u8]>,
    partitioning: PartitioningStrategy,
    random: impl FnOnce() -> u64,
) -> Result<PartitionChoice, Error> {
    if let Some(p) = explicit {
        return match usize::try_from(p) {
            Ok(p) if p < partition_count => Ok(PartitionChoice::Fixed(p)),
            _ => Err(unknown_partition_error(&topic.name, p, partition_count)),
        };
    }
    match (partitioning, key) {
        (PartitioningStrategy::RoundRobin, _) => {
            let n = topic.sticky_partition.round_robin_counter.fetch_add(1, Relaxed);
            Ok(PartitionChoice::Fixed(round_robin(topic, n as usize)))
        }
        // Over all partitions, also those without a leader: a key must not change its partition
        // when a broker fails.
        (PartitioningStrategy::Default, Some(key)) => {
            // The topic of a handle has no partition before its first metadata.
            let count = (partition_count as u32).max(1);
            Ok(PartitionChoice::Fixed(partition_for_key(key, count) as usize))
        }
        (PartitioningStrategy::Default | PartitioningStrategy::UniformSticky, _) => {
            Ok(PartitionChoice::Sticky(sticky_partition(topic, partition_count, random)))
        }
        _ => Ok(choose_as_librdkafka(topic, partition_count, key, partitioning, random)),
    }
}

/// Returns the partition of a record by one of librdkafka's strategies. Where librdkafka chooses a
/// partition for some milliseconds (`sticky.partitioning.linger.ms`), this is the sticky partition.
fn choose_as_librdkafka(
    topic: &TopicInfo,
    partition_count: usize,
    key: Option<&[u8]>,
    strategy: PartitioningStrategy,
    random: impl FnOnce() -> u64,
) -> PartitionChoice {
    // The topic of a handle has no partition before its first metadata.
    let count = (partition_count as u32).max(1);
    if let Some(hash) = key_hash(strategy, key) {
        return PartitionChoice::Fixed((hash % count) as usize);
    }
    if strategy != PartitioningStrategy::Random || key.is_none() {
        return PartitionChoice::Sticky(sticky_partition(topic, partition_count, random));
    }
    // A partition without a leader is drawn again, once.
    let random = random();
    let draws = [random as u32 % count, (random >> 32) as u32 % count];
    let has_leader =
        |p: u32| topic.partitions.get(p as usize).is_some_and(|p| p.leader.load(Relaxed) != -1);
    PartitionChoice::Fixed(if has_leader(draws[0]) { draws[0] } else { draws[1] } as usize)
}

pub(crate) fn unknown_partition_error(topic: &str, p: i32, partition_count: usize) -> Error {
    let last = partition_count.saturating_sub(1);
    let message = format!("topic {topic} has no partition {p}, only 0 to {last}");
    Error::new(ErrorKind::InvalidRecord, message)
}

/// Returns the sticky partition. Chooses one if there is none yet.
#[inline]
fn sticky_partition(
    topic: &TopicInfo,
    partition_count: usize,
    random: impl FnOnce() -> u64,
) -> usize {
    let cell = topic.sticky_partition.thread_partition();
    match cell.load(Relaxed) {
        p if (p as usize) < partition_count => p as usize,
        // The append fails, and finds out that the topic is not known yet.
        _ if partition_count == 0 => 0,
        // Unset, or a partition that the topic has lost when it was re-created.
        old => {
            let chosen = topic.load_stats.load().choose(random());
            let result = cell.compare_exchange(old, chosen, Relaxed, Relaxed);
            result.map_or_else(|other| other, |_| chosen) as usize
        }
    }
}

/// Switches from the sticky partition `from` to another one. If several threads try, one of them
/// switches.
///
/// If the choice falls on `from` again, it is made once more: a request takes one batch of a
/// partition, so the next batch there would wait for another request. Partitions of equal weight
/// are still chosen equally often. Weights are not touched.
pub(crate) fn switch_partition(topic: &TopicInfo, from: usize, random: u64) {
    let cell = topic.sticky_partition.thread_partition();
    let mut chosen = choose_unused(topic, cell, random);
    if chosen as usize == from && topic.load_stats.load().is_uniform() {
        chosen = choose_unused(topic, cell, random.rotate_left(32));
    }
    let _ = cell.compare_exchange(from as u32, chosen, Relaxed, Relaxed);
}

/// Gives this thread's stripe a sticky partition of its own, because another caller holds the lock
/// of partition `from`. Returns false if no other partition was found.
pub(crate) fn split_stripe(topic: &TopicInfo, from: usize, random: u64) -> bool {
    let sticky = &topic.sticky_partition;
    sticky.contentions.fetch_add(1, Relaxed);
    let stripe = &sticky.stripes[thread_number() % STRIPES];
    let chosen = choose_unused(topic, stripe, random);
    if chosen as usize == from {
        return false;
    }
    stripe.store(chosen, Relaxed);
    sticky.has_split_stripes.store(true, Relaxed);
    true
}

/// Chooses a partition by weight. While stripes are split, it makes a few attempts to find one
/// that no other stripe uses.
fn choose_unused(topic: &TopicInfo, own: &AtomicU32, random: u64) -> u32 {
    let stats = topic.load_stats.load();
    let first = stats.choose(random);
    if !topic.sticky_partition.has_split_stripes.load(Relaxed)
        && std::ptr::eq(own, &topic.sticky_partition.current)
    {
        return first;
    }
    let attempts =
        (0..STRIPES as u64).map(|i| stats.choose(random.rotate_left(7 * i as u32).wrapping_add(i)));
    let mut unused = attempts.filter(|p| !topic.sticky_partition.is_used_by_other(*p, own));
    unused.next().unwrap_or(first)
}

/// Returns whether the sticky partition should switch after this number of bytes (CASES BI2).
#[inline]
pub(crate) fn should_switch(bytes: usize, limit: usize, all_full: bool) -> bool {
    // A switch before the batch is full would leave a fraction of a batch (KIP-794).
    (bytes >= limit && all_full) || bytes >= 2 * limit
}

/// Returns the `n`th partition with a leader, modulo their number. If no partition has a leader,
/// it counts all partitions (CASES BI7).
fn round_robin(topic: &TopicInfo, n: usize) -> usize {
    let stats = topic.load_stats.load();
    stats.partition_indexes.get(n % stats.partition_indexes.len().max(1)).map_or(0, |p| *p as usize)
}

#[cfg(test)]
mod tests;
