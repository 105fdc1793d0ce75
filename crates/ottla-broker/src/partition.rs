//! One partition and its replicas: who leads, who is in sync, how far everybody has what the leader has.
//!
//! Followers copy what the leader has, byte for byte; a follower whose log went another way is cut back to where
//! both agree first. The high watermark is what every replica in sync has: no more is ever shown or claimed.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use ottla_protocol::record::BatchHeaderView;

use crate::log::Log;
use crate::producer_state_manager::ProducerStateManager;

/// A node's copy of a partition.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) node: i32,
    pub(crate) log: Log,
    pub(crate) producer_state: ProducerStateManager,
    /// Since when it has not had all that the leader has; `None` while it has.
    behind_since: Option<u64>,
    /// When it copies next, if it is to.
    next_fetch_ms: Option<u64>,
    /// Where it stands on disk.
    log_dir: Option<PathBuf>,
}

/// Kafka's file of a partition's leader epochs: a version, a count, then epoch and first offset of each.
const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";

/// One partition.
#[derive(Debug)]
pub(crate) struct Partition {
    name: String,
    /// The leader's node id; −1 for none.
    pub(crate) leader: i32,
    pub(crate) leader_epoch: i32,
    /// In order of assignment; the first is preferred.
    pub(crate) replicas: Vec<Replica>,
    /// Nodes that have all that was acknowledged.
    pub(crate) isr: Vec<i32>,
    /// The offset behind the last record that every replica in sync has.
    pub(crate) high_watermark: i64,
}

impl Replica {
    pub(crate) fn new(
        node: i32,
        log: Log,
        producers: ProducerStateManager,
        dir: Option<PathBuf>,
    ) -> Replica {
        Replica {
            node,
            log,
            producer_state: producers,
            behind_since: None,
            next_fetch_ms: None,
            log_dir: dir,
        }
    }

    /// The last leader epoch this copy knows of: of its last batch, or of a leader that appended nothing.
    pub(crate) fn latest_epoch(&self) -> i32 {
        let read = |dir: &PathBuf| {
            let text = std::fs::read_to_string(dir.join(LEADER_EPOCH_CHECKPOINT)).ok()?;
            text.lines().last()?.split_whitespace().next()?.parse::<i32>().ok()
        };
        self.log_dir.as_ref().and_then(read).unwrap_or(-1).max(self.log.latest_epoch())
    }

    fn write_epoch_checkpoint(&self, epoch: i32) {
        let Some(dir) = &self.log_dir else { return };
        let text = format!("0\n1\n{epoch} {}\n", self.log.log_end_offset());
        if let Err(e) = std::fs::write(dir.join(LEADER_EPOCH_CHECKPOINT), text) {
            tracing::warn!(file = %dir.join(LEADER_EPOCH_CHECKPOINT).display(), "not written: {e}");
        }
    }

    /// Copies what `from` has and this one has not, after cutting back what it alone has.
    fn replicate_from(&mut self, from: &Log, now_wall_ms: i64) -> io::Result<()> {
        let common = self.log.common_end_offset(from);
        if common < self.log.log_end_offset() {
            self.log.truncate_to(common)?;
            self.producer_state = ProducerStateManager::default();
            for bytes in self.log.batch_headers()? {
                if let Ok(view) = BatchHeaderView::parse(&bytes) {
                    self.producer_state.on_appended(
                        &view.header,
                        view.header.base_offset,
                        now_wall_ms,
                    );
                }
            }
        }
        for bytes in from.read_from(common)? {
            let Ok(view) = BatchHeaderView::parse(&bytes) else {
                return Err(io::Error::other("a leader's batch without a header"));
            };
            self.log.append_as_follower(&bytes, &view)?;
            self.producer_state.on_appended(&view.header, view.header.base_offset, now_wall_ms);
        }
        Ok(())
    }
}

impl Partition {
    /// A partition led by the replica that has most.
    pub(crate) fn new(name: String, replicas: Vec<Replica>, epoch: i32) -> Partition {
        let isr = replicas.iter().map(|r| r.node).collect();
        let mut most = replicas.first().map_or(-1, |r| r.node);
        for r in &replicas {
            let best = replicas.iter().find(|b| b.node == most);
            if best.is_some_and(|b| r.log.epoch_and_end_offset() > b.log.epoch_and_end_offset()) {
                most = r.node;
            }
        }
        let (leader, leader_epoch) = (most, epoch);
        Partition { name, leader, leader_epoch, replicas, isr, high_watermark: 0 }
    }

    /// `topic-partition`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn replica(&self, node: i32) -> Option<&Replica> {
        self.replicas.iter().find(|r| r.node == node)
    }

    /// The leader's copy.
    pub(crate) fn leader_replica(&self) -> Option<&Replica> {
        self.replica(self.leader)
    }

    /// The leader's copy, to be written.
    pub(crate) fn leader_replica_mut(&mut self) -> Option<&mut Replica> {
        let leader = self.leader;
        self.replicas.iter_mut().find(|r| r.node == leader)
    }

    /// The leader has something new, or a follower came back: who has not all of it copies after `lag`
    /// milliseconds of its own, at once where that is 0.
    pub(crate) fn schedule_fetches(
        &mut self,
        may: impl Fn(i32) -> bool,
        mut lag: impl FnMut(i32) -> u64,
        now_ms: u64,
        wall_ms: i64,
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
            r.behind_since.get_or_insert(now_ms);
            if may(r.node) && r.next_fetch_ms.is_none() {
                let lag = lag(r.node);
                at_once |= lag == 0;
                r.next_fetch_ms = Some(now_ms + lag);
            }
        }
        if at_once {
            self.tick(may, now_ms, wall_ms, u64::MAX)?;
        }
        self.update_high_watermark();
        Ok(())
    }

    /// The leader's copy, taken out while followers read it, and where it goes back to.
    fn take_leader_replica(&mut self) -> Option<(usize, Replica)> {
        let at = self.replicas.iter().position(|r| r.node == self.leader)?;
        Some((at, self.replicas.remove(at)))
    }

    /// One follower copies everything, whether it is its time or not.
    pub(crate) fn fetch_now(&mut self, node: i32, wall_ms: i64) -> io::Result<()> {
        let Some((at, led)) = self.take_leader_replica() else { return Ok(()) };
        let follower = self.replicas.iter_mut().find(|r| r.node == node);
        let done = follower.map_or(Ok(()), |r| {
            r.replicate_from(&led.log, wall_ms)?;
            (r.behind_since, r.next_fetch_ms) = (None, None);
            Ok(())
        });
        self.replicas.insert(at, led);
        self.update_high_watermark();
        done
    }

    /// Copies that are due; followers that were behind for `patience` milliseconds leave the ISR, those that have
    /// everything join it.
    pub(crate) fn tick(
        &mut self,
        may: impl Fn(i32) -> bool,
        now_ms: u64,
        wall_ms: i64,
        patience: u64,
    ) -> io::Result<()> {
        let Some((at, led)) = self.take_leader_replica() else { return Ok(()) };
        let mut result = Ok(());
        for r in &mut self.replicas {
            if may(r.node) && r.next_fetch_ms.is_some_and(|at| at <= now_ms) {
                r.next_fetch_ms = None;
                match r.replicate_from(&led.log, wall_ms) {
                    Ok(()) => r.behind_since = None,
                    Err(e) => result = Err(e),
                }
            }
            let caught_up =
                r.behind_since.is_none() && r.log.log_end_offset() == led.log.log_end_offset();
            let in_sync = self.isr.contains(&r.node);
            if caught_up && !in_sync && may(r.node) {
                self.isr.push(r.node);
            }
            let late = r.behind_since.is_some_and(|since| since.saturating_add(patience) <= now_ms);
            if late && in_sync {
                self.isr.retain(|n| *n != r.node);
            }
        }
        self.replicas.insert(at, led);
        self.update_high_watermark();
        result
    }

    /// When something is due next.
    pub(crate) fn next_deadline(&self, may: impl Fn(i32) -> bool, patience: u64) -> Option<u64> {
        self.leader_replica()?;
        let each = self.replicas.iter().filter(|r| r.node != self.leader).flat_map(|r| {
            let fetch = r.next_fetch_ms.filter(|_| may(r.node));
            let leave = r.behind_since.filter(|_| self.isr.contains(&r.node));
            [fetch, leave.map(|since| since.saturating_add(patience))]
        });
        each.flatten().min()
    }

    /// The high watermark follows the slowest of those in sync; it never goes back but with the log itself.
    fn update_high_watermark(&mut self) {
        let in_sync = self.replicas.iter().filter(|r| self.isr.contains(&r.node));
        if let Some(least) = in_sync.map(|r| r.log.log_end_offset()).min() {
            self.high_watermark = self.high_watermark.max(least);
        }
        if let Some(end) = self.leader_replica().map(|l| l.log.log_end_offset()) {
            self.high_watermark = self.high_watermark.min(end);
        }
    }

    /// Another node leads from here on: its log is the truth.
    pub(crate) fn make_leader(&mut self, node: i32, now_ms: u64) {
        self.leader = node;
        self.leader_epoch += 1;
        if !self.isr.contains(&node) {
            // Unclean: whatever the others had is no more.
            self.isr = vec![node];
        }
        let Some(led) = self.leader_replica() else { return };
        led.write_epoch_checkpoint(self.leader_epoch);
        let state = led.log.epoch_and_end_offset();
        for r in &mut self.replicas {
            r.next_fetch_ms = None;
            let same = r.log.epoch_and_end_offset() == state;
            r.behind_since = (r.node != node && !same).then_some(now_ms);
        }
        self.update_high_watermark();
    }

    /// A node is gone: out of the ISR, unless it is the last there; its successor leads, if there is one.
    pub(crate) fn on_node_failure(&mut self, node: i32, alive: impl Fn(i32) -> bool, now_ms: u64) {
        if self.isr.len() > 1 {
            self.isr.retain(|n| *n != node);
        }
        for r in self.replicas.iter_mut().filter(|r| r.node == node) {
            (r.next_fetch_ms, r.behind_since) = (None, Some(now_ms));
        }
        if self.leader == node {
            self.leader = -1;
            self.elect_leader(alive, now_ms);
            if self.leader == -1 {
                self.leader_epoch += 1;
            }
        }
        self.update_high_watermark();
    }

    /// Gives a partition without a leader one of those in sync, in order of assignment.
    pub(crate) fn elect_leader(&mut self, alive: impl Fn(i32) -> bool, now_ms: u64) {
        if self.leader != -1 {
            return;
        }
        let next = self.replicas.iter().map(|r| r.node);
        let next: Vec<i32> = next.filter(|n| alive(*n) && self.isr.contains(n)).collect();
        if let Some(next) = next.first() {
            self.make_leader(*next, now_ms);
        }
    }

    /// Nodes by place: assigned, in sync.
    pub(crate) fn assigned_replicas(&self) -> Vec<i32> {
        self.replicas.iter().map(|r| r.node).collect()
    }

    /// Where each replica's log ends.
    pub(crate) fn log_end_offsets(&self) -> BTreeMap<i32, i64> {
        self.replicas.iter().map(|r| (r.node, r.log.log_end_offset())).collect()
    }
}
