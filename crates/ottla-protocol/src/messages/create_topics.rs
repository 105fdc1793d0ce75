//! CreateTopics (19).

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(CreateTopicsRequest => CreateTopicsResponse, CREATE_TOPICS);

message! {
    /// Topics to make.
    pub struct CreateTopicsRequest {
        /// The topics.
        topics: Vec<CreatableTopic> [2..];
        /// Milliseconds to wait.
        timeout_ms: i32 [2..] = 60000;
        /// Only check.
        validate_only: bool [2..];
    }
}

message! {
    /// A topic to make.
    pub struct CreatableTopic {
        /// Its name.
        name: String [2..];
        /// Partitions, −1 for the broker's default or with assignments.
        num_partitions: i32 [2..];
        /// Replicas, −1 for the broker's default or with assignments.
        replication_factor: i16 [2..];
        /// Replicas by hand.
        assignments: Vec<CreatableReplicaAssignment> [2..];
        /// Its settings.
        configs: Vec<CreatableTopicConfig> [2..];
    }
}

message! {
    /// A partition's replicas.
    pub struct CreatableReplicaAssignment {
        /// The partition.
        partition_index: i32 [2..];
        /// Node ids.
        broker_ids: Vec<i32> [2..];
    }
}

message! {
    /// A setting.
    pub struct CreatableTopicConfig {
        /// Its name.
        name: String [2..];
        /// Its value.
        value: Option<String> [2..] nullable [2..];
    }
}

message! {
    /// What became of them.
    pub struct CreateTopicsResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [2..];
        /// By topic.
        topics: Vec<CreatableTopicResult> [2..];
    }
}

message! {
    /// A topic's result.
    pub struct CreatableTopicResult {
        /// Its name.
        name: String [2..];
        /// Its id.
        topic_id: Uuid [7..];
        /// Error code, 0 for none.
        error_code: i16 [2..];
        /// What the broker says about the error.
        error_message: Option<String> [2..] nullable [2..];
        /// Why its settings are not shown.
        topic_config_error_code: i16 [5..] tag 0;
        /// Its partitions, −1 when not shown.
        num_partitions: i32 [5..] = -1;
        /// Its replicas, −1 when not shown.
        replication_factor: i16 [5..] = -1;
        /// Its settings; null when not shown.
        configs: Option<Vec<CreatableTopicConfigs>> [5..] nullable [5..];
    }
}

message! {
    /// A setting.
    pub struct CreatableTopicConfigs {
        /// Its name.
        name: String [5..];
        /// Its value.
        value: Option<String> [5..] nullable [5..];
        /// Fixed.
        read_only: bool [5..];
        /// Where it comes from.
        config_source: i8 [5..] = -1;
        /// Not to be shown.
        is_sensitive: bool [5..];
    }
}
