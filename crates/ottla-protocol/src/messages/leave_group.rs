//! LeaveGroup (13): members leave their group.

use crate::wire::message;

impl_request!(LeaveGroupRequest => LeaveGroupResponse, LEAVE_GROUP);

message! {
    /// Removes members from a group.
    pub struct LeaveGroupRequest {
        /// The group.
        group_id: String [0..];
        /// The member's id, up to version 2.
        member_id: String [0..=2];
        /// The members, from version 3.
        members: Vec<MemberIdentity> [3..];
    }
}

message! {
    /// A member that leaves.
    pub struct MemberIdentity {
        /// The member's id.
        member_id: String [3..];
        /// The member's static id (KIP-345); null for none.
        group_instance_id: Option<String> [3..] nullable [3..];
        /// The reason why the member leaves (KIP-800); null for none.
        reason: Option<String> [5..] nullable [5..];
    }
}

message! {
    /// The results by member.
    pub struct LeaveGroupResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [1..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The results by member.
        members: Vec<MemberResponse> [3..];
    }
}

message! {
    /// The result of a member.
    pub struct MemberResponse {
        /// The member's id.
        member_id: String [3..];
        /// The member's static id; null for none.
        group_instance_id: Option<String> [3..] nullable [3..];
        /// The error code, 0 for none.
        error_code: i16 [3..];
    }
}
