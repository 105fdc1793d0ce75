//! The load statistics of topics, by which callers choose partitions without a key (KIP-794).
//!
//! The ready tracker reports changes of queues, and the sender reports when a node could take its
//! batches. The result goes into each topic's `load_stats`, which callers read.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ready::DrainContext;
use crate::accumulator::partition::Partition;
use crate::collections::HashMap;
use crate::config::PartitioningStrategy;
use crate::time::Tick;

/// When a node last had a ready batch, and when it could last take one (Kafka's
/// `NodeLatencyStats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeLatency {
    /// When the node last had a ready batch.
    pub(crate) ready_at: Tick,
    /// When the node last had a ready batch and could take it.
    pub(crate) drained_at: Tick,
}

/// What the load statistics are computed from.
#[derive(Debug, Default)]
pub(crate) struct LoadStats {
    /// Topics whose queues changed since their load statistics were computed, and the number of
    /// changes.
    queue_changes: BTreeMap<Arc<str>, usize>,
    node_latencies: HashMap<i32, NodeLatency>,
}

impl LoadStats {
    /// Counts a change of the number of batches in a queue of a topic.
    pub(super) fn queue_changed(&mut self, topic: &Arc<str>) {
        *self.queue_changes.entry(topic.clone()).or_default() += 1;
    }

    /// Records that a node had a ready batch, and whether it could take it (CASES SN7).
    pub(crate) fn update_node_latency(&mut self, node: i32, now: Tick, can_drain: bool) {
        let new = NodeLatency { ready_at: now, drained_at: now };
        let latency = self.node_latencies.entry(node).or_insert(new);
        latency.ready_at = now;
        if can_drain {
            latency.drained_at = now;
        }
    }

    #[cfg(test)]
    pub(crate) fn node_latency(&self, node: i32) -> Option<NodeLatency> {
        self.node_latencies.get(&node).copied()
    }

    /// Lets the next update recompute the statistics of these topics. A metadata update has
    /// replaced them by uniform ones.
    pub(super) fn reset(&mut self, topics: impl Iterator<Item = Arc<str>>) {
        // Above every threshold, and half of the maximum so that later changes do not overflow it.
        self.queue_changes.extend(topics.map(|t| (t, usize::MAX / 2)));
    }

    /// Recomputes the statistics of topics whose queues changed. The cost grows with the number of
    /// partitions, so it waits for two changes per partition: the cost of one change does not
    /// depend on the topic's size.
    pub(super) fn update(&mut self, cx: DrainContext<'_>) {
        if self.queue_changes.is_empty()
            || matches!(cx.accumulator.settings.partitioning, PartitioningStrategy::RoundRobin)
        {
            self.queue_changes.clear();
            return;
        }
        let timeout = cx.accumulator.settings.availability_timeout;
        let latencies = &self.node_latencies;
        self.queue_changes.retain(|name, changes| {
            let Some(topic) = cx.accumulator.topics.get(name) else { return false };
            if *changes < topic.partitions.len() * 2 {
                return true;
            }
            let is_available = |p: &Partition| {
                let leader = cx.cluster.leader(&p.topic, p.index).node_id;
                let delay = latencies.get(&leader).map(|l| l.ready_at.since(l.drained_at));
                timeout.is_zero() || delay.is_none_or(|delay| delay <= timeout)
            };
            topic.update_load_stats(is_available);
            false
        });
    }
}
