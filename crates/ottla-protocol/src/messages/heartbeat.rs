//! Heartbeat (12): a member of a group shows that it is alive.

use crate::wire::message;

impl_request!(HeartbeatRequest => HeartbeatResponse, HEARTBEAT);

message! {
    /// Shows that a member is alive.
    pub struct HeartbeatRequest {
        /// The group.
        group_id: String [0..];
        /// The generation.
        generation_id: i32 [0..];
        /// The member's id.
        member_id: String [0..];
        /// The member's static id (KIP-345); null for none.
        group_instance_id: Option<String> [3..] nullable [3..];
    }
}

message! {
    /// The result.
    pub struct HeartbeatResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [1..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
    }
}
