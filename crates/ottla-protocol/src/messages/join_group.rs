//! JoinGroup (11): a consumer joins its group (KIP-62, KIP-345, KIP-394).

use bytes::Bytes;

use crate::wire::message;

impl_request!(JoinGroupRequest => JoinGroupResponse, JOIN_GROUP);

message! {
    /// Joins a group.
    pub struct JoinGroupRequest {
        /// The group.
        group_id: String [0..];
        /// Milliseconds without a heartbeat after which the member counts as dead.
        session_timeout_ms: i32 [0..];
        /// Milliseconds that the member may take to join again in a rebalance.
        rebalance_timeout_ms: i32 [1..] = -1;
        /// The member's id; empty if it has none yet.
        member_id: String [0..];
        /// The member's static id (KIP-345); null for none.
        group_instance_id: Option<String> [5..] nullable [5..];
        /// The class of the group, such as `consumer`.
        protocol_type: String [0..];
        /// The assignors that the member supports, best first.
        protocols: Vec<JoinGroupRequestProtocol> [0..];
        /// The reason why the member joins (KIP-800); null for none.
        reason: Option<String> [8..] nullable [8..];
    }
}

message! {
    /// An assignor of a member.
    pub struct JoinGroupRequestProtocol {
        /// The assignor's name.
        name: String [0..];
        /// The member's subscription, in the assignor's format.
        metadata: Bytes [0..];
    }
}

message! {
    /// The generation that the member has joined.
    pub struct JoinGroupResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [2..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The generation.
        generation_id: i32 [0..] = -1;
        /// The class of the group; null for none.
        protocol_type: Option<String> [7..] nullable [7..];
        /// The assignor that all members support; null for none.
        protocol_name: Option<String> [0..] nullable [7..];
        /// The member id of the leader.
        leader: String [0..];
        /// Whether the leader keeps the assignment as it is (KIP-814).
        skip_assignment: bool [9..];
        /// The member's own id.
        member_id: String [0..];
        /// All members, for the leader only.
        members: Vec<JoinGroupResponseMember> [0..];
    }
}

message! {
    /// A member of the group.
    pub struct JoinGroupResponseMember {
        /// The member's id.
        member_id: String [0..];
        /// The member's static id; null for none.
        group_instance_id: Option<String> [5..] nullable [5..];
        /// The member's subscription.
        metadata: Bytes [0..];
    }
}
