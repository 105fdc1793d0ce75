//! The group coordinator: all groups, their offsets and the requests that wait.

use std::collections::{BTreeMap, BTreeSet};

use ottla_protocol::ErrorCode;

use crate::coordinators::{CoordinatorType, coordinator_partition};
use crate::core::{ClockReading, Core};
use crate::group::classic_group::ClassicGroup;
use crate::group::delayed::{CompletedRequests, DelayedGroupRequest};
use crate::group::offsets::GroupOffsets;

/// A group with its offsets.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) classic: ClassicGroup,
    pub(crate) offsets: GroupOffsets,
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct GroupCoordinator {
    pub(crate) by_id: BTreeMap<String, Group>,
    /// JoinGroup and SyncGroup requests that wait, by id.
    pub(super) delayed: BTreeMap<u64, DelayedGroupRequest>,
}

impl GroupCoordinator {
    /// Returns when a member or a rebalance times out.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.by_id.values().filter_map(|g| g.classic.next_deadline()).min()
    }

    /// Commits or drops the offsets of a transaction in the groups of an internal partition.
    pub(crate) fn end_transaction(&mut self, partition: i32, producer_id: i64, committed: bool) {
        let groups = self.by_id.iter_mut();
        for (_, group) in groups.filter(|(id, _)| coordinator_partition(id) == partition) {
            group.offsets.end_transaction(producer_id, committed);
        }
    }

    /// Removes the requests of a stopped node: their connections close without a response.
    pub(crate) fn cancel_node_requests(&mut self, node: i32) {
        let of_node = self.delayed.iter().filter(|(_, r)| r.node == node);
        let ids: Vec<u64> = of_node.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.cancel(id));
    }

    /// Removes a request whose connection is closed. Its member stays until its session times out.
    pub(crate) fn cancel(&mut self, id: u64) {
        self.delayed.remove(&id);
        for member in self.by_id.values_mut().flat_map(|g| g.classic.members.values_mut()) {
            member.joining.take_if(|request| *request == id);
            member.syncing.take_if(|request| *request == id);
        }
    }

    pub(crate) fn has_request(&self, id: u64) -> bool {
        self.delayed.contains_key(&id)
    }
}

impl Core {
    /// Checks that a node is a group's coordinator.
    ///
    /// # Errors
    /// INVALID_GROUP_ID, NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.
    pub(crate) fn check_group_coordinator(
        &self,
        group: &str,
        node: i32,
        now: ClockReading,
    ) -> Result<(), ErrorCode> {
        if group.is_empty() {
            return Err(ErrorCode::INVALID_GROUP_ID);
        }
        self.coordinators.check(CoordinatorType::Group, group, node, now.mono_ms)
    }

    /// Ends the waits of the groups in partitions of the internal topic whose coordinator has
    /// moved, and renews the sessions of their members, as a new coordinator does.
    pub(crate) fn reload_groups(&mut self, partitions: &BTreeSet<i32>, now: ClockReading) {
        let mut completed = CompletedRequests::default();
        for (id, group) in &mut self.groups.by_id {
            if partitions.contains(&coordinator_partition(id)) {
                group.classic.reload(now.mono_ms, &mut completed);
            }
        }
        self.complete_group_requests(completed);
    }

    /// Removes the members whose sessions have timed out, and ends the rebalances that are due.
    pub(crate) fn tick_groups(&mut self, now: ClockReading) {
        let mut completed = CompletedRequests::default();
        for group in self.groups.by_id.values_mut() {
            if group.classic.next_deadline().is_some_and(|at| at <= now.mono_ms) {
                group.classic.tick(now.mono_ms, &mut completed);
            }
        }
        self.complete_group_requests(completed);
    }
}
