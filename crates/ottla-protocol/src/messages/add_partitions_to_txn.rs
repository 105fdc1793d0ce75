//! AddPartitionsToTxn (24): partitions that a transaction is about to write to; clients use versions 0 to 3.

use crate::wire::message;

impl_request!(AddPartitionsToTxnRequest => AddPartitionsToTxnResponse, ADD_PARTITIONS_TO_TXN);

message! {
    /// Partitions to add.
    pub struct AddPartitionsToTxnRequest {
        /// The transaction.
        transactional_id: String [0..=3];
        /// The producer.
        producer_id: i64 [0..=3];
        /// Its epoch.
        producer_epoch: i16 [0..=3];
        /// The partitions.
        topics: Vec<AddPartitionsToTxnTopic> [0..=3];
    }
}

message! {
    /// A topic's partitions.
    pub struct AddPartitionsToTxnTopic {
        /// The topic.
        name: String [0..];
        /// Its partitions.
        partitions: Vec<i32> [0..];
    }
}

message! {
    /// What became of them.
    pub struct AddPartitionsToTxnResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [0..];
        /// By topic.
        results: Vec<AddPartitionsToTxnTopicResult> [0..=3];
    }
}

message! {
    /// A topic's results.
    pub struct AddPartitionsToTxnTopicResult {
        /// The topic.
        name: String [0..];
        /// By partition.
        results: Vec<AddPartitionsToTxnPartitionResult> [0..];
    }
}

message! {
    /// A partition's result.
    pub struct AddPartitionsToTxnPartitionResult {
        /// The partition.
        partition_index: i32 [0..];
        /// Error code, 0 for none.
        error_code: i16 [0..];
    }
}
