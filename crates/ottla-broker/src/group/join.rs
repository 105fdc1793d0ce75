//! JoinGroup: a member gets its id, and joins the next generation of its group.

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::JoinGroupRequestProtocol;

use crate::group::classic_group::{ClassicGroup, GroupState, Member, join_error};
use crate::group::delayed::{CompletedRequests, GroupResponse};

/// The content of a JoinGroup request.
#[derive(Debug, Clone)]
pub(crate) struct JoinRequest {
    /// The id of the delayed request.
    pub(crate) request: u64,
    /// The member's id; empty for a new member.
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) protocol_type: String,
    pub(crate) protocols: Vec<JoinGroupRequestProtocol>,
    pub(crate) session_timeout_ms: u64,
    pub(crate) rebalance_timeout_ms: u64,
    /// Whether a new member first gets an id, and joins with it (KIP-394).
    pub(crate) requires_known_id: bool,
    /// Whether the client knows `skip_assignment` (KIP-814).
    pub(crate) supports_skipping: bool,
    /// The id for a new member.
    pub(crate) new_member_id: String,
    /// How long the first rebalance of a group waits for more members.
    pub(crate) initial_delay_ms: u64,
}

impl ClassicGroup {
    /// Handles JoinGroup. The response is in `out`, now or when the rebalance ends.
    pub(crate) fn join(&mut self, r: JoinRequest, now_ms: u64, out: &mut CompletedRequests) {
        let is_compatible = !r.protocol_type.is_empty()
            && !r.protocols.is_empty()
            && self.supports(&r.protocol_type, &r.protocols, &r.member_id);
        if !is_compatible {
            let code = ErrorCode::INCONSISTENT_GROUP_PROTOCOL;
            out.push(r.request, join_error(code, &r.member_id));
            return;
        }
        if r.member_id.is_empty() {
            self.join_new(r, now_ms, out);
        } else {
            self.join_known(r, now_ms, out);
        }
    }

    fn join_new(&mut self, r: JoinRequest, now_ms: u64, out: &mut CompletedRequests) {
        let id = r.new_member_id.clone();
        let replaced = r.instance_id.as_deref().and_then(|i| self.static_member(i));
        if let Some(old_id) = replaced {
            self.replace_static_member(&old_id, r, now_ms, out);
        } else if r.requires_known_id && r.instance_id.is_none() {
            self.pending_members.insert(id.clone(), now_ms + r.session_timeout_ms);
            out.push(r.request, join_error(ErrorCode::MEMBER_ID_REQUIRED, &id));
        } else {
            self.add_member(id, r, now_ms, out);
        }
    }

    fn join_known(&mut self, r: JoinRequest, now_ms: u64, out: &mut CompletedRequests) {
        if self.pending_members.remove(&r.member_id).is_some() {
            self.add_member(r.member_id.clone(), r, now_ms, out);
            return;
        }
        if let Err(code) = self.check_member(&r.member_id, r.instance_id.as_deref()) {
            out.push(r.request, join_error(code, &r.member_id));
            return;
        }
        let id = r.member_id.clone();
        let is_unchanged = self.members.get(&id).is_some_and(|m| m.protocols == r.protocols);
        let is_leader = self.leader.as_ref() == Some(&id);
        match self.state {
            // The response to the first JoinGroup of this generation was lost.
            GroupState::CompletingRebalance if is_unchanged => self.rejoin_at_once(&id, r, out),
            // A leader joins again to compute the assignment once more.
            GroupState::Stable if is_unchanged && !is_leader => self.rejoin_at_once(&id, r, out),
            _ => self.add_member(id, r, now_ms, out),
        }
    }

    fn rejoin_at_once(&mut self, id: &str, r: JoinRequest, out: &mut CompletedRequests) {
        out.push(r.request, GroupResponse::Join(self.join_response(id, false)));
    }

    /// Adds or updates a member and begins a rebalance. The request waits for its end.
    fn add_member(&mut self, id: String, r: JoinRequest, now_ms: u64, out: &mut CompletedRequests) {
        if self.members.is_empty() {
            self.protocol_type = Some(r.protocol_type);
        }
        let member = self.members.entry(id.clone()).or_default();
        if let Some(earlier) = member.joining.take() {
            // The client has given up the earlier request: only one of them gets the generation.
            out.push(earlier, join_error(ErrorCode::REBALANCE_IN_PROGRESS, &id));
        }
        *member = Member {
            instance_id: r.instance_id,
            client_id: r.client_id,
            session_timeout_ms: r.session_timeout_ms,
            rebalance_timeout_ms: r.rebalance_timeout_ms,
            protocols: r.protocols,
            session_deadline_ms: now_ms + r.session_timeout_ms,
            joining: Some(r.request),
            assignment: member.assignment.clone(),
            syncing: member.syncing,
            is_pending_sync: member.is_pending_sync,
        };
        self.prepare_rebalance(r.initial_delay_ms, now_ms, out);
        self.try_complete_join(now_ms, out);
    }

    /// Gives a static member that has restarted a new id (KIP-345). The old id is fenced.
    ///
    /// In a stable group, a member with the same subscription keeps its assignment.
    fn replace_static_member(
        &mut self,
        old_id: &str,
        r: JoinRequest,
        now_ms: u64,
        out: &mut CompletedRequests,
    ) {
        let Some(mut old) = self.members.remove(old_id) else { return };
        let id = r.new_member_id.clone();
        let fenced = ErrorCode::FENCED_INSTANCE_ID;
        if let Some(request) = old.joining.take() {
            out.push(request, join_error(fenced, old_id));
        }
        if let Some(request) = old.syncing.take() {
            out.push(request, super::classic_group::sync_error(fenced));
        }
        let was_leader = self.leader.as_deref() == Some(old_id);
        if was_leader {
            self.leader = Some(id.clone());
        }
        let protocol = self.protocol.clone().unwrap_or_default();
        let metadata = r.protocols.iter().find(|p| p.name == protocol).map(|p| &p.metadata);
        let is_unchanged = metadata == Some(&old.metadata(&protocol));
        // The new process may have other settings.
        old.client_id.clone_from(&r.client_id);
        (old.session_timeout_ms, old.rebalance_timeout_ms) =
            (r.session_timeout_ms, r.rebalance_timeout_ms);
        old.session_deadline_ms = now_ms + r.session_timeout_ms;
        self.members.insert(id.clone(), old);
        // Without `skip_assignment`, a leader that gets the members computes a new assignment,
        // which the others would never learn of.
        let may_keep = !was_leader || r.supports_skipping;
        if self.state == GroupState::Stable && is_unchanged && may_keep {
            if let Some(member) = self.members.get_mut(&id) {
                member.protocols = r.protocols;
            }
            let response = self.join_response(&id, was_leader);
            out.push(r.request, GroupResponse::Join(response));
        } else {
            self.add_member(id, r, now_ms, out);
        }
    }
}
