//! CreatePartitions (37): more partitions for a topic.

use crate::wire::message;

impl_request!(CreatePartitionsRequest => CreatePartitionsResponse, CREATE_PARTITIONS);

message! {
    /// Topics to widen.
    pub struct CreatePartitionsRequest {
        /// The topics.
        topics: Vec<CreatePartitionsTopic> [0..];
        /// Milliseconds to wait.
        timeout_ms: i32 [0..];
        /// Only check.
        validate_only: bool [0..];
    }
}

message! {
    /// A topic.
    pub struct CreatePartitionsTopic {
        /// Its name.
        name: String [0..];
        /// Partitions it is to have.
        count: i32 [0..];
        /// Replicas of the new ones by hand; null leaves them to the broker.
        assignments: Option<Vec<CreatePartitionsAssignment>> [0..] nullable [0..];
    }
}

message! {
    /// A new partition's replicas.
    pub struct CreatePartitionsAssignment {
        /// Node ids.
        broker_ids: Vec<i32> [0..];
    }
}

message! {
    /// What became of them.
    pub struct CreatePartitionsResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [0..];
        /// By topic.
        results: Vec<CreatePartitionsTopicResult> [0..];
    }
}

message! {
    /// A topic's result.
    pub struct CreatePartitionsTopicResult {
        /// Its name.
        name: String [0..];
        /// Error code, 0 for none.
        error_code: i16 [0..];
        /// What the broker says about the error.
        error_message: Option<String> [0..] nullable [0..];
    }
}
