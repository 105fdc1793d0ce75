//! What happens to nodes: they end and come back, lag, lead. The driver says when; time is given.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use ottla_protocol::ErrorCode;

use crate::core::{Core, Now};
use crate::partition::Partition;

/// Milliseconds a follower takes to copy what is new, by node.
type LagRule = Box<dyn FnMut(i32) -> u64 + Send>;

/// The nodes.
pub(crate) struct Nodes {
    /// 1 to this.
    pub(crate) count: i32,
    pub(crate) down: BTreeSet<i32>,
    /// Alive, but copying nothing.
    pub(crate) paused: BTreeSet<i32>,
    /// Where clients are told to go, where that is not where they came in by.
    pub(crate) addresses: BTreeMap<i32, (String, u16)>,
    /// Milliseconds after which a follower that is behind leaves the ISR (`replica.lag.time.max.ms`).
    pub(crate) patience_ms: u64,
    lag: Option<LagRule>,
    /// Milliseconds that answers to Produce ask a client to wait, per node.
    pub(crate) throttle: BTreeMap<i32, i32>,
}

impl Nodes {
    pub(crate) fn new(count: i32) -> Nodes {
        Nodes {
            count,
            down: BTreeSet::new(),
            paused: BTreeSet::new(),
            addresses: BTreeMap::new(),
            patience_ms: 30_000,
            lag: None,
            throttle: BTreeMap::new(),
        }
    }

    pub(crate) fn is_up(&self, node: i32) -> bool {
        (1..=self.count).contains(&node) && !self.down.contains(&node)
    }

    fn copies(&self, node: i32) -> bool {
        self.is_up(node) && !self.paused.contains(&node)
    }

    pub(crate) fn up(&self) -> impl Iterator<Item = i32> + '_ {
        (1..=self.count).filter(|n| self.is_up(*n))
    }

    /// The node that speaks for the cluster.
    pub(crate) fn controller(&self) -> i32 {
        self.up().next().unwrap_or(-1)
    }

    /// Lets a partition's followers copy.
    pub(crate) fn replicate(&mut self, p: &mut Partition, now: Now) -> io::Result<()> {
        let mut lag = self.lag.take();
        let done = {
            let wait = |node| lag.as_mut().map_or(0, |rule| rule(node));
            p.follow(|n| self.copies(n), wait, now.mono_ms, now.wall_ms)
        };
        self.lag = lag;
        done
    }
}

impl Core {
    /// How many nodes there are: 1 to this.
    pub fn nodes(&self) -> i32 {
        self.nodes.count
    }

    /// Whether a node runs.
    pub fn is_up(&self, node: i32) -> bool {
        self.nodes.is_up(node)
    }

    /// Where clients are told to find a node.
    pub fn set_address(&mut self, node: i32, host: &str, port: u16) {
        self.nodes.addresses.insert(node, (host.to_owned(), port));
    }

    /// Followers copy so many milliseconds after there is something new, each time as this rule says; at once
    /// without one.
    pub fn set_lag(&mut self, rule: Option<impl FnMut(i32) -> u64 + Send + 'static>) {
        self.nodes.lag = rule.map(|r| Box::new(r) as LagRule);
    }

    /// A follower that is behind for so long leaves the ISR (`replica.lag.time.max.ms`).
    pub fn set_patience(&mut self, ms: u64) {
        self.nodes.patience_ms = ms;
    }

    /// Answers to Produce from this node ask clients to wait so long (KIP-219); 0 for no longer.
    pub fn set_throttle(&mut self, node: i32, ms: i32) {
        self.nodes.throttle.insert(node, ms);
    }

    /// A node ends: its connections are the driver's to close.
    pub fn stop_node(&mut self, node: i32, now: Now) {
        if !self.nodes.is_up(node) {
            return;
        }
        self.nodes.down.insert(node);
        self.forget_waiting(node);
        let Core { nodes, topics, .. } = self;
        for p in topics.all.values_mut().flat_map(|t| &mut t.partitions) {
            p.lose(node, |n| nodes.is_up(n), now.mono_ms);
        }
        self.follow_all(now);
    }

    /// A node comes back with the log it had.
    pub fn start_node(&mut self, node: i32, now: Now) {
        if !self.nodes.down.remove(&node) {
            return;
        }
        let Core { nodes, topics, .. } = self;
        for p in topics.all.values_mut().flat_map(|t| &mut t.partitions) {
            p.elect(|n| nodes.is_up(n), now.mono_ms);
        }
        self.follow_all(now);
    }

    /// A follower copies nothing for a while, or again.
    pub fn pause_node(&mut self, node: i32, paused: bool, now: Now) {
        if paused {
            self.nodes.paused.insert(node);
        } else {
            self.nodes.paused.remove(&node);
        }
        self.follow_all(now);
    }

    /// Another replica leads. Where `keep`, it has everything the old one had; otherwise what it had not copied yet
    /// is lost. Only a replica in sync may, unless `unclean`. True if it now leads.
    pub fn move_leader(
        &mut self,
        topic: &str,
        partition: i32,
        to: i32,
        (keep, unclean): (bool, bool),
        now: Now,
    ) -> bool {
        let Core { nodes, topics, .. } = self;
        let found = topics.all.get_mut(topic).zip(usize::try_from(partition).ok());
        let Some(p) = found.and_then(|(t, i)| t.partitions.get_mut(i)) else {
            return false;
        };
        let fit = p.replica(to).is_some() && nodes.is_up(to) && p.leader != to;
        if !fit || !(unclean || p.isr.contains(&to)) {
            return false;
        }
        if keep {
            // What is on its way is let through first.
            if let Err(e) = p.copy_now(to, now.wall_ms) {
                tracing::error!(partition = p.name(), "a replica failed: {e}");
                return false;
            }
        }
        p.lead(to, now.mono_ms);
        self.follow_all(now);
        true
    }

    /// Who leads a partition, who is in sync, and where each replica's log ends.
    pub fn state_of(
        &self,
        topic: &str,
        partition: i32,
    ) -> Option<(i32, Vec<i32>, BTreeMap<i32, i64>)> {
        let t = self.topics.all.get(topic)?;
        let p = t.partitions.get(usize::try_from(partition).ok()?)?;
        Some((p.leader, p.isr.clone(), p.ends()))
    }

    /// Does what is due by now: followers copy, the ISR follows, produces that waited may be answered.
    pub fn tick(&mut self, now: Now) {
        let Core { nodes, topics, .. } = self;
        for p in topics.all.values_mut().flat_map(|t| &mut t.partitions) {
            let ticked = p.tick(|n| nodes.copies(n), now.mono_ms, now.wall_ms, nodes.patience_ms);
            if let Err(e) = ticked {
                tracing::error!(partition = p.name(), "a replica failed: {e}");
            }
        }
        self.follow_all(now);
    }

    /// When something is due next, in milliseconds of the monotonic clock.
    pub fn next_due(&self) -> Option<u64> {
        let partitions = self.topics.all.values().flat_map(|t| &t.partitions);
        let due = |p: &Partition| p.next_due(|n| self.nodes.copies(n), self.nodes.patience_ms);
        partitions.filter_map(due).chain(self.waiting_until()).min()
    }

    /// A topic that was made or widened while nodes are down does without them, as Kafka's controller has it.
    pub(crate) fn without_the_dead(&mut self, topic: &str, now: Now) {
        let Core { nodes, topics, .. } = self;
        let Some(t) = topics.all.get_mut(topic) else { return };
        for p in &mut t.partitions {
            for node in nodes.down.iter().copied() {
                if p.isr.contains(&node) || p.leader == node {
                    p.lose(node, |n| nodes.is_up(n), now.mono_ms);
                }
            }
        }
    }

    fn follow_all(&mut self, now: Now) {
        let Core { nodes, topics, .. } = self;
        for p in topics.all.values_mut().flat_map(|t| &mut t.partitions) {
            if let Err(e) = nodes.replicate(p, now) {
                tracing::error!(partition = p.name(), "a replica failed: {e}");
            }
        }
    }

    /// A partition of a topic as node `at` sees it: only its leader answers for it.
    pub(crate) fn led_by(
        &self,
        at: i32,
        topic: &str,
        partition: i32,
    ) -> Result<&Partition, ErrorCode> {
        let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        let topic = self.topics.all.get(topic).ok_or(unknown)?;
        let index = usize::try_from(partition).map_err(|_| unknown)?;
        let p = topic.partitions.get(index).ok_or(unknown)?;
        if p.leader == at { Ok(p) } else { Err(ErrorCode::NOT_LEADER_OR_FOLLOWER) }
    }
}
