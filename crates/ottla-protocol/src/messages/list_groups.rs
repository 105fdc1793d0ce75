//! ListGroups (16): the groups that a broker coordinates.

use crate::wire::message;

impl_request!(ListGroupsRequest => ListGroupsResponse, LIST_GROUPS);

message! {
    /// Requests the groups of a broker.
    pub struct ListGroupsRequest {
        /// The states of the groups to list (KIP-518); empty for all.
        states_filter: Vec<String> [4..];
        /// The types of the groups to list (KIP-848); empty for all.
        types_filter: Vec<String> [5..];
    }
}

message! {
    /// The groups of a broker.
    pub struct ListGroupsResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [1..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The groups.
        groups: Vec<ListedGroup> [0..];
    }
}

message! {
    /// A group.
    pub struct ListedGroup {
        /// The group.
        group_id: String [0..];
        /// The class of the group, such as `consumer`.
        protocol_type: String [0..];
        /// The group's state, such as `Stable`.
        group_state: String [4..];
        /// The group's type, such as `classic`.
        group_type: String [5..];
    }
}
