//! OffsetCommit (8): stores the offsets of a group.

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(OffsetCommitRequest => OffsetCommitResponse, OFFSET_COMMIT);

message! {
    /// Stores the offsets of a group.
    pub struct OffsetCommitRequest {
        /// The group.
        group_id: String [2..];
        /// The member's generation, −1 for none.
        generation_id: i32 [2..] = -1;
        /// The member's id, empty for none.
        member_id: String [2..];
        /// The member's static id (KIP-345); null for none.
        group_instance_id: Option<String> [7..] nullable [7..];
        /// Milliseconds for which to keep the offsets, −1 for the broker's setting.
        retention_time_ms: i64 [2..=4] = -1;
        /// The offsets, by topic.
        topics: Vec<OffsetCommitRequestTopic> [2..];
    }
}

message! {
    /// The offsets of a topic.
    pub struct OffsetCommitRequestTopic {
        /// The topic's name, up to version 9.
        name: String [2..=9];
        /// The topic's id, from version 10.
        topic_id: Uuid [10..];
        /// The offsets by partition.
        partitions: Vec<OffsetCommitRequestPartition> [2..];
    }
}

message! {
    /// The offset of a partition.
    pub struct OffsetCommitRequestPartition {
        /// The partition number.
        partition_index: i32 [2..];
        /// The offset of the next record to read.
        committed_offset: i64 [2..];
        /// The leader epoch of the last record read, −1 if unknown.
        committed_leader_epoch: i32 [6..] = -1;
        /// The client's metadata; null for none.
        committed_metadata: Option<String> [2..] nullable [2..];
    }
}

message! {
    /// The results, by topic.
    pub struct OffsetCommitResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [3..];
        /// The results by topic.
        topics: Vec<OffsetCommitResponseTopic> [2..];
    }
}

message! {
    /// The results of a topic.
    pub struct OffsetCommitResponseTopic {
        /// The topic's name, up to version 9.
        name: String [2..=9];
        /// The topic's id, from version 10.
        topic_id: Uuid [10..];
        /// The results by partition.
        partitions: Vec<OffsetCommitResponsePartition> [2..];
    }
}

message! {
    /// The result of a partition.
    pub struct OffsetCommitResponsePartition {
        /// The partition number.
        partition_index: i32 [2..];
        /// The error code, 0 for none.
        error_code: i16 [2..];
    }
}
