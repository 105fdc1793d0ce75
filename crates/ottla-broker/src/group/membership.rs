//! SyncGroup, Heartbeat and LeaveGroup, and the checks of a member's id and generation.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_protocol::ErrorCode;

use crate::group::classic_group::{ClassicGroup, GroupState, sync_error};
use crate::group::delayed::CompletedRequests;

/// The member and generation that a request names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemberRef<'a> {
    pub(crate) id: &'a str,
    pub(crate) instance_id: Option<&'a str>,
    pub(crate) generation: i32,
}

impl<'a> MemberRef<'a> {
    /// Returns the member that the fields of a request name.
    pub(crate) fn new(id: &'a str, instance_id: Option<&'a str>, generation: i32) -> MemberRef<'a> {
        MemberRef { id, instance_id, generation }
    }
}

/// The content of a SyncGroup request.
#[derive(Debug, Clone)]
pub(crate) struct SyncRequest<'a> {
    /// The id of the delayed request.
    pub(crate) request: u64,
    pub(crate) member: MemberRef<'a>,
    /// The group's protocol type and assignor as the member knows them (KIP-559).
    pub(crate) protocol_type: Option<&'a str>,
    pub(crate) protocol: Option<&'a str>,
    /// The leader's assignments, by member id.
    pub(crate) assignments: BTreeMap<String, Bytes>,
}

impl ClassicGroup {
    /// Checks that a member belongs to the group.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID if another member has the static id now.
    pub(crate) fn check_member(
        &self,
        id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            return match self.static_member(instance_id) {
                None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(current) if current != id => Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => Ok(()),
            };
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ErrorCode::UNKNOWN_MEMBER_ID) }
    }

    fn check_generation(&self, member: MemberRef<'_>) -> Result<(), ErrorCode> {
        self.check_member(member.id, member.instance_id)?;
        if member.generation != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        Ok(())
    }

    /// Renews a member's session.
    fn renew_session(&mut self, id: &str, now_ms: u64) {
        if let Some(member) = self.members.get_mut(id) {
            member.session_deadline_ms = now_ms + member.session_timeout_ms;
        }
    }

    /// Checks a SyncGroup in Kafka's order: the protocol of an old generation says nothing.
    fn check_sync(&self, r: &SyncRequest<'_>) -> Result<(), ErrorCode> {
        self.check_generation(r.member)?;
        let differs =
            |named: Option<&str>, own: &Option<String>| named.is_some() && named != own.as_deref();
        if differs(r.protocol_type, &self.protocol_type) || differs(r.protocol, &self.protocol) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        match self.state {
            GroupState::Empty => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            GroupState::PreparingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        }
    }

    /// Handles SyncGroup. The response is in `out`, now or when the leader's assignment is there.
    pub(crate) fn sync(&mut self, r: SyncRequest<'_>, now_ms: u64, out: &mut CompletedRequests) {
        if let Err(code) = self.check_sync(&r) {
            out.push(r.request, sync_error(code));
            return;
        }
        let SyncRequest { request, member, assignments, .. } = r;
        self.renew_session(member.id, now_ms);
        if let Some(m) = self.members.get_mut(member.id) {
            m.is_pending_sync = false;
        }
        if self.members.values().all(|m| !m.is_pending_sync) {
            self.sync_deadline_ms = None;
        }
        if self.state == GroupState::Stable {
            out.push(request, self.sync_response(member.id));
            return;
        }
        if let Some(m) = self.members.get_mut(member.id)
            && let Some(earlier) = m.syncing.replace(request)
        {
            out.push(earlier, sync_error(ErrorCode::REBALANCE_IN_PROGRESS));
        }
        if self.leader.as_deref() == Some(member.id) {
            self.state = GroupState::Stable;
            let ids: Vec<String> = self.members.keys().cloned().collect();
            for id in ids {
                let assignment = assignments.get(&id).cloned().unwrap_or_default();
                let Some(m) = self.members.get_mut(&id) else { continue };
                m.assignment = assignment;
                m.session_deadline_ms = now_ms + m.session_timeout_ms;
                if let Some(request) = m.syncing.take() {
                    out.push(request, self.sync_response(&id));
                }
            }
        }
    }

    /// Handles Heartbeat.
    ///
    /// # Errors
    /// REBALANCE_IN_PROGRESS asks the member to join again.
    pub(crate) fn heartbeat(
        &mut self,
        member: MemberRef<'_>,
        now_ms: u64,
    ) -> Result<(), ErrorCode> {
        self.check_generation(member)?;
        self.renew_session(member.id, now_ms);
        match self.state {
            GroupState::PreparingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            GroupState::Empty => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        }
    }

    /// Handles LeaveGroup for one member. An empty id with a static id names a static member.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID or FENCED_INSTANCE_ID.
    pub(crate) fn leave(
        &mut self,
        id: &str,
        instance_id: Option<&str>,
        now_ms: u64,
        out: &mut CompletedRequests,
    ) -> Result<(), ErrorCode> {
        if self.pending_members.remove(id).is_some() {
            self.try_complete_join(now_ms, out);
            return Ok(());
        }
        let by_instance = instance_id.filter(|_| id.is_empty());
        let id = match by_instance.map(|instance| self.static_member(instance)) {
            Some(found) => found.ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?,
            None => {
                self.check_member(id, instance_id)?;
                id.to_owned()
            }
        };
        self.remove_member(&id, now_ms, out);
        Ok(())
    }

    /// Checks who commits offsets, and renews the member's session.
    ///
    /// A commit without a generation is for a group without members: the client has assigned its
    /// partitions itself, or is an administrator's. As in Kafka, its member id does not matter.
    /// `is_transactional`: TxnOffsetCommit of a client without group metadata is accepted, too.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, FENCED_INSTANCE_ID or REBALANCE_IN_PROGRESS.
    pub(crate) fn check_commit(
        &mut self,
        member: MemberRef<'_>,
        is_transactional: bool,
        now_ms: u64,
    ) -> Result<(), ErrorCode> {
        if member.generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        let has_no_member =
            member.generation < 0 && member.id.is_empty() && member.instance_id.is_none();
        if has_no_member && is_transactional {
            return Ok(());
        }
        self.check_generation(member)?;
        if !is_transactional {
            self.renew_session(member.id, now_ms);
            if self.state == GroupState::CompletingRebalance {
                return Err(ErrorCode::REBALANCE_IN_PROGRESS);
            }
        }
        Ok(())
    }
}
