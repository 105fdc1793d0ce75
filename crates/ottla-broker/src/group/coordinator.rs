//! The group coordinator: all groups, their offsets and the requests that wait.

use std::collections::{BTreeMap, BTreeSet};

use ottla_protocol::ErrorCode;
use ottla_protocol::record::{ControlRecordType, EndTransactionMarker};

use crate::coordinator_log::CoordinatorLog;
use crate::coordinators::{CoordinatorType, coordinator_partition};
use crate::core::{ClockReading, Core};
use crate::group::classic_group::ClassicGroup;
use crate::group::delayed::{CompletedRequests, DelayedGroupRequest};
use crate::group::offsets::{CommittedOffset, GroupOffsets};
use crate::transaction::{ProducerIdAndEpoch, TopicPartition};

/// A group with its offsets.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) classic: ClassicGroup,
    pub(crate) offsets: GroupOffsets,
    /// The value of the last record of the group in the log.
    pub(super) logged_metadata: Option<Vec<u8>>,
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct GroupCoordinator {
    pub(crate) by_id: BTreeMap<String, Group>,
    /// JoinGroup and SyncGroup requests that wait, by id.
    pub(super) delayed: BTreeMap<u64, DelayedGroupRequest>,
    /// The log in the data directory; `None` if groups and offsets are in memory only.
    pub(super) log: Option<CoordinatorLog>,
}

impl GroupCoordinator {
    /// Returns when a member or a rebalance times out.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.by_id.values().filter_map(|g| g.classic.next_deadline()).min()
    }

    /// Commits offsets, or keeps those of a producer's transaction until it ends.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE if the log cannot be written. Nothing has changed then.
    pub(crate) fn commit_offsets(
        &mut self,
        group: &str,
        producer: Option<ProducerIdAndEpoch>,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        now: ClockReading,
    ) -> Result<(), ErrorCode> {
        if offsets.is_empty() {
            return Ok(());
        }
        self.append_offsets(group, producer, &offsets, now)?;
        let group = self.by_id.entry(group.to_owned()).or_default();
        match producer {
            Some(producer) => group.offsets.add_pending(producer, offsets),
            None => group.offsets.commit(offsets),
        }
        self.compact_log_if_due(now);
        Ok(())
    }

    /// Commits or drops the offsets of a transaction in the groups of an internal partition.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE if the log cannot be written. Nothing has changed then.
    pub(crate) fn end_transaction(
        &mut self,
        partition: i32,
        producer: ProducerIdAndEpoch,
        marker: EndTransactionMarker,
        now: ClockReading,
    ) -> Result<(), ErrorCode> {
        let is_concerned = |(id, group): &(&String, &mut Group)| {
            coordinator_partition(id) == partition && group.offsets.has_pending(producer.id)
        };
        if !self.by_id.iter_mut().any(|group| is_concerned(&group)) {
            return Ok(());
        }
        self.append_marker(producer, marker, now)?;
        let committed = marker.control_type == ControlRecordType::Commit;
        for (_, group) in self.by_id.iter_mut().filter(is_concerned) {
            group.offsets.end_transaction(producer.id, committed);
        }
        self.compact_log_if_due(now);
        Ok(())
    }

    /// Removes the offsets of a deleted topic.
    pub(crate) fn on_topic_deleted(&mut self, topic: &str) {
        let mut removed = Vec::new();
        for (id, group) in &mut self.by_id {
            let mut partitions = group.offsets.partitions();
            partitions.retain(|p| p.topic == topic);
            partitions.iter().for_each(|p| group.offsets.remove(p));
            removed.push((id.clone(), partitions));
        }
        for (id, partitions) in removed {
            self.append_deleted_offsets(&id, &partitions);
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
        let mut ticked = Vec::new();
        for (id, group) in &mut self.groups.by_id {
            if group.classic.next_deadline().is_some_and(|at| at <= now.mono_ms) {
                group.classic.tick(now.mono_ms, &mut completed);
                ticked.push(id.clone());
            }
        }
        ticked.iter().for_each(|id| self.groups.append_metadata(id, now));
        self.complete_group_requests(completed);
    }

    /// Keeps a group's new state, and completes the requests that waited for it.
    pub(crate) fn on_group_changed(
        &mut self,
        group: &str,
        completed: CompletedRequests,
        now: ClockReading,
    ) {
        self.groups.append_metadata(group, now);
        self.groups.compact_log_if_due(now);
        self.complete_group_requests(completed);
    }
}
