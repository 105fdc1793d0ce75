//! CreatePartitions (37): raises the number of partitions of topics.

use crate::wire::message;

impl_request!(CreatePartitionsRequest => CreatePartitionsResponse, CREATE_PARTITIONS);

message! {
    /// Raises the number of partitions of topics.
    pub struct CreatePartitionsRequest {
        /// The topics.
        topics: Vec<CreatePartitionsTopic> [0..];
        /// Milliseconds for which the broker may wait for the result.
        timeout_ms: i32 [0..];
        /// Whether the broker only validates the request.
        validate_only: bool [0..];
    }
}

message! {
    /// A topic and its new number of partitions.
    pub struct CreatePartitionsTopic {
        /// The topic's name.
        name: String [0..];
        /// The new number of partitions.
        count: i32 [0..];
        /// The replicas of the new partitions; null for the broker's choice.
        assignments: Option<Vec<CreatePartitionsAssignment>> [0..] nullable [0..];
    }
}

message! {
    /// The replicas of a new partition.
    pub struct CreatePartitionsAssignment {
        /// The node ids of the replicas.
        broker_ids: Vec<i32> [0..];
    }
}

message! {
    /// The results, by topic.
    pub struct CreatePartitionsResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [0..];
        /// The results by topic.
        results: Vec<CreatePartitionsTopicResult> [0..];
    }
}

message! {
    /// The result of a topic.
    pub struct CreatePartitionsTopicResult {
        /// The topic's name.
        name: String [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The broker's error message; null for none.
        error_message: Option<String> [0..] nullable [0..];
    }
}
