//! The nodes of a cluster: tests stop and start them, delay their replication and move leaders.
//!
//! The socket server and the simulation call [`Core::tick`] at [`Core::next_deadline`]. Replication
//! has no thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use ottla_protocol::ErrorCode;

use crate::core::{ClockReading, Core};
use crate::partition::Partition;

/// Returns the delay of a follower's next fetch in milliseconds, for a node id.
type FetchDelayFn = Box<dyn FnMut(i32) -> u64 + Send>;

/// The state of all nodes.
pub(crate) struct Nodes {
    /// The node ids are 1 to `count`.
    pub(crate) count: i32,
    pub(crate) down: BTreeSet<i32>,
    /// Running nodes whose replicas do not fetch.
    pub(crate) replication_paused: BTreeSet<i32>,
    /// Advertised host and port, for nodes that have one.
    pub(crate) advertised_addresses: BTreeMap<i32, (String, u16)>,
    /// Kafka's `replica.lag.time.max.ms`: a follower that is behind for longer leaves the ISR.
    pub(crate) replica_lag_time_max_ms: u64,
    fetch_delay: Option<FetchDelayFn>,
    /// `throttle_time_ms` of a node's Produce responses.
    pub(crate) produce_throttle_ms: BTreeMap<i32, i32>,
}

/// Options of [`Core::move_leader`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MoveLeaderOptions {
    /// Whether the new leader first fetches the rest of the old leader's log.
    pub copy_first: bool,
    /// Whether a replica outside the ISR may become leader.
    pub allow_unclean: bool,
}

/// The result of [`Core::describe_partition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    /// The leader's node id, −1 without a leader.
    pub leader: i32,
    /// The node ids of the in-sync replicas.
    pub isr: Vec<i32>,
    /// The log end offset of each replica, by node id.
    pub log_end_offsets: BTreeMap<i32, i64>,
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

    /// Returns the live node with the lowest id as controller; −1 without a live node.
    pub(crate) fn controller_id(&self) -> i32 {
        self.live_nodes().next().unwrap_or(-1)
    }

    /// Schedules fetches for the followers of a partition that are behind. Those that are due at
    /// once may fail; the next tick tries them again.
    pub(crate) fn replicate(&mut self, p: &mut Partition, now: ClockReading) {
        // Taken out, so that the closures can borrow `self`.
        let mut fetch_delay = self.fetch_delay.take();
        let result = {
            let delay_ms = |node| fetch_delay.as_mut().map_or(0, |delay| delay(node));
            p.schedule_fetches(|n| self.can_fetch(n), delay_ms, now)
        };
        self.fetch_delay = fetch_delay;
        warn_if_failed(p, result);
    }
}

fn warn_if_failed(p: &Partition, replicated: io::Result<()>) {
    if let Err(e) = replicated {
        tracing::warn!(partition = p.name(), "replication failed: {e}");
    }
}

impl Core {
    /// Returns the number of nodes. Their ids count from 1.
    pub fn node_count(&self) -> i32 {
        self.nodes.count
    }

    /// Returns whether a node exists and is not stopped.
    pub fn is_up(&self, node: i32) -> bool {
        self.nodes.is_up(node)
    }

    /// Sets the address that clients are to connect to for a node.
    ///
    /// An empty host stands for the host that the client has connected to.
    pub fn set_advertised_address(&mut self, node: i32, host: &str, port: u16) {
        self.nodes.advertised_addresses.insert(node, (host.to_owned(), port));
    }

    /// Sets a function that returns the delay of each follower fetch in milliseconds.
    ///
    /// Its argument is the follower's node id. Without such a function, the default, followers
    /// replicate at once, and a record is acknowledged as soon as it arrives. A test of failover
    /// needs a delay, or [`set_replication_paused`](Self::set_replication_paused): only then are
    /// there records that the leader has and its followers have not.
    ///
    /// ```
    /// use ottla_broker::{EmbeddedBroker, NewTopic};
    ///
    /// let orders =
    ///     NewTopic::new("orders", 1).replication_factor(3).config("min.insync.replicas", "2");
    /// let broker = EmbeddedBroker::builder().node_count(3).new_topic(orders).start()?;
    /// // With `acks=all`, each record waits 30 ms for its followers.
    /// broker.with_core(|core, _| core.set_fetch_delay(|_follower| 30));
    /// // Here the program under test begins to send. Then the leader dies with records in flight:
    /// let leader = broker.leader("orders", 0).expect("all nodes run");
    /// broker.stop_node(leader);
    /// broker.start_node(leader)?; // It comes back as a follower.
    /// assert_ne!(broker.leader("orders", 0), Some(leader));
    /// broker.with_core(|core, _| core.clear_fetch_delay());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_fetch_delay(&mut self, delay: impl FnMut(i32) -> u64 + Send + 'static) {
        self.nodes.fetch_delay = Some(Box::new(delay) as FetchDelayFn);
    }

    /// Lets followers replicate without delay again. A fetch that waits keeps its delay.
    pub fn clear_fetch_delay(&mut self) {
        self.nodes.fetch_delay = None;
    }

    /// Sets how long a follower may be behind before it leaves the ISR (Kafka's
    /// `replica.lag.time.max.ms`); default 30 s.
    pub fn set_replica_lag_time_max(&mut self, ms: u64) {
        self.nodes.replica_lag_time_max_ms = ms;
    }

    /// Sets the throttle time in a node's Produce responses (KIP-219); 0, the default, is none.
    pub fn set_produce_throttle(&mut self, node: i32, ms: i32) {
        self.nodes.produce_throttle_ms.insert(node, ms);
    }

    /// Stops a node. The caller closes the node's connections.
    ///
    /// Replicas in the ISR take over the partitions that the node leads, with the log that they
    /// have.
    pub fn stop_node(&mut self, node: i32, now: ClockReading) {
        if !self.nodes.is_up(node) {
            return;
        }
        self.nodes.down.insert(node);
        self.cancel_node_produces(node);
        self.groups.cancel_node_requests(node);
        let Core { nodes, topics, .. } = self;
        for p in topics.by_name.values_mut().flat_map(|t| &mut t.partitions) {
            p.on_node_failure(node, |n| nodes.is_up(n), now.mono_ms);
        }
        self.schedule_all_fetches(now);
        self.elect_coordinators(now);
    }

    /// Starts a stopped node again, with the log that it had. Of each producer it knows the last
    /// five batches, or one (see [`BrokerConfig::restores_last_batch_only`]).
    ///
    /// [`BrokerConfig::restores_last_batch_only`]: crate::BrokerConfig::restores_last_batch_only
    pub fn start_node(&mut self, node: i32, now: ClockReading) {
        if !self.nodes.down.remove(&node) {
            return;
        }
        let Core { nodes, topics, config, .. } = self;
        for p in topics.by_name.values_mut().flat_map(|t| &mut t.partitions) {
            if config.restores_last_batch_only {
                p.replicas.iter_mut().filter(|r| r.node == node).for_each(|r| {
                    r.producer_state.keep_last_batches();
                });
            }
            p.elect_leader(|n| nodes.is_up(n), now.mono_ms);
        }
        self.schedule_all_fetches(now);
        self.elect_coordinators(now);
    }

    fn elect_coordinators(&mut self, now: ClockReading) {
        let nodes = &self.nodes;
        let moved = self.coordinators.elect(nodes.count, |n| nodes.is_up(n), now.mono_ms);
        self.on_coordinators_moved(&moved, now);
    }

    /// Pauses or resumes the fetches of a node's follower replicas.
    ///
    /// While the followers of a partition pause, no record with `acks=all` is acknowledged. If the
    /// leader then stops, the records since the pause are lost from the log, and a producer with
    /// retries sends them to the new leader. A follower leaves the ISR after
    /// [`set_replica_lag_time_max`](Self::set_replica_lag_time_max).
    pub fn set_replication_paused(&mut self, node: i32, paused: bool, now: ClockReading) {
        if paused {
            self.nodes.replication_paused.insert(node);
        } else {
            self.nodes.replication_paused.remove(&node);
        }
        self.schedule_all_fetches(now);
    }

    /// Makes replica `to` the leader of a partition; returns whether it now leads.
    ///
    /// With `copy_first`, the new leader first fetches the rest of the old leader's log. Otherwise
    /// records that it has not fetched are lost. A replica outside the ISR becomes leader only
    /// with `allow_unclean`.
    pub fn move_leader(
        &mut self,
        topic: &str,
        partition: i32,
        to: i32,
        options: MoveLeaderOptions,
        now: ClockReading,
    ) -> bool {
        let MoveLeaderOptions { copy_first, allow_unclean } = options;
        let Core { nodes, topics, .. } = self;
        let index = usize::try_from(partition).ok();
        let partition = topics.by_name.get_mut(topic).zip(index);
        let Some(p) = partition.and_then(|(t, i)| t.partitions.get_mut(i)) else {
            return false;
        };
        let is_candidate = p.replica(to).is_some() && nodes.is_up(to) && p.leader != to;
        if !is_candidate || !(allow_unclean || p.isr.contains(&to)) {
            return false;
        }
        if copy_first && let Err(e) = p.fetch_now(to, now.wall_ms) {
            tracing::warn!(partition = p.name(), "replication failed: {e}");
            return false;
        }
        p.make_leader(to, now.mono_ms);
        self.schedule_all_fetches(now);
        true
    }

    /// Restores a topic as from a backup of the cluster: it keeps its id and its leaders' logs, and
    /// its leader epochs begin again at 0. Returns whether an epoch is older than before.
    ///
    /// Node `to` leads the partitions of which it has a replica, if it runs.
    pub fn restore_topic(&mut self, topic: &str, to: i32, now: ClockReading) -> bool {
        let Core { nodes, topics, .. } = self;
        let Some(t) = topics.by_name.get_mut(topic).filter(|_| nodes.is_up(to)) else {
            return false;
        };
        let mut has_older_epoch = false;
        for p in &mut t.partitions {
            match p.restore(to, 0, now) {
                Ok(is_restored) => has_older_epoch |= is_restored,
                Err(e) => tracing::warn!(partition = p.name(), "replication failed: {e}"),
            }
        }
        self.schedule_all_fetches(now);
        has_older_epoch
    }

    /// Returns the throttle time in a node's Produce responses.
    pub fn produce_throttle(&self, node: i32) -> i32 {
        self.nodes.produce_throttle_ms.get(&node).copied().unwrap_or(0)
    }

    /// Returns a partition's leader (−1 for none), its ISR, and each replica's log end offset.
    pub fn describe_partition(&self, topic: &str, partition: i32) -> Option<PartitionDescription> {
        let t = self.topics.by_name.get(topic)?;
        let p = t.partitions.get(usize::try_from(partition).ok()?)?;
        Some(PartitionDescription {
            leader: p.leader,
            isr: p.isr.clone(),
            log_end_offsets: p.log_end_offsets(),
        })
    }

    /// Runs the fetches that are due and updates ISRs and high watermarks; aborts transactions that
    /// time out, writes transaction markers and removes the members of groups that have timed out.
    ///
    /// Delayed requests may be complete afterwards.
    pub fn tick(&mut self, now: ClockReading) {
        let Core { nodes, topics, .. } = self;
        for p in topics.by_name.values_mut().flat_map(|t| &mut t.partitions) {
            let ticked = p.tick(|n| nodes.can_fetch(n), now, nodes.replica_lag_time_max_ms);
            warn_if_failed(p, ticked);
        }
        self.schedule_all_fetches(now);
        self.tick_transactions(now);
        self.tick_groups(now);
    }

    /// Returns when [`Core::tick`] is due next, in milliseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        let deadlines = [
            self.next_replication_deadline(),
            self.next_produce_deadline(),
            self.transactions.next_deadline(),
            self.groups.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn next_replication_deadline(&self) -> Option<u64> {
        // A single node has no followers, whose fetches have deadlines. Every request needs the
        // next deadline, so it must not visit every partition for nothing.
        if self.nodes.count == 1 {
            return None;
        }
        let partitions = self.topics.by_name.values().flat_map(|t| &t.partitions);
        let deadline = |p: &Partition| {
            p.next_deadline(|n| self.nodes.can_fetch(n), self.nodes.replica_lag_time_max_ms)
        };
        partitions.filter_map(deadline).min()
    }

    /// Removes stopped nodes from the ISRs and leaderships of a topic.
    ///
    /// Needed for new partitions: they start with every replica in the ISR. Kafka's controller
    /// leaves stopped nodes out, too.
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
            nodes.replicate(p, now);
        }
        // A new leader may lack a marker, and replicas may have one now.
        self.write_due_markers(now);
    }

    /// Returns a partition if the given node leads it.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_OR_PARTITION, or NOT_LEADER_OR_FOLLOWER.
    pub(crate) fn leader_partition(
        &self,
        node: i32,
        topic: &str,
        partition: i32,
    ) -> Result<&Partition, ErrorCode> {
        let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        let topic = self.topics.by_name.get(topic).ok_or(unknown)?;
        let index = usize::try_from(partition).map_err(|_| unknown)?;
        let p = topic.partitions.get(index).ok_or(unknown)?;
        if p.leader == node { Ok(p) } else { Err(ErrorCode::NOT_LEADER_OR_FOLLOWER) }
    }
}
