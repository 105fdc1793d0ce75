//! Which node coordinates a group or a transactional id.
//!
//! As in Kafka, a name's hash selects a partition of an internal topic, and the partition's leader
//! is the coordinator. If that node stops, another one takes over under a new epoch.

use std::collections::BTreeSet;

use ottla_protocol::ErrorCode;

use crate::core::{ClockReading, Core};

/// Partitions of each internal topic (`offsets.topic.num.partitions` and
/// `transaction.state.log.num.partitions`).
const COORDINATOR_PARTITIONS: i32 = 50;

/// The internal topic that has the offsets of groups.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The internal topic that has the state of transactional ids.
pub(crate) const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// What a coordinator coordinates: the key type of FindCoordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoordinatorType {
    /// A consumer group.
    Group,
    /// A transactional id.
    Transaction,
}

/// The coordinators of all groups and transactional ids.
#[derive(Debug)]
pub(crate) struct Coordinators {
    groups: Vec<CoordinatorPartition>,
    transactions: Vec<CoordinatorPartition>,
    /// How long a new coordinator reads its log, in milliseconds.
    load_time_ms: u64,
}

/// A partition of an internal topic.
#[derive(Debug, Clone, Copy)]
struct CoordinatorPartition {
    /// The coordinator's node id; −1 while every node is down.
    node: i32,
    epoch: i32,
    /// When the coordinator has read its log, in ms of the monotonic clock.
    loaded_at_ms: u64,
}

/// The partitions of the internal topics whose coordinators have moved.
#[derive(Debug, Default)]
pub(crate) struct MovedPartitions {
    pub(crate) groups: BTreeSet<i32>,
    pub(crate) transactions: BTreeSet<i32>,
}

/// Returns the partition of an internal topic that a name belongs to.
pub(crate) fn coordinator_partition(name: &str) -> i32 {
    // Java's `String.hashCode`. As in Kafka, the absolute value of the lowest number is 0.
    let hash = name.encode_utf16().fold(0i32, |h, c| h.wrapping_mul(31).wrapping_add(c.into()));
    hash.checked_abs().unwrap_or(0) % COORDINATOR_PARTITIONS
}

impl Coordinators {
    pub(crate) fn new(node_count: i32) -> Coordinators {
        let partitions: Vec<CoordinatorPartition> = (0..COORDINATOR_PARTITIONS)
            .map(|p| CoordinatorPartition { node: p % node_count + 1, epoch: 0, loaded_at_ms: 0 })
            .collect();
        Coordinators { groups: partitions.clone(), transactions: partitions, load_time_ms: 0 }
    }

    fn partition(&self, coordinator_type: CoordinatorType, key: &str) -> &CoordinatorPartition {
        let partitions = match coordinator_type {
            CoordinatorType::Group => &self.groups,
            CoordinatorType::Transaction => &self.transactions,
        };
        &partitions[coordinator_partition(key) as usize]
    }

    /// Returns the coordinator's node id.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE while every node is down.
    pub(crate) fn node(
        &self,
        coordinator_type: CoordinatorType,
        key: &str,
    ) -> Result<i32, ErrorCode> {
        match self.partition(coordinator_type, key).node {
            -1 => Err(ErrorCode::COORDINATOR_NOT_AVAILABLE),
            node => Ok(node),
        }
    }

    /// Raises the epochs of all coordinators, after a restart.
    pub(crate) fn set_epoch(&mut self, epoch: i32) {
        self.groups.iter_mut().chain(&mut self.transactions).for_each(|p| p.epoch = epoch);
    }

    /// Returns the epoch of a key's coordinator.
    pub(crate) fn epoch(&self, coordinator_type: CoordinatorType, key: &str) -> i32 {
        self.partition(coordinator_type, key).epoch
    }

    /// Checks that a node is the coordinator of a key and has read its log.
    ///
    /// # Errors
    /// NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.
    pub(crate) fn check(
        &self,
        coordinator_type: CoordinatorType,
        key: &str,
        node: i32,
        now_ms: u64,
    ) -> Result<(), ErrorCode> {
        let partition = self.partition(coordinator_type, key);
        if partition.node != node {
            return Err(ErrorCode::NOT_COORDINATOR);
        }
        if now_ms < partition.loaded_at_ms {
            return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
        }
        Ok(())
    }

    /// Moves each partition whose node is down to the next node that is up.
    pub(crate) fn elect(
        &mut self,
        node_count: i32,
        is_up: impl Fn(i32) -> bool,
        now_ms: u64,
    ) -> MovedPartitions {
        let loaded_at_ms = now_ms + self.load_time_ms;
        let elect = |partitions: &mut [CoordinatorPartition]| {
            let all = (0..).zip(partitions);
            let moved = all.filter_map(|(number, partition)| {
                let has_moved = partition.elect(node_count, &is_up, loaded_at_ms);
                has_moved.then_some(number)
            });
            moved.collect()
        };
        MovedPartitions {
            groups: elect(&mut self.groups),
            transactions: elect(&mut self.transactions),
        }
    }
}

impl CoordinatorPartition {
    /// Moves the partition to the next node that is up, if its node is down; returns whether it
    /// has moved.
    fn elect(&mut self, node_count: i32, is_up: &impl Fn(i32) -> bool, loaded_at_ms: u64) -> bool {
        if self.node != -1 && is_up(self.node) {
            return false;
        }
        let next = |i: i32| (self.node.max(0) + i) % node_count + 1;
        match (0..node_count).map(next).find(|n| is_up(*n)) {
            Some(node) => self.move_to(node, loaded_at_ms),
            None => self.node = -1,
        }
        true
    }

    fn move_to(&mut self, node: i32, loaded_at_ms: u64) {
        (self.node, self.loaded_at_ms) = (node, loaded_at_ms);
        self.epoch = self.epoch.saturating_add(1);
    }
}

impl Core {
    /// Returns the node that coordinates a group or transactional id; `None` while all are down.
    pub fn coordinator(&self, coordinator_type: CoordinatorType, key: &str) -> Option<i32> {
        self.coordinators.node(coordinator_type, key).ok()
    }

    /// Makes a node the coordinator of a group or transactional id, and of all names that share
    /// its partition of the internal topic. Returns whether it now is.
    ///
    /// The old coordinator then responds with NOT_COORDINATOR.
    pub fn move_coordinator(
        &mut self,
        coordinator_type: CoordinatorType,
        key: &str,
        to: i32,
        now: ClockReading,
    ) -> bool {
        let c = &mut self.coordinators;
        let partitions = match coordinator_type {
            CoordinatorType::Group => &mut c.groups,
            CoordinatorType::Transaction => &mut c.transactions,
        };
        let number = coordinator_partition(key);
        let partition = &mut partitions[number as usize];
        if !self.nodes.is_up(to) || partition.node == to {
            return false;
        }
        partition.move_to(to, now.mono_ms + c.load_time_ms);
        let moved = match coordinator_type {
            CoordinatorType::Group => {
                MovedPartitions { groups: [number].into(), ..Default::default() }
            }
            CoordinatorType::Transaction => {
                MovedPartitions { transactions: [number].into(), ..Default::default() }
            }
        };
        self.on_coordinators_moved(&moved, now);
        true
    }

    /// Lets new coordinators go on with what their predecessors have begun.
    pub(crate) fn on_coordinators_moved(&mut self, moved: &MovedPartitions, now: ClockReading) {
        if !moved.transactions.is_empty() {
            self.resend_txn_markers(now);
        }
        self.reload_groups(&moved.groups, now);
    }

    /// Sets how long a new coordinator responds with COORDINATOR_LOAD_IN_PROGRESS; default 0.
    pub fn set_coordinator_load_time(&mut self, ms: u64) {
        self.coordinators.load_time_ms = ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_of_a_name_equals_that_of_kafka() {
        // Java: Utils.abs("tx".hashCode()) % 50, and so on.
        assert_eq!("tx".encode_utf16().fold(0i32, |h, c| h * 31 + i32::from(c)), 3716);
        assert_eq!(coordinator_partition("tx"), 16);
        assert_eq!(coordinator_partition(""), 0);
        // Its hash code is -2147483648.
        assert_eq!(coordinator_partition("polygenelubricants"), 0);
    }

    #[test]
    fn stopped_coordinator_is_replaced_under_a_new_epoch_and_loads_first() {
        let kind = CoordinatorType::Transaction;
        let mut c = Coordinators::new(3);
        let old = c.node(kind, "tx").unwrap();
        assert_eq!(c.check(kind, "tx", old, 0), Ok(()));
        assert_eq!(c.check(kind, "tx", old % 3 + 1, 0), Err(ErrorCode::NOT_COORDINATOR));
        c.load_time_ms = 10;
        let moved = c.elect(3, |n| n != old, 100);
        assert!(moved.transactions.contains(&coordinator_partition("tx")));
        let new = c.node(kind, "tx").unwrap();
        assert_eq!((new != old, c.epoch(kind, "tx")), (true, 1));
        let load = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS;
        assert_eq!(c.check(kind, "tx", new, 109), Err(load));
        assert_eq!(c.check(kind, "tx", new, 110), Ok(()));
        c.elect(3, |_| true, 200);
        assert_eq!(c.node(kind, "tx"), Ok(new), "the coordinator does not move back by itself");
        c.elect(3, |_| false, 300);
        assert_eq!(c.node(kind, "tx"), Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
        c.elect(3, |n| n == 2, 400);
        assert_eq!(c.node(kind, "tx"), Ok(2));
    }
}
