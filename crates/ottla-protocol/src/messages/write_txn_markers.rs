//! WriteTxnMarkers (27): writes the end of a transaction to its partitions. Brokers use it.

use crate::wire::message;

impl_request!(WriteTxnMarkersRequest => WriteTxnMarkersResponse, WRITE_TXN_MARKERS);

message! {
    /// Writes the markers of transactions.
    pub struct WriteTxnMarkersRequest {
        /// The markers.
        markers: Vec<WritableTxnMarker> [0..];
    }
}

message! {
    /// The marker of a transaction.
    pub struct WritableTxnMarker {
        /// The producer id.
        producer_id: i64 [0..];
        /// The producer epoch.
        producer_epoch: i16 [0..];
        /// True commits, false aborts.
        transaction_result: bool [0..];
        /// The partitions, by topic.
        topics: Vec<WritableTxnMarkerTopic> [0..];
        /// The epoch of the coordinator's partition of the transaction log.
        coordinator_epoch: i32 [0..];
        /// The transaction version: 2 for TV2 (KIP-1228), 0 if unknown.
        transaction_version: i8 [2..];
    }
}

message! {
    /// The partitions of a topic.
    pub struct WritableTxnMarkerTopic {
        /// The topic's name.
        name: String [0..];
        /// The partition numbers.
        partition_indexes: Vec<i32> [0..];
    }
}

message! {
    /// The results by marker.
    pub struct WriteTxnMarkersResponse {
        /// The results by marker.
        markers: Vec<WritableTxnMarkerResult> [0..];
    }
}

message! {
    /// The results of a marker.
    pub struct WritableTxnMarkerResult {
        /// The producer id.
        producer_id: i64 [0..];
        /// The results by topic.
        topics: Vec<WritableTxnMarkerTopicResult> [0..];
    }
}

message! {
    /// The results of a topic.
    pub struct WritableTxnMarkerTopicResult {
        /// The topic's name.
        name: String [0..];
        /// The results by partition.
        partitions: Vec<WritableTxnMarkerPartitionResult> [0..];
    }
}

message! {
    /// The result of a partition.
    pub struct WritableTxnMarkerPartitionResult {
        /// The partition number.
        partition_index: i32 [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
    }
}
