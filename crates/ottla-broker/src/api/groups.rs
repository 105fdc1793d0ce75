//! The handlers of JoinGroup, SyncGroup, Heartbeat, LeaveGroup, DescribeGroups and ListGroups.

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;

use crate::api::RequestContext;
use crate::core::{Core, HandleResult};
use crate::group::{
    ClassicGroup, CompletedRequests, DelayedGroupRequest, GroupState, JoinRequest, MemberRef,
    SyncRequest,
};

/// The session timeouts that members may have (Kafka's `group.min.session.timeout.ms` and
/// `group.max.session.timeout.ms`).
const SESSION_TIMEOUT_MS: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;
/// The deadline of a request that waits for a group. The group always ends the wait earlier: its
/// own deadlines come from timeouts of up to `i32::MAX` ms.
const MAX_WAIT_MS: u64 = 1 << 32;
/// The type of a group whose members compute the assignment.
const CLASSIC_GROUP: &str = "classic";

/// Returns the context's request as one that may wait for a group.
fn delayed_request(ctx: &RequestContext<'_>, group: &str) -> DelayedGroupRequest {
    DelayedGroupRequest {
        group: group.to_owned(),
        node: ctx.node,
        version: ctx.header.api_version,
        correlation_id: ctx.header.correlation_id,
        response: None,
    }
}

/// Returns the response to a request if it is there, else lets the request wait.
fn finish(core: &mut Core, ctx: &RequestContext<'_>, id: u64) -> HandleResult {
    let deadline_ms = ctx.now.mono_ms + MAX_WAIT_MS;
    core.take_group_response(id).unwrap_or(HandleResult::Delayed { id, deadline_ms })
}

pub(crate) fn handle_join_group(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: JoinGroupRequest,
) -> HandleResult {
    let version = ctx.header.api_version;
    let checked = core.check_group_coordinator(&request.group_id, ctx.node, ctx.now);
    let checked = checked.and_then(|()| {
        if SESSION_TIMEOUT_MS.contains(&request.session_timeout_ms) {
            Ok(())
        } else {
            Err(ErrorCode::INVALID_SESSION_TIMEOUT)
        }
    });
    if let Err(code) = checked {
        let protocol_name = (version < 7).then(String::new);
        return ctx.send_response::<JoinGroupRequest>(&JoinGroupResponse {
            error_code: code.0,
            member_id: request.member_id,
            protocol_name,
            ..Default::default()
        });
    }
    let client_id = ctx.header.client_id.clone().unwrap_or_default();
    let prefix = request.group_instance_id.as_ref().unwrap_or(&client_id);
    let new_member_id = format!("{prefix}-{}", core.random_uuid());
    let session_timeout_ms = request.session_timeout_ms as u64;
    let id = core.delay_group_request(delayed_request(ctx, &request.group_id));
    let join = JoinRequest {
        request: id,
        member_id: request.member_id,
        instance_id: request.group_instance_id,
        client_id,
        protocol_type: request.protocol_type,
        protocols: request.protocols,
        session_timeout_ms,
        // Version 0 has no rebalance timeout.
        rebalance_timeout_ms: u64::try_from(request.rebalance_timeout_ms)
            .unwrap_or(session_timeout_ms),
        requires_known_id: version >= 4,
        supports_skipping: version >= 9,
        new_member_id,
        initial_delay_ms: core.config.group_initial_rebalance_delay_ms,
    };
    let mut completed = CompletedRequests::default();
    let group = core.groups.by_id.entry(request.group_id.clone()).or_default();
    group.classic.join(join, ctx.now.mono_ms, &mut completed);
    core.on_group_changed(&request.group_id, completed, ctx.now);
    finish(core, ctx, id)
}

pub(crate) fn handle_sync_group(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: SyncGroupRequest,
) -> HandleResult {
    let mut checked = core.check_group_coordinator(&request.group_id, ctx.node, ctx.now);
    if checked.is_ok() && !core.groups.by_id.contains_key(&request.group_id) {
        checked = Err(ErrorCode::UNKNOWN_MEMBER_ID);
    }
    if let Err(code) = checked {
        let error_code = code.0;
        return ctx.send_response::<SyncGroupRequest>(&SyncGroupResponse {
            error_code,
            ..Default::default()
        });
    }
    let id = core.delay_group_request(delayed_request(ctx, &request.group_id));
    let assignments = request.assignments.into_iter().map(|a| (a.member_id, a.assignment));
    let instance_id = request.group_instance_id.as_deref();
    let sync = SyncRequest {
        request: id,
        member: MemberRef::new(&request.member_id, instance_id, request.generation_id),
        protocol_type: request.protocol_type.as_deref(),
        protocol: request.protocol_name.as_deref(),
        assignments: assignments.collect(),
    };
    let mut completed = CompletedRequests::default();
    if let Some(group) = core.groups.by_id.get_mut(&request.group_id) {
        group.classic.sync(sync, ctx.now.mono_ms, &mut completed);
    }
    core.on_group_changed(&request.group_id, completed, ctx.now);
    finish(core, ctx, id)
}

pub(crate) fn handle_heartbeat(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: &HeartbeatRequest,
) -> HeartbeatResponse {
    let instance_id = request.group_instance_id.as_deref();
    let member = MemberRef::new(&request.member_id, instance_id, request.generation_id);
    let result = core.check_group_coordinator(&request.group_id, ctx.node, ctx.now);
    let result = result.and_then(|()| {
        let group = core.groups.by_id.get_mut(&request.group_id);
        group.ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?.classic.heartbeat(member, ctx.now.mono_ms)
    });
    HeartbeatResponse {
        error_code: result.err().unwrap_or(ErrorCode::NONE).0,
        ..Default::default()
    }
}

pub(crate) fn handle_leave_group(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    if let Err(code) = core.check_group_coordinator(&request.group_id, ctx.node, ctx.now) {
        return LeaveGroupResponse { error_code: code.0, ..Default::default() };
    }
    let is_batched = ctx.header.api_version >= 3;
    let members = if is_batched {
        request.members
    } else {
        vec![MemberIdentity { member_id: request.member_id, ..Default::default() }]
    };
    let mut completed = CompletedRequests::default();
    let results: Vec<MemberResponse> = members
        .into_iter()
        .map(|m| {
            let group = core.groups.by_id.get_mut(&request.group_id);
            let left = group.ok_or(ErrorCode::UNKNOWN_MEMBER_ID).and_then(|group| {
                let (id, instance_id) = (&m.member_id, m.group_instance_id.as_deref());
                group.classic.leave(id, instance_id, ctx.now.mono_ms, &mut completed)
            });
            MemberResponse {
                member_id: m.member_id,
                group_instance_id: m.group_instance_id,
                error_code: left.err().unwrap_or(ErrorCode::NONE).0,
                ..Default::default()
            }
        })
        .collect();
    core.on_group_changed(&request.group_id, completed, ctx.now);
    let first_error = results.first().map_or(0, |m| m.error_code);
    LeaveGroupResponse {
        error_code: if is_batched { 0 } else { first_error },
        members: if is_batched { results } else { Vec::new() },
        ..Default::default()
    }
}

/// Returns the name of a group's state. A group without members and offsets is dead.
fn state_name(core: &Core, group: &str) -> &'static str {
    match core.groups.by_id.get(group) {
        Some(g) if g.classic.state == GroupState::Empty && g.offsets.is_empty() => "Dead",
        Some(g) => g.classic.state.name(),
        None => "Dead",
    }
}

pub(crate) fn handle_describe_groups(
    core: &Core,
    ctx: &RequestContext<'_>,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let groups = request.groups.into_iter().map(|group_id| {
        let state = state_name(core, &group_id);
        let checked = core.check_group_coordinator(&group_id, ctx.node, ctx.now);
        // Before version 6, a group that does not exist is described as dead.
        let error = match checked {
            Ok(()) if state == "Dead" && ctx.header.api_version >= 6 => {
                Some(ErrorCode::GROUP_ID_NOT_FOUND)
            }
            checked => checked.err(),
        };
        let group = core.groups.by_id.get(&group_id).filter(|_| error.is_none());
        DescribedGroup {
            error_code: error.unwrap_or(ErrorCode::NONE).0,
            error_message: (error == Some(ErrorCode::GROUP_ID_NOT_FOUND))
                .then(|| format!("Group {group_id} not found.")),
            group_state: if checked.is_ok() { state.to_owned() } else { String::new() },
            protocol_type: group.and_then(|g| g.classic.protocol_type.clone()).unwrap_or_default(),
            protocol_data: group.and_then(|g| stable_protocol(&g.classic)).unwrap_or_default(),
            members: group.map(|g| describe_members(&g.classic)).unwrap_or_default(),
            group_id,
            ..Default::default()
        }
    });
    DescribeGroupsResponse { groups: groups.collect(), ..Default::default() }
}

/// Returns the assignor of a group that is stable.
fn stable_protocol(group: &ClassicGroup) -> Option<String> {
    group.protocol.clone().filter(|_| group.state == GroupState::Stable)
}

fn describe_members(group: &ClassicGroup) -> Vec<DescribedGroupMember> {
    let protocol = stable_protocol(group);
    let members = group.members.iter().map(|(id, m)| DescribedGroupMember {
        member_id: id.clone(),
        group_instance_id: m.instance_id.clone(),
        client_id: m.client_id.clone(),
        member_metadata: protocol.as_ref().map(|p| m.metadata(p)).unwrap_or_default(),
        member_assignment: protocol.as_ref().map(|_| m.assignment.clone()).unwrap_or_default(),
        ..Default::default()
    });
    members.collect()
}

pub(crate) fn handle_list_groups(
    core: &Core,
    ctx: &RequestContext<'_>,
    request: &ListGroupsRequest,
) -> ListGroupsResponse {
    let matches = |filter: &[String], value: &str| {
        filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(value))
    };
    let groups = core.groups.by_id.iter().filter_map(|(id, group)| {
        core.check_group_coordinator(id, ctx.node, ctx.now).ok()?;
        let state = state_name(core, id);
        let is_listed = state != "Dead"
            && matches(&request.states_filter, state)
            && matches(&request.types_filter, CLASSIC_GROUP);
        is_listed.then(|| ListedGroup {
            group_id: id.clone(),
            protocol_type: group.classic.protocol_type.clone().unwrap_or_default(),
            group_state: state.to_owned(),
            group_type: CLASSIC_GROUP.to_owned(),
            ..Default::default()
        })
    });
    ListGroupsResponse { groups: groups.collect(), ..Default::default() }
}
