//! TxnOffsetCommit (28): commits the offsets of a group as part of a transaction (KIP-98).

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(TxnOffsetCommitRequest => TxnOffsetCommitResponse, TXN_OFFSET_COMMIT);

message! {
    /// Commits the offsets of a group as part of a transaction.
    pub struct TxnOffsetCommitRequest {
        /// The transactional id.
        transactional_id: String [0..];
        /// The group.
        group_id: String [0..];
        /// The producer id.
        producer_id: i64 [0..];
        /// The producer epoch.
        producer_epoch: i16 [0..];
        /// The consumer's generation, −1 for none (KIP-447).
        generation_id: i32 [3..] = -1;
        /// The consumer's member id, empty for none.
        member_id: String [3..];
        /// The consumer's static id (KIP-345); null for none.
        group_instance_id: Option<String> [3..] nullable [3..];
        /// The offsets, by topic.
        topics: Vec<TxnOffsetCommitRequestTopic> [0..];
    }
}

message! {
    /// The offsets of a topic.
    pub struct TxnOffsetCommitRequestTopic {
        /// The topic's name, up to version 5.
        name: String [0..=5];
        /// The topic's id, from version 6 (KIP-1319).
        topic_id: Uuid [6..];
        /// The offsets by partition.
        partitions: Vec<TxnOffsetCommitRequestPartition> [0..];
    }
}

message! {
    /// The offset of a partition.
    pub struct TxnOffsetCommitRequestPartition {
        /// The partition number.
        partition_index: i32 [0..];
        /// The offset of the next record to read.
        committed_offset: i64 [0..];
        /// The leader epoch of the last record read, −1 if unknown.
        committed_leader_epoch: i32 [2..] = -1;
        /// The client's metadata; null for none.
        committed_metadata: Option<String> [0..] nullable [0..];
    }
}

message! {
    /// The results, by topic.
    pub struct TxnOffsetCommitResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [0..];
        /// The results by topic.
        topics: Vec<TxnOffsetCommitResponseTopic> [0..];
    }
}

message! {
    /// The results of a topic.
    pub struct TxnOffsetCommitResponseTopic {
        /// The topic's name, up to version 5.
        name: String [0..=5];
        /// The topic's id, from version 6.
        topic_id: Uuid [6..];
        /// The results by partition.
        partitions: Vec<TxnOffsetCommitResponsePartition> [0..];
    }
}

message! {
    /// The result of a partition.
    pub struct TxnOffsetCommitResponsePartition {
        /// The partition number.
        partition_index: i32 [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
    }
}
