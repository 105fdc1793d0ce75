//! CreateTopics (19): creates topics.

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(CreateTopicsRequest => CreateTopicsResponse, CREATE_TOPICS);

message! {
    /// Creates topics.
    pub struct CreateTopicsRequest {
        /// The topics.
        topics: Vec<CreatableTopic> [2..];
        /// Milliseconds for which the broker may wait for the result.
        timeout_ms: i32 [2..] = 60000;
        /// Whether the broker only validates the request.
        validate_only: bool [2..];
    }
}

message! {
    /// A topic to create.
    pub struct CreatableTopic {
        /// The name.
        name: String [2..];
        /// The number of partitions; −1 for the broker's default or with assignments.
        num_partitions: i32 [2..];
        /// The number of replicas; −1 for the broker's default or with assignments.
        replication_factor: i16 [2..];
        /// The replicas of each partition; empty for the broker's choice.
        assignments: Vec<CreatableReplicaAssignment> [2..];
        /// The settings.
        configs: Vec<CreatableTopicConfig> [2..];
    }
}

message! {
    /// The replicas of a partition.
    pub struct CreatableReplicaAssignment {
        /// The partition number.
        partition_index: i32 [2..];
        /// The node ids of the replicas.
        broker_ids: Vec<i32> [2..];
    }
}

message! {
    /// A setting and its value.
    pub struct CreatableTopicConfig {
        /// The name.
        name: String [2..];
        /// The value.
        value: Option<String> [2..] nullable [2..];
    }
}

message! {
    /// The results, by topic.
    pub struct CreateTopicsResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [2..];
        /// The results by topic.
        topics: Vec<CreatableTopicResult> [2..];
    }
}

message! {
    /// The result of a topic.
    pub struct CreatableTopicResult {
        /// The name.
        name: String [2..];
        /// The topic's id.
        topic_id: Uuid [7..];
        /// The error code, 0 for none.
        error_code: i16 [2..];
        /// The broker's error message; null for none.
        error_message: Option<String> [2..] nullable [2..];
        /// The reason why the settings are missing, as an error code.
        topic_config_error_code: i16 [5..] tag 0;
        /// The number of partitions, −1 if missing.
        num_partitions: i32 [5..] = -1;
        /// The number of replicas, −1 if missing.
        replication_factor: i16 [5..] = -1;
        /// The settings; null if missing.
        configs: Option<Vec<CreatableTopicConfigs>> [5..] nullable [5..];
    }
}

message! {
    /// A setting and its value.
    pub struct CreatableTopicConfigs {
        /// The name.
        name: String [5..];
        /// The value.
        value: Option<String> [5..] nullable [5..];
        /// Whether the setting cannot be changed.
        read_only: bool [5..];
        /// The source of the value: 1 set on the topic, 5 a default.
        config_source: i8 [5..] = -1;
        /// Whether the value is secret, such as a password.
        is_sensitive: bool [5..];
    }
}
