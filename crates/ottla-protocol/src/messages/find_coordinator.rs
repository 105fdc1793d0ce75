//! FindCoordinator (10): which broker looks after a group or a transactional id.

use crate::wire::message;

impl_request!(FindCoordinatorRequest => FindCoordinatorResponse, FIND_COORDINATOR);

message! {
    /// Asks for coordinators.
    pub struct FindCoordinatorRequest {
        /// The key, up to version 3.
        key: String [0..=3];
        /// 0 for a group, 1 for a transactional id.
        key_type: i8 [1..];
        /// The keys, from version 4.
        coordinator_keys: Vec<String> [4..];
    }
}

message! {
    /// The coordinators.
    pub struct FindCoordinatorResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [1..];
        /// Error code, 0 for none.
        error_code: i16 [0..=3];
        /// What the broker says about the error.
        error_message: Option<String> [1..=3] nullable [1..=3];
        /// The coordinator's node id.
        node_id: i32 [0..=3];
        /// Its host.
        host: String [0..=3];
        /// Its port.
        port: i32 [0..=3];
        /// One for each key, from version 4.
        coordinators: Vec<Coordinator> [4..];
    }
}

message! {
    /// A key's coordinator.
    pub struct Coordinator {
        /// The key.
        key: String [4..];
        /// Its node id.
        node_id: i32 [4..];
        /// Its host.
        host: String [4..];
        /// Its port.
        port: i32 [4..];
        /// Error code, 0 for none.
        error_code: i16 [4..];
        /// What the broker says about the error.
        error_message: Option<String> [4..] nullable [4..];
    }
}
