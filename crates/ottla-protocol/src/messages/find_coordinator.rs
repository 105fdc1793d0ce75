//! FindCoordinator (10): the broker that coordinates a group or a transactional id.

use crate::wire::message;

impl_request!(FindCoordinatorRequest => FindCoordinatorResponse, FIND_COORDINATOR);

message! {
    /// Requests the coordinators of groups or transactional ids.
    pub struct FindCoordinatorRequest {
        /// The key, up to version 3.
        key: String [0..=3];
        /// The type of the keys: 0 groups, 1 transactional ids.
        key_type: i8 [1..];
        /// The keys, from version 4.
        coordinator_keys: Vec<String> [4..];
    }
}

message! {
    /// The coordinators of the keys.
    pub struct FindCoordinatorResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [1..];
        /// The error code, 0 for none.
        error_code: i16 [0..=3];
        /// The broker's error message; null for none.
        error_message: Option<String> [1..=3] nullable [1..=3];
        /// The coordinator's node id.
        node_id: i32 [0..=3];
        /// The coordinator's host.
        host: String [0..=3];
        /// The coordinator's port.
        port: i32 [0..=3];
        /// The coordinator of each key, from version 4.
        coordinators: Vec<Coordinator> [4..];
    }
}

message! {
    /// The coordinator of a key.
    pub struct Coordinator {
        /// The key.
        key: String [4..];
        /// The coordinator's node id.
        node_id: i32 [4..];
        /// The coordinator's host.
        host: String [4..];
        /// The coordinator's port.
        port: i32 [4..];
        /// The error code, 0 for none.
        error_code: i16 [4..];
        /// The broker's error message; null for none.
        error_message: Option<String> [4..] nullable [4..];
    }
}
