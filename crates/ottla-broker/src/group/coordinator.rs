//! The group coordinator: all groups, their offsets and the requests that wait.

use std::collections::{BTreeMap, BTreeSet};

use ottla_protocol::ErrorCode;
use ottla_protocol::record::{ControlRecordType, EndTransactionMarker};

use crate::coordinator_log::CoordinatorLog;
use crate::coordinators::{CoordinatorType, coordinator_partition};
use crate::core::{ClockReading, Core};
use crate::group::classic_group::{ClassicGroup, GroupState};
use crate::group::delayed::{CompletedRequests, DelayedGroupRequest};
use crate::group::log::NO_TIMESTAMP;
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

impl Group {
    /// Returns whether the group has neither members nor offsets.
    pub(super) fn is_dead(&self) -> bool {
        self.classic.state == GroupState::Empty
            && self.classic.pending_members.is_empty()
            && self.offsets.is_empty()
    }
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct GroupCoordinator {
    pub(crate) by_id: BTreeMap<String, Group>,
    /// JoinGroup and SyncGroup requests that wait, by id.
    pub(super) delayed: BTreeMap<u64, DelayedGroupRequest>,
    /// The log in the data directory; `None` if groups and offsets are in memory only.
    pub(super) log: Option<CoordinatorLog>,
    /// When a member or a rebalance times out. It may be too early, because a heartbeat does not
    /// change it: every request needs it, and must not visit every group.
    next_deadline_ms: Option<u64>,
    /// The newest epoch of each producer in each partition of the offsets topic. After a restart,
    /// only the producers with open transactions are here.
    pub(super) producer_epochs: BTreeMap<(i32, i64), i16>,
}

impl GroupCoordinator {
    /// Returns when a member or a rebalance times out, or an earlier time.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.next_deadline_ms
    }

    /// Takes the deadline of a group that has changed into account.
    fn update_deadline(&mut self, id: &str) {
        let changed = self.by_id.get(id).and_then(|g| g.classic.next_deadline());
        self.next_deadline_ms = self.next_deadline_ms.into_iter().chain(changed).min();
    }

    /// Sets the deadline to the earliest one of all groups.
    pub(super) fn recompute_deadline(&mut self) {
        self.next_deadline_ms = self.by_id.values().filter_map(|g| g.classic.next_deadline()).min();
    }

    /// Keeps a group's new state, or removes the group if it is dead.
    fn store_group(&mut self, id: &str, now: ClockReading) {
        if !self.remove_if_dead(id, now.wall_ms) {
            self.append_metadata(id, now);
            self.update_deadline(id);
        }
    }

    /// Removes a group that has neither members nor offsets, and returns whether it is removed.
    ///
    /// If the log cannot be written, the group stays: a restart must not bring back its members.
    fn remove_if_dead(&mut self, id: &str, timestamp: i64) -> bool {
        let is_dead = self.by_id.get(id).is_some_and(Group::is_dead);
        let is_removed = is_dead && self.append_deleted_group(id, timestamp).is_ok();
        if is_removed {
            self.by_id.remove(id);
        }
        is_removed
    }

    /// Commits offsets, or keeps those of a producer's transaction until it ends.
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH if the partition has records of the producer with a newer epoch, as
    /// any log refuses them. COORDINATOR_NOT_AVAILABLE if the log cannot be written. Nothing has
    /// changed then.
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
        let number = coordinator_partition(group);
        if let Some(producer) = producer {
            let newest = self.producer_epochs.get(&(number, producer.id));
            if newest.is_some_and(|newest| *newest > producer.epoch) {
                return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
            }
        }
        self.append_offsets(group, producer, &offsets, now)?;
        if let Some(producer) = producer {
            self.producer_epochs.insert((number, producer.id), producer.epoch);
        }
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
        let has_pending = self.by_id.iter().filter(|(_, g)| g.offsets.has_pending(producer.id));
        let ids = has_pending.map(|(id, _)| id).filter(|id| coordinator_partition(id) == partition);
        let ids: Vec<String> = ids.cloned().collect();
        if !ids.is_empty() {
            self.append_marker(producer, marker, now)?;
        }
        let newest = self.producer_epochs.entry((partition, producer.id)).or_default();
        *newest = producer.epoch.max(*newest);
        let committed = marker.control_type == ControlRecordType::Commit;
        for id in ids {
            if let Some(group) = self.by_id.get_mut(&id) {
                group.offsets.end_transaction(producer.id, committed);
            }
            self.remove_if_dead(&id, now.wall_ms);
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
            if !partitions.is_empty() {
                self.remove_if_dead(&id, NO_TIMESTAMP);
            }
        }
    }

    /// Removes the requests of a stopped node: their connections close without a response.
    pub(crate) fn cancel_node_requests(&mut self, node: i32) {
        let of_node = self.delayed.iter().filter(|(_, r)| r.node == node);
        let ids: Vec<u64> = of_node.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.cancel(id));
    }

    /// Removes a request whose connection is closed. The member that sent it stays in the group
    /// until its session times out.
    pub(crate) fn cancel(&mut self, id: u64) {
        let Some(request) = self.delayed.remove(&id) else { return };
        let Some(group) = self.by_id.get_mut(&request.group) else { return };
        for member in group.classic.members.values_mut() {
            member.joining.take_if(|request| *request == id);
            member.syncing.take_if(|request| *request == id);
        }
        // The session of the member has a deadline again.
        self.update_deadline(&request.group);
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
        self.groups.recompute_deadline();
        self.complete_group_requests(completed);
    }

    /// Removes the members whose sessions have timed out, and ends the rebalances that are due.
    pub(crate) fn tick_groups(&mut self, now: ClockReading) {
        if self.groups.next_deadline().is_none_or(|at| at > now.mono_ms) {
            return;
        }
        let mut completed = CompletedRequests::default();
        let mut ticked = Vec::new();
        for (id, group) in &mut self.groups.by_id {
            if group.classic.next_deadline().is_some_and(|at| at <= now.mono_ms) {
                group.classic.tick(now.mono_ms, &mut completed);
                ticked.push(id.clone());
            }
        }
        ticked.iter().for_each(|id| self.groups.store_group(id, now));
        self.groups.recompute_deadline();
        self.complete_group_requests(completed);
    }

    /// Keeps a group's new state, and completes the requests that waited for it.
    pub(crate) fn on_group_changed(
        &mut self,
        group: &str,
        completed: CompletedRequests,
        now: ClockReading,
    ) {
        self.groups.store_group(group, now);
        self.groups.compact_log_if_due(now);
        self.complete_group_requests(completed);
    }
}
