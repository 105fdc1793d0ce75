//! A classic consumer group: its members, its state and its rebalances.
//!
//! ```text
//! Empty -> PreparingRebalance -> CompletingRebalance -> Stable
//! ```
//! A member that joins or leaves leads back to `PreparingRebalance`; without members the group is
//! `Empty`. `PreparingRebalance` waits for JoinGroup of all members, `CompletingRebalance` for the
//! leader's SyncGroup.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_protocol::ErrorCode;
use ottla_protocol::messages::{
    JoinGroupRequestProtocol, JoinGroupResponse, JoinGroupResponseMember, SyncGroupResponse,
};

use crate::group::delayed::{CompletedRequests, GroupResponse};

/// The state of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum GroupState {
    #[default]
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl GroupState {
    /// Returns Kafka's name of the state.
    pub(crate) fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::PreparingRebalance => "PreparingRebalance",
            GroupState::CompletingRebalance => "CompletingRebalance",
            GroupState::Stable => "Stable",
        }
    }
}

/// A member of a group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) session_timeout_ms: u64,
    pub(crate) rebalance_timeout_ms: u64,
    /// The assignors with the member's subscription, best first.
    pub(crate) protocols: Vec<JoinGroupRequestProtocol>,
    pub(crate) assignment: Bytes,
    /// When the member counts as dead, in ms of the monotonic clock.
    pub(crate) session_deadline_ms: u64,
    /// The delayed JoinGroup request.
    pub(crate) joining: Option<u64>,
    /// The delayed SyncGroup request.
    pub(crate) syncing: Option<u64>,
    /// Whether SyncGroup of the current generation is missing (Kafka's `pendingSyncMembers`).
    pub(crate) is_pending_sync: bool,
}

impl Member {
    /// Returns the member's subscription for an assignor.
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|p| p.name == protocol);
        found.map_or_else(Bytes::new, |p| p.metadata.clone())
    }
}

/// A classic consumer group.
#[derive(Debug, Default)]
pub(crate) struct ClassicGroup {
    pub(crate) state: GroupState,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<String>,
    /// The assignor of the current generation.
    pub(crate) protocol: Option<String>,
    pub(crate) leader: Option<String>,
    pub(crate) members: BTreeMap<String, Member>,
    /// Members that have an id, but have not joined with it (KIP-394), with their deadline.
    pub(crate) pending_members: BTreeMap<String, u64>,
    /// When the rebalance ends without the members that have not joined.
    pub(super) rebalance_deadline_ms: Option<u64>,
    /// When the first rebalance may end: more members may join until then.
    pub(super) initial_rebalance_until_ms: Option<u64>,
    /// When the members that have not sent SyncGroup are removed. As in Kafka, the group may be
    /// stable before: a follower is late then.
    pub(super) sync_deadline_ms: Option<u64>,
}

impl ClassicGroup {
    /// Returns whether each member supports an assignor that all others support, too.
    pub(super) fn supports(
        &self,
        protocol_type: &str,
        protocols: &[JoinGroupRequestProtocol],
        except: &str,
    ) -> bool {
        let mut others = self.members.iter().filter(|(id, _)| *id != except).peekable();
        if others.peek().is_none() {
            return true;
        }
        let others: Vec<&Member> = others.map(|(_, m)| m).collect();
        let is_common = |p: &JoinGroupRequestProtocol| {
            others.iter().all(|m| m.protocols.iter().any(|other| other.name == p.name))
        };
        self.protocol_type.as_deref() == Some(protocol_type) && protocols.iter().any(is_common)
    }

    /// Returns the id of a static member.
    pub(super) fn static_member(&self, instance_id: &str) -> Option<String> {
        let mut members = self.members.iter();
        let found = members.find(|(_, m)| m.instance_id.as_deref() == Some(instance_id));
        found.map(|(id, _)| id.clone())
    }

    /// Begins a rebalance, unless one has begun.
    ///
    /// SyncGroup requests that wait fail: their members have to join again.
    pub(super) fn prepare_rebalance(
        &mut self,
        initial_delay_ms: u64,
        now_ms: u64,
        out: &mut CompletedRequests,
    ) {
        for member in self.members.values_mut() {
            if let Some(id) = member.syncing.take() {
                out.push(id, sync_error(ErrorCode::REBALANCE_IN_PROGRESS));
            }
        }
        self.sync_deadline_ms = None;
        if self.state == GroupState::PreparingRebalance {
            return;
        }
        let is_first = self.state == GroupState::Empty;
        self.initial_rebalance_until_ms =
            is_first.then_some(now_ms.saturating_add(initial_delay_ms));
        self.state = GroupState::PreparingRebalance;
        self.rebalance_deadline_ms = Some(now_ms + self.rebalance_timeout_ms());
    }

    /// Returns the longest rebalance timeout of all members.
    fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0)
    }

    /// Ends the rebalance if every member has joined, or its deadline has passed.
    pub(super) fn try_complete_join(&mut self, now_ms: u64, out: &mut CompletedRequests) {
        self.initial_rebalance_until_ms.take_if(|until| *until <= now_ms);
        if self.state != GroupState::PreparingRebalance || self.initial_rebalance_until_ms.is_some()
        {
            return;
        }
        let is_expired = self.rebalance_deadline_ms.is_some_and(|at| at <= now_ms);
        let is_waiting = self.members.values().any(|m| m.joining.is_none());
        if !is_expired && (is_waiting || !self.pending_members.is_empty()) {
            return;
        }
        // Static members stay until their session times out.
        self.members.retain(|_, m| m.joining.is_some() || m.instance_id.is_some());
        if !self.members.is_empty() && self.members.values().all(|m| m.joining.is_none()) {
            // Only static members are left, and none has joined: the rebalance goes into
            // another round.
            self.rebalance_deadline_ms = Some(now_ms + self.rebalance_timeout_ms().max(1));
            return;
        }
        self.complete_join(now_ms, out);
    }

    /// Begins the next generation and responds to the JoinGroup requests.
    fn complete_join(&mut self, now_ms: u64, out: &mut CompletedRequests) {
        (self.rebalance_deadline_ms, self.initial_rebalance_until_ms) = (None, None);
        self.generation = next_generation(self.generation);
        if self.members.is_empty() {
            (self.state, self.protocol, self.leader) = (GroupState::Empty, None, None);
            return;
        }
        self.state = GroupState::CompletingRebalance;
        self.protocol = self.select_protocol();
        // A static leader that has not joined again stays a member, but sends no assignment.
        let leader = self.leader.as_ref().and_then(|l| self.members.get(l));
        if leader.is_none_or(|m| m.joining.is_none()) {
            // The member whose request arrived first.
            let first = self.members.iter().min_by_key(|(_, m)| m.joining.unwrap_or(u64::MAX));
            self.leader = first.map(|(id, _)| id.clone());
        }
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let response = self.join_response(&id, false);
            let Some(member) = self.members.get_mut(&id) else { continue };
            (member.assignment, member.is_pending_sync) = (Bytes::new(), true);
            member.session_deadline_ms = now_ms + member.session_timeout_ms;
            if let Some(request) = member.joining.take() {
                out.push(request, GroupResponse::Join(response));
            }
        }
        self.sync_deadline_ms = Some(now_ms + self.rebalance_timeout_ms());
    }

    /// Returns the assignor with the most votes, among those that all members support.
    fn select_protocol(&self) -> Option<String> {
        let is_common =
            |name: &str| self.members.values().all(|m| m.protocols.iter().any(|p| p.name == name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some(p) = member.protocols.iter().find(|p| is_common(&p.name)) {
                *votes.entry(&p.name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, n)| *n).map(|(name, _)| name.to_owned())
    }

    /// Returns the response to a member's JoinGroup in the current generation.
    pub(super) fn join_response(
        &self,
        member_id: &str,
        skip_assignment: bool,
    ) -> JoinGroupResponse {
        let protocol = self.protocol.clone().unwrap_or_default();
        let is_leader = self.leader.as_deref() == Some(member_id);
        let to_member = |(id, m): (&String, &Member)| JoinGroupResponseMember {
            member_id: id.clone(),
            group_instance_id: m.instance_id.clone(),
            metadata: m.metadata(&protocol),
            ..Default::default()
        };
        let members =
            if is_leader { self.members.iter().map(to_member).collect() } else { Vec::new() };
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: Some(protocol),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment,
            member_id: member_id.to_owned(),
            members,
            ..Default::default()
        }
    }

    /// Returns the response to a member's SyncGroup in the current generation.
    pub(super) fn sync_response(&self, member_id: &str) -> GroupResponse {
        let assignment = self.members.get(member_id).map(|m| m.assignment.clone());
        GroupResponse::Sync(SyncGroupResponse {
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            assignment: assignment.unwrap_or_default(),
            ..Default::default()
        })
    }

    /// Removes a member and begins a rebalance without it.
    pub(super) fn remove_member(
        &mut self,
        member_id: &str,
        now_ms: u64,
        out: &mut CompletedRequests,
    ) {
        let Some(member) = self.members.remove(member_id) else { return };
        let unknown = ErrorCode::UNKNOWN_MEMBER_ID;
        if let Some(request) = member.joining {
            out.push(request, join_error(unknown, member_id));
        }
        if let Some(request) = member.syncing {
            out.push(request, sync_error(unknown));
        }
        self.prepare_rebalance(0, now_ms, out);
        self.try_complete_join(now_ms, out);
    }

    /// Ends the waits of all requests, and renews the sessions of the members.
    ///
    /// The clients find the new coordinator and repeat their requests there. Ids without a member
    /// are known to the old coordinator only.
    pub(super) fn reload(&mut self, now_ms: u64, out: &mut CompletedRequests) {
        self.pending_members.clear();
        for (id, member) in &mut self.members {
            if let Some(request) = member.joining.take() {
                out.push(request, join_error(ErrorCode::NOT_COORDINATOR, id));
            }
            if let Some(request) = member.syncing.take() {
                out.push(request, sync_error(ErrorCode::NOT_COORDINATOR));
            }
            member.session_deadline_ms = now_ms + member.session_timeout_ms;
        }
    }

    /// Removes the members whose session has timed out or whose SyncGroup is overdue, and ends a
    /// rebalance that is due.
    pub(super) fn tick(&mut self, now_ms: u64, out: &mut CompletedRequests) {
        self.pending_members.retain(|_, deadline| *deadline > now_ms);
        let is_dead = |m: &Member| {
            m.session_deadline_ms <= now_ms && m.joining.is_none() && m.syncing.is_none()
        };
        let dead: Vec<String> =
            self.members.iter().filter(|(_, m)| is_dead(m)).map(|(id, _)| id.clone()).collect();
        for id in dead {
            self.remove_member(&id, now_ms, out);
        }
        if self.sync_deadline_ms.is_some_and(|at| at <= now_ms) {
            let late = self.members.iter().filter(|(_, m)| m.is_pending_sync);
            let late: Vec<String> = late.map(|(id, _)| id.clone()).collect();
            for id in late {
                self.remove_member(&id, now_ms, out);
            }
        }
        self.try_complete_join(now_ms, out);
    }

    /// Returns when [`tick`](ClassicGroup::tick) is due next.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let waits = |m: &&Member| m.joining.is_none() && m.syncing.is_none();
        let sessions = self.members.values().filter(waits).map(|m| m.session_deadline_ms);
        let initial = self.initial_rebalance_until_ms;
        // Until the initial delay has passed, an earlier deadline of the rebalance changes nothing.
        let rebalance = self.rebalance_deadline_ms.map(|at| at.max(initial.unwrap_or(0)));
        let pending = self.pending_members.values().copied();
        let sync = self.sync_deadline_ms;
        sessions.chain(pending).chain(rebalance).chain(initial).chain(sync).min()
    }
}

/// The highest generation of a group.
pub(super) const MAX_GENERATION: i32 = i32::MAX - 1;

/// Returns the generation that follows. After the highest one, generations count from 1 again.
fn next_generation(generation: i32) -> i32 {
    if generation >= MAX_GENERATION { 1 } else { generation + 1 }
}

pub(super) fn join_error(code: ErrorCode, member_id: &str) -> GroupResponse {
    GroupResponse::Join(JoinGroupResponse {
        error_code: code.0,
        member_id: member_id.to_owned(),
        ..Default::default()
    })
}

pub(super) fn sync_error(code: ErrorCode) -> GroupResponse {
    GroupResponse::Sync(SyncGroupResponse { error_code: code.0, ..Default::default() })
}
