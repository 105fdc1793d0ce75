//! SyncGroup (14): the leader gives the assignment, each member receives its part.

use bytes::Bytes;

use crate::wire::message;

impl_request!(SyncGroupRequest => SyncGroupResponse, SYNC_GROUP);

message! {
    /// Requests the member's assignment.
    pub struct SyncGroupRequest {
        /// The group.
        group_id: String [0..];
        /// The generation.
        generation_id: i32 [0..];
        /// The member's id.
        member_id: String [0..];
        /// The member's static id (KIP-345); null for none.
        group_instance_id: Option<String> [3..] nullable [3..];
        /// The class of the group (KIP-559); null if unknown.
        protocol_type: Option<String> [5..] nullable [5..];
        /// The assignor; null if unknown.
        protocol_name: Option<String> [5..] nullable [5..];
        /// The assignment of each member, from the leader only.
        assignments: Vec<SyncGroupRequestAssignment> [0..];
    }
}

message! {
    /// The assignment of a member.
    pub struct SyncGroupRequestAssignment {
        /// The member's id.
        member_id: String [0..];
        /// The assignment, in the assignor's format.
        assignment: Bytes [0..];
    }
}

message! {
    /// The member's assignment.
    pub struct SyncGroupResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [1..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The class of the group; null if unknown.
        protocol_type: Option<String> [5..] nullable [5..];
        /// The assignor; null if unknown.
        protocol_name: Option<String> [5..] nullable [5..];
        /// The assignment, in the assignor's format.
        assignment: Bytes [0..];
    }
}
