//! AddPartitionsToTxn (24): adds partitions to a transaction, or verifies that it has them.
//!
//! Clients use versions 0 to 3, brokers the batched versions 4 and 5 (KIP-890).

use crate::wire::message;

impl_request!(AddPartitionsToTxnRequest => AddPartitionsToTxnResponse, ADD_PARTITIONS_TO_TXN);

message! {
    /// Adds partitions to a transaction.
    pub struct AddPartitionsToTxnRequest {
        /// The transactions, from version 4.
        transactions: Vec<AddPartitionsToTxnTransaction> [4..];
        /// The transactional id.
        transactional_id: String [0..=3];
        /// The producer id.
        producer_id: i64 [0..=3];
        /// The producer epoch.
        producer_epoch: i16 [0..=3];
        /// The partitions, by topic.
        topics: Vec<AddPartitionsToTxnTopic> [0..=3];
    }
}

message! {
    /// A transaction and its partitions.
    pub struct AddPartitionsToTxnTransaction {
        /// The transactional id.
        transactional_id: String [4..];
        /// The producer id.
        producer_id: i64 [4..];
        /// The producer epoch.
        producer_epoch: i16 [4..];
        /// Whether the coordinator only verifies that the transaction has the partitions.
        verify_only: bool [4..];
        /// The partitions, by topic.
        topics: Vec<AddPartitionsToTxnTopic> [4..];
    }
}

message! {
    /// The partitions of a topic.
    pub struct AddPartitionsToTxnTopic {
        /// The topic's name.
        name: String [0..];
        /// The partition numbers.
        partitions: Vec<i32> [0..];
    }
}

message! {
    /// The results, by topic and partition.
    pub struct AddPartitionsToTxnResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [0..];
        /// The error code of the whole request, 0 for none.
        error_code: i16 [4..];
        /// The results by transaction, from version 4.
        results_by_transaction: Vec<AddPartitionsToTxnResult> [4..];
        /// The results by topic.
        results: Vec<AddPartitionsToTxnTopicResult> [0..=3];
    }
}

message! {
    /// The results of a transaction.
    pub struct AddPartitionsToTxnResult {
        /// The transactional id.
        transactional_id: String [4..];
        /// The results by topic.
        topic_results: Vec<AddPartitionsToTxnTopicResult> [4..];
    }
}

message! {
    /// The results of a topic.
    pub struct AddPartitionsToTxnTopicResult {
        /// The topic's name.
        name: String [0..];
        /// The results by partition.
        results: Vec<AddPartitionsToTxnPartitionResult> [0..];
    }
}

message! {
    /// The result of a partition.
    pub struct AddPartitionsToTxnPartitionResult {
        /// The partition number.
        partition_index: i32 [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
    }
}
