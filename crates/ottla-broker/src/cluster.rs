//! What happens to nodes: they end and come back, lag, lead. The driver says when; time is given.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use ottla_protocol::ErrorCode;

use crate::core::{ClockReading, Core};
use crate::partition::Partition;

/// Milliseconds a follower takes to copy what is new, by node.
type FetchDelayFn = Box<dyn FnMut(i32) -> u64 + Send>;

/// The nodes.
pub(crate) struct Nodes {
    /// 1 to this.
    pub(crate) count: i32,
    pub(crate) down: BTreeSet<i32>,
    /// Alive, but copying nothing.
    pub(crate) replication_paused: BTreeSet<i32>,
    /// Where clients are told to go, where that is not where they came in by.
    pub(crate) advertised_addresses: BTreeMap<i32, (String, u16)>,
    /// Milliseconds after which a follower that is behind leaves the ISR (`replica.lag.time.max.ms`).
    pub(crate) replica_lag_time_max_ms: u64,
    fetch_delay: Option<FetchDelayFn>,
    /// Milliseconds that answers to Produce ask a client to wait, per node.
    pub(crate) produce_throttle_ms: BTreeMap<i32, i32>,
}

impl Nodes {
    pub(crate) fn new(count: i32) -> Nodes {
        Nodes {
            count,
            down: BTreeSet::new(),
            replication_paused: BTreeSet::new(),
            advertised_addresses: BTreeMap::new(),
            replica_lag_time_max_ms: 30_000,
            fetch_delay: None,
            produce_throttle_ms: BTreeMap::new(),
        }
    }

    pub(crate) fn is_up(&self, node: i32) -> bool {
        (1..=self.count).contains(&node) && !self.down.contains(&node)
    }

    fn can_fetch(&self, node: i32) -> bool {
        self.is_up(node) && !self.replication_paused.contains(&node)
    }

    pub(crate) fn live_nodes(&self) -> impl Iterator<Item = i32> + '_ {
        (1..=self.count).filter(|n| self.is_up(*n))
    }

    /// The node that speaks for the cluster.
    pub(crate) fn controller_id(&self) -> i32 {
        self.live_nodes().next().unwrap_or(-1)
    }

    /// Lets a partition's followers copy.
    pub(crate) fn replicate(&mut self, p: &mut Partition, now: ClockReading) -> io::Result<()> {
        let mut lag = self.fetch_delay.take();
        let done = {
            let wait = |node| lag.as_mut().map_or(0, |rule| rule(node));
            p.schedule_fetches(|n| self.can_fetch(n), wait, now.mono_ms, now.wall_ms)
        };
        self.fetch_delay = lag;
        done
    }
}

impl Core {
    /// How many nodes there are: 1 to this.
    pub fn node_count(&self) -> i32 {
        self.nodes.count
    }

    /// Whether a node runs.
    pub fn is_up(&self, node: i32) -> bool {
        self.nodes.is_up(node)
    }

    /// Where clients are told to find a node.
    pub fn set_advertised_address(&mut self, node: i32, host: &str, port: u16) {
        self.nodes.advertised_addresses.insert(node, (host.to_owned(), port));
    }

    /// Followers copy so many milliseconds after there is something new, each time as this rule says; at once
    /// without one.
    pub fn set_fetch_delay(&mut self, rule: Option<impl FnMut(i32) -> u64 + Send + 'static>) {
        self.nodes.fetch_delay = rule.map(|r| Box::new(r) as FetchDelayFn);
    }

    /// A follower that is behind for so long leaves the ISR (`replica.lag.time.max.ms`).
    pub fn set_replica_lag_time_max(&mut self, ms: u64) {
        self.nodes.replica_lag_time_max_ms = ms;
    }

    /// Answers to Produce from this node ask clients to wait so long (KIP-219); 0 for no longer.
    pub fn set_produce_throttle(&mut self, node: i32, ms: i32) {
        self.nodes.produce_throttle_ms.insert(node, ms);
    }

    /// A node ends: its connections are the driver's to close.
    pub fn stop_node(&mut self, node: i32, now: ClockReading) {
        if !self.nodes.is_up(node) {
            return;
        }
        self.nodes.down.insert(node);
        self.cancel_node_produces(node);
        let Core { nodes, topics, .. } = self;
        for p in topics.by_name.values_mut().flat_map(|t| &mut t.partitions) {
            p.on_node_failure(node, |n| nodes.is_up(n), now.mono_ms);
        }
        self.schedule_all_fetches(now);
    }

    /// A node comes back with the log it had.
    pub fn start_node(&mut self, node: i32, now: ClockReading) {
        if !self.nodes.down.remove(&node) {
            return;
        }
        let Core { nodes, topics, .. } = self;
        for p in topics.by_name.values_mut().flat_map(|t| &mut t.partitions) {
            p.elect_leader(|n| nodes.is_up(n), now.mono_ms);
        }
        self.schedule_all_fetches(now);
    }

    /// A follower copies nothing for a while, or again.
    pub fn set_replication_paused(&mut self, node: i32, paused: bool, now: ClockReading) {
        if paused {
            self.nodes.replication_paused.insert(node);
        } else {
            self.nodes.replication_paused.remove(&node);
        }
        self.schedule_all_fetches(now);
    }

    /// Another replica leads. Where `keep`, it has everything the old one had; otherwise what it had not copied yet
    /// is lost. Only a replica in sync may, unless `unclean`. True if it now leads.
    pub fn move_leader(
        &mut self,
        topic: &str,
        partition: i32,
        to: i32,
        (keep, unclean): (bool, bool),
        now: ClockReading,
    ) -> bool {
        let Core { nodes, topics, .. } = self;
        let found = topics.by_name.get_mut(topic).zip(usize::try_from(partition).ok());
        let Some(p) = found.and_then(|(t, i)| t.partitions.get_mut(i)) else {
            return false;
        };
        let fit = p.replica(to).is_some() && nodes.is_up(to) && p.leader != to;
        if !fit || !(unclean || p.isr.contains(&to)) {
            return false;
        }
        if keep {
            // What is on its way is let through first.
            if let Err(e) = p.fetch_now(to, now.wall_ms) {
                tracing::error!(partition = p.name(), "a replica failed: {e}");
                return false;
            }
        }
        p.make_leader(to, now.mono_ms);
        self.schedule_all_fetches(now);
        true
    }

    /// Who leads a partition, who is in sync, and where each replica's log ends.
    pub fn describe_partition(
        &self,
        topic: &str,
        partition: i32,
    ) -> Option<(i32, Vec<i32>, BTreeMap<i32, i64>)> {
        let t = self.topics.by_name.get(topic)?;
        let p = t.partitions.get(usize::try_from(partition).ok()?)?;
        Some((p.leader, p.isr.clone(), p.log_end_offsets()))
    }

    /// Does what is due by now: followers copy, the ISR follows, produces that waited may be answered.
    pub fn tick(&mut self, now: ClockReading) {
        let Core { nodes, topics, .. } = self;
        for p in topics.by_name.values_mut().flat_map(|t| &mut t.partitions) {
            let ticked = p.tick(
                |n| nodes.can_fetch(n),
                now.mono_ms,
                now.wall_ms,
                nodes.replica_lag_time_max_ms,
            );
            if let Err(e) = ticked {
                tracing::error!(partition = p.name(), "a replica failed: {e}");
            }
        }
        self.schedule_all_fetches(now);
    }

    /// When something is due next, in milliseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        let partitions = self.topics.by_name.values().flat_map(|t| &t.partitions);
        let due = |p: &Partition| {
            p.next_deadline(|n| self.nodes.can_fetch(n), self.nodes.replica_lag_time_max_ms)
        };
        partitions.filter_map(due).chain(self.next_produce_deadline()).min()
    }

    /// A topic that was made or widened while nodes are down does without them, as Kafka's controller has it.
    pub(crate) fn remove_down_replicas(&mut self, topic: &str, now: ClockReading) {
        let Core { nodes, topics, .. } = self;
        let Some(t) = topics.by_name.get_mut(topic) else { return };
        for p in &mut t.partitions {
            for node in nodes.down.iter().copied() {
                if p.isr.contains(&node) || p.leader == node {
                    p.on_node_failure(node, |n| nodes.is_up(n), now.mono_ms);
                }
            }
        }
    }

    fn schedule_all_fetches(&mut self, now: ClockReading) {
        let Core { nodes, topics, .. } = self;
        for p in topics.by_name.values_mut().flat_map(|t| &mut t.partitions) {
            if let Err(e) = nodes.replicate(p, now) {
                tracing::error!(partition = p.name(), "a replica failed: {e}");
            }
        }
    }

    /// A partition of a topic as node `at` sees it: only its leader answers for it.
    pub(crate) fn leader_partition(
        &self,
        at: i32,
        topic: &str,
        partition: i32,
    ) -> Result<&Partition, ErrorCode> {
        let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        let topic = self.topics.by_name.get(topic).ok_or(unknown)?;
        let index = usize::try_from(partition).map_err(|_| unknown)?;
        let p = topic.partitions.get(index).ok_or(unknown)?;
        if p.leader == at { Ok(p) } else { Err(ErrorCode::NOT_LEADER_OR_FOLLOWER) }
    }
}
