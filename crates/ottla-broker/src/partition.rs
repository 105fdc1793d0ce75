//! One partition and its replicas: who leads, who is in sync, how far everybody has what the leader has.
//!
//! Followers copy what the leader has, byte for byte; a follower whose log went another way is cut back to where
//! both agree first. The high watermark is what every replica in sync has: no more is ever shown or claimed.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use ottla_protocol::record::BatchHeaderView;

use crate::log::Log;
use crate::producers::Producers;

/// A node's copy of a partition.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) node: i32,
    pub(crate) log: Log,
    pub(crate) producers: Producers,
    /// Since when it has not had all that the leader has; `None` while it has.
    behind_since: Option<u64>,
    /// When it copies next, if it is to.
    fetches_at: Option<u64>,
    /// Where it stands on disk.
    dir: Option<PathBuf>,
}

/// Kafka's file of a partition's leader epochs: a version, a count, then epoch and first offset of each.
const EPOCHS: &str = "leader-epoch-checkpoint";

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
    pub(crate) fn new(node: i32, log: Log, producers: Producers, dir: Option<PathBuf>) -> Replica {
        Replica { node, log, producers, behind_since: None, fetches_at: None, dir }
    }

    /// The last leader epoch this copy knows of: of its last batch, or of a leader that appended nothing.
    pub(crate) fn known_epoch(&self) -> i32 {
        let read = |dir: &PathBuf| {
            let text = std::fs::read_to_string(dir.join(EPOCHS)).ok()?;
            text.lines().last()?.split_whitespace().next()?.parse::<i32>().ok()
        };
        self.dir.as_ref().and_then(read).unwrap_or(-1).max(self.log.last_epoch())
    }

    fn remember_epoch(&self, epoch: i32) {
        let Some(dir) = &self.dir else { return };
        let text = format!("0\n1\n{epoch} {}\n", self.log.end());
        if let Err(e) = std::fs::write(dir.join(EPOCHS), text) {
            tracing::warn!(file = %dir.join(EPOCHS).display(), "not written: {e}");
        }
    }

    /// Copies what `from` has and this one has not, after cutting back what it alone has.
    fn copy(&mut self, from: &Log, now_wall_ms: i64) -> io::Result<()> {
        let common = self.log.common_end(from);
        if common < self.log.end() {
            self.log.truncate(common)?;
            self.producers = Producers::default();
            for bytes in self.log.headers()? {
                if let Ok(view) = BatchHeaderView::parse(&bytes) {
                    self.producers.appended(&view.header, view.header.base_offset, now_wall_ms);
                }
            }
        }
        for bytes in from.from(common)? {
            let Ok(view) = BatchHeaderView::parse(&bytes) else {
                return Err(io::Error::other("a leader's batch without a header"));
            };
            self.log.append_copy(&bytes, &view)?;
            self.producers.appended(&view.header, view.header.base_offset, now_wall_ms);
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
            if best.is_some_and(|b| r.log.state() > b.log.state()) {
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
    pub(crate) fn led(&self) -> Option<&Replica> {
        self.replica(self.leader)
    }

    /// The leader's copy, to be written.
    pub(crate) fn led_mut(&mut self) -> Option<&mut Replica> {
        let leader = self.leader;
        self.replicas.iter_mut().find(|r| r.node == leader)
    }

    /// The leader has something new, or a follower came back: who has not all of it copies after `lag`
    /// milliseconds of its own, at once where that is 0.
    pub(crate) fn follow(
        &mut self,
        may: impl Fn(i32) -> bool,
        mut lag: impl FnMut(i32) -> u64,
        now_ms: u64,
        wall_ms: i64,
    ) -> io::Result<()> {
        let Some(end) = self.led().map(|l| l.log.end()) else { return Ok(()) };
        let leader = self.leader;
        let mut at_once = false;
        for r in self.replicas.iter_mut().filter(|r| r.node != leader) {
            let in_sync = self.isr.contains(&r.node) && r.behind_since.is_none();
            if r.log.end() == end && in_sync {
                continue;
            }
            r.behind_since.get_or_insert(now_ms);
            if may(r.node) && r.fetches_at.is_none() {
                let lag = lag(r.node);
                at_once |= lag == 0;
                r.fetches_at = Some(now_ms + lag);
            }
        }
        if at_once {
            self.tick(may, now_ms, wall_ms, u64::MAX)?;
        }
        self.advance();
        Ok(())
    }

    /// The leader's copy, taken out while followers read it, and where it goes back to.
    fn take_led(&mut self) -> Option<(usize, Replica)> {
        let at = self.replicas.iter().position(|r| r.node == self.leader)?;
        Some((at, self.replicas.remove(at)))
    }

    /// One follower copies everything, whether it is its time or not.
    pub(crate) fn copy_now(&mut self, node: i32, wall_ms: i64) -> io::Result<()> {
        let Some((at, led)) = self.take_led() else { return Ok(()) };
        let follower = self.replicas.iter_mut().find(|r| r.node == node);
        let done = follower.map_or(Ok(()), |r| {
            r.copy(&led.log, wall_ms)?;
            (r.behind_since, r.fetches_at) = (None, None);
            Ok(())
        });
        self.replicas.insert(at, led);
        self.advance();
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
        let Some((at, led)) = self.take_led() else { return Ok(()) };
        let mut result = Ok(());
        for r in &mut self.replicas {
            if may(r.node) && r.fetches_at.is_some_and(|at| at <= now_ms) {
                r.fetches_at = None;
                match r.copy(&led.log, wall_ms) {
                    Ok(()) => r.behind_since = None,
                    Err(e) => result = Err(e),
                }
            }
            let caught_up = r.behind_since.is_none() && r.log.end() == led.log.end();
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
        self.advance();
        result
    }

    /// When something is due next.
    pub(crate) fn next_due(&self, may: impl Fn(i32) -> bool, patience: u64) -> Option<u64> {
        self.led()?;
        let each = self.replicas.iter().filter(|r| r.node != self.leader).flat_map(|r| {
            let fetch = r.fetches_at.filter(|_| may(r.node));
            let leave = r.behind_since.filter(|_| self.isr.contains(&r.node));
            [fetch, leave.map(|since| since.saturating_add(patience))]
        });
        each.flatten().min()
    }

    /// The high watermark follows the slowest of those in sync; it never goes back but with the log itself.
    fn advance(&mut self) {
        let in_sync = self.replicas.iter().filter(|r| self.isr.contains(&r.node));
        if let Some(least) = in_sync.map(|r| r.log.end()).min() {
            self.high_watermark = self.high_watermark.max(least);
        }
        if let Some(end) = self.led().map(|l| l.log.end()) {
            self.high_watermark = self.high_watermark.min(end);
        }
    }

    /// Another node leads from here on: its log is the truth.
    pub(crate) fn lead(&mut self, node: i32, now_ms: u64) {
        self.leader = node;
        self.leader_epoch += 1;
        if !self.isr.contains(&node) {
            // Unclean: whatever the others had is no more.
            self.isr = vec![node];
        }
        let Some(led) = self.led() else { return };
        led.remember_epoch(self.leader_epoch);
        let state = led.log.state();
        for r in &mut self.replicas {
            r.fetches_at = None;
            let same = r.log.state() == state;
            r.behind_since = (r.node != node && !same).then_some(now_ms);
        }
        self.advance();
    }

    /// A node is gone: out of the ISR, unless it is the last there; its successor leads, if there is one.
    pub(crate) fn lose(&mut self, node: i32, alive: impl Fn(i32) -> bool, now_ms: u64) {
        if self.isr.len() > 1 {
            self.isr.retain(|n| *n != node);
        }
        for r in self.replicas.iter_mut().filter(|r| r.node == node) {
            (r.fetches_at, r.behind_since) = (None, Some(now_ms));
        }
        if self.leader == node {
            self.leader = -1;
            self.elect(alive, now_ms);
            if self.leader == -1 {
                self.leader_epoch += 1;
            }
        }
        self.advance();
    }

    /// Gives a partition without a leader one of those in sync, in order of assignment.
    pub(crate) fn elect(&mut self, alive: impl Fn(i32) -> bool, now_ms: u64) {
        if self.leader != -1 {
            return;
        }
        let next = self.replicas.iter().map(|r| r.node);
        let next: Vec<i32> = next.filter(|n| alive(*n) && self.isr.contains(n)).collect();
        if let Some(next) = next.first() {
            self.lead(*next, now_ms);
        }
    }

    /// Nodes by place: assigned, in sync.
    pub(crate) fn assigned(&self) -> Vec<i32> {
        self.replicas.iter().map(|r| r.node).collect()
    }

    /// Where each replica's log ends.
    pub(crate) fn ends(&self) -> BTreeMap<i32, i64> {
        self.replicas.iter().map(|r| (r.node, r.log.end())).collect()
    }
}
