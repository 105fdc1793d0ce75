//! Which partition a record goes to: the one it names, murmur2 of its key, or the sticky one (KIP-480,
//! KIP-794), which stays until a batch's worth of bytes went there, and is then drawn anew: of the partitions
//! that have a leader, those with short queues more often (adaptive), in the producer's rack where that is
//! asked for (KIP-1123).
//!
//! Callers that meet on a partition's lock move apart: each of eight stripes of threads may have a choice of
//! its own, until batches leave half empty and there is no need for it any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use ottla_protocol::murmur2::partition_for_key;

use super::append_only_vec::Shelf;
use super::partition::Partition;
use super::topics::TopicInfo;
use crate::cluster::Cluster;
use crate::error::{Error, ErrorKind};
use crate::sync::thread_number;

/// How records without a partition are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Partitioning {
    /// By key where there is one (unless keys are ignored), else sticky.
    Default { ignore_keys: bool },
    /// One after the other, whatever the key (`RoundRobinPartitioner`).
    RoundRobin,
}

/// The rack whose leaders are preferred, if any (`partitioner.rack.aware`, `client.rack`).
pub(crate) type Rack = Option<Arc<str>>;

/// Stripes of threads of one topic.
const STRIPES: usize = 8;
const UNSET: u32 = u32::MAX;

/// A topic's sticky choice.
#[derive(Debug)]
pub(crate) struct StickyPartitionInfo {
    /// The choice of all who did not meet.
    current: AtomicU32,
    round_robin_counter: AtomicU32,
    /// Whether a stripe has a choice of its own.
    has_split_stripes: AtomicBool,
    stripes: [AtomicU32; STRIPES],
    /// Appends that found their partition's lock held by another caller.
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
    /// The place of this thread's choice.
    fn thread_partition(&self) -> &AtomicU32 {
        if self.has_split_stripes.load(Relaxed) {
            let own = &self.stripes[thread_number() % STRIPES];
            if own.load(Relaxed) != UNSET {
                return own;
            }
        }
        &self.current
    }

    /// Whether somebody else's choice is this.
    fn is_used_by_other(&self, p: u32, mine: &AtomicU32) -> bool {
        let others = self.stripes.iter().chain([&self.current]);
        others.filter(|o| !std::ptr::eq(*o, mine)).any(|o| o.load(Relaxed) == p)
    }

    /// Everybody shares one choice again.
    pub(crate) fn merge_stripes(&self) {
        if self.has_split_stripes.swap(false, Relaxed) {
            self.stripes.iter().for_each(|a| a.store(UNSET, Relaxed));
        }
    }
}

/// What the sticky choice is drawn from.
#[derive(Debug, Default)]
pub(crate) struct PartitionLoadStats {
    /// Partition numbers that may be drawn.
    candidates: Arc<[u32]>,
    /// Those that are, just now.
    partition_ids: Arc<[u32]>,
    /// Running sums of their weights; empty where all are alike.
    cumulative_frequency_table: Vec<u64>,
}

impl PartitionLoadStats {
    /// Every partition that has a leader alike; those of the rack alone, if it has any; all partitions where
    /// none has a leader (BI3, BI5).
    pub(crate) fn uniform(
        partitions: &Shelf<Arc<Partition>>,
        rack: &Rack,
        cluster: &Cluster,
    ) -> PartitionLoadStats {
        let led = |p: &&Arc<Partition>| p.leader.load(Relaxed) != -1;
        let near = |p: &&Arc<Partition>| {
            let node = cluster.nodes.get(&p.leader.load(Relaxed));
            rack.is_some() && node.is_some_and(|n| n.rack == *rack)
        };
        fn pick(
            partitions: &Shelf<Arc<Partition>>,
            which: impl Fn(&&Arc<Partition>) -> bool,
        ) -> Vec<u32> {
            partitions.iter().filter(which).map(|p| p.index as u32).collect()
        }
        let mut list = pick(partitions, near);
        if list.is_empty() {
            list = pick(partitions, led);
        }
        if list.is_empty() {
            list = pick(partitions, |_| true);
        }
        let base: Arc<[u32]> = list.into();
        PartitionLoadStats {
            partition_ids: base.clone(),
            candidates: base,
            cumulative_frequency_table: Vec::new(),
        }
    }

    /// The same list, weighed by what waits (BI4): the longest queue has weight 1. Uniform until every
    /// partition has had a batch, where all are alike, or where fewer than two may be drawn.
    pub(crate) fn with_queue_sizes(
        &self,
        partitions: &Shelf<Arc<Partition>>,
        available: impl Fn(&Partition) -> bool,
    ) -> PartitionLoadStats {
        let base = self.candidates.clone();
        let uniform = || PartitionLoadStats {
            partition_ids: base.clone(),
            candidates: base.clone(),
            cumulative_frequency_table: Vec::new(),
        };
        if partitions.iter().any(|p| p.queued_batches().is_none()) {
            return uniform();
        }
        let drawn = self.candidates.iter().filter_map(|i| partitions.get(*i as usize));
        let sizes: Vec<(u32, u32)> = drawn
            .filter(|p| p.leader.load(Relaxed) != -1 && available(p))
            .map(|p| (p.index as u32, p.queued_batches().unwrap_or(0)))
            .collect();
        let longest = sizes.iter().map(|s| s.1).max().unwrap_or(0);
        let all_alike = sizes.len() == base.len() && sizes.iter().all(|s| s.1 == longest);
        if sizes.is_empty() || base.len() < 2 || all_alike {
            return uniform();
        }
        let mut sum = 0;
        let sums = sizes.iter().map(|(_, size)| {
            sum += u64::from(longest + 1 - size);
            sum
        });
        PartitionLoadStats {
            cumulative_frequency_table: sums.collect(),
            partition_ids: sizes.iter().map(|s| s.0).collect(),
            candidates: base,
        }
    }

    pub(crate) fn is_uniform(&self) -> bool {
        self.cumulative_frequency_table.is_empty()
    }

    /// A draw.
    pub(crate) fn choose(&self, random: u64) -> u32 {
        let n = match self.cumulative_frequency_table.last() {
            Some(total) => {
                let point = random % total;
                self.cumulative_frequency_table.partition_point(|sum| *sum <= point)
            }
            None => random as usize % self.partition_ids.len().max(1),
        };
        self.partition_ids.get(n).copied().unwrap_or(0)
    }
}

/// A choice, and whether it is the sticky one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartitionChoice {
    /// Named by the record, its key, or its turn.
    Fixed(usize),
    /// The sticky one; may move.
    Sticky(usize),
}

/// Chooses. `partitions` is how many the topic has.
#[inline]
pub(crate) fn choose_partition(
    topic: &TopicInfo,
    partitions: usize,
    explicit: Option<i32>,
    key: Option<&[u8]>,
    spread: Partitioning,
    random: impl FnOnce() -> u64,
) -> Result<PartitionChoice, Error> {
    if let Some(p) = explicit {
        return match usize::try_from(p) {
            Ok(p) if p < partitions => Ok(PartitionChoice::Fixed(p)),
            _ => Err(unknown_partition_error(&topic.name, p, partitions)),
        };
    }
    match (spread, key) {
        (Partitioning::RoundRobin, _) => {
            let turn = topic.sticky_partition.round_robin_counter.fetch_add(1, Relaxed);
            Ok(PartitionChoice::Fixed(round_robin(topic, turn as usize)))
        }
        (Partitioning::Default { ignore_keys: false }, Some(key)) => {
            Ok(PartitionChoice::Fixed(partition_for_key(key, partitions as u32) as usize))
        }
        _ => Ok(PartitionChoice::Sticky(sticky_partition(topic, partitions, random))),
    }
}

pub(crate) fn unknown_partition_error(topic: &str, p: i32, partitions: usize) -> Error {
    let last = partitions.saturating_sub(1);
    let message = format!("topic {topic} has no partition {p}, only 0 to {last}");
    Error::new(ErrorKind::InvalidRecord, message)
}

/// The sticky partition, drawn if there is none yet.
#[inline]
fn sticky_partition(topic: &TopicInfo, partitions: usize, random: impl FnOnce() -> u64) -> usize {
    let place = topic.sticky_partition.thread_partition();
    match place.load(Relaxed) {
        p if (p as usize) < partitions => p as usize,
        // None yet, or one that the topic has no more.
        gone => {
            let drawn = topic.load_stats.load().choose(random());
            let set = place.compare_exchange(gone, drawn, Relaxed, Relaxed);
            set.map_or_else(|other| other, |_| drawn) as usize
        }
    }
}

/// Moves on from `from`, once, whoever else tries.
pub(crate) fn switch_partition(topic: &TopicInfo, from: usize, random: u64) {
    let place = topic.sticky_partition.thread_partition();
    let drawn = choose_unused(topic, place, random);
    let _ = place.compare_exchange(from as u32, drawn, Relaxed, Relaxed);
}

/// Another caller is at this partition: from here on this thread's stripe goes its own way. False where
/// there is no other way.
pub(crate) fn split_stripe(topic: &TopicInfo, from: usize, random: u64) -> bool {
    let sticky = &topic.sticky_partition;
    sticky.contentions.fetch_add(1, Relaxed);
    let own = &sticky.stripes[thread_number() % STRIPES];
    let drawn = choose_unused(topic, own, random);
    if drawn as usize == from {
        return false;
    }
    own.store(drawn, Relaxed);
    sticky.has_split_stripes.store(true, Relaxed);
    true
}

/// A draw that avoids the choices of others while they are apart, if a few attempts find one that does.
fn choose_unused(topic: &TopicInfo, mine: &AtomicU32, random: u64) -> u32 {
    let table = topic.load_stats.load();
    let first = table.choose(random);
    if !topic.sticky_partition.has_split_stripes.load(Relaxed)
        && std::ptr::eq(mine, &topic.sticky_partition.current)
    {
        return first;
    }
    let draws =
        (0..STRIPES as u64).map(|i| table.choose(random.rotate_left(7 * i as u32).wrapping_add(i)));
    let mut free = draws.filter(|p| !topic.sticky_partition.is_used_by_other(*p, mine));
    free.next().unwrap_or(first)
}

/// Whether the choice should move, after this many bytes: BI2's rule.
#[inline]
pub(crate) fn should_switch(bytes: usize, limit: usize, all_full: bool) -> bool {
    (bytes >= limit && all_full) || bytes >= 2 * limit
}

/// The `n`th partition with a leader, counting round; of all partitions when none has one (BI7).
fn round_robin(topic: &TopicInfo, n: usize) -> usize {
    let table = topic.load_stats.load();
    table.partition_ids.get(n % table.partition_ids.len().max(1)).map_or(0, |p| *p as usize)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::accumulator::partition::QueuedBatch;
    use crate::accumulator::topics::TopicInfoMap;
    use crate::cluster::{Leader, Node, TopicMetadata};
    use crate::time::Tick;

    fn topic_with_leaders(leaders: &[i32]) -> std::sync::Arc<TopicInfo> {
        let topics = TopicInfoMap::default();
        let mut cluster = Cluster::default();
        let leaders = leaders.iter().map(|&node| Leader { node_id: node, epoch: 0 }).collect();
        cluster.topics.insert("t".into(), TopicMetadata { id: Default::default(), leaders });
        topics.publish(&cluster, &None);
        topics.get("t").unwrap()
    }

    const DEFAULT: Partitioning = Partitioning::Default { ignore_keys: false };

    #[test]
    fn bi3_partitions_without_a_leader_are_never_drawn_while_one_has_one() {
        let t = topic_with_leaders(&[1, -1, 1]);
        for n in 0..100 {
            assert_ne!(t.load_stats.load().choose(n), 1);
        }
        let t = topic_with_leaders(&[-1, -1]);
        assert_eq!((0..100).map(|n| t.load_stats.load().choose(n)).max(), Some(1));
    }

    #[test]
    fn bi6_keys_go_over_all_partitions_and_explicit_wins() {
        let t = topic_with_leaders(&[1, -1, 1]);
        let go = |explicit, key: Option<&[u8]>, spread| {
            choose_partition(&t, 3, explicit, key, spread, || 0)
        };
        assert_eq!(go(None, Some(b"a"), DEFAULT).unwrap(), PartitionChoice::Fixed(1));
        assert_eq!(go(None, Some(b""), DEFAULT).unwrap(), PartitionChoice::Fixed(0));
        assert_eq!(go(Some(2), Some(b"a"), DEFAULT).unwrap(), PartitionChoice::Fixed(2));
        assert!(matches!(go(None, None, DEFAULT).unwrap(), PartitionChoice::Sticky(_)));
        let ignoring = Partitioning::Default { ignore_keys: true };
        assert!(matches!(go(None, Some(b"a"), ignoring).unwrap(), PartitionChoice::Sticky(_)));
        for wrong in [-1, 3] {
            let e = go(Some(wrong), None, DEFAULT).unwrap_err();
            assert!(e.to_string().contains("only 0 to 2"), "{e}");
        }
    }

    #[test]
    fn bi7_round_robin_skips_what_has_no_leader() {
        let t = topic_with_leaders(&[1, -1, 1]);
        let mut counts = [0; 3];
        for _ in 0..100 {
            if let Ok(PartitionChoice::Fixed(p)) =
                choose_partition(&t, 3, None, None, Partitioning::RoundRobin, || 0)
            {
                counts[p] += 1;
            }
        }
        assert_eq!(counts, [50, 0, 50]);
    }

    #[test]
    fn bi2_a_choice_wears_out_at_the_limit_when_full_and_at_twice_the_limit_anyhow() {
        assert!(!should_switch(2, 3, true) && should_switch(3, 3, true));
        assert!(!should_switch(5, 3, false) && should_switch(6, 3, false));
    }

    #[test]
    fn a_topic_recreated_with_fewer_partitions_is_spread_over_those_it_has() {
        let topics = TopicInfoMap::default();
        let publish = |n: usize| {
            let mut cluster = Cluster::default();
            let leaders = vec![Leader { node_id: 1, epoch: 0 }; n];
            cluster.topics.insert("t".into(), TopicMetadata { id: Default::default(), leaders });
            topics.publish(&cluster, &None);
            topics.get("t").unwrap()
        };
        let t = publish(6);
        assert_eq!(
            choose_partition(&t, 6, None, None, DEFAULT, || 5).unwrap(),
            PartitionChoice::Sticky(5)
        );
        let last = t.partitions.get(5).unwrap().id;
        let t = publish(3);
        assert!(matches!(
            choose_partition(&t, 3, None, None, DEFAULT, || 5).unwrap(),
            PartitionChoice::Sticky(0..3)
        ));
        assert!((0..50).all(|n| t.load_stats.load().choose(n) < 3));
        let t = publish(6);
        assert_eq!(t.partitions.get(5).unwrap().id, last, "its order goes on");
    }

    fn set_queue_sizes(t: &TopicInfo, sizes: &[usize]) {
        for (p, size) in t.partitions.iter().zip(sizes) {
            let mut queue = p.queue.lock();
            queue.batches.clear();
            let slots = (0..*size).map(|n| QueuedBatch::Closing(n as u64, Tick(0)));
            queue.batches.extend(slots);
            p.update_queued(&queue);
        }
    }

    fn choice_counts(table: &PartitionLoadStats, partitions: usize, n: u64) -> Vec<u32> {
        let mut counts = vec![0; partitions];
        (0..n).for_each(|r| counts[table.choose(r) as usize] += 1);
        counts
    }

    #[test]
    fn bi4_ra26_weights_are_the_longest_queue_plus_one_less_each_ones_own() {
        let t = topic_with_leaders(&[1, 1, 1, 1, 1]);
        let weighed = |t: &TopicInfo| t.load_stats.load().with_queue_sizes(&t.partitions, |_| true);
        assert_eq!(choice_counts(&weighed(&t), 5, 50), [10; 5], "no partition has had a batch");
        set_queue_sizes(&t, &[5, 0, 3, 0, 1]);
        assert_eq!(choice_counts(&weighed(&t), 5, 42), [2, 12, 6, 12, 10], "two cycles");
        set_queue_sizes(&t, &[4; 5]);
        assert_eq!(choice_counts(&weighed(&t), 5, 50), [10; 5], "all alike");
        let t = topic_with_leaders(&[1, 2, 3]);
        set_queue_sizes(&t, &[1, 7, 2]);
        assert_eq!(choice_counts(&weighed(&t), 3, 14), [7, 1, 6]);
        let without = t.load_stats.load().with_queue_sizes(&t.partitions, |p| p.index != 0);
        assert_eq!(
            choice_counts(&without, 3, 14),
            [0, 2, 12],
            "a slow node's partition is not drawn"
        );
        let again = without.with_queue_sizes(&t.partitions, |_| true);
        assert_eq!(choice_counts(&again, 3, 14), [7, 1, 6], "and comes back");
        let t = topic_with_leaders(&[1, -1, 3]);
        set_queue_sizes(&t, &[1, 0, 2]);
        assert_eq!(choice_counts(&weighed(&t), 3, 6), [4, 0, 2], "without a leader none is drawn");
    }

    #[test]
    fn bi5_leaders_in_the_producers_rack_while_there_is_one() {
        let t = topic_with_leaders(&[1, 2, 1]);
        let shown = &t.partitions;
        let rack: Rack = Some("a".into());
        let cluster = |racks: [&str; 2]| {
            let mut c = Cluster::default();
            for (id, rack) in [1, 2].into_iter().zip(racks) {
                let rack = (!rack.is_empty()).then(|| rack.into());
                c.nodes.insert(id, Node { id, host: "h".into(), port: 1, rack });
            }
            c
        };
        let table = PartitionLoadStats::uniform(shown, &rack, &cluster(["a", "b"]));
        assert_eq!(choice_counts(&table, 3, 10), [5, 0, 5]);
        set_queue_sizes(&t, &[3, 9, 1]);
        assert_eq!(
            choice_counts(&table.with_queue_sizes(shown, |_| true), 3, 8),
            [2, 0, 6],
            "weighed in the rack"
        );
        let table = PartitionLoadStats::uniform(shown, &rack, &cluster(["b", "b"]));
        assert_eq!(choice_counts(&table, 3, 9), [3, 3, 3], "none in the rack: the others");
        let table = PartitionLoadStats::uniform(shown, &rack, &cluster(["", ""]));
        assert_eq!(choice_counts(&table, 3, 9), [3, 3, 3], "brokers without a rack");
        shown.get(0).unwrap().leader.store(-1, Relaxed);
        shown.get(2).unwrap().leader.store(-1, Relaxed);
        let table = PartitionLoadStats::uniform(shown, &rack, &cluster(["a", "b"]));
        assert_eq!(choice_counts(&table, 3, 9), [0, 9, 0], "the rack is down");
    }

    #[test]
    fn bi1_with_one_partition_the_choice_switches_to_itself() {
        let t = topic_with_leaders(&[1]);
        let sticky = || choose_partition(&t, 1, None, None, DEFAULT, || 7).unwrap();
        assert_eq!(sticky(), PartitionChoice::Sticky(0));
        switch_partition(&t, 0, 9);
        assert_eq!(sticky(), PartitionChoice::Sticky(0));
        assert!(!split_stripe(&t, 0, 3), "nowhere else to go");
    }

    #[test]
    fn callers_that_met_go_apart_and_come_back_together() {
        let t = topic_with_leaders(&[1; 12]);
        let here = || match choose_partition(&t, 12, None, None, DEFAULT, || 3).unwrap() {
            PartitionChoice::Sticky(p) => p,
            fixed => panic!("{fixed:?}"),
        };
        let first = here();
        assert!(split_stripe(&t, first, 99));
        let mine = here();
        assert_ne!(mine, first);
        let others = std::thread::scope(|s| s.spawn(here).join().unwrap());
        assert_eq!(others, first, "another thread stays");
        for random in 0..100 {
            switch_partition(&t, here(), random);
            assert_ne!(here(), first, "apart they avoid each other");
        }
        t.sticky_partition.merge_stripes();
        assert_eq!(here(), first);
    }
}
