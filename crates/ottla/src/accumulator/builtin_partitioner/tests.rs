//! Tests of the partitioner on topics without an accumulator.
#![allow(clippy::disallowed_methods)]

use super::*;
use crate::accumulator::partition::QueuedBatch;
use crate::accumulator::topics::TopicInfoMap;
use crate::cluster::{Leader, Node, TopicMetadata};
use crate::time::Tick;

const DEFAULT: PartitioningStrategy = PartitioningStrategy::Default;

fn publish(topics: &TopicInfoMap, leaders: &[i32]) -> Arc<TopicInfo> {
    let mut cluster = Cluster::default();
    let leaders = leaders.iter().map(|&node_id| Leader { node_id, epoch: 0 }).collect();
    cluster.topics.insert("t".into(), TopicMetadata { id: Default::default(), leaders });
    topics.publish(&cluster, cluster.topics.keys(), &None);
    topics.get("t").unwrap()
}

fn topic_with_leaders(leaders: &[i32]) -> Arc<TopicInfo> {
    publish(&TopicInfoMap::default(), leaders)
}

fn choose_sticky(topic: &TopicInfo, random: u64) -> usize {
    let count = topic.partitions.len();
    match choose_partition(topic, count, None, None, DEFAULT, || random).unwrap() {
        PartitionChoice::Sticky(p) => p,
        fixed => panic!("{fixed:?}"),
    }
}

fn set_queue_sizes(topic: &TopicInfo, sizes: &[usize]) {
    for (p, size) in topic.partitions.iter().zip(sizes) {
        let mut queue = p.queue.lock();
        queue.batches.clear();
        let batches =
            (0..*size).map(|n| QueuedBatch::Closing { number: n as u64, created: Tick(0) });
        queue.batches.extend(batches);
        p.update_queued(&queue);
    }
}

fn with_queue_sizes(topic: &TopicInfo) -> PartitionLoadStats {
    topic.load_stats.load().with_queue_sizes(&topic.partitions, |_| true)
}

/// Returns how often each partition is chosen with the random values `0..n`.
fn choice_counts(stats: &PartitionLoadStats, partition_count: usize, n: u64) -> Vec<u32> {
    let mut counts = vec![0; partition_count];
    (0..n).for_each(|random| counts[stats.choose(random) as usize] += 1);
    counts
}

// CASES: BI3.
#[test]
fn leaderless_partitions_are_not_chosen_while_another_has_a_leader() {
    let topic = topic_with_leaders(&[1, -1, 1]);
    for n in 0..100 {
        assert_ne!(topic.load_stats.load().choose(n), 1);
    }
    let topic = topic_with_leaders(&[-1, -1]);
    assert_eq!((0..100).map(|n| topic.load_stats.load().choose(n)).max(), Some(1));
}

// CASES: BI6.
#[test]
fn keys_map_to_all_partitions_and_an_explicit_partition_wins() {
    let topic = topic_with_leaders(&[1, -1, 1]);
    let choose = |explicit, key: Option<&[u8]>, partitioning| {
        choose_partition(&topic, 3, explicit, key, partitioning, || 0)
    };
    assert_eq!(choose(None, Some(b"a"), DEFAULT).unwrap(), PartitionChoice::Fixed(1));
    assert_eq!(choose(None, Some(b""), DEFAULT).unwrap(), PartitionChoice::Fixed(0));
    assert_eq!(choose(Some(2), Some(b"a"), DEFAULT).unwrap(), PartitionChoice::Fixed(2));
    assert!(matches!(choose(None, None, DEFAULT).unwrap(), PartitionChoice::Sticky(_)));
    let ignore_keys = PartitioningStrategy::UniformSticky;
    assert!(matches!(choose(None, Some(b"a"), ignore_keys).unwrap(), PartitionChoice::Sticky(_)));
    for invalid in [-1, 3] {
        let e = choose(Some(invalid), None, DEFAULT).unwrap_err();
        assert!(e.to_string().contains("only 0 to 2"), "{e}");
    }
}

// CASES: BI7.
#[test]
fn round_robin_skips_leaderless_partitions() {
    let topic = topic_with_leaders(&[1, -1, 1]);
    let mut counts = [0; 3];
    for _ in 0..100 {
        if let Ok(PartitionChoice::Fixed(p)) =
            choose_partition(&topic, 3, None, None, PartitioningStrategy::RoundRobin, || 0)
        {
            counts[p] += 1;
        }
    }
    assert_eq!(counts, [50, 0, 50]);
}

#[test]
fn strategies_of_librdkafka_choose_by_hash_or_the_sticky_partition() {
    let topic = topic_with_leaders(&[1, -1, 1]);
    let choose = |name: &str, key: Option<&[u8]>| {
        choose_partition(&topic, 3, None, key, name.parse().unwrap(), || 0).unwrap()
    };
    // The CRC-32 of "hejsan" is 0xd077037e, as in librdkafka's test 0048. A key stays with its
    // partition while that has no leader.
    let by_key = PartitionChoice::Fixed((0xd077_037e_u32 % 3) as usize);
    for name in ["consistent", "consistent_random"] {
        assert_eq!(choose(name, Some(b"hejsan")), by_key, "{name}");
    }
    assert_eq!(choose("consistent", None), PartitionChoice::Fixed(0));
    assert_eq!(choose("murmur2", None), PartitionChoice::Fixed((0x106e_08d9 % 3) as usize));
    for name in ["consistent_random", "murmur2_random", "fnv1a_random", "random"] {
        assert!(matches!(choose(name, None), PartitionChoice::Sticky(_)), "{name}");
    }
}

#[test]
fn random_strategy_draws_a_partition_without_leader_again() {
    let topic = topic_with_leaders(&[1, -1, 1]);
    let choose = |random: u64| {
        let strategy = PartitioningStrategy::Random;
        choose_partition(&topic, 3, None, Some(b"k"), strategy, || random).unwrap()
    };
    assert_eq!(choose(2), PartitionChoice::Fixed(2));
    assert_eq!(choose(1 | 2 << 32), PartitionChoice::Fixed(2), "1 has no leader");
    assert_eq!(choose(1 | 1 << 32), PartitionChoice::Fixed(1), "only one second draw");
}

// CASES: BI2.
#[test]
fn sticky_partition_switches_at_the_limit_if_full_and_at_twice_the_limit_always() {
    assert!(!should_switch(2, 3, true) && should_switch(3, 3, true));
    assert!(!should_switch(5, 3, false) && should_switch(6, 3, false));
}

#[test]
fn topic_recreated_with_fewer_partitions_uses_only_those() {
    let topics = TopicInfoMap::default();
    let topic = publish(&topics, &[1; 6]);
    assert_eq!(choose_sticky(&topic, 5), 5);
    let last = topic.partitions.get(5).unwrap().id;
    let topic = publish(&topics, &[1; 3]);
    assert!(choose_sticky(&topic, 5) < 3);
    assert!((0..50).all(|n| topic.load_stats.load().choose(n) < 3));
    let topic = publish(&topics, &[1; 6]);
    assert_eq!(topic.partitions.get(5).unwrap().id, last, "the same partition is visible again");
}

// CASES: BI4, RA26.
#[test]
fn weights_are_the_longest_queue_plus_one_minus_the_own_queue() {
    let topic = topic_with_leaders(&[1, 1, 1, 1, 1]);
    let stats = with_queue_sizes(&topic);
    assert_eq!(choice_counts(&stats, 5, 50), [10; 5], "no partition has had a batch");
    set_queue_sizes(&topic, &[5, 0, 3, 0, 1]);
    let stats = with_queue_sizes(&topic);
    assert_eq!(choice_counts(&stats, 5, 42), [2, 12, 6, 12, 10], "two cycles");
    set_queue_sizes(&topic, &[4; 5]);
    assert_eq!(choice_counts(&with_queue_sizes(&topic), 5, 50), [10; 5], "all queues are equal");

    let topic = topic_with_leaders(&[1, 2, 3]);
    set_queue_sizes(&topic, &[1, 7, 2]);
    assert_eq!(choice_counts(&with_queue_sizes(&topic), 3, 14), [7, 1, 6]);
    let slow_node = topic.load_stats.load().with_queue_sizes(&topic.partitions, |p| p.index != 0);
    let counts = choice_counts(&slow_node, 3, 14);
    assert_eq!(counts, [0, 2, 12], "the partition of a slow node is not chosen");
    let recovered = slow_node.with_queue_sizes(&topic.partitions, |_| true);
    assert_eq!(choice_counts(&recovered, 3, 14), [7, 1, 6], "it is chosen again");

    let topic = topic_with_leaders(&[1, -1, 3]);
    set_queue_sizes(&topic, &[1, 0, 2]);
    let counts = choice_counts(&with_queue_sizes(&topic), 3, 6);
    assert_eq!(counts, [4, 0, 2], "a leaderless partition is not chosen");
}

// CASES: BI5.
#[test]
fn leaders_in_the_clients_rack_are_preferred_while_there_are_any() {
    let topic = topic_with_leaders(&[1, 2, 1]);
    let partitions = &topic.partitions;
    let rack: Rack = Some("a".into());
    let cluster = |racks: [&str; 2]| {
        let mut cluster = Cluster::default();
        for (id, rack) in [1, 2].into_iter().zip(racks) {
            let rack = (!rack.is_empty()).then(|| rack.into());
            cluster.nodes.insert(id, Node { id, host: "h".into(), port: 1, rack });
        }
        cluster
    };
    let stats = PartitionLoadStats::uniform(partitions, &rack, &cluster(["a", "b"]));
    assert_eq!(choice_counts(&stats, 3, 10), [5, 0, 5]);
    set_queue_sizes(&topic, &[3, 9, 1]);
    let weighted = stats.with_queue_sizes(partitions, |_| true);
    assert_eq!(choice_counts(&weighted, 3, 8), [2, 0, 6], "weighted within the rack");
    let stats = PartitionLoadStats::uniform(partitions, &rack, &cluster(["b", "b"]));
    assert_eq!(choice_counts(&stats, 3, 9), [3, 3, 3], "no leader in the rack: all others");
    let stats = PartitionLoadStats::uniform(partitions, &rack, &cluster(["", ""]));
    assert_eq!(choice_counts(&stats, 3, 9), [3, 3, 3], "brokers without a rack");
    partitions.get(0).unwrap().leader.store(-1, Relaxed);
    partitions.get(2).unwrap().leader.store(-1, Relaxed);
    let stats = PartitionLoadStats::uniform(partitions, &rack, &cluster(["a", "b"]));
    assert_eq!(choice_counts(&stats, 3, 9), [0, 9, 0], "the rack is down");
}

// CASES: BI1.
#[test]
fn with_one_partition_the_sticky_partition_switches_to_itself() {
    let topic = topic_with_leaders(&[1]);
    assert_eq!(choose_sticky(&topic, 7), 0);
    switch_partition(&topic, 0, 9);
    assert_eq!(choose_sticky(&topic, 7), 0);
    assert!(!split_stripe(&topic, 0, 3), "there is no other partition");
}

#[test]
fn sticky_partition_seldom_switches_to_itself() {
    let topic = topic_with_leaders(&[1; 12]);
    let mut unchanged = 0;
    for random in (0..12u64).flat_map(|a| (0..12u64).map(move |b| a | b << 32)) {
        let from = choose_sticky(&topic, 0);
        switch_partition(&topic, from, random);
        unchanged += u32::from(choose_sticky(&topic, 0) == from);
    }
    assert!(unchanged <= 4, "{unchanged} of 144 instead of 12");
}

#[test]
fn contending_threads_use_separate_partitions_until_the_stripes_merge() {
    let topic = topic_with_leaders(&[1; 12]);
    let own_partition = || choose_sticky(&topic, 3);
    let first = own_partition();
    assert!(split_stripe(&topic, first, 99));
    assert_ne!(own_partition(), first);
    let of_other_thread = std::thread::scope(|s| s.spawn(own_partition).join().unwrap());
    assert_eq!(of_other_thread, first, "another thread keeps the common partition");
    for random in 0..100 {
        switch_partition(&topic, own_partition(), random);
        assert_ne!(own_partition(), first, "split stripes avoid each other's partition");
    }
    topic.sticky_partition.merge_stripes();
    assert_eq!(own_partition(), first);
}
