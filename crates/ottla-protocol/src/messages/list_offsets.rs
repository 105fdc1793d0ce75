//! ListOffsets (2): finds offsets by timestamp.

use crate::wire::message;

impl_request!(ListOffsetsRequest => ListOffsetsResponse, LIST_OFFSETS);

message! {
    /// Requests the offsets of timestamps.
    pub struct ListOffsetsRequest {
        /// The node id of a follower, −1 for a consumer.
        replica_id: i32 [1..] = -1;
        /// The isolation level: 0 all records, 1 only those of committed transactions.
        isolation_level: i8 [2..];
        /// By topic.
        topics: Vec<ListOffsetsTopic> [1..];
        /// Milliseconds that a lookup in remote storage may take.
        timeout_ms: i32 [10..];
    }
}

message! {
    /// The partitions of a topic.
    pub struct ListOffsetsTopic {
        /// The topic's name.
        name: String [1..];
        /// The partitions.
        partitions: Vec<ListOffsetsPartition> [1..];
    }
}

message! {
    /// A partition and the timestamp to find.
    pub struct ListOffsetsPartition {
        /// The partition number.
        partition_index: i32 [1..];
        /// The leader epoch that the client knows, −1 for none (KIP-320).
        current_leader_epoch: i32 [4..] = -1;
        /// Milliseconds since the Unix epoch, or −1 latest, −2 earliest, −3 highest timestamp.
        timestamp: i64 [1..];
    }
}

message! {
    /// The offsets, by topic and partition.
    pub struct ListOffsetsResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [2..];
        /// By topic.
        topics: Vec<ListOffsetsTopicResponse> [1..];
    }
}

message! {
    /// The offsets of a topic.
    pub struct ListOffsetsTopicResponse {
        /// The topic's name.
        name: String [1..];
        /// The results by partition.
        partitions: Vec<ListOffsetsPartitionResponse> [1..];
    }
}

message! {
    /// The offset of a partition.
    pub struct ListOffsetsPartitionResponse {
        /// The partition number.
        partition_index: i32 [1..];
        /// The error code, 0 for none.
        error_code: i16 [1..];
        /// The found record's timestamp, −1 for none.
        timestamp: i64 [1..] = -1;
        /// The offset, −1 for none.
        offset: i64 [1..] = -1;
        /// The leader epoch of the offset.
        leader_epoch: i32 [4..] = -1;
    }
}
