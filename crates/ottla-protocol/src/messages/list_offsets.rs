//! ListOffsets (2): offsets by time.

use crate::wire::message;

impl_request!(ListOffsetsRequest => ListOffsetsResponse, LIST_OFFSETS);

message! {
    /// What to look up.
    pub struct ListOffsetsRequest {
        /// −1 for a consumer.
        replica_id: i32 [1..] = -1;
        /// 0 counts everything, 1 only what is committed.
        isolation_level: i8 [2..];
        /// By topic.
        topics: Vec<ListOffsetsTopic> [1..];
        /// Milliseconds a look-up in remote storage may take.
        timeout_ms: i32 [10..];
    }
}

message! {
    /// A topic.
    pub struct ListOffsetsTopic {
        /// Its name.
        name: String [1..];
        /// Its partitions.
        partitions: Vec<ListOffsetsPartition> [1..];
    }
}

message! {
    /// A partition.
    pub struct ListOffsetsPartition {
        /// Its number.
        partition_index: i32 [1..];
        /// The leader's epoch as the asker knows it, −1 when unknown.
        current_leader_epoch: i32 [4..] = -1;
        /// Milliseconds since the epoch, or −1 latest, −2 earliest, −3 greatest timestamp.
        timestamp: i64 [1..];
    }
}

message! {
    /// The offsets.
    pub struct ListOffsetsResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [2..];
        /// By topic.
        topics: Vec<ListOffsetsTopicResponse> [1..];
    }
}

message! {
    /// A topic's offsets.
    pub struct ListOffsetsTopicResponse {
        /// Its name.
        name: String [1..];
        /// By partition.
        partitions: Vec<ListOffsetsPartitionResponse> [1..];
    }
}

message! {
    /// A partition's offset.
    pub struct ListOffsetsPartitionResponse {
        /// Its number.
        partition_index: i32 [1..];
        /// Error code, 0 for none.
        error_code: i16 [1..];
        /// The found record's timestamp, −1 for none.
        timestamp: i64 [1..] = -1;
        /// The offset, −1 for none.
        offset: i64 [1..] = -1;
        /// The leader's epoch at that offset.
        leader_epoch: i32 [4..] = -1;
    }
}
