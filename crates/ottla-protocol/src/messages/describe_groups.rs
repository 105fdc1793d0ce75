//! DescribeGroups (15): the state and the members of groups.

use bytes::Bytes;

use crate::wire::message;

impl_request!(DescribeGroupsRequest => DescribeGroupsResponse, DESCRIBE_GROUPS);

message! {
    /// Requests the state of groups.
    pub struct DescribeGroupsRequest {
        /// The groups.
        groups: Vec<String> [0..];
        /// Whether the response names the operations that the client may do.
        include_authorized_operations: bool [3..];
    }
}

message! {
    /// The state of groups.
    pub struct DescribeGroupsResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [1..];
        /// The groups.
        groups: Vec<DescribedGroup> [0..];
    }
}

message! {
    /// The state of a group.
    pub struct DescribedGroup {
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The broker's error message; null for none.
        error_message: Option<String> [6..] nullable [6..];
        /// The group.
        group_id: String [0..];
        /// The group's state, such as `Stable`.
        group_state: String [0..];
        /// The class of the group, such as `consumer`.
        protocol_type: String [0..];
        /// The assignor, in the state `Stable`.
        protocol_data: String [0..];
        /// The members.
        members: Vec<DescribedGroupMember> [0..];
        /// The operations that the client may do, as bits.
        authorized_operations: i32 [3..] = i32::MIN;
    }
}

message! {
    /// A member of a group.
    pub struct DescribedGroupMember {
        /// The member's id.
        member_id: String [0..];
        /// The member's static id; null for none.
        group_instance_id: Option<String> [4..] nullable [4..];
        /// The client's name (`client.id`).
        client_id: String [0..];
        /// The client's host.
        client_host: String [0..];
        /// The member's subscription, in the state `Stable`.
        member_metadata: Bytes [0..];
        /// The member's assignment, in the state `Stable`.
        member_assignment: Bytes [0..];
    }
}
