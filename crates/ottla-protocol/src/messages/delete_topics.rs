//! DeleteTopics (20).

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(DeleteTopicsRequest => DeleteTopicsResponse, DELETE_TOPICS);

message! {
    /// Topics to delete.
    pub struct DeleteTopicsRequest {
        /// By name or id, from version 6.
        topics: Vec<DeleteTopicState> [6..];
        /// By name, up to version 5.
        topic_names: Vec<String> [1..=5];
        /// Milliseconds to wait.
        timeout_ms: i32 [1..];
    }
}

message! {
    /// A topic.
    pub struct DeleteTopicState {
        /// Its name; null when by id.
        name: Option<String> [6..] nullable [6..];
        /// Its id.
        topic_id: Uuid [6..];
    }
}

message! {
    /// What became of them.
    pub struct DeleteTopicsResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [1..];
        /// By topic.
        responses: Vec<DeletableTopicResult> [1..];
    }
}

message! {
    /// A topic's result.
    pub struct DeletableTopicResult {
        /// Its name.
        name: Option<String> [1..] nullable [6..] = Some(String::new());
        /// Its id.
        topic_id: Uuid [6..];
        /// Error code, 0 for none.
        error_code: i16 [1..];
        /// What the broker says about the error.
        error_message: Option<String> [5..] nullable [5..];
    }
}
