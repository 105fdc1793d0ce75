//! DeleteTopics (20): deletes topics.

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(DeleteTopicsRequest => DeleteTopicsResponse, DELETE_TOPICS);

message! {
    /// Deletes topics.
    pub struct DeleteTopicsRequest {
        /// The topics by name or id, from version 6.
        topics: Vec<DeleteTopicState> [6..];
        /// The topics by name, up to version 5.
        topic_names: Vec<String> [1..=5];
        /// Milliseconds for which the broker may wait for the result.
        timeout_ms: i32 [1..];
    }
}

message! {
    /// A topic to delete.
    pub struct DeleteTopicState {
        /// The topic's name; null if it is identified by id.
        name: Option<String> [6..] nullable [6..];
        /// The topic's id.
        topic_id: Uuid [6..];
    }
}

message! {
    /// The results, by topic.
    pub struct DeleteTopicsResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [1..];
        /// The results by topic.
        responses: Vec<DeletableTopicResult> [1..];
    }
}

message! {
    /// The result of a topic.
    pub struct DeletableTopicResult {
        /// The topic's name.
        name: Option<String> [1..] nullable [6..] = Some(String::new());
        /// The topic's id.
        topic_id: Uuid [6..];
        /// The error code, 0 for none.
        error_code: i16 [1..];
        /// The broker's error message; null for none.
        error_message: Option<String> [5..] nullable [5..];
    }
}
