//! A partition and its replicas: the leader, the ISR, replication and the high watermark.
//!
//! [`crate::append`] appends to the leader's log; [`crate::cluster`] schedules the fetches of the
//! followers. A follower copies the leader's batches byte for byte. If its log differs from the
//! leader's, it first truncates to the last common batch. The high watermark is the lowest log end
//! offset in the ISR: consumers read up to it, and `acks=all` waits for it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use ottla_protocol::record::{BatchHeaderView, BatchView};

use crate::core::ClockReading;
use crate::log::Log;
use crate::producer_state_manager::ProducerStateManager;

/// A node's replica of a partition.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) node: i32,
    pub(crate) log: Log,
    pub(crate) producer_state: ProducerStateManager,
    /// When the replica fell behind the leader, in ms; `None` while it has the whole log.
    behind_since: Option<u64>,
    /// When a follower fetches next; `None` while no fetch is scheduled.
    next_fetch_ms: Option<u64>,
    /// The log's directory; `None` for a log in memory.
    log_dir: Option<PathBuf>,
}

/// Kafka's file of leader epochs: a version, a count, then an epoch and its first offset per line.
const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";

/// A partition of a topic.
#[derive(Debug)]
pub(crate) struct Partition {
    name: String,
    /// The leader's node id; −1 without a leader.
    pub(crate) leader: i32,
    pub(crate) leader_epoch: i32,
    /// The replicas in order of assignment; the first is the preferred leader.
    pub(crate) replicas: Vec<Replica>,
    /// The in-sync replicas: the nodes that have every acknowledged record.
    pub(crate) isr: Vec<i32>,
    /// The offset after the last record that every in-sync replica has.
    pub(crate) high_watermark: i64,
}

impl Replica {
    pub(crate) fn new(
        node: i32,
        log: Log,
        producer_state: ProducerStateManager,
        log_dir: Option<PathBuf>,
    ) -> Replica {
        Replica { node, log, producer_state, behind_since: None, next_fetch_ms: None, log_dir }
    }

    /// Returns the last leader epoch that the replica knows.
    ///
    /// That is the epoch of its last batch, or a later one whose leader has appended nothing. Only
    /// the checkpoint file names the latter.
    pub(crate) fn latest_epoch(&self) -> i32 {
        let read_checkpoint = |dir: &PathBuf| {
            let text = std::fs::read_to_string(dir.join(LEADER_EPOCH_CHECKPOINT)).ok()?;
            text.lines().last()?.split_whitespace().next()?.parse::<i32>().ok()
        };
        self.log_dir.as_ref().and_then(read_checkpoint).unwrap_or(-1).max(self.log.latest_epoch())
    }

    fn write_epoch_checkpoint(&self, epoch: i32) {
        let Some(dir) = &self.log_dir else { return };
        let text = format!("0\n1\n{epoch} {}\n", self.log.log_end_offset());
        let path = dir.join(LEADER_EPOCH_CHECKPOINT);
        if let Err(e) = std::fs::write(&path, text) {
            tracing::warn!(file = %path.display(), "leader epoch not written: {e}");
        }
    }

    /// Copies the batches of the leader's log that this log lacks.
    ///
    /// Batches that only this log has are removed first: the leader's log decides.
    fn replicate_from(&mut self, leader_log: &Log, now_wall_ms: i64) -> io::Result<()> {
        let common = self.log.common_end_offset(leader_log);
        if common < self.log.log_end_offset() {
            self.log.truncate_to(common)?;
            // The producer state names removed batches: it is rebuilt from those that are left.
            self.producer_state = ProducerStateManager::default();
            for bytes in self.log.read_from(self.log.log_start_offset())? {
                if let Ok(batch) = BatchView::parse(&bytes) {
                    let base_offset = batch.header().base_offset;
                    self.producer_state.on_batch(&batch, base_offset, now_wall_ms);
                }
            }
        }
        for bytes in leader_log.read_from(common)? {
            let Ok(batch) = BatchView::parse(&bytes) else {
                return Err(io::Error::other("a batch of the leader is not valid"));
            };
            let base_offset = batch.header().base_offset;
            let view = BatchHeaderView::parse(&bytes).map_err(io::Error::other)?;
            self.log.append_as_follower(&bytes, &view)?;
            self.producer_state.on_batch(&batch, base_offset, now_wall_ms);
        }
        Ok(())
    }
}

impl Partition {
    /// Creates a partition; the replica with the most complete log leads it.
    ///
    /// The most complete log has the highest last epoch, and of these the highest end offset.
    pub(crate) fn new(name: String, replicas: Vec<Replica>, leader_epoch: i32) -> Partition {
        let isr = replicas.iter().map(|r| r.node).collect();
        let mut leader = replicas.first().map_or(-1, |r| r.node);
        for r in &replicas {
            let best = replicas.iter().find(|b| b.node == leader);
            if best.is_some_and(|b| r.log.epoch_and_end_offset() > b.log.epoch_and_end_offset()) {
                leader = r.node;
            }
        }
        Partition { name, leader, leader_epoch, replicas, isr, high_watermark: 0 }
    }

    /// Returns `topic-partition`, which is also the directory's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn replica(&self, node: i32) -> Option<&Replica> {
        self.replicas.iter().find(|r| r.node == node)
    }

    /// Returns the leader's replica.
    pub(crate) fn leader_replica(&self) -> Option<&Replica> {
        self.replica(self.leader)
    }

    /// Returns the leader's replica. Without a leader, it is the first replica in the ISR.
    pub(crate) fn readable_replica(&self) -> Option<&Replica> {
        self.leader_replica().or_else(|| self.isr.first().and_then(|n| self.replica(*n)))
    }

    /// Returns the leader's replica, for appends.
    pub(crate) fn leader_replica_mut(&mut self) -> Option<&mut Replica> {
        let leader = self.leader;
        self.replicas.iter_mut().find(|r| r.node == leader)
    }

    /// Schedules a fetch for each follower that is behind and may fetch.
    ///
    /// `delay_ms` returns the delay for a node id. A fetch with delay 0 runs at once.
    pub(crate) fn schedule_fetches(
        &mut self,
        can_fetch: impl Fn(i32) -> bool,
        mut delay_ms: impl FnMut(i32) -> u64,
        now: ClockReading,
    ) -> io::Result<()> {
        let Some(end) = self.leader_replica().map(|l| l.log.log_end_offset()) else {
            return Ok(());
        };
        let leader = self.leader;
        let mut at_once = false;
        for r in self.replicas.iter_mut().filter(|r| r.node != leader) {
            let in_sync = self.isr.contains(&r.node) && r.behind_since.is_none();
            if r.log.log_end_offset() == end && in_sync {
                continue;
            }
            r.behind_since.get_or_insert(now.mono_ms);
            if can_fetch(r.node) && r.next_fetch_ms.is_none() {
                let delay = delay_ms(r.node);
                at_once |= delay == 0;
                r.next_fetch_ms = Some(now.mono_ms + delay);
            }
        }
        if at_once {
            // No follower leaves the ISR here: only `Core::tick` passes the configured limit.
            self.tick(can_fetch, now, u64::MAX)?;
        }
        self.update_high_watermark();
        Ok(())
    }

    /// Removes the leader's replica and its index, so that followers can read from it.
    fn take_leader_replica(&mut self) -> Option<(usize, Replica)> {
        let index = self.replicas.iter().position(|r| r.node == self.leader)?;
        Some((index, self.replicas.remove(index)))
    }

    /// Copies the whole log to one follower at once, whether a fetch is due or not.
    pub(crate) fn fetch_now(&mut self, node: i32, wall_ms: i64) -> io::Result<()> {
        let Some((index, leader)) = self.take_leader_replica() else { return Ok(()) };
        let follower = self.replicas.iter_mut().find(|r| r.node == node);
        let result = follower.map_or(Ok(()), |r| {
            r.replicate_from(&leader.log, wall_ms)?;
            (r.behind_since, r.next_fetch_ms) = (None, None);
            Ok(())
        });
        self.replicas.insert(index, leader);
        self.update_high_watermark();
        result
    }

    /// Runs the fetches that are due, and updates the ISR and the high watermark.
    ///
    /// A follower that has the whole log joins the ISR. One that is behind for
    /// `lag_time_max_ms` leaves it.
    pub(crate) fn tick(
        &mut self,
        can_fetch: impl Fn(i32) -> bool,
        now: ClockReading,
        lag_time_max_ms: u64,
    ) -> io::Result<()> {
        let Some((index, leader)) = self.take_leader_replica() else { return Ok(()) };
        let leader_end = leader.log.log_end_offset();
        let mut result = Ok(());
        for r in &mut self.replicas {
            if can_fetch(r.node) && r.next_fetch_ms.is_some_and(|at| at <= now.mono_ms) {
                r.next_fetch_ms = None;
                match r.replicate_from(&leader.log, now.wall_ms) {
                    Ok(()) => r.behind_since = None,
                    Err(e) => result = Err(e),
                }
            }
            let is_caught_up = r.behind_since.is_none() && r.log.log_end_offset() == leader_end;
            let is_in_sync = self.isr.contains(&r.node);
            if is_caught_up && !is_in_sync && can_fetch(r.node) {
                self.isr.push(r.node);
            }
            let leaves_isr_at = r.behind_since.map(|since| since.saturating_add(lag_time_max_ms));
            if is_in_sync && leaves_isr_at.is_some_and(|at| at <= now.mono_ms) {
                self.isr.retain(|n| *n != r.node);
            }
        }
        self.replicas.insert(index, leader);
        self.update_high_watermark();
        result
    }

    /// Returns when [`tick`](Partition::tick) is due next, in ms of the monotonic clock.
    pub(crate) fn next_deadline(
        &self,
        can_fetch: impl Fn(i32) -> bool,
        lag_time_max_ms: u64,
    ) -> Option<u64> {
        self.leader_replica()?;
        let followers = self.replicas.iter().filter(|r| r.node != self.leader);
        let deadlines = followers.flat_map(|r| {
            let fetch = r.next_fetch_ms.filter(|_| can_fetch(r.node));
            let behind_since = r.behind_since.filter(|_| self.isr.contains(&r.node));
            let leaves_isr_at = behind_since.map(|since| since.saturating_add(lag_time_max_ms));
            [fetch, leaves_isr_at]
        });
        deadlines.flatten().min()
    }

    /// Raises the high watermark to the lowest log end offset in the ISR.
    ///
    /// It decreases only if the leader's log is shorter, after an unclean election.
    fn update_high_watermark(&mut self) {
        let in_sync = self.replicas.iter().filter(|r| self.isr.contains(&r.node));
        if let Some(min_end) = in_sync.map(|r| r.log.log_end_offset()).min() {
            self.high_watermark = self.high_watermark.max(min_end);
        }
        if let Some(end) = self.leader_replica().map(|l| l.log.log_end_offset()) {
            self.high_watermark = self.high_watermark.min(end);
        }
        for r in &mut self.replicas {
            r.producer_state.transactions.on_high_watermark(self.high_watermark);
        }
    }

    /// Deletes old segments (`retention.bytes`). What a replica still lacks, and what is not stable
    /// yet, stays.
    pub(crate) fn delete_old_segments(&mut self, retention_bytes: u64) -> io::Result<()> {
        let ends = self.replicas.iter().map(|r| r.log.log_end_offset());
        let end = ends.min().unwrap_or(0).min(self.last_stable_offset());
        self.replicas.iter_mut().try_for_each(|r| r.log.delete_old_segments(retention_bytes, end))
    }

    /// Returns the end of what consumers with `isolation.level=read_committed` read.
    pub(crate) fn last_stable_offset(&self) -> i64 {
        let leader = self.leader_replica();
        leader.map_or(self.high_watermark, |l| {
            l.producer_state.transactions.last_stable_offset(self.high_watermark)
        })
    }

    /// Makes a node the leader under a new leader epoch.
    ///
    /// Followers compare their log with the new leader's. The epoch fences requests that name the
    /// old leader, and delayed Produce requests fail with NOT_LEADER_OR_FOLLOWER.
    pub(crate) fn make_leader(&mut self, node: i32, now_ms: u64) {
        self.leader = node;
        self.leader_epoch = self.leader_epoch.saturating_add(1);
        if !self.isr.contains(&node) {
            // An unclean election: no other replica is in sync with the new leader's log.
            self.isr = vec![node];
        }
        let Some(leader) = self.leader_replica() else { return };
        leader.write_epoch_checkpoint(self.leader_epoch);
        let leader_end = leader.log.epoch_and_end_offset();
        for r in &mut self.replicas {
            r.next_fetch_ms = None;
            let is_caught_up = r.log.epoch_and_end_offset() == leader_end;
            r.behind_since = (r.node != node && !is_caught_up).then_some(now_ms);
        }
        self.update_high_watermark();
    }

    /// Replaces every replica by the leader's, makes `node` the leader if it has a replica, and
    /// begins the leader epochs again at `epoch`.
    ///
    /// Returns false without a leader, or if the epoch is not newer than `epoch`. After the copy
    /// no two replicas differ in batches of the earlier epochs, so an epoch that is used again
    /// names one batch at each offset.
    pub(crate) fn restore(&mut self, node: i32, epoch: i32, now: ClockReading) -> io::Result<bool> {
        if self.leader_replica().is_none() || self.leader_epoch <= epoch {
            return Ok(false);
        }
        let old_leader = self.leader;
        for follower in self.assigned_replicas().into_iter().filter(|n| *n != old_leader) {
            self.fetch_now(follower, now.wall_ms)?;
        }
        let leader = if self.replica(node).is_some() { node } else { old_leader };
        self.leader_epoch = epoch - 1;
        self.make_leader(leader, now.mono_ms);
        Ok(true)
    }

    /// Removes a stopped node from the ISR and elects another leader if the node led.
    pub(crate) fn on_node_failure(
        &mut self,
        node: i32,
        is_alive: impl Fn(i32) -> bool,
        now_ms: u64,
    ) {
        // The last in-sync replica stays in the ISR: only it has every acknowledged record.
        if self.isr.len() > 1 {
            self.isr.retain(|n| *n != node);
        }
        for r in self.replicas.iter_mut().filter(|r| r.node == node) {
            (r.next_fetch_ms, r.behind_since) = (None, Some(now_ms));
        }
        if self.leader == node {
            self.leader = -1;
            self.elect_leader(is_alive, now_ms);
            if self.leader == -1 {
                // The loss of the leader is a new epoch, too, so that clients refresh metadata.
                self.leader_epoch = self.leader_epoch.saturating_add(1);
            }
        }
        self.update_high_watermark();
    }

    /// Elects the first live in-sync replica, in order of assignment, if there is no leader.
    pub(crate) fn elect_leader(&mut self, is_alive: impl Fn(i32) -> bool, now_ms: u64) {
        if self.leader != -1 {
            return;
        }
        let mut nodes = self.replicas.iter().map(|r| r.node);
        if let Some(node) = nodes.find(|n| is_alive(*n) && self.isr.contains(n)) {
            self.make_leader(node, now_ms);
        }
    }

    /// Returns the nodes of all replicas, in order of assignment.
    pub(crate) fn assigned_replicas(&self) -> Vec<i32> {
        self.replicas.iter().map(|r| r.node).collect()
    }

    /// Returns each replica's log end offset, by node.
    pub(crate) fn log_end_offsets(&self) -> BTreeMap<i32, i64> {
        self.replicas.iter().map(|r| (r.node, r.log.log_end_offset())).collect()
    }
}
