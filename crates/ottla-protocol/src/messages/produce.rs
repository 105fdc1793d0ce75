//! Produce (0): record batches for partitions, and where they were written.

use bytes::Bytes;

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(ProduceRequest => ProduceResponse, PRODUCE);

message! {
    /// Batches to append.
    pub struct ProduceRequest {
        /// Set when the batches belong to a transaction.
        transactional_id: Option<String> [3..] nullable [3..];
        /// How many replicas must have the batches before the answer: 0, 1, or −1 for all in sync.
        acks: i16 [3..];
        /// Milliseconds the broker may wait for the replicas.
        timeout_ms: i32 [3..];
        /// Batches by topic.
        topic_data: Vec<TopicProduceData> [3..];
    }
}

message! {
    /// A topic's batches.
    pub struct TopicProduceData {
        /// Its name, up to version 12.
        name: String [3..=12];
        /// Its id, from version 13 (KIP-516).
        topic_id: Uuid [13..];
        /// Batches by partition.
        partition_data: Vec<PartitionProduceData> [3..];
    }
}

message! {
    /// A partition's batch.
    pub struct PartitionProduceData {
        /// The partition.
        index: i32 [3..];
        /// The record batch.
        records: Option<Bytes> [3..] nullable [3..];
    }
}

message! {
    /// What became of each batch.
    pub struct ProduceResponse {
        /// By topic.
        responses: Vec<TopicProduceResponse> [3..];
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [3..];
        /// Addresses of the leaders named in `current_leader` (KIP-951).
        node_endpoints: Vec<ProduceNodeEndpoint> [10..] tag 0;
    }
}

message! {
    /// A topic's results.
    pub struct TopicProduceResponse {
        /// Its name, up to version 12.
        name: String [3..=12];
        /// Its id, from version 13.
        topic_id: Uuid [13..];
        /// By partition.
        partition_responses: Vec<PartitionProduceResponse> [3..];
    }
}

message! {
    /// A partition's result.
    pub struct PartitionProduceResponse {
        /// The partition.
        index: i32 [3..];
        /// Error code, 0 for none.
        error_code: i16 [3..];
        /// The offset of the batch's first record; −1 when unknown.
        base_offset: i64 [3..];
        /// Milliseconds since the epoch when the topic takes log-append time, else −1.
        log_append_time_ms: i64 [3..] = -1;
        /// The first offset the log still has.
        log_start_offset: i64 [5..] = -1;
        /// Records at fault (KIP-467).
        record_errors: Vec<BatchIndexAndErrorMessage> [8..];
        /// What the broker says about the error.
        error_message: Option<String> [8..] nullable [8..];
        /// The leader the client should have asked (KIP-951).
        current_leader: ProduceLeaderIdAndEpoch [10..] tag 0;
    }
}

message! {
    /// A record at fault.
    pub struct BatchIndexAndErrorMessage {
        /// Its place in the batch.
        batch_index: i32 [8..];
        /// What is wrong with it.
        batch_index_error_message: Option<String> [8..] nullable [8..];
    }
}

message! {
    /// A partition's leader.
    pub struct ProduceLeaderIdAndEpoch {
        /// Its node id, −1 when unknown.
        leader_id: i32 [10..] = -1;
        /// Its epoch, −1 when unknown.
        leader_epoch: i32 [10..] = -1;
    }
}

message! {
    /// Where a node listens.
    pub struct ProduceNodeEndpoint {
        /// The node.
        node_id: i32 [10..];
        /// Its host.
        host: String [10..];
        /// Its port.
        port: i32 [10..];
        /// Its rack.
        rack: Option<String> [10..] nullable [10..];
    }
}
